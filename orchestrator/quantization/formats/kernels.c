// The loops of nvfp4.py and fp8.py for BF16 weights, for the processor's compiler.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "arithmetic.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

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

// Blocks that are searched side by side, each in a lane of its own: their numbers lie across, so that every operation is
// one of whole vectors.
enum { LANES = 32 };

typedef float column[LANES];  // a number of each block, or of each row

struct lanes {
  column magnitudes[16], units[16], importance[16], pairs[PAIRS], least;
  word signs[16][LANES], best[LANES];
};

// Adds up what pairs of differences count, see nvfp4.py.
ALWAYS_INLINE void add_pairs(const column *off, const column *pairs, float *errors) {
  for (int lane = 0; lane < LANES; lane++) errors[lane] = 0;
  for (int i = 0; i < 16; i++) {
    column part;
    for (int lane = 0; lane < LANES; lane++) part[lane] = off[i][lane] * (*pairs)[lane];
    pairs++;
    for (int j = i + 1; j < 16; j++, pairs++)
      for (int lane = 0; lane < LANES; lane++) part[lane] += off[j][lane] * (*pairs)[lane];
    for (int lane = 0; lane < LANES; lane++) errors[lane] += off[i][lane] * part[lane];
  }
}

// Compares a scale for each block with the best so far.
ALWAYS_INLINE void compare(struct lanes *blocks, const word *codes, float scale_2, int first, int paired, int fast) {
  struct {
    column value, step, reciprocal, most;
  } scales;
  column terms[16];
  for (int lane = 0; lane < LANES; lane++) {
    const struct block_scale scale = block_scale_of(codes[lane], scale_2);
    scales.value[lane] = scale.value, scales.step[lane] = scale.step;
    scales.reciprocal[lane] = scale.reciprocal, scales.most[lane] = scale.most;
  }
  for (int i = 0; i < 16; i++)
    for (int lane = 0; lane < LANES; lane++) {
      const struct block_scale scale = {scales.value[lane], scales.step[lane], scales.reciprocal[lane], scales.most[lane]};
      const float off = difference_of(blocks->magnitudes[i][lane], blocks->units[i][lane], scale, fast);
      terms[i][lane] =
          paired ? from_bits(to_bits(off) ^ blocks->signs[i][lane]) : off * off * blocks->importance[i][lane];
    }
  column errors;
  if (paired) {
    add_pairs(terms, blocks->pairs, errors);
  } else {
    for (int half = 8; half; half /= 2)
      for (int i = 0; i < half; i++)
        for (int lane = 0; lane < LANES; lane++) terms[i][lane] += terms[i + half][lane];
    memcpy(errors, terms[0], sizeof errors);
  }
  for (int lane = 0; lane < LANES; lane++) {
    const int better = first || errors[lane] < blocks->least[lane];
    blocks->least[lane] = better ? errors[lane] : blocks->least[lane];
    blocks->best[lane] = better ? codes[lane] : blocks->best[lane];
  }
}

// Puts better scales in the place of those that fit the largest magnitudes, for at most as many blocks as there are lanes.
ALWAYS_INLINE void search(struct lanes *blocks, int count, float scale_2, enum search how, int fast, uint8_t *scales) {
  const int four_over_six = how == FOUR_OVER_SIX, paired = how == BY_PAIRS;
  word largest[LANES], codes[LANES];
  for (int i = 0; i < 16; i++)
    for (int lane = 0; lane < LANES; lane++) blocks->units[i][lane] = blocks->magnitudes[i][lane] / scale_2;
  for (int lane = 0; lane < LANES; lane++) largest[lane] = lane < count ? scales[lane] : FIRST_BYTE;
  compare(blocks, largest, scale_2, 1, paired, fast);
  for (int number = 1; number < (four_over_six ? 2 : CANDIDATES); number++) {
    for (int lane = 0; lane < LANES; lane++) {
      float most = 0;
      for (int i = 0; four_over_six && i < 16; i++)
        most = blocks->magnitudes[i][lane] > most ? blocks->magnitudes[i][lane] : most;
      codes[lane] = four_over_six ? to_e4m3(limited(most / (4.0f * scale_2))) : candidate(largest[lane], number);
    }
    compare(blocks, codes, scale_2, 0, paired, fast);
  }
  for (int lane = 0; lane < count; lane++) scales[lane] = (byte)blocks->best[lane];
}

