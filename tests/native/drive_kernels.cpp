// drive_kernels.cpp - calls every launcher of kernels.h on small and awkward shapes: for the sanitizers, and to compare
// the ways in which the executor runs a kernel. Arrays are exactly as long as they must be and begin as NaN. What may be
// stored in bfloat16 is, too.
//
//   drive_kernels              exits with 1 where an output is not written or not finite
//   drive_kernels write FILE   also writes all outputs
//   drive_kernels check FILE   also compares them with those that another build or schedule wrote
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu.h"
#include "kernels.h"
#include "platform/executor.cpp"
#include "platform/gpu.cuh"

namespace {

using namespace alexnet;

std::mt19937 generator(1);
std::FILE* file = nullptr;
bool writing = false;
int mistakes = 0;

template <class T = float>
struct Array {
  explicit Array(long n) : values(n) { std::fill_n(reinterpret_cast<unsigned char*>(values.data()), n * sizeof(T), 0xff); }
  T* data() { return values.data(); }
  operator T*() { return data(); }
  std::vector<T> values;
};
template <class T = float>
Array<T> random(long n) {
  Array<T> a(n);
  for (T& v : a.values) v = std::uniform_real_distribution<float>(-1, 1)(generator);
  return a;
}
Array<char> workspace(std::size_t bytes) { return Array<char>(long(bytes)); }

// Rounding to bfloat16 may turn the least difference into one of its last of eight digits.
template <class T>
void check(const std::string& what, const Array<T>& a) {
  const float allowed = sizeof(T) == 2 ? 0x1p-7f : 1e-5f;
  float most = 0;
  for (float v : a.values) {
    if (!std::isfinite(v)) {
      std::printf("%s: not written or not finite\n", what.c_str());
      ++mistakes;
      break;
    }
    most = std::max(most, std::abs(v));
  }
  if (!file) return;
  if (writing) {
    std::fwrite(a.values.data(), sizeof(T), a.values.size(), file);
    return;
  }
  std::vector<T> other(a.values.size());
  if (std::fread(other.data(), sizeof(T), other.size(), file) != other.size())
    std::printf("%s: the file ends early\n", what.c_str()), ++mistakes;
  for (std::size_t i = 0; i < other.size(); ++i)
    if (!(std::abs(a.values[i] - other[i]) <= allowed * most)) {
      std::printf("%s: element %zu is %g, in the file %g\n", what.c_str(), i, float(a.values[i]), float(other[i]));
      ++mistakes;
      break;
    }
}

void gemms() {
  const int shapes[][3] = {{1, 1, 1}, {65, 33, 17}, {64, 64, 16}, {130, 66, 9}, {3, 129, 40}, {5, 7, 0}, {9, 65, 530}, {8, 5, 1061}};
  for (auto [M, N, K] : shapes)
    for (int transposes = 0; transposes < 4; ++transposes)
      for (bool add : {false, true}) {
        const bool ta = transposes & 1, tb = transposes & 2;
        const long lda = (ta ? M : K) + 3 * add, ldb = (tb ? K : N) + 5 * add;
        Array<> a = random((ta ? K : M) * lda), b = random((tb ? N : K) * ldb), c = add ? random(M * N) : Array<>(M * N);
        const Gemm g{M, N, K, ta, tb, lda, ldb, N, add ? 0.5f : 1.0f, add ? 2.0f : 0.0f};
        Array<char> scratch = workspace(gemm_workspace(g));
        gemm(c, a, b, g, scratch, nullptr);
        check("gemm " + std::to_string(M) + "x" + std::to_string(N) + "x" + std::to_string(K), c);
      }
}

// What a BLAS is not asked for beside it.
void few_rows() {
  set_sgemm([](int, int transpose_a, int transpose_b, std::int64_t M, std::int64_t N, std::int64_t K, float alpha, const float* a,
               std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
    const bool ta = transpose_a == 112, tb = transpose_b == 112;
    for (long m = 0; m < M; ++m)
      for (long n = 0; n < N; ++n) {
        float sum = 0;
        for (long k = 0; k < K; ++k) sum += a[ta ? k * lda + m : m * lda + k] * b[tb ? n * ldb + k : k * ldb + n];
        c[m * ldc + n] = alpha * sum + (beta == 0 ? 0 : beta * c[m * ldc + n]);
      }
  });
  gemms();
  set_sgemm(nullptr);
}

template <class T>
void tensor_gemms() {
  const int shapes[][3] = {{1, 1, 1}, {65, 33, 17}, {128, 64, 48}, {132, 68, 20}, {4, 8, 300}, {5, 7, 0}};
  for (const auto& [M, N, K] : shapes)
    for (int transposes = 0; transposes < 4; ++transposes)
      for (bool add : {false, true}) {
        const bool ta = transposes & 1, tb = transposes & 2;
        const long lda = (ta ? M : K) + 3 * add, ldb = (tb ? K : N) + 5 * add;
        Array<T> a = random<T>((ta ? K : M) * lda), b = random<T>((tb ? N : K) * ldb), c = add ? random<T>(M * N) : Array<T>(M * N);
        Array<T> mask = random<T>(M * N);
        Array<> bias = random(N), wide = random(M * N), db(M);
        const Gemm g{M, N, K, ta, tb, lda, ldb, N, add ? 0.5f : 1.0f, add ? 2.0f : 0.0f};
        Array<char> scratch = workspace(tensor_gemm_workspace(g));
        tensor_gemm<T, T>(c, ta && !tb ? db.data() : nullptr, a, b, add ? nullptr : bias.data(), mask, g, !add,
                          add ? Precision::bf16 : Precision::tf32, scratch, nullptr);
        check("tensor_gemm " + std::to_string(M) + "x" + std::to_string(N) + "x" + std::to_string(K), c);
        if (ta && !tb) check("tensor_gemm db", db);
        if (sizeof(T) == 4) continue;
        tensor_gemm<float, T>(wide, nullptr, a, b, bias, nullptr, g, false, Precision::bf16, scratch, nullptr);
        check("tensor_gemm to float32", wide);
      }
}

template <class T>
void dropped_gemms() {
  const int shapes[][3] = {{1, 1, 1}, {65, 33, 17}, {128, 64, 48}, {132, 68, 20}, {4, 8, 300}};
  for (const auto& [M, N, K] : shapes)
    for (long first : {0, 3}) {
      Array<T> x = random<T>(M * K), w = random<T>(N * K), y(M * N);
      Array<> b = random(N);
      Array<std::uint64_t> state(2);
      state[0] = 7, state[1] = 3;
      Array<char> scratch = workspace(tensor_gemm_workspace({M, N, K, false, true, K, K, N, 1, 0}));
      tensor_gemm_dropout<T>(y, x, w, first ? nullptr : b.data(), state, M, N, K, first, 0.25f, 1.5f, 2, Precision::bf16, scratch, nullptr);
      check("tensor_gemm_dropout", y);
    }
}

void plain_gemm_updates() {
  const int shapes[][3] = {{1, 1, 1}, {65, 33, 17}, {520, 530, 3}};
  for (const auto& [M, N, K] : shapes)
    for (bool nesterov : {false, true}) {
      Array<> a = random(K * M), b = random(K * N), w = random(M * N), v = random(M * N), lr(1);
      lr[0] = 0.01f;
      Array<char> scratch = workspace(gemm_sgd_workspace(M, N));
      gemm_sgd(w, v, a, b, lr, M, N, K, 0.9f, 5e-4f, nesterov, scratch, nullptr);
      check("gemm_sgd w", w);
      check("gemm_sgd v", v);
    }
}

template <class T>
void gemm_updates() {
  const int shapes[][3] = {{1, 1, 1}, {65, 33, 17}, {128, 64, 48}, {132, 68, 20}, {4, 8, 300}};
  for (const auto& [M, N, K] : shapes)
    for (bool copied : {false, true}) {
      Array<T> a = random<T>(K * M), b = random<T>(K * N);
      Array<> w = random(M * N), v = random(M * N), lr(1);
      Array<bfloat16> stored(M * N);
      lr[0] = 0.01f;
      Array<char> scratch = workspace(tensor_gemm_workspace({M, N, K, true, false, M, N, N, 1, 0}));
      tensor_gemm_sgd<T>(w, v, copied ? stored.data() : nullptr, a, b, lr, M, N, K, 0.9f, 5e-4f, copied, Precision::bf16, scratch, nullptr);
      check("tensor_gemm_sgd w", w);
      check("tensor_gemm_sgd v", v);
      if (copied) check("tensor_gemm_sgd stored", stored);
    }
}

template <class T>
void skinny_gemms() {
  const int shapes[][3] = {{1, 1, 1}, {3, 33, 300}, {8, 40, 1032}, {13, 5, 17}};  // rows, neurons, inputs
  for (const auto& [M, N, K] : shapes)
    for (Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16}) {
      Array<T> x = random<T>(M * K), w = random<T>(N * K), y(M * N);
      Array<> b = random(N);
      if (!skinny_gemm_takes(M, N, K)) std::puts("skinny_gemm_takes: a shape is refused"), ++mistakes;
      Array<char> scratch = workspace(skinny_gemm_workspace(M, N, K));
      skinny_gemm<T, T>(y, x, w, nullptr, b, M, N, K, true, precision, scratch, nullptr);
      check("skinny_gemm", y);
    }
}

