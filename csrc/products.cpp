// products.cpp - the bindings of matrix products: gemm.cu, tensor_gemm.cu, skinny_gemm.cu, short_gemm.cu.
#include "binding.h"

namespace alexnet {
namespace {

void bind_gemm(py::module_& m) {
  m.def(
      "gemm_workspace",
      [](long M, long N, long K) {
        constexpr const char* name = "gemm_workspace";
        return gemm_workspace(
            {checked<int>(name, "M", M), checked<int>(name, "N", N), checked<int>(name, "K", K), false, false, K, N, N, 1, 0});
      },
      "M"_a, "N"_a, "K"_a);
  m.def(
      "gemm",
      [](py::handle c_, py::handle a_, py::handle b_, bool transpose_a, bool transpose_b, double alpha, double beta, py::handle workspace_,
         Address stream) {
        Call call("gemm", stream);
        const auto a = call.in<float>("a", a_, {any, any});
        const long M = a.shape[transpose_a], K = a.shape[!transpose_a];
        const auto b = call.in<float>("b", b_, transpose_b ? Shape{any, K} : Shape{K, any});
        const long N = b.shape[!transpose_b];
        const auto c = call.out<float>("c", c_, {M, N});
        const Gemm g{checked<int>("gemm", "M", M),
                     checked<int>("gemm", "N", N),
                     checked<int>("gemm", "K", K),
                     transpose_a,
                     transpose_b,
                     a.shape[1],
                     b.shape[1],
                     N,
                     finite("gemm", "alpha", alpha),
                     finite("gemm", "beta", beta)};
        void* workspace = workspace_.is_none() ? nullptr : call.workspace(workspace_, gemm_workspace(g));
        call.run([&](Stream s) { gemm(c, a, b, g, workspace, s); });
      },
      "c"_a, "a"_a, "b"_a, "transpose_a"_a = false, "transpose_b"_a = false, "alpha"_a = 1.0, "beta"_a = 0.0, "workspace"_a = py::none(),
      "stream"_a = 0);
}

// run(w, v, a, b, lr, M, N, K, momentum, decay) with the arguments of an update of w and v, (M, N), with a^T b.
template <class T, class F>
void with_update(Call& call, const char* name, py::handle w_, py::handle v_, py::handle a_, py::handle b_, py::handle lr_, double momentum,
                 double decay, F run) {
  const float mu = finite(name, "momentum", momentum), lambda = finite(name, "decay", decay);
  const auto a = call.in<T>("a", a_, {any, any});
  const auto b = call.in<T>("b", b_, {a.shape[0], any});
  const auto lr = call.in<float>("lr", lr_, {});
  const Shape shape{a.shape[1], b.shape[1]};
  const int M = checked<int>(name, "M", shape[0]), N = checked<int>(name, "N", shape[1]), K = checked<int>(name, "K", a.shape[0]);
  const auto w = call.out<float>("w", w_, shape);
  const auto v = call.out<float>("v", v_, shape);
  run(w, v, a, b, lr, M, N, K, mu, lambda);
}

void bind_gemm_sgd(py::module_& m) {
  constexpr const char* name = "gemm_sgd";
  m.def(
      "gemm_sgd_workspace",
      [](long M, long N) {
        return gemm_sgd_workspace(checked<int>("gemm_sgd_workspace", "M", M), checked<int>("gemm_sgd_workspace", "N", N));
      },
      "M"_a, "N"_a);
  m.def(
      name,
      [](py::handle w_, py::handle v_, py::handle a_, py::handle b_, py::handle lr_, double momentum, double decay, bool nesterov,
         py::handle workspace_, Address stream) {
        Call call(name, stream);
        const auto run = [&](auto w, auto v, auto a, auto b, auto lr, int M, int N, int K, float mu, float lambda) {
          void* workspace = call.workspace(workspace_, gemm_sgd_workspace(M, N));
          call.run([&](Stream s) { gemm_sgd(w, v, a, b, lr, M, N, K, mu, lambda, nesterov, workspace, s); });
        };
        with_update<float>(call, name, w_, v_, a_, b_, lr_, momentum, decay, run);
      },
      "w"_a, "v"_a, "a"_a, "b"_a, "lr"_a, "momentum"_a, "decay"_a, "nesterov"_a, "workspace"_a, "stream"_a = 0);
}

void bind_tensor_gemm(py::module_& m) {
  m.def(
      "tensor_gemm_workspace",
      [](long M, long N, long K) {
        constexpr const char* name = "tensor_gemm_workspace";
        return tensor_gemm_workspace(
            {checked<int>(name, "M", M), checked<int>(name, "N", N), checked<int>(name, "K", K), false, false, K, N, N, 1, 0});
      },
      "M"_a, "N"_a, "K"_a);
  m.def(
      "tensor_gemm",
      [](py::handle c_, py::handle db_, py::handle a_, py::handle b_, py::handle bias_, py::handle mask_, bool transpose_a,
         bool transpose_b, double alpha, double beta, bool relu, std::string_view precision_, py::handle workspace_, Address stream) {
        with_storage(a_, [&]<class T>() {
          Call call("tensor_gemm", stream);
          const Precision precision = precision_of<T>(call, precision_);
          const auto a = call.in<T>("a", a_, {any, any});
          const long M = a.shape[transpose_a], K = a.shape[!transpose_a];
          const auto b = call.in<T>("b", b_, transpose_b ? Shape{any, K} : Shape{K, any});
          const long N = b.shape[!transpose_b];
          const auto bias = call.in_or_none<float>("bias", bias_, {N});
          const Gemm g{checked<int>("tensor_gemm", "M", M),
                       checked<int>("tensor_gemm", "N", N),
                       checked<int>("tensor_gemm", "K", K),
                       transpose_a,
                       transpose_b,
                       a.shape[1],
                       b.shape[1],
                       N,
                       finite("tensor_gemm", "alpha", alpha),
                       finite("tensor_gemm", "beta", beta)};
          if (!db_.is_none() && !(transpose_a && !transpose_b && alpha != 0))
            call.fail("db", "expected None unless a alone is transposed and alpha is not 0");
          const auto multiply = [&]<class C>() {
            const auto mask = call.in_or_none<C>("mask", mask_, {M, N});
            const auto c = call.out<C>("c", c_, {M, N});
            const auto db = call.out_or_none<float>("db", db_, {M});
            void* workspace = call.workspace(workspace_, tensor_gemm_workspace(g));
            call.run([&](Stream s) { tensor_gemm<C, T>(c, db, a, b, bias, mask, g, relu, precision, workspace, s); });
          };
          if constexpr (std::is_same_v<T, bfloat16>)
            with_storage(c_, multiply);
          else
            multiply.template operator()<float>();
        });
      },
      "c"_a, "db"_a, "a"_a, "b"_a, "bias"_a, "mask"_a, "transpose_a"_a, "transpose_b"_a, "alpha"_a, "beta"_a, "relu"_a, "precision"_a,
      "workspace"_a, "stream"_a = 0);
}

void bind_tensor_gemm_dropout(py::module_& m) {
  m.def(
      "tensor_gemm_dropout",
      [](py::handle y_, py::handle x_, py::handle w_, py::handle b_, py::handle state_, std::uint64_t first, double p, double scale,
         std::uint32_t purpose, std::string_view precision_, py::handle workspace_, Address stream) {
        with_storage(x_, [&]<class T>() {
          constexpr const char* name = "tensor_gemm_dropout";
          Call call(name, stream);
          const Precision precision = precision_of<T>(call, precision_);
          check_dropout(call, first, p);
          const float factor = finite(name, "scale", scale);
          const auto x = call.in<T>("x", x_, {any, any});
          const auto w = call.in<T>("w", w_, {any, x.shape[1]});
          const int M = checked<int>(name, "M", x.shape[0]), N = checked<int>(name, "N", w.shape[0]),
                    K = checked<int>(name, "K", x.shape[1]);
          const auto b = call.in_or_none<float>("b", b_, {N});
          const auto state = call.in<std::uint64_t>("state", state_, {2});
          const auto y = call.out<T>("y", y_, {M, N});
          void* workspace = call.workspace(workspace_, tensor_gemm_workspace({M, N, K, false, true, K, K, N, 1, 0}));
          call.run([&](Stream s) {
            tensor_gemm_dropout<T>(y, x, w, b, state, M, N, K, long(first), float(p), factor, purpose, precision, workspace, s);
          });
        });
      },
      "y"_a, "x"_a, "w"_a, "b"_a, "state"_a, "first"_a, "p"_a, "scale"_a, "purpose"_a, "precision"_a, "workspace"_a, "stream"_a = 0);
}

void bind_tensor_gemm_sgd(py::module_& m) {
  m.def(
      "tensor_gemm_sgd",
      [](py::handle w_, py::handle v_, py::handle stored_, py::handle a_, py::handle b_, py::handle lr_, double momentum, double decay,
         bool nesterov, std::string_view precision_, py::handle workspace_, Address stream) {
        with_storage(a_, [&]<class T>() {
          constexpr const char* name = "tensor_gemm_sgd";
          Call call(name, stream);
          const Precision precision = precision_of<T>(call, precision_);
          const auto run = [&](auto w, auto v, auto a, auto b, auto lr, int M, int N, int K, float mu, float lambda) {
            const auto stored = call.out_or_none<bfloat16>("stored", stored_, {M, N});
            void* workspace = call.workspace(workspace_, tensor_gemm_workspace({M, N, K, true, false, M, N, N, 1, 0}));
            call.run([&](Stream s) { tensor_gemm_sgd<T>(w, v, stored, a, b, lr, M, N, K, mu, lambda, nesterov, precision, workspace, s); });
          };
          with_update<T>(call, name, w_, v_, a_, b_, lr_, momentum, decay, run);
        });
      },
      "w"_a, "v"_a, "stored"_a, "a"_a, "b"_a, "lr"_a, "momentum"_a, "decay"_a, "nesterov"_a, "precision"_a, "workspace"_a, "stream"_a = 0);
}

void bind_skinny_gemm(py::module_& m) {
  const auto bind_size = [&](const char* name, auto function) {
    m.def(
        name,
        [=](long M, long N, long K) {
          return function(checked<int>(name, "M", M), checked<int>(name, "N", N), checked<int>(name, "K", K));
        },
        "M"_a, "N"_a, "K"_a);
  };
  bind_size("skinny_gemm_takes", skinny_gemm_takes);
  bind_size("skinny_gemm_workspace", skinny_gemm_workspace);
  m.def(
      "skinny_gemm",
      [](py::handle y_, py::handle x_, py::handle w_, py::handle b_, bool relu, std::string_view precision_, py::handle workspace_,
         Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("skinny_gemm", stream);
          const Precision precision = precision_of<T>(call, precision_, true);
          const auto x = call.in<T>("x", x_, {any, any});
          const int M = checked<int>("skinny_gemm", "M", x.shape[0]), K = checked<int>("skinny_gemm", "K", x.shape[1]);
          const auto w = call.in<T>("w", w_, {any, K});
          const int N = checked<int>("skinny_gemm", "N", w.shape[0]);
          if (!skinny_gemm_takes(M, N, K)) call.fail("x", "expected at most 16 rows, got shape " + text(x.shape));
          const auto b = call.in_or_none<float>("b", b_, {N});
          const auto y = call.out<T>("y", y_, {M, N});
          void* workspace = call.workspace(workspace_, skinny_gemm_workspace(M, N, K));
          call.run([&](Stream s) { skinny_gemm<T, T>(y, x, w, nullptr, b, M, N, K, relu, precision, workspace, s); });
        });
      },
      "y"_a, "x"_a, "w"_a, "b"_a, "relu"_a, "precision"_a, "workspace"_a, "stream"_a = 0);
}

