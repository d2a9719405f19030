// The edge of the CPU library: element types by code, threads, and exceptions turned into messages.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace rwkvclip {

enum Dtype { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2, FLOAT64 = 3 };

std::string& last_error();

// Calls `work(element*, exact*)` with null pointers of the stored type and of the type to compute in.
template <class Work>
void with_dtype(int64_t dtype, Work work) {
  switch (dtype) {
    case FLOAT32:
      return work((float*)nullptr, (float*)nullptr);
    case BFLOAT16:
      return work((bfloat16*)nullptr, (float*)nullptr);
    case FLOAT64:
      return work((double*)nullptr, (double*)nullptr);
    default:
      throw std::invalid_argument("element type " + std::to_string(dtype) + " is not known to the CPU library");
  }
}

// Runs `work` and returns 0, or 1 with the message kept for rwkvclip_error().
template <class Work>
int guarded(Work work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return 1;
  }
}

// Calls work(begin, end) on equal shares of [0, count), one per thread; an exception in any of them is thrown here.
template <class Work>
void in_parallel(int64_t threads, int64_t count, Work work) {
  if (count <= 0) return;
  if (threads > count) threads = count;
#if defined(_OPENMP)
  if (threads > 1) {
    std::exception_ptr failure;
#pragma omp parallel num_threads(int(threads))
    {
      // Fewer threads may come than were asked for.
      const int64_t i = omp_get_thread_num(), n = omp_get_num_threads();
      try {
        work(count * i / n, count * (i + 1) / n);
      } catch (...) {
#pragma omp critical
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    return;
  }
#endif
  work(0, count);
}

}  // namespace rwkvclip

// Runs its arguments, statements in which S is the stored element type of code `dtype` and T the one to compute in.
#define RWKVCLIP_BY_DTYPE(...)                                     \
  using namespace rwkvclip;                                        \
  return guarded([&] {                                             \
    with_dtype(dtype, [&](auto* element, auto* exact) {            \
      using S = std::remove_pointer_t<decltype(element)>;          \
      using T = std::remove_pointer_t<decltype(exact)>;            \
      __VA_ARGS__;                                                 \
    });                                                            \
  });
