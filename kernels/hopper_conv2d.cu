// hopper_conv2d.cu - y_nhwk = b_k + sum_{i,j,c} w_kijc x_{n, h S - P + i, w S - P + j, c} and the gradients of x and w in bf16
// or tf32, by the units that compute capability 9.0 has for it: the same products as in implicit_conv2d.cu, of which threads
// do very little.
//
//   loads     One thread of a block orders boxes of memory, and the TMA unit brings them into shared memory: of w a box of
//             128 filters by 64 channels (32 in tf32), of x the same channels of 256 pixels of y, shifted by the position
//             (i, j) in the window. The unit knows the images' edges, wraps from row to row and image to image, and reads
//             zeros outside.
//   products  wgmma multiplies both out of shared memory, 64 pixels by 128 filters by 16 channels (8 in tf32) at a time, for
//             the four warps of a warpgroup together, while they do something else.
//   ring      Four steps' boxes are on their way or in use. mbarriers tell the multiplying warpgroups that boxes are full,
//             and the loading thread that they are empty again. Loading takes few registers, which go to the others' sums.
//   tiles     A block stays on its multiprocessor and goes from tile to tile: the ring fills for the next tile while the
//             sums of the last one are written. Where 128 filters would leave much of a tile empty, as the 96 or 48 of
//             AlexNet's conv1 and of dx in conv2, it has 96 or 64.
//   dx        At stride 1 a pixel of x went into the pixels of y around it, so dx is itself a convolution: of dy, with
//             padding K - 1 - P, by the filters turned by half a circle, whose channels and filters change places.
//   dw        = dy^T windows sums over pixels, which neither dy nor x has as neighbours in memory: wgmma takes both
//             operands across k, in bf16 alone. Parts of the sum are added by a second kernel (split_k.cuh). The bias's
//             gradient is summed from the boxes of dy while wgmma works (of float32, which these hold rounded, by bias.cu).
//
// TMA copies what it finds: arrays in bfloat16 are read where they lie, of float32 the operands are first rounded into the
// workspace. A row of a box is 128 bytes. Where a group's channels do not fill its last row, as conv2's 96 or 48, the box also
// holds channels of the next group, or of the next position in a filter. What wgmma sums over ends where the group does, and
// columns of dw beyond it are not written, so none of these count; a group has a multiple of 32 bytes, what wgmma multiplies
// at a time. Windows are square, padding symmetric.
#include <algorithm>
#include <climits>
#include <stdexcept>
#include <string>
#include <utility>

#include "platform/hopper.cuh"
#include "split_k.cuh"
#include "vector.cuh"

