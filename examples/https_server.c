/* https_server.c - static files over HTTP/1.1, with or without TLS; any number of connections in one thread.
 *
 *     https_server [--port N] [--address IP] [--root DIR] [--cert CHAIN.pem --key KEY.pem]...
 *
 * Without a certificate it speaks plain HTTP; with several, each client gets the one that fits it. Port 0 takes a free
 * one and prints it. A response is never held in memory: what the socket takes is read from the file, block by block.
 *
 *     cc -I.. https_server.c -o https_server -lbearssl -pthread
 */
#define _FILE_OFFSET_BITS 64
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include "http.h"
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#ifdef _WIN32
#define absolute(path, out, size) _fullpath(out, path, size)
#else
#define absolute(path, out, size) realpath(path, out) /* out has PATH_MAX bytes */
#endif
#ifndef PATH_MAX
#define PATH_MAX 4096
#endif

#define HEADER_MAX 16384      /* of a request; more is answered with 431 */
#define IDLE_MS 30000         /* a request must be here, and some of the response taken, within this time */
#define END_MS 2000           /* how long to wait for the peer's end before the last close */
#define BLOCKS_PER_TURN 4     /* then it is the other connections' turn */
#define CERTS_MAX 16

enum { REQUEST, RESPONSE, AWAIT_END };

typedef struct conn {
    struct conn *next, **link; /* list of all */
    psocket *s;
    int state, keep_alive;
    int64_t deadline;
    char head[512];            /* the response: head, then length bytes of the file, of which sent are gone */
    size_t head_len;
    FILE *file;
    int64_t length, sent;
} conn;

static psocket_poller *poller;
static psocket *listener;
static psocket_tls *tls;
static conn *conns;
static char root[PATH_MAX];
static int accept_again; /* its address is a key in the poller */
static volatile sig_atomic_t interrupted;

static void on_signal(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
    psocket_poller_wake(poller);
}

static void conn_log(conn *c, const char *what)
{
    char ip[64] = "?";
    int port = 0;
    static psocket_error err;
    psocket_getpeer(c->s, ip, sizeof ip, &port);
    psocket_geterror(c->s, &err);
    fprintf(stderr, "%s port %d: %s%s%s\n", ip, port, what, err.text[0] ? ": " : "", err.text);
}

static void conn_free(conn *c)
{
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    if (c->file) fclose(c->file);
    psocket_free(c->s); /* leaves the poller, too */
    free(c);
}

/*--- responses */

static const char *content_type(const char *path)
{
    static const char *const types[][2] = {
        {".html", "text/html; charset=utf-8"}, {".htm", "text/html; charset=utf-8"},
        {".css", "text/css; charset=utf-8"}, {".js", "text/javascript; charset=utf-8"},
        {".mjs", "text/javascript; charset=utf-8"},
        {".txt", "text/plain; charset=utf-8"}, {".md", "text/plain; charset=utf-8"}, {".json", "application/json"},
        {".xml", "application/xml"}, {".pdf", "application/pdf"}, {".wasm", "application/wasm"},
        {".svg", "image/svg+xml"}, {".png", "image/png"}, {".jpg", "image/jpeg"}, {".jpeg", "image/jpeg"},
        {".gif", "image/gif"}, {".webp", "image/webp"}, {".ico", "image/x-icon"}, {".mp4", "video/mp4"},
    };
    const char *dot = strrchr(path, '.');
    size_t i;
    for (i = 0; dot && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(dot, types[i][0]) == 0) return types[i][1];
    return "application/octet-stream";
}

/* Begins a response with a body of length bytes; extra is more header lines. */
static void respond(conn *c, const char *status, const char *type, int64_t length, const char *extra)
{
    char date[64] = "";
    time_t now = time(NULL);
    struct tm *t = gmtime(&now);
    int n;
    if (t) strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", t);
    n = snprintf(c->head, sizeof c->head,
                 "HTTP/1.1 %s\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %lld\r\n"
                 "X-Content-Type-Options: nosniff\r\n%sConnection: %s\r\n\r\n",
                 status, date, type, (long long)length, extra, c->keep_alive ? "keep-alive" : "close");
    c->head_len = n > 0 && (size_t)n < sizeof c->head ? (size_t)n : 0;
    c->state = RESPONSE;
    c->length = c->sent = 0;
    c->deadline = psocket_now() + IDLE_MS;
}

