// Vectors of float32, of this object's instruction-set level: the only file that names instructions.
//
// F is kLanes floats, I the same number of 32-bit integers. Arithmetic operators are the compiler's. Every function
// works lane by lane unless its name says otherwise, so a lane's result never depends on its neighbours; what is left
// over at the end of a row goes through the same code by load_part and store_part.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace quire {

using bf16 = uint16_t;  // the upper half of a float32
using f16 = uint16_t;   // IEEE half precision

#if defined(__AVX512F__)

constexpr int kLanes = 16;
using F = __m512;
using I = __m512i;

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F broadcast(float x) { return _mm512_set1_ps(x); }
inline F zero() { return _mm512_setzero_ps(); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F as_float(I v) { return _mm512_castsi512_ps(v); }
inline I as_int(F v) { return _mm512_castps_si512(v); }
inline I load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store(int32_t* p, I v) { _mm512_storeu_si512(p, v); }
inline I broadcast(int32_t x) { return _mm512_set1_epi32(x); }
inline I add(I a, I b) { return _mm512_add_epi32(a, b); }
inline I subtract(I a, I b) { return _mm512_sub_epi32(a, b); }
inline I max(I a, I b) { return _mm512_max_epi32(a, b); }
inline I load_i8(const int8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
// Values in -128 .. 127.
inline void store_i8(int8_t* p, I v) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(v)); }
// Twice kLanes bytes, two in each lane, as 16-bit numbers.
inline I load_i8_pairs(const int8_t* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p)); }
// Values in -32768 .. 32767.
inline void store_i16(int16_t* p, I v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(v)); }
// In each quad of numbers, 0, 2, 1, 3.
inline void store_i16_even_odd(int16_t* p, I v) {
  const __m256i packed = _mm256_shufflelo_epi16(_mm512_cvtepi32_epi16(v), 0xd8);
  _mm256_storeu_si256((__m256i*)p, _mm256_shufflehi_epi16(packed, 0xd8));
}
inline I add_i16(I a, I b) { return _mm512_add_epi16(a, b); }
template <int n> inline I shift_right_i16(I v) { return _mm512_srli_epi16(v, n); }
// Products of adjacent unsigned bytes of a and signed ones of b, added up in pairs; and of adjacent 16-bit numbers.
inline I multiply_add_i8(I a, I b) { return _mm512_maddubs_epi16(a, b); }
inline I multiply_add_i16(I a, I b) { return _mm512_madd_epi16(a, b); }
inline int32_t sum_lanes(I v) { return _mm512_reduce_add_epi32(v); }
inline int32_t max_lanes(I v) { return _mm512_reduce_max_epi32(v); }
inline I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
inline I bit_or(I a, I b) { return _mm512_or_si512(a, b); }
template <int n> inline I shift_left(I v) { return _mm512_slli_epi32(v, n); }
template <int n> inline I shift_right(I v) { return _mm512_srli_epi32(v, n); }
inline I shift_right(I v, int n) { return _mm512_srl_epi32(v, _mm_cvtsi32_si128(n)); }
inline F to_float(I v) { return _mm512_cvtepi32_ps(v); }
inline I to_int_nearest(F v) { return _mm512_cvtps_epi32(v); }
inline F round_nearest(F v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I load_u16(const uint16_t* p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)); }
inline void store_u16(uint16_t* p, I v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(v)); }
inline F load_f16(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
// Where a < b take x, elsewhere y.
inline F where_less(F a, F b, F x, F y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x); }
inline F where_nan(F a, F x, F y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), y, x); }
// Bit i: whether a >= b in lane i.
inline uint32_t bits_at_least(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
// Towards zero.
inline I to_int_down(F v) { return _mm512_cvttps_epi32(v); }
// In each 128 bits: the lower (upper) halves of a and b, their lanes or pairs of lanes in turn.
inline I zip_low(I a, I b) { return _mm512_unpacklo_epi32(a, b); }
inline I zip_high(I a, I b) { return _mm512_unpackhi_epi32(a, b); }
inline I zip_low_pairs(I a, I b) { return _mm512_unpacklo_epi64(a, b); }
inline I zip_high_pairs(I a, I b) { return _mm512_unpackhi_epi64(a, b); }

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int kLanes = 8;
using F = __m256;
using I = __m256i;

inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline F broadcast(float x) { return _mm256_set1_ps(x); }
inline F zero() { return _mm256_setzero_ps(); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F as_float(I v) { return _mm256_castsi256_ps(v); }
inline I as_int(F v) { return _mm256_castps_si256(v); }
inline I load(const int32_t* p) { return _mm256_loadu_si256((const I*)p); }
inline void store(int32_t* p, I v) { _mm256_storeu_si256((I*)p, v); }
inline I broadcast(int32_t x) { return _mm256_set1_epi32(x); }
inline I add(I a, I b) { return _mm256_add_epi32(a, b); }
inline I subtract(I a, I b) { return _mm256_sub_epi32(a, b); }
inline I max(I a, I b) { return _mm256_max_epi32(a, b); }
inline I load_i8(const int8_t* p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
inline void store_i8(int8_t* p, I v) {
  const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(half, half));
}
inline I load_i8_pairs(const int8_t* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)); }
inline void store_i16(int16_t* p, I v) {
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
inline void store_i16_even_odd(int16_t* p, I v) {
  const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storeu_si128((__m128i*)p, _mm_shufflehi_epi16(_mm_shufflelo_epi16(packed, 0xd8), 0xd8));
}
inline I add_i16(I a, I b) { return _mm256_add_epi16(a, b); }
template <int n> inline I shift_right_i16(I v) { return _mm256_srli_epi16(v, n); }
inline I multiply_add_i8(I a, I b) { return _mm256_maddubs_epi16(a, b); }
inline I multiply_add_i16(I a, I b) { return _mm256_madd_epi16(a, b); }
inline I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
inline I bit_or(I a, I b) { return _mm256_or_si256(a, b); }
template <int n> inline I shift_left(I v) { return _mm256_slli_epi32(v, n); }
template <int n> inline I shift_right(I v) { return _mm256_srli_epi32(v, n); }
inline I shift_right(I v, int n) { return _mm256_srl_epi32(v, _mm_cvtsi32_si128(n)); }
inline F to_float(I v) { return _mm256_cvtepi32_ps(v); }
inline I to_int_nearest(F v) { return _mm256_cvtps_epi32(v); }
inline F round_nearest(F v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I load_u16(const uint16_t* p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)); }
inline void store_u16(uint16_t* p, I v) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0x08);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
}
inline F load_f16(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline F where_less(F a, F b, F x, F y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
inline F where_nan(F a, F x, F y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
inline uint32_t bits_at_least(F a, F b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))); }
inline I to_int_down(F v) { return _mm256_cvttps_epi32(v); }
inline I zip_low(I a, I b) { return _mm256_unpacklo_epi32(a, b); }
inline I zip_high(I a, I b) { return _mm256_unpackhi_epi32(a, b); }
inline I zip_low_pairs(I a, I b) { return _mm256_unpacklo_epi64(a, b); }
inline I zip_high_pairs(I a, I b) { return _mm256_unpackhi_epi64(a, b); }

