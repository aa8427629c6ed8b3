// registers.cu - rung 5: reuse in registers. A block owns 64 x 64 values of y, each of its 64 threads 8 x 8 of them
// (register_tile.cuh): a value read from shared memory serves 8 products, a value read from global memory 64. Threads load
// and store four neighbours at a time. Needs C % 4 == 0.
//
// What is left: the columns are written to memory and read back, once for each tile of filters.
#include "im2col.cuh"
#include "register_tile.cuh"

namespace ladder {

__global__ void __launch_bounds__(kTileThreads) registers_product(float* y, const float* columns, const float* w, Shape s) {
  GPU_SHARED(float, as, [kTileSide][kTilePitch]);
  GPU_SHARED(float, bs, [kTileSide][kTilePitch]);
  const int across = ceil_div(s.K, kTileSide), R = s.taps();
  const long p0 = blockIdx.x / across * long(kTileSide);
  const int k0 = blockIdx.x % across * kTileSide;
  const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 4;  // four threads bring the 64 bytes of a row
  RegisterTile tile;
  for (int r0 = 0; r0 < R; r0 += kTileDepth) {
    IN_REGISTERS
    for (int i = row; i < kTileSide; i += kTileThreads / 4) {
      const int r = r0 + column;
      *reinterpret_cast<float4*>(&as[i][column]) = load4(columns, p0 + i < s.pixels() && r < R ? (p0 + i) * R + r : -1);
      *reinterpret_cast<float4*>(&bs[i][column]) = load4(w, s.w_offset(k0 + i, r));
    }
    __syncthreads();
    tile.multiply(as, bs);
    __syncthreads();
  }
  tile.write(y, p0, k0, s);
}

void registers(float* y, const float* x, const float* w, float* columns, const Shape& s, cudaStream_t stream) {
  im2col(columns, x, s, stream);
  gpu::launch<registers_product>(register_tiles(s, stream), y, columns, w, s);
}

}  // namespace ladder