/* A response whose body is its own status line. */
static void respond_status(conn *c, const char *status, const char *extra, int head_only)
{
    size_t len = strlen(status) + 1;
    respond(c, status, "text/plain; charset=utf-8", (int64_t)len, extra);
    if (!head_only && c->head_len && c->head_len + len < sizeof c->head) {
        memcpy(c->head + c->head_len, status, len - 1);
        c->head[c->head_len + len - 1] = '\n';
        c->head_len += len;
    }
}

static void respond_error(conn *c, const char *status, const char *extra)
{
    c->keep_alive = 0; /* what follows in the stream is in doubt */
    respond_status(c, status, extra, 0);
}

/* Opens the regular file that the target names: inside root also after all symbolic links, no component begins with a
   dot. *status is the answer when NULL comes back. */
static FILE *open_target(const char *target, struct stat *info, const char **status, char path[8192])
{
    char real[PATH_MAX];
    size_t n = strlen(root), root_len = n;
    FILE *f;
    int folder;
    memcpy(path, root, n);
    *status = "400 Bad Request";
    if (target[0] != '/' || target[1] == '/') return NULL;
    for (; *target && *target != '?'; target++) {
        int ch = (unsigned char)*target;
        if (ch == '%') {
            int high = http_hex(target[1]), low = high < 0 ? -1 : http_hex(target[2]);
            if (low < 0) return NULL;
            ch = high * 16 + low;
            target += 2;
        }
        if (ch == 0 || n + 16 > 8192) return NULL;
        path[n++] = (char)ch;
    }
    path[n] = 0;
    *status = "404 Not Found";
    if (strstr(path + root_len, "/.") || strpbrk(path + root_len, "\\:")) return NULL;
    folder = path[n - 1] == '/';
    if (folder) strcpy(path + n, "index.html");
    if (!absolute(path, real, sizeof real) || strncmp(real, root, root_len) != 0 || !strchr("/\\", real[root_len])) return NULL;
    if (stat(real, info)) return NULL;
    if (S_ISDIR(info->st_mode) && !folder) *status = "301 Moved Permanently";
    if (!S_ISREG(info->st_mode)) return NULL; /* a FIFO must not hold up the others */
    f = fopen(real, "rb");
    if (!f && (errno == EMFILE || errno == ENFILE)) *status = "503 Service Unavailable";
    return f;
}

/*--- requests */

/* Answers the request in text: len bytes that end with an empty line. */
static void handle(conn *c, char *text, size_t len)
{
    char *line, *end, *target, *version;
    const char *v, *status;
    char path[8192], location[400];
    struct stat info;
    int hosts = 0, body = 0, minor, head_only;

    c->keep_alive = 0;
    if (strlen(text) != len) {
        respond_error(c, "400 Bad Request", "");
        return;
    }
    end = strstr(text, "\r\n"); /* RFC 9112 section 3 */
    *end = 0;
    line = end + 2;
    target = strchr(text, ' ');
    version = target ? strchr(target + 1, ' ') : NULL;
    if (!version || strncmp(version, " HTTP/", 6) != 0 || strlen(version) != 9 || version[7] != '.') {
        respond_error(c, "400 Bad Request", "");
        return;
    }
    *target++ = 0;
    *version++ = 0;
    if (version[5] != '1' || version[7] < '0' || version[7] > '9') {
        respond_error(c, "505 HTTP Version Not Supported", "");
        return;
    }
    minor = version[7] - '0';
    c->keep_alive = minor > 0;
    for (; (end = strstr(line, "\r\n")) != line; line = end + 2) {
        *end = 0;
        if (!strchr(line, ':') || strcspn(line, " \t") < strcspn(line, ":")) { /* folded, or a blank in a name */
            respond_error(c, "400 Bad Request", "");
            return;
        }
        if (http_field(line, "host")) hosts++;
        else if ((v = http_field(line, "connection")) != NULL) {
            if (http_has_token(v, "close")) c->keep_alive = 0;
            else if (minor == 0 && http_has_token(v, "keep-alive")) c->keep_alive = 1;
        } else if (http_field(line, "transfer-encoding")) body = 1;
        else if ((v = http_field(line, "content-length")) != NULL && strcmp(v, "0") != 0) body = 1;
    }
    if ((minor > 0 && hosts != 1) || hosts > 1) {
        respond_error(c, "400 Bad Request", "");
        return;
    }
    head_only = strcmp(text, "HEAD") == 0;
    if (!head_only && strcmp(text, "GET") != 0) {
        respond_error(c, "405 Method Not Allowed", "Allow: GET, HEAD\r\n");
        return;
    }
    if (body) c->keep_alive = 0; /* nobody reads it, so no request can follow */
    if (strncmp(target, "http://", 7) == 0 || strncmp(target, "https://", 8) == 0) { /* absolute form */
        target = strchr(strstr(target, "//") + 2, '/');
        if (!target) target = strcpy(text, "/");
    }
    c->file = open_target(target, &info, &status, path);
    if (!c->file) {
        location[0] = 0;
        if (status[0] == '3') { /* a folder: relative links work only behind a slash */
            int n = (int)strcspn(target, "?");
            if (n > 300) status = "404 Not Found";
            else snprintf(location, sizeof location, "Location: %.*s/\r\n", n, target);
        }
        if (strncmp(status, "400", 3) == 0) c->keep_alive = 0;
        respond_status(c, status, location, head_only);
        return;
    }
    respond(c, "200 OK", content_type(path), (int64_t)info.st_size, "");
    if (!head_only) c->length = (int64_t)info.st_size;
}

