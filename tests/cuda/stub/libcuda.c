/* libcuda.c: a CUDA driver without a GPU, for tests of the launcher. "Device" memory is host memory.
 *
 * Environment:
 *   EDGEC_STUB_LOG         file that every call is appended to: name, arguments, result
 *   EDGEC_STUB_CAPABILITY  compute capability, 87 by default
 *   EDGEC_STUB_INTEGRATED  1: CPU and GPU share their memory
 *   EDGEC_STUB_MEMORY      bytes of device memory, 1 GiB by default
 *   EDGEC_STUB_FAIL        NAME:N=CODE: the Nth call of NAME (as exported, from 1) gives CODE
 *   EDGEC_STUB_KERNELS     shared library with `const char *SYMBOL_emulated(const unsigned grid[3], const unsigned
 *                          block[3], unsigned shared_bytes, void **arguments)` per kernel, which computes what the kernel
 *                          SYMBOL would, or says what is wrong; arguments are those of cuLaunchKernel. Without it nothing
 *                          is computed.
 *   EDGEC_STUB_SLOW_COPIES 1: a copy between host and device takes a millisecond
 *
 * A call that the driver's documentation forbids (a handle that does not live, no context, a range outside of any
 * allocation) fails, and is logged as VIOLATION. What is alive at the end is logged as `exit LEAKS ...`. Calls that
 * release something do so even when they fail: the real ones then repeat an older kernel's error.
 *
 * How many arguments a kernel has is read from its image, which is an ELF file or the text of PTX. For tests text counts
 * as machine code of its .target too. With -DSTUB_CUDA_10 the library has what the driver of CUDA 10.2 has.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "objects.h"

#define EXPORT __attribute__((visibility("default")))

enum { MAX_DEPTH = 16 };
static char the_context;
static _Thread_local void *contexts[MAX_DEPTH];
static _Thread_local int depth;
static int is_initialized;

/* A call: logs it, and gives the injected result, if any. */
#define BEGIN(...)                                                                                                     \
    const char *const call = __func__;                                                                                 \
    note("%s ", call), note(__VA_ARGS__), note(" ");                                                                   \
    const int wanted = injected(call);                                                                                 \
    (void)wanted
#define END(result) return finish(result)
#define FAIL_IF_WANTED()                                                                                               \
    if (wanted != 0) END(wanted)
#define NEED(condition, text)                                                                                          \
    if (!(condition)) END(violation(text))
#define NEED_CONTEXT() NEED(is_initialized && depth > 0 && retained > 0, "no current context")

static int finish(int result) {
    note("-> %d\n", result);
    return result;
}

EXPORT int cuInit(unsigned flags) {
    BEGIN("flags=%u", flags);
    FAIL_IF_WANTED();
    is_initialized = 1;
    END(0);
}

static const struct {
    int code;
    const char *name;
} errors[] = {
    {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"},
    {201, "CUDA_ERROR_INVALID_CONTEXT"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {218, "CUDA_ERROR_INVALID_PTX"},
    {400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {719, "CUDA_ERROR_LAUNCH_FAILED"}, {800, "CUDA_ERROR_NOT_PERMITTED"}, {801, "CUDA_ERROR_NOT_SUPPORTED"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}, {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
};

/* Neither is logged: they may be called at any time, and say nothing of the launcher. */
EXPORT int cuGetErrorName(int code, const char **name) {
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].code == code) {
            *name = errors[i].name;
            return 0;
        }
    }
    *name = NULL;
    return INVALID_VALUE;
}

EXPORT int cuGetErrorString(int code, const char **text) {
    *text = "said the stub";
    (void)code;
    return 0;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
    BEGIN("ordinal=%d", ordinal);
    FAIL_IF_WANTED();
    NEED(is_initialized, "cuInit was not called");
    *device = ordinal;
    END(0);
}

EXPORT int cuDeviceGetName(char *name, int size, int device) {
    BEGIN("device=%d", device);
    FAIL_IF_WANTED();
    (void)snprintf(name, (size_t)size, "Stub GPU");
    END(0);
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    BEGIN("attribute=%d device=%d", attribute, device);
    FAIL_IF_WANTED();
    const long capability = setting("EDGEC_STUB_CAPABILITY", 87);
    switch (attribute) {
    case 18: case 19: *value = (int)setting("EDGEC_STUB_INTEGRATED", 0); break;
    case 75: *value = (int)(capability / 10); break;
    case 76: *value = (int)(capability % 10); break;
    default: END(violation("attribute that the stub does not know"));
    }
    END(0);
}

EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    BEGIN("device=%d", device);
    FAIL_IF_WANTED();
    *context = &the_context;
    retained++;
    END(0);
}

