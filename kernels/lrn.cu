// lrn.cu - local response normalisation across channels (section 3.3 of the AlexNet paper), n = size:
//
//   y_i = x_i s_i^-beta,   s_i = k + alpha sum x_j^2 over j in window(i) = [i - floor(n/2), i - floor(n/2) + n)
//   dx_i = dy_i s_i^-beta - 2 alpha beta x_i sum dy_j x_j s_j^(-beta - 1) over all j with i in window(j)
//
// Windows end where their group of channels ends. A pixel's groups follow each other in memory, so the kernels see a
// matrix with a row for each group of each pixel. s is not kept for the backward pass: it follows from x.
#include <algorithm>
#include <cmath>

#include "vector.cuh"

namespace alexnet {
namespace {

struct Rows {
  long count;
  int C, per_block;
  __device__ __forceinline__ long first() const { return long(blockIdx.x) * per_block; }
  __device__ __forceinline__ long last() const { return min(first() + per_block, count); }
};

// ---- n = 5 and beta = 3/4, as in the paper. A thread owns a strip of V neighbouring channels of a row and computes
// what belongs to one channel once, for the strip and for the neighbours on both sides that its windows reach.

// Four channels are one access on a GPU. On the CPU strips are long, for the sake of few neighbours.
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kStrip = 4;
#else
constexpr int kStrip = 128;
#endif

// Channels c - Halo to c + V + Halo of a row, zero where there are none.
template <int V, int Halo> struct Strip {
  const float* row;
  int c, C;
  __device__ __forceinline__ float operator[](int e) const {
    const int q = c - Halo + e;
    return q >= 0 && q < C ? row[q] : 0;
  }
};
template <int Halo> struct Strip<4, Halo> {
  float channel[4 + 2 * Halo];
  __device__ __forceinline__ Strip(const float* row, int c, int C) {
    const auto own = load<4>(row + c);
    const auto left = c > 0 ? load<Halo>(row + c - Halo) : Vector<float, Halo>{};
    const auto right = c + 4 < C ? load<Halo>(row + c + 4) : Vector<float, Halo>{};
    UNROLL for (int e = 0; e < Halo; ++e) channel[e] = left[e], channel[Halo + 4 + e] = right[e];
    UNROLL for (int e = 0; e < 4; ++e) channel[Halo + e] = own[e];
  }
  __device__ __forceinline__ float operator[](int e) const { return channel[e]; }
};

// s^-1/2 of the window that begins at x[e].
template <class S> __device__ __forceinline__ float rsqrt_scale(const S& x, int e, float k, float alpha) {
  return rsqrtf(k + alpha * (x[e] * x[e] + x[e + 1] * x[e + 1] + x[e + 2] * x[e + 2] + x[e + 3] * x[e + 3] + x[e + 4] * x[e + 4]));
}

template <int V> __global__ void lrn5_forward(float* y, const float* x, Rows rows, float k, float alpha) {
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step)
    VECTORIZE for (int c = c_first; c < rows.C; c += c_step) {
      const Strip<V, 2> window{x + row * rows.C, c, rows.C};
      Vector<float, V> out;
      UNROLL for (int e = 0; e < V; ++e) {
        const float r = rsqrt_scale(window, e, k, alpha);
        out[e] = window[e + 2] * (r * sqrtf(r));
      }
      store(y + row * rows.C + c, out);
    }
}

template <int V> __global__ void lrn5_backward(float* dx, const float* dy, const float* x, Rows rows, float k, float alpha) {
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step)
    for (int c = c_first; c < rows.C; c += c_step) {
      const int length = kStrip > 4 ? min(V, rows.C - c) : V;
      const Strip<V, 4> window{x + row * rows.C, c, rows.C};
      const Strip<V, 2> d{dy + row * rows.C, c, rows.C};
      float own[V + 4], across[V + 4];
      for (int e = 0; e < length + 4; ++e) {
        const float r = rsqrt_scale(window, e, k, alpha);
        own[e] = d[e] * (r * sqrtf(r));                 // dy s^-beta
        across[e] = own[e] * window[e + 2] * (r * r);  // dy x s^(-beta - 1)
      }
      float* to = dx + row * rows.C + c;
      Vector<float, 4> out;
      VECTORIZE for (int e = 0; e < length; ++e) {
        const float sum = across[e] + across[e + 1] + across[e + 2] + across[e + 3] + across[e + 4];
        const float o = own[e + 2] - 1.5f * alpha * window[e + 4] * sum;
        if constexpr (V == 4) out[e] = o; else to[e] = o;
      }
      if constexpr (V == 4) store(to, out);
    }
}

