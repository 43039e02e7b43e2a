// y = x W^T for weights in blocks: integer dot products of what the file holds, nothing expanded.
//
// Rows of x are rounded to 8 bits (blocks_round.h). Over a unit, w = ws (q - offset) + wm and x = xs a give
//   sum w x = xs ws (sum q a - offset sum a) + wm (xs sum a)
// whose first sum is exact in int32 and begins at -offset sum a. What wide units of x hold beside that is multiplied
// likewise, of whichever rows have it, into sums of its own. Units are added in float32 in the order of k, one
// accumulator for each result and kind, so that a result depends neither on the rows beside it nor on how work is cut.
//
// A piece of work is one tile by up to kPieceRows rows, in ranges of k that leave the tile's part in the first-level
// cache, as in linear.cpp; or all of a few rows by several tiles, one stream of memory. Few numbers are rounded by each
// thread for itself; many are shared out first, into the caller's workspace.
//
// Bound: memory for a few rows, and the integer dot products for many: at best 8 of 10 operations of the units that
// multiply are dot products, where a unit has one scale (the others scale and add); wide units cost as much again.
#include <algorithm>

#include "blocks_round.h"
#include "output.h"

namespace quire {
namespace {

#if defined(__AVX512F__)
constexpr int kBandRows = 6;  // 24 of 32 registers accumulate
#else
constexpr int kBandRows = 2;
#endif
constexpr int64_t kRangeBytes = 20 << 10;  // of a tile, in the first-level cache
constexpr int64_t kBusyBytes = 23;         // that memory brings in the time of a vector operation (measured)
constexpr int kHeadLines = 32;             // of the next stream, asked for while memory would rest
constexpr int64_t kOwnRounding = 4096;     // numbers that a thread rounds in less time than waiting for others takes

// What of the weights comes next, to be brought into the second-level cache while this part is worked on.
struct Ahead {
  const char* at;
  int64_t lines;  // for each unit
};

inline I broadcast_quad(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return broadcast(word);
}

inline F broadcast_bits(int32_t bits) { return as_float(broadcast(bits)); }

// Unit u of MR rows side by side.
template <int MR> struct UnitsOfRows {
  RowsOf<RoundedUnit, MR> rows;

  const RoundedUnit& operator()(int m, int64_t u) const { return rows[m][u]; }
};

// MR units of any rows.
template <int MR> struct UnitsOf {
  const RoundedUnit* const* units;

  const RoundedUnit& operator()(int m, int64_t) const { return *units[m]; }
};

// acc[m][v] += q of quad j . a
template <int format, int j, int MR, typename X>
inline void add_quad(I (&acc)[MR][kTileVectors], const char* unit, const X& x, int64_t u) {
  I q[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) q[v] = quad<format, j>(unit, v);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m) {
    const I a = broadcast_quad(x(m, u).q + 4 * j);
    for (int v = 0; v < kTileVectors; ++v)
      acc[m][v] = kForms[format].low < 8 ? dot4_small(acc[m][v], q[v], a) : dot4(acc[m][v], q[v], a);
  }
}

// One sub-block: quads first .. first + length of the unit.
template <int format, int sub, int MR, typename X, int... j>
inline void add_sub(Sums<MR, kTileVectors>& sums, const char* head, const char* unit, const X& x, int64_t u,
                    std::integer_sequence<int, j...>) {
  constexpr BlockForm form = kForms[format];
  I acc[MR][kTileVectors];
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v) acc[m][v] = broadcast(form.has_min ? 0 : x(m, u).sums[sub]);
  (add_quad<format, sub * (kQuads / form.subs) + j>(acc, unit, x, u), ...);
  F ws[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) ws[v] = scaling<format>(head, unit, sub, 0, v);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v)
      sums.acc[m][v] = fma(to_float(acc[m][v]) * broadcast(x(m, u).scale), ws[v], sums.acc[m][v]);
  if constexpr (form.has_min) {
    for (int v = 0; v < kTileVectors; ++v) ws[v] = scaling<format>(head, unit, sub, 1, v);
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m)
      for (int v = 0; v < kTileVectors; ++v)
        sums.acc[m][v] = fma(broadcast_bits(x(m, u).sums[sub]), ws[v], sums.acc[m][v]);
  }
}

template <int format, int MR, typename X>
inline void add_unit(Sums<MR, kTileVectors>& sums, const char* head, const char* unit, const X& x, int64_t u) {
  constexpr auto kSubQuads = std::make_integer_sequence<int, kQuads / kForms[format].subs>();
  add_sub<format, 0>(sums, head, unit, x, u, kSubQuads);
  if constexpr (kForms[format].subs == 2) add_sub<format, 1>(sums, head, unit, x, u, kSubQuads);
}

