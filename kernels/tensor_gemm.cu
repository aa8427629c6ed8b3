// tensor_gemm.cu - c_mn = alpha sum_k round(op(a)_mk) round(op(b)_kn) + beta c_mn + bias_n, optionally followed by
// max(0, .), on tensor cores: the product of tensor_core.cuh over stored matrices. A fully connected layer and its
// gradients are such products (y = x w^T + b, dx = dy w, dw = dy^T x).
//
// Whether a transposed matrix is read along k or across is the only difference between the four layouts. Before dx is
// written it is masked, where x came out of a ReLU, and dw comes with the sums of dy over the images, db.
//
// tensor_gemm_sgd has no c: g = a^T b, the gradient of a weight, goes from the registers into the weight's update
// (sgd.cuh), which would else be another kernel that reads it back. tensor_gemm_dropout drops elements of a layer's output
// (dropout.cuh) before it is written. Both to those kernels' bits.
#include "dropout.cuh"
#include "sgd.cuh"
#include "tensor_core.cuh"

namespace alexnet {
namespace {

Product product_of(const Gemm& g) { return {g.M, g.N, g.alpha == 0 ? 0 : g.K, 1, g.M, g.N}; }  // as in BLAS, alpha = 0 reads nothing

template <class T>
bool wide(const Matrix<T>& m) {
  return m.columns % kRun<T> == 0 && m.ld % kRun<T> == 0 && aligned(m.data);
}

// A matrix without gaps, of which dropout leaves some elements.
template <class T>
struct Dropped : Result {
  Dropout dropout;
  RandomState state = {};

  template <class>
  __device__ __forceinline__ void begin() {
    state = *dropout.state;
  }
  __device__ __forceinline__ void put(Vector<float, 2> v, const Before&, long i, long column, int count, bool together) const {
    v[0] = T(finish(v[0], i, column));  // rounded as if it had been stored in between
    if (count == 2) v[1] = T(finish(v[1], i + 1, column + 1));
    dropout.apply(v, state, i);
    store_pair(static_cast<T*>(c) + i, v, count, together);
  }
};

// Weights, whose gradient the sums are.
template <bool Nesterov>
struct Update {
  float *w, *v;      // (rows, ld)
  bfloat16* stored;  // w as products take it; may be null
  const float* lr;
  float momentum, decay;
  long ld;
  bool even;  // pairs are aligned
  float rate = 0;
  static constexpr long group = 0;
  static constexpr float* db = nullptr;

  struct Before {
    Vector<float, 2> w, v;
  };

  template <class>
  __device__ __forceinline__ void begin() {
    rate = *lr;
  }
  __device__ __forceinline__ bool pairs(long) const { return even; }
  __device__ __forceinline__ Before before(long i, int count, bool together) const {
    return {load_pair(w + i, count, together), load_pair(v + i, count, together)};
  }
  __device__ __forceinline__ void put(const Vector<float, 2>& g, Before b, long i, long, int count, bool together) const {
    UNROLL
    for (int e = 0; e < 2; ++e) sgd_update<Nesterov>(b.w[e], b.v[e], g[e], rate, momentum, decay);
    store_pair(v + i, b.v, count, together);
    store_pair(w + i, b.w, count, together);
    if (stored) store_pair(stored + i, b.w, count, together);
  }
};

}  // namespace

std::size_t tensor_gemm_workspace(const Gemm& g) { return g.M == 0 || g.N == 0 ? 0 : workspace_bytes(product_of(g), true); }

template <class C, class T>
void tensor_gemm(C* c, float* db, const T* a, const T* b, const float* bias, const C* mask, const Gemm& g, bool relu, Precision precision,
                 void* workspace, Stream stream) {
  if (g.M == 0 || g.N == 0) return;
  const unsigned M = unsigned(g.M), N = unsigned(g.N), K = unsigned(g.K);
  const Matrix<T> ma{a, g.lda, 0, g.transpose_a ? K : M, g.transpose_a ? M : K},
      mb{b, g.ldb, 0, g.transpose_b ? N : K, g.transpose_b ? K : N};
  const Result result{c, g.ldc, 0, bias, g.alpha, g.beta, relu, std::is_same_v<C, bfloat16>, mask, db};
  const Product p = product_of(g);
  const bool both = wide(ma) && wide(mb);
  if (g.transpose_a && g.transpose_b) return product<false, true>(result, ma, mb, p, both, precision, workspace, stream);
  if (g.transpose_a) return product<false, false>(result, ma, mb, p, both, precision, workspace, stream);
  if (g.transpose_b) return product<true, true>(result, ma, mb, p, both, precision, workspace, stream);
  product<true, false>(result, ma, mb, p, both, precision, workspace, stream);
}
template void tensor_gemm(float*, float*, const float*, const float*, const float*, const float*, const Gemm&, bool, Precision, void*,
                          Stream);
template void tensor_gemm(float*, float*, const bfloat16*, const bfloat16*, const float*, const float*, const Gemm&, bool, Precision, void*,
                          Stream);
template void tensor_gemm(bfloat16*, float*, const bfloat16*, const bfloat16*, const float*, const bfloat16*, const Gemm&, bool, Precision,
                          void*, Stream);

template <class T>
void tensor_gemm_dropout(T* y, const T* x, const T* w, const float* bias, const std::uint64_t* state, int M, int N, int K, long first,
                         float p, float scale, std::uint32_t purpose, Precision precision, void* workspace, Stream stream) {
  const Matrix<T> mx{x, K, 0, unsigned(M), unsigned(K)}, mw{w, K, 0, unsigned(N), unsigned(K)};
  const Dropped<T> dropped{{y, N, 0, bias, 1, 0, true, std::is_same_v<T, bfloat16>}, dropout_of(state, first, p, scale, purpose)};
  product<true, true>(dropped, mx, mw, {M, N, K, 1, M, N}, wide(mx) && wide(mw), precision, workspace, stream);
}
FOR_EACH_STORAGE(tensor_gemm_dropout);

template <class T>
void tensor_gemm_sgd(float* w, float* v, bfloat16* stored, const T* a, const T* b, const float* lr, int M, int N, int K, float momentum,
                     float decay, bool nesterov, Precision precision, void* workspace, Stream stream) {
  const Matrix<T> ma{a, M, 0, unsigned(K), unsigned(M)}, mb{b, N, 0, unsigned(K), unsigned(N)};
  const bool even = N % 2 == 0 && aligned(w) && aligned(v) && aligned(stored);
  const auto with = [&](auto update) {
    product<false, false>(update, ma, mb, {M, N, K, 1, M, N}, wide(ma) && wide(mb), precision, workspace, stream);
  };
  if (nesterov)
    with(Update<true>{w, v, stored, lr, momentum, decay, N, even});
  else
    with(Update<false>{w, v, stored, lr, momentum, decay, N, even});
}
FOR_EACH_STORAGE(tensor_gemm_sgd);

}  // namespace alexnet
