// ladder.cu - all rungs in one library, for run.py.
#include <string>

#include "coalesced.cu"
#include "columns.cu"
#include "implicit.cu"
#include "naive.cu"
#include "pipeline.cu"
#include "registers.cu"
#include "tensor_cores.cu"
#include "tiles.cu"
#ifndef __CUDACC__
#include "platform/executor.cpp"
#endif

namespace {

using Rung = void(float* y, const float* x, const float* w, float* columns, const ladder::Shape& s, cudaStream_t stream);
const struct {
  const char* name;
  Rung* rung;
  int C, K;  // must be multiples of these
} rungs[] = {
    {"naive", ladder::naive, 1, 1},       {"coalesced", ladder::coalesced, 1, 1},       {"columns", ladder::columns, 1, 1},
    {"tiles", ladder::tiles, 1, 1},       {"registers", ladder::registers, 4, 1},       {"implicit", ladder::implicit, 4, 1},
    {"pipeline", ladder::pipeline, 4, 1}, {"tensor_cores", ladder::tensor_cores, 4, 2},
};

void check_multiple(const char* what, int n, int of) {
  if (n % of) throw std::runtime_error(what + (": expected a multiple of " + std::to_string(of)) + ", got " + std::to_string(n));
}

std::string error;

}  // namespace

// y = conv(x, w) by the rung of that name; columns has room for (N, OH, OW, KH, KW, C). Null, or what is wrong.
extern "C" __attribute__((visibility("default"))) const char* ladder_run(const char* name, float* y, const float* x, const float* w,
                                                                         float* columns, const ladder::Shape* s, cudaStream_t stream) {
  try {
    for (const auto& r : rungs)
      if (r.name == std::string(name)) {
        check_multiple("C", s->C, r.C), check_multiple("K", s->K, r.K);
#ifndef __CUDACC__
        gpu::set_threads(1);  // who counts
        ladder::traffic = {};
#endif
        r.rung(y, x, w, columns, *s, stream);
        return nullptr;
      }
    throw std::runtime_error(std::string("no rung is called ") + name);
  } catch (const std::exception& e) {
    error = e.what();
    return error.c_str();
  }
}

#ifndef __CUDACC__
// Bytes that moved to and from global memory in the last call.
extern "C" __attribute__((visibility("default"))) long ladder_moved() { return ladder::traffic.moved; }
#endif
