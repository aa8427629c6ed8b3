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

// The passes of a convolution, by the name of the way to compute them; `takes` tells which it can, null: all.
using Takes = bool (*)(const Conv2d&);
using Workspace = std::size_t (*)(const Conv2d&);
using ConvolutionForward = void (*)(float*, const float*, const float*, const float*, const Conv2d&, bool, void*, Stream);
using ConvolutionBackwardInput = void (*)(float*, const float*, const float*, const float*, const Conv2d&, void*, Stream);
using ConvolutionBackwardWeight = void (*)(float*, float*, const float*, const float*, const Conv2d&, void*, Stream);

void check_takes(const Call& call, bool takes) {
  if (!takes) call.fail("shape", "this convolution cannot be computed so");
}
void check_takes(const Call& call, Takes takes, const Conv2d& s) { check_takes(call, !takes || takes(s)); }

void bind_convolution_forward(py::module_& m, const std::string& way, Workspace bytes, ConvolutionForward launch, Takes takes = nullptr) {
  const std::string name = way + "_forward";
  m.def((name + "_workspace").c_str(), bytes, "shape"_a);
  m.def(
      name.c_str(),
      [=](py::handle y_, py::handle x_, py::handle w_, py::handle b_, const Conv2d& shape, bool relu, py::handle workspace_,
          Address stream) {
        Call call(name.c_str(), stream);
        check_takes(call, takes, shape);
        const auto x = call.in<float>("x", x_, input_of(shape));
        const auto w = call.in<float>("w", w_, filters_of(shape));
        const auto b = call.in_or_none<float>("b", b_, {shape.K});
        const auto y = call.out<float>("y", y_, output_of(shape));
        void* workspace = call.workspace(workspace_, bytes(shape));
        call.run([&](Stream s) { launch(y, x, w, b, shape, relu, workspace, s); });
      },
      "y"_a, "x"_a, "w"_a, "b"_a, "shape"_a, "relu"_a, "workspace"_a, "stream"_a = 0);
}

void bind_convolution_backward_input(py::module_& m, const std::string& way, Workspace bytes, ConvolutionBackwardInput launch,
                                     Takes takes = nullptr) {
  const std::string name = way + "_backward_input";
  m.def((name + "_workspace").c_str(), bytes, "shape"_a);
  m.def(
      name.c_str(),
      [=](py::handle dx_, py::handle dy_, py::handle w_, py::handle mask_, const Conv2d& shape, py::handle workspace_, Address stream) {
        Call call(name.c_str(), stream);
        check_takes(call, takes, shape);
        const auto dy = call.in<float>("dy", dy_, output_of(shape));
        const auto w = call.in<float>("w", w_, filters_of(shape));
        const auto mask = call.in_or_none<float>("mask", mask_, input_of(shape));
        const auto dx = call.out<float>("dx", dx_, input_of(shape));
        void* workspace = call.workspace(workspace_, bytes(shape));
        call.run([&](Stream s) { launch(dx, dy, w, mask, shape, workspace, s); });
      },
      "dx"_a, "dy"_a, "w"_a, "mask"_a, "shape"_a, "workspace"_a, "stream"_a = 0);
}

void bind_convolution_backward_weight(py::module_& m, const std::string& way, Workspace bytes, ConvolutionBackwardWeight launch,
                                      Takes takes = nullptr) {
  const std::string name = way + "_backward_weight";
  m.def((name + "_workspace").c_str(), bytes, "shape"_a);
  m.def(
      name.c_str(),
      [=](py::handle dw_, py::handle db_, py::handle dy_, py::handle x_, const Conv2d& shape, py::handle workspace_, Address stream) {
        Call call(name.c_str(), stream);
        check_takes(call, takes, shape);
        const auto dy = call.in<float>("dy", dy_, output_of(shape));
        const auto x = call.in<float>("x", x_, input_of(shape));
        const auto dw = call.out<float>("dw", dw_, filters_of(shape));
        const auto db = call.out_or_none<float>("db", db_, {shape.K});
        void* workspace = call.workspace(workspace_, bytes(shape));
        call.run([&](Stream s) { launch(dw, db, dy, x, shape, workspace, s); });
      },
      "dw"_a, "db"_a, "dy"_a, "x"_a, "shape"_a, "workspace"_a, "stream"_a = 0);
}

