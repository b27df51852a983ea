/* session.c: create, run and destroy one instance of a model. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

enum { DEFAULT_SPIN_US = 200, HUGE_PAGE = 2 << 20 };

struct edgec_session {
    const edgec_model *model;
    edgec_params params;
    void *device; /* of the model's backend, which has all memory of its own: then there is none of the following */
    unsigned char *arena;
    /* Aligned copies of tensors that the application has at an odd address: all inputs, then all outputs. */
    unsigned char *staging;
    const void **inputs;
    void **outputs;
    edgec_pool *pool; /* NULL with one thread */
    edgec_worker *workers;
    int threads;
    int caller_cpu; /* -1: leave the calling thread where it is */
    edgec_profiler profiler;
    void *profiler_user;
    atomic_flag is_busy;
};

static size_t round_up(size_t size) {
    return (size + EDGEC_ALIGNMENT - 1) / EDGEC_ALIGNMENT * EDGEC_ALIGNMENT;
}

static edgec_status check_model(const edgec_model *model) {
    if (model == NULL) return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "model is NULL");
    if (model->abi_version != EDGEC_ABI_VERSION) {
        return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT,
                          "model was generated for runtime ABI %u, this runtime has ABI %u; generate it again",
                          model->abi_version, (unsigned)EDGEC_ABI_VERSION);
    }
    return EDGEC_OK;
}

static edgec_status resolve_threads(edgec_options *options) {
    if (options->threads < 0 || options->threads > EDGEC_MAX_THREADS) {
        return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "options.threads is %d; it must be 0 to %d", options->threads,
                          EDGEC_MAX_THREADS);
    }
    if ((options->cpus == NULL) != (options->num_cpus == 0) || options->num_cpus < 0) {
        return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "options.cpus and options.num_cpus (%d) disagree",
                          options->num_cpus);
    }
    if (options->threads == 0) {
        options->threads = options->cpus == NULL ? edgec_allowed_cpus()
                           : options->num_cpus < EDGEC_MAX_THREADS ? options->num_cpus : EDGEC_MAX_THREADS;
    }
    if (options->cpus != NULL && options->num_cpus < options->threads) {
        return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "options.cpus lists %d CPUs for %d threads", options->num_cpus,
                          options->threads);
    }
    return EDGEC_OK;
}

/* Copies what the caller's version of the structure has, and refuses settings that this library does not know. */
static edgec_status read_options(edgec_options *options, const edgec_options *given) {
    *options = (edgec_options){.struct_size = sizeof *options};
    if (given != NULL) {
        const size_t size = given->struct_size;
        if (size < sizeof *options) {
            return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT,
                              "options.struct_size is %zu; set it to sizeof(edgec_options), %zu", size, sizeof *options);
        }
        for (size_t i = sizeof *options; i < size; i++) {
            if (((const unsigned char *)given)[i] == 0) continue;
            return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "options has settings of a newer version than this library");
        }
        memcpy(options, given, sizeof *options);
    }
    return resolve_threads(options);
}

/* Zero-filled, so that the first run is not the one that pays for the page faults. */
static unsigned char *allocate_arena(size_t size) {
    const size_t alignment = size >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : EDGEC_ALIGNMENT;
    if (size > SIZE_MAX - alignment) return NULL;
    const size_t rounded = (size + alignment) / alignment * alignment; /* at least one unit, also for size 0 */
    unsigned char *arena = aligned_alloc(alignment, rounded);
    if (arena == NULL) return NULL;
    if (alignment == HUGE_PAGE) (void)madvise(arena, rounded, MADV_HUGEPAGE);
    memset(arena, 0, rounded);
    return arena;
}

static edgec_status allocate_memory(edgec_session *session) {
    const edgec_model *model = session->model;
    size_t staging = EDGEC_ALIGNMENT;
    for (int i = 0; i < model->num_inputs; i++) staging += round_up(model->inputs[i].size_bytes);
    for (int i = 0; i < model->num_outputs; i++) staging += round_up(model->outputs[i].size_bytes);

    session->arena = allocate_arena(model->arena_size_bytes);
    session->staging = aligned_alloc(EDGEC_ALIGNMENT, staging);
    session->inputs = calloc((size_t)model->num_inputs + 1, sizeof *session->inputs);
    session->outputs = calloc((size_t)model->num_outputs + 1, sizeof *session->outputs);
    session->workers = calloc((size_t)session->threads, sizeof *session->workers);
    if (session->arena != NULL && session->staging != NULL && session->inputs != NULL && session->outputs != NULL &&
        session->workers != NULL) {
        return EDGEC_OK;
    }
    return edgec_fail(EDGEC_ERROR_OUT_OF_MEMORY, "model '%s': cannot allocate an arena of %zu and buffers of %zu bytes",
                      model->name, model->arena_size_bytes, staging);
}

