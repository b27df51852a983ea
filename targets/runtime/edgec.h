/* edgec.h: run a compiled model inside a C or C++ application.
 *
 *     edgec_session *session;
 *     edgec_options options = {.struct_size = sizeof options, .threads = 4, .params_path = "model.params"};
 *     if (edgec_create(edgec_model_default(), &options, &session) != EDGEC_OK) {
 *         fprintf(stderr, "%s\n", edgec_last_error());
 *         return 1;
 *     }
 *     const void *inputs[] = {image};
 *     void *outputs[] = {scores};
 *     edgec_run(session, inputs, outputs);
 *     edgec_destroy(session);
 *
 * Thread safety, unless a function says otherwise: functions may be called from any thread; different sessions are
 * independent; one session serves one call at a time.
 */
#ifndef EDGEC_H
#define EDGEC_H

#include <stddef.h>
#include <stdint.h>

#define EDGEC_API __attribute__((visibility("default")))

/* Layout of edgec_model and meaning of the runtime calls in generated code. A model and a runtime that differ in it
 * refuse each other in edgec_create. */
#define EDGEC_ABI_VERSION 3

/* Most threads a session can have. */
#define EDGEC_MAX_THREADS 256

/* Buffers aligned to this many bytes are used in place; others are copied. */
#define EDGEC_ALIGNMENT 64

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edgec_status {
    EDGEC_OK = 0,
    EDGEC_ERROR_INVALID_ARGUMENT = 1,
    EDGEC_ERROR_OUT_OF_MEMORY = 2,
    EDGEC_ERROR_PARAMS = 3,          /* parameters missing, of the wrong size, unreadable or corrupt */
    EDGEC_ERROR_UNSUPPORTED_CPU = 4, /* the model was compiled for instructions this CPU lacks */
    EDGEC_ERROR_KERNEL = 5,          /* a kernel reported failure; the outputs are undefined */
    EDGEC_ERROR_THREADS = 6,         /* a worker thread could not be created or pinned */
    EDGEC_ERROR_BUSY = 7,            /* the session is running in another thread */
    EDGEC_ERROR_NO_DRIVER = 8,       /* a GPU model where there is no GPU, or no driver for it */
    EDGEC_ERROR_ARCHITECTURE = 9,    /* the model has no code for this GPU */
    EDGEC_ERROR_DEVICE_MEMORY = 10,  /* the GPU has too little memory */
    EDGEC_ERROR_DEVICE = 11          /* another call of the GPU's driver failed; the message has its name and reason */
} edgec_status;

/* Element types; the numbers are those of ONNX TensorProto.DataType. */
typedef enum edgec_dtype {
    EDGEC_FLOAT32 = 1,
    EDGEC_UINT8 = 2,
    EDGEC_INT8 = 3,
    EDGEC_UINT16 = 4,
    EDGEC_INT16 = 5,
    EDGEC_INT32 = 6,
    EDGEC_INT64 = 7,
    EDGEC_BOOL = 9,
    EDGEC_FLOAT16 = 10,
    EDGEC_FLOAT64 = 11,
    EDGEC_UINT32 = 12,
    EDGEC_UINT64 = 13,
    EDGEC_BFLOAT16 = 16
} edgec_dtype;

typedef struct edgec_tensor_info {
    const char *name;
    edgec_dtype dtype;
    int ndim;
    const int64_t *shape; /* ndim extents, row-major; may be NULL when ndim is 0 */
    size_t size_bytes;
} edgec_tensor_info;

typedef struct edgec_session edgec_session;
typedef struct edgec_frame edgec_frame; /* internal: what a generated model works on, see edgec_model.h */
typedef struct edgec_backend edgec_backend; /* internal too: what runs a model that is not for the CPU */

/* A compiled model: constant data in the program or library it was linked into. Read it, never change it. */
typedef struct edgec_model {
    uint32_t abi_version; /* EDGEC_ABI_VERSION it was generated for; check before reading anything else */
    const char *name;
    int num_inputs;
    const edgec_tensor_info *inputs;
    int num_outputs;
    const edgec_tensor_info *outputs;
    size_t arena_size_bytes;   /* working memory one session allocates, on the device that runs the model */
    size_t params_size_bytes;  /* 0: the model has no parameters */
    const char *params_sha256; /* 64 lower-case hexadecimal digits, or NULL: unknown */
    int num_kernels;
    const char *const *kernel_names;
    int (*run)(edgec_frame *frame);           /* NULL where there is a backend */
    const char *const *cpu_features_required; /* NULL-terminated; NULL: none */
    const edgec_backend *backend;             /* NULL: the CPU */
    const void *program;                      /* what the backend runs */
    const struct edgec_model *fallback;       /* the same for the CPU, where the backend finds no device; may be NULL */
} edgec_model;

