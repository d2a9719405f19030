// Blocks of 16 tokens of Bi-WKV: where they lie, the products of decays inside them, their 16×16 matrices.
//
// Equations: README.md. Axes: B batch, T tokens, H heads, N head width. A chunk is the run of blocks that one
// thread block works on, warp I on block I; a sequence longer than a chunk has several, joined by N×N states.
#pragma once

#include "mma.cuh"

namespace rwkvclip {

constexpr int kBlockTokens = 16;
constexpr int kTileBytes = 512;  // 16×16 bfloat16
constexpr int kLevels = 4;       // of the tree inside a block: halves of 1, 2, 4, 8 tokens
/// exp(−exp(w)) is zero far below this w; above it exp(w) is no longer a float32.
constexpr float kMaxRawDecay = 80.0f;

/// bfloat16 parts that factors of products have for operands of type T, enough for the significand of T.
/// Factors in float16 itself would overflow where the result does not.
template <class T>
constexpr int kParts = 1;
template <>
constexpr int kParts<__half> = 2;
template <>
constexpr int kParts<float> = 3;

/// Thread blocks of 32·blocks threads that an SM holds at once if each thread takes so many registers.
constexpr int resident(int blocks, int registers) { return 65536 / (blocks * 32 * registers); }

/// How operands [B, T, H, N] are cut.
struct Shape {
  int64_t tokens, heads;
  int width, chunks;
  int64_t first_head;  // of the heads b·H + h that this launch serves
};

/// The tokens of this warp: block `threadIdx.x / 32` of its chunk.
struct Place {
  int64_t head;  // h + H·b
  int64_t local;  // the same, counted from Shape::first_head
  int chunk, block, blocks;
  int64_t offset;  // of the lane's first token, at its first channel
  int64_t apart;   // from there to its second token
  int held;        // how many of the two exist

  __device__ __forceinline__ explicit Place(const Shape& shape) {
    local = blockIdx.x / shape.chunks;
    head = shape.first_head + local;
    chunk = static_cast<int>(blockIdx.x % shape.chunks);
    // The shuffle tells the compiler that it is one number for the warp.
    block = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 32), 0);
    blocks = static_cast<int>(blockDim.x / 32);
    const int64_t token = (int64_t{chunk} * blocks + block) * kBlockTokens + row_of_lane();
    held = token >= shape.tokens ? 0 : token + 8 >= shape.tokens ? 1 : 2;
    offset = ((head / shape.heads * shape.tokens + token) * shape.heads + head % shape.heads) * shape.width +
             4 * quad_of_lane();
    apart = 8 * shape.heads * shape.width;
  }
};

__device__ __forceinline__ void load4(const float* at, float (&x)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(at);
  x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
template <class T>
struct alignas(8) Four {
  T x[4];
};
template <class T>
__device__ __forceinline__ void load4(const T* at, float (&x)[4]) {
  const Four<T> v = *reinterpret_cast<const Four<T>*>(at);
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = to_float(v.x[i]);
}
__device__ __forceinline__ void store4(float* at, const float (&x)[4]) {
  *reinterpret_cast<float4*>(at) = make_float4(x[0], x[1], x[2], x[3]);
}
template <class T>
__device__ __forceinline__ void store4(T* at, const float (&x)[4]) {
  Four<T> v;
#pragma unroll
  for (int i = 0; i < 4; ++i) v.x[i] = from_float<T>(x[i]);
  *reinterpret_cast<Four<T>*>(at) = v;
}

/// 16 channels of the block from `channel` on, `missing` where no token is.
template <class T>
__device__ __forceinline__ Tile load(const T* __restrict__ from, const Place& place, int channel,
                                     float missing = 0) {
  Tile tile;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float x[4] = {missing, missing, missing, missing};
    if (i < place.held) load4(from + place.offset + i * place.apart + channel, x);
#pragma unroll
    for (int c = 0; c < 4; ++c) tile.x[4 * i + c] = x[c];
  }
  return tile;
}
template <class T>
__device__ __forceinline__ void store(T* __restrict__ to, const Place& place, int channel, const Tile& tile) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float x[4] = {tile.x[4 * i], tile.x[4 * i + 1], tile.x[4 * i + 2], tile.x[4 * i + 3]};
    if (i < place.held) store4(to + place.offset + i * place.apart + channel, x);
  }
}

