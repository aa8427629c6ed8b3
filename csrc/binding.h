// binding.h - what the bindings of all families share: numbers in their ranges, shape structs, precisions. A family is a file
// here, whose bind_FAMILY gives the module its launchers of kernels.h, each under its own name.
#pragma once
#include <climits>
#include <initializer_list>
#include <type_traits>
#include <utility>

#include "array.h"

namespace alexnet {

using namespace py::literals;
using Address = std::uintptr_t;

void bind_products(py::module_& m);
void bind_convolution(py::module_& m);
void bind_pooling(py::module_& m);
void bind_normalisation(py::module_& m);
void bind_elementwise(py::module_& m);
void bind_arithmetic(py::module_& m);
void bind_training(py::module_& m);

// ---------------------------------------------------------------- numbers

// A number within its range: sizes and strides from 1, paddings from 0; hyper-parameters finite.
long whole(const char* owner, std::string_view name, long value, long highest);
float finite(const char* owner, std::string_view name, double value);

template <class T>
using Wide = std::conditional_t<std::is_integral_v<T>, long, double>;
template <class T>
T checked(const char* owner, std::string_view name, Wide<T> value) {
  if constexpr (std::is_integral_v<T>)
    return T(whole(owner, name, value, sizeof(T) == sizeof(int) ? INT_MAX : LONG_MAX));
  else
    return finite(owner, name, value);
}

void check_dropout(const Call& call, std::uint64_t first, double p);

// ---------------------------------------------------------------- shape structs

// All of `factors` and their product fit an int, in which kernels count inside an image.
void check_product(const std::string& name, std::initializer_list<long> factors);

template <class S>
void check_window(const std::string& name, const S& s) {
  check_product(name + ": an image of x", {s.H, s.W, s.C});
  check_product(name + ": y without its channels", {s.N, s.OH, s.OW});
  if ((s.OH - 1l) * s.stride_h + s.KH > INT_MAX || (s.OW - 1l) * s.stride_w + s.KW > INT_MAX)
    throw py::value_error(name + ": the windows reach beyond 2^31 - 1 pixels");
}

template <class S>
Shape input_of(const S& s) {
  return {s.N, s.H, s.W, s.C};
}
inline Shape output_of(const Pool2d& s) { return {s.N, s.OH, s.OW, s.C}; }

#define FIELD(S, name) \
  std::pair { #name, &S::name }
// `check` throws for fields that do not go together.
template <class S, class... F>
py::class_<S> bind_struct(py::module_& m, const char* name, void (*check)(const S&), std::pair<const char*, F S::*>... fields) {
  py::class_<S> c(m, name, py::module_local());
  c.def(py::init([=](Wide<F>... values) {
          S s{};
          ((s.*fields.second = checked<F>(name, fields.first, values)), ...);
          check(s);
          return s;
        }),
        py::kw_only(), py::arg(fields.first)...);
  (c.def_readonly(fields.first, fields.second), ...);
  return c;
}

// ---------------------------------------------------------------- precision

std::string_view text(Precision precision);

// By its name: of products on tensor cores, and, if `fp32`, of those without. Arrays in bfloat16 are multiplied as they are.
Precision precision_of(const Call& call, std::string_view name, bool stored_bfloat16, bool fp32 = false);
template <class T>
Precision precision_of(const Call& call, std::string_view name, bool fp32 = false) {
  return precision_of(call, name, std::is_same_v<T, bfloat16>, fp32);
}

}  // namespace alexnet
