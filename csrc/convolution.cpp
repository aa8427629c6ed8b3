// convolution.cpp - the bindings of convolutions, in each way to compute them, and local2d.cu.
#include "binding.h"

namespace alexnet {
namespace {

void check_conv2d(const Conv2d& s) {
  check_window("Conv2d", s);
  check_product("Conv2d: an image of y", {s.OH, s.OW, s.K});
  check_product("Conv2d: w", {s.K, s.KH, s.KW, s.C / s.groups});
  if (s.C % s.groups || s.K % s.groups)
    throw py::value_error("Conv2d: groups: expected a divisor of C = " + std::to_string(s.C) + " and K = " + std::to_string(s.K) +
                          ", got " + std::to_string(s.groups));
}

Shape output_of(const Conv2d& s) { return {s.N, s.OH, s.OW, s.K}; }
Shape filters_of(const Conv2d& s) { return {s.K, s.KH, s.KW, s.C / s.groups}; }

Conv2dOptions options_of(const char* owner, std::string_view precision, bool relu = false, bool hopper = false) {
  return {precision_of(Call(owner, 0), precision, false, true), relu, hopper};
}

// hopper_conv2d takes the pass.
template <auto Pass>
bool hopper_takes(const Conv2d& s, std::string_view precision) {
  return (hopper_conv2d<float>().*Pass).takes(s, options_of("Conv2d", precision));
}
// What depends on how arrays are stored.
template <class R>
auto of_storage(R (*of_float32)(const Conv2d&), R (*of_bfloat16)(const Conv2d&)) {
  return [=](const Conv2d& s, bool stored_bfloat16) { return stored_bfloat16 ? of_bfloat16(s) : of_float32(s); };
}

void bind_structs(py::module_& m) {
  using Way = Conv2dWay<float>;
  bind_struct<Conv2d>(m, "Conv2d", check_conv2d, FIELD(Conv2d, N), FIELD(Conv2d, H), FIELD(Conv2d, W), FIELD(Conv2d, C), FIELD(Conv2d, K),
                      FIELD(Conv2d, KH), FIELD(Conv2d, KW), FIELD(Conv2d, groups), FIELD(Conv2d, stride_h), FIELD(Conv2d, stride_w),
                      FIELD(Conv2d, pad_top), FIELD(Conv2d, pad_left), FIELD(Conv2d, OH), FIELD(Conv2d, OW))
      .def_property_readonly("winograd", [](const Conv2d& s) { return winograd_conv2d().forward.takes(s, {}); })
      .def("hopper", hopper_takes<&Way::forward>, "precision"_a)
      .def("hopper_backward_input", hopper_takes<&Way::backward_input>, "precision"_a)
      .def("hopper_backward_weight", hopper_takes<&Way::backward_weight>, "precision"_a)
      .def("space_to_depth",
           of_storage(
               +[](const Conv2d& s) { return space_to_depth_conv2d<float>().forward.takes(s, {}); },
               +[](const Conv2d& s) { return space_to_depth_conv2d<bfloat16>().forward.takes(s, {}); }),
           "stored_bfloat16"_a)
      .def("space_to_depth_pays", of_storage(space_to_depth_conv2d_pays<float>, space_to_depth_conv2d_pays<bfloat16>), "stored_bfloat16"_a)
      .def("blocks", of_storage(space_to_depth_conv2d_blocks<float>, space_to_depth_conv2d_blocks<bfloat16>), "stored_bfloat16"_a);
  py::class_<Conv2dOptions>(m, "Conv2dOptions", py::module_local())
      .def(
          py::init([](std::string_view precision, bool relu, bool hopper) { return options_of("Conv2dOptions", precision, relu, hopper); }),
          py::kw_only(), "precision"_a, "relu"_a = false, "hopper"_a = false)
      .def_property_readonly("precision", [](const Conv2dOptions& o) { return text(o.precision); })
      .def_readonly("relu", &Conv2dOptions::relu)
      .def_readonly("hopper", &Conv2dOptions::hopper);
}

// ---------------------------------------------------------------- the passes, written once for all ways

struct Way {
  Conv2dWay<float> of_float32;
  Conv2dWay<bfloat16> of_bfloat16 = {};  // no launchers where float32 is multiplied as it is, as in conv2d.cu

  bool on_tensor_cores() const { return of_bfloat16.forward.launch; }

