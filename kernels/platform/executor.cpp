// executor.cpp - runs the kernels that cuda_on_cpu.hpp and hopper_on_cpu.hpp let a host compiler compile. A program has it
// once: compiled by itself, or included in its only file.
#include "block.hpp"
#include "hopper_block.hpp"
#include "thread_pool.hpp"

namespace executor {

unsigned schedule() {
  static const unsigned value = [] {
    const char* text = std::getenv("ALEXNET_SCHEDULE");
    return text ? unsigned(std::strtoul(text, nullptr, 10)) : 0u;
  }();
  return value;
}

// ---- launches

void run_tasks(long count, void (*call)(void* f, long task, int lane), void* f) {
  ThreadPool::get().run(count, [=](long task, int lane) { call(f, task, lane); });
}

// The grid in `lanes` times eight ranges.
template <class F>
static void spread(dim3 grid, long lanes, F f) {
  const long total = long(grid.x) * grid.y * grid.z, ranges = lanes == 1 ? 1 : std::min(total, lanes * 8);
  ThreadPool::get().run(ranges, [&](long r, int) { f(Blocks{grid, total * r / ranges, total * (r + 1) / ranges}); });
}
void for_each_range(dim3 grid, void (*call)(void* f, Blocks), void* f) {
  spread(grid, ThreadPool::get().lanes(), [=](Blocks blocks) { call(f, blocks); });
}

void run_blocks(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, bool independent, Body* body, void* call) {
  // Under TSan by this thread alone: in its eyes blocks are unordered whoever runs them, so no race is missed, and the
  // fibers, which are costly there, are made once. Tasks do run side by side.
  spread(grid, GPU_TSAN ? 1 : ThreadPool::get().lanes(), [&](Blocks blocks) {
    current_kernel = kernel;
    Block& b = Block::mine();
    b.independent = independent;
    for (uint3 index : blocks) b.run(index, grid, block, shared_bytes, body, call);
    b.join();
  });
}

void check_configuration(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes) {
  const std::uint64_t threads = std::uint64_t(block.x) * block.y * block.z;
  if (threads && threads <= 1024 && block.z <= 64 && grid.x && grid.x <= 0x7fffffff && grid.y && grid.y <= 65535 && grid.z &&
      grid.z <= 65535 && shared_bytes <= kSharedLimit)
    return;
  char text[256];
  std::snprintf(text, sizeof text, ": invalid launch configuration: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of shared memory",
                grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes);
  throw std::runtime_error(gpu::kernel_name(kernel) + text);
}

// ---- shared memory

GPU_UNTRACED void carve(Slot& slot, std::size_t bytes, std::size_t alignment, Site site) {
  slot.array = meeting_at(site).carve(bytes, alignment, site);
  slot.block = meeting;
}
GPU_UNTRACED char* dynamic_shared(Site site) { return meeting_at(site).dynamic_shared(site); }
GPU_UNTRACED unsigned shared_address(const void* p, Site site) { return meeting_at(site).shared_address(p, site); }

// ---- what threads do together

GPU_UNTRACED void barrier(Site site) { meeting_at(site).barrier(site); }
GPU_UNTRACED void meet_warp(unsigned mask, Site site) {
  meeting_at(site).meet_warp(mask, nullptr, site, [](void**, unsigned) {});
}
template <class T>
[[gnu::always_inline]] GPU_UNTRACED static inline T exchange(unsigned mask, T value, Lane from, unsigned by, unsigned width, Site site) {
  Block& b = meeting_at(site);
  const unsigned lane = b.rank() % 32, within = lane & (width - 1), first = lane - within;
  unsigned source = lane;  // where there is no such neighbour
  if (from == Lane::of) source = first + (by & (width - 1));
  if (from == Lane::xored && (lane ^ by) < first + width) source = lane ^ by;
  if (from == Lane::up && within >= by) source = lane - by;
  if (from == Lane::down && within + by < width) source = lane + by;
  struct Part {
    T value;
    unsigned source;
  } part{value, source};
  b.meet_warp(mask, &part, site, [=](void** parts, unsigned m) {
    T result[32];
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) {
        const unsigned from = static_cast<Part*>(parts[l])->source;
        if (!(m >> from & 1)) fail(site, "lane %u reads lane %u, which is not in mask %08x", l, from, m);
        result[l] = static_cast<Part*>(parts[from])->value;
      }
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) static_cast<Part*>(parts[l])->value = result[l];
  });
  return part.value;
}
GPU_UNTRACED float shuffle(unsigned mask, float value, Lane from, unsigned by, unsigned width, Site site) {
  return exchange(mask, value, from, by, width, site);
}
GPU_UNTRACED std::uint64_t shuffle(unsigned mask, std::uint64_t value, Lane from, unsigned by, unsigned width, Site site) {
  return exchange(mask, value, from, by, width, site);
}

