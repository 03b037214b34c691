/* bench.c - runs the servers beside it and the load of load.h against them, and prints Markdown tables.
 *
 *     bench speed [NAME]   work per second of server CPU, in interleaved rounds; NAME: only what has it in its name
 *     bench tls            AES-128-GCM bulk by record size, beside a bare BearSSL loop
 *     bench idle           100 busy connections, with and without 10,000 idle ones
 *     bench memory         bytes of server memory per connection
 *
 * BENCH_BIN is the folder of the programs, BENCH_LUA that of the Lua modules, BENCH_CERTS that of the certificates,
 * BENCH_SECONDS the time per cell and round, BENCH_ROUNDS the number of rounds.
 */
#include "load.h"

#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))
#define ROUNDS_MAX 15

/*--- servers */

enum { EPOLL, PS_C, PS_54, PS_JIT, LUV, CQUEUES, LUASOCKET, COPAS, OPENSSL, BEARSSL, PRIMITIVES, SERVERS };
enum { PLAIN = 1, TLS = 2, SELECT = 4 /* no descriptor above 1023 */ };

typedef struct server {
    const char *name, *tls_name, *lua, *version, *script; /* lua: interpreter, NULL for C; version: folder of psocket.so */
    const char *test; /* Lua that fails if it is not installed */
    const char *tls_test;
    int flags;
} server;

static const server servers[SERVERS] = {
    { "bare epoll, C", NULL, NULL, NULL, "epoll", NULL, NULL, PLAIN },
    { "psocket, C", "psocket, C", NULL, NULL, "psocket", NULL, NULL, PLAIN | TLS },
    { "psocket, Lua 5.4", "psocket, Lua 5.4", "lua5.4", "5.4", "psocket", "require 'psocket'", "", PLAIN | TLS },
    { "psocket, LuaJIT", "psocket, LuaJIT", "luajit", "jit", "psocket", "require 'psocket'", "", PLAIN | TLS },
    { "luv, Lua 5.4", NULL, "lua5.4", NULL, "luv", "require 'luv'", NULL, PLAIN },
    { "cqueues, Lua 5.4", "cqueues, Lua 5.4", "lua5.4", NULL, "cqueues", "require 'cqueues'", "require 'openssl.ssl.context'", PLAIN | TLS },
    { "LuaSocket, Lua 5.4", "LuaSec, Lua 5.4", "lua5.4", NULL, "luasocket", "require 'socket'", "require 'ssl'", PLAIN | TLS | SELECT },
    { "Copas, Lua 5.4", NULL, "lua5.4", NULL, "copas", "require 'socket' assert(io.open'/usr/share/lua/5.2/copas.lua')", NULL, PLAIN | SELECT },
    { NULL, "OpenSSL, C", NULL, NULL, "openssl", NULL, NULL, TLS },
    { NULL, "bare BearSSL, C", NULL, NULL, "bearssl", NULL, NULL, TLS },
    { NULL, "BearSSL's primitives alone", NULL, NULL, "primitives", NULL, NULL, TLS },
};

static char present[SERVERS]; /* PLAIN | TLS */
static const char *bin, *lua_dir, *certs;
static double cell_seconds = 0.4;
static int rounds = 5, cpus;

static const char *getenv_or(const char *name, const char *otherwise)
{
    const char *v = getenv(name);
    return v && *v ? v : otherwise;
}

static const char *title(int i, int tls)
{
    return tls ? servers[i].tls_name : servers[i].name;
}

static void on_cpu(int i)
{
    cpu_set_t set;
    if (cpus < 2) return;
    CPU_ZERO(&set);
    CPU_SET((size_t)i, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void find_servers(void)
{
    int i;
    char cmd[1024];
    for (i = 0; i < SERVERS; i++) {
        const server *s = &servers[i];
        present[i] = (char)(s->flags & (PLAIN | TLS));
        if (!s->lua) {
            snprintf(cmd, sizeof cmd, "%s/%s", bin, s->script);
            if (access(cmd, X_OK)) present[i] = 0;
            continue;
        }
        snprintf(cmd, sizeof cmd, "%s -e \"package.cpath='%s/%s/?.so;'..package.cpath %s\" >/dev/null 2>&1", s->lua, lua_dir,
                 s->version ? s->version : "-", s->test);
        if (system(cmd)) present[i] = 0;
        if (!(present[i] & TLS) || !s->tls_test) continue;
        snprintf(cmd, sizeof cmd, "%s -e \"%s\" >/dev/null 2>&1", s->lua, s->tls_test);
        if (system(cmd)) present[i] = (char)(present[i] & ~TLS);
    }
}

/* A running server. */
typedef struct process {
    pid_t pid;
    int port;
    int malloced; /* reads what malloced.so writes; -1 none */
} process;

static void stop(process *p)
{
    if (p->pid > 0) {
        kill(p->pid, SIGKILL);
        waitpid(p->pid, NULL, 0);
    }
    if (p->malloced >= 0) close(p->malloced);
    p->pid = 0;
    p->malloced = -1;
}

static void path_of(char *out, size_t n, const char *dir, const char *name, const char *end)
{
    snprintf(out, n, "%s/%s%s", dir, name, end);
}

/* Starts a server and reads the port it prints. cert is "rsa", "ec" or NULL. 0 or -1. */
static int start(process *p, int which, const char *mode, size_t size, const char *cert, int memory)
{
    const server *s = &servers[which];
    int out[2], info[2] = { -1, -1 }, n = 0;
    char program[512], cpath[512], number[32], chain[512], key[512], text[32] = "";
    char *argv[16];
    struct pollfd wait;
    ssize_t got;
    p->pid = 0;
    p->malloced = -1;
    if (pipe2(out, O_CLOEXEC) || (memory && pipe(info))) return -1;
    snprintf(number, sizeof number, "%zu", size);
    if (s->lua) {
        snprintf(cpath, sizeof cpath, "package.cpath='%s/%s/?.so;'..package.cpath", lua_dir, s->version ? s->version : "-");
        path_of(program, sizeof program, "tests/bench", s->script, "_server.lua");
        argv[n++] = (char *)(uintptr_t)s->lua;
        argv[n++] = (char *)(uintptr_t)"-e";
        argv[n++] = cpath;
    } else {
        path_of(program, sizeof program, bin, s->script, "");
    }
    argv[n++] = program;
    argv[n++] = (char *)(uintptr_t)mode;
    argv[n++] = number;
    if (cert) {
        path_of(chain, sizeof chain, certs, cert, ".pem");
        path_of(key, sizeof key, certs, cert, ".key");
        argv[n++] = chain;
        argv[n++] = key;
    }
    argv[n] = NULL;
    p->pid = fork();
    if (p->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == 1) _exit(1);
        on_cpu(cpus - 1);
        dup2(out[1], 1);
        if (memory) {
            char preload[512], fd[16];
            snprintf(preload, sizeof preload, "%s/malloced.so", bin);
            snprintf(fd, sizeof fd, "%d", info[1]);
            setenv("LD_PRELOAD", preload, 1);
            setenv("BENCH_MALLOCED", fd, 1);
            close(info[0]);
        }
        execvp(argv[0], argv);
        perror(argv[0]);
        _exit(1);
    }
    close(out[1]);
    if (memory) close(info[1]);
    p->malloced = info[0];
    wait.fd = out[0];
    wait.events = POLLIN;
    got = p->pid > 0 && poll(&wait, 1, 10000) > 0 ? read(out[0], text, sizeof text - 1) : 0;
    close(out[0]);
    p->port = got > 0 ? atoi(text) : 0;
    if (p->port > 0) return 0;
    fprintf(stderr, "bench: %s does not start\n", program);
    stop(p);
    return -1;
}

static double cpu_of(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t)) return NAN;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/*--- what is measured */

