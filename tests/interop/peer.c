/* peer.c - a TLS client or server that says what psocket saw, for the scripts beside it. Public functions only.
 *
 *     peer connect HOST PORT [OPTION...]      peer serve [OPTION...]
 *
 *     --ca FILE  --cert FILE --key FILE (a pair, up to 8)  --alpn NAME (each, up to 8)  --auth optional|required
 *     --name NAME  the server's name, if not HOST        --time SECONDS   the clock
 *     --times N    that many connections, one by one     --insecure       no verification
 *     --in FILE    is sent, in pieces of --piece N, then the sending direction ends
 *     --say TEXT   is sent; the sending direction stays open          --lines N   then N lines are awaited
 *     --plain      no TLS                                             --pause MS   before the first recv
 *     --echo       sends back what comes
 *     --out FILE   takes what comes                      --close          closes at once after the handshake
 *     --min V  --max V  versions, 1.2 or 1.3             --suites, --groups, --sigalgs LIST
 *     --fragment N  the largest record that is taken     --export LABEL   prints 32 bytes of an exporter
 *
 * Standard output, per connection:
 *     handshake OK VERSION SUITE alpn=A name=N resumed=R peer=SUBJECT group=G sigalg=S ems=E
 *     handshake CODE alert=N cert=N TEXT
 *     end CODE received N                     a server begins with: port N, and ends at SIGTERM
 */
#include "psocket.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST 8

static const char *in, *out, *say, *export_label;
static int echo, close_at_once, plain, lines, pause_ms;
static size_t piece = 65536;
static int64_t now;
static volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
    (void)signal_number;
    stopped = 1;
}

static int64_t set_clock(void *user)
{
    return *(int64_t *)user;
}

static void *slurp(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *data = (char *)malloc(1 << 25);
    if (!f || !data) {
        perror(path);
        exit(2);
    }
    *len = fread(data, 1, 1 << 25, f);
    fclose(f);
    return data;
}

/* What is sent and what comes, until the end; the code of the end. */
static int talk(psocket *s, long *received)
{
    const void *data;
    ptrdiff_t n;
    FILE *f = NULL;
    int code = 0;
    *received = 0;
    if (close_at_once) return 0;
    if (say && (n = psocket_send(s, say, strlen(say))) < 0) return (int)n;
    if (in) {
        size_t len, at = 0;
        char *bytes = (char *)slurp(in, &len);
        while (!code && at < len) {
            size_t most = len - at < piece ? len - at : piece;
            n = psocket_send(s, bytes + at, most);
            if (n < 0) code = (int)n;
            else at += (size_t)n;
        }
        free(bytes);
        if (!code) code = psocket_shutdown(s);
    }
    for (; !code && lines > 0; lines--) {
        n = psocket_read_until(s, "\n", 60000, &data);
        if (n < 0) return (int)n;
        printf("line %.*s", (int)n, (const char *)data);
        *received += (long)n;
        if (lines == 1) return 0;
    }
    if (pause_ms) {
        struct timespec t;
        t.tv_sec = pause_ms / 1000;
        t.tv_nsec = pause_ms % 1000 * 1000000L;
        nanosleep(&t, NULL);
    }
    if (out) f = fopen(out, "wb");
    while (!code) {
        n = psocket_recv(s, &data);
        if (n < 0) {
            code = (int)n;
            break;
        }
        *received += (long)n;
        if (f) fwrite(data, 1, (size_t)n, f);
        if (echo) {
            ptrdiff_t sent;
            char *copy = (char *)malloc((size_t)n + 1);
            if (!copy) exit(2);
            memcpy(copy, data, (size_t)n); /* recv's pointer is valid until the next call only */
            sent = psocket_send(s, copy, (size_t)n);
            free(copy);
            if (sent < 0) code = (int)sent;
        }
    }
    if (f) fclose(f);
    if (code == PSOCKET_CLOSED && echo) psocket_shutdown(s);
    return code;
}

static void connection(psocket *s, psocket_tls *tls, const char *name)
{
    psocket_tlsinfo info;
    psocket_error err = {0};
    long received;
    int code = plain ? 0 : psocket_starttls(s, tls, name);
    if (code) {
        psocket_geterror(s, &err);
        if (!err.code) err.code = code;
        printf("handshake %s alert=%d cert=%d %s\n", psocket_codename(code), err.tls_alert, err.cert_index, err.text);
    } else {
        if (psocket_gettlsinfo(s, &info)) memset(&info, 0, sizeof info);
        printf("handshake OK %s %s alpn=%s name=%s resumed=%d peer=%s group=%s sigalg=%s ems=%d\n", info.version_name,
               info.suite_name, info.alpn, info.server_name, info.resumed, info.peer_subject, info.group_name, info.sigalg_name,
               info.extended_master_secret);
        if (export_label) {
            uint8_t bytes[32];
            size_t i;
            printf("export ");
            if (psocket_tls_export(s, export_label, NULL, 0, bytes, 32) == 32)
                for (i = 0; i < 32; i++) printf("%02X", bytes[i]);
            printf("\n");
        }
        fflush(stdout);
        code = talk(s, &received);
        psocket_geterror(s, &err);
        printf("end %s received %ld %s\n", psocket_codename(code), received, code ? err.text : "");
    }
    fflush(stdout);
    psocket_free(s);
}

