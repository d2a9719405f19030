// C entry points of Bi-WKV; called through ctypes, 0 or an error code comes back.
//
// Operands are contiguous and aligned to 16 bytes: r, k, v, y and their gradients [B, T, H, N] in one dtype
// (a code of common.cuh), w and gw [B, T, H, N], u [H, N] and workspaces in float32; N is a multiple of 16 up
// to 128. Every kernel goes to `stream`, and nothing is allocated.
#include <algorithm>

#include "wkv_backward.cuh"
#include "wkv_forward.cuh"
#include "wkv_states.cuh"

namespace rwkvclip {

constexpr int kMostWidth = 128;
/// Most blocks of a chunk where a sequence has several.
constexpr int kLongBlocks = 8;
/// Shared memory that a thread block has on every GPU from sm_80 on.
constexpr size_t kSharedBytes = 99 << 10;
/// Floats of the states of one operand pair; more heads than they hold take turns.
#ifdef RWKVCLIP_STATE_FLOATS
constexpr int64_t kStateFloats = RWKVCLIP_STATE_FLOATS;  // few, so that tests take turns
#else
constexpr int64_t kStateFloats = 1 << 25;
#endif

/// Most blocks of a chunk that is the whole sequence, bounded by registers; 13 hold the 196 patches of B/16.
template <class T>
constexpr int kMostBlocks = kParts<T> == 1 ? 13 : 8;

/// Most blocks of a chunk beside states, which need shared memory too.
template <class T>
int long_blocks(int width) {
  int blocks = kLongBlocks;
  while (std::max(forward_bytes<kParts<T>>(blocks, width, true), sums_bytes<kParts<T>>(blocks, width)) >
         kSharedBytes)
    --blocks;
  return blocks;
}

struct Plan {
  int64_t batch, tokens, heads, width;
  int blocks, chunks;
  int64_t turn;  // heads b·H + h that share the states

  Plan(int64_t batch, int64_t tokens, int64_t heads, int64_t width, int most_blocks, int long_blocks)
      : batch(batch), tokens(tokens), heads(heads), width(width) {
    const int64_t all = (tokens + kBlockTokens - 1) / kBlockTokens;
    const int64_t cut = all <= most_blocks ? 1 : (all + long_blocks - 1) / long_blocks;
    chunks = static_cast<int>(cut);
    blocks = static_cast<int>((all + cut - 1) / cut);
    // Every thread block's index has 31 bits.
    const int64_t most = INT32_MAX / cut;
    const int64_t held = cut == 1 ? most : kStateFloats / per_head();
    turn = std::max<int64_t>(1, std::min({held, most, batch * heads}));
  }
  int64_t per_head() const { return chunks * (2 * width * width + width); }
  int64_t state_floats() const { return chunks == 1 ? 0 : turn * per_head(); }
  States states(float* workspace, int64_t count) const {
    if (chunks == 1) return {nullptr, nullptr, count};
    return {workspace, workspace + 2 * count * chunks * width * width, count};
  }
  Shape shape(int64_t first) const { return {tokens, heads, static_cast<int>(width), chunks, first}; }
};

template <class... P, class Op>
int launch(const char* name, void (*kernel)(P...), const Plan& plan, int64_t count, size_t bytes,
           cudaStream_t stream, const Op& op) {
  if (bytes > 48 << 10) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (error != cudaSuccess) {
      cudaGetLastError();
      return fail(std::string(name) + " needs " + std::to_string(bytes) + " bytes of shared memory: " +
                  cudaGetErrorString(error));
    }
  }
  RWKVCLIP_LAUNCH(kernel, static_cast<unsigned>(count * plan.chunks), plan.blocks * 32, bytes, stream, op);
  return check_launch(name);
}

/// Calls `with` with the smallest number of blocks that kernels are compiled for; 4 and 5 are B/32's and text.
template <class T, class F>
int by_blocks(int blocks, const F& with) {
  if (blocks <= 4) return with(std::integral_constant<int, 4>());
  if constexpr (kParts<T> == 1)
    if (blocks == 5) return with(std::integral_constant<int, 5>());
  if (blocks <= 8) return with(std::integral_constant<int, 8>());
  return with(std::integral_constant<int, kMostBlocks<T>>());
}

/// Fills the states Σ kᵀv of the heads of one turn.
template <class T>
int make_states(const Plan& plan, const Shape& shape, const States& states, const T* k, const T* v,
                const float* w, cudaStream_t stream) {
  if (!states.data) return 0;
  const Sums<T> op{shape, k, v, w, states};
  const size_t bytes = sums_bytes<kParts<T>>(plan.blocks, shape.width);
  const int code =
      launch("Bi-WKV sums", wkv_sums_kernel<T, kLongBlocks>, plan, states.heads, bytes, stream, op);
  if (code) return code;
  const int64_t threads = states.heads * shape.width * shape.width / 4;
  const dim3 grid(static_cast<unsigned>((threads + kCarryThreads - 1) / kCarryThreads), 2);
  RWKVCLIP_LAUNCH(wkv_carry_kernel, grid, kCarryThreads, 0, stream, shape, states);
  return check_launch("Bi-WKV carry");
}

template <class T>
int run_forward(const Plan& plan, const Forward<T>& op, cudaStream_t stream) {
  const size_t bytes = forward_bytes<kParts<T>>(plan.blocks, op.shape.width, op.states.data != nullptr);
  return by_blocks<T>(plan.blocks, [&](auto most) {
    return launch("Bi-WKV", wkv_forward_kernel<T, most>, plan, op.states.heads, bytes, stream, op);
  });
}

