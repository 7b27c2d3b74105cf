// SPDX-License-Identifier: Apache-2.0
// Head decoding: raw maps of all levels to boxes and scores, dense or only what passes a threshold, with or without suppression.
// The contract for users is in python/fastdet/ops/decode.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/candidate.h"
#include "core/launch.h"
#include "core/selection.h"
#include "core/tensor.h"
#include "ops/decode/decode_maps.h"

namespace fastdet {

// What a caller says of the maps, before any look at them.
struct HeadFormat {
  BoxCode code = BoxCode::kDfl;
  double offset = 0.5;
  double picture_height = 1.0, picture_width = 1.0;
};

// Checks one level (views of 5 dimensions, see HeadLevel) against the ones before and appends it. anchors: (width, height) of
// its priors, `count` numbers.
void add_level(const char* op, const HeadFormat& format, const TensorView& logits, const TensorView& codes, double stride,
               const double* anchors, std::int64_t count, HeadMaps* maps);

// All anchors. Results are float32, or float64 if the maps are.
struct DecodeParams {
  HeadMaps maps;
  TensorView boxes;   // [B, A, 4] contiguous; backward: its gradient, any strides
  TensorView scores;  // [B, A, C] likewise
  // Backward: what the forward gave, [B, A, C], any strides; not read where there is an objectness.
  TensorView given_scores;
  // Backward: gradients of the maps, contiguous [B, P, C, H, W] and [B, P, K, H, W], of their dtype.
  void* logits_grad[kMaxLevels] = {};
  void* codes_grad[kMaxLevels] = {};
  bool backward = false;
};

void decode_cpu(const DecodeParams& params);
void decode_cuda(const DecodeParams& params, Stream stream);

// Candidates above a threshold: the best max_candidates, listed by number (max_det == max_candidates), or suppressed.
struct DetectParams {
  HeadMaps maps;
  double score_threshold = 0.0;
  double iou_threshold = 0.5;
  std::int64_t max_candidates = 0;
  std::int64_t max_det = 0;
  bool class_agnostic = false;
  bool multi_label = false;
  bool suppress = false;
  CandidateRows out;
  void* workspace = nullptr;

  CandidateRule rule() const {
    return {maps.anchors,
            maps.classes,
            multi_label,
            max_candidates,
            max_det,
            suppress ? iou_threshold : 1.0,
            !class_agnostic && maps.classes > 1};
  }
  // Workspace of the CUDA path; the extra part holds a box for every anchor, of which those of candidates are written.
  SelectionLayout layout() const { return selection_layout(rule(), true, suppress, 16 * maps.anchors); }
};

void detect_check(const char* op, const DetectParams& params);

std::size_t detect_cpu_workspace_bytes(const DetectParams& params);
void detect_cpu(const DetectParams& params);

std::size_t detect_cuda_workspace_bytes(const DetectParams& params);
void detect_cuda(const DetectParams& params, Stream stream);

}  // namespace fastdet
