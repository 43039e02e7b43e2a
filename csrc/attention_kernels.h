// The arithmetic of attention: products of a few rows with keys or values, and the softmax of a row.
//
// Everything here is about one segment of kSegment keys and depends on nothing but their positions in it: see
// attention.cpp for what follows from that. Scores are in units of log 2.
//
// T is what rows of queries and of weights are made of while they are multiplied: the model's type, or int16_t where
// pages hold 8-bit integers. Rows are then rounded to 16 bits, each by its own greatest magnitude (to a 65534th of it,
// where bfloat16 rounds to a 512th of each number), and products and their sums are exact: 32767 * 127 * 512, for the
// largest head, is less than 2^31. Scales are multiplied in float32 when all is summed.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "mix.h"
#include "simd.h"
#include "tile.h"

namespace quire {

// Two bytes of adjacent k.
struct BytePair {
  int8_t at[2];
};
inline I load(const BytePair* p) { return load_i8_pairs(p->at); }

template <> struct Element<int16_t> {
  static constexpr int kAdjacent = 2;
  static constexpr int kParts = 1;
  using Lane = BytePair;
  using Operand = int16_t;
  template <int, bool> static I part(I w) { return w; }
  template <int> static I operand(const int16_t* p) { return broadcast_word(p); }
  static Integers multiply_add(Integers acc, I w, I x) { return dot2(acc, w, x); }
};

namespace attention {

constexpr int64_t kMaxHeadSize = 512;
template <typename T> constexpr bool kIsInteger = std::is_same_v<T, int16_t>;
template <typename T> using Acc = std::conditional_t<kIsInteger<T>, Integers, F>;
constexpr float kGreatestInteger = 32767;
constexpr float kLeastGreatest = 1e-30f;  // what rows of nothing but zeros are rounded by

constexpr int64_t kSegment = 128;
constexpr int64_t kGroup = 16;  // adjacent tokens that always lie in one page
constexpr int64_t kGroups = kSegment / kGroup;
// Vectors that few rows meet at once. Of keys those of two groups, which mostly lie side by side: memory is read in order.
constexpr int kWideSums = 2 * kTileVectors;
constexpr int kWideScores = std::min(2 * kTileVectors, int(2 * kGroup) / kLanes);
constexpr float kLowest = -3e38f;  // the maximum of nothing: finite, since -inf minus -inf is not a number

// ---- kernels: MR rows against NV vectors ----

// Memory that will be read soon: a group's keys or values of one head, size / kAdjacent lines of 64 bytes.
template <typename T> struct Chunk {
  const Lane<T>* at;
  int64_t stride;
};

template <typename T> struct Scores {
  const Operand<T>* q;         // [rows, size]
  const Lane<T>* const* keys;  // for each vector of tokens, its column of the page
  const Chunk<T>* ahead;       // for each group of tokens, what to ask for meanwhile
  int64_t size, block;
  float scale;
  float* scores;  // [rows, kSegment]
  // Of integers:
  const float* const* key_scales;  // for each vector of tokens
  const float* q_scales;           // [rows], times scale
};

template <typename T> F score_of(F sum, const Scores<T>& a, int, int) { return sum * broadcast(a.scale); }
inline F score_of(Integers sum, const Scores<int16_t>& a, int m, int v) {
  return to_float(sum) * broadcast(a.q_scales[m]) * load(a.key_scales[v]);
}

template <typename T, int MR, int NV, bool kIsAhead> void score(const Scores<T>& a) {
  constexpr int kAdjacent = Element<T>::kAdjacent;
  const RowsOf<Operand<T>, MR> q(a.q, a.size);
  const Lane<T>* key[NV];
  Chunk<T> ahead[NV];
  for (int v = 0; v < NV; ++v) key[v] = a.keys[v], ahead[v] = a.ahead[v * kLanes / kGroup];
  Acc<T> acc[MR][NV];
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[m][v] = Acc<T>{};
  const int64_t steps = a.size / kAdjacent, block = a.block;
  for (int64_t k = 0; k < steps; ++k) {
    for (int v = 0; v < NV; ++v)
      if (kIsAhead && v * kLanes % kGroup == 0) prefetch(ahead[v].at + k * ahead[v].stride);
    add_lane<T>(acc, q, k * kAdjacent, [&](int v) { return key[v] + k * block; });
  }
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(a.scores + m * kSegment + v * kLanes, score_of(acc[m][v], a, m, v));
}

// Sums before a segment and its own, by their shares.
inline F folded(F before, F here, F kept, F added) { return fma(before, kept, here * added); }

template <typename T> struct Sum {
  const Operand<T>* weights;     // [rows, kSegment]
  const Lane<T>* const* values;  // for each group of tokens
  const Chunk<T>* ahead;         // for each group, what to ask for meanwhile
  int64_t num_groups, size, column;
  float* sums;        // [rows, size]
  const float* kept;  // [rows], the shares of what is in sums, and of what is added; NULL: sums is written
  const float* added;
  const float* weight_scales;  // [rows], of integers
};

template <typename T> F sum_of(F sum, const Sum<T>&, int) { return sum; }
inline F sum_of(Integers sum, const Sum<int16_t>& a, int m) { return to_float(sum) * broadcast(a.weight_scales[m]); }

template <typename T, int MR, int NV, bool kIsAhead> void sum(const Sum<T>& a) {
  constexpr int kAdjacent = Element<T>::kAdjacent, kSteps = kGroup / kAdjacent;
  const RowsOf<Operand<T>, MR> weights(a.weights, kSegment);
  Acc<T> acc[MR][NV];
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[m][v] = Acc<T>{};
  const int64_t size = a.size;
  for (int64_t g = 0; g < a.num_groups; ++g) {
    const Lane<T>* value = a.values[g] + a.column;
    // A chunk has as many lines as a group of values: with each of these one of those is asked for.
    const Chunk<T> ahead = kIsAhead ? a.ahead[g] : Chunk<T>{};
    const Lane<T>* line = ahead.at + a.column / kGroup * kSteps * ahead.stride;
    for (int k = 0; k < kSteps; ++k) {
      for (int v = 0; v < NV; ++v)
        if (kIsAhead && v * kLanes % kGroup == 0) prefetch(line + (v * kLanes / kGroup * kSteps + k) * ahead.stride);
      add_lane<T>(acc, weights, g * kGroup + k * kAdjacent, [&](int v) { return value + k * size + v * kLanes; });
    }
  }
  float* sums = a.sums + a.column;
  const float* kept = a.kept;
  const float* added = a.added;
  if (!kept) {
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) store(sums + m * size + v * kLanes, sum_of(acc[m][v], a, m));
    return;
  }
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      float* at = sums + m * size + v * kLanes;
      store(at, folded(load(at), sum_of(acc[m][v], a, m), broadcast(kept[m]), broadcast(added[m])));
    }
}

