// batch_norm.cu - batch normalisation (Ioffe and Szegedy 2015) over a matrix (rows, C), C the channels:
//
//   y = gamma (x - mean) r + beta,   r = (variance + epsilon)^-1/2
//
// In training mean and variance are those of the rows (the variance divided by rows), and the running statistics follow
// them: running <- momentum running + (1 - momentum) batch. In a test the running statistics take their place. Gradients:
//
//   dbeta = sum dy,   dgamma = sum dy (x - mean) r
//   dx = gamma r (dy - (dbeta + (x - mean) r dgamma) / rows) in training, gamma r dy in a test
//
// Sums go over chunks of rows first, then over the chunks (columns.cuh).
#include "columns.cuh"

namespace alexnet {
namespace {

constexpr int kStrip = 16;

// Mean and sum of squared deviations of each channel over a chunk. The second pass finds the chunk in the cache.
template <class T>
__global__ void chunk_moments(float* __restrict__ means, float* __restrict__ squares, const T* __restrict__ x, Chunks s) {
  for_each_strip<kStrip>(s, [&](long chunk, int c, auto width) {
    constexpr int W = decltype(width)::value;
    const long rows = s.size(chunk);
    const T* from = x + chunk * s.chunk_rows * s.C + c;
    float mean[W] = {}, square[W] = {};
    for (long r = 0; r < rows; ++r) {
      UNROLL
      for (int e = 0; e < W; ++e) mean[e] += float(from[r * s.C + e]);
    }
    UNROLL
    for (int e = 0; e < W; ++e) mean[e] /= float(rows);
    for (long r = 0; r < rows; ++r) {
      UNROLL
      for (int e = 0; e < W; ++e) {
        const float d = float(from[r * s.C + e]) - mean[e];
        square[e] += d * d;
      }
    }
    UNROLL
    for (int e = 0; e < W; ++e) means[chunk * s.C + c + e] = mean[e], squares[chunk * s.C + c + e] = square[e];
  });
}

// A thread owns one channel: it joins the chunks' moments, one after the other (Chan, Golub and LeVeque 1979), and moves
// the running statistics.
__global__ void join_moments(float* __restrict__ mean, float* __restrict__ r, float* __restrict__ running_mean,
                             float* __restrict__ running_variance, const float* __restrict__ means, const float* __restrict__ squares,
                             Chunks s, float momentum, float epsilon) {
  for (long c : gpu::grid_range(s.C)) {
    float m = 0, square = 0, rows = 0;
    for (long chunk = 0; chunk < s.count(); ++chunk) {
      const float n = s.size(chunk), d = means[chunk * s.C + c] - m, share = n / (rows + n);
      m += d * share;
      square += squares[chunk * s.C + c] + d * d * rows * share;
      rows += n;
    }
    const float variance = square / float(s.rows);
    mean[c] = m;
    r[c] = rsqrtf(variance + epsilon);
    running_mean[c] = momentum * running_mean[c] + (1 - momentum) * m;
    running_variance[c] = momentum * running_variance[c] + (1 - momentum) * variance;
  }
}

__global__ void take_running(float* mean, float* r, const float* running_mean, const float* running_variance, int C, float epsilon) {
  for (long c : gpu::grid_range(C)) {
    mean[c] = running_mean[c];
    r[c] = rsqrtf(running_variance[c] + epsilon);
  }
}

// Sums of dy and of dy (x - mean) r over a chunk.
template <class T>
__global__ void chunk_gradients(float* __restrict__ sums, float* __restrict__ products, const T* __restrict__ dy, const T* __restrict__ x,
                                const float* __restrict__ mean, const float* __restrict__ r, Chunks s) {
  for_each_strip<kStrip>(s, [&](long chunk, int c, auto width) {
    constexpr int W = decltype(width)::value;
    const long rows = s.size(chunk), at = chunk * s.chunk_rows * s.C + c;
    float sum[W] = {}, product[W] = {}, m[W];
    UNROLL
    for (int e = 0; e < W; ++e) m[e] = mean[c + e];
    for (long row = 0; row < rows; ++row) {
      UNROLL
      for (int e = 0; e < W; ++e) {
        const float d = dy[at + row * s.C + e];
        sum[e] += d;
        product[e] += d * (float(x[at + row * s.C + e]) - m[e]);
      }
    }
    UNROLL
    for (int e = 0; e < W; ++e) sums[chunk * s.C + c + e] = sum[e], products[chunk * s.C + c + e] = product[e] * r[c + e];
  });
}

__global__ void join_gradients(float* __restrict__ dbeta, float* __restrict__ dgamma, const float* __restrict__ sums,
                               const float* __restrict__ products, Chunks s) {
  for (long c : gpu::grid_range(s.C)) {
    float sum = 0, product = 0;
    for (long chunk = 0; chunk < s.count(); ++chunk) sum += sums[chunk * s.C + c], product += products[chunk * s.C + c];
    dbeta[c] = sum, dgamma[c] = product;
  }
}

template <class T>
__global__ void normalise_rows(T* __restrict__ y, const T* __restrict__ x, const float* __restrict__ gamma, const float* __restrict__ beta,
                               const float* __restrict__ mean, const float* __restrict__ r, Rows s) {
  for_each_value(s, [&](long row, int c) { y[row * s.C + c] = (float(x[row * s.C + c]) - mean[c]) * (gamma[c] * r[c]) + beta[c]; });
}

template <bool Training, class T>
__global__ void gradient_rows(T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ gamma,
                              const float* __restrict__ mean, const float* __restrict__ r, const float* __restrict__ dgamma,
                              const float* __restrict__ dbeta, Rows s) {
  const float share = 1.0f / float(s.rows);
  for_each_value(s, [&](long row, int c) {
    float d = dy[row * s.C + c];
    if (Training) d -= (dbeta[c] + (float(x[row * s.C + c]) - mean[c]) * r[c] * dgamma[c]) * share;
    dx[row * s.C + c] = gamma[c] * r[c] * d;
  });
}

}  // namespace

std::size_t batch_norm_workspace(long rows, int C) { return 2 * chunks_of(rows, C).count() * C * sizeof(float); }

template <class T>
void batch_norm_forward(T* y, float* mean, float* r, float* running_mean, float* running_variance, const T* x, const float* gamma,
                        const float* beta, long rows, int C, float momentum, float epsilon, bool training, void* workspace, Stream stream) {
  if (training) {
    const Chunks chunks = chunks_of(rows, C);
    float *means = static_cast<float*>(workspace), *squares = means + chunks.count() * C;
    gpu::launch_independent<chunk_moments<T>>(over_strips(chunks, stream), means, squares, x, chunks);
    gpu::launch_independent<join_moments>(flat(C, stream), mean, r, running_mean, running_variance, means, squares, chunks, momentum,
                                          epsilon);
  } else {
    gpu::launch_independent<take_running>(flat(C, stream), mean, r, running_mean, running_variance, C, epsilon);
  }
  const Rows s = rows_of(rows, C);
  gpu::launch_independent<normalise_rows<T>>(over_rows(s, stream), y, x, gamma, beta, mean, r, s);
}
FOR_EACH_STORAGE(batch_norm_forward);

template <class T>
void batch_norm_backward(T* dx, float* dgamma, float* dbeta, const T* dy, const T* x, const float* gamma, const float* mean, const float* r,
                         long rows, int C, bool training, void* workspace, Stream stream) {
  const Chunks chunks = chunks_of(rows, C);
  float *sums = static_cast<float*>(workspace), *products = sums + chunks.count() * C;
  gpu::launch_independent<chunk_gradients<T>>(over_strips(chunks, stream), sums, products, dy, x, mean, r, chunks);
  gpu::launch_independent<join_gradients>(flat(C, stream), dbeta, dgamma, sums, products, chunks);
  const Rows s = rows_of(rows, C);
  if (training)
    gpu::launch_independent<gradient_rows<true, T>>(over_rows(s, stream), dx, dy, x, gamma, mean, r, dgamma, dbeta, s);
  else
    gpu::launch_independent<gradient_rows<false, T>>(over_rows(s, stream), dx, dy, x, gamma, mean, r, dgamma, dbeta, s);
}
FOR_EACH_STORAGE(batch_norm_backward);

}  // namespace alexnet
