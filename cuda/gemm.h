// Small matrix products on row-major matrices whose rows are whole vectors.
#pragma once

#include "simd.h"

namespace rwkvclip {

// The accumulators of a tile, its vectors of B and one broadcast fit the register file.
#if RWKVCLIP_VECTOR_BYTES == 64
constexpr int MAX_TILE_VECTORS = 4;
constexpr int TILE_ROWS[] = {0, 14, 10, 8, 6};
#else
constexpr int MAX_TILE_VECTORS = 2;
constexpr int TILE_ROWS[] = {0, 8, 5};
#endif

namespace detail {

// What elements are summed in.
template <class T>
struct Sum {
  using type = T;
};
template <>
struct Sum<Pair> {
  using type = float;
};

// One tile of the product: each sum begins as start(i, j) and goes to finish(i, j, sum), j counted in vectors.
template <class T, int ROWS, int VECTORS, class Start, class Finish>
inline void tile(const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb, int depth, int row, int vector,
                 Start start, Finish finish) {
  constexpr int W = LANES<T>;
  a += row * a_row;
  b += vector * W;
  Vec<typename Sum<T>::type> sums[ROWS][VECTORS];
  RWKVCLIP_UNROLL
  for (int i = 0; i < ROWS; ++i)
    RWKVCLIP_UNROLL
    for (int j = 0; j < VECTORS; ++j) sums[i][j] = start(row + i, vector + j);
  for (int k = 0; k < depth; ++k) {
    decltype(load(b)) right[VECTORS];
    RWKVCLIP_UNROLL
    for (int j = 0; j < VECTORS; ++j) right[j] = load(b + k * ldb + j * W);
    RWKVCLIP_UNROLL
    for (int i = 0; i < ROWS; ++i) {
      const auto left = splat(a[i * a_row + k * a_col]);
      RWKVCLIP_UNROLL
      for (int j = 0; j < VECTORS; ++j) sums[i][j] = multiply_add(sums[i][j], left, right[j]);
    }
  }
  RWKVCLIP_UNROLL
  for (int i = 0; i < ROWS; ++i)
    RWKVCLIP_UNROLL
    for (int j = 0; j < VECTORS; ++j) finish(row + i, vector + j, sums[i][j]);
}

template <class T, int ROWS, int VECTORS, class Start, class Finish>
inline void last_rows(int rows, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb, int depth, int row,
                      int vector, Start start, Finish finish) {
  if constexpr (ROWS > 0) {
    if (rows - row == ROWS) {
      tile<T, ROWS, VECTORS>(a, a_row, a_col, b, ldb, depth, row, vector, start, finish);
    } else {
      last_rows<T, ROWS - 1, VECTORS>(rows, a, a_row, a_col, b, ldb, depth, row, vector, start, finish);
    }
  }
}

template <class T, int VECTORS, class Start, class Finish>
void columns(int rows, int vectors, int depth, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb,
             int vector, Start start, Finish finish) {
  constexpr int TALL = TILE_ROWS[VECTORS];
  for (; vector + VECTORS <= vectors; vector += VECTORS) {
    int row = 0;
    for (; row + TALL <= rows; row += TALL)
      tile<T, TALL, VECTORS>(a, a_row, a_col, b, ldb, depth, row, vector, start, finish);
    last_rows<T, TALL - 1, VECTORS>(rows, a, a_row, a_col, b, ldb, depth, row, vector, start, finish);
  }
  if constexpr (VECTORS > 1) {
    if (vector < vectors)
      columns<T, VECTORS - 1>(rows, vectors, depth, a, a_row, a_col, b, ldb, vector, start, finish);
  }
}

}  // namespace detail

// finish(i, j, start(i, j) + A [rows, depth] · B [depth, vectors·lanes] at row i, vector j); A of any strides. Of
// Pairs, which are two rows of B, sums are float.
template <class T, class Start, class Finish>
inline void product(int rows, int vectors, int depth, const T* a, int64_t a_row, int64_t a_col, const T* b,
                    int64_t ldb, Start start, Finish finish) {
  detail::columns<T, MAX_TILE_VECTORS>(rows, vectors, depth, a, a_row, a_col, b, ldb, 0, start, finish);
}

// C [rows, vectors·lanes] = (add ? C : 0) + A [rows, depth] · B [depth, vectors·lanes]; A of any strides.
template <class T>
inline void gemm(int rows, int vectors, int depth, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb,
                 T* c, int64_t ldc, bool add) {
  constexpr int W = LANES<T>;
  product<T>(
      rows, vectors, depth, a, a_row, a_col, b, ldb,
      [=](int i, int j) { return add ? load(c + i * ldc + j * W) : Vec<T>{}; },
      [=](int i, int j, Vec<T> sum) { store(c + i * ldc + j * W, sum); });
}

}  // namespace rwkvclip
