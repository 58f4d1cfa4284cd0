// The loops of nvfp4.py and fp8.py for BF16 weights, for the processor's compiler.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "arithmetic.h"

// The largest magnitude as BF16 bits: magnitudes are in the order of their bits, infinity and NaN above all numbers.
uint16_t largest_bf16(const uint16_t *weight, int64_t count) {
  uint16_t largest = 0;
  for (int64_t i = 0; i < count; i++) {
    uint16_t magnitude = weight[i] & 0x7fff;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

void nvfp4_bf16(const uint16_t *weight, int64_t blocks, float scale_2, uint8_t *codes, uint8_t *scales) {
  const float divisor = 6.0f * scale_2;
  for (int64_t block = 0; block < blocks; block++) {
    const uint16_t *w = weight + block * 16;
    uint16_t largest = 0;
    for (int i = 0; i < 16; i++) {
      uint16_t magnitude = w[i] & 0x7fff;
      largest = magnitude > largest ? magnitude : largest;
    }
    float scale = widened(largest) / divisor;
    if (scale == 0) scale = 1;
    scale = scale < 0x1p-9f ? 0x1p-9f : scale > 448.0f ? 448.0f : scale;
    scales[block] = to_e4m3(scale);
    const float step = from_e4m3(scales[block]) * scale_2;
    uint8_t code[16];
    for (int i = 0; i < 16; i++) {
      float value = widened(w[i]) / step, magnitude = fabsf(value);
      code[i] = (uint8_t)((magnitude > 0.25f) + (magnitude >= 0.75f) + (magnitude > 1.25f) + (magnitude >= 1.75f) +
                          (magnitude > 2.5f) + (magnitude >= 3.5f) + (magnitude > 5.0f)) |
                (uint8_t)((value < 0.0f) << 3);
    }
    for (int i = 0; i < 8; i++) codes[block * 8 + i] = code[2 * i] | (uint8_t)(code[2 * i + 1] << 4);
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
  double signal = 0, noise = 0;
  for (int64_t i = 0; i < count; i++) {
    float here = widened(weight[i]), off = here - from_e4m3(codes[i]) * scale;
    signal += (double)here * here;
    noise += (double)off * off;
  }
  sums[0] = signal;
  sums[1] = noise;
}
