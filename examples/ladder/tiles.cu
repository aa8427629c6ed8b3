// tiles.cu - rung 4: reuse through shared memory. A block owns 16 x 16 values of y and walks along r in steps of 16. At each
// step its threads bring 16 x 16 values of the columns and of w, one of each a thread, and then use each of them 16 times:
// global memory is asked for 1/16 of what it was asked for.
//
// What is left: shared memory now gives what global memory gave, two values for each product.
#include "im2col.cuh"

namespace ladder {
namespace tile {
constexpr int kSide = 16;
}

__global__ void tiles_product(float* y, const float* columns, const float* w, Shape s) {
  constexpr int kSide = tile::kSide;
  // Rows are 17 apart, so that 16 threads that read a value of 16 rows find them in 16 different banks.
  GPU_SHARED(float, as, [kSide][kSide + 1]);
  GPU_SHARED(float, bs, [kSide][kSide + 1]);
  const int across = ceil_div(s.K, kSide), R = s.taps(), tx = threadIdx.x, ty = threadIdx.y;
  const long p0 = blockIdx.x / across * long(kSide);
  const int k0 = blockIdx.x % across * kSide;
  float sum = 0;
  for (int r0 = 0; r0 < R; r0 += kSide) {
    as[ty][tx] = load(columns, p0 + ty < s.pixels() && r0 + tx < R ? (p0 + ty) * R + r0 + tx : -1);
    bs[ty][tx] = load(w, s.w_offset(k0 + ty, r0 + tx));
    __syncthreads();  // all values have come
    for (int r = 0; r < kSide; ++r) sum += as[ty][r] * bs[tx][r];
    __syncthreads();  // nobody reads them any more
  }
  store(y, s.y_offset(p0 + ty, k0 + tx), sum);
}

void tiles(float* y, const float* x, const float* w, float* columns, const Shape& s, cudaStream_t stream) {
  im2col(columns, x, s, stream);
  const long blocks = ceil_div(s.pixels(), tile::kSide) * ceil_div(s.K, tile::kSide);
  gpu::launch<tiles_product>({dim3(unsigned(blocks)), dim3(tile::kSide, tile::kSide), 0, stream}, y, columns, w, s);
}

}  // namespace ladder
