// cuda_on_cpu.hpp - compiles and runs CUDA kernels with the host compiler. A block runs on one OS thread; where its
// threads may meet, each of them is a fiber; where they are independent, one thread does the whole block's work.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "fiber.hpp"
#include "thread_pool.hpp"

// A checked build looks for mistakes at the price of speed: shared memory begins each block as NaN, threads run in the
// order that ALEXNET_SCHEDULE asks for.
#ifndef GPU_CHECKED
#define GPU_CHECKED (GPU_ASAN || GPU_TSAN)
#endif
#pragma GCC visibility push(hidden)  // or modules loaded side by side would share these variables

// ---- keywords
#define __global__ __attribute__((always_inline)) inline  // so that a launch sees through blockDim and the arguments
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

// ---- types
struct uint3 { unsigned x = 0, y = 0, z = 0; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct [[gnu::may_alias]] alignas(8) float2 { float x, y; };
struct [[gnu::may_alias]] alignas(16) float4 { float x, y, z, w; };
struct [[gnu::may_alias]] alignas(8) int2 { int x, y; };
struct [[gnu::may_alias]] alignas(16) int4 { int x, y, z, w; };
struct [[gnu::may_alias]] alignas(8) uint2 { unsigned x, y; };
struct [[gnu::may_alias]] alignas(16) uint4 { unsigned x, y, z, w; };
struct [[gnu::may_alias]] alignas(4) uchar4 { unsigned char x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }

inline unsigned __float_as_uint(float f) { return __builtin_bit_cast(unsigned, f); }
inline float __uint_as_float(unsigned u) { return __builtin_bit_cast(float, u); }
inline int __float_as_int(float f) { return __builtin_bit_cast(int, f); }
inline float __int_as_float(int i) { return __builtin_bit_cast(float, i); }

struct __nv_bfloat16 {
  std::uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float f) {  // rounds to nearest, ties to even
    const unsigned u = __float_as_uint(f);
    bits = std::isnan(f) ? 0x7fff : std::uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
inline float __bfloat162float(__nv_bfloat16 h) { return h; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }

using cudaStream_t = struct CUstream_st*;

// ---- built-in variables
inline thread_local constinit uint3 threadIdx, blockIdx;
inline thread_local constinit dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- the executor
namespace executor {

using Location = std::source_location;
struct Site {  // where a thread waits
  const char* what = "";
  Location where;
  bool operator==(const Site& s) const { return where.line() == s.where.line() && where.column() == s.where.column(); }
};

template <auto Kernel> std::string name() {  // from "... [with auto Kernel = alexnet::{anonymous}::relu; ...]"
  std::string_view text = __PRETTY_FUNCTION__;
  text.remove_prefix(text.find("Kernel = ") + 9);
  text = text.substr(0, text.find_first_of(";]"));
  const auto last = text.substr(0, text.find('<')).rfind("::");
  return std::string(last == text.npos ? text : text.substr(last + 2));
}
using Name = std::string();
inline thread_local constinit Name* kernel_name = nullptr;  // of the kernel that runs

inline std::string coordinates(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}
[[noreturn]] GPU_UNTRACED inline void fail_block(const std::string& text) {
  throw std::runtime_error(kernel_name() + ": block " + coordinates(blockIdx) + ": " + text);
}
// Ends the launch with an exception that names the kernel, the block, the thread and the line.
[[noreturn]] GPU_UNTRACED __attribute__((format(printf, 3, 4))) inline void fail(const char* what, Location at, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fail_block("thread " + coordinates(threadIdx) + ": " + what + " at " + at.file_name() + ":" + std::to_string(at.line()) + ": " + text);
}

inline unsigned schedule() {  // 0: threads in ascending order; 1: descending; else the seed of a random order
  static const unsigned value = [] {
    const char* text = std::getenv("ALEXNET_SCHEDULE");
    return text ? unsigned(std::strtoul(text, nullptr, 10)) : 0u;
  }();
  return value;
}

// What TSan must know, and what it must not see, of the executor.
GPU_UNTRACED inline void release([[maybe_unused]] void* token) {
#if GPU_TSAN
  __tsan_release(token);
#endif
}
GPU_UNTRACED inline void acquire([[maybe_unused]] void* token) {
#if GPU_TSAN
  __tsan_acquire(token);
#endif
}
#if GPU_TSAN
#pragma GCC visibility push(default)
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#pragma GCC visibility pop
struct Untraced {  // for library code, which GPU_UNTRACED does not reach
  Untraced() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Untraced() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__), AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
};
#else
struct Untraced { Untraced() {} };
#endif

constexpr std::size_t kSharedLimit = 227 << 10, kStaticSharedLimit = 48 << 10;  // of a block on an H100
constexpr std::size_t kRedZone = GPU_CHECKED ? 64 : 0;
constexpr std::size_t kSharedWindow = 256 << 10;  // room for the red zones
constexpr std::size_t kStack = GPU_ASAN || GPU_TSAN ? 512 << 10 : 128 << 10;

enum class State : std::uint8_t { fresh, ready, polling, waiting, done };  // the first three can go on

struct Copy {  // a cp_async in flight
  void* to;
  const void* from;  // null: zeros
  int bytes;
  unsigned group;
};

struct Thread {
  Fiber* fiber = nullptr;
  uint3 index;
  State state;
  Site site;
  void* argument;  // its part of a warp operation
  unsigned mask;
  std::vector<Copy> copies;
  unsigned group;  // of the next cp_async
};

struct Warp {
  unsigned lanes, arrived, generation;
};

struct Warpgroup {
  unsigned arrived = 0;
  std::vector<std::function<void()>> products;  // wgmma in flight
  std::vector<std::size_t> groups;              // ends of the committed groups in it
};

// The block that an OS thread is executing.
struct Block {
  static inline thread_local constinit Block* current = nullptr;  // null in an independent launch

  static Block& mine() {
    static thread_local Block block;
    return block;
  }

  // Runs one block of a grid: body(arguments) for every thread of `shape`.
  GPU_UNTRACED void run(uint3 index, dim3 grid, dim3 shape, std::size_t dynamic_bytes, void (*body)(void*), void* arguments) {
    blockIdx = index;
    gridDim = grid;
    blockDim = shape;
    begin(dynamic_bytes);
    this->body = body;
    this->arguments = arguments;
    current = this;
    release(&start_token);
    resume(*next(), main);
    current = nullptr;
    end();
  }

  GPU_UNTRACED unsigned rank() const { return self - threads.data(); }
  GPU_UNTRACED char* at(unsigned address) { return shared + address; }

  // Suspends the running thread: until its state is set to ready (waiting), or for a while (polling).
  GPU_UNTRACED void suspend(State state, Site site) {
    Thread& me = *self;
    me.state = state;
    me.site = site;
    if (Thread* t = next()) {
      if (t != &me) resume(*t, *me.fiber);
    } else {
      me.fiber->switch_to(main);  // nobody can go on: main reports it
    }
    enter(me);
    if (me.state == State::polling) me.state = State::ready;
    else idle_polls = 0;
  }

  GPU_UNTRACED void barrier(Site site) {
    char* token = &barrier_tokens[generation & 1];
    release(token);
    if (++arrived < count) {
      suspend(State::waiting, site);
    } else {
      for (Thread& t : running()) {
        if (&t != self && !(t.site == site))
          fail(site.what, site.where, "other threads of the block wait in %s at line %u", t.site.what, t.site.where.line());
        t.state = State::ready;
      }
      arrived = 0;
      ++generation;
    }
    acquire(token);
  }

  // The lanes of `mask` meet; the last to come calls finish(their arguments, mask).
  template <class Finish> GPU_UNTRACED void meet_warp(unsigned mask, void* argument, Site site, Finish finish) {
    const unsigned first = rank() / 32 * 32, lane = rank() % 32;
    Warp& warp = warps[first / 32];
    char* token = &warp_tokens[first / 32][warp.generation & 1];
    if (!(mask >> lane & 1)) fail(site.what, site.where, "the calling lane %u is not in its mask %08x", lane, mask);
    if (mask & ~warp.lanes) fail(site.what, site.where, "mask %08x names lanes that the block does not have", mask);
    release(token);
    self->argument = argument;
    self->mask = mask;
    self->site = site;
    warp.arrived |= 1u << lane;
    if ((warp.arrived & mask) != mask) {
      suspend(State::waiting, site);
    } else {
      void* arguments[32] = {};
      for (unsigned l = 0; l < 32; ++l)
        if (mask >> l & 1) {
          const Thread& t = threads[first + l];
          if (t.mask != mask || !(t.site == site))
            fail(site.what, site.where, "the lanes disagree: mask %08x here, lane %u in %s at line %u with mask %08x", mask, l, t.site.what, t.site.where.line(), t.mask);
          arguments[l] = t.argument;
        }
      acquire(token);
      finish(arguments, mask);
      release(token);
      warp.arrived &= ~mask;
      if (mask == ~0u) ++warp.generation;
      for (unsigned l = 0; l < 32; ++l)
        if (mask >> l & 1) threads[first + l].state = State::ready;
    }
    acquire(token);
  }

  // The 128 threads of a warpgroup meet; the last to come calls finish(group, its first thread).
  template <class Finish> GPU_UNTRACED void meet_warpgroup(void* argument, Site site, Finish finish) {
    const unsigned first = rank() / 128 * 128;
    Warpgroup& group = warpgroups[first / 128];
    if (first + 128 > count) fail(site.what, site.where, "the last warpgroup has only %u threads", count - first);
    self->argument = argument;
    self->site = site;
    release(&group);
    if (++group.arrived < 128) {
      suspend(State::waiting, site);
    } else {
      acquire(&group);
      for (unsigned i = first; i < first + 128; ++i)
        if (!(threads[i].site == site)) fail(site.what, site.where, "thread %u of the warpgroup is in %s at line %u", i, threads[i].site.what, threads[i].site.where.line());
      group.arrived = 0;
      finish(group, &threads[first]);
      release(&group);
      for (unsigned i = first; i < first + 128; ++i) threads[i].state = State::ready;
    }
    acquire(&group);
  }

  // Shared memory, once a block for every array.
  GPU_UNTRACED void* carve(std::size_t bytes, std::size_t alignment, Location where) {
    const std::size_t at = (shared_end + kRedZone + alignment - 1) / alignment * alignment;
    shared_end = at + bytes;
    shared_used += bytes;
    if (shared_used > kSharedLimit || shared_used - dynamic_bytes > kStaticSharedLimit)
      fail("GPU_SHARED", where, "shared memory exhausted: %zu bytes dynamic, %zu static", dynamic_bytes, shared_used - dynamic_bytes);
#if GPU_ASAN
    __asan_unpoison_memory_region(shared + at, bytes);
#endif
    if (GPU_CHECKED)  // volatile: not memset, which TSan would take for a write by the running thread
      for (std::size_t i = at; i < at + bytes; ++i) reinterpret_cast<volatile char*>(shared)[i] = char(0xff);
    return shared + at;
  }

  // A table of where every thread stands.
  std::string positions() {
    std::string text;
    for (unsigned i = 0, j; i < count; i = j) {
      const Thread& t = threads[i];
      for (j = i + 1; j < count && threads[j].state == t.state && threads[j].site == t.site; ++j) {}
      text += "\n  threads " + std::to_string(i) + "-" + std::to_string(j - 1);
      if (t.state == State::done) text += " have returned";
      else text += std::string(" wait in ") + t.site.what + " at " + t.site.where.file_name() + ":" + std::to_string(t.site.where.line());
    }
    return text;
  }

  Block() {
    void* p = mmap(nullptr, kSharedWindow, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    shared = static_cast<char*>(p);
  }
  ~Block() { munmap(shared, kSharedWindow); }
  Block(const Block&) = delete;

  struct Running {
    Thread *first, *last;
    Thread* begin() const { return first; }
    Thread* end() const { return last; }
  };
  GPU_UNTRACED Running running() { return {threads.data(), threads.data() + count}; }

  std::vector<Thread> threads;
  unsigned count = 0;           // of threads in this block
  Thread* self = nullptr;       // the thread that runs
  unsigned idle_polls = 0;      // since anybody went on
  std::uint64_t serial = 0;     // of the block on this OS thread
  std::size_t dynamic_bytes = 0;
  char* shared = nullptr;       // the window: the dynamic array first, then the others as they are met
  bool independent = false;
  Warpgroup warpgroups[8];
  std::vector<std::function<void()>> tensor_copies;  // TMA in flight
  std::size_t tensor_copies_done = 0;
  char end_token;  // this and the other tokens are addresses that stand for meetings in TSan's eyes

 private:
  GPU_UNTRACED Thread* next() {
    for (unsigned n = 0; n < count; ++n) {
      if (cursor == count) cursor = 0;
      Thread& t = threads[order[cursor++]];
      if (t.state <= State::polling) return &t;
    }
    return nullptr;
  }
  GPU_UNTRACED void enter(Thread& t) {
    self = &t;
    threadIdx = t.index;
  }
  GPU_UNTRACED void resume(Thread& t, Fiber& from, bool leaving = false) {
    if (t.state == State::fresh) {
      if (!GPU_TSAN) {
        if (idle.empty()) fibers.push_back(std::make_unique<Fiber>(kStack)), idle.push_back(fibers.back().get());
        t.fiber = idle.back();
        idle.pop_back();
      }
      t.fiber->begin(&run_threads, &t - threads.data());
      t.state = State::ready;
      idle_polls = 0;
    }
    enter(t);
    from.switch_to(*t.fiber, leaving);
  }

  // The life of a fiber. Who has finished a thread begins the next fresh one: blocks without barriers never switch.
  GPU_UNTRACED static void run_threads() {
    Block& b = *current;
    for (;;) {
      Thread& me = *b.self;
      acquire(&b.start_token);
      try {
        b.body(b.arguments);
      } catch (...) {
        b.error = std::current_exception();
      }
      release(&b.end_token);
      me.state = State::done;
      me.site = {};
      b.idle_polls = 0;
      ++b.finished;
      Fiber& mine = *me.fiber;
      if (b.error) mine.switch_to(b.main, true);
      Thread* t = b.next();
      if (!GPU_TSAN) {  // which must see one fiber a thread
        me.fiber = nullptr;
        if (t && t->state == State::fresh) {
          t->fiber = &mine;
          t->state = State::ready;
          b.enter(*t);
          continue;
        }
        b.idle.push_back(&mine);
      }
      if (t) b.resume(*t, mine, true);
      else mine.switch_to(b.main, true);
    }
  }

  GPU_UNTRACED void begin(std::size_t dynamic) {
    Untraced untraced;
    if (blockDim.x != shape.x || blockDim.y != shape.y || blockDim.z != shape.z) set_shape();
    if (GPU_CHECKED) set_order();
    arrived = finished = cursor = idle_polls = 0;
    for (Thread& t : running()) t.state = State::fresh;
    for (Warp& w : warps) w.arrived = 0;
#if GPU_TSAN
    for (unsigned i = 0; i < count; ++i) threads[i].fiber = fibers[(i + serial) % count].get();  // or a thread could not race with its like in the next block
    mmap(shared, kSharedWindow, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);  // nor shared memory with the next block's
#endif
#if GPU_ASAN
    __asan_poison_memory_region(shared, kSharedWindow);
#endif
    ++serial;
    shared_end = shared_used = 0;
    dynamic_bytes = dynamic;
    if (dynamic) carve(dynamic, 1024, Location::current());
  }

  GPU_UNTRACED void end() {
    if (error || finished != count) acquire(&end_token);
    Untraced untraced;
    std::string mistake;
    if (!error && finished != count) mistake = "deadlock: a barrier or an operation of a warp is not reached by all its threads" + positions();
    else if (!error && tensor_copies_done != tensor_copies.size()) mistake = "the block ends while TMA copies are in flight";
    for (Thread& t : running()) t.copies.clear(), t.group = 0, t.fiber = nullptr;
    tensor_copies.clear();
    tensor_copies_done = 0;
    for (Warpgroup& g : warpgroups) g = {};
    if (!error && mistake.empty()) return;
    idle.clear();  // some fibers were abandoned with frames on their stacks
    fibers.clear();
    shape = dim3(0, 0, 0);
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
    fail_block(mistake);
  }

  GPU_UNTRACED void set_shape() {
    shape = blockDim;
    count = shape.x * shape.y * shape.z;
    if (threads.size() < count) threads.resize(count), order.resize(count);
    if (GPU_TSAN)  // a fiber comes after what its creator did, so it must be the main thread
      while (fibers.size() < count) fibers.push_back(std::make_unique<Fiber>(kStack));
    for (unsigned i = 0; i < count; ++i) {
      threads[i].index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
      order[i] = i;
    }
    for (unsigned w = 0; w < 32; ++w) warps[w].lanes = w * 32 >= count ? 0 : count - w * 32 >= 32 ? ~0u : (1u << (count - w * 32)) - 1;
  }

  GPU_UNTRACED void set_order() {
    for (unsigned i = 0; i < count; ++i) order[i] = schedule() == 1 ? count - 1 - i : i;
    if (schedule() < 2) return;
    unsigned r = (schedule() * 2654435761u + (blockIdx.x + blockIdx.y * 31 + blockIdx.z * 961) * 7919u) | 1;
    for (unsigned k = count; k > 1; --k) {
      r ^= r << 13, r ^= r >> 17, r ^= r << 5;
      std::swap(order[k - 1], order[r % k]);
    }
  }

  Fiber main;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  std::vector<unsigned> order;  // in which threads get their turn
  dim3 shape{0, 0, 0};          // that threads and order were made for
  unsigned arrived = 0, finished = 0, cursor = 0, generation = 0;
  Warp warps[32] = {};
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  std::exception_ptr error;
  std::size_t shared_end = 0, shared_used = 0;
  char start_token, barrier_tokens[2], warp_tokens[32][2];
};

// The block in which threads may meet.
GPU_UNTRACED inline Block& meeting(const char* what, Location where) {
  if (!Block::current || Block::current->independent) fail(what, where, "not allowed in a launch declared independent");
  return *Block::current;
}
template <class Finish> GPU_UNTRACED inline void meet_warp(unsigned mask, void* argument, const char* what, Location where, Finish finish) {
  meeting(what, where).meet_warp(mask, argument, {what, where}, finish);
}

struct Slot {  // a shared array's place in the current block
  std::uint64_t serial = 0;
  void* array = nullptr;
};
GPU_UNTRACED inline void* shared_array(Slot& slot, std::size_t bytes, std::size_t alignment, Location where) {
  Block& b = meeting("GPU_SHARED", where);
  if (slot.serial != b.serial) slot.array = b.carve(bytes, alignment, where), slot.serial = b.serial;
  return slot.array;
}

// The blocks from number `first` to `last` of a grid.
struct Blocks {
  dim3 grid;
  long first, last;
  struct Iterator {
    dim3 grid;
    long number;
    uint3 index;
    uint3 operator*() const { return index; }
    bool operator!=(const Iterator& i) const { return number != i.number; }
    void operator++() {
      ++number;
      if (++index.x < grid.x) return;
      index.x = 0;
      if (++index.y < grid.y) return;
      index.y = 0, ++index.z;
    }
  };
  Iterator begin() const { return {grid, first, {unsigned(first % grid.x), unsigned(first / grid.x % grid.y), unsigned(first / grid.x / grid.y)}}; }
  Iterator end() const { return {grid, last, {}}; }
};

// f(blocks) for ranges that make up the grid, spread over the pool.
template <class F> inline void for_each_range(dim3 grid, long lanes, F f) {
  const long total = long(grid.x) * grid.y * grid.z, ranges = lanes == 1 ? 1 : std::min(total, lanes * 8);
  ThreadPool::get().run(ranges, [&](long r, int) { f(Blocks{grid, total * r / ranges, total * (r + 1) / ranges}); });
}

template <auto Kernel, class... A> struct Call {
  std::tuple<A...> arguments;
  static void run(void* call) { std::apply(Kernel, static_cast<Call*>(call)->arguments); }
};

template <auto Kernel, class... A> void launch(dim3 grid, dim3 block, std::size_t shared_bytes, bool independent, A... arguments) {
  Call<Kernel, A...> call{{arguments...}};
  // Under TSan by this thread alone: in its eyes blocks are unordered whoever runs them, so no race is missed, and the
  // fibers, which are costly there, are made once. Tasks do run side by side.
  for_each_range(grid, GPU_TSAN ? 1 : ThreadPool::get().lanes(), [&](Blocks blocks) {
    kernel_name = &name<Kernel>;
    Block& b = Block::mine();
    b.independent = independent;
    for (uint3 index : blocks) b.run(index, grid, block, shared_bytes, &call.run, &call);
    acquire(&b.end_token);
  });
}

template <auto Kernel> void check_configuration(dim3 grid, dim3 block, std::size_t shared_bytes) {  // a GPU would refuse these
  const std::uint64_t threads = std::uint64_t(block.x) * block.y * block.z;
  if (threads && threads <= 1024 && block.z <= 64 && grid.x && grid.x <= 0x7fffffff && grid.y && grid.y <= 65535 && grid.z && grid.z <= 65535 && shared_bytes <= kSharedLimit) return;
  throw std::runtime_error(name<Kernel>() + ": invalid launch configuration: grid " + coordinates({grid.x, grid.y, grid.z}) + ", block " + coordinates({block.x, block.y, block.z}) + ", " +
                           std::to_string(shared_bytes) + " bytes of shared memory");
}

}  // namespace executor

namespace gpu {

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// The threads of a block may meet at barriers.
template <auto Kernel, class... A> inline void launch(const Launch& l, A... arguments) {
  executor::check_configuration<Kernel>(l.grid, l.block, l.shared_bytes);
  executor::launch<Kernel>(l.grid, l.block, l.shared_bytes, false, arguments...);
}

// The threads are independent and the kernel is right for every block size: it runs with one thread a block, inlined and
// vectorised. A checked build runs the real block shape under every schedule but 0.
template <auto Kernel, class... A> inline void launch_independent(const Launch& l, A... arguments) {
  executor::check_configuration<Kernel>(l.grid, l.block, l.shared_bytes);
  if (GPU_CHECKED && executor::schedule()) return executor::launch<Kernel>(l.grid, l.block, l.shared_bytes, true, arguments...);
  executor::for_each_range(l.grid, executor::ThreadPool::get().lanes(), [=](executor::Blocks blocks) __attribute__((flatten)) {
    executor::kernel_name = &executor::name<Kernel>;
    gridDim = blocks.grid;
    threadIdx = {0, 0, 0};
    for (uint3 index : blocks) {
      blockIdx = index;
      blockDim = dim3(1, 1, 1);
      Kernel(arguments...);
    }
  });
}

// Host code: f(task, lane) for every task below count. Tasks spread over the threads; those that run at the same time have
// different lanes below lanes(), which name scratch memory. Inside a task there is one lane, and launches run in its thread.
template <class F> inline void for_each_task(long count, F f) { executor::ThreadPool::get().run(count, f); }
inline int lanes() { return executor::ThreadPool::get().lanes(); }
inline int threads() { return executor::ThreadPool::get().threads(); }
inline void set_threads(int n) { executor::ThreadPool::get().set_threads(n); }

// C = alpha op(A) op(B) + beta C, row-major, through the BLAS that the process registered; false where there is none.
bool blas_sgemm(bool transpose_a, bool transpose_b, long M, long N, long K, float alpha, const float* a, long lda, const float* b, long ldb, float beta, float* c, long ldc);

// Shared memory. GPU_SHARED(float, tile, [8][128]); declares an array, aligned to 16 bytes.
#define GPU_SHARED(type, name, dims)                                                                                            \
  static thread_local constinit ::executor::Slot name##_slot;                                                                   \
  using name##_type = type dims;                                                                                                \
  auto& name = *static_cast<name##_type*>(::executor::shared_array(name##_slot, sizeof(name##_type), 16, ::executor::Location::current()))
template <class T> inline T* dynamic_shared(executor::Location where = executor::Location::current()) {
  executor::Block& b = executor::meeting("dynamic_shared", where);
  return reinterpret_cast<T*>(b.shared + (executor::kRedZone + 1023) / 1024 * 1024);
}
inline unsigned shared_address(const void* p) { return static_cast<const char*>(p) - executor::Block::current->shared; }

// This thread's part of 0..n-1: strided on a GPU, so that neighbours touch neighbours, contiguous for a block of one.
struct Range {
  long first, last, step;
  struct Iterator {
    long i, step;
    long operator*() const { return i; }
    void operator++() { i += step; }
    bool operator!=(Iterator end) const { return i < end.i; }
  };
  Iterator begin() const { return {first, step}; }
  Iterator end() const { return {last, step}; }
};
__forceinline__ Range grid_range(long n) {
  if (blockDim.x == 1) return {n * blockIdx.x / gridDim.x, n * (blockIdx.x + 1l) / gridDim.x, 1};
  return {long(blockIdx.x) * blockDim.x + threadIdx.x, n, long(gridDim.x) * blockDim.x};
}

}  // namespace gpu

// ---- device functions
inline void __syncthreads(executor::Location where = executor::Location::current()) { executor::meeting("__syncthreads", where).barrier({"__syncthreads", where}); }
inline void __syncwarp(unsigned mask = ~0u, executor::Location where = executor::Location::current()) {
  executor::meet_warp(mask, nullptr, "__syncwarp", where, [](void**, unsigned) {});
}

namespace executor {
template <class T> GPU_UNTRACED inline T shuffle(const char* what, unsigned mask, T value, unsigned source, Location where) {
  struct Part { T value; unsigned source; } part{value, source};
  meet_warp(mask, &part, what, where, [=](void** parts, unsigned m) {
    T result[32];
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) {
        const unsigned from = static_cast<Part*>(parts[l])->source;
        if (!(m >> from & 1)) fail(what, where, "lane %u reads lane %u, which is not in mask %08x", l, from, m);
        result[l] = static_cast<Part*>(parts[from])->value;
      }
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) static_cast<Part*>(parts[l])->value = result[l];
  });
  return part.value;
}
inline unsigned lane(const char* what, Location where) { return meeting(what, where).rank() % 32; }
}  // namespace executor

