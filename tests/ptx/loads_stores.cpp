// loads_stores.cpp - ld, st, cvta (PTX ISA, sections 9.7.9.8 to 9.7.9.21).
#include "forms.h"

namespace ptx {

namespace {

enum class Space { global, shared, parameter };

// The address in one lane.
u64 address(const Warp& w, const Operand& o, int lane) {
  return (o.bytes == 8 ? w.lanes_of<u64>(o)[lane] : u64(w.lanes_of<u32>(o)[lane])) + u64(s64(o.add));
}

const char* parameter(const Warp& w, int lane, u64 at, u32 bytes) {
  if (at + bytes > w.launch->program.parameter_bytes || at % bytes) w.fail("reads byte " + std::to_string(at) + " of the parameters", lane);
  return w.launch->parameters + at;
}

// N values of type T behind each other; the address is aligned to all of them.
template <Space S, class T, int N>
Flow load(Warp& w, const Instruction& i, u32 lanes) {
  const Operand& from = i.operands[N];
  w.need(from, lanes);
  for (int l = 0; l < warp_size; ++l) {
    if (!(lanes >> l & 1)) continue;
    const u64 a = address(w, from, l);
    constexpr u32 bytes = sizeof(T) * N;
    const char* p;
    if constexpr (S == Space::global) p = w.launch->global.access(w, l, a, bytes, bytes, false);
    if constexpr (S == Space::shared) p = w.block->shared.access(w, l, a, bytes, bytes, false);
    if constexpr (S == Space::parameter) p = parameter(w, l, a, bytes);
    T v[N];
    std::memcpy(v, p, bytes);
    for (int k = 0; k < N; ++k) w.set(i.operands[k], l, widen(v[k]));
  }
  for (int k = 0; k < N; ++k) w.define(i.operands[k], lanes);
  return Flow::next;
}

template <Space S, class T, int N>
Flow store(Warp& w, const Instruction& i, u32 lanes) {
  const Operand& to = i.operands[0];
  w.need(to, lanes);
  for (int k = 0; k < N; ++k) w.need(i.operands[1 + k], lanes);
  for (int l = 0; l < warp_size; ++l) {
    if (!(lanes >> l & 1)) continue;
    const u64 a = address(w, to, l);
    constexpr u32 bytes = sizeof(T) * N;
    T v[N];
    for (int k = 0; k < N; ++k) v[k] = T(w.value(i.operands[1 + k], l));
    if constexpr (S == Space::global) std::memcpy(w.launch->global.access(w, l, a, bytes, bytes, true), v, bytes);
    if constexpr (S == Space::shared) std::memcpy(w.block->shared.access(w, l, a, bytes, bytes, true), v, bytes);
  }
  return Flow::next;
}

template <class T, int N>
void accesses(const std::string& type) {
  const std::string vector = N == 1 ? "" : ".v" + std::to_string(N);
  const std::string value = (N == 1 ? "" : "{" + std::to_string(N) + "}") + "~" + std::to_string(8 * sizeof(T));
  const auto name = [&](const char* operation, const char* space) { return operation + std::string(space) + vector + "." + type; };
  add_form(name("ld", ".global"), {"=" + value + " [64]", load<Space::global, T, N>});
  add_form(name("ld", ".global.nc"), {"=" + value + " [64]", load<Space::global, T, N>});  // written meanwhile: a race
  add_form(name("ld", ".param"), {"=" + value + " [64]", load<Space::parameter, T, N>});
  add_form(name("st", ".global"), {"[64] " + value, store<Space::global, T, N>});
  if constexpr (sizeof(T) > 1) {  // races in shared memory are looked for two bytes at a time, by SharedMemory::restart
    add_form(name("ld", ".shared"), {"=" + value + " [32]", load<Space::shared, T, N>});
    add_form(name("st", ".shared"), {"[32] " + value, store<Space::shared, T, N>});
  }
}

template <class T>
void vectors(const std::string& type) {
  accesses<T, 1>(type), accesses<T, 2>(type);
  if constexpr (sizeof(T) <= 4) accesses<T, 4>(type);
}

// A parameter's address among all addresses; tensor maps are read through it.
Flow parameter_address(Warp& w, const Instruction& i, u32 lanes) {
  w.need(i.operands[1], lanes);
  for (int l = 0; l < warp_size; ++l)
    if (lanes >> l & 1) w.set(i.operands[0], l, w.value(i.operands[1], l) + u64(w.launch->parameters));
  w.define(i.operands[0], lanes);
  return Flow::next;
}

}  // namespace

void add_memory() {
  vectors<u8>("u8"), vectors<s8>("s8"), vectors<u16>("u16"), vectors<s16>("s16"), vectors<u32>("u32"), vectors<s32>("s32");
  vectors<u32>("f32"), vectors<u64>("u64"), vectors<u32>("b32"), vectors<u64>("b64");
  form<[](u64 a) { return a; }>("cvta.to.global.u64");  // global addresses are what they are
  add_form("cvta.param.u64", {"=64 64", parameter_address});
}

}  // namespace ptx
