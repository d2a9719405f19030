// The elementwise work around Bi-WKV on a CPU: token shift with lerps, group norm × gate, squared ReLU.
//
// Axes: B batch, T = h·w tokens, C channels (heads of N), K lerps, W lanes. C is a multiple of 16.
#include <algorithm>
#include <vector>

#include "cpu_abi.h"
#include "gemm.h"

namespace rwkvclip {
namespace {

// Which neighbour each channel takes: group g of a head's channels comes from neighbour g.
template <class T>
class Shift {
 public:
  Shift(int64_t rows, int64_t columns, int64_t channels, int64_t heads, int64_t directions)
      : rows_(rows), columns_(columns), channels_(channels), directions_(int(directions)) {
    const int64_t width = channels / heads, vectors = channels / LANES<T>;
    masks_.resize(size_t(vectors * directions));
    used_.resize(size_t(vectors * directions));
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t n = c % width;
      int64_t group = 0;
      while (n >= width * (group + 1) / directions) ++group;
      const size_t at = size_t(c / LANES<T> * directions + group);
      masks_[at][int(c % LANES<T>)] = -1;
      used_[at] = 1;
    }
  }

  // Pointers to the rows that the groups of token `token` come from (`sign` 1) or go to (−1); null at the border.
  template <class S>
  void neighbours(const S* image, int64_t token, int sign, const S** from) const {
    const int64_t row = token / columns_, column = token % columns_;
    for (int g = 0; g < directions_; ++g) {
      const bool along_row = directions_ == 4 && g < 2;
      const int64_t step = (g % 2 == 0 ? -1 : 1) * sign;
      const int64_t place = (along_row ? column : row) + step, limit = along_row ? columns_ : rows_;
      from[g] = place < 0 || place >= limit ? nullptr : image + (token + step * (along_row ? 1 : columns_)) * channels_;
    }
  }

  // Vector `v` of the shifted row.
  template <class S>
  Vec<T> take(const S* const* from, int64_t v) const {
    Vec<T> shifted{};
    for (int g = 0; g < directions_; ++g) {
      const size_t at = size_t(v * directions_ + g);
      if (used_[at] && from[g]) shifted = masks_[at] ? Vec<T>(load(from[g] + v * LANES<T>)) : shifted;
    }
    return shifted;
  }

 private:
  int64_t rows_, columns_, channels_;
  int directions_;
  std::vector<Bits<T>> masks_;
  std::vector<char> used_;
};

constexpr int MAX_DIRECTIONS = 4;

template <class T, class S>
void shift_lerp(const S* x, const T* mix, const S* mixes, S* out, int64_t lerps, int64_t batch, int64_t rows,
                int64_t columns, int64_t channels, int64_t heads, int64_t directions, int64_t threads) {
  constexpr int W = LANES<T>;
  const Shift<T> shift(rows, columns, channels, heads, directions);
  const int64_t tokens = rows * columns, whole = batch * tokens * channels;
  in_parallel(threads, batch * tokens, [&](int64_t begin, int64_t end) {
    const S* from[MAX_DIRECTIONS];
    for (int64_t i = begin; i < end; ++i) {
      const S* image = x + i / tokens * tokens * channels;
      shift.neighbours(image, i % tokens, 1, from);
      for (int64_t v = 0; v < channels / W; ++v) {
        const int64_t c = v * W, at = i * channels + c;
        const Vec<T> own = load(x + at), delta = shift.take(from, v) - own;
        for (int64_t k = 0; k < lerps; ++k) {
          const Vec<T> weight = mixes ? Vec<T>(load(mixes + k * whole + at)) : load(mix + k * channels + c);
          store(out + k * whole + at, own + delta * weight);
        }
      }
    }
  });
}

// Two rows of `up` side by side, rounded to bfloat16: [K·R/2, C] of [K·R, C].
[[maybe_unused]] std::vector<Pair> paired(const float* up, int64_t rows, int64_t channels) {
  constexpr int W = LANES<float>;
  std::vector<Pair> pairs(size_t(rows / 2 * channels));
  bfloat16 even[W], odd[W];
  for (int64_t at = 0; at < rows / 2 * channels; at += W) {
    const float* first = up + (at / channels * 2) * channels + at % channels;
    store(even, load(first));
    store(odd, load(first + channels));
    for (int i = 0; i < W; ++i) pairs[size_t(at + i)] = {even[i], odd[i]};
  }
  return pairs;
}

// As shift_lerp with weights base_k + low_rank_k·up_k, which are made and used in registers. low_rank [B·T, K·R],
// base [K, C], up [K, R, C]. With bfloat16 operands `up` is rounded to it where the processor multiplies such pairs.
template <class T, class S>
void dynamic_lerp(const S* x, const S* low_rank, const T* base, const T* up, S* out, int64_t lerps, int64_t rank,
                  int64_t batch, int64_t rows, int64_t columns, int64_t channels, int64_t heads, int64_t directions,
                  int64_t threads) {
  constexpr int W = LANES<T>;
  constexpr int64_t TILE = 24;  // a multiple of the rows of a product's tile; its tokens stay in cache
  constexpr bool PAIRS = HAS_PAIRS && std::is_same_v<S, bfloat16>;
  const Shift<T> shift(rows, columns, channels, heads, directions);
  const int64_t tokens = rows * columns, total = batch * tokens, tiles = (total + TILE - 1) / TILE;
  std::vector<Pair> pairs;
  if constexpr (PAIRS) pairs = paired(up, lerps * rank, channels);
  in_parallel(threads, tiles, [&](int64_t begin, int64_t end) {
    std::vector<T> delta(size_t(TILE * channels));
    std::vector<T> low(PAIRS ? 0 : size_t(TILE * lerps * rank));
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * TILE, count = std::min(TILE, total - first);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t token = first + i;
        const S* from[MAX_DIRECTIONS];
        shift.neighbours(x + token / tokens * tokens * channels, token % tokens, 1, from);
        for (int64_t v = 0; v < channels / W; ++v) {
          const Vec<T> here = load(x + token * channels + v * W);
          store(delta.data() + i * channels + v * W, shift.take(from, v) - here);
        }
        if constexpr (!PAIRS) {
          for (int64_t j = 0; j < lerps * rank; j += W)
            store(low.data() + i * lerps * rank + j, Vec<T>(load(low_rank + token * lerps * rank + j)));
        }
      }
      for (int64_t k = 0; k < lerps; ++k) {
        // Held here, as a store through `to` may change what is behind a reference.
        S* to = out + (k * total + first) * channels;
        const S* x_rows = x + first * channels;
        const T *d_rows = delta.data(), *starts = base + k * channels;
        const auto start = [=](int, int j) { return load(starts + j * W); };
        const auto finish = [=](int i, int j, Vec<T> weight) {
          const int64_t at = i * channels + j * W;
          store(to + at, Vec<T>(load(x_rows + at)) + load(d_rows + at) * weight);
        };
        if constexpr (PAIRS) {
          const auto* left = reinterpret_cast<const Pair*>(low_rank + (first * lerps + k) * rank);
          product<Pair>(int(count), int(channels / W), int(rank / 2), left, lerps * rank / 2, 1,
                        pairs.data() + k * rank / 2 * channels, channels, start, finish);
        } else {
          product<T>(int(count), int(channels / W), int(rank), low.data() + k * rank, lerps * rank, 1,
                     up + k * rank * channels, channels, start, finish);
        }
      }
    }
  });
}

