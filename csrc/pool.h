// Threads that run one piece of work together, and wait for each other cheaply.
//
// The thread that calls run() works too, as thread 0. Inside, threads share work by for_each (whoever is free takes the
// next piece) and meet at barrier(). Waiting is spinning for a bounded time, then sleep on a futex: on a machine with
// other work to do, a spinning waiter would keep from the processor just the thread it waits for.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace quire {

class Pool;

// One thread's view of the pool during a run. Owns the thread's scratch memory.
class Worker {
 public:
  int index() const { return index_; }
  int count() const { return count_; }

  // Wait for all threads. What they wrote before is seen after.
  void barrier() {
    barrier([](Worker&) {});
  }

  // The same; the last to arrive calls alone(its worker) before any thread goes on. It may use for_each, and gets it all.
  template <typename Alone> void barrier(const Alone& alone) {
    if (!arrive()) return wait();
    alone(*this);
    release();
  }

  // Start the shared count of for_each again: only where no other thread runs, that is, in a barrier's alone.
  void restart();

  // Call body(i) for 0 <= i < n, each i on one thread. All threads must call it alike, with a barrier between one
  // for_each and the next.
  template <typename Body> void for_each(int64_t n, const Body& body) {
    for (int64_t i = next(); i < n; i = next()) body(i);
  }

  // At least num_bytes of this thread's own memory, aligned to 64; what it held before is gone. Grows to its largest use.
  void* scratch(int64_t num_bytes);

  // The same, of memory that all threads see. All must call it alike, after a barrier and before a for_each.
  void* shared(int64_t num_bytes);

 private:
  friend class Pool;
  int64_t next();
  bool arrive();  // true for the last one
  void wait();
  void release();

  Pool* pool_ = nullptr;
  int index_ = 0, count_ = 1;
  uint32_t seen_ = 0;  // phases passed when this thread last arrived
  char* scratch_ = nullptr;
  int64_t scratch_bytes_ = 0;
};

class Pool {
 public:
  explicit Pool(int num_threads);
  ~Pool();
  Pool(const Pool&) = delete;

  int size() const { return int(workers_.size()); }

  // Run work(context, worker) on every thread; returns when all are done. One run at a time.
  void run(void (*work)(void*, Worker&), void* context);

 private:
  friend class Worker;
  void serve(int index);

  // Each on its own cache line: they are written by different threads at different times.
  alignas(64) std::atomic<uint32_t> started_{0};  // runs begun; threads sleep on it between runs
  alignas(64) std::atomic<uint32_t> phase_{0};    // barriers passed; threads sleep on it in a barrier
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> sleepers_{0};  // threads that sleep in a barrier, or between runs
  alignas(64) std::atomic<int64_t> next_{0};
  void (*work_)(void*, Worker&) = nullptr;
  void* context_ = nullptr;
  char* shared_ = nullptr;
  int64_t shared_bytes_ = 0;
  bool is_ending_ = false;
  std::vector<Worker> workers_;
  std::vector<std::thread> threads_;
};

inline void Worker::restart() { pool_->next_.store(0, std::memory_order_relaxed); }
inline int64_t Worker::next() { return pool_->next_.fetch_add(1, std::memory_order_relaxed); }

}  // namespace quire
