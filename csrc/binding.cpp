// binding.cpp - the checks of binding.h.
#include "binding.h"

#include <cfloat>

namespace alexnet {
namespace {

[[noreturn]] void refuse(const char* owner, std::string_view name, const std::string& expected, const py::object& got) {
  throw py::value_error(std::string(owner) + ": " + std::string(name) + ": expected " + expected + ", got " + std::string(py::str(got)));
}

}  // namespace

long whole(const char* owner, std::string_view name, long value, long highest) {
  const long lowest = name.starts_with("pad_") ? 0 : 1;
  if (value >= lowest && value <= highest) return value;
  refuse(owner, name, "an integer from " + std::to_string(lowest) + " to " + std::to_string(highest), py::int_(value));
}

float finite(const char* owner, std::string_view name, double value) {
  if (value >= -FLT_MAX && value <= FLT_MAX) return float(value);
  refuse(owner, name, "a finite number", py::float_(value));
}

void check_dropout(const Call& call, std::uint64_t first, double p) {
  if (first >> 62) call.fail("first", "expected an element below 2^62, got " + std::to_string(first));
  if (!(p >= 0 && p < 1)) call.fail("p", "expected a number in [0, 1), got " + std::string(py::str(py::float_(p))));
}

void check_product(const std::string& name, std::initializer_list<long> factors) {
  long n = 1;
  for (long f : factors)
    if ((n *= f) > INT_MAX) throw py::value_error(name + " has more than 2^31 - 1 elements");
}

std::string_view text(Precision precision) {
  return precision == Precision::fp32 ? "fp32" : precision == Precision::tf32 ? "tf32" : "bf16";
}

Precision precision_of(const Call& call, std::string_view name, bool stored_bfloat16, bool fp32) {
  if (name == "bf16") return Precision::bf16;
  if (stored_bfloat16) call.fail("precision", "expected 'bf16' for arrays in bfloat16, got '" + std::string(name) + "'");
  if (name == "tf32") return Precision::tf32;
  if (name == "fp32" && fp32) return Precision::fp32;
  call.fail("precision", "expected " + std::string(fp32 ? "'fp32', " : "") + "'tf32' or 'bf16', got '" + std::string(name) + "'");
}

}  // namespace alexnet
