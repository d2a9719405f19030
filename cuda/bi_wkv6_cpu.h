// What forward and backward of Bi-WKV on a CPU share: one piece of one head, by channel, with its decay factors.
//
// Axes: T tokens, N head width, L tokens of a piece padded to whole vectors, W lanes. A block is W tokens, one
// vector. Equations: README.md; `facing` holds the factors f of the tokens left of the boundary at hand.
#pragma once

#include <algorithm>
#include <memory>
#include <new>

#include "gemm.h"

namespace rwkvclip {

constexpr int64_t MAX_DENSE_TOKENS = 256;  // longer sequences are cut and carry a state from piece to piece
constexpr int64_t PIECE_TOKENS = 128;
constexpr float MAX_RAW_DECAY = 80;  // exp(−exp(w)) is zero far below this w; above it exp(w) overflows

inline int64_t piece_tokens(int64_t num_tokens) {
  return num_tokens <= MAX_DENSE_TOKENS ? num_tokens : PIECE_TOKENS;
}

// Uninitialised, aligned for vectors.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : memory_(static_cast<T*>(::operator new(size_t(std::max<int64_t>(size, 1)) * sizeof(T), std::align_val_t(64)))) {}
  operator T*() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> memory_;
};

// Copies rows [count, N] at `stride` to [N, L]; `map` acts on every vector, padding is `fill`.
template <class T, class S, class Map>
inline void load_by_channel(const S* from, int64_t stride, int count, int width, T* to, int length, T fill, Map map) {
  constexpr int W = LANES<T>;
  for (int t = 0; t < length; t += W)
    for (int n = 0; n < width; n += W) {
      Vec<T> rows[W];
      RWKVCLIP_UNROLL
      for (int i = 0; i < W; ++i) rows[i] = t + i < count ? map(load(from + (t + i) * stride + n)) : splat(fill);
      transpose<T>(rows);
      RWKVCLIP_UNROLL
      for (int i = 0; i < W; ++i) store(to + (n + i) * length + t, rows[i]);
    }
}

// Copies rows [count, N] at `stride` to [L, N]; padding is zero.
template <class T, class S>
inline void load_by_token(const S* from, int64_t stride, int count, int width, T* to, int length) {
  constexpr int W = LANES<T>;
  for (int t = 0; t < length; ++t)
    for (int n = 0; n < width; n += W)
      store(to + t * width + n, t < count ? load(from + t * stride + n) : Vec<T>{});
}

// The reverse of `load_by_channel`.
template <class T, class S>
inline void store_by_token(const T* from, int length, int count, int width, S* to, int64_t stride) {
  constexpr int W = LANES<T>;
  for (int t = 0; t < count; t += W)
    for (int n = 0; n < width; n += W) {
      Vec<T> rows[W];
      RWKVCLIP_UNROLL
      for (int i = 0; i < W; ++i) rows[i] = load(from + (n + i) * length + t);
      transpose<T>(rows);
      for (int i = 0; i < W && t + i < count; ++i) store(to + (t + i) * stride + n, rows[i]);
    }
}

// One piece of one head: r, k, decay [N, L], v [L, N].
template <class T>
struct Piece {
  Piece(int width, int max_length)
      : width(width),
        r(width * max_length),
        k(width * max_length),
        decay(width * max_length),
        v(width * max_length),
        facing(width * max_length),
        r_left(width * max_length),
        k_left(width * max_length),
        from_start(width * max_length),
        before(width * max_length),
        total(width),
        passed(width) {}

  int width, count = 0, length = 0;
  Buffer<T> r, k, decay, v;
  Buffer<T> facing;          // [N, L] products from each token to the boundary right of it, exclusive of it
  Buffer<T> r_left, k_left;  // r∘facing, k∘facing
  Buffer<T> from_start;      // [N, L] products from the start of each token's block, exclusive of it
  Buffer<T> before;          // [N, L] products from the start of the piece, exclusive of the token
  Buffer<T> total;           // [N] product over the block just passed
  Buffer<T> passed;          // [N] product over all blocks passed

  int num_blocks() const { return length / LANES<T>; }

