// SPDX-License-Identifier: Apache-2.0
// fastdet._core: table of contents of what Python sees.
#include <pybind11/pybind11.h>

#include "bindings/cuda_loader.h"
#include "bindings/device_array.h"
#include "bindings/operators.h"
#include "core/check.h"
#include "core/parallel.h"

namespace py = pybind11;

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  using namespace fastdet;
  module.doc() = "Native operators of fastdet; use fastdet.ops.";

  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ValueError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const TypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const RuntimeError& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
  });

  module.def("num_threads", &num_threads, "Threads that work on one call.");
  module.def("set_num_threads", &set_num_threads, py::arg("count"), py::call_guard<py::gil_scoped_release>());
  // Addresses of GOMP_parallel, omp_get_max_threads and omp_in_parallel; all 0 for none.
  module.def("set_openmp", [](std::uintptr_t run, std::uintptr_t max_threads, std::uintptr_t inside) {
#if defined(__SANITIZE_THREAD__)
    return;  // it does not see how the runtime's threads wait for each other
#endif
    OpenMp runtime;
    runtime.run = reinterpret_cast<decltype(runtime.run)>(run);
    runtime.max_threads = reinterpret_cast<decltype(runtime.max_threads)>(max_threads);
    runtime.inside = reinterpret_cast<decltype(runtime.inside)>(inside);
    set_openmp(runtime);
  });
  module.def("set_library_folder", &bindings::set_library_folder, py::arg("folder"));
  module.def("cuda_available", [] {
    std::string why;
    const bool available = bindings::cuda_available(&why);
    return py::make_tuple(available, why);
  });
  module.def("cuda_description", [] { return bindings::cuda().description; });
  module.def("cuda_emulated", [] { return bindings::cuda().emulated != 0; });

  bindings::bind_device_array(module);
  bindings::bind_aligned_ota(module);
  bindings::bind_box_iou(module);
  bindings::bind_box_iou_loss(module);
  bindings::bind_dataset(module);
  bindings::bind_compose(module);
  bindings::bind_decode(module);
  bindings::bind_hungarian_assign(module);
  bindings::bind_evaluation(module);
  bindings::bind_letterbox(module);
  bindings::bind_ms_deform_attn(module);
  bindings::bind_network(module);
  bindings::bind_nms(module);
  bindings::bind_random(module);
  bindings::bind_rep_conv(module);
  bindings::bind_sim_ota(module);
  bindings::bind_task_aligned(module);
  bindings::bind_rotated_box_iou(module);
  bindings::bind_rotated_nms(module);
  bindings::bind_soft_nms(module);
  bindings::bind_matrix_nms(module);
  bindings::bind_topk_detections(module);
}