namespace alexnet {
namespace {

// Operands lie in memory as E: bfloat16, or float, rounded to tf32.
constexpr int kRow = 128, kPart = 32;  // bytes of a box's row, and of what one wgmma multiplies
template <class E>
constexpr int kChannels = kRow / sizeof(E);
constexpr int kPixels = 256, kStages = 4;                           // of a block's tile; of the ring
constexpr int kDepth = 64, kBox = kDepth * kRow, kColumnBoxes = 4;  // of dw: pixels of a step, 64 channels of them; boxes of a tile
constexpr int kWeightFilters = 128, kFilterBoxes = kWeightFilters / kChannels<bfloat16>;
constexpr int kConsumers = 2, kThreads = (kConsumers + 1) * 128;

// What is left to do is what `store` does: to round to bf16.
template <class E>
__device__ __forceinline__ float rounded(float v) {
  if constexpr (std::is_same_v<E, float>)
    return __uint_as_float(gpu::round_tf32(v));
  else
    return v;
}

template <class E>
__global__ void round_pairs(E* __restrict__ y, const float* __restrict__ x, long pairs) {
  for (long i : gpu::grid_range(pairs)) store<2>(y + 2 * i, {rounded<E>(x[2 * i]), rounded<E>(x[2 * i + 1])});
}

// Filters of dx, (C, KH, KW, K / groups): y_{g c, i, j, f} = w_{g f, KH - 1 - i, KW - 1 - j, c}. A thread rounds two filters.
template <class E, class T>
__global__ void round_turned(E* __restrict__ y, const T* __restrict__ w, Conv2d s, long pairs) {
  const int F = s.K / s.groups, G = s.C / s.groups, taps = s.KH * s.KW;
  for (long i : gpu::grid_range(pairs)) {
    const int f = int(i % (F / 2)) * 2, tap = int(i / (F / 2) % taps), channel = int(i / (F / 2) / taps);
    const T* from = w + (long(channel / G * F + f) * taps + taps - 1 - tap) * G + channel % G;
    store<2>(y + 2 * i, {rounded<E>(from[0]), rounded<E>(from[long(taps) * G])});
  }
}

// Value r of those that a thread has of 64 rows of sums: wgmma's order.
__device__ __forceinline__ int row_of(int r) { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + r / 2 % 2 * 8; }
__device__ __forceinline__ int column_of(int r) { return r / 4 * 8 + threadIdx.x % 4 * 2 + r % 2; }

// All tiles that are this block's: order(tile, step, box, barrier) orders the boxes of a step, kBytes of them, multiply(sum,
// step, box, warpgroup) adds their products, as one group of wgmma, write(tile, sum, warpgroup) writes the sums of a
// warpgroup, twice 64 rows.
template <int kBytes, int Values, class Steps, class Order, class Multiply, class Meanwhile, class Write>
__device__ __forceinline__ void for_each_tile(int tiles, Steps steps, Order order, Multiply multiply, Meanwhile meanwhile, Write write) {
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
          order(tile, k, ring + stage * kBytes, &full[stage]);
        }
      }
    }
  } else {
    gpu::registers_raise<232>();
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      float sum[2][Values] = {};
      const int count = steps(tile);
      for (int k = 0; k < count; ++k, ++turn) {
        const unsigned stage = turn % kStages;
        gpu::mbarrier_wait(&full[stage], turn / kStages & 1);
        multiply(sum, k, ring + stage * kBytes, warpgroup);
        meanwhile(tile, ring + stage * kBytes, warpgroup);
        gpu::wgmma_wait<1>();  // the step before is done with its boxes
        if (k > 0 && t % 32 == 0) gpu::mbarrier_arrive(&empty[(turn - 1) % kStages]);
      }
      gpu::wgmma_wait<0>();
      if (t % 32 == 0) gpu::mbarrier_arrive(&empty[(turn - 1) % kStages]);
      write(tile, sum, warpgroup);
    }
  }
}

