// Paged causal attention: prompts, chunks of prompts and single tokens in one call.
//
// The rows of a piece of work are some tokens of one sequence times the query heads of one kv head: all read the same
// pages. Keys are taken in segments of kSegment tokens at absolute positions:
//
//   scores = q K^T * scale                         sums over the head's size, in order
//   top = greatest visible score, weights = 2^(scores - top), rounded to the dtype; 0 where invisible
//   total = sum of weights, lane by lane in order of position; sums = weights V, in order of position
//
// A segment is computed from nothing, and segments are folded in order of position into the result:
//
//   top' = max(top, top_s), total' = total 2^(top - top') + total_s 2^(top_s - top'), sums' likewise
//
// So what a row gets depends on its own position and keys alone. Segments may be computed anywhere: a long context is
// shared by several threads, whose segments are left in shared memory and folded after a barrier, by the same
// arithmetic. What a row does not see adds zeros, and a segment of which it sees nothing leaves it as it was (weights
// 2^0 = 1 and 2^-inf = 0), so it does not matter which rows share a piece.
//
// A page is laid out so that 16 tokens of keys, or of values, are a tile of a matrix product (see quire.h).
//
// Bound: single tokens by memory, each page being read once for all heads that share it, and asked for one segment
// ahead; prompts by the vector units, of which the exponentials take a sixth at heads of 64.
// Source: the running maximum, Milakov & Gimelshein 2018; over tiles, Dao et al. 2022; over split contexts, Dao et al.
// 2023 (Flash-Decoding).
#include "attention_kernels.h"
#include "attention_pages.h"
#include "attention_plan.h"

