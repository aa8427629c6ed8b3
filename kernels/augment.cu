// augment.cu - stored uint8 images to the network's input (section 4.1 of the AlexNet paper): of each image, d = image - mean,
//
//   v = contrast d' + brightness + noise of its channels,   y = v scale
//   mixed (Zhang et al. 2018), with the v' of its neighbour, image n xor 1 if there is one:   y = (mix v + (1 - mix) v') scale
//
// where d' is cut out of d, mirrored or not, or lies where a map has it: pixel (h, w) of d' at (y_h + b w, x_h + a w) of d, with
// y_h = m_0 + m_1 h, b = m_2, x_h = m_3 + m_4 h, a = m_5, and rows and columns of d counted from their middles. Row h of d' is a line
// across d that meets column i at y_h + (i - x_h) b / a. It is sampled in two steps (Catmull and Smith 1980), each antialiased: along
// every column at that place into a row of numbers, along this row at x_h + a w. Each sums pixels i by the triangle filter of the
// place p and the support s, normalised:
//
//   max(0, 1 - |i - p| / s),   s = max(1, distance of neighbouring samples)
//
// that is |m_1 - m_4 b / a| along the columns and |a| along the row: bilinear interpolation where samples lie closer than pixels, else
// the mean of all pixels in between. Without rotation the filter is that of Pillow's resize, and of PyTorch's interpolate with
// antialias. A place outside the image is moved to its edge.
//
// A block owns a few rows of one output image, neighbouring threads its neighbouring values.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "vector.cuh"

namespace alexnet {
namespace {

constexpr int kChannels = 3;
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kTeam = 256;
#else
constexpr int kTeam = 1;  // has nobody to wait for
#endif

__device__ __forceinline__ int neighbour(int n, int N) { return (n ^ 1) < N ? n ^ 1 : n; }

// v of image n: contrast d + shift, which is the brightness and the noise.
struct Tone {
  float contrast, shift[kChannels];

  __device__ __forceinline__ Tone(int n, const float* noise, const float* tones) {
    contrast = tones ? tones[2 * n] : 1;
    UNROLL
    for (int c = 0; c < kChannels; ++c) shift[c] = (tones ? tones[2 * n + 1] : 0) + (noise ? noise[kChannels * n + c] : 0);
  }
  __device__ __forceinline__ float operator()(float d, int c) const { return d * contrast + shift[c]; }
};

// Where image n is cut out; a crop that does not lie in the image is moved into it.
struct Crop {
  const std::uint8_t* x;
  const float* mean;
  int step;

  __device__ __forceinline__ Crop(int n, const std::uint8_t* x_, const float* mean_, const int* crops, const Augment& s) {
    const int top = max(0, min(crops[3 * n], s.stored_h - s.H)), left = max(0, min(crops[3 * n + 1], s.stored_w - s.W));
    const bool mirrored = crops[3 * n + 2];
    const int first = (top * s.stored_w + left + (mirrored ? s.W - 1 : 0)) * kChannels;
    x = x_ + long(n) * s.stored_h * s.stored_w * kChannels + first;
    mean = mean_ + first;
    step = mirrored ? -kChannels : kChannels;
  }
  __device__ __forceinline__ float operator()(int row, int w, int c) const {
    const int at = row + w * step + c;
    return float(x[at]) - mean[at];
  }
};

template <bool Mixed, class T>
__global__ void augment_rows(T* __restrict__ y, const std::uint8_t* __restrict__ x, const float* __restrict__ mean,
                             const int* __restrict__ crops, const float* __restrict__ noise, const float* __restrict__ tones,
                             const float* __restrict__ mix, Augment s, int block_rows) {
  const int blocks = (s.H - 1) / block_rows + 1, n = blockIdx.x / blocks, first = blockIdx.x % blocks * block_rows;
  const int last = min(first + block_rows, s.H), other = neighbour(n, s.N);
  const Crop d(n, x, mean, crops, s), d2(Mixed ? other : n, x, mean, crops, s);
  const Tone v(n, noise, tones), v2(Mixed ? other : n, noise, tones);
  const float share = Mixed ? mix[n] : 1, scale[kChannels] = {s.scale_r, s.scale_g, s.scale_b};
  y += long(n) * s.H * s.W * kChannels;
  for (int h = first + threadIdx.y; h < last; h += blockDim.y) {
    const int row = h * s.stored_w * kChannels;
    for (int w = threadIdx.x; w < s.W; w += blockDim.x) {
      T* to = y + (h * s.W + w) * kChannels;
      UNROLL
      for (int c = 0; c < kChannels; ++c) {
        float value = v(d(row, w, c), c);
        if constexpr (Mixed) value = share * value + (1 - share) * v2(d2(row, w, c), c);
        to[c] = value * scale[c];
      }
    }
  }
}

// The triangle filter over n pixels in a row, `count` of which it can see at a time.
struct Filter {
  float support, inverse, end;
  int n, count;

