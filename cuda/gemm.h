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

template <class T, int ROWS, int VECTORS>
inline void tile(const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb, T* c, int64_t ldc, int depth,
                 bool add) {
  constexpr int W = LANES<T>;
  Vec<T> sums[ROWS][VECTORS];
  RWKVCLIP_UNROLL
  for (int i = 0; i < ROWS; ++i)
    RWKVCLIP_UNROLL
    for (int j = 0; j < VECTORS; ++j) sums[i][j] = add ? load(c + i * ldc + j * W) : Vec<T>{};
  for (int k = 0; k < depth; ++k) {
    Vec<T> row[VECTORS];
    RWKVCLIP_UNROLL
    for (int j = 0; j < VECTORS; ++j) row[j] = load(b + k * ldb + j * W);
    RWKVCLIP_UNROLL
    for (int i = 0; i < ROWS; ++i) {
      const Vec<T> left = splat(a[i * a_row + k * a_col]);
      RWKVCLIP_UNROLL
      for (int j = 0; j < VECTORS; ++j) sums[i][j] += left * row[j];
    }
  }
  RWKVCLIP_UNROLL
  for (int i = 0; i < ROWS; ++i)
    RWKVCLIP_UNROLL
    for (int j = 0; j < VECTORS; ++j) store(c + i * ldc + j * W, sums[i][j]);
}

template <class T, int ROWS, int VECTORS>
inline void last_rows(int rows, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb, T* c, int64_t ldc,
                      int depth, bool add) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) {
      tile<T, ROWS, VECTORS>(a, a_row, a_col, b, ldb, c, ldc, depth, add);
    } else {
      last_rows<T, ROWS - 1, VECTORS>(rows, a, a_row, a_col, b, ldb, c, ldc, depth, add);
    }
  }
}

template <class T, int VECTORS>
void columns(int rows, int vectors, int depth, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb, T* c,
             int64_t ldc, bool add) {
  constexpr int W = LANES<T>, TALL = TILE_ROWS[VECTORS];
  int done = 0;
  for (; done + VECTORS <= vectors; done += VECTORS) {
    int i = 0;
    for (; i + TALL <= rows; i += TALL)
      tile<T, TALL, VECTORS>(a + i * a_row, a_row, a_col, b + done * W, ldb, c + i * ldc + done * W, ldc, depth, add);
    last_rows<T, TALL - 1, VECTORS>(rows - i, a + i * a_row, a_row, a_col, b + done * W, ldb,
                                    c + i * ldc + done * W, ldc, depth, add);
  }
  if constexpr (VECTORS > 1) {
    if (done < vectors)
      columns<T, VECTORS - 1>(rows, vectors - done, depth, a, a_row, a_col, b + done * W, ldb, c + done * W, ldc, add);
  }
}

}  // namespace detail

// C [rows, vectors·lanes] = (add ? C : 0) + A [rows, depth] · B [depth, vectors·lanes]; A of any strides.
template <class T>
inline void gemm(int rows, int vectors, int depth, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb,
                 T* c, int64_t ldc, bool add) {
  detail::columns<T, MAX_TILE_VECTORS>(rows, vectors, depth, a, a_row, a_col, b, ldb, c, ldc, add);
}

}  // namespace rwkvclip