template <class T> inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, executor::Location where = executor::Location::current()) {
  const unsigned lane = executor::lane("__shfl_sync", where);
  return executor::shuffle("__shfl_sync", mask, v, (lane & ~(width - 1)) + (from & (width - 1)), where);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, executor::Location where = executor::Location::current()) {
  const unsigned lane = executor::lane("__shfl_xor_sync", where), from = lane ^ x;
  return executor::shuffle("__shfl_xor_sync", mask, v, from / width > lane / width ? lane : from, where);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, executor::Location where = executor::Location::current()) {
  const unsigned lane = executor::lane("__shfl_down_sync", where);
  return executor::shuffle("__shfl_down_sync", mask, v, lane % width + d < unsigned(width) ? lane + d : lane, where);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, executor::Location where = executor::Location::current()) {
  const unsigned lane = executor::lane("__shfl_up_sync", where);
  return executor::shuffle("__shfl_up_sync", mask, v, lane % width >= d ? lane - d : lane, where);
}
GPU_UNTRACED inline unsigned __ballot_sync(unsigned mask, int predicate, executor::Location where = executor::Location::current()) {
  unsigned vote = predicate != 0;
  executor::meet_warp(mask, &vote, "__ballot_sync", where, [](void** votes, unsigned m) {
    unsigned all = 0;
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1 && *static_cast<unsigned*>(votes[l])) all |= 1u << l;
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) *static_cast<unsigned*>(votes[l]) = all;
  });
  return vote;
}
inline int __any_sync(unsigned mask, int predicate, executor::Location where = executor::Location::current()) { return __ballot_sync(mask, predicate, where) != 0; }
inline int __all_sync(unsigned mask, int predicate, executor::Location where = executor::Location::current()) { return __ballot_sync(mask, predicate, where) == mask; }

