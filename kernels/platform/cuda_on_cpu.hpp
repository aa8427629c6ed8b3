// cuda_on_cpu.hpp - gpu.cuh for a host compiler: the CUDA language, for kernels that executor.cpp runs. A block runs on one
// OS thread; where its threads may meet, each of them is a fiber; where they are independent, one thread does the whole
// block's work. A kernel's file sees no more of the executor than it calls, and compiles the faster for it.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <tuple>
#include <type_traits>

#include "sanitizers.hpp"

using cudaStream_t = struct CUstream_st*;  // also where only kernels.h is seen

#pragma GCC visibility push(hidden)  // or modules loaded side by side would share these variables

// ---- keywords
#define __global__ __attribute__((always_inline)) inline  // so that a launch sees through blockDim and the arguments
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define OUTLINED __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("nounroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define ROLLED _Pragma("GCC unroll 1")
#endif
#define IN_REGISTERS ROLLED  // on a GPU they are; here it would only take longer to compile

// ---- types
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct [[gnu::may_alias]] alignas(8) float2 {
  float x, y;
};
struct [[gnu::may_alias]] alignas(16) float4 {
  float x, y, z, w;
};
struct [[gnu::may_alias]] alignas(8) int2 {
  int x, y;
};
struct [[gnu::may_alias]] alignas(16) int4 {
  int x, y, z, w;
};
struct [[gnu::may_alias]] alignas(8) uint2 {
  unsigned x, y;
};
struct [[gnu::may_alias]] alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct [[gnu::may_alias]] alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }

inline unsigned __float_as_uint(float f) { return __builtin_bit_cast(unsigned, f); }
inline float __uint_as_float(unsigned u) { return __builtin_bit_cast(float, u); }
inline int __float_as_int(float f) { return __builtin_bit_cast(int, f); }
inline float __int_as_float(int i) { return __builtin_bit_cast(float, i); }

struct __nv_bfloat16 {
  std::uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float f) {  // rounds to nearest, ties to even
    const unsigned u = __float_as_uint(f);
    bits = std::isnan(f) ? 0x7fff : std::uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
inline float __bfloat162float(__nv_bfloat16 h) { return h; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }

// ---- built-in variables
inline thread_local constinit uint3 threadIdx, blockIdx;
inline thread_local constinit dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- the executor
namespace executor {

using Location = std::source_location;
struct Site {  // where a thread waits
  const char* what = "";
  Location where;
  bool operator==(const Site& s) const { return where.line() == s.where.line() && where.column() == s.where.column(); }
};

inline thread_local constinit const char* current_kernel = nullptr;  // its gpu::signature()

#if GPU_TSAN
#pragma GCC visibility push(default)
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#pragma GCC visibility pop
struct Untraced {  // what it must not see, where library code is called, which GPU_UNTRACED does not reach
  Untraced() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Untraced() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__), AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
};
#else
struct Untraced {
  Untraced() {}
};
#endif

// A launch in which threads may meet, or one declared independent that a checked build runs in its real block shape.
using Body = void(void* call);  // of a thread
void run_blocks(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, bool independent, Body* body, void* call);
// Refuses what a GPU refuses.
void check_configuration(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes);

template <auto Kernel, class... A>
inline void launch(dim3 grid, dim3 block, std::size_t shared_bytes, bool independent, A... arguments) {
  std::tuple<A...> call{arguments...};
  const auto body = [](void* c) { std::apply(Kernel, *static_cast<std::tuple<A...>*>(c)); };
  run_blocks(gpu::signature<Kernel>(), grid, block, shared_bytes, independent, body, &call);
}

// The blocks from number `first` to `last` of a grid.
struct Blocks {
  dim3 grid;
  long first, last;
  struct Iterator {
    dim3 grid;
    long number;
    uint3 index;
    uint3 operator*() const { return index; }
    bool operator!=(const Iterator& i) const { return number != i.number; }
    void operator++() {
      ++number;
      if (++index.x < grid.x) return;
      index.x = 0;
      if (++index.y < grid.y) return;
      index.y = 0, ++index.z;
    }
  };
  Iterator begin() const {
    return {grid, first, {unsigned(first % grid.x), unsigned(first / grid.x % grid.y), unsigned(first / grid.x / grid.y)}};
  }
  Iterator end() const { return {grid, last, {}}; }
};
// call(f, blocks) for ranges that make up the grid, spread over the pool.
void for_each_range(dim3 grid, void (*call)(void* f, Blocks), void* f);

unsigned schedule();  // 0: threads in ascending order; 1: descending; else the seed of a random order

// Shared memory: a place in the block that runs, once a block for every array.
inline thread_local constinit std::uint64_t meeting = 0;  // number of the block on this OS thread whose threads may meet; 0: none
struct Slot {
  std::uint64_t block = ~0ull;  // where `array` is that block's
  void* array = nullptr;
};
void carve(Slot& slot, std::size_t bytes, std::size_t alignment, Site site);
GPU_UNTRACED inline void* shared_array(Slot& slot, std::size_t bytes, std::size_t alignment, Site site) {
  if (slot.block != meeting) carve(slot, bytes, alignment, site);
  return slot.array;
}
char* dynamic_shared(Site site);
unsigned shared_address(const void* p, Site site);

// What threads do together.
void barrier(Site site);
void meet_warp(unsigned mask, Site site);
enum class Lane { of, xored, up, down };  // which lane a lane reads, among `width` neighbours: by number or relative to itself
float shuffle(unsigned mask, float value, Lane from, unsigned by, unsigned width, Site site);
std::uint64_t shuffle(unsigned mask, std::uint64_t value, Lane from, unsigned by, unsigned width, Site site);
unsigned ballot(unsigned mask, bool predicate, Site site);
void copy_async(void* to, const void* from, int bytes, Site site);  // from null: zeros
void copy_async_commit(Site site);
void copy_async_wait(unsigned pending, Site site);
void ldmatrix(unsigned (&r)[4], const void* row, bool transposed, Site site);
void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site);
void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site);

