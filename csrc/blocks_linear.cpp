// y = x W^T for weights in blocks: integer dot products of what the file holds, nothing expanded.
//
// Rows of x are rounded to 8 bits (blocks_round.h). Over a unit, w = ws (q - offset) + wm and x = xs a give
//   sum w x = xs ws (sum q a - offset sum a) + wm (xs sum a)
// whose first sum is exact in int32 and begins at -offset sum a. Units are added in float32 in the order of k, one
// accumulator for each result; then the numbers of x that stand alone, in that order too. So a result depends neither on
// the rows beside it nor on how work is cut.
//
// A piece of work is one tile by some bands of rows, in ranges of k that leave the tile's part in the first-level cache,
// as in linear.cpp; or all of a few rows by several tiles, one stream of memory. Few numbers are rounded by each thread
// for itself; many are shared out first, into the caller's workspace.
//
// Bound: memory for a few rows, and the integer dot products for many: with VNNI at best 8 of 10 operations of the units
// that multiply are dot products, where a unit has one scale (the others scale and add); without, four operations do what
// one does, or, below 8 bits, little more than two. The numbers that stand alone take up to a tenth of it, and rounding as
// much where there are few columns.
#include <algorithm>

#include "blocks_round.h"
#include "output.h"

namespace quire {
namespace {

constexpr int64_t kRangeBytes = 20 << 10;  // of a tile, in the first-level cache
constexpr int64_t kBusyBytes = 23;         // that memory brings in the time of a vector operation (measured)
constexpr int kHeadLines = 32;             // of the next stream, asked for while memory would rest
constexpr int64_t kOwnRounding = 4096;     // numbers that a thread rounds in less time than waiting for others takes

// What of the weights comes next, to be brought into the second-level cache while this part is worked on.
struct Ahead {
  const char* at;
  int64_t lines;  // for each unit
};

inline F broadcast_bits(int32_t bits) { return as_float(broadcast(bits)); }

// sums[m][v] += q of quad j . a
template <int format, int j, int MR>
[[gnu::always_inline]] inline void add_quad(I (&sums)[MR][kTileVectors], const char* unit, const Unit<format>* x) {
  using Dot = Dot4<kForms[format].bits()>;
  I q[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) q[v] = quad<format, j>(unit, v);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m) {
    const auto a = Dot::quad(x[m].q + 4 * j);
    for (int v = 0; v < kTileVectors; ++v) sums[m][v] = Dot::add(sums[m][v], q[v], a);
  }
}

// acc[m][v] += q . a over quads first .. first + count of the unit, in parts.
template <int format, int first, int count, int MR, int... j>
[[gnu::always_inline]] inline void add_quads(I (&acc)[MR][kTileVectors], const char* unit, const Unit<format>* x,
                                             std::integer_sequence<int, j...>) {
  using Dot = Dot4<kForms[format].bits()>;
  I part[MR][kTileVectors];
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v) part[m][v] = Dot::begin(acc[m][v]);
  (add_quad<format, first + j>(part, unit, x), ...);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v) acc[m][v] = Dot::end(acc[m][v], part[m][v]);
  constexpr int kDone = sizeof...(j), kNext = std::min(count - kDone, Dot::kQuads);
  if constexpr (kNext > 0)
    add_quads<format, first + kDone, count - kDone>(acc, unit, x, std::make_integer_sequence<int, kNext>());
}