  // The first operand elements of this piece; rows of tokens are `stride` apart.
  template <class S, class D>
  void load(const S* r_rows, const S* k_rows, const S* v_rows, const D* w_rows, int64_t stride, int num_tokens) {
    constexpr int W = LANES<T>;
    count = num_tokens;
    length = (num_tokens + W - 1) / W * W;
    const auto same = [](Vec<T> x) { return x; };
    const Vec<T> most = splat<T>(MAX_RAW_DECAY);
    load_by_channel<T>(r_rows, stride, count, width, r, length, T(0), same);
    load_by_channel<T>(k_rows, stride, count, width, k, length, T(0), same);
    load_by_channel<T>(w_rows, stride, count, width, decay, length, T(1),
                       [most](Vec<T> w) { return exp(-exp(w > most ? most : w)); });
    load_by_token<T>(v_rows, stride, count, width, static_cast<T*>(v), length);
    for (int n = 0; n < width; ++n) passed[n] = T(1);
  }

  // Moves the boundary right of block `block`: afterwards `facing`, r_left and k_left serve all tokens up to it.
  void pass(int block) {
    constexpr int W = LANES<T>;
    const int start = block * W;
    for (int n = 0; n < width; ++n) {
      const Vec<T> d = rwkvclip::load(decay + n * length + start);
      const Vec<T> down = product_down<T>(d);
      store(facing + n * length + start, shift_down<T, 1>(down, splat<T>(1)));
      const T block_total = down[0];
      total[n] = block_total;
      passed[n] *= block_total;
      for (int t = 0; t < start; t += W)
        store(facing + n * length + t, rwkvclip::load(facing + n * length + t) * block_total);
      for (int t = 0; t <= start; t += W) {
        const Vec<T> f = rwkvclip::load(facing + n * length + t);
        store(r_left + n * length + t, rwkvclip::load(r + n * length + t) * f);
        store(k_left + n * length + t, rwkvclip::load(k + n * length + t) * f);
      }
    }
  }

  // Sets `from_start` and `before` of block `block`, whose predecessors have been passed.
  void enter(int block) {
    constexpr int W = LANES<T>;
    for (int n = 0; n < width; ++n) {
      const int64_t at = n * length + block * W;
      const Vec<T> up = shift_up<T, 1>(product_up<T>(rwkvclip::load(decay + at)), splat<T>(1));
      store(from_start + at, up);
      store(before + at, up * passed[n]);
    }
  }

  // r∘from_start and k∘from_start of an entered block, both [N, W].
  void right_of_boundary(int block, T* r_right, T* k_right) const {
    constexpr int W = LANES<T>;
    for (int n = 0; n < width; ++n) {
      const int64_t at = int64_t(n) * length + block * W;
      const Vec<T> f = rwkvclip::load(from_start + at);
      store(r_right + n * W, rwkvclip::load(r + at) * f);
      store(k_right + n * W, rwkvclip::load(k + at) * f);
    }
  }
};

// Moves the boundary to the end of the piece: `before` and `facing` then serve tokens of other pieces.
template <class T>
inline void pass_all(Piece<T>& p) {
  for (int block = 0; block < p.num_blocks(); ++block) {
    p.enter(block);
    p.pass(block);
  }
}

// to = x∘y, all [N, L] of the piece.
template <class T>
inline void multiply(const Piece<T>& p, const T* x, const T* y, T* to) {
  for (int64_t i = 0; i < int64_t(p.width) * p.length; i += LANES<T>) store(to + i, load(x + i) * load(y + i));
}

// state [N, N] = (x∘factor) · rows, with x and factor [N, L] and rows [L, N]: what a piece hands to others.
template <class T>
inline void gather_state(const Piece<T>& p, const T* x, const T* factor, const T* rows, T* scratch, T* state) {
  multiply(p, x, factor, scratch);
  gemm<T>(p.width, p.width / LANES<T>, p.count, scratch, p.length, 1, rows, p.width, state, p.width, false);
}

// Replaces what each piece hands on by what reaches it: states [pieces, N, N], passed [pieces, N].
template <class T>
inline void scan_states(T* states, const T* passed, int64_t pieces, int width, bool rightwards) {
  constexpr int W = LANES<T>;
  Buffer<T> running(int64_t(width) * width);
  std::fill_n(static_cast<T*>(running), width * width, T(0));
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t piece = rightwards ? i : pieces - 1 - i;
    for (int n = 0; n < width; ++n)
      for (int c = 0; c < width; c += W) {
        T* here = states + (piece * width + n) * width + c;
        T* sum = running + n * width + c;
        const Vec<T> own = load(here), reached = load(sum);
        store(here, reached);
        store(sum, reached * passed[piece * width + n] + own);
      }
  }
}

