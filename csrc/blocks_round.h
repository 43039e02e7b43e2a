// Rows of a product's input, rounded to 8 bits for integer dot products.
//
// Each unit of 32 adjacent numbers has its own scale, its largest magnitude over 127; q is rounded to nearest, ties to
// even. A unit with NaN or infinity gets the scale NaN, so that all its products are NaN. What stands beside a row
// never matters: batch invariant by construction.
#pragma once

#include "blocks.h"

namespace quire {

// 32 numbers, and what a product needs of their sums.
struct alignas(16) RoundedUnit {
  int8_t q[kUnit];
  float scale;
  // For each sub-block of the weights: where mins are, scale times the sum of q (float32); else where the sum of
  // products begins, less the weights' offset times the sum of q (int32).
  int32_t sums[2];
};
static_assert(sizeof(RoundedUnit) == 48);

inline int64_t rounded_bytes(int64_t rows, int64_t num_in) {
  return rows * (num_in / kUnit) * int64_t(sizeof(RoundedUnit));
}

template <typename T> inline void round_unit(const T* x, const BlockForm& form, RoundedUnit& unit) {
  constexpr int kVectors = kUnit / kLanes;
  constexpr float kLeast = 0x1p-100f;  // below, the inverse of a scale is no number
  F v[kVectors];
  I greatest = broadcast(0);
  for (int i = 0; i < kVectors; ++i) {
    v[i] = load_as_float(x + i * kLanes);
    // As integers, magnitudes are ordered alike, and NaN is greatest.
    greatest = max(greatest, bit_and(as_int(v[i]), broadcast(0x7fffffff)));
  }
  const int32_t bits = max_lanes(greatest);
  float magnitude;
  std::memcpy(&magnitude, &bits, 4);
  const bool is_nothing = magnitude < kLeast;
  unit.scale = is_nothing ? 0 : magnitude * (1 / 127.0f) + (magnitude - magnitude);
  const F inverse = broadcast(is_nothing ? 0 : 127.0f / magnitude);
  I sums[2] = {broadcast(0), broadcast(0)};
  for (int i = 0; i < kVectors; ++i) {
    const I q = to_int_nearest(v[i] * inverse);
    store_i8(unit.q + i * kLanes, q);
    I& sum = sums[form.subs == 2 && i >= kVectors / 2];
    sum = add(sum, q);
  }
  for (int s = 0; s < form.subs; ++s) {
    const int32_t sum = sum_lanes(sums[s]);
    if (form.has_min) {
      const float scaled = unit.scale * float(sum);
      std::memcpy(&unit.sums[s], &scaled, 4);
    } else {
      unit.sums[s] = int32_t(uint32_t(sum) * uint32_t(-form.offset));
    }
  }
}

template <typename T> inline void round_row(const T* x, int64_t num_in, const BlockForm& form, RoundedUnit* units) {
  for (int64_t k = 0; k < num_in; k += kUnit) round_unit(x + k, form, units[k / kUnit]);
}

}  // namespace quire
