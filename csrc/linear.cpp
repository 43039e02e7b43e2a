// y = x W^T, for weights of plain numbers packed in tiles.
//
// Packed layout: tiles of kTileWidth output features; in a tile [K, kTileWidth] float32, or [K / 2, kTileWidth] pairs of
// bfloat16 of adjacent k. One tile is one stream of memory, and what a vector load brings is kLanes results' share of
// one k. The last tile is filled up with zeros.
//
// A piece of work is a run of tiles by up to kPieceRows rows of x. Its sums lie in scratch, and k is taken in ranges that
// leave a tile's part in the first-level cache while all rows of the piece pass over it. Rows that must be widened are,
// a range at a time, for all tiles of the run. Every result is one sum in the order of k, whatever the piece: batch
// invariant by construction.
//
// Bound: memory up to some dozen rows, where a tile is read once from DRAM for all rows; vector units beyond.
#include <algorithm>

#include "output.h"
#include "tile.h"

namespace quire {
namespace {

template <typename T> constexpr bool kIsWidened = !std::is_same_v<T, Operand<T>>;
// Of a tile: longer leaves the first-level cache, shorter reads sums more often.
template <typename T> constexpr int64_t kRangeBytes = (kIsWidened<T> ? 24 : 48) << 10;
// Tiles of a run: one, but for rows that are widened, which costs a fifth of one tile's time.
template <typename T> constexpr int64_t kRunTiles = kIsWidened<T> ? 8 : 1;

struct Matrix {
  const char* packed;
  int64_t num_out, num_in;
};

struct Rows {
  const void* data;
  int64_t stride;
};

// Rows as a product takes them.
template <typename T> struct Band {
  const Operand<T>* data;
  int64_t stride;
};

// The sums of MR rows over one range of k, from and to scratch; what lies `ahead` of w is asked for, if not 0.
template <int MR, typename T>
void add_range(const Band<T>& x, const Lane<T>* w, int64_t groups, float* sums, bool is_first, int64_t ahead) {
  Sums<MR, kTileVectors> s;
  if (is_first)
    s.clear();
  else
    s.read(sums, kTileWidth);
  if (ahead)
    multiply_add<T, true>(s, x.data, x.stride, w, groups, ahead);
  else
    multiply_add<T, false>(s, x.data, x.stride, w, groups, 0);
  s.write(sums, kTileWidth);
}

template <typename T> using AddRange = void (*)(const Band<T>&, const Lane<T>*, int64_t, float*, bool, int64_t);

template <typename T, int... MR> AddRange<T> pick(int rows, std::integer_sequence<int, MR...>) {
  static constexpr AddRange<T> kByRows[] = {add_range<MR + 1, T>...};
  return kByRows[rows - 1];
}

template <typename T> class Linear final : public Operator {
 public:
  Linear(int rows, Rows x, Matrix w, std::unique_ptr<Output> output)
      : rows_(rows), x_(x), w_(w), output_(std::move(output)) {}

  const char* name() const override { return "linear"; }

  void run(const Step& step, Worker& worker) const override {
    const int64_t rows = step.counts[rows_];
    if (!rows) return;
    if (rows <= kTileRows)
      run_streams(rows, worker);
    else
      run_pieces(rows, worker);
    if (!output_->has_end()) return;
    worker.barrier();
    output_->end(rows, worker);
  }

 private:
  static constexpr int kAdjacent = Element<T>::kAdjacent;

  int64_t tiles() const { return ceil_div(w_.num_out, kTileWidth); }
  int64_t groups() const { return w_.num_in / kAdjacent; }
  int64_t tile_lanes() const { return groups() * kTileWidth; }

  // All rows at once, by some tiles one after another.
  void run_streams(int64_t rows, Worker& worker) const {
    const int64_t stream = piece_tiles(tiles(), tile_lanes() * 4, worker.count());
    float* sums = scratch(rows * kTileWidth, rows * w_.num_in, worker);
    const Band<T> x = operands(0, rows, 0, w_.num_in, sums + rows * kTileWidth);
    worker.for_each(ceil_div(tiles(), stream), [&](int64_t i) {
      for (int64_t tile = i * stream; tile < std::min(tiles(), (i + 1) * stream); ++tile) {
        add_tile(x, rows, tile, 0, groups(), stream_ahead(rows), sums);
        take(sums, tile, 0, rows);
      }
    });
  }

  // Memory's own prefetching begins anew at every page of 4 KB. Asking ahead of it, in lanes, helps one row and many; a
  // few in between are faster without (measured).
  static int64_t stream_ahead(int64_t rows) { return rows == 1 ? 512 : rows < 6 ? 0 : 2048; }

  void run_pieces(int64_t rows, Worker& worker) const {
    const int64_t runs = ceil_div(tiles(), kRunTiles<T>), range = kRangeBytes<T> / (kTileWidth * 4);
    const int64_t piece = piece_rows(rows, runs, worker.count()), pieces = ceil_div(rows, piece);
    const int64_t tile_sums = piece * kTileWidth;
    float* sums = scratch(kRunTiles<T> * tile_sums, piece * range * kAdjacent, worker);
    worker.for_each(runs * pieces, [&](int64_t i) {
      const auto start = [&](int64_t run) { return tiles() * run / runs; };
      const int64_t first = i % pieces * piece, height = std::min(piece, rows - first);
      const int64_t tile = start(i / pieces), end = start(i / pieces + 1);
      // Whoever works alike takes the tiles between this run and the next.
      const int64_t next = start((i + worker.count()) / pieces);
      for (int64_t g = 0; g < groups(); g += range) {
        const int64_t length = std::min(range, groups() - g);
        const Band<T> x = operands(first, height, g * kAdjacent, length * kAdjacent, sums + kRunTiles<T> * tile_sums);
        for (int64_t t = tile; t < end; ++t)
          add_tile(x, height, t, g, length, ((t + 1 < end ? t + 1 : next) - t) * tile_lanes(),
                   sums + (t - tile) * tile_sums);
      }
      for (int64_t t = tile; t < end; ++t) take(sums + (t - tile) * tile_sums, t, first, height);
    });
  }

  // Memory for sums, and behind them, where rows are widened, for so many operands.
  static float* scratch(int64_t num_sums, int64_t num_operands, Worker& worker) {
    return static_cast<float*>(worker.scratch((num_sums + (kIsWidened<T> ? num_operands : 0)) * 4));
  }

  // Columns of some rows of x: where they lie, or widened, in memory.
  Band<T> operands(int64_t first, int64_t rows, int64_t column, int64_t columns, float* memory) const {
    const T* x = static_cast<const T*>(x_.data) + first * x_.stride + column;
    if constexpr (!kIsWidened<T>) return {x, x_.stride};
    else {
      for (int64_t r = 0; r < rows; ++r) to_operands(x + r * x_.stride, columns, memory + r * columns);
      return {memory, columns};
    }
  }

  // What groups g .. g + length of a tile add to the sums of rows. The first rows ask for what lies ahead.
  void add_tile(const Band<T>& x, int64_t rows, int64_t tile, int64_t g, int64_t length, int64_t ahead,
                float* sums) const {
    const Lane<T>* w = reinterpret_cast<const Lane<T>*>(w_.packed) + tile * tile_lanes() + g * kTileWidth;
    const int64_t bands = ceil_div(rows, kTileRows);
    for (int64_t band = 0; band < bands; ++band) {
      // Bands of even height: a short last one would leave the vector units waiting for their own results.
      const int64_t begin = rows * band / bands, end = rows * (band + 1) / bands;
      const auto add = pick<T>(int(end - begin), std::make_integer_sequence<int, kTileRows>());
      add({x.data + begin * x.stride, x.stride}, w, length, sums + begin * kTileWidth, g == 0, band ? 0 : ahead);
    }
  }

  void take(const float* sums, int64_t tile, int64_t first, int64_t rows) const {
    const int64_t column = tile * kTileWidth;
    output_->take(sums, kTileWidth, rows, first, column, std::min<int64_t>(kTileWidth, w_.num_out - column));
  }

  int rows_;
  Rows x_;
  Matrix w_;
  std::unique_ptr<Output> output_;
};

// y[i] = table[ids[i]] * scale, read from the packed tiles.
template <typename T> class Embed final : public Operator {
 public:
  Embed(int rows, const int64_t* ids, Matrix table, float scale, void* y, int64_t y_stride)
      : rows_(rows), ids_(ids), table_(table), scale_(scale), y_(static_cast<T*>(y)), y_stride_(y_stride) {}

  const char* name() const override { return "embed"; }

  bool is_small(const Step& step) const override { return step.counts[rows_] * table_.num_in <= kSmallValues; }

  void run(const Step& step, Worker& worker) const override {
    constexpr int kAdjacent = Element<T>::kAdjacent;
    const int64_t width = table_.num_in, tile_values = kTileWidth * width;
    worker.for_each(step.counts[rows_], [&](int64_t i) {
      const int64_t id = ids_[i];
      const T* tile = reinterpret_cast<const T*>(table_.packed) + id / kTileWidth * tile_values;
      const T* column = tile + id % kTileWidth * kAdjacent;
      T* y = y_ + i * y_stride_;
      for (int64_t k = 0; k < width; k += kAdjacent) std::memcpy(y + k, column + k * kTileWidth, sizeof(T) * kAdjacent);
      if (scale_ != 1.0f) scale_row(y, width);
    });
  }

 private:
  void scale_row(T* y, int64_t width) const {
    const F scale = broadcast(scale_);
    int64_t k = 0;
    for (; k + kLanes <= width; k += kLanes) store_rounded(y + k, load_as_float(y + k) * scale);
    if (k < width) store_part(y + k, load_part(y + k, int(width - k)) * scale, int(width - k));
  }

  int rows_;
  const int64_t* ids_;
  Matrix table_;
  float scale_;
  T* y_;
  int64_t y_stride_;
};

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int quire_linear(quire_program* program, int rows, const void* x, int64_t x_stride, const void* packed,
                 int64_t num_out, int64_t num_in, int dtype, const quire_output* output) {
  if (!is_rows(rows) || !is_matrix(num_out, num_in, dtype)) return QUIRE_BAD_ARGUMENT;
  auto made = make_output(*output, num_out, kTileWidth, dtype);
  if (!made) return QUIRE_BAD_ARGUMENT;
  const Matrix matrix{static_cast<const char*>(packed), num_out, num_in};
  const Rows input{x, x_stride};
  if (dtype == QUIRE_F32) return append<Linear<float>>(program, rows, input, matrix, std::move(made));
  return append<Linear<bf16>>(program, rows, input, matrix, std::move(made));
}

int quire_embed(quire_program* program, int rows, const int64_t* ids, const void* packed, int64_t num_out,
                int64_t num_in, int dtype, float scale, void* y, int64_t y_stride) {
  if (!is_rows(rows) || !is_matrix(num_out, num_in, dtype)) return QUIRE_BAD_ARGUMENT;
  const Matrix matrix{static_cast<const char*>(packed), num_out, num_in};
  if (dtype == QUIRE_F32) return append<Embed<float>>(program, rows, ids, matrix, scale, y, y_stride);
  return append<Embed<bf16>>(program, rows, ids, matrix, scale, y, y_stride);
}

}  // extern "C"
