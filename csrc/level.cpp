// Whether this processor can run this object. Compiled without the object's own instruction flags, so that asking is safe.
#include "quire.h"

extern "C" int quire_runs_here(void) {
  __builtin_cpu_init();
#define HAS(feature) __builtin_cpu_supports(feature)
#if defined(QUIRE_NEEDS_V4N)
  return HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl") && HAS("avx512cd") &&
         HAS("avx512vnni") && HAS("avx512bf16") && HAS("avx2") && HAS("fma");
#elif defined(QUIRE_NEEDS_V4)
  return HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl") && HAS("avx512cd") && HAS("avx2") &&
         HAS("fma");
#elif defined(QUIRE_NEEDS_V3)
  return HAS("avx2") && HAS("fma") && HAS("f16c") && HAS("bmi") && HAS("bmi2");
#else
  return HAS("sse4.2") && HAS("ssse3") && HAS("popcnt");
#endif
}
