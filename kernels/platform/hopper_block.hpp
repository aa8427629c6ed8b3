// hopper_block.hpp - what a block has in flight of mbarrier, TMA and wgmma, and how it is carried out. Included by executor.cpp
// alone.
#pragma once
#include <algorithm>

#include "block.hpp"
#include "hopper_on_cpu.hpp"

#pragma GCC visibility push(hidden)
namespace executor {

// What a block has in flight.
struct TensorCopy {
  gpu::TensorMap map;
  bool im2col;
  int at[4], tap[2];
  unsigned to;  // shared address
  int bytes;
  std::uint64_t* barrier;
};
struct Product : Wgmma {
  float* of_thread[128];  // d
};
struct Warpgroup {
  std::vector<Product> products;
  std::vector<std::size_t> groups;  // ends of the committed groups
};
struct Asynchronous {
  std::vector<TensorCopy> copies;
  std::size_t copied = 0;
  Warpgroup warpgroups[8];
};
inline Asynchronous& asynchronous() {
  static thread_local Asynchronous work;
  Block::mine().end_hopper = [] {
    const bool undone = work.copied < work.copies.size();
    work = {};
    return undone ? "the block ends while TMA copies are in flight" : nullptr;
  };
  return work;
}

struct Mbarrier {
  std::int32_t bytes;  // expected and not yet there
  std::uint16_t pending;
  std::uint16_t expected : 15, phase : 1;
  GPU_UNTRACED void advance() {
    if (pending == 0 && bytes == 0) phase ^= 1, pending = expected;
  }
};
static_assert(sizeof(Mbarrier) == sizeof(std::uint64_t));

GPU_UNTRACED inline Mbarrier& initialised(std::uint64_t* barrier, Site site) {
  meeting_at(site).shared_address(barrier, site);
  if (*barrier == ~0ull) fail(site, "the mbarrier is not initialised");
  return *reinterpret_cast<Mbarrier*>(barrier);
}
GPU_UNTRACED void arrive(std::uint64_t* barrier, int bytes, Site site) {
  Mbarrier& b = initialised(barrier, site);
  if (b.pending == 0) fail(site, "more arrivals than the mbarrier expects");
  release(barrier);
  b.bytes += bytes;
  --b.pending;
  b.advance();
}
GPU_UNTRACED inline void carry_out(const TensorCopy& copy, char* shared);
GPU_UNTRACED void wait(std::uint64_t* barrier, unsigned parity, Site site) {
  Block& b = meeting_at(site);
  while (initialised(barrier, site).phase == parity) {
    if (++b.polls <= b.count) {
      b.suspend(State::polling, site);
      continue;
    }
    Untraced untraced;  // nobody else can go on
    Asynchronous& work = asynchronous();
    if (work.copied == work.copies.size()) {
      b.self->site = site;
      b.self->state = State::polling;
      fail(site, "deadlock: nobody completes the phase%s", b.positions().c_str());
    }
    carry_out(work.copies[work.copied++], b.shared);
    b.polls = 0;
  }
  b.polls = 0;
  acquire(barrier);
}

// 16-byte chunk ^= 128-byte row mod 8
GPU_UNTRACED inline unsigned swizzle128(unsigned address) { return address ^ (address >> 7 & 7) << 4; }

// Lays elements in shared memory one after the other.
struct Writer {
  char* shared;
  unsigned address;
  int element;
  bool swizzle;
  void put(const char* from) {  // null: zero
    char* to = shared + (swizzle ? swizzle128(address) : address);
    if (from)
      std::memcpy(to, from, element);
    else
      std::memset(to, 0, element);
    address += element;
  }
};
inline void copy_tile(const gpu::TensorMap& m, const int (&at)[4], Writer out) {
  int n[4] = {1, 1, 1, 1}, i[4];
  std::copy_n(m.box, m.rank, n);
  for (i[3] = 0; i[3] < n[3]; ++i[3])
    for (i[2] = 0; i[2] < n[2]; ++i[2])
      for (i[1] = 0; i[1] < n[1]; ++i[1])
        for (i[0] = 0; i[0] < n[0]; ++i[0]) {
          bool inside = true;
          long offset = 0;
          for (int r = 0; r < m.rank; ++r) {
            const long c = at[r] + i[r];
            inside &= c >= 0 && c < m.size[r];
            offset += c * m.stride[r];
          }
          out.put(inside ? m.base + offset : nullptr);
        }
}
// box[0] channels of box[1] pixels, walking W, then H, then N inside the bounding box; `tap` is added to every position.
inline void copy_im2col(const gpu::TensorMap& m, const int (&at)[4], const int (&tap)[2], Writer out) {
  long w = at[1], h = at[2], n = at[3];
  for (int pixel = 0; pixel < m.box[1]; ++pixel) {
    const long x = w + tap[0], y = h + tap[1];
    for (long c = at[0]; c < at[0] + m.box[0]; ++c) {
      const bool inside = c < m.size[0] && x >= 0 && x < m.size[1] && y >= 0 && y < m.size[2] && n < m.size[3];
      out.put(inside ? m.base + c * m.element + x * m.stride[1] + y * m.stride[2] + n * m.stride[3] : nullptr);
    }
    if ((w += m.step[0]) < m.size[1] + m.upper[0]) continue;
    w = m.lower[0];
    if ((h += m.step[1]) < m.size[2] + m.upper[1]) continue;
    h = m.lower[1], ++n;
  }
}

inline void carry_out(const TensorCopy& copy, char* shared) {
  const Writer out{shared, copy.to, copy.map.element, copy.map.swizzle != 0};
  if (copy.im2col)
    copy_im2col(copy.map, copy.at, copy.tap, out);
  else
    copy_tile(copy.map, copy.at, out);
  Mbarrier& b = *reinterpret_cast<Mbarrier*>(copy.barrier);
  b.bytes -= copy.bytes;
  b.advance();
}
// In TSan's eyes the issuing thread writes at once: who reads must have waited for the mbarrier, who issues must know
// that the readers of what was there before have finished.
GPU_UNTRACED inline void issue(void* to, TensorCopy copy, Site site) {
  Block& b = meeting_at(site);
  const int alignment = copy.map.swizzle ? 1024 : 128;
  copy.to = b.shared_address(to, site);
  if (copy.to % alignment) fail(site, "the target is not aligned to %d bytes", alignment);
  initialised(copy.barrier, site);
  if (GPU_CHECKED) std::memset(to, 0xff, copy.bytes);
  release(copy.barrier);
  Untraced untraced;
  asynchronous().copies.push_back(copy);
}

// Element (row, k) of an operand of wgmma, of bf16 or of tf32 (Bytes), through its matrix descriptor; along: rows in shared
// memory run along k. Of tf32 the hardware ignores the low 13 bits.
template <int Bytes>
GPU_UNTRACED inline float operand(const char* shared, std::uint64_t descriptor, bool along, int row, int k) {
  constexpr int kPiece = 16 / Bytes;
  const unsigned start = (descriptor & 0x3fff) << 4, lead = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  const unsigned address = !along                  ? swizzle128(start + row / 64 * lead + k / 8 * stride + k % 8 * 128 + row % 64 * 2)
                           : descriptor >> 62 == 0 ? start + row / 8 * stride + k / kPiece * lead + row % 8 * 16 + k % kPiece * Bytes
                                                   : swizzle128(start + row / 8 * stride + row % 8 * 128 + k * Bytes);
  if constexpr (Bytes == 2) {
    std::uint16_t bits;
    std::memcpy(&bits, shared + address, sizeof bits);
    return __uint_as_float(unsigned(bits) << 16);
  } else {
    unsigned bits;
    std::memcpy(&bits, shared + address, sizeof bits);
    return __uint_as_float(bits & ~0x1fffu);
  }
}
template <int N, int Bytes>
GPU_UNTRACED void multiply(const Product& op, const char* shared) {
  constexpr int K = 32 / Bytes;
  float A[64][K], B[K][N], D[64][N] = {};
  for (int k = 0; k < K; ++k) {
    for (int i = 0; i < 64; ++i) A[i][k] = operand<Bytes>(shared, op.a, op.along_a, i, k);
    for (int j = 0; j < N; ++j) B[k][j] = operand<Bytes>(shared, op.b, op.along_b, j, k);
  }
  for (int i = 0; i < 64; ++i)
    for (int k = 0; k < K; ++k)
      for (int j = 0; j < N; ++j) D[i][j] += A[i][k] * B[k][j];
  for (int t = 0; t < 128; ++t)
    for (int r = 0; r < N / 2; ++r) {
      const float v = D[t / 32 * 16 + t % 32 / 4 + r / 2 % 2 * 8][r / 4 * 8 + t % 4 * 2 + r % 2];
      op.of_thread[t][r] = op.accumulate ? op.of_thread[t][r] + v : v;
    }
}
template <int Bytes>
GPU_UNTRACED void multiply(const Product& op, const char* shared) {
  if (op.N == 64) multiply<64, Bytes>(op, shared);
  if (op.N == 96) multiply<96, Bytes>(op, shared);
  if (op.N == 128) multiply<128, Bytes>(op, shared);
}

// ---- what hopper_on_cpu.hpp declares

GPU_UNTRACED void mbarrier_init(std::uint64_t* barrier, int count, Site site) {
  meeting_at(site).shared_address(barrier, site);
  *reinterpret_cast<Mbarrier*>(barrier) = {0, std::uint16_t(count), std::uint16_t(count), 0};
}

void load_box(void* to, const gpu::TensorMap& m, std::uint64_t* barrier, const int (&at)[4], Site site) {
  int bytes = m.element;
  for (int r = 0; r < m.rank; ++r) bytes *= m.box[r];
  issue(to, {m, false, {at[0], at[1], at[2], at[3]}, {}, 0, bytes, barrier}, site);
}
void load_im2col(void* to, const gpu::TensorMap& m, std::uint64_t* barrier, const int (&at)[4], const int (&tap)[2], Site site) {
  issue(to, {m, true, {at[0], at[1], at[2], at[3]}, {tap[0], tap[1]}, 0, m.box[0] * m.box[1] * m.element, barrier}, site);
}

GPU_UNTRACED void wgmma(const Wgmma& mine, Site site) {
  if (mine.a >> 62 > 1 || mine.b >> 62 > 1) fail(site, "the executor knows no swizzle but 0 and 128 bytes");
  if ((!mine.along_a && mine.a >> 62 == 0) || (!mine.along_b && mine.b >> 62 == 0))
    fail(site, "the executor knows rows across k only with the swizzle of 128 bytes");
  Wgmma argument = mine;
  meeting_at(site).meet_warpgroup(&argument, site, [&](unsigned group, Thread* threads) GPU_UNTRACED {
    Product product{mine, {}};
    for (int t = 0; t < 128; ++t) {
      const auto& other = *static_cast<Wgmma*>(threads[t].argument);
      if (other.a != mine.a || other.b != mine.b || other.accumulate != mine.accumulate) fail(site, "the threads disagree on a descriptor");
      product.of_thread[t] = other.d;
    }
    Untraced untraced;
    asynchronous().warpgroups[group].products.push_back(product);
  });
}
void wgmma_commit(Site site) {
  meeting_at(site).meet_warpgroup(nullptr, site, [](unsigned group, Thread*) {
    Untraced untraced;
    Warpgroup& work = asynchronous().warpgroups[group];
    work.groups.push_back(work.products.size());
  });
}
void wgmma_wait(unsigned pending, Site site) {
  Block& block = meeting_at(site);
  block.meet_warpgroup(nullptr, site, [&](unsigned group, Thread*) {
    Untraced untraced;
    Warpgroup& work = asynchronous().warpgroups[group];
    if (work.groups.size() <= pending) return;
    const std::size_t done = work.groups[work.groups.size() - pending - 1];
    for (std::size_t i = 0; i < done; ++i) {
      const Product& product = work.products[i];
      product.bytes == 2 ? multiply<2>(product, block.shared) : multiply<4>(product, block.shared);
    }
    work.products.erase(work.products.begin(), work.products.begin() + done);
    work.groups.erase(work.groups.begin(), work.groups.end() - pending);
    for (std::size_t& end : work.groups) end -= done;
  });
}

}  // namespace executor

