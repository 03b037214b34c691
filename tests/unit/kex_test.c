/* Ephemeral keys: both sides come to the same secret in every group; a secret key is 1 to the order - 1, whatever the source of
   random numbers says, and a source that says nothing else is an error. */
#include <string.h>

static int fixed, drawn; /* how many draws still are what stands in `bytes` */
static unsigned char bytes[66];

static int entropy(void *p, size_t n);
#define PSOCKET_ENTROPY(p, n) entropy(p, n)
#define PSOCKET_IMPLEMENTATION
#include "../../psocket.h"
#include "../check.h"

static int entropy(void *p, size_t n)
{
    drawn++;
    if (fixed <= 0) return psi_os_random(p, n);
    fixed--;
    memcpy(p, bytes, n);
    return 0;
}

static const unsigned numbers[] = {29, 23, 24, 25};

TEST(both_sides_agree)
{
    size_t i;
    int round;
    for (i = 0; i < 4; i++) {
        const psi_group *g = psi_named_of(PSI_GROUP, numbers[i]);
        REQUIRE(g);
        for (round = 0; round < 8; round++) {
            psi_kex a = PSI_ZERO, b = PSI_ZERO, mine;
            uint8_t one[PSI_KEX_SECRET], two[PSI_KEX_SECRET];
            size_t n;
            CHECK_INT(psi_kex_make(&a, g), 0);
            CHECK_INT(psi_kex_make(&b, g), 0);
            mine = a;
            n = psi_kex_finish(&a, psi_read_of(b.point, psi_kex_point_len(g)), one);
            CHECK_INT(n, g->curve == BR_EC_curve25519 ? 32 : g->len);
            CHECK_INT(psi_kex_finish(&b, psi_read_of(mine.point, psi_kex_point_len(g)), two), n);
            CHECK_MEM(one, two, n);
        }
    }
}

/* Draws `bytes` so often, then what the system says: the result, and how often it drew. */
static int draw(const psi_group *g, int times, int *draws)
{
    psi_kex x = PSI_ZERO;
    int code;
    fixed = times;
    drawn = 0;
    code = psi_kex_make(&x, g);
    *draws = drawn;
    fixed = 0;
    return code;
}

TEST(secret_keys_are_in_range)
{
    size_t i, n;
    int draws;
    for (i = 1; i < 4; i++) {
        const psi_group *g = psi_named_of(PSI_GROUP, numbers[i]);
        const uint8_t *order = br_ec_get_default()->order(g->curve, &n);
        CHECK_INT(n, g->len);
        memset(bytes, 0, sizeof bytes);
        CHECK_INT(draw(g, 1000, &draws), PSOCKET_NO_ENTROPY);
        CHECK_INT(draw(g, 1, &draws), 0);
        CHECK_INT(draws, 2);
        bytes[n - 1] = 1;
        CHECK_INT(draw(g, 1, &draws), 0);
        CHECK_INT(draws, 1);
        memset(bytes, 0xFF, sizeof bytes);
        CHECK_INT(draw(g, 1000, &draws), PSOCKET_NO_ENTROPY);
        memcpy(bytes, order, n);
        CHECK_INT(draw(g, 1, &draws), 0);
        CHECK_INT(draws, 2);
        bytes[n - 1]--;
        CHECK_INT(draw(g, 1, &draws), 0);
        CHECK_INT(draws, 1);
    }
}