static edgec_status start(edgec_session *session, const edgec_options *options) {
    const edgec_backend *backend = session->model->backend;
    edgec_status status = backend == NULL ? allocate_memory(session) : EDGEC_OK;
    if (status != EDGEC_OK) return status;
    status = edgec_params_open(&session->params, session->model, options);
    if (status == EDGEC_OK && backend != NULL) {
        status = backend->open(session->model, session->params.data, &session->device);
        edgec_params_close(&session->params);
    }
    if (status != EDGEC_OK || session->threads == 1) return status;

    /* Polling steals time from the work itself when the threads have to share CPUs. */
    const int default_spin_us = session->threads > edgec_allowed_cpus() ? 0 : DEFAULT_SPIN_US;
    const int spin_us = options->spin_us == 0 ? default_spin_us : options->spin_us < 0 ? 0 : options->spin_us;
    return edgec_pool_create(&session->pool, session->threads, options->cpus, (uint64_t)spin_us * 1000, session->workers);
}

static edgec_status create(const edgec_model *model, const edgec_options *options, edgec_session **out) {
    edgec_status status = edgec_cpu_check(model);
    if (status != EDGEC_OK) return status;
    edgec_session *session = calloc(1, sizeof *session);
    if (session == NULL) return edgec_fail(EDGEC_ERROR_OUT_OF_MEMORY, "cannot allocate a session");
    session->model = model;
    session->threads = model->backend == NULL ? options->threads : 1;
    session->caller_cpu = options->cpus != NULL && options->pin_caller ? options->cpus[0] : -1;
    atomic_flag_clear(&session->is_busy);
    status = start(session, options);
    if (status != EDGEC_OK) {
        edgec_destroy(session);
        return status;
    }
    *out = session;
    return EDGEC_OK;
}

edgec_status edgec_create(const edgec_model *model, const edgec_options *given, edgec_session **out) {
    edgec_options options;
    if (out == NULL) return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "session is NULL");
    *out = NULL;
    edgec_status status = check_model(model);
    if (status == EDGEC_OK) status = read_options(&options, given);
    if (status != EDGEC_OK) return status;
    status = create(model, &options, out);
    const int has_no_device =
        status == EDGEC_ERROR_NO_DRIVER || status == EDGEC_ERROR_ARCHITECTURE || status == EDGEC_ERROR_DEVICE_MEMORY;
    return has_no_device && model->fallback != NULL ? create(model->fallback, &options, out) : status;
}

const edgec_model *edgec_session_model(const edgec_session *session) {
    return session->model;
}

void edgec_destroy(edgec_session *session) {
    if (session == NULL) return;
    if (session->model->backend != NULL) session->model->backend->close(session->device);
    edgec_pool_destroy(session->pool);
    edgec_params_close(&session->params);
    for (int i = 0; session->workers != NULL && i < session->threads; i++) edgec_worker_free(&session->workers[i]);
    free(session->workers);
    free(session->outputs);
    free(session->inputs);
    free(session->staging);
    free(session->arena);
    free(session);
}

static int is_aligned(const void *pointer) {
    return (uintptr_t)pointer % EDGEC_ALIGNMENT == 0;
}

static edgec_status check_pointers(const char *what, int count, const edgec_tensor_info *tensors,
                                   const void *const *pointers) {
    if (count > 0 && pointers == NULL) return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "%ss is NULL", what);
    for (int i = 0; i < count; i++) {
        if (pointers[i] == NULL && tensors[i].size_bytes > 0) {
            return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "%s %d ('%s') is NULL", what, i, tensors[i].name);
        }
    }
    return EDGEC_OK;
}

/* Sets session->inputs and ->outputs: the caller's buffers where they are aligned, staging buffers elsewhere. */
static void stage_inputs(edgec_session *session, const void *const *inputs, void *const *outputs) {
    const edgec_model *model = session->model;
    unsigned char *next = session->staging;
    for (int i = 0; i < model->num_inputs; i++) {
        const size_t size = model->inputs[i].size_bytes;
        session->inputs[i] = inputs[i];
        if (size > 0 && !is_aligned(inputs[i])) session->inputs[i] = memcpy(next, inputs[i], size);
        next += round_up(size);
    }
    for (int i = 0; i < model->num_outputs; i++) {
        session->outputs[i] = is_aligned(outputs[i]) ? outputs[i] : next;
        next += round_up(model->outputs[i].size_bytes);
    }
}

static void unstage_outputs(const edgec_session *session, void *const *outputs) {
    for (int i = 0; i < session->model->num_outputs; i++) {
        const size_t size = session->model->outputs[i].size_bytes;
        if (size > 0 && session->outputs[i] != outputs[i]) memcpy(outputs[i], session->outputs[i], size);
    }
}

