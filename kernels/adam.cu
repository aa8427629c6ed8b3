// adam.cu - Adam (Kingma and Ba 2015), the decay added to the gradient:
//
//   g' = g + decay w,   m <- beta1 m + (1 - beta1) g',   v <- beta2 v + (1 - beta2) g'^2
//   w <- w - rate (m / (1 - beta1^t)) / ((sqrt(v) + epsilon_hat) / sqrt(1 - beta2^t) + epsilon),   rate = *lr * lr_scale
//
// epsilon alone is algorithm 1's, epsilon_hat alone that of the form at the end of section 2.
// AdamW (Loshchilov and Hutter 2019) leaves the decay out of the gradient (decay = 0); before the step
//
//   w <- w - rate decoupled_decay w
//
// Learning rate and t, the number of the update from 1 on, lie in device memory, so that a captured step can be replayed.
#include <cmath>

#include "vector.cuh"

namespace alexnet {
namespace {

// 1 - beta^t, without losing the digits of a beta near 1
__device__ __forceinline__ float one_minus_power(float beta, float t) { return beta == 0 ? 1.0f : -expm1f(t * log1pf(beta - 1)); }

// A thread owns V neighbouring parameters, the next thread the next V.
template <int V>
__global__ void adam_step(float* w, float* m, float* v, const float* g, const float* lr, const float* t, long items, Adam s) {
  const float kept = 1 - *lr * s.lr_scale * s.decoupled_decay;
  const float rate = *lr * s.lr_scale / one_minus_power(s.beta1, *t), correction = 1 / one_minus_power(s.beta2, *t);
  const float epsilon = s.epsilon + s.epsilon_hat * sqrtf(correction);
  VECTORIZE
  for (long i : gpu::grid_range(items)) {
    auto weight = load<V>(w + i * V);
    auto first = load<V>(m + i * V);
    auto second = load<V>(v + i * V);
    const auto gradient = load<V>(g + i * V);
    UNROLL
    for (int e = 0; e < V; ++e) {
      const float d = gradient[e] + s.decay * weight[e];
      first[e] = s.beta1 * first[e] + (1 - s.beta1) * d;
      second[e] = s.beta2 * second[e] + (1 - s.beta2) * (d * d);
      weight[e] = kept * weight[e] - rate * first[e] / (sqrtf(second[e] * correction) + epsilon);
    }
    store(w + i * V, weight);
    store(m + i * V, first);
    store(v + i * V, second);
  }
}

}  // namespace

void adam(float* w, float* m, float* v, const float* g, const float* lr, const float* t, long n, const Adam& s, Stream stream) {
  with_width(
      n, [=](auto width) { gpu::launch_independent<adam_step<width()>>(flat(n / width, stream), w, m, v, g, lr, t, n / width, s); }, w, m,
      v, g);
}

}  // namespace alexnet
