/* Kernels of the model in runtime_model.c, written the way TVM's object files look: the pointers to the host are weak
 * definitions of their own, parallel loops go through a closure, symbols have default visibility. */
#include <stddef.h>
#include <stdint.h>

typedef struct {
    void *sync;
    int32_t num_task;
} ParallelEnv;
typedef int (*ParallelBody)(int task_id, ParallelEnv *env, void *closure);

__attribute__((weak)) int (*__TVMBackendParallelLaunch)(ParallelBody, void *, int);
__attribute__((weak)) void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
__attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void *);
extern void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char *const *parts, int32_t n);

int32_t fake_scale_add(const void *x, const void *bias, const void *y);
int32_t fake_count(const void *counts);
int32_t fake_reverse(const void *x, const void *y);
int32_t fake_obey(const void *mode, const void *y);

enum { SIZE = 1003, BYTES = 77, COUNTS = 16 };

static int is_misaligned(const void *p) {
    return (uintptr_t)p % 64 != 0;
}

static int range(int task_id, const ParallelEnv *env, int extent, int *end) {
    const int chunk = (extent + env->num_task - 1) / env->num_task;
    *end = (task_id + 1) * chunk < extent ? (task_id + 1) * chunk : extent;
    return task_id * chunk;
}

typedef struct {
    const float *x, *bias;
    float *y;
} ScaleAdd;

static int scale_add_body(int task_id, ParallelEnv *env, void *closure) {
    const ScaleAdd *c = closure;
    int end;
    for (int i = range(task_id, env, SIZE, &end); i < end; i++) c->y[i] = 2.0f * c->x[i] + c->bias[i];
    return 0;
}

/* y = 2 x + bias */
int32_t fake_scale_add(const void *x, const void *bias, const void *y) {
    ScaleAdd closure = {x, bias, (float *)(uintptr_t)y};
    if (is_misaligned(x) || is_misaligned(bias) || is_misaligned(y)) return -7;
    return __TVMBackendParallelLaunch(scale_add_body, &closure, 0);
}

static int inner_body(int task_id, ParallelEnv *env, void *closure) {
    int32_t *count = closure;
    if (task_id != 0 && env->num_task != 3) return -1;
    *count += env->num_task; /* serial, or this is a race */
    return 0;
}

static int outer_body(int task_id, ParallelEnv *env, void *closure) {
    int32_t *counts = closure;
    if (env->num_task != 11) return -1;
    counts[task_id] = task_id * 100;
    return __TVMBackendParallelLaunch(inner_body, &counts[task_id], 3);
}

static int task_body(int task_id, ParallelEnv *env, void *closure) {
    if (task_id == env->num_task - 1) ((int32_t *)closure)[15] = env->num_task;
    return 0;
}

/* counts[i < 11] = 100 i + 9, counts[15] = number of tasks the host chooses */
int32_t fake_count(const void *counts) {
    int32_t *data = (int32_t *)(uintptr_t)counts;
    for (int i = 0; i < COUNTS; i++) data[i] = -1;
    const int code = __TVMBackendParallelLaunch(outer_body, data, 11);
    return code != 0 ? code : __TVMBackendParallelLaunch(task_body, data, 0);
}

static int reverse_body(int task_id, ParallelEnv *env, void *closure) {
    const ScaleAdd *c = closure;
    int begin, end;
    begin = range(task_id, env, SIZE, &end);
    /* Two scratch blocks in each task: they must differ between the tasks and from each other. */
    float *first = __TVMBackendAllocWorkspace(1, 0, sizeof(float) * SIZE, 2, 32);
    float *second = __TVMBackendAllocWorkspace(1, 0, sizeof(float) * SIZE, 2, 32);
    if (first == NULL || second == NULL || is_misaligned(first) || is_misaligned(second)) return -1;
    for (int i = begin; i < end; i++) first[i] = c->x[SIZE - 1 - i];
    for (int i = begin; i < end; i++) second[i] = -1.0f;
    for (int i = begin; i < end; i++) c->y[i] = first[i];
    return __TVMBackendFreeWorkspace(1, 0, second) | __TVMBackendFreeWorkspace(1, 0, first);
}

/* y = x reversed */
int32_t fake_reverse(const void *x, const void *y) {
    ScaleAdd closure = {x, NULL, (float *)(uintptr_t)y};
    if (is_misaligned(x) || is_misaligned(y)) return -7;
    return __TVMBackendParallelLaunch(reverse_body, &closure, 0);
}

static int last_task_fails(int task_id, ParallelEnv *env, void *closure) {
    (void)closure;
    return task_id == env->num_task - 1 ? -3 : 0;
}

static int asks_too_much(int task_id, ParallelEnv *env, void *closure) {
    (void)closure;
    if (task_id != env->num_task - 1) return 0;
    /* The first block is leaked, as by generated code that gives up half way. */
    if (__TVMBackendAllocWorkspace(1, 0, 1000, 2, 32) == NULL) return -4;
    return __TVMBackendAllocWorkspace(1, 0, (uint64_t)1 << 61, 2, 32) == NULL ? -1 : 0;
}

/* mode 0: y[i] = i; 1: fails; 2: a task fails; 3: no memory; 4: fails with a message */
int32_t fake_obey(const void *mode, const void *y) {
    static const char *const parts[] = {"argument 0", "\nhas shape (2,)"};
    unsigned char *data = (unsigned char *)(uintptr_t)y;
    const int32_t value = *(const int32_t *)mode;
    if (value == 1) return -1;
    if (value == 2) return __TVMBackendParallelLaunch(last_task_fails, NULL, 0);
    if (value == 3) return __TVMBackendParallelLaunch(asks_too_much, NULL, 0);
    if (value == 4) {
        TVMFFIErrorSetRaisedFromCStrParts("ValueError", parts, 2);
        return -1;
    }
    for (int i = 0; i < BYTES; i++) data[i] = (unsigned char)i;
    return 0;
}