typedef struct workload {
    const char *id, *head, *unit;
    int kind;
    const char *mode;
    size_t size;
    int busy, idle;
    const char *cert; /* NULL: plain */
    const char *ciphers;
    int wrk;          /* let wrk make the load, if it is there */
    int rounds;       /* of five asked for; 0: all */
} workload;

#define AES "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"
#define AES13 "TLS_AES_128_GCM_SHA256"
#define CHACHA "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-CHACHA20-POLY1305"

typedef struct table {
    const char *id, *title;
    int reference; /* a server */
    workload rows[8];
} table;

static const table tables[] = {
    { "plain-echo", "Plain TCP: messages", EPOLL, {
        { "echo-1", "echo 64 B × 1", "echoes", LOAD_ECHO, "echo", 64, 1, 0, NULL, NULL, 0, 0 },
        { "echo-64", "echo 64 B × 64", "echoes", LOAD_ECHO, "echo", 64, 64, 0, NULL, NULL, 0, 0 },
        { "echo-64-idle", "… + 900 idle", "echoes", LOAD_ECHO, "echo", 64, 64, 900, NULL, NULL, 0, 0 },
        { "http", "HTTP × 64", "requests", LOAD_HTTP, "http", 0, 64, 0, NULL, NULL, 1, 3 },
        { "churn", "churn × 16", "connections", LOAD_CHURN, "echo", 64, 16, 0, NULL, NULL, 0, 0 } } },
    { "plain-bulk", "Plain TCP: bulk, 4 connections", EPOLL, {
        { "bulk-out-16k", "out 16 KB", "bytes", LOAD_OUT, "source", 16384, 4, 0, NULL, NULL, 0, 0 },
        { "bulk-in-16k", "in 16 KB", "bytes", LOAD_IN, "sink", 16384, 4, 0, NULL, NULL, 0, 0 },
        { "bulk-out-64k", "out 64 KB", "bytes", LOAD_OUT, "source", 65536, 4, 0, NULL, NULL, 0, 0 },
        { "bulk-in-64k", "in 64 KB", "bytes", LOAD_IN, "sink", 65536, 4, 0, NULL, NULL, 0, 0 } } },
    { "plain-bulk-1", "Plain TCP: bulk, 1 connection, 64 KB", EPOLL, {
        { "bulk-out-1", "out", "bytes", LOAD_OUT, "source", 65536, 1, 0, NULL, NULL, 0, 9 },
        { "bulk-in-1", "in", "bytes", LOAD_IN, "sink", 65536, 1, 0, NULL, NULL, 0, 9 } } },
    { "tls-data", "TLS 1.2: data (bulk: 16 KB writes, 4 connections)", OPENSSL, {
        { "tls-aes-out", "AES-128-GCM out", "bytes", LOAD_OUT, "source", 16384, 4, 0, "rsa", AES, 0, 0 },
        { "tls-aes-in", "AES-128-GCM in", "bytes", LOAD_IN, "sink", 16384, 4, 0, "rsa", AES, 0, 0 },
        { "tls-chacha-out", "ChaCha20 out", "bytes", LOAD_OUT, "source", 16384, 4, 0, "rsa", CHACHA, 0, 4 },
        { "tls-chacha-in", "ChaCha20 in", "bytes", LOAD_IN, "sink", 16384, 4, 0, "rsa", CHACHA, 0, 4 },
        { "tls-echo-64", "echo 64 B × 64", "echoes", LOAD_ECHO, "echo", 64, 64, 0, "rsa", AES, 0, 0 },
        { "tls-http", "HTTP × 64", "requests", LOAD_HTTP, "http", 0, 64, 0, "rsa", AES, 0, 0 } } },
    { "tls-handshake", "TLS 1.2: handshakes, X25519, 8 at a time", OPENSSL, {
        { "tls-handshake-rsa", "full, RSA-2048", "handshakes", LOAD_HANDSHAKE, "echo", 64, 8, 0, "rsa", AES, 0, 0 },
        { "tls-handshake-ec", "full, P-256", "handshakes", LOAD_HANDSHAKE, "echo", 64, 8, 0, "ec", AES, 0, 0 },
        { "tls-resumed", "resumed", "handshakes", LOAD_RESUME, "echo", 64, 8, 0, "ec", AES, 0, 0 } } },
    { "tls13", "TLS 1.3: data (16 KB writes, 4 connections), full handshakes (X25519, 8 at a time)", OPENSSL, {
        { "tls13-aes-out", "AES-128-GCM out", "bytes", LOAD_OUT, "source", 16384, 4, 0, "rsa", AES13, 0, 0 },
        { "tls13-aes-in", "AES-128-GCM in", "bytes", LOAD_IN, "sink", 16384, 4, 0, "rsa", AES13, 0, 0 },
        { "tls13-echo-64", "echo 64 B × 64", "echoes", LOAD_ECHO, "echo", 64, 64, 0, "rsa", AES13, 0, 0 },
        { "tls13-handshake-rsa", "RSA-2048", "handshakes", LOAD_HANDSHAKE, "echo", 64, 8, 0, "rsa", AES13, 0, 0 },
        { "tls13-handshake-ec", "P-256", "handshakes", LOAD_HANDSHAKE, "echo", 64, 8, 0, "ec", AES13, 0, 0 } } },
};

