// Vectors of floats or doubles through the compiler's vector extension (GCC, Clang): AVX-512, AVX2, NEON or
// whatever else the target has. Intrinsics stand for two things: rounding to bfloat16, beside its plain form, and
// the product of bfloat16 pairs, which is used only where the target has it.
#pragma once

#include <cstdint>
#include <cstring>
#include <cmath>
#include <utility>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define RWKVCLIP_VECTOR_BYTES 64
#elif defined(__AVX__)
#define RWKVCLIP_VECTOR_BYTES 32
#else
#define RWKVCLIP_VECTOR_BYTES 16
#endif

// Arrays of vectors live in registers only where the loops over them are gone.
#if defined(__clang__)
#define RWKVCLIP_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RWKVCLIP_UNROLL _Pragma("GCC unroll 16")
#endif

namespace rwkvclip {

template <class T>
struct Simd;
template <>
struct Simd<float> {
  typedef float type __attribute__((vector_size(RWKVCLIP_VECTOR_BYTES)));
  typedef int32_t bits __attribute__((vector_size(RWKVCLIP_VECTOR_BYTES)));
};
template <>
struct Simd<double> {
  typedef double type __attribute__((vector_size(RWKVCLIP_VECTOR_BYTES)));
  typedef int64_t bits __attribute__((vector_size(RWKVCLIP_VECTOR_BYTES)));
};

template <class T>
using Vec = typename Simd<T>::type;
template <class T>
using Bits = typename Simd<T>::bits;
template <class T>
constexpr int LANES = RWKVCLIP_VECTOR_BYTES / int(sizeof(T));

struct bfloat16 {
  uint16_t bits;
};

template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};  // x − 0 is x for every x, so it costs a broadcast only; 0 + x loses the sign of −0
}

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

namespace detail {
// A bfloat16 is the upper half of a float. Compilers split the conversion to 512 bits; interleaving is one step.
template <class Half, int... I>
inline Vec<float> widen(Half narrow, std::integer_sequence<int, I...>) {
  [[maybe_unused]] constexpr int W = LANES<float>;
#if RWKVCLIP_VECTOR_BYTES == 64 && (defined(__clang__) || __GNUC__ >= 12)
  const auto wide = __builtin_shufflevector(narrow, Half{}, (I % 2 ? I / 2 : W)...);
#else
  const Bits<float> wide = __builtin_convertvector(narrow, Bits<float>) << 16;
#endif
  Vec<float> x;
  std::memcpy(&x, &wide, sizeof x);
  return x;
}
}  // namespace detail

inline Vec<float> load(const bfloat16* from) {
  typedef uint16_t Half __attribute__((vector_size(RWKVCLIP_VECTOR_BYTES / 2)));
  Half narrow;
  std::memcpy(&narrow, from, sizeof narrow);
  return detail::widen(narrow, std::make_integer_sequence<int, 2 * LANES<float>>{});
}

template <class T>
inline void store(T* to, Vec<T> x) {
  std::memcpy(to, &x, sizeof x);
}

// Rounds to nearest, ties to even; a NaN stays a NaN. (The instruction takes subnormal numbers for zero.)
inline void store(bfloat16* to, Vec<float> x) {
#if defined(__AVX512BF16__)
  __m512 wide;
  std::memcpy(&wide, &x, sizeof wide);
  const __m256bh narrow = _mm512_cvtneps_pbh(wide);
#else
  typedef uint16_t half_bits __attribute__((vector_size(RWKVCLIP_VECTOR_BYTES / 2)));
  typedef uint32_t word_bits __attribute__((vector_size(RWKVCLIP_VECTOR_BYTES)));
  word_bits wide;
  std::memcpy(&wide, &x, sizeof wide);
  const word_bits rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
  const word_bits quiet = (wide >> 16) | 0x40u;
  const word_bits chosen = (x == x) ? rounded : quiet;
  const half_bits narrow = __builtin_convertvector(chosen, half_bits);
#endif
  std::memcpy(to, &narrow, sizeof narrow);
}

// Two bfloat16 that lie side by side in memory and are multiplied in one step.
struct Pair {
  bfloat16 first, second;
};

#if defined(__AVX512BF16__)
constexpr bool HAS_PAIRS = true;

inline __m512bh load(const Pair* from) {
  __m512bh x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline __m512bh splat(Pair x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (__m512bh)_mm512_set1_epi32(bits);
}

// sum + first·first + second·second; exact products, each addition rounded, subnormal numbers taken for zero.
inline Vec<float> multiply_add(Vec<float> sum, __m512bh left, __m512bh right) {
  return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, left, right);
}
#else
constexpr bool HAS_PAIRS = false;
#endif

template <class V>
inline V multiply_add(V sum, V left, V right) {
  return sum + left * right;
}

template <class T>
inline T sum(Vec<T> x) {
  T total = 0;
  for (int i = 0; i < LANES<T>; ++i) total += x[i];
  return total;
}

template <class T, int... I>
inline Vec<T> shuffled(Vec<T> a, Vec<T> b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, Bits<T>{I...});
#endif
}

