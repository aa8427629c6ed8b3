// register_tile.cuh - 64 x 64 values of y in the registers of 64 threads, 8 x 8 each: rows ty, ty + 8, .. and columns tx,
// tx + 8, ..  A step multiplies 64 x 16 values of the columns with 64 x 16 of w. A thread reads 8 + 8 values from shared
// memory for 64 products, four along r at a time.
//
// Rows are 20 apart: 8 threads that read four values of 8 neighbouring rows then find them in 32 different banks.
#pragma once
#include "ladder.cuh"

namespace ladder {

constexpr int kTileSide = 64, kTileDepth = 16, kTilePitch = kTileDepth + 4, kTileThreads = 64, kOwn = 8;
using Panel = float[kTileSide][kTilePitch];

struct RegisterTile {
  int tx, ty;
  float sum[kOwn][kOwn] = {};

  __device__ RegisterTile() : tx(threadIdx.x % 8), ty(threadIdx.x / 8) {}

  __device__ __forceinline__ void multiply(const Panel& a, const Panel& b) {
    IN_REGISTERS
    for (int r = 0; r < kTileDepth; r += 4) {
      float4 bv[kOwn];
      IN_REGISTERS
      for (int j = 0; j < kOwn; ++j) bv[j] = *reinterpret_cast<const float4*>(&b[tx + 8 * j][r]);
      IN_REGISTERS
      for (int i = 0; i < kOwn; ++i) {
        const float4 av = *reinterpret_cast<const float4*>(&a[ty + 8 * i][r]);
        IN_REGISTERS
        for (int j = 0; j < kOwn; ++j) sum[i][j] += av.x * bv[j].x + av.y * bv[j].y + av.z * bv[j].z + av.w * bv[j].w;
      }
    }
  }

  // 8 neighbouring threads write 32 consecutive bytes.
  __device__ __forceinline__ void write(float* y, long p0, int k0, const Shape& s) const {
    IN_REGISTERS
    for (int i = 0; i < kOwn; ++i) {
      IN_REGISTERS
      for (int j = 0; j < kOwn; ++j) store(y, s.y_offset(p0 + ty + 8 * i, k0 + tx + 8 * j), sum[i][j]);
    }
  }
};

inline gpu::Launch register_tiles(const Shape& s, cudaStream_t stream) {
  return {dim3(unsigned(ceil_div(s.pixels(), kTileSide) * ceil_div(s.K, kTileSide))), dim3(kTileThreads), 0, stream};
}

}  // namespace ladder
