// tensor_core.h: the instructions that the device header wraps, by the fragment layouts of the PTX ISA.
//
// Written from the tables of "Warp-level matrix instructions" (mma.m16n8k16 ..., wmma, ldmatrix) and "cp.async", not
// from the code that is tested. An operand is kept as one matrix: A[row][k], B[k][column]; a register holds 32 / bits
// elements.
#pragma once
#include <cuda_fp16.h>

#pragma clang attribute push(__attribute__((no_sanitize("thread", "alignment"))), apply_to = function)

namespace edgec {

namespace emulated {

enum { kLdmatrix = -100, kLdmatrixTransposed, kMma16816, kMma1688, kMmaTf32, kMma16832, kMma8816, kMma884, kWmma };

inline float half_of(unsigned word, int number) {
    return (float)__builtin_bit_cast(_Float16, (unsigned short)(word >> 16 * number));
}

inline float tf32_of(unsigned word) { return __uint_as_float(word & ~0x1FFFu); }  // the hardware ignores 13 bits

template <bool SIGNED>
inline int byte_of(unsigned word, int number) {
    return SIGNED ? (int)(signed char)(word >> 8 * number) : (int)(unsigned char)(word >> 8 * number);
}

inline unsigned register_of(const char *slot, int number) {
    unsigned word;
    memcpy(&word, slot + 4 * number, 4);
    return word;
}

// d[row][column] += sum over k; group = lane / 4, member = lane % 4. The accumulator of a thread: rows group and
// group + 8 (of 16 rows), columns 2 * member and 2 * member + 1.
template <int ROWS, int DEPTH, class T, class Row, class Column>
inline void accumulate(T *d, Row a, Column b) {
    int group = emulation::lane() / 4, member = emulation::lane() % 4;
    for (int i = 0; i < ROWS / 4; ++i) {
        int row = group + i / 2 * 8, column = member * 2 + i % 2;
        for (int k = 0; k < DEPTH; ++k) d[i] += (T)(a(row, k) * b(k, column));
    }
}

inline void full_warp(int site) {
    if (emulation::warp_size() != 32) emulation::fail("a matrix instruction in a warp of fewer than 32 threads", site);
}

}  // namespace emulated

// ldmatrix.sync.aligned.m8n8.x4.shared.b16: row r of matrix i lies at the address that lane 8 * i + r gives; a thread
// gets elements 2 * member and 2 * member + 1 of row group of each.
inline void ldmatrix_x4(unsigned (&result)[4], const void *row) {
    emulated::full_warp(emulated::kLdmatrix);
    if (!emulation::is_shared(row) || (unsigned long)row % 16) emulation::fail("ldmatrix: bad address", 0);
    emulation::touch(row, 16, emulation::Kind::kRead);
    auto slots = emulation::exchange(&row, sizeof(row), emulated::kLdmatrix);
    int lane = emulation::lane();
    for (int i = 0; i < 4; ++i) {
        const char *address;
        memcpy(&address, slots[8 * i + lane / 4], sizeof(address));
        memcpy(&result[i], address + lane % 4 * 4, 4);
    }
}

// ldmatrix.trans: a thread gets rows 2 * member and 2 * member + 1 of column group of each matrix.
inline void ldmatrix_x4_transposed(unsigned (&result)[4], const void *row) {
    emulated::full_warp(emulated::kLdmatrix);
    if (!emulation::is_shared(row) || (unsigned long)row % 16) emulation::fail("ldmatrix: bad address", 0);
    emulation::touch(row, 16, emulation::Kind::kRead);
    auto slots = emulation::exchange(&row, sizeof(row), emulated::kLdmatrixTransposed);
    int group = emulation::lane() / 4, member = emulation::lane() % 4;
    for (int i = 0; i < 4; ++i) {
        unsigned short pair[2];
        for (int j = 0; j < 2; ++j) {
            const char *address;
            memcpy(&address, slots[8 * i + member * 2 + j], sizeof(address));
            memcpy(&pair[j], address + group * 2, 2);
        }
        result[i] = (unsigned)pair[1] << 16 | pair[0];
    }
}

// mma.m16n8k16 .f16: a0, a1 are rows group and group + 8, k = 2 * member + {0, 1}; a2, a3 the same with k + 8.
// b0: k = 2 * member + {0, 1} of column group; b1: k + 8.
inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    auto slots = emulation::exchange(mine, sizeof(mine), emulated::kMma16816);
    emulated::accumulate<16, 16>(
        d,
        [&](int row, int k) {
            unsigned word = emulated::register_of(slots[row % 8 * 4 + k % 8 / 2], row / 8 + k / 8 * 2);
            return emulated::half_of(word, k % 2);
        },
        [&](int k, int column) {
            return emulated::half_of(emulated::register_of(slots[column * 4 + k % 8 / 2], 4 + k / 8), k % 2);
        });
}