static edgec_status execute(edgec_session *session) {
    for (int i = 0; i < session->threads; i++) edgec_worker_reset(&session->workers[i]);
    edgec_frame frame = {
        .arena = session->arena,
        .params = session->params.data,
        .inputs = session->inputs,
        .outputs = session->outputs,
        .session = session,
        .profiling = session->profiler != NULL,
    };
    const edgec_context previous =
        edgec_set_context((edgec_context){.pool = session->pool, .worker = &session->workers[0]});
    const int status = session->model->run(&frame);
    edgec_set_context(previous);
    return (edgec_status)status;
}

/* One call at a time: taken by every function that uses the session's buffers or workers. */
static edgec_status enter(edgec_session *session) {
    if (session == NULL) return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "session is NULL");
    if (atomic_flag_test_and_set_explicit(&session->is_busy, memory_order_acquire)) {
        return edgec_fail(EDGEC_ERROR_BUSY, "session of model '%s' is in use by another thread; create one per thread",
                          session->model->name);
    }
    return EDGEC_OK;
}

static void leave(edgec_session *session) {
    atomic_flag_clear_explicit(&session->is_busy, memory_order_release);
}

edgec_status edgec_run(edgec_session *session, const void *const *inputs, void *const *outputs) {
    edgec_status status = enter(session);
    if (status != EDGEC_OK) return status;
    const edgec_model *model = session->model;
    status = check_pointers("input", model->num_inputs, model->inputs, inputs);
    if (status == EDGEC_OK) {
        status = check_pointers("output", model->num_outputs, model->outputs, (const void *const *)outputs);
    }
    if (status == EDGEC_OK && session->caller_cpu >= 0) status = edgec_pin_caller(session->caller_cpu);
    if (status == EDGEC_OK && model->backend != NULL) {
        status = model->backend->run(session->device, inputs, outputs, session->profiler, session->profiler_user);
    } else if (status == EDGEC_OK) {
        stage_inputs(session, inputs, outputs);
        status = execute(session);
        if (status == EDGEC_OK) unstage_outputs(session, outputs);
    }
    leave(session);
    return status;
}

/* Index: of an input, or of an output after the inputs. */
static void *buffer(edgec_session *session, int index) {
    const edgec_model *model = session->model;
    if (model->backend != NULL) return model->backend->buffer(session->device, index);
    unsigned char *at = session->staging;
    for (int i = 0; i < index; i++) {
        const int is_input = i < model->num_inputs;
        at += round_up(is_input ? model->inputs[i].size_bytes : model->outputs[i - model->num_inputs].size_bytes);
    }
    return at;
}

void *edgec_input_buffer(edgec_session *session, int index) {
    const int is_there = session != NULL && index >= 0 && index < session->model->num_inputs;
    return is_there ? buffer(session, index) : NULL;
}

void *edgec_output_buffer(edgec_session *session, int index) {
    const int is_there = session != NULL && index >= 0 && index < session->model->num_outputs;
    return is_there ? buffer(session, session->model->num_inputs + index) : NULL;
}

edgec_status edgec_set_profiler(edgec_session *session, edgec_profiler profiler, void *user) {
    const edgec_status status = enter(session);
    if (status != EDGEC_OK) return status;
    session->profiler = profiler;
    session->profiler_user = user;
    leave(session);
    return EDGEC_OK;
}

int edgec_num_threads(const edgec_session *session) {
    return session == NULL ? 0 : session->threads;
}

static int observe_cpu(int task, edgec_parallel_env *env, void *cpus) {
    (void)env;
    ((int *)cpus)[task] = sched_getcpu();
    return 0;
}

edgec_status edgec_worker_cpus(edgec_session *session, int *cpus) {
    if (cpus == NULL) return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "cpus is NULL");
    const edgec_status status = enter(session);
    if (status != EDGEC_OK) return status;
    if (session->pool != NULL) {
        (void)edgec_pool_run(session->pool, observe_cpu, cpus, 0);
    } else {
        cpus[0] = sched_getcpu();
    }
    leave(session);
    return EDGEC_OK;
}

uint64_t edgec_step_begin(void) {
    return edgec_now_ns();
}

void edgec_step_end(edgec_frame *frame, int index, uint64_t begin_ns) {
    const edgec_session *session = frame->session;
    const uint64_t elapsed_ns = edgec_now_ns() - begin_ns;
    session->profiler(session->profiler_user, index, session->model->kernel_names[index], elapsed_ns);
}

int edgec_step_failed(edgec_frame *frame, int index, int32_t code) {
    const edgec_session *session = frame->session;
    const char *note = "";
    for (int i = 0; i < session->threads && *note == '\0'; i++) note = session->workers[i].note;
    return (int)edgec_fail(EDGEC_ERROR_KERNEL, "model '%s': kernel %d ('%s') failed with code %d%s%s",
                           session->model->name, index, session->model->kernel_names[index], (int)code,
                           *note != '\0' ? ": " : "", note);
}
