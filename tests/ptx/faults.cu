// faults.cu - kernels with one mistake each, of a kind that the executor of C++ does not notice: it runs them to the right result. The
// executor of PTX must fail on each, and run its corrected twin. tests/test_ptx_faults.py compiles this file for both and says what each
// is to be called.
//
// Every kernel computes y of x, 4,096 floats each; `Wrong` has the mistake.
#include <cstdint>
#include <string>

#include "platform/hopper.cuh"
#include "vector.cuh"

namespace {

using alexnet::bfloat16;

constexpr int kCount = 4096;

// ---------------------------------------------------------------- plain kernels

template <bool Wrong>
__global__ void reads_behind_an_array(float* y, const float* x) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float next = i + 1 < kCount + Wrong ? x[i + 1] : 0.0f;  // the caller's array has room, what lies there is zero
  y[i] = x[i] + next;
}

template <bool Wrong>
__global__ void writes_behind_an_array(float* y, const float* x) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < kCount + (Wrong ? 64 : 0)) y[i] = i < kCount ? x[i] : 0.0f;
}

template <bool Wrong>
__global__ void writes_an_input(float* y, const float* x) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = 2 * x[i];
  if (Wrong && i == 0) const_cast<float*>(x)[0] = y[0] / 2;
}

template <bool Wrong>
__global__ void reads_two_floats_where_one_is_aligned(float* y, const float* x) {
  const int i = threadIdx.x;
  const auto pair = alexnet::load<2>(x + 2 * i + (Wrong ? 1 : 2));
  y[i] = Wrong ? pair[0] + pair[1] : x[2 * i + 1] + pair[0];
}

// On a CPU a shift counts modulo the width.
template <bool Wrong>
__global__ void shifts_by_the_whole_width(float* y, const float* x, int width) {
  const int i = threadIdx.x;
  const unsigned bits = 0xf0u + unsigned(x[i] > 1e30f);
  y[i] = float(bits >> (Wrong ? width : width - 32));
}

// ---------------------------------------------------------------- shared memory and barriers

template <bool Wrong>
__global__ void reads_another_warps_value_without_a_barrier(float* y, const float* x) {
  GPU_SHARED(float, s, [128]);
  const int i = threadIdx.x;
  s[i] = x[i];
  if (!Wrong) __syncthreads();
  y[i] = i < 32 ? s[i] : s[i - 32];
  __syncthreads();
}

template <bool Wrong>
__global__ void reads_another_lanes_value_without_a_barrier(float* y, const float* x) {
  GPU_SHARED(float, s, [32]);
  const int i = threadIdx.x;
  s[i] = x[i];
  if (!Wrong) __syncwarp();
  y[i] = s[i - (i > 0)];
  __syncthreads();
}

template <bool Wrong>
__global__ void overwrites_a_tile_that_others_read(float* y, const float* x) {
  GPU_SHARED(float, s, [128]);
  const int i = threadIdx.x;
  float sum = 0;
  for (int tile = 0; tile < 4; ++tile) {
    s[i] = x[tile * 128 + i];
    __syncthreads();
    sum += s[i < 48 ? i + 64 : i];
    if (!Wrong) __syncthreads();
  }
  y[i] = sum;
}

template <bool Wrong>
__global__ void sums_what_another_block_writes(float* y, const float* x) {
  const int i = threadIdx.x, b = blockIdx.x;
  y[b * 64 + i] = (Wrong && b ? y[(b - 1) * 64 + i] - x[(b - 1) * 64 + i] : 0.0f) + x[b * 64 + i];
}

// Two blocks write the same values; which is last nobody knows.
template <bool Wrong>
__global__ void writes_what_another_block_writes(float* y, const float* x) {
  const int i = (Wrong ? 0 : blockIdx.x * 64) + threadIdx.x;
  y[i] = x[i];
  if (Wrong) y[64 + threadIdx.x] = x[64 + threadIdx.x];
}

template <bool Wrong>
__global__ void takes_shared_memory_for_zero(float* y, const float* x) {
  GPU_SHARED(float, s, [64]);
  const int i = threadIdx.x;
  if (!Wrong || i < 0) s[i] = 0;
  __syncthreads();
  y[i] = x[i] + s[63 - i];
}

template <bool Wrong>
__global__ void leaves_an_array_in_shared_memory(float* y, const float* x) {
  GPU_SHARED(float, a, [64]);
  GPU_SHARED(float, b, [64]);
  const int i = threadIdx.x;
  a[i] = x[i], b[i] = x[64 + i];
  __syncthreads();
  const int at = i + (Wrong ? 1 : 0);  // a[64] is b[0], or not
  y[i] = (at < 64 ? a[at - int(Wrong)] : a[at] * 0 + a[63]) + b[63 - i];
}