namespace quire {
namespace attention {
namespace {

constexpr float kLog2e = 1.44269504f;

template <typename X> struct Queries {
  const X* q;
  int64_t q_stride;
  X* y;
  int64_t y_stride;
};

// A thread's memory; arrays of rows are filled up to whole vectors.
template <typename T> struct Buffers {
  float* scores;  // [rows, kSegment]
  float* sums;    // [rows, size]
  float* top;     // and the rest [rows]
  float* total;
  float* segment_top;
  float* segment_total;
  float* kept;
  float* added;
  float* q_scales;  // of integers
  float* weight_scales;
  Operand<T>* weights;  // [rows, kSegment]
  Operand<T>* q;        // [rows, size]

  static int64_t bytes(int64_t rows, int64_t size) {
    return rows * ((size + kSegment) * int64_t(4 + sizeof(Operand<T>)) + 8 * 4);
  }
  Buffers(char* memory, int64_t rows, int64_t size) {
    scores = reinterpret_cast<float*>(memory);
    sums = scores + rows * kSegment;
    top = sums + rows * size;
    total = top + rows;
    segment_top = total + rows;
    segment_total = segment_top + rows;
    kept = segment_total + rows;
    added = kept + rows;
    q_scales = added + rows;
    weight_scales = q_scales + rows;
    weights = reinterpret_cast<Operand<T>*>(weight_scales + rows);
    q = weights + rows * kSegment;
  }
};

// X: the model's type; T: of operands, int16_t where pages hold integers, else X.
template <typename X, typename T> class Attention final : public Operator {
 public:
  Attention(const Queries<X>& queries, const Pages<T>& pages, const int32_t* query_starts, const int32_t* context_lens,
            const Shape& shape)
      : queries_(queries), pages_(pages), query_starts_(query_starts), context_lens_(context_lens), shape_(shape),
        group_(shape.group()), max_rows_(shape.max_rows()),
        scale_(shape.softcap == 0 ? shape.scale * kLog2e : shape.scale / shape.softcap),
        softcap_(shape.softcap * kLog2e) {}

  const char* name() const override { return "attention"; }

  void run(const Step& step, Worker& worker) const override {
    const Sequences sequences{step.counts[QUIRE_SEQUENCES], query_starts_, context_lens_};
    const int64_t plan_bytes = ceil_div(Plan::max_tiles(shape_, sequences) * int64_t(sizeof(Tile)), 64) * 64;
    char* memory = static_cast<char*>(worker.scratch(plan_bytes + Buffers<T>::bytes(max_rows_, shape_.size)));
    const Plan plan(shape_, sequences, worker.count(), reinterpret_cast<Tile*>(memory));
    const Buffers<T> buffers(memory + plan_bytes, max_rows_, shape_.size);
    float* shared = nullptr;
    if (plan.shared_floats()) shared = static_cast<float*>(worker.shared(plan.shared_floats() * 4));
    run_pieces(plan, buffers, shared, worker);
    if (!shared) return;
    worker.barrier();
    worker.for_each(plan.num_tiles() * shape_.kv_heads, [&](int64_t i) {
      const Tile& t = plan.tiles()[i / shape_.kv_heads];
      if (t.is_split()) fold_tile(plan, t, i % shape_.kv_heads, buffers, shared);
    });
  }

 private:
  // -- pieces --

  void run_pieces(const Plan& plan, const Buffers<T>& buffers, float* shared, Worker& worker) const {
    const Tile* tile = nullptr;  // a thread's pieces come in order
    Piece piece{};
    Places<T> places{};
    worker.for_each_ahead(plan.num_pieces(), [&](int64_t i, int64_t next) {
      if (!tile) {
        tile = plan.tile_of(plan.tiles(), i);
        piece = plan.piece_of(*tile, i);
        places = pages_.find(*tile, piece.head, piece.first);
        pages_.ask(pages_.keys(places, piece.num_heads));
      }
      const Tile* next_tile = tile;
      Piece next_piece = piece;
      Places<T> next_places = places;
      if (next < plan.num_pieces()) {
        next_tile = plan.tile_of(tile, next);
        next_piece = plan.piece_of(*next_tile, next);
        next_places = pages_.find(*next_tile, next_piece.head, next_piece.first);
      }
      run_piece(plan, *tile, piece, places, pages_.keys(next_places, next_piece.num_heads), buffers, shared);
      tile = next_tile;
      piece = next_piece;
      places = next_places;
    });
  }

  // places: of the piece's first segment; next: the keys that will be read after its last.
  void run_piece(const Plan& plan, const Tile& t, const Piece& piece, Places<T> places, const Ahead<T>& next,
                 const Buffers<T>& b, float* shared) const {
    const int64_t rows = t.num_tokens * group_, all_rows = rows * piece.num_heads;
    take_queries(t, piece, b);
    clear(b, all_rows);
    for (int64_t s = piece.first; s < piece.last; ++s) {
      const bool is_last = s + 1 == piece.last;
      const Places<T> following = is_last ? places : pages_.find(t, piece.head, s + 1);
      Ahead<T> keys = is_last ? next : pages_.keys(following, piece.num_heads);
      weigh_segment(t, s, piece.num_heads, places, b);
      if (t.is_split()) {
        float* sums = shared + plan.segment_at(t, piece.head, s);
        std::copy_n(b.segment_top, rows, sums + rows * shape_.size);
        std::copy_n(b.segment_total, rows, sums + rows * shape_.size + max_rows_);
        add_values(rows, 1, places, keys, b, sums, false);
      } else {
        fold(b.top, b.total, b.segment_top, b.segment_total, all_rows, b.kept, b.added);
        add_values(rows, piece.num_heads, places, keys, b, b.sums, s > piece.first);
      }
      pages_.ask(keys);
      places = following;
    }
    if (!t.is_split()) write(t, piece.head, piece.num_heads, b);
  }

  // Rows are heads by tokens by the query heads that share a kv head.
  void take_queries(const Tile& t, const Piece& piece, const Buffers<T>& b) const {
    const int64_t size = shape_.size;
    Operand<T>* to = b.q;
    float* scales = b.q_scales;
    for (int64_t h = piece.head; h < piece.head + piece.num_heads; ++h)
      for (int64_t i = 0; i < t.num_tokens; ++i, to += group_ * size) {
        const X* from = queries_.q + (t.first_token + i) * queries_.q_stride + h * group_ * size;
        if constexpr (kIsInteger<T>)
          for (int64_t g = 0; g < group_; ++g) *scales++ = round_row(from + g * size, size, to + g * size) * scale_;
        else
          to_operands(from, group_ * size, to);
      }
  }

  // What run_piece does of a whole context, of segments that lie in shared memory.
  void fold_tile(const Plan& plan, const Tile& t, int64_t head, const Buffers<T>& b, const float* shared) const {
    const int64_t rows = t.num_tokens * group_, size = shape_.size;
    clear(b, rows);
    for (int64_t s = 0; s < t.num_segments; ++s) {
      const float* sums = shared + plan.segment_at(t, head, s);
      std::copy_n(sums + rows * size, rows, b.segment_top);
      std::copy_n(sums + rows * size + max_rows_, rows, b.segment_total);
      fold(b.top, b.total, b.segment_top, b.segment_total, rows, b.kept, b.added);
      for (int64_t r = 0; r < rows; ++r)
        fold_sums(sums + r * size, size, s ? b.kept + r : nullptr, b.added[r], b.sums + r * size);
    }
    write(t, head, 1, b);
  }

  // Nothing seen yet; also in the rows that fill up a vector.
  void clear(const Buffers<T>& b, int64_t rows) const {
    for (int64_t r = 0; r < ceil_div(rows, 16) * 16; ++r) {
      b.top[r] = b.segment_top[r] = kLowest;
      b.total[r] = b.segment_total[r] = 0;
    }
  }

  void write(const Tile& t, int64_t head, int64_t num_heads, const Buffers<T>& b) const {
    const float* sums = b.sums;
    const float* total = b.total;
    for (int64_t h = head; h < head + num_heads; ++h)
      for (int64_t i = 0; i < t.num_tokens; ++i) {
        X* y = queries_.y + (t.first_token + i) * queries_.y_stride + h * group_ * shape_.size;
        for (int64_t g = 0; g < group_; ++g, sums += shape_.size, ++total)
          write_mean(sums, *total, shape_.size, y + g * shape_.size);
      }
  }

  // -- one segment --

  void weigh_segment(const Tile& t, int64_t segment, int64_t heads, const Places<T>& places,
                     const Buffers<T>& b) const {
    const int64_t rows = t.num_tokens * group_, start = (t.first_segment + segment) * kSegment;
    Ahead<T> values = pages_.values(places, heads);
    for (int64_t h = 0; h < heads; ++h) score_segment(h, rows, places, values, b);
    if (softcap_ != 0)
      for (int64_t r = 0; r < heads * rows; ++r)
        cap(b.scores + r * kSegment + places.first * kGroup, softcap_, places.num * kGroup);
    each_row(t, heads, start, places,
             [&](int64_t r, int64_t, const Span& span) { b.segment_top[r] = greatest(b.scores + r * kSegment, span); });
    each_row(t, heads, start, places, [&](int64_t r, int64_t h, const Span& span) {
      float* scores = b.scores + r * kSegment;
      Operand<T>* weights = b.weights + r * kSegment;
      if constexpr (kIsInteger<T>) {
        const TokenScales scales{places.value_scales, h * pages_.head_floats()};
        b.segment_total[r] = weigh(scores, b.segment_top[r], span, scales, weights, b.weight_scales[r]);
      } else {
        b.segment_total[r] = weigh<T>(scores, b.segment_top[r], span, weights);
      }
    });
  }

  // Call body with each row, its head and what it sees of the segment that begins at start.
  template <typename Body>
  void each_row(const Tile& t, int64_t heads, int64_t start, const Places<T>& places, const Body& body) const {
    const int64_t from = places.first * kGroup, to = from + places.num * kGroup;
    for (int64_t i = 0; i < t.num_tokens; ++i) {
      const int64_t position = t.position + i;
      const Span span{from, to, std::max(from, shape_.first_seen(position) - start),
                      std::min(to, position + 1 - start)};
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t g = 0; g < group_; ++g) body((h * t.num_tokens + i) * group_ + g, h, span);
    }
  }

