// cuda_on_cpu.hpp - gpu.cuh for a host compiler: compiles CUDA kernels and runs them. A block runs on one OS thread; where its
// threads may meet, each of them is a fiber; where they are independent, one thread does the whole block's work.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
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
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// ---- types
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct [[gnu::may_alias]] alignas(8) float2 {
  float x, y;
};
struct [[gnu::may_alias]] alignas(16) float4 {
  float x, y, z, w;
};
struct [[gnu::may_alias]] alignas(8) int2 {
  int x, y;
};
struct [[gnu::may_alias]] alignas(16) int4 {
  int x, y, z, w;
};
struct [[gnu::may_alias]] alignas(8) uint2 {
  unsigned x, y;
};
struct [[gnu::may_alias]] alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct [[gnu::may_alias]] alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
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
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
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

using Name = std::string();
inline thread_local constinit Name* current_kernel = nullptr;

// Ends the launch with an exception that names the kernel, the block and, as the text should, the threads and the line.
[[noreturn, gnu::cold]] GPU_UNTRACED inline void fail(const char* text) {
  const std::string kernel = current_kernel();
  char where[64];
  std::snprintf(where, sizeof where, ": block (%u, %u, %u), ", blockIdx.x, blockIdx.y, blockIdx.z);
  throw std::runtime_error((kernel + where).append(text));
}
[[noreturn, gnu::cold]] GPU_UNTRACED __attribute__((format(printf, 2, 3))) inline void fail(Site site, const char* format, ...) {
  char text[4096];
  int n = std::snprintf(text, sizeof text, "thread (%u, %u, %u): %s at %.1000s:%u: ", threadIdx.x, threadIdx.y, threadIdx.z, site.what,
                        site.where.file_name(), unsigned(site.where.line()));
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text + n, sizeof text - n, format, arguments);
  va_end(arguments);
  fail(text);
}

inline unsigned schedule() {  // 0: threads in ascending order; 1: descending; else the seed of a random order
  static const unsigned value = [] {
    const char* text = std::getenv("ALEXNET_SCHEDULE");
    return text ? unsigned(std::strtoul(text, nullptr, 10)) : 0u;
  }();
  return value;
}

// What TSan must know of the executor: that who acquires a token comes after who released it.
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
struct Untraced {  // what it must not see, where library code is called, which GPU_UNTRACED does not reach
  Untraced() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Untraced() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__), AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
};
#else
struct Untraced {
  Untraced() {}
};
#endif

constexpr std::size_t kSharedLimit = 227 << 10, kStaticSharedLimit = 48 << 10;  // of a block on an H100
constexpr std::size_t kSharedWindow = 256 << 10;                                // with room for red zones
constexpr std::size_t kRedZone = GPU_CHECKED ? 64 : 0, kDynamicAlignment = 1024;
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
  void* argument;  // its part of an operation of a warp or warpgroup
  unsigned mask;
  std::vector<Copy> copies;
  unsigned group;  // of its next cp_async
};

struct Warp {
  unsigned lanes, arrived, generation;
};

// The block that an OS thread is executing.
struct Block {
  static inline thread_local constinit Block* current = nullptr;  // null where threads are independent

  static Block& mine() {
    static thread_local Block block;
    return block;
  }

  // Runs one block of a grid: body(arguments) for every thread of `shape`.
  GPU_UNTRACED void run(uint3 index, dim3 grid, dim3 shape, std::size_t dynamic_bytes, void (*body)(void*), void* arguments) {
    blockIdx = index;
    gridDim = grid;
    blockDim = shape;
    this->body = body;
    this->arguments = arguments;
    begin(dynamic_bytes);
    current = this;
    release(&start_token);
    resume(*next(), main);
    current = nullptr;
    end();
  }

  // All that the blocks have done comes before what this OS thread does next.
  GPU_UNTRACED void join() {
    if (GPU_TSAN)
      for (auto& fiber : fibers) fiber->join();
  }

