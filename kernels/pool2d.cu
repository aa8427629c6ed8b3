// pool2d.cu - provisional
#include <cmath>
#include "kernels.h"
#include "platform/gpu.cuh"
namespace alexnet {
namespace {
__global__ void max_f(Pool2d s, const float* __restrict__ x, float* __restrict__ y, std::uint8_t* __restrict__ which) {
  for (long o = blockIdx.x; o < long(s.N) * s.OH * s.OW; o += gridDim.x) {
    const long n = o / (s.OH * s.OW);
    const int h0 = int(o / s.OW % s.OH) * s.stride_h - s.pad_top, w0 = int(o % s.OW) * s.stride_w - s.pad_left;
    for (int c = threadIdx.x; c < s.C; c += blockDim.x) {
      float best = 0; int at = -1;
      for (int kh = 0; kh < s.KH; ++kh) for (int kw = 0; kw < s.KW; ++kw) {
        const int h = h0 + kh, w = w0 + kw;
        if (h < 0 || h >= s.H || w < 0 || w >= s.W) continue;
        const float v = x[((n * s.H + h) * s.W + w) * s.C + c];
        if (at < 0 || v > best || (v != v && best == best)) best = v, at = kh * s.KW + kw;
      }
      y[o * s.C + c] = best; which[o * s.C + c] = std::uint8_t(at);
    }
  }
}
template <bool Max> __global__ void back(Pool2d s, const float* __restrict__ dy, const std::uint8_t* __restrict__ which, float* __restrict__ dx) {
  for (long p = blockIdx.x; p < long(s.N) * s.H * s.W; p += gridDim.x) {
    const long n = p / (s.H * s.W);
    const int h = int(p / s.W % s.H), w = int(p % s.W);
    for (int c = threadIdx.x; c < s.C; c += blockDim.x) {
      float sum = 0;
      for (int kh = 0; kh < s.KH; ++kh) for (int kw = 0; kw < s.KW; ++kw) {
        const int th = h + s.pad_top - kh, tw = w + s.pad_left - kw;
        if (th < 0 || tw < 0 || th % s.stride_h || tw % s.stride_w || th / s.stride_h >= s.OH || tw / s.stride_w >= s.OW) continue;
        const long o = ((n * s.OH + th / s.stride_h) * s.OW + tw / s.stride_w) * s.C + c;
        if (Max) { if (which[o] == kh * s.KW + kw) sum += dy[o]; }
        else {
          const int h0 = h - kh, w0 = w - kw;
          const int area = (min(h0 + s.KH, s.H) - max(h0, 0)) * (min(w0 + s.KW, s.W) - max(w0, 0));
          sum += dy[o] / area;
        }
      }
      dx[p * s.C + c] = sum;
    }
  }
}
__global__ void avg_f(Pool2d s, const float* __restrict__ x, float* __restrict__ y) {
  for (long o = blockIdx.x; o < long(s.N) * s.OH * s.OW; o += gridDim.x) {
    const long n = o / (s.OH * s.OW);
    const int h0 = int(o / s.OW % s.OH) * s.stride_h - s.pad_top, w0 = int(o % s.OW) * s.stride_w - s.pad_left;
    for (int c = threadIdx.x; c < s.C; c += blockDim.x) {
      float sum = 0; int area = 0;
      for (int h = max(h0, 0); h < min(h0 + s.KH, s.H); ++h) for (int w = max(w0, 0); w < min(w0 + s.KW, s.W); ++w) sum += x[((n * s.H + h) * s.W + w) * s.C + c], ++area;
      y[o * s.C + c] = sum / area;
    }
  }
}
gpu::Launch pixels(long n, Stream t) { return {dim3(unsigned(n)), dim3(96), 0, t}; }
}  // namespace
void max_pool2d_forward(float* y, std::uint8_t* which, const float* x, const Pool2d& s, Stream t) { gpu::launch_independent<max_f>(pixels(long(s.N) * s.OH * s.OW, t), s, x, y, which); }
void max_pool2d_backward(float* dx, const float* dy, const std::uint8_t* which, const Pool2d& s, Stream t) { gpu::launch_independent<back<true>>(pixels(long(s.N) * s.H * s.W, t), s, dy, which, dx); }
void avg_pool2d_forward(float* y, const float* x, const Pool2d& s, Stream t) { gpu::launch_independent<avg_f>(pixels(long(s.N) * s.OH * s.OW, t), s, x, y); }
void avg_pool2d_backward(float* dx, const float* dy, const Pool2d& s, Stream t) { gpu::launch_independent<back<false>>(pixels(long(s.N) * s.H * s.W, t), s, dy, static_cast<const std::uint8_t*>(nullptr), dx); }
}  // namespace alexnet
