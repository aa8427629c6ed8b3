// elementwise.cpp - the bindings of bias.cu, cast.cu, activation.cu and dropout.cu.
#include <tuple>

#include "binding.h"

namespace alexnet {
namespace {

void bind_bias(py::module_& m) {
  m.def(
      "bias_forward",
      [](py::handle y_, py::handle x_, py::handle b_, bool relu, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("bias_forward", stream);
          const auto x = call.in<T>("x", x_, {rest, any});
          const int C = checked<int>("bias_forward", "C", x.shape.back());
          const auto b = call.in<float>("b", b_, {C});
          const auto y = call.out<T>("y", y_, x.shape, "x");
          call.run([&](Stream s) { bias_forward<T>(y, x, b, x.size() / C, C, relu, s); });
        });
      },
      "y"_a, "x"_a, "b"_a, "relu"_a = false, "stream"_a = 0);

  m.def(
      "bias_backward_workspace",
      [](long rows, long C) {
        return bias_backward_workspace(checked<long>("bias_backward_workspace", "rows", rows),
                                       checked<int>("bias_backward_workspace", "C", C));
      },
      "rows"_a, "C"_a);
  m.def(
      "bias_backward",
      [](py::handle db_, py::handle dy_, py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("bias_backward", stream);
          const auto dy = call.in<T>("dy", dy_, {rest, any});
          const int C = checked<int>("bias_backward", "C", dy.shape.back());
          const long rows = dy.size() / C;
          const auto db = call.out<float>("db", db_, {C});
          void* workspace = call.workspace(workspace_, bias_backward_workspace(rows, C));
          call.run([&](Stream s) { bias_backward<T>(db, dy, rows, C, workspace, s); });
        });
      },
      "db"_a, "dy"_a, "workspace"_a, "stream"_a = 0);
  m.def(
      "bias_relu_backward",
      [](py::handle dx_, py::handle db_, py::handle dy_, py::handle y_, double scale, py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("bias_relu_backward", stream);
          const float factor = finite("bias_relu_backward", "scale", scale);
          const auto dy = call.in<T>("dy", dy_, {rest, any});
          const int C = checked<int>("bias_relu_backward", "C", dy.shape.back());
          const long rows = dy.size() / C;
          const auto y = call.in<T>("y", y_, dy.shape);
          const auto dx = call.out<T>("dx", dx_, dy.shape);
          const auto db = call.out<float>("db", db_, {C});
          void* workspace = call.workspace(workspace_, bias_backward_workspace(rows, C));
          call.run([&](Stream s) { bias_relu_backward<T>(dx, db, dy, y, rows, C, factor, workspace, s); });
        });
      },
      "dx"_a, "db"_a, "dy"_a, "y"_a, "scale"_a, "workspace"_a, "stream"_a = 0);
}

void bind_cast(py::module_& m) {
  m.def(
      "cast",
      [](py::handle y_, py::handle x_, Address stream) {
        with_storage(x_, [&]<class X>() {
          Call call("cast", stream);
          const auto x = call.in<X>("x", x_);
          const auto y = call.out<std::conditional_t<std::is_same_v<X, float>, bfloat16, float>>("y", y_, x.shape);
          call.run([&](Stream s) { cast(y.data, x.data, x.size(), s); });
        });
      },
      "y"_a, "x"_a, "stream"_a = 0);
}

template <class T>
struct Activation {
  void (*forward)(T*, const T*, long, Stream);
  void (*backward)(T*, const T*, const T*, long, Stream);
};

void bind_activation(py::module_& m, const char* forward, const char* backward, Activation<float> in_float32,
                     Activation<bfloat16> in_bfloat16) {
  const std::tuple both{in_float32, in_bfloat16};
  m.def(
      forward,
      [=](py::handle y_, py::handle x_, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call(forward, stream);
          const auto x = call.in<T>("x", x_);
          const auto y = call.out<T>("y", y_, x.shape, "x");
          call.run([&](Stream s) { std::get<Activation<T>>(both).forward(y, x, x.size(), s); });
        });
      },
      "y"_a, "x"_a, "stream"_a = 0);
  m.def(
      backward,
      [=](py::handle dx_, py::handle dy_, py::handle y_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call(backward, stream);
          const auto dy = call.in<T>("dy", dy_);
          const auto y = call.in<T>("y", y_, dy.shape);
          const auto dx = call.out<T>("dx", dx_, dy.shape, "dy");
          call.run([&](Stream s) { std::get<Activation<T>>(both).backward(dx, dy, y, dy.size(), s); });
        });
      },
      "dx"_a, "dy"_a, "y"_a, "stream"_a = 0);
}

void bind_activations(py::module_& m) {
  bind_activation(m, "relu_forward", "relu_backward", {relu_forward, relu_backward}, {relu_forward, relu_backward});
  bind_activation(m, "tanh_forward", "tanh_backward", {tanh_forward, tanh_backward}, {tanh_forward, tanh_backward});
  bind_activation(m, "sigmoid_forward", "sigmoid_backward", {sigmoid_forward, sigmoid_backward}, {sigmoid_forward, sigmoid_backward});
}

void bind_dropout(py::module_& m) {
  m.def(
      "dropout",
      [](py::handle y_, py::handle x_, py::handle state_, std::uint64_t first, double p, double scale, std::uint32_t purpose,
         Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("dropout", stream);
          check_dropout(call, first, p);
          const float factor = finite("dropout", "scale", scale);
          const auto x = call.in<T>("x", x_);
          const auto state = call.in<std::uint64_t>("state", state_, {2});
          const auto y = call.out<T>("y", y_, x.shape, "x");
          call.run([&](Stream s) { dropout<T>(y, x, state, x.size(), long(first), float(p), factor, purpose, s); });
        });
      },
      "y"_a, "x"_a, "state"_a, "first"_a, "p"_a, "scale"_a, "purpose"_a, "stream"_a = 0);
}

}  // namespace

void bind_elementwise(py::module_& m) {
  bind_bias(m);
  bind_cast(m);
  bind_activations(m);
  bind_dropout(m);
}

}  // namespace alexnet
