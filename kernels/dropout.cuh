// dropout.cuh - what dropout.cu says of an element, for every kernel that drops some.
#pragma once
#include <cmath>

#include "random.cuh"
#include "vector.cuh"

namespace alexnet {
namespace {

struct Dropout {
  const RandomState* state;
  std::uint64_t threshold;  // of the words of elements that are kept
  long first;
  float scale;
  std::uint32_t purpose;

  __device__ __forceinline__ float apply(float v, unsigned word) const { return word >= threshold ? scale * v : 0; }
  __device__ __forceinline__ static unsigned word(const uint4& words, int lane) {
    return lane == 0 ? words.x : lane == 1 ? words.y : lane == 2 ? words.z : words.w;
  }
  // The V neighbours from element i on, with s = *state.
  template <int V>
  __device__ __forceinline__ void apply(Vector<float, V>& v, const RandomState& s, long i) const {
    const int lane = (first + i) % 4;
    uint4 words = random_words(s, purpose, (first + i) / 4);
    UNROLL
    for (int e = 0; e < V; ++e) {
      if (e && lane + e == 4) words = random_words(s, purpose, (first + i) / 4 + 1);
      v[e] = apply(v[e], word(words, (lane + e) % 4));
    }
  }
};

inline Dropout dropout_of(const std::uint64_t* state, long first, float p, float scale, std::uint32_t purpose) {
  const auto threshold = static_cast<std::uint64_t>(std::ceil(p * 0x1p32));  // p 2^32 is exact in double
  return {reinterpret_cast<const RandomState*>(state), threshold, first, scale, purpose};
}

}  // namespace
}  // namespace alexnet
