// normalisation.cpp - the bindings of lrn.cu, lrn_max_pool2d.cu, spatial_lrn.cu and batch_norm.cu.
#include "binding.h"

namespace alexnet {
namespace {

void check_lrn(const Lrn& s) {
  if (s.C % s.groups)
    throw py::value_error("Lrn: groups: expected a divisor of C = " + std::to_string(s.C) + ", got " + std::to_string(s.groups));
}

void check_spatial_lrn(const SpatialLrn& s) {
  check_product("SpatialLrn: an image of x", {s.H, s.W, s.C});
  check_product("SpatialLrn: rows of pixels", {s.N, s.H});
  if (s.size > INT_MAX / 2 - std::max(s.H, s.W)) throw py::value_error("SpatialLrn: size: expected less than 2^30");
}

void bind_lrn(py::module_& m) {
  bind_struct<Lrn>(m, "Lrn", check_lrn, FIELD(Lrn, rows), FIELD(Lrn, C), FIELD(Lrn, groups), FIELD(Lrn, size), FIELD(Lrn, k),
                   FIELD(Lrn, alpha), FIELD(Lrn, beta));
  const auto check_rows = [](const Call& call, const char* name, const auto& array, const Lrn& shape) {
    if (array.size() / shape.C != shape.rows)
      call.fail(name, "expected " + std::to_string(shape.rows) + " rows of " + std::to_string(shape.C) + " channels, got shape " +
                          text(array.shape));
  };
  m.def(
      "lrn_forward",
      [=](py::handle y_, py::handle x_, const Lrn& shape, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("lrn_forward", stream);
          const auto x = call.in<T>("x", x_, {rest, shape.C});
          check_rows(call, "x", x, shape);
          const auto y = call.out<T>("y", y_, x.shape);
          call.run([&](Stream s) { lrn_forward<T>(y, x, shape, s); });
        });
      },
      "y"_a, "x"_a, "shape"_a, "stream"_a = 0);
  m.def(
      "lrn_backward",
      [=](py::handle dx_, py::handle dy_, py::handle x_, const Lrn& shape, bool mask, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("lrn_backward", stream);
          const auto dy = call.in<T>("dy", dy_, {rest, shape.C});
          check_rows(call, "dy", dy, shape);
          const auto x = call.in<T>("x", x_, dy.shape);
          const auto dx = call.out<T>("dx", dx_, dy.shape);
          call.run([&](Stream s) { lrn_backward<T>(dx, dy, x, shape, mask, s); });
        });
      },
      "dx"_a, "dy"_a, "x"_a, "shape"_a, "mask"_a, "stream"_a = 0);
}

void bind_lrn_max_pool2d(py::module_& m) {
  m.def("lrn_max_pool2d_takes", lrn_max_pool2d_takes, "lrn"_a, "pool"_a);
  const auto check = [](const Call& call, const Lrn& lrn, const Pool2d& pool) {
    if (!lrn_max_pool2d_takes(lrn, pool)) call.fail("pool", "these shapes cannot be computed in one pass");
    if (lrn.C != pool.C || lrn.rows != long(pool.N) * pool.H * pool.W)
      call.fail("lrn", "expected " + std::to_string(long(pool.N) * pool.H * pool.W) + " rows of " + std::to_string(pool.C) +
                           " channels, got " + std::to_string(lrn.rows) + " of " + std::to_string(lrn.C));
  };
  m.def(
      "lrn_max_pool2d_forward",
      [=](py::handle y_, py::handle which_, py::handle x_, const Lrn& lrn, const Pool2d& pool, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("lrn_max_pool2d_forward", stream);
          check(call, lrn, pool);
          const auto x = call.in<T>("x", x_, input_of(pool));
          const auto y = call.out<T>("y", y_, output_of(pool));
          const auto which = call.out<std::uint8_t>("which", which_, y.shape);
          call.run([&](Stream s) { lrn_max_pool2d_forward<T>(y, which, x, lrn, pool, s); });
        });
      },
      "y"_a, "which"_a, "x"_a, "lrn"_a, "pool"_a, "stream"_a = 0);
  m.def(
      "lrn_max_pool2d_backward",
      [=](py::handle dx_, py::handle dy_, py::handle which_, py::handle x_, const Lrn& lrn, const Pool2d& pool, bool mask, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("lrn_max_pool2d_backward", stream);
          check(call, lrn, pool);
          const auto dy = call.in<T>("dy", dy_, output_of(pool));
          const auto which = call.in<std::uint8_t>("which", which_, dy.shape);
          const auto x = call.in<T>("x", x_, input_of(pool));
          const auto dx = call.out<T>("dx", dx_, x.shape);
          call.run([&](Stream s) { lrn_max_pool2d_backward<T>(dx, dy, which, x, lrn, pool, mask, s); });
        });
      },
      "dx"_a, "dy"_a, "which"_a, "x"_a, "lrn"_a, "pool"_a, "mask"_a, "stream"_a = 0);
}

