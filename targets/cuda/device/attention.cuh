// attention.cuh: softmax(scale * Q K^T) V of one head, on tensor cores. From sm_80 on.
//
// A warp has sixteen queries. While the keys go by, it keeps for each of them the highest score so far, the sum of the
// powers and the sum of the values, both relative to that score (T. Dao, "FlashAttention-2", 2023).
#pragma once

namespace edgec {

// Where a head's rows lie, in elements: the distance between images, heads and rows.
template <int IMAGE, int HEAD, int ROW>
struct Heads {
    static constexpr int image = IMAGE, head = HEAD, row = ROW;
};

template <int WARPS, int KEYS, int DEPTH>
struct AttentionTile {
    static constexpr int threads = WARPS * 32, warps = WARPS, keys = KEYS, depth = DEPTH;
    static constexpr int row_bytes = DEPTH * 2 + kChunk;  // eight rows in a column of chunks lie in different banks
    static constexpr int stage_bytes = KEYS * row_bytes;
};

// Copies some rows to shared memory without waiting; those past the end are zero.
template <class Tile, class Memory>
__device__ __forceinline__ void fetch_rows(Byte *to, const half *from, int first, int count) {
    constexpr int kChunks = Tile::depth * 2 / kChunk;
    for (int i = threadIdx.x; i < Tile::keys * kChunks; i += Tile::threads) {
        int row = i / kChunks, chunk = i % kChunks;
        bool is_inside = first + row < count;
        const half *source = from + (is_inside ? first + row : 0) * Memory::row + chunk * (kChunk / 2);
        copy_async(to + row * Tile::row_bytes + chunk * kChunk, source, is_inside ? kChunk : 0);
    }
}

__device__ __forceinline__ unsigned two_halves(float low, float high) {
    return __pack_half2(__float2half_rn(low), __float2half_rn(high));
}

// The same in the four lanes that have a row.
__device__ __forceinline__ float row_maximum(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(0xFFFFFFFF, x, 1);
    return x + __shfl_xor_sync(0xFFFFFFFF, x, 2);
}

// The block's queries of one head; `scale` is for powers of two.
template <class Tile, int HEADS, int QUERIES, int KEYS, class Q, class K, class V, class Result>
__device__ __forceinline__ void attend(void *result, const void *queries, const void *keys, const void *values,
                                       float scale, int index, int tile) {
#if __CUDA_ARCH__ >= 800
    __shared__ __align__(128) Byte shared[4 * Tile::stage_bytes];
    constexpr int kSteps = (KEYS + Tile::keys - 1) / Tile::keys, kParts = Tile::keys / 8, kColumns = Tile::depth / 8;
    constexpr float kLowest = -1e30f;
    int lane = threadIdx.x % 32, image = index / HEADS, head = index % HEADS;
    int first = (tile * Tile::warps + threadIdx.x / 32) * 16 + lane / 4;
    const half *q = (const half *)queries + image * Q::image + head * Q::head;
    const half *k = (const half *)keys + image * K::image + head * K::head;
    const half *v = (const half *)values + image * V::image + head * V::head;
    half *out = (half *)result + image * Result::image + head * Result::head;
    unsigned a[Tile::depth / 16][4];
#pragma unroll
    for (int d = 0; d < Tile::depth / 16; ++d) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int row = first + i % 2 * 8, column = d * 16 + lane % 4 * 2 + i / 2 * 8;
            a[d][i] = row < QUERIES ? *(const unsigned *)(q + row * Q::row + column) : 0;
        }
    }
    float sums[kColumns][4], highest[2] = {kLowest, kLowest}, totals[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < kColumns * 4; ++i) (&sums[0][0])[i] = 0;
    fetch_rows<Tile, K>(shared, k, 0, KEYS);
    fetch_rows<Tile, V>(shared + Tile::stage_bytes, v, 0, KEYS);
    copy_commit();
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
        if (step + 1 < kSteps) {
            Byte *next = shared + (step + 1) % 2 * 2 * Tile::stage_bytes;
            fetch_rows<Tile, K>(next, k, (step + 1) * Tile::keys, KEYS);
            fetch_rows<Tile, V>(next + Tile::stage_bytes, v, (step + 1) * Tile::keys, KEYS);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        const Byte *key_rows = shared + step % 2 * 2 * Tile::stage_bytes, *value_rows = key_rows + Tile::stage_bytes;
        float scores[kParts][4];
#pragma unroll
        for (int j = 0; j < kParts; j += 2) {  // lanes 0-7: keys, 8-15: their next chunk, 16-31: eight keys on
#pragma unroll
            for (int i = 0; i < 4; ++i) scores[j][i] = scores[j + 1][i] = 0;
            const Byte *row = key_rows + (j * 8 + lane / 16 * 8 + lane % 8) * Tile::row_bytes + lane / 8 % 2 * kChunk;
#pragma unroll
            for (int d = 0; d < Tile::depth / 16; ++d) {
                unsigned b[4];
                ldmatrix_x4(b, row + d * 2 * kChunk);
                mma_m16n8k16(scores[j], a[d], {b[0], b[1]});
                mma_m16n8k16(scores[j + 1], a[d], {b[2], b[3]});
            }
        }
        float now[2] = {highest[0], highest[1]};
#pragma unroll
        for (int j = 0; j < kParts; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                bool is_key = KEYS % Tile::keys == 0 || step * Tile::keys + j * 8 + lane % 4 * 2 + i % 2 < KEYS;
                scores[j][i] = is_key ? scores[j][i] * scale : kLowest;
                now[i / 2] = fmaxf(now[i / 2], scores[j][i]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            now[r] = row_maximum(now[r]);
            float factor = exp2f(highest[r] - now[r]);
            highest[r] = now[r];
            totals[r] *= factor;
#pragma unroll
            for (int n = 0; n < kColumns; ++n) sums[n][r * 2] *= factor, sums[n][r * 2 + 1] *= factor;
        }
#pragma unroll
        for (int j = 0; j < kParts; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                scores[j][i] = exp2f(scores[j][i] - now[i / 2]);
                totals[i / 2] += scores[j][i];
            }
        }
#pragma unroll
        for (int j = 0; j < kParts; j += 2) {  // lanes 0-7: keys, 8-15: eight keys on, 16-31: the next chunk
            const float *low = scores[j], *high = scores[j + 1];
            unsigned p[4] = {two_halves(low[0], low[1]), two_halves(low[2], low[3]), two_halves(high[0], high[1]),
                             two_halves(high[2], high[3])};
            const Byte *row = value_rows + (j * 8 + lane % 16) * Tile::row_bytes + lane / 16 * kChunk;
#pragma unroll
            for (int n = 0; n < kColumns; n += 2) {
                unsigned b[4];
                ldmatrix_x4_transposed(b, row + n * kChunk);
                mma_m16n8k16(sums[n], p, {b[0], b[1]});
                mma_m16n8k16(sums[n + 1], p, {b[2], b[3]});
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float share = 1.0f / row_sum(totals[r]);
        int row = first + r * 8;
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
            unsigned both = two_halves(sums[n][r * 2] * share, sums[n][r * 2 + 1] * share);
            if (row < QUERIES) *(unsigned *)(out + row * Result::row + n * 8 + lane % 4 * 2) = both;
        }
    }
#endif
}

}  // namespace edgec
