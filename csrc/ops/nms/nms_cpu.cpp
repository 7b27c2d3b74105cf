// SPDX-License-Identifier: Apache-2.0
// CPU path: collects the candidates of an image, core/suppression.h walks them; O(N) memory.
#include <algorithm>
#include <functional>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/score_columns.h"
#include "core/suppression.h"
#include "ops/nms/nms.h"
#include "ops/nms/nms_math.h"

namespace fastdet {
namespace {

// Workspace of one image, in this order.
struct Layout {
  explicit Layout(const NmsParams& p) : keys(p.candidates() + 1), labels(p.anchors()), kept(std::min(p.max_det, p.selected())) {}

  std::size_t bytes() const {
    const auto padded = [](std::int64_t n) { return static_cast<std::size_t>(Carver::padded(n)); };
    return padded(keys) * 8 + padded(labels) * 4 + padded(kept) * (8 + Carver::kKeptBytes);
  }

  std::int64_t keys, labels, kept;
};

struct Slices {
  Slices(const Layout& layout, char* memory) {
    Carver carver(memory);
    carver.take(&keys, layout.keys);
    carver.take(&kept_keys, layout.kept);
    carver.take(&labels, layout.labels);
    carver.take(&kept, layout.kept);
  }

  std::uint64_t *keys, *kept_keys;
  std::int32_t* labels;
  KeptList kept;
};

std::int64_t collect(const NmsParams& p, const CandidateRule& rule, std::int64_t image, const Slices& slices) {
  dispatch_float(p.boxes.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* first = p.boxes.as<const T>() + image * p.boxes.stride[0];
    for (std::int64_t n = 0; n < p.anchors(); ++n) {
      slices.labels[n] = box_finite(load_box(first + n * p.boxes.stride[1], p.boxes.stride[2])) ? 1 : 0;
    }
  });
  return collect_candidates(rule, p.scores, image, p.score_threshold, slices.keys, slices.labels);
}

void suppress_image(const NmsParams& p, const CandidateRule& rule, std::int64_t image, char* memory) {
  Slices slices(Layout(p), memory);
  const std::int64_t count = collect(p, rule, image, slices);
  Walk walk(rule, p.boxes, image, slices.labels, slices.kept, slices.kept_keys);
  walk.visit_best(slices.keys, count);
  walk.write(p.out);
}

// Groups compete only inside themselves: each is a small problem of its own, the results are merged by key.
void suppress_groups(const NmsParams& p, char* memory) {
  Slices slices(Layout(p), memory);
  const CandidateRule rule = p.rule();
  const std::int64_t count = collect(p, rule, 0, slices);
  const auto group_of = [&](std::uint64_t key) { return load_group(p.groups, 0, candidate_number(key)); };
  std::sort(slices.keys, slices.keys + count, [&](std::uint64_t a, std::uint64_t b) {
    const std::int64_t group_a = group_of(a), group_b = group_of(b);
    return group_a != group_b ? group_a < group_b : a > b;
  });
  std::int64_t total = 0;
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    const std::int64_t group = group_of(slices.keys[begin]);
    for (end = begin + 1; end < count && group_of(slices.keys[end]) == group;) ++end;
    // The walk of a group writes behind what earlier groups kept and sees only its own boxes.
    KeptList mine = slices.kept;
    for (float** field : {&mine.x1, &mine.y1, &mine.x2, &mine.y2, &mine.area}) *field += total;
    mine.label += total;
    Walk walk(rule, p.boxes, 0, slices.labels, mine, slices.kept_keys + total);
    walk.visit(slices.keys + begin, end - begin, end - begin);
    total += walk.size();
  }
  std::sort(slices.kept_keys, slices.kept_keys + total, std::greater<>());
  for (std::int64_t d = 0; d < p.max_det; ++d) {
    p.out.write(d, {}, 0.0f, -1, d < total ? static_cast<std::int64_t>(candidate_number(slices.kept_keys[d])) : -1);
  }
  p.out.count.as<std::int32_t>()[0] = static_cast<std::int32_t>(total);
}

}  // namespace

std::size_t nms_cpu_workspace_bytes(const NmsParams& p) { return static_cast<std::size_t>(p.images()) * Layout(p).bytes(); }

void nms_cpu(const NmsParams& p) {
  char* memory = static_cast<char*>(p.workspace);
  if (p.groups.data != nullptr) {
    suppress_groups(p, memory);
    return;
  }
  const CandidateRule rule = p.rule();
  const auto step = static_cast<std::int64_t>(Layout(p).bytes());
  parallel_for(p.images(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t image = begin; image < end; ++image) suppress_image(p, rule, image, memory + image * step);
  });
}

}  // namespace fastdet
