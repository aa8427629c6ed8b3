// implicit_conv2d.cu - the convolution of conv2d.cu on tensor cores: y_nhwk = b_k + sum_{i,j,c} w_kijc x_{n, h S - P + i,
// w S - P + j, c} and the gradients of x and w, operands rounded to tf32 or bf16.
//
// The same three products as there, each group of channels for itself, but no matrix of columns is ever written: the
// loader of tensor_core.cuh asks where element (row, column) of such a matrix lies in the image, and copies it from there.
//
//   y  = windows w^T            (pixels of y, R) (R, filters)                        R = KH * KW * channels
//   dw = dy^T windows           (filters, pixels of y) (pixels of y, R)
//   dx = gradients w'           (pixels of x, KH * KW * filters) (.., channels)
//
// A row of `gradients` is what a pixel of x went into: for each position (i, j) of a window dy at the one pixel of y
// whose window has this pixel there, or zeros if there is none. So dx is gathered, and each value is written once. At
// stride S only one in S^2 of these positions is not zero.
#include <climits>

#include "tensor_core.cuh"

namespace alexnet {
namespace {

// Rows are pixels of y, columns the values (i, j, c) of the window of x that a pixel sees.
template <class T>
struct Windows {
  using Element = T;
  const T* data;
  long group;
  unsigned rows, columns;
  int H, W, C, stride_h, stride_w, pad_top, pad_left;
  Divisor height, width, taps, channels;  // OH, OW, KW, C / groups

  struct Row {
    long offset;
    int h, w;  // of the window's first pixel
  };
  struct Column {
    int i, j;
    long offset;
  };
  // h = -2^31 and j = -2^31 lie outside whatever is added to them, as unsigned numbers.
  __device__ __forceinline__ Row row(unsigned r) const {
    if (r >= rows) return {0, INT_MIN, 0};
    const unsigned line = width.quotient(r), n = height.quotient(line);
    const int h = int(line - n * height.divisor) * stride_h - pad_top, w = int(r - line * width.divisor) * stride_w - pad_left;
    return {((long(n) * H + h) * W + w) * C, h, w};
  }
  __device__ __forceinline__ Column column(unsigned c) const {
    if (c >= columns) return {0, INT_MIN, 0};
    const unsigned tap = channels.quotient(c), i = taps.quotient(tap), j = tap - i * taps.divisor;
    return {int(i), int(j), (long(i) * W + j) * C + (c - tap * channels.divisor)};
  }
  __device__ __forceinline__ const T* at(const Row& r, const Column& c) const {
    const bool inside = unsigned(r.h) + unsigned(c.i) < unsigned(H) && unsigned(r.w) + unsigned(c.j) < unsigned(W);
    return inside ? data + (r.offset + c.offset) : nullptr;
  }
};

// Rows are pixels of x, columns the values (i, j, f) of the pixels of y that see it.
template <class T>
struct Gradients {
  using Element = T;
  const T* data;
  long group;
  unsigned rows, columns;
  int OH, OW, K, pad_top, pad_left;
  Divisor height, width, taps, filters, stride_h, stride_w;  // H, W, KW, K / groups

  struct Row {
    long offset;
    int h, w;  // in the padded image
  };
  struct Column {
    int i, j, f;
  };
  __device__ __forceinline__ Row row(unsigned r) const {
    if (r >= rows) return {0, -1, -1};
    const unsigned line = width.quotient(r), n = height.quotient(line);
    return {long(n) * OH * OW * K, int(line - n * height.divisor) + pad_top, int(r - line * width.divisor) + pad_left};
  }
  __device__ __forceinline__ Column column(unsigned c) const {
    if (c >= columns) return {INT_MAX, 0, 0};
    const unsigned tap = filters.quotient(c), i = taps.quotient(tap);
    return {int(i), int(tap - i * taps.divisor), int(c - tap * filters.divisor)};
  }
  __device__ __forceinline__ const T* at(const Row& r, const Column& c) const {
    const int h = r.h - c.i, w = r.w - c.j;
    if (h < 0 || w < 0) return nullptr;
    const unsigned oh = stride_h.quotient(h), ow = stride_w.quotient(w);
    const bool seen =
        oh * stride_h.divisor == unsigned(h) && ow * stride_w.divisor == unsigned(w) && oh < unsigned(OH) && ow < unsigned(OW);
    return seen ? data + (r.offset + long(oh * OW + ow) * K + c.f) : nullptr;
  }
};

// Rows are (i, j, f), columns the channels: w_fijc.
template <class T>
struct Filters {
  using Element = T;
  const T* data;
  long group;
  unsigned rows, columns;
  int size;         // of a filter
  Divisor filters;  // K / groups

