/* Where the system drops what it has received once a send meets a reset (Windows), psocket reads before it sends: an echo
   sends straight out of the buffer that this would move, and nothing may be lost or changed. */
#define PSI_OS_SEND_DROPS_INPUT 1
#define PSOCKET_IMPLEMENTATION
#include "../../psocket.h"
#include "../check.h"
#include "../api/net.h"

TEST(an_echo_out_of_the_ring)
{
    static char out[200000], in[200000];
    psocket *c, *s;
    const void *data;
    ptrdiff_t n;
    size_t i, put = 0, got = 0;
    int turns = 0;
    for (i = 0; i < sizeof out; i++) out[i] = (char)(i * 7 + i / 251);
    REQUIRE(net_pair(&c, &s));
    psocket_setnonblocking(c, 1);
    psocket_setnonblocking(s, 1);
    while (got < sizeof in && turns++ < 100000) {
        if (put < sizeof out && (n = psocket_send(c, out + put, sizeof out - put < 3000 ? sizeof out - put : 3000)) > 0) put += (size_t)n;
        while ((n = psocket_recv(s, &data)) > 0) {
            ptrdiff_t sent = psocket_send(s, data, (size_t)n);
            if (sent < n) { /* keep the rest */
                size_t done = sent > 0 ? (size_t)sent : 0;
                char *rest = (char *)malloc((size_t)n - done);
                REQUIRE(rest && sent != PSOCKET_RESET);
                memcpy(rest, (const char *)data + done, (size_t)n - done);
                CHECK_INT(psocket_unrecv(s, rest, (size_t)n - done), 0);
                free(rest);
                break;
            }
        }
        while ((n = psocket_recv(c, &data)) > 0 && got + (size_t)n <= sizeof in) {
            memcpy(in + got, data, (size_t)n);
            got += (size_t)n;
        }
    }
    CHECK_INT(got, sizeof in);
    CHECK_MEM(in, out, sizeof in);
    psocket_free(c);
    psocket_free(s);
}
