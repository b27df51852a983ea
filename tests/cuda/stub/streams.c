/* streams.c: copies, kernels, streams, events and graphs of the stub driver. Work is done when it is given. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "calls.h"

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