static const table record_table = { "tls-records", "AES-128-GCM by size of the record, 4 connections", BEARSSL, {
    { "out-16k", "out 16 KB", "bytes", LOAD_OUT, "source", 16384, 4, 0, "rsa", AES, 0, 0 },
    { "out-1k", "out 1 KB", "bytes", LOAD_OUT, "source", 1024, 4, 0, "rsa", AES, 0, 0 },
    { "out-64", "out 64 B", "bytes", LOAD_OUT, "source", 64, 4, 0, "rsa", AES, 0, 0 },
    { "in-16k", "in 16 KB", "bytes", LOAD_IN, "sink", 16384, 4, 0, "rsa", AES, 0, 0 },
    { "in-1k", "in 1 KB", "bytes", LOAD_IN, "sink", 1024, 4, 0, "rsa", AES, 0, 0 },
    { "in-64", "in 64 B", "bytes", LOAD_IN, "sink", 64, 4, 0, "rsa", AES, 0, 0 } } };

static int columns(const table *t)
{
    int n = 0;
    while (n < COUNT(t->rows) && t->rows[n].id) n++;
    return n;
}

/* Results: work per second of server CPU, by workload, server and round. NAN: failed or not run. */
typedef struct result {
    const workload *w;
    int reference, rounds;
    double rate[SERVERS][ROUNDS_MAX];
} result;

static result results[40];
static int result_count;
static double calls_per_echo[SERVERS];

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(const double *v, int n)
{
    double s[ROUNDS_MAX];
    int i, m = 0;
    for (i = 0; i < n; i++)
        if (!isnan(v[i])) s[m++] = v[i];
    if (!m) return NAN;
    qsort(s, (size_t)m, sizeof *s, ascending);
    return m % 2 ? s[m / 2] : (s[m / 2 - 1] + s[m / 2]) / 2;
}

static const result *find_result(const char *id)
{
    int i;
    for (i = 0; i < result_count; i++)
        if (strcmp(results[i].w->id, id) == 0) return &results[i];
    return NULL;
}

/* Median of the ratios of two servers in the same round. */
static double ratio(const result *r, int a, int b)
{
    double v[ROUNDS_MAX];
    int i;
    if (!r) return NAN;
    for (i = 0; i < r->rounds; i++) v[i] = r->rate[a][i] / r->rate[b][i];
    return median(v, r->rounds);
}

static int have_wrk(void)
{
    static int known;
    if (!known) known = system("command -v wrk >/dev/null 2>&1") ? -1 : 1;
    return known > 0;
}

/* One cell by wrk: requests per second of server CPU. */
static double run_wrk(const process *p, const workload *w)
{
    char cmd[256], line[256];
    double before = cpu_of(p->pid), count = 0;
    FILE *f;
    snprintf(cmd, sizeof cmd, "timeout 10 wrk -t1 -c%d -d1s %s://127.0.0.1:%d/ 2>&1", w->busy, w->cert ? "https" : "http", p->port);
    f = popen(cmd, "r");
    if (!f) return NAN;
    while (fgets(line, sizeof line, f)) {
        if (strstr(line, " requests in ")) count = atof(line);
        if (strstr(line, "Non-2xx")) count = -1e9;
    }
    pclose(f);
    return count > 0 ? count / (cpu_of(p->pid) - before) : NAN;
}

static double run_primitives(const workload *w)
{
    char cmd[1024];
    double rate = NAN;
    FILE *f;
    snprintf(cmd, sizeof cmd, "taskset -c %d %s/primitives %s %g %s/%s.key", cpus - 1, bin, w->cert, cell_seconds, certs, w->cert);
    f = popen(cmd, "r");
    if (!f) return NAN;
    if (fscanf(f, "%lf", &rate) != 1) rate = NAN;
    pclose(f);
    return rate;
}

