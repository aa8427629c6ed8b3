// lrn.cuh - what the kernels of normalisation across channels (lrn.cu, lrn_max_pool2d.cu) and within one (spatial_lrn.cu)
// share.
#pragma once
#include <cmath>
#include <utility>

#include "vector.cuh"

namespace alexnet {
namespace {

// s^-beta; the published networks' beta is 3/4.
__device__ __forceinline__ float power(float s, float beta) {
  const float r = rsqrtf(s);
  return beta == 0.75f ? r * sqrtf(r) : powf(s, -beta);
}

// ---- across channels, n = 2 Reach + 1 at compile time and beta = 3/4

// Channels c - Halo to c + V + Halo of a row, zero where there are none: read when asked for ...
template <int V, int Halo, class T>
struct Strip {
  const T* row;
  int c, C;
  __device__ __forceinline__ float operator[](int e) const {
    const int q = c - Halo + e;
    return q >= 0 && q < C ? float(row[q]) : 0;
  }
};
// ... or beforehand, four at a time, or all in a loop that a host compiler vectorises.
template <int V, int Halo, class T>
  requires(V > 1)
struct Strip<V, Halo, T> {
  static constexpr int kVector = V == 4 ? 4 : 1, kBefore = (Halo + kVector - 1) / kVector * kVector, kCount = V + 2 * kBefore;
  float channel[kCount];
  __device__ __forceinline__ Strip(const T* row, int c, int C) {
    if constexpr (V == 4) {
      UNROLL
      for (int i = 0; i < kCount; i += 4) {
        const int q = c - kBefore + i;
        const auto v = q >= 0 && q < C ? load<4>(row + q) : Vector<float, 4>{};
        UNROLL
        for (int e = 0; e < 4; ++e) channel[i + e] = v[e];
      }
    } else {
      const int first = max(kBefore - c, 0), last = min(kCount, C - c + kBefore);
      for (int i = 0; i < first; ++i) channel[i] = 0;
      for (int i = first; i < last; ++i) channel[i] = row[c - kBefore + i];
      for (int i = last; i < min(kCount, last + Halo); ++i) channel[i] = 0;
    }
  }
  __device__ __forceinline__ float operator[](int e) const { return channel[kBefore - Halo + e]; }
};

// f(0) + ... + f(n - 1), written out: no loop is in the way of a host compiler that vectorises the one around it.
template <class F, int... J>
__device__ __forceinline__ float sum_over(std::integer_sequence<int, J...>, F f) {
  return (... + f(J));
}
template <int Reach>
using Window = std::make_integer_sequence<int, 2 * Reach + 1>;

// s^-1/2 for the window that begins at x[e]. Here and below products are fused with sums in so many words, or a compiler
// would do so in one kernel and not in another.
template <int Reach, class S>
__device__ __forceinline__ float rsqrt_scale(const S& x, int e, float k, float alpha) {
  float sum = x[e] * x[e];
  UNROLL
  for (int j = 1; j <= 2 * Reach; ++j) sum = multiply_add(x[e + j], x[e + j], sum);
  return rsqrtf(multiply_add(alpha, sum, k));
}

// The normalised value of the channel in the middle of that window.
template <int Reach, class S>
__device__ __forceinline__ float normalised(const S& x, int e, float k, float alpha) {
  const float r = rsqrt_scale<Reach>(x, e, k, alpha);
  return x[e + Reach] * (r * sqrtf(r));
}

// dx of `length` channels of which x has 2 Reach more on either side and dy Reach more. The sum over dy x s^(-beta - 1)
// reaches beyond the channels that a thread owns: it computes those terms for them too. On the CPU a thread owns kStrip
// channels, for the sake of few such neighbours. If mask, dx is 0 where x is not above 0.
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kStrip = 4;
#else
constexpr int kStrip = 128;
#endif
template <int V, int Reach, class X, class D>
__device__ __forceinline__ Vector<float, V> lrn_gradient(const X& x, const D& dy, int length, float k, float alpha, bool mask) {
  float own[V + 2 * Reach], term[V + 2 * Reach];
  for (int e = 0; e < length + 2 * Reach; ++e) {
    const float r = rsqrt_scale<Reach>(x, e, k, alpha);
    own[e] = dy[e] * (r * sqrtf(r));            // dy s^-beta
    term[e] = own[e] * x[e + Reach] * (r * r);  // dy x s^(-beta - 1)
  }
  Vector<float, V> dx;
  for (int e = 0; e < length; ++e) {
    const float sum = sum_over(Window<Reach>(), [&](int j) { return term[e + j]; });
    const float v = x[e + 2 * Reach], d = multiply_add(-1.5f * alpha * v, sum, own[e + Reach]);
    dx[e] = mask & (v <= 0) ? 0 : d;
  }
  return dx;
}

}  // namespace
}  // namespace alexnet
