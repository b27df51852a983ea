/* runner.h: what the files of the runner executable share. The runner uses the public interface, edgec.h, only. */
#ifndef EDGEC_RUNNER_H
#define EDGEC_RUNNER_H

#include <stdint.h>
#include <stdio.h>

#include "edgec.h"

#define RUNNER_VERSION "1.0"

/* Exit codes, the same as those of the edgec command line. */
enum { EXIT_DONE = 0, EXIT_INPUT = 1, EXIT_USAGE = 2, EXIT_DEVICE = 6 };

typedef struct runner_options {
    const char *input, *output, *params;
    uint64_t samples; /* 0: as many as the input holds */
    uint64_t warmup_ms, min_time_ms, min_runs, max_runs, runs, peak_ms;
    int threads;
    int cpus[EDGEC_MAX_THREADS];
    int num_cpus;
} runner_options;

/* runner.c: prints "edgec-runner: error: ..." and returns `code`. */
int runner_error(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int runner_status(edgec_status status); /* the same for a failed edgec call */
int runner_open(const edgec_model *model, const runner_options *options, int verify_params, edgec_session **session);
int runner_info(const edgec_model *model, const runner_options *options);

/* runner_options.c: EXIT_DONE or EXIT_USAGE. argv[0] is the command. */
int runner_parse(runner_options *options, int argc, char **argv);
extern const char runner_usage[];

/* runner_tensors.c: buffers for one sample, and where samples come from. */
typedef struct runner_tensors {
    const edgec_model *model;
    void **inputs, **outputs;
    size_t input_bytes, output_bytes; /* of one sample */
    int is_borrowed;                  /* the buffers are the session's */
} runner_tensors;
int runner_tensors_create(runner_tensors *tensors, const edgec_model *model);
void runner_tensors_free(runner_tensors *tensors);
void runner_tensors_fill(runner_tensors *tensors);
/* Brings the inputs into the session's own memory, for good. */
void runner_tensors_move(runner_tensors *tensors, edgec_session *session);

typedef struct runner_source {
    FILE *file;
    const char *name;
    uint64_t samples; /* 0: until the end of the stream */
    uint64_t read;
} runner_source;
int runner_source_open(runner_source *source, const runner_tensors *tensors, const char *path, uint64_t samples);
/* Reads the next sample; *is_end is set instead when there is none. */
int runner_source_read(runner_source *source, runner_tensors *tensors, int *is_end);
void runner_source_close(runner_source *source);

/* runner_run.c, runner_measure.c: the commands. */
int runner_run(const edgec_model *model, const runner_options *options);
int runner_bench(const edgec_model *model, const runner_options *options);
int runner_profile(const edgec_model *model, const runner_options *options);
/* runner_peak.c: measures and prints the member "peak" of a profile. */
int runner_peak(const edgec_model *model, const runner_options *options, int threads);

/* runner.c */
void runner_json_string(const char *text);
uint64_t runner_now_ns(void);

#endif
