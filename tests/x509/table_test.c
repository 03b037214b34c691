/* Every case that make-cases makes, through psocket_tls_verify. */
#include "check.h"
#include "psocket.h"

static int64_t table_clock(void *user)
{
    return *(int64_t *)user;
}

/* The folder of the cases, made if need be. */
static const char *table_dir(void)
{
    static char dir[1024], command[2200];
    char *slash;
    snprintf(dir, sizeof dir, "%s", check_certs());
    slash = strrchr(dir, '/');
    snprintf(slash ? slash + 1 : dir, sizeof dir - (slash ? (size_t)(slash + 1 - dir) : 0), "x509");
    snprintf(command, sizeof command, "sh tests/x509/make-cases '%s'", dir);
    return system(command) ? NULL : dir;
}

static char *table_read(const char *dir, const char *name, size_t *len)
{
    char path[1400];
    char *data = (char *)malloc(1 << 20);
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "rb");
    *len = f && data ? fread(data, 1, (1 << 20) - 1, f) : 0;
    if (f && data) data[*len] = 0;
    if (f) {
        fclose(f);
    } else {
        free(data);
        data = NULL;
    }
    return data;
}

TEST_LIMIT(every_case, 280)
{
    const char *dir = table_dir();
    char line[2048], path[1400], *rows, *at, *field[7];
    size_t len, n;
    int count = 0;
    REQUIRE(dir != NULL);
    rows = table_read(dir, "cases.tsv", &n);
    REQUIRE(rows != NULL);
    for (at = rows; *at; at += strcspn(at, "\n") + 1) {
        psocket_error err = {0};
        psocket_tls_options opt = {0};
        psocket_tls *tls = NULL;
        const char *got;
        char *chain, *p = line;
        int64_t now;
        int i, r;
        snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
        for (i = 0; i < 7; i++) {
            field[i] = p;
            p += strcspn(p, "\t");
            if (*p) *p++ = 0;
        }
        chain = table_read(dir, field[1], &len);
        REQUIRE(chain != NULL);
        snprintf(path, sizeof path, "%s/%s", dir, field[6]);
        now = strtoll(field[4], NULL, 10);
        opt.ca_file = path;
        opt.clock = table_clock;
        opt.clock_user = &now;
        opt.error = &err;
        REQUIRE(psocket_tls_new(&tls, &opt) == 0);
        r = psocket_tls_verify(tls, chain, len, field[3], &err);
        got = psocket_codename(r);
        if (!got || strcmp(got, field[5]) != 0) {
            check_fail(__FILE__, __LINE__, "%s: expected %s, got %s (%s)", field[0], field[5], got ? got : "?",
                       err.text);
        } else {
            CHECK_INT(err.code, r);
            CHECK((err.text[0] != 0) == (r != 0));
        }
        psocket_tls_free(tls);
        free(chain);
        count++;
    }
    free(rows);
    CHECK(count > 150);
}

/* What a pinned key means: some certificate of the path has it. */
TEST_LIMIT(pins, 280)
{
    const char *dir = table_dir();
    static const char *const files[] = {"good.pem", "inter.pem", "root.pem", "other.pem"};
    psocket_tls_options opt = {0};
    psocket_error err = {0};
    char roots[1400], command[3200], *chain;
    uint8_t pins[3 * 32];
    size_t len, i;
    int64_t now;
    REQUIRE(dir != NULL);
    now = time(NULL);
    chain = table_read(dir, "good.chain", &len);
    REQUIRE(chain != NULL);
    snprintf(roots, sizeof roots, "%s/root.pem", dir);
    opt.ca_file = roots;
    opt.clock = table_clock;
    opt.clock_user = &now;
    opt.spki_pins = pins;
    for (i = 0; i < 4; i++) {
        psocket_tls *tls = NULL;
        FILE *p;
        snprintf(
            command, sizeof command,
            "openssl x509 -in '%s/%s' -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary",
            dir, files[i]);
        memset(pins, 0, sizeof pins);
        p = popen(command, "r");
        REQUIRE(p != NULL);
        CHECK_INT(fread(pins + 32, 1, 32, p), 32);
        pclose(p);
        opt.spki_pin_count = 3;
        REQUIRE(psocket_tls_new(&tls, &opt) == 0);
        CHECK_INT(psocket_tls_verify(tls, chain, len, "example.org", &err), i < 3 ? 0 : PSOCKET_CERT_PIN);
        psocket_tls_free(tls);
    }
    free(chain);
}