// A tile is 256 pixels of y, each of two warpgroups 128 of them, by `Filters` filters of a group.
template <class T, class E, int Filters>
__global__ void __launch_bounds__(kThreads, 1)
    multiply_channels(T* __restrict__ y, const float* __restrict__ b, const T* __restrict__ mask,
                      const __grid_constant__ gpu::TensorMap x_map, const __grid_constant__ gpu::TensorMap w_map, Conv2d s, bool relu) {
  constexpr int kBytesX = kPixels * kRow, kBytes = kBytesX + Filters * kRow, kValues = Filters / 2;
  const int F = s.K / s.groups, G = s.C / s.groups, pixels = s.N * s.OH * s.OW;
  const int across = (F - 1) / Filters + 1, down = (pixels - 1) / kPixels + 1, slices = (G - 1) / kChannels<E> + 1;
  const auto filter_of = [&](int tile) { return tile % across * Filters; };
  const auto pixel_of = [&](int tile) { return tile / across % down * kPixels; };
  const auto group_of = [&](int tile) { return tile / across / down; };
  const auto steps = [&](int) { return s.KH * s.KW * slices; };

  const auto order = [&](int tile, int k, char* box, std::uint64_t* full) {
    const int pixel = pixel_of(tile), ow = pixel % s.OW, oh = pixel / s.OW % s.OH, n = pixel / s.OW / s.OH;
    const int tap = k / slices, c = k % slices * kChannels<E>;
    gpu::mbarrier_arrive_expect(full, kBytes);
    gpu::tma_load_im2col(box, x_map, full, group_of(tile) * G + c, ow * s.stride_w - s.pad_left, oh * s.stride_h - s.pad_top, n, tap % s.KW,
                         tap / s.KW);
    gpu::tma_load_2d(box + kBytesX, w_map, full, tap * G + c, group_of(tile) * F + filter_of(tile));
  };
  const auto multiply = [&](float (&sum)[2][kValues], int k, const char* box, int warpgroup) {
    const char *x_box = box + warpgroup * 128 * kRow, *w_box = box + kBytesX;
    const auto multiply_part = [&](int c) {
      const std::uint64_t w_part = gpu::wgmma_descriptor(w_box + c, 16, 1024, 1);
      UNROLL
      for (int half = 0; half < 2; ++half) {
        const std::uint64_t x_part = gpu::wgmma_descriptor(x_box + half * 64 * kRow + c, 16, 1024, 1);
        if constexpr (std::is_same_v<E, float>)
          gpu::wgmma_tf32(sum[half], x_part, w_part, 1);
        else
          gpu::wgmma_bf16(sum[half], x_part, w_part, 1);
      }
    };
    // The commit is part of a branch: where branches meet ptxas would add an empty group, and waiting for all but one be
    // waiting for these products.
    const auto multiply_parts = [&]<int Parts>() {
      gpu::wgmma_fence();
      UNROLL
      for (int i = 0; i < Parts; ++i) multiply_part(i * kPart);
      gpu::wgmma_commit();
    };
    static_assert(kRow == 4 * kPart);
    const int parts = (G - k % slices * kChannels<E>)*int(sizeof(E)) / kPart;
    if (parts >= 4)
      multiply_parts.template operator()<4>();
    else if (parts == 3)
      multiply_parts.template operator()<3>();
    else if (parts == 2)
      multiply_parts.template operator()<2>();
    else
      multiply_parts.template operator()<1>();
  };
  const auto write = [&](int tile, const float (&sum)[2][kValues], int warpgroup) {
    const auto paired = [](const T* p) { return reinterpret_cast<std::uintptr_t>(p) % (2 * sizeof(T)) == 0; };
    const bool pairs = paired(y) && paired(mask) && s.K % 2 == 0 && F % 2 == 0;
    const int filter = filter_of(tile), pixel = pixel_of(tile) + warpgroup * 128, first = group_of(tile) * F;
    UNROLL
    for (int e = 0; e < 2 * kValues; e += 2) {
      const int half = e / kValues, r = e % kValues, p = pixel + half * 64 + row_of(r), f = filter + column_of(r);
      if (p >= pixels || f >= F) continue;
      float v[2] = {sum[half][r], sum[half][r + 1]};
      const long to = long(p) * s.K + first + f;
      UNROLL
      for (int i = 0; i < 2; ++i) {
        if (b && f + i < F) v[i] += b[first + f + i];
        if (relu && v[i] < 0) v[i] = 0;
      }
      if (mask) {
        const Vector<float, 2> m = pairs ? load<2>(mask + to) : Vector<float, 2>{mask[to], mask[to + (f + 1 < F)]};
        UNROLL
        for (int i = 0; i < 2; ++i)
          if (m[i] <= 0) v[i] = 0;
      }
      if (pairs) {
        store<2>(y + to, {v[0], v[1]});
      } else {
        y[to] = v[0];
        if (f + 1 < F) y[to + 1] = v[1];
      }
    }
  };
  for_each_tile<kBytes, kValues>(across * down * s.groups, steps, order, multiply, [](int, const char*, int) {}, write);
}

