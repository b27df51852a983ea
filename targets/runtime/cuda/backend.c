/* backend.c: a model on an NVIDIA GPU: memory, and the way inputs and outputs take. */
#include <stdlib.h>
#include <string.h>

#include "cuda/launcher.h"

enum { TRIAL_RUNS = 5 };

static size_t round_up(size_t size) {
    return (size + EDGEC_CUDA_ALIGNMENT - 1) / EDGEC_CUDA_ALIGNMENT * EDGEC_CUDA_ALIGNMENT;
}

static size_t place_tensors(const edgec_tensor_info *tensors, int count, size_t *offsets, size_t start) {
    for (int i = 0; i < count; i++) {
        offsets[i] = start;
        start += round_up(tensors[i].size_bytes);
    }
    return start;
}

static edgec_status allocate_tables(edgec_cuda *cuda) {
    const edgec_model *model = cuda->model;
    const edgec_cuda_program *program = cuda->program;
    /* One more of each than needed: calloc may give NULL for none, and the first offset is read also of none. */
    cuda->modules = calloc((size_t)program->num_images + 1, sizeof *cuda->modules);
    cuda->functions = calloc((size_t)program->num_kernels + 1, sizeof *cuda->functions);
    cuda->addresses = calloc((size_t)program->num_arguments + 1, sizeof *cuda->addresses);
    cuda->arguments = calloc((size_t)program->num_arguments + 1, sizeof *cuda->arguments);
    cuda->offsets = calloc((size_t)model->num_inputs + (size_t)model->num_outputs + 1, sizeof *cuda->offsets);
    if (cuda->modules == NULL || cuda->functions == NULL || cuda->addresses == NULL || cuda->arguments == NULL ||
        cuda->offsets == NULL) {
        return edgec_fail(EDGEC_ERROR_OUT_OF_MEMORY, "model '%s': no memory for the tables of %d kernels", model->name,
                          program->num_kernels);
    }
    cuda->inputs_bytes = place_tensors(model->inputs, model->num_inputs, cuda->offsets, 0);
    size_t *outputs = cuda->offsets + model->num_inputs;
    cuda->outputs_bytes =
        place_tensors(model->outputs, model->num_outputs, outputs, cuda->inputs_bytes) - cuda->inputs_bytes;
    return EDGEC_OK;
}

static edgec_status too_large(const edgec_cuda *cuda, size_t needed, size_t free_bytes, size_t total) {
    return edgec_fail(EDGEC_ERROR_DEVICE_MEMORY,
                      "model '%s' needs %zu bytes of the GPU's memory, of which %zu of %zu bytes are free; end other "
                      "programs, or take a smaller model or batch", cuda->model->name, needed, free_bytes, total);
}

static edgec_status allocate_memory(edgec_cuda *cuda) {
    const size_t params = cuda->program->params_bytes, tensors = cuda->inputs_bytes + cuda->outputs_bytes;
    const size_t work = round_up(cuda->model->arena_size_bytes) + tensors;
    const size_t needed = params + work + (cuda->is_integrated ? tensors : 0);
    size_t free_bytes = 0, total = 0;
    edgec_status status = EDGEC_CUDA_CALL(cuda, cuMemGetInfo, &free_bytes, &total);
    if (status != EDGEC_OK) return status;
    /* What is free says less: on Tegra the operating system's caches count as used, and would give way. */
    if (needed > total) return too_large(cuda, needed, free_bytes, total);
    if (params > 0) status = EDGEC_CUDA_CALL(cuda, cuMemAlloc, &cuda->params, params);
    if (status == EDGEC_OK && work > 0) status = EDGEC_CUDA_CALL(cuda, cuMemAlloc, &cuda->memory, work);
    if (status == EDGEC_ERROR_DEVICE_MEMORY && needed > free_bytes) return too_large(cuda, needed, free_bytes, total);
    if (status != EDGEC_OK || tensors == 0) return status;

    void *staging = NULL;
    status = EDGEC_CUDA_CALL(cuda, cuMemHostAlloc, &staging, tensors, cuda->is_integrated ? CU_HOST_ALLOC_DEVICE_MAP : 0);
    if (status != EDGEC_OK) return status;
    cuda->staging = memset(staging, 0, tensors); /* the trial runs read it */
    int can_map = 0;
    if (cuda->is_integrated) {
        status = EDGEC_CUDA_CALL(cuda, cuDeviceGetAttribute, &can_map, CU_DEVICE_CAN_MAP_HOST_MEMORY, cuda->device);
    }
    if (status != EDGEC_OK || !can_map) return status;
    return EDGEC_CUDA_CALL(cuda, cuMemHostGetDevicePointer, &cuda->mapped, staging, 0);
}