  __device__ __forceinline__ Filter(float distance, int n) : n(n) {
    support = distance > 1 ? distance : 1;  // 1 for NaN, too
    inverse = 1 / support;
    end = n - 1;
    count = int(min(ceilf(2 * support), float(n)));
  }
  // Inside the image, whatever the place.
  __device__ __forceinline__ float inside(float place) const { return place > 0 ? (place < end ? place : end) : 0; }
  // The first pixel that it can see; the last `count` ones see no others.
  __device__ __forceinline__ int first(float place) const { return min(int(max(floorf(place - support) + 1, 0.f)), n - count); }
  // Of a pixel at that distance.
  __device__ __forceinline__ float weight(float distance) const {
    const float w = 1 - fabsf(distance) * inverse;
    return w > 0 ? w : 0;
  }
};

// A thread makes so many neighbouring pixels at a time; on the CPU their weights in vectors, and then a pixel in one, with a value
// to spare.
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kPixels = 1, kLanes = kChannels;
#else
constexpr int kPixels = 32, kLanes = kChannels + 1;
#endif
constexpr int kValues = kPixels * kChannels;
__device__ __forceinline__ int pixels_of(int left) { return kPixels == 1 ? 1 : min(kPixels, left); }
template <int Lanes>
struct Pixel {
  float value[Lanes] = {};

  static __device__ __forceinline__ Pixel load(const float* p) {
    Pixel pixel;
    UNROLL
    for (int c = 0; c < Lanes; ++c) pixel.value[c] = p[c];
    return pixel;
  }
  __device__ __forceinline__ void store(float* p) const {
    UNROLL
    for (int c = 0; c < Lanes; ++c) p[c] = value[c];
  }
  __device__ __forceinline__ void add(float weight, const Pixel& other) {
    UNROLL
    for (int c = 0; c < Lanes; ++c) value[c] += weight * other.value[c];
  }
  __device__ __forceinline__ void divide(float by) {
    UNROLL
    for (int c = 0; c < Lanes; ++c) value[c] /= by;
  }
};
#ifndef __CUDACC__
template <>
struct Pixel<4> {  // left to itself a compiler finds that the value to spare is overwritten, and takes the rest apart
  typedef float Values __attribute__((vector_size(16)));
  Values value = {};

