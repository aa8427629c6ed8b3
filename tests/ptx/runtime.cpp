// runtime.cpp - the CUDA runtime that nvcc's host code calls, as far as the launchers need it. The PTX comes from the object itself: the
// fat binary that it registers (built for one virtual architecture, with --no-compress).
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "copies.h"
#include "forms.h"

namespace ptx {

namespace {

// A fat binary (no specification is published; this is what CUDA 13's tools write): a header, then for each architecture a header of its
// own and the code. Kind 1 is PTX.
struct FatBinary {
  u32 magic;  // 0xba55ed50
  u16 version, header_bytes;
  u64 bytes;
};
struct FatEntry {
  u16 kind, version;
  u32 header_bytes;
  u64 bytes;
  u32 compressed_bytes;
};
struct FatWrapper {  // what __cudaRegisterFatBinary gets
  u32 magic, version;
  const FatBinary* binary;
};

std::string_view ptx_of(const FatBinary* fat) {
  const char* const begin = reinterpret_cast<const char*>(fat) + fat->header_bytes;
  for (const char* at = begin; at < begin + fat->bytes;) {
    FatEntry e;
    std::memcpy(&e, at, sizeof e);
    if (e.kind == 1) {
      if (e.compressed_bytes) throw Fault("the PTX in the object is compressed: build it with nvcc --no-compress");
      const std::string_view text(at + e.header_bytes, e.bytes);
      return text.substr(0, text.find('\0'));
    }
    at += e.header_bytes + e.bytes;
  }
  throw Fault("the object holds no PTX: build it for a virtual architecture");
}

struct Kernel {
  const Module* module;
  std::string name;
  std::unique_ptr<Program> program;
  int dynamic_limit = 48 << 10;  // bytes, until cudaFuncSetAttribute raises it
};

struct State {
  std::vector<std::unique_ptr<Module>> modules;
  std::map<const void*, Kernel> kernels;  // by the host's function
  std::set<std::string> launched;
  u32 launches = 0;
  GlobalMemory global;
  std::string problem;  // what the last fault said
  cudaError_t error = cudaSuccess;
  std::recursive_mutex mutex;
};

State& state() {
  static State s;
  return s;
}

void add_forms() {
  static const bool once = [] {
    add_arithmetic(), add_memory(), add_control(), add_copies(), add_tensor_cores();
    return true;
  }();
  (void)once;
}

u32 number_from(const char* name, u32 otherwise) {
  const char* text = std::getenv(name);
  return text ? u32(std::strtoul(text, nullptr, 10)) : otherwise;
}

// Every launch in another order, and every other one with what is asynchronous as early as may be, unless the environment says.
Options options(u32 launch) {
  Options o;
  o.schedule = number_from("ALEXNET_SCHEDULE", launch % 4 < 2 ? launch % 2 : launch);
  o.early = number_from("ALEXNET_PTX_EARLY", launch / 2 % 2);
  o.races = number_from("ALEXNET_PTX_RACES", 1);
  const std::string sums = std::getenv("ALEXNET_PTX_SUMS") ? std::getenv("ALEXNET_PTX_SUMS") : "exact";
  o.sums = sums == "ampere" ? Sums::ampere : sums == "hopper" ? Sums::hopper : Sums::exact;
  return o;
}

constexpr u32 most_shared = 227 << 10;  // bytes of a block on compute capability 9.0

void launch(const Program& program, int dynamic_limit, Dim grid, Dim block, std::size_t dynamic_bytes, void** arguments) {
  if (!grid.count() || !block.count() || grid.y > 65535 || grid.z > 65535 || block.z > 64)
    throw Fault(program.name + ": a grid or block of a size that no GPU takes");
  if (block.count() > program.max_threads)
    throw Fault(program.name + ": " + std::to_string(block.count()) + " threads in a block, of which it was compiled for " +
                std::to_string(program.max_threads));
  if (dynamic_bytes > std::size_t(dynamic_limit))
    throw Fault(program.name + ": " + std::to_string(dynamic_bytes) +
                " bytes of dynamic shared memory, without the attribute that allows them");
  if (program.dynamic_shared - shared_base + dynamic_bytes > most_shared)
    throw Fault(program.name + ": more shared memory than a block can have");
  alignas(128) char parameters[4096];
  std::memset(parameters, 0xee, sizeof parameters);
  for (std::size_t p = 0; p < program.parameters.size(); ++p)
    std::memcpy(parameters + program.parameters[p].offset, arguments[p], program.parameters[p].bytes);
  Launch l{program, grid, block, u32(dynamic_bytes), parameters, state().global, options(state().launches++)};
  state().launched.insert(program.name);
  try {
    run(l);
  } catch (const Fault& fault) {
    throw Fault(fault.what() + (" (ALEXNET_SCHEDULE=" + std::to_string(l.options.schedule)) +
                ", ALEXNET_PTX_EARLY=" + std::to_string(l.options.early) + ")");
  }
}

// Runs f, whose faults become the runtime's errors.
template <class F>
cudaError_t guarded(F f) {
  const std::scoped_lock lock(state().mutex);
  try {
    f();
    return cudaSuccess;
  } catch (const std::exception& e) {
    state().problem = e.what();
    return state().error = cudaErrorLaunchFailure;
  }
}

const Program& program_of(const void* function) {
  Kernel& k = state().kernels.at(function);
  if (!k.program) k.program = std::make_unique<Program>(k.module->decode(k.name));
  return *k.program;
}

cudaError_t launch_function(const void* function, dim3 grid, dim3 block, std::size_t dynamic_bytes, void** arguments) {
  return guarded([&] {
    launch(program_of(function), state().kernels.at(function).dynamic_limit, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
           dynamic_bytes, arguments);
  });
}

// ---- cuTensorMapEncode...: the driver's rules (CUDA driver API, section 6.32), as far as the copies know them
bool encode(TensorMap& m, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* size, const cuuint64_t* strides,
            const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapFloatOOBfill fill) {
  m = {};
  m.magic = TensorMap::expected_magic, m.rank = u8(rank), m.base = u64(base);
  m.element = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2 : 4;
  m.swizzle = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : 0;
  bool right = (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32) &&
               interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && (m.swizzle || swizzle == CU_TENSOR_MAP_SWIZZLE_NONE) &&
               fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE && m.base % 16 == 0 && rank >= 1 && rank <= 4;
  for (u32 r = 0; right && r < rank; ++r) {
    m.size[r] = size[r], m.step[r] = u8(steps[r]);
    right = size[r] > 0 && size[r] <= u64(1) << 32 && steps[r] >= 1 && steps[r] <= 8;
    if (r) m.stride[r] = strides[r - 1], right &= strides[r - 1] % 16 == 0 && strides[r - 1] < u64(1) << 40;
  }
  return right;
}

CUresult finish(CUtensorMap* out, TensorMap& m, bool right) {
  right = right && m.box[0] * m.element % 16 == 0 && (!m.swizzle || m.box[0] * m.element <= 128);
  if (!right) return CUDA_ERROR_INVALID_VALUE;
  std::memset(out, 0, sizeof *out);
  std::memcpy(out, &m, sizeof m);
  return CUDA_SUCCESS;
}

CUresult encode_tiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* size,
                      const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  TensorMap m;
  bool right = encode(m, type, rank, base, size, strides, steps, interleave, swizzle, fill);
  for (u32 r = 0; right && r < rank; ++r) right = box[r] >= 1 && box[r] <= 256 && steps[r] == 1, m.box[r] = u16(box[r]);
  return finish(out, m, right);
}

CUresult encode_im2col(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* size,
                       const cuuint64_t* strides, const int* lower, const int* upper, cuuint32_t channels, cuuint32_t pixels,
                       const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                       CUtensorMapFloatOOBfill fill) {
  TensorMap m;
  bool right =
      encode(m, type, rank, base, size, strides, steps, interleave, swizzle, fill) && rank == 4 && channels <= 256 && pixels <= 1024;
  m.im2col = true;
  for (int i = 0; right && i < 2; ++i) {
    right = lower[i] >= -128 && lower[i] <= 127 && upper[i] >= -128 && upper[i] <= 127 && s64(size[1 + i]) + upper[i] > lower[i];
    m.lower[i] = s16(lower[i]), m.upper[i] = s16(upper[i]);
  }
  m.box[0] = u16(channels), m.box[1] = u16(pixels);
  return finish(out, m, right);
}

}  // namespace

}  // namespace ptx

