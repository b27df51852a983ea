// attention.cuh: softmax(mask(scale * Q K^T)) V of one head, on tensor cores. From sm_80 on.
//
// A warp has sixteen queries. While the keys go by, it keeps for each of them the highest score so far, the sum of the
// powers and the sum of the values, both relative to that score (T. Dao, "FlashAttention-2", 2023).
//
// The highest score begins with the lowest finite number, so that nothing is ever subtracted from minus infinity.
// Keys with a score of minus infinity have no weight, and a query without any other key is 0 / 0.
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

#define EDGEC_MINUS_INFINITY __int_as_float(0xFF800000)

// Masks are made for the rows `row` and `row + 8` of a head. `seen` is how many keys the rows before one may see, and a
// call changes the scores, which are for powers of two, that a thread has of two keys: of the first row, then the other.
struct NoMask {
    __device__ __forceinline__ NoMask(const void *, float, int, int, int, int) {}
    static __device__ __forceinline__ int seen(int, int keys) { return keys; }
    template <int KEYS, bool IS_WHOLE>
    __device__ __forceinline__ void operator()(float (&)[4], int) const {}
};

// A row sees the keys up to its own number and OFFSET more.
template <int OFFSET>
struct CausalMask {
    int last;
    __device__ __forceinline__ CausalMask(const void *, float, int, int, int row, int) : last(row + OFFSET) {}
    static __device__ __forceinline__ int seen(int rows, int keys) { return min(rows + OFFSET, keys); }
    template <int KEYS, bool IS_WHOLE>
    __device__ __forceinline__ void operator()(float (&scores)[4], int key) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (key + i % 2 > last + i / 2 * 8) scores[i] = EDGEC_MINUS_INFINITY;
        }
    }
};

// A tensor of masks, by the distances between its images, heads, rows and keys; zero where all have the same.
template <class T, int IMAGE, int HEAD, int ROW, int KEY>
struct MaskTensor {
    const T *rows[2];
    __device__ __forceinline__ MaskTensor(const void *mask, int image, int head, int row, int queries) {
        const T *from = (const T *)mask + image * IMAGE + head * HEAD;
        for (int r = 0; r < 2; ++r) rows[r] = from + min(row + r * 8, queries - 1) * ROW;
    }
    static __device__ __forceinline__ int seen(int, int keys) { return keys; }
    // What the tensor has for four scores; nothing beyond the last key is read.
    template <int KEYS, bool IS_WHOLE>
    __device__ __forceinline__ void read(T (&found)[4], int key) const {
        struct __align__(2 * sizeof(T)) Pair {
            T low, high;
        };
        constexpr bool kHasPairs = KEY == 1 && (IMAGE | HEAD | ROW | KEYS) % 2 == 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (kHasPairs && i % 2 == 0 && (IS_WHOLE || key < KEYS)) {
                Pair both = *(const Pair *)(rows[i / 2] + key);
                found[i] = both.low, found[i + 1] = both.high;
            } else if (!kHasPairs && (IS_WHOLE || key + i % 2 < KEYS)) {
                found[i] = rows[i / 2][(key + i % 2) * KEY];
            }
        }
    }
};

// Numbers that are added. Toward zero, those near the lowest stay finite when they become powers of two.
template <class T, int IMAGE, int HEAD, int ROW, int KEY>
struct AddedMask : MaskTensor<T, IMAGE, HEAD, ROW, KEY> {
    __device__ __forceinline__ AddedMask(const void *mask, float, int image, int head, int row, int queries)
        : MaskTensor<T, IMAGE, HEAD, ROW, KEY>(mask, image, head, row, queries) {}
    template <int KEYS, bool IS_WHOLE>
    __device__ __forceinline__ void operator()(float (&scores)[4], int key) const {
        constexpr float kLog2OfE = 1.44269504f;
        T added[4] = {};
        this->template read<KEYS, IS_WHOLE>(added, key);
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[i] = __fmaf_rz((float)added[i], kLog2OfE, scores[i]);
    }
};

// Scores where the tensor is SHOWN, elsewhere one number, for powers of two as they are.
template <bool SHOWN, int IMAGE, int HEAD, int ROW, int KEY>
struct ChosenMask : MaskTensor<Byte, IMAGE, HEAD, ROW, KEY> {
    float fill;
    __device__ __forceinline__ ChosenMask(const void *mask, float fill, int image, int head, int row, int queries)
        : MaskTensor<Byte, IMAGE, HEAD, ROW, KEY>(mask, image, head, row, queries), fill(fill) {}
    template <int KEYS, bool IS_WHOLE>
    __device__ __forceinline__ void operator()(float (&scores)[4], int key) const {
        Byte chosen[4] = {};
        this->template read<KEYS, IS_WHOLE>(chosen, key);
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[i] = (chosen[i] != 0) == SHOWN ? scores[i] : fill;
    }
};

// The block's queries of one head; `scale` is for powers of two. With GIVES_ZERO, queries that see no key are zero.
template <class Tile, int HEADS, int QUERIES, int KEYS, class Q, class K, class V, class Result, class Mask = NoMask,
          bool GIVES_ZERO = false>
__device__ __forceinline__ void attend(void *result, const void *queries, const void *keys, const void *values,
                                       float scale, int index, int tile, const void *masks = nullptr, float fill = 0) {
#if __CUDA_ARCH__ >= 800
    __shared__ __align__(128) Byte shared[4 * Tile::stage_bytes];
    constexpr int kParts = Tile::keys / 8, kColumns = Tile::depth / 8;
    constexpr bool kIsWhole = KEYS % Tile::keys == 0;
    constexpr float kLowest = -3.402823466e38f;
    const int steps = (Mask::seen((tile + 1) * Tile::warps * 16, KEYS) + Tile::keys - 1) / Tile::keys;
    int lane = threadIdx.x % 32, image = index / HEADS, head = index % HEADS;
    int first = (tile * Tile::warps + threadIdx.x / 32) * 16 + lane / 4;
    const Mask mask(masks, fill, image, head, first, QUERIES);
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
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
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
            int key = step * Tile::keys + j * 8 + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 4; ++i) scores[j][i] *= scale;
            mask.template operator()<KEYS, kIsWhole>(scores[j], key);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                bool is_key = kIsWhole || key + i % 2 < KEYS;
                scores[j][i] = is_key ? scores[j][i] : EDGEC_MINUS_INFINITY;
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
        float total = row_sum(totals[r]), share = GIVES_ZERO && !(total > 0) ? 0 : 1 / total;
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
