// winograd_conv2d.cu - convolution with fewer products (Winograd 1980; Lavin and Gray: "Fast algorithms for convolutional
// neural networks", CVPR 2016), for square filters of 3 or 5 pixels at stride 1.
//
// Two polynomials of together P coefficients are multiplied by evaluating both at P points, multiplying the values, and
// interpolating. So M = P + 1 - R neighbouring outputs of a filter of R pixels, which need P inputs, cost P products instead of
// R M; in two dimensions an M x M tile of y costs P^2 instead of R^2 M^2: 4 times fewer for R = 3 and P = 6, 4.6 times for R = 5
// and P = 7. With A, B, G below, d a P x P tile of x, g a filter:
//
//   y  = A^T [(G g G^T) . (B^T d B)] A      summed over channels before the last step
//   dw = G^T [(A dy A^T) . (B^T d B)] G     summed over tiles before the last step
//   dx = the first, of dy and the filters turned by 180 degrees
//
// The products of each of the P^2 places of a tile are one matrix product over all tiles, filters and channels. Tiles are
// evaluated for one slice of the batch at a time, so that they stay in the cache; where there are so few that the filters are
// larger, a CPU evaluates some filters at a time instead.
//
// Between the transforms numbers are larger than their result, so rounding errors are some ten times those of the same sum in
// a plain convolution. How much larger depends on the points (Barabasz et al.: "Error analysis and improving the accuracy of
// Winograd convolution for deep neural networks", TOMS 2020): 0, 1, -1, 2, -2 and infinity for P = 6; 0, 1, -1, 1/2, -1/2, -3
// and infinity for P = 7, which share work in pairs. And sums are cut: kSum products are added by themselves.
#include <algorithm>
#include <type_traits>

#include "lanes.cuh"
#include "task_product.cuh"

namespace alexnet {
namespace {

template <int R>
constexpr int kPoints = R == 3 ? 6 : 7;
template <int R>
constexpr int kOutputs = kPoints<R> + 1 - R;  // of a tile, along one axis
constexpr int kSum = 128;                     // products
#ifdef __CUDACC__
constexpr int kStrip = 1;  // neighbouring threads have neighbouring channels
constexpr long kSliceBytes = 256 << 20, kTaskBytes = 0, kFewTiles = 0, kBlockBytes = 0;
#else
constexpr int kStrip = 16;  // the one thread of a block computes in vector registers
constexpr long kSliceBytes = 16 << 20;
constexpr long kTaskBytes = 640 << 10;  // of a slice that is one task, in the cache of one processor
// So few tiles are multiplied by as many filters at a time as stay in a cache from their evaluation on.
constexpr long kFewTiles = 32, kBlockBytes = 768 << 10;
#endif

// ---- evaluation and interpolation along one axis, of S neighbouring channels at once

template <int S, class Lane = Lanes<S>>
struct Strip {
  static constexpr int kCount = S * sizeof(float) / sizeof(Lane);
  Lane v[kCount];

