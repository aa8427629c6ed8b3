// tensor_cores.cu - rung 8: a warp multiplies at once, 16 x 8 x 8 values an instruction (mma.sync), operands rounded to tf32
// (10 bits after the point) on their way from shared memory to registers, sums in fp32. A block of 8 warps owns 128 x 128
// values of y, a warp 64 x 32 of them: faster arithmetic needs more reuse. Else it is the pipeline of rung 7.
//
// In the instruction lane 4 g + t has values t and t + 4 of k, of rows g and g + 8 of A and column g of B. The order of k
// does not matter to a sum, as long as A and B agree: so a lane reads r = 4 t .. 4 t + 3, 16 bytes, for two instructions.
// Rows are 16 apart: 8 lanes, two rows of four, find their values in 32 different banks. Of the result a lane has pairs of
// neighbours, which it writes as such. Needs C % 4 == 0 and K % 2 == 0.
#include "ladder.cuh"

namespace ladder {
namespace mma {
constexpr int kSide = 128, kDepth = 16, kStages = 3, kThreads = 256, kRowStep = kThreads / 4, kCopies = kSide / kRowStep;
constexpr int kPanel = kSide * kDepth, kSharedBytes = kStages * 2 * kPanel * int(sizeof(float));

struct Four {
  unsigned word[4];
  __device__ __forceinline__ void round(const float* p) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    word[0] = gpu::round_tf32(v.x), word[1] = gpu::round_tf32(v.y), word[2] = gpu::round_tf32(v.z), word[3] = gpu::round_tf32(v.w);
  }
};
}  // namespace mma

// One block a multiprocessor may have more than 128 registers a thread; in 128, for two blocks, it would spill.
__global__ void __launch_bounds__(mma::kThreads, 1) tensor_cores_conv(float* y, const float* x, const float* w, Shape s) {
  using namespace mma;
  float* const shared = gpu::dynamic_shared<float>();
  const int across = ceil_div(s.K, kSide), steps = ceil_div(s.taps(), kDepth);
  const long p0 = blockIdx.x / across * long(kSide);
  const int k0 = blockIdx.x % across * kSide;
  const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
  Window window[kCopies];
  IN_REGISTERS
  for (int i = 0; i < kCopies; ++i) window[i] = s.window(p0 + row + i * kRowStep);

  const auto fetch = [&](int step) {
    float* const a = shared + step % kStages * 2 * kPanel;
    const int r = step * kDepth + column;
    if (step < steps) {
      const Tap tap = s.tap(r);
      IN_REGISTERS
      for (int i = 0; i < kCopies; ++i) {
        const int at = row + i * kRowStep;
        copy4(a + at * kDepth + column, x, s.x_offset(window[i], tap));
        copy4(a + kPanel + at * kDepth + column, w, s.w_offset(k0 + at, r));
      }
    }
    gpu::cp_async_commit();
  };
  for (int step = 0; step < kStages - 1; ++step) fetch(step);

  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int own_row = warp % 2 * 64 + g, own_column = warp / 2 * 32;
  float sum[4][4][4] = {};  // 4 x 4 tiles of 16 x 8
  for (int step = 0; step < steps; ++step) {
    gpu::cp_async_wait<kStages - 2>();
    __syncthreads();
    const float *a = shared + step % kStages * 2 * kPanel, *b = a + kPanel;
    Four fb[4];
    IN_REGISTERS
    for (int j = 0; j < 4; ++j) fb[j].round(b + (own_column + 8 * j + g) * kDepth + 4 * t);
    IN_REGISTERS
    for (int i = 0; i < 4; ++i) {
      Four low, high;
      low.round(a + (own_row + 16 * i) * kDepth + 4 * t);
      high.round(a + (own_row + 16 * i + 8) * kDepth + 4 * t);
      IN_REGISTERS
      for (int j = 0; j < 4; ++j) {
        IN_REGISTERS
        for (int e = 0; e < 4; e += 2) {
          const unsigned ra[4] = {low.word[e], high.word[e], low.word[e + 1], high.word[e + 1]};
          const unsigned rb[2] = {fb[j].word[e], fb[j].word[e + 1]};
          gpu::mma_tf32_16x8x8(sum[i][j], ra, rb);
        }
      }
    }
    fetch(step + kStages - 1);  // last: its addresses take the registers of the fragments
  }
  gpu::cp_async_wait<0>();

  IN_REGISTERS
  for (int i = 0; i < 4; ++i) {
    IN_REGISTERS
    for (int j = 0; j < 4; ++j) {
      IN_REGISTERS
      for (int half = 0; half < 2; ++half)
        store2(y, s.y_offset(p0 + own_row + 16 * i + 8 * half, k0 + own_column + 8 * j + 2 * t), sum[i][j][2 * half],
               sum[i][j][2 * half + 1]);
    }
  }
}

void tensor_cores(float* y, const float* x, const float* w, float*, const Shape& s, cudaStream_t stream) {
  const long blocks = ceil_div(s.pixels(), mma::kSide) * ceil_div(s.K, mma::kSide);
  gpu::launch<tensor_cores_conv>({dim3(unsigned(blocks)), dim3(mma::kThreads), mma::kSharedBytes, stream}, y, x, w, s);
}

}  // namespace ladder
