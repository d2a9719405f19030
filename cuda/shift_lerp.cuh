// Token shift and linear interpolation: out_k = x + (s(x) − x) ∘ mix_k.
//
// s moves groups of every head's channels by one token, with zeros at the border of the h × w grid: to the
// right, left, down and up in four groups (images), or forward and back in two (texts, a grid of T × 1).
// Axes: B batch, T = h·w tokens, C width, N head width, K mixes; a row is one token of one sample.
#pragma once

#include "fused.cuh"

namespace rwkvclip {

constexpr int kMostSummedMixes = 8;

struct Shift {
  int64_t rows;  // B·T
  unsigned tokens, columns;
  int width, head_width, directions, mixes;
  bool mix_per_token;  // mix [K, B, T, C], else [K, C]
};

/// Neighbour that channel c takes: 0 left, 1 right, 2 above, 3 below. The adjoint of move m is m ^ 1.
__device__ __forceinline__ int move_of(const Shift& shift, int c) {
  const int n = c % shift.head_width;
  // Group i starts at floor(N·i / directions), hence i is the largest with N·i < directions·(n + 1).
  const int group = (shift.directions * (n + 1) - 1) / shift.head_width;
  return group + (shift.directions == 4 ? 0 : 2);
}

/// Rows from `row` to its neighbour; 0 beyond the border.
__device__ __forceinline__ int step_of(const Shift& shift, int64_t row, int move) {
  const unsigned t = static_cast<unsigned>(row) % shift.tokens, w = shift.columns;
  if (move == 0) return t % w > 0 ? -1 : 0;
  if (move == 1) return t % w + 1 < w ? 1 : 0;
  if (move == 2) return t >= w ? -static_cast<int>(w) : 0;
  return t + w < shift.tokens ? static_cast<int>(w) : 0;
}

/// Channels that surely move together: groups start at multiples of 4 when V > 1.
template <int V>
constexpr int kUnit = V < 4 ? V : 4;

/// The numbers at `from` [rows, C] that each unit's step leads to from (row, c); zero beyond the border.
template <int V, class T>
__device__ __forceinline__ void load_moved(const T* __restrict__ from, int64_t at, int width,
                                           const int (&steps)[V / kUnit<V>], float (&to)[V]) {
#pragma unroll
  for (int u = 0; u < V / kUnit<V>; ++u) {
    float unit[kUnit<V>] = {};
    if (steps[u]) load<kUnit<V>>(from + at + int64_t{steps[u]} * width + u * kUnit<V>, unit);
#pragma unroll
    for (int i = 0; i < kUnit<V>; ++i) to[u * kUnit<V> + i] = unit[i];
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kBlockThreads, kForwardBlocks)
    shift_lerp_kernel(const T* __restrict__ x, const T* __restrict__ mix, T* __restrict__ out, Shift shift) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const int c = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * V;
  if (row >= shift.rows || c >= shift.width) return;
  int steps[V / kUnit<V>];
#pragma unroll
  for (int u = 0; u < V / kUnit<V>; ++u) steps[u] = step_of(shift, row, move_of(shift, c + u * kUnit<V>));
  const int64_t at = row * shift.width + c, plane = shift.rows * shift.width;
  float here[V], delta[V];
  load<V>(x + at, here);
  load_moved<V>(x, at, shift.width, steps, delta);
#pragma unroll
  for (int i = 0; i < V; ++i) delta[i] -= here[i];
  const T* mix_here = mix + (shift.mix_per_token ? at : c);
  const int64_t mix_plane = shift.mix_per_token ? plane : shift.width;
#pragma unroll 5
  for (int k = 0; k < shift.mixes; ++k) {
    float m[V];
    load<V>(mix_here + k * mix_plane, m);
#pragma unroll
    for (int i = 0; i < V; ++i) m[i] = here[i] + delta[i] * m[i];
    store<V>(out + k * plane + at, m);
  }
}

/// Gradients of x and mix from that of out, grad [K, B, T, C].
///
/// gx = Σ_k grad_k ∘ (1 − mix_k) + sᵀ(Σ_k grad_k ∘ mix_k), the second term read at the neighbour the adjoint
/// leads to, which the caches hold; gmix_k = grad_k ∘ (s(x) − x). With A = 0 the mix is per token and gmix is
/// stored; with A > 0 (K ≤ A) it is [K, C] and each block adds up its rows into partial [parts, K, C].
template <class T, int V, int A>
__global__ void __launch_bounds__(kBlockThreads, A > 2 ? kManySumsBlocks : kBackwardBlocks)
    shift_lerp_backward_kernel(const T* __restrict__ grad, const T* __restrict__ x, const T* __restrict__ mix,
                               T* __restrict__ gx, T* __restrict__ gmix, float* __restrict__ partial,
                               Shift shift) {
  constexpr int kUnits = V / kUnit<V>;
  const int c = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * V, width = shift.width;
  const bool active = c < width;
  const int64_t plane = shift.rows * width;
  int moves[kUnits];
#pragma unroll
  for (int u = 0; u < kUnits; ++u) moves[u] = move_of(shift, c + u * kUnit<V>);
  float sums[A > 0 ? A : 1][V] = {};
  int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  for (; active && row < shift.rows; row += int64_t{gridDim.x} * blockDim.y) {
    const int64_t at = row * width + c;
    int steps[kUnits], adjoint[kUnits];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      steps[u] = step_of(shift, row, moves[u]);
      adjoint[u] = step_of(shift, row, moves[u] ^ 1);
    }
    float here[V], delta[V], total[V] = {};
    load<V>(x + at, here);
    load_moved<V>(x, at, width, steps, delta);
#pragma unroll
    for (int i = 0; i < V; ++i) delta[i] -= here[i];
    const auto add_mix = [&](int k, float (&product)[V]) {
      float g[V], m[V], moved_g[V], moved_m[V];
      load<V>(grad + k * plane + at, g);
      load_moved<V>(grad + k * plane, at, width, adjoint, moved_g);
      if (A == 0) {
        load<V>(mix + k * plane + at, m);
        load_moved<V>(mix + k * plane, at, width, adjoint, moved_m);
      } else {
        load<V>(mix + int64_t{k} * width + c, m);
      }
#pragma unroll
      for (int i = 0; i < V; ++i) {
        total[i] += g[i] * (1.0f - m[i]) + moved_g[i] * (A == 0 ? moved_m[i] : m[i]);
        product[i] = g[i] * delta[i];
      }
    };
    if constexpr (A == 0) {
#pragma unroll 2
      for (int k = 0; k < shift.mixes; ++k) {
        float product[V];
        add_mix(k, product);
        store<V>(gmix + k * plane + at, product);
      }
    } else {
#pragma unroll
      for (int k = 0; k < A; ++k) {
        if (k >= shift.mixes) break;
        float product[V];
        add_mix(k, product);
#pragma unroll
        for (int i = 0; i < V; ++i) sums[k][i] += product[i];
      }
    }
    store<V>(gx + at, total);
  }
  if constexpr (A > 0) {
    RWKVCLIP_SHARED(float, shared);  // [rows of the block, V · vectors of the block]
    const int line = static_cast<int>(blockDim.x) * V, mine = static_cast<int>(threadIdx.x) * V;
#pragma unroll
    for (int k = 0; k < A; ++k) {
      if (k >= shift.mixes) break;
      __syncthreads();
      store<V>(shared + threadIdx.y * line + mine, sums[k]);
      __syncthreads();
      if (threadIdx.y != 0 || !active) continue;
      float* to = partial + (int64_t{blockIdx.x} * shift.mixes + k) * width + c;
      float sum[V] = {};
      for (unsigned y = 0; y < blockDim.y; ++y) {
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] += shared[y * line + mine + i];
      }
      store<V>(to, sum);
    }
  }
}

