// vector.cuh - memory access of the kernels without barriers: a thread moves V neighbouring elements at a time, and the
// threads of a block stand side by side, so that a warp reads and writes whole lines. What lies in memory as bfloat16 is
// float32 in registers.
#pragma once
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels.h"
#include "platform/gpu.cuh"

// VECTORIZE for (...): no iteration reads what another one writes, so a host compiler may run several at once.
#ifdef __CUDACC__
#define VECTORIZE
#else
#define VECTORIZE _Pragma("GCC ivdep")
#endif

namespace alexnet {
namespace {

// One rounding where the processor has such an instruction, two elsewhere; a compiler may choose which products of a formula it fuses
// with which sums, and choose otherwise where it stands elsewhere.
__device__ __forceinline__ float multiply_add(float a, float b, float c) {
#if defined(__CUDACC__) || defined(__FMA__)
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// On a GPU a thread has one item to do and moves four elements of it at once. On the CPU the compiler makes its own vectors
// out of a loop over single elements, and blocks are long, to hide what one costs; checked builds run the GPU's shapes.
#if defined(__CUDACC__) || GPU_CHECKED
constexpr int kWidth = 4, kBlockItems = 256;
#else
constexpr int kWidth = 1, kBlockItems = 4096;
#endif
constexpr int kBlockThreads = 256;

constexpr long ceil_div(long n, long d) { return (n + d - 1) / d; }
constexpr long round_up(long n, long multiple) { return ceil_div(n, multiple) * multiple; }

template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  T element[V];
  __device__ __forceinline__ T& operator[](int e) { return element[e]; }
  __device__ __forceinline__ const T& operator[](int e) const { return element[e]; }
};
template <class T>
using Value = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;  // what T is in registers

template <int V, class T>
__device__ __forceinline__ Vector<Value<T>, V> load(const T* p) {
  if constexpr (V == 1) {
    return {*p};
  } else if constexpr (std::is_same_v<T, Value<T>>) {
    return *reinterpret_cast<const Vector<T, V>*>(p);
  } else {
    const auto stored = *reinterpret_cast<const Vector<T, V>*>(p);
    Vector<Value<T>, V> v;
    UNROLL
    for (int e = 0; e < V; ++e) v[e] = stored[e];
    return v;
  }
}
template <int V, class T>
__device__ __forceinline__ void store(T* p, const Vector<Value<T>, V>& v) {
  if constexpr (V == 1) {
    *p = v[0];
  } else {
    Vector<T, V> stored;
    UNROLL
    for (int e = 0; e < V; ++e) stored[e] = v[e];
    *reinterpret_cast<Vector<T, V>*>(p) = stored;
  }
}

// launch(V): V = Width where rows of n elements of all these arrays divide into aligned vectors, else 1. Nothing for n = 0.
template <int Width = kWidth, class Launch, class... T>
void with_width(long n, Launch launch, const T*... arrays) {
  if (n == 0) return;
  const bool aligned = ((reinterpret_cast<std::uintptr_t>(arrays) % sizeof(Vector<T, Width>) == 0) && ...);
  if (n % Width == 0 && aligned)
    launch(std::integral_constant<int, Width>());
  else
    launch(std::integral_constant<int, 1>());
}

// Both forms of a launcher with a type T.
#define FOR_EACH_STORAGE(launcher)                    \
  template decltype(launcher<float>) launcher<float>; \
  template decltype(launcher<bfloat16>) launcher<bfloat16>

// Of a kernel over gpu::grid_range(items).
inline gpu::Launch flat(long items, Stream stream) {
  return {dim3(unsigned(ceil_div(items, kBlockItems))), dim3(kBlockThreads), 0, stream};
}
// Of a kernel whose block owns a matrix of items: threadIdx.x runs along a row, threadIdx.y down the rows.
inline dim3 threads_over(long rows, long items) {
  const long x = items < kBlockThreads ? items : kBlockThreads, y = kBlockThreads / x;
  return dim3(unsigned(x), unsigned(y < rows ? y : rows));
}

}  // namespace
}  // namespace alexnet
