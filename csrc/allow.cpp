// Which tokens a row may choose from, as a bit for each: the others' logits become -infinity; or the likeliest token of
// those is found, and nothing is written.
//
// A word of 32 bits is spread over lanes: each lane keeps its own bit, and compares it with 0. Whether the row was sound is
// seen in the same pass, since a mask may cover the NaN that tells. Who looks for the likeliest passes over blocks of
// which nothing is allowed.
//
// Bound: the second-level cache, in which a row lies: 8 us for 49152 logits on a core (AVX-512), 4 us if they are only
// looked at.
#include "vocabulary.h"

namespace quire {
namespace {

alignas(64) constexpr int32_t kLaneBits[16] = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                               1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};

// v, which are logits from first on; -infinity what the mask does not allow.
inline F allowed(F v, const int32_t* mask, int64_t first) {
  const int32_t word = int32_t(uint32_t(mask[first / 32]) >> (first % 32));
  return where_less(zero(), to_float(bit_and(broadcast(word), load(kLaneBits))), v, broadcast(-kInfinity));
}

struct Allow {
  float* logits;
  int64_t stride;
  const int64_t* rows;
  int64_t count, size;
  const int32_t* masks;
  int64_t mask_stride;
  uint8_t* is_sound;

  void keep(int64_t i) const {
    float* x = logits + rows[i] * stride;
    const int32_t* mask = masks + i * mask_stride;
    const Logits row{x, size};
    F greatest = broadcast(-kInfinity);
    for (int64_t block = 0; block < row.blocks(); ++block)
      row.for_vectors(block, [&](F v, int64_t first, int n) {
        greatest = max(greatest, where_nan(v, broadcast(kInfinity), v));
        const F kept = allowed(v, mask, first);
        if (n == kLanes) store(x + first, kept);
        else store_part(x + first, kept, n);
      });
    is_sound[i] = std::isfinite(max_lanes(greatest));
  }
};

struct Likeliest {
  const float* logits;
  int64_t stride;
  const int64_t* rows;
  int64_t count, size;
  const int32_t* masks;  // or NULL
  int64_t mask_stride;
  int32_t* ids;

  void find(int64_t i) const {
    const Logits row{logits + rows[i] * stride, size};
    if (masks)
      ids[i] = best_of<true>(row, masks + i * mask_stride);
    else
      ids[i] = best_of<false>(row, nullptr);
  }

  template <bool kIsMasked> static int32_t best_of(const Logits& row, const int32_t* mask) {
    const auto kept = [&](F v, int64_t first) { return kIsMasked ? allowed(v, mask, first) : v; };
    float best = -kInfinity;
    int64_t at = 0;
    for (int64_t block = 0; block < row.blocks(); ++block) {
      if (kIsMasked && is_empty(mask, block, row.size)) continue;
      F greatest = broadcast(-kInfinity);
      row.for_vectors(block, [&](F v, int64_t first, int) {
        const F x = kept(v, first);
        greatest = max(greatest, where_nan(x, broadcast(kInfinity), x));
      });
      const float value = max_lanes(greatest);
      if (value > best) best = value, at = block;
    }
    if (!std::isfinite(best)) return -1;
    int32_t token = -1;
    row.for_vectors(at, [&](F v, int64_t first, int) {
      const uint32_t bits = bits_at_least(kept(v, first), broadcast(best));
      if (token < 0 && bits) token = int32_t(first) + __builtin_ctz(bits);
    });
    return token;
  }

  static bool is_empty(const int32_t* mask, int64_t block, int64_t size) {
    int32_t bits = 0;
    for (int64_t word = block * kBlock / 32; word < std::min(ceil_div(size, 32), (block + 1) * kBlock / 32); ++word)
      bits |= mask[word];
    return bits == 0;
  }
};

void run_allow(void* context, Worker& worker) {
  const Allow& allow = *static_cast<const Allow*>(context);
  worker.for_each(allow.count, [&](int64_t i) { allow.keep(i); });
}

void run_likeliest(void* context, Worker& worker) {
  const Likeliest& likeliest = *static_cast<const Likeliest*>(context);
  worker.for_each(likeliest.count, [&](int64_t i) { likeliest.find(i); });
}

bool is_table(int64_t count, int64_t size, int64_t stride, int64_t mask_stride) {
  return count >= 0 && size >= 1 && size <= kMaxVocabulary && stride >= size && mask_stride >= ceil_div(size, 32);
}

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int quire_keep_allowed(quire_pool* pool, float* logits, int64_t stride, const int64_t* rows, int64_t count, int64_t size,
                       const int32_t* masks, int64_t mask_stride, uint8_t* is_sound) {
  if (!is_table(count, size, stride, mask_stride)) return QUIRE_BAD_ARGUMENT;
  Allow allow{logits, stride, rows, count, size, masks, mask_stride, is_sound};
  (count * size <= kFewLogits ? run_alone_on : run_on)(pool, run_allow, &allow);
  return 0;
}

int quire_likeliest_tokens(quire_pool* pool, const float* logits, int64_t stride, const int64_t* rows, int64_t count,
                           int64_t size, const int32_t* masks, int64_t mask_stride, int32_t* ids) {
  if (!is_table(count, size, stride, masks ? mask_stride : size)) return QUIRE_BAD_ARGUMENT;
  Likeliest likeliest{logits, stride, rows, count, size, masks, mask_stride, ids};
  (count * size <= kFewLogits ? run_alone_on : run_on)(pool, run_likeliest, &likeliest);
  return 0;
}

}  // extern "C"
