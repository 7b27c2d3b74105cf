// SPDX-License-Identifier: Apache-2.0
// CPU path: threads take blocks of kBlock pairs; the numbers of a block stand on the stack as columns, so that one loop without
// branches, compiled per instruction set, computes losses and gradients.
#include <algorithm>
#include <type_traits>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/box_iou_loss/box_iou_loss.h"
#include "ops/box_iou_loss/box_iou_loss_math.h"

namespace fastdet {
namespace aligned_iou {
namespace {

constexpr int kMaxNumbers = 5;
constexpr std::int64_t kGrain = 8;  // blocks worth waking a thread for

// Column k of a block stands at k * kBlock.
template <typename T>
struct Block {
  alignas(64) T pred[kMaxNumbers * kBlock], target[kMaxNumbers * kBlock], weight[kBlock];
  alignas(64) T loss[kBlock], grad_pred[kMaxNumbers * kBlock], grad_target[kMaxNumbers * kBlock];
};

template <IouKind K, typename T>
FD_HD void pair_loop(const IouRules& rules, T scale, Block<T>* FD_RESTRICT block) {
  using M = Measure<K, T>;
  const IouForm<T> form = iou_form<T>(rules);
  const BoxFormat format = rules.format;
  for (std::int64_t i = 0; i < kBlock; ++i) {
    T pred[M::kNumbers], target[M::kNumbers], grad_pred[M::kNumbers], grad_target[M::kNumbers];
    for (int k = 0; k < M::kNumbers; ++k) {
      pred[k] = block->pred[k * kBlock + i];
      target[k] = block->target[k * kBlock + i];
    }
    block->loss[i] = pair_loss<K>(format, form, pred, target, block->weight[i], scale, grad_pred, grad_target);
    for (int k = 0; k < M::kNumbers; ++k) {
      block->grad_pred[k * kBlock + i] = grad_pred[k];
      block->grad_target[k * kBlock + i] = grad_target[k];
    }
  }
}

template <typename T>
FD_HD void pairs_of_kind(const IouRules& rules, T scale, Block<T>* block) {
  switch (rules.kind) {
    case IouKind::kIou: return pair_loop<IouKind::kIou>(rules, scale, block);
    case IouKind::kGiou: return pair_loop<IouKind::kGiou>(rules, scale, block);
    case IouKind::kDiou: return pair_loop<IouKind::kDiou>(rules, scale, block);
    case IouKind::kCiou: return pair_loop<IouKind::kCiou>(rules, scale, block);
    case IouKind::kProb: return pair_loop<IouKind::kProb>(rules, scale, block);
  }
}

FD_TARGET_CLONES
void compute(const IouRules& rules, float scale, Block<float>* block) { pairs_of_kind(rules, scale, block); }
void compute(const IouRules& rules, double scale, Block<double>* block) { pairs_of_kind(rules, scale, block); }

// The usual rows, four floats side by side, to columns and back.
FD_TARGET_CLONES
void load_quads(std::int64_t n, const float* FD_RESTRICT rows, float* FD_RESTRICT columns) {
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t k = 0; k < 4; ++k) columns[k * kBlock + i] = rows[4 * i + k];
  }
}
FD_TARGET_CLONES
void store_quads(std::int64_t n, const float* FD_RESTRICT columns, float* FD_RESTRICT rows) {
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t k = 0; k < 4; ++k) rows[4 * i + k] = columns[k * kBlock + i];
  }
}

// Rows first .. first + n of an array as columns; rows past the end are zeros, boxes without area.
template <typename T>
void load_columns(const TensorView& view, std::int64_t first, std::int64_t n, std::int64_t count, T* columns) {
  const std::int64_t step = view.ndim > 1 ? view.stride[1] : 0;
  dispatch_float_or_double(view.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    const Stored* from = view.as<const Stored>() + first * view.stride[0];
    if constexpr (std::is_same_v<Stored, float> && std::is_same_v<T, float>) {
      if (count == 4 && step == 1 && view.stride[0] == 4) return load_quads(n, from, columns);
    }
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t k = 0; k < count; ++k)
        columns[k * kBlock + i] = static_cast<T>(widen(from[i * view.stride[0] + k * step]));
    }
  });
  for (std::int64_t k = 0; k < count; ++k) std::fill(columns + k * kBlock + n, columns + (k + 1) * kBlock, T{0});
}

