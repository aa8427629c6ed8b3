// wrappers.cu - what every wrapper of gpu.cuh and hopper.cuh around tensor cores and asynchronous copies gives for fixed
// pseudo-random data. Built by nvcc it tells what a GPU does, by a host compiler what the executor does:
//
//   nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -I kernels tests/native/wrappers.cu -o wrappers
//   g++ -std=c++20 -O2 -I kernels -x c++ tests/native/wrappers.cu -o wrappers
//
//   wrappers                          names the cases, one a line
//   wrappers DIR                      writes one file a case, words in hexadecimal; exits with 1 where a product is wrong
//   wrappers DIR EXPECTED [CASE...]   also compares with the files in the folder EXPECTED; of all cases, or of these
//
// Products of small integers are exact in every order of summation: those cases, like all that only move data, must agree
// bit by bit and with a naive product. Cases of general numbers ("rounding") show how operands are rounded: the order of
// summation may differ, so they agree to a tolerance far below one unit of the operands' precision.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "platform/hopper.cuh"
#ifndef __CUDACC__
#include "platform/executor.cpp"
#endif

namespace {

using Words = std::vector<std::uint32_t>;
using Floats = std::vector<float>;

// ---- the device's memory
#ifdef __CUDACC__
void require(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}
template <class T>
class Device {
 public:
  explicit Device(const std::vector<T>& v) : size_(v.size()) {
    require(cudaMalloc(&data_, size_ * sizeof(T)));
    require(cudaMemcpy(data_, v.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Device() { cudaFree(data_); }
  Device(const Device&) = delete;
  T* data() { return data_; }
  std::vector<T> host() const {
    std::vector<T> v(size_);
    require(cudaMemcpy(v.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }

 private:
  std::size_t size_;
  T* data_ = nullptr;
};
int compute_capability() {
  int major = 0, minor = 0;
  require(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  require(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  return 10 * major + minor;
}
#else
template <class T>
class Device {
 public:
  explicit Device(std::vector<T> v) : values_(std::move(v)) {}
  Device(const Device&) = delete;
  T* data() { return values_.data(); }
  const std::vector<T>& host() const { return values_; }

 private:
  std::vector<T> values_;
};
int compute_capability() { return 90; }
#endif

// ---- data
std::uint32_t hash(std::uint32_t i) {
  i = (i ^ i >> 16) * 0x7feb352d;
  i = (i ^ i >> 15) * 0x846ca68b;
  return i ^ i >> 16;
}
Words words(long n) {
  Words v(n);
  for (long i = 0; i < n; ++i) v[i] = hash(std::uint32_t(i));
  return v;
}
Floats numbers(long n, bool integers, std::uint32_t seed) {
  Floats v(n);
  for (long i = 0; i < n; ++i) {
    const std::uint32_t h = hash(std::uint32_t(i) + seed * 1000003);
    v[i] = integers ? float(int(h % 9) - 4) : float(h >> 8) / (1 << 23) - 1;
  }
  return v;
}
std::vector<std::uint16_t> bf16(const Floats& v) {  // by truncation
  std::vector<std::uint16_t> b(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &v[i], 4);
    b[i] = bits >> 16;
  }
  return b;
}
Words as_words(const Floats& v) {
  Words w(v.size());
  std::memcpy(w.data(), v.data(), 4 * v.size());
  return w;
}

// C (M, N) = A (M, K) B (N, K)^T
Floats product(const Floats& a, const Floats& b, int M, int N, int K) {
  Floats c(M * N);
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j)
      for (int k = 0; k < K; ++k) c[i * N + j] += a[i * K + k] * b[j * K + k];
  return c;
}
void require_equal(const char* name, const Floats& got, const Floats& expected) {
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i] != expected[i])
      throw std::runtime_error(std::string(name) + ": element " + std::to_string(i) + " is " + std::to_string(got[i]) + ", not " +
                               std::to_string(expected[i]));
}

// ---- cp.async: three sizes, every third copy filled with zeros, in two groups
__global__ void cp_async_kernel(unsigned* out, const unsigned* in) {
  GPU_SHARED(unsigned, a, [512]);
  const int t = threadIdx.x;
  gpu::cp_async<16>(a + 4 * t, in + 4 * t, t % 3 != 0);
  gpu::cp_async_commit();
  gpu::cp_async<8>(a + 256 + 2 * t, in + 256 + 2 * t, t % 3 != 1);
  gpu::cp_async<4>(a + 384 + t, in + 384 + t, t % 3 != 2);
  gpu::cp_async_commit();
  gpu::cp_async_wait<1>();
  __syncthreads();
  for (int i = t; i < 256; i += 64) out[i] = a[i ^ 4];
  gpu::cp_async_wait<0>();
  __syncthreads();
  for (int i = 256 + t; i < 448; i += 64) out[i] = a[i ^ 4];
}
Words cp_async_case() {
  Device<unsigned> in(words(448)), out(Words(448));
  gpu::launch<cp_async_kernel>({dim3(1), dim3(64)}, out.data(), in.data());
  return out.host();
}

// ---- ldmatrix
template <bool Transposed>
__global__ void ldmatrix_kernel(unsigned* out, const unsigned* in) {
  GPU_SHARED(unsigned, a, [32 * 8]);  // rows of 32 bytes, of which 16 are used
  for (int i = threadIdx.x; i < 256; i += 32) a[i] = in[i];
  __syncthreads();
  unsigned r[4];
  gpu::ldmatrix<4, Transposed>(r, a + threadIdx.x * 8);
  for (int m = 0; m < 4; ++m) out[m * 32 + threadIdx.x] = r[m];
}
template <bool Transposed>
Words ldmatrix_case() {
  Device<unsigned> in(words(256)), out(Words(128));
  gpu::launch<ldmatrix_kernel<Transposed>>({dim3(1), dim3(32)}, out.data(), in.data());
  return out.host();
}

// ---- rounding of numbers of every size, of ties and of infinity
__global__ void rounding_kernel(unsigned* out, const float* in) {
  const int t = threadIdx.x;
  out[t] = gpu::round_tf32(in[t]) & ~0x1fffu;  // the rest means nothing
  out[t + 64] = gpu::round_bf16(in[t], in[t ^ 1]);
}
Words rounding_case() {
  Words bits = words(64);
  for (unsigned& b : bits) b &= 0xbfffffff;  // neither infinity nor NaN
  const unsigned special[] = {0x3f801000, 0x3f803000, 0xbf801000, 0x3f800fff, 0x3f808000, 0x3f818000, 0xbf808000, 0x7f800000, 0x7f7fffff};
  std::copy(std::begin(special), std::end(special), bits.begin());
  Floats values(64);
  std::memcpy(values.data(), bits.data(), 256);
  Device<float> in(values);
  Device<unsigned> out(Words(128));
  gpu::launch<rounding_kernel>({dim3(1), dim3(64)}, out.data(), in.data());
  const unsigned tf32[] = {0x3f802000, 0x3f804000, 0xbf802000, 0x3f800000, 0x3f808000, 0x3f818000, 0xbf808000, 0x7f800000, 0x7f800000};
  const unsigned bf16[] = {0x3f80, 0x3f80, 0xbf80, 0x3f80, 0x3f80, 0x3f82, 0xbf80, 0x7f80, 0x7f80};
  for (int i = 0; i < 9; ++i)
    if (out.host()[i] != tf32[i] || (out.host()[i + 64] & 0xffff) != bf16[i])
      throw std::runtime_error("rounding: number " + std::to_string(i) + " is not the nearest");
  return out.host();
}

// ---- mma: C (16, 8) = A (16, K) B (8, K)^T by one warp
__global__ void mma_tf32_kernel(float* c, const float* a, const float* b) {
  const int lane = threadIdx.x, row = lane / 4, column = lane % 4;
  float d[4] = {};
  for (int k = 0; k < 32; k += 8) {
    const unsigned ra[4] = {__float_as_uint(a[row * 32 + k + column]), __float_as_uint(a[(row + 8) * 32 + k + column]),
                            __float_as_uint(a[row * 32 + k + column + 4]), __float_as_uint(a[(row + 8) * 32 + k + column + 4])};
    const unsigned rb[2] = {__float_as_uint(b[row * 32 + k + column]), __float_as_uint(b[row * 32 + k + column + 4])};
    gpu::mma_tf32_16x8x8(d, ra, rb);
  }
  for (int e = 0; e < 4; ++e) c[(row + e / 2 * 8) * 8 + column * 2 + e % 2] = d[e];
}
__global__ void mma_bf16_kernel(float* c, const unsigned* a, const unsigned* b) {  // pairs of values
  const int lane = threadIdx.x, row = lane / 4, column = lane % 4;
  float d[4] = {};
  for (int k = 0; k < 16; k += 8) {
    const unsigned ra[4] = {a[row * 16 + k + column], a[(row + 8) * 16 + k + column], a[row * 16 + k + column + 4],
                            a[(row + 8) * 16 + k + column + 4]};
    const unsigned rb[2] = {b[row * 16 + k + column], b[row * 16 + k + column + 4]};
    gpu::mma_bf16_16x8x16(d, ra, rb);
  }
  for (int e = 0; e < 4; ++e) c[(row + e / 2 * 8) * 8 + column * 2 + e % 2] = d[e];
}
// The same through shared memory: A by ldmatrix as it lies, B (K, 8) by ldmatrix transposed.
__global__ void mma_ldmatrix_kernel(float* c, const std::uint16_t* a, const std::uint16_t* b) {
  GPU_SHARED(std::uint16_t, as, [16][16]);
  GPU_SHARED(std::uint16_t, bs, [32][8]);
  const int lane = threadIdx.x;
  float d[4] = {};
  for (int i = lane; i < 32 * 8; i += 32) bs[i / 8][i % 8] = b[i % 8 * 32 + i / 8];
  __syncthreads();
  unsigned rb[4];  // of both steps along k
  gpu::ldmatrix<4, true>(rb, bs[lane]);
  for (int k = 0; k < 32; k += 16) {
    __syncthreads();
    for (int i = lane; i < 256; i += 32) as[i / 16][i % 16] = a[i / 16 * 32 + k + i % 16];
    __syncthreads();
    unsigned ra[4];
    gpu::ldmatrix<4, false>(ra, &as[lane % 16][lane / 16 * 8]);
    const unsigned half[2] = {rb[k / 8], rb[k / 8 + 1]};
    gpu::mma_bf16_16x8x16(d, ra, half);
  }
  for (int e = 0; e < 4; ++e) c[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = d[e];
}
Words mma_case(const char* name, bool integers) {
  const Floats a = numbers(16 * 32, integers, 1), b = numbers(8 * 32, integers, 2);
  Device<float> c(Floats(128));
  if (!std::strcmp(name, "mma_tf32")) {
    Device<float> da(a), db(b);
    gpu::launch<mma_tf32_kernel>({dim3(1), dim3(32)}, c.data(), da.data(), db.data());
  } else {
    Device<std::uint16_t> da(bf16(a)), db(bf16(b));
    if (!std::strcmp(name, "mma_bf16"))
      gpu::launch<mma_bf16_kernel>({dim3(1), dim3(32)}, c.data(), reinterpret_cast<unsigned*>(da.data()),
                                   reinterpret_cast<unsigned*>(db.data()));
    else
      gpu::launch<mma_ldmatrix_kernel>({dim3(1), dim3(32)}, c.data(), da.data(), db.data());
  }
  if (integers) require_equal(name, c.host(), product(a, b, 16, 8, 32));
  return as_words(c.host());
}

// ---- mbarrier: what 64 threads write in one phase their neighbours read in the next
__global__ void mbarrier_kernel(unsigned* out) {
  GPU_SHARED(std::uint64_t, full, [1]);
  GPU_SHARED(std::uint64_t, empty, [1]);
  GPU_SHARED(unsigned, a, [64]);
  const int t = threadIdx.x;
  if (t == 0) {
    gpu::mbarrier_init(full, 64);
    gpu::mbarrier_init(empty, 64);
    gpu::fence_barrier_init();
  }
  __syncthreads();
  unsigned v = t;
  for (int phase = 0; phase < 5; ++phase) {
    a[t] = v;
    gpu::mbarrier_arrive(full);
    gpu::mbarrier_wait(full, phase & 1);
    v = v * 3 + a[(t + 17) % 64];
    gpu::mbarrier_arrive(empty);
    gpu::mbarrier_wait(empty, phase & 1);
  }
  out[t] = v;
}
Words mbarrier_case() {
  Device<unsigned> out(Words(64));
  gpu::launch<mbarrier_kernel>({dim3(1), dim3(64)}, out.data());
  return out.host();
}

// ---- TMA: shared memory as a copy leaves it, for a list of coordinates
struct Position {
  int x, y, z = 0, n = 0, tap_w = 0, tap_h = 0;
};
enum class Load { matrix, images, im2col };
template <Load Kind>
__global__ void tma_kernel(unsigned* out, const __grid_constant__ gpu::TensorMap map, Position at, int bytes) {
  unsigned* tile = gpu::dynamic_shared<unsigned>();
  GPU_SHARED(std::uint64_t, barrier, [1]);
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(barrier, 1);
    gpu::fence_barrier_init();
    gpu::mbarrier_arrive_expect(barrier, bytes);
    if (Kind == Load::matrix) gpu::tma_load_2d(tile, map, barrier, at.x, at.y);
    if (Kind == Load::images) gpu::tma_load_4d(tile, map, barrier, at.x, at.y, at.z, at.n);
    if (Kind == Load::im2col) gpu::tma_load_im2col(tile, map, barrier, at.x, at.y, at.z, at.n, at.tap_w, at.tap_h);
  }
  __syncthreads();
  gpu::mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) out[i] = tile[i];
}
template <Load Kind>
Words tma_loads(const gpu::TensorMap& map, int bytes, const std::vector<Position>& positions) {
  Words all;
  for (const Position& at : positions) {
    Device<unsigned> out(Words(bytes / 4));
    gpu::launch<tma_kernel<Kind>>({dim3(1), dim3(64), std::size_t(bytes)}, out.data(), map, at, bytes);
    const Words w = out.host();
    all.insert(all.end(), w.begin(), w.end());
  }
  return all;
}
Words tma_2d_case(int swizzle) {  // (40, 80) of 16 bits in boxes of (8, 64); past every edge too
  Device<unsigned> in(words(40 * 40));
  return tma_loads<Load::matrix>(gpu::make_tensor_map_2d(in.data(), 40, 80, 8, 64, 2, swizzle), 8 * 64 * 2,
                                 {{0, 0}, {16, 24}, {48, 36}, {-8, -3}});
}
Words tma_4d_case() {  // (2, 5, 6, 16) of 32 bits in boxes of (1, 3, 4, 8)
  Device<unsigned> in(words(2 * 5 * 6 * 16));
  return tma_loads<Load::images>(gpu::make_tensor_map_4d(in.data(), 2, 5, 6, 16, 3, 4, 8, 4, 0), 3 * 4 * 8 * 4,
                                 {{0, 0, 0, 0}, {8, 2, 2, 1}, {0, -1, -1, 0}, {8, 4, 3, 1}});
}
Words tma_im2col_case(int stride) {  // 3 x 3 windows of (2, 7, 6, 16), padding 1, against naive im2col
  const int N = 2, H = 7, W = 6, C = 16, OH = (H - 1) / stride + 1, OW = (W - 1) / stride + 1, pixels = N * OH * OW;
  const Floats x = numbers(N * H * W * C, true, 3);
  Device<float> in(x);
  std::vector<Position> taps;
  Floats expected;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      taps.push_back({0, -1, -1, 0, j, i});
      for (int p = 0; p < pixels; ++p)
        for (int c = 0; c < C; ++c) {
          const int h = p / OW % OH * stride - 1 + i, w = p % OW * stride - 1 + j;
          expected.push_back(h < 0 || h >= H || w < 0 || w >= W ? 0 : x[((p / OW / OH * H + h) * W + w) * C + c]);
        }
    }
  const Words got =
      tma_loads<Load::im2col>(gpu::make_tensor_map_im2col(in.data(), N, H, W, C, 3, 1, stride, pixels, C, 4, 0), pixels * C * 4, taps);
  Floats values(got.size());
  std::memcpy(values.data(), got.data(), 4 * got.size());
  require_equal("tma_im2col", values, expected);
  return got;
}

// What the convolution on TMA loads: rows of 128 bytes with the swizzle, of 64 or 32 channels that may end inside.
template <class T>
std::vector<T> elements(long n);
template <>
std::vector<std::uint16_t> elements(long n) {
  return bf16(numbers(n, true, 14));
}
template <>
std::vector<float> elements(long n) {
  return numbers(n, true, 14);
}
template <class T>
void require_rows(const char* name, const Words& got, const std::vector<T>& expected) {  // as they are before the swizzle
  const char* bytes = reinterpret_cast<const char*>(got.data());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::size_t at = i * sizeof(T), row = at / 128;
    if (std::memcmp(bytes + row * 128 + ((at % 128 / 16 ^ row % 8) * 16) + at % 16, &expected[i], sizeof(T)))
      throw std::runtime_error(std::string(name) + ": element " + std::to_string(i) + " is wrong");
  }
}
template <class T>
Words tma_rows_case() {  // (40, 80) in boxes of 16 rows
  const int R = 40, C = 80, rows = 16, wide = 128 / sizeof(T);
  const std::vector<T> x = elements<T>(R * C);
  Device<T> in(x);
  const std::vector<Position> positions = {{0, 0}, {48, 30}};
  std::vector<T> expected;
  for (const Position& at : positions)
    for (int r = at.y; r < at.y + rows; ++r)
      for (int c = at.x; c < at.x + wide; ++c) expected.push_back(r < R && c < C ? x[r * C + c] : T{});
  const Words got = tma_loads<Load::matrix>(gpu::make_tensor_map_2d(in.data(), R, C, rows, wide, sizeof(T), 128), rows * 128, positions);
  require_rows("tma_rows", got, expected);
  return got;
}
template <class T>
Words tma_im2col_rows_case(int stride, int C) {  // 3 x 3 windows of (3, 9, 7, C), padding 1, in boxes of 32 pixels
  const int N = 3, H = 9, W = 7, OH = (H - 1) / stride + 1, OW = (W - 1) / stride + 1, pixels = 32, wide = 128 / sizeof(T);
  const std::vector<T> x = elements<T>(N * H * W * C);
  Device<T> in(x);
  std::vector<Position> positions;
  std::vector<T> expected;
  for (const int first : {0, OH * OW - 5})  // of the output, across the end of an image
    for (const int channel : {0, C - 32}) {
      const int tap = first ? 2 : 0;
      const int w = first % OW * stride - 1, h = first / OW % OH * stride - 1;
      positions.push_back({channel, w, h, first / OW / OH, tap, 2 - tap});
      for (int p = first; p < first + pixels; ++p)
        for (int c = channel; c < channel + wide; ++c) {
          const int n = p / OW / OH, y = p / OW % OH * stride - 1 + 2 - tap, z = p % OW * stride - 1 + tap;
          const bool inside = c < C && n < N && y >= 0 && y < H && z >= 0 && z < W;
          expected.push_back(inside ? x[((n * H + y) * W + z) * C + c] : T{});
        }
    }
  const auto map = gpu::make_tensor_map_im2col(in.data(), N, H, W, C, 3, 1, stride, pixels, wide, sizeof(T), 128);
  const Words got = tma_loads<Load::im2col>(map, pixels * 128, positions);
  require_rows("tma_im2col_rows", got, expected);
  return got;
}

// ---- wgmma: C (64, 64) = A (64, 64) B (64, 64)^T by one warpgroup, operands in both layouts of shared memory
template <bool Swizzled>
__global__ void wgmma_kernel(float* c, const std::uint16_t* a, const std::uint16_t* b) {
  char* as = gpu::dynamic_shared<char>();
  char* bs = as + 8192;
  const int t = threadIdx.x;
  for (int i = t; i < 64 * 64; i += 128) {
    const int row = i / 64, k = i % 64;
    // rows of 128 bytes whose 16-byte pieces are permuted; or 8 x 8 tiles of 128 bytes, those along k side by side
    const int at = Swizzled ? row * 128 + ((k / 8 ^ row % 8) * 16) + k % 8 * 2 : row / 8 * 1024 + k / 8 * 128 + row % 8 * 16 + k % 8 * 2;
    *reinterpret_cast<std::uint16_t*>(as + at) = a[i];
    *reinterpret_cast<std::uint16_t*>(bs + at) = b[i];
  }
  gpu::fence_proxy_async();
  __syncthreads();
  float d[32];
  for (int e = 0; e < 32; ++e) d[e] = 1e30f;  // the first product does not accumulate
  gpu::wgmma_fence();
  for (int k = 0; k < 64; k += 16) {
    const int step = Swizzled ? k * 2 : k / 8 * 128, lead = Swizzled ? 16 : 128;
    gpu::wgmma_bf16(d, gpu::wgmma_descriptor(as + step, lead, 1024, Swizzled), gpu::wgmma_descriptor(bs + step, lead, 1024, Swizzled),
                    k > 0);
    gpu::wgmma_commit();
  }
  gpu::wgmma_wait<0>();
  for (int e = 0; e < 32; ++e) c[(t / 32 * 16 + t % 32 / 4 + e / 2 % 2 * 8) * 64 + e / 4 * 8 + t % 4 * 2 + e % 2] = d[e];
}
template <bool Swizzled>
Words wgmma_case(bool integers) {
  const Floats a = numbers(64 * 64, integers, 4), b = numbers(64 * 64, integers, 5);
  Device<std::uint16_t> da(bf16(a)), db(bf16(b));
  Device<float> c(Floats(64 * 64));
  gpu::launch<wgmma_kernel<Swizzled>>({dim3(1), dim3(128), 16384}, c.data(), da.data(), db.data());
  if (integers) require_equal("wgmma", c.host(), product(a, b, 64, 64, 64));
  return as_words(c.host());
}

// C (64, N) = A (64, 16) B (N, 16)^T, rows of 32 bytes as 8 x 8 tiles, those along k side by side
template <int N>
__global__ void wgmma_wide_kernel(float* c, const std::uint16_t* a, const std::uint16_t* b) {
  char* as = gpu::dynamic_shared<char>();
  char* bs = as + 64 * 32;
  const int t = threadIdx.x;
  for (int i = t; i < (64 + N) * 16; i += 128) {
    const int row = i / 16, k = i % 16;
    *reinterpret_cast<std::uint16_t*>(as + row / 8 * 256 + k / 8 * 128 + row % 8 * 16 + k % 8 * 2) = row < 64 ? a[i] : b[i - 64 * 16];
  }
  gpu::fence_proxy_async();
  __syncthreads();
  float d[N / 2] = {};
  gpu::wgmma_fence();
  gpu::wgmma_bf16(d, gpu::wgmma_descriptor(as, 128, 256, 0), gpu::wgmma_descriptor(bs, 128, 256, 0), 1);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
  for (int e = 0; e < N / 2; ++e) c[(t / 32 * 16 + t % 32 / 4 + e / 2 % 2 * 8) * N + e / 4 * 8 + t % 4 * 2 + e % 2] = d[e];
}
template <int N>
Words wgmma_wide_case() {
  const Floats a = numbers(64 * 16, true, 8), b = numbers(N * 16, true, 9);
  Device<std::uint16_t> da(bf16(a)), db(bf16(b));
  Device<float> c(Floats(64 * N));
  gpu::launch<wgmma_wide_kernel<N>>({dim3(1), dim3(128), (64 + N) * 32}, c.data(), da.data(), db.data());
  require_equal("wgmma_wide", c.host(), product(a, b, 64, N, 16));
  return as_words(c.host());
}

// C (64, N) = A (64, 32) B (N, 32)^T in tf32, in both layouts of shared memory
template <int N, bool Swizzled>
__global__ void wgmma_tf32_kernel(float* c, const float* a, const float* b) {
  char* as = gpu::dynamic_shared<char>();
  char* bs = as + 64 * 128;
  const int t = threadIdx.x;
  for (int i = t; i < (64 + N) * 32; i += 128) {
    const int row = i / 32, k = i % 32;
    const int at = Swizzled ? row * 128 + ((k / 4 ^ row % 8) * 16) + k % 4 * 4 : row / 8 * 1024 + k / 4 * 128 + row % 8 * 16 + k % 4 * 4;
    *reinterpret_cast<float*>(as + at) = row < 64 ? a[i] : b[i - 64 * 32];
  }
  gpu::fence_proxy_async();
  __syncthreads();
  float d[N / 2];
  for (int e = 0; e < N / 2; ++e) d[e] = 1e30f;  // the first product does not accumulate
  gpu::wgmma_fence();
  for (int k = 0; k < 32; k += 8) {
    const int step = Swizzled ? k * 4 : k / 4 * 128, lead = Swizzled ? 16 : 128;
    gpu::wgmma_tf32(d, gpu::wgmma_descriptor(as + step, lead, 1024, Swizzled), gpu::wgmma_descriptor(bs + step, lead, 1024, Swizzled),
                    k > 0);
    gpu::wgmma_commit();
  }
  gpu::wgmma_wait<0>();
  for (int e = 0; e < N / 2; ++e) c[(t / 32 * 16 + t % 32 / 4 + e / 2 % 2 * 8) * N + e / 4 * 8 + t % 4 * 2 + e % 2] = d[e];
}
template <int N, bool Swizzled>
Words wgmma_tf32_case(bool integers) {
  const Floats a = numbers(64 * 32, integers, 12), b = numbers(N * 32, integers, 13);
  Device<float> da(a), db(b), c(Floats(64 * N));
  gpu::launch<wgmma_tf32_kernel<N, Swizzled>>({dim3(1), dim3(128), (64 + N) * 128}, c.data(), da.data(), db.data());
  if (integers) require_equal("wgmma_tf32", c.host(), product(a, b, 64, N, 32));
  return as_words(c.host());
}

// C (64, N) = A (64, 32) B (N, 32)^T. An operand along k: rows of 128 bytes, of which half are used, whose 16-byte pieces are
// permuted by the row. Across k: for each k 64 rows of the operand, 128 bytes permuted by k; what is beyond 64 rows follows
// after all k.
template <int Rows, bool Along>
constexpr int kAcrossBytes = Along ? Rows * 128 : (Rows + 63) / 64 * 32 * 128;
__device__ void put_across(char* to, bool along, int row, int k, std::uint16_t value) {
  const int r = row % 64,
            at = along ? row * 128 + ((k / 8 ^ row % 8) * 16) + k % 8 * 2 : row / 64 * 4096 + k * 128 + ((r / 8 ^ k % 8) * 16) + r % 8 * 2;
  *reinterpret_cast<std::uint16_t*>(to + at) = value;
}
template <int N, bool AlongA, bool AlongB>
__global__ void wgmma_across_kernel(float* c, const std::uint16_t* a, const std::uint16_t* b) {
  char* as = gpu::dynamic_shared<char>();
  char* bs = as + kAcrossBytes<64, AlongA>;
  const int t = threadIdx.x;
  for (int i = t; i < 64 * 32; i += 128) put_across(as, AlongA, i / 32, i % 32, a[i]);
  for (int i = t; i < N * 32; i += 128) put_across(bs, AlongB, i / 32, i % 32, b[i]);
  gpu::fence_proxy_async();
  __syncthreads();
  float d[N / 2] = {};
  gpu::wgmma_fence();
  for (int k = 0; k < 32; k += 16)
    gpu::wgmma_bf16<AlongA, AlongB>(d, gpu::wgmma_descriptor(as + (AlongA ? k * 2 : k * 128), AlongA ? 16 : 4096, 1024, 1),
                                    gpu::wgmma_descriptor(bs + (AlongB ? k * 2 : k * 128), AlongB ? 16 : 4096, 1024, 1), 1);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
  for (int e = 0; e < N / 2; ++e) c[(t / 32 * 16 + t % 32 / 4 + e / 2 % 2 * 8) * N + e / 4 * 8 + t % 4 * 2 + e % 2] = d[e];
}
template <int N, bool AlongA, bool AlongB>
Words wgmma_across_case() {
  const Floats a = numbers(64 * 32, true, 10), b = numbers(N * 32, true, 11);
  Device<std::uint16_t> da(bf16(a)), db(bf16(b));
  Device<float> c(Floats(64 * N));
  const std::size_t shared = kAcrossBytes<64, AlongA> + kAcrossBytes<N, AlongB>;
  gpu::launch<wgmma_across_kernel<N, AlongA, AlongB>>({dim3(1), dim3(128), shared}, c.data(), da.data(), db.data());
  require_equal("wgmma_across", c.host(), product(a, b, 64, N, 32));
  return as_words(c.host());
}

// ---- all together: a producing warpgroup feeds two consuming ones through a ring of tiles
constexpr int kStages = 3, kBytesA = 128 * 64 * 2, kBytesB = 64 * 64 * 2;
__global__ void __launch_bounds__(384, 1)
    pipeline_kernel(float* c, int steps, const __grid_constant__ gpu::TensorMap a_map, const __grid_constant__ gpu::TensorMap b_map) {
  char* ring = gpu::dynamic_shared<char>();
  GPU_SHARED(std::uint64_t, full, [kStages]);
  GPU_SHARED(std::uint64_t, empty, [kStages]);
  const int group = threadIdx.x / 128, t = threadIdx.x % 128;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      gpu::mbarrier_init(&full[s], 1);
      gpu::mbarrier_init(&empty[s], 2);
    }
    gpu::fence_barrier_init();
  }
  __syncthreads();
  if (group == 2) {
    gpu::registers_lower<40>();
    if (t == 0)
      for (int k = 0; k < steps; ++k) {
        const int s = k % kStages;
        char* tile = ring + s * (kBytesA + kBytesB);
        if (k >= kStages) gpu::mbarrier_wait(&empty[s], (k / kStages - 1) & 1);
        gpu::mbarrier_arrive_expect(&full[s], kBytesA + kBytesB);
        gpu::tma_load_2d(tile, a_map, &full[s], k * 64, 0);
        gpu::tma_load_2d(tile + kBytesA, b_map, &full[s], k * 64, 0);
      }
  } else {
    gpu::registers_raise<232>();
    float d[32] = {};
    for (int k = 0; k < steps; ++k) {
      const int s = k % kStages;
      char* tile = ring + s * (kBytesA + kBytesB);
      gpu::mbarrier_wait(&full[s], k / kStages & 1);
      gpu::wgmma_fence();
      for (int j = 0; j < 4; ++j)
        gpu::wgmma_bf16(d, gpu::wgmma_descriptor(tile + group * kBytesA / 2 + j * 32, 16, 1024, 1),
                        gpu::wgmma_descriptor(tile + kBytesA + j * 32, 16, 1024, 1), 1);
      gpu::wgmma_commit();
      gpu::wgmma_wait<0>();
      if (t == 0) gpu::mbarrier_arrive(&empty[s]);
    }
    for (int e = 0; e < 32; ++e) c[(group * 64 + t / 32 * 16 + t % 32 / 4 + e / 2 % 2 * 8) * 64 + e / 4 * 8 + t % 4 * 2 + e % 2] = d[e];
  }
}
Words pipeline_case() {
  const int K = 448;
  const Floats a = numbers(128 * K, true, 6), b = numbers(64 * K, true, 7);
  Device<std::uint16_t> da(bf16(a)), db(bf16(b));
  Device<float> c(Floats(128 * 64));
  gpu::launch<pipeline_kernel>({dim3(1), dim3(384), kStages * (kBytesA + kBytesB)}, c.data(), K / 64,
                               gpu::make_tensor_map_2d(da.data(), 128, K, 128, 64, 2, 128),
                               gpu::make_tensor_map_2d(db.data(), 64, K, 64, 64, 2, 128));
  require_equal("pipeline", c.host(), product(a, b, 128, 64, K));
  return as_words(c.host());
}

