// SPDX-License-Identifier: Apache-2.0
#include "core/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/platform.h"

namespace fastdet {
namespace {

// How long a thread looks for what it waits for before it sleeps: to wake one takes as long as a short call works.
constexpr auto kLooking = std::chrono::microseconds(40);

// Whether `holds` does within kLooking.
template <typename Condition>
bool comes_soon(const Condition& holds) {
  constexpr int looks = 32;  // from one look at the clock to the next
  const auto end = std::chrono::steady_clock::now() + kLooking;
  do {
    for (int i = 0; i < looks; ++i) {
      if (holds()) return true;
      FD_PAUSE();
    }
  } while (std::chrono::steady_clock::now() < end);
  return holds();
}

// Moves this thread off a processor that its caller keeps busy. Schedulers of virtual machines wake threads there though others
// are idle, since a halted processor looks as if it were taken away.
void leave_processor(int busy) {
  cpu_set_t own;
  if (busy < 0 || sched_getcpu() != busy || sched_getaffinity(0, sizeof(own), &own) != 0) return;
  cpu_set_t others = own;
  CPU_CLR(static_cast<std::size_t>(busy), &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof(others), &others) != 0) return;
  sched_setaffinity(0, sizeof(own), &own);
}

// One parallel_for call. Lives in a shared_ptr, because a late worker may look at it after the caller has returned.
struct Job {
  Job(std::int64_t size, std::int64_t step, const std::function<void(std::int64_t, std::int64_t)>& function)
      : n(size), piece(step), pieces((size + step - 1) / step), body(&function) {}

  const std::int64_t n, piece, pieces;
  const int processor = sched_getcpu();                         // of the caller
  const std::function<void(std::int64_t, std::int64_t)>* body;  // valid while finished < pieces
  std::atomic<std::int64_t> next{0};
  std::atomic<std::int64_t> finished{0};
  std::mutex mutex;
  std::condition_variable done;
  std::exception_ptr error;

  // Takes pieces until none is left.
  void work() {
    for (;;) {
      const std::int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= pieces) return;
      try {
        body->operator()(i * piece, std::min(n, (i + 1) * piece));
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!error) error = std::current_exception();
      }
      if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces) {
        const std::lock_guard<std::mutex> lock(mutex);
        done.notify_all();
      }
    }
  }
  void wait() {
    const auto all = [this] { return finished.load(std::memory_order_acquire) == pieces; };
    comes_soon(all);
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, all);
    // Taken out of the job: a late worker may be the one to destroy that, and must not release what the caller still reads.
    if (std::exception_ptr raised = std::exchange(error, nullptr)) std::rethrow_exception(raised);
  }
};

thread_local bool inside_job = false;

