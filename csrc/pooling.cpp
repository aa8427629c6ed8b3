// pooling.cpp - the bindings of pool2d.cu.
#include "binding.h"

namespace alexnet {
namespace {

void check_pool2d(const Pool2d& s) {
  check_window("Pool2d", s);
  check_product("Pool2d: an image of y", {s.OH, s.OW, s.C});
  if (s.pad_top >= s.KH || (s.OH - 1l) * s.stride_h - s.pad_top >= s.H || s.pad_left >= s.KW ||
      (s.OW - 1l) * s.stride_w - s.pad_left >= s.W)
    throw py::value_error("Pool2d: expected windows that all meet the image");
}

void bind_pool2d(py::module_& m) {
  bind_struct<Pool2d>(m, "Pool2d", check_pool2d, FIELD(Pool2d, N), FIELD(Pool2d, H), FIELD(Pool2d, W), FIELD(Pool2d, C), FIELD(Pool2d, KH),
                      FIELD(Pool2d, KW), FIELD(Pool2d, stride_h), FIELD(Pool2d, stride_w), FIELD(Pool2d, pad_top), FIELD(Pool2d, pad_left),
                      FIELD(Pool2d, OH), FIELD(Pool2d, OW));
  m.def(
      "max_pool2d_forward",
      [](py::handle y_, py::handle which_, py::handle x_, const Pool2d& shape, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("max_pool2d_forward", stream);
          if (long(shape.KH) * shape.KW > 256) call.fail("shape", "expected windows of at most 256 pixels, which a byte can number");
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto y = call.out<T>("y", y_, output_of(shape));
          const auto which = call.out<std::uint8_t>("which", which_, y.shape);
          call.run([&](Stream s) { max_pool2d_forward<T>(y, which, x, shape, s); });
        });
      },
      "y"_a, "which"_a, "x"_a, "shape"_a, "stream"_a = 0);
  m.def(
      "max_pool2d_backward",
      [](py::handle dx_, py::handle dy_, py::handle which_, const Pool2d& shape, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("max_pool2d_backward", stream);
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto which = call.in<std::uint8_t>("which", which_, dy.shape);
          const auto dx = call.out<T>("dx", dx_, input_of(shape));
          call.run([&](Stream s) { max_pool2d_backward<T>(dx, dy, which, shape, s); });
        });
      },
      "dx"_a, "dy"_a, "which"_a, "shape"_a, "stream"_a = 0);

  m.def(
      "avg_pool2d_forward",
      [](py::handle y_, py::handle x_, const Pool2d& shape, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("avg_pool2d_forward", stream);
          const auto x = call.in<T>("x", x_, input_of(shape));
          const auto y = call.out<T>("y", y_, output_of(shape));
          call.run([&](Stream s) { avg_pool2d_forward<T>(y, x, shape, s); });
        });
      },
      "y"_a, "x"_a, "shape"_a, "stream"_a = 0);
  m.def(
      "avg_pool2d_backward",
      [](py::handle dx_, py::handle dy_, const Pool2d& shape, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("avg_pool2d_backward", stream);
          const auto dy = call.in<T>("dy", dy_, output_of(shape));
          const auto dx = call.out<T>("dx", dx_, input_of(shape));
          call.run([&](Stream s) { avg_pool2d_backward<T>(dx, dy, shape, s); });
        });
      },
      "dx"_a, "dy"_a, "shape"_a, "stream"_a = 0);
}

}  // namespace

void bind_pooling(py::module_& m) { bind_pool2d(m); }

}  // namespace alexnet
