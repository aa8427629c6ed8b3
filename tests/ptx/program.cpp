// program.cpp - from PTX text to instructions (PTX ISA, sections 4 to 6: syntax, state spaces, operands).
#include "program.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <optional>

namespace ptx {

namespace {

struct Source {  // where the decoder is
  std::string_view text;
  std::size_t at = 0;
  int line = 1;
};

std::string_view trim(std::string_view s) {
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.front()))) s.remove_prefix(1);
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.back()))) s.remove_suffix(1);
  return s;
}

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%'; }

// Parts between `separator`, but not inside brackets or braces.
std::vector<std::string_view> split(std::string_view s, char separator = ',') {
  std::vector<std::string_view> parts;
  int depth = 0;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= s.size(); ++i) {
    if (i == s.size() || (s[i] == separator && depth == 0)) {
      if (const auto part = trim(s.substr(begin, i - begin)); !part.empty() || i < s.size()) parts.push_back(part);
      begin = i + 1;
    } else if (std::strchr("[{(", s[i])) {
      ++depth;
    } else if (std::strchr("]})", s[i])) {
      --depth;
    }
  }
  return parts;
}

std::vector<std::string_view> words(std::string_view s) {
  std::vector<std::string_view> found;
  for (std::size_t i = 0; i < s.size();) {
    while (i < s.size() && std::isspace(static_cast<unsigned char>(s[i]))) ++i;
    const std::size_t begin = i;
    while (i < s.size() && !std::isspace(static_cast<unsigned char>(s[i]))) ++i;
    if (i > begin) found.push_back(s.substr(begin, i - begin));
  }
  return found;
}

// Integers are 64 bits wide with or without a sign, floats are bit patterns: 0fXXXXXXXX, 0dXXXXXXXXXXXXXXXX (section 4.5).
std::optional<u64> number(std::string_view s) {
  bool negative = false;
  if (!s.empty() && s[0] == '-') negative = true, s.remove_prefix(1);
  if (s.empty() || !std::isdigit(static_cast<unsigned char>(s[0]))) return {};
  if (s.back() == 'U') s.remove_suffix(1);
  int base = 10;
  if (s.size() > 2 && s[0] == '0' && std::strchr("xXfFdD", s[1]))
    base = 16, s.remove_prefix(2);
  else if (s.size() > 2 && s[0] == '0' && std::strchr("bB", s[1]))
    base = 2, s.remove_prefix(2);
  else if (s[0] == '0')
    base = 8;
  u64 value = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value, base);
  if (error != std::errc() || end != s.data() + s.size()) return {};
  return negative ? 0 - value : value;
}

u32 type_bytes(std::string_view type) {  // of .u32, .f32, ...; predicates have none
  if (type == ".pred") return 0;
  const std::size_t digits = type.find_first_of("0123456789");
  const auto bits = digits == type.npos ? std::nullopt : number(type.substr(digits));
  if (!bits || (*bits != 8 && *bits != 16 && *bits != 32 && *bits != 64)) throw Fault("unknown type " + std::string(type));
  return u32(*bits / 8);
}

// How many registers of D a wgmma.mma_async has; 0 for other instructions.
std::size_t accumulators(std::string_view text) {
  const auto shape = text.find("wgmma.mma_async.sync.aligned.m64n");
  return shape == text.npos ? 0 : std::size_t(std::strtol(text.data() + shape + 33, nullptr, 10)) / 2;
}

class Decoder {
 public:
  Decoder(std::string_view text, std::size_t begin) : source_{text, begin} {
    source_.line = 1 + int(std::count(text.begin(), text.begin() + long(begin), '\n'));
    scopes_.emplace_back();
  }

  Program run() {
    try {
      header();
      body();
      statement("ret");  // who arrives at the end has ended
      finish();
    } catch (const Fault& fault) {
      throw Fault(program_.name + ": PTX line " + std::to_string(line_) + ": " + fault.what());
    } catch (const std::exception&) {  // a number or a word that is not there
      throw Fault(program_.name + ": PTX line " + std::to_string(line_) + ": cannot read " + std::string(statement_));
    }
    return std::move(program_);
  }

