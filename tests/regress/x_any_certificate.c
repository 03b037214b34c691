/* A handshake with insecure_no_verify takes a host whose certificate has flaws that its key does not depend on, and one with
 * decide asks about it. */
#include "kit.h"
#include "regress/x.h"

KIT_TEST(a_flawed_host, 60)
{
    static const struct {
        const char *ext;
        int n;
    } t[] = {
#define X_EXT(bytes) {bytes, (int)sizeof(bytes) - 1}
        X_EXT("\x30\x21\x06\x03\x55\x1D\x11\x04\x1A\x30\x18\x82\x09good.test\x87\x0B" "192.168.1.1"),
        X_EXT("\x30\x1E\x06\x03\x55\x1D\x11\x04\x17\x30\x15\x82\x09good.test\x82\x08" "dr\xC3\xBC" "cker"),
        X_EXT("\x30\x0B\x06\x03\x55\x1D\x0F\x04\x04\x03\x02\x01\x81"),
        X_EXT("\x30\x09\x06\x03\x55\x1D\x25\x04\x02\x30\x00"),
        X_EXT("\x30\x09\x06\x03\x55\x1D\x12\x04\x02\x30\x00\x30\x09\x06\x03\x55\x1D\x12\x04\x02\x30\x00"),
        X_EXT("\x30\x05\x06\x03\x55\x1D\x12"),
        X_EXT("\x30\x0E\x06\x03\x55\x1D\x7F\x01\x01\xFF\x04\x04\x30\x02\x05\x00"), /* critical and unknown */
    };
    size_t i, k;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        der extensions = {0}, leaf, key = x_key_file(2, (int)i & 1);
        psocket_identity id = {0};
        psocket_tls_options opt = {0};
        psocket_tls *server = NULL, *clients[3] = {NULL, NULL, NULL};
        psocket_question q;
        psocket_error e = {0};
        kit_ends p;
        der_put(&extensions, t[i].ext, (size_t)t[i].n);
        leaf = x_cert("leaf", 2, "root", 1, 0, &extensions);
        id.chain = leaf.p;
        id.chain_len = leaf.n;
        id.key = key.p;
        id.key_len = key.n;
        opt.identities = &id;
        opt.identity_count = 1;
        opt.error = &e;
        opt.min_version = opt.max_version = kit_version;
        CHECK_INT(psocket_tls_new(&server, &opt), 0);
        opt.identities = NULL;
        opt.identity_count = 0;
        opt.ca = leaf.p;
        opt.ca_len = leaf.n;
        CHECK_INT(psocket_tls_new(&clients[1], &opt), 0);
        opt.insecure_no_verify = 1;
        CHECK_INT(psocket_tls_new(&clients[0], &opt), 0);
        opt.insecure_no_verify = 0;
        opt.decide = 1;
        CHECK_INT(psocket_tls_new(&clients[2], &opt), 0);
        for (k = 0; server && k < 3 && clients[k]; k++) {
            if (!kit_begin(&p, clients[k], server, "other.test")) break;
            kit_run(p.client, p.server, 16384);
            if (k == 2) {
                CHECK_INT(kit_status(p.client, NULL), PSOCKET_WANT_DECISION);
                CHECK_INT(psocket_getquestion(p.client->s, &q), 0);
                CHECK_INT(q.kind, PSOCKET_WANT_DECISION);
                CHECK_STR(q.peer.subject, "CN=leaf");
                CHECK_INT(q.certificate_len, leaf.n);
                CHECK(q.verdict.code != 0 && q.verdict.text[0]);
                CHECK_INT(psocket_decide(p.client->s, 0), 0);
                p.client->status = PSOCKET_WANT_READ;
                kit_turn(p.client);
                kit_run(p.client, p.server, 16384);
            }
            CHECK_INT(kit_status(p.client, &e) != 0, k == 1); /* who verifies refuses: the name at least is another */
            kit_free(p.client);
            kit_free(p.server);
        }
        psocket_tls_free(server);
        psocket_tls_free(clients[0]);
        psocket_tls_free(clients[1]);
        psocket_tls_free(clients[2]);
        free(leaf.p);
        free(key.p);
        free(extensions.p);
    }
}
