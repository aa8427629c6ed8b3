// conv2d.cu - y_nhwk = b_k + sum_{i,j,c} w_kijc x_{n, h S - P + i, w S - P + j, c}, and the gradients of x and w.
// Groups (section 3.5 of the AlexNet paper: the filters of a tower see that tower's channels) split channels and filters.
//
// im2col lays out, for each pixel of y, the window of x that it sees: a row of KH * KW * C / groups values for each
// group, in the order of a filter's values. Then each pass is one matrix product a group:
//
//   y  = columns w^T         (pixels, R) (R, K / groups)
//   dw = dy^T columns        (K / groups, pixels) (pixels, R)      R = KH * KW * C / groups
//   columns of dx = dy w     (pixels, K / groups) (K / groups, R), which col2im sums back into dx
//
// The columns are KH * KW / stride^2 times as large as x, so they are made for one slice of pixels at a time. Slices
// are fixed by the shape alone; on a CPU each is a task that makes its columns, multiplies and adds the bias while
// all of it is in the cache. A window of one pixel at stride 1 needs no columns: x and dx themselves are the matrix.
#include <algorithm>

#include "kernels.h"
#include "platform/gpu.cuh"

namespace alexnet {
namespace {

// A slice has at most kSlicePixels pixels and kSliceBytes of columns; a pass has a multiple of kTasks slices, the weight
// gradient at most kChunks partial sums. On a GPU the launches of one slice fill the device, and slices follow one
// another. On a CPU a slice is large enough for an efficient product, small enough for the cache, and they give equal
// shares to 2 or 4 threads.
#ifdef __CUDACC__
constexpr long kSlicePixels = 1l << 30, kSliceBytes = 256 << 20, kTasks = 1, kChunks = 1;
constexpr int kStrip = 1;  // neighbouring threads have neighbouring channels
#else
constexpr long kSlicePixels = 768, kSliceBytes = 32 << 20, kTasks = 4, kChunks = 8;
constexpr int kStrip = 16;  // the one thread of a block sums in vector registers
#endif

constexpr long ceil_div(long n, long d) { return (n + d - 1) / d; }
constexpr long round_up(long n, long multiple) { return ceil_div(n, multiple) * multiple; }

// ---- im2col and col2im

// A block owns the window of one pixel of y in one group (blockIdx.y). With one group the pixels of a row of the window
// are neighbours in x as well as in the column and make one run of KW * C values, else only the channels of a pixel do.
// Threads along x copy a run, neighbours its neighbouring values; threads along y have different rows of the window.
__global__ void im2col_window(float* __restrict__ columns, const float* __restrict__ x, Conv2d s, int first) {
  const int G = s.C / s.groups, width = s.groups == 1 ? s.KW : 1, run = width * G;
  const int pixel = first + blockIdx.x, ow = pixel % s.OW, oh = pixel / s.OW % s.OH;
  const float* image = x + long(pixel / s.OW / s.OH) * s.H * s.W * s.C + blockIdx.y * G;
  float* column = columns + (long(blockIdx.y) * gridDim.x + blockIdx.x) * s.KH * s.KW * G;
  for (int i = threadIdx.y; i < s.KH; i += blockDim.y)
    for (int j = 0; j < s.KW; j += width) {
      const int h = oh * s.stride_h - s.pad_top + i, w = ow * s.stride_w - s.pad_left + j;
      const bool outside = h < 0 || h >= s.H || w + width <= 0 || w >= s.W;
      const int begin = outside ? run : w < 0 ? -w * G : 0, end = outside || s.W - w > width ? run : (s.W - w) * G;
      const long from = (long(h) * s.W + w) * s.C;
      float* to = column + (i * s.KW + j) * G;
      for (int r = threadIdx.x; r < begin; r += blockDim.x) to[r] = 0;
      for (int r = begin + threadIdx.x; r < end; r += blockDim.x) to[r] = image[from + r];
      for (int r = end + threadIdx.x; r < run; r += blockDim.x) to[r] = 0;
    }
}

// The windows that cover position i of an axis of x: from `first_window` to before `last_window`.
__host__ __device__ inline int first_window(int i, int size, int stride, int pad) {
  return i + pad < size ? 0 : (i + pad - size) / stride + 1;
}
__host__ __device__ inline int last_window(int i, int stride, int pad, int windows) {
  const int last = (i + pad) / stride + 1;
  return last < windows ? last : windows;
}

// The part of dx that one task computes: `rows` rows from h on of each of `images` images, and the `column_rows` rows
// of y from oh on that it gathers from.
struct Band {
  int images, h, rows, oh, column_rows;
};

// A block owns one pixel of dx, a thread Width of its channels; it sums what the windows over the pixel have for it. A
// warp reads consecutive channels of one window's column at a time. No two threads write the same value.
template <int Width>
__global__ void col2im_gather(float* __restrict__ dx, const float* __restrict__ columns, Conv2d s, Band band) {
  const int G = s.C / s.groups, R = s.KH * s.KW * G;
  const int w = blockIdx.x % s.W, h = band.h + blockIdx.x / s.W % band.rows, n = blockIdx.x / s.W / band.rows;
  const int oh_begin = first_window(h, s.KH, s.stride_h, s.pad_top), oh_end = last_window(h, s.stride_h, s.pad_top, s.OH);
  const int ow_begin = first_window(w, s.KW, s.stride_w, s.pad_left), ow_end = last_window(w, s.stride_w, s.pad_left, s.OW);
  const long pixels = long(band.images) * band.column_rows * s.OW;
  for (int c = threadIdx.x * Width; c < s.C; c += blockDim.x * Width) {
    const float* group = columns + c / G * pixels * R + c % G;
    float sum[Width] = {};
    for (int oh = oh_begin; oh < oh_end; ++oh)
      for (int ow = ow_begin; ow < ow_end; ++ow) {
        const int i = h + s.pad_top - oh * s.stride_h, j = w + s.pad_left - ow * s.stride_w;
        const float* from = group + ((long(n) * band.column_rows + oh - band.oh) * s.OW + ow) * R + (i * s.KW + j) * G;
        UNROLL
        for (int e = 0; e < Width; ++e) sum[e] += from[e];
      }
    float* to = dx + ((long(n) * s.H + h) * s.W + w) * s.C + c;
    UNROLL
    for (int e = 0; e < Width; ++e) to[e] = sum[e];
  }
}

// ---- what a pass is cut into

// A filter of one pixel at stride 1: x and dx are their own columns.
bool pointwise(const Conv2d& s) {
  return s.KH == 1 && s.KW == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 && s.pad_left == 0 && s.OH == s.H && s.OW == s.W;
}
long pixels(const Conv2d& s) { return long(s.N) * s.OH * s.OW; }
long columns_bytes(const Conv2d& s, long pixels) { return pointwise(s) ? 0 : pixels * s.KH * s.KW * s.C * long(sizeof(float)); }
long weights(const Conv2d& s) { return long(s.K) * s.KH * s.KW * (s.C / s.groups); }

struct Cut {
  long count, size;  // the last part may be smaller
};
Cut evenly(long total, long count) {
  const long size = ceil_div(total, count);
  return {ceil_div(total, size), size};
}
// How many units of `unit` pixels a slice may have.
long most_units(const Conv2d& s, long unit) {
  return std::max(1l, std::min(kSlicePixels / unit, kSliceBytes / std::max(1l, columns_bytes(s, unit))));
}
Cut slices(const Conv2d& s, long total, long unit) {
  const long most = most_units(s, unit), least = std::min(most, ceil_div(64, unit));  // or the product mostly reads the filters
  return evenly(total, std::min(ceil_div(total, least), round_up(ceil_div(total, most), kTasks)));
}
Cut pixel_slices(const Conv2d& s) { return slices(s, pixels(s), 1); }

// The weight gradient is a sum over pixels. Each chunk of pixels has a partial sum of its own, to which the slices of the
// chunk add one after the other. Few pixels are not worth another sum, nor may the sums fill the memory.
Cut weight_chunks(const Conv2d& s) {
  constexpr long least_pixels = 512, most_weights = 32 << 20;
  long count = kChunks;
  while (count > 1 && (pixels(s) < least_pixels * count || count * weights(s) > most_weights)) count /= 2;
  return evenly(pixels(s), count);
}
Cut chunk_slices(const Conv2d& s, const Cut& chunks) { return evenly(chunks.size, ceil_div(chunks.size, most_units(s, 1))); }
long partials_bytes(const Conv2d& s, const Cut& chunks) {
  return chunks.count > 1 ? round_up(chunks.count * weights(s) * long(sizeof(float)), 256) : 0;
}

// The input gradient gathers from all windows over a pixel: slices are whole images, or bands of rows of images that are
// too large. A band of `rows` rows of x is seen by at most `column_rows` rows of y; neighbouring bands share some.
struct Bands {
  int images, rows, column_rows;
};
Bands input_bands(const Conv2d& s) {
  const long row_bytes = columns_bytes(s, s.OW);
  if (s.OH * row_bytes <= kSliceBytes) return {int(slices(s, s.N, s.OH * s.OW).size), s.H, s.OH};
  const long most = std::max(1l, kSliceBytes / row_bytes), rows = std::max(1l, (most - 1) * s.stride_h - s.KH + 2);
  return {1, int(rows), int(std::min<long>(s.OH, (rows + s.KH - 2) / s.stride_h + 1))};
}

// ---- columns of a slice

std::size_t lane_bytes(const Conv2d& s, long pixels) { return round_up(columns_bytes(s, pixels), 256); }
float* lane_scratch(void* workspace, const Conv2d& s, long pixels, int lane) {
  return reinterpret_cast<float*>(static_cast<char*>(workspace) + lane * lane_bytes(s, pixels));
}

struct Matrix {
  const float* data;
  long ld, group;  // from one pixel to the next, from one group to the next
};
Matrix columns_of(float* scratch, const float* x, const Conv2d& s, long first, long pixels, Stream stream) {
  const int G = s.C / s.groups, R = s.KH * s.KW * G;
  if (pointwise(s)) return {x + first * s.C, s.C, G};
  const long image = first / (s.OH * s.OW);
  const int run = s.groups == 1 ? s.KW * G : G, width = int(std::min(round_up(run, 32), 256l));
  gpu::launch_independent<im2col_window>({dim3(unsigned(pixels), s.groups), dim3(width, 256 / width), 0, stream}, scratch,
                                         x + image * s.H * s.W * s.C, s, int(first - image * s.OH * s.OW));
  return {scratch, R, pixels * R};
}

// A task's product. A BLAS does it whole, in the thread of the task, as other threads have tasks of their own.
void multiply(float* c, const float* a, const float* b, const Gemm& g, Stream stream) {
  if (!gpu::blas_sgemm(g.transpose_a, g.transpose_b, g.M, g.N, g.K, g.alpha, a, g.lda, b, g.ldb, g.beta, c, g.ldc))
    gemm(c, a, b, g, stream);
}

}  // namespace

std::size_t conv2d_forward_workspace(const Conv2d& s) { return gpu::lanes() * lane_bytes(s, pixel_slices(s).size); }

void conv2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2d& s, bool relu, void* workspace, Stream stream) {
  const Cut slices = pixel_slices(s);
  const int F = s.K / s.groups, R = s.KH * s.KW * (s.C / s.groups);
  gpu::for_each_task(slices.count, [&](long task, int lane) {
    const long first = task * slices.size, count = std::min(slices.size, pixels(s) - first);
    const Matrix columns = columns_of(lane_scratch(workspace, s, slices.size, lane), x, s, first, count, stream);
    float* rows = y + first * s.K;
    for (long g = 0; g < s.groups; ++g)
      multiply(rows + g * F, columns.data + g * columns.group, w + g * F * R, {int(count), F, R, false, true, columns.ld, R, s.K, 1, 0},
               stream);
    if (b)
      bias_forward(rows, rows, b, count, s.K, relu, stream);
    else if (relu)
      relu_forward(rows, rows, count * s.K, stream);
  });
}

