/* driver.c: the CUDA driver, found at run time, its first device, and what it reports. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "cuda/launcher.h"

/* POSIX has dlsym return a function as void *, which ISO C does not let one cast. */
#define FIND(name, symbol, parameters)                                                                                 \
    address = dlsym(library, symbol);                                                                                  \
    memcpy(&cuda->api.name, &address, sizeof address);

#define REQUIRE(name, symbol, parameters)                                                                              \
    if (cuda->api.name == NULL) missing = symbol;

edgec_status edgec_cuda_find_driver(edgec_cuda *cuda) {
    /* Never closed: the driver has threads and exit handlers of its own. */
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *reason = dlerror();
        return edgec_fail(EDGEC_ERROR_NO_DRIVER, "model '%s' needs an NVIDIA GPU, and this machine has no CUDA driver: %s",
                          cuda->model->name, reason != NULL ? reason : "libcuda.so.1 cannot be opened");
    }
    void *address;
    const char *missing = NULL;
    EDGEC_CUDA_REQUIRED(FIND)
    EDGEC_CUDA_OPTIONAL(FIND)
    EDGEC_CUDA_REQUIRED(REQUIRE)
    if (cuda->api.cuDevicePrimaryCtxRelease_v2 != NULL) {
        cuda->api.cuDevicePrimaryCtxRelease = cuda->api.cuDevicePrimaryCtxRelease_v2;
    }
    REQUIRE(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease", ())
    if (missing == NULL) return EDGEC_OK;
    return edgec_fail(EDGEC_ERROR_NO_DRIVER, "model '%s': libcuda.so.1 has no %s; CUDA 10.2 (JetPack 4) is the oldest "
                      "driver that will do", cuda->model->name, missing);
}

edgec_status edgec_cuda_find_device(edgec_cuda *cuda) {
    int major = 0, minor = 0;
    if (EDGEC_CUDA_CALL(cuda, cuInit, 0) != EDGEC_OK || EDGEC_CUDA_CALL(cuda, cuDeviceGet, &cuda->device, 0) != EDGEC_OK) {
        return EDGEC_ERROR_NO_DRIVER; /* the driver is there and no GPU, or not one that it serves */
    }
    const struct {
        int *value;
        int attribute;
    } queries[] = {{&major, CU_DEVICE_COMPUTE_CAPABILITY_MAJOR},
                   {&minor, CU_DEVICE_COMPUTE_CAPABILITY_MINOR},
                   {&cuda->is_integrated, CU_DEVICE_INTEGRATED}};
    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++) {
        const edgec_status status =
            EDGEC_CUDA_CALL(cuda, cuDeviceGetAttribute, queries[i].value, queries[i].attribute, cuda->device);
        if (status != EDGEC_OK) return status;
    }
    cuda->architecture = 10 * major + minor;
    return EDGEC_OK;
}

edgec_status edgec_cuda_check(const edgec_cuda *cuda, cu_result result, const char *call) {
    const char *name = NULL, *text = NULL;
    if (result == CU_SUCCESS) return EDGEC_OK;
    if (cuda->api.cuGetErrorName(result, &name) != CU_SUCCESS || name == NULL) name = "an unknown error";
    if (cuda->api.cuGetErrorString(result, &text) != CU_SUCCESS || text == NULL) text = "no description";
    const int has_kernel = cuda->kernel != NULL;
    return edgec_fail(result == CU_ERROR_OUT_OF_MEMORY ? EDGEC_ERROR_DEVICE_MEMORY : EDGEC_ERROR_DEVICE,
                      "model '%s': %s failed%s%s%s with %s (%d): %s", cuda->model->name, call,
                      has_kernel ? " for kernel '" : "", has_kernel ? cuda->kernel : "", has_kernel ? "'" : "", name,
                      result, text);
}
