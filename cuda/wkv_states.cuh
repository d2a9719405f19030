// The N×N states by which the chunks of a long sequence reach each other.
//
// First every chunk sums its own decayed kᵀv toward both of its edges, then each element is carried over the
// chunks, and each chunk finds in place of its own sums those of all tokens before (after) it.
#pragma once

#include "wkv_block.cuh"

namespace rwkvclip {

template <class T>
struct Sums {
  Shape shape;
  const T *k, *v;
  const float* w;
  States states;
};

/// Shared memory: v [N / 16, blocks], k∘f of 16 channels [2 sides, blocks], totals [blocks, 16 channels].
template <int P>
constexpr size_t sums_bytes(int blocks, int width) {
  return size_t(blocks) * ((width / 16 + 2) * P * kTileBytes + 64);
}

template <class T, int MostBlocks>
__global__ void __launch_bounds__(MostBlocks * 32) wkv_sums_kernel(const Sums<T> op) {
  constexpr int P = kParts<T>, kWords = 32 * P;
  RWKVCLIP_SHARED(uint4, values);
  const Shape& shape = op.shape;
  const Place place(shape);
  const int blocks = place.blocks, own = place.block, steps = shape.width / 16;
  uint4* const keys = values + steps * blocks * kWords;
  float* const total = reinterpret_cast<float*>(keys + 2 * blocks * kWords);

  for (int step = 0; step < steps; ++step)
    put(values + (step * blocks + own) * kWords, transpose(split<P>(load(op.v, place, 16 * step))));
  for (int step = 0; step < steps; ++step) {
    const int channel = 16 * step;
    const Tile k = load(op.k, place, channel);
    Factors factors(decay_of<P>(load_rate<P>(op.w, place, channel)));
#pragma unroll
    for (int level = 0; level < kLevels; ++level) factors.grow(level);
    if (row_of_lane() == 0)
      *reinterpret_cast<float4*>(total + own * 16 + 4 * quad_of_lane()) = factors.block_total();
    __syncthreads();
    float4 after = make_float4(1, 1, 1, 1), before = after;
    for (int j = own + 1; j < blocks; ++j) after = times(after, load_channels(total + j * 16));
    for (int j = 0; j < own; ++j) before = times(before, load_channels(total + j * 16));
    put(keys + own * kWords, transpose(split<P>(scale(times(k, factors.to_end), after))));
    put(keys + (blocks + own) * kWords, transpose(split<P>(scale(times(k, factors.from_start), before))));
    if (own == 0 && row_of_lane() == 0)
      *reinterpret_cast<float4*>(op.states.total + (place.local * shape.chunks + place.chunk) * shape.width +
                                 channel + 4 * quad_of_lane()) = times(factors.block_total(), after);
    __syncthreads();
    for (int task = own; task < 2 * steps; task += blocks) {
      const int side = task % 2, value = task / 2;
      Tile sum = zeros();
      for (int j = 0; j < blocks; ++j) {
        Parts<P> key = get<P>(keys + (side * blocks + j) * kWords);
        // Transposed words as left factor: tokens become the columns.
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const uint32_t swapped = key.part[p].w[1];
          key.part[p].w[1] = key.part[p].w[2];
          key.part[p].w[2] = swapped;
        }
        multiply<true>(sum, key, get<P>(values + (value * blocks + j) * kWords));
      }
      float* const state = op.states.at(side, shape, place.local, place.chunk);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float x[4] = {sum.x[4 * i], sum.x[4 * i + 1], sum.x[4 * i + 2], sum.x[4 * i + 3]};
        store4(state + (channel + channel_of_slot(row_of_lane() + 8 * i)) * shape.width + 16 * value +
                   4 * quad_of_lane(), x);
      }
    }
    // The next step's totals and keys take the place of these.
    __syncthreads();
  }
}

constexpr int kCarryThreads = 256;

/// One thread per four elements of a head's state; blockIdx.y is the side.
__global__ void __launch_bounds__(kCarryThreads) wkv_carry_kernel(const Shape shape, const States states) {
  const int64_t size = int64_t{shape.width} * shape.width;
  const int64_t index = (int64_t{blockIdx.x} * kCarryThreads + threadIdx.x) * 4;
  const int64_t local = index / size, element = index % size;
  if (local >= states.heads) return;
  const int side = static_cast<int>(blockIdx.y), key = static_cast<int>(element / shape.width);
  float carried[4] = {0, 0, 0, 0};
  for (int i = 0; i < shape.chunks; ++i) {
    const int chunk = side == 0 ? i : shape.chunks - 1 - i;
    float* const at = states.at(side, shape, local, chunk) + element;
    const float decay = states.total[(local * shape.chunks + chunk) * shape.width + key];
    float own[4];
    load4(at, own);
    store4(at, carried);
#pragma unroll
    for (int c = 0; c < 4; ++c) carried[c] = decay * carried[c] + own[c];
  }
}

}  // namespace rwkvclip
