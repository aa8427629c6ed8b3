// tensor_core.cuh - the product c_mn = sum_k a_mk b_kn on tensor cores, for every operand that can tell where an element
// lies: a stored matrix (tensor_gemm.cu), or the windows of an image, which are never written out (implicit_conv2d.cu).
//
// Operands lie in memory in float32 or in bfloat16. Float32 is rounded, to tf32 (10 bits after the point) or bf16 (7 bits),
// on its way from shared memory to registers; the tensor cores multiply exactly and add in float32.
//
//   tile      A block of 8 warps owns 128 x 128 or 128 x 64 values of c and walks along k in steps of 64 bytes. A warp
//             owns 64 x 32 or 32 x 32 of them, in registers, as tiles of 16 x 8: what one mma instruction computes.
//   pipeline  Four steps' panels of a and b lie in shared memory. While one is multiplied, cp.async brings the others
//             in the background, without registers: the latency of memory hides behind three steps of arithmetic. One
//             barrier a step says both that a panel has arrived and that its predecessor's place is free.
//   zeros     What lies outside (beyond the matrix, in an image's padding) is not read: cp.async writes zeros for it.
//   fragments Of bfloat16 ldmatrix brings each lane what the instruction wants of it. Of float32 a lane reads it itself:
//             the order of the 16 values of k does not matter to a sum, as long as a and b agree, so it takes four
//             neighbours of k, one 16-byte read, where the instruction's own order asks for scattered single values.
//   split k   Where c has few tiles, several blocks share one, each with its own part of k (split_k.cuh).
//   row sums  A bias's gradient is what the rows of dy^T add up to, and dy^T is the first operand of the weights' gradient:
//             blocks of the first column of tiles add up their panels of a, in float32, as they are stored.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "split_k.cuh"
#include "vector.cuh"

// Of a function that is handed registers: on a GPU it must be inlined, on a CPU that would only take longer to compile.
#ifdef __CUDACC__
#define SUBROUTINE __device__ __forceinline__
#else
#define SUBROUTINE [[gnu::noinline]]
#endif

namespace alexnet {
namespace {

constexpr int kSide = 128, kStages = 4, kTileThreads = 256;
template <class T>
constexpr int kRun = 16 / sizeof(T);  // neighbours that one instruction copies
template <class T>
constexpr int kDepth = 4 * kRun<T>;  // values of k in a step

// Division of 0 <= n < 2^31 by a number that the host knows: a product and a shift (Granlund and Montgomery 1994).
struct Divisor {
  unsigned divisor, factor, shift = 31;
  explicit Divisor(int d) : divisor(unsigned(d)) {
    while (1ull << (shift - 31) < divisor) ++shift;
    factor = unsigned((1ull << shift) / divisor + 1);
  }
  __device__ __forceinline__ unsigned quotient(unsigned n) const { return unsigned(std::uint64_t(n) * factor >> shift); }
};

// ---- operands
//
// An operand is a matrix whose columns are neighbours in memory, at least 16 bytes at a time, or it is read value by value.
// row() and column() do what can be done once for a whole row or column; at() is null where there is nothing but zeros.

// Stored as it is.
template <class T>
struct Matrix {
  using Element = T;
  const T* data;
  long ld, group;  // from one row to the next, from one group's matrix to the next
  unsigned rows, columns;

  using Row = long;
  using Column = int;
  __device__ __forceinline__ Row row(unsigned r) const { return r < rows ? r * ld : -1; }
  __device__ __forceinline__ Column column(unsigned c) const { return c < columns ? int(c) : -1; }
  __device__ __forceinline__ const T* at(Row r, Column c) const { return r >= 0 && c >= 0 ? data + (r + c) : nullptr; }
};

// ---- panels: what one operand contributes to a step, `Side` values of m (or n) by kDepth values of k

// Where the panel has value `side` of step k, so that the lanes of a warp read different banks. In float32 rows that run
// along k follow one another without gaps; across k, columns are exchanged in eights: lanes read eight columns of four
// different k. In bfloat16 they read eight runs of eight values at a time, one below the other: runs are exchanged.
template <class T, int Side, bool AlongK>
__device__ __forceinline__ int place(int side, int k) {
  if constexpr (sizeof(T) == 4)
    return AlongK ? side * kDepth<T> + k : k * Side + (side ^ k / 4 * 8);
  else
    return AlongK ? side * kDepth<T> + (k ^ side / 2 % 4 * 8) : k * Side + (side ^ k % 8 * 8);
}

// A thread copies a run of neighbours at a time: along k where the operand's columns are k (AlongK), else across. It has one
// place along the columns and kCopies places along the rows; what belongs to m or n is worked out once, what belongs to k
// at every step. Neighbouring threads copy neighbouring runs.
template <class Operand, int Side, bool AlongK, bool Wide>
struct Panel {
  using T = typename Operand::Element;
  static constexpr int kRuns = (AlongK ? kDepth<T> : Side) / kRun<T>, kRowStep = kTileThreads / kRuns;
  static constexpr int kCopies = Side * kDepth<T> / kRun<T> / kTileThreads, kPieces = Wide ? 1 : kRun<T>;

