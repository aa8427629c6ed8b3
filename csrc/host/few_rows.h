// few_rows.h - c_mn = alpha sum_k a_mk b_nk + beta c_mn for few rows m. That takes the time of reading b, and a BLAS would first
// write b anew, in an order that pays for many rows. Here each of its values is multiplied where it lies.
#pragma once
#include <algorithm>
#include <cstring>

#include "lanes.cuh"
#include "platform/gpu.cuh"

namespace alexnet {
namespace {

constexpr long kManyProducts = 256;            // of a sum, whose parts are added in the end
constexpr int kTogether = 3, kOwnColumns = 4;  // of c: their sums are in registers
constexpr long kDepth = 1024;                  // of a and b at a time, so that they stay in the nearest cache
using Lane = Lanes<kLanes>;

// Adds to the sums of M rows of a and kOwnColumns rows of b.
template <int M>
OUTLINED void add_products(Lane (*sums)[kOwnColumns], const float* a, long lda, const float* b, long ldb, long depth) {
  Lane own[M][kOwnColumns];
  UNROLL
  for (int m = 0; m < M; ++m) {
    UNROLL
    for (int n = 0; n < kOwnColumns; ++n) own[m][n] = sums[m][n];
  }
  for (long k = 0; k < depth; k += kLanes) {
    Lane x[M];
    UNROLL
    for (int m = 0; m < M; ++m) std::memcpy(&x[m], a + m * lda + k, sizeof(Lane));
    UNROLL
    for (int n = 0; n < kOwnColumns; ++n) {
      Lane w;
      std::memcpy(&w, b + n * ldb + k, sizeof(Lane));
      UNROLL
      for (int m = 0; m < M; ++m) own[m][n] += x[m] * w;
    }
  }
  UNROLL
  for (int m = 0; m < M; ++m) {
    UNROLL
    for (int n = 0; n < kOwnColumns; ++n) sums[m][n] = own[m][n];
  }
}

// N columns of c, of as many rows of b.
inline void columns(long M, long N, long K, float alpha, const float* a, long lda, const float* b, long ldb, float beta, float* c,
                    long ldc) {
  Lane sums[gpu::kFewRows][kOwnColumns] = {};
  const long whole = K / kLanes * kLanes, next = N < kOwnColumns ? 0 : ldb;  // a row by itself is read several times
  for (long k = 0; k < whole; k += kDepth) {
    const long depth = std::min(kDepth, whole - k);
    for (long m = 0; m < M; m += kTogether) {
      const auto add = M - m >= 3 ? add_products<3> : M - m == 2 ? add_products<2> : add_products<1>;
      add(sums + m, a + m * lda + k, lda, b + k, next, depth);
    }
  }
  for (long m = 0; m < M; ++m)
    for (long n = 0; n < N; ++n) {
      float sum = 0;
      for (int e = 0; e < kLanes; ++e) sum += sums[m][n][e];
      for (long k = whole; k < K; ++k) sum += a[m * lda + k] * b[n * ldb + k];
      float& to = c[m * ldc + n];
      to = alpha * sum + (beta == 0 ? 0.0f : beta * to);
    }
}

// M at most gpu::kFewRows; arguments as those of cblas_sgemm.
inline void few_rows(long M, long N, long K, float alpha, const float* a, long lda, const float* b, long ldb, float beta, float* c,
                     long ldc) {
  for (long n = 0, together; n < N; n += together) {
    together = N - n < kOwnColumns ? 1 : kOwnColumns;
    columns(M, together, K, alpha, a, lda, b + n * ldb, ldb, beta, c + n, ldc);
  }
}

}  // namespace
}  // namespace alexnet