static void load_for(load *l, const workload *w, const process *p)
{
    memset(l, 0, sizeof *l);
    l->epoll = -1;
    l->kind = w->kind;
    l->port = p->port;
    l->busy = w->busy;
    l->idle = w->idle;
    l->size = w->size;
    l->ciphers = w->ciphers;
}

/* One cell: work per second of server CPU. */
static double run_load(const process *p, int which, const workload *w)
{
    load l;
    double cpu, rate = NAN;
    int i;
    load_for(&l, w, p);
    if (load_open(&l) == 0) {
        for (i = 0; i < 50 && l.kind <= LOAD_CHURN && l.work < 2 * w->busy && !l.errors; i++) load_turns(&l, 0.1, NULL, 0);
        load_turns(&l, 0.1, NULL, 0); /* until all are accepted, buffers are full and allocators warm */
        l.work = 0;
        l.not_resumed = 0;
        cpu = cpu_of(p->pid);
        load_turns(&l, cell_seconds, NULL, 0);
        cpu = cpu_of(p->pid) - cpu;
        if (!l.errors && l.work > 0 && cpu > 0) rate = l.work / cpu;
        if (w->kind == LOAD_RESUME && l.not_resumed) rate = NAN;
    }
    if (isnan(rate)) fprintf(stderr, "bench: %s failed, %s: %s\n", title(which, w->cert != NULL), w->id, l.errors ? l.error : l.not_resumed ? "not resumed" : "no work done");
    load_close(&l);
    return rate;
}

static int takes_part(int i, const workload *w)
{
    int tls = w->cert != NULL;
    if (!(present[i] & (tls ? TLS : PLAIN))) return 0;
    if (i == PRIMITIVES) return w->kind == LOAD_HANDSHAKE;
    return !(servers[i].flags & SELECT) || w->busy + w->idle < 1000;
}

/* Waits until the server has nothing left to do: 0, or -1 if it goes on without clients. */
static int settle(pid_t pid)
{
    double last = cpu_of(pid), next;
    int i;
    for (i = 0; i < 50; i++) {
        struct timespec pause = { 0, 20000000 };
        nanosleep(&pause, NULL);
        next = cpu_of(pid);
        if (next - last < 0.0005) return 0;
        last = next;
    }
    return -1;
}

static void run_workload(const workload *w, int reference, const char *only)
{
    process p[SERVERS];
    result *r = &results[result_count++];
    int i, round, list[SERVERS], n = 0;
    r->w = w;
    r->reference = reference;
    r->rounds = w->rounds ? (w->rounds * rounds + 4) / 5 : rounds;
    if (r->rounds > ROUNDS_MAX) r->rounds = ROUNDS_MAX;
    for (i = 0; i < SERVERS; i++) {
        p[i].pid = 0;
        p[i].malloced = -1;
        for (round = 0; round < ROUNDS_MAX; round++) r->rate[i][round] = NAN;
        if (!takes_part(i, w) || (only && !strchr(only, 'a' + i))) continue;
        if (i == PRIMITIVES || start(&p[i], i, w->mode, w->size, w->cert, 0) == 0) list[n++] = i;
    }
    for (round = 0; round < r->rounds; round++) {
        fprintf(stderr, "bench: %s, round %d of %d\n", w->id, round + 1, r->rounds);
        for (i = 0; i < n; i++) {
            int which = list[(i + round * 3) % n];
            if (which == PRIMITIVES) {
                r->rate[which][round] = run_primitives(w);
                continue;
            }
            if (!p[which].pid) continue;
            r->rate[which][round] = w->wrk && have_wrk() ? run_wrk(&p[which], w) : run_load(&p[which], which, w);
            if (!settle(p[which].pid) && !isnan(r->rate[which][round])) continue;
            stop(&p[which]); /* a server that fails, or spins once its clients are gone, must not be in the others' way */
            start(&p[which], which, w->mode, w->size, w->cert, 0);
        }
    }
    for (i = 0; i < SERVERS; i++) stop(&p[i]);
}

/*--- output */

static void shell_line(const char *label, const char *cmd)
{
    char line[1024];
    FILE *f = popen(cmd, "r");
    size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f) pclose(f);
    while (n && (line[n - 1] == '\n' || line[n - 1] == ' ' || line[n - 1] == ',')) n--;
    line[n] = 0;
    if (n) printf("- %s: %s\n", label, line);
}

static void head(const char *what)
{
    struct utsname u;
    char date[64];
    time_t now = time(NULL);
    uname(&u);
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&now));
    printf("## psocket: %s\n\n- date: %s, commit ", what, date);
    fflush(stdout);
    if (system("git describe --always --dirty 2>/dev/null || echo unknown")) printf("unknown\n");
    shell_line("machine", "printf '%s, %s CPUs, load ' \"$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)\" \"$(getconf _NPROCESSORS_ONLN)\"; cut -d' ' -f1 /proc/loadavg");
    printf("- kernel: %s %s\n", u.sysname, u.release);
    shell_line("packages", "dpkg-query -W -f='${Package} ${Version}, ' gcc libbearssl-dev libssl3 lua5.4 luajit libluajit-5.1-2 lua-luv lua-cqueues "
               "lua-luaossl lua-socket lua-sec lua-copas wrk 2>/dev/null");
    printf("- servers built with %s\n", getenv_or("BENCH_CC", "cc -O2"));
    {
        int i, said = 0;
        for (i = 0; i < SERVERS; i++) {
            int lacks = servers[i].flags & (PLAIN | TLS) & ~present[i];
            if (lacks) printf("%s%s", said++ ? ", " : "- left out, not installed: ", title(i, lacks & PLAIN ? 0 : 1));
        }
        if (said) printf("\n");
    }
    if (cpus < 2) printf("- one CPU only: load and server share it\n");
    printf("\n");
}

