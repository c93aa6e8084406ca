// Launches: the one way a kernel of this library is started, on a GPU or, in the test build, on the host.
#pragma once

#include <climits>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include "../common.h"

#ifdef FASTSEG_CUDA_HOST
#include "host/host.h"
#else
#include <cuda_runtime.h>
#endif

namespace fastseg::cuda {

constexpr size_t kDefaultSharedBytes = 48 << 10;  // more must be asked for
constexpr size_t kMaxSharedBytes = 96 << 10;      // what every architecture from sm_70 on has, but sm_75's 64 KB
constexpr size_t kHostSharedBytes = 163 << 10;    // of the device that the host build stands for

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

#ifdef FASTSEG_CUDA_HOST
inline size_t largest_shared() { return kHostSharedBytes; }
#else
inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw Error(std::string("launch: ") + cudaGetErrorString(status));
}

// What was found out about something once for each device: the driver's answers take as long as the rest of a launch.
template <class Key, class Value>
class Remembered {
 public:
  // The value of a key on the current device; found(value, device) says whether it will do, or makes it do.
  template <class Found>
  Value of(Key key, Found&& found) {
    int device = 0;
    check(cudaGetDevice(&device));
    const std::lock_guard<std::mutex> hold(mutex_);
    Value& value = values_[{key, device}];
    found(value, device);
    return value;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<Key, int>, Value> values_;
};

// The most shared memory that a block may ask for on the current device.
inline size_t largest_shared() {
  static Remembered<int, int> limits;
  return size_t(limits.of(0, [](int& known, int device) {
    if (!known) check(cudaDeviceGetAttribute(&known, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  }));
}

// Lets a kernel have more shared memory on the current device than any may without asking.
inline void allow_shared(const void* kernel, size_t bytes) {
  static Remembered<const void*, size_t> allowed;
  allowed.of(kernel, [&](size_t& known, int) {
    if (known >= bytes) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
    known = bytes;
  });
}
#endif

// How much of it a kernel takes that wants more than one block on a multiprocessor.
inline size_t shared_limit() {
  const size_t bytes = largest_shared();
  return bytes < kMaxSharedBytes ? bytes : kMaxSharedBytes;
}

// Bytes of the current device's L2 cache; on the host few, so that tests walk as on large inputs.
inline size_t l2_bytes() {
#ifdef FASTSEG_CUDA_HOST
  return 16 << 10;
#else
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device) != cudaSuccess)
    return 4 << 20;
  return size_t(bytes);
#endif
}

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
  if (shared_bytes > kHostSharedBytes) throw Error("launch: " + std::to_string(shared_bytes) + " bytes of shared memory");
  auto call = [&] { kernel(args...); };
  host::machine.run(grid, block, shared_bytes, [](void* closure) { (*static_cast<decltype(call)*>(closure))(); }, &call);
#else
  if (shared_bytes > kDefaultSharedBytes) allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...));
#endif
}

}  // namespace fastseg::cuda
