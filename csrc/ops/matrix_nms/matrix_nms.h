// SPDX-License-Identifier: Apache-2.0
// Matrix NMS. The contract for users is in python/fastdet/ops/matrix_nms.py, the formulas in docs/ops/matrix_nms.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/launch.h"
#include "core/scored_boxes.h"
#include "core/selection.h"

namespace fastdet {

// One picture. Outputs are contiguous and do not overlap the inputs.
struct MatrixNmsParams {
  ScoredBoxes in;        // boxes [N, 4]: corners
  bool gaussian = true;  // else linear
  double sigma = 2.0;    // of the gaussian decay
  double score_threshold = 0.05;
  CandidateRows out;
  void* workspace = nullptr;

  CandidateRule rule() const { return scored_rule(in, in.count(), in.count()); }
  // Of the CUDA path's workspace; the extra part holds two numbers of every candidate.
  SelectionLayout layout() const { return selection_layout(rule(), false, false, 2 * SelectionLayout::padded(4 * in.count())); }
};

// Sets what the word from Python says; throws on any other.
void matrix_nms_words(const char* op, std::string_view method, MatrixNmsParams* params);
void matrix_nms_check(const char* op, const MatrixNmsParams& params);

std::size_t matrix_nms_cpu_workspace_bytes(const MatrixNmsParams& params);
void matrix_nms_cpu(const MatrixNmsParams& params);

std::size_t matrix_nms_cuda_workspace_bytes(const MatrixNmsParams& params);
void matrix_nms_cuda(const MatrixNmsParams& params, Stream stream);

}  // namespace fastdet