void short_gemms() {
  const int shapes[][3] = {{1, 1, 1}, {3, 33, 300}, {8, 40, 1032}, {9, 70, 17}, {20, 5, 33}};  // rows, neurons, inputs
  for (const auto& [M, N, K] : shapes) {
    Array<> x = random(M * K), scale = random(N), b = random(N), y(M * N);
    Array<bfloat16> w = random<bfloat16>(N * K);
    Array<std::int8_t> whole(N * K);
    for (std::int8_t& v : whole.values) v = std::int8_t(generator());
    Array<char> scratch = workspace(short_gemm_workspace(M, N, K));
    short_gemm<bfloat16>(y, x, w, nullptr, b, M, N, K, true, scratch, nullptr);
    check("short_gemm bfloat16", y);
    short_gemm<std::int8_t>(y, x, whole, scale, nullptr, M, N, K, false, scratch, nullptr);
    check("short_gemm int8", y);
    if (!skinny_gemm_takes(M, N, K)) continue;
    Array<char> parts = workspace(skinny_gemm_workspace(M, N, K));
    skinny_gemm<float, bfloat16>(y, x, w, nullptr, b, M, N, K, true, Precision::fp32, parts, nullptr);
    check("skinny_gemm bfloat16", y);
    skinny_gemm<float, std::int8_t>(y, x, whole, scale, b, M, N, K, true, Precision::fp32, parts, nullptr);
    check("skinny_gemm int8", y);
  }
}