// A tile is 128 filters of a group, each of two warpgroups 64 of them, by the columns of four boxes, of one part of the
// pixels: `depth` steps. A box has 64 channels of a position in the window. dw has a whole dw for each part, db (may be null) a
// db, `part_size` further on; what it sums lies in shared memory while the first columns are computed. Two neighbouring boxes
// are multiplied at once: 128 columns, or 96 where every second box has at most 32 channels.
template <int Columns>
__global__ void __launch_bounds__(kThreads, 1)
    multiply_pixels(float* __restrict__ dw, float* __restrict__ db, const __grid_constant__ gpu::TensorMap dy_map,
                    const __grid_constant__ gpu::TensorMap x_map, Conv2d s, int parts, int depth, long part_size) {
  constexpr int kBytes = (kFilterBoxes + kColumnBoxes) * kBox, kWide = kChannels<bfloat16>, kValues = Columns / 2;
  const int F = s.K / s.groups, G = s.C / s.groups, total = (s.N * s.OH * s.OW - 1) / kDepth + 1;
  const int slices = (G - 1) / kWide + 1, boxes = s.KH * s.KW * slices;
  const int across = (boxes - 1) / kColumnBoxes + 1, down = (F - 1) / kWeightFilters + 1;
  const auto box_of = [&](int tile) { return tile % across * kColumnBoxes; };
  const auto filter_of = [&](int tile) { return tile / across % down * kWeightFilters; };
  const auto group_of = [&](int tile) { return tile / across / down % s.groups; };
  const auto part_of = [&](int tile) { return tile / across / down / s.groups; };
  const auto steps = [&](int tile) {
    const int left = total - part_of(tile) * depth;
    return left < depth ? left : depth;
  };

  const auto order = [&](int tile, int k, char* to, std::uint64_t* full) {
    const int pixel = (part_of(tile) * depth + k) * kDepth, ow = pixel % s.OW, oh = pixel / s.OW % s.OH, n = pixel / s.OW / s.OH;
    const int first = box_of(tile), end = boxes - first < kColumnBoxes ? boxes : first + kColumnBoxes;
    gpu::mbarrier_arrive_expect(full, (kFilterBoxes + end - first) * kBox);
    for (int i = 0; i < kFilterBoxes; ++i, to += kBox)
      gpu::tma_load_2d(to, dy_map, full, group_of(tile) * F + filter_of(tile) + i * kWide, pixel);
    for (int box = first; box < end; ++box, to += kBox)
      gpu::tma_load_im2col(to, x_map, full, group_of(tile) * G + box % slices * kWide, ow * s.stride_w - s.pad_left,
                           oh * s.stride_h - s.pad_top, n, box / slices % s.KW, box / slices / s.KW);
  };
  const auto multiply = [&](float (&sum)[2][kValues], int, const char* box, int warpgroup) {
    const char *dy_box = box + warpgroup * kBox, *x_box = box + kFilterBoxes * kBox;
    gpu::wgmma_fence();
    UNROLL
    for (int k = 0; k < kBox; k += 16 * kRow) {  // 16 pixels
      const std::uint64_t dy_part = gpu::wgmma_descriptor(dy_box + k, kBox, 1024, 1);
      gpu::wgmma_bf16<false, false>(sum[0], dy_part, gpu::wgmma_descriptor(x_box + k, kBox, 1024, 1), 1);
      gpu::wgmma_bf16<false, false>(sum[1], dy_part, gpu::wgmma_descriptor(x_box + 2 * kBox + k, kBox, 1024, 1), 1);
    }
    gpu::wgmma_commit();
  };
  // A warp sums 16 filters: a lane two of them, over every fourth pair of pixels, so that the lanes read different banks.
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  float own[2] = {};
  const auto sum_rows = [&](int tile, const char* box, int warpgroup) {
    if (!db || box_of(tile) > 0) return;
    UNROLL
    for (int i = 0; i < kDepth / 4; ++i) {
      const int p = i / 2 * 8 + lane / 8 * 2 + i % 2, at = p * kRow + warp * 32 + lane % 8 * 4;  // before the swizzle
      const auto pair = load<2>(reinterpret_cast<const bfloat16*>(box + warpgroup * kBox + (at ^ p % 8 * 16)));
      own[0] += pair[0], own[1] += pair[1];
    }
    __syncwarp();  // all lanes have read the box that one of them will give back
  };
  const auto write_rows = [&](int tile, int warpgroup) {
    const int f = filter_of(tile) + warpgroup * 64 + warp * 16 + lane % 8 * 2;
    UNROLL
    for (int i = 0; i < 2; ++i) {
      own[i] += __shfl_xor_sync(~0u, own[i], 8);
      own[i] += __shfl_xor_sync(~0u, own[i], 16);
      if (lane < 8 && f + i < F) db[part_of(tile) * part_size + group_of(tile) * F + f + i] = own[i];
      own[i] = 0;
    }
  };
  const auto write = [&](int tile, const float (&sum)[2][kValues], int warpgroup) {
    if (db && box_of(tile) == 0) write_rows(tile, warpgroup);
    const long R = long(s.KH) * s.KW * G;
    float* const part = dw + part_of(tile) * part_size;
    const bool pairs = reinterpret_cast<std::uintptr_t>(dw) % sizeof(float2) == 0;
    UNROLL
    for (int e = 0; e < 2 * kValues; e += 2) {
      const int half = e / kValues, r = e % kValues, f = filter_of(tile) + warpgroup * 64 + row_of(r);
      const int box = box_of(tile) + half * 2 + r / (kWide / 2), c = box % slices * kWide + column_of(r) % kWide;
      if (f >= F || box >= boxes || c >= G) continue;
      float* to = part + (long(group_of(tile)) * F + f) * R + box / slices * G + c;
      if (pairs)
        store<2>(to, {sum[half][r], sum[half][r + 1]});
      else
        to[0] = sum[half][r], to[1] = sum[half][r + 1];
    }
  };
  for_each_tile<kBytes, kValues>(across * down * s.groups * parts, steps, order, multiply, sum_rows, write);
}

