// Small kernels, right and wrong ones, for the tests of csrc/cuda/host/host.h: host_kernels NAME prints the numbers the kernel wrote.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "intrinsics.h"
#include "launch.h"
#include "tensor/fragments.h"

namespace fastseg::cuda {
namespace {

constexpr int kThreads = 64;

// Each thread reads what its mirror image wrote; with the barrier, 63 62 … 0.
template <bool barrier>
__global__ void reverse(float* out) {
  float* row = shared_memory<float>();
  row[threadIdx.x] = float(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = row[kThreads - 1 - threadIdx.x];
}

// Two rounds through one tile: the second barrier keeps a fast thread from overwriting what a slow one still reads.
template <bool second_barrier>
__global__ void rotate_twice(float* out) {
  float* row = shared_memory<float>();
  float value = float(threadIdx.x);
  for (int round = 0; round < 2; ++round) {
    row[threadIdx.x] = value;
    __syncthreads();
    value = row[(threadIdx.x + 1) % kThreads];
    if (second_barrier) __syncthreads();
  }
  out[threadIdx.x] = value;
}

__global__ void shared_overrun(float* out) {
  shared_memory<float>()[threadIdx.x + 1] = 1;
  out[threadIdx.x] = 1;
}

__global__ void global_overrun(float* out) { out[threadIdx.x + 1] = 1; }

__global__ void misaligned(float* out) { store_pack(out + 1, Pack<float, 4>{}); }

__global__ void skips_the_last(float* out) {
  if (threadIdx.x + 1 < kThreads) out[threadIdx.x] = 1;
}

__global__ void unwritten_shared(float* out) { out[threadIdx.x] = shared_memory<float>()[threadIdx.x]; }

__global__ void shuffles(float* out) {
  const float lane = float(threadIdx.x % 32);
  const float sum = warp_sum(lane);
  const float first = __shfl_sync(kAllLanes, lane, 0, 8), next = __shfl_down_sync(kAllLanes, lane, 1);
  const float previous = __shfl_up_sync(kAllLanes, lane, 2u, 16), partner = __shfl_xor_sync(kAllLanes, lane, 3);
  const unsigned odd = __ballot_sync(kAllLanes, threadIdx.x % 2);
  out[threadIdx.x] = sum + 1000 * first + 1e5f * next + (previous != lane - (threadIdx.x % 16 < 2 ? 0 : 2)) +
                     (partner != float((threadIdx.x % 32) ^ 3)) + (odd != 0xaaaaaaaau);
}

__global__ void counts(float* out) {
  if (threadIdx.x == 0) out[0] = 0;
  __syncthreads();
  atomicAdd(out, 1.0f);
  __syncthreads();
  if (threadIdx.x) out[threadIdx.x] = out[0];
}

__global__ void leaves_early(float* out) {
  if (threadIdx.x == 7) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_barriers(float* out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void lost_lane(float* out) {
  if (threadIdx.x != 5) out[threadIdx.x] = warp_sum(1);
}

__global__ void two_shuffles(float* out) {
  if (threadIdx.x == 3)
    out[threadIdx.x] = __shfl_sync(kAllLanes, 1.0f, 0);
  else
    out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}

__global__ void deep_recursion(float* out) {
  float row[4096];
  float* volatile kept = row;
  for (int i = 0; i < 4096; ++i) kept[i] = float(i);
  if (out) deep_recursion(out);
  out[0] = kept[17];
}

// Numbers of few bits, so that every product and sum is exact: A[i][k] = i − 2k, B[k][j] = k + 3j − 8.
template <int depth>
float product_at(int i, int j) {
  float sum = 0;
  for (int k = 0; k < depth; ++k) sum += float(i - 2 * k) * float(k + 3 * j - 8);
  return sum;
}

// How far a lane's results are off, in all.
template <int depth>
__device__ void compare(const float (&d)[4], float* out) {
  const int g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
  float error = 0;
  for (int i = 0; i < 4; ++i) error += std::fabs(d[i] - 1 - product_at<depth>(g + i / 2 * 8, 2 * t + i % 2));
  out[threadIdx.x] = error;
}

__global__ void multiplies_tf32(float* out) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const auto a = [&](int i, int k) { return as_bits(float(i - 2 * k)); };
  const auto b = [&](int k) { return as_bits(float(k + 3 * g - 8)) | 0x1fffu; };  // the hardware does not look at these bits
  float d[4] = {1, 1, 1, 1};
  mma_tf32(d, {{a(g, t), a(g + 8, t), a(g, t + 4), a(g + 8, t + 4)}}, b(t), b(t + 4));
  compare<8>(d, out);
}

template <class S>
__global__ void multiplies_16(float* out) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const auto pair = [](float x, float y) {
    S low, high;
    from_compute(x, low), from_compute(y, high);
    return uint32_t{high.bits} << 16 | low.bits;
  };
  const auto a = [&](int i, int k) { return pair(float(i - 2 * k), float(i - 2 * k - 2)); };
  const auto b = [&](int k) { return pair(float(k + 3 * g - 8), float(k + 3 * g - 7)); };
  float d[4] = {1, 1, 1, 1};
  mma_16(d, {{a(g, 2 * t), a(g + 8, 2 * t), a(g, 2 * t + 8), a(g + 8, 2 * t + 8)}}, b(2 * t), b(2 * t + 8), S{});
  compare<16>(d, out);
}

__global__ void splits(float* out) {
  const float x = (threadIdx.x % 2 ? -1.f : 1.f) * (1.f + float(threadIdx.x) * 0x1.2345p-9f);
  const uint32_t big = to_tf32(x), rest = tf32_rest(x, big);
  const bool short_enough = !(big & 0x1fffu) && std::fabs(as_float(rest)) <= 0x1p-11f;
  out[threadIdx.x] = float(as_float(big) + as_float(rest) == x && short_enough) + saturate(float(threadIdx.x) - 31.5f);
}

struct Case {
  const char* name;
  void (*kernel)(float*);
};
constexpr Case kCases[] = {
    {"reverse", reverse<true>},
    {"reverse_without_barrier", reverse<false>},
    {"rotate_twice", rotate_twice<true>},
    {"rotate_twice_with_one_barrier", rotate_twice<false>},
    {"shared_overrun", shared_overrun},
    {"global_overrun", global_overrun},
    {"misaligned", misaligned},
    {"skips_the_last", skips_the_last},
    {"unwritten_shared", unwritten_shared},
    {"shuffles", shuffles},
    {"counts", counts},
    {"multiplies_tf32", multiplies_tf32},
    {"multiplies_half", multiplies_16<Half>},
    {"multiplies_bfloat16", multiplies_16<BFloat16>},
    {"splits", splits},
    {"leaves_early", leaves_early},
    {"two_barriers", two_barriers},
    {"lost_lane", lost_lane},
    {"two_shuffles", two_shuffles},
    {"deep_recursion", deep_recursion},
};

int run(const char* name) {
  for (const Case& c : kCases) {
    if (std::strcmp(c.name, name)) continue;
    float* out = static_cast<float*>(std::malloc(kThreads * sizeof(float)));
    std::memset(out, 0xff, kThreads * sizeof(float));
    launch(c.kernel, grid_of(1), kThreads, kThreads * sizeof(float), nullptr, out);
    for (int i = 0; i < kThreads; ++i) std::printf("%.9g\n", double(out[i]));
    std::free(out);
    return 0;
  }
  return 2;
}

// Every block writes its own place; blocks are many and three-dimensional.
__global__ void positions(int* out) {
  const int block = int((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
  const int thread = int((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
  out[block * 24 + thread] = block * 24 + thread;
}

int run_positions() {
  int out[60 * 24];
  launch(positions, grid_of(5, 4, 3), dim3(4, 3, 2), 0, nullptr, out);
  for (int i = 0; i < 60 * 24; ++i)
    if (out[i] != i) return 1;
  return 0;
}

int refuse() {
  int refused = 0;
  const auto attempt = [&](auto&& call) {
    try {
      call();
    } catch (const Error&) {
      ++refused;
    }
  };
  attempt([] { grid_of(0); });
  attempt([] { grid_of(1, 70000); });
  attempt([] { grid_of(int64_t{1} << 31); });
  attempt([] { launch(reverse<true>, dim3(1), 1025, 0, nullptr, static_cast<float*>(nullptr)); });
  attempt([] { launch(reverse<true>, dim3(1), 0, 0, nullptr, static_cast<float*>(nullptr)); });
  attempt([] { launch(reverse<true>, dim3(1), 64, 200 << 10, nullptr, static_cast<float*>(nullptr)); });
  return refused == 6 ? 0 : 1;
}

}  // namespace
}  // namespace fastseg::cuda

int main(int count, char** arguments) {
  using namespace fastseg::cuda;
  if (count != 2) return 2;
  if (!std::strcmp(arguments[1], "positions")) return run_positions();
  if (!std::strcmp(arguments[1], "refuse")) return refuse();
  return run(arguments[1]);
}
