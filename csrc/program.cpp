#include "program.h"

#include <sys/mman.h>

#include <chrono>
#include <new>
#include <system_error>

using quire::Pool;
using quire::Step;
using quire::Worker;

struct quire_pool {
  Pool pool;
  explicit quire_pool(int num_threads) : pool(num_threads) {}
};

namespace {

struct Run {
  const quire_program* program;
  Step step;
  int64_t* times;  // or NULL
  int64_t last;    // when the operator before ended; written by whoever finishes it
};

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Small operators join the barrier of the one before them, the first ones one of their own. A thread that comes late
// begins at the operator that the others are at.
void run_on_thread(void* context, Worker& worker) {
  Run& run = *static_cast<Run*>(context);
  const auto& operators = run.program->operators;
  const size_t count = operators.size();
  const auto note = [&](size_t i) {
    if (!run.times) return;
    const int64_t now = now_ns();
    run.times[i] += now - run.last;
    run.last = now;
  };
  for (size_t i = worker.place(); i < count;) {
    const bool is_shared = !operators[i]->is_small(run.step);
    const size_t first = i, small = is_shared ? i + 1 : i;
    if (is_shared) operators[i]->run(run.step, worker);
    for (i = small; i < count && operators[i]->is_small(run.step);) ++i;
    worker.barrier([&](Worker& alone) {
      if (is_shared) note(first);
      for (size_t j = small; j < i; ++j) {
        operators[j]->run(run.step, alone);
        note(j);
      }
      alone.say_next(uint32_t(i));
    });
  }
}

int run_program(quire_pool* pool, const quire_program* program, const int64_t* counts, int64_t* times) {
  Run run{program, {}, times, times ? now_ns() : 0};
  for (int i = 0; i < QUIRE_NUM_COUNTS; ++i) {
    if (counts[i] < 0) return QUIRE_BAD_ARGUMENT;
    run.step.counts[i] = counts[i];
  }
  pool->pool.run(run_on_thread, &run);
  return 0;
}

constexpr int64_t kHugePage = int64_t(2) << 20;

}  // namespace

void quire::run_on(quire_pool* pool, void (*work)(void*, Worker&), void* context) { pool->pool.run(work, context); }
void quire::run_alone_on(quire_pool* pool, void (*work)(void*, Worker&), void* context) {
  pool->pool.run_alone(work, context);
}

extern "C" {

const char* quire_level(void) { return QUIRE_LEVEL; }

quire_pool* quire_pool_create(int64_t num_threads) {
  if (num_threads < 1 || num_threads > 1024) return nullptr;
  try {
    return new quire_pool(int(num_threads));
  } catch (const std::bad_alloc&) {
    return nullptr;
  } catch (const std::system_error&) {
    return nullptr;
  }
}

void quire_pool_destroy(quire_pool* pool) { delete pool; }

quire_program* quire_program_create(void) { return new (std::nothrow) quire_program; }
void quire_program_destroy(quire_program* program) { delete program; }
int64_t quire_program_length(const quire_program* program) { return int64_t(program->operators.size()); }

int quire_append_program(quire_program* program, const quire_program* other) {
  try {
    auto& all = program->operators;
    all.insert(all.end(), other->operators.begin(), other->operators.end());
    return 0;
  } catch (const std::bad_alloc&) {
    return QUIRE_NO_MEMORY;
  }
}

const char* quire_operator_name(const quire_program* program, int64_t index) {
  return program->operators[size_t(index)]->name();
}

int quire_run(quire_pool* pool, const quire_program* program, const int64_t* counts) {
  return run_program(pool, program, counts, nullptr);
}

int quire_run_timed(quire_pool* pool, const quire_program* program, const int64_t* counts, int64_t* times) {
  return run_program(pool, program, counts, times);
}

void* quire_allocate(int64_t num_bytes) {
  if (num_bytes <= 0) return nullptr;
  void* memory = mmap(nullptr, size_t(num_bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  if (num_bytes >= kHugePage) madvise(memory, size_t(num_bytes), MADV_HUGEPAGE);
#endif
  return memory;
}

void quire_release(void* memory, int64_t num_bytes) {
  if (memory) munmap(memory, size_t(num_bytes));
}

}  // extern "C"
