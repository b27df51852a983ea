/* kernel_host.c: the functions that TVM kernels call.
 *
 * A kernel calls its host through pointer variables which its own object file defines too, as weak symbols. The
 * definitions below are strong and initialized: the linker drops the weak ones, and nothing has to be set at start-up.
 * They carry no user data, so what belongs to the running session is found through the thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static _Thread_local edgec_context current;

edgec_context edgec_set_context(edgec_context context) {
    const edgec_context previous = current;
    current = context;
    return previous;
}

static int parallel_launch(edgec_parallel_body body, void *closure, int num_task) {
    edgec_pool *pool = current.pool;
    if (pool != NULL) {
        current.pool = NULL; /* this thread's share may contain another parallel loop */
        const int code = edgec_pool_run(pool, body, closure, num_task);
        current.pool = pool;
        return code;
    }
    edgec_parallel_env env = {NULL, num_task > 0 ? num_task : 1};
    int failure = 0;
    for (int task = 0; task < env.num_task; task++) {
        const int code = body(task, &env, closure);
        if (code != 0) failure = code;
    }
    return failure;
}

static void *allocate(uint64_t size) {
    if (size > SIZE_MAX - EDGEC_ALIGNMENT) return NULL;
    const size_t rounded = ((size_t)size + EDGEC_ALIGNMENT - 1) / EDGEC_ALIGNMENT * EDGEC_ALIGNMENT;
    return aligned_alloc(EDGEC_ALIGNMENT, rounded > 0 ? rounded : EDGEC_ALIGNMENT);
}

/* Workspaces stay with the worker: after its first run a kernel gets the same memory again without an allocation. */
static void *workspace_alloc(int device_type, int device_id, uint64_t size, int dtype_code, int dtype_bits) {
    (void)device_type, (void)device_id, (void)dtype_code, (void)dtype_bits;
    edgec_worker *worker = current.worker;
    int slot = -1;
    for (int i = 0; worker != NULL && i < EDGEC_WORKSPACES; i++) {
        if (worker->workspace[i].is_used) continue;
        if (slot < 0 || worker->workspace[i].size >= size) slot = i;
        if (worker->workspace[i].size >= size && worker->workspace[i].data != NULL) break;
    }
    if (slot < 0) return allocate(size);
    if (worker->workspace[slot].size < size || worker->workspace[slot].data == NULL) {
        free(worker->workspace[slot].data);
        worker->workspace[slot].data = allocate(size);
        worker->workspace[slot].size = worker->workspace[slot].data != NULL ? (size_t)size : 0;
    }
    if (worker->workspace[slot].data == NULL) {
        (void)snprintf(worker->note, sizeof worker->note, "no memory for a workspace of %llu bytes",
                       (unsigned long long)size);
        return NULL;
    }
    worker->workspace[slot].is_used = 1;
    return worker->workspace[slot].data;
}

static int workspace_free(int device_type, int device_id, void *data) {
    (void)device_type, (void)device_id;
    edgec_worker *worker = current.worker;
    for (int i = 0; worker != NULL && i < EDGEC_WORKSPACES; i++) {
        if (worker->workspace[i].data != data || !worker->workspace[i].is_used) continue;
        worker->workspace[i].is_used = 0;
        return 0;
    }
    free(data);
    return 0;
}

#pragma GCC visibility push(hidden)

extern int (*__TVMBackendParallelLaunch)(edgec_parallel_body body, void *closure, int num_task);
extern void *(*__TVMBackendAllocWorkspace)(int device_type, int device_id, uint64_t size, int dtype_code, int dtype_bits);
extern int (*__TVMBackendFreeWorkspace)(int device_type, int device_id, void *data);
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char *const *parts, int32_t num_parts);

int (*__TVMBackendParallelLaunch)(edgec_parallel_body body, void *closure, int num_task) = parallel_launch;
void *(*__TVMBackendAllocWorkspace)(int device_type, int device_id, uint64_t size, int dtype_code, int dtype_bits) =
    workspace_alloc;
int (*__TVMBackendFreeWorkspace)(int device_type, int device_id, void *data) = workspace_free;

/* Kernels that keep their argument checks report a violation here before they return -1. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char *const *parts, int32_t num_parts) {
    edgec_worker *worker = current.worker;
    if (worker == NULL) return;
    (void)snprintf(worker->note, sizeof worker->note, "%s: ", kind);
    for (int32_t i = 0; i < num_parts; i++) {
        const size_t length = strlen(worker->note);
        (void)snprintf(worker->note + length, sizeof worker->note - length, "%s", parts[i]);
    }
    for (char *c = worker->note; *c != '\0'; c++) {
        if (*c == '\n') *c = ' ';
    }
}

#pragma GCC visibility pop

void edgec_worker_reset(edgec_worker *worker) {
    /* A kernel that fails leaves its workspaces allocated. */
    for (int i = 0; i < EDGEC_WORKSPACES; i++) worker->workspace[i].is_used = 0;
    worker->note[0] = '\0';
}

void edgec_worker_free(edgec_worker *worker) {
    for (int i = 0; i < EDGEC_WORKSPACES; i++) free(worker->workspace[i].data);
}
