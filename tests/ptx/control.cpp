// control.cpp - branches, barriers, shuffles, mbarriers, fences (PTX ISA, sections 9.7.12 and 9.7.13).
#include <algorithm>
#include <bit>

#include "forms.h"

namespace ptx {

namespace {

// ---- branches (9.7.12.3): the warp moves the lanes, Warp::run
Flow branch(Warp&, const Instruction&, u32) { return Flow::jump; }
Flow end(Warp& w, const Instruction&, u32 lanes) {
  if (!w.open_copies.empty() || !w.copies.empty()) w.fail("ends while cp.async copies are under way");
  if (!w.open_products.empty() || !w.products.empty()) w.fail("ends while wgmmas are under way");
  w.live &= ~lanes;
  return Flow::jump;
}
Flow trap(Warp& w, const Instruction&, u32) { w.fail("traps"); }

// What .aligned demands: all lanes of the warp that have not ended.
bool all_here(const Warp& w, u32 lanes) { return lanes == w.live; }

// ---- bar.sync ID or ID, THREADS (9.7.13.1): aligned, orders memory among those who meet
Flow bar_sync(Warp& w, const Instruction& i, u32 lanes) {
  Group& g = *w.current;
  Block& block = *w.block;
  if (i.operands.size() > 1) w.need(i.operands[1], lanes);
  if (!all_here(w, lanes)) return Flow::wait;
  const u32 id = u32(i.operands[0].add);
  if (id > 15) w.fail("barrier " + std::to_string(id) + " of 16");
  Barrier& barrier = block.barriers[id];
  if (!g.ticket) {
    const u32 expected = i.operands.size() > 1 ? u32(w.value(i.operands[1], std::countr_zero(lanes))) : block.threads();
    if (expected % warp_size && expected != block.threads())
      w.fail("a barrier of " + std::to_string(expected) + " threads, no multiple of 32");
    if (barrier.arrived && barrier.expected != expected)
      w.fail("a barrier of " + std::to_string(expected) + " threads, of " + std::to_string(barrier.expected) + " for others");
    barrier.expected = expected;
    barrier.arrived += u32(std::popcount(w.present));
    g.ticket = barrier.generation + 1;
    barrier.clock.join(w.clock);
    if (barrier.arrived > expected) w.fail("more threads than " + std::to_string(expected) + " at a barrier");
    if (barrier.arrived == expected) {
      barrier.arrived = 0, ++barrier.generation;
      barrier.complete = barrier.clock, barrier.clock = {};
    }
    block.progress = true;
  }
  if (barrier.generation < g.ticket) return Flow::wait;
  g.ticket = 0;
  w.clock.join(barrier.complete);
  ++w.clock.at[w.number], ++w.step;
  return Flow::next;
}

Flow bar_warp_sync(Warp& w, const Instruction& i, u32 lanes) {
  w.need(i.operands[0], lanes);
  const u32 mask = u32(w.value(i.operands[0], std::countr_zero(lanes))) & w.present;
  if (lanes & ~mask) w.fail("bar.warp.sync by lanes outside its own mask", std::countr_zero(lanes & ~mask));
  if (mask != lanes) return Flow::wait;
  ++w.step;
  return Flow::next;
}

// ---- shfl.sync.MODE.b32 d|p, a, b, c, mask (9.7.9.6)
template <char Mode>
Flow shuffle(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();  // d, p, a, b, c, mask
  for (int k = 2; k < 6; ++k) w.need(o[k], lanes);
  const u32 mask = w.lanes_of<u32>(o[5])[std::countr_zero(lanes)];
  for (int l = 0; l < warp_size; ++l)
    if (lanes >> l & 1 && w.lanes_of<u32>(o[5])[l] != mask) w.fail("shfl.sync with different masks", l);
  if (lanes & ~mask) w.fail("shfl.sync by a lane outside its own mask", std::countr_zero(lanes & ~mask));
  if ((mask & w.live) != lanes) return Flow::wait;
  u32 result[warp_size], valid = 0;
  for (int l = 0; l < warp_size; ++l) {
    if (!(lanes >> l & 1)) continue;
    const int b = int(w.lanes_of<u32>(o[3])[l]) & 31, c = int(w.lanes_of<u32>(o[4])[l]);
    const int segment = c >> 8 & 31, clamp = c & 31;
    const int last = (l & segment) | (clamp & ~segment), first = l & segment;
    int from = l;
    bool inside = false;
    if (Mode == 'u') from = l - b, inside = from >= last;
    if (Mode == 'd') from = l + b, inside = from <= last;
    if (Mode == 'b') from = l ^ b, inside = from <= last;
    if (Mode == 'i') from = first | (b & ~segment), inside = from <= last;
    if (!inside) from = l;
    if (!(lanes >> from & 1)) w.fail("shfl.sync from lane " + std::to_string(from) + ", which does not take part", l);
    result[l] = w.lanes_of<u32>(o[2])[from];
    valid |= u32(inside) << l;
  }
  for (int l = 0; l < warp_size; ++l)
    if (lanes >> l & 1) w.set(o[0], l, result[l]);
  w.predicate(o[1]) = (w.predicate(o[1]) & ~lanes) | valid;
  w.define(o[0], lanes), w.define(o[1], lanes);
  return Flow::next;
}

// ---- mbarrier (9.7.13.15)
u32 address(const Warp& w, const Operand& o, int lane) { return w.lanes_of<u32>(o)[lane] + u32(o.add); }

Mbarrier& mbarrier_at(Warp& w, u32 at, int lane) {
  const auto found = w.block->mbarriers.find(at);
  if (found == w.block->mbarriers.end())
    w.fail("no mbarrier was initialised at byte " + std::to_string(s64(at) - shared_base) + " of shared memory", lane);
  return found->second;
}

Flow mbarrier_init(Warp& w, const Instruction& i, u32 lanes) {
  w.need(i.operands[0], lanes), w.need(i.operands[1], lanes);
  for (int l = 0; l < warp_size; ++l) {
    if (!(lanes >> l & 1)) continue;
    const u32 at = address(w, i.operands[0], l), count = w.lanes_of<u32>(i.operands[1])[l];
    if (count < 1 || count > (1 << 20) - 1) w.fail("an mbarrier of " + std::to_string(count) + " arrivals", l);
    if (w.block->mbarriers.contains(at)) w.fail("initialises an mbarrier twice", l);
    w.block->shared.make_mbarrier(w, at, l);
    Mbarrier& b = w.block->mbarriers[at];
    b.expected = b.pending = count, b.initializer = w.number;
    b.known = w.clock;
  }
  return Flow::next;
}

// Whether a thread may know of the barrier: another warp's initialisation must be ordered before.
void check_initialised(Warp& w, const Mbarrier& b, int lane) {
  if (b.initializer != w.number && w.clock.at[b.initializer] < b.known.at[b.initializer])
    w.fail("uses an mbarrier that another warp initialised, with nothing in between that orders them", lane);
}

template <bool Expects>
Flow mbarrier_arrive(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();  // state, address, bytes
  w.need(o[1], lanes);
  if (Expects) w.need(o[2], lanes);
  for (int l = 0; l < warp_size; ++l) {
    if (!(lanes >> l & 1)) continue;
    Mbarrier& b = mbarrier_at(w, address(w, o[1], l), l);
    check_initialised(w, b, l);
    if (!b.pending) w.fail("arrives at an mbarrier at which all of this phase have arrived", l);
    if (Expects) b.bytes += w.lanes_of<u32>(o[2])[l];
    b.arriving.join(w.clock);
    --b.pending;
    complete_if_done(b);
  }
  ++w.clock.at[w.number];
  w.block->progress = true;
  return Flow::next;
}

Flow mbarrier_try_wait_parity(Warp& w, const Instruction& i, u32 lanes) {  // potentially blocking: here always
  const Operand* o = i.operands.data();                                    // p, address, parity
  w.need(o[1], lanes), w.need(o[2], lanes);
  for (int l = 0; l < warp_size; ++l) {
    if (!(lanes >> l & 1)) continue;
    Mbarrier& b = mbarrier_at(w, address(w, o[1], l), l);
    check_initialised(w, b, l);
    if ((b.phase & 1) == (w.lanes_of<u32>(o[2])[l] & 1)) return Flow::wait;
    w.clock.join(b.complete);
  }
  w.predicate(o[0]) |= lanes;
  w.define(o[0], lanes);
  ++w.clock.at[w.number], ++w.step;
  return Flow::next;
}

// ---- fences and registers of a warp
template <bool Mbarriers>
Flow fence_async(Warp& w, const Instruction&, u32) {  // the async proxy sees what this warp has written and initialised
  if (!Mbarriers) w.block->shared.fence(w);
  for (auto& [at, b] : w.block->mbarriers)
    if (b.initializer == w.number) b.visible = true;
  return Flow::next;
}

Flow set_registers(Warp& w, const Instruction& i, u32 lanes) {  // setmaxnreg (9.7.19.5)
  if (!all_here(w, lanes)) return Flow::wait;
  const s32 n = i.operands[0].add;
  if (n < 24 || n > 256 || n % 8) w.fail("setmaxnreg of " + std::to_string(n) + ": expected 24 to 256, a multiple of 8");
  return Flow::next;
}

}  // namespace

void complete_if_done(Mbarrier& b) {
  if (b.pending || b.bytes) return;
  b.pending = b.expected, ++b.phase;
  b.complete = b.arriving, b.arriving = {};
}

void add_control() {
  add_form("bra", {"label", branch});
  add_form("bra.uni", {"label", branch});
  add_form("ret", {"", end});
  add_form("exit", {"", end});
  add_form("trap", {"", trap});
  add_form("bar.sync", {"# 32?", bar_sync, true});
  add_form("bar.warp.sync", {"32", bar_warp_sync, true});
  add_form("shfl.sync.up.b32", {"=32|p 32 32 32 32", shuffle<'u'>, true});
  add_form("shfl.sync.down.b32", {"=32|p 32 32 32 32", shuffle<'d'>, true});
  add_form("shfl.sync.bfly.b32", {"=32|p 32 32 32 32", shuffle<'b'>, true});
  add_form("shfl.sync.idx.b32", {"=32|p 32 32 32 32", shuffle<'i'>, true});
  add_form("mbarrier.init.shared::cta.b64", {"[32] 32", mbarrier_init});
  add_form("mbarrier.arrive.shared::cta.b64", {"=64 [32]", mbarrier_arrive<false>});
  add_form("mbarrier.arrive.expect_tx.shared::cta.b64", {"=64 [32] 32", mbarrier_arrive<true>});
  add_form("mbarrier.try_wait.parity.shared::cta.b64", {"=p [32] 32", mbarrier_try_wait_parity});
  add_form("fence.mbarrier_init.release.cluster", {"", fence_async<true>});
  add_form("fence.proxy.async", {"", fence_async<false>});
  add_form("setmaxnreg.inc.sync.aligned.u32", {"#", set_registers, true});
  add_form("setmaxnreg.dec.sync.aligned.u32", {"#", set_registers, true});
}

}  // namespace ptx
