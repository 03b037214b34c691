/* Every message of a handshake in its place, encrypted as it has to be: the first byte chooses version (bit 0), client
 * certificates (1), a resumed session (2), the direction (3: from the server) and whether the rest replaces the body (4) or
 * changes it (position, position, value); the second byte is the message's number. */
#include "fuzz.h"

typedef struct input {
    const uint8_t *p;
    size_t n;
    int replace;
} input;

static void change(void *ctx, kit_bytes *m)
{
    const input *in = (const input *)ctx;
    size_t i, n = m->n;
    if (in->replace) {
        m->n = 4;
        kit_put(m, in->p, in->n);
        n = in->n;
        m->p[1] = (uint8_t)(n >> 16);
        m->p[2] = (uint8_t)(n >> 8);
        m->p[3] = (uint8_t)n;
        return;
    }
    for (i = 0; i + 3 <= in->n; i += 3) {
        size_t at = kit_get(in->p + i, 2);
        if (at < n) m->p[at] ^= in->p[i + 2];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kit_wire w;
    kit_editor e;
    input in;
    int how;
    if (size < 2 || size > 40000) return 0;
    how = data[0];
    memset(&e, 0, sizeof e);
    e.dir = how >> 3 & 1;
    e.index = data[1] % 16;
    in.p = data + 2;
    in.n = size - 2;
    in.replace = how & 16;
    e.edit = change;
    e.ctx = &in;
    fuzz_begin(&w, how & 3);
    if (how & 4) { /* with a session of a connection before */
        psocket_tls *client = w.tls[0], *server = w.tls[1];
        if (!kit_wire_run(&w)) abort();
        fuzz_drain(w.ends.client);
        kit_end_both(&w.ends);
        kit_wire_begin(&w, client, server);
    }
    kit_play_on(&w, &e);
    fuzz_finish(&w);
    return 0;
}
