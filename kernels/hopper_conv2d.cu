// hopper_conv2d.cu - y_nhwk = b_k + sum_{i,j,c} w_kijc x_{n, h S - P + i, w S - P + j, c} and the gradient of x in bf16, by the
// units that compute capability 9.0 has for it: the same product y = windows w^T as in implicit_conv2d.cu, of which threads
// do very little.
//
//   loads     One thread of a block orders boxes of memory, and the TMA unit brings them into shared memory: of w a box of
//             128 filters by 64 channels, of x the same 64 channels of 256 pixels of y, shifted by the position (i, j) in
//             the window. The unit knows the images' edges, wraps from row to row and image to image, and reads zeros outside.
//   products  wgmma multiplies both out of shared memory, 64 pixels by 128 filters by 16 channels at a time, for the four
//             warps of a warpgroup together, while they do something else.
//   ring      Four boxes of each are on their way or in use. mbarriers tell the multiplying warpgroups that a box is full,
//             and the loading thread that it is empty again. Loading takes few registers, which go to the others' sums.
//   gradient  At stride 1 a pixel of x went into the pixels of y around it, so dx is itself a convolution: of dy, with
//             padding K - 1 - P, by the filters turned by half a circle, whose channels and filters change places.
//
// The operands are first rounded into the workspace, as TMA copies what it finds. 64 channels are one row of a box, 128
// bytes: a group of channels must be a multiple of that (conv3 to conv5 of AlexNet), windows square, padding symmetric.
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "platform/hopper.cuh"

namespace alexnet {
namespace {

constexpr int kPixels = 256, kFilters = 128, kChannels = 64, kStages = 4;  // of a block's tile; of a step; of the ring
constexpr int kRow = kChannels * 2, kBytesX = kPixels * kRow, kBytesW = kFilters * kRow, kBytes = kBytesX + kBytesW;
constexpr int kConsumers = 2, kThreads = (kConsumers + 1) * 128;

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

// A block owns 256 pixels of y by 128 filters of a group (blockIdx.y), each of two warpgroups 128 of the pixels.
__global__ void __launch_bounds__(kThreads, 1)
    multiply_tile(float* __restrict__ y, const float* __restrict__ b, const __grid_constant__ gpu::TensorMap x_map,
                  const __grid_constant__ gpu::TensorMap w_map, Conv2d s, bool relu) {
  char* const ring = gpu::dynamic_shared<char>();
  GPU_SHARED(std::uint64_t, full, [kStages]);
  GPU_SHARED(std::uint64_t, empty, [kStages]);
  const int F = s.K / s.groups, G = s.C / s.groups, across = (F - 1) / kFilters + 1, steps = s.KH * s.KW * (G / kChannels);
  const int filter = int(blockIdx.x % across) * kFilters, warpgroup = threadIdx.x / 128, t = threadIdx.x % 128;
  const long pixel = long(blockIdx.x / across) * kPixels;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      gpu::mbarrier_init(&full[stage], 1);
      gpu::mbarrier_init(&empty[stage], kConsumers * 4);  // one arrival a warp
    }
    gpu::fence_barrier_init();
  }
  __syncthreads();

