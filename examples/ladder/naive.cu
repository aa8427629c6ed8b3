// naive.cu - rung 1: the formula as it stands,
//
//   y_nhwk = sum_ijc x_{n, h S - P + i, w S - P + j, c} w_kijc
//
// Seven loops, of which four are the grid: a thread owns one y. Threads of a warp have neighbouring filters k of the same
// pixel: they ask for the same x, which costs one sector of 32 bytes, and for w a whole filter apart, which costs a sector
// each, of which they use 4 bytes.
#include "ladder.cuh"

namespace ladder {

__global__ void naive_conv(float* y, const float* x, const float* w, Shape s) {
  const long i_thread = long(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i_thread >= s.pixels() * s.K) return;
  const Window window = s.window(i_thread / s.K);
  const int k = i_thread % s.K;
  float sum = 0;
  for (int i = 0; i < s.KH; ++i)
    for (int j = 0; j < s.KW; ++j)
      for (int c = 0; c < s.C; ++c) {
        const long from = s.x_offset(window, {i, j, c});
        const int r = (i * s.KW + j) * s.C + c;
        sum += load(x, from) * load(w, from < 0 ? -1 : s.w_offset(k, r));  // padding: neither is read
      }
  store(y, i_thread, sum);
}

void naive(float* y, const float* x, const float* w, float*, const Shape& s, cudaStream_t stream) {
  gpu::launch<naive_conv>({dim3(unsigned(ceil_div(s.pixels() * s.K, 256))), dim3(256), 0, stream}, y, x, w, s);
}

}  // namespace ladder
