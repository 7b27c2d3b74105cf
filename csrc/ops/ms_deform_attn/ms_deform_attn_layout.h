// SPDX-License-Identifier: Apache-2.0
// Reading small things of any dtype, and how the workspaces of the backward pass are cut up.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/workspace.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"
#include "ops/ms_deform_attn/ms_deform_attn_math.h"

namespace fastdet::ms_deform_attn {

FD_HD std::int64_t load_integer(const TensorView& view, std::int64_t at) {
  return view.dtype == DType::kInt64 ? view.as<const std::int64_t>()[at] : view.as<const std::int32_t>()[at];
}

// One number of an array that may have another dtype than value.
template <typename A>
FD_HD A load_number(const TensorView& view, std::int64_t at) {
  switch (view.dtype) {
    case DType::kFloat16: return static_cast<A>(to_float(view.as<const Half>()[at]));
    case DType::kBFloat16: return static_cast<A>(to_float(view.as<const BFloat16>()[at]));
    case DType::kFloat64: return static_cast<A>(view.as<const double>()[at]);
    default: return static_cast<A>(view.as<const float>()[at]);
  }
}
template <typename A>
FD_HD void store_number(void* data, DType dtype, std::int64_t at, A value) {
  switch (dtype) {
    case DType::kFloat16: static_cast<Half*>(data)[at] = to_half(static_cast<float>(value)); break;
    case DType::kBFloat16: static_cast<BFloat16*>(data)[at] = to_bfloat16(static_cast<float>(value)); break;
    case DType::kFloat64: static_cast<double*>(data)[at] = static_cast<double>(value); break;
    default: static_cast<float*>(data)[at] = static_cast<float>(value);
  }
}

FD_HD Level load_level(const MsDeformAttnParams& p, int level) {
  const std::int64_t at = level * p.shapes.stride[0];
  return checked_level(load_integer(p.shapes, at), load_integer(p.shapes, at + p.shapes.stride[1]),
                       load_integer(p.level_start, level * p.level_start.stride[0]), p.tokens());
}

template <typename A>
FD_HD LevelNumbers<A> load_level_numbers(const MsDeformAttnParams& p, int level) {
  return level_numbers<A>(load_level(p, level), p.point_end[level] - (level == 0 ? 0 : p.point_end[level - 1]));
}

// A sample in the list of its cell.
struct Entry {
  std::int32_t sample;  // query * T + t
  std::int32_t query;
};

// What the four corners of a sample weigh: the sample's weight times their shares, 0 outside.
template <typename A>
struct Taps {
  A corner[4];
};

// The lists that grad_value is summed from. For each image and head: cell c holds list[ends[c - 1] .. ends[c]), samples rising.
template <typename A>
struct ValueLists {
  Taps<A>* taps;       // [B, M, Q T]
  std::int32_t* cell;  // [B, M, Q T], -1: reaches no pixel
  Entry* list;         // [B, M, Q T]
  std::int32_t* ends;  // [B, M, max_cells]
  std::int64_t max_cells, per_head;

  void take(Workspace& workspace, const MsDeformAttnParams& p, bool wanted) {
    max_cells = ms_deform_attn::max_cells(p.tokens(), p.levels);
    per_head = p.queries() * p.samples();
    const std::int64_t heads = wanted ? p.images() * p.heads() : 0;
    workspace.take(&taps, heads * per_head);
    workspace.take(&cell, heads * per_head);
    workspace.take(&list, heads * per_head);
    workspace.take(&ends, heads * max_cells);
  }
};

// The same on the host, where sorting moves what a list needs into it.
template <typename A>
struct ListedTaps {
  Taps<A> taps;
  std::int32_t query;
};

template <typename A>
struct HostLayout {
  Taps<A>* taps;        // [B, M, Q T]
  std::int32_t* cell;   // [B, M, Q T], -1: reaches no pixel
  ListedTaps<A>* list;  // [B, M, Q T]
  std::int32_t* ends;   // [B, M, max_cells]
  std::int64_t max_cells, per_head;
  A* grad_out;  // [B, Q, M D] widened, contiguous
};

template <typename A>
HostLayout<A> host_layout(const MsDeformAttnParams& p, std::size_t* bytes) {
  HostLayout<A> layout;
  layout.max_cells = max_cells(p.tokens(), p.levels);
  layout.per_head = p.queries() * p.samples();
  const std::int64_t heads = p.grad_value != nullptr ? p.images() * p.heads() : 0;
  Workspace workspace(p.workspace);
  workspace.take(&layout.taps, heads * layout.per_head);
  workspace.take(&layout.cell, heads * layout.per_head);
  workspace.take(&layout.list, heads * layout.per_head);
  workspace.take(&layout.ends, heads * layout.max_cells);
  workspace.take(&layout.grad_out, p.rows() * p.channels());
  *bytes = workspace.used();
  return layout;
}

template <typename A>
struct DeviceLayout {
  ValueLists<A> lists;
  A* weight_grads;  // [B, Q, M, T], fused: of the softmax's result
  A* sums;          // [B, S, M, D], of float atomics; null where grad_value itself takes them
};

template <typename A>
DeviceLayout<A> device_layout(const MsDeformAttnParams& p, std::size_t* bytes) {
  DeviceLayout<A> layout;
  Workspace workspace(p.workspace);
  const bool sorted = p.grad_value != nullptr && p.deterministic;
  const bool narrow_sums = p.grad_value != nullptr && !p.deterministic && item_size(p.value.dtype) != sizeof(A);
  layout.lists.take(workspace, p, sorted);
  workspace.take(&layout.weight_grads, p.fused ? p.rows() * p.samples() : 0);
  workspace.take(&layout.sums, narrow_sums ? p.images() * p.tokens() * p.heads() * p.channels() : 0);
  if (!narrow_sums) layout.sums = static_cast<A*>(p.grad_value);
  *bytes = workspace.used();
  return layout;
}

}  // namespace fastdet::ms_deform_attn
