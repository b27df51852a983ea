/* runner_options.c: the command line of the runner. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

const char runner_usage[] =
    "usage: runner COMMAND [OPTION ...]\n"
    "\n"
    "  info                         describe the model, as JSON\n"
    "  run --input FILE --output FILE [--samples N]\n"
    "                               run every sample; files hold the raw tensors of all samples, one sample after the\n"
    "                               other, each with its tensors in order; '-' is stdin or stdout\n"
    "  bench [--input FILE] [--warmup-ms 200] [--min-time-ms 1000] [--min-runs 10] [--max-runs 1000000]\n"
    "                               measure latency, as JSON; inputs are pseudo-random unless a file gives them\n"
    "  profile [--input FILE] [--runs 50] [--peak-ms 0]\n"
    "                               measure each kernel, as JSON, and with --peak-ms for so long what the CPU and the\n"
    "                               memory can do at best\n"
    "\n"
    "  --threads N                  threads that share the work (default: the CPUs this process may use)\n"
    "  --cpus LIST                  pin the threads, for example 4-7 or 0,2\n"
    "  --params FILE                parameters (default: those linked in)\n"
    "  --help, --version\n"
    "\n"
    "exit codes: 0 done, 1 input or output at fault, 2 usage, 6 device\n";

enum { RUN = 1, BENCH = 2, PROFILE = 4, MEASURE = BENCH | PROFILE, EXECUTE = RUN | MEASURE };
enum { TEXT, NUMBER, THREADS, CPUS };
enum { MAX_CPU = 8191, MAX_MS = 24 * 3600 * 1000 };

static const struct rule {
    const char *name;
    int commands;
    int kind;
    size_t offset; /* of the member, for TEXT and NUMBER */
    uint64_t min, max;
} rules[] = {
    {"input", EXECUTE, TEXT, offsetof(runner_options, input), 0, 0},
    {"output", RUN, TEXT, offsetof(runner_options, output), 0, 0},
    {"params", EXECUTE, TEXT, offsetof(runner_options, params), 0, 0},
    {"samples", RUN, NUMBER, offsetof(runner_options, samples), 1, INT64_MAX},
    {"warmup-ms", BENCH, NUMBER, offsetof(runner_options, warmup_ms), 0, MAX_MS},
    {"min-time-ms", BENCH, NUMBER, offsetof(runner_options, min_time_ms), 0, MAX_MS},
    {"min-runs", BENCH, NUMBER, offsetof(runner_options, min_runs), 1, INT64_MAX},
    {"max-runs", BENCH, NUMBER, offsetof(runner_options, max_runs), 1, INT64_MAX},
    {"runs", PROFILE, NUMBER, offsetof(runner_options, runs), 1, 1000000},
    {"peak-ms", PROFILE, NUMBER, offsetof(runner_options, peak_ms), 0, MAX_MS},
    {"threads", EXECUTE, THREADS, 0, 1, EDGEC_MAX_THREADS},
    {"cpus", EXECUTE, CPUS, 0, 0, 0},
};
enum { NUM_RULES = sizeof rules / sizeof rules[0] };

static int parse_number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *value) {
    char *end;
    errno = 0;
    const unsigned long long parsed = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || parsed < min || parsed > max) {
        return runner_error(EXIT_USAGE, "--%s: '%s' is not a whole number from %llu to %llu", name, text,
                            (unsigned long long)min, (unsigned long long)max);
    }
    *value = parsed;
    return EXIT_DONE;
}

static int add_cpu(runner_options *options, int cpu) {
    for (int i = 0; i < options->num_cpus; i++) {
        if (options->cpus[i] == cpu) return runner_error(EXIT_USAGE, "--cpus: CPU %d is listed twice", cpu);
    }
    if (options->num_cpus == EDGEC_MAX_THREADS) {
        return runner_error(EXIT_USAGE, "--cpus: more than %d CPUs", EDGEC_MAX_THREADS);
    }
    options->cpus[options->num_cpus++] = cpu;
    return EXIT_DONE;
}

