// activation.cu - relu y = max(x, 0), tanh, and sigmoid y = 1 / (1 + e^-x), element by element. Each derivative is a
// function of the output: dx = dy where y > 0, dy (1 - y^2), dy y (1 - y).
#include <cmath>

#include "vector.cuh"

namespace alexnet {
namespace {

struct Relu {  // written so that NaN stays NaN
  static __device__ __forceinline__ float forward(float x) { return x < 0 ? 0 : x; }
  static __device__ __forceinline__ float backward(float dy, float y) { return y <= 0 ? 0 : dy; }
};

struct Tanh {
  static __device__ __forceinline__ float forward(float x) { return tanhf(x); }
  static __device__ __forceinline__ float backward(float dy, float y) { return dy * (1 - y * y); }
};

struct Sigmoid {
  static __device__ __forceinline__ float forward(float x) {
    const float e = expf(-fabsf(x));  // at most 1: keeps its digits at both ends
    return (x < 0 ? e : 1) / (1 + e);
  }
  static __device__ __forceinline__ float backward(float dy, float y) { return dy * y * (1 - y); }
};

// A thread owns V neighbouring elements, the next thread the next V.
template <class F, int V, class T>
__global__ void activation_forward(T* y, const T* x, long items) {
  VECTORIZE
  for (long i : gpu::grid_range(items)) {
    auto v = load<V>(x + i * V);
    UNROLL
    for (int e = 0; e < V; ++e) v[e] = F::forward(v[e]);
    store(y + i * V, v);
  }
}

template <class F, int V, class T>
__global__ void activation_backward(T* dx, const T* dy, const T* y, long items) {
  VECTORIZE
  for (long i : gpu::grid_range(items)) {
    auto d = load<V>(dy + i * V);
    const auto v = load<V>(y + i * V);
    UNROLL
    for (int e = 0; e < V; ++e) d[e] = F::backward(d[e], v[e]);
    store(dx + i * V, d);
  }
}

template <class F, class T>
void forward(T* y, const T* x, long n, Stream stream) {
  with_width(n, [=](auto v) { gpu::launch_independent<activation_forward<F, v(), T>>(flat(n / v, stream), y, x, n / v); }, y, x);
}

template <class F, class T>
void backward(T* dx, const T* dy, const T* y, long n, Stream stream) {
  with_width(n, [=](auto v) { gpu::launch_independent<activation_backward<F, v(), T>>(flat(n / v, stream), dx, dy, y, n / v); }, dx, dy, y);
}

}  // namespace

template <class T>
void relu_forward(T* y, const T* x, long n, Stream stream) {
  forward<Relu>(y, x, n, stream);
}
FOR_EACH_STORAGE(relu_forward);
template <class T>
void relu_backward(T* dx, const T* dy, const T* y, long n, Stream stream) {
  backward<Relu>(dx, dy, y, n, stream);
}
FOR_EACH_STORAGE(relu_backward);
template <class T>
void tanh_forward(T* y, const T* x, long n, Stream stream) {
  forward<Tanh>(y, x, n, stream);
}
FOR_EACH_STORAGE(tanh_forward);
template <class T>
void tanh_backward(T* dx, const T* dy, const T* y, long n, Stream stream) {
  backward<Tanh>(dx, dy, y, n, stream);
}
FOR_EACH_STORAGE(tanh_backward);
template <class T>
void sigmoid_forward(T* y, const T* x, long n, Stream stream) {
  forward<Sigmoid>(y, x, n, stream);
}
FOR_EACH_STORAGE(sigmoid_forward);
template <class T>
void sigmoid_backward(T* dx, const T* dy, const T* y, long n, Stream stream) {
  backward<Sigmoid>(dx, dy, y, n, stream);
}
FOR_EACH_STORAGE(sigmoid_backward);

}  // namespace alexnet
