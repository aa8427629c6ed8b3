// cpu.cpp - cpu.h, and gpu::blas_sgemm on the CPU: the cblas_sgemm that the process registered, and what it is slow at.
#include "cpu.h"

#include <atomic>

#include "few_rows.h"
#include "platform/gpu.cuh"

namespace {

constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;

std::atomic<alexnet::Sgemm> registered{nullptr};

}  // namespace

void alexnet::set_threads(int n) { gpu::set_threads(n); }
int alexnet::threads() { return gpu::threads(); }
void alexnet::set_sgemm(Sgemm sgemm) { registered = sgemm; }

bool gpu::blas_sgemm(bool transpose_a, bool transpose_b, long M, long N, long K, float alpha, const float* a, long lda, const float* b,
                     long ldb, float beta, float* c, long ldc) {
  const alexnet::Sgemm sgemm = registered;
  if (!sgemm || K == 0) return false;  // a BLAS need not accept the leading dimensions of nothing
  if (M <= kFewRows && K >= alexnet::kManyProducts && !transpose_a && transpose_b) {
    alexnet::few_rows(M, N, K, alpha, a, lda, b, ldb, beta, c, ldc);
    return true;
  }
  sgemm(kRowMajor, transpose_a ? kTranspose : kNoTranspose, transpose_b ? kTranspose : kNoTranspose, M, N, K, alpha, a, lda, b, ldb, beta,
        c, ldc);
  return true;
}