// Of sums of parts the `size` values of dw come first, then those of db.
struct Added {
  float *dw, *db;
  long size;

  struct Nothing {};
  __device__ __forceinline__ void begin() const {}
  __device__ __forceinline__ Nothing before(long) const { return {}; }
  __device__ __forceinline__ void put(long i, Nothing, float sum) const { (i < size ? dw[i] : db[i - size]) = sum; }
};

// ---- launching

long images_size(const Conv2d& s) { return long(s.N) * s.H * s.W * s.C; }
long gradients_size(const Conv2d& s) { return long(s.N) * s.OH * s.OW * s.K; }
long filters_size(const Conv2d& s) { return long(s.K) * s.KH * s.KW * (s.C / s.groups); }

// f.operator()<E>()
template <class T, class F>
auto with_operands(Precision precision, F f) {
  if constexpr (std::is_same_v<T, float>)
    if (precision == Precision::tf32) return f.template operator()<float>();
  return f.template operator()<bfloat16>();
}

// Of an array of operands in the workspace, in which arrays begin at multiples of 128 bytes.
template <class E>
long bytes_of(long size) {
  return ceil_div(size * long(sizeof(E)), 128) * 128;
}
// Of an array that is given as T.
template <class T, class E>
long operand_bytes(long size) {
  return std::is_same_v<T, bfloat16> ? 0 : bytes_of<E>(size);
}

gpu::Launch over(long items, Stream stream) { return {dim3(unsigned(ceil_div(items, 1024))), dim3(256), 0, stream}; }

// x as operands: as it is, or rounded into the workspace, which then begins behind it.
template <class E, class T>
const E* operand(const T* x, long size, char*& workspace, Stream stream) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return x;
  } else {
    E* const y = reinterpret_cast<E*>(workspace);
    workspace += bytes_of<E>(size);
    gpu::launch_independent<round_pairs<E>>(over(size / 2, stream), y, x, size / 2);
    return y;
  }
}

// As many blocks as run at a time.
gpu::Launch persistent(long tiles, int bytes_of_step, Stream stream) {
  return {dim3(unsigned(std::min(tiles, long(gpu::multiprocessors())))), dim3(kThreads), std::size_t(kStages * bytes_of_step), stream};
}

template <class E>
gpu::TensorMap map_of_images(const E* images, const Conv2d& s, int pixels) {
  return gpu::make_tensor_map_im2col(images, s.N, s.H, s.W, s.C, s.KH, s.pad_top, s.stride_h, pixels, kChannels<E>, sizeof(E), 128);
}
template <class E>
gpu::TensorMap map_of_rows(const E* matrix, long rows, long columns, int box_rows) {
  return gpu::make_tensor_map_2d(matrix, rows, columns, box_rows, kChannels<E>, sizeof(E), 128);
}

template <int Filters, class T, class E>
void multiply_tiles(T* y, const E* images, const E* filters, const float* b, const T* mask, const Conv2d& s, bool relu, Stream stream) {
  const long tiles = ceil_div(long(s.N) * s.OH * s.OW, kPixels) * ceil_div(s.K / s.groups, Filters) * s.groups;
  gpu::launch<multiply_channels<T, E, Filters>>(persistent(tiles, (kPixels + Filters) * kRow, stream), y, b, mask,
                                                map_of_images(images, s, kPixels),
                                                map_of_rows(filters, s.K, filters_size(s) / s.K, Filters), s, relu);
}

// y = conv(images, filters) + b, or 0 where mask is not above 0: by tiles of the width that computes least of nothing.
template <class T, class E>
void multiply(T* y, const E* images, const E* filters, const float* b, const T* mask, const Conv2d& s, bool relu, Stream stream) {
  const auto computed = [&](int width) { return ceil_div(s.K / s.groups, width) * width; };
  if (computed(64) < std::min(computed(96), computed(128)))
    multiply_tiles<64>(y, images, filters, b, mask, s, relu, stream);
  else if (computed(96) < computed(128))
    multiply_tiles<96>(y, images, filters, b, mask, s, relu, stream);
  else
    multiply_tiles<128>(y, images, filters, b, mask, s, relu, stream);
}

