// C entry points of the fused elementwise operators; called through ctypes, 0 or an error code comes back.
//
// Numbers of one call share a dtype (a code of common.cuh); sums are float32. `partial` is float32 scratch of
// rwkvclip_num_parts(rows) times the size of what is summed over the rows. Every kernel goes to `stream`.
#include "fused.cuh"
#include "norm_gate.cuh"
#include "shift_lerp.cuh"

namespace rwkvclip {

template <class T, int V>
__global__ void __launch_bounds__(kBlockThreads)
    relu_square_kernel(const T* __restrict__ x, T* __restrict__ out, int64_t size) {
  const int64_t at = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) * V;
  const auto square = [](float value) { return value < 0 ? 0 : value * value; };
  if (at + V <= size) {
    float values[V];
    load<V>(x + at, values);
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] = square(values[i]);
    store<V>(out + at, values);
  } else {
    for (int64_t i = at; i < size; ++i) out[i] = from_float<T>(square(to_float(x[i])));
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kBlockThreads)
    relu_square_backward_kernel(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ gx,
                                int64_t size) {
  const int64_t at = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) * V;
  const auto slope = [](float g, float value) { return value < 0 ? 0 : 2 * g * value; };
  if (at + V <= size) {
    float g[V], values[V];
    load<V>(grad + at, g);
    load<V>(x + at, values);
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] = slope(g[i], values[i]);
    store<V>(gx + at, values);
  } else {
    for (int64_t i = at; i < size; ++i) gx[i] = from_float<T>(slope(to_float(grad[i]), to_float(x[i])));
  }
}

template <int V>
unsigned blocks_over(int64_t size) {
  const int64_t each = int64_t{kBlockThreads} * V;
  return static_cast<unsigned>((size + each - 1) / each);
}

/// Calls `with` with a number of the dtype that `dtype` encodes.
template <class F>
int by_dtype(int64_t dtype, const F& with) {
  if (dtype == kFloat32) return with(float());
  if (dtype == kBFloat16) return with(__nv_bfloat16());
  if (dtype == kFloat16) return with(__half());
  return fail("expected dtype float32, bfloat16 or float16, got code " + std::to_string(dtype));
}

/// Calls `with` with the width of memory accesses, std::integral_constant of 16 bytes or one element.
template <class T, class F>
int by_vector(bool wide, const F& with) {
  return wide ? with(std::integral_constant<int, kVector<T>>()) : with(std::integral_constant<int, 1>());
}

/// 0 if [rows, C] in heads of N can be indexed as the kernels do.
int check_rows(int64_t rows, int64_t width, int64_t heads) {
  if (heads < 1 || width % heads != 0)
    return fail("expected a width that is a multiple of the heads, got width " + std::to_string(width) +
                " and " + std::to_string(heads) + " heads");
  if (rows > INT32_MAX || width > (1 << 28))
    return fail("expected at most 2^31 - 1 tokens of width at most 2^28, got " + std::to_string(rows) +
                " of width " + std::to_string(width));
  return 0;
}

int check_shift(const Shift& shift, int64_t width, int64_t heads) {
  if (const int code = check_rows(shift.rows, width, heads)) return code;
  if (shift.directions != 2 && shift.directions != 4)
    return fail("expected 2 or 4 directions, got " + std::to_string(shift.directions));
  if (shift.mixes < 1) return fail("expected at least 1 mix, got " + std::to_string(shift.mixes));
  if (!shift.mix_per_token && shift.mixes > kMostSummedMixes)
    return fail("expected at most " + std::to_string(kMostSummedMixes) + " mixes that all tokens share, got " +
                std::to_string(shift.mixes));
  return 0;
}

/// Whether the channels of one 16-byte access move in units of kUnit.
template <class T>
bool wide_shift(const Shift& shift) {
  return shift.width % kVector<T> == 0 && shift.head_width % (4 * shift.directions) == 0;
}

Shift make_shift(int64_t batch, int64_t h, int64_t w, int64_t width, int64_t heads, int64_t directions,
                 int64_t mixes, int64_t mix_per_token) {
  return {batch * h * w,
          static_cast<unsigned>(h * w),
          static_cast<unsigned>(w),
          static_cast<int>(width),
          static_cast<int>(heads < 1 ? 0 : width / heads),
          static_cast<int>(directions),
          static_cast<int>(mixes),
          mix_per_token != 0};
}

/// Fills `norm`; 0 if the kernels can do it.
int make_norm(int64_t rows, int64_t width, int64_t heads, double eps, int64_t parameter_dtype, Norm& norm) {
  if (const int code = check_rows(rows, width, heads)) return code;
  if (width / heads > kMostHeadWidth)
    return fail("expected heads of at most " + std::to_string(kMostHeadWidth) + " channels, got " +
                std::to_string(width / heads));
  norm = {rows, static_cast<int>(heads), static_cast<int>(width / heads), static_cast<int>(parameter_dtype),
          static_cast<float>(eps)};
  return by_dtype(parameter_dtype, [](auto) { return 0; });
}

}  // namespace rwkvclip

using namespace rwkvclip;

