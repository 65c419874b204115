/* Mends two waits of libfaketime 0.9.10: preloaded before it.
 *
 * What waits until a moment of a clock (time.sleep of Python from 3.11 on, and every lock with a time limit) reads the
 * moment from a clock that libfaketime may have moved. For clock_nanosleep libfaketime takes the moment for one of the
 * time of day, and the caller gets EINVAL; sem_clockwait it does not know, and the kernel waits for ten days. Here the
 * moment becomes the one of the kernel's clock that is as far away.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static long long nanoseconds(const struct timespec *moment) { return moment->tv_sec * SECOND + moment->tv_nsec; }

static struct timespec of_the_kernel(clockid_t clock, const struct timespec *moment) {
    struct timespec faked, real;
    clock_gettime(clock, &faked);
    syscall(SYS_clock_gettime, clock, &real);
    long long until = nanoseconds(moment) - nanoseconds(&faked) + nanoseconds(&real);
    if (until < 0) until = 0;
    return (struct timespec){until / SECOND, until % SECOND};
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *request, struct timespec *left) {
    struct timespec until = flags & TIMER_ABSTIME ? of_the_kernel(clock, request) : *request;
    return syscall(SYS_clock_nanosleep, clock, flags, &until, left) ? errno : 0;
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *moment) {
    static int (*next)(sem_t *, clockid_t, const struct timespec *);
    if (!next) next = (int (*)(sem_t *, clockid_t, const struct timespec *))dlsym(RTLD_NEXT, "sem_clockwait");
    struct timespec until = of_the_kernel(clock, moment);
    return next(semaphore, clock, &until);
}
