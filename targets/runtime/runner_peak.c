/* runner_peak.c: what this machine can do at best, for `runner profile --peak-ms`: multiply-adds and memory traffic.
 *
 * Multiply-adds: chains of v = v * a + b in registers, in the widest vectors that the model's own code may use. Each
 * chain waits for itself only, and there are enough of them to fill the pipelines. Memory: a[i] = b[i] + s * c[i] (the
 * triad of STREAM, McCalpin 1995) over buffers larger than the last cache; 12 bytes per element are counted.
 *
 * Both are measured in short bursts by as many threads as the session has, pinned in the same way, and the best burst
 * counts: others who use the machine can only make one slower.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runner.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT ON
#define CONTRACT
#else
#define CONTRACT __attribute__((optimize("fp-contract=fast")))
#endif

/* As many as 16 registers hold beside a and b. Multiply-adds need 10 (Haswell: 5 cycles, 2 per cycle); without FMA,
 * where a step is two instructions of 3 or 4 cycles, 12 did not fill the pipelines of a Zen 4. */
enum { CHAINS = 14, STEPS_PER_ROUND = 64, FIRST_ROUNDS = 1000, CPU_SETS = 8 };
enum { BURST_NS = 2000000, MIN_BURSTS = 3 };
enum { CACHE_FACTOR = 4, LARGE_CACHE = 32 << 20, MIN_BUFFERS = 64 << 20 };

#if defined(__aarch64__)
#define STEP(v) (v += a * b) /* fmla adds to its destination: any other form needs a move besides */
#else
#define STEP(v) (v = v * a + b) /* without FMA the product must not be the same in every step */
#endif

static volatile float factor = 0.5f, addend = 1.0f;
static volatile float sink;

#define DEFINE_CHAINS(name, bytes, attributes)                                                      \
    typedef float name##_vector __attribute__((vector_size(bytes)));                                \
    attributes static void name(uint64_t rounds) {                                                  \
        const name##_vector zero = {0}, a = zero + factor, b = zero + addend;                       \
        name##_vector v[CHAINS];                                                                    \
        for (int i = 0; i < CHAINS; i++) v[i] = zero + (float)i;                                    \
        for (uint64_t n = rounds * STEPS_PER_ROUND; n > 0; n--) {                                   \
            _Pragma("GCC unroll 14") for (int i = 0; i < CHAINS; i++) STEP(v[i]);                   \
        }                                                                                           \
        for (int i = 1; i < CHAINS; i++) v[0] += v[i];                                              \
        for (size_t i = 0; i < (bytes) / sizeof(float); i++) sink = v[0][i];                        \
    }

DEFINE_CHAINS(chains_of_128_bits, 16, CONTRACT)
#if defined(__x86_64__)
DEFINE_CHAINS(chains_of_256_bits, 32, CONTRACT __attribute__((target("avx2,fma"))))
DEFINE_CHAINS(chains_of_512_bits, 64, CONTRACT __attribute__((target("avx512f"))))
#endif

static const struct width {
    const char *feature; /* that the model requires, and the session has found on this CPU; NULL: none */
    int bits;
    void (*chains)(uint64_t rounds);
} widths[] = {
#if defined(__x86_64__)
    {"avx512f", 512, chains_of_512_bits},
    {"fma", 256, chains_of_256_bits},
#endif
    {NULL, 128, chains_of_128_bits},
};

static const struct width *widest(const edgec_model *model) {
    const struct width *width = widths;
    for (; width->feature != NULL; width++) {
        const char *const *name = model->cpu_features_required;
        for (; name != NULL && *name != NULL; name++) {
            if (strcmp(*name, width->feature) == 0) return width;
        }
    }
    return width;
}

