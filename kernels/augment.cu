// augment.cu - stored uint8 images to the network's input (section 4.1 of the AlexNet paper): for each image a crop,
// mirrored or not, of (image - mean + noise of its channels) * scale.
//
// A block owns a few rows of one output image, neighbouring threads its neighbouring values.
#include <algorithm>

#include "vector.cuh"

namespace alexnet {
namespace {

constexpr int kChannels = 3;

template <class T>
__global__ void augment_rows(T* __restrict__ y, const std::uint8_t* __restrict__ x, const float* __restrict__ mean,
                             const int* __restrict__ crops, const float* __restrict__ noise, Augment s, int block_rows) {
  const int blocks = (s.H - 1) / block_rows + 1, n = blockIdx.x / blocks, first = blockIdx.x % blocks * block_rows;
  const int last = min(first + block_rows, s.H), row = s.W * kChannels, stored = s.stored_w * kChannels;
  // a crop that does not lie in the image is moved into it
  const int top = max(0, min(crops[3 * n], s.stored_h - s.H)), left = max(0, min(crops[3 * n + 1], s.stored_w - s.W));
  const bool mirrored = crops[3 * n + 2];
  const float red = noise ? noise[3 * n] : 0, green = noise ? noise[3 * n + 1] : 0, blue = noise ? noise[3 * n + 2] : 0;
  const float scale = s.scale;
  x += long(n) * s.stored_h * stored;
  y += long(n) * s.H * row;
  for (int h = first + threadIdx.y; h < last; h += blockDim.y) {
    const int from = (top + h) * stored + left * kChannels;
    for (int w = threadIdx.x; w < s.W; w += blockDim.x) {
      const int at = from + (mirrored ? s.W - 1 - w : w) * kChannels;
      T* to = y + h * row + w * kChannels;
      to[0] = (float(x[at]) - mean[at] + red) * scale;
      to[1] = (float(x[at + 1]) - mean[at + 1] + green) * scale;
      to[2] = (float(x[at + 2]) - mean[at + 2] + blue) * scale;
    }
  }
}

}  // namespace

template <class T>
void augment(T* y, const std::uint8_t* x, const float* mean, const std::int32_t* crops, const float* noise, const Augment& s,
             Stream stream) {
  const int block_rows = std::max(1, kBlockItems / s.W), blocks = (s.H - 1) / block_rows + 1;
  gpu::launch_independent<augment_rows<T>>({dim3(unsigned(s.N * blocks)), threads_over(block_rows, s.W), 0, stream}, y, x, mean, crops,
                                           noise, s, block_rows);
}
FOR_EACH_STORAGE(augment);

}  // namespace alexnet
