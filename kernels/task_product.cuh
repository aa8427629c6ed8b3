// task_product.cuh - the products of convolutions that work slice by slice: in a task of its own each.
#pragma once
#include "vector.cuh"

namespace alexnet {
namespace {

// A product inside a task. A BLAS does it whole, in the thread of the task, as other threads have tasks of their own.
void multiply(float* c, const float* a, const float* b, const Gemm& g, Stream stream) {
  if (!gpu::blas_sgemm(g.transpose_a, g.transpose_b, g.M, g.N, g.K, g.alpha, a, g.lda, b, g.ldb, g.beta, c, g.ldc))
    gemm(c, a, b, g, nullptr, stream);
}

}  // namespace
}  // namespace alexnet
