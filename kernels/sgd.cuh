// sgd.cuh - one weight's update by gradient descent, the same wherever its gradient g comes from:
//
//   v <- momentum v - decay rate w - rate g,   w <- w + v
//
// With nesterov the weight goes where the next step would take it from the new v (Sutskever et al. 2013, in PyTorch's form):
//
//   w <- w + momentum v - decay rate w - rate g
#pragma once
#include "vector.cuh"

namespace alexnet {
namespace {

// Apart at compile time: a compiler that sees both formulas shares their products, and contracts the first otherwise than alone.
template <bool Nesterov>
__device__ __forceinline__ void sgd_update(float& w, float& v, float g, float rate, float momentum, float decay) {
  if constexpr (Nesterov) {
    const float d = multiply_add(rate, g, decay * rate * w);
    v = multiply_add(momentum, v, -d);
    w += multiply_add(momentum, v, -d);
  } else {
    v = momentum * v - decay * rate * w - rate * g;
    w += v;
  }
}

}  // namespace
}  // namespace alexnet
