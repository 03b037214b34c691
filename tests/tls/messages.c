/* Every message of every handshake, truncated at every byte, extended, repeated, left out, exchanged, in other records: by
 * someone on the wire who knows the keys, so that what is encrypted is changed too. Whoever receives it answers with the
 * right alert and one sentence. */
#include "tls/wire.h"

enum { FULL, MUTUAL, RESUMED, RETRY, HOWS };
static const char *const hows[] = {"full", "mutual", "resumed", "retry"};

static kit_wire w;
static kit_editor plain_run; /* what passes when nobody changes it */
static psocket_tls *client_tls, *server_tls;
static uint8_t saved[8192];
static size_t saved_len;

/* What is to be done with a message. */
typedef struct change {
    size_t keep;      /* bytes of the body that stay */
    int extend, repeat, drop, type, swap;
    kit_bytes *other; /* swap: the message to put in front */
} change;

static void do_change(void *ctx, kit_bytes *m)
{
    const change *c = (const change *)ctx;
    size_t n = m->n - 4;
    if (c->keep < n) n = c->keep;
    m->n = 4 + n;
    if (c->extend) kit_number(m, 0, 1);
    n = m->n - 4;
    m->p[1] = (uint8_t)(n >> 16);
    m->p[2] = (uint8_t)(n >> 8);
    m->p[3] = (uint8_t)n;
    if (c->type) m->p[0] = (uint8_t)c->type;
    if (c->repeat) kit_put(m, m->p, m->n);
    if (c->drop) m->n = 0;
}

static void make(int how)
{
    kit_settings s;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (how == MUTUAL) kit_identity(&s, "client");
    if (how == RETRY) s.opt.groups = "x25519:secp256r1";
    client_tls = kit_make(&s);
    kit_done(&s);
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    kit_identity(&s, "ec");
    s.opt.client_auth = how == MUTUAL ? PSOCKET_CLIENT_AUTH_REQUIRED : PSOCKET_CLIENT_AUTH_NONE;
    if (how == RETRY) s.opt.groups = "secp256r1";
    server_tls = kit_make(&s);
    kit_done(&s);
    saved_len = 0;
    if (how != RESUMED) return;
    kit_good(client_tls, server_tls, "localhost", 80000, NULL, NULL);
    saved_len = (size_t)psocket_tls_savesessions(client_tls, saved, sizeof saved);
    CHECK(saved_len <= sizeof saved);
}

/* One connection of that kind with the editor in between. The client's settings are new each time. */
static void play(int how, kit_editor *e)
{
    static psocket_tls *fresh;
    kit_settings s;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (how == MUTUAL) kit_identity(&s, "client");
    fresh = kit_make(&s);
    kit_done(&s);
    kit_seed(31);
    if (saved_len) CHECK_INT(psocket_tls_loadsessions(fresh, saved, saved_len), 0);
    kit_play(&w, fresh, server_tls, "localhost", e);
    psocket_tls_free(fresh);
}

/* What came of it at the receiver of dir: its error, if need be after a look at what came behind the handshake. */
static int outcome(int dir, psocket_error *e)
{
    kit_end *h = kit_sender(&w, !dir);
    const void *data;
    int code = kit_status(h, e);
    memset(e, 0, sizeof *e);
    if (!code) code = (int)psocket_recv(h->s, &data);
    psocket_geterror(h->s, e);
    return code;
}

static void expect(int how, int dir, int index, const char *what, size_t at, int alert, int also)
{
    psocket_error e;
    int code = outcome(dir, &e);
    if (code >= PSOCKET_WANT_WRITE || !e.text[0] || (e.tls_alert != alert && e.tls_alert != also))
        check_fail(__FILE__, __LINE__, "%s, message %d from %s (type %d) %s at %lu: %d %s, alert %d and not %d", hows[how], index,
                   dir ? "server" : "client", plain_run.types[dir][index], what, (unsigned long)at, code, e.text, e.tls_alert, alert);
    if (kit_sender(&w, !dir)->out.n || kit_sender(&w, !dir)->status == 0) return; /* the alert is there, or was passed on */
}

/* Is this length of a hello's body one with which it is whole? Extensions may be missing. */
static int hello_ends(const kit_bytes *m, size_t keep)
{
    size_t at = 4 + 2 + 32;
    at += 1 + (size_t)m->p[at];
    if (m->p[0] == 1) {
        at += 2 + kit_get(m->p + at, 2);
        at += 1 + (size_t)m->p[at];
    } else {
        at += 3;
    }
    return 4 + keep == at;
}

static kit_bytes looked;
static void look(void *ctx, kit_bytes *m)
{
    (void)ctx;
    looked = *m;
}

