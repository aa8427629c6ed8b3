// scheduler.cpp - which lanes run next: a warp's groups of lanes, a block's warps, a grid's blocks.
//
// Lanes of a warp that went different ways are groups; the one that is furthest behind runs, so that they meet again as soon as
// they can. A group runs until it must wait for others. When nothing in the block can go on, one copy of TMA's lands; when there is none,
// the block is stuck, which is a fault.
#include <algorithm>
#include <bit>

#include "copies.h"

namespace ptx {

namespace {

std::string text(const Dim& d) { return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")"; }

u32 blocks_started = 0;

// 0 .. n - 1 as the schedule wants them.
std::vector<u32> order(u32 n, u32 schedule, Random& random) {
  std::vector<u32> o(n);
  for (u32 i = 0; i < n; ++i) o[i] = schedule == 1 ? n - 1 - i : i;
  if (schedule > 1)
    for (u32 i = n; i > 1; --i) std::swap(o[i - 1], o[random(i)]);
  return o;
}

}  // namespace

// ---- warps

Warp::Warp(Block& b, u32 n) : block(&b), launch(&b.launch), number(n) {
  const Program& p = launch->program;
  const u32 threads = b.threads() - n * warp_size;
  present = threads >= warp_size ? all_lanes : (1u << threads) - 1;
  storage_ = std::make_unique<u64[]>(p.register_bytes / 8);
  registers_ = reinterpret_cast<char*>(storage_.get());
  constants_ = reinterpret_cast<char*>(const_cast<u64*>(p.constants.data()));
  defined_.resize(p.registers);
}

void Warp::restart() {
  std::fill(defined_.begin(), defined_.end(), 0);
  defined_[0] = all_lanes;
  live = present;
  groups = {{present, 0}};
  clock = {}, clock.at[number] = 1, step = 1;
  copies.clear(), open_copies.clear(), products.clear(), open_products.clear(), generic_writes.clear(), meaningless.clear();
  fenced = false, issued_products = 0;
  const Dim& size = launch->block;
  for (const Special& s : launch->program.specials)
    for (u32 l = 0; l < warp_size; ++l) {
      const u32 thread = number * warp_size + l;
      const Dim own{thread % size.x, thread / size.x % size.y, thread / size.x / size.y}, &at = block->index, &grid = launch->grid;
      const std::array values = {l, own.x, own.y, own.z, size.x, size.y, size.z, at.x, at.y, at.z, grid.x, grid.y, grid.z};
      static_assert(values.size() == special_registers.size());
      set(s.where, int(l), values[s.which]);
    }
}

u64 Warp::value(const Operand& o, int lane) const {
  switch (o.bytes) {
    case 0:
      return predicate(o) >> lane & 1;
    case 1:
      return lanes_of<u8>(o)[lane];
    case 2:
      return lanes_of<u16>(o)[lane];
    case 4:
      return lanes_of<u32>(o)[lane];
    default:
      return lanes_of<u64>(o)[lane];
  }
}

void Warp::set(const Operand& o, int lane, u64 v) {
  switch (o.bytes) {
    case 1:
      lanes_of<u8>(o)[lane] = u8(v);
      break;
    case 2:
      lanes_of<u16>(o)[lane] = u16(v);
      break;
    case 4:
      lanes_of<u32>(o)[lane] = u32(v);
      break;
    default:
      lanes_of<u64>(o)[lane] = v;
  }
}

void Warp::fail(const std::string& what, int lane) const {
  std::string where = launch->program.name + ": block " + text(block->index) + ", ";
  where += lane < 0 ? "warp " + std::to_string(number) : "thread " + std::to_string(number * warp_size + u32(lane));
  if (current && current->at < launch->program.code.size()) {
    const Instruction& i = launch->program.code[current->at];
    where += ", PTX line " + std::to_string(i.line) + ", " + std::string(i.text.substr(0, 100));
  }
  throw Fault(where + ": " + what);
}

void Warp::undefined(const Operand& o, u32 lanes) const {
  const u32 missing = lanes & ~defined_[o.id];
  const Instruction& i = launch->program.code[current->at];
  const auto position =
      std::find_if(i.operands.begin(), i.operands.end(), [&](const Operand& other) { return other.id == o.id; }) - i.operands.begin();
  fail("reads a register that it has not written, or that a wgmma under way will write (operand " + std::to_string(position) + ")",
       std::countr_zero(missing));
}

// The current group takes in those that are at the same instruction.
void Warp::meet() {
  for (std::size_t g = 0; g < groups.size();) {
    Group& other = groups[g];
    if (&other != current && other.at == current->at && !other.ticket) {
      current->lanes |= other.lanes;
      const std::size_t mine = std::size_t(current - groups.data());
      groups.erase(groups.begin() + long(g));
      current = &groups[mine > g ? mine - 1 : mine];
    } else {
      ++g;
    }
  }
}

bool Warp::run() {
  const auto& code = launch->program.code;
  bool went_on = false;
  for (Group& g : groups) g.waiting = false;
  for (;;) {
    current = nullptr;
    for (Group& g : groups)
      if (!g.waiting && (!current || g.at < current->at)) current = &g;
    if (!current) return went_on;
    for (;;) {
      const Instruction& i = code[current->at];
      if (i.meets && groups.size() > 1) meet();
      u32 lanes = current->lanes;
      if (i.guarded) {
        need(i.guard, lanes);
        const u32 p = predicate(i.guard);
        lanes &= i.negated ? ~p : p;
      }
      const Flow flow = lanes || !i.guarded ? i.run(*this, i, lanes) : Flow::next;
      if (flow == Flow::wait) {
        current->waiting = true;
        break;
      }
      went_on = true;
      if (i.writes_accumulator) fenced = false;
      if (flow == Flow::next) {
        ++current->at;
        if (groups.size() == 1 || !code[current->at].meets) continue;
      } else {
        const u32 stay = current->lanes & ~lanes, next = current->at + 1;
        if (i.target >= 0) {
          current->at = u32(i.target), current->lanes = lanes;
          if (stay) groups.push_back({stay, next});
        } else if (stay) {
          current->at = next, current->lanes = stay;
        } else {
          groups.erase(groups.begin() + (current - groups.data()));
        }
        if (groups.size() == 1 && !groups[0].waiting) {
          current = &groups[0];
          continue;
        }
      }
      // several groups: what waited may meet who comes, the one behind goes first
      for (Group& g : groups)
        if (g.waiting && !g.ticket)
          for (const Group& other : groups) g.waiting &= !(&g != &other && other.at == g.at);
      break;
    }
  }
}

// ---- blocks

Block::Block(Launch& l) : launch(l) {
  for (u32 w = 0; w * warp_size < threads(); ++w) warps.push_back(std::make_unique<Warp>(*this, w));
}

Block::~Block() = default;

void Block::run(Dim where) {
  index = where, serial = ++blocks_started;
  shared.restart(launch.program, launch.dynamic_bytes);
  barriers = {}, mbarriers.clear(), bulk.clear();
  issued.assign((warps.size() + 3) / 4, {});
  for (auto& w : warps) w->restart();
  const auto alive = [&] { return std::any_of(warps.begin(), warps.end(), [](const auto& w) { return w->live != 0; }); };
  while (alive()) {
    progress = false;
    for (const u32 w : order(u32(warps.size()), launch.options.schedule, launch.random))
      if (warps[w]->live && warps[w]->run()) progress = true;
    if (!progress && !finish_bulk_copy(*this)) {
      std::string waits;
      Warp* first = nullptr;
      for (auto& w : warps)
        for (Group& g : w->groups) {
          if (!first) first = w.get(), w->current = &g;
          const Instruction& i = launch.program.code[g.at];
          waits += (waits.empty() ? "" : "; ") + ("warp " + std::to_string(w->number)) + " at line " + std::to_string(i.line) + " (" +
                   std::string(i.text.substr(0, 60)) + ")";
        }
      first->fail("nothing in the block can go on: " + waits);
    }
  }
  Warp& w = *warps[0];
  w.current = nullptr;
  if (!bulk.empty()) w.fail("the block ends while TMA's copies are under way");
  for (const auto& [at, b] : mbarriers)
    if (b.bytes) w.fail("the block ends while an mbarrier waits for " + std::to_string(b.bytes) + " bytes");
  for (const auto& warp : warps)
    if (warp->issued_products != issued[warp->number / 4].size()) warp->fail("fewer wgmmas than another warp of its warpgroup");
}

// ---- grids

void run(Launch& launch) {
  const u64 count = u64(launch.grid.x) * launch.grid.y * launch.grid.z;
  Block block(launch);
  launch.first_block = blocks_started + 1;
  const auto blocks = order(u32(count), launch.options.schedule, launch.random);
  for (const u32 b : blocks) block.run({b % launch.grid.x, b / launch.grid.x % launch.grid.y, b / launch.grid.x / launch.grid.y});
}

}  // namespace ptx
