// hopper_conv2d.cu - y_nhwk = b_k + sum_{i,j,c} w_kijc x_{n, h S - P + i, w S - P + j, c} and the gradients of x and w in bf16,
// by the units that compute capability 9.0 has for it: the same products as in implicit_conv2d.cu, of which threads do very
// little.
//
//   loads     One thread of a block orders boxes of memory, and the TMA unit brings them into shared memory: of w a box of
//             128 filters by 64 channels, of x the same 64 channels of 256 pixels of y, shifted by the position (i, j) in
//             the window. The unit knows the images' edges, wraps from row to row and image to image, and reads zeros outside.
//   products  wgmma multiplies both out of shared memory, 64 pixels by 128 filters by 16 channels at a time, for the four
//             warps of a warpgroup together, while they do something else.
//   ring      Four steps' boxes are on their way or in use. mbarriers tell the multiplying warpgroups that boxes are full,
//             and the loading thread that they are empty again. Loading takes few registers, which go to the others' sums.
//   tiles     A block stays on its multiprocessor and goes from tile to tile: the ring fills for the next tile while the
//             sums of the last one are written.
//   dx        At stride 1 a pixel of x went into the pixels of y around it, so dx is itself a convolution: of dy, with
//             padding K - 1 - P, by the filters turned by half a circle, whose channels and filters change places.
//   dw        = dy^T windows sums over pixels, which neither dy nor x has as neighbours in memory: wgmma takes both
//             operands across k. Parts of the sum are added by a second kernel in a fixed order; the shape alone cuts them.
//
// The operands are first rounded into the workspace, as TMA copies what it finds. 64 channels are one row of a box, 128
// bytes: a group of channels must be a multiple of that (conv3 to conv5 of AlexNet), windows square, padding symmetric.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "platform/hopper.cuh"

namespace alexnet {
namespace {

constexpr int kPixels = 256, kFilters = 128, kChannels = 64, kStages = 4;  // of a block's tile; of a step; of the ring
constexpr int kRow = kChannels * 2, kBytesX = kPixels * kRow, kBytesW = kFilters * kRow, kBytes = kBytesX + kBytesW;
constexpr int kDepth = 64, kBox = kDepth * kRow, kColumns = 256;  // of dw: pixels of a step, 64 channels of them, values of a filter
constexpr int kConsumers = 2, kThreads = (kConsumers + 1) * 128;
static_assert(kBytes == (kFilters + kColumns) / kChannels * kBox);

long ceil_div(long n, long d) { return (n + d - 1) / d; }

__global__ void round_pairs(unsigned* __restrict__ y, const float* __restrict__ x, long pairs) {
  for (long i : gpu::grid_range(pairs)) y[i] = gpu::round_bf16(x[2 * i], x[2 * i + 1]);
}

// Filters of dx, (C, KH, KW, K / groups): y_{g c, i, j, f} = w_{g f, KH - 1 - i, KW - 1 - j, c}. A thread rounds two filters.
__global__ void round_turned(unsigned* __restrict__ y, const float* __restrict__ w, Conv2d s, long pairs) {
  const int F = s.K / s.groups, G = s.C / s.groups, taps = s.KH * s.KW;
  for (long i : gpu::grid_range(pairs)) {
    const int f = int(i % (F / 2)) * 2, tap = int(i / (F / 2) % taps), channel = int(i / (F / 2) / taps);
    const float* from = w + (long(channel / G * F + f) * taps + taps - 1 - tap) * G + channel % G;
    y[i] = gpu::round_bf16(from[0], from[long(taps) * G]);
  }
}

// Value r of the 64 that a thread has of 64 x 128 sums: wgmma's order.
__device__ __forceinline__ int row_of(int r) { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + r / 2 % 2 * 8; }
__device__ __forceinline__ int column_of(int r) { return r / 4 * 8 + threadIdx.x % 4 * 2 + r % 2; }

// All tiles that are this block's: load(tile, step, box, barrier) orders the boxes of a step, multiply(sum, box, warpgroup)
// adds their products, store(tile, sum, warpgroup) writes the sums of a warpgroup, twice 64 x 128.
template <class Steps, class Load, class Multiply, class Store>
__device__ __forceinline__ void for_each_tile(int tiles, Steps steps, Load load, Multiply multiply, Store store) {
  char* const ring = gpu::dynamic_shared<char>();
  GPU_SHARED(std::uint64_t, full, [kStages]);
  GPU_SHARED(std::uint64_t, empty, [kStages]);
  const int warpgroup = threadIdx.x / 128, t = threadIdx.x % 128;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      gpu::mbarrier_init(&full[stage], 1);
      gpu::mbarrier_init(&empty[stage], kConsumers * 4);  // one arrival a warp
    }
    gpu::fence_barrier_init();
  }
  __syncthreads();

