/* table.c - the certificate cases of tests/x509/make-cases through real handshakes.
 *
 *     table DIR
 *
 * For each case a client of psocket, with the case's roots, name and clock, meets the chain in up to three servers: a
 * small one on BearSSL that sends whatever bytes the chain has, openssl s_server where OpenSSL takes the chain, and
 * psocket's own where psocket takes it. The code must be the table's, that is psocket_tls_verify's, each time; and the
 * alert on the wire must be the one that the client tells.
 */
#include "psocket.h"

#include <arpa/inet.h>
#include <bearssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define CERTS_MAX 4096

typedef struct bytes {
    unsigned char *p;
    size_t n;
} bytes;

typedef struct row {
    char *name, *chain_file, *key_file, *host, *time, *expected, *roots;
    int64_t now;
    bytes chain, key;
    br_x509_certificate certs[CERTS_MAX]; /* the chain as DER */
    size_t count;
} row;

static const char *dir;

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static void *room(size_t n)
{
    void *p = calloc(1, n + 1);
    if (!p) die("memory");
    return p;
}

static bytes slurp(const char *name)
{
    char path[2048];
    bytes b;
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "rb");
    if (!f) die(path);
    b.p = (unsigned char *)room(1 << 21);
    b.n = fread(b.p, 1, 1 << 21, f);
    fclose(f);
    return b;
}

/*--- the chain, as DER */

/* The length of the DER object at p, which has a length of two bytes; 0 if there is none. */
static size_t der_length(const unsigned char *p, size_t n)
{
    size_t len = n < 4 || p[0] != 0x30 || p[1] != 0x82 ? 0 : 4 + (size_t)p[2] * 256 + p[3];
    return len > n ? 0 : len;
}

static void add(row *r, const unsigned char *p, size_t n)
{
    if (r->count == CERTS_MAX) return;
    r->certs[r->count].data = (unsigned char *)room(n);
    r->certs[r->count].data_len = n;
    memcpy(r->certs[r->count++].data, p, n);
}

/* Finds what a reader can find who does not mind how a PEM file looks; that is for psocket's own reader to judge. */
static void split_chain(row *r)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = (const char *)r->chain.p, *end;
    unsigned char *der = (unsigned char *)room(r->chain.n);
    size_t len, at;
    r->count = 0;
    for (at = 0; (len = der_length(r->chain.p + at, r->chain.n - at)) != 0; at += len) add(r, r->chain.p + at, len);
    while (!at && (p = strstr(p, "-----BEGIN ")) != NULL && (end = strstr(p, "-----END ")) != NULL) {
        const char *body = strstr(p + 11, "-----");
        char label[32];
        unsigned bits = 0;
        int have = 0;
        snprintf(label, sizeof label, "%.*s", (int)(body - p - 11), p + 11);
        for (len = 0, body += 5; body < end; body++) {
            const char *d = *body ? strchr(digits, *body) : NULL;
            if (!d) continue;
            bits = bits << 6 | (unsigned)(d - digits);
            have += 6;
            if (have >= 8) der[len++] = (unsigned char)(bits >> (have -= 8));
        }
        if (strcmp(label, "TRUSTED CERTIFICATE") != 0 && strstr(label, "CERTIFICATE")) add(r, der, len);
        p = end + 9;
    }
    free(der);
}

/*--- a client of psocket */

static int64_t set_clock(void *user)
{
    return *(int64_t *)user;
}

static psocket_tls *client_settings(row *r)
{
    psocket_tls_options opt = {0};
    psocket_error err = {0};
    psocket_tls *tls = NULL;
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", dir, r->roots);
    opt.ca_file = path;
    opt.clock = set_clock;
    opt.clock_user = &r->now;
    opt.error = &err;
    if (psocket_tls_new(&tls, &opt)) {
        fprintf(stderr, "%s: %s\n", r->roots, err.text);
        exit(2);
    }
    return tls;
}

/* Connects to a port of this machine: the code of the handshake. */
static int meet(row *r, int port, psocket_error *err)
{
    psocket_options opt = {0};
    psocket *s;
    psocket_tls *tls = client_settings(r);
    int code;
    opt.timeout_ms = 10000;
    opt.error = err;
    memset(err, 0, sizeof *err);
    code = psocket_connect(&s, "127.0.0.1", port, &opt);
    if (!code) {
        code = psocket_starttls(s, tls, r->host);
        psocket_geterror(s, err);
        psocket_free(s);
    }
    psocket_tls_free(tls);
    return code;
}

/*--- the server on BearSSL */

typedef struct tiny {
    row *r;
    bytes other_key;
    int listener;
    int error; /* the engine's, at the end */
} tiny;

