/* canned.c - serves one connection with bytes from a file, whatever the request is; for hostile HTTP answers.
 *
 *     canned FILE [CHAIN.pem KEY.pem] [--rude]
 *
 * Prints its port, waits up to 10 s for a client and its request, sends FILE, and ends. With --rude it ends without
 * closing: the system's FIN then comes without TLS's close_notify. */
#include "psocket.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *read_all(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *text = (char *)malloc(1 << 22);
    if (!f || !text) {
        perror(path);
        exit(1);
    }
    *len = fread(text, 1, (1 << 22) - 1, f);
    text[*len] = 0;
    fclose(f);
    return text;
}

int main(int argc, char **argv)
{
    psocket_options opt = {0};
    psocket_tls_options topt = {0};
    psocket_identity id = {0};
    psocket *l;
    psocket_tls *tls = NULL;
    psocket *s;
    const void *data;
    size_t len, n;
    int port, rude = argc > 2 && strcmp(argv[argc - 1], "--rude") == 0, ok;
    char *text, *chain = NULL, *key = NULL;
    if (argc - rude != 2 && argc - rude != 4) return 2;
    text = read_all(argv[1], &len);
    opt.timeout_ms = 10000;
    if (argc - rude == 4) {
        id.chain = chain = read_all(argv[2], &n);
        id.key = key = read_all(argv[3], &n);
        topt.identities = &id;
        topt.identity_count = 1;
        if (psocket_tls_new(&tls, &topt)) return 1;
    }
    if (psocket_listen(&l, "127.0.0.1", 0, &opt) || psocket_getlocal(l, NULL, 0, &port)) return 1;
    printf("%d\n", port);
    fflush(stdout);
    if (psocket_accept(l, &s)) return 1;
    ok = (!tls || !psocket_starttls(s, tls, NULL)) && psocket_read_until(s, "\r\n\r\n", 16384, &data) > 0 &&
         (!len || psocket_send(s, text, len) == (ptrdiff_t)len);
    if (rude) _exit(0);
    if (ok && !psocket_shutdown(s)) /* waits for the client's end: a close could overtake what it has not read */
        while (psocket_recv(s, &data) >= 0) continue;
    psocket_free(s);
    psocket_free(l);
    psocket_tls_free(tls);
    free(text);
    free(chain);
    free(key);
    return 0;
}
