// lrn.cu - local response normalisation across channels (section 3.3 of the AlexNet paper), n = size:
//
//   y_i = x_i s_i^-beta,   s_i = k + alpha sum x_j^2 over j in window(i) = [i - floor(n/2), i - floor(n/2) + n)
//   dx_i = dy_i s_i^-beta - 2 alpha beta x_i sum dy_j x_j s_j^(-beta - 1) over all j with i in window(j)
//
// Windows end where their group of channels ends. A pixel's groups follow each other in memory, so the kernels see a
// matrix with a row for each group of each pixel. s is not kept for the backward pass: it follows from x.
#include <algorithm>
#include <cmath>
#include <utility>

#include "lrn.cuh"
#include "vector.cuh"

namespace alexnet {
namespace {

struct Rows {
  long count;
  int C, per_block;
  __device__ __forceinline__ long first() const { return long(blockIdx.x) * per_block; }
  __device__ __forceinline__ long last() const { return min(first() + per_block, count); }
};

// ---- n = 2 Reach + 1 at compile time and beta = 3/4, as in the paper. A thread owns V neighbouring channels at a time,
// and the next thread the next V: a warp reads and writes whole lines.

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
// ... or, four at a time, beforehand.
template <int Halo, class T>
struct Strip<4, Halo, T> {
  static constexpr int kBefore = (Halo + 3) / 4;  // vectors before the thread's own
  float channel[4 * (2 * kBefore + 1)];
  __device__ __forceinline__ Strip(const T* row, int c, int C) {
    UNROLL
    for (int i = 0; i <= 2 * kBefore; ++i) {
      const int q = c + 4 * (i - kBefore);
      const auto v = q >= 0 && q < C ? load<4>(row + q) : Vector<float, 4>{};
      UNROLL
      for (int e = 0; e < 4; ++e) channel[4 * i + e] = v[e];
    }
  }
  __device__ __forceinline__ float operator[](int e) const { return channel[4 * kBefore - Halo + e]; }
};

// f(0) + ... + f(n - 1), written out: no loop is in the way of a host compiler that vectorises the one around it.
template <class F, int... J>
__device__ __forceinline__ float sum_over(std::integer_sequence<int, J...>, F f) {
  return (... + f(J));
}
template <int Reach>
using Window = std::make_integer_sequence<int, 2 * Reach + 1>;

// s^-1/2 for the window that begins at x[e].
template <int Reach, class S>
__device__ __forceinline__ float rsqrt_scale(const S& x, int e, float k, float alpha) {
  return rsqrtf(k + alpha * sum_over(Window<Reach>(), [&](int j) { return x[e + j] * x[e + j]; }));
}

template <int V, int Reach, class T>
__global__ void lrn_forward_unrolled(T* y, const T* x, Rows rows, float k, float alpha) {
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step) {
    VECTORIZE
    for (int c = c_first; c < rows.C; c += c_step) {
      const Strip<V, Reach, T> window{x + row * rows.C, c, rows.C};
      Vector<float, V> out;
      UNROLL
      for (int e = 0; e < V; ++e) {
        const float r = rsqrt_scale<Reach>(window, e, k, alpha);
        out[e] = window[e + Reach] * (r * sqrtf(r));
      }
      store(y + row * rows.C + c, out);
    }
  }
}

// The sum over dy x s^(-beta - 1) reaches beyond the thread's own channels: it computes those terms for them too. On the
// CPU V is large, for the sake of few such neighbours, and the last strip of a row may be shorter.
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kStrip = 4;
#else
constexpr int kStrip = 128;
#endif
template <int V, int Reach, class T>
__global__ void lrn_backward_unrolled(T* dx, const T* dy, const T* x, Rows rows, float k, float alpha) {
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step)
    for (int c = c_first; c < rows.C; c += c_step) {
      const int length = kStrip > 4 ? min(V, rows.C - c) : V;
      const Strip<V, 2 * Reach, T> window{x + row * rows.C, c, rows.C};
      const Strip<V, Reach, T> d{dy + row * rows.C, c, rows.C};
      float own[V + 2 * Reach], term[V + 2 * Reach];
      for (int e = 0; e < length + 2 * Reach; ++e) {
        const float r = rsqrt_scale<Reach>(window, e, k, alpha);
        own[e] = d[e] * (r * sqrtf(r));                  // dy s^-beta
        term[e] = own[e] * window[e + Reach] * (r * r);  // dy x s^(-beta - 1)
      }
      Vector<float, V> out;
      for (int e = 0; e < length; ++e) {
        const float sum = sum_over(Window<Reach>(), [&](int j) { return term[e + j]; });
        out[e] = own[e + Reach] - 1.5f * alpha * window[e + 2 * Reach] * sum;
      }
      T* to = dx + row * rows.C + c;
      if constexpr (kStrip > 4)
        for (int e = 0; e < length; ++e) to[e] = out[e];
      else
        store(to, out);
    }
}

