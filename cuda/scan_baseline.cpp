// What the benchmark holds the CPU kernels against: one plain pass per direction over tokens, no blocking, no
// vectors by hand, one thread per (batch, head). Not used by the operators.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

void scan(const float* r, const float* k, const float* v, const float* w, const float* u, float* y, int64_t num_tokens,
          int64_t stride, int64_t width, bool backwards, std::vector<float>& state) {
  std::fill(state.begin(), state.end(), 0.f);
  for (int64_t i = 0; i < num_tokens; ++i) {
    const int64_t at = (backwards ? num_tokens - 1 - i : i) * stride;
    float* out = y + at;
    for (int64_t c = 0; c < width; ++c) out[c] = backwards ? out[c] : 0.f;
    for (int64_t n = 0; n < width; ++n) {
      const float read = r[at + n], key = k[at + n], decay = std::exp(-std::exp(w[at + n]));
      const float bonus = backwards ? 0.f : u[n] * key;
      float* row = state.data() + n * width;
      for (int64_t c = 0; c < width; ++c) {
        out[c] += read * (row[c] + bonus * v[at + c]);
        row[c] = decay * row[c] + key * v[at + c];
      }
    }
  }
}

}  // namespace

extern "C" const char* rwkvclip_error() { return ""; }

// float32, contiguous [B, T, H, N]; u [H, N].
extern "C" int rwkvclip_scan_baseline(const float* r, const float* k, const float* v, const float* w, const float* u,
                                      float* y, int64_t batch, int64_t num_tokens, int64_t heads, int64_t width,
                                      int64_t threads) {
#pragma omp parallel num_threads(int(threads))
  {
    std::vector<float> state(size_t(width * width));
#pragma omp for
    for (int64_t head = 0; head < batch * heads; ++head) {
      const int64_t at = head / heads * num_tokens * heads * width + head % heads * width;
      for (const bool backwards : {false, true})
        scan(r + at, k + at, v + at, w + at, u + head % heads * width, y + at, num_tokens, heads * width, width,
             backwards, state);
    }
  }
  return 0;
}
