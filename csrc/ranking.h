// Tokens in the order of their scores, best first and the lowest id among equals, as far as somebody needs it.
//
// A token's *key* is its score's distance from 0, as a float's bits (which are ordered as floats of one sign are), above
// its id: keys are unique, and the smallest is the best. Nothing sorts a vocabulary. To find where the masses, summed in
// this order, pass a target, tokens are counted in buckets of scores, then only those of one bucket in finer ones, until
// few are left.
#pragma once

#include <cstring>

#include "vocabulary.h"

namespace quire {

using Key = uint64_t;

inline Key key_of(float score, int32_t token) {
  uint32_t bits;
  std::memcpy(&bits, &score, 4);
  return Key(bits & 0x7fffffff) << 32 | uint32_t(token);
}
inline uint32_t distance_of(Key key) { return uint32_t(key >> 32); }
inline int32_t token_of(Key key) { return int32_t(uint32_t(key)); }
inline float score_of(Key key) {
  const uint32_t bits = distance_of(key);
  float distance;
  std::memcpy(&distance, &bits, 4);
  return 0 - distance;
}

constexpr int64_t kFew = 1024;  // keys that are sorted rather than counted

// body(key, mass) for keys in their order, until it says false.
template <typename Body> void for_masses(const Key* keys, int64_t n, float floor, const Body& body) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = int(std::min<int64_t>(kLanes, n - i));
    float scores[kLanes] = {};
    int64_t masses[kLanes];
    for (int j = 0; j < count; ++j) scores[j] = score_of(keys[i + j]);
    store(masses, masses_of(load(scores), floor));
    for (int j = 0; j < count; ++j)
      if (!body(keys[i + j], masses[j])) return;
  }
}

// A place in a ranking, and the mass of all tokens up to it, its own included.
struct Place {
  int32_t token;
  int64_t through;
};

enum class By { kCount, kMass };

// The first place at which the count or the mass exceeds target, among sorted keys that reach so far.
inline Place place_in(const Key* keys, int64_t n, float floor, By by, int64_t target, int64_t before = 0) {
  Place place{-1, before};
  int64_t seen = 0;
  for_masses(keys, n, floor, [&](Key key, int64_t mass) {
    place.token = token_of(key);
    place.through += mass;
    return (by == By::kCount ? ++seen : seen += mass) <= target;
  });
  return place;
}

// The beginning of a ranking, sorted.
class Beginning {
 public:
  // The tokens that score pivot or more, at least width of them unless floor is above; keys has room for kFew.
  template <typename Score>
  Beginning(const Logits& logits, const Score& score, float floor, const float* maxima, int64_t width, Key* keys)
      : keys_(keys), floor_(floor) {
    const float pivot = std::max(floor, pivot_of(logits, score, maxima, width, reinterpret_cast<float*>(keys)));
    is_all_ = pivot == floor;
    logits.for_tokens(score, pivot, 0, maxima, [&](int32_t token, float value) {
      if (count_ < kFew) keys[count_] = key_of(value, token);
      ++count_;
    });
    if (fits()) std::sort(keys, keys + count_);
  }

  bool fits() const { return count_ <= kFew; }
  bool is_all() const { return is_all_; }  // of what scores floor or more
  int64_t count() const { return count_; }
  const Key* keys() const { return keys_; }
  Place place(By by, int64_t target) const { return place_in(keys_, count_, floor_, by, target); }
  int64_t mass_of_first(int64_t n) const { return place(By::kCount, std::min(n, count_) - 1).through; }

 private:
  // That many blocks have a token that scores as much: so many tokens do, and seldom many more.
  template <typename Score>
  static float pivot_of(const Logits& logits, const Score& score, const float* maxima, int64_t width, float* scores) {
    const int64_t blocks = logits.blocks();
    if (width > blocks) return -kInfinity;
    for (int64_t b = 0; b < blocks; ++b) scores[b] = score(maxima[b]);
    std::nth_element(scores, scores + width - 1, scores + blocks, std::greater<float>());
    return scores[width - 1];
  }

  const Key* keys_;
  int64_t count_ = 0;
  float floor_;
  bool is_all_;
};

// All of a ranking, counted.
class Whole {
 public:
  static constexpr int64_t kBucketsPerUnit = 64;
  static constexpr int64_t kBuckets = kBucketsPerUnit * int64_t(-kLowestScore) + 1;
  struct Bucket {
    int64_t count, mass;
  };
  struct Room {
    Bucket buckets[kBuckets], finer[kBuckets];
    Key keys[1];  // [size]
  };

