// gpu.cuh - what a kernel may use, under two compilers: CUDA's own headers under nvcc, cuda_on_cpu.hpp elsewhere.
#pragma once
namespace gpu {

// Names the kernel (kernel_name.hpp).
template <auto Kernel>
constexpr const char* signature() {
  return __PRETTY_FUNCTION__;
}

}  // namespace gpu

#ifndef __CUDACC__
#include "cuda_on_cpu.hpp"
#else
#include <cuda_bf16.h>

#include <cstdint>
#include <stdexcept>

#include "kernel_name.hpp"
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define IN_REGISTERS UNROLL  // over what has no addresses
#define OUTLINED __device__ __forceinline__

namespace gpu {

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

template <auto Kernel>
void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call of the CUDA runtime would report it again
  throw std::runtime_error(kernel_name(signature<Kernel>()) + ": " + cudaGetErrorString(status));
}

// Launches may ask for more dynamic shared memory than CUDA gives unasked, up to all that the current GPU has for a block:
// never for less, as another thread may be about to launch the same kernel with more.
template <auto Kernel>
void allow_shared_memory() {
  int device = 0, most = 0;
  cudaFuncAttributes kernel;
  check<Kernel>(cudaGetDevice(&device));
  check<Kernel>(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check<Kernel>(cudaFuncGetAttributes(&kernel, Kernel));
  check<Kernel>(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most - int(kernel.sharedSizeBytes)));
}

template <auto Kernel, class... A>
void launch(const Launch& l, A... arguments) {
  if (l.shared_bytes > 48 << 10) allow_shared_memory<Kernel>();
  cudaLaunchConfig_t config{};
  config.gridDim = l.grid, config.blockDim = l.block, config.dynamicSmemBytes = l.shared_bytes, config.stream = l.stream;
  check<Kernel>(cudaLaunchKernelEx(&config, Kernel, arguments...));
}
template <auto Kernel, class... A>
void launch_independent(const Launch& l, A... arguments) {
  launch<Kernel>(l, arguments...);
}

// Host code: tasks enqueue their work one after the other.
template <class F>
void for_each_task(long count, F f) {
  for (long task = 0; task < count; ++task) f(task, 0);
}
inline int lanes() { return 1; }
constexpr long kFewRows = 0;
inline bool blas_sgemm(bool, bool, long, long, long, float, const float*, long, const float*, long, float, float*, long) { return false; }

#define GPU_SHARED(type, name, dims) __shared__ __align__(16) type name dims
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char gpu_dynamic_shared[];
  return reinterpret_cast<T*>(gpu_dynamic_shared);
}
__device__ __forceinline__ unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

struct Range {
  long first, last, step;
  struct Iterator {
    long i, step;
    __device__ long operator*() const { return i; }
    __device__ void operator++() { i += step; }
    __device__ bool operator!=(Iterator end) const { return i < end.i; }
  };
  __device__ Iterator begin() const { return {first, step}; }
  __device__ Iterator end() const { return {last, step}; }
};
__device__ __forceinline__ Range grid_range(long n) {
  return {long(blockIdx.x) * blockDim.x + threadIdx.x, n, long(gridDim.x) * blockDim.x};
}

template <int Bytes>
__device__ __forceinline__ void cp_async(void* to, const void* from, bool valid = true) {
  const int n = valid ? Bytes : 0;  // the rest is filled with zeros
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(n) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(Bytes), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

template <int N, bool Transposed>
__device__ __forceinline__ void ldmatrix(unsigned (&r)[N], const void* row) {
  static_assert(N == 4);
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// To the nearest number with 10 bits after the point, ties away from zero.
__device__ __forceinline__ unsigned round_tf32(float v) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
}
// Both to the nearest with 7 bits, ties to even; `low` in the lower half.
__device__ __forceinline__ unsigned round_bf16(float low, float high) {
  unsigned r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ void mma_tf32_16x8x8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_bf16_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace gpu
#endif
