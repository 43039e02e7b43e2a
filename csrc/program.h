// A program is a list of operators; an operator is an object that all threads of a pool run together.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "pool.h"
#include "quire.h"

namespace quire {

// What changes from replay to replay.
struct Step {
  int64_t counts[QUIRE_NUM_COUNTS];
};

// One step of a program: addresses and sizes fixed when it is appended.
//
// run() is called on every thread at once. It may share work by for_each once, and again after each barrier of its own;
// the program puts a barrier after every operator. An operator that is small in a step has no barrier of its own, and
// runs on one thread, the last to arrive at the barrier before it: so it costs no meeting of its own.
class Operator {
 public:
  virtual ~Operator() = default;
  virtual const char* name() const = 0;
  virtual void run(const Step& step, Worker& worker) const = 0;
  virtual bool is_small(const Step& step) const {
    (void)step;
    return false;
  }
};

// Values that one thread goes through in less time than threads need to meet.
constexpr int64_t kSmallValues = 4096;

}  // namespace quire

struct quire_program {
  std::vector<std::shared_ptr<const quire::Operator>> operators;  // shared by programs that have parts in common
};

namespace quire {

// Run work(context, worker) on every thread of a pool, outside a program.
void run_on(quire_pool* pool, void (*work)(void*, Worker&), void* context);
// The same on the caller's thread alone.
void run_alone_on(quire_pool* pool, void (*work)(void*, Worker&), void* context);

// Append an Op made of these arguments; what an extern "C" function returns.
template <typename Op, typename... Args> int append(quire_program* program, Args&&... args) {
  try {
    program->operators.push_back(std::make_shared<Op>(std::forward<Args>(args)...));
    return 0;
  } catch (const std::bad_alloc&) {
    return QUIRE_NO_MEMORY;
  }
}

inline bool is_rows(int rows) { return rows >= 0 && rows < QUIRE_NUM_COUNTS; }
inline bool is_dtype(int dtype) { return dtype == QUIRE_F32 || dtype == QUIRE_BF16; }
inline int64_t size_of(int dtype) { return dtype == QUIRE_F32 ? 4 : 2; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// More values than any memory holds, and few enough to count the bytes of.
constexpr int64_t kMostValues = int64_t(1) << 52;
inline bool is_size(int64_t rows, int64_t columns) { return rows > 0 && columns > 0 && rows <= kMostValues / columns; }
// Of plain numbers. A pair of bfloat16 is one lane of a product.
inline bool is_matrix(int64_t num_out, int64_t num_in, int dtype) {
  return is_dtype(dtype) && is_size(num_out, num_in) && (dtype != QUIRE_BF16 || num_in % 2 == 0);
}

// Rows in a piece of work whose rows are cheap: enough to pay for fetching it, few enough to share them out.
inline int64_t rows_per_piece(int64_t rows, int threads) {
  const int64_t even = ceil_div(rows, int64_t(threads) * 4);
  return even < 1 ? 1 : even > 32 ? 32 : even;
}

}  // namespace quire
