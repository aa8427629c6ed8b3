// gemm.cu - c_mn = alpha sum_k op(a)_mk op(b)_kn + beta c_mn, every product and sum in fp32.
//
// On the CPU a BLAS does the work where one is registered. The kernel is the classic SGEMM: a block of 16 x 16 threads
// computes a square tile of C and walks along k in short steps. While the threads multiply one step
// out of shared memory, the next step's values are already on their way into registers; two shared buffers take turns,
// so that one barrier a step is enough. Each value loaded from shared memory is used by a whole row or column of the
// thread's sums: that reuse, not the arithmetic, is what makes a matrix product fast. Where C has few tiles, k is split
// (split_k.cuh).
#include <algorithm>
#include <atomic>
#include <cstdint>

#include "split_k.cuh"

namespace alexnet {
namespace {

constexpr int kThreads = 256;

// What one operand contributes to a step: `Side` rows of op(A) (or columns of op(B)) by `Depth` values of k. Each
// thread carries four values that are neighbours in memory: along k where the stored rows run along k (AlongK), else
// across. Neighbouring threads then read neighbouring groups of four, so a warp's loads coalesce.
template <int Side, int Depth, bool AlongK>
struct Panel {
  static_assert(Side * Depth == 4 * kThreads);
  // Rows stay 16-byte aligned; the four extra values spread the stores of AlongK, a column each, over the banks.
  static constexpr int pitch = Side + 4;

  const float* from;  // the thread's four values of the next step
  long step;
  int depth, across;  // how many values there are from the thread's first on; the rest is zero, which adds nothing
  bool whole;         // any four values are aligned, and all there or none
  int i, k;           // where the four stand in the panel
  float held[4];

  __device__ __forceinline__ Panel(const float* p, long ld, int first, int end, int K) : step(AlongK ? Depth : Depth * ld) {
    const int group = threadIdx.x;
    i = AlongK ? group / (Depth / 4) : group % (Side / 4) * 4;
    k = AlongK ? group % (Depth / 4) * 4 : group / (Side / 4);
    from = p + (AlongK ? (first + i) * ld + k : k * ld + first + i);
    across = end - first - i;
    depth = across > 0 ? K - k : 0;
    whole = (AlongK ? K : end) % 4 == 0 && ld % 4 == 0 && reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
  }

  __device__ __forceinline__ void load(int k0) {
    if (whole) {
      const float4 v = k0 < depth ? *reinterpret_cast<const float4*>(from) : make_float4(0, 0, 0, 0);
      held[0] = v.x, held[1] = v.y, held[2] = v.z, held[3] = v.w;
    } else {
      const int count = AlongK || k0 >= depth ? depth - k0 : across;
      UNROLL
      for (int e = 0; e < 4; ++e) held[e] = e < count ? from[e] : 0.0f;
    }
    from += step;
  }