using AnyRows = std::make_integer_sequence<int, kTileRows>;
using FewRows = std::make_integer_sequence<int, kTileRows / 2>;  // twice as wide a tile has room for

template <typename T, int NV, int... MR>
void score_rows(int rows, bool is_ahead, const Scores<T>& a, std::integer_sequence<int, MR...>) {
  static constexpr void (*kByRows[][2])(const Scores<T>&) = {{score<T, MR + 1, NV, false>, score<T, MR + 1, NV, true>}...};
  kByRows[rows - 1][is_ahead](a);
}
template <typename T, int NV, int... MR>
void sum_rows(int rows, bool is_ahead, const Sum<T>& a, std::integer_sequence<int, MR...>) {
  static constexpr void (*kByRows[][2])(const Sum<T>&) = {{sum<T, MR + 1, NV, false>, sum<T, MR + 1, NV, true>}...};
  kByRows[rows - 1][is_ahead](a);
}

// Vectors of the next pass, of so many that are left: kWide where rows are few, kTileVectors, or one.
template <int kWide> int64_t pass_vectors(int64_t rows, int64_t left) {
  if (rows <= kTileRows / 2 && left >= kWide) return kWide;
  return left >= kTileVectors ? kTileVectors : 1;
}
// Call body with these as a constant, and the rows that there may be.
template <int kWide, typename Body> void with_vectors(int64_t vectors, const Body& body) {
  if (vectors == kTileVectors)
    body(std::integral_constant<int, kTileVectors>(), AnyRows());
  else if (vectors == 1)
    body(std::integral_constant<int, 1>(), AnyRows());
  else
    body(std::integral_constant<int, kWide>(), FewRows());
}

// ---- rows of integers ----

// What makes a row of this greatest magnitude 16-bit integers, and back.
inline float to_integers(float greatest) { return kGreatestInteger / std::max(greatest, kLeastGreatest); }
inline float from_integers(float greatest) { return std::max(greatest, kLeastGreatest) / kGreatestInteger; }

// x, mixed as keys are, as integers; returns what one of them stands for, NaN where x has NaN or infinity.
template <typename X> float round_row(const X* x, int64_t size, int16_t* integers) {
  alignas(64) float mixed[kMaxHeadSize];
  for (int64_t i = 0; i < size; i += kLanes) store(mixed + i, load_as_float(x + i));
  mix(mixed, size);
  F greatest = zero(), poison = zero();
  for (int64_t i = 0; i < size; i += kLanes) {
    const F v = load(mixed + i);
    greatest = max(greatest, magnitude(v));
    poison = fma(v, zero(), poison);
  }
  const float top = max_lanes(greatest), factor = to_integers(top);
  for (int64_t i = 0; i < size; i += kLanes)
    store_i16(integers + i, to_int_nearest(load(mixed + i) * broadcast(factor)));
  return from_integers(top) + sum_lanes(poison);
}

// ---- softmax of one row of a segment ----

