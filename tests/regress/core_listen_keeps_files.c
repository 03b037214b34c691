/* psocket_listen("unix:PATH") took any path that refuses connections for a socket left behind, and removed it. */
#include "core.h"
#include <sys/stat.h>
#include <sys/un.h>

TEST(a_file_is_no_stale_socket)
{
    char folder[] = "/tmp/psocketXXXXXX", path[64], name[80], text[16] = "";
    psocket_options o = net_options(0);
    psocket *l = NULL;
    FILE *f;
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/notes", folder);
    snprintf(name, sizeof name, "unix:%s", path);
    f = fopen(path, "w");
    REQUIRE(f != NULL);
    fputs("precious", f);
    fclose(f);
    CHECK_INT(psocket_listen(&l, name, 0, &o), PSOCKET_ADDRESS_IN_USE);
    psocket_free(l);
    f = fopen(path, "r");
    CHECK(f != NULL);
    if (f && fgets(text, sizeof text, f)) CHECK_STR(text, "precious");
    if (f) fclose(f);
    unlink(path);
    rmdir(folder);
}

TEST(a_stale_socket_is_replaced)
{
    char folder[] = "/tmp/psocketXXXXXX", path[64], name[80];
    psocket_options o = net_options(0);
    psocket *l = NULL;
    struct sockaddr_un sa;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/s", folder);
    snprintf(name, sizeof name, "unix:%s", path);
    memset(&sa, 0, sizeof sa);
    sa.sun_family = AF_UNIX;
    memcpy(sa.sun_path, path, strlen(path));
    CHECK(bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0);
    close(fd);
    CHECK_INT(psocket_listen(&l, name, 0, &o), 0);
    psocket_free(l);
    CHECK(access(path, F_OK) != 0);
    rmdir(folder);
}
