// warp.h - what runs: a launch, one of its blocks, the block's warps. A warp executes each instruction for all lanes that are there at
// once.
#pragma once
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "memory.h"
#include "program.h"
#include "sums.h"

namespace ptx {

struct Dim {
  u32 x = 1, y = 1, z = 1;
  u32 count() const { return x * y * z; }
};

struct Options {
  u32 schedule = 0;    // warps and blocks in ascending order; 1: descending; else the seed of a random one
  bool early = false;  // what is asynchronous happens at once, not as late as its waits allow
  bool races = true;   // look for accesses that nothing orders
  Sums sums = Sums::exact;
};

class Random {  // xorshift
 public:
  explicit Random(u32 seed) : state_(seed * 2654435761u | 1) {}
  u32 operator()(u32 n) {
    state_ ^= state_ << 13, state_ ^= state_ >> 17, state_ ^= state_ << 5;
    return u32(u64(state_) * n >> 32);
  }

 private:
  u32 state_;
};

struct Launch {
  const Program& program;
  Dim grid, block;
  u32 dynamic_bytes = 0;
  const char* parameters = nullptr;
  GlobalMemory& global;
  Options options;
  u32 first_block = 1;  // blocks are numbered over all launches, so that what earlier ones did is told apart
  Random random{options.schedule};
};

struct Block;

// A wgmma that was issued and not waited for.
struct Product {
  const Instruction* instruction;
  u64 a, b;
  bool accumulate;
};

// Lanes that are at the same instruction.
struct Group {
  u32 lanes;
  u32 at;
  bool waiting = false;
  u64 ticket = 0;  // what it waits for, as its instruction counts
};

class Warp {
 public:
  Block* block;
  Launch* launch;
  u32 number;   // in the block
  u32 present;  // lanes that have a thread
  u32 live;     // and have not ended
  std::vector<Group> groups;
  Group* current = nullptr;
  Clock clock;   // what it knows of the other warps
  u32 step = 1;  // counts what orders its lanes among each other

  std::vector<std::vector<SharedCopy>> copies;  // cp.async: committed groups, oldest first
  std::vector<SharedCopy> open_copies;
  std::deque<std::vector<Product>> products;  // wgmma: committed groups, oldest first
  std::vector<Product> open_products;
  std::unordered_map<u32, u32> meaningless;         // by accumulator's number: lanes that a wgmma computes from what nobody has written
  bool fenced = false;                              // no accumulator was written since the last wgmma.fence
  u32 issued_products = 0;                          // since the block began
  std::vector<std::pair<u32, u32>> generic_writes;  // to shared memory, which the async proxy does not see yet

  template <class T>
  T* lanes_of(const Operand& o) const {
    return reinterpret_cast<T*>((o.constant ? constants_ : registers_) + o.offset);
  }
  u32& predicate(const Operand& o) const { return *lanes_of<u32>(o); }
  u64 value(const Operand& o, int lane) const;  // without a sign
  void set(const Operand& o, int lane, u64 value);

  // A read of registers that these lanes have not written is a fault.
  void need(const Operand& o, u32 lanes) const {
    if ((defined_[o.id] & lanes) != lanes) [[unlikely]]
      undefined(o, lanes);
  }
  void define(const Operand& o, u32 lanes) { defined_[o.id] |= lanes; }
  void undefine(const Operand& o, u32 lanes) { defined_[o.id] &= ~lanes; }
  u32 defined(const Operand& o) const { return defined_[o.id]; }

  Warp(Block& block, u32 number);
  void restart();
  bool run();  // until all its lanes wait or have ended; whether any went on
  [[noreturn]] void fail(const std::string& what, int lane = -1) const;

 private:
  [[noreturn]] void undefined(const Operand& o, u32 lanes) const;
  void meet();
  char* registers_;
  char* constants_;
  std::unique_ptr<u64[]> storage_;
  std::vector<u32> defined_;  // by register, the lanes that have written it
};

struct Barrier {  // bar.sync's
  u32 arrived = 0, expected = 0;
  u64 generation = 1;
  Clock clock, complete;  // of who has arrived; of all when it was complete
};

struct Mbarrier {  // section 9.7.13.15: pending arrivals and bytes of a phase
  u32 expected = 0, pending = 0;
  s64 bytes = 0;
  u64 phase = 0;
  bool visible = false;      // to the async proxy
  u32 initializer = 0;       // warp
  Clock known;               // by whom it was initialised
  Clock arriving, complete;  // what who waits for the phase will know
};
void complete_if_done(Mbarrier& barrier);  // the phase, once nothing is pending

struct BulkCopy;

struct Block {
  Launch& launch;
  Dim index;
  u32 serial = 0;  // over all launches
  SharedMemory shared;
  std::vector<std::unique_ptr<Warp>> warps;
  std::array<Barrier, 16> barriers;
  std::unordered_map<u32, Mbarrier> mbarriers;  // by address
  std::deque<BulkCopy> bulk;                    // TMA's copies under way
  std::vector<std::vector<Product>> issued;     // by warpgroup: the wgmmas in the order of the first warp that issued them
  bool progress = false;

  explicit Block(Launch& launch);
  ~Block();
  void run(Dim index);
  u32 threads() const { return launch.block.count(); }
};

// A launch of the whole grid. Fault names kernel, block, warp, lane, line and instruction.
void run(Launch& launch);

// copies.cpp: one of TMA's copies that is under way, if there is any, happens.
bool finish_bulk_copy(Block& block);

}  // namespace ptx
