// activation.cu - provisional
#include <cmath>
#include "kernels.h"
#include "platform/gpu.cuh"
namespace alexnet {
namespace {
__global__ void relu_f(long n, const float* x, float* y) { for (long i : gpu::grid_range(n)) y[i] = x[i] < 0 ? 0 : x[i]; }
__global__ void relu_b(long n, const float* dy, const float* y, float* dx) { for (long i : gpu::grid_range(n)) dx[i] = y[i] > 0 ? dy[i] : 0; }
__global__ void tanh_f(long n, const float* x, float* y) { for (long i : gpu::grid_range(n)) y[i] = tanhf(x[i]); }
__global__ void tanh_b(long n, const float* dy, const float* y, float* dx) { for (long i : gpu::grid_range(n)) dx[i] = dy[i] * (1 - y[i] * y[i]); }
__global__ void sigmoid_f(long n, const float* x, float* y) { for (long i : gpu::grid_range(n)) y[i] = 1 / (1 + expf(-x[i])); }
__global__ void sigmoid_b(long n, const float* dy, const float* y, float* dx) { for (long i : gpu::grid_range(n)) dx[i] = dy[i] * y[i] * (1 - y[i]); }
gpu::Launch flat(long n, Stream s) { return {dim3(unsigned((n + 1023) / 1024)), dim3(256), 0, s}; }
}  // namespace
void relu_forward(float* y, const float* x, long n, Stream s) { gpu::launch_independent<relu_f>(flat(n, s), n, x, y); }
void relu_backward(float* dx, const float* dy, const float* y, long n, Stream s) { gpu::launch_independent<relu_b>(flat(n, s), n, dy, y, dx); }
void tanh_forward(float* y, const float* x, long n, Stream s) { gpu::launch_independent<tanh_f>(flat(n, s), n, x, y); }
void tanh_backward(float* dx, const float* dy, const float* y, long n, Stream s) { gpu::launch_independent<tanh_b>(flat(n, s), n, dy, y, dx); }
void sigmoid_forward(float* y, const float* x, long n, Stream s) { gpu::launch_independent<sigmoid_f>(flat(n, s), n, x, y); }
void sigmoid_backward(float* dx, const float* dy, const float* y, long n, Stream s) { gpu::launch_independent<sigmoid_b>(flat(n, s), n, dy, y, dx); }
}  // namespace alexnet
