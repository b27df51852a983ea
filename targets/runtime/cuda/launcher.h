/* launcher.h: what the files of the GPU back end share.
 *
 *     program.h      backend.c      open, run, close
 *       ├─ driver_api.h, driver.c   libcuda.so.1 and its errors
 *       ├─ modules.c                which code suits the device; modules and functions
 *       └─ launch.c                 one inference: plain, timed, or as a graph
 */
#ifndef EDGEC_CUDA_LAUNCHER_H
#define EDGEC_CUDA_LAUNCHER_H

#include "cuda/driver_api.h"
#include "cuda/program.h"
#include "internal.h"

typedef struct edgec_cuda {
    edgec_cuda_api api;
    const edgec_model *model;
    const edgec_cuda_program *program;
    const char *kernel; /* what the next call of the driver is about, for messages; or NULL */

    cu_device device;
    int architecture; /* compute capability: 87 is 8.7 */
    int is_integrated;
    cu_context context; /* the device's primary one, NULL until it is retained */
    cu_stream stream;
    cu_event begin, end;
    cu_module *modules; /* one per image, NULL where no kernel needs it */
    cu_function *functions;

    cu_pointer params, memory; /* memory: arena, inputs, outputs */
    unsigned char *staging;    /* inputs and outputs again, in page-locked host memory */
    cu_pointer mapped;         /* where the device sees these; 0: it does not */
    size_t *offsets;           /* of inputs, then outputs, in their block */
    size_t inputs_bytes, outputs_bytes;

    int is_zero_copy;     /* kernels work on the staging memory itself */
    cu_pointer *addresses; /* of the program's arguments */
    void **arguments;      /* pointers to these, as cuLaunchKernel wants them */
    cu_executable_graph graph; /* NULL: launch the kernels one by one */
} edgec_cuda;

#pragma GCC visibility push(hidden)

/* driver.c: opens libcuda.so.1 and the first device. */
edgec_status edgec_cuda_find_driver(edgec_cuda *cuda);
edgec_status edgec_cuda_find_device(edgec_cuda *cuda);
/* EDGEC_OK, or the failure of a driver call, told with its name, its reason and the kernel. */
edgec_status edgec_cuda_check(const edgec_cuda *cuda, cu_result result, const char *call);
#define EDGEC_CUDA_CALL(cuda, function, ...) edgec_cuda_check(cuda, (cuda)->api.function(__VA_ARGS__), #function)

/* modules.c */
edgec_status edgec_cuda_load_kernels(edgec_cuda *cuda);
void edgec_cuda_unload_kernels(edgec_cuda *cuda);

/* launch.c. The last two need inputs in the staging memory and leave outputs there. */
void edgec_cuda_resolve(edgec_cuda *cuda, int is_zero_copy);
edgec_status edgec_cuda_capture(edgec_cuda *cuda);
void edgec_cuda_drop_graph(edgec_cuda *cuda);
edgec_status edgec_cuda_infer(edgec_cuda *cuda);
edgec_status edgec_cuda_infer_timed(edgec_cuda *cuda, edgec_profiler profiler, void *user);

#pragma GCC visibility pop

#endif
