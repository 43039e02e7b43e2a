// A row of logits, one a token, in blocks: the greatest logit of each block, and how much probability it holds.
//
// Probability is counted in integers, *masses*: the likeliest token has 2^42, another one e^s times that, rounded. Sums
// of integers do not depend on their order, so no number of threads can change what is drawn. A token below 2^-43 of the
// likeliest one has no mass; 2^20 tokens have 2^62 at most.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "program.h"
#include "simd.h"

namespace quire {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 64;             // tokens
constexpr int64_t kFewLogits = 64 * 1024;  // about 30 us of work
constexpr int64_t kMaxVocabulary = int64_t(1) << 20;
constexpr float kWhole = 0x1p42f;          // mass of the likeliest token
constexpr float kLowestScore = -32;        // and below: no mass

// Logits less the greatest, over the temperature: 0 and below.
struct Tempered {
  float best, temperature;

  F operator()(F x) const { return (x - broadcast(best)) / broadcast(temperature); }
  float operator()(float x) const { return (x - best) / temperature; }
};

// Masses of scores; below floor (at least kLowestScore) there is none.
inline Wide masses_of(F score, float floor) {
  return to_wide(where_less(score, broadcast(floor), zero(), exp2(score * broadcast(1.44269504f)) * broadcast(kWhole)));
}

alignas(64) constexpr int32_t kLaneBits[16] = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                               1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};

// v, which are logits from first on; -infinity what the mask does not allow. A word of 32 bits is spread over lanes: each
// keeps its own bit, and compares it with 0.
inline F allowed(F v, const int32_t* mask, int64_t first) {
  const int32_t word = int32_t(uint32_t(mask[first / 32]) >> (first % 32));
  return where_less(zero(), to_float(bit_and(broadcast(word), load(kLaneBits))), v, broadcast(-kInfinity));
}

struct Logits {
  const float* x;
  int64_t size;

  int64_t blocks() const { return ceil_div(size, kBlock); }

  // body(v, first, n): vectors of a block. Lanes from n on are -infinity.
  template <typename Body> void for_vectors(int64_t block, const Body& body) const {
    const int64_t end = std::min(size, (block + 1) * kBlock);
    int64_t i = block * kBlock;
    for (; i + kLanes <= end; i += kLanes) body(load(x + i), i, kLanes);
    if (i < end) {
      float rest[kLanes];
      std::fill_n(rest, kLanes, -kInfinity);
      std::copy(x + i, x + end, rest);
      body(load(rest), i, int(end - i));
    }
  }

  // The greatest of each block, [blocks]; infinity for one that holds NaN.
  void look(int64_t first, int64_t last, float* maxima) const {
    for (int64_t b = first; b < last; ++b) {
      F greatest = broadcast(-kInfinity);
      for_vectors(b, [&](F v, int64_t, int) { greatest = max(greatest, where_nan(v, broadcast(kInfinity), v)); });
      maxima[b] = max_lanes(greatest);
    }
  }

  // The mass of each block, [blocks].
  void weigh(int64_t first, int64_t last, const Tempered& score, float floor, int64_t* masses) const {
    for (int64_t b = first; b < last; ++b) {
      Wide sum = wide_zero();
      for_vectors(b, [&](F v, int64_t, int) { sum = add(sum, masses_of(score(v), floor)); });
      masses[b] = sum_lanes(sum);
    }
  }

  // The first token at which the masses, summed in the order of ids, exceed target.
  int32_t at_mass(int64_t target, const Tempered& score, float floor, const int64_t* masses) const {
    int64_t block = 0;
    for (; target >= masses[block]; ++block) target -= masses[block];
    int32_t token = -1;
    for_vectors(block, [&](F v, int64_t first, int n) {
      if (token >= 0) return;
      int64_t mass[kLanes];
      store(mass, masses_of(score(v), floor));
      for (int i = 0; i < n; ++i) {
        if (target < mass[i]) {
          token = int32_t(first + i);
          return;
        }
        target -= mass[i];
      }
    });
    return token;
  }

  // The mass of all tokens that score floor or more.
  int64_t mass(const Tempered& score, float floor, const float* maxima) const {
    Wide sum = wide_zero();
    for (int64_t b = 0; b < blocks(); ++b) {
      if (!(score(maxima[b]) >= floor)) continue;
      for_vectors(b, [&](F v, int64_t, int) { sum = add(sum, masses_of(score(v), floor)); });
    }
    return sum_lanes(sum);
  }

  // The first token whose logit is best, the greatest.
  int32_t at_logit(float best, const float* maxima) const {
    int64_t i = (std::find(maxima, maxima + blocks(), best) - maxima) * kBlock;
    while (x[i] != best) ++i;
    return int32_t(i);
  }

  // The number of tokens that score floor or more.
  template <typename Score> int64_t count(const Score& score, float floor, const float* maxima) const {
    int64_t sum = 0;
    for (int64_t b = 0; b < blocks(); ++b) {
      if (!(score(maxima[b]) >= floor)) continue;
      for_vectors(b, [&](F v, int64_t, int) { sum += __builtin_popcount(bits_at_least(score(v), broadcast(floor))); });
    }
    return sum;
  }

  // body(token, score) for each token that scores from floor to ceiling. Blocks below are not looked at.
  template <typename Score, typename Body>
  void for_tokens(const Score& score, float floor, float ceiling, const float* maxima, const Body& body) const {
    for (int64_t b = 0; b < blocks(); ++b) {
      if (!(score(maxima[b]) >= floor)) continue;
      for_vectors(b, [&](F v, int64_t first, int n) {
        const F scores = score(v);
        uint32_t bits = bits_at_least(scores, broadcast(floor)) & bits_at_least(broadcast(ceiling), scores);
        bits &= (1u << n) - 1;
        if (!bits) return;
        float values[kLanes];
        store(values, scores);
        for (; bits; bits &= bits - 1) {
          const int i = __builtin_ctz(bits);
          body(int32_t(first + i), values[i]);
        }
      });
    }
  }
};

// Set to -infinity what the mask does not allow of a block; see(before, after) each of its vectors.
template <typename See>
void keep_allowed(float* x, int64_t size, const int32_t* mask, int64_t block, const See& see) {
  Logits{x, size}.for_vectors(block, [&](F v, int64_t first, int n) {
    const F kept = allowed(v, mask, first);
    see(v, kept);
    if (n == kLanes) store(x + first, kept);
    else store_part(x + first, kept, n);
  });
}

}  // namespace quire
