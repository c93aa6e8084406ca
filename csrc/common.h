// Shared by every kernel: storage types, the error type and small integer helpers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace fastseg {

enum class DType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The dtype a storage type belongs to.
template <class S>
constexpr DType kDTypeOf = DType::kFloat32;
template <>
constexpr DType kDTypeOf<double> = DType::kFloat64;
template <>
constexpr DType kDTypeOf<Half> = DType::kFloat16;
template <>
constexpr DType kDTypeOf<BFloat16> = DType::kBFloat16;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace fastseg
