// thread_pool.cpp - what the pool promises, checked with several threads; exits with the number of broken promises.
#include <sys/wait.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <set>
#include <thread>
#include <vector>

#include "platform/executor.cpp"
#include "platform/gpu.cuh"

namespace {

int broken = 0;
void expect(bool holds, const char* promise) {
  if (!holds) std::printf("broken: %s\n", promise), ++broken;
}

void tasks() {
  std::vector<int> runs(1000, 0);
  std::array<std::atomic<int>, 64> busy{};
  std::atomic<bool> shared{false}, out_of_range{false}, nested{true};
  gpu::for_each_task(1000, [&](long task, int lane) {
    if (lane < 0 || lane >= gpu::threads()) out_of_range = true;
    if (busy[lane]++) shared = true;
    ++runs[task];
    const auto thread = std::this_thread::get_id();
    if (gpu::lanes() != 1) nested = false;
    gpu::for_each_task(3, [&](long, int inner) {
      if (inner != 0 || std::this_thread::get_id() != thread) nested = false;
    });
    --busy[lane];
  });
  expect(runs == std::vector<int>(1000, 1), "every task runs once");
  expect(!out_of_range, "a lane is below lanes()");
  expect(!shared, "tasks that run at the same time have different lanes");
  expect(nested, "inside a task there is one lane, and all runs in its thread");
  expect(gpu::lanes() == gpu::threads(), "outside a task there are as many lanes as threads");
  gpu::for_each_task(0, [](long, int) { expect(false, "no tasks, no calls"); });
}

void exceptions() {
  for (int round = 0; round < 50; ++round) {
    std::string text;
    try {
      gpu::for_each_task(100, [](long task, int) {
        if (task >= 20) throw std::runtime_error(std::to_string(task));
      });
    } catch (const std::runtime_error& e) { text = e.what(); }
    expect(text == "20", "the exception of the first task that failed reaches the caller");
  }
  expect(gpu::lanes() == gpu::threads(), "an exception leaves its task");
}

void callers() {  // several threads submit at once
  std::atomic<long> sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int round = 0; round < 100; ++round) gpu::for_each_task(50, [&](long task, int) { sum += task; });
    });
  for (auto& thread : threads) thread.join();
  expect(sum == 4 * 100 * 49 * 50 / 2, "threads may submit at once");
}

__global__ void reverse(float* y, const float* x) {
  GPU_SHARED(float, a, [64]);
  a[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = a[63 - threadIdx.x];
}
void launches() {  // on the fibers of several threads at once
  std::vector<float> x(64 * 256), y(x.size()), z(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i);
  gpu::launch<reverse>({dim3(256), dim3(64)}, y.data(), x.data());
  gpu::for_each_task(256, [&](long task, int) { gpu::launch<reverse>({dim3(1), dim3(64)}, &z[task * 64], &y[task * 64]); });
  expect(x == z, "launches run in the pool and in tasks");
}

void forked() {
#if !GPU_TSAN  // which stops at the first thread of a forked child
  const pid_t child = fork();
  if (child == 0) {
    broken = 0;
    tasks();
    launches();
    _exit(broken);
  }
  int status = 0;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child has a pool of its own");
#endif
}

}  // namespace

int main() {
  for (int threads : {1, 2, 5}) {
    gpu::set_threads(threads);
    expect(gpu::threads() == threads, "set_threads sets threads");
    tasks();
    exceptions();
    callers();
    launches();
    forked();
  }
  bool refused = false;
  try {
    gpu::set_threads(0);
  } catch (const std::invalid_argument&) { refused = true; }
  expect(refused, "set_threads(0) is refused");
  return broken;
}
