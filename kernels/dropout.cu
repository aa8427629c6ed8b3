// dropout.cu - y_i = keep_i ? scale x_i : 0 with P(keep_i) = 1 - p (section 4.2 of the AlexNet paper: p = 1/2, scale 1
// in training, and p = 0, scale 1/2 in a test; the inverted form has scale 1 / (1 - p) in training and 1 in a test).
//
//   keep_i = u_i >= p,   u_i = word i of (state, purpose) / 2^32   (random.cuh)
//
// compared exactly: u_i >= p where word i >= ceil(p 2^32). The mask is never stored: the backward pass draws it again.
#include <cmath>

#include "random.cuh"
#include "vector.cuh"

namespace alexnet {
namespace {

// A thread owns the four neighbouring elements of one counter or, where arrays do not divide by four, a single element.
template <int V>
__global__ void dropout_kernel(float* y, const float* x, const RandomState* state, long items, std::uint64_t threshold, float scale,
                               std::uint32_t purpose) {
  const RandomState s = *state;
  VECTORIZE
  for (long i : gpu::grid_range(items)) {
    auto v = load<V>(x + i * V);
    const uint4 words = random_words(s, purpose, i * V / 4);
    if constexpr (V == 4) {
      v[0] = words.x >= threshold ? scale * v[0] : 0;
      v[1] = words.y >= threshold ? scale * v[1] : 0;
      v[2] = words.z >= threshold ? scale * v[2] : 0;
      v[3] = words.w >= threshold ? scale * v[3] : 0;
    } else {
      const int lane = i % 4;
      v[0] = (lane == 0 ? words.x : lane == 1 ? words.y : lane == 2 ? words.z : words.w) >= threshold ? scale * v[0] : 0;
    }
    store(y + i * V, v);
  }
}

}  // namespace

void dropout(float* y, const float* x, const std::uint64_t* state, long n, float p, float scale, std::uint32_t purpose, Stream stream) {
  const auto threshold = static_cast<std::uint64_t>(std::ceil(p * 0x1p32));  // p 2^32 is exact in double
  const auto* s = reinterpret_cast<const RandomState*>(state);
  with_width<4>(
      n, [=](auto v) { gpu::launch_independent<dropout_kernel<v()>>(flat(n / v, stream), y, x, s, n / v, threshold, scale, purpose); }, y,
      x);
}

}  // namespace alexnet
