// softmax_cross_entropy.cu - for every row of x (N, C), with its label l:
//
//   p_c = e^(x_c - m) / sum_c e^(x_c - m),   m = max_c x_c, which keeps e^ within range
//   losses = -log p_l = log sum_c e^(x_c - m) - (x_l - m),   loss = mean of losses
//   dx_c = (p_c - [c = l]) dloss / N
//
// A label outside [0, C) has no loss: it and everything computed from it are NaN.
#include <cmath>

#include "vector.cuh"

namespace alexnet {
namespace {

// A team of threads owns a row: a warp on a GPU; on the CPU a single thread, which has nobody to wait for.
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kTeam = 32;
#else
constexpr int kTeam = 1;
#endif
constexpr int kRows = 4;  // of a block

// The whole team receives the result, with the same bits everywhere: the order is fixed and + commutes.
__device__ __forceinline__ float team_sum(float v) {
  UNROLL
  for (int d = kTeam / 2; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}
__device__ __forceinline__ float team_max(float v) {
  UNROLL
  for (int d = kTeam / 2; d > 0; d /= 2) {
    const float other = __shfl_xor_sync(~0u, v, d);
    v = other > v ? other : v;
  }
  return v;
}

// A thread owns every kTeam-th class of its team's row: a warp reads whole lines. A thread reads back only what it wrote
// itself, so that p can hold e^(x - m) until the sum is known.
__global__ void softmax_rows(float* losses, float* p, const float* x, const std::int32_t* labels, int N, int C) {
  const int row = blockIdx.x * kRows + threadIdx.y, lane = threadIdx.x;
  if (row >= N) return;
  x += long(row) * C;
  p += long(row) * C;

  float largest = -INFINITY;
  for (int c = lane; c < C; c += kTeam) largest = x[c] > largest ? x[c] : largest;
  largest = team_max(largest);
  float sum = 0;
  for (int c = lane; c < C; c += kTeam) sum += p[c] = expf(x[c] - largest);
  sum = team_sum(sum);
  for (int c = lane; c < C; c += kTeam) p[c] /= sum;

  if (!labels || lane > 0) return;
  const int label = labels[row];
  losses[row] = label >= 0 && label < C ? logf(sum) - (x[label] - largest) : NAN;
}

// One team.
__global__ void mean(float* result, const float* x, int n) {
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += kTeam) sum += x[i];
  sum = team_sum(sum);
  if (threadIdx.x == 0) *result = sum / n;
}

// A block owns a row, a thread every blockDim.x-th class.
__global__ void softmax_cross_entropy_gradient(float* dx, const float* dloss, const float* p, const std::int32_t* labels, int N, int C) {
  const int label = labels[blockIdx.x], first = threadIdx.x, step = blockDim.x;
  const float scale = label >= 0 && label < C ? *dloss / N : NAN;
  dx += long(blockIdx.x) * C;
  p += long(blockIdx.x) * C;
  VECTORIZE
  for (int c = first; c < C; c += step) dx[c] = (p[c] - (c == label)) * scale;
}

void softmax_over(float* losses, float* p, const float* x, const std::int32_t* labels, int N, int C, Stream stream) {
  gpu::launch<softmax_rows>({dim3((N - 1) / kRows + 1), dim3(kTeam, kRows), 0, stream}, losses, p, x, labels, N, C);
}

}  // namespace

void softmax(float* p, const float* x, int N, int C, Stream stream) { softmax_over(nullptr, p, x, nullptr, N, C, stream); }

void softmax_cross_entropy_forward(float* loss, float* losses, float* p, const float* x, const std::int32_t* labels, int N, int C,
                                   Stream stream) {
  softmax_over(losses, p, x, labels, N, C, stream);
  gpu::launch<mean>({dim3(1), dim3(kTeam), 0, stream}, loss, losses, N);
}

void softmax_cross_entropy_backward(float* dx, const float* dloss, const float* p, const std::int32_t* labels, int N, int C,
                                    Stream stream) {
  gpu::launch_independent<softmax_cross_entropy_gradient>({dim3(N), dim3(kBlockThreads), 0, stream}, dx, dloss, p, labels, N, C);
}

}  // namespace alexnet
