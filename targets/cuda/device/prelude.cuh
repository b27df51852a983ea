// prelude.cuh: what TVM's generated CUDA C takes for granted, without the C++ standard library.
#pragma once
#include <cuda_fp16.h>

typedef unsigned int uint;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000LL)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000LL)

static inline __device__ half max(half a, half b) { return __hgt(a, b) ? a : b; }
static inline __device__ half min(half a, half b) { return __hlt(a, b) ? a : b; }

static inline __device__ unsigned __pack_half2(half x, half y) {
    return (unsigned)__half_as_ushort(y) << 16 | __half_as_ushort(x);
}

#define EDGEC_HALF_BY_FLOAT(name, function)                                                                            \
    static inline __device__ half name(half x) { return __float2half_rn(function(__half2float(x))); }
EDGEC_HALF_BY_FLOAT(edgec_htanh, tanhf)
EDGEC_HALF_BY_FLOAT(htan, tanf)
EDGEC_HALF_BY_FLOAT(hatan, atanf)
EDGEC_HALF_BY_FLOAT(herf, erff)
#undef EDGEC_HALF_BY_FLOAT

struct __align__(8) half4 {
    half x, y, z, w;
};

static inline __device__ half4 make_half4(half x, half y, half z, half w) {
    half4 result;
    result.x = x, result.y = y, result.z = z, result.w = w;
    return result;
}

// Sum of the products of four signed bytes, and a total. PTX ISA: dp4a needs sm_61.
static inline __device__ int edgec_dot4(int data, int weights, int total) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 610
    for (int shift = 0; shift < 32; shift += 8) {
        total += (int)(signed char)(data >> shift) * (int)(signed char)(weights >> shift);
    }
    return total;
#else
    return __dp4a(data, weights, total);
#endif
}

// Rounded half to even, plus the zero point, as the nearest byte; bounds before rounding, since they are integers.
static inline __device__ signed char edgec_to_int8(float x, int zero_point) {
    return (signed char)(__float2int_rn(fminf(fmaxf(x, -128.0f - zero_point), 127.0f - zero_point)) + zero_point);
}

static inline __device__ unsigned char edgec_to_uint8(float x, int zero_point) {
    return (unsigned char)(__float2int_rn(fminf(fmaxf(x, 0.0f - zero_point), 255.0f - zero_point)) + zero_point);
}

static inline __device__ int edgec_word_of(int a, int b, int c, int d) {
    return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | d << 24;
}

static inline __device__ int edgec_spread(signed char x) { return (x & 255) * 0x01010101; }
static inline __device__ uint edgec_spread(unsigned char x) { return x * 0x01010101u; }
