// program.h - a kernel as nvcc wrote it in PTX, decoded: registers laid out, names and labels resolved.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using f32 = float;

constexpr int warp_size = 32;
constexpr u32 all_lanes = ~0u;
constexpr u32 shared_base = 1024;  // the first address of a block's shared memory, so that 0 is none

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Warp;
struct Instruction;

// A register, or a constant laid out like one: a value for each lane, of predicates a bit.
struct Operand {
  u32 offset = 0;         // of lane 0's value, in bytes
  u32 id = 0;             // the register's number; 0 is always initialised
  u8 bytes = 0;           // of a lane's value; 0: a predicate
  bool constant = false;  // lies with the program, not with the warp
  s32 add = 0;            // what an address adds to it, or an immediate
};

enum class Flow : u8 { next, jump, wait };  // wait: the same instruction again, later

using Handler = Flow (*)(Warp&, const Instruction&, u32 lanes);

struct Instruction {
  Handler run = nullptr;
  std::vector<Operand> operands;  // in the order of the text, vectors one by one
  Operand guard;
  bool guarded = false, negated = false;
  bool meets = false;  // lanes that went different ways may meet here
  bool collective = false;
  bool writes_accumulator = false;  // of a wgmma, as an ordinary instruction
  int target = -1;                  // of a branch
  int line = 0;
  std::string_view text;
};

struct Parameter {
  u32 offset, bytes;
};

struct SharedVariable {
  u32 address, bytes;
};

// In the order in which Warp::restart knows them.
constexpr std::array<std::string_view, 13> special_registers = {"%laneid",   "%tid.x",    "%tid.y",   "%tid.z",   "%ntid.x",
                                                                "%ntid.y",   "%ntid.z",   "%ctaid.x", "%ctaid.y", "%ctaid.z",
                                                                "%nctaid.x", "%nctaid.y", "%nctaid.z"};
struct Special {
  std::size_t which;
  Operand where;
};

struct Program {
  std::string name;
  std::vector<Parameter> parameters;
  std::vector<Instruction> code;
  std::set<std::string> used_forms;
  std::vector<u64> constants;  // storage of the values, 8-byte aligned
  std::vector<Special> specials;
  std::vector<SharedVariable> shared;
  u32 register_bytes = 0, registers = 1;
  u32 parameter_bytes = 0;
  u32 dynamic_shared = shared_base;  // where the launch's dynamic shared memory begins
  u32 local_bytes = 0;               // of a thread
  u32 max_threads = 1024;
  int target = 0;                      // 80, 90, ...
  bool architecture_specific = false;  // 90a
};

// The kernels of a PTX text, by name, decoded when they are asked for. The text must outlive the module.
class Module {
 public:
  explicit Module(std::string_view text);
  const std::map<std::string, std::size_t, std::less<>>& entries() const { return entries_; }
  Program decode(std::string_view name) const;  // Fault for what it does not know, with its line

 private:
  std::string_view text_;
  std::map<std::string, std::size_t, std::less<>> entries_;  // where `.entry` stands
};

// What an opcode means: how its operands look, and the function that executes it.
//
// A signature is a list of operands, as they stand in the text:
//   32       a register or a value of 32 bits (8, 16, 64 likewise), p: a predicate
//   ~16      of 16 bits, which may lie in a wider register (section 9.4.1)
//   =32      a register that is written
//   {4}32    four of them in braces
//   [64]     an address: a register of 64 bits or a symbol, plus a constant
//   #        an integer that stands in the text
//   label    where a branch goes
//   =32|p    with a predicate behind a bar, which may be left out
//   32?      may be left out
//   map2     a tensor map's address with two coordinates: [64, {32, 32}]
struct Form {
  std::string signature;
  Handler run = nullptr;
  bool collective = false;  // lanes wait for each other, so they meet before it
};

const std::map<std::string, Form, std::less<>>& forms();  // by opcode, such as "add.s32"
void add_form(const std::string& opcode, Form form);

}  // namespace ptx