static void print_amount(double v)
{
    if (v >= 1e9) printf("%.2f G", v / 1e9);
    else if (v >= 1e6) printf("%.2f M", v / 1e6);
    else if (v >= 1e4) printf("%.0f k", v / 1e3);
    else printf("%.0f ", v);
}

static void print_table(const table *t)
{
    int i, c, n = columns(t), tls = t->rows[0].cert != NULL, said = 0;
    printf("### %s\n\nWork per second of server CPU, as a ratio to %s in the same round; medians.\n\n| server |", t->title,
           title(t->reference, tls));
    for (c = 0; c < n; c++)
        if (find_result(t->rows[c].id)) printf(" %s |", t->rows[c].head);
    printf("\n|---|");
    for (c = 0; c < n; c++)
        if (find_result(t->rows[c].id)) printf("---|");
    printf("\n");
    for (i = 0; i < SERVERS; i++) {
        if (!(present[i] & (tls ? TLS : PLAIN))) continue;
        if (i == PRIMITIVES && strcmp(t->id, "tls-handshake") && strcmp(t->id, "tls13")) continue;
        if (t == &record_table && i != PS_C && i != BEARSSL && i != OPENSSL) continue;
        printf("| %s |", title(i, tls));
        for (c = 0; c < n; c++) {
            const result *r = find_result(t->rows[c].id);
            double v = ratio(r, i, t->reference);
            if (!r) continue;
            if (isnan(v)) printf(" – |");
            else printf(" %.2f |", v);
        }
        printf("\n");
    }
    printf("\n1.00 is");
    for (c = 0; c < n; c++) {
        const result *r = find_result(t->rows[c].id);
        if (!r) continue;
        printf("%s ", said++ ? "," : "");
        print_amount(median(r->rate[t->reference], r->rounds));
        printf("%s/s (%s)", t->rows[c].unit, t->rows[c].head);
    }
    printf(".\n\n");
    fflush(stdout);
}

static void targets_head(void)
{
    printf("### Targets\n\n| target | at least | measured | |\n|---|---|---|---|\n");
}

static void target(const char *what, double least, double got)
{
    if (isnan(got)) return;
    printf("| %s | %.2f | %.2f | %s |\n", what, least, got, got >= least ? "met" : "**not met**");
}

static void target_most(const char *what, double most, double got, const char *form)
{
    char text[64];
    if (isnan(got)) return;
    snprintf(text, sizeof text, form, got);
    printf("| %s | at most ", what);
    printf(form, most);
    printf(" | %s | %s |\n", text, got <= most ? "met" : "**not met**");
}

/*--- system calls per echo */

static double count_calls(int which)
{
    process p;
    load l;
    pid_t tracer;
    workload w = tables[0].rows[1];
    char pid[32], file[256], line[512];
    double calls = 0, rate = NAN;
    int i;
    if (start(&p, which, w.mode, w.size, NULL, 0)) return NAN;
    snprintf(pid, sizeof pid, "%d", (int)p.pid);
    snprintf(file, sizeof file, "%s/calls.txt", bin);
    load_for(&l, &w, &p);
    if (load_open(&l) == 0) {
        FILE *f;
        tracer = fork();
        if (tracer == 0) {
            freopen("/dev/null", "w", stderr);
            execlp("strace", "strace", "-f", "-c", "-o", file, "-p", pid, (char *)NULL);
            _exit(1);
        }
        for (i = 0; i < 100; i++) { /* until it has attached */
            char status[64];
            int traced = 0;
            snprintf(status, sizeof status, "/proc/%s/status", pid);
            f = fopen(status, "r");
            while (f && fgets(line, sizeof line, f))
                if (strncmp(line, "TracerPid:", 10) == 0) traced = atoi(line + 10);
            if (f) fclose(f);
            if (traced) break;
            load_turns(&l, 0.02, NULL, 0);
        }
        l.work = 0;
        load_turns(&l, 1, NULL, 0);
        kill(tracer, SIGINT);
        waitpid(tracer, NULL, 0);
        f = fopen(file, "r");
        while (f && fgets(line, sizeof line, f))
            if (strstr(line, " total")) sscanf(line, "%*s %*s %*s %lf", &calls);
        if (f) fclose(f);
        if (calls > 0 && l.work > 1000) rate = calls / l.work;
    }
    load_close(&l);
    stop(&p);
    return rate;
}

static void run_calls(void)
{
    int i;
    if (system("command -v strace >/dev/null 2>&1")) {
        printf("System calls per echo: not counted, strace is not installed.\n\n");
        return;
    }
    printf("### System calls per echo (64 B, 64 connections, by strace -c)\n\n| server | calls |\n|---|---|\n");
    for (i = 0; i < SERVERS; i++) {
        calls_per_echo[i] = NAN;
        if (!(present[i] & PLAIN)) continue;
        fprintf(stderr, "bench: system calls of %s\n", servers[i].name);
        calls_per_echo[i] = count_calls(i);
        if (isnan(calls_per_echo[i])) printf("| %s | – |\n", servers[i].name);
        else printf("| %s | %.2f |\n", servers[i].name, calls_per_echo[i]);
    }
    printf("\n");
}

/*--- speed */

static double worst(double a, double b)
{
    return isnan(a) || b < a ? b : isnan(b) ? a : a;
}

