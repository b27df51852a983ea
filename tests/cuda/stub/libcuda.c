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
 * allocation) fails, and is logged as VIOLATION. What is alive at the end is logged as LEAK. Calls that
 * release something do so even when they fail: the real ones then repeat an older kernel's error.
 *
 * How many arguments a kernel has is read from its image, which is an ELF file or the text of PTX. For tests text counts
 * as machine code of its .target too. With -DSTUB_CUDA_10 the library has what the driver of CUDA 10.2 has.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "image.h"

enum { MAX_DEPTH = 16 };
static char the_context;
static _Thread_local void *contexts[MAX_DEPTH];
_Thread_local int depth;
int is_initialized;

int finish(int result) {
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
