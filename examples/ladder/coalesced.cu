// coalesced.cu - rung 2: the same reads, by other threads. A warp owns one y, its lanes neighbouring places r = (i, j, c)
// of the window: both x and w are read 32 neighbours at a time, and every byte that moves is used. (In NHWC a whole row of
// the window, KW * C values, is one run.) In the end the lanes' sums meet by shuffles.
//
// What is left: each product still asks for two values, 8 bytes for 2 operations.
#include "ladder.cuh"

namespace ladder {

__global__ void coalesced_conv(float* y, const float* x, const float* w, Shape s) {
  const long i_warp = (long(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (i_warp >= s.pixels() * s.K) return;  // all lanes or none
  const Window window = s.window(i_warp / s.K);
  const int k = i_warp % s.K;
  float sum = 0;
  for (int r = lane; r < ceil_div(s.taps(), 32) * 32; r += 32) {
    const long from = s.x_offset(window, s.tap(r));
    sum += load(x, from) * load(w, from < 0 ? -1 : s.w_offset(k, r));
  }
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  store(y, lane == 0 ? i_warp : -1, sum);
}

void coalesced(float* y, const float* x, const float* w, float*, const Shape& s, cudaStream_t stream) {
  gpu::launch<coalesced_conv>({dim3(unsigned(ceil_div(s.pixels() * s.K, 8))), dim3(256), 0, stream}, y, x, w, s);
}

}  // namespace ladder
