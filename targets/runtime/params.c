/* params.c: the parameters of a model, from the application, a file or the program itself. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

/* Defined by embedded_params.c where the build puts the parameters into the program; otherwise both are NULL. */
extern const unsigned char edgec_embedded_params[] __attribute__((weak));
extern const unsigned char edgec_embedded_params_end[] __attribute__((weak));

static edgec_status check_size(const edgec_model *model, size_t size, const char *source) {
    if (size == model->params_size_bytes) return EDGEC_OK;
    return edgec_fail(EDGEC_ERROR_PARAMS, "%s: parameters of model '%s' have %zu bytes, expected %zu", source, model->name,
                      size, model->params_size_bytes);
}

static edgec_status map_file(edgec_params *params, const edgec_model *model, const char *path) {
    struct stat info;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &info) != 0) {
        const int error = errno;
        if (file >= 0) close(file);
        return edgec_fail(EDGEC_ERROR_PARAMS, "%s: cannot open the parameters of model '%s': %s", path, model->name,
                          strerror(error));
    }
    if (!S_ISREG(info.st_mode)) {
        close(file);
        return edgec_fail(EDGEC_ERROR_PARAMS, "%s: parameters must be a regular file", path);
    }
    const edgec_status status = check_size(model, (size_t)info.st_size, path);
    if (status != EDGEC_OK) {
        close(file);
        return status;
    }
    void *data = mmap(NULL, model->params_size_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    const int error = errno;
    close(file);
    if (data == MAP_FAILED) {
        return edgec_fail(EDGEC_ERROR_PARAMS, "%s: cannot map the parameters: %s", path, strerror(error));
    }
    /* Only a hint: reading ahead now saves page faults in the first run. */
    (void)madvise(data, model->params_size_bytes, MADV_WILLNEED);
    params->data = data;
    params->mapped_size = model->params_size_bytes;
    return EDGEC_OK;
}

static edgec_status use_memory(edgec_params *params, const edgec_model *model, const void *data, size_t size,
                               const char *source) {
    const edgec_status status = check_size(model, size, source);
    if (status != EDGEC_OK) return status;
    if ((uintptr_t)data % EDGEC_ALIGNMENT != 0) {
        return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "%s: parameters at %p are not aligned to %d bytes", source, data,
                          EDGEC_ALIGNMENT);
    }
    params->data = data;
    return EDGEC_OK;
}

static edgec_status verify(const edgec_params *params, const edgec_model *model) {
    char actual[65];
    if (model->params_sha256 == NULL) return EDGEC_OK;
    edgec_sha256(params->data, model->params_size_bytes, actual);
    if (strcmp(actual, model->params_sha256) == 0) return EDGEC_OK;
    return edgec_fail(EDGEC_ERROR_PARAMS, "parameters of model '%s' are corrupt or another model's: SHA-256 is %s, "
                      "expected %s", model->name, actual, model->params_sha256);
}

edgec_status edgec_params_open(edgec_params *params, const edgec_model *model, const edgec_options *options) {
    edgec_status status;
    *params = (edgec_params){0};
    if (options->params != NULL && options->params_path != NULL) {
        return edgec_fail(EDGEC_ERROR_INVALID_ARGUMENT, "options.params and options.params_path are both set; give one");
    }
    if (model->params_size_bytes == 0) return EDGEC_OK;
    if (options->params != NULL) {
        status = use_memory(params, model, options->params, options->params_size, "options.params");
    } else if (options->params_path != NULL) {
        status = map_file(params, model, options->params_path);
    } else if (edgec_embedded_params != NULL) {
        const size_t size = (uintptr_t)edgec_embedded_params_end - (uintptr_t)edgec_embedded_params;
        status = use_memory(params, model, edgec_embedded_params, size, "embedded parameters");
    } else {
        status = edgec_fail(EDGEC_ERROR_PARAMS, "model '%s' needs %zu bytes of parameters and none are linked in; set "
                            "options.params or options.params_path (runner: --params FILE)", model->name,
                            model->params_size_bytes);
    }
    if (status == EDGEC_OK && options->verify_params) status = verify(params, model);
    if (status != EDGEC_OK) edgec_params_close(params);
    return status;
}

void edgec_params_close(edgec_params *params) {
    if (params->mapped_size != 0) munmap((void *)(uintptr_t)params->data, params->mapped_size);
    *params = (edgec_params){0};
}