template <bool Wrong>
__global__ void leaves_the_launchs_shared_memory(float* y, const float* x) {
  float* s = gpu::dynamic_shared<float>();
  const int i = threadIdx.x, at = i + (Wrong ? 64 : 0);
  s[at] = x[i];
  __syncthreads();
  y[i] = s[at];
}

// ---------------------------------------------------------------- launches

template <bool Wrong>
__global__ void __launch_bounds__(64) has_more_threads_than_its_bounds(float* y, const float* x) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = x[i];
}

// ---------------------------------------------------------------- cp.async

template <bool Wrong>
__global__ void waits_for_copies_after_the_barrier(float* y, const float* x) {
  GPU_SHARED(float, s, [256]);
  const int i = threadIdx.x;
  gpu::cp_async<16>(s + 4 * i, x + 4 * i);
  gpu::cp_async_commit();
  if (Wrong) __syncthreads();
  gpu::cp_async_wait<0>();
  if (!Wrong) __syncthreads();
  y[i] = i < 32 ? s[4 * i] : s[4 * i - 128];
}

template <bool Wrong>
__global__ void copies_into_a_tile_that_others_read(float* y, const float* x) {
  GPU_SHARED(float, s, [256]);
  const int i = threadIdx.x;
  float sum = 0;
  for (int tile = 0; tile < 3; ++tile) {
    gpu::cp_async<16>(s + 4 * i, x + tile * 256 + 4 * i);
    gpu::cp_async_commit();
    gpu::cp_async_wait<0>();
    __syncthreads();
    sum += s[4 * (i < 16 ? i + 32 : i)];
    if (!Wrong) __syncthreads();
  }
  y[i] = sum;
}

template <bool Wrong>
__global__ void reads_while_a_copy_is_under_way(float* y, const float* x) {  // what was there before
  GPU_SHARED(float, s, [256]);
  const int i = threadIdx.x;
  s[4 * i] = x[4 * i];
  gpu::cp_async<16>(s + 4 * i, x + 4 * i);
  gpu::cp_async_commit();
  if (!Wrong) gpu::cp_async_wait<0>();
  y[i] = s[4 * i];
  gpu::cp_async_wait<0>();
}

template <bool Wrong>
__global__ void ends_while_copies_are_under_way(float* y, const float* x) {
  GPU_SHARED(float, s, [256]);
  const int i = threadIdx.x;
  gpu::cp_async<16>(s + 4 * i, x + 4 * i);
  gpu::cp_async_commit();
  if (!Wrong) gpu::cp_async_wait<0>();
  y[i] = x[i];
}

// ---------------------------------------------------------------- ldmatrix and mma

template <bool Wrong>
__global__ void loads_matrix_rows_of_other_lanes_without_a_barrier(float* y, const float* x) {
  GPU_SHARED(std::uint16_t, s, [32 * 8]);
  const int i = threadIdx.x;
  for (int k = 0; k < 8; ++k) s[8 * i + k] = std::uint16_t(__float_as_uint(x[i]) >> 16);
  if (!Wrong) __syncwarp();
  unsigned r[4];
  gpu::ldmatrix<4, false>(r, s + 8 * (i ^ 1));
  y[i] = float(r[0] & 0xffff);
  __syncthreads();
}

// ---------------------------------------------------------------- mbarrier and TMA

// Box `b` of 64 rows of 128 bytes.
__device__ inline char* box(int b) { return gpu::dynamic_shared<char>() + b * 8192; }

template <bool Wrong>
__global__ void uses_an_mbarrier_that_others_initialise(float* y, const float* x) {
  GPU_SHARED(std::uint64_t, barrier, [1]);
  const int i = threadIdx.x;
  if (i == 0) gpu::mbarrier_init(barrier, 128);
  if (!Wrong) __syncthreads();
  gpu::mbarrier_arrive(barrier);
  gpu::mbarrier_wait(barrier, 0);
  y[i] = x[i];
  __syncthreads();
}

