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
// A page is laid out so that 16 tokens of keys, or of values, are a tile of a matrix product (see quire.h). Scores are in
// units of log 2.
//
// Bound: single tokens by memory, each page being read once for all heads that share it, asked for one segment ahead;
// prompts by the vector units, of which the exponentials take a sixth at heads of 64.
// Source: the running maximum, Milakov & Gimelshein 2018; over tiles, Dao et al. 2022; over split contexts, Dao et al.
// 2023 (Flash-Decoding).
#include <algorithm>
#include <utility>

#include "output.h"
#include "program.h"
#include "simd.h"
#include "tile.h"

namespace quire {
namespace {

constexpr int64_t kSegment = 128;
constexpr int64_t kGroup = 16;      // adjacent tokens that always lie in one page
constexpr int64_t kGroups = kSegment / kGroup;
constexpr int64_t kRowsWanted = 48;  // about: their scores, weights and sums lie in the second-level cache
constexpr int64_t kMaxHeadSize = 512;
constexpr int64_t kMaxSharedBytes = int64_t(64) << 20;
constexpr float kLowest = -3e38f;   // the maximum of nothing: finite, since -inf minus -inf is not a number

template <typename T> struct Element;
template <> struct Element<float> {
  static constexpr int kAdjacent = 1;  // numbers of the summed dimension in one lane
  using Lane = float;
};
template <> struct Element<bf16> {
  static constexpr int kAdjacent = 2;
  using Lane = int32_t;
};
template <typename T> using Lane = typename Element<T>::Lane;

inline F multiply_add(F acc, F w, F x) { return fma(x, w, acc); }
inline F multiply_add(F acc, I w, I x) { return dot2(acc, w, x); }
inline F operand(const float* p) { return broadcast(*p); }
inline I operand(const bf16* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return broadcast(pair);
}

// ---- kernels: MR rows against NV vectors ----

// Every third row has a pointer, the two after it are reached by the stride.
template <typename T, int MR> struct RowsOf {
  const T* at[(MR + 2) / 3];
  int64_t stride;
  RowsOf(const T* first, int64_t row_stride) : stride(row_stride) {
    for (int m = 0; m < MR; m += 3) at[m / 3] = first + m * stride;
  }
  const T* operator[](int m) const { return at[m / 3] + (m % 3) * stride; }
};

// What turns a sum into a score.
struct Scaling {
  float factor;   // of the sum
  float softcap;  // in units of log 2; 0: none
  F operator()(F v) const {
    v = v * broadcast(factor);
    return softcap == 0 ? v : broadcast(softcap) * tanh(v);
  }
};

template <typename T> struct Scores {
  const T* q;               // [rows, size]
  const Lane<T>* const* keys;    // for each vector of tokens, its column of the page
  const Lane<T>* const* values;  // and its values, which will be needed soon
  int64_t size, block;
  Scaling scaling;
  float* scores;            // [rows, kSegment]
};

template <typename T, int MR, int NV, bool kIsAhead> void score(const Scores<T>& a) {
  constexpr int kAdjacent = Element<T>::kAdjacent;
  using V = decltype(load(static_cast<const Lane<T>*>(nullptr)));
  const RowsOf<T, MR> q(a.q, a.size);
  const Lane<T>* key[NV];
  const Lane<T>* value[NV];
  for (int v = 0; v < NV; ++v) key[v] = a.keys[v], value[v] = a.values[v];
  F acc[MR][NV];
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < NV; ++v) acc[m][v] = zero();
  const int64_t steps = a.size / kAdjacent, block = a.block;
  for (int64_t k = 0; k < steps; ++k) {
    V w[NV];
    for (int v = 0; v < NV; ++v) {
      w[v] = load(key[v] + k * block);
      if (kIsAhead) prefetch(value[v] + k * kLanes);
    }
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      const V x = operand(q[m] + k * kAdjacent);
      for (int v = 0; v < NV; ++v) acc[m][v] = multiply_add(acc[m][v], w[v], x);
    }
  }
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < NV; ++v) store(a.scores + m * kSegment + v * kLanes, a.scaling(acc[m][v]));
}

