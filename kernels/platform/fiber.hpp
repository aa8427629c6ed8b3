// fiber.hpp - a stack and a way to continue on it. The switch is hand-written: ucontext enters the kernel for the
// signal mask at every switch, thirty times the cost.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "sanitizers.hpp"

#pragma GCC visibility push(hidden)

// Saves the callee-saved registers on the running stack and its pointer in *save, continues on the stack `load`.
extern "C" void alexnet_switch_stack(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.weak alexnet_switch_stack
.hidden alexnet_switch_stack
.type alexnet_switch_stack, @function
alexnet_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size alexnet_switch_stack, .-alexnet_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.weak alexnet_switch_stack
.hidden alexnet_switch_stack
.type alexnet_switch_stack, %function
alexnet_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size alexnet_switch_stack, .-alexnet_switch_stack
)");
#else
#error "fiber.hpp: the executor knows how to switch stacks on x86-64 and aarch64 only"
#endif

namespace executor {

class Fiber {
 public:
  Fiber() = default;  // the calling thread's own stack
  explicit Fiber(std::size_t size) : size_(size), owns_stack_(true) {
    const std::size_t page = sysconf(_SC_PAGESIZE);
    void* p = mmap(nullptr, page + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    mprotect(p, page, PROT_NONE);  // an overflow faults instead of overwriting the next stack
    stack_ = static_cast<char*>(p) + page;
#if GPU_TSAN
    tsan_ = __tsan_create_fiber(0);
#endif
  }
  ~Fiber() {
    if (!owns_stack_) return;
#if GPU_TSAN
    __tsan_destroy_fiber(tsan_);
#endif
#if GPU_ASAN
    __asan_unpoison_memory_region(stack_, size_);  // frames that never returned
#endif
    const std::size_t page = sysconf(_SC_PAGESIZE);
    munmap(stack_ - page, page + size_);
  }
  Fiber(const Fiber&) = delete;

  // The next switch to this fiber calls entry(), which never returns, at the top of the stack. The tops are staggered,
  // or the frames of all fibers would compete for the same few cache lines.
  GPU_UNTRACED void begin(void (*entry)(), unsigned number) {
    entry_ = entry;
#if GPU_ASAN
    __asan_unpoison_memory_region(stack_ + size_ - 8192, 8192);  // the frames that never return keep their red zones
    fake_stack_ = nullptr;
#endif
    auto** frame = reinterpret_cast<void**>(stack_ + size_ - number % 32 * 64) - kFrameWords;
    for (int i = 0; i < kFrameWords; ++i) frame[i] = nullptr;
    frame[kReturnAddress] = reinterpret_cast<void*>(&first_frame);
    pointer_ = frame;
  }

  // Continues `to`; returns when somebody switches back to this fiber. `leaving`: nobody will.
  GPU_UNTRACED [[gnu::noinline]] void switch_to(Fiber& to, [[maybe_unused]] bool leaving = false) {
#if GPU_ASAN
    __sanitizer_start_switch_fiber(leaving ? nullptr : &fake_stack_, to.stack_, to.size_);
#endif
#if GPU_TSAN
    if (!tsan_) tsan_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
    from_ = this;
    to_ = &to;
    alexnet_switch_stack(&pointer_, to.pointer_);
    arrive();
  }

#if GPU_TSAN
  // What ran on this fiber comes before what the caller does next.
  GPU_UNTRACED void join() {
    void* caller = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_, __tsan_switch_to_fiber_no_sync);
    __tsan_release(this);
    __tsan_switch_to_fiber(caller, __tsan_switch_to_fiber_no_sync);
    __tsan_acquire(this);
  }
#else
  void join() {}
#endif

 private:
#if defined(__x86_64__)
  static constexpr int kFrameWords = 8, kReturnAddress = 6;  // six registers, the address, one word of alignment
#else
  static constexpr int kFrameWords = 20, kReturnAddress = 11;  // x30
#endif
  GPU_UNTRACED static void arrive() {
#if GPU_ASAN
    const void* bottom;
    std::size_t size;
    __sanitizer_finish_switch_fiber(to_->fake_stack_, &bottom, &size);
    if (!from_->stack_) from_->stack_ = static_cast<char*>(const_cast<void*>(bottom)), from_->size_ = size;
#endif
  }
  GPU_UNTRACED static void first_frame() {
    arrive();
    to_->entry_();
  }

  static inline thread_local constinit Fiber *from_ = nullptr, *to_ = nullptr;  // of the last switch
  void* pointer_ = nullptr;
  void (*entry_)() = nullptr;
  char* stack_ = nullptr;  // lowest byte
  std::size_t size_ = 0;
  bool owns_stack_ = false;
#if GPU_ASAN
  void* fake_stack_ = nullptr;
#endif
#if GPU_TSAN
  void* tsan_ = nullptr;
#endif
};

}  // namespace executor
#pragma GCC visibility pop
