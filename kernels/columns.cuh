// columns.cuh - a matrix (rows, C), C the channels: sums down its columns, which go over chunks of rows first, then over the
// chunks, in an order fixed by the shape; and work on whole rows.
#pragma once
#include <algorithm>
#include <cmath>

#include "vector.cuh"

namespace alexnet {
namespace {

constexpr int kBlockChannels = 256, kBlockValues = 8192;

struct Chunks {
  long rows, chunk_rows;
  int C;
  __host__ __device__ long count() const { return (rows - 1) / chunk_rows + 1; }
  __device__ __forceinline__ long size(long chunk) const {
    const long left = rows - chunk * chunk_rows;
    return left < chunk_rows ? left : chunk_rows;
  }
};
// As many chunks as rows in a chunk, so that both stages are short; a few rows are one chunk.
inline Chunks chunks_of(long rows, int C) { return {rows, rows <= 64 ? rows : long(std::ceil(std::sqrt(double(rows)))), C}; }

// f(chunk, first channel, a constant number of channels) over all of them: a block owns kBlockChannels channels of one
// chunk. On a GPU a thread has one channel: a warp reads consecutive channels, row after row. The one thread of a block on a
// CPU sums `Strip` channels in vector registers.
template <int Strip, class F>
__device__ __forceinline__ void for_each_strip(const Chunks& s, F f) {
#ifdef __CUDACC__
  constexpr int strip = 1;
#else
  constexpr int strip = Strip;
#endif
  const unsigned parts = (s.C - 1) / kBlockChannels + 1;
  const long chunk = blockIdx.x / parts;
  const int first = blockIdx.x % parts * kBlockChannels, last = first + kBlockChannels < s.C ? first + kBlockChannels : s.C;
  int c = first + threadIdx.x * strip;
  for (; c + strip <= last; c += blockDim.x * strip) f(chunk, c, std::integral_constant<int, strip>());
  for (; c < last; ++c) f(chunk, c, std::integral_constant<int, 1>());
}
inline gpu::Launch over_strips(const Chunks& s, Stream stream) {
  const int width = std::min((s.C + 31) / 32 * 32, kBlockChannels);
  return {dim3(unsigned(s.count() * ((s.C - 1) / kBlockChannels + 1))), dim3(width), 0, stream};
}

// f(row, channel): a block owns a few whole rows, a thread every blockDim.x-th channel of every blockDim.y-th of them: a warp
// reads consecutive channels.
struct Rows {
  long rows;
  int C, block_rows;
};
template <class F>
__device__ __forceinline__ void for_each_value(const Rows& s, F f) {
  const long begin = blockIdx.x * long(s.block_rows), end = begin + s.block_rows < s.rows ? begin + s.block_rows : s.rows;
  for (long row = begin + threadIdx.y; row < end; row += blockDim.y)
    for (int c = threadIdx.x; c < s.C; c += blockDim.x) f(row, c);
}
inline Rows rows_of(long rows, int C) { return {rows, C, std::max(1, kBlockValues / C)}; }
inline gpu::Launch over_rows(const Rows& s, Stream stream) {
  return {dim3(unsigned((s.rows - 1) / s.block_rows + 1)), threads_over(s.block_rows, s.C), 0, stream};
}

}  // namespace
}  // namespace alexnet
