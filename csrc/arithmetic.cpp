// arithmetic.cpp - the bindings of broadcast.cu and reduce.cu.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <map>

#include "binding.h"

namespace alexnet {
namespace {

using Numbers = std::vector<double>;
using Views = std::vector<std::vector<long>>;  // of y and the operands: where it begins, then a stride for each axis
constexpr int kAxes = 4;

struct Known {
  Operation operation;
  int arity;
};
const std::map<std::string_view, Known> operations = {
#define ENTRY(name, arity) {#name, {Operation::name, arity}},
    FOR_EACH_OPERATION(ENTRY)
#undef ENTRY
};

// bfloat16 is only declared here: no arithmetic on its pointers.
template <class T>
T* moved(T* p, long elements) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(p) + elements * element<std::remove_const_t<T>>.bytes);
}

// The view stays within its array; every element of an output has a place of its own.
void check_view(const Call& call, const char* name, const std::vector<long>& view, const std::vector<long>& sizes, long elements,
                bool output) {
  if (view.size() != sizes.size() + 1)
    call.fail(name, "expected a view of an offset and " + std::to_string(sizes.size()) + " strides, got " + std::to_string(view.size()) +
                        " numbers");
  __int128 low = view[0], high = view[0];
  std::vector<std::pair<long, long>> steps;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const __int128 reach = __int128(view[i + 1]) * (sizes[i] - 1);
    (reach < 0 ? low : high) += reach;
    if (sizes[i] > 1) steps.emplace_back(std::abs(view[i + 1]), sizes[i]);
  }
  std::string got = ", got offset and strides";
  for (long n : view) got += " " + std::to_string(n);
  if (low < 0 || high >= elements) call.fail(name, "expected a view inside of its " + std::to_string(elements) + " elements" + got);
  if (!output) return;
  std::sort(steps.begin(), steps.end());
  long covered = 0;
  for (auto [stride, size] : steps) {
    if (stride <= covered) call.fail(name, "expected a view whose elements have a place each" + got);
    covered += stride * (size - 1);
  }
}

void bind_broadcast_rows(py::module_& m) {
  m.def(
      "broadcast",
      [](py::handle y_, py::handle a_, py::handle b_, py::handle c_, py::handle d_, const std::string& operation,
         const std::vector<long>& sizes, const Views& views, const Numbers& numbers, Address stream) {
        with_storage(y_, [&]<class T>() {
          Call call("broadcast", stream);
          const auto found = operations.find(operation);
          if (found == operations.end()) call.fail("operation", "expected one of broadcast.cu, got '" + operation + "'");
          const int arity = found->second.arity;
          if (sizes.size() > kAxes) call.fail("sizes", "expected at most 4 axes, got " + std::to_string(sizes.size()));
          if (int(views.size()) != arity + 1 || int(numbers.size()) != arity)
            call.fail("views", "expected those of y and " + std::to_string(arity) + " operands, and as many numbers as operands");
          Broadcast s{};
          long count = 1;
          for (std::size_t i = 0; i < kAxes; ++i) {
            const long past = kAxes - sizes.size();
            s.size[i] = long(i) < past ? 1 : checked<long>("broadcast", "sizes", sizes[i - past]);
            if (__builtin_mul_overflow(count, s.size[i], &count)) call.fail("sizes", "expected fewer than 2^63 elements");
          }
          const auto put = [&](int array, const char* name, long elements, bool output) {
            check_view(call, name, views[array], sizes, elements, output);
            std::copy(views[array].begin() + 1, views[array].end(), s.stride[array] + kAxes - sizes.size());
            return views[array][0];
          };
          const auto y = call.out<T>("y", y_, {rest});
          T* to = moved(y.data, put(0, "y", y.size(), true));
          const py::handle given[] = {a_, b_, c_, d_};
          constexpr const char* names[] = {"a", "b", "c", "d"};
          std::array<const T*, 4> from{};
          for (int i = 0; i < 4; ++i) {
            if (i >= arity && !given[i].is_none()) call.fail(names[i], "expected None, as '" + operation + "' has no such operand");
            if (i >= arity) continue;
            s.number[i] = float(numbers[i]);
            if (given[i].is_none()) continue;
            const auto x = call.in<T>(names[i], given[i]);
            from[i] = moved(x.data, put(1 + i, names[i], x.size(), false));
          }
          call.run([&](Stream s_) { broadcast<T>(to, from[0], from[1], from[2], from[3], found->second.operation, s, s_); });
        });
      },
      "y"_a, "a"_a, "b"_a, "c"_a, "d"_a, "operation"_a, "sizes"_a, "views"_a, "numbers"_a, "stream"_a = 0);
  m.def("broadcast_operations", [] {
    py::dict d;
    for (const auto& [name, known] : operations) d[py::str(std::string(name))] = known.arity;
    return d;
  });
}