static int tiny_read(void *ctx, unsigned char *p, size_t n)
{
    ssize_t got = recv(*(int *)ctx, p, n, 0);
    return got > 0 ? (int)got : -1;
}

static int tiny_write(void *ctx, const unsigned char *p, size_t n)
{
    ssize_t put = send(*(int *)ctx, p, n, MSG_NOSIGNAL);
    return put > 0 ? (int)put : -1;
}

static void key_add(void *ctx, const void *src, size_t len)
{
    br_skey_decoder_push((br_skey_decoder_context *)ctx, src, len);
}

/* 1 if BearSSL can sign with this key. */
static int tiny_key(br_skey_decoder_context *key, bytes text)
{
    br_pem_decoder_context pem;
    size_t at = 0;
    if (text.n > 4000) return 0; /* over 4096 bits: more than the decoder has room for */
    br_skey_decoder_init(key);
    br_pem_decoder_init(&pem);
    while (at < text.n) {
        at += br_pem_decoder_push(&pem, text.p + at, text.n - at);
        if (br_pem_decoder_event(&pem) == BR_PEM_BEGIN_OBJ) br_pem_decoder_setdest(&pem, key_add, key);
    }
    if (br_skey_decoder_last_error(key)) return 0;
    if (br_skey_decoder_key_type(key) == BR_KEYTYPE_RSA) return 1;
    return br_skey_decoder_key_type(key) == BR_KEYTYPE_EC && key->key.ec.curve >= BR_EC_secp256r1 &&
           key->key.ec.curve <= BR_EC_secp521r1;
}

static void *tiny_serve(void *user)
{
    static unsigned char buffer[BR_SSL_BUFSIZE_BIDI]; /* one at a time */
    tiny *t = (tiny *)user;
    br_skey_decoder_context key;
    br_ssl_server_context sc;
    br_sslio_context io;
    struct timeval limit = {10, 0};
    unsigned char byte;
    int fd;
    t->error = -1;
    if (!tiny_key(&key, t->r->key)) tiny_key(&key, t->other_key); /* the client refuses before it sees a signature */
    if (br_skey_decoder_key_type(&key) == BR_KEYTYPE_RSA)
        br_ssl_server_init_full_rsa(&sc, t->r->certs, t->r->count, br_skey_decoder_get_rsa(&key));
    else
        br_ssl_server_init_full_ec(&sc, t->r->certs, t->r->count, BR_KEYTYPE_EC, br_skey_decoder_get_ec(&key));
    br_ssl_engine_set_buffer(&sc.eng, buffer, sizeof buffer, 1);
    fd = accept(t->listener, NULL, NULL);
    if (fd < 0) return NULL;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    br_ssl_server_reset(&sc);
    br_sslio_init(&io, &sc.eng, tiny_read, &fd, tiny_write, &fd);
    while (br_sslio_read(&io, &byte, 1) > 0) continue;
    t->error = br_ssl_engine_last_error(&sc.eng);
    if (t->error == BR_ERR_IO) { /* it was writing when the client went away: what is left may be the alert */
        unsigned char rest[64];
        ssize_t n = recv(fd, rest, sizeof rest, 0);
        if (n >= 7 && rest[0] == 21) t->error = BR_ERR_RECV_FATAL_ALERT + rest[6];
    }
    close(fd);
    return NULL;
}

static int listen_here(int *port)
{
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 8) ||
        getsockname(fd, (struct sockaddr *)&a, &len))
        die("listen");
    *port = ntohs(a.sin_port);
    return fd;
}

/*--- openssl s_server, kept for as long as the chain and the key are the same */

static struct {
    pid_t pid;
    int port;
    char chain[256], key[256];
} openssl;

static void openssl_stop(void)
{
    if (openssl.pid > 0) {
        kill(openssl.pid, SIGKILL);
        waitpid(openssl.pid, NULL, 0);
    }
    openssl.pid = 0;
}

static void write_pem(const char *path, const br_x509_certificate *certs, size_t n)
{
    FILE *f = fopen(path, "w");
    size_t i;
    if (!f) die(path);
    for (i = 0; i < n; i++) {
        size_t len = br_pem_encode(NULL, certs[i].data, certs[i].data_len, "CERTIFICATE", 0);
        char *text = (char *)room(len + 1);
        br_pem_encode(text, certs[i].data, certs[i].data_len, "CERTIFICATE", 0);
        fwrite(text, 1, len, f);
        free(text);
    }
    fclose(f);
}

