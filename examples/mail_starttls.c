/* mail_starttls.c - asks a mail server for TLS in the midst of the conversation (RFC 3207), then greets it again.
 *
 *     mail_starttls HOST PORT [CA.pem]
 *
 *     cc -I.. mail_starttls.c -o mail_starttls -lbearssl -pthread
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

/* Sends a command (or none) and prints the answer: its code, 0 if there was none. */
static int talk(psocket *s, const char *command)
{
    const void *data;
    char line[1001]; /* RFC 5321 4.5.3.1.5 allows 512 */
    ptrdiff_t n;
    if (command && psocket_send(s, command, strlen(command)) < 0) return 0;
    do { /* the last line has no hyphen behind its code */
        n = psocket_read_until(s, "\n", sizeof line - 1, &data);
        if (n < 4) return 0;
        memcpy(line, data, (size_t)n);
        line[n] = 0;
        fputs(line, stdout);
    } while (line[3] == '-');
    return atoi(line);
}

int main(int argc, char **argv)
{
    static psocket_error err;
    static psocket_options opt;
    static psocket_tls_options topt;
    psocket_tls *tls = NULL;
    psocket *s = NULL;
    int ok = 0;
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: mail_starttls HOST PORT [CA.pem]\n");
        return 2;
    }
    topt.ca_file = argc == 4 ? argv[3] : NULL;
    topt.error = opt.error = &err;
    opt.timeout_ms = 30000;
    if (psocket_tls_new(&tls, &topt) == 0 && psocket_connect(&s, argv[1], atoi(argv[2]), &opt) == 0) {
        if (talk(s, NULL) == 220 && talk(s, "EHLO here\r\n") == 250 && talk(s, "STARTTLS\r\n") == 220)
            /* What came behind the 220 was sent by who knows whom: starttls refuses to go on (PSOCKET_PLAINTEXT). */
            ok = psocket_starttls(s, tls, argv[1]) == 0 && talk(s, "EHLO here\r\n") == 250 && talk(s, "QUIT\r\n") == 221;
        if (!ok) psocket_geterror(s, &err);
    }
    if (!ok) fprintf(stderr, "mail_starttls: %s\n", err.text[0] ? err.text : "the server does not want to");
    psocket_free(s);
    psocket_tls_free(tls);
    return !ok;
}
