// SPDX-License-Identifier: Apache-2.0
// Convolution with its epilogue: bias, activation, residual. The contract is in the docstrings of fastdet.ops.rep_conv2d and
// bias_act. B pictures, I and O channels in and out, H W sizes in, P Q sizes out, R S kernel, G groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

enum class Activation : std::uint8_t { kNone, kRelu, kSilu, kLeakyRelu };

// What happens to a sum of products v of output channel o: v += bias[o], then
//   add_first:  y = act(v + residual)    (ResNet, DAMO-YOLO backbones)
//   otherwise:  y = act(v) + residual    (YOLO bottlenecks; without residual there is no difference)
struct Epilogue {
  TensorView bias;      // [O], dtype of x; no dimensions: none
  TensorView residual;  // [B, O, P, Q], dtype of x, any strides; no dimensions: none
  Activation activation = Activation::kNone;
  bool add_first = false;

  FD_HD bool has_bias() const { return bias.ndim > 0; }
  FD_HD bool has_residual() const { return residual.ndim > 0; }
};

struct RepConvParams {
  TensorView x;       // [B, I, H, W] float32, float16, bfloat16; any strides
  TensorView weight;  // [O, I / G, R, S], dtype of x; any strides
  TensorView out;     // [B, O, P, Q], dtype of x; dense, channels first or last (stride[1] == 1)
  Epilogue epilogue;
  std::int64_t stride[2] = {1, 1};   // vertical, horizontal
  std::int64_t padding[2] = {0, 0};  // on both sides
  std::int64_t groups = 1;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;

  FD_HD std::int64_t out_size(int axis) const {  // axis 0: P, 1: Q
    return (x.shape[2 + axis] + 2 * padding[axis] - weight.shape[2 + axis]) / stride[axis] + 1;
  }
};

// Throws unless shapes agree and attributes are in range; out is not looked at.
void rep_conv_check(const RepConvParams& params);

// out = x with the epilogue applied; both of one shape [B, O, ...], out may be x itself.
struct BiasActParams {
  TensorView x;    // [B, O, P, Q] float32, float16, bfloat16; any strides
  TensorView out;  // like x; written in full
  Epilogue epilogue;
};
void bias_act_check(const BiasActParams& params);

std::size_t rep_conv_cpu_workspace_bytes(const RepConvParams& params);  // the weight in float32, in the order of its use
void rep_conv_cpu(const RepConvParams& params);
void bias_act_cpu(const BiasActParams& params);

void bias_act_cuda(const BiasActParams& params, Stream stream);  // one launch

// Convolution and epilogue in one kernel of a library that may be absent, at build time or at run time.
struct FusedConvParams {
  enum class Library : std::uint8_t { kCudnn, kCutlass };
  enum class Step : std::uint8_t {
    kBuilt,  // throws unless this build has the library's path
    kPlan,   // throws unless it can run `conv`; *workspace_bytes says what it needs then
    kRun,
  };
  RepConvParams conv;
  Library library = Library::kCudnn;
  Step step = Step::kBuilt;
  void* cudnn = nullptr;  // libcudnn as dlopen gave it
  std::size_t* workspace_bytes = nullptr;
};
// Why neither library can run these arrays whatever the machine: layout, dtype, alignment; "" if one may.
std::string fused_obstacle(const FusedConvParams& params);
// Opens FASTDET_CUDNN_LIB or libcudnn.so.9 (torch's, if it has loaded one) once; throws RuntimeError if there is none.
void* open_cudnn();
void rep_conv_fused_cuda(const FusedConvParams& params, Stream stream);
void rep_conv_cudnn(const FusedConvParams& params, Stream stream);
void rep_conv_cutlass(const FusedConvParams& params, Stream stream);

}  // namespace fastdet
