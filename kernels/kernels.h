// kernels.h - every launcher and shape struct: the contract between kernels/*.cu and csrc/.
//
// Launchers take outputs, then inputs, then sizes, then a stream. They overwrite their outputs (gemm alone has a
// beta), allocate nothing, and throw std::runtime_error when a launch fails. Arrays are row-major and contiguous; images
// are (N, H, W, C), filters (K, KH, KW, C / groups). Pixels outside an image read as zero (pooling ignores them), so
// padding at the bottom and right follows from OH and OW and is not stored.
//
// Numbers are float32. Where a launcher has a type T, arrays of T may also be stored in bfloat16: float or bfloat16, and
// nothing else, is compiled. Kernels compute in float32 and round to the nearest number, ties to even, what they write.
#pragma once
#include <cstddef>
#include <cstdint>

struct CUstream_st;
struct __nv_bfloat16;

namespace alexnet {

using Stream = CUstream_st*;  // cudaStream_t; ignored on a CPU
using bfloat16 = __nv_bfloat16;

// ---- gemm.cu: C[M, N] = alpha op(A) op(B) + beta C, row-major with leading dimensions
struct Gemm {
  int M, N, K;
  bool transpose_a, transpose_b;  // A is stored (K, M), B is stored (N, K)
  long lda, ldb, ldc;             // elements from one stored row to the next
  float alpha, beta;              // beta == 0 never reads C
};
std::size_t gemm_workspace(const Gemm& g);                                                           // bytes, without which k is not split
void gemm(float* c, const float* a, const float* b, const Gemm& g, void* workspace, Stream stream);  // workspace may be null
// sgd (below) of w (M, N) with g = a^T b, a (K, M), b (K, N); on a CPU, where g is never written whole.
std::size_t gemm_sgd_workspace(int M, int N);  // bytes
void gemm_sgd(float* w, float* v, const float* a, const float* b, const float* lr, int M, int N, int K, float momentum, float decay,
              bool nesterov, void* workspace, Stream stream);

// What is multiplied: float32 numbers as they are (not by tensor cores), or rounded to tf32 (10 bits after the point, the
// nearest, ties away from zero) or bf16 (7 bits, the nearest, ties to even). Arrays in bfloat16 are multiplied as they are,
// whatever the precision. Products and sums are float32.
enum class Precision { fp32, tf32, bf16 };

// ---- tensor_gemm.cu: gemm on tensor cores, then + bias[n] (may be null), then max(0, .) if relu, then 0 where mask (may be
// null) is not above 0; db[m] = sum_k op(A)[m, k] (may be null) where A alone is transposed and alpha not 0
std::size_t tensor_gemm_workspace(const Gemm& g);  // bytes
template <class C, class T>
void tensor_gemm(C* c, float* db, const T* a, const T* b, const float* bias, const C* mask, const Gemm& g, bool relu, Precision precision,
                 void* workspace, Stream stream);  // C is T or float
// dropout (below) of y (M, N) = max(0, x w^T + bias[n]), x (M, K), w (N, K); bias may be null
template <class T>
void tensor_gemm_dropout(T* y, const T* x, const T* w, const float* bias, const std::uint64_t* state, int M, int N, int K, long first,
                         float p, float scale, std::uint32_t purpose, Precision precision, void* workspace, Stream stream);
// sgd (below) of w (M, N) with g = a^T b, a (K, M), b (K, N); stored, a copy of w in bfloat16, may be null. Workspaces are those
// of tensor_gemm.
template <class T>
void tensor_gemm_sgd(float* w, float* v, bfloat16* stored, const T* a, const T* b, const float* lr, int M, int N, int K, float momentum,
                     float decay, bool nesterov, Precision precision, void* workspace, Stream stream);

// ---- skinny_gemm.cu: y (M, N) = scale[n] (may be null) (x (M, K) w (N, K)^T) + bias[n] (may be null), then max(0, .) if relu, for few
// rows of x; W is T, or, on a GPU and shorter than T = float, bfloat16 or std::int8_t, and then nothing is rounded
bool skinny_gemm_takes(int M, int N, int K);
std::size_t skinny_gemm_workspace(int M, int N, int K);  // bytes
template <class T, class W>
void skinny_gemm(T* y, const T* x, const W* w, const float* scale, const float* bias, int M, int N, int K, bool relu, Precision precision,
                 void* workspace, Stream stream);

// ---- short_gemm.cu: y (M, N) = scale[n] (x (M, K) w (N, K)^T) + bias[n] (may be null), then max(0, .) if relu; W is bfloat16 and
// scale null, or std::int8_t
std::size_t short_gemm_workspace(int M, int N, int K);  // bytes
template <class W>
void short_gemm(float* y, const float* x, const W* w, const float* scale, const float* bias, int M, int N, int K, bool relu,
                void* workspace, Stream stream);

// ---- bias.cu: over a matrix (rows, C), C the channels
template <class T>
void bias_forward(T* y, const T* x, const float* b, long rows, int C, bool relu, Stream stream);  // y may be x
std::size_t bias_backward_workspace(long rows, int C);                                            // bytes
template <class T>
void bias_backward(float* db, const T* dy, long rows, int C, void* workspace, Stream stream);
template <class T>  // dx = scale dy where y > 0, else 0, and db from dx; the workspace is that of bias_backward
void bias_relu_backward(T* dx, float* db, const T* dy, const T* y, long rows, int C, float scale, void* workspace, Stream stream);

// ---- convolutions: y = conv(x, w) + b, then max(0, .) if relu, and the gradients of x and w. Five files compute them, in ways
// of their own, by launchers with the same parameters; what a way has no use for among the options it ignores.
//
// dx is 0 where mask is not above 0 (a NaN is above): where x came out of a ReLU, with x as mask, dx is the gradient before
// it. The weight gradient comes with that of the bias, db. b, mask and db may be null.
struct Conv2d {
  int N, H, W, C;         // x
  int K, KH, KW, groups;  // w (K, KH, KW, C / groups)
  int stride_h, stride_w, pad_top, pad_left;
  int OH, OW;  // y (N, OH, OW, K)
};
struct Conv2dOptions {
  Precision precision;  // fp32 of conv2d and winograd_conv2d, tf32 or bf16 of the others
  bool relu;            // of the forward pass
  bool hopper;          // of space_to_depth_conv2d: the product is that of hopper_conv2d
};
template <class Launch>
struct Conv2dPass {
  bool (*takes)(const Conv2d& s, const Conv2dOptions& o);
  std::size_t (*workspace)(const Conv2d& s, const Conv2dOptions& o);  // bytes
  Launch* launch;
};
template <class T>
struct Conv2dWay {
  Conv2dPass<void(T* y, const T* x, const T* w, const float* b, const Conv2d& s, const Conv2dOptions& o, void* workspace, Stream stream)>
      forward;
  Conv2dPass<void(T* dx, const T* dy, const T* w, const T* mask, const Conv2d& s, const Conv2dOptions& o, void* workspace, Stream stream)>
      backward_input;
  Conv2dPass<void(float* dw, float* db, const T* dy, const T* x, const Conv2d& s, const Conv2dOptions& o, void* workspace, Stream stream)>
      backward_weight;
};

// ---- conv2d.cu: by im2col and gemm
Conv2dWay<float> conv2d();

// ---- winograd_conv2d.cu: with fewer products, for square filters of 3 or 5 pixels at stride 1
Conv2dWay<float> winograd_conv2d();

// ---- implicit_conv2d.cu: on tensor cores, by products whose operands are read out of the images
template <class T>
Conv2dWay<T> implicit_conv2d();

// ---- hopper_conv2d.cu: with what compute capability 9.0 alone has; not every shape, dw in bf16 alone. Operands in bfloat16 (x,
// dy, and w in the forward pass) are aligned to 16 bytes: std::invalid_argument.
template <class T>
Conv2dWay<T> hopper_conv2d();

// ---- space_to_depth_conv2d.cu: as implicit_conv2d or hopper_conv2d, after blocks of as many pixels as the stride have become
// one: for few channels
template <class T>
Conv2dWay<T> space_to_depth_conv2d();
template <class T>
Conv2d space_to_depth_conv2d_blocks(const Conv2d& s);  // the convolution of blocks
template <class T>
bool space_to_depth_conv2d_pays(const Conv2d& s);  // it copies less than implicit_conv2d.cu

// ---- local2d.cu: convolution with filters of its own for each pixel of y: w (OH, OW, K, KH, KW, C / groups), b (OH, OW, K)
std::size_t local2d_workspace(const Conv2d& s);  // bytes, of each pass
void local2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2d& s, bool relu, void* workspace,
                     Stream stream);  // b may be null
