// Conversions of the 16-bit storage types in portable C++. They round to nearest even and are free of branches, so that loops over them
// vectorise. `static`: every instruction set that includes this gets functions of its own.
#pragma once

#include <cstring>

#include "common.h"

namespace fastseg {

static inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
static inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

static inline float to_compute(float x) { return x; }
static inline double to_compute(double x) { return x; }
static inline float to_compute(BFloat16 x) { return float_of(uint32_t{x.bits} << 16); }
static inline float to_compute(Half x) {
  const uint32_t magnitude = x.bits & 0x7fffu, sign = uint32_t(x.bits & 0x8000u) << 16;
  const float scaled = float_of(magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  return float_of(bits_of(scaled) | special | sign);
}

static inline void from_compute(float x, float& out) { out = x; }
static inline void from_compute(double x, double& out) { out = x; }
static inline void from_compute(float x, BFloat16& out) {
  const uint32_t u = bits_of(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  out.bits = uint16_t((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
}
static inline void from_compute(float x, Half& out) {
  const uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  out.bits = uint16_t(sign | (magnitude >= 0x47800000u ? special : finite));
}

}  // namespace fastseg