#else  // SSE 4.2

constexpr int kLanes = 4;
using F = __m128;
using I = __m128i;

inline F load(const float* p) { return _mm_loadu_ps(p); }
inline void store(float* p, F v) { _mm_storeu_ps(p, v); }
inline F broadcast(float x) { return _mm_set1_ps(x); }
inline F zero() { return _mm_setzero_ps(); }
inline F fma(F a, F b, F c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
inline F max(F a, F b) { return _mm_max_ps(a, b); }
inline F min(F a, F b) { return _mm_min_ps(a, b); }
inline F as_float(I v) { return _mm_castsi128_ps(v); }
inline I as_int(F v) { return _mm_castps_si128(v); }
inline I load(const int32_t* p) { return _mm_loadu_si128((const I*)p); }
inline void store(int32_t* p, I v) { _mm_storeu_si128((I*)p, v); }
inline I broadcast(int32_t x) { return _mm_set1_epi32(x); }
inline I add(I a, I b) { return _mm_add_epi32(a, b); }
inline I subtract(I a, I b) { return _mm_sub_epi32(a, b); }
inline I max(I a, I b) { return _mm_max_epi32(a, b); }
inline I load_i8(const int8_t* p) { return _mm_cvtepi8_epi32(_mm_loadu_si32(p)); }
inline void store_i8(int8_t* p, I v) {
  const I half = _mm_packs_epi32(v, v);
  _mm_storeu_si32(p, _mm_packs_epi16(half, half));
}
inline I load_i8_pairs(const int8_t* p) { return _mm_cvtepi8_epi16(_mm_loadl_epi64((const I*)p)); }
inline void store_i16(int16_t* p, I v) { _mm_storel_epi64((I*)p, _mm_packs_epi32(v, v)); }
inline void store_i16_even_odd(int16_t* p, I v) {
  _mm_storel_epi64((I*)p, _mm_shufflelo_epi16(_mm_packs_epi32(v, v), 0xd8));
}
inline I add_i16(I a, I b) { return _mm_add_epi16(a, b); }
template <int n> inline I shift_right_i16(I v) { return _mm_srli_epi16(v, n); }
inline I multiply_add_i8(I a, I b) { return _mm_maddubs_epi16(a, b); }
inline I multiply_add_i16(I a, I b) { return _mm_madd_epi16(a, b); }
inline I bit_and(I a, I b) { return _mm_and_si128(a, b); }
inline I bit_or(I a, I b) { return _mm_or_si128(a, b); }
template <int n> inline I shift_left(I v) { return _mm_slli_epi32(v, n); }
template <int n> inline I shift_right(I v) { return _mm_srli_epi32(v, n); }
inline I shift_right(I v, int n) { return _mm_srl_epi32(v, _mm_cvtsi32_si128(n)); }
inline F to_float(I v) { return _mm_cvtepi32_ps(v); }
inline I to_int_nearest(F v) { return _mm_cvtps_epi32(v); }
inline F round_nearest(F v) { return _mm_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I load_u16(const uint16_t* p) { return _mm_cvtepu16_epi32(_mm_loadl_epi64((const I*)p)); }
inline void store_u16(uint16_t* p, I v) { _mm_storel_epi64((I*)p, _mm_packus_epi32(v, v)); }
inline F where_less(F a, F b, F x, F y) { return _mm_blendv_ps(y, x, _mm_cmplt_ps(a, b)); }
inline F where_nan(F a, F x, F y) { return _mm_blendv_ps(y, x, _mm_cmpunord_ps(a, a)); }
inline uint32_t bits_at_least(F a, F b) { return uint32_t(_mm_movemask_ps(_mm_cmpge_ps(a, b))); }
inline I to_int_down(F v) { return _mm_cvttps_epi32(v); }
inline I zip_low(I a, I b) { return _mm_unpacklo_epi32(a, b); }
inline I zip_high(I a, I b) { return _mm_unpackhi_epi32(a, b); }
inline I zip_low_pairs(I a, I b) { return _mm_unpacklo_epi64(a, b); }
inline I zip_high_pairs(I a, I b) { return _mm_unpackhi_epi64(a, b); }
// Half precision by arithmetic: a product by 2^112 puts the exponent right, subnormals included.
inline F load_f16(const f16* p) {
  const I half = load_u16(p);
  const I magnitude = shift_left<13>(bit_and(half, broadcast(0x7fff)));
  const F value = as_float(magnitude) * broadcast(0x1p112f);
  const F wide = where_less(value, broadcast(65536.0f), value, as_float(bit_or(magnitude, broadcast(0x7f800000))));
  return as_float(bit_or(as_int(wide), shift_left<16>(bit_and(half, broadcast(0x8000)))));
}

#endif

// Into the second-level cache: it waits for more lines at once than the first does.
inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
// There is no intrinsic for it at the lower levels, where processors that lack it pass over it.
inline void prefetch_to_write(const void* p) { asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p))); }

