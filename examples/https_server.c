/* https_server.c - static files over HTTP/1.1, with or without TLS; any number of connections in one thread.
 *
 *     https_server [--port N] [--address IP] [--root DIR] [--cert CHAIN.pem --key KEY.pem]...
 *
 * Without a certificate it speaks plain HTTP; with several, each client gets the one that fits it. Port 0 takes a free
 * one and prints it. A response is never held in memory: what the socket takes is read from the file, block by block.
 *
 *     cc -I.. https_server.c -o https_server -lbearssl -pthread
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEADER_MAX 16384      /* of a request; more is answered with 431 */
#define IDLE_MS 30000         /* a request must be here, and some of the response taken, within this time */
#define LINGER_MS 2000        /* how long to wait for the peer's end before the last close */
#define BLOCKS_PER_TURN 4     /* then it is the other connections' turn */
#define CERTS_MAX 16

enum { REQUEST, RESPONSE, LINGER };

typedef struct conn {
    struct conn *next, **link; /* list of all */
    psocket *s;
    int state, keep_alive;
    int64_t deadline;
    char head[512];            /* the response: head, then length bytes of the file, of which sent are gone */
    size_t head_len;
    int file;
    int64_t length, sent;
} conn;

static psocket_poller *poller;
static psocket *listener;
static psocket_tls *tls;
static conn *conns;
static char root[4096];
static int accept_again, interrupted; /* their addresses are keys in the poller */
static int interrupt_pipe[2] = {-1, -1};
static psocket_watch *interrupt_watch;

static void on_signal(int signal_number)
{
    int saved = errno;
    ssize_t ignored = write(interrupt_pipe[1], "", 1);
    (void)ignored;
    (void)signal_number;
    errno = saved;
}

static void conn_log(conn *c, const char *what)
{
    char ip[64] = "?";
    int port = 0;
    psocket_error err = {0};
    psocket_getpeer(c->s, ip, sizeof ip, &port);
    psocket_geterror(c->s, &err);
    fprintf(stderr, "%s port %d: %s%s%s\n", ip, port, what, err.text[0] ? ": " : "", err.text);
}

static void conn_free(conn *c)
{
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    if (c->file >= 0) close(c->file);
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

static int hex(int c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Opens the regular file that the target names: inside root also after all symbolic links, no component begins with a
   dot. *status is the answer when -1 comes back. */
static int open_target(const char *target, struct stat *info, const char **status, char path[8192])
{
    char real[PATH_MAX];
    size_t n = strlen(root), root_len = n;
    int fd, folder;
    memcpy(path, root, n);
    *status = "400 Bad Request";
    if (target[0] != '/' || target[1] == '/') return -1;
    for (; *target && *target != '?'; target++) {
        int ch = (unsigned char)*target;
        if (ch == '%') {
            int high = hex(target[1]), low = high < 0 ? -1 : hex(target[2]);
            if (low < 0) return -1;
            ch = high * 16 + low;
            target += 2;
        }
        if (ch == 0 || n + 16 > 8192) return -1;
        path[n++] = (char)ch;
    }
    path[n] = 0;
    *status = "404 Not Found";
    if (strstr(path + root_len, "/.")) return -1;
    folder = path[n - 1] == '/';
    if (folder) strcpy(path + n, "index.html");
    if (!realpath(path, real) || strncmp(real, root, root_len) != 0 || real[root_len] != '/') return -1;
    fd = open(real, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold up the others */
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE) *status = "503 Service Unavailable";
        return -1;
    }
    if (fstat(fd, info) == 0) {
        if (S_ISREG(info->st_mode)) return fd;
        if (S_ISDIR(info->st_mode) && !folder) *status = "301 Moved Permanently";
    }
    close(fd);
    return -1;
}

/*--- requests */

/* If line is the header field name, its value; else NULL. */
static const char *field(const char *line, const char *name)
{
    size_t i, n = strlen(name);
    for (i = 0; i < n; i++)
        if ((line[i] >= 'A' && line[i] <= 'Z' ? line[i] + 32 : line[i]) != name[i]) return NULL;
    if (line[n] != ':') return NULL;
    for (i = n + 1; line[i] == ' ' || line[i] == '\t'; i++) continue;
    return line + i;
}

/* Whether a comma-separated list has the token, in any case. */
static int has_token(const char *list, const char *token)
{
    size_t n = strlen(token), i;
    while (*list) {
        while (*list == ' ' || *list == '\t' || *list == ',') list++;
        for (i = 0; i < n && list[i] && (list[i] | 32) == token[i]; i++) continue;
        if (i == n && strchr(" \t,", list[n])) return 1; /* strchr finds the final NUL, too */
        while (*list && *list != ',') list++;
    }
    return 0;
}

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
        if (field(line, "host")) hosts++;
        else if ((v = field(line, "connection")) != NULL) {
            if (has_token(v, "close")) c->keep_alive = 0;
            else if (minor == 0 && has_token(v, "keep-alive")) c->keep_alive = 1;
        } else if (field(line, "transfer-encoding")) body = 1;
        else if ((v = field(line, "content-length")) != NULL && strcmp(v, "0") != 0) body = 1;
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
    if (c->file < 0) {
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
            size_t room = sizeof block - n;
            int64_t left = c->length - from;
            ssize_t got = pread(c->file, block + n, left < (int64_t)room ? (size_t)left : room, (off_t)from);
            if (got <= 0) return PSOCKET_FILE; /* it shrank meanwhile */
            n += (size_t)got;
        }
        took = psocket_send(c->s, block, n);
        if (took < 0) return (int)took;
        c->sent += took;
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
            if (c->file >= 0) close(c->file);
            c->file = -1;
            c->state = c->keep_alive ? REQUEST : LINGER;
            c->deadline = psocket_now() + (c->keep_alive ? IDLE_MS : LINGER_MS);
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
            break;
        }
        c->s = s;
        c->file = -1;
        c->deadline = psocket_now() + IDLE_MS;
        c->next = conns;
        c->link = &conns;
        if (conns) conns->link = &c->next;
        conns = c;
        code = tls ? psocket_starttls(s, tls, NULL) : 0;
        if (code && code != PSOCKET_WANT_READ && code != PSOCKET_WANT_WRITE) {
            conn_log(c, "TLS handshake failed");
            conn_free(c);
        } else conn_turn(c);
    }
    if (code == PSOCKET_DESCRIPTORS) { /* the connection still waits: look again in a second, do not spin */
        fprintf(stderr, "https_server: %s\n", psocket_strerror(code));
        psocket_poller_set(poller, listener, 0, 1000, &accept_again);
    }
}

