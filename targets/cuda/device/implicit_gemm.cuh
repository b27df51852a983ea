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

#if __CUDA_ARCH__ >= 800
constexpr bool kAsync = true;
#else
constexpr bool kAsync = false;
#endif

enum class Unit { kTensorCore, kCudaCore };

template <class T>
struct Sum {
    typedef int Type;
};
template <>
struct Sum<half> {
    typedef float Type;
};
template <>
struct Sum<float> {
    typedef float Type;
};

// How a block works.
template <int M_PARTS, int N_PARTS, int M_WARPS, int N_WARPS, int K_WARPS, int K_BLOCKS, int CHUNKS, int STAGES,
          Unit UNIT>
struct Tile {
    static constexpr int m_parts = M_PARTS, n_parts = N_PARTS;  // of 16 rows, of 8 columns, that a warp has
    static constexpr int m_warps = M_WARPS, n_warps = N_WARPS, k_warps = K_WARPS, k_blocks = K_BLOCKS;
    static constexpr int rows = M_PARTS * 16 * M_WARPS, columns = N_PARTS * 8 * N_WARPS;
    static constexpr int threads = 32 * M_WARPS * N_WARPS * K_WARPS;
    static constexpr int chunks = CHUNKS, stages = kAsync ? STAGES : 2;
    static constexpr Unit unit = UNIT;
    static constexpr int stage_bytes = (rows + columns) * CHUNKS * kChunk;
    static constexpr int sum_bytes = K_WARPS > 1 ? rows * columns * 4 : 0;
    static constexpr int shared_bytes = stages * stage_bytes > sum_bytes ? stages * stage_bytes : sum_bytes;
    static_assert(N_PARTS % 2 == 0, "ldmatrix loads two parts of columns at once");
    static_assert(CHUNKS % (2 * K_WARPS) == 0 && CHUNKS <= 8 && threads % CHUNKS == 0, "each warp has whole steps");
};

// Rows of CHUNKS chunks in shared memory, permuted so that the same chunk of eight rows lies in eight different places
// of 128 bytes: neither copies nor ldmatrix meet in a bank. The permutation repeats itself after eight rows, so a
// multiple of eight rows `on` is a distance that compilers can add to the address.
template <int CHUNKS>
__device__ __forceinline__ int place(int row, int chunk, int on = 0) {
    return (row * CHUNKS + (chunk ^ (row / (8 / CHUNKS) % CHUNKS))) * kChunk + on * CHUNKS * kChunk;
}

// Copies an operand's rows to shared memory, stage by stage: a thread has the same rows and the same chunk in each.
template <class Operand, int ROWS, int CHUNKS, int THREADS>
struct Copier {
    static constexpr int step = THREADS / CHUNKS, count = (ROWS + step - 1) / step;
    Operand operand;
    typename Operand::Row rows[count];
    uint4 held[kAsync ? 1 : count];

    __device__ __forceinline__ Copier(Operand o, int first) : operand(o) {
#pragma unroll
        for (int i = 0; i < count; ++i) rows[i] = operand.row(first + (int)threadIdx.x / CHUNKS + i * step);
    }
    // Begins to copy a stage.
    __device__ __forceinline__ void fetch(Byte *shared, int stage) {
        typename Operand::Tap tap = operand.template tap<CHUNKS>(stage, threadIdx.x % CHUNKS);
#pragma unroll
        for (int i = 0; i < count; ++i) {
            if (!has(i)) break;
            Source source = operand.source(rows[i], tap);
            if constexpr (kAsync) {
                copy_async(shared + at(i), source.from, source.bytes);
            } else {
                held[i] = masked(source);
            }
        }
    }
    // Ends it, where it was not asynchronous.
    __device__ __forceinline__ void deposit(Byte *shared) {
        if constexpr (!kAsync) {
#pragma unroll
            for (int i = 0; i < count; ++i) {
                if (has(i)) *(uint4 *)(shared + at(i)) = held[i];
            }
        }
    }
    // Whether the thread has an i-th row, and the place of its chunk in a stage.
    static __device__ __forceinline__ bool has(int i) {
        return ROWS % step == 0 || (int)threadIdx.x / CHUNKS + i * step < ROWS;
    }
    static __device__ __forceinline__ int at(int i) {
        int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        return step % 8 == 0 ? place<CHUNKS>(row, chunk, i * step) : place<CHUNKS>(row + i * step, chunk);
    }
    static __device__ __forceinline__ uint4 masked(const Source &source) {
        uint4 chunk = {0, 0, 0, 0};
        if (source.bytes) chunk = *(const uint4 *)source.from;
        if (!Operand::is_full && source.bytes < kChunk) {
            chunk.x &= mask(source.bytes), chunk.y &= mask(source.bytes - 4);
            chunk.z &= mask(source.bytes - 8), chunk.w &= mask(source.bytes - 12);
        }
        return chunk;
    }
    static __device__ __forceinline__ unsigned mask(int bytes) {
        return bytes >= 4 ? ~0u : bytes <= 0 ? 0u : ~0u >> (32 - 8 * bytes);
    }
};

