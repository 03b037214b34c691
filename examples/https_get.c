/* https_get.c - fetches a URL over HTTP/1.1, with or without TLS, and says so when anything is missing.
 *
 *     https_get [--cacert FILE] [--insecure] [-o FILE] URL
 *
 * The body goes to standard output or FILE; exit status 0 means that all of it is there and the server said 2xx.
 *
 *     cc -I.. https_get.c -o https_get -lbearssl -pthread
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include "http.h"
#include <unistd.h>
#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#endif

#define LINE_MAX_BYTES 8192 /* of one header line */
#define HEADER_MAX_LINES 200
#define BAR_FROM 1000000.0 /* a progress bar for more bytes than this */

typedef struct url {
    int tls, port;
    char host[256]; /* without brackets */
    char target[4096];
} url;

typedef struct answer {
    int status, chunked;
    int64_t length; /* -1: not said */
    char reason[128], location[512];
} answer;

/* Where the body goes. */
typedef struct sink {
    FILE *out;
    int64_t got, total; /* total is -1 if nobody said */
    int bar, drawn;
    int64_t started, redraw_at;
} sink;

/* Prints what went wrong with s and answers 0, as all functions here do on failure. */
static int failed(psocket *s, const char *what)
{
    static psocket_error err;
    psocket_geterror(s, &err);
    fprintf(stderr, "https_get: %s: %s\n", what, err.text);
    return 0;
}

static int wrong(const char *what)
{
    fprintf(stderr, "https_get: %s\n", what);
    return 0;
}

/* Copies text that a server sent: control characters could talk to the terminal. */
static void copy_clean(char *to, size_t size, const char *from)
{
    size_t i;
    for (i = 0; i + 1 < size && from[i]; i++) to[i] = (char)(from[i] >= ' ' && from[i] < 127 ? from[i] : '?');
    to[i] = 0;
}

static int parse_url(url *u, const char *text)
{
    const char *p, *end, *port = NULL;
    size_t n;
    for (p = text; *p; p++)
        if (*p <= ' ' || *p >= 127) return wrong("the URL has a blank or a character that is not ASCII");
    memset(u, 0, sizeof *u);
    if (strncmp(text, "https://", 8) == 0) u->tls = 1;
    else if (strncmp(text, "http://", 7) != 0) return wrong("the URL must begin with https:// or http://");
    text += u->tls ? 8 : 7;
    end = text + strcspn(text, "/?#");
    if (memchr(text, '@', (size_t)(end - text))) return wrong("a user name in the URL is not supported");
    if (*text == '[') {
        text++;
        p = (const char *)memchr(text, ']', (size_t)(end - text));
        if (!p) return wrong("the URL lacks a ]");
        n = (size_t)(p++ - text);
    } else {
        for (p = text; p < end && *p != ':'; p++) continue;
        n = (size_t)(p - text);
    }
    if (n == 0 || n >= sizeof u->host) return wrong("the URL has no host, or a very long one");
    memcpy(u->host, text, n);
    u->port = u->tls ? 443 : 80;
    if (p < end && *p == ':') port = ++p;
    if (port && port < end)
        for (u->port = 0; p < end && *p >= '0' && *p <= '9' && u->port <= 65535; p++)
            u->port = u->port * 10 + (*p - '0');
    if (p != end || u->port < 1 || u->port > 65535) return wrong("the URL has a malformed port");
    n = strcspn(end, "#");
    if (n + 2 > sizeof u->target) return wrong("the URL is too long");
    if (*end != '/') u->target[0] = '/';
    strncat(u->target, end, n);
    return 1;
}

static int send_request(psocket *s, const url *u)
{
    char text[sizeof u->target + sizeof u->host + 256], port[16] = "";
    int v6 = strchr(u->host, ':') != NULL, n;
    if (u->port != (u->tls ? 443 : 80)) snprintf(port, sizeof port, ":%d", u->port);
    n = snprintf(text, sizeof text,
                 "GET %s HTTP/1.1\r\nHost: %s%s%s%s\r\nUser-Agent: psocket\r\nAccept: */*\r\nConnection: close\r\n\r\n",
                 u->target, v6 ? "[" : "", u->host, v6 ? "]" : "", port);
    return psocket_send(s, text, (size_t)n) < 0 ? failed(s, "sending the request") : 1;
}

