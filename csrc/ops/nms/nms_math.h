// SPDX-License-Identifier: Apache-2.0
// What decides in NMS beside core/candidate.h: which boxes compete.
#pragma once

#include <cstdint>

#include "core/candidate.h"

namespace fastdet {

FD_HD std::int64_t load_group(const TensorView& groups, std::int64_t image, std::int64_t anchor) {
  const std::int64_t at = image * groups.stride[0] + anchor * groups.stride[1];
  return groups.dtype == DType::kInt32 ? groups.as<const std::int32_t>()[at] : groups.as<const std::int64_t>()[at];
}

}  // namespace fastdet
