// pool2d.cu - pooling over windows of KH x KW pixels, stride_h x stride_w apart, each channel on its own; windows
// overlap where the stride is smaller than the window (section 3.4 of the AlexNet paper).
//
//   max      y = max of the window's pixels inside the image, which = kh * KW + kw of the first pixel that has it
//            dx = sum of dy over the windows that cover the pixel and whose `which` names it
//   avg      y = sum of the window's pixels inside the image / their number
//            dx = sum of dy / number over the windows that cover the pixel
//
// A block owns a row of the pixels that it writes, a thread V neighbouring channels of some of them, the next thread the
// next V: a warp reads and writes whole lines. Backward passes gather, so nothing is added up in memory.
#include <algorithm>
#include <cmath>

#include "pool2d.cuh"

namespace alexnet {
namespace {

template <int V, int K, class T>
__global__ void max_pool_forward(T* y, std::uint8_t* which, const T* x, Pool2d s) {
  const int n = blockIdx.x / s.OH, oh = blockIdx.x % s.OH, h0 = oh * s.stride_h - s.pad_top;
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, ow_step = blockDim.y;
  x += long(n) * s.H * s.W * s.C;
  y += long(blockIdx.x) * s.OW * s.C;
  which += long(blockIdx.x) * s.OW * s.C;
  for (int ow = threadIdx.y; ow < s.OW; ow += ow_step) {
    const int w0 = ow * s.stride_w - s.pad_left;
    VECTORIZE
    for (int c = c_first; c < s.C; c += c_step) {
      Vector<float, V> best;
      Vector<std::uint8_t, V> at;
      UNROLL
      for (int e = 0; e < V; ++e) best[e] = -INFINITY, at[e] = 0;
      // Last to first, so that the first of equal pixels stays. Taps outside the image repeat the nearest pixel inside.
      for_each_reversed<K>(s.KH, s.KW, [&](int kh, int kw) {
        const int h = clamp(h0 + kh, s.H), w = clamp(w0 + kw, s.W);
        const auto v = load<V>(x + (h * s.W + w) * s.C + c);
        UNROLL
        for (int e = 0; e < V; ++e) {
          const bool take = (v[e] >= best[e]) | (v[e] != v[e]);  // NaN is larger than everything
          best[e] = take ? v[e] : best[e];
          at[e] = take ? (h - h0) * s.KW + w - w0 : at[e];
        }
      });
      store(y + ow * s.C + c, best);
      store(which + ow * s.C + c, at);
    }
  }
}

template <int V, int Most, class T>
__global__ void max_pool_backward(T* dx, const T* dy, const std::uint8_t* which, Pool2d s) {
  const int n = blockIdx.x / s.H, h = blockIdx.x % s.H;
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, w_step = blockDim.y;
  const Cover rows(h, s.pad_top, s.stride_h, s.KH, s.OH);
  dx += long(blockIdx.x) * s.W * s.C;
  dy += long(n) * s.OH * s.OW * s.C;
  which += long(n) * s.OH * s.OW * s.C;
  for (int w = threadIdx.y; w < s.W; w += w_step) {
    const Cover columns(w, s.pad_left, s.stride_w, s.KW, s.OW);
    VECTORIZE
    for (int c = c_first; c < s.C; c += c_step) {
      Vector<float, V> sum{};
      for_each_reversed<Most>(rows.count, columns.count, [&](int i, int j) {
        const int out = (rows.window(i) * s.OW + columns.window(j)) * s.C + c;
        const int tap = rows.tap(i) * s.KW + columns.tap(j), wanted = tap | -int(!(rows.covers(i) & columns.covers(j)));
        const auto d = load<V>(dy + out);
        const auto at = load<V>(which + out);
        UNROLL
        for (int e = 0; e < V; ++e) sum[e] += at[e] == wanted ? d[e] : 0;
      });
      store(dx + w * s.C + c, sum);
    }
  }
}

template <int V, int K, class T>
__global__ void avg_pool_forward(T* y, const T* x, Pool2d s) {
  const int n = blockIdx.x / s.OH, oh = blockIdx.x % s.OH, h0 = oh * s.stride_h - s.pad_top;
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, ow_step = blockDim.y;
  const int height = min(h0 + s.KH, s.H) - max(h0, 0);
  x += long(n) * s.H * s.W * s.C;
  y += long(blockIdx.x) * s.OW * s.C;
  for (int ow = threadIdx.y; ow < s.OW; ow += ow_step) {
    const int w0 = ow * s.stride_w - s.pad_left, width = min(w0 + s.KW, s.W) - max(w0, 0);
    const float count = height * width;
    VECTORIZE
    for (int c = c_first; c < s.C; c += c_step) {
      Vector<float, V> sum{};
      for_each_reversed<K>(s.KH, s.KW, [&](int kh, int kw) {
        const int h = clamp(h0 + kh, s.H), w = clamp(w0 + kw, s.W);
        const bool inside = (h == h0 + kh) & (w == w0 + kw);
        const auto v = load<V>(x + (h * s.W + w) * s.C + c);
        UNROLL
        for (int e = 0; e < V; ++e) sum[e] += inside ? v[e] : 0;
      });
      UNROLL
      for (int e = 0; e < V; ++e) sum[e] /= count;
      store(y + ow * s.C + c, sum);
    }
  }
}

template <int V, int Most, class T>
__global__ void avg_pool_backward(T* dx, const T* dy, Pool2d s) {
  const int n = blockIdx.x / s.H, h = blockIdx.x % s.H;
  const int c_first = threadIdx.x * V, c_step = blockDim.x * V, w_step = blockDim.y;
  const Cover rows(h, s.pad_top, s.stride_h, s.KH, s.OH);
  dx += long(blockIdx.x) * s.W * s.C;
  dy += long(n) * s.OH * s.OW * s.C;
  for (int w = threadIdx.y; w < s.W; w += w_step) {
    const Cover columns(w, s.pad_left, s.stride_w, s.KW, s.OW);
    VECTORIZE
    for (int c = c_first; c < s.C; c += c_step) {
      Vector<float, V> sum{};
      for_each_reversed<Most>(rows.count, columns.count, [&](int i, int j) {
        const int oh = rows.window(i), ow = columns.window(j), h0 = oh * s.stride_h - s.pad_top, w0 = ow * s.stride_w - s.pad_left;
        const int height = min(h0 + s.KH, s.H) - max(h0, 0), width = min(w0 + s.KW, s.W) - max(w0, 0);
        const bool covered = rows.covers(i) & columns.covers(j);
        const float weight = 1.0f / (height * width);
        const auto d = load<V>(dy + (oh * s.OW + ow) * s.C + c);
        UNROLL
        for (int e = 0; e < V; ++e) sum[e] += covered ? weight * d[e] : 0;
      });
      store(dx + w * s.C + c, sum);
    }
  }
}

// f(K): windows are K x K, the common sizes, whose loops are unrolled; 0: they have another size.
template <class F>
void with_window(const Pool2d& s, F f) {
  if (s.KH == 3 && s.KW == 3)
    f(std::integral_constant<int, 3>());
  else if (s.KH == 2 && s.KW == 2)
    f(std::integral_constant<int, 2>());
  else
    f(std::integral_constant<int, 0>());
}
// f(Most): at most so many windows of either axis cover a pixel; 0: more than three.
template <class F>
void with_cover(const Pool2d& s, F f) {
  const int most = std::max((s.KH - 1) / s.stride_h + 1, (s.KW - 1) / s.stride_w + 1);
  if (most == 1)
    f(std::integral_constant<int, 1>());
  else if (most == 2)
    f(std::integral_constant<int, 2>());
  else if (most == 3)
    f(std::integral_constant<int, 3>());
  else
    f(std::integral_constant<int, 0>());
}
gpu::Launch over_rows(long rows, int columns, int items, Stream stream) {
  return {dim3(unsigned(rows)), threads_over(columns, items), 0, stream};
}

}  // namespace

template <class T>
void max_pool2d_forward(T* y, std::uint8_t* which, const T* x, const Pool2d& s, Stream stream) {
  with_window(s, [&](auto k) {
    with_width(
        s.C,
        [&](auto v) {
          gpu::launch_independent<max_pool_forward<v(), k(), T>>(over_rows(long(s.N) * s.OH, s.OW, s.C / v, stream), y, which, x, s);
        },
        y, which, x);
  });
}
FOR_EACH_STORAGE(max_pool2d_forward);

template <class T>
void max_pool2d_backward(T* dx, const T* dy, const std::uint8_t* which, const Pool2d& s, Stream stream) {
  with_cover(s, [&](auto most) {
    with_width(
        s.C,
        [&](auto v) {
          gpu::launch_independent<max_pool_backward<v(), most(), T>>(over_rows(long(s.N) * s.H, s.W, s.C / v, stream), dx, dy, which, s);
        },
        dx, dy, which);
  });
}
FOR_EACH_STORAGE(max_pool2d_backward);

template <class T>
void avg_pool2d_forward(T* y, const T* x, const Pool2d& s, Stream stream) {
  with_window(s, [&](auto k) {
    with_width(
        s.C,
        [&](auto v) {
          gpu::launch_independent<avg_pool_forward<v(), k(), T>>(over_rows(long(s.N) * s.OH, s.OW, s.C / v, stream), y, x, s);
        },
        y, x);
  });
}
FOR_EACH_STORAGE(avg_pool2d_forward);

template <class T>
void avg_pool2d_backward(T* dx, const T* dy, const Pool2d& s, Stream stream) {
  with_cover(s, [&](auto most) {
    with_width(
        s.C,
        [&](auto v) {
          gpu::launch_independent<avg_pool_backward<v(), most(), T>>(over_rows(long(s.N) * s.H, s.W, s.C / v, stream), dx, dy, s);
        },
        dx, dy);
  });
}
FOR_EACH_STORAGE(avg_pool2d_backward);

}  // namespace alexnet
