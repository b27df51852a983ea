/* Drives the runtime from several threads; run under the sanitizers. Arguments: runs, threads per session. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgec.h"

enum { SIZE = 1003, APPLICATION_THREADS = 3 };
extern const edgec_model edgec_model_fake;

static _Alignas(64) unsigned char params[64 + 4 * SIZE];
static int runs, threads;
static atomic_int errors, busy;

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition) && atomic_fetch_add(&errors, 1) < 10)                                                         \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, edgec_last_error());                           \
    } while (0)

static edgec_session *create(int count) {
    const edgec_options options = {
        .struct_size = sizeof options, .threads = count, .params = params, .params_size = sizeof params};
    edgec_session *session = NULL;
    EXPECT(edgec_create(&edgec_model_fake, &options, &session) == EDGEC_OK);
    return session;
}

struct data {
    float x[SIZE + 1], y[SIZE + 1];
    int32_t mode, counts[16];
    unsigned char bytes[77];
};

static edgec_status run(edgec_session *session, struct data *data, int offset) {
    const void *inputs[] = {data->x + offset, &data->mode};
    void *outputs[] = {data->y + offset, data->counts, data->bytes};
    return edgec_run(session, inputs, outputs);
}

static void check(const struct data *data, int offset, int count) {
    const float *bias = (const float *)(const void *)(params + 64);
    int num_wrong = 0;
    for (int i = 0; i < SIZE; i++) {
        const int from = SIZE - 1 - i;
        num_wrong += data->y[offset + i] != 2.0f * data->x[offset + from] + bias[from];
    }
    EXPECT(num_wrong == 0);
    for (int i = 0; i < 11; i++) EXPECT(data->counts[i] == 100 * i + 9);
    EXPECT(data->counts[15] == count);
    EXPECT(data->bytes[76] == 76);
}

static void *own_session(void *argument) {
    const int id = *(const int *)argument;
    struct data *data = aligned_alloc(64, (sizeof *data + 63) / 64 * 64);
    edgec_session *session = create(threads);
    for (int r = 0; r < runs; r++) {
        const int offset = r & 1;
        for (int i = 0; i < SIZE; i++) data->x[offset + i] = (float)(id * 7 + r * 3 + i);
        data->mode = r % 16 == 15 ? 1 + r / 16 % 4 : 0;
        const edgec_status status = run(session, data, offset);
        EXPECT(status == (data->mode == 0 ? EDGEC_OK : EDGEC_ERROR_KERNEL));
        if (status == EDGEC_OK) check(data, offset, threads);
    }
    edgec_destroy(session);
    free(data);
    return NULL;
}

static void *shared_session(void *session) {
    struct data *data = calloc(1, sizeof *data);
    for (int r = 0; r < runs; r++) {
        const edgec_status status = run(session, data, 0);
        EXPECT(status == EDGEC_OK || status == EDGEC_ERROR_BUSY);
        if (status == EDGEC_OK) check(data, 0, threads);
        if (status == EDGEC_ERROR_BUSY) atomic_fetch_add(&busy, 1);
    }
    free(data);
    return NULL;
}

static void in_threads(void *(*function)(void *), void *argument) {
    pthread_t ids[APPLICATION_THREADS];
    int numbers[APPLICATION_THREADS];
    for (int i = 0; i < APPLICATION_THREADS; i++) {
        numbers[i] = i;
        pthread_create(&ids[i], NULL, function, argument != NULL ? argument : &numbers[i]);
    }
    for (int i = 0; i < APPLICATION_THREADS; i++) pthread_join(ids[i], NULL);
}

int main(int argc, char **argv) {
    runs = argc > 1 ? atoi(argv[1]) : 100;
    threads = argc > 2 ? atoi(argv[2]) : 2;
    for (int i = 0; i < SIZE; i++) ((float *)(void *)(params + 64))[i] = (float)i / 4;
    in_threads(own_session, NULL);
    edgec_session *session = create(threads);
    in_threads(shared_session, session);
    edgec_destroy(session);
    for (int i = 0; i < 30; i++) edgec_destroy(create(i % 5 + 1));
    printf("errors %d, busy %d\n", atomic_load(&errors), atomic_load(&busy));
    return atomic_load(&errors) != 0;
}
