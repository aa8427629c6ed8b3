// lrn_max_pool2d.cu - normalisation across channels (lrn.cu), then max pooling over windows of 3 x 3 pixels, 2 apart
// (pool2d.cu), in one pass over memory each way, to the bits of the two: no normalised image is ever stored.
//
//   y = max over the window of the normalised x, which = kh * 3 + kw of the first pixel that has it
//   dx = the gradient of the normalisation, for the dy of the windows whose `which` names the pixel; if mask, 0 where x is not above 0
//
// Forward, a thread goes down the rows of a few neighbouring windows and normalises each pixel once; a window's last row
// is the next one's first. Backward, a thread gathers dy for its channels and the neighbours that their normalisation
// reaches: up to four windows cover a pixel.
#include <algorithm>

#include "lrn.cuh"
#include "pool2d.cuh"

namespace alexnet {
namespace {

constexpr int kSize = 3, kStride = 2;

#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kTile = 2, kBand = 4;  // windows of a thread: so many side by side, and below each other
#else
constexpr int kTile = 8, kBand = 8;
#endif

// Of an image's channels a group's, V at a time.
struct Strips {
  int C, groups;  // channels of a group
  template <int V>
  __host__ __device__ __forceinline__ int count() const {
    return groups * ((C - 1) / V + 1);
  }
  template <int V>
  __device__ __forceinline__ int group(int i) const {
    return i / ((C - 1) / V + 1);
  }
  template <int V>
  __device__ __forceinline__ int channel(int i) const {
    return i % ((C - 1) / V + 1) * V;
  }
};

// ---- forward

// f(j) for j < count; on a GPU unrolled, as registers have no addresses.
template <int V, int Most, class F>
__device__ __forceinline__ void for_each(int count, F f) {
  if constexpr (V > 4) {
    for (int j = 0; j < count; ++j) f(j);
  } else {
    UNROLL
    for (int j = 0; j < Most; ++j)
      if (j < count) f(j);
  }
}

template <int V, class T, class From>
__device__ __forceinline__ void put(T* to, const From& from, int length) {
  if constexpr (V > 4) {
    VECTORIZE
    for (int e = 0; e < length; ++e) to[e] = T(from[e]);
  } else {
    Vector<Value<T>, V> v;
    UNROLL
    for (int e = 0; e < V; ++e) v[e] = Value<T>(from[e]);
    store(to, v);
  }
}

template <int V, int Reach, class T>
__global__ void lrn_max_pool_forward(T* y, std::uint8_t* which, const T* x, Pool2d s, Strips strips, long items, int per_block, float k,
                                     float alpha) {
  constexpr int kColumns = kStride * (kTile - 1) + kSize;
  const int tiles = (s.OW - 1) / kTile + 1, bands = (s.OH - 1) / kBand + 1, count = strips.count<V>();
  const int i_first = threadIdx.x, i_step = blockDim.x, item_step = blockDim.y;
  const long end = min(long(blockIdx.x + 1) * per_block, items);
  for (long item = long(blockIdx.x) * per_block + threadIdx.y; item < end; item += item_step) {
    const int ow = int(item % tiles) * kTile, oh_first = int(item / tiles % bands) * kBand, n = int(item / tiles / bands);
    const int w0 = ow * kStride - s.pad_left, windows = min(kTile, s.OW - ow), oh_last = min(oh_first + kBand, s.OH);
    const int columns = kStride * (windows - 1) + kSize;
    for (int i = i_first; i < count; i += i_step) {
      const int first = strips.group<V>(i) * strips.C, c = strips.channel<V>(i), length = V > 4 ? min(V, strips.C - c) : V;
      const T* image = x + long(n) * s.H * s.W * s.C + first;

      // The normalised pixels below the windows, taps outside the image repeating the nearest pixel inside.
      float value[kSize][kColumns][V];
      const auto normalise = [&](int row, int h) {
        const T* pixels = image + clamp(h, s.H) * s.W * s.C;
        for_each<V, kColumns>(columns, [&](int j) {
          const Strip<V, Reach, T> window{pixels + clamp(w0 + j, s.W) * s.C, c, strips.C};
          VECTORIZE
          for (int e = 0; e < length; ++e) value[row][j][e] = T(normalised<Reach>(window, e, k, alpha));
        });
      };
      for (int oh = oh_first; oh < oh_last; ++oh) {
        const int h0 = oh * kStride - s.pad_top;
        if (oh == oh_first) {
          normalise(0, h0);
        } else {
          for_each<V, kColumns>(columns, [&](int j) {
            for (int e = 0; e < length; ++e) value[0][j][e] = value[kStride][j][e];
          });
        }
        normalise(1, h0 + 1);
        normalise(2, h0 + 2);
        const long to = ((long(n) * s.OH + oh) * s.OW + ow) * s.C + first + c;
        for_each<V, kTile>(windows, [&](int t) {
          const int w = w0 + kStride * t;
          float best[V];
          int at[V];  // as wide as a float, so that a host compiler's vectors hold as many
          VECTORIZE
          for (int e = 0; e < length; ++e) {
            best[e] = -INFINITY, at[e] = 0;
            for_each_reversed<kSize>(kSize, kSize, [&](int kh, int kw) {
              const float v = value[kh][kStride * t + kw][e];
              const bool take = (v >= best[e]) | (v != v);  // NaN is larger than everything
              best[e] = take ? v : best[e];
              at[e] = take ? (clamp(h0 + kh, s.H) - h0) * kSize + clamp(w + kw, s.W) - w : at[e];
            });
          }
          put<V>(y + to + t * s.C, best, length);
          put<V>(which + to + t * s.C, at, length);
        });
      }
    }
  }
}

// ---- backward

// dy, as pooling passes it on, of channels c - Halo to c + V + Halo of a group of C at one pixel.
template <int V, int Halo>
struct Gathered {
  static constexpr int kVector = V == 4 ? 4 : 1, kBefore = (Halo + kVector - 1) / kVector * kVector, kCount = V + 2 * kBefore;
  float channel[kCount] = {};
  __device__ __forceinline__ float operator[](int e) const { return channel[kBefore - Halo + e]; }

