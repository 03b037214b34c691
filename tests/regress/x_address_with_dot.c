/* A dot behind an address makes it neither a host name nor an address: nothing is issued for it, whatever iPAddress a
 * certificate has. Behind a host name it is the root's. */
#include "kit.h"

KIT_TEST(a_dot_ends_names_only, 60)
{
    static const struct {
        const char *name;
        int code;
    } t[] = {
        {"127.0.0.1", 0},
        {"::1", 0},
        {"[::1]", 0},
        {"localhost", 0},
        {"localhost.", 0},
        {"127.0.0.1.", PSOCKET_INVALID},
        {"::1.", PSOCKET_INVALID},
        {"[::1].", PSOCKET_INVALID},
        {"::ffff:127.0.0.1.", PSOCKET_INVALID},
        {"127.0.0.1..", PSOCKET_INVALID},
        {"localhost..", PSOCKET_INVALID},
    };
    kit_settings s = {0};
    psocket_tls *tls = kit_client();
    const char *chain = kit_file(&s, "ec.pem");
    size_t i;
    REQUIRE(tls != NULL && chain != NULL);
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        psocket_error e;
        int code = psocket_tls_verify(tls, chain, 0, t[i].name, &e);
        if (code != t[i].code) check_fail(__FILE__, __LINE__, "%s: %d %s", t[i].name, code, e.text);
    }
    psocket_tls_free(tls);
    kit_done(&s);
}