// Keeps g++ from moving what v is summed from behind this place.
inline I in_order(I v) {
  asm("" : "+v"(v));
  return v;
}

// The same address or place, of which g++ does not know that it is: so what lies there is read again, rather than kept in
// registers that sums need.
template <typename T> inline T elsewhere(T at) {
  asm("" : "+r"(at));
  return at;
}

// Four bytes of memory in each lane.
inline I broadcast_word(const void* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return broadcast(word);
}

inline F magnitude(F v) { return as_float(bit_and(as_int(v), broadcast(0x7fffffff))); }

// Each lane's neighbour, n lanes apart, in its place: lane i of the result is lane i ^ n.
template <int n> inline F neighbours(F v) {
  static_assert(n < kLanes, "of one vector");
#if defined(__AVX512F__)
  if constexpr (n >= 4) return _mm512_shuffle_f32x4(v, v, n == 4 ? 0xb1 : 0x4e);
  else return _mm512_permute_ps(v, n == 1 ? 0xb1 : 0x4e);
#elif defined(__AVX2__) && defined(__FMA__)
  if constexpr (n >= 4) return _mm256_permute2f128_ps(v, v, 0x01);
  else return _mm256_permute_ps(v, n == 1 ? 0xb1 : 0x4e);
#else
  return _mm_shuffle_ps(v, v, n == 1 ? 0xb1 : 0x4e);
#endif
}

