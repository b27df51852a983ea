/* launch.c: one inference on the device. */
#include <stdlib.h>

#include "cuda/launcher.h"

static cu_pointer address_of(const edgec_cuda *cuda, const edgec_cuda_argument *argument) {
    const size_t arena = cuda->model->arena_size_bytes;
    const size_t io = (arena + EDGEC_CUDA_ALIGNMENT - 1) / EDGEC_CUDA_ALIGNMENT * EDGEC_CUDA_ALIGNMENT;
    const cu_pointer tensors = cuda->is_zero_copy ? cuda->mapped : cuda->memory + io;
    switch (argument->place) {
    case EDGEC_CUDA_INPUT: return tensors + cuda->offsets[argument->index] + argument->offset;
    case EDGEC_CUDA_OUTPUT:
        return tensors + cuda->offsets[cuda->model->num_inputs + argument->index] + argument->offset;
    case EDGEC_CUDA_PARAMS: return cuda->params + argument->offset;
    case EDGEC_CUDA_ARENA: break;
    }
    return cuda->memory + argument->offset;
}

void edgec_cuda_resolve(edgec_cuda *cuda, int is_zero_copy) {
    cuda->is_zero_copy = is_zero_copy;
    for (int i = 0; i < cuda->program->num_arguments; i++) {
        cuda->addresses[i] = address_of(cuda, &cuda->program->arguments[i]);
        cuda->arguments[i] = &cuda->addresses[i];
    }
}

static edgec_status launch_step(edgec_cuda *cuda, int index) {
    const edgec_cuda_step *step = &cuda->program->steps[index];
    const cu_pointer *at = &cuda->addresses[step->first_argument];
    cuda->kernel = cuda->model->kernel_names[index];
    if (step->kernel < 0) return EDGEC_CUDA_CALL(cuda, cuMemcpyDtoDAsync, at[1], at[0], step->copy_bytes, cuda->stream);
    const edgec_cuda_kernel *kernel = &cuda->program->kernels[step->kernel];
    return EDGEC_CUDA_CALL(cuda, cuLaunchKernel, cuda->functions[step->kernel], kernel->grid[0], kernel->grid[1],
                           kernel->grid[2], kernel->block[0], kernel->block[1], kernel->block[2],
                           kernel->dynamic_shared_bytes, cuda->stream, &cuda->arguments[step->first_argument], NULL);
}

static edgec_status upload(edgec_cuda *cuda) {
    const edgec_cuda_argument first = {EDGEC_CUDA_INPUT, 0, 0};
    if (cuda->is_zero_copy || cuda->inputs_bytes == 0) return EDGEC_OK;
    return EDGEC_CUDA_CALL(cuda, cuMemcpyHtoDAsync, address_of(cuda, &first), cuda->staging, cuda->inputs_bytes,
                           cuda->stream);
}

static edgec_status download(edgec_cuda *cuda) {
    const edgec_cuda_argument first = {EDGEC_CUDA_OUTPUT, 0, 0};
    if (cuda->is_zero_copy || cuda->outputs_bytes == 0) return EDGEC_OK;
    return EDGEC_CUDA_CALL(cuda, cuMemcpyDtoHAsync, cuda->staging + cuda->inputs_bytes, address_of(cuda, &first),
                           cuda->outputs_bytes, cuda->stream);
}

static edgec_status enqueue(edgec_cuda *cuda) {
    edgec_status status = upload(cuda);
    for (int i = 0; i < cuda->model->num_kernels && status == EDGEC_OK; i++) status = launch_step(cuda, i);
    cuda->kernel = NULL;
    return status == EDGEC_OK ? download(cuda) : status;
}

static int has_graphs(const edgec_cuda_api *api) {
    return api->cuStreamBeginCapture != NULL && api->cuStreamEndCapture != NULL && api->cuGraphLaunch != NULL &&
           api->cuGraphDestroy != NULL && api->cuGraphExecDestroy != NULL &&
           (api->cuGraphInstantiateWithFlags != NULL || api->cuGraphInstantiate_v2 != NULL ||
            api->cuGraphInstantiate != NULL);
}

