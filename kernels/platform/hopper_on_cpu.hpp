// hopper_on_cpu.hpp - mbarrier, TMA and wgmma on the CPU (hopper_block.hpp). Asynchronous work is done as late as the program
// allows: a TMA copy when every thread waits, a wgmma at the wait that completes its group.
#pragma once
#include "cuda_on_cpu.hpp"
#pragma GCC visibility push(hidden)

namespace gpu {
struct TensorMap {  // dimension 0 is the contiguous one
  const char* base;
  int rank, element, swizzle;       // bytes; swizzle 0 or 128
  long size[4], stride[4];          // stride in bytes
  int box[4];                       // im2col: channels, pixels
  int lower[2], upper[2], step[2];  // im2col: corners of the bounding box, traversal strides of W and H
};
}  // namespace gpu

namespace executor {

void mbarrier_init(std::uint64_t* barrier, int count, Site site);
void arrive(std::uint64_t* barrier, int bytes, Site site);
void wait(std::uint64_t* barrier, unsigned parity, Site site);
// A box of the tensor at these coordinates; im2col: with the offset of a position in the window.
void load_box(void* to, const gpu::TensorMap& m, std::uint64_t* barrier, const int (&at)[4], Site site);
void load_im2col(void* to, const gpu::TensorMap& m, std::uint64_t* barrier, const int (&at)[4], const int (&tap)[2], Site site);

// D (64 x N) += A (64 x K) B (K x N) of elements of `bytes`, or without `accumulate` =; a thread has N / 2 values of D.
struct Wgmma {
  float* d;
  int N, bytes;
  std::uint64_t a, b;
  bool along_a, along_b, accumulate;
};
void wgmma(const Wgmma& mine, Site site);
void wgmma_commit(Site site);
void wgmma_wait(unsigned pending, Site site);

}  // namespace executor

namespace gpu {

inline int compute_capability() { return 90; }
inline int multiprocessors() { return 3; }  // so few that a block has several tiles

// A matrix (rows, cols), loaded in boxes; `element` and `swizzle` (0 or 128) in bytes.
TensorMap make_tensor_map_2d(const void* base, long rows, long cols, int box_rows, int box_cols, int element, int swizzle);
// Images (N, H, W, C), loaded in boxes of (1, box_h, box_w, box_c).
TensorMap make_tensor_map_4d(const void* base, int n, int h, int w, int c, int box_h, int box_w, int box_c, int element, int swizzle);
// Images (N, H, W, C), loaded as `pixels` positions of a window k x k with padding and stride, `channels` at a time.
TensorMap make_tensor_map_im2col(const void* base, int n, int h, int w, int c, int k, int padding, int stride, int pixels, int channels,
                                 int element, int swizzle);

inline void mbarrier_init(std::uint64_t* barrier, int count, GPU_HERE) {
  executor::mbarrier_init(barrier, count, {"mbarrier_init", where});
}
inline void mbarrier_arrive(std::uint64_t* barrier, GPU_HERE) { executor::arrive(barrier, 0, {"mbarrier_arrive", where}); }
inline void mbarrier_arrive_expect(std::uint64_t* barrier, int bytes, GPU_HERE) {
  executor::arrive(barrier, bytes, {"mbarrier_arrive_expect", where});
}
inline void mbarrier_wait(std::uint64_t* barrier, unsigned parity, GPU_HERE) { executor::wait(barrier, parity, {"mbarrier_wait", where}); }
inline void fence_barrier_init() {}
inline void fence_proxy_async() {}
template <int N>
inline void registers_raise() {}
template <int N>
inline void registers_lower() {}

inline void tma_load_2d(void* to, const TensorMap& m, std::uint64_t* barrier, int x, int y, GPU_HERE) {
  executor::load_box(to, m, barrier, {x, y}, {"tma_load_2d", where});
}
inline void tma_load_4d(void* to, const TensorMap& m, std::uint64_t* barrier, int c, int w, int h, int n, GPU_HERE) {
  executor::load_box(to, m, barrier, {c, w, h, n}, {"tma_load_4d", where});
}
inline void tma_load_im2col(void* to, const TensorMap& m, std::uint64_t* barrier, int c, int w, int h, int n, int tap_w, int tap_h,
                            GPU_HERE) {
  executor::load_im2col(to, m, barrier, {c, w, h, n}, {tap_w, tap_h}, {"tma_load_im2col", where});
}

// Shared-memory matrix descriptor; mode 0: no swizzle, 1: 128 bytes. In bytes, where rows run along k: `stride` to the next
// 8 rows, `lead` to the next 8 k (without swizzle); across: `stride` to the next 8 k, `lead` to the next 64 rows.
inline std::uint64_t wgmma_descriptor(const void* p, int lead, int stride, int mode) {
  return (shared_address(p) >> 4 & 0x3fff) | std::uint64_t(lead >> 4) << 16 | std::uint64_t(stride >> 4) << 32 | std::uint64_t(mode) << 62;
}
inline void wgmma_fence() {}
// D (64 x N) += A (64 x 16) B (16 x N) of bf16, or without `accumulate` =, N = 2 Half being 64, 96 or 128. AlongA, AlongB: rows
// of the operand in shared memory run along k, else across it (with the swizzle of 128 bytes).
template <bool AlongA = true, bool AlongB = true, int Half>
inline void wgmma_bf16(float (&d)[Half], std::uint64_t a, std::uint64_t b, int accumulate, GPU_HERE) {
  static_assert(Half == 32 || Half == 48 || Half == 64);
  executor::wgmma({d, 2 * Half, 2, a, b, AlongA, AlongB, accumulate != 0}, {"wgmma_bf16", where});
}
// The same of tf32: A (64 x 8), B (8 x N), both along k.
template <int Half>
inline void wgmma_tf32(float (&d)[Half], std::uint64_t a, std::uint64_t b, int accumulate, GPU_HERE) {
  static_assert(Half == 32 || Half == 48 || Half == 64);
  executor::wgmma({d, 2 * Half, 4, a, b, true, true, accumulate != 0}, {"wgmma_tf32", where});
}
inline void wgmma_commit(GPU_HERE) { executor::wgmma_commit({"wgmma_commit", where}); }
template <int Pending>
inline void wgmma_wait(GPU_HERE) {
  executor::wgmma_wait(Pending, {"wgmma_wait", where});
}

}  // namespace gpu
#pragma GCC visibility pop
