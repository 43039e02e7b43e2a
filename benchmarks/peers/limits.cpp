// What this machine can do at most, as JSON: DRAM read bandwidth, and the peak of fp32, bf16 and int8 dot products.
//
//     g++ -O3 -march=native -std=c++17 -pthread limits.cpp -o limits && ./limits THREADS
//
// Bandwidth: every thread sums its own part of 1 GiB, far more than any cache; GB/s of all together, the best of five
// passes. Peaks: independent accumulators in registers, no memory; a multiply and an addition are two operations. What
// the instruction set lacks is null. The best of several short passes, since a noisy neighbour only ever takes away.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Runs body(thread) on all threads at once; the seconds from the first start to the last end, the best of `passes`.
double best_of(int passes, int threads, const std::function<void(int)>& body) {
    double best = 1e30;
    for (int pass = 0; pass < passes; ++pass) {
        std::atomic<int> waiting{threads};
        std::atomic<bool> go{false};
        std::vector<std::thread> all;
        for (int t = 0; t < threads; ++t)
            all.emplace_back([&, t] {
                --waiting;
                while (!go.load(std::memory_order_acquire)) {
                }
                body(t);
            });
        while (waiting.load() != 0) {
        }
        auto begin = Clock::now();
        go.store(true, std::memory_order_release);
        for (auto& thread : all) thread.join();
        double took = seconds_since(begin);
        if (took < best) best = took;
    }
    return best;
}

volatile std::uint64_t sink;

double read_gb_per_s(const std::vector<std::uint64_t>& memory, int threads) {
    double took = best_of(5, threads, [&](int t) {
        std::size_t part = memory.size() / threads;
        const std::uint64_t* p = memory.data() + part * t;
        std::uint64_t sums[32] = {};  // four cache lines' worth at a time: the compiler makes vectors of it
        for (std::size_t i = 0; i + 32 <= part; i += 32)
            for (int j = 0; j < 32; ++j) sums[j] += p[i + j];
        std::uint64_t total = 0;
        for (std::uint64_t one : sums) total += one;
        sink = total;
    });
    return memory.size() * 8 / took / 1e9;
}

// Billions of operations a second of `step`, which does `operations` and returns something that depends on them.
double giga_per_s(int threads, double operations, const std::function<float(int)>& step) {
    constexpr int kSteps = 1'000'000;
    double took = best_of(20, threads, [&](int) { sink = static_cast<std::uint64_t>(step(kSteps)); });
    return operations * kSteps * threads / took / 1e9;
}

#if defined(__AVX512F__)
constexpr int kAccumulators = 12;

float fp32(int steps) {
    __m512 sums[kAccumulators], a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(1e-7f);
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (int i = 0; i < steps; ++i) {
        for (auto& sum : sums) sum = _mm512_fmadd_ps(a, b, sum);
        asm volatile("" : "+v"(a));
    }
    __m512 total = _mm512_setzero_ps();
    for (auto& sum : sums) total = _mm512_add_ps(total, sum);
    return _mm512_reduce_add_ps(total);
}
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kAccumulators = 12;

float fp32(int steps) {
    __m256 sums[kAccumulators], a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(1e-7f);
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    for (int i = 0; i < steps; ++i) {
        for (auto& sum : sums) sum = _mm256_fmadd_ps(a, b, sum);
        asm volatile("" : "+v"(a));
    }
    float out[8], total = 0;
    for (auto& sum : sums) {
        _mm256_storeu_ps(out, sum);
        for (float one : out) total += one;
    }
    return total;
}
#endif

#if defined(__AVX512BF16__)
float bf16(int steps) {
    __m512 sums[kAccumulators];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f803f80), b = a;
    for (int i = 0; i < steps; ++i) {
        for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, a, b);
        asm volatile("" : "+v"(a));
    }
    __m512 total = _mm512_setzero_ps();
    for (auto& sum : sums) total = _mm512_add_ps(total, sum);
    return _mm512_reduce_add_ps(total);
}
#endif

#if defined(__AVX512VNNI__)
float int8(int steps) {
    __m512i sums[kAccumulators], a = _mm512_set1_epi8(1), b = a;
    for (auto& sum : sums) sum = _mm512_setzero_si512();
    for (int i = 0; i < steps; ++i) {
        for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, b);
        asm volatile("" : "+v"(a));
    }
    __m512i total = _mm512_setzero_si512();
    for (auto& sum : sums) total = _mm512_add_epi32(total, sum);
    return static_cast<float>(_mm512_reduce_add_epi32(total));
}
#endif

void print(const char* name, double value) { std::printf(", \"%s\": %.1f", name, value); }

}  // namespace

int main(int argc, char** argv) {
    int threads = argc > 1 ? std::atoi(argv[1]) : 1;
    if (threads < 1) return 2;
    std::vector<std::uint64_t> memory(std::size_t{1} << 27, 1);
    std::printf("{\"threads\": %d", threads);
    print("read_gb_s_1", read_gb_per_s(memory, 1));
    print("read_gb_s", read_gb_per_s(memory, threads));
#if defined(__AVX512F__)
    print("fp32_gflop_s", giga_per_s(threads, kAccumulators * 16 * 2, fp32));
#elif defined(__AVX2__) && defined(__FMA__)
    print("fp32_gflop_s", giga_per_s(threads, kAccumulators * 8 * 2, fp32));
#else
    std::printf(", \"fp32_gflop_s\": null");
#endif
#if defined(__AVX512BF16__)
    print("bf16_gflop_s", giga_per_s(threads, kAccumulators * 32 * 2, bf16));
#else
    std::printf(", \"bf16_gflop_s\": null");
#endif
#if defined(__AVX512VNNI__)
    print("int8_gop_s", giga_per_s(threads, kAccumulators * 64 * 2, int8));
#else
    std::printf(", \"int8_gop_s\": null");
#endif
    std::printf("}\n");
}
