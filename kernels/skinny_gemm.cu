// skinny_gemm.cu - y_mn = s_n sum_k x_mk w_nk + b_n, optionally followed by max(0, .), for few rows m: a fully connected layer
// on a small batch. Weights may lie in memory shorter than x, in bfloat16 or, with scales s_n, in int8.
//
// A weight takes part in as many products as x has rows: so few that reading the weights is all that takes time, and
// tiles made for many rows would mostly compute nothing. So each weight is read once, 16 bytes a lane, many on their way.
//
//   block     8 warps own 32 rows of w and a part of k. They first bring their part of x into shared memory, rounded to
//             the precision, where all 32 rows use it.
//   warp      Four rows of w, its lanes side by side along k. A lane has a sum for each of these and each row of x.
//   exchange  In each of five steps a lane gives half of its sums to its partner and adds what it gets to the other
//             half: 31 exchanges add up 32 sums over 32 lanes, and leave each lane with one of them.
//   split k   Parts of k, added by a second kernel (split_k.cuh).
#include "tensor_core.cuh"

namespace alexnet {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kOwn = 4, kRows = kOwn * kWarps;  // rows of w: of a warp, of a block
template <class T>
constexpr int kRead = 32 * kRun<T>;  // of a warp, along k
template <class T>
constexpr int kStep = 2 * kRead<T>;

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

// A run in registers, which hold no less than two bytes: of int8 it is words of four.
template <class T>
struct Runs {
  using Type = Vector<T, kRun<T>>;
};
template <>
struct Runs<std::int8_t> {
  using Type = Vector<unsigned, 4>;
};
template <class T>
using Run = typename Runs<T>::Type;

// Neighbours, of which `there` and not more are there; Wide: all or none, and aligned.
template <bool Wide, class T>
__device__ __forceinline__ Run<T> neighbours(const T* p, int there) {
  if (Wide && there > 0) return *reinterpret_cast<const Run<T>*>(p);
  Run<T> v = {};
  IN_REGISTERS
  for (int e = 0; e < kRun<T>; ++e)
    if constexpr (std::is_same_v<T, std::int8_t>)
      v[e / 4] |= !Wide && there > e ? unsigned(std::uint8_t(p[e])) << e % 4 * 8 : 0;
    else
      v[e] = !Wide && there > e ? p[e] : T(0.0f);
  return v;
}

// Four of them from 4 i on, as they are multiplied: what lies in bfloat16 is rounded already. A GPU converts few integers a cycle,
// so byte b of int8 becomes the last digits of 2^23 + 128 + b.
template <Precision P, class T>
__device__ __forceinline__ float4 four(const Run<T>& v, int i) {
  if constexpr (std::is_same_v<T, std::int8_t>) {
    const unsigned word = v[i] ^ 0x80808080;
    const auto number = [&](int e) { return __uint_as_float(0x4b000000 | (word >> 8 * e & 0xff)) - (0x1p23f + 128); };
    return make_float4(number(0), number(1), number(2), number(3));
  } else {
    const float4 some = make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
    return std::is_same_v<T, float> ? rounded<P>(some) : some;
  }
}

// Where the i-th four of a lane's run of weights at k lie in shared memory: those of neighbouring lanes side by side.
template <class T>
__device__ __forceinline__ int place_of_four(int k, int i, int depth) {
  return i * (depth / (kRun<T> / 4)) + k / (kRun<T> / 4);
}

// Lane l gets the sums over all lanes of its numbers l Count / 32 and following, as many as fit; they come first.
template <int Count, int Across = 16, int Size>
__device__ __forceinline__ void exchange(float (&sum)[Size]) {
  constexpr int half = Count / 2;
  const bool upper = threadIdx.x & Across;
  if constexpr (half == 0) {
    sum[0] += __shfl_xor_sync(~0u, sum[0], Across);
  } else {
    IN_REGISTERS
    for (int i = 0; i < half; ++i) {
      const float kept = upper ? sum[i + half] : sum[i], given = upper ? sum[i] : sum[i + half];
      sum[i] = kept + __shfl_xor_sync(~0u, given, Across);
    }
  }
  if constexpr (Across > 1) exchange<half == 0 ? 1 : half, Across / 2>(sum);
}

// Of a multiprocessor: beside the sums of many rows 16 bytes of int8 at a time leave no registers for two.
template <class W, int M>
constexpr int kBlocks = sizeof(W) == 1 && M > 8 ? 1 : 2;

// Block (rows of w, part of k). Where k is split, `result` is the partial sums, a whole y for each part.
template <class T, class W, Precision P, int M, bool Wide>
__global__ void __launch_bounds__(kThreads, kBlocks<W, M>) skinny_rows(Result result, const T* __restrict__ x, const W* __restrict__ w,
                                                                       const float* __restrict__ scale, int rows, int N, int K, int depth) {
  constexpr int fours = kRun<W> / 4, fours_of_x = kRun<T> / 4;
  float* const part = gpu::dynamic_shared<float>();  // [M][depth]
  const int first = int(blockIdx.y) * depth, n = int(blockIdx.x) * kRows + threadIdx.x / 32 * kOwn, lane = threadIdx.x % 32;
  for (int k = threadIdx.x * kRun<T>; k < depth; k += kThreads * kRun<T>) {
    IN_REGISTERS
    for (int m = 0; m < M; ++m) {
      const Run<T> v = neighbours<Wide>(x + long(m) * K + first + k, m < rows ? K - first - k : 0);
      IN_REGISTERS
      for (int i = 0; i < fours_of_x; ++i) {
        const int place = place_of_four<W>(k / kRun<W> * kRun<W>, k % kRun<W> / 4 + i, depth);
        *reinterpret_cast<float4*>(part + m * depth + place) = four<P, T>(v, i);
      }
    }
  }
  __syncthreads();

  constexpr int reads = M > (Wide ? 8 : 4) ? 1 : 2;  // on their way at once; the sums of many rows leave no registers for two
  float sum[M * kOwn] = {};
  for (int k0 = lane * kRun<W>; k0 < depth; k0 += reads * kRead<W>) {
    Run<W> v[reads][kOwn];
    IN_REGISTERS
    for (int i = 0; i < reads; ++i) {
      IN_REGISTERS
      for (int r = 0; r < kOwn; ++r) {
        const int k = first + k0 + i * kRead<W>;
        v[i][r] = neighbours<Wide>(w + long(n + r) * K + k, n + r < N ? K - k : 0);
      }
    }
    IN_REGISTERS
    for (int i = 0; i < reads * fours; ++i) {
      float4 own[kOwn];
      IN_REGISTERS
      for (int r = 0; r < kOwn; ++r) own[r] = four<P, W>(v[i / fours][r], i % fours);
      IN_REGISTERS
      for (int m = 0; m < M; ++m) {
        const int place = place_of_four<W>(k0 + i / fours * kRead<W>, i % fours, depth);
        const float4 u = *reinterpret_cast<const float4*>(part + m * depth + place);
        IN_REGISTERS
        for (int r = 0; r < kOwn; ++r) {
          float& s = sum[m * kOwn + r];
          s += own[r].x * u.x, s += own[r].y * u.y, s += own[r].z * u.z, s += own[r].w * u.w;
        }
      }
    }
  }

  constexpr int count = M * kOwn, kept = count > 32 ? count / 32 : 1, lanes = count < 32 ? 32 / count : 1;
  exchange<count>(sum);
  IN_REGISTERS
  for (int i = 0; i < kept; ++i) {
    const int own = lane * count / 32 + i, m = own / kOwn, column = n + own % kOwn;
    const long to = (blockIdx.y * long(rows) + m) * N + column;
    if (lane % lanes == 0 && m < rows && column < N) result.put({scale ? scale[column] * sum[i] : sum[i], 0}, {}, to, column, 1, false);
  }
}

template <class W>
Split split_of(int N, int K) {
  return split_skinny(K, ceil_div(N, kRows), kStep<W>);
}

template <Precision P, int M, class T, class W>
void launch_rows(const Result& result, const T* x, const W* w, const float* scale, int rows, int N, int K, const Split& split,
                 Stream stream) {
  const gpu::Launch launch{dim3(unsigned(ceil_div(N, kRows)), unsigned(split.count)), dim3(kThreads), M * split.depth * sizeof(float),
                           stream};
  if (K % kRun<W> == 0 && aligned(x) && aligned(w))
    gpu::launch<skinny_rows<T, W, P, M, true>>(launch, result, x, w, scale, rows, N, K, int(split.depth));
  else
    gpu::launch<skinny_rows<T, W, P, M, false>>(launch, result, x, w, scale, rows, N, K, int(split.depth));
}

template <Precision P, class T, class W>
void launch_precision(const Result& result, const T* x, const W* w, const float* scale, int rows, int N, int K, const Split& split,
                      Stream stream) {
  if (rows == 1) return launch_rows<P, 1>(result, x, w, scale, rows, N, K, split, stream);
  if (rows <= 4) return launch_rows<P, 4>(result, x, w, scale, rows, N, K, split, stream);
  if (rows <= 8) return launch_rows<P, 8>(result, x, w, scale, rows, N, K, split, stream);
  launch_rows<P, 16>(result, x, w, scale, rows, N, K, split, stream);
}

}  // namespace

