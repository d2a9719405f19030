// Kernels with known faults and known results, for tests/models/test_cuda_emulator.py.
#include "emulator.h"

namespace {

enum Case { kRight, kNoBarrier, kPartBarrier, kPastEnd, kMixedCollectives, kLaneReturned };

__global__ void reverse(const float* x, float* y, int fault) {
  RWKVCLIP_SHARED(float, first);
  RWKVCLIP_SHARED_ARRAY(float, second, 64);
  const int i = threadIdx.x;
  first[i] = x[64 * blockIdx.x + i];
  if (fault == kPartBarrier && i < 33) __syncthreads();
  if (fault == kPastEnd) first[65] = 0;
  if (fault == kMixedCollectives) {
    if (i % 2) __syncwarp();
    else __shfl_sync(~0u, i, 0);
  }
  if (fault == kLaneReturned && i == 40) return;
  if (fault != kNoBarrier) __syncthreads();
  second[i] = first[63 - i];
  __syncthreads();
  y[64 * blockIdx.x + i] = second[i];
}

__global__ void uninitialised(float* y) {
  RWKVCLIP_SHARED(float, dynamic);
  RWKVCLIP_SHARED_ARRAY(float, fixed, 32);
  y[threadIdx.x] = dynamic[threadIdx.x];
  y[32 + threadIdx.x] = fixed[threadIdx.x];
}

__global__ void shuffles(int* y) {
  const int i = threadIdx.x, lane = i % 32;
  y[i] = __shfl_sync(~0u, i, lane + 3, 8);
  y[64 + i] = __shfl_up_sync(~0u, i, 2, 16);
  y[128 + i] = __shfl_down_sync(~0u, i, 2);
  y[192 + i] = __shfl_xor_sync(lane < 16 ? 0xffffu : 0xffff0000u, i, 5, 16);
  y[256 + i] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
}

/// d [16,8] = a [16,16] b [16,8] + 1, row-major, b given as its transpose.
template <class T>
__global__ void product(const T* a, const T* b_transposed, float* d) {
  RWKVCLIP_SHARED(T, tile);
  const int lane = threadIdx.x, group = lane / 4, quad = lane % 4;
  for (int i = lane; i < 256; i += 32) tile[i] = a[i];
  __syncwarp();
  uint32_t left[4], right[2];
  emulator::ldmatrix_x4(left, tile + lane % 16 * 16 + lane / 16 * 8);
  for (int i = 0; i < 2; ++i) std::memcpy(&right[i], b_transposed + group * 16 + 2 * quad + 8 * i, 4);
  float sum[4] = {1, 1, 1, 1};
  emulator::mma_m16n8k16<T>(sum, left, right, sum);
  for (int i = 0; i < 4; ++i) d[(group + 8 * (i / 2)) * 8 + 2 * quad + i % 2] = sum[i];
}

const char* outcome() { return cudaGetErrorString(cudaGetLastError()); }

}  // namespace

extern "C" {

const char* run_reverse(const float* x, float* y, int fault) {
  RWKVCLIP_LAUNCH(reverse, 2, 64, 64 * sizeof(float), nullptr, x, y, fault);
  return outcome();
}
const char* run_uninitialised(float* y) {
  RWKVCLIP_LAUNCH(uninitialised, 1, 32, 32 * sizeof(float), nullptr, y);
  return outcome();
}
const char* run_shuffles(int* y) {
  RWKVCLIP_LAUNCH(shuffles, 1, 64, 0, nullptr, y);
  return outcome();
}
const char* run_product(const void* a, const void* b, float* d, int half) {
  const auto* bf16 = static_cast<const __nv_bfloat16*>(a);
  const auto* fp16 = static_cast<const __half*>(a);
  if (half)
    RWKVCLIP_LAUNCH(product<__half>, 1, 32, 512, nullptr, fp16, static_cast<const __half*>(b), d);
  else
    RWKVCLIP_LAUNCH(product<__nv_bfloat16>, 1, 32, 512, nullptr, bf16, static_cast<const __nv_bfloat16*>(b), d);
  return outcome();
}
const char* run_shared(int bytes, int allow) {
  if (allow && cudaFuncSetAttribute(uninitialised, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes))
    return outcome();
  float y[64];
  RWKVCLIP_LAUNCH(uninitialised, 1, 32, static_cast<size_t>(bytes), nullptr, y);
  return outcome();
}
const char* convert(const float* x, uint16_t* bf16, uint16_t* fp16, float* from_fp16, int size) {
  for (int i = 0; i < size; ++i) {
    bf16[i] = __float2bfloat16_rn(x[i]).bits;
    fp16[i] = __float2half_rn(x[i]).bits;
    from_fp16[i] = __half2float({fp16[i]});
  }
  return outcome();
}
}
