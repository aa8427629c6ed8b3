// lanes.cuh - what a processor computes with at once: as a type of its own, where the compiler would long look for vectors among
// hundreds of numbers, or not find them.
#pragma once

namespace alexnet {
namespace {

#ifdef __CUDACC__
template <int S>
using Lanes = float;
#else
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
template <int S>
struct LanesOf {
  static_assert(S % kLanes == 0);
  using Type [[gnu::vector_size(kLanes * sizeof(float))]] = float;
};
template <>
struct LanesOf<1> {
  using Type = float;
};
template <int S>
using Lanes = typename LanesOf<S>::Type;
#endif

}  // namespace
}  // namespace alexnet
