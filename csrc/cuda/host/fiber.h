// Stack switching for host.h: a fiber is a function that gives up the processor when it likes and is resumed where it stopped.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastseg::host {

constexpr size_t kStackBytes = 128 << 10, kGuardBytes = 16 << 10;

#if defined(__x86_64__)
struct Context {
  void* stack_pointer;
};

// Leaves the callee-saved registers on the old stack and takes those of the new one: swapcontext without its system call.
__attribute__((naked, noinline)) inline void switch_context(Context* /*rdi: from*/, Context* /*rsi: to*/) {
  asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
      "movq %rsp, (%rdi); movq (%rsi), %rsp\n"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

inline void start_context(Context& context, char* stack, void (*entry)()) {
  constexpr int kRegisters = 6;
  void** top = reinterpret_cast<void**>(stack + kStackBytes) - 2;  // a function starts 8 bytes off a multiple of 16
  *top = reinterpret_cast<void*>(entry);
  std::fill(top - kRegisters, top, nullptr);
  context.stack_pointer = top - kRegisters;
}
#else
using Context = ucontext_t;

inline void switch_context(Context* from, Context* to) { swapcontext(from, to); }

inline void start_context(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  makecontext(&context, entry, 0);
}
#endif

// AddressSanitizer must be told which stack is in use: leaving() before a switch, arrived() after it.
#if defined(__SANITIZE_ADDRESS__)
inline void leaving(void** keep, const void* stack, size_t bytes) { __sanitizer_start_switch_fiber(keep, stack, bytes); }
inline void arrived(void* kept, const void** from, size_t* bytes) { __sanitizer_finish_switch_fiber(kept, from, bytes); }
#else
inline void leaving(void**, const void*, size_t) {}
inline void arrived(void*, const void**, size_t*) {}
#endif

// One fiber, and the way back to whoever resumed it.
class Fiber {
 public:
  void start(void (*entry)()) {
    if (!stack_) stack_ = allocate_stack();
    start_context(own_, stack_, entry);
  }

  void resume() {
    void* kept = nullptr;
    leaving(&kept, stack_, kStackBytes);
    switch_context(&caller_, &own_);
    arrived(kept, nullptr, nullptr);
  }

  // The fiber's entry begins with this.
  void started() { arrived(nullptr, &caller_stack_, &caller_bytes_); }

  void suspend() {
    leaving(&kept_, caller_stack_, caller_bytes_);
    switch_context(&own_, &caller_);
    arrived(kept_, &caller_stack_, &caller_bytes_);
  }

  // The fiber's entry ends with this; it never returns.
  void finish() {
    leaving(nullptr, caller_stack_, caller_bytes_);
    switch_context(&own_, &caller_);
  }

 private:
  // Kept for the life of the process; the page below it is out of bounds.
  static char* allocate_stack() {
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE)) throw std::bad_alloc();
    return static_cast<char*>(memory) + kGuardBytes;
  }

  Context own_, caller_;
  char* stack_ = nullptr;
  void* kept_ = nullptr;
  const void* caller_stack_ = nullptr;
  size_t caller_bytes_ = 0;
};

}  // namespace fastseg::host