/* Its port, or 0 if it does not take the chain. */
static int openssl_start(row *r, const char *tmp)
{
    char leaf[2048], rest[2048], key[2048], line[256];
    const char *args[24];
    int out[2], n = 0;
    FILE *f;
    if (strcmp(openssl.chain, r->chain_file) == 0 && strcmp(openssl.key, r->key_file) == 0) return openssl.port;
    openssl_stop();
    openssl.port = 0;
    snprintf(openssl.chain, sizeof openssl.chain, "%s", r->chain_file);
    snprintf(openssl.key, sizeof openssl.key, "%s", r->key_file);
    snprintf(leaf, sizeof leaf, "%s/leaf.pem", tmp);
    snprintf(rest, sizeof rest, "%s/rest.pem", tmp);
    snprintf(key, sizeof key, "%s/%s", dir, r->key_file);
    write_pem(leaf, r->certs, 1);
    write_pem(rest, r->certs + 1, r->count - 1);
    if (der_length(r->certs[0].data, r->certs[0].data_len) != r->certs[0].data_len) return 0; /* it would mend it */
    args[n++] = "openssl";
    args[n++] = "s_server";
    args[n++] = "-accept";
    args[n++] = "127.0.0.1:0";
    args[n++] = "-www";
    args[n++] = "-cipher";
    args[n++] = "ALL:@SECLEVEL=0";
    args[n++] = "-cert";
    args[n++] = leaf;
    args[n++] = "-key";
    args[n++] = key;
    if (r->count > 1) {
        args[n++] = "-cert_chain";
        args[n++] = rest;
    }
    args[n] = NULL;
    if (pipe(out)) die("pipe");
    openssl.pid = fork();
    if (openssl.pid < 0) die("fork");
    if (openssl.pid == 0) {
        dup2(out[1], 1);
        dup2(out[1], 2);
        close(out[0]);
        close(out[1]);
        execvp("openssl", (char *const *)args);
        _exit(127);
    }
    close(out[1]);
    f = fdopen(out[0], "r");
    if (!f) die("fdopen");
    while (!openssl.port && fgets(line, sizeof line, f))
        if (strncmp(line, "ACCEPT ", 7) == 0 && strrchr(line, ':')) openssl.port = atoi(strrchr(line, ':') + 1);
    fclose(f); /* -www prints nothing more that matters; SIGPIPE is ignored by openssl */
    if (!openssl.port) openssl_stop();
    return openssl.port;
}

/*--- psocket on both sides, over a pair in memory */

/* The client's code; 1 if psocket does not take the chain, with *refused telling why. */
static int ours(row *r, psocket_error *err, int *refused)
{
    psocket_identity id = {0};
    psocket_tls_options topt = {0};
    psocket_options opt = {0};
    psocket_tls *server = NULL, *client;
    psocket *c, *s;
    int code, i, done = 0;
    id.chain = r->chain.p;
    id.chain_len = r->chain.n;
    id.key = r->key.p;
    id.key_len = r->key.n;
    topt.identities = &id;
    topt.identity_count = 1;
    topt.error = err;
    memset(err, 0, sizeof *err);
    *refused = psocket_tls_new(&server, &topt);
    if (*refused) return 1;
    client = client_settings(r);
    opt.nonblocking = 1;
    if (psocket_pair(&c, &s, &opt)) die("psocket_pair");
    code = psocket_starttls(c, client, r->host);
    psocket_starttls(s, server, NULL);
    for (i = 0; i < 2000 && !done; i++) {
        if (code == PSOCKET_WANT_READ || code == PSOCKET_WANT_WRITE || !code) code = psocket_step(c);
        psocket_step(s);
        done = code != PSOCKET_WANT_READ && code != PSOCKET_WANT_WRITE && (code || psocket_istls(s));
    }
    memset(err, 0, sizeof *err);
    psocket_geterror(c, err);
    psocket_free(c);
    psocket_free(s);
    psocket_tls_free(client);
    psocket_tls_free(server);
    return code;
}

/*--- the table */

static int same(const char *where, const row *r, int code, const psocket_error *err, char *why, size_t size)
{
    const char *name = psocket_codename(code);
    if (name && strcmp(name, r->expected) == 0) return 1;
    snprintf(why, size, "%s: expected %s, got %s (%s)", where, r->expected, name ? name : "?", err->text);
    return 0;
}