template <typename T> struct Sum {
  const T* weights;             // [rows, kSegment]
  const Lane<T>* const* values; // for each group of tokens
  const Lane<T>* const* keys;   // and the keys that will be needed soon
  int64_t num_groups, size, block, column;
  float* sums;                  // [rows, size]
  const float* kept;            // [rows], the shares of what is in sums, and of what is added; NULL: sums is written
  const float* added;
};

template <typename T, int MR, int NV, bool kIsAhead> void sum(const Sum<T>& a) {
  constexpr int kAdjacent = Element<T>::kAdjacent, kSteps = kGroup / kAdjacent;
  using V = decltype(load(static_cast<const Lane<T>*>(nullptr)));
  const RowsOf<T, MR> weights(a.weights, kSegment);
  F acc[MR][NV];
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < NV; ++v) acc[m][v] = zero();
  const int64_t size = a.size, block = a.block;
  for (int64_t g = 0; g < a.num_groups; ++g) {
    const Lane<T>* value = a.values[g] + a.column;
    // A group has as many vectors of keys as of values: with each value one key is asked for.
    const Lane<T>* key = kIsAhead ? a.keys[g] + a.column / 16 * kSteps * block : nullptr;
    for (int k = 0; k < kSteps; ++k) {
      V w[NV];
      for (int v = 0; v < NV; ++v) {
        w[v] = load(value + k * size + v * kLanes);
        if (kIsAhead && v * kLanes % 16 == 0) prefetch(key + (v * kLanes / 16 * kSteps + k) * block);
      }
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m) {
        const V x = operand(weights[m] + g * kGroup + k * kAdjacent);
        for (int v = 0; v < NV; ++v) acc[m][v] = multiply_add(acc[m][v], w[v], x);
      }
    }
  }
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < NV; ++v) {
      float* at = a.sums + m * size + a.column + v * kLanes;
      store(at, a.kept ? fma(load(at), broadcast(a.kept[m]), acc[m][v] * broadcast(a.added[m])) : acc[m][v]);
    }
}

template <typename T, int NV, bool kIsAhead, int... MR>
void score_rows(int rows, const Scores<T>& a, std::integer_sequence<int, MR...>) {
  static constexpr void (*kByRows[])(const Scores<T>&) = {score<T, MR + 1, NV, kIsAhead>...};
  kByRows[rows - 1](a);
}
template <typename T, int NV, bool kIsAhead, int... MR>
void sum_rows(int rows, const Sum<T>& a, std::integer_sequence<int, MR...>) {
  static constexpr void (*kByRows[])(const Sum<T>&) = {sum<T, MR + 1, NV, kIsAhead>...};
  kByRows[rows - 1](a);
}
using AnyRows = std::make_integer_sequence<int, kTileRows>;
using FewRows = std::make_integer_sequence<int, kTileRows / 2>;  // twice as wide a tile has room for

template <typename T, int NV> void score_rows(int rows, bool is_ahead, const Scores<T>& a) {
  if (is_ahead)
    score_rows<T, NV, true>(rows, a, AnyRows());
  else
    score_rows<T, NV, false>(rows, a, AnyRows());
}
template <typename T, int NV, typename Rows> void sum_rows(int rows, bool is_ahead, const Sum<T>& a) {
  if (is_ahead)
    sum_rows<T, NV, true>(rows, a, Rows());
  else
    sum_rows<T, NV, false>(rows, a, Rows());
}

// ---- softmax of one row of a segment ----

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

