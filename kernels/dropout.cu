// dropout.cu - provisional
#include "kernels.h"
#include "platform/gpu.cuh"
namespace alexnet {
namespace {
__global__ void drop(long n, float* y, const float* x, const std::uint64_t* state, std::uint64_t threshold, float scale, std::uint32_t purpose) {
  for (long i : gpu::grid_range(n)) {
    const long q = i / 4;
    std::uint32_t c[4] = {std::uint32_t(q), std::uint32_t(q >> 32), std::uint32_t(state[1]), purpose}, k0 = std::uint32_t(state[0]), k1 = std::uint32_t(state[0] >> 32);
    for (int r = 0; r < 10; ++r) {
      const std::uint32_t h0 = __umulhi(0xD2511F53u, c[0]), l0 = 0xD2511F53u * c[0], h1 = __umulhi(0xCD9E8D57u, c[2]), l1 = 0xCD9E8D57u * c[2];
      c[0] = h1 ^ c[1] ^ k0, c[1] = l1, c[2] = h0 ^ c[3] ^ k1, c[3] = l0;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    y[i] = c[i % 4] >= threshold ? x[i] * scale : 0;
  }
}
}  // namespace
void dropout(float* y, const float* x, const std::uint64_t* state, long n, float p, float scale, std::uint32_t purpose, Stream t) {
  gpu::launch_independent<drop>({dim3(unsigned((n + 1023) / 1024)), dim3(256), 0, t}, n, y, x, state, std::uint64_t(double(p) * 4294967296.0), scale, purpose);
}
}  // namespace alexnet
