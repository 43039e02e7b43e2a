#include "pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <cstdlib>
#include <new>

#include <immintrin.h>

namespace quire {
namespace {

// Spinning costs what it takes from others, sleeping what waking costs: some tens of microseconds under a hypervisor.
constexpr auto kSpin = std::chrono::microseconds(60);
constexpr int kPausesBetweenLooks = 64;

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

char* aligned(int64_t& num_bytes) {
  num_bytes = (num_bytes + 4095) / 4096 * 4096;
  char* memory = static_cast<char*>(std::aligned_alloc(4096, size_t(num_bytes)));
  if (!memory) std::abort();  // a few megabytes: the machine is beyond help, and other threads wait for this one
  return memory;
}

constexpr uint32_t kClosed = 1u << 31;

}  // namespace

uint32_t Gate::wait_while(uint32_t seen) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesBetweenLooks; ++i) {
      const uint32_t now = word.load(std::memory_order_acquire);
      if (now != seen) return now;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  uint32_t now;
  while ((now = word.load(std::memory_order_seq_cst)) == seen) futex_wait(word, seen);
  sleepers.fetch_sub(1, std::memory_order_relaxed);
  return now;
}

void Gate::wake() {
  if (sleepers.load(std::memory_order_seq_cst)) futex_wake_all(word);
}

void Worker::wait() {
  // A thread that has just come may be told to begin a moment before the region is announced here.
  uint32_t now = pool_->region_.word.load(std::memory_order_acquire);
  while (int32_t(now - region_) <= 0) now = pool_->region_.wait_while(now);
  ++region_;
}

void Worker::release() {
  Pool& pool = *pool_;
  ++region_;
  pool.done_.store(0, std::memory_order_relaxed);
  pool.claimed_.store(uint64_t(region_) << 32, std::memory_order_release);
  if (has_next_) pool.start_.store(uint64_t(region_) << 32 | next_place_, std::memory_order_release);
  has_next_ = false;
  // Not stored but counted on: one who has just come may have ended the next region before this line.
  pool.region_.word.fetch_add(1, std::memory_order_seq_cst);
  pool.region_.wake();
}

void* Worker::scratch(int64_t num_bytes) {
  if (num_bytes > scratch_bytes_) {
    std::free(scratch_);
    scratch_ = aligned(num_bytes);
    scratch_bytes_ = num_bytes;
  }
  return scratch_;
}

void* Worker::shared(int64_t num_bytes) {
  Pool& pool = *pool_;
  const std::lock_guard<std::mutex> lock(pool.sharing_);
  if (num_bytes > pool.shared_bytes_) {
    if (pool.shared_) pool.outgrown_.push_back(pool.shared_);
    pool.shared_ = aligned(num_bytes);
    pool.shared_bytes_ = num_bytes;
  }
  return pool.shared_;
}

Pool::Pool(int num_threads) : workers_(size_t(num_threads)) {
  inside_.word.store(kClosed, std::memory_order_relaxed);
  for (int i = 0; i < num_threads; ++i) {
    workers_[i].pool_ = this;
    workers_[i].index_ = i;
    workers_[i].count_ = num_threads;
  }
  try {
    for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { serve(i); });
  } catch (...) {
    end_threads();  // those that could be started
    throw;
  }
}

void Pool::end_threads() {
  is_ending_.store(true, std::memory_order_relaxed);
  runs_.word.fetch_add(1, std::memory_order_seq_cst);
  runs_.wake();
  for (auto& thread : threads_) thread.join();
}

Pool::~Pool() {
  end_threads();
  for (auto& worker : workers_) std::free(worker.scratch_);
  std::free(shared_);
}

void Pool::run(void (*work)(void*, Worker&), void* context) {
  Worker& own = workers_[0];
  work_ = work;
  context_ = context;
  own.place_ = 0;
  start_.store(uint64_t(own.region_) << 32, std::memory_order_relaxed);
  inside_.word.store(0, std::memory_order_release);
  if (size() > 1) {
    runs_.word.fetch_add(1, std::memory_order_seq_cst);
    runs_.wake();
  }
  work(context, own);
  own.barrier();
  uint32_t others = inside_.word.fetch_or(kClosed, std::memory_order_acq_rel) & ~kClosed;
  while (others) others = inside_.wait_while(others | kClosed) & ~kClosed;
  for (char* memory : outgrown_) std::free(memory);
  outgrown_.clear();
}

bool Pool::enter(Worker& worker) {
  uint32_t others = inside_.word.load(std::memory_order_relaxed);
  do {
    if (others & kClosed) return false;
  } while (!inside_.word.compare_exchange_weak(others, others + 1, std::memory_order_acq_rel));
  const uint64_t start = start_.load(std::memory_order_acquire);
  worker.region_ = uint32_t(start >> 32);
  worker.place_ = uint32_t(start);
  return true;
}

void Pool::leave() {
  if (inside_.word.fetch_sub(1, std::memory_order_seq_cst) & kClosed) inside_.wake();
}

void Pool::run_alone(void (*work)(void*, Worker&), void* context) {
  Worker& worker = workers_[0];
  worker.count_ = 1;
  worker.is_alone_ = true;
  work(context, worker);
  worker.is_alone_ = false;
  worker.count_ = size();
}

void Pool::serve(int index) {
  Worker& worker = workers_[size_t(index)];
  for (uint32_t seen = 0;;) {
    seen = runs_.wait_while(seen);
    if (is_ending_.load(std::memory_order_relaxed)) return;
    if (!enter(worker)) continue;
    work_(context_, worker);
    worker.barrier();
    leave();
  }
}

}  // namespace quire
