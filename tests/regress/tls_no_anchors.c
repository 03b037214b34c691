/* Settings that name a source of trust anchors which brings none are refused: they never trust the system's store instead. */
#include <sys/stat.h>
#include <unistd.h>

#include "kit.h"

static void refused(psocket_tls_options o, int code)
{
    psocket_error e = {0};
    psocket_tls *tls = NULL;
    o.error = &e;
    CHECK_INT(psocket_tls_new(&tls, &o), code);
    CHECK(tls == NULL && e.text[0]);
    psocket_tls_free(tls);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    REQUIRE(f);
    fputs(text, f);
    fclose(f);
}

TEST(none_is_not_all)
{
    static const char *const bad[] = {
        "", "no certificate", "-----BEGIN TRUSTED CERTIFICATE-----\nMAA=\n-----END TRUSTED CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
    };
    char dir[] = "/tmp/no_anchors.XXXXXX", path[64];
    psocket_tls_options none = {0}, o;
    kit_settings s;
    size_t i;
    REQUIRE(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file.pem", dir);
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    none.ca_dir = dir;
    refused(none, PSOCKET_TLS_NO_TRUST); /* an empty folder */
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(path, bad[i]);
        o = none; /* a folder without any */
        refused(o, PSOCKET_TLS_NO_TRUST);
        o.ca = s.opt.ca; /* also beside something that has one */
        refused(o, PSOCKET_TLS_NO_TRUST);
        o.ca_dir = NULL;
        o.ca_file = path;
        refused(o, PSOCKET_TLS_PEM);
        o.ca = NULL;
        refused(o, PSOCKET_TLS_PEM);
        o.ca_file = NULL;
        o.ca = bad[i];
        refused(o, PSOCKET_TLS_PEM);
    }
    unlink(path);
    rmdir(dir);
    kit_done(&s);
}
