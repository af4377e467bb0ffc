/* A clock on the wall that can be set while a program runs: loaded by LD_PRELOAD, it adds to the time of day the seconds
   that stand in the file of HERALD_TEST_CLOCK. Time that is measured (CLOCK_MONOTONIC) goes on as ever, as it does when an
   operator or NTP sets a machine's clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *seconds;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("HERALD_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) {
        return;
    }
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) {
        seconds = mapped;
    }
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*original)(clockid_t, struct timespec *);
    if (!original) {
        original = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    int result = original(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && seconds) {
        time->tv_sec += *seconds;
    }
    return result;
}