  unsigned turn = 0;  // of the ring
  if (warpgroup == kConsumers) {
    gpu::registers_lower<40>();
    if (t == 0) {
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int count = steps(tile);
        for (int k = 0; k < count; ++k, ++turn) {
          const unsigned stage = turn % kStages;
          if (turn >= kStages) gpu::mbarrier_wait(&empty[stage], (turn / kStages - 1) & 1);
          load(tile, k, ring + stage * kBytes, &full[stage]);
        }
      }
    }
  } else {
    gpu::registers_raise<232>();
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      float sum[2][64] = {};
      const int count = steps(tile);
      for (int k = 0; k < count; ++k, ++turn) {
        const unsigned stage = turn % kStages;
        gpu::mbarrier_wait(&full[stage], turn / kStages & 1);
        gpu::wgmma_fence();
        multiply(sum, ring + stage * kBytes, warpgroup);
        gpu::wgmma_commit();
        gpu::wgmma_wait<1>();  // the step before is done with its boxes
        if (k > 0 && t % 32 == 0) gpu::mbarrier_arrive(&empty[(turn - 1) % kStages]);
      }
      gpu::wgmma_wait<0>();
      if (t % 32 == 0) gpu::mbarrier_arrive(&empty[(turn - 1) % kStages]);
      store(tile, sum, warpgroup);
    }
  }
}

// A tile is 256 pixels of y, each of two warpgroups 128 of them, by 128 filters of a group.
__global__ void __launch_bounds__(kThreads, 1)
    multiply_channels(float* __restrict__ y, const float* __restrict__ b, const __grid_constant__ gpu::TensorMap x_map,
                      const __grid_constant__ gpu::TensorMap w_map, Conv2d s, bool relu) {
  const int F = s.K / s.groups, G = s.C / s.groups, pixels = s.N * s.OH * s.OW;
  const int across = (F - 1) / kFilters + 1, down = (pixels - 1) / kPixels + 1, slices = G / kChannels;
  const auto filter_of = [&](int tile) { return tile % across * kFilters; };
  const auto pixel_of = [&](int tile) { return tile / across % down * kPixels; };
  const auto group_of = [&](int tile) { return tile / across / down; };
  const auto steps = [&](int) { return s.KH * s.KW * slices; };

  const auto load = [&](int tile, int k, char* box, std::uint64_t* full) {
    const int pixel = pixel_of(tile), ow = pixel % s.OW, oh = pixel / s.OW % s.OH, n = pixel / s.OW / s.OH;
    const int tap = k / slices, c = k % slices * kChannels;
    gpu::mbarrier_arrive_expect(full, kBytes);
    gpu::tma_load_im2col(box, x_map, full, group_of(tile) * G + c, ow * s.stride_w - s.pad_left, oh * s.stride_h - s.pad_top, n, tap % s.KW,
                         tap / s.KW);
    gpu::tma_load_2d(box + kBytesX, w_map, full, tap * G + c, group_of(tile) * F + filter_of(tile));
  };
  const auto multiply = [&](float (&sum)[2][64], const char* box, int warpgroup) {
    const char *x_box = box + warpgroup * 128 * kRow, *w_box = box + kBytesX;
    UNROLL
    for (int c = 0; c < kRow; c += 32) {  // 16 channels
      const std::uint64_t w_part = gpu::wgmma_descriptor(w_box + c, 16, 1024, 1);
      gpu::wgmma_m64n128k16_bf16(sum[0], gpu::wgmma_descriptor(x_box + c, 16, 1024, 1), w_part, 1);
      gpu::wgmma_m64n128k16_bf16(sum[1], gpu::wgmma_descriptor(x_box + 64 * kRow + c, 16, 1024, 1), w_part, 1);
    }
  };
  const auto store = [&](int tile, const float (&sum)[2][64], int warpgroup) {
    const bool pairs = reinterpret_cast<std::uintptr_t>(y) % sizeof(float2) == 0 && s.K % 2 == 0 && F % 2 == 0;
    const int filter = filter_of(tile), pixel = pixel_of(tile) + warpgroup * 128, first = group_of(tile) * F;
    UNROLL
    for (int e = 0; e < 2 * 64; e += 2) {
      const int half = e / 64, r = e % 64, p = pixel + half * 64 + row_of(r), f = filter + column_of(r);
      if (p >= pixels || f >= F) continue;
      float v[2] = {sum[half][r], sum[half][r + 1]};
      float* to = y + long(p) * s.K + first + f;
      UNROLL
      for (int i = 0; i < 2; ++i) {
        if (b && f + i < F) v[i] += b[first + f + i];
        if (relu && v[i] < 0) v[i] = 0;
      }
      if (pairs) {
        *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
      } else {
        to[0] = v[0];
        if (f + 1 < F) to[1] = v[1];
      }
    }
  };
  for_each_tile(across * down * s.groups, steps, load, multiply, store);
}

