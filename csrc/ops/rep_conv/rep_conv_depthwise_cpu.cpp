// SPDX-License-Identifier: Apache-2.0
// A piece of work is one picture and kLanes neighbouring channels: their planes are copied, padded and widened, lanes innermost,
// so that one vector holds the same pixel of all lanes. The sum of a pixel runs over the kernel in reading order.
#include "ops/rep_conv/rep_conv_depthwise.h"

#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "ops/rep_conv/rep_conv_rows.h"

namespace fastdet::rep_conv {
namespace {

constexpr std::int64_t kLanes = 16;

struct Kernel {
  const float* taps;  // [R S][kLanes]
  std::int64_t rows, columns, stride;
};

// sums[q][lane] of one output row; `rows` points at the first of R padded input rows, `pitch` floats apart.
FD_TARGET_CLONES
void sum_row(const Kernel& kernel, const float* FD_RESTRICT rows, std::int64_t pitch, std::int64_t count,
             float* FD_RESTRICT sums) {
  for (std::int64_t q = 0; q < count; ++q) {
    float sum[kLanes] = {};
    const float* const corner = rows + q * kernel.stride * kLanes;
    const float* tap = kernel.taps;
    for (std::int64_t r = 0; r < kernel.rows; ++r) {
      const float* pixel = corner + r * pitch;
      for (std::int64_t s = 0; s < kernel.columns; ++s, pixel += kLanes, tap += kLanes)
        for (std::int64_t lane = 0; lane < kLanes; ++lane) sum[lane] = sum[lane] + tap[lane] * pixel[lane];
    }
    for (std::int64_t lane = 0; lane < kLanes; ++lane) sums[q * kLanes + lane] = sum[lane];
  }
}

}  // namespace

void depthwise(const RepConvParams& p, const float* bias, float* weight) {
  const TensorView &x = p.x, &w = p.weight, &y = p.out;
  const Epilogue& e = p.epilogue;
  const std::int64_t taps = w.shape[2] * w.shape[3], channels = w.shape[0], blocks = ceil_div(channels, kLanes);
  for (std::int64_t r = 0; r < w.shape[2]; ++r) {  // weight: [R S][O]
    load_block(w, {r * w.stride[2], w.shape[3], w.stride[3], channels, w.stride[0]}, weight + r * w.shape[3] * channels,
               channels);
  }
  const std::int64_t width = p.out_size(1), pitch = (x.shape[3] + 2 * p.padding[1]) * kLanes;
  const std::int64_t height = x.shape[2] + 2 * p.padding[0];
  parallel_for(x.shape[0] * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> planes(static_cast<std::size_t>(height * pitch)), row(static_cast<std::size_t>(width * kLanes));
    std::vector<float> mine(static_cast<std::size_t>(taps * kLanes)), line(static_cast<std::size_t>(width));
    std::vector<float> residual(static_cast<std::size_t>(width));
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t picture = item / blocks, first = item % blocks * kLanes, lanes = std::min(kLanes, channels - first);
      for (std::int64_t tap = 0; tap < taps; ++tap)
        std::copy_n(weight + tap * channels + first, lanes, mine.data() + tap * kLanes);
      for (std::int64_t row_in = 0; row_in < x.shape[2]; ++row_in) {
        const std::int64_t from = picture * x.stride[0] + first * x.stride[1] + row_in * x.stride[2];
        load_block(x, {from, x.shape[3], x.stride[3], lanes, x.stride[1]},
                   planes.data() + (row_in + p.padding[0]) * pitch + p.padding[1] * kLanes, kLanes);
      }
      for (std::int64_t out_y = 0; out_y < p.out_size(0); ++out_y) {
        sum_row({mine.data(), w.shape[2], w.shape[3], p.stride[1]}, planes.data() + out_y * p.stride[0] * pitch, pitch, width,
                row.data());
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          for (std::int64_t q = 0; q < width; ++q)
            line[static_cast<std::size_t>(q)] = row[static_cast<std::size_t>(q * kLanes + lane)];
          const std::int64_t channel = first + lane;
          const float* added = nullptr;
          if (e.has_residual()) {
            load_pixels(e.residual, picture, channel, out_y * width, width, residual.data());
            added = residual.data();
          }
          finish_row(e.activation, bias[channel], e.add_first ? added : nullptr, e.add_first ? nullptr : added, line.data(),
                     line.data(), width);
          const std::int64_t to = picture * y.stride[0] + channel * y.stride[1] + out_y * width * y.stride[3];
          store_block(y, {to, 1, 0, width, y.stride[3]}, line.data(), 0);
        }
      }
    }
  });
}

}  // namespace fastdet::rep_conv
