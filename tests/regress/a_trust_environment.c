/* SSL_CERT_DIR is a list with colons. What is set and unusable is said, with the system's reason; a program that runs with
   another's rights (AT_SECURE) ignores both variables. */
#include "a.h"
#include <sys/auxv.h>
#include <sys/stat.h>

static char folder[64], good[128], empty[128], self[512];

static void copy_file(const char *from, const char *to, mode_t mode)
{
    static char data[1 << 16];
    size_t n;
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    CHECK(in && out);
    while (in && out && (n = fread(data, 1, sizeof data, in)) > 0) fwrite(data, 1, n, out);
    if (in) fclose(in);
    if (out) fclose(out);
    chmod(to, mode);
}

static int enter(void)
{
    char path[600], here[256];
    snprintf(folder, sizeof folder, "/tmp/psocket-a-trust-%ld", (long)getpid());
    snprintf(good, sizeof good, "%s/good", folder);
    snprintf(empty, sizeof empty, "%s/empty", folder);
    if (mkdir(folder, 0755) || mkdir(good, 0755) || mkdir(empty, 0755)) return 0;
    snprintf(path, sizeof path, "%s/ca.pem", check_certs());
    snprintf(here, sizeof here, "%s/ca.pem", good);
    copy_file(path, here, 0644);
    unsetenv("SSL_CERT_FILE");
    unsetenv("SSL_CERT_DIR");
    return 1;
}

static void leave(void)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", folder);
    CHECK(system(cmd) == 0);
}

/* Would the default settings trust our CA? 0, or why not. */
static int verdict(psocket_error *e)
{
    psocket_tls_options o;
    psocket_tls *tls = NULL;
    char *chain = core_file("ec.pem");
    int r;
    memset(&o, 0, sizeof o);
    memset(e, 0, sizeof *e);
    o.error = e;
    r = psocket_tls_new(&tls, &o);
    if (!r) r = psocket_tls_verify(tls, chain, 0, "localhost", e);
    psocket_tls_free(tls);
    free(chain);
    psocket_cleanup(); /* the store is read again */
    return r;
}

TEST(a_list_of_folders)
{
    char list[512];
    psocket_error e;
    size_t i;
    int r;
    REQUIRE(enter());
    for (i = 0; i < 7; i++) {
        const char *const parts[7][4] = { { good }, { good, empty }, { empty, good }, { "", good }, { good, "" }, { "/nonexistent", good },
                                          { empty, "/nonexistent", good, "/dev/null" } };
        size_t k, n = 0;
        for (k = 0; k < 4 && parts[i][k]; k++) n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", k ? ":" : "", parts[i][k]);
        setenv("SSL_CERT_DIR", list, 1);
        r = verdict(&e);
        if (r) check_fail(__FILE__, __LINE__, "SSL_CERT_DIR=%s: %s (%s)", list, psocket_codename(r), e.text);
    }
    leave();
}

static void says(int r, const psocket_error *e, const char *path, int os)
{
    CHECK(r < 0);
    CHECK_INT(e->code, r);
    if (!strstr(e->text, path)) check_fail(__FILE__, __LINE__, "\"%s\" does not name %s", e->text, path);
    if (!strstr(e->text, strerror(os))) check_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", e->text, strerror(os));
    CHECK_INT(e->os_error, os);
}

TEST(unusable_and_why)
{
    psocket_error e;
    char path[200];
    REQUIRE(enter());
    setenv("SSL_CERT_FILE", "/nonexistent/ca.pem", 1);
    says(verdict(&e), &e, "/nonexistent/ca.pem", ENOENT);
    setenv("SSL_CERT_FILE", good, 1);
    says(verdict(&e), &e, good, EISDIR);
    snprintf(path, sizeof path, "%s/ca.pem/x", good);
    setenv("SSL_CERT_FILE", path, 1);
    says(verdict(&e), &e, path, ENOTDIR);
    unsetenv("SSL_CERT_FILE");
    setenv("SSL_CERT_DIR", "/nonexistent", 1);
    says(verdict(&e), &e, "/nonexistent", ENOENT);
    snprintf(path, sizeof path, "%s/ca.pem", good);
    setenv("SSL_CERT_DIR", path, 1);
    says(verdict(&e), &e, path, ENOTDIR);
    setenv("SSL_CERT_DIR", empty, 1);
    CHECK_INT(verdict(&e), PSOCKET_TLS_NO_TRUST); /* no system store in its stead */
    CHECK(strstr(e.text, empty) != NULL);
    leave();
}

