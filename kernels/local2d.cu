// local2d.cu - convolution whose filters are not shared (cuda-convnet's "local" layers): every pixel of y has its own.
//
//   y_nhwk = b_hwk + sum_{i,j,c} w_hwkijc x_{n, h S - P + i, w S - P + j, c}
//
// With the columns of im2col.cuh each pass is one matrix product a pixel p and group, over the images:
//
//   y_p  = columns_p w_p^T         (N, R) (R, K / groups)
//   dw_p = dy_p^T columns_p        (K / groups, N) (N, R)          R = KH * KW * C / groups
//   columns_p of dx = dy_p w_p     (N, K / groups) (K / groups, R), which col2im sums back into dx
//
// The columns of whole images are made for one slice of the batch at a time; on a CPU a task multiplies for one pixel.
#include "im2col.cuh"

namespace alexnet {
namespace {

constexpr long kSliceBytes = 256 << 20;

int features(const Conv2d& s) { return s.KH * s.KW * (s.C / s.groups); }
long image_columns(const Conv2d& s) { return long(s.OH) * s.OW * s.KH * s.KW * s.C; }
// Images whose columns are made at a time.
int slice_images(const Conv2d& s) { return int(std::min<long>(s.N, std::max(1l, kSliceBytes / (image_columns(s) * long(sizeof(float)))))); }

// What is multiplied for pixel p and group g: rows of y (or dy), filters, columns; rows follow each other in steps of
// ld_y and ld_columns, one an image.
struct Product {
  long y, w, columns, ld_y, ld_columns;
};
template <class F>
void for_each_product(const Conv2d& s, int images, F f) {
  const long P = long(s.OH) * s.OW, G = s.groups, K = s.K / G, R = features(s);
  gpu::for_each_task(P * G, [&](long task, int) {
    const long p = task / G, g = task % G;
    f(Product{p * s.K + g * K, (p * s.K + g * K) * R, (g * images * P + p) * R, P * s.K, P * R});
  });
}

}  // namespace

std::size_t local2d_workspace(const Conv2d& s) { return slice_images(s) * image_columns(s) * sizeof(float); }

void local2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2d& s, bool relu, void* workspace, Stream stream) {
  float* columns = static_cast<float*>(workspace);
  const long P = long(s.OH) * s.OW;
  const int F = s.K / s.groups, R = features(s), most = slice_images(s);
  for (int n = 0; n < s.N; n += most) {
    const int images = std::min(most, s.N - n);
    float* rows = y + n * P * s.K;
    im2col(columns, x, s, n * P, images * P, stream);
    for_each_product(s, images, [&](const Product& p) {
      multiply(rows + p.y, columns + p.columns, w + p.w, {images, F, R, false, true, p.ld_columns, R, p.ld_y, 1, 0}, stream);
    });
  }
  if (b)
    bias_forward(y, y, b, s.N, int(P * s.K), relu, stream);
  else if (relu)
    relu_forward(y, y, s.N * P * s.K, stream);
}

void local2d_backward_input(float* dx, const float* dy, const float* w, const Conv2d& s, void* workspace, Stream stream) {
  float* columns = static_cast<float*>(workspace);
  const long P = long(s.OH) * s.OW;
  const int F = s.K / s.groups, R = features(s), most = slice_images(s);
  for (int n = 0; n < s.N; n += most) {
    const int images = std::min(most, s.N - n);
    const float* rows = dy + n * P * s.K;
    for_each_product(s, images, [&](const Product& p) {
      multiply(columns + p.columns, rows + p.y, w + p.w, {images, R, F, false, false, p.ld_y, R, p.ld_columns, 1, 0}, stream);
    });
    col2im(dx + long(n) * s.H * s.W * s.C, columns, nullptr, s, {images, 0, s.H, 0, s.OH}, stream);
  }
}

void local2d_backward_weight(float* dw, const float* dy, const float* x, const Conv2d& s, void* workspace, Stream stream) {
  float* columns = static_cast<float*>(workspace);
  const long P = long(s.OH) * s.OW;
  const int F = s.K / s.groups, R = features(s), most = slice_images(s);
  for (int n = 0; n < s.N; n += most) {
    const int images = std::min(most, s.N - n);
    const float* rows = dy + n * P * s.K;
    im2col(columns, x, s, n * P, images * P, stream);
    for_each_product(s, images, [&](const Product& p) {
      multiply(dw + p.w, rows + p.y, columns + p.columns, {F, R, images, true, false, p.ld_y, p.ld_columns, R, 1, n ? 1.0f : 0.0f}, stream);
    });
  }
}

}  // namespace alexnet
