// SPDX-License-Identifier: Apache-2.0
#include "ops/box_iou/box_iou_columns.h"

namespace fastdet::pairwise_iou {
namespace {

// Loops as types, so that one switch over kinds serves all of them; everything is inlined into the callers, which are clones.
struct Prepare {
  template <IouKind K, typename T>
  FD_HD static void run(const IouRules& rules, std::int64_t n, const T* FD_RESTRICT numbers, T* FD_RESTRICT columns) {
    using M = Measure<K, T>;
    const IouForm<T> form = iou_form<T>(rules);
    const BoxFormat format = rules.format;
    for (std::int64_t i = 0; i < n; ++i) {
      T row[M::kNumbers];
      for (int k = 0; k < M::kNumbers; ++k) row[k] = numbers[k * kTile + i];
      M::put(M::item(format, row, form), columns, kTile, i);
    }
  }
};

struct Values {
  template <IouKind K, typename T>
  FD_HD static void run(const IouRules& rules, const T* rows, std::int64_t row, std::int64_t n, const T* FD_RESTRICT columns,
                        T* FD_RESTRICT out) {
    using M = Measure<K, T>;
    const IouForm<T> form = iou_form<T>(rules);
    const typename M::Item item = M::at(rows, kTile, row);
    for (std::int64_t j = 0; j < n; ++j) out[j] = M::value(item, M::at(columns, kTile, j), form);
  }
};

struct AddToRow {
  template <IouKind K, typename T>
  FD_HD static void run(const IouRules& rules, const T* rows, std::int64_t row, std::int64_t n, const T* FD_RESTRICT columns,
                        const T* FD_RESTRICT grad, T* FD_RESTRICT sums) {
    using M = Measure<K, T>;
    const IouForm<T> form = iou_form<T>(rules);
    const BoxFormat format = rules.format;
    const typename M::Item item = M::at(rows, kTile, row);
    T lanes[M::kNumbers][kLanes] = {};
    for (std::int64_t j = 0; j < n; j += kLanes) {
      for (std::int64_t l = 0; l < kLanes; ++l) {
        T ours[M::kNumbers], theirs[M::kNumbers];
        M::gradient(format, item, M::at(columns, kTile, j + l), form, ours, theirs);
        for (int k = 0; k < M::kNumbers; ++k) lanes[k][l] += grad[j + l] * ours[k];
      }
    }
    for (int k = 0; k < M::kNumbers; ++k) sums[k] += sum_of_lanes(lanes[k]);
  }
};

struct AddToColumns {
  template <IouKind K, typename T>
  FD_HD static void run(const IouRules& rules, const T* rows, std::int64_t row, std::int64_t n, const T* FD_RESTRICT columns,
                        const T* FD_RESTRICT grad, T* FD_RESTRICT sums) {
    using M = Measure<K, T>;
    const IouForm<T> form = iou_form<T>(rules);
    const BoxFormat format = rules.format;
    const typename M::Item item = M::at(rows, kTile, row);
    for (std::int64_t j = 0; j < n; ++j) {
      T ours[M::kNumbers], theirs[M::kNumbers];
      M::gradient(format, item, M::at(columns, kTile, j), form, ours, theirs);
      for (int k = 0; k < M::kNumbers; ++k) sums[k * kTile + j] += grad[j] * theirs[k];
    }
  }
};

template <typename Loop, typename T, typename... Rest>
FD_HD void for_kind(const IouRules& rules, const Rest&... rest) {
  switch (rules.kind) {
    case IouKind::kIou: return Loop::template run<IouKind::kIou, T>(rules, rest...);
    case IouKind::kGiou: return Loop::template run<IouKind::kGiou, T>(rules, rest...);
    case IouKind::kDiou: return Loop::template run<IouKind::kDiou, T>(rules, rest...);
    case IouKind::kCiou: return Loop::template run<IouKind::kCiou, T>(rules, rest...);
    case IouKind::kProb: return Loop::template run<IouKind::kProb, T>(rules, rest...);
  }
}

}  // namespace

FD_TARGET_CLONES
void prepare(const IouRules& rules, std::int64_t n, const float* numbers, float* columns) {
  for_kind<Prepare, float>(rules, n, numbers, columns);
}
void prepare(const IouRules& rules, std::int64_t n, const double* numbers, double* columns) {
  for_kind<Prepare, double>(rules, n, numbers, columns);
}

FD_TARGET_CLONES
void values(const IouRules& rules, const float* rows, std::int64_t row, std::int64_t n, const float* columns, float* out) {
  for_kind<Values, float>(rules, rows, row, n, columns, out);
}
void values(const IouRules& rules, const double* rows, std::int64_t row, std::int64_t n, const double* columns, double* out) {
  for_kind<Values, double>(rules, rows, row, n, columns, out);
}

FD_TARGET_CLONES
void add_to_row(const IouRules& rules, const float* rows, std::int64_t row, std::int64_t n, const float* columns,
                const float* grad, float* sums) {
  for_kind<AddToRow, float>(rules, rows, row, n, columns, grad, sums);
}
void add_to_row(const IouRules& rules, const double* rows, std::int64_t row, std::int64_t n, const double* columns,
                const double* grad, double* sums) {
  for_kind<AddToRow, double>(rules, rows, row, n, columns, grad, sums);
}

FD_TARGET_CLONES
void add_to_columns(const IouRules& rules, const float* rows, std::int64_t row, std::int64_t n, const float* columns,
                    const float* grad, float* sums) {
  for_kind<AddToColumns, float>(rules, rows, row, n, columns, grad, sums);
}
void add_to_columns(const IouRules& rules, const double* rows, std::int64_t row, std::int64_t n, const double* columns,
                    const double* grad, double* sums) {
  for_kind<AddToColumns, double>(rules, rows, row, n, columns, grad, sums);
}

}  // namespace fastdet::pairwise_iou