// ---- transposing ----

// Lane j of vector i becomes lane i of vector j: first in squares of four lanes, then the squares.
inline void transpose(I (&v)[kLanes]) {
  for (int i = 0; i < kLanes; i += 4) {
    const I even = zip_low(v[i], v[i + 1]), odd = zip_low(v[i + 2], v[i + 3]);
    const I even_high = zip_high(v[i], v[i + 1]), odd_high = zip_high(v[i + 2], v[i + 3]);
    v[i] = zip_low_pairs(even, odd), v[i + 1] = zip_high_pairs(even, odd);
    v[i + 2] = zip_low_pairs(even_high, odd_high), v[i + 3] = zip_high_pairs(even_high, odd_high);
  }
#if defined(__AVX512F__)
  for (int i = 0; i < 4; ++i) {
    const I a = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x44), b = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xee);
    const I c = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x44), d = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xee);
    v[i] = _mm512_shuffle_i32x4(a, c, 0x88), v[i + 4] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[i + 8] = _mm512_shuffle_i32x4(b, d, 0x88), v[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#elif defined(__AVX2__) && defined(__FMA__)
  for (int i = 0; i < 4; ++i) {
    const I a = v[i], b = v[i + 4];
    v[i] = _mm256_permute2x128_si256(a, b, 0x20), v[i + 4] = _mm256_permute2x128_si256(a, b, 0x31);
  }
#endif
}

// ---- bfloat16 ----

inline F load_bf16(const bf16* p) { return as_float(shift_left<16>(load_u16(p))); }

// To the nearest bfloat16, ties to even; NaN stays NaN.
inline F round_bf16(F v) {
#if defined(__AVX512BF16__)
  return as_float(shift_left<16>(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v))));
#else
  const I bits = as_int(v), upper = broadcast(int32_t(0xffff0000));
  const I odd = bit_and(shift_right<16>(bits), broadcast(1));
  const I rounded = bit_and(add(bits, add(odd, broadcast(0x7fff))), upper);
  const I nan = bit_or(bit_and(bits, upper), broadcast(0x400000));
  return where_nan(v, as_float(nan), as_float(rounded));
#endif
}

inline void store_bf16(bf16* p, F v) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(v));
#else
  store_u16(p, shift_right<16>(as_int(round_bf16(v))));
#endif
}

