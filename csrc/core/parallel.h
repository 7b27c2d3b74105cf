// SPDX-License-Identifier: Apache-2.0
// A small thread pool of our own: a second OpenMP runtime beside a framework's would oversubscribe the machine.
#pragma once

#include <cstdint>
#include <functional>

namespace fastdet {

// Threads that work on one call, the caller included: FASTDET_NUM_THREADS, else the processors this process may run on.
int num_threads();
void set_num_threads(int count);

// Runs body(begin, end) over [0, n) in pieces of at least `grain` (>= 1) items; returns when all are done. Pieces are disjoint
// and cover the range; which thread runs one is not specified. Calls from inside a body run serially. The first exception is
// rethrown. No thread exists before the first call that can use one; a forked child starts afresh.
void parallel_for(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

// What an OpenMP runtime offers to compiled programs: GOMP_parallel, omp_get_max_threads, omp_in_parallel.
struct OpenMp {
  void (*run)(void (*body)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
  int (*max_threads)() = nullptr;
  int (*inside)() = nullptr;
};

// Names the runtime by whose threads a framework in this process computes. A forked child, where they are lost, forgets it.
void set_openmp(const OpenMp& runtime);

// While one lives, parallel_for of this thread runs on as many threads as the framework computes by, on those themselves, if that
// is more than one and not more than num_threads(). For calls between the framework's own: its threads look for more work for
// milliseconds after each operator, and another pool's would have to share the processors with them. Where other programs keep
// the processors busy the pool is faster: a region of OpenMP's waits for all of its threads, those with nothing to do included.
class FrameworkThreads {
 public:
  explicit FrameworkThreads(bool wanted = true);
  ~FrameworkThreads();
  FrameworkThreads(const FrameworkThreads&) = delete;
  FrameworkThreads& operator=(const FrameworkThreads&) = delete;

 private:
  bool before_;
};

// Runs body(part) for all of [0, parts), each of about `steps` elementary steps (of a nanosecond): in one thread where waking
// others would cost more.
template <typename Body>
void parallel_parts(std::int64_t parts, std::int64_t steps, const Body& body) {
  constexpr std::int64_t worth_waking = 16384;
  parallel_for(parts, worth_waking / (steps > 0 ? steps : 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) body(part);
  });
}

}  // namespace fastdet