std::size_t conv2d_backward_input_workspace(const Conv2d& s) {
  const Bands bands = input_bands(s);
  return gpu::lanes() * lane_bytes(s, long(bands.images) * bands.column_rows * s.OW);
}

void conv2d_backward_input(float* dx, const float* dy, const float* w, const Conv2d& s, void* workspace, Stream stream) {
  const Bands bands = input_bands(s);
  const int F = s.K / s.groups, G = s.C / s.groups, R = s.KH * s.KW * G;
  const long across = ceil_div(s.N, bands.images), down = ceil_div(s.H, bands.rows);
  gpu::for_each_task(across * down, [&](long task, int lane) {
    const long n = task / down * bands.images, h = task % down * bands.rows;
    Band band{int(std::min<long>(bands.images, s.N - n)), int(h), int(std::min<long>(bands.rows, s.H - h)), 0, s.OH};
    if (down > 1) {
      band.oh = first_window(band.h, s.KH, s.stride_h, s.pad_top);
      band.column_rows = std::max(0, last_window(band.h + band.rows - 1, s.stride_h, s.pad_top, s.OH) - band.oh);
    }
    const long pixels = long(band.images) * band.column_rows * s.OW;
    const float* rows = dy + (n * s.OH + band.oh) * s.OW * s.K;
    float* images = dx + n * s.H * s.W * s.C;
    if (pointwise(s)) {
      for (long g = 0; g < s.groups; ++g)
        multiply(images + g * G, rows + g * F, w + g * F * R, {int(pixels), R, F, false, false, s.K, R, s.C, 1, 0}, stream);
      return;
    }
    float* columns = lane_scratch(workspace, s, long(bands.images) * bands.column_rows * s.OW, lane);
    for (long g = 0; g < s.groups; ++g)
      multiply(columns + g * pixels * R, rows + g * F, w + g * F * R, {int(pixels), R, F, false, false, s.K, R, R, 1, 0}, stream);
    const gpu::Launch launch{dim3(unsigned(band.images * band.rows * s.W)), dim3(unsigned(std::min(round_up(s.C, 32), 256l))), 0, stream};
    if (G % kStrip == 0)
      gpu::launch_independent<col2im_gather<kStrip>>(launch, images, columns, s, band);
    else
      gpu::launch_independent<col2im_gather<1>>(launch, images, columns, s, band);
  });
}

