// Operators that look at one row at a time: norms and gated activations. Float32 inside, rounded once.
//
// Bound: memory; beside the matrix products they are small, and what matters is to share rows evenly.
#include <algorithm>

#include "program.h"
#include "simd.h"

namespace quire {
namespace {

template <typename T> class RMSNorm final : public Operator {
 public:
  RMSNorm(int rows, const void* x, int64_t x_stride, int64_t size, const float* weight, float eps,
          const void* residual, int64_t residual_stride, void* y, int64_t y_stride)
      : rows_(rows), x_(static_cast<const T*>(x)), x_stride_(x_stride), size_(size), weight_(weight), eps_(eps),
        residual_(static_cast<const T*>(residual)), residual_stride_(residual_stride), y_(static_cast<T*>(y)),
        y_stride_(y_stride) {}

  const char* name() const override { return "rms_norm"; }

  bool is_small(const Step& step) const override { return step.counts[rows_] * size_ <= kSmallValues; }

  void run(const Step& step, Worker& worker) const override {
    const int64_t rows = step.counts[rows_], piece = rows_per_piece(rows, worker.count());
    worker.for_each(ceil_div(rows, piece), [&](int64_t i) {
      for (int64_t r = i * piece; r < std::min(rows, (i + 1) * piece); ++r)
        norm(x_ + r * x_stride_, residual_ ? residual_ + r * residual_stride_ : nullptr, y_ + r * y_stride_);
    });
  }

 private:
  void norm(const T* x, const T* residual, T* y) const {
    F squares = zero();
    int64_t i = 0;
    for (; i + kLanes <= size_; i += kLanes) {
      const F v = load_as_float(x + i);
      squares = fma(v, v, squares);
    }
    const int rest = int(size_ - i);
    const F last = rest ? load_part(x + i, rest) : zero();
    squares = fma(last, last, squares);
    const F scale = broadcast(1.0f / std::sqrt(sum_lanes(squares) / float(size_) + eps_));
    for (i = 0; i + kLanes <= size_; i += kLanes) {
      F v = load_as_float(x + i) * scale * load(weight_ + i);
      if (residual) v = v + load_as_float(residual + i);
      store_rounded(y + i, v);
    }
    if (rest) {
      F v = last * scale * load_part(weight_ + i, rest);
      if (residual) v = v + load_part(residual + i, rest);
      store_part(y + i, v, rest);
    }
  }

  int rows_;
  const T* x_;
  int64_t x_stride_, size_;
  const float* weight_;
  float eps_;
  const T* residual_;
  int64_t residual_stride_;
  T* y_;
  int64_t y_stride_;
};

class TakeRows final : public Operator {
 public:
  TakeRows(int rows, const void* x, int64_t x_stride, const int64_t* index, int64_t row_bytes, void* y, int64_t y_stride)
      : rows_(rows), x_(static_cast<const char*>(x)), x_stride_(x_stride), index_(index), row_bytes_(row_bytes),
        y_(static_cast<char*>(y)), y_stride_(y_stride) {}

  const char* name() const override { return "take_rows"; }

  bool is_small(const Step& step) const override { return step.counts[rows_] * row_bytes_ <= 4 * kSmallValues; }

  void run(const Step& step, Worker& worker) const override {
    worker.for_each(step.counts[rows_], [&](int64_t i) {
      std::memcpy(y_ + i * y_stride_, x_ + index_[i] * x_stride_, size_t(row_bytes_));
    });
  }

 private:
  int rows_;
  const char* x_;
  int64_t x_stride_;  // in bytes, as y_stride_
  const int64_t* index_;
  int64_t row_bytes_;
  char* y_;
  int64_t y_stride_;
};

template <typename T>
int append_norm(quire_program* program, int rows, const void* x, int64_t x_stride, int64_t size, const float* weight,
                float eps, const void* residual, int64_t residual_stride, void* y, int64_t y_stride) {
  return append<RMSNorm<T>>(program, rows, x, x_stride, size, weight, eps, residual, residual_stride, y, y_stride);
}

F activate(F gate, int activation) {
  const F one = broadcast(1.0f);
  if (activation == QUIRE_SILU) return gate / (one + exp(zero() - gate));
  const F inner = fma(gate * gate * gate, broadcast(0.044715f), gate) * broadcast(0.7978845608f);
  return broadcast(0.5f) * gate * (one + tanh(inner));
}

template <typename T> class Gated final : public Operator {
 public:
  Gated(int rows, const void* x, int64_t x_stride, int64_t size, int activation, void* y, int64_t y_stride)
      : rows_(rows), x_(static_cast<const T*>(x)), x_stride_(x_stride), size_(size), activation_(activation),
        y_(static_cast<T*>(y)), y_stride_(y_stride) {}

  const char* name() const override { return "gated"; }

  bool is_small(const Step& step) const override { return step.counts[rows_] * size_ <= kSmallValues / 2; }

  void run(const Step& step, Worker& worker) const override {
    // A row of one token is shared too: pieces are parts of rows.
    constexpr int64_t kPiece = 512;
    const int64_t pieces = ceil_div(size_, kPiece);
    worker.for_each(step.counts[rows_] * pieces, [&](int64_t i) {
      const int64_t begin = i % pieces * kPiece;
      gate(x_ + i / pieces * x_stride_ + begin, y_ + i / pieces * y_stride_ + begin, std::min(kPiece, size_ - begin));
    });
  }

 private:
  void gate(const T* x, T* y, int64_t size) const {
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes)
      store_rounded(y + i, activate(load_as_float(x + i), activation_) * load_as_float(x + size_ + i));
    if (const int rest = int(size - i))
      store_part(y + i, activate(load_part(x + i, rest), activation_) * load_part(x + size_ + i, rest), rest);
  }

  int rows_;
  const T* x_;
  int64_t x_stride_, size_;
  int activation_;
  T* y_;
  int64_t y_stride_;
};

}  // namespace
}  // namespace quire

using namespace quire;

extern "C" {

int quire_rms_norm(quire_program* program, int rows, const void* x, int64_t x_stride, int64_t size,
                   const float* weight, float eps, const void* residual, int64_t residual_stride, int dtype, void* y,
                   int64_t y_stride) {
  if (!is_rows(rows) || !is_dtype(dtype) || size < 1) return QUIRE_BAD_ARGUMENT;
  const auto add = dtype == QUIRE_F32 ? append_norm<float> : append_norm<bf16>;
  return add(program, rows, x, x_stride, size, weight, eps, residual, residual_stride, y, y_stride);
}

int quire_take_rows(quire_program* program, int rows, const void* x, int64_t x_stride, const int64_t* index,
                    int64_t size, int dtype, void* y, int64_t y_stride) {
  if (!is_rows(rows) || !is_dtype(dtype) || size < 1) return QUIRE_BAD_ARGUMENT;
  const int64_t width = size_of(dtype);
  return append<TakeRows>(program, rows, x, x_stride * width, index, size * width, y, y_stride * width);
}

int quire_gated(quire_program* program, int rows, const void* x, int64_t x_stride, int64_t size, int activation,
                int dtype, void* y, int64_t y_stride) {
  if (!is_rows(rows) || !is_dtype(dtype) || size < 1 || activation < QUIRE_SILU || activation > QUIRE_GELU_TANH)
    return QUIRE_BAD_ARGUMENT;
  if (dtype == QUIRE_F32) return append<Gated<float>>(program, rows, x, x_stride, size, activation, y, y_stride);
  return append<Gated<bf16>>(program, rows, x, x_stride, size, activation, y, y_stride);
}

}  // extern "C"