  static Pixel load(const float* p) {
    Pixel pixel;
    std::memcpy(&pixel.value, p, sizeof pixel.value);
    return pixel;
  }
  void store(float* p) const { std::memcpy(p, &value, sizeof value); }
  void add(float weight, const Pixel& other) { value += weight * other.value; }
  void divide(float by) { value /= by; }
};
#endif

// y (count, kChannels): `count` pixels at the places first, first + step ... of a row of which read(e, i) is pixel i, for
// pixel e of y. Taps: the filter's, or 0 for any. Where Lanes are more than the channels, one more value is read and written.
template <int Taps, int Lanes, class Read>
__device__ __forceinline__ void sample(float* __restrict__ y, const Filter& filter, float first, float step, int count, Read read) {
  int at[kPixels];
  float weights[Taps ? Taps : 1][kPixels];
  VECTORIZE
  for (int e = 0; e < count; ++e) {
    const float place = filter.inside(first + step * e);
    at[e] = filter.first(place);
    if constexpr (Taps > 0) {
      const float distance = at[e] - place;
      float sum = 0;
      UNROLL
      for (int t = 0; t < Taps; ++t) sum += weights[t][e] = filter.weight(distance + t);
      const float once = 1 / sum;
      UNROLL
      for (int t = 0; t < Taps; ++t) weights[t][e] *= once;
    } else {
      weights[0][e] = place;
    }
  }
  for (int e = 0; e < count; ++e) {
    Pixel<Lanes> sum;
    if constexpr (Taps > 0) {
      UNROLL
      for (int t = 0; t < Taps; ++t) sum.add(weights[t][e], read(e, at[e] + t));
    } else {
      float all = 0;
      for (int i = at[e]; i < at[e] + filter.count; ++i) {
        const float weight = filter.weight(i - weights[0][e]);
        all += weight;
        sum.add(weight, read(e, i));
      }
      sum.divide(all);
    }
    sum.store(y + e * kChannels);
  }
}
template <int Lanes, class Read>
__device__ __forceinline__ void sample(float* __restrict__ y, const Filter& filter, float first, float step, int count, Read read) {
  if (filter.count == 2)
    sample<2, Lanes>(y, filter, first, step, count, read);
  else if (filter.count == 3)
    sample<3, Lanes>(y, filter, first, step, count, read);
  else
    sample<0, Lanes>(y, filter, first, step, count, read);
}

// d of the pixel at `at`, in the CPU's vectors where there is a value to spare.
template <int Lanes>
__device__ __forceinline__ Pixel<Lanes> difference(const std::uint8_t* x, const float* mean, int at) {
  Pixel<Lanes> d;
#ifndef __CUDACC__
  if constexpr (Lanes == 4) {
    typedef std::int32_t Integers __attribute__((vector_size(16)));
    std::int32_t bytes;
    std::memcpy(&bytes, x + at, sizeof bytes);
    const Integers values = Integers{bytes, bytes, bytes, bytes} >> Integers{0, 8, 16, 24} & 255;
    d.value = __builtin_convertvector(values, typename Pixel<Lanes>::Values) - Pixel<Lanes>::load(mean + at).value;
    return d;
  } else
#endif
  {
    UNROLL
    for (int c = 0; c < Lanes; ++c) d.value[c] = float(x[at + c]) - mean[at + c];
    return d;
  }
}

// Columns from `left` to before `right`, each at y_0 + slope * column, into `line`.
__device__ __forceinline__ void sample_columns(float* __restrict__ line, const std::uint8_t* __restrict__ x, const float* __restrict__ mean,
                                               const Filter& rows, float y_0, float slope, int left, int right, int stored) {
  const int thread = threadIdx.x;
  if (slope == 0) {
    const float place = rows.inside(y_0);
    const int first = rows.first(place);
    float sum = 0;
    for (int t = 0; t < rows.count; ++t) sum += rows.weight(first + t - place);
    for (int t = 0; t < rows.count; ++t) {
      const float weight = rows.weight(first + t - place) / sum;
      const int row = (first + t) * stored;
      VECTORIZE
      for (int i = left * kChannels + thread; i < right * kChannels; i += kTeam) {
        const float d = float(x[row + i]) - mean[row + i];
        line[i] = t == 0 ? weight * d : line[i] + weight * d;
      }
    }
    return;
  }
  const int end = kLanes > kChannels ? min(right, stored / kChannels - 1) : right;  // the last column has no value to spare
  for (int column = left + thread * kPixels; column < right; column += kTeam * kPixels) {
    const int count = pixels_of(end - column);
#ifndef __CUDACC__
    for (int e = 0; e < count; e += 4) {  // a line across rows is no stream that a processor foresees
      const int row = min(int(rows.inside(y_0 + slope * (column + e))) + 3, rows.n - 1);
      const int at = row * stored + (column + e) * kChannels;
      __builtin_prefetch(x + at);
      __builtin_prefetch(mean + at);
    }
#endif
    sample<kLanes>(line + column * kChannels, rows, y_0 + slope * column, slope, count,
                   [=](int e, int row) { return difference<kLanes>(x, mean, row * stored + (column + e) * kChannels); });
    if (end < right && column + kPixels > end)
      sample<kChannels>(line + end * kChannels, rows, y_0 + slope * end, slope, 1,
                        [=](int, int row) { return difference<kChannels>(x, mean, row * stored + end * kChannels); });
  }
}

// share v of row h of image n, or that more, to `values`; what lies in `line` is overwritten.
OUTLINED void sample_row(float* __restrict__ values, float* __restrict__ line, const std::uint8_t* __restrict__ x,
                         const float* __restrict__ mean, const float* __restrict__ map, Tone tone, float share, bool more, int h,
                         Augment s) {
  const int stored = s.stored_w * kChannels;
  const float y_h = map[0] + map[1] * h, x_h = map[3] + map[4] * h, a = map[5], slope = map[2] / a;
  const Filter rows(fabsf(map[1] - map[4] * slope), s.stored_h), columns(fabsf(a), s.stored_w);
  const float one = columns.inside(x_h), other = columns.inside(x_h + a * (s.W - 1));
  const int left = columns.first(min(one, other)), right = columns.first(max(one, other)) + columns.count;
  sample_columns(line, x, mean, rows, y_h - x_h * slope, slope, left, right, stored);
  __syncthreads();

  float shift[kValues];
  for (int e = 0; e < kValues; ++e) shift[e] = tone.shift[e % kChannels];
  for (int w = threadIdx.x * kPixels; w < s.W; w += kTeam * kPixels) {
    const int count = pixels_of(s.W - w);
    float d[kValues + 1];
    sample<kLanes>(d, columns, x_h + a * w, a, count, [=](int, int i) { return Pixel<kLanes>::load(line + i * kChannels); });
    float* const mine = values + w * kChannels;
    if (more) {
      VECTORIZE
      for (int e = 0; e < count * kChannels; ++e) mine[e] += share * (d[e] * tone.contrast + shift[e]);
    } else {
      VECTORIZE
      for (int e = 0; e < count * kChannels; ++e) mine[e] = share * (d[e] * tone.contrast + shift[e]);
    }
  }
  __syncthreads();  // the line has been read
}

// Shared: a row of sampled columns, and one of what is made of them.
template <class T>
__global__ void sample_rows(T* __restrict__ y, const std::uint8_t* __restrict__ x, const float* __restrict__ mean,
                            const float* __restrict__ maps, const float* __restrict__ noise, const float* __restrict__ tones,
                            const float* __restrict__ mix, Augment s, int block_rows) {
  const int stored = s.stored_w * kChannels, blocks = (s.H - 1) / block_rows + 1, n = blockIdx.x / blocks;
  const int first_row = blockIdx.x % blocks * block_rows, end_row = min(first_row + block_rows, s.H), images = mix ? 2 : 1;
  float* const line = gpu::dynamic_shared<float>();  // [stored_w][kChannels]
  float* const row = line + stored;                  // [W][kChannels]
  const float share = mix ? mix[n] : 1, factors[kChannels] = {s.scale_r, s.scale_g, s.scale_b};
  float scale[kValues];
  for (int e = 0; e < kValues; ++e) scale[e] = factors[e % kChannels];
  for (int h = first_row; h < end_row; ++h) {
    for (int k = 0; k < images; ++k) {
      const int image = k ? neighbour(n, s.N) : n;
      sample_row(row, line, x + long(image) * s.stored_h * stored, mean, maps + 6 * image, Tone(image, noise, tones), k ? 1 - share : share,
                 k > 0, h, s);
    }
    T* const to = y + (long(n) * s.H + h) * s.W * kChannels;
    for (int w = threadIdx.x * kPixels; w < s.W; w += kTeam * kPixels) {
      const int count = pixels_of(s.W - w);
      VECTORIZE
      for (int e = 0; e < count * kChannels; ++e) to[w * kChannels + e] = row[w * kChannels + e] * scale[e];
    }
  }
}

int rows_of_a_block(const Augment& s) { return std::max(1, kBlockItems / s.W); }
dim3 blocks_over(const Augment& s) { return dim3(unsigned(s.N * ((s.H - 1) / rows_of_a_block(s) + 1))); }

}  // namespace

template <class T>
void augment(T* y, const std::uint8_t* x, const float* mean, const std::int32_t* crops, const float* noise, const float* tones,
             const float* mix, const Augment& s, Stream stream) {
  const int block_rows = rows_of_a_block(s);
  const gpu::Launch launch{blocks_over(s), threads_over(block_rows, s.W), 0, stream};
  if (mix)
    gpu::launch_independent<augment_rows<true, T>>(launch, y, x, mean, crops, noise, tones, mix, s, block_rows);
  else
    gpu::launch_independent<augment_rows<false, T>>(launch, y, x, mean, crops, noise, tones, mix, s, block_rows);
}
template <class T>
void augment_by_maps(T* y, const std::uint8_t* x, const float* mean, const float* maps, const float* noise, const float* tones,
                     const float* mix, const Augment& s, Stream stream) {
  gpu::launch<sample_rows<T>>({blocks_over(s), dim3(kTeam), augment_shared_bytes(s), stream}, y, x, mean, maps, noise, tones, mix, s,
                              rows_of_a_block(s));
}
FOR_EACH_STORAGE(augment);
FOR_EACH_STORAGE(augment_by_maps);

}  // namespace alexnet
