// skinny_gemm.cu - y_mn = sum_k x_mk w_nk + b_n, optionally followed by max(0, .), for few rows m: a fully connected layer
// on a small batch.
//
// A weight takes part in as many products as x has rows: so few that reading the weights is all that takes time, and
// tiles made for many rows would mostly compute nothing. So each weight is read once, 16 bytes a lane, many on their way.
//
//   block     8 warps own 32 rows of w and a part of k. They first bring their part of x into shared memory, rounded to
//             the precision, where all 32 rows use it.
//   warp      Four rows of w, its lanes side by side along k. A lane has a sum for each of these and each row of x.
//   exchange  In each of five steps a lane gives half of its sums to its partner and adds what it gets to the other
//             half: 31 exchanges add up 32 sums over 32 lanes, and leave each lane with one of them.
//   split k   As in tensor_core.cuh: parts of k by the shape alone, added by a second kernel in a fixed order.
#include "tensor_core.cuh"

namespace alexnet {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kOwn = 4, kRows = kOwn * kWarps;  // rows of w: of a warp, of a block
constexpr int kStep = 256, kLongest = 4 * kStep;                                    // along k: two reads of a warp; the most of a block

template <Precision P>
__device__ __forceinline__ float4 rounded(float4 v) {
  if constexpr (P == Precision::tf32)
    return make_float4(__uint_as_float(gpu::round_tf32(v.x)), __uint_as_float(gpu::round_tf32(v.y)), __uint_as_float(gpu::round_tf32(v.z)),
                       __uint_as_float(gpu::round_tf32(v.w)));
  if constexpr (P == Precision::bf16) {
    const unsigned low = gpu::round_bf16(v.x, v.y), high = gpu::round_bf16(v.z, v.w);
    return make_float4(__uint_as_float(low << 16), __uint_as_float(low & 0xffff0000), __uint_as_float(high << 16),
                       __uint_as_float(high & 0xffff0000));
  }
  return v;
}

// Four neighbours, of which `there` and not more are there; Wide: all or none, and aligned.
template <bool Wide>
__device__ __forceinline__ float4 neighbours(const float* p, int there) {
  if constexpr (Wide)
    return there > 0 ? *reinterpret_cast<const float4*>(p) : make_float4(0, 0, 0, 0);
  else
    return make_float4(there > 0 ? p[0] : 0, there > 1 ? p[1] : 0, there > 2 ? p[2] : 0, there > 3 ? p[3] : 0);
}

// Lane l gets the sums over all lanes of its numbers l Count / 32 and following, as many as fit; they come first.
template <int Count, int Across = 16, int Size>
__device__ __forceinline__ void exchange(float (&sum)[Size]) {
  constexpr int half = Count / 2;
  const bool upper = threadIdx.x & Across;
  if constexpr (half == 0) {
    sum[0] += __shfl_xor_sync(~0u, sum[0], Across);
  } else {
    UNROLL
    for (int i = 0; i < half; ++i) {
      const float kept = upper ? sum[i + half] : sum[i], given = upper ? sum[i] : sum[i + half];
      sum[i] = kept + __shfl_xor_sync(~0u, given, Across);
    }
  }
  if constexpr (Across > 1) exchange<half == 0 ? 1 : half, Across / 2>(sum);
}

// Block (rows of w, part of k). Where k is split, `result` is the partial sums, a whole y for each part.
template <Precision P, int M, bool Wide>
__global__ void __launch_bounds__(kThreads, 2)
    skinny_rows(Result result, const float* __restrict__ x, const float* __restrict__ w, int rows, int N, int K, int depth) {
  float* const part = gpu::dynamic_shared<float>();  // [M][depth]
  const int first = int(blockIdx.y) * depth, n = int(blockIdx.x) * kRows + threadIdx.x / 32 * kOwn, lane = threadIdx.x % 32;
  for (int k = threadIdx.x * 4; k < depth; k += kThreads * 4) {
    UNROLL
    for (int m = 0; m < M; ++m) {
      const float4 v = neighbours<Wide>(x + long(m) * K + first + k, m < rows ? K - first - k : 0);
      *reinterpret_cast<float4*>(part + m * depth + k) = rounded<P>(v);
    }
  }
  __syncthreads();

  constexpr int reads = M > 8 ? 1 : 2;  // on their way at once; the sums of many rows leave no registers for two
  float sum[M * kOwn] = {};
  for (int k0 = lane * 4; k0 < depth; k0 += reads * 128) {
    float4 v[reads][kOwn];
    UNROLL
    for (int i = 0; i < reads; ++i) {
      UNROLL
      for (int r = 0; r < kOwn; ++r) {
        const int k = first + k0 + i * 128;
        v[i][r] = neighbours<Wide>(w + long(n + r) * K + k, n + r < N ? K - k : 0);
      }
    }
    UNROLL
    for (int i = 0; i < reads; ++i) {
      UNROLL
      for (int r = 0; r < kOwn; ++r) v[i][r] = rounded<P>(v[i][r]);
      UNROLL
      for (int m = 0; m < M; ++m) {
        const float4 u = *reinterpret_cast<const float4*>(part + m * depth + k0 + i * 128);
        UNROLL
        for (int r = 0; r < kOwn; ++r) {
          float& s = sum[m * kOwn + r];
          s += v[i][r].x * u.x, s += v[i][r].y * u.y, s += v[i][r].z * u.z, s += v[i][r].w * u.w;
        }
      }
    }
  }

  constexpr int count = M * kOwn, kept = count > 32 ? count / 32 : 1, lanes = count < 32 ? 32 / count : 1;
  exchange<count>(sum);
  float* const y = static_cast<float*>(result.c);
  UNROLL
  for (int i = 0; i < kept; ++i) {
    const int own = lane * count / 32 + i, m = own / kOwn, column = n + own % kOwn;
    const long to = (blockIdx.y * long(rows) + m) * N + column;
    if (lane % lanes == 0 && m < rows && column < N) y[to] = result.finish(sum[i], to, column);
  }
}

// Parts of k that fill a large GPU twice over, each at most what a block takes and at least one step.
Split split_rows(int N, int K) {
  const long blocks = ceil_div(N, kRows);
  const long count = std::max(ceil_div(K, kLongest), std::min(ceil_div(264, blocks), ceil_div(K, kStep)));
  const long depth = ceil_div(ceil_div(K, count), kStep) * kStep;
  return {ceil_div(K, depth), depth};
}

template <Precision P, int M>
void launch_rows(const Result& result, const float* x, const float* w, int rows, int N, int K, const Split& split, Stream stream) {
  const gpu::Launch launch{dim3(unsigned(ceil_div(N, kRows)), unsigned(split.count)), dim3(kThreads), M * split.depth * sizeof(float),
                           stream};
  if (K % 4 == 0 && aligned(x) && aligned(w))
    gpu::launch<skinny_rows<P, M, true>>(launch, result, x, w, rows, N, K, int(split.depth));
  else
    gpu::launch<skinny_rows<P, M, false>>(launch, result, x, w, rows, N, K, int(split.depth));
}

template <Precision P>
void launch_precision(const Result& result, const float* x, const float* w, int rows, int N, int K, const Split& split, Stream stream) {
  if (rows == 1) return launch_rows<P, 1>(result, x, w, rows, N, K, split, stream);
  if (rows <= 4) return launch_rows<P, 4>(result, x, w, rows, N, K, split, stream);
  if (rows <= 8) return launch_rows<P, 8>(result, x, w, rows, N, K, split, stream);
  launch_rows<P, 16>(result, x, w, rows, N, K, split, stream);
}

}  // namespace

