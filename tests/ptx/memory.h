// memory.h - global memory as the arrays of one call, a block's shared memory, and who accessed what when.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "program.h"

namespace ptx {

class Warp;
struct Launch;

constexpr u32 max_warps = 32;

// How far each warp of the block has come, as far as one knows (a vector clock).
struct Clock {
  std::array<u32, max_warps> at{};
  void join(const Clock& other) {
    for (u32 w = 0; w < max_warps; ++w) at[w] = std::max(at[w], other.at[w]);
  }
};

struct Access {
  u32 block = 0;  // counted over all launches; 0: none
  u32 clock = 0;  // the warp's own
  u32 step = 0;   // orders lanes of one warp
  u8 warp = 0, lane = 0;
};

// Finds accesses to the same bytes, one of them a write, that nothing orders: other lanes without bar.warp.sync, other warps
// without a barrier between them, other blocks. A byte's last write and, since then, its readers are kept.
class Races {
 public:
  void resize(std::size_t bytes, u32 grain);  // grain: bytes that are always accessed together
  // Fault where this access races with an earlier one. `what` names the memory.
  void access(const Warp& warp, int lane, u64 offset, u32 bytes, bool write, const char* what);

 private:
  struct Cell {
    Access write, read;
    u32 readers = 0;     // index into `many_`, where several warps have read
    bool lanes = false;  // several lanes of `read.warp` have
  };
  struct Readers {
    std::array<u32, max_warps> clock{};
  };
  std::vector<Cell> cells_;
  std::vector<Readers> many_{1};
  u32 grain_ = 1;
};

// The arrays that a call may access; an address outside them is a fault, unless nobody told of any.
class GlobalMemory {
 public:
  struct Array {
    u64 address, bytes;
    u32 grain;
    bool writable;
    Races races;
  };
  void set(std::vector<Array> arrays);
  // The memory of these bytes, after all checks. `read_only`: the kernel promised not to write it (ld.global.nc).
  char* access(const Warp& warp, int lane, u64 address, u32 bytes, u32 align, bool write);

 private:
  std::vector<Array> arrays_;
  std::size_t last_ = 0;
};

// A block's shared memory: addresses count from shared_base.
class SharedMemory {
 public:
  enum State : u8 { nothing, empty, full, in_flight, mbarrier };  // of a byte; nothing: belongs to no variable

  void restart(const Program& program, u32 dynamic_bytes);
  char* access(Warp& warp, int lane, u64 address, u32 bytes, u32 align, bool write);
  // For the async proxy: what generic writes left is a fault unless a fence made it visible; nothing for bytes that nobody has written
  // or a copy is writing.
  const char* async_read(const Warp& warp, u32 address, u32 bytes);
  // An asynchronous write: from its beginning until it lands nobody else may touch these bytes.
  void begin_async_write(const Warp& warp, u32 address, u32 bytes, int lane);
  char* async_write(u32 address);  // the memory of one that began
  void land(const Warp& warp, u32 address, u32 bytes, int lane, bool async_proxy);
  void make_mbarrier(const Warp& warp, u32 address, int lane);
  void fence(Warp& warp);  // fence.proxy.async of one warp: the async proxy sees what it has written
  u32 bytes() const { return u32(data_.size()); }

 private:
  void check(const Warp& warp, int lane, u64 address, u32 bytes, u32 align, const char* what) const;
  std::vector<char> data_;
  std::vector<u8> state_;
  std::vector<u8> generic_;  // the warp that wrote it, plus one, until it fenced
  Races races_;
};

// A cp.async under way (section 9.7.9.25.3).
struct SharedCopy {
  u32 to;
  const char* from;
  u32 bytes, valid;  // the rest becomes zero
  int lane;
};

}  // namespace ptx