// The sums of MR rows over some superblocks, from and to scratch.
template <int format, int MR>
void add_range(const RoundedUnit* x, int64_t x_stride, const char* w, int64_t superblocks, float* sums, bool is_first,
               Ahead ahead) {
  constexpr BlockForm form = kForms[format];
  Sums<MR, kTileVectors> s;
  if (is_first)
    s.clear();
  else
    s.read(sums, kTileWidth);
  const UnitsOfRows<MR> rows{RowsOf<RoundedUnit, MR>(x, x_stride)};
  int64_t u = 0;
  for (int64_t b = 0; b < superblocks; ++b, w += form.superblock_bytes()) {
    const char* unit = w + form.head_bytes();
    for (int i = 0; i < form.units(); ++i, ++u, unit += form.unit_bytes()) {
      for (int line = 0; line < ahead.lines; ++line, ahead.at += 64) prefetch(ahead.at);
      add_unit<format>(s, w, unit, rows, u);
    }
  }
  s.write(sums, kTileWidth);
}

using AddRange = void (*)(const RoundedUnit*, int64_t, const char*, int64_t, float*, bool, Ahead);

template <int format, int... MR> AddRange pick(int rows, std::integer_sequence<int, MR...>) {
  static constexpr AddRange kByRows[] = {add_range<format, MR + 1>...};
  return kByRows[rows - 1];
}

// One unit of some rows, each with sums of its own.
template <int format, int MR>
void add_listed(const RoundedUnit* const* units, const char* head, const char* unit, float* const* sums) {
  Sums<MR, kTileVectors> s;
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v) s.acc[m][v] = load(sums[m] + v * kLanes);
  add_unit<format>(s, head, unit, UnitsOf<MR>{units}, 0);
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v) store(sums[m] + v * kLanes, s.acc[m][v]);
}

using AddListed = void (*)(const RoundedUnit* const*, const char*, const char*, float* const*);

template <int format, int... MR> AddListed pick_listed(int rows, std::integer_sequence<int, MR...>) {
  static constexpr AddListed kByRows[] = {add_listed<format, MR + 1>...};
  return kByRows[rows - 1];
}

struct Input {
  const void* data;
  int64_t stride;
  void* workspace;
};