// A tile is 128 filters of a group, each of two warpgroups 64 of them, by 256 of a filter's values, of one part of the
// pixels: `depth` steps. dw has a whole dw for each part.
__global__ void __launch_bounds__(kThreads, 1)
    multiply_pixels(float* __restrict__ dw, const __grid_constant__ gpu::TensorMap dy_map, const __grid_constant__ gpu::TensorMap x_map,
                    Conv2d s, int parts, int depth) {
  const int F = s.K / s.groups, G = s.C / s.groups, R = s.KH * s.KW * G, total = (s.N * s.OH * s.OW - 1) / kDepth + 1;
  const int across = (R - 1) / kColumns + 1, down = (F - 1) / kFilters + 1;
  const auto column_from = [&](int tile) { return tile % across * kColumns; };
  const auto filter_of = [&](int tile) { return tile / across % down * kFilters; };
  const auto group_of = [&](int tile) { return tile / across / down % s.groups; };
  const auto part_of = [&](int tile) { return tile / across / down / s.groups; };
  const auto steps = [&](int tile) {
    const int left = total - part_of(tile) * depth;
    return left < depth ? left : depth;
  };

  const auto load = [&](int tile, int k, char* box, std::uint64_t* full) {
    const int pixel = (part_of(tile) * depth + k) * kDepth, ow = pixel % s.OW, oh = pixel / s.OW % s.OH, n = pixel / s.OW / s.OH;
    const int column = column_from(tile), end = R - column < kColumns ? R : column + kColumns;
    gpu::mbarrier_arrive_expect(full, (kFilters + end - column) / kChannels * kBox);
    for (int f = 0; f < kFilters; f += kChannels, box += kBox)
      gpu::tma_load_2d(box, dy_map, full, group_of(tile) * F + filter_of(tile) + f, pixel);
    for (int r = column; r < end; r += kChannels, box += kBox)
      gpu::tma_load_im2col(box, x_map, full, group_of(tile) * G + r % G, ow * s.stride_w - s.pad_left, oh * s.stride_h - s.pad_top, n,
                           r / G % s.KW, r / G / s.KW);
  };
  const auto multiply = [&](float (&sum)[2][64], const char* box, int warpgroup) {
    const char *dy_box = box + warpgroup * kBox, *x_box = box + kFilters / kChannels * kBox;
    UNROLL
    for (int k = 0; k < kBox; k += 16 * kRow) {  // 16 pixels
      const std::uint64_t dy_part = gpu::wgmma_descriptor(dy_box + k, kBox, 1024, 1);
      gpu::wgmma_m64n128k16_bf16<false, false>(sum[0], dy_part, gpu::wgmma_descriptor(x_box + k, kBox, 1024, 1), 1);
      gpu::wgmma_m64n128k16_bf16<false, false>(sum[1], dy_part, gpu::wgmma_descriptor(x_box + 2 * kBox + k, kBox, 1024, 1), 1);
    }
  };
  const auto store = [&](int tile, const float (&sum)[2][64], int warpgroup) {
    float* const part = dw + part_of(tile) * (long(s.K) * R);
    const bool pairs = reinterpret_cast<std::uintptr_t>(dw) % sizeof(float2) == 0;
    UNROLL
    for (int e = 0; e < 2 * 64; e += 2) {
      const int half = e / 64, r = e % 64, f = filter_of(tile) + warpgroup * 64 + row_of(r);
      const int column = column_from(tile) + half * 128 + column_of(r);
      if (f >= F || column >= R) continue;
      float* to = part + (long(group_of(tile)) * F + f) * R + column;
      if (pairs)
        *reinterpret_cast<float2*>(to) = make_float2(sum[half][r], sum[half][r + 1]);
      else
        to[0] = sum[half][r], to[1] = sum[half][r + 1];
    }
  };
  for_each_tile(across * down * s.groups * parts, steps, load, multiply, store);
}

