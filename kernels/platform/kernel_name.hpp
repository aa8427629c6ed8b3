// kernel_name.hpp - how messages name a kernel.
#pragma once
#include <string>

namespace gpu {

// Of a signature(), "... [with auto Kernel = alexnet::{anonymous}::relu<4>; ...]", or without the semicolon: "relu<4>".
inline std::string kernel_name(const std::string& signature) {
  const auto first = signature.find("Kernel = ") + 9, end = signature.find_first_of(";]", first);
  const auto arguments = signature.find_first_of("<;]", first), scope = signature.rfind("::", arguments);
  const auto begin = scope == signature.npos || scope < first ? first : scope + 2;
  return signature.substr(begin, end - begin);
}

}  // namespace gpu
