// operands.cuh: where the operands of a product lie in memory: images, weights and matrices, chunk by chunk.
//
// A row of an operand is what one row or column of the product is computed of, a tap is a chunk of the reduction.
#pragma once

namespace edgec {

typedef unsigned char Byte;

constexpr int kChunk = 16;

// Where a chunk of a row begins, and how many of its bytes there are.
struct Source {
    const Byte *from;
    int bytes;
};

__device__ __forceinline__ int within_chunk(int bytes) { return bytes < 0 ? 0 : bytes > kChunk ? kChunk : bytes; }

// Where a chunk of the reduction is: in which unit (a block of channels and a tap of the window), in which part of it.
struct Position {
    int unit, part;
};

// Of chunk `lane` of a stage, in units of KEPT chunks. Written so that what depends on the stage alone, which is the same
// for all threads, is divided apart from the lane, which is the same in all stages.
template <int KEPT, int CHUNKS>
__device__ __forceinline__ Position position(int stage, int lane) {
    if constexpr (KEPT % CHUNKS == 0) {
        return {stage / (KEPT / CHUNKS), stage % (KEPT / CHUNKS) * CHUNKS + lane};
    } else if constexpr (CHUNKS % KEPT == 0) {
        return {stage * (CHUNKS / KEPT) + lane / KEPT, lane % KEPT};
    } else {
        return {(stage * CHUNKS + lane) / KEPT, (stage * CHUNKS + lane) % KEPT};
    }
}

template <int DEPTH, int CHUNKS>
__device__ __forceinline__ bool is_within_depth(int stage, int lane) {
    return DEPTH % CHUNKS == 0 || stage * CHUNKS + lane < DEPTH;
}

// Rows are pixels of the output of a convolution over an image (N, blocks, H, W, LANES), chunks (block, ky, kx, part).
// The image is read as if padded with bytes FILL; channels beyond the last of a group count as zero, and chunks that
// have no channel are left out where a group has one block.
template <class T, int LANES, int BATCH, int BLOCKS, int HEIGHT, int WIDTH, int OUT_HEIGHT, int OUT_WIDTH,
          int KERNEL_HEIGHT, int KERNEL_WIDTH, int STRIDE_Y, int STRIDE_X, int DILATION_Y, int DILATION_X, int PAD_Y,
          int PAD_X, int CHANNELS, int FILL>
struct Image {
    typedef T Element;
    static constexpr int parts = sizeof(T) * LANES / kChunk, group_blocks = (CHANNELS + LANES - 1) / LANES;
    static constexpr int kept = group_blocks == 1 ? (int)(sizeof(T) * CHANNELS + kChunk - 1) / kChunk : parts;
    static constexpr int units = group_blocks * KERNEL_HEIGHT * KERNEL_WIDTH, depth = units * kept;
    static constexpr bool is_full = group_blocks == 1 ? sizeof(T) * CHANNELS % kChunk == 0 : CHANNELS % LANES == 0;
    struct Row {
        const Byte *from;
        int y, x;
    };
    struct Tap {
        int offset, y, x, bytes;
    };
    const Byte *data;
    int group;