static edgec_status instantiate(edgec_cuda *cuda, cu_graph graph) {
    edgec_cuda_api *api = &cuda->api;
    if (api->cuGraphInstantiateWithFlags != NULL) {
        return EDGEC_CUDA_CALL(cuda, cuGraphInstantiateWithFlags, &cuda->graph, graph, 0);
    }
    if (api->cuGraphInstantiate_v2 == NULL) api->cuGraphInstantiate_v2 = api->cuGraphInstantiate;
    return EDGEC_CUDA_CALL(cuda, cuGraphInstantiate_v2, &cuda->graph, graph, NULL, NULL, 0);
}

edgec_status edgec_cuda_capture(edgec_cuda *cuda) {
    cu_graph graph = NULL;
    if (!has_graphs(&cuda->api)) return EDGEC_OK;
    const cu_result begun = cuda->api.cuStreamBeginCapture(cuda->stream, CU_STREAM_CAPTURE_THREAD_LOCAL);
    if (begun == CU_ERROR_NOT_SUPPORTED || begun == CU_ERROR_STREAM_CAPTURE_UNSUPPORTED) return EDGEC_OK;
    edgec_status status = edgec_cuda_check(cuda, begun, "cuStreamBeginCapture");
    if (status != EDGEC_OK) return status;
    status = enqueue(cuda);
    /* Also after a failure, which has its message already: the stream would stay in capture. */
    const cu_result ended = cuda->api.cuStreamEndCapture(cuda->stream, &graph);
    if (status == EDGEC_OK) status = edgec_cuda_check(cuda, ended, "cuStreamEndCapture");
    if (status == EDGEC_OK) status = instantiate(cuda, graph);
    if (graph != NULL) (void)cuda->api.cuGraphDestroy(graph);
    return status;
}

void edgec_cuda_drop_graph(edgec_cuda *cuda) {
    if (cuda->graph != NULL) (void)cuda->api.cuGraphExecDestroy(cuda->graph);
    cuda->graph = NULL;
}

edgec_status edgec_cuda_infer(edgec_cuda *cuda) {
    const edgec_status status =
        cuda->graph != NULL ? EDGEC_CUDA_CALL(cuda, cuGraphLaunch, cuda->graph, cuda->stream) : enqueue(cuda);
    /* Waits in any case: what was launched before the failure still uses the memory. */
    const cu_result result = cuda->api.cuStreamSynchronize(cuda->stream);
    return status != EDGEC_OK ? status : edgec_cuda_check(cuda, result, "cuStreamSynchronize");
}

static edgec_status time_step(edgec_cuda *cuda, int index, float *milliseconds) {
    edgec_status status = EDGEC_CUDA_CALL(cuda, cuEventRecord, cuda->begin, cuda->stream);
    if (status == EDGEC_OK) status = launch_step(cuda, index);
    if (status == EDGEC_OK) status = EDGEC_CUDA_CALL(cuda, cuEventRecord, cuda->end, cuda->stream);
    if (status == EDGEC_OK) status = EDGEC_CUDA_CALL(cuda, cuEventSynchronize, cuda->end);
    if (status == EDGEC_OK) status = EDGEC_CUDA_CALL(cuda, cuEventElapsedTime, milliseconds, cuda->begin, cuda->end);
    return status;
}

edgec_status edgec_cuda_infer_timed(edgec_cuda *cuda, edgec_profiler profiler, void *user) {
    edgec_status status = upload(cuda);
    for (int i = 0; i < cuda->model->num_kernels && status == EDGEC_OK; i++) {
        float milliseconds = 0;
        cuda->kernel = cuda->model->kernel_names[i];
        status = time_step(cuda, i, &milliseconds);
        if (status == EDGEC_OK) profiler(user, i, cuda->kernel, (uint64_t)((double)milliseconds * 1e6));
    }
    cuda->kernel = NULL;
    if (status == EDGEC_OK) status = download(cuda);
    const cu_result result = cuda->api.cuStreamSynchronize(cuda->stream);
    return status != EDGEC_OK ? status : edgec_cuda_check(cuda, result, "cuStreamSynchronize");
}