int main(int argc, char **argv)
{
    psocket_error err = {0};
    psocket_options opt = {0};
    psocket_tls_options topt = {0};
    psocket_identity ids[MOST];
    const char *alpn[MOST], *name = NULL, *host = NULL;
    size_t i, certs = 0, keys = 0, protocols = 0;
    psocket_tls *tls = NULL;
    int a = 2, serve, port = 0, times = 0, status = 0, n;
    memset(ids, 0, sizeof ids);
    if (argc < 2) return 2;
    serve = strcmp(argv[1], "serve") == 0;
    if (!serve) {
        if (argc < 4) return 2;
        name = host = argv[2];
        port = atoi(argv[3]);
        times = 1;
        a = 4;
    }
    for (; a < argc; a++) {
        const char *o = argv[a];
        if (strcmp(o, "--insecure") == 0) topt.insecure_no_verify = 1;
        else if (strcmp(o, "--echo") == 0) echo = 1;
        else if (strcmp(o, "--plain") == 0) plain = 1;
        else if (strcmp(o, "--close") == 0) close_at_once = 1;
        else if (a + 1 == argc) return 2;
        else if (strcmp(o, "--ca") == 0) topt.ca_file = argv[++a];
        else if (strcmp(o, "--cert") == 0 && certs < MOST) {
            ids[certs].chain = slurp(argv[++a], &ids[certs].chain_len);
            certs++;
        } else if (strcmp(o, "--key") == 0 && keys < MOST) {
            ids[keys].key = slurp(argv[++a], &ids[keys].key_len);
            keys++;
        } else if (strcmp(o, "--alpn") == 0 && protocols < MOST) alpn[protocols++] = argv[++a];
        else if (strcmp(o, "--auth") == 0)
            topt.client_auth = strcmp(argv[++a], "required") == 0 ? PSOCKET_CLIENT_AUTH_REQUIRED
                                                                  : PSOCKET_CLIENT_AUTH_OPTIONAL;
        else if (strcmp(o, "--name") == 0) name = argv[++a];
        else if (strcmp(o, "--time") == 0) now = strtoll(argv[++a], NULL, 10);
        else if (strcmp(o, "--times") == 0) times = atoi(argv[++a]);
        else if (strcmp(o, "--in") == 0) in = argv[++a];
        else if (strcmp(o, "--piece") == 0) piece = (size_t)atol(argv[++a]);
        else if (strcmp(o, "--out") == 0) out = argv[++a];
        else if (strcmp(o, "--say") == 0) say = argv[++a];
        else if (strcmp(o, "--lines") == 0) lines = atoi(argv[++a]);
        else if (strcmp(o, "--pause") == 0) pause_ms = atoi(argv[++a]);
        else if (strcmp(o, "--min") == 0) topt.min_version = strcmp(argv[++a], "1.2") == 0 ? 0x0303 : 0x0304;
        else if (strcmp(o, "--max") == 0) topt.max_version = strcmp(argv[++a], "1.2") == 0 ? 0x0303 : 0x0304;
        else if (strcmp(o, "--suites") == 0) topt.suites = argv[++a];
        else if (strcmp(o, "--groups") == 0) topt.groups = argv[++a];
        else if (strcmp(o, "--sigalgs") == 0) topt.sigalgs = argv[++a];
        else if (strcmp(o, "--fragment") == 0) topt.max_fragment = (size_t)atol(argv[++a]);
        else if (strcmp(o, "--export") == 0) export_label = argv[++a];
        else return 2;
    }
    opt.timeout_ms = 10000;
    opt.error = topt.error = &err;
    topt.identities = ids;
    topt.identity_count = certs;
    topt.alpn = alpn;
    topt.alpn_count = protocols;
    if (now) {
        topt.clock = set_clock;
        topt.clock_user = &now;
    }
    if (certs != keys || psocket_tls_new(&tls, &topt)) {
        printf("settings %s %s\n", psocket_codename(err.code), err.text);
        return 1;
    }
    if (serve) {
        psocket *l;
        psocket *s;
        opt.timeout_ms = 0;
        if (psocket_listen(&l, "127.0.0.1", 0, &opt) || psocket_getlocal(l, NULL, 0, &port)) {
            printf("listen %s\n", err.text);
            return 1;
        }
        printf("port %d\n", port);
        fflush(stdout);
        signal(SIGTERM, stop);
        for (n = 0; !stopped && (!times || n < times);) {
            if (psocket_wait(l, PSOCKET_READ, 50) != 1 || psocket_accept(l, &s)) continue;
            psocket_settimeout(s, 10000);
            connection(s, tls, NULL);
            n++;
        }
        psocket_free(l);
    } else for (n = 0; n < times; n++) {
        psocket *s;
        if (psocket_connect(&s, host, port, &opt)) {
            printf("connect %s\n", err.text);
            status = 1;
            break;
        }
        connection(s, tls, name);
    }
    psocket_tls_free(tls);
    for (i = 0; i < certs; i++) {
        free((void *)ids[i].chain);
        free((void *)ids[i].key);
    }
    return status;
}