// ---- files
struct Case {
  const char* name;
  int least, most;  // compute capability
  float tolerance;  // 0: the words are equal
  std::function<Words()> run;
};
const Case cases[] = {
    {"cp_async", 80, 999, 0, cp_async_case},
    {"ldmatrix", 80, 999, 0, ldmatrix_case<false>},
    {"ldmatrix_transposed", 80, 999, 0, ldmatrix_case<true>},
    {"rounding", 80, 999, 0, rounding_case},
    {"mma_tf32", 80, 999, 0, [] { return mma_case("mma_tf32", true); }},
    {"mma_tf32_rounding", 80, 999, 2e-5f, [] { return mma_case("mma_tf32", false); }},
    {"mma_bf16", 80, 999, 0, [] { return mma_case("mma_bf16", true); }},
    {"mma_bf16_rounding", 80, 999, 2e-5f, [] { return mma_case("mma_bf16", false); }},
    {"mma_ldmatrix", 80, 999, 0, [] { return mma_case("mma_ldmatrix", true); }},
    {"mbarrier", 90, 999, 0, mbarrier_case},
    {"tma_2d", 90, 999, 0, [] { return tma_2d_case(0); }},
    {"tma_2d_swizzle", 90, 999, 0, [] { return tma_2d_case(128); }},
    {"tma_4d", 90, 999, 0, tma_4d_case},
    {"tma_im2col", 90, 999, 0, [] { return tma_im2col_case(1); }},
    {"tma_im2col_stride", 90, 999, 0, [] { return tma_im2col_case(2); }},
    {"tma_rows_bf16", 90, 999, 0, tma_rows_case<std::uint16_t>},
    {"tma_rows_tf32", 90, 999, 0, tma_rows_case<float>},
    {"tma_im2col_rows_bf16", 90, 999, 0, [] { return tma_im2col_rows_case<std::uint16_t>(1, 80); }},
    {"tma_im2col_rows_bf16_few", 90, 999, 0, [] { return tma_im2col_rows_case<std::uint16_t>(1, 48); }},  // fewer than a box has
    {"tma_im2col_rows_bf16_stride", 90, 999, 0, [] { return tma_im2col_rows_case<std::uint16_t>(4, 80); }},
    {"tma_im2col_rows_tf32", 90, 999, 0, [] { return tma_im2col_rows_case<float>(2, 80); }},
    {"wgmma", 90, 90, 0, [] { return wgmma_case<false>(true); }},
    {"wgmma_swizzle", 90, 90, 0, [] { return wgmma_case<true>(true); }},
    {"wgmma_rounding", 90, 90, 5e-5f, [] { return wgmma_case<true>(false); }},
    {"wgmma_96_wide", 90, 90, 0, wgmma_wide_case<96>},
    {"wgmma_128_wide", 90, 90, 0, wgmma_wide_case<128>},
    {"wgmma_tf32", 90, 90, 0, [] { return wgmma_tf32_case<64, false>(true); }},
    {"wgmma_tf32_swizzle", 90, 90, 0, [] { return wgmma_tf32_case<128, true>(true); }},
    {"wgmma_tf32_rounding", 90, 90, 2e-5f, [] { return wgmma_tf32_case<96, true>(false); }},
    {"wgmma_across", 90, 90, 0, wgmma_across_case<128, false, false>},
    {"wgmma_across_a", 90, 90, 0, wgmma_across_case<64, false, true>},
    {"wgmma_across_b", 90, 90, 0, wgmma_across_case<128, true, false>},
    {"wgmma_96_across", 90, 90, 0, wgmma_across_case<96, false, false>},
    {"pipeline", 90, 90, 0, pipeline_case},
    {"tma_im2col_rows_tf32_part", 90, 999, 0, [] { return tma_im2col_rows_case<float>(1, 48); }},
};