void check_reduce(const Reduce& s) {
  check_product("Reduce: K", {s.K});
  long count;
  if (__builtin_mul_overflow(s.outer, s.K, &count) || __builtin_mul_overflow(count, s.inner, &count))
    throw py::value_error("Reduce: expected fewer than 2^63 elements");
}

void bind_reductions(py::module_& m) {
  bind_struct<Reduce>(m, "Reduce", check_reduce, FIELD(Reduce, outer), FIELD(Reduce, K), FIELD(Reduce, inner));
  m.def("reduce_sum_workspace", [](const Reduce& s) { return reduce_sum_workspace(s); }, "shape"_a);
  m.def(
      "reduce_sum",
      [](py::handle y_, py::handle x_, const Reduce& s, double divisor, py::handle workspace_, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("reduce_sum", stream);
          const float by = finite("reduce_sum", "divisor", divisor);
          const auto x = call.in<T>("x", x_, {s.outer, s.K, s.inner});
          const auto y = call.out<T>("y", y_, {s.outer, s.inner});
          void* workspace = call.workspace(workspace_, reduce_sum_workspace(s));
          call.run([&](Stream on) { reduce_sum<T>(y, x, s, by, workspace, on); });
        });
      },
      "y"_a, "x"_a, "shape"_a, "divisor"_a, "workspace"_a, "stream"_a = 0);
  m.def("reduce_max_workspace", [](const Reduce& s) { return reduce_max_workspace(s); }, "shape"_a);
  m.def(
      "reduce_max",
      [](py::handle y_, py::handle which_, py::handle x_, const Reduce& s, py::handle workspace_, Address stream) {
        with_storage(x_, [&]<class T>() {
          Call call("reduce_max", stream);
          const auto x = call.in<T>("x", x_, {s.outer, s.K, s.inner});
          const auto y = call.out<T>("y", y_, {s.outer, s.inner});
          const auto which = call.out<std::int32_t>("which", which_, y.shape);
          void* workspace = call.workspace(workspace_, reduce_max_workspace(s));
          call.run([&](Stream on) { reduce_max<T>(y, which, x, s, workspace, on); });
        });
      },
      "y"_a, "which"_a, "x"_a, "shape"_a, "workspace"_a, "stream"_a = 0);
  m.def(
      "reduce_max_backward",
      [](py::handle dx_, py::handle dy_, py::handle which_, const Reduce& s, Address stream) {
        with_storage(dy_, [&]<class T>() {
          Call call("reduce_max_backward", stream);
          const auto dy = call.in<T>("dy", dy_, {s.outer, s.inner});
          const auto which = call.in<std::int32_t>("which", which_, dy.shape);
          const auto dx = call.out<T>("dx", dx_, {s.outer, s.K, s.inner});
          call.run([&](Stream on) { reduce_max_backward<T>(dx, dy, which, s, on); });
        });
      },
      "dx"_a, "dy"_a, "which"_a, "shape"_a, "stream"_a = 0);
}

}  // namespace

void bind_arithmetic(py::module_& m) {
  bind_broadcast_rows(m);
  bind_reductions(m);
}

}  // namespace alexnet
