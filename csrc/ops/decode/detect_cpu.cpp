// SPDX-License-Identifier: Apache-2.0
// CPU path of candidates: units of all images are collected in threads, then each image is suppressed or listed.
#include <algorithm>
#include <cstring>
#include <functional>

#include "core/parallel.h"
#include "core/suppression.h"
#include "ops/decode/decode.h"
#include "ops/decode/decode_collect.h"

namespace fastdet {
namespace {

// Workspace of one image. `spare` is a second list of keys where the candidates are listed and not all may fit.
struct Layout {
  explicit Layout(const DetectParams& p)
      : units(collect_units(p.maps)),
        anchors(p.maps.anchors),
        keys(p.rule().candidates()),
        spare(p.suppress || keys <= p.max_candidates ? 0 : keys),
        kept(p.suppress ? std::min(p.max_det, p.rule().selected()) : 0) {}

  std::size_t bytes() const {
    const auto padded = [](std::int64_t n) { return static_cast<std::size_t>(Carver::padded(n)); };
    return padded(keys) * 8 + padded(spare) * 8 + padded(units) * 8 + padded(anchors) * (16 + 4) +
           padded(kept) * (8 + Carver::kKeptBytes);
  }

  std::int64_t units, anchors, keys, spare, kept;
};

struct Slices {
  Slices(const Layout& layout, char* memory) {
    Carver carver(memory);
    carver.take(&keys, layout.keys);
    carver.take(&spare, layout.spare);
    carver.take(&counts, layout.units);
    carver.take(&boxes, layout.anchors);
    carver.take(&labels, layout.anchors);
    carver.take(&kept_keys, layout.kept);
    carver.take(&kept, layout.kept);
  }

  std::uint64_t *keys, *spare, *kept_keys;
  std::int64_t* counts;
  Box* boxes;
  std::int32_t* labels;
  KeptList kept;
};

// Each unit's keys start where its first anchor's would; moves them together and returns how many there are.
std::int64_t join_units(const DetectParams& p, const Slices& slices, std::int64_t units) {
  const std::int64_t columns = p.multi_label ? p.maps.classes : 1;
  std::int64_t count = 0;
  for (std::int64_t u = 0; u < units; ++u) {
    const std::uint64_t* from = slices.keys + first_anchor(p.maps, collect_unit(p.maps, u)) * columns;
    std::memmove(slices.keys + count, from, static_cast<std::size_t>(slices.counts[u]) * sizeof(*from));
    count += slices.counts[u];
  }
  return count;
}

// Lists the candidates in the order of their numbers, the best max_candidates of them.
void list(const DetectParams& p, const CandidateRule& rule, std::int64_t image, const Slices& slices, std::int64_t count) {
  std::uint64_t least = 0;  // keys are distinct
  if (count > p.max_candidates) {
    std::copy(slices.keys, slices.keys + count, slices.spare);
    select_best(slices.spare, count, p.max_candidates);
    least = p.max_candidates > 0 ? *std::min_element(slices.spare, slices.spare + p.max_candidates) : ~std::uint64_t{0};
  }
  const auto by_number = [](std::uint64_t a, std::uint64_t b) { return candidate_number(a) < candidate_number(b); };
  if (!std::is_sorted(slices.keys, slices.keys + count, by_number)) std::sort(slices.keys, slices.keys + count, by_number);
  std::int64_t d = 0;
  for (std::int64_t i = 0; i < count && p.max_candidates > 0; ++i) {
    const std::uint64_t key = slices.keys[i];
    if (key < least) continue;
    const std::int64_t number = candidate_number(key), anchor = rule.anchor_of(number);
    p.out.write(image * p.max_det + d++, slices.boxes[anchor], candidate_score(key), rule.label_of(number, slices.labels),
                anchor);
  }
  p.out.count.as<std::int32_t>()[image] = static_cast<std::int32_t>(d);
  for (; d < p.max_det; ++d) p.out.clear(image * p.max_det + d);
}

void finish(const DetectParams& p, const CandidateRule& rule, std::int64_t image, const Layout& layout, Slices slices) {
  const std::int64_t count = join_units(p, slices, layout.units);
  if (!p.suppress) {
    list(p, rule, image, slices, count);
    return;
  }
  TensorView boxes;  // [1, A, 4] of this image, in the place of [B, A, 4]
  boxes.data = slices.boxes;
  boxes.stride[1] = 4;
  boxes.stride[2] = 1;
  Walk walk(rule, boxes, image, slices.labels, slices.kept, slices.kept_keys);
  walk.visit_best(slices.keys, count);
  walk.write(p.out);
}

}  // namespace

std::size_t detect_cpu_workspace_bytes(const DetectParams& p) {
  return static_cast<std::size_t>(p.maps.images) * Layout(p).bytes();
}

void detect_cpu(const DetectParams& p) {
  const Layout layout(p);
  const CandidateRule rule = p.rule();
  const CollectRule collecting{least_logit(p.score_threshold), threshold_key(p.score_threshold), p.multi_label};
  const auto slices_of = [&](std::int64_t image) {
    return Slices(layout, static_cast<char*>(p.workspace) + image * static_cast<std::int64_t>(layout.bytes()));
  };
  const std::int64_t columns = p.multi_label ? p.maps.classes : 1;
  parallel_for(p.maps.images * layout.units, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / layout.units;
      const CollectUnit unit = collect_unit(p.maps, i % layout.units);
      const Slices slices = slices_of(image);
      std::uint64_t* keys = slices.keys + first_anchor(p.maps, unit) * columns;
      slices.counts[i % layout.units] = collect(p.maps, collecting, image, unit, keys, slices.boxes, slices.labels);
    }
  });
  parallel_for(p.maps.images, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t image = begin; image < end; ++image) finish(p, rule, image, layout, slices_of(image));
  });
}

}  // namespace fastdet
