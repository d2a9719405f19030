// Gradients of one factor of A, of w and of u in one chunk; warp I takes the tokens of block I.
//
// With G[I, J] = p_I q_Jᵀ, (a, b, p, q) = (r, k, gy, v) gives the gradient of r and (k, r, v, gy) that of k:
// ∂a_I = f_I ∘ Σ_J D ∘ G[I, J] (b∘f_J). Each of the two runs also holds what a's factors add to ∂log d; the
// decays of a whole block between I and J count in the run of r alone, for pairs beyond the chunk in both.
#pragma once

#include "wkv_block.cuh"

namespace rwkvclip {

template <class T>
struct Backward {
  Shape shape;
  const T *a, *b, *p, *q;
  const float *w, *u;
  States states;  // Σ bᵀq
  States others;  // Σ aᵀp in the run of r
  bool of_receptance;
  T* ga;
  float* gw;  // written in the run of r, added to in that of k
  float* gu;  // [B, blocks of T, H, N], in the run of r
};

/// Shared memory: exchanged tiles [2 in turn, 2 sides, blocks], totals [2 in turn, blocks, 16 channels], the
/// pairs' share in whole blocks between [blocks, blocks + 2, 16 channels], that of all of the chunk [16].
template <int P>
constexpr size_t backward_bytes(int blocks) {
  return size_t(blocks) * (4 * P * kTileBytes + 2 * 64 + (blocks + 2) * 64) + 64;
}

/// What level halves of a 16×16 matrix in words see of each other.
template <int P>
__device__ __forceinline__ Parts<P> only_met(const Parts<P>& parts, int level) {
  Parts<P> out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t mask = (met(level, 2 * i) ? 0x0000ffffu : 0) | (met(level, 2 * i + 1) ? 0xffff0000u : 0);
#pragma unroll
    for (int p = 0; p < P; ++p) out.part[p].w[i] = parts.part[p].w[i] & mask;
  }
  return out;
}

/// Gradients of the logs of factors from a token to both edges of its half, and of the tokens' log d.
struct LogGradients {
  Tile to_end, from_start, decay;

  /// Undoes Factors::grow: a left token's to_end took all decays of the right half, and so mirrored.
  __device__ __forceinline__ void shrink(int level) {
    if (level == 3) {
      float to_right[4], to_left[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) to_right[c] = sum_rows(to_end.x[c]), to_left[c] = sum_rows(from_start.x[4 + c]);
#pragma unroll
      for (int c = 0; c < 4; ++c) decay.x[c] += to_left[c], decay.x[4 + c] += to_right[c];
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float sum = Factors::is_right(level, i) ? from_start.x[i] : to_end.x[i];
      for (int flip = 1; flip < 1 << level; flip *= 2) sum += __shfl_xor_sync(~0u, sum, 4 * flip);
      decay.x[i] += __shfl_xor_sync(~0u, sum, 4 << level);
    }
  }
};

/// Σ over the pairs whose tokens lie on opposite sides of block `own`; table [blocks, blocks + 2, 16].
__device__ __forceinline__ float4 sum_across(const float* table, int own, int blocks, bool inner, bool outer) {
  Tile sum = zeros();
  const auto add = [&](int row, int column) {
    const float4 x = load_channels(table + (row * (blocks + 2) + column) * 16);
    sum.x[0] += x.x, sum.x[1] += x.y, sum.x[2] += x.z, sum.x[3] += x.w;
  };
  const int before = own, after = blocks - 1 - own;
  if (inner) {
    for (int pair = row_of_lane(); pair < before * after; pair += 8) {
      const int left = pair % before, right = own + 1 + pair / before;
      add(left, right);
      add(right, left);
    }
  }
  if (outer) {
    for (int i = row_of_lane(); i < before; i += 8) add(i, blocks + 1);
    for (int i = row_of_lane(); i < after; i += 8) add(own + 1 + i, blocks);
  }
  return sum_tokens(sum);
}