__global__ void add_parts(float* __restrict__ dw, const float* __restrict__ partial, long size, int parts) {
  for (long i : gpu::grid_range(size)) {
    float sum = partial[i];
    for (int p = 1; p < parts; ++p) sum += partial[p * size + i];
    dw[i] = sum;
  }
}

long images_bytes(const Conv2d& s) { return 2l * s.N * s.H * s.W * s.C; }  // a multiple of 128
long filters_bytes(const Conv2d& s) { return 2l * s.K * s.KH * s.KW * (s.C / s.groups); }

gpu::Launch over(long pairs, Stream stream) { return {dim3(unsigned(ceil_div(pairs, 1024))), dim3(256), 0, stream}; }
void round(void* y, const float* x, long bytes, Stream stream) {
  gpu::launch_independent<round_pairs>(over(bytes / 4, stream), static_cast<unsigned*>(y), x, bytes / 4);
}

// As many blocks as run at a time.
gpu::Launch persistent(long tiles, Stream stream) {
  return {dim3(unsigned(std::min(tiles, long(gpu::multiprocessors())))), dim3(kThreads), kStages * kBytes, stream};
}

// y = conv(images, filters) + b, both rounded.
void multiply(float* y, const void* images, const void* filters, const float* b, const Conv2d& s, bool relu, Stream stream) {
  const gpu::TensorMap x_map =
      gpu::make_tensor_map_im2col(images, s.N, s.H, s.W, s.C, s.KH, s.pad_top, s.stride_h, kPixels, kChannels, 2, 128);
  const gpu::TensorMap w_map = gpu::make_tensor_map_2d(filters, s.K, long(s.KH) * s.KW * (s.C / s.groups), kFilters, kChannels, 2, 128);
  const long tiles = ceil_div(long(s.N) * s.OH * s.OW, kPixels) * ceil_div(s.K / s.groups, kFilters) * s.groups;
  gpu::launch<multiply_channels>(persistent(tiles, stream), y, b, x_map, w_map, s, relu);
}

void require_hopper(const char* launcher) {
  if (gpu::compute_capability() != 90)
    throw std::runtime_error(std::string(launcher) + ": expected a GPU of compute capability 9.0, got " +
                             std::to_string(gpu::compute_capability() / 10) + "." + std::to_string(gpu::compute_capability() % 10));
}

// The convolution of dy that dx is.
Conv2d turned(const Conv2d& s) {
  return {s.N, s.OH, s.OW, s.K, s.C, s.KH, s.KW, s.groups, 1, 1, s.KH - 1 - s.pad_top, s.KW - 1 - s.pad_left, s.H, s.W};
}

// dw and the sum over pixels that it is: in parts of at least 8 steps, enough for every multiprocessor of a large GPU.
struct Parts {
  long size, tiles, count, depth;
};
Parts parts_of(const Conv2d& s) {
  const long filter = long(s.KH) * s.KW * (s.C / s.groups), steps = ceil_div(long(s.N) * s.OH * s.OW, kDepth);
  const long tiles = ceil_div(filter, kColumns) * ceil_div(s.K / s.groups, kFilters) * s.groups;
  const long depth = ceil_div(steps, std::max(1l, std::min(132 / tiles, steps / 8))), count = ceil_div(steps, depth);
  return {s.K * filter, tiles * count, count, depth};
}
long gradient_bytes(const Conv2d& s) { return ceil_div(2l * s.N * s.OH * s.OW * s.K, 128) * 128; }

}  // namespace

