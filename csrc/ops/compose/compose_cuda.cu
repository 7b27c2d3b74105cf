// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "ops/compose/compose_kernels.cuh"

namespace fastdet {
namespace {

constexpr std::int64_t kWord = sizeof(std::uint64_t);
constexpr std::int64_t kPicturesPerLaunch = 65535;

static_assert(sizeof(ComposeTile) % kWord == 0 && sizeof(ComposeLayer) % kWord == 0 && sizeof(ComposePicture) % kWord == 0,
              "descriptions travel in words");

// Copies an array of descriptions to `to`, which it moves on; returns where they now lie.
template <typename T>
const T* upload(const T* from, std::int64_t count, std::uint64_t** to, Stream stream) {
  std::uint64_t* const begin = *to;
  const std::int64_t words = count * static_cast<std::int64_t>(sizeof(T)) / kWord;
  const auto* const bytes = reinterpret_cast<const unsigned char*>(from);
  for (std::int64_t done = 0; done < words; done += kComposeChunkWords) {
    const std::int64_t size = std::min(kComposeChunkWords, words - done);
    ComposeChunk chunk{};
    std::memcpy(chunk.words, bytes + done * kWord, static_cast<std::size_t>(size * kWord));
    FD_LAUNCH(compose_upload_kernel, 1, 256, 0, stream, chunk, begin + done, static_cast<std::int32_t>(size));
  }
  *to = begin + words;
  return reinterpret_cast<const T*>(begin);
}

}  // namespace

void compose_cuda(const ComposeParams& params, Stream stream) {
  auto* to = static_cast<std::uint64_t*>(params.workspace);
  ComposeTask task{};
  task.tiles = upload(params.tiles, params.tile_count, &to, stream);
  task.layers = upload(params.layers, params.layer_count, &to, stream);
  const ComposePicture* const pictures = upload(params.pictures, params.count, &to, stream);
  task.height = params.out_height();
  task.width = params.out_width();
  task.tiles_per_row = ceil_div(task.width, kComposeTileWidth);
  task.channels_last = params.channels_last;
  const std::int64_t blocks = task.tiles_per_row * ceil_div(task.height, kComposeTileHeight);
  for (std::int64_t begin = 0; begin < params.count; begin += kPicturesPerLaunch) {
    task.pictures = pictures + begin;
    task.out = params.output.as<std::uint8_t>() + begin * 3 * task.height * task.width;
    FD_LAUNCH(compose_kernel, Dim3(blocks, std::min(kPicturesPerLaunch, params.count - begin)),
              kComposeTileWidth * kComposeTileHeight, 0, stream, task);
  }
}

}  // namespace fastdet