/// exp(w), the rate of −log d; 0, no decay, where no token is.
template <int P>
__device__ __forceinline__ Tile load_rate(const float* __restrict__ w, const Place& place, int channel) {
  Tile rate = load(w, place, channel, -INFINITY);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    // A comparison and not a minimum, which would drop NaN.
    const float raw = rate.x[i] > kMaxRawDecay ? kMaxRawDecay : rate.x[i];
    rate.x[i] = P == 1 ? __expf(raw) : expf(raw);
  }
  return rate;
}
template <int P>
__device__ __forceinline__ Tile decay_of(const Tile& rate) {
  Tile decay;
#pragma unroll
  for (int i = 0; i < 8; ++i) decay.x[i] = P == 1 ? __expf(-rate.x[i]) : expf(-rate.x[i]);
  return decay;
}

/// Products of decays from each token to the edges of its half of the block, exclusive of the token; halves
/// double from one token until they are the block.
struct Factors {
  Tile to_end, from_start, total;

  __device__ __forceinline__ explicit Factors(const Tile& decay) : total(decay) {
#pragma unroll
    for (int i = 0; i < 8; ++i) to_end.x[i] = from_start.x[i] = 1;
  }
  /// The factors toward the boundary at which two halves of 2^level tokens meet.
  __device__ __forceinline__ Tile facing(int level) const {
    Tile f;
#pragma unroll
    for (int i = 0; i < 8; ++i) f.x[i] = is_right(level, i) ? from_start.x[i] : to_end.x[i];
    return f;
  }
  /// Joins halves of 2^level tokens.
  __device__ __forceinline__ void grow(int level) {
    Tile other;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      other.x[i] = level == 3 ? total.x[i ^ 4] : __shfl_xor_sync(~0u, total.x[i], 4 << level);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (is_right(level, i)) from_start.x[i] *= other.x[i];
      else to_end.x[i] *= other.x[i];
      total.x[i] *= other.x[i];
    }
  }
  static __device__ __forceinline__ bool is_right(int level, int i) {
    return level == 3 ? i >= 4 : (row_of_lane() >> level & 1) != 0;
  }
  __device__ __forceinline__ float4 block_total() const {
    return make_float4(total.x[0], total.x[1], total.x[2], total.x[3]);
  }
};

/// Whether the two tokens of number i of a tile by token lie in different halves that meet at `level`.
__device__ __forceinline__ bool met(int level, int i) {
  const int row = row_of_lane() + 8 * (i / 4), column = 8 * (i / 2 % 2) + 2 * quad_of_lane() + i % 2;
  return row >> level != column >> level && row >> (level + 1) == column >> (level + 1);
}

/// The sum over the lanes that hold other tokens of the same channels.
__device__ __forceinline__ float sum_rows(float x) {
#pragma unroll
  for (int flip = 4; flip < 32; flip *= 2) x += __shfl_xor_sync(~0u, x, flip);
  return x;
}
/// The sum of two tokens of a lane and those of the other lanes, per channel.
__device__ __forceinline__ float4 sum_tokens(const Tile& a) {
  return make_float4(sum_rows(a.x[0] + a.x[4]), sum_rows(a.x[1] + a.x[5]), sum_rows(a.x[2] + a.x[6]),
                     sum_rows(a.x[3] + a.x[7]));
}

__device__ __forceinline__ float4 load_channels(const float* at) {
  return *reinterpret_cast<const float4*>(at + 4 * quad_of_lane());
}

/// States Σ kᵀv [2 sides, heads, chunks, N keys, N values]: side 0 of the tokens before a chunk, decayed to
/// its start, side 1 of those after it, decayed to its end.
struct States {
  float* data;   // null if there is one chunk
  float* total;  // [heads, chunks, N] product of the chunk's decays
  int64_t heads;

  __device__ __forceinline__ float* at(int side, const Shape& shape, int64_t local, int chunk) const {
    return data + ((side * heads + local) * shape.chunks + chunk) * shape.width * shape.width;
  }
};

/// A 16×16 tile of a state: row ρ of it is key channel_of_slot(ρ), its columns are values by channel.
__device__ __forceinline__ Tile load_state(const float* state, int width, int key, int value) {
  Tile tile;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float x[4];
    load4(state + (key + channel_of_slot(row_of_lane() + 8 * i)) * width + value + 4 * quad_of_lane(), x);
#pragma unroll
    for (int c = 0; c < 4; ++c) tile.x[4 * i + c] = x[c];
  }
  return tile;
}

}  // namespace rwkvclip
