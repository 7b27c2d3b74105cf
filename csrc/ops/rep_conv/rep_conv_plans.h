// SPDX-License-Identifier: Apache-2.0
// What distinguishes one compiled plan from another, and the plans made so far.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/check.h"
#include "ops/rep_conv/rep_conv.h"

namespace fastdet::rep_conv {

// Everything a plan depends on; pointers and values do not belong to it.
using PlanKey = std::array<std::int64_t, 28>;

inline PlanKey plan_key(const RepConvParams& p) {
  PlanKey key{};
  std::size_t at = 0;
  for (const TensorView* view : {&p.x, &p.weight}) {
    for (int i = 0; i < 4; ++i) key[at++] = view->shape[i];
    for (int i = 0; i < 4; ++i) key[at++] = view->stride[i];
  }
  for (const std::int64_t value : {p.stride[0], p.stride[1], p.padding[0], p.padding[1], p.groups}) key[at++] = value;
  key[at++] = static_cast<std::int64_t>(p.x.dtype);
  key[at++] = p.x.device_id;
  key[at++] = static_cast<std::int64_t>(p.epilogue.activation);
  key[at++] = p.epilogue.has_bias() ? 1 : 0;
  key[at++] = p.epilogue.has_residual() ? 1 : 0;
  key[at++] = p.epilogue.has_residual() && p.epilogue.add_first ? 1 : 0;
  return key;
}

// Plans by key. A key whose plan could not be made keeps the reason, so that asking again costs a look-up.
template <typename Plan>
class PlanCache {
 public:
  template <typename Make>
  std::shared_ptr<Plan> get(const PlanKey& key, Make&& make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto found = entries_.find(key);
    if (found == entries_.end()) {
      Entry entry;
      try {
        entry.plan = make();
      } catch (const std::exception& error) {
        entry.failure = error.what();
      }
      found = entries_.emplace(key, std::move(entry)).first;
    }
    FD_CHECK(found->second.plan != nullptr, RuntimeError, found->second.failure);
    return found->second.plan;
  }

 private:
  struct Entry {
    std::shared_ptr<Plan> plan;
    std::string failure;
  };
  std::mutex mutex_;
  std::map<PlanKey, Entry> entries_;
};

}  // namespace fastdet::rep_conv