// What depends on how arrays are stored.
template <class R>
auto of_storage(R (*of_float32)(const Conv2d&), R (*of_bfloat16)(const Conv2d&)) {
  return [=](const Conv2d& s, bool stored_bfloat16) { return stored_bfloat16 ? of_bfloat16(s) : of_float32(s); };
}

template <bool (*Takes)(const Conv2d&, Precision)>
bool takes(const Conv2d& s, std::string_view precision) {
  return Takes(s, precision_of(Call("Conv2d", 0), precision, true));
}

void bind_conv2d(py::module_& m) {
  bind_struct<Conv2d>(m, "Conv2d", check_conv2d, FIELD(Conv2d, N), FIELD(Conv2d, H), FIELD(Conv2d, W), FIELD(Conv2d, C), FIELD(Conv2d, K),
                      FIELD(Conv2d, KH), FIELD(Conv2d, KW), FIELD(Conv2d, groups), FIELD(Conv2d, stride_h), FIELD(Conv2d, stride_w),
                      FIELD(Conv2d, pad_top), FIELD(Conv2d, pad_left), FIELD(Conv2d, OH), FIELD(Conv2d, OW))
      .def_property_readonly("winograd", winograd_conv2d_takes)
      .def("hopper", takes<hopper_conv2d_takes>, "precision"_a)
      .def("hopper_backward_input", takes<hopper_conv2d_backward_input_takes>, "precision"_a)
      .def("hopper_backward_weight", takes<hopper_conv2d_backward_weight_takes>, "precision"_a)
      .def("space_to_depth", of_storage(space_to_depth_conv2d_takes<float>, space_to_depth_conv2d_takes<bfloat16>), "stored_bfloat16"_a)
      .def("space_to_depth_pays", of_storage(space_to_depth_conv2d_pays<float>, space_to_depth_conv2d_pays<bfloat16>), "stored_bfloat16"_a)
      .def("blocks", of_storage(space_to_depth_conv2d_blocks<float>, space_to_depth_conv2d_blocks<bfloat16>), "stored_bfloat16"_a);
  bind_convolution_forward(m, "conv2d", conv2d_forward_workspace, conv2d_forward);
  bind_convolution_backward_input(m, "conv2d", conv2d_backward_input_workspace, conv2d_backward_input);
  bind_convolution_backward_weight(m, "conv2d", conv2d_backward_weight_workspace, conv2d_backward_weight);
}

void bind_winograd_conv2d(py::module_& m) {
  const char* way = "winograd_conv2d";
  const Takes takes = winograd_conv2d_takes;
  bind_convolution_forward(m, way, winograd_conv2d_forward_workspace, winograd_conv2d_forward, takes);
  bind_convolution_backward_input(m, way, winograd_conv2d_backward_input_workspace, winograd_conv2d_backward_input, takes);
  bind_convolution_backward_weight(m, way, winograd_conv2d_backward_weight_workspace, winograd_conv2d_backward_weight, takes);
}

