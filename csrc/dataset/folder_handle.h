// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <string_view>

namespace fastdet::dataset {

// Where files lie whose names mostly follow each other in one folder: the system walks the path of a folder once.
class FolderHandle {
 public:
  // All names are below `root`, which is empty or ends with "/".
  explicit FolderHandle(std::string_view root) : root_(root) {}
  ~FolderHandle() { release(); }
  FolderHandle(const FolderHandle&) = delete;
  FolderHandle& operator=(const FolderHandle&) = delete;

  // For `openat` and its like; valid until the next call.
  struct Place {
    int folder;
    const char* name;
  };
  Place find(std::string_view name) {
    const std::size_t length = name.rfind('/') + 1;
    if (!known_ || name.substr(0, length) != folder_) {
      release();
      known_ = true;
      folder_.assign(name.substr(0, length));
      buffer_.assign(root_).append(folder_);
      if (!buffer_.empty()) handle_ = open(buffer_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    if (handle_ >= 0) {
      buffer_.assign(name.substr(length));
      if (!buffer_.empty()) return {handle_, buffer_.c_str()};
    }
    buffer_.assign(root_).append(name);
    return {AT_FDCWD, buffer_.c_str()};
  }

 private:
  void release() {
    if (handle_ >= 0) close(handle_);
    handle_ = -1;
  }

  std::string root_, folder_, buffer_;
  int handle_ = -1;
  bool known_ = false;
};

}  // namespace fastdet::dataset