  Operand operand;
  typename Operand::Row row[AlongK ? kCopies : 1];
  typename Operand::Column column[AlongK ? 1 : kPieces];

  __device__ __forceinline__ Panel(const Operand& o, unsigned first) : operand(o) {
    operand.data += blockIdx.y * operand.group;
    const unsigned own_row = threadIdx.x / kRuns, own_column = threadIdx.x % kRuns * kRun<T>;
    if constexpr (AlongK) {
      IN_REGISTERS
      for (int i = 0; i < kCopies; ++i) row[i] = operand.row(first + own_row + i * kRowStep);
    } else {
      IN_REGISTERS
      for (int e = 0; e < kPieces; ++e) column[e] = operand.column(first + own_column + e);
    }
  }

  SUBROUTINE void copy(T* panel, unsigned k0) const {
    const int own_row = threadIdx.x / kRuns, own_column = threadIdx.x % kRuns * kRun<T>;
    IN_REGISTERS
    for (int e = 0; e < kPieces; ++e) {
      typename Operand::Column c;
      if constexpr (AlongK)
        c = operand.column(k0 + own_column + e);
      else
        c = column[e];
      IN_REGISTERS
      for (int i = 0; i < kCopies; ++i) {
        typename Operand::Row r;
        if constexpr (AlongK)
          r = row[i];
        else
          r = operand.row(k0 + own_row + i * kRowStep);
        const int at_row = own_row + i * kRowStep, at_column = own_column + e;
        T* to = panel + (AlongK ? place<T, Side, true>(at_row, at_column) : place<T, Side, false>(at_column, at_row));
        const T* from = operand.at(r, c);
        if constexpr (Wide || sizeof(T) == 4)
          gpu::cp_async<Wide ? 16 : 4>(to, from ? from : operand.data, from != nullptr);
        else  // cp.async copies no two bytes
          *to = from ? *from : T(0.0f);
      }
    }
  }
};

// Sides first .. first + 15 of k0 .. k0 + 15, as an mma instruction wants them: r[0] and r[1] have the first eight values of
// k, r[0] and r[2] the first eight sides.
template <int Side, bool AlongK>
__device__ __forceinline__ void read_sixteen(unsigned (&r)[4], const bfloat16* panel, int first, int k0) {
  const int lane = threadIdx.x % 32;
  if constexpr (AlongK)
    gpu::ldmatrix<4, false>(r, panel + place<bfloat16, Side, true>(first + lane % 16, k0 + lane / 16 * 8));
  else
    gpu::ldmatrix<4, true>(r, panel + place<bfloat16, Side, false>(first + lane / 8 % 2 * 8, k0 + lane % 8 + lane / 16 * 8));
}

// The values k = 4 t .. 4 t + 3 of `side`.
template <int Side, bool AlongK>
__device__ __forceinline__ float4 read_four(const float* panel, int side, int t) {
  if constexpr (AlongK) {
    return *reinterpret_cast<const float4*>(panel + place<float, Side, true>(side, 4 * t));
  } else {
    const float* p = panel + place<float, Side, false>(side, 4 * t);
    return make_float4(p[0], p[Side], p[2 * Side], p[3 * Side]);
  }
}

// ---- rounding and multiplying

// Four values as the registers of an mma instruction: one value in each, or two.
template <Precision P>
struct Four {
  static constexpr int kWords = P == Precision::tf32 ? 4 : 2;
  unsigned word[kWords];