namespace detail {

// Products of decays over the tokens of a group of lanes: before each token, after it, and of all.
template <class T>
struct Decays {
  Vec<T> before, after, all;
};

// Adds to weights[j][t], HALF ≤ j < 2·HALF, what t and t ^ j weigh each other; then joins neighbouring groups of HALF
// lanes. The boundary between t and t ^ j is that of their groups.
template <class T, int HALF, int... I>
inline void weigh_groups(Vec<T> r, Vec<T> k, Decays<T>& decays, Vec<T>* weights, std::integer_sequence<int, I...>) {
  const Bits<T> right = rwkvclip::lanes_with<T, HALF>();
  const Vec<T> facing = right ? decays.before : decays.after;
  const Vec<T> r_facing = r * facing, k_facing = k * facing;
  ((weights[HALF + I] += r_facing * rwkvclip::flip<T, HALF + I>(k_facing)), ...);
  const Vec<T> other = rwkvclip::flip<T, HALF>(decays.all);
  decays.before = right ? decays.before * other : decays.before;
  decays.after = right ? decays.after : decays.after * other;
  decays.all = decays.all * other;
}

template <class T, int HALF = 1>
inline void weigh_lanes(Vec<T> r, Vec<T> k, Decays<T>& decays, Vec<T>* weights) {
  if constexpr (HALF < LANES<T>) {
    weigh_groups<T, HALF>(r, k, decays, weights, std::make_integer_sequence<int, HALF>{});
    weigh_lanes<T, 2 * HALF>(r, k, decays, weights);
  }
}

// Replaces rows[j][t] by rows[j ^ t][t].
template <class T, int BIT = 1>
inline void untangle(Vec<T>* rows) {
  if constexpr (BIT < LANES<T>) {
    const Bits<T> swapped = rwkvclip::lanes_with<T, BIT>();
    RWKVCLIP_UNROLL
    for (int j = 0; j < LANES<T>; ++j) {
      if (j & BIT) continue;
      const Vec<T> a = rows[j], b = rows[j ^ BIT];
      rows[j] = swapped ? b : a;
      rows[j ^ BIT] = swapped ? a : b;
    }
    untangle<T, 2 * BIT>(rows);
  }
}

}  // namespace detail

// Writes the weights among the tokens of one block to its corner of `a`, the bonus on the diagonal: token t against
// t ^ j for every j, group by group as in a tree, both directions at once.
template <class T>
inline void weigh_block(const Piece<T>& p, const T* bonus, int block, T* a) {
  constexpr int W = LANES<T>;
  const int start = block * W;
  Vec<T> weights[W] = {};
  for (int n = 0; n < p.width; ++n) {
    const int64_t at = int64_t(n) * p.length + start;
    const Vec<T> r = load(p.r + at), k = load(p.k + at);
    detail::Decays<T> decays{splat<T>(1), splat<T>(1), load(p.decay + at)};
    weights[0] += r * k * bonus[n];
    detail::weigh_lanes<T>(r, k, decays, weights);
  }
  detail::untangle<T>(weights);
  transpose<T>(weights);
  T* corner = a + int64_t(start) * p.length + start;
  for (int t = 0; t < W; ++t) store(corner + t * p.length, weights[t]);
}

// Fills `a` [L, L] with all weights inside the piece; afterwards the boundary is at its end.
// `r_right` and `k_right` are [N, W] of scratch.
template <class T>
inline void weigh_piece(Piece<T>& p, const T* bonus, T* r_right, T* k_right, T* a) {
  constexpr int W = LANES<T>;
  const int length = p.length;
  for (int block = 0; block < p.num_blocks(); ++block) {
    const int start = block * W;
    p.enter(block);
    weigh_block<T>(p, bonus, block, a);
    if (block > 0) {
      p.right_of_boundary(block, r_right, k_right);
      gemm<T>(std::min(W, p.count - start), block, p.width, r_right, 1, W, p.k_left, length,
              a + int64_t(start) * length, length, false);
      gemm<T>(start, 1, p.width, p.r_left, 1, length, k_right, W, a + start, length, false);
    }
    p.pass(block);
  }
}

template <class T>
inline int64_t padded(int64_t num_tokens) {
  return (num_tokens + LANES<T> - 1) / LANES<T> * LANES<T>;
}

inline int64_t head_offset(int64_t head, int64_t num_tokens, int64_t heads, int64_t width) {
  return head / heads * num_tokens * heads * width + head % heads * width;
}

}  // namespace rwkvclip
