// From logits to tokens, and to log probabilities: what a row asks for, in one or two looks at its vocabulary.
//
// The first look takes each block's greatest logit (vocabulary.h). That settles a greedy row; and it settles a row with
// a top_k but for a few blocks, since a row's k best tokens lie in its k best blocks at most. Others are weighed in a
// second look: then a draw by id is a walk over blocks, and a draw by rank (top_p) a walk over the few best tokens, or,
// where the nucleus is wide, over buckets of scores (ranking.h).
//
// Rows are shared among threads; if there are fewer than threads, their blocks are; and few logits are left to one.
//
// Bound: arithmetic, since a row of 49152 logits lies in the second-level cache: 4 us on a core for the first look, 20 us
// for the second's exponentials (AVX-512), and 100 us more for the buckets of a nucleus of thousands.
#include <cmath>

#include "ranking.h"

namespace quire {
namespace {

constexpr int64_t kPiece = 64;  // blocks that a thread takes at once

struct Table {
  const float* logits;
  int64_t stride, count, size;
  const int64_t* index;  // or NULL

  Logits row(int64_t r) const { return {logits + (index ? index[r] : r) * stride, size}; }
  int64_t blocks() const { return ceil_div(size, kBlock); }
  bool is_little() const { return count * size <= kFewLogits; }
};

// What the looks found: shared by all threads.
class Findings {
 public:
  static int64_t bytes(const Table& table) {
    return table.count * table.blocks() * int64_t(sizeof(int64_t) + sizeof(float));
  }
  Findings(const Table& table, void* memory)
      : blocks_(table.blocks()), masses_(static_cast<int64_t*>(memory)),
        maxima_(reinterpret_cast<float*>(masses_ + table.count * blocks_)) {}

  int64_t* masses(int64_t r) const { return masses_ + r * blocks_; }
  float* maxima(int64_t r) const { return maxima_ + r * blocks_; }
  int64_t mass(int64_t r) const {
    int64_t sum = 0;
    for (int64_t b = 0; b < blocks_; ++b) sum += masses(r)[b];
    return sum;
  }
  float best(int64_t r) const {
    F greatest = broadcast(-kInfinity);
    int64_t b = 0;
    for (; b + kLanes <= blocks_; b += kLanes) greatest = max(greatest, load(maxima(r) + b));
    float best = max_lanes(greatest);
    for (; b < blocks_; ++b) best = std::max(best, maxima(r)[b]);
    return best;
  }

 private:
  int64_t blocks_;
  int64_t* masses_;
  float* maxima_;
};

// Look at all rows, weigh those whose need(r) is true by score(r, best) above floor(r), then end(r) each.
template <typename Job> void run_rows(void* context, Worker& worker) {
  const Job& job = *static_cast<const Job*>(context);
  const Table& table = job.table;
  const Findings found(table, worker.shared(Findings::bytes(table)));
  const auto look = [&](int64_t r, int64_t first, int64_t last) { job.look(r, first, last, found.maxima(r)); };
  const auto weigh = [&](int64_t r, int64_t first, int64_t last) {
    const float best = found.best(r);
    if (job.is_weighed(r) && std::isfinite(best))
      table.row(r).weigh(first, last, job.score(r, best), job.floor(r), found.masses(r));
  };
  const int64_t blocks = table.blocks();
  if (table.count >= worker.count()) {
    worker.for_each(table.count, [&](int64_t r) {
      look(r, 0, blocks);
      weigh(r, 0, blocks);
      job.end(r, found, worker);
    });
    return;
  }
  const int64_t pieces = ceil_div(blocks, kPiece);
  const auto for_pieces = [&](const auto& body) {
    worker.for_each(table.count * pieces, [&](int64_t i) {
      const int64_t first = i % pieces * kPiece;
      body(i / pieces, first, std::min(blocks, first + kPiece));
    });
    worker.barrier();
  };
  for_pieces(look);
  for_pieces(weigh);
  worker.for_each(table.count, [&](int64_t r) { job.end(r, found, worker); });
}

template <typename Job> void run_job(quire_pool* pool, Job& job) {
  (job.table.is_little() ? run_alone_on : run_on)(pool, run_rows<Job>, &job);
}

// What each row wants of a draw: said row by row,
struct ByRow {
  quire_draws d;

