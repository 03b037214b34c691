/* BearSSL seeds itself from RDRAND alone or /dev/urandom. Here it gets the platform's random bytes, and no others: when there
   are none, there is no handshake. */
#include <stddef.h>
static int test_entropy(void *p, size_t n);
#define PSOCKET_ENTROPY(p, n) test_entropy(p, n)
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

static int entropy_fails, entropy_calls;
static int test_entropy(void *p, size_t n)
{
    entropy_calls++;
    memset(p, 7, n);
    return entropy_fails ? -1 : 0;
}

TEST(only_the_platforms_entropy)
{
    psocket_tls *tls = pipe_client();
    psi_hs *h = NULL;
    psocket_error e = {0};
    pipe_bytes a, b;
    REQUIRE(tls);
    REQUIRE(!psi_hs_new(&h, tls, 0, "localhost", 0, &e));
    CHECK(entropy_calls > 0);
    pipe_take(h, &a);
    psi_hs_free(h);
    REQUIRE(!psi_hs_new(&h, tls, 0, "localhost", 0, &e));
    pipe_take(h, &b);
    psi_hs_free(h);
    CHECK_MEM(a.p, b.p, a.n); /* the same seed, the same hello: no other source is mixed in */
    entropy_fails = 1;
    CHECK(psi_hs_new(&h, tls, 0, "localhost", 0, &e) < 0);
    CHECK(h == NULL && e.code && e.text[0]);
    psocket_tls_free(tls);
}
