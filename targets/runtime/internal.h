/* internal.h: what the files of the runtime share. Nothing in here is exported from a shared library.
 *
 *     edgec.h        session.c      create, run, destroy
 *       ├─ error.c                  message of the last failure, per thread
 *       ├─ cpu.c                    does this CPU have the instructions the model uses
 *       ├─ params.c, sha256.c       where the parameters come from
 *       ├─ threads.c                pool of workers
 *       ├─ kernel_host.c            the functions that TVM kernels call
 *       └─ cuda/                    backend of models for NVIDIA GPUs, linked into these only
 */
#ifndef EDGEC_INTERNAL_H
#define EDGEC_INTERNAL_H

#include "edgec_model.h"

#pragma GCC visibility push(hidden)

/* error.c: records the message and returns `status`, so that a failure is one return statement. */
edgec_status edgec_fail(edgec_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* cpu.c: EDGEC_OK, or EDGEC_ERROR_UNSUPPORTED_CPU with the first missing feature named. */
edgec_status edgec_cpu_check(const edgec_model *model);

/* sha256.c: 64 hexadecimal digits and a terminator. */
void edgec_sha256(const void *data, size_t size, char hex[65]);

/* params.c: `mapped_size` is 0 unless edgec_params_close has something to unmap. */
typedef struct edgec_params {
    const unsigned char *data;
    size_t mapped_size;
} edgec_params;
edgec_status edgec_params_open(edgec_params *params, const edgec_model *model, const edgec_options *options);
void edgec_params_close(edgec_params *params);

/* kernel_host.c: what one thread needs while it executes kernels. Owned by the session, one per thread. */
enum { EDGEC_WORKSPACES = 8 };
typedef struct edgec_worker {
    struct {
        void *data;
        size_t size;
        int is_used;
    } workspace[EDGEC_WORKSPACES];
    char note[160]; /* what went wrong in a kernel, when it said so */
} edgec_worker;
void edgec_worker_reset(edgec_worker *worker);
void edgec_worker_free(edgec_worker *worker);

/* threads.c. Layout fixed by TVM: it is the second argument of the body of a parallel loop. */
typedef struct edgec_parallel_env {
    void *sync;
    int32_t num_task;
} edgec_parallel_env;
typedef int (*edgec_parallel_body)(int task, edgec_parallel_env *env, void *closure);

typedef struct edgec_pool edgec_pool;
/* workers: `threads` contexts, the first being the caller's. spin_ns: how long to poll before sleeping. */
edgec_status edgec_pool_create(edgec_pool **pool, int threads, const int *cpus, uint64_t spin_ns, edgec_worker *workers);
void edgec_pool_destroy(edgec_pool *pool);
/* Runs body(task, env, closure) for task 0 .. num_task - 1 and waits; 0, or the code of a task that failed. One caller
 * at a time. */
int edgec_pool_run(edgec_pool *pool, edgec_parallel_body body, void *closure, int num_task);
int edgec_allowed_cpus(void);
edgec_status edgec_pin_caller(int cpu);
uint64_t edgec_now_ns(void);

/* kernel_host.c: the parallel loops of kernels called by this thread use this pool; NULL: they run serially. */
typedef struct edgec_context {
    edgec_pool *pool;
    edgec_worker *worker;
} edgec_context;
/* Returns the previous one, to be restored. */
edgec_context edgec_set_context(edgec_context context);

#pragma GCC visibility pop

#endif
