// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/launch.h"
#include "ops/compose/compose.h"

namespace fastdet {

// ---- descriptions: from the launcher's memory to the device's, in pieces that fit a kernel's parameters ----

constexpr std::int64_t kComposeChunkWords = 448;

struct ComposeChunk {
  std::uint64_t words[kComposeChunkWords];
};

__global__ FD_LAUNCH_BOUNDS(256) void compose_upload_kernel(ComposeChunk chunk, std::uint64_t* to, std::int32_t count) {
  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < count; i += static_cast<std::int32_t>(blockDim.x)) {
    to[i] = chunk.words[i];
  }
}

// ---- pixels ----

constexpr std::int32_t kComposeTileWidth = 32, kComposeTileHeight = 8;

struct ComposeTask {
  const ComposeTile* tiles;
  const ComposeLayer* layers;
  const ComposePicture* pictures;
  std::uint8_t* out;  // [count, H, W, 3] or [count, 3, H, W]
  std::int64_t height, width, tiles_per_row;
  bool channels_last;
};

FD_D void compose_layer_pixel(const ComposeTask& task, const ComposePicture& picture, std::int32_t number, std::int32_t x,
                              std::int32_t y, std::uint8_t (&colour)[3]) {
  const ComposeLayer& layer = task.layers[number];
  const ComposeRow row = compose_row(layer, y);
  const ComposePosition at =
      layer.projective != 0 ? compose_position<true>(layer, row, x) : compose_position<false>(layer, row, x);
  compose_sample(task.tiles, layer, picture.fill, at, colour);
}

// A block owns 32 x 8 pixels of the picture blockIdx.y, a thread one of them, from its position to its three bytes; nothing is
// shared. Arithmetic is that of the CPU path, in float and, for mixup, double.
__global__ FD_LAUNCH_BOUNDS(256) void compose_kernel(ComposeTask task) {
  const ComposePicture& picture = task.pictures[blockIdx.y];  // no copy: a pointer to its fill would put it on the stack
  const std::int64_t column = blockIdx.x % task.tiles_per_row, band = blockIdx.x / task.tiles_per_row;
  const std::int64_t x = column * kComposeTileWidth + threadIdx.x % kComposeTileWidth;
  const std::int64_t y = band * kComposeTileHeight + threadIdx.x / kComposeTileWidth;
  if (x >= task.width || y >= task.height) return;
  const auto from_x = static_cast<std::int32_t>(picture.flip_horizontal ? task.width - 1 - x : x);
  const auto from_y = static_cast<std::int32_t>(picture.flip_vertical ? task.height - 1 - y : y);
  std::uint8_t colour[3];
  compose_layer_pixel(task, picture, picture.layer_begin, from_x, from_y, colour);
  if (picture.layer_count == 2) {
    std::uint8_t second[3];
    compose_layer_pixel(task, picture, picture.layer_begin + 1, from_x, from_y, second);
    for (int c = 0; c < 3; ++c) colour[c] = compose_blend(colour[c], second[c], picture.blend, 1.0 - picture.blend);
  }
  if (picture.table != nullptr) {
    const ComposeHsv hsv = compose_to_hsv(picture.bgr ? colour[2] : colour[0], colour[1], picture.bgr ? colour[0] : colour[2]);
    const ComposeRgb rgb =
        compose_to_rgb(picture.look_up(0, hsv.hue), picture.look_up(1, hsv.saturation), picture.look_up(2, hsv.value));
    colour[0] = static_cast<std::uint8_t>(picture.bgr ? rgb.blue : rgb.red);
    colour[1] = static_cast<std::uint8_t>(rgb.green);
    colour[2] = static_cast<std::uint8_t>(picture.bgr ? rgb.red : rgb.blue);
  }
  const std::int64_t pixels = task.height * task.width, at = y * task.width + x;
  std::uint8_t* const out = task.out + static_cast<std::int64_t>(blockIdx.y) * 3 * pixels;
  for (int c = 0; c < 3; ++c) out[task.channels_last ? 3 * at + c : c * pixels + at] = colour[c];
}

}  // namespace fastdet
