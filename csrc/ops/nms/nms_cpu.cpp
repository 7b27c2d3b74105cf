// SPDX-License-Identifier: Apache-2.0
// CPU path: candidates are sorted by need, in growing portions, and walked in order against the list of kept boxes; O(N) memory.
#include <algorithm>
#include <cstring>
#include <functional>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/nms/nms.h"
#include "ops/nms/nms_math.h"
#include "ops/nms/nms_select.h"

namespace fastdet {
namespace {

// The kept boxes, one array per field so that a candidate is tested against many at once.
struct KeptList {
  float *x1, *y1, *x2, *y2, *area;
  std::int32_t* label;
  std::int64_t size;

  void append(const Box& box, float box_size, std::int32_t box_label) {
    x1[size] = box.x1;
    y1[size] = box.y1;
    x2[size] = box.x2;
    y2[size] = box.y2;
    area[size] = box_size;
    label[size] = box_label;
    ++size;
  }
};

struct Candidate {
  Box box;
  float area;
  std::int32_t label;
};

// Whether a kept box in [begin, end) suppresses the candidate. Blocks end early, their inside is branch-free.
template <bool kCompareLabels>
FD_HD bool suppressed_by(const KeptList& kept, std::int64_t begin, std::int64_t end, const Candidate& c, float threshold) {
  constexpr std::int64_t kBlock = 128;
  const Box box = c.box;
  const float area = c.area;
  const std::int32_t label = c.label;
  for (std::int64_t start = begin; start < end; start += kBlock) {
    const std::int64_t stop = start + kBlock < end ? start + kBlock : end;
    std::int32_t hits = 0;
    for (std::int64_t i = start; i < stop; ++i) {
      const Box other{kept.x1[i], kept.y1[i], kept.x2[i], kept.y2[i]};
      const std::int32_t hit = suppresses(other, kept.area[i], box, area, threshold) ? 1 : 0;
      hits |= kCompareLabels ? hit & (kept.label[i] == label ? 1 : 0) : hit;
    }
    if (hits != 0) return true;
  }
  return false;
}

FD_TARGET_CLONES bool suppressed_any(const KeptList& kept, std::int64_t begin, std::int64_t end, const Candidate& c,
                                     float threshold) {
  return suppressed_by<false>(kept, begin, end, c, threshold);
}

FD_TARGET_CLONES bool suppressed_same_label(const KeptList& kept, std::int64_t begin, std::int64_t end, const Candidate& c,
                                            float threshold) {
  return suppressed_by<true>(kept, begin, end, c, threshold);
}

// One image's walk: which candidates are kept, in order.
class Walk {
 public:
  Walk(const NmsParams& params, std::int64_t image, const std::int32_t* labels, KeptList kept, std::uint64_t* kept_keys)
      : params_(params),
        image_(image),
        labels_(labels),
        threshold_(round_down(params.iou_threshold)),
        compare_labels_(!params.class_agnostic && params.groups.data == nullptr && params.columns() > 1),
        kept_(kept),
        kept_keys_(kept_keys) {}

  // Visits keys[0 .. count), sorted; stops when `limit` boxes are kept.
  void visit(const std::uint64_t* keys, std::int64_t count, std::int64_t limit) {
    // Against boxes kept before a chunk the candidates of the chunk are independent: worth threads when the list is long.
    constexpr std::int64_t kChunk = 256;
    Candidate chunk[kChunk];
    bool fallen[kChunk];
    for (std::int64_t begin = 0; begin < count && kept_.size < limit; begin += kChunk) {
      const std::int64_t size = std::min(kChunk, count - begin);
      const std::int64_t before = kept_.size;
      parallel_for(size, before > 2048 ? 16 : size, [&](std::int64_t from, std::int64_t to) {
        for (std::int64_t i = from; i < to; ++i) {
          chunk[i] = load(keys[begin + i]);
          fallen[i] = suppressed(0, before, chunk[i]);
        }
      });
      for (std::int64_t i = 0; i < size && kept_.size < limit; ++i) {
        if (fallen[i] || suppressed(before, kept_.size, chunk[i])) continue;
        kept_keys_[kept_.size] = keys[begin + i];
        kept_.append(chunk[i].box, chunk[i].area, chunk[i].label);
      }
    }
  }

