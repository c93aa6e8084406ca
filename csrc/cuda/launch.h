// Launches: the one way a kernel of this library is started, on a GPU or, in the test build, on the host.
#pragma once

#include <climits>
#include <mutex>
#include <string>
#include <type_traits>

#include "../common.h"

#ifdef FASTSEG_CUDA_HOST
#include "host/host.h"
#else
#include <cuda_runtime.h>
#endif

namespace fastseg::cuda {

constexpr size_t kDefaultSharedBytes = 48 << 10;  // more must be asked for
constexpr size_t kMaxSharedBytes = 96 << 10;      // what every architecture from sm_70 on has, but sm_75's 64 KB

// The dynamic shared memory of the block, aligned to 16 bytes.
#ifdef FASTSEG_CUDA_HOST
template <class T>
T* shared_memory() {
  return static_cast<T*>(host::machine.shared());
}
#else
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char fastseg_shared_memory[];
  return reinterpret_cast<T*>(fastseg_shared_memory);
}
#endif

// What a multiprocessor of a device has for its blocks, and how much shared memory one of them may take.
struct Device {
  size_t shared_bytes, block_shared_bytes;
  int registers, threads;

  // How many blocks it keeps at a time; those of shared memory have 1 KB beside it from sm_80 on.
  int resident(int block_threads, int thread_registers, size_t block_bytes) const {
    const int64_t by_registers = registers / (round_up(thread_registers, 8) * block_threads), by_threads = threads / block_threads;
    const int64_t by_shared = int64_t(shared_bytes / (block_bytes + 1024)), blocks = by_registers < by_threads ? by_registers : by_threads;
    return int(by_shared < blocks ? by_shared : blocks);
  }
};

// The current device, asked once.
inline const Device& device() {
#ifdef FASTSEG_CUDA_HOST
  static const Device host = {kMaxSharedBytes, kMaxSharedBytes, 1 << 16, 2048};
  return host;
#else
  constexpr int kDevices = 64;
  static const Device unknown = {kMaxSharedBytes, kDefaultSharedBytes, 1 << 16, 1024};
  static Device known[kDevices];
  static std::once_flag asked[kDevices];
  int current = 0;
  if (cudaGetDevice(&current) != cudaSuccess || current >= kDevices) return unknown;
  std::call_once(asked[current], [&] {
    const auto fact = [&](cudaDeviceAttr attribute, int64_t otherwise) {
      int value = 0;
      return cudaDeviceGetAttribute(&value, attribute, current) == cudaSuccess ? int64_t{value} : otherwise;
    };
    const size_t block_bytes = size_t(fact(cudaDevAttrMaxSharedMemoryPerBlockOptin, kDefaultSharedBytes));
    known[current] = {size_t(fact(cudaDevAttrMaxSharedMemoryPerMultiprocessor, kMaxSharedBytes)),
                      block_bytes < kMaxSharedBytes ? block_bytes : kMaxSharedBytes,
                      int(fact(cudaDevAttrMaxRegistersPerMultiprocessor, 1 << 16)),
                      int(fact(cudaDevAttrMaxThreadsPerMultiProcessor, 1024))};
  });
  return known[current];
#endif
}

// How much shared memory a block can have on the current device.
inline size_t shared_limit() { return device().block_shared_bytes; }

// Extents of a grid: any number of blocks along x, up to 65535 along y and z.
inline dim3 grid_of(int64_t x, int64_t y = 1, int64_t z = 1) {
  if (x < 1 || x > INT_MAX || y < 1 || y > 65535 || z < 1 || z > 65535)
    throw Error("launch: no grid of " + std::to_string(x) + " × " + std::to_string(y) + " × " + std::to_string(z) + " blocks");
  return dim3(unsigned(x), unsigned(y), unsigned(z));
}

// Starts kernel(args...) on `stream`.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, A... args) {
  static_assert((std::is_trivially_copyable_v<P> && ...), "the arguments of a kernel are copied as bytes");
#ifdef FASTSEG_CUDA_HOST
  (void)stream;
  grid_of(grid.x, grid.y, grid.z);
  if (size_t(block.x) * block.y * block.z - 1 >= 1024) throw Error("launch: a block has 1 to 1024 threads");
  if (shared_bytes > kMaxSharedBytes) throw Error("launch: " + std::to_string(shared_bytes) + " bytes of shared memory");
  auto call = [&] { kernel(args...); };
  host::machine.run(grid, block, shared_bytes, [](void* closure) { (*static_cast<decltype(call)*>(closure))(); }, &call);
#else
  const auto check = [](cudaError_t status) {
    if (status != cudaSuccess) throw Error(std::string("launch: ") + cudaGetErrorString(status));
  };
  if (shared_bytes > kDefaultSharedBytes)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...));
#endif
}

}  // namespace fastseg::cuda