/* Reads a line without its end into line. */
static int read_line(psocket *s, char *line, size_t size, const char *what)
{
    const void *data;
    ptrdiff_t n = psocket_read_until(s, "\n", size - 1, &data);
    if (n == PSOCKET_LIMIT) return wrong("a line of the answer is too long");
    if (n == PSOCKET_CLOSED) fprintf(stderr, "https_get: the connection ended within %s\n", what);
    else if (n < 0) failed(s, what);
    if (n < 0) return 0;
    memcpy(line, data, (size_t)n);
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
    line[n] = 0;
    return strlen(line) == (size_t)n ? 1 : wrong("a line of the answer has a NUL byte");
}

static int read_header(psocket *s, answer *a)
{
    char line[LINE_MAX_BYTES];
    int lines = 0;
    do { /* 1xx: the real answer follows */
        const char *v;
        memset(a, 0, sizeof *a);
        a->length = -1;
        if (!read_line(s, line, sizeof line, "the answer's header")) return 0;
        if (strncmp(line, "HTTP/1.", 7) != 0 || strlen(line) < 12 || line[8] != ' ')
            return wrong("this is not an HTTP/1 answer");
        a->status = atoi(line + 9);
        copy_clean(a->reason, sizeof a->reason, line + 9);
        for (;;) {
            if (++lines > HEADER_MAX_LINES) return wrong("the answer's header is too long");
            if (!read_line(s, line, sizeof line, "the answer's header")) return 0;
            if (!line[0]) break;
            if ((v = http_field(line, "content-length")) != NULL) {
                int64_t length = 0;
                const char *p;
                for (p = v; *p >= '0' && *p <= '9' && p - v < 18; p++) length = length * 10 + (*p - '0');
                if (*p || p == v || (a->length >= 0 && a->length != length)) return wrong("malformed Content-Length");
                a->length = length;
            } else if ((v = http_field(line, "transfer-encoding")) != NULL) {
                if (a->chunked || strcmp(v, "chunked") != 0) return wrong("unknown Transfer-Encoding");
                a->chunked = 1;
            } else if ((v = http_field(line, "location")) != NULL)
                copy_clean(a->location, sizeof a->location, v);
        }
    } while (a->status >= 100 && a->status < 200 && a->status != 101);
    if (a->chunked) a->length = -1; /* RFC 9112 section 6.3 */
    if (a->status == 204) a->length = 0;
    return 1;
}

static void draw_bar(sink *k, int last)
{
    static const char marks[] = "##############################";
    int64_t now = psocket_now();
    double got = (double)k->got, total = (double)k->total, seconds = (double)(now - k->started) / 1000;
    if (!k->bar || (k->total >= 0 ? total : got) < BAR_FROM || (!last && now < k->redraw_at)) return;
    k->redraw_at = now + 100;
    k->drawn = 1;
    if (k->total >= 0)
        fprintf(stderr, "\r[%-30.*s] %3.0f %%  %.1f of %.1f MB", (int)(30 * got / total), marks, 100 * got / total,
                got / 1e6, total / 1e6);
    else fprintf(stderr, "\r%.1f MB", got / 1e6);
    fprintf(stderr, "  %.1f MB/s  ", seconds > 0 ? got / 1e6 / seconds : 0.0);
}

/* Takes len bytes of the body (-1: all until the connection ends) out of the socket. */
static int read_body(psocket *s, sink *k, int64_t len)
{
    while (len != 0) {
        const void *data;
        ptrdiff_t n = psocket_recv(s, &data), use = n;
        if (n == PSOCKET_CLOSED && len < 0) return 1; /* over TLS: the server said goodbye, nothing was cut off */
        if (n == PSOCKET_CLOSED) return wrong("the connection ended before the body did");
        if (n < 0) return failed(s, "receiving the body");
        if (len >= 0 && n > len) use = (ptrdiff_t)len;
        if (fwrite(data, 1, (size_t)use, k->out) != (size_t)use) return wrong("cannot write the body");
        if (use < n && psocket_unrecv(s, (const char *)data + use, (size_t)(n - use))) return failed(s, "unrecv");
        if (len > 0) len -= use;
        k->got += use;
        draw_bar(k, 0);
    }
    return 1;
}

