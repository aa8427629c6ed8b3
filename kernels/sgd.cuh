// sgd.cuh - one weight's update by gradient descent, the same wherever its gradient g comes from:
//
//   v <- momentum v - decay rate w - rate g,   w <- w + v
#pragma once
#include "platform/gpu.cuh"

namespace alexnet {
namespace {

__device__ __forceinline__ void sgd_update(float& w, float& v, float g, float rate, float momentum, float decay) {
  v = momentum * v - decay * rate * w - rate * g;
  w += v;
}

}  // namespace
}  // namespace alexnet