  std::int64_t size() const { return kept_.size; }
  const KeptList& kept() const { return kept_; }

 private:
  bool suppressed(std::int64_t begin, std::int64_t end, const Candidate& candidate) const {
    return compare_labels_ ? suppressed_same_label(kept_, begin, end, candidate, threshold_)
                           : suppressed_any(kept_, begin, end, candidate, threshold_);
  }

  Candidate load(std::uint64_t key) const {
    const std::int64_t number = candidate_number(key);
    const std::int64_t anchor = params_.multi_label ? number / params_.columns() : number;
    const TensorView& boxes = params_.boxes;
    const std::int64_t at = image_ * boxes.stride[0] + anchor * boxes.stride[1];
    Candidate candidate;
    candidate.box = dispatch_float(boxes.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      return load_box(boxes.as<const T>() + at, boxes.stride[2]);
    });
    candidate.area = box_area(candidate.box);
    candidate.label = params_.multi_label ? static_cast<std::int32_t>(number % params_.columns()) : labels_[anchor];
    return candidate;
  }

  const NmsParams& params_;
  std::int64_t image_;
  const std::int32_t* labels_;
  float threshold_;
  bool compare_labels_;
  KeptList kept_;
  std::uint64_t* kept_keys_;
};

// Workspace of one image, in this order.
struct Layout {
  explicit Layout(const NmsParams& p) : keys(p.candidates() + 1), labels(p.anchors()), kept(std::min(p.max_det, p.selected())) {}

  std::size_t bytes() const {
    const auto padded = [](std::int64_t n) { return static_cast<std::size_t>((n + 15) / 16 * 16); };
    return padded(keys) * 8 + padded(labels) * 4 + padded(kept) * (8 + 6 * 4);
  }

  std::int64_t keys, labels, kept;
};

struct Slices {
  Slices(const Layout& layout, char* memory) {
    const auto take = [&memory](auto** pointer, std::int64_t count) {
      *pointer = reinterpret_cast<std::remove_reference_t<decltype(*pointer)>>(memory);
      memory += static_cast<std::size_t>((count + 15) / 16 * 16) * sizeof(**pointer);
    };
    take(&keys, layout.keys);
    take(&kept_keys, layout.kept);
    take(&labels, layout.labels);
    take(&kept.label, layout.kept);
    take(&kept.x1, layout.kept);
    take(&kept.y1, layout.kept);
    take(&kept.x2, layout.kept);
    take(&kept.y2, layout.kept);
    take(&kept.area, layout.kept);
    kept.size = 0;
  }

