// Tensor core instructions on top of emulator::warp_exchange; part of emulator.h.
#pragma once

namespace emulator {

/// d = a·b + c as PTX mma.sync.aligned.m16n8k16.row.col.f32.T.T.f32, T __nv_bfloat16 or __half.
///
/// With g = lane / 4 and q = lane % 4, a lane holds of a [16,16] in register i the pair at row g + 8·(i%2),
/// columns 2q + 8·(i/2) and the next; of b [16,8] in register i the pair at rows 2q + 8i and the next,
/// column g; of c and d [16,8] in element i that of row g + 8·(i/2), column 2q + i%2.
template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
  struct Operands { uint32_t a[4], b[2]; } mine;
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  const Operands* all = warp_exchange(~0u, mine, "mma.sync");
  const auto number = [](uint32_t pair, int high) {
    const uint16_t bits = high ? pair >> 16 : pair & 0xffff;
    if constexpr (std::is_same<T, __half>::value) return __half2float({bits});
    else return __bfloat162float({bits});
  };
  const int lane = thread_rank() % warpSize, group = lane / 4, quad = lane % 4;
  float sums[4];
  for (int i = 0; i < 4; ++i) {
    const int row = group + 8 * (i / 2), column = 2 * quad + i % 2;
    sums[i] = c[i];
    for (int k = 0; k < 16; ++k) {
      const uint32_t pair_a = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)];
      const uint32_t pair_b = all[column * 4 + k % 8 / 2].b[k / 8];
      sums[i] += number(pair_a, k % 2) * number(pair_b, k % 2);
    }
  }
  std::memcpy(d, sums, sizeof d);
}

/// PTX ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lanes 8i to 8i+7 point at the rows of matrix i.
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed = false) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix: a row is not aligned to 16 bytes");
  struct Row { uint16_t values[8]; } mine;
  std::memcpy(&mine, row, sizeof mine);
  const Row* all = warp_exchange(~0u, mine, transposed ? "ldmatrix.trans" : "ldmatrix");
  const int lane = thread_rank() % warpSize, group = lane / 4, quad = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const Row* matrix = all + 8 * i;
    const uint32_t low = transposed ? matrix[2 * quad].values[group] : matrix[group].values[2 * quad];
    const uint32_t high = transposed ? matrix[2 * quad + 1].values[group] : matrix[group].values[2 * quad + 1];
    r[i] = low | high << 16;
  }
}

}  // namespace emulator
