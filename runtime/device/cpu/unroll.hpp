// ERN_UNROLL goes before a loop over registers: its bounds are constants and it has to disappear, or the array that it
// walks lives in memory. The plain build (simd/scalar.hpp) has no such registers and leaves the loop alone, which
// spares the compiler minutes.
#pragma once

#if !defined(__AVX2__)
#define ERN_UNROLL
#elif defined(__clang__)
#define ERN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ERN_UNROLL _Pragma("GCC unroll 64")
#endif
