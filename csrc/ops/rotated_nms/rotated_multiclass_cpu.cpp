// SPDX-License-Identifier: Apache-2.0
// CPU path of a batch: the best candidates of an image, sorted by class and then key, are walked class by class. Threads take
// images.
#include <algorithm>
#include <functional>

#include "core/parallel.h"
#include "core/score_columns.h"
#include "core/suppression.h"
#include "core/workspace.h"
#include "ops/rotated_nms/rotated_nms.h"
#include "ops/rotated_nms/rotated_nms_walk.h"

namespace fastdet {
namespace {

// Workspace of one image.
struct Slices {
  Slices(const RotatedMulticlassParams& p, const CandidateRule& rule, void* base)
      : memory(base), walk(p, rule.selected(), std::min(rule.selected(), rule.max_det), &memory) {
    memory.take(&keys, rule.candidates() + 1);
    memory.take(&labels, rule.anchors);
  }
  Workspace memory;
  RotatedWalk walk;
  std::uint64_t* keys;
  std::int32_t* labels;
};

struct ImageRun {
  const RotatedMulticlassParams& p;
  CandidateRule rule;
  std::int64_t image;
  Slices s;

  std::int32_t label_of(std::uint64_t key) const { return rule.label_of(candidate_number(key), s.labels); }
  std::int64_t anchor_of(std::uint64_t key) const { return rule.anchor_of(candidate_number(key)); }
  void row(std::int64_t anchor, float (&numbers)[5]) const { rotated_row(p.boxes, image, anchor, numbers); }

  // The best candidates, in order; returns how many.
  std::int64_t collect() const {
    for (std::int64_t n = 0; n < rule.anchors; ++n) {
      float numbers[5];
      row(n, numbers);
      s.labels[n] = rotated_usable(numbers) ? 1 : 0;
    }
    const std::int64_t count = collect_candidates(rule, p.scores, image, p.score_threshold, s.keys, s.labels);
    const std::int64_t taken = std::min(count, rule.max_candidates);
    if (taken == 0) return 0;
    if (taken < count) select_best(s.keys, count, taken);
    if (rule.by_label) {
      std::sort(s.keys, s.keys + taken, [&](std::uint64_t a, std::uint64_t b) {
        const std::int32_t label_a = label_of(a), label_b = label_of(b);
        return label_a != label_b ? label_a < label_b : a > b;
      });
    } else {
      std::sort(s.keys, s.keys + taken, std::greater<>());
    }
    return taken;
  }
  void suppress() const {
    const std::int64_t count = collect();
    s.walk.prepare(s.keys, count, [&](std::uint64_t key, float (&numbers)[5]) { row(anchor_of(key), numbers); });
    for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
      end = begin + 1;
      while (end < count && (!rule.by_label || label_of(s.keys[end]) == label_of(s.keys[begin]))) ++end;
      s.walk.visit(begin, end, rule.max_det);
    }
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      if (s.walk.fallen[i] == 0) s.keys[kept++] = s.keys[i];
    }
    std::sort(s.keys, s.keys + kept, std::greater<>());
    write(std::min(kept, rule.max_det));
  }
  void write(std::int64_t kept) const {
    CandidateRows rows = p.out;
    rows.boxes.data = nullptr;
    for (std::int64_t d = 0; d < rule.max_det; ++d) {
      const std::int64_t at = image * rule.max_det + d;
      float numbers[5] = {};
      if (d < kept) {
        row(anchor_of(s.keys[d]), numbers);
        rows.write(at, {}, candidate_score(s.keys[d]), label_of(s.keys[d]), anchor_of(s.keys[d]));
      } else {
        rows.clear(at);
      }
      std::copy(numbers, numbers + 5, p.out.boxes.as<float>() + 5 * at);
    }
    rows.count.as<std::int32_t>()[image] = static_cast<std::int32_t>(kept);
  }
};

std::size_t image_bytes(const RotatedMulticlassParams& p) { return Slices(p, p.rule(), nullptr).memory.used(); }

}  // namespace

std::size_t rotated_multiclass_cpu_workspace_bytes(const RotatedMulticlassParams& p) {
  return static_cast<std::size_t>(p.images()) * image_bytes(p);
}

void rotated_multiclass_cpu(const RotatedMulticlassParams& p) {
  const CandidateRule rule = p.rule();
  const std::size_t step = image_bytes(p);
  parallel_for(p.images(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t image = begin; image < end; ++image) {
      char* memory = static_cast<char*>(p.workspace) + static_cast<std::size_t>(image) * step;
      ImageRun{p, rule, image, Slices(p, rule, memory)}.suppress();
    }
  });
}

}  // namespace fastdet
