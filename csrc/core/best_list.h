// SPDX-License-Identifier: Apache-2.0
// The first few of many values, kept in order.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastdet {

// The `capacity` smallest of the values pushed, rising; values from `worst` on do not enter.
template <typename T>
class BestList {
 public:
  BestList(std::int64_t capacity, T* values, T worst) : capacity_(capacity), values_(values), last_(worst) {}
  // Whether a value would enter.
  bool takes(T value) const { return value < last_; }
  void push(T value) {
    if (!takes(value)) return;
    if (size_ < capacity_) ++size_;
    T *end = values_ + size_ - 1, *at = end;
    if (size_ <= kShort) {
      for (; at != values_ && value < at[-1]; --at) *at = at[-1];
    } else {
      at = std::upper_bound(values_, end, value);
      std::copy_backward(at, end, end + 1);
    }
    *at = value;
    if (size_ == capacity_) last_ = values_[size_ - 1];
  }
  const T* begin() const { return values_; }
  const T* end() const { return values_ + size_; }
  std::int64_t size() const { return size_; }
  bool full() const { return size_ == capacity_; }
  T last() const { return last_; }

 private:
  static constexpr std::int64_t kShort = 32;  // lists in which a value finds its place by a plain walk
  std::int64_t capacity_, size_ = 0;
  T* values_;
  T last_;  // values from here on do not enter
};

}  // namespace fastdet