template <class T>
void biases() {
  const int shapes[][2] = {{1, 1}, {3, 40}, {300, 5}, {67, 257}};
  for (const auto& [rows, C] : shapes) {
    Array<T> x = random<T>(rows * C), y(rows * C);
    Array<> b = random(C), db(C);
    Array<char> scratch = workspace(bias_backward_workspace(rows, C));
    bias_forward<T>(y, x, b, rows, C, true, nullptr);
    check("bias_forward", y);
    bias_forward<T>(x, x, b, rows, C, false, nullptr);
    check("bias_forward in place", x);
    bias_backward<T>(db, y, rows, C, scratch, nullptr);
    check("bias_backward", db);
    Array<T> dx(rows * C);
    bias_relu_backward<T>(dx, db, x, y, rows, C, 1.5f, scratch, nullptr);
    check("bias_relu_backward dx", dx);
    check("bias_relu_backward db", db);
  }
}

// What of a convolution `way` computes: "fiw", y, dx, and dw with db.
template <class T>
void convolve(const std::string& name, const Conv2dWay<T>& way, const Conv2d& s, const Conv2dOptions& o, const std::string& which = "fiw") {
  const long nx = long(s.N) * s.H * s.W * s.C, ny = long(s.N) * s.OH * s.OW * s.K, nw = long(s.K) * s.KH * s.KW * s.C / s.groups;
  Array<T> x = random<T>(nx), w = random<T>(nw), y(ny), dy = random<T>(ny), dx(nx);
  Array<> b = random(s.K), dw(nw), db(s.K);
  const auto run = [&](char letter, const auto& pass, auto launch) {
    if (which.find(letter) == which.npos) return;
    if (!pass.takes(s, o)) std::printf("%s: a shape is refused\n", name.c_str()), ++mistakes;
    Array<char> scratch = workspace(pass.workspace(s, o));
    launch(pass.launch, scratch.data());
  };
  run('f', way.forward, [&](auto launch, void* scratch) {
    launch(y, x, w, o.relu ? b.data() : nullptr, s, o, scratch, nullptr);
    check(name + "_forward", y);
  });
  run('i', way.backward_input, [&](auto launch, void* scratch) {
    launch(dx, dy, w, x, s, o, scratch, nullptr);
    check(name + "_backward_input", dx);
  });
  run('w', way.backward_weight, [&](auto launch, void* scratch) {
    launch(dw, db, dy, x, s, o, scratch, nullptr);
    check(name + "_backward_weight dw", dw);
    check(name + "_backward_weight db", db);
  });
}