// mma.m16n8k8 .f16: a0, a1 are rows group and group + 8, k = 2 * member + {0, 1}; b0 the same k of column group.
inline void mma_m16n8k8(float (&d)[4], unsigned a0, unsigned a1, unsigned b0) {
    unsigned mine[3] = {a0, a1, b0};
    auto slots = emulation::exchange(mine, sizeof(mine), emulated::kMma1688);
    emulated::accumulate<16, 8>(
        d,
        [&](int row, int k) {
            return emulated::half_of(emulated::register_of(slots[row % 8 * 4 + k / 2], row / 8), k % 2);
        },
        [&](int k, int column) {
            return emulated::half_of(emulated::register_of(slots[column * 4 + k / 2], 2), k % 2);
        });
}

// mma.m16n8k8 .tf32: a0, a1 are rows group and group + 8 at k = member; a2, a3 the same at k = member + 4.
// b0: k = member of column group; b1: k = member + 4.
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    auto slots = emulation::exchange(mine, sizeof(mine), emulated::kMmaTf32);
    emulated::accumulate<16, 8>(
        d,
        [&](int row, int k) {
            return emulated::tf32_of(emulated::register_of(slots[row % 8 * 4 + k % 4], row / 8 + k / 4 * 2));
        },
        [&](int k, int column) {
            return emulated::tf32_of(emulated::register_of(slots[column * 4 + k % 4], 4 + k / 4));
        });
}

inline unsigned round_to_tf32(float x) {  // cvt.rna.tf32.f32: to nearest, ties away from zero
    return (__float_as_uint(x) + 0x1000u) & ~0x1FFFu;
}

// mma.m16n8k32 .s8/.u8: a0, a1 are rows group and group + 8, k = 4 * member + {0..3}; a2, a3 the same with k + 16.
// b0: k = 4 * member + {0..3} of column group; b1: k + 16.
template <bool SIGNED>
inline void mma_m16n8k32(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    auto slots = emulation::exchange(mine, sizeof(mine), emulated::kMma16832);
    emulated::accumulate<16, 32>(
        d,
        [&](int row, int k) {
            unsigned word = emulated::register_of(slots[row % 8 * 4 + k % 16 / 4], row / 8 + k / 16 * 2);
            return emulated::byte_of<SIGNED>(word, k % 4);
        },
        [&](int k, int column) {
            unsigned word = emulated::register_of(slots[column * 4 + k % 16 / 4], 4 + k / 16);
            return emulated::byte_of<true>(word, k % 4);
        });
}

// mma.m8n8k16 .s8/.u8: a is row group, k = 4 * member + {0..3}; b the same k of column group.
template <bool SIGNED>
inline void mma_m8n8k16(int *d, unsigned a, unsigned b) {
    unsigned mine[2] = {a, b};
    auto slots = emulation::exchange(mine, sizeof(mine), emulated::kMma8816);
    emulated::accumulate<8, 16>(
        d,
        [&](int row, int k) {
            return emulated::byte_of<SIGNED>(emulated::register_of(slots[row * 4 + k / 4], 0), k % 4);
        },
        [&](int k, int column) {
            return emulated::byte_of<true>(emulated::register_of(slots[column * 4 + k / 4], 1), k % 4);
        });
}

// mma.m8n8k4 .f16: lanes with l % 16 / 4 in common compute a matrix of their own. a and b: k = 0 ... 3 of row, or
// column, l % 4, and of 4 + l % 4 in lanes from 16 on. d: element i is of row (l & 1) + (i & 2), from lane 16 on of four
// rows further down, and column (i & 4) + (l & 2) + (i & 1).
inline void mma_m8n8k4(float *d, unsigned a0, unsigned a1, unsigned b0, unsigned b1) {
    emulated::full_warp(emulated::kMma884);
    unsigned mine[4] = {a0, a1, b0, b1};
    auto slots = emulation::exchange(mine, sizeof(mine), emulated::kMma884);
    int lane = emulation::lane(), first = lane % 16 / 4 * 4;
    auto element = [&](int line, int k, int matrix) {
        const char *slot = slots[first + line % 4 + line / 4 * 16];
        return emulated::half_of(emulated::register_of(slot, matrix * 2 + k / 2), k % 2);
    };
    for (int i = 0; i < 8; ++i) {
        int row = (lane & 1) + (i & 2) + lane / 16 * 4, column = (i & 4) + (lane & 2) + (i & 1);
        for (int k = 0; k < 4; ++k) d[i] += element(row, k, 0) * element(column, k, 1);
    }
}

namespace emulated {

// wmma.m16n16k16: "the distribution of fragments loaded by the threads in a warp is unspecified". Here element number
// `8 * lane + slot` of a lane is that of the matrix times a factor, modulo 256, another one for each matrix.
struct Scrambling {
    int factor, inverse;

