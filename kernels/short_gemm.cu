// short_gemm.cu - y_mn = s_n sum_k x_mk w_nk + b_n, optionally followed by max(0, .), in float32: a fully connected layer whose
// weights lie in memory short, in bfloat16 (s_n = 1) or as whole numbers of 8 bits. Each is exactly a float32.
//
// For few rows of x the time is that of reading w, so each number is made float32 on its way to its products: by skinny_gemm.cu on
// a GPU, on a CPU by a kernel without barriers, whose loop the compiler makes one over vectors. For many it is that of the
// products, which a BLAS does best: so a block of rows of w at a time is written out as float32, small enough to stay in a cache,
// and multiplied by all of x.
#include <algorithm>

#include "columns.cuh"
#include "task_product.cuh"

namespace alexnet {
namespace {

// What becomes of the sum of column n.
struct Finish {
  const float *scale, *bias;  // may be null
  bool relu;
  __device__ __forceinline__ float operator()(float sum, long n) const {
    const float v = (scale ? scale[n] * sum : sum) + (bias ? bias[n] : 0.0f);
    return relu && v < 0 ? 0.0f : v;
  }
};

// ---- few rows of x

#ifdef __CUDACC__

constexpr int kWritten = 4096;  // rows of w that are float32 at a time

bool are_few(int M, int N, int K) { return skinny_gemm_takes(M, N, K); }
std::size_t few_workspace(int M, int N, int K) { return skinny_gemm_workspace(M, N, K); }
template <class W>
void multiply_few(float* y, const float* x, const W* w, const Finish& f, int M, int N, int K, void* workspace, Stream stream) {
  skinny_gemm<float, W>(y, x, w, f.scale, f.bias, M, N, K, f.relu, Precision::fp32, workspace, stream);
}

#else

// SUMS(...) for (...): the iterations add up these variables, in whatever order the compiler likes.
#define SUMS(...) _Pragma(SUMS_TEXT(omp simd reduction(+ : __VA_ARGS__)))
#define SUMS_TEXT(...) #__VA_ARGS__

constexpr int kWritten = 64;
constexpr int kFew = 8;                 // rows of x for each of which a block of w is read again, out of a cache by then
constexpr int kOwn = 8, kTogether = 4;  // rows of w: of a thread; their groups of a block

// A thread owns kOwn rows of w, as many streams from memory, which share each value of x.
template <class W>
__global__ void few_rows(float* __restrict__ y, const float* __restrict__ x, const W* __restrict__ w, Finish finish, int M, int N, int K) {
  for (long group : gpu::grid_range(ceil_div(N, kOwn))) {
    const long first = group * kOwn;
    const auto row = [=](int i) { return w + std::min(first + i, N - 1l) * K; };
    const W *w0 = row(0), *w1 = row(1), *w2 = row(2), *w3 = row(3), *w4 = row(4), *w5 = row(5), *w6 = row(6), *w7 = row(7);
    for (int m = 0; m < M; ++m) {
      const float* const own = x + long(m) * K;
      float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;  // an array's elements would not stay in registers
      SUMS(s0, s1, s2, s3, s4, s5, s6, s7)
      for (int k = 0; k < K; ++k) {
        const float v = own[k];
        s0 += float(w0[k]) * v, s1 += float(w1[k]) * v, s2 += float(w2[k]) * v, s3 += float(w3[k]) * v;
        s4 += float(w4[k]) * v, s5 += float(w5[k]) * v, s6 += float(w6[k]) * v, s7 += float(w7[k]) * v;
      }
      const float sums[kOwn] = {s0, s1, s2, s3, s4, s5, s6, s7};
      for (long n = first; n < first + kOwn && n < N; ++n) y[long(m) * N + n] = finish(sums[n - first], n);
    }
  }
}

bool are_few(int M, int, int) { return M <= kFew; }
std::size_t few_workspace(int, int, int) { return 0; }
template <class W>
void multiply_few(float* y, const float* x, const W* w, const Finish& f, int M, int N, int K, void*, Stream stream) {
  const dim3 blocks(unsigned(ceil_div(ceil_div(N, kOwn), kTogether)));
  gpu::launch_independent<few_rows<W>>({blocks, dim3(kTogether), 0, stream}, y, x, w, f, M, N, K);
}

#endif

// ---- many

// A thread owns neighbouring elements.
template <class W>
__global__ void widen(float* __restrict__ y, const W* __restrict__ w, long size) {
  VECTORIZE
  for (long i : gpu::grid_range(size)) y[i] = float(w[i]);
}

__global__ void finish_rows(float* y, Finish finish, Rows s) {
  for_each_value(s, [&](long m, int n) { y[m * s.C + n] = finish(y[m * s.C + n], n); });
}

}  // namespace

std::size_t short_gemm_workspace(int M, int N, int K) {
  return are_few(M, N, K) ? few_workspace(M, N, K) : std::size_t(gpu::lanes()) * std::min(kWritten, N) * K * sizeof(float);
}

template <class W>
void short_gemm(float* y, const float* x, const W* w, const float* scale, const float* bias, int M, int N, int K, bool relu,
                void* workspace, Stream stream) {
  const Finish finish{scale, bias, relu};
  if (are_few(M, N, K)) return multiply_few(y, x, w, finish, M, N, K, workspace, stream);
  const long written = std::min(kWritten, N);
  gpu::for_each_task(ceil_div(N, written), [&](long task, int lane) {
    const long first = task * written, rows = std::min(written, N - first);
    float* const block = static_cast<float*>(workspace) + lane * written * K;
    gpu::launch_independent<widen<W>>(flat(rows * K, stream), block, w + first * K, rows * K);
    multiply(y + first, x, block, {M, int(rows), K, false, true, K, K, N, 1, 0}, stream);
  });
  const Rows s = rows_of(M, N);
  gpu::launch_independent<finish_rows>(over_rows(s, stream), y, finish, s);
}
template decltype(short_gemm<bfloat16>) short_gemm<bfloat16>;
template decltype(short_gemm<std::int8_t>) short_gemm<std::int8_t>;

}  // namespace alexnet
