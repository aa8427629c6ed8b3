// memory.cpp - checks of global and shared memory, and the search for races (PTX ISA, sections 5.1 and 8: state spaces, memory
// consistency).
#include "memory.h"

#include <algorithm>

#include "warp.h"

namespace ptx {

namespace {

std::string hex(u64 n) {
  char text[20];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(n));
  return text;
}

}  // namespace

// ---- races

void Races::resize(std::size_t bytes, u32 grain) {
  grain_ = grain;
  cells_.assign((bytes + grain - 1) / grain, {});
  many_.assign(1, {});
}

void Races::access(const Warp& warp, int lane, u64 offset, u32 bytes, bool write, const char* what) {
  const u32 block = warp.block->serial, first = warp.launch->first_block;
  const Access now{block, warp.clock.at[warp.number], warp.step, u8(warp.number), u8(lane)};
  const auto ordered = [&](const Access& then, bool several_lanes) {  // what was done before is known here
    if (then.block < first) return true;
    if (then.block != block) return false;
    if (then.warp == now.warp) return then.step < now.step || (then.lane == now.lane && !several_lanes);
    return warp.clock.at[then.warp] >= then.clock;
  };
  const auto tell = [&](const Access& then, const char* did) {
    std::string text =
        std::string(write ? "writes" : "reads") + " what nothing orders after thread " + std::to_string(then.warp * warp_size + then.lane);
    if (then.block != block) text += " of another block";
    warp.fail(text + " " + did + " it: a race in " + what + " at byte " + std::to_string(offset), lane);
  };
  for (u64 c = offset / grain_; c < (offset + bytes + grain_ - 1) / grain_; ++c) {
    Cell& cell = cells_[c];
    if (!ordered(cell.write, false)) tell(cell.write, "wrote");
    if (write) {
      if (cell.read.block == block && cell.readers) {
        for (u32 w = 0; w < max_warps; ++w)
          if (w != now.warp && many_[cell.readers].clock[w] > warp.clock.at[w]) {
            Access then = cell.read;
            then.warp = u8(w), then.lane = 0;
            tell(then, "read");
          }
      } else if (!ordered(cell.read, cell.lanes)) {
        tell(cell.read, "read");
      }
      cell.write = now, cell.read = {}, cell.readers = 0, cell.lanes = false;
    } else if (cell.read.block == block && cell.readers) {
      many_[cell.readers].clock[now.warp] = now.clock;
      cell.read = now;
    } else if (cell.read.block != block || ordered(cell.read, cell.lanes) || cell.read.warp == now.warp) {
      if (cell.read.block == block && cell.read.warp == now.warp && cell.read.step == now.step)
        cell.lanes |= cell.read.lane != now.lane;
      else
        cell.lanes = false;
      cell.read = now;
    } else {  // readers of two warps that do not know of each other
      cell.readers = u32(many_.size());
      many_.emplace_back();
      many_.back().clock[cell.read.warp] = cell.read.clock;
      many_.back().clock[now.warp] = now.clock;
      cell.read = now;
    }
  }
}

// ---- global memory

void GlobalMemory::set(std::vector<Array> arrays) {
  arrays_ = std::move(arrays);
  for (Array& a : arrays_) a.races.resize(a.bytes, a.grain);
  last_ = 0;
}

char* GlobalMemory::access(const Warp& warp, int lane, u64 address, u32 bytes, u32 align, bool write) {
  if (address % align) [[unlikely]]
    warp.fail("address " + hex(address) + " is not a multiple of " + std::to_string(align), lane);
  if (arrays_.empty()) {
    if (address < 65536) warp.fail("address " + hex(address) + " is no memory", lane);
    return reinterpret_cast<char*>(address);
  }
  const auto inside = [&](const Array& a) { return address >= a.address && address + bytes <= a.address + a.bytes; };
  if (!inside(arrays_[last_])) {
    const auto found = std::find_if(arrays_.begin(), arrays_.end(), inside);
    if (found == arrays_.end()) {
      std::string text = "address " + hex(address) + " lies in no array of the call";
      for (const Array& a : arrays_)
        if (address + 65536 > a.address && address < a.address + a.bytes + 65536)
          text += ", is byte " + std::to_string(s64(address - a.address)) + " of one of " + std::to_string(a.bytes);
      warp.fail(text, lane);
    }
    last_ = std::size_t(found - arrays_.begin());
  }
  Array& a = arrays_[last_];
  if (write && !a.writable) warp.fail("writes an array that the call only reads", lane);
  if (warp.launch->options.races) a.races.access(warp, lane, address - a.address, bytes, write, "global memory");
  return reinterpret_cast<char*>(address);
}

// ---- shared memory

