/* runner_tensors.c: buffers for one sample, and reading samples from a file, a pipe or a generator. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runner.h"

static void free_buffers(void **buffers, int count) {
    for (int i = 0; buffers != NULL && i < count; i++) free(buffers[i]);
    free(buffers);
}

/* One buffer per tensor; NULL when memory is short. */
static void **allocate_buffers(int count, const edgec_tensor_info *infos, size_t *total_bytes) {
    void **buffers = calloc((size_t)count + 1, sizeof *buffers);
    *total_bytes = 0;
    for (int i = 0; buffers != NULL && i < count; i++) {
        const size_t units = infos[i].size_bytes / EDGEC_ALIGNMENT + 1;
        buffers[i] = aligned_alloc(EDGEC_ALIGNMENT, units * EDGEC_ALIGNMENT);
        if (buffers[i] == NULL) {
            free_buffers(buffers, i);
            return NULL;
        }
        memset(buffers[i], 0, units * EDGEC_ALIGNMENT);
        *total_bytes += infos[i].size_bytes;
    }
    return buffers;
}

int runner_tensors_create(runner_tensors *tensors, const edgec_model *model) {
    *tensors = (runner_tensors){.model = model};
    tensors->inputs = allocate_buffers(model->num_inputs, model->inputs, &tensors->input_bytes);
    tensors->outputs = allocate_buffers(model->num_outputs, model->outputs, &tensors->output_bytes);
    if (tensors->inputs != NULL && tensors->outputs != NULL) return EXIT_DONE;
    runner_tensors_free(tensors);
    return runner_error(EXIT_DEVICE, "no memory for the inputs and outputs");
}

void runner_tensors_free(runner_tensors *tensors) {
    free_buffers(tensors->inputs, tensors->is_borrowed ? 0 : tensors->model->num_inputs);
    free_buffers(tensors->outputs, tensors->is_borrowed ? 0 : tensors->model->num_outputs);
    tensors->inputs = tensors->outputs = NULL;
}

void runner_tensors_move(runner_tensors *tensors, edgec_session *session) {
    for (int i = 0; i < tensors->model->num_inputs; i++) {
        void *buffer = edgec_input_buffer(session, i);
        memcpy(buffer, tensors->inputs[i], tensors->model->inputs[i].size_bytes);
        free(tensors->inputs[i]);
        tensors->inputs[i] = buffer;
    }
    for (int i = 0; i < tensors->model->num_outputs; i++) {
        free(tensors->outputs[i]);
        tensors->outputs[i] = edgec_output_buffer(session, i);
    }
    tensors->is_borrowed = 1;
}