void bind_implicit_conv2d(py::module_& m) {
  m.def("implicit_conv2d_forward_workspace", implicit_conv2d_forward_workspace, "shape"_a);
  m.def(
      "implicit_conv2d_forward",
      [](py::handle y_, py::handle x_, py::handle w_, py::handle b_, const Conv2d& shape, bool relu, std::string_view precision_,
         py::handle workspace_, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("implicit_conv2d_forward", stream);
          const Precision precision = precision_of<T>(call, precision_);
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto w = call.in<T>("w", w_, filters_of(shape));
          const auto b = call.in_or_none<float>("b", b_, {shape.K});
          const auto y = call.out<T>("y", y_, output_of(shape));
          void* workspace = call.workspace(workspace_, implicit_conv2d_forward_workspace(shape));
          call.run([&](Stream s) { implicit_conv2d_forward<T>(y, x, w, b, shape, relu, precision, workspace, s); });
        });
      },
      "y"_a, "x"_a, "w"_a, "b"_a, "shape"_a, "relu"_a, "precision"_a, "workspace"_a, "stream"_a = 0);

  m.def("implicit_conv2d_backward_input_workspace", implicit_conv2d_backward_input_workspace, "shape"_a);
  m.def(
      "implicit_conv2d_backward_input",
      [](py::handle dx_, py::handle dy_, py::handle w_, py::handle mask_, const Conv2d& shape, std::string_view precision_,
         py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("implicit_conv2d_backward_input", stream);
          const Precision precision = precision_of<T>(call, precision_);
          if (product({shape.N, shape.H, shape.W}) > INT_MAX) call.fail("shape", "x without its channels has more than 2^31 - 1 elements");
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto w = call.in<T>("w", w_, filters_of(shape));
          const auto mask = call.in_or_none<T>("mask", mask_, input_of(shape));
          const auto dx = call.out<T>("dx", dx_, input_of(shape));
          void* workspace = call.workspace(workspace_, implicit_conv2d_backward_input_workspace(shape));
          call.run([&](Stream s) { implicit_conv2d_backward_input<T>(dx, dy, w, mask, shape, precision, workspace, s); });
        });
      },
      "dx"_a, "dy"_a, "w"_a, "mask"_a, "shape"_a, "precision"_a, "workspace"_a, "stream"_a = 0);

  m.def("implicit_conv2d_backward_weight_workspace", implicit_conv2d_backward_weight_workspace, "shape"_a);
  m.def(
      "implicit_conv2d_backward_weight",
      [](py::handle dw_, py::handle db_, py::handle dy_, py::handle x_, const Conv2d& shape, std::string_view precision_,
         py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("implicit_conv2d_backward_weight", stream);
          const Precision precision = precision_of<T>(call, precision_);
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto dw = call.out<float>("dw", dw_, filters_of(shape));
          const auto db = call.out_or_none<float>("db", db_, {shape.K});
          void* workspace = call.workspace(workspace_, implicit_conv2d_backward_weight_workspace(shape));
          call.run([&](Stream s) { implicit_conv2d_backward_weight<T>(dw, db, dy, x, shape, precision, workspace, s); });
        });
      },
      "dw"_a, "db"_a, "dy"_a, "x"_a, "shape"_a, "precision"_a, "workspace"_a, "stream"_a = 0);
}

// TMA reads operands in bfloat16 where they lie; float32 is rounded first.
template <class T>
void check_aligned(const Call& call, const char* name, const Array<const T>& operand) {
  if (std::is_same_v<T, bfloat16> && reinterpret_cast<std::uintptr_t>(operand.data) % 16)
    call.fail(name, "expected memory aligned to 16 bytes, got an address that is not");
}

