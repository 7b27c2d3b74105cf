// SPDX-License-Identifier: Apache-2.0
// The CUDA library: the launchers of all operators behind one exported function. Exceptions stop here, as text.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <exception>

#include "bindings/cuda_table.h"
#include "core/check.h"
#include "core/launch.h"
#include "ops/aligned_ota/aligned_ota.h"
#include "ops/box_iou/box_iou.h"
#include "ops/box_iou_loss/box_iou_loss.h"
#include "ops/compose/compose.h"
#include "ops/decode/decode.h"
#include "ops/hungarian_assign/hungarian_assign.h"
#include "ops/letterbox/letterbox.h"
#include "ops/matrix_nms/matrix_nms.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"
#include "ops/nms/nms.h"
#include "ops/rep_conv/rep_conv.h"
#include "ops/rotated_box_iou/rotated_box_iou.h"
#include "ops/rotated_nms/rotated_nms.h"
#include "ops/sim_ota/sim_ota.h"
#include "ops/soft_nms/soft_nms.h"
#include "ops/task_aligned/task_aligned.h"
#include "ops/topk_detections/topk_detections.h"

namespace fastdet {
namespace {

template <typename Body>
int guarded(CudaTable::Message message, Body&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, CudaTable::kMessageSize, "%s", error.what());
    return 1;
  }
}

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // ours, so that no other library trips over it
  throw RuntimeError(concat("cuda: ", what, " failed: ", cudaGetErrorName(status), ", ", cudaGetErrorString(status)));
}

template <typename Params, void (*Launch)(const Params&, Stream)>
int launcher(const Params* params, void* stream, CudaTable::Message message) {
  return guarded(message, [&] { Launch(*params, stream); });
}

int device_count(int* count, CudaTable::Message message) {
  return guarded(message, [&] { require(cudaGetDeviceCount(count), "counting devices"); });
}
int current_device(int* device, CudaTable::Message message) {
  return guarded(message, [&] { require(cudaGetDevice(device), "asking for the device"); });
}
int set_device(int device, CudaTable::Message message) {
  return guarded(message, [&] { require(cudaSetDevice(device), "choosing the device"); });
}
int device_of_pointer(const void* pointer, int* device, CudaTable::Message message) {
  return guarded(message, [&] {
    cudaPointerAttributes attributes{};
    require(cudaPointerGetAttributes(&attributes, pointer), "asking whose memory this is");
    *device = attributes.device;
  });
}
int allocate(std::size_t bytes, void** pointer, CudaTable::Message message) {
  return guarded(message, [&] { require(cudaMalloc(pointer, bytes), "allocation"); });
}
int release(void* pointer, CudaTable::Message message) {
  return guarded(message, [&] { require(cudaFree(pointer), "release"); });
}
int synchronize(void* stream, CudaTable::Message message) {
  return guarded(message, [&] { require(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "waiting for a stream"); });
}
int read(void* host, const void* device, std::size_t bytes, void* stream, CudaTable::Message message) {
  return guarded(message, [&] {
    const auto on = static_cast<cudaStream_t>(stream);
    require(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, on), "copying to the host");
    require(cudaStreamSynchronize(on), "waiting for a stream");
  });
}

#ifdef FASTDET_EMULATED
constexpr std::int32_t kEmulated = 1;
constexpr const char* kDescription = "emulated on the CPU";
#else
constexpr std::int32_t kEmulated = 0;
constexpr const char* kDescription = FASTDET_CUDA_DESCRIPTION;
#endif

const CudaTable table = {
    CudaTable::kAbi,
    sizeof(CudaTable),
    kEmulated,
    kDescription,
    device_count,
    current_device,
    set_device,
    device_of_pointer,
    allocate,
    release,
    synchronize,
    read,
    launcher<LetterboxParams, letterbox_cuda>,
    launcher<NmsParams, nms_cuda>,
    launcher<AlignedOtaParams, aligned_ota_cuda>,
    launcher<BiasActParams, bias_act_cuda>,
    launcher<FusedConvParams, rep_conv_fused_cuda>,
    launcher<BoxIouParams, box_iou_cuda>,
    launcher<DecodeParams, decode_cuda>,
    launcher<DetectParams, detect_cuda>,
    launcher<TopkParams, topk_detections_cuda>,
    launcher<MsDeformAttnParams, ms_deform_attn_cuda>,
    launcher<MsDeformAttnParams, ms_deform_attn_backward_cuda>,
    launcher<BoxIouLossParams, box_iou_loss_cuda>,
    launcher<BoxIouLossBackwardParams, box_iou_loss_backward_cuda>,
    launcher<TaskAlignedParams, task_aligned_cuda>,
    launcher<HungarianAssignParams, hungarian_assign_cuda>,
    launcher<SimOtaParams, sim_ota_cuda>,
    launcher<RotatedNmsParams, rotated_nms_cuda>,
    launcher<MatrixNmsParams, matrix_nms_cuda>,
    launcher<SoftNmsParams, soft_nms_cuda>,
    launcher<RotatedBoxIouParams, rotated_box_iou_cuda>,
    launcher<ComposeParams, compose_cuda>,
    launcher<RotatedMulticlassParams, rotated_multiclass_cuda>,
};

}  // namespace
}  // namespace fastdet

extern "C" __attribute__((visibility("default"))) const fastdet::CudaTable* fastdet_cuda_table() { return &fastdet::table; }
