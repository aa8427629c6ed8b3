// sums.h - one value of D of a tensor core: c + sum of a_k b_k, exactly, or cut off as it was measured on Ampere and Hopper.
//
// PTX leaves order and rounding open (PTX ISA, "Precision and rounding" of mma and of wgmma.mma_async). The hardware adds in blocks of a
// few products, the lowest k first; what one block gives is c of the next. In a block
//   1. products are exact; their significands, in [1, 4), are not normalised, so the exponent of a product is the sum of the factors',
//   2. c and the products are shifted to the largest of their exponents and cut off, toward zero, so many bits after the point,
//   3. what is left is added exactly, in any order, with as many carry bits as it takes,
//   4. the sum is normalised and cut off, toward zero, to a float: 24 bits, fewer where it is subnormal; from 2^128 on it is infinite.
// This is not IEEE's rounding toward zero of the exact sum: 1 - 2^-30 is 1.
//
//                            products of a block       bits after the point
//                            bf16         tf32         (a float has 23)
//   Ampere                      8            4            24
//   Hopper, mma and wgmma      16            8            25
//
// Sources
//   [1] Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ CS 7:e330 (2021), and its test suite
//       (github.com/north-numerical-computing/tensor-cores-numerical-behavior): V100, T4 and A100. Exact products, subnormals, steps 2
//       to 4, the extra bit and the carry bits of A100, sums that are not monotonic.
//   [2] Khattak and Mikaitis, Accurate models of NVIDIA tensor cores, arXiv:2512.07004 (2025), and its models A100TC and H100TC
//       (github.com/north-numerical-computing/MATLAB-tensor-core), held against random vectors measured by wmma on these GPUs.
//   [3] Xie, Wang, Yang and Yang, MMA-Sim, arXiv:2511.10909 (2025), and its simulator nv_ptx.py (github.com/microsoft/MMA-Sim): mma
//       on all architectures and wgmma, held against the hardware in random tests.
//   [4] Valpey, Li, Pai and Gopalakrishnan, An SMT formalization of mixed-precision matrix multiplication, arXiv:2502.15999 (2025):
//       up to Ampere; cutting off the addends is not IEEE's rounding.
// [2] and [3] agree on all of the table, and `dot` has the bits of the vectors that [2] publishes (5,000 a format, of A100, H100 and
// H200) and of [3] on random numbers. On wgmma [3] speaks alone: it adds as Hopper's mma does. The vectors of [2] in tf32 have four
// products, so Hopper's block of eight is measured by [3] alone, too.
// They disagree on what is far from the values of a network:
//   - addends are aligned to at least 2^-132 on A100 and 2^-133 on H100 in [2] (taken here), to 2^-126 in [3];
//   - a product with zero shifts nothing in [2] (taken here); in [3] it does, as zero has the exponent -126: other addends lose bits
//     if the other factor is some 2^100 times larger than they are;
//   - a negative sum of which nothing is left is -0 in [2] and +0 in [3] (taken here).
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>

namespace ptx {

enum class Sums { exact, ampere, hopper };

struct Adder {
  int bf16, tf32;  // products of a block
  int fraction;    // bits that are kept after the point
  int lowest;      // exponent: addends are aligned to at least this one
};
inline constexpr Adder kAmpere{8, 4, 24, -132}, kHopper{16, 8, 25, -133};

// In double. Four sums side by side, for vectors.
inline double exact_sum(float c, const float* a, const float* b, int count) {
  double sum[4] = {};
  for (int k = 0; k < count; k += 4)
    for (int j = 0; j < 4; ++j) sum[j] += double(a[k + j]) * b[k + j];
  return c + ((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

inline int exponent(float v) { return std::max(int(std::bit_cast<std::uint32_t>(v) >> 23 & 0xff), 1) - 127; }

// One block. What it keeps of an addend has less than fraction + 3 bits.
inline float block_sum(float c, const float* a, const float* b, int count, const Adder& adder) {
  if (const double sum = exact_sum(c, a, b, count); !std::isfinite(sum))      // as c or a factor is not: finite ones give less than 2^261
    return std::isnan(sum) ? std::bit_cast<float>(0x7fffffffu) : float(sum);  // the one NaN that GPUs make [3]

  int largest = c != 0 ? std::max(exponent(c), adder.lowest) : adder.lowest;
  for (int k = 0; k < count; ++k)
    if (a[k] != 0 && b[k] != 0) largest = std::max(largest, exponent(a[k]) + exponent(b[k]));

  const int last = largest - adder.fraction;  // exponent of the last bit that is kept
  const double scale = std::ldexp(1, -last);
  std::int64_t sum = int(c * scale);  // conversions cut off
  for (int k = 0; k < count; ++k) sum += int(double(a[k]) * b[k] * scale);

  std::uint64_t magnitude = std::abs(sum);
  const int cut = std::max({0, int(std::bit_width(magnitude)) - 24, -149 - last});
  magnitude >>= cut;
  const float result = std::ldexp(float(magnitude), last + cut);
  return sum < 0 && magnitude ? -result : result;
}

// c + sum over k < count of a[k] * b[k]: one value of D of an mma or wgmma of this k. a and b hold values of bf16, or with tf32 of
// tf32, exactly; count is a multiple of 4, as every k of PTX is. Sums::exact: added in double, rounded once.
inline float dot(float c, const float* a, const float* b, int count, bool tf32, Sums sums) {
  if (sums == Sums::exact) return float(exact_sum(c, a, b, count));
  const Adder& adder = sums == Sums::ampere ? kAmpere : kHopper;
  const int block = tf32 ? adder.tf32 : adder.bf16;
  for (int k = 0; k < count; k += block) c = block_sum(c, a + k, b + k, std::min(block, count - k), adder);
  return c;
}

}  // namespace ptx
