// What the host knows of the current device: the driver's answers take as long as the rest of a launch, so each is asked once a device.
#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "../common.h"

#ifndef FASTSEG_CUDA_HOST
#include <cuda_runtime.h>
#endif

namespace fastseg::cuda {

constexpr size_t kDefaultSharedBytes = 48 << 10;  // more must be asked for
constexpr size_t kMaxSharedBytes = 96 << 10;      // what every architecture from sm_70 on has, but sm_75's 64 KB

// What a multiprocessor has for its blocks, how much shared memory one of them may ask for, and the L2 cache.
struct Device {
  size_t shared_bytes, block_shared_bytes, l2_bytes;
  int registers, threads;

  // How many blocks a multiprocessor keeps at a time, one at least; from sm_80 on each has 1 KB of shared memory beside its own.
  int resident(int block_threads, int thread_registers, size_t block_bytes) const {
    const int64_t by_registers = registers / (round_up(thread_registers, 8) * block_threads), by_threads = threads / block_threads;
    const size_t beside = shared_bytes > kMaxSharedBytes ? 1024 : 0;
    const int64_t by_shared = int64_t(shared_bytes / std::max(block_bytes + beside, size_t{1})),
                  blocks = std::min(by_registers, by_threads);
    return int(std::max(std::min(by_shared, blocks), int64_t{1}));
  }
};

#ifdef FASTSEG_CUDA_HOST
constexpr int64_t kEnoughThreads = 1 << 8;  // to fill a device: few, so that tests meet large tiles

// One that the host build stands for, with little L2, so that tests walk as on large inputs.
inline const Device& device() {
  static const Device host = {164 << 10, 163 << 10, 16 << 10, 1 << 16, 2048};
  return host;
}
#else
constexpr int64_t kEnoughThreads = 1 << 15;

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw Error(std::string("launch: ") + cudaGetErrorString(status));
}

inline int current_device() {
  int current = 0;
  check(cudaGetDevice(&current));
  return current;
}

inline Device ask_device(int index) {
  const auto fact = [index](cudaDeviceAttr attribute) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, attribute, index));
    return value;
  };
  return {size_t(fact(cudaDevAttrMaxSharedMemoryPerMultiprocessor)), size_t(fact(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
          size_t(fact(cudaDevAttrL2CacheSize)), fact(cudaDevAttrMaxRegistersPerMultiprocessor),
          fact(cudaDevAttrMaxThreadsPerMultiProcessor)};
}

inline const Device& device() {
  static std::mutex mutex;
  static std::map<int, Device> known;  // whose entries stay where they are
  const int current = current_device();
  const std::lock_guard<std::mutex> hold(mutex);
  const auto found = known.find(current);
  return found != known.end() ? found->second : known.emplace(current, ask_device(current)).first->second;
}

// Lets a kernel have more shared memory on the current device than any may without asking.
inline void allow_shared(const void* kernel, size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> allowed;
  const int current = current_device();
  const std::lock_guard<std::mutex> hold(mutex);
  size_t& known = allowed[{kernel, current}];
  if (known >= bytes) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
  known = bytes;
}
#endif

// How much shared memory a kernel takes that does without the most that a device has: no more than on the oldest.
inline size_t shared_limit() {
  const size_t bytes = device().block_shared_bytes;
  return bytes < kMaxSharedBytes ? bytes : kMaxSharedBytes;
}

}  // namespace fastseg::cuda
