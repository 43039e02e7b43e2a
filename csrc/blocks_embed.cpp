// y[i] = table[ids[i]] * scale for a table in blocks: expands one row of the packed tiles.
//
// Quads are read for kLanes columns, of which one is wanted: it costs the same instructions and the same cache lines.
#include <algorithm>

#include "blocks.h"

namespace quire {
namespace {

template <int format, typename T> class BlockEmbed final : public Operator {
 public:
  BlockEmbed(int rows, const int64_t* ids, BlockMatrix table, float scale, void* y, int64_t y_stride)
      : rows_(rows), ids_(ids), table_(table), scale_(scale), y_(static_cast<T*>(y)), y_stride_(y_stride) {}

  const char* name() const override { return "embed_blocks"; }

  bool is_small(const Step& step) const override { return step.counts[rows_] * table_.num_in <= kSmallValues; }

  void run(const Step& step, Worker& worker) const override {
    constexpr BlockForm form = kForms[format];
    const int64_t bytes = form.superblock_bytes(), superblocks = table_.num_in / form.block_values();
    worker.for_each(step.counts[rows_], [&](int64_t i) {
      const char* superblock = table_.packed + ids_[i] / kTileWidth * superblocks * bytes;
      T* y = y_ + i * y_stride_;
      for (int64_t b = 0; b < superblocks; ++b, superblock += bytes, y += form.block_values())
        expand(superblock, int(ids_[i] % kTileWidth), y);
    });
  }

 private:
  void expand(const char* superblock, int column, T* y) const {
    constexpr BlockForm form = kForms[format];
    const char* unit = superblock + form.head_bytes();
    for (int u = 0; u < form.units(); ++u, unit += form.unit_bytes(), y += kUnit) {
      uint8_t q[kUnit];
      read_quads(unit, column, q, std::make_integer_sequence<int, kQuads>());
      for (int sub = 0; sub < form.subs; ++sub) {
        const int v = column / kLanes, first = sub * kUnit / form.subs;
        const float scale = lane_of(scaling<format>(superblock, unit, sub, 0, v), column);
        const float least = form.has_min ? lane_of(scaling<format>(superblock, unit, sub, 1, v), column) : 0;
        expand_sub(q + first, scale, least, y + first);
      }
    }
  }

  template <int... j>
  static void read_quads(const char* unit, int column, uint8_t* q, std::integer_sequence<int, j...>) {
    (read_quad(quad<format, j>(unit, column / kLanes), column, q + 4 * j), ...);
  }

  static void read_quad(I words, int column, uint8_t* q) {
    int32_t lanes[kLanes];
    store(lanes, words);
    std::memcpy(q, &lanes[column % kLanes], 4);
  }

  static float lane_of(F v, int column) {
    float lanes[kLanes];
    store(lanes, v);
    return lanes[column % kLanes];
  }

  // Each product and sum is rounded on its own, in float32.
  void expand_sub(const uint8_t* q, float scale, float least, T* y) const {
    constexpr int kCount = kUnit / kForms[format].subs;
    float values[kCount];
    for (int i = 0; i < kCount; ++i) values[i] = (float(q[i] - kForms[format].offset) * scale + least) * scale_;
    for (int i = 0; i < kCount; i += kLanes) store_rounded(y + i, load(values + i));
  }

  int rows_;
  const int64_t* ids_;
  BlockMatrix table_;
  float scale_;
  T* y_;
  int64_t y_stride_;
};

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" int quire_embed_blocks(quire_program* program, int rows, const int64_t* ids, const void* packed,
                                  int64_t num_out, int64_t num_in, int format, int dtype, float scale, void* y,
                                  int64_t y_stride) {
  if (!is_rows(rows) || !is_dtype(dtype) || !is_block_matrix(num_out, num_in, format)) return QUIRE_BAD_ARGUMENT;
  const BlockMatrix table{static_cast<const char*>(packed), num_out, num_in};
  return with_format(format, [&](auto name) {
    if (dtype == QUIRE_F32) return append<BlockEmbed<name(), float>>(program, rows, ids, table, scale, y, y_stride);
    return append<BlockEmbed<name(), bf16>>(program, rows, ids, table, scale, y, y_stride);
  });
}
