// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/compose/compose.h"

namespace fastdet::bindings {
namespace {

using Numbers = std::vector<std::int64_t>;

// Numbers that describe one of each, in the order of the Python file.
constexpr std::size_t kTileNumbers = 8, kLayerNumbers = 3, kMapNumbers = 9, kPictureNumbers = 8;
constexpr std::int64_t kFarthest = 1 << 29;  // of a tile from the canvas: sums of two stay in 32 bits

std::size_t rows_of(const char* name, std::size_t size, std::size_t columns) {
  FD_CHECK(size % columns == 0, ValueError, "compose: ", name, " must be a multiple of ", columns, " numbers, got ", size);
  return size / columns;
}

std::size_t place(const char* name, std::int64_t value, std::size_t count) {
  FD_CHECK(value >= 0 && value < static_cast<std::int64_t>(count), ValueError, "compose: ", name, " must be one of ", count,
           ", got ", value);
  return static_cast<std::size_t>(value);
}

std::int32_t narrow(const char* name, std::int64_t value, std::int64_t limit) {
  FD_CHECK(value >= -limit && value <= limit, ValueError, "compose: ", name, " must be at most ", limit, " in size, got ", value);
  return static_cast<std::int32_t>(value);
}

std::int32_t step_of(const char* name, std::int64_t stride, std::int64_t size) {
  if (size <= 1) return 0;
  FD_CHECK(stride >= -(1 << 30) && stride <= 1 << 30, ValueError, "compose: ", name, " must have strides below 2^30, got ",
           stride, "; pass a contiguous copy");
  return static_cast<std::int32_t>(stride);
}

class Arrays {
 public:
  Arrays(Call& call, const py::sequence& images, const py::sequence& masks, const py::sequence& tables) {
    for (const auto& image : images) {
      images_.push_back(call.input(concat("images[", images_.size(), "]").c_str(), image, {DType::kUInt8}, 3));
      const TensorView& view = images_.back();
      FD_CHECK(view.shape[2] == 3 && std::max(view.shape[0], view.shape[1]) <= kFarthest, ValueError, "compose: images[",
               images_.size() - 1, "] must be (h, w, 3), got ", shape_text(view));
    }
    for (const auto& mask : masks) {
      masks_.push_back(call.input(concat("masks[", masks_.size(), "]").c_str(), mask, {DType::kUInt8}, 2));
    }
    for (const auto& table : tables) {
      tables_.push_back(call.input(concat("tables[", tables_.size(), "]").c_str(), table, {DType::kUInt8}, 2));
      const TensorView& view = tables_.back();
      FD_CHECK(view.shape[0] == 3 && view.shape[1] == 256, ValueError, "compose: tables[", tables_.size() - 1,
               "] must be (3, 256), got ", shape_text(view));
    }
  }

  // image, mask or -1, left, top, and the window x1, y1, x2, y2, which is cut at the picture and the canvas.
  ComposeTile tile(const std::int64_t* n, const ComposeLayer& layer) const {
    const TensorView& image = images_[place("image of a tile", n[0], images_.size())];
    ComposeTile tile{};
    tile.image = image.as<const std::uint8_t>();
    tile.row_stride = image.stride[0];
    tile.pixel_stride = step_of("an image", image.stride[1], image.shape[1]);
    if (image.shape[1] <= 1) tile.pixel_stride = 3;
    tile.channel_stride = step_of("an image", image.stride[2], 3);
    if (n[1] >= 0) {
      const TensorView& mask = masks_[place("mask of a tile", n[1], masks_.size())];
      FD_CHECK(mask.shape[0] == image.shape[0] && mask.shape[1] == image.shape[1], ValueError,
               "compose: mask must have the size of its image, ", shape_text(image), ", got ", shape_text(mask));
      tile.mask = mask.as<const std::uint8_t>();
      tile.mask_row_stride = mask.stride[0];
      tile.mask_pixel_stride = step_of("a mask", mask.stride[1], mask.shape[1]);
    }
    tile.left = narrow("left of a tile", n[2], kFarthest);
    tile.top = narrow("top of a tile", n[3], kFarthest);
    tile.right = static_cast<std::int32_t>(tile.left + image.shape[1]);
    const auto cut = [](std::int64_t value, std::int64_t low, std::int64_t high) {
      return static_cast<std::int32_t>(std::max(low, std::min(value, std::max(low, high))));
    };
    const std::int64_t x = std::max(tile.left, 0), y = std::max(tile.top, 0);
    tile.x1 = cut(n[4], x, layer.width);
    tile.y1 = cut(n[5], y, layer.height);
    tile.x2 = cut(n[6], x, std::min(tile.right, layer.width));
    tile.y2 = cut(n[7], y, std::min<std::int64_t>(tile.top + image.shape[0], layer.height));
    return tile;
  }

  void set_table(std::int64_t index, ComposePicture* picture) const {
    if (index < 0) return;
    const TensorView& table = tables_[place("table of a composition", index, tables_.size())];
    picture->table = table.as<const std::uint8_t>();
    for (int axis = 0; axis < 2; ++axis) picture->table_stride[axis] = step_of("hsv", table.stride[axis], 3);
  }

