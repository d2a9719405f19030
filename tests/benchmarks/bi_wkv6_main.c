/* Calls the CPU library's Bi-WKV once on operands that are the same everywhere: for counting instructions.
 *
 * usage: bi_wkv6_main BATCH TOKENS HEADS WIDTH; prints the mean of the output, so that it is not nothing.
 * float32, contiguous [B, T, H, N]; u [H, N]; one thread.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int rwkvclip_bi_wkv6_forward(const void *r, const void *k, const void *v, const void *w, const void *u, void *y,
                             int64_t batch, int64_t num_tokens, int64_t heads, int64_t width, int64_t dtype,
                             int64_t threads);
const char *rwkvclip_error(void);

static float *filled(int64_t count, uint32_t seed, float low, float high) {
  float *found = malloc(count * sizeof *found);
  if (!found) exit(2);
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    found[i] = low + (high - low) * (float)(seed >> 8) / 16777216.f;
  }
  return found;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  const int64_t b = atoll(argv[1]), t = atoll(argv[2]), h = atoll(argv[3]), n = atoll(argv[4]), all = b * t * h * n;
  float *r = filled(all, 1, -1, 1), *k = filled(all, 2, -1, 1), *v = filled(all, 3, -1, 1);
  float *w = filled(all, 4, -6, 1), *u = filled(h * n, 5, 0, 1), *y = filled(all, 6, 0, 0);
  if (rwkvclip_bi_wkv6_forward(r, k, v, w, u, y, b, t, h, n, 0, 1)) {
    fprintf(stderr, "%s\n", rwkvclip_error());
    return 1;
  }
  double sum = 0;
  for (int64_t i = 0; i < all; ++i) sum += y[i];
  printf("%.9g\n", sum / all);
  return 0;
}
