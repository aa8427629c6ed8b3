// dropout.cu - y_i = keep_i ? scale x_i : 0 with P(keep_i) = 1 - p (section 4.2 of the AlexNet paper: p = 1/2, scale 1
// in training, and p = 0, scale 1/2 in a test; the inverted form has scale 1 / (1 - p) in training and 1 in a test).
//
//   keep_i = u_i >= p,   u_i = word first + i of (state, purpose) / 2^32   (random.cuh)
//
// compared exactly: u_i >= p where the word >= ceil(p 2^32). The mask is never stored: the backward pass draws it again. An
// array that is part of a larger one, from its element `first` on, gets that part of the larger one's mask.
#include <cmath>

#include "random.cuh"
#include "vector.cuh"

namespace alexnet {
namespace {

// A thread owns the four neighbouring elements of one counter or, where arrays do not divide by four, a single element.
template <int V, class T>
__global__ void dropout_kernel(T* y, const T* x, const RandomState* state, long items, long first, std::uint64_t threshold, float scale,
                               std::uint32_t purpose) {
  const RandomState s = *state;
  VECTORIZE
  for (long i : gpu::grid_range(items)) {
    auto v = load<V>(x + i * V);
    const uint4 words = random_words(s, purpose, (first + i * V) / 4);
    if constexpr (V == 4) {
      v[0] = words.x >= threshold ? scale * v[0] : 0;
      v[1] = words.y >= threshold ? scale * v[1] : 0;
      v[2] = words.z >= threshold ? scale * v[2] : 0;
      v[3] = words.w >= threshold ? scale * v[3] : 0;
    } else {
      const int lane = (first + i) % 4;
      v[0] = (lane == 0 ? words.x : lane == 1 ? words.y : lane == 2 ? words.z : words.w) >= threshold ? scale * v[0] : 0;
    }
    store(y + i * V, v);
  }
}

}  // namespace

template <class T>
void dropout(T* y, const T* x, const std::uint64_t* state, long n, long first, float p, float scale, std::uint32_t purpose, Stream stream) {
  if (n == 0) return;
  const auto threshold = static_cast<std::uint64_t>(std::ceil(p * 0x1p32));  // p 2^32 is exact in double
  with_width<4>(
      n | first,  // both have to divide
      [=](auto v) {
        const auto* s = reinterpret_cast<const RandomState*>(state);
        gpu::launch_independent<dropout_kernel<v(), T>>(flat(n / v, stream), y, x, s, n / v, first, threshold, scale, purpose);
      },
      y, x);
}
FOR_EACH_STORAGE(dropout);

}  // namespace alexnet