  // Rows of one pass over a tile of the product: bands of even height, as few as there can be.
  static int64_t band_height(int64_t rows) { return ceil_div(rows, ceil_div(rows, kTileRows)); }

  // Scores of one kv head's rows.
  void score_segment(int64_t head, int64_t rows, const Places<T>& places, Ahead<T>& ahead,
                     const Buffers<T>& b) const {
    constexpr int64_t kVectors = kGroup / kLanes;
    const int64_t first_row = head * rows;
    const Lane<T>* keys[kSegment / kLanes];
    const float* key_scales[kSegment / kLanes];
    Chunk<T> chunks[kGroups];
    for (int64_t g = 0; g < places.num; ++g) {
      for (int64_t v = 0; v < kVectors; ++v) {
        keys[g * kVectors + v] = places.keys[g] + head * pages_.head_lanes() + v * kLanes;
        if constexpr (kIsInteger<T>)
          key_scales[g * kVectors + v] = places.key_scales[g] + head * pages_.head_floats() + v * kLanes;
      }
      chunks[g] = ahead.take();
    }
    const Operand<T>* q = b.q + first_row * shape_.size;
    float* scores = b.scores + first_row * kSegment + places.first * kGroup;
    const int64_t vectors = places.num * kVectors, height = band_height(rows);
    for (int64_t v = 0; v < vectors;) {
      const int64_t width = pass_vectors<kWideScores>(rows, vectors - v);
      for (int64_t r = 0; r < rows; r += height) {
        const Scores<T> a{q + r * shape_.size, keys + v, chunks + v / kVectors, shape_.size, shape_.block, scale_,
                          scores + r * kSegment + v * kLanes, key_scales + v, b.q_scales + first_row + r};
        const int num = int(std::min(height, rows - r));
        with_vectors<kWideScores>(width, [&](auto nv, auto any) { score_rows<T, nv()>(num, r == 0, a, any); });
      }
      v += width;
    }
  }