  // The channels dy[0] to dy[C - 1] of a window, where `which` is `tap`.
  template <class T>
  __device__ __forceinline__ void add(const T* dy, const std::uint8_t* which, int tap, int c, int C) {
    const int first = max(kBefore - c, 0), last = min(kCount, C - c + kBefore);
    const auto one = [&](int i) {
      const auto d = load<kVector>(dy + c - kBefore + i);
      const auto at = load<kVector>(which + c - kBefore + i);
      UNROLL
      for (int e = 0; e < kVector; ++e) channel[i + e] += at[e] == tap ? d[e] : 0;
    };
    if constexpr (V > 4) {
      VECTORIZE
      for (int i = first; i < last; ++i) one(i);
    } else {
      UNROLL
      for (int i = 0; i < kCount; i += kVector)
        if (i >= first && i < last) one(i);
    }
  }
  template <class T>
  __device__ __forceinline__ void round() {
    if constexpr (!std::is_same_v<T, float>)
      for (int i = 0; i < kCount; ++i) channel[i] = T(channel[i]);
  }
};

// A block owns a row of pixels.
template <int V, int Reach, class T>
__global__ void lrn_max_pool_backward(T* dx, const T* dy, const std::uint8_t* which, const T* x, Pool2d s, Strips strips, float k,
                                      float alpha, bool mask) {
  const int n = blockIdx.x / s.H, h = blockIdx.x % s.H, count = strips.count<V>();
  const int i_first = threadIdx.x, i_step = blockDim.x, w_step = blockDim.y;
  const Cover rows(h, s.pad_top, kStride, kSize, s.OH);
  dx += long(blockIdx.x) * s.W * s.C;
  x += long(blockIdx.x) * s.W * s.C;
  dy += long(n) * s.OH * s.OW * s.C;
  which += long(n) * s.OH * s.OW * s.C;
  for (int w = threadIdx.y; w < s.W; w += w_step) {
    const Cover columns(w, s.pad_left, kStride, kSize, s.OW);
    for (int i = i_first; i < count; i += i_step) {
      const int first = strips.group<V>(i) * strips.C, c = strips.channel<V>(i), length = V > 4 ? min(V, strips.C - c) : V;
      Gathered<V, Reach> d;
      for_each_reversed<2>(2, 2, [&](int i, int j) {
        const int from = (rows.window(i) * s.OW + columns.window(j)) * s.C + first;
        if (rows.covers(i) & columns.covers(j)) d.add(dy + from, which + from, rows.tap(i) * kSize + columns.tap(j), c, strips.C);
      });
      d.template round<T>();
      const Strip<V, 2 * Reach, T> window{x + w * s.C + first, c, strips.C};
      const auto out = lrn_gradient<V, Reach>(window, d, length, k, alpha, mask);
      put<V>(dx + w * s.C + first + c, out, length);
    }
  }
}

// f(V, Reach): V channels at a time, n = 2 Reach + 1.
template <class F, class... T>
void with_strips(const Lrn& l, F f, const T*... arrays) {
  const auto with_reach = [&](auto v) {
    if (l.size == 5)
      f(v, std::integral_constant<int, 2>());
    else
      f(v, std::integral_constant<int, 4>());
  };
  if constexpr (kStrip > 4)
    with_reach(std::integral_constant<int, kStrip>());
  else
    with_width(l.C / l.groups, with_reach, arrays...);
}

}  // namespace

bool lrn_max_pool2d_takes(const Lrn& l, const Pool2d& s) {
  return (l.size == 5 || l.size == 9) && l.beta == 0.75f && s.KH == kSize && s.KW == kSize && s.stride_h == kStride &&
         s.stride_w == kStride;
}

template <class T>
void lrn_max_pool2d_forward(T* y, std::uint8_t* which, const T* x, const Lrn& l, const Pool2d& s, Stream stream) {
  const Strips strips{l.C / l.groups, l.groups};
  const long items = long(s.N) * ((s.OH - 1) / kBand + 1) * ((s.OW - 1) / kTile + 1);
  with_strips(
      l,
      [&](auto v, auto reach) {
        const int count = strips.count<v()>(), per_block = kStrip > 4 ? 1 : std::max(kBlockThreads / count, 1);
        const gpu::Launch launch{dim3(unsigned((items - 1) / per_block + 1)), threads_over(per_block, count), 0, stream};
        gpu::launch_independent<lrn_max_pool_forward<v(), reach(), T>>(launch, y, which, x, s, strips, items, per_block, l.k, l.alpha);
      },
      y, which, x);
}
FOR_EACH_STORAGE(lrn_max_pool2d_forward);

template <class T>
void lrn_max_pool2d_backward(T* dx, const T* dy, const std::uint8_t* which, const T* x, const Lrn& l, const Pool2d& s, bool mask,
                             Stream stream) {
  const Strips strips{l.C / l.groups, l.groups};
  with_strips(
      l,
      [&](auto v, auto reach) {
        const gpu::Launch launch{dim3(unsigned(s.N * s.H)), threads_over(s.W, strips.count<v()>()), 0, stream};
        gpu::launch_independent<lrn_max_pool_backward<v(), reach(), T>>(launch, dx, dy, which, x, s, strips, l.k, l.alpha, mask);
      },
      dx, dy, which, x);
}
FOR_EACH_STORAGE(lrn_max_pool2d_backward);

}  // namespace alexnet
