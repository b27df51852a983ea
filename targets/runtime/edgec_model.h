/* edgec_model.h: what a generated model.c needs. Applications include edgec.h only. */
#ifndef EDGEC_MODEL_H
#define EDGEC_MODEL_H

#include "edgec.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Kernels come from TVM with default visibility. Declared through this they do not become exports of the shared
 * library: the linker takes the narrowest visibility it meets. */
#define EDGEC_KERNEL extern __attribute__((visibility("hidden"))) int32_t

/* One execution of a model. All pointers are aligned to EDGEC_ALIGNMENT. */
struct edgec_frame {
    unsigned char *arena;
    const unsigned char *params;
    const void *const *inputs;
    void *const *outputs;
    edgec_session *session;
    int profiling;
};

/* Runs a model elsewhere than on the CPU. `open` sets *state as soon as there is something to close, also when it fails
 * later; it must not keep `params`. `profiler` is NULL unless every kernel shall be timed. */
struct edgec_backend {
    edgec_status (*open)(const edgec_model *model, const unsigned char *params, void **state);
    edgec_status (*run)(void *state, const void *const *inputs, void *const *outputs, edgec_profiler profiler,
                        void *user);
    void *(*buffer)(void *state, int index); /* of an input, or of an output after the inputs */
    void (*close)(void *state);
};

#pragma GCC visibility push(hidden)
uint64_t edgec_step_begin(void);
void edgec_step_end(edgec_frame *frame, int index, uint64_t begin_ns);
int edgec_step_failed(edgec_frame *frame, int index, int32_t code);
#pragma GCC visibility pop

/* Calls kernel number `index` inside `static int run(edgec_frame *)`; leaves that function when the kernel fails. */
#define EDGEC_STEP(frame, index, call)                                                                                 \
    do {                                                                                                               \
        const uint64_t edgec_begin_ns = (frame)->profiling ? edgec_step_begin() : 0;                                   \
        const int32_t edgec_code = (call);                                                                             \
        if (edgec_code != 0) return edgec_step_failed((frame), (index), edgec_code);                                   \
        if ((frame)->profiling) edgec_step_end((frame), (index), edgec_begin_ns);                                      \
    } while (0)

/* Write `EDGEC_DEFAULT_MODEL(NAME);` after the definition of edgec_model_NAME. Static libraries are compiled with
 * -DEDGEC_STATIC_LIBRARY, so that two of them can meet in one program. */
#ifdef EDGEC_STATIC_LIBRARY
#define EDGEC_DEFAULT_MODEL(NAME) extern const edgec_model edgec_model_##NAME
#else
#define EDGEC_DEFAULT_MODEL(NAME)                                                                                      \
    const edgec_model *edgec_model_default(void) {                                                                     \
        return &edgec_model_##NAME;                                                                                    \
    }                                                                                                                  \
    extern const edgec_model edgec_model_##NAME
#endif

#ifdef __cplusplus
}
#endif

#endif