/*--- connections */

/* The next bytes of the file to be read are those from offset on. */
static int seek(FILE *f, int64_t offset)
{
#ifdef _WIN32
    return _fseeki64(f, offset, SEEK_SET);
#else
    return fseeko(f, (off_t)offset, SEEK_SET);
#endif
}

/* Sends what the socket takes. 0 when the response is out, WANT_WRITE to go on later, or an error. */
static int conn_respond(conn *c)
{
    static char block[65536];
    int blocks = BLOCKS_PER_TURN;
    int64_t total = (int64_t)c->head_len + c->length;
    while (c->sent < total) {
        size_t n = 0;
        ptrdiff_t took;
        int64_t from = c->sent - (int64_t)c->head_len; /* in the file */
        if (blocks-- == 0) return PSOCKET_WANT_WRITE;
        if (from < 0) {
            n = (size_t)-from;
            memcpy(block, c->head + c->sent, n);
            from = 0;
        }
        if (from < c->length) {
            size_t room = sizeof block - n, got;
            int64_t left = c->length - from;
            got = fread(block + n, 1, left < (int64_t)room ? (size_t)left : room, c->file);
            if (got == 0) return PSOCKET_FILE; /* it shrank meanwhile */
            n += got;
        }
        took = psocket_send(c->s, block, n);
        if (took > 0) c->sent += took;
        if (took < (ptrdiff_t)n && c->file) { /* what was not taken is read again */
            from = c->sent - (int64_t)c->head_len;
            if (seek(c->file, from > 0 ? from : 0)) return PSOCKET_FILE;
        }
        if (took < 0) return (int)took;
        c->deadline = psocket_now() + IDLE_MS;
    }
    return psocket_flush(c->s);
}

/* Goes on with a connection until it would wait. */
static void conn_turn(conn *c)
{
    int code = 0, steps = 16;
    while (!code && steps-- > 0) { /* bounded: the others want their turn, too */
        const void *data;
        ptrdiff_t n;
        if (c->state == REQUEST) {
            char text[HEADER_MAX + 1];
            n = psocket_read_until(c->s, "\r\n\r\n", HEADER_MAX, &data);
            if (n > 0) {
                size_t skip = 0; /* RFC 9112 section 2.2: empty lines before a request */
                memcpy(text, data, (size_t)n);
                text[n] = 0;
                while (text[skip] == '\r' && text[skip + 1] == '\n') skip += 2;
                if ((size_t)n > skip) handle(c, text + skip, (size_t)n - skip);
            } else if (n == PSOCKET_LIMIT) respond_error(c, "431 Request Header Fields Too Large", "");
            else code = (int)n;
        } else if (c->state == RESPONSE) {
            code = conn_respond(c);
            if (code) break;
            if (c->file) fclose(c->file);
            c->file = NULL;
            c->state = c->keep_alive ? REQUEST : AWAIT_END;
            c->deadline = psocket_now() + (c->keep_alive ? IDLE_MS : END_MS);
        } else { /* a close with unread data would reset the connection and could destroy the response on its way */
            code = psocket_shutdown(c->s);
            if (!code && (n = psocket_recv(c->s, &data)) < 0) code = (int)n;
        }
    }
    if (!code || code == PSOCKET_WANT_READ || code == PSOCKET_WANT_WRITE) {
        int events = c->state == RESPONSE || code == PSOCKET_WANT_WRITE ? PSOCKET_WRITE : PSOCKET_READ;
        int64_t left = c->deadline - psocket_now();
        code = left <= 0 ? PSOCKET_TIMEOUT : psocket_poller_set(poller, c->s, events, (int)left, c);
    }
    if (!code) return;
    if (code == PSOCKET_FILE) conn_log(c, "a file changed while it was sent");
    else if (tls && !psocket_istls(c->s))
        conn_log(c, code == PSOCKET_TIMEOUT ? "no TLS handshake in time" : "TLS handshake failed");
    conn_free(c);
}