/* Zero is a sensible value for every member but struct_size. */
typedef struct edgec_options {
    uint32_t struct_size; /* sizeof(edgec_options): lets old programs meet new libraries and the reverse */

    /* Threads that share a kernel's work, the caller of edgec_run included. 0: num_cpus when CPUs are given, else the
     * number of CPUs this process may use (sched_getaffinity). 1: no thread is created. */
    int threads;

    /* Pin worker i to CPU cpus[i]; NULL: the scheduler decides. At least `threads` entries. Read by edgec_create only.
     * Worker 0 is the thread that calls edgec_run: it is pinned only when pin_caller is set, by its first edgec_run,
     * and stays so afterwards (threads it creates later inherit that). */
    const int *cpus;
    int num_cpus;
    int pin_caller;

    /* Idle workers poll for this many microseconds before they sleep: it saves the wake-up between two kernels and
     * costs power after a run. 0: default (200), or none when there are more threads than CPUs. Negative: none. */
    int spin_us;

    /* Non-zero: compare the parameters with the model's SHA-256 in edgec_create (about 3 ms per MiB on a small core). */
    int verify_params;

    /* Where the parameters are; at most one of the two. Neither: those linked into the program.
     * params: aligned to EDGEC_ALIGNMENT, owned by the caller, unchanged until edgec_destroy.
     * params_path: mapped read-only, shared between processes. Replace such a file by renaming another one onto it: a
     * file truncated while it is mapped ends the process with SIGBUS. */
    const void *params;
    size_t params_size;
    const char *params_path;
} edgec_options;

/* The model of a shared library or runner executable. Static libraries have none, as a program may link several:
 * name the model there, `extern const edgec_model edgec_model_NAME;`. */
EDGEC_API const edgec_model *edgec_model_default(void);

/* Makes a session: checks the CPU, allocates all memory, opens the parameters, starts the workers.
 * options: may be NULL for the defaults. *session: owned by the caller, who passes it to edgec_destroy; NULL on failure.
 * The model must outlive the session.
 * Where there is no GPU that a GPU model can run on, the session is one of its fallback, if it has one:
 * edgec_session_model then differs from the model, and edgec_last_error says why. */
EDGEC_API edgec_status edgec_create(const edgec_model *model, const edgec_options *options, edgec_session **session);

/* Runs the model once, in this thread and the session's workers; returns when the outputs are written.
 * inputs, outputs: one pointer per tensor, in the model's order, each to size_bytes bytes owned by the caller. They may
 * have any alignment: those not aligned to EDGEC_ALIGNMENT are copied through buffers of the session. Outputs must
 * overlap neither each other nor an input. Allocates nothing, except that a kernel which asks for scratch memory gets
 * it on its first run, and the session keeps it. A GPU model copies all that are not edgec_input_buffer or
 * edgec_output_buffer, and has one thread: the caller's.
 * A second call on a session that is still running fails with EDGEC_ERROR_BUSY and disturbs nothing. After
 * EDGEC_ERROR_KERNEL the outputs are undefined and the session stays usable. */
EDGEC_API edgec_status edgec_run(edgec_session *session, const void *const *inputs, void *const *outputs);

/* Memory of the session for one input or output, aligned to EDGEC_ALIGNMENT, until edgec_destroy; NULL where there is no
 * such tensor. Passed to edgec_run, nothing is copied to or from it by the CPU: on a GPU it is page-locked, and on a
 * Jetson the kernels may work on it in place, so let a camera or decoder write here. Calls of edgec_run with other
 * pointers overwrite it. */
EDGEC_API void *edgec_input_buffer(edgec_session *session, int index);
EDGEC_API void *edgec_output_buffer(edgec_session *session, int index);

/* Ends the workers and frees the session. NULL is allowed. The session must not be running, and must be destroyed before
 * the shared library that made it is closed. */
EDGEC_API void edgec_destroy(edgec_session *session);

/* Called in the thread of edgec_run after each kernel, with the kernel's wall time, on a GPU the time it measured. It
 * must not call the session. */
typedef void (*edgec_profiler)(void *user, int kernel_index, const char *kernel_name, uint64_t nanoseconds);

/* Sets the function to call after each kernel; NULL ends profiling. `user` is handed through. Costs two clock readings
 * per kernel while set. */
EDGEC_API edgec_status edgec_set_profiler(edgec_session *session, edgec_profiler profiler, void *user);

/* The model that a session runs: the one it was made for, or that one's fallback. */
EDGEC_API const edgec_model *edgec_session_model(const edgec_session *session);

/* Number of threads of a session, the caller included. */
EDGEC_API int edgec_num_threads(const edgec_session *session);

/* Asks every worker on which CPU it is now. cpus: room for edgec_num_threads() entries, in worker order; -1: unknown. */
EDGEC_API edgec_status edgec_worker_cpus(edgec_session *session, int *cpus);

/* What failed last in the calling thread, in one line. Never NULL; valid until this thread's next failing edgec call. */
EDGEC_API const char *edgec_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
