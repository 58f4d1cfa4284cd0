// The loops of nvfp4.py, fp8.py and mxfp4.py for BF16 weights, for GPUs. Each thread takes eight numbers at a time, 16
// bytes that its neighbours' follow, and threads that share a block tell each other its largest magnitude. Each number
// is read once and each result written once.

#include "arithmetic.h"

typedef long long count_t;

#define EACH(i, count) \
  for (count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += (count_t)gridDim.x * blockDim.x)

SHARED void take(const uint4 *from, word *eight) {
  const uint4 four = __ldcs(from);  // used once: leave the cache to others
  eight[0] = four.x, eight[1] = four.y, eight[2] = four.z, eight[3] = four.w;
}

// The largest magnitude among eight, as BF16 bits.
SHARED word largest_of(const word *eight) {
  const word mask = 0x7fff7fffu;
  const word pairs = __vmaxu2(__vmaxu2(eight[0] & mask, eight[1] & mask), __vmaxu2(eight[2] & mask, eight[3] & mask));
  return max(pairs & 0xffff, pairs >> 16);
}

// The largest among neighbouring lanes, 2 or 4 of them, all of which are here.
SHARED word largest_among(word largest, word lanes) {
  const word lane = threadIdx.x & 31, group = ((1u << lanes) - 1) << (lane & ~(lanes - 1));
  for (word distance = 1; distance < lanes; distance *= 2)
    largest = max(largest, __shfl_xor_sync(group, largest, distance));
  return largest;
}

extern "C" __global__ void largest_bf16(const uint4 *weight, count_t eights, word *result) {
  word largest = 0, eight[4];
  EACH(i, eights) {
    take(weight + i, eight);
    largest = max(largest, largest_of(eight));
  }
  for (word distance = 16; distance; distance /= 2)
    largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
  if ((threadIdx.x & 31) == 0) atomicMax(result, largest);
}

// What each scale of a block is worth, and its reciprocal, for a tensor's scale.
SHARED void tabulate(float2 *steps, float scale_2) {
  for (word code = threadIdx.x; code < 128; code += blockDim.x) {
    const float step = from_e4m3((byte)code) * scale_2;
    steps[code] = make_float2(step, 1 / step);
  }
  __syncthreads();
}

extern "C" __global__ void nvfp4_bf16(const uint4 *weight, count_t eights, float scale_2, word *codes, byte *scales) {
  __shared__ float2 steps[128];
  tabulate(steps, scale_2);
  const float divisor = 6.0f * scale_2, reciprocal = 1 / divisor;
  const bool fast = divides_fast(0x1p-9f * scale_2) && divides_fast(448 * scale_2);
  word eight[4];
  EACH(i, eights) {
    take(weight + i, eight);
    const float largest = widened(largest_among(largest_of(eight), 2));
    byte coded;
    if (fast) {
      const float most = 512 * divisor;
      coded = to_e4m3(limited(quotient(largest < most ? largest : most, divisor, reciprocal)));
      __stcs(codes + i, eight_nvfp4(eight, steps[coded].x, steps[coded].y));
    } else {
      coded = to_e4m3(limited(largest / divisor));
      __stcs(codes + i, eight_nvfp4_slowly(eight, steps[coded].x));
    }
    if ((i & 1) == 0) scales[i / 2] = coded;
  }
}

// One thread searches a whole block, and writes its scale and codes.
SHARED void search_block(const uint4 *weight, float scale_2, const float *importance, enum search how,
                         const struct block_scale *table, uint2 *codes, byte *scales) {
  const bool fast = divides_fast(0x1p-9f * scale_2) && divides_fast(448 * scale_2);
  word numbers[8];
  take(weight, numbers), take(weight + 1, numbers + 4);
  const float largest = widened(max(largest_of(numbers), largest_of(numbers + 4)));
  const byte coded = fast ? searched(numbers, largest, importance, scale_2, how, table, 1)
                          : searched(numbers, largest, importance, scale_2, how, table, 0);
  const struct block_scale scale = table[coded];
  *scales = coded;
  __stcs(codes, fast ? make_uint2(eight_nvfp4(numbers, scale.step, scale.reciprocal),
                                  eight_nvfp4(numbers + 4, scale.step, scale.reciprocal))
                     : make_uint2(eight_nvfp4_slowly(numbers, scale.step),
                                  eight_nvfp4_slowly(numbers + 4, scale.step)));
}

SHARED void tabulate_scales(struct block_scale *table, float scale_2) {
  for (word code = threadIdx.x; code <= LAST_BYTE; code += blockDim.x) table[code] = block_scale_of(code, scale_2);
  __syncthreads();
}

