// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/letterbox/letterbox.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kResults = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kUInt8};

constexpr const char* kModes[] = {"cv2", "cv2_area", "pillow", "pillow12"};
constexpr const char* kMatrices[] = {"bt601", "bt709"};
// Formats of LetterboxFormat by their place; what follows is kPixels too.
constexpr const char* kFormats[] = {"", "nv12", "nv21", "i420", "yv12", "yuyv", "uyvy", "grey", "rgb", "bgr", "rgba", "bgra"};

// Place of a name in a list that has the order of an enumeration.
template <std::size_t kCount>
std::size_t place_of(const std::string& name, const char* const (&names)[kCount], const char* argument) {
  const auto* const found = std::find(std::begin(names), std::end(names), name);
  FD_CHECK(found != std::end(names), ValueError, "letterbox: ", argument, " must be a known name, got ", name);
  return static_cast<std::size_t>(found - names);
}

DType dtype_of(const std::string& name) {
  for (const DType dtype : kResults) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw TypeError(concat("letterbox: dtype must be float32, float16, bfloat16 or uint8, got ", name));
}

std::int32_t narrow(std::size_t i, std::int64_t value) {
  FD_CHECK(value >= 0 && value <= 0x7fffffff, ValueError, "letterbox: sides of images[", i, "] must be below 2^31, got ", value);
  return static_cast<std::int32_t>(value);
}

// The format of a picture by its name; the shape its array must have.
LetterboxFormat format_of(const TensorView& view, std::size_t i, const std::string& name) {
  const std::size_t place = place_of(name, kFormats, "formats");
  constexpr std::size_t kYuv = static_cast<std::size_t>(LetterboxFormat::kUyvy);
  const std::int64_t channels = view.ndim == 3 ? view.shape[2] : 1;
  const bool picture = view.ndim == 2 || view.ndim == 3;
  if (place == 0 || place > kYuv) {
    const bool fits = place == 0       ? channels == 1 || channels == 3 || channels == 4
                      : name == "grey" ? channels == 1
                                       : channels == static_cast<std::int64_t>(name.size());
    FD_CHECK(picture && fits, ValueError, "letterbox: images[", i, "] must be (H, W) or (H, W, C) with ",
             place == 0 ? "1, 3 or 4 channels" : concat("the channels of ", name), ", got ", shape_text(view));
    return LetterboxFormat::kPixels;
  }
  const auto format = static_cast<LetterboxFormat>(place);
  const bool packed = format == LetterboxFormat::kYuyv || format == LetterboxFormat::kUyvy;
  FD_CHECK(packed ? view.ndim == 3 && channels == 2 : picture && channels == 1 && view.shape[0] % 3 == 0, ValueError,
           "letterbox: images[", i, "] must be ", packed ? "(H, W, 2)" : "(3 H / 2, W)", " for format ", name, ", got ",
           shape_text(view));
  return format;
}

// A picture of any accepted form, its three channels in the order of the result. An alpha channel is left out.
LetterboxPicture picture_of(const TensorView& view, std::size_t i, const std::string& name, bool swap_rb,
                            const std::int64_t* placement) {
  LetterboxPicture picture{};
  picture.format = format_of(view, i, name);
  picture.data = view.as<const std::uint8_t>();
  picture.row_stride = view.stride[0];
  picture.channel_stride = view.ndim == 3 && view.shape[2] > 1 ? view.stride[2] : 0;
  if (picture.format == LetterboxFormat::kPixels && swap_rb != (name.substr(0, 3) == "bgr")) {
    picture.data += 2 * picture.channel_stride;
    picture.channel_stride = -picture.channel_stride;
  }
  const bool two_rows = picture.format >= LetterboxFormat::kNv12 && picture.format <= LetterboxFormat::kYv12;
  picture.height = narrow(i, two_rows ? view.shape[0] / 3 * 2 : view.shape[0]);
  picture.width = narrow(i, view.shape[1]);
  const std::int64_t step = picture.width > 1 ? view.stride[1] : 0;
  FD_CHECK(std::abs(step) <= 0x7fffffff / std::max(picture.width, 1), ValueError, "letterbox: a row of images[", i,
           "] must span less than 2 GiB, got ", picture.width, " pixels ", step, " bytes apart; pass a contiguous copy");
  picture.pixel_stride = static_cast<std::int32_t>(step);
  picture.new_height = narrow(i, placement[0]);
  picture.new_width = narrow(i, placement[1]);
  picture.top = narrow(i, placement[2]);
  picture.left = narrow(i, placement[3]);
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

py::object letterbox(py::handle out, const py::sequence& images, const std::vector<std::string>& formats,
                     const std::vector<std::int64_t>& placements, std::int64_t height, std::int64_t width,
                     const std::string& mode, const std::string& matrix, const std::vector<int>& fill, bool swap_rb, bool scale,
                     const std::vector<double>& mean, const std::vector<double>& std, const std::string& dtype,
                     bool channels_last, std::int32_t channels, const std::string& backend) {
  Call call("letterbox", backend);
  const std::size_t count = images.size();
  FD_CHECK(formats.size() == count, ValueError, "letterbox: formats must be one for each of ", count, " pictures, got ",
           formats.size());
  FD_CHECK(placements.size() == 4 * count, ValueError, "letterbox: placements must be four numbers for each of ", count,
           " pictures, got ", placements.size());
  FD_CHECK(fill.size() == 3 && std::all_of(fill.begin(), fill.end(), [](int value) { return value >= 0 && value <= 255; }),
           ValueError, "letterbox: fill must be three numbers in [0, 255]");
  std::vector<LetterboxPicture> pictures;
  pictures.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const TensorView view = call.input(concat("images[", i, "]").c_str(), images[i], {DType::kUInt8}, -1);
    pictures.push_back(picture_of(view, i, formats[i], swap_rb, &placements[4 * i]));
  }
  LetterboxParams params;
  params.pictures = pictures.data();
  params.count = static_cast<std::int64_t>(count);
  params.mode = static_cast<LetterboxMode>(place_of(mode, kModes, "mode"));
  params.matrix = static_cast<LetterboxMatrix>(place_of(matrix, kMatrices, "matrix"));
  params.swap_rb = swap_rb;
  for (std::size_t c = 0; c < 3; ++c) params.fill[c] = static_cast<std::uint8_t>(fill[c]);
  params.scale = scale;
  params.channels_last = channels_last;
  params.channels = channels;
  set_normalisation(params, mean, std);
  const std::vector<std::int64_t> shape = channels_last ? std::vector<std::int64_t>{params.count, height, width, channels}
                                                        : std::vector<std::int64_t>{params.count, channels, height, width};
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
