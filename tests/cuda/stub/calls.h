/* calls.h: what each function of the stub driver begins and ends with. */
#ifndef STUB_CALLS_H
#define STUB_CALLS_H

#include "objects.h"

#define EXPORT __attribute__((visibility("default")))

extern _Thread_local int depth; /* of this thread's stack of contexts */
extern int is_initialized;
int finish(int result);

/* A call: logs it, and gives the injected result, if any. */
#define BEGIN(...)                                                                                                     \
    const char *const call = __func__;                                                                                 \
    note("%s ", call), note(__VA_ARGS__), note(" ");                                                                   \
    const int wanted = injected(call);                                                                                 \
    (void)wanted
#define END(result) return finish(result)
#define FAIL_IF_WANTED()                                                                                               \
    if (wanted != 0) END(wanted)
#define NEED(condition, text)                                                                                          \
    if (!(condition)) END(violation(text))
#define NEED_CONTEXT() NEED(is_initialized && depth > 0 && retained > 0, "no current context")

#endif
