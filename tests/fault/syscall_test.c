/* Every system call fails in turn, once and then for ever after, in each way it can fail: each scenario ends with the fitting
   code or succeeds in full. Interrupted calls and short counts change nothing at all. */
#include <dlfcn.h>
#include <bearssl.h>
#include "check.h"
#include "fault/names.h"
#undef getaddrinfo
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum call {
    C_socket, C_connect, C_bind, C_listen, C_accept4, C_getsockopt, C_setsockopt, C_getsockname, C_getpeername, C_recv,
    C_recvfrom, C_send, C_sendto, C_shutdown, C_poll, C_epoll_create1, C_epoll_ctl, C_epoll_wait, C_eventfd, C_read,
    C_getentropy, C_pthread_create, C_getaddrinfo, C_open, C_unlink, C_socketpair, C_fcntl, CALLS
};

static long fault_counts[CALLS], fault_at, fault_hits, fault_live;
static int fault_call = -1, fault_errno, fault_for_ever, fault_short, fault_storm;
static __thread unsigned storm_seed;
static __thread int storm_left;

/* Whether this call fails, with errno set. The resolver's threads come here, too. */
static int fault_if(enum call c, int may_wait)
{
    long n = __atomic_add_fetch(&fault_counts[c], 1, __ATOMIC_SEQ_CST);
    if (fault_storm && may_wait) {
        if (c == C_recv || c == C_recvfrom || c == C_send || c == C_sendto || c == C_accept4 || c == C_poll || c == C_epoll_wait ||
            c == C_read) {
            if (storm_left-- > 0) return errno = EINTR, 1;
            storm_left = (storm_seed = storm_seed * 1103515245 + 12345) >> 16 & 7; /* that many before the next one gets through */
        }
        return 0;
    }
    if (fault_call != (int)c || n < fault_at || (n > fault_at && !fault_for_ever)) return 0;
    __atomic_add_fetch(&fault_hits, 1, __ATOMIC_SEQ_CST);
    errno = fault_errno;
    return 1;
}

static int fault(enum call c)
{
    return fault_if(c, 1);
}

/* What a failed call has done to its connection: nothing more comes or goes. */
static ssize_t broken(int fd)
{
    int e = errno;
    if (e == EPIPE || e == ECONNRESET || e == ENOTCONN || e == ETIMEDOUT) shutdown(fd, SHUT_RDWR);
    errno = e;
    return -1;
}