// weights = 2^(scores - top) rounded; returns their sum.
template <typename T> float weigh(const float* scores, float top, const Span& span, T* weights) {
  const int64_t first = span.first(), last = span.last();
  const F at = broadcast(top);
  F total = zero();
  for (int64_t i = span.from; i < first; i += kLanes) store_rounded(weights + i, zero());
  for (int64_t i = first; i < last; i += kLanes) {
    store_rounded(weights + i, exp2(load(scores + i) - at));
    total = total + load_as_float(weights + i);
  }
  for (int64_t i = last; i < span.to; i += kLanes) store_rounded(weights + i, zero());
  return sum_lanes(total);
}

// ---- folding ----

// Running softmax of a piece's rows; arrays are filled up to whole vectors of rows.
struct State {
  float* top;
  float* total;
};

// Fold a segment's top and total in; the shares of old and new sums go to kept and added.
inline void fold(const State& state, const float* top, const float* total, int64_t rows, float* kept, float* added) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const F old_top = load(state.top + r), new_top = load(top + r), both = max(old_top, new_top);
    const F keep = exp2(old_top - both), add = exp2(new_top - both);
    store(kept + r, keep);
    store(added + r, add);
    store(state.top + r, both);
    store(state.total + r, fma(load(state.total + r), keep, load(total + r) * add));
  }
}

template <typename T> void write_mean(const float* sums, float total, int64_t size, T* y) {
  for (int64_t i = 0; i < size; i += kLanes) store_rounded(y + i, load(sums + i) / broadcast(total));
}

// ---- the operator ----

struct Shape {
  int64_t heads, kv_heads, size, block;
  float scale;
  int64_t window;
  float softcap;
};

// Some tokens of a sequence, whose context is divided into parts of whole segments.
struct Tile {
  int64_t sequence, first_token, num_tokens;  // rows of q
  int64_t position;                           // of the first token
  int64_t first_segment, num_segments, num_parts;
  int64_t first_piece;                        // pieces are parts by kv heads
  int64_t shared;                             // where its segments lie in shared memory, in floats; -1: not split
};

