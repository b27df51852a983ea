/* runner_run.c: `runner run`, inputs in, outputs out. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runner.h"

/* A file is written under a temporary name and renamed when complete: an interrupted run leaves no half output. */
struct sink {
    FILE *file;
    const char *path;
    char *temporary; /* NULL: written in place (stdout, a pipe, a device) */
};

static int sink_failed(const struct sink *sink) {
    return runner_error(EXIT_INPUT, "%s: cannot write the output: %s", sink->path, strerror(errno));
}

static int sink_open(struct sink *sink, const char *path) {
    struct stat info;
    *sink = (struct sink){.path = path};
    if (strcmp(path, "-") == 0) {
        sink->file = stdout;
        return EXIT_DONE;
    }
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) {
        sink->file = fopen(path, "wb");
        return sink->file != NULL ? EXIT_DONE : sink_failed(sink);
    }
    const size_t size = strlen(path) + 32;
    sink->temporary = malloc(size);
    if (sink->temporary == NULL) return sink_failed(sink);
    (void)snprintf(sink->temporary, size, "%s.tmp.%ld", path, (long)getpid());
    const int descriptor = open(sink->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0) sink->file = fdopen(descriptor, "wb");
    if (sink->file != NULL) return EXIT_DONE;
    const int code = sink_failed(sink);
    if (descriptor >= 0) {
        close(descriptor);
        unlink(sink->temporary);
    }
    free(sink->temporary);
    sink->temporary = NULL;
    return code;
}

/* Publishes the file when `code` says that all went well, else removes it. */
static int sink_close(struct sink *sink, int code) {
    if (sink->file != NULL && sink->file != stdout && fclose(sink->file) != 0 && code == EXIT_DONE) {
        code = sink_failed(sink);
    }
    if (sink->temporary != NULL) {
        if (code == EXIT_DONE && rename(sink->temporary, sink->path) != 0) code = sink_failed(sink);
        if (code != EXIT_DONE) unlink(sink->temporary);
    }
    free(sink->temporary);
    return code;
}

static int run_samples(edgec_session *session, runner_tensors *tensors, runner_source *source, struct sink *sink) {
    for (;;) {
        int is_end;
        const int code = runner_source_read(source, tensors, &is_end);
        if (code != EXIT_DONE || is_end) return code;
        const edgec_status status = edgec_run(session, (const void *const *)tensors->inputs, tensors->outputs);
        if (status != EDGEC_OK) return runner_status(status);
        for (int i = 0; i < tensors->model->num_outputs; i++) {
            const size_t size = tensors->model->outputs[i].size_bytes;
            if (size > 0 && fwrite(tensors->outputs[i], 1, size, sink->file) != size) return sink_failed(sink);
        }
    }
}

int runner_run(const edgec_model *model, const runner_options *options) {
    edgec_session *session = NULL;
    runner_tensors tensors;
    runner_source source = {0};
    struct sink sink = {0};
    int code = runner_tensors_create(&tensors, model);
    if (code != EXIT_DONE) return code;
    code = runner_source_open(&source, &tensors, options->input, options->samples);
    /* Only a file can be another model's; to hash what is linked in would take longer than many an inference. */
    const int verify_params = options->params != NULL;
    if (code == EXIT_DONE) code = runner_open(model, options, verify_params, &session);
    if (code == EXIT_DONE) code = sink_open(&sink, options->output);
    if (code == EXIT_DONE) code = run_samples(session, &tensors, &source, &sink);
    code = sink_close(&sink, code);
    runner_source_close(&source);
    edgec_destroy(session);
    runner_tensors_free(&tensors);
    return code;
}