void convolutions() {
  const Conv2d shapes[] = {
      // N, H, W, C, K, KH, KW, groups, stride_h, stride_w, pad_top, pad_left, OH, OW
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1},
      {2, 7, 6, 4, 6, 3, 3, 2, 2, 2, 1, 1, 4, 3},
      {1, 5, 5, 32, 8, 5, 5, 2, 1, 1, 2, 2, 5, 5},
      {1, 15, 19, 3, 5, 11, 11, 1, 4, 4, 0, 2, 3, 4},  // the last window sticks out at the bottom and at the right
      {3, 4, 5, 8, 40, 1, 1, 1, 1, 1, 0, 0, 4, 5},     // pointwise
      {2, 6, 9, 6, 3, 2, 4, 3, 1, 3, 1, 0, 6, 3},
      {2, 20, 20, 2, 2, 3, 2, 1, 1, 1, 1, 1, 20, 21},
  };
  for (const Conv2d& s : shapes)
    for (bool relu : {true, false}) convolve("conv2d", conv2d(), s, {Precision::fp32, relu, false});
}

void winograd_convolutions() {
  const Conv2d shapes[] = {
      // N, H, W, C, K, KH, KW, groups, stride_h, stride_w, pad_top, pad_left, OH, OW
      {1, 3, 3, 1, 1, 3, 3, 1, 1, 1, 0, 0, 1, 1},       {2, 7, 6, 32, 16, 3, 3, 2, 1, 1, 1, 2, 8, 5},
      {2, 9, 8, 6, 48, 5, 5, 3, 1, 1, 2, 2, 9, 8},      {1, 4, 6, 16, 3, 5, 5, 1, 1, 1, 3, 0, 4, 3},
      {1, 5, 6, 16, 40, 3, 3, 1, 1, 1, 1, 1, 5, 6},     {5, 14, 13, 4, 32, 3, 3, 2, 1, 1, 1, 1, 14, 13},
      {5, 14, 13, 64, 64, 3, 3, 1, 1, 1, 1, 1, 14, 13}, {3, 14, 13, 80, 64, 3, 3, 1, 1, 1, 1, 1, 14, 13},
  };
  for (const Conv2d& s : shapes) convolve("winograd_conv2d", winograd_conv2d(), s, {Precision::fp32, true, false});
}

template <class T>
void implicit_convolutions() {
  const Conv2d shapes[] = {
      // N, H, W, C, K, KH, KW, groups, stride_h, stride_w, pad_top, pad_left, OH, OW
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1},     {2, 7, 6, 8, 16, 3, 3, 2, 2, 2, 1, 1, 4, 3},
      {1, 15, 19, 3, 5, 11, 11, 1, 4, 4, 0, 2, 3, 4},  // the last window sticks out at the bottom and at the right
      {2, 6, 9, 6, 3, 2, 4, 3, 1, 3, 1, 0, 6, 3},     {2, 12, 12, 4, 68, 3, 2, 1, 1, 1, 1, 1, 12, 13},
      {2, 6, 5, 16, 72, 3, 3, 1, 1, 1, 1, 1, 6, 5},
  };
  Precision precision = Precision::tf32;
  for (const Conv2d& s : shapes) {
    convolve("implicit_conv2d", implicit_conv2d<T>(), s, {precision, true, false});
    precision = precision == Precision::tf32 ? Precision::bf16 : Precision::tf32;
  }
}

template <class T>
void space_to_depth_convolutions() {
  const Conv2d shapes[] = {
      // N, H, W, C, K, KH, KW, groups, stride_h, stride_w, pad_top, pad_left, OH, OW
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1},
      {1, 15, 19, 3, 5, 11, 11, 1, 4, 4, 0, 2, 3, 4},  // the last window sticks out at the bottom and at the right
      {2, 6, 9, 6, 3, 2, 4, 3, 1, 3, 1, 0, 6, 3},
      {2, 9, 9, 2, 3, 2, 2, 1, 3, 4, 0, 0, 3, 2},       // pixels between the windows
      {1, 15, 15, 3, 16, 11, 11, 1, 4, 4, 0, 0, 2, 2},  // for hopper_conv2d.cu too
  };
  for (const Conv2d& s : shapes)
    for (bool hopper : {false, true}) {
      if (hopper && s.K % 16) continue;
      convolve("space_to_depth_conv2d", space_to_depth_conv2d<T>(), s, {Precision::tf32, true, hopper}, "fi");
      convolve("space_to_depth_conv2d", space_to_depth_conv2d<T>(), s, {Precision::bf16, true, hopper}, "iw");
    }
}