  __device__ __forceinline__ static Strip load(const float* p) {
    Strip r;
    UNROLL
    for (int e = 0; e < kCount; ++e) {
      if constexpr (std::is_same_v<Lane, float>)
        r.v[e] = p[e];
      else  // of a vector's alignment nothing is known
        __builtin_memcpy(&r.v[e], p + e * (S / kCount), sizeof(Lane));
    }
    return r;
  }
  __device__ __forceinline__ void store(float* p) const {
    UNROLL
    for (int e = 0; e < kCount; ++e) {
      if constexpr (std::is_same_v<Lane, float>)
        p[e] = v[e];
      else
        __builtin_memcpy(p + e * (S / kCount), &v[e], sizeof(Lane));
    }
  }
  __device__ __forceinline__ friend Strip operator+(const Strip& a, const Strip& b) {
    Strip r;
    UNROLL
    for (int e = 0; e < kCount; ++e) r.v[e] = a.v[e] + b.v[e];
    return r;
  }
  __device__ __forceinline__ friend Strip operator-(const Strip& a, const Strip& b) {
    Strip r;
    UNROLL
    for (int e = 0; e < kCount; ++e) r.v[e] = a.v[e] - b.v[e];
    return r;
  }
  __device__ __forceinline__ friend Strip operator*(float f, const Strip& a) {
    Strip r;
    UNROLL
    for (int e = 0; e < kCount; ++e) r.v[e] = f * a.v[e];
    return r;
  }
};

// B^T: P inputs to P points.
template <int P>
struct InputPoints;
template <>
struct InputPoints<6> {
  static constexpr int in = 6, out = 6;
  template <class T>
  __device__ __forceinline__ static void apply(T (&y)[out], const T (&x)[in]) {
    const T even1 = x[4] - 4 * x[2], odd1 = x[3] - 4 * x[1], even2 = x[4] - x[2], odd2 = 2 * (x[3] - x[1]);
    y[0] = 4 * (x[0] - x[2]) + even2;
    y[1] = even1 + odd1, y[2] = even1 - odd1;
    y[3] = even2 + odd2, y[4] = even2 - odd2;
    y[5] = x[5] - x[3] - 4 * (x[3] - x[1]);
  }
};
template <>
struct InputPoints<7> {
  static constexpr int in = 7, out = 7;
  template <class T>
  __device__ __forceinline__ static void apply(T (&y)[out], const T (&x)[in]) {
    T e[in - 1];  // all points but -3 have a factor of it
    UNROLL
    for (int i = 0; i < in - 1; ++i) e[i] = x[i + 1] + 3 * x[i];
    const T even1 = e[4] - 0.25f * e[2], odd1 = e[3] - 0.25f * e[1], even2 = e[4] - e[2], odd2 = 0.5f * (e[3] - e[1]);
    y[0] = even1 + 0.25f * (e[0] - 4 * e[2]);
    y[1] = even1 + odd1, y[2] = even1 - odd1;
    y[3] = even2 + odd2, y[4] = even2 - odd2;
    y[5] = x[5] - x[3] + 0.25f * (x[1] - x[3]);
    y[6] = e[5] - e[3] + 0.25f * (e[1] - e[3]);
  }
};

// G is the matrix of the powers of the points, which A is, with its rows divided by what interpolation divides by.
template <class T>
__device__ __forceinline__ void divide(T (&y)[6]) {
  y[0] = 0.25f * y[0];
  y[1] = (-1 / 6.0f) * y[1], y[2] = (-1 / 6.0f) * y[2];
  y[3] = (1 / 24.0f) * y[3], y[4] = (1 / 24.0f) * y[4];
}
template <class T>
__device__ __forceinline__ void divide(T (&y)[7]) {
  y[0] = (4 / 3.0f) * y[0];
  y[1] = (1 / 6.0f) * y[1], y[2] = (1 / 3.0f) * y[2];
  y[3] = (-16 / 21.0f) * y[3], y[4] = (-16 / 15.0f) * y[4];
  y[5] = (-1 / 210.0f) * y[5];
}
template <int P>
constexpr float kSecond = P == 6 ? 2 : 0.5f;  // of the two pairs of points: 1 and -1, this and its negative

// A or, divided, G: a polynomial of N coefficients at P points.
template <int P, int N, bool Divided>
struct Points {
  static constexpr int in = N, out = P;
  template <class T>
  __device__ __forceinline__ static void apply(T (&y)[out], const T (&x)[in]) {
    constexpr float p = kSecond<P>, p2 = p * p;
    T even1 = x[0], odd1 = x[1], even2 = x[0], odd2 = p * x[1];
    if constexpr (N > 2) even1 = even1 + x[2], even2 = even2 + p2 * x[2];
    if constexpr (N > 3) odd1 = odd1 + x[3], odd2 = odd2 + p2 * p * x[3];
    if constexpr (N > 4) even1 = even1 + x[4], even2 = even2 + p2 * p2 * x[4];
    y[0] = x[0];
    y[1] = even1 + odd1, y[2] = even1 - odd1;
    y[3] = even2 + odd2, y[4] = even2 - odd2;
    if constexpr (P == 7) {
      y[5] = x[N - 1];
      UNROLL
      for (int i = N - 2; i >= 0; --i) y[5] = x[i] - 3 * y[5];
    }
    y[P - 1] = x[N - 1];
    if constexpr (Divided) divide(y);
  }
};

// A^T or, divided, G^T: from P points to N coefficients.
template <int P, int N, bool Divided>
struct Coefficients {
  static constexpr int in = P, out = N;
  template <class T>
  __device__ __forceinline__ static void apply(T (&y)[out], const T (&values)[in]) {
    constexpr float p = kSecond<P>, p2 = p * p;
    T x[in];
    UNROLL
    for (int i = 0; i < in; ++i) x[i] = values[i];
    if constexpr (Divided) divide(x);
    const T even1 = x[1] + x[2], odd1 = x[1] - x[2], even2 = x[3] + x[4], odd2 = x[3] - x[4];
    y[0] = x[0] + even1 + even2;
    y[1] = odd1 + p * odd2;
    if constexpr (N > 2) y[2] = even1 + p2 * even2;
    if constexpr (N > 3) y[3] = odd1 + p2 * p * odd2;
    if constexpr (N > 4) y[4] = even1 + p2 * p2 * even2;
    if constexpr (P == 7) {
      float power = 1;
      UNROLL
      for (int i = 0; i < N; ++i, power *= -3) y[i] = y[i] + power * x[5];
    }
    y[N - 1] = y[N - 1] + x[P - 1];
  }
};

template <int R>
using FilterPoints = Points<kPoints<R>, R, true>;
template <int R>
using FilterGradient = Coefficients<kPoints<R>, R, true>;
template <int R>
using Outputs = Coefficients<kPoints<R>, kOutputs<R>, false>;
template <int R>
using OutputGradient = Points<kPoints<R>, kOutputs<R>, false>;

// Along both axes of a tile.
template <class Axis, class T>
__device__ __forceinline__ void transform(T (&y)[Axis::out][Axis::out], const T (&x)[Axis::in][Axis::in]) {
  T between[Axis::in][Axis::out];
  IN_REGISTERS
  for (int i = 0; i < Axis::in; ++i) Axis::apply(between[i], x[i]);
  IN_REGISTERS
  for (int j = 0; j < Axis::out; ++j) {
    T column[Axis::in], result[Axis::out];
    UNROLL
    for (int i = 0; i < Axis::in; ++i) column[i] = between[i][j];
    Axis::apply(result, column);
    UNROLL
    for (int i = 0; i < Axis::out; ++i) y[i][j] = result[i];
  }
}

// ---- kernels: a block owns a tile of an image, or a filter; a thread has S of its channels at a time

// Images (N, H, W, C) in tiles whose first one begins at (top, left) and the next ones `step` pixels on.
struct Tiles {
  int H, W, C, top, left, step, down, across;

