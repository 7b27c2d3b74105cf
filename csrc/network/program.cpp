// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <ctime>
#include <new>
#include <thread>

#include "core/parallel.h"
#include "network/network.h"

namespace fastdet::network {
namespace {

struct alignas(64) Progress {
  std::atomic<Index> next{0}, done{0};
};

constexpr std::size_t kPage = std::size_t{2} << 20;
constexpr int kSpins = 2000;  // before a waiting thread lets others have the processor

// One thread's way through the steps: it takes pieces until a step has no more, waits for those that others took, and goes on. A
// thread that comes late finds the steps done and catches up; one thread alone does them all.
void work(const std::vector<std::unique_ptr<Step>>& steps, std::vector<Progress>& progress, const Context& context) {
  for (std::size_t s = 0; s < steps.size(); ++s) {
    const Step& step = *steps[s];
    Progress& at = progress[s];
    for (;;) {
      const Index item = at.next.fetch_add(1, std::memory_order_relaxed);
      if (item >= step.items) break;
      step.run(item, context);
      at.done.fetch_add(1, std::memory_order_release);
    }
    for (int spins = 0; at.done.load(std::memory_order_acquire) < step.items; ++spins) {
      if (spins >= kSpins) std::this_thread::yield();
    }
  }
}

}  // namespace

void Program::Free::operator()(char* pointer) const { std::free(pointer); }

Program::Arena Program::take() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      Arena arena = std::move(idle_.back());
      idle_.pop_back();
      return arena;
    }
  }
  const std::size_t bytes = (static_cast<std::size_t>(arena_bytes_) + kPage - 1) / kPage * kPage;
  Arena arena(static_cast<char*>(std::aligned_alloc(kPage, bytes)));
  if (arena == nullptr) throw std::bad_alloc();
  madvise(arena.get(), bytes, MADV_HUGEPAGE);  // rows of maps lie pages apart; where it is refused all works as well
  return arena;
}

void Program::give_back(Arena arena) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(arena));
}

void Program::run(const std::vector<char*>& arrays) const {
  Arena arena = take();
  const Context context{arena.get(), &arrays};
  std::vector<Progress> progress(steps_.size());
  parallel_for(num_threads(), 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) work(steps_, progress, context);
  });
  give_back(std::move(arena));
}

std::vector<double> Program::profile(const std::vector<char*>& arrays) const {
  Arena arena = take();
  const Context context{arena.get(), &arrays};
  std::vector<double> seconds;
  for (const auto& step : steps_) {
    const std::clock_t start = std::clock();  // of the process: what others do on the machine does not count
    for (Index item = 0; item < step->items; ++item) step->run(item, context);
    seconds.push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  give_back(std::move(arena));
  return seconds;
}

}  // namespace fastdet::network
