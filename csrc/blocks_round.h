// Rows of a product's input, rounded to 8 bits for integer dot products; to 16 bits where that matters most.
//
// Each unit of 32 adjacent numbers has its own scale, its largest magnitude over 127; q is rounded to nearest, ties to
// even. Models have outliers, and a unit with one loses the numbers beside it: where a unit's largest magnitude is more
// than 5/4 of its mean over the row's units, what rounding left is kept as a second q, of a 254th of the scale. That is
// one unit in five of real models, and leaves an eighth of the divergence from products with unrounded rows.
//
// A unit with NaN or infinity gets the scale NaN, so that all its products are NaN. What stands beside a row never
// matters: batch invariant by construction.
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
  int32_t reserved;
};
static_assert(sizeof(RoundedUnit) == 48);

constexpr float kWide = 1.25f;         // of the mean largest magnitude
constexpr float kNothing = 0x1p-100f;  // a largest magnitude below has no inverse: zeros

// Rounded rows in somebody's memory. A row is all its units, then room for the second q of all, of which only those of
// wide units are there: number = q scale + second q second scale.
class RoundedRows {
 public:
  RoundedRows(void* memory, int64_t rows, int64_t num_in)
      : units_(static_cast<RoundedUnit*>(memory)), row_units_(num_in / kUnit), flags_stride_(flags_bytes(rows)),
        flags_(reinterpret_cast<uint8_t*>(units_ + rows * 2 * row_units_)) {}

  static int64_t num_bytes(int64_t rows, int64_t num_in) {
    return num_in / kUnit * (rows * 2 * int64_t(sizeof(RoundedUnit)) + flags_bytes(rows));
  }

  RoundedUnit* row(int64_t row) const { return units_ + row * stride(); }
  int64_t stride() const { return 2 * row_units_; }
  int64_t row_units() const { return row_units_; }
  // For each row 1 where the unit is wide, else 0. Eight may be read at once.
  uint8_t* flags(int64_t unit) const { return flags_ + unit * flags_stride_; }

 private:
  static int64_t flags_bytes(int64_t rows) { return (rows + 15) / 8 * 8; }

  RoundedUnit* units_;
  int64_t row_units_, flags_stride_;
  uint8_t* flags_;
};

constexpr int kUnitVectors = kUnit / kLanes;

template <typename T> inline float largest_magnitude(const T* x) {
  I greatest = broadcast(0);
  // As integers, magnitudes are ordered alike, and NaN is greatest.
  for (int i = 0; i < kUnitVectors; ++i)
    greatest = max(greatest, bit_and(as_int(load_as_float(x + i * kLanes)), broadcast(0x7fffffff)));
  const int32_t bits = max_lanes(greatest);
  float magnitude;
  std::memcpy(&magnitude, &bits, 4);
  return magnitude;
}

inline void store_unit(const I (&q)[kUnitVectors], float scale, const BlockForm& form, RoundedUnit& unit) {
  unit.scale = scale;
  I sums[2] = {broadcast(0), broadcast(0)};
  for (int i = 0; i < kUnitVectors; ++i) {
    store_i8(unit.q + i * kLanes, q[i]);
    I& sum = sums[form.subs == 2 && i >= kUnitVectors / 2];
    sum = add(sum, q[i]);
  }
  for (int s = 0; s < form.subs; ++s) {
    const int32_t sum = sum_lanes(sums[s]);
    if (form.has_min) {
      const float scaled = scale * float(sum);
      std::memcpy(&unit.sums[s], &scaled, 4);
    } else {
      unit.sums[s] = int32_t(uint32_t(sum) * uint32_t(-form.offset));
    }
  }
}

template <typename T>
inline void round_unit(const T* x, float magnitude, bool is_wide, const BlockForm& form, RoundedUnit& unit,
                       RoundedUnit& second) {
  const bool is_nothing = magnitude < kNothing;
  const float scale = is_nothing ? 0 : magnitude * (1 / 127.0f) + (magnitude - magnitude);
  const F inverse = broadcast(is_nothing ? 0 : 127.0f / magnitude);
  F left[kUnitVectors];
  I q[kUnitVectors];
  for (int i = 0; i < kUnitVectors; ++i) {
    const F v = load_as_float(x + i * kLanes) * inverse;
    q[i] = to_int_nearest(v);
    left[i] = v - to_float(q[i]);
  }
  store_unit(q, scale, form, unit);
  if (!is_wide) return;
  for (int i = 0; i < kUnitVectors; ++i) q[i] = to_int_nearest(left[i] * broadcast(254.0f));
  store_unit(q, scale * (1 / 254.0f), form, second);
}

template <typename T> inline void round_row(const T* x, const BlockForm& form, const RoundedRows& rows, int64_t row) {
  const int64_t count = rows.row_units();
  RoundedUnit* units = rows.row(row);
  float sum = 0;
  for (int64_t u = 0; u < count; ++u) sum += units[u].scale = largest_magnitude(x + u * kUnit);
  const float wide = sum / float(count) * kWide;
  for (int64_t u = 0; u < count; ++u) {
    const float magnitude = units[u].scale;
    rows.flags(u)[row] = magnitude > wide;
    round_unit(x + u * kUnit, magnitude, magnitude > wide, form, units[u], units[count + u]);
  }
}

}  // namespace quire
