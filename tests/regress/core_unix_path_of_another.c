/* A listener that was closed removed its path though that was another one's by then: a server that is restarted while the
   old one still serves lost its clients when the old one ended. */
#include "core.h"

static int connects(const char *name)
{
    psocket_options o = net_options(0);
    psocket *c = NULL;
    int r = psocket_connect(&c, name, 0, &o);
    psocket_free(c);
    return r;
}

TEST(the_path_of_a_successor_stays)
{
    char folder[] = "/tmp/psocketXXXXXX", name[80], other[80];
    psocket_options o = net_options(0);
    psocket *a = NULL, *b = NULL;
    int i;
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(name, sizeof name, "unix:%s/s", folder);
    snprintf(other, sizeof other, "%s/t", folder);
    for (i = 0; i < 3; i++) { /* the path is removed, taken over, moved away */
        REQUIRE(psocket_listen(&a, name, 0, &o) == 0);
        if (i == 0) CHECK(unlink(name + 5) == 0);
        if (i == 2) CHECK(rename(name + 5, other) == 0);
        if (i != 1) REQUIRE(psocket_listen(&b, name, 0, &o) == 0);
        CHECK_INT(connects(name), 0);
        psocket_free(a);
        if (i != 1) CHECK_INT(connects(name), 0);
        if (i != 1) psocket_free(b);
        CHECK(access(name + 5, F_OK) != 0);
        if (i == 2) CHECK(unlink(other) == 0);
    }
    /* Something else stands there: it stays. */
    REQUIRE(psocket_listen(&a, name, 0, &o) == 0);
    CHECK(unlink(name + 5) == 0);
    CHECK(symlink("/dev/null", name + 5) == 0);
    psocket_free(a);
    CHECK(unlink(name + 5) == 0);
    CHECK(rmdir(folder) == 0);
}