namespace detail {
template <class T, int STEP, int... I>
inline Vec<T> shift_up(Vec<T> x, Vec<T> fill, std::integer_sequence<int, I...>) {
  return shuffled<T, (I < STEP ? LANES<T> + I : I - STEP)...>(x, fill);
}
template <class T, int STEP, int... I>
inline Vec<T> shift_down(Vec<T> x, Vec<T> fill, std::integer_sequence<int, I...>) {
  return shuffled<T, (I + STEP < LANES<T> ? I + STEP : LANES<T> + I)...>(x, fill);
}
template <class T, int MASK, int... I>
inline Vec<T> flip(Vec<T> x, std::integer_sequence<int, I...>) {
  return shuffled<T, (I ^ MASK)...>(x, x);
}
template <class T, int BIT, int... I>
inline Bits<T> lanes_with(std::integer_sequence<int, I...>) {
  return Bits<T>{(I & BIT ? -1 : 0)...};
}
template <class T, int HALF, int... I>
inline Vec<T> interleave(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
  return shuffled<T, (HALF * LANES<T> / 2 + I / 2 + (I % 2) * LANES<T>)...>(a, b);
}
}  // namespace detail

// Lane i takes lane i − STEP; the first STEP lanes take `fill`'s.
template <class T, int STEP>
inline Vec<T> shift_up(Vec<T> x, Vec<T> fill) {
  return detail::shift_up<T, STEP>(x, fill, std::make_integer_sequence<int, LANES<T>>{});
}

// Lane i takes lane i + STEP; the last STEP lanes take `fill`'s.
template <class T, int STEP>
inline Vec<T> shift_down(Vec<T> x, Vec<T> fill) {
  return detail::shift_down<T, STEP>(x, fill, std::make_integer_sequence<int, LANES<T>>{});
}

// Lane i takes lane i ^ MASK.
template <class T, int MASK>
inline Vec<T> flip(Vec<T> x) {
  return detail::flip<T, MASK>(x, std::make_integer_sequence<int, LANES<T>>{});
}

// All bits set in the lanes whose number has BIT set.
template <class T, int BIT>
inline Bits<T> lanes_with() {
  return detail::lanes_with<T, BIT>(std::make_integer_sequence<int, LANES<T>>{});
}

// Inclusive product of the lanes from the first on.
template <class T, int STEP = 1>
inline Vec<T> product_up(Vec<T> x) {
  if constexpr (STEP < LANES<T>) {
    return product_up<T, 2 * STEP>(x * shift_up<T, STEP>(x, splat<T>(1)));
  } else {
    return x;
  }
}

// Inclusive product of the lanes from the last on.
template <class T, int STEP = 1>
inline Vec<T> product_down(Vec<T> x) {
  if constexpr (STEP < LANES<T>) {
    return product_down<T, 2 * STEP>(x * shift_down<T, STEP>(x, splat<T>(1)));
  } else {
    return x;
  }
}

// Inclusive sum of the lanes from the first on.
template <class T, int STEP = 1>
inline Vec<T> sum_up(Vec<T> x) {
  if constexpr (STEP < LANES<T>) {
    return sum_up<T, 2 * STEP>(x + shift_up<T, STEP>(x, Vec<T>{}));
  } else {
    return x;
  }
}

// Inclusive sum of the lanes from the last on.
template <class T, int STEP = 1>
inline Vec<T> sum_down(Vec<T> x) {
  if constexpr (STEP < LANES<T>) {
    return sum_down<T, 2 * STEP>(x + shift_down<T, STEP>(x, Vec<T>{}));
  } else {
    return x;
  }
}

// Transposes a square of vectors in place: log2(lanes) rounds of interleaving.
template <class T>
inline void transpose(Vec<T>* rows) {
  constexpr int W = LANES<T>;
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  Vec<T> next[W];
  RWKVCLIP_UNROLL
  for (int round = 1; round < W; round *= 2) {
    RWKVCLIP_UNROLL
    for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = detail::interleave<T, 0>(rows[i], rows[i + W / 2], lanes);
      next[2 * i + 1] = detail::interleave<T, 1>(rows[i], rows[i + W / 2], lanes);
    }
    RWKVCLIP_UNROLL
    for (int i = 0; i < W; ++i) rows[i] = next[i];
  }
}

// e^x within 2 units in the last place; 0 where the result would be subnormal, e^88 above 88.
inline Vec<float> exp(Vec<float> x) {
  const float magic = 12582912.f;  // 1.5 · 2^23: adding it rounds to an integer
  const Vec<float> capped = x > splat(88.f) ? splat(88.f) : x;
  const Vec<float> shifted = capped * 1.44269504088896f + magic;
  const Vec<float> n = shifted - magic;
  const Vec<float> r = (capped - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  Bits<float> exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + 127) << 23;
  Vec<float> scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return x < splat(-87.f) ? Vec<float>{} : p * scale;
}

inline Vec<double> exp(Vec<double> x) {
  Vec<double> y;
  for (int i = 0; i < LANES<double>; ++i) y[i] = std::exp(x[i]);
  return y;
}

}  // namespace rwkvclip