template <class T> inline T __ldg(const T* p) { return *p; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return std::uint64_t(a) * b >> 32; }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }

namespace executor {
template <class T, class F> inline T atomic(T* p, F f) {
  using U = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  U* u = reinterpret_cast<U*>(p);
  U old = __atomic_load_n(u, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(u, &old, __builtin_bit_cast(U, f(__builtin_bit_cast(T, old))), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  return __builtin_bit_cast(T, old);
}
}  // namespace executor
template <class T> inline T atomicAdd(T* p, std::type_identity_t<T> v) { return executor::atomic(p, [v](T old) { return T(old + v); }); }
template <class T> inline T atomicMax(T* p, std::type_identity_t<T> v) { return executor::atomic(p, [v](T old) { return old < v ? v : old; }); }
template <class T> inline T atomicExch(T* p, std::type_identity_t<T> v) { return executor::atomic(p, [v](T) { return v; }); }
template <class T> inline T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return executor::atomic(p, [=](T old) { return old == expected ? v : old; });
}

// ---- PTX-level operations (gpu.cuh has the GPU's side)
namespace gpu {

// Carried out as late as the program allows: by the wait that completes it. Until then a checked build shows NaN.
template <int Bytes> GPU_UNTRACED inline void cp_async(void* to, const void* from, bool valid = true, executor::Location where = executor::Location::current()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  executor::Block& b = executor::meeting("cp_async", where);
  if (reinterpret_cast<std::uintptr_t>(to) % Bytes || (valid && reinterpret_cast<std::uintptr_t>(from) % Bytes))
    executor::fail("cp_async", where, "an address is not aligned to %d bytes", Bytes);
  if (GPU_CHECKED) std::memset(to, 0xff, Bytes);
  executor::Untraced untraced;
  b.self->copies.push_back({to, valid ? from : nullptr, Bytes, b.self->group});
}
GPU_UNTRACED inline void cp_async_commit(executor::Location where = executor::Location::current()) { ++executor::meeting("cp_async_commit", where).self->group; }
template <int Pending> GPU_UNTRACED inline void cp_async_wait(executor::Location where = executor::Location::current()) {
  executor::Thread& t = *executor::meeting("cp_async_wait", where).self;
  std::size_t done = 0;
  for (; done < t.copies.size() && t.copies[done].group + Pending < t.group; ++done) {
    const executor::Copy& c = t.copies[done];
    if (c.from) std::memcpy(c.to, c.from, c.bytes);
    else std::memset(c.to, 0, c.bytes);
  }
  executor::Untraced untraced;
  t.copies.erase(t.copies.begin(), t.copies.begin() + done);
}

// Four 8x8 matrices of 16-bit elements: lane l names row l % 8 of matrix l / 8 and receives, of every matrix, the elements
// 2 (l % 4) and the next of row l / 4, or of column l / 4 (Transposed).
template <int N, bool Transposed> inline void ldmatrix(unsigned (&r)[N], const void* row, executor::Location where = executor::Location::current()) {
  static_assert(N == 4);
  struct Part { const void* row; unsigned* out; } part{row, r};
  if (reinterpret_cast<std::uintptr_t>(row) % 16) executor::fail("ldmatrix", where, "the row is not aligned to 16 bytes");
  executor::meet_warp(~0u, &part, "ldmatrix", where, [](void** parts, unsigned) {
    for (int m = 0; m < N; ++m)
      for (int l = 0; l < 32; ++l) {
        std::uint16_t pair[2];
        for (int e = 0; e < 2; ++e) {
          const int i = Transposed ? l % 4 * 2 + e : l / 4, j = Transposed ? l / 4 : l % 4 * 2 + e;
          std::memcpy(&pair[e], static_cast<const char*>(static_cast<Part*>(parts[8 * m + i])->row) + 2 * j, 2);
        }
        static_cast<Part*>(parts[l])->out[m] = pair[0] | unsigned(pair[1]) << 16;
      }
  });
}

// D (16 x 8) += A (16 x K) B (K x 8), each in the registers of a warp.
struct MmaPart {
  float* d;
  const unsigned *a, *b;
};
template <int K, class Unpack> GPU_UNTRACED inline void mma(MmaPart part, const char* what, executor::Location where, Unpack unpack) {
  executor::meet_warp(~0u, &part, what, where, [=](void** parts, unsigned) GPU_UNTRACED {
    float A[16][K], B[K][8];
    for (int l = 0; l < 32; ++l) unpack(l, *static_cast<MmaPart*>(parts[l]), A, B);
    for (int l = 0; l < 32; ++l)
      for (int e = 0; e < 4; ++e) {
        const int i = l / 4 + e / 2 * 8, j = l % 4 * 2 + e % 2;
        float sum = 0;
        for (int k = 0; k < K; ++k) sum += A[i][k] * B[k][j];
        static_cast<MmaPart*>(parts[l])->d[e] += sum;
      }
  });
}
inline void mma_tf32_16x8x8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], executor::Location where = executor::Location::current()) {
  mma<8>({d, a, b}, "mma_tf32_16x8x8", where, [](int l, MmaPart& part, float (&A)[16][8], float (&B)[8][8]) GPU_UNTRACED {
    const auto tf32 = [](unsigned u) { return __uint_as_float(u & ~0x1fffu); };  // the hardware ignores the low 13 bits
    for (int r = 0; r < 4; ++r) A[l / 4 + r % 2 * 8][l % 4 + r / 2 * 4] = tf32(part.a[r]);
    for (int r = 0; r < 2; ++r) B[l % 4 + r * 4][l / 4] = tf32(part.b[r]);
  });
}
inline void mma_bf16_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], executor::Location where = executor::Location::current()) {
  mma<16>({d, a, b}, "mma_bf16_16x8x16", where, [](int l, MmaPart& part, float (&A)[16][16], float (&B)[16][8]) GPU_UNTRACED {
    const auto half = [](unsigned u, int e) { return __uint_as_float(u >> 16 * e << 16); };
    for (int e = 0; e < 2; ++e) {
      for (int r = 0; r < 4; ++r) A[l / 4 + r % 2 * 8][l % 4 * 2 + r / 2 * 8 + e] = half(part.a[r], e);
      for (int r = 0; r < 2; ++r) B[l % 4 * 2 + r * 8 + e][l / 4] = half(part.b[r], e);
    }
  });
}

}  // namespace gpu
#pragma GCC visibility pop
