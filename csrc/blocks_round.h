// Rows of a product's input, rounded to 8 bits for integer dot products, without the numbers that do not fit in.
//
// Each unit of 32 adjacent numbers has its own scale, its largest magnitude over 127; q is rounded to nearest, ties to
// even. Models have outliers, and a unit with one loses the numbers beside it: so the one or two largest of a unit stand
// alone where that takes enough from the square of its largest magnitude, with which the error goes. They are zeros in
// their unit, and are multiplied as they are. That is one number in ninety of real models, and leaves a seventh of the
// divergence from products with unrounded rows: near ties of small models come out alike.
//
// A unit with NaN or infinity gets the scale NaN, so that all its products are NaN. What stands beside a row never
// matters: batch invariant by construction.
#pragma once

#include <algorithm>
#include <numeric>

#include "blocks.h"
#include "blocks_dot.h"

namespace quire {

#if defined(__AVX512F__)
constexpr int kBandRows = 6;  // rows that meet a weight at once: 24 of 32 registers accumulate
#else
constexpr int kBandRows = 4;  // 8 of 16; the sums in float32 wait in the first-level cache meanwhile
#endif
constexpr int kMostLone = 2;           // of a unit
constexpr float kLeastGain = 0.6f;     // of each, in squares of the mean largest magnitude of the row's units
constexpr float kNothing = 0x1p-100f;  // a largest magnitude below has no inverse: zeros

// 32 numbers, and what a product needs of their sums.
template <typename Number> struct alignas(16) RoundedUnit {
  Number q[kUnit];
  float scale;
  // For each sub-block of the weights: where mins are, scale times the sum of q (float32); else where the sum of
  // products begins, less the weights' offset times the sum of q (int32).
  int32_t sums[2];
  int32_t reserved;
};

template <int format> using Unit = RoundedUnit<typename Dot4<kForms[format].bits()>::Number>;

// A number that stands alone: x[k] of a row.
struct Lone {
  uint32_t k, row;
  float x;
};

// Lone numbers of some rows. A row's come in the order of k, whatever stands between.
struct LoneNumbers {
  const Lone* numbers;
  int64_t count;
};

// Rounded rows in somebody's memory, in bands of even height: a short last one would leave the vector units waiting for
// their own results. A band is one stream of memory: unit 0 of its rows, unit 1 of its rows ...
template <typename Unit> class RoundedRows {
 public:
  RoundedRows(void* memory, int64_t rows, int64_t num_in)
      : rows_(rows), row_units_(num_in / kUnit), units_(static_cast<Unit*>(memory)),
        lone_(reinterpret_cast<Lone*>(units_ + rows * row_units_)), sorted_(lone_ + most_lone(rows)),
        num_lone_(reinterpret_cast<int32_t*>(sorted_ + most_lone(rows))) {}

  static int64_t num_bytes(int64_t rows, int64_t num_in) {
    return rows * (num_in / kUnit * int64_t(sizeof(Unit) + 2 * kMostLone * sizeof(Lone)) + int64_t(sizeof(int32_t)));
  }

  int64_t bands() const { return ceil_div(rows_, kBandRows); }
  int64_t first_row(int64_t band) const { return rows_ * band / bands(); }
  int64_t height(int64_t band) const { return first_row(band + 1) - first_row(band); }
  int64_t row_units() const { return row_units_; }
  Unit* units(int64_t band) const { return units_ + first_row(band) * row_units_; }
  // A band's, as rounding finds them: unit by unit.
  Lone* lone(int64_t band) const { return lone_ + most_lone(first_row(band)); }
  int32_t& num_lone(int64_t band) const { return num_lone_[band]; }

  // Those of some bands: as they were found where that is one band, else as sort_lone left them.
  LoneNumbers lone(int64_t band, int64_t end_band) const {
    if (end_band - band == 1) return {lone(band), num_lone(band)};
    return {sorted_ + most_lone(first_row(band)), std::accumulate(num_lone_ + band, num_lone_ + end_band, int64_t(0))};
  }

  // Put those of some bands in the order of k, so that a column of weights is read once for all rows that it meets: models
  // have outliers in the same few places of most rows. at [num_in] is scratch.
  void sort_lone(int64_t band, int64_t end_band, uint32_t* at) const {
    const auto each = [&](auto&& take) {
      for (int64_t b = band; b < end_band; ++b)
        for (const Lone* one = lone(b), *end = one + num_lone(b); one < end; ++one) take(*one);
    };
    std::fill_n(at, row_units_ * kUnit, 0);
    each([&](const Lone& one) { ++at[one.k]; });
    std::exclusive_scan(at, at + row_units_ * kUnit, at, 0u);
    Lone* sorted = sorted_ + most_lone(first_row(band));
    each([&](const Lone& one) { sorted[at[one.k]++] = one; });
  }

 private:
  int64_t most_lone(int64_t rows) const { return rows * row_units_ * kMostLone; }

  int64_t rows_, row_units_;
  Unit* units_;
  Lone *lone_, *sorted_;
  int32_t* num_lone_;
};

constexpr int kUnitVectors = kUnit / kLanes;

inline float number(float x) { return x; }
inline float number(bf16 x) {
  const uint32_t bits = uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

struct UnitValues {
  F v[kUnitVectors];

  template <typename T> static UnitValues of(const T* x) {
    UnitValues values;
    for (int i = 0; i < kUnitVectors; ++i) values.v[i] = load_as_float(x + i * kLanes);
    return values;
  }

  I magnitudes(int i) const { return bit_and(as_int(v[i]), broadcast(0x7fffffff)); }

  float largest_magnitude() const {
    I greatest = broadcast(0);
    // As integers, magnitudes are ordered alike, and NaN is greatest.
    for (int i = 0; i < kUnitVectors; ++i) greatest = max(greatest, magnitudes(i));
    const int32_t bits = max_lanes(greatest);
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    return magnitude;
  }

  // Make the first number of this magnitude zero; its place. Where there is none, since a thread that came late reads what
  // others write already, it is the last number: nothing is made of what such a thread rounds, but it is rounded in place.
  int take(float magnitude) {
    static constexpr auto kHole = [] {
      struct { int32_t mask[2 * kLanes - 1]; } hole{};
      for (int i = 0; i < 2 * kLanes - 1; ++i) hole.mask[i] = i == kLanes - 1 ? 0 : -1;
      return hole;
    }();
    const auto found = [&](int i) { return bits_at_least(as_float(magnitudes(i)), broadcast(magnitude)); };
    int i = 0;
    while (i < kUnitVectors - 1 && !found(i)) ++i;
    const int lane = __builtin_ctz(found(i) | 1u << (kLanes - 1));
    v[i] = as_float(bit_and(as_int(v[i]), load(kHole.mask + kLanes - 1 - lane)));
    return i * kLanes + lane;
  }
};

// Take as many of the largest out of values as gain most by standing alone, and call lone with the place of each, in order.
// Returns the largest magnitude of the others; `magnitude` is that of all, `mean` the row's.
template <typename TakeLone>
inline float take_lone(UnitValues& values, float magnitude, float mean, const TakeLone& lone) {
  const auto square = [mean](float of) { return (of / mean) * (of / mean); };
  const float whole = square(magnitude);
  UnitValues rest = values;
  float largest = magnitude, most = 0;
  int k[kMostLone], num = 0;
  for (int n = 0; n < kMostLone && square(largest) > kLeastGain; ++n) {
    k[n] = rest.take(largest);
    largest = rest.largest_magnitude();
    const float gain = whole - square(largest) - kLeastGain * float(n + 1);
    if (gain > most) most = gain, num = n + 1, values = rest, magnitude = largest;
  }
  static_assert(kMostLone == 2, "two are put in order here");
  if (num == 2 && k[1] < k[0]) std::swap(k[0], k[1]);
  for (int n = 0; n < num; ++n) lone(k[n]);
  return magnitude;
}

inline float largest_magnitude(const float* x) { return UnitValues::of(x).largest_magnitude(); }
inline float largest_magnitude(const bf16* x) { return number(bf16(largest_magnitude_of_32(x))); }

template <int format> inline void round_unit(const UnitValues& x, float magnitude, Unit<format>& unit) {
  constexpr BlockForm form = kForms[format];
  const bool is_nothing = magnitude < kNothing;
  unit.scale = is_nothing ? 0 : magnitude * (1 / 127.0f) + (magnitude - magnitude);
  const F inverse = broadcast(is_nothing ? 0 : 127.0f / magnitude);
  I sums[2] = {broadcast(0), broadcast(0)};
  for (int i = 0; i < kUnitVectors; ++i) {
    const I q = to_int_nearest(x.v[i] * inverse);
    Dot4<form.bits()>::store_numbers(unit.q + i * kLanes, q);
    I& sum = sums[form.subs == 2 && i >= kUnitVectors / 2];
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

template <int format, typename T>
void round_band(const T* x, int64_t x_stride, const RoundedRows<Unit<format>>& rows, int64_t band) {
  const int64_t first = rows.first_row(band), height = rows.height(band), count = rows.row_units();
  x += first * x_stride;
  Unit<format>* unit = rows.units(band);
  float mean[kBandRows];
  for (int64_t m = 0; m < height; ++m) {
    float sum = 0;
    for (int64_t u = 0; u < count; ++u)
      sum += unit[u * height + m].scale = largest_magnitude(x + m * x_stride + u * kUnit);
    mean[m] = std::max(sum / float(count), kNothing);
  }
  Lone* lone = rows.lone(band);
  for (int64_t u = 0; u < count; ++u) {
    for (int64_t m = 0; m < height; ++m, ++unit) {
      const T* from = x + m * x_stride + u * kUnit;
      UnitValues values = UnitValues::of(from);
      const float magnitude = take_lone(values, unit->scale, mean[m], [&](int k) {
        *lone++ = {uint32_t(u * kUnit + k), uint32_t(first + m), number(from[k])};
      });
      round_unit<format>(values, magnitude, *unit);
    }
  }
  rows.num_lone(band) = int32_t(lone - rows.lone(band));
}

}  // namespace quire
