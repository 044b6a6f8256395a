/* The floor for calls of Python: a C program's thread that lets go of the interpreter, and attaches to it for each call.
 *
 * That is what a run loop must do for a method that answers an access. The interpreter's functions come as pointers, so
 * that this is compiled without Python's headers, and works in any interpreter that has loaded it (Python/C API reference,
 * "Thread State and the Global Interpreter Lock").
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Functions of the interpreter; hyperpy/_bench_floor.py fills it in. */
struct python {
    void *(*save_thread)(void);
    void (*restore_thread)(void *state);
    int (*ensure)(void);
    void (*release)(int state);
    void *(*vectorcall)(void *callable, void *const *arguments, size_t count, void *names);
    void *(*from_number)(unsigned long long value);
    unsigned long long (*as_number)(void *number);
    void (*drop)(void *object);
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Attaches, calls `method` with up to three numbers, and lets go. 0, or -1 with the interpreter's exception set. */
static int call(const struct python *python, void *method, size_t arguments, int has_answer, uint64_t *answer)
{
    const int state = python->ensure();
    void *numbers[3];
    for (size_t i = 0; i < arguments; i++)
        numbers[i] = python->from_number(i);
    void *result = python->vectorcall(method, numbers, arguments, NULL);
    if (result && has_answer)
        *answer = python->as_number(result);
    for (size_t i = 0; i < arguments; i++)
        python->drop(numbers[i]);
    if (result)
        python->drop(result);
    python->release(state);
    return result ? 0 : -1;
}

/* Called attached. `count` samples, each the nanoseconds of `calls` calls. */
int floor_calls(const struct python *python, void *method, uint32_t arguments, int has_answer, uint64_t calls,
                uint64_t count, uint64_t *ns)
{
    uint64_t answer = 0;
    int result = arguments > 3 ? -1 : 0;
    void *state = python->save_thread();
    for (uint64_t i = 0; i < count && result == 0; i++) {
        const uint64_t began = now();
        for (uint64_t done = 0; done < calls && result == 0; done++)
            result = call(python, method, arguments, has_answer, &answer);
        ns[i] = now() - began;
    }
    python->restore_thread(state);
    return result;
}
