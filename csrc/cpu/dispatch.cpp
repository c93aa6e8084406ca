// Picks, once per process, the widest kernel set this processor can run.
#include <cstdlib>
#include <cstring>
#include <string>

#include "../ops.h"

namespace fastseg {

#define FASTSEG_DECLARE(isa)    \
  namespace isa {               \
  extern const Kernels kernels; \
  }
FASTSEG_DECLARE(baseline)
FASTSEG_DECLARE(avx2)
FASTSEG_DECLARE(avx512)
#undef FASTSEG_DECLARE

namespace {

struct Candidate {
  const Kernels& kernels;
  bool (*runs_here)();
};

const Candidate kCandidates[] = {
#ifdef FASTSEG_HAS_avx512
    {avx512::kernels,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512bw");
     }},
#endif
#ifdef FASTSEG_HAS_avx2
    {avx2::kernels, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {baseline::kernels, [] { return true; }},
};

const Kernels& choose() {
  const char* wanted = std::getenv("FASTSEG_CPU_ISA");
  if (wanted && !*wanted) wanted = nullptr;
  for (const Candidate& c : kCandidates) {
    if (wanted && std::strcmp(wanted, c.kernels.name)) continue;
    if (c.runs_here()) return c.kernels;
    if (wanted) throw Error(std::string("FASTSEG_CPU_ISA=") + wanted + ": this processor does not run it");
  }
  throw Error(std::string("FASTSEG_CPU_ISA=") + wanted + ": not built; built are " + cpu_kernels_built());
}

}  // namespace

const Kernels& cpu_kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const char* cpu_kernels_built() {
  static const std::string names = [] {
    std::string list;
    for (const Candidate& c : kCandidates) list += (list.empty() ? "" : " ") + std::string(c.kernels.name);
    return list;
  }();
  return names.c_str();
}

}  // namespace fastseg
