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
  const float divisor = 6.0f * scale_2, reciprocal = 1 / divisor, limit = 512 * divisor;
  const int fast = divides_fast(0x1p-9f * scale_2) && divides_fast(448 * scale_2);
  for (int64_t block = 0; block < blocks; block++, weight += 8) {
    const float most = widened(largest(weight, 2));
    const float scale = fast ? quotient(most < limit ? most : limit, divisor, reciprocal) : most / divisor;
    scales[block] = to_e4m3(limited(scale));
    const float step = from_e4m3(scales[block]) * scale_2;
    for (int i = 0; i < 2; i++)
      codes[2 * block + i] = fast ? eight_nvfp4(weight + 4 * i, step, 1 / step) : eight_nvfp4_slowly(weight + 4 * i, step);
  }
}

void nvfp4_search(const word *weight, int64_t blocks, float scale_2, const float *importance, int64_t row, enum search how,
                  word *codes, byte *scales) {
  const int fast = divides_fast(0x1p-9f * scale_2) && divides_fast(448 * scale_2);
  struct block_scale table[LAST_BYTE + 1];
  for (word code = 0; code <= LAST_BYTE; code++) table[code] = block_scale_of(code, scale_2);
  for (int64_t block = 0; block < blocks; block++, weight += 8) {
    const float *weights = importance + block % row * (how == BY_PAIRS ? PAIRS : 16);
    scales[block] = searched(weight, widened(largest(weight, 2)), weights, scale_2, how, table, fast);
    const struct block_scale scale = table[scales[block]];
    for (int i = 0; i < 2; i++)
      codes[2 * block + i] = fast ? eight_nvfp4(weight + 4 * i, scale.step, scale.reciprocal)
                                  : eight_nvfp4_slowly(weight + 4 * i, scale.step);
  }
}

void fp8(const word *weight, int64_t eights, float scale, word *codes) {
  for (int64_t i = 0; i < eights; i++) eight_fp8(weight + 4 * i, scale, 1 / scale, codes + 2 * i);
}

void mxfp4(const word *weight, int64_t blocks, word *codes, byte *scales) {
  for (int64_t block = 0; block < blocks; block++, weight += 16) {
    const word exponent = mx_exponent(widened(largest(weight, 4)) / 6.0f);
    scales[block] = (byte)exponent;
    for (int i = 0; i < 4; i++) codes[4 * block + i] = eight_mxfp4(weight + 4 * i, exponent);
  }
}

// For every mantissa of a divisor and every mantissa of a BF16 number: how many quotients differ from those of divisions.
int64_t wrong_quotients(void) {
  int64_t wrong = 0;
  for (word i = 0; i < 1u << 23; i++) {
    const float divisor = from_bits(0x3f800000u + i), reciprocal = 1 / divisor;
    for (word j = 0; j < 128; j++) {
      const float number = from_bits(0x3f800000u + (j << 16));
      wrong += quotient(number, divisor, reciprocal) != number / divisor;
    }
  }
  return wrong;
}