/* Trust anchors in each way they can be given. */
TEST_LIMIT(trust, 280)
{
    const char *dir = table_dir();
    psocket_tls_options opt = {0};
    psocket_error err = {0};
    psocket_tls *tls = NULL;
    char path[1400], folder[1400], command[5000], *root, *chain;
    size_t root_len, len;
    REQUIRE(dir != NULL);
    chain = table_read(dir, "good.chain", &len);
    root = table_read(dir, "root.pem", &root_len);
    REQUIRE(chain != NULL && root != NULL);
    opt.error = &err;

    opt.ca = root;
    REQUIRE(psocket_tls_new(&tls, &opt) == 0);
    CHECK_INT(psocket_tls_verify(tls, chain, len, "example.org", &err), 0);
    psocket_tls_free(tls);

    root[root_len / 2] = '*'; /* a malformed anchor that the user gave is an error */
    CHECK_INT(psocket_tls_new(&tls, &opt), PSOCKET_TLS_PEM);
    CHECK(strstr(err.text, "malformed") != NULL);
    opt.ca = "nothing";
    CHECK_INT(psocket_tls_new(&tls, &opt), PSOCKET_TLS_PEM);
    free(root);
    root = table_read(dir, "trusted.pem", &root_len); /* nor is one in a form of OpenSSL's own */
    REQUIRE(root != NULL);
    opt.ca = root;
    CHECK_INT(psocket_tls_new(&tls, &opt), PSOCKET_TLS_PEM);
    CHECK(strstr(err.text, "openssl x509") != NULL);
    opt.ca = NULL;

    snprintf(path, sizeof path, "%s/none.pem", dir);
    opt.ca_file = path;
    CHECK_INT(psocket_tls_new(&tls, &opt), PSOCKET_FILE);
    CHECK(strstr(err.text, "none.pem") != NULL);
    opt.ca_file = NULL;

    snprintf(folder, sizeof folder, "%s.%ld", dir, (long)getpid());
    snprintf(command, sizeof command, "mkdir -p '%s/below' && cp '%s/leaf.key' '%s'", folder, dir, folder);
    REQUIRE(system(command) == 0);
    opt.ca_dir = folder;
    CHECK_INT(psocket_tls_new(&tls, &opt), PSOCKET_TLS_NO_TRUST);
    snprintf(
        command, sizeof command,
        "cd '%s' && cp '%s/root.pem' a.pem && ln -s a.pem 0a1b2c3d.0 && "
             "openssl x509 -in a.pem -outform DER -out b.der && head -c 300 a.pem > cut.pem",
        folder, dir);
    REQUIRE(system(command) == 0);
    REQUIRE(psocket_tls_new(&tls, &opt) == 0);
    CHECK_INT(psocket_tls_verify(tls, chain, len, "example.org", &err), 0);
    psocket_tls_free(tls);
    snprintf(path, sizeof path, "%s/root.pem", dir); /* all that the folder holds is known already */
    opt.ca_file = path;
    CHECK_INT(psocket_tls_new(&tls, &opt), 0);
    psocket_tls_free(tls);
    opt.ca_file = NULL;
    opt.ca_dir = NULL;
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK_INT(system(command), 0);

    /* the system's store, which the environment can move */
    snprintf(path, sizeof path, "%s/none.pem", dir);
    setenv("SSL_CERT_FILE", path, 1);
    unsetenv("SSL_CERT_DIR");
    REQUIRE(psocket_tls_new(&tls, &opt) == 0);
    CHECK_INT(psocket_tls_verify(tls, chain, len, "example.org", &err), PSOCKET_TLS_NO_TRUST);
    CHECK_INT(err.tls_alert, 48);
    snprintf(path, sizeof path, "%s/root.pem", dir);
    setenv("SSL_CERT_FILE", path, 1);
    CHECK_INT(psocket_tls_verify(tls, chain, len, "example.org", &err), 0);
    psocket_tls_free(tls);
    psocket_cleanup();
    free(chain);
    free(root);
}