// g_mix [B, K, C] is set where `mix` is given, g_mixes [K, B, T, C] where `mixes` is.
template <class T, class S>
void shift_lerp_backward(const S* grad, const S* x, const T* mix, const S* mixes, S* gx, T* g_mix, S* g_mixes,
                         int64_t lerps, int64_t batch, int64_t rows, int64_t columns, int64_t channels, int64_t heads,
                         int64_t directions, int64_t threads) {
  constexpr int W = LANES<T>;
  const Shift<T> shift(rows, columns, channels, heads, directions);
  const int64_t tokens = rows * columns, whole = batch * tokens * channels;
  in_parallel(threads, batch, [&](int64_t begin, int64_t end) {
    std::vector<T> g_delta(size_t(tokens * channels)), g_rest(size_t(tokens * channels));
    for (int64_t b = begin; b < end; ++b) {
      const S* image = x + b * tokens * channels;
      T* sums = mix ? g_mix + b * lerps * channels : nullptr;
      if (mix) std::memset(sums, 0, size_t(lerps * channels) * sizeof(T));
      for (int64_t t = 0; t < tokens; ++t) {
        const S* from[MAX_DIRECTIONS];
        shift.neighbours(image, t, 1, from);
        for (int64_t v = 0; v < channels / W; ++v) {
          const int64_t c = v * W, at = t * channels + c, global = b * tokens * channels + at;
          const Vec<T> delta = shift.take(from, v) - load(image + at);
          Vec<T> to_delta{}, direct{};
          for (int64_t k = 0; k < lerps; ++k) {
            const Vec<T> g = load(grad + k * whole + global);
            direct += g;
            if (mix) {
              to_delta += g * load(mix + k * channels + c);
              store(sums + k * channels + c, load(sums + k * channels + c) + g * delta);
            } else {
              to_delta += g * Vec<T>(load(mixes + k * whole + global));
              store(g_mixes + k * whole + global, g * delta);
            }
          }
          store(g_delta.data() + at, to_delta);
          store(g_rest.data() + at, direct - to_delta);
        }
      }
      for (int64_t t = 0; t < tokens; ++t) {
        const T* from[MAX_DIRECTIONS];
        shift.neighbours(g_delta.data(), t, -1, from);
        for (int64_t v = 0; v < channels / W; ++v) {
          const int64_t at = t * channels + v * W;
          store(gx + b * tokens * channels + at, load(g_rest.data() + at) + shift.take(from, v));
        }
      }
    }
  });
}

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

