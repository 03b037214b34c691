/* verify.c - would a TLS client accept this certificate chain?
 *
 *     verify ROOTS.pem CHAIN.pem NAME UNIX_TIME
 *
 * Exit status 0 if a client that trusts ROOTS and connects to NAME (a host name or an IP address) at UNIX_TIME would
 * accept CHAIN (the server's certificate first), 1 if not, with the reason, 2 if the arguments make no sense. An empty
 * NAME checks the chain alone.
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include <errno.h>

static int64_t clock_of(void *user)
{
    return *(int64_t *)user;
}

/* The whole file, NUL-terminated; NULL if it cannot be read. */
static char *slurp(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *data = NULL;
    size_t room = 0;
    *len = 0;
    if (!f) return NULL;
    for (;;) {
        if (*len + 1 >= room) {
            char *more = (char *)realloc(data, room = room * 2 + 65536);
            if (!more) break;
            data = more;
        }
        size_t n = fread(data + *len, 1, room - *len - 1, f);
        *len += n;
        if (n == 0) break;
    }
    if (ferror(f) || !data || *len + 1 > room) {
        free(data);
        data = NULL;
    } else {
        data[*len] = 0;
    }
    fclose(f);
    return data;
}

int main(int argc, char **argv)
{
    psocket_tls_options opt;
    psocket_error err;
    psocket_tls *tls = NULL;
    char *chain, *end;
    size_t len;
    int64_t now;
    int r;
    if (argc != 5) {
        fprintf(stderr, "usage: verify ROOTS.pem CHAIN.pem NAME UNIX_TIME\n");
        return 2;
    }
    errno = 0;
    now = strtoll(argv[4], &end, 10);
    if (errno || end == argv[4] || *end) {
        fprintf(stderr, "verify: %s is not a time in seconds since 1970\n", argv[4]);
        return 2;
    }
    chain = slurp(argv[2], &len);
    if (!chain) {
        fprintf(stderr, "verify: cannot read %s\n", argv[2]);
        return 2;
    }
    memset(&err, 0, sizeof err);
    memset(&opt, 0, sizeof opt);
    opt.ca_file = argv[1];
    opt.clock = clock_of;
    opt.clock_user = &now;
    opt.insecure_no_name = !*argv[3];
    opt.error = &err;
    r = psocket_tls_new(&tls, &opt);
    if (!r) r = psocket_tls_verify(tls, chain, len, *argv[3] ? argv[3] : NULL, &err);
    if (r) printf("%s: %s\n", psocket_codename(r), err.text);
    psocket_tls_free(tls);
    free(chain);
    return r ? 1 : 0;
}