namespace gpu {

// What the driver refuses.
static TensorMap checked(const char* function, const TensorMap& m, bool im2col) {
  bool right = reinterpret_cast<std::uintptr_t>(m.base) % 16 == 0 && m.box[0] * m.element % 16 == 0 && m.box[0] <= 256;
  for (int r = 1; r < m.rank; ++r) right &= m.stride[r] % 16 == 0 && m.stride[r] < 1l << 40;
  if (m.swizzle) right &= m.box[0] * m.element <= 128;
  if (im2col) {
    right &= m.box[1] <= 1024;
    for (int corner : {m.lower[0], m.lower[1], m.upper[0], m.upper[1]}) right &= corner >= -128 && corner < 128;
    right &= m.step[0] <= 8 && m.step[1] <= 8;
  } else {
    for (int r = 1; r < m.rank; ++r) right &= m.box[r] <= 256;
  }
  if (!right) throw std::runtime_error(std::string(function) + ": the driver refuses this tensor map");
  if (m.swizzle && m.box[0] * m.element < 128)
    throw std::runtime_error(std::string(function) + ": only a GPU knows how rows below 128 bytes are swizzled");
  return m;
}
TensorMap make_tensor_map_2d(const void* base, long rows, long cols, int box_rows, int box_cols, int element, int swizzle) {
  const TensorMap m{static_cast<const char*>(base), 2,  element, swizzle, {cols, rows}, {element, cols * element},
                    {box_cols, box_rows},           {}, {},      {}};
  return checked("cuTensorMapEncodeTiled", m, false);
}
TensorMap make_tensor_map_4d(const void* base, int n, int h, int w, int c, int box_h, int box_w, int box_c, int element, int swizzle) {
  const long e = element;
  const TensorMap m{static_cast<const char*>(base), 4,  element, swizzle, {c, w, h, n}, {e, e * c, e * c * w, e * c * w * h},
                    {box_c, box_w, box_h, 1},       {}, {},      {}};
  return checked("cuTensorMapEncodeTiled", m, false);
}
TensorMap make_tensor_map_im2col(const void* base, int n, int h, int w, int c, int k, int padding, int stride, int pixels, int channels,
                                 int element, int swizzle) {
  const long e = element;
  const int upper = padding - k + 1;
  const TensorMap m{static_cast<const char*>(base),
                    4,
                    element,
                    swizzle,
                    {c, w, h, n},
                    {e, e * c, e * c * w, e * c * w * h},
                    {channels, pixels},
                    {-padding, -padding},
                    {upper, upper},
                    {stride, stride}};
  return checked("cuTensorMapEncodeIm2col", m, true);
}

}  // namespace gpu
#pragma GCC visibility pop