static int read_chunked(psocket *s, sink *k)
{
    char line[LINE_MAX_BYTES];
    int lines = 0;
    for (;;) { /* RFC 9112 section 7.1 */
        int64_t size = 0;
        char *p;
        if (!read_line(s, line, sizeof line, "a chunk's size")) return 0;
        for (p = line; p - line < 15 && http_hex(*p) >= 0; p++) size = size * 16 + http_hex(*p);
        if (p == line || (*p && *p != ';' && *p != ' ' && *p != '\t')) return wrong("malformed chunk size");
        if (size == 0) break;
        if (!read_body(s, k, size)) return 0;
        if (!read_line(s, line, sizeof line, "the end of a chunk")) return 0;
        if (line[0]) return wrong("a chunk is longer than it said");
    }
    do { /* trailer fields mean nothing here */
        if (++lines > HEADER_MAX_LINES) return wrong("the trailer is too long");
        if (!read_line(s, line, sizeof line, "the trailer")) return 0;
    } while (line[0]);
    return 1;
}

static int fetch(psocket *s, const url *u, const char *file)
{
    answer a;
    static sink k;
    int all;
    if (!send_request(s, u) || !read_header(s, &a)) return 0;
    if (a.status < 200 || a.status > 299) {
        fprintf(stderr, "https_get: the server answered %s%s%s\n", a.reason, a.location[0] ? ", see " : "", a.location);
        return 0;
    }
    k.out = file ? fopen(file, "wb") : stdout;
    if (!k.out) {
        perror(file);
        return 0;
    }
    k.total = a.length;
    k.bar = isatty(2);
    k.started = psocket_now();
    all = a.chunked ? read_chunked(s, &k) : read_body(s, &k, a.length);
    draw_bar(&k, 1);
    if (k.drawn) fputc('\n', stderr);
    if (fflush(k.out) != 0 || (file && fclose(k.out) != 0)) all = wrong("cannot write the body");
    if (!all) {
        fprintf(stderr, "https_get: incomplete: %.0f ", (double)k.got);
        if (k.total >= 0) fprintf(stderr, "of %.0f ", (double)k.total);
        fprintf(stderr, "bytes%s%s\n", file ? " in " : "", file ? file : "");
    }
    return all;
}

/* TLS on a connected socket; says on standard error what was agreed on. */
static int secure(psocket *s, psocket_tls *tls, const url *u, int insecure)
{
    psocket_tlsinfo info;
    char subject[256];
    if (psocket_starttls(s, tls, u->host)) return failed(s, u->host);
    if (psocket_gettlsinfo(s, &info)) return failed(s, "gettlsinfo");
    copy_clean(subject, sizeof subject, info.peer_subject);
    fprintf(stderr, "%s %s%s%s, %s%s\n", info.version_name, info.suite_name, info.alpn[0] ? ", " : "", info.alpn,
            subject, insecure ? " (NOT VERIFIED)" : "");
    return 1;
}

int main(int argc, char **argv)
{
    const char *cacert = NULL, *file = NULL, *address = NULL;
    static const char *const alpn[] = {"http/1.1"};
    int insecure = 0, usage = 0, ok = 0, i;
    static psocket_error err;
    static psocket_options opt;
    static psocket_tls_options topt;
    psocket_tls *tls = NULL;
    psocket *s = NULL;
    url u;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--insecure") == 0) insecure = 1;
        else if (strcmp(argv[i], "--cacert") == 0 && i + 1 < argc) cacert = argv[++i];
        else if (strcmp(argv[i], "-o") == 0 && i + 1 < argc) file = argv[++i];
        else if (argv[i][0] != '-' && !address) address = argv[i];
        else usage = 1;
    }
    if (usage || !address) {
        fprintf(stderr, "usage: https_get [--cacert FILE] [--insecure] [-o FILE] URL\n");
        return 2;
    }
    if (!parse_url(&u, address)) return 2;
    opt.timeout_ms = 30000; /* each operation, not the whole download */
#ifdef _WIN32
    _setmode(_fileno(stdout), _O_BINARY); /* the body as it is, whatever it holds */
#endif
    topt.ca_file = cacert;  /* NULL: the system's */
    topt.insecure_no_verify = insecure;
    topt.alpn = alpn;
    topt.alpn_count = 1;
    opt.error = topt.error = &err;
    if ((u.tls && psocket_tls_new(&tls, &topt)) || psocket_connect(&s, u.host, u.port, &opt)) wrong(err.text);
    else ok = (!u.tls || secure(s, tls, &u, insecure)) && fetch(s, &u, file);
    psocket_free(s);
    psocket_tls_free(tls);
    return ok ? 0 : 1;
}