    int element(int slot) const { return (emulation::lane() * 8 + slot) * factor % 256; }
    int holder(int element) const { return element * inverse % 256; }
};
constexpr Scrambling kRows = {37, 173}, kColumns = {101, 109}, kSums = {59, 243};
static_assert(37 * 173 % 256 == 1 && 101 * 109 % 256 == 1 && 59 * 243 % 256 == 1);

// All lanes give the same place in shared memory; each row begins at a multiple of the size of a lane's fragment.
inline void check_wmma(const void *place, int pitch_bytes, unsigned fragment_bytes) {
    full_warp(kWmma);
    unsigned long mine[2] = {(unsigned long)place, (unsigned long)pitch_bytes};
    auto slots = emulation::exchange(mine, sizeof(mine), kWmma);
    if (memcmp(slots[0], mine, sizeof(mine))) emulation::fail("wmma: lanes differ about the place", 0);
    if (!emulation::is_shared(place) || mine[0] % fragment_bytes || mine[1] % fragment_bytes) {
        emulation::fail("wmma: bad address", 0);
    }
}

inline void load_bytes(unsigned (&fragment)[2], const void *lines, int pitch, Scrambling scrambling) {
    check_wmma(lines, pitch, sizeof(fragment));
    for (int slot = 0; slot < 8; ++slot) {
        int element = scrambling.element(slot);
        const char *from = (const char *)lines + element / 16 * pitch + element % 16;
        emulation::touch(from, 1, emulation::Kind::kRead);
        ((char *)fragment)[slot] = *from;
    }
}

}  // namespace emulated

inline void wmma_load_rows(unsigned (&a)[2], const void *rows, int pitch) {
    emulated::load_bytes(a, rows, pitch, emulated::kRows);
}
inline void wmma_load_columns(unsigned (&b)[2], const void *columns, int pitch) {
    emulated::load_bytes(b, columns, pitch, emulated::kColumns);
}

inline void wmma_m16n16k16(int *d, const unsigned (&a)[2], const unsigned (&b)[2]) {
    emulated::full_warp(emulated::kWmma);
    unsigned mine[4] = {a[0], a[1], b[0], b[1]};
    auto slots = emulation::exchange(mine, sizeof(mine), emulated::kWmma);
    auto element = [&](int line, int k, emulated::Scrambling scrambling, int matrix) {
        int holder = scrambling.holder(line * 16 + k);
        return (int)(signed char)slots[holder / 8][matrix * 8 + holder % 8];
    };
    for (int slot = 0; slot < 8; ++slot) {
        int row = emulated::kSums.element(slot) / 16, column = emulated::kSums.element(slot) % 16;
        for (int k = 0; k < 16; ++k) {
            d[slot] += element(row, k, emulated::kRows, 0) * element(column, k, emulated::kColumns, 1);
        }
    }
}

inline void wmma_store(int *rows, const int *d, int pitch) {
    emulated::check_wmma(rows, pitch * 4, 32);
    for (int slot = 0; slot < 8; ++slot) {
        int element = emulated::kSums.element(slot), *to = rows + element / 16 * pitch + element % 16;
        emulation::touch(to, 4, emulation::Kind::kWrite);
        *to = d[slot];
    }
}

// dp4a.u32.s32
inline int dot4_unsigned(unsigned a, unsigned b, int total) {
    for (int i = 0; i < 4; ++i) total += emulated::byte_of<false>(a, i) * emulated::byte_of<true>(b, i);
    return total;
}

// cp.async.cg.shared.global: 16 bytes of which `bytes` are read, the others zero. Nothing arrives before it is waited
// for: the copies are made then.
inline void copy_async(void *to, const void *from, int bytes) {
    emulation::Fiber &fiber = emulation::self();
    if (!emulation::is_shared(to) || (unsigned long)to % 16 || (bytes && (unsigned long)from % 16)) {
        emulation::fail("cp.async: bad address", 0);
    }
    if (fiber.copies == emulation::kCopies) emulation::fail("more copies in flight than the emulation keeps", 0);
    else fiber.queue[fiber.copies++] = {to, from, bytes, fiber.groups};
    if (bytes) emulation::touch(from, bytes, emulation::Kind::kRead);
    emulation::touch(to, 16, emulation::Kind::kWriteLater);
}

inline void copy_commit() { ++emulation::self().groups; }

// cp.async.wait_group: at most so many of the newest groups are pending afterwards.
template <int PENDING>
inline void copy_wait() {
    emulation::Fiber &fiber = emulation::self();
    int kept = 0;
    for (int i = 0; i < fiber.copies; ++i) {
        emulation::Copy copy = fiber.queue[i];
        if (copy.group < fiber.groups - PENDING) {
            emulation::touch(copy.to, 16, emulation::Kind::kWrite);
            memset(copy.to, 0, 16);
            memcpy(copy.to, copy.from, copy.bytes);
        } else {
            fiber.queue[kept++] = copy;
        }
    }
    fiber.copies = kept;
}

}  // namespace edgec

#pragma clang attribute pop