 private:
  struct Symbol {
    enum { parameter, shared, local } space;
    u32 address;
  };
  struct Scope {
    std::map<std::string, Operand, std::less<>> registers;
    std::map<std::string, Symbol, std::less<>> symbols;
    std::map<std::string, int, std::less<>> labels;
  };
  struct Fix {  // a branch whose label comes later; the scopes in which it looks
    std::size_t instruction;
    std::string label;
    std::vector<int> scopes;
    int line;
  };

  // ---- text

  void skip_space() {
    auto& [text, at, line] = source_;
    while (at < text.size()) {
      if (text[at] == '\n') {
        ++line, ++at;
      } else if (std::isspace(static_cast<unsigned char>(text[at]))) {
        ++at;
      } else if (text.compare(at, 2, "//") == 0) {
        at = std::min(text.find('\n', at), text.size());
      } else {
        break;
      }
    }
    line_ = line;
  }

  std::string_view until(char end) {  // without it; the source is behind it afterwards
    auto& [text, at, line] = source_;
    const std::size_t stop = text.find(end, at);
    if (stop == text.npos) throw Fault(std::string("expected ") + end + ", got the end of the text");
    const std::string_view found = text.substr(at, stop - at);
    line += int(std::count(found.begin(), found.end(), '\n'));
    at = stop + 1;
    return trim(found);
  }

  // ---- .entry NAME (parameters) directives {

  void header() {
    until(' ');  // .entry
    program_.name = until('(');
    skip_space();
    for (const std::string_view declaration : split(until(')'))) {
      statement_ = declaration;
      const auto w = words(declaration);  // .param [.align N] .TYPE [.ptr ...] NAME or NAME[BYTES]
      std::size_t i = 1;
      u32 align = 0;
      if (w.at(i) == ".align") align = u32(number(w.at(i + 1)).value()), i += 2;
      u32 bytes = type_bytes(w.at(i));
      if (!align) align = bytes;
      std::string_view name = w.back();
      if (const auto bracket = name.find('['); bracket != name.npos) {
        bytes *= u32(number(name.substr(bracket + 1, name.size() - bracket - 2)).value());
        name = name.substr(0, bracket);
      }
      const u32 offset = (program_.parameter_bytes + align - 1) / align * align;
      program_.parameters.push_back({offset, bytes});
      program_.parameter_bytes = offset + bytes;
      scopes_[0].symbols[std::string(name)] = {Symbol::parameter, offset};
    }
    for (;;) {
      skip_space();
      if (source_.text[source_.at] == '{') break;
      const std::string_view directive = statement_ = until('\n');
      if (directive.starts_with(".maxntid") || directive.starts_with(".reqntid")) {
        program_.max_threads = 1;
        for (const auto n : split(directive.substr(8))) program_.max_threads *= u32(number(n).value());
      } else if (!directive.starts_with(".minnctapersm") && !directive.starts_with(".maxnreg")) {
        throw Fault("unknown directive " + std::string(directive));
      }
    }
    externs();
  }

  // .extern .shared arrays are the dynamic shared memory; they stand before the entries.
  void externs() {
    const std::string_view text = source_.text;
    for (std::size_t at = 0; (at = text.find(".extern .shared", at)) != text.npos; ++at) {
      const auto w = words(text.substr(at, text.find(';', at) - at));  // .extern .shared .align N .b8 NAME[]
      const std::string_view name = w.at(5).substr(0, w.at(5).find('['));
      externs_[std::string(name)] = u32(number(w.at(3)).value());
    }
  }

  // ---- { statements }

  void body() {
    std::vector<int> open;
    int scopes = 0;
    do {
      skip_space();
      const char c = source_.text[source_.at];
      if (c == '{') {
        ++source_.at;
        if (!open.empty()) scopes_.emplace_back();
        open.push_back(open.empty() ? 0 : int(scopes_.size()) - 1);
        path_ = open, scopes = int(open.size());
      } else if (c == '}') {
        ++source_.at;
        open.pop_back(), path_ = open, scopes = int(open.size());
      } else if (const auto label = label_here()) {
        scopes_[path_.back()].labels[*label] = int(program_.code.size());
      } else {
        statement(until(';'));
      }
    } while (scopes);
  }

  std::optional<std::string> label_here() {
    std::size_t end = source_.at;
    while (is_name(source_.text[end])) ++end;
    if (end == source_.at || source_.text[end] != ':' || source_.text[end + 1] == ':') return {};
    std::string name(source_.text.substr(source_.at, end - source_.at));
    source_.at = end + 1;
    return name;
  }

