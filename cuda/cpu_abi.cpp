#include "cpu_abi.h"

namespace rwkvclip {

std::string& last_error() {
  static thread_local std::string message;
  return message;
}

}  // namespace rwkvclip

extern "C" const char* rwkvclip_error() { return rwkvclip::last_error().c_str(); }
