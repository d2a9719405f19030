// Forward pass of Bi-WKV on a CPU: one thread per (batch, head), one T×T matrix per piece.
#include "bi_wkv6_cpu.h"
#include "cpu_abi.h"

namespace rwkvclip {
namespace {

template <class T>
struct Workspace {
  Workspace(int64_t width, int64_t max_length, int64_t pieces)
      : piece(int(width), int(max_length)),
        a(max_length * max_length),
        y(max_length * width),
        r_right(width * LANES<T>),
        k_right(width * LANES<T>),
        edge(pieces > 1 ? width * max_length : 0),
        past(pieces > 1 ? pieces * width * width : 0),
        future(pieces > 1 ? pieces * width * width : 0),
        passed(pieces * width) {}
  Piece<T> piece;
  Buffer<T> a, y, r_right, k_right;
  Buffer<T> edge;          // [N, L] of scratch
  Buffer<T> past, future;  // [pieces, N, N] states that reach each piece
  Buffer<T> passed;        // [pieces, N] products of decays over each piece
};

template <class T, class S>
void forward_head(Workspace<T>& ws, const S* r, const S* k, const S* v, const T* w, const T* bonus, S* y,
                  int64_t num_tokens, int64_t stride, int width) {
  const int64_t most = piece_tokens(num_tokens), pieces = (num_tokens + most - 1) / most;
  const int64_t square = int64_t(width) * width;
  Piece<T>& p = ws.piece;
  const auto open = [&](int64_t piece) {
    const int64_t at = piece * most * stride;
    p.load(r + at, k + at, v + at, w + at, stride, int(std::min(most, num_tokens - piece * most)));
  };
  if (pieces > 1) {
    for (int64_t piece = 0; piece < pieces; ++piece) {
      open(piece);
      pass_all(p);
      gather_state<T>(p, p.k, p.facing, p.v, ws.edge, ws.past + piece * square);
      gather_state<T>(p, p.k, p.before, p.v, ws.edge, ws.future + piece * square);
      std::copy_n(static_cast<T*>(p.passed), width, ws.passed + piece * width);
    }
    scan_states<T>(ws.past, ws.passed, pieces, width, true);
    scan_states<T>(ws.future, ws.passed, pieces, width, false);
  }
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int vectors = width / LANES<T>;
    open(piece);
    weigh_piece<T>(p, bonus, ws.r_right, ws.k_right, ws.a);
    gemm<T>(p.count, vectors, p.count, ws.a, p.length, 1, p.v, width, ws.y, width, false);
    if (pieces > 1) {
      multiply<T>(p, p.r, p.before, ws.edge);
      gemm<T>(p.count, vectors, width, ws.edge, 1, p.length, ws.past + piece * square, width, ws.y, width, true);
      multiply<T>(p, p.r, p.facing, ws.edge);
      gemm<T>(p.count, vectors, width, ws.edge, 1, p.length, ws.future + piece * square, width, ws.y, width, true);
    }
    for (int64_t t = 0; t < p.count; ++t)
      for (int n = 0; n < width; n += LANES<T>)
        store(y + (piece * most + t) * stride + n, load(ws.y + t * width + n));
  }
}

template <class T, class S>
void forward(const S* r, const S* k, const S* v, const T* w, const T* u, S* y, int64_t batch, int64_t num_tokens,
             int64_t heads, int64_t width, int64_t threads) {
  const int64_t most = piece_tokens(num_tokens), pieces = (num_tokens + most - 1) / most;
  in_parallel(threads, batch * heads, [&](int64_t begin, int64_t end) {
    Workspace<T> ws(width, padded<T>(most), pieces);
    for (int64_t head = begin; head < end; ++head) {
      const int64_t at = head_offset(head, num_tokens, heads, width);
      forward_head<T, S>(ws, r + at, k + at, v + at, w + at, u + head % heads * width, y + at, num_tokens,
                         heads * width, int(width));
    }
  });
}

}  // namespace
}  // namespace rwkvclip

// r, k, v, y [B, T, H, N] contiguous in `dtype`; w [B, T, H, N] and u [H, N] in float32 (float64 for float64).
extern "C" int rwkvclip_bi_wkv6_forward(const void* r, const void* k, const void* v, const void* w, const void* u,
                                        void* y, int64_t batch, int64_t num_tokens, int64_t heads, int64_t width,
                                        int64_t dtype, int64_t threads) {
  using namespace rwkvclip;
  return guarded([&] {
    with_dtype(dtype, [&](auto* element, auto* exact) {
      using S = std::remove_pointer_t<decltype(element)>;
      using T = std::remove_pointer_t<decltype(exact)>;
      forward<T, S>((const S*)r, (const S*)k, (const S*)v, (const T*)w, (const T*)u, (S*)y, batch, num_tokens, heads,
                    width, threads);
    });
  });
}
