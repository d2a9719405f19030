// Backward pass of Bi-WKV on a CPU: keeps nothing of the forward pass but its operands.
//
// Every product of decays is an operand of its own (never a difference of sums), so a gradient that is small
// keeps its digits, and those of the first and last decay are exactly zero.
#include "bi_wkv6_cpu.h"
#include "cpu_abi.h"

namespace rwkvclip {
namespace {

template <class T>
struct Workspace {
  Workspace(int64_t width, int64_t max_length, int64_t pieces)
      : piece(int(width), int(max_length)),
        a(max_length * max_length),
        g(max_length * max_length),
        g_transposed(max_length * max_length),
        gy(max_length * width),
        gy_channel(max_length * width),
        v_channel(max_length * width),
        gv(max_length * width),
        gr(max_length * width),
        gk(max_length * width),
        g_log(max_length * width),
        edge(max_length * width),
        g_edge(max_length * width),
        h_left(max_length * width),
        h_right(max_length * width),
        r_right(width * LANES<T>),
        k_right(width * LANES<T>),
        gr_right(width * LANES<T>),
        gk_right(width * LANES<T>),
        past(pieces > 1 ? pieces * width * width : 0),
        future(pieces > 1 ? pieces * width * width : 0),
        g_past(pieces > 1 ? pieces * width * width : 0),
        g_future(pieces > 1 ? pieces * width * width : 0),
        passed(pieces * width) {}
  Piece<T> piece;
  Buffer<T> a, g, g_transposed;         // [L, L] weights, their gradient gy·vᵀ, its transpose
  Buffer<T> gy;                         // [L, N]
  Buffer<T> gy_channel, v_channel;      // [N, L]
  Buffer<T> gv;                         // [L, N]
  Buffer<T> gr, gk, g_log;              // [N, L]; g_log is the gradient of log d
  Buffer<T> edge, g_edge;               // [N, L] scratch
  Buffer<T> h_left, h_right;            // [N, L] gradients of log factors that end, that start at a boundary
  Buffer<T> r_right, k_right, gr_right, gk_right;  // [N, W]
  Buffer<T> past, future;               // [pieces, N, N] states that reach each piece
  Buffer<T> g_past, g_future;           // [pieces, N, N] gradients of the states each piece hands on
  Buffer<T> passed;                     // [pieces, N]
};

// Gradients through the weights among the tokens of one block: back through X_{δ+1} = shift(X_δ∘d).
// Sets gr, gk and g_log of the block and adds to gu [N].
template <class T>
void block_gradients(Workspace<T>& ws, const T* bonus, int block, T* gu) {
  constexpr int W = LANES<T>;
  const Piece<T>& p = ws.piece;
  const int start = block * W;
  const T* corner = ws.g + int64_t(start) * p.length + start;
  Vec<T> past[W], future[W];  // the gradient's diagonals
  for (int delta = 0; delta < W; ++delta)
    for (int t = 0; t < W; ++t) {
      past[delta][t] = t >= delta ? corner[t * p.length + t - delta] : T(0);
      future[delta][t] = t + delta < W ? corner[t * p.length + t + delta] : T(0);
    }
  for (int n = 0; n < p.width; ++n) {
    const int64_t at = int64_t(n) * p.length + start;
    const Vec<T> r = load(p.r + at), k = load(p.k + at), d = load(p.decay + at);
    Vec<T> gr = past[0] * k * bonus[n], gk = past[0] * r * bonus[n], gd{}, x[W];
    gu[n] += sum<T>(past[0] * r * k);
    x[1] = shift_up<T, 1>(k, Vec<T>{});
    for (int delta = 1; delta < W; ++delta) {
      gr += past[delta] * x[delta];
      if (delta + 1 < W) x[delta + 1] = shift_up<T, 1>(x[delta] * d, Vec<T>{});
    }
    Vec<T> gx{};
    for (int delta = W - 1; delta > 0; --delta) {
      // gx holds the gradient of X_δ∘d.
      gd += gx * x[delta];
      gx = shift_down<T, 1>(gx * d + past[delta] * r, Vec<T>{});
    }
    gk += gx;
    x[1] = shift_down<T, 1>(k, Vec<T>{});
    for (int delta = 1; delta < W; ++delta) {
      gr += future[delta] * x[delta];
      if (delta + 1 < W) x[delta + 1] = shift_down<T, 1>(x[delta] * d, Vec<T>{});
    }
    gx = Vec<T>{};
    for (int delta = W - 1; delta > 0; --delta) {
      gd += gx * x[delta];
      gx = shift_up<T, 1>(gx * d + future[delta] * r, Vec<T>{});
    }
    gk += gx;
    store(ws.gr + at, gr);
    store(ws.gk + at, gk);
    store(ws.g_log + at, gd * d);
  }
}

// g_log[j] += Σ_{s<j} h_left[s] for j in the first `blocks` blocks: their decays follow token s to a boundary.
template <class T>
void add_left(Workspace<T>& ws, int blocks) {
  constexpr int W = LANES<T>;
  const Piece<T>& p = ws.piece;
  for (int n = 0; n < p.width; ++n) {
    T carried = 0;
    for (int block = 0; block < blocks; ++block) {
      const int64_t at = int64_t(n) * p.length + block * W;
      const Vec<T> running = sum_up<T>(load(ws.h_left + at));
      store(ws.g_log + at, load(ws.g_log + at) + shift_up<T, 1>(running, Vec<T>{}) + carried);
      carried += running[W - 1];
    }
  }
}

// g_log[j] += Σ_{t>j} h_right[t] over the whole piece: these decays lie between its start and token t.
template <class T>
void add_right(Workspace<T>& ws) {
  constexpr int W = LANES<T>;
  const Piece<T>& p = ws.piece;
  for (int n = 0; n < p.width; ++n) {
    T carried = 0;
    for (int block = p.num_blocks() - 1; block >= 0; --block) {
      const int64_t at = int64_t(n) * p.length + block * W;
      const Vec<T> running = sum_down<T>(load(ws.h_right + at));
      store(ws.g_log + at, load(ws.g_log + at) + shift_down<T, 1>(running, Vec<T>{}) + carried);
      carried += running[0];
    }
  }
}

// Gradients through the weights between a block and all blocks left of it.
template <class T>
void boundary_gradients(Workspace<T>& ws, int block) {
  constexpr int W = LANES<T>;
  const Piece<T>& p = ws.piece;
  const int start = block * W, rows = std::min(W, p.count - start), length = p.length;
  const T *g_rows = ws.g + int64_t(start) * length, *gt_rows = ws.g_transposed + int64_t(start) * length;
  p.right_of_boundary(block, ws.r_right, ws.k_right);
  gemm<T>(p.width, 1, start, p.k_left, length, 1, ws.g_transposed + start, length, ws.gr_right, W, false);
  gemm<T>(p.width, 1, start, p.r_left, length, 1, ws.g + start, length, ws.gk_right, W, false);
  gemm<T>(p.width, block, rows, ws.k_right, W, 1, gt_rows, length, ws.edge, length, false);
  gemm<T>(p.width, block, rows, ws.r_right, W, 1, g_rows, length, ws.g_edge, length, false);
  for (int n = 0; n < p.width; ++n) {
    const int64_t row = int64_t(n) * length, at = row + start;
    const Vec<T> f = load(p.from_start + at), gr = load(ws.gr_right + n * W), gk = load(ws.gk_right + n * W);
    store(ws.gr + at, load(ws.gr + at) + gr * f);
    store(ws.gk + at, load(ws.gk + at) + gk * f);
    const Vec<T> h = gr * load(ws.r_right + n * W) + gk * load(ws.k_right + n * W);
    store(ws.g_log + at, load(ws.g_log + at) + shift_down<T, 1>(sum_down<T>(h), Vec<T>{}));
    for (int64_t s = row; s < row + start; s += W) {
      const Vec<T> facing = load(p.facing + s), gr_left = load(ws.edge + s), gk_left = load(ws.g_edge + s);
      store(ws.gr + s, load(ws.gr + s) + gr_left * facing);
      store(ws.gk + s, load(ws.gk + s) + gk_left * facing);
      store(ws.h_left + s, gr_left * load(p.r_left + s) + gk_left * load(p.k_left + s));
    }
  }
  add_left(ws, block);
}

// Gradients through one direction's states: what reached the piece was read with r∘read, what it hands on was
// written with k∘write. `h_read` and `h_write` gather the gradients of the logs of these factors.
template <class T>
void state_gradients(Workspace<T>& ws, const T* read, const T* write, const T* reached, const T* g_handed, T* h_read,
                     T* h_write) {
  constexpr int W = LANES<T>;
  const Piece<T>& p = ws.piece;
  const int width = p.width, length = p.length;
  const auto through = [&](const T* state, const T* rows, const T* x, const T* factor, T* gx, T* h) {
    gemm<T>(width, p.num_blocks(), width, state, width, 1, rows, length, ws.g_edge, length, false);
    for (int64_t i = 0; i < int64_t(width) * length; i += W) {
      const Vec<T> g = load(ws.g_edge + i) * load(factor + i);
      store(gx + i, load(gx + i) + g);
      store(h + i, load(h + i) + g * load(x + i));
    }
  };
  through(reached, ws.gy_channel, p.r, read, ws.gr, h_read);
  through(g_handed, ws.v_channel, p.k, write, ws.gk, h_write);
  multiply<T>(p, p.k, write, ws.edge);
  gemm<T>(p.count, width / W, width, ws.edge, 1, length, g_handed, width, ws.gv, width, true);
  for (int n = 0; n < width; ++n) {
    Vec<T> across{};
    for (int c = 0; c < width; c += W) across += load(reached + n * width + c) * load(g_handed + n * width + c);
    const T g_total = sum<T>(across) * p.passed[n];
    for (int64_t i = int64_t(n) * length; i < int64_t(n + 1) * length; i += W)
      store(ws.g_log + i, load(ws.g_log + i) + g_total);
  }
}

template <class T, class S>
void backward_head(Workspace<T>& ws, const S* gy, const S* r, const S* k, const S* v, const T* w, const T* bonus,
                   S* gr, S* gk, S* gv, T* gw, T* gu, int64_t num_tokens, int64_t stride, int width) {
  constexpr int W = LANES<T>;
  const int64_t most = piece_tokens(num_tokens), pieces = (num_tokens + most - 1) / most;
  const int64_t square = int64_t(width) * width;
  const auto same = [](Vec<T> x) { return x; };
  Piece<T>& p = ws.piece;
  const auto open = [&](int64_t piece) {
    const int64_t at = piece * most * stride;
    p.load(r + at, k + at, v + at, w + at, stride, int(std::min(most, num_tokens - piece * most)));
    load_by_token<T>(gy + at, stride, p.count, width, static_cast<T*>(ws.gy), p.length);
    return at;
  };
  std::fill_n(gu, width, T(0));
  if (pieces > 1) {
    for (int64_t piece = 0; piece < pieces; ++piece) {
      open(piece);
      pass_all(p);
      gather_state<T>(p, p.k, p.facing, p.v, ws.edge, ws.past + piece * square);
      gather_state<T>(p, p.k, p.before, p.v, ws.edge, ws.future + piece * square);
      gather_state<T>(p, p.r, p.before, ws.gy, ws.edge, ws.g_past + piece * square);
      gather_state<T>(p, p.r, p.facing, ws.gy, ws.edge, ws.g_future + piece * square);
      std::copy_n(static_cast<T*>(p.passed), width, ws.passed + piece * width);
    }
    scan_states<T>(ws.past, ws.passed, pieces, width, true);
    scan_states<T>(ws.future, ws.passed, pieces, width, false);
    scan_states<T>(ws.g_past, ws.passed, pieces, width, false);
    scan_states<T>(ws.g_future, ws.passed, pieces, width, true);
  }
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t at = open(piece);
    const int length = p.length, blocks = p.num_blocks(), vectors = width / W;
    load_by_channel<T>(gy + at, stride, p.count, width, static_cast<T*>(ws.gy_channel), length, T(0), same);
    load_by_channel<T>(v + at, stride, p.count, width, static_cast<T*>(ws.v_channel), length, T(0), same);
    weigh_piece<T>(p, bonus, ws.r_right, ws.k_right, ws.a);
    gemm<T>(p.count, vectors, p.count, ws.a, 1, length, ws.gy, width, ws.gv, width, false);
    gemm<T>(length, blocks, width, ws.gy, width, 1, ws.v_channel, length, ws.g, length, false);
    gemm<T>(length, blocks, width, p.v, width, 1, ws.gy_channel, length, ws.g_transposed, length, false);
    for (int n = 0; n < width; ++n) p.passed[n] = T(1);
    for (int block = 0; block < blocks; ++block) {
      p.enter(block);
      block_gradients(ws, bonus, block, gu);
      if (block > 0) boundary_gradients(ws, block);
      p.pass(block);
    }
    if (pieces > 1) {
      std::fill_n(static_cast<T*>(ws.h_left), int64_t(width) * length, T(0));
      std::fill_n(static_cast<T*>(ws.h_right), int64_t(width) * length, T(0));
      state_gradients<T>(ws, p.before, p.facing, ws.past + piece * square, ws.g_past + piece * square, ws.h_right,
                         ws.h_left);
      state_gradients<T>(ws, p.facing, p.before, ws.future + piece * square, ws.g_future + piece * square, ws.h_left,
                         ws.h_right);
      add_left(ws, blocks);
      add_right(ws);
    }
    const Vec<T> limit = splat<T>(MAX_RAW_DECAY);
    load_by_channel<T>(w + at, stride, p.count, width, static_cast<T*>(ws.edge), length, T(0),
                       [limit](Vec<T> x) { return -exp(x > limit ? limit : x); });
    multiply<T>(p, ws.edge, ws.g_log, ws.g_log);
    store_by_token<T>(static_cast<T*>(ws.gr), length, p.count, width, gr + at, stride);
    store_by_token<T>(static_cast<T*>(ws.gk), length, p.count, width, gk + at, stride);
    store_by_token<T>(static_cast<T*>(ws.g_log), length, p.count, width, gw + at, stride);
    for (int64_t t = 0; t < p.count; ++t)
      for (int n = 0; n < width; n += W) store(gv + at + t * stride + n, load(ws.gv + t * width + n));
  }
}

template <class T, class S>
void backward(const S* gy, const S* r, const S* k, const S* v, const T* w, const T* u, S* gr, S* gk, S* gv, T* gw,
              T* gu, int64_t batch, int64_t num_tokens, int64_t heads, int64_t width, int64_t threads) {
  const int64_t most = piece_tokens(num_tokens), pieces = (num_tokens + most - 1) / most;
  in_parallel(threads, batch * heads, [&](int64_t begin, int64_t end) {
    Workspace<T> ws(width, padded<T>(most), pieces);
    for (int64_t head = begin; head < end; ++head) {
      const int64_t at = head_offset(head, num_tokens, heads, width);
      backward_head<T, S>(ws, gy + at, r + at, k + at, v + at, w + at, u + head % heads * width, gr + at, gk + at,
                          gv + at, gw + at, gu + head * width, num_tokens, heads * width, int(width));
    }
  });
}

}  // namespace
}  // namespace rwkvclip

// Layouts as in rwkvclip_bi_wkv6_forward; gw [B, T, H, N] in w's type; gu [B, H, N], to be summed over B.
extern "C" int rwkvclip_bi_wkv6_backward(const void* gy, const void* r, const void* k, const void* v, const void* w,
                                         const void* u, void* gr, void* gk, void* gv, void* gw, void* gu,
                                         int64_t batch, int64_t num_tokens, int64_t heads, int64_t width,
                                         int64_t dtype, int64_t threads) {
  using namespace rwkvclip;
  return guarded([&] {
    with_dtype(dtype, [&](auto* element, auto* exact) {
      using S = std::remove_pointer_t<decltype(element)>;
      using T = std::remove_pointer_t<decltype(exact)>;
      backward<T, S>((const S*)gy, (const S*)r, (const S*)k, (const S*)v, (const T*)w, (const T*)u, (S*)gr, (S*)gk,
                     (S*)gv, (T*)gw, (T*)gu, batch, num_tokens, heads, width, threads);
    });
  });
}