// Runs f(task, lane) for every task below count.
void run_tasks(long count, void (*call)(void* f, long task, int lane), void* f);

template <class T>
inline T shuffled(unsigned mask, T value, Lane from, unsigned by, unsigned width, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Value = std::conditional_t<sizeof(T) == 4, float, std::uint64_t>;
  return __builtin_bit_cast(T, shuffle(mask, __builtin_bit_cast(Value, value), from, by, width, site));
}

}  // namespace executor

namespace gpu {

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// The threads of a block may meet at barriers.
template <auto Kernel, class... A>
inline void launch(const Launch& l, A... arguments) {
  executor::check_configuration(signature<Kernel>(), l.grid, l.block, l.shared_bytes);
  executor::launch<Kernel>(l.grid, l.block, l.shared_bytes, false, arguments...);
}

// The threads are independent and the kernel is right for every block size: it runs with one thread a block, inlined and
// vectorised. A checked build runs the real block shape under every schedule but 0.
template <auto Kernel, class... A>
inline void launch_independent(const Launch& l, A... arguments) {
  executor::check_configuration(signature<Kernel>(), l.grid, l.block, l.shared_bytes);
  if constexpr (GPU_CHECKED)
    if (executor::schedule()) return executor::launch<Kernel>(l.grid, l.block, l.shared_bytes, true, arguments...);
  auto run = [=](executor::Blocks blocks) __attribute__((flatten)) {
    executor::current_kernel = signature<Kernel>();
    gridDim = blocks.grid;
    for (uint3 index : blocks) {
      blockIdx = index;
      threadIdx = {0, 0, 0};  // in every block, or a kernel that writes bytes might have changed it
      blockDim = dim3(1, 1, 1);
      Kernel(arguments...);
    }
  };
  const auto call = [](void* f, executor::Blocks blocks) {
    auto own = *static_cast<decltype(run)*>(f);  // a copy, or its values would be read again after what the kernel writes
    own(blocks);
  };
  executor::for_each_range(l.grid, call, &run);
}

// Host code: f(task, lane) for every task below count. Tasks spread over the threads; those that run at the same time have
// different lanes below lanes(), which name scratch memory. Inside a task there is one lane, and launches run in its thread.
// An exception ends the run; that of the first task that failed is thrown.
template <class F>
inline void for_each_task(long count, F f) {
  executor::run_tasks(count, [](void* g, long task, int lane) { (*static_cast<F*>(g))(task, lane); }, &f);
}
int lanes();
int threads();
// Not while others compute: their workspaces were made for the lanes there were.
void set_threads(int n);

// Of A, that blas_sgemm multiplies in the time of reading a transposed B.
constexpr long kFewRows = 32;
// C = alpha op(A) op(B) + beta C, row-major, through the BLAS that the process registered; false where there is none.
bool blas_sgemm(bool transpose_a, bool transpose_b, long M, long N, long K, float alpha, const float* a, long lda, const float* b, long ldb,
                float beta, float* c, long ldc);

#define GPU_HERE ::executor::Location where = ::executor::Location::current()

// GPU_SHARED(float, tile, [8][128]); declares an array in shared memory, aligned to 16 bytes.
#define GPU_SHARED(type, name, dims)                          \
  static thread_local constinit ::executor::Slot name##_slot; \
  using name##_type = type dims;                              \
  auto& name = *static_cast<name##_type*>(                    \
      ::executor::shared_array(name##_slot, sizeof(name##_type), 16, {"GPU_SHARED", ::executor::Location::current()}))
template <class T>
inline T* dynamic_shared(GPU_HERE) {
  return reinterpret_cast<T*>(executor::dynamic_shared({"dynamic_shared", where}));
}
inline unsigned shared_address(const void* p, GPU_HERE) { return executor::shared_address(p, {"shared_address", where}); }

// This thread's part of 0..n-1: strided on a GPU, so that neighbours touch neighbours, contiguous for a block of one.
struct Range {
  long first, last, step;
  struct Iterator {
    long i, step;
    long operator*() const { return i; }
    void operator++() { i += step; }
    bool operator!=(Iterator end) const { return i < end.i; }
  };
  Iterator begin() const { return {first, step}; }
  Iterator end() const { return {last, step}; }
};
__forceinline__ Range grid_range(long n) {
  if (blockDim.x == 1) return {n * blockIdx.x / gridDim.x, n * (blockIdx.x + 1l) / gridDim.x, 1};
  return {long(blockIdx.x) * blockDim.x + threadIdx.x, n, long(gridDim.x) * blockDim.x};
}

}  // namespace gpu

// ---- device functions
inline void __syncthreads(GPU_HERE) { executor::barrier({"__syncthreads", where}); }
inline void __syncwarp(unsigned mask = ~0u, GPU_HERE) { executor::meet_warp(mask, {"__syncwarp", where}); }

template <class T>
inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, GPU_HERE) {
  return executor::shuffled(mask, v, executor::Lane::of, from, width, {"__shfl_sync", where});
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, GPU_HERE) {
  return executor::shuffled(mask, v, executor::Lane::xored, x, width, {"__shfl_xor_sync", where});
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, GPU_HERE) {
  return executor::shuffled(mask, v, executor::Lane::down, d, width, {"__shfl_down_sync", where});
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, GPU_HERE) {
  return executor::shuffled(mask, v, executor::Lane::up, d, width, {"__shfl_up_sync", where});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, GPU_HERE) {
  return executor::ballot(mask, predicate != 0, {"__ballot_sync", where});
}
inline int __any_sync(unsigned mask, int predicate, GPU_HERE) { return __ballot_sync(mask, predicate, where) != 0; }
inline int __all_sync(unsigned mask, int predicate, GPU_HERE) { return __ballot_sync(mask, predicate, where) == mask; }

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return std::uint64_t(a) * b >> 32; }
template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}