// One sub-block of the unit.
template <int format, int sub, int MR>
[[gnu::always_inline]] inline void add_sub(F (&sums)[MR][kTileVectors], const char* head, const char* unit,
                                           const Unit<format>* x) {
  constexpr BlockForm form = kForms[format];
  constexpr int kCount = kQuads / form.subs, kFirst = std::min(kCount, Dot4<form.bits()>::kQuads);
  I acc[MR][kTileVectors];
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v) acc[m][v] = broadcast(form.has_min ? 0 : x[m].sums[sub]);
  add_quads<format, sub * kCount, kCount>(acc, unit, x, std::make_integer_sequence<int, kFirst>());
  F ws[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) ws[v] = scaling<format>(head, unit, sub, 0, v);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v)
      sums[m][v] = fma(to_float(acc[m][v]) * broadcast(x[m].scale), ws[v], sums[m][v]);
  if constexpr (form.has_min) {
    for (int v = 0; v < kTileVectors; ++v) ws[v] = scaling<format>(head, unit, sub, 1, v);
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m)
      for (int v = 0; v < kTileVectors; ++v)
        sums[m][v] = fma(broadcast_bits(x[m].sums[sub]), ws[v], sums[m][v]);
  }
}

// What a band of rows and some superblocks add to sums [MR, kTileWidth]. x is the first unit of the band's rows.
template <int format, int MR>
void add_range(const Unit<format>* x, const char* w, int64_t superblocks, float* sums, Ahead ahead) {
  constexpr BlockForm form = kForms[format];
  F s[MR][kTileVectors];
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v) s[m][v] = load(sums + m * kTileWidth + v * kLanes);
  for (int64_t b = 0; b < superblocks; ++b, w += form.superblock_bytes()) {
    const char* unit = w + form.head_bytes();
    for (int i = 0; i < form.units(); ++i, x += MR, unit += form.unit_bytes()) {
      for (int line = 0; line < ahead.lines; ++line, ahead.at += 64) prefetch(ahead.at);
      add_sub<format, 0>(s, w, unit, x);
      if constexpr (form.subs == 2) add_sub<format, 1>(s, w, unit, x);
    }
  }
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < kTileVectors; ++v) store(sums + m * kTileWidth + v * kLanes, s[m][v]);
}

template <int format> using AddRange = void (*)(const Unit<format>*, const char*, int64_t, float*, Ahead);

template <int format, int... MR> AddRange<format> pick(int64_t rows, std::integer_sequence<int, MR...>) {
  static constexpr AddRange<format> kByRows[] = {add_range<format, MR + 1>...};
  return kByRows[rows - 1];
}

