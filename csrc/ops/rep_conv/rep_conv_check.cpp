// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "core/check.h"
#include "ops/rep_conv/rep_conv.h"

namespace fastdet {
namespace {

constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();

void check_pair(const char* name, const std::int64_t (&values)[2], std::int64_t least) {
  FD_CHECK(values[0] >= least && values[1] >= least && values[0] <= kMaxSize && values[1] <= kMaxSize, ValueError,
           "rep_conv2d: ", name, " must be at least ", least, ", got (", values[0], ", ", values[1], ")");
}

void check_epilogue(const char* op, const Epilogue& e, const std::int64_t (&shape)[4]) {
  FD_CHECK(!e.has_bias() || e.bias.shape[0] == shape[1], ValueError, op, ": bias must be (", shape[1], ",), got ",
           shape_text(e.bias));
  bool same = true;
  for (int i = 0; i < 4; ++i) same = same && e.residual.shape[i] == shape[i];
  FD_CHECK(!e.has_residual() || same, ValueError, op, ": residual must be ", shape_text(shape, 4), " like the result, got ",
           shape_text(e.residual));
}

}  // namespace

void rep_conv_check(const RepConvParams& p) {
  const std::int64_t channels = p.x.shape[1], filters = p.weight.shape[0];
  check_pair("stride", p.stride, 1);
  check_pair("padding", p.padding, 0);
  FD_CHECK(p.groups >= 1 && channels % p.groups == 0 && filters % p.groups == 0, ValueError,
           "rep_conv2d: groups must divide the channels of x ", shape_text(p.x), " and of weight ", shape_text(p.weight),
           ", got ", p.groups);
  FD_CHECK(p.weight.shape[1] == channels / p.groups, ValueError, "rep_conv2d: weight must be (O, ", channels / p.groups,
           ", kh, kw) for x ", shape_text(p.x), " and groups ", p.groups, ", got ", shape_text(p.weight));
  for (int axis = 0; axis < 2; ++axis) {
    FD_CHECK(p.weight.shape[2 + axis] >= 1 && p.x.shape[2 + axis] + 2 * p.padding[axis] >= p.weight.shape[2 + axis], ValueError,
             "rep_conv2d: the kernel must fit into the padded picture, got kernel (", p.weight.shape[2], ", ", p.weight.shape[3],
             "), padding (", p.padding[0], ", ", p.padding[1], "), x ", shape_text(p.x));
  }
  check_epilogue("rep_conv2d", p.epilogue, {p.x.shape[0], filters, p.out_size(0), p.out_size(1)});
}

void bias_act_check(const BiasActParams& p) {
  check_epilogue("bias_act", p.epilogue, {p.x.shape[0], p.x.shape[1], p.x.shape[2], p.x.shape[3]});
}

}  // namespace fastdet
