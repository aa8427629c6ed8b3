// copies.cpp - asynchronous copies from global to shared memory: cp.async and TMA (PTX ISA, sections 9.7.9.25 and 9.7.9.27).
//
// A copy happens as late as the waits for it allow, or with Options::early at once; either way nobody may touch its
// destination until it has been waited for.
#include "copies.h"

#include <algorithm>
#include <bit>

#include "forms.h"

namespace ptx {

namespace {

u32 shared_address(const Warp& w, const Operand& o, int lane) { return w.lanes_of<u32>(o)[lane] + u32(o.add); }

// ---- cp.async.{ca,cg}.shared.global [to], [from], BYTES, valid
void perform(Warp& w, const SharedCopy& c) {
  char* to = w.block->shared.async_write(c.to);
  std::memcpy(to, c.from, c.valid);
  std::memset(to + c.valid, 0, c.bytes - c.valid);
}

template <bool GlobalOnly>  // .cg: past the first-level cache, 16 bytes alone
Flow cp_async(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();  // to, from, bytes, valid
  const u32 bytes = u32(o[2].add);
  const bool has_valid = i.operands.size() > 3;
  w.need(o[0], lanes), w.need(o[1], lanes);
  if (has_valid) w.need(o[3], lanes);
  if (GlobalOnly ? bytes != 16 : bytes != 4 && bytes != 8 && bytes != 16) w.fail("cp.async of " + std::to_string(bytes) + " bytes");
  for (int l = 0; l < warp_size; ++l) {
    if (!(lanes >> l & 1)) continue;
    const u32 valid = has_valid ? w.lanes_of<u32>(o[3])[l] : bytes;
    if (valid > bytes) w.fail("cp.async of " + std::to_string(valid) + " of " + std::to_string(bytes) + " bytes", l);
    const u64 from = w.lanes_of<u64>(o[1])[l] + u64(s64(o[1].add));
    if (from % bytes) w.fail("cp.async from an address that is no multiple of " + std::to_string(bytes), l);
    SharedCopy c{shared_address(w, o[0], l), nullptr, bytes, valid, l};
    if (c.to % bytes) w.fail("cp.async to an address that is no multiple of " + std::to_string(bytes), l);
    if (valid) c.from = w.launch->global.access(w, l, from, valid, 1, false);
    w.block->shared.begin_async_write(w, c.to, bytes, l);
    if (w.launch->options.early) perform(w, c);
    w.open_copies.push_back(c);
  }
  return Flow::next;
}

Flow commit_copies(Warp& w, const Instruction&, u32) {
  w.copies.push_back(std::move(w.open_copies));
  w.open_copies.clear();
  return Flow::next;
}

Flow wait_for_copies(Warp& w, const Instruction& i, u32 lanes) {
  if (lanes != w.live) return Flow::wait;  // the lanes' copies are kept together
  const std::size_t pending = std::size_t(i.operands[0].add);
  while (w.copies.size() > pending) {
    for (const SharedCopy& c : w.copies.front()) {
      if (!w.launch->options.early) perform(w, c);
      w.block->shared.land(w, c.to, c.bytes, c.lane, false);
    }
    w.copies.erase(w.copies.begin());
  }
  return Flow::next;
}

// ---- TMA: cp.async.bulk.tensor
// Where byte `at` of a box lies: swizzled, 16-byte parts of a row of 128 bytes change places with the row's number.
u32 swizzled(u32 address, const TensorMap& m) { return m.swizzle ? address ^ (address >> 7 & 7) << 4 : address; }

void perform(Block& block, const BulkCopy& c) {
  const TensorMap& m = c.map;
  u32 to = c.to;
  const auto put = [&](std::array<s64, 4> i) {  // element i, or zero outside the tensor
    bool inside = true;
    u64 offset = 0;
    for (u32 r = 0; r < m.rank; ++r) inside &= i[r] >= 0 && i[r] < s64(m.size[r]), offset += u64(i[r]) * (r ? m.stride[r] : m.element);
    char* p = block.shared.async_write(swizzled(to, m));
    if (inside)
      std::memcpy(p, block.launch.global.access(*c.warp, -1, m.base + offset, m.element, 1, false), m.element);
    else
      std::memset(p, 0, m.element);
    to += m.element;
  };
  if (!m.im2col) {
    const auto box = [&](u32 r) { return r < m.rank ? m.box[r] : u16(1); };
    for (u32 z = 0; z < box(3); ++z)
      for (u32 y = 0; y < box(2); ++y)
        for (u32 x = 0; x < box(1); ++x)
          for (u32 e = 0; e < box(0); ++e) put({c.at[0] + s64(e), c.at[1] + s64(x), c.at[2] + s64(y), c.at[3] + s64(z)});
  } else {  // (C, W, H, N): base pixels walk through the box between the corners, row by row, image by image
    s64 x = c.at[1], y = c.at[2], n = c.at[3];
    for (u32 pixel = 0; pixel < m.box[1]; ++pixel) {
      for (u32 e = 0; e < m.box[0]; ++e) put({c.at[0] + s64(e), x + c.tap[0], y + c.tap[1], n});
      x += m.step[1];
      if (x <= s64(m.size[1]) - 1 + m.upper[0]) continue;
      x = m.lower[0], y += m.step[2];
      if (y <= s64(m.size[2]) - 1 + m.upper[1]) continue;
      y = m.lower[1], ++n;
    }
  }
  block.shared.land(*c.warp, c.to, m.box_bytes(), 0, true);
  Mbarrier& b = block.mbarriers.at(c.barrier);
  b.bytes -= m.box_bytes();
  b.arriving.join(c.clock);
  complete_if_done(b);
  block.progress = true;
}

template <u32 Rank, bool Im2col>
Flow bulk_copy(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();  // to, map, coordinates, mbarrier, im2col offsets
  for (const Operand& operand : i.operands) w.need(operand, lanes);
  for (int l = 0; l < warp_size; ++l) {
    if (!(lanes >> l & 1)) continue;
    BulkCopy c{};
    const u64 map = w.lanes_of<u64>(o[1])[l];
    if (map % 64) w.fail("a tensor map at an address that is no multiple of 64", l);
    const u64 parameters = u64(w.launch->parameters);
    if (map < parameters || map + 128 > parameters + w.launch->program.parameter_bytes)
      w.fail("a tensor map that is no parameter of the kernel: it needs __grid_constant__", l);
    std::memcpy(&c.map, reinterpret_cast<const void*>(map), sizeof c.map);
    if (c.map.magic != TensorMap::expected_magic) w.fail("what lies at the tensor map's address is none", l);
    if (c.map.rank != Rank || c.map.im2col != Im2col) w.fail("a tensor map of another rank or mode than the instruction", l);
    c.to = shared_address(w, o[0], l), c.barrier = shared_address(w, o[2 + Rank], l);
    for (u32 r = 0; r < Rank; ++r) c.at[r] = s32(w.lanes_of<u32>(o[2 + r])[l]);
    if (Im2col) c.tap = {w.lanes_of<u16>(o[3 + Rank])[l], w.lanes_of<u16>(o[4 + Rank])[l]};
    for (u32 i = 0; Im2col && i < 2; ++i) {  // section 5.5.4.1
      if (c.at[1 + i] < c.map.lower[i] || c.at[1 + i] > s64(c.map.size[1 + i]) - 1 + c.map.upper[i])
        w.fail("TMA from " + std::to_string(c.at[1 + i]) + ", outside the box of base pixels", l);
      if (c.tap[i] > 255) w.fail("TMA with an offset of " + std::to_string(c.tap[i]) + " in the window: expected up to 255", l);
    }
    if (c.to % 128 || (c.map.swizzle && c.to % 1024))
      w.fail("TMA to an address that is no multiple of " + std::to_string(c.map.swizzle ? 1024 : 128), l);
    const auto barrier = w.block->mbarriers.find(c.barrier);
    if (barrier == w.block->mbarriers.end()) w.fail("TMA with an mbarrier that nobody has initialised", l);
    if (!barrier->second.visible) w.fail("TMA with an mbarrier that no fence made visible to it", l);
    c.warp = &w, c.clock = w.clock;
    w.block->shared.begin_async_write(w, c.to, c.map.box_bytes(), l);
    if (w.launch->options.early)
      perform(*w.block, c);
    else
      w.block->bulk.push_back(c);
  }
  ++w.clock.at[w.number];
  w.block->progress = true;
  return Flow::next;
}

}  // namespace

u32 TensorMap::box_bytes() const {
  u32 n = element;
  for (u32 r = 0; r < (im2col ? 2 : rank); ++r) n *= box[r];
  return n;
}

bool finish_bulk_copy(Block& block) {
  if (block.bulk.empty()) return false;
  const std::size_t n = block.launch.options.schedule > 1 ? block.launch.random(u32(block.bulk.size()))
                        : block.launch.options.schedule   ? block.bulk.size() - 1
                                                          : 0;
  const BulkCopy c = block.bulk[n];
  block.bulk.erase(block.bulk.begin() + long(n));
  perform(block, c);
  return true;
}

void add_copies() {
  add_form("cp.async.ca.shared.global", {"[32] [64] # 32?", cp_async<false>});
  add_form("cp.async.cg.shared.global", {"[32] [64] # 32?", cp_async<true>});
  add_form("cp.async.commit_group", {"", commit_copies});
  add_form("cp.async.wait_group", {"#", wait_for_copies, true});
  const std::string tile = "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
                    im2col = "d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes";
  add_form("cp.async.bulk.tensor.2" + tile, {"[32] map2 [32]", bulk_copy<2, false>});
  add_form("cp.async.bulk.tensor.4" + tile, {"[32] map4 [32]", bulk_copy<4, false>});
  add_form("cp.async.bulk.tensor.4" + im2col, {"[32] map4 [32] {2}16", bulk_copy<4, true>});
}

}  // namespace ptx