  // sums = sums kept + (weights V) added; or weights V, where is_more is false. rows: of one of the heads.
  void add_values(int64_t rows, int64_t heads, const Places<T>& places, Ahead<T>& ahead, const Buffers<T>& b,
                  float* sums, bool is_more) const {
    const Lane<T>* values[kGroups];
    Chunk<T> chunks[kGroups];
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t g = 0; g < places.num; ++g) {
        values[g] = places.values[g] + h * pages_.head_lanes();
        chunks[g] = ahead.take();
      }
      const int64_t row = h * rows;
      const Sum<T> a{b.weights + row * kSegment + places.first * kGroup, values, chunks, places.num, shape_.size, 0,
                     sums + row * shape_.size, is_more ? b.kept + row : nullptr, b.added + row,
                     b.weight_scales + row};
      sum_columns(a, rows);
    }
  }

  static void sum_columns(Sum<T> a, int64_t rows) {
    const int64_t height = band_height(rows);
    for (; a.column < a.size;) {
      const int64_t vectors = pass_vectors<kWideSums>(rows, (a.size - a.column) / kLanes);
      for (int64_t r = 0; r < rows; r += height) {
        Sum<T> band = a;
        band.weights += r * kSegment;
        band.sums += r * a.size;
        band.weight_scales += r;
        if (a.kept) band.kept += r, band.added += r;
        const int num = int(std::min(height, rows - r));
        with_vectors<kWideSums>(vectors, [&](auto nv, auto any) { sum_rows<T, nv()>(num, r == 0, band, any); });
      }
      a.column += vectors * kLanes;
    }
  }

  Queries<X> queries_;
  Pages<T> pages_;
  const int32_t* query_starts_;
  const int32_t* context_lens_;
  Shape shape_;
  int64_t group_, max_rows_;
  float scale_, softcap_;  // as the scores are, in units of log 2; with a softcap, scale_ makes its argument
};

template <typename X, typename T>
int append_attention(quire_program* program, const void* q, int64_t q_stride, const void* keys, const void* values,
                     const int32_t* tables, int64_t table_stride, const int32_t* query_starts,
                     const int32_t* context_lens, const Shape& shape, void* y, int64_t y_stride) {
  const Queries<X> queries{static_cast<const X*>(q), q_stride, static_cast<X*>(y), y_stride};
  const Pages<T> pages(keys, values, tables, table_stride, shape);
  return append<Attention<X, T>>(program, queries, pages, query_starts, context_lens, shape);
}

}  // namespace
}  // namespace attention
}  // namespace quire

using namespace quire;

extern "C" int quire_attention(quire_program* program, const void* q, int64_t q_stride, const void* keys,
                               const void* values, const int32_t* tables, int64_t table_stride,
                               const int32_t* query_starts, const int32_t* context_lens, int64_t heads,
                               int64_t kv_heads, int64_t size, int64_t block, float scale, int64_t window,
                               float softcap, int dtype, void* y, int64_t y_stride, int page_dtype) {
  if (!is_dtype(dtype) || (page_dtype != dtype && page_dtype != QUIRE_I8) || kv_heads < 1 || heads < kv_heads ||
      heads % kv_heads != 0 || size < 16 || size % 16 != 0 || size > attention::kMaxHeadSize || block < 16 ||
      block % 16 != 0 || window < 0)
    return QUIRE_BAD_ARGUMENT;
  const attention::Shape shape{heads, kv_heads, size, block, scale, window, softcap};
  using attention::append_attention;
  const bool is_i8 = page_dtype == QUIRE_I8;
  const auto append_f32 = is_i8 ? append_attention<float, int16_t> : append_attention<float, float>;
  const auto append_bf16 = is_i8 ? append_attention<bf16, int16_t> : append_attention<bf16, bf16>;
  const auto append_one = dtype == QUIRE_F32 ? append_f32 : append_bf16;
  return append_one(program, q, q_stride, keys, values, tables, table_stride, query_starts, context_lens, shape, y,
                    y_stride);
}