void local2d_backward_input(float* dx, const float* dy, const float* w, const Conv2d& s, void* workspace, Stream stream);
void local2d_backward_weight(float* dw, const float* dy, const float* x, const Conv2d& s, void* workspace, Stream stream);

// ---- pool2d.cu
struct Pool2d {
  int N, H, W, C;  // x
  int KH, KW, stride_h, stride_w, pad_top, pad_left;
  int OH, OW;  // y (N, OH, OW, C)
};
// which[i] = kh * KW + kw of the first maximum in the window; KH * KW <= 256
template <class T>
void max_pool2d_forward(T* y, std::uint8_t* which, const T* x, const Pool2d& s, Stream stream);
template <class T>
void max_pool2d_backward(T* dx, const T* dy, const std::uint8_t* which, const Pool2d& s, Stream stream);
template <class T>
void avg_pool2d_forward(T* y, const T* x, const Pool2d& s, Stream stream);  // divides by the area inside the image
template <class T>
void avg_pool2d_backward(T* dx, const T* dy, const Pool2d& s, Stream stream);

// ---- lrn.cu: y_i = x_i (k + alpha sum_{j in window(i)} x_j^2)^-beta over the channels of each pixel, inside its group
struct Lrn {
  long rows;  // N * H * W
  int C, groups, size;
  float k, alpha, beta;  // alpha is not divided by size
};
template <class T>
void lrn_forward(T* y, const T* x, const Lrn& s, Stream stream);
template <class T>  // if mask, dx is 0 where x is not above 0
void lrn_backward(T* dx, const T* dy, const T* x, const Lrn& s, bool mask, Stream stream);

