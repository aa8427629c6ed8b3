// im2col.cuh - the columns of convolution, shared (conv2d.cu) or not (local2d.cu): im2col lays out, for each pixel of y,
// the window of x that it sees: a row of R = KH * KW * C / groups values for each group, in the order of a filter's
// values. col2im sums such columns back into x.
#pragma once
#include <algorithm>

#include "task_product.cuh"

namespace alexnet {
namespace {

#ifdef __CUDACC__
constexpr int kColumnStrip = 1;  // neighbouring threads have neighbouring channels
#else
constexpr int kColumnStrip = 16;  // the one thread of a block sums in vector registers
#endif

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
__global__ void col2im_gather(float* __restrict__ dx, const float* __restrict__ columns, const float* __restrict__ mask, Conv2d s,
                              Band band) {
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
    const long to = ((long(n) * s.H + h) * s.W + w) * s.C + c;
    if (mask) {
      UNROLL
      for (int e = 0; e < Width; ++e) sum[e] = mask[to + e] <= 0 ? 0 : sum[e];
    }
    UNROLL
    for (int e = 0; e < Width; ++e) dx[to + e] = sum[e];
  }
}

// The columns of `pixels` pixels of y from `first` on: (groups, pixels, R).
void im2col(float* columns, const float* x, const Conv2d& s, long first, long pixels, Stream stream) {
  const int G = s.C / s.groups, run = s.groups == 1 ? s.KW * G : G, width = int(std::min(round_up(run, 32), 256l));
  const long image = first / (long(s.OH) * s.OW);
  gpu::launch_independent<im2col_window>({dim3(unsigned(pixels), s.groups), dim3(width, 256 / width), 0, stream}, columns,
                                         x + image * s.H * s.W * s.C, s, int(first - image * s.OH * s.OW));
}

// The part of dx in `band` from the columns of its pixels of y, 0 where mask (may be null) is not above 0.
void col2im(float* dx, const float* columns, const float* mask, const Conv2d& s, const Band& band, Stream stream) {
  const gpu::Launch launch{dim3(unsigned(band.images * band.rows * s.W)), dim3(unsigned(std::min(round_up(s.C, 32), 256l))), 0, stream};
  if (s.C / s.groups % kColumnStrip == 0)
    gpu::launch_independent<col2im_gather<kColumnStrip>>(launch, dx, columns, mask, s, band);
  else
    gpu::launch_independent<col2im_gather<1>>(launch, dx, columns, mask, s, band);
}

}  // namespace
}  // namespace alexnet