extern "C" {

/// Parts of the sums over `rows` rows of [rows, C].
int64_t rwkvclip_num_parts(int64_t rows) { return num_parts(rows); }

/// out [K, B, T, C] of x [B, T, C] with T = h·w and mix [K, C] or, per token, [K, B, T, C].
int rwkvclip_shift_lerp(const void* x, const void* mix, void* out, int64_t batch, int64_t h, int64_t w,
                        int64_t width, int64_t heads, int64_t directions, int64_t mixes, int64_t mix_per_token,
                        int64_t dtype, void* stream) {
  const Shift shift = make_shift(batch, h, w, width, heads, directions, mixes, mix_per_token);
  if (const int code = check_shift(shift, width, heads)) return code;
  if (shift.rows * width == 0) return 0;
  return by_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return by_vector<T>(wide_shift<T>(shift) && aligned(x, mix, out), [&](auto vector) {
      return launch_shift_lerp<T, vector.value>(static_cast<const T*>(x), static_cast<const T*>(mix),
                                                static_cast<T*>(out), shift,
                                                static_cast<cudaStream_t>(stream));
    });
  });
}

/// gx and gmix, shaped as x and mix; partial [parts, K, C] where all tokens share the mix.
int rwkvclip_shift_lerp_backward(const void* grad, const void* x, const void* mix, void* gx, void* gmix,
                                 void* partial, int64_t batch, int64_t h, int64_t w, int64_t width,
                                 int64_t heads, int64_t directions, int64_t mixes, int64_t mix_per_token,
                                 int64_t dtype, void* stream) {
  const Shift shift = make_shift(batch, h, w, width, heads, directions, mixes, mix_per_token);
  if (const int code = check_shift(shift, width, heads)) return code;
  if (width == 0 || (shift.rows == 0 && shift.mix_per_token)) return 0;
  return by_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return by_vector<T>(wide_shift<T>(shift) && aligned(grad, x, mix, gx, gmix), [&](auto vector) {
      return launch_shift_lerp_backward<T, vector.value>(
          static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<const T*>(mix),
          static_cast<T*>(gx), static_cast<T*>(gmix), static_cast<float*>(partial), shift,
          static_cast<cudaStream_t>(stream));
    });
  });
}

/// out [rows, C] of y and gate [rows, C], weight and bias [C], the latter two of parameter_dtype.
int rwkvclip_norm_gate(const void* y, const void* gate, const void* weight, const void* bias, void* out,
                       int64_t rows, int64_t width, int64_t heads, double eps, int64_t dtype,
                       int64_t parameter_dtype, void* stream) {
  Norm norm;
  if (const int code = make_norm(rows, width, heads, eps, parameter_dtype, norm)) return code;
  if (rows * width == 0) return 0;
  return by_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return by_vector<T>(norm.head_width % kVector<T> == 0 && aligned(y, gate, weight, bias, out), [&](auto vector) {
      return launch_norm_gate<T, vector.value>(static_cast<const T*>(y), static_cast<const T*>(gate), weight,
                                               bias, static_cast<T*>(out), norm,
                                               static_cast<cudaStream_t>(stream));
    });
  });
}

/// gy and ggate [rows, C]; gparameters [2, C], of weight and bias, in parameter_dtype; partial [parts, 2, C].
int rwkvclip_norm_gate_backward(const void* grad, const void* y, const void* gate, const void* weight,
                                const void* bias, void* gy, void* ggate, void* gparameters, void* partial,
                                int64_t rows, int64_t width, int64_t heads, double eps, int64_t dtype,
                                int64_t parameter_dtype, void* stream) {
  Norm norm;
  if (const int code = make_norm(rows, width, heads, eps, parameter_dtype, norm)) return code;
  if (width == 0) return 0;
  const auto to = static_cast<cudaStream_t>(stream);
  auto* sums = static_cast<float*>(partial);
  const int code = by_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    const bool wide = norm.head_width % kVector<T> == 0 && aligned(grad, y, gate, weight, bias, gy, ggate);
    return by_vector<T>(wide, [&](auto vector) {
      return launch_norm_gate_backward<T, vector.value>(
          static_cast<const T*>(grad), static_cast<const T*>(y), static_cast<const T*>(gate), weight, bias,
          static_cast<T*>(gy), static_cast<T*>(ggate), sums, norm, to);
    });
  });
  if (code) return code;
  return by_dtype(parameter_dtype, [&](auto number) {
    return sum_parts(sums, static_cast<decltype(number)*>(gparameters), num_parts(rows), 2 * width, to);
  });
}

/// out = max(x, 0)², `size` numbers.
int rwkvclip_relu_square(const void* x, void* out, int64_t size, int64_t dtype, void* stream) {
  if (size == 0) return 0;
  return by_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return by_vector<T>(aligned(x, out), [&](auto vector) {
      RWKVCLIP_LAUNCH((relu_square_kernel<T, vector.value>), blocks_over<vector.value>(size), kBlockThreads, 0,
                      static_cast<cudaStream_t>(stream), static_cast<const T*>(x), static_cast<T*>(out), size);
      return check_launch("relu_square");
    });
  });
}

/// gx = 2 · grad · max(x, 0), `size` numbers.
int rwkvclip_relu_square_backward(const void* grad, const void* x, void* gx, int64_t size, int64_t dtype,
                                  void* stream) {
  if (size == 0) return 0;
  return by_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return by_vector<T>(aligned(grad, x, gx), [&](auto vector) {
      RWKVCLIP_LAUNCH((relu_square_backward_kernel<T, vector.value>), blocks_over<vector.value>(size),
                      kBlockThreads, 0, static_cast<cudaStream_t>(stream), static_cast<const T*>(grad),
                      static_cast<const T*>(x), static_cast<T*>(gx), size);
      return check_launch("relu_square_backward");
    });
  });
}
}
