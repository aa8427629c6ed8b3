// random.cuh - random numbers by counting: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011) turns a counter and a key into four 32-bit words. Nothing is stored between calls, so a word
// depends only on what it is for, never on tiling, device or thread count.
//
// Random word i of (seed, step, purpose), all unsigned:
//   key      seed mod 2^32, seed div 2^32
//   counter  q mod 2^32, q div 2^32, step mod 2^32, purpose    with q = i div 4
//   word     number i mod 4 of the result
#pragma once
#include <cstdint>

#include "platform/gpu.cuh"

namespace alexnet {
namespace {

struct RandomState {  // in device memory, so that a captured step can be replayed with another one
  std::uint64_t seed, step;
};

__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
  UNROLL
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t(0xD2511F53) * counter.x, b = std::uint64_t(0xCD9E8D57) * counter.z;
    counter = {unsigned(b >> 32) ^ counter.y ^ key.x, unsigned(b), unsigned(a >> 32) ^ counter.w ^ key.y, unsigned(a)};
    key = {key.x + 0x9E3779B9, key.y + 0xBB67AE85};
  }
  return counter;
}

// Words 4 q to 4 q + 3.
__device__ __forceinline__ uint4 random_words(RandomState s, std::uint32_t purpose, std::uint64_t q) {
  return philox({unsigned(q), unsigned(q >> 32), unsigned(s.step), purpose}, {unsigned(s.seed), unsigned(s.seed >> 32)});
}

}  // namespace
}  // namespace alexnet
