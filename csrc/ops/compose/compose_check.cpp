// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/check.h"
#include "ops/compose/compose.h"

namespace fastdet {
namespace {

void check_layer(const ComposeParams& params, std::int64_t i) {
  const ComposeLayer& layer = params.layers[i];
  FD_CHECK(layer.height >= 1 && layer.width >= 1 && layer.height <= kComposeMaxSide && layer.width <= kComposeMaxSide, ValueError,
           "compose: canvas of layer ", i, " must have sides in [1, ", kComposeMaxSide, "], got (", layer.height, ", ",
           layer.width, ")");
  FD_CHECK(layer.tile_begin >= 0 && layer.tile_begin <= layer.tile_end && layer.tile_end <= params.tile_count, ValueError,
           "compose: tiles of layer ", i, " must be among ", params.tile_count, ", got ", layer.tile_begin, " to ",
           layer.tile_end);
  for (const float entry : layer.map) {
    FD_CHECK(std::isfinite(entry), ValueError, "compose: matrix of layer ", i, " must have a finite inverse in float32, got ",
             entry);
  }
}

void check_picture(const ComposeParams& params, std::int64_t i) {
  const ComposePicture& picture = params.pictures[i];
  FD_CHECK(picture.layer_count == 1 || picture.layer_count == 2, ValueError, "compose: layers of composition ", i,
           " must be 1 or 2, got ", picture.layer_count);
  FD_CHECK(picture.layer_begin >= 0 && std::int64_t{picture.layer_begin} + picture.layer_count <= params.layer_count, ValueError,
           "compose: layers of composition ", i, " must be among ", params.layer_count, ", got ", picture.layer_begin);
  FD_CHECK(picture.blend >= 0 && picture.blend <= 1, ValueError, "compose: blend of composition ", i, " must be in [0, 1], got ",
           picture.blend);
}

}  // namespace

void compose_check(const ComposeParams& params) {
  FD_CHECK(params.output.ndim == 4 && params.output.contiguous(), ValueError,
           "compose: out must be contiguous with 4 dimensions, got ", shape_text(params.output));
  FD_CHECK(params.output.shape[0] == params.count && params.output.shape[params.channels_last ? 3 : 1] == 3, ValueError,
           "compose: out must hold ", params.count, " pictures of 3 channels, got ", shape_text(params.output));
  FD_CHECK(params.out_height() >= 1 && params.out_width() >= 1 && params.out_height() <= kComposeMaxSide &&
               params.out_width() <= kComposeMaxSide,
           ValueError, "compose: size must have sides in [1, ", kComposeMaxSide, "], got (", params.out_height(), ", ",
           params.out_width(), ")");
  for (std::int64_t i = 0; i < params.layer_count; ++i) check_layer(params, i);
  for (std::int64_t i = 0; i < params.count; ++i) check_picture(params, i);
}

// Where the kernels find tiles, layers and pictures.
std::size_t compose_cuda_workspace_bytes(const ComposeParams& params) {
  return static_cast<std::size_t>(params.tile_count) * sizeof(ComposeTile) +
         static_cast<std::size_t>(params.layer_count) * sizeof(ComposeLayer) +
         static_cast<std::size_t>(params.count) * sizeof(ComposePicture);
}

}  // namespace fastdet