static int fault_socket(int d, int t, int p) { return fault(C_socket) ? -1 : socket(d, t, p); }
static int fault_connect(int fd, const struct sockaddr *sa, socklen_t n)
{
    int r;
    if (!fault(C_connect)) return connect(fd, sa, n);
    if (fault_errno != EINTR) return -1;
    r = connect(fd, sa, n); /* an interrupted attempt goes on by itself */
    if (r == 0 || errno == EINPROGRESS) errno = EINTR;
    return -1;
}
static int datagrams(int fd)
{
    int type = 0;
    socklen_t n = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_DGRAM;
}
static int fault_socketpair(int d, int t, int p, int fds[2]) { return fault(C_socketpair) ? -1 : socketpair(d, t, p, fds); }
static int fault_fcntl(int fd, int what, int value) { return fault(C_fcntl) ? -1 : fcntl(fd, what, value); }
static int fault_bind(int fd, const struct sockaddr *sa, socklen_t n) { return fault(C_bind) ? -1 : bind(fd, sa, n); }
static int fault_listen(int fd, int n) { return fault(C_listen) ? -1 : listen(fd, n); }
static int fault_accept4(int fd, struct sockaddr *sa, socklen_t *n, int flags) { return fault(C_accept4) ? -1 : accept4(fd, sa, n, flags); }
static int fault_getsockopt(int fd, int l, int o, void *p, socklen_t *n) { return fault(C_getsockopt) ? -1 : getsockopt(fd, l, o, p, n); }
static int fault_setsockopt(int fd, int l, int o, const void *p, socklen_t n) { return fault(C_setsockopt) ? -1 : setsockopt(fd, l, o, p, n); }
static int fault_getsockname(int fd, struct sockaddr *sa, socklen_t *n) { return fault(C_getsockname) ? -1 : getsockname(fd, sa, n); }
static int fault_getpeername(int fd, struct sockaddr *sa, socklen_t *n) { return fault(C_getpeername) ? -1 : getpeername(fd, sa, n); }
static ssize_t fault_recv(int fd, void *p, size_t n, int flags) { return fault(C_recv) ? broken(fd) : recv(fd, p, fault_short && n && !datagrams(fd) ? 1 : n, flags); }
static ssize_t fault_recvfrom(int fd, void *p, size_t n, int flags, struct sockaddr *sa, socklen_t *size)
{
    if (!sa) return fault_recv(fd, p, n, flags);
    return fault(C_recvfrom) ? -1 : recvfrom(fd, p, n, flags, sa, size);
}
static ssize_t fault_send(int fd, const void *p, size_t n, int flags)
{
    return fault(C_send) ? broken(fd) : send(fd, p, fault_short && n && !datagrams(fd) ? 1 : n, flags);
}
static ssize_t fault_sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *sa, socklen_t size)
{
    if (!sa) return fault_send(fd, p, n, flags);
    return fault(C_sendto) ? -1 : sendto(fd, p, n, flags, sa, size);
}
static int fault_shutdown(int fd, int how) { return fault(C_shutdown) ? (int)broken(fd) : shutdown(fd, how); }
static int fault_poll(struct pollfd *p, nfds_t n, int ms) { return fault_if(C_poll, ms != 0) ? -1 : poll(p, n, ms); }
static int fault_epoll_create1(int flags) { return fault(C_epoll_create1) ? -1 : epoll_create1(flags); }
static int fault_changes = 1; /* also what changes an entry, which Linux has no reason to refuse */
static int fault_epoll_ctl(int fd, int op, int what, struct epoll_event *ev)
{
    return (op == EPOLL_CTL_ADD || (op == EPOLL_CTL_MOD && fault_changes)) && fault(C_epoll_ctl) ? -1 : epoll_ctl(fd, op, what, ev);
}
static int fault_epoll_wait(int fd, struct epoll_event *ev, int n, int ms) { return fault_if(C_epoll_wait, ms != 0) ? -1 : epoll_wait(fd, ev, n, ms); }
static int fault_eventfd(unsigned n, int flags) { return fault(C_eventfd) ? -1 : eventfd(n, flags); }
static ssize_t fault_read(int fd, void *p, size_t n) { return (fault_errno != EIO || n > 64) && fault(C_read) ? -1 : read(fd, p, fault_short && n > 8 ? n / 2 : n); }
static int fault_getentropy(void *p, size_t n) { return fault(C_getentropy) ? -1 : getentropy(p, n); }
static int fault_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *arg)
{
    return fault(C_pthread_create) ? fault_errno : pthread_create(t, a, run, arg);
}
static int fault_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    if (!fault(C_getaddrinfo)) return names_getaddrinfo(host, service, hints, out);
    return fault_errno == ENOMEM ? EAI_MEMORY : fault_errno == EAGAIN ? EAI_AGAIN : fault_errno == ENOENT ? EAI_NONAME : EAI_SYSTEM;
}
static int fault_open(const char *path, int flags) { return fault(C_open) ? -1 : open(path, flags); }

static int fault_unlink(const char *path) { return fault(C_unlink) ? -1 : unlink(path); }

static void *fault_malloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (p) memset(p, 0xa5, n);
    if (p) __atomic_add_fetch(&fault_live, 1, __ATOMIC_SEQ_CST);
    return p;
}
static void *fault_realloc(void *p, size_t n) { return p ? realloc(p, n) : fault_malloc(n); }
static void fault_free(void *p)
{
    if (p) __atomic_sub_fetch(&fault_live, 1, __ATOMIC_SEQ_CST);
    free(p);
}

