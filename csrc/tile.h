// The innermost loops of every matrix product: a few rows against a few vectors of columns.
//
// acc[m][v] += a[m] . b[v], where rows of a lie in memory as they are, and b is laid out so that one vector holds
// kLanes columns of the same k (of the same pair of k, for bfloat16). Everything is summed in the order of k, one
// accumulator for each result: so a result does not depend on MR or NV, and a product may be cut into ranges of k as
// long as the accumulators are kept in float32 between them.
#pragma once

#include "simd.h"

namespace quire {

#if defined(__AVX512F__)
constexpr int kTileVectors = 2;  // 24 of 32 registers accumulate at 12 rows
constexpr int kTileRows = 12;
#else
constexpr int kTileVectors = 2;  // 12 of 16
constexpr int kTileRows = 6;
#endif
constexpr int kTileWidth = kTileVectors * kLanes;
constexpr int kVectorsInLine = 16 / kLanes;  // a line of the cache is 64 bytes

constexpr int64_t kPieceRows = 96;  // of x, in a piece of work: its sums lie in the second-level cache

// Rows in a piece of work, a multiple of kTileRows: enough pieces for the threads to share evenly, and as few passes over
// a tile as that allows.
inline int64_t piece_rows(int64_t rows, int64_t tiles, int threads) {
  const int64_t wanted = tiles >= 8 * threads ? 1 : (8 * threads + tiles - 1) / tiles;
  const int64_t even = (rows + wanted - 1) / wanted, bands = (even + kTileRows - 1) / kTileRows;
  const int64_t piece = bands * kTileRows;
  return piece < kPieceRows ? piece : kPieceRows;
}

// Tiles, side by side in memory, that a piece of work takes of a matrix that few rows pass over. Memory brings a stream
// at full speed only once it has run for some microseconds: two threads that take every other tile of 10 KB get 40 % of
// what they get from a half each.
inline int64_t piece_tiles(int64_t tiles, int64_t tile_bytes, int threads) {
  constexpr int64_t kStreamBytes = 512 << 10;
  const int64_t even = (tiles + threads - 1) / threads, enough = (kStreamBytes + tile_bytes - 1) / tile_bytes;
  const int64_t each = (even + enough - 1) / enough;  // pieces of one thread: all threads have as many
  return (even + each - 1) / each;
}

template <int MR, int NV> struct Sums {
  F acc[MR][NV];

  void clear() {
    for (int m = 0; m < MR; ++m)
      for (int v = 0; v < NV; ++v) acc[m][v] = zero();
  }
  void read(const float* c, int64_t stride) {
    for (int m = 0; m < MR; ++m)
      for (int v = 0; v < NV; ++v) acc[m][v] = load(c + m * stride + v * kLanes);
  }
  void write(float* c, int64_t stride) const {
    for (int m = 0; m < MR; ++m)
      for (int v = 0; v < NV; ++v) store(c + m * stride + v * kLanes, acc[m][v]);
  }
};

// ---- what a lane of b holds, and what of a meets it ----

// T: of what a and b are given. Operand: of what rows of a are when they meet b. kParts multiplications take what a lane
// holds: part p of it, and of the operands. kIsTight: no register is left beside the sums.
template <typename T> struct Element;
template <> struct Element<float> {
  static constexpr int kAdjacent = 1;  // numbers of the summed dimension in one lane
  static constexpr int kParts = 1;
  using Lane = float;
  using Operand = float;
  template <int, bool> static F part(F w) { return w; }
  template <int> static F operand(const float* p) { return broadcast(*p); }
  static F multiply_add(F acc, F w, F x) { return fma(x, w, acc); }
};
template <> struct Element<bf16> {
  static constexpr int kAdjacent = 2;
  using Lane = int32_t;
#if defined(__AVX512BF16__)
  static constexpr int kParts = 1;
  using Operand = bf16;
  template <int, bool> static I part(I w) { return w; }
  template <int> static I operand(const bf16* p) { return broadcast_word(p); }
  static F multiply_add(F acc, I w, I x) { return dot2(acc, w, x); }
#else
  static constexpr int kParts = 2;
  using Operand = float;  // widened once: each meets many lanes
  template <int p, bool kIsTight> static F part(I w) {
    if constexpr (p == 0) return as_float(shift_left<16>(w));
    else if constexpr (kIsTight) return as_float(shift_left<16>(shift_right<16>(w)));
    else return as_float(bit_and(w, broadcast(int32_t(0xffff0000))));  // one operation less, one register more
  }
  template <int p> static F operand(const float* x) { return broadcast(x[p]); }
  static F multiply_add(F acc, F w, F x) { return fma(x, w, acc); }
#endif
};
template <typename T> using Lane = typename Element<T>::Lane;
template <typename T> using Operand = typename Element<T>::Operand;

// n numbers as operands.
inline void to_operands(const float* x, int64_t n, float* y) { std::memcpy(y, x, size_t(n) * sizeof(float)); }
#if defined(__AVX512BF16__)
inline void to_operands(const bf16* x, int64_t n, bf16* y) { std::memcpy(y, x, size_t(n) * sizeof(bf16)); }
#else
inline void to_operands(const bf16* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load_bf16(x + i));
  if (i < n) store_part(y + i, load_part(x + i, int(n - i)), int(n - i));
}
#endif