void write(const std::string& path, const Words& w) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (!file) throw std::runtime_error(path + ": cannot be written");
  for (std::size_t i = 0; i < w.size(); ++i) std::fprintf(file, "%08x%c", unsigned(w[i]), i % 8 == 7 ? '\n' : ' ');
  std::fclose(file);
}
std::string compare(const std::string& path, const Words& got, float tolerance) {  // what is wrong
  std::ifstream file(path);
  Words expected;
  for (std::string word; file >> word;) expected.push_back(std::uint32_t(std::stoul(word, nullptr, 16)));
  if (expected.size() != got.size()) return std::to_string(got.size()) + " words, expected " + std::to_string(expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    float a, b;
    std::memcpy(&a, &got[i], 4);
    std::memcpy(&b, &expected[i], 4);
    if (got[i] == expected[i] || (tolerance > 0 && std::abs(a - b) <= tolerance)) continue;
    char text[128];
    std::snprintf(text, sizeof text, "word %zu is %08x (%.9g), expected %08x (%.9g)", i, unsigned(got[i]), a, unsigned(expected[i]), b);
    return text;
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc == 1) {
    for (const Case& c : cases) std::puts(c.name);
    return 0;
  }
  const std::set<std::string> wanted(argv + std::min(argc, 3), argv + argc);
  for (const std::string& name : wanted)
    if (std::none_of(std::begin(cases), std::end(cases), [&](const Case& c) { return c.name == name; }))
      return std::fprintf(stderr, "wrappers: unknown case %s: expected one that wrappers names without arguments\n", name.c_str()), 2;
  const int capability = compute_capability();
  int failures = 0;
  for (const Case& c : cases) {
    if (!wanted.empty() && !wanted.count(c.name)) continue;
    std::string verdict = "ok";
    if (capability < c.least || capability > c.most) {
      verdict = "not run: needs compute capability " + std::to_string(c.least / 10) + ".0";
    } else {
      try {
        const Words w = c.run();
        write(std::string(argv[1]) + "/" + c.name + ".txt", w);
        const std::string expected = argc > 2 ? std::string(argv[2]) + "/" + c.name + ".txt" : "";
        if (argc > 2 && !std::filesystem::exists(expected))
          verdict = "not compared: nothing expected";
        else if (argc > 2 && !(verdict = compare(expected, w, c.tolerance)).empty())
          ++failures;
        else
          verdict = argc > 2 ? "as expected" : "ok";
      } catch (const std::exception& e) {
        verdict = e.what();
        ++failures;
      }
    }
    std::printf("%s: %s\n", c.name, verdict.c_str());
  }
  return failures != 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "wrappers: %s\n", e.what());
  return 1;
}
