// misuse.cpp - kernels with one mistake each: `misuse CASE` runs one of them. It exits with 1 and the text of the
// exception where the executor notices, with 2 where the result is wrong, with 0 where nothing was noticed.
// Each mistake's line ends in a comment that names the case, so that a test can look for the line in a report.
#include <atomic>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "platform/executor.cpp"
#include "platform/hopper.cuh"

namespace {

__global__ void correct(float* y) {
  GPU_SHARED(float, a, [64]);
  a[threadIdx.x] = float(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = a[63 - threadIdx.x] + threadIdx.x - 62;
}

// ---- meetings
__global__ void divergent_barrier(float* y) {
  if (threadIdx.x < 40) __syncthreads();  // divergent_barrier
  y[threadIdx.x] = 1;
}
__global__ void different_barriers(float* y) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();  // different_barriers
  y[threadIdx.x] = 1;
}
__global__ void shuffle_outside_mask(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 16);  // shuffle_outside_mask
}
__global__ void shuffle_missing_lanes(float* y) {
  if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);  // shuffle_missing_lanes
}
__global__ void caller_outside_mask(float* y) {
  y[threadIdx.x] = __shfl_sync(0x7fffffffu, 1.0f, 0);  // caller_outside_mask
}
__global__ void lanes_not_there(float* y) {
  y[threadIdx.x] = __ballot_sync(~0u, 1) != 0;  // lanes_not_there
}
__global__ void masks_disagree(float* y) {
  y[threadIdx.x] = __shfl_sync(threadIdx.x % 2 ? ~0u : 0x55555555u, 1.0f, 0);  // masks_disagree
}
__global__ void operations_disagree(float* y) {
  if (threadIdx.x % 32)
    y[threadIdx.x] = __shfl_sync(~0u, 1.0f, 0);
  else
    __syncwarp();  // operations_disagree
}
__global__ void barrier_in_independent(float* y) {
  __syncthreads();  // barrier_in_independent
  y[threadIdx.x] = 1;
}
template <int Distance>
__global__ void shuffle_in_independent(float* y) {
  y[threadIdx.x] = __shfl_down_sync(~0u, 1.0f, Distance);  // shuffle_in_independent
}
__global__ void shared_in_independent(float* y) {
  GPU_SHARED(float, a, [64]);  // shared_in_independent
  a[threadIdx.x] = 1;
  y[threadIdx.x] = a[threadIdx.x];
}

