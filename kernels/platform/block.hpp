// block.hpp - a block of threads that may meet: a fiber for each, which goes on until it waits for others. Included by
// executor.cpp alone.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fiber.hpp"
#include "gpu.cuh"
#include "kernel_name.hpp"

#pragma GCC visibility push(hidden)
namespace executor {

// Ends the launch with an exception that names the kernel, the block and, as the text should, the threads and the line.
[[noreturn, gnu::cold]] GPU_UNTRACED inline void fail(const char* text) {
  const std::string kernel = gpu::kernel_name(current_kernel);
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
  unsigned rank;
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
    if (!independent) current = this, meeting = serial;
    release(&start_token);
    resume(*next(), main);
    current = nullptr;
    meeting = 0;
    end();
  }

  // All that the blocks have done comes before what this OS thread does next.
  GPU_UNTRACED void join() {
    if (GPU_TSAN)
      for (auto& fiber : fibers) fiber->join();
  }

  GPU_UNTRACED unsigned rank() const { return self->rank; }

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
  [[gnu::always_inline]] GPU_UNTRACED void meet_warp(unsigned mask, void* argument, Site site, Finish finish) {
    char* token = &warp_tokens[rank() / 32][warps[rank() / 32].generation & 1];
    if (arrive(mask, argument, site, token)) finish_warp(mask, site, token, finish);
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
  const char* (*end_hopper)() = nullptr;  // set by hopper_block.hpp: forgets the block, returns what it left undone

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
      t.fiber->begin(&run_threads, t.rank);
      t.state = State::ready;
      polls = 0;
    }
    enter(t);
    from.switch_to(*t.fiber, leaving);
  }
  [[gnu::cold]] void add_fiber() { fibers.push_back(std::make_unique<Fiber>(kStack)); }

  // The life of a fiber. Who has finished a thread begins the next fresh one: blocks without barriers never switch.
  GPU_UNTRACED static void run_threads() {
    Block& b = mine();
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
      threads[i].rank = i;
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

  // A lane comes to an operation of its warp; true for the last.
  [[gnu::always_inline]] GPU_UNTRACED bool arrive(unsigned mask, void* argument, Site site, char* token) {
    const unsigned lane = rank() % 32;
    Warp& warp = warps[rank() / 32];
    if (!(mask >> lane & 1)) fail(site, "the calling lane %u is not in its mask %08x", lane, mask);
    if (mask & ~warp.lanes) fail(site, "mask %08x names lanes that the block does not have", mask);
    release(token);
    self->argument = argument;
    self->mask = mask;
    self->site = site;
    warp.arrived |= 1u << lane;
    if ((warp.arrived & mask) == mask) return true;
    suspend(State::waiting, site);
    return false;
  }
  // What only the last lane needs memory for: the stacks of those that wait should stay short.
  template <class Finish>
  [[gnu::noinline]] GPU_UNTRACED void finish_warp(unsigned mask, Site site, char* token, Finish finish) {
    void* arguments[32];
    for (unsigned l = 0; l < 32; ++l) {
      if (!(mask >> l & 1)) continue;
      const Thread& t = threads[rank() / 32 * 32 + l];
      if (!(t.site == site)) disagree(site, t);
      if (t.mask != mask) fail(site, "the lanes disagree on the mask: %08x here, %08x in lane %u", mask, t.mask, l);
      arguments[l] = t.argument;
    }
    acquire(token);
    finish(arguments, mask);
    depart(mask, token);
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
GPU_UNTRACED inline Block& meeting_at(Site site) {
  if (!Block::current) fail(site, "not allowed in a launch declared independent");
  return *Block::current;
}

}  // namespace executor
#pragma GCC visibility pop
