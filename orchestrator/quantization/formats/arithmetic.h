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

// The code of the nearest E2M1 magnitude, ties to the even code, for a magnitude up to 6.
SHARED word to_e2m1(float magnitude) {
  word bits = to_bits(magnitude);
  word below_1 = to_bits(magnitude + 4194304.0f) & 3;  // multiples of 0.5, which the sum with 2^22 rounds to
  word from_1 = ((bits + 0x1fffff + ((bits >> 22) & 1)) >> 22) - 252;
  return bits < 0x3f800000u ? below_1 : from_1;
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

// --- for GPUs: eight numbers at once, which are 16 bytes and become the digits of a word or two ---

// Many numbers over one divisor: a division costs ten operations, five with the divisor's reciprocal do as well. After
// Markstein (IBM Journal of Research and Development 34, 1990) the last step rounds correctly if the remainder is exact,
// which holds for divisors and quotients of these sizes. Smaller quotients, below what any code but 0 needs, may be off.
SHARED int divides_fast(float divisor) { return divisor >= 0x1p-96f && divisor <= 0x1p15f; }

SHARED float quotient(float number, float divisor, float reciprocal) {
  float rough = number * reciprocal;
  float better = fmaf(fmaf(-divisor, rough, number), reciprocal, rough);
  return fmaf(fmaf(-divisor, better, number), reciprocal, better);
}

SHARED half_word number_of(const word *eight, int i) { return (half_word)(eight[i / 2] >> (16 * (i & 1))); }

// `largest` is a magnitude that none of the eight exceeds.
SHARED word eight_nvfp4(const word *eight, float step, float largest) {
  word codes = 0;
  if (divides_fast(step) && largest <= 8 * step) {
    const float reciprocal = 1 / step;
    for (int i = 0; i < 8; i++) {
      const half_word bits = number_of(eight, i);
      const float magnitude = quotient(widened(bits & 0x7fff), step, reciprocal);
      codes |= (to_e2m1(magnitude < 6 ? magnitude : 6) | (word)(bits > 0x8000) << 3) << (4 * i);
    }
    return codes;
  }
  for (int i = 0; i < 8; i++) {
    const float value = widened(number_of(eight, i)) / step, magnitude = fabsf(value);
    const word code = (word)(magnitude > 0.25f) + (magnitude >= 0.75f) + (magnitude > 1.25f) + (magnitude >= 1.75f) +
                      (magnitude > 2.5f) + (magnitude >= 3.5f) + (magnitude > 5.0f);
    codes |= (code | (word)(value < 0.0f) << 3) << (4 * i);
  }
  return codes;
}

SHARED void eight_fp8(const word *eight, float scale, word *codes) {
  codes[0] = codes[1] = 0;
  const int fast = divides_fast(scale);
  const float reciprocal = 1 / scale, most = 512 * scale;  // the quotient saturates long before
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