  Whole(const Logits& logits, const Tempered& score, float floor, const float* maxima, Room* room)
      : logits_(logits), score_(score), floor_(floor), maxima_(maxima), room_(room) {
    std::fill_n(room->buckets, kBuckets, Bucket{});
    for (int64_t b = 0; b < logits.blocks(); ++b) {
      if (!(score(maxima[b]) >= floor)) continue;
      logits.for_vectors(b, [&](F v, int64_t, int) { count(score(v)); });
    }
    for (const Bucket& bucket : room_->buckets) all_.count += bucket.count, all_.mass += bucket.mass;
  }

  // The first place at which the count or the mass exceeds target.
  Place place(By by, int64_t target) const {
    int64_t before = 0;
    const int64_t found = find(room_->buckets, by, target, before);
    const float nearest = float(found) / kBucketsPerUnit, beyond = float(found + 1) / kBucketsPerUnit;
    int64_t n = 0;
    logits_.for_tokens(score_, std::max(floor_, std::nextafter(-beyond, 0.0f)), -nearest, maxima_,
                       [&](int32_t token, float value) { room_->keys[n++] = key_of(value, token); });
    return place_among(n, by, target, before);
  }

  int64_t mass_of_first(int64_t n) const { return n >= all_.count ? all_.mass : place(By::kCount, n - 1).through; }

 private:
  void count(F scores) {
    int32_t places[kLanes];
    int64_t masses[kLanes];
    store(places, to_int_down((zero() - scores) * broadcast(float(kBucketsPerUnit))));
    store(masses, masses_of(scores, floor_));
    const auto take = [&](int i) {
      Bucket& bucket = room_->buckets[places[i]];
      ++bucket.count;
      bucket.mass += masses[i];
    };
    uint32_t bits = bits_at_least(scores, broadcast(floor_));
    if (bits == (1u << kLanes) - 1) {
      for (int i = 0; i < kLanes; ++i) take(i);
    } else {
      for (; bits; bits &= bits - 1) take(__builtin_ctz(bits));
    }
  }

  // The bucket in which the sum exceeds target; what comes before is taken from target, its mass added to before.
  static int64_t find(const Bucket* buckets, By by, int64_t& target, int64_t& before) {
    int64_t i = 0;
    for (;; ++i) {
      const int64_t amount = by == By::kCount ? buckets[i].count : buckets[i].mass;
      if (amount > target) return i;
      target -= amount;
      before += buckets[i].mass;
    }
  }

  // Among the n keys there are, in the order of ids.
  Place place_among(int64_t n, By by, int64_t target, int64_t before) const {
    Key* keys = room_->keys;
    while (n > kFew) {
      uint32_t nearest = distance_of(keys[0]), farthest = nearest;
      for (int64_t i = 1; i < n; ++i) {
        nearest = std::min(nearest, distance_of(keys[i]));
        farthest = std::max(farthest, distance_of(keys[i]));
      }
      if (nearest == farthest) return place_among_equals(by, target, before);
      int shift = 0;
      while ((farthest - nearest) >> shift >= kBuckets) ++shift;
      const auto bucket_of = [&](Key key) { return int64_t((distance_of(key) - nearest) >> shift); };
      std::fill_n(room_->finer, kBuckets, Bucket{});
      for_masses(keys, n, floor_, [&](Key key, int64_t mass) {
        Bucket& bucket = room_->finer[bucket_of(key)];
        ++bucket.count;
        bucket.mass += mass;
        return true;
      });
      const int64_t found = find(room_->finer, by, target, before);
      n = std::remove_if(keys, keys + n, [&](Key key) { return bucket_of(key) != found; }) - keys;
    }
    std::sort(keys, keys + n);
    return place_in(keys, n, floor_, by, target, before);
  }

  Place place_among_equals(By by, int64_t target, int64_t before) const {
    const int64_t mass = place_in(room_->keys, 1, floor_, By::kCount, 0).through;
    const int64_t i = by == By::kCount ? target : target / mass;
    return {token_of(room_->keys[i]), before + (i + 1) * mass};
  }

  const Logits& logits_;
  const Tempered& score_;
  float floor_;
  const float* maxima_;
  Room* room_;
  Bucket all_{};
};

}  // namespace quire