void bind_short_gemm(py::module_& m) {
  m.def(
      "short_gemm_workspace",
      [](long M, long N, long K) {
        constexpr const char* name = "short_gemm_workspace";
        return short_gemm_workspace(checked<int>(name, "M", M), checked<int>(name, "N", N), checked<int>(name, "K", K));
      },
      "M"_a, "N"_a, "K"_a);
  m.def(
      "short_gemm",
      [](py::handle y_, py::handle x_, py::handle w_, py::handle scale_, py::handle b_, bool relu, py::handle workspace_, Address stream) {
        const auto multiply = [&]<class W>() {
          Call call("short_gemm", stream);
          const auto x = call.in<float>("x", x_, {any, any});
          const int M = checked<int>("short_gemm", "M", x.shape[0]), K = checked<int>("short_gemm", "K", x.shape[1]);
          const auto w = call.in<W>("w", w_, {any, K});
          const int N = checked<int>("short_gemm", "N", w.shape[0]);
          if (std::is_same_v<W, bfloat16> && !scale_.is_none()) call.fail("scale", "expected None for weights in bfloat16");
          const auto scale = std::is_same_v<W, bfloat16> ? Array<const float>() : call.in<float>("scale", scale_, {N});
          const auto b = call.in_or_none<float>("b", b_, {N});
          const auto y = call.out<float>("y", y_, {M, N});
          void* workspace = call.workspace(workspace_, short_gemm_workspace(M, N, K));
          call.run([&](Stream s) { short_gemm<W>(y, x, w, scale, b, M, N, K, relu, workspace, s); });
        };
        if (is_bfloat16(w_))
          multiply.template operator()<bfloat16>();
        else
          multiply.template operator()<std::int8_t>();
      },
      "y"_a, "x"_a, "w"_a, "scale"_a, "b"_a, "relu"_a, "workspace"_a, "stream"_a = 0);
}

}  // namespace

void bind_products(py::module_& m) {
  bind_gemm(m);
  bind_tensor_gemm(m);
  bind_tensor_gemm_dropout(m);
  bind_gemm_sgd(m);
  bind_tensor_gemm_sgd(m);
  bind_skinny_gemm(m);
  bind_short_gemm(m);
}

}  // namespace alexnet
