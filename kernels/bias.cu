// bias.cu - y_rc = x_rc + b_c, optionally followed by max(0, .); db_c = sum_r dy_rc, where y_rc > 0 if that followed, and
// times `scale` if dropout followed that, which multiplies by `scale` what it keeps: y > 0 tells of both.
#include "columns.cuh"

namespace alexnet {
namespace {

template <bool Relu, class T>
__global__ void bias_rows(T* y, const T* x, const float* __restrict__ b, Rows s) {
  for_each_value(s, [&](long r, int c) {
    const float v = float(x[r * s.C + c]) + b[c];
    y[r * s.C + c] = Relu && v < 0 ? 0.0f : v;
  });
}

// sums[i][c] = sum of x[r][c] over the i-th chunk of rows, with Relu where y[r][c] > 0 and dx the summands.
template <bool Relu, class T>
__global__ void column_sums(float* __restrict__ sums, T* __restrict__ dx, const T* __restrict__ x, const T* __restrict__ y, Chunks s,
                            float scale) {
  for_each_strip<32>(s, [&](long chunk, int first, auto width) {
    constexpr int W = decltype(width)::value;
    const long rows = s.size(chunk), at = chunk * s.chunk_rows * s.C + first;
    float sum[W] = {};
    for (long r = 0; r < rows; ++r) {
      UNROLL
      for (int i = 0; i < W; ++i) {
        float v = x[at + r * s.C + i];
        if constexpr (Relu) {
          v = float(y[at + r * s.C + i]) <= 0 ? 0 : float(T(scale * v));  // so that NaN stays NaN
          dx[at + r * s.C + i] = v;
        }
        sum[i] += v;
      }
    }
    UNROLL
    for (int i = 0; i < W; ++i) sums[chunk * s.C + first + i] = sum[i];
  });
}

template <bool Relu, class T>
void launch_column_sums(float* sums, T* dx, const T* x, const T* y, const Chunks& s, float scale, Stream stream) {
  gpu::launch_independent<column_sums<Relu, T>>(over_strips(s, stream), sums, dx, x, y, s, scale);
}

template <bool Relu, class T>
void sum_columns(float* db, T* dx, const T* dy, const T* y, long rows, int C, float scale, void* workspace, Stream stream) {
  const Chunks chunks = chunks_of(rows, C);
  if (chunks.count() == 1) return launch_column_sums<Relu>(db, dx, dy, y, chunks, scale, stream);
  float* sums = static_cast<float*>(workspace);
  launch_column_sums<Relu>(sums, dx, dy, y, chunks, scale, stream);
  launch_column_sums<false, float>(db, nullptr, sums, nullptr, {chunks.count(), chunks.count(), C}, 1, stream);
}

}  // namespace

template <class T>
void bias_forward(T* y, const T* x, const float* b, long rows, int C, bool relu, Stream stream) {
  const Rows s = rows_of(rows, C);
  if (relu)
    gpu::launch_independent<bias_rows<true, T>>(over_rows(s, stream), y, x, b, s);
  else
    gpu::launch_independent<bias_rows<false, T>>(over_rows(s, stream), y, x, b, s);
}
FOR_EACH_STORAGE(bias_forward);

std::size_t bias_backward_workspace(long rows, int C) {
  const Chunks chunks = chunks_of(rows, C);
  return chunks.count() == 1 ? 0 : chunks.count() * C * sizeof(float);
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