// The bits of the largest magnitude among 32 numbers; NaN is greatest. By its difference from the greatest bits, since
// one instruction finds the least of eight.
inline uint32_t largest_magnitude_of_32(const bf16* p) {
#if defined(__AVX512F__)
  const __m512i all = _mm512_andnot_si512(_mm512_loadu_si512(p), _mm512_set1_epi16(0x7fff));
  const __m256i half = _mm256_min_epu16(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  const __m128i least = _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
#else
  const __m128i* at = reinterpret_cast<const __m128i*>(p);
  const auto rest = [&](int i) { return _mm_andnot_si128(_mm_loadu_si128(at + i), _mm_set1_epi16(0x7fff)); };
  const __m128i least = _mm_min_epu16(_mm_min_epu16(rest(0), rest(1)), _mm_min_epu16(rest(2), rest(3)));
#endif
  return 0x7fffu - uint32_t(_mm_extract_epi16(_mm_minpos_epu16(least), 0));
}

#if defined(__AVX512BF16__)
// acc += the products of both bfloat16 in each lane.
inline F dot2(F acc, I a, I b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
#endif

// kLanes sums of integers. A type of its own, since g++ keeps many running sums in registers only as what they are.
typedef int32_t Integers __attribute__((vector_size(sizeof(I))));

inline F to_float(Integers v) { return to_float((I)v); }

// acc += the products of both 16-bit integers in each lane. Exact, as long as acc has room.
inline Integers dot2(Integers acc, I a, I b) {
#if defined(__AVX512VNNI__)
  return (Integers)_mm512_dpwssd_epi32((I)acc, a, b);
#else
  return acc + (Integers)multiply_add_i16(a, b);
#endif
}

#if defined(__AVX512VNNI__)
// acc += the products of four unsigned bytes of w and four signed ones of a in each lane. Exact.
inline I dot4(I acc, I w, I a) { return _mm512_dpbusd_epi32(acc, w, a); }
#endif

// ---- typed rows: float32 or bfloat16 in memory, float32 in registers ----

inline F load_as_float(const float* p) { return load(p); }
inline F load_as_float(const bf16* p) { return load_bf16(p); }
template <typename T> inline F rounded(F v);
template <> inline F rounded<float>(F v) { return v; }
template <> inline F rounded<bf16>(F v) { return round_bf16(v); }
inline void store_rounded(float* p, F v) { store(p, v); }
inline void store_rounded(bf16* p, F v) { store_bf16(p, v); }

// The first n (under kLanes) elements; the other lanes are zero.
template <typename T> inline F load_part(const T* p, int n) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, n * sizeof(T));
  return load_as_float(buffer);
}
template <typename T> inline void store_part(T* p, F v, int n) {
  T buffer[kLanes];
  store_rounded(buffer, v);
  std::memcpy(p, buffer, n * sizeof(T));
}

// ---- across lanes, in one fixed order ----