/* Reads a CPU number at *text and moves behind it; -1 when there is none in range. */
static int take_cpu(const char **text) {
    int cpu = 0;
    if (!isdigit((unsigned char)**text)) return -1;
    for (; isdigit((unsigned char)**text); (*text)++) {
        cpu = cpu * 10 + (**text - '0');
        if (cpu > MAX_CPU) return -1;
    }
    return cpu;
}

static int parse_cpus(runner_options *options, const char *text) {
    options->num_cpus = 0;
    for (const char *at = text;; at++) {
        const int first = take_cpu(&at);
        int last = first;
        if (*at == '-') {
            at++;
            last = take_cpu(&at);
        }
        if (first < 0 || last < first || (*at != ',' && *at != '\0')) {
            return runner_error(EXIT_USAGE, "--cpus: '%s' is not a list of CPU numbers such as 4-7,2 (at most %d)", text,
                                MAX_CPU);
        }
        for (int cpu = first; cpu <= last; cpu++) {
            const int code = add_cpu(options, cpu);
            if (code != EXIT_DONE) return code;
        }
        if (*at == '\0') return EXIT_DONE;
    }
}

static int apply(runner_options *options, const struct rule *rule, const char *text) {
    uint64_t value = 0;
    unsigned char *member = (unsigned char *)options + rule->offset;
    if (rule->kind == CPUS) return parse_cpus(options, text);
    if (rule->kind == TEXT) {
        memcpy(member, &text, sizeof text);
        return *text != '\0' ? EXIT_DONE : runner_error(EXIT_USAGE, "--%s: the name is empty", rule->name);
    }
    const int code = parse_number(rule->name, text, rule->min, rule->max, &value);
    if (code != EXIT_DONE) return code;
    if (rule->kind == THREADS) {
        options->threads = (int)value;
    } else {
        memcpy(member, &value, sizeof value);
    }
    return EXIT_DONE;
}

static int check_together(const runner_options *options, int command) {
    if (command == RUN && (options->input == NULL || options->output == NULL)) {
        return runner_error(EXIT_USAGE, "run needs --input FILE and --output FILE");
    }
    if (options->min_runs > options->max_runs) {
        return runner_error(EXIT_USAGE, "--min-runs is more than --max-runs");
    }
    if (options->num_cpus > 0 && options->threads > options->num_cpus) {
        return runner_error(EXIT_USAGE, "--cpus lists %d CPUs for %d threads", options->num_cpus, options->threads);
    }
    return EXIT_DONE;
}

int runner_parse(runner_options *options, int argc, char **argv) {
    const char *name = argv[0];
    const int command = strcmp(name, "run") == 0 ? RUN : strcmp(name, "bench") == 0 ? BENCH
                        : strcmp(name, "profile") == 0 ? PROFILE : 0;
    struct option known[NUM_RULES + 1] = {{NULL, 0, NULL, 0}};
    for (int i = 0; i < NUM_RULES; i++) known[i] = (struct option){rules[i].name, required_argument, NULL, i};

    *options = (runner_options){.warmup_ms = 200, .min_time_ms = 1000, .min_runs = 10, .max_runs = 1000000, .runs = 50};
    opterr = 0;
    for (;;) {
        int index = 0;
        const int found = getopt_long(argc, argv, ":", known, &index);
        if (found == -1) break;
        if (found == ':') return runner_error(EXIT_USAGE, "%s needs a value", argv[optind - 1]);
        if (found == '?' && optopt != 0) return runner_error(EXIT_USAGE, "unknown option '-%c' (see --help)", optopt);
        if (found == '?') return runner_error(EXIT_USAGE, "unknown option '%s' (see --help)", argv[optind - 1]);
        if (!(rules[index].commands & command)) {
            return runner_error(EXIT_USAGE, "%s has no option --%s", name, rules[index].name);
        }
        const int code = apply(options, &rules[index], optarg);
        if (code != EXIT_DONE) return code;
    }
    if (optind < argc) return runner_error(EXIT_USAGE, "unexpected argument '%s'", argv[optind]);
    return check_together(options, command);
}
