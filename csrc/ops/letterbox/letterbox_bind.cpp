// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/letterbox/letterbox.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kResults = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kUInt8};

LetterboxMode mode_of(const std::string& name) {
  if (name == "cv2") return LetterboxMode::kCv2;
  if (name == "pillow") return LetterboxMode::kPillow;
  FD_CHECK(name == "pillow12", ValueError, "letterbox: mode must be cv2, pillow or pillow12, got ", name);
  return LetterboxMode::kPillow12;
}

DType dtype_of(const std::string& name) {
  for (const DType dtype : kResults) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw TypeError(concat("letterbox: dtype must be float32, float16, bfloat16 or uint8, got ", name));
}

// A picture of any accepted form as three channels in the order of the result. An alpha channel is left out.
LetterboxPicture picture_of(const TensorView& view, std::size_t i, bool swap_rb, const std::int64_t* placement) {
  FD_CHECK(view.ndim == 2 || (view.ndim == 3 && (view.shape[2] == 1 || view.shape[2] == 3 || view.shape[2] == 4)), ValueError,
           "letterbox: images[", i, "] must be (H, W) or (H, W, C) with 1, 3 or 4 channels, got ", shape_text(view));
  const auto narrow = [i](std::int64_t value) {
    FD_CHECK(value >= 0 && value <= 0x7fffffff, ValueError, "letterbox: sides of images[", i, "] must be below 2^31, got ",
             value);
    return static_cast<std::int32_t>(value);
  };
  LetterboxPicture picture{};
  picture.data = view.as<const std::uint8_t>();
  picture.row_stride = view.stride[0];
  picture.pixel_stride = view.stride[1];
  picture.channel_stride = view.ndim == 3 && view.shape[2] > 1 ? view.stride[2] : 0;
  if (swap_rb) {
    picture.data += 2 * picture.channel_stride;
    picture.channel_stride = -picture.channel_stride;
  }
  picture.height = narrow(view.shape[0]);
  picture.width = narrow(view.shape[1]);
  picture.new_height = narrow(placement[0]);
  picture.new_width = narrow(placement[1]);
  picture.top = narrow(placement[2]);
  picture.left = narrow(placement[3]);
  return picture;
}

void set_normalisation(LetterboxParams& params, const std::vector<double>& mean, const std::vector<double>& std) {
  const auto copy = [](const std::vector<double>& values, const char* name, float (&out)[3]) {
    FD_CHECK(values.empty() || values.size() == 3, ValueError, "letterbox: ", name, " must be three numbers, got ",
             values.size());
    for (std::size_t c = 0; c < values.size(); ++c) out[c] = static_cast<float>(values[c]);
  };
  params.affine = !mean.empty() || !std.empty();
  copy(mean, "mean", params.mean);
  copy(std, "std", params.std);
}

py::object letterbox(py::handle out, const py::sequence& images, const std::vector<std::int64_t>& placements, std::int64_t height,
                     std::int64_t width, const std::string& mode, const std::vector<int>& fill, bool swap_rb, bool scale,
                     const std::vector<double>& mean, const std::vector<double>& std, const std::string& dtype,
                     bool channels_last, const std::string& backend) {
  Call call("letterbox", backend);
  const std::size_t count = images.size();
  FD_CHECK(placements.size() == 4 * count, ValueError, "letterbox: placements must be four numbers for each of ", count,
           " pictures, got ", placements.size());
  FD_CHECK(fill.size() == 3 && std::all_of(fill.begin(), fill.end(), [](int value) { return value >= 0 && value <= 255; }),
           ValueError, "letterbox: fill must be three numbers in [0, 255]");
  std::vector<LetterboxPicture> pictures;
  pictures.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::string name = concat("images[", i, "]");
    pictures.push_back(picture_of(call.input(name.c_str(), images[i], {DType::kUInt8}, -1), i, swap_rb, &placements[4 * i]));
  }
  LetterboxParams params;
  params.pictures = pictures.data();
  params.count = static_cast<std::int64_t>(count);
  params.mode = mode_of(mode);
  for (std::size_t c = 0; c < 3; ++c) params.fill[c] = static_cast<std::uint8_t>(fill[c]);
  params.scale = scale;
  params.channels_last = channels_last;
  set_normalisation(params, mean, std);
  const std::vector<std::int64_t> shape = channels_last ? std::vector<std::int64_t>{params.count, height, width, 3}
                                                        : std::vector<std::int64_t>{params.count, 3, height, width};
  py::object result = py::reinterpret_borrow<py::object>(out);
  if (out.is_none()) {
    FD_CHECK(count > 0, ValueError, "letterbox: images must not be empty without out");
    params.output = call.output(shape, dtype_of(dtype), &result);
  } else {
    params.output = call.writable("out", out, {dtype_of(dtype)}, 4);
    FD_CHECK(std::equal(shape.begin(), shape.end(), params.output.shape), ValueError, "letterbox: out must be ",
             shape_text(shape.data(), 4), ", got ", shape_text(params.output));
  }
  letterbox_check(params);
  const bool on_cuda = call.on_cuda();
  params.workspace = call.workspace(on_cuda ? letterbox_cuda_workspace_bytes(params) : letterbox_cpu_workspace_bytes(params));
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().letterbox, params, stream) : letterbox_cpu(params); });
  return result;
}

}  // namespace

void bind_letterbox(py::module_& module) {
  module.def("letterbox", &letterbox);
  module.def("letterbox_limit_isa", [](const std::string& name) {
    const char* const names[] = {"scalar", "avx2", "avx512"};
    const auto* const found = std::find(std::begin(names), std::end(names), name);
    FD_CHECK(found != std::end(names), ValueError, "letterbox_limit_isa: name must be scalar, avx2 or avx512, got ", name);
    letterbox_limit_isa(static_cast<LetterboxIsa>(found - names));
  });
}

}  // namespace fastdet::bindings