// The upper half joined to the lower one, until one lane is left.
template <typename Join> inline float across_lanes(F v, Join join) {
#if defined(__AVX512F__)
  const __m256 half = join(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = join(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__) && defined(__FMA__)
  const __m128 four = join(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
#else
  const __m128 four = v;
#endif
  const __m128 two = join(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(join(two, _mm_movehdup_ps(two)));
}
inline float sum_lanes(F v) {
  return across_lanes(v, [](auto a, auto b) { return a + b; });
}
// Of numbers; where NaN is among them, any lane's value.
struct Greater {
  __m128 operator()(__m128 a, __m128 b) const { return _mm_max_ps(a, b); }
#if defined(__AVX__)
  __m256 operator()(__m256 a, __m256 b) const { return _mm256_max_ps(a, b); }
#endif
};
inline float max_lanes(F v) { return across_lanes(v, Greater()); }
#if !defined(__AVX512F__)
inline int32_t sum_lanes(I v) {
#if defined(__AVX2__) && defined(__FMA__)
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
#else
  __m128i half = v;
#endif
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}
inline int32_t max_lanes(I v) {
#if defined(__AVX2__) && defined(__FMA__)
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
#else
  __m128i half = v;
#endif
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}
#endif

// ---- 64-bit integers ----

// kLanes of them, in two vectors.
struct Wide {
  I low, high;
};

inline Wide wide_zero() { return {as_int(zero()), as_int(zero())}; }
inline void store(int64_t* p, Wide v) {
  std::memcpy(p, &v.low, sizeof(I));
  std::memcpy(p + kLanes / 2, &v.high, sizeof(I));
}

// The whole number nearest to each v in 0 .. 2^51.
inline Wide to_wide(F v) {
#if defined(__AVX512F__)
  return {_mm512_cvtps_epi64(_mm512_castps512_ps256(v)), _mm512_cvtps_epi64(_mm512_extractf32x8_ps(v, 1))};
#elif defined(__AVX2__) && defined(__FMA__)
  // In a double of 2^52 + v the low bits are v, rounded.
  const __m256d shift = _mm256_set1_pd(0x1p52);
  const auto whole = [&](__m128 half) {
    return _mm256_xor_si256(_mm256_castpd_si256(_mm256_cvtps_pd(half) + shift), _mm256_castpd_si256(shift));
  };
  return {whole(_mm256_castps256_ps128(v)), whole(_mm256_extractf128_ps(v, 1))};
#else
  const __m128d shift = _mm_set1_pd(0x1p52);
  const auto whole = [&](__m128 half) {
    return _mm_xor_si128(_mm_castpd_si128(_mm_cvtps_pd(half) + shift), _mm_castpd_si128(shift));
  };
  return {whole(v), whole(_mm_movehl_ps(v, v))};
#endif
}

inline Wide add(Wide a, Wide b) {
#if defined(__AVX512F__)
  return {_mm512_add_epi64(a.low, b.low), _mm512_add_epi64(a.high, b.high)};
#elif defined(__AVX2__) && defined(__FMA__)
  return {_mm256_add_epi64(a.low, b.low), _mm256_add_epi64(a.high, b.high)};
#else
  return {_mm_add_epi64(a.low, b.low), _mm_add_epi64(a.high, b.high)};
#endif
}

inline int64_t sum_lanes(Wide v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi64(_mm512_add_epi64(v.low, v.high));
#elif defined(__AVX2__) && defined(__FMA__)
  const __m256i four = _mm256_add_epi64(v.low, v.high);
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
#else
  const __m128i two = _mm_add_epi64(v.low, v.high);
  return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
#endif
}

// ---- functions ----

// v * 2^n for whole n in -126 .. 128.
inline F scale_by_power(F v, F n) {
#if defined(__AVX512F__)
  return _mm512_scalef_ps(v, n);
#else
  // 2^128 has no exponent of its own: multiply in two steps.
  const I power = to_int_nearest(n);
  const I half = add(shift_right<1>(add(power, broadcast(256))), broadcast(-128));
  const I rest = subtract(power, half);
  return v * as_float(shift_left<23>(add(half, broadcast(127)))) * as_float(shift_left<23>(add(rest, broadcast(127))));
#endif
}

// e^x within 2 ulp; 0 below -87.3, infinity above 88.7; NaN stays NaN. 2^n by the exponent bits, e^r by a polynomial.
inline F exp(F x) {
  const F clamped = min(max(x, broadcast(-87.336f)), broadcast(88.73f));
  const F n = to_float(to_int_nearest(clamped * broadcast(1.44269504f)));
  F r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  F p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r) + broadcast(1.0f);
  const F scaled = scale_by_power(p, n);
  return where_nan(x, x, where_less(x, broadcast(-87.336f), zero(), scaled));
}

// 2^x for x up to 127, within 2 ulp and exactly 1 at 0; 0 below -126, also at -infinity; NaN stays NaN.
inline F exp2(F x) {
  const F n = round_nearest(x), r = x - n;
  F p = broadcast(1.326472725e-3f);
  p = fma(p, r, broadcast(9.671512688e-3f));
  p = fma(p, r, broadcast(5.550733744e-2f));
  p = fma(p, r, broadcast(2.402224208e-1f));
  p = fma(p, r, broadcast(6.931469776e-1f));
  p = fma(p, r, broadcast(1.0f));
  return where_less(x, broadcast(-126.0f), zero(), scale_by_power(p, n));
}

inline F tanh(F x) {
  const F e = exp(x + x);
  return broadcast(1.0f) - broadcast(2.0f) / (e + broadcast(1.0f));
}

}  // namespace quire