  __device__ __forceinline__ void round(float4 v) {
    if constexpr (P == Precision::tf32)
      word[0] = gpu::round_tf32(v.x), word[1] = gpu::round_tf32(v.y), word[2] = gpu::round_tf32(v.z), word[3] = gpu::round_tf32(v.w);
    else
      word[0] = gpu::round_bf16(v.x, v.y), word[1] = gpu::round_bf16(v.z, v.w);
  }
};

// d (16 x 8) += a (16 x 16) b (16 x 8): a lane has rows `low` and `high` = low + 8 of a and one column of b.
template <Precision P>
__device__ __forceinline__ void multiply(float (&d)[4], const Four<P>& low, const Four<P>& high, const Four<P>& b) {
  IN_REGISTERS
  for (int i = 0; i < Four<P>::kWords; i += 2) {
    const unsigned ra[4] = {low.word[i], high.word[i], low.word[i + 1], high.word[i + 1]}, rb[2] = {b.word[i], b.word[i + 1]};
    if constexpr (P == Precision::tf32)
      gpu::mma_tf32_16x8x8(d, ra, rb);
    else
      gpu::mma_bf16_16x8x16(d, ra, rb);
  }
}

// sum += what a step contributes to a warp's rows and columns. `row` is the lane's first in the panel of a, `column` the
// warp's first in that of b.
template <Precision P, int Width, bool AlongA, bool AlongB, int Down, int Across>
SUBROUTINE void multiply_panels(float (&sum)[Down][Across][4], const float* a, const float* b, int row, int column) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  Four<P> fb[Across];
  IN_REGISTERS
  for (int j = 0; j < Across; ++j) fb[j].round(read_four<Width, AlongB>(b, column + 8 * j + g, t));
  IN_REGISTERS
  for (int i = 0; i < Down; ++i) {
    Four<P> low, high;
    low.round(read_four<kSide, AlongA>(a, row + 16 * i, t));
    high.round(read_four<kSide, AlongA>(a, row + 16 * i + 8, t));
    IN_REGISTERS
    for (int j = 0; j < Across; ++j) multiply<P>(sum[i][j], low, high, fb[j]);
  }
}
template <Precision P, int Width, bool AlongA, bool AlongB, int Down, int Across>
SUBROUTINE void multiply_panels(float (&sum)[Down][Across][4], const bfloat16* a, const bfloat16* b, int row, int column) {
  const int g = threadIdx.x % 32 / 4;
  IN_REGISTERS
  for (int k0 = 0; k0 < kDepth<bfloat16>; k0 += 16) {
    unsigned fb[Across / 2][4];
    IN_REGISTERS
    for (int j = 0; j < Across / 2; ++j) read_sixteen<Width, AlongB>(fb[j], b, column + 16 * j, k0);
    IN_REGISTERS
    for (int i = 0; i < Down; ++i) {
      unsigned fa[4];
      read_sixteen<kSide, AlongA>(fa, a, row - g + 16 * i, k0);
      IN_REGISTERS
      for (int j = 0; j < Across; ++j) gpu::mma_bf16_16x8x16(sum[i][j], fa, {fb[j / 2][j % 2], fb[j / 2][2 + j % 2]});
    }
  }
}

// The sums of the rows of a, whose panels lie across k. A thread has as many neighbouring rows as a word holds and every
// kParts-th step of k: a warp reads a line of shared memory, and all warps have the same to do.
template <class T>
struct RowSums {
  static constexpr int kRows = 4 / sizeof(T), kParts = kTileThreads * kRows / kSide;
  float sum[kRows] = {};