// ---- lrn_max_pool2d.cu: lrn, then max pooling, in one pass to the same bits; sizes that the published networks have
bool lrn_max_pool2d_takes(const Lrn& l, const Pool2d& s);
template <class T>
void lrn_max_pool2d_forward(T* y, std::uint8_t* which, const T* x, const Lrn& l, const Pool2d& s, Stream stream);
template <class T>
void lrn_max_pool2d_backward(T* dx, const T* dy, const std::uint8_t* which, const T* x, const Lrn& l, const Pool2d& s, bool mask,
                             Stream stream);

// ---- spatial_lrn.cu: y_p = x_p (k + alpha sum_{q in window(p)} x_q^2)^-beta over the size x size pixels around each pixel
struct SpatialLrn {
  int N, H, W, C, size;
  float k, alpha, beta;  // alpha is not divided by size^2
};
void spatial_lrn_forward(float* y, const float* x, const SpatialLrn& s, Stream stream);
std::size_t spatial_lrn_backward_workspace(const SpatialLrn& s);  // bytes
void spatial_lrn_backward(float* dx, const float* dy, const float* x, const SpatialLrn& s, void* workspace, Stream stream);

// ---- batch_norm.cu: y = gamma (x - mean) r + beta over a matrix (rows, C), r = (variance + epsilon)^-1/2. mean and r are
// outputs, of the rows in training, else of the running statistics, which training moves.
std::size_t batch_norm_workspace(long rows, int C);  // bytes, of each pass
template <class T>
void batch_norm_forward(T* y, float* mean, float* r, float* running_mean, float* running_variance, const T* x, const float* gamma,
                        const float* beta, long rows, int C, float momentum, float epsilon, bool training, void* workspace, Stream stream);