template <class T>
void hopper_convolutions() {
  const Conv2d shapes[] = {
      // N, H, W, C, K, KH, KW, groups, stride_h, stride_w, pad_top, pad_left, OH, OW
      {1, 1, 1, 64, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1},
      {2, 4, 5, 96, 10, 3, 3, 2, 2, 2, 1, 1, 2, 3},  // groups of parts of boxes
      {3, 10, 9, 80, 97, 1, 1, 1, 1, 1, 0, 0, 10, 9},
  };
  const Conv2d weights[] = {
      {1, 2, 2, 96, 16, 1, 1, 2, 1, 1, 0, 0, 2, 2},
      {1, 3, 3, 96, 8, 2, 2, 1, 1, 1, 0, 0, 2, 2},
      {6, 10, 10, 64, 16, 2, 2, 1, 1, 1, 1, 1, 11, 11},  // so many pixels that their sum is split
  };
  const auto run = [](const Conv2d& s, Precision precision, const char* which) {
    convolve("hopper_conv2d", hopper_conv2d<T>(), s, {precision, true, true}, which);
  };
  for (Precision precision : {Precision::tf32, Precision::bf16}) {
    for (const Conv2d& s : shapes) run(s, precision, "f");
    run({2, 4, 5, 6, 96, 3, 3, 2, 1, 1, 1, 1, 4, 5}, precision, "i");
  }
  for (const Conv2d& s : weights) run(s, Precision::bf16, "w");
}

void locals() {
  const Conv2d shapes[] = {
      // N, H, W, C, K, KH, KW, groups, stride_h, stride_w, pad_top, pad_left, OH, OW
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1},
      {3, 5, 4, 16, 4, 3, 3, 1, 1, 1, 1, 1, 5, 4},
      {2, 7, 6, 4, 6, 2, 3, 2, 2, 1, 0, 1, 3, 6},
  };
  for (const Conv2d& s : shapes) {
    const long nx = long(s.N) * s.H * s.W * s.C, ny = long(s.N) * s.OH * s.OW * s.K, nb = long(s.OH) * s.OW * s.K,
               nw = nb * s.KH * s.KW * s.C / s.groups;
    Array<> x = random(nx), w = random(nw), b = random(nb), y(ny), dy = random(ny), dx(nx), dw(nw);
    Array<char> scratch = workspace(local2d_workspace(s));
    local2d_forward(y, x, w, b, s, true, scratch, nullptr);
    check("local2d_forward", y);
    local2d_backward_input(dx, dy, w, s, scratch, nullptr);
    check("local2d_backward_input", dx);
    local2d_backward_weight(dw, dy, x, s, scratch, nullptr);
    check("local2d_backward_weight", dw);
  }
}

template <class T>
void pools() {
  const Pool2d shapes[] = {
      // N, H, W, C, KH, KW, stride_h, stride_w, pad_top, pad_left, OH, OW
      {1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1},  {2, 7, 9, 5, 3, 3, 2, 2, 0, 0, 3, 4},       {1, 6, 6, 33, 3, 3, 2, 2, 0, 0, 3, 3},  // ceil
      {2, 5, 4, 64, 2, 3, 2, 1, 1, 1, 3, 4}, {1, 16, 16, 260, 16, 16, 1, 1, 0, 0, 1, 1}, {1, 9, 9, 4, 2, 2, 3, 3, 0, 0, 3, 3},  // with gaps
  };
  for (const Pool2d& s : shapes) {
    const long nx = long(s.N) * s.H * s.W * s.C, ny = long(s.N) * s.OH * s.OW * s.C;
    Array<T> x = random<T>(nx), y(ny), dy = random<T>(ny), dx(nx);
    Array<std::uint8_t> which(ny);
    max_pool2d_forward<T>(y, which, x, s, nullptr);
    check("max_pool2d_forward", y);
    max_pool2d_backward<T>(dx, dy, which, s, nullptr);
    check("max_pool2d_backward", dx);
    avg_pool2d_forward<T>(y, x, s, nullptr);
    check("avg_pool2d_forward", y);
    avg_pool2d_backward<T>(dx, dy, s, nullptr);
    check("avg_pool2d_backward", dx);
  }
}

template <class T>
void normalisations() {
  const Lrn shapes[] = {{1, 1, 1, 5, 2, 1e-4f, 0.75f}, {7, 96, 2, 5, 2, 1e-2f, 0.75f}, {5, 12, 3, 4, 1, 1, 0.5f},
                        {3, 260, 1, 9, 1, 1e-1f, 1},   {2, 8, 2, 20, 2, 1, 0.75f},     {300, 3, 1, 1, 2, 1, 0.75f}};
  for (const Lrn& s : shapes) {
    Array<T> x = random<T>(s.rows * s.C), dy = random<T>(s.rows * s.C), y(s.rows * s.C), dx(s.rows * s.C);
    lrn_forward<T>(y, x, s, nullptr);
    check("lrn_forward", y);
    lrn_backward<T>(dx, dy, x, s, true, nullptr);
    check("lrn_backward", dx);
  }
}