bool skinny_gemm_takes(int M, int N, int K) { return M > 0 && M <= 16 && N > 0 && K > 0 && split_of<float>(N, K).count <= 65535; }

std::size_t skinny_gemm_workspace(int M, int N, int K) {  // shorter weights, of deeper steps, have no more parts than float32
  return parts_bytes(split_of<float>(N, K), long(M) * N);
}

template <class T, class W>
void skinny_gemm(T* y, const T* x, const W* w, const float* scale, const float* bias, int M, int N, int K, bool relu, Precision precision,
                 void* workspace, Stream stream) {
  const Split split = split_of<W>(N, K);
  const Result result{y, N, 0, bias, 1, 0, relu, std::is_same_v<T, bfloat16>};
  Result direct = result;
  if (split.count > 1) direct = {workspace, N, 0, nullptr, 1, 0, false};
  if constexpr (std::is_same_v<W, float>) {
    if (precision == Precision::fp32) launch_precision<Precision::fp32>(direct, x, w, scale, M, N, K, split, stream);
    if (precision == Precision::tf32) launch_precision<Precision::tf32>(direct, x, w, scale, M, N, K, split, stream);
    if (precision == Precision::bf16) launch_precision<Precision::bf16>(direct, x, w, scale, M, N, K, split, stream);
  } else {  // beside short weights x in float32 is multiplied as it is
    constexpr Precision kept = std::is_same_v<T, float> ? Precision::fp32 : Precision::bf16;
    launch_precision<kept>(direct, x, w, scale, M, N, K, split, stream);
  }
  if (split.count > 1) launch_add_parts(Added<Result>{result, M, N}, static_cast<const float*>(workspace), long(M) * N, split, stream);
}
template decltype(skinny_gemm<float, float>) skinny_gemm<float, float>;
template decltype(skinny_gemm<bfloat16, bfloat16>) skinny_gemm<bfloat16, bfloat16>;
#if defined(__CUDACC__) || GPU_CHECKED  // for a CPU short_gemm.cu has a kernel of its own
template decltype(skinny_gemm<float, bfloat16>) skinny_gemm<float, bfloat16>;
template decltype(skinny_gemm<float, std::int8_t>) skinny_gemm<float, std::int8_t>;
#endif

}  // namespace alexnet
