// softmax_cross_entropy.cu - for every row of x (N, C), with its label l:
//
//   p_c = e^(x_c - m) / sum_c e^(x_c - m),   m = max_c x_c, which keeps e^ within range
//   losses = -log p_l = log sum_c e^(x_c - m) - (x_l - m),   loss = mean of losses
//   dx_c = (p_c - [c = l]) dloss / N
//
// With weights a_c of the classes (else all are 1) and smoothing s (Szegedy et al. 2016, section 7), A = sum of a_l over the rows:
//
//   losses = (1 - s) a_l (-log p_l) + s / C sum_c a_c (-log p_c),   loss = sum of losses / A
//   dx_c = ((1 - s) a_l (p_c - [c = l]) + s / C (p_c sum_k a_k - a_c)) dloss / A
//
// With a second label l' of each row and the share m of the first (mixup; Zhang et al. 2018), what has l in it, be it a loss, a
// gradient or a weight in A, is m of that of l and 1 - m of that of l'.
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

// Of a row's first label.
__device__ __forceinline__ float share_of(const Labels& labels, int row) { return labels.second ? labels.mix[row] : 1; }

// One label of a row and the part of the loss that is its own: of two labels their shares, else 1; times the class's weight.
struct Label {
  int c;
  bool known;
  float part;

  __device__ __forceinline__ Label(int c, int C, float share, const float* weights) : c(c), known(c >= 0 && c < C) {
    part = weights && known ? share * weights[c] : share;
  }
};

// A thread owns every kTeam-th class of its team's row: a warp reads whole lines. A thread reads back only what it wrote
// itself, so that p can hold e^(x - m) until the sum is known.
__global__ void softmax_rows(float* losses, float* p, const float* x, Labels labels, const float* weights, float smoothing, int N, int C) {
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

  if (!labels.first) return;
  float all = 0;  // of the classes' losses
  if (smoothing > 0) {
    for (int c = lane; c < C; c += kTeam) all += (weights ? weights[c] : 1) * (logf(sum) - (x[c] - largest));
    all = team_sum(all);
  }
  if (lane > 0) return;
  const auto loss_of = [&](const Label& label) { return label.known ? label.part * (logf(sum) - (x[label.c] - largest)) : NAN; };
  float loss = loss_of(Label(labels.first[row], C, share_of(labels, row), weights));
  if (labels.second) loss += loss_of(Label(labels.second[row], C, 1 - share_of(labels, row), weights));
  losses[row] = smoothing > 0 ? (1 - smoothing) * loss + smoothing / C * all : loss;
}

// One team. sums: of the labels' weights, of all classes' weights; a label outside [0, C) adds none.
__global__ void weight_sums(float* sums, Labels labels, const float* weights, int N, int C) {
  float rows = 0, classes = 0;
  for (int i = threadIdx.x; i < N; i += kTeam) {
    const Label label(labels.first[i], C, share_of(labels, i), weights);
    rows += label.known ? label.part : 0;
    if (!labels.second) continue;
    const Label other(labels.second[i], C, 1 - share_of(labels, i), weights);
    rows += other.known ? other.part : 0;
  }
  for (int c = threadIdx.x; c < C; c += kTeam) classes += weights[c];
  rows = team_sum(rows);
  classes = team_sum(classes);
  if (threadIdx.x > 0) return;
  sums[0] = rows;
  sums[1] = classes;
}

// One team. The divisor is n where there is none.
__global__ void mean(float* result, const float* x, const float* divisor, int n) {
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += kTeam) sum += x[i];
  sum = team_sum(sum);
  if (threadIdx.x == 0) *result = sum / (divisor ? *divisor : n);
}

// A block owns a row, a thread every blockDim.x-th class.
__global__ void softmax_cross_entropy_gradient(float* dx, const float* dloss, const float* p, Labels labels, const float* weights,
                                               const float* sums, float smoothing, int N, int C) {
  const int row = blockIdx.x, first = threadIdx.x, step = blockDim.x;
  const Label label(labels.first[row], C, share_of(labels, row), weights);
  const Label other(labels.second ? labels.second[row] : label.c, C, labels.second ? 1 - share_of(labels, row) : 0, weights);
  const float scale = label.known && other.known ? *dloss / (weights ? sums[0] : N) : NAN;
  const float own = (1 - smoothing) * label.part, second = (1 - smoothing) * other.part;
  const float share = smoothing / C, classes = weights ? sums[1] : C;
  dx += long(row) * C;
  p += long(row) * C;
  VECTORIZE
  for (int c = first; c < C; c += step)
    dx[c] =
        (own * (p[c] - (c == label.c)) + second * (p[c] - (c == other.c)) + share * (classes * p[c] - (weights ? weights[c] : 1))) * scale;
}

void softmax_over(float* losses, float* p, const float* x, const Labels& labels, const float* weights, float smoothing, int N, int C,
                  Stream stream) {
  gpu::launch<softmax_rows>({dim3((N - 1) / kRows + 1), dim3(kTeam, kRows), 0, stream}, losses, p, x, labels, weights, smoothing, N, C);
}

}  // namespace

void softmax(float* p, const float* x, int N, int C, Stream stream) { softmax_over(nullptr, p, x, {}, nullptr, 0, N, C, stream); }

void class_weight_sums(float* sums, const Labels& labels, const float* weights, int N, int C, Stream stream) {
  gpu::launch<weight_sums>({dim3(1), dim3(kTeam), 0, stream}, sums, labels, weights, N, C);
}

void softmax_cross_entropy_forward(float* loss, float* losses, float* p, const float* x, const Labels& labels, const float* weights,
                                   const float* sums, float smoothing, int N, int C, Stream stream) {
  softmax_over(losses, p, x, labels, weights, smoothing, N, C, stream);
  gpu::launch<mean>({dim3(1), dim3(kTeam), 0, stream}, loss, losses, sums, N);
}

void softmax_cross_entropy_backward(float* dx, const float* dloss, const float* p, const Labels& labels, const float* weights,
                                    const float* sums, float smoothing, int N, int C, Stream stream) {
  gpu::launch_independent<softmax_cross_entropy_gradient>({dim3(N), dim3(kBlockThreads), 0, stream}, dx, dloss, p, labels, weights, sums,
                                                          smoothing, N, C);
}

}  // namespace alexnet