template <class T>
void pooled_normalisations() {
  const struct {
    int N, H, W, C, groups, size, pad_top, pad_left, OH, OW;
  } shapes[] = {{1, 3, 3, 1, 1, 5, 0, 0, 1, 1},
                {2, 19, 12, 16, 2, 5, 1, 0, 9, 6},
                {3, 8, 21, 33, 1, 9, 0, 1, 4, 10},
                {1, 1, 2, 264, 2, 5, 1, 1, 1, 1}};
  for (const auto& [N, H, W, C, groups, size, pad_top, pad_left, OH, OW] : shapes) {
    const Lrn l{long(N) * H * W, C, groups, size, 2, 1e-2f, 0.75f};
    const Pool2d s{N, H, W, C, 3, 3, 2, 2, pad_top, pad_left, OH, OW};
    if (!lrn_max_pool2d_takes(l, s)) std::puts("lrn_max_pool2d_takes: a shape is refused"), ++mistakes;
    const long nx = long(N) * H * W * C, ny = long(N) * OH * OW * C;
    Array<T> x = random<T>(nx), y(ny), dy = random<T>(ny), dx(nx);
    Array<std::uint8_t> which(ny);
    lrn_max_pool2d_forward<T>(y, which, x, l, s, nullptr);
    check("lrn_max_pool2d_forward", y);
    lrn_max_pool2d_backward<T>(dx, dy, which, x, l, s, true, nullptr);
    check("lrn_max_pool2d_backward", dx);
  }
}

void spatial_normalisations() {
  const SpatialLrn shapes[] = {{1, 1, 1, 1, 5, 1, 1e-4f, 0.75f}, {2, 4, 5, 33, 3, 2, 1e-2f, 0.75f}, {1, 6, 3, 32, 4, 1, 1, 0.5f}};
  for (const SpatialLrn& s : shapes) {
    const long n = long(s.N) * s.H * s.W * s.C;
    Array<> x = random(n), dy = random(n), y(n), dx(n);
    Array<char> scratch = workspace(spatial_lrn_backward_workspace(s));
    spatial_lrn_forward(y, x, s, nullptr);
    check("spatial_lrn_forward", y);
    spatial_lrn_backward(dx, dy, x, s, scratch, nullptr);
    check("spatial_lrn_backward", dx);
  }
}

template <class T>
void batch_normalisations() {
  const int shapes[][2] = {{1, 1}, {5, 33}, {64, 16}, {300, 40}, {67, 257}};
  for (const auto& [rows, C] : shapes)
    for (bool training : {true, false}) {
      Array<T> x = random<T>(rows * C), y(rows * C), dy = random<T>(rows * C), dx(rows * C);
      Array<> gamma = random(C), beta = random(C), running_mean = random(C), running_variance = random(C);
      Array<> mean(C), r(C), dgamma(C), dbeta(C);
      for (float& v : running_variance.values) v = std::abs(v);
      Array<char> scratch = workspace(batch_norm_workspace(rows, C));
      batch_norm_forward<T>(y, mean, r, running_mean, running_variance, x, gamma, beta, rows, C, 0.9f, 1e-3f, training, scratch, nullptr);
      check("batch_norm_forward", y);
      check("batch_norm_forward running_mean", running_mean);
      check("batch_norm_forward running_variance", running_variance);
      batch_norm_backward<T>(dx, dgamma, dbeta, dy, x, gamma, mean, r, rows, C, training, scratch, nullptr);
      check("batch_norm_backward", dx);
      check("batch_norm_backward dgamma", dgamma);
      check("batch_norm_backward dbeta", dbeta);
    }
}

template <class T>
void images() {
  const Augment shapes[] = {{1, 1, 1, 1, 1, 1, 1, 1}, {3, 9, 8, 7, 5, 0.5f, 0.25f, 0.75f}, {2, 40, 300, 33, 257, 1, 1, 1}};
  for (const Augment& s : shapes) {
    Array<std::uint8_t> x(long(s.N) * s.stored_h * s.stored_w * 3);
    Array<> mean = random(long(s.stored_h) * s.stored_w * 3), noise = random(s.N * 3);
    Array<T> y(long(s.N) * s.H * s.W * 3);
    Array<std::int32_t> crops(s.N * 3);
    for (int n = 0; n < s.N; ++n) crops[3 * n] = s.stored_h - s.H, crops[3 * n + 1] = n % 2 * (s.stored_w - s.W), crops[3 * n + 2] = n % 2;
    Array<> maps = random(s.N * 6), tones = random(s.N * 2), mix = random(s.N);
    for (int n = 0; n < s.N; ++n) {
      float* const m = maps.data() + 6 * n;  // all of the image, turned a little where n is odd
      m[0] = m[3] = 0, m[1] = float(s.stored_h) / s.H, m[5] = -float(s.stored_w) / s.W, m[2] = n % 2 * 0.2f, m[4] = n % 2 * -0.2f;
      mix[n] = 0.25f;
    }
    for (const float* with : {noise.data(), static_cast<float*>(nullptr)})
      for (const float* share : {mix.data(), static_cast<float*>(nullptr)}) {
        const float* const tone = with ? tones.data() : nullptr;
        augment<T>(y, x, mean, crops, with, tone, share, s, nullptr);
        check("augment", y);
        augment_by_maps<T>(y, x, mean, maps, with, tone, share, s, nullptr);
        check("augment_by_maps", y);
      }
  }
}

