// Which tokens a row may choose from, as a bit for each: the others' logits become -infinity.
//
// Whether the row was sound is seen in the same pass, since a mask may cover the NaN that tells.
//
// Bound: the second-level cache, in which a row lies: 8 us for 49152 logits on a core (AVX-512).
#include "vocabulary.h"

namespace quire {
namespace {

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
    F greatest = broadcast(-kInfinity);
    for (int64_t block = 0; block < ceil_div(size, kBlock); ++block)
      keep_allowed(x, size, masks + i * mask_stride, block,
                   [&](F v, F) { greatest = max(greatest, where_nan(v, broadcast(kInfinity), v)); });
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

extern "C" {

int quire_keep_allowed(quire_pool* pool, float* logits, int64_t stride, const int64_t* rows, int64_t count, int64_t size,
                       const int32_t* masks, int64_t mask_stride, uint8_t* is_sound) {
  const bool is_table = count >= 0 && size >= 1 && size <= kMaxVocabulary && stride >= size;
  if (!is_table || mask_stride < ceil_div(size, 32)) return QUIRE_BAD_ARGUMENT;
  Allow allow{logits, stride, rows, count, size, masks, mask_stride, is_sound};
  (count * size <= kFewLogits ? run_alone_on : run_on)(pool, run_allow, &allow);
  return 0;
}

}  // extern "C"
