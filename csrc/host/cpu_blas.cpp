// cpu_blas.cpp - gpu::blas_sgemm on the CPU: the cblas_sgemm that the process registered.
#include "host/cpu_blas.h"

#include <atomic>

#include "platform/gpu.cuh"

namespace {

using Sgemm = void (*)(int order, int transpose_a, int transpose_b, std::int64_t M, std::int64_t N, std::int64_t K, float alpha,
                       const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);
constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;

std::atomic<Sgemm> registered{nullptr};

}  // namespace

void alexnet::set_blas(std::uintptr_t sgemm) { registered = reinterpret_cast<Sgemm>(sgemm); }

bool gpu::blas_sgemm(bool transpose_a, bool transpose_b, long M, long N, long K, float alpha, const float* a, long lda, const float* b,
                     long ldb, float beta, float* c, long ldc) {
  const Sgemm sgemm = registered;
  if (!sgemm || K == 0) return false;  // a BLAS need not accept the leading dimensions of nothing
  sgemm(kRowMajor, transpose_a ? kTranspose : kNoTranspose, transpose_b ? kTranspose : kNoTranspose, M, N, K, alpha, a, lda, b, ldb, beta,
        c, ldc);
  return true;
}
