// forms.h - how a table of opcodes is written: each with a C++ function of its values.
#pragma once
#include <tuple>
#include <type_traits>

#include "warp.h"

namespace ptx {

template <class T>
std::string slot() {
  if constexpr (std::is_same_v<T, bool>) return "p";
  return std::to_string(8 * sizeof(T));
}

template <class T>
u64 widen(T v) {  // to 64 bits, with T's sign
  return u64(std::conditional_t<std::is_signed_v<T>, s64, u64>(v));
}

// The values of one operand, lane by lane.
template <class T>
struct Lanes {
  const T* at;
  Lanes(const Warp& w, const Operand& o) : at(w.lanes_of<T>(o)) {}
  T operator[](int lane) const { return at[lane]; }
};
template <>
struct Lanes<bool> {
  u32 bits;
  Lanes(const Warp& w, const Operand& o) : bits(w.predicate(o)) {}
  bool operator[](int lane) const { return bits >> lane & 1; }
};

// D = f(A...) in each lane. Lanes that are not there compute, too, and keep what they have, unless f may fault.
template <auto F, bool Faults, class D, class... A>
Flow elementwise(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();
  for (std::size_t k = 1; k <= sizeof...(A); ++k) w.need(o[k], lanes);
  const auto compute = [&]<std::size_t... K>(std::index_sequence<K...>) {
    const std::tuple<Lanes<A>...> a{Lanes<A>(w, o[K + 1])...};
    if constexpr (std::is_same_v<D, bool>) {
      u32 bits = 0;
      for (int l = 0; l < warp_size; ++l) bits |= u32(F(std::get<K>(a)[l]...)) << l;
      u32& d = w.predicate(o[0]);
      d = (d & ~lanes) | (bits & lanes);
    } else {
      D* d = w.lanes_of<D>(o[0]);
      if constexpr (Faults) {
        for (int l = 0; l < warp_size; ++l)
          if (lanes >> l & 1) d[l] = F(w, l, std::get<K>(a)[l]...);
      } else {
        D r[warp_size];
        for (int l = 0; l < warp_size; ++l) r[l] = F(std::get<K>(a)[l]...);
        if (lanes == all_lanes)
          std::memcpy(d, r, sizeof r);
        else
          for (int l = 0; l < warp_size; ++l) d[l] = lanes >> l & 1 ? r[l] : d[l];
      }
    }
  };
  compute(std::index_sequence_for<A...>());
  w.define(o[0], lanes);
  return Flow::next;
}

template <auto F, class D, class... A>
void add(const char* opcode, D (*)(A...)) {
  add_form(opcode, {(("=" + slot<D>()) + ... + (" " + slot<A>())), elementwise<F, false, D, A...>});
}
template <auto F, class D, class... A>
void add_faulting(const char* opcode, D (*)(const Warp&, int, A...)) {
  add_form(opcode, {(("=" + slot<D>()) + ... + (" " + slot<A>())), elementwise<F, true, D, A...>});
}
// F: a lambda without captures, of the values of one lane. The opcode's types are those of its parameters.
template <auto F>
void form(const char* opcode) {
  add<F>(opcode, +F);
}
// F also takes the warp and the lane, for Warp::fail.
template <auto F>
void faulting_form(const char* opcode) {
  add_faulting<F>(opcode, +F);
}

// cvt between integers, whose registers may be wider than its types (section 9.4.1).
template <auto F, class D, class A>
Flow conversion(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();
  if (o[0].bytes == sizeof(D) && o[1].bytes == sizeof(A)) return elementwise<F, false, D, A>(w, i, lanes);
  w.need(o[1], lanes);
  for (int l = 0; l < warp_size; ++l)
    if (lanes >> l & 1) w.set(o[0], l, widen(F(A(w.value(o[1], l)))));
  w.define(o[0], lanes);
  return Flow::next;
}
template <auto F, class D, class A>
void add_conversion(const char* opcode, D (*)(A)) {
  add_form(opcode, {"=~" + slot<D>() + " ~" + slot<A>(), conversion<F, D, A>});
}
template <auto F>
void conversion_form(const char* opcode) {
  add_conversion<F>(opcode, +F);
}

// Each file's table.
void add_arithmetic();
void add_memory();
void add_control();
void add_copies();
void add_tensor_cores();

}  // namespace ptx
