// SPDX-License-Identifier: Apache-2.0
// Program that tests core/parallel.h without Python; prints what is wrong and returns 1, or returns 0.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/parallel.h"

namespace {

using fastdet::parallel_for;
int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("wrong: %s\n", what);
  ++failures;
}

// Every item once, in disjoint ranges, whatever the grain.
void covers_the_range() {
  for (const std::int64_t n : {0, 1, 2, 7, 64, 1000, 4097}) {
    for (const std::int64_t grain : {0, 1, 3, 64, 5000}) {
      std::vector<int> seen(static_cast<std::size_t>(n), 0);
      parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      bool once = true;
      for (const int count : seen) once = once && count == 1;
      expect(once, "every item is visited once");
    }
  }
}

void uses_several_threads() {
  std::atomic<int> inside{0}, most{0};
  parallel_for(8, 1, [&](std::int64_t, std::int64_t) {
    const int now = ++inside;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    usleep(20000);
    --inside;
  });
  expect(most >= 2 && most <= 4, "two to four of four threads work at a time");
}

void passes_exceptions_on() {
  for (int round = 0; round < 20; ++round) {
    std::atomic<std::int64_t> done{0};
    bool caught = false;
    try {
      parallel_for(1000, 1, [&](std::int64_t begin, std::int64_t end) {
        done += end - begin;
        if (begin <= 500 && 500 < end) throw std::runtime_error("in the middle");
      });
    } catch (const std::runtime_error& error) {
      caught = std::string(error.what()) == "in the middle";
    }
    expect(caught, "the exception of a body reaches the caller");
    expect(done == 1000, "the other pieces are done when the exception arrives");
  }
}

void runs_nested_calls_serially() {
  std::atomic<std::int64_t> total{0};
  parallel_for(16, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto thread = std::this_thread::get_id();
    for (std::int64_t i = begin; i < end; ++i) {
      parallel_for(100, 1, [&](std::int64_t from, std::int64_t to) {
        if (std::this_thread::get_id() == thread) total += to - from;
      });
    }
  });
  expect(total == 1600, "calls inside a body run in its thread");
}

void takes_many_callers() {
  std::vector<std::thread> callers;
  std::atomic<std::int64_t> total{0};
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        parallel_for(100, 1, [&](std::int64_t begin, std::int64_t end) { total += end - begin; });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  expect(total == 6 * 50 * 100, "calls from several threads are all done");
}

void survives_changes_of_the_number() {
  std::atomic<bool> stop{false};
  std::atomic<std::int64_t> wrong{0};
  std::thread caller([&] {
    while (!stop) {
      std::atomic<std::int64_t> total{0};
      parallel_for(200, 1, [&](std::int64_t begin, std::int64_t end) { total += end - begin; });
      if (total != 200) ++wrong;
    }
  });
  for (int round = 0; round < 40; ++round) fastdet::set_num_threads(1 + round % 5);
  stop = true;
  caller.join();
  expect(wrong == 0, "calls are whole while the number of threads changes");
}

void works_after_fork() {
  const pid_t child = fork();
  if (child == 0) {
    std::atomic<std::int64_t> total{0};
    parallel_for(1000, 1, [&](std::int64_t begin, std::int64_t end) { total += end - begin; });
    _exit(total == 1000 ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child has threads of its own");
}

// Stands for an OpenMP runtime.
std::atomic<int> runs{0};
int offered = 4, nested = 0;

void run_by_runtime(void (*body)(void*), void* data, unsigned threads, unsigned) {
  ++runs;
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back(body, data);
  body(data);
  for (std::thread& other : others) other.join();
}

// Whether a call is done, and by the runtime if `expected`.
void goes_to_runtime(bool expected, const char* what) {
  const int before = runs;
  std::atomic<std::int64_t> total{0}, inner{0};
  parallel_for(1000, 1, [&](std::int64_t begin, std::int64_t end) {
    total += end - begin;
    parallel_for(10, 1, [&](std::int64_t from, std::int64_t to) { inner += to - from; });
  });
  expect(total == 1000 && inner > 0 && inner % 10 == 0, "a call is whole, whoever runs it");
  expect(runs - before == (expected ? 1 : 0), what);
}

void borrows_the_threads_of_a_framework() {
  fastdet::OpenMp runtime;
  runtime.run = run_by_runtime;
  runtime.max_threads = [] { return offered; };
  runtime.inside = [] { return nested; };
  fastdet::set_openmp(runtime);
  goes_to_runtime(false, "only calls that ask for it use the framework's threads");
  {
    const fastdet::FrameworkThreads threads;
    goes_to_runtime(true, "a call that asks for the framework's threads gets them");
    covers_the_range();
    passes_exceptions_on();
    offered = 3;
    goes_to_runtime(true, "fewer threads than allowed are taken");
    for (const int number : {1, 5}) {
      offered = number;
      goes_to_runtime(false, "one thread, or more than allowed, are not taken");
    }
    offered = 4;
    nested = 1;
    goes_to_runtime(false, "inside a region of the framework the pool computes");
    nested = 0;
  }
  goes_to_runtime(false, "afterwards the pool computes again");
}

void forgets_the_framework_after_fork() {
  const fastdet::FrameworkThreads threads;
  const pid_t child = fork();
  if (child == 0) {
    const int before = failures;
    goes_to_runtime(false, "a forked child has lost the framework's threads");
    fastdet::OpenMp runtime;
    runtime.run = run_by_runtime;
    fastdet::set_openmp(runtime);
    goes_to_runtime(false, "a forked child does not take them later");
    std::fflush(stdout);
    _exit(failures == before ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child computes by its own threads");
}

}  // namespace

int main(int count, char**) {
  fastdet::set_num_threads(4);
  covers_the_range();
  uses_several_threads();
  passes_exceptions_on();
  runs_nested_calls_serially();
  takes_many_callers();
  survives_changes_of_the_number();
  fastdet::set_num_threads(4);
  borrows_the_threads_of_a_framework();
  if (count > 1) return failures == 0 ? 0 : 1;  // ThreadSanitizer does not follow threads started after a fork
  works_after_fork();
  forgets_the_framework_after_fork();
  return failures == 0 ? 0 : 1;
}
