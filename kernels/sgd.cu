// sgd.cu - stochastic gradient descent with momentum and weight decay, in the form of section 5 of the AlexNet paper:
//
//   v <- momentum v - decay rate w - rate g,   w <- w + v,   rate = *lr * lr_scale
//
// or with Nesterov's momentum (sgd.cuh).
// The learning rates lie in device memory, so that a captured step can be replayed with others. One launch updates many
// parameters: a network's biases alone would not fill a GPU, and each launch costs more than they do.
#include <algorithm>

#include "sgd.cuh"
#include "vector.cuh"

namespace alexnet {
namespace {

constexpr int kChunk = 4096;  // elements of a block

// Passed by value, so that nothing has to be copied to the device beforehand.
struct Table {
  static constexpr int kMost = 60;
  Sgd parameter[kMost];
  unsigned end[kMost];  // the parameter's last block + 1
  bool wide[kMost];     // its arrays divide into aligned vectors
};
static_assert(sizeof(Table) <= 4096);  // what a kernel may take

// A thread owns V neighbouring elements, the next thread the next V.
template <int V, bool Nesterov>
__device__ __forceinline__ void update(const Sgd& p, long begin, int count) {
  const float rate = *p.lr * p.lr_scale, momentum = p.momentum, decay = p.decay;
  float *w = p.w + begin, *v = p.v + begin;
  const float* g = p.g + begin;
  const int first = threadIdx.x * V, step = blockDim.x * V;
  VECTORIZE
  for (int i = first; i < count; i += step) {
    auto weight = load<V>(w + i);
    auto velocity = load<V>(v + i);
    const auto gradient = load<V>(g + i);
    UNROLL
    for (int e = 0; e < V; ++e) sgd_update<Nesterov>(weight[e], velocity[e], gradient[e], rate, momentum, decay);
    store(v + i, velocity);
    store(w + i, weight);
  }
}

// A block owns a chunk of one parameter.
__global__ void sgd_step(const __grid_constant__ Table table) {
  int i = 0;
  while (blockIdx.x >= table.end[i]) ++i;
  const Sgd& p = table.parameter[i];
  const long begin = long(blockIdx.x - (i ? table.end[i - 1] : 0)) * kChunk;
  const int count = p.n - begin < kChunk ? int(p.n - begin) : kChunk;
  const bool wide = kWidth > 1 && table.wide[i];
  if (p.nesterov)
    wide ? update<kWidth, true>(p, begin, count) : update<1, true>(p, begin, count);
  else
    wide ? update<kWidth, false>(p, begin, count) : update<1, false>(p, begin, count);
}

}  // namespace

void multi_sgd(const Sgd* parameters, int count, Stream stream) {
  for (int first = 0; first < count; first += Table::kMost) {
    Table table{};
    unsigned blocks = 0;
    for (int i = 0; i < std::min(count - first, Table::kMost); ++i) {
      const Sgd& p = table.parameter[i] = parameters[first + i];
      table.end[i] = blocks += unsigned((p.n + kChunk - 1) / kChunk);
      with_width(p.n, [&](auto width) { table.wide[i] = width > 1; }, p.w, p.v, p.g);
    }
    if (blocks) gpu::launch_independent<sgd_step>({dim3(blocks), dim3(kBlockThreads), 0, stream}, table);
  }
}

void sgd(float* w, float* v, const float* g, const float* lr, long n, float lr_scale, float momentum, float decay, bool nesterov,
         Stream stream) {
  const Sgd parameter{w, v, g, lr, n, lr_scale, momentum, decay, nesterov};
  multi_sgd(&parameter, 1, stream);
}

}  // namespace alexnet
