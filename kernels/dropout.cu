// dropout.cu - y_i = keep_i ? scale x_i : 0 with P(keep_i) = 1 - p (section 4.2 of the AlexNet paper: p = 1/2, scale 1
// in training, and p = 0, scale 1/2 in a test; the inverted form has scale 1 / (1 - p) in training and 1 in a test).
//
//   keep_i = u_i >= p,   u_i = word first + i of (state, purpose) / 2^32   (random.cuh)
//
// compared exactly: u_i >= p where the word >= ceil(p 2^32). The mask is never stored: the backward pass draws it again. An
// array that is part of a larger one, from its element `first` on, gets that part of the larger one's mask.
#include "dropout.cuh"

namespace alexnet {
namespace {

// A thread owns the four neighbouring elements of one counter or, where arrays do not divide by four, a single element.
template <int V, class T>
__global__ void dropout_kernel(T* y, const T* x, Dropout dropout, long items) {
  const RandomState s = *dropout.state;
  VECTORIZE
  for (long i : gpu::grid_range(items)) {
    auto v = load<V>(x + i * V);
    if constexpr (V == 4) {
      const uint4 words = random_words(s, dropout.purpose, (dropout.first + i * V) / 4);
      v[0] = dropout.apply(v[0], words.x), v[1] = dropout.apply(v[1], words.y);
      v[2] = dropout.apply(v[2], words.z), v[3] = dropout.apply(v[3], words.w);
    } else {
      dropout.apply(v, s, i);
    }
    store(y + i * V, v);
  }
}

}  // namespace

template <class T>
void dropout(T* y, const T* x, const std::uint64_t* state, long n, long first, float p, float scale, std::uint32_t purpose, Stream stream) {
  if (n == 0) return;
  const Dropout how = dropout_of(state, first, p, scale, purpose);
  with_width<4>(
      n | first,  // both have to divide
      [=](auto v) { gpu::launch_independent<dropout_kernel<v(), T>>(flat(n / v, stream), y, x, how, n / v); }, y, x);
}
FOR_EACH_STORAGE(dropout);

}  // namespace alexnet
