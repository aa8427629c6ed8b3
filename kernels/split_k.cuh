// split_k.cuh - how the sum of a product along k is cut into parts, which blocks of their own compute side by side, and how the
// parts are added.
//
// A result with few tiles leaves multiprocessors of a GPU idle, so several blocks share a tile, each with a part of k and sums
// of its own in the workspace, and a second kernel adds these, the first part first. The cut follows from the shape, for a large
// GPU whatever the GPU is, so results have the same bits on all. They depend on each number here.
#pragma once
#include <algorithm>

#include "vector.cuh"

namespace alexnet {
namespace {

struct Split {
  long count, depth;  // parts; values of k in each, but the last may have fewer
};

constexpr long kMultiprocessors = 132;  // of a large GPU

struct SplitRule {
  long blocks;       // to have, of all tiles and parts
  long least_depth;  // of a part, for which adding it pays
};
constexpr SplitRule kSplitGemm{2 * kMultiprocessors, 256};
constexpr SplitRule kSplitTensorCore{2 * kMultiprocessors, 128};
constexpr SplitRule kSplitHopper{kMultiprocessors, 8};                       // k counts steps; a block has a multiprocessor
constexpr long kSkinnyBlocks = 2 * kMultiprocessors, kSkinnyLongest = 1024;  // the part of x that a block holds

// In about `count` parts of a multiple of `step` values.
inline Split in_parts(long K, long count, long step) {
  const long depth = std::max(1l, ceil_div(ceil_div(K, std::max(1l, count)), step)) * step;
  return {std::max(1l, ceil_div(K, depth)), depth};
}
inline Split split_k(long K, long tiles, const SplitRule& rule, long step) {
  return in_parts(K, std::min(rule.blocks / tiles, K / rule.least_depth), step);
}
// Of a block that reads each weight once: parts of a step at least.
inline Split split_skinny(long K, long tiles, long step) {
  return in_parts(K, std::max(ceil_div(K, kSkinnyLongest), std::min(ceil_div(kSkinnyBlocks, tiles), ceil_div(K, step))), step);
}

// Bytes for the parts' sums, `size` of them in each.
inline std::size_t parts_bytes(const Split& split, long size) { return split.count > 1 ? split.count * size * sizeof(float) : 0; }

// out.put(i, out.before(i), sum) for each of `size` sums: before(i) reads what put needs, while the parts are on their way.
template <class Out>
__global__ void add_parts(Out out, const float* __restrict__ parts, long size, int count) {
  out.begin();
  for (long i : gpu::grid_range(size)) {
    const auto before = out.before(i);
    float sum = parts[i];
    for (int p = 1; p < count; ++p) sum += parts[p * size + i];
    out.put(i, before, sum);
  }
}
template <class Out>
void launch_add_parts(const Out& out, const float* parts, long size, const Split& split, Stream stream) {
  gpu::launch_independent<add_parts<Out>>({dim3(unsigned(ceil_div(size, 256))), dim3(256), 0, stream}, out, parts, size, int(split.count));
}

}  // namespace
}  // namespace alexnet