/* What can be read and holds no certificate is said, too, also beside something that does. The same one twice is no fault. */
TEST(without_a_certificate)
{
    psocket_error e;
    char junk[200], ca[200], list[512];
    FILE *f;
    int i;
    REQUIRE(enter());
    snprintf(junk, sizeof junk, "%s/junk.pem", empty);
    snprintf(ca, sizeof ca, "%s/ca.pem", good);
    for (i = 0; i < 3; i++) {
        f = fopen(junk, "wb");
        REQUIRE(f != NULL);
        if (i) fputs(i == 1 ? "garbage\n" : "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", f);
        fclose(f);
        setenv("SSL_CERT_FILE", junk, 1);
        CHECK_INT(verdict(&e), PSOCKET_TLS_NO_TRUST);
        CHECK(strstr(e.text, "SSL_CERT_FILE") && strstr(e.text, junk) && strstr(e.text, "no certificate"));
        setenv("SSL_CERT_DIR", good, 1);
        CHECK_INT(verdict(&e), PSOCKET_TLS_NO_TRUST);
        CHECK(strstr(e.text, "SSL_CERT_FILE") != NULL);
        setenv("SSL_CERT_FILE", ca, 1);
        CHECK_INT(verdict(&e), 0);
        setenv("SSL_CERT_DIR", empty, 1);
        CHECK_INT(verdict(&e), PSOCKET_TLS_NO_TRUST);
        CHECK(strstr(e.text, "SSL_CERT_DIR") && strstr(e.text, "no certificate"));
        snprintf(list, sizeof list, "%s:%s", empty, good);
        setenv("SSL_CERT_DIR", list, 1);
        CHECK_INT(verdict(&e), 0);
        unsetenv("SSL_CERT_FILE");
        unsetenv("SSL_CERT_DIR");
    }
    leave();
}

TEST(a_folder_without_a_certificate_beside_ca)
{
    psocket_tls_options o;
    psocket_tls *tls = NULL;
    psocket_error e;
    char *ca;
    REQUIRE(enter());
    ca = core_file("ca.pem");
    memset(&o, 0, sizeof o);
    o.error = &e;
    o.ca = ca;
    o.ca_dir = empty;
    CHECK_INT(psocket_tls_new(&tls, &o), PSOCKET_TLS_NO_TRUST);
    CHECK(strstr(e.text, empty) != NULL);
    o.ca_dir = good; /* the same again */
    CHECK_INT(psocket_tls_new(&tls, &o), 0);
    psocket_tls_free(tls);
    free(ca);
    leave();
}

TEST(options_too)
{
    psocket_tls_options o;
    psocket_tls *tls = NULL;
    psocket_error e;
    char path[200];
    REQUIRE(enter());
    memset(&o, 0, sizeof o);
    memset(&e, 0, sizeof e);
    o.error = &e;
    o.ca_file = "/nonexistent/ca.pem";
    says(psocket_tls_new(&tls, &o), &e, o.ca_file, ENOENT);
    o.ca_file = good;
    says(psocket_tls_new(&tls, &o), &e, o.ca_file, EISDIR);
    o.ca_file = NULL;
    o.ca_dir = "/nonexistent";
    says(psocket_tls_new(&tls, &o), &e, o.ca_dir, ENOENT);
    snprintf(path, sizeof path, "%s/ca.pem", good);
    o.ca_dir = path;
    says(psocket_tls_new(&tls, &o), &e, o.ca_dir, ENOTDIR);
    CHECK(tls == NULL);
    leave();
}

/* A copy of this program that belongs to another user and carries his rights tells what it trusts. */
__attribute__((constructor)) static void with_rights(void)
{
    static check_report report; /* what CHECK writes to */
    psocket_error e;
    int r;
    if (!getenv("A_TRUST_SECURE")) return;
    check_shared = &report;
    r = verdict(&e);
    printf("secure=%d verdict=%s\n", (int)getauxval(AT_SECURE), r ? psocket_codename(r) : "trusted");
    fflush(stdout);
    _exit(0);
}

TEST_LIMIT(with_rights_of_another, 40)
{
    char copy[200], cmd[3 * PATH_MAX], line[128] = "", certs[PATH_MAX];
    struct stat st;
    ssize_t n;
    FILE *f;
    int variant;
    if (getuid() != 0) SKIP("needs root to make a program that is set-user-id of somebody else");
    REQUIRE(enter());
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    REQUIRE(n > 0 && realpath(check_certs(), certs));
    self[n] = 0;
    snprintf(copy, sizeof copy, "%s/program", folder);
    copy_file(self, copy, 0755);
    chmod(copy, 0755);
    for (variant = 0; variant < 4; variant++) { /* file and folder, as it is and set-user-id */
        snprintf(cmd, sizeof cmd, "chown nobody '%s' && chmod %s '%s'", copy, variant & 1 ? "6755" : "0755", copy);
        if (system(cmd) || stat(copy, &st)) SKIP("no user nobody");
        if (variant & 1 && !(st.st_mode & S_ISUID)) SKIP("no set-user-id here");
        snprintf(cmd, sizeof cmd, "cd '%s' && A_TRUST_SECURE=1 PSOCKET_CERTS='%s' ASAN_OPTIONS=detect_leaks=0 SSL_CERT_%s='%s%s' '%s'", folder, certs,
                 variant & 2 ? "DIR" : "FILE", good, variant & 2 ? "" : "/ca.pem", copy);
        f = popen(cmd, "r");
        REQUIRE(f != NULL);
        line[0] = 0;
        CHECK(fgets(line, sizeof line, f) != NULL);
        pclose(f);
        if (variant & 1) {
            if (strncmp(line, "secure=1", 8) != 0) SKIP("the kernel does not set AT_SECURE here (nosuid?)");
            if (strstr(line, "verdict=trusted")) check_fail(__FILE__, __LINE__, "variant %d, with another's rights: %s", variant, line);
        } else if (!strstr(line, "secure=0 verdict=trusted")) {
            check_fail(__FILE__, __LINE__, "variant %d, an ordinary program: %s", variant, line);
        }
    }
    leave();
}
