// tensor_cores.cpp - ldmatrix, mma, wgmma (PTX ISA, sections 9.7.14 and 9.7.15). Operands are taken as the fragments and descriptors
// of the ISA place them; how a sum is rounded is sums.h's.
#include <bit>
#include <cstdlib>
#include <optional>

#include "forms.h"

namespace ptx {

namespace {

f32 bf16(u16 bits) { return std::bit_cast<f32>(u32(bits) << 16); }
f32 tf32(u32 bits) { return std::bit_cast<f32>(bits & ~u32(0x1fff)); }  // the lowest 13 bits are ignored

// ---- ldmatrix.x4 of 8 x 8 matrices of 16 bits (9.7.14.5.15): lane l's address is row l % 8 of matrix l / 8
template <bool Transposed>
Flow ldmatrix(Warp& w, const Instruction& i, u32 lanes) {
  if (lanes != w.live) return Flow::wait;
  if (lanes != all_lanes) w.fail("ldmatrix by a warp of which lanes are missing");
  const Operand& from = i.operands[4];
  w.need(from, lanes);
  u16 matrix[4][8][8];
  for (int l = 0; l < warp_size; ++l) {
    const u32 address = w.lanes_of<u32>(from)[l] + u32(from.add);
    std::memcpy(matrix[l / 8][l % 8], w.block->shared.access(w, l, address, 16, 16, false), 16);
  }
  for (int m = 0; m < 4; ++m) {
    u32* d = w.lanes_of<u32>(i.operands[m]);
    for (int l = 0; l < warp_size; ++l) {
      const int row = l / 4, column = l % 4 * 2;
      const u16 low = Transposed ? matrix[m][column][row] : matrix[m][row][column];
      const u16 high = Transposed ? matrix[m][column + 1][row] : matrix[m][row][column + 1];
      d[l] = low | u32(high) << 16;
    }
    w.define(i.operands[m], lanes);
  }
  return Flow::next;
}

// ---- mma.m16n8k16 of bf16, mma.m16n8k8 of tf32 (9.7.14.5.8, 9.7.14.5.6): D = A B + C. With g = lane / 4 and t = lane % 4, A's four
// registers hold rows g, g + 8, g, g + 8, B's two column g; C and D rows g, g, g + 8, g + 8 and columns 2 t, 2 t + 1.
template <bool Tf32>
Flow mma(Warp& w, const Instruction& i, u32 lanes) {
  if (lanes != w.live) return Flow::wait;
  if (lanes != all_lanes) w.fail("mma by a warp of which lanes are missing");
  const Operand* o = i.operands.data();  // D 4, A 4, B 2, C 4
  for (int k = 4; k < 14; ++k) w.need(o[k], lanes);
  constexpr int depth = Tf32 ? 8 : 16;
  f32 a[16][depth], b[8][depth], d[4][warp_size];
  for (int l = 0; l < warp_size; ++l) {
    const int g = l / 4, t = l % 4;
    const auto place = [&](f32* row, int part, u32 bits) {  // part: of the k that a register can hold
      if (Tf32) {
        row[t + 4 * part] = tf32(bits);
      } else {
        row[2 * t + 8 * part] = bf16(u16(bits)), row[2 * t + 8 * part + 1] = bf16(u16(bits >> 16));
      }
    };
    for (int r = 0; r < 4; ++r) place(a[g + r % 2 * 8], r / 2, w.lanes_of<u32>(o[4 + r])[l]);
    for (int r = 0; r < 2; ++r) place(b[g], r, w.lanes_of<u32>(o[8 + r])[l]);
  }
  for (int l = 0; l < warp_size; ++l)
    for (int r = 0; r < 4; ++r)
      d[r][l] = dot(w.lanes_of<f32>(o[10 + r])[l], a[l / 4 + r / 2 * 8], b[l % 4 * 2 + r % 2], depth, Tf32, w.launch->options.sums);
  for (int r = 0; r < 4; ++r) std::memcpy(w.lanes_of<f32>(o[r]), d[r], sizeof d[r]), w.define(o[r], lanes);
  return Flow::next;
}

// ---- wgmma (9.7.15)
struct Shape {
  int columns;  // N
  bool tf32;
  int depth() const { return tf32 ? 8 : 16; }
  int element() const { return tf32 ? 4 : 2; }
};

Shape shape_of(const Instruction& i) {
  const auto at = i.text.find("m64n");
  return {int(std::strtol(i.text.data() + at + 4, nullptr, 10)), i.text.find(".tf32") != i.text.npos};
}

// One operand in shared memory, of which `descriptor` tells the place (9.7.15.5.1): rows (M or N) and k, in core matrices of 8 rows of 16
// bytes, or in rows of 128 bytes whose 16-byte parts are swizzled. `across`: the rows' index runs fastest (MN-major).
struct MatrixInShared {
  u32 start, lead, stride;
  int mode;  // bits 62-63; 1: swizzle of 128 bytes
  bool across;
  int element;