void bind_spatial_lrn(py::module_& m) {
  bind_struct<SpatialLrn>(m, "SpatialLrn", check_spatial_lrn, FIELD(SpatialLrn, N), FIELD(SpatialLrn, H), FIELD(SpatialLrn, W),
                          FIELD(SpatialLrn, C), FIELD(SpatialLrn, size), FIELD(SpatialLrn, k), FIELD(SpatialLrn, alpha),
                          FIELD(SpatialLrn, beta));
  m.def(
      "spatial_lrn_forward",
      [](py::handle y_, py::handle x_, const SpatialLrn& shape, Address stream) {
        Call call("spatial_lrn_forward", stream);
        const auto x = call.in<float>("x", x_, input_of(shape));
        const auto y = call.out<float>("y", y_, x.shape);
        call.run([&](Stream s) { spatial_lrn_forward(y, x, shape, s); });
      },
      "y"_a, "x"_a, "shape"_a, "stream"_a = 0);
  m.def("spatial_lrn_backward_workspace", spatial_lrn_backward_workspace, "shape"_a);
  m.def(
      "spatial_lrn_backward",
      [](py::handle dx_, py::handle dy_, py::handle x_, const SpatialLrn& shape, py::handle workspace_, Address stream) {
        Call call("spatial_lrn_backward", stream);
        const auto dy = call.in<float>("dy", dy_, input_of(shape));
        const auto x = call.in<float>("x", x_, dy.shape);
        const auto dx = call.out<float>("dx", dx_, dy.shape);
        void* workspace = call.workspace(workspace_, spatial_lrn_backward_workspace(shape));
        call.run([&](Stream s) { spatial_lrn_backward(dx, dy, x, shape, workspace, s); });
      },
      "dx"_a, "dy"_a, "x"_a, "shape"_a, "workspace"_a, "stream"_a = 0);
}

void bind_batch_norm(py::module_& m) {
  m.def(
      "batch_norm_workspace",
      [](long rows, long C) {
        return batch_norm_workspace(checked<long>("batch_norm_workspace", "rows", rows), checked<int>("batch_norm_workspace", "C", C));
      },
      "rows"_a, "C"_a);
  m.def(
      "batch_norm_forward",
      [](py::handle y_, py::handle mean_, py::handle r_, py::handle running_mean_, py::handle running_variance_, py::handle x_,
         py::handle gamma_, py::handle beta_, double momentum, double epsilon, bool training, py::handle workspace_, Address stream) {
        with_storage(x_, [&]<class T>() {
          const char* name = "batch_norm_forward";
          Call call(name, stream);
          const float mu = finite(name, "momentum", momentum), eps = finite(name, "epsilon", epsilon);
          const auto x = call.in<T>("x", x_, {rest, any});
          const int C = checked<int>(name, "C", x.shape.back());
          const long rows = x.size() / C;
          const auto gamma = call.in<float>("gamma", gamma_, {C});
          const auto beta = call.in<float>("beta", beta_, {C});
          const auto running_mean = call.out<float>("running_mean", running_mean_, {C});
          const auto running_variance = call.out<float>("running_variance", running_variance_, {C});
          const auto y = call.out<T>("y", y_, x.shape);
          const auto mean = call.out<float>("mean", mean_, {C});
          const auto r = call.out<float>("r", r_, {C});
          void* workspace = call.workspace(workspace_, training ? batch_norm_workspace(rows, C) : 0);
          call.run([&](Stream s) {
            batch_norm_forward<T>(y, mean, r, running_mean, running_variance, x, gamma, beta, rows, C, mu, eps, training, workspace, s);
          });
        });
      },
      "y"_a, "mean"_a, "r"_a, "running_mean"_a, "running_variance"_a, "x"_a, "gamma"_a, "beta"_a, "momentum"_a, "epsilon"_a, "training"_a,
      "workspace"_a, "stream"_a = 0);
  m.def(
      "batch_norm_backward",
      [](py::handle dx_, py::handle dgamma_, py::handle dbeta_, py::handle dy_, py::handle x_, py::handle gamma_, py::handle mean_,
         py::handle r_, bool training, py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          const char* name = "batch_norm_backward";
          Call call(name, stream);
          const auto dy = call.in<T>("dy", dy_, {rest, any});
          const int C = checked<int>(name, "C", dy.shape.back());
          const long rows = dy.size() / C;
          const auto x = call.in<T>("x", x_, dy.shape);
          const auto gamma = call.in<float>("gamma", gamma_, {C});
          const auto mean = call.in<float>("mean", mean_, {C});
          const auto r = call.in<float>("r", r_, {C});
          const auto dx = call.out<T>("dx", dx_, dy.shape);
          const auto dgamma = call.out<float>("dgamma", dgamma_, {C});
          const auto dbeta = call.out<float>("dbeta", dbeta_, {C});
          void* workspace = call.workspace(workspace_, batch_norm_workspace(rows, C));
          call.run([&](Stream s) { batch_norm_backward<T>(dx, dgamma, dbeta, dy, x, gamma, mean, r, rows, C, training, workspace, s); });
        });
      },
      "dx"_a, "dgamma"_a, "dbeta"_a, "dy"_a, "x"_a, "gamma"_a, "mean"_a, "r"_a, "training"_a, "workspace"_a, "stream"_a = 0);
}

}  // namespace

void bind_normalisation(py::module_& m) {
  bind_lrn(m);
  bind_lrn_max_pool2d(m);
  bind_spatial_lrn(m);
  bind_batch_norm(m);
}

}  // namespace alexnet
