// softmax_cross_entropy.cu - provisional
#include <cmath>
#include "kernels.h"
#include "platform/gpu.cuh"
namespace alexnet {
namespace {
__global__ void rows(int C, float* __restrict__ p, float* losses, const float* __restrict__ x, const std::int32_t* labels) {
  if (threadIdx.x) return;
  const long r = blockIdx.x;
  float top = x[r * C], sum = 0;
  for (int c = 1; c < C; ++c) top = x[r * C + c] > top ? x[r * C + c] : top;
  for (int c = 0; c < C; ++c) sum += p[r * C + c] = expf(x[r * C + c] - top);
  for (int c = 0; c < C; ++c) p[r * C + c] /= sum;
  if (losses) losses[r] = labels[r] >= 0 && labels[r] < C ? logf(sum) + top - x[r * C + labels[r]] : NAN;
}
__global__ void mean(int N, const float* losses, float* loss) {
  if (threadIdx.x) return;
  float s = 0;
  for (int i = 0; i < N; ++i) s += losses[i];
  *loss = s / N;
}
__global__ void back(int N, int C, float* dx, const float* dloss, const float* p, const std::int32_t* labels) {
  for (long i : gpu::grid_range(long(N) * C)) {
    const int l = labels[i / C];
    dx[i] = l < 0 || l >= C ? NAN : (p[i] - (i % C == l)) * *dloss / N;
  }
}
}  // namespace
void softmax(float* p, const float* x, int N, int C, Stream t) { gpu::launch_independent<rows>({dim3(N), dim3(32), 0, t}, C, p, static_cast<float*>(nullptr), x, static_cast<const std::int32_t*>(nullptr)); }
void softmax_cross_entropy_forward(float* loss, float* losses, float* p, const float* x, const std::int32_t* labels, int N, int C, Stream t) {
  gpu::launch_independent<rows>({dim3(N), dim3(32), 0, t}, C, p, losses, x, labels);
  gpu::launch_independent<mean>({dim3(1), dim3(32), 0, t}, N, static_cast<const float*>(losses), loss);
}
void softmax_cross_entropy_backward(float* dx, const float* dloss, const float* p, const std::int32_t* labels, int N, int C, Stream t) { gpu::launch_independent<back>({dim3(unsigned((long(N) * C + 1023) / 1024)), dim3(256), 0, t}, N, C, dx, dloss, p, labels); }
}  // namespace alexnet