/* Each message of each direction, cut to each length: decode_error. */
static CHECK_UNUSED void truncate_all(int how)
{
    int dir, i;
    make(how);
    memset(&plain_run, 0, sizeof plain_run);
    play(how, &plain_run);
    CHECK_INT(w.ends.client_status, 0);
    CHECK_INT(w.ends.server_status, 0);
    kit_end_both(&w.ends);
    for (dir = 0; dir < 2; dir++) {
        for (i = 0; i < plain_run.count[dir]; i++) {
            kit_editor e;
            change c;
            size_t n = plain_run.lengths[dir][i] - 4, keep, step = n > 120 ? n / 60 : 1;
            memset(&e, 0, sizeof e);
            e.dir = dir;
            e.index = i;
            e.edit = look;
            play(how, &e);
            kit_end_both(&w.ends);
            e.edit = do_change;
            e.ctx = &c;
            for (keep = 0; keep < n; keep += keep < 60 || n - keep <= 8 ? 1 : step) {
                memset(&c, 0, sizeof c);
                c.keep = keep;
                if (looked.p[0] <= 2 && hello_ends(&looked, keep)) continue;
                play(how, &e);
                expect(how, dir, i, "truncated", keep, 50, -2);
                kit_end_both(&w.ends);
            }
            memset(&c, 0, sizeof c);
            c.keep = n;
            c.extend = 1;
            play(how, &e);
            expect(how, dir, i, "extended", n, 50, -2);
            kit_end_both(&w.ends);
        }
    }
    psocket_tls_free(client_tls);
    psocket_tls_free(server_tls);
}

KIT_TEST(truncated_full, 240) { truncate_all(FULL); }
KIT_TEST(truncated_mutual, 240) { truncate_all(MUTUAL); }
KIT_TEST(truncated_resumed, 240) { truncate_all(RESUMED); }

/* Each message twice, not at all, of another type. */
static void reorder_all(int how)
{
    int dir, i, k;
    make(how);
    memset(&plain_run, 0, sizeof plain_run);
    play(how, &plain_run);
    kit_end_both(&w.ends);
    for (dir = 0; dir < 2; dir++) {
        for (i = 0; i < plain_run.count[dir]; i++) {
            static const int types[] = {0, 1, 2, 3, 4, 5, 8, 11, 12, 13, 14, 15, 16, 20, 21, 22, 24, 67, 99, 254};
            int type = plain_run.types[dir][i];
            for (k = 0; k < (int)(sizeof types / sizeof types[0]) + 2; k++) {
                kit_editor e;
                change c;
                psocket_error err;
                int code;
                memset(&e, 0, sizeof e);
                memset(&c, 0, sizeof c);
                e.dir = dir;
                e.index = i;
                e.edit = do_change;
                e.ctx = &c;
                c.keep = 1 << 20;
                if (k == 0) c.repeat = 1;
                else if (k == 1) c.drop = 1;
                else c.type = types[k - 2];
                if (k > 1 && (c.type == type || !c.type)) continue;
                if (type == 4 && kit_version == 0x0304 && (k < 2 || c.type == 24)) continue; /* tickets may come once, twice, never */
                play(how, &e);
                code = outcome(dir, &err);
                if (k == 1 && code == PSOCKET_WANT_READ) { /* the receiver waits for more */
                    kit_end_both(&w.ends);
                    continue;
                }
                if (code >= PSOCKET_WANT_WRITE || err.tls_alert <= 0 || !err.text[0])
                    check_fail(__FILE__, __LINE__, "%s, message %d from %s (type %d), change %d (%d): %d %s, alert %d", hows[how], i,
                               dir ? "server" : "client", type, k, c.type, code, err.text, err.tls_alert);
                else if (k > 1 && err.tls_alert != 10 && err.tls_alert != 50)
                    check_fail(__FILE__, __LINE__, "%s, message %d from %s (type %d) as type %d: alert %d (%s)", hows[how], i,
                               dir ? "server" : "client", type, c.type, err.tls_alert, err.text);
                kit_end_both(&w.ends);
            }
        }
    }
    psocket_tls_free(client_tls);
    psocket_tls_free(server_tls);
}

KIT_TEST(reordered_full, 120) { reorder_all(FULL); }
KIT_TEST(reordered_mutual, 120) { reorder_all(MUTUAL); }
KIT_TEST(reordered_resumed, 120) { reorder_all(RESUMED); }

/* Messages are none of the records' business: one byte each, or all that share a key in one. */
KIT_TEST(other_records, 60)
{
    static const size_t splits[] = {1, 2, 3, 5, 17, 64, 100, 0};
    size_t i;
    int how;
    for (how = FULL; how <= RESUMED; how++) {
        make(how);
        for (i = 0; i < sizeof splits / sizeof splits[0]; i++) {
            kit_editor e;
            memset(&e, 0, sizeof e);
            e.split = splits[i];
            e.together = !splits[i] || splits[i] == 64;
            play(how, &e);
            if (w.ends.client_status || w.ends.server_status)
                check_fail(__FILE__, __LINE__, "%s, records of %lu: %s%s", hows[how], (unsigned long)splits[i], w.ends.client_error.text, w.ends.server_error.text);
            kit_end_both(&w.ends);
        }
        psocket_tls_free(client_tls);
        psocket_tls_free(server_tls);
    }
}
