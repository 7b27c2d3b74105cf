// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>

#include <utility>
#include <vector>

namespace fastdet::bindings {

// A new array that owns `data`.
template <typename T>
pybind11::array_t<T> array_of(std::vector<T>&& data, std::vector<pybind11::ssize_t> shape) {
  auto* owned = new std::vector<T>(std::move(data));
  const pybind11::capsule owner(owned, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return pybind11::array_t<T>(std::move(shape), owned->data(), owner);
}

template <typename T>
pybind11::array_t<T> array_of(std::vector<T>&& data) {
  const auto size = static_cast<pybind11::ssize_t>(data.size());
  return array_of(std::move(data), {size});
}

}  // namespace fastdet::bindings
