// digits.cpp - a small convolutional network trained on handwritten digits with the kernels alone, without Python: the network of
// examples/digits_with_bare_kernels.py.
//
//   digits FILE [EPOCHS]
//
// FILE is the UCI machine learning repository's optdigits.tes, which is also scikit-learn's digits: a line an 8x8 image, 64 values
// from 0 to 16 and the digit, with commas between them. The last fifth is for testing.
#include <alexnet/kernels.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Floats = std::vector<float>;
using Labels = std::vector<std::int32_t>;

constexpr int kSide = 8, kFilters = 16, kPooled = 3, kFlat = kPooled * kPooled * kFilters, kDigits = 10, kBatch = 32;
constexpr float kRate = 0.05f;

struct Images {
  Floats x;  // (N, 8, 8, 1), from 0 to 1
  Labels labels;
  int size() const { return int(labels.size()); }
};

Images read(const char* path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(std::string(path) + ": cannot be read");
  Images images;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const char* at = line.c_str();
    for (int i = 0; i <= kSide * kSide; ++i) {
      char* end;
      const double value = std::strtod(at, &end);
      const bool last = i == kSide * kSide;
      if (end == at || *end != (last ? '\0' : ',') || value < 0 || value > (last ? 9 : 16))
        throw std::runtime_error(std::string(path) + ": line " + std::to_string(number) + ": expected 64 values and a digit");
      last ? images.labels.push_back(int(value)) : images.x.push_back(float(value) / 16);
      at = end + 1;
    }
  }
  if (images.size() < 5 * kBatch) throw std::runtime_error(std::string(path) + ": expected at least 160 images");
  return images;
}

Images part(const Images& all, const std::vector<int>& chosen) {
  Images some;
  for (int n : chosen) {
    some.x.insert(some.x.end(), all.x.begin() + n * kSide * kSide, all.x.begin() + (n + 1) * kSide * kSide);
    some.labels.push_back(all.labels[n]);
  }
  return some;
}

// Numbers in (-scale, scale), the same on every machine.
Floats random(std::size_t n, float scale, std::mt19937& generator) {
  Floats values(n);
  for (float& v : values) v = scale * ((float(generator() >> 8) + 0.5f) * 0x1p-23f - 1);
  return values;
}

struct Parameter {
  Floats w, v = Floats(w.size());
  void update(const Floats& g) { alexnet::sgd(w.data(), v.data(), g.data(), &kRate, long(w.size()), 1, 0.9f, 5e-4f, false, nullptr); }
};

// conv 3x3 -> ReLU -> LRN -> max-pool -> fully connected -> softmax
class Network {
 public:
  explicit Network(std::mt19937& generator)
      : conv_w{random(kFilters * 9, std::sqrt(6.0f / 9), generator)},
        conv_b{Floats(kFilters)},
        fc_w{random(kDigits * kFlat, std::sqrt(6.0f / kFlat), generator)},
        fc_b{Floats(kDigits)} {}

  // Logits (N, 10).
  Floats forward(const Floats& x, int N) {
    conv = {N, kSide, kSide, 1, kFilters, 3, 3, 1, 1, 1, 1, 1, kSide, kSide};
    lrn = {long(N) * kSide * kSide, kFilters, 1, 5, 2, 1e-4f, 0.75f};
    pool = {N, kSide, kSide, kFilters, 3, 3, 2, 2, 0, 0, kPooled, kPooled};
    y1.resize(lrn.rows * kFilters), y2.resize(y1.size()), flat.resize(N * kFlat), which.resize(flat.size());
    const auto& convolution = alexnet::conv2d().forward;
    convolution.launch(y1.data(), x.data(), conv_w.w.data(), conv_b.w.data(), conv, relu, scratch(convolution.workspace(conv, relu)),
                       nullptr);
    alexnet::lrn_forward(y2.data(), y1.data(), lrn, nullptr);
    alexnet::max_pool2d_forward(flat.data(), which.data(), y2.data(), pool, nullptr);
    Floats logits(N * kDigits);
    multiply(logits, flat, fc_w.w, {N, kDigits, kFlat, false, true, kFlat, kFlat, kDigits, 1, 0});
    alexnet::bias_forward(logits.data(), logits.data(), fc_b.w.data(), N, kDigits, false, nullptr);
    return logits;
  }