static void accept_all(void)
{
    int i, code = 0;
    for (i = 0; i < 64; i++) { /* bounded: those who are connected want their turn */
        psocket *s;
        conn *c;
        code = psocket_accept(listener, &s);
        if (code) break;
        c = (conn *)calloc(1, sizeof *c);
        if (!c) {
            psocket_free(s);
            code = PSOCKET_NOMEM;
            break;
        }
        c->s = s;
        c->deadline = psocket_now() + IDLE_MS;
        c->next = conns;
        c->link = &conns;
        if (conns) conns->link = &c->next;
        conns = c;
        if (tls) psocket_starttls(s, tls, NULL); /* goes on, or ends with an error, in conn_turn */
        conn_turn(c);
    }
    if (code < 0 && code != PSOCKET_WANT_READ) { /* no descriptors, no memory: look again in a second, do not spin */
        fprintf(stderr, "https_server: %s\n", psocket_strerror(code));
        psocket_poller_set(poller, listener, 0, 1000, &accept_again);
    }
}

static int serve(void)
{
    for (;;) {
        const psocket_event *events;
        int i, n = psocket_poller_wait(poller, &events, -1);
        if (n < 0 || interrupted) return n < 0 ? n : 0;
        for (i = 0; i < n; i++) {
            void *user = events[i].user;
            if (user == listener) accept_all();
            else if (user == &accept_again) psocket_poller_set(poller, listener, PSOCKET_READ, -1, listener);
            else if (user) conn_turn((conn *)user); /* NULL: freed by an event before it */
        }
    }
}

/*--- start */

int main(int argc, char **argv)
{
    static psocket_error err;
    static psocket_options opt;
    static psocket_tls_options topt;
    static psocket_identity ids[CERTS_MAX];
    static const char *const alpn[] = {"http/1.1"};
    const char *address = NULL, *folder = ".";
    size_t chains = 0, keys = 0;
    int port = 8443, code, a;

    for (a = 1; a + 1 < argc; a += 2) {
        if (strcmp(argv[a], "--port") == 0) port = atoi(argv[a + 1]);
        else if (strcmp(argv[a], "--address") == 0) address = argv[a + 1];
        else if (strcmp(argv[a], "--root") == 0) folder = argv[a + 1];
        else if (strcmp(argv[a], "--cert") == 0 && chains < CERTS_MAX)
            ids[chains++].cert_file = argv[a + 1];
        else if (strcmp(argv[a], "--key") == 0 && keys < CERTS_MAX)
            ids[keys++].key_file = argv[a + 1];
        else break;
    }
    if (a != argc || chains != keys) {
        fprintf(stderr, "usage: https_server [--port N] [--address IP] [--root DIR] "
                        "[--cert CHAIN.pem --key KEY.pem]...\n");
        return 2;
    }
    if (!absolute(folder, root, sizeof root)) {
        perror(folder);
        return 1;
    }
    if (strcmp(root, "/") == 0) root[0] = 0;
    if (strlen(root) > 4000) {
        fprintf(stderr, "https_server: the name of the folder is too long\n");
        return 1;
    }
    opt.nonblocking = 1;
    opt.error = topt.error = &err;
    if (chains) {
        topt.identities = ids;
        topt.identity_count = chains;
        topt.alpn = alpn;
        topt.alpn_count = 1;
        if (psocket_tls_new(&tls, &topt)) { /* reads the files, once */
            fprintf(stderr, "https_server: %s\n", err.text);
            return 1;
        }
    }
    code = psocket_poller_new(&poller);
    if (!code) code = psocket_listen(&listener, address, port, &opt);
    if (!code) code = psocket_getlocal(listener, NULL, 0, &port);
    if (!code) code = psocket_poller_set(poller, listener, PSOCKET_READ, -1, listener);
    if (!code) {
        signal(SIGINT, on_signal);
        signal(SIGTERM, on_signal);
        printf("listening on %s://localhost:%d/\n", tls ? "https" : "http", port);
        fflush(stdout);
        code = serve();
    }
    if (code) fprintf(stderr, "https_server: %s\n", err.text[0] ? err.text : psocket_strerror(code));
    while (conns) conn_free(conns);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    psocket_poller_free(poller);
    psocket_free(listener);
    psocket_tls_free(tls);
    return code ? 1 : 0;
}