// -- products of a pair of chunks by tensor cores ----------------------------------------------------------------

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
    int lane = threadIdx.x % 32;
    unsigned a[Tile::m_parts][4], b[Tile::n_parts][2];
#pragma unroll
    for (int i = 0; i < Tile::m_parts; ++i) {  // lanes 0-7, 8-15: rows; 16-31: the same of the next chunk
        int row = m * Tile::m_parts * 16 + lane % 16;
        ldmatrix_x4(a[i], a_tile + place<Tile::chunks>(row, chunk + lane / 16, i * 16));
    }
#pragma unroll
    for (int j = 0; j < Tile::n_parts; j += 2) {  // lanes 0-7: columns, 8-15: their next chunk, 16-31: eight columns on
        int column = n * Tile::n_parts * 8 + lane / 16 * 8 + lane % 8;
        unsigned both[4];
        ldmatrix_x4(both, b_tile + place<Tile::chunks>(column, chunk + lane / 8 % 2, j * 8));
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
    int lane = threadIdx.x % 32;
    uint4 a[Tile::m_parts][2];
#pragma unroll
    for (int i = 0; i < Tile::m_parts; ++i) {
        int row = m * Tile::m_parts * 16 + lane / 4;
        a[i][0] = *(const uint4 *)(a_tile + place<Tile::chunks>(row, chunk, i * 16));
        a[i][1] = *(const uint4 *)(a_tile + place<Tile::chunks>(row, chunk, i * 16 + 8));
    }
#pragma unroll
    for (int j = 0; j < Tile::n_parts; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            int column = n * Tile::n_parts * 8 + lane % 4 * 2 + e;
            uint4 b = *(const uint4 *)(b_tile + place<Tile::chunks>(column, chunk, j * 8));
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
#if __CUDA_ARCH__ >= 750
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
    __shared__ __align__(128) Byte shared[Tile::shared_bytes];
    constexpr int kAllSteps = (Left::depth + Tile::chunks - 1) / Tile::chunks;
    const int begin = kAllSteps * part / Tile::k_blocks, end = kAllSteps * (part + 1) / Tile::k_blocks;
    constexpr int kLeftBytes = Tile::rows * Tile::chunks * kChunk;
    int warp = threadIdx.x / 32;
    int n = warp % Tile::n_warps, m = warp / Tile::n_warps % Tile::m_warps, k = warp / (Tile::n_warps * Tile::m_warps);
    Copier<Left, Tile::rows, Tile::chunks, Tile::threads> a({(const Byte *)left, group}, first_row);
    Copier<Right, Tile::columns, Tile::chunks, Tile::threads> b({(const Byte *)right, group}, first_column);
    Total total[Tile::m_parts][Tile::n_parts][4];
#pragma unroll
    for (int i = 0; i < Tile::m_parts * Tile::n_parts * 4; ++i) (&total[0][0][0])[i] = 0;
    if constexpr (kAsync) {
#pragma unroll
        for (int stage = 0; stage < Tile::stages - 1; ++stage) {
            if (begin + stage < end) {
                a.fetch(shared + stage * Tile::stage_bytes, begin + stage);
                b.fetch(shared + stage * Tile::stage_bytes + kLeftBytes, begin + stage);
            }
            copy_commit();
        }
        int current = 0, next = Tile::stages - 1;
#pragma unroll 1
        for (int stage = begin; stage < end; ++stage) {
            copy_wait<Tile::stages - 2>();
            __syncthreads();
            if (stage + Tile::stages - 1 < end) {
                a.fetch(shared + next * Tile::stage_bytes, stage + Tile::stages - 1);
                b.fetch(shared + next * Tile::stage_bytes + kLeftBytes, stage + Tile::stages - 1);
            }
            copy_commit();
            const Byte *held = shared + current * Tile::stage_bytes;
            multiply_stage<Tile>(total, held, held + kLeftBytes, m, n, k, (const T *)nullptr);
            current = current + 1 == Tile::stages ? 0 : current + 1;
            next = next + 1 == Tile::stages ? 0 : next + 1;
        }
    } else {
        a.fetch(shared, begin), b.fetch(shared, begin);
        a.deposit(shared), b.deposit(shared + kLeftBytes);
#pragma unroll 1
        for (int stage = begin; stage < end; ++stage) {
            __syncthreads();
            const Byte *current = shared + (stage - begin) % 2 * Tile::stage_bytes;
            Byte *other = shared + (stage - begin + 1) % 2 * Tile::stage_bytes;
            if (stage + 1 < end) a.fetch(other, stage + 1), b.fetch(other, stage + 1);
            multiply_stage<Tile>(total, current, current + kLeftBytes, m, n, k, (const T *)nullptr);
            if (stage + 1 < end) a.deposit(other), b.deposit(other + kLeftBytes);
        }
    }
    if constexpr (Tile::k_warps > 1) add_warps<Tile>(total, shared, k);
    if constexpr (Tile::k_blocks > 1) {
        if (!add_blocks<Tile, Left, Right, TILES>(total, shared, k, part, tile)) return false;
    }
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
