/* tls-server-end-point (RFC 5929 4.1): both ends take SHA-256 where a certificate is signed with SHA-1, also within RSA-PSS. */
#include "kit.h"

static char *slurp(const char *dir, const char *name)
{
    char path[128], *text = (char *)calloc(1, 20000);
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = text ? fopen(path, "rb") : NULL;
    if (f && fread(text, 1, 19999, f) == 0) text[0] = 0;
    if (f) fclose(f);
    return text;
}

KIT_TEST(pss_over_sha1, 30)
{
    char dir[] = "/tmp/psocket-pss-XXXXXX", command[600], *chain, *key;
    psocket_tls_options t = {0};
    psocket_identity id = {0};
    psocket_tls *client = NULL, *server = NULL;
    kit_ends p;
    uint8_t x[64], y[64];
    REQUIRE(mkdtemp(dir) != NULL);
    snprintf(command, sizeof command, "cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 3 -sha1 -sigopt "
             "rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null", dir);
    if (system(command)) SKIP("openssl makes no such certificate");
    chain = slurp(dir, "c.pem");
    key = slurp(dir, "k.pem");
    t.min_version = t.max_version = kit_version;
    t.ca = chain;
    CHECK_INT(psocket_tls_new(&client, &t), 0);
    id.chain = chain;
    id.key = key;
    t.identities = &id;
    t.identity_count = 1;
    CHECK_INT(psocket_tls_new(&server, &t), 0);
    REQUIRE(client && server);
    kit_shake(&p, client, server, "localhost", 100000);
    kit_talk(&p, NULL, NULL);
    CHECK_INT(psocket_tls_export(p.client->s, "tls-server-end-point", NULL, 0, x, 64), 32);
    CHECK_INT(psocket_tls_export(p.server->s, "tls-server-end-point", NULL, 0, y, 64), 32);
    CHECK_MEM(x, y, 32);
    kit_end_both(&p);
    psocket_tls_free(client);
    psocket_tls_free(server);
    free(chain);
    free(key);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CHECK_INT(system(command), 0);
}
