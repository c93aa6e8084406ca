// The parallel loop, and what a thread of it has of its own.
#pragma once

#include "common.h"

namespace fastseg {

// Runs body(context, begin, end) over [0, count) on at most `threads` threads, the caller included. Work is handed out in pieces of
// `grain`; the call returns when all of it is done.
void parallel_ranges(int64_t count, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t), void* context);

// The address of the process's GOMP_parallel: from here on loops run on its threads. Zero: on a pool of our own.
void use_openmp(uintptr_t gomp_parallel);

template <class Body>
void parallel_for(int64_t count, int64_t grain, int threads, Body& body) {
  auto run = [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); };
  parallel_ranges(count, grain, threads, run, &body);
}

// How many threads `work` multiply-adds keep busy for longer than it takes to wake them.
constexpr int useful_threads(int64_t work, int threads) {
  constexpr int64_t kWorth = 1 << 18;
  return work / kWorth + 1 < threads ? int(work / kWorth + 1) : threads;
}

// The calling thread's scratch memory, 64-byte aligned, kept for its next call; contents are undefined.
void* thread_scratch(size_t bytes);

}  // namespace fastseg