  GPU_UNTRACED unsigned rank() const { return self - threads.data(); }

  // Suspends the running thread: until its state is set to ready (waiting), or for a while (polling).
  [[gnu::noinline]] GPU_UNTRACED void suspend(State state, Site site) {
    Thread& me = *self;
    me.state = state;
    me.site = site;
    if (Thread* t = next()) {
      if (t != &me) resume(*t, *me.fiber);
    } else {
      me.fiber->switch_to(main);  // nobody can go on: main reports it
    }
    enter(me);
    if (me.state == State::polling)
      me.state = State::ready;
    else
      polls = 0;
  }

  [[gnu::noinline]] GPU_UNTRACED void barrier(Site site) {
    char* token = &barrier_tokens[generation & 1];
    release(token);
    if (++arrived < count) {
      suspend(State::waiting, site);
    } else {
      for (unsigned i = 0; i < count; ++i) {
        Thread& t = threads[i];
        if (&t != self && !(t.site == site)) disagree(site, t);
        t.state = State::ready;
      }
      arrived = 0;
      ++generation;
    }
    acquire(token);
  }

  // The lanes of `mask` meet; the last to come calls finish(their arguments, mask).
  template <class Finish>
  GPU_UNTRACED void meet_warp(unsigned mask, void* argument, Site site, Finish finish) {
    void* arguments[32];
    char* token = &warp_tokens[rank() / 32][warps[rank() / 32].generation & 1];
    if (arrive(mask, argument, site, token, arguments)) {
      finish(arguments, mask);
      depart(mask, token);
    }
    acquire(token);
  }

  // The 128 threads of a warpgroup meet; the last to come calls finish(number of the group, its first thread).
  template <class Finish>
  GPU_UNTRACED void meet_warpgroup(void* argument, Site site, Finish finish) {
    const unsigned group = rank() / 128, first = group * 128;
    if (first + 128 > count) fail(site, "the last warpgroup has only %u threads", count - first);
    self->argument = argument;
    self->site = site;
    char* token = warp_tokens[group * 4];
    release(token);
    if (++warpgroup_arrived[group] < 128) {
      suspend(State::waiting, site);
    } else {
      acquire(token);
      for (unsigned i = first; i < first + 128; ++i)
        if (!(threads[i].site == site)) disagree(site, threads[i]);
      warpgroup_arrived[group] = 0;
      finish(group, &threads[first]);
      release(token);
      for (unsigned i = first; i < first + 128; ++i) threads[i].state = State::ready;
    }
    acquire(token);
  }

  // Shared memory, once a block for every array.
  [[gnu::noinline]] GPU_UNTRACED void* carve(std::size_t bytes, std::size_t alignment, Site site) {
    const std::size_t at = (shared_end + kRedZone + alignment - 1) / alignment * alignment;
    shared_end = at + bytes;
    shared_used += bytes;
    if (shared_used > kSharedLimit || shared_used - dynamic_bytes > kStaticSharedLimit)
      fail(site, "shared memory exhausted: %zu bytes dynamic, %zu static", dynamic_bytes, shared_used - dynamic_bytes);
#if GPU_ASAN
    __asan_unpoison_memory_region(shared + at, bytes);
#endif
    if (GPU_CHECKED)  // volatile: not memset, which TSan would take for a write by the running thread
      for (std::size_t i = at; i < at + bytes; ++i) reinterpret_cast<volatile char*>(shared)[i] = char(0xff);
    return shared + at;
  }

  GPU_UNTRACED char* dynamic_shared(Site site) const {
    if (!dynamic_bytes) fail(site, "the launch asks for no bytes of shared memory");
    return shared + (kRedZone + kDynamicAlignment - 1) / kDynamicAlignment * kDynamicAlignment;
  }
  GPU_UNTRACED unsigned shared_address(const void* p, Site site) const {
    const std::size_t at = static_cast<const char*>(p) - shared;
    if (at >= kSharedWindow) fail(site, "the address is not in shared memory");
    return at;
  }

