/* A server that sends nothing but tickets keeps no client busy: they are records without data, of which 32 in a row are
 * taken. Data in between starts the count anew. */
#include "tls/wire.h"

static kit_wire w;

/* One ticket, that lasts so many seconds. */
static void ticket(uint8_t seconds)
{
    uint8_t m[4 + 4 + 4 + 1 + 2 + 20 + 2] = {4, 0, 0, sizeof m - 4, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 20};
    m[7] = seconds;
    kit_forge(&w, 1, 22, m, sizeof m);
}

/* What the client answers to n tickets. */
static ptrdiff_t after(int n, uint8_t seconds)
{
    const void *data;
    while (n--) ticket(seconds);
    return psocket_recv(w.ends.client->s, &data);
}

static void flood(uint8_t seconds)
{
    const void *data;
    psocket_error e = {0};
    int i;
    kit_version = 0x0304;
    if (!CHECK(kit_wire_join(&w, NULL))) return;
    for (i = 0; i < 5; i++) {
        CHECK_INT(after(16, seconds), PSOCKET_WANT_READ);
        kit_forge(&w, 1, 23, "x", 1);
        CHECK_INT(psocket_recv(w.ends.client->s, &data), 1);
    }
    CHECK_INT(after(100, seconds), PSOCKET_TLS_PROTOCOL);
    psocket_geterror(w.ends.client->s, &e);
    CHECK_INT(e.tls_alert, 10);
    kit_wire_end(&w);
}

TEST(that_are_kept)
{
    flood(100);
}

TEST(that_are_not)
{
    flood(0);
}
