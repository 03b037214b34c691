/* Every allocation fails in turn, once and then for ever after: each scenario ends with an error code or succeeds in full;
   nothing crashes, hangs or is lost, and afterwards the same process runs the scenario as if nothing had happened. */
#include <stddef.h>
#include <stdlib.h>
#include "fault/names.h"
static void *fault_malloc(size_t n);
static void *fault_realloc(void *p, size_t n);
static void fault_free(void *p);
#define PSOCKET_MALLOC(n) fault_malloc(n)
#define PSOCKET_REALLOC(p, n) fault_realloc(p, n)
#define PSOCKET_FREE(p) fault_free(p)
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "fault/scenes.h"
#include "fault/more.h"

#ifdef FAULT_TRACE
extern void __sanitizer_print_stack_trace(void);
#endif

/* The resolver's threads allocate, too. */
static long fault_at, fault_count, fault_live, fault_hits;
static int fault_for_ever;

static int fault_now(void)
{
    long n = __atomic_add_fetch(&fault_count, 1, __ATOMIC_SEQ_CST), at = __atomic_load_n(&fault_at, __ATOMIC_SEQ_CST);
    if (!at || n < at || (n > at && !fault_for_ever)) return 0;
    __atomic_add_fetch(&fault_hits, 1, __ATOMIC_SEQ_CST);
#ifdef FAULT_TRACE /* gcc -fsanitize=address -DFAULT_TRACE, then FAULT_AT=N: who asked for the memory */
    __sanitizer_print_stack_trace();
#endif
    return 1;
}

/* Memory comes filled with rubbish, so that whoever relies on zeroes is found out. */
static void *fault_malloc(size_t n)
{
    void *p = fault_now() ? NULL : malloc(n ? n : 1);
    if (p) memset(p, 0xa5, n);
    if (p) __atomic_add_fetch(&fault_live, 1, __ATOMIC_SEQ_CST);
    return p;
}

static void *fault_realloc(void *p, size_t n)
{
    if (!p) return fault_malloc(n);
    return fault_now() ? NULL : realloc(p, n ? n : 1);
}

static void fault_free(void *p)
{
    if (p) __atomic_sub_fetch(&fault_live, 1, __ATOMIC_SEQ_CST);
    free(p);
}

static int descriptors(void)
{
    unsigned char open_fds[4096];
    return check_descriptors(open_fds);
}

/* One run with the nth allocation failing (0: none). */
static int run(const scene *s, long n, int for_ever)
{
    long live = fault_live;
    int fds = descriptors(), tries = 0, r;
    int64_t start = check_now_ms();
    fault_count = fault_hits = 0;
    fault_for_ever = for_ever;
    scene_ends[0] = scene_ends[1] = 0;
    __atomic_store_n(&fault_at, n, __ATOMIC_SEQ_CST);
    r = s->run();
    __atomic_store_n(&fault_at, 0, __ATOMIC_SEQ_CST);
    /* A helper thread may still be on its way out. */
    while ((__atomic_load_n(&fault_live, __ATOMIC_SEQ_CST) != live || descriptors() != fds) && tries++ < 300) check_sleep_us(2000);
    if (fault_live != live) check_fail(__FILE__, __LINE__, "%s, allocation %ld%s: %ld not freed", s->name, n, for_ever ? "+" : "", fault_live - live);
    if (descriptors() != fds) check_fail(__FILE__, __LINE__, "%s, allocation %ld%s: %d descriptors left open", s->name, n, for_ever ? "+" : "", descriptors() - fds);
    if (check_now_ms() - start > scene_ms / 2) check_fail(__FILE__, __LINE__, "%s, allocation %ld%s: took %ld ms", s->name, n, for_ever ? "+" : "", (long)(check_now_ms() - start));
    return r;
}

static void exhaust(scene s)
{
    long n, all, refused = 0, only = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : 0;
    int for_ever;
    scene_setup();
    /* What comes once per process comes now. */
    REQUIRE(run(&s, 0, 0) == 0);
    REQUIRE(run(&s, 0, 0) == 0);
    all = fault_count;
    if (!CHECK(all > 0)) return;
    if (strstr(s.name, "tls_pair") || strstr(s.name, "tls_tcp")) CHECK(scene_resumed);
    for (for_ever = 0; for_ever < 2; for_ever++)
        for (n = 1; n <= all; n++) {
            int before = check_shared->failures, r;
            if (only && n != only) continue;
            r = run(&s, n, for_ever);
            if (r) refused++;
            if (r && r != PSOCKET_NOMEM && (r == PSOCKET_TIMEOUT || (scene_ends[0] != PSOCKET_NOMEM && scene_ends[1] != PSOCKET_NOMEM)))
                check_fail(__FILE__, __LINE__, "%s, allocation %ld%s of %ld: %d %s", s.name, n, for_ever ? "+" : "", all, r, psocket_codename(r));
            if (check_shared->failures > before) check_fail(__FILE__, __LINE__, "(%s, allocation %ld%s of %ld, answered %d)", s.name, n, for_ever ? "+" : "", all, r);
            if ((!s.heavy || n % 16 == 0) && (r = run(&s, 0, 0)) != 0)
                check_fail(__FILE__, __LINE__, "%s: after allocation %ld%s failed it answers %d", s.name, n, for_ever ? "+" : "", r);
            if (check_shared->failures > 12) return; /* enough was said */
        }
    CHECK_INT(run(&s, 0, 0), 0);
    CHECK(refused > 0);
    if (getenv("FAULT_VERBOSE")) printf("%s: %ld allocations, %ld of %ld runs refused\n", s.name, all, refused, 2 * all);
}

#define SCENE(name, heavy) \
    TEST_LIMIT(name, 120) \
    { \
        scene s = { #name, scene_##name, heavy }; \
        exhaust(s); \
    }

SCENE(tcp, 0)
SCENE(name, 0)
SCENE(unix_path, 0)
SCENE(udp, 0)
SCENE(pair, 0)
SCENE(wrap, 0)
SCENE(poller, 0)
SCENE(tls_new, 1)
SCENE(default_settings, 1)
SCENE(tls_pair, 1)
SCENE(tls_tcp, 1)
SCENE(tls_poller, 1)
SCENE(tls_blocking, 1)
SCENE(given_up, 0)
SCENE(poller_pair, 0)
SCENE(adopt, 0)
SCENE(nested, 0)
SCENE(options_all, 0)
SCENE(tls_wrapped, 1)
