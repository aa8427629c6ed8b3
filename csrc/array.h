// array.h - the arrays of one launcher call: NumPy arrays in _cpu, whatever has a __cuda_array_interface__ in _gpu. Their
// dtype, shape, layout, device and overlap are checked before a pointer passes.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels.h"
#ifdef ALEXNET_GPU
#include "device.h"
#endif

namespace alexnet {

namespace py = pybind11;

using Shape = std::vector<long>;
constexpr long any = -1;   // in an expected shape: a dimension of any size
constexpr long rest = -2;  // as its first entry: any number of dimensions

inline long product(const Shape& shape) {
  long n = 1;
  for (long d : shape) n *= d;
  return n;
}

inline std::string text(const Shape& shape) {
  std::string s = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i) s += ", ";
    s += shape[i] == any ? "*" : shape[i] == rest ? "..." : std::to_string(shape[i]);
  }
  return s + (shape.size() == 1 ? ",)" : ")");
}

inline bool matches(const Shape& shape, const Shape& expected) {
  const bool open = !expected.empty() && expected[0] == rest;
  const std::size_t fixed = expected.size() - open;
  if (open ? shape.size() < fixed : shape.size() != fixed) return false;
  return std::equal(expected.begin() + open, expected.end(), shape.end() - fixed, [](long e, long n) { return e == any || e == n; });
}

struct View {  // what Python handed over
  char* data = nullptr;
  Shape shape;
  bool right_type = false, contiguous = false, writable = false;
  Stream stream = nullptr;  // on which the array is made
};

// What an array consists of. bfloat16 is ml_dtypes', a type of two bytes that NumPy knows by its letter alone.
template <class T>
struct Element {
  static constexpr std::size_t bytes = sizeof(T);
  static std::string name() { return py::str(py::dtype::of<T>()); }
};
template <>
struct Element<bfloat16> {
  static constexpr std::size_t bytes = 2;
  static std::string name() { return "bfloat16"; }
};

#ifdef ALEXNET_GPU

template <class T>
constexpr const char* code = nullptr;  // in the array interface
template <>
constexpr const char* code<float> = "<f4";
template <>
constexpr const char* code<bfloat16> = "<V2";
template <>
constexpr const char* code<std::uint8_t> = "|u1";
template <>
constexpr const char* code<std::int32_t> = "<i4";
template <>
constexpr const char* code<std::uint64_t> = "<u8";

constexpr const char* home = "an array on a GPU";
constexpr const char* foreign = "one in host memory";
inline bool is_foreign(py::handle object) { return py::hasattr(object, "__array_interface__"); }
// None for what is no array. CuPy makes it anew each time.
inline py::object interface(py::handle object) { return py::getattr(object, "__cuda_array_interface__", py::none()); }

inline bool is_bfloat16(py::handle object) {
  const py::object d = interface(object);
  return !d.is_none() && d["typestr"].cast<std::string_view>() == code<bfloat16>;
}

inline std::string dtype(py::handle array) {
  if (is_bfloat16(array)) return Element<bfloat16>::name();
  return py::str(py::dtype::from_args(interface(array)["typestr"]));
}

// Nothing for what is no array.
template <class T>
std::optional<View> view(py::handle object) {
  const py::object found = interface(object);
  if (found.is_none()) return {};
  const py::dict d = found;
  const py::tuple data = d["data"];
  View v;
  v.data = reinterpret_cast<char*>(data[0].cast<std::uintptr_t>());
  v.shape = d["shape"].cast<Shape>();
  v.right_type = d["typestr"].cast<std::string_view>() == code<T>;
  v.contiguous = true;
  if (d.contains("strides") && !d["strides"].is_none()) {
    const auto strides = d["strides"].cast<Shape>();
    long step = Element<T>::bytes;
    for (std::size_t i = strides.size(); i--; step *= v.shape[i]) v.contiguous &= v.shape[i] == 1 || strides[i] == step;
  }
  v.writable = !data[1].cast<bool>();
  if (d.contains("stream") && !d["stream"].is_none()) v.stream = reinterpret_cast<Stream>(d["stream"].cast<std::uintptr_t>());
  return v;
}

#else

constexpr const char* home = "a NumPy array";
constexpr const char* foreign = "one on a GPU";
inline bool is_foreign(py::handle object) { return py::hasattr(object, "__cuda_array_interface__"); }
inline std::string dtype(py::handle array) { return py::str(array.attr("dtype")); }

inline bool is_bfloat16(py::handle object) {
  if (!py::isinstance<py::array>(object)) return false;
  const py::dtype dtype = py::reinterpret_borrow<py::array>(object).dtype();
  return dtype.char_() == 'E' && dtype.itemsize() == 2;
}

