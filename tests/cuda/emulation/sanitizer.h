// sanitizer.h: what the kernels read and write, byte by byte; wrong accesses end the launch with a message.
//
// Clang calls __tsan_... before every access to memory, and a handler of UBSan where an address is not a multiple of the
// type's alignment. Noticed are, as by the tools of NVIDIA's compute-sanitizer: addresses outside of every array and
// misaligned ones (memcheck), shared memory that nothing wrote (initcheck), threads that come to the same byte with no
// barrier in between, one of them writing (racecheck), and what racecheck leaves out: the same in global memory, also
// between blocks, unless the writer's block published it (a barrier, a fence, an atomic operation) and the reader's
// block acquired it (an atomic operation, a fence, a barrier; PTX ISA, "Memory Consistency Model").
#pragma once

namespace emulation {

struct Range {
    const char *begin, *end;
};

// The last access of a kind to a byte: at what time of `clock` (0: never), by whom.
struct Stamp {
    unsigned clock, block;
    unsigned short thread;
    bool in_flight;
};
constexpr unsigned kSeveral = ~0u;
constexpr unsigned short kSeveralThreads = 0xFFFF;

struct Cell {
    Stamp writer, reader;
};

constexpr unsigned long kPageBytes = 4096, kPages = 1 << 16;

struct Page {
    unsigned long number;
    Cell cells[kPageBytes];
};

static Page *pages[kPages];
static Range arrays[64];
static int array_count;
static unsigned clock = 1;  // goes on at barriers, fences and atomic operations
static unsigned barrier_clock, block_clock, launch_clock, block_number;
static unsigned warp_clocks[kMaxThreads / kWarp];  // of each warp's last barrier of its own
static unsigned *published;  // what a block wrote before this time, by number of the block
static bool has_acquired, will_acquire;

extern "C" char __ehdr_start[] __attribute__((visibility("hidden"))), _end[] __attribute__((visibility("hidden")));

inline bool is_within(const char *p, unsigned long size, const char *begin, const char *end) {
    return p >= begin && p + size <= end;
}

inline Cell &cell_of(const char *p) {
    unsigned long number = (unsigned long)p / kPageBytes, slot = number * 0x9E3779B97F4A7C15UL >> 48;
    while (pages[slot] && pages[slot]->number != number) slot = (slot + 1) % kPages;
    if (!pages[slot]) {
        pages[slot] = (Page *)malloc(sizeof(Page));
        memset(pages[slot], 0, sizeof(Page));
        pages[slot]->number = number;
    }
    return pages[slot]->cells[(unsigned long)p % kPageBytes];
}

// Says where a byte is.
inline void complain(const char *what, const char *p) {
    if (block.error[0]) return;
    char place[64] = "memory of the module";
    if (is_shared(p)) snprintf(place, sizeof(place), "shared memory");
    for (int i = 0; i < array_count; ++i) {
        if (!is_within(p, 1, arrays[i].begin - 4096, arrays[i].end + 4096)) continue;
        snprintf(place, sizeof(place), "byte %ld of argument %d of %ld bytes", p - arrays[i].begin, i,
                 arrays[i].end - arrays[i].begin);
        if (is_within(p, 1, arrays[i].begin, arrays[i].end)) break;
    }
    snprintf(block.error, sizeof(block.error), "%s: %s, thread %d of block %u", what, place, block.current,
             block_number);
}

inline bool may_see(const Stamp &writer) { return has_acquired && writer.clock < published[writer.block]; }

// Whether a barrier, of the block or of the warp that both belong to, lies between an access in this block and now.
inline bool is_before_barrier(const Stamp &stamp) {
    int warp = block.current / kWarp;
    return stamp.clock < barrier_clock || (stamp.thread / kWarp == warp && stamp.clock < warp_clocks[warp]);
}

// Whether an earlier access leaves this one, by the current thread, to chance.
inline bool is_unordered(const Stamp &stamp, bool is_in_shared, bool is_write_seen) {
    if (stamp.clock <= (is_in_shared ? block_clock : launch_clock)) return false;
    if (stamp.block != block_number) return !is_write_seen || !may_see(stamp);
    return stamp.thread != block.current && !is_before_barrier(stamp);
}

enum class Kind { kRead, kWrite, kWriteLater };

inline void touch(const void *address, unsigned long size, Kind kind) {
    const char *p = (const char *)address, *stack = self().stack;
    if (block.error[0] || is_within(p, 1, stack, stack + kStackBytes)) return;
    if (is_within(p, 1, (const char *)&block, (const char *)(&block + 1))) return;
    bool is_in_shared = is_shared(p), is_write = kind != Kind::kRead;
    bool is_inside = is_in_shared ? is_shared(p + size - 1) : is_within(p, size, __ehdr_start, _end) || !array_count;
    for (int i = 0; i < array_count && !is_inside; ++i) is_inside = is_within(p, size, arrays[i].begin, arrays[i].end);
    if (!is_inside) return complain(is_write ? "writes outside of every array" : "reads outside of every array", p);
    for (const char *end = p + size; p < end; ++p) {
        Cell &cell = cell_of(p);
        bool was_written = cell.writer.clock > (is_in_shared ? block_clock : launch_clock);
        if (was_written && cell.writer.in_flight && !(is_write && cell.writer.thread == block.current)) {
            return complain("comes to what an asynchronous copy is about to write", p);
        }
        if (!is_write && is_in_shared && !was_written) return complain("reads what nothing wrote", p);
        if (is_unordered(cell.writer, is_in_shared, !is_write)) {
            return complain(is_write ? "writes what another thread wrote, with no barrier in between"
                                     : "reads what another thread wrote, with no barrier in between",
                            p);
        }
        if (is_write && is_unordered(cell.reader, is_in_shared, false)) {
            return complain("writes what another thread read, with no barrier in between", p);
        }
        unsigned short thread = block.current;
        if (is_write) {
            cell.writer = {clock, block_number, thread, kind == Kind::kWriteLater};
        } else {
            Stamp &reader = cell.reader;
            bool is_first = reader.clock <= (is_in_shared ? block_clock : launch_clock);
            unsigned by = is_first || reader.block == block_number ? block_number : kSeveral;
            bool is_alone = is_first || is_before_barrier(reader) || reader.thread == thread;
            reader = {clock, by, is_alone ? thread : kSeveralThreads, false};
        }
    }
}

inline void begin_launch(unsigned blocks) {
    for (unsigned long i = 0; i < kPages; ++i) {
        free(pages[i]);
        pages[i] = nullptr;
    }
    free(published);
    published = (unsigned *)malloc(blocks * sizeof(unsigned));
    memset(published, 0, blocks * sizeof(unsigned));
    launch_clock = clock++;
    block_number = 0;
}

inline void begin_block() {
    block_clock = clock++;
    barrier_clock = clock;
    has_acquired = will_acquire = false;
}

inline void pass_barrier() {
    barrier_clock = ++clock;
    has_acquired |= will_acquire;
}

inline void pass_warp_barrier(int warp) { warp_clocks[warp] = ++clock; }

inline void pass_fence() {
    ++clock;
    self().fenced = barrier_clock;  // others' writes before the barrier are visible to this thread, so they are included
    will_acquire |= self().has_asked;
}

inline void pass_atomic() {
    ++clock;
    if (self().fenced > published[block_number]) published[block_number] = self().fenced;
    self().has_asked = true;
}

}  // namespace emulation