static uint64_t next_random(uint64_t *state) { /* xorshift64: the same on every machine */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Floats in [-1, 1), random bytes for 8 and 16-bit integers. Wider integers stay zero: they may be indices, and random
 * ones would read outside of a tensor. float16 and bfloat16 stay in [0.5, 2) by their exponent. */
static void fill(void *data, const edgec_tensor_info *info, uint64_t *state) {
    const size_t bytes = info->size_bytes;
    for (size_t i = 0; i < bytes; i++) {
        const uint64_t random = next_random(state) >> 33;
        if (info->dtype == EDGEC_FLOAT32 && i < bytes / 4) {
            ((float *)data)[i] = (float)random / 1073741824.0f - 1.0f;
        } else if (info->dtype == EDGEC_FLOAT64 && i < bytes / 8) {
            ((double *)data)[i] = (double)random / 1073741824.0 - 1.0;
        } else if (info->dtype == EDGEC_FLOAT16 && i < bytes / 2) {
            ((uint16_t *)data)[i] = (uint16_t)(0x3800 | (random & 0x7ff));
        } else if (info->dtype == EDGEC_BFLOAT16 && i < bytes / 2) {
            ((uint16_t *)data)[i] = (uint16_t)(0x3f00 | (random & 0xff));
        } else if (info->dtype == EDGEC_BOOL) {
            ((unsigned char *)data)[i] = random & 1;
        } else if (info->dtype == EDGEC_UINT8 || info->dtype == EDGEC_INT8 || info->dtype == EDGEC_UINT16 ||
                   info->dtype == EDGEC_INT16) {
            ((unsigned char *)data)[i] = (unsigned char)random;
        }
    }
}

void runner_tensors_fill(runner_tensors *tensors) {
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (int i = 0; i < tensors->model->num_inputs; i++) fill(tensors->inputs[i], &tensors->model->inputs[i], &state);
}

/* A regular file tells its size beforehand, so a wrong one is refused before any work. */
static int check_file(runner_source *source, size_t sample_bytes, uint64_t size) {
    const unsigned long long actual = size, sample = sample_bytes;
    if (source->samples > 0) {
        const unsigned long long samples = source->samples;
        if (sample != 0 && samples > UINT64_MAX / sample) {
            return runner_error(EXIT_INPUT, "%s: %llu samples of %llu bytes are more than a file can hold", source->name,
                                samples, sample);
        }
        if (actual == samples * sample) return EXIT_DONE;
        return runner_error(EXIT_INPUT, "%s: expected %llu bytes (%llu samples of %llu), the file has %llu", source->name,
                            samples * sample, samples, sample, actual);
    }
    if (sample != 0 && actual != 0 && actual % sample == 0) {
        source->samples = actual / sample;
        return EXIT_DONE;
    }
    if (sample == 0 && actual == 0) {
        source->samples = 1; /* a model without inputs */
        return EXIT_DONE;
    }
    return runner_error(EXIT_INPUT, "%s: expected a multiple of %llu bytes (one sample), the file has %llu", source->name,
                        sample, actual);
}

int runner_source_open(runner_source *source, const runner_tensors *tensors, const char *path, uint64_t samples) {
    struct stat info;
    const int is_stdin = strcmp(path, "-") == 0;
    *source = (runner_source){.file = is_stdin ? stdin : fopen(path, "rb"), .name = is_stdin ? "stdin" : path};
    source->samples = samples;
    if (source->file == NULL || fstat(fileno(source->file), &info) != 0) {
        const int code = runner_error(EXIT_INPUT, "%s: cannot open the input: %s", path, strerror(errno));
        runner_source_close(source);
        return code;
    }
    int code = EXIT_DONE;
    if (S_ISREG(info.st_mode)) {
        code = check_file(source, tensors->input_bytes, (uint64_t)info.st_size);
    } else if (S_ISDIR(info.st_mode)) {
        code = runner_error(EXIT_INPUT, "%s: is a directory", path);
    } else if (tensors->input_bytes == 0 && samples == 0) {
        source->samples = 1;
    }
    if (code != EXIT_DONE) runner_source_close(source);
    return code;
}

int runner_source_read(runner_source *source, runner_tensors *tensors, int *is_end) {
    size_t got = 0;
    *is_end = 0;
    if (source->samples > 0 && source->read == source->samples) {
        *is_end = 1;
        return EXIT_DONE;
    }
    for (int i = 0; i < tensors->model->num_inputs; i++) {
        const size_t size = tensors->model->inputs[i].size_bytes;
        const size_t count = size == 0 ? 0 : fread(tensors->inputs[i], 1, size, source->file);
        got += count;
        if (count < size) break;
    }
    if (ferror(source->file)) return runner_error(EXIT_INPUT, "%s: cannot read: %s", source->name, strerror(errno));
    if (got == 0 && tensors->input_bytes > 0 && source->samples == 0 && source->read > 0) {
        *is_end = 1;
        return EXIT_DONE;
    }
    if (got < tensors->input_bytes) {
        return runner_error(EXIT_INPUT, "%s: expected %zu bytes for sample %llu, got %zu", source->name,
                            tensors->input_bytes, (unsigned long long)source->read, got);
    }
    source->read++;
    return EXIT_DONE;
}

void runner_source_close(runner_source *source) {
    if (source->file != NULL && source->file != stdin) (void)fclose(source->file);
    source->file = NULL;
}
