// ladder.cuh - what the rungs share: the shape, where a window lies in the image, and the only ways to and from global
// memory. They take an array and an offset; a negative offset stands for nothing, which reads as zero and is not written.
#pragma once
#include <climits>

#include "platform/gpu.cuh"

// IN_REGISTERS, before a loop over registers: they have no addresses, so on a GPU it must be unrolled.
#ifdef __CUDACC__
#define COUNT_TRAFFIC(p, bytes, there)
#define IN_REGISTERS UNROLL
#else
#include "traffic.hpp"
#define COUNT_TRAFFIC(p, bytes, there) ladder::traffic.request(p, bytes, there)
#define IN_REGISTERS
#endif

namespace ladder {

struct Window {  // of x, seen by a pixel of y: its image and its first pixel, which may lie in the padding
  int n, h, w;
};
struct Tap {  // a place in every window
  int i, j, c;
};

struct Shape {
  int N, H, W, C;  // x
  int K, KH, KW;   // w (K, KH, KW, C)
  int stride, pad;
  int OH, OW;  // y (N, OH, OW, K)

  __host__ __device__ long pixels() const { return long(N) * OH * OW; }
  __host__ __device__ int taps() const { return KH * KW * C; }

  // Half of INT_MIN lies outside every image, whatever is added to it.
  __device__ Window window(long pixel) const {
    if (pixel >= pixels()) return {0, INT_MIN / 2, 0};
    return {int(pixel / OW / OH), int(pixel / OW % OH) * stride - pad, int(pixel % OW) * stride - pad};
  }
  __device__ Tap tap(int r) const {
    if (r >= taps()) return {INT_MIN / 2, 0, 0};
    return {r / C / KW, r / C % KW, r % C};
  }
  __device__ long x_offset(const Window& at, const Tap& tap) const {
    const int h = at.h + tap.i, w = at.w + tap.j;
    return h < 0 || h >= H || w < 0 || w >= W ? -1 : ((long(at.n) * H + h) * W + w) * C + tap.c;
  }
  __device__ long w_offset(int k, int r) const { return k < K && r < taps() ? long(k) * taps() + r : -1; }
  __device__ long y_offset(long pixel, int k) const { return pixel < pixels() && k < K ? pixel * K + k : -1; }
};

__device__ __forceinline__ float load(const float* from, long offset) {
  COUNT_TRAFFIC(from + offset, 4, offset >= 0);
  return offset < 0 ? 0 : from[offset];
}
__device__ __forceinline__ float4 load4(const float* from, long offset) {
  COUNT_TRAFFIC(from + offset, 16, offset >= 0);
  return offset < 0 ? make_float4(0, 0, 0, 0) : *reinterpret_cast<const float4*>(from + offset);
}
__device__ __forceinline__ void store(float* to, long offset, float value) {
  COUNT_TRAFFIC(to + offset, 4, offset >= 0);
  if (offset >= 0) to[offset] = value;
}
__device__ __forceinline__ void store2(float* to, long offset, float first, float second) {
  COUNT_TRAFFIC(to + offset, 8, offset >= 0);
  if (offset >= 0) *reinterpret_cast<float2*>(to + offset) = make_float2(first, second);
}
// Four values into shared memory, in the background.
__device__ __forceinline__ void copy4(float* shared, const float* from, long offset) {
  COUNT_TRAFFIC(from + offset, 16, offset >= 0);
  gpu::cp_async<16>(shared, offset < 0 ? from : from + offset, offset >= 0);
}

__host__ __device__ constexpr long ceil_div(long n, long d) { return (n + d - 1) / d; }

}  // namespace ladder
