// SPDX-License-Identifier: Apache-2.0
// Greedy suppression on the CPU: candidates are sorted by need, in growing portions, and walked in order against the list of kept
// boxes. Knows keys and boxes, not where the scores came from.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/candidate.h"

namespace fastdet {

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

// Takes arrays out of one piece of memory, each padded to 16 elements.
class Carver {
 public:
  explicit Carver(char* memory) : memory_(memory) {}

  template <typename T>
  void take(T** array, std::int64_t count) {
    *array = reinterpret_cast<T*>(memory_);
    memory_ += padded(count) * static_cast<std::int64_t>(sizeof(T));
  }
  void take(KeptList* list, std::int64_t count) {
    take(&list->label, count);
    for (float** field : {&list->x1, &list->y1, &list->x2, &list->y2, &list->area}) take(field, count);
    list->size = 0;
  }
  static constexpr std::int64_t padded(std::int64_t count) { return (count + 15) / 16 * 16; }
  static constexpr std::int64_t kKeptBytes = 6 * 4;  // of one row of a KeptList

 private:
  char* memory_;
};

struct WalkCandidate {
  Box box;
  float area;
  std::int32_t label;
};

// One image's walk: which candidates are kept, in order.
class Walk {
 public:
  // boxes: [B, N, 4]; labels: best column of each anchor; kept, kept_keys: room for as many as will be kept.
  Walk(const CandidateRule& rule, const TensorView& boxes, std::int64_t image, const std::int32_t* labels, KeptList kept,
       std::uint64_t* kept_keys);

  // Visits keys[0 .. count), sorted; stops when `limit` boxes are kept.
  void visit(const std::uint64_t* keys, std::int64_t count, std::int64_t limit);
  // Visits the best of keys[0 .. count), which come in no order and are reordered; stops when rule.max_det boxes are kept.
  void visit_best(std::uint64_t* keys, std::int64_t count);
  // The rows of this image.
  void write(const CandidateRows& rows) const;

  std::int64_t size() const { return kept_.size; }

 private:
  bool suppressed(std::int64_t begin, std::int64_t end, const WalkCandidate& candidate) const;
  WalkCandidate load(std::uint64_t key) const;

  const CandidateRule& rule_;
  const TensorView& boxes_;
  std::int64_t image_;
  const std::int32_t* labels_;
  float threshold_;
  KeptList kept_;
  std::uint64_t* kept_keys_;
};

// Moves the `wanted` greatest keys to the front, in no order.
void select_best(std::uint64_t* keys, std::int64_t count, std::int64_t wanted);

}  // namespace fastdet