template <class T>
void broadcasts() {
  const Operation operations[] = {
#define NAME(name, arity) Operation::name,
      FOR_EACH_OPERATION(NAME)
#undef NAME
  };
  const int arities[] = {
#define ARITY(name, arity) arity,
      FOR_EACH_OPERATION(ARITY)
#undef ARITY
  };
  // A whole matrix and a row, a column, a number; the transpose; one of rows and columns longer than a block
  const long shapes[][2] = {{1, 1}, {5, 7}, {3, 300}, {2, 8200}};
  for (const auto& [rows, columns] : shapes)
    for (std::size_t i = 0; i < std::size(operations); ++i) {
      Array<T> a = random<T>(rows * columns), b = random<T>(columns), c = random<T>(rows), y(rows * columns);
      for (Array<T>* operand : {&a, &b, &c})
        for (T& v : operand->values) v = 0.25f + std::abs(float(v));
      const Broadcast s{{1, 1, rows, columns}, {{0, 0, 1, rows}, {0, 0, columns, 1}, {0, 0, 0, 1}, {0, 0, 1, 0}, {}}, {0, 0, 0, 1.5f}};
      broadcast<T>(y, a, arities[i] > 1 ? b.data() : nullptr, arities[i] > 2 ? c.data() : nullptr, nullptr, operations[i], s, nullptr);
      check("broadcast " + std::to_string(i), y);
    }
}

template <class T>
void reductions() {
  const Reduce shapes[] = {{1, 1, 1}, {2, 5, 3}, {1, 4099, 1}, {3, 65, 1}, {1, 70, 40}, {2, 200, 33}};
  for (const Reduce& s : shapes) {
    Array<T> x = random<T>(s.outer * s.K * s.inner), y(s.outer * s.inner), dx(s.outer * s.K * s.inner);
    Array<std::int32_t> which(s.outer * s.inner);
    Array<char> scratch = workspace(reduce_sum_workspace(s)), more = workspace(reduce_max_workspace(s));
    reduce_sum<T>(y, x, s, 3, scratch, nullptr);
    check("reduce_sum", y);
    reduce_max<T>(y, which, x, s, more, nullptr);
    check("reduce_max", y);
    reduce_max_backward<T>(dx, y, which, s, nullptr);
    check("reduce_max_backward", dx);
  }
}

template <class T>
void elements() {
  for (long n : {1, 4, 255, 256, 257, 4096, 5001}) {
    Array<T> x = random<T>(n), y(n), dy = random<T>(n), dx(n);
    Array<std::uint64_t> state(2);
    state[0] = 7, state[1] = 3;
    Array<> wide(n);
    Array<bfloat16> narrow(n);
    if constexpr (sizeof(T) == 2) {
      cast(wide.data(), x.data(), n, nullptr);
      check("cast", wide);
    } else {
      cast(narrow.data(), x.data(), n, nullptr);
      check("cast", narrow);
    }
    relu_forward<T>(y, x, n, nullptr);
    check("relu_forward", y);
    relu_backward<T>(dx, dy, y, n, nullptr);
    check("relu_backward", dx);
    tanh_forward<T>(y, x, n, nullptr);
    check("tanh_forward", y);
    tanh_backward<T>(dx, dy, y, n, nullptr);
    check("tanh_backward", dx);
    sigmoid_forward<T>(y, x, n, nullptr);
    check("sigmoid_forward", y);
    sigmoid_backward<T>(dx, dy, y, n, nullptr);
    check("sigmoid_backward", dx);
    dropout<T>(y, x, state, n, 4, 0.5f, 1.0f, 2, nullptr);
    check("dropout", y);
    dropout<T>(dy, dy, state, n, 3, 0.25f, 1.5f, 1, nullptr);
    check("dropout in place", dy);
  }
}