void require_hopper(const char* launcher) {
  const int capability = gpu::compute_capability();
  if (capability != 90)
    throw std::runtime_error(std::string(launcher) + ": expected a GPU of compute capability 9.0, got " + std::to_string(capability / 10) +
                             "." + std::to_string(capability % 10));
  if (!gpu::has_sm90a)
    throw std::runtime_error(std::string(launcher) +
                             ": this build has no code for sm_90a: rebuild it with CMAKE_CUDA_ARCHITECTURES=90a-real in the environment");
}

// TMA reads operands in bfloat16 where they lie; float32 is rounded first.
template <class T>
void require_aligned(const char* launcher, const char* name, const T* operand) {
  if (std::is_same_v<T, bfloat16> && reinterpret_cast<std::uintptr_t>(operand) % 16)
    throw std::invalid_argument(std::string(launcher) + ": " + name + ": expected memory aligned to 16 bytes, got an address that is not");
}

// The convolution of dy that dx is.
Conv2d turned(const Conv2d& s) {
  return {s.N, s.OH, s.OW, s.K, s.C, s.KH, s.KW, s.groups, 1, 1, s.KH - 1 - s.pad_top, s.KW - 1 - s.pad_left, s.H, s.W};
}

// The tiles of dw, and the steps over pixels that it sums.
long weight_tiles(const Conv2d& s) {
  const long boxes = long(s.KH) * s.KW * ceil_div(s.C / s.groups, kChannels<bfloat16>);
  return ceil_div(boxes, kColumnBoxes) * ceil_div(s.K / s.groups, kWeightFilters) * s.groups;
}
Split split_of(const Conv2d& s) { return split_k(ceil_div(long(s.N) * s.OH * s.OW, kDepth), weight_tiles(s), kSplitHopper, 1); }

bool hopper_conv2d_forward_takes(const Conv2d& s, const Conv2dOptions& o) {
  const int channels = kPart / (o.precision == Precision::tf32 ? sizeof(float) : sizeof(bfloat16));
  const auto whole = [&](int size, int out) { return out == (size + 2 * s.pad_top - s.KH) / s.stride_h + 1; };
  return o.precision != Precision::fp32 && s.C / s.groups % channels == 0 && s.KH == s.KW && s.KH <= 128 && s.stride_h == s.stride_w &&
         s.stride_h <= 8 && s.pad_top == s.pad_left && s.pad_top >= 0 && s.pad_top <= 127 && whole(s.H, s.OH) && whole(s.W, s.OW) &&
         long(s.N) * s.OH * s.OW <= INT_MAX - kPixels;
}
bool hopper_conv2d_backward_input_takes(const Conv2d& s, const Conv2dOptions& o) {
  return s.stride_h == 1 && s.stride_w == 1 && hopper_conv2d_forward_takes(turned(s), o);
}
bool hopper_conv2d_backward_weight_takes(const Conv2d& s, const Conv2dOptions& o) {
  return o.precision == Precision::bf16 && s.K % 8 == 0 && hopper_conv2d_forward_takes(s, o);
}

template <class T>
std::size_t hopper_conv2d_forward_workspace(const Conv2d& s, const Conv2dOptions& o) {
  return with_operands<T>(o.precision,
                          [&]<class E>() { return operand_bytes<T, E>(images_size(s)) + operand_bytes<T, E>(filters_size(s)); });
}

template <class T>
void hopper_conv2d_forward(T* y, const T* x, const T* w, const float* b, const Conv2d& s, const Conv2dOptions& o, void* workspace,
                           Stream stream) {
  require_aligned("hopper_conv2d_forward", "x", x);
  require_aligned("hopper_conv2d_forward", "w", w);
  require_hopper("hopper_conv2d_forward");
  with_operands<T>(o.precision, [&]<class E>() {
    char* rest = static_cast<char*>(workspace);
    const E* images = operand<E>(x, images_size(s), rest, stream);
    const E* filters = operand<E>(w, filters_size(s), rest, stream);
    multiply<T, E>(y, images, filters, b, nullptr, s, o.relu, stream);
  });
}

