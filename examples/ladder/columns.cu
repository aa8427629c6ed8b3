// columns.cu - rung 3: the windows written out, one after the other (im2col), so that
//
//   y_pk = sum_r columns_pr w_kr,    r < R = KH * KW * C
//
// is a product of two matrices. Nothing is gained yet: a warp still owns one y, and the columns, KH * KW / S^2 times as
// large as x, are written and read. But padding, stride and divisions are gone from the inner loop, and all that is known
// about matrix products applies.
#include "im2col.cuh"

namespace ladder {

__global__ void columns_product(float* y, const float* columns, const float* w, Shape s) {
  const long i_warp = (long(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32, R = s.taps();
  if (i_warp >= s.pixels() * s.K) return;  // all lanes or none
  const long p = i_warp / s.K;
  const int k = i_warp % s.K;
  float sum = 0;
  for (int r = lane; r < ceil_div(R, 32) * 32; r += 32) sum += load(columns, r < R ? p * R + r : -1) * load(w, s.w_offset(k, r));
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  store(y, lane == 0 ? i_warp : -1, sum);
}

void columns(float* y, const float* x, const float* w, float* columns, const Shape& s, cudaStream_t stream) {
  im2col(columns, x, s, stream);
  gpu::launch<columns_product>({dim3(unsigned(ceil_div(s.pixels() * s.K, 8))), dim3(256), 0, stream}, y, columns, w, s);
}

}  // namespace ladder