  std::uint64_t *keys, *kept_keys;
  std::int32_t* labels;
  KeptList kept;
};

void write_index(const TensorView& index, std::int64_t at, std::int64_t value) {
  if (index.dtype == DType::kInt32) {
    index.as<std::int32_t>()[at] = static_cast<std::int32_t>(value);
  } else {
    index.as<std::int64_t>()[at] = value;
  }
}

void write_image(const NmsParams& p, std::int64_t image, const Walk& walk, const std::uint64_t* kept_keys) {
  const KeptList& kept = walk.kept();
  for (std::int64_t d = 0; d < p.max_det; ++d) {
    const std::int64_t at = image * p.max_det + d;
    const bool filled = d < kept.size;
    const std::int64_t number = filled ? static_cast<std::int64_t>(candidate_number(kept_keys[d])) : 0;
    if (p.out_boxes.data != nullptr) {
      const Box box = filled ? Box{kept.x1[d], kept.y1[d], kept.x2[d], kept.y2[d]} : Box{0, 0, 0, 0};
      std::memcpy(p.out_boxes.as<float>() + 4 * at, &box, sizeof(box));
    }
    if (p.out_scores.data != nullptr) p.out_scores.as<float>()[at] = filled ? candidate_score(kept_keys[d]) : 0.0f;
    if (p.out_labels.data != nullptr) p.out_labels.as<std::int32_t>()[at] = filled ? kept.label[d] : -1;
    write_index(p.out_index, at, filled ? (p.multi_label ? number / p.columns() : number) : -1);
  }
  p.out_count.as<std::int32_t>()[image] = static_cast<std::int32_t>(kept.size);
}

// Moves the `wanted` greatest keys to the front. A histogram of the leading bits finds roughly where they end, one sweep without
// branches brings those forward, and only the last bin is left to a selection proper.
void select_best(std::uint64_t* keys, std::int64_t count, std::int64_t wanted) {
  constexpr int kShift = 52, kBins = 1 << (64 - kShift);
  std::int32_t histogram[kBins] = {};
  for (std::int64_t i = 0; i < count; ++i) ++histogram[keys[i] >> kShift];
  std::int64_t reached = 0;
  std::uint64_t bin = kBins;
  while (reached < wanted) reached += histogram[--bin];
  const std::uint64_t least = bin << kShift;
  std::int64_t front = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t key = keys[i];
    keys[i] = keys[front];
    keys[front] = key;
    front += key >= least ? 1 : 0;
  }
  std::nth_element(keys, keys + wanted, keys + front, std::greater<>());
}

// Sorts only as many of the best candidates as the walk turns out to need.
void walk_portions(const NmsParams& p, std::uint64_t* keys, std::int64_t count, Walk* walk) {
  constexpr std::int64_t kFirst = 2048;
  const std::int64_t taken = std::min(count, p.max_candidates);
  std::int64_t done = 0;
  for (std::int64_t portion = std::max(kFirst, 4 * p.max_det); done < taken && walk->size() < p.max_det; portion *= 4) {
    const std::int64_t end = std::min(taken, done + portion);
    if (end < count) select_best(keys + done, count - done, end - done);
    std::sort(keys + done, keys + end, std::greater<>());
    walk->visit(keys + done, end - done, p.max_det);
    done = end;
  }
}

void suppress_image(const NmsParams& p, std::int64_t image, char* memory) {
  Slices slices(Layout(p), memory);
  const std::int64_t count = nms_collect(p, image, slices.keys, slices.labels);
  Walk walk(p, image, slices.labels, slices.kept, slices.kept_keys);
  walk_portions(p, slices.keys, count, &walk);
  write_image(p, image, walk, slices.kept_keys);
}

// Groups compete only inside themselves: each is a small problem of its own, the results are merged by key.
void suppress_groups(const NmsParams& p, char* memory) {
  Slices slices(Layout(p), memory);
  const std::int64_t count = nms_collect(p, 0, slices.keys, slices.labels);
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
    Walk walk(p, 0, slices.labels, mine, slices.kept_keys + total);
    walk.visit(slices.keys + begin, end - begin, end - begin);
    total += walk.size();
  }
  std::sort(slices.kept_keys, slices.kept_keys + total, std::greater<>());
  for (std::int64_t d = 0; d < p.max_det; ++d) {
    write_index(p.out_index, d, d < total ? static_cast<std::int64_t>(candidate_number(slices.kept_keys[d])) : -1);
  }
  p.out_count.as<std::int32_t>()[0] = static_cast<std::int32_t>(total);
}

}  // namespace

std::size_t nms_cpu_workspace_bytes(const NmsParams& p) { return static_cast<std::size_t>(p.images()) * Layout(p).bytes(); }

void nms_cpu(const NmsParams& p) {
  char* memory = static_cast<char*>(p.workspace);
  if (p.groups.data != nullptr) {
    suppress_groups(p, memory);
    return;
  }
  const auto step = static_cast<std::int64_t>(Layout(p).bytes());
  parallel_for(p.images(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t image = begin; image < end; ++image) suppress_image(p, image, memory + image * step);
  });
}

}  // namespace fastdet