template <class T>
std::size_t hopper_conv2d_backward_input_workspace(const Conv2d& s, const Conv2dOptions& o) {
  return with_operands<T>(o.precision, [&]<class E>() { return operand_bytes<T, E>(gradients_size(s)) + bytes_of<E>(filters_size(s)); });
}

template <class T>
void hopper_conv2d_backward_input(T* dx, const T* dy, const T* w, const T* mask, const Conv2d& s, const Conv2dOptions& o, void* workspace,
                                  Stream stream) {
  require_aligned("hopper_conv2d_backward_input", "dy", dy);
  require_hopper("hopper_conv2d_backward_input");
  with_operands<T>(o.precision, [&]<class E>() {
    char* rest = static_cast<char*>(workspace);
    const E* images = operand<E>(dy, gradients_size(s), rest, stream);
    E* const filters = reinterpret_cast<E*>(rest);
    const long pairs = filters_size(s) / 2;
    gpu::launch_independent<round_turned<E, T>>(over(pairs, stream), filters, w, s, pairs);
    multiply<T, E>(dx, images, filters, nullptr, mask, turned(s), false, stream);
  });
}

template <class T>
std::size_t hopper_conv2d_backward_weight_workspace(const Conv2d& s, const Conv2dOptions&) {
  const std::size_t products = operand_bytes<T, bfloat16>(images_size(s)) + operand_bytes<T, bfloat16>(gradients_size(s)) +
                               parts_bytes(split_of(s), filters_size(s) + s.K);
  return std::is_same_v<T, bfloat16> ? products : std::max(products, bias_backward_workspace(gradients_size(s) / s.K, s.K));
}

template <class T>
void hopper_conv2d_backward_weight(float* dw, float* db, const T* dy, const T* x, const Conv2d& s, const Conv2dOptions&, void* workspace,
                                   Stream stream) {
  require_aligned("hopper_conv2d_backward_weight", "dy", dy);
  require_aligned("hopper_conv2d_backward_weight", "x", x);
  require_hopper("hopper_conv2d_backward_weight");
  if constexpr (std::is_same_v<T, float>)  // what is rounded has no exact sums
    if (db) bias_backward(std::exchange(db, nullptr), dy, gradients_size(s) / s.K, s.K, workspace, stream);
  const Split split = split_of(s);
  const long size = filters_size(s), part_size = size + (db ? s.K : 0);
  char* rest = static_cast<char*>(workspace);
  const bfloat16* images = operand<bfloat16>(x, images_size(s), rest, stream);
  const bfloat16* gradients = operand<bfloat16>(dy, gradients_size(s), rest, stream);
  float *const partial = reinterpret_cast<float*>(rest), *to = dw, *rows_to = db;
  if (split.count > 1) to = partial, rows_to = db ? partial + size : nullptr;
  const auto launch = [&]<int Columns>() {
    gpu::launch<multiply_pixels<Columns>>(persistent(weight_tiles(s) * split.count, (kFilterBoxes + kColumnBoxes) * kBox, stream), to,
                                          rows_to, map_of_rows(gradients, gradients_size(s) / s.K, s.K, kDepth),
                                          map_of_images(images, s, kDepth), s, int(split.count), int(split.depth), part_size);
  };
  const int rest_of_pair = s.C / s.groups % (2 * kChannels<bfloat16>)-kChannels<bfloat16>;
  if (rest_of_pair > 0 && rest_of_pair <= 32)
    launch.template operator()<96>();
  else
    launch.template operator()<128>();
  if (split.count > 1) launch_add_parts(Added{dw, db, size}, partial, part_size, split, stream);
}

}  // namespace

template <class T>
Conv2dWay<T> hopper_conv2d() {
  return {{hopper_conv2d_forward_takes, hopper_conv2d_forward_workspace<T>, hopper_conv2d_forward<T>},
          {hopper_conv2d_backward_input_takes, hopper_conv2d_backward_input_workspace<T>, hopper_conv2d_backward_input<T>},
          {hopper_conv2d_backward_weight_takes, hopper_conv2d_backward_weight_workspace<T>, hopper_conv2d_backward_weight<T>}};
}
FOR_EACH_STORAGE(hopper_conv2d);

}  // namespace alexnet