// Each search by itself, so that the compiler sees what it does not do.
static void search_by(struct lanes *blocks, int count, float scale_2, enum search how, int fast, uint8_t *scales) {
  if (how == BY_PAIRS)
    fast ? search(blocks, count, scale_2, BY_PAIRS, 1, scales) : search(blocks, count, scale_2, BY_PAIRS, 0, scales);
  else
    fast ? search(blocks, count, scale_2, how, 1, scales) : search(blocks, count, scale_2, how, 0, scales);
}

// `first` is the number of the first block within its matrix, whose rows have `row` blocks. `importance` has a number for
// each column; `BY_PAIRS`, for each pair, one for each block of a row and then for as many as there are lanes, from the
// first one on again.
void nvfp4_search_bf16(const uint16_t *weight, int64_t blocks, float scale_2, const float *importance, int64_t first,
                       int64_t row, enum search how, uint8_t *codes, uint8_t *scales) {
  const int fast = steps_divide_fast(scale_2);
  struct lanes some = {0};
  float steps[LANES];
  for (int64_t done = 0; done < blocks; done += LANES) {
    const int count = blocks - done < LANES ? (int)(blocks - done) : LANES;
    scales_of(weight + done * 16, count, scale_2, scales + done, steps);
    for (int lane = 0; lane < count; lane++)
      for (int i = 0; i < 16; i++) {
        const uint16_t number = weight[(done + lane) * 16 + i];
        some.magnitudes[i][lane] = widened(number & 0x7fff);
        some.signs[i][lane] = (word)(number & 0x8000) << 16;
        if (how != BY_PAIRS) some.importance[i][lane] = importance[(first + done + lane) % row * 16 + i];
      }
    for (int pair = 0; how == BY_PAIRS && pair < PAIRS; pair++)
      memcpy(some.pairs[pair], importance + pair * (row + LANES) + (first + done) % row, sizeof(column));
    search_by(&some, count, scale_2, how, fast, scales + done);
    for (int64_t block = done; block < done + count; block++)
      codes_of(weight + block * 16, from_e4m3(scales[block]) * scale_2, fast, codes + block * 8);
  }
}

// --- GPTQ, see gptq.py ---

ALWAYS_INLINE void scales_of_rest(const column *rest, float scale_2, struct lanes *some, uint8_t *scales) {
  float most[LANES] = {0};
  for (int i = 0; i < 16; i++)
    for (int lane = 0; lane < LANES; lane++) {
      const float magnitude = some->magnitudes[i][lane] = fabsf(rest[i][lane]);
      some->signs[i][lane] = to_bits(rest[i][lane]) & 0x80000000u;
      most[lane] = magnitude > most[lane] ? magnitude : most[lane];
    }
  const float divisor = 6.0f * scale_2;
  for (int lane = 0; lane < LANES; lane++) scales[lane] = to_e4m3(limited(most[lane] / divisor));
}

// Rounds one column, and returns the errors in `off`.
ALWAYS_INLINE void round_column(const float *numbers, const float *steps, word *codes, float *off) {
  for (int lane = 0; lane < LANES; lane++) {
    const float number = numbers[lane], magnitude = fabsf(number);
    const float quotient = magnitude == 0 ? 0 : magnitude / steps[lane], value = quotient > 6 ? 6 : quotient;
    codes[lane] = (to_e2m1(value) & 7) | (word)(number < 0 && value > 0) << 3;
    off[lane] = number - copysignf(nearest_e2m1(value) * steps[lane], number);
  }
}

// Rounds one block, and changes `rest`, its numbers. `changes` has `columns` numbers in a row.
ALWAYS_INLINE void round_block(column *rest, const float *steps, const float *changes, int64_t columns,
                               word codes[16][LANES], column *off) {
  for (int i = 0; i < 16; i++) {
    round_column(rest[i], steps, codes[i], off[i]);
    for (int j = i + 1; j < 16; j++)
      for (int lane = 0; lane < LANES; lane++) rest[j][lane] -= off[i][lane] * changes[i * columns + j];
  }
}