// ---- any n and beta: a thread owns single channels, neighbouring threads neighbouring ones.

__device__ __forceinline__ float power(float s, float beta) {
  const float r = rsqrtf(s);
  return beta == 0.75f ? r * sqrtf(r) : powf(s, -beta);
}
__device__ __forceinline__ float scale(const float* x, int c, int C, const Lrn& s) {
  const int first = max(c - s.size / 2, 0), last = min(c - s.size / 2 + s.size, C);
  float sum = 0;
  for (int j = first; j < last; ++j) sum += x[j] * x[j];
  return s.k + s.alpha * sum;
}

__global__ void lrn_forward_any(float* y, const float* x, Rows rows, Lrn s) {
  const int c_first = threadIdx.x, c_step = blockDim.x, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step)
    for (int c = c_first; c < rows.C; c += c_step) {
      const float* from = x + row * rows.C;
      y[row * rows.C + c] = from[c] * power(scale(from, c, rows.C, s), s.beta);
    }
}

__global__ void lrn_backward_any(float* dx, const float* dy, const float* x, Rows rows, Lrn s) {
  const int c_first = threadIdx.x, c_step = blockDim.x, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step)
    for (int c = c_first; c < rows.C; c += c_step) {
      const float *from = x + row * rows.C, *d = dy + row * rows.C;
      const int j_first = max(c - s.size + s.size / 2 + 1, 0), j_last = min(c + s.size / 2 + 1, rows.C);
      float own = 0, sum = 0;
      for (int j = j_first; j < j_last; ++j) {
        const float sj = scale(from, j, rows.C, s), dj = d[j] * power(sj, s.beta);
        own = j == c ? dj : own;
        sum += dj * from[j] / sj;
      }
      dx[row * rows.C + c] = own - 2 * s.alpha * s.beta * from[c] * sum;
    }
}

bool is_lrn5(const Lrn& s) { return s.size == 5 && s.beta == 0.75f; }

// launch(V) for the longest strips that rows divide into.
template <class F, class... T> void with_strip(const Rows& rows, F launch, const T*... arrays) {
  if constexpr (kStrip > 4) launch(std::integral_constant<int, kStrip>());
  else with_width<kStrip>(rows.C, launch, arrays...);
}

Rows rows_of(const Lrn& s) {
  const int C = s.C / s.groups;
  return {s.rows * s.groups, C, std::max(kBlockItems * kWidth / C, 1)};
}
gpu::Launch launch_of(const Rows& rows, int strip, Stream stream) {
  return {dim3(unsigned((rows.count - 1) / rows.per_block + 1)), threads_over(rows.per_block, (rows.C - 1) / strip + 1), 0, stream};
}

}  // namespace

void lrn_forward(float* y, const float* x, const Lrn& s, Stream stream) {
  const Rows rows = rows_of(s);
  if (is_lrn5(s))
    with_width(rows.C, [=](auto v) { gpu::launch_independent<lrn5_forward<v()>>(launch_of(rows, v, stream), y, x, rows, s.k, s.alpha); }, y, x);
  else
    gpu::launch_independent<lrn_forward_any>(launch_of(rows, 1, stream), y, x, rows, s);
}

void lrn_backward(float* dx, const float* dy, const float* x, const Lrn& s, Stream stream) {
  const Rows rows = rows_of(s);
  if (is_lrn5(s))
    with_strip(rows, [=](auto v) { gpu::launch_independent<lrn5_backward<v()>>(launch_of(rows, v, stream), dx, dy, x, rows, s.k, s.alpha); }, dx, dy, x);
  else
    gpu::launch_independent<lrn_backward_any>(launch_of(rows, 1, stream), dx, dy, x, rows, s);
}

}  // namespace alexnet
