/* check.h - the test harness of psocket's C tests. Include it in one file per program; it provides main.
 *
 *     TEST(name) { CHECK(1 + 1 == 2); }
 *     TEST_LIMIT(slow_name, 60) { ... }      own time limit in seconds (TEST has 20)
 *
 * CHECK, CHECK_INT, CHECK_STR and CHECK_MEM record a failure and go on; REQUIRE leaves the test at once; SKIP(why)
 * leaves it uncounted. Each test runs in a process of its own: a crash, a hang, a sanitizer's report (leaks included)
 * or a descriptor left open fails that test alone.
 *
 * Arguments: run only the tests whose names contain one of them; "-NAME" leaves that one out. CHECK_NOFORK=1 runs them in
 * this process (for a debugger); CHECK_SLOW=N multiplies the time limits (for valgrind or an emulator). Compiled with
 * CHECK_PLAIN, for systems without processes like POSIX', that is the only way.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#ifndef CHECK_PLAIN
#include <sys/mman.h>
#include <sys/wait.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#endif

#define CHECK_UNUSED __attribute__((unused))
#define CHECK_PRINTF(f, a) __attribute__((format(printf, f, a)))

#define TEST(name) TEST_LIMIT(name, 20)
#define TEST_LIMIT(name, seconds) \
    static void name(void); \
    static check_test check_entry_##name = {#name, name, seconds, NULL}; \
    __attribute__((constructor)) static void check_register_##name(void) { check_register(&check_entry_##name); } \
    static void name(void)

/* Each answers whether the check held. */
#define CHECK(cond) check_that((cond) ? 1 : 0, __FILE__, __LINE__, #cond)
#define CHECK_INT(got, want) check_int((long long)(got), (long long)(want), __FILE__, __LINE__, #got)
#define CHECK_STR(got, want) check_str((got), (want), __FILE__, __LINE__, #got)
#define CHECK_MEM(got, want, n) check_mem((got), (want), (size_t)(n), __FILE__, __LINE__, #got)
#define REQUIRE(cond) \
    do { \
        if (!CHECK(cond)) return; \
    } while (0)
#define SKIP(why) \
    do { \
        check_skip(why); \
        return; \
    } while (0)

typedef struct check_test {
    const char *name;
    void (*run)(void);
    int seconds;
    struct check_test *next;
} check_test;

/* What a test's process tells its parent; shared memory, so that it survives a crash. */
typedef struct check_report {
    volatile int failures;
    volatile int finished;
    char skipped[256];
    char text[8192]; /* the failures, one per line */
} check_report;

static check_test *check_first, *check_last;
static check_report *check_shared;

static void check_register(check_test *t)
{
    if (check_last) check_last->next = t;
    else check_first = t;
    check_last = t;
}

CHECK_PRINTF(3, 4)
static void check_fail(const char *file, int line, const char *format, ...)
{
    size_t used = strlen(check_shared->text), room = sizeof check_shared->text - used;
    int n = 0;
    va_list ap;
    check_shared->failures = check_shared->failures + 1;
    if (room < 600) return; /* enough was said */
    if (file) n = snprintf(check_shared->text + used, room, "%s:%d: ", file, line);
    if (n < 0 || (size_t)n >= room) return;
    used += (size_t)n;
    room -= (size_t)n;
    va_start(ap, format);
    n = vsnprintf(check_shared->text + used, room < 500 ? room : 500, format, ap);
    va_end(ap);
    if (n < 0) return;
    used = strlen(check_shared->text);
    check_shared->text[used] = '\n';
    check_shared->text[used + 1] = 0;
}

static CHECK_UNUSED void check_skip(const char *why)
{
    snprintf(check_shared->skipped, sizeof check_shared->skipped, "%s", why);
}

static CHECK_UNUSED int check_that(int ok, const char *file, int line, const char *what)
{
    if (!ok) check_fail(file, line, "%s", what);
    return ok;
}

static CHECK_UNUSED int check_int(long long got, long long want, const char *file, int line, const char *what)
{
    if (got != want) check_fail(file, line, "%s is %lld, not %lld", what, got, want);
    return got == want;
}

static CHECK_UNUSED int check_str(const char *got, const char *want, const char *file, int line, const char *what)
{
    int same = got && want ? strcmp(got, want) == 0 : got == want;
    if (!same)
        check_fail(file, line, "%s is %s%.200s%s, not %s%.200s%s", what, got ? "\"" : "", got ? got : "NULL",
                   got ? "\"" : "", want ? "\"" : "", want ? want : "NULL", want ? "\"" : "");
    return same;
}

static CHECK_UNUSED int check_mem(const void *got, const void *want, size_t n, const char *file, int line,
                                  const char *what)
{
    const unsigned char *g = (const unsigned char *)got, *w = (const unsigned char *)want;
    size_t i;
    if (n && (!g || !w)) {
        check_fail(file, line, "%s: NULL, %lu bytes expected", what, (unsigned long)n);
        return 0;
    }
    for (i = 0; i < n && g[i] == w[i]; i++) continue;
    if (i == n) return 1;
    check_fail(file, line, "%s differs at byte %lu of %lu: 0x%02x, not 0x%02x", what, (unsigned long)i,
               (unsigned long)n, g[i], w[i]);
    return 0;
}

/* The folder that tests/certs.sh made. */
static CHECK_UNUSED const char *check_certs(void)
{
    const char *dir = getenv("PSOCKET_CERTS");
    return dir && *dir ? dir : "build/certs";
}