  __device__ __forceinline__ int begin_h(long tile) const { return int(tile / across % down) * step + top; }
  __device__ __forceinline__ int begin_w(long tile) const { return int(tile % across) * step + left; }
  __device__ __forceinline__ bool inside(int h, int w) const { return h >= 0 && h < H && w >= 0 && w < W; }
  __device__ __forceinline__ long at(long tile, int h, int w) const { return ((tile / across / down * H + h) * W + w) * C; }
};

// places: (P^2, tiles, C), the tiles from `first` on, each seen by Axis (InputPoints or OutputGradient); zero outside.
template <class Axis, int S>
__global__ void winograd_evaluate(float* __restrict__ places, const float* __restrict__ images, Tiles t, long first) {
  const long tile = first + blockIdx.x;
  const int h = t.begin_h(tile), w = t.begin_w(tile);
  for (int c = threadIdx.x * S; c < t.C; c += blockDim.x * S) {
    Strip<S> x[Axis::in][Axis::in], y[Axis::out][Axis::out];
    IN_REGISTERS
    for (int i = 0; i < Axis::in; ++i) {
      IN_REGISTERS
      for (int j = 0; j < Axis::in; ++j)
        x[i][j] = t.inside(h + i, w + j) ? Strip<S>::load(images + t.at(tile, h + i, w + j) + c) : Strip<S>{};
    }
    transform<Axis>(y, x);
    IN_REGISTERS
    for (int i = 0; i < Axis::out; ++i) {
      IN_REGISTERS
      for (int j = 0; j < Axis::out; ++j) y[i][j].store(places + (long(i * Axis::out + j) * gridDim.x + blockIdx.x) * t.C + c);
    }
  }
}

// places: (P^2, tiles, channels), those of the images that their pointers begin with.
template <int R, int S>
__global__ void winograd_interpolate(float* __restrict__ images, const float* __restrict__ places, const float* __restrict__ b,
                                     const float* __restrict__ mask, Tiles t, long first, int channels, bool relu) {
  constexpr int P = kPoints<R>, M = kOutputs<R>;
  const long tile = first + blockIdx.x;
  const int h = t.begin_h(tile), w = t.begin_w(tile);
  for (int c = threadIdx.x * S; c < channels; c += blockDim.x * S) {
    Strip<S> x[P][P], y[M][M];
    IN_REGISTERS
    for (int i = 0; i < P; ++i) {
      IN_REGISTERS
      for (int j = 0; j < P; ++j) x[i][j] = Strip<S>::load(places + (long(i * P + j) * gridDim.x + blockIdx.x) * channels + c);
    }
    transform<Outputs<R>>(y, x);
    const Strip<S> bias = b ? Strip<S>::load(b + c) : Strip<S>{};
    IN_REGISTERS
    for (int i = 0; i < M; ++i) {
      IN_REGISTERS
      for (int j = 0; j < M; ++j) {
        if (!t.inside(h + i, w + j)) continue;
        Strip<S> r = y[i][j] + bias;
        if (relu) {
          UNROLL
          for (int e = 0; e < r.kCount; ++e) r.v[e] = r.v[e] < 0 ? Lanes<S>{} : r.v[e];
        }
        const long to = t.at(tile, h + i, w + j) + c;
        if (mask) {
          const Strip<S> m = Strip<S>::load(mask + to);
          UNROLL
          for (int e = 0; e < m.kCount; ++e) r.v[e] = m.v[e] <= 0 ? Lanes<S>{} : r.v[e];
        }
        r.store(images + to);
      }
    }
  }
}

// places: (P^2, filters, C) of w (filters, R, R, C), turned by 180 degrees if `turned`.
template <int R, int S>
__global__ void winograd_filters(float* __restrict__ places, const float* __restrict__ w, int C, bool turned) {
  constexpr int P = kPoints<R>;
  const float* filter = w + long(blockIdx.x) * R * R * C;
  for (int c = threadIdx.x * S; c < C; c += blockDim.x * S) {
    Strip<S> x[R][R], y[P][P];
    IN_REGISTERS
    for (int i = 0; i < R; ++i) {
      IN_REGISTERS
      for (int j = 0; j < R; ++j) {
        const int place = i * R + j;
        x[i][j] = Strip<S>::load(filter + (turned ? R * R - 1 - place : place) * C + c);
      }
    }
    transform<FilterPoints<R>>(y, x);
    IN_REGISTERS
    for (int i = 0; i < P; ++i) {
      IN_REGISTERS
      for (int j = 0; j < P; ++j) y[i][j].store(places + (long(i * P + j) * gridDim.x + blockIdx.x) * C + c);
    }
  }
}

template <int R, int S>
__global__ void winograd_filter_gradient(float* __restrict__ dw, const float* __restrict__ places, int C) {
  constexpr int P = kPoints<R>;
  float* filter = dw + long(blockIdx.x) * R * R * C;
  for (int c = threadIdx.x * S; c < C; c += blockDim.x * S) {
    Strip<S, float> x[P][P], y[R][R];
    IN_REGISTERS
    for (int i = 0; i < P; ++i) {
      IN_REGISTERS
      for (int j = 0; j < P; ++j) x[i][j] = Strip<S, float>::load(places + (long(i * P + j) * gridDim.x + blockIdx.x) * C + c);
    }
    transform<FilterGradient<R>>(y, x);
    IN_REGISTERS
    for (int i = 0; i < R; ++i) {
      IN_REGISTERS
      for (int j = 0; j < R; ++j) y[i][j].store(filter + (i * R + j) * C + c);
    }
  }
}

// A place's product over many tiles.
void multiply_place(float* c, const float* a, const float* b, Gemm g, Stream stream) {
  for (int left = g.K; left > 0; left -= g.K, g.beta = 1) {
    g.K = std::min(left, kSum);
    multiply(c, a, b, g, stream);
    a += g.transpose_a ? long(g.K) * g.lda : g.K;
    b += g.transpose_b ? g.K : long(g.K) * g.ldb;
  }
}

// ---- what a pass is cut into

// f(R as a constant, S as a constant) for filters of R pixels and channels in strips of S.
template <class F>
void with_constants(const Conv2d& s, int channels, F f) {
  const auto with_strip = [&](auto R) {
    if (channels % kStrip == 0)
      f(R, std::integral_constant<int, kStrip>());
    else
      f(R, std::integral_constant<int, 1>());
  };
  if (s.KH == 3)
    with_strip(std::integral_constant<int, 3>());
  else
    with_strip(std::integral_constant<int, 5>());
}
gpu::Launch over(long blocks, int channels, Stream stream) {
  return {dim3(unsigned(blocks)), dim3(unsigned(std::min(round_up(channels, 32), 256l))), 0, stream};
}

int outputs(const Conv2d& s) { return s.KH == 3 ? kOutputs<3> : kOutputs<5>; }
long places(const Conv2d& s) { return s.KH == 3 ? kPoints<3> * kPoints<3> : kPoints<5> * kPoints<5>; }
Tiles tiles(const Conv2d& s, int H, int W, int C, int top, int left, int outputs_h, int outputs_w) {
  const int M = outputs(s);
  return {H, W, C, top, left, M, int(ceil_div(outputs_h, M)), int(ceil_div(outputs_w, M))};
}
Tiles tiles_of_x(const Conv2d& s) { return tiles(s, s.H, s.W, s.C, -s.pad_top, -s.pad_left, s.OH, s.OW); }
Tiles tiles_of_y(const Conv2d& s) { return tiles(s, s.OH, s.OW, s.K, 0, 0, s.OH, s.OW); }
// Of the convolution that computes dx.
Tiles tiles_of_dy(const Conv2d& s) { return tiles(s, s.OH, s.OW, s.K, s.pad_top - s.KH + 1, s.pad_left - s.KW + 1, s.H, s.W); }
Tiles tiles_of_dx(const Conv2d& s) { return tiles(s, s.H, s.W, s.C, 0, 0, s.H, s.W); }

long count(const Conv2d& s, const Tiles& t) { return long(s.N) * t.down * t.across; }
// Tiles of a slice: fixed by the shape alone.
long slice(const Conv2d& s, const Tiles& t) {
  const long most = std::max(32l, kSliceBytes / (places(s) * long(s.C + s.K) * long(sizeof(float)))), all = count(s, t);
  return ceil_div(all, ceil_div(all, most));
}
// Tiles of a slice that is a task of its own; 0 where channels are so many that its products would be slow.
long task_slice(const Conv2d& s) {
  const long tiles = kTaskBytes / (places(s) * long(s.C + s.K) * long(sizeof(float)));
  return tiles < 32 ? 0 : tiles;
}
long filter_places(const Conv2d& s) { return places(s) * long(s.K) * (s.C / s.groups); }
bool few_tiles(const Conv2d& s, const Tiles& t) { return count(s, t) <= kFewTiles; }
// Filters of a block, of one group: enough blocks for 4 threads.
long block(const Conv2d& s) {
  const long fitting = kBlockBytes / (places(s) * long(s.C / s.groups) * long(sizeof(float)));
  return std::min<long>(s.K / s.groups, round_up(std::clamp<long>(fitting, 1, ceil_div(s.K, 4)), kStrip));
}

std::size_t workspace_bytes(const Conv2d& s, const Tiles& t) {
  return (filter_places(s) + places(s) * slice(s, t) * (s.C + s.K)) * sizeof(float);
}
std::size_t convolve_workspace(const Conv2d& s, const Tiles& t) {
  const long own = task_slice(s);
  return own ? (filter_places(s) + gpu::lanes() * places(s) * own * (s.C + s.K)) * sizeof(float) : workspace_bytes(s, t);
}

// y of few tiles: a task has some of the filters.
void convolve_by_filters(float* y, const float* x, const float* w, const float* b, const Conv2d& s, bool relu, void* workspace,
                         Stream stream) {
  const Tiles in = tiles_of_x(s), out = tiles_of_y(s);
  const int G = s.C / s.groups, F = s.K / s.groups;
  const long T = count(s, in), most = block(s), blocks = ceil_div(F, most);
  const float* const mask = nullptr;
  float* const inputs = static_cast<float*>(workspace);
  with_constants(s, s.C, [&](auto R, auto S) {
    gpu::launch_independent<winograd_evaluate<InputPoints<kPoints<R()>>, S()>>(over(T, s.C, stream), inputs, x, in, 0l);
  });
  gpu::for_each_task(s.groups * blocks, [&](long task, int lane) {
    const long g = task / blocks, begin = task % blocks * most, count = std::min(most, F - begin), k = g * F + begin;
    float* filters = inputs + places(s) * (T * s.C + lane * most * (G + T));
    float* products = filters + places(s) * most * G;
    with_constants(s, G, [&](auto R, auto S) {
      gpu::launch_independent<winograd_filters<R(), S()>>(over(count, G, stream), filters, w + k * R() * R() * G, G, false);
    });
    for (long place = 0; place < places(s); ++place)
      multiply(products + place * T * count, inputs + place * T * s.C + g * G, filters + place * count * G,
               {int(T), int(count), G, false, true, s.C, G, count, 1, 0}, stream);
    with_constants(s, int(count), [&](auto R, auto S) {
      gpu::launch_independent<winograd_interpolate<R(), S()>>(over(T, int(count), stream), y + k, products, b ? b + k : b, mask, out, 0l,
                                                              int(count), relu);
    });
  });
}

// to = a convolution of from: the forward pass or, with the filters turned, that of the input gradient.
void convolve(float* to, const float* from, const float* w, const float* b, const float* mask, const Conv2d& s, bool turned, bool relu,
              void* workspace, Stream stream) {
  const Tiles in = turned ? tiles_of_dy(s) : tiles_of_x(s), out = turned ? tiles_of_dx(s) : tiles_of_y(s);
  const int G = s.C / s.groups, F = s.K / s.groups;
  const long own = task_slice(s), most = own ? own : slice(s, in);
  float* const filters = static_cast<float*>(workspace);
  with_constants(s, G,
                 [&](auto R, auto S) { gpu::launch_independent<winograd_filters<R(), S()>>(over(s.K, G, stream), filters, w, G, turned); });
  const auto convolve_slice = [&](long first, int lane) {
    const long T = std::min(most, count(s, in) - first);
    float* const inputs = filters + filter_places(s) + lane * places(s) * most * (in.C + out.C);
    float* const products = inputs + places(s) * most * in.C;
    with_constants(s, in.C, [&](auto R, auto S) {
      gpu::launch_independent<winograd_evaluate<InputPoints<kPoints<R()>>, S()>>(over(T, in.C, stream), inputs, from, in, first);
    });
    gpu::for_each_task(places(s) * s.groups, [&](long task, int) {
      const long place = task / s.groups, g = task % s.groups;
      const float* u = filters + (place * s.K + g * F) * G;
      const int inner = turned ? F : G, outer = turned ? G : F;
      multiply_place(products + place * T * out.C + g * outer, inputs + place * T * in.C + g * inner, u,
                     {int(T), outer, inner, false, !turned, in.C, G, out.C, 1, 0}, stream);
    });
    with_constants(s, out.C, [&](auto R, auto S) {
      gpu::launch_independent<winograd_interpolate<R(), S()>>(over(T, out.C, stream), to, products, b, mask, out, first, out.C, relu);
    });
  };
  if (own)
    gpu::for_each_task(ceil_div(count(s, in), own), [&](long task, int lane) { convolve_slice(task * own, lane); });
  else
    for (long first = 0; first < count(s, in); first += most) convolve_slice(first, 0);
}

// ---- launching

bool winograd_conv2d_takes(const Conv2d& s, const Conv2dOptions&) {
  return s.stride_h == 1 && s.stride_w == 1 && s.KH == s.KW && (s.KH == 3 || s.KH == 5);
}

std::size_t winograd_conv2d_forward_workspace(const Conv2d& s, const Conv2dOptions&) {
  const Tiles in = tiles_of_x(s);
  if (!few_tiles(s, in)) return convolve_workspace(s, in);
  const long T = count(s, in);
  return places(s) * (T * s.C + gpu::lanes() * block(s) * (s.C / s.groups + T)) * sizeof(float);
}

void winograd_conv2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2d& s, const Conv2dOptions& o,
                             void* workspace, Stream stream) {
  if (few_tiles(s, tiles_of_x(s))) return convolve_by_filters(y, x, w, b, s, o.relu, workspace, stream);
  convolve(y, x, w, b, nullptr, s, false, o.relu, workspace, stream);
}

std::size_t winograd_conv2d_backward_input_workspace(const Conv2d& s, const Conv2dOptions&) {
  return convolve_workspace(s, tiles_of_dy(s));
}

void winograd_conv2d_backward_input(float* dx, const float* dy, const float* w, const float* mask, const Conv2d& s, const Conv2dOptions&,
                                    void* workspace, Stream stream) {
  convolve(dx, dy, w, nullptr, mask, s, true, false, workspace, stream);
}

std::size_t winograd_conv2d_backward_weight_workspace(const Conv2d& s, const Conv2dOptions&) {
  return std::max(workspace_bytes(s, tiles_of_x(s)), bias_backward_workspace(long(s.N) * s.OH * s.OW, s.K));
}

void winograd_conv2d_backward_weight(float* dw, float* db, const float* dy, const float* x, const Conv2d& s, const Conv2dOptions&,
                                     void* workspace, Stream stream) {
  const Tiles in = tiles_of_x(s), out = tiles_of_y(s);
  const int G = s.C / s.groups, F = s.K / s.groups;
  const long most = slice(s, in);
  float* filters = static_cast<float*>(workspace);
  float* inputs = filters + filter_places(s);
  float* gradients = inputs + places(s) * most * s.C;
  for (long first = 0; first < count(s, in); first += most) {
    const long T = std::min(most, count(s, in) - first);
    with_constants(s, s.C, [&](auto R, auto S) {
      gpu::launch_independent<winograd_evaluate<InputPoints<kPoints<R()>>, S()>>(over(T, s.C, stream), inputs, x, in, first);
    });
    with_constants(s, s.K, [&](auto R, auto S) {
      using Axis = OutputGradient<R()>;
      gpu::launch_independent<winograd_evaluate<Axis, S()>>(over(T, s.K, stream), gradients, dy, out, first);
    });
    gpu::for_each_task(places(s) * s.groups, [&](long task, int) {
      const long place = task / s.groups, g = task % s.groups;
      multiply_place(filters + (place * s.K + g * F) * G, gradients + place * T * s.K + g * F, inputs + place * T * s.C + g * G,
                     {F, G, int(T), true, false, s.K, s.C, G, 1, first ? 1.0f : 0.0f}, stream);
    });
  }
  with_constants(
      s, G, [&](auto R, auto S) { gpu::launch_independent<winograd_filter_gradient<R(), S()>>(over(s.K, G, stream), dw, filters, G); });
  if (db) bias_backward(db, dy, long(s.N) * s.OH * s.OW, s.K, workspace, stream);
}

}  // namespace

Conv2dWay<float> winograd_conv2d() {
  return {{winograd_conv2d_takes, winograd_conv2d_forward_workspace, winograd_conv2d_forward},
          {winograd_conv2d_takes, winograd_conv2d_backward_input_workspace, winograd_conv2d_backward_input},
          {winograd_conv2d_takes, winograd_conv2d_backward_weight_workspace, winograd_conv2d_backward_weight}};
}

}  // namespace alexnet
