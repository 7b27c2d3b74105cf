// SPDX-License-Identifier: Apache-2.0
// Runs of numbers that stay in the first cache: loaded, finished, stored, in one sweep where they are dense float32. Where all
// arrays have dense planes a run crosses rows; where all have dense pixels, channels innermost, it holds whole pixels and a bias
// for each number.
#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "ops/rep_conv/rep_conv.h"
#include "ops/rep_conv/rep_conv_rows.h"

namespace fastdet {
namespace rep_conv {
namespace {

constexpr std::int64_t kRun = 2048;  // numbers
constexpr std::int64_t kRunsPerPiece = 8;

// Calls test(view) for x, the result and the residual, if there is one.
template <typename Test>
bool all_arrays(const BiasActParams& p, Test&& test) {
  return test(p.x) && test(p.out) && (!p.epilogue.has_residual() || test(p.epilogue.residual));
}

bool pixel_by_pixel(const TensorView& view) {
  const std::int64_t *n = view.shape, *s = view.stride;
  const std::int64_t pixel = n[1], row = n[3] * pixel, picture = n[2] * row;
  return s[1] == 1 && (n[3] == 1 || s[3] == pixel) && (n[2] == 1 || s[2] == row) && (n[0] == 1 || s[0] == picture);
}

bool dense_planes(const TensorView& view) { return view.stride[2] == view.shape[3] * view.stride[3]; }

void load_biases(const Epilogue& e, std::int64_t channels, float* biases) {
  std::fill_n(biases, channels, 0.0f);
  if (e.has_bias()) load_block(e.bias, {0, 1, 0, channels, e.bias.stride[0]}, biases, 0);
}

// Whether a run is used where it lies: what is float32 in memory needs no copy.
bool in_place(const TensorView& view, std::int64_t step) { return view.dtype == DType::kFloat32 && step == 1; }

// Finishes `count` numbers from `first`, which gives the place in an array; `step` the way to the next.
template <typename First, typename Step, typename Finish>
void finish_run(const BiasActParams& p, std::int64_t count, const First& first, const Step& step, float* memory,
                const Finish& finish) {
  const auto block = [&](const TensorView& view) { return Block{first(view), 1, 0, count, step(view)}; };
  const auto loaded = [&](const TensorView& view, float* copy) -> const float* {
    if (in_place(view, step(view))) return view.as<const float>() + first(view);
    load_block(view, block(view), copy, 0);
    return copy;
  };
  const Epilogue& e = p.epilogue;
  const float* const in = loaded(p.x, memory);
  const float* const added = e.has_residual() ? loaded(e.residual, memory + count) : nullptr;
  const bool direct = in_place(p.out, step(p.out));
  float* const out = direct ? p.out.as<float>() + first(p.out) : memory;
  finish(e.add_first ? added : nullptr, e.add_first ? nullptr : added, in, out);
  if (!direct) store_block(p.out, block(p.out), out, 0);
}

void by_pixels(const BiasActParams& p) {
  const std::int64_t channels = p.x.shape[1], pixels = p.x.numel() / channels;
  const std::int64_t of_run = std::max<std::int64_t>(1, kRun / channels), runs = ceil_div(pixels, of_run);
  parallel_for(runs, kRunsPerPiece, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> memory(static_cast<std::size_t>(3 * of_run * channels));
    float* const biases = memory.data() + 2 * of_run * channels;
    load_biases(p.epilogue, channels, biases);
    for (std::int64_t i = channels; i < of_run * channels; ++i) biases[i] = biases[i - channels];
    for (std::int64_t run = begin; run < end; ++run) {
      const std::int64_t at = run * of_run * channels, count = std::min(of_run, pixels - run * of_run) * channels;
      finish_run(
          p, count, [&](const TensorView&) { return at; }, [](const TensorView&) { return std::int64_t{1}; }, memory.data(),
          [&](const float* before, const float* after, const float* in, float* out) {
            finish_each(p.epilogue.activation, biases, before, after, in, out, count);
          });
    }
  });
}

void by_planes(const BiasActParams& p) {
  const std::int64_t channels = p.x.shape[1], height = p.x.shape[2];
  const bool dense = all_arrays(p, dense_planes);
  const std::int64_t rows = dense ? 1 : height, width = p.x.shape[3] * (dense ? height : 1);  // of a plane
  const std::int64_t of_run = std::min(kRun, width), runs = ceil_div(width, of_run);
  std::vector<float> biases(static_cast<std::size_t>(channels));
  load_biases(p.epilogue, channels, biases.data());
  parallel_for(
      p.x.shape[0] * channels * rows * runs, ceil_div(kRunsPerPiece * kRun, of_run), [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> memory(static_cast<std::size_t>(2 * of_run));
        for (std::int64_t item = begin; item < end; ++item) {
          const std::int64_t from = item % runs * of_run, row = item / runs % rows, plane = item / runs / rows;
          const std::int64_t channel = plane % channels, count = std::min(of_run, width - from);
          const auto first = [&](const TensorView& view) {
            return plane / channels * view.stride[0] + channel * view.stride[1] + row * view.stride[2] + from * view.stride[3];
          };
          finish_run(
              p, count, first, [](const TensorView& view) { return view.stride[3]; }, memory.data(),
              [&](const float* before, const float* after, const float* in, float* out) {
                finish_row(p.epilogue.activation, biases[static_cast<std::size_t>(channel)], before, after, in, out, count);
              });
        }
      });
}

}  // namespace
}  // namespace rep_conv

void bias_act_cpu(const BiasActParams& p) {
  if (p.x.numel() == 0) return;
  rep_conv::all_arrays(p, rep_conv::pixel_by_pixel) ? rep_conv::by_pixels(p) : rep_conv::by_planes(p);
}

}  // namespace fastdet