template <bool Wrong>
__global__ void copies_with_an_mbarrier_that_tma_does_not_see(float* y, const float*, const __grid_constant__ gpu::TensorMap map) {
  GPU_SHARED(std::uint64_t, barrier, [1]);
  const int i = threadIdx.x;
  if (i == 0) {
    gpu::mbarrier_init(barrier, 1);
    if (!Wrong) gpu::fence_barrier_init();
  }
  __syncthreads();
  if (i == 0) {
    gpu::mbarrier_arrive_expect(barrier, 8192);
    gpu::tma_load_2d(box(0), map, barrier, 0, 0);
  }
  gpu::mbarrier_wait(barrier, 0);
  y[i] = reinterpret_cast<const float*>(box(0))[i];
}

__device__ inline void prepare(std::uint64_t* barrier, int count) {
  if (threadIdx.x == 0) {
    for (int b = 0; b < count; ++b) gpu::mbarrier_init(barrier + b, 1);
    gpu::fence_barrier_init();
  }
  __syncthreads();
}

template <bool Wrong>
__global__ void copies_over_a_box_that_others_read(float* y, const float*, const __grid_constant__ gpu::TensorMap map) {
  GPU_SHARED(std::uint64_t, barrier, [1]);
  const int i = threadIdx.x;
  prepare(barrier, 1);
  float sum = 0;
  for (int tile = 0; tile < 2; ++tile) {
    if (i == 0) {
      gpu::mbarrier_arrive_expect(barrier, 8192);
      gpu::tma_load_2d(box(0), map, barrier, 0, 64 * tile);
    }
    gpu::mbarrier_wait(barrier, tile);
    sum += reinterpret_cast<const float*>(box(0))[i];
    if (!Wrong) __syncthreads();
  }
  y[i] = sum;
}

// ---------------------------------------------------------------- wgmma: D (64 x 64) = A B of two boxes of bf16, rows along k

__device__ inline void fill(int b, const float* x) {  // by 128 threads: 64 rows of 64 values, swizzled
  for (int e = threadIdx.x; e < 64 * 64; e += 128) {
    const int at = e * 2;
    *reinterpret_cast<bfloat16*>(box(b) + (at ^ (at >> 7 & 7) << 4)) = __float2bfloat16(x[e] * float(1 + b));
  }
}
template <bool Accumulates>
__device__ inline void multiply(float (&d)[32], int a, int b) {
  for (int k = 0; k < 4; ++k)
    gpu::wgmma_bf16(d, gpu::wgmma_descriptor(box(a) + 32 * k, 0, 1024, 1), gpu::wgmma_descriptor(box(b) + 32 * k, 0, 1024, 1),
                    Accumulates || k > 0);
}
__device__ inline void put(float* y, const float (&d)[32]) {
  for (int r = 0; r < 32; ++r) y[r * 128 + threadIdx.x] = d[r];
}

template <bool Wrong>
__global__ void multiplies_what_the_async_proxy_does_not_see(float* y, const float* x) {
  fill(0, x), fill(1, x);
  if (!Wrong) gpu::fence_proxy_async();
  __syncthreads();
  float d[32];
  gpu::wgmma_fence();
  multiply<false>(d, 0, 1);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
  put(y, d);
}

template <bool Wrong>
__global__ void multiplies_before_the_barrier(float* y, const float* x) {
  fill(0, x), fill(1, x);
  gpu::fence_proxy_async();
  if (!Wrong) __syncthreads();
  float d[32];
  gpu::wgmma_fence();
  multiply<false>(d, 0, 1);
  gpu::wgmma_commit();
  if (Wrong) __syncthreads();
  gpu::wgmma_wait<0>();
  put(y, d);
}

// The product reads whenever it likes between its issue and its wait.
template <bool Wrong>
__global__ void writes_an_operand_after_the_product_was_issued(float* y, const float* x) {
  fill(0, x);
  if (!Wrong) fill(1, x);
  gpu::fence_proxy_async();
  __syncthreads();
  float d[32];
  gpu::wgmma_fence();
  multiply<false>(d, 0, 1);
  gpu::wgmma_commit();
  if (Wrong) fill(1, x);
  gpu::fence_proxy_async();
  __syncthreads();
  gpu::wgmma_wait<0>();
  put(y, d);
}

template <bool Wrong>
__global__ void accumulates_without_a_fence(float* y, const float* x) {
  fill(0, x), fill(1, x);
  gpu::fence_proxy_async();
  __syncthreads();
  float d[32];
  for (int r = 0; r < 32; ++r) d[r] = x[r];
  if (!Wrong) gpu::wgmma_fence();
  multiply<true>(d, 0, 1);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
  put(y, d);
}

// ---------------------------------------------------------------- running them

constexpr std::size_t kDynamic = 4 * 8192;