template <class T>
int run_backward(const Plan& plan, const Backward<T>& op, cudaStream_t stream) {
  return by_blocks<T>(plan.blocks, [&](auto most) {
    return launch("Bi-WKV backward", wkv_backward_kernel<T, most>, plan, op.states.heads,
                  backward_bytes<kParts<T>>(plan.blocks), stream, op);
  });
}

template <class T>
int forward(const Plan& plan, const T* r, const T* k, const T* v, const float* w, const float* u, T* y,
            float* workspace, cudaStream_t stream) {
  const int64_t all = plan.batch * plan.heads;
  for (int64_t first = 0; first < all; first += plan.turn) {
    const Shape shape = plan.shape(first);
    const States states = plan.states(workspace, std::min(plan.turn, all - first));
    if (const int code = make_states(plan, shape, states, k, v, w, stream)) return code;
    if (const int code = run_forward<T>(plan, {shape, r, k, v, w, u, states, y}, stream)) return code;
  }
  return 0;
}

template <class T>
int backward(const Plan& plan, const T* gy, const T* r, const T* k, const T* v, const float* w, const float* u,
             T* gr, T* gk, T* gv, float* gw, float* gu, float* workspace, cudaStream_t stream) {
  const int64_t all = plan.batch * plan.heads;
  for (int64_t first = 0; first < all; first += plan.turn) {
    const Shape shape = plan.shape(first);
    const int64_t count = std::min(plan.turn, all - first);
    const States of_keys = plan.states(workspace, count);
    const States of_receptances = plan.states(workspace + plan.state_floats(), count);
    if (const int code = make_states(plan, shape, of_keys, k, v, w, stream)) return code;
    if (const int code = make_states(plan, shape, of_receptances, r, gy, w, stream)) return code;
    const Backward<T> of_r{shape, r, k, gy, v, w, u, of_keys, of_receptances, true, gr, gw, gu};
    const Backward<T> of_k{shape, k, r, v, gy, w, u, of_receptances, of_keys, false, gk, gw, gu};
    if (const int code = run_backward(plan, of_r, stream)) return code;
    if (const int code = run_backward(plan, of_k, stream)) return code;
    // A's transpose swaps receptance and key: gv = Aᵀ gy.
    if (const int code = run_forward<T>(plan, {shape, k, r, gy, w, u, of_receptances, gv}, stream)) return code;
  }
  return 0;
}

/// Calls `with` with a number of the dtype and the plan.
template <class F>
int with_plan(int64_t batch, int64_t tokens, int64_t heads, int64_t width, int64_t dtype, const F& with) {
  if (batch < 0 || tokens < 1 || heads < 0)
    return fail("expected at least 1 token and no negative size, got batch " + std::to_string(batch) + ", " +
                std::to_string(tokens) + " tokens, " + std::to_string(heads) + " heads");
  if (width < 16 || width > kMostWidth || width % 16 != 0)
    return fail("expected a head width that is a multiple of 16 up to " + std::to_string(kMostWidth) +
                ", got " + std::to_string(width));
  const auto call = [&](auto zero) {
    using T = decltype(zero);
    return with(zero, Plan(batch, tokens, heads, width, kMostBlocks<T>, long_blocks<T>(int(width))));
  };
  if (dtype == kFloat32) return call(float());
  if (dtype == kBFloat16) return call(__nv_bfloat16());
  if (dtype == kFloat16) return call(__half());
  return fail("expected dtype float32, bfloat16 or float16, got code " + std::to_string(dtype));
}

}  // namespace rwkvclip

using namespace rwkvclip;

/// Writes the floats of workspace that a forward and a backward pass need, and the rows [B, rows, H, N] of gu.
extern "C" int rwkvclip_bi_wkv6_sizes(int64_t batch, int64_t tokens, int64_t heads, int64_t width,
                                      int64_t dtype, int64_t* forward_floats, int64_t* backward_floats,
                                      int64_t* gu_rows) {
  return with_plan(batch, tokens, heads, width, dtype, [&](auto, const Plan& plan) {
    *forward_floats = plan.state_floats();
    *backward_floats = 2 * plan.state_floats();
    *gu_rows = int64_t{plan.chunks} * plan.blocks;
    return 0;
  });
}

extern "C" int rwkvclip_bi_wkv6(const void* r, const void* k, const void* v, const float* w, const float* u,
                                void* y, float* workspace, int64_t batch, int64_t tokens, int64_t heads,
                                int64_t width, int64_t dtype, void* stream) {
  return with_plan(batch, tokens, heads, width, dtype, [&](auto zero, const Plan& plan) {
    using T = decltype(zero);
    return forward(plan, static_cast<const T*>(r), static_cast<const T*>(k), static_cast<const T*>(v), w, u,
                   static_cast<T*>(y), workspace, static_cast<cudaStream_t>(stream));
  });
}

/// gu [B, rows, H, N] is to be summed over B and rows.
extern "C" int rwkvclip_bi_wkv6_backward(const void* gy, const void* r, const void* k, const void* v,
                                         const float* w, const float* u, void* gr, void* gk, void* gv,
                                         float* gw, float* gu, float* workspace, int64_t batch, int64_t tokens,
                                         int64_t heads, int64_t width, int64_t dtype, void* stream) {
  return with_plan(batch, tokens, heads, width, dtype, [&](auto zero, const Plan& plan) {
    using T = decltype(zero);
    return backward(plan, static_cast<const T*>(gy), static_cast<const T*>(r), static_cast<const T*>(k),
                    static_cast<const T*>(v), w, u, static_cast<T*>(gr), static_cast<T*>(gk),
                    static_cast<T*>(gv), gw, gu, workspace, static_cast<cudaStream_t>(stream));
  });
}
