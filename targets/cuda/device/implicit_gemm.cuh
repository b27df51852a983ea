// implicit_gemm.cuh: the main loop of convolutions and matrix products, a block's tile of rows x columns.
//
// Rows are output pixels (n, y, x) or rows of a matrix, columns are output channels. Both operands have the reduction
// contiguous, in chunks of 16 bytes. A stage of the loop copies CHUNKS of them for every row and column of the tile to
// shared memory; STAGES stages are in flight. Warps divide the tile into M x N parts and, where K > 1, the chunks of a
// stage: then the sums of K warps are added up at the end, and those of the first one are the result.
//
// Every thread is left with the elements that tensor cores leave it with: of each 16 x 8 part, rows lane / 4 and
// lane / 4 + 8, columns lane % 4 * 2 and the next. CUDA cores follow the same division.
#pragma once

namespace edgec {

// Adds the sums of the warps k > 0 to those of k = 0, one after the other, through shared memory.
template <class Tile, class Total>
__device__ __forceinline__ void add_warps(Total (&total)[Tile::m_parts][Tile::n_parts][4], Byte *shared, int k) {
    constexpr int kThreads = Tile::threads / Tile::k_warps;
    Total *sums = (Total *)shared + threadIdx.x % kThreads;
#pragma unroll 1
    for (int from = 1; from < Tile::k_warps; ++from) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < Tile::m_parts * Tile::n_parts * 4; ++i) {
            if (k == from) sums[i * kThreads] = (&total[0][0][0])[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < Tile::m_parts * Tile::n_parts * 4; ++i) {
            if (k == 0) (&total[0][0][0])[i] += sums[i * kThreads];
        }
    }
}

// What the blocks that share a tile leave for the last of them. Each session loads a module of its own, and its kernels
// run one after the other.
template <class Total, int SIZE, class Tile, class Left, class Right>
__device__ Total partial_sums[SIZE];
template <int TILES, class Tile, class Left, class Right>
__device__ unsigned finished_blocks[TILES];

// Adds the sums of all parts of the depth, in their order. True for the last block that gets here, which has the totals.
template <class Tile, class Left, class Right, int TILES, class Total>
__device__ __forceinline__ bool add_blocks(Total (&total)[Tile::m_parts][Tile::n_parts][4], Byte *shared, int k,
                                           int part, int tile) {
    constexpr int kThreads = Tile::threads / Tile::k_warps, kSums = Tile::m_parts * Tile::n_parts * 4;
    Total *stored = partial_sums<Total, TILES * Tile::k_blocks * kSums * kThreads, Tile, Left, Right>;
    unsigned *finished = finished_blocks<TILES, Tile, Left, Right> + tile;
    bool *is_last = (bool *)shared;
    Total *sums = stored + tile * (Tile::k_blocks * kSums * kThreads) + threadIdx.x % kThreads;
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
        if (k == 0) sums[(part * kSums + i) * kThreads] = (&total[0][0][0])[i];
    }
    __syncthreads();
    if (threadIdx.x == 0) {  // what the barrier ordered before a fence is published with it (PTX ISA, causality order)
        __threadfence();
        *is_last = atomicAdd(finished, 1u) == Tile::k_blocks - 1;
        __threadfence();
    }
    __syncthreads();
    if (!*is_last) return false;
    if (threadIdx.x == 0) *finished = 0;
#pragma unroll
    for (int i = 0; i < kSums; ++i) (&total[0][0][0])[i] = 0;
    const Total *next = sums;
#pragma unroll 1
    for (int from = 0; from < Tile::k_blocks; ++from, next += kSums * kThreads) {
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
            if (k == 0) (&total[0][0][0])[i] += __ldcg(next + i * kThreads);
        }
    }
    return true;
}