/// p_I times a state [keys, values] transposed: the 16 keys from `channel` on.
template <class T, int P>
__device__ __forceinline__ Tile through_state(const T* p, const Place& place, const float* state, int width,
                                              int channel) {
  Tile sum = zeros();
  for (int value = 0; value < width; value += 16)
    multiply<false>(sum, split<P>(load(p, place, value)), split<P>(load_state(state, width, channel, value)));
  return sum;
}

template <class T, int MostBlocks>
__global__ void
    __launch_bounds__(MostBlocks * 32, kParts<T> == 1 && MostBlocks <= 8 ? resident(MostBlocks, 168) : 1)
    wkv_backward_kernel(const Backward<T> op) {
  constexpr int P = kParts<T>, kWords = 32 * P;
  RWKVCLIP_SHARED(uint4, exchange);
  const Shape& shape = op.shape;
  const Place place(shape);
  const int blocks = place.blocks, own = place.block, steps = shape.width / 16;
  float* const totals = reinterpret_cast<float*>(exchange + 4 * blocks * kWords);
  float* const table = totals + 2 * blocks * 16;
  float* const chunk_share = table + blocks * (blocks + 2) * 16;
  const bool outer = op.states.data != nullptr;

  Parts<P> g[MostBlocks], g_own;
  float g_same[2];  // of the pair of a token with itself
  {
    Tile sums[MostBlocks];
#pragma unroll
    for (int j = 0; j < MostBlocks; ++j) sums[j] = zeros();
    for (int step = 0; step < steps; ++step) {
      uint4* const tiles = exchange + step % 2 * 2 * blocks * kWords;
      put(tiles + own * kWords, split<P>(load(op.q, place, 16 * step)));
      const Parts<P> p = split<P>(load(op.p, place, 16 * step));
      __syncthreads();
#pragma unroll
      for (int j = 0; j < MostBlocks; ++j)
        if (j < blocks) multiply<false>(sums[j], p, get<P>(tiles + j * kWords));
    }
    Tile inside = zeros();
#pragma unroll
    for (int j = 0; j < MostBlocks; ++j) {
      if (j == own) inside = sums[j];
      g[j] = split<P>(sums[j]);
    }
    g_own = split<P>(inside);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float x = row_of_lane() % 2 ? inside.x[6 * i + 1] : inside.x[6 * i];
      g_same[i] = __shfl_sync(~0u, x, 4 * row_of_lane() + row_of_lane() / 2);
    }
  }

#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int channel = 16 * step;
    const int turn = (steps + step) % 2;
    uint4* const tiles = exchange + turn * 2 * blocks * kWords;
    float* const total = totals + turn * blocks * 16;
    const Tile a = load(op.a, place, channel), b = load(op.b, place, channel);
    const Tile rate = load_rate<P>(op.w, place, channel);
    Tile facing[kLevels];
    Factors factors(decay_of<P>(rate));
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      facing[level] = factors.facing(level);
      factors.grow(level);
    }
    put(tiles + own * kWords, transpose(split<P>(times(b, factors.to_end))));
    put(tiles + (blocks + own) * kWords, transpose(split<P>(times(b, factors.from_start))));
    if (row_of_lane() == 0)
      *reinterpret_cast<float4*>(total + own * 16 + 4 * quad_of_lane()) = factors.block_total();
    __syncthreads();

    Tile ga = zeros();
    LogGradients log{zeros(), zeros(), zeros()};
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const Tile& f = side == 0 ? factors.from_start : factors.to_end;
      const Tile a_f = times(a, f);
      Tile sum = zeros();
      float4 between = make_float4(1, 1, 1, 1);
      const auto add = [&](const Tile& product, int column, bool crossing) {
        const Tile decayed = scale(product, between);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.x[i] += decayed.x[i];
        if (!crossing) return;
        const float4 share = sum_tokens(times(a_f, decayed));
        if (row_of_lane() == 0)
          *reinterpret_cast<float4*>(table + (own * (blocks + 2) + column) * 16 + 4 * quad_of_lane()) = share;
      };
