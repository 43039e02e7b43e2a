// The two ends of a decode step: what its operators read, gathered from what is known of all sequences, and what it chose
// noted there. Without them a step would be a dozen array operations of its caller's, for a token of each sequence.
//
// Bound: none; one thread reads and writes some tens of bytes a sequence, and four for each page of its context.
#include <algorithm>

#include "program.h"

namespace quire {
namespace {

class BeginDecode final : public Operator {
 public:
  explicit BeginDecode(const quire_decode& decode) : d_(decode) {}

  const char* name() const override { return "begin_decode"; }

  bool is_small(const Step&) const override { return true; }

  void run(const Step& step, Worker&) const override {
    const int64_t count = step.counts[QUIRE_SEQUENCES];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t slot = d_.slots[i], position = d_.positions[i], last = position / d_.block;
      const int32_t* pages = d_.tables + slot * d_.table_stride;
      d_.ids[i] = std::max(d_.tokens[slot * d_.token_stride + position], 0);
      d_.kv_slots[i] = pages[last] * d_.block + position % d_.block;
      std::copy(pages, pages + last + 1, d_.step_tables + i * d_.table_stride);
      d_.context_lens[i] = int32_t(position + 1);
      d_.query_starts[i] = d_.asked_starts[i] = int32_t(i);
      d_.asked[i] = d_.rows[i] = i;
    }
    d_.query_starts[count] = d_.asked_starts[count] = int32_t(count);
  }

 private:
  quire_decode d_;
};

class EndDecode final : public Operator {
 public:
  EndDecode(const quire_decode& decode, const int32_t* chosen) : d_(decode), chosen_(chosen) {}

  const char* name() const override { return "end_decode"; }

  bool is_small(const Step&) const override { return true; }

  void run(const Step& step, Worker&) const override {
    for (int64_t i = 0; i < step.counts[QUIRE_SEQUENCES]; ++i) {
      const int64_t next = d_.positions[i] + 1;
      if (next < d_.token_stride) d_.tokens[d_.slots[i] * d_.token_stride + next] = chosen_[i];
    }
  }

 private:
  quire_decode d_;
  const int32_t* chosen_;
};

bool is_decode(const quire_decode& d) { return d.block > 0 && d.token_stride > 0 && d.table_stride > 0; }

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int quire_begin_decode(quire_program* program, const quire_decode* decode) {
  return is_decode(*decode) ? append<BeginDecode>(program, *decode) : QUIRE_BAD_ARGUMENT;
}

int quire_end_decode(quire_program* program, const quire_decode* decode, const int32_t* chosen) {
  return is_decode(*decode) ? append<EndDecode>(program, *decode, chosen) : QUIRE_BAD_ARGUMENT;
}

}  // extern "C"