void bind_hopper_conv2d(py::module_& m) {
  const auto bind_workspace = [&](const char* name, auto of_float32, auto of_bfloat16) {
    m.def(
        name,
        [=](const Conv2d& shape, std::string_view precision, bool stored_bfloat16) {
          const Call call(name, 0);
          return stored_bfloat16 ? of_bfloat16(shape, precision_of<bfloat16>(call, precision))
                                 : of_float32(shape, precision_of(call, precision));
        },
        "shape"_a, "precision"_a, "stored_bfloat16"_a);
  };
  bind_workspace("hopper_conv2d_forward_workspace", hopper_conv2d_forward_workspace<float>, hopper_conv2d_forward_workspace<bfloat16>);
  m.def(
      "hopper_conv2d_forward",
      [](py::handle y_, py::handle x_, py::handle w_, py::handle b_, const Conv2d& shape, bool relu, std::string_view precision_,
         py::handle workspace_, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("hopper_conv2d_forward", stream);
          const Precision precision = precision_of<T>(call, precision_);
          check_takes(call, hopper_conv2d_takes(shape, precision));
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto w = call.in<T>("w", w_, filters_of(shape));
          const auto b = call.in_or_none<float>("b", b_, {shape.K});
          const auto y = call.out<T>("y", y_, output_of(shape));
          void* workspace = call.workspace(workspace_, hopper_conv2d_forward_workspace<T>(shape, precision));
          check_aligned(call, "x", x);
          check_aligned(call, "w", w);
          call.run([&](Stream s) { hopper_conv2d_forward<T>(y, x, w, b, shape, relu, precision, workspace, s); });
        });
      },
      "y"_a, "x"_a, "w"_a, "b"_a, "shape"_a, "relu"_a, "precision"_a, "workspace"_a, "stream"_a = 0);

  bind_workspace("hopper_conv2d_backward_input_workspace", hopper_conv2d_backward_input_workspace<float>,
                 hopper_conv2d_backward_input_workspace<bfloat16>);
  m.def(
      "hopper_conv2d_backward_input",
      [](py::handle dx_, py::handle dy_, py::handle w_, py::handle mask_, const Conv2d& shape, std::string_view precision_,
         py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("hopper_conv2d_backward_input", stream);
          const Precision precision = precision_of<T>(call, precision_);
          check_takes(call, hopper_conv2d_backward_input_takes(shape, precision));
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto w = call.in<T>("w", w_, filters_of(shape));
          const auto mask = call.in_or_none<T>("mask", mask_, input_of(shape));
          const auto dx = call.out<T>("dx", dx_, input_of(shape));
          void* workspace = call.workspace(workspace_, hopper_conv2d_backward_input_workspace<T>(shape, precision));
          check_aligned(call, "dy", dy);
          call.run([&](Stream s) { hopper_conv2d_backward_input<T>(dx, dy, w, mask, shape, precision, workspace, s); });
        });
      },
      "dx"_a, "dy"_a, "w"_a, "mask"_a, "shape"_a, "precision"_a, "workspace"_a, "stream"_a = 0);

  bind_workspace("hopper_conv2d_backward_weight_workspace", hopper_conv2d_backward_weight_workspace<float>,
                 hopper_conv2d_backward_weight_workspace<bfloat16>);
  m.def(
      "hopper_conv2d_backward_weight",
      [](py::handle dw_, py::handle db_, py::handle dy_, py::handle x_, const Conv2d& shape, std::string_view precision_,
         py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("hopper_conv2d_backward_weight", stream);
          const Precision precision = precision_of<T>(call, precision_);
          check_takes(call, hopper_conv2d_backward_weight_takes(shape, precision));
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto dw = call.out<float>("dw", dw_, filters_of(shape));
          const auto db = call.out_or_none<float>("db", db_, {shape.K});
          void* workspace = call.workspace(workspace_, hopper_conv2d_backward_weight_workspace<T>(shape, precision));
          check_aligned(call, "dy", dy);
          check_aligned(call, "x", x);
          call.run([&](Stream s) { hopper_conv2d_backward_weight<T>(dw, db, dy, x, shape, precision, workspace, s); });
        });
      },
      "dw"_a, "db"_a, "dy"_a, "x"_a, "shape"_a, "precision"_a, "workspace"_a, "stream"_a = 0);
}