  // A table of where the threads stand.
  [[gnu::cold]] std::string positions() const {
    std::string text;
    std::vector<bool> told(count, false);
    for (unsigned i = 0; i < count; ++i) {
      if (told[i]) continue;
      const Thread& t = threads[i];
      std::string where = " have returned";
      if (t.state != State::done)
        where = std::string(" wait in ") + t.site.what + " at " + t.site.where.file_name() + ":" + std::to_string(t.site.where.line());
      text += "\n  threads ";
      unsigned ranges = 0;
      for (unsigned j = i, end; j < count; j = end + 1) {
        for (end = j; end < count && threads[end].state == t.state && threads[end].site == t.site; ++end) told[end] = true;
        if (end == j) continue;
        if (++ranges <= 4) text += (ranges == 1 ? "" : ", ") + std::to_string(j) + (end - j > 1 ? "-" + std::to_string(end - 1) : "");
      }
      text += (ranges > 4 ? ", ..." : "") + where;
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

  std::vector<Thread> threads;  // at least `count`
  unsigned count = 0;
  Thread* self = nullptr;    // the thread that runs
  unsigned polls = 0;        // since anybody went on
  std::uint64_t serial = 0;  // of the block on this OS thread
  char* shared = nullptr;    // a window: the dynamic array first, then the others as they are met
  bool independent = false;
  const char* (*end_hopper)() = nullptr;  // set by hopper_on_cpu.hpp: forgets the block, returns what it left undone

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
        if (idle.empty()) add_fiber(), idle.push_back(fibers.back().get());
        t.fiber = idle.back();
        idle.pop_back();
      }
      t.fiber->begin(&run_threads, &t - threads.data());
      t.state = State::ready;
      polls = 0;
    }
    enter(t);
    from.switch_to(*t.fiber, leaving);
  }
  [[gnu::cold]] void add_fiber() { fibers.push_back(std::make_unique<Fiber>(kStack)); }

  // The life of a fiber. Who has finished a thread begins the next fresh one: blocks without barriers never switch.
  GPU_UNTRACED static void run_threads() {
    Block& b = *current;
    for (;;) {
      Thread& me = *b.self;
      Fiber& mine = *me.fiber;
      acquire(&b.start_token);
      bool failed = false;
      try {
        b.body(b.arguments);
      } catch (...) {
        b.error = std::current_exception();
        failed = true;
      }
      if (failed) mine.switch_to(b.main, true);
      me.state = State::done;
      me.site = {};
      ++b.finished;
      b.polls = 0;
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
      if (t)
        b.resume(*t, mine, true);
      else
        mine.switch_to(b.main, true);
    }
  }

  [[gnu::noinline]] GPU_UNTRACED void begin(std::size_t dynamic) {
    Untraced untraced;
    if (blockDim.x != shape.x || blockDim.y != shape.y || blockDim.z != shape.z) set_shape();
    if (GPU_CHECKED) set_order();
    arrived = finished = cursor = polls = 0;
    for (unsigned i = 0; i < count; ++i) threads[i].state = State::fresh;
    for (unsigned w = 0; w < 32; ++w) warps[w].arrived = 0;
    for (unsigned g = 0; g < 8; ++g) warpgroup_arrived[g] = 0;
#if GPU_TSAN  // a fiber for every thread, another one in the next block, and fresh pages: nothing but the kernel orders blocks
    for (unsigned i = 0; i < count; ++i) threads[i].fiber = fibers[(i + serial) % fibers.size()].get();
    mmap(shared, kSharedWindow, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
#if GPU_ASAN
    __asan_poison_memory_region(shared, kSharedWindow);
#endif
    ++serial;
    shared_end = shared_used = 0;
    dynamic_bytes = dynamic;
    if (dynamic) carve(dynamic, kDynamicAlignment, {});
  }

  [[gnu::noinline]] GPU_UNTRACED void end() {
    Untraced untraced;
    std::string mistake;
    if (finished != count && !error)
      mistake = "deadlock: a barrier or an operation of a warp is not reached by all its threads" + positions();
    for (unsigned i = 0; i < count; ++i) {
      Thread& t = threads[i];
      t.copies.clear();
      t.group = 0;
      t.fiber = nullptr;
    }
    if (end_hopper)
      if (const char* undone = end_hopper(); undone && finished == count) mistake = undone;
    if (finished == count && mistake.empty()) return;
    join();
    idle.clear();  // some fibers were abandoned with frames on their stacks
    fibers.clear();
    shape = dim3(0, 0, 0);
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
    fail(mistake.c_str());
  }

  [[gnu::cold]] GPU_UNTRACED void set_shape() {
    shape = blockDim;
    count = shape.x * shape.y * shape.z;
    if (threads.size() < count) threads.resize(count), order.resize(count);
    if (GPU_TSAN)  // a fiber comes after what its creator did, so none of the others may be it
      while (fibers.size() < count) add_fiber();
    for (unsigned i = 0; i < count; ++i) {
      threads[i].index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
      order[i] = i;
    }
    for (unsigned w = 0; w < 32; ++w) warps[w].lanes = w * 32 >= count ? 0 : count - w * 32 >= 32 ? ~0u : (1u << (count - w * 32)) - 1;
  }

  [[gnu::cold]] GPU_UNTRACED void set_order() {
    for (unsigned i = 0; i < count; ++i) order[i] = schedule() == 1 ? count - 1 - i : i;
    if (schedule() < 2) return;
    unsigned r = (schedule() * 2654435761u + (blockIdx.x + blockIdx.y * 31 + blockIdx.z * 961) * 7919u) | 1;
    for (unsigned k = count; k > 1; --k) {
      r ^= r << 13, r ^= r >> 17, r ^= r << 5;
      std::swap(order[k - 1], order[r % k]);
    }
  }

  // A lane comes to an operation of its warp; true for the last, which gets the arguments of all.
  [[gnu::noinline]] GPU_UNTRACED bool arrive(unsigned mask, void* argument, Site site, char* token, void** arguments) {
    const unsigned first = rank() / 32 * 32, lane = rank() % 32;
    Warp& warp = warps[first / 32];
    if (!(mask >> lane & 1)) fail(site, "the calling lane %u is not in its mask %08x", lane, mask);
    if (mask & ~warp.lanes) fail(site, "mask %08x names lanes that the block does not have", mask);
    release(token);
    self->argument = argument;
    self->mask = mask;
    self->site = site;
    warp.arrived |= 1u << lane;
    if ((warp.arrived & mask) != mask) {
      suspend(State::waiting, site);
      return false;
    }
    for (unsigned l = 0; l < 32; ++l) {
      if (!(mask >> l & 1)) continue;
      const Thread& t = threads[first + l];
      if (!(t.site == site)) disagree(site, t);
      if (t.mask != mask) fail(site, "the lanes disagree on the mask: %08x here, %08x in lane %u", mask, t.mask, l);
      arguments[l] = t.argument;
    }
    acquire(token);
    return true;
  }
  [[gnu::noinline]] GPU_UNTRACED void depart(unsigned mask, char* token) {
    const unsigned first = rank() / 32 * 32;
    release(token);
    warps[first / 32].arrived &= ~mask;
    if (mask == ~0u) ++warps[first / 32].generation;
    for (unsigned l = 0; l < 32; ++l)
      if (mask >> l & 1) threads[first + l].state = State::ready;
  }

  [[noreturn, gnu::cold]] GPU_UNTRACED void disagree(Site site, const Thread& t) {
    fail(site, "thread (%u, %u, %u) waits in %s at line %u", t.index.x, t.index.y, t.index.z, t.site.what, unsigned(t.site.where.line()));
  }

  Fiber main;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  std::vector<unsigned> order;  // in which threads get their turn
  dim3 shape{0, 0, 0};          // that threads and order were made for
  unsigned arrived = 0, finished = 0, cursor = 0, generation = 0;
  Warp warps[32] = {};
  unsigned warpgroup_arrived[8] = {};
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  std::exception_ptr error;
  std::size_t shared_end = 0, shared_used = 0, dynamic_bytes = 0;
  char start_token, barrier_tokens[2], warp_tokens[32][2];  // addresses that stand for a meeting
};

