// tensor_gemm.cu - c_mn = alpha sum_k round(op(a)_mk) round(op(b)_kn) + beta c_mn + bias_n, optionally followed by
// max(0, .), on tensor cores: the product of tensor_core.cuh over stored matrices. A fully connected layer and its
// gradients are such products (y = x w^T + b, dx = dy w, dw = dy^T x).
//
// Whether a transposed matrix is read along k or across is the only difference between the four layouts. Before dx is
// written it is masked, where x came out of a ReLU, and dw comes with the sums of dy over the images, db.
#include "tensor_core.cuh"

namespace alexnet {
namespace {

Product product_of(const Gemm& g) { return {g.M, g.N, g.alpha == 0 ? 0 : g.K, 1, g.M, g.N}; }  // as in BLAS, alpha = 0 reads nothing

template <class T>
bool wide(const Matrix<T>& m) {
  return m.columns % kRun<T> == 0 && m.ld % kRun<T> == 0 && aligned(m.data);
}

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

}  // namespace alexnet