// What lone numbers add to sums [rows, kTileWidth] over a tile; sums are of rows from `first` on.
template <int format> void add_lone(LoneNumbers lone, int64_t first, const char* tile, float* sums) {
  constexpr BlockForm form = kForms[format];
  F w[kTileVectors];
  int64_t k = -1;
  for (const Lone* one = lone.numbers, *end = one + lone.count; one < end; ++one) {
    if (one->k != k) {
      k = one->k;
      const char* head = tile + k / form.block_values() * form.superblock_bytes();
      const char* unit = head + form.head_bytes() + k / kUnit % form.units() * form.unit_bytes();
      for (int v = 0; v < kTileVectors; ++v) w[v] = value<format>(head, unit, k % kUnit, v);
    }
    float* to = sums + (one->row - first) * kTileWidth;
    for (int v = 0; v < kTileVectors; ++v) store(to + v * kLanes, fma(broadcast(one->x), w[v], load(to + v * kLanes)));
  }
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
    const bool is_own = rows * w_.num_in <= kOwnRounding;
    const int64_t own_bytes = is_own ? ceil_div(Rounded::num_bytes(rows, w_.num_in), 64) * 64 : 0;
    const int64_t pieces = ceil_div(rows, piece_rows(rows, w_.tiles(), worker.count()));
    const int64_t most_rows = ceil_div(ceil_div(rows, kBandRows), pieces) * kBandRows;
    const int64_t num_sums = most_rows * kTileWidth, num_places = w_.num_in;
    char* scratch = static_cast<char*>(worker.scratch(own_bytes + std::max(num_sums, num_places) * 4));
    float* sums = reinterpret_cast<float*>(scratch + own_bytes);
    const Rounded x(is_own ? scratch : x_.workspace, rows, w_.num_in);
    const auto first_band = [&](int64_t piece) { return x.bands() * piece / pieces; };
    const auto each = [&](int64_t n, const auto& body) {
      if (is_own) {
        for (int64_t i = 0; i < n; ++i) body(i);
      } else {
        worker.for_each(n, body);
        worker.barrier();
      }
    };
    each(x.bands(), [&](int64_t band) { round_band<format>(static_cast<const T*>(x_.data), x_.stride, x, band); });
    if (x.bands() == 1) {
      run_streams(x, worker, sums);
    } else {
      uint32_t* at = reinterpret_cast<uint32_t*>(scratch + own_bytes);
      each(pieces, [&](int64_t piece) { x.sort_lone(first_band(piece), first_band(piece + 1), at); });
      worker.for_each(w_.tiles() * pieces, [&](int64_t i) {
        const int64_t piece = i % pieces;
        // Whoever works alike takes the tiles between this one and the next.
        run_piece(x, i / pieces, (i + worker.count()) / pieces, first_band(piece), first_band(piece + 1), sums);
      });
    }
    if (!output_->has_end()) return;
    worker.barrier();
    output_->end(rows, worker);
  }

 private:
  using Rounded = RoundedRows<Unit<format>>;

  // All rows at once, by some tiles one after another.
  void run_streams(const Rounded& x, Worker& worker, float* sums) const {
    const int64_t tiles = w_.tiles(), tile_bytes = block_tile_bytes(kForms[format], w_.num_in);
    const int64_t piece = piece_tiles(tiles, tile_bytes, worker.count());
    worker.for_each(ceil_div(tiles, piece), [&](int64_t i) {
      for (int64_t tile = i * piece; tile < std::min(tiles, (i + 1) * piece); ++tile)
        run_piece(x, tile, tile + 1, 0, 1, sums);
    });
  }

  void run_piece(const Rounded& x, int64_t tile, int64_t next_tile, int64_t band, int64_t end_band,
                 float* sums) const {
    constexpr BlockForm form = kForms[format];
    const int64_t first = x.first_row(band), rows = x.first_row(end_band) - first, bands = end_band - band;
    const int64_t bytes = form.superblock_bytes(), superblocks = x.row_units() / form.units();
    const char* w = w_.packed + tile * superblocks * bytes;
    std::fill_n(sums, rows * kTileWidth, 0.0f);
    const int64_t ranges = bands == 1 ? 1 : ceil_div(superblocks * bytes, kRangeBytes), lines = lines_ahead(rows, bands);
    for (int64_t range = 0; range < ranges; ++range) {
      const int64_t b = superblocks * range / ranges, end_b = superblocks * (range + 1) / ranges;
      const char* next = range + 1 < ranges ? w + end_b * bytes : w_.packed + next_tile * superblocks * bytes;
      for (int64_t i = 0; i < bands; ++i) {
        const int64_t height = x.height(band + i);
        const Ahead ahead{next + i * lines * 64 * (end_b - b) * form.units(), lines};
        const AddRange<format> add = pick<format>(height, std::make_integer_sequence<int, kBandRows>());
        add(x.units(band + i) + b * form.units() * height, w + b * bytes, end_b - b,
            sums + (x.first_row(band + i) - first) * kTileWidth, ahead);
      }
      if (!lines)
        for (int line = 0; line < kHeadLines; ++line) prefetch(next + 64 * line);
    }
    add_lone<format>(x.lone(band, end_band), first, w, sums);
    const int64_t column = tile * kTileWidth;
    output_->take(sums, kTileWidth, rows, first, column, std::min<int64_t>(kTileWidth, w_.num_out - column));
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
  if (max_rows < 0 || !is_size(std::max<int64_t>(max_rows, 1), num_in) || num_in % kUnit) return QUIRE_BAD_ARGUMENT;
  return RoundedRows<RoundedUnit<int16_t>>::num_bytes(max_rows, num_in);  // of the largest units
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
