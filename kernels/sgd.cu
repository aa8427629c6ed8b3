// sgd.cu - stochastic gradient descent with momentum and weight decay, in the form of section 5 of the AlexNet paper:
//
//   v <- momentum v - decay rate w - rate g,   w <- w + v,   rate = *lr * lr_scale
//
// The learning rate lies in device memory, so that a captured step can be replayed with another one.
#include "vector.cuh"

namespace alexnet {
namespace {

// A thread owns V neighbouring parameters, the next thread the next V.
template <int V>
__global__ void sgd_step(float* w, float* v, const float* g, const float* lr, long items, float lr_scale, float momentum, float decay) {
  const float rate = *lr * lr_scale;
  VECTORIZE
  for (long i : gpu::grid_range(items)) {
    auto weight = load<V>(w + i * V);
    auto velocity = load<V>(v + i * V);
    const auto gradient = load<V>(g + i * V);
    UNROLL
    for (int e = 0; e < V; ++e) {
      velocity[e] = momentum * velocity[e] - decay * rate * weight[e] - rate * gradient[e];
      weight[e] += velocity[e];
    }
    store(v + i * V, velocity);
    store(w + i * V, weight);
  }
}

}  // namespace

void sgd(float* w, float* v, const float* g, const float* lr, long n, float lr_scale, float momentum, float decay, Stream stream) {
  with_width(
      n,
      [=](auto width) {
        gpu::launch_independent<sgd_step<width()>>(flat(n / width, stream), w, v, g, lr, n / width, lr_scale, momentum, decay);
      },
      w, v, g);
}

}  // namespace alexnet
