// SPDX-License-Identifier: Apache-2.0
// A case of the emulator's own tests: a kernel, right or with a planted bug, and its result as a list of numbers.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/launch.h"

namespace planted {

using Result = std::vector<long long>;
using Cases = std::map<std::string, std::function<Result()>>;

void add_correct(Cases& cases);
void add_races(Cases& cases);
void add_divergence(Cases& cases);
void add_bad_memory(Cases& cases);

// Launches kernel(out, args...) with `outputs` zeroed integers and returns them.
template <typename Kernel, typename... Args>
Result run(const char* name, Kernel kernel, fastdet::Dim3 grid, fastdet::Dim3 block, std::size_t outputs,
           std::int64_t shared_bytes = 0, Args... args) {
  std::vector<int> out(outputs, 0);
  fastdet::launch_kernel(name, kernel, grid, block, shared_bytes, nullptr, out.data(), args...);
  return Result(out.begin(), out.end());
}

}  // namespace planted

#define PLANTED_RUN(kernel, ...) ::planted::run(#kernel, kernel, __VA_ARGS__)
