// array.h - the arrays of one launcher call: NumPy arrays in _cpu, whatever has a __cuda_array_interface__ in _gpu. Their
// dtype, shape, layout, device and overlap are checked before a pointer passes.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels.h"

namespace alexnet {

namespace py = pybind11;

using Shape = std::vector<long>;
constexpr long any = -1;   // in an expected shape: a dimension of any size
constexpr long rest = -2;  // as its first entry: any number of dimensions

long product(const Shape& shape);
std::string text(const Shape& shape);

// What an array consists of: the letter of its kind in NumPy, and bytes.
struct Element {
  char kind;
  int bytes;
  const char* name;
};
template <class T>
constexpr Element element = {};
template <>
constexpr Element element<float> = {'f', 4, "float32"};
template <>
constexpr Element element<bfloat16> = {'V', 2, "bfloat16"};  // ml_dtypes'
template <>
constexpr Element element<std::uint8_t> = {'u', 1, "uint8"};
template <>
constexpr Element element<std::int8_t> = {'i', 1, "int8"};
template <>
constexpr Element element<std::int32_t> = {'i', 4, "int32"};
template <>
constexpr Element element<std::uint64_t> = {'u', 8, "uint64"};

bool is_bfloat16(py::handle array);

// f.operator()<T>() for what the array consists of, bfloat16 or else float.
template <class F>
void with_storage(py::handle array, F f) {
  if (is_bfloat16(array))
    f.template operator()<bfloat16>();
  else
    f.template operator()<float>();
}

// An array that has passed its checks; converts to the pointer that a launcher takes.
template <class T>
struct Array {
  T* data = nullptr;
  Shape shape;
  operator T*() const { return data; }
  long size() const { return product(shape); }
};

// One call of a launcher: takes its inputs, then its outputs, then runs it.
class Call {
 public:
  Call(const char* function, std::uintptr_t stream);
  ~Call();

  template <class T>
  Array<const T> in(const char* name, py::handle array, const Shape& expected = {rest}) {
    const Span& s = take(name, array, element<T>, expected, false, "");
    return {reinterpret_cast<const T*>(s.data), s.shape};
  }
  // `may_be` names an input whose memory the output may be.
  template <class T>
  Array<T> out(const char* name, py::handle array, const Shape& expected, std::string_view may_be = "") {
    const Span& s = take(name, array, element<T>, expected, true, may_be);
    return {reinterpret_cast<T*>(s.data), s.shape};
  }
  template <class T>
  Array<const T> in_or_none(const char* name, py::handle array, const Shape& expected) {
    return array.is_none() ? Array<const T>() : in<T>(name, array, expected);
  }
  template <class T>
  Array<T> out_or_none(const char* name, py::handle array, const Shape& expected) {
    return array.is_none() ? Array<T>() : out<T>(name, array, expected);
  }
  void* workspace(py::handle array, std::size_t bytes);

  [[noreturn]] void fail(const char* name, const std::string& message) const;

  void run(const std::function<void(Stream)>& launch) const;

 private:
  struct Span {
    const char* name;
    char *data, *end;
    Shape shape;
    bool output;
    Stream stream;  // on which the array is made
  };

  std::string where(const char* name) const;
  const Span& take(const char* name, py::handle array, const Element& element, const Shape& expected, bool output, std::string_view may_be);

  const char* function_;
  Stream stream_;
  std::vector<Span> spans_;
};

}  // namespace alexnet
