// What becomes of a product's sums: shared by all matrix products, whatever their weights.
//
// A product hands over one tile of columns for some rows at a time, as float32 sums, from whichever thread computed it.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>

#include "program.h"
#include "simd.h"

namespace quire {

// Rows lie far apart, and a store that finds its line nowhere near holds up those behind it.
constexpr int64_t kRowsAhead = 8;

class Output {
 public:
  virtual ~Output() = default;
  // sums [rows, stride], of which width columns count, are rows first_row .. and columns column .. of the product.
  virtual void take(const float* sums, int64_t stride, int64_t rows, int64_t first_row, int64_t column,
                    int64_t width) const = 0;
  // After a barrier that follows the product, where the kind needs it.
  virtual bool has_end() const { return false; }
  virtual void end(int64_t rows, Worker& worker) const { (void)rows, (void)worker; }
};

inline F capped(F v, float softcap) { return softcap == 0 ? v : broadcast(softcap) * tanh(v / broadcast(softcap)); }

// y = cap(sum + bias) + residual, rounded once. T: dtype of bias and residual, Y: of y.
template <typename T, typename Y> class Stored final : public Output {
 public:
  explicit Stored(const quire_output& o)
      : y_(static_cast<Y*>(o.y)), y_stride_(o.y_stride), bias_(static_cast<const T*>(o.bias)),
        residual_(static_cast<const T*>(o.residual)), residual_stride_(o.residual_stride), softcap_(o.softcap) {}

  void take(const float* sums, int64_t stride, int64_t rows, int64_t first_row, int64_t column,
            int64_t width) const override {
    for (int64_t r = 0; r < rows; ++r) {
      prefetch_to_write(y_ + (first_row + std::min(r + kRowsAhead, rows - 1)) * y_stride_ + column);
      row(sums + r * stride, first_row + r, column, width);
    }
  }

 private:
  void row(const float* sums, int64_t row, int64_t column, int64_t width) const {
    Y* y = y_ + row * y_stride_ + column;
    const T* bias = bias_ ? bias_ + column : nullptr;
    const T* residual = residual_ ? residual_ + row * residual_stride_ + column : nullptr;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      F v = load(sums + i);
      if (bias) v = v + load_as_float(bias + i);
      v = capped(v, softcap_);
      if (residual) v = v + load_as_float(residual + i);
      store_rounded(y + i, v);
    }
    if (const int n = int(width - i)) {
      F v = load(sums + i);
      if (bias) v = v + load_part(bias + i, n);
      v = capped(v, softcap_);
      if (residual) v = v + load_part(residual + i, n);
      store_part(y + i, v, n);
    }
  }

  Y* y_;
  int64_t y_stride_;
  const T* bias_;
  const T* residual_;
  int64_t residual_stride_;
  float softcap_;
};

// The greatest of each row, the lowest column among equals. Each tile leaves its best; at the end a row's are compared.
class Likeliest final : public Output {
 public:
  Likeliest(const quire_output& o, int64_t num_out, int64_t tile_width)
      : ids_(o.ids), bests_(static_cast<Best*>(o.workspace)), softcap_(o.softcap),
        tile_width_(tile_width), tiles_(ceil_div(num_out, tile_width)) {}

  void take(const float* sums, int64_t stride, int64_t rows, int64_t first_row, int64_t column,
            int64_t width) const override {
    for (int64_t r = 0; r < rows; ++r)
      bests_[(first_row + r) * tiles_ + column / tile_width_] = best_of(sums + r * stride, column, width);
  }

  bool has_end() const override { return true; }

  void end(int64_t rows, Worker& worker) const override {
    worker.for_each(rows, [&](int64_t r) {
      Best best = bests_[r * tiles_];
      for (int64_t t = 1; t < tiles_; ++t) best = better(best, bests_[r * tiles_ + t]);
      ids_[r] = best.value > -std::numeric_limits<float>::infinity() && best.id >= 0 ? best.id : -1;
    });
  }

 private:
  struct Best {
    float value;
    int32_t id;  // -1: the row is not sound
  };

  static Best better(Best a, Best b) {
    if (a.id < 0 || b.id < 0) return {0, -1};
    return b.value > a.value ? b : a;  // columns come in order, so equals keep the lower one
  }

  Best best_of(const float* sums, int64_t column, int64_t width) const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    float values[kMaxWidth];
    F greatest = broadcast(-kInfinity);
    const auto look = [&](int64_t i) {
      const F v = load(values + i);
      greatest = max(greatest, where_nan(v, broadcast(kInfinity), v));
    };
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      store(values + i, capped(load(sums + i), softcap_));
      look(i);
    }
    if (const int n = int(width - i)) {
      store(values + i, capped(load_part(sums + i, n), softcap_));
      std::fill_n(values + width, kLanes - n, -kInfinity);
      look(i);
    }
    const float value = max_lanes(greatest);
    if (value == kInfinity) return {0, -1};
    int64_t at = 0;
    uint32_t bits;
    while (!(bits = bits_at_least(load(values + at), broadcast(value)))) at += kLanes;
    return {value, int32_t(column + at + __builtin_ctz(bits))};
  }

  static constexpr int64_t kMaxWidth = 64;

  int32_t* ids_;
  Best* bests_;
  float softcap_;
  int64_t tile_width_, tiles_;
};

// The output that o asks for, of a product whose bias and residual are of dtype; NULL if it makes no sense.
inline std::unique_ptr<Output> make_output(const quire_output& o, int64_t num_out, int64_t tile_width, int dtype) {
  if (!is_dtype(dtype)) return nullptr;
  if (o.kind == QUIRE_LIKELIEST) {
    if (!o.ids || !o.workspace || o.bias || o.residual) return nullptr;
    return std::make_unique<Likeliest>(o, num_out, tile_width);
  }
  if (o.kind != QUIRE_STORE || !o.y || !is_dtype(o.dtype)) return nullptr;
  if (dtype == QUIRE_F32) {
    if (o.dtype != QUIRE_F32) return nullptr;
    return std::make_unique<Stored<float, float>>(o);
  }
  if (o.dtype == QUIRE_F32) return std::make_unique<Stored<bf16, float>>(o);
  return std::make_unique<Stored<bf16, bf16>>(o);
}

}  // namespace quire
