// space_to_depth_conv2d.cu - the convolution of implicit_conv2d.cu for few channels, such as the three of a picture: blocks
// of S x S pixels, S the stride, become one pixel with S * S times the channels, and windows of K x K pixels at stride S
// windows of ceil(K / S) at stride 1, on the same tensor cores.
//
// What a window sees then lies in memory in runs of S * S * channels values, made a multiple of 16 bytes by zeros: they are
// copied 16 bytes at a time, where fewer than four channels (eight in bfloat16) have to be copied value by value. AlexNet's
// conv1, 227 x 227 x 3 at stride 4 with windows of 11, becomes 57 x 57 x 48 with windows of 3: 108 copies a window (54) for
// 363, on a third of the address arithmetic. For this x is written out once more, padding included, and w; dx and dw are
// brought back.
#include <climits>

#include "tensor_core.cuh"

namespace alexnet {
namespace {

// Images (N, H, W, C) in blocks: (N, rows, columns, groups, depth), where value ((a S + b) G + c) of a group is channel c of
// the group at pixel (a, b) of the block, and zero where there is no such pixel.
struct Blocks {
  int H, W, G, groups, pad_top, pad_left, rows, columns, depth;
  Divisor stride_h, stride_w, channels;  // channels: G
};

// A block owns `own` pixels of y. Threads along x make a run of neighbouring values each, those along y have different pixels.
template <class T>
__global__ void to_depth(T* __restrict__ y, const T* __restrict__ x, Blocks d, long pixels, int own) {
  const int runs = d.depth / kRun<T>, C = d.G * d.groups;
  for (int p = threadIdx.y; p < own && long(blockIdx.x) * own + p < pixels; p += blockDim.y) {
    const int pixel = int(blockIdx.x) * own + p, line = pixel / d.columns;
    const int w0 = pixel % d.columns * int(d.stride_w.divisor) - d.pad_left, h0 = line % d.rows * int(d.stride_h.divisor) - d.pad_top;
    const T* image = x + long(line / d.rows) * d.H * d.W * C;
    for (int i = threadIdx.x; i < d.groups * runs; i += blockDim.x) {
      const int group = i / runs;
      Vector<T, kRun<T>> v;
      UNROLL
      for (int e = 0; e < kRun<T>; ++e) {
        const unsigned r = unsigned(i - group * runs) * kRun<T> + e, part = d.channels.quotient(r), a = d.stride_w.quotient(part);
        const int h = h0 + int(a), w = w0 + int(part - a * d.stride_w.divisor), c = int(r - part * d.channels.divisor);
        const bool inside = a < d.stride_h.divisor && unsigned(h) < unsigned(d.H) && unsigned(w) < unsigned(d.W);
        v[e] = inside ? image[(long(h) * d.W + w) * C + group * d.G + c] : T(0.0f);
      }
      reinterpret_cast<Vector<T, kRun<T>>*>(y)[long(pixel) * d.groups * runs + i] = v;
    }
  }
}

// The way back: a block owns `own` pixels of x. What lies beyond all blocks is zero, as is x where mask (may be null) is not
// above zero.
template <class T>
__global__ void from_depth(T* __restrict__ x, const T* __restrict__ y, const T* __restrict__ mask, Blocks d, long pixels, int own) {
  const int C = d.G * d.groups;
  for (int p = threadIdx.y; p < own && long(blockIdx.x) * own + p < pixels; p += blockDim.y) {
    const int pixel = int(blockIdx.x) * own + p, line = pixel / d.W;
    const unsigned h = unsigned(line % d.H + d.pad_top), w = unsigned(pixel % d.W + d.pad_left);
    const unsigned row = d.stride_h.quotient(h), column = d.stride_w.quotient(w);
    const unsigned part = (h - row * d.stride_h.divisor) * d.stride_w.divisor + w - column * d.stride_w.divisor;
    const bool inside = row < unsigned(d.rows) && column < unsigned(d.columns);
    const T* from = y + ((long(line / d.H) * d.rows + row) * d.columns + column) * d.groups * d.depth + long(part) * d.G;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
      const long to = long(pixel) * C + c;
      x[to] = inside && !(mask && float(mask[to]) <= 0) ? from[c / d.G * d.depth + c % d.G] : T(0.0f);
    }
  }
}

int windows_of(int size, int stride) { return int(ceil_div(size, stride)); }
template <class T>
long depth_of(const Conv2d& s) {
  return ceil_div(long(s.stride_h) * s.stride_w * (s.C / s.groups), kRun<T>) * kRun<T>;
}

template <class T>
Blocks blocks_of_images(const Conv2d& s) {
  const Conv2d t = space_to_depth_conv2d_blocks<T>(s);
  const int G = s.C / s.groups;
  return {s.H, s.W, G, s.groups, s.pad_top, s.pad_left, t.H, t.W, t.C / t.groups, Divisor(s.stride_h), Divisor(s.stride_w), Divisor(G)};
}
template <class T>
Blocks blocks_of_filters(const Conv2d& s) {  // as K images of one group
  const Conv2d t = space_to_depth_conv2d_blocks<T>(s);
  const int G = s.C / s.groups;
  return {s.KH, s.KW, G, 1, 0, 0, t.KH, t.KW, t.C / t.groups, Divisor(s.stride_h), Divisor(s.stride_w), Divisor(G)};
}

// launch(configuration, own) for `across` items in each of so many pixels, of which a block gets `own`.
template <class Launch>
void over(long pixels, int across, Stream stream, Launch launch) {
  const int x = std::min(across, 256), own = 256 / x;
  launch(gpu::Launch{dim3(unsigned(ceil_div(pixels, own))), dim3(x, own), 0, stream}, own);
}
template <class T>
void launch_to_depth(T* y, const T* x, const Blocks& d, long images, Stream stream) {
  const long pixels = images * d.rows * d.columns;
  over(pixels, d.groups * d.depth / kRun<T>, stream,
       [&](const gpu::Launch& launch, int own) { gpu::launch_independent<to_depth<T>>(launch, y, x, d, pixels, own); });
}
template <class T>
void launch_from_depth(T* x, const T* y, const T* mask, const Blocks& d, long images, Stream stream) {
  const long pixels = images * d.H * d.W;
  over(pixels, d.G * d.groups, stream,
       [&](const gpu::Launch& launch, int own) { gpu::launch_independent<from_depth<T>>(launch, x, y, mask, d, pixels, own); });
}

// The workspace: images in blocks, filters in blocks, what the product needs. The gradient of filters is float32.
long images_size(const Conv2d& t) { return long(t.N) * t.H * t.W * t.C; }
long filters_size(const Conv2d& t) { return long(t.K) * t.KH * t.KW * (t.C / t.groups); }
template <class T, class W>
struct Workspace {
  T* images;
  W* filters;
  void* rest;
  Workspace(void* workspace, const Conv2d& t)
      : images(static_cast<T*>(workspace)), filters(reinterpret_cast<W*>(images + images_size(t))), rest(filters + filters_size(t)) {}
  static std::size_t bytes(const Conv2d& t) { return images_size(t) * sizeof(T) + filters_size(t) * sizeof(W); }
};

// Whether what kernels count in the convolution of blocks fits an int.
template <class T>
bool countable(const Conv2d& s) {
  const long depth = depth_of<T>(s), KH = windows_of(s.KH, s.stride_h), KW = windows_of(s.KW, s.stride_w);
  const long rows = s.OH + KH - 1, columns = s.OW + KW - 1;
  const auto fits = [](double n) { return n <= INT_MAX; };
  return fits(double(rows) * columns * s.groups * depth) && fits(double(s.N) * rows * columns) && fits(double(s.N) * s.H * s.W) &&
         fits(double(s.K) * KH * KW * depth);
}

// ---- launching: the convolution of blocks is one pass of `way`

template <class T>
Conv2dWay<T> way(const Conv2dOptions& o) {
  return o.hopper ? hopper_conv2d<T>() : implicit_conv2d<T>();
}
template <class T, auto Pass>
bool takes(const Conv2d& s, const Conv2dOptions& o) {
  return countable<T>(s) && (way<T>(o).*Pass).takes(space_to_depth_conv2d_blocks<T>(s), o);
}
template <class T, class W, auto Pass>
std::size_t workspace_bytes(const Conv2d& s, const Conv2dOptions& o) {
  const Conv2d t = space_to_depth_conv2d_blocks<T>(s);
  return Workspace<T, W>::bytes(t) + (way<T>(o).*Pass).workspace(t, o);
}

template <class T>
void space_to_depth_conv2d_forward(T* y, const T* x, const T* w, const float* b, const Conv2d& s, const Conv2dOptions& o, void* workspace,
                                   Stream stream) {
  const Conv2d t = space_to_depth_conv2d_blocks<T>(s);
  const Workspace<T, T> blocks(workspace, t);
  launch_to_depth(blocks.images, x, blocks_of_images<T>(s), s.N, stream);
  launch_to_depth(blocks.filters, w, blocks_of_filters<T>(s), s.K, stream);
  way<T>(o).forward.launch(y, blocks.images, blocks.filters, b, t, o, blocks.rest, stream);
}

template <class T>
void space_to_depth_conv2d_backward_input(T* dx, const T* dy, const T* w, const T* mask, const Conv2d& s, const Conv2dOptions& o,
                                          void* workspace, Stream stream) {
  const Conv2d t = space_to_depth_conv2d_blocks<T>(s);
  const Workspace<T, T> blocks(workspace, t);
  launch_to_depth(blocks.filters, w, blocks_of_filters<T>(s), s.K, stream);
  way<T>(o).backward_input.launch(blocks.images, dy, blocks.filters, nullptr, t, o, blocks.rest, stream);
  launch_from_depth<T>(dx, blocks.images, mask, blocks_of_images<T>(s), s.N, stream);
}

template <class T>
void space_to_depth_conv2d_backward_weight(float* dw, float* db, const T* dy, const T* x, const Conv2d& s, const Conv2dOptions& o,
                                           void* workspace, Stream stream) {
  const Conv2d t = space_to_depth_conv2d_blocks<T>(s);
  const Workspace<T, float> blocks(workspace, t);
  launch_to_depth(blocks.images, x, blocks_of_images<T>(s), s.N, stream);
  way<T>(o).backward_weight.launch(blocks.filters, db, dy, blocks.images, t, o, blocks.rest, stream);
  launch_from_depth<float>(dw, blocks.filters, nullptr, blocks_of_filters<T>(s), s.K, stream);
}

}  // namespace

