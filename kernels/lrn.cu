// lrn.cu - local response normalisation across channels (section 3.3 of the AlexNet paper), n = size:
//
//   y_i = x_i s_i^-beta,   s_i = k + alpha sum x_j^2 over j in window(i) = [i - floor(n/2), i - floor(n/2) + n)
//   dx_i = dy_i s_i^-beta - 2 alpha beta x_i sum dy_j x_j s_j^(-beta - 1) over all j with i in window(j)
//
// Windows end where their group of channels ends. A pixel's groups follow each other in memory, so the kernels see a
// matrix with a row for each group of each pixel. s is not kept for the backward pass: it follows from x.
#include <algorithm>
#include <cmath>

#include "lrn.cuh"

namespace alexnet {
namespace {

struct Rows {
  long count;
  int C, per_block;
  __device__ __forceinline__ long first() const { return long(blockIdx.x) * per_block; }
  __device__ __forceinline__ long last() const { return min(first() + per_block, count); }
};

// ---- n = 2 Reach + 1 at compile time and beta = 3/4, as in the paper. A thread owns V neighbouring channels at a time,
// and the next thread the next V: a warp reads and writes whole lines. On the CPU the last strip of a row may be shorter.

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
      for (int e = 0; e < V; ++e) out[e] = normalised<Reach>(window, e, k, alpha);
      store(y + row * rows.C + c, out);
    }
  }
}

template <int V, int Reach, class T>
__global__ void lrn_backward_unrolled(T* dx, const T* dy, const T* x, Rows rows, float k, float alpha, bool mask) {
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, row_step = blockDim.y;
  const long last = rows.last();
  for (long row = rows.first() + threadIdx.y; row < last; row += row_step)
    for (int c = c_first; c < rows.C; c += c_step) {
      const int length = kStrip > 4 ? min(V, rows.C - c) : V;
      const Strip<V, 2 * Reach, T> window{x + row * rows.C, c, rows.C};
      const Strip<V, Reach, T> d{dy + row * rows.C, c, rows.C};
      const auto out = lrn_gradient<V, Reach>(window, d, length, k, alpha, mask);
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
__global__ void lrn_backward_any(T* dx, const T* dy, const T* x, Rows rows, Lrn s, bool mask) {
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
      const float v = from[c];
      dx[row * rows.C + c] = mask && v <= 0 ? 0 : own - 2 * s.alpha * s.beta * v * sum;
    }
}

Rows rows_of(const Lrn& s) {
  const int C = s.C / s.groups;
  return {s.rows * s.groups, C, std::max(kBlockItems * kWidth / C, 1)};
}
gpu::Launch launch_of(const Rows& rows, int V, Stream stream) {
  return {dim3(unsigned((rows.count - 1) / rows.per_block + 1)), threads_over(rows.per_block, (rows.C - 1) / V + 1), 0, stream};
}

}  // namespace

template <class T>
void lrn_forward(T* y, const T* x, const Lrn& s, Stream stream) {
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
FOR_EACH_STORAGE(lrn_forward);

template <class T>
void lrn_backward(T* dx, const T* dy, const T* x, const Lrn& s, bool mask, Stream stream) {
  const Rows rows = rows_of(s);
  const auto unrolled = [&](auto reach) {
    const auto launch = [&](auto v) {
      gpu::launch_independent<lrn_backward_unrolled<v(), reach(), T>>(launch_of(rows, v, stream), dx, dy, x, rows, s.k, s.alpha, mask);
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
    gpu::launch_independent<lrn_backward_any<T>>(launch_of(rows, 1, stream), dx, dy, x, rows, s, mask);
}
FOR_EACH_STORAGE(lrn_backward);

}  // namespace alexnet
