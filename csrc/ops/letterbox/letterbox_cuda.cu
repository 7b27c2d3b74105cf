// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/dispatch.h"
#include "ops/letterbox/letterbox_kernels.cuh"
#include "ops/letterbox/letterbox_layout.h"

namespace fastdet {
namespace {

LetterboxTask make_task(const LetterboxParams& params) {
  LetterboxTask task{};
  for (int c = 0; c < 3; ++c) {
    task.normalisation[c] = letterbox_normalisation(params.scale, params.affine, params.mean[c], params.std[c]);
    task.fill[c] = params.fill[c];
  }
  task.matrix = yuv_matrix(params.matrix);
  task.swap_rb = params.swap_rb;
  task.channels_last = params.channels_last;
  task.channels = params.channels;
  task.mode = params.mode;
  task.height = params.out_height();
  task.width = params.out_width();
  task.tiles_per_row = ceil_div(task.width, kLetterboxTileWidth);
  if (params.mode == LetterboxMode::kPillow || params.mode == LetterboxMode::kPillow12) {
    task.tables = static_cast<std::int32_t*>(params.workspace);
    task.table_stride = letterbox_table_stride(params);
  }
  return task;
}

template <typename T>
void launch_batch(const LetterboxParams& params, Stream stream) {
  LetterboxTask task = make_task(params);
  const std::int64_t tiles = task.tiles_per_row * ceil_div(task.height, kLetterboxTileHeight);
  const std::int64_t values = task.channels * task.height * task.width;
  constexpr std::size_t kPackBytes = sizeof(LetterboxPack<T>);
  task.aligned = (task.width % kLetterboxSpan == 0 || task.channels % kLetterboxSpan == 0) &&
                 reinterpret_cast<std::uintptr_t>(params.output.data) % kPackBytes == 0;
  for (std::int64_t begin = 0; begin < params.count; begin += kLetterboxPictures) {
    const std::int64_t count = std::min(kLetterboxPictures, params.count - begin);
    std::int64_t entries = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      task.pictures[i] = params.pictures[begin + i];
      entries = std::max(entries, std::int64_t{task.pictures[i].new_width} + task.pictures[i].new_height);
    }
    task.out = params.output.as<T>() + begin * values;
    if (params.mode == LetterboxMode::kCv2) {
      FD_LAUNCH(letterbox_cv2_kernel<T>, Dim3(tiles, count), kLetterboxThreads, 0, stream, task);
    } else if (params.mode == LetterboxMode::kCv2Area) {
      FD_LAUNCH(letterbox_area_kernel<T>, Dim3(tiles, count), kLetterboxThreads, 0, stream, task);
    } else {
      FD_LAUNCH(letterbox_pillow_tables_kernel, Dim3(ceil_div(entries, kLetterboxThreads), count), kLetterboxThreads, 0, stream,
                task);
      FD_LAUNCH(letterbox_pillow_kernel<T>, Dim3(tiles, count), kLetterboxThreads, 0, stream, task);
    }
  }
}

}  // namespace

void letterbox_cuda(const LetterboxParams& params, Stream stream) {
  if (params.output.dtype == DType::kUInt8) {
    launch_batch<std::uint8_t>(params, stream);
  } else {
    dispatch_float(params.output.dtype, [&](auto tag) { launch_batch<typename decltype(tag)::type>(params, stream); });
  }
}

}  // namespace fastdet
