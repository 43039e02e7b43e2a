// Packs rows of plain numbers into the tiles that linear.cpp reads. Nothing is computed with: bits move.
//
// Packing transposes: a row's neighbouring lanes (a float32, or a pair of bfloat16) go kTileWidth lanes apart. Squares of
// kLanes rows by kLanes lanes are turned in registers; what is left over at the edges goes lane by lane.
//
// Bound: memory, which is read once and written once.
#include <algorithm>

#include "program.h"
#include "tile.h"

namespace quire {
namespace {

constexpr int64_t kPieceLanes = 1024;  // of each row: a piece of work is a tile by so many

// Rows of lanes, the first of which belongs in the first column of a tile.
struct Packing {
  const char* rows;
  int64_t row_bytes, first_row, end_row, lanes;
  int32_t* packed;

  const char* at(int64_t row, int64_t lane) const { return rows + (row - first_row) * row_bytes + lane * 4; }
  int32_t* place(int64_t row, int64_t lane) const {
    return packed + (row / kTileWidth * lanes + lane) * kTileWidth + row % kTileWidth;
  }
};

void pack_lanes(const Packing& p, int64_t row, int64_t end_row, int64_t lane, int64_t end_lane) {
  for (; lane < end_lane; ++lane)
    for (int64_t r = row; r < end_row; ++r) std::memcpy(p.place(r, lane), p.at(r, lane), 4);
}

void pack_square(const Packing& p, int64_t row, int64_t lane) {
  I v[kLanes];
  for (int i = 0; i < kLanes; ++i) v[i] = load(reinterpret_cast<const int32_t*>(p.at(row + i, lane)));
  transpose(v);
  int32_t* place = p.place(row, lane);
  for (int i = 0; i < kLanes; ++i) store(place + i * kTileWidth, v[i]);
}

// The rows of one tile, in whole squares where all rows of one are there.
void pack_piece(const Packing& p, int64_t tile, int64_t lane, int64_t end_lane) {
  const int64_t whole = lane + (end_lane - lane) / kLanes * kLanes;
  for (; lane < whole; lane += kLanes)
    for (int64_t row = tile * kTileWidth; row < (tile + 1) * kTileWidth; row += kLanes)
      if (row >= p.first_row && row + kLanes <= p.end_row)
        pack_square(p, row, lane);
      else
        pack_lanes(p, std::max(row, p.first_row), std::min(row + kLanes, p.end_row), lane, lane + kLanes);
  pack_lanes(p, std::max(tile * kTileWidth, p.first_row), std::min((tile + 1) * kTileWidth, p.end_row), whole, end_lane);
}

void pack_rows(void* context, Worker& worker) {
  const Packing& p = *static_cast<const Packing*>(context);
  const int64_t first_tile = p.first_row / kTileWidth, tiles = ceil_div(p.end_row, kTileWidth) - first_tile;
  const int64_t pieces = ceil_div(p.lanes, kPieceLanes);
  worker.for_each(tiles * pieces, [&](int64_t i) {
    const int64_t lane = i % pieces * kPieceLanes;
    pack_piece(p, first_tile + i / pieces, lane, std::min(lane + kPieceLanes, p.lanes));
  });
}

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int64_t quire_tile_width(void) { return kTileWidth; }

int64_t quire_packed_bytes(int64_t num_out, int64_t num_in, int dtype) {
  if (!is_matrix(num_out, num_in, dtype)) return QUIRE_BAD_ARGUMENT;
  return ceil_div(num_out, kTileWidth) * kTileWidth * num_in * size_of(dtype);
}

int quire_pack(quire_pool* pool, const void* weight, int64_t stride, int64_t first_row, int64_t num_rows,
               int64_t num_in, int dtype, void* packed) {
  if (first_row < 0 || num_rows <= 0 || !is_matrix(num_rows, num_in, dtype)) return QUIRE_BAD_ARGUMENT;
  Packing packing{static_cast<const char*>(weight), stride * size_of(dtype), first_row, first_row + num_rows,
                  num_in * size_of(dtype) / 4, static_cast<int32_t*>(packed)};
  run_on(pool, pack_rows, &packing);
  return 0;
}

}  // extern "C"
