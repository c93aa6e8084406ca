// Executes CUDA kernels on the CPU, for tests: the same sources, compiled as C++. A thread is a fiber that runs until it waits at a barrier
// or in a warp operation, or returns. What no barrier orders runs in an order drawn from FASTSEG_HOST_SEED, so that a missing one shows as
// a wrong result; a barrier that only some threads reach ends the process with the places they are at. Shared memory is a heap block of
// exactly the size asked for, filled with NaN for every thread block: AddressSanitizer sees an overrun, a test an unwritten number.
#pragma once

#include <cmath>

#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

// The names CUDA gives them. A call's own line is where it waits, so that two barriers are never taken for one.
#define FASTSEG_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FASTSEG_HERE) { fastseg::host::machine.barrier({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, FASTSEG_HERE) { fastseg::host::machine.exchange(mask, {}, {file, line}); }
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, FASTSEG_HERE) {
  using namespace fastseg::host;
  const int first = machine.lane() / width * width;
  return from_bits<T>(machine.read_lane(mask, to_bits(value), first + source % width, {file, line}));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, FASTSEG_HERE) {
  using namespace fastseg::host;
  const int self = machine.lane(), source = self ^ lanes;
  return from_bits<T>(machine.read_lane(mask, to_bits(value), source / width > self / width ? self : source, {file, line}));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, FASTSEG_HERE) {
  using namespace fastseg::host;
  const int self = machine.lane(), source = self + int(lanes);
  return from_bits<T>(machine.read_lane(mask, to_bits(value), source / width > self / width ? self : source, {file, line}));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, FASTSEG_HERE) {
  using namespace fastseg::host;
  const int self = machine.lane(), source = self - int(lanes);
  return from_bits<T>(machine.read_lane(mask, to_bits(value), source < self / width * width ? self : source, {file, line}));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, FASTSEG_HERE) {
  const fastseg::host::Parcel* handed = fastseg::host::machine.exchange(mask, {{uint64_t(predicate != 0)}}, {file, line});
  unsigned ballot = 0;
  for (int lane = 0; lane < fastseg::host::kLanes; ++lane)
    if (mask >> lane & 1) ballot |= unsigned(handed[lane].words[0]) << lane;
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, FASTSEG_HERE) { return __ballot_sync(mask, predicate, file, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, FASTSEG_HERE) { return __ballot_sync(mask, predicate, file, line) == mask; }
#undef FASTSEG_HERE

// One thread runs at a time, so a plain sum is atomic.
template <class T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address += value;
  return old;
}
template <class T>
T __ldg(const T* address) {
  return *address;
}

template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
