/* A client with insecure_no_verify takes a host of any make whose certificate has a flaw that its key does not depend on:
 * openssl serves it. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include "check.h"
#include "regress/x.h"

static void save(const char *path, const der *d)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(d->p, 1, d->n, f) != d->n || fclose(f)) exit(3);
}

/* What a client without any verification says of a host with this extension. */
static int connected(const char *ext, size_t n, psocket_error *e)
{
    char dir[] = "/tmp/x_any_host.XXXXXX", path[64], command[400], line[200] = "";
    der extensions = {0}, leaf, key = x_key_file(2, 1);
    psocket_tls_options opt = {0};
    psocket_options limit = {0};
    psocket_tls *tls = NULL;
    psocket *s = NULL;
    int port = 0, code;
    FILE *server;
    der_put(&extensions, ext, n);
    leaf = x_cert("leaf", 2, "root", 1, 0, &extensions);
    if (!mkdtemp(dir)) exit(3);
    snprintf(path, sizeof path, "%s/cert", dir), save(path, &leaf);
    snprintf(path, sizeof path, "%s/key", dir), save(path, &key);
    snprintf(command, sizeof command, "timeout 30 openssl s_server -accept 127.0.0.1:0 -naccept 1 -www -certform DER -cert %s/cert "
             "-keyform DER -key %s/key 2>&1 </dev/null", dir, dir);
    server = popen(command, "r");
    while (server && !port && fgets(line, sizeof line, server)) sscanf(line, "ACCEPT 127.0.0.1:%d", &port);
    opt.insecure_no_verify = 1;
    opt.error = e;
    limit.timeout_ms = 20000;
    code = psocket_tls_new(&tls, &opt);
    if (!code) code = psocket_connect(&s, "127.0.0.1", port, &limit);
    if (!code) code = psocket_starttls(s, tls, "good.test");
    if (code && s) psocket_geterror(s, e);
    psocket_free(s);
    psocket_tls_free(tls);
    while (server && fgets(line, sizeof line, server)) {}
    if (server) pclose(server);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command)) exit(3);
    free(extensions.p);
    free(leaf.p);
    free(key.p);
    return code;
}

TEST_LIMIT(with_a_malformed_extension, 100)
{
    static const struct {
        const char *ext;
        size_t n;
    } t[] = {
#define X_EXT(bytes) {bytes, sizeof(bytes) - 1}
        X_EXT("\x30\x21\x06\x03\x55\x1D\x11\x04\x1A\x30\x18\x82\x09good.test\x87\x0B" "192.168.1.1"),
        X_EXT("\x30\x1E\x06\x03\x55\x1D\x11\x04\x17\x30\x15\x82\x09good.test\x82\x08" "dr\xC3\xBC" "cker"),
        X_EXT("\x30\x0E\x06\x08\x2B\x06\x01\x05\x05\x07\x01\x01\x04\x02\x30\x00"), /* no authorityInfoAccess */
    };
    size_t i;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        psocket_error e = {0};
        if (connected(t[i].ext, t[i].n, &e)) check_fail(__FILE__, __LINE__, "%d: %s", (int)i, e.text);
    }
}