  MatrixInShared(const Warp& w, u64 descriptor, bool across_, int element_)
      : start(u32(descriptor & 0x3fff) << 4),
        lead(u32(descriptor >> 16 & 0x3fff) << 4),
        stride(u32(descriptor >> 32 & 0x3fff) << 4),
        mode(int(descriptor >> 62)),
        across(across_),
        element(element_) {
    if (mode > 1 || (across && mode == 0)) w.fail("wgmma with a layout that this executor does not know");
    if (descriptor >> 49 & 7) w.fail("wgmma with a base offset: expected repeating patterns at multiples of 1024 bytes");
  }
  u32 address(int row, int k) const {
    u32 a;
    if (across)
      a = start + u32(row / 64) * lead + u32(k / 8) * stride + u32(k % 8 * 128 + row % 64 * element);
    else if (mode == 1)
      a = start + u32(row / 8) * stride + u32(row % 8 * 128 + k * element);
    else
      a = start + u32(row / 8) * stride + u32(row % 8 * 16) + u32(k * element / 16) * lead + u32(k * element % 16);
    return mode == 1 ? a ^ (a >> 7 & 7) << 4 : a;
  }
  // Nothing where nobody has written.
  std::optional<f32> value(Warp& w, int row, int k) const {
    const char* p = w.block->shared.async_read(w, address(row, k), u32(element));
    if (!p) return {};
    if (element == 4) {
      u32 bits;
      std::memcpy(&bits, p, 4);
      return tf32(bits);
    }
    u16 bits;
    std::memcpy(&bits, p, 2);
    return bf16(bits);
  }
};

// This warp's quarter of D (64 x N): 16 rows. Register r of lane l: row l / 4 + r % 4 / 2 * 8, column r / 4 * 8 + l % 4 * 2 + r % 2.
void multiply(Warp& w, const Product& p) {
  const Instruction& i = *p.instruction;
  const Shape shape = shape_of(i);
  const std::size_t registers = std::size_t(shape.columns) / 2;
  const bool transposes = i.operands.size() > registers + 5;
  const MatrixInShared in_a(w, p.a, transposes && i.operands[registers + 5].add, shape.element());
  const MatrixInShared in_b(w, p.b, transposes && i.operands[registers + 6].add, shape.element());
  f32 a[16][16], b[256][16];
  bool a_known[16], b_known[256];
  const auto read = [&](const MatrixInShared& matrix, int row, f32* to) {
    bool known = true;
    for (int k = 0; k < shape.depth(); ++k) {
      const auto v = matrix.value(w, row, k);
      known &= v.has_value(), to[k] = v.value_or(0);
    }
    return known;
  };
  for (int row = 0; row < 16; ++row) a_known[row] = read(in_a, int(w.number % 4) * 16 + row, a[row]);
  for (int column = 0; column < shape.columns; ++column) b_known[column] = read(in_b, column, b[column]);
  for (std::size_t r = 0; r < registers; ++r) {
    if (w.defined(i.operands[r]))
      w.fail("an accumulator of " + std::string(i.text.substr(0, 60)) + " was written while the product was under way");
    f32* d = w.lanes_of<f32>(i.operands[r]);
    u32& meaningless = w.meaningless[i.operands[r].id];
    if (!p.accumulate) meaningless = 0;
    for (int l = 0; l < warp_size; ++l) {
      const std::size_t row = std::size_t(l) / 4 + r % 4 / 2 * 8, column = r / 4 * 8 + std::size_t(l) % 4 * 2 + r % 2;
      d[l] = dot(p.accumulate ? d[l] : 0.0f, a[row], b[column], shape.depth(), shape.tf32, w.launch->options.sums);
      meaningless |= u32(!a_known[row] || !b_known[column]) << l;
    }
  }
}

bool same_accumulators(const Instruction& a, const Instruction& b) {
  for (std::size_t r = 0; r < std::size_t(shape_of(a).columns) / 2; ++r)
    if (a.operands[r].id != b.operands[r].id) return false;
  return shape_of(a).columns == shape_of(b).columns;
}

bool under_way(const Warp& w, const Instruction& i) {  // another product into the same accumulators
  for (const auto& group : w.products)
    for (const Product& p : group)
      if (same_accumulators(*p.instruction, i)) return true;
  for (const Product& p : w.open_products)
    if (same_accumulators(*p.instruction, i)) return true;
  return false;
}

// Issues the product; with Options::early it reads shared memory now, else when it is waited for. Its accumulators are nobody's until then.
Flow wgmma(Warp& w, const Instruction& i, u32 lanes) {
  if (lanes != w.live) return Flow::wait;
  if (lanes != all_lanes || w.block->threads() % 128) w.fail("wgmma outside a whole warpgroup");
  const std::size_t registers = std::size_t(shape_of(i).columns) / 2;
  const Operand* o = i.operands.data();  // D, descriptors of A and B, accumulate, signs of A and B, transposes of A and B
  w.need(o[registers], lanes), w.need(o[registers + 1], lanes), w.need(o[registers + 2], lanes);
  Product p{&i, w.lanes_of<u64>(o[registers])[0], w.lanes_of<u64>(o[registers + 1])[0], (w.predicate(o[registers + 2]) & 1) != 0};
  for (int l = 1; l < warp_size; ++l)
    if (w.lanes_of<u64>(o[registers])[l] != p.a || w.lanes_of<u64>(o[registers + 1])[l] != p.b ||
        (w.predicate(o[registers + 2]) >> l & 1) != p.accumulate)
      w.fail("wgmma with operands that differ within the warp", l);
  if (o[registers + 3].add != 1 || o[registers + 4].add != 1) w.fail("wgmma with a sign of -1, which this executor does not know");
  auto& issued = w.block->issued[w.number / 4];
  if (w.issued_products == issued.size())
    issued.push_back(p);
  else if (const Product& other = issued[w.issued_products];
           other.instruction != &i || other.a != p.a || other.b != p.b || other.accumulate != p.accumulate)
    w.fail("wgmma with operands that differ within the warpgroup");
  ++w.issued_products;
  if (!w.fenced) w.fail("wgmma without wgmma.fence after its accumulators were written");
  if (!under_way(w, i))
    for (std::size_t r = 0; r < registers; ++r) {
      w.meaningless[o[r].id] = ~w.defined(o[r]);
      w.undefine(o[r], lanes);
    }
  if (w.launch->options.early) multiply(w, p);
  w.open_products.push_back(p);
  return Flow::next;
}

Flow wgmma_fence(Warp& w, const Instruction&, u32 lanes) {
  if (lanes != w.live) return Flow::wait;
  w.fenced = true;
  return Flow::next;
}

Flow wgmma_commit(Warp& w, const Instruction&, u32 lanes) {
  if (lanes != w.live) return Flow::wait;
  w.products.push_back(std::move(w.open_products));
  w.open_products.clear();
  return Flow::next;
}

Flow wgmma_wait(Warp& w, const Instruction& i, u32 lanes) {
  if (lanes != w.live) return Flow::wait;
  while (w.products.size() > std::size_t(i.operands[0].add)) {
    const auto group = std::move(w.products.front());
    w.products.pop_front();
    if (!w.launch->options.early)
      for (const Product& p : group) multiply(w, p);
    for (const Product& p : group)
      if (!under_way(w, *p.instruction))
        for (std::size_t r = 0; r < std::size_t(shape_of(*p.instruction).columns) / 2; ++r) {
          const Operand& d = p.instruction->operands[r];
          w.define(d, lanes & ~w.meaningless[d.id]);
        }
  }
  return Flow::next;
}

}  // namespace

void add_tensor_cores() {
  add_form("ldmatrix.sync.aligned.m8n8.x4.shared.b16", {"={4}32 [32]", ldmatrix<false>, true});
  add_form("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", {"={4}32 [32]", ldmatrix<true>, true});
  add_form("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", {"={4}32 {4}32 {2}32 {4}32", mma<true>, true});
  add_form("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", {"={4}32 {4}32 {2}32 {4}32", mma<false>, true});
  for (const int n : {64, 96, 128}) {
    const std::string name = "wgmma.mma_async.sync.aligned.m64n" + std::to_string(n), d = "={" + std::to_string(n / 2) + "}32 64 64 p # #";
    add_form(name + "k16.f32.bf16.bf16", {d + " # #", wgmma, true});
    add_form(name + "k8.f32.tf32.tf32", {d, wgmma, true});
  }
  add_form("wgmma.fence.sync.aligned", {"", wgmma_fence, true});
  add_form("wgmma.commit_group.sync.aligned", {"", wgmma_commit, true});
  add_form("wgmma.wait_group.sync.aligned", {"#", wgmma_wait, true});
}

}  // namespace ptx
