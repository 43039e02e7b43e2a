// Packs rows of plain numbers into the tiles that linear.cpp reads. Nothing is computed with: bits move.
#include <algorithm>

#include "program.h"
#include "tile.h"

namespace quire {
namespace {

struct Packing {
  const char* weight;
  int64_t stride, first_row, num_rows, num_in;
  char* packed;
};

template <typename T> void pack_rows(void* context, Worker& worker) {
  const Packing& p = *static_cast<const Packing*>(context);
  const int64_t groups = p.num_in / Element<T>::kAdjacent;
  const int64_t first = p.first_row / kTileWidth, last = (p.first_row + p.num_rows - 1) / kTileWidth;
  worker.for_each(last - first + 1, [&](int64_t i) {
    const int64_t tile = first + i;
    const int64_t begin = std::max(p.first_row, tile * kTileWidth);
    const int64_t end = std::min(p.first_row + p.num_rows, (tile + 1) * kTileWidth);
    const T* source = reinterpret_cast<const T*>(p.weight) + (begin - p.first_row) * p.stride;
    Lane<T>* target = reinterpret_cast<Lane<T>*>(p.packed) + tile * groups * kTileWidth + begin % kTileWidth;
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t r = 0; r < end - begin; ++r)
        std::memcpy(target + g * kTileWidth + r, source + r * p.stride + g * Element<T>::kAdjacent, sizeof(Lane<T>));
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
  Packing packing{static_cast<const char*>(weight), stride, first_row, num_rows, num_in, static_cast<char*>(packed)};
  run_on(pool, dtype == QUIRE_F32 ? pack_rows<float> : pack_rows<bf16>, &packing);
  return 0;
}

}  // extern "C"
