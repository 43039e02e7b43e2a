// Which tokens a row may choose from, as a bit for each: the others' logits become -infinity.
//
// A word of 32 bits is spread over lanes: each lane keeps its own bit, and compares it with 0. Whether the row was sound is
// seen in the same pass, since a mask may cover the NaN that tells.
//
// Bound: the second-level cache, in which a row lies: 8 us for 49152 logits on a core (AVX-512).
#include "vocabulary.h"

namespace quire {
namespace {

alignas(64) constexpr int32_t kLaneBits[16] = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                               1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};

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
    const I bits = load(kLaneBits);
    F greatest = broadcast(-kInfinity);
    for (int64_t block = 0; block < row.blocks(); ++block)
      row.for_vectors(block, [&](F v, int64_t first, int n) {
        greatest = max(greatest, where_nan(v, broadcast(kInfinity), v));
        const int32_t word = int32_t(uint32_t(mask[first / 32]) >> (first % 32));
        const F kept = where_less(zero(), to_float(bit_and(broadcast(word), bits)), v, broadcast(-kInfinity));
        if (n == kLanes) store(x + first, kept);
        else store_part(x + first, kept, n);
      });
    is_sound[i] = std::isfinite(max_lanes(greatest));
  }
};

void run_allow(void* context, Worker& worker) {
  const Allow& allow = *static_cast<const Allow*>(context);
  worker.for_each(allow.count, [&](int64_t i) { allow.keep(i); });
}

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" int quire_keep_allowed(quire_pool* pool, float* logits, int64_t stride, const int64_t* rows, int64_t count,
                                  int64_t size, const int32_t* masks, int64_t mask_stride, uint8_t* is_sound) {
  if (count < 0 || size < 1 || size > kMaxVocabulary || stride < size || mask_stride < ceil_div(size, 32))
    return QUIRE_BAD_ARGUMENT;
  Allow allow{logits, stride, rows, count, size, masks, mask_stride, is_sound};
  (count * size <= kFewLogits ? run_alone_on : run_on)(pool, run_allow, &allow);
  return 0;
}
