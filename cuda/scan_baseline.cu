// The benchmark's yardstick, used for nothing else: Bi-WKV as sequential float32 scans.
//
// One thread block per batch and head, one thread per channel with its line of the N×N state in registers; a
// scan from the left and one from the right for each of y, ∂r, ∂k, ∂v. ∂log d_j of one side is the sum of
// r∘∂r over the tokens beyond j less that of k∘∂k from j on, which loses accuracy where decays are strong.
// Axes: B batch, T tokens, H heads, N head width.
#include "common.cuh"

namespace rwkvclip {

struct Scan {
  int64_t tokens, heads;
  const float *w, *u;
};

/// Walks one head's tokens from the left or the right.
template <bool Reverse>
struct Walk {
  int64_t tokens, start, stride;
  __device__ __forceinline__ Walk(const Scan& op, int width)
      : tokens(op.tokens),
        start((blockIdx.x / op.heads * op.tokens * op.heads + blockIdx.x % op.heads) * width + threadIdx.x),
        stride(op.heads * width) {}
  __device__ __forceinline__ int64_t at(int64_t step) const {
    return start + (Reverse ? tokens - 1 - step : step) * stride;
  }
};

__device__ __forceinline__ float decay_of(float w) { return expf(-expf(w)); }

/// out_t = a_t Σ decayed b_sᵀ q_s; the thread's line is a value channel. The left scan adds the current token.
template <int N, bool Reverse>
__device__ void scan_values(const Scan& op, const float* a, const float* b, const float* q, float* out,
                            float* shared) {
  const Walk<Reverse> walk(op, N);
  const int n = threadIdx.x;
  const float u = Reverse ? 0 : op.u[blockIdx.x % op.heads * N + n];
  float state[N];
#pragma unroll
  for (int i = 0; i < N; ++i) state[i] = 0;
  for (int64_t step = 0; step < op.tokens; ++step) {
    const int64_t at = walk.at(step);
    __syncthreads();
    shared[n] = a[at], shared[N + n] = b[at], shared[2 * N + n] = decay_of(op.w[at]), shared[3 * N + n] = u;
    __syncthreads();
    const float own = q[at];
    float sum = Reverse ? out[at] : 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float product = shared[N + i] * own;
      sum += shared[i] * (state[i] + shared[3 * N + i] * product);
      state[i] = shared[2 * N + i] * state[i] + product;
    }
    out[at] = sum;
  }
}

/// ga_t = p_t (Σ decayed b_sᵀ q_s)ᵀ; the thread's line is a key channel. `each` sees a token and its sums.
template <int N, bool Reverse, class F>
__device__ void scan_keys(const Scan& op, const float* b, const float* p, const float* q, float* shared,
                          const F& each) {
  const Walk<Reverse> walk(op, N);
  const int n = threadIdx.x;
  float state[N];
#pragma unroll
  for (int i = 0; i < N; ++i) state[i] = 0;
  for (int64_t step = 0; step < op.tokens; ++step) {
    const int64_t at = walk.at(step);
    __syncthreads();
    shared[n] = p[at], shared[N + n] = q[at];
    __syncthreads();
    const float own = b[at], decay = decay_of(op.w[at]);
    float sum = 0, same = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += shared[i] * state[i];
      same += shared[i] * shared[N + i];
      state[i] = decay * state[i] + own * shared[N + i];
    }
    each(at, sum, same);
  }
}

template <int N>
__global__ void __launch_bounds__(N)
    scan_forward_kernel(Scan op, const float* r, const float* k, const float* v, float* y) {
  RWKVCLIP_SHARED(float, shared);
  scan_values<N, false>(op, r, k, v, y, shared);
  scan_values<N, true>(op, r, k, v, y, shared);
}

struct ScanGradients {
  const float *gy, *r, *k, *v;
  float *gr, *gk, *gv, *gw, *gu, *crossed;
};

/// The pairs whose receptance lies right of the key (`Reverse`: left of it).
template <int N, bool Reverse>
__device__ void scan_side(const Scan& op, const ScanGradients& g, float* shared) {
  const float u = op.u[blockIdx.x % op.heads * N + threadIdx.x];
  float gu = 0, beyond = 0;
  scan_keys<N, Reverse>(op, g.k, g.gy, g.v, shared, [&](int64_t at, float sum, float same) {
    g.crossed[at] = g.r[at] * sum;
    g.gr[at] = Reverse ? g.gr[at] + sum : sum + u * g.k[at] * same;
    gu += g.r[at] * g.k[at] * same;
  });
  scan_keys<N, !Reverse>(op, g.r, g.v, g.gy, shared, [&](int64_t at, float sum, float same) {
    beyond -= g.k[at] * sum;
    const float gw = -expf(op.w[at]) * beyond;
    beyond += g.crossed[at];
    g.gk[at] = Reverse ? g.gk[at] + sum : sum + u * g.r[at] * same;
    g.gw[at] = Reverse ? g.gw[at] + gw : gw;
  });
  if (!Reverse) g.gu[int64_t{blockIdx.x} * N + threadIdx.x] = gu;
}

template <int N>
__global__ void __launch_bounds__(N) scan_backward_kernel(Scan op, ScanGradients g) {
  RWKVCLIP_SHARED(float, shared);
  scan_side<N, false>(op, g, shared);
  scan_side<N, true>(op, g, shared);
  scan_values<N, false>(op, g.k, g.r, g.gy, g.gv, shared);
  scan_values<N, true>(op, g.k, g.r, g.gy, g.gv, shared);
}

/// Calls `with` with the head width as a constant.
template <class F>
int by_width(int64_t width, const F& with) {
  if (width == 64) return with(std::integral_constant<int, 64>());
  if (width == 80) return with(std::integral_constant<int, 80>());
  return fail("expected one of RWKV-CLIP's head widths, 64 or 80, got " + std::to_string(width));
}

}  // namespace rwkvclip

using namespace rwkvclip;

/// y of contiguous float32 operands [B, T, H, N] and u [H, N].
extern "C" int rwkvclip_scan_forward(const float* r, const float* k, const float* v, const float* w,
                                     const float* u, float* y, int64_t batch, int64_t tokens, int64_t heads,
                                     int64_t width, void* stream) {
  return by_width(width, [&](auto constant) {
    constexpr int n = constant;
    if (batch * heads == 0) return 0;
    RWKVCLIP_LAUNCH(scan_forward_kernel<n>, static_cast<unsigned>(batch * heads), n, 4 * n * sizeof(float),
                    static_cast<cudaStream_t>(stream), Scan{tokens, heads, w, u}, r, k, v, y);
    return check_launch("scan");
  });
}

/// Gradients, of u as [B, H, N] to be summed over B; `scratch` has the size of w.
extern "C" int rwkvclip_scan_backward(const float* gy, const float* r, const float* k, const float* v,
                                      const float* w, const float* u, float* gr, float* gk, float* gv, float* gw,
                                      float* gu, float* scratch, int64_t batch, int64_t tokens, int64_t heads,
                                      int64_t width, void* stream) {
  return by_width(width, [&](auto constant) {
    constexpr int n = constant;
    if (batch * heads == 0) return 0;
    RWKVCLIP_LAUNCH(scan_backward_kernel<n>, static_cast<unsigned>(batch * heads), n, 4 * n * sizeof(float),
                    static_cast<cudaStream_t>(stream), Scan{tokens, heads, w, u},
                    ScanGradients{gy, r, k, v, gr, gk, gv, gw, gu, scratch});
    return check_launch("scan backward");
  });
}