// `importance` has a number for each column, and rows have `row` blocks.
extern "C" __global__ void nvfp4_search_bf16(const uint4 *weight, count_t blocks, float scale_2, const float4 *importance,
                                             count_t row, count_t four_over_six, uint2 *codes, byte *scales) {
  __shared__ struct block_scale table[LAST_BYTE + 1];
  tabulate_scales(table, scale_2);
  EACH(i, blocks) {
    float weights[16];
    for (int j = 0; j < 4; j++) {
      const float4 four = importance[i % row * 4 + j];
      weights[4 * j] = four.x, weights[4 * j + 1] = four.y, weights[4 * j + 2] = four.z, weights[4 * j + 3] = four.w;
    }
    if (four_over_six)
      search_block(weight + 2 * i, scale_2, weights, FOUR_OVER_SIX, table, codes + i, scales + i);
    else
      search_block(weight + 2 * i, scale_2, weights, BY_ERROR, table, codes + i, scales + i);
  }
}

// The threads of a warp search the same block of 32 rows, so that one read of a pair's number serves all. `rows` is that
// of the matrix, `steps` the number of blocks with its rows rounded up to whole warps.
extern "C" __global__ void nvfp4_search_pairs_bf16(const uint4 *weight, count_t steps, float scale_2, const float *pairs,
                                                   count_t row, count_t rows, uint2 *codes, byte *scales) {
  __shared__ struct block_scale table[LAST_BYTE + 1];
  tabulate_scales(table, scale_2);
  const count_t whole = (rows + 31) / 32 * 32;
  EACH(i, steps) {
    const count_t column = i / whole, block = i % whole * row + column;
    if (i % whole < rows)
      search_block(weight + 2 * block, scale_2, pairs + column * PAIRS, BY_PAIRS, table, codes + block, scales + block);
  }
}

extern "C" __global__ void fp8_bf16(const uint4 *weight, count_t eights, float scale, uint2 *codes) {
  const float reciprocal = 1 / scale;
  word eight[4], coded[2];
  EACH(i, eights) {
    take(weight + i, eight);
    eight_fp8(eight, scale, reciprocal, coded);
    __stcs(codes + i, make_uint2(coded[0], coded[1]));
  }
}

extern "C" __global__ void mxfp4_bf16(const uint4 *weight, count_t eights, word *codes, byte *scales) {
  word eight[4];
  EACH(i, eights) {
    take(weight + i, eight);
    const word exponent = mx_exponent(widened(largest_among(largest_of(eight), 4)) / 6.0f);
    if ((i & 3) == 0) scales[i / 4] = (byte)exponent;
    __stcs(codes + i, eight_mxfp4(eight, exponent));
  }
}

// --- errors: the sums of squares of some numbers, and of their differences from what their codes stand for ---

// The sum over the threads of a block, in an order that is always the same; the first thread has it.
SHARED float sum_of_block(float part) {
  __shared__ float parts[32];
  for (word distance = 16; distance; distance /= 2) part += __shfl_xor_sync(0xffffffffu, part, distance);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x / 32] = part;
  __syncthreads();
  part = 0;
  for (word warp = 0; warp < blockDim.x / 32; warp++) part += parts[warp];
  return part;
}

SHARED void write_sums(float signal, float noise, float *sums) {
  signal = sum_of_block(signal), noise = sum_of_block(noise);
  if (threadIdx.x == 0) sums[2 * blockIdx.x] = signal, sums[2 * blockIdx.x + 1] = noise;
}

SHARED float from_e2m1(word code) {
  const word exponent = (code >> 1) & 3, mantissa = code & 1;
  const float magnitude = exponent ? from_bits(((exponent + 126) << 23) | (mantissa << 22)) : 0.5f * mantissa;
  return code & 8 ? -magnitude : magnitude;
}

extern "C" __global__ void nvfp4_error(const uint4 *weight, count_t eights, float scale_2, const word *codes,
                                       const byte *scales, float *sums) {
  float signal = 0, noise = 0;
  word eight[4];
  EACH(i, eights) {
    take(weight + i, eight);
    const float step = from_e4m3(scales[i / 2]) * scale_2;
    const word coded = codes[i];
    for (int j = 0; j < 8; j++) {
      const float number = widened(number_of(eight, j)), off = number - from_e2m1(coded >> (4 * j)) * step;
      signal += number * number;
      noise += off * off;
    }
  }
  write_sums(signal, noise, sums);
}

extern "C" __global__ void fp8_error(const uint4 *weight, count_t eights, float scale, const uint2 *codes, float *sums) {
  float signal = 0, noise = 0;
  word eight[4];
  EACH(i, eights) {
    take(weight + i, eight);
    const uint2 coded = codes[i];
    for (int j = 0; j < 8; j++) {
      const byte code = (byte)((j < 4 ? coded.x : coded.y) >> (8 * (j & 3)));
      const float number = widened(number_of(eight, j)), off = number - from_e4m3(code) * scale;
      signal += number * number;
      noise += off * off;
    }
  }
  write_sums(signal, noise, sums);
}
