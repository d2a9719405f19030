// Runs this project's CUDA kernels on the CPU, to prove them correct where no GPU is at hand.
//
//   g++ -O2 -std=c++17 -fno-strict-aliasing -Wno-unknown-pragmas -DRWKVCLIP_EMULATE -x c++ -I tests/cuda
//
// Every CUDA thread of a block is a fiber; fibers run one after another until each waits at a barrier.
// What hardware leaves undefined is made visible: shared memory starts as NaN, a barrier that not every
// thread reaches is reported instead of hanging, writes past the end of shared memory are found, and with
// RWKVCLIP_EMULATE_SEED=n (n > 0) fibers run in a new random order after every barrier, so that a missing
// barrier gives wrong numbers. Failures come back as the error of cudaGetLastError, like a failed launch.
//
// Three macros stand for what has no C++ spelling. Beside nvcc,
//   RWKVCLIP_SHARED(type, name)               declares the dynamic shared memory as `type* name`,
//   RWKVCLIP_SHARED_ARRAY(type, name, count)  is `__shared__ __align__(16) type name[count]`,
//   RWKVCLIP_LAUNCH(kernel, grid, block, bytes, stream, ...)  is
//                                             `kernel<<<grid, block, bytes, stream>>>(...)`.
// A kernel with commas in its name goes in parentheses: RWKVCLIP_LAUNCH((scan<float, 64>), ...). A bare
// `__shared__` works too, but is not filled with NaN.
#pragma once
#undef _FORTIFY_SOURCE  // its longjmp refuses to change stacks

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static
#define RWKVCLIP_SHARED(type, name) type* const name = reinterpret_cast<type*>(emulator::state.dynamic.data())
#define RWKVCLIP_SHARED_ARRAY(type, name, count)   \
  static emulator::SharedArray name##_array(sizeof(type) * (count)); \
  type* const name = reinterpret_cast<type*>(name##_array.bytes.data())
#define RWKVCLIP_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  emulator::launch(kernel, grid, block, bytes, stream, __VA_ARGS__)

#include "emulated_types.h"

// ---- runtime

using cudaStream_t = struct CUstream_st*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

constexpr size_t kStackBytes = 256 << 10, kMaxThreads = 1024, kMaxShared = 227 << 10, kDefaultShared = 48 << 10;
constexpr size_t kFenceBytes = 4096, kSlotBytes = 64;
constexpr unsigned char kFence = 0xa5;

/// The threads of a block, or the lanes of one mask in a warp, that meet at a barrier.
struct Group {
  uint64_t generation = 0;
  unsigned arrived = 0;  // a count for the block, lane bits for a warp
  const char* operation = "";
  alignas(16) unsigned char slots[2][warpSize * kSlotBytes];
};

struct Fiber {
  ucontext_t entry;
  jmp_buf resume;
  bool entered = false, done = false;
  const uint64_t* awaited = nullptr;  // runs again once this differs from `seen`
  uint64_t seen = 0;
  const char* operation = "";
  uint3 index;
};

struct alignas(16) Bytes16 { unsigned char bytes[16]; };

inline std::vector<struct SharedArray*> shared_arrays;
struct SharedArray {
  std::vector<Bytes16> bytes;
  explicit SharedArray(size_t size) : bytes((size + kFenceBytes) / 16) {
    shared_arrays.push_back(this);
    fill();
  }
  void fill() { std::memset(bytes.data(), 0xff, bytes.size() * sizeof(Bytes16)); }
};

struct State {
  std::vector<Fiber> fibers;
  unsigned char* stacks = nullptr;
  jmp_buf scheduler;
  Fiber* current = nullptr;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  Group block;
  std::vector<std::map<unsigned, Group>> warps;
  std::vector<Bytes16> dynamic = std::vector<Bytes16>((kMaxShared + kFenceBytes) / 16);
  std::map<const void*, size_t> shared_limit;
  cudaError_t error = cudaSuccess;
  std::string message, failure;
  std::mt19937 random;
};
inline State state;

inline void pause() {
  if (_setjmp(state.current->resume) == 0) _longjmp(state.scheduler, 1);
}
inline void wait(const Group& group, const char* operation) {
  Fiber& fiber = *state.current;
  fiber.awaited = &group.generation;
  fiber.seen = group.generation;
  fiber.operation = operation;
  pause();
  fiber.awaited = nullptr;
}
inline void fail(const std::string& text) {
  state.failure = text;
  for (;;) pause();
}
inline void fiber_main() {
  for (;;) {
    state.body(state.arguments);
    state.current->done = true;
    pause();
  }
}
inline void run_until_paused(Fiber& fiber) {
  state.current = &fiber;
  threadIdx = fiber.index;
  if (_setjmp(state.scheduler) != 0) return;
  if (fiber.entered) _longjmp(fiber.resume, 1);
  fiber.entered = true;
  getcontext(&fiber.entry);
  fiber.entry.uc_stack.ss_sp = state.stacks + (&fiber - state.fibers.data()) * kStackBytes;
  fiber.entry.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.entry, fiber_main, 0);
  setcontext(&fiber.entry);
}