// ---- shared memory
__global__ void shared_exhausted(float* y) {
  GPU_SHARED(float, a, [8192]);
  GPU_SHARED(float, b, [8192]);  // shared_exhausted
  a[threadIdx.x] = b[threadIdx.x] = 1;
  y[threadIdx.x] = a[threadIdx.x];
}
__global__ void shared_not_asked_for(float* y) {
  float* a = gpu::dynamic_shared<float>();  // shared_not_asked_for
  a[threadIdx.x] = 1;
  y[threadIdx.x] = a[threadIdx.x];
}
__global__ void shared_uninitialised(float* y) {
  GPU_SHARED(float, a, [64]);
  if (threadIdx.x < 63) a[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = a[threadIdx.x];
}
__global__ void missing_barrier(float* y) {  // right when threads run in ascending order
  GPU_SHARED(float, a, [64]);
  a[threadIdx.x] = 1;
  y[threadIdx.x] = a[threadIdx.x / 2];  // missing_barrier
}
__global__ void missing_syncwarp(float* y) {
  GPU_SHARED(float, a, [64]);
  a[threadIdx.x] = 1;
  y[threadIdx.x] = a[threadIdx.x ^ 1];  // missing_syncwarp
}
__global__ void race_between_blocks(float* y) {
  if (threadIdx.x == 0) y[0] = y[0] + 1;  // race_between_blocks
  y[threadIdx.x] = 1;
}
__global__ void race_between_tasks(float* y) {
  for (long i : gpu::grid_range(64)) y[i] = 1;  // race_between_tasks
}
__global__ void race_in_independent(float* y) {
  for (long i : gpu::grid_range(64)) y[i / 2 * 2] = y[i] = 1;  // race_in_independent
}
__global__ void static_overflow(float* y, int past) {
  GPU_SHARED(float, a, [64]);
  a[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = (&a[0])[threadIdx.x + past];  // static_overflow
}
__global__ void dynamic_overflow(float* y, int past) {
  float* a = gpu::dynamic_shared<float>();
  a[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = a[threadIdx.x + past];  // dynamic_overflow
}
__global__ void global_overflow(float* y, int past) {
  y[threadIdx.x + past] = 1;  // global_overflow
}
__global__ void local_overflow(float* y, int past) {
  float local[8];
  for (int i = 0; i < 8; ++i) local[i] = y[i];
  __syncthreads();
  y[threadIdx.x] = (&local[0])[past + 7];  // local_overflow
}
__global__ void misaligned_vector(float* y, const float* x) {
  y[threadIdx.x] = reinterpret_cast<const float4*>(x + 1)->x;  // misaligned_vector
}

// ---- asynchronous copies
__global__ void copy_without_wait(float* y, const float* x) {
  GPU_SHARED(float, a, [64]);
  if (threadIdx.x < 16) gpu::cp_async<16>(a + threadIdx.x * 4, x + threadIdx.x * 4);
  gpu::cp_async_commit();
  __syncthreads();
  y[threadIdx.x] = a[threadIdx.x];
}
__global__ void copy_misaligned(float* y, const float* x) {
  GPU_SHARED(float, a, [68]);
  gpu::cp_async<16>(a + threadIdx.x, x);  // copy_misaligned
  y[threadIdx.x] = 1;
}
__global__ void copy_not_to_shared(float* y, const float* x) {
  gpu::cp_async<4>(y + threadIdx.x, x);  // copy_not_to_shared
}
__global__ void matrix_misaligned(float* y) {
  GPU_SHARED(float, a, [1024]);
  unsigned r[4];
  gpu::ldmatrix<4, false>(r, a + threadIdx.x % 32);  // matrix_misaligned
  y[threadIdx.x] = r[0];
}

// ---- mbarriers, TMA and wgmma
__global__ void mbarrier_uninitialised(float* y) {
  GPU_SHARED(std::uint64_t, barrier, [1]);
  gpu::mbarrier_arrive(barrier);  // mbarrier_uninitialised
  y[threadIdx.x] = 1;
}
__global__ void mbarrier_too_many(float* y) {
  GPU_SHARED(std::uint64_t, barrier, [1]);
  if (threadIdx.x == 0) gpu::mbarrier_init(barrier, 32), gpu::mbarrier_arrive_expect(barrier, 4);
  __syncthreads();
  gpu::mbarrier_arrive(barrier);  // mbarrier_too_many
  y[threadIdx.x] = 1;
}
__global__ void mbarrier_deadlock(float* y) {
  GPU_SHARED(std::uint64_t, barrier, [1]);
  if (threadIdx.x == 0) gpu::mbarrier_init(barrier, 65);
  __syncthreads();
  gpu::mbarrier_arrive(barrier);
  gpu::mbarrier_wait(barrier, 0);  // mbarrier_deadlock
  y[threadIdx.x] = 1;
}
__global__ void tma_not_awaited(float* y, const __grid_constant__ gpu::TensorMap map) {
  float* tile = gpu::dynamic_shared<float>();
  GPU_SHARED(std::uint64_t, barrier, [1]);
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(barrier, 1);
    gpu::mbarrier_arrive_expect(barrier, 256);
    gpu::tma_load_2d(tile, map, barrier, 0, 0);
  }
  y[threadIdx.x] = 1;
}
__global__ void tma_misaligned(float* y, const __grid_constant__ gpu::TensorMap map) {
  float* tile = gpu::dynamic_shared<float>();
  GPU_SHARED(std::uint64_t, barrier, [1]);
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(barrier, 1);
    gpu::mbarrier_arrive_expect(barrier, 256);
    gpu::tma_load_2d(tile + 4, map, barrier, 0, 0);  // tma_misaligned
  }
  y[threadIdx.x] = 1;
}
__global__ void tma_released_early(float* y, const __grid_constant__ gpu::TensorMap map) {
  float* tile = gpu::dynamic_shared<float>();
  GPU_SHARED(std::uint64_t, barrier, [1]);
  if (threadIdx.x == 0) gpu::mbarrier_init(barrier, 1);
  __syncthreads();
  for (int k = 0; k < 2; ++k) {
    if (threadIdx.x == 0) {
      gpu::mbarrier_arrive_expect(barrier, 256);
      gpu::tma_load_2d(tile, map, barrier, 0, 0);
    }
    gpu::mbarrier_wait(barrier, k);
    y[threadIdx.x] = tile[threadIdx.x];  // tma_released_early
  }
}
__global__ void warpgroup_incomplete(float* y) {
  gpu::wgmma_commit();  // warpgroup_incomplete
  y[threadIdx.x] = 1;
}

// f() in two threads of the pool.
template <class F>
void two_tasks(F f) {
  std::atomic<int> begun{0};
  gpu::for_each_task(2, [&](long, int) {
    begun.fetch_add(1, std::memory_order_relaxed);
    while (begun.load(std::memory_order_relaxed) < 2) std::this_thread::yield();
    f();
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<float> y(64, -1), x(64, 1);
  float* const out = y.data();
  const gpu::Launch two{dim3(2), dim3(64)}, one{dim3(1), dim3(64)}, dynamic{dim3(1), dim3(64), 256};
  const gpu::TensorMap map = gpu::make_tensor_map_2d(x.data(), 4, 16, 4, 16, 4, 0);
#define CASE(name, ...)                            \
  {                                                \
    #name, [&] { gpu::launch<name>(__VA_ARGS__); } \
  }
#define INDEPENDENT(name, ...)                                 \
  {                                                            \
    #name, [&] { gpu::launch_independent<name>(__VA_ARGS__); } \
  }
  const std::map<std::string, std::function<void()>> cases{
      CASE(correct, two, out),
      CASE(divergent_barrier, two, out),
      CASE(different_barriers, two, out),
      CASE(shuffle_outside_mask, one, out),
      CASE(shuffle_missing_lanes, one, out),
      CASE(caller_outside_mask, one, out),
      CASE(lanes_not_there, {dim3(1), dim3(48)}, out),
      CASE(masks_disagree, one, out),
      CASE(operations_disagree, one, out),
      INDEPENDENT(barrier_in_independent, one, out),
      {"shuffle_in_independent", [&] { gpu::launch_independent<shuffle_in_independent<4>>(one, out); }},
      INDEPENDENT(shared_in_independent, one, out),
      CASE(shared_exhausted, one, out),
      CASE(shared_not_asked_for, one, out),
      CASE(shared_uninitialised, one, out),
      CASE(missing_barrier, one, out),
      CASE(missing_syncwarp, one, out),
      CASE(race_between_blocks, two, out),
      {"race_between_tasks", [&] { two_tasks([&] { gpu::launch_independent<race_between_tasks>(one, out); }); }},
      INDEPENDENT(race_in_independent, two, out),
      CASE(static_overflow, one, out, argc - 1),
      CASE(dynamic_overflow, dynamic, out, argc - 1),
      CASE(global_overflow, one, out, argc - 1),
      CASE(local_overflow, one, out, argc - 1),
      CASE(misaligned_vector, one, out, x.data()),
      CASE(copy_without_wait, one, out, x.data()),
      CASE(copy_misaligned, one, out, x.data()),
      CASE(copy_not_to_shared, one, out, x.data()),
      CASE(matrix_misaligned, one, out),
      CASE(mbarrier_uninitialised, one, out),
      CASE(mbarrier_too_many, one, out),
      CASE(mbarrier_deadlock, one, out),
      CASE(tma_not_awaited, dynamic, out, map),
      CASE(tma_misaligned, {dim3(1), dim3(64), 512}, out, map),
      CASE(tma_released_early, dynamic, out, map),
      CASE(warpgroup_incomplete, one, out),
      {"too_many_threads", [&] { gpu::launch<correct>({dim3(1), dim3(2048)}, out); }},
      {"empty_grid", [&] { gpu::launch_independent<correct>({dim3(0), dim3(64)}, out); }},
      {"map_misaligned", [&] { gpu::make_tensor_map_2d(x.data() + 1, 4, 8, 4, 8, 4, 0); }},
      {"map_of_odd_rows", [&] { gpu::make_tensor_map_2d(x.data(), 4, 6, 4, 8, 4, 0); }},
      {"map_of_wide_boxes", [&] { gpu::make_tensor_map_2d(x.data(), 1, 64, 1, 64, 4, 128); }},
      {"map_of_narrow_boxes", [&] { gpu::make_tensor_map_im2col(x.data(), 1, 1, 4, 16, 1, 0, 1, 4, 8, 4, 128); }},
      {"map_of_long_strides", [&] { gpu::make_tensor_map_im2col(x.data(), 1, 1, 16, 4, 1, 0, 9, 4, 4, 4, 0); }},
      {"too_much_shared", [&] { gpu::launch<correct>({dim3(1), dim3(64), 228 << 10}, out); }},
  };
  const auto found = cases.find(argc > 1 ? argv[1] : "");
  if (found == cases.end()) {
    for (const auto& [name, run] : cases) std::puts(name.c_str());
    return 64;
  }
  try {
    found->second();
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
  const bool right = std::accumulate(y.begin(), y.end(), 0.0f) == 64;
  std::puts(right ? "right" : "wrong result");
  return right ? 0 : 2;
}