    __device__ __forceinline__ Row row(int number) const {
        if (number >= BATCH * OUT_HEIGHT * OUT_WIDTH) return {data, -(1 << 28), 0};
        int n = number / (OUT_HEIGHT * OUT_WIDTH), pixel = number % (OUT_HEIGHT * OUT_WIDTH);
        int y = pixel / OUT_WIDTH * STRIDE_Y - PAD_Y, x = pixel % OUT_WIDTH * STRIDE_X - PAD_X;
        int offset = ((n * BLOCKS + group * group_blocks) * HEIGHT + y) * WIDTH + x;
        return {data + (long long)offset * (parts * kChunk), y, x};
    }
    template <int CHUNKS>
    __device__ __forceinline__ Tap tap(int stage, int lane) const {
        Position at = position<kept, CHUNKS>(stage, lane);
        int block = at.unit / (KERNEL_HEIGHT * KERNEL_WIDTH), window = at.unit % (KERNEL_HEIGHT * KERNEL_WIDTH);
        int y = window / KERNEL_WIDTH * DILATION_Y, x = window % KERNEL_WIDTH * DILATION_X, bytes = kChunk;
        if constexpr (!is_full) bytes = within_chunk((CHANNELS - block * LANES) * (int)sizeof(T) - at.part * kChunk);
        if (!is_within_depth<depth, CHUNKS>(stage, lane)) bytes = 0;
        return {(((block * HEIGHT + y) * WIDTH + x) * parts + at.part) * kChunk, y, x, bytes};
    }
    // Where no bytes are read, the place may be anywhere.
    __device__ __forceinline__ Source source(const Row &row, const Tap &tap) const {
        bool inside = (unsigned)(row.y + tap.y) < HEIGHT && (unsigned)(row.x + tap.x) < WIDTH;
        if constexpr (PAD_Y == 0 && PAD_X == 0 && OUT_HEIGHT * STRIDE_Y <= HEIGHT && KERNEL_HEIGHT == 1 &&
                      OUT_WIDTH * STRIDE_X <= WIDTH && KERNEL_WIDTH == 1) {
            inside = row.y >= 0;
        }
        const Byte *from = row.from + tap.offset;
        if constexpr (FILL != 0) {
            static __device__ const uint4 fill = {(unsigned)FILL * 0x01010101u, (unsigned)FILL * 0x01010101u,
                                                  (unsigned)FILL * 0x01010101u, (unsigned)FILL * 0x01010101u};
            return {inside ? from : (const Byte *)&fill, tap.bytes};
        }
        return {from, inside ? tap.bytes : 0};
    }
};

// Operands whose chunks lie at the same distances from the beginning of every row.
struct Plain {
    static constexpr bool is_full = true;  // chunks are there or not
    const Byte *data;
    int group;

    struct Row {
        const Byte *from;
        int bytes;  // of each chunk: none where there is no such row
    };
    struct Tap {
        int offset;
        bool is_there;
    };
    __device__ __forceinline__ Source source(const Row &row, const Tap &tap) const {
        return {row.from + tap.offset, tap.is_there ? row.bytes : 0};
    }
};

// Rows are output channels of weights (blocks, taps, OUT_LANES output channels, LANES input channels), of one group, of
// which the first KEPT chunks of a tap are read.
template <class T, int OUT_LANES, int LANES, int OUT_BLOCKS, int UNITS, int KEPT>
struct Filter : Plain {
    static constexpr int parts = sizeof(T) * LANES / kChunk, depth = UNITS * KEPT;

    __device__ __forceinline__ Row row(int number) const {
        int block = group * OUT_BLOCKS + number / OUT_LANES, lane = number % OUT_LANES;
        const Byte *from = data + (long long)(block * UNITS * OUT_LANES + lane) * (parts * kChunk);
        return {from, number < OUT_BLOCKS * OUT_LANES ? kChunk : 0};
    }
    template <int CHUNKS>
    __device__ __forceinline__ Tap tap(int stage, int lane) const {
        Position at = position<KEPT, CHUNKS>(stage, lane);
        return {(at.unit * OUT_LANES * parts + at.part) * kChunk, is_within_depth<depth, CHUNKS>(stage, lane)};
    }
};

// Rows are those of a matrix (ROWS, DEPTH); DEPTH elements are a multiple of 16 bytes.
template <class T, int ROWS, int DEPTH>
struct Matrix : Plain {
    typedef T Element;
    static constexpr int pitch = DEPTH * sizeof(T), depth = pitch / kChunk;
    static_assert(pitch % kChunk == 0, "rows begin at multiples of 16 bytes");

    __device__ __forceinline__ Row row(int number) const {
        return {data + ((long long)group * ROWS + number) * pitch, number < ROWS ? kChunk : 0};
    }
    template <int CHUNKS>
    __device__ __forceinline__ Tap tap(int stage, int lane) const {
        return {(stage * CHUNKS + lane) * kChunk, is_within_depth<depth, CHUNKS>(stage, lane)};
    }
};

}  // namespace edgec