// softcap * tanh(scores), of n vectors' scores.
inline void cap(float* scores, float softcap, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(scores + i, broadcast(softcap) * tanh(load(scores + i)));
}

// Take what lies outside of begin .. end out of the vector of positions at ..
inline F only(F v, int64_t at, int64_t begin, int64_t end) {
  static constexpr float kIota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const F position = load(kIota) + broadcast(float(at)), nothing = broadcast(-std::numeric_limits<float>::infinity());
  const F above = where_less(position, broadcast(float(begin)), nothing, v);
  return where_less(position, broadcast(float(end)), above, nothing);
}

// Positions of a segment: vectors from .. to were computed, begin .. end are seen (none if end <= begin).
struct Span {
  int64_t from, to, begin, end;
  int64_t first() const { return begin < end ? begin / kLanes * kLanes : to; }
  int64_t last() const { return begin < end ? (end + kLanes - 1) / kLanes * kLanes : to; }
};

// The greatest visible score; invisible ones beside visible ones become -inf.
inline float greatest(float* scores, const Span& span) {
  if (span.begin >= span.end) return kLowest;
  const int64_t first = span.first(), last = span.last();
  if (first < span.begin) store(scores + first, only(load(scores + first), first, span.begin, span.end));
  if (last > span.end)
    store(scores + last - kLanes, only(load(scores + last - kLanes), last - kLanes, span.begin, span.end));
  F top = broadcast(kLowest);
  for (int64_t i = first; i < last; i += kLanes) top = max(top, load(scores + i));
  return max_lanes(top);
}

// weights = 2^(scores - top) rounded to T; returns their sum.
template <typename T> float weigh(const float* scores, float top, const Span& span, Operand<T>* weights) {
  const int64_t first = span.first(), last = span.last();
  const F at = broadcast(top);
  F total = zero();
  for (int64_t i = span.from; i < first; i += kLanes) store_rounded(weights + i, zero());
  for (int64_t i = first; i < last; i += kLanes) {
    const F weight = rounded<T>(exp2(load(scores + i) - at));
    store_rounded(weights + i, weight);
    total = total + weight;
  }
  for (int64_t i = last; i < span.to; i += kLanes) store_rounded(weights + i, zero());
  return sum_lanes(total);
}

// Scales of a segment's tokens, of one kv head.
struct TokenScales {
  const float* const* groups;
  int64_t head;  // floats from a piece's first kv head
  F at(int64_t i) const { return load(groups[i / kGroup] + head + i % kGroup); }
};

// The same for values that are integers: weights are 2^(scores - top) times the values' scales, rounded to integers, of
// which weight_scale says what one stands for. scores are lost.
inline float weigh(float* scores, float top, const Span& span, const TokenScales& scales, int16_t* weights,
                   float& weight_scale) {
  const int64_t first = span.first(), last = span.last();
  const F at = broadcast(top);
  F total = zero(), greatest = zero();
  for (int64_t i = first; i < last; i += kLanes) {
    const F share = exp2(load(scores + i) - at), weight = share * scales.at(i - span.from);
    total = total + share;
    greatest = max(greatest, weight);
    store(scores + i, weight);
  }
  const float most = max_lanes(greatest), factor = to_integers(most);
  const I nothing = broadcast(0);
  for (int64_t i = span.from; i < first; i += kLanes) store_i16(weights + i, nothing);
  for (int64_t i = first; i < last; i += kLanes)
    store_i16(weights + i, to_int_nearest(load(scores + i) * broadcast(factor)));
  for (int64_t i = last; i < span.to; i += kLanes) store_i16(weights + i, nothing);
  weight_scale = from_integers(most);
  return sum_lanes(total);
}

// ---- folding ----

// Fold a segment's tops and totals into those of what came before it. The shares of the sums before it and of its own
// go to kept and added. Arrays of rows, filled up to whole vectors.
inline void fold(float* tops, float* totals, const float* segment_tops, const float* segment_totals, int64_t rows,
                 float* kept, float* added) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const F before = load(tops + r), here = load(segment_tops + r), both = max(before, here);
    const F keep = exp2(before - both), add = exp2(here - both);
    store(kept + r, keep);
    store(added + r, add);
    store(tops + r, both);
    store(totals + r, fma(load(totals + r), keep, load(segment_totals + r) * add));
  }
}

// One row's sums; kept NULL: there is nothing before.
inline void fold_sums(const float* here, int64_t size, const float* kept, float added, float* sums) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const F v = load(here + i);
    store(sums + i, kept ? folded(load(sums + i), v, broadcast(*kept), broadcast(added)) : v);
  }
}

template <typename T> void write_mean(const float* sums, float total, int64_t size, T* y) {
  const F share = broadcast(1.0f / total);
  for (int64_t i = 0; i < size; i += kLanes) store_rounded(y + i, load(sums + i) * share);
}

}  // namespace attention
}  // namespace quire