using ptx::state;

#define API extern "C" __attribute__((visibility("default")))

// ---- registration, by nvcc's static constructors
API void** __cudaRegisterFatBinary(void* wrapper) {
  ptx::add_forms();
  const auto* fat = static_cast<const ptx::FatWrapper*>(wrapper);
  try {
    state().modules.push_back(std::make_unique<ptx::Module>(ptx::ptx_of(fat->binary)));
  } catch (const ptx::Fault& fault) {
    std::fprintf(stderr, "PTX executor: %s\n", fault.what());
    std::abort();
  }
  return reinterpret_cast<void**>(state().modules.back().get());
}
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterFunction(void** module, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  state().kernels[function] = {reinterpret_cast<const ptx::Module*>(module), name, nullptr};
}
API void __cudaRegisterVar(void**, char*, char*, const char* name, int, std::size_t, int, int) {
  std::fprintf(stderr, "PTX executor: the variable %s in device memory is not known\n", name);
  std::abort();
}

// ---- launches
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
static thread_local struct {
  dim3 grid, block;
  std::size_t bytes;
  cudaStream_t stream;
} pushed;
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t bytes, cudaStream_t stream) {
  pushed = {grid, block, bytes, stream};
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* bytes, void* stream) {
  *grid = pushed.grid, *block = pushed.block, *bytes = pushed.bytes, *static_cast<cudaStream_t*>(stream) = pushed.stream;
  return cudaSuccess;
}
API cudaError_t cudaLaunchKernel(const void* f, dim3 grid, dim3 block, void** arguments, std::size_t bytes, cudaStream_t) {
  return ptx::launch_function(f, grid, block, bytes, arguments);
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void** arguments, std::size_t bytes, cudaStream_t) {
  return ptx::launch_function(f, grid, block, bytes, arguments);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void** arguments) {
  return ptx::launch_function(f, c->gridDim, c->blockDim, c->dynamicSmemBytes, arguments);
}
API cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > int(ptx::most_shared)) return cudaErrorInvalidValue;
  state().kernels.at(f).dynamic_limit = value;
  return cudaSuccess;
}