  __device__ __forceinline__ static int row() { return threadIdx.x * kRows % kSide; }
  __device__ __forceinline__ static int part() { return threadIdx.x * kRows / kSide; }
  SUBROUTINE void add(const T* panel) {
    IN_REGISTERS
    for (int i = 0; i < kDepth<T> / kParts; ++i) {
      const auto v = load<kRows>(panel + place<T, kSide, false>(row(), i * kParts + part()));
      IN_REGISTERS
      for (int e = 0; e < kRows; ++e) sum[e] += v[e];
    }
  }
  // The first `rows` of them; where the panels were, the parts meet.
  SUBROUTINE void write(float* to, unsigned rows) const {
    float* const sums = gpu::dynamic_shared<float>();
    __syncthreads();
    IN_REGISTERS
    for (int e = 0; e < kRows; ++e) sums[part() * kSide + row() + e] = sum[e];
    __syncthreads();
    const unsigned own = threadIdx.x;
    if (own >= kSide || own >= rows) return;
    float total = sums[own];
    for (int i = 1; i < kParts; ++i) total += sums[i * kSide + own];
    to[own] = total;
  }
};

// ---- the result: what becomes of the sums
//
// A thread has pairs of them, neighbours in a row, and first fetches what lies `before` where some of them go, then puts
// them there. `count` of a pair, one or two, are inside the matrix; two are written at once where pairs() says so.

template <class T>
__device__ __forceinline__ Vector<float, 2> load_pair(const T* p, int count, bool together) {
  if (together && count == 2) return load<2>(p);
  return {float(p[0]), count == 2 ? float(p[1]) : 0};
}
template <class T>
__device__ __forceinline__ void store_pair(T* p, const Vector<float, 2>& v, int count, bool together) {
  if (together && count == 2) return store(p, v);
  p[0] = v[0];
  if (count == 2) p[1] = v[1];
}

// A matrix c.
struct Result {
  void* c;
  long ld, group;     // from one row to the next, from one group's first column to the next
  const float* bias;  // of a column, all groups' one after the other; may be null
  float alpha, beta;  // beta == 0 never reads c
  bool relu;
  bool stored_bfloat16 = false;  // else c is float32
  const void* mask = nullptr;    // as c: c is 0 where this is not above 0; may be null
  float* db = nullptr;           // the sums of the rows of a, all groups' one after the other; may be null

  struct Before {};