#define PSOCKET_MALLOC(n) fault_malloc(n)
#define PSOCKET_REALLOC(p, n) fault_realloc(p, n)
#define PSOCKET_FREE(p) fault_free(p)
#define socket fault_socket
#define connect fault_connect
#define bind fault_bind
#define socketpair fault_socketpair
#define fcntl fault_fcntl
#define listen fault_listen
#define accept4 fault_accept4
#define getsockopt fault_getsockopt
#define setsockopt fault_setsockopt
#define getsockname fault_getsockname
#define getpeername fault_getpeername
#define recvfrom fault_recvfrom
#define sendto fault_sendto
#define shutdown fault_shutdown
#define poll fault_poll
#define epoll_create1 fault_epoll_create1
#define epoll_ctl fault_epoll_ctl
#define epoll_wait fault_epoll_wait
#define eventfd fault_eventfd
#define read fault_read
#define getentropy fault_getentropy
#define pthread_create fault_pthread_create
#define getaddrinfo fault_getaddrinfo
#define open fault_open
#define unlink fault_unlink
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#undef socket
#undef connect
#undef bind
#undef socketpair
#undef fcntl
#undef listen
#undef accept4
#undef getsockopt
#undef setsockopt
#undef getsockname
#undef getpeername
#undef recvfrom
#undef sendto
#undef shutdown
#undef poll
#undef epoll_create1
#undef epoll_ctl
#undef epoll_wait
#undef eventfd
#undef read
#undef getentropy
#undef pthread_create
#undef getaddrinfo
#undef open
#undef unlink
#include "fault/scenes.h"
#include "fault/more.h"

#define CONTINUES 1 /* the scenario succeeds all the same */
#define EITHER 2    /* it succeeds, or answers one of the codes */
#define ENDS 3      /* it succeeds only if the call was not needed (the same as EITHER; says what is expected) */