// Puts the scales whose roundings cost least in the place of those that fit the largest magnitudes.
ALWAYS_INLINE void search_by_cost(const column *rest, float scale_2, const float *costs, const float *changes,
                                  int64_t columns, uint8_t *scales) {
  column units[16], least;
  word largest[LANES];
  for (int i = 0; i < 16; i++)
    for (int lane = 0; lane < LANES; lane++) units[i][lane] = rest[i][lane] / scale_2;
  for (int lane = 0; lane < LANES; lane++) largest[lane] = scales[lane];
  for (int number = 0; number < CANDIDATES; number++) {
    column trial[16], off[16], steps, cost = {0};
    word unused[16][LANES];
    for (int lane = 0; lane < LANES; lane++) steps[lane] = from_e4m3((byte)candidate(largest[lane], number));
    memcpy(trial, units, sizeof trial);
    round_block(trial, steps, changes, columns, unused, off);
    for (int i = 0; i < 16; i++)
      for (int lane = 0; lane < LANES; lane++) cost[lane] += off[i][lane] * off[i][lane] * costs[i];
    for (int lane = 0; lane < LANES; lane++) {
      const int better = number == 0 || cost[lane] < least[lane];
      least[lane] = better ? cost[lane] : least[lane];
      scales[lane] = better ? (byte)candidate(largest[lane], number) : scales[lane];
    }
  }
}

// Changes all columns behind a block by its errors, of which each row has sixteen.
ALWAYS_INLINE void change_behind(column *rest, int64_t behind, const column *off, const float *changes,
                                 int64_t columns) {
  for (int64_t k = behind; k < columns; k++) {
    column left;
    memcpy(left, rest[k], sizeof left);
    for (int i = 0; i < 16; i++)
      for (int lane = 0; lane < LANES; lane++) left[lane] -= off[i][lane] * changes[i * columns + k];
    memcpy(rest[k], left, sizeof left);
  }
}

// `order` has the numbers of the blocks in the order of `costs`, `pairs`, `changes` and `rest`, memory for `columns` times
// as many numbers as there are lanes. `pairs` has those of each block.
void nvfp4_gptq_bf16(const uint16_t *weight, int64_t rows, int64_t columns, float scale_2, const int32_t *order,
                     const float *costs, const float *changes, const float *pairs, enum search how, column *rest,
                     uint8_t *codes, uint8_t *scales) {
  struct lanes some = {0};
  for (int i = 0; i < 16; i++)
    for (int lane = 0; lane < LANES; lane++) some.importance[i][lane] = 1;
  for (int64_t done = 0; done < rows; done += LANES) {
    const int count = rows - done < LANES ? (int)(rows - done) : LANES;
    for (int64_t k = 0; k < columns; k++)
      for (int lane = 0; lane < LANES; lane++)
        rest[k][lane] = lane < count ? widened(weight[(done + lane) * columns + order[k / 16] * 16 + k % 16]) : 0;
    for (int64_t first = 0; first < columns; first += 16) {
      uint8_t chosen[LANES];
      word coded[16][LANES];
      column steps, off[16];
      const float *from_here = changes + first * columns;
      scales_of_rest(rest + first, scale_2, &some, chosen);
      for (int pair = 0; how == BY_PAIRS && pair < PAIRS; pair++)
        for (int lane = 0; lane < LANES; lane++) some.pairs[pair][lane] = pairs[first / 16 * PAIRS + pair];
      if (how == BY_COST)
        search_by_cost(rest + first, scale_2, costs + first, from_here + first, columns, chosen);
      else if (how != BY_MAX)
        search_by(&some, LANES, scale_2, how, 0, chosen);
      for (int lane = 0; lane < LANES; lane++) steps[lane] = from_e4m3(chosen[lane]) * scale_2;
      round_block(rest + first, steps, from_here + first, columns, coded, off);
      change_behind(rest, first + 16, off, from_here, columns);
      for (int lane = 0; lane < count; lane++) {
        const int64_t block = (done + lane) * columns / 16 + order[first / 16];
        scales[block] = chosen[lane];
        for (int i = 0; i < 8; i++) codes[block * 8 + i] = (uint8_t)(coded[2 * i][lane] | coded[2 * i + 1][lane] << 4);
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