  __device__ __forceinline__ void store(float (&shared)[Depth][pitch]) const {
    if constexpr (AlongK) {
      UNROLL
      for (int e = 0; e < 4; ++e) shared[k + e][i] = held[e];
    } else {
      *reinterpret_cast<float4*>(&shared[k][i]) = make_float4(held[0], held[1], held[2], held[3]);
    }
  }
};

// A thread's `Count` values of a step's row: groups of four, 64 apart, because 16 threads stand side by side.
__device__ __forceinline__ constexpr int lane_offset(int i) { return i / 4 * 64 + i % 4; }

template <int Count>
__device__ __forceinline__ void read_row(float (&r)[Count], const float* row) {
  UNROLL
  for (int i = 0; i < Count; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(row + lane_offset(i));
    r[i] = v.x, r[i + 1] = v.y, r[i + 2] = v.z, r[i + 3] = v.w;
  }
}

// A block owns a Side x Side tile of C, a thread (Side / 16)^2 of its values in groups of four columns: 16 neighbouring
// threads write 256 consecutive bytes of a row. Blocks (.., part) multiply `depth` values of k; each part has a C of its own.
template <int Side, bool TransposeA, bool TransposeB>
__global__ void __launch_bounds__(kThreads, 2)
    gemm_tile(float* __restrict__ c, const float* __restrict__ a, const float* __restrict__ b, Gemm g, int depth) {
  constexpr int Depth = 4 * kThreads / Side, Own = Side / 16;
  using PanelA = Panel<Side, Depth, !TransposeA>;
  using PanelB = Panel<Side, Depth, TransposeB>;
  GPU_SHARED(float, as, [2][Depth][PanelA::pitch]);
  GPU_SHARED(float, bs, [2][Depth][PanelB::pitch]);

  const unsigned across = (g.N - 1) / Side + 1;
  const int m0 = int(blockIdx.x / across) * Side, n0 = int(blockIdx.x % across) * Side;
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  const long begin = long(blockIdx.y) * depth;
  a += TransposeA ? begin * g.lda : begin;
  b += TransposeB ? begin : begin * g.ldb;
  c += blockIdx.y * (g.M * g.ldc);
  g.K = g.K - begin < depth ? int(g.K - begin) : depth;
  PanelA panel_a(a, g.lda, m0, g.M, g.K);
  PanelB panel_b(b, g.ldb, n0, g.N, g.K);

  float sum[Own][Own] = {};
  panel_a.load(0), panel_b.load(0);
  for (int k0 = 0, turn = 0; k0 < g.K; k0 += Depth, turn ^= 1) {
    panel_a.store(as[turn]), panel_b.store(bs[turn]);
    __syncthreads();
    panel_a.load(k0 + Depth), panel_b.load(k0 + Depth);
    for (int k = 0; k < Depth; k += 2) {  // by two: unrolled whole, more values would be read ahead than registers hold
      UNROLL
      for (int ahead = 0; ahead < 2; ++ahead) {
        float ra[Own], rb[Own];
        read_row(ra, &as[turn][k + ahead][row]);
        read_row(rb, &bs[turn][k + ahead][column]);
        UNROLL
        for (int i = 0; i < Own; ++i) {
          UNROLL
          for (int j = 0; j < Own; ++j) sum[i][j] += ra[i] * rb[j];
        }
      }
    }
  }

  const bool aligned = (reinterpret_cast<std::uintptr_t>(c) | std::uintptr_t(g.ldc) * sizeof(float)) % 16 == 0;
  UNROLL
  for (int i = 0; i < Own; ++i) {
    const int m = m0 + row + lane_offset(i);
    if (m >= g.M) continue;
    UNROLL
    for (int j = 0; j < Own; j += 4) {
      const int n = n0 + column + lane_offset(j);
      float* to = c + m * g.ldc + n;
      if (aligned && n + 4 <= g.N) {
        const float4 old = g.beta == 0 ? make_float4(0, 0, 0, 0) : *reinterpret_cast<const float4*>(to);
        *reinterpret_cast<float4*>(to) = make_float4(g.alpha * sum[i][j] + g.beta * old.x, g.alpha * sum[i][j + 1] + g.beta * old.y,
                                                     g.alpha * sum[i][j + 2] + g.beta * old.z, g.alpha * sum[i][j + 3] + g.beta * old.w);
      } else {
        UNROLL
        for (int e = 0; e < 4; ++e)
          if (n + e < g.N) to[e] = g.alpha * sum[i][j + e] + (g.beta == 0 ? 0.0f : g.beta * to[e]);
      }
    }
  }
}

long tiles(const Gemm& g, int side) { return ((g.M - 1) / side + 1l) * ((g.N - 1) / side + 1l); }

// The large tile reuses each value twice as often; the small one leaves fewer multiprocessors of a large GPU idle.
bool takes_large_tiles(const Gemm& g) { return g.M > 64 && g.N > 64 && tiles(g, 128) >= 128; }

Split split_of(const Gemm& g) {
  constexpr int side = 64, step = 4 * kThreads / side;
  return takes_large_tiles(g) ? Split{1, g.K} : split_k(g.K, tiles(g, side), kSplitGemm, step);
}

struct Added {
  float* c;
  Gemm g;