// The block in which threads may meet.
GPU_UNTRACED inline Block& meeting(Site site) {
  if (!Block::current || Block::current->independent) fail(site, "not allowed in a launch declared independent");
  return *Block::current;
}

template <class Finish>
GPU_UNTRACED inline void meet_warp(unsigned mask, void* argument, Site site, Finish finish) {
  meeting(site).meet_warp(mask, argument, site, finish);
}

struct Slot {  // a shared array's place in the current block
  std::uint64_t serial = 0;
  void* array = nullptr;
};
GPU_UNTRACED inline void* shared_array(Slot& slot, std::size_t bytes, std::size_t alignment, Site site) {
  Block& b = meeting(site);
  if (slot.serial != b.serial) slot.array = b.carve(bytes, alignment, site), slot.serial = b.serial;
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
  Iterator begin() const {
    return {grid, first, {unsigned(first % grid.x), unsigned(first / grid.x % grid.y), unsigned(first / grid.x / grid.y)}};
  }
  Iterator end() const { return {grid, last, {}}; }
};

// f(blocks) for ranges that make up the grid, spread over the pool.
template <class F>
inline void for_each_range(dim3 grid, long lanes, F f) {
  const long total = long(grid.x) * grid.y * grid.z, ranges = lanes == 1 ? 1 : std::min(total, lanes * 8);
  ThreadPool::get().run(ranges, [&](long r, int) { f(Blocks{grid, total * r / ranges, total * (r + 1) / ranges}); });
}