#define EDGEC_ACCESS(size)                                                                                             \
    void __tsan_read##size(void *p) { emulation::touch(p, size, emulation::Kind::kRead); }                             \
    void __tsan_write##size(void *p) { emulation::touch(p, size, emulation::Kind::kWrite); }                           \
    void __tsan_unaligned_read##size(void *p) { emulation::touch(p, size, emulation::Kind::kRead); }                   \
    void __tsan_unaligned_write##size(void *p) { emulation::touch(p, size, emulation::Kind::kWrite); }
extern "C" {
EDGEC_ACCESS(1)
EDGEC_ACCESS(2)
EDGEC_ACCESS(4)
EDGEC_ACCESS(8)
EDGEC_ACCESS(16)
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void *__tsan_memcpy(void *to, const void *from, unsigned long size) {
    emulation::touch(from, size, emulation::Kind::kRead);
    emulation::touch(to, size, emulation::Kind::kWrite);
    return memcpy(to, from, size);
}
void *__tsan_memset(void *to, int value, unsigned long size) {
    emulation::touch(to, size, emulation::Kind::kWrite);
    return memset(to, value, size);
}
void __ubsan_handle_type_mismatch_v1(void *, void *p) { emulation::complain("a misaligned address", (const char *)p); }
void edgec_arrays(const emulation::Range *ranges, int count) {
    emulation::array_count = count;
    memcpy(emulation::arrays, ranges, count * sizeof(*ranges));
}
}
#undef EDGEC_ACCESS