static void print_targets(void)
{
    static const char *const bulk[] = { "bulk-out-16k", "bulk-in-16k", "bulk-out-64k", "bulk-in-64k", "bulk-out-1", "bulk-in-1" };
    static const char *const plain[] = { "echo-1", "echo-64", "echo-64-idle", "http", "churn", "bulk-out-16k", "bulk-in-16k", "bulk-out-64k", "bulk-in-64k" };
    static const int lua[] = { PS_54, PS_JIT }, peers[] = { LUV, CQUEUES, LUASOCKET, COPAS };
    int i, k, n;
    char what[256];
    targets_head();
    target("C: echo × 1, of bare epoll", 0.95, ratio(find_result("echo-1"), PS_C, EPOLL));
    target("C: echo × 64, of bare epoll", 0.95, ratio(find_result("echo-64"), PS_C, EPOLL));
    target("C: echo × 64 + 900 idle, of bare epoll", 0.95, ratio(find_result("echo-64-idle"), PS_C, EPOLL));
    target("C: HTTP × 64, of bare epoll", 0.95, ratio(find_result("http"), PS_C, EPOLL));
    for (k = 0; k < COUNT(bulk); k++) {
        snprintf(what, sizeof what, "C: %s, of bare epoll", bulk[k]);
        target(what, 0.95, ratio(find_result(bulk[k]), PS_C, EPOLL));
    }
    for (i = 0; i < COUNT(lua); i++) {
        const char *name = servers[lua[i]].name + strlen("psocket, ");
        snprintf(what, sizeof what, "%s: echo × 64, of bare epoll", name);
        target(what, 0.85, ratio(find_result("echo-64"), lua[i], EPOLL));
        snprintf(what, sizeof what, "%s: HTTP × 64, of bare epoll", name);
        target(what, 0.85, ratio(find_result("http"), lua[i], EPOLL));
        snprintf(what, sizeof what, "%s: echo × 64 + 900 idle, of bare epoll", name);
        target(what, 0.82, ratio(find_result("echo-64-idle"), lua[i], EPOLL));
        for (k = 0; k < COUNT(bulk); k++) {
            snprintf(what, sizeof what, "%s: %s, of bare epoll", name, bulk[k]);
            target(what, 0.90, ratio(find_result(bulk[k]), lua[i], EPOLL));
        }
        for (n = 0; n < COUNT(peers); n++) {
            double least = NAN;
            const char *where = "";
            for (k = 0; k < COUNT(plain); k++) {
                double v = ratio(find_result(plain[k]), lua[i], peers[n]);
                if (isnan(v) || v >= worst(least, v + 1)) continue;
                least = v;
                where = plain[k];
            }
            snprintf(what, sizeof what, "%s: ahead of %s in every plain row (closest: %s)", name, servers[peers[n]].name, where);
            target(what, 1.0, least);
        }
        if (calls_per_echo[lua[i]] > 0) {
            snprintf(what, sizeof what, "%s: system calls per echo", name);
            target_most(what, 2.2, calls_per_echo[lua[i]], "%.2f");
        }
    }
    target("C: AES-128-GCM out, of bare BearSSL", 1.05, ratio(find_result("tls-aes-out"), PS_C, BEARSSL));
    target("C: AES-128-GCM in, of bare BearSSL", 1.05, ratio(find_result("tls-aes-in"), PS_C, BEARSSL));
    target("C: AES-128-GCM out, of OpenSSL", 0.88, ratio(find_result("tls-aes-out"), PS_C, OPENSSL));
    target("C: AES-128-GCM in, of OpenSSL", 0.88, ratio(find_result("tls-aes-in"), PS_C, OPENSSL));
    target("C: TLS echo 64 B × 64, of OpenSSL", 1.3, ratio(find_result("tls-echo-64"), PS_C, OPENSSL));
    for (i = 0; i < COUNT(lua); i++) {
        const char *name = servers[lua[i]].name + strlen("psocket, ");
        snprintf(what, sizeof what, "%s: AES-128-GCM out, of OpenSSL", name);
        target(what, 0.85, ratio(find_result("tls-aes-out"), lua[i], OPENSSL));
        snprintf(what, sizeof what, "%s: AES-128-GCM in, of OpenSSL", name);
        target(what, 0.90, ratio(find_result("tls-aes-in"), lua[i], OPENSSL));
        snprintf(what, sizeof what, "%s: TLS echo 64 B × 64, of LuaSec", name);
        target(what, 1.0, ratio(find_result("tls-echo-64"), lua[i], LUASOCKET));
        snprintf(what, sizeof what, "%s: TLS echo 64 B × 64, of cqueues", name);
        target(what, 1.0, ratio(find_result("tls-echo-64"), lua[i], CQUEUES));
    }
    target("C: full handshakes RSA-2048, of BearSSL's primitives", 0.97, ratio(find_result("tls-handshake-rsa"), PS_C, PRIMITIVES));
    target("C: full handshakes P-256, of BearSSL's primitives", 0.95, ratio(find_result("tls-handshake-ec"), PS_C, PRIMITIVES));
    target("C: TLS 1.3 handshakes RSA-2048, of BearSSL's primitives", 0.95, ratio(find_result("tls13-handshake-rsa"), PS_C, PRIMITIVES));
    target("C: TLS 1.3 handshakes P-256, of BearSSL's primitives", 0.95, ratio(find_result("tls13-handshake-ec"), PS_C, PRIMITIVES));
    target("C: TLS 1.3 AES-128-GCM out, of OpenSSL", 0.88, ratio(find_result("tls13-aes-out"), PS_C, OPENSSL));
    target("C: TLS 1.3 AES-128-GCM in, of OpenSSL", 0.88, ratio(find_result("tls13-aes-in"), PS_C, OPENSSL));
    target("C: resumed handshakes, of OpenSSL", 1.2, ratio(find_result("tls-resumed"), PS_C, OPENSSL));
    target("C: ChaCha20 out, of bare BearSSL", 1.0, ratio(find_result("tls-chacha-out"), PS_C, BEARSSL));
    printf("\n");
}