#ifdef STUB_CUDA_10
EXPORT int cuDevicePrimaryCtxRelease(int device) {
#else
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
#endif
    BEGIN("device=%d", device);
    NEED(retained > 0, "context released too often");
    retained--;
    END(wanted);
}

EXPORT int cuCtxPushCurrent_v2(void *context) {
    BEGIN("context=%d", context == &the_context);
    FAIL_IF_WANTED();
    NEED(context == &the_context && retained > 0 && depth < MAX_DEPTH, "not a context");
    contexts[depth++] = context;
    END(0);
}

EXPORT int cuCtxPopCurrent_v2(void **context) {
    BEGIN("depth=%d", depth);
    NEED(depth > 0, "no context to pop");
    *context = contexts[--depth];
    END(wanted);
}

EXPORT int cuModuleLoadDataEx(void **module, const void *image, unsigned num_options, int *options, void **values) {
    const int target = image_target(image);
    const long capability = setting("EDGEC_STUB_CAPABILITY", 87);
    BEGIN("image=%s%d", image_is_text(image) ? "text_" : "sm_", target);
    NEED_CONTEXT();
    char *buffer = NULL;
    size_t size = 0;
    for (unsigned i = 0; i < num_options; i++) {
        if (options[i] == 5) buffer = values[i];
        if (options[i] == 6) size = (size_t)(uintptr_t)values[i];
    }
    if (wanted == INVALID_PTX && buffer != NULL) {
        (void)snprintf(buffer, size, "ptxas application ptx input, line 3; error\n: the stub wanted it");
    }
    FAIL_IF_WANTED();
    if (target < 0) END(INVALID_PTX);
    if (target > capability) END(NO_BINARY);
    struct object *o = create(MODULE);
    o->image = image;
    *module = o;
    END(0);
}

EXPORT int cuModuleUnload(void *module) {
    BEGIN("module=%d", number_of(module, MODULE));
    NEED_CONTEXT();
    NEED(is_live(module, MODULE), "not a module");
    unload_functions(module);
    ((struct object *)module)->is_alive = 0;
    END(wanted);
}

EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
    BEGIN("module=%d name=%s", number_of(module, MODULE), name);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(module, MODULE), "not a module");
    const int count = image_arguments(((struct object *)module)->image, name);
    if (count < 0) END(NOT_FOUND);
    NEED(count <= MAX_ARGUMENTS, "more arguments than the stub has room for");
    struct object *o = create(FUNCTION);
    o->module = module;
    o->num_arguments = count;
    o->max_dynamic = 48 << 10;
    (void)snprintf(o->name, sizeof o->name, "%s", name);
    *function = o;
    END(0);
}

EXPORT int cuFuncSetAttribute(void *function, int attribute, int value) {
    BEGIN("function=%s attribute=%d value=%d", is_live(function, FUNCTION) ? ((struct object *)function)->name : "?",
          attribute, value);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(function, FUNCTION) && attribute == 8 && value >= 0, "not a function, or not its shared memory");
    ((struct object *)function)->max_dynamic = (unsigned)value;
    END(0);
}

EXPORT int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    BEGIN("%s", "");
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    *total = memory_bytes();
    *free_bytes = *total - used_bytes;
    END(0);
}

EXPORT int cuMemAlloc_v2(uint64_t *pointer, size_t size) {
    BEGIN("bytes=%zu", size);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(size > 0, "an allocation of nothing");
    if (size > memory_bytes() - used_bytes) END(NO_MEMORY);
    *pointer = (uint64_t)(uintptr_t)allocate(MEMORY, size)->data;
    END(0);
}

EXPORT int cuMemFree_v2(uint64_t pointer) {
    BEGIN("%s", name_of(pointer));
    NEED_CONTEXT();
    const int result = release_memory(pointer, MEMORY);
    END(result != 0 ? result : wanted);
}

