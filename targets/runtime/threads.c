/* threads.c: a pool with a static partition of work.
 *
 * One launch: the caller fills in the job, raises `epoch`, executes its own share and waits until `pending` is zero.
 * A worker polls `epoch` for a bounded time, then sleeps. Both sides use the same protocol to avoid a lost wake-up: who
 * wants to sleep announces it (`sleepers`, `is_caller_asleep`) and then looks again; who changes the state does so and
 * then looks for an announcement. All four accesses are sequentially consistent, so one of the two sees the other.
 *
 * Why static: every task of a kernel costs the same, and a worker that gets the same rows in each run finds them in
 * its cache.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

enum { CACHE_LINE = 64, STACK_SIZE = 1 << 20, SPINS_PER_CLOCK_READING = 64, CPU_SETS = 8 };

struct edgec_pool {
    /* Written by the caller before `epoch`, read by the workers after it. */
    edgec_parallel_body body;
    void *closure;
    int num_task;
    int is_stopping;

    _Alignas(CACHE_LINE) atomic_uint epoch;
    atomic_int sleepers;
    _Alignas(CACHE_LINE) atomic_int pending;
    atomic_int is_caller_asleep;
    atomic_int failure;

    _Alignas(CACHE_LINE) pthread_mutex_t mutex;
    pthread_cond_t launched, finished;
    uint64_t spin_ns;
    int threads; /* the caller included */
    int created;
    struct member {
        edgec_pool *pool;
        edgec_worker *worker;
        int index;
        pthread_t thread;
    } *members; /* [0] is the caller and has no thread */
};