  // Before all below. T is that of the operands.
  template <class T>
  __device__ __forceinline__ void begin() {
    if (std::is_same_v<T, float>) stored_bfloat16 = false;  // known to the compiler
  }
  __device__ __forceinline__ float read(const void* array, long i) const {
    return stored_bfloat16 ? float(static_cast<const bfloat16*>(array)[i]) : static_cast<const float*>(array)[i];
  }
  // What becomes of the sum at c + i.
  __device__ __forceinline__ float finish(float sum, long i, long column) const {
    float v = alpha * sum;
    if (beta != 0) v += beta * read(c, i);
    if (bias) v += bias[column];
    if (relu && v < 0) v = 0;
    return mask && read(mask, i) <= 0 ? 0 : v;
  }
  // Whether places an even number of values beyond c + i take two at once.
  __device__ __forceinline__ bool pairs(long i) const {
    return (reinterpret_cast<std::uintptr_t>(c) / (stored_bfloat16 ? sizeof(bfloat16) : sizeof(float)) + i) % 2 == 0 && ld % 2 == 0;
  }
  __device__ __forceinline__ Before before(long, int, bool) const { return {}; }
  // From c + i on, where `column` of all groups' is.
  SUBROUTINE void put(Vector<float, 2> v, const Before&, long i, long column, int count, bool together) const {
    v[0] = finish(v[0], i, column);
    v[1] = count == 2 ? finish(v[1], i + 1, column + 1) : 0;
    if (stored_bfloat16)
      store_pair(static_cast<bfloat16*>(c) + i, v, count, together);
    else
      store_pair(static_cast<float*>(c) + i, v, count, together);
  }
};

// Where the tile has the sum of row r and column c. Eight columns at a time are exchanged, or the rows that a warp has would
// lie in the same banks.
template <int Width>
__device__ __forceinline__ int place_of_sum(int r, int c) {
  return r * Width + (c ^ r % 8 * 8);
}

// What becomes of a tile of sums, those of a group from `part` on.
template <int Width, class T, class Out>
SUBROUTINE void write_tile(Out& result, const float* sums, unsigned m0, unsigned n0, unsigned M, unsigned N, long part) {
  result.template begin<T>();
  const long from = part + blockIdx.y * result.group;
  const bool together = result.pairs(from);
  constexpr int kAhead = 4;  // pairs of a thread on their way at once
  for (int first = threadIdx.x; first < kSide * Width / 2; first += kAhead * kTileThreads) {
    typename Out::Before before[kAhead];
    const auto for_each_pair = [&](auto f) {
      IN_REGISTERS
      for (int e = 0; e < kAhead; ++e) {
        const int r = (first + e * kTileThreads) / (Width / 2), c = (first + e * kTileThreads) % (Width / 2) * 2;
        if (m0 + r < M && n0 + c < N) f(e, r, c, from + (m0 + r) * result.ld + n0 + c, n0 + c + 1 < N ? 2 : 1);
      }
    };
    for_each_pair([&](int e, int, int, long to, int count) { before[e] = result.before(to, count, together); });
    for_each_pair([&](int e, int r, int c, long to, int count) {
      const long all = long(blockIdx.y) * N + n0 + c;  // of all groups' columns
      result.put(load<2>(sums + place_of_sum<Width>(r, c)), before[e], to, all, count, together);
    });
  }
}

// Block (tile, group, split). Where k is split, `result` is the partial sums, those of a part `split` values after the other's.
template <Precision P, int Width, bool Wide, class Out, class A, bool AlongA, class B, bool AlongB>
__global__ void __launch_bounds__(kTileThreads, 2)
    implicit_gemm(Out result, A a, B b, unsigned M, unsigned N, unsigned K, unsigned depth, long split) {
  constexpr int kRows = Width == 128 ? 64 : 32, kColumns = 32, kWarpsDown = kSide / kRows;  // of a warp
  using T = typename A::Element;
  constexpr int kPanelA = kSide * kDepth<T>, kStage = kPanelA + Width * kDepth<T>;
  T* const shared = gpu::dynamic_shared<T>();

  // Blocks that run at the same time share the panels of the longer side.
  const unsigned down = (M - 1) / kSide + 1, across = (N - 1) / Width + 1;
  const unsigned m0 = (down < across ? blockIdx.x % down : blockIdx.x / across) * kSide,
                 n0 = (down < across ? blockIdx.x / down : blockIdx.x % across) * Width;
  const Panel<A, kSide, AlongA, Wide> panel_a(a, m0);
  const Panel<B, Width, AlongB, Wide> panel_b(b, n0);
  const unsigned begin = blockIdx.z * depth, end = begin + depth < K ? begin + depth : K;

  const auto load = [&](unsigned step) {  // a step beyond the end is an empty group of copies
    const unsigned k = begin + step * kDepth<T>;
    T* stage = shared + step % kStages * kStage;
    if (k < end) panel_a.copy(stage, k), panel_b.copy(stage + kPanelA, k);
    gpu::cp_async_commit();
  };
  ROLLED
  for (unsigned step = 0; step < kStages - 1; ++step) load(step);

  const auto own_row = [] { return int(threadIdx.x / 32 % kWarpsDown * kRows + threadIdx.x % 32 / 4); };
  const auto own_column = [] { return int(threadIdx.x / 32 / kWarpsDown * kColumns); };  // of the warp
  float sum[kRows / 16][kColumns / 8][4] = {};
  const unsigned steps = end > begin ? (end - begin - 1) / kDepth<T> + 1 : 0;
  const bool with_rows = !AlongA && !AlongB && result.db && n0 == 0;
  RowSums<T> rows;
  for (unsigned step = 0; step < steps; ++step) {
    gpu::cp_async_wait<kStages - 2>();
    __syncthreads();
    const T* stage = shared + step % kStages * kStage;
    if (with_rows) rows.add(stage);
    multiply_panels<P, Width, AlongA, AlongB>(sum, stage, stage + kPanelA, own_row(), own_column());
    load(step + kStages - 1);  // into the place of the step before; its addresses take the fragments' registers
  }
  gpu::cp_async_wait<0>();

  if (with_rows) rows.write(result.db + blockIdx.z * split + long(blockIdx.y) * M + m0, M - m0);

  // The sums go where the panels were, and from there on their way in the order of memory, in a loop: their registers have no
  // addresses, so what becomes of each would else be code of its own, most of the kernel's.
  static_assert(kSide * Width * sizeof(float) <= kStages * kStage * sizeof(T));
  float* const sums = gpu::dynamic_shared<float>();  // [kSide][Width]
  __syncthreads();
  IN_REGISTERS
  for (int i = 0; i < kRows / 16; ++i) {
    IN_REGISTERS
    for (int j = 0; j < kColumns / 8; ++j) {
      IN_REGISTERS
      for (int half = 0; half < 2; ++half)
        store<2>(sums + place_of_sum<Width>(own_row() + 16 * i + 8 * half, own_column() + 8 * j + threadIdx.x % 4 * 2),
                 {sum[i][j][2 * half], sum[i][j][2 * half + 1]});
    }
  }
  __syncthreads();

  write_tile<Width, T>(result, sums, m0, n0, M, N, blockIdx.z * split);
}

// Of sums of parts the `rows` rows of c come first, then db.
template <class Out>
struct Added {
  Out result;
  long rows, columns;

