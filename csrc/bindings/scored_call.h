// SPDX-License-Identifier: Apache-2.0
// What the operators on core/scored_boxes.h share on their way from and to Python.
#pragma once

#include <cstring>

#include "bindings/arrays.h"
#include "core/scored_boxes.h"

namespace fastdet::bindings {

inline ScoredBoxes take_scored_boxes(Call& call, py::handle boxes, py::handle scores, py::handle idxs) {
  const std::initializer_list<DType> floats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
  ScoredBoxes in;
  in.boxes = call.input("boxes", boxes, floats, 2);
  in.scores = call.input("scores", scores, floats, 1);
  if (!idxs.is_none()) in.groups = call.input("idxs", idxs, {DType::kInt64, DType::kInt32}, 1);
  return in;
}

// Runs an operator that lists at most `most` boxes: params.out and params.workspace get memory, then run(on_cuda, stream) is
// called. On the host the result is (index (K,) int64, scores (K,) float32). On a device, where K is not known here, both have
// `most` rows and the number follows, (1,) int32.
template <typename Params, typename Run>
py::tuple run_scored(Call& call, Params& params, std::int64_t most, std::size_t bytes, Run&& run) {
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  params.out.index.dtype = DType::kInt64;
  if (params.in.boxes.device == Device::kCuda) {
    py::object index, scores, count;
    params.out.index = call.output({most}, DType::kInt64, &index);
    params.out.scores = call.output({most}, DType::kFloat32, &scores);
    params.out.count = call.output({1}, DType::kInt32, &count);
    params.workspace = call.workspace(bytes);
    call.run([&] { run(on_cuda, stream); });
    return py::make_tuple(index, scores, count);
  }
  const std::size_t own = (bytes + 15) / 16 * 16, rows = static_cast<std::size_t>(most);
  char* memory = static_cast<char*>(call.workspace(own + 12 * rows + 16));
  std::int32_t found = 0;
  params.workspace = memory;
  params.out.index.data = memory + own;
  params.out.scores.data = memory + own + 8 * rows;
  params.out.count.data = &found;
  call.run([&] { run(on_cuda, stream); });
  py::object index, scores;
  const std::size_t kept = static_cast<std::size_t>(found);
  const TensorView kept_index = call.output({found}, DType::kInt64, &index);
  const TensorView kept_scores = call.output({found}, DType::kFloat32, &scores);
  if (kept > 0) {
    std::memcpy(kept_index.data, params.out.index.data, 8 * kept);
    std::memcpy(kept_scores.data, params.out.scores.data, 4 * kept);
  }
  return py::make_tuple(index, scores);
}

}  // namespace fastdet::bindings
