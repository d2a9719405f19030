// Group norm of every head, gated: out = (n ∘ weight + bias) ∘ silu(gate), n = (y − mean) / √(variance + eps).
//
// L lanes of a warp (a power of two) share one head of one row; lane i holds the vectors i, i + L, … of its N
// channels in registers, so that y is read once. A block is [L lanes, heads, rows].
// Axes: B batch, T tokens, C width, H heads, N head width; a row is one token of one sample.
#pragma once

#include "fused.cuh"

namespace rwkvclip {

constexpr int kMostHeadWidth = 128;

/// Vectors a lane holds: one, or four single numbers where 16-byte accesses are not possible.
template <int V>
constexpr int kHeld = V == 1 ? 4 : 1;

struct Norm {
  int64_t rows;  // B·T
  int heads, head_width, parameter_dtype;
  float eps;
};

template <int V>
__device__ __forceinline__ void load_parameter(const void* from, int dtype, int at, float (&to)[V]) {
  if (dtype == kFloat32)
    load<V>(static_cast<const float*>(from) + at, to);
  else if (dtype == kBFloat16)
    load<V>(static_cast<const __nv_bfloat16*>(from) + at, to);
  else
    load<V>(static_cast<const __half*>(from) + at, to);
}

/// The sum of a number over the L lanes that share a head, in each of them.
__device__ __forceinline__ float sum_lanes(float value) {
  const unsigned lanes = blockDim.x, first = (threadIdx.y + threadIdx.z * blockDim.y) * lanes % 32;
  const unsigned mask = (lanes == 32 ? ~0u : (1u << lanes) - 1) << first;
  for (unsigned flip = lanes / 2; flip > 0; flip /= 2) value += __shfl_xor_sync(mask, value, flip);
  return value;
}

/// The vectors of one head of one row that this lane holds.
template <int V>
struct Lane {
  int channel[kHeld<V>];  // in the row; beyond the head: −1

  __device__ __forceinline__ Lane(const Norm& norm, int head) {
#pragma unroll
    for (int j = 0; j < kHeld<V>; ++j) {
      const int n = static_cast<int>(threadIdx.x + j * blockDim.x) * V;
      channel[j] = n < norm.head_width ? head * norm.head_width + n : -1;
    }
  }

  /// Normalises y [rows, C] of this row into n, zero beyond the head, and returns 1 / √(variance + eps).
  template <class T>
  __device__ __forceinline__ float normalise(const Norm& norm, const T* __restrict__ y, int64_t at,
                                             float (&n)[kHeld<V>][V]) const {
    float sum = 0, squares = 0;
#pragma unroll
    for (int j = 0; j < kHeld<V>; ++j) {
#pragma unroll
      for (int i = 0; i < V; ++i) n[j][i] = 0;
      if (channel[j] < 0) continue;
      load<V>(y + at + channel[j], n[j]);
#pragma unroll
      for (int i = 0; i < V; ++i) sum += n[j][i];
    }
    const float mean = sum_lanes(sum) / norm.head_width;
#pragma unroll
    for (int j = 0; j < kHeld<V>; ++j) {
      if (channel[j] < 0) continue;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        n[j][i] -= mean;
        squares += n[j][i] * n[j][i];
      }
    }
    const float scale = rsqrtf(sum_lanes(squares) / norm.head_width + norm.eps);
#pragma unroll
    for (int j = 0; j < kHeld<V>; ++j) {
#pragma unroll
      for (int i = 0; i < V; ++i) n[j][i] *= scale;
    }
    return scale;
  }
};

template <class T, int V>
__global__ void __launch_bounds__(kBlockThreads, kForwardBlocks)
    norm_gate_kernel(const T* __restrict__ y, const T* __restrict__ gate, const void* __restrict__ weight,
                     const void* __restrict__ bias, T* __restrict__ out, Norm norm) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.z + threadIdx.z;
  const int head = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (row >= norm.rows || head >= norm.heads) return;  // alike for all lanes that share a head
  const Lane<V> lane(norm, head);
  const int64_t at = row * norm.heads * norm.head_width;
  float n[kHeld<V>][V];
  lane.normalise(norm, y, at, n);
#pragma unroll
  for (int j = 0; j < kHeld<V>; ++j) {
    const int c = lane.channel[j];
    if (c < 0) continue;
    float g[V], w[V], b[V];
    load<V>(gate + at + c, g);
    load_parameter<V>(weight, norm.parameter_dtype, c, w);
    load_parameter<V>(bias, norm.parameter_dtype, c, b);
#pragma unroll
    for (int i = 0; i < V; ++i) g[i] = (n[j][i] * w[i] + b[i]) * (g[i] / (1.0f + expf(-g[i])));
    store<V>(out + at + c, g);
  }
}

