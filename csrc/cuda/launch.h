// Launches: the one way a kernel of this library is started, on a GPU or, in the test build, on the host.
#pragma once

#include <climits>
#include <string>
#include <type_traits>

#include "../common.h"
#include "device.h"

#ifdef FASTSEG_CUDA_HOST
#include "host/host.h"
#endif

namespace fastseg::cuda {

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
  if (shared_bytes > device().block_shared_bytes) throw Error("launch: " + std::to_string(shared_bytes) + " bytes of shared memory");
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
