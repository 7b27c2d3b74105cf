// SPDX-License-Identifier: Apache-2.0
// Multi-scale deformable attention: samples of several maps at given places, weighted and summed. The contract is in the
// docstrings of fastdet.ops.ms_deform_attn and ms_deform_attn_fused; the formulas stand in ms_deform_attn_math.h. B images, S
// tokens of all levels, M heads, D channels per head, Q queries, L levels, T samples of a query and head, by level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

// Inputs may have any strides and are only read. Results are contiguous and do not overlap the inputs. The workspace is
// aligned to 64 bytes.
struct MsDeformAttnParams {
  static constexpr int kMaxLevels = 16;
  static constexpr int kMaxSamples = 1024;

  TensorView value;        // [B, S, M, D] float32, float16, bfloat16, float64
  TensorView shapes;       // [L, 2] (H, W) int32, int64
  TensorView level_start;  // [L] first token of each level, int32, int64
  TensorView locations;    // [B, Q, M, T, 2] (x, y) in [0, 1] over the map; fused: offsets
  TensorView weights;      // [B, Q, M, T]; fused: logits
  TensorView references;   // fused only: [B, Q, 1 or L, 2 or 4] (x, y) or (cx, cy, w, h)
  int levels = 0;
  std::int32_t point_end[kMaxLevels] = {};  // samples up to and with each level; the last is T
  bool fused = false;
  bool discrete = false;
  double offset_scale = 0.5;  // of 4 numbers per reference

  void* out = nullptr;  // [B, Q, M D] of value's dtype

  // Gradients; null where not wanted.
  TensorView grad_out;             // [B, Q, M D] of value's dtype
  void* grad_value = nullptr;      // [B, S, M, D] of value's dtype
  void* grad_locations = nullptr;  // [B, Q, M, T, 2] of locations' dtype
  void* grad_weights = nullptr;    // [B, Q, M, T] of weights' dtype
  bool deterministic = true;       // CUDA: grad_value by sorting, else by float atomics

  void* workspace = nullptr;

  FD_HD std::int64_t images() const { return value.shape[0]; }
  FD_HD std::int64_t tokens() const { return value.shape[1]; }
  FD_HD std::int64_t heads() const { return value.shape[2]; }
  FD_HD std::int64_t channels() const { return value.shape[3]; }
  FD_HD std::int64_t queries() const { return weights.shape[1]; }
  FD_HD std::int64_t samples() const { return weights.shape[3]; }
  FD_HD std::int64_t rows() const { return images() * queries() * heads(); }
};

// Throws unless shapes agree. `look_at_values`: sizes of levels lie on the host and are checked too; without it a level that
// does not fit contributes nothing.
void ms_deform_attn_check(const char* op, const MsDeformAttnParams& params, bool look_at_values);

void ms_deform_attn_cpu(const MsDeformAttnParams& params);
void ms_deform_attn_cuda(const MsDeformAttnParams& params, Stream stream);  // one launch

// Up to 40 bytes per sample (76 in float64) and 8 per token and head where grad_value is wanted; more for 16-bit arrays.
std::size_t ms_deform_attn_backward_cpu_workspace_bytes(const MsDeformAttnParams& params);
void ms_deform_attn_backward_cpu(const MsDeformAttnParams& params);
std::size_t ms_deform_attn_backward_cuda_workspace_bytes(const MsDeformAttnParams& params);
void ms_deform_attn_backward_cuda(const MsDeformAttnParams& params, Stream stream);  // up to six launches

}  // namespace fastdet
