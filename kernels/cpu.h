// cpu.h - what the kernels on the CPU have beside their launchers: threads, and a BLAS that is given at run time, so that none
// is linked.
#pragma once
#include <cstdint>

namespace alexnet {

// How many threads the launchers use; results do not depend on it. Not while others compute. std::invalid_argument below 1.
void set_threads(int n);
int threads();

// A cblas_sgemm with 64-bit integers that runs on the calling thread alone.
using Sgemm = void (*)(int order, int transpose_a, int transpose_b, std::int64_t M, std::int64_t N, std::int64_t K, float alpha,
                       const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);
void set_sgemm(Sgemm sgemm);  // null, as at the start: the project's own kernel serves

}  // namespace alexnet
