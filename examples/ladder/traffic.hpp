// traffic.hpp - what kernels on the executor ask of global memory, in bytes. Memory moves in sectors of 32 bytes: when the
// threads of a warp ask together, each sector that one of them touches moves once. Which requests belong together? The
// n-th of each thread, so all threads of a warp must make equally many, some of them for nothing. Grids have one dimension.
// Caches are not modelled.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "platform/gpu.cuh"

namespace ladder {

class Traffic {
 public:
  long moved = 0;  // bytes

  void request(const void* p, int bytes, bool there) {
    executor::Untraced untraced;  // the thread sanitizer need not watch who counts
    if (executor::current_kernel != kernel_ || blockIdx.x != block_) next_block();
    const unsigned thread = threadIdx.x + blockDim.x * threadIdx.y;
    const unsigned n = made_[thread]++;
    if (!there) return;
    auto& requests = warps_[thread / 32];
    if (requests.size() <= n) requests.resize(n + 1);
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    if (address % bytes) throw std::runtime_error("ladder: a misaligned access to global memory");
    Request& r = requests[n];
    std::uintptr_t* const end = r.sectors + r.count;
    if (std::find(r.sectors, end, address / 32) != end) return;
    r.sectors[r.count++] = address / 32;
    moved += 32;
  }

 private:
  struct Request {
    unsigned count = 0;
    std::uintptr_t sectors[32];
  };

  void next_block() {
    kernel_ = executor::current_kernel;
    block_ = blockIdx.x;
    made_.assign(1024, 0);
    warps_.resize(32);
    for (auto& requests : warps_) requests.clear();
  }

  const char* kernel_ = nullptr;
  unsigned block_ = 0;
  std::vector<unsigned> made_;  // of each thread of the block
  std::vector<std::vector<Request>> warps_;
};

inline Traffic traffic;

}  // namespace ladder
