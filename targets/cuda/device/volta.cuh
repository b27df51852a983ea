// volta.cuh: products of a pair of chunks by the tensor cores of Volta, which has no ldmatrix and other fragments.
#pragma once

#if __CUDA_ARCH__ < 750
namespace edgec {

// Halves: an instruction multiplies 8 rows by 8 columns for each eight lanes that have bits 2 and 3 in common. Here
// lanes that differ in bit 3 load other rows and lanes that differ in bit 2 other columns, so that it multiplies 16 by
// 16, in such an order that only bits 0 and 2 of the lane have to be exchanged at the end (`arrange`).
template <class Tile>
__device__ __forceinline__ void step(float (&total)[Tile::m_parts][Tile::n_parts][4], const Byte *a_tile,
                                     const Byte *b_tile, int m, int n, int chunk, const half *) {
    typedef Stage<Tile, half> Held;
    int lane = threadIdx.x % 32;
    int a_place = Held::Left::place(m * Tile::m_parts * 16 + (lane & 1 | (lane & 2) << 2 | lane >> 2 & 6), 0);
    int b_place = Held::Right::place(n * Tile::n_parts * 8 + (lane & 1 | (lane & 2) << 1 | lane >> 1 & 10), 0);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const uint4 *a_line = (const uint4 *)(a_tile + (a_place ^ (chunk + c) * kChunk));
        const uint4 *b_line = (const uint4 *)(b_tile + (b_place ^ (chunk + c) * kChunk));
        uint4 a[Tile::m_parts], b[Tile::n_parts / 2];
#pragma unroll
        for (int i = 0; i < Tile::m_parts; ++i) a[i] = a_line[i * 16 * Tile::chunks];
#pragma unroll
        for (int j = 0; j < Tile::n_parts / 2; ++j) b[j] = b_line[j * 16 * Tile::chunks];
#pragma unroll
        for (int i = 0; i < Tile::m_parts; ++i) {
#pragma unroll
            for (int j = 0; j < Tile::n_parts / 2; ++j) mma_m8n8k4(total[i][j * 2], a[i].x, a[i].y, b[j].x, b[j].y);
        }
#pragma unroll
        for (int i = 0; i < Tile::m_parts; ++i) {
#pragma unroll
            for (int j = 0; j < Tile::n_parts / 2; ++j) mma_m8n8k4(total[i][j * 2], a[i].z, a[i].w, b[j].z, b[j].w);
        }
    }
}

// Bytes: which ones a lane loads, and which sums it has, is not documented.
template <class Tile>
__device__ __forceinline__ void step(int (&total)[Tile::m_parts][Tile::n_parts][4], const Byte *a_tile,
                                     const Byte *b_tile, int m, int n, int chunk, const signed char *) {
    typedef Stage<Tile, signed char> Held;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const Byte *rows = a_tile + Held::Left::place(m * Tile::m_parts * 16, chunk + c);
        const Byte *columns = b_tile + Held::Right::place(n * Tile::n_parts * 8, chunk + c);
        unsigned a[Tile::m_parts][2], b[Tile::n_parts / 2][2];
#pragma unroll
        for (int i = 0; i < Tile::m_parts; ++i) wmma_load_rows(a[i], rows + i * 16 * kChunk, kChunk);
#pragma unroll
        for (int j = 0; j < Tile::n_parts / 2; ++j) wmma_load_columns(b[j], columns + j * 16 * kChunk, kChunk);
#pragma unroll
        for (int i = 0; i < Tile::m_parts; ++i) {
#pragma unroll
            for (int j = 0; j < Tile::n_parts / 2; ++j) wmma_m16n16k16(total[i][j * 2], a[i], b[j]);
        }
    }
}

// Brings a warp's sums into the order that all others have them in.
template <class Tile>
__device__ __forceinline__ void arrange(float (&total)[Tile::m_parts][Tile::n_parts][4], Byte *, int) {
    int lane = threadIdx.x % 32, from = lane & ~5 | (lane & 1) << 2 | lane >> 2 & 1;
#pragma unroll
    for (int i = 0; i < Tile::m_parts * Tile::n_parts * 4; ++i) {
        (&total[0][0][0])[i] = __shfl_sync(0xFFFFFFFF, (&total[0][0][0])[i], from);
    }
}

template <class Tile>
__device__ __forceinline__ void arrange(int (&total)[Tile::m_parts][Tile::n_parts][4], Byte *shared, int warp) {
    constexpr int kPitch = 24, kWarps = Tile::m_warps * Tile::n_warps;  // a pitch at which lanes meet in no bank
    static_assert(kWarps * 16 * kPitch * 4 <= Stage<Tile, signed char>::shared_bytes, "a part of sums for each warp");
    __syncthreads();
    if (warp >= kWarps) return;
    int *sums = (int *)shared + warp * 16 * kPitch, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < Tile::m_parts; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::n_parts; j += 2) {
            wmma_store(sums, total[i][j], kPitch);
            __syncwarp();
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int2 pair = *(const int2 *)(sums + (lane / 4 + e % 2 * 8) * kPitch + e / 2 * 8 + lane % 4 * 2);
                total[i][j + e / 2][e % 2 * 2] = pair.x, total[i][j + e / 2][e % 2 * 2 + 1] = pair.y;
            }
            __syncwarp();
        }
    }
}

}  // namespace edgec
#endif
