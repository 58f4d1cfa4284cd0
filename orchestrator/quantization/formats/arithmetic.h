// What the loops for processors and for GPUs share: the operations of nvfp4.py, fp8.py and mxfp4.py, one IEEE rounding
// each, so every byte is the same. Compile without contraction of products and sums; `fmaf` is meant where it stands.

typedef unsigned char byte;
typedef unsigned short half_word;
typedef unsigned int word;

#ifdef __CUDACC__
#define SHARED static __device__ __forceinline__
SHARED float from_bits(word bits) { return __uint_as_float(bits); }
SHARED word to_bits(float number) { return __float_as_uint(number); }
#else
#define SHARED static inline
SHARED float from_bits(word bits) { float number; memcpy(&number, &bits, 4); return number; }
SHARED word to_bits(float number) { word bits; memcpy(&bits, &number, 4); return bits; }
#endif

SHARED float widened(half_word bf16) { return from_bits((word)bf16 << 16); }

// To BF16, ties to even; finite numbers.
SHARED float as_bf16(float number) {
  word bits = to_bits(number);
  return from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}

// To E4M3, ties to even, saturating at 448.
SHARED byte to_e4m3(float number) {
  word bits = to_bits(number), sign = (bits >> 24) & 0x80;
  bits &= 0x7fffffff;
  if (bits < 0x3c800000u)  // below 2^-6: multiples of 2^-9, which the sum with 2^14 rounds to
    return (byte)(sign | (to_bits(from_bits(bits) + 16384.0f) - 0x46800000u));
  if (bits >= 0x43e00000u) return (byte)(sign | 0x7e);
  bits += 0x7ffff + ((bits >> 20) & 1);
  word code = (bits >> 20) - ((127 - 7) << 3);
  return (byte)(sign | (code > 0x7e ? 0x7e : code));
}

SHARED float from_e4m3(byte code) {
  word exponent = (code >> 3) & 15, mantissa = code & 7;
  float magnitude = exponent ? from_bits(((exponent + 120) << 23) | (mantissa << 20)) : (float)mantissa * 0x1p-9f;
  return code & 0x80 ? -magnitude : magnitude;
}

// The code of the nearest E2M1 magnitude, ties to the even code, in the lowest byte, for a magnitude up to 6: a sum whose
// last digit is worth 0.5, 1 or 2 rounds to multiples of that, and its lowest digits are the code.
SHARED word to_e2m1(float magnitude) {
  return to_bits(magnitude + (magnitude < 2 ? 0x1p22f : magnitude < 4 ? 0x1p23f + 2 : 0x1p24f + 8));
}

// The code of the nearest E2M1 magnitude, ties toward zero, for a magnitude up to 6.
SHARED word to_e2m1_toward_zero(float magnitude) {
  word bits = to_bits(magnitude);
  word below_1 = (word)(magnitude > 0.25f) + (word)(magnitude > 0.75f);
  return bits < 0x3f800000u ? below_1 : ((bits + 0x1fffff) >> 22) - 252;
}

// The exponent of an MXFP4 block plus 127: that of the smallest power of two which is not below amax / 6.
SHARED word mx_exponent(float sixth) {
  word bits = to_bits(sixth), exponent = bits >> 23, mantissa = bits & 0x7fffff;
  if (exponent == 0) return mantissa > 0x400000u;  // below 2^-126: 2^-127 is the least that is written
  return exponent + (mantissa != 0);
}

// --- many numbers at once ---

// A BF16 number over a divisor, by the divisor's reciprocal: three operations, where a division takes ten. The quotient is
// the correctly rounded one for every BF16 number and every divisor of these sizes: a test compares all pairs of
// mantissas. Quotients below 2^-20, which all become zero, may be off in their last digits.
SHARED int divides_fast(float divisor) { return divisor >= 0x1p-96f && divisor <= 0x1p15f; }

SHARED float quotient(float number, float divisor, float reciprocal) {
  const float rough = number * reciprocal;
  return fmaf(fmaf(-divisor, rough, number), reciprocal, rough);
}

// --- the search for the scales of NVFP4's blocks, see nvfp4.py ---

enum { CANDIDATES = 13, FIRST_BYTE = 1, LAST_BYTE = 126, PAIRS = 136 };