 private:
  std::vector<TensorView> images_, masks_, tables_;
};

// Tiles, canvas height and width of each; maps.
void read_layers(const Arrays& arrays, const Numbers& tiles, const Numbers& layers, const std::vector<double>& maps,
                 std::vector<ComposeTile>* out_tiles, std::vector<ComposeLayer>* out_layers) {
  const std::size_t count = rows_of("layers", layers.size(), kLayerNumbers),
                    tile_count = rows_of("tiles", tiles.size(), kTileNumbers);
  FD_CHECK(maps.size() == count * kMapNumbers, ValueError, "compose: maps must be 9 numbers for each of ", count, " layers, got ",
           maps.size());
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t* const n = &layers[i * kLayerNumbers];
    ComposeLayer layer{};
    layer.tile_begin = static_cast<std::int32_t>(out_tiles->size());
    FD_CHECK(n[0] >= 0 && n[0] <= static_cast<std::int64_t>(tile_count - out_tiles->size()), ValueError,
             "compose: tiles of layer ", i, " must be among those given, got ", n[0]);
    layer.tile_end = static_cast<std::int32_t>(layer.tile_begin + n[0]);
    layer.height = narrow("canvas height", n[1], kComposeMaxSide);
    layer.width = narrow("canvas width", n[2], kComposeMaxSide);
    for (std::size_t k = 0; k < kMapNumbers; ++k) layer.map[k] = static_cast<float>(maps[i * kMapNumbers + k]);
    layer.projective = layer.map[6] != 0 || layer.map[7] != 0 || layer.map[8] != 1;
    for (std::int64_t k = 0; k < n[0]; ++k) {
      out_tiles->push_back(arrays.tile(&tiles[out_tiles->size() * kTileNumbers], layer));
    }
    out_layers->push_back(layer);
  }
  FD_CHECK(out_tiles->size() == tile_count, ValueError, "compose: layers must hold all of ", tile_count, " tiles, got ",
           out_tiles->size());
}

// Layers, table or -1, fill of three channels, bgr, flips: horizontal, vertical.
std::vector<ComposePicture> read_pictures(const Arrays& arrays, const Numbers& pictures, const std::vector<double>& blends) {
  const std::size_t count = rows_of("pictures", pictures.size(), kPictureNumbers);
  FD_CHECK(blends.size() == count, ValueError, "compose: blends must be one for each of ", count, " pictures, got ",
           blends.size());
  std::vector<ComposePicture> out;
  std::int32_t next = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t* const n = &pictures[i * kPictureNumbers];
    ComposePicture picture{};
    picture.layer_begin = next;
    picture.layer_count = narrow("layers of a composition", n[0], 2);
    next += picture.layer_count;
    picture.blend = blends[i];
    arrays.set_table(n[1], &picture);
    for (int c = 0; c < 3; ++c) {
      FD_CHECK(n[2 + c] >= 0 && n[2 + c] <= 255, ValueError, "compose: fill must be in [0, 255], got ", n[2 + c]);
      picture.fill[c] = static_cast<std::uint8_t>(n[2 + c]);
    }
    picture.bgr = n[5] != 0;
    picture.flip_horizontal = n[6] != 0;
    picture.flip_vertical = n[7] != 0;
    out.push_back(picture);
  }
  return out;
}

py::object compose(py::handle out, const py::sequence& images, const py::sequence& masks, const py::sequence& tables,
                   const Numbers& tiles, const Numbers& layers, const std::vector<double>& maps, const Numbers& pictures,
                   const std::vector<double>& blends, std::int64_t height, std::int64_t width, bool channels_last,
                   const std::string& backend) {
  Call call("compose", backend);
  const Arrays arrays(call, images, masks, tables);
  std::vector<ComposeTile> all_tiles;
  std::vector<ComposeLayer> all_layers;
  read_layers(arrays, tiles, layers, maps, &all_tiles, &all_layers);
  const std::vector<ComposePicture> all_pictures = read_pictures(arrays, pictures, blends);
  ComposeParams params;
  params.tiles = all_tiles.data();
  params.layers = all_layers.data();
  params.pictures = all_pictures.data();
  params.tile_count = static_cast<std::int64_t>(all_tiles.size());
  params.layer_count = static_cast<std::int64_t>(all_layers.size());
  params.count = static_cast<std::int64_t>(all_pictures.size());
  params.channels_last = channels_last;
  const Numbers shape = channels_last ? Numbers{params.count, height, width, 3} : Numbers{params.count, 3, height, width};
  py::object result = py::reinterpret_borrow<py::object>(out);
  if (out.is_none()) {
    FD_CHECK(images.size() + masks.size() + tables.size() > 0, ValueError, "compose: there must be an array without out");
    params.output = call.output(shape, DType::kUInt8, &result);
  } else {
    params.output = call.writable("out", out, {DType::kUInt8}, 4);
    FD_CHECK(std::equal(shape.begin(), shape.end(), params.output.shape), ValueError, "compose: out must be ",
             shape_text(shape.data(), 4), ", got ", shape_text(params.output));
  }
  compose_check(params);
  const bool on_cuda = call.on_cuda();
  params.workspace = call.workspace(on_cuda ? compose_cuda_workspace_bytes(params) : 0);
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().compose, params, stream) : compose_cpu(params); });
  return result;
}

}  // namespace

void bind_compose(py::module_& module) {
  module.def("compose", &compose);
  module.def("compose_limit_isa", [](const std::string& name) {
    const char* const names[] = {"scalar", "avx2", "avx512"};
    const auto* const found = std::find(std::begin(names), std::end(names), name);
    FD_CHECK(found != std::end(names), ValueError, "compose_limit_isa: name must be scalar, avx2 or avx512, got ", name);
    compose_limit_isa(static_cast<ComposeIsa>(found - names));
  });
}

}  // namespace fastdet::bindings