gpu::TensorMap rows_of(const float* x) { return gpu::make_tensor_map_2d(x, kCount / 32, 32, 64, 32, 4, 0); }

// Blocks of so many threads; a launch that has a mistake itself says so.
struct Size {
  unsigned blocks, threads, rows = 1;
  std::size_t bytes = 0;
};
template <auto Kernel, class... A>
void start(Size s, float* y, const float* x, A... more) {
  gpu::launch<Kernel>({{s.blocks, s.rows}, s.threads, s.bytes, nullptr}, y, x, more...);
}

using Run = void (*)(float* y, const float* x);
struct Fault {
  const char* name;
  Run right, wrong;
};

#define PLAIN(kernel, ...)                                                                   \
  {#kernel, [](float* y, const float* x) { start<kernel<false>>(Size{__VA_ARGS__}, y, x); }, \
   [](float* y, const float* x) { start<kernel<true>>(Size{__VA_ARGS__}, y, x); }}
#define WITH_MAP(kernel, ...)                                                                            \
  {#kernel, [](float* y, const float* x) { start<kernel<false>>(Size{__VA_ARGS__}, y, x, rows_of(x)); }, \
   [](float* y, const float* x) { start<kernel<true>>(Size{__VA_ARGS__}, y, x, rows_of(x)); }}

const Fault faults[] = {
    PLAIN(reads_behind_an_array, kCount / 64, 64),
    PLAIN(writes_behind_an_array, kCount / 64 + 1, 64),
    PLAIN(writes_an_input, kCount / 64, 64),
    PLAIN(reads_two_floats_where_one_is_aligned, 1, 64),
    {"shifts_by_the_whole_width", [](float* y, const float* x) { start<shifts_by_the_whole_width<false>>({1, 64}, y, x, 32); },
     [](float* y, const float* x) { start<shifts_by_the_whole_width<true>>({1, 64}, y, x, 32); }},
    PLAIN(reads_another_warps_value_without_a_barrier, 1, 128),
    PLAIN(reads_another_lanes_value_without_a_barrier, 1, 32),
    PLAIN(overwrites_a_tile_that_others_read, 1, 128),
    PLAIN(sums_what_another_block_writes, 2, 64),
    PLAIN(writes_what_another_block_writes, 2, 64),
    PLAIN(takes_shared_memory_for_zero, 1, 64),
    PLAIN(leaves_an_array_in_shared_memory, 1, 64),
    PLAIN(leaves_the_launchs_shared_memory, 1, 64, 1, 64 * sizeof(float)),
    {"has_more_threads_than_its_bounds", [](float* y, const float* x) { start<has_more_threads_than_its_bounds<false>>({2, 64}, y, x); },
     [](float* y, const float* x) { start<has_more_threads_than_its_bounds<true>>({1, 128}, y, x); }},
    PLAIN(waits_for_copies_after_the_barrier, 1, 64),
    PLAIN(copies_into_a_tile_that_others_read, 1, 64),
    PLAIN(reads_while_a_copy_is_under_way, 1, 64),
    PLAIN(ends_while_copies_are_under_way, 1, 64),
    PLAIN(loads_matrix_rows_of_other_lanes_without_a_barrier, 1, 32),
    PLAIN(uses_an_mbarrier_that_others_initialise, 1, 128),
    WITH_MAP(copies_with_an_mbarrier_that_tma_does_not_see, 1, 128, 1, kDynamic),
    WITH_MAP(copies_over_a_box_that_others_read, 1, 128, 1, kDynamic),
    PLAIN(multiplies_what_the_async_proxy_does_not_see, 1, 128, 1, kDynamic),
    PLAIN(multiplies_before_the_barrier, 1, 128, 1, kDynamic),
    PLAIN(writes_an_operand_after_the_product_was_issued, 1, 128, 1, kDynamic),
    PLAIN(accumulates_without_a_fence, 1, 128, 1, kDynamic),
};

}  // namespace

extern "C" __attribute__((visibility("default"))) int fault_count() { return int(sizeof faults / sizeof *faults); }
extern "C" __attribute__((visibility("default"))) const char* fault_name(int i) { return faults[i].name; }
// What it says, or nothing.
extern "C" __attribute__((visibility("default"))) const char* fault_run(int i, int wrong, float* y, const float* x) {
  static std::string problem;
  problem.clear();
  try {
    (wrong ? faults[i].wrong : faults[i].right)(y, x);
  } catch (const std::exception& e) { problem = e.what(); }
  return problem.c_str();
}