namespace executor {
template <class T, class F>
inline T atomic(T* p, F f) {
  using U = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  U* u = reinterpret_cast<U*>(p);
  U old = __atomic_load_n(u, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(u, &old, __builtin_bit_cast(U, f(__builtin_bit_cast(T, old))), true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {}
  return __builtin_bit_cast(T, old);
}
}  // namespace executor
template <class T>
inline T atomicAdd(T* p, std::type_identity_t<T> v) {
  return executor::atomic(p, [v](T old) { return T(old + v); });
}
template <class T>
inline T atomicMax(T* p, std::type_identity_t<T> v) {
  return executor::atomic(p, [v](T old) { return old < v ? v : old; });
}
template <class T>
inline T atomicExch(T* p, std::type_identity_t<T> v) {
  return executor::atomic(p, [v](T) { return v; });
}
template <class T>
inline T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return executor::atomic(p, [=](T old) { return old == expected ? v : old; });
}

// ---- PTX-level operations (gpu.cuh has the GPU's side)
namespace gpu {

// Carried out as late as the program allows: by the wait that completes it. Until then a checked build shows NaN.
template <int Bytes>
inline void cp_async(void* to, const void* from, bool valid = true, GPU_HERE) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  executor::copy_async(to, valid ? from : nullptr, Bytes, {"cp_async", where});
}
inline void cp_async_commit(GPU_HERE) { executor::copy_async_commit({"cp_async_commit", where}); }
template <int Pending>
inline void cp_async_wait(GPU_HERE) {
  executor::copy_async_wait(Pending, {"cp_async_wait", where});
}

// Four 8x8 matrices of 16-bit elements: lane l names row l % 8 of matrix l / 8 and receives, of every matrix, the elements
// 2 (l % 4) and the next of row l / 4, or of column l / 4 (Transposed).
template <int N, bool Transposed>
inline void ldmatrix(unsigned (&r)[N], const void* row, GPU_HERE) {
  static_assert(N == 4);
  executor::ldmatrix(r, row, Transposed, {"ldmatrix", where});
}

inline unsigned round_tf32(float v) {
  return std::isnan(v) ? 0x7fffffff : std::isinf(v) ? __float_as_uint(v) : (__float_as_uint(v) + 0x1000) & ~0x1fffu;
}
inline unsigned round_bf16(float low, float high) { return __nv_bfloat16(low).bits | unsigned(__nv_bfloat16(high).bits) << 16; }

// D (16 x 8) += A (16 x K) B (K x 8), each in the registers of a warp.
inline void mma_tf32_16x8x8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], GPU_HERE) {
  executor::mma_tf32(d, a, b, {"mma_tf32_16x8x8", where});
}
inline void mma_bf16_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], GPU_HERE) {
  executor::mma_bf16(d, a, b, {"mma_bf16_16x8x16", where});
}

}  // namespace gpu
#pragma GCC visibility pop
