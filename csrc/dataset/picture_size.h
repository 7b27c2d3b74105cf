// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace fastdet::dataset {

struct PictureSize {
  std::int32_t height = 0, width = 0;  // 0: not told
};

// Size of a JPEG or PNG picture, turned as its EXIF says, from the header of the open regular file. It is told where the header
// is as encoders write it, and is then what `read_size` in fastdet.image_files returns; any other file is left to that function.
PictureSize picture_size(int handle, std::int64_t file_bytes);

}  // namespace fastdet::dataset
