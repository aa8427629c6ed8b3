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
  if constexpr (O == Operation::copy) return a;
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

template <Operation O, int Arity, class T>
__global__ void broadcast_rows(T* y, Operands<T> x, Broadcast s, int block_rows) {
  const long parts = (s.size[3] - 1) / kBlockColumns + 1, rows = s.size[0] * s.size[1] * s.size[2];
  const long first = blockIdx.x / parts * block_rows, last = first + block_rows < rows ? first + block_rows : rows;
  const long begin = blockIdx.x % parts * kBlockColumns, end = begin + kBlockColumns < s.size[3] ? begin + kBlockColumns : s.size[3];
  for (long row = first + threadIdx.y; row < last; row += blockDim.y) {
    const long i = row / s.size[2] / s.size[1], j = row / s.size[2] % s.size[1], k = row % s.size[2];
    const auto start = [&](int array) { return i * s.stride[array][0] + j * s.stride[array][1] + k * s.stride[array][2]; };
    const T* from[4] = {};
    UNROLL
    for (int e = 0; e < Arity; ++e)
      if (x.array[e]) from[e] = x.array[e] + start(1 + e);
    const auto operand = [&](int e, long c) { return from[e] ? float(from[e][c * s.stride[1 + e][3]]) : s.number[e]; };
    T* to = y + start(0);
    VECTORIZE
    for (long c = begin + threadIdx.x; c < end; c += blockDim.x)
      to[c * s.stride[0][3]] =
          value<O>(operand(0, c), Arity > 1 ? operand(1, c) : 0, Arity > 2 ? operand(2, c) : 0, Arity > 3 ? operand(3, c) : 0);
  }
}

template <Operation O, int Arity, class T>
void launch(T* y, const Operands<T>& x, const Broadcast& s, Stream stream) {
  const long columns = std::min(s.size[3], long(kBlockColumns)), rows = s.size[0] * s.size[1] * s.size[2];
  const int block_rows = int(std::max(1l, kBlockItems / columns));
  const long blocks = ceil_div(rows, block_rows) * ceil_div(s.size[3], kBlockColumns);
  gpu::launch_independent<broadcast_rows<O, Arity, T>>({dim3(unsigned(blocks)), threads_over(block_rows, columns), 0, stream}, y, x, s,
                                                       block_rows);
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
