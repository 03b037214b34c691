/* tls_switches.c CERTS: a handshake between both ends of a pair, as far as this build has them. Linked with the header
 * compiled under the same switches by tls_switches.sh. */
#include "psocket.h"
#include <stdio.h>
#include <string.h>

#if defined(PSOCKET_NO_CLIENT) || defined(PSOCKET_NO_SERVER)
#define BOTH 0
#else
#define BOTH 1
#endif

static char file[3][20000];

static const char *text(int k, const char *folder, const char *name)
{
    char path[1000];
    size_t n = 0;
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "rb");
    if (f) n = fread(file[k], 1, sizeof file[k] - 1, f);
    if (f) fclose(f);
    if (!n) printf("cannot read %s\n", path);
    return file[k];
}

/* One side: 0 done, WANT, or its error. */
static int shake(psocket *s, psocket_tls *tls, const char *name)
{
    int code = psocket_starttls(s, tls, name);
    psocket_error e;
    psocket_geterror(s, &e);
    if (code && code != PSOCKET_WANT_READ && code != PSOCKET_WANT_WRITE) printf("%s %s\n", name ? "client" : "server", e.text);
    return code;
}

int main(int argc, char **argv)
{
    static psocket_options opt;
    static psocket_tls_options t;
    psocket_identity id = {0};
    psocket_tls *tls = NULL;
    psocket_error e;
    psocket *a = NULL, *b = NULL;
    psocket_tlsinfo info;
    int i, client = PSOCKET_WANT_READ, server = PSOCKET_WANT_READ, code;
    const char *folder = argc > 1 ? argv[1] : ".";
    opt.nonblocking = 1;
    t.error = &e;
    t.ca = text(0, folder, "ca.pem");
    id.chain = text(1, folder, "ec.pem");
    id.key = text(2, folder, "ec.key");
    t.identities = &id;
    t.identity_count = 1;
    code = psocket_tls_new(&tls, &t);
    if (code) printf("settings: %d %s\n", code, e.text);
    if (code || psocket_pair(&a, &b, &opt)) return 1;
    for (i = 0; i < 100 && (client || server); i++) {
#ifndef PSOCKET_NO_CLIENT /* the side that is there first: the other closes */
        if (client) client = shake(a, tls, "localhost");
#endif
        if (server) server = shake(b, tls, NULL);
#ifdef PSOCKET_NO_CLIENT
        if (client) client = shake(a, tls, "localhost");
#endif
        if (!BOTH) break;
    }
    psocket_tls_free(tls);
    if (BOTH) {
        if (client || server || psocket_gettlsinfo(a, &info)) return 1;
        printf("%s\n", info.version_name);
#ifdef PSOCKET_NO_TLS13
        code = info.version != 0x0303;
#else
        code = info.version != 0x0304;
#endif
    } else {
#ifdef PSOCKET_NO_CLIENT
        code = client != PSOCKET_UNSUPPORTED || server != PSOCKET_WANT_READ;
#else
        code = server != PSOCKET_UNSUPPORTED || client != PSOCKET_WANT_READ;
#endif
    }
    psocket_free(a);
    psocket_free(b);
    psocket_cleanup();
    printf("%d %d %d\n", client, server, code);
    return code;
}
