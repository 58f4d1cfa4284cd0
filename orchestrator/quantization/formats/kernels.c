// The loops of nvfp4.py and fp8.py for BF16 weights, for the processor's compiler.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "arithmetic.h"

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FAST 1
#else
#define FAST 0  // fmaf would be a call of a function, slower than a division
#endif

// The largest magnitude as BF16 bits: magnitudes are in the order of their bits, infinity and NaN above all numbers.
uint16_t largest_bf16(const uint16_t *weight, int64_t count) {
  uint16_t largest = 0;
  for (int64_t i = 0; i < count; i++) {
    uint16_t magnitude = weight[i] & 0x7fff;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// The loops are cut so that the compiler finds in each as many equal operations side by side as the processor has lanes:
// scales of many blocks at once, then a block's numbers two by two, as they lie in 32 bits.

enum { TILE = 64 };  // blocks whose scales are computed together

static void scales_of(const uint16_t *weight, int blocks, float scale_2, uint8_t *scales, float *steps) {
  const float divisor = 6.0f * scale_2;
  float largest[TILE];
  for (int block = 0; block < blocks; block++) {
    uint16_t most = 0;
    for (int i = 0; i < 16; i++) {
      uint16_t magnitude = weight[block * 16 + i] & 0x7fff;
      most = magnitude > most ? magnitude : most;
    }
    largest[block] = widened(most);
  }
  word coded[TILE];
  for (int block = 0; block < blocks; block++) {
    coded[block] = to_e4m3(limited(largest[block] / divisor));
    steps[block] = from_e4m3((byte)coded[block]) * scale_2;
  }
  for (int block = 0; block < blocks; block++) scales[block] = (byte)coded[block];
}

static inline void codes_fast(const uint16_t *weight, float step, uint8_t *codes) {
  const float reciprocal = 1 / step, most = 6 * step;
  word w[8], code[8];
  memcpy(w, weight, 32);
  for (int i = 0; i < 8; i++) {
    const float one = from_bits(w[i] << 16 & 0x7fff0000u), other = from_bits(w[i] & 0x7fff0000u);
    const word both = to_e2m1(quotient(one < most ? one : most, step, reciprocal)) +
                      (to_e2m1(quotient(other < most ? other : most, step, reciprocal)) << 4);
    const word negative = w[i] & ((w[i] & 0x7fff7fffu) + 0x7fff7fffu);
    code[i] = both | (negative >> 12 & 0x08) | (negative >> 24 & 0x80);
  }
  for (int i = 0; i < 8; i++) codes[i] = (byte)code[i];
}

void nvfp4_bf16(const uint16_t *weight, int64_t blocks, float scale_2, uint8_t *codes, uint8_t *scales) {
  const int fast = FAST && divides_fast(0x1p-9f * scale_2) && divides_fast(448 * scale_2);
  float steps[TILE];
  for (int64_t first = 0; first < blocks; first += TILE) {
    const int count = blocks - first < TILE ? (int)(blocks - first) : TILE;
    scales_of(weight + first * 16, count, scale_2, scales + first, steps);
    for (int block = 0; block < count; block++) {
      const uint16_t *here = weight + (first + block) * 16;
      uint8_t *there = codes + (first + block) * 8;
      if (fast) {
        codes_fast(here, steps[block], there);
      } else {
        word eight[8];
        memcpy(eight, here, 32);
        for (int i = 0; i < 2; i++) {
          const word four = eight_nvfp4_slowly(eight + 4 * i, steps[block]);
          memcpy(there + 4 * i, &four, 4);
        }
      }
    }
  }
}

void fp8_bf16(const uint16_t *weight, int64_t count, float scale, uint8_t *codes) {
  for (int64_t i = 0; i < count; i++) codes[i] = to_e4m3(as_bf16(widened(weight[i]) / scale));
}

static const float e2m1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// Sums of squares of a weight and of its difference from what its codes stand for.
void nvfp4_error(const uint16_t *weight, int64_t blocks, float scale_2, const uint8_t *codes, const uint8_t *scales,
                 double *sums) {
  double signal = 0, noise = 0;
  for (int64_t block = 0; block < blocks; block++) {
    const float step = from_e4m3(scales[block]) * scale_2;
    float here[16], off[16];
    for (int i = 0; i < 16; i++) {
      uint8_t code = (codes[block * 8 + i / 2] >> (4 * (i & 1))) & 15;
      here[i] = widened(weight[block * 16 + i]);
      off[i] = here[i] - e2m1[code] * step;
    }
    for (int i = 0; i < 16; i++) {
      signal += (double)here[i] * here[i];
      noise += (double)off[i] * off[i];
    }
  }
  sums[0] = signal;
  sums[1] = noise;
}

void fp8_error(const uint16_t *weight, int64_t count, float scale, const uint8_t *codes, double *sums) {
  enum { LANES = 8 };  // sums that do not wait for each other
  float values[256];
  for (int code = 0; code < 256; code++) values[code] = from_e4m3((byte)code) * scale;
  double signal[LANES] = {0}, noise[LANES] = {0};
  for (int64_t i = 0; i < count; i++) {
    const float here = widened(weight[i]), off = here - values[codes[i]];
    signal[i % LANES] += (double)here * here;
    noise[i % LANES] += (double)off * off;
  }
  sums[0] = sums[1] = 0;
  for (int i = 0; i < LANES; i++) sums[0] += signal[i], sums[1] += noise[i];
}
