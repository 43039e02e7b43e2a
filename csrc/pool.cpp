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

// Return once word differs from seen. Whoever changes it must wake sleepers if there are any.
void wait_for_change(std::atomic<uint32_t>& word, uint32_t seen, std::atomic<uint32_t>& sleepers) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesBetweenLooks; ++i) {
      if (word.load(std::memory_order_acquire) != seen) return;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (word.load(std::memory_order_seq_cst) == seen) futex_wait(word, seen);
  sleepers.fetch_sub(1, std::memory_order_relaxed);
}

void change(std::atomic<uint32_t>& word, std::atomic<uint32_t>& sleepers) {
  word.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst)) futex_wake_all(word);
}

void grow(char*& memory, int64_t& size, int64_t num_bytes) {
  if (num_bytes <= size) return;
  std::free(memory);
  const int64_t rounded = (num_bytes + 4095) / 4096 * 4096;
  memory = static_cast<char*>(std::aligned_alloc(4096, size_t(rounded)));
  if (!memory) std::abort();  // a few megabytes: the machine is beyond help, and other threads wait for this one
  size = rounded;
}

}  // namespace

bool Worker::arrive() {
  seen_ = pool_->phase_.load(std::memory_order_relaxed);
  if (pool_->arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 != uint32_t(count_)) return false;
  pool_->arrived_.store(0, std::memory_order_relaxed);
  restart();
  return true;
}

void Worker::wait() { wait_for_change(pool_->phase_, seen_, pool_->sleepers_); }

void Worker::release() {
  restart();
  if (count_ > 1) change(pool_->phase_, pool_->sleepers_);
}

void* Worker::scratch(int64_t num_bytes) {
  grow(scratch_, scratch_bytes_, num_bytes);
  return scratch_;
}

void* Worker::shared(int64_t num_bytes) {
  Pool& pool = *pool_;
  if (num_bytes > pool.shared_bytes_) {  // for all threads or none: it changes only between the two barriers
    barrier();
    if (index_ == 0) grow(pool.shared_, pool.shared_bytes_, num_bytes);
    barrier();
  }
  return pool.shared_;
}

Pool::Pool(int num_threads) : workers_(size_t(num_threads)) {
  for (int i = 0; i < num_threads; ++i) {
    workers_[i].pool_ = this;
    workers_[i].index_ = i;
    workers_[i].count_ = num_threads;
  }
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { serve(i); });
}

Pool::~Pool() {
  is_ending_ = true;
  change(started_, sleepers_);
  for (auto& thread : threads_) thread.join();
  for (auto& worker : workers_) std::free(worker.scratch_);
  std::free(shared_);
}

void Pool::run(void (*work)(void*, Worker&), void* context) {
  work_ = work;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  if (size() > 1) change(started_, sleepers_);
  work(context, workers_[0]);
  workers_[0].barrier();  // the others' last deed is to arrive here
}

void Pool::serve(int index) {
  uint32_t seen = 0;
  for (;;) {
    wait_for_change(started_, seen, sleepers_);
    ++seen;
    if (is_ending_) return;
    work_(context_, workers_[index]);
    workers_[index].barrier();
  }
}

}  // namespace quire
