// y = x W^T, for weights of plain numbers packed in tiles.
//
// Packed layout: tiles of kTileWidth output features; in a tile [K, kTileWidth] float32, or [K / 2, kTileWidth] pairs of
// bfloat16 of adjacent k. One tile is one stream of memory, and what a vector load brings is kLanes results' share of
// one k. The last tile is filled up with zeros.
//
// A piece of work is one tile by up to kPieceRows rows of x. Its sums lie in scratch, and k is taken in ranges that leave
// the tile's part in the first-level cache while all rows of the piece pass over it. Every result is one sum in the
// order of k, whatever the piece: batch invariant by construction.
//
// Bound: memory up to some dozen rows, where a tile is read once from DRAM for all rows; vector units beyond.
#include <algorithm>

#include "output.h"
#include "tile.h"

namespace quire {
namespace {

constexpr int64_t kRangeBytes = 48 << 10;  // of a tile: longer leaves the first-level cache, shorter reads sums more often

struct Matrix {
  const char* packed;
  int64_t num_out, num_in;
};

struct Rows {
  const void* data;
  int64_t stride;
};

// The sums of MR rows over one range of k, from and to scratch; what lies `ahead` of w is asked for, if not 0.
template <int MR, typename T>
void add_range(const T* x, int64_t x_stride, const Lane<T>* w, int64_t groups, float* sums,
               bool is_first, int64_t ahead) {
  Sums<MR, kTileVectors> s;
  if (is_first)
    s.clear();
  else
    s.read(sums, kTileWidth);
  if (ahead)
    multiply_add<MR, kTileVectors, true>(s, x, x_stride, w, groups, ahead);
  else
    multiply_add<MR, kTileVectors, false>(s, x, x_stride, w, groups, 0);
  s.write(sums, kTileWidth);
}

template <typename T>
using AddRange = void (*)(const T*, int64_t, const Lane<T>*, int64_t, float*, bool,
                           int64_t);

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
  int64_t tiles() const { return ceil_div(w_.num_out, kTileWidth); }
  int64_t groups() const { return w_.num_in / Element<T>::kAdjacent; }

  // All rows at once, by some tiles one after another.
  void run_streams(int64_t rows, Worker& worker) const {
    const int64_t piece = piece_tiles(tiles(), groups() * kTileWidth * 4, worker.count());
    worker.for_each(ceil_div(tiles(), piece), [&](int64_t i) {
      for (int64_t tile = i * piece; tile < std::min(tiles(), (i + 1) * piece); ++tile)
        run_piece(tile, stream_ahead(rows), 0, rows, worker);
    });
  }

  // Memory's own prefetching begins anew at every page of 4 KB. Asking ahead of it, in lanes, helps one row and many; a
  // few in between are faster without (measured).
  static int64_t stream_ahead(int64_t rows) { return rows == 1 ? 512 : rows < 6 ? 0 : 2048; }

  void run_pieces(int64_t rows, Worker& worker) const {
    const int64_t piece = piece_rows(rows, tiles(), worker.count()), pieces = ceil_div(rows, piece);
    worker.for_each(tiles() * pieces, [&](int64_t i) {
      const int64_t first = i % pieces * piece;
      // Whoever works alike takes the tiles between this one and the next.
      const int64_t ahead = ((i + worker.count()) / pieces - i / pieces) * groups() * kTileWidth;
      run_piece(i / pieces, ahead, first, std::min(piece, rows - first), worker);
    });
  }

  void run_piece(int64_t tile, int64_t ahead, int64_t first, int64_t rows, Worker& worker) const {
    const int64_t groups = this->groups();
    const Lane<T>* w = reinterpret_cast<const Lane<T>*>(w_.packed) + tile * groups * kTileWidth;
    const T* x = static_cast<const T*>(x_.data) + first * x_.stride;
    float* sums = static_cast<float*>(worker.scratch(rows * kTileWidth * 4));
    const int64_t range = rows <= kTileRows ? groups : kRangeBytes / (kTileWidth * 4);
    const int64_t bands = ceil_div(rows, kTileRows);
    for (int64_t g = 0; g < groups; g += range) {
      const int64_t length = std::min(range, groups - g);
      for (int64_t band = 0; band < bands; ++band) {
        // Bands of even height: a short last one would leave the vector units waiting for their own results.
        const int64_t begin = rows * band / bands, end = rows * (band + 1) / bands;
        const auto add = pick<T>(int(end - begin), std::make_integer_sequence<int, kTileRows>());
        add(x + begin * x_.stride + g * Element<T>::kAdjacent, x_.stride, w + g * kTileWidth, length,
            sums + begin * kTileWidth, g == 0, band ? 0 : ahead);
      }
    }
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