template <auto Kernel, class... A>
struct Call {
  std::tuple<A...> arguments;
  static void run(void* call) { std::apply(Kernel, static_cast<Call*>(call)->arguments); }
};

[[gnu::noinline]] inline void run_blocks(Name* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, bool independent,
                                         void (*body)(void*), void* call) {
  // Under TSan by this thread alone: in its eyes blocks are unordered whoever runs them, so no race is missed, and the
  // fibers, which are costly there, are made once. Tasks do run side by side.
  for_each_range(grid, GPU_TSAN ? 1 : ThreadPool::get().lanes(), [&](Blocks blocks) {
    current_kernel = kernel;
    Block& b = Block::mine();
    b.independent = independent;
    for (uint3 index : blocks) b.run(index, grid, block, shared_bytes, body, call);
    b.join();
  });
}
template <auto Kernel, class... A>
inline void launch(dim3 grid, dim3 block, std::size_t shared_bytes, bool independent, A... arguments) {
  Call<Kernel, A...> call{{arguments...}};
  run_blocks(&gpu::kernel_name<Kernel>, grid, block, shared_bytes, independent, &call.run, &call);
}

// Refuses what a GPU refuses.
[[gnu::noinline]] inline void check_configuration(Name* kernel, dim3 grid, dim3 block, std::size_t shared_bytes) {
  const std::uint64_t threads = std::uint64_t(block.x) * block.y * block.z;
  if (threads && threads <= 1024 && block.z <= 64 && grid.x && grid.x <= 0x7fffffff && grid.y && grid.y <= 65535 && grid.z &&
      grid.z <= 65535 && shared_bytes <= kSharedLimit)
    return;
  char text[256];
  std::snprintf(text, sizeof text, ": invalid launch configuration: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of shared memory",
                grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes);
  throw std::runtime_error(kernel() + text);
}

}  // namespace executor