void updates() {
  for (long n : {1, 4, 255, 256, 257, 4096, 5001}) {
    Array<> x = random(n), lr(1), w = random(n), v = random(n);
    lr[0] = 0.01f;
    sgd(w, v, x, lr, n, 2.0f, 0.9f, 5e-4f, false, nullptr);
    check("sgd w", w);
    check("sgd v", v);
    Array<> m = random(n), square = random(n), t(1);
    t[0] = 3;
    for (float& value : square.values) value = std::abs(value);
    adam(w, m, square, x, lr, t, n, {0.9f, 0.999f, 0.0f, 1e-7f, 0.01f, 0.02f, 1.0f}, nullptr);
    check("adam w", w);
    check("adam m", m);
    check("adam v", square);
    ema(m, w, lr, n, nullptr);
    check("ema", m);
  }
  const long sizes[] = {1, 4096, 5, 4100, 8192, 255};
  std::vector<Array<>> w, v, g;
  Array<> lr = random(100);
  std::vector<Sgd> parameters;
  for (int i = 0; i < 100; ++i) {  // more than one launch takes
    const long n = sizes[i % 6];
    for (auto* arrays : {&w, &v, &g}) arrays->push_back(random(n));
    parameters.push_back({w[i], v[i], g[i], lr + i, n, 1, 0.9f, 5e-4f, i % 2 == 1});
  }
  multi_sgd(parameters.data(), 100, nullptr);
  for (int i = 0; i < 100; ++i) {
    check("multi_sgd w", w[i]);
    check("multi_sgd v", v[i]);
  }
}

void losses() {
  const int shapes[][2] = {{1, 1}, {3, 10}, {5, 1000}, {33, 31}, {2, 257}};
  for (auto [N, C] : shapes) {
    Array<> x = random(N * C), p(N * C), loss(1), losses(N), dx(N * C), dloss = random(1);
    Array<std::int32_t> first(N), second(N);
    for (std::int32_t& label : first.values) label = std::int32_t(generator() % C);
    for (std::int32_t& label : second.values) label = std::int32_t(generator() % C);
    Array<> mix = random(N);
    for (float& share : mix.values) share = std::abs(share) / (1 + std::abs(share));
    softmax(p, x, N, C, nullptr);
    check("softmax", p);
    Array<> weights = random(C), sums(2);
    for (float& weight : weights.values) weight = 1 + std::abs(weight);
    const Labels single{first}, mixed{first, second, mix};
    for (const Labels& labels : {single, mixed})
      for (bool weighted : {false, true}) {
        const float smoothing = weighted ? 0.1f : 0;
        class_weight_sums(sums, labels, weights, N, C, nullptr);
        check("class_weight_sums", sums);
        const float *w = weighted ? weights.data() : nullptr, *s = weighted ? sums.data() : nullptr;
        softmax_cross_entropy_forward(loss, losses, p, x, labels, w, s, smoothing, N, C, nullptr);
        check("softmax_cross_entropy_forward loss", loss);
        check("softmax_cross_entropy_forward losses", losses);
        check("softmax_cross_entropy_forward p", p);
        softmax_cross_entropy_backward(dx, dloss, p, labels, w, s, smoothing, N, C, nullptr);
        check("softmax_cross_entropy_backward", dx);
      }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3) {
    writing = !std::strcmp(argv[1], "write");
    file = std::fopen(argv[2], writing ? "wb" : "rb");
    if (!file) return std::perror(argv[2]), 2;
  }
  gemms();
  few_rows();
  tensor_gemms<float>();
  dropped_gemms<float>();
  plain_gemm_updates();
  gemm_updates<float>();
  skinny_gemms<float>();
  short_gemms();
  biases<float>();
  convolutions();
  winograd_convolutions();
  implicit_convolutions<float>();
  space_to_depth_convolutions<float>();
  hopper_convolutions<float>();
  locals();
  pools<float>();
  normalisations<float>();
  pooled_normalisations<float>();
  spatial_normalisations();
  batch_normalisations<float>();
  images<float>();
  elements<float>();
  broadcasts<float>();
  reductions<float>();
  updates();
  losses();
  tensor_gemms<bfloat16>();
  dropped_gemms<bfloat16>();
  skinny_gemms<bfloat16>();
  gemm_updates<bfloat16>();
  biases<bfloat16>();
  implicit_convolutions<bfloat16>();
  space_to_depth_convolutions<bfloat16>();
  hopper_convolutions<bfloat16>();
  pools<bfloat16>();
  normalisations<bfloat16>();
  pooled_normalisations<bfloat16>();
  batch_normalisations<bfloat16>();
  images<bfloat16>();
  elements<bfloat16>();
  broadcasts<bfloat16>();
  reductions<bfloat16>();
  if (file) std::fclose(file);
  if (!mistakes) std::puts("ok");
  return mistakes != 0;
}