class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      posted_.fetch_add(1, std::memory_order_release);
    }
    ready_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  void run(const std::shared_ptr<Job>& job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(job);
      posted_.fetch_add(1, std::memory_order_release);
    }
    ready_.notify_all();
    inside_job = true;
    job->work();
    inside_job = false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
    }
    job->wait();
  }

 private:
  void serve() {
    inside_job = true;
    for (std::uint64_t seen = 0;;) {
      std::shared_ptr<Job> job;
      comes_soon([&] { return posted_.load(std::memory_order_acquire) != seen; });
      {
        std::unique_lock<std::mutex> lock(mutex_);
        seen = posted_.load(std::memory_order_relaxed);
        ready_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
        if (stop_) return;
        job = jobs_.front();
        // A job whose pieces are all taken needs no further hands.
        if (job->next.load(std::memory_order_relaxed) >= job->pieces) {
          jobs_.pop_front();
          continue;
        }
      }
      leave_processor(job->processor);
      job->work();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::vector<std::thread> threads_;
  std::atomic<std::uint64_t> posted_{0};  // jobs, and the end
  bool stop_ = false;
};

std::mutex pool_mutex;
std::shared_ptr<Pool>* pool_slot = nullptr;  // a pointer: a forked child drops its parent's pool without joining lost threads
int chosen_threads = 0;

int default_threads() {
  const char* text = std::getenv("FASTDET_NUM_THREADS");
  if (text != nullptr && *text != '\0') {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    FD_CHECK(*end == '\0' && value >= 1 && value <= 4096, ValueError,
             "FASTDET_NUM_THREADS: must be a number from 1 to 4096, got ", text);
    return static_cast<int>(value);
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

OpenMp openmp;        // under pool_mutex
bool forked = false;  // this process is a child: threads of its parent's runtimes are lost
thread_local bool by_framework = false;

void before_fork() { pool_mutex.lock(); }
void after_fork_parent() { pool_mutex.unlock(); }
void after_fork_child() {
  pool_slot = nullptr;
  openmp = OpenMp{};
  forked = true;
  pool_mutex.unlock();
}
const int fork_handled = pthread_atfork(before_fork, after_fork_parent, after_fork_child);

std::shared_ptr<Pool> pool() {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  (void)fork_handled;
  if (chosen_threads == 0) chosen_threads = default_threads();
  if (chosen_threads == 1) return nullptr;
  if (pool_slot == nullptr) pool_slot = new std::shared_ptr<Pool>(std::make_shared<Pool>(chosen_threads - 1));
  return *pool_slot;
}

// How many threads of the framework this thread's call is to use; 0: the pool.
int framework_threads(const OpenMp& runtime) {
  if (runtime.run == nullptr || runtime.inside() != 0) return 0;
  const int threads = runtime.max_threads();
  return threads > 1 && threads <= num_threads() ? threads : 0;
}

void run_by(const OpenMp& runtime, int threads, Job& job) {
  const auto work = [](void* data) {
    const bool before = std::exchange(inside_job, true);
    static_cast<Job*>(data)->work();
    inside_job = before;
  };
  runtime.run(work, &job, static_cast<unsigned>(threads), 0);
  job.wait();
}

OpenMp current_openmp() {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  return openmp;
}

// About four pieces a thread balance uneven work without much bookkeeping.
std::int64_t piece_for(std::int64_t n, std::int64_t grain, int threads) {
  return std::max(grain, n / (4 * static_cast<std::int64_t>(threads)));
}

// Ends the workers when the library is unloaded or the process exits.
struct PoolGuard {
  ~PoolGuard() {
    delete pool_slot;
    pool_slot = nullptr;
  }
} pool_guard;

}  // namespace

int num_threads() {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  if (chosen_threads == 0) chosen_threads = default_threads();
  return chosen_threads;
}

void set_num_threads(int count) {
  std::shared_ptr<Pool>* old = nullptr;
  {
    const std::lock_guard<std::mutex> lock(pool_mutex);
    chosen_threads = std::max(1, count);
    std::swap(old, pool_slot);
  }
  delete old;  // joins the workers once no call uses them
}

void parallel_for(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (n <= 0) return;
  grain = std::max<std::int64_t>(1, grain);
  if (n <= grain || inside_job) {
    body(0, n);
    return;
  }
  if (by_framework) {
    const OpenMp runtime = current_openmp();
    if (const int threads = framework_threads(runtime); threads > 0) {
      Job job(n, piece_for(n, grain, threads), body);
      run_by(runtime, threads, job);
      return;
    }
  }
  const std::shared_ptr<Pool> workers = pool();
  if (workers == nullptr) {
    body(0, n);
    return;
  }
  workers->run(std::make_shared<Job>(n, piece_for(n, grain, num_threads()), body));
}

void set_openmp(const OpenMp& runtime) {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  if (!forked) openmp = runtime;
}

FrameworkThreads::FrameworkThreads(bool wanted) : before_(std::exchange(by_framework, wanted)) {}
FrameworkThreads::~FrameworkThreads() { by_framework = before_; }

}  // namespace fastdet