  // f(the launchers for arrays stored so)
  template <class F>
  auto with(bool stored_bfloat16, F f) const {
    return stored_bfloat16 && on_tensor_cores() ? f(of_bfloat16) : f(of_float32);
  }
  template <class T>
  void check_precision(const Call& call, const Conv2dOptions& o) const {
    if (on_tensor_cores())
      precision_of<T>(call, text(o.precision));
    else if (o.precision != Precision::fp32)
      call.fail("precision", "expected 'fp32', got '" + std::string(text(o.precision)) + "'");
  }
  template <class T, class Pass>
  void check(const Call& call, const Pass& pass, const Conv2d& s, const Conv2dOptions& o) const {
    check_precision<T>(call, o);
    if (!pass.takes(s, o)) call.fail("shape", "this convolution cannot be computed so");
  }
};

void bind_forward(py::module_& m, const char* name, const Way& way) {
  m.def(
      name,
      [=](py::handle y_, py::handle x_, py::handle w_, py::handle b_, const Conv2d& shape, const Conv2dOptions& options,
          py::handle workspace_, Address stream) {
        way.with(is_bfloat16(x_), [&]<class T>(const Conv2dWay<T>& passes) {
          Call call(name, stream);
          way.check<T>(call, passes.forward, shape, options);
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto w = call.in<T>("w", w_, filters_of(shape));
          const auto b = call.in_or_none<float>("b", b_, {shape.K});
          const auto y = call.out<T>("y", y_, output_of(shape));
          void* workspace = call.workspace(workspace_, passes.forward.workspace(shape, options));
          call.run([&](Stream s) { passes.forward.launch(y, x, w, b, shape, options, workspace, s); });
        });
      },
      "y"_a, "x"_a, "w"_a, "b"_a, "shape"_a, "options"_a, "workspace"_a, "stream"_a = 0);
}

void bind_backward_input(py::module_& m, const char* name, const Way& way) {
  m.def(
      name,
      [=](py::handle dx_, py::handle dy_, py::handle w_, py::handle mask_, const Conv2d& shape, const Conv2dOptions& options,
          py::handle workspace_, Address stream) {
        way.with(is_bfloat16(dy_), [&]<class T>(const Conv2dWay<T>& passes) {
          Call call(name, stream);
          way.check<T>(call, passes.backward_input, shape, options);
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto w = call.in<T>("w", w_, filters_of(shape));
          const auto mask = call.in_or_none<T>("mask", mask_, input_of(shape));
          const auto dx = call.out<T>("dx", dx_, input_of(shape));
          void* workspace = call.workspace(workspace_, passes.backward_input.workspace(shape, options));
          call.run([&](Stream s) { passes.backward_input.launch(dx, dy, w, mask, shape, options, workspace, s); });
        });
      },
      "dx"_a, "dy"_a, "w"_a, "mask"_a, "shape"_a, "options"_a, "workspace"_a, "stream"_a = 0);
}

void bind_backward_weight(py::module_& m, const char* name, const Way& way) {
  m.def(
      name,
      [=](py::handle dw_, py::handle db_, py::handle dy_, py::handle x_, const Conv2d& shape, const Conv2dOptions& options,
          py::handle workspace_, Address stream) {
        way.with(is_bfloat16(dy_), [&]<class T>(const Conv2dWay<T>& passes) {
          Call call(name, stream);
          way.check<T>(call, passes.backward_weight, shape, options);
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto dw = call.out<float>("dw", dw_, filters_of(shape));
          const auto db = call.out_or_none<float>("db", db_, {shape.K});
          void* workspace = call.workspace(workspace_, passes.backward_weight.workspace(shape, options));
          call.run([&](Stream s) { passes.backward_weight.launch(dw, db, dy, x, shape, options, workspace, s); });
        });
      },
      "dw"_a, "db"_a, "dy"_a, "x"_a, "shape"_a, "options"_a, "workspace"_a, "stream"_a = 0);
}

template <class Pass>
void bind_workspace(py::module_& m, const char* name, const Way& way, Pass pass) {
  m.def(
      name,
      [=](const Conv2d& shape, const Conv2dOptions& options, bool stored_bfloat16) {
        return way.with(stored_bfloat16, [&]<class T>(const Conv2dWay<T>& passes) {
          way.check_precision<T>(Call(name, 0), options);
          return pass(passes).workspace(shape, options);
        });
      },
      "shape"_a, "options"_a, "stored_bfloat16"_a);
}

struct Names {
  const char *forward, *forward_workspace, *backward_input, *backward_input_workspace, *backward_weight, *backward_weight_workspace;
};

void bind_way(py::module_& m, const Names& names, const Way& way) {
  bind_forward(m, names.forward, way);
  bind_backward_input(m, names.backward_input, way);
  bind_backward_weight(m, names.backward_weight, way);
  bind_workspace(m, names.forward_workspace, way, [](const auto& passes) { return passes.forward; });
  bind_workspace(m, names.backward_input_workspace, way, [](const auto& passes) { return passes.backward_input; });
  bind_workspace(m, names.backward_weight_workspace, way, [](const auto& passes) { return passes.backward_weight; });
}

void bind_ways(py::module_& m) {
  bind_way(m,
           {"conv2d_forward", "conv2d_forward_workspace", "conv2d_backward_input", "conv2d_backward_input_workspace",
            "conv2d_backward_weight", "conv2d_backward_weight_workspace"},
           {conv2d()});
  bind_way(m,
           {"winograd_conv2d_forward", "winograd_conv2d_forward_workspace", "winograd_conv2d_backward_input",
            "winograd_conv2d_backward_input_workspace", "winograd_conv2d_backward_weight", "winograd_conv2d_backward_weight_workspace"},
           {winograd_conv2d()});
  bind_way(m,
           {"implicit_conv2d_forward", "implicit_conv2d_forward_workspace", "implicit_conv2d_backward_input",
            "implicit_conv2d_backward_input_workspace", "implicit_conv2d_backward_weight", "implicit_conv2d_backward_weight_workspace"},
           {implicit_conv2d<float>(), implicit_conv2d<bfloat16>()});
  bind_way(m,
           {"space_to_depth_conv2d_forward", "space_to_depth_conv2d_forward_workspace", "space_to_depth_conv2d_backward_input",
            "space_to_depth_conv2d_backward_input_workspace", "space_to_depth_conv2d_backward_weight",
            "space_to_depth_conv2d_backward_weight_workspace"},
           {space_to_depth_conv2d<float>(), space_to_depth_conv2d<bfloat16>()});
  bind_way(m,
           {"hopper_conv2d_forward", "hopper_conv2d_forward_workspace", "hopper_conv2d_backward_input",
            "hopper_conv2d_backward_input_workspace", "hopper_conv2d_backward_weight", "hopper_conv2d_backward_weight_workspace"},
           {hopper_conv2d<float>(), hopper_conv2d<bfloat16>()});
}

// ---------------------------------------------------------------- filters of each pixel's own

Shape local_filters_of(const Conv2d& s) { return {s.OH, s.OW, s.K, s.KH, s.KW, s.C / s.groups}; }
void check_local(const Call& call, const Conv2d& s) {  // in which kernels and products count
  if (product({s.OH, s.OW, s.K}) * s.KH * s.KW * (s.C / s.groups) > INT_MAX || product({s.OH, s.OW, s.KH, s.KW, s.C}) > INT_MAX)
    call.fail("shape", "w or the columns of an image have more than 2^31 - 1 elements");
}

void bind_local2d(py::module_& m) {
  m.def("local2d_workspace", local2d_workspace, "shape"_a);
  m.def(
      "local2d_forward",
      [](py::handle y_, py::handle x_, py::handle w_, py::handle b_, const Conv2d& shape, bool relu, py::handle workspace_,
         Address stream) {
        Call call("local2d_forward", stream);
        check_local(call, shape);
        const auto x = call.in<float>("x", x_, input_of(shape));
        const auto w = call.in<float>("w", w_, local_filters_of(shape));
        const auto b = call.in_or_none<float>("b", b_, {shape.OH, shape.OW, shape.K});
        const auto y = call.out<float>("y", y_, output_of(shape));
        void* workspace = call.workspace(workspace_, local2d_workspace(shape));
        call.run([&](Stream s) { local2d_forward(y, x, w, b, shape, relu, workspace, s); });
      },
      "y"_a, "x"_a, "w"_a, "b"_a, "shape"_a, "relu"_a, "workspace"_a, "stream"_a = 0);
  m.def(
      "local2d_backward_input",
      [](py::handle dx_, py::handle dy_, py::handle w_, const Conv2d& shape, py::handle workspace_, Address stream) {
        Call call("local2d_backward_input", stream);
        check_local(call, shape);
        const auto dy = call.in<float>("dy", dy_, output_of(shape));
        const auto w = call.in<float>("w", w_, local_filters_of(shape));
        const auto dx = call.out<float>("dx", dx_, input_of(shape));
        void* workspace = call.workspace(workspace_, local2d_workspace(shape));
        call.run([&](Stream s) { local2d_backward_input(dx, dy, w, shape, workspace, s); });
      },
      "dx"_a, "dy"_a, "w"_a, "shape"_a, "workspace"_a, "stream"_a = 0);
  m.def(
      "local2d_backward_weight",
      [](py::handle dw_, py::handle dy_, py::handle x_, const Conv2d& shape, py::handle workspace_, Address stream) {
        Call call("local2d_backward_weight", stream);
        check_local(call, shape);
        const auto dy = call.in<float>("dy", dy_, output_of(shape));
        const auto x = call.in<float>("x", x_, input_of(shape));
        const auto dw = call.out<float>("dw", dw_, local_filters_of(shape));
        void* workspace = call.workspace(workspace_, local2d_workspace(shape));
        call.run([&](Stream s) { local2d_backward_weight(dw, dy, x, shape, workspace, s); });
      },
      "dw"_a, "dy"_a, "x"_a, "shape"_a, "workspace"_a, "stream"_a = 0);
}

}  // namespace

void bind_convolution(py::module_& m) {
  bind_structs(m);
  bind_ways(m);
  bind_local2d(m);
}

}  // namespace alexnet