EXPORT int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    BEGIN("bytes=%zu flags=%u", size, flags);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(size > 0, "an allocation of nothing");
    *pointer = allocate(HOST, size)->data;
    END(0);
}

EXPORT int cuMemHostGetDevicePointer_v2(uint64_t *device, void *host, unsigned flags) {
    BEGIN("%s flags=%u", name_of((uint64_t)(uintptr_t)host), flags);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    struct object *o = find_host(host);
    NEED(o != NULL && o->data == host, "not page-locked memory");
    o->is_mapped = 1;
    *device = (uint64_t)(uintptr_t)host;
    END(0);
}

EXPORT int cuMemFreeHost(void *pointer) {
    BEGIN("%s", name_of((uint64_t)(uintptr_t)pointer));
    NEED_CONTEXT();
    const int result = release_memory((uint64_t)(uintptr_t)pointer, HOST);
    END(result != 0 ? result : wanted);
}

/* Does it, or records it where the stream is in capture. */
static void enqueue(struct object *stream, const struct node *node) {
    if (stream->capture != NULL) {
        record(stream->capture, node);
    } else {
        execute(node);
    }
}

static int copy(uint64_t target, int to_device, uint64_t source, int from_device, size_t size, void *stream, int wanted) {
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(stream, STREAM), "not a stream");
    struct object *s = stream;
    NEED(!to_device || is_range(target, size, 1), "copy to outside of any allocation");
    NEED(!from_device || is_range(source, size, 1), "copy from outside of any allocation");
    NEED(s->capture == NULL || (is_range(target, size, 0) && is_range(source, size, 0)), "copy of pageable memory in a graph");
    struct node node = {.target = (void *)(uintptr_t)target, .source = (void *)(uintptr_t)source, .size = size};
    enqueue(s, &node);
    END(0);
}

EXPORT int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, void *stream) {
    BEGIN("%s %s bytes=%zu", name_of(target), name_of((uint64_t)(uintptr_t)source), size);
    return copy(target, 1, (uint64_t)(uintptr_t)source, 0, size, stream, wanted);
}

EXPORT int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t size, void *stream) {
    BEGIN("%s %s bytes=%zu", name_of((uint64_t)(uintptr_t)target), name_of(source), size);
    return copy((uint64_t)(uintptr_t)target, 0, source, 1, size, stream, wanted);
}

EXPORT int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t size, void *stream) {
    BEGIN("%s %s bytes=%zu", name_of(target), name_of(source), size);
    return copy(target, 1, source, 1, size, stream, wanted);
}

EXPORT int cuStreamCreate(void **stream, unsigned flags) {
    BEGIN("flags=%u", flags);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    *stream = create(STREAM);
    END(0);
}

EXPORT int cuStreamSynchronize(void *stream) {
    BEGIN("%s", "");
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(stream, STREAM), "not a stream");
    if (((struct object *)stream)->capture != NULL) END(CAPTURE_INVALIDATED);
    END(0);
}

static int destroy(void *handle, enum kind kind, int wanted) {
    NEED_CONTEXT();
    NEED(is_live(handle, kind), "not alive");
    struct object *o = handle;
    NEED(kind != STREAM || o->capture == NULL, "stream destroyed in capture");
    o->is_alive = 0;
    END(wanted);
}

EXPORT int cuStreamDestroy_v2(void *stream) {
    BEGIN("%s", "");
    return destroy(stream, STREAM, wanted);
}

EXPORT int cuEventCreate(void **event, unsigned flags) {
    BEGIN("flags=%u", flags);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    *event = create(EVENT);
    END(0);
}

EXPORT int cuEventRecord(void *event, void *stream) {
    BEGIN("event=%d", number_of(event, EVENT));
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(event, EVENT) && is_live(stream, STREAM), "not an event or stream");
    (void)clock_gettime(CLOCK_MONOTONIC, &((struct object *)event)->time);
    END(0);
}

EXPORT int cuEventSynchronize(void *event) {
    BEGIN("event=%d", number_of(event, EVENT));
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(event, EVENT), "not an event");
    END(0);
}

EXPORT int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    BEGIN("%s", "");
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(start, EVENT) && is_live(end, EVENT), "not an event");
    const struct timespec a = ((struct object *)start)->time, b = ((struct object *)end)->time;
    *milliseconds = (float)((double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6);
    END(0);
}