// Applies `map` to vectors of up to two operands; the last, ragged vector goes through a copy.
template <class T, class S, class Map>
void elementwise(const S* a, const S* b, S* out, int64_t size, int64_t threads, Map map) {
  constexpr int W = LANES<T>;
  const int64_t vectors = (size + W - 1) / W;
  in_parallel(threads, vectors, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * W;
      if (at + W <= size) {
        store(out + at, map(Vec<T>(load(a + at)), Vec<T>(load(b + at))));
      } else {
        S left[W] = {}, right[W] = {};
        const size_t bytes = size_t(size - at) * sizeof(S);
        std::memcpy(left, a + at, bytes);
        std::memcpy(right, b + at, bytes);
        store(left, map(Vec<T>(load(static_cast<const S*>(left))), Vec<T>(load(static_cast<const S*>(right)))));
        std::memcpy(out + at, left, bytes);
      }
    }
  });
}

// out = residual + sigmoid(gate)·value.
template <class T, class S>
void gated_add(const S* residual, const S* gate, const S* value, S* out, int64_t size, int64_t threads) {
  constexpr int W = LANES<T>;
  const auto one = [](Vec<T> base, Vec<T> g, Vec<T> v) { return base + v / (exp(-g) + T(1)); };
  in_parallel(threads, (size + W - 1) / W, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * W; at < end * W; at += W) {
      if (at + W <= size) {
        store(out + at, one(load(residual + at), load(gate + at), load(value + at)));
      } else {
        S rows[3][W] = {};
        const S* from[] = {residual, gate, value};
        const size_t bytes = size_t(size - at) * sizeof(S);
        for (int i = 0; i < 3; ++i) std::memcpy(rows[i], from[i] + at, bytes);
        const S *a = rows[0], *b = rows[1], *c = rows[2];
        store(rows[0], one(load(a), load(b), load(c)));
        std::memcpy(out + at, rows[0], bytes);
      }
    }
  });
}

}  // namespace
}  // namespace rwkvclip

#define RWKVCLIP_BY_DTYPE(...)                                     \
  using namespace rwkvclip;                                        \
  return guarded([&] {                                             \
    with_dtype(dtype, [&](auto* element, auto* exact) {            \
      using S = std::remove_pointer_t<decltype(element)>;          \
      using T = std::remove_pointer_t<decltype(exact)>;            \
      __VA_ARGS__;                                                 \
    });                                                            \
  });

// x [B, T, C], mixes [K, B, T, C], out [K, B, T, C] in `dtype`; mix [K, C] in float32 (float64 for float64). One of
// mix and mixes is null.
extern "C" int rwkvclip_shift_lerp(const void* x, const void* mix, const void* mixes, void* out, int64_t lerps,
                                   int64_t batch, int64_t rows, int64_t columns, int64_t channels, int64_t heads,
                                   int64_t directions, int64_t dtype, int64_t threads) {
  RWKVCLIP_BY_DTYPE(shift_lerp<T, S>((const S*)x, (const T*)mix, (const S*)mixes, (S*)out, lerps, batch, rows, columns,
                                     channels, heads, directions, threads))
}

// x [B, T, C], low_rank [B, T, K·R], out [K, B, T, C] in `dtype`; base [K, C] and up [K, R, C] in float32 (float64 for
// float64). R is a multiple of 16.
extern "C" int rwkvclip_dynamic_lerp(const void* x, const void* low_rank, const void* base, const void* up, void* out,
                                     int64_t lerps, int64_t rank, int64_t batch, int64_t rows, int64_t columns,
                                     int64_t channels, int64_t heads, int64_t directions, int64_t dtype,
                                     int64_t threads) {
  RWKVCLIP_BY_DTYPE(dynamic_lerp<T, S>((const S*)x, (const S*)low_rank, (const T*)base, (const T*)up, (S*)out, lerps,
                                       rank, batch, rows, columns, channels, heads, directions, threads))
}

extern "C" int rwkvclip_shift_lerp_backward(const void* grad, const void* x, const void* mix, const void* mixes,
                                            void* gx, void* g_mix, void* g_mixes, int64_t lerps, int64_t batch,
                                            int64_t rows, int64_t columns, int64_t channels, int64_t heads,
                                            int64_t directions, int64_t dtype, int64_t threads) {
  RWKVCLIP_BY_DTYPE(shift_lerp_backward<T, S>((const S*)grad, (const S*)x, (const T*)mix, (const S*)mixes, (S*)gx,
                                              (T*)g_mix, (S*)g_mixes, lerps, batch, rows, columns, channels, heads,
                                              directions, threads))
}

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

extern "C" int rwkvclip_gated_add(const void* residual, const void* gate, const void* value, void* out, int64_t size,
                                  int64_t dtype, int64_t threads) {
  RWKVCLIP_BY_DTYPE(gated_add<T, S>((const S*)residual, (const S*)gate, (const S*)value, (S*)out, size, threads))
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
