/* driver_api.h: the part of the CUDA driver API that the launcher calls, found at run time in libcuda.so.1.
 *
 * No header of NVIDIA's is needed to build this. Source of types, constants and names of symbols: cuda.h of CUDA 12.9,
 * compared with that of 13.5; all but those marked optional are in the driver of CUDA 10.2 (JetPack 4) too. A symbol
 * ends in _v2 where the plain name stands for an older signature.
 */
#ifndef EDGEC_CUDA_DRIVER_API_H
#define EDGEC_CUDA_DRIVER_API_H

#include <stddef.h>
#include <stdint.h>

typedef int cu_result;
typedef int cu_device;
typedef uint64_t cu_pointer; /* CUdeviceptr */
typedef struct cu_context_s *cu_context;
typedef struct cu_module_s *cu_module;
typedef struct cu_function_s *cu_function;
typedef struct cu_stream_s *cu_stream;
typedef struct cu_event_s *cu_event;
typedef struct cu_graph_s *cu_graph;
typedef struct cu_executable_graph_s *cu_executable_graph;

enum {
    CU_SUCCESS = 0,
    CU_ERROR_OUT_OF_MEMORY = 2,
    CU_ERROR_NOT_SUPPORTED = 801,
    CU_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,

    CU_DEVICE_INTEGRATED = 18,
    CU_DEVICE_CAN_MAP_HOST_MEMORY = 19,
    CU_DEVICE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_COMPUTE_CAPABILITY_MINOR = 76,

    CU_FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    CU_JIT_ERROR_LOG_BUFFER = 5,
    CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6,
    CU_HOST_ALLOC_DEVICE_MAP = 2,
    CU_STREAM_NON_BLOCKING = 1,
    CU_STREAM_CAPTURE_THREAD_LOCAL = 1,
};

/* F(name, symbol, parameters) */
#define EDGEC_CUDA_REQUIRED(F)                                                                                         \
    F(cuInit, "cuInit", (unsigned flags))                                                                              \
    F(cuGetErrorName, "cuGetErrorName", (cu_result error, const char **name))                                          \
    F(cuGetErrorString, "cuGetErrorString", (cu_result error, const char **text))                                      \
    F(cuDeviceGet, "cuDeviceGet", (cu_device * device, int ordinal))                                                   \
    F(cuDeviceGetName, "cuDeviceGetName", (char *name, int size, cu_device device))                                    \
    F(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int *value, int attribute, cu_device device))                     \
    F(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (cu_context * context, cu_device device))                  \
    F(cuCtxPushCurrent, "cuCtxPushCurrent_v2", (cu_context context))                                                   \
    F(cuCtxPopCurrent, "cuCtxPopCurrent_v2", (cu_context * context))                                                   \
    F(cuModuleLoadDataEx, "cuModuleLoadDataEx",                                                                        \
      (cu_module * module, const void *image, unsigned num_options, int *options, void **values))                      \
    F(cuModuleUnload, "cuModuleUnload", (cu_module module))                                                            \
    F(cuModuleGetFunction, "cuModuleGetFunction", (cu_function * function, cu_module module, const char *name))        \
    F(cuFuncSetAttribute, "cuFuncSetAttribute", (cu_function function, int attribute, int value))                      \
    F(cuMemGetInfo, "cuMemGetInfo_v2", (size_t *free_bytes, size_t *total_bytes))                                      \
    F(cuMemAlloc, "cuMemAlloc_v2", (cu_pointer * pointer, size_t size))                                                \
    F(cuMemFree, "cuMemFree_v2", (cu_pointer pointer))                                                                 \
    F(cuMemHostAlloc, "cuMemHostAlloc", (void **pointer, size_t size, unsigned flags))                                 \
    F(cuMemHostGetDevicePointer, "cuMemHostGetDevicePointer_v2", (cu_pointer * device, void *host, unsigned flags))    \
    F(cuMemFreeHost, "cuMemFreeHost", (void *pointer))                                                                 \
    F(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2",                                                                       \
      (cu_pointer target, const void *source, size_t size, cu_stream stream))                                          \
    F(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void *target, cu_pointer source, size_t size, cu_stream stream))     \
    F(cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2",                                                                       \
      (cu_pointer target, cu_pointer source, size_t size, cu_stream stream))                                           \
    F(cuStreamCreate, "cuStreamCreate", (cu_stream * stream, unsigned flags))                                          \
    F(cuStreamSynchronize, "cuStreamSynchronize", (cu_stream stream))                                                  \
    F(cuStreamDestroy, "cuStreamDestroy_v2", (cu_stream stream))                                                       \
    F(cuEventCreate, "cuEventCreate", (cu_event * event, unsigned flags))                                              \
    F(cuEventRecord, "cuEventRecord", (cu_event event, cu_stream stream))                                              \
    F(cuEventSynchronize, "cuEventSynchronize", (cu_event event))                                                      \
    F(cuEventElapsedTime, "cuEventElapsedTime", (float *milliseconds, cu_event start, cu_event end))                   \
    F(cuEventDestroy, "cuEventDestroy_v2", (cu_event event))                                                           \
    F(cuLaunchKernel, "cuLaunchKernel",                                                                                \
      (cu_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,    \
       unsigned block_z, unsigned dynamic_shared_bytes, cu_stream stream, void **arguments, void **extra))

/* NULL where a driver lacks them. cuGraphInstantiate is ..WithFlags from CUDA 11.4 on and ends in _v2 in 11.0. */
#define EDGEC_CUDA_OPTIONAL(F)                                                                                         \
    F(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease", (cu_device device))                                      \
    F(cuDevicePrimaryCtxRelease_v2, "cuDevicePrimaryCtxRelease_v2", (cu_device device))                                \
    F(cuStreamBeginCapture, "cuStreamBeginCapture_v2", (cu_stream stream, int mode))                                   \
    F(cuStreamEndCapture, "cuStreamEndCapture", (cu_stream stream, cu_graph * graph))                                  \
    F(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags",                                                      \
      (cu_executable_graph * executable, cu_graph graph, unsigned long long flags))                                    \
    F(cuGraphInstantiate_v2, "cuGraphInstantiate_v2",                                                                  \
      (cu_executable_graph * executable, cu_graph graph, void **error_node, char *log, size_t log_size))               \
    F(cuGraphInstantiate, "cuGraphInstantiate",                                                                        \
      (cu_executable_graph * executable, cu_graph graph, void **error_node, char *log, size_t log_size))               \
    F(cuGraphLaunch, "cuGraphLaunch", (cu_executable_graph executable, cu_stream stream))                              \
    F(cuGraphExecDestroy, "cuGraphExecDestroy", (cu_executable_graph executable))                                      \
    F(cuGraphDestroy, "cuGraphDestroy", (cu_graph graph))

#define EDGEC_CUDA_MEMBER(name, symbol, parameters) cu_result(*name) parameters;
typedef struct edgec_cuda_api {
    EDGEC_CUDA_REQUIRED(EDGEC_CUDA_MEMBER)
    EDGEC_CUDA_OPTIONAL(EDGEC_CUDA_MEMBER)
} edgec_cuda_api;
#undef EDGEC_CUDA_MEMBER

#endif
