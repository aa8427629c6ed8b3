// pool2d.cuh - what the kernels of pooling (pool2d.cu, lrn_max_pool2d.cu) share.
#pragma once
#include "vector.cuh"

namespace alexnet {
namespace {

__device__ __forceinline__ int clamp(int i, int n) { return max(0, min(i, n - 1)); }

// f(i, j) for all i < m and j < n, last to first; unrolled where both are `Count` at compile time (0: they are not).
template <int Count, class F>
__device__ __forceinline__ void for_each_reversed(int m, int n, F f) {
  if constexpr (Count > 0) {
    UNROLL
    for (int i = Count - 1; i >= 0; --i) {
      UNROLL
      for (int j = Count - 1; j >= 0; --j) f(i, j);
    }
  } else {
    for (int i = m - 1; i >= 0; --i)
      for (int j = n - 1; j >= 0; --j) f(i, j);
  }
}

// Which of an axis's windows cover position i of the image? At most `count` of them, here counted from the last.
struct Cover {
  int last, count, first_tap, stride, size, windows;
  __device__ __forceinline__ Cover(int i, int pad, int stride, int size, int windows)
      : last((i + pad) / stride),
        count((size - 1) / stride + 1),
        first_tap((i + pad) % stride),
        stride(stride),
        size(size),
        windows(windows) {}
  __device__ __forceinline__ int window(int t) const { return clamp(last - t, windows); }
  __device__ __forceinline__ int tap(int t) const { return first_tap + t * stride; }
  __device__ __forceinline__ bool covers(int t) const { return (last - t >= 0) & (last - t < windows) & (tap(t) < size); }
};

}  // namespace
}  // namespace alexnet
