// y = A v of one chunk: warp I makes rows I of A, 16 tokens by all of the chunk, in registers.
//
// For blocks I ≠ J, A[I, J] = (r∘f_I∘D) (k∘f_J)ᵀ with f the products of decays from a token to the edge of its
// block that faces the other, D those of the blocks between; inside a block the same in a tree of halves.
// Sums over key channels run in steps of 16, for which the warps exchange k∘f; the same memory then serves v.
#pragma once

#include "wkv_block.cuh"

namespace rwkvclip {

template <class T>
struct Forward {
  Shape shape;
  const T *r, *k, *v;
  const float *w, *u;
  States states;
  T* y;
};

/// Shared memory: exchanged tiles [2 in turn, 2 sides, blocks], totals [2 in turn, blocks, 16 channels] and,
/// beside states, r∘f up to the chunk's edges [blocks, N / 16, 2 sides].
template <int P>
constexpr size_t forward_bytes(int blocks, int width, bool states) {
  return size_t(blocks) * (4 * P * kTileBytes + 2 * 64 + (states ? width / 16 * 2 * P * kTileBytes : 0));
}

template <class T, int MostBlocks>
__global__ void __launch_bounds__(MostBlocks * 32, kParts<T> == 1 ? resident(MostBlocks, 128) : 1)
    wkv_forward_kernel(const Forward<T> op) {
  constexpr int P = kParts<T>, kWords = 32 * P;
  RWKVCLIP_SHARED(uint4, exchange);
  const Shape& shape = op.shape;
  const Place place(shape);
  const int blocks = place.blocks, own = place.block, steps = shape.width / 16;
  float* const totals = reinterpret_cast<float*>(exchange + 4 * blocks * kWords);
  uint4* const edges = reinterpret_cast<uint4*>(totals + 2 * blocks * 16) + own * steps * 2 * kWords;

  Tile a[MostBlocks], diagonal = zeros();
#pragma unroll
  for (int j = 0; j < MostBlocks; ++j) a[j] = zeros();
  float bonus[2] = {0, 0};

#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int channel = 16 * step;
    uint4* const tiles = exchange + step % 2 * 2 * blocks * kWords;
    float* const total = totals + step % 2 * blocks * 16;
    const Tile r = load(op.r, place, channel), k = load(op.k, place, channel);
    const float4 u = load_channels(op.u + place.head % shape.heads * shape.width + channel);
    const Tile current = scale(times(r, k), u);
#pragma unroll
    for (int i = 0; i < 8; ++i) bonus[i / 4] += current.x[i];

    Factors factors(decay_of<P>(load_rate<P>(op.w, place, channel)));
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      const Tile f = factors.facing(level);
      Tile product = zeros();
      multiply<false>(product, split<P>(times(r, f)), split<P>(times(k, f)));
#pragma unroll
      for (int i = 0; i < 8; ++i) diagonal.x[i] += met(level, i) ? product.x[i] : 0;
      factors.grow(level);
    }
    put(tiles + own * kWords, split<P>(times(k, factors.to_end)));
    put(tiles + (blocks + own) * kWords, split<P>(times(k, factors.from_start)));
    if (row_of_lane() == 0)
      *reinterpret_cast<float4*>(total + own * 16 + 4 * quad_of_lane()) = factors.block_total();
    __syncthreads();

    Tile near = times(r, factors.from_start);
    float4 between = make_float4(1, 1, 1, 1);
#pragma unroll
    for (int j = MostBlocks - 1; j >= 0; --j) {
      if (j >= own) continue;
      multiply<false>(a[j], split<P>(scale(near, between)), get<P>(tiles + j * kWords));
      between = times(between, load_channels(total + j * 16));
    }
    if (op.states.data) put(edges + step * 2 * kWords, split<P>(scale(near, between)));
    near = times(r, factors.to_end);
    between = make_float4(1, 1, 1, 1);
#pragma unroll
    for (int j = 0; j < MostBlocks; ++j) {
      if (j <= own || j >= blocks) continue;
      multiply<false>(a[j], split<P>(scale(near, between)), get<P>(tiles + (blocks + j) * kWords));
      between = times(between, load_channels(total + j * 16));
    }
    if (op.states.data) put(edges + (step * 2 + 1) * kWords, split<P>(scale(near, between)));
  }

#pragma unroll
  for (int i = 0; i < 2; ++i)
    for (int flip = 1; flip < 4; flip *= 2) bonus[i] += __shfl_xor_sync(~0u, bonus[i], flip);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i / 4 == i / 2 % 2 && 2 * quad_of_lane() + i % 2 == row_of_lane()) diagonal.x[i] = bonus[i / 4];
  Parts<P> weights[MostBlocks];
#pragma unroll
  for (int j = 0; j < MostBlocks; ++j) {
    if (j == own) a[j] = diagonal;
    weights[j] = split<P>(a[j]);
  }

#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int channel = 16 * step;
    // The turns go on from those of the keys.
    uint4* const tiles = exchange + (steps + step) % 2 * 2 * blocks * kWords;
    put(tiles + own * kWords, transpose(split<P>(load(op.v, place, channel))));
    __syncthreads();
    Tile y = zeros();
#pragma unroll
    for (int j = 0; j < MostBlocks; ++j)
      if (j < blocks) multiply<true>(y, weights[j], get<P>(tiles + j * kWords));
    if (op.states.data) {
      for (int side = 0; side < 2; ++side) {
        const float* const state = op.states.at(side, shape, place.local, place.chunk);
        for (int key = 0; key < steps; ++key) {
          const Tile tile = load_state(state, shape.width, 16 * key, channel);
          multiply<true>(y, get<P>(edges + (key * 2 + side) * kWords), transpose(split<P>(tile)));
        }
      }
    }
    store(op.y, place, channel, y);
  }
}

}  // namespace rwkvclip
