/* Wrong arguments: a code and a sentence each, never a crash. */
#include "net.h"

static int connect_code(const char *host, int port)
{
    psocket *s = (psocket *)&net_error;
    psocket_options o = net_options(0);
    int r;
    memset(&net_error, 0, sizeof net_error);
    r = psocket_connect(&s, host, port, &o);
    CHECK(s == NULL);
    CHECK_INT(net_error.code, r);
    CHECK(net_error.text[0] != 0);
    return r;
}

static int listen_code(const char *address, int port)
{
    psocket *l = (psocket *)&net_error;
    psocket_options o = net_options(0);
    int r;
    memset(&net_error, 0, sizeof net_error);
    r = psocket_listen(&l, address, port, &o);
    CHECK(l == NULL);
    CHECK_INT(net_error.code, r);
    CHECK(net_error.text[0] != 0);
    return r;
}

TEST(connect_arguments)
{
    char longname[600];
    psocket *s;
    memset(longname, 'a', sizeof longname);
    longname[sizeof longname - 1] = 0;
    CHECK_INT(connect_code(NULL, 80), PSOCKET_INVALID);
    CHECK_INT(connect_code("", 80), PSOCKET_INVALID);
    CHECK_INT(connect_code("127.0.0.1", 0), PSOCKET_INVALID);
    CHECK_INT(connect_code("127.0.0.1", -1), PSOCKET_INVALID);
    CHECK_INT(connect_code("127.0.0.1", 65536), PSOCKET_INVALID);
    CHECK_INT(connect_code(longname, 80), PSOCKET_INVALID);
    CHECK_INT(connect_code("unix:", 0), PSOCKET_INVALID);
    CHECK_INT(connect_code("unix:/x", 80), PSOCKET_INVALID);
    CHECK(connect_code("no such host", 80) <= PSOCKET_DNS_NOT_FOUND);
    CHECK(connect_code("256.256.256.256", 80) <= PSOCKET_DNS_NOT_FOUND);
    CHECK_INT(psocket_connect(NULL, "127.0.0.1", 80, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_connect(&s, NULL, 80, NULL), PSOCKET_INVALID);
}

TEST(refused_says_whom)
{
    int port = 0;
    psocket *l = net_listen("127.0.0.1", &port);
    char want[32];
    psocket_free(l);
    CHECK_INT(connect_code("127.0.0.1", port), PSOCKET_REFUSED);
    snprintf(want, sizeof want, "127.0.0.1:%d", port);
    CHECK(strstr(net_error.text, want) != NULL);
    CHECK_INT(net_error.os_error, ECONNREFUSED);
}

TEST(listen_arguments)
{
    int port = 0;
    psocket *l, *second;
    psocket_options o = net_options(0);
    char both[64];
    CHECK_INT(listen_code("127.0.0.1", -1), PSOCKET_INVALID);
    CHECK_INT(listen_code("127.0.0.1", 65536), PSOCKET_INVALID);
    CHECK_INT(listen_code("not an address", 0), PSOCKET_INVALID);
    CHECK_INT(listen_code("127.0.0.1:99999", 0), PSOCKET_INVALID);
    CHECK_INT(listen_code("127.0.0.1:80", 81), PSOCKET_INVALID);
    CHECK_INT(listen_code("unix:", 0), PSOCKET_INVALID);
    CHECK_INT(listen_code("8.8.8.8", 0), PSOCKET_ADDRESS_NOT_AVAILABLE);
    CHECK_INT(psocket_listen(NULL, NULL, 0, NULL), PSOCKET_INVALID);
    l = net_listen("127.0.0.1", &port);
    CHECK_INT(listen_code("127.0.0.1", port), PSOCKET_ADDRESS_IN_USE);
    psocket_free(l);
    snprintf(both, sizeof both, "127.0.0.1:%d", port);
    CHECK_INT(psocket_listen(&l, both, 0, &o), 0); /* the address may bring the port */
    psocket_free(l);
    CHECK_INT(psocket_listen(&second, "[::1]:0", 0, &o), 0);
    psocket_free(second);
}

TEST(null_everywhere)
{
    const void *data;
    psocket *s = NULL;
    psocket_event const *ev;
    psocket_pollfd fds[2];
    psocket_tlsinfo info;
    int ms = -1;
    CHECK_INT(psocket_accept(NULL, &s), PSOCKET_INVALID);
    CHECK_INT(psocket_hasconnection(NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_wait(NULL, PSOCKET_READ, 0), PSOCKET_INVALID);
    CHECK_INT(psocket_getlocal(NULL, NULL, 0, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_getfd(NULL), -1);
    CHECK_INT(psocket_geterror(NULL, NULL), PSOCKET_INVALID);
    psocket_close(NULL);
    psocket_free(NULL);
    CHECK_INT(psocket_send(NULL, "x", 1), PSOCKET_INVALID);
    CHECK_INT(psocket_flush(NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_recv(NULL, &data), PSOCKET_INVALID);
    CHECK_INT(psocket_peek(NULL, &data), PSOCKET_INVALID);
    CHECK_INT(psocket_unrecv(NULL, "x", 1), PSOCKET_INVALID);
    CHECK_INT(psocket_read(NULL, 1, &data), PSOCKET_INVALID);
    CHECK_INT(psocket_read_until(NULL, "x", 1, &data), PSOCKET_INVALID);
    CHECK_INT(psocket_pending(NULL), 0);
    CHECK_INT(psocket_shutdown(NULL), PSOCKET_INVALID);
    psocket_close(NULL);
    psocket_free(NULL);
    CHECK_INT(psocket_starttls(NULL, NULL, "x"), PSOCKET_INVALID);
    CHECK_INT(psocket_istls(NULL), 0);
    CHECK_INT(psocket_gettlsinfo(NULL, &info), PSOCKET_INVALID);
    CHECK_INT(psocket_getpeer(NULL, NULL, 0, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_getlocal(NULL, NULL, 0, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_setpeer(NULL, "127.0.0.1", 1), PSOCKET_INVALID);
    CHECK_INT(psocket_getside(NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_isopen(NULL), 0);
    CHECK_INT(psocket_isudp(NULL), 0);
    psocket_settimeout(NULL, 1);
    psocket_setnonblocking(NULL, 1);
    CHECK_INT(psocket_geterror(NULL, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_step(NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_wait(NULL, PSOCKET_READ, 0), PSOCKET_INVALID);
    CHECK_INT(psocket_pollset(NULL, PSOCKET_READ, fds, 2, &ms), PSOCKET_INVALID);
    CHECK_INT(psocket_poller_new(NULL), PSOCKET_INVALID);
    psocket_poller_free(NULL);
    psocket_poller_wake(NULL);
    CHECK_INT(psocket_poller_set(NULL, NULL, 0, 0, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_poller_set(NULL, NULL, 0, 0, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_poller_watch(NULL, NULL, 0, 0, 0, NULL), PSOCKET_INVALID);
    psocket_watch_free(NULL);
    CHECK_INT(psocket_poller_wait(NULL, &ev, 0), PSOCKET_INVALID);
    CHECK_INT(psocket_poller_getfd(NULL, NULL), -1);
    CHECK_INT(psocket_tls_new(NULL, NULL), PSOCKET_INVALID);
    psocket_tls_free(NULL);
    CHECK_INT(psocket_tls_savesessions(NULL, NULL, 1), PSOCKET_INVALID);
    CHECK_INT(psocket_tls_loadsessions(NULL, NULL, 0), PSOCKET_INVALID);
    CHECK_INT(psocket_tls_loadsessions(NULL, NULL, 100), PSOCKET_INVALID);
    CHECK_INT(psocket_tls_loadsessions(NULL, "x", 1), PSOCKET_INVALID);
    CHECK_INT(psocket_resolve_add(NULL, "::1"), PSOCKET_INVALID);
    psocket_resolve_done(NULL, 0);
    CHECK_INT(psocket_pair(NULL, NULL, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_wrap(NULL, NULL, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_open(NULL, NULL, NULL, 0, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_adopt(NULL, 0, 0, NULL), PSOCKET_INVALID);
}

TEST(null_data_on_an_open_socket)
{
    psocket *c, *s;
    const void *data;
    int ms = -1;
    psocket_pollfd fd;
    REQUIRE(net_pair(&c, &s));
    CHECK_INT(psocket_send(c, NULL, 1), PSOCKET_INVALID);
    CHECK_INT(psocket_send(c, NULL, 0), 0);
    CHECK_INT(psocket_recv(c, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_peek(c, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_unrecv(c, NULL, 1), PSOCKET_INVALID);
    CHECK_INT(psocket_read(c, 1, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_read_until(c, NULL, 1, &data), PSOCKET_INVALID);
    CHECK_INT(psocket_read_until(c, "", 1, &data), PSOCKET_INVALID);
    CHECK_INT(psocket_setpeer(c, "127.0.0.1", 1), PSOCKET_UNSUPPORTED);
    CHECK_INT(psocket_wait(c, 0, 0), PSOCKET_INVALID);
    CHECK_INT(psocket_wait(c, 4, 0), PSOCKET_INVALID);
    CHECK_INT(psocket_pollset(c, 8, &fd, 1, &ms), PSOCKET_INVALID);
    CHECK_INT(psocket_pollset(c, PSOCKET_READ, &fd, 1, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_gettlsinfo(c, NULL), PSOCKET_INVALID);
    psocket_free(c);
    psocket_free(s);
}

TEST(every_code_has_a_name_and_a_text)
{
    int code, named = 0;
    int all = psocket_codename(PSOCKET_TLS_VERSION) ? 50 : 20; /* without TLS there are none of its codes */
    for (code = -200; code <= 5; code++) {
        const char *name = psocket_codename(code);
        if (!name) {
            CHECK_STR(psocket_strerror(code), "unknown code");
            continue;
        }
        named++;
        CHECK(code <= 0);
        CHECK(strcmp(psocket_strerror(code), "unknown code") != 0);
    }
    CHECK(named > all);
    CHECK_STR(psocket_codename(PSOCKET_TIMEOUT), "TIMEOUT");
}