  void statement(std::string_view s) {
    if (s.empty()) return;
    statement_ = s;
    if (s.starts_with(".reg")) return declare_registers(s);
    if (s.starts_with(".shared") || s.starts_with(".local")) return declare_memory(s);
    if (s.starts_with(".pragma") || s.starts_with(".loc")) return;
    if (s[0] == '.') throw Fault("unknown directive " + std::string(s));
    instruction(s);
  }

  Operand new_register(u32 bytes) {
    Operand r;
    r.bytes = u8(bytes);
    const u32 size = bytes ? bytes * warp_size : 4;
    program_.register_bytes = (program_.register_bytes + size - 1) / size * size;  // aligned to its own size
    r.offset = program_.register_bytes, r.id = program_.registers++;
    program_.register_bytes += size;
    return r;
  }

  void declare_registers(std::string_view s) {  // .reg .TYPE NAME, NAME<COUNT>
    const auto w = words(s);
    const u32 bytes = type_bytes(w.at(1));
    for (const std::string_view name : split(s.substr(s.find(w[1]) + w[1].size()))) {
      const auto bracket = name.find('<');
      if (bracket == name.npos) {
        scopes_[path_.back()].registers[std::string(name)] = new_register(bytes);
        continue;
      }
      const u64 count = number(name.substr(bracket + 1, name.size() - bracket - 2)).value();
      for (u64 i = 0; i < count; ++i)
        scopes_[path_.back()].registers[std::string(name.substr(0, bracket)) + std::to_string(i)] = new_register(bytes);
    }
  }

  void declare_memory(std::string_view s) {  // .shared .align N .b8 NAME[BYTES]
    const auto w = words(s);
    const u32 align = u32(number(w.at(2)).value());
    const std::string_view name = w.at(4);
    const auto bracket = name.find('[');
    const u32 bytes = u32(number(name.substr(bracket + 1, name.size() - bracket - 2)).value());
    Symbol symbol{};
    if (s.starts_with(".shared")) {  // with a gap before it, where nothing may be read or written
      constexpr u32 gap = 128;
      symbol = {Symbol::shared, (program_.dynamic_shared + gap + align - 1) / align * align};
      program_.dynamic_shared = symbol.address + bytes;
      program_.shared.push_back({symbol.address, bytes});
    } else {
      symbol = {Symbol::local, (program_.local_bytes + align - 1) / align * align};
      program_.local_bytes = symbol.address + bytes;
    }
    scopes_[path_.back()].symbols[std::string(name.substr(0, bracket))] = symbol;
  }

  // ---- instructions

  void instruction(std::string_view s) {
    Instruction i;
    i.line = line_, i.text = s;
    if (s[0] == '@') {
      const auto space = s.find_first_of(" \t");
      std::string_view guard = s.substr(1, space - 1);
      if (guard[0] == '!') i.negated = true, guard.remove_prefix(1);
      i.guarded = true, i.guard = find_register(guard, 0);
      s = trim(s.substr(space));
    }
    const auto space = s.find_first_of(" \t\n");
    std::string opcode(s.substr(0, space));
    const auto texts = space == s.npos ? std::vector<std::string_view>{} : split(s.substr(space));
    if (opcode.starts_with("mov.") && texts.size() == 2) opcode += texts[0][0] == '{' ? " unpack" : texts[1][0] == '{' ? " pack" : "";
    const auto form = forms().find(opcode);
    if (form == forms().end()) throw Fault("unknown instruction " + std::string(s));
    program_.used_forms.insert(opcode);
    i.run = form->second.run;
    i.collective = form->second.collective;
    const auto slots = words(form->second.signature);
    std::size_t n = 0;
    for (std::string_view slot : slots) {
      const bool optional = slot.back() == '?';
      if (optional) slot.remove_suffix(1);
      if (n == texts.size()) {
        if (optional) continue;
        throw Fault("expected operands " + form->second.signature + ", got " + std::string(s));
      }
      operand(i, slot, texts[n++]);
    }
    if (n != texts.size()) throw Fault("expected operands " + form->second.signature + ", got " + std::string(s));
    program_.code.push_back(std::move(i));
  }

