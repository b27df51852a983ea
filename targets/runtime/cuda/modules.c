/* modules.c: chooses the code of each kernel that suits the device, and loads it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/launcher.h"

enum { LOG_BYTES = 4096, SHOWN_LOG = 400 };

/* Source: CUDA C++ Programming Guide, "Binary Compatibility": machine code runs on devices of the same major and at
 * least the same minor number, but not so on Tegra, nor between Tegra and others. These are Tegra's (Thor is 10.1 to
 * CUDA 12 and 11.0 to CUDA 13). */
static int is_tegra(int architecture) {
    static const int all[] = {53, 62, 72, 87, 101, 110};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i] == architecture) return 1;
    }
    return 0;
}

static int suits(const edgec_cuda_image *image, int device) {
    if (image->architecture == device) return 1;
    if (image->is_ptx) return image->architecture < device;
    return image->architecture < device && image->architecture / 10 == device / 10 && !is_tegra(device) &&
           !is_tegra(image->architecture);
}

/* Number of the image, or -1: machine code before PTX, then what is nearest to the device. */
static int choose_image(const edgec_cuda *cuda, const edgec_cuda_kernel *kernel) {
    int best = -1;
    for (int i = 0; i < kernel->num_images; i++) {
        const int number = cuda->program->image_numbers[kernel->first_image + i];
        const edgec_cuda_image *image = &cuda->program->images[number];
        if (!suits(image, cuda->architecture)) continue;
        const edgec_cuda_image *other = &cuda->program->images[best < 0 ? number : best];
        if (best < 0 || image->is_ptx < other->is_ptx ||
            (image->is_ptx == other->is_ptx && image->architecture > other->architecture)) {
            best = number;
        }
    }
    return best;
}

static edgec_status wrong_architecture(const edgec_cuda *cuda, const edgec_cuda_kernel *kernel) {
    char device[128] = "a GPU", has[160] = "";
    (void)cuda->api.cuDeviceGetName(device, sizeof device, cuda->device);
    for (int i = 0; i < kernel->num_images; i++) {
        const edgec_cuda_image *image = &cuda->program->images[cuda->program->image_numbers[kernel->first_image + i]];
        const size_t length = strlen(has);
        (void)snprintf(has + length, sizeof has - length, "%s%s_%d", i > 0 ? ", " : "", image->is_ptx ? "compute" : "sm",
                       image->architecture);
    }
    return edgec_fail(EDGEC_ERROR_ARCHITECTURE,
                      "model '%s' was compiled for other GPUs: kernel '%s' is there for %s, and this is %s, sm_%d; compile "
                      "the model for it", cuda->model->name, kernel->symbol, has, device, cuda->architecture);
}

/* Adds what the driver's compiler has to say to the message of a failure. */
static edgec_status load_failed(edgec_status status, char *log) {
    char message[512];
    (void)snprintf(message, sizeof message, "%s", edgec_last_error());
    for (char *c = log; *c != '\0'; c++) {
        if (*c == '\n' || *c == '\r') *c = ' ';
    }
    return *log == '\0' ? status : edgec_fail(status, "%s: %.*s", message, SHOWN_LOG, log);
}

static edgec_status load_image(edgec_cuda *cuda, int number) {
    char log[LOG_BYTES] = "";
    int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)(sizeof log - 1)};
    const edgec_status status = EDGEC_CUDA_CALL(cuda, cuModuleLoadDataEx, &cuda->modules[number],
                                                cuda->program->images[number].data, 2, options, values);
    return status == EDGEC_OK ? EDGEC_OK : load_failed(status, log);
}

static edgec_status load_kernel(edgec_cuda *cuda, int index) {
    const edgec_cuda_kernel *kernel = &cuda->program->kernels[index];
    edgec_status status = EDGEC_OK;
    const int number = choose_image(cuda, kernel);
    if (number < 0) return wrong_architecture(cuda, kernel);
    if (cuda->modules[number] == NULL) status = load_image(cuda, number);
    if (status != EDGEC_OK) return status;
    cu_function *function = &cuda->functions[index];
    status = EDGEC_CUDA_CALL(cuda, cuModuleGetFunction, function, cuda->modules[number], kernel->symbol);
    if (status != EDGEC_OK || kernel->dynamic_shared_bytes == 0) return status;
    /* Without this, 48 KiB less what the kernel has statically are the most. */
    return EDGEC_CUDA_CALL(cuda, cuFuncSetAttribute, *function, CU_FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                           (int)kernel->dynamic_shared_bytes);
}

edgec_status edgec_cuda_load_kernels(edgec_cuda *cuda) {
    edgec_status status = EDGEC_OK;
    for (int i = 0; i < cuda->program->num_kernels && status == EDGEC_OK; i++) {
        cuda->kernel = cuda->program->kernels[i].symbol;
        status = load_kernel(cuda, i);
    }
    cuda->kernel = NULL;
    return status;
}

void edgec_cuda_unload_kernels(edgec_cuda *cuda) {
    for (int i = 0; cuda->modules != NULL && i < cuda->program->num_images; i++) {
        if (cuda->modules[i] != NULL) (void)cuda->api.cuModuleUnload(cuda->modules[i]);
    }
}
