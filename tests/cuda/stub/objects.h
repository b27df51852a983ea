/* objects.h: what is alive in the stub driver, its log, and what its environment asks for. */
#ifndef STUB_OBJECTS_H
#define STUB_OBJECTS_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Results, as cuda.h numbers them. */
enum {
    INVALID_VALUE = 1,
    NO_MEMORY = 2,
    NO_BINARY = 209,
    INVALID_PTX = 218,
    NOT_FOUND = 500,
    CAPTURE_INVALIDATED = 901
};
enum { MAX_OBJECTS = 4096, MAX_ARGUMENTS = 64 };

enum kind { MEMORY, HOST, STREAM, EVENT, MODULE, FUNCTION, GRAPH, EXECUTABLE, KINDS };

/* A kernel call or copy. */
struct node {
    struct object *function; /* NULL: a copy */
    void *target;
    const void *source;
    size_t size;
    unsigned grid[3], block[3], shared_bytes;
    uint64_t arguments[MAX_ARGUMENTS];
};

struct object {
    enum kind kind;
    int number, is_alive;
    unsigned char *data; /* of memory */
    size_t size;
    int is_mapped;
    const void *image;     /* of a module */
    struct object *module; /* of a function */
    char name[256];
    int num_arguments;
    unsigned max_dynamic;
    struct timespec time;   /* of an event */
    struct object *capture; /* of a stream: the graph that is being recorded */
    struct node *nodes;     /* of a graph */
    int num_nodes;
};

struct object *create(enum kind kind);
int is_live(const void *handle, enum kind kind);
int number_of(const void *handle, enum kind kind); /* -1: it does not live */
void unload_functions(const struct object *module);

struct object *allocate(enum kind kind, size_t size);
int release_memory(uint64_t address, enum kind kind);
struct object *find_host(const void *address);
int is_range(uint64_t address, size_t size, int on_device);
size_t memory_bytes(void);
extern size_t used_bytes;

void record(struct object *graph, const struct node *node);
void execute(const struct node *node);

long setting(const char *name, long otherwise);
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
int violation(const char *text);
/* "d1+128": byte 128 of the first allocation. */
const char *name_of(uint64_t address);
/* The result that the environment asks for this call, or 0. */
int injected(const char *name);

extern int retained; /* how often the primary context is */

#endif
