// copies.h - tensor maps, and TMA's copies under way.
#pragma once
#include "warp.h"

namespace ptx {

// What cuTensorMapEncode writes into a CUtensorMap's 128 bytes, here: dimension 0 is the contiguous one.
struct TensorMap {
  static constexpr u32 expected_magic = 0x7e45a9;
  u32 magic = expected_magic;
  u8 rank, element, swizzle /* bytes, 0 or 128 */;
  bool im2col;
  u64 base;
  u64 size[4], stride[4];  // in elements; in bytes
  u16 box[4];              // im2col: channels, pixels
  s16 lower[2], upper[2];  // im2col: corners of the box of base pixels, W then H
  u8 step[4];              // traversal strides
  u32 box_bytes() const;
};
static_assert(sizeof(TensorMap) <= 128);

struct BulkCopy {
  u32 to, barrier;  // addresses in shared memory
  TensorMap map;
  std::array<s32, 4> at;
  std::array<u16, 2> tap;  // im2col: offsets of W and H
  Warp* warp;
  Clock clock;  // the warp's when it issued the copy
};

}  // namespace ptx
