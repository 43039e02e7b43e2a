// Integer dot products of weights in blocks with rounded rows, four k in each lane.
#pragma once

#include "simd.h"

namespace quire {

// Sums of products of four numbers in each lane: of w, unsigned bytes below 2^bits, and of a quad of a, numbers in
// -127 .. 127 that all lanes share. Exact.
//
// part = begin(acc), up to kQuads times part = add(part, w, a), acc = end(acc, part): what is summed in 16 bits has room for
// a few only. g++ would put off the additions, and all products into memory, did it know what they are: hence in_order.
template <int bits> struct Dot4 {
  using Number = int8_t;
  using Quad = I;
  static void store_numbers(Number* p, I v) { store_i8(p, v); }
  static Quad quad(const Number* p) { return broadcast_word(p); }
#if defined(__AVX512VNNI__)
  static constexpr int kQuads = 64;
  static I begin(I acc) { return acc; }
  static I add(I part, I w, Quad a) { return dot4(part, w, a); }
  static I end(I, I part) { return part; }
#else
  static constexpr int kQuads = 32767 / (2 * 127 * ((1 << bits) - 1));
  static I begin(I) { return broadcast(0); }
  static I add(I part, I w, Quad a) { return in_order(add_i16(part, multiply_add_i8(w, a))); }
  static I end(I acc, I part) { return quire::add(acc, multiply_add_i16(part, broadcast(0x10001))); }
#endif
};

#if !defined(__AVX512VNNI__)
// Two products of 8 bits do not fit into 16: a is kept in 16 bits, numbers 0, 2, 1, 3 of each quad.
template <> struct Dot4<8> {
  using Number = int16_t;
  struct Quad {
    I even, odd;
  };
  static void store_numbers(Number* p, I v) { store_i16_even_odd(p, v); }
  static Quad quad(const Number* p) { return {broadcast_word(p), broadcast_word(p + 2)}; }
  static constexpr int kQuads = 64;
  static I begin(I acc) { return acc; }
  static I add(I part, I w, Quad a) {
    const I even = multiply_add_i16(bit_and(w, broadcast(0x00ff00ff)), a.even);
    return in_order(quire::add(part, quire::add(even, multiply_add_i16(shift_right_i16<8>(w), a.odd))));
  }
  static I end(I, I part) { return part; }
};
#endif

}  // namespace quire
