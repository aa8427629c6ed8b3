// reduce.cu - over the middle axis of x (outer, K, inner): y = sum of x / divisor; y = max of x with `which` its first place, and
// dx = dy at that place, 0 elsewhere.
//
// A row of K inner values is cut into lines of `parts` inner ones: a thread adds up a column of these lines, so a warp reads
// neighbours even where inner is 1; then the same over the `parts` results. How many parts there are is fixed by K, and so is
// the order of the sums.
#include <algorithm>
#include <cmath>

#include "vector.cuh"

namespace alexnet {
namespace {

constexpr int kBlockSums = 256;

// As many parts as lines, so that both stages are short; a few values are one part.
inline long parts_of(long K) { return K <= 64 ? 1 : long(std::ceil(std::sqrt(double(K)))); }

// f(row, column, a constant number of columns) over all columns of all rows: a block owns kBlockSums of them. On a GPU a
// thread has one; the one thread of a block on a CPU has `Strip` in vector registers.
template <int Strip, class F>
__device__ __forceinline__ void for_each_column(long rows, long width, F f) {
#ifdef __CUDACC__
  constexpr int strip = 1;
#else
  constexpr int strip = Strip;
#endif
  const long begin = blockIdx.x * long(kBlockSums), all = rows * width, end = begin + kBlockSums < all ? begin + kBlockSums : all;
  for (long i = begin + threadIdx.x * strip; i < end; i += blockDim.x * strip) {
    const long row = i / width, column = i % width;
    if (i + strip <= end && column + strip <= width) {
      f(row, column, std::integral_constant<int, strip>());
    } else {
      for (long j = i; j < end && j < i + strip; ++j) f(j / width, j % width, std::integral_constant<int, 1>());
    }
  }
}
inline gpu::Launch over_columns(long rows, long width, Stream stream) {
  return {dim3(unsigned(ceil_div(rows * width, kBlockSums))), dim3(kBlockSums), 0, stream};
}

// y[row][q] = the sum of x[row][q], x[row][q + width] ... / divisor, a row of x being `length` long.
template <class Y, class T>
__global__ void sum_lines(Y* y, const T* x, long rows, long length, long width, float divisor) {
  for_each_column<32>(rows, width, [&](long row, long q, auto columns) {
    constexpr int W = decltype(columns)::value;
    float sum[W] = {};
    const T* from = x + row * length;
    long i = q;
    for (; i + W <= length; i += width) {
      UNROLL
      for (int e = 0; e < W; ++e) sum[e] += float(from[i + e]);
    }
    for (int e = 0; i + e < length && e < W; ++e) sum[e] += float(from[i + e]);
    UNROLL
    for (int e = 0; e < W; ++e) y[row * width + q + e] = sum[e] / divisor;
  });
}

// NaN is larger than everything; of equal values the first stays.
__device__ __forceinline__ bool exceeds(float v, float best) { return v > best || (v != v && best == best); }

// y[row][q] = the maximum of x[row][q], x[row][q + width] ..., and which[row][q] its first place among the K.
template <class Y, class T>
__global__ void max_lines(Y* y, std::int32_t* which, const T* x, long rows, long length, long width, long inner) {
  for_each_column<32>(rows, width, [&](long row, long q, auto columns) {
    constexpr int W = decltype(columns)::value;
    const T* from = x + row * length;
    float best[W];
    int at[W] = {};  // lines
    UNROLL
    for (int e = 0; e < W; ++e) best[e] = from[q + e];
    const auto look = [&](int e, long i, int line) {
      const float v = from[i + e];
      const bool take = exceeds(v, best[e]);
      best[e] = take ? v : best[e];
      at[e] = take ? line : at[e];
    };
    long i = q + width;
    int line = 1;
    for (; i + W <= length; i += width, ++line) {
      UNROLL
      for (int e = 0; e < W; ++e) look(e, i, line);
    }
    for (int e = 0; i + e < length && e < W; ++e) look(e, i, line);
    UNROLL
    for (int e = 0; e < W; ++e) {
      y[row * width + q + e] = best[e];
      which[row * width + q + e] = int(at[e] * (width / inner) + (q + e) / inner);
    }
  });
}

// The maximum of these maxima; of equal ones the first among the K.
template <class T>
__global__ void max_parts(T* y, std::int32_t* which, const float* largest, const std::int32_t* places, long rows, long parts, long inner) {
  for_each_column<1>(rows, inner, [&](long row, long c, auto) {
    long from = row * parts * inner + c;
    float best = largest[from];
    int at = places[from];
    for (long p = 1; p < parts; ++p) {
      from += inner;
      const bool equal = !exceeds(best, largest[from]);
      if (exceeds(largest[from], best) || (equal && places[from] < at)) best = largest[from], at = places[from];
    }
    y[row * inner + c] = best;
    which[row * inner + c] = at;
  });
}

template <class T>
__global__ void max_backward(T* dx, const T* dy, const std::int32_t* which, Reduce s) {
  VECTORIZE
  for (long i : gpu::grid_range(s.outer * s.K * s.inner)) {
    const long from = i / s.inner / s.K * s.inner + i % s.inner;
    dx[i] = which[from] == i / s.inner % s.K ? float(dy[from]) : 0;
  }
}

}  // namespace

std::size_t reduce_sum_workspace(const Reduce& s) {
  const long parts = parts_of(s.K);
  return parts == 1 ? 0 : s.outer * parts * s.inner * sizeof(float);
}
std::size_t reduce_max_workspace(const Reduce& s) { return 2 * reduce_sum_workspace(s); }

template <class T>
void reduce_sum(T* y, const T* x, const Reduce& s, float divisor, void* workspace, Stream stream) {
  const long parts = parts_of(s.K), length = s.K * s.inner, width = parts * s.inner;
  if (parts == 1)
    return gpu::launch_independent<sum_lines<T, T>>(over_columns(s.outer, width, stream), y, x, s.outer, length, width, divisor);
  float* sums = static_cast<float*>(workspace);
  gpu::launch_independent<sum_lines<float, T>>(over_columns(s.outer, width, stream), sums, x, s.outer, length, width, 1.0f);
  gpu::launch_independent<sum_lines<T, float>>(over_columns(s.outer, s.inner, stream), y, sums, s.outer, width, s.inner, divisor);
}
FOR_EACH_STORAGE(reduce_sum);

template <class T>
void reduce_max(T* y, std::int32_t* which, const T* x, const Reduce& s, void* workspace, Stream stream) {
  const long parts = parts_of(s.K), length = s.K * s.inner, width = parts * s.inner;
  const gpu::Launch launch = over_columns(s.outer, width, stream);
  if (parts == 1) return gpu::launch_independent<max_lines<T, T>>(launch, y, which, x, s.outer, length, width, s.inner);
  float* largest = static_cast<float*>(workspace);
  auto* places = reinterpret_cast<std::int32_t*>(largest + s.outer * width);
  gpu::launch_independent<max_lines<float, T>>(launch, largest, places, x, s.outer, length, width, s.inner);
  gpu::launch_independent<max_parts<T>>(over_columns(s.outer, s.inner, stream), y, which, static_cast<const float*>(largest),
                                        static_cast<const std::int32_t*>(places), s.outer, parts, s.inner);
}
FOR_EACH_STORAGE(reduce_max);

template <class T>
void reduce_max_backward(T* dx, const T* dy, const std::int32_t* which, const Reduce& s, Stream stream) {
  gpu::launch_independent<max_backward<T>>(flat(s.outer * s.K * s.inner, stream), dx, dy, which, s);
}
FOR_EACH_STORAGE(reduce_max_backward);

}  // namespace alexnet
