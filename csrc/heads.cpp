// What stands between the projections and attention: angles of rotation, and the heads of each row normed, turned and
// put where attention reads them.
//
// Float32 from load to store: a norm's result is not rounded before it turns (the reference operators round it, being
// two). Every head of a row is computed alone, so a row's bits depend on nothing beside it.
//
// Bound: memory, and scattered stores into the pages (a key's pairs lie block pairs apart, a value's features two
// numbers apart); both are under a hundredth of a step's products.
#include <math.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include "mix.h"
#include "program.h"
#include "simd.h"

namespace quire {
namespace {

constexpr int64_t kMaxHeadSize = 512;
constexpr float kMostMixed = 1e30f;  // magnitude of what is mixed: sums of a head's features have room

class Angles final : public Operator {
 public:
  Angles(int rows, const int64_t* positions, const float* inv_freq, int64_t half_size, float factor, float* cos,
         float* sin)
      : rows_(rows), positions_(positions), inv_freq_(inv_freq), half_size_(half_size), factor_(factor), cos_(cos),
        sin_(sin) {}

  const char* name() const override { return "angles"; }

  bool is_small(const Step& step) const override { return step.counts[rows_] * half_size_ <= kSmallValues / 16; }

  // The C library's sine and cosine reduce large arguments exactly, at some ten nanoseconds a pair.
  void run(const Step& step, Worker& worker) const override {
    const int64_t rows = step.counts[rows_], piece = rows_per_piece(rows, worker.count());
    worker.for_each(ceil_div(rows, piece), [&](int64_t i) {
      for (int64_t r = i * piece; r < std::min(rows, (i + 1) * piece); ++r)
        for (int64_t j = 0; j < half_size_; ++j) {
          const float angle = float(positions_[r]) * inv_freq_[j];
          cos_[r * half_size_ + j] = cosf(angle) * factor_;
          sin_[r * half_size_ + j] = sinf(angle) * factor_;
        }
    });
  }