namespace gpu {

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// The threads of a block may meet at barriers.
template <auto Kernel, class... A>
inline void launch(const Launch& l, A... arguments) {
  executor::check_configuration(&kernel_name<Kernel>, l.grid, l.block, l.shared_bytes);
  executor::launch<Kernel>(l.grid, l.block, l.shared_bytes, false, arguments...);
}

// The threads are independent and the kernel is right for every block size: it runs with one thread a block, inlined and
// vectorised. A checked build runs the real block shape under every schedule but 0.
template <auto Kernel, class... A>
inline void launch_independent(const Launch& l, A... arguments) {
  executor::check_configuration(&kernel_name<Kernel>, l.grid, l.block, l.shared_bytes);
  if constexpr (GPU_CHECKED)
    if (executor::schedule()) return executor::launch<Kernel>(l.grid, l.block, l.shared_bytes, true, arguments...);
  executor::for_each_range(l.grid, executor::ThreadPool::get().lanes(), [=](executor::Blocks blocks) __attribute__((flatten)) {
    executor::current_kernel = &kernel_name<Kernel>;
    gridDim = blocks.grid;
    for (uint3 index : blocks) {
      blockIdx = index;
      threadIdx = {0, 0, 0};  // in every block, or a kernel that writes bytes might have changed it
      blockDim = dim3(1, 1, 1);
      Kernel(arguments...);
    }
  });
}

// Host code: f(task, lane) for every task below count. Tasks spread over the threads; those that run at the same time have
// different lanes below lanes(), which name scratch memory. Inside a task there is one lane, and launches run in its thread.
template <class F>
inline void for_each_task(long count, F f) {
  executor::ThreadPool::get().run(count, f);
}
inline int lanes() { return executor::ThreadPool::get().lanes(); }
inline int threads() { return executor::ThreadPool::get().threads(); }
inline void set_threads(int n) { executor::ThreadPool::get().set_threads(n); }

// C = alpha op(A) op(B) + beta C, row-major, through the BLAS that the process registered; false where there is none.
bool blas_sgemm(bool transpose_a, bool transpose_b, long M, long N, long K, float alpha, const float* a, long lda, const float* b, long ldb,
                float beta, float* c, long ldc);

#define GPU_HERE ::executor::Location where = ::executor::Location::current()

// Shared memory. GPU_SHARED(float, tile, [8][128]); declares an array, aligned to 16 bytes.
#define GPU_SHARED(type, name, dims)                          \
  static thread_local constinit ::executor::Slot name##_slot; \
  using name##_type = type dims;                              \
  auto& name = *static_cast<name##_type*>(                    \
      ::executor::shared_array(name##_slot, sizeof(name##_type), 16, {"GPU_SHARED", ::executor::Location::current()}))
template <class T>
inline T* dynamic_shared(GPU_HERE) {
  return reinterpret_cast<T*>(executor::meeting({"dynamic_shared", where}).dynamic_shared({"dynamic_shared", where}));
}
inline unsigned shared_address(const void* p, GPU_HERE) {
  return executor::meeting({"shared_address", where}).shared_address(p, {"shared_address", where});
}

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
inline void __syncthreads(GPU_HERE) { executor::meeting({"__syncthreads", where}).barrier({"__syncthreads", where}); }
inline void __syncwarp(unsigned mask = ~0u, GPU_HERE) {
  executor::meet_warp(mask, nullptr, {"__syncwarp", where}, [](void**, unsigned) {});
}

namespace executor {
template <class T>
struct Shuffle {
  T value;
  unsigned source;
};
template <class T>
GPU_UNTRACED inline T shuffle(unsigned mask, T value, unsigned source, Site site) {
  using Part = Shuffle<T>;
  Part part{value, source};
  meet_warp(mask, &part, site, [=](void** parts, unsigned m) {
    T result[32];
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) {
        const unsigned from = static_cast<Part*>(parts[l])->source;
        if (!(m >> from & 1)) fail(site, "lane %u reads lane %u, which is not in mask %08x", l, from, m);
        result[l] = static_cast<Part*>(parts[from])->value;
      }
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) static_cast<Part*>(parts[l])->value = result[l];
  });
  return part.value;
}
inline unsigned lane(Site site) { return meeting(site).rank() % 32; }
}  // namespace executor

