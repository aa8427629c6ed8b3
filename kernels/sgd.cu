// sgd.cu - provisional
#include "kernels.h"
#include "platform/gpu.cuh"
namespace alexnet {
namespace {
__global__ void update(long n, float* w, float* v, const float* __restrict__ g, const float* lr, float lr_scale, float momentum, float decay) {
  const float e = *lr * lr_scale;
  for (long i : gpu::grid_range(n)) {
    const float u = momentum * v[i] - decay * e * w[i] - e * g[i];
    v[i] = u;
    w[i] += u;
  }
}
}  // namespace
void sgd(float* w, float* v, const float* g, const float* lr, long n, float lr_scale, float momentum, float decay, Stream s) {
  gpu::launch_independent<update>({dim3(unsigned((n + 1023) / 1024)), dim3(256), 0, s}, n, w, v, g, lr, lr_scale, momentum, decay);
}
}  // namespace alexnet