 private:
  int rows_;
  const int64_t* positions_;
  const float* inv_freq_;
  int64_t half_size_;
  float factor_;
  float* cos_;
  float* sin_;
};

// A vector of up to kLanes elements at p: n under kLanes at the end of a row.
template <typename T> F load_some(const T* p, int n) { return n < kLanes ? load_part(p, n) : load_as_float(p); }
template <typename T> void store_some(T* p, F v, int n) {
  if (n < kLanes)
    store_part(p, v, n);
  else
    store_rounded(p, v);
}

// What rounds to no finite number of the type.
inline F overflow(const float*) { return broadcast(std::numeric_limits<float>::infinity()); }
inline F overflow(const bf16*) { return broadcast(0x1.ffp127f); }

// NaN becomes 0 and infinity the largest half-precision number: a page's next owner multiplies what is left there by
// zero, which must give zero.
template <typename T> F storable(F v) {
  const I sign = bit_and(as_int(v), broadcast(int32_t(0x80000000)));
  const F largest = as_float(bit_or(sign, as_int(broadcast(65504.0f))));
  return where_nan(v, zero(), where_less(magnitude(v), overflow(static_cast<const T*>(nullptr)), v, largest));
}

struct Qkv {
  const void* data;
  int64_t stride, heads, kv_heads, size;
};

struct Norms {
  const float* q;  // or NULL
  const float* k;
  float eps;
};

struct Pages {
  void* keys;
  void* values;
  int64_t block;
};

// x as 8-bit integers of one scale, which is returned.
template <typename T> float quantize(const T* x, int64_t size, int8_t* numbers) {
  F greatest = broadcast(1e-30f);
  for (int64_t i = 0; i < size; i += kLanes) greatest = max(greatest, magnitude(load_as_float(x + i)));
  const float scale = max_lanes(greatest) / 127.0f;
  for (int64_t i = 0; i < size; i += kLanes)
    store_i8(numbers + i, to_int_nearest(load_as_float(x + i) / broadcast(scale)));
  return scale;
}

// One key or value of a page, from the head that it is.
inline void put_key(bf16* page, int64_t block, int64_t offset, const bf16* head, int64_t size) {
  for (int64_t i = 0; i < size; i += 2) std::memcpy(page + (i / 2 * block + offset) * 2, head + i, 4);
}
inline void put_key(float* page, int64_t block, int64_t offset, const float* head, int64_t size) {
  for (int64_t i = 0; i < size; ++i) page[i * block + offset] = head[i];
}
// A value's neighbour in a pair may be another thread's: stores of two bytes leave it alone.
inline void put_value(bf16* page, int64_t, int64_t offset, const bf16* head, int64_t size) {
  bf16* to = page + offset / 2 * size * 2 + offset % 2;
  for (int64_t i = 0; i < size; ++i) to[2 * i] = head[i];
}
inline void put_value(float* page, int64_t, int64_t offset, const float* head, int64_t size) {
  std::memcpy(page + offset * size, head, size_t(size) * 4);
}

template <typename T> void put_key(int8_t* page, int64_t block, int64_t offset, const T* head, int64_t size) {
  alignas(64) float mixed[kMaxHeadSize];
  alignas(64) int8_t numbers[kMaxHeadSize];
  const F most = broadcast(kMostMixed), least = broadcast(-kMostMixed);
  for (int64_t i = 0; i < size; i += kLanes) store(mixed + i, max(min(load_as_float(head + i), most), least));
  mix(mixed, size);
  const float scale = quantize(mixed, size, numbers);
  for (int64_t i = 0; i < size; i += 2) std::memcpy(page + (i / 2 * block + offset) * 2, numbers + i, 2);
  std::memcpy(page + size * block + offset * 4, &scale, 4);
}
template <typename T> void put_value(int8_t* page, int64_t block, int64_t offset, const T* head, int64_t size) {
  alignas(64) int8_t numbers[kMaxHeadSize];
  const float scale = quantize(head, size, numbers);
  int8_t* to = page + offset / 2 * size * 2 + offset % 2;
  for (int64_t i = 0; i < size; ++i) to[2 * i] = numbers[i];
  std::memcpy(page + size * block + offset * 4, &scale, 4);
}

// T: the model's type; P: of pages.
template <typename T, typename P> class StoreHeads final : public Operator {
 public:
  StoreHeads(int rows, Qkv qkv, Norms norms, const float* cos, const float* sin, const int64_t* slots, Pages pages,
             void* q_out, int64_t q_stride)
      : rows_(rows), qkv_(qkv), norms_(norms), cos_(cos), sin_(sin), slots_(slots), pages_(pages),
        q_out_(static_cast<T*>(q_out)), q_stride_(q_stride) {}

  const char* name() const override { return "store_heads"; }

  bool is_small(const Step& step) const override {
    return step.counts[rows_] * (qkv_.heads + 2 * qkv_.kv_heads) * qkv_.size <= kSmallValues;
  }

  void run(const Step& step, Worker& worker) const override {
    const int64_t rows = step.counts[rows_], piece = rows_per_piece(rows, worker.count());
    worker.for_each(ceil_div(rows, piece), [&](int64_t i) {
      for (int64_t r = i * piece; r < std::min(rows, (i + 1) * piece); ++r) row(r);
    });
  }

 private:
  static constexpr int64_t kScaleSize = std::is_same_v<P, int8_t> ? 4 : 0;  // of a token's scale, in a page

  void row(int64_t r) const {
    const int64_t size = qkv_.size, half = size / 2, block = pages_.block;
    const T* q = static_cast<const T*>(qkv_.data) + r * qkv_.stride;
    const T* k = q + qkv_.heads * size;
    const T* v = k + qkv_.kv_heads * size;
    const float* cos = cos_ + r * half;
    const float* sin = sin_ + r * half;
    for (int64_t h = 0; h < qkv_.heads; ++h)
      turn<false>(q + h * size, norms_.q, cos, sin, q_out_ + r * q_stride_ + h * size);
    alignas(64) T head[kMaxHeadSize];
    const int64_t head_size = (size + kScaleSize) * block;
    const int64_t page = slots_[r] / block * qkv_.kv_heads * head_size, offset = slots_[r] % block;
    for (int64_t h = 0; h < qkv_.kv_heads; ++h) {
      const int64_t at = page + h * head_size;
      turn<true>(k + h * size, norms_.k, cos, sin, head);
      put_key(static_cast<P*>(pages_.keys) + at, block, offset, head, size);
      for (int64_t i = 0; i < size; i += kLanes) {
        const int n = int(std::min<int64_t>(kLanes, size - i));
        store_some(head + i, storable<T>(load_some(v + h * size + i, n)), n);
      }
      put_value(static_cast<P*>(pages_.values) + at, block, offset, head, size);
    }
  }

  // Feature i turns with feature i + size / 2.
  template <bool kIsKept> void turn(const T* x, const float* weight, const float* cos, const float* sin, T* y) const {
    const int64_t half = qkv_.size / 2;
    const F scale = weight ? broadcast(norm_scale(x)) : zero();
    for (int64_t i = 0; i < half; i += kLanes) {
      const int n = int(std::min<int64_t>(kLanes, half - i));
      F a = load_some(x + i, n), b = load_some(x + half + i, n);
      if (weight) {
        a = a * scale * load_some(weight + i, n);
        b = b * scale * load_some(weight + half + i, n);
      }
      const F c = load_some(cos + i, n), s = load_some(sin + i, n);
      const F first = a * c - b * s, second = b * c + a * s;
      store_some(y + i, kIsKept ? storable<T>(first) : first, n);
      store_some(y + half + i, kIsKept ? storable<T>(second) : second, n);
    }
  }

  float norm_scale(const T* x) const {
    F squares = zero();
    for (int64_t i = 0; i < qkv_.size; i += kLanes) {
      const F v = load_some(x + i, int(std::min<int64_t>(kLanes, qkv_.size - i)));
      squares = fma(v, v, squares);
    }
    return 1.0f / std::sqrt(sum_lanes(squares) / float(qkv_.size) + norms_.eps);
  }

  int rows_;
  Qkv qkv_;
  Norms norms_;
  const float* cos_;
  const float* sin_;
  const int64_t* slots_;
  Pages pages_;
  T* q_out_;
  int64_t q_stride_;
};

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int quire_angles(quire_program* program, int rows, const int64_t* positions, const float* inv_freq, int64_t half_size,
                 float factor, float* cos, float* sin) {
  if (!is_rows(rows) || half_size < 1) return QUIRE_BAD_ARGUMENT;
  return append<Angles>(program, rows, positions, inv_freq, half_size, factor, cos, sin);
}

int quire_store_heads(quire_program* program, int rows, const void* qkv, int64_t qkv_stride, int64_t heads,
                      int64_t kv_heads, int64_t size, const float* q_norm, const float* k_norm, float eps,
                      const float* cos, const float* sin, const int64_t* slots, void* keys, void* values,
                      int64_t block, int dtype, void* q_out, int64_t q_stride, int page_dtype) {
  if (!is_rows(rows) || !is_dtype(dtype) || (page_dtype != dtype && page_dtype != QUIRE_I8) || heads < 1 ||
      kv_heads < 1 || size < 16 || size % 16 != 0 || size > kMaxHeadSize || block < 16 || block % 16 != 0)
    return QUIRE_BAD_ARGUMENT;
  const Qkv in{qkv, qkv_stride, heads, kv_heads, size};
  const Norms norms{q_norm, k_norm, eps};
  const Pages pages{keys, values, block};
  const auto append_one = [&](auto t, auto p) {
    using Op = StoreHeads<decltype(t), decltype(p)>;
    return append<Op>(program, rows, in, norms, cos, sin, slots, pages, q_out, q_stride);
  };
  if (page_dtype == QUIRE_I8) return dtype == QUIRE_F32 ? append_one(float{}, int8_t{}) : append_one(bf16{}, int8_t{});
  return dtype == QUIRE_F32 ? append_one(float{}, float{}) : append_one(bf16{}, bf16{});
}

}  // extern "C"