  if (warpgroup == kConsumers) {
    gpu::registers_lower<40>();
    if (t == 0) {
      const int ow = int(pixel % s.OW), oh = int(pixel / s.OW % s.OH), n = int(pixel / s.OW / s.OH);
      for (int k = 0, i = 0, j = 0, c = 0; k < steps; ++k) {
        const int stage = k % kStages;
        char* box = ring + stage * kBytes;
        if (k >= kStages) gpu::mbarrier_wait(&empty[stage], (k / kStages - 1) & 1);
        gpu::mbarrier_arrive_expect(&full[stage], kBytes);
        gpu::tma_load_im2col(box, x_map, &full[stage], int(blockIdx.y) * G + c, ow * s.stride_w - s.pad_left, oh * s.stride_h - s.pad_top,
                             n, j, i);
        gpu::tma_load_2d(box + kBytesX, w_map, &full[stage], (i * s.KW + j) * G + c, int(blockIdx.y) * F + filter);
        if ((c += kChannels) < G) continue;
        c = 0;
        if (++j == s.KW) j = 0, ++i;
      }
    }
  } else {
    gpu::registers_raise<232>();
    float sum[2][kFilters / 2] = {};  // of 64 pixels each
    for (int k = 0; k < steps; ++k) {
      const int stage = k % kStages;
      const char *x_box = ring + stage * kBytes + warpgroup * 128 * kRow, *w_box = ring + stage * kBytes + kBytesX;
      gpu::mbarrier_wait(&full[stage], k / kStages & 1);
      gpu::wgmma_fence();
      UNROLL
      for (int c = 0; c < kRow; c += 32) {  // 16 channels
        const std::uint64_t w_part = gpu::wgmma_descriptor(w_box + c, 16, 1024, 1);
        gpu::wgmma_m64n128k16_bf16(sum[0], gpu::wgmma_descriptor(x_box + c, 16, 1024, 1), w_part, 1);
        gpu::wgmma_m64n128k16_bf16(sum[1], gpu::wgmma_descriptor(x_box + 64 * kRow + c, 16, 1024, 1), w_part, 1);
      }
      gpu::wgmma_commit();
      gpu::wgmma_wait<1>();  // the step before is done with its boxes
      if (k > 0 && t % 32 == 0) gpu::mbarrier_arrive(&empty[(k - 1) % kStages]);
    }
    gpu::wgmma_wait<0>();

    const long pixels = long(s.N) * s.OH * s.OW;
    const bool pairs = reinterpret_cast<std::uintptr_t>(y) % sizeof(float2) == 0 && s.K % 2 == 0 && F % 2 == 0;
    UNROLL
    for (int e = 0; e < 2 * kFilters / 2; e += 2) {
      const int half = e / (kFilters / 2), r = e % (kFilters / 2);
      const long p = pixel + warpgroup * 128 + half * 64 + t / 32 * 16 + t % 32 / 4 + r / 2 % 2 * 8;
      const int f = filter + r / 4 * 8 + t % 4 * 2;
      if (p >= pixels || f >= F) continue;
      float v[2] = {sum[half][r], sum[half][r + 1]};
      float* to = y + p * s.K + blockIdx.y * F + f;
      UNROLL
      for (int i = 0; i < 2; ++i) {
        if (b && f + i < F) v[i] += b[blockIdx.y * F + f + i];
        if (relu && v[i] < 0) v[i] = 0;
      }
      if (pairs) {
        *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
      } else {
        to[0] = v[0];
        if (f + 1 < F) to[1] = v[1];
      }
    }
  }
}

long images_bytes(const Conv2d& s) { return 2l * s.N * s.H * s.W * s.C; }  // a multiple of 128
long filters_bytes(const Conv2d& s) { return 2l * s.K * s.KH * s.KW * (s.C / s.groups); }

gpu::Launch over(long pairs, Stream stream) { return {dim3(unsigned(ceil_div(pairs, 1024))), dim3(256), 0, stream}; }
void round(void* y, const float* x, long bytes, Stream stream) {
  gpu::launch_independent<round_pairs>(over(bytes / 4, stream), static_cast<unsigned*>(y), x, bytes / 4);
}

// y = conv(images, filters) + b, both rounded.
void multiply(float* y, const void* images, const void* filters, const float* b, const Conv2d& s, bool relu, Stream stream) {
  const gpu::TensorMap x_map =
      gpu::make_tensor_map_im2col(images, s.N, s.H, s.W, s.C, s.KH, s.pad_top, s.stride_h, kPixels, kChannels, 2, 128);
  const gpu::TensorMap w_map = gpu::make_tensor_map_2d(filters, s.K, long(s.KH) * s.KW * (s.C / s.groups), kFilters, kChannels, 2, 128);
  const long tiles = ceil_div(long(s.N) * s.OH * s.OW, kPixels) * ceil_div(s.K / s.groups, kFilters);
  gpu::launch<multiply_tile>({dim3(unsigned(tiles), unsigned(s.groups)), dim3(kThreads), kStages * kBytes, stream}, y, b, x_map, w_map, s,
                             relu);
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

}  // namespace

bool hopper_conv2d_takes(const Conv2d& s) {
  const auto whole = [&](int size, int out) { return out == (size + 2 * s.pad_top - s.KH) / s.stride_h + 1; };
  return s.C / s.groups % kChannels == 0 && s.KH == s.KW && s.KH <= 128 && s.stride_h == s.stride_w && s.stride_h <= 8 &&
         s.pad_top == s.pad_left && s.pad_top >= 0 && s.pad_top <= 127 && whole(s.H, s.OH) && whole(s.W, s.OW);
}
bool hopper_conv2d_backward_input_takes(const Conv2d& s) { return s.stride_h == 1 && s.stride_w == 1 && hopper_conv2d_takes(turned(s)); }

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

void hopper_conv2d_backward_input(float* dx, const float* dy, const float* w, const Conv2d& s, void* workspace, Stream stream) {
  require_hopper("hopper_conv2d_backward_input");
  const Conv2d t = turned(s);
  char *images = static_cast<char*>(workspace), *filters = images + images_bytes(t);
  round(images, dy, images_bytes(t), stream);
  const long pairs = filters_bytes(t) / 4;
  gpu::launch_independent<round_turned>(over(pairs, stream), reinterpret_cast<unsigned*>(filters), w, s, pairs);
  multiply(dx, images, filters, nullptr, t, false, stream);
}

}  // namespace alexnet
