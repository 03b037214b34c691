/* RFC 8449 5: a client treats receipt of both max_fragment_length and record_size_limit as a fatal error. */
#include "tls/wire.h"

/* Adds a max_fragment_length of 1,024 bytes to the extensions that end a message and whose length stands at *ctx. */
static void add(void *ctx, kit_bytes *m)
{
    size_t list = *(const size_t *)ctx, n;
    if (!list) list = 4 + 2 + 32 + 1 + (size_t)m->p[38] + 3;
    kit_put(m, "\0\1\0\1\2", 5);
    n = m->n - list - 2;
    m->p[list] = (uint8_t)(n >> 8);
    m->p[list + 1] = (uint8_t)n;
    m->p[2] = (uint8_t)((m->n - 4) >> 8);
    m->p[3] = (uint8_t)(m->n - 4);
}

KIT_TEST(both, 20)
{
    static kit_wire w;
    size_t list = kit_version == 0x0304 ? 4 : 0;
    kit_settings s;
    kit_editor e;
    psocket_error err = {0};
    psocket_tls *client, *server = kit_server("ec");
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.max_fragment = 1024;
    client = kit_make(&s);
    kit_done(&s);
    REQUIRE(client && server);
    memset(&e, 0, sizeof e);
    e.dir = 1;
    e.index = kit_version == 0x0304; /* EncryptedExtensions, or ServerHello */
    e.edit = add;
    e.ctx = &list;
    e.split = 500;
    kit_play(&w, client, server, "localhost", &e);
    CHECK(e.done);
    CHECK_INT(kit_status(w.ends.client, &err), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(err.tls_alert, 47);
    kit_end_both(&w.ends);
    psocket_tls_free(client);
    psocket_tls_free(server);
}
