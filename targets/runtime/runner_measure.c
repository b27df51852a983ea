/* runner_measure.c: `runner bench` and `runner profile`. Times are from the monotonic clock. */
#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <string.h>

#include "runner.h"

enum { MAX_LATENCIES = 100000 };

/* Latencies in the order measured. When full, every other one is dropped and from then on half as many are kept, so
 * that what remains is spread evenly over the whole measurement. */
struct series {
    uint64_t *ns;
    size_t count;
    uint64_t stride, seen;
};

static void series_add(struct series *series, uint64_t ns) {
    if (series->seen++ % series->stride != 0) return;
    if (series->count == MAX_LATENCIES) {
        for (size_t i = 0; i < MAX_LATENCIES / 2; i++) series->ns[i] = series->ns[2 * i];
        series->count = MAX_LATENCIES / 2;
        series->stride *= 2;
        if ((series->seen - 1) % series->stride != 0) return;
    }
    series->ns[series->count++] = ns;
}

static int prepare(runner_tensors *tensors, const edgec_model *model, const char *input) {
    runner_source source;
    int is_end;
    int code = runner_tensors_create(tensors, model);
    if (code != EXIT_DONE) return code;
    if (input == NULL) {
        runner_tensors_fill(tensors);
        return EXIT_DONE;
    }
    code = runner_source_open(&source, tensors, input, 0);
    if (code == EXIT_DONE) {
        code = runner_source_read(&source, tensors, &is_end);
        runner_source_close(&source);
    }
    if (code != EXIT_DONE) runner_tensors_free(tensors);
    return code;
}

static edgec_status timed_run(edgec_session *session, runner_tensors *tensors, uint64_t *ns) {
    const uint64_t begin = runner_now_ns();
    const edgec_status status = edgec_run(session, (const void *const *)tensors->inputs, tensors->outputs);
    *ns = runner_now_ns() - begin;
    return status;
}

static edgec_status measure(edgec_session *session, runner_tensors *tensors, const runner_options *options,
                            uint64_t *first_ns, struct series *series) {
    uint64_t ns;
    edgec_status status = timed_run(session, tensors, first_ns);
    const uint64_t warm = runner_now_ns() + options->warmup_ms * 1000000u;
    while (status == EDGEC_OK && runner_now_ns() < warm) status = timed_run(session, tensors, &ns);

    const uint64_t end = runner_now_ns() + options->min_time_ms * 1000000u;
    while (status == EDGEC_OK && series->seen < options->max_runs &&
           (series->seen < options->min_runs || runner_now_ns() < end)) {
        status = timed_run(session, tensors, &ns);
        if (status == EDGEC_OK) series_add(series, ns);
    }
    return status;
}

static double ms(uint64_t ns) {
    return (double)ns / 1e6;
}

static void print_header(const edgec_model *model, edgec_session *session) {
    int cpus[EDGEC_MAX_THREADS];
    const int threads = edgec_num_threads(session);
    printf("{\"model\": ");
    runner_json_string(model->name);
    printf(", \"threads\": %d, \"cpus\": [", threads);
    (void)edgec_worker_cpus(session, cpus);
    for (int i = 0; i < threads; i++) printf("%s%d", i > 0 ? ", " : "", cpus[i]);
    putchar(']');
}

/* Highest resident memory of this program. getrusage would do, were its figure not inherited from the process that
 * started this one: under a Python of 300 MiB every program shows at least 300 MiB. */
static long long peak_rss_bytes(void) {
    char line[128];
    long long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        if (sscanf(line, "VmHWM: %lld", &kib) == 1) break;
    }
    if (status != NULL) (void)fclose(status);
    return kib * 1024;
}

static void print_bench(const struct series *series, uint64_t load_ns, uint64_t first_ns) {
    printf(", \"clock\": \"monotonic\", \"load_ms\": %.6f, \"first_inference_ms\": %.6f, \"peak_rss_bytes\": %lld",
           ms(load_ns), ms(first_ns), peak_rss_bytes());
    printf(", \"runs\": %llu, \"latency_stride\": %llu, \"latencies_ms\": [", (unsigned long long)series->seen,
           (unsigned long long)series->stride);
    for (size_t i = 0; i < series->count; i++) printf("%s%.6f", i > 0 ? ", " : "", ms(series->ns[i]));
    puts("]}");
}

