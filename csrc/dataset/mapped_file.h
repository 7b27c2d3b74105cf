// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace fastdet::dataset {

// A regular file mapped for reading from its first byte to its last; empty where it cannot be.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* begin() const { return data_; }
  const char* end() const { return data_ + size_; }
  // What lies before `position` is not read again and need not stay in memory.
  void passed(const char* position);

 private:
  char* data_ = nullptr;
  std::int64_t size_ = 0;
  std::int64_t released_ = 0;
};

}  // namespace fastdet::dataset
