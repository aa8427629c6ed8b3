// ema.cu - the exponential moving average of weights over the steps of a training (Polyak and Juditsky 1992):
//
//   average <- (1 - rate) average + rate w
//
// The rate lies in device memory, so that a captured step can be replayed with others. At rate 1 the average becomes w, and where
// it is w it stays so, both to the bits.
#include "vector.cuh"

namespace alexnet {
namespace {

// A thread owns V neighbouring weights, the next thread the next V.
template <int V>
__global__ void ema_step(float* average, const float* w, const float* rate_, long items) {
  const float rate = *rate_;
  VECTORIZE
  for (long i : gpu::grid_range(items)) {
    auto mean = load<V>(average + i * V);
    const auto weight = load<V>(w + i * V);
    UNROLL
    for (int e = 0; e < V; ++e) {
      const float d = weight[e] - mean[e];
      mean[e] = rate < 0.5f ? mean[e] + rate * d : weight[e] - (1 - rate) * d;
    }
    store(average + i * V, mean);
  }
}

}  // namespace

void ema(float* average, const float* w, const float* rate, long n, Stream stream) {
  with_width(
      n, [=](auto width) { gpu::launch_independent<ema_step<width()>>(flat(n / width, stream), average, w, rate, n / width); }, average, w);
}

}  // namespace alexnet
