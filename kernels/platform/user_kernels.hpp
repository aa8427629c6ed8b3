// user_kernels.hpp - what a user's kernel file is compiled with into a library of its own: kernels.h, the executor on a CPU, and
// calls that give errors back as text.
#pragma once
#include <cstdio>
#include <exception>

#include "../kernels.h"
#include "gpu.cuh"
#ifdef __CUDACC__
#include "device.h"
#else
#include "executor.cpp"
#endif

#define USER_KERNEL __attribute__((visibility("default")))

namespace gpu {

// 0, or 1 and what f threw. On a GPU that one is the current one meanwhile.
template <class F>
int guarded(std::size_t error_bytes, [[maybe_unused]] int device, char* error, F f) noexcept {
  try {
#ifdef __CUDACC__
    const alexnet::DeviceGuard guard("the GPU", device);
#endif
    f();
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, error_bytes, "%s", e.what());
    return 1;
  }
}

}  // namespace gpu

#ifndef __CUDACC__
extern "C" USER_KERNEL void user_set_threads(int n) { gpu::set_threads(n); }
#endif
