// simt.h: CUDA C as C++ for the host. One block runs at a time, and each of its threads is a fiber.
//
// A thread runs until it waits for others (a barrier, or an exchange between the lanes of a warp). Threads that wait
// for ones that never come are an error, and so are the accesses to memory that sanitizer.h looks for. Needs nothing of
// the C++ library.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define alignas(n) __attribute__((aligned(n)))  // C++ has it nowhere but first, CUDA C after __shared__ too
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("edgec_shared"), used))
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 870
#endif

extern "C" {
void *malloc(unsigned long size);
void free(void *memory);
void *memcpy(void *to, const void *from, unsigned long size);
void *memset(void *to, int value, unsigned long size);
int memcmp(const void *a, const void *b, unsigned long size);
int snprintf(char *text, unsigned long size, const char *format, ...);
extern char __start_edgec_shared[] __attribute__((weak)), __stop_edgec_shared[] __attribute__((weak));
}

struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;

// What the emulation itself does is not looked at.
#pragma clang attribute push(__attribute__((no_sanitize("thread", "alignment"))), apply_to = function)

namespace emulation {

constexpr int kWarpBarrier = -1;  // where a thread waits that is in __syncwarp
constexpr int kWarp = 32, kMaxThreads = 1024, kStackBytes = 1 << 16, kSlotBytes = 64, kCopies = 512;

enum class State { kReady, kBlock, kWarp, kDone };

struct Copy {
    void *to;
    const void *from;
    int bytes, group;
};

struct Fiber {
    void *stack_pointer;
    char *stack;
    State state;
    int site;  // what it waits at
    int parity;  // of its exchanges
    int copies, groups;
    unsigned fenced;  // writes before this time are visible to others if what this thread writes now is
    bool has_asked;   // by an atomic operation
    uint3 index;
    Copy queue[kCopies];
};

struct Block {
    Fiber *fibers[kMaxThreads];
    int threads, current;
    void *scheduler;
    char slots[2][kMaxThreads][kSlotBytes] __attribute__((aligned(16)));
    void (*body)(void *);
    void *argument;
    char error[256];
};

static Block block;

__attribute__((naked, noinline)) static void switch_to([[maybe_unused]] void **save, [[maybe_unused]] void *load) {
#if defined(__x86_64__)
    __asm__ volatile(
        "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
#elif defined(__aarch64__)
    __asm__ volatile(
        "sub sp, sp, #160\n"
        "stp x19, x20, [sp, #0]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n stp x25, x26, [sp, #48]\n"
        "stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n"
        "stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
        "mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
        "ldp x19, x20, [sp, #0]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n ldp x25, x26, [sp, #48]\n"
        "ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n"
        "ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
        "add sp, sp, #160\n ret\n");
#else
#error "the emulation switches between fibers on x86-64 and aarch64"
#endif
}

inline Fiber &self() { return *block.fibers[block.current]; }
inline int lane() { return block.current % kWarp; }
inline int warp_size() {
    int first = block.current - lane();
    return block.threads - first < kWarp ? block.threads - first : kWarp;
}

inline void fail(const char *what, int number) {
    if (!block.error[0]) snprintf(block.error, sizeof(block.error), "%s %d, thread %d", what, number, block.current);
}

inline void give_up(State state, int site) {
    Fiber &fiber = self();
    fiber.state = state;
    fiber.site = site;
    switch_to(&fiber.stack_pointer, block.scheduler);
}

static void enter() {
    block.body(block.argument);
    give_up(State::kDone, 0);
}

inline void prepare(Fiber &fiber) {
    unsigned long top = ((unsigned long)fiber.stack + kStackBytes) & ~63UL;
#if defined(__x86_64__)
    void **frame = (void **)(top - 128);  // at the entry, the stack is 8 bytes off a multiple of 16
    frame[6] = (void *)enter;
    memset(frame, 0, 6 * sizeof(void *));
#else
    void **frame = (void **)(top - 160);
    memset(frame, 0, 160);
    frame[11] = (void *)enter;
#endif
    fiber.stack_pointer = frame;
    fiber.state = State::kReady;
    fiber.parity = fiber.copies = fiber.groups = 0;
    fiber.fenced = 0, fiber.has_asked = false;
}

// Lets threads go on that wait for one another and are complete; false where none can.
inline bool release(int first, int count, State state) {
    for (int i = first; i < first + count; ++i) {
        if (block.fibers[i]->state != state || block.fibers[i]->site != block.fibers[first]->site) return false;
    }
    for (int i = first; i < first + count; ++i) block.fibers[i]->state = State::kReady;
    return true;
}

// An exchange between the lanes of a warp: every lane gives `size` bytes and sees those of all.
inline const char (*exchange(const void *mine, int size, int site))[kSlotBytes] {
    Fiber &fiber = self();
    int parity = fiber.parity ^= 1;
    memcpy(block.slots[parity][block.current], mine, size);
    int first = block.current - lane();
    give_up(State::kWarp, site);
    return &block.slots[parity][first];
}

inline bool is_shared(const void *p) {
    return (const char *)p >= __start_edgec_shared && (const char *)p < __stop_edgec_shared;
}

}  // namespace emulation

static uint3 threadIdx, blockIdx;
static uint3 blockDim, gridDim;

#include "sanitizer.h"

namespace emulation {

inline void run_block() {
    begin_block();
    for (int i = 0; i < block.threads; ++i) prepare(*block.fibers[i]);
    for (;;) {
        bool moved = false;
        int done = 0;
        for (int i = 0; i < block.threads && !block.error[0]; ++i) {
            Fiber &fiber = *block.fibers[i];
            while (fiber.state == State::kReady) {
                block.current = i;
                threadIdx = fiber.index;
                switch_to(&block.scheduler, fiber.stack_pointer);
                moved = true;
                if (block.error[0]) return;
            }
            done += fiber.state == State::kDone;
            bool is_last = i % kWarp == kWarp - 1 || i == block.threads - 1;
            if (is_last && release(i - i % kWarp, i % kWarp + 1, State::kWarp)) {
                if (fiber.site == kWarpBarrier) pass_warp_barrier(i / kWarp);
                moved = true;
            }
        }
        if (block.error[0] || done == block.threads) return;
        if (release(0, block.threads, State::kBlock)) {
            pass_barrier();
            moved = true;
        }
        if (!moved) {
            for (block.current = 0; self().state == State::kDone;) ++block.current;
            fail(self().state == State::kBlock ? "not every thread of the block comes to the barrier in line"
                                               : "not every lane of the warp takes part in exchange",
                 self().site);
            return;
        }
    }
}

template <class... Arguments>
struct Call {
    void (*kernel)(Arguments...);
    void **arguments;