  void operand(Instruction& i, std::string_view slot, std::string_view text) {
    const bool written = slot[0] == '=';
    if (written) slot.remove_prefix(1);
    if (slot == "label") {
      fixes_.push_back({program_.code.size(), std::string(text), path_, line_});
    } else if (slot == "#") {
      const auto value = number(text);
      if (!value) throw Fault("expected a number, got " + std::string(text));
      Operand o;
      o.add = s32(*value);
      i.operands.push_back(o);
    } else if (slot[0] == '[') {
      i.operands.push_back(address(text, slot == "[64]" ? 8 : 4));
    } else if (slot.starts_with("map")) {
      const auto count = *number(slot.substr(3));
      const auto parts = split(text.substr(1, text.size() - 2));
      const auto coordinates = parts.size() == 2 ? split(parts[1].substr(1, parts[1].size() - 2)) : parts;
      if (parts.size() != 2 || coordinates.size() != count)
        throw Fault("expected a tensor map and " + std::to_string(count) + " coordinates, got " + std::string(text));
      i.operands.push_back(value(parts[0], 8));
      for (const auto c : coordinates) i.operands.push_back(value(c, 4));
    } else if (slot.ends_with("|p")) {
      const auto bar = text.find('|');
      i.operands.push_back(destination(text.substr(0, bar), 4));
      i.operands.push_back(bar == text.npos ? nowhere(0) : destination(text.substr(bar + 1), 0));
    } else if (slot[0] == '{') {
      const auto close = slot.find('}');
      const auto parts = split(text.substr(1, text.size() - 2));
      if (parts.size() != number(slot.substr(1, close - 1))) throw Fault("expected operands " + std::string(slot));
      for (const auto part : parts) i.operands.push_back(one(slot.substr(close + 1), part, written));
    } else {
      i.operands.push_back(one(slot, text, written));
    }
  }

  Operand one(std::string_view slot, std::string_view text, bool written) {
    const bool wider = slot[0] == '~';
    if (wider) slot.remove_prefix(1);
    const u32 bytes = slot == "p" ? 0 : u32(number(slot).value() / 8);
    return written ? destination(text, bytes, wider) : value(text, bytes, wider);
  }

  Operand destination(std::string_view name, u32 bytes, bool wider = false) {
    return name == "_" ? nowhere(bytes) : find_register(name, bytes, wider);
  }

  Operand nowhere(u32 bytes) {
    const std::string name = "_" + std::to_string(bytes);
    auto& registers = scopes_[0].registers;
    if (!registers.contains(name)) registers[name] = new_register(bytes);
    return registers[name];
  }

  Operand find_register(std::string_view name, u32 bytes, bool wider = false) {
    for (auto scope = path_.rbegin(); scope != path_.rend(); ++scope)
      if (const auto found = scopes_[*scope].registers.find(name); found != scopes_[*scope].registers.end()) {
        const Operand r = found->second;
        check_width(r, name, bytes, wider);
        return r;
      }
    throw Fault("unknown register " + std::string(name));
  }

  void check_width(const Operand& r, std::string_view name, u32 bytes, bool wider) const {
    if (r.bytes != bytes && !(wider && r.bytes > bytes))
      throw Fault("expected a " + (bytes ? "register of " + std::to_string(8 * bytes) + " bits" : "predicate") + ", got " +
                  std::string(name) + " in " + std::string(statement_));
  }

  Operand value(std::string_view text, u32 bytes, bool wider = false) {
    if (const auto n = number(text)) return constant(*n, bytes);
    if (const auto s = std::find(special_registers.begin(), special_registers.end(), text); s != special_registers.end()) {
      const Operand r = special(std::size_t(s - special_registers.begin()));
      check_width(r, text, bytes, wider);
      return r;
    }
    if (const Symbol* s = find_symbol(text)) return constant(s->address, bytes);
    if (externs_.contains(text)) return constant(dynamic_shared(text), bytes);
    return find_register(text, bytes, wider);
  }

  u32 dynamic_shared(std::string_view name) {
    const u32 align = externs_.find(name)->second;
    return program_.dynamic_shared = (program_.dynamic_shared + align - 1) / align * align;
  }

  const Symbol* find_symbol(std::string_view name) const {
    for (auto scope = path_.rbegin(); scope != path_.rend(); ++scope)
      if (const auto found = scopes_[*scope].symbols.find(name); found != scopes_[*scope].symbols.end()) return &found->second;
    return nullptr;
  }