enum search { BY_MAX, FOUR_OVER_SIX, BY_ERROR, BY_COST, BY_PAIRS };  // BY_COST is GPTQ's alone

// The bytes that are tried, in their order, the scale that fits the largest magnitude first: 0, -1, 1, ... -4, 4, 5, ... 8.
SHARED word candidate(word largest, int number) {
  const int offset = number > 8 ? number - 4 : (number & 1 ? -1 : 1) * ((number + 1) / 2), code = (int)largest + offset;
  return (word)(code < FIRST_BYTE ? FIRST_BYTE : code > LAST_BYTE ? LAST_BYTE : code);
}

// What a block's scale makes of numbers: `step` is its value times the tensor's scale, `most` what becomes 6.
struct block_scale {
  float value, step, reciprocal, most;
};

SHARED struct block_scale block_scale_of(word code, float scale_2) {
  struct block_scale scale;
  scale.value = from_e4m3((byte)code), scale.step = scale.value * scale_2;
  scale.reciprocal = 1 / scale.step, scale.most = 6 * scale.step;
  return scale;
}

// The nearest E2M1 magnitude, ties to the even code, for a magnitude up to 6: a sum whose last digit is worth 0.5, 1 or 2,
// by the size of the magnitude, rounds to multiples of that.
SHARED float nearest_e2m1(float magnitude) {
  const float rounder = from_bits((to_bits(magnitude > 1 ? magnitude : 1) & 0x7f800000u) + (22u << 23));
  return (magnitude + rounder) - rounder;
}

// The difference that a scale makes to a magnitude, in units of the tensor's scale; `unit` is the magnitude in these units.
SHARED float difference_of(float magnitude, float unit, struct block_scale scale, int fast) {
  float value;
  if (fast) {
    value = quotient(magnitude < scale.most ? magnitude : scale.most, scale.step, scale.reciprocal);
  } else {
    value = magnitude == 0 ? 0 : magnitude / scale.step;
    value = value > 6 ? 6 : value;
  }
  return nearest_e2m1(value) * scale.value - unit;
}

SHARED float error_of(float magnitude, float unit, float importance, struct block_scale scale, int fast) {
  const float off = difference_of(magnitude, unit, scale, fast);
  return off * off * importance;
}

// For GPUs eight numbers at a time, which are 16 bytes and become the digits of a word or two.

SHARED half_word number_of(const word *eight, int i) { return (half_word)(eight[i / 2] >> (16 * (i & 1))); }

// The bytes of two words in another order: four digits of `order`, the lowest first, number them from 0 to 7.
SHARED word shuffled(word low, word high, word order) {
#ifdef __CUDACC__
  return __byte_perm(low, high, order);
#else
  const unsigned long long both = (unsigned long long)high << 32 | low;
  word found = 0;
  for (int i = 0; i < 4; i++) found |= (word)(both >> (8 * ((order >> (4 * i)) & 7)) & 0xff) << (8 * i);
  return found;
#endif
}

// Sign bits of eight numbers where E2M1 codes have them; zero has none.
SHARED word signs_of(const word *eight) {
  word below[4];  // each number's sign is the highest bit of its half; adding 0x7fff sets that where there is a number
  for (int i = 0; i < 4; i++) below[i] = eight[i] & ((eight[i] & 0x7fff7fffu) + 0x7fff7fffu);
  const word first = shuffled(below[0], below[1], 0x7351), last = shuffled(below[2], below[3], 0x7351);
  return ((shuffled(first, last, 0x5410) >> 4) & 0x08080808u) | (shuffled(first, last, 0x7632) & 0x80808080u);
}

// Codes of eight numbers for a step whose reciprocal is given; both are of the sizes that divide fast.
SHARED word eight_nvfp4(const word *eight, float step, float reciprocal) {
  const float most = 6 * step;
  word pairs[4];
  for (int i = 0; i < 4; i++) {
    const float low = from_bits((eight[i] & 0x7fff) << 16), high = from_bits(eight[i] & 0x7fff0000u);
    pairs[i] = to_e2m1(quotient(low < most ? low : most, step, reciprocal)) +
               16 * to_e2m1(quotient(high < most ? high : most, step, reciprocal));
  }
  const word first = shuffled(pairs[0], pairs[1], 0x0040), last = shuffled(pairs[2], pairs[3], 0x0040);
  return shuffled(first, last, 0x5410) | signs_of(eight);
}