  float temperature(int64_t r) const { return d.temperature[r]; }
  float log_min_p(int64_t r) const { return d.log_min_p[r]; }
  int64_t top_k(int64_t r) const { return d.top_k[r]; }
  double top_p(int64_t r) const { return d.top_p[r]; }
  double uniform(int64_t r) const { return d.uniforms[r]; }
  int32_t free(int64_t r) const { return d.free ? d.free[r] : -1; }
  bool is_guided(int64_t) const { return false; }
};

// or once for each slot, of which the rows of a step are some.
struct BySlot {
  quire_slot_draws d;

  float temperature(int64_t r) const { return d.temperature[d.slots[r]]; }
  float log_min_p(int64_t r) const { return d.log_min_p[d.slots[r]]; }
  int64_t top_k(int64_t r) const { return d.top_k[d.slots[r]]; }
  double top_p(int64_t r) const { return d.top_p[d.slots[r]]; }
  double uniform(int64_t r) const { return number(d.seed[d.slots[r]], d.positions[r]); }
  double second_uniform(int64_t r) const { return number(~d.seed[d.slots[r]], d.positions[r]); }
  int32_t free(int64_t) const { return -1; }
  bool is_guided(int64_t r) const { return d.is_guided[d.slots[r]]; }

  // What decoding/random.py gives for the position behind: output position + 1 of SplitMix64, from the seed's mix.
  static double number(uint64_t seed, int64_t position) {
    const uint64_t counter = uint64_t(position + 2) * 0x9E3779B97F4A7C15u;
    return double(mix(mix(seed) + counter) >> 11) * 0x1p-53;
  }

  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
};

template <typename Asked> struct Draw {
  Table table;
  Asked asked;
  int32_t* ids;

  void look(int64_t r, int64_t first, int64_t last, float* maxima) const { table.row(r).look(first, last, maxima); }
  bool is_greedy(int64_t r) const { return asked.temperature(r) == 0; }
  bool is_limited(int64_t r) const { return asked.top_k(r) < table.size; }
  bool is_ranked(int64_t r) const { return is_limited(r) || asked.top_p(r) < 1; }
  bool is_weighed(int64_t r) const { return !is_greedy(r) && (asked.is_guided(r) || !is_limited(r)); }
  Tempered score(int64_t r, float best) const { return {best, asked.temperature(r)}; }
  float lowest(int64_t r) const { return std::max(kLowestScore, asked.log_min_p(r)); }
  float floor(int64_t r) const { return asked.is_guided(r) ? kLowestScore : lowest(r); }

  void end(int64_t r, const Findings& found, Worker& worker) const {
    const float best = found.best(r);
    if (!std::isfinite(best)) ids[r] = -1;
    else if (is_greedy(r)) ids[r] = table.row(r).at_logit(best, found.maxima(r));
    else if (asked.is_guided(r)) ids[r] = tried(r, best, found);
    else ids[r] = kept(r, best, asked.uniform(r), asked.free(r), found, worker);
  }

  // From all tokens, by their temperature alone.
  int32_t free(int64_t r, float best, const Findings& found) const {
    const int64_t target = part(asked.uniform(r), found.mass(r));
    return table.row(r).at_mass(target, score(r, best), kLowestScore, found.masses(r));
  }

  // The same, if it is among what is kept wherever it is allowed, whatever is forbidden beside it. Fewer before it in the
  // ranking only help it, and what is kept holds top_p of those and its own at least. Masses are rounded, and will be
  // of a greater scale where the best is forbidden; so that takes a margin.
  int32_t tried(int64_t r, float best, const Findings& found) const {
    const Logits logits = table.row(r);
    const Tempered score = this->score(r, best);
    const int32_t token = free(r, best, found);
    const float own = score(logits.x[token]);
    if (own < lowest(r)) return QUIRE_UNSURE;
    if (!is_ranked(r)) return token;
    if (logits.count(score, own, found.maxima(r)) > asked.top_k(r)) return QUIRE_UNSURE;
    const double mass = std::exp(double(own)) * kWhole;
    const double all = double(logits.mass(score, own, found.maxima(r)));
    const bool is_kept = asked.top_p(r) >= 1 || (all - mass) * (1 + 1e-4) < asked.top_p(r) * all;
    return mass > 0x1p20 && is_kept ? token : QUIRE_UNSURE;
  }

  // From what is kept of the row by all its wishes; the free one, if it is among them.
  int32_t kept(int64_t r, float best, double uniform, int32_t free, const Findings& found, Worker& worker) const {
    const Logits logits = table.row(r);
    const Tempered score = this->score(r, best);
    const float lowest = this->lowest(r);
    if (free >= 0 && !(score(logits.x[free]) >= lowest)) free = -1;
    if (is_ranked(r)) return kept_ranked(r, logits, score, uniform, free, found, worker);
    return free >= 0 ? free : logits.at_mass(part(uniform, found.mass(r)), score, lowest, found.masses(r));
  }

  // From the smallest beginning of the ranking that holds top_p of what the top_k best have together.
  int32_t kept_ranked(int64_t r, const Logits& logits, const Tempered& score, double uniform, int32_t free,
                      const Findings& found, Worker& worker) const {
    const bool is_limited = this->is_limited(r);
    const int64_t top_k = asked.top_k(r);
    const float* maxima = found.maxima(r);
    auto* room = static_cast<Whole::Room*>(worker.scratch(int64_t(sizeof(Whole::Room)) + (table.size + kFew) * 8));
    const auto draw = [&](const auto& ranking, int64_t total) {
      const Place last = ranking.place(By::kMass, share(r, total) - 1);
      if (free >= 0 && !is_before(score, logits, last.token, free)) return free;
      return ranking.place(By::kMass, part(uniform, last.through)).token;
    };
    for (const int64_t width : {std::min(top_k, kNarrow), std::min(top_k, kFew / 4)}) {
      const Beginning beginning(logits, score, lowest(r), maxima, width, room->keys);
      if (!beginning.fits()) break;
      if (beginning.is_all() || (is_limited && beginning.count() >= top_k))
        return draw(beginning, beginning.mass_of_first(is_limited ? top_k : table.size));
      if (!is_limited && beginning.mass_of_first(table.size) >= share(r, found.mass(r)))
        return draw(beginning, found.mass(r));
    }
    const Whole whole(logits, score, is_limited ? lowest(r) : nucleus_floor(r, found.mass(r)), maxima, room);
    return draw(whole, is_limited ? whole.mass_of_first(top_k) : found.mass(r));
  }

  static bool is_before(const Tempered& score, const Logits& logits, int32_t a, int32_t b) {
    return key_of(score(logits.x[a]), a) < key_of(score(logits.x[b]), b);
  }

  // Tokens that score less are in no nucleus: all of them together have less than half of what top_p leaves out of mass.
  float nucleus_floor(int64_t r, int64_t mass) const {
    const double each = (1 - asked.top_p(r)) * double(mass) / double(2 * table.size) - 1;  // masses are rounded
    return each > 0 ? std::max(lowest(r), float(std::log(each / kWhole))) : lowest(r);
  }

  // top_p of a mass, rounded up: at least 1, at most all.
  int64_t share(int64_t r, int64_t mass) const {
    const double top_p = asked.top_p(r);
    if (!(top_p < 1)) return mass;
    return std::clamp(int64_t(std::ceil(top_p * double(mass))), int64_t(1), mass);
  }

  // The uniform number's part of a mass, rounded down: from 0, and less than all. Its 53 bits count exactly.
  static int64_t part(double uniform, int64_t mass) {
    const auto bits = static_cast<unsigned __int128>(uniform * 0x1p53);
    return int64_t(bits * static_cast<unsigned __int128>(mass) >> 53);
  }

  static constexpr int64_t kNarrow = 32;
};

class DrawSlots final : public Operator {
 public:
  explicit DrawSlots(const Draw<BySlot>& draw) : draw_(draw) {}

