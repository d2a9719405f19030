// What the fused elementwise kernels share: vectors of numbers, blocks of channels, sums over tokens.
//
// Axes: B batch, T tokens, C width, H heads, N head width, K mixes; a row is one token of one sample.
#pragma once

#include <cstdint>

#include "common.cuh"

namespace rwkvclip {

constexpr int kBlockThreads = 256;
/// Least blocks on a multiprocessor that the compiler plans for: more, its own guess, costs spills.
constexpr int kForwardBlocks = 5, kBackwardBlocks = 3, kManySumsBlocks = 2;
/// Most partial sums over the rows; each is the work of one block, so this fills a GPU of today.
constexpr int64_t kMostParts = 512;

/// Elements of T in one 16-byte access.
template <class T>
constexpr int kVector = 16 / sizeof(T);

/// Elements of one access to V of them, at most 16 bytes.
template <class T, int V>
constexpr int kAccess = V < kVector<T> ? V : kVector<T>;

template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T items[V];
};

template <int V, class T>
__device__ __forceinline__ void load(const T* __restrict__ from, float (&to)[V]) {
  constexpr int kEach = kAccess<T, V>;
#pragma unroll
  for (int i = 0; i < V; i += kEach) {
    const auto pack = *reinterpret_cast<const Pack<T, kEach>*>(from + i);
#pragma unroll
    for (int j = 0; j < kEach; ++j) to[i + j] = to_float(pack.items[j]);
  }
}

template <int V, class T>
__device__ __forceinline__ void store(T* __restrict__ to, const float (&from)[V]) {
  constexpr int kEach = kAccess<T, V>;
#pragma unroll
  for (int i = 0; i < V; i += kEach) {
    Pack<T, kEach> pack;
#pragma unroll
    for (int j = 0; j < kEach; ++j) pack.items[j] = from_float<T>(from[i + j]);
    *reinterpret_cast<Pack<T, kEach>*>(to + i) = pack;
  }
}

/// Whether every pointer allows 16-byte accesses.
template <class... P>
bool aligned(const P*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

/// Blocks for [rows, C]: x over vectors of channels, y over rows.
struct Tiling {
  dim3 block;
  unsigned chunks;  // blocks along C
  int64_t rows;     // blocks that take each row once

  Tiling(int64_t num_rows, int64_t width, int vector) {
    const int64_t vectors = width / vector;
    chunks = static_cast<unsigned>((vectors + kBlockThreads - 1) / kBlockThreads);
    const auto across = static_cast<unsigned>((vectors + chunks - 1) / chunks);
    block = dim3(across, kBlockThreads / across);
    rows = (num_rows + block.y - 1) / block.y;
  }
};

/// How many partial sums over `rows` rows; depends on nothing else, so that results repeat everywhere.
inline int64_t num_parts(int64_t rows) { return rows < 1 ? 1 : rows < kMostParts ? rows : kMostParts; }

constexpr int kSumColumns = 32, kSumRows = 16;

/// out [M] = Σ over the parts of partial [parts, M], always in the same order.
template <class T>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    sum_parts_kernel(const float* __restrict__ partial, T* __restrict__ out, int64_t parts, int64_t m) {
  RWKVCLIP_SHARED(float, sums);
  const int64_t column = int64_t{blockIdx.x} * kSumColumns + threadIdx.x;
  float sum = 0;
  if (column < m) {
#pragma unroll 8
    for (int64_t part = threadIdx.y; part < parts; part += kSumRows) sum += partial[part * m + column];
  }
  sums[threadIdx.y * kSumColumns + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= m) return;
  for (int y = 1; y < kSumRows; ++y) sum += sums[y * kSumColumns + threadIdx.x];
  out[column] = from_float<T>(sum);
}

template <class T>
int sum_parts(const float* partial, T* out, int64_t parts, int64_t m, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((m + kSumColumns - 1) / kSumColumns);
  RWKVCLIP_LAUNCH(sum_parts_kernel<T>, blocks, dim3(kSumColumns, kSumRows),
                  kSumColumns * kSumRows * sizeof(float), stream, partial, out, parts, m);
  return check_launch("sum over tokens");
}

}  // namespace rwkvclip