// The same for any step, by division.
SHARED word eight_nvfp4_slowly(const word *eight, float step) {
  word codes = 0;
  for (int i = 0; i < 8; i++) {
    const float value = widened(number_of(eight, i)) / step, magnitude = fabsf(value);
    const word code = (word)(magnitude > 0.25f) + (magnitude >= 0.75f) + (magnitude > 1.25f) + (magnitude >= 1.75f) +
                      (magnitude > 2.5f) + (magnitude >= 3.5f) + (magnitude > 5.0f);
    codes |= (code | (word)(value < 0.0f) << 3) << (4 * i);
  }
  return codes;
}

// What E4M3 can hold of a block's scale; a block of zeros has 1.
SHARED float limited(float scale) {
  if (scale == 0) scale = 1;
  return scale < 0x1p-9f ? 0x1p-9f : scale > 448.0f ? 448.0f : scale;
}

SHARED void eight_fp8(const word *eight, float scale, float reciprocal, word *codes) {
  codes[0] = codes[1] = 0;
  const int fast = divides_fast(scale);
  const float most = 512 * scale;  // the quotient saturates long before
  for (int i = 0; i < 8; i++) {
    const half_word bits = number_of(eight, i);
    const float magnitude = widened(bits & 0x7fff);
    const float value = fast ? quotient(magnitude < most ? magnitude : most, scale, reciprocal) : magnitude / scale;
    codes[i / 4] |= (to_e4m3(as_bf16(value)) | (word)(bits >> 15) << 7) << (8 * (i & 3));
  }
}

SHARED word eight_mxfp4(const word *eight, word exponent) {
  const float factor = from_bits((254 - exponent) << 23);  // a power of two: the product is exact or underflows
  word codes = 0;
  for (int i = 0; i < 8; i++) {
    const float value = widened(number_of(eight, i)) * factor;
    codes |= (to_e2m1_toward_zero(fabsf(value)) | (word)!(value > 0) << 3) << (4 * i);
  }
  return codes;
}

// The error of a block by the pairs of its differences.
SHARED float error_of_pairs(const float *off, const float *pairs) {
  float total = 0;
  for (int i = 0; i < 16; i++) {
    float part = off[i] * *pairs++;
    for (int j = i + 1; j < 16; j++) part += off[j] * *pairs++;
    total += off[i] * part;
  }
  return total;
}

// The scale with the least error of a block of sixteen numbers, of which `magnitude` is the largest. `importance` has a
// number for each of them, or for each pair.
SHARED byte searched(const word *numbers, float magnitude, const float *importance, float scale_2, enum search how,
                     const struct block_scale *table, int fast) {
  const word largest = to_e4m3(limited(magnitude / (6.0f * scale_2)));
  float magnitudes[16], units[16], least = 0;
  for (int i = 0; i < 16; i++) {
    magnitudes[i] = widened(number_of(numbers, i) & 0x7fff);
    units[i] = magnitudes[i] / scale_2;
  }
  word best = largest;
  for (int number = 0; number < (how == FOUR_OVER_SIX ? 2 : CANDIDATES); number++) {
    const word code =
        how == FOUR_OVER_SIX && number ? to_e4m3(limited(magnitude / (4.0f * scale_2))) : candidate(largest, number);
    const struct block_scale scale = table[code];
    float terms[16], error;
    if (how == BY_PAIRS) {
      for (int i = 0; i < 16; i++) {
        const float off = difference_of(magnitudes[i], units[i], scale, fast);
        terms[i] = number_of(numbers, i) & 0x8000 ? -off : off;
      }
      error = error_of_pairs(terms, importance);
    } else {
      for (int i = 0; i < 8; i++)
        terms[i] = error_of(magnitudes[i], units[i], importance[i], scale, fast) +
                   error_of(magnitudes[i + 8], units[i + 8], importance[i + 8], scale, fast);
      error = ((terms[0] + terms[4]) + (terms[2] + terms[6])) + ((terms[1] + terms[5]) + (terms[3] + terms[7]));
    }
    if (number == 0 || error < least) least = error, best = code;
  }
  return (byte)best;
}