/* The largest data cache in bytes, as Linux describes it; 0: unknown. */
static size_t last_cache_bytes(void) {
    size_t largest = 0;
    for (int index = 0;; index++) {
        char path[80];
        unsigned long kib = 0;
        (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        FILE *file = fopen(path, "r");
        if (file == NULL) return largest;
        if (fscanf(file, "%luK", &kib) == 1 && kib * 1024u > largest) largest = kib * 1024u;
        (void)fclose(file);
    }
}

/* Bytes of all buffers: several times the last cache, but at most an eighth of the memory. */
static size_t buffer_bytes(size_t cache) {
    const size_t wanted = CACHE_FACTOR * (cache > 0 ? cache : (size_t)LARGE_CACHE);
    const size_t memory = (size_t)sysconf(_SC_PHYS_PAGES) / 8 * (size_t)sysconf(_SC_PAGESIZE);
    const size_t enough = wanted > MIN_BUFFERS ? wanted : MIN_BUFFERS;
    return enough < memory ? enough : memory;
}

struct measurement {
    const struct width *width;
    pthread_barrier_t barrier;
    int threads;
    uint64_t budget_ns, rounds;
    size_t elements; /* of one buffer of one thread */
    double flops_per_ns, bytes_per_ns;
    int is_over;
    atomic_int failure;
};

struct member {
    struct measurement *measurement;
    pthread_t thread;
    int index, cpu; /* cpu: -1 where the scheduler decides */
    float *a, *b, *c;
};

static void triad(const struct member *member) {
    const float s = factor;
    float *restrict a = member->a;
    const float *restrict b = member->b, *restrict c = member->c;
    for (size_t i = 0; i < member->measurement->elements; i++) a[i] = b[i] + s * c[i];
    sink = a[0];
}

/* All threads do `rounds` of multiply-adds (0: one triad) at once; returns the time between the two meetings. */
static uint64_t burst(struct member *member, uint64_t rounds) {
    struct measurement *m = member->measurement;
    (void)pthread_barrier_wait(&m->barrier);
    const uint64_t begin = runner_now_ns();
    if (rounds > 0) {
        m->width->chains(rounds);
    } else {
        triad(member);
    }
    (void)pthread_barrier_wait(&m->barrier);
    return runner_now_ns() - begin;
}

/* Repeats a burst for the time that there is; returns the best amount per ns. The first thread decides for all. */
static double best_rate(struct member *member, uint64_t rounds, double amount) {
    struct measurement *m = member->measurement;
    const uint64_t end = runner_now_ns() + m->budget_ns;
    double best = 0;
    for (int i = 0;; i++) {
        const uint64_t ns = burst(member, rounds);
        const double rate = amount / (double)(ns > 0 ? ns : 1);
        if (rate > best) best = rate;
        if (member->index == 0) m->is_over = i + 1 >= MIN_BURSTS && runner_now_ns() >= end;
        (void)pthread_barrier_wait(&m->barrier);
        if (m->is_over) return best;
    }
}

static int allocate(struct member *member) {
    const size_t bytes = member->measurement->elements * sizeof(float);
    float **buffers[] = {&member->a, &member->b, &member->c};
    for (int i = 0; i < 3; i++) {
        *buffers[i] = aligned_alloc(EDGEC_ALIGNMENT, bytes);
        if (*buffers[i] == NULL) return 0;
        memset(*buffers[i], 0, bytes); /* by the thread that uses it, whose memory is then near */
    }
    return 1;
}

static int pin(int cpu) {
    cpu_set_t sets[CPU_SETS];
    memset(sets, 0, sizeof sets);
    if (cpu < 0) return 1;
    CPU_SET_S((size_t)cpu, sizeof sets, sets);
    return sched_setaffinity(0, sizeof sets, sets) == 0;
}

static void *measure(void *argument) {
    struct member *member = argument;
    struct measurement *m = member->measurement;
    if (!pin(member->cpu)) m->failure = 1;
    const uint64_t first_ns = burst(member, FIRST_ROUNDS);
    if (member->index == 0) m->rounds = 1 + FIRST_ROUNDS * (uint64_t)BURST_NS / (first_ns > 0 ? first_ns : 1);
    (void)pthread_barrier_wait(&m->barrier);
    const int per_round = 2 * CHAINS * STEPS_PER_ROUND * (m->width->bits / 32) * m->threads;
    const double operations = (double)m->rounds * per_round;
    const double flops_per_ns = best_rate(member, m->rounds, operations);
    if (!allocate(member)) m->failure = 1;
    (void)pthread_barrier_wait(&m->barrier);
    const double traffic = 3.0 * sizeof(float) * (double)m->elements * m->threads;
    const double bytes_per_ns = m->failure ? 0 : best_rate(member, 0, traffic);
    if (member->index == 0) {
        m->flops_per_ns = flops_per_ns;
        m->bytes_per_ns = bytes_per_ns;
    }
    free(member->a);
    free(member->b);
    free(member->c);
    return NULL;
}

int runner_peak(const edgec_model *model, const runner_options *options, int threads) {
    static struct measurement m; /* outlives this call: threads that wait for one that did not start end with main */
    const size_t cache = last_cache_bytes(), unit = EDGEC_ALIGNMENT / sizeof(float);
    m.width = widest(model);
    m.threads = threads;
    m.budget_ns = options->peak_ms * 1000000u / 2;
    m.elements = buffer_bytes(cache) / (3 * sizeof(float)) / (size_t)threads / unit * unit + unit;
    struct member *members = calloc((size_t)threads, sizeof *members);
    if (members == NULL || pthread_barrier_init(&m.barrier, NULL, (unsigned)threads) != 0) {
        free(members);
        return runner_error(EXIT_DEVICE, "no memory to measure the peak with %d threads", threads);
    }
    for (int i = 0; i < threads; i++) {
        members[i] = (struct member){.measurement = &m, .index = i, .cpu = options->num_cpus > 0 ? options->cpus[i] : -1};
        if (i > 0 && pthread_create(&members[i].thread, NULL, measure, &members[i]) != 0) {
            return runner_error(EXIT_DEVICE, "cannot start thread %d of %d to measure the peak", i, threads - 1);
        }
    }
    (void)measure(&members[0]);
    for (int i = 1; i < threads; i++) (void)pthread_join(members[i].thread, NULL);
    (void)pthread_barrier_destroy(&m.barrier);
    free(members);
    if (m.failure) return runner_error(EXIT_DEVICE, "cannot measure the peak: no memory, or a CPU that is not there");
    printf(", \"peak\": {\"vector_bits\": %d, \"gflops\": %.3f, \"bandwidth_gbs\": %.3f, \"last_cache_bytes\": %zu, "
           "\"buffer_bytes\": %zu}",
           m.width->bits, m.flops_per_ns, m.bytes_per_ns, cache, 3 * sizeof(float) * m.elements * (size_t)threads);
    return EXIT_DONE;
}
