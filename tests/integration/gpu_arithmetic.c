// What the GPU's loops do with eight numbers at a time, for a processor's compiler.
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "arithmetic.h"

static word largest(const word *eights, int count) {
  word found = 0;
  for (int i = 0; i < 8 * count; i++) {
    word magnitude = number_of(eights + 4 * (i / 8), i % 8) & 0x7fff;
    found = magnitude > found ? magnitude : found;
  }
  return found;
}

void nvfp4(const word *weight, int64_t blocks, float scale_2, word *codes, byte *scales) {
  for (int64_t block = 0; block < blocks; block++, weight += 8) {
    const float most = widened(largest(weight, 2));
    float scale = most / (6.0f * scale_2);
    if (scale == 0) scale = 1;
    scale = scale < 0x1p-9f ? 0x1p-9f : scale > 448.0f ? 448.0f : scale;
    scales[block] = to_e4m3(scale);
    for (int i = 0; i < 2; i++)
      codes[2 * block + i] = eight_nvfp4(weight + 4 * i, from_e4m3(scales[block]) * scale_2, most);
  }
}

void fp8(const word *weight, int64_t eights, float scale, word *codes) {
  for (int64_t i = 0; i < eights; i++) eight_fp8(weight + 4 * i, scale, codes + 2 * i);
}

void mxfp4(const word *weight, int64_t blocks, word *codes, byte *scales) {
  for (int64_t block = 0; block < blocks; block++, weight += 16) {
    const word exponent = mx_exponent(widened(largest(weight, 4)) / 6.0f);
    scales[block] = (byte)exponent;
    for (int i = 0; i < 4; i++) codes[4 * block + i] = eight_mxfp4(weight + 4 * i, exponent);
  }
}
