// Who computes what in a step's attention: tiles of rows, and pieces of their contexts.
//
// A tile is some tokens of one sequence with all query heads of a kv head: few enough rows that their scores lie near,
// enough to read keys once for many. A piece is some segments of a tile's context, of one kv head or of all: heads lie
// side by side in a page, and memory is fastest read in order. Every thread makes the same plan from the step's lengths,
// in some nanoseconds a tile. What a row gets does not depend on it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention_kernels.h"
#include "program.h"

namespace quire {
namespace attention {

constexpr int64_t kTileRowsWanted = 48;  // about: their scores, weights and sums lie in the second-level cache
constexpr int64_t kPiecesPerThread = 8;  // at least, where contexts are long enough to be cut
constexpr int64_t kSmallShares = 2;      // of such a piece: up to here a tile is taken with all its heads
constexpr int64_t kReadingCost = 6;      // of a segment's keys and values, in rows
constexpr int64_t kMaxSharedFloats = int64_t(16) << 20;

struct Shape {
  int64_t heads, kv_heads, size, block;
  float scale;
  int64_t window;  // 0: none
  float softcap;   // 0: none

  int64_t group() const { return heads / kv_heads; }
  int64_t tile_tokens() const { return std::max<int64_t>(1, kTileRowsWanted / group()); }
  // Rows of the largest piece, filled up to whole vectors.
  int64_t max_rows() const { return ceil_div(std::max(group() * tile_tokens(), heads), 16) * 16; }
  int64_t first_seen(int64_t position) const { return window ? std::max<int64_t>(0, position - window + 1) : 0; }
};

// The sequences of a step; addresses as quire_attention has them.
struct Sequences {
  int64_t count;
  const int32_t* query_starts;
  const int32_t* context_lens;
};

struct Tile {
  int64_t sequence, first_token, num_tokens;  // rows of q
  int64_t position;                           // of the first token
  int64_t first_segment, num_segments;
  int64_t num_parts;    // of its context: it is split if there are several
  int64_t piece_heads;  // kv heads of a piece: one or all
  int64_t first_piece;
  int64_t shared;       // where a split tile's segments lie in shared memory, in floats

  bool is_split() const { return num_parts > 1; }
};

// Segments first .. last of a tile, counted from the tile's first, of some kv heads.
struct Piece {
  int64_t head, num_heads, first, last;
};

class Plan {
 public:
  static int64_t max_tiles(const Shape& shape, const Sequences& sequences) {
    return sequences.count ? sequences.count + sequences.query_starts[sequences.count] / shape.tile_tokens() : 0;
  }

  // tiles: room for max_tiles.
  Plan(const Shape& shape, const Sequences& sequences, int threads, Tile* tiles) : shape_(shape), tiles_(tiles) {
    // The greatest pieces first: tiles of prompts from their ends, then single tokens.
    for (int64_t i = 0; i < sequences.count; ++i)
      if (length(sequences, i) > 1) add_tiles(sequences, i);
    for (int64_t i = 0; i < sequences.count; ++i)
      if (length(sequences, i) == 1) add_tiles(sequences, i);
    cut(threads);
  }

  int64_t num_tiles() const { return num_tiles_; }
  int64_t num_pieces() const { return num_pieces_; }
  int64_t shared_floats() const { return shared_floats_; }
  const Tile* tiles() const { return tiles_; }

  // The tile of a piece, at tile or after it.
  const Tile* tile_of(const Tile* tile, int64_t piece) const {
    while (piece >= tile->first_piece + num_pieces(*tile)) ++tile;
    return tile;
  }

  Piece piece_of(const Tile& t, int64_t piece) const {
    const int64_t beside = shape_.kv_heads / t.piece_heads, i = piece - t.first_piece, part = i / beside;
    return {i % beside, t.piece_heads, t.num_segments * part / t.num_parts,
            t.num_segments * (part + 1) / t.num_parts};
  }

  // A split tile's segment of one kv head in shared memory: its sums, then tops, then totals.
  int64_t segment_at(const Tile& t, int64_t head, int64_t segment) const {
    return t.shared + (head * t.num_segments + segment) * segment_floats(t);
  }

 private:
  static int64_t length(const Sequences& s, int64_t i) { return s.query_starts[i + 1] - s.query_starts[i]; }

  void add_tiles(const Sequences& s, int64_t sequence) {
    const int64_t begin = s.query_starts[sequence], count = length(s, sequence);
    const int64_t tiles = ceil_div(count, shape_.tile_tokens());
    for (int64_t i = tiles - 1; i >= 0; --i) {
      Tile& t = tiles_[num_tiles_++];
      const int64_t first = count * i / tiles;
      t.sequence = sequence;
      t.first_token = begin + first;
      t.num_tokens = count * (i + 1) / tiles - first;
      t.position = s.context_lens[sequence] - count + first;
      t.first_segment = shape_.first_seen(t.position) / kSegment;
      t.num_segments = (t.position + t.num_tokens - 1) / kSegment - t.first_segment + 1;
    }
  }

  int64_t num_pieces(const Tile& t) const { return t.num_parts * (shape_.kv_heads / t.piece_heads); }

  int64_t cost(const Tile& t) const { return t.num_segments * (t.num_tokens * shape_.group() + kReadingCost); }

  // No piece above a share of the whole, as far as segments allow; so that none that comes last is long.
  void cut(int threads) {
    int64_t all = 0;
    for (int64_t i = 0; i < num_tiles_; ++i) all += cost(tiles_[i]);
    const int64_t share = std::max<int64_t>(1, all * shape_.kv_heads / (kPiecesPerThread * threads));
    for (int64_t i = 0; i < num_tiles_; ++i) {
      Tile& t = tiles_[i];
      const int64_t needed = t.num_segments * segment_floats(t) * shape_.kv_heads;
      const bool is_whole = threads == 1 || cost(t) <= share || shared_floats_ + needed > kMaxSharedFloats;
      t.num_parts = is_whole ? 1 : std::min(t.num_segments, ceil_div(cost(t), share));
      t.shared = shared_floats_;
      if (t.is_split()) shared_floats_ += needed;
      const bool is_small = cost(t) * shape_.kv_heads <= kSmallShares * share;
      t.piece_heads = is_small && t.num_tokens * shape_.heads <= shape_.max_rows() ? shape_.kv_heads : 1;
      t.first_piece = num_pieces_;
      num_pieces_ += num_pieces(t);
    }
  }

  int64_t segment_floats(const Tile& t) const {
    return t.num_tokens * shape_.group() * shape_.size + 2 * shape_.max_rows();
  }

  const Shape& shape_;
  Tile* tiles_;
  int64_t num_tiles_ = 0, num_pieces_ = 0, shared_floats_ = 0;
};

}  // namespace attention
}  // namespace quire
