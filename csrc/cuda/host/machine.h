// The multiprocessor of host.h: threads of a block are fibers that wait for one another at barriers and in warp operations.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "../../common.h"
#include "fiber.h"

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace fastseg::host {

constexpr int kLanes = 32;

// A place in a kernel where threads wait for one another.
struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const { return line == other.line && (file == other.file || !std::strcmp(file, other.file)); }
};

// What a lane gives the others in a warp operation: at most the operands of an mma.
struct Parcel {
  uint64_t words[3] = {};
};

struct Thread {
  enum State { kRunnable, kAtBarrier, kInWarp, kReturned };
  Fiber fiber;
  State state;
  Site site;
  unsigned mask;     // the lanes it waits for in a warp operation
  Parcel hands_out;  // what it gives them
};

struct Warp {
  unsigned waiting = 0;   // lanes in a warp operation
  Parcel handed[kLanes];  // what each lane last gave
};

[[noreturn]] inline void fail(const char* format, ...) {
  std::fprintf(stderr, "fastseg: kernel on the host, block (%u, %u, %u): ", blockIdx.x, blockIdx.y, blockIdx.z);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

// One multiprocessor: runs the blocks of a grid one after the other.
class Machine {
 public:
  void run(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(void*), void* arguments) {
    std::lock_guard<std::mutex> one_at_a_time(busy_);
    const char* seed = std::getenv("FASTSEG_HOST_SEED");
    random_ = (seed ? std::strtoull(seed, nullptr, 10) : 0) + (++launches_ << 32);
    gridDim = grid, blockDim = block, kernel_ = kernel, arguments_ = arguments;
    count_ = int(block.x * block.y * block.z);
    if (count_ > int(threads_.size())) threads_.resize(size_t(count_)), warps_.resize(size_t(ceil_div(count_, kLanes)));
    shared_ = std::malloc(shared_bytes);
    std::vector<int64_t> blocks(size_t(grid.x) * grid.y * grid.z);
    std::iota(blocks.begin(), blocks.end(), 0);
    shuffle(blocks);
    for (int64_t index : blocks) {
      blockIdx = position(index, grid);
      std::memset(shared_, 0xff, shared_bytes);
      run_block();
    }
    std::free(shared_);
  }

  void* shared() const { return shared_; }
  int lane() const { return current_ % kLanes; }

  void barrier(Site site) { wait(Thread::kAtBarrier, site, 0); }

  // Hands `parcel` to the lanes of `mask` and waits until each of them has done so; what lane i gave is at [i].
  const Parcel* exchange(unsigned mask, const Parcel& parcel, Site site) {
    if (!(mask >> lane() & 1)) fail("lane %d is at %s:%d but not in its mask %08x", lane(), site.file, site.line, mask);
    threads_[current_].hands_out = parcel;
    wait(Thread::kInWarp, site, mask);
    return warps_[current_ / kLanes].handed;
  }

  uint64_t read_lane(unsigned mask, uint64_t value, int source, Site site) {
    if (!(mask >> source & 1)) fail("%s:%d reads lane %d, which is not in mask %08x", site.file, site.line, source, mask);
    return exchange(mask, {{value}}, site)[source].words[0];
  }

 private:
  static uint3 position(int64_t index, dim3 extent) {
    return {unsigned(index % extent.x), unsigned(index / extent.x % extent.y), unsigned(index / extent.x / extent.y)};
  }

  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) {
      random_ += 0x9e3779b97f4a7c15;
      uint64_t z = (random_ ^ (random_ >> 30)) * 0xbf58476d1ce4e5b9;
      z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
      std::swap(items[i - 1], items[(z >> 33) % i]);
    }
  }

  void run_block() {
    for (int i = 0; i < count_; ++i) {
      threads_[i].fiber.start(thread_main);
      release(i);
    }
    while (!runnable_.empty()) {
      round_.swap(runnable_);
      shuffle(round_);
      for (int i : round_) resume(i);
      round_.clear();
      if (runnable_.empty()) release_barrier();
    }
  }

  void resume(int i) {
    current_ = i;
    threadIdx = position(i, blockDim);
    threads_[i].fiber.resume();
  }

  static void thread_main();

  void thread() noexcept {
    Thread& self = threads_[current_];
    self.fiber.started();
    kernel_(arguments_);
    self.state = Thread::kReturned;
    self.fiber.finish();
  }

  void wait(Thread::State state, Site site, unsigned mask) {
    Thread& self = threads_[current_];
    self.state = state, self.site = site, self.mask = mask;
    if (state == Thread::kInWarp) release_warp(self);
    self.fiber.suspend();
  }

  void release(int i) {
    threads_[i].state = Thread::kRunnable;
    runnable_.push_back(i);
  }

  // Nothing can run: all threads have returned, or all are at one barrier, or they wait for each other in vain.
  void release_barrier() {
    int apart = 0;
    while (apart < count_ && together(threads_[0], threads_[apart])) ++apart;
    if (apart < count_ || threads_[0].state == Thread::kInWarp) fail_apart(0, apart % count_);
    if (threads_[0].state == Thread::kAtBarrier)
      for (int i = 0; i < count_; ++i) release(i);
  }

  static bool together(const Thread& a, const Thread& b) {
    return a.state == b.state && (a.state == Thread::kReturned || (a.site == b.site && a.mask == b.mask));
  }

  // The last arrival of a mask's lanes lets all of them go on.
  void release_warp(const Thread& last) {
    const int first = current_ / kLanes * kLanes;
    Warp& warp = warps_[first / kLanes];
    warp.waiting |= 1u << lane();
    if (last.mask & ~warp.waiting) return;
    warp.waiting &= ~last.mask;
    for (int lane = 0; lane < kLanes; ++lane)
      if (last.mask >> lane & 1 && !together(last, threads_[first + lane])) fail_apart(current_, first + lane);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!(last.mask >> lane & 1)) continue;
      warp.handed[lane] = threads_[first + lane].hands_out;
      release(first + lane);
    }
  }

  [[noreturn]] void fail_apart(int a, int b) const {
    char text[2][512];
    for (int side = 0; side < 2; ++side) {
      const Thread& thread = threads_[side ? b : a];
      const uint3 index = position(side ? b : a, blockDim);
      const int used = std::snprintf(text[side], sizeof text[side], "thread (%u, %u, %u) ", index.x, index.y, index.z);
      char* end = text[side] + used;
      const size_t left = sizeof text[side] - size_t(used);
      if (thread.state == Thread::kReturned) std::snprintf(end, left, "has returned");
      if (thread.state == Thread::kRunnable) std::snprintf(end, left, "runs");
      if (thread.state == Thread::kAtBarrier) std::snprintf(end, left, "waits at the barrier %s:%d", thread.site.file, thread.site.line);
      if (thread.state == Thread::kInWarp)
        std::snprintf(end, left, "waits at %s:%d for lanes %08x", thread.site.file, thread.site.line, thread.mask);
    }
    fail("threads diverge: %s, %s", text[0], text[1]);
  }

  std::mutex busy_;
  uint64_t random_ = 0, launches_ = 0;
  void (*kernel_)(void*) = nullptr;
  void* arguments_ = nullptr;
  void* shared_ = nullptr;
  int count_ = 0, current_ = 0;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> runnable_, round_;
};

inline Machine machine;

inline void Machine::thread_main() { machine.thread(); }

template <class T>
uint64_t to_bits(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace fastseg::host
