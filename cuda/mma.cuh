// Products of 16×16 tiles on tensor cores: bfloat16 factors, float32 sums.
//
// A warp holds a tile as 8 numbers per lane. With g = lane / 4 and q = lane % 4, number i of a lane is
//   row g + 8·(i / 4), column 4q + i % 4                      of a tile of tokens × channels ("by channel"),
//   row g + 8·(i / 4), column 8·(i / 2 % 2) + 2q + i % 2      of a tile of tokens × tokens ("by token").
// The first order lets a lane read 4 channels at once; the tensor core sees the channels permuted, equally
// in both factors. Slot ρ of the permuted channels is channel `channel_of_slot(ρ)`.
//
// Numbers are split in P bfloat16 parts, each of which holds 8 more bits of the significand; of products of
// parts those below the last part are left out.
#pragma once

#include "common.cuh"

namespace rwkvclip {

/// 16×16 float32 numbers of a warp.
struct Tile {
  float x[8];
};

/// A tile in bfloat16: word i holds numbers 2i and 2i + 1 of a lane.
struct Words {
  uint32_t w[4];
};

template <int P>
struct Parts {
  Words part[P];
};

__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int row_of_lane() { return lane_of_warp() / 4; }
__device__ __forceinline__ int quad_of_lane() { return lane_of_warp() % 4; }
__device__ __forceinline__ int channel_of_slot(int slot) { return slot % 8 / 2 * 4 + slot / 8 * 2 + slot % 2; }

__device__ __forceinline__ uint32_t bits_of(__nv_bfloat16 x) { return __bfloat16_as_ushort(x); }
__device__ __forceinline__ uint32_t pack(float low, float high) {
#ifdef RWKVCLIP_EMULATE
  return bits_of(__float2bfloat16_rn(low)) | bits_of(__float2bfloat16_rn(high)) << 16;
#else
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#endif
}
__device__ __forceinline__ float low_of(uint32_t word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float high_of(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }

/// c [16,8] += a [16,16] b [16,8].
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef RWKVCLIP_EMULATE
  emulator::mma_m16n8k16<__nv_bfloat16>(c, a, b, c);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// Transposes 8×8 numbers, of which each lane holds row g, columns 2q and 2q + 1.
__device__ __forceinline__ uint32_t transpose(uint32_t word) {
#ifdef RWKVCLIP_EMULATE
  const uint32_t* all = emulator::warp_exchange(~0u, word, "movmatrix");
  const int g = row_of_lane(), q = quad_of_lane(), shift = g % 2 * 16;
  return (all[8 * q + g / 2] >> shift & 0xffff) | (all[8 * q + 4 + g / 2] >> shift & 0xffff) << 16;
#else
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(word));
  return out;
#endif
}

template <int P>
__device__ __forceinline__ Parts<P> split(const Tile& tile) {
  Parts<P> parts;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float low = tile.x[2 * i], high = tile.x[2 * i + 1];
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const uint32_t word = parts.part[p].w[i] = pack(low, high);
      low -= low_of(word), high -= high_of(word);
    }
  }
  return parts;
}

template <int P>
__device__ __forceinline__ Parts<P> transpose(const Parts<P>& parts) {
  Parts<P> out;
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int i = 0; i < 4; ++i) out.part[p].w[i] = transpose(parts.part[p].w[i]);
  return out;
}

/// c += a·bᵀ if not `Transposed`; else c += a·b, where b has been through `transpose`.
template <bool Transposed>
__device__ __forceinline__ void multiply(Tile& c, const Words& a, const Words& b) {
  const uint32_t left[4] = {a.w[0], a.w[2], a.w[1], a.w[3]};
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const uint32_t right[2] = {b.w[Transposed ? j : 2 * j], b.w[Transposed ? j + 2 : 2 * j + 1]};
    float sum[4] = {c.x[2 * j], c.x[2 * j + 1], c.x[4 + 2 * j], c.x[5 + 2 * j]};
    mma(sum, left, right);
    c.x[2 * j] = sum[0], c.x[2 * j + 1] = sum[1], c.x[4 + 2 * j] = sum[2], c.x[5 + 2 * j] = sum[3];
  }
}

template <bool Transposed, int P>
__device__ __forceinline__ void multiply(Tile& c, const Parts<P>& a, const Parts<P>& b) {
  // Small products first.
#pragma unroll
  for (int last = P - 1; last >= 0; --last)
#pragma unroll
    for (int p = 0; p <= last; ++p) multiply<Transposed>(c, a.part[p], b.part[last - p]);
}

/// What a warp leaves in shared memory for the others: P words per lane, read back by the same lane.
template <int P>
__device__ __forceinline__ void put(uint4* at, const Parts<P>& parts) {
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const Words& part = parts.part[p];
    at[p * 32 + lane_of_warp()] = make_uint4(part.w[0], part.w[1], part.w[2], part.w[3]);
  }
}
template <int P>
__device__ __forceinline__ Parts<P> get(const uint4* at) {
  Parts<P> parts;
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const uint4 word = at[p * 32 + lane_of_warp()];
    parts.part[p] = Words{{word.x, word.y, word.z, word.w}};
  }
  return parts;
}

__device__ __forceinline__ Tile zeros() { return Tile{{0, 0, 0, 0, 0, 0, 0, 0}}; }
__device__ __forceinline__ Tile times(const Tile& a, const Tile& b) {
  Tile out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.x[i] = a.x[i] * b.x[i];
  return out;
}

/// a ∘ s, s [4] one factor per channel of the lane.
__device__ __forceinline__ Tile scale(const Tile& a, const float4& s) {
  return Tile{{a.x[0] * s.x, a.x[1] * s.y, a.x[2] * s.z, a.x[3] * s.w,
               a.x[4] * s.x, a.x[5] * s.y, a.x[6] * s.z, a.x[7] * s.w}};
}
__device__ __forceinline__ float4 times(const float4& a, const float4& b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

}  // namespace rwkvclip