static void check_sleep_us(long us)
{
    struct timespec t;
    t.tv_sec = us / 1000000;
    t.tv_nsec = us % 1000000 * 1000;
    nanosleep(&t, NULL);
}

static int64_t check_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

#ifdef CHECK_PLAIN

static check_report *check_new_report(void)
{
    static check_report report;
    return &report;
}

static void check_run(const check_test *t, int seconds)
{
    (void)seconds;
    t->run();
    fflush(NULL);
}

#else

static check_report *check_new_report(void)
{
    void *page = mmap(NULL, sizeof(check_report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? NULL : (check_report *)page;
}

/* Marks the open descriptors below 4096; returns how many there are, or -1 where the system has no such list. */
static int check_descriptors(unsigned char open[4096])
{
    int count = 0;
    struct dirent *d;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir) dir = opendir("/dev/fd");
    if (!dir) return -1;
    memset(open, 0, 4096);
    while ((d = readdir(dir)) != NULL) {
        int fd = atoi(d->d_name);
        if (d->d_name[0] == '.' || fd == dirfd(dir)) continue;
        if (fd >= 0 && fd < 4096) open[fd] = 1;
        count++;
    }
    closedir(dir);
    return count;
}

/* Runs one test and looks at what it left open. A helper thread may take a moment to end, so this asks again for
   a while before it complains. */
static void check_run_here(const check_test *t)
{
    unsigned char before[4096], after[4096];
    int had = check_descriptors(before), has, fd, tries = 0;
    t->run();
    fflush(NULL);
    while ((has = check_descriptors(after)) != had && tries++ < 200) check_sleep_us(10000);
    if (has != had) {
        check_fail(NULL, 0, "%d descriptors open before, %d after", had, has);
        for (fd = 0; fd < 4096; fd++) {
            char link[64], target[200];
            ssize_t n;
            if (!after[fd] || before[fd]) continue;
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            n = readlink(link, target, sizeof target - 1);
            if (n > 0) check_fail(NULL, 0, "left open: %d %.*s", fd, (int)n, target);
        }
    }
    check_shared->finished = 1;
}

static void check_run_forked(const check_test *t, int seconds)
{
    int64_t deadline = check_now_ms() + (int64_t)seconds * 1000;
    int status = 0;
    long pause = 200;
    pid_t pid, done, parent = getpid();
    fflush(NULL);
    pid = fork();
    if (pid < 0) {
        check_fail(NULL, 0, "fork: %s", strerror(errno));
        return;
    }
    if (pid == 0) {
        setpgid(0, 0);
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
        if (getppid() != parent) _exit(1);
        signal(SIGPIPE, SIG_DFL); /* the library must not raise it, whatever this program's parent ignores */
        check_run_here(t);
        exit(0); /* LeakSanitizer looks now */
    }
    setpgid(pid, pid);
    while ((done = waitpid(pid, &status, WNOHANG)) == 0 && check_now_ms() < deadline) {
        check_sleep_us(pause);
        if (pause < 5000) pause *= 2;
    }
    if (done == 0) {
        check_fail(NULL, 0, "not finished after %d s", seconds);
        kill(-pid, SIGKILL);
        waitpid(pid, &status, 0);
        return;
    }
    kill(-pid, SIGKILL); /* whatever it started and left */
    if (done < 0) check_fail(NULL, 0, "waitpid: %s", strerror(errno));
    else if (WIFSIGNALED(status))
        check_fail(NULL, 0, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0) check_fail(NULL, 0, "exit status %d", WEXITSTATUS(status));
    else if (!check_shared->finished) check_fail(NULL, 0, "the test called exit");
}

static void check_run(const check_test *t, int seconds)
{
    const char *nofork = getenv("CHECK_NOFORK");
    if (nofork && *nofork) check_run_here(t);
    else check_run_forked(t, seconds);
}

#endif

/* Is it among the arguments, which name tests or leave some out? */
static int check_wanted(const check_test *t, int argc, char **argv)
{
    int i, named = 0, wanted = 0;
    for (i = 1; i < argc; i++) {
        if (argv[i][0] == '-' && strcmp(argv[i] + 1, t->name) == 0) return 0;
        if (argv[i][0] == '-') continue;
        named = 1;
        wanted |= strstr(t->name, argv[i]) != NULL;
    }
    return wanted || !named;
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0, slow = 1;
    const char *env = getenv("CHECK_SLOW");
    check_test *t;
    check_shared = check_new_report();
    if (!check_shared) {
        perror("mmap");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (env && atoi(env) > 1) slow = atoi(env);
    for (t = check_first; t; t = t->next) {
        if (!check_wanted(t, argc, argv)) continue;
        memset(check_shared, 0, sizeof *check_shared);
        check_run(t, t->seconds * slow);
        if (check_shared->failures) {
            char *end = strrchr(check_shared->text, '\n');
            if (end) *end = 0;
            failed++;
            printf("FAIL %s: ", t->name);
            for (end = check_shared->text; *end; end++) {
                putchar(*end);
                if (*end == '\n') printf("    ");
            }
            putchar('\n');
        } else if (check_shared->skipped[0]) {
            printf("skip %s: %s\n", t->name, check_shared->skipped);
        } else {
            passed++;
            printf("ok %s\n", t->name);
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}

#endif /* CHECK_H */