  using Row = long;
  using Column = int;
  __device__ __forceinline__ Row row(unsigned r) const {
    if (r >= rows) return -1;
    const unsigned tap = filters.quotient(r);
    return long(r - tap * filters.divisor) * size + long(tap) * columns;
  }
  __device__ __forceinline__ Column column(unsigned c) const { return c < columns ? int(c) : -1; }
  __device__ __forceinline__ const T* at(Row r, Column c) const { return r >= 0 && c >= 0 ? data + (r + c) : nullptr; }
};

long pixels(const Conv2d& s) { return long(s.N) * s.OH * s.OW; }
int channels(const Conv2d& s) { return s.C / s.groups; }
int filters(const Conv2d& s) { return s.K / s.groups; }
int filter_size(const Conv2d& s) { return s.KH * s.KW * channels(s); }

Product forward_product(const Conv2d& s) { return {pixels(s), filters(s), filter_size(s), s.groups, pixels(s), s.K}; }
Product weight_product(const Conv2d& s) { return {filters(s), filter_size(s), pixels(s), s.groups, s.K, filter_size(s)}; }
Product input_product(const Conv2d& s) {
  const long rows = long(s.N) * s.H * s.W;
  return {rows, channels(s), long(s.KH) * s.KW * filters(s), s.groups, rows, s.C};
}

template <class T>
Windows<T> windows(const T* x, const Conv2d& s) {
  return {x,
          channels(s),
          unsigned(pixels(s)),
          unsigned(filter_size(s)),
          s.H,
          s.W,
          s.C,
          s.stride_h,
          s.stride_w,
          s.pad_top,
          s.pad_left,
          Divisor(s.OH),
          Divisor(s.OW),
          Divisor(s.KW),
          Divisor(channels(s))};
}
template <class T>
Matrix<T> rows_of(const T* y, const Conv2d& s) {
  return {y, s.K, filters(s), unsigned(pixels(s)), unsigned(filters(s))};
}

// ---- launching

template <class T>
std::size_t implicit_conv2d_forward_workspace(const Conv2d& s, const Conv2dOptions&) {
  return workspace_bytes(forward_product(s));
}

template <class T>
void implicit_conv2d_forward(T* y, const T* x, const T* w, const float* b, const Conv2d& s, const Conv2dOptions& o, void* workspace,
                             Stream stream) {
  const int R = filter_size(s);
  const Matrix<T> rows{w, R, long(filters(s)) * R, unsigned(filters(s)), unsigned(R)};
  const bool wide = channels(s) % kRun<T> == 0 && aligned(x) && aligned(w);
  product<true, true>({y, s.K, filters(s), b, 1, 0, o.relu, std::is_same_v<T, bfloat16>}, windows(x, s), rows, forward_product(s), wide,
                      o.precision, workspace, stream);
}

template <class T>
std::size_t implicit_conv2d_backward_input_workspace(const Conv2d& s, const Conv2dOptions&) {
  return workspace_bytes(input_product(s));
}

template <class T>
void implicit_conv2d_backward_input(T* dx, const T* dy, const T* w, const T* mask, const Conv2d& s, const Conv2dOptions& o, void* workspace,
                                    Stream stream) {
  const Product p = input_product(s);
  const Gradients<T> gradients{dy,           filters(s),    unsigned(p.M),       unsigned(p.K),       s.OH,
                               s.OW,         s.K,           s.pad_top,           s.pad_left,          Divisor(s.H),
                               Divisor(s.W), Divisor(s.KW), Divisor(filters(s)), Divisor(s.stride_h), Divisor(s.stride_w)};
  const Filters<T> taps{w, long(filters(s)) * filter_size(s), unsigned(p.K), unsigned(channels(s)), filter_size(s), Divisor(filters(s))};
  const bool wide = filters(s) % kRun<T> == 0 && channels(s) % kRun<T> == 0 && aligned(dy) && aligned(w);
  product<true, false>({dx, s.C, channels(s), nullptr, 1, 0, false, std::is_same_v<T, bfloat16>, mask}, gradients, taps, p, wide,
                       o.precision, workspace, stream);
}

template <class T>
std::size_t implicit_conv2d_backward_weight_workspace(const Conv2d& s, const Conv2dOptions&) {
  return workspace_bytes(weight_product(s), true);
}

template <class T>
void implicit_conv2d_backward_weight(float* dw, float* db, const T* dy, const T* x, const Conv2d& s, const Conv2dOptions& o,
                                     void* workspace, Stream stream) {
  const int R = filter_size(s);
  const bool wide = filters(s) % kRun<T> == 0 && channels(s) % kRun<T> == 0 && aligned(dy) && aligned(x);
  product<false, false>({dw, R, long(filters(s)) * R, nullptr, 1, 0, false, false, nullptr, db}, rows_of(dy, s), windows(x, s),
                        weight_product(s), wide, o.precision, workspace, stream);
}

bool takes_all(const Conv2d&, const Conv2dOptions&) { return true; }
bool backward_input_takes(const Conv2d& s, const Conv2dOptions&) { return double(s.N) * s.H * s.W <= INT_MAX; }

}  // namespace

template <class T>
Conv2dWay<T> implicit_conv2d() {
  return {{takes_all, implicit_conv2d_forward_workspace<T>, implicit_conv2d_forward<T>},
          {backward_input_takes, implicit_conv2d_backward_input_workspace<T>, implicit_conv2d_backward_input<T>},
          {takes_all, implicit_conv2d_backward_weight_workspace<T>, implicit_conv2d_backward_weight<T>}};
}
FOR_EACH_STORAGE(implicit_conv2d);

}  // namespace alexnet
