/* Making a server's settings signed with its key, to see whether it is the certificate's: 61 million instructions on a
 * Cortex-M3. The public halves are compared, and RSA's numbers with each other, so that no private key is used. */
#include <bearssl.h>

static unsigned operations;

static uint32_t count_rsa(unsigned char *x, const br_rsa_private_key *sk)
{
    operations++;
    return br_rsa_private_get_default()(x, sk);
}

static size_t count_point(const br_ec_impl *impl, br_ec_public_key *pk, void *buf, const br_ec_private_key *sk)
{
    operations++;
    return br_ec_compute_pub(impl, pk, buf, sk);
}

#define br_rsa_private_get_default() (count_rsa)
#define br_ec_compute_pub count_point
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"

/* Settings of this certificate and key: the code, and how often a private key was used. */
static int settings(const char *chain, const char *key)
{
    char cert_file[300], key_file[300];
    psocket_identity id = {0};
    psocket_tls_options opt = {0};
    psocket_error e = {0};
    psocket_tls *tls = NULL;
    int code;
    snprintf(cert_file, sizeof cert_file, "%s/%s", check_certs(), chain);
    snprintf(key_file, sizeof key_file, "%s/%s", check_certs(), key);
    id.cert_file = cert_file;
    id.key_file = key_file;
    opt.identities = &id;
    opt.identity_count = 1;
    opt.error = &e;
    operations = 0;
    code = psocket_tls_new(&tls, &opt);
    psocket_tls_free(tls);
    return code;
}

TEST(keys_that_belong_there)
{
    static const char *const names[][2] = { { "rsa.pem", "rsa.key" }, { "ec.pem", "ec.key" }, { "ec384.pem", "ec384.key" },
                                            { "pss.pem", "pss.key" } };
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        CHECK_INT(settings(names[i][0], names[i][1]), 0);
        if (operations) check_fail(NULL, 0, "%s: the private key was used %u times", names[i][1], operations);
    }
}

TEST(keys_of_others)
{
    CHECK_INT(settings("rsa.pem", "ca.key"), PSOCKET_TLS_KEY_MISMATCH);
    CHECK_INT((int)operations, 0);
    CHECK_INT(settings("ec.pem", "client_ec.key"), PSOCKET_TLS_KEY_MISMATCH);
    CHECK_INT((int)operations, 0);
    CHECK_INT(settings("ec.pem", "rsa.key"), PSOCKET_TLS_KEY_MISMATCH);
    CHECK_INT((int)operations, 0);
}