static int speed(const char *filter)
{
    int i, c, any = 0;
    head(filter ? filter : "speed");
    for (i = 0; i < COUNT(tables); i++) {
        int ran = 0;
        for (c = 0; c < columns(&tables[i]); c++) {
            if (filter && !strstr(tables[i].rows[c].id, filter) && strcmp(tables[i].id, filter)) continue;
            run_workload(&tables[i].rows[c], tables[i].reference, NULL);
            ran++;
        }
        if (ran) print_table(&tables[i]);
        any += ran;
    }
    if (!filter || strstr("calls", filter)) {
        run_calls();
        any++;
    }
    if (!any) {
        fprintf(stderr, "bench: nothing is named \"%s\"; there are calls", filter);
        for (i = 0; i < COUNT(tables); i++)
            for (c = 0; c < columns(&tables[i]); c++) fprintf(stderr, ", %s", tables[i].rows[c].id);
        fprintf(stderr, "\n");
        return 2;
    }
    print_targets();
    return 0;
}

static int tls_records(void)
{
    static const char only[] = { 'a' + PS_C, 'a' + OPENSSL, 'a' + BEARSSL, 0 };
    static const struct { const char *id, *what; double least; } t[] = {
        { "out-16k", "16 KB out", 1.0 }, { "in-16k", "16 KB in", 1.0 }, { "out-1k", "1 KB out", 1.5 },
        { "in-1k", "1 KB in", 1.5 }, { "out-64", "64 B out", 2.0 }, { "in-64", "64 B in", 2.0 },
    };
    int c;
    head("TLS by record size");
    for (c = 0; c < columns(&record_table); c++) run_workload(&record_table.rows[c], BEARSSL, only);
    print_table(&record_table);
    targets_head();
    for (c = 0; c < COUNT(t); c++) {
        char what[128];
        snprintf(what, sizeof what, "C: %s, of bare BearSSL", t[c].what);
        target(what, t[c].least, ratio(find_result(t[c].id), PS_C, BEARSSL));
    }
    printf("\nEach message is a record of its own on all servers; psocket gathers the small ones of a poller's turn for one system call.\n");
    return 0;
}

/*--- many idle connections */

static int idle(void)
{
    static const workload alone = { "idle-0", "100 busy", "echoes", LOAD_ECHO, "echo", 64, 100, 0, NULL, NULL, 0, 0 };
    static const workload among = { "idle-10000", "100 busy + 10,000 idle", "echoes", LOAD_ECHO, "echo", 64, 100, 10000, NULL, NULL, 0, 0 };
    static double a[SERVERS][ROUNDS_MAX], b[SERVERS][ROUNDS_MAX], cost[SERVERS][ROUNDS_MAX];
    int i, round, n = rounds > 5 ? 5 : rounds;
    head("10,000 idle connections");
    for (i = 0; i < SERVERS; i++)
        for (round = 0; round < n; round++) a[i][round] = b[i][round] = cost[i][round] = NAN;
    for (round = 0; round < n; round++) {
        fprintf(stderr, "bench: idle, round %d of %d\n", round + 1, n);
        for (i = 0; i < SERVERS; i++) {
            process p[2];
            if (!takes_part(i, &among)) continue;
            if (start(&p[0], i, "echo", 64, NULL, 0) == 0) a[i][round] = run_load(&p[0], i, &alone);
            stop(&p[0]);
            if (start(&p[1], i, "echo", 64, NULL, 0) == 0) b[i][round] = run_load(&p[1], i, &among);
            stop(&p[1]);
            cost[i][round] = a[i][round] / b[i][round];
        }
    }
    printf("Server CPU per 64-byte echo on 100 connections, alone and with 10,000 idle ones in the same process and scheduler.\n\n"
           "| server | alone | + 10,000 idle | ratio |\n|---|---|---|---|\n");
    for (i = 0; i < SERVERS; i++)
        if (!isnan(median(cost[i], n)))
            printf("| %s | %.2f µs | %.2f µs | %.2f |\n", servers[i].name, 1e6 / median(a[i], n), 1e6 / median(b[i], n), median(cost[i], n));
    printf("\n| target | | measured | |\n|---|---|---|---|\n");
    for (i = PS_C; i <= PS_JIT; i++) {
        char what[128];
        snprintf(what, sizeof what, "%s: cost per message, of that alone", servers[i].name);
        target_most(what, 1.3, median(cost[i], n), "%.2f");
    }
    return 0;
}

/*--- memory */

static double rss_of(pid_t pid)
{
    char path[64], line[256];
    double kb = NAN;
    FILE *f;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "Rss:", 4) == 0) kb = atof(line + 4);
    if (f) fclose(f);
    return kb * 1024;
}

static double malloced_of(const process *p)
{
    struct pollfd wait;
    size_t n = 0;
    wait.fd = p->malloced;
    wait.events = POLLIN;
    if (kill(p->pid, SIGUSR1) || poll(&wait, 1, 2000) <= 0 || read(p->malloced, &n, sizeof n) != (ssize_t)sizeof n) return NAN;
    return (double)n;
}

typedef struct memory {
    double rss[2], malloced[2]; /* idle, and after 16 KB both ways; bytes per connection */
} memory;