bool skinny_gemm_takes(int M, int N, int K) { return M > 0 && M <= 16 && N > 0 && K > 0 && split_rows(N, K).count <= 65535; }

std::size_t skinny_gemm_workspace(int M, int N, int K) {
  const Split split = split_rows(N, K);
  return split.count > 1 ? split.count * M * N * sizeof(float) : 0;
}

void skinny_gemm(float* y, const float* x, const float* w, const float* bias, int M, int N, int K, bool relu, Precision precision,
                 void* workspace, Stream stream) {
  const Split split = split_rows(N, K);
  const Result result{y, N, 0, bias, 1, 0, relu};
  Result direct = result;
  if (split.count > 1) direct = {static_cast<float*>(workspace), N, 0, nullptr, 1, 0, false};
  if (precision == Precision::fp32) launch_precision<Precision::fp32>(direct, x, w, M, N, K, split, stream);
  if (precision == Precision::tf32) launch_precision<Precision::tf32>(direct, x, w, M, N, K, split, stream);
  if (precision == Precision::bf16) launch_precision<Precision::bf16>(direct, x, w, M, N, K, split, stream);
  if (split.count > 1)
    gpu::launch_independent<sum_partials>({dim3(unsigned(ceil_div(long(M) * N, 256))), dim3(256), 0, stream}, result,
                                          static_cast<const float*>(workspace), long(M), long(N), int(split.count));
}

}  // namespace alexnet
