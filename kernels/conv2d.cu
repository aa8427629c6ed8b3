// conv2d.cu - y_nhwk = b_k + sum_{i,j,c} w_kijc x_{n, h S - P + i, w S - P + j, c}, and the gradients of x and w.
// Groups (section 3.5 of the AlexNet paper: the filters of a tower see that tower's channels) split channels and filters.
//
// With the windows of x as rows of a matrix, the columns of im2col.cuh, each pass is one matrix product a group:
//
//   y  = columns w^T         (pixels, R) (R, K / groups)
//   dw = dy^T columns        (K / groups, pixels) (pixels, R)      R = KH * KW * C / groups
//   columns of dx = dy w     (pixels, K / groups) (K / groups, R), which col2im sums back into dx
//
// The columns are KH * KW / stride^2 times as large as x, so they are made for one slice of pixels at a time. Slices
// are fixed by the shape alone; on a CPU each is a task that makes its columns, multiplies and adds the bias while
// all of it is in the cache. A window of one pixel at stride 1 needs no columns: x and dx themselves are the matrix.
#include <algorithm>

#include "im2col.cuh"

namespace alexnet {
namespace {

// A slice has at most kSlicePixels pixels and kSliceBytes of columns; a pass has a multiple of kTasks slices, the weight
// gradient at most kChunks partial sums. On a GPU the launches of one slice fill the device, and slices follow one
// another. On a CPU a slice is large enough for an efficient product, small enough for the cache, and they give equal
// shares to 2 or 4 threads.
#ifdef __CUDACC__
constexpr long kSlicePixels = 1l << 30, kSliceBytes = 256 << 20, kTasks = 1, kChunks = 1;
#else
constexpr long kSlicePixels = 768, kSliceBytes = 32 << 20, kTasks = 4, kChunks = 8;
#endif

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
  im2col(scratch, x, s, first, pixels, stream);
  return {scratch, R, pixels * R};
}

// ---- launching

std::size_t conv2d_forward_workspace(const Conv2d& s, const Conv2dOptions&) { return gpu::lanes() * lane_bytes(s, pixel_slices(s).size); }

void conv2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2d& s, const Conv2dOptions& o, void* workspace,
                    Stream stream) {
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
      bias_forward(rows, rows, b, count, s.K, o.relu, stream);
    else if (o.relu)
      relu_forward(rows, rows, count * s.K, stream);
  });
}

std::size_t conv2d_backward_input_workspace(const Conv2d& s, const Conv2dOptions&) {
  const Bands bands = input_bands(s);
  return gpu::lanes() * lane_bytes(s, long(bands.images) * bands.column_rows * s.OW);
}

void conv2d_backward_input(float* dx, const float* dy, const float* w, const float* mask, const Conv2d& s, const Conv2dOptions&,
                           void* workspace, Stream stream) {
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
    const float* mask_of_images = mask ? mask + n * s.H * s.W * s.C : nullptr;
    if (pointwise(s)) {
      for (long g = 0; g < s.groups; ++g)
        multiply(images + g * G, rows + g * F, w + g * F * R, {int(pixels), R, F, false, false, s.K, R, s.C, 1, 0}, stream);
      if (mask) relu_backward(images, images, mask_of_images, pixels * s.C, stream);
      return;
    }
    float* columns = lane_scratch(workspace, s, long(bands.images) * bands.column_rows * s.OW, lane);
    for (long g = 0; g < s.groups; ++g)
      multiply(columns + g * pixels * R, rows + g * F, w + g * F * R, {int(pixels), R, F, false, false, s.K, R, R, 1, 0}, stream);
    col2im(images, columns, mask_of_images, s, band, stream);
  });
}

std::size_t conv2d_backward_weight_workspace(const Conv2d& s, const Conv2dOptions&) {
  const Cut chunks = weight_chunks(s);
  return std::max(partials_bytes(s, chunks) + gpu::lanes() * lane_bytes(s, chunk_slices(s, chunks).size),
                  bias_backward_workspace(pixels(s), s.K));
}

void conv2d_backward_weight(float* dw, float* db, const float* dy, const float* x, const Conv2d& s, const Conv2dOptions&, void* workspace,
                            Stream stream) {
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
  if (db) bias_backward(db, dy, pixels(s), s.K, workspace, stream);
}

bool takes_all(const Conv2d&, const Conv2dOptions&) { return true; }

}  // namespace

Conv2dWay<float> conv2d() {
  return {{takes_all, conv2d_forward_workspace, conv2d_forward},
          {takes_all, conv2d_backward_input_workspace, conv2d_backward_input},
          {takes_all, conv2d_backward_weight_workspace, conv2d_backward_weight}};
}

}  // namespace alexnet