std::size_t conv2d_backward_weight_workspace(const Conv2d& s) {
  const Cut chunks = weight_chunks(s);
  return partials_bytes(s, chunks) + gpu::lanes() * lane_bytes(s, chunk_slices(s, chunks).size);
}

void conv2d_backward_weight(float* dw, const float* dy, const float* x, const Conv2d& s, void* workspace, Stream stream) {
  const Cut chunks = weight_chunks(s), slices = chunk_slices(s, chunks);
  const int F = s.K / s.groups, R = s.KH * s.KW * (s.C / s.groups);
  float* partials = chunks.count > 1 ? static_cast<float*>(workspace) : dw;
  void* scratch = static_cast<char*>(workspace) + partials_bytes(s, chunks);
  gpu::for_each_task(chunks.count, [&](long task, int lane) {
    const long begin = task * chunks.size, end = std::min(begin + chunks.size, pixels(s));
    for (long first = begin; first < end; first += slices.size) {
      const long count = std::min(slices.size, end - first);
      const Matrix columns = columns_of(lane_scratch(scratch, s, slices.size, lane), x, s, first, count, stream);
      for (long g = 0; g < s.groups; ++g)
        multiply(partials + task * weights(s) + g * F * R, dy + first * s.K + g * F, columns.data + g * columns.group,
                 {F, R, int(count), true, false, s.K, columns.ld, R, 1, first > begin ? 1.0f : 0.0f}, stream);
    }
  });
  if (chunks.count > 1) bias_backward(dw, partials, chunks.count, int(weights(s)), nullptr, stream);  // the sum of the partial sums
}

}  // namespace alexnet
