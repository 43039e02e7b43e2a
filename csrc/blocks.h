// Weights in GGUF's block formats, as they lie in memory: what packing writes, products and embeddings read.
//
// A format says: value = scale (q - offset) + least, q of a few bits. 32 adjacent k make a unit, which has one scale,
// or two, of 16 k each; formats with mins have as many of those. Plain formats keep scale and min in half precision.
// Nested formats (K) keep them as small integers, and a superblock of eight units has half-precision factors of both.
//
// Packed layout: tiles of kTileWidth output features, one stream of memory each, columns always side by side:
//   superblock  [factors f16[kTileWidth], min factors f16[kTileWidth]] where nested, then its units
//   unit        rows of q, uint32[kTileWidth] each; then scales, then mins: f16[kTileWidth], or int8[subs][kTileWidth]
// The q of quad j (k = 4j .. 4j + 3 of the unit) are the bytes of a 32-bit word. Of q's bits, the low ones and the high
// ones are kept apart: b bits of quad j lie in row j % b of b rows, at bit b * (j / b) of each byte. So a format takes
// the bits that it takes in its file (Q4_0: 4.5), and a load, shift and mask bring four k of kLanes columns, ready for
// dot4. Rows stand in the order of their use, the scales last: memory's own prefetching wants addresses that ascend.
#pragma once

#include "program.h"
#include "tile.h"

namespace quire {

constexpr int kUnit = 32;        // k of a unit
constexpr int kQuads = kUnit / 4;

struct BlockForm {
  int low, high;    // bits of q in the two planes
  int subs;         // scales of a unit
  bool is_nested, has_min;
  int offset;       // not zero only where there are no mins
  int block_bytes;  // in the file, of 32 values, or of 256 where nested

  constexpr int bits() const { return low + high; }
  constexpr int units() const { return is_nested ? 8 : 1; }  // of a superblock
  constexpr int block_values() const { return units() * kUnit; }
  constexpr int64_t head_bytes() const { return is_nested ? (has_min ? 4 : 2) * kTileWidth : 0; }
  constexpr int64_t scales_bytes() const { return (is_nested ? subs : 2) * kTileWidth; }
  constexpr int64_t scaling_bytes() const { return scales_bytes() * (has_min ? 2 : 1); }
  constexpr int64_t q_bytes() const { return (low + high) * 4 * kTileWidth; }
  // Where row r of the low and of the high bits stands: high 0, low 0, high 1, low 1 ...
  constexpr int low_row(int r) const { return r + (r < high ? r + 1 : high); }
  constexpr int high_row(int r) const { return 2 * r; }
  constexpr int64_t unit_bytes() const { return q_bytes() + scaling_bytes(); }
  constexpr int64_t superblock_bytes() const { return head_bytes() + units() * unit_bytes(); }
};

constexpr BlockForm kForms[QUIRE_NUM_BLOCK_FORMATS] = {
    {4, 0, 1, false, false, 8, 18},    // Q4_0
    {4, 0, 1, false, true, 0, 20},     // Q4_1
    {4, 1, 1, false, false, 16, 22},   // Q5_0
    {4, 1, 1, false, true, 0, 24},     // Q5_1
    {8, 0, 1, false, false, 128, 34},  // Q8_0
    {2, 0, 2, true, true, 0, 84},      // Q2_K
    {2, 1, 2, true, false, 4, 110},    // Q3_K
    {4, 0, 1, true, true, 0, 144},     // Q4_K
    {4, 1, 1, true, true, 0, 176},     // Q5_K
    {4, 2, 2, true, false, 32, 210},   // Q6_K
};

struct BlockMatrix {
  const char* packed;
  int64_t num_out, num_in;