  const char* name() const override { return "draw_slots"; }

  bool is_small(const Step& step) const override { return of(step).table.is_little(); }

  void run(const Step& step, Worker& worker) const override {
    Draw<BySlot> draw = of(step);
    run_rows<Draw<BySlot>>(&draw, worker);
  }

 private:
  Draw<BySlot> of(const Step& step) const {
    Draw<BySlot> draw = draw_;
    draw.table.count = step.counts[QUIRE_SEQUENCES];
    return draw;
  }

  Draw<BySlot> draw_;  // of no rows
};

// Of slots that have been asked what they try: that, if it is among what is kept of the tokens that a mask allows, or one
// of these by a second number. The others' logits become -infinity.
struct Redraw : Draw<BySlot> {
  const int32_t* masks;
  int64_t mask_stride;

  void end(int64_t r, const Findings& found, Worker& worker) const {
    const float best_of_all = found.best(r);
    const bool is_drawn = std::isfinite(best_of_all) && !is_greedy(r);
    const int32_t free = is_drawn ? this->free(r, best_of_all, found) : -1;
    keep(r, found.maxima(r));
    const float best = found.best(r);
    if (!std::isfinite(best)) {
      ids[r] = -1;
    } else if (!is_drawn) {
      ids[r] = table.row(r).at_logit(best, found.maxima(r));
    } else {
      if (!is_limited(r)) table.row(r).weigh(0, table.blocks(), score(r, best), lowest(r), found.masses(r));
      ids[r] = kept(r, best, asked.second_uniform(r), free, found, worker);
    }
  }

