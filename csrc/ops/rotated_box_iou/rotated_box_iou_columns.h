// SPDX-License-Identifier: Apache-2.0
// The loops of the CPU path over prepared boxes side by side as columns (kTile apart), each compiled per instruction set for
// float.
#pragma once

#include <cstdint>

#include "ops/rotated_box_iou/rotated_box_iou_math.h"

namespace fastdet::rotated_iou {

constexpr int kMaxFields = 11;

// numbers: kNumbers columns of rows as given; columns: the fields of their Items. n <= kTile everywhere.
void prepare(Kind kind, const Form<float>& form, std::int64_t n, const float* numbers, float* columns);
void prepare(Kind kind, const Form<double>& form, std::int64_t n, const double* numbers, double* columns);

// out[j] = overlap of item `row` of `rows` and item j of `columns`.
void values(Kind kind, const Form<float>& form, const float* rows, std::int64_t row, std::int64_t n, const float* columns,
            float* out);
void values(Kind kind, const Form<double>& form, const double* rows, std::int64_t row, std::int64_t n, const double* columns,
            double* out);

// out[j] = overlap of items j of both.
void aligned_values(Kind kind, const Form<float>& form, std::int64_t n, const float* rows, const float* columns, float* out);
void aligned_values(Kind kind, const Form<double>& form, std::int64_t n, const double* rows, const double* columns, double* out);

}  // namespace fastdet::rotated_iou
