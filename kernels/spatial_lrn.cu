// spatial_lrn.cu - local response normalisation within a channel (cuda-convnet's same-map "rnorm"), n = size:
//
//   y_p = x_p s_p^-beta,   s_p = k + alpha sum x_q^2 over the pixels q in window(p), n x n pixels from p - floor(n/2) on
//   dx_p = dy_p s_p^-beta - 2 alpha beta x_p sum dy_q x_q s_q^(-beta - 1) over all q with p in window(q)
//
// Windows end where the image ends. A block owns a row of pixels, a thread V neighbouring channels of some of them, the
// next thread the next V: a warp reads and writes whole lines. The backward pass leaves dy x s^(-beta - 1) in a workspace
// first, so that each s is computed once.
#include <algorithm>
#include <cmath>

#include "lrn.cuh"
#include "vector.cuh"

namespace alexnet {
namespace {

// On the CPU the compiler makes vector registers of a thread's channels.
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kOwned = 4;
#else
constexpr int kOwned = 16;
#endif

// The part inside the image of n pixels from first on.
struct Span {
  int first, last;
  __device__ __forceinline__ Span(int first, int n, int size) : first(first < 0 ? 0 : first), last(first + n < size ? first + n : size) {}
};

// The sum of f(offset of a pixel's vector of channels) over all pixels of the window.
template <int V, class F>
__device__ __forceinline__ Vector<float, V> sum_over(Span rows, Span columns, int W, int C, F f) {
  Vector<float, V> sum{};
  for (int h = rows.first; h < rows.last; ++h)
    for (int w = columns.first; w < columns.last; ++w) {
      const auto v = f((h * W + w) * C);
      UNROLL
      for (int e = 0; e < V; ++e) sum[e] += v[e];
    }
  return sum;
}
template <int V>
__device__ __forceinline__ Vector<float, V> squared(const float* p) {
  auto v = load<V>(p);
  UNROLL
  for (int e = 0; e < V; ++e) v[e] *= v[e];
  return v;
}

template <int V>
__global__ void spatial_lrn_scale(float* y, float* term, const float* x, const float* dy, SpatialLrn s) {
  const int h = blockIdx.x % s.H, c_first = threadIdx.x * V, c_step = blockDim.x * V, w_step = blockDim.y;
  const long image = long(blockIdx.x / s.H) * s.H * s.W * s.C;
  const Span rows(h - s.size / 2, s.size, s.H);
  for (int w = threadIdx.y; w < s.W; w += w_step) {
    const Span columns(w - s.size / 2, s.size, s.W);
    const long at = image + (h * s.W + w) * s.C;
    for (int c = c_first; c < s.C; c += c_step) {
      const auto sum = sum_over<V>(rows, columns, s.W, s.C, [&](int q) { return squared<V>(x + image + q + c); });
      const auto own = load<V>(x + at + c);
      const auto d = dy ? load<V>(dy + at + c) : own;
      Vector<float, V> out, t;
      UNROLL
      for (int e = 0; e < V; ++e) {
        const float scale = s.k + s.alpha * sum[e];
        out[e] = d[e] * power(scale, s.beta);
        t[e] = out[e] * own[e] / scale;
      }
      store(y + at + c, out);
      if (term) store(term + at + c, t);
    }
  }
}

template <int V>
__global__ void spatial_lrn_gather(float* dx, const float* term, const float* x, SpatialLrn s) {
  const int h = blockIdx.x % s.H, c_first = threadIdx.x * V, c_step = blockDim.x * V, w_step = blockDim.y;
  const long image = long(blockIdx.x / s.H) * s.H * s.W * s.C;
  const int before = s.size - s.size / 2 - 1;  // p lies in the windows of this many pixels before it
  const Span rows(h - before, s.size, s.H);
  for (int w = threadIdx.y; w < s.W; w += w_step) {
    const Span columns(w - before, s.size, s.W);
    const long at = image + (h * s.W + w) * s.C;
    for (int c = c_first; c < s.C; c += c_step) {
      const auto sum = sum_over<V>(rows, columns, s.W, s.C, [&](int q) { return load<V>(term + image + q + c); });
      const auto own = load<V>(x + at + c);
      auto out = load<V>(dx + at + c);
      UNROLL
      for (int e = 0; e < V; ++e) out[e] -= 2 * s.alpha * s.beta * own[e] * sum[e];
      store(dx + at + c, out);
    }
  }
}

gpu::Launch over_rows(const SpatialLrn& s, int V, Stream stream) {
  return {dim3(unsigned(s.N * s.H)), threads_over(s.W, s.C / V), 0, stream};
}

}  // namespace

void spatial_lrn_forward(float* y, const float* x, const SpatialLrn& s, Stream stream) {
  with_width<kOwned>(
      s.C,
      [&](auto v) {
        gpu::launch_independent<spatial_lrn_scale<v()>>(over_rows(s, v, stream), y, static_cast<float*>(nullptr), x,
                                                        static_cast<const float*>(nullptr), s);
      },
      y, x);
}

std::size_t spatial_lrn_backward_workspace(const SpatialLrn& s) { return long(s.N) * s.H * s.W * s.C * sizeof(float); }

void spatial_lrn_backward(float* dx, const float* dy, const float* x, const SpatialLrn& s, void* workspace, Stream stream) {
  float* term = static_cast<float*>(workspace);
  with_width<kOwned>(
      s.C,
      [&](auto v) {
        gpu::launch_independent<spatial_lrn_scale<v()>>(over_rows(s, v, stream), dx, term, x, dy, s);
        gpu::launch_independent<spatial_lrn_gather<v()>>(over_rows(s, v, stream), dx, static_cast<const float*>(term), x, s);
      },
      dx, dy, x);
}

}  // namespace alexnet
