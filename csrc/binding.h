// binding.h - what the bindings of all families share: numbers in their ranges, shape structs, precisions. A family is a file
// here, whose bind_FAMILY gives the module its launchers of kernels.h, each under its own name.
#pragma once
#include <climits>
#include <initializer_list>
#include <limits>
#include <type_traits>

#include "array.h"

namespace alexnet {

using namespace py::literals;
using Address = std::uintptr_t;

void bind_products(py::module_& m);
void bind_convolution(py::module_& m);
void bind_pooling(py::module_& m);
void bind_normalisation(py::module_& m);
void bind_elementwise(py::module_& m);
void bind_training(py::module_& m);

// ---------------------------------------------------------------- numbers

// A number within its range: sizes and strides from 1, paddings from 0; hyper-parameters finite.
template <class T>
using Wide = std::conditional_t<std::is_integral_v<T>, long, double>;
template <class T>
T checked(const char* owner, std::string_view name, Wide<T> value) {
  const bool integer = std::is_integral_v<T>;
  const Wide<T> lowest = !integer ? -std::numeric_limits<float>::max() : name.starts_with("pad_") ? 0 : 1;
  const Wide<T> highest = std::numeric_limits<T>::max();
  if (value >= lowest && value <= highest) return static_cast<T>(value);
  const std::string expected =
      integer ? "an integer from " + std::to_string(long(lowest)) + " to " + std::to_string(long(highest)) : "a finite number";
  throw py::value_error(std::string(owner) + ": " + std::string(name) + ": expected " + expected + ", got " +
                        std::string(py::str(py::cast(value))));
}
inline float finite(const char* function, const char* name, double value) { return checked<float>(function, name, value); }

inline void check_dropout(const Call& call, std::uint64_t first, double p) {
  if (first >> 62) call.fail("first", "expected an element below 2^62, got " + std::to_string(first));
  if (!(p >= 0 && p < 1)) call.fail("p", "expected a number in [0, 1), got " + std::string(py::str(py::cast(p))));
}

// ---------------------------------------------------------------- shape structs

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

// All of `factors` and their product fit an int, in which kernels count inside an image.
inline void check_product(const std::string& name, std::initializer_list<long> factors) {
  long n = 1;
  for (long f : factors)
    if ((n *= f) > INT_MAX) throw py::value_error(name + " has more than 2^31 - 1 elements");
}

template <class S>
inline void check_window(const std::string& name, const S& s) {
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

// ---------------------------------------------------------------- precision

template <class T = float>
Precision precision_of(const Call& call, std::string_view name, bool any = false) {
  if (name == "bf16") return Precision::bf16;
  if (std::is_same_v<T, bfloat16>) call.fail("precision", "expected 'bf16' for arrays in bfloat16, got '" + std::string(name) + "'");
  if (name == "tf32") return Precision::tf32;
  if (name == "fp32" && any) return Precision::fp32;
  call.fail("precision", "expected " + std::string(any ? "'fp32', " : "") + "'tf32' or 'bf16', got '" + std::string(name) + "'");
}

}  // namespace alexnet
