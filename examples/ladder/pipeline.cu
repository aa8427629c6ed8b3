// pipeline.cu - rung 7: memory and arithmetic at the same time. Three steps' panels have a place in shared memory. While one
// is multiplied, cp.async copies the next two in the background, without passing through registers: the latency of memory
// hides behind two steps of arithmetic. One barrier a step says both that a panel has come and that nobody reads the one
// before it any more, whose place the next copy takes. The bytes are those of rung 6. Needs C % 4 == 0.
//
// What is left: the fp32 units are busy. Only other units can do more.
#include "register_tile.cuh"

namespace ladder {

__global__ void __launch_bounds__(kTileThreads) pipeline_conv(float* y, const float* x, const float* w, Shape s) {
  constexpr int kStages = 3, kRowStep = kTileThreads / 4;
  GPU_SHARED(float, as, [kStages][kTileSide][kTilePitch]);
  GPU_SHARED(float, bs, [kStages][kTileSide][kTilePitch]);
  const int across = ceil_div(s.K, kTileSide), steps = ceil_div(s.taps(), kTileDepth);
  const long p0 = blockIdx.x / across * long(kTileSide);
  const int k0 = blockIdx.x % across * kTileSide;
  const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
  Window window[kTileSide / kRowStep];
  IN_REGISTERS
  for (int i = 0; i < kTileSide / kRowStep; ++i) window[i] = s.window(p0 + row + i * kRowStep);

  const auto fetch = [&](int step) {  // a step beyond the end is an empty group of copies
    const int stage = step % kStages, r = step * kTileDepth + column;
    if (step < steps) {
      const Tap tap = s.tap(r);
      IN_REGISTERS
      for (int i = 0; i < kTileSide / kRowStep; ++i) {
        const int at = row + i * kRowStep;
        copy4(&as[stage][at][column], x, s.x_offset(window[i], tap));
        copy4(&bs[stage][at][column], w, s.w_offset(k0 + at, r));
      }
    }
    gpu::cp_async_commit();
  };
  for (int step = 0; step < kStages - 1; ++step) fetch(step);

  RegisterTile tile;
  for (int step = 0; step < steps; ++step) {
    gpu::cp_async_wait<kStages - 2>();
    __syncthreads();
    fetch(step + kStages - 1);
    tile.multiply(as[step % kStages], bs[step % kStages]);
  }
  gpu::cp_async_wait<0>();
  tile.write(y, p0, k0, s);
}

void pipeline(float* y, const float* x, const float* w, float*, const Shape& s, cudaStream_t stream) {
  gpu::launch<pipeline_conv>(register_tiles(s, stream), y, x, w, s);
}

}  // namespace ladder