/// Gradients of y and gate from that of out; those of weight and bias are added up over the rows of each
/// block into partial [parts, 2, C].
///
/// With q = grad ∘ silu(gate) ∘ weight: gy = (q − mean(q) − n · mean(q ∘ n)) / √(variance + eps).
template <class T, int V>
__global__ void __launch_bounds__(kBlockThreads, kBackwardBlocks)
    norm_gate_backward_kernel(const T* __restrict__ grad, const T* __restrict__ y, const T* __restrict__ gate,
                              const void* __restrict__ weight, const void* __restrict__ bias,
                              T* __restrict__ gy, T* __restrict__ ggate, float* __restrict__ partial,
                              Norm norm) {
  RWKVCLIP_SHARED(float, shared);  // [2, V, threads of the block]
  const int head = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  const bool active = head < norm.heads;
  const Lane<V> lane(norm, head);
  const int64_t width = int64_t{norm.heads} * norm.head_width;
  float gw[kHeld<V>][V] = {}, gb[kHeld<V>][V] = {};
  int64_t row = int64_t{blockIdx.x} * blockDim.z + threadIdx.z;
  for (; active && row < norm.rows; row += int64_t{gridDim.x} * blockDim.z) {
    const int64_t at = row * width;
    float n[kHeld<V>][V], q[kHeld<V>][V] = {}, sum_q = 0, sum_qn = 0;
    const float scale = lane.normalise(norm, y, at, n);
#pragma unroll
    for (int j = 0; j < kHeld<V>; ++j) {
      if (lane.channel[j] < 0) continue;
      float z[V], w[V], b[V];
      load_parameter<V>(weight, norm.parameter_dtype, lane.channel[j], w);
      load_parameter<V>(bias, norm.parameter_dtype, lane.channel[j], b);
      load<V>(gate + at + lane.channel[j], z);
      load<V>(grad + at + lane.channel[j], q[j]);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float g = z[i], sigmoid = 1.0f / (1.0f + expf(-g));
        const float through = q[j][i] * g * sigmoid;
        z[i] = q[j][i] * (n[j][i] * w[i] + b[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid));
        gw[j][i] += through * n[j][i];
        gb[j][i] += through;
        q[j][i] = through * w[i];
        sum_q += q[j][i];
        sum_qn += q[j][i] * n[j][i];
      }
      store<V>(ggate + at + lane.channel[j], z);
    }
    const float mean_q = sum_lanes(sum_q) / norm.head_width, mean_qn = sum_lanes(sum_qn) / norm.head_width;
#pragma unroll
    for (int j = 0; j < kHeld<V>; ++j) {
      if (lane.channel[j] < 0) continue;
#pragma unroll
      for (int i = 0; i < V; ++i) q[j][i] = scale * (q[j][i] - mean_q - n[j][i] * mean_qn);
      store<V>(gy + at + lane.channel[j], q[j]);
    }
  }
  const unsigned plane = blockDim.x * blockDim.y, threads = plane * blockDim.z;
  const unsigned rank = threadIdx.x + blockDim.x * threadIdx.y;
  float* to = partial + int64_t{blockIdx.x} * 2 * width;
#pragma unroll
  for (int j = 0; j < kHeld<V>; ++j) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < V; ++i) {
      shared[i * threads + rank + plane * threadIdx.z] = gw[j][i];
      shared[(V + i) * threads + rank + plane * threadIdx.z] = gb[j][i];
    }
    __syncthreads();
    if (threadIdx.z != 0 || !active || lane.channel[j] < 0) continue;
    for (int i = 0; i < V; ++i) {
      float sum_w = 0, sum_b = 0;
      for (unsigned z = 0; z < blockDim.z; ++z) {
        sum_w += shared[i * threads + rank + plane * z];
        sum_b += shared[(V + i) * threads + rank + plane * z];
      }
      to[lane.channel[j] + i] = sum_w;
      to[width + lane.channel[j] + i] = sum_b;
    }
  }
}

/// A block of L lanes × heads × rows, and the blocks along the heads.
struct HeadTiling {
  dim3 block;
  unsigned chunks;

  HeadTiling(const Norm& norm, int vector, int held) {
    unsigned lanes = 1;
    while (static_cast<int>(lanes) * vector * held < norm.head_width) lanes *= 2;
    const unsigned room = kBlockThreads / lanes, heads = static_cast<unsigned>(norm.heads);
    chunks = (heads + room - 1) / room;
    const unsigned across = (heads + chunks - 1) / chunks;
    block = dim3(lanes, across, room / across < 64 ? room / across : 64);  // hardware's limit for z
  }
};

template <class T, int V>
int launch_norm_gate(const T* y, const T* gate, const void* weight, const void* bias, T* out,
                     const Norm& norm, cudaStream_t stream) {
  const HeadTiling tiling(norm, V, kHeld<V>);
  const auto blocks = static_cast<unsigned>((norm.rows + tiling.block.z - 1) / tiling.block.z);
  RWKVCLIP_LAUNCH((norm_gate_kernel<T, V>), dim3(blocks, tiling.chunks), tiling.block, 0, stream, y, gate,
                  weight, bias, out, norm);
  return check_launch("norm_gate");
}

template <class T, int V>
int launch_norm_gate_backward(const T* grad, const T* y, const T* gate, const void* weight, const void* bias,
                              T* gy, T* ggate, float* partial, const Norm& norm, cudaStream_t stream) {
  const HeadTiling tiling(norm, V, kHeld<V>);
  const dim3 grid(static_cast<unsigned>(num_parts(norm.rows)), tiling.chunks);
  const size_t bytes = size_t{2} * V * tiling.block.x * tiling.block.y * tiling.block.z * sizeof(float);
  RWKVCLIP_LAUNCH((norm_gate_backward_kernel<T, V>), grid, tiling.block, bytes, stream, grad, y, gate, weight,
                  bias, gy, ggate, partial, norm);
  return check_launch("norm_gate_backward");
}

}  // namespace rwkvclip
