// bias.cu - y_rc = x_rc + b_c, optionally followed by max(0, .); db_c = sum_r dy_rc, where y_rc > 0 if that followed, and
// times `scale` if dropout followed that, which multiplies by `scale` what it keeps: y > 0 tells of both.
#include <algorithm>
#include <cmath>

#include "vector.cuh"

namespace alexnet {
namespace {

#ifdef __CUDACC__
constexpr int kStrip = 1;  // neighbouring threads have neighbouring channels
#else
constexpr int kStrip = 32;  // the one thread of a block sums this many channels in vector registers
#endif
constexpr int kBlockChannels = 256, kBlockValues = 8192;

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// A block owns a few whole rows, a thread every blockDim.x-th channel of every blockDim.y-th of them: a warp reads
// consecutive channels.
template <bool Relu, class T>
__global__ void bias_rows(T* y, const T* x, const float* __restrict__ b, long rows, int C, int block_rows) {
  const long begin = blockIdx.x * long(block_rows), end = begin + block_rows < rows ? begin + block_rows : rows;
  for (long r = begin + threadIdx.y; r < end; r += blockDim.y)
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
      const float v = float(x[r * C + c]) + b[c];
      y[r * C + c] = Relu && v < 0 ? 0.0f : v;
    }
}

template <int Width, bool Relu, class T>
__device__ __forceinline__ void sum_rows(float* __restrict__ sums, T* __restrict__ dx, const T* __restrict__ x, const T* __restrict__ y,
                                         long rows, int C, float scale) {
  float sum[Width] = {};
  for (long r = 0; r < rows; ++r) {
    UNROLL
    for (int i = 0; i < Width; ++i) {
      float v = x[r * C + i];
      if constexpr (Relu) {
        v = float(y[r * C + i]) <= 0 ? 0 : float(T(scale * v));  // so that NaN stays NaN
        dx[r * C + i] = v;
      }
      sum[i] += v;
    }
  }
  UNROLL
  for (int i = 0; i < Width; ++i) sums[i] = sum[i];
}

// sums[i][c] = sum of x[r][c] over the i-th chunk of rows, with Relu where y[r][c] > 0 and dx the summands. A block owns
// kBlockChannels channels of one chunk, a thread one channel (on a GPU): a warp reads consecutive channels, row after row.
template <bool Relu, class T>
__global__ void column_sums(float* __restrict__ sums, T* __restrict__ dx, const T* __restrict__ x, const T* __restrict__ y, long rows,
                            int C, long chunk_rows, float scale) {
  const unsigned parts = (C - 1) / kBlockChannels + 1;
  const long chunk = blockIdx.x / parts, begin = chunk * chunk_rows, count = begin + chunk_rows < rows ? chunk_rows : rows - begin;
  const int first = blockIdx.x % parts * kBlockChannels, last = first + kBlockChannels < C ? first + kBlockChannels : C;
  sums += chunk * C;
  x += begin * C;
  if constexpr (Relu) dx += begin * C, y += begin * C;
  int c = first + threadIdx.x * kStrip;
  for (; c + kStrip <= last; c += blockDim.x * kStrip) sum_rows<kStrip, Relu>(sums + c, dx + c, x + c, y + c, count, C, scale);
  for (; c < last; ++c) sum_rows<1, Relu>(sums + c, dx + c, x + c, y + c, count, C, scale);
}

template <bool Relu, class T>
void launch_column_sums(float* sums, T* dx, const T* x, const T* y, long rows, int C, long chunk_rows, float scale, Stream stream) {
  const long chunks = (rows - 1) / chunk_rows + 1, parts = (C - 1) / kBlockChannels + 1;
  const dim3 block(std::min(round_up(C, 32), kBlockChannels));
  gpu::launch_independent<column_sums<Relu, T>>({dim3(unsigned(chunks * parts)), block, 0, stream}, sums, dx, x, y, rows, C, chunk_rows,
                                                scale);
}

// As many chunks as rows in a chunk, so that both stages are short; a few rows are summed at once.
long rows_of_chunk(long rows) { return rows <= 64 ? rows : long(std::ceil(std::sqrt(double(rows)))); }

template <bool Relu, class T>
void sum_columns(float* db, T* dx, const T* dy, const T* y, long rows, int C, float scale, void* workspace, Stream stream) {
  const long chunk = rows_of_chunk(rows);
  if (chunk == rows) return launch_column_sums<Relu>(db, dx, dy, y, rows, C, rows, scale, stream);
  float* sums = static_cast<float*>(workspace);
  launch_column_sums<Relu>(sums, dx, dy, y, rows, C, chunk, scale, stream);
  const long chunks = (rows - 1) / chunk + 1;
  launch_column_sums<false, float>(db, nullptr, sums, nullptr, chunks, C, chunks, 1, stream);
}

}  // namespace

template <class T>
void bias_forward(T* y, const T* x, const float* b, long rows, int C, bool relu, Stream stream) {
  const int block_rows = std::max(1, kBlockValues / C), width = std::min(round_up(C, 32), 256);
  const gpu::Launch launch{dim3(unsigned((rows - 1) / block_rows + 1)), dim3(width, 256 / width), 0, stream};
  if (relu)
    gpu::launch_independent<bias_rows<true, T>>(launch, y, x, b, rows, C, block_rows);
  else
    gpu::launch_independent<bias_rows<false, T>>(launch, y, x, b, rows, C, block_rows);
}
FOR_EACH_STORAGE(bias_forward);

std::size_t bias_backward_workspace(long rows, int C) {
  const long chunk = rows_of_chunk(rows);
  return chunk == rows ? 0 : ((rows - 1) / chunk + 1) * C * sizeof(float);
}

template <class T>
void bias_backward(float* db, const T* dy, long rows, int C, void* workspace, Stream stream) {
  sum_columns<false, T>(db, nullptr, dy, nullptr, rows, C, 1, workspace, stream);
}
FOR_EACH_STORAGE(bias_backward);

template <class T>
void bias_relu_backward(T* dx, float* db, const T* dy, const T* y, long rows, int C, float scale, void* workspace, Stream stream) {
  sum_columns<true>(db, dx, dy, y, rows, C, scale, workspace, stream);
}
FOR_EACH_STORAGE(bias_relu_backward);

}  // namespace alexnet