  __device__ __forceinline__ void begin() const {}
  __device__ __forceinline__ float* to(long i) const { return c + i / g.N * g.ldc + i % g.N; }
  __device__ __forceinline__ float before(long i) const { return g.beta == 0 ? 0.0f : g.beta * *to(i); }
  __device__ __forceinline__ void put(long i, float before, float sum) const { *to(i) = g.alpha * sum + before; }
};

template <int Side>
void launch_tiles(float* c, const float* a, const float* b, const Gemm& g, const Split& split, Stream stream) {
  const gpu::Launch launch{dim3(unsigned(tiles(g, Side)), unsigned(split.count)), dim3(kThreads), 0, stream};
  const int depth = int(split.depth);
  if (g.transpose_a && g.transpose_b) return gpu::launch<gemm_tile<Side, true, true>>(launch, c, a, b, g, depth);
  if (g.transpose_a) return gpu::launch<gemm_tile<Side, true, false>>(launch, c, a, b, g, depth);
  if (g.transpose_b) return gpu::launch<gemm_tile<Side, false, true>>(launch, c, a, b, g, depth);
  gpu::launch<gemm_tile<Side, false, false>>(launch, c, a, b, g, depth);
}

// Rows and columns of C, which begin at m and n, that are one task.
struct Tile {
  long m, n, rows, columns;
};
constexpr long kTileSide = 512;

// f(tile, lane) for the tiles of C, spread over the threads, cut by the shape alone, so that the number of threads does not
// change a bit.
template <class F>
void for_each_tile(const Gemm& g, F f) {
  const long width = g.M <= gpu::kFewRows && g.transpose_b ? 128 : kTileSide;  // all threads should read b, to the end
  const long down = (g.M - 1) / kTileSide + 1, across = (g.N - 1) / width + 1;
  gpu::for_each_task(down * across, [&](long task, int lane) {
    const long m = task / across * kTileSide, n = task % across * width;
    f(Tile{m, n, std::min(kTileSide, g.M - m), std::min(width, g.N - n)}, lane);
  });
}

// Through a BLAS, if there is one.
bool blas_tiles(float* c, const float* a, const float* b, const Gemm& g) {
  std::atomic<bool> done = true;
  for_each_tile(g, [&](const Tile& t, int) {
    if (!gpu::blas_sgemm(g.transpose_a, g.transpose_b, t.rows, t.columns, g.K, g.alpha, a + (g.transpose_a ? t.m : t.m * g.lda), g.lda,
                         b + (g.transpose_b ? t.n * g.ldb : t.n), g.ldb, g.beta, c + t.m * g.ldc + t.n, g.ldc))
      done = false;
  });
  return done;
}

long largest_tile(long M, long N) { return std::min(M, kTileSide) * std::min(N, kTileSide); }

// A tile's update, of its rows' elements.
void sgd_tile(float* w, float* v, const float* g, const float* lr, long ld, const Tile& t, float momentum, float decay, bool nesterov,
              Stream stream) {
  Sgd rows[kTileSide];
  for (long r = 0; r < t.rows; ++r) {
    const long at = (t.m + r) * ld + t.n;
    rows[r] = {w + at, v + at, g + r * t.columns, lr, t.columns, 1, momentum, decay, nesterov};
  }
  multi_sgd(rows, int(t.rows), stream);
}

}  // namespace

std::size_t gemm_workspace(const Gemm& g) {
  if (g.M == 0 || g.N == 0) return 0;
  return parts_bytes(split_of(g), long(g.M) * g.N);
}

void gemm(float* c, const float* a, const float* b, const Gemm& product, void* workspace, Stream stream) {
  Gemm g = product;
  if (g.M == 0 || g.N == 0) return;
  if (g.alpha == 0) g.K = 0;  // as in BLAS, nothing of A and B is then read
  if (blas_tiles(c, a, b, g)) return;
  const Split whole{1, g.K}, split = workspace ? split_of(g) : whole;
  if (split.count > 1) {
    float* const partial = static_cast<float*>(workspace);
    launch_tiles<64>(partial, a, b, {g.M, g.N, g.K, g.transpose_a, g.transpose_b, g.lda, g.ldb, g.N, 1, 0}, split, stream);
    launch_add_parts(Added{c, g}, partial, long(g.M) * g.N, split, stream);
  } else if (takes_large_tiles(g)) {
    launch_tiles<128>(c, a, b, g, whole, stream);
  } else {
    launch_tiles<64>(c, a, b, g, whole, stream);
  }
}

std::size_t gemm_sgd_workspace(int M, int N) { return gpu::lanes() * largest_tile(M, N) * sizeof(float); }

// The gradient's tiles are updated with while they lie in a cache.
void gemm_sgd(float* w, float* v, const float* a, const float* b, const float* lr, int M, int N, int K, float momentum, float decay,
              bool nesterov, void* workspace, Stream stream) {
  if (M == 0 || N == 0) return;
  for_each_tile({M, N, K, true, false, M, N, N, 1, 0}, [&](const Tile& t, int lane) {
    float* const g = static_cast<float*>(workspace) + lane * largest_tile(M, N);
    gemm(g, a + t.m, b + t.n, {int(t.rows), int(t.columns), K, true, false, M, N, t.columns, 1, 0}, nullptr, stream);
    sgd_tile(w, v, g, lr, N, t, momentum, decay, nesterov, stream);
  });
}

}  // namespace alexnet
