// Numbers of a tensor whose storage type is known at run time only. Kernels that do much with a number are compiled once for the type they
// compute in, not once a storage type: a row is converted where it is read or written.
#pragma once

#include <type_traits>

#include "../../ops.h"
#include "simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

template <class S>
struct Storage {
  using type = S;
};

// body(Storage<S>{}) of a tensor's dtype, beside arithmetic in T.
template <class T, class Body>
inline void with_storage(DType dtype, Body&& body) {
  if constexpr (std::is_same_v<T, double>)
    body(Storage<double>{});
  else if (dtype == DType::kFloat16)
    body(Storage<Half>{});
  else if (dtype == DType::kBFloat16)
    body(Storage<BFloat16>{});
  else
    body(Storage<float>{});
}

constexpr int64_t bytes_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// A place in a tensor; Byte is const char where it is only read.
template <class Byte>
struct Stored {
  Byte* data;
  DType dtype;
  int64_t bytes;  // of a number

  template <class Address>
  Stored(Address* data, DType dtype) : data(reinterpret_cast<Byte*>(data)), dtype(dtype), bytes(bytes_of(dtype)) {}
  template <class S>
  const S* as() const {
    return reinterpret_cast<const S*>(data);
  }
  Stored operator+(int64_t count) const {
    Stored moved = *this;
    moved.data += count * bytes;
    return moved;
  }
};
using Source = Stored<const char>;
using Target = Stored<char>;

// Numbers of T as a place of their own.
template <class T>
inline Source source(const T* data) {
  return {data, kDTypeOf<T>};
}
template <class T>
FASTSEG_APART void read(const Source& from, T* to, int64_t count) {
  with_storage<T>(from.dtype,
                  [&](auto storage) { read_row(reinterpret_cast<const typename decltype(storage)::type*>(from.data), to, count); });
}
template <class T>
FASTSEG_APART void write(const T* from, const Target& to, int64_t count) {
  with_storage<T>(to.dtype, [&](auto storage) { write_row(from, reinterpret_cast<typename decltype(storage)::type*>(to.data), count); });
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