  void keep(int64_t r, float* maxima) const {
    float* x = const_cast<float*>(table.row(r).x);  // which were given to be changed
    for (int64_t b = 0; b < table.blocks(); ++b) {
      F greatest = broadcast(-kInfinity);
      keep_allowed(x, table.size, masks + r * mask_stride, b,
                   [&](F, F v) { greatest = max(greatest, where_nan(v, broadcast(kInfinity), v)); });
      maxima[b] = max_lanes(greatest);
    }
  }
};

// Log probabilities.
struct Normalised {
  float best, log_sum;

  F operator()(F x) const { return x - broadcast(best) - broadcast(log_sum); }
  float operator()(float x) const { return x - best - log_sum; }
};

struct Score {
  Table table;
  const int32_t* tokens;  // [count, given]
  int64_t given;
  int64_t k;
  int32_t* ids;  // [count, given + k], as values
  float* values;
  int64_t* ranks;  // [count, given]

  void look(int64_t r, int64_t first, int64_t last, float* maxima) const { table.row(r).look(first, last, maxima); }
  bool is_weighed(int64_t) const { return true; }
  Tempered score(int64_t, float best) const { return {best, 1.0f}; }
  float floor(int64_t) const { return kLowestScore; }

  void end(int64_t r, const Findings& found, Worker& worker) const {
    int32_t* id = ids + r * (given + k);
    float* value = values + r * (given + k);
    int64_t* rank = ranks + r * given;
    const float best = found.best(r);
    std::copy_n(tokens + r * given, given, id);
    if (!std::isfinite(best)) {
      for (int64_t i = 0; i < k; ++i) id[given + i] = int32_t(i);
      std::fill_n(value, given + k, std::numeric_limits<float>::quiet_NaN());
      std::fill_n(rank, given, 1);
      return;
    }
    const Logits logits = table.row(r);
    const Normalised log_probability{best, float(std::log(double(found.mass(r)) / kWhole))};
    for (int64_t i = 0; i < given; ++i) {
      value[i] = log_probability(logits.x[id[i]]);
      rank[i] = 1 + logits.count(log_probability, std::nextafter(value[i], kInfinity), found.maxima(r));
    }
    if (k) list_best(logits, log_probability, found.maxima(r), id + given, value + given, worker);
  }

