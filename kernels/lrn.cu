// lrn.cu - provisional
#include <cmath>
#include "kernels.h"
#include "platform/gpu.cuh"
namespace alexnet {
namespace {
__device__ __forceinline__ float scale(const float* x, int c, const Lrn& s) {
  const int per = s.C / s.groups, first = c / per * per, end = first + per, a = c - s.size / 2;
  float sum = 0;
  for (int j = a < first ? first : a; j < a + s.size && j < end; ++j) sum += x[j] * x[j];
  return s.k + s.alpha * sum;
}
__global__ void forward(Lrn s, const float* __restrict__ x, float* __restrict__ y) {
  for (long r = blockIdx.x; r < s.rows; r += gridDim.x)
    for (int c = threadIdx.x; c < s.C; c += blockDim.x) y[r * s.C + c] = x[r * s.C + c] * powf(scale(x + r * s.C, c, s), -s.beta);
}
__global__ void backward(Lrn s, const float* __restrict__ dy, const float* __restrict__ x, float* __restrict__ dx) {
  const int per = s.C / s.groups;
  for (long r = blockIdx.x; r < s.rows; r += gridDim.x) {
    const float *p = x + r * s.C, *d = dy + r * s.C;
    for (int c = threadIdx.x; c < s.C; c += blockDim.x) {
      const int first = c / per * per, end = first + per, a = c - s.size + s.size / 2 + 1;
      float sum = 0;
      for (int j = a < first ? first : a; j < a + s.size && j < end; ++j) sum += d[j] * p[j] * powf(scale(p, j, s), -s.beta - 1);
      dx[r * s.C + c] = d[c] * powf(scale(p, c, s), -s.beta) - 2 * s.alpha * s.beta * p[c] * sum;
    }
  }
}
}  // namespace
void lrn_forward(float* y, const float* x, const Lrn& s, Stream t) { gpu::launch_independent<forward>({dim3(unsigned(s.rows)), dim3(96), 0, t}, s, x, y); }
void lrn_backward(float* dx, const float* dy, const float* x, const Lrn& s, Stream t) { gpu::launch_independent<backward>({dim3(unsigned(s.rows)), dim3(96), 0, t}, s, dy, x, dx); }
}  // namespace alexnet
