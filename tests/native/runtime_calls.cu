// runtime_calls.cu - what the host's side asks of the CUDA runtime, which is a stand-in here: two GPUs, which note what they
// are asked and refuse what CUDA refuses. `runtime_calls CASE` prints the calls, or exits with 1 and the text of an exception.
//
//   nvcc -std=c++20 -arch=sm_80 -cudart none -I kernels -I csrc tests/native/runtime_calls.cu -o runtime_calls
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>

#include "platform/device.h"
#include "platform/gpu.cuh"

// ---- the stand-in

struct CUstream_st {
  const char* name;
  int device;
};
struct CUevent_st {
  int device;
  std::string holds;
};

namespace {

constexpr int kShared = 48 << 10, kMostShared = 160 << 10, kStatic = 1024;  // bytes of a block, a kernel's own among them
thread_local int current = 0;
std::map<std::pair<const void*, int>, int> allowed;  // dynamic shared memory by kernel and GPU
std::function<void()> before_the_launch;             // once
bool record_fails = false;

CUstream_st streams[2] = {{"stream 0", 0}, {"stream 1", 1}};

}  // namespace

#ifndef __CUDA_ARCH__  // for the device there are other functions of these names
namespace {
int device_of(cudaStream_t s) { return s && s != cudaStreamLegacy ? s->device : current; }
std::string name_of(cudaStream_t s) {
  return s && s != cudaStreamLegacy ? s->name : "the default stream of GPU " + std::to_string(current);
}
}  // namespace

extern "C" {
cudaError_t cudaGetDevice(int* device) { return *device = current, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return current = device, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidResourceHandle ? "invalid resource handle" : error == cudaErrorInvalidValue ? "invalid argument" : "?";
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMaxSharedMemoryPerBlockOptin) return cudaErrorInvalidValue;
  return *value = kMostShared, cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes*, const void*) { return cudaErrorInvalidValue; }

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  return *attributes = {}, attributes->sharedSizeBytes = kStatic, cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value + kStatic > kMostShared) return cudaErrorInvalidValue;
  return allowed[{kernel, current}] = value, cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  if (const auto other = std::exchange(before_the_launch, nullptr)) std::thread(other).join();
  const auto found = allowed.find({kernel, current});
  const std::size_t most = found == allowed.end() ? kShared - kStatic : found->second;
  if (config->dynamicSmemBytes > most) return cudaErrorInvalidValue;
  std::printf("launch with %zu bytes on GPU %d\n", config->dynamicSmemBytes, current);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = new CUevent_st{current, ""}, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (record_fails || event->device != device_of(stream)) return cudaErrorInvalidResourceHandle;
  return event->holds = name_of(stream), cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  std::printf("%s waits for %s\n", name_of(stream).c_str(), event->holds.c_str());
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }

// What nvcc's own part of a program calls.
cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, std::size_t, cudaStream_t) { return cudaErrorInvalidValue; }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, std::size_t, cudaStream_t) { return cudaErrorInvalidValue; }
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { return cudaErrorInvalidValue; }
void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*, int*) {}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, std::size_t*, void*) { return cudaErrorInvalidValue; }
}
#endif

// ---- the cases

namespace {

__global__ void kernel(float* y) { y[0] = 1; }
void launch(int bytes) { gpu::launch<kernel>({dim3(1), dim3(32), std::size_t(bytes)}, static_cast<float*>(nullptr)); }

// Of a launcher whose array lies on GPU `on`, called with GPU 0 current.
void wait(int on, cudaStream_t stream, cudaStream_t producer) {
  try {
    const alexnet::DeviceGuard here("relu_forward", on);
    alexnet::wait_for("relu_forward", stream, producer, here);
    std::printf("on GPU %d, ", current);
  } catch (const std::exception&) {
    std::printf("afterwards on GPU %d\n", current);
    throw;
  }
  std::printf("afterwards on GPU %d\n", current);
}

const std::map<std::string, std::function<void()>> cases = {
    {"little_shared_memory", [] { launch(kShared - kStatic); }},
    {"all_shared_memory", [] { launch(kMostShared - kStatic); }},
    {"too_much_shared_memory", [] { launch(kMostShared); }},
    {"two_threads",
     [] {
       before_the_launch = [] { launch(kShared + 1); };
       launch(2 * kShared);
     }},
    {"two_gpus", [] { launch(2 * kShared), current = 1, launch(2 * kShared); }},
    {"same_stream", [] { wait(0, &streams[0], &streams[0]), wait(0, nullptr, cudaStreamLegacy), wait(0, &streams[0], nullptr); }},
    {"other_stream", [] { wait(0, &streams[0], cudaStreamLegacy); }},
    {"stream_of_another_gpu", [] { wait(1, &streams[1], &streams[0]); }},
    {"default_stream_of_another_gpu", [] { wait(1, nullptr, cudaStreamLegacy); }},
    {"failing_event", [] { record_fails = true, wait(1, &streams[1], &streams[0]); }},
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 || !cases.contains(argv[1])) return std::fprintf(stderr, "usage: runtime_calls CASE\n"), 2;
  cases.at(argv[1])();
} catch (const std::exception& e) {
  std::printf("%s\n", e.what());
  return 1;
}