// Nothing for what is no array.
template <class T>
std::optional<View> view(py::handle object) {
  if (!py::isinstance<py::array>(object)) return {};
  const auto array = py::reinterpret_borrow<py::array>(object);
  View v;
  v.data = static_cast<char*>(const_cast<void*>(array.data()));
  v.shape.assign(array.shape(), array.shape() + array.ndim());
  if constexpr (std::is_same_v<T, bfloat16>)
    v.right_type = is_bfloat16(object);
  else
    v.right_type = py::isinstance<py::array_t<T> >(object);
  v.contiguous = array.flags() & py::array::c_style;
  v.writable = array.writeable();
  return v;
}

inline int device_of(const char*, const void*) { return 0; }

struct DeviceGuard {
  DeviceGuard(const char*, int) {}
};
inline void wait_for(const char*, Stream, Stream, const DeviceGuard&) {}

#endif

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
  Call(const char* function, std::uintptr_t stream) : function_(function), stream_(reinterpret_cast<Stream>(stream)) {}

  template <class T>
  Array<const T> in(const char* name, py::handle array, const Shape& expected = {rest}) {
    return {reinterpret_cast<const T*>(take<T>(name, array, expected, false, "")), spans_.back().shape};
  }
  // `may_be` names an input whose memory the output may be.
  template <class T>
  Array<T> out(const char* name, py::handle array, const Shape& expected, std::string_view may_be = "") {
    return {reinterpret_cast<T*>(take<T>(name, array, expected, true, may_be)), spans_.back().shape};
  }
  template <class T>
  Array<const T> in_or_none(const char* name, py::handle array, const Shape& expected) {
    return array.is_none() ? Array<const T>() : in<T>(name, array, expected);
  }
  template <class T>
  Array<T> out_or_none(const char* name, py::handle array, const Shape& expected) {
    return array.is_none() ? Array<T>() : out<T>(name, array, expected, "");
  }
  void* workspace(py::handle array, std::size_t bytes) {
    if (bytes == 0 && array.is_none()) return nullptr;
    const auto w = out<std::uint8_t>("workspace", array, {any});
    if (std::size_t(w.size()) < bytes)
      fail("workspace", "expected at least " + std::to_string(bytes) + " bytes, got " + std::to_string(w.size()));
    if (reinterpret_cast<std::uintptr_t>(w.data) % 16) fail("workspace", "expected memory aligned to 16 bytes");
    return w.data;
  }

  [[noreturn]] void fail(const char* name, const std::string& message) const { throw py::value_error(where(name) + message); }

  template <class Launch>
  void run(Launch launch) const {
    const Span& first = spans_.front();
    const int device = device_of(function_, first.data);
    for (const Span& s : spans_) {
      const int other = device_of(function_, s.data);
      if (other < 0) fail(s.name, std::string("expected ") + home + ", got " + foreign);
      if (other != device)
        fail(s.name,
             "expected an array on GPU " + std::to_string(device) + " like " + first.name + ", got one on GPU " + std::to_string(other));
    }
    py::gil_scoped_release released;
    const DeviceGuard guard(function_, device);
    for (const Span& s : spans_) wait_for(function_, stream_, s.stream, guard);
    launch(stream_);
  }

 private:
  struct Span : View {
    const char *name, *end;
    bool output;
  };

  std::string where(const char* name) const { return std::string(function_) + ": " + name + ": "; }

  template <class T>
  char* take(const char* name, py::handle array, const Shape& expected, bool output, std::string_view may_be) {
    std::optional<View> found = view<T>(array);
    if (!found) {
      if (is_foreign(array)) fail(name, std::string("expected ") + home + ", got " + foreign);
      throw py::type_error(where(name) + "expected " + home + ", got " + Py_TYPE(array.ptr())->tp_name);
    }
    View& v = *found;
    const bool may_write = v.writable || !output;
    if (!v.right_type || !matches(v.shape, expected) || !v.contiguous || !may_write) {
      std::string message = where(name) + "expected a " + (may_write ? "" : "writable ") + "C-contiguous " + Element<T>::name() + " array";
      if (expected != Shape{rest}) message += " of shape " + text(expected);
      message += std::string(", got ") + (may_write ? "" : "read-only ") + (v.contiguous ? "" : "non-contiguous ") + dtype(array) + " " +
                 text(v.shape);
      if (!v.right_type) throw py::type_error(message);
      throw py::value_error(message);
    }
    const long bytes = product(v.shape) * long(Element<T>::bytes);
    if (bytes == 0) fail(name, "expected at least one element, got shape " + text(v.shape));
    if (reinterpret_cast<std::uintptr_t>(v.data) % Element<T>::bytes) fail(name, "expected aligned memory, got an unaligned address");
    const char* end = v.data + bytes;
    for (const Span& s : spans_) {
      const bool overlap = v.data < s.end && s.data < end, same = v.data == s.data && end == s.end;
      if (overlap && (output || s.output) && !(same && s.name == may_be))
        fail(name, std::string("expected memory of its own, got memory that overlaps ") + s.name);
    }
    spans_.push_back({std::move(v), name, end, output});
    return spans_.back().data;
  }

  const char* function_;
  Stream stream_;
  std::vector<Span> spans_;
};

}  // namespace alexnet
