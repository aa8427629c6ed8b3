// broadcast.cu - y = f(a, b, c, d), element by element, over arrays that lie anyhow: along each of four axes an array has a
// stride of its own, 0 where it is repeated, and an operand may be a number. So broadcasting, transposing and slicing are all
// this one kernel, and so are the derivatives, whose first operand is dy.
//
// A block owns some rows, a row being the last axis, or a part of one; a thread every blockDim.x-th element of every
// blockDim.y-th row: a warp reads and writes neighbours wherever the last stride is 1.
#include <algorithm>
#include <cmath>

#include "vector.cuh"

namespace alexnet {
namespace {

constexpr int kBlockColumns = 4 * kBlockItems;  // of a long row: enough blocks for a GPU

__device__ __forceinline__ float sign_of(float x) { return x > 0 ? 1 : x < 0 ? -1 : x; }  // NaN stays NaN

template <Operation O>
__device__ __forceinline__ float value(float a, float b, float c, float d) {
  if constexpr (O == Operation::add) return a + b;
  if constexpr (O == Operation::subtract) return a - b;
  if constexpr (O == Operation::multiply) return a * b;
  if constexpr (O == Operation::multiply_add) return multiply_add(a, b, c);
  if constexpr (O == Operation::divide) return a / b;
  if constexpr (O == Operation::divide_backward) return -(a / c) * (b / c);  // of the divisor: c^2 might overflow
  if constexpr (O == Operation::power) return b == 2 ? a * a : powf(a, b);
  if constexpr (O == Operation::power_backward_base) return c == 0 ? 0 : c == 2 ? a * 2 * b : a * c * powf(b, c - 1);
  if constexpr (O == Operation::power_backward_exponent) return b == 0 ? 0 : a * c * logf(b);  // c is y
  if constexpr (O == Operation::equal) return a == b;
  if constexpr (O == Operation::not_equal) return a != b;
  if constexpr (O == Operation::less) return a < b;
  if constexpr (O == Operation::less_equal) return a <= b;
  if constexpr (O == Operation::where) return a != 0 ? b : c;
  if constexpr (O == Operation::clip) {
    const float least = a < b ? b : a;
    return least > c ? c : least;
  }
  if constexpr (O == Operation::clip_backward) return b <= c || b >= d ? 0 : a;
  if constexpr (O == Operation::exp) return expf(a);
  if constexpr (O == Operation::log) return logf(a);
  if constexpr (O == Operation::sqrt) return sqrtf(a);
  if constexpr (O == Operation::sqrt_backward) return a / (2 * b);
  if constexpr (O == Operation::abs) return fabsf(a);
  if constexpr (O == Operation::abs_backward) return a * sign_of(b);
  if constexpr (O == Operation::scaled_tanh) return b * tanhf(c * a);
  if constexpr (O == Operation::scaled_tanh_backward) {
    const float t = tanhf(d * b);
    return a * c * d * (1 - t * t);
  }
  if constexpr (O == Operation::abs_tanh) return b * fabsf(tanhf(c * a));
  if constexpr (O == Operation::abs_tanh_backward) {
    const float t = tanhf(d * b);
    return a * c * d * sign_of(d * b) * (1 - t * t);
  }
  if constexpr (O == Operation::double_relu) return a - b * tanhf(a / b);
  if constexpr (O == Operation::double_relu_backward) {
    const float t = tanhf(b / c);
    return a * t * t;
  }
  if constexpr (O == Operation::soft_relu) return (a < 0 ? 0 : a) + log1pf(expf(-fabsf(a)));
  if constexpr (O == Operation::soft_relu_backward) return a * (1 + tanhf(b / 2)) / 2;
  if constexpr (O == Operation::noisy_relu) {
    const float z = a < 0 ? 0 : a, y = z + z * b;
    return y < 0 ? 0 : y;
  }
}

template <class T>
struct Operands {
  const T* array[4];  // null: the number
};

// Where a thread is in the rows and columns of its block.
struct Place {
  long begin, end, rows, i, j, k;

