// products.cuh: what a warp multiplies of a stage, on tensor cores or on CUDA cores.
#pragma once

namespace edgec {

// -- products of a pair of chunks by tensor cores (of Volta: volta.cuh) ----------------------------------------------

#if __CUDA_ARCH__ >= 750
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const half *) {
#if __CUDA_ARCH__ >= 800
    mma_m16n8k16(d, a, b);
#else
    mma_m16n8k8(d, a[0], a[1], b[0]);
    mma_m16n8k8(d, a[2], a[3], b[1]);
#endif
}

template <bool SIGNED>
__device__ __forceinline__ void multiply_bytes(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    mma_m16n8k32<SIGNED>(d, a, b);
#else
    mma_m8n8k16<SIGNED>(d, a[0], b[0]);
    mma_m8n8k16<SIGNED>(d, a[2], b[1]);
    mma_m8n8k16<SIGNED>(d + 2, a[1], b[0]);
    mma_m8n8k16<SIGNED>(d + 2, a[3], b[1]);
#endif
}
__device__ __forceinline__ void multiply(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                         const signed char *) {
    multiply_bytes<true>(d, a, b);
}
__device__ __forceinline__ void multiply(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                         const unsigned char *) {
    multiply_bytes<false>(d, a, b);
}

#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                         const float *) {
    mma_m16n8k8_tf32(d, a, b);
}
#endif

__device__ __forceinline__ void round_operand(unsigned &word, const float *) {
    word = round_to_tf32(__uint_as_float(word));
}
template <class T>
__device__ __forceinline__ void round_operand(unsigned &, const T *) {}

template <class Tile, class T, class Total>
__device__ __forceinline__ void step(Total (&total)[Tile::m_parts][Tile::n_parts][4], const Byte *a_tile,
                                     const Byte *b_tile, int m, int n, int chunk, const T *type) {
    typedef Stage<Tile, T> Held;
    int lane = threadIdx.x % 32;
    unsigned a[Tile::m_parts][4], b[Tile::n_parts][2];
#pragma unroll
    for (int i = 0; i < Tile::m_parts; ++i) {  // lanes 0-7, 8-15: rows; 16-31: the same of the next chunk
        int row = m * Tile::m_parts * 16 + lane % 16;
        ldmatrix_x4(a[i], a_tile + Held::Left::place(row, chunk + lane / 16, i * 16));
    }
#pragma unroll
    for (int j = 0; j < Tile::n_parts; j += 2) {  // lanes 0-7: columns, 8-15: their next chunk, 16-31: eight columns on
        int column = n * Tile::n_parts * 8 + lane / 16 * 8 + lane % 8;
        unsigned both[4];
        ldmatrix_x4(both, b_tile + Held::Right::place(column, chunk + lane / 8 % 2, j * 8));
        b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
    }
#pragma unroll
    for (int i = 0; i < Tile::m_parts; ++i) {
#pragma unroll
        for (int k = 0; k < 4; ++k) round_operand(a[i][k], type);
    }
#pragma unroll
    for (int j = 0; j < Tile::n_parts; ++j) round_operand(b[j][0], type), round_operand(b[j][1], type);
#pragma unroll
    for (int i = 0; i < Tile::m_parts; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::n_parts; ++j) multiply(total[i][j], a[i], b[j], type);
    }
}
#endif

// -- products of one chunk by CUDA cores -------------------------------------------------------------------------

__device__ __forceinline__ void add_products(float &total, const uint4 &a, const uint4 &b, const float *) {
    total = fmaf(__uint_as_float(a.x), __uint_as_float(b.x), total);
    total = fmaf(__uint_as_float(a.y), __uint_as_float(b.y), total);
    total = fmaf(__uint_as_float(a.z), __uint_as_float(b.z), total);
    total = fmaf(__uint_as_float(a.w), __uint_as_float(b.w), total);
}

