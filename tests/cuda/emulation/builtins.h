// builtins.h: functions and types that CUDA C has without an include.
#pragma once

// Clang looks at the alignment of what is assigned to only where that is a call.
#define EDGEC_VECTOR(name, type)                                                                                       \
    struct __attribute__((aligned(sizeof(type)))) name##1 {                                                            \
        type x;                                                                                                        \
    };                                                                                                                 \
    struct __attribute__((aligned(2 * sizeof(type)))) name##2 {                                                        \
        type x, y;                                                                                                     \
        name##2 &operator=(const name##2 &v) { return x = v.x, y = v.y, *this; }                                       \
    };                                                                                                                 \
    struct EDGEC_THREE(name, type);                                                                                    \
    struct __attribute__((aligned(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)))) name##4 {                           \
        type x, y, z, w;                                                                                               \
        name##4 &operator=(const name##4 &v) { return x = v.x, y = v.y, z = v.z, w = v.w, *this; }                     \
    };                                                                                                                 \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                                   \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define EDGEC_THREE(name, type) name##_unused
EDGEC_VECTOR(char, signed char)
EDGEC_VECTOR(uchar, unsigned char)
EDGEC_VECTOR(short, short)
EDGEC_VECTOR(ushort, unsigned short)
EDGEC_VECTOR(int, int)
EDGEC_VECTOR(uint, unsigned)
EDGEC_VECTOR(longlong, long long)
EDGEC_VECTOR(float, float)
EDGEC_VECTOR(double, double)
#undef EDGEC_VECTOR
#undef EDGEC_THREE

#define EDGEC_EXTREMES(type)                                                                                           \
    inline type max(type a, type b) { return a > b ? a : b; }                                                          \
    inline type min(type a, type b) { return a < b ? a : b; }
EDGEC_EXTREMES(int)
EDGEC_EXTREMES(unsigned)
EDGEC_EXTREMES(long)
EDGEC_EXTREMES(long long)
EDGEC_EXTREMES(unsigned long long)
#undef EDGEC_EXTREMES

#define EDGEC_UNARY(name)                                                                                              \
    inline float name##f(float x) { return __builtin_##name##f(x); }                                                   \
    inline double name(double x) { return __builtin_##name(x); }                                                       \
    inline float name(float x) { return __builtin_##name##f(x); }
EDGEC_UNARY(exp) EDGEC_UNARY(exp2) EDGEC_UNARY(exp10) EDGEC_UNARY(log) EDGEC_UNARY(log2) EDGEC_UNARY(log10)
EDGEC_UNARY(log1p) EDGEC_UNARY(sqrt) EDGEC_UNARY(sin) EDGEC_UNARY(cos) EDGEC_UNARY(tan) EDGEC_UNARY(asin)
EDGEC_UNARY(acos) EDGEC_UNARY(atan) EDGEC_UNARY(sinh) EDGEC_UNARY(cosh) EDGEC_UNARY(tanh) EDGEC_UNARY(asinh)
EDGEC_UNARY(acosh) EDGEC_UNARY(atanh) EDGEC_UNARY(erf) EDGEC_UNARY(floor) EDGEC_UNARY(ceil) EDGEC_UNARY(trunc)
EDGEC_UNARY(round) EDGEC_UNARY(rint) EDGEC_UNARY(nearbyint) EDGEC_UNARY(fabs)
#undef EDGEC_UNARY
inline float powf(float x, float y) { return __builtin_powf(x, y); }
inline float fmodf(float x, float y) { return __builtin_fmodf(x, y); }
inline float atan2f(float x, float y) { return __builtin_atan2f(x, y); }
inline float copysignf(float x, float y) { return __builtin_copysignf(x, y); }
inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float fmaxf(float x, float y) { return __builtin_fmaxf(x, y); }
inline float fminf(float x, float y) { return __builtin_fminf(x, y); }
inline float max(float x, float y) { return __builtin_fmaxf(x, y); }
inline float min(float x, float y) { return __builtin_fminf(x, y); }
inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
inline float __expf(float x) { return __builtin_expf(x); }
inline float __exp10f(float x) { return __builtin_exp10f(x); }
inline float __logf(float x) { return __builtin_logf(x); }
inline float __log2f(float x) { return __builtin_log2f(x); }
inline float __log10f(float x) { return __builtin_log10f(x); }
inline float __sinf(float x) { return __builtin_sinf(x); }
inline float __cosf(float x) { return __builtin_cosf(x); }
inline float __tanf(float x) { return __builtin_tanf(x); }
inline float __powf(float x, float y) { return __builtin_powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
// Toward zero: one less in magnitude than the nearest number where that is farther out.
inline float __fmaf_rz(float x, float y, float z) {
    double exact = (double)x * y + z;
    float near = (float)exact;
    if (__builtin_fabs(near) <= __builtin_fabs(exact) || __builtin_isinf(exact)) return near;
    return __builtin_nextafterf(near, 0);
}
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

// Of all roundings the one to the nearest even integer; what does not fit an int becomes the nearest one, NaN zero.
inline int __float2int_rn(float x) {
    if (x != x) return 0;
    if (x >= 2147483648.0f) return 2147483647;
    return x < -2147483648.0f ? -2147483647 - 1 : (int)__builtin_rintf(x);
}

inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }

template <class T>
inline T __ldg(const T *p) {
    return *p;
}

template <class T>
inline T __ldcg(const T *p) {
    return *p;
}

inline int __dp4a(int a, int b, int c) {
    for (int shift = 0; shift < 32; shift += 8) c += (signed char)(a >> shift) * (signed char)(b >> shift);
    return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int shift = 0; shift < 32; shift += 8) c += (a >> shift & 255) * (b >> shift & 255);
    return c;
}

#pragma clang attribute push(__attribute__((no_sanitize("thread", "alignment"))), apply_to = function)

template <class T>
inline T atomicAdd(T *p, T value) {
    emulation::pass_atomic();
    T before = *p;
    *p += value;
    return before;
}

inline void __threadfence() { emulation::pass_fence(); }
inline void __syncwarp(unsigned = ~0u) { emulation::give_up(emulation::State::kWarp, emulation::kWarpBarrier); }

// Every lane of the warp takes part; from lanes that are not there a lane gets its own value.
template <class T>
inline T edgec_shuffle(unsigned mask, T value, int from, int site) {
    if (mask != ~0u) emulation::fail("an exchange that is not between all lanes", site);
    auto slots = emulation::exchange(&value, sizeof(T), site);
    T result = value;
    if (from >= 0 && from < emulation::warp_size()) memcpy(&result, slots[from], sizeof(T));
    return result;
}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = emulation::lane();
    return edgec_shuffle(mask, value, lane / width * width + source % width, -2);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = emulation::lane(), from = lane ^ bits;
    return edgec_shuffle(mask, value, from / width <= lane / width ? from : lane, -3);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32) {
    int lane = emulation::lane(), from = lane + delta;
    return edgec_shuffle(mask, value, from / width == lane / width ? from : lane, -4);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32) {
    int lane = emulation::lane(), from = lane - delta;
    return edgec_shuffle(mask, value, from >= lane / width * width ? from : lane, -5);
}

#pragma clang attribute pop
