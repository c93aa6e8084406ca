// The parallel loop. It runs on the OpenMP threads of the process once their entry point is known (use_openmp): those threads spin for
// milliseconds after torch's own loops, and a second pool would share the cores with them. Without it, and in a forked child, where
// OpenMP's threads are gone for good, it runs on a small pool of its own: workers spin briefly for the next call, then sleep.
#include "parallel.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

namespace fastseg {
namespace {

constexpr auto kSpin = std::chrono::microseconds(30);

struct Job {
  void (*body)(void*, int64_t, int64_t);
  void* context;
  int64_t count, grain;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  void work() {
    while (!failed.load(std::memory_order_relaxed)) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      try {
        body(context, begin, begin + grain < count ? begin + grain : count);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }
};

// A call publishes its job with a new generation; each worker it wants takes one ticket, and the call waits for the tickets to return.
class Pool {
 public:
  void run(Job& job, int helpers) {
    if (helpers <= 0 || !busy_.try_lock()) return job.work();
    std::lock_guard<std::mutex> release(busy_, std::adopt_lock);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (; started_ < helpers; ++started_) std::thread([this] { serve(); }).detach();
      job_ = &job;
      running_.store(helpers, std::memory_order_relaxed);
      tickets_.store(helpers, std::memory_order_release);
    }
    wake_.notify_all();
    job.work();
    tickets_withdrawn();
    while (running_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
  }

 private:
  // Tickets nobody has taken yet are handed back, so that a short job does not wait for a sleeping worker.
  void tickets_withdrawn() {
    const int left = tickets_.exchange(0, std::memory_order_acq_rel);
    if (left > 0) running_.fetch_sub(left, std::memory_order_release);
  }

  bool take_ticket() {
    int available = tickets_.load(std::memory_order_acquire);
    while (available > 0)
      if (tickets_.compare_exchange_weak(available, available - 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void wait_for_ticket() {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    for (int i = 1; !take_ticket(); ++i) {
      if (i % 64 || std::chrono::steady_clock::now() < deadline) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return tickets_.load(std::memory_order_acquire) > 0; });
    }
  }

  void serve() {
    for (;;) {
      wait_for_ticket();
      job_->work();
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_;
  std::atomic<int> tickets_{0}, running_{0};
  Job* job_ = nullptr;
  int started_ = 0;
};

// Never destroyed: workers may outlive static destructors. After fork the child has no workers, so it starts with a new pool.
Pool*& pool() {
  static Pool* instance = [] {
    pthread_atfork(nullptr, nullptr, [] { pool() = new Pool; });
    return new Pool;
  }();
  return instance;
}

// void GOMP_parallel(void (*)(void*), void*, unsigned threads, unsigned flags): what `#pragma omp parallel` calls in GCC's runtime, and
// LLVM's has it too.
using OpenMp = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<OpenMp> openmp{nullptr};

}  // namespace

void use_openmp(uintptr_t gomp_parallel) {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { openmp.store(nullptr); });
  (void)registered;
  openmp.store(reinterpret_cast<OpenMp>(gomp_parallel));
}

void parallel_ranges(int64_t count, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  Job job{body, context, count, grain};
  const int64_t pieces = ceil_div(count, grain);
  const int used = int(threads < pieces ? threads : pieces);
  const OpenMp entry = openmp.load(std::memory_order_relaxed);
  if (used == 1)
    job.work();
  else if (entry)
    entry([](void* shared) { static_cast<Job*>(shared)->work(); }, &job, unsigned(used), 0);
  else
    pool()->run(job, used - 1);
  if (job.error) std::rethrow_exception(job.error);
}

void* thread_scratch(size_t bytes) {
  struct Memory {
    void* data = nullptr;
    size_t size = 0;
    ~Memory() { std::free(data); }
  };
  static thread_local Memory memory;
  if (bytes > memory.size) {
    std::free(memory.data);
    memory.size = (bytes + 4095) / 4096 * 4096;
    memory.data = std::aligned_alloc(64, memory.size);
    if (!memory.data) {
      memory.size = 0;
      throw std::bad_alloc();
    }
  }
  return memory.data;
}

}  // namespace fastseg
