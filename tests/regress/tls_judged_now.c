/* Who connects early and speaks late is judged by when it speaks. */
#include "tls/wire.h"

static int64_t slow; /* a client's clock that has stopped */

static int64_t stopped(void *user)
{
    (void)user;
    return slow;
}

static psocket_tls *made(const char *identity, int64_t (*clock)(void *))
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.clock = clock;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

static int resumes(psocket_tls *client, psocket_tls *server)
{
    psocket_tlsinfo ci, si;
    kit_good(client, server, "localhost", 100000, &ci, &si);
    return ci.resumed;
}

/* The ticket was good for one day. The server's end has waited for a hello ever since. */
KIT_TEST(who_waits_is_older, 30)
{
    psocket_tls *server, *client;
    psocket_tlsinfo info;
    kit_ends p;
    kit_time = slow = (int64_t)time(NULL);
    server = made("ec", kit_clock);
    client = made(NULL, stopped);
    REQUIRE(server && client);
    CHECK_INT(resumes(client, server), 0);
    memset(&p, 0, sizeof p);
    REQUIRE(!kit_new(&p.server, server, PSOCKET_SERVER, NULL, NULL));
    kit_time += 30 * 86400;
    REQUIRE(!kit_new(&p.client, client, PSOCKET_CLIENT, "localhost", NULL));
    kit_run(p.client, p.server, 100000);
    p.client_status = kit_status(p.client, &p.client_error);
    p.server_status = kit_status(p.server, &p.server_error);
    kit_talk(&p, NULL, &info);
    CHECK_INT(info.resumed, 0);
    kit_end_both(&p);
    psocket_tls_free(server);
    psocket_tls_free(client);
}