template <typename T> class Attention final : public Operator {
 public:
  Attention(const T* q, int64_t q_stride, const void* keys, const void* values, const int32_t* tables,
            int64_t table_stride, const int32_t* query_starts, const int32_t* context_lens, const Shape& shape, T* y,
            int64_t y_stride)
      : q_(q), q_stride_(q_stride), keys_(static_cast<const Lane<T>*>(keys)),
        values_(static_cast<const Lane<T>*>(values)), tables_(tables), table_stride_(table_stride),
        query_starts_(query_starts), context_lens_(context_lens), shape_(shape),
        group_(shape.heads / shape.kv_heads), tile_tokens_(std::max<int64_t>(1, kRowsWanted / group_)),
        max_rows_(round_up(group_ * tile_tokens_)), y_(y), y_stride_(y_stride) {}

  const char* name() const override { return "attention"; }

  void run(const Step& step, Worker& worker) const override {
    const int64_t sequences = step.counts[QUIRE_SEQUENCES];
    const int64_t max_tiles = sequences ? sequences + query_starts_[sequences] / tile_tokens_ : 0;
    if (!max_tiles) return;
    const int64_t plan_bytes = (max_tiles * int64_t(sizeof(Tile)) + 63) / 64 * 64;
    char* memory = static_cast<char*>(worker.scratch(plan_bytes + buffer_bytes()));
    const Plan plan = make_plan(reinterpret_cast<Tile*>(memory), sequences, worker.count());
    const Buffers buffers = make_buffers(memory + plan_bytes);
    float* shared = plan.shared_floats ? static_cast<float*>(worker.shared(plan.shared_floats * 4)) : nullptr;
    const Tile* tile = plan.tiles;  // a thread's pieces come in order
    worker.for_each(plan.num_pieces, [&](int64_t i) {
      while (i >= tile->first_piece + tile->num_parts * shape_.kv_heads) ++tile;
      const int64_t part = (i - tile->first_piece) / shape_.kv_heads, head = (i - tile->first_piece) % shape_.kv_heads;
      run_piece(*tile, head, part, buffers, shared);
    });
    if (!shared) return;
    worker.barrier();
    worker.for_each(plan.num_tiles * shape_.kv_heads, [&](int64_t i) {
      const Tile& split = plan.tiles[i / shape_.kv_heads];
      if (split.shared >= 0) fold_tile(split, i % shape_.kv_heads, buffers, shared);
    });
  }

 private:
  static int64_t round_up(int64_t rows) { return (rows + 15) / 16 * 16; }

  // -- what there is to do: every thread comes to the same plan --

  struct Plan {
    Tile* tiles;
    int64_t num_tiles, num_pieces, shared_floats;
  };

  // What a segment costs: rows, and what reading it costs beside.
  int64_t cost(const Tile& t) const { return t.num_segments * (t.num_tokens * group_ + 6); }

  Plan make_plan(Tile* tiles, int64_t sequences, int threads) const {
    Plan plan{tiles, 0, 0, 0};
    // The greatest pieces first: tiles of prompts from their ends, then single tokens.
    for (int64_t i = 0; i < sequences; ++i)
      if (query_starts_[i + 1] - query_starts_[i] > 1) add_tiles(plan, i);
    for (int64_t i = 0; i < sequences; ++i)
      if (query_starts_[i + 1] - query_starts_[i] == 1) add_tiles(plan, i);
    int64_t all = 0;
    for (int64_t i = 0; i < plan.num_tiles; ++i) all += cost(tiles[i]);
    // No piece above a share of the whole, as far as segments allow.
    const int64_t share = std::max<int64_t>(1, all * shape_.kv_heads / (kPiecesPerThread * threads));
    for (int64_t i = 0; i < plan.num_tiles; ++i) {
      Tile& t = tiles[i];
      const int64_t needed = t.num_segments * segment_floats(t) * shape_.kv_heads;
      t.num_parts = threads == 1 ? 1 : std::min(t.num_segments, ceil_div(cost(t), share));
      t.shared = -1;
      if (t.num_parts > 1 && (plan.shared_floats + needed) * 4 > kMaxSharedBytes) t.num_parts = 1;
      if (t.num_parts > 1) {
        t.shared = plan.shared_floats;
        plan.shared_floats += needed;
      }
      t.first_piece = plan.num_pieces;
      plan.num_pieces += t.num_parts * shape_.kv_heads;
    }
    return plan;
  }

  void add_tiles(Plan& plan, int64_t sequence) const {
    const int64_t begin = query_starts_[sequence], count = query_starts_[sequence + 1] - begin;
    const int64_t tiles = ceil_div(count, tile_tokens_);
    for (int64_t i = tiles - 1; i >= 0; --i) {
      Tile& t = plan.tiles[plan.num_tiles++];
      const int64_t first = count * i / tiles, last = count * (i + 1) / tiles;
      t.sequence = sequence;
      t.first_token = begin + first;
      t.num_tokens = last - first;
      t.position = context_lens_[sequence] - count + first;
      t.first_segment = first_seen(t.position) / kSegment;
      t.num_segments = (t.position + t.num_tokens - 1) / kSegment - t.first_segment + 1;
    }
  }

  int64_t first_seen(int64_t position) const {
    return shape_.window ? std::max<int64_t>(0, position - shape_.window + 1) : 0;
  }

  // A split tile's segment of one kv head: sums, tops, totals.
  int64_t segment_floats(const Tile& t) const { return t.num_tokens * group_ * shape_.size + 2 * max_rows_; }
  float* segment_at(const Tile& t, int64_t head, int64_t segment, float* shared) const {
    return shared + t.shared + (head * t.num_segments + segment) * segment_floats(t);
  }

  // -- a thread's memory --

  struct Buffers {
    T* q;          // [rows, size]
    T* weights;    // [rows, kSegment]
    float* scores; // [rows, kSegment]
    float* sums;   // [rows, size]
    float* top;    // and the rest [rows]
    float* total;
    float* segment_top;
    float* segment_total;
    float* kept;
    float* added;
  };

  int64_t buffer_bytes() const {
    return max_rows_ * ((shape_.size + kSegment) * int64_t(4 + sizeof(T)) + 6 * 4);
  }

  Buffers make_buffers(char* memory) const {
    Buffers b;
    float* at = reinterpret_cast<float*>(memory);
    const auto take = [&](int64_t n) { return std::exchange(at, at + n); };
    b.scores = take(max_rows_ * kSegment);
    b.sums = take(max_rows_ * shape_.size);
    b.top = take(max_rows_);
    b.total = take(max_rows_);
    b.segment_top = take(max_rows_);
    b.segment_total = take(max_rows_);
    b.kept = take(max_rows_);
    b.added = take(max_rows_);
    b.q = reinterpret_cast<T*>(at);
    b.weights = b.q + max_rows_ * shape_.size;
    return b;
  }

  // -- a piece --

  // Where 16 tokens lie in their pages.
  struct Places {
    const Lane<T>* keys[kGroups];
    const Lane<T>* values[kGroups];
    int64_t num;
  };

  // Groups first .. last of a sequence, counted from its beginning.
  Places find(int64_t sequence, int64_t head, int64_t first, int64_t last) const {
    constexpr int kAdjacent = Element<T>::kAdjacent;
    const int32_t* table = tables_ + sequence * table_stride_;
    const int64_t page_lanes = shape_.block * shape_.size / kAdjacent;
    Places places;
    places.num = last - first;
    for (int64_t g = first; g < last; ++g) {
      const int64_t page = (int64_t(table[g * kGroup / shape_.block]) * shape_.kv_heads + head) * page_lanes;
      const int64_t offset = g * kGroup % shape_.block;
      places.keys[g - first] = keys_ + page + offset;
      places.values[g - first] = values_ + page + offset / kAdjacent * shape_.size;
    }
    return places;
  }

  // The groups of a segment that some row of the tile sees.
  Places find_segment(const Tile& t, int64_t head, int64_t segment, int64_t* first_group) const {
    const int64_t begin = std::max(segment * kSegment, first_seen(t.position)) / kGroup;
    const int64_t end = ceil_div(std::min((segment + 1) * kSegment, t.position + t.num_tokens), kGroup);
    *first_group = begin - segment * kGroups;
    return find(t.sequence, head, begin, end);
  }

  void run_piece(const Tile& t, int64_t head, int64_t part, const Buffers& b, float* shared) const {
    const int64_t rows = t.num_tokens * group_, size = shape_.size;
    const int64_t first = t.num_segments * part / t.num_parts, last = t.num_segments * (part + 1) / t.num_parts;
    for (int64_t i = 0; i < t.num_tokens; ++i)
      std::memcpy(b.q + i * group_ * size, q_ + (t.first_token + i) * q_stride_ + head * group_ * size,
                  size_t(group_ * size) * sizeof(T));
    clear(b, rows);
    int64_t group, next_group;
    Places places = find_segment(t, head, t.first_segment + first, &group);
    ask_for_keys(places);
    for (int64_t s = first; s < last; ++s) {
      const Places next = s + 1 < last ? find_segment(t, head, t.first_segment + s + 1, &next_group) : places;
      if (t.shared >= 0) {
        float* sums = segment_at(t, head, s, shared);
        float* stats = sums + rows * size;
        run_segment(t, t.first_segment + s, group, places, b, stats, stats + max_rows_);
        add_values(rows, group, places, next, b, sums, nullptr, nullptr);
      } else {
        run_segment(t, t.first_segment + s, group, places, b, b.segment_top, b.segment_total);
        fold({b.top, b.total}, b.segment_top, b.segment_total, rows, b.kept, b.added);
        add_values(rows, group, places, next, b, b.sums, s > first ? b.kept : nullptr, b.added);
      }
      places = next;
      group = next_group;
    }
    if (t.shared < 0) write(t, head, b);
  }

  // Nothing seen yet; also in the rows that fill up a vector.
  void clear(const Buffers& b, int64_t rows) const {
    for (int64_t r = 0; r < round_up(rows); ++r) {
      b.top[r] = b.segment_top[r] = kLowest;
      b.total[r] = b.segment_total[r] = 0;
    }
  }

  void ask_for_keys(const Places& places) const {
    constexpr int kAdjacent = Element<T>::kAdjacent;
    for (int64_t g = 0; g < places.num; ++g)
      for (int64_t k = 0; k < shape_.size / kAdjacent; ++k) prefetch(places.keys[g] + k * shape_.block);
  }

  // Scores and weights of a segment's groups, from group on.
  void run_segment(const Tile& t, int64_t segment, int64_t group, const Places& places, const Buffers& b,
                   float* top, float* total) const {
    const int64_t rows = t.num_tokens * group_;
    const int64_t from = group * kGroup, to = from + places.num * kGroup;
    score_segment(rows, from, places, b);
    const int64_t start = segment * kSegment;
    for (int64_t r = 0; r < rows; ++r) top[r] = greatest(b.scores + r * kSegment, span_of(t, r, start, from, to));
    for (int64_t r = 0; r < rows; ++r)
      total[r] = weigh(b.scores + r * kSegment, top[r], span_of(t, r, start, from, to), b.weights + r * kSegment);
  }

  Span span_of(const Tile& t, int64_t row, int64_t start, int64_t from, int64_t to) const {
    const int64_t position = t.position + row / group_;
    return {from, to, std::max(from, first_seen(position) - start), std::min(to, position + 1 - start)};
  }

  void score_segment(int64_t rows, int64_t from, const Places& places, const Buffers& b) const {
    constexpr int64_t kVectors = kGroup / kLanes;
    const Lane<T>* keys[kSegment / kLanes];
    const Lane<T>* values[kSegment / kLanes];
    for (int64_t g = 0; g < places.num; ++g)
      for (int64_t v = 0; v < kVectors; ++v) {
        keys[g * kVectors + v] = places.keys[g] + v * kLanes;
        values[g * kVectors + v] = places.values[g] + v * kLanes / Element<T>::kAdjacent * shape_.size;
      }
    const Scaling scaling = scaling_of();
    const int64_t vectors = places.num * kVectors, bands = ceil_div(rows, kTileRows);
    for (int64_t v = 0; v < vectors; v += kTileVectors)
      for (int64_t band = 0; band < bands; ++band) {
        const int64_t begin = rows * band / bands, end = rows * (band + 1) / bands;
        const Scores<T> a{b.q + begin * shape_.size, keys + v, values + v, shape_.size, shape_.block, scaling,
                          b.scores + begin * kSegment + from + v * kLanes};
        if (v + kTileVectors <= vectors)
          score_rows<T, kTileVectors>(int(end - begin), band == 0, a);
        else
          score_rows<T, 1>(int(end - begin), band == 0, a);
      }
  }

  Scaling scaling_of() const {
    constexpr float kLog2e = 1.44269504f;
    if (shape_.softcap == 0) return {shape_.scale * kLog2e, 0};
    return {shape_.scale / shape_.softcap, shape_.softcap * kLog2e};
  }

  void add_values(int64_t rows, int64_t group, const Places& places, const Places& next, const Buffers& b, float* sums,
                  const float* kept, const float* added) const {
    const int64_t bands = ceil_div(rows, kTileRows), width = shape_.size;
    const Lane<T>* keys[kGroups];
    for (int64_t g = 0; g < places.num; ++g) keys[g] = next.keys[std::min(g, next.num - 1)];
    for (int64_t column = 0; column < width;) {
      const int64_t vectors = (width - column) / kLanes;
      const bool is_wide = rows <= kTileRows / 2 && vectors >= 2 * kTileVectors;
      const int64_t taken = is_wide ? 2 * kTileVectors : vectors >= kTileVectors ? kTileVectors : 1;
      for (int64_t band = 0; band < bands; ++band) {
        const int64_t begin = rows * band / bands, end = rows * (band + 1) / bands;
        const Sum<T> a{b.weights + begin * kSegment + group * kGroup, places.values, keys, places.num, width,
                       shape_.block, column, sums + begin * width, kept ? kept + begin : nullptr,
                       added ? added + begin : nullptr};
        const int n = int(end - begin);
        if (is_wide)
          sum_rows<T, 2 * kTileVectors, FewRows>(n, band == 0, a);
        else if (taken == kTileVectors)
          sum_rows<T, kTileVectors, AnyRows>(n, band == 0, a);
        else
          sum_rows<T, 1, AnyRows>(n, band == 0, a);
      }
      column += taken * kLanes;
    }
  }

  // -- the end --

  void write(const Tile& t, int64_t head, const Buffers& b) const {
    for (int64_t r = 0; r < t.num_tokens * group_; ++r) {
      T* y = y_ + (t.first_token + r / group_) * y_stride_ + (head * group_ + r % group_) * shape_.size;
      write_mean(b.sums + r * shape_.size, b.total[r], shape_.size, y);
    }
  }

  // What run_piece does of a whole context, of segments that lie in shared memory.
  void fold_tile(const Tile& t, int64_t head, const Buffers& b, float* shared) const {
    const int64_t rows = t.num_tokens * group_, size = shape_.size;
    clear(b, rows);
    for (int64_t s = 0; s < t.num_segments; ++s) {
      const float* sums = segment_at(t, head, s, shared);
      std::copy_n(sums + rows * size, rows, b.segment_top);
      std::copy_n(sums + rows * size + max_rows_, rows, b.segment_total);
      fold({b.top, b.total}, b.segment_top, b.segment_total, rows, b.kept, b.added);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = r * size; i < (r + 1) * size; i += kLanes) {
          const F v = load(sums + i);
          store(b.sums + i, s ? fma(load(b.sums + i), broadcast(b.kept[r]), v * broadcast(b.added[r])) : v);
        }
    }
    write(t, head, b);
  }

  static constexpr int64_t kPiecesPerThread = 8;

  const T* q_;
  int64_t q_stride_;
  const Lane<T>* keys_;
  const Lane<T>* values_;
  const int32_t* tables_;
  int64_t table_stride_;
  const int32_t* query_starts_;
  const int32_t* context_lens_;
  Shape shape_;
  int64_t group_, tile_tokens_, max_rows_;
  T* y_;
  int64_t y_stride_;
};

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" int quire_attention(quire_program* program, const void* q, int64_t q_stride, const void* keys,
                               const void* values, const int32_t* tables, int64_t table_stride,
                               const int32_t* query_starts, const int32_t* context_lens, int64_t heads,
                               int64_t kv_heads, int64_t size, int64_t block, float scale, int64_t window,
                               float softcap, int dtype, void* y, int64_t y_stride) {
  if (!is_dtype(dtype) || kv_heads < 1 || heads < kv_heads || heads % kv_heads != 0 || size < 16 || size % 16 != 0 ||
      size > kMaxHeadSize || block < 16 || block % 16 != 0 || window < 0)
    return QUIRE_BAD_ARGUMENT;
  const Shape shape{heads, kv_heads, size, block, scale, window, softcap};
  if (dtype == QUIRE_F32)
    return append<Attention<float>>(program, static_cast<const float*>(q), q_stride, keys, values, tables,
                                    table_stride, query_starts, context_lens, shape, static_cast<float*>(y), y_stride);
  return append<Attention<bf16>>(program, static_cast<const bf16*>(q), q_stride, keys, values, tables, table_stride,
                                 query_starts, context_lens, shape, static_cast<bf16*>(y), y_stride);
}