/* How a call fails, and what may come of it. */
static const struct failure {
    enum call call;
    const char *name;
    int e, meaning;
    int codes[4];
} failures[] = {
    { C_socket, "socket", EMFILE, ENDS, { PSOCKET_DESCRIPTORS } },
    { C_socket, "socket", ENOBUFS, ENDS, { PSOCKET_NOMEM } },
    { C_socket, "socket", EAFNOSUPPORT, ENDS, { PSOCKET_ADDRESS_NOT_AVAILABLE, PSOCKET_REFUSED } },
    { C_connect, "connect", EINTR, CONTINUES, { 0 } },
    { C_connect, "connect", ECONNREFUSED, ENDS, { PSOCKET_REFUSED } },
    { C_connect, "connect", ENETUNREACH, ENDS, { PSOCKET_UNREACHABLE, PSOCKET_REFUSED } },
    { C_connect, "connect", EADDRNOTAVAIL, ENDS, { PSOCKET_ADDRESS_NOT_AVAILABLE, PSOCKET_REFUSED } },
    { C_connect, "connect", ENOMEM, ENDS, { PSOCKET_NOMEM } },
    { C_bind, "bind", EADDRINUSE, ENDS, { PSOCKET_ADDRESS_IN_USE } },
    { C_bind, "bind", EACCES, ENDS, { PSOCKET_ACCESS } },
    { C_bind, "bind", EADDRNOTAVAIL, ENDS, { PSOCKET_ADDRESS_NOT_AVAILABLE } },
    { C_socketpair, "socketpair", EMFILE, ENDS, { PSOCKET_DESCRIPTORS } },
    { C_socketpair, "socketpair", ENOMEM, ENDS, { PSOCKET_NOMEM } },
    { C_fcntl, "fcntl", EBADF, EITHER, { PSOCKET_INVALID, PSOCKET_OS } },
    { C_listen, "listen", EADDRINUSE, ENDS, { PSOCKET_ADDRESS_IN_USE } },
    { C_accept4, "accept4", EINTR, CONTINUES, { 0 } },
    { C_accept4, "accept4", ECONNABORTED, CONTINUES, { 0 } },
    { C_accept4, "accept4", EMFILE, ENDS, { PSOCKET_DESCRIPTORS } },
    { C_accept4, "accept4", ENOBUFS, ENDS, { PSOCKET_NOMEM } },
    { C_getsockopt, "getsockopt", ECONNREFUSED, ENDS, { PSOCKET_REFUSED, PSOCKET_INVALID } },
    { C_getsockopt, "getsockopt", ENOBUFS, ENDS, { PSOCKET_NOMEM } },
    { C_setsockopt, "setsockopt", EINVAL, EITHER, { PSOCKET_INVALID } },
    { C_setsockopt, "setsockopt", ENOBUFS, EITHER, { PSOCKET_NOMEM } },
    { C_getsockname, "getsockname", ENOBUFS, ENDS, { PSOCKET_NOMEM } },
    { C_getpeername, "getpeername", ENOTCONN, ENDS, { PSOCKET_RESET } },
    { C_recv, "recv", EINTR, CONTINUES, { 0 } },
    { C_recv, "recv", EAGAIN, CONTINUES, { 0 } },
    { C_recv, "recv", ECONNRESET, ENDS, { PSOCKET_RESET, PSOCKET_TRUNCATED } },
    { C_recv, "recv", ENOMEM, ENDS, { PSOCKET_NOMEM } },
    { C_recv, "recv", ETIMEDOUT, ENDS, { PSOCKET_UNREACHABLE, PSOCKET_RESET, PSOCKET_TRUNCATED } },
    { C_recvfrom, "recvfrom", EINTR, CONTINUES, { 0 } },
    { C_recvfrom, "recvfrom", EAGAIN, CONTINUES, { 0 } },
    { C_recvfrom, "recvfrom", ECONNREFUSED, ENDS, { PSOCKET_REFUSED } },
    { C_recvfrom, "recvfrom", ENOMEM, ENDS, { PSOCKET_NOMEM } },
    { C_send, "send", EINTR, CONTINUES, { 0 } },
    { C_send, "send", EAGAIN, CONTINUES, { 0 } },
    { C_send, "send", EPIPE, ENDS, { PSOCKET_RESET, PSOCKET_TRUNCATED, PSOCKET_CLOSED } },
    { C_send, "send", ECONNRESET, ENDS, { PSOCKET_RESET, PSOCKET_TRUNCATED } },
    { C_send, "send", ENOBUFS, ENDS, { PSOCKET_NOMEM } },
    { C_sendto, "sendto", EINTR, CONTINUES, { 0 } },
    { C_sendto, "sendto", EAGAIN, CONTINUES, { 0 } },
    { C_sendto, "sendto", ENOBUFS, ENDS, { PSOCKET_NOMEM } },
    { C_sendto, "sendto", EMSGSIZE, ENDS, { PSOCKET_MESSAGE_SIZE } },
    { C_shutdown, "shutdown", ENOTCONN, EITHER, { PSOCKET_RESET, PSOCKET_CLOSED, PSOCKET_TRUNCATED } },
    { C_shutdown, "shutdown", ENOBUFS, ENDS, { PSOCKET_NOMEM } },
    { C_poll, "poll", EINTR, CONTINUES, { 0 } },
    { C_poll, "poll", ENOMEM, EITHER, { PSOCKET_NOMEM } },
    { C_epoll_create1, "epoll_create1", EMFILE, ENDS, { PSOCKET_DESCRIPTORS } },
    { C_epoll_create1, "epoll_create1", ENOMEM, ENDS, { PSOCKET_NOMEM } },
    { C_epoll_ctl, "epoll_ctl", ENOMEM, EITHER, { PSOCKET_NOMEM } },
    { C_epoll_ctl, "epoll_ctl", ENOSPC, EITHER, { PSOCKET_OS } },
    { C_epoll_wait, "epoll_wait", EINTR, CONTINUES, { 0 } },
    { C_epoll_wait, "epoll_wait", ENOMEM, EITHER, { PSOCKET_NOMEM } },
    { C_eventfd, "eventfd", EMFILE, ENDS, { PSOCKET_DESCRIPTORS } },
    { C_eventfd, "eventfd", ENOMEM, ENDS, { PSOCKET_NOMEM } },
    { C_read, "read", EINTR, CONTINUES, { 0 } },
    { C_read, "read", EIO, EITHER, { PSOCKET_FILE, PSOCKET_TLS_NO_TRUST } },
    { C_getentropy, "getentropy", ENOSYS, ENDS, { PSOCKET_NO_ENTROPY } },
    { C_pthread_create, "pthread_create", EAGAIN, ENDS, { PSOCKET_OS } },
    { C_getaddrinfo, "getaddrinfo", ENOMEM, ENDS, { PSOCKET_NOMEM } },
    { C_getaddrinfo, "getaddrinfo", EAGAIN, ENDS, { PSOCKET_DNS_TEMPORARY } },
    { C_getaddrinfo, "getaddrinfo", ENOENT, ENDS, { PSOCKET_DNS_NOT_FOUND } },
    { C_getaddrinfo, "getaddrinfo", EMFILE, ENDS, { PSOCKET_DNS, PSOCKET_DESCRIPTORS } },
    { C_unlink, "unlink", EPERM, CONTINUES, { 0 } },
    { C_open, "open", ENOENT, ENDS, { PSOCKET_FILE, PSOCKET_TLS_NO_TRUST } },
    { C_open, "open", EMFILE, ENDS, { PSOCKET_FILE, PSOCKET_DESCRIPTORS } },
};

