// SPDX-License-Identifier: Apache-2.0
// CUDA's built-in vector types with CUDA's alignment, which -fsanitize=alignment then holds vector loads to.
#pragma once

#define FD_EMULATED_VECTOR_TYPES(name, T, align2, align4)            \
  struct name##1 { T x; };                                           \
  struct alignas(align2) name##2 { T x, y; };                        \
  struct name##3 { T x, y, z; };                                     \
  struct alignas(align4) name##4 { T x, y, z, w; };                  \
  inline name##1 make_##name##1(T x) { return {x}; }                 \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

FD_EMULATED_VECTOR_TYPES(char, signed char, 2, 4)
FD_EMULATED_VECTOR_TYPES(uchar, unsigned char, 2, 4)
FD_EMULATED_VECTOR_TYPES(short, short, 4, 8)
FD_EMULATED_VECTOR_TYPES(ushort, unsigned short, 4, 8)
FD_EMULATED_VECTOR_TYPES(int, int, 8, 16)
FD_EMULATED_VECTOR_TYPES(uint, unsigned, 8, 16)
FD_EMULATED_VECTOR_TYPES(longlong, long long, 16, 16)
FD_EMULATED_VECTOR_TYPES(ulonglong, unsigned long long, 16, 16)
FD_EMULATED_VECTOR_TYPES(float, float, 8, 16)
FD_EMULATED_VECTOR_TYPES(double, double, 16, 16)
#undef FD_EMULATED_VECTOR_TYPES

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