template <class T, int V>
int launch_shift_lerp(const T* x, const T* mix, T* out, const Shift& shift, cudaStream_t stream) {
  const Tiling tiling(shift.rows, shift.width, V);
  RWKVCLIP_LAUNCH((shift_lerp_kernel<T, V>), dim3(static_cast<unsigned>(tiling.rows), tiling.chunks),
                  tiling.block, 0, stream, x, mix, out, shift);
  return check_launch("shift_lerp");
}

template <class T, int V>
int launch_shift_lerp_backward(const T* grad, const T* x, const T* mix, T* gx, T* gmix, float* partial,
                               const Shift& shift, cudaStream_t stream) {
  const Tiling tiling(shift.rows, shift.width, V);
  if (shift.mix_per_token) {
    RWKVCLIP_LAUNCH((shift_lerp_backward_kernel<T, V, 0>),
                    dim3(static_cast<unsigned>(tiling.rows), tiling.chunks), tiling.block, 0, stream, grad, x,
                    mix, gx, gmix, partial, shift);
    return check_launch("shift_lerp_backward");
  }
  const int64_t parts = num_parts(shift.rows);
  const dim3 grid(static_cast<unsigned>(parts), tiling.chunks);
  const size_t bytes = size_t{tiling.block.x} * tiling.block.y * V * sizeof(float);
  if (shift.mixes <= 2)
    RWKVCLIP_LAUNCH((shift_lerp_backward_kernel<T, V, 2>), grid, tiling.block, bytes, stream, grad, x, mix,
                    gx, gmix, partial, shift);
  else
    RWKVCLIP_LAUNCH((shift_lerp_backward_kernel<T, V, kMostSummedMixes>), grid, tiling.block, bytes, stream,
                    grad, x, mix, gx, gmix, partial, shift);
  if (const int code = check_launch("shift_lerp_backward")) return code;
  return sum_parts(partial, gmix, parts, int64_t{shift.mixes} * shift.width, stream);
}

}  // namespace rwkvclip