static int descriptors(void)
{
    unsigned char open_fds[4096];
    return check_descriptors(open_fds);
}

/* One run of a scene with what the fault_ variables say; how it was, for the messages. */
static int run(const scene *s, const char *what, long n)
{
    long live = fault_live;
    int fds = descriptors(), tries = 0, r, call = fault_call, shorter = fault_short, storm = fault_storm;
    int64_t start = check_now_ms();
    memset(fault_counts, 0, sizeof fault_counts);
    fault_hits = 0;
    storm_left = 0;
    scene_ends[0] = scene_ends[1] = 0;
    scene_big = fault_short ? 1500 : SCENE_BIG;
    scene_path_stays = fault_call == C_unlink;
    r = s->run();
    fault_call = -1;
    fault_short = fault_storm = 0;
    while ((__atomic_load_n(&fault_live, __ATOMIC_SEQ_CST) != live || descriptors() != fds) && tries++ < 300) check_sleep_us(2000);
    if (fault_live != live) check_fail(__FILE__, __LINE__, "%s, %s %ld: %ld allocations not freed", s->name, what, n, fault_live - live);
    if (descriptors() != fds) check_fail(__FILE__, __LINE__, "%s, %s %ld: %d descriptors left open", s->name, what, n, descriptors() - fds);
    if (check_now_ms() - start > scene_ms / 2) check_fail(__FILE__, __LINE__, "%s, %s %ld: took %ld ms", s->name, what, n, (long)(check_now_ms() - start));
    fault_call = call;
    fault_short = shorter;
    fault_storm = storm;
    return r;
}

static int expected(const struct failure *f, int r)
{
    int i;
    if (!r) return 1;
    if (f->meaning == CONTINUES || r == PSOCKET_TIMEOUT) return 0;
    for (i = 0; i < 4; i++)
        if (f->codes[i] && (f->codes[i] == r || f->codes[i] == scene_ends[0] || f->codes[i] == scene_ends[1])) return 1;
    return 0;
}

