// What all kernels share: dtypes, launches, errors.
#pragma once

#include <cstdint>
#include <string>

#ifdef RWKVCLIP_EMULATE
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define RWKVCLIP_SHARED(type, name)                             \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)
#define RWKVCLIP_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#endif

namespace rwkvclip {

enum Dtype { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kFloat64 = 3 };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }

inline thread_local std::string error_text;
inline int fail(const std::string& text) { error_text = text; return 1; }
inline int check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return 0;
  return fail(std::string(name) + ": " + cudaGetErrorString(error));
}

}  // namespace rwkvclip
