// Hadamard's transform of a head: an orthogonal change of basis, so that products of two mixed vectors are what they were.
//
// A head's few great features are spread over all of them. That makes its greatest magnitude some 2.5 times the usual
// one, where it is 4 to 11 times in real models' keys; and it is the greatest that decides how fine the steps of 8 bits
// are.
//
// Of each run of n features, the largest power of two that divides the size: log2 n rounds of sums and differences of
// features 1, 2, 4, ... apart, then a product by n^-1/2. No sum is of more than two, so there is one result at all levels.
// Source: Ashkboos et al. 2024 (QuaRot).
#pragma once

#include <cmath>

#include "simd.h"

namespace quire {

// A round of neighbours in one vector: the lower one becomes their sum, the upper one their difference.
template <int kApart> inline F mix_near(F v) {
  float signs[kLanes];
  for (int i = 0; i < kLanes; ++i) signs[i] = i / kApart % 2 ? -1 : 1;
  return fma(v, load(signs), neighbours<kApart>(v));
}
inline F mix_near(F v) {
  v = mix_near<2>(mix_near<1>(v));
  if constexpr (kLanes > 4) v = mix_near<4>(v);
  if constexpr (kLanes > 8) v = mix_near<8>(v);
  return v;
}

// In place; size is a multiple of 16.
inline void mix(float* x, int64_t size) {
  const int64_t run = size & -size;
  for (int64_t i = 0; i < size; i += kLanes) store(x + i, mix_near(load(x + i)));
  for (int64_t apart = kLanes; apart < run; apart *= 2)
    for (int64_t i = 0; i < size; i += 2 * apart)
      for (int64_t j = i; j < i + apart; j += kLanes) {
        const F a = load(x + j), b = load(x + j + apart);
        store(x + j, a + b);
        store(x + j + apart, a - b);
      }
  const F share = broadcast(float(1.0 / std::sqrt(double(run))));
  for (int64_t i = 0; i < size; i += kLanes) store(x + i, load(x + i) * share);
}

}  // namespace quire