template <class T>
void batch_norm_backward(T* dx, float* dgamma, float* dbeta, const T* dy, const T* x, const float* gamma, const float* mean, const float* r,
                         long rows, int C, bool training, void* workspace, Stream stream);

// ---- cast.cu: y_i = x_i in the other storage
void cast(bfloat16* y, const float* x, long n, Stream stream);
void cast(float* y, const bfloat16* x, long n, Stream stream);

// ---- activation.cu: element by element; the derivative is a function of the output y
template <class T>
void relu_forward(T* y, const T* x, long n, Stream stream);
template <class T>
void relu_backward(T* dx, const T* dy, const T* y, long n, Stream stream);  // here and below, dx may be dy
template <class T>
void tanh_forward(T* y, const T* x, long n, Stream stream);
template <class T>
void tanh_backward(T* dx, const T* dy, const T* y, long n, Stream stream);
template <class T>
void sigmoid_forward(T* y, const T* x, long n, Stream stream);
template <class T>
void sigmoid_backward(T* dx, const T* dy, const T* y, long n, Stream stream);

// ---- broadcast.cu: y = f(a, b, c, d) over arrays with strides of their own; an operand that the operation has may be null, then
// it is a number. Elements of y have a place each.
// clang-format off
#define FOR_EACH_OPERATION(F) \
  F(copy, 1) F(add, 2) F(subtract, 2) F(multiply, 2) F(multiply_add, 3) F(divide, 2) F(divide_backward, 3) F(power, 2) \
  F(power_backward_base, 3) F(power_backward_exponent, 3) F(equal, 2) F(not_equal, 2) F(less, 2) F(less_equal, 2) F(where, 3) \
  F(clip, 3) F(clip_backward, 4) F(exp, 1) F(log, 1) F(sqrt, 1) F(sqrt_backward, 2) F(abs, 1) F(abs_backward, 2) \
  F(scaled_tanh, 3) F(scaled_tanh_backward, 4) F(abs_tanh, 3) F(abs_tanh_backward, 4) F(double_relu, 2) \
  F(double_relu_backward, 3) F(soft_relu, 1) F(soft_relu_backward, 2) F(noisy_relu, 2)
// clang-format on
enum class Operation {
#define NAME(name, arity) name,
  FOR_EACH_OPERATION(NAME)
#undef NAME
};
struct Broadcast {
  long size[4];       // of the axes
  long stride[5][4];  // of y and the operands, in elements
  float number[4];
};
template <class T>
void broadcast(T* y, const T* a, const T* b, const T* c, const T* d, Operation operation, const Broadcast& s, Stream stream);

// ---- reduce.cu: over the middle axis of x (outer, K, inner); y (outer, inner)
struct Reduce {
  long outer, K, inner;
};
std::size_t reduce_sum_workspace(const Reduce& s);  // bytes
template <class T>
void reduce_sum(T* y, const T* x, const Reduce& s, float divisor, void* workspace, Stream stream);
std::size_t reduce_max_workspace(const Reduce& s);  // bytes
template <class T>                                  // which (outer, inner): the first place of the maximum
void reduce_max(T* y, std::int32_t* which, const T* x, const Reduce& s, void* workspace, Stream stream);
template <class T>
void reduce_max_backward(T* dx, const T* dy, const std::int32_t* which, const Reduce& s, Stream stream);

// ---- dropout.cu: y_i = keep_i ? scale x_i : 0, P(keep_i) = 1 - p. The mask is a function of (state, purpose, first + i):
// the backward pass is the same call on dy. `state` lies in device memory: {seed, step}.
template <class T>
void dropout(T* y, const T* x, const std::uint64_t* state, long n, long first, float p, float scale, std::uint32_t purpose, Stream stream);

