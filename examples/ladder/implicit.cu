// implicit.cu - rung 6: the same product, and no columns. Whoever needs value r of the window of pixel p reads it where it
// is, in the image; what belongs to p is worked out once, what belongs to r once a step. Needs C % 4 == 0, as four
// neighbours of r must be four channels of one pixel.
//
// What is left: threads wait for memory, then multiply, then wait again.
#include "register_tile.cuh"

namespace ladder {

__global__ void __launch_bounds__(kTileThreads) implicit_conv(float* y, const float* x, const float* w, Shape s) {
  constexpr int kRowStep = kTileThreads / 4;
  GPU_SHARED(float, as, [kTileSide][kTilePitch]);
  GPU_SHARED(float, bs, [kTileSide][kTilePitch]);
  const int across = ceil_div(s.K, kTileSide);
  const long p0 = blockIdx.x / across * long(kTileSide);
  const int k0 = blockIdx.x % across * kTileSide;
  const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
  Window window[kTileSide / kRowStep];
  IN_REGISTERS
  for (int i = 0; i < kTileSide / kRowStep; ++i) window[i] = s.window(p0 + row + i * kRowStep);
  RegisterTile tile;
  for (int r0 = 0; r0 < s.taps(); r0 += kTileDepth) {
    const Tap tap = s.tap(r0 + column);
    IN_REGISTERS
    for (int i = 0; i < kTileSide / kRowStep; ++i) {
      const int at = row + i * kRowStep;
      *reinterpret_cast<float4*>(&as[at][column]) = load4(x, s.x_offset(window[i], tap));
      *reinterpret_cast<float4*>(&bs[at][column]) = load4(w, s.w_offset(k0 + at, r0 + column));
    }
    __syncthreads();
    tile.multiply(as, bs);
    __syncthreads();
  }
  tile.write(y, p0, k0, s);
}

void implicit(float* y, const float* x, const float* w, float*, const Shape& s, cudaStream_t stream) {
  gpu::launch<implicit_conv>(register_tiles(s, stream), y, x, w, s);
}

}  // namespace ladder
