/* Closing a plain socket took 4.5 KB of stack where sending and receiving need 576 bytes. Measured on a painted stack, in the
   optimised build: a sanitizer's frames are larger. */
#include "a.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

enum { STACK = 1 << 18, PAINT = 0xA7, MOST = 2100 };

typedef struct call {
    void (*run)(void *);
    void *arg;
} call;

static void *on_a_stack(void *arg)
{
    call *c = (call *)arg;
    c->run(c->arg);
    return NULL;
}

/* Bytes of stack that run(arg) touches, the thread's own included. */
static size_t deepest(void (*run)(void *), void *arg)
{
    unsigned char *stack = NULL;
    pthread_attr_t a;
    pthread_t t;
    call c;
    size_t untouched = 0;
    c.run = run;
    c.arg = arg;
    if (posix_memalign((void **)&stack, 4096, STACK)) return 0;
    memset(stack, PAINT, STACK);
    pthread_attr_init(&a);
    pthread_attr_setstack(&a, stack, STACK);
    if (pthread_create(&t, &a, on_a_stack, &c) == 0) pthread_join(t, NULL);
    pthread_attr_destroy(&a);
    while (untouched < STACK && stack[untouched] == PAINT) untouched++;
    free(stack);
    return STACK - untouched;
}

static void nothing(void *arg)
{
    (void)arg;
}

static void do_send(void *s)
{
    psocket_send((psocket *)s, "x", 1);
}

static void do_recv(void *s)
{
    const void *data;
    psocket_recv((psocket *)s, &data);
}

static void do_wait(void *s)
{
    psocket_wait((psocket *)s, PSOCKET_READ, 0);
}

static void do_shutdown(void *s)
{
    psocket_shutdown((psocket *)s);
}

static void do_close(void *s)
{
    psocket_close((psocket *)s);
}

/* The first round is for the linker, which binds what is called for the first time on the caller's stack. */
static int warming;

static void within(const char *what, void (*run)(void *), psocket *s)
{
    size_t base, n;
    deepest(nothing, NULL); /* what the C library sets up once */
    base = deepest(nothing, NULL);
    n = deepest(run, s) - base;
    if (n > MOST && !warming) check_fail(NULL, 0, "%s: %d bytes of stack, at most %d", what, (int)n, MOST);
}

TEST(plain)
{
    psocket *c = NULL, *s = NULL;
    int i;
    if (SANITIZED) SKIP("a sanitizer's frames are larger");
    for (i = 0; i < 4; i++) {
        warming = i < 2;
        REQUIRE(a_tcp(&c, &s, i & 1));
        within("send", do_send, c);
        within("recv", do_recv, s);
        CHECK_INT(psocket_send(c, "unread", 6), 6); /* closing throws it away */
        a_arrived(s);
        within("wait", do_wait, s);
        within("shutdown", do_shutdown, c);
        within("close", do_close, s);
        within("close", do_close, c);
        psocket_free(c);
        psocket_free(s);
    }
}

TEST(listener_and_udp)
{
    int i, port;
    if (SANITIZED) SKIP("a sanitizer's frames are larger");
    for (i = 0; i < 2; i++) {
        psocket_options o = net_options(1);
        psocket *u = NULL, *l;
        warming = i == 0;
        o.udp = 1;
        REQUIRE(psocket_listen(&u, "127.0.0.1", 0, &o) == 0);
        psocket_getlocal(u, NULL, 0, &port);
        CHECK_INT(psocket_setpeer(u, "127.0.0.1", port), 0);
        within("udp send", do_send, u);
        within("udp recv", do_recv, u);
        within("udp close", do_close, u);
        l = net_listen("127.0.0.1", &port);
        within("listener close", do_close, l);
        psocket_free(u);
        psocket_free(l);
    }
}
