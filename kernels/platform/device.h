// device.h - the GPU that a launcher's arrays lie on: which it is, making it the current one, and having its stream wait for
// the streams that the arrays are made on. Needs nothing of Python.
#pragma once
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace alexnet {

// `function` names the launcher that was called.
inline void check(const char* function, cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(function) + ": " + cudaGetErrorString(error));
}

// The GPU whose memory it is; below 0: none.
inline int device_of(const char* function, const void* data) {
  cudaPointerAttributes attributes;
  check(function, cudaPointerGetAttributes(&attributes, data));
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged ? attributes.device : -1;
}

struct DeviceGuard {
  int previous = 0, device;
  DeviceGuard(const char* function, int device) : device(device) {
    check(function, cudaGetDevice(&previous));
    check(function, cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(previous); }
  DeviceGuard(const DeviceGuard&) = delete;
};

// Makes `stream`, of the GPU that `here` made current, wait for what `producer` holds now: a stream of the GPU that was
// current before, as CuPy tells that one's, wherever the array lies.
inline void wait_for(const char* function, cudaStream_t stream, cudaStream_t producer, const DeviceGuard& here) {
  const bool same = producer == stream || (!stream && producer == cudaStreamLegacy);
  if (!producer || (same && here.previous == here.device)) return;  // of default streams each GPU has its own
  cudaEvent_t event;
  cudaError_t error;
  {
    const DeviceGuard there(function, here.previous);  // only events of a stream's own GPU are recorded on it
    check(function, cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    error = cudaEventRecord(event, producer);
  }
  if (error == cudaSuccess) error = cudaStreamWaitEvent(stream, event, 0);
  cudaEventDestroy(event);
  check(function, error);
}

}  // namespace alexnet
