// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/check.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"
#include "ops/ms_deform_attn/ms_deform_attn_layout.h"

namespace fastdet {
namespace {

constexpr std::int64_t kMaxTokens = (std::int64_t{1} << 30) - 64;  // so that cells have 32-bit numbers
constexpr std::int64_t kMaxIndex = (std::int64_t{1} << 31) - 1;

bool has_shape(const TensorView& view, std::initializer_list<std::int64_t> shape) {
  if (view.ndim != static_cast<int>(shape.size())) return false;
  int i = 0;
  for (const std::int64_t extent : shape) {
    if (view.shape[i++] != extent) return false;
  }
  return true;
}

void check_shapes(const char* op, const MsDeformAttnParams& p) {
  const char* const where = p.fused ? "offsets" : "sampling_locations";
  const char* const share = p.fused ? "logits" : "attention_weights";
  FD_CHECK(p.weights.ndim == 4 && p.weights.shape[0] == p.images() && p.weights.shape[2] == p.heads(), ValueError, op, ": ",
           share, " must be (B, Q, M, T) for value ", shape_text(p.value), ", got ", shape_text(p.weights));
  const std::int64_t samples = p.samples();
  FD_CHECK(has_shape(p.locations, {p.images(), p.queries(), p.heads(), samples, 2}), ValueError, op, ": ", where, " must be (",
           p.images(), ", ", p.queries(), ", ", p.heads(), ", ", samples, ", 2) for ", share, " ", shape_text(p.weights),
           ", got ", shape_text(p.locations));
  FD_CHECK(has_shape(p.shapes, {p.levels, 2}), ValueError, op, ": spatial_shapes must be (", p.levels,
           ", 2) for as many levels in num_points, got ", shape_text(p.shapes));
  FD_CHECK(has_shape(p.level_start, {p.levels}), ValueError, op, ": level_start_index must be (", p.levels, ",), got ",
           shape_text(p.level_start));
  const std::int64_t points = p.levels == 0 ? 0 : p.point_end[p.levels - 1];
  FD_CHECK(points == samples, ValueError, op, ": num_points must add up to the ", samples, " samples of ", share, ", got ",
           points);
  FD_CHECK(p.tokens() <= kMaxTokens, ValueError, op, ": S may be at most ", kMaxTokens, ", got ", p.tokens());
  FD_CHECK(samples == 0 || p.queries() <= kMaxIndex / samples, ValueError, op, ": Q x T may be at most ", kMaxIndex, ", got ",
           p.queries(), " x ", samples);
  if (!p.fused) return;
  const bool references = p.references.ndim == 4 && p.references.shape[0] == p.images() && p.references.shape[1] == p.queries() &&
                          (p.references.shape[2] == 1 || p.references.shape[2] == p.levels) &&
                          (p.references.shape[3] == 2 || p.references.shape[3] == 4);
  FD_CHECK(references, ValueError, op, ": reference_points must be (", p.images(), ", ", p.queries(), ", 1 or ", p.levels,
           ", 2 or 4), got ", shape_text(p.references));
}

void check_values(const char* op, const MsDeformAttnParams& p) {
  std::int64_t next = 0;
  for (int level = 0; level < p.levels; ++level) {
    const std::int64_t height = ms_deform_attn::load_integer(p.shapes, level * p.shapes.stride[0]);
    const std::int64_t width = ms_deform_attn::load_integer(p.shapes, level * p.shapes.stride[0] + p.shapes.stride[1]);
    const std::int64_t start = ms_deform_attn::load_integer(p.level_start, level * p.level_start.stride[0]);
    FD_CHECK(height >= 0 && width >= 0 && (width == 0 || height <= kMaxTokens / width), ValueError, op,
             ": spatial_shapes must not be negative nor exceed ", kMaxTokens, " tokens, got (", height, ", ", width,
             ") for level ", level);
    FD_CHECK(start == next, ValueError, op, ": level_start_index must be the sum of H W of the levels before, ", next,
             " for level ", level, ", got ", start);
    next += height * width;
  }
  FD_CHECK(next == p.tokens(), ValueError, op, ": value must have the ", next, " tokens of spatial_shapes, got ", p.tokens());
}

}  // namespace

void ms_deform_attn_check(const char* op, const MsDeformAttnParams& p, bool look_at_values) {
  check_shapes(op, p);
  FD_CHECK(std::isfinite(p.offset_scale), ValueError, op, ": offset_scale must be finite, got ", p.offset_scale);
  if (p.grad_out.ndim != 0) {
    FD_CHECK(has_shape(p.grad_out, {p.images(), p.queries(), p.heads() * p.channels()}), ValueError, op, ": grad_out must be (",
             p.images(), ", ", p.queries(), ", ", p.heads() * p.channels(), "), got ", shape_text(p.grad_out));
    FD_CHECK(p.grad_out.dtype == p.value.dtype, TypeError, op, ": grad_out must be ", dtype_name(p.value.dtype),
             " like value, got ", dtype_name(p.grad_out.dtype));
  }
  const DType wide = p.value.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  if (!p.fused) {
    for (const TensorView* view : {&p.locations, &p.weights}) {
      FD_CHECK(view->dtype == wide, TypeError, op, ": ", view == &p.locations ? "sampling_locations" : "attention_weights",
               " must be ", dtype_name(wide), " for value ", dtype_name(p.value.dtype), ", got ", dtype_name(view->dtype),
               "; 16 bits would move samples by up to a sixth of a pixel");
    }
  } else {
    const bool doubled = p.value.dtype == DType::kFloat64;
    FD_CHECK(p.references.dtype == wide, TypeError, op, ": reference_points must be ", dtype_name(wide), " for value ",
             dtype_name(p.value.dtype), ", got ", dtype_name(p.references.dtype));
    for (const TensorView* view : {&p.locations, &p.weights}) {
      FD_CHECK((view->dtype == DType::kFloat64) == doubled, TypeError, op, ": ", view == &p.locations ? "offsets" : "logits",
               " must be float64 exactly where value is, got ", dtype_name(view->dtype), " for value ",
               dtype_name(p.value.dtype));
    }
  }
  if (look_at_values) check_values(op, p);
}

std::size_t ms_deform_attn_backward_cuda_workspace_bytes(const MsDeformAttnParams& p) {
  using namespace ms_deform_attn;
  std::size_t bytes = 0;
  if (p.value.dtype == DType::kFloat64) {
    device_layout<double>(p, &bytes);
  } else {
    device_layout<float>(p, &bytes);
  }
  return bytes;
}

std::size_t ms_deform_attn_backward_cpu_workspace_bytes(const MsDeformAttnParams& p) {
  using namespace ms_deform_attn;
  std::size_t bytes = 0;
  if (p.value.dtype == DType::kFloat64) {
    host_layout<double>(p, &bytes);
  } else {
    host_layout<float>(p, &bytes);
  }
  return bytes;
}

}  // namespace fastdet