  __device__ __forceinline__ Place(const Broadcast& s, int block_rows) {
    const long parts = (s.size[3] - 1) / kBlockColumns + 1, all = s.size[0] * s.size[1] * s.size[2];
    const long first = blockIdx.x / parts * block_rows, row = first + threadIdx.y;
    begin = blockIdx.x % parts * kBlockColumns;
    end = begin + kBlockColumns < s.size[3] ? begin + kBlockColumns : s.size[3];
    rows = (first + block_rows < all ? first + block_rows : all) - row;
    i = row / s.size[2] / s.size[1];
    j = row / s.size[2] % s.size[1];
    k = row % s.size[2];
  }
  __device__ __forceinline__ void next_row(const Broadcast& s) {
    rows -= blockDim.y;
    for (k += blockDim.y; k >= s.size[2]; k -= s.size[2])
      if (++j == s.size[1]) {
        j = 0;
        ++i;
      }
  }
  __device__ __forceinline__ long row_of(const Broadcast& s, int array) const {
    return i * s.stride[array][0] + j * s.stride[array][1] + k * s.stride[array][2];
  }
};

template <class T>
__global__ void copy_rows(T* y, const T* x, Broadcast s, int block_rows) {
  for (Place at(s, block_rows); at.rows > 0; at.next_row(s)) {
    T* const to = y + at.row_of(s, 0);
    const T* const from = x ? x + at.row_of(s, 1) : nullptr;
    VECTORIZE
    for (long c = at.begin + threadIdx.x; c < at.end; c += blockDim.x)
      to[c * s.stride[0][3]] = from ? from[c * s.stride[1][3]] : T(s.number[0]);
  }
}

// A thread makes so many neighbouring elements at a time; on the CPU that is what it copies of operands that are not float32 side by
// side, so that an operation is one loop, however its arrays lie.
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kChunk = 1;
#else
constexpr int kChunk = 256;
#endif
__device__ __forceinline__ int chunk_of(long left) { return kChunk == 1 || left > kChunk ? kChunk : int(left); }

template <class T>
__device__ __forceinline__ bool lies_ready(long stride) {
  return kChunk > 1 && std::is_same_v<T, float> && stride == 1;
}
template <class To, class From>
__device__ __forceinline__ void convert(To* to, long to_stride, const From* from, long from_stride, int count) {
  if (kChunk > 1 && to_stride == 1 && from_stride == 1) {
    VECTORIZE
    for (int e = 0; e < count; ++e) to[e] = To(float(from[e]));
  } else {
    for (int e = 0; e < count; ++e) to[e * to_stride] = To(float(from[e * from_stride]));
  }
}

using Compute = void(float* y, const float* const* x, int count);
template <Operation O>
__device__ __forceinline__ void compute(float* y, const float* const* x, int count) {
  const float *a = x[0], *b = x[1], *c = x[2], *d = x[3];
  VECTORIZE
  for (int e = 0; e < count; ++e) y[e] = value<O>(a[e], b[e], c[e], d[e]);
}

template <int Arity, class T>
OUTLINED void broadcast_block(Compute compute, T* y, const Operands<T>& x, const Broadcast& s, int block_rows) {
  Place at(s, block_rows);
  float held[4][kChunk], result[kChunk];
  const float* operands[4] = {held[0], held[1], held[2], held[3]};
  UNROLL
  for (int e = 0; e < Arity; ++e)
    if (!x.array[e])
      for (int i = 0; i < chunk_of(at.end - at.begin); ++i) held[e][i] = s.number[e];
  for (; at.rows > 0; at.next_row(s))
    for (long c = at.begin + threadIdx.x * kChunk; c < at.end; c += blockDim.x * kChunk) {
      const int count = chunk_of(at.end - c);
      UNROLL
      for (int e = 0; e < Arity; ++e) {
        if (!x.array[e]) continue;
        const long stride = s.stride[1 + e][3];
        const T* const from = x.array[e] + at.row_of(s, 1 + e) + c * stride;
        if (lies_ready<T>(stride))
          operands[e] = reinterpret_cast<const float*>(from);
        else
          convert(held[e], 1, from, stride, count);
      }
      T* const to = y + at.row_of(s, 0) + c * s.stride[0][3];
      if (lies_ready<T>(s.stride[0][3])) {
        compute(reinterpret_cast<float*>(to), operands, count);
      } else {
        compute(result, operands, count);
        convert(to, s.stride[0][3], result, 1, count);
      }
    }
}
template <Operation O, int Arity, class T>
__global__ void broadcast_rows(T* y, Operands<T> x, Broadcast s, int block_rows) {
  broadcast_block<Arity>(compute<O>, y, x, s, block_rows);
}

template <Operation O, int Arity, class T>
void launch(T* y, const Operands<T>& x, const Broadcast& s, Stream stream) {
  const long columns = std::min(s.size[3], long(kBlockColumns)), rows = s.size[0] * s.size[1] * s.size[2];
  const int block_rows = int(std::max(1l, kBlockItems / columns));
  const long blocks = ceil_div(rows, block_rows) * ceil_div(s.size[3], kBlockColumns);
  const gpu::Launch launch{dim3(unsigned(blocks)), threads_over(block_rows, columns), 0, stream};
  if constexpr (O == Operation::copy)
    gpu::launch_independent<copy_rows<T>>(launch, y, x.array[0], s, block_rows);
  else
    gpu::launch_independent<broadcast_rows<O, Arity, T>>(launch, y, x, s, block_rows);
}

}  // namespace

template <class T>
void broadcast(T* y, const T* a, const T* b, const T* c, const T* d, Operation operation, const Broadcast& s, Stream stream) {
  const Operands<T> x{{a, b, c, d}};
  switch (operation) {
#define CASE(name, arity) \
  case Operation::name:   \
    return launch<Operation::name, arity, T>(y, x, s, stream);
    FOR_EACH_OPERATION(CASE)
#undef CASE
  }
}
FOR_EACH_STORAGE(broadcast);

}  // namespace alexnet