int runner_bench(const edgec_model *model, const runner_options *options) {
    edgec_session *session = NULL;
    runner_tensors tensors;
    uint64_t first_ns = 0;
    struct series series = {.ns = malloc(MAX_LATENCIES * sizeof *series.ns), .stride = 1};
    if (series.ns == NULL) return runner_error(EXIT_DEVICE, "no memory for %d latencies", MAX_LATENCIES);
    int code = prepare(&tensors, model, options->input);
    if (code != EXIT_DONE) {
        free(series.ns);
        return code;
    }
    const uint64_t begin = runner_now_ns();
    code = runner_open(model, options, 0, &session);
    const uint64_t load_ns = runner_now_ns() - begin;
    if (code == EXIT_DONE) {
        runner_tensors_move(&tensors, session);
        const edgec_status status = measure(session, &tensors, options, &first_ns, &series);
        if (status != EDGEC_OK) code = runner_status(status);
    }
    if (code == EXIT_DONE) {
        print_header(model, session);
        print_bench(&series, load_ns, first_ns);
    }
    edgec_destroy(session);
    runner_tensors_free(&tensors);
    free(series.ns);
    return code;
}

/* Kernel k of run r took ns[k * runs + r]. */
struct profile {
    uint64_t *ns;
    uint64_t runs, run;
    int num_kernels;
};

static void record(void *user, int kernel_index, const char *name, uint64_t nanoseconds) {
    struct profile *profile = user;
    (void)name;
    if (kernel_index < 0 || kernel_index >= profile->num_kernels) return;
    profile->ns[(uint64_t)kernel_index * profile->runs + profile->run] += nanoseconds;
}

static edgec_status collect(edgec_session *session, runner_tensors *tensors, struct profile *profile) {
    uint64_t ns;
    edgec_status status = timed_run(session, tensors, &ns); /* the first run also pays for page faults */
    if (status == EDGEC_OK) status = edgec_set_profiler(session, record, profile);
    for (; status == EDGEC_OK && profile->run < profile->runs; profile->run++) {
        status = timed_run(session, tensors, &ns);
    }
    return status;
}

static int compare(const void *left, const void *right) {
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void print_profile(const edgec_model *model, const struct profile *profile) {
    printf(", \"runs\": %llu, \"kernels\": [", (unsigned long long)profile->runs);
    for (int i = 0; i < profile->num_kernels; i++) {
        uint64_t *ns = profile->ns + (uint64_t)i * profile->runs;
        qsort(ns, profile->runs, sizeof *ns, compare);
        printf("%s{\"index\": %d, \"name\": ", i > 0 ? ", " : "", i);
        runner_json_string(model->kernel_names[i]);
        printf(", \"median_ns\": %llu, \"min_ns\": %llu}", (unsigned long long)ns[profile->runs / 2],
               (unsigned long long)ns[0]);
    }
    putchar(']');
}

int runner_profile(const edgec_model *model, const runner_options *options) {
    edgec_session *session = NULL;
    runner_tensors tensors;
    struct profile profile = {.runs = options->runs};
    int code = prepare(&tensors, model, options->input);
    if (code != EXIT_DONE) return code;
    code = runner_open(model, options, 0, &session);
    if (code == EXIT_DONE) {
        model = edgec_session_model(session);
        profile.num_kernels = model->num_kernels;
        profile.ns = calloc((size_t)model->num_kernels * profile.runs + 1, sizeof *profile.ns);
        if (profile.ns == NULL) code = runner_error(EXIT_DEVICE, "no memory for %llu runs", (unsigned long long)profile.runs);
    }
    if (code == EXIT_DONE) {
        const edgec_status status = collect(session, &tensors, &profile);
        if (status != EDGEC_OK) code = runner_status(status);
    }
    if (code == EXIT_DONE) {
        const int threads = edgec_num_threads(session);
        print_header(model, session);
        print_profile(model, &profile);
        edgec_destroy(session); /* its workers may still be polling */
        session = NULL;
        if (options->peak_ms > 0) code = runner_peak(model, options, threads);
        puts("}");
    }
    edgec_destroy(session);
    runner_tensors_free(&tensors);
    free(profile.ns);
    return code;
}