inline unsigned thread_rank() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

/// Gives every lane of `mask` what each lane brought, by lane; valid up to the lane's next exchange.
template <class T>
const T* warp_exchange(unsigned mask, const T& mine, const char* operation) {
  static_assert(sizeof(T) <= kSlotBytes && std::is_trivially_copyable<T>::value, "too big to exchange");
  const unsigned lane = thread_rank() % warpSize;
  if (!(mask >> lane & 1)) fail(std::string(operation) + ": the calling lane is not in its own mask");
  Group& group = state.warps[thread_rank() / warpSize][mask];
  if (group.arrived == 0) group.operation = operation;
  if (const int order = std::strcmp(group.operation, operation)) {
    // Which lane came first depends on the schedule; the message does not.
    const std::string first = order < 0 ? group.operation : operation, second = order < 0 ? operation : group.operation;
    fail("lanes of one warp meet at " + first + " and " + second);
  }
  unsigned char* slots = group.slots[group.generation % 2];
  std::memcpy(slots + lane * sizeof(T), &mine, sizeof(T));
  group.arrived |= 1u << lane;
  if (group.arrived == mask) {
    group.arrived = 0;
    ++group.generation;
  } else {
    wait(group, operation);
  }
  return reinterpret_cast<const T*>(slots);
}

template <class T>
T shuffle(unsigned mask, T value, int source, const char* operation) {
  const T* all = warp_exchange(mask, value, operation);
  if (!(mask >> source & 1)) fail(std::string(operation) + ": reads a lane outside the mask");
  return all[source];
}

