// SPDX-License-Identifier: Apache-2.0
// CPU path: candidates sorted by group, then key, as columns; every one looks twice at the better ones of its group, in threads.
#include "core/parallel.h"
#include "core/scored_order.h"
#include "core/workspace.h"
#include "ops/matrix_nms/matrix_nms.h"
#include "ops/matrix_nms/matrix_nms_math.h"

namespace fastdet {
namespace {

constexpr std::int64_t kBlock = 32;  // better boxes asked at once whether any meets
constexpr std::int64_t kGrain = 32;  // candidates worth waking a thread for

struct Slices {
  explicit Slices(const MatrixNmsParams& p, void* base) : memory(base) {
    const std::int64_t n = p.in.count();
    memory.take(&keys, n);
    memory.take(&begin, n);
    for (float** field : {&x1, &y1, &x2, &y2, &area}) memory.take(field, n);
    memory.take(&most, n);
    memory.take(&loss, n);
  }
  Workspace memory;
  std::uint64_t* keys;
  std::int64_t* begin;  // of the candidate's group
  float *x1, *y1, *x2, *y2, *area;
  std::int32_t* most;  // bits of the greatest IoU with a better one
  std::int32_t* loss;
};

// The greatest term(iou, j) over the better boxes j of candidate i.
template <typename Term>
FD_HD std::int32_t greatest(const Slices& s, std::int64_t i, const Term& term) {
  const Box box = {s.x1[i], s.y1[i], s.x2[i], s.y2[i]};
  const float area = s.area[i];
  std::int32_t found = 0;
  const auto visit = [&](std::int64_t start, std::int64_t size) FD_INLINE_LAMBDA {
    alignas(64) float common[kBlock];
    std::int32_t any = 0;
    for (std::int64_t k = 0; k < size; ++k) {
      const std::int64_t j = start + k;
      common[k] = box_intersection(Box{s.x1[j], s.y1[j], s.x2[j], s.y2[j]}, box);
      any |= common[k] > 0.0f ? 1 : 0;
    }
    if (any == 0) return;
    for (std::int64_t k = 0; k < size; ++k) {
      const std::int32_t value = term(matrix_overlap(common[k], s.area[start + k], area), start + k);
      found = found < value ? value : found;
    }
  };
  std::int64_t start = s.begin[i];
  for (; start + kBlock <= i; start += kBlock) visit(start, kBlock);
  visit(start, i - start);
  return found;
}

FD_TARGET_CLONES void find_most(const Slices& s, std::int64_t from, std::int64_t to) {
  for (std::int64_t i = from; i < to; ++i) {
    s.most[i] = greatest(s, i, [](float iou, std::int64_t) FD_INLINE_LAMBDA { return matrix_bits(iou); });
  }
}

template <typename Decay>
FD_HD void find_losses(const Slices& s, const Decay& decay, std::int64_t from, std::int64_t to) {
  for (std::int64_t i = from; i < to; ++i) {
    s.loss[i] =
        greatest(s, i, [&](float iou, std::int64_t j) FD_INLINE_LAMBDA { return decay.loss(iou, bit_cast<float>(s.most[j])); });
  }
}
FD_TARGET_CLONES void find_linear_losses(const Slices& s, const LinearDecay& decay, std::int64_t from, std::int64_t to) {
  find_losses(s, decay, from, to);
}
FD_TARGET_CLONES void find_gaussian_losses(const Slices& s, const GaussianDecay& decay, std::int64_t from, std::int64_t to) {
  find_losses(s, decay, from, to);
}

}  // namespace

std::size_t matrix_nms_cpu_workspace_bytes(const MatrixNmsParams& p) { return Slices(p, nullptr).memory.used(); }

void matrix_nms_cpu(const MatrixNmsParams& p) {
  const Slices s(p, p.workspace);
  const std::uint32_t threshold = threshold_key(p.score_threshold);
  const std::int64_t count = order_candidates(p.in, threshold, s.keys);
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    end = end_of_group(p.in, s.keys, begin, count);
    for (std::int64_t i = begin; i < end; ++i) s.begin[i] = begin;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const Box box = p.in.box(candidate_number(s.keys[i]));
    s.x1[i] = box.x1, s.y1[i] = box.y1, s.x2[i] = box.x2, s.y2[i] = box.y2, s.area[i] = box_area(box);
  }
  const LinearDecay linear{static_cast<float>(p.sigma)};
  const GaussianDecay gaussian{static_cast<float>(p.sigma)};
  parallel_for(count, kGrain, [&](std::int64_t from, std::int64_t to) { find_most(s, from, to); });
  parallel_for(count, kGrain, [&](std::int64_t from, std::int64_t to) {
    p.gaussian ? find_gaussian_losses(s, gaussian, from, to) : find_linear_losses(s, linear, from, to);
  });
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const float factor = p.gaussian ? gaussian.factor(s.loss[i]) : linear.factor(s.loss[i]);
    const std::uint32_t key = score_key(candidate_score(s.keys[i]) * factor);
    if (key > threshold) s.keys[kept++] = candidate_key(key, candidate_number(s.keys[i]));
  }
  write_candidates(s.keys, kept, p.out);
}

}  // namespace fastdet