  // The mean loss of these images, after a step against its gradient.
  float train(const Images& images) {
    const int N = images.size();
    const Floats logits = forward(images.x, N);
    const float one = 1;
    float loss;
    Floats losses(N), p(logits.size()), dlogits(logits.size());
    alexnet::softmax_cross_entropy_forward(&loss, losses.data(), p.data(), logits.data(), {images.labels.data()}, nullptr, nullptr, 0, N,
                                           kDigits, nullptr);
    alexnet::softmax_cross_entropy_backward(dlogits.data(), &one, p.data(), {images.labels.data()}, nullptr, nullptr, 0, N, kDigits,
                                            nullptr);
    Floats dflat(flat.size()), dfc_w(fc_w.w.size()), dfc_b(kDigits), dy2(y2.size()), dy1(y1.size());
    multiply(dflat, dlogits, fc_w.w, {N, kFlat, kDigits, false, false, kDigits, kFlat, kFlat, 1, 0});
    multiply(dfc_w, dlogits, flat, {kDigits, kFlat, N, true, false, kDigits, kFlat, kFlat, 1, 0});
    alexnet::bias_backward(dfc_b.data(), dlogits.data(), N, kDigits, scratch(alexnet::bias_backward_workspace(N, kDigits)), nullptr);
    alexnet::max_pool2d_backward(dy2.data(), dflat.data(), which.data(), pool, nullptr);
    alexnet::lrn_backward(dy1.data(), dy2.data(), y1.data(), lrn, true, nullptr);  // and back through the ReLU
    Floats dconv_w(conv_w.w.size()), dconv_b(kFilters);
    const auto& gradient = alexnet::conv2d().backward_weight;
    gradient.launch(dconv_w.data(), dconv_b.data(), dy1.data(), images.x.data(), conv, relu, scratch(gradient.workspace(conv, relu)),
                    nullptr);
    conv_w.update(dconv_w), conv_b.update(dconv_b), fc_w.update(dfc_w), fc_b.update(dfc_b);
    return loss;
  }

  double accuracy(const Images& images) {
    const Floats logits = forward(images.x, images.size());
    int right = 0;
    for (int n = 0; n < images.size(); ++n) {
      const auto row = logits.begin() + n * kDigits;
      right += std::max_element(row, row + kDigits) - row == images.labels[n];
    }
    return double(right) / images.size();
  }

 private:
  void multiply(Floats& c, const Floats& a, const Floats& b, const alexnet::Gemm& g) {
    alexnet::gemm(c.data(), a.data(), b.data(), g, scratch(alexnet::gemm_workspace(g)), nullptr);
  }
  void* scratch(std::size_t bytes) {
    workspace.resize(std::max(workspace.size(), bytes));
    return workspace.data();
  }

  Parameter conv_w, conv_b, fc_w, fc_b;
  const alexnet::Conv2dOptions relu{alexnet::Precision::fp32, true, false};
  alexnet::Conv2d conv{};
  alexnet::Lrn lrn{};
  alexnet::Pool2d pool{};
  Floats y1, y2, flat;
  std::vector<std::uint8_t> which;
  std::vector<std::byte> workspace;
};

void run(const char* path, int epochs) {
  const Images all = read(path);
  std::vector<int> order(all.size());
  std::iota(order.begin(), order.end(), 0);
  const auto last_fifth = order.end() - all.size() / 5;
  const Images test = part(all, {last_fifth, order.end()});
  order.erase(last_fifth, order.end());

  std::mt19937 generator(0);
  Network network(generator);
  for (int epoch = 1; epoch <= epochs; ++epoch) {
    for (std::size_t i = order.size(); --i;) std::swap(order[i], order[generator() % (i + 1)]);
    double sum = 0;
    int steps = 0;
    for (std::size_t first = 0; first < order.size(); first += kBatch, ++steps) {
      const auto begin = order.begin() + long(first), end = order.begin() + long(std::min(first + kBatch, order.size()));
      sum += network.train(part(all, {begin, end}));
    }
    std::printf("epoch %2d  loss %.17g  test accuracy %.2f%%\n", epoch, sum / steps, 100 * network.accuracy(test));
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int epochs = count == 3 ? std::atoi(arguments[2]) : 15;
  if (count < 2 || count > 3 || epochs < 1) {
    std::fputs("usage: digits FILE [EPOCHS]\n", stderr);
    return 2;
  }
  try {
    run(arguments[1], epochs);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "digits: %s\n", e.what());
    return 1;
  }
}