// The sums of a block's tile, which begins at first_row and first_column of the group; result[m part][2][n part][2].
// Where blocks share the depth, this one has a part of it, and gets true and the sums if it is the last of its tile.
template <class Tile, class Left, class Right, int TILES>
__device__ __forceinline__ bool main_loop(void *result, const void *left, const void *right, int group, int first_row,
                                          int first_column, int part, int tile) {
    typedef typename Left::Element T;
    typedef typename Sum<T>::Type Total;
    typedef Stage<Tile, T> Held;
    __shared__ __align__(128) Byte shared[Held::shared_bytes];
    constexpr int kAllSteps = (Left::depth + Tile::chunks - 1) / Tile::chunks;
    const int begin = kAllSteps * part / Tile::k_blocks, end = kAllSteps * (part + 1) / Tile::k_blocks;
    int warp = threadIdx.x / 32;
    int n = warp % Tile::n_warps, m = warp / Tile::n_warps % Tile::m_warps, k = warp / (Tile::n_warps * Tile::m_warps);
    Copier<Left, typename Held::Left, Tile::threads> a({(const Byte *)left, group}, first_row);
    Copier<Right, typename Held::Right, Tile::threads> b({(const Byte *)right, group}, first_column);
    Total total[Tile::m_parts][Tile::n_parts][4];
#pragma unroll
    for (int i = 0; i < Tile::m_parts * Tile::n_parts * 4; ++i) (&total[0][0][0])[i] = 0;
    if constexpr (kAsync) {
#pragma unroll
        for (int stage = 0; stage < Tile::stages - 1; ++stage) {
            if (begin + stage < end) {
                a.fetch(shared + stage * Held::bytes, begin + stage);
                b.fetch(shared + stage * Held::bytes + Held::left_bytes, begin + stage);
            }
            copy_commit();
        }
        int current = 0, next = Tile::stages - 1;
#pragma unroll 1
        for (int stage = begin; stage < end; ++stage) {
            copy_wait<Tile::stages - 2>();
            __syncthreads();
            if (stage + Tile::stages - 1 < end) {
                a.fetch(shared + next * Held::bytes, stage + Tile::stages - 1);
                b.fetch(shared + next * Held::bytes + Held::left_bytes, stage + Tile::stages - 1);
            }
            copy_commit();
            const Byte *held = shared + current * Held::bytes;
            multiply_stage<Tile>(total, held, held + Held::left_bytes, m, n, k, (const T *)nullptr);
            current = current + 1 == Tile::stages ? 0 : current + 1;
            next = next + 1 == Tile::stages ? 0 : next + 1;
        }
    } else {
        a.fetch(shared, begin), b.fetch(shared, begin);
        a.deposit(shared), b.deposit(shared + Held::left_bytes);
#pragma unroll 1
        for (int stage = begin; stage < end; ++stage) {
            __syncthreads();
            const Byte *current = shared + (stage - begin) % 2 * Held::bytes;
            Byte *other = shared + (stage - begin + 1) % 2 * Held::bytes;
            if (stage + 1 < end) a.fetch(other, stage + 1), b.fetch(other, stage + 1);
            multiply_stage<Tile>(total, current, current + Held::left_bytes, m, n, k, (const T *)nullptr);
            if (stage + 1 < end) a.deposit(other), b.deposit(other + Held::left_bytes);
        }
    }
    if constexpr (Tile::k_warps > 1) add_warps<Tile>(total, shared, k);
    if constexpr (Tile::k_blocks > 1) {
        if (!add_blocks<Tile, Left, Right, TILES>(total, shared, k, part, tile)) return false;
    }
#if __CUDA_ARCH__ < 750
    if constexpr (Tile::unit == Unit::kTensorCore) arrange<Tile>(total, shared, warp);
#endif
#pragma unroll
    for (int i = 0; i < Tile::m_parts; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::n_parts; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                ((Total *)result)[((i * 2 + e / 2) * Tile::n_parts + j) * 2 + e % 2] = total[i][j][e];
            }
        }
    }
    return true;
}

}  // namespace edgec
