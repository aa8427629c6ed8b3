// cpu_blas.cpp - gpu::blas_sgemm on the CPU: a registered cblas_sgemm, called by the threads of the pool.
#include "cpu_blas.h"

#include <algorithm>
#include <atomic>

#include "platform/gpu.cuh"

namespace {

using Sgemm = void (*)(int order, int transpose_a, int transpose_b, std::int64_t M, std::int64_t N, std::int64_t K, float alpha, const float* a,
                       std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);
constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;

std::atomic<Sgemm> registered{nullptr};

// A product is cut into tiles of C of this many rows and columns, whatever the number of threads, which therefore does not
// change a bit. Inside a task it stays whole: other threads have tasks of their own, and each part packs its operands anew.
constexpr long kTile = 512;

}  // namespace

void alexnet::set_blas(std::uintptr_t sgemm) { registered = reinterpret_cast<Sgemm>(sgemm); }

bool gpu::blas_sgemm(bool transpose_a, bool transpose_b, long M, long N, long K, float alpha, const float* a, long lda, const float* b, long ldb,
                     float beta, float* c, long ldc) {
  const Sgemm sgemm = registered;
  if (!sgemm || K == 0) return false;
  const bool whole = executor::ThreadPool::get().in_task();
  const long rows = whole ? M : std::min(M, kTile), columns = whole ? N : std::min(N, kTile);
  const long down = (M + rows - 1) / rows, across = (N + columns - 1) / columns;
  gpu::for_each_task(down * across, [&](long task, int) {
    const long m = task / across * rows, n = task % across * columns;
    sgemm(kRowMajor, transpose_a ? kTranspose : kNoTranspose, transpose_b ? kTranspose : kNoTranspose, std::min(rows, M - m),
          std::min(columns, N - n), K, alpha, a + (transpose_a ? m : m * lda), lda, b + (transpose_b ? n * ldb : n), ldb, beta,
          c + m * ldc + n, ldc);
  });
  return true;
}
