// Group norm × gate, gated sums and squared ReLU on a CPU, and their gradients.
//
// Axes: B batch, T tokens, C channels (heads of N), W lanes. C is a multiple of 16.
#include <algorithm>
#include <vector>

#include "cpu_abi.h"

namespace rwkvclip {
namespace {

template <class T>
struct Moments {
  T mean, rstd;
};

template <class T, class S>
Moments<T> moments(const S* y, int64_t width, double eps) {
  constexpr int W = LANES<T>;
  Vec<T> total{}, squares{};
  for (int64_t n = 0; n < width; n += W) total += load(y + n);
  const T mean = sum<T>(total) / T(width);
  for (int64_t n = 0; n < width; n += W) {
    const Vec<T> centred = load(y + n) - mean;
    squares += centred * centred;
  }
  return {mean, T(1) / std::sqrt(sum<T>(squares) / T(width) + T(eps))};
}

// weight and bias [C]; rows of y, gate and out are B·T.
template <class T, class S>
void norm_gate(const S* y, const S* gate, const T* weight, const T* bias, S* out, int64_t rows, int64_t channels,
               int64_t heads, double eps, int64_t threads) {
  constexpr int W = LANES<T>;
  const int64_t width = channels / heads;
  in_parallel(threads, rows * heads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * width, c = i % heads * width;
      const Moments<T> m = moments<T>(y + at, width, eps);
      for (int64_t n = 0; n < width; n += W) {
        const Vec<T> g = load(gate + at + n);
        const Vec<T> normed = (load(y + at + n) - m.mean) * m.rstd * load(weight + c + n) + load(bias + c + n);
        store(out + at + n, normed * g / (exp(-g) + T(1)));
      }
    }
  });
}

// g_weight and g_bias [parts, C] hold one partial sum per equal share of the rows.
template <class T, class S>
void norm_gate_backward(const S* grad, const S* y, const S* gate, const T* weight, const T* bias, S* gy, S* g_gate,
                        T* g_weight, T* g_bias, int64_t parts, int64_t rows, int64_t channels, int64_t heads,
                        double eps, int64_t threads) {
  constexpr int W = LANES<T>;
  const int64_t width = channels / heads;
  in_parallel(threads, parts, [&](int64_t first, int64_t last) {
    std::vector<T> scaled(static_cast<size_t>(width));
    for (int64_t part = first; part < last; ++part) {
      T *gw = g_weight + part * channels, *gb = g_bias + part * channels;
      std::memset(gw, 0, size_t(channels) * sizeof(T));
      std::memset(gb, 0, size_t(channels) * sizeof(T));
      for (int64_t i = rows * part / parts * heads; i < rows * (part + 1) / parts * heads; ++i) {
        const int64_t at = i * width, c = i % heads * width;
        const Moments<T> m = moments<T>(y + at, width, eps);
        Vec<T> along_mean{}, along_normed{};
        for (int64_t n = 0; n < width; n += W) {
          const Vec<T> g = load(gate + at + n), upstream = load(grad + at + n);
          const Vec<T> normed = (load(y + at + n) - m.mean) * m.rstd, w = load(weight + c + n);
          const Vec<T> sigmoid = T(1) / (exp(-g) + T(1)), affine = normed * w + load(bias + c + n);
          store(g_gate + at + n, upstream * affine * sigmoid * (g * (T(1) - sigmoid) + T(1)));
          const Vec<T> to_affine = upstream * g * sigmoid, to_normed = to_affine * w;
          store(gw + c + n, load(gw + c + n) + to_affine * normed);
          store(gb + c + n, load(gb + c + n) + to_affine);
          store(scaled.data() + n, to_normed);
          along_mean += to_normed;
          along_normed += to_normed * normed;
        }
        const T mean = sum<T>(along_mean) / T(width), slope = sum<T>(along_normed) / T(width);
        for (int64_t n = 0; n < width; n += W) {
          const Vec<T> normed = (load(y + at + n) - m.mean) * m.rstd;
          store(gy + at + n, (load(scaled.data() + n) - mean - normed * slope) * m.rstd);
        }
      }
    }
  });
}

// Calls work(at, count) on every vector of [0, size): `count` is W but for the last, ragged one.
template <class T, class Work>
void by_vectors(int64_t size, int64_t threads, Work work) {
  constexpr int W = LANES<T>;
  in_parallel(threads, (size + W - 1) / W, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * W; at < end * W; at += W) work(at, std::min<int64_t>(W, size - at));
  });
}

template <class S>
auto some(const S* from, int64_t count) {
  constexpr int W = LANES<std::conditional_t<std::is_same_v<S, double>, double, float>>;
  if (count == W) return load(from);
  S padded[W] = {};
  std::memcpy(padded, from, size_t(count) * sizeof(S));
  return load(static_cast<const S*>(padded));
}

