// im2col.cuh - columns_pr = value r = (i, j, c) of the window of x that pixel p of y sees. A thread owns one of them,
// neighbouring threads neighbouring r: they read runs of x and write whole lines.
#pragma once
#include "ladder.cuh"

namespace ladder {

static __global__ void im2col_window(float* columns, const float* x, Shape s) {
  const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool there = i < s.pixels() * s.taps();
  const float value = load(x, there ? s.x_offset(s.window(i / s.taps()), s.tap(i % s.taps())) : -1);
  store(columns, there ? i : -1, value);
}

inline void im2col(float* columns, const float* x, const Shape& s, cudaStream_t stream) {
  gpu::launch<im2col_window>({dim3(unsigned(ceil_div(s.pixels() * s.taps(), 256))), dim3(256), 0, stream}, columns, x, s);
}

}  // namespace ladder
