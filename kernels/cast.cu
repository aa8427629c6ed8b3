// cast.cu - y_i = x_i between float32 and bfloat16, to which it is rounded: to the nearest, ties to even.
#include "vector.cuh"

namespace alexnet {
namespace {

// A thread owns V neighbouring elements, the next thread the next V.
template <int V, class Y, class X>
__global__ void cast_elements(Y* __restrict__ y, const X* __restrict__ x, long items) {
  VECTORIZE
  for (long i : gpu::grid_range(items)) store(y + i * V, load<V>(x + i * V));
}

template <class Y, class X>
void convert(Y* y, const X* x, long n, Stream stream) {
  with_width(n, [=](auto v) { gpu::launch_independent<cast_elements<v(), Y, X>>(flat(n / v, stream), y, x, n / v); }, y, x);
}

}  // namespace

void cast(bfloat16* y, const float* x, long n, Stream stream) { convert(y, x, n, stream); }
void cast(float* y, const bfloat16* x, long n, Stream stream) { convert(y, x, n, stream); }

}  // namespace alexnet