int main(int argc, char **argv)
{
    static row r;
    int routes[3] = {0, 0, 0}, passed = 0, failed = 0, port, has_openssl;
    char tmp[] = "/tmp/psocket.XXXXXX", path[64], *at, *next;
    bytes table;
    tiny t;
    if (argc != 2) return 2;
    dir = argv[1];
    if (!mkdtemp(tmp)) die(tmp);
    table = slurp("cases.tsv");
    has_openssl = system("openssl version >/dev/null 2>&1") == 0;
    if (!has_openssl) printf("skip openssl s_server: not installed\n");
    memset(&t, 0, sizeof t);
    t.r = &r;
    t.other_key = slurp("leaf.key");
    t.listener = listen_here(&port);
    for (at = (char *)table.p; *at; at = next) {
        char **field[7], why[1024] = "";
        psocket_error err = {0};
        psocket_tls *tls;
        int i, code, other, refused = 0, alert = -1, n = 0, good = 1, used[3] = {0, 0, 0};
        next = at + strcspn(at, "\n");
        if (*next) *next++ = 0;
        field[0] = &r.name, field[1] = &r.chain_file, field[2] = &r.key_file, field[3] = &r.host;
        field[4] = &r.time, field[5] = &r.expected, field[6] = &r.roots;
        for (i = 0; i < 7; i++) {
            *field[i] = at;
            at += strcspn(at, "\t");
            if (*at) *at++ = 0;
        }
        r.now = strtoll(r.time, NULL, 10);
        r.chain = slurp(r.chain_file);
        r.key = slurp(r.key_file);
        split_chain(&r);

        tls = client_settings(&r);
        code = psocket_tls_verify(tls, r.chain.p, r.chain.n, r.host, &err);
        psocket_tls_free(tls);
        good = same("psocket_tls_verify", &r, code, &err, why, sizeof why);

        /* A chain in a form that PEM readers refuse is nothing that a server could send, nor are OpenSSL's trust settings; and
           BearSSL's server signs with an RSASSA-PSS key as with any RSA key. */
        if (r.count && strcmp(r.expected, "TLS_PEM") != 0 && strcmp(r.name, "trusted-in-chain") != 0 && strcmp(r.name, "pss-leaf") != 0) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, tiny_serve, &t)) die("thread");
            code = meet(&r, port, &err);
            alert = err.tls_alert;
            pthread_join(thread, NULL);
            if (strncmp(r.key_file, "pss", 3) != 0) { /* BearSSL has no signatures of RSASSA-PSS keys */
                if (good) good = same("BearSSL's server", &r, code, &err, why, sizeof why);
                used[0] = 1;
            }
            if (good && used[0] && !code && t.error) {
                good = 0;
                snprintf(why, sizeof why, "BearSSL's server ended with error %d", t.error);
            }
            if (good && used[0] && code && code != PSOCKET_INVALID && t.error != BR_ERR_RECV_FATAL_ALERT + alert) {
                good = 0;
                snprintf(why, sizeof why, "the client tells alert %d, the server got %d", alert,
                         t.error - BR_ERR_RECV_FATAL_ALERT);
            }
            /* what cannot be parsed at all is a decode_error, RFC 8446 6.2 */
            if (good && used[0] && code && code != PSOCKET_INVALID && (alert < 42 || alert > 49 + (code == PSOCKET_CERT_MALFORMED))) {
                good = 0;
                snprintf(why, sizeof why, "alert %d has nothing to do with certificates", alert);
            }
            if (has_openssl && (other = openssl_start(&r, tmp)) != 0) {
                code = meet(&r, other, &err);
                /* OpenSSL ends before its Certificate when the client cannot take any signature of the key. */
                if (code == PSOCKET_TLS_ALERT && err.tls_alert == 40) used[1] = 0;
                else {
                    used[1] = 1;
                    if (good) good = same("openssl s_server", &r, code, &err, why, sizeof why);
                }
            }
        }
        code = ours(&r, &err, &refused);
        if (!refused) {
            used[2] = 1;
            if (good) good = same("psocket's server", &r, code, &err, why, sizeof why);
        } else if (strcmp(r.expected, "TLS_PEM") == 0) { /* here the server's own reader must say so */
            used[2] = 1;
            if (good) good = same("psocket's server", &r, refused, &err, why, sizeof why);
        }
        for (i = 0; i < 3; i++) n += used[i], routes[i] += used[i];
        if (good && !n) {
            good = 0;
            snprintf(why, sizeof why, "no server could send this chain");
        }
        if (good) printf("ok %s: %s,%s%s%s\n", r.name, r.expected, used[0] ? " BearSSL" : "",
                         used[1] ? " OpenSSL" : "", used[2] ? " psocket" : "");
        else printf("FAIL %s: %s\n", r.name, why);
        fflush(stdout);
        *(good ? &passed : &failed) += 1;
        while (r.count) free(r.certs[--r.count].data);
        free(r.chain.p);
        free(r.key.p);
    }
    openssl_stop();
    snprintf(path, sizeof path, "%s/leaf.pem", tmp);
    unlink(path);
    snprintf(path, sizeof path, "%s/rest.pem", tmp);
    unlink(path);
    rmdir(tmp);
    close(t.listener);
    free(table.p);
    free(t.other_key.p);
    psocket_cleanup();
    printf("%d cases: %d with BearSSL's server, %d with OpenSSL's, %d with psocket's\n", passed + failed, routes[0],
           routes[1], routes[2]);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