  int64_t tiles() const { return ceil_div(num_out, kTileWidth); }
};

inline bool is_block_matrix(int64_t num_out, int64_t num_in, int format) {
  return format >= 0 && format < QUIRE_NUM_BLOCK_FORMATS && is_size(num_out, num_in) &&
         num_in % kForms[format].block_values() == 0;
}

inline int64_t block_tile_bytes(const BlockForm& form, int64_t num_in) {
  return num_in / form.block_values() * form.superblock_bytes();
}

// ---- reading a unit: kLanes columns at a time; v is the vector's place in the tile ----

template <int n> inline I shift_to_right(I v) {
  if constexpr (n > 0) return shift_right<n>(v);
  if constexpr (n < 0) return shift_left<-n>(v);
  return v;
}

// bits of each byte of a row's words, from bit `from`, moved to bit `to`.
template <int bits, int from, int to> inline I bit_field(const char* unit, int row, int v) {
  const I word = load(reinterpret_cast<const int32_t*>(unit) + row * kTileWidth + v * kLanes);
  if constexpr (bits == 8) return word;
  constexpr uint32_t kMask = ((1u << bits) - 1u) * 0x01010101u << to;
  return bit_and(shift_to_right<from - to>(word), broadcast(int32_t(kMask)));
}

// q of quad j, unsigned bytes.
template <int format, int j> inline I quad(const char* unit, int v) {
  constexpr BlockForm form = kForms[format];
  const I low = bit_field<form.low, form.low * (j / form.low), 0>(unit, form.low_row(j % form.low), v);
  if constexpr (form.high == 0) return low;
  else {
    constexpr int kFrom = form.high * (j / form.high), kRow = form.high_row(j % form.high);
    return bit_or(low, bit_field<form.high, kFrom, form.low>(unit, kRow, v));
  }
}

// Scale of sub-block sub; for the mins, of `part` 1. Exact: a half-precision number, or one times a small integer.
template <int format> inline F scaling(const char* head, const char* unit, int sub, int part, int v) {
  constexpr BlockForm form = kForms[format];
  const char* at = unit + form.q_bytes() + part * form.scales_bytes();
  if constexpr (!form.is_nested) return load_f16(reinterpret_cast<const f16*>(at) + v * kLanes);
  const F factor = load_f16(reinterpret_cast<const f16*>(head) + part * kTileWidth + v * kLanes);
  return factor * to_float(load_i8(reinterpret_cast<const int8_t*>(at) + sub * kTileWidth + v * kLanes));
}

// Number k of the unit, in float32.
template <int format> inline F value(const char* head, const char* unit, uint32_t k, int v) {
  constexpr BlockForm form = kForms[format];
  const uint32_t j = k / 4;
  // From byte k % 4 of the words on: so the wanted byte is the lowest, and nothing is read behind the unit.
  const auto field = [&](int bits, int row) {
    const int32_t* words = reinterpret_cast<const int32_t*>(unit + k % 4) + row * kTileWidth + v * kLanes;
    return bit_and(bits == 8 ? load(words) : shift_right(load(words), int(j / bits * bits)), broadcast((1 << bits) - 1));
  };
  I q = field(form.low, form.low_row(j % form.low));
  if constexpr (form.high > 0) q = bit_or(q, shift_left<form.low>(field(form.high, form.high_row(j % form.high))));
  const int sub = int(k / (kUnit / form.subs));
  const F scale = scaling<format>(head, unit, sub, 0, v);
  if constexpr (form.has_min) return fma(to_float(q), scale, scaling<format>(head, unit, sub, 1, v));
  return to_float(subtract(q, broadcast(form.offset))) * scale;
}

// Call body<format>() for the format.
template <typename Body> int with_format(int format, const Body& body) {
  switch (format) {
    case QUIRE_Q4_0: return body(std::integral_constant<int, QUIRE_Q4_0>());
    case QUIRE_Q4_1: return body(std::integral_constant<int, QUIRE_Q4_1>());
    case QUIRE_Q5_0: return body(std::integral_constant<int, QUIRE_Q5_0>());
    case QUIRE_Q5_1: return body(std::integral_constant<int, QUIRE_Q5_1>());
    case QUIRE_Q8_0: return body(std::integral_constant<int, QUIRE_Q8_0>());
    case QUIRE_Q2_K: return body(std::integral_constant<int, QUIRE_Q2_K>());
    case QUIRE_Q3_K: return body(std::integral_constant<int, QUIRE_Q3_K>());
    case QUIRE_Q4_K: return body(std::integral_constant<int, QUIRE_Q4_K>());
    case QUIRE_Q5_K: return body(std::integral_constant<int, QUIRE_Q5_K>());
    case QUIRE_Q6_K: return body(std::integral_constant<int, QUIRE_Q6_K>());
  }
  return QUIRE_BAD_ARGUMENT;
}

}  // namespace quire
