// Token shift with lerps on a CPU, and its gradients.
//
// Axes: B batch, T = h·w tokens, C channels (heads of N), K lerps, R rank, W lanes. C is a multiple of 16.
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

// Gradients of dynamic_lerp. The weights are made again a tile at a time, and theirs lie in cache only. g_low_rank
// [B·T, K·R]; g_base [parts, K, C] and g_up [parts, K, R, C] hold one partial sum per equal share of the batch.
template <class T, class S>
void dynamic_lerp_backward(const S* grad, const S* x, const S* low_rank, const T* base, const T* up, S* gx,
                           S* g_low_rank, T* g_base, T* g_up, int64_t parts, int64_t lerps, int64_t rank,
                           int64_t batch, int64_t rows, int64_t columns, int64_t channels, int64_t heads,
                           int64_t directions, int64_t threads) {
  constexpr int W = LANES<T>;
  constexpr int64_t LONGEST = 56;  // tokens of a tile; they stay in cache
  const Shift<T> shift(rows, columns, channels, heads, directions);
  const int64_t tokens = rows * columns, whole = batch * tokens * channels, ranks = lerps * rank;
  const int64_t tiles = (tokens + LONGEST - 1) / LONGEST, length = (tokens + tiles - 1) / tiles;
  std::vector<T> down(size_t(ranks * channels));  // [K, C, R]
  for (int64_t k = 0; k < lerps; ++k)
    for (int64_t j = 0; j < rank; ++j)
      for (int64_t c = 0; c < channels; ++c)
        down[size_t((k * channels + c) * rank + j)] = up[(k * rank + j) * channels + c];
  in_parallel(threads, parts, [&](int64_t first_part, int64_t last_part) {
    std::vector<T> g_delta(size_t(tokens * channels)), g_rest(size_t(tokens * channels));
    std::vector<T> delta(size_t(length * channels)), g_weight(size_t(length * channels)), low(size_t(length * ranks));
    for (int64_t part = first_part; part < last_part; ++part) {
      T *sums = g_base + part * lerps * channels, *g_ups = g_up + part * ranks * channels;
      std::memset(sums, 0, size_t(lerps * channels) * sizeof(T));
      std::memset(g_ups, 0, size_t(ranks * channels) * sizeof(T));
      for (int64_t b = batch * part / parts; b < batch * (part + 1) / parts; ++b) {
        const S* image = x + b * tokens * channels;
        for (int64_t first = 0; first < tokens; first += length) {
          const int64_t count = std::min(length, tokens - first), start_at = (b * tokens + first) * channels;
          for (int64_t i = 0; i < count; ++i) {
            const S* from[MAX_DIRECTIONS];
            shift.neighbours(image, first + i, 1, from);
            for (int64_t v = 0; v < channels / W; ++v) {
              const Vec<T> here = load(image + (first + i) * channels + v * W);
              store(delta.data() + i * channels + v * W, shift.take(from, v) - here);
            }
            for (int64_t j = 0; j < ranks; j += W)
              store(low.data() + i * ranks + j, Vec<T>(load(low_rank + (b * tokens + first + i) * ranks + j)));
          }
          for (int64_t k = 0; k < lerps; ++k) {
            // Held here, as a store may change what is behind a reference.
            const S* upstream = grad + k * whole + start_at;
            const T *d_rows = delta.data(), *starts = base + k * channels;
            T *to_delta = g_delta.data() + first * channels, *direct = g_rest.data() + first * channels;
            T *to_weight = g_weight.data(), *total = sums + k * channels;
            const bool fresh = k == 0;
            const auto start = [=](int, int j) { return load(starts + j * W); };
            const auto finish = [=](int i, int j, Vec<T> weight) {
              const int64_t at = i * channels + j * W;
              const Vec<T> g = load(upstream + at), through = g * weight;
              store(to_delta + at, fresh ? through : load(to_delta + at) + through);
              store(direct + at, fresh ? g - through : load(direct + at) + (g - through));
              store(to_weight + at, g * load(d_rows + at));
            };
            product<T>(int(count), int(channels / W), int(rank), low.data() + k * rank, ranks, 1,
                       up + k * rank * channels, channels, start, finish);
            S* to_low = g_low_rank + (b * tokens + first) * ranks + k * rank;
            product<T>(
                int(count), int(rank / W), int(channels), to_weight, channels, 1, down.data() + k * channels * rank,
                rank, [](int, int) { return Vec<T>{}; },
                [=](int i, int j, Vec<T> sum) { store(to_low + i * ranks + j * W, sum); });
            gemm<T>(int(rank), int(channels / W), int(count), low.data() + k * rank, 1, ranks, to_weight, channels,
                    g_ups + k * rank * channels, channels, true);
            for (int64_t c = 0; c < channels; c += W) {
              Vec<T> sum = load(total + c);
              for (int64_t i = 0; i < count; ++i) sum += load(to_weight + i * channels + c);
              store(total + c, sum);
            }
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
    }
  });
}

}  // namespace
}  // namespace rwkvclip

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

// grad [K, B, T, C] and what dynamic_lerp takes; gx [B, T, C] and g_low_rank [B, T, K·R] in `dtype`, g_base
// [parts, K, C] and g_up [parts, K, R, C] in float32 (float64 for float64).
extern "C" int rwkvclip_dynamic_lerp_backward(const void* grad, const void* x, const void* low_rank, const void* base,
                                              const void* up, void* gx, void* g_low_rank, void* g_base, void* g_up,
                                              int64_t parts, int64_t lerps, int64_t rank, int64_t batch, int64_t rows,
                                              int64_t columns, int64_t channels, int64_t heads, int64_t directions,
                                              int64_t dtype, int64_t threads) {
  RWKVCLIP_BY_DTYPE(dynamic_lerp_backward<T, S>((const S*)grad, (const S*)x, (const S*)low_rank, (const T*)base,
                                                (const T*)up, (S*)gx, (S*)g_low_rank, (T*)g_base, (T*)g_up, parts,
                                                lerps, rank, batch, rows, columns, channels, heads, directions,
                                                threads))
}
