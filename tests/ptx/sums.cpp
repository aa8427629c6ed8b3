// sums.cpp - sums.h for Python.
#include "sums.h"

// d[r] = the sum of row r of a and b, of length K, by instructions of k products each, beginning with c[r].
extern "C" void chains(float* d, const float* c, const float* a, const float* b, long rows, long K, int k, int tf32, int sums) {
  for (long r = 0; r < rows; ++r) {
    d[r] = c[r];
    for (long i = r * K; i < (r + 1) * K; i += k) d[r] = ptx::dot(d[r], a + i, b + i, k, tf32 != 0, ptx::Sums(sums));
  }
}