#pragma unroll
      for (int i = 0; i < MostBlocks; ++i) {
        const int j = side == 0 ? MostBlocks - 1 - i : i;
        if (side == 0 ? j >= own : j <= own || j >= blocks) continue;
        Tile product = zeros();
        multiply<true>(product, g[j], get<P>(tiles + (side * blocks + j) * kWords));
        // Nothing lies between neighbours.
        add(product, j, op.of_receptance && j != own - 1 && j != own + 1);
        between = times(between, load_channels(total + j * 16));
      }
      if (outer) {
        const float* const state = op.states.at(side, shape, place.local, place.chunk);
        add(through_state<T, P>(op.p, place, state, shape.width, channel), blocks + side, true);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        ga.x[i] += f.x[i] * sum.x[i];
        if (side == 0) log.from_start.x[i] = a_f.x[i] * sum.x[i];
        else log.to_end.x[i] = a_f.x[i] * sum.x[i];
      }
    }
    if (outer && op.of_receptance) {
      // Pairs on opposite sides of the chunk: a before it with b after it, and the reverse.
      for (int key = own; key < 16; key += blocks) {
        float share = 0;
        for (int side = 0; side < 2; ++side) {
          const float* const here = op.states.at(side, shape, place.local, place.chunk);
          const float* const there = op.others.at(1 - side, shape, place.local, place.chunk);
          for (int value = lane_of_warp(); value < shape.width; value += 32) {
            const int64_t at = int64_t{channel + key} * shape.width + value;
            share += here[at] * there[at];
          }
        }
        for (int flip = 1; flip < 32; flip *= 2) share += __shfl_xor_sync(~0u, share, flip);
        const int64_t chunk = place.local * shape.chunks + place.chunk;
        if (lane_of_warp() == 0)
          chunk_share[key] = share * op.states.total[chunk * shape.width + channel + key];
      }
    }
    __syncthreads();

    float4 across = sum_across(table, own, blocks, op.of_receptance, outer);
    if (outer && op.of_receptance) {
      const float4 share = load_channels(chunk_share);
      across = make_float4(across.x + share.x, across.y + share.y, across.z + share.z, across.w + share.w);
    }
#pragma unroll
    for (int i = 0; i < 8; i += 4)
      log.decay.x[i] = across.x, log.decay.x[i + 1] = across.y, log.decay.x[i + 2] = across.z,
      log.decay.x[i + 3] = across.w;
#pragma unroll
    for (int level = kLevels - 1; level >= 0; --level) {
      const Tile& f = facing[level];
      Tile product = zeros();
      multiply<true>(product, only_met(g_own, level), transpose(split<P>(times(b, f))));
      log.shrink(level);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float gradient = f.x[i] * product.x[i];
        ga.x[i] += gradient;
        const bool right = Factors::is_right(level, i);
        log.from_start.x[i] += right ? gradient * a.x[i] : 0;
        log.to_end.x[i] += right ? 0 : gradient * a.x[i];
      }
    }

    const float4 u = load_channels(op.u + place.head % shape.heads * shape.width + channel);
    const Tile same{{g_same[0], g_same[0], g_same[0], g_same[0], g_same[1], g_same[1], g_same[1], g_same[1]}};
    const Tile b_same = times(b, same), by_bonus = scale(b_same, u);
    Tile gw;
#pragma unroll
    for (int i = 0; i < 8; ++i) ga.x[i] += by_bonus.x[i], gw.x[i] = -rate.x[i] * log.decay.x[i];
    store(op.ga, place, channel, ga);
    if (op.of_receptance) {
      const float4 gu = sum_tokens(times(a, b_same));
      const int64_t row = (place.head / shape.heads * shape.chunks + place.chunk) * blocks + own;
      if (row_of_lane() == 0)
        *reinterpret_cast<float4*>(op.gu + (row * shape.heads + place.head % shape.heads) * shape.width +
                                   channel + 4 * quad_of_lane()) = gu;
    } else {
      const Tile before = load(op.gw, place, channel);
#pragma unroll
      for (int i = 0; i < 8; ++i) gw.x[i] += before.x[i];
    }
    store(op.gw, place, channel, gw);
  }
}

}  // namespace rwkvclip