  void list_best(const Logits& logits, const Normalised& log_probability, const float* maxima, int32_t* id,
                 float* value, Worker& worker) const {
    Key* keys = static_cast<Key*>(worker.scratch((table.size + kFew) * 8));
    const Beginning beginning(logits, log_probability, -kInfinity, maxima, k, keys);
    if (!beginning.fits()) {
      int64_t n = 0;
      logits.for_tokens(log_probability, -kInfinity, 0, maxima,
                        [&](int32_t token, float score) { keys[n++] = key_of(score, token); });
      std::partial_sort(keys, keys + k, keys + n);
    }
    for (int64_t i = 0; i < k; ++i) {
      id[i] = token_of(keys[i]);
      value[i] = score_of(keys[i]);
    }
  }
};

bool is_table(const Table& table) {
  return table.count >= 0 && table.size >= 1 && table.size <= kMaxVocabulary && table.stride >= 0;
}

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int quire_draw_tokens(quire_pool* pool, const float* logits, int64_t stride, const int64_t* index, int64_t rows,
                      int64_t size, const quire_draws* draws, int32_t* ids) {
  Draw<ByRow> draw{{logits, stride, rows, size, index}, {*draws}, ids};
  if (!is_table(draw.table)) return QUIRE_BAD_ARGUMENT;
  for (int64_t r = 0; r < rows; ++r) {
    const bool is_sound = draws->temperature[r] >= 0 && draws->log_min_p[r] <= 0 && draws->top_k[r] >= 1 &&
                          draws->top_p[r] > 0 && draws->uniforms[r] >= 0 && draws->uniforms[r] < 1;
    if (!is_sound) return QUIRE_BAD_ARGUMENT;
  }
  run_job(pool, draw);
  return 0;
}

int quire_draw_slots(quire_program* program, const float* logits, int64_t stride, int64_t size,
                     const quire_slot_draws* draws, int32_t* ids) {
  const Draw<BySlot> draw{{logits, stride, 0, size, nullptr}, {*draws}, ids};
  return is_table(draw.table) ? append<DrawSlots>(program, draw) : QUIRE_BAD_ARGUMENT;
}

int quire_redraw_slots(quire_pool* pool, float* logits, int64_t stride, const int64_t* index, int64_t rows, int64_t size,
                       const quire_slot_draws* draws, const int32_t* masks, int64_t mask_stride, int32_t* ids) {
  Redraw redraw{{{logits, stride, rows, size, index}, {*draws}, ids}, masks, mask_stride};
  if (!is_table(redraw.table) || mask_stride < ceil_div(size, 32)) return QUIRE_BAD_ARGUMENT;
  run_job(pool, redraw);
  return 0;
}

int quire_score_tokens(quire_pool* pool, const float* logits, int64_t stride, const int64_t* index, int64_t rows,
                       int64_t size, const int32_t* tokens, int64_t given, int64_t k, int32_t* ids, float* values,
                       int64_t* ranks) {
  Score score{{logits, stride, rows, size, index}, tokens, given, k, ids, values, ranks};
  if (!is_table(score.table) || given < 1 || k < 0 || k > size) return QUIRE_BAD_ARGUMENT;
  for (int64_t i = 0; i < rows * given; ++i)
    if (tokens[i] < 0 || tokens[i] >= size) return QUIRE_BAD_ARGUMENT;
  run_job(pool, score);
  return 0;
}

}  // extern "C"