template <class T, class S>
void put(S* to, int64_t count, Vec<T> x) {
  if (count == LANES<T>) return store(to, x);
  S padded[LANES<T>];
  store(padded, x);
  std::memcpy(to, padded, size_t(count) * sizeof(S));
}

// Applies `map` to vectors of two operands.
template <class T, class S, class Map>
void elementwise(const S* a, const S* b, S* out, int64_t size, int64_t threads, Map map) {
  by_vectors<T>(size, threads, [=](int64_t at, int64_t n) {
    put<T>(out + at, n, map(Vec<T>(some(a + at, n)), Vec<T>(some(b + at, n))));
  });
}

// out = residual + scale·sigmoid(gate)·value; `scale`, where there is one, holds a factor for every `each` elements,
// a multiple of W.
template <class T, class S>
void gated_add(const S* residual, const S* gate, const S* value, const T* scale, S* out, int64_t each, int64_t size,
               int64_t threads) {
  by_vectors<T>(size, threads, [=](int64_t at, int64_t n) {
    const Vec<T> base = some(residual + at, n), g = some(gate + at, n), v = some(value + at, n);
    const Vec<T> opened = v / (exp(-g) + T(1));
    put<T>(out + at, n, base + (scale ? opened * scale[at / each] : opened));
  });
}

// The gradients of gate and value; that of residual is `grad`.
template <class T, class S>
void gated_add_backward(const S* grad, const S* gate, const S* value, const T* scale, S* g_gate, S* g_value,
                        int64_t each, int64_t size, int64_t threads) {
  by_vectors<T>(size, threads, [=](int64_t at, int64_t n) {
    const Vec<T> g = some(grad + at, n), v = some(value + at, n);
    const Vec<T> open = T(1) / (exp(-Vec<T>(some(gate + at, n))) + T(1));
    const Vec<T> through = (scale ? g * scale[at / each] : g) * open;
    put<T>(g_value + at, n, through);
    put<T>(g_gate + at, n, through * v * (T(1) - open));
  });
}

}  // namespace
}  // namespace rwkvclip

extern "C" int rwkvclip_norm_gate(const void* y, const void* gate, const void* weight, const void* bias, void* out,
                                  int64_t rows, int64_t channels, int64_t heads, double eps, int64_t dtype,
                                  int64_t threads) {
  RWKVCLIP_BY_DTYPE(norm_gate<T, S>((const S*)y, (const S*)gate, (const T*)weight, (const T*)bias, (S*)out, rows,
                                    channels, heads, eps, threads))
}

extern "C" int rwkvclip_norm_gate_backward(const void* grad, const void* y, const void* gate, const void* weight,
                                           const void* bias, void* gy, void* g_gate, void* g_weight, void* g_bias,
                                           int64_t parts, int64_t rows, int64_t channels, int64_t heads, double eps,
                                           int64_t dtype, int64_t threads) {
  RWKVCLIP_BY_DTYPE(norm_gate_backward<T, S>((const S*)grad, (const S*)y, (const S*)gate, (const T*)weight,
                                             (const T*)bias, (S*)gy, (S*)g_gate, (T*)g_weight, (T*)g_bias, parts, rows,
                                             channels, heads, eps, threads))
}

// `scale` [size / each] in float32 (float64 for float64), or null; each is a multiple of 16 where it is given.
extern "C" int rwkvclip_gated_add(const void* residual, const void* gate, const void* value, const void* scale,
                                  void* out, int64_t each, int64_t size, int64_t dtype, int64_t threads) {
  RWKVCLIP_BY_DTYPE(gated_add<T, S>((const S*)residual, (const S*)gate, (const S*)value, (const T*)scale, (S*)out, each,
                                    size, threads))
}

extern "C" int rwkvclip_gated_add_backward(const void* grad, const void* gate, const void* value, const void* scale,
                                           void* g_gate, void* g_value, int64_t each, int64_t size, int64_t dtype,
                                           int64_t threads) {
  RWKVCLIP_BY_DTYPE(gated_add_backward<T, S>((const S*)grad, (const S*)gate, (const S*)value, (const T*)scale,
                                             (S*)g_gate, (S*)g_value, each, size, threads))
}

extern "C" int rwkvclip_relu_square(const void* x, void* out, int64_t size, int64_t dtype, int64_t threads) {
  RWKVCLIP_BY_DTYPE(elementwise<T, S>((const S*)x, (const S*)x, (S*)out, size, threads, [](Vec<T> a, Vec<T>) {
    // A comparison with NaN is false, and NaN must come through.
    return a <= Vec<T>{} ? Vec<T>{} : a * a;
  }))
}

extern "C" int rwkvclip_relu_square_backward(const void* grad, const void* x, void* gx, int64_t size, int64_t dtype,
                                             int64_t threads) {
  RWKVCLIP_BY_DTYPE(elementwise<T, S>((const S*)grad, (const S*)x, (S*)gx, size, threads, [](Vec<T> g, Vec<T> a) {
    return a <= Vec<T>{} ? Vec<T>{} : g * a * T(2);
  }))
}
