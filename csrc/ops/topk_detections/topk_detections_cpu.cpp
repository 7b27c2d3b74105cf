// SPDX-License-Identifier: Apache-2.0
// CPU path: one pass finds about where the last row's value lies, a second collects what may be among the best; exponentials are
// computed for those alone, because the sigmoid never falls where its argument rises.
#include <algorithm>
#include <functional>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/suppression.h"
#include "ops/topk_detections/topk_detections.h"

namespace fastdet {
namespace {

constexpr int kBins = 4096, kShift = 20;  // a histogram of the leading bits of order keys

// Workspace of one image.
struct Layout {
  explicit Layout(const TopkParams& p) : keys(p.rule().candidates()), queries(p.multi_label ? 0 : p.rule().anchors) {}

  std::size_t bytes() const {
    const auto padded = [](std::int64_t n) { return static_cast<std::size_t>(Carver::padded(n)); };
    return padded(keys) * (8 + 4) + padded(queries) * 4;
  }

  std::int64_t keys, queries;
};

struct Slices {
  Slices(const Layout& layout, char* memory) {
    Carver carver(memory);
    carver.take(&keys, layout.keys);
    carver.take(&values, layout.keys);
    carver.take(&labels, layout.queries);
  }

  std::uint64_t* keys;
  std::uint32_t* values;  // order key of each candidate's logit, or the greatest of each query; 0 for NaN
  std::int32_t* labels;
};

// Decided on bits: comparisons of numbers that may be NaN keep compilers from vectorising.
FD_HD std::uint32_t value_key(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value + 0.0f);
  const std::uint32_t flipped = static_cast<std::uint32_t>(bit_cast<std::int32_t>(bits) >> 31) | 0x80000000u;
  return (bits & 0x7fffffffu) > 0x7f800000u ? 0u : bits ^ flipped;
}

template <typename T>
FD_HD void key_row(const T* row, std::int64_t step, std::int64_t columns, std::uint32_t* FD_RESTRICT keys) {
  if (step == 1) {
    for (std::int64_t c = 0; c < columns; ++c) keys[c] = value_key(to_float(row[c]));
  } else {
    for (std::int64_t c = 0; c < columns; ++c) keys[c] = value_key(to_float(row[c * step]));
  }
}

template <typename T>
FD_TARGET_CLONES void value_row(const T* row, std::int64_t step, std::int64_t columns, std::uint32_t* values) {
  key_row(row, step, columns, values);
}

template <typename TBox>
Box load_corners(const TopkParams& p, std::int64_t image, std::int64_t query) {
  const std::int64_t* stride = p.boxes.stride;
  float height, width;
  p.size_of(image, &height, &width);
  const TBox* row = p.boxes.as<const TBox>() + image * stride[0] + query * stride[1];
  return topk_box(load_box(row, stride[2]), p.format, height, width);
}

Box corners(const TopkParams& p, std::int64_t image, std::int64_t query) {
  return dispatch_float(p.boxes.dtype, [&](auto tag) { return load_corners<typename decltype(tag)::type>(p, image, query); });
}

// Order keys of the values of all candidates; without multi_label the greatest of each query.
template <typename T>
void read_values(const TopkParams& p, std::int64_t image, const Slices& slices) {
  const std::int64_t queries = p.logits.shape[1], columns = p.logits.shape[2];
  const T* logits = p.logits.as<const T>() + image * p.logits.stride[0];
  for (std::int64_t q = 0; q < queries; ++q) {
    const T* row = logits + q * p.logits.stride[1];
    if (p.multi_label) {
      value_row(row, p.logits.stride[2], columns, slices.values + q * columns);
      continue;
    }
    // The lowest column with the greatest score: different logits may have one score.
    std::uint32_t best = 0u, most = 0u;
    slices.labels[q] = 0;
    for (std::int64_t c = 0; c < columns; ++c) {
      const float value = to_float(row[c * p.logits.stride[2]]);
      if (value_key(value) <= most) continue;
      most = value_key(value);
      const std::uint32_t key = topk_key(value, p.sigmoid);
      if (key <= best) continue;
      best = key;
      slices.labels[q] = static_cast<std::int32_t>(c);
    }
    slices.values[q] = best == 0u ? 0u : value_key(to_float(row[slices.labels[q] * p.logits.stride[2]]));
  }
}

// The greatest value key of each query. Keys first, then their greatest: compilers do not vectorise both in one loop.
template <typename T>
FD_TARGET_CLONES void most_of_queries(const TopkParams& p, std::int64_t image, std::uint32_t* most) {
  constexpr std::int64_t kChunk = 256;
  const std::int64_t queries = p.logits.shape[1], columns = p.logits.shape[2], step = p.logits.stride[2];
  const T* logits = p.logits.as<const T>() + image * p.logits.stride[0];
  std::uint32_t keys[kChunk];
  for (std::int64_t q = 0; q < queries; ++q) {
    std::uint32_t greatest = 0u;
    for (std::int64_t begin = 0; begin < columns; begin += kChunk) {
      const std::int64_t size = std::min(kChunk, columns - begin);
      key_row(logits + q * p.logits.stride[1] + begin * step, step, size, keys);
      for (std::int64_t c = 0; c < size; ++c) greatest = keys[c] > greatest ? keys[c] : greatest;
    }
    most[q] = greatest;
  }
}

// Whether candidates are looked for in queries whose greatest value is high enough: any of the best k pairs lies in one of the
// k best queries. Worth it where there are many queries; else all values are looked at. There are as many values as candidates,
// so without classes there is no room for one of each query.
bool by_query(const TopkParams& p) { return p.multi_label && p.logits.shape[2] > 0 && p.logits.shape[1] > 4 * p.max_det; }

// Appends the candidates whose value key lies in [low, high), with boxes that are finite and scores above the threshold.
std::int64_t collect(const TopkParams& p, const CandidateRule& rule, std::int64_t image, const Slices& slices, std::uint32_t low,
                     std::uint32_t high, std::int64_t count) {
  const std::uint32_t threshold = threshold_key(p.score_threshold);
  const auto consider = [&](std::uint32_t value, std::int64_t number) {
    if (value < low || value >= high) return;
    const std::uint32_t key = topk_key(order_key_value(value), p.sigmoid);
    if (key <= threshold || !box_finite(corners(p, image, rule.anchor_of(number)))) return;
    slices.keys[count++] = candidate_key(key, static_cast<std::uint32_t>(number));
  };
  if (!by_query(p)) {
    for (std::int64_t i = 0; i < rule.candidates(); ++i) consider(slices.values[i], i);
    return count;
  }
  dispatch_float(p.logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (std::int64_t q = 0; q < rule.anchors; ++q) {
      if (slices.values[q] < low) continue;
      const T* row = p.logits.as<const T>() + image * p.logits.stride[0] + q * p.logits.stride[1];
      for (std::int64_t c = 0; c < rule.columns; ++c) {
        consider(value_key(to_float(row[c * p.logits.stride[2]])), q * rule.columns + c);
      }
    }
  });
  return count;
}