void bind_space_to_depth_conv2d(py::module_& m) {
  const auto bind_workspace = [&](const char* name, auto of_float32, auto of_bfloat16) {
    m.def(
        name,
        [=](const Conv2d& shape, std::string_view precision, bool hopper, bool stored_bfloat16) {
          const Call call(name, 0);
          return stored_bfloat16 ? of_bfloat16(shape, precision_of<bfloat16>(call, precision), hopper)
                                 : of_float32(shape, precision_of(call, precision), hopper);
        },
        "shape"_a, "precision"_a, "hopper"_a, "stored_bfloat16"_a);
  };
  // `hopper_takes` the pass of the convolution of blocks.
  const auto check = []<class T>(const Call& call, const Conv2d& s, Precision precision, bool hopper, auto hopper_takes) {
    check_takes(call, space_to_depth_conv2d_takes<T>(s) && (!hopper || hopper_takes(space_to_depth_conv2d_blocks<T>(s), precision)));
  };
  bind_workspace("space_to_depth_conv2d_forward_workspace", space_to_depth_conv2d_forward_workspace<float>,
                 space_to_depth_conv2d_forward_workspace<bfloat16>);
  m.def(
      "space_to_depth_conv2d_forward",
      [=](py::handle y_, py::handle x_, py::handle w_, py::handle b_, const Conv2d& shape, bool relu, std::string_view precision_,
          bool hopper, py::handle workspace_, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("space_to_depth_conv2d_forward", stream);
          const Precision precision = precision_of<T>(call, precision_);
          check.template operator()<T>(call, shape, precision, hopper, hopper_conv2d_takes);
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto w = call.in<T>("w", w_, filters_of(shape));
          const auto b = call.in_or_none<float>("b", b_, {shape.K});
          const auto y = call.out<T>("y", y_, output_of(shape));
          void* workspace = call.workspace(workspace_, space_to_depth_conv2d_forward_workspace<T>(shape, precision, hopper));
          call.run([&](Stream s) { space_to_depth_conv2d_forward<T>(y, x, w, b, shape, relu, precision, hopper, workspace, s); });
        });
      },
      "y"_a, "x"_a, "w"_a, "b"_a, "shape"_a, "relu"_a, "precision"_a, "hopper"_a, "workspace"_a, "stream"_a = 0);

  bind_workspace("space_to_depth_conv2d_backward_input_workspace", space_to_depth_conv2d_backward_input_workspace<float>,
                 space_to_depth_conv2d_backward_input_workspace<bfloat16>);
  m.def(
      "space_to_depth_conv2d_backward_input",
      [=](py::handle dx_, py::handle dy_, py::handle w_, py::handle mask_, const Conv2d& shape, std::string_view precision_, bool hopper,
          py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("space_to_depth_conv2d_backward_input", stream);
          const Precision precision = precision_of<T>(call, precision_);
          check.template operator()<T>(call, shape, precision, hopper, hopper_conv2d_backward_input_takes);
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto w = call.in<T>("w", w_, filters_of(shape));
          const auto mask = call.in_or_none<T>("mask", mask_, input_of(shape));
          const auto dx = call.out<T>("dx", dx_, input_of(shape));
          void* workspace = call.workspace(workspace_, space_to_depth_conv2d_backward_input_workspace<T>(shape, precision, hopper));
          if (hopper) check_aligned(call, "dy", dy);
          call.run([&](Stream s) { space_to_depth_conv2d_backward_input<T>(dx, dy, w, mask, shape, precision, hopper, workspace, s); });
        });
      },
      "dx"_a, "dy"_a, "w"_a, "mask"_a, "shape"_a, "precision"_a, "hopper"_a, "workspace"_a, "stream"_a = 0);

  bind_workspace("space_to_depth_conv2d_backward_weight_workspace", space_to_depth_conv2d_backward_weight_workspace<float>,
                 space_to_depth_conv2d_backward_weight_workspace<bfloat16>);
  m.def(
      "space_to_depth_conv2d_backward_weight",
      [=](py::handle dw_, py::handle db_, py::handle dy_, py::handle x_, const Conv2d& shape, std::string_view precision_, bool hopper,
          py::handle workspace_, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("space_to_depth_conv2d_backward_weight", stream);
          const Precision precision = precision_of<T>(call, precision_);
          check.template operator()<T>(call, shape, precision, hopper, hopper_conv2d_backward_weight_takes);
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto dw = call.out<float>("dw", dw_, filters_of(shape));
          const auto db = call.out_or_none<float>("db", db_, {shape.K});
          void* workspace = call.workspace(workspace_, space_to_depth_conv2d_backward_weight_workspace<T>(shape, precision, hopper));
          if (hopper) check_aligned(call, "dy", dy);
          call.run([&](Stream s) { space_to_depth_conv2d_backward_weight<T>(dw, db, dy, x, shape, precision, hopper, workspace, s); });
        });
      },
      "dw"_a, "db"_a, "dy"_a, "x"_a, "shape"_a, "precision"_a, "hopper"_a, "workspace"_a, "stream"_a = 0);
}

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
  bind_conv2d(m);
  bind_winograd_conv2d(m);
  bind_implicit_conv2d(m);
  bind_space_to_depth_conv2d(m);
  bind_hopper_conv2d(m);
  bind_local2d(m);
}

}  // namespace alexnet
