#include "common.cuh"
extern "C" const char* rwkvclip_error(void) { return rwkvclip::error_text.c_str(); }