// The least value key with the score of `value`, so that candidates of one score are collected together.
std::uint32_t least_of_score(std::uint32_t value, bool sigmoid) {
  if (!sigmoid) return value;
  const std::uint32_t lowest = order_key(-bit_cast<float>(0x7f800000u));
  const float score = sigmoid_exact(order_key_value(value));
  std::uint32_t low = lowest, high = value;
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (sigmoid_exact(order_key_value(middle)) >= score) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

void topk_image(const TopkParams& p, std::int64_t image, const Slices& slices) {
  const CandidateRule rule = p.rule();
  dispatch_float(p.logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    by_query(p) ? most_of_queries<T>(p, image, slices.values) : read_values<T>(p, image, slices);
  });
  std::int32_t histogram[kBins] = {};
  const std::int64_t looked_at = by_query(p) ? rule.anchors : rule.candidates();
  for (std::int64_t i = 0; i < looked_at; ++i) ++histogram[slices.values[i] >> kShift];
  // Takes bins from the top until there are enough rows: candidates may fall for their box, then more bins are taken.
  const std::int64_t wanted = std::min(p.max_det, rule.candidates());
  std::int64_t count = 0;
  std::uint32_t high = 0xffffffffu;
  int bin = kBins;
  while (bin > 0 && count < wanted) {
    std::int64_t expected = count;
    while (bin > 0 && expected < wanted) expected += histogram[--bin];
    const auto edge = static_cast<std::uint32_t>(bin) << kShift;
    const bool last = edge <= order_key(-bit_cast<float>(0x7f800000u));
    const std::uint32_t low = last ? 1u : least_of_score(edge, p.sigmoid);
    count = collect(p, rule, image, slices, low, high, count);
    const std::uint32_t key = topk_key(order_key_value(low), p.sigmoid);
    if (last || (key != 0u && key <= threshold_key(p.score_threshold))) break;  // nothing below can pass
    high = low;
    bin = static_cast<int>(low >> kShift) + (low % (1u << kShift) != 0u ? 1 : 0);
  }
  const std::int64_t rows = std::min(count, p.max_det);
  if (rows < count) select_best(slices.keys, count, rows);
  std::sort(slices.keys, slices.keys + rows, std::greater<>());
  for (std::int64_t d = 0; d < p.max_det; ++d) {
    const std::int64_t at = image * p.max_det + d;
    if (d >= rows) {
      p.out.clear(at);
      continue;
    }
    const std::int64_t number = candidate_number(slices.keys[d]), query = rule.anchor_of(number);
    p.out.write(at, corners(p, image, query), candidate_score(slices.keys[d]), rule.label_of(number, slices.labels), query);
  }
  p.out.count.as<std::int32_t>()[image] = static_cast<std::int32_t>(rows);
}

}  // namespace

std::size_t topk_detections_cpu_workspace_bytes(const TopkParams& p) {
  return static_cast<std::size_t>(p.logits.shape[0]) * Layout(p).bytes();
}

void topk_detections_cpu(const TopkParams& p) {
  const Layout layout(p);
  parallel_for(p.logits.shape[0], 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t image = begin; image < end; ++image) {
      topk_image(p, image, Slices(layout, static_cast<char*>(p.workspace) + image * static_cast<std::int64_t>(layout.bytes())));
    }
  });
}

}  // namespace fastdet
