// SPDX-License-Identifier: Apache-2.0
// The loops of the CPU path over boxes side by side as columns (kTile apart), each compiled per instruction set for float.
#pragma once

#include <cstdint>

#include "core/iou.h"
#include "core/iou_rules.h"
#include "ops/box_iou/box_iou_math.h"

namespace fastdet::pairwise_iou {

constexpr int kMaxNumbers = 5, kMaxFields = 11;

// numbers: kMaxNumbers columns of rows as given; columns: the fields of their Items.
void prepare(const IouRules& rules, std::int64_t n, const float* numbers, float* columns);
void prepare(const IouRules& rules, std::int64_t n, const double* numbers, double* columns);

// out[j] = similarity of item `row` of `rows` and item j of `columns`.
void values(const IouRules& rules, const float* rows, std::int64_t row, std::int64_t n, const float* columns, float* out);
void values(const IouRules& rules, const double* rows, std::int64_t row, std::int64_t n, const double* columns, double* out);

// sums[k] += sum over j of grad[j] times the gradient for number k of `row`. n is a multiple of kLanes; past the end grad is 0.
void add_to_row(const IouRules& rules, const float* rows, std::int64_t row, std::int64_t n, const float* columns,
                const float* grad, float* sums);
void add_to_row(const IouRules& rules, const double* rows, std::int64_t row, std::int64_t n, const double* columns,
                const double* grad, double* sums);

// sums[k * kTile + j] += grad[j] times the gradient for number k of item j.
void add_to_columns(const IouRules& rules, const float* rows, std::int64_t row, std::int64_t n, const float* columns,
                    const float* grad, float* sums);
void add_to_columns(const IouRules& rules, const double* rows, std::int64_t row, std::int64_t n, const double* columns,
                    const double* grad, double* sums);

}  // namespace fastdet::pairwise_iou
