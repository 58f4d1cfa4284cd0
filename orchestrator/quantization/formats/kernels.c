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

static inline void codes_of(const uint16_t *weight, float step, int fast, uint8_t *codes) {
  if (fast) {
    codes_fast(weight, step, codes);
    return;
  }
  word eight[8];
  memcpy(eight, weight, 32);
  for (int i = 0; i < 2; i++) {
    const word four = eight_nvfp4_slowly(eight + 4 * i, step);
    memcpy(codes + 4 * i, &four, 4);
  }
}

static int steps_divide_fast(float scale_2) {
  return FAST && divides_fast(0x1p-9f * scale_2) && divides_fast(448 * scale_2);
}

void nvfp4_bf16(const uint16_t *weight, int64_t blocks, float scale_2, uint8_t *codes, uint8_t *scales) {
  const int fast = steps_divide_fast(scale_2);
  float steps[TILE];
  for (int64_t first = 0; first < blocks; first += TILE) {
    const int count = blocks - first < TILE ? (int)(blocks - first) : TILE;
    scales_of(weight + first * 16, count, scale_2, scales + first, steps);
    for (int block = 0; block < count; block++)
      codes_of(weight + (first + block) * 16, steps[block], fast, codes + (first + block) * 8);
  }
}

// --- the search for the scales of blocks, see nvfp4.py ---

// What a code of E4M3 is worth for a tensor's scale.
struct candidate {
  float value, step, reciprocal, most;
};

// The nearest E2M1 magnitude, ties to the even code, for a magnitude up to 6; see to_e2m1.
static inline float nearest_e2m1(float magnitude) {
  const float rounder = magnitude < 2 ? 0x1p22f : magnitude < 4 ? 0x1p23f + 2 : 0x1p24f + 8;
  return (magnitude + rounder) - rounder;
}

static inline float rounded(float magnitude, const struct candidate *scale, int fast) {
  if (fast)
    return nearest_e2m1(quotient(magnitude < scale->most ? magnitude : scale->most, scale->step, scale->reciprocal));
  const float value = magnitude == 0 ? 0 : magnitude / scale->step;
  return nearest_e2m1(value > 6 ? 6 : value);
}

static inline float error_of(const float *magnitudes, const float *units, const float *importance,
                             const struct candidate *scale, int fast) {
  float terms[16];
  for (int i = 0; i < 16; i++) {
    const float off = rounded(magnitudes[i], scale, fast) * scale->value - units[i];
    terms[i] = off * off * importance[i];
  }
  for (int i = 0; i < 8; i++) terms[i] += terms[i + 8];
  for (int i = 0; i < 4; i++) terms[i] += terms[i + 4];
  for (int i = 0; i < 2; i++) terms[i] += terms[i + 2];
  return terms[0] + terms[1];
}

static const int offsets[] = {-1, 1, -2, 2, -3, 3, -4, 4, 5, 6, 7, 8};
enum { OFFSETS = sizeof offsets / sizeof *offsets, FIRST_BYTE = 1, LAST_BYTE = 126 };

static inline int candidates_of(const float *magnitudes, byte largest, float scale_2, int four_over_six, byte *found) {
  if (four_over_six) {
    float most = 0;
    for (int i = 0; i < 16; i++) most = magnitudes[i] > most ? magnitudes[i] : most;
    found[0] = to_e4m3(limited(most / (4.0f * scale_2)));
    return 1;
  }
  for (int i = 0; i < OFFSETS; i++) {
    const int code = largest + offsets[i];
    found[i] = (byte)(code < FIRST_BYTE ? FIRST_BYTE : code > LAST_BYTE ? LAST_BYTE : code);
  }
  return OFFSETS;
}

static inline byte chosen(const uint16_t *weight, byte largest, const float *importance, float scale_2,
                          const struct candidate *table, int four_over_six, int fast) {
  float magnitudes[16], units[16];
  for (int i = 0; i < 16; i++) {
    magnitudes[i] = widened(weight[i] & 0x7fff);
    units[i] = magnitudes[i] / scale_2;
  }
  byte best = largest, others[OFFSETS];
  float least = error_of(magnitudes, units, importance, table + largest, fast);
  const int count = candidates_of(magnitudes, largest, scale_2, four_over_six, others);
  for (int i = 0; i < count; i++) {
    const float error = error_of(magnitudes, units, importance, table + others[i], fast);
    if (error < least) least = error, best = others[i];
  }
  return best;
}

// `importance` has a number for each column; `first` is the number of the first block within its matrix, whose rows have
// `row` blocks.
void nvfp4_search_bf16(const uint16_t *weight, int64_t blocks, float scale_2, const float *importance, int64_t first,
                       int64_t row, int four_over_six, uint8_t *codes, uint8_t *scales) {
  const int fast = steps_divide_fast(scale_2);
  struct candidate table[LAST_BYTE + 1];
  for (int code = 0; code <= LAST_BYTE; code++) {
    const float value = from_e4m3((byte)code), step = value * scale_2;
    table[code] = (struct candidate){value, step, 1 / step, 6 * step};
  }
  float steps[TILE];
  for (int64_t done = 0; done < blocks; done += TILE) {
    const int count = blocks - done < TILE ? (int)(blocks - done) : TILE;
    scales_of(weight + done * 16, count, scale_2, scales + done, steps);
    for (int64_t block = done; block < done + count; block++) {
      const float *weights = importance + (first + block) % row * 16;
      const byte largest = scales[block];
      scales[block] = fast ? chosen(weight + block * 16, largest, weights, scale_2, table, four_over_six, 1)
                           : chosen(weight + block * 16, largest, weights, scale_2, table, four_over_six, 0);
      codes_of(weight + block * 16, table[scales[block]].step, fast, codes + block * 8);
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
