/* Ticket keys of ours are renewed after twelve hours and accepted for twelve more: also when somebody who began before they were
   renewed writes or offers a ticket afterwards. */
#include "kit.h"

static psocket_tls *make(const char *identity)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.clock = kit_clock;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

static int resumes(psocket_tls *client, psocket_tls *server)
{
    psocket_tlsinfo info;
    kit_good(client, server, "localhost", 100000, &info, NULL);
    return info.resumed;
}

KIT_TEST(who_began_before, 30)
{
    psocket_tls *server, *early, *slow, *third;
    kit_ends p;
    kit_time = time(NULL);
    server = make("ec");
    early = make(NULL);
    slow = make(NULL);
    third = make(NULL);
    REQUIRE(server && early && slow && third);
    CHECK_INT(resumes(early, server), 0); /* a ticket of the first key */
    kit_time += 43200 - 1;
    REQUIRE(kit_begin(&p, slow, server, "localhost"));
    if (kit_version == 0x0304) { /* a connection that has said nothing yet; in TLS 1.2 one in the midst of its handshake */
        kit_run(p.client, p.server, 100000);
    } else {
        kit_move(p.client, p.server, 100000);
        kit_move(p.server, p.client, 100000);
    }
    kit_time += 1;
    CHECK_INT(resumes(third, server), 0); /* renewed */
    kit_run(p.client, p.server, 100000);
    p.client_status = kit_status(p.client, &p.client_error);
    p.server_status = kit_status(p.server, &p.server_error);
    kit_talk(&p, NULL, NULL);
    kit_end_both(&p);
    CHECK_INT(resumes(early, server), 1);
    CHECK_INT(resumes(third, server), 1);
    psocket_tls_free(server);
    psocket_tls_free(early);
    psocket_tls_free(slow);
    psocket_tls_free(third);
}

/* A clock that was years ahead and has been set right: keys are renewed. */
KIT_TEST(clock_set_back, 30)
{
    psocket_tls *server, *client, *other;
    kit_time = time(NULL) + 86400;
    server = make("ec");
    client = make(NULL);
    other = make(NULL);
    REQUIRE(server && client && other);
    CHECK_INT(resumes(client, server), 0);
    kit_time -= 43200;
    CHECK_INT(resumes(other, server), 0);
    CHECK_INT(resumes(other, server), 1);
    psocket_tls_free(server);
    psocket_tls_free(client);
    psocket_tls_free(other);
}