inline std::string position(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

inline void run_block(size_t threads, size_t shared_bytes) {
  unsigned char* shared = reinterpret_cast<unsigned char*>(state.dynamic.data());
  std::memset(shared, 0xff, shared_bytes);
  std::memset(shared + shared_bytes, kFence, kFenceBytes);
  for (SharedArray* array : shared_arrays) array->fill();
  state.block = Group();
  state.warps.assign((threads + warpSize - 1) / warpSize, {});
  static const char* const seed = std::getenv("RWKVCLIP_EMULATE_SEED");
  const bool shuffled = seed && std::atoi(seed) > 0;
  std::vector<size_t> order(threads);
  for (size_t i = 0; i < threads; ++i) {
    order[i] = i;
    Fiber& fiber = state.fibers[i];
    fiber.done = false;
    fiber.awaited = nullptr;
    const unsigned rank = static_cast<unsigned>(i);
    fiber.index = {rank % blockDim.x, rank / blockDim.x % blockDim.y, rank / blockDim.x / blockDim.y};
  }
  for (size_t left = threads; left > 0;) {
    bool progress = false;
    if (shuffled) std::shuffle(order.begin(), order.end(), state.random);
    for (const size_t i : order) {
      Fiber& fiber = state.fibers[i];
      if (fiber.done || (fiber.awaited && *fiber.awaited == fiber.seen)) continue;
      progress = true;
      run_until_paused(fiber);
      if (!state.failure.empty()) return;
      left -= fiber.done;
    }
    if (progress) continue;
    state.failure = "deadlock: " + std::to_string(threads - left) + " of " + std::to_string(threads) +
                    " threads have returned";
    std::map<std::string, int> waiting;
    for (size_t i = 0; i < threads; ++i)
      if (!state.fibers[i].done) ++waiting[state.fibers[i].operation];
    for (const auto& entry : waiting)
      state.failure += ", " + std::to_string(entry.second) + " wait at " + entry.first;
    return;
  }
  for (size_t i = 0; i < kFenceBytes; ++i) {
    if (shared[shared_bytes + i] == kFence) continue;
    state.failure = "byte " + std::to_string(i) + " past the end of shared memory was written";
    return;
  }
}

inline void launch_bytes(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  const size_t threads = size_t{block.x} * block.y * block.z;
  const auto limit = state.shared_limit.find(kernel);
  const size_t allowed = limit == state.shared_limit.end() ? kDefaultShared : limit->second;
  if (threads == 0 || threads > kMaxThreads || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu ||
      grid.y > 65535 || grid.z > 65535 || block.z > 64 || shared_bytes > allowed) {
    state.error = cudaErrorInvalidConfiguration;
    state.message = "invalid configuration: grid " + position({grid.x, grid.y, grid.z}) + ", block " +
                    position({block.x, block.y, block.z}) + ", " + std::to_string(shared_bytes) + " of " +
                    std::to_string(allowed) + " bytes of shared memory";
    return;
  }
  if (!state.stacks) {
    void* memory = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    state.stacks = static_cast<unsigned char*>(memory);
    state.fibers = std::vector<Fiber>(kMaxThreads);
  }
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(threads, shared_bytes);
        if (state.failure.empty()) continue;
        state.error = cudaErrorLaunchFailure;
        state.message = "block " + position(blockIdx) + ", last thread run " + position(threadIdx) + ": " +
                        state.failure;
        state.failure.clear();
        for (Fiber& fiber : state.fibers) fiber.entered = false;
        return;
      }
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            Arguments... arguments) {
  auto call = [=] { kernel(static_cast<Parameters>(arguments)...); };
  state.arguments = &call;
  state.body = [](void* pointer) { (*static_cast<decltype(call)*>(pointer))(); };
  launch_bytes(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes);
}

}  // namespace emulator

#include "emulated_matrix.h"

// ---- barriers and warp collectives

inline void __syncthreads() {
  emulator::Group& block = emulator::state.block;
  if (++block.arrived == blockDim.x * blockDim.y * blockDim.z) {
    block.arrived = 0;
    ++block.generation;
  } else {
    emulator::wait(block, "__syncthreads");
  }
}
inline void __syncwarp(unsigned mask = ~0u) { emulator::warp_exchange(mask, 0, "__syncwarp"); }
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
  const int lane = emulator::thread_rank() % warpSize;
  return emulator::shuffle(mask, value, (lane & -width) + (source & (width - 1)), "__shfl_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = emulator::thread_rank() % warpSize, source = lane - static_cast<int>(delta);
  return emulator::shuffle(mask, value, source < (lane & -width) ? lane : source, "__shfl_up_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = emulator::thread_rank() % warpSize, source = lane + static_cast<int>(delta);
  return emulator::shuffle(mask, value, source >= (lane & -width) + width ? lane : source, "__shfl_down_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flips, int width = warpSize) {
  const int lane = emulator::thread_rank() % warpSize, source = lane ^ flips;
  return emulator::shuffle(mask, value, source >= (lane & -width) + width ? lane : source, "__shfl_xor_sync");
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const int* all = emulator::warp_exchange(mask, predicate, "__ballot_sync");
  unsigned bits = 0;
  for (int lane = 0; lane < warpSize; ++lane)
    if ((mask >> lane & 1) && all[lane]) bits |= 1u << lane;
  return bits;
}
inline bool __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline bool __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

// ---- the part of the runtime that launching code needs

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = emulator::state.error;
  emulator::state.error = cudaSuccess;
  return error;
}
inline cudaError_t cudaPeekAtLastError() { return emulator::state.error; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : emulator::state.message.c_str();
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > emulator::kMaxShared) {
    emulator::state.message = std::to_string(bytes) + " bytes of shared memory are more than a block can have";
    return emulator::state.error = cudaErrorInvalidValue;
  }
  emulator::state.shared_limit[reinterpret_cast<const void*>(kernel)] = bytes;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int byte, size_t bytes, cudaStream_t) {
  std::memset(memory, byte, bytes);
  return cudaSuccess;
}