static void exhaust(scene s)
{
    static long counts[CALLS];
    long n, step, runs = 0;
    size_t i;
    int r;
    scene_setup();
    fault_call = -1;
    REQUIRE(run(&s, "no fault", 0) == 0);
    REQUIRE(run(&s, "no fault", 0) == 0);
    memcpy(counts, fault_counts, sizeof counts);
    for (i = 0; i < sizeof failures / sizeof *failures; i++) {
        const struct failure *f = &failures[i];
        long all = counts[f->call];
        char what[64];
        /* All of the first, then a sample. */
        for (n = 1; n <= all; n += step) {
            int for_ever, before;
            step = s.heavy && n >= 10 ? 1 + n / 4 : n >= 40 ? 1 + n / 8 : 1;
            for (for_ever = 0; for_ever < 2; for_ever++) {
                /* The system does not do that for ever; without buffers nothing ever arrives, and waiting is right. */
                if (for_ever && (f->meaning == CONTINUES || (f->call == C_send && f->e == ENOBUFS))) continue;
                before = check_shared->failures;
                snprintf(what, sizeof what, "%s%s: %s: call", f->name, for_ever ? " for ever" : "", strerrorname_np(f->e));
                fault_call = (int)f->call;
                fault_at = n;
                fault_errno = f->e;
                fault_for_ever = for_ever;
                r = run(&s, what, n);
                runs++;
                if (!expected(f, r)) check_fail(__FILE__, __LINE__, "%s, %s %ld of %ld: answers %d %s", s.name, what, n, all, r, psocket_codename(r));
                if (check_shared->failures > before) check_fail(__FILE__, __LINE__, "(%s, %s %ld of %ld, answered %d)", s.name, what, n, all, r);
                if (check_shared->failures > 12) return;
            }
        }
        fault_call = -1;
        if (all && (r = run(&s, "no fault any more", 0)) != 0)
            check_fail(__FILE__, __LINE__, "%s: after %s failed it answers %d", s.name, f->name, r);
    }
    /* Nothing but single bytes; nothing but interruptions; both. */
    for (i = 0; i < 3; i++) {
        fault_call = -1;
        fault_short = i != 1;
        fault_storm = i ? 3 : 0;
        r = run(&s, i == 0 ? "short counts" : i == 1 ? "interruptions" : "short counts and interruptions", 0);
        fault_short = fault_storm = 0;
        if (!CHECK_INT(r, 0)) check_fail(__FILE__, __LINE__, "(%s, kind %d)", s.name, (int)i);
        runs++;
    }
    if (getenv("FAULT_VERBOSE")) printf("%s: %ld runs\n", s.name, runs);
}

#define SCENE(name, heavy) \
    TEST_LIMIT(name, 120) \
    { \
        scene s = { #name, scene_##name, heavy }; \
        exhaust(s); \
    }

SCENE(tcp, 0)
SCENE(name, 0)
SCENE(unix_path, 0)
SCENE(udp, 0)
SCENE(wrap, 0)
SCENE(poller, 1)
SCENE(tls_new, 1)
SCENE(default_settings, 1)
SCENE(tls_tcp, 1)
SCENE(tls_poller, 1)
SCENE(tls_blocking, 1)
SCENE(given_up, 0)
SCENE(poller_pair, 0)
SCENE(adopt, 0)
TEST_LIMIT(nested, 120)
{
    scene s = { "nested", scene_nested, 0 };
    fault_changes = 0; /* who sleeps in a poller outside hears of an inner poller by its descriptor alone */
    exhaust(s);
}

SCENE(options_all, 0)

/* What a dead process left behind in a folder where it cannot be removed: the address is in use, at once. */
TEST(a_stale_path_that_stays)
{
    struct sockaddr_un sa;
    psocket *l = NULL;
    psocket_error e;
    psocket_options o = scene_options(0, &e);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    scene_setup();
    memset(&sa, 0, sizeof sa);
    sa.sun_family = AF_UNIX;
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", scene_path + 5);
    REQUIRE(bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0);
    close(fd);
    fault_call = C_unlink;
    fault_errno = EPERM;
    fault_at = 1;
    fault_for_ever = 1;
    CHECK_INT(scene_told(psocket_listen(&l, scene_path, 0, &o), &e), PSOCKET_ADDRESS_IN_USE);
    fault_call = -1;
    CHECK_INT(psocket_listen(&l, scene_path, 0, &o), 0);
    psocket_free(l);
    CHECK(access(sa.sun_path, F_OK) != 0);
    unlink(sa.sun_path);
}