bool hopper_conv2d_takes(const Conv2d& s) {
  const auto whole = [&](int size, int out) { return out == (size + 2 * s.pad_top - s.KH) / s.stride_h + 1; };
  return s.C / s.groups % kChannels == 0 && s.KH == s.KW && s.KH <= 128 && s.stride_h == s.stride_w && s.stride_h <= 8 &&
         s.pad_top == s.pad_left && s.pad_top >= 0 && s.pad_top <= 127 && whole(s.H, s.OH) && whole(s.W, s.OW);
}
bool hopper_conv2d_backward_input_takes(const Conv2d& s) { return s.stride_h == 1 && s.stride_w == 1 && hopper_conv2d_takes(turned(s)); }

bool hopper_conv2d_backward_weight_takes(const Conv2d& s) { return s.K % 8 == 0 && hopper_conv2d_takes(s); }

std::size_t hopper_conv2d_forward_workspace(const Conv2d& s) { return images_bytes(s) + filters_bytes(s); }

void hopper_conv2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2d& s, bool relu, void* workspace,
                           Stream stream) {
  require_hopper("hopper_conv2d_forward");
  char *images = static_cast<char*>(workspace), *filters = images + images_bytes(s);
  round(images, x, images_bytes(s), stream);
  round(filters, w, filters_bytes(s), stream);
  multiply(y, images, filters, b, s, relu, stream);
}

std::size_t hopper_conv2d_backward_input_workspace(const Conv2d& s) { return hopper_conv2d_forward_workspace(turned(s)); }

void hopper_conv2d_backward_input(float* dx, const float* dy, const float* w, const float* mask, const Conv2d& s, void* workspace,
                                  Stream stream) {
  require_hopper("hopper_conv2d_backward_input");
  const Conv2d t = turned(s);
  char *images = static_cast<char*>(workspace), *filters = images + images_bytes(t);
  round(images, dy, images_bytes(t), stream);
  const long pairs = filters_bytes(t) / 4;
  gpu::launch_independent<round_turned>(over(pairs, stream), reinterpret_cast<unsigned*>(filters), w, s, pairs);
  multiply(dx, images, filters, nullptr, t, false, stream);
  if (mask) relu_backward(dx, dx, mask, long(s.N) * s.H * s.W * s.C, stream);
}

std::size_t hopper_conv2d_backward_weight_workspace(const Conv2d& s) {
  const Parts parts = parts_of(s);
  return std::max(images_bytes(s) + gradient_bytes(s) + (parts.count > 1 ? parts.count * parts.size * sizeof(float) : 0),
                  bias_backward_workspace(long(s.N) * s.OH * s.OW, s.K));
}

void hopper_conv2d_backward_weight(float* dw, float* db, const float* dy, const float* x, const Conv2d& s, void* workspace, Stream stream) {
  require_hopper("hopper_conv2d_backward_weight");
  const Parts parts = parts_of(s);
  const long pixels = long(s.N) * s.OH * s.OW;
  char *images = static_cast<char*>(workspace), *gradient = images + images_bytes(s);
  float* const partial = reinterpret_cast<float*>(gradient + gradient_bytes(s));
  round(images, x, images_bytes(s), stream);
  round(gradient, dy, 2 * pixels * s.K, stream);
  const gpu::TensorMap dy_map = gpu::make_tensor_map_2d(gradient, pixels, s.K, kDepth, kChannels, 2, 128);
  const gpu::TensorMap x_map =
      gpu::make_tensor_map_im2col(images, s.N, s.H, s.W, s.C, s.KH, s.pad_top, s.stride_h, kDepth, kChannels, 2, 128);
  gpu::launch<multiply_pixels>(persistent(parts.tiles, stream), parts.count > 1 ? partial : dw, dy_map, x_map, s, int(parts.count),
                               int(parts.depth));
  if (parts.count > 1)
    gpu::launch_independent<add_parts>(over(parts.size, stream), dw, static_cast<const float*>(partial), parts.size, int(parts.count));
  if (db) bias_backward(db, dy, pixels, s.K, workspace, stream);
}

}  // namespace alexnet
