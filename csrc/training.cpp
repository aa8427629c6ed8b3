// training.cpp - the bindings of softmax_cross_entropy.cu, sgd.cu, adam.cu, ema.cu and augment.cu.
#include <pybind11/stl.h>

#include "binding.h"

namespace alexnet {
namespace {

void check_adam(const Adam& s) {
  if (s.beta1 < 0 || s.beta1 >= 1 || s.beta2 < 0 || s.beta2 >= 1) throw py::value_error("Adam: beta1, beta2: expected numbers in [0, 1)");
}

void check_augment(const Augment& s) {
  check_product("Augment: an image", {s.stored_h, s.stored_w, 3});
  check_product("Augment: rows of y", {s.N, s.H});
  if (s.H > s.stored_h || s.W > s.stored_w)
    throw py::value_error("Augment: expected a crop of at most " + std::to_string(s.stored_h) + " x " + std::to_string(s.stored_w) +
                          " pixels, got " + std::to_string(s.H) + " x " + std::to_string(s.W));
}

// The weights of C classes and their sums, or nulls.
std::pair<const float*, const float*> class_weights(Call& call, py::handle weights_, py::handle sums_, long C) {
  const auto weights = call.in_or_none<float>("weights", weights_, {C});
  const auto sums = call.in_or_none<float>("sums", sums_, {2});
  if (weights_.is_none() != sums_.is_none()) call.fail("sums", "expected them with weights, and only then");
  return {weights, sums};
}

// The labels of N rows, with or without second ones.
Labels labels_of(Call& call, py::handle labels_, py::handle others_, py::handle mix_, long N) {
  const auto first = call.in<std::int32_t>("labels", labels_, {N});
  const auto second = call.in_or_none<std::int32_t>("others", others_, {N});
  const auto mix = call.in_or_none<float>("mix", mix_, {N});
  if (others_.is_none() != mix_.is_none()) call.fail("mix", "expected it with others, and only then");
  return {first, second, mix};
}

float smoothing_of(Call& call, double smoothing) {
  if (!(smoothing >= 0 && smoothing < 1)) call.fail("smoothing", "expected a number in [0, 1)");
  return float(smoothing);
}

void bind_softmax(py::module_& m) {
  m.def(
      "softmax",
      [](py::handle p_, py::handle x_, Address stream) {
        Call call("softmax", stream);
        const auto x = call.in<float>("x", x_, {any, any});
        const int N = checked<int>("softmax", "N", x.shape[0]), C = checked<int>("softmax", "C", x.shape[1]);
        const auto p = call.out<float>("p", p_, x.shape);
        call.run([&](Stream s) { softmax(p, x, N, C, s); });
      },
      "p"_a, "x"_a, "stream"_a = 0);

  m.def(
      "class_weight_sums",
      [](py::handle sums_, py::handle labels_, py::handle others_, py::handle mix_, py::handle weights_, Address stream) {
        Call call("class_weight_sums", stream);
        const auto first = call.in<std::int32_t>("labels", labels_, {any});
        const auto weights = call.in<float>("weights", weights_, {any});
        const auto sums = call.out<float>("sums", sums_, {2});
        const int N = checked<int>("class_weight_sums", "N", first.shape[0]), C = checked<int>("class_weight_sums", "C", weights.shape[0]);
        const Labels labels = labels_of(call, labels_, others_, mix_, N);
        call.run([&](Stream s) { class_weight_sums(sums, labels, weights, N, C, s); });
      },
      "sums"_a, "labels"_a, "others"_a, "mix"_a, "weights"_a, "stream"_a = 0);

  m.def(
      "softmax_cross_entropy_forward",
      [](py::handle loss_, py::handle losses_, py::handle p_, py::handle x_, py::handle labels_, py::handle others_, py::handle mix_,
         py::handle weights_, py::handle sums_, double smoothing, Address stream) {
        const char* name = "softmax_cross_entropy_forward";
        Call call(name, stream);
        const auto x = call.in<float>("x", x_, {any, any});
        const int N = checked<int>(name, "N", x.shape[0]), C = checked<int>(name, "C", x.shape[1]);
        const Labels labels = labels_of(call, labels_, others_, mix_, N);
        const auto [weights, sums] = class_weights(call, weights_, sums_, C);
        const float share = smoothing_of(call, smoothing);
        const auto loss = call.out<float>("loss", loss_, {});
        const auto losses = call.out<float>("losses", losses_, {N});
        const auto p = call.out<float>("p", p_, x.shape);
        call.run([&](Stream s) { softmax_cross_entropy_forward(loss, losses, p, x, labels, weights, sums, share, N, C, s); });
      },
      "loss"_a, "losses"_a, "p"_a, "x"_a, "labels"_a, "others"_a = py::none(), "mix"_a = py::none(), "weights"_a = py::none(),
      "sums"_a = py::none(), "smoothing"_a = 0.0, "stream"_a = 0);

  m.def(
      "softmax_cross_entropy_backward",
      [](py::handle dx_, py::handle dloss_, py::handle p_, py::handle labels_, py::handle others_, py::handle mix_, py::handle weights_,
         py::handle sums_, double smoothing, Address stream) {
        const char* name = "softmax_cross_entropy_backward";
        Call call(name, stream);
        const auto dloss = call.in<float>("dloss", dloss_, {});
        const auto p = call.in<float>("p", p_, {any, any});
        const int N = checked<int>(name, "N", p.shape[0]), C = checked<int>(name, "C", p.shape[1]);
        const Labels labels = labels_of(call, labels_, others_, mix_, N);
        const auto [weights, sums] = class_weights(call, weights_, sums_, C);
        const float share = smoothing_of(call, smoothing);
        const auto dx = call.out<float>("dx", dx_, p.shape);
        call.run([&](Stream s) { softmax_cross_entropy_backward(dx, dloss, p, labels, weights, sums, share, N, C, s); });
      },
      "dx"_a, "dloss"_a, "p"_a, "labels"_a, "others"_a = py::none(), "mix"_a = py::none(), "weights"_a = py::none(), "sums"_a = py::none(),
      "smoothing"_a = 0.0, "stream"_a = 0);
}

void bind_sgd(py::module_& m) {
  m.def(
      "sgd",
      [](py::handle w_, py::handle v_, py::handle g_, py::handle lr_, double lr_scale, double momentum, double decay, bool nesterov,
         Address stream) {
        Call call("sgd", stream);
        const float scale = finite("sgd", "lr_scale", lr_scale), mu = finite("sgd", "momentum", momentum),
                    lambda = finite("sgd", "decay", decay);
        const auto g = call.in<float>("g", g_);
        const auto lr = call.in<float>("lr", lr_, {});
        const auto w = call.out<float>("w", w_, g.shape);
        const auto v = call.out<float>("v", v_, g.shape);
        call.run([&](Stream s) { sgd(w, v, g, lr, g.size(), scale, mu, lambda, nesterov, s); });
      },
      "w"_a, "v"_a, "g"_a, "lr"_a, "lr_scale"_a, "momentum"_a, "decay"_a, "nesterov"_a = false, "stream"_a = 0);
  m.def(
      "multi_sgd",
      [](const std::vector<py::handle>& w_, const std::vector<py::handle>& v_, const std::vector<py::handle>& g_,
         const std::vector<py::handle>& lr_, const std::vector<double>& momentum, const std::vector<double>& decay, bool nesterov,
         Address stream) {
        Call call("multi_sgd", stream);
        const std::size_t count = w_.size();
        if (count == 0) call.fail("w", "expected at least one array, got none");
        for (const auto& [name, n] : {std::pair("v", v_.size()), std::pair("g", g_.size()), std::pair("lr", lr_.size()),
                                      std::pair("momentum", momentum.size()), std::pair("decay", decay.size())})
          if (n != count) call.fail(name, "expected " + std::to_string(count) + ", as many as w has, got " + std::to_string(n));
        std::vector<Sgd> parameters;
        for (std::size_t i = 0; i < count; ++i) {
          const auto g = call.in<float>("g", g_[i]);
          const auto lr = call.in<float>("lr", lr_[i], {});
          const auto w = call.out<float>("w", w_[i], g.shape);
          const auto v = call.out<float>("v", v_[i], g.shape);
          parameters.push_back(
              {w, v, g, lr, g.size(), 1, finite("multi_sgd", "momentum", momentum[i]), finite("multi_sgd", "decay", decay[i]), nesterov});
        }
        call.run([&](Stream s) { multi_sgd(parameters.data(), int(count), s); });
      },
      "w"_a, "v"_a, "g"_a, "lr"_a, "momentum"_a, "decay"_a, "nesterov"_a = false, "stream"_a = 0);
}

void bind_adam(py::module_& m) {
  bind_struct<Adam>(m, "Adam", check_adam, FIELD(Adam, beta1), FIELD(Adam, beta2), FIELD(Adam, epsilon), FIELD(Adam, epsilon_hat),
                    FIELD(Adam, decay), FIELD(Adam, decoupled_decay), FIELD(Adam, lr_scale));
  m.def(
      "adam",
      [](py::handle w_, py::handle m_, py::handle v_, py::handle g_, py::handle lr_, py::handle t_, const Adam& parameters,
         Address stream) {
        Call call("adam", stream);
        const auto g = call.in<float>("g", g_);
        const auto lr = call.in<float>("lr", lr_, {});
        const auto t = call.in<float>("t", t_, {});
        const auto w = call.out<float>("w", w_, g.shape);
        const auto m = call.out<float>("m", m_, g.shape);
        const auto v = call.out<float>("v", v_, g.shape);
        call.run([&](Stream s) { adam(w, m, v, g, lr, t, g.size(), parameters, s); });
      },
      "w"_a, "m"_a, "v"_a, "g"_a, "lr"_a, "t"_a, "parameters"_a, "stream"_a = 0);
}

void bind_ema(py::module_& m) {
  m.def(
      "ema",
      [](py::handle average_, py::handle w_, py::handle rate_, Address stream) {
        Call call("ema", stream);
        const auto w = call.in<float>("w", w_);
        const auto rate = call.in<float>("rate", rate_, {});
        const auto average = call.out<float>("average", average_, w.shape);
        call.run([&](Stream s) { ema(average, w, rate, w.size(), s); });
      },
      "average"_a, "w"_a, "rate"_a, "stream"_a = 0);
}

// What both ways to see images take besides the places.
template <class T, class Launcher, class Places>
void augment_with(const char* name, Launcher launcher, Address stream, py::handle y_, py::handle x_, py::handle mean_, py::handle noise_,
                  py::handle tones_, py::handle mix_, const Augment& shape, Places places) {
  Call call(name, stream);
  const auto x = call.in<std::uint8_t>("x", x_, {shape.N, shape.stored_h, shape.stored_w, 3});
  const auto mean = call.in<float>("mean", mean_, {shape.stored_h, shape.stored_w, 3});
  const auto at = places(call);
  const auto noise = call.in_or_none<float>("noise", noise_, {shape.N, 3});
  const auto tones = call.in_or_none<float>("tones", tones_, {shape.N, 2});
  const auto mix = call.in_or_none<float>("mix", mix_, {shape.N});
  const auto y = call.out<T>("y", y_, {shape.N, shape.H, shape.W, 3});
  call.run([&](Stream s) { launcher(y, x, mean, at, noise, tones, mix, shape, s); });
}

void bind_augment(py::module_& m) {
  bind_struct<Augment>(m, "Augment", check_augment, FIELD(Augment, N), FIELD(Augment, stored_h), FIELD(Augment, stored_w),
                       FIELD(Augment, H), FIELD(Augment, W), FIELD(Augment, scale_r), FIELD(Augment, scale_g), FIELD(Augment, scale_b));
  m.def(
      "augment",
      [](py::handle y, py::handle x, py::handle mean, py::handle crops, py::handle noise, py::handle tones, py::handle mix,
         const Augment& shape, Address stream) {
        with_storage(y, [&]<class T>() {
          augment_with<T>("augment", augment<T>, stream, y, x, mean, noise, tones, mix, shape,
                          [&](Call& call) { return call.in<std::int32_t>("crops", crops, {shape.N, 3}); });
        });
      },
      "y"_a, "x"_a, "mean"_a, "crops"_a, "noise"_a, "tones"_a, "mix"_a, "shape"_a, "stream"_a = 0);
  m.def(
      "augment_by_maps",
      [](py::handle y, py::handle x, py::handle mean, py::handle maps, py::handle noise, py::handle tones, py::handle mix,
         const Augment& shape, Address stream) {
        with_storage(y, [&]<class T>() {
          augment_with<T>("augment_by_maps", augment_by_maps<T>, stream, y, x, mean, noise, tones, mix, shape, [&](Call& call) {
            if (augment_shared_bytes(shape) > 48 << 10) call.fail("x", "expected rows of at most 4096 pixels, with those of y");
            return call.in<float>("maps", maps, {shape.N, 2, 3});
          });
        });
      },
      "y"_a, "x"_a, "mean"_a, "maps"_a, "noise"_a, "tones"_a, "mix"_a, "shape"_a, "stream"_a = 0);
}

}  // namespace

void bind_training(py::module_& m) {
  bind_softmax(m);
  bind_sgd(m);
  bind_adam(m);
  bind_ema(m);
  bind_augment(m);
}

}  // namespace alexnet
