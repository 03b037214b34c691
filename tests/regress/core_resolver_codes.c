/* psocket_resolve_done took any code: EAI_NONAME of glibc is -2, PSOCKET_WANT_WRITE, and made psocket_connect spin for ever;
   a positive one came out of psocket_recv as a number of bytes. */
#include "core.h"

static int answer;

static void at_once(void *user, psocket_resolve *r, const char *host)
{
    (void)user;
    (void)host;
    psocket_resolve_done(r, answer);
}

TEST_LIMIT(strange_codes, 10)
{
    static const int codes[] = { -2, -1, 7, -3, -999, PSOCKET_DNS_NOT_FOUND };
    psocket_options o = net_options(0);
    size_t i;
    o.resolve = at_once;
    for (i = 0; i < sizeof codes / sizeof *codes; i++) {
        psocket *s = NULL;
        int r;
        answer = codes[i];
        r = psocket_connect(&s, "example.invalid", 80, &o);
        CHECK_INT(r, codes[i] == PSOCKET_DNS_NOT_FOUND ? PSOCKET_DNS_NOT_FOUND : PSOCKET_DNS);
        CHECK(s == NULL);
        psocket_free(s);
    }
}
