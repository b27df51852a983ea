// cuda_fp16.h: in the place of CUDA's own. Every operation rounds to half precision, to nearest even.
#pragma once

struct __attribute__((aligned(2))) half {
    _Float16 value;
    half() = default;
    half(_Float16 x) : value(x) {}
    half(float x) : value((_Float16)x) {}
    half(double x) : value((_Float16)x) {}
    half(int x) : value((_Float16)x) {}
    half(unsigned x) : value((_Float16)x) {}
    half(short x) : value((_Float16)x) {}
    half(unsigned short x) : value((_Float16)x) {}
    half(signed char x) : value((_Float16)x) {}
    half(unsigned char x) : value((_Float16)x) {}
    half(long long x) : value((_Float16)x) {}
    half(bool x) : value((_Float16)x) {}
    operator float() const volatile { return (float)value; }
    template <class T>  // so that it is not the copy of one that is not volatile
    void operator=(T x) volatile {
        value = x.value;
    }
};
typedef half __half;

struct __attribute__((aligned(4))) half2 {
    half x, y;
    half2() = default;
    half2(half a, half b) : x(a), y(b) {}
    half2 &operator=(const half2 &v) { return x = v.x, y = v.y, *this; }
};
typedef half2 __half2;

#define EDGEC_HALF(name, name2, symbol)                                                                                \
    inline half operator symbol(half a, half b) { return half((float)a symbol(float) b); }                             \
    inline half name(half a, half b) { return a symbol b; }                                                            \
    inline half2 name2(half2 a, half2 b) { return half2(a.x symbol b.x, a.y symbol b.y); }                             \
    inline half2 operator symbol(half2 a, half2 b) { return name2(a, b); }
EDGEC_HALF(__hadd, __hadd2, +)
EDGEC_HALF(__hsub, __hsub2, -)
EDGEC_HALF(__hmul, __hmul2, *)
EDGEC_HALF(__hdiv, __h2div, /)
#undef EDGEC_HALF
#define EDGEC_HALF(name, symbol)                                                                                       \
    inline bool name(half a, half b) { return (float)a symbol(float) b; }                                              \
    inline bool operator symbol(half a, half b) { return (float)a symbol(float) b; }
EDGEC_HALF(__hgt, >)
EDGEC_HALF(__hge, >=)
EDGEC_HALF(__hlt, <)
EDGEC_HALF(__hle, <=)
EDGEC_HALF(__heq, ==)
EDGEC_HALF(__hne, !=)
#undef EDGEC_HALF
inline half operator-(half a) { return half(-(float)a); }
inline half &operator+=(half &a, half b) { return a = a + b; }
inline half &operator*=(half &a, half b) { return a = a * b; }
inline half __hneg(half a) { return -a; }
inline half __habs(half a) { return half(__builtin_fabsf((float)a)); }
inline half __hmax(half a, half b) { return half(__builtin_fmaxf((float)a, (float)b)); }
inline half __hmin(half a, half b) { return half(__builtin_fminf((float)a, (float)b)); }
inline half __hfma(half a, half b, half c) {  // the product of two halves is exact in double, and so is the sum, nearly
    return half((double)(float)a * (double)(float)b + (double)(float)c);
}
inline half2 __hfma2(half2 a, half2 b, half2 c) { return half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)); }
inline bool __hisnan(half a) { return __builtin_isnan((float)a); }

inline half __float2half(float x) { return half(x); }
inline half __float2half_rn(float x) { return half(x); }
inline float __half2float(half x) { return (float)x; }
inline half __int2half_rn(int x) { return half((double)x); }
inline int __half2int_rn(half x) { return __float2int_rn((float)x); }
inline unsigned short __half_as_ushort(half x) { return __builtin_bit_cast(unsigned short, x); }
inline half __ushort_as_half(unsigned short x) { return half(__builtin_bit_cast(_Float16, x)); }
inline half2 make_half2(half x, half y) { return half2(x, y); }
inline half2 __halves2half2(half x, half y) { return half2(x, y); }
inline half2 __floats2half2_rn(float x, float y) { return half2(half(x), half(y)); }
inline half2 __float2half2_rn(float x) { return half2(half(x), half(x)); }
inline float2 __half22float2(half2 x) { return make_float2((float)x.x, (float)x.y); }
inline half __low2half(half2 x) { return x.x; }
inline half __high2half(half2 x) { return x.y; }

#define EDGEC_HALF(name, function)                                                                                     \
    inline half name(half x) { return half(__builtin_##function((float)x)); }
EDGEC_HALF(hexp, expf)
EDGEC_HALF(hexp2, exp2f)
EDGEC_HALF(hlog, logf)
EDGEC_HALF(hlog2, log2f)
EDGEC_HALF(hsqrt, sqrtf)
EDGEC_HALF(hsin, sinf)
EDGEC_HALF(hcos, cosf)
EDGEC_HALF(hfloor, floorf)
EDGEC_HALF(hceil, ceilf)
EDGEC_HALF(htrunc, truncf)
EDGEC_HALF(hrint, rintf)
#undef EDGEC_HALF
inline half hrsqrt(half x) { return half(1.0f / __builtin_sqrtf((float)x)); }
inline half hrcp(half x) { return half(1.0f / (float)x); }
