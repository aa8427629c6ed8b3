// cpu_blas.h - a BLAS for the CPU module, given at run time so that none is linked.
#pragma once
#include <cstdint>

namespace alexnet {

// The address of a cblas_sgemm with 64-bit integers that runs on the calling thread alone; 0: the project's own kernel serves.
void set_blas(std::uintptr_t sgemm);

}  // namespace alexnet
