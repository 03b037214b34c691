/* A Unix path whose queue was full "timed out while resolving"; unix:@name made a file called @name; an address that fills
   all 108 bytes ended by the luck of padding. */
#include "a.h"
#include <sys/stat.h>
#include <sys/un.h>

static char folder[64];

static int enter(void)
{
    snprintf(folder, sizeof folder, "/tmp/psocket-a-unix-%ld", (long)getpid());
    return mkdir(folder, 0700) == 0 && chdir(folder) == 0;
}

static void leave(void)
{
    CHECK(chdir("/") == 0);
    CHECK(rmdir(folder) == 0);
}

static void full_queue(const char *address, int nonblocking)
{
    psocket_options o = net_options(nonblocking);
    psocket_error e;
    psocket *l = NULL, *c[8];
    int i, r = 0, n = 0;
    memset(&e, 0, sizeof e);
    o.backlog = 1;
    o.timeout_ms = 100;
    o.error = &e;
    REQUIRE(psocket_listen(&l, address, 0, &o) == 0);
    for (i = 0; i < 8 && !r; i++) {
        r = psocket_connect(&c[i], address, 0, &o);
        if (r) break;
        n++;
        if (nonblocking) {
            int64_t end = check_now_ms() + 2000;
            r = psocket_step(c[i]);
            while ((r == PSOCKET_WANT_WRITE || r == PSOCKET_WANT_READ) && check_now_ms() < end) {
                psocket_wait(c[i], PSOCKET_WRITE, 50);
                r = psocket_step(c[i]);
            }
            if (r) psocket_geterror(c[i], &e);
        }
    }
    CHECK_INT(r, PSOCKET_TIMEOUT);
    CHECK_INT(e.code, PSOCKET_TIMEOUT);
    CHECK(strstr(e.text, address + 5) != NULL); /* says which */
    if (strstr(e.text, "resolv")) check_fail(__FILE__, __LINE__, "nothing was being resolved: %s", e.text);
    while (n) psocket_free(c[--n]);
    psocket_free(l);
}

TEST(a_full_queue)
{
    REQUIRE(enter());
    full_queue("unix:./full.sock", 0);
    full_queue("unix:./full.sock", 1);
    leave();
}

TEST(abstract_names)
{
    psocket_options o = net_options(0);
    psocket *l = NULL, *c = NULL, *s = NULL;
    struct stat st;
    struct sockaddr_un sa;
    socklen_t n = sizeof sa;
    char name[64], ip[128] = "";
    int r;
    REQUIRE(enter());
    snprintf(name, sizeof name, "unix:@psocket-a-%ld", (long)getpid());
    r = psocket_listen(&l, name, 0, &o);
    CHECK(stat(name + 5, &st) != 0); /* no file of that name */
    unlink(name + 5);
    if (r == 0 && CHECK(psocket_getfd(l) >= 0)) {
        memset(&sa, 0, sizeof sa);
        CHECK(getsockname((int)psocket_getfd(l), (struct sockaddr *)&sa, &n) == 0);
        CHECK(sa.sun_path[0] == 0);
        CHECK_INT(n, offsetof(struct sockaddr_un, sun_path) + strlen(name + 5)); /* no padding in the name */
        CHECK_MEM(sa.sun_path + 1, name + 6, strlen(name + 6));
        CHECK_INT(psocket_getlocal(l, ip, sizeof ip, NULL), 0);
        CHECK_STR(ip, name + 5);
        CHECK_INT(psocket_connect(&c, name, 0, &o), 0);
        CHECK_INT(psocket_accept(l, &s), 0);
        if (c && s) {
            CHECK_INT(psocket_getpeer(c, ip, sizeof ip, NULL), 0);
            CHECK_STR(ip, name + 5);
            CHECK_INT(psocket_send(c, "hello", 5), 5);
            CHECK_STR(a_recv(s), "hello");
        }
    } else {
        CHECK(r < 0); /* a system without them */
    }
    psocket_free(c);
    psocket_free(s);
    psocket_free(l);
    leave();
}

/* A name without any bytes would mean "choose one" to the system. */
TEST(empty_names)
{
    psocket_options o = net_options(0);
    psocket *l = NULL;
    REQUIRE(enter());
    CHECK(psocket_listen(&l, "unix:", 0, &o) < 0 && l == NULL);
    CHECK(psocket_listen(&l, "unix:@", 0, &o) < 0 && l == NULL);
    CHECK(psocket_connect(&l, "unix:@", 0, &o) < 0 && l == NULL);
    unlink("@");
    leave();
}

static void of_length(size_t length, int abstract)
{
    char address[300] = "unix:", ip[256];
    psocket_options o = net_options(0);
    psocket *l = NULL, *c = NULL, *s = NULL;
    int r;
    memset(address + 5, 'a', length);
    if (abstract) address[5] = '@';
    address[5 + length] = 0;
    r = psocket_listen(&l, address, 0, &o);
    if (length > sizeof ((struct sockaddr_un *)0)->sun_path) {
        CHECK(r < 0);
        CHECK(l == NULL);
        CHECK(psocket_connect(&c, address, 0, &o) < 0);
        return;
    }
    if (r < 0) { /* all 108 bytes may be refused, then of connect too; fewer may not */
        CHECK(length == sizeof ((struct sockaddr_un *)0)->sun_path);
        CHECK_INT(psocket_connect(&c, address, 0, &o), r);
        return;
    }
    CHECK_INT(psocket_getlocal(l, ip, sizeof ip, NULL), 0);
    CHECK_STR(ip, address + 5);
    CHECK_INT(psocket_getlocal(l, ip, 4, NULL), PSOCKET_LIMIT);
    CHECK_INT(psocket_connect(&c, address, 0, &o), 0);
    CHECK_INT(psocket_accept(l, &s), 0);
    if (c && s) {
        CHECK_INT(psocket_getpeer(c, ip, sizeof ip, NULL), 0);
        CHECK_STR(ip, address + 5);
        CHECK_INT(psocket_getlocal(s, ip, sizeof ip, NULL), 0);
        CHECK_STR(ip, address + 5);
    }
    psocket_free(c);
    psocket_free(s);
    psocket_free(l);
    if (!abstract) CHECK(access(address + 5, F_OK) != 0); /* taken away again */
    unlink(address + 5);
}

TEST(full_length)
{
    size_t n;
    REQUIRE(enter());
    for (n = 105; n < 112; n++) of_length(n, 0);
#ifdef __linux__
    for (n = 105; n < 112; n++) of_length(n, 1);
#endif
    leave();
}