// ---- softmax_cross_entropy.cu: p = softmax(x) over rows (N, C); losses_i = -log p_i[label_i], loss = their mean.
// A label outside [0, C) makes its loss NaN. weights (C) of the classes and their sums, of the rows' labels and of all classes, may
// be null; smoothing in [0, 1) is the share of the loss that all classes have alike. Of two labels of a row the first has the share
// mix, the second the rest; without a second one it has all.
struct Labels {
  const std::int32_t *first = nullptr, *second = nullptr;  // (N)
  const float* mix = nullptr;                              // (N), null without a second
};
void softmax(float* p, const float* x, int N, int C, Stream stream);
void class_weight_sums(float* sums, const Labels& labels, const float* weights, int N, int C, Stream stream);
void softmax_cross_entropy_forward(float* loss, float* losses, float* p, const float* x, const Labels& labels, const float* weights,
                                   const float* sums, float smoothing, int N, int C, Stream stream);
void softmax_cross_entropy_backward(float* dx, const float* dloss, const float* p, const Labels& labels, const float* weights,
                                    const float* sums, float smoothing, int N, int C, Stream stream);

// ---- sgd.cu: v <- momentum v - decay rate w - rate g; w <- w + v, rate = *lr * lr_scale (the paper's section 5); with nesterov
// w <- w + momentum v - decay rate w - rate g
void sgd(float* w, float* v, const float* g, const float* lr, long n, float lr_scale, float momentum, float decay, bool nesterov,
         Stream stream);
struct Sgd {
  float *w, *v;
  const float *g, *lr;
  long n;
  float lr_scale, momentum, decay;
  bool nesterov;
};
void multi_sgd(const Sgd* parameters, int count, Stream stream);  // `parameters` in host memory, read before it returns

// ---- adam.cu: m <- beta1 m + (1 - beta1) g', v <- beta2 v + (1 - beta2) g'^2 with g' = g + decay w; w moves by *lr * lr_scale
// times m / (sqrt(v) + epsilon_hat), corrected for *t, the number of the update from 1 on; epsilon is added after the correction;
// before that w shrinks by *lr * lr_scale * decoupled_decay of it (AdamW)
struct Adam {
  float beta1, beta2, epsilon, epsilon_hat, decay, decoupled_decay, lr_scale;
};
void adam(float* w, float* m, float* v, const float* g, const float* lr, const float* t, long n, const Adam& s, Stream stream);

// ---- ema.cu: average <- (1 - *rate) average + *rate w
void ema(float* average, const float* w, const float* rate, long n, Stream stream);

// ---- augment.cu: y (N, H, W, 3) = (d + noise) * scale, d = x - mean cut out of x (N, stored_h, stored_w, 3) at crops (N, 3): top,
// left, whether mirrored; mean (stored_h, stored_w, 3). May be null: noise (N, 3); tones (N, 2), contrast and brightness; mix (N), the
// share of an image, the rest being that of its neighbour n xor 1
struct Augment {
  int N, stored_h, stored_w, H, W;
  float scale_r, scale_g, scale_b;  // of the channels
};
template <class T>
void augment(T* y, const std::uint8_t* x, const float* mean, const std::int32_t* crops, const float* noise, const float* tones,
             const float* mix, const Augment& s, Stream stream);
// The same of d sampled at maps (N, 2, 3), for which the shared memory is at most 48 KiB.
inline std::size_t augment_shared_bytes(const Augment& s) { return (std::size_t(s.stored_w) + s.W) * 3 * sizeof(float); }
template <class T>
void augment_by_maps(T* y, const std::uint8_t* x, const float* mean, const float* maps, const float* noise, const float* tones,
                     const float* mix, const Augment& s, Stream stream);

}  // namespace alexnet
