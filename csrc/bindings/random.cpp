// SPDX-License-Identifier: Apache-2.0
// Random words for fastdet.data.augmentation.random_stream, whose NumPy `philox` is the reference.
#include "bindings/operators.h"
#include "core/philox.h"

namespace fastdet::bindings {
namespace {

namespace py = pybind11;

// Four words for each of `count` counters (first + i, a, b, c), one after the other.
py::list philox_words(std::uint64_t key, std::uint32_t first, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                      py::ssize_t count) {
  py::list words(4 * count);
  for (py::ssize_t i = 0; i < count; ++i) {
    const PhiloxWords four = philox({first + static_cast<std::uint32_t>(i), a, b, c}, key);
    for (int k = 0; k < 4; ++k) {
      PyList_SET_ITEM(words.ptr(), 4 * i + k, py::int_(four[static_cast<std::size_t>(k)]).release().ptr());
    }
  }
  return words;
}

}  // namespace

void bind_random(py::module_& module) { module.def("philox_words", &philox_words); }

}  // namespace fastdet::bindings