API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* f) {
  *attributes = {};
  return ptx::guarded([&] { attributes->sharedSizeBytes = ptx::program_of(f).dynamic_shared - ptx::shared_base; });
}

// ---- the rest of what the launchers call
API cudaError_t cudaGetLastError() {
  const cudaError_t error = state().error;
  state().error = cudaSuccess;
  return error;
}
API const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? state().problem.c_str() : "an error of the CUDA runtime";
}
API cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor         ? 9
           : attribute == cudaDevAttrMultiProcessorCount          ? int(ptx::number_from("ALEXNET_PTX_MULTIPROCESSORS", 3))
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? int(ptx::most_shared)
                                                                  : 0;
  return cudaSuccess;
}
API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                 cudaDriverEntryPointQueryResult* found) {
  const std::string_view n = name;
  *function = n == "cuTensorMapEncodeTiled"    ? reinterpret_cast<void*>(ptx::encode_tiled)
              : n == "cuTensorMapEncodeIm2col" ? reinterpret_cast<void*>(ptx::encode_im2col)
                                               : nullptr;
  *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return *function ? cudaSuccess : cudaErrorSymbolNotFound;
}
API cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

// ---- for the bindings, which know the executor of C++: here each kernel runs in the thread that launches it
namespace gpu {
int threads() { return 1; }
void set_threads(int) {}
}  // namespace gpu

// ---- for tests, through ctypes
namespace {

std::string answer;  // of the last call below that gives text

const char* give(std::string text) { return (answer = std::move(text)).c_str(); }

template <class Names>
std::string lines(const Names& names) {
  std::string text;
  for (const std::string& name : names) text += name + "\n";
  return text;
}

}  // namespace

// The arrays of the next calls; none: any address will do.
API void ptx_set_arrays(int count, const ptx::u64* addresses, const ptx::u64* bytes, const ptx::u32* grains, const ptx::u8* writable) {
  std::vector<ptx::GlobalMemory::Array> arrays;
  for (int a = 0; a < count; ++a)
    if (bytes[a]) arrays.push_back({addresses[a], bytes[a], grains[a], writable[a] != 0, {}});
  state().global.set(std::move(arrays));
}
API const char* ptx_launched() { return give(lines(state().launched)); }
API const char* ptx_kernels() {
  std::set<std::string> names;
  for (const auto& [function, kernel] : state().kernels) names.insert(kernel.name);
  return give(lines(names));
}
API const char* ptx_known_forms() {
  ptx::add_forms();
  std::set<std::string> names;
  for (const auto& [name, form] : ptx::forms()) names.insert(name);
  return give(lines(names));
}
// The opcodes in all kernels of this process.
API const char* ptx_used_forms() {
  std::set<std::string> names;
  try {
    for (const auto& [function, kernel] : state().kernels)
      for (const std::string& form : kernel.module->decode(kernel.name).used_forms) names.insert(form);
  } catch (const ptx::Fault& fault) { return give(std::string("error: ") + fault.what()); }
  return give(lines(names));
}
// Runs one kernel of a PTX text: nothing, or what was wrong.
API const char* ptx_run(const char* text, const char* name, const ptx::u32* grid, const ptx::u32* block, ptx::u64 dynamic_bytes,
                        void** arguments) {
  ptx::add_forms();
  const cudaError_t error = ptx::guarded([&] {
    const ptx::Module module(text);
    const ptx::Program program = module.decode(name);
    ptx::launch(program, int(ptx::most_shared), {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, dynamic_bytes, arguments);
  });
  return give(error ? state().problem : "");
}
