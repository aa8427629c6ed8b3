// lrn.cuh - what normalisation across channels (lrn.cu) and within one (spatial_lrn.cu) share.
#pragma once
#include <cmath>

#include "platform/gpu.cuh"

namespace alexnet {
namespace {

// s^-beta; the published networks' beta is 3/4.
__device__ __forceinline__ float power(float s, float beta) {
  const float r = rsqrtf(s);
  return beta == 0.75f ? r * sqrtf(r) : powf(s, -beta);
}

}  // namespace
}  // namespace alexnet