template <class T>
inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, GPU_HERE) {
  const unsigned lane = executor::lane({"__shfl_sync", where});
  return executor::shuffle(mask, v, (lane & ~(width - 1)) + (from & (width - 1)), {"__shfl_sync", where});
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, GPU_HERE) {
  const unsigned lane = executor::lane({"__shfl_xor_sync", where}), from = lane ^ x;
  return executor::shuffle(mask, v, from / width > lane / width ? lane : from, {"__shfl_xor_sync", where});
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, GPU_HERE) {
  const unsigned lane = executor::lane({"__shfl_down_sync", where});
  return executor::shuffle(mask, v, lane % width + d < unsigned(width) ? lane + d : lane, {"__shfl_down_sync", where});
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, GPU_HERE) {
  const unsigned lane = executor::lane({"__shfl_up_sync", where});
  return executor::shuffle(mask, v, lane % width >= d ? lane - d : lane, {"__shfl_up_sync", where});
}
GPU_UNTRACED inline unsigned __ballot_sync(unsigned mask, int predicate, GPU_HERE) {
  unsigned vote = predicate != 0;
  executor::meet_warp(mask, &vote, {"__ballot_sync", where}, [](void** votes, unsigned m) {
    unsigned all = 0;
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1 && *static_cast<unsigned*>(votes[l])) all |= 1u << l;
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) *static_cast<unsigned*>(votes[l]) = all;
  });
  return vote;
}
inline int __any_sync(unsigned mask, int predicate, GPU_HERE) { return __ballot_sync(mask, predicate, where) != 0; }
inline int __all_sync(unsigned mask, int predicate, GPU_HERE) { return __ballot_sync(mask, predicate, where) == mask; }

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return std::uint64_t(a) * b >> 32; }
template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}