static edgec_status upload_params(edgec_cuda *cuda, const unsigned char *params) {
    const size_t size = cuda->program->params_bytes;
    if (size == 0) return EDGEC_OK;
    const edgec_status status = EDGEC_CUDA_CALL(cuda, cuMemcpyHtoDAsync, cuda->params, params, size, cuda->stream);
    return status != EDGEC_OK ? status : EDGEC_CUDA_CALL(cuda, cuStreamSynchronize, cuda->stream);
}

static edgec_status run_once(edgec_cuda *cuda, const void *const *inputs, void *const *outputs, edgec_profiler profiler,
                             void *user) {
    const edgec_model *model = cuda->model;
    for (int i = 0; i < model->num_inputs; i++) {
        const size_t size = model->inputs[i].size_bytes;
        unsigned char *own = cuda->staging + cuda->offsets[i];
        if (size > 0 && inputs[i] != own) memcpy(own, inputs[i], size);
    }
    const edgec_status status =
        profiler == NULL ? edgec_cuda_infer(cuda) : edgec_cuda_infer_timed(cuda, profiler, user);
    for (int i = 0; i < model->num_outputs && status == EDGEC_OK; i++) {
        const size_t size = model->outputs[i].size_bytes;
        const unsigned char *own = cuda->staging + cuda->offsets[model->num_inputs + i];
        if (size > 0 && outputs[i] != own) memcpy(outputs[i], own, size);
    }
    return status;
}

static edgec_status prepare(edgec_cuda *cuda, int is_zero_copy) {
    edgec_cuda_drop_graph(cuda);
    edgec_cuda_resolve(cuda, is_zero_copy);
    return edgec_cuda_capture(cuda);
}

/* Best time of a few inferences, with the copies that the host makes: on older boards the CPU does not cache
 * page-locked memory, and what the GPU saves can be lost there. */
static edgec_status try_out(edgec_cuda *cuda, int is_zero_copy, const void *const *inputs, void *const *outputs,
                            uint64_t *best_ns) {
    edgec_status status = prepare(cuda, is_zero_copy);
    *best_ns = UINT64_MAX;
    for (int i = 0; i <= TRIAL_RUNS && status == EDGEC_OK; i++) {
        const uint64_t begin = edgec_now_ns();
        status = run_once(cuda, inputs, outputs, NULL, NULL);
        const uint64_t elapsed = edgec_now_ns() - begin;
        if (i > 0 && elapsed < *best_ns) *best_ns = elapsed; /* the first one warms up */
    }
    return status;
}

/* Where CPU and GPU share their memory, kernels may as well work on the host's buffers: takes what is faster. */
static edgec_status choose_way(edgec_cuda *cuda) {
    const int num_inputs = cuda->model->num_inputs, num_tensors = num_inputs + cuda->model->num_outputs;
    unsigned char *room = calloc(cuda->inputs_bytes + cuda->outputs_bytes, 1);
    void **tensors = calloc((size_t)num_tensors, sizeof *tensors);
    uint64_t mapped_ns = 0, copied_ns = 0;
    edgec_status status = EDGEC_OK;
    if (room == NULL || tensors == NULL) {
        status = edgec_fail(EDGEC_ERROR_OUT_OF_MEMORY, "model '%s': no memory to try it out", cuda->model->name);
    }
    for (int i = 0; i < num_tensors && status == EDGEC_OK; i++) tensors[i] = room + cuda->offsets[i];
    const void *const *inputs = (const void *const *)tensors;
    if (status == EDGEC_OK) status = try_out(cuda, 1, inputs, tensors + num_inputs, &mapped_ns);
    if (status == EDGEC_OK) status = try_out(cuda, 0, inputs, tensors + num_inputs, &copied_ns);
    if (status == EDGEC_OK && mapped_ns < copied_ns) status = prepare(cuda, 1);
    free(tensors);
    free(room);
    return status;
}

