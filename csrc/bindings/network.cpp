// SPDX-License-Identifier: Apache-2.0
// fastdet.models.cpu_graph makes the programs; sizes are its duty, pointers are those of tensors it holds.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/operators.h"
#include "core/check.h"
#include "network/network.h"

namespace fastdet::bindings {
namespace {

namespace nw = fastdet::network;
namespace py = pybind11;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::vector<char*> pointers(const std::vector<std::uintptr_t>& addresses) {
  std::vector<char*> result;
  for (const std::uintptr_t address : addresses) result.push_back(reinterpret_cast<char*>(address));
  return result;
}

std::shared_ptr<const nw::Weights> pack(const Floats& weight, const Floats& bias, bool half, bool depthwise) {
  FD_CHECK(weight.ndim() == 2 && bias.size() == weight.shape(0), ValueError, "network: weight must be (O, K), bias (O,)");
  if (depthwise) return nw::pack_depthwise(weight.data(), bias.data(), weight.shape(0), weight.shape(1));
  return nw::pack_weights(weight.data(), bias.data(), weight.shape(0), weight.shape(1), half);
}

nw::Map map_of(nw::Index place, nw::Index offset, std::array<nw::Index, 3> size, std::array<nw::Index, 3> strides, nw::Index halo,
               bool half) {
  nw::Map map;
  map.place = place, map.offset = offset, map.halo = halo, map.half = half;
  map.height = size[0], map.width = size[1], map.channels = size[2];
  map.row = strides[0], map.pixel = strides[1], map.plane = strides[2];
  return map;
}

using Program = nw::Program;
using Step = std::unique_ptr<nw::Step> (*)(const nw::Map&, const nw::Map&, const nw::Map*, std::shared_ptr<const nw::Weights>,
                                           const nw::Shape&, nw::Activation);

void append_window(Program& program, Step make, const nw::Map& in, const nw::Map& out, const nw::Map* residual,
                   std::shared_ptr<const nw::Weights> weights, std::array<nw::Index, 4> shape, int activation) {
  FD_CHECK(activation >= 0 && activation <= 3 && weights->outputs == out.channels, ValueError, "network: weights do not fit");
  program.append(make(in, out, residual, std::move(weights), {shape[0], shape[1], shape[2], shape[3]},
                      static_cast<nw::Activation>(activation)));
}

void append_attention(Program& program, const nw::Map& qkv, const nw::Map& mixed, const nw::Map& scratch,
                      std::array<nw::Index, 3> sizes, float scale) {
  const nw::Attention attention{qkv, mixed, scratch, sizes[0], sizes[1], sizes[2], scale};
  program.append(nw::attention_pack(attention));
  program.append(nw::attention_mix(attention));
}

}  // namespace

void bind_network(py::module_& module) {
  py::class_<nw::Weights, std::shared_ptr<nw::Weights>>(module, "NetworkWeights");
  py::class_<nw::Map>(module, "NetworkMap")
      .def(py::init(&map_of), py::arg("place"), py::arg("offset"), py::arg("size"), py::arg("strides"), py::arg("halo"),
           py::arg("half"));
  module.def("network_unsupported", &nw::unsupported, py::arg("half"));
  module.def("network_attention_scratch", &nw::attention_scratch);
  module.def(
      "network_weights",
      [](const Floats& weight, const Floats& bias, bool half, bool depthwise) {
        return std::const_pointer_cast<nw::Weights>(pack(weight, bias, half, depthwise));
      },
      py::arg("weight"), py::arg("bias"), py::arg("half"), py::arg("depthwise"));
  py::class_<Program>(module, "NetworkProgram")
      .def(py::init<nw::Index>(), py::arg("arena_bytes"))
      .def("convolution",
           [](Program& p, const nw::Map& in, const nw::Map& out, const nw::Map* residual, std::shared_ptr<nw::Weights> w,
              std::array<nw::Index, 4> shape, int act) { append_window(p, nw::convolution, in, out, residual, w, shape, act); })
      .def("depthwise",
           [](Program& p, const nw::Map& in, const nw::Map& out, const nw::Map* residual, std::shared_ptr<nw::Weights> w,
              std::array<nw::Index, 4> shape, int act) { append_window(p, nw::depthwise, in, out, residual, w, shape, act); })
      .def("pool", [](Program& p, const nw::Map& in, const nw::Map& out, std::array<nw::Index, 4> s,
                      bool average) { p.append(nw::pool(in, out, {s[0], s[1], s[2], s[3]}, average)); })
      .def("enlarge",
           [](Program& p, const nw::Map& in, const nw::Map& out, nw::Index scale) { p.append(nw::enlarge(in, out, scale)); })
      .def("add", [](Program& p, const nw::Map& a, const nw::Map& b, const nw::Map& out) { p.append(nw::add(a, b, out)); })
      .def("attention", &append_attention)
      .def(
          "run", [](const Program& p, const std::vector<std::uintptr_t>& arrays) { p.run(pointers(arrays)); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "profile", [](const Program& p, const std::vector<std::uintptr_t>& arrays) { return p.profile(pointers(arrays)); },
          py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastdet::bindings