EXPORT int cuEventDestroy_v2(void *event) {
    BEGIN("event=%d", number_of(event, EVENT));
    return destroy(event, EVENT, wanted);
}

EXPORT int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared_bytes, void *stream, void **arguments, void **extra) {
    const int is_function = is_live(function, FUNCTION);
    struct object *f = function;
    BEGIN("%s grid=%u,%u,%u block=%u,%u,%u shared=%u", is_function ? f->name : "?", gx, gy, gz, bx, by, bz, shared_bytes);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_function && is_live(stream, STREAM) && extra == NULL, "not a function or stream");
    NEED(gx * gy * gz > 0 && bx * by * bz > 0, "an empty grid or block");
    NEED(bx <= 1024 && by <= 1024 && bz <= 64 && bx * by * bz <= 1024 && gy <= 65535 && gz <= 65535, "too large a grid or block");
    NEED(shared_bytes <= f->max_dynamic, "more dynamic shared memory than was asked for");
    struct node node = {.function = f, .grid = {gx, gy, gz}, .block = {bx, by, bz}, .shared_bytes = shared_bytes};
    note("arguments=");
    for (int i = 0; i < f->num_arguments; i++) {
        memcpy(&node.arguments[i], arguments[i], sizeof node.arguments[i]);
        note("%s%s", i > 0 ? "," : "", name_of(node.arguments[i]));
        NEED(is_range(node.arguments[i], 1, 1), "argument outside of any allocation");
    }
    note(" ");
    enqueue(stream, &node);
    END(0);
}

EXPORT int cuStreamBeginCapture_v2(void *stream, int mode) {
    BEGIN("mode=%d", mode);
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(stream, STREAM) && ((struct object *)stream)->capture == NULL, "not a stream, or in capture already");
    ((struct object *)stream)->capture = create(GRAPH);
    ((struct object *)stream)->capture->is_alive = 0; /* until it is given to the caller */
    END(0);
}

EXPORT int cuStreamEndCapture(void *stream, void **graph) {
    BEGIN("%s", "");
    NEED_CONTEXT();
    NEED(is_live(stream, STREAM) && ((struct object *)stream)->capture != NULL, "not in capture");
    struct object *o = ((struct object *)stream)->capture;
    ((struct object *)stream)->capture = NULL;
    *graph = NULL;
    FAIL_IF_WANTED();
    o->is_alive = 1;
    *graph = o;
    END(0);
}

static int instantiate(void **executable, void *graph, int wanted) {
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(graph, GRAPH), "not a graph");
    const struct object *g = graph;
    struct object *o = create(EXECUTABLE);
    o->nodes = malloc(((size_t)g->num_nodes + 1) * sizeof *o->nodes);
    if (o->nodes == NULL) abort();
    memcpy(o->nodes, g->nodes, (size_t)g->num_nodes * sizeof *o->nodes);
    o->num_nodes = g->num_nodes;
    *executable = o;
    END(0);
}

#ifdef STUB_CUDA_10
EXPORT int cuGraphInstantiate(void **executable, void *graph, void **error_node, char *buffer, size_t size) {
    BEGIN("log=%d", buffer != NULL && error_node != NULL && size > 0);
    return instantiate(executable, graph, wanted);
}
#else
EXPORT int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    BEGIN("flags=%llu", flags);
    return instantiate(executable, graph, wanted);
}
#endif

EXPORT int cuGraphLaunch(void *executable, void *stream) {
    BEGIN("%s", "");
    NEED_CONTEXT();
    FAIL_IF_WANTED();
    NEED(is_live(executable, EXECUTABLE) && is_live(stream, STREAM), "not an executable graph or stream");
    const struct object *o = executable;
    note("nodes=%d ", o->num_nodes);
    for (int i = 0; i < o->num_nodes; i++) {
        struct node *node = &o->nodes[i];
        NEED(node->function == NULL || node->function->is_alive, "a graph with a kernel that was unloaded");
        execute(node);
    }
    END(0);
}

EXPORT int cuGraphExecDestroy(void *executable) {
    BEGIN("%s", "");
    return destroy(executable, EXECUTABLE, wanted);
}

EXPORT int cuGraphDestroy(void *graph) {
    BEGIN("%s", "");
    return destroy(graph, GRAPH, wanted);
}