template <typename T>
void store_rows(const T* columns, std::int64_t n, std::int64_t count, T* rows) {
  if constexpr (std::is_same_v<T, float>) {
    if (count == 4) return store_quads(n, columns, rows);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t k = 0; k < count; ++k) rows[i * count + k] = columns[k * kBlock + i];
  }
}

double halve(double* sums) {
  for (std::int64_t half = kBlock / 2; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) sums[l] += sums[l + half];
  }
  return sums[0];
}

template <typename T>
void run(const BoxIouLossParams& p) {
  const std::int64_t n = p.pairs(), blocks = ceil_div(n, kBlock), count = p.rules.coordinates();
  const bool mean = p.reduction == Reduction::kMean;
  const T scale = gradient_scale<T>(mean, n);
  double* block_sums = static_cast<double*>(p.workspace);
  parallel_for(blocks, kGrain, [&](std::int64_t begin, std::int64_t end) {
    Block<T> block;
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t first = b * kBlock, size = std::min(kBlock, n - first);
      load_columns(p.pred, first, size, count, block.pred);
      load_columns(p.target, first, size, count, block.target);
      if (p.weight.data != nullptr) {
        load_columns(p.weight, first, size, 1, block.weight);
      } else {
        std::fill(block.weight, block.weight + kBlock, T{1});
      }
      compute(p.rules, scale, &block);
      if (p.grad_pred != nullptr) store_rows(block.grad_pred, size, count, static_cast<T*>(p.grad_pred) + first * count);
      if (p.grad_target != nullptr) store_rows(block.grad_target, size, count, static_cast<T*>(p.grad_target) + first * count);
      if (p.reduction == Reduction::kNone) {
        std::copy(block.loss, block.loss + size, static_cast<T*>(p.loss) + first);
        continue;
      }
      double sums[kBlock] = {};
      for (std::int64_t i = 0; i < size; ++i) sums[i] = static_cast<double>(block.loss[i]);
      block_sums[b] = halve(sums);
    }
  });
  if (p.reduction == Reduction::kNone) return;
  double lanes[kBlock] = {};
  for (std::int64_t b = 0; b < blocks; ++b) lanes[b % kBlock] += block_sums[b];
  *static_cast<T*>(p.loss) = static_cast<T>(reduced_loss(halve(lanes), mean, n));
}

template <typename T>
void multiply(const TensorView& grad_loss, const TensorView& kept, T* out) {
  const T* factor = grad_loss.as<const T>();
  const T* from = kept.as<const T>();
  const std::int64_t count = kept.shape[1], step = grad_loss.ndim == 0 ? 0 : grad_loss.stride[0];
  if (grad_loss.ndim == 0 && kept.contiguous()) {
    parallel_for(kept.numel(), 65536, [&](std::int64_t begin, std::int64_t end) {
      const T by = *factor;
      for (std::int64_t i = begin; i < end; ++i) out[i] = by * from[i];
    });
    return;
  }
  parallel_for(kept.shape[0], 16384, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t k = 0; k < count; ++k) {
        out[i * count + k] = factor[i * step] * from[i * kept.stride[0] + k * kept.stride[1]];
      }
    }
  });
}

template <typename T>
void run_backward(const BoxIouLossBackwardParams& p) {
  if (p.kept_pred.shape[0] > 0) multiply(p.grad_loss, p.kept_pred, static_cast<T*>(p.grad_pred));
  if (p.kept_target.shape[0] > 0) multiply(p.grad_loss, p.kept_target, static_cast<T*>(p.grad_target));
}

}  // namespace
}  // namespace aligned_iou

void box_iou_loss_cpu(const BoxIouLossParams& p) {
  p.dtype() == DType::kFloat64 ? aligned_iou::run<double>(p) : aligned_iou::run<float>(p);
}

void box_iou_loss_backward_cpu(const BoxIouLossBackwardParams& p) {
  p.grad_loss.dtype == DType::kFloat64 ? aligned_iou::run_backward<double>(p) : aligned_iou::run_backward<float>(p);
}

}  // namespace fastdet
