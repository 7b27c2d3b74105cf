// SPDX-License-Identifier: Apache-2.0
// One piece of memory from the caller, cut into arrays: the same lines measure it and lay it out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdet {

// Hands out consecutive arrays, each aligned to 64 bytes; with a null base it only measures.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}
  template <typename T>
  void take(T** pointer, std::int64_t count) {
    *pointer = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

}  // namespace fastdet