// MR rows at a stride in elements: every third has a pointer, the two after it are reached by the stride.
template <typename T, int MR> struct RowsOf {
  const T* at[(MR + 2) / 3];
  int64_t stride;
  RowsOf(const T* first, int64_t row_stride) : stride(row_stride) {
#pragma GCC unroll 4
    for (int m = 0; m < MR; m += 3) at[m / 3] = first + m * stride;
  }
  const T* operator[](int m) const { return at[m / 3] + (m % 3) * stride; }
};

// acc += a b over the numbers that one lane of b holds, from place `at` of rows of a; vector(v) is where vector v of b lies.
// Of rows and vectors, the fewer are kept in registers while the others pass.
template <typename T, int p = 0, typename Acc, int MR, int NV, typename Vector>
inline void add_lane(Acc (&acc)[MR][NV], const RowsOf<Operand<T>, MR>& rows, int64_t at, const Vector& vector) {
  using E = Element<T>;
  const auto lanes = [&](int v) { return E::template part<p, (MR < NV)>(load(vector(v))); };
  const auto operand = [&](int m) { return E::template operand<p>(rows[m] + at); };
  if constexpr (MR < NV) {
    decltype(operand(0)) x[MR];
    for (int m = 0; m < MR; ++m) x[m] = operand(m);
    for (int v = 0; v < NV; ++v) {
      const auto w = lanes(v);
      for (int m = 0; m < MR; ++m) acc[m][v] = E::multiply_add(acc[m][v], w, x[m]);
    }
  } else {
    decltype(lanes(0)) w[NV];
    for (int v = 0; v < NV; ++v) w[v] = lanes(v);
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      const auto x = operand(m);
      for (int v = 0; v < NV; ++v) acc[m][v] = E::multiply_add(acc[m][v], w[v], x);
    }
  }
  if constexpr (p + 1 < E::kParts)
    add_lane<T, p + 1>(acc, rows, at, [&](int v) { return elsewhere(vector(v)); });
}

// sums += a b: a MR rows, b [groups, kTileWidth] lanes. With kIsAhead, what lies `ahead` lanes behind each vector of b is
// asked for meanwhile.
template <typename T, bool kIsAhead, int MR, int NV>
inline void multiply_add(Sums<MR, NV>& sums, const Operand<T>* a, int64_t a_stride, const Lane<T>* b, int64_t groups,
                         int64_t ahead) {
  F acc[MR][NV];
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < NV; ++v) acc[m][v] = sums.acc[m][v];
  const RowsOf<Operand<T>, MR> rows(a, a_stride);
  for (int64_t g = 0; g < groups; ++g, b += kTileWidth) {
    if constexpr (kIsAhead)
      for (int v = 0; v < NV; v += kVectorsInLine) prefetch(b + ahead + v * kLanes);
    add_lane<T>(acc, rows, g * Element<T>::kAdjacent, [&](int v) { return b + v * kLanes; });
  }
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < NV; ++v) sums.acc[m][v] = acc[m][v];
}

}  // namespace quire
