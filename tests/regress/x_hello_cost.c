/* A server's own certificates are not read again for every ClientHello: what one more identity costs does not depend on
 * what its certificate says. Reading one compares many identifiers, which are counted here. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <string.h>

static unsigned long compared;
static int counted(const void *a, const void *b, size_t n)
{
    compared++;
    return memcmp(a, b, n);
}
#define memcmp counted
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include "check.h"
#include "regress/x.h"

#ifdef PSOCKET_TLS_CODES
typedef psocket x_listener;
#define psocket_listener_getlocal psocket_getlocal
#define psocket_listener_free psocket_free
#else
typedef psocket_listener x_listener; /* version 0.1 */
#endif

/* Comparisons of one handshake of a server with so many identities. */
static unsigned long handshake(size_t identities)
{
    der extensions = {0}, leaf, key = x_key_file(2, 1);
    psocket_identity ids[32];
    psocket_tls_options opt = {0};
    psocket_options limit = {0};
    psocket_error e = {0};
    psocket_tls *tls = NULL;
    x_listener *l = NULL;
    psocket *s = NULL;
    char command[200], ip[64];
    FILE *client;
    size_t i;
    int port = 0, code;
    unsigned long before;
    x_san(&extensions, "good.test");
    leaf = x_cert("leaf", 2, "root", 1, 0, &extensions);
    memset(ids, 0, sizeof ids);
    for (i = 0; i < identities; i++) {
        ids[i].chain = leaf.p;
        ids[i].chain_len = leaf.n;
        ids[i].key = key.p;
        ids[i].key_len = key.n;
    }
    opt.identities = ids;
    opt.identity_count = identities;
    opt.error = &e;
    limit.timeout_ms = 20000;
    code = psocket_tls_new(&tls, &opt);
    if (!code) code = psocket_listen(&l, "127.0.0.1", 0, &limit);
    if (!code) code = psocket_listener_getlocal(l, ip, sizeof ip, &port);
    snprintf(command, sizeof command, "timeout 30 openssl s_client -connect 127.0.0.1:%d -servername other.test >/dev/null 2>&1 "
             "</dev/null", port);
    client = popen(command, "r");
    if (!code) code = psocket_accept(l, &s);
    before = compared;
    if (!code) code = psocket_starttls(s, tls, NULL);
    before = compared - before;
    CHECK_INT(code, 0);
    psocket_free(s);
    psocket_listener_free(l);
    psocket_tls_free(tls);
    if (client) pclose(client);
    free(extensions.p);
    free(leaf.p);
    free(key.p);
    return before;
}

TEST_LIMIT(many_identities, 60)
{
    unsigned long one = handshake(1), many = handshake(32);
    CHECK(compared > one + many); /* to make the settings took some */
    if (many > one + 64) check_fail(__FILE__, __LINE__, "%lu comparisons, of 32 identities %lu", one, many);
}