    template <int... I>
    struct Numbers {};
    template <int N, int... I>
    struct Count : Count<N - 1, N - 1, I...> {};
    template <int... I>
    struct Count<0, I...> {
        typedef Numbers<I...> Type;
    };
    template <int... I>
    void with(Numbers<I...>) {
        kernel(*(Arguments *)arguments[I]...);
    }
    static void run(void *self) { ((Call *)self)->with(typename Count<sizeof...(Arguments)>::Type()); }
};

// Runs every block of a grid; returns what went wrong, or null.
template <class... Arguments>
const char *launch(void (*kernel)(Arguments...), const unsigned *grid, const unsigned *threads, void **arguments) {
    Call<Arguments...> call = {kernel, arguments};
    block.body = Call<Arguments...>::run;
    block.argument = &call;
    block.error[0] = 0;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads[0], threads[1], threads[2]};
    block.threads = threads[0] * threads[1] * threads[2];
    if (block.threads > kMaxThreads) return "a block has at most 1024 threads";
    for (int i = 0; i < block.threads; ++i) {
        if (!block.fibers[i]) {
            block.fibers[i] = (Fiber *)malloc(sizeof(Fiber));
            block.fibers[i]->stack = (char *)malloc(kStackBytes);
        }
        block.fibers[i]->index = {i % threads[0], i / threads[0] % threads[1], i / threads[0] / threads[1]};
    }
    begin_launch(grid[0] * grid[1] * grid[2]);
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x) {
                run_block();
                if (block.error[0]) return block.error;
                ++block_number;
            }
    return nullptr;
}

}  // namespace emulation

#pragma clang attribute pop

#define __syncthreads() emulation::give_up(emulation::State::kBlock, __LINE__)
#define EDGEC_EMULATED_KERNEL(symbol)                                                                                  \
    extern "C" const char *symbol##_emulated(const unsigned *grid, const unsigned *threads, unsigned, void **a) {      \
        return emulation::launch(symbol, grid, threads, a);                                                            \
    }

#include "builtins.h"
