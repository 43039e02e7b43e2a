// Threads that run one piece of work together, of whom none waits for another that has nothing to give.
//
// The thread that calls run() works too, as thread 0. A run is a row of *regions*: in each, threads share pieces by
// for_each (whoever is free takes the next one) and then pass barrier(). A region is over when all its pieces are done,
// whoever did them. A thread that the system keeps from running holds up nobody unless it sits on a piece: coming late,
// it finds its regions over, passes through their for_each and barrier without waiting, and so catches up.
//
// Law: all threads go through the same regions, and agree on each for_each's n. What is done between a barrier and the
// next for_each is done by every thread for itself, perhaps late: it writes nothing that others see, and what it reads may
// be half overwritten by then, so it must keep to its own memory whatever it finds.
//
// Waiting is spinning for a bounded time, then sleep on a futex: on a machine with other work to do, a spinning waiter
// would keep from the processor just the thread it waits for.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace quire {

class Pool;

// One thread's view of the pool during a run. Owns the thread's scratch memory.
class Worker {
 public:
  int index() const { return index_; }
  int count() const { return count_; }

  // Call body(i) for 0 <= i < n, each i on one thread. Once in a region.
  template <typename Body> void for_each(int64_t n, const Body& body) {
    if (is_alone_) {
      for (int64_t i = 0; i < n; ++i) body(i);
      return;
    }
    const uint32_t pieces = n > 0 ? uint32_t(n) : 1;  // nothing to do is done too
    uint32_t done = 0;
    for (uint32_t i; (i = claim(pieces)) < pieces; ++done)
      if (n > 0) body(int64_t(i));
    finish(pieces, done);
  }

  // The same for who fetches ahead: body(i, next), where next is what this thread will be called with after i, or n.
  template <typename Body> void for_each_ahead(int64_t n, const Body& body) {
    if (is_alone_) {
      for (int64_t i = 0; i < n; ++i) body(i, i + 1);
      return;
    }
    if (n <= 0) return for_each(n, [](int64_t) {});
    uint32_t done = 0;
    for (uint32_t i = claim(uint32_t(n)); i < uint32_t(n); ++done) {
      const uint32_t next = claim(uint32_t(n));
      body(int64_t(i), std::min<int64_t>(next, n));
      i = next;
    }
    finish(uint32_t(n), done);
  }

  // Return when the region is over: what was written in it is seen now.
  void barrier() {
    barrier([](Worker&) {});
  }

  // The same; one thread calls alone(its worker) before any goes on. It may use for_each, and gets it all.
  template <typename Alone> void barrier(const Alone& alone) {
    if (is_alone_) return alone(*this);
    if (!has_shared_) for_each(0, [](int64_t) {});
    has_shared_ = false;
    if (!is_finisher_) return wait();
    is_finisher_ = false;
    is_alone_ = true;
    alone(*this);
    is_alone_ = false;
    release();
  }

  // For a barrier's alone(): a thread that comes later shall begin behind this barrier, at a place that the work
  // understands. Until it was said in a run, such a thread begins with the run, at place 0.
  void say_next(uint32_t place) {
    next_place_ = place;
    has_next_ = true;
  }
  uint32_t place() const { return place_; }

  // At least num_bytes of this thread's own memory, aligned to 64; what it held before is gone. Grows to its largest use.
  void* scratch(int64_t num_bytes);

  // The same, of memory that all threads see in this region.
  void* shared(int64_t num_bytes);

 private:
  friend class Pool;
  uint32_t claim(uint32_t pieces);
  void finish(uint32_t pieces, uint32_t done);
  void wait();
  void release();

  Pool* pool_ = nullptr;
  int index_ = 0, count_ = 1;
  uint32_t region_ = 0;  // which one this thread is in
  uint32_t place_ = 0, next_place_ = 0;
  bool has_shared_ = false, is_finisher_ = false, is_alone_ = false, has_next_ = false;
  char* scratch_ = nullptr;
  int64_t scratch_bytes_ = 0;
};

// A number that threads wait to see changed.
struct alignas(64) Gate {
  std::atomic<uint32_t> word{0};
  std::atomic<uint32_t> sleepers{0};

  uint32_t wait_while(uint32_t seen);  // returns what it changed to
  void wake();                         // after a change
};

class Pool {
 public:
  explicit Pool(int num_threads);  // throws what std::thread does, with no thread left
  ~Pool();
  Pool(const Pool&) = delete;

  int size() const { return int(workers_.size()); }

  // Run work(context, worker) on every thread that comes in time; returns when all is done and none is left inside. One
  // run at a time.
  void run(void (*work)(void*, Worker&), void* context);

  // The same on the caller's thread alone: for work that is done sooner than others are woken.
  void run_alone(void (*work)(void*, Worker&), void* context);

 private:
  friend class Worker;
  void serve(int index);
  void end_threads();
  bool enter(Worker& worker);
  void leave();

  // Each on its own cache line: they are written by different threads at different times.
  alignas(64) std::atomic<uint64_t> claimed_{0};   // region << 32 | pieces taken in it
  alignas(64) std::atomic<uint32_t> done_{0};      // pieces of the region that are done
  alignas(64) std::atomic<uint64_t> start_{0};     // region << 32 | place: where one who comes now begins
  Gate region_;                                    // of all runs, counted on
  Gate runs_;                                      // begun
  Gate inside_;                                    // threads of the pool in the run, and kClosed when none may enter
  void (*work_)(void*, Worker&) = nullptr;
  void* context_ = nullptr;
  std::mutex sharing_;
  std::vector<char*> outgrown_;  // shared memory that was too small; freed when nobody is inside
  char* shared_ = nullptr;
  int64_t shared_bytes_ = 0;
  std::atomic<bool> is_ending_{false};  // looked at by threads that an earlier run woke late
  std::vector<Worker> workers_;
  std::vector<std::thread> threads_;
};

// The next piece of this thread's region; pieces or more if there is none left, or the region is over.
inline uint32_t Worker::claim(uint32_t pieces) {
  std::atomic<uint64_t>& claimed = pool_->claimed_;
  uint64_t now = claimed.load(std::memory_order_acquire);
  while (uint32_t(now >> 32) == region_ && uint32_t(now) < pieces)
    if (claimed.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) return uint32_t(now);
  return pieces;
}

// This thread did so many pieces of the region; whoever brings the last one has the barrier's duties.
inline void Worker::finish(uint32_t pieces, uint32_t done) {
  has_shared_ = true;
  if (done) is_finisher_ = pool_->done_.fetch_add(done, std::memory_order_acq_rel) + done == pieces;
}

}  // namespace quire