static int serve(void)
{
    for (;;) {
        const psocket_event *events;
        int i, n = psocket_poller_wait(poller, &events, -1);
        if (n < 0) return n;
        for (i = 0; i < n; i++) {
            void *user = events[i].user;
            if (user == &interrupted) return 0;
            if (user == listener) accept_all();
            else if (user == &accept_again) psocket_poller_set(poller, listener, PSOCKET_READ, -1, listener);
            else if (user) conn_turn((conn *)user); /* NULL: freed by an event before it */
        }
    }
}

/*--- start */

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = (char *)malloc(1 << 20);
    size_t n;
    if (!f || !text) {
        perror(path);
        exit(1);
    }
    n = fread(text, 1, (1 << 20) - 1, f);
    text[n] = 0;
    fclose(f);
    return text;
}

int main(int argc, char **argv)
{
    psocket_error err = {0};
    psocket_options opt = {0};
    psocket_tls_options topt = {0};
    psocket_identity ids[CERTS_MAX];
    static const char *const alpn[] = {"http/1.1"};
    const char *address = NULL, *folder = ".";
    struct sigaction act;
    size_t chains = 0, keys = 0, i;
    int port = 8443, code, a;

    memset(ids, 0, sizeof ids);
    for (a = 1; a + 1 < argc; a += 2) {
        if (strcmp(argv[a], "--port") == 0) port = atoi(argv[a + 1]);
        else if (strcmp(argv[a], "--address") == 0) address = argv[a + 1];
        else if (strcmp(argv[a], "--root") == 0) folder = argv[a + 1];
        else if (strcmp(argv[a], "--cert") == 0 && chains < CERTS_MAX)
            ids[chains++].chain = read_file(argv[a + 1]);
        else if (strcmp(argv[a], "--key") == 0 && keys < CERTS_MAX)
            ids[keys++].key = read_file(argv[a + 1]);
        else break;
    }
    if (a != argc || chains != keys) {
        fprintf(stderr, "usage: https_server [--port N] [--address IP] [--root DIR] "
                        "[--cert CHAIN.pem --key KEY.pem]...\n");
        return 2;
    }
    if (!realpath(folder, root)) {
        perror(folder);
        return 1;
    }
    if (strcmp(root, "/") == 0) root[0] = 0;
    opt.nonblocking = 1;
    opt.error = topt.error = &err;
    if (chains) {
        topt.identities = ids;
        topt.identity_count = chains;
        topt.alpn = alpn;
        topt.alpn_count = 1;
        code = psocket_tls_new(&tls, &topt); /* copies what it needs */
        for (i = 0; i < chains; i++) {
            volatile char *p = (volatile char *)ids[i].key;
            while (*p) *p++ = 0;
            free((void *)ids[i].chain);
            free((void *)ids[i].key);
        }
        if (code) {
            fprintf(stderr, "https_server: %s\n", err.text);
            return 1;
        }
    }
    code = psocket_poller_new(&poller);
    if (!code) code = psocket_listen(&listener, address, port, &opt);
    if (!code) code = psocket_getlocal(listener, NULL, 0, &port);
    if (!code) code = psocket_poller_set(poller, listener, PSOCKET_READ, -1, listener);
    if (!code) code = pipe(interrupt_pipe) ? PSOCKET_DESCRIPTORS : 0;
    if (!code) code = psocket_poller_watch(poller, &interrupt_watch, interrupt_pipe[0], PSOCKET_READ, -1, &interrupted);
    if (!code) {
        memset(&act, 0, sizeof act);
        act.sa_handler = on_signal;
        sigaction(SIGINT, &act, NULL);
        sigaction(SIGTERM, &act, NULL);
        printf("listening on %s://localhost:%d/\n", tls ? "https" : "http", port);
        fflush(stdout);
        code = serve();
    }
    if (code) fprintf(stderr, "https_server: %s\n", err.text[0] ? err.text : psocket_strerror(code));
    while (conns) conn_free(conns);
    psocket_watch_free(interrupt_watch);
    psocket_poller_free(poller);
    psocket_free(listener);
    psocket_tls_free(tls);
    for (a = 0; a < 2; a++)
        if (interrupt_pipe[a] >= 0) close(interrupt_pipe[a]);
    return code ? 1 : 0;
}