namespace {

constexpr const char* why[] = {// by State
                               "which belongs to no variable", "which nobody has written", "which is written",
                               "where an asynchronous copy is under way", "which is an mbarrier"};

}  // namespace

void SharedMemory::restart(const Program& program, u32 dynamic_bytes) {
  const u32 end = program.dynamic_shared + dynamic_bytes;
  data_.assign(end - shared_base, char(0xff));  // NaN, for what does not look
  state_.assign(end - shared_base, u8(nothing));
  generic_.assign(end - shared_base, 0);
  for (const SharedVariable& v : program.shared) std::fill_n(state_.begin() + (v.address - shared_base), v.bytes, u8(empty));
  std::fill_n(state_.end() - dynamic_bytes, dynamic_bytes, u8(empty));
  races_.resize(data_.size(), 2);
}

void SharedMemory::check(const Warp& warp, int lane, u64 address, u32 bytes, u32 align, const char* what) const {
  if (address % align) [[unlikely]]
    warp.fail(
        std::string(what) + " shared memory at " + std::to_string(s64(address - shared_base)) + ", no multiple of " + std::to_string(align),
        lane);
  if (address < shared_base || address + bytes > shared_base + data_.size()) [[unlikely]]
    warp.fail(std::string(what) + " byte " + std::to_string(s64(address - shared_base)) + " of " + std::to_string(data_.size()) +
                  " of shared memory",
              lane);
}

char* SharedMemory::access(Warp& warp, int lane, u64 address, u32 bytes, u32 align, bool write) {
  check(warp, lane, address, bytes, align, write ? "writes" : "reads");
  const u64 at = address - shared_base;
  for (u32 b = 0; b < bytes; ++b) {
    u8& state = state_[at + b];
    if (state == full) continue;
    if (state == empty && write) {
      state = full;
      continue;
    }
    warp.fail(std::string(write ? "writes" : "reads") + " byte " + std::to_string(at + b) + " of shared memory, " + why[state], lane);
  }
  if (write && generic_[at] != warp.number + 1) {
    std::fill_n(generic_.begin() + long(at), bytes, u8(warp.number + 1));
    warp.generic_writes.emplace_back(u32(at), bytes);
  }
  if (warp.launch->options.races) races_.access(warp, lane, at, bytes, write, "shared memory");
  return data_.data() + at;
}

const char* SharedMemory::async_read(const Warp& warp, u32 address, u32 bytes) {
  check(warp, -1, address, bytes, 1, "the async proxy reads");
  const u32 at = address - shared_base;
  for (u32 b = at; b < at + bytes; ++b) {
    if (state_[b] != full) return nullptr;
    if (generic_[b])
      warp.fail("the async proxy reads byte " + std::to_string(b) + " of shared memory without fence.proxy.async after its write");
  }
  if (warp.launch->options.races) races_.access(warp, 0, at, bytes, false, "shared memory");
  return data_.data() + at;
}

void SharedMemory::begin_async_write(const Warp& warp, u32 address, u32 bytes, int lane) {
  check(warp, lane, address, bytes, 1, "an asynchronous copy writes");
  const u32 at = address - shared_base;
  for (u32 b = at; b < at + bytes; ++b) {
    if (state_[b] != empty && state_[b] != full)
      warp.fail("an asynchronous copy writes byte " + std::to_string(b) + " of shared memory, " + why[state_[b]], lane);
    state_[b] = in_flight;
  }
  if (warp.launch->options.races) races_.access(warp, lane, at, bytes, true, "shared memory");
}

char* SharedMemory::async_write(u32 address) { return data_.data() + (address - shared_base); }

void SharedMemory::land(const Warp& warp, u32 address, u32 bytes, int lane, bool async_proxy) {
  const u32 at = address - shared_base;
  std::fill_n(state_.begin() + at, bytes, u8(full));
  std::fill_n(generic_.begin() + at, bytes, u8(async_proxy ? 0 : warp.number + 1));
  if (!async_proxy && warp.launch->options.races) races_.access(warp, lane, at, bytes, true, "shared memory");
}

void SharedMemory::make_mbarrier(const Warp& warp, u32 address, int lane) {
  check(warp, lane, address, 8, 8, "an mbarrier at");
  const u32 at = address - shared_base;
  for (u32 b = at; b < at + 8; ++b) {
    if (state_[b] != empty && state_[b] != full)
      warp.fail("an mbarrier at byte " + std::to_string(b) + " of shared memory, " + why[state_[b]], lane);
    state_[b] = mbarrier;
  }
}

void SharedMemory::fence(Warp& warp) {
  for (const auto& [at, bytes] : warp.generic_writes)
    for (u32 b = at; b < at + bytes; ++b)
      if (generic_[b] == warp.number + 1) generic_[b] = 0;
  warp.generic_writes.clear();
}

}  // namespace ptx