GPU_UNTRACED unsigned ballot(unsigned mask, bool predicate, Site site) {
  unsigned vote = predicate;
  meeting_at(site).meet_warp(mask, &vote, site, [](void** votes, unsigned m) {
    unsigned all = 0;
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1 && *static_cast<unsigned*>(votes[l])) all |= 1u << l;
    for (unsigned l = 0; l < 32; ++l)
      if (m >> l & 1) *static_cast<unsigned*>(votes[l]) = all;
  });
  return vote;
}

// ---- cp.async

GPU_UNTRACED void copy_async(void* to, const void* from, int bytes, Site site) {
  Block& b = meeting_at(site);
  if ((b.shared_address(to, site) | reinterpret_cast<std::uintptr_t>(from)) & (bytes - 1))
    fail(site, "an address is not aligned to %d bytes", bytes);
  if (GPU_CHECKED) std::memset(to, 0xff, bytes);
  Untraced untraced;
  b.self->copies.push_back({to, from, bytes, b.self->group});
}
GPU_UNTRACED void copy_async_commit(Site site) { ++meeting_at(site).self->group; }
void copy_async_wait(unsigned pending, Site site) {
  Thread& t = *meeting_at(site).self;
  std::size_t done = 0;
  for (; done < t.copies.size() && t.copies[done].group + pending < t.group; ++done) {
    const Copy& c = t.copies[done];
    if (c.from)
      std::memcpy(c.to, c.from, c.bytes);
    else
      std::memset(c.to, 0, c.bytes);
  }
  Untraced untraced;
  t.copies.erase(t.copies.begin(), t.copies.begin() + done);
}

// ---- ldmatrix and mma

GPU_UNTRACED void ldmatrix(unsigned (&r)[4], const void* row, bool transposed, Site site) {
  struct Part {
    const void* row;
    unsigned* out;
  } part{row, r};
  Block& b = meeting_at(site);
  if (b.shared_address(row, site) % 16) fail(site, "the row is not aligned to 16 bytes");
  b.meet_warp(~0u, &part, site, [=](void** parts, unsigned) {
    for (int m = 0; m < 4; ++m)
      for (int l = 0; l < 32; ++l) {
        std::uint16_t pair[2];
        for (int e = 0; e < 2; ++e) {
          const int i = transposed ? l % 4 * 2 + e : l / 4, j = transposed ? l / 4 : l % 4 * 2 + e;
          std::memcpy(&pair[e], static_cast<const char*>(static_cast<Part*>(parts[8 * m + i])->row) + 2 * j, 2);
        }
        static_cast<Part*>(parts[l])->out[m] = pair[0] | unsigned(pair[1]) << 16;
      }
  });
}

struct MmaPart {
  float* d;
  const unsigned *a, *b;
};
template <int K, class Unpack>
GPU_UNTRACED static void mma(MmaPart part, Site site, Unpack unpack) {
  meeting_at(site).meet_warp(~0u, &part, site, [=](void** parts, unsigned) GPU_UNTRACED {
    float A[16][K], B[K][8];
    for (int l = 0; l < 32; ++l) unpack(l, *static_cast<MmaPart*>(parts[l]), A, B);
    for (int l = 0; l < 32; ++l)
      for (int e = 0; e < 4; ++e) {
        const int i = l / 4 + e / 2 * 8, j = l % 4 * 2 + e % 2;
        float sum = 0;
        for (int k = 0; k < K; ++k) sum += A[i][k] * B[k][j];
        static_cast<MmaPart*>(parts[l])->d[e] += sum;
      }
  });
}
GPU_UNTRACED void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site) {
  mma<8>({d, a, b}, site, [](int l, MmaPart& part, float (&A)[16][8], float (&B)[8][8]) GPU_UNTRACED {
    const auto tf32 = [](unsigned u) { return __uint_as_float(u & ~0x1fffu); };  // the hardware ignores the low 13 bits
    for (int r = 0; r < 4; ++r) A[l / 4 + r % 2 * 8][l % 4 + r / 2 * 4] = tf32(part.a[r]);
    for (int r = 0; r < 2; ++r) B[l % 4 + r * 4][l / 4] = tf32(part.b[r]);
  });
}
GPU_UNTRACED void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site) {
  mma<16>({d, a, b}, site, [](int l, MmaPart& part, float (&A)[16][16], float (&B)[16][8]) GPU_UNTRACED {
    const auto half = [](unsigned u, int e) { return __uint_as_float(u >> 16 * e << 16); };
    for (int e = 0; e < 2; ++e) {
      for (int r = 0; r < 4; ++r) A[l / 4 + r % 2 * 8][l % 4 * 2 + r / 2 * 8 + e] = half(part.a[r], e);
      for (int r = 0; r < 2; ++r) B[l % 4 * 2 + r * 8 + e][l / 4] = half(part.b[r], e);
    }
  });
}

}  // namespace executor

int gpu::lanes() { return executor::ThreadPool::get().lanes(); }
int gpu::threads() { return executor::ThreadPool::get().threads(); }
void gpu::set_threads(int n) { executor::ThreadPool::get().set_threads(n); }
