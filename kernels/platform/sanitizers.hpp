// sanitizers.hpp - which sanitizers this build has, and whether the executor looks for mistakes.
#pragma once

#ifdef __SANITIZE_ADDRESS__
#define GPU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define GPU_ASAN 0
#endif
#ifdef __SANITIZE_THREAD__
#define GPU_TSAN 1
#include <sanitizer/tsan_interface.h>
#else
#define GPU_TSAN 0
#endif
#define GPU_UNTRACED __attribute__((no_sanitize("thread")))  // the executor's own accesses are none of TSan's business

// A checked build looks for mistakes at the price of speed: shared memory begins each block as NaN, threads run in the
// order that ALEXNET_SCHEDULE asks for.
#ifndef GPU_CHECKED
#define GPU_CHECKED (GPU_ASAN || GPU_TSAN)
#endif
