/* objects.c: what is alive in the stub driver, its log, and what its environment asks for. */
#define _GNU_SOURCE
#include "objects.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const kind_names[KINDS] = {"memory", "host",     "stream", "event",
                                              "module", "function", "graph",  "executable"};
static struct object objects[MAX_OBJECTS];
static int num_objects, num_violations;
static int counts[KINDS];
static FILE *log_file;
size_t used_bytes;
int retained;

long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtol(text, NULL, 10) : otherwise;
}

void note(const char *format, ...) {
    va_list arguments;
    if (log_file == NULL) {
        const char *path = getenv("EDGEC_STUB_LOG");
        if (path == NULL || (log_file = fopen(path, "a")) == NULL) return;
        setvbuf(log_file, NULL, _IOLBF, 0); /* complete also when the process crashes */
    }
    va_start(arguments, format);
    (void)vfprintf(log_file, format, arguments);
    va_end(arguments);
}

int violation(const char *text) {
    note("VIOLATION %s ", text);
    num_violations++;
    return INVALID_VALUE;
}

int injected(const char *name) {
    static char wanted[64];
    static long number = -1, code, seen;
    if (number < 0) {
        const char *text = getenv("EDGEC_STUB_FAIL");
        if (text == NULL || sscanf(text, "%63[^:]:%ld=%ld", wanted, &number, &code) != 3) number = 0;
    }
    if (number == 0 || strcmp(name, wanted) != 0) return 0;
    return ++seen == number ? (int)code : 0;
}

struct object *create(enum kind kind) {
    if (num_objects == MAX_OBJECTS) abort();
    struct object *object = &objects[num_objects++];
    *object = (struct object){.kind = kind, .number = ++counts[kind], .is_alive = 1};
    return object;
}

int is_live(const void *handle, enum kind kind) {
    const struct object *object = handle;
    return object >= objects && object < objects + num_objects && object->is_alive && object->kind == kind;
}

int number_of(const void *handle, enum kind kind) {
    return is_live(handle, kind) ? ((const struct object *)handle)->number : -1;
}

void unload_functions(const struct object *module) {
    for (int i = 0; i < num_objects; i++) {
        if (objects[i].module == module) objects[i].is_alive = 0;
    }
}

static uint64_t address_of(const struct object *object) {
    return (uint64_t)(uintptr_t)object->data;
}

static const struct object *find(uint64_t address, size_t size, int on_device) {
    for (int i = 0; i < num_objects; i++) {
        const struct object *object = &objects[i];
        if (!object->is_alive || object->kind > HOST) continue;
        const uint64_t offset = address - address_of(object);
        if (offset >= object->size || size > object->size - offset) continue;
        if (!on_device || object->kind == MEMORY || object->is_mapped) return object;
    }
    return NULL;
}

int is_range(uint64_t address, size_t size, int on_device) {
    return find(address, size, on_device) != NULL;
}

const char *name_of(uint64_t address) {
    static char texts[2][48]; /* two in one line of the log */
    static int next;
    char *text = texts[next++ % 2];
    const struct object *object = find(address, 1, 0);
    if (object == NULL) {
        (void)snprintf(text, sizeof texts[0], "pageable");
    } else {
        (void)snprintf(text, sizeof texts[0], "%c%d+%llu", object->kind == MEMORY ? 'd' : 'h', object->number,
                       (unsigned long long)(address - address_of(object)));
    }
    return text;
}

size_t memory_bytes(void) {
    return (size_t)setting("EDGEC_STUB_MEMORY", 1L << 30);
}

struct object *allocate(enum kind kind, size_t size) {
    const size_t rounded = (size + 255) / 256 * 256;
    struct object *object = create(kind);
    object->size = size;
    object->data = aligned_alloc(256, rounded);
    if (object->data == NULL) abort();
    memset(object->data, 0xee, rounded); /* what nobody wrote must not pass for zero */
    if (kind == MEMORY) used_bytes += size;
    return object;
}

int release_memory(uint64_t address, enum kind kind) {
    struct object *object = (struct object *)(uintptr_t)find(address, 1, 0);
    if (object == NULL || object->kind != kind || address_of(object) != address) return violation("not an allocation");
    if (kind == MEMORY) used_bytes -= object->size;
    object->is_alive = 0;
    free(object->data);
    return 0;
}

struct object *find_host(const void *address) {
    const struct object *object = find((uint64_t)(uintptr_t)address, 1, 0);
    return object != NULL && object->kind == HOST ? (struct object *)(uintptr_t)object : NULL;
}

void record(struct object *graph, const struct node *node) {
    if (graph->num_nodes % 64 == 0) {
        graph->nodes = realloc(graph->nodes, ((size_t)graph->num_nodes + 64) * sizeof *graph->nodes);
        if (graph->nodes == NULL) abort();
    }
    graph->nodes[graph->num_nodes++] = *node;
}

void execute(const struct node *node) {
    static void *library;
    char symbol[300];
    void *arguments[MAX_ARGUMENTS];
    const char *path = getenv("EDGEC_STUB_KERNELS");
    if (node->function == NULL) {
        if (setting("EDGEC_STUB_SLOW_COPIES", 0)) (void)usleep(1000);
        memmove(node->target, node->source, node->size);
        return;
    }
    if (path == NULL) return;
    if (library == NULL) library = dlopen(path, RTLD_NOW);
    (void)snprintf(symbol, sizeof symbol, "%s_emulated", node->function->name);
    void *address = library != NULL ? dlsym(library, symbol) : NULL;
    if (address == NULL) {
        (void)violation(dlerror());
        return;
    }
    const char *(*emulated)(const unsigned *grid, const unsigned *block, unsigned shared_bytes, void **arguments);
    memcpy(&emulated, &address, sizeof address);
    for (int i = 0; i < node->function->num_arguments; i++) arguments[i] = (void *)(uintptr_t)&node->arguments[i];
    const char *error = emulated(node->grid, node->block, node->shared_bytes, arguments);
    if (error != NULL) (void)violation(error);
}

__attribute__((destructor)) static void report(void) {
    int leaks = retained != 0;
    if (retained != 0) note("LEAK context %d\n", retained);
    for (int i = 0; i < num_objects; i++) {
        free(objects[i].nodes);
        if (!objects[i].is_alive || objects[i].kind == FUNCTION) continue; /* functions live as long as their module */
        note("LEAK %s %d\n", kind_names[objects[i].kind], objects[i].number);
        leaks++;
        if (objects[i].kind <= HOST) free(objects[i].data);
    }
    note("exit leaks=%d violations=%d\n", leaks, num_violations);
    if (log_file != NULL) (void)fclose(log_file);
}
