// SPDX-License-Identifier: Apache-2.0
// planted CASE: prints the case's result, or the emulator's error and exits with 3. planted --list: the names.
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>

#include "case.h"

extern "C" std::uint64_t fastdet_emulator_switches();

namespace {

__global__ void many_barriers_kernel(int* out) {
  for (int i = 0; i < 20; ++i) __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = 1;
}

// 64 blocks of 256 threads at 20 barriers each: what a switch costs.
int measure() {
  PLANTED_RUN(many_barriers_kernel, 1, 256, 1);
  const std::uint64_t switches = fastdet_emulator_switches();
  const std::clock_t start = std::clock();  // of the processor, so that other work on the machine does not count
  PLANTED_RUN(many_barriers_kernel, 64, 256, 64);
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  const double count = static_cast<double>(fastdet_emulator_switches() - switches);
  std::printf("%.0f switches, %.3f ms, %.1f ns per switch\n", count, 1e3 * seconds, 1e9 * seconds / count);
  return 0;
}

planted::Cases all_cases() {
  planted::Cases cases;
  planted::add_correct(cases);
  planted::add_races(cases);
  planted::add_divergence(cases);
  planted::add_bad_memory(cases);
  return cases;
}

}  // namespace

// For ctypes: runs a case and drops its result.
extern "C" __attribute__((visibility("default"))) void planted_run(const char* name) { all_cases().at(name)(); }

int main(int argc, char** argv) {
  const planted::Cases cases = all_cases();
  if (argc != 2) return 2;
  if (std::strcmp(argv[1], "--measure") == 0) return measure();
  if (std::strcmp(argv[1], "--list") == 0) {
    for (const auto& entry : cases) std::puts(entry.first.c_str());
    return 0;
  }
  const auto found = cases.find(argv[1]);
  if (found == cases.end()) return 2;
  try {
    for (const long long value : found->second()) std::printf("%lld ", value);
    std::puts("");
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 3;
  }
  return 0;
}
