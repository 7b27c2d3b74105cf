// SPDX-License-Identifier: Apache-2.0
// What the CUDA library exports: one function returning this table. `_core` and the library are built apart and meet here, so
// nothing but plain data and C function pointers crosses: errors travel as text.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdet {

struct LetterboxParams;
struct NmsParams;
struct AlignedOtaParams;
struct BiasActParams;
struct FusedConvParams;
struct BoxIouParams;
struct DecodeParams;
struct DetectParams;
struct TopkParams;
struct MsDeformAttnParams;
struct BoxIouLossParams;
struct BoxIouLossBackwardParams;
struct TaskAlignedParams;
struct HungarianAssignParams;
struct SimOtaParams;
struct RotatedNmsParams;
struct ComposeParams;
struct SoftNmsParams;
struct MatrixNmsParams;
struct RotatedBoxIouParams;
struct RotatedMulticlassParams;

struct CudaTable {
  static constexpr std::uint32_t kAbi = 1;
  static constexpr std::size_t kMessageSize = 512;

  // Every function returns 0, or 1 with a message of at most kMessageSize bytes.
  using Message = char*;
  template <typename Params>
  using Launcher = int (*)(const Params* params, void* stream, Message message);

  std::uint32_t abi;
  std::uint32_t size;       // sizeof(CudaTable) of the library
  std::int32_t emulated;    // 1: kernels run on the CPU, on host memory (tests)
  const char* description;  // "CUDA 13.0, ..."

  int (*device_count)(int* count, Message message);
  int (*current_device)(int* device, Message message);
  int (*set_device)(int device, Message message);
  int (*device_of_pointer)(const void* pointer, int* device, Message message);
  int (*allocate)(std::size_t bytes, void** pointer, Message message);
  int (*release)(void* pointer, Message message);
  int (*synchronize)(void* stream, Message message);
  // Copies to the host what work on `stream` has written; waits for it.
  int (*read)(void* host, const void* device, std::size_t bytes, void* stream, Message message);

  Launcher<LetterboxParams> letterbox;
  Launcher<NmsParams> nms;
  Launcher<AlignedOtaParams> aligned_ota;
  Launcher<BiasActParams> bias_act;
  Launcher<FusedConvParams> rep_conv_fused;
  Launcher<BoxIouParams> box_iou;
  Launcher<DecodeParams> decode;
  Launcher<DetectParams> detect;
  Launcher<TopkParams> topk_detections;
  Launcher<MsDeformAttnParams> ms_deform_attn;
  Launcher<MsDeformAttnParams> ms_deform_attn_backward;
  Launcher<BoxIouLossParams> box_iou_loss;
  Launcher<BoxIouLossBackwardParams> box_iou_loss_backward;
  Launcher<TaskAlignedParams> task_aligned;
  Launcher<HungarianAssignParams> hungarian_assign;
  Launcher<SimOtaParams> sim_ota;
  Launcher<RotatedNmsParams> rotated_nms;
  Launcher<MatrixNmsParams> matrix_nms;
  Launcher<SoftNmsParams> soft_nms;
  Launcher<RotatedBoxIouParams> rotated_box_iou;
  Launcher<ComposeParams> compose;
  Launcher<RotatedMulticlassParams> rotated_multiclass;
};

}  // namespace fastdet

extern "C" const fastdet::CudaTable* fastdet_cuda_table();
