// thread_pool.hpp - the threads that run blocks and tasks on the CPU: one pool for the process, created when first
// needed, rebuilt in a forked child.
#pragma once
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#pragma GCC visibility push(hidden)
namespace executor {

class ThreadPool {
 public:
  static ThreadPool& get() {
    static ThreadPool& pool = *[] {  // never destroyed: threads may still work while the process exits
      auto* p = new ThreadPool;
      pthread_atfork(nullptr, nullptr, [] { new (&get()) ThreadPool(get().limit_); });  // a child has none of the threads
      return p;
    }();
    return pool;
  }

  int threads() const { return limit_; }
  // Not while others compute: their workspaces were made for the lanes there were.
  void set_threads(int n) {
    if (n < 1) throw std::invalid_argument("set_threads: expected a positive number of threads, got " + std::to_string(n));
    limit_ = n;
  }
  // Whether this thread is running a task; all that it starts then runs here, one after the other.
  bool in_task() const { return in_task_; }
  int lanes() const { return in_task_ ? 1 : limit_.load(); }  // of a run() begun here

  // f(task, lane) for every task below count, on the calling thread (lane 0) and on workers that are free. Tasks that
  // run at the same time have different lanes. An exception ends the run; that of the first task that failed is thrown.
  template <class F>
  void run(long count, F&& f) {
    Job job;
    job.call = [](void* g, long task, int lane) { (*static_cast<std::remove_reference_t<F>*>(g))(task, lane); };
    job.f = &f;
    job.count = count;
    job.lanes = int(std::min<long>(count, lanes()));
    if (job.lanes > 1) offer(job);
    work(job, 0);
    if (job.lanes > 1) withdraw(job);
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  struct Job {
    void (*call)(void* f, long task, int lane);
    void* f;
    long count;
    int lanes = 1, taken = 1;  // the caller has lane 0
    int workers = 0;           // inside work() now
    std::atomic<long> next{0};
    std::exception_ptr error;  // of task `failed`
    long failed = 0;
  };

  explicit ThreadPool(int limit = default_threads()) : limit_(limit) {}

  [[gnu::cold]] static int default_threads() {
    if (const char* text = std::getenv("ALEXNET_THREADS")) {
      char* end;
      const long n = std::strtol(text, &end, 10);
      if (*end || n < 1 || n > 4096)
        throw std::runtime_error(std::string("ALEXNET_THREADS: expected a positive number, got '") + text + "'");
      return int(n);
    }
    cpu_set_t usable;
    long n = sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : std::max(1u, std::thread::hardware_concurrency());
    long quota, period;  // a container's share of the processors, in microseconds
    if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
      if (std::fscanf(file, "%ld %ld", &quota, &period) == 2) n = std::clamp((quota + period - 1) / period, 1l, n);
      std::fclose(file);
    }
    return int(n);
  }

  [[gnu::noinline]] void offer(Job& job) {
    std::lock_guard lock(mutex_);
    jobs_.push_back(&job);
    try {
      for (; workers_ < job.lanes - 1; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {  // fewer threads will do
    }
    wake_.notify_all();
  }

  [[gnu::noinline]] void withdraw(Job& job) {
    std::unique_lock lock(mutex_);
    std::erase(jobs_, &job);
    done_.wait(lock, [&] { return job.workers == 0; });
  }

  [[gnu::noinline]] void work(Job& job, int lane) {
    const bool outer = std::exchange(in_task_, true);
    long task = 0;
    try {
      while ((task = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count) job.call(job.f, task, lane);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!job.error || task < job.failed) job.error = std::current_exception(), job.failed = task;
      job.next = job.count;
    }
    in_task_ = outer;
  }

  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      const auto at = std::find_if(jobs_.begin(), jobs_.end(), [](Job* j) { return j->taken < j->lanes && j->next < j->count; });
      if (at == jobs_.end()) {
        wake_.wait(lock);
        continue;
      }
      Job& job = **at;
      const int lane = job.taken++;
      ++job.workers;
      lock.unlock();
      work(job, lane);
      lock.lock();
      if (--job.workers == 0) done_.notify_all();
    }
  }

  static inline thread_local constinit bool in_task_ = false;
  std::atomic<int> limit_;
  std::mutex mutex_;  // of all below
  std::condition_variable wake_, done_;
  std::vector<Job*> jobs_;
  int workers_ = 0;
};

}  // namespace executor
#pragma GCC visibility pop