__device__ __forceinline__ float2 floats_of(unsigned word) {
    return make_float2(__half2float(__ushort_as_half((unsigned short)(word & 0xFFFF))),
                       __half2float(__ushort_as_half((unsigned short)(word >> 16))));
}
__device__ __forceinline__ void add_two(float &total, unsigned a, unsigned b) {
    float2 x = floats_of(a), y = floats_of(b);
    total = fmaf(x.x, y.x, total);
    total = fmaf(x.y, y.y, total);
}
__device__ __forceinline__ void add_products(float &total, const uint4 &a, const uint4 &b, const half *) {
    add_two(total, a.x, b.x), add_two(total, a.y, b.y), add_two(total, a.z, b.z), add_two(total, a.w, b.w);
}

__device__ __forceinline__ void add_four(int &total, unsigned a, unsigned b, const signed char *) {
#if __CUDA_ARCH__ >= 610
    total = __dp4a((int)a, (int)b, total);
#else
#pragma unroll
    for (int shift = 0; shift < 32; shift += 8) total += (int)(signed char)(a >> shift) * (signed char)(b >> shift);
#endif
}
__device__ __forceinline__ void add_four(int &total, unsigned a, unsigned b, const unsigned char *) {
#if __CUDA_ARCH__ >= 610
    total = dot4_unsigned(a, b, total);
#else
#pragma unroll
    for (int shift = 0; shift < 32; shift += 8) total += (int)(a >> shift & 255) * (signed char)(b >> shift);
#endif
}
template <class T>
__device__ __forceinline__ void add_products(int &total, const uint4 &a, const uint4 &b, const T *type) {
    add_four(total, a.x, b.x, type), add_four(total, a.y, b.y, type);
    add_four(total, a.z, b.z, type), add_four(total, a.w, b.w, type);
}

template <class Tile, class T, class Total>
__device__ __forceinline__ void chunk_products(Total (&total)[Tile::m_parts][Tile::n_parts][4], const Byte *a_tile,
                                               const Byte *b_tile, int m, int n, int chunk, const T *type) {
    typedef Stage<Tile, T> Held;
    int lane = threadIdx.x % 32;
    uint4 a[Tile::m_parts][2];
#pragma unroll
    for (int i = 0; i < Tile::m_parts; ++i) {
        int row = m * Tile::m_parts * 16 + lane / 4;
        a[i][0] = *(const uint4 *)(a_tile + Held::Left::place(row, chunk, i * 16));
        a[i][1] = *(const uint4 *)(a_tile + Held::Left::place(row, chunk, i * 16 + 8));
    }
#pragma unroll
    for (int j = 0; j < Tile::n_parts; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            int column = n * Tile::n_parts * 8 + lane % 4 * 2 + e;
            uint4 b = *(const uint4 *)(b_tile + Held::Right::place(column, chunk, j * 8));
#pragma unroll
            for (int i = 0; i < Tile::m_parts; ++i) {
                add_products(total[i][j][e], a[i][0], b, type);
                add_products(total[i][j][2 + e], a[i][1], b, type);
            }
        }
    }
}

// All products of a stage that a warp has.
template <class Tile, class T, class Total>
__device__ __forceinline__ void multiply_stage(Total (&total)[Tile::m_parts][Tile::n_parts][4], const Byte *a_tile,
                                               const Byte *b_tile, int m, int n, int k, const T *type) {
#pragma unroll
    for (int s = 0; s < Tile::chunks / 2 / Tile::k_warps; ++s) {
        int chunk = (k + s * Tile::k_warps) * 2;
        if constexpr (Tile::unit == Unit::kTensorCore) {
#if __CUDA_ARCH__ >= 700
            step<Tile>(total, a_tile, b_tile, m, n, chunk, type);
#else
            static_assert(Tile::unit != Unit::kTensorCore, "there are none");
#endif
        } else {
            chunk_products<Tile>(total, a_tile, b_tile, m, n, chunk, type);
            chunk_products<Tile>(total, a_tile, b_tile, m, n, chunk + 1, type);
        }
    }
}

}  // namespace edgec
