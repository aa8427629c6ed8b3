// array.cpp - the checks of array.h, and what differs between an array in host memory and one on a GPU.
#include "array.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <utility>

#ifdef ALEXNET_GPU
#include "platform/device.h"
#endif

namespace alexnet {
namespace {

struct View {  // what Python handed over
  char* data = nullptr;
  Shape shape;
  bool right_type = false, contiguous = false, writable = false;
  Stream stream = nullptr;
};

#ifdef ALEXNET_GPU

constexpr const char* home = "an array on a GPU";
constexpr const char* foreign = "one in host memory";
bool is_foreign(py::handle object) { return py::hasattr(object, "__array_interface__"); }
// None for what is no array. CuPy makes it anew each time.
py::object interface(py::handle object) { return py::getattr(object, "__cuda_array_interface__", py::none()); }

std::string code(const Element& e) { return (e.bytes == 1 ? "|" : "<") + std::string(1, e.kind) + std::to_string(e.bytes); }

std::string dtype(py::handle array) {
  if (is_bfloat16(array)) return element<bfloat16>.name;
  return py::str(py::dtype::from_args(interface(array)["typestr"]));
}

// Nothing for what is no array.
std::optional<View> view(py::handle object, const Element& element) {
  const py::object found = interface(object);
  if (found.is_none()) return {};
  const py::dict d = found;
  const py::tuple data = d["data"];
  View v;
  v.data = reinterpret_cast<char*>(data[0].cast<std::uintptr_t>());
  v.shape = d["shape"].cast<Shape>();
  v.right_type = d["typestr"].cast<std::string_view>() == code(element);
  v.contiguous = true;
  if (d.contains("strides") && !d["strides"].is_none()) {
    const auto strides = d["strides"].cast<Shape>();
    long step = element.bytes;
    for (std::size_t i = strides.size(); i--; step *= v.shape[i]) v.contiguous &= v.shape[i] == 1 || strides[i] == step;
  }
  v.writable = !data[1].cast<bool>();
  if (d.contains("stream") && !d["stream"].is_none()) v.stream = reinterpret_cast<Stream>(d["stream"].cast<std::uintptr_t>());
  return v;
}

#else

constexpr const char* home = "a NumPy array";
constexpr const char* foreign = "one on a GPU";
bool is_foreign(py::handle object) { return py::hasattr(object, "__cuda_array_interface__"); }
std::string dtype(py::handle array) { return py::str(array.attr("dtype")); }

// Nothing for what is no array.
std::optional<View> view(py::handle object, const Element& element) {
  if (!py::isinstance<py::array>(object)) return {};
  const auto array = py::reinterpret_borrow<py::array>(object);
  const py::dtype dtype = array.dtype();
  View v;
  v.data = static_cast<char*>(const_cast<void*>(array.data()));
  v.shape.assign(array.shape(), array.shape() + array.ndim());
  v.right_type = dtype.kind() == element.kind && dtype.itemsize() == element.bytes && dtype.byteorder() != '>' &&
                 (element.kind != 'V' || is_bfloat16(object));
  v.contiguous = array.flags() & py::array::c_style;
  v.writable = array.writeable();
  return v;
}

int device_of(const char*, const void*) { return 0; }

struct DeviceGuard {
  DeviceGuard(const char*, int) {}
};
void wait_for(const char*, Stream, Stream, const DeviceGuard&) {}

#endif

bool matches(const Shape& shape, const Shape& expected) {
  const bool open = !expected.empty() && expected[0] == rest;
  const std::size_t fixed = expected.size() - open;
  if (open ? shape.size() < fixed : shape.size() != fixed) return false;
  return std::equal(expected.begin() + open, expected.end(), shape.end() - fixed, [](long e, long n) { return e == any || e == n; });
}

}  // namespace

#ifdef ALEXNET_GPU
bool is_bfloat16(py::handle array) {
  const py::object d = interface(array);
  return !d.is_none() && d["typestr"].cast<std::string_view>() == code(element<bfloat16>);
}
#else
bool is_bfloat16(py::handle array) {  // NumPy knows it by its letter alone
  if (!py::isinstance<py::array>(array)) return false;
  const py::dtype dtype = py::reinterpret_borrow<py::array>(array).dtype();
  return dtype.char_() == 'E' && dtype.itemsize() == 2;
}
#endif

long product(const Shape& shape) {
  long n = 1;
  for (long d : shape) n *= d;
  return n;
}

std::string text(const Shape& shape) {
  std::string s = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i) s += ", ";
    s += shape[i] == any ? "*" : shape[i] == rest ? "..." : std::to_string(shape[i]);
  }
  return s + (shape.size() == 1 ? ",)" : ")");
}

Call::Call(const char* function, std::uintptr_t stream) : function_(function), stream_(reinterpret_cast<Stream>(stream)) {}
Call::~Call() = default;

void* Call::workspace(py::handle array, std::size_t bytes) {
  if (bytes == 0 && array.is_none()) return nullptr;
  const auto w = out<std::uint8_t>("workspace", array, {any});
  if (std::size_t(w.size()) < bytes)
    fail("workspace", "expected at least " + std::to_string(bytes) + " bytes, got " + std::to_string(w.size()));
  if (reinterpret_cast<std::uintptr_t>(w.data) % 16) fail("workspace", "expected memory aligned to 16 bytes");
  return w.data;
}

void Call::fail(const char* name, const std::string& message) const { throw py::value_error(where(name) + message); }

void Call::run(const std::function<void(Stream)>& launch) const {
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

std::string Call::where(const char* name) const { return std::string(function_) + ": " + name + ": "; }

const Call::Span& Call::take(const char* name, py::handle array, const Element& element, const Shape& expected, bool output,
                             std::string_view may_be) {
  std::optional<View> found = view(array, element);
  if (!found) {
    if (is_foreign(array)) fail(name, std::string("expected ") + home + ", got " + foreign);
    throw py::type_error(where(name) + "expected " + home + ", got " + Py_TYPE(array.ptr())->tp_name);
  }
  View& v = *found;
  const bool may_write = v.writable || !output;
  if (!v.right_type || !matches(v.shape, expected) || !v.contiguous || !may_write) {
    std::string message = where(name) + "expected a " + (may_write ? "" : "writable ") + "C-contiguous " + element.name + " array";
    if (expected != Shape{rest}) message += " of shape " + text(expected);
    message += std::string(", got ") + (may_write ? "" : "read-only ") + (v.contiguous ? "" : "non-contiguous ") + dtype(array) + " " +
               text(v.shape);
    if (!v.right_type) throw py::type_error(message);
    throw py::value_error(message);
  }
  const long bytes = product(v.shape) * element.bytes;
  if (bytes == 0) fail(name, "expected at least one element, got shape " + text(v.shape));
  if (reinterpret_cast<std::uintptr_t>(v.data) % element.bytes) fail(name, "expected aligned memory, got an unaligned address");
  char* end = v.data + bytes;
  for (const Span& s : spans_) {
    const bool overlap = v.data < s.end && s.data < end, same = v.data == s.data && end == s.end;
    if (overlap && (output || s.output) && !(same && s.name == may_be))
      fail(name, std::string("expected memory of its own, got memory that overlaps ") + s.name);
  }
  spans_.push_back({name, v.data, end, std::move(v.shape), output, v.stream});
  return spans_.back();
}

}  // namespace alexnet
