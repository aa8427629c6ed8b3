#pragma once
namespace ptx {
enum class Sums { exact, ampere, hopper };
inline float dot(float c, const float* a, const float* b, int count, bool, Sums) {
  double s = 0;
  for (int k = 0; k < count; ++k) s += double(a[k]) * b[k];
  return float(c + s);
}
}  // namespace ptx