namespace executor {
template <class T, class F>
inline T atomic(T* p, F f) {
  using U = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  U* u = reinterpret_cast<U*>(p);
  U old = __atomic_load_n(u, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(u, &old, __builtin_bit_cast(U, f(__builtin_bit_cast(T, old))), true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {}
  return __builtin_bit_cast(T, old);
}
}  // namespace executor
template <class T>
inline T atomicAdd(T* p, std::type_identity_t<T> v) {
  return executor::atomic(p, [v](T old) { return T(old + v); });
}
template <class T>
inline T atomicMax(T* p, std::type_identity_t<T> v) {
  return executor::atomic(p, [v](T old) { return old < v ? v : old; });
}
template <class T>
inline T atomicExch(T* p, std::type_identity_t<T> v) {
  return executor::atomic(p, [v](T) { return v; });
}
template <class T>
inline T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return executor::atomic(p, [=](T old) { return old == expected ? v : old; });
}

// ---- PTX-level operations (gpu.cuh has the GPU's side)
namespace gpu {

// Carried out as late as the program allows: by the wait that completes it. Until then a checked build shows NaN.
template <int Bytes>
GPU_UNTRACED inline void cp_async(void* to, const void* from, bool valid = true, GPU_HERE) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  const executor::Site site{"cp_async", where};
  executor::Block& b = executor::meeting(site);
  if (b.shared_address(to, site) % Bytes || (valid && reinterpret_cast<std::uintptr_t>(from) % Bytes))
    executor::fail(site, "an address is not aligned to %d bytes", Bytes);
  if (GPU_CHECKED) std::memset(to, 0xff, Bytes);
  executor::Untraced untraced;
  b.self->copies.push_back({to, valid ? from : nullptr, Bytes, b.self->group});
}
GPU_UNTRACED inline void cp_async_commit(GPU_HERE) { ++executor::meeting({"cp_async_commit", where}).self->group; }
template <int Pending>
GPU_UNTRACED inline void cp_async_wait(GPU_HERE) {
  executor::Thread& t = *executor::meeting({"cp_async_wait", where}).self;
  std::size_t done = 0;
  for (; done < t.copies.size() && t.copies[done].group + Pending < t.group; ++done) {
    const executor::Copy& c = t.copies[done];
    if (c.from)
      std::memcpy(c.to, c.from, c.bytes);
    else
      std::memset(c.to, 0, c.bytes);
  }
  executor::Untraced untraced;
  t.copies.erase(t.copies.begin(), t.copies.begin() + done);
}

// Four 8x8 matrices of 16-bit elements: lane l names row l % 8 of matrix l / 8 and receives, of every matrix, the elements
// 2 (l % 4) and the next of row l / 4, or of column l / 4 (Transposed).
template <int N, bool Transposed>
inline void ldmatrix(unsigned (&r)[N], const void* row, GPU_HERE) {
  static_assert(N == 4);
  struct Part {
    const void* row;
    unsigned* out;
  } part{row, r};
  const executor::Site site{"ldmatrix", where};
  executor::Block& b = executor::meeting(site);
  if (b.shared_address(row, site) % 16) executor::fail(site, "the row is not aligned to 16 bytes");
  b.meet_warp(~0u, &part, site, [](void** parts, unsigned) {
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

inline unsigned round_tf32(float v) {
  return std::isnan(v) ? 0x7fffffff : std::isinf(v) ? __float_as_uint(v) : (__float_as_uint(v) + 0x1000) & ~0x1fffu;
}
inline unsigned round_bf16(float low, float high) { return __nv_bfloat16(low).bits | unsigned(__nv_bfloat16(high).bits) << 16; }

// D (16 x 8) += A (16 x K) B (K x 8), each in the registers of a warp.
struct MmaPart {
  float* d;
  const unsigned *a, *b;
};
template <int K, class Unpack>
[[gnu::noinline]] GPU_UNTRACED inline void mma(MmaPart part, executor::Site site, Unpack unpack) {
  executor::meet_warp(~0u, &part, site, [=](void** parts, unsigned) GPU_UNTRACED {
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
inline void mma_tf32_16x8x8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], GPU_HERE) {
  mma<8>({d, a, b}, {"mma_tf32_16x8x8", where}, [](int l, MmaPart& part, float (&A)[16][8], float (&B)[8][8]) GPU_UNTRACED {
    const auto tf32 = [](unsigned u) { return __uint_as_float(u & ~0x1fffu); };  // the hardware ignores the low 13 bits
    for (int r = 0; r < 4; ++r) A[l / 4 + r % 2 * 8][l % 4 + r / 2 * 4] = tf32(part.a[r]);
    for (int r = 0; r < 2; ++r) B[l % 4 + r * 4][l / 4] = tf32(part.b[r]);
  });
}
inline void mma_bf16_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], GPU_HERE) {
  mma<16>({d, a, b}, {"mma_bf16_16x8x16", where}, [](int l, MmaPart& part, float (&A)[16][16], float (&B)[16][8]) GPU_UNTRACED {
    const auto half = [](unsigned u, int e) { return __uint_as_float(u >> 16 * e << 16); };
    for (int e = 0; e < 2; ++e) {
      for (int r = 0; r < 4; ++r) A[l / 4 + r % 2 * 8][l % 4 * 2 + r / 2 * 8 + e] = half(part.a[r], e);
      for (int r = 0; r < 2; ++r) B[l % 4 * 2 + r * 8 + e][l / 4] = half(part.b[r], e);
    }
  });
}

}  // namespace gpu
#pragma GCC visibility pop