uint64_t edgec_now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` is a no-op on most cores and would saturate the load unit */
#else
    __asm__ volatile("" ::: "memory");
#endif
}

/* Polls until `is_done(pool, seen)` holds; 0 when the time ran out first. */
static int spin_until(edgec_pool *pool, int (*is_done)(edgec_pool *, unsigned), unsigned seen) {
    if (is_done(pool, seen)) return 1;
    if (pool->spin_ns == 0) return 0;
    const uint64_t deadline = edgec_now_ns() + pool->spin_ns;
    do {
        for (int i = 0; i < SPINS_PER_CLOCK_READING; i++) {
            if (is_done(pool, seen)) return 1;
            relax();
        }
        /* On a busy machine the scheduler may have put the thread that is waited for on this very CPU. */
        (void)sched_yield();
    } while (edgec_now_ns() < deadline);
    return 0;
}

static int is_launched(edgec_pool *pool, unsigned seen) {
    return atomic_load(&pool->epoch) != seen;
}

static int is_finished(edgec_pool *pool, unsigned seen) {
    (void)seen;
    return atomic_load(&pool->pending) == 0;
}

static void execute_share(edgec_pool *pool, int index) {
    edgec_parallel_env env = {NULL, pool->num_task};
    for (int task = index; task < pool->num_task; task += pool->threads) {
        const int code = pool->body(task, &env, pool->closure);
        if (code != 0) atomic_store(&pool->failure, code);
    }
}

static void wait_for_launch(edgec_pool *pool, unsigned seen) {
    if (spin_until(pool, is_launched, seen)) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!is_launched(pool, seen)) pthread_cond_wait(&pool->launched, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void wait_for_workers(edgec_pool *pool) {
    if (spin_until(pool, is_finished, 0)) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->is_caller_asleep, 1);
    while (!is_finished(pool, 0)) pthread_cond_wait(&pool->finished, &pool->mutex);
    atomic_store(&pool->is_caller_asleep, 0);
    pthread_mutex_unlock(&pool->mutex);
}

static void launch(edgec_pool *pool) {
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->sleepers) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->launched);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument) {
    struct member *member = argument;
    edgec_pool *pool = member->pool;
    /* No pool in the context: a parallel loop inside a parallel loop runs serially. */
    edgec_set_context((edgec_context){.pool = NULL, .worker = member->worker});
    for (unsigned seen = 0;; seen++) {
        wait_for_launch(pool, seen);
        if (pool->is_stopping) return NULL;
        execute_share(pool, member->index);
        if (atomic_fetch_sub(&pool->pending, 1) == 1 && atomic_load(&pool->is_caller_asleep)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

int edgec_pool_run(edgec_pool *pool, edgec_parallel_body body, void *closure, int num_task) {
    pool->body = body;
    pool->closure = closure;
    pool->num_task = num_task > 0 ? num_task : pool->threads;
    atomic_store(&pool->failure, 0);
    atomic_store(&pool->pending, pool->threads - 1);
    launch(pool);
    execute_share(pool, 0);
    wait_for_workers(pool);
    return atomic_load(&pool->failure);
}

static int pin(pthread_t thread, int cpu) {
    cpu_set_t sets[CPU_SETS];
    if (cpu < 0 || cpu >= CPU_SETS * CPU_SETSIZE) return EINVAL;
    memset(sets, 0, sizeof sets);
    CPU_SET_S((size_t)cpu, sizeof sets, sets);
    return pthread_setaffinity_np(thread, sizeof sets, sets);
}

static edgec_status pin_failed(int worker, int cpu, int error) {
    return edgec_fail(EDGEC_ERROR_THREADS, "cannot pin worker %d to CPU %d: %s", worker, cpu, strerror(error));
}

edgec_status edgec_pin_caller(int cpu) {
    /* Remembered per thread, so that only the first of many runs makes the system call. */
    static _Thread_local int pinned_cpu = -1;
    if (pinned_cpu == cpu) return EDGEC_OK;
    const int error = pin(pthread_self(), cpu);
    if (error != 0) return pin_failed(0, cpu, error);
    pinned_cpu = cpu;
    return EDGEC_OK;
}

int edgec_allowed_cpus(void) {
    cpu_set_t sets[CPU_SETS];
    memset(sets, 0, sizeof sets);
    if (sched_getaffinity(0, sizeof sets, sets) != 0) return 1;
    const int count = CPU_COUNT_S(sizeof sets, sets);
    return count < 1 ? 1 : count > EDGEC_MAX_THREADS ? EDGEC_MAX_THREADS : count;
}

static edgec_status start_workers(edgec_pool *pool, const int *cpus, edgec_worker *workers) {
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0) return edgec_fail(EDGEC_ERROR_THREADS, "cannot prepare worker threads: %s", strerror(error));
    /* The C libraries differ: 8 MiB or `ulimit -s` in glibc, 128 KiB in musl, too little for large register tiles. */
    (void)pthread_attr_setstacksize(&attributes, STACK_SIZE);
    edgec_status status = EDGEC_OK;
    for (int i = 1; i < pool->threads && status == EDGEC_OK; i++) {
        struct member *member = &pool->members[i];
        *member = (struct member){.pool = pool, .worker = &workers[i], .index = i};
        error = pthread_create(&member->thread, &attributes, worker_main, member);
        if (error != 0) {
            status = edgec_fail(EDGEC_ERROR_THREADS, "cannot create worker thread %d of %d: %s", i, pool->threads - 1,
                                strerror(error));
            break;
        }
        pool->created++;
        error = cpus == NULL ? 0 : pin(member->thread, cpus[i]);
        if (error != 0) status = pin_failed(i, cpus[i], error);
    }
    pthread_attr_destroy(&attributes);
    return status;
}

static int do_nothing(int task, edgec_parallel_env *env, void *closure) {
    (void)task, (void)env, (void)closure;
    return 0;
}

edgec_status edgec_pool_create(edgec_pool **out, int threads, const int *cpus, uint64_t spin_ns,
                               edgec_worker *workers) {
    *out = NULL;
    edgec_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    struct member *members = calloc((size_t)threads, sizeof *members);
    if (pool == NULL || members == NULL) {
        free(pool);
        free(members);
        return edgec_fail(EDGEC_ERROR_OUT_OF_MEMORY, "cannot allocate a pool of %d threads", threads);
    }
    memset(pool, 0, sizeof *pool);
    pool->threads = threads;
    pool->spin_ns = spin_ns;
    pool->members = members;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->launched, NULL);
    pthread_cond_init(&pool->finished, NULL);

    /* Signals are for the application's own threads: workers start with all of them blocked. */
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    const edgec_status status = start_workers(pool, cpus, workers);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (status != EDGEC_OK) {
        edgec_pool_destroy(pool);
        return status;
    }
    /* Waits until every worker is up, so that the first inference does not pay for it. */
    (void)edgec_pool_run(pool, do_nothing, NULL, 0);
    *out = pool;
    return EDGEC_OK;
}

void edgec_pool_destroy(edgec_pool *pool) {
    if (pool == NULL) return;
    pool->is_stopping = 1;
    launch(pool);
    for (int i = 1; i <= pool->created; i++) pthread_join(pool->members[i].thread, NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->launched);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->members);
    free(pool);
}
