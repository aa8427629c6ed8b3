// arithmetic.cpp - integers, floating point, comparison, selection, logic, conversion (PTX ISA, sections 9.7.1 to 9.7.9).
// float is IEEE's single precision, rounded to the nearest with ties to even unless the opcode says otherwise; subnormals
// are kept unless it says .ftz. What the ISA allows to be approximate (.approx) is rounded correctly here.
#include <bit>
#include <cmath>
#include <limits>

#include "forms.h"

namespace ptx {

namespace {

// ---- shifts: beyond the width all bits are gone (section 9.7.8)
template <class T>
T shift_left(T a, u32 n) {
  return n < 8 * sizeof(T) ? T(a << n) : T(0);
}
template <class T>
T shift_right(T a, u32 n) {  // with the sign where T has one
  return T(a >> (n < 8 * sizeof(T) ? n : 8 * sizeof(T) - 1) >> (std::is_unsigned_v<T> && n >= 8 * sizeof(T) ? 1 : 0));
}

// ---- division (9.7.1.8): by zero the result is unspecified, so it is a fault; the smallest by -1 wraps
template <class T>
T divide(const Warp& w, int lane, T a, T b) {
  if (b == 0) w.fail("divides by zero", lane);
  if constexpr (std::is_signed_v<T>)
    if (b == T(-1)) return T(0 - std::make_unsigned_t<T>(a));
  return a / b;
}
template <class T>
T remainder(const Warp& w, int lane, T a, T b) {
  if (b == 0) w.fail("divides by zero", lane);
  if constexpr (std::is_signed_v<T>)
    if (b == T(-1)) return 0;
  return a % b;
}

u32 bit_field_insert(u32 a, u32 b, u32 position, u32 length) {  // 9.7.1.22
  position &= 255, length &= 255;
  if (position > 31) return b;
  const u64 mask = ((length > 31 ? u64(all_lanes) : (u64(1) << length) - 1) << position) & all_lanes;
  return u32((u64(a) << position & mask) | (b & ~mask));
}

// ---- floats
f32 flush(f32 v) { return std::fpclassify(v) == FP_SUBNORMAL ? std::copysign(0.0f, v) : v; }  // .ftz

// `nearest` moved to the next float towards zero or towards minus infinity where it has passed the exact sum
// nearest + rest, which a double cannot hold.
f32 toward_zero(double exact_high, double rest) {
  f32 v = f32(exact_high);
  const double difference = double(v) - exact_high;  // exact
  const bool beyond = exact_high > 0 ? difference > 0 || (difference == 0 && rest < 0) : difference < 0 || (difference == 0 && rest > 0);
  if (beyond && std::isfinite(exact_high)) v = std::nextafter(v, 0.0f);
  return v;
}
f32 downward(double exact_high, double rest) {
  f32 v = f32(exact_high);
  const double difference = double(v) - exact_high;
  if (std::isfinite(exact_high) && (difference > 0 || (difference == 0 && rest < 0)))
    v = std::nextafter(v, -std::numeric_limits<f32>::infinity());
  return v;
}
double rest_of_sum(double a, double b) {  // a + b minus its rounding (Knuth)
  const double s = a + b, t = s - a;
  return (a - (s - t)) + (b - t);
}
f32 larger(f32 a, f32 b) {  // a number before NaN, +0 before -0
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
  return a > b || (a == b && std::signbit(b)) ? a : b;
}
f32 add_toward_zero(f32 a, f32 b) { return toward_zero(double(a) + b, rest_of_sum(a, b)); }
f32 fma_downward(f32 a, f32 b, f32 c) {  // a b is exact in double
  const double p = double(a) * b;
  if (p + c == 0) return std::signbit(p) || std::signbit(c) ? -0.0f : 0.0f;  // IEEE 754, section 6.3
  return downward(p + c, rest_of_sum(p, c));
}

template <class T>
T to_integer(f32 rounded) {  // 9.7.9.22: NaN becomes 0, what is out of range the nearest in it
  if (std::isnan(rounded)) return 0;
  if (rounded <= f32(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  if (rounded >= f32(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  return T(rounded);
}

u32 to_bf16(f32 v) {  // nearest, ties to even
  const u32 bits = std::bit_cast<u32>(v);
  return v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
// .rna: nearest, ties away from zero; ten bits after the point. Of NaN the ISA says nothing; it becomes what ptxas makes of it.
u32 to_tf32(f32 v) {
  const u32 bits = std::bit_cast<u32>(v);
  return ((bits & 0x7f800000) == 0x7f800000 ? bits : bits + 0x1000) & ~u32(0x1fff);
}

// ---- what works on whole words of predicates, a bit a lane
template <auto F, std::size_t Sources>
Flow predicates(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();
  for (std::size_t k = 1; k <= Sources; ++k) w.need(o[k], lanes);
  u32& d = w.predicate(o[0]);
  u32 r;
  if constexpr (Sources == 1)
    r = F(w.predicate(o[1]));
  else
    r = F(w.predicate(o[1]), w.predicate(o[2]));
  d = (d & ~lanes) | (r & lanes);
  w.define(o[0], lanes);
  return Flow::next;
}

// ---- mov between a register and a vector of two halves (9.7.9.2)
Flow split_halves(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();  // low, high, source
  w.need(o[2], lanes);
  for (int l = 0; l < warp_size; ++l)
    if (lanes >> l & 1) {
      const u64 v = w.value(o[2], l);
      w.set(o[0], l, v), w.set(o[1], l, v >> 8 * o[0].bytes);
    }
  w.define(o[0], lanes), w.define(o[1], lanes);
  return Flow::next;
}
Flow join_halves(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();  // destination, low, high
  w.need(o[1], lanes), w.need(o[2], lanes);
  for (int l = 0; l < warp_size; ++l)
    if (lanes >> l & 1) w.set(o[0], l, w.value(o[1], l) | w.value(o[2], l) << 8 * o[1].bytes);
  w.define(o[0], lanes);
  return Flow::next;
}

// setp compares (9.7.6). Of floats: the plain ones are false for NaN, those with u are true.
template <class T>
void integer_comparisons(const std::string& type, bool ordered) {
  const auto name = [&](const char* op) { return "setp." + std::string(op) + "." + type; };
  form<[](T a, T b) { return a == b; }>(name("eq").c_str());
  form<[](T a, T b) { return a < b || b < a; }>(name("ne").c_str());
  if (!ordered) return;  // .b32
  form<[](T a, T b) { return a < b; }>(name("lt").c_str());
  form<[](T a, T b) { return a <= b; }>(name("le").c_str());
  form<[](T a, T b) { return b < a; }>(name("gt").c_str());
  form<[](T a, T b) { return b <= a; }>(name("ge").c_str());
}

template <class U>
void bits(const std::string& type) {
  const auto name = [&](const char* op) { return op + ("." + type); };
  form<[](U a, U b) { return U(a & b); }>(name("and").c_str());
  form<[](U a, U b) { return U(a | b); }>(name("or").c_str());
  form<[](U a, U b) { return U(a ^ b); }>(name("xor").c_str());
  form<[](U a) { return U(~a); }>(name("not").c_str());
  form<[](U a, u32 n) { return shift_left(a, n); }>(name("shl").c_str());
}

// Moves and selections pass on that nobody has written a value: where branches meet, compilers move what is used on one of them alone.
template <class U>
Flow move(Warp& w, const Instruction& i, u32 lanes) {
  const Operand *d = &i.operands[0], *a = &i.operands[1];
  const u32 known = w.defined(*a);
  U* to = w.lanes_of<U>(*d);
  const U* from = w.lanes_of<U>(*a);
  for (int l = 0; l < warp_size; ++l) to[l] = lanes >> l & 1 ? from[l] : to[l];
  w.undefine(*d, lanes), w.define(*d, lanes & known);
  return Flow::next;
}
template <class U>
Flow select(Warp& w, const Instruction& i, u32 lanes) {
  const Operand* o = i.operands.data();  // d, a, b, p
  w.need(o[3], lanes);
  const u32 p = w.predicate(o[3]), known = (p & w.defined(o[1])) | (~p & w.defined(o[2]));
  U* d = w.lanes_of<U>(o[0]);
  const U *a = w.lanes_of<U>(o[1]), *b = w.lanes_of<U>(o[2]);
  for (int l = 0; l < warp_size; ++l) {
    const U v = p >> l & 1 ? a[l] : b[l];
    d[l] = lanes >> l & 1 ? v : d[l];
  }
  w.undefine(o[0], lanes), w.define(o[0], lanes & known);
  return Flow::next;
}
template <class U>
void moves(const std::string& type) {
  add_form("mov." + type, {"=" + slot<U>() + " " + slot<U>(), move<U>});
}
template <class U>
void selects(const std::string& type) {
  add_form("selp." + type, {"=" + slot<U>() + " " + slot<U>() + " " + slot<U>() + " p", select<U>});
}

// Of both signs: arithmetic wraps, so it is done without a sign.
template <class T>
void integers(const std::string& type) {
  using U = std::make_unsigned_t<T>;
  const auto name = [&](const char* op) { return op + ("." + type); };
  form<[](U a, U b) { return U(a + b); }>(name("add").c_str());
  form<[](U a, U b) { return U(a - b); }>(name("sub").c_str());
  form<[](U a, U b) { return U(a * b); }>(name("mul.lo").c_str());
  form<[](U a, U b, U c) { return U(a * b + c); }>(name("mad.lo").c_str());
  form<[](T a, T b) { return a < b ? a : b; }>(name("min").c_str());
  form<[](T a, T b) { return b < a ? a : b; }>(name("max").c_str());
  form<[](T a, u32 n) { return shift_right(a, n); }>(name("shr").c_str());
  faulting_form<[](const Warp& w, int l, T a, T b) { return divide(w, l, a, b); }>(name("div").c_str());
  faulting_form<[](const Warp& w, int l, T a, T b) { return remainder(w, l, a, b); }>(name("rem").c_str());
}

}  // namespace

void add_arithmetic() {
  // ---- integers (9.7.1)
  integers<s32>("s32"), integers<u32>("u32"), integers<s64>("s64"), integers<u64>("u64");
  form<[](s32 a) { return s32(0 - u32(a)); }>("neg.s32");
  form<[](s64 a) { return s64(0 - u64(a)); }>("neg.s64");
  form<[](s32 a, s32 b) { return s64(a) * b; }>("mul.wide.s32");
  form<[](u32 a, u32 b) { return u64(a) * b; }>("mul.wide.u32");
  form<[](u16 a, u16 b) { return u32(a) * b; }>("mul.wide.u16");
  form<[](s32 a, s32 b) { return s32(s64(a) * b >> 32); }>("mul.hi.s32");
  form<[](u32 a, u32 b) { return u32(u64(a) * b >> 32); }>("mul.hi.u32");
  form<bit_field_insert>("bfi.b32");

  // ---- logic and shifts (9.7.8)
  bits<u32>("b32"), bits<u64>("b64");
  add_form("and.pred", {"=p p p", predicates<[](u32 a, u32 b) { return a & b; }, 2>});
  add_form("or.pred", {"=p p p", predicates<[](u32 a, u32 b) { return a | b; }, 2>});
  add_form("not.pred", {"=p p", predicates<[](u32 a) { return ~a; }, 1>});

  // ---- comparison and selection (9.7.6)
  integer_comparisons<s16>("s16", true), integer_comparisons<s32>("s32", true), integer_comparisons<s64>("s64", true);
  integer_comparisons<u16>("u16", true), integer_comparisons<u32>("u32", true), integer_comparisons<u64>("u64", true);
  integer_comparisons<u32>("b32", false), integer_comparisons<u64>("b64", false);
  integer_comparisons<f32>("f32", true);
  form<[](f32 a, f32 b) { return !(a < b || b < a); }>("setp.equ.f32");
  form<[](f32 a, f32 b) { return !(a == b); }>("setp.neu.f32");
  form<[](f32 a, f32 b) { return !(a >= b); }>("setp.ltu.f32");
  form<[](f32 a, f32 b) { return !(a > b); }>("setp.leu.f32");
  form<[](f32 a, f32 b) { return !(a <= b); }>("setp.gtu.f32");
  form<[](f32 a, f32 b) { return !(a < b); }>("setp.geu.f32");
  form<[](f32 a, f32 b) { return a != a || b != b; }>("setp.nan.f32");
  form<[](f32 a, f32 b) { return a == a && b == b; }>("setp.num.f32");
  selects<f32>("f32"), selects<u16>("b16"), selects<u16>("u16"), selects<u32>("b32"), selects<u32>("u32"), selects<s32>("s32"),
      selects<u64>("b64"), selects<u64>("u64");

  // ---- floats (9.7.3)
  form<[](f32 a, f32 b) { return a + b; }>("add.f32");
  form<[](f32 a, f32 b) { return a + b; }>("add.rn.f32");
  form<add_toward_zero>("add.rz.f32");
  form<[](f32 a, f32 b) { return a - b; }>("sub.f32");
  form<[](f32 a, f32 b) { return a * b; }>("mul.f32");
  form<[](f32 a, f32 b) { return a * b; }>("mul.rn.f32");
  form<[](f32 a, f32 b, f32 c) { return std::fma(a, b, c); }>("fma.rn.f32");
  form<fma_downward>("fma.rm.f32");
  form<[](f32 a, f32 b) { return a / b; }>("div.rn.f32");
  form<[](f32 a) { return 1 / a; }>("rcp.rn.f32");
  form<[](f32 a) { return flush(1 / flush(a)); }>("rcp.approx.ftz.f32");
  form<[](f32 a) { return std::sqrt(a); }>("sqrt.rn.f32");
  form<[](f32 a) { return f32(1 / std::sqrt(double(a))); }>("rsqrt.approx.f32");
  form<[](f32 a) { return f32(std::exp2(double(a))); }>("ex2.approx.f32");
  form<[](f32 a) { return flush(f32(std::exp2(double(flush(a))))); }>("ex2.approx.ftz.f32");
  form<[](f32 a) { return -a; }>("neg.f32");
  form<[](f32 a) { return std::fabs(a); }>("abs.f32");
  form<[](f32 a, f32 b) { return larger(a, b); }>("max.f32");
  form<[](f32 a, f32 b) { return -larger(-a, -b); }>("min.f32");
  form<[](f32 a, f32 b) { return std::copysign(b, a); }>("copysign.f32");  // a's sign, b's magnitude

  // ---- moves (9.7.9.2)
  moves<f32>("f32"), moves<u16>("u16"), moves<u32>("u32"), moves<u64>("u64"), moves<u16>("b16"), moves<u32>("b32"), moves<u64>("b64");
  add_form("mov.pred", {"=p p", predicates<[](u32 a) { return a; }, 1>});
  add_form("mov.b32 unpack", {"={2}16 32", split_halves});
  add_form("mov.b32 pack", {"=32 {2}16", join_halves});

  // ---- conversion (9.7.9.22)
  form<[](s32 a) { return f32(a); }>("cvt.rn.f32.s32");
  form<[](s64 a) { return f32(a); }>("cvt.rn.f32.s64");
  form<[](u32 a) { return f32(a); }>("cvt.rn.f32.u32");
  form<[](u16 a) { return f32(a); }>("cvt.rn.f32.u16");
  form<[](s16 a) { return f32(a); }>("cvt.rn.f32.s16");
  form<[](u16 a) { return s16(s8(a)); }>("cvt.s16.s8");
  conversion_form<[](u32 a) { return u16(a); }>("cvt.u16.u32");
  conversion_form<[](u16 a) { return u32(a); }>("cvt.u32.u16");
  conversion_form<[](u32 a) { return u64(a); }>("cvt.u64.u32");
  conversion_form<[](u64 a) { return u32(a); }>("cvt.u32.u64");
  conversion_form<[](s32 a) { return s64(a); }>("cvt.s64.s32");
  form<[](f32 a) { return std::nearbyint(a); }>("cvt.rni.f32.f32");
  form<[](f32 a) { return std::trunc(a); }>("cvt.rzi.f32.f32");
  form<[](f32 a) { return std::floor(a); }>("cvt.rmi.f32.f32");
  form<[](f32 a) { return std::ceil(a); }>("cvt.rpi.f32.f32");
  form<[](f32 a) { return to_integer<s32>(std::trunc(a)); }>("cvt.rzi.s32.f32");
  form<[](f32 a) { return 0 < a ? std::min(a, 1.0f) : 0.0f; }>("cvt.sat.f32.f32");  // NaN and -0 become +0
  form<[](f32 a) { return to_tf32(a); }>("cvt.rna.tf32.f32");
  form<[](f32 a) { return u16(to_bf16(a)); }>("cvt.rn.bf16.f32");
  form<[](u16 a) { return std::bit_cast<f32>(u32(a) << 16); }>("cvt.f32.bf16");
  form<[](f32 high, f32 low) { return to_bf16(high) << 16 | to_bf16(low); }>("cvt.rn.bf16x2.f32");
}

}  // namespace ptx