  Operand special(std::size_t which) {
    for (const Special& s : program_.specials)
      if (s.which == which) return s.where;
    Operand r = new_register(4);
    r.id = 0;
    program_.specials.push_back({which, r});
    return r;
  }

  Operand constant(u64 value, u32 bytes) {
    Operand o;
    o.bytes = u8(bytes), o.constant = true;
    const auto [found, fresh] = constants_.try_emplace({value, bytes}, u32(program_.constants.size() * 8));
    o.offset = found->second;
    if (!fresh) return o;
    const u32 size = bytes ? bytes * warp_size : 4;
    program_.constants.resize(program_.constants.size() + (size + 7) / 8);
    char* to = reinterpret_cast<char*>(program_.constants.data()) + o.offset;
    if (!bytes) value = value ? all_lanes : 0;
    for (u32 lane = 0; lane < (bytes ? warp_size : 1); ++lane) std::memcpy(to + lane * bytes, &value, bytes ? bytes : 4);
    return o;
  }

  Operand address(std::string_view text, u32 bytes) {  // [BASE], [BASE+N], [BASE+-N]
    if (text.size() < 2 || text.front() != '[') throw Fault("expected an address, got " + std::string(text));
    text = trim(text.substr(1, text.size() - 2));
    const auto plus = text.find('+');
    Operand o = value(trim(text.substr(0, plus)), bytes);
    if (plus != text.npos) {
      const auto n = number(trim(text.substr(plus + 1)));
      if (!n) throw Fault("expected a number, got " + std::string(text.substr(plus + 1)));
      o.add = s32(*n);
    }
    return o;
  }

  // ---- labels, and where lanes meet

  void finish() {
    auto& code = program_.code;
    for (const Fix& fix : fixes_) {
      line_ = fix.line;
      for (auto scope = fix.scopes.rbegin(); scope != fix.scopes.rend() && code[fix.instruction].target < 0; ++scope)
        if (const auto found = scopes_[*scope].labels.find(fix.label); found != scopes_[*scope].labels.end())
          code[fix.instruction].target = found->second;
      if (code[fix.instruction].target < 0) throw Fault("unknown label " + fix.label);
      if (std::size_t(code[fix.instruction].target) < code.size()) code[code[fix.instruction].target].meets = true;
      if (fix.instruction + 1 < code.size()) code[fix.instruction + 1].meets = true;
    }
    std::vector<bool> accumulator(program_.registers);
    for (const Instruction& i : code)
      for (std::size_t k = 0; k < accumulators(i.text); ++k) accumulator[i.operands[k].id] = true;
    for (Instruction& i : code) {
      i.meets |= i.collective;
      if (!accumulators(i.text) && !i.operands.empty()) i.writes_accumulator = accumulator[i.operands[0].id];
    }
    const std::string_view text = source_.text;
    const auto target = text.find(".target sm_");
    program_.target = target == text.npos ? 0 : int(std::strtol(text.data() + target + 11, nullptr, 10));
    program_.architecture_specific = target != text.npos && text[text.find_first_not_of("0123456789", target + 11)] == 'a';
    program_.register_bytes = (program_.register_bytes + 255) / 256 * 256;
  }

  Source source_;
  Program program_;
  std::vector<Scope> scopes_;
  std::vector<int> path_{0};  // of scopes, the innermost last
  std::map<std::string, u32, std::less<>> externs_;
  std::map<std::pair<u64, u32>, u32> constants_;
  std::vector<Fix> fixes_;
  int line_ = 1;
  std::string_view statement_;
};

std::map<std::string, Form, std::less<>>& table() {
  static std::map<std::string, Form, std::less<>> forms;
  return forms;
}

}  // namespace

const std::map<std::string, Form, std::less<>>& forms() { return table(); }

void add_form(const std::string& opcode, Form form) {
  if (!table().emplace(opcode, std::move(form)).second) throw Fault("two meanings of " + opcode);
}

Module::Module(std::string_view text) : text_(text) {
  for (std::size_t at = 0; (at = text.find(".entry ", at)) != text.npos; at += 7)
    entries_[std::string(text.substr(at + 7, text.find('(', at) - at - 7))] = at;
}

Program Module::decode(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw Fault("there is no kernel " + std::string(name) + " in this PTX");
  return Decoder(text_, found->second).run();
}

}  // namespace ptx