template <int format, typename T> class BlockLinear final : public Operator {
 public:
  BlockLinear(int rows, Input x, BlockMatrix w, std::unique_ptr<Output> output)
      : rows_(rows), x_(x), w_(w), output_(std::move(output)) {}

  const char* name() const override { return "linear_blocks"; }

  void run(const Step& step, Worker& worker) const override {
    const int64_t rows = step.counts[rows_];
    if (!rows) return;
    const int64_t piece = piece_rows(rows, w_.tiles(), worker.count()), pieces = ceil_div(rows, piece);
    const bool is_own = rows * w_.num_in <= kOwnRounding;
    const int64_t own_bytes = is_own ? ceil_div(RoundedRows::num_bytes(rows, w_.num_in), 64) * 64 : 0;
    char* scratch = static_cast<char*>(worker.scratch(own_bytes + 2 * piece * kTileWidth * 4));
    const RoundedRows x(is_own ? scratch : x_.workspace, rows, w_.num_in);
    is_own ? round_all(rows, x) : round_shared(rows, x, worker);
    float* sums = reinterpret_cast<float*>(scratch + own_bytes);
    if (rows <= kBandRows)
      run_streams(x, rows, worker, sums);
    else
      worker.for_each(w_.tiles() * pieces, [&](int64_t i) {
        const int64_t first = i % pieces * piece;
        // Whoever works alike takes the tiles between this one and the next.
        run_piece(x, i / pieces, (i + worker.count()) / pieces, first, std::min(piece, rows - first), sums);
      });
    if (!output_->has_end()) return;
    worker.barrier();
    output_->end(rows, worker);
  }

 private:
  void round(int64_t row, const RoundedRows& x) const {
    round_row(static_cast<const T*>(x_.data) + row * x_.stride, kForms[format], x, row);
  }

  void round_all(int64_t rows, const RoundedRows& x) const {
    for (int64_t r = 0; r < rows; ++r) round(r, x);
  }

  void round_shared(int64_t rows, const RoundedRows& x, Worker& worker) const {
    const int64_t piece = rows_per_piece(rows, worker.count());
    worker.for_each(ceil_div(rows, piece), [&](int64_t i) {
      for (int64_t r = i * piece; r < std::min(rows, (i + 1) * piece); ++r) round(r, x);
    });
    worker.barrier();
  }

  // All rows at once, by some tiles one after another.
  void run_streams(const RoundedRows& x, int64_t rows, Worker& worker, float* sums) const {
    const int64_t tiles = w_.tiles(), tile_bytes = block_tile_bytes(kForms[format], w_.num_in);
    const int64_t piece = piece_tiles(tiles, tile_bytes, worker.count());
    worker.for_each(ceil_div(tiles, piece), [&](int64_t i) {
      for (int64_t tile = i * piece; tile < std::min(tiles, (i + 1) * piece); ++tile)
        run_piece(x, tile, tile + 1, 0, rows, sums);
    });
  }

  void run_piece(const RoundedRows& x, int64_t tile, int64_t next_tile, int64_t first, int64_t rows,
                 float* sums) const {
    constexpr BlockForm form = kForms[format];
    const int64_t bytes = form.superblock_bytes(), superblocks = x.row_units() / form.units();
    const int64_t tile_bytes = superblocks * bytes;
    const char* w = w_.packed + tile * tile_bytes;
    float* wide_sums = sums + rows * kTileWidth;
    std::fill_n(wide_sums, rows * kTileWidth, 0.0f);
    const int64_t ranges = rows <= kBandRows ? 1 : ceil_div(tile_bytes, kRangeBytes);
    const int64_t bands = ceil_div(rows, kBandRows), lines = lines_ahead(rows, bands);
    for (int64_t range = 0; range < ranges; ++range) {
      const int64_t b = superblocks * range / ranges, end_b = superblocks * (range + 1) / ranges;
      const char* next = range + 1 < ranges ? w + end_b * bytes : w_.packed + next_tile * tile_bytes;
      for (int64_t band = 0; band < bands; ++band) {
        // Bands of even height: a short last one would leave the vector units waiting for their own results.
        const int64_t begin = rows * band / bands, end = rows * (band + 1) / bands;
        const Ahead ahead{next + band * lines * 64 * (end_b - b) * form.units(), lines};
        const AddRange add = pick<format>(int(end - begin), std::make_integer_sequence<int, kBandRows>());
        add(x.row(first + begin) + b * form.units(), x.stride(), w + b * bytes, end_b - b, sums + begin * kTileWidth,
            range == 0, ahead);
      }
      if (!lines)
        for (int line = 0; line < kHeadLines; ++line) prefetch(next + 64 * line);
      add_wide(x, w, b, end_b, first, rows, wide_sums);
    }
    for (int64_t i = 0; i < rows * kTileWidth; i += kLanes) store(sums + i, load(sums + i) + load(wide_sums + i));
    const int64_t column = tile * kTileWidth;
    output_->take(sums, kTileWidth, rows, first, column, std::min<int64_t>(kTileWidth, w_.num_out - column));
  }

  // The second q of wide units: unit by unit, of whichever rows have it.
  void add_wide(const RoundedRows& x, const char* w, int64_t b, int64_t end_b, int64_t first, int64_t rows,
                float* sums) const {
    constexpr BlockForm form = kForms[format];
    for (; b < end_b; ++b) {
      const char* head = w + b * form.superblock_bytes();
      for (int i = 0; i < form.units(); ++i) {
        const int64_t u = b * form.units() + i;
        const char* unit = head + form.head_bytes() + i * form.unit_bytes();
        const uint8_t* flags = x.flags(u) + first;
        const RoundedUnit* units[kBandRows];
        float* places[kBandRows];
        int count = 0;
        for (int64_t r = 0; r < rows; r += 8) {
          uint64_t eight;
          std::memcpy(&eight, flags + r, 8);
          if (rows - r < 8) eight &= (uint64_t(1) << (8 * (rows - r))) - 1;
          for (; eight; eight &= eight - 1) {
            const int64_t at = r + __builtin_ctzll(eight) / 8;
            units[count] = x.row(first + at) + x.row_units() + u;
            places[count++] = sums + at * kTileWidth;
            if (count < kBandRows) continue;
            add_listed<format, kBandRows>(units, head, unit, places);
            count = 0;
          }
        }
        if (count) pick_listed<format>(count, std::make_integer_sequence<int, kBandRows>())(units, head, unit, places);
      }
    }
  }

  // Each band brings its share. Where few rows leave the memory busy, its own prefetching does better.
  static int64_t lines_ahead(int64_t rows, int64_t bands) {
    constexpr BlockForm form = kForms[format];
    constexpr int64_t kUnpacking = (form.low < 8 ? kQuads : 0) + (form.high > 0 ? kQuads - 2 : 0);
    if ((rows * kQuads + kUnpacking) * kBusyBytes < form.unit_bytes()) return 0;
    return ceil_div(form.superblock_bytes(), 64 * form.units() * bands);
  }

  int rows_;
  Input x_;
  BlockMatrix w_;
  std::unique_ptr<Output> output_;
};

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int64_t quire_blocks_workspace_bytes(int64_t max_rows, int64_t num_in) {
  if (max_rows < 0 || num_in < 1 || num_in % kUnit) return QUIRE_BAD_ARGUMENT;
  return RoundedRows::num_bytes(max_rows, num_in);
}

int quire_linear_blocks(quire_program* program, int rows, const void* x, int64_t x_stride, const void* packed,
                        int64_t num_out, int64_t num_in, int format, int dtype, void* workspace,
                        const quire_output* output) {
  if (!is_rows(rows) || !is_block_matrix(num_out, num_in, format) || !workspace) return QUIRE_BAD_ARGUMENT;
  auto made = make_output(*output, num_out, kTileWidth, dtype);
  if (!made) return QUIRE_BAD_ARGUMENT;
  const BlockMatrix matrix{static_cast<const char*>(packed), num_out, num_in};
  const Input input{x, x_stride, workspace};
  return with_format(format, [&](auto name) {
    if (dtype == QUIRE_F32) return append<BlockLinear<name(), float>>(program, rows, input, matrix, std::move(made));
    return append<BlockLinear<name(), bf16>>(program, rows, input, matrix, std::move(made));
  });
}

}  // extern "C"
