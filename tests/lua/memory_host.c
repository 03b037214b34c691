/* memory_host.c: runs a Lua script again and again, each time with another allocation failing: the N-th (and the retry
 * after the collection that Lua makes then), or all from the N-th on. Nothing may crash, and after lua_close as many
 * descriptors must be open as before. With "threads", instead, several states in several threads at once.
 *
 *     memory_host once|all|threads SCRIPT
 *
 * Built by memory.sh against each Lua; the module is found through LUA_CPATH. heap.sh builds it with HEAP: then psocket is in
 * it, and the allocations that fail are psocket's own. */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>

#ifdef HEAP
static long heap_count, heap_fail, heap_end; /* as in allocator */
static int heap_failed;
static void *heap_malloc(size_t n)
{
    long now = __atomic_add_fetch(&heap_count, 1, __ATOMIC_SEQ_CST); /* a thread may resolve */
    if (!heap_fail || now < heap_fail || now >= heap_end) return malloc(n);
    heap_failed = 1;
    return NULL;
}
#define PSOCKET_MALLOC(n) heap_malloc(n)
#define PSOCKET_FREE(p) free(p)
#define PSOCKET_IMPLEMENTATION
#define PSOCKET_LUA
#include "psocket.h"
#endif

typedef struct allocator {
    lua_Alloc f;
    void *ud;
    long count, fail_at, fail_end; /* allocations since it was armed; which fail; 0: none */
    int failed;
} allocator;

static void *alloc(void *ud, void *p, size_t old, size_t n)
{
    allocator *a = (allocator *)ud;
    if (n > (p ? old : 0) && a->fail_at) {
        a->count++;
        if (a->count >= a->fail_at && a->count < a->fail_end) {
            a->failed = 1;
            return NULL;
        }
    }
    return a->f(a->ud, p, old, n);
}

static int descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    if (!d) return 0;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

/* arm(N, M) and disarm() for the script: allocations N to M - 1 from now on fail. */
static int arm(lua_State *L)
{
    void *ud;
    allocator *a;
    lua_getallocf(L, &ud);
    a = (allocator *)ud;
    a->count = 0;
    a->fail_at = (long)luaL_optnumber(L, 1, 0);
    a->fail_end = (long)luaL_optnumber(L, 2, 1e9);
#ifdef HEAP
    heap_count = 0;
    heap_fail = a->fail_at;
    heap_end = a->fail_end;
    a->fail_at = 0;
#endif
    return 0;
}

#ifdef HEAP
/* age(queue) for the script: one item, true, as if two thousand million had gone through before it. */
static int age(lua_State *L)
{
    psi_lua_fifo *q = (psi_lua_fifo *)lua_touserdata(L, 1);
    q->first = INT_MAX - 2;
    q->count = 1;
    PSI_LUA_GETVALUE(L, 1);
    lua_pushboolean(L, 1);
    lua_rawseti(L, -2, INT_MAX - 2);
    return 0;
}
#endif

static const char *script;

/* Runs the script with the failure at N; M allocations fail. *reached: N was reached. */
static int run(long n, long m, int *reached)
{
    allocator a = { 0 };
    lua_State *L = luaL_newstate();
    int status;
    if (!L) return 1;
    luaL_openlibs(L);
#ifdef HEAP
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, luaopen_psocket);
    lua_setfield(L, -2, "psocket");
    lua_pushcfunction(L, age);
    lua_setglobal(L, "age");
    lua_settop(L, 0);
    heap_failed = 0;
#endif
    a.f = lua_getallocf(L, &a.ud);
    lua_pushcfunction(L, arm);
    lua_setglobal(L, "arm");
    lua_pushnumber(L, (lua_Number)n);
    lua_setglobal(L, "N");
    lua_pushnumber(L, (lua_Number)(n + m));
    lua_setglobal(L, "M");
    lua_setallocf(L, alloc, &a);
    status = luaL_loadfile(L, script);
    if (!status) status = lua_pcall(L, 0, 0, 0);
    a.fail_at = 0;
    if (status) {
        const char *message = lua_tostring(L, -1);
        if (!message || !strstr(message, "not enough memory")) {
            printf("FAIL at %ld: %s\n", n, message ? message : "(no message)");
            lua_close(L);
            return 1;
        }
    }
    lua_close(L);
    *reached = a.failed;
#ifdef HEAP
    *reached = heap_failed;
#endif
    return 0;
}

static void *thread(void *arg)
{
    int i, reached, *bad = (int *)arg;
    for (i = 0; i < 10; i++) *bad |= run(0, 0, &reached);
    return NULL;
}

int main(int argc, char **argv)
{
    long n, step = 1;
    int before, after, tries, bad = 0, reached = 1;
    if (argc < 3) return 2;
    script = argv[2];
    if (strcmp(argv[1], "threads") == 0) {
        pthread_t t[4];
        int bads[4] = { 0 }, i;
        for (i = 0; i < 4; i++) pthread_create(&t[i], NULL, thread, &bads[i]);
        for (i = 0; i < 4; i++) pthread_join(t[i], NULL);
        for (i = 0; i < 4; i++) bad += bads[i];
        printf("%s %s: four states in four threads\n", bad ? "FAIL" : "ok", script);
        return bad != 0;
    }
    if (run(0, 0, &reached)) return 1; /* once without: what is made once for all is there */
    before = descriptors();
    for (n = 1, reached = 1; reached && n < 20000 && bad < 10; n += step) {
        bad += run(n, strcmp(argv[1], "all") ? 2 : 1000000000L, &reached);
        after = descriptors();
        for (tries = 0; after != before && tries < 200; tries++) { /* a thread that still resolves may have a file open */
            usleep(10000);
            after = descriptors();
        }
        if (after != before) {
            printf("FAIL at %ld: %d descriptors instead of %d\n", n, after, before);
            bad++;
            before = after;
        }
    }
    printf("%s %s, %s: %ld places\n", bad ? "FAIL" : "ok", script, argv[1], n - 1);
    return bad != 0;
}