  __device__ __forceinline__ void begin() { result.template begin<bfloat16>(); }
  __device__ __forceinline__ long to(long i) const { return i / columns * result.ld + i % columns; }
  __device__ __forceinline__ typename Out::Before before(long i) const {
    return i < rows * columns ? result.before(to(i), 1, false) : typename Out::Before{};
  }
  __device__ __forceinline__ void put(long i, const typename Out::Before& before, float sum) const {
    if (i < rows * columns)
      result.put({sum, 0}, before, to(i), i % columns, 1, false);
    else
      result.db[i - rows * columns] = sum;
  }
};

// ---- launching

// A product of every group: c (M, N), together a matrix (rows, columns).
struct Product {
  long M, N, K, groups, rows, columns;
};

// Narrow tiles where wide ones would compute more of nothing.
int tile_width(const Product& p) { return ceil_div(p.N, 64) % 2 ? 64 : 128; }

template <class T>
Split split_of(const Product& p) {
  return split_k(p.K, ceil_div(p.M, kSide) * ceil_div(p.N, tile_width(p)) * p.groups, kSplitTensorCore, kDepth<T>);
}
std::size_t workspace_bytes(const Product& p, bool with_db = false) {  // bfloat16, of deeper steps, has no more parts than float32
  return parts_bytes(split_of<float>(p), p.rows * p.columns + (with_db ? p.rows : 0));
}

template <Precision P, int Width, bool Wide, bool AlongA, bool AlongB, class Out, class A, class B>
void launch_tiles(const Out& result, const A& a, const B& b, const Product& p, const Split& split, long size, Stream stream) {
  const dim3 grid(unsigned(ceil_div(p.M, kSide) * ceil_div(p.N, Width)), unsigned(p.groups), unsigned(split.count));
  gpu::launch<implicit_gemm<P, Width, Wide, Out, A, AlongA, B, AlongB>>({grid, dim3(kTileThreads), kStages * (kSide + Width) * 64, stream},
                                                                        result, a, b, unsigned(p.M), unsigned(p.N), unsigned(p.K),
                                                                        unsigned(split.depth), size);
}

template <Precision P, bool AlongA, bool AlongB, class Out, class A, class B>
void launch_width(const Out& result, const A& a, const B& b, const Product& p, bool wide, const Split& split, long size, Stream stream) {
  if (!wide) return launch_tiles<P, 64, false, AlongA, AlongB>(result, a, b, p, split, size, stream);
  if (tile_width(p) == 64) return launch_tiles<P, 64, true, AlongA, AlongB>(result, a, b, p, split, size, stream);
  launch_tiles<P, 128, true, AlongA, AlongB>(result, a, b, p, split, size, stream);
}

template <bool AlongA, bool AlongB, class Out, class A, class B>
void launch_precision(const Out& result, const A& a, const B& b, const Product& p, bool wide, Precision precision, const Split& split,
                      long size, Stream stream) {
  using T = typename A::Element;
  if constexpr (std::is_same_v<T, float>)
    if (precision == Precision::tf32) launch_width<Precision::tf32, AlongA, AlongB>(result, a, b, p, wide, split, size, stream);
  if (std::is_same_v<T, bfloat16> || precision == Precision::bf16)
    launch_width<Precision::bf16, AlongA, AlongB>(result, a, b, p, wide, split, size, stream);
}

// AlongA, AlongB: the operand's columns are k. wide: all runs of neighbouring columns are there or not, and aligned. What is
// stored in bfloat16 is multiplied so. With a db, no operand's columns are k.
template <bool AlongA, bool AlongB, class Out = Result, class A, class B>
void product(const Out& result, const A& a, const B& b, const Product& p, bool wide, Precision precision, void* workspace, Stream stream) {
  const Split split = split_of<typename A::Element>(p);
  const long size = p.rows * p.columns + (result.db ? p.rows : 0);
  if (split.count == 1) return launch_precision<AlongA, AlongB>(result, a, b, p, wide, precision, split, size, stream);
  float* const sums = static_cast<float*>(workspace);
  const Result partials{sums, p.columns, result.group, nullptr, 1,
                        0,    false,     false,        nullptr, result.db ? sums + p.rows * p.columns : nullptr};
  launch_precision<AlongA, AlongB>(partials, a, b, p, wide, precision, split, size, stream);
  launch_add_parts(Added<Out>{result, p.rows, p.columns}, sums, size, split, stream);
}

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

}  // namespace
}  // namespace alexnet