template <class T>
Conv2d space_to_depth_conv2d_blocks(const Conv2d& s) {
  const int KH = windows_of(s.KH, s.stride_h), KW = windows_of(s.KW, s.stride_w);
  return {s.N, s.OH + KH - 1, s.OW + KW - 1, int(s.groups * depth_of<T>(s)), s.K, KH, KW, s.groups, 1, 1, 0, 0, s.OH, s.OW};
}
FOR_EACH_STORAGE(space_to_depth_conv2d_blocks);

template <class T>
bool space_to_depth_conv2d_pays(const Conv2d& s) {
  const int G = s.C / s.groups;
  return G % kRun<T> != 0 && countable<T>(s) && filters_size(space_to_depth_conv2d_blocks<T>(s)) <= 2l * s.K * s.KH * s.KW * G;
}
FOR_EACH_STORAGE(space_to_depth_conv2d_pays);

template <class T>
Conv2dWay<T> space_to_depth_conv2d() {
  return {{takes<T, &Conv2dWay<T>::forward>, workspace_bytes<T, T, &Conv2dWay<T>::forward>, space_to_depth_conv2d_forward<T>},
          {takes<T, &Conv2dWay<T>::backward_input>, workspace_bytes<T, T, &Conv2dWay<T>::backward_input>,
           space_to_depth_conv2d_backward_input<T>},
          {takes<T, &Conv2dWay<T>::backward_weight>, workspace_bytes<T, float, &Conv2dWay<T>::backward_weight>,
           space_to_depth_conv2d_backward_weight<T>}};
}
FOR_EACH_STORAGE(space_to_depth_conv2d);

}  // namespace alexnet
