// SPDX-License-Identifier: Apache-2.0
// Soft-NMS. The contract for users is in python/fastdet/ops/soft_nms.py, the formulas in docs/ops/soft_nms.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/launch.h"
#include "core/scored_boxes.h"

namespace fastdet {

// One picture. Outputs are contiguous and do not overlap the inputs.
struct SoftNmsParams {
  ScoredBoxes in;              // boxes [N, 4]: corners
  bool gaussian = true;        // else linear
  double iou_threshold = 0.3;  // of the linear decay
  double sigma = 0.5;          // of the gaussian decay
  double score_threshold = 0.001;
  CandidateRows out;
  void* workspace = nullptr;
};

// Sets what the word from Python says; throws on any other.
void soft_nms_words(const char* op, std::string_view method, SoftNmsParams* params);
void soft_nms_check(const char* op, const SoftNmsParams& params);

std::size_t soft_nms_cpu_workspace_bytes(const SoftNmsParams& params);
void soft_nms_cpu(const SoftNmsParams& params);

std::size_t soft_nms_cuda_workspace_bytes(const SoftNmsParams& params);
void soft_nms_cuda(const SoftNmsParams& params, Stream stream);

}  // namespace fastdet
