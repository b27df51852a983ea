// tile.cuh: how a block divides its tile among threads, where its stages lie in shared memory, how they get there.
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
    static constexpr int sum_bytes = K_WARPS > 1 ? rows * columns * 4 : 0;
    static_assert(N_PARTS % 2 == 0, "tensor cores get two parts of columns at once");
    static_assert(CHUNKS % (2 * K_WARPS) == 0 && CHUNKS <= 8 && threads % CHUNKS == 0, "each warp has whole steps");
};

// Rows of CHUNKS chunks in shared memory, permuted so that the same chunk of eight rows lies in eight different places
// of 128 bytes: neither copies nor ldmatrix meet in a bank. With a period of sixteen, that also holds for four rows and
// the ones eight further on, which lanes load together for Volta's tensor cores. A multiple of PERIOD rows `on` is a
// distance that compilers can add to the address. The place of a chunk is that of chunk 0, xor chunk * kChunk.
template <int ROWS, int CHUNKS, int PERIOD>
struct Permuted {
    static constexpr int rows = ROWS, chunks = CHUNKS, period = PERIOD, bytes = ROWS * CHUNKS * kChunk;

    static __device__ __forceinline__ int place(int row, int chunk, int on = 0) {
        if constexpr (PERIOD == 16) chunk ^= row / 8 % 2 * 2;
        return (row * CHUNKS + (chunk ^ (row / (8 / CHUNKS) % CHUNKS))) * kChunk + on * CHUNKS * kChunk;
    }
};

// The first chunk of all rows, then the next one of all: rows at a regular distance, as wmma wants them, of which eight
// fill the banks once. What lies between makes copies of a row's chunks meet in no bank either.
template <int ROWS, int CHUNKS>
struct ByChunk {
    static constexpr int rows = ROWS, chunks = CHUNKS, period = 1;
    static constexpr int plane = (ROWS + 8 / CHUNKS) * kChunk, bytes = CHUNKS * plane;

    static __device__ __forceinline__ int place(int row, int chunk, int on = 0) {
        return chunk * plane + (row + on) * kChunk;
    }
};

// Where the chunks of an operand lie: by what multiplies them.
template <Unit UNIT, class T, int ROWS, int CHUNKS>
struct Places : Permuted<ROWS, CHUNKS, 8> {};
#if __CUDA_ARCH__ < 750
template <int ROWS, int CHUNKS>
struct Places<Unit::kTensorCore, half, ROWS, CHUNKS> : Permuted<ROWS, CHUNKS, 16> {};
template <int ROWS, int CHUNKS>
struct Places<Unit::kTensorCore, signed char, ROWS, CHUNKS> : ByChunk<ROWS, CHUNKS> {};
#endif

// A stage of both operands, one after the other.
template <class Tile, class T>
struct Stage {
    typedef Places<Tile::unit, T, Tile::rows, Tile::chunks> Left;
    typedef Places<Tile::unit, T, Tile::columns, Tile::chunks> Right;
    static constexpr int left_bytes = Left::bytes, bytes = left_bytes + Right::bytes;
    static constexpr int all_bytes = Tile::stages * bytes;
    static constexpr int shared_bytes = all_bytes > Tile::sum_bytes ? all_bytes : Tile::sum_bytes;
};

// Copies an operand's rows to shared memory, stage by stage: a thread has the same rows and the same chunk in each.
template <class Operand, class Places, int THREADS>
struct Copier {
    static constexpr int kRows = Places::rows, kChunks = Places::chunks;
    static constexpr int step = THREADS / kChunks, count = (kRows + step - 1) / step;
    Operand operand;
    typename Operand::Row rows[count];
    uint4 held[kAsync ? 1 : count];

    __device__ __forceinline__ Copier(Operand o, int first) : operand(o) {
#pragma unroll
        for (int i = 0; i < count; ++i) rows[i] = operand.row(first + (int)threadIdx.x / kChunks + i * step);
    }
    // Begins to copy a stage.
    __device__ __forceinline__ void fetch(Byte *shared, int stage) {
        typename Operand::Tap tap = operand.template tap<kChunks>(stage, threadIdx.x % kChunks);
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
        return kRows % step == 0 || (int)threadIdx.x / kChunks + i * step < kRows;
    }
    static __device__ __forceinline__ int at(int i) {
        int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
        return step % Places::period == 0 ? Places::place(row, chunk, i * step) : Places::place(row + i * step, chunk);
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

}  // namespace edgec