/* TLS sessions are resumed, for speed: the connection is the same afterwards. */
static memory measure_memory(int which, int count, int tls)
{
    memory m = { { NAN, NAN }, { NAN, NAN } };
    process p;
    load l, warm;
    workload w = { "memory", "", "", LOAD_ECHO, "echo", 16384, 0, 0, NULL, NULL, 0, 0 };
    double rss, malloced;
    int step;
    w.idle = 64;
    w.cert = tls ? "ec" : NULL;
    w.ciphers = tls ? AES : NULL;
    if (start(&p, which, w.mode, w.size, w.cert, 1)) return m;
    load_for(&warm, &w, &p);
    if (load_open(&warm) == 0 && load_pass(&warm) == 0) {
        SSL_SESSION *session = warm.session;
        warm.session = NULL;
        load_close(&warm);
        settle(p.pid);
        rss = rss_of(p.pid);
        malloced = malloced_of(&p);
        w.idle = count;
        load_for(&l, &w, &p);
        l.session = session;
        if (load_open(&l) == 0) {
            for (step = 0; step < 2; step++) {
                if (step && load_pass(&l)) break;
                settle(p.pid);
                m.malloced[step] = (malloced_of(&p) - malloced) / count;
                m.rss[step] = (rss_of(p.pid) - rss) / count;
            }
        }
        if (l.errors) fprintf(stderr, "bench: memory of %s: %s\n", title(which, tls), l.error);
        load_close(&l);
    } else {
        fprintf(stderr, "bench: memory of %s: %s\n", title(which, tls), warm.error);
        load_close(&warm);
    }
    stop(&p);
    return m;
}

static void print_bytes(double v)
{
    if (isnan(v)) printf(" – |");
    else printf(" %.0f |", v);
}

static int memory_table(void)
{
    static const int counts[] = { 1000, 10000 };
    static memory m[SERVERS][2][2];
    int i, c, tls;
    head("memory");
    for (tls = 0; tls < 2; tls++) {
        printf("### Bytes of server memory per connection, %s\n\n"
               "RSS (and what malloc has handed out) per connection: idle, and idle again after an echo of 16 KB.\n\n"
               "| server | 1,000 idle | malloc | after 16 KB | malloc | 10,000 idle | malloc | after 16 KB | malloc |\n"
               "|---|---|---|---|---|---|---|---|---|\n", tls ? "TLS" : "plain TCP");
        for (i = 0; i < SERVERS; i++) {
            if (!(present[i] & (tls ? TLS : PLAIN)) || i == PRIMITIVES) continue;
            printf("| %s |", title(i, tls));
            for (c = 0; c < 2; c++) {
                memory none = { { NAN, NAN }, { NAN, NAN } };
                int can = !(servers[i].flags & SELECT) || counts[c] <= 900;
                fprintf(stderr, "bench: memory of %s, %d connections\n", title(i, tls), counts[c]);
                m[i][tls][c] = can ? measure_memory(i, counts[c], tls) : none;
                print_bytes(m[i][tls][c].rss[0]);
                print_bytes(m[i][tls][c].malloced[0]);
                print_bytes(m[i][tls][c].rss[1]);
                print_bytes(m[i][tls][c].malloced[1]);
            }
            printf("\n");
            fflush(stdout);
        }
        printf("\nLuaSocket and Copas wait in select, which ends at descriptor 1,023. LuaJIT has its own allocator beside malloc.\n\n");
    }
    printf("### Targets, at 10,000 connections\n\n| target | | measured | |\n|---|---|---|---|\n");
    target_most("C: plain, idle", 340, m[PS_C][0][1].rss[0], "%.0f");
    target_most("C: plain, after 16 KB", 400, m[PS_C][0][1].rss[1], "%.0f");
    target_most("C: TLS, idle", 1536, m[PS_C][1][1].rss[0], "%.0f");
    target_most("C: TLS, after 16 KB", 1536, m[PS_C][1][1].rss[1], "%.0f");
    for (i = PS_54; i <= PS_JIT; i++) {
        char what[128];
        snprintf(what, sizeof what, "%s: plain, idle", servers[i].name);
        target_most(what, 1600, m[i][0][1].rss[0], "%.0f");
        snprintf(what, sizeof what, "%s: TLS, idle", servers[i].name);
        target_most(what, 2300, m[i][1][1].rss[0], "%.0f");
    }
    printf("\n");
    return 0;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    const char *what = argc > 1 ? argv[1] : "";
    bin = getenv_or("BENCH_BIN", "build/bench");
    lua_dir = getenv_or("BENCH_LUA", "build/lua");
    certs = getenv_or("BENCH_CERTS", "build/certs");
    cell_seconds = atof(getenv_or("BENCH_SECONDS", "0.4"));
    rounds = atoi(getenv_or("BENCH_ROUNDS", "5"));
    if (rounds < 1 || rounds > ROUNDS_MAX) rounds = 5;
    cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < 32768) {
        files.rlim_cur = 32768;
        if (files.rlim_max < files.rlim_cur) files.rlim_max = files.rlim_cur;
        if (setrlimit(RLIMIT_NOFILE, &files)) { /* not root: what the hard limit allows */
            getrlimit(RLIMIT_NOFILE, &files);
            files.rlim_cur = files.rlim_max;
            setrlimit(RLIMIT_NOFILE, &files);
        }
    }
    find_servers();
    on_cpu(0);
    if (strcmp(what, "speed") == 0) return speed(argc > 2 && *argv[2] ? argv[2] : NULL);
    if (strcmp(what, "tls") == 0) return tls_records();
    if (strcmp(what, "idle") == 0) return idle();
    if (strcmp(what, "memory") == 0) return memory_table();
    fprintf(stderr, "usage: bench speed [NAME] | tls | idle | memory\n");
    return 2;
}