// ---- any n and beta: a thread owns single channels, neighbouring threads neighbouring ones.

template <class T>
__device__ __forceinline__ float scale(const T* x, int c, int C, const Lrn& s) {
  const int first = max(c - s.size / 2, 0), last = min(c - s.size / 2 + s.size, C);
  float sum = 0;
  for (int j = first; j < last; ++j) sum += float(x[j]) * float(x[j]);
  return s.k + s.alpha * sum;
}

template <class T>
__global__ void lrn_forward_any(T* y, const T* x, Rows rows, Lrn s) {
  const int c_first = threadIdx.x, c_step = blockDim.x, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step)
    for (int c = c_first; c < rows.C; c += c_step) {
      const T* from = x + row * rows.C;
      y[row * rows.C + c] = float(from[c]) * power(scale(from, c, rows.C, s), s.beta);
    }
}

template <class T>
__global__ void lrn_backward_any(T* dx, const T* dy, const T* x, Rows rows, Lrn s) {
  const int c_first = threadIdx.x, c_step = blockDim.x, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step)
    for (int c = c_first; c < rows.C; c += c_step) {
      const T *from = x + row * rows.C, *d = dy + row * rows.C;
      const int j_first = max(c - s.size + s.size / 2 + 1, 0), j_last = min(c + s.size / 2 + 1, rows.C);
      float own = 0, sum = 0;
      for (int j = j_first; j < j_last; ++j) {
        const float sj = scale(from, j, rows.C, s), dj = float(d[j]) * power(sj, s.beta);
        own = j == c ? dj : own;
        sum += dj * float(from[j]) / sj;
      }
      dx[row * rows.C + c] = own - 2 * s.alpha * s.beta * float(from[c]) * sum;
    }
}

Rows rows_of(const Lrn& s) {
  const int C = s.C / s.groups;
  return {s.rows * s.groups, C, std::max(kBlockItems * kWidth / C, 1)};
}
gpu::Launch launch_of(const Rows& rows, int V, Stream stream) {
  return {dim3(unsigned((rows.count - 1) / rows.per_block + 1)), threads_over(rows.per_block, (rows.C - 1) / V + 1), 0, stream};
}

template <class T>
void forward(T* y, const T* x, const Lrn& s, Stream stream) {
  const Rows rows = rows_of(s);
  const auto unrolled = [&](auto reach) {
    with_width(
        rows.C,
        [&](auto v) {
          gpu::launch_independent<lrn_forward_unrolled<v(), reach(), T>>(launch_of(rows, v, stream), y, x, rows, s.k, s.alpha);
        },
        y, x);
  };
  if (s.size == 5 && s.beta == 0.75f)
    unrolled(std::integral_constant<int, 2>());
  else if (s.size == 9 && s.beta == 0.75f)
    unrolled(std::integral_constant<int, 4>());
  else
    gpu::launch_independent<lrn_forward_any<T>>(launch_of(rows, 1, stream), y, x, rows, s);
}

template <class T>
void backward(T* dx, const T* dy, const T* x, const Lrn& s, Stream stream) {
  const Rows rows = rows_of(s);
  const auto unrolled = [&](auto reach) {
    const auto launch = [&](auto v) {
      gpu::launch_independent<lrn_backward_unrolled<v(), reach(), T>>(launch_of(rows, v, stream), dx, dy, x, rows, s.k, s.alpha);
    };
    if constexpr (kStrip > 4)
      launch(std::integral_constant<int, kStrip>());
    else
      with_width(rows.C, launch, dx, dy, x);
  };
  if (s.size == 5 && s.beta == 0.75f)
    unrolled(std::integral_constant<int, 2>());
  else if (s.size == 9 && s.beta == 0.75f)
    unrolled(std::integral_constant<int, 4>());
  else
    gpu::launch_independent<lrn_backward_any<T>>(launch_of(rows, 1, stream), dx, dy, x, rows, s);
}

}  // namespace

template <class T>
void lrn_forward(T* y, const T* x, const Lrn& s, Stream stream) {
  forward(y, x, s, stream);
}
FOR_EACH_STORAGE(lrn_forward);

template <class T>
void lrn_backward(T* dx, const T* dy, const T* x, const Lrn& s, Stream stream) {
  backward(dx, dy, x, s, stream);
}
FOR_EACH_STORAGE(lrn_backward);

}  // namespace alexnet
