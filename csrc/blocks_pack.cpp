// Packs rows of GGUF blocks, as a file holds them, into the tiles of blocks.h. Nothing is computed with: bits move.
//
// Source of the byte layouts: the ggml project's description of its formats; see kernels/ops/dequantize.py for the same
// in Python.
#include <algorithm>

#include "blocks.h"

namespace quire {
namespace {

// What one row holds of one unit.
struct Codes {
  uint8_t q[kUnit];
  f16 factor[2];       // of scale and min: f16 numbers themselves, or the superblock's factors
  int8_t small[2][2];  // nested: [scale, min][sub-block]
};

f16 half_at(const uint8_t* p) {
  f16 x;
  std::memcpy(&x, p, 2);
  return x;
}

f16 negative(f16 x) { return f16(x ^ 0x8000); }

// Of each of n bytes the `bits` bits from bit `from` on, moved to bit `to` and added to q. Eight bytes at a time.
template <int bits, int n> void add_fields(const uint8_t* bytes, int from, int to, uint8_t* q) {
  constexpr uint64_t kMask = ((1u << bits) - 1u) * 0x0101010101010101u;
  for (int i = 0; i < n; i += 8) {
    uint64_t fields, sum;
    std::memcpy(&fields, bytes + i, 8), std::memcpy(&sum, q + i, 8);
    sum |= (fields >> from & kMask) << to;
    std::memcpy(q + i, &sum, 8);
  }
}

void read_nibbles(const uint8_t* bytes, Codes& c) {
  add_fields<4, 16>(bytes, 0, 0, c.q);
  add_fields<4, 16>(bytes, 4, 0, c.q + 16);
}

void add_fifth_bits(const uint8_t* bytes, Codes& c) {
  uint32_t bits;
  std::memcpy(&bits, bytes, 4);
  // A bit in each byte of a quad: copies of the quad's bits, each of which keeps its own.
  for (int j = 0; j < kQuads; ++j) {
    uint32_t quad;
    std::memcpy(&quad, c.q + 4 * j, 4);
    quad |= ((bits >> (4 * j) & 15) * 0x00204081u & 0x01010101u) << 4;
    std::memcpy(c.q + 4 * j, &quad, 4);
  }
}

// Scale and min i of eight, of 6 bits: bytes 0-3 and 4-7 hold the first four of each, and in their top bits those of
// the last four; bytes 8-11 hold the low bits of the last four, scales below mins.
void read_six_bit_pair(const uint8_t* bytes, int i, Codes& c) {
  const uint8_t* s = bytes + i % 4;
  c.small[0][0] = int8_t(i < 4 ? s[0] & 63 : (s[8] & 15) | s[0] >> 6 << 4);
  c.small[1][0] = int8_t(i < 4 ? s[4] & 63 : s[8] >> 4 | s[4] >> 6 << 4);
}

// Unit u of the block at b.
template <int format> void read_unit(const uint8_t* b, int u, Codes& c) {
  std::memset(c.q, 0, kUnit);
  const int half = u / 4, field = u % 4;  // of formats that keep 128 values together
  if constexpr (format == QUIRE_Q4_0) {
    c.factor[0] = half_at(b);
    read_nibbles(b + 2, c);
  } else if constexpr (format == QUIRE_Q4_1) {
    c.factor[0] = half_at(b), c.factor[1] = half_at(b + 2);
    read_nibbles(b + 4, c);
  } else if constexpr (format == QUIRE_Q5_0) {
    c.factor[0] = half_at(b);
    read_nibbles(b + 6, c);
    add_fifth_bits(b + 2, c);
  } else if constexpr (format == QUIRE_Q5_1) {
    c.factor[0] = half_at(b), c.factor[1] = half_at(b + 2);
    read_nibbles(b + 8, c);
    add_fifth_bits(b + 4, c);
  } else if constexpr (format == QUIRE_Q8_0) {
    c.factor[0] = half_at(b);
    for (int i = 0; i < kUnit; ++i) c.q[i] = b[2 + i] ^ 0x80;
  } else if constexpr (format == QUIRE_Q2_K) {
    c.factor[0] = half_at(b + 80), c.factor[1] = negative(half_at(b + 82));
    add_fields<2, kUnit>(b + 16 + 32 * half, 2 * field, 0, c.q);
    for (int s = 0; s < 2; ++s) c.small[0][s] = b[2 * u + s] & 15, c.small[1][s] = b[2 * u + s] >> 4;
  } else if constexpr (format == QUIRE_Q3_K) {
    c.factor[0] = half_at(b + 108);
    add_fields<2, kUnit>(b + 32 + 32 * half, 2 * field, 0, c.q);
    add_fields<1, kUnit>(b, u, 2, c.q);
    for (int s = 0; s < 2; ++s) {
      const int at = 2 * u + s, low = b[96 + at % 8] >> (4 * (at / 8)) & 15;
      c.small[0][s] = int8_t((low | (b[104 + at % 4] >> (2 * (at / 4)) & 3) << 4) - 32);
    }
  } else if constexpr (format == QUIRE_Q4_K || format == QUIRE_Q5_K) {
    c.factor[0] = half_at(b), c.factor[1] = negative(half_at(b + 2));
    read_six_bit_pair(b + 4, u, c);
    add_fields<4, kUnit>(b + (format == QUIRE_Q4_K ? 16 : 48) + 32 * (u / 2), 4 * (u % 2), 0, c.q);
    if constexpr (format == QUIRE_Q5_K) add_fields<1, kUnit>(b + 16, u, 4, c.q);
  } else {
    static_assert(format == QUIRE_Q6_K);
    c.factor[0] = half_at(b + 208);
    add_fields<4, kUnit>(b + 64 * half + 32 * (field % 2), 4 * (field / 2), 0, c.q);
    add_fields<2, kUnit>(b + 128 + 32 * half, 2 * field, 4, c.q);
    for (int s = 0; s < 2; ++s) c.small[0][s] = int8_t(b[192 + 2 * u + s]);
  }
}

// One of `bits` rows of words: bits first .. first + bits of each q of every quad that it holds.
template <int bits> uint32_t word_of(const uint8_t* q, int row, int first) {
  constexpr uint32_t kMask = ((1u << bits) - 1u) * 0x01010101u;
  uint32_t word = 0;
  for (int at = 0; at < 8 / bits; ++at) {
    uint32_t four;
    std::memcpy(&four, q + 4 * (row + bits * at), 4);
    word |= (four >> first & kMask) << (bits * at);
  }
  return word;
}

template <int format> void write_unit(const Codes& c, char* unit, int64_t column) {
  constexpr BlockForm form = kForms[format];
  uint32_t* words = reinterpret_cast<uint32_t*>(unit) + column;
  for (int r = 0; r < form.low; ++r) words[form.low_row(r) * kTileWidth] = word_of<form.low>(c.q, r, 0);
  if constexpr (form.high != 0)
    for (int r = 0; r < form.high; ++r) words[form.high_row(r) * kTileWidth] = word_of<form.high>(c.q, r, form.low);
  for (int part = 0; part < (form.has_min ? 2 : 1); ++part) {
    char* at = unit + form.q_bytes() + part * form.scales_bytes();
    if constexpr (form.is_nested)
      for (int s = 0; s < form.subs; ++s) reinterpret_cast<int8_t*>(at)[s * kTileWidth + column] = c.small[part][s];
    else
      reinterpret_cast<f16*>(at)[column] = c.factor[part];
  }
}

struct Packing {
  const uint8_t* rows;
  int64_t row_bytes, first_row, num_rows, num_in;
  char* packed;
};

template <int format> void pack_column(const uint8_t* block, char* superblock, int64_t column) {
  constexpr BlockForm form = kForms[format];
  Codes codes;
  for (int u = 0; u < form.units(); ++u) {
    read_unit<format>(block, u, codes);
    write_unit<format>(codes, superblock + form.head_bytes() + u * form.unit_bytes(), column);
  }
  if constexpr (form.is_nested)
    for (int part = 0; part < (form.has_min ? 2 : 1); ++part)
      reinterpret_cast<f16*>(superblock)[part * kTileWidth + column] = codes.factor[part];
}

template <int format> void pack_rows(void* context, Worker& worker) {
  constexpr BlockForm form = kForms[format];
  const Packing& p = *static_cast<const Packing*>(context);
  const int64_t blocks = p.num_in / form.block_values(), tile_bytes = block_tile_bytes(form, p.num_in);
  const int64_t first = p.first_row / kTileWidth, last = (p.first_row + p.num_rows - 1) / kTileWidth;
  worker.for_each(last - first + 1, [&](int64_t i) {
    const int64_t tile = first + i;
    const int64_t begin = std::max(p.first_row, tile * kTileWidth);
    const int64_t end = std::min(p.first_row + p.num_rows, (tile + 1) * kTileWidth);
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t r = begin; r < end; ++r)
        pack_column<format>(p.rows + (r - p.first_row) * p.row_bytes + b * form.block_bytes,
                            p.packed + tile * tile_bytes + b * form.superblock_bytes(), r % kTileWidth);
  });
}

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int64_t quire_packed_blocks_bytes(int64_t num_out, int64_t num_in, int format) {
  if (!is_block_matrix(num_out, num_in, format)) return QUIRE_BAD_ARGUMENT;
  return ceil_div(num_out, kTileWidth) * block_tile_bytes(kForms[format], num_in);
}

int quire_pack_blocks(quire_pool* pool, const void* rows, int64_t row_bytes, int64_t first_row, int64_t num_rows,
                      int64_t num_in, int format, void* packed) {
  if (first_row < 0 || !is_block_matrix(num_rows, num_in, format)) return QUIRE_BAD_ARGUMENT;
  const uint8_t* source = static_cast<const uint8_t*>(rows);
  Packing packing{source, row_bytes, first_row, num_rows, num_in, static_cast<char*>(packed)};
  return with_format(format, [&](auto name) {
    run_on(pool, pack_rows<name()>, &packing);
    return 0;
  });
}

}  // extern "C"