static edgec_status enter(edgec_cuda *cuda) {
    return EDGEC_CUDA_CALL(cuda, cuCtxPushCurrent, cuda->context);
}

/* The application's own context is current again. */
static void leave(edgec_cuda *cuda) {
    cu_context ours;
    (void)cuda->api.cuCtxPopCurrent(&ours);
}

static edgec_status set_up(edgec_cuda *cuda, const unsigned char *params) {
    edgec_status status = EDGEC_CUDA_CALL(cuda, cuStreamCreate, &cuda->stream, CU_STREAM_NON_BLOCKING);
    if (status == EDGEC_OK) status = EDGEC_CUDA_CALL(cuda, cuEventCreate, &cuda->begin, 0);
    if (status == EDGEC_OK) status = EDGEC_CUDA_CALL(cuda, cuEventCreate, &cuda->end, 0);
    if (status == EDGEC_OK) status = edgec_cuda_load_kernels(cuda);
    if (status == EDGEC_OK) status = allocate_memory(cuda);
    if (status == EDGEC_OK) status = upload_params(cuda, params);
    if (status != EDGEC_OK) return status;
    return cuda->mapped != 0 ? choose_way(cuda) : prepare(cuda, 0);
}

static edgec_status open_device(const edgec_model *model, const unsigned char *params, void **state) {
    edgec_cuda *cuda = calloc(1, sizeof *cuda);
    *state = cuda;
    if (cuda == NULL) return edgec_fail(EDGEC_ERROR_OUT_OF_MEMORY, "cannot allocate the state of a GPU");
    cuda->model = model;
    cuda->program = model->program;
    edgec_status status = allocate_tables(cuda);
    if (status == EDGEC_OK) status = edgec_cuda_find_driver(cuda);
    if (status == EDGEC_OK) status = edgec_cuda_find_device(cuda);
    if (status != EDGEC_OK) return status;
    cu_context context = NULL;
    status = EDGEC_CUDA_CALL(cuda, cuDevicePrimaryCtxRetain, &context, cuda->device);
    if (status != EDGEC_OK) return status;
    cuda->context = context;
    status = enter(cuda);
    if (status != EDGEC_OK) return status;
    status = set_up(cuda, params);
    leave(cuda);
    return status;
}

static edgec_status run(void *state, const void *const *inputs, void *const *outputs, edgec_profiler profiler,
                        void *user) {
    edgec_cuda *cuda = state;
    edgec_status status = enter(cuda);
    if (status != EDGEC_OK) return status;
    status = run_once(cuda, inputs, outputs, profiler, user);
    leave(cuda);
    return status;
}

static void *buffer(void *state, int index) {
    const edgec_cuda *cuda = state;
    return cuda->staging + cuda->offsets[index];
}

/* The results of these calls say nothing new: they repeat an error of an earlier kernel, if anything. */
static void release_device(edgec_cuda *cuda) {
    const edgec_cuda_api *api = &cuda->api;
    const int is_current = api->cuCtxPushCurrent(cuda->context) == CU_SUCCESS;
    edgec_cuda_drop_graph(cuda);
    if (cuda->staging != NULL) (void)api->cuMemFreeHost(cuda->staging);
    if (cuda->memory != 0) (void)api->cuMemFree(cuda->memory);
    if (cuda->params != 0) (void)api->cuMemFree(cuda->params);
    edgec_cuda_unload_kernels(cuda);
    if (cuda->end != NULL) (void)api->cuEventDestroy(cuda->end);
    if (cuda->begin != NULL) (void)api->cuEventDestroy(cuda->begin);
    if (cuda->stream != NULL) (void)api->cuStreamDestroy(cuda->stream);
    if (is_current) leave(cuda);
    (void)api->cuDevicePrimaryCtxRelease(cuda->device);
}

static void close_device(void *state) {
    edgec_cuda *cuda = state;
    if (cuda == NULL) return;
    if (cuda->context != NULL) release_device(cuda);
    free(cuda->offsets);
    free(cuda->arguments);
    free(cuda->addresses);
    free(cuda->functions);
    free(cuda->modules);
    free(cuda);
}

const edgec_backend edgec_cuda_backend = {open_device, run, buffer, close_device};
