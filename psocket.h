/* psocket.h - TCP, UDP and TLS sockets in one file, for C, C++, Lua and firmware. MIT licence, at the end. */

/*==================================================================================================
 * >>doc
 *
 * DO THIS FIRST
 *
 *     #define PSOCKET_IMPLEMENTATION      // in exactly one C or C++ file
 *     #include "psocket.h"
 *
 * and link with BearSSL (-lbearssl) unless PSOCKET_NO_TLS is defined, with -pthread on POSIX unless
 * PSOCKET_NO_THREADS is, and with ws2_32, crypt32, bcrypt (and advapi32 for BearSSL) on Windows. Every
 * other file includes it bare. Define PSOCKET_LUA beside PSOCKET_IMPLEMENTATION for luaopen_psocket.
 *
 * A CLIENT
 *
 *     psocket_error err = {0};
 *     psocket_options opt = {0};
 *     opt.timeout_ms = 10000;
 *     opt.error = &err;
 *     psocket *s;
 *     if (psocket_connect(&s, "example.org", 443, &opt) || psocket_starttls(s, NULL, "example.org")) ...
 *     psocket_send(s, request, strlen(request));
 *     const void *data;
 *     ptrdiff_t n;
 *     while ((n = psocket_recv(s, &data)) >= 0) fwrite(data, 1, (size_t)n, stdout);
 *     if (n != PSOCKET_CLOSED) fprintf(stderr, "%s\n", psocket_strerror((int)n));  // cut short: say so
 *     psocket_free(s);
 *
 * HOW TO READ THIS FILE
 *
 * Search for the tags. >>api is all that a user needs; the others are the implementation, each calling only those above.
 *
 *     >>api       the declarations, each with its contract      >>record    TLS records: encrypt, decrypt, alerts
 *     >>config    defaults and detection                        >>tls12     TLS settings, sessions, the 1.2 handshake
 *     >>base      memory, errors, helpers                       >>tls13     the seam for 1.3; builds without TLS
 *     >>os        lwIP, Windows, POSIX: hooks, then one body    >>sock      the socket: dial, handshake, send, receive, end
 *     >>ring      the ring of received chunks                   >>poll      the poller
 *     >>addr      numeric addresses                             >>public    argument checks and blocking
 *     >>dns       names to addresses                            >>lua       the Lua module and its scheduler
 *     >>x509      PEM, keys, trust, paths, names
 *
 * Public names are psocket_* and PSOCKET_*, internal ones psi_* and PSI_*.
 *
 * BLOCKING AND NONBLOCKING are the same functions. With options.nonblocking a call that would wait answers
 * PSOCKET_WANT_READ or PSOCKET_WANT_WRITE; call it again once psocket_wait, a psocket_poller or the
 * descriptors of psocket_pollset say so. A blocking call waits no longer than its timeout.
 *
 * THREADS: one socket, one thread at a time. Different sockets on different threads need no lock, and a
 * psocket_tls may be shared by all of them. A TLS socket belongs to one process. The library starts
 * short-lived threads to resolve names.
 *
 * MACROS                     scope           meaning
 * PSOCKET_IMPLEMENTATION     one file        compile the implementation here
 * PSOCKET_LUA                implementation  add luaopen_psocket (needs lua.h and lauxlib.h)
 * PSOCKET_STATIC             every include   declare everything static
 * PSOCKET_NO_TLS             implementation  no TLS, no BearSSL: TLS calls answer PSOCKET_UNSUPPORTED
 * PSOCKET_NO_THREADS         implementation  names are resolved inline (and block)
 * PSOCKET_NO_DNS             implementation  numeric addresses only
 * PSOCKET_NO_FILES           implementation  no file access: trust comes from memory only
 * PSOCKET_LWIP               implementation  use lwIP's sockets instead of the system's
 * PSOCKET_MALLOC(n)          implementation  with PSOCKET_FREE(p): your allocator; PSOCKET_REALLOC(p, n) is optional
 * PSOCKET_ENTROPY(p, n)      implementation  your random bytes: an expression, 0 on success
 * PSOCKET_NOW()              implementation  your monotonic clock in milliseconds, as int64_t
 * PSOCKET_WALLCLOCK()        implementation  your calendar in seconds since 1970 UTC, as int64_t
 * PSOCKET_BUILD_TIME         implementation  seconds since 1970; a calendar before it is taken to be unset
 * PSOCKET_RECV_LIMIT         implementation  default of options.recv_limit, in bytes (65536)
 * PSOCKET_READ_SIZE          implementation  largest single transport read, in bytes (65536)
 * PSOCKET_ADDRESSES          implementation  most addresses of one name that are tried (16)
 * PSOCKET_RESOLVER_THREADS   implementation  names resolved at once, not counting those that keep us waiting (8)
 * PSOCKET_CHAIN_BYTES        implementation  most bytes of certificates taken from a peer (102400)
 * PSOCKET_CHAIN_DEPTH        implementation  most certificates on a verified path, without its anchor (10)
 * PSOCKET_KEYLOG(line)       implementation  called with NSS key log lines: debugging only, breaks secrecy
 *================================================================================================*/

/* accept4 and friends: must come before the first system header. */
#if defined(PSOCKET_IMPLEMENTATION) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#ifndef PSOCKET_H
#define PSOCKET_H

/*==================================================================================================
 * >>api
 *================================================================================================*/

#include <stddef.h>
#include <stdint.h>

#if defined(PSOCKET_STATIC) && defined(__GNUC__)
#define PSOCKET_API static __attribute__((unused))
#elif defined(PSOCKET_STATIC)
#define PSOCKET_API static
#else
#define PSOCKET_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PSOCKET_VERSION "0.1.0"

/* Every result code: X(NAME, value, text). Negative, so that byte counts and codes share one return value. */
#define PSOCKET_CODES(X) \
    X(OK,                 0,   "success") \
    /* state */ \
    X(WANT_READ,         -1,   "would wait for the peer to send") \
    X(WANT_WRITE,        -2,   "would wait for the peer to receive") \
    X(TIMEOUT,           -3,   "timed out") \
    X(CLOSED,            -4,   "closed by the peer") \
    X(TRUNCATED,         -5,   "cut off: the peer ended the TLS stream without close_notify") \
    X(RESET,             -6,   "connection reset by the peer") \
    X(CLOSED_HERE,       -7,   "closed on this side") \
    X(INVALID,           -8,   "invalid argument") \
    X(NOMEM,             -9,   "out of memory") \
    X(BUSY,             -10,   "another operation is waiting for this") \
    X(ALREADY_TLS,      -11,   "the socket is using TLS already") \
    X(UNSUPPORTED,      -12,   "not supported here") \
    X(LIMIT,            -13,   "a limit was reached") \
    X(PLAINTEXT,        -14,   "plaintext is waiting in the receive buffer: read it before starting TLS") \
    X(WANT_DECISION,    -15,   "waits for psocket_decide") \
    X(WANT_SIGNATURE,   -16,   "waits for psocket_signed") \
    /* operating system */ \
    X(OS,               -20,   "operating system error") \
    X(REFUSED,          -21,   "connection refused") \
    X(UNREACHABLE,      -22,   "host or network unreachable") \
    X(ADDRESS_IN_USE,   -23,   "address already in use") \
    X(ADDRESS_NOT_AVAILABLE, -24, "address not available on this machine") \
    X(ACCESS,           -25,   "permission denied") \
    X(DESCRIPTORS,      -26,   "too many open files") \
    X(MESSAGE_SIZE,     -27,   "datagram too large") \
    X(FILE,             -28,   "cannot read the file") \
    X(NO_ENTROPY,       -29,   "no source of random numbers") \
    /* names */ \
    X(DNS_NOT_FOUND,    -40,   "no such host name") \
    X(DNS_TEMPORARY,    -41,   "the name server does not answer for now") \
    X(DNS,              -42,   "name resolution failed") \
    /* TLS */ \
    X(TLS_PROTOCOL,     -60,   "the peer broke the TLS protocol") \
    X(TLS_VERSION,      -61,   "no TLS version in common") \
    X(TLS_HANDSHAKE,    -62,   "no cipher suite or parameters in common") \
    X(TLS_ALERT,        -63,   "the peer refused with a TLS alert") \
    X(TLS_RECORD,       -64,   "a TLS record did not decrypt: tampered or corrupted") \
    X(TLS_ALPN,         -65,   "no application protocol in common") \
    X(TLS_PEM,          -66,   "malformed PEM or DER") \
    X(TLS_KEY,          -67,   "malformed or unsupported private key") \
    X(TLS_KEY_MISMATCH, -68,   "the private key does not belong to the certificate") \
    X(TLS_NO_IDENTITY,  -69,   "a TLS server needs a certificate and key") \
    X(TLS_NO_TRUST,     -70,   "no trust store found") \
    /* X.509 */ \
    X(CERT_MISSING,     -80,   "the peer sent no certificate") \
    X(CERT_MALFORMED,   -81,   "malformed certificate") \
    X(CERT_EXPIRED,     -82,   "certificate expired") \
    X(CERT_NOT_YET_VALID, -83, "certificate not yet valid") \
    X(CERT_NAME,        -84,   "certificate is for another name") \
    X(CERT_UNTRUSTED,   -85,   "certificate's issuer is not trusted") \
    X(CERT_SELF_SIGNED, -86,   "self-signed certificate that is not trusted") \
    X(CERT_SIGNATURE,   -87,   "certificate's signature is wrong") \
    X(CERT_WEAK,        -88,   "certificate uses a weak key or hash") \
    X(CERT_ALGORITHM,   -89,   "certificate uses an unsupported algorithm") \
    X(CERT_USAGE,       -90,   "certificate is not meant for this use") \
    X(CERT_NOT_CA,      -91,   "certificate's issuer is not a certificate authority") \
    X(CERT_PATH_LENGTH, -92,   "certificate path is longer than its issuer allows") \
    X(CERT_CONSTRAINTS, -93,   "certificate breaks its issuer's name constraints") \
    X(CERT_CRITICAL,    -94,   "certificate has an unknown critical extension") \
    X(CERT_LIMIT,       -95,   "certificate chain is too large or too hard to verify") \
    X(CERT_PIN,         -96,   "certificate's key is not one of the pinned keys") \
    X(CERT_REJECTED,    -97,   "certificate refused by the application")

enum {
#define PSOCKET_X(name, value, text) PSOCKET_##name = value,
    PSOCKET_CODES(PSOCKET_X)
#undef PSOCKET_X
    PSOCKET_CODE_END = -1000
};

/* Events, as bits. */
#define PSOCKET_READ   1
#define PSOCKET_WRITE  2
#define PSOCKET_SIGNAL 4 /* a signal's handler has run: see psocket_wait and psocket_poller_watch */

/* What psocket_getside answers. */
#define PSOCKET_CLIENT 0
#define PSOCKET_SERVER 1

typedef struct psocket psocket;                 /* a connection, a UDP endpoint or a listener */
typedef struct psocket_tls psocket_tls;         /* TLS settings, reference-counted, immutable, shareable between threads */
typedef struct psocket_poller psocket_poller;   /* a set of sockets to wait for */
typedef struct psocket_watch psocket_watch;     /* a foreign descriptor or a timer in a poller */
typedef struct psocket_resolve psocket_resolve; /* one name being resolved by the application */
typedef intptr_t psocket_fd;                    /* a descriptor or Winsock SOCKET; -1 is none */

/* What went wrong. Zero-initialise it; it owns nothing. */
typedef struct psocket_error {
    int code;          /* PSOCKET_* */
    int os_error;      /* errno or WSAGetLastError, 0 if none */
    int bearssl_error; /* BR_ERR_*, 0 if none */
    int tls_alert;     /* alert number sent or received (RFC 5246 7.2), -1 if none when code is a TLS or CERT code */
    int cert_index;    /* which certificate of the peer's chain, 0 the peer's own, -1 if none */
    size_t sent;       /* of the last psocket_send: how many bytes it had taken when it failed */
    char text[512];    /* one sentence for people, never empty when code is not 0 */
} psocket_error;

/* Resolves a host name for the application, in place of getaddrinfo. Called once per connect; call
   psocket_resolve_add and psocket_resolve_done on r, at once or later, from any thread. host is valid until done. */
typedef void (*psocket_resolve_fn)(void *user, psocket_resolve *r, const char *host);

/* Options of a socket. All zero is a blocking TCP socket without a time limit. Strings are copied. */
typedef struct psocket_options {
    int nonblocking;          /* answer PSOCKET_WANT_* instead of waiting */
    int udp;                  /* connect, listen: a UDP socket, where one datagram is one chunk */
    int timeout_ms;           /* limit of each whole operation (connect, starttls, recv, accept ...), of a send since bytes last
                                 left; 0 none. A nonblocking operation lasts from its first WANT_* to its last. */
    int attempt_delay_ms;     /* time between connection attempts, RFC 8305 section 5; 0 means 250 */
    int backlog;              /* listen: queue length; 0 means the system's most */
    int keepalive;            /* seconds of silence after which the system probes a stream's peer; 0 never */
    const char *local;        /* connect: the numeric local address to come from; NULL: the system chooses */
    int local_port;           /* connect: the local port; 0 any */
    int reuse_port;           /* listen: several sockets may share the address and port (SO_REUSEPORT) */
    int v6only;               /* listen: an IPv6 address takes no IPv4 traffic */
    int broadcast;            /* UDP: broadcast addresses may be sent to */
    const char *multicast_group; /* UDP, listen: the group to join, an IPv4 or IPv6 address */
    const char *multicast_interface; /* UDP: name or number of the interface for groups; NULL: the system chooses */
    int multicast_ttl;        /* UDP: hops that what is sent to a group may take; 0: the system's default, 1 */
    int multicast_noloop;     /* UDP: what is sent to a group does not come back to this machine */
    size_t recv_limit;        /* stop reading when this many bytes are unread; 0 means PSOCKET_RECV_LIMIT */
    psocket_resolve_fn resolve; /* NULL: the system's resolver on a helper thread */
    void *resolve_user;       /* first argument of resolve */
    psocket_error *error;     /* filled when making a socket fails, so that there is none to ask, and by psocket_accept: it has
                                 to live as long as a listener; may be NULL */
} psocket_options;

/* A certificate chain (leaf first) and its private key: PEM text, or DER. A length of 0 means NUL-terminated PEM. */
typedef struct psocket_identity {
    const void *chain;
    size_t chain_len;
    const void *key; /* PKCS#8, PKCS#1 or SEC 1; RSA up to 4096 bits or EC P-256, P-384, P-521; not encrypted */
    size_t key_len;
} psocket_identity;

/* What a peer's certificate says. Pointers are valid during the call that hands it out. */
typedef struct psocket_certinfo {
    const char *subject;        /* RFC 4514 style, e.g. "CN=example.org" */
    const char *issuer;
    int64_t not_before, not_after; /* seconds since 1970 UTC */
    uint8_t sha256[32];         /* digest of the whole certificate */
    uint8_t spki_sha256[32];    /* digest of its SubjectPublicKeyInfo (RFC 7469) */
} psocket_certinfo;

#define PSOCKET_CLIENT_AUTH_NONE     0 /* the server asks for no client certificate */
#define PSOCKET_CLIENT_AUTH_OPTIONAL 1 /* it asks; none is accepted, a bad one is not */
#define PSOCKET_CLIENT_AUTH_REQUIRED 2 /* it asks and insists */

/* TLS settings. All zero: a client that trusts the system's store and verifies everything. */
typedef struct psocket_tls_options {
    const void *ca;              /* trust anchors: PEM text or DER certificates back to back; any of ca, ca_file, ca_dir replaces the system's store */
    size_t ca_len;               /* 0: ca is NUL-terminated PEM */
    const char *ca_file;         /* PEM bundle */
    const char *ca_dir;          /* folder of PEM files */
    const psocket_identity *identities; /* servers: at least one; clients: the first one answers a certificate request */
    size_t identity_count;
    const char *const *alpn;     /* application protocols, most wanted first (RFC 7301) */
    size_t alpn_count;
    int client_auth;             /* servers: PSOCKET_CLIENT_AUTH_*; verified against ca */
    const uint8_t *spki_pins;    /* SHA-256 digests, 32 bytes each: one certificate of the verified path must match one */
    size_t spki_pin_count;
    /* The last word on a peer's certificate, for trust on first use: 0 accepts, anything else refuses. verdict->code is 0 when
       verification passed, else its first fault: CERT_EXPIRED means that all else was good, CERT_NAME says nothing of
       dates. Called in the middle of a handshake, also from psocket_poller_wait: it must close or free no socket. */
    int (*decide)(void *user, const psocket_certinfo *peer, const psocket_error *verdict);
    void *decide_user;
    const char *suites;          /* cipher suites by their IANA names, most wanted first, with colons between; NULL: all */
    int min_version;             /* oldest TLS version; 0 or 0x0303 (TLS 1.2), which is the only one there is */
    int64_t (*clock)(void *user); /* seconds since 1970 UTC; NULL: the system's */
    void *clock_user;
    int insecure_no_verify;      /* accept any certificate: encrypts to whoever answers */
    int insecure_no_name;        /* verify the chain but not for whom it was issued */
    psocket_error *error;        /* filled when psocket_tls_new fails; may be NULL */
} psocket_tls_options;

/* What a TLS connection agreed on. Strings are empty when there is nothing to tell. */
typedef struct psocket_tlsinfo {
    int version;                 /* 0x0303 for TLS 1.2 */
    int suite;                   /* IANA cipher suite number */
    int resumed;                 /* 1 if an earlier session was resumed */
    char version_name[8];        /* "TLSv1.2" */
    char suite_name[48];         /* IANA name */
    char alpn[256];              /* agreed application protocol */
    char server_name[256];       /* the name asked for (RFC 6066 SNI on a server) */
    char peer_subject[256];      /* peer's certificate: empty if it sent none */
    uint8_t peer_sha256[32];
    uint8_t peer_spki_sha256[32];
    int64_t peer_not_before, peer_not_after;
} psocket_tlsinfo;

/* A descriptor to wait for in a foreign event loop. */
typedef struct psocket_pollfd {
    psocket_fd fd;
    int events; /* PSOCKET_READ | PSOCKET_WRITE */
} psocket_pollfd;

/* A transport of your own: what carries a stream in place of a descriptor. user is what psocket_open was given. None of
   these may wait, nor call psocket for the socket that they carry. *os may receive a system's error number. */
typedef struct psocket_transport {
    /* Stores up to n bytes that have come: how many, 0 at the stream's end, PSOCKET_WANT_READ, or an error. */
    ptrdiff_t (*get)(void *user, void *p, size_t n, int *os);
    /* Takes up to n bytes: how many, PSOCKET_WANT_WRITE, or an error. */
    ptrdiff_t (*put)(void *user, const void *p, size_t n, int *os);
    /* No more will be put: 0, PSOCKET_WANT_WRITE, or an error. */
    int (*finish)(void *user, int *os);
    /* The socket lets go of the transport; called once, last. */
    void (*close)(void *user);
    /* As psocket_pollset, for a get (PSOCKET_READ) or put (PSOCKET_WRITE) that would wait: what to wait for. */
    int (*wants)(void *user, int events, psocket_pollfd *fds, int cap, int *ms);
} psocket_transport;

/* What a poller reports. */
typedef struct psocket_event {
    void *user;   /* as given to psocket_poller_set or psocket_poller_watch */
    int events;   /* PSOCKET_READ | PSOCKET_WRITE: that call will not answer WANT; 0: the time given has passed */
} psocket_event;

/* --- sockets ---------------------------------------------------------------------------------------------------- */

/* Connects to host (an IPv4 or IPv6 address, a name, or "unix:/path") and port (1 to 65535; 0 with a path). Blocks until
   connected, unless nonblocking: then *out is set at once and psocket_step, psocket_wait or any data call carries on.
   Names are resolved off this thread and addresses raced (RFC 8305). With options.udp only the peer is set, nothing is
   sent. On error *out is NULL and opt->error tells; free *out with psocket_free. opt may be NULL. */
PSOCKET_API int psocket_connect(psocket **out, const char *host, int port, const psocket_options *opt);

/* Listens on port (0: any free one) of address: NULL for all IPv4 and IPv6 addresses, an IP address, "address:port",
   "[v6]:port" or "unix:/path". With options.udp: a UDP socket, whose peer is the sender of the datagram last received.
   Does not block. Accepted sockets inherit opt. */
PSOCKET_API int psocket_listen(psocket **out, const char *address, int port, const psocket_options *opt);

/* Takes a listener's next connection. Blocks, or answers PSOCKET_WANT_READ when nonblocking. *out is the caller's.
   PSOCKET_INVALID if s is no listener. */
PSOCKET_API int psocket_accept(psocket *s, psocket **out);

/* 1 if the next psocket_accept will not wait, 0 if not, or an error (PSOCKET_INVALID: no listener). Never blocks. */
PSOCKET_API int psocket_hasconnection(psocket *s);

/* Makes a socket of a descriptor that exists already: a connected stream (from inetd, socketpair, another library), a
   listener or a UDP socket. side: PSOCKET_CLIENT or _SERVER, for TLS. Owns fd from then on, on success only; makes it
   nonblocking for the system. Does not block. */
PSOCKET_API int psocket_adopt(psocket **out, psocket_fd fd, int side, const psocket_options *opt);

/* Makes a stream socket on a transport of your own. *t must outlive the socket. user goes to each of its functions; the
   transport is closed with the socket, on success only. */
PSOCKET_API int psocket_open(psocket **out, const psocket_transport *t, void *user, int side, const psocket_options *opt);

/* A stream socket carried by another one (TLS within TLS, for proxies). Takes ownership of carrier, on success only. */
PSOCKET_API int psocket_wrap(psocket **out, psocket *carrier, const psocket_options *opt);

/* Two connected stream sockets of this process; the first counts as client. Free each. */
PSOCKET_API int psocket_pair(psocket **a, psocket **b, const psocket_options *opt);

/* --- data ------------------------------------------------------------------------------------------------------- */

/* Sends. Blocking: all of it (returns len) or an error. Nonblocking: how many bytes were taken, at least 1, or WANT_*;
   TLS bytes taken may wait in the socket until psocket_flush, psocket_poller_wait or the next call: of what is sent in a
   poller's turn the first leaves at once, the rest together. UDP: one datagram, which may be empty;
   a stream takes len 0 for nothing. After an error psocket_geterror tells how many bytes had been taken. */
PSOCKET_API ptrdiff_t psocket_send(psocket *s, const void *data, size_t len);

/* Hands what a nonblocking psocket_send took to the system: 0 when all is out, or PSOCKET_WANT_WRITE. Blocking: waits. */
PSOCKET_API int psocket_flush(psocket *s);

/* Takes the oldest chunk: one transport read, one TLS record or one datagram. *data points into the socket's buffer and
   is valid until the next call on s or the next psocket_poller_wait of its poller. Returns its length (0 only for an empty datagram), WANT_*, or how the stream ended:
   PSOCKET_CLOSED (cleanly), TRUNCATED, RESET, TIMEOUT (retry), CLOSED_HERE. Chunks before the end come first. */
PSOCKET_API ptrdiff_t psocket_recv(psocket *s, const void **data);

/* Like psocket_recv but leaves the chunk and never waits: PSOCKET_WANT_READ if there is none yet. */
PSOCKET_API ptrdiff_t psocket_peek(psocket *s, const void **data);

/* Puts a copy of a chunk in front of all others. data may be what psocket_recv just returned. 0 or an error. */
PSOCKET_API int psocket_unrecv(psocket *s, const void *data, size_t len);

/* Takes exactly n bytes, across chunks. If the stream ends or the time passes first, nothing is taken: retry, or
   fetch the rest with psocket_recv. PSOCKET_LIMIT if n exceeds recv_limit. Data as in psocket_recv. */
PSOCKET_API ptrdiff_t psocket_read(psocket *s, size_t n, const void **data);

/* Takes all up to and including delimiter (NUL-terminated, not empty), at most max bytes (PSOCKET_LIMIT when it is not
   found within them; nothing is taken). Otherwise as psocket_read. */
PSOCKET_API ptrdiff_t psocket_read_until(psocket *s, const char *delimiter, size_t max, const void **data);

/* Bytes received and not yet taken. Never blocks, does not read. */
PSOCKET_API size_t psocket_pending(const psocket *s);

/* Half-close: ends the sending direction (TLS: close_notify first) after all sent data; receiving goes on. */
PSOCKET_API int psocket_shutdown(psocket *s);

/* Closes without waiting (TLS: close_notify if it can be sent at once). Chunks received stay readable, then every call
   answers PSOCKET_CLOSED_HERE. Keys are wiped. Safe to call again. */
PSOCKET_API void psocket_close(psocket *s);

/* Closes and frees. NULL is fine. */
PSOCKET_API void psocket_free(psocket *s);

/* --- TLS -------------------------------------------------------------------------------------------------------- */

/* Parses settings once, for any number of sockets. Copies all it needs; files are read here. Free with psocket_tls_free. */
PSOCKET_API int psocket_tls_new(psocket_tls **out, const psocket_tls_options *topt);

/* One more owner. Thread-safe. Returns tls. */
PSOCKET_API psocket_tls *psocket_tls_retain(psocket_tls *tls);

/* Drops one owner; sockets hold their own. Thread-safe. NULL is fine. */
PSOCKET_API void psocket_tls_free(psocket_tls *tls);

/* Turns a connected (or connecting) socket into a TLS client or server, whichever side it is. Clients: server_name must be on the
   certificate (a DNS name or an IP address), tls may be NULL for the default settings; refused with PSOCKET_PLAINTEXT
   while received plaintext is unread. Servers: unread chunks are the start of the TLS stream. Blocks until the handshake
   is done, or answers WANT_* when nonblocking: call psocket_step, psocket_wait or a data call to carry on.
   On failure the alert is sent, the socket is closed and psocket_geterror tells. PSOCKET_PLAINTEXT, PSOCKET_BUSY,
   PSOCKET_UNSUPPORTED (UDP) and PSOCKET_ALREADY_TLS leave it as it was. */
PSOCKET_API int psocket_starttls(psocket *s, psocket_tls *tls, const char *server_name);

/* 1 once a handshake has completed, 0 before. */
PSOCKET_API int psocket_istls(const psocket *s);

/* Fills *info; PSOCKET_INVALID if the socket is not using TLS. */
PSOCKET_API int psocket_gettlsinfo(const psocket *s, psocket_tlsinfo *info);

/* Would a client with these settings (NULL: default) accept this chain (PEM, leaf first; len 0: NUL-terminated) for name
   (NULL only with insecure_no_name) now, by the settings' clock? 0 if so, else the reason, with details in *e (may be NULL). Does not block. */
PSOCKET_API int psocket_tls_verify(psocket_tls *tls, const void *chain, size_t len, const char *name, psocket_error *e);

/* Stores what resumes a client's sessions (per server name, port and settings; tls NULL: the default settings) as bytes:
   returns how many they are, or an error, and writes them only if size suffices (ask with NULL, 0 first). They hold
   master secrets: keep them as safe as private keys. Settings with decide remember no sessions. Thread-safe. */
PSOCKET_API ptrdiff_t psocket_tls_savesessions(psocket_tls *tls, void *buf, size_t size);

/* Adds sessions that psocket_tls_savesessions stored, leaving out those that have expired or whose server has one here
   already. PSOCKET_INVALID, and nothing is added, if the bytes are damaged, or if these settings verify otherwise (trust
   anchors, pins, decide, insecure_*) or prove another identity than those that stored them. Thread-safe. */
PSOCKET_API int psocket_tls_loadsessions(psocket_tls *tls, const void *data, size_t len);

/* --- state ------------------------------------------------------------------------------------------------------ */

/* The peer's (UDP: last sender's) address without brackets, IPv4-mapped as plain IPv4, and port. ip may be NULL; 64 bytes
   are enough for any IP address, 128 for a path. PSOCKET_INVALID while not connected. */
PSOCKET_API int psocket_getpeer(const psocket *s, char *ip, size_t ip_size, int *port);

/* The same of the local end; valid while open. */
PSOCKET_API int psocket_getlocal(const psocket *s, char *ip, size_t ip_size, int *port);

/* UDP: sends to this numeric address from now on. */
PSOCKET_API int psocket_setpeer(psocket *s, const char *ip, int port);

/* PSOCKET_CLIENT or PSOCKET_SERVER. */
PSOCKET_API int psocket_getside(const psocket *s);

/* 1 while the connection is open in both directions; notices the peer's close without taking data; never blocks. */
PSOCKET_API int psocket_isopen(psocket *s);

/* 1 for a UDP socket. */
PSOCKET_API int psocket_isudp(const psocket *s);

/* Changes options.timeout_ms; what is under way begins its time anew. */
PSOCKET_API void psocket_settimeout(psocket *s, int timeout_ms);

/* Switches between blocking and nonblocking. */
PSOCKET_API void psocket_setnonblocking(psocket *s, int on);

/* The descriptor of s, for options of the system and foreign loops (a listener's is readable when a connection waits); -1 if
   it has none, or not yet. It stays s's own. */
PSOCKET_API psocket_fd psocket_getfd(const psocket *s);

/* Copies the last error that a call answered for s, other than WANT_*, into *e and returns its code (0 if none). e may be NULL. */
PSOCKET_API int psocket_geterror(const psocket *s, psocket_error *e);

/* A constant text for a code; "unknown code" for others. */
PSOCKET_API const char *psocket_strerror(int code);

/* A code's name without the prefix, "TIMEOUT"; NULL for others. */
PSOCKET_API const char *psocket_codename(int code);

/* --- waiting ---------------------------------------------------------------------------------------------------- */

/* Carries on whatever is pending: resolving, connecting, handshaking, flushing. 0 when nothing is, WANT_*, or an error.
   Never blocks. */
PSOCKET_API int psocket_step(psocket *s);

/* Waits up to ms milliseconds (-1: for ever) until a call of the kind events (PSOCKET_READ | PSOCKET_WRITE) would not answer
   WANT. Returns the events that are ready (an ended or failed socket is ready for all), 0 when the time has passed, or an
   error. Drives connecting and handshaking. */
PSOCKET_API int psocket_wait(psocket *s, int events, int ms);

/* For foreign loops: stores up to cap descriptors to wait for, given that the caller wants events, and lowers *ms (in:
   the longest wait, -1 for ever) to the next deadline; *ms is 0 when a call would not wait. Afterwards call psocket_step
   or the data call again. Returns how many there are (at most PSOCKET_POLLSET_MAX), or an error. */
#define PSOCKET_POLLSET_MAX 10
PSOCKET_API int psocket_pollset(psocket *s, int events, psocket_pollfd *fds, int cap, int *ms);

/* A set of sockets, foreign descriptors and timers: epoll, kqueue, poll, or select on Windows. Level-triggered. One
   thread at a time, except psocket_poller_wake. */
PSOCKET_API int psocket_poller_new(psocket_poller **out);

/* Frees the set; sockets and watches stay as they are. NULL is fine. */
PSOCKET_API void psocket_poller_free(psocket_poller *p);

/* Watches s for events (0: stop watching), or for timeout_ms (-1: none) to pass. Replaces what was set before for s;
   freeing or closing a socket removes it. A socket is in one poller at a time (PSOCKET_BUSY). Connecting and handshaking
   are driven by psocket_poller_wait. Cheap when nothing changes. */
PSOCKET_API int psocket_poller_set(psocket_poller *p, psocket *s, int events, int timeout_ms, void *user);

/* The same for a descriptor that is not psocket's, or (fd -1) for the time alone: reported with events 0 once timeout_ms
   have passed. *w is NULL at first, and is the handle for what is set later (events 0 and timeout_ms -1: nothing for
   now). Take a descriptor out before you close it. With fd -1 events may be PSOCKET_SIGNAL: reported when a signal has
   interrupted the wait. Files that the system cannot wait for: PSOCKET_UNSUPPORTED. */
PSOCKET_API int psocket_poller_watch(psocket_poller *p, psocket_watch **w, psocket_fd fd, int events, int timeout_ms, void *user);

/* Stops and frees a watch, before or after its poller. NULL is fine. */
PSOCKET_API void psocket_watch_free(psocket_watch *w);

/* Waits up to ms (-1: for ever). *events is the poller's own array, valid until the next psocket_poller_wait. Returns how
   many there are, 0 when the time has passed or the poller was woken, or an error. A set timeout is reported once. When
   something is removed from the poller (or freed) its entry in the array is cleared: user becomes NULL, events 0. */
PSOCKET_API int psocket_poller_wait(psocket_poller *p, const psocket_event **events, int ms);

/* Makes a psocket_poller_wait, now or the next one, return. From any thread. */
PSOCKET_API void psocket_poller_wake(psocket_poller *p);

/* The poller's own descriptor, readable when psocket_poller_wait(p, ..., 0) has work, for nesting in a foreign loop; -1 if
   the system has no such thing. *ms (may be NULL) is lowered to the next deadline as in psocket_pollset. */
PSOCKET_API psocket_fd psocket_poller_getfd(psocket_poller *p, int *ms);

/* --- the application's own resolver ------------------------------------------------------------------------------ */

/* Adds one numeric address to the answer. Any thread. 0 or PSOCKET_INVALID / PSOCKET_LIMIT. */
PSOCKET_API int psocket_resolve_add(psocket_resolve *r, const char *ip);

/* Ends the lookup: code 0, or PSOCKET_DNS*. r is gone afterwards. Exactly once, from any thread. */
PSOCKET_API void psocket_resolve_done(psocket_resolve *r, int code);

/* Milliseconds of the monotonic clock that timeouts are measured with. */
PSOCKET_API int64_t psocket_now(void);

/* Frees what the process shares (the default TLS settings). Only when no socket is left; never needed before exit. */
PSOCKET_API void psocket_cleanup(void);

#ifdef PSOCKET_LUA
struct lua_State;
/* The Lua module's loader, for package.preload or require. */
PSOCKET_API int luaopen_psocket(struct lua_State *L);
#endif

#ifdef __cplusplus
}
#endif
#endif /* PSOCKET_H */

#if defined(PSOCKET_IMPLEMENTATION) && !defined(PSOCKET_IMPLEMENTED)
#define PSOCKET_IMPLEMENTED

/*==================================================================================================
 * >>config
 * Defaults and detection, once. Below this section conditionals stand around whole functions only, but in >>os and >>lua.
 *================================================================================================*/

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !defined(PSOCKET_MALLOC) && !defined(PSOCKET_REALLOC) && !defined(PSOCKET_FREE)
#define PSOCKET_MALLOC(n) malloc(n)
#define PSOCKET_REALLOC(p, n) realloc(p, n)
#define PSOCKET_FREE(p) free(p)
#elif !defined(PSOCKET_MALLOC) || !defined(PSOCKET_FREE)
#error "psocket: define both PSOCKET_MALLOC and PSOCKET_FREE (and PSOCKET_REALLOC, if you like), or none"
#endif

#ifndef PSOCKET_RECV_LIMIT
#define PSOCKET_RECV_LIMIT 65536
#endif
#ifndef PSOCKET_READ_SIZE
#define PSOCKET_READ_SIZE 65536
#endif
#ifndef PSOCKET_ADDRESSES
#define PSOCKET_ADDRESSES 16 /* most addresses of one name that are tried */
#endif
#ifndef PSOCKET_RESOLVER_THREADS
#define PSOCKET_RESOLVER_THREADS 8 /* names resolved at once, not counting those that keep us waiting; more queue */
#endif
#ifndef PSOCKET_CHAIN_BYTES
#define PSOCKET_CHAIN_BYTES 102400 /* most bytes of certificates taken from a peer */
#endif
#ifndef PSOCKET_CHAIN_DEPTH
#define PSOCKET_CHAIN_DEPTH 10 /* most certificates on one verified path, the trust anchor not counted */
#endif
#ifndef PSOCKET_BUILD_TIME
#define PSOCKET_BUILD_TIME 0
#endif

#ifndef PSOCKET_DATAGRAM
#define PSOCKET_DATAGRAM 65536 /* largest datagram that is received; a larger one is an error */
#endif

#ifdef PSOCKET_CHECK /* for tests: what must hold between calls is looked at after each */
#define PSI_SURE(x) ((x) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x), abort()))
#endif

#ifdef __cplusplus
#define PSI_ZERO {}
#else
#define PSI_ZERO {0}
#endif

#if defined(__GNUC__) || defined(__clang__)
#define PSI_UNUSED __attribute__((unused))
#define PSI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define PSI_UNUSED
#define PSI_PRINTF(f, a)
#endif

/*==================================================================================================
 * >>base
 * Memory, errors and little helpers. Whoever calls psi_alloc owns the result and ends it with psi_free. An error is filled
 * by three functions: psi_err, psi_err_alert, and psi_err_os of the next section.
 *================================================================================================*/

/* Zeroed memory, or NULL. */
static void *psi_alloc(size_t n)
{
    void *p = PSOCKET_MALLOC(n);
    if (p) memset(p, 0, n);
    return p;
}

static void psi_free(void *p)
{
    if (p) PSOCKET_FREE(p);
}

/* A block of n bytes in place of p (may be NULL), of which the first `used` bytes are kept. NULL leaves p as it is. */
#ifdef PSOCKET_REALLOC
static void *psi_realloc(void *p, size_t used, size_t n)
{
    (void)used;
    return PSOCKET_REALLOC(p, n);
}
#else
static void *psi_realloc(void *p, size_t used, size_t n)
{
    void *bigger = PSOCKET_MALLOC(n);
    if (!bigger) return NULL;
    if (used) memcpy(bigger, p, used < n ? used : n);
    psi_free(p);
    return bigger;
}
#endif

/* Zeroes memory that held secrets; a call through a volatile pointer is one that the compiler may not leave out. */
static PSI_UNUSED void psi_wipe(void *p, size_t n)
{
    static void *(*const volatile clear)(void *, int, size_t) = memset;
    if (n) clear(p, 0, n);
}

static PSI_UNUSED char *psi_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = (char *)psi_alloc(n);
    if (p) memcpy(p, s, n);
    return p;
}

static int psi_lower(int c)
{
    return c >= 'A' && c <= 'Z' ? c + 32 : c;
}

/* Case-insensitive comparison of n ASCII bytes, whatever the locale. */
static PSI_UNUSED int psi_same_nocase(const char *a, const char *b, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++)
        if (psi_lower((unsigned char)a[i]) != psi_lower((unsigned char)b[i])) return 0;
    return 1;
}

/* The string that belongs to a code, of strings that follow each other as the codes do; "" if there is none. (A third of the
   size of a switch or of an array of pointers.) */
static const char *psi_string_of(int code, const short *codes, const char *strings)
{
    for (; *strings && *codes != code; codes++) strings += strlen(strings) + 1;
    return strings;
}

#define PSOCKET_X(name, value, text) value,
static const short psi_codes[] = { PSOCKET_CODES(PSOCKET_X) };
#undef PSOCKET_X

PSOCKET_API const char *psocket_strerror(int code)
{
#define PSOCKET_X(name, value, text) text "\0"
    static const char texts[] = PSOCKET_CODES(PSOCKET_X);
#undef PSOCKET_X
    const char *text = psi_string_of(code, psi_codes, texts);
    return *text ? text : "unknown code";
}

PSOCKET_API const char *psocket_codename(int code)
{
#define PSOCKET_X(name, value, text) #name "\0"
    static const char names[] = PSOCKET_CODES(PSOCKET_X);
#undef PSOCKET_X
    const char *name = psi_string_of(code, psi_codes, names);
    return *name ? name : NULL;
}

/* Fills *e (may be NULL) with a code and a sentence (NULL: the code's own text), clearing the rest. Returns the code. */
static int psi_err_v(psocket_error *e, int code, const char *format, va_list ap)
{
    if (!e) return code;
    memset(e, 0, sizeof *e);
    e->code = code;
    e->tls_alert = -1;
    e->cert_index = -1;
    if (format) vsnprintf(e->text, sizeof e->text, format, ap);
    else snprintf(e->text, sizeof e->text, "%s", psocket_strerror(code));
    return code;
}

PSI_PRINTF(3, 4)
static int psi_err(psocket_error *e, int code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    psi_err_v(e, code, format, ap);
    va_end(ap);
    return code;
}

/* The same, with the TLS alert that was sent or received. */
PSI_PRINTF(4, 5)
static PSI_UNUSED int psi_err_alert(psocket_error *e, int code, int alert, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    psi_err_v(e, code, format, ap);
    va_end(ap);
    if (e) e->tls_alert = alert;
    return code;
}

/* Fills *e with a code and its standard text. */
static int psi_err_code(psocket_error *e, int code)
{
    return psi_err(e, code, NULL);
}

/*==================================================================================================
 * >>os
 * The operating system behind one small interface: a block of hooks for each of lwIP, Windows and POSIX, then one body on
 * the sockets that all three have. Nothing below this section makes a system call. A result is 0 or more, or a PSOCKET_
 * code; *os receives the system's own error number. Every descriptor made here is nonblocking and not inherited by child
 * processes, and never raises SIGPIPE.
 *================================================================================================*/

#define PSI_IP4 4
#define PSI_IP6 6
#define PSI_UNIX 1

/* An address. IPv4 uses the first 4 bytes of ip. The path of a Unix-domain socket travels beside it. */
typedef struct psi_addr {
    uint8_t ip[16]; /* network order */
    uint32_t scope; /* interface index of a link-local IPv6 address */
    uint16_t port;  /* host order */
    uint8_t family; /* PSI_IP4, PSI_IP6, PSI_UNIX; 0 none */
} psi_addr;

/* A descriptor in a psi_os_poller. Owned by the caller; must stay in place while events is not 0. */
typedef struct psi_os_watch {
    psocket_fd fd;
    int events; /* what is being watched for now */
    int slot;   /* for the poller's own use */
    void *owner;
} psi_os_watch;

typedef struct psi_os_ready {
    psi_os_watch *watch;
    int events;
} psi_os_ready;

/* Options of a descriptor; all zero leaves it as it is. */
typedef struct psi_os_settings {
    psi_addr local, group;    /* to connect from; to join */
    uint32_t interface_index; /* where multicasts leave and groups are joined; 0: the system's choice */
    int keepalive, ttl;
    uint8_t reuse_port, v6only, broadcast, noloop;
} psi_os_settings;

#define PSI_OS_STREAM 1 /* what psi_os_adopt tells */
#define PSI_OS_DATAGRAM 2
#define PSI_OS_LISTENER 3

/* What a block defines:
 *     PSI_SYS, PSI_E           a function of the sockets, and an error number, by their POSIX names
 *     PSI_OS_ERRNO             why the last call failed
 *     PSI_OS_CODES             rows of the table in psi_os_code that it alone has
 *     PSI_OS_IP6, PSI_OS_IP4, PSI_OS_UNIX   which families there are
 *     psi_os_int, psi_os_len, psi_os_octet  types: of a descriptor, of a length, of a small option
 *     psi_os_raw_*, psi_os_make_ready       calls that differ by more than their names, with the results of POSIX
 *     and the clock, randomness, threads, and files if it has any */
#if defined(PSOCKET_LWIP)
/*--- lwIP 2.1 and later ---------------------------------------------------------------------------------------------*/

#include "lwip/api.h"
#include "lwip/errno.h"
#include "lwip/if_api.h"
#include "lwip/netdb.h"
#include "lwip/priv/sockets_priv.h"
#include "lwip/sockets.h"
#include "lwip/sys.h"
#include "lwip/tcpip.h"

#if !LWIP_SOCKET || !(LWIP_SOCKET_POLL || LWIP_SOCKET_SELECT)
#error "psocket: lwIP needs LWIP_SOCKET, and LWIP_SOCKET_POLL or LWIP_SOCKET_SELECT"
#endif
#if !LWIP_DNS && !defined(PSOCKET_NO_DNS)
#define PSOCKET_NO_DNS
#endif
#ifndef TCP_NODELAY
#define TCP_NODELAY 1 /* lwIP without TCP */
#endif

#define PSI_SYS(name) lwip_##name
#define PSI_E(name) name
#define PSI_OS_ERRNO errno
#define PSI_OS_CODES { -1, PSOCKET_UNREACHABLE }, /* ERR_IF: the network interface refused the packet */ \
                     { ENOMEM, PSOCKET_NOMEM }, { ENFILE, PSOCKET_DESCRIPTORS },
#define PSI_OS_IP4 LWIP_IPV4
#define PSI_OS_IP6 LWIP_IPV6
#define PSI_OS_UNIX 0
#define PSI_OS_SEND_MAX INT_MAX
#define PSI_OS_SEND_FLAGS 0
#define PSI_OS_SEND_DROPS_INPUT 0
#define PSI_OS_SHUT SHUT_WR
#define PSI_OS_RESOLVE_ERRNO(e) 0
typedef int psi_os_int;
typedef size_t psi_os_len;
typedef uint8_t psi_os_octet;

#define psi_os_raw_close(fd) lwip_close(fd)
#define psi_os_fresh(fd) psi_os_make_ready(fd)
#define psi_os_raw_nametoindex(name) lwip_if_nametoindex(name)
#define psi_os_raw_accept(fd, sa, n) lwip_accept(fd, sa, n)
#define psi_os_raw_connect(fd, sa, n) lwip_connect(fd, sa, n)
#define psi_os_raw_bind(fd, sa, n) lwip_bind(fd, sa, n)
#define psi_os_raw_recvfrom(fd, p, n, sa, size) lwip_recvfrom(fd, p, n, 0, sa, size)

/* Sockets used up is a lack of descriptors, not of memory. */
static int psi_os_raw_socket(int domain, int type)
{
    int fd = lwip_socket(domain, type, 0);
    if (fd < 0 && errno == ENOBUFS) errno = ENFILE;
    return fd;
}

static int psi_os_make_ready(int fd)
{
    int one = 1;
    return lwip_ioctl(fd, (long)FIONBIO, &one);
}

#if LWIP_IGMP && LWIP_MULTICAST_TX_OPTIONS
/* lwIP names an interface by its address. */
typedef struct ip_mreq psi_os_mreq;
#define PSI_OS_MREQ_IF(m) (m)->imr_interface
static int psi_os_mreq_at(psi_os_mreq *m, unsigned index)
{
    struct netif *netif;
    LOCK_TCPIP_CORE();
    netif = index < 256 ? netif_get_by_index((u8_t)index) : NULL;
    if (netif) inet_addr_from_ip4addr(&m->imr_interface, netif_ip4_addr(netif));
    UNLOCK_TCPIP_CORE();
    if (!netif) errno = EADDRNOTAVAIL;
    return netif ? 0 : -1;
}
#endif

/* SO_REUSEADDR takes SO_REUSE in lwIP. Sharing a port is for datagrams only. */
static int psi_os_reuse(int fd, int stream, int share)
{
    int one = 1;
    if (stream && share) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return stream || share ? lwip_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) && share ? -1 : 0 : 0;
}

/* lwIP's words for a reset that answers SYN, and for SYNs that nobody answers. */
static int psi_os_connect_errno(int e)
{
    return e == ECONNRESET ? ECONNREFUSED : e == ECONNABORTED ? ETIMEDOUT : e;
}

#if LWIP_SOCKET_POLL
/* lwip_poll stops at the first descriptor that is none, and insists on at least one. */
static int psi_os_raw_poll(struct pollfd *p, int n, int ms)
{
    struct pollfd none;
    int i;
    none.fd = -1;
    none.events = none.revents = 0;
    for (i = 0; i < n; i++) p[i].revents = 0;
    return n ? lwip_poll(p, (nfds_t)n, ms) : lwip_poll(&none, 1, ms);
}
#else
static int psi_os_raw_poll(struct pollfd *p, int n, int ms)
{
    fd_set sets[3]; /* to read from, to write to, failed */
    struct timeval t;
    int i, r, top = 0;
    FD_ZERO(&sets[0]);
    FD_ZERO(&sets[1]);
    FD_ZERO(&sets[2]);
    errno = EBADF;
    for (i = 0; i < n; i++) {
        unsigned fd = (unsigned)p[i].fd;
        p[i].revents = 0;
        if (fd >= LWIP_SELECT_MAXNFDS) return -1; /* beyond the sets */
        if (p[i].events & POLLIN) FD_SET(fd, &sets[0]);
        if (p[i].events & POLLOUT) FD_SET(fd, &sets[1]);
        FD_SET(fd, &sets[2]);
        if (p[i].fd >= top) top = p[i].fd + 1;
    }
    t.tv_sec = ms / 1000;
    t.tv_usec = ms % 1000 * 1000;
    r = lwip_select(top, &sets[0], &sets[1], &sets[2], ms < 0 ? NULL : &t);
    for (i = 0; r > 0 && i < n; i++) {
        unsigned fd = (unsigned)p[i].fd;
        p[i].revents = (short)((FD_ISSET(fd, &sets[0]) ? POLLIN : 0) | (FD_ISSET(fd, &sets[1]) ? POLLOUT : 0) |
                               (FD_ISSET(fd, &sets[2]) ? POLLERR : 0));
    }
    return r;
}
#endif

/*--- lwIP: a bell is a socket that nobody can reach, to which arrivals are counted as lwIP itself counts them: it needs
 * neither a loopback interface nor its queue. */

typedef struct psi_os_bell {
    psocket_fd rd, wr;
} psi_os_bell;

static void psi_os_bell_count(const psi_os_bell *b, int rung)
{
    struct lwip_sock *s = b->rd < 0 ? NULL : lwip_socket_dbg_get_socket((int)b->rd);
    if (!s) return;
    LOCK_TCPIP_CORE();
    if (rung && s->rcvevent < 1) s->conn->callback(s->conn, NETCONN_EVT_RCVPLUS, 0);
    while (!rung && s->rcvevent > 0) s->conn->callback(s->conn, NETCONN_EVT_RCVMINUS, 0);
    UNLOCK_TCPIP_CORE();
}

static void psi_os_bell_ring(psi_os_bell *b) { psi_os_bell_count(b, 1); }
static void psi_os_bell_clear(psi_os_bell *b) { psi_os_bell_count(b, 0); }

static int psi_os_start(void)
{
    return 0; /* tcpip_init is the application's */
}

static PSI_UNUSED long psi_os_process(void)
{
    return 0; /* there is but one */
}

static PSI_UNUSED int64_t psi_os_clock(void)
{
    static int64_t now = 0;
    int64_t result;
    SYS_ARCH_DECL_PROTECT(level);
    SYS_ARCH_PROTECT(level);
    now += (u32_t)(sys_now() - (u32_t)now); /* sys_now starts again at 0 every 49 days */
    result = now;
    SYS_ARCH_UNPROTECT(level);
    return result;
}

static PSI_UNUSED int64_t psi_os_calendar(void)
{
    return 0;
}

/* LWIP_RAND is often rand(): no TLS without PSOCKET_ENTROPY. */
static PSI_UNUSED int psi_os_random(void *p, size_t n)
{
    (void)p;
    (void)n;
    return -1;
}

/*--- lwIP: threads. psocket starts none here, but an application's tasks may use it side by side. */

#ifndef PSOCKET_NO_THREADS
/* Adds to a number that tasks share; returns the new value. */
static PSI_UNUSED int psi_os_add(volatile int *p, int by)
{
    int value;
    SYS_ARCH_DECL_PROTECT(level);
    SYS_ARCH_PROTECT(level);
    value = *p += by;
    SYS_ARCH_UNPROTECT(level);
    return value;
}

/* How many hold or want it. sys_mutex cannot be initialised statically and may fail to be made; who finds this one
   taken sleeps a tick, so that the holder can run even if it has the lower priority. */
typedef volatile int psi_os_mutex;
#define PSI_OS_MUTEX_INIT 0
static PSI_UNUSED void psi_os_lock(psi_os_mutex *m)
{
    while (psi_os_add(m, 1) != 1) {
        psi_os_add(m, -1);
        sys_msleep(1);
    }
}
static PSI_UNUSED void psi_os_unlock(psi_os_mutex *m) { psi_os_add(m, -1); }
static PSI_UNUSED void psi_os_mutex_free(psi_os_mutex *m) { (void)m; }
#endif

#elif defined(_WIN32)
/*--- Windows 7 and later. Unix-domain sockets are left out: what a path belongs to cannot be told there without a real
 * connection to it, so that a live server could lose its path. */

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN /* else windows.h brings winsock.h, which winsock2.h does not go with */
#define PSI_OS_LEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#define PSI_OS_NOMINMAX
#endif
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0601
#endif
#if _WIN32_WINNT < 0x0601
#error "psocket: needs Windows 7: define _WIN32_WINNT as 0x0601 or more before the first system header"
#endif
#if defined(SOMAXCONN) && !defined(_WINSOCK2API_)
#error "psocket: include psocket.h with PSOCKET_IMPLEMENTATION before windows.h, or define WIN32_LEAN_AND_MEAN"
#endif

#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#ifndef PSOCKET_NO_TLS
#include <bcrypt.h>
#include <wincrypt.h>
#endif
#ifndef PSOCKET_NO_THREADS
#include <process.h>
#endif

#ifdef PSI_OS_LEAN
#undef WIN32_LEAN_AND_MEAN
#endif
#ifdef PSI_OS_NOMINMAX
#undef NOMINMAX
#endif

#ifdef _MSC_VER
#pragma comment(lib, "ws2_32")
#ifndef PSOCKET_NO_TLS
#pragma comment(lib, "bcrypt")
#pragma comment(lib, "crypt32")
#endif
#endif

#define PSI_SYS(name) name
#define PSI_E(name) WSA##name
#define PSI_OS_ERRNO WSAGetLastError()
#define PSI_OS_CODES { WSAENETRESET, PSOCKET_RESET }, { WSAESHUTDOWN, PSOCKET_CLOSED }, { WSA_NOT_ENOUGH_MEMORY, PSOCKET_NOMEM }, \
                     { ERROR_TOO_MANY_OPEN_FILES, PSOCKET_DESCRIPTORS },
#define PSI_OS_IP4 1
#define PSI_OS_IP6 1
#define PSI_OS_UNIX 0
#define PSI_OS_SEND_MAX (1 << 20) /* a nonblocking send takes all into kernel memory, or fails with WSAENOBUFS */
#define PSI_OS_SEND_FLAGS 0
#define PSI_OS_SEND_DROPS_INPUT 1 /* what has arrived and not been read is lost once a send meets a reset */
#define PSI_OS_SHUT SD_SEND
#define PSI_OS_RESOLVE_ERRNO(e) (e)
typedef SOCKET psi_os_int;
typedef int psi_os_len;
typedef DWORD psi_os_octet;

#define psi_os_raw_close(fd) closesocket(fd)
#define psi_os_fresh(fd) psi_os_make_ready(fd)
#define psi_os_raw_accept(fd, sa, n) accept(fd, sa, n)
#define psi_os_connect_errno(e) (e)

static int psi_os_is_udp(SOCKET fd)
{
    int type = 0, n = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, (char *)&type, &n) == 0 && type == SOCK_DGRAM;
}

/* Whether an ICMP error that answers a datagram fails a later receive: SIO_UDP_CONNRESET, and SIO_UDP_NETRESET, which
   stays off. As with POSIX, only a socket with a fixed peer is told, and its next receive goes on. */
static void psi_os_udp_errors(SOCKET fd, int connected)
{
    BOOL reset = connected, off = FALSE;
    DWORD bytes;
    WSAIoctl(fd, IOC_IN | IOC_VENDOR | 12, &reset, sizeof reset, NULL, 0, &bytes, NULL, NULL);
    WSAIoctl(fd, IOC_IN | IOC_VENDOR | 15, &off, sizeof off, NULL, 0, &bytes, NULL, NULL);
}

#ifndef WSA_FLAG_NO_HANDLE_INHERIT
#define WSA_FLAG_NO_HANDLE_INHERIT 0x80
#endif

static SOCKET psi_os_raw_socket(int domain, int type)
{
    SOCKET fd = WSASocketW(domain, type, 0, NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (fd == INVALID_SOCKET && WSAGetLastError() == WSAEINVAL) /* before Windows 7 SP1 */
        fd = WSASocketW(domain, type, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (fd != INVALID_SOCKET && type == SOCK_DGRAM) {
        DWORD off = 0;
        psi_os_udp_errors(fd, 0);
        /* As on Linux, IPv6 sockets reach IPv4 through mapped addresses. psi_os_bind decides for what is bound. */
        if (domain == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, (const char *)&off, sizeof off);
    }
    return fd;
}

static int psi_os_make_ready(SOCKET fd)
{
    BOOL one = TRUE;
    u_long on = 1;
    if (ioctlsocket(fd, (long)FIONBIO, &on)) return -1;
    SetHandleInformation((HANDLE)fd, HANDLE_FLAG_INHERIT, 0); /* accept has no flag for this */
    /* Urgent data stays in the stream (RFC 6093) and does not count as an exception for select. */
    setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, (const char *)&one, sizeof one);
    return 0;
}

/* A refused connection to this machine is tried again for two seconds unless it is told not to: SIO_TCP_INITIAL_RTO,
   Windows 10 1709 and later. */
static int psi_os_raw_connect(SOCKET fd, const struct sockaddr *sa, socklen_t n)
{
    struct { USHORT rtt; UCHAR retries; } at_once = { 0xFFFF, 0xFE }; /* the usual, none */
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)sa;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
    int udp = psi_os_is_udp(fd);
    DWORD bytes;
    if (!udp && (sa->sa_family == AF_INET ? (ntohl(in4->sin_addr.s_addr) >> 24) == 127 : IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr)))
        WSAIoctl(fd, IOC_IN | IOC_VENDOR | 17, &at_once, sizeof at_once, NULL, 0, &bytes, NULL, NULL);
    if (connect(fd, sa, n) == 0) {
        if (udp) psi_os_udp_errors(fd, 1);
        return 0;
    }
    if (WSAGetLastError() == WSAEWOULDBLOCK) WSASetLastError(WSAEINPROGRESS);
    return -1;
}

/* An interface's index reads as the address 0.0.0.index. */
typedef struct ip_mreq psi_os_mreq;
#define PSI_OS_MREQ_IF(m) (m)->imr_interface
static int psi_os_mreq_at(psi_os_mreq *m, unsigned index)
{
    m->imr_interface.s_addr = htonl(index);
    return 0;
}

/* if_nametoindex is in another library, iphlpapi: an interface's index is its name here. */
#define psi_os_raw_nametoindex(name) ((void)(name), 0u)

/* Nobody else may take over a port, as SO_REUSEADDR would let them; only datagrams may be shared. It can be bound again
   once the listener and the connections that it accepted are closed. */
static int psi_os_reuse(SOCKET fd, int stream, int share)
{
    BOOL one = TRUE;
    if (stream && share) {
        WSASetLastError(WSAEOPNOTSUPP);
        return -1;
    }
    return setsockopt(fd, SOL_SOCKET, share ? SO_REUSEADDR : SO_EXCLUSIVEADDRUSE, (const char *)&one, sizeof one) && share ? -1 : 0;
}

/* No port is privileged: WSAEACCES says that another socket has this one for itself, or that it is reserved. */
static int psi_os_raw_bind(SOCKET fd, const struct sockaddr *sa, socklen_t n)
{
    int r = bind(fd, sa, n);
    if (r && WSAGetLastError() == WSAEACCES) WSASetLastError(WSAEADDRINUSE);
    return r;
}

/* What differs is about datagrams. */
static int psi_os_raw_recvfrom(SOCKET fd, char *p, int n, struct sockaddr *sa, socklen_t *size)
{
    int got = recvfrom(fd, p, n, 0, sa, size), e = got < 0 ? WSAGetLastError() : 0;
    if (e == WSAEMSGSIZE) return n; /* the start of a datagram; POSIX cuts without an error */
    if (e == WSAEINVAL && sa) WSASetLastError(WSAEWOULDBLOCK); /* not bound yet */
    /* Where the system would not turn them off; they concern a datagram sent. */
    if ((e == WSAECONNRESET || e == WSAENETRESET) && psi_os_is_udp(fd)) WSASetLastError(sa ? WSAEINTR : WSAECONNREFUSED);
    return got;
}

/* Notes which descriptors are in a set. Winsock keeps the order, so each search begins behind the last find. */
static void psi_os_mark(struct pollfd *p, int n, const SOCKET *set, int events)
{
    int at = 0, tries;
    u_int i, count = *(const u_int *)set;
    for (i = 1; i <= count; i++) {
        for (tries = 0; tries < n && p[at].fd != set[i]; tries++) at = at + 1 < n ? at + 1 : 0;
        if (p[at].fd == set[i]) p[at].revents = (short)(p[at].revents | events);
    }
}

#define PSI_OS_FEW 16 /* sets of so many are on the stack */

/* poll by select. WSAPoll does not report a failed connect before Windows 10 2004, and in every version it reports
   POLLHUP when the peer has merely ended its direction, wanted or not: who waits to send to such a peer would never
   sleep. select has neither fault; a failed connect is in the third set. An fd_set is a u_int count and the sockets,
   aligned as such: with room for any number of them, select takes any number. */
static int psi_os_raw_poll(struct pollfd *p, int n, int ms)
{
    SOCKET few[3 * (PSI_OS_FEW + 1)], *sets = few, *set[3]; /* to read from, to write to, failed */
    u_int count[3] = { 0, 0, 0 };
    struct timeval t;
    int i, r = 0;
    if (n > PSI_OS_FEW) sets = (SOCKET *)PSOCKET_MALLOC((size_t)(n + 1) * 3 * sizeof *sets);
    if (!sets) {
        WSASetLastError(WSAENOBUFS);
        return -1;
    }
    for (i = 0; i < 3; i++) set[i] = sets + i * (n + 1);
    for (i = 0; i < n; i++) {
        p[i].revents = 0;
        if (p[i].events & POLLIN) set[0][++count[0]] = p[i].fd;
        if (p[i].events & POLLOUT) set[1][++count[1]] = set[2][++count[2]] = p[i].fd;
    }
    for (i = 0; i < 3; i++) *(u_int *)set[i] = count[i];
    t.tv_sec = ms / 1000;
    t.tv_usec = ms % 1000 * 1000;
    if (count[0] || count[1]) r = select(0, (fd_set *)set[0], (fd_set *)set[1], (fd_set *)set[2], ms < 0 ? NULL : &t);
    else Sleep(ms < 0 ? INFINITE : (DWORD)ms); /* select insists on at least one */
    if (r > 0) {
        psi_os_mark(p, n, set[0], POLLIN);
        psi_os_mark(p, n, set[1], POLLOUT);
        psi_os_mark(p, n, set[2], POLLERR);
    }
    if (sets != few) PSOCKET_FREE(sets);
    return r;
}

/* The system's text for one of its error numbers, cut to fit buf, which is used if needed. */
static const char *psi_os_text(int e, char *buf, size_t size)
{
    wchar_t w[256];
    int n, put;
    DWORD flags = FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS | FORMAT_MESSAGE_MAX_WIDTH_MASK;
    n = (int)FormatMessageW(flags, NULL, (DWORD)e, 0, w, sizeof w / sizeof *w, NULL);
    while (n > 0 && (w[n - 1] <= ' ' || w[n - 1] == '.')) n--;
    for (; n > 0 && size > 1; n--) {
        put = WideCharToMultiByte(CP_UTF8, 0, w, n, buf, (int)size - 1, NULL, NULL);
        if (put <= 0) continue;
        buf[put] = 0;
        return buf;
    }
    return "unknown error";
}

/* There is no WSACleanup: it would have to wait for every socket of the process. */
static int psi_os_start(void)
{
    static volatile int started = 0;
    WSADATA data;
    if (!started) started = WSAStartup(MAKEWORD(2, 2), &data) == 0; /* by two threads at once: no harm is done */
    return started ? 0 : PSOCKET_OS;
}

static PSI_UNUSED long psi_os_process(void)
{
    return 0; /* processes do not fork here */
}

static PSI_UNUSED int64_t psi_os_clock(void)
{
    LARGE_INTEGER t, hz; /* GetTickCount64 moves in steps of 16 ms */
    QueryPerformanceFrequency(&hz);
    QueryPerformanceCounter(&t);
    return t.QuadPart / hz.QuadPart * 1000 + t.QuadPart % hz.QuadPart * 1000 / hz.QuadPart;
}

static PSI_UNUSED int64_t psi_os_calendar(void)
{
    FILETIME t; /* 100 ns since 1601. Not time(): its result has 32 bits in 32-bit MinGW. */
    GetSystemTimeAsFileTime(&t);
    return (int64_t)(((uint64_t)t.dwHighDateTime << 32 | t.dwLowDateTime) / 10000000) - 11644473600;
}

#ifdef PSOCKET_NO_TLS /* only TLS wants any; so a build without it links with ws2_32 alone */
static PSI_UNUSED int psi_os_random(void *p, size_t n)
{
    (void)p;
    (void)n;
    return -1;
}
#else
static PSI_UNUSED int psi_os_random(void *p, size_t n)
{
    unsigned char *b = (unsigned char *)p;
    while (n > 0) {
        ULONG part = n < 65536 ? (ULONG)n : 65536;
        if (BCryptGenRandom(NULL, b, part, BCRYPT_USE_SYSTEM_PREFERRED_RNG) != 0) return -1;
        b += part;
        n -= part;
    }
    return 0;
}
#endif

/*--- Windows: threads */

#ifndef PSOCKET_NO_THREADS
typedef SRWLOCK psi_os_mutex;
#define PSI_OS_MUTEX_INIT SRWLOCK_INIT
static PSI_UNUSED void psi_os_lock(psi_os_mutex *m) { AcquireSRWLockExclusive(m); }
static PSI_UNUSED void psi_os_unlock(psi_os_mutex *m) { ReleaseSRWLockExclusive(m); }
static PSI_UNUSED void psi_os_mutex_free(psi_os_mutex *m) { (void)m; }

#ifndef PSOCKET_NO_DNS
#define PSI_OS_THREADS
#define PSI_OS_THREAD(name, arg) static unsigned __stdcall name(void *arg) /* ends with return 0 */

/* Keeps the DLL that this code is in loaded: a thread may outlive FreeLibrary. */
static void psi_os_pin(void)
{
    static const char anchor = 0;
    HMODULE module;
    GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                       (LPCWSTR)(const void *)&anchor, &module);
}

/* Runs run(arg), a PSI_OS_THREAD, on a new thread that nobody joins. */
static int psi_os_thread(unsigned(__stdcall *run)(void *), void *arg, int *os)
{
    uintptr_t thread;
    psi_os_pin();
    thread = _beginthreadex(NULL, 0, run, arg, 0, NULL); /* not CreateThread: run uses the C library */
    *os = thread ? 0 : (int)GetLastError();
    if (thread) CloseHandle((HANDLE)thread);
    return thread ? 0 : PSOCKET_OS;
}
#endif
#endif

/*--- Windows: files. Paths are UTF-8. */

#if !defined(PSOCKET_NO_FILES) && !defined(PSOCKET_NO_TLS)
#define PSI_OS_FILES
#define PSI_OS_PATH 1024
#define PSI_OS_LIST ';'

/* 0 if s is not UTF-8 or does not fit. */
static int psi_os_wide(const char *s, wchar_t w[PSI_OS_PATH])
{
    int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, s, -1, w, PSI_OS_PATH);
    if (!n) SetLastError(ERROR_INVALID_NAME);
    return n;
}

static intptr_t psi_os_file_open(const char *path)
{
    wchar_t w[PSI_OS_PATH];
    if (!psi_os_wide(path, w)) return -1;
    return (intptr_t)CreateFileW(w, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                                 FILE_ATTRIBUTE_NORMAL, NULL); /* INVALID_HANDLE_VALUE is -1 */
}

static ptrdiff_t psi_os_file_read(intptr_t file, void *p, size_t n)
{
    DWORD got = 0;
    return ReadFile((HANDLE)file, p, (DWORD)n, &got, NULL) ? (ptrdiff_t)got : -1;
}

static void psi_os_file_close(intptr_t file)
{
    CloseHandle((HANDLE)file);
}

/* Calls each for every file of a folder until it answers other than 0; the folder cannot be read: PSOCKET_FILE. */
static int psi_os_files(const char *path, int (*each)(void *ctx, const char *file), void *ctx)
{
    wchar_t w[PSI_OS_PATH];
    char full[PSI_OS_PATH], name[sizeof(((WIN32_FIND_DATAW *)0)->cFileName) / sizeof(wchar_t) * 3];
    WIN32_FIND_DATAW entry;
    HANDLE find;
    int result = 0, n = snprintf(full, sizeof full, "%s/*", path);
    if (n < 0 || (size_t)n >= sizeof full) {
        SetLastError(ERROR_FILENAME_EXCED_RANGE);
        return PSOCKET_FILE;
    }
    if (!psi_os_wide(full, w)) return PSOCKET_FILE;
    find = FindFirstFileW(w, &entry);
    if (find == INVALID_HANDLE_VALUE) return PSOCKET_FILE;
    do {
        if (entry.dwFileAttributes & (FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_DEVICE)) continue;
        if (!WideCharToMultiByte(CP_UTF8, 0, entry.cFileName, -1, name, sizeof name, NULL, NULL)) continue;
        n = snprintf(full, sizeof full, "%s/%s", path, name);
        if (n >= 0 && (size_t)n < sizeof full) result = each(ctx, full);
    } while (!result && FindNextFileW(find, &entry));
    FindClose(find);
    return result;
}

/* An environment variable as UTF-8, NULL if it is not set. One that is too long reads as a file that does not exist. */
static const char *psi_os_getenv(const char *name, char buf[PSI_OS_PATH])
{
    wchar_t w[PSI_OS_PATH], wide_name[PSI_OS_PATH];
    DWORD n = psi_os_wide(name, wide_name) ? GetEnvironmentVariableW(wide_name, w, PSI_OS_PATH) : 0;
    if (!n) return NULL;
    if (n >= PSI_OS_PATH || !WideCharToMultiByte(CP_UTF8, 0, w, -1, buf, PSI_OS_PATH, NULL, NULL)) return "?";
    return buf;
}
#endif

#else
/*--- POSIX ----------------------------------------------------------------------------------------------------------*/

#if defined(__GLIBC__) && !defined(__USE_XOPEN2K)
#error "psocket: include psocket.h with PSOCKET_IMPLEMENTATION before any system header, or compile with -D_GNU_SOURCE"
#endif

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifndef PSOCKET_NO_FILES
#include <dirent.h>
#endif
#ifndef PSOCKET_NO_THREADS
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#define PSI_OS_EPOLL
#elif defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)
#include <sys/event.h>
#define PSI_OS_KQUEUE
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: SO_NOSIGPIPE is set on the socket instead */
#endif

/* glibc on 32 bits: the plain ones fail on inode numbers and sizes that do not fit. */
#if defined(__USE_LARGEFILE64) && !defined(__LP64__)
#define PSI_OS_64(name) name##64
#else
#define PSI_OS_64(name) name
#endif

#define PSI_SYS(name) name
#define PSI_E(name) name
#define PSI_OS_ERRNO errno
#define PSI_OS_CODES { ENOENT, PSOCKET_REFUSED }, /* Unix-domain: nobody listens on this path */ \
                     { EPIPE, PSOCKET_CLOSED }, { EPROTO, PSOCKET_RESET }, { EPERM, PSOCKET_ACCESS }, \
                     { ENOMEM, PSOCKET_NOMEM }, { ENFILE, PSOCKET_DESCRIPTORS },
#define PSI_OS_IP4 1
#define PSI_OS_IP6 1
#define PSI_OS_UNIX 1
#define PSI_OS_SEND_MAX INT_MAX
#define PSI_OS_SEND_FLAGS MSG_NOSIGNAL
#define PSI_OS_SEND_DROPS_INPUT 0
#define PSI_OS_SHUT SHUT_WR
#define PSI_OS_RESOLVE_ERRNO(e) ((e) == EAI_SYSTEM ? errno : 0)
typedef int psi_os_int;
typedef size_t psi_os_len;
typedef unsigned char psi_os_octet;

#define psi_os_raw_close(fd) close(fd) /* EINTR leaves the descriptor closed on Linux: never retry */
#define psi_os_raw_connect(fd, sa, n) connect(fd, sa, n)
#define psi_os_raw_bind(fd, sa, n) bind(fd, sa, n)
#define psi_os_raw_recvfrom(fd, p, n, sa, size) recvfrom(fd, p, n, 0, sa, size)
#define psi_os_raw_poll(p, n, ms) poll(p, (nfds_t)(n), ms)
#define psi_os_raw_nametoindex(name) if_nametoindex(name)
#define psi_os_connect_errno(e) (e)

#ifdef __NetBSD__
typedef struct ip_mreq psi_os_mreq;
#define PSI_OS_MREQ_IF(m) (m)->imr_interface
static int psi_os_mreq_at(psi_os_mreq *m, unsigned index)
{
    (void)m;
    (void)index;
    errno = EOPNOTSUPP;
    return -1;
}
#else
typedef struct ip_mreqn psi_os_mreq;
#define PSI_OS_MREQ_IF(m) *(m)
static int psi_os_mreq_at(psi_os_mreq *m, unsigned index)
{
    m->imr_ifindex = (int)index;
    return 0;
}
#endif

#ifdef SOCK_NONBLOCK
#if defined(__linux__) && defined(__GLIBC__) && !defined(__USE_GNU)
extern int accept4(int, struct sockaddr *, socklen_t *, int); /* hidden when system headers came before this file */
#endif
#define psi_os_raw_socket(domain, type) socket(domain, (type) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
#define psi_os_raw_pair(fds) socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds)
#define psi_os_raw_accept(fd, sa, n) accept4(fd, sa, n, SOCK_NONBLOCK | SOCK_CLOEXEC)
#define psi_os_fresh(fd) 0
#else
#define psi_os_raw_socket(domain, type) socket(domain, type, 0)
#define psi_os_raw_pair(fds) socketpair(AF_UNIX, SOCK_STREAM, 0, fds)
#define psi_os_raw_accept(fd, sa, n) accept(fd, sa, n)
#define psi_os_fresh(fd) psi_os_make_ready(fd)
#endif

static int psi_os_make_ready(int fd)
{
#ifdef SO_NOSIGPIPE
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof one);
#endif
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC) ? -1 : 0;
}

/* Listeners come back while old connections linger. Datagrams that share a port need both. */
static int psi_os_reuse(int fd, int stream, int share)
{
    int one = 1;
    if (stream || share) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
#ifdef SO_REUSEPORT
    return share ? setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) : 0;
#else
    errno = EOPNOTSUPP;
    return stream && share ? -1 : 0;
#endif
}

/* The system's text for one of its error numbers. strerror_r comes in two shapes: glibc's with _GNU_SOURCE answers the text, everybody else's a status. */
#if defined(__GLIBC__) && defined(__USE_GNU)
static const char *psi_os_text(int e, char *buf, size_t size)
{
    return strerror_r(e, buf, size);
}
#else
static const char *psi_os_text(int e, char *buf, size_t size)
{
    return strerror_r(e, buf, size) == 0 ? buf : "unknown error";
}
#endif

static int psi_os_start(void)
{
    return 0;
}

/* Tells a process from one forked from it. */
static PSI_UNUSED long psi_os_process(void)
{
    return (long)getpid();
}

static PSI_UNUSED int64_t psi_os_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static PSI_UNUSED int64_t psi_os_calendar(void)
{
    return (int64_t)time(NULL);
}

#if defined(__linux__)
static PSI_UNUSED int psi_os_random(void *p, size_t n)
{
    unsigned char *b = (unsigned char *)p;
    while (n > 0) {
        ssize_t got = getrandom(b, n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return -1;
        b += got;
        n -= (size_t)got;
    }
    return 0;
}
#else
static PSI_UNUSED int psi_os_random(void *p, size_t n)
{
    arc4random_buf(p, n);
    return 0;
}
#endif

/*--- POSIX: threads */

#ifndef PSOCKET_NO_THREADS
typedef pthread_mutex_t psi_os_mutex;
#define PSI_OS_MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
static PSI_UNUSED void psi_os_lock(psi_os_mutex *m) { pthread_mutex_lock(m); }
static PSI_UNUSED void psi_os_unlock(psi_os_mutex *m) { pthread_mutex_unlock(m); }
static PSI_UNUSED void psi_os_mutex_free(psi_os_mutex *m) { pthread_mutex_destroy(m); }

#ifndef PSOCKET_NO_DNS
#define PSI_OS_THREADS
#define PSI_OS_THREAD(name, arg) static void *name(void *arg) /* ends with return 0 */

/* Keeps the shared library that this code is in loaded: a thread may outlive dlclose. In a static program, and where
   both are in a libdl that is not linked, there is none. */
#if defined(RTLD_NODELETE) && (defined(__USE_GNU) || !defined(__GLIBC__))
#if defined(__GLIBC__) && defined(__GNUC__)
#pragma weak dladdr
#pragma weak dlopen
#define PSI_OS_HAS_DL (dladdr && dlopen)
#else
#define PSI_OS_HAS_DL 1
#endif
static void psi_os_pin(void)
{
    static const char anchor = 0;
    Dl_info info;
    if (PSI_OS_HAS_DL && dladdr((const void *)&anchor, &info) && info.dli_fname) dlopen(info.dli_fname, RTLD_NOW | RTLD_NODELETE);
}
#else
static void psi_os_pin(void) {}
#endif

/* Runs run(arg), a PSI_OS_THREAD, on a new thread that nobody joins. Signals stay with the application's threads. */
static int psi_os_thread(void *(*run)(void *), void *arg, int *os)
{
    pthread_t thread;
    sigset_t all, before;
    psi_os_pin();
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    *os = pthread_create(&thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (*os == 0) pthread_detach(thread);
    return *os ? PSOCKET_OS : 0;
}
#endif
#endif

/*--- POSIX: files */

#if !defined(PSOCKET_NO_FILES) && !defined(PSOCKET_NO_TLS)
#define PSI_OS_FILES
#define PSI_OS_PATH 1024
#define PSI_OS_LIST ':'

static intptr_t psi_os_file_open(const char *path)
{
    return PSI_OS_64(open)(path, O_RDONLY | O_CLOEXEC);
}

static ptrdiff_t psi_os_file_read(intptr_t file, void *p, size_t n)
{
    ssize_t got;
    do got = read((int)file, p, n);
    while (got < 0 && errno == EINTR);
    return got;
}

static void psi_os_file_close(intptr_t file)
{
    close((int)file);
}

/* Calls each for every file of a folder until it answers other than 0; the folder cannot be read: PSOCKET_FILE. */
static int psi_os_files(const char *path, int (*each)(void *ctx, const char *file), void *ctx)
{
    char full[PSI_OS_PATH];
    int result = 0;
    struct PSI_OS_64(dirent) *entry;
    DIR *dir = opendir(path);
    if (!dir) return PSOCKET_FILE;
    for (;;) {
        struct PSI_OS_64(stat) st;
        int n;
        errno = 0;
        entry = PSI_OS_64(readdir)(dir);
        if (!entry) break;
        n = snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        if (n < 0 || (size_t)n >= sizeof full || PSI_OS_64(stat)(full, &st) || !S_ISREG(st.st_mode)) continue;
        if ((result = each(ctx, full)) != 0) break;
    }
    if (!entry && errno) result = PSOCKET_FILE;
    closedir(dir);
    return result;
}

/* An environment variable, NULL if it is not set, or if whoever started this program has fewer rights than it: setuid,
   setgid, file capabilities. */
static const char *psi_os_getenv(const char *name, char buf[PSI_OS_PATH])
{
#if defined(__linux__)
    int raised = getauxval(AT_SECURE) != 0;
#elif defined(PSI_OS_KQUEUE)
    int raised = issetugid();
#else
    int raised = getuid() != geteuid() || getgid() != getegid();
#endif
    const char *value = raised ? NULL : getenv(name);
    (void)buf;
    return value && *value ? value : NULL;
}
#endif

#endif /* blocks of hooks */

/*--- one body for all: time, randomness */

#ifdef PSOCKET_NOW
static int64_t psi_os_now(void) { return PSOCKET_NOW(); }
#else
static int64_t psi_os_now(void) { return psi_os_clock(); }
#endif

#ifdef PSOCKET_WALLCLOCK
static PSI_UNUSED int64_t psi_os_wallclock(void) { return PSOCKET_WALLCLOCK(); }
#else
static PSI_UNUSED int64_t psi_os_wallclock(void) { return psi_os_calendar(); }
#endif

#ifdef PSOCKET_ENTROPY
static PSI_UNUSED int psi_os_entropy(void *p, size_t n) { return PSOCKET_ENTROPY(p, n) == 0 ? 0 : PSOCKET_NO_ENTROPY; }
#else
static PSI_UNUSED int psi_os_entropy(void *p, size_t n) { return psi_os_random(p, n) == 0 ? 0 : PSOCKET_NO_ENTROPY; }
#endif

/*--- errors */

/* What a failed call means. */
static int psi_os_code(int e)
{
    static const struct { short e, code; } table[] = {
        { PSI_E(ECONNREFUSED), PSOCKET_REFUSED },
        { PSI_E(ECONNRESET), PSOCKET_RESET },
        { PSI_E(ECONNABORTED), PSOCKET_RESET },
        { PSI_E(ENOTCONN), PSOCKET_RESET },
        { PSI_E(ENETUNREACH), PSOCKET_UNREACHABLE },
        { PSI_E(EHOSTUNREACH), PSOCKET_UNREACHABLE },
        { PSI_E(ENETDOWN), PSOCKET_UNREACHABLE },
        { PSI_E(EHOSTDOWN), PSOCKET_UNREACHABLE },
        { PSI_E(ETIMEDOUT), PSOCKET_UNREACHABLE }, /* the system gave up retransmitting */
        { PSI_E(EADDRINUSE), PSOCKET_ADDRESS_IN_USE },
        { PSI_E(EADDRNOTAVAIL), PSOCKET_ADDRESS_NOT_AVAILABLE },
        { PSI_E(EAFNOSUPPORT), PSOCKET_ADDRESS_NOT_AVAILABLE },
        { PSI_E(EACCES), PSOCKET_ACCESS },
        { PSI_E(EMFILE), PSOCKET_DESCRIPTORS },
        { PSI_E(EMSGSIZE), PSOCKET_MESSAGE_SIZE },
        { PSI_E(ENOBUFS), PSOCKET_NOMEM },
        { PSI_E(EINVAL), PSOCKET_INVALID },
        { PSI_E(EOPNOTSUPP), PSOCKET_UNSUPPORTED },
        { PSI_E(ENOPROTOOPT), PSOCKET_UNSUPPORTED },
        PSI_OS_CODES
    };
    size_t i;
    for (i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].e == e) return table[i].code;
    return PSOCKET_OS;
}

/* Why the last call failed. */
static int psi_os_why(int *os)
{
    *os = PSI_OS_ERRNO;
    return psi_os_code(*os);
}

/* The same of a transfer: `want` if it would have to wait, 0 if a signal came between. */
static int psi_os_failed(int want, int *os)
{
    int code = psi_os_why(os);
    return *os == PSI_E(EWOULDBLOCK) ? want : *os == PSI_E(EINTR) ? 0 : code;
}

#ifdef PSOCKET_LWIP
/* lwIP may have error numbers of its own, of which the C library's strerror knows nothing. */
static const char *psi_os_text(int e, char *buf, size_t size)
{
    int code = psi_os_code(e);
    if (code != PSOCKET_OS) return psocket_strerror(code);
    snprintf(buf, size, "lwIP errno %d", e);
    return buf;
}
#endif

/* Fills *e (may be NULL) as psi_err does, with the system's number (0: none) and, behind the sentence (may be empty), what
   the system calls it, or else the code's own text. */
PSI_PRINTF(4, 5)
static int psi_err_os(psocket_error *e, int code, int os, const char *format, ...)
{
    char what[400], why[128];
    va_list ap;
    va_start(ap, format);
    vsnprintf(what, sizeof what, format, ap);
    va_end(ap);
    psi_err(e, code, "%s%s%s", what, *what ? ": " : "", os ? psi_os_text(os, why, sizeof why) : psocket_strerror(code));
    if (e) e->os_error = os;
    return code;
}

/*--- threads */

#ifdef PSOCKET_NO_THREADS
typedef int psi_os_mutex;
#define PSI_OS_MUTEX_INIT 0
static PSI_UNUSED void psi_os_lock(psi_os_mutex *m) { (void)m; }
static PSI_UNUSED void psi_os_unlock(psi_os_mutex *m) { (void)m; }
static PSI_UNUSED void psi_os_mutex_free(psi_os_mutex *m) { (void)m; }
#endif

static PSI_UNUSED void psi_os_mutex_init(psi_os_mutex *m)
{
    static const psi_os_mutex fresh = PSI_OS_MUTEX_INIT;
    memcpy((void *)(uintptr_t)m, (const void *)(uintptr_t)&fresh, sizeof fresh); /* volatile on lwIP */
}

/* Adds to a count of owners; the new value. */
static PSI_UNUSED int psi_os_ref(int *p, int by)
{
    static psi_os_mutex lock = PSI_OS_MUTEX_INIT;
    int value;
    psi_os_lock(&lock);
    value = *p += by;
    psi_os_unlock(&lock);
    return value;
}

/*--- files */

#ifdef PSI_OS_FILES

#define PSI_OS_FILE_MAX ((size_t)16 << 20)

/* Reads a whole file and puts a NUL behind it. *data is the caller's, NULL on error. */
static int psi_os_readfile(const char *path, char **data, size_t *len, int *os)
{
    size_t cap, n = 0;
    ptrdiff_t got = 0;
    char *buf = NULL, *bigger;
    int r = 0;
    intptr_t file = psi_os_file_open(path);
    *data = NULL;
    *len = 0;
    *os = 0;
    if (file == -1) {
        r = psi_os_why(os);
        return r == PSOCKET_DESCRIPTORS || r == PSOCKET_NOMEM ? r : PSOCKET_FILE;
    }
    for (cap = 16384;; cap *= 2) {
        bigger = cap > PSI_OS_FILE_MAX ? NULL : (char *)psi_realloc(buf, n, cap);
        if (!bigger) r = cap > PSI_OS_FILE_MAX ? PSOCKET_LIMIT : PSOCKET_NOMEM;
        if (r) break;
        buf = bigger;
        while (n + 1 < cap && (got = psi_os_file_read(file, buf + n, cap - n - 1)) > 0) n += (size_t)got;
        if (got <= 0) break;
    }
    if (got < 0) {
        psi_os_why(os);
        r = PSOCKET_FILE;
    }
    psi_os_file_close(file);
    if (r) {
        psi_free(buf);
        return r;
    }
    buf[n] = 0;
    *data = buf;
    *len = n;
    return 0;
}

/* Files that are handed over one after the other, until each answers other than 0. */
typedef struct psi_os_walk {
    int (*each)(void *ctx, const void *data, size_t len);
    void *ctx;
    int found; /* how many there were */
    int os;    /* why the last one that could not be read was passed over */
} psi_os_walk;

/* Passes over what cannot be read, but not for a lack of descriptors or memory. */
static int psi_os_walk_file(void *ctx, const char *path)
{
    psi_os_walk *w = (psi_os_walk *)ctx;
    char *data;
    size_t len;
    int os, r = psi_os_readfile(path, &data, &len, &os);
    if (os) w->os = os;
    if (r) return r == PSOCKET_FILE || r == PSOCKET_LIMIT ? 0 : r;
    w->found++;
    r = w->each(w->ctx, data, len);
    psi_free(data);
    return r;
}

static int psi_os_walk_folder(psi_os_walk *w, const char *path)
{
    int r = psi_os_files(path, psi_os_walk_file, w);
    if (r == PSOCKET_FILE) w->os = PSI_OS_ERRNO;
    return r;
}

/* Hands each the contents of every file of a folder. PSOCKET_FILE if the folder cannot be read. */
static int psi_os_readdir(const char *path, int (*each)(void *ctx, const void *data, size_t len), void *ctx, int *os)
{
    psi_os_walk w = PSI_ZERO;
    int r;
    w.each = each;
    w.ctx = ctx;
    r = psi_os_walk_folder(&w, path);
    *os = r == PSOCKET_FILE ? w.os : 0;
    return r;
}

/*--- the system's trust store */

#ifdef _WIN32
/* Whether the store's own settings let a root vouch for TLS servers: some are there for signed code or mail only. */
static int psi_os_trusted_for_tls(const CERT_CONTEXT *cert)
{
    DWORD i, size = 0;
    int ok = 0;
    CERT_ENHKEY_USAGE *usage;
    if (!CertGetEnhancedKeyUsage(cert, CERT_FIND_PROP_ONLY_ENHKEY_USAGE_FLAG, NULL, &size))
        return GetLastError() == (DWORD)CRYPT_E_NOT_FOUND; /* no restriction */
    usage = (CERT_ENHKEY_USAGE *)PSOCKET_MALLOC(size);
    if (!usage) return PSOCKET_NOMEM;
    SetLastError(0);
    if (CertGetEnhancedKeyUsage(cert, CERT_FIND_PROP_ONLY_ENHKEY_USAGE_FLAG, usage, &size)) {
        ok = !usage->cUsageIdentifier && GetLastError() == (DWORD)CRYPT_E_NOT_FOUND;
        for (i = 0; i < usage->cUsageIdentifier; i++)
            if (!strcmp(usage->rgpszUsageIdentifier[i], szOID_PKIX_KP_SERVER_AUTH)) ok = 1;
    }
    PSOCKET_FREE(usage);
    return ok;
}

/* Windows' own store. Windows adds a root to it when one of its own programs first meets it: a public root that none has
   met on this machine is not there. */
static int psi_os_trust_store(psi_os_walk *w)
{
    const CERT_CONTEXT *cert = NULL, *bad;
    HCERTSTORE distrusted, roots = CertOpenSystemStoreW(0, L"ROOT");
    int r = 0;
    if (!roots) return 0;
    distrusted = CertOpenSystemStoreW(0, L"Disallowed");
    while (!r && (cert = CertEnumCertificatesInStore(roots, cert)) != NULL) {
        bad = NULL;
        if (distrusted)
            bad = CertFindCertificateInStore(distrusted, X509_ASN_ENCODING, 0, CERT_FIND_EXISTING, cert, NULL);
        if (bad) CertFreeCertificateContext(bad);
        if (bad || !(cert->dwCertEncodingType & X509_ASN_ENCODING)) continue;
        r = psi_os_trusted_for_tls(cert);
        if (r <= 0) continue;
        w->found++;
        r = w->each(w->ctx, cert->pbCertEncoded, cert->cbCertEncoded);
    }
    if (cert) CertFreeCertificateContext(cert);
    if (distrusted) CertCloseStore(distrusted, 0);
    CertCloseStore(roots, 0);
    return r;
}
#else
/* The first bundle that exists. */
static int psi_os_trust_store(psi_os_walk *w)
{
    static const char *const bundles[] = {
        "/etc/ssl/certs/ca-certificates.crt",                /* Debian, Alpine, Arch */
        "/etc/pki/tls/certs/ca-bundle.crt",                  /* Fedora, RHEL */
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* RHEL 7 and later */
        "/etc/ssl/ca-bundle.pem",                            /* openSUSE */
        "/etc/ssl/cert.pem",                                 /* macOS, OpenBSD, FreeBSD */
        "/usr/local/share/certs/ca-root-nss.crt",            /* FreeBSD ports */
        "/etc/openssl/certs/ca-certificates.crt",            /* NetBSD */
        "/data/data/com.termux/files/usr/etc/tls/cert.pem"   /* Termux */
    };
    int r = 0;
    size_t i;
    for (i = 0; !r && !w->found && i < sizeof bundles / sizeof *bundles; i++) r = psi_os_walk_file(w, bundles[i]);
    if (!r && !w->found) r = psi_os_walk_folder(w, "/system/etc/security/cacerts"); /* Android */
    return r == PSOCKET_FILE ? 0 : r;
}
#endif

/* Every folder of a list. */
static int psi_os_walk_list(psi_os_walk *w, const char *list)
{
    int r = 0;
    while (*list && (!r || r == PSOCKET_FILE)) {
        char path[PSI_OS_PATH];
        size_t n = 0;
        while (list[n] && list[n] != PSI_OS_LIST) n++;
        if (n && n < sizeof path) {
            memcpy(path, list, n);
            path[n] = 0;
            r = psi_os_walk_folder(w, path);
        }
        list += n + (list[n] != 0);
    }
    return r == PSOCKET_FILE ? 0 : r;
}

/* Hands each the contents of every file, or every DER certificate, of the system's trust store: SSL_CERT_FILE and
   SSL_CERT_DIR (a list) if set, as with OpenSSL, else where the system has it. A variable that is set and brings nothing is
   an error. PSOCKET_TLS_NO_TRUST, with the reason in *e (may be NULL), if there is none. What each answers is passed on. */
static int psi_os_systrust(int (*each)(void *ctx, const void *data, size_t len), void *ctx, psocket_error *e)
{
    char buf[PSI_OS_PATH];
    psi_os_walk w = PSI_ZERO;
    const char *file, *list;
    int r = 0, before;
    w.each = each;
    w.ctx = ctx;
    file = psi_os_getenv("SSL_CERT_FILE", buf);
    if (file && (r = psi_os_walk_file(&w, file)) != 0) return r;
    if (file && !w.found) return psi_err_os(e, PSOCKET_TLS_NO_TRUST, w.os, "SSL_CERT_FILE=%.200s brings no trust anchors", file);
    before = w.found;
    list = psi_os_getenv("SSL_CERT_DIR", buf);
    if (list && (r = psi_os_walk_list(&w, list)) != 0) return r;
    if (list && w.found == before) return psi_err_os(e, PSOCKET_TLS_NO_TRUST, w.os, "SSL_CERT_DIR=%.200s brings no trust anchors", list);
    if (file || list) return 0;
    r = psi_os_trust_store(&w);
    return r || w.found ? r : psi_err(e, PSOCKET_TLS_NO_TRUST, NULL);
}

#elif !defined(PSOCKET_NO_TLS)

static int psi_os_readfile(const char *path, char **data, size_t *len, int *os)
{
    (void)path;
    *data = NULL;
    *len = 0;
    *os = 0;
    return PSOCKET_UNSUPPORTED;
}

static int psi_os_readdir(const char *path, int (*each)(void *ctx, const void *data, size_t len), void *ctx, int *os)
{
    (void)path;
    (void)each;
    (void)ctx;
    *os = 0;
    return PSOCKET_UNSUPPORTED;
}

static int psi_os_systrust(int (*each)(void *ctx, const void *data, size_t len), void *ctx, psocket_error *e)
{
    (void)each;
    (void)ctx;
    return psi_err(e, PSOCKET_TLS_NO_TRUST, NULL);
}

#endif

/*--- addresses */

typedef union psi_os_sockaddr {
    struct sockaddr sa;
#if PSI_OS_IP4
    struct sockaddr_in in4;
#endif
#if PSI_OS_IP6
    struct sockaddr_in6 in6;
#endif
#if PSI_OS_UNIX
    struct sockaddr_un un;
#endif
} psi_os_sockaddr;

#if PSI_OS_UNIX
/* A path, or after "@" a name that is no file (Linux). All bytes may be used: none must be NUL. */
static int psi_os_to_sun(psi_os_sockaddr *sa, const char *path)
{
    size_t n = path ? strlen(path) : 0;
    if (!n || n > sizeof sa->un.sun_path || !strcmp(path, "@")) return PSOCKET_INVALID;
    sa->un.sun_family = AF_UNIX;
    memcpy(sa->un.sun_path, path, n);
    if (*path != '@') return (int)sizeof sa->un;
#ifdef __linux__
    sa->un.sun_path[0] = 0;
    return (int)(offsetof(struct sockaddr_un, sun_path) + n);
#else
    return PSOCKET_UNSUPPORTED;
#endif
}

/* The path in n bytes of an address, "" if it has none. */
static void psi_os_from_sun(const psi_os_sockaddr *sa, size_t n, char *path, size_t path_size)
{
    size_t head = offsetof(struct sockaddr_un, sun_path), most = n < sizeof sa->un ? n : sizeof sa->un;
    const char *s = sa->un.sun_path;
    most = sa->sa.sa_family == AF_UNIX && most > head ? most - head : 0;
    if (most > 1 && !*s) snprintf(path, path_size, "@%.*s", (int)most - 1, s + 1);
    else snprintf(path, path_size, "%.*s", (int)most, s);
}
#else
static int psi_os_to_sun(psi_os_sockaddr *sa, const char *path)
{
    (void)sa;
    (void)path;
    return PSOCKET_UNSUPPORTED;
}

static void psi_os_from_sun(const psi_os_sockaddr *sa, size_t n, char *path, size_t path_size)
{
    (void)sa;
    (void)n;
    if (path_size) *path = 0;
}
#endif

/* How many bytes it is, or why the system has no such address. */
static int psi_os_to_sockaddr(psi_os_sockaddr *sa, const psi_addr *a, const char *path)
{
    memset(sa, 0, sizeof *sa);
#if PSI_OS_IP4
    if (a->family == PSI_IP4) {
        sa->in4.sin_family = AF_INET;
        sa->in4.sin_port = PSI_SYS(htons)(a->port);
        memcpy(&sa->in4.sin_addr, a->ip, 4);
        return (int)sizeof sa->in4;
    }
#endif
#if PSI_OS_IP6
    if (a->family == PSI_IP6) {
        sa->in6.sin6_family = AF_INET6;
        sa->in6.sin6_port = PSI_SYS(htons)(a->port);
        sa->in6.sin6_scope_id = a->scope;
        memcpy(&sa->in6.sin6_addr, a->ip, 16);
        return (int)sizeof sa->in6;
    }
#endif
    return a->family == PSI_UNIX ? psi_os_to_sun(sa, path) : PSOCKET_ADDRESS_NOT_AVAILABLE;
}

static void psi_os_from_sockaddr(psi_addr *a, const psi_os_sockaddr *sa)
{
    memset(a, 0, sizeof *a);
    a->family = PSI_OS_UNIX ? PSI_UNIX : 0;
#if PSI_OS_IP4
    if (sa->sa.sa_family == AF_INET) {
        a->family = PSI_IP4;
        a->port = PSI_SYS(ntohs)(sa->in4.sin_port);
        memcpy(a->ip, &sa->in4.sin_addr, 4);
    }
#endif
#if PSI_OS_IP6
    if (sa->sa.sa_family == AF_INET6) {
        a->family = PSI_IP6;
        a->port = PSI_SYS(ntohs)(sa->in6.sin6_port);
        a->scope = (uint32_t)sa->in6.sin6_scope_id;
        memcpy(a->ip, &sa->in6.sin6_addr, 16);
    }
#endif
}

/* The loopback address. */
static PSI_UNUSED psi_addr psi_os_loopback(void)
{
    psi_addr a = PSI_ZERO;
    a.family = PSI_OS_IP4 ? PSI_IP4 : PSI_IP6;
    if (PSI_OS_IP4) a.ip[0] = 127;
    a.ip[PSI_OS_IP4 ? 3 : 15] = 1;
    return a;
}

static PSI_UNUSED int psi_os_getname(psocket_fd fd, int remote, psi_addr *a, char *path, size_t path_size)
{
    psi_os_sockaddr sa;
    socklen_t n = sizeof sa;
    int os;
    memset(&sa, 0, sizeof sa);
    if (remote ? PSI_SYS(getpeername)((psi_os_int)fd, &sa.sa, &n) : PSI_SYS(getsockname)((psi_os_int)fd, &sa.sa, &n))
        return psi_os_why(&os);
    psi_os_from_sockaddr(a, &sa);
    if (path_size) psi_os_from_sun(&sa, (size_t)n, path, path_size);
    return 0;
}

/*--- sockets */

static void psi_os_close(psocket_fd fd)
{
    if (fd != -1) psi_os_raw_close((psi_os_int)fd);
}

/* Sets an option that is an int: 0, or -1. */
static int psi_os_setint(psocket_fd fd, int level, int name, int value)
{
    return PSI_SYS(setsockopt)((psi_os_int)fd, level, name, (const char *)&value, sizeof value);
}

/* What every new stream or datagram descriptor gets; closes it on failure. */
static int psi_os_setup(psocket_fd *out, psi_os_int fd, int stream, int *os)
{
    int r = psi_os_fresh(fd) ? psi_os_why(os) : 0;
    if (r) psi_os_raw_close(fd);
    else if (stream) psi_os_setint((psocket_fd)fd, IPPROTO_TCP, TCP_NODELAY, 1);
    *out = r ? -1 : (psocket_fd)fd;
    return r;
}

static int psi_os_socket(psocket_fd *out, int family, int udp, int *os)
{
    psi_os_sockaddr sa;
    psi_addr a = PSI_ZERO;
    psi_os_int fd;
    int r;
    *out = -1;
    a.family = (uint8_t)family;
    r = psi_os_to_sockaddr(&sa, &a, "/");
    if (r < 0) return r;
    fd = psi_os_raw_socket(sa.sa.sa_family, udp ? SOCK_DGRAM : SOCK_STREAM);
    if (fd == (psi_os_int)-1) return psi_os_why(os);
    return psi_os_setup(out, fd, !udp && family != PSI_UNIX, os);
}

/* Makes a descriptor that exists already like those made here: *kind tells what it is. INVALID for what is no stream,
   datagram socket or listener. */
static PSI_UNUSED int psi_os_adopt(psocket_fd fd, int *kind, int *os)
{
    int type = 0, listens = 0;
    socklen_t n = sizeof type, m = sizeof listens;
    psi_addr a;
    *os = 0;
    if (PSI_SYS(getsockopt)((psi_os_int)fd, SOL_SOCKET, SO_TYPE, (char *)&type, &n)) {
        int r = psi_os_why(os);
        return r == PSOCKET_OS ? PSOCKET_INVALID : r; /* no socket, or no descriptor at all */
    }
    if (type != SOCK_STREAM && type != SOCK_DGRAM) return PSOCKET_INVALID;
    if (PSI_SYS(getsockopt)((psi_os_int)fd, SOL_SOCKET, SO_ACCEPTCONN, (char *)&listens, &m)) listens = 0;
    *kind = type == SOCK_DGRAM ? PSI_OS_DATAGRAM : listens ? PSI_OS_LISTENER : PSI_OS_STREAM;
    if (psi_os_make_ready((psi_os_int)fd)) return psi_os_why(os);
    if (type == SOCK_STREAM && psi_os_getname(fd, 0, &a, NULL, 0) == 0 && a.family != PSI_UNIX)
        psi_os_setint(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return 0;
}

/* 0, or REFUSED for a TCP connection whose two ends are the same: where nobody listens, a connect can meet itself
   (simultaneous open). */
static int psi_os_connected(psocket_fd fd, int *os)
{
    psi_addr here, there;
    int type = 0;
    socklen_t n = sizeof type;
    if (psi_os_getname(fd, 0, &here, NULL, 0) || psi_os_getname(fd, 1, &there, NULL, 0)) return 0;
    if (!here.port || here.port != there.port || memcmp(here.ip, there.ip, sizeof here.ip)) return 0;
    if (PSI_SYS(getsockopt)((psi_os_int)fd, SOL_SOCKET, SO_TYPE, (char *)&type, &n) || type != SOCK_STREAM) return 0;
    *os = PSI_E(ECONNREFUSED);
    return PSOCKET_REFUSED;
}

/* 0: connected; PSOCKET_WANT_WRITE: under way; PSOCKET_WANT_READ: to be tried again after a while. */
static int psi_os_connect(psocket_fd fd, const psi_addr *a, const char *path, int *os)
{
    psi_os_sockaddr sa;
    int r, n = psi_os_to_sockaddr(&sa, a, path);
    if (n < 0) return n;
    if (psi_os_raw_connect((psi_os_int)fd, &sa.sa, (socklen_t)n) == 0) return psi_os_connected(fd, os);
    r = psi_os_why(os);
    if (*os == PSI_E(EWOULDBLOCK)) return PSOCKET_WANT_READ; /* Linux: the queue of a Unix-domain listener is full */
    /* EINTR: the attempt goes on by itself (POSIX). */
    return *os == PSI_E(EINPROGRESS) || *os == PSI_E(EINTR) ? PSOCKET_WANT_WRITE : r;
}

/* poll: more than 0 if any has revents, 0 also after a signal (then *os is not 0). What is no descriptor has POLLNVAL. */
static int psi_os_wait(struct pollfd *p, int n, int ms, int *os)
{
    int i, bad = 0, r = psi_os_raw_poll(p, n, ms);
    *os = 0;
    if (r >= 0) return r;
    r = psi_os_failed(0, os);
    for (i = 0; r && !PSI_OS_UNIX && i < n; i++) { /* one that is none fails the whole call: its owner must hear of it */
        int type;
        socklen_t size = sizeof type;
        p[i].revents = 0;
        if (!PSI_SYS(getsockopt)(p[i].fd, SOL_SOCKET, SO_TYPE, (char *)&type, &size)) continue;
        p[i].revents = POLLNVAL;
        bad++;
    }
    return bad ? bad : r;
}

static short psi_os_poll_events(int events)
{
    return (short)(((events & PSOCKET_READ) ? POLLIN : 0) | ((events & PSOCKET_WRITE) ? POLLOUT : 0));
}

/* Waits for any of up to PSOCKET_POLLSET_MAX descriptors: 1 if one is ready. A signal may end the wait early with 0; *os is not 0 then. */
static int psi_os_poll(const psocket_pollfd *fds, int n, int ms, int *os)
{
    struct pollfd p[PSOCKET_POLLSET_MAX];
    int i, r;
    for (i = 0; i < n; i++) {
        p[i].fd = (psi_os_int)fds[i].fd;
        p[i].events = psi_os_poll_events(fds[i].events);
        p[i].revents = 0;
    }
    r = psi_os_wait(p, n, ms, os);
    return r > 0 ? 1 : r;
}

/* How an attempt under way has fared, once its descriptor is ready: 0 or an error. */
static int psi_os_connect_result(psocket_fd fd, int *os)
{
    int e = 0, r;
    socklen_t n = sizeof e;
    struct pollfd p;
    p.fd = (psi_os_int)fd;
    p.events = POLLOUT;
    p.revents = 0;
    r = psi_os_wait(&p, 1, 0, os);
    if (r <= 0) return r < 0 ? r : PSOCKET_WANT_WRITE;
    if (PSI_SYS(getsockopt)((psi_os_int)fd, SOL_SOCKET, SO_ERROR, (char *)&e, &n)) e = PSI_OS_ERRNO;
    *os = e = psi_os_connect_errno(e);
    if (e) return psi_os_code(e);
    return p.revents & (POLLERR | POLLNVAL) ? PSOCKET_OS : psi_os_connected(fd, os);
}

/* 0 if the path is gone. */
#if PSI_OS_UNIX
static PSI_UNUSED int psi_os_unlink(const char *path)
{
    struct PSI_OS_64(stat) st;
    int os;
    if (*path == '@') return PSOCKET_ADDRESS_IN_USE; /* no file */
    if (PSI_OS_64(lstat)(path, &st)) return errno == ENOENT ? 0 : psi_os_why(&os);
    if (!S_ISSOCK(st.st_mode)) return PSOCKET_ADDRESS_IN_USE; /* connecting to any other file is refused as well */
    return unlink(path) && errno != ENOENT ? psi_os_why(&os) : 0;
}
#else
static PSI_UNUSED int psi_os_unlink(const char *path)
{
    (void)path;
    return PSOCKET_UNSUPPORTED;
}
#endif

#define PSI_OS_DUAL 1       /* an IPv6 wildcard that takes IPv4 as well */
#define PSI_OS_REUSE_PORT 2 /* others may bind to the same address */

/* Binds. backlog: 0 for datagrams and for the local end of a connection, else the length of a listener's queue, which the
   system cuts to its most. */
static int psi_os_bind(psocket_fd fd, const psi_addr *a, const char *path, int flags, int backlog, int *os)
{
    psi_os_sockaddr sa;
    int r, dual = flags & PSI_OS_DUAL, n = psi_os_to_sockaddr(&sa, a, path);
    if (n < 0) return n;
#if PSI_OS_IP6
    if (a->family == PSI_IP6 && psi_os_setint(fd, IPPROTO_IPV6, IPV6_V6ONLY, !dual) && dual)
        return psi_os_why(os); /* OpenBSD has no dual-stack sockets */
#else
    (void)dual;
#endif
    if (a->family != PSI_UNIX && psi_os_reuse((psi_os_int)fd, backlog != 0, (flags & PSI_OS_REUSE_PORT) != 0)) return psi_os_why(os);
    if (psi_os_raw_bind((psi_os_int)fd, &sa.sa, (socklen_t)n)) return psi_os_why(os);
    if (!backlog || PSI_SYS(listen)((psi_os_int)fd, backlog) == 0) return 0;
    r = psi_os_why(os);
    if (a->family == PSI_UNIX) psi_os_unlink(path); /* bind made it */
    return r;
}

/* PSOCKET_WANT_READ when nobody waits. Connections that died in the queue are skipped, as POSIX allows them to be. */
static int psi_os_accept(psocket_fd listener, psocket_fd *out, psi_addr *peer, int *os)
{
    int tries, r;
    for (tries = 0; tries < 16; tries++) {
        psi_os_sockaddr sa;
        socklen_t n = sizeof sa;
        psi_os_int fd;
        memset(&sa, 0, sizeof sa);
        fd = psi_os_raw_accept((psi_os_int)listener, &sa.sa, &n);
        if (fd != (psi_os_int)-1 && n) {
            psi_os_from_sockaddr(peer, &sa);
            return psi_os_setup(out, fd, peer->family != PSI_UNIX, os);
        }
        if (fd != (psi_os_int)-1) { /* macOS: it died in the queue */
            psi_os_raw_close(fd);
            continue;
        }
        r = psi_os_failed(PSOCKET_WANT_READ, os);
        /* Linux hands over errors that belong to the dead connection (accept(2)). */
        if (r && r != PSOCKET_RESET && r != PSOCKET_UNREACHABLE) return r;
    }
    return PSOCKET_WANT_READ;
}

/* A count that a system call takes. */
static psi_os_len psi_os_clip(size_t n)
{
    return (psi_os_len)(n < PSI_OS_SEND_MAX ? n : PSI_OS_SEND_MAX);
}

/* Bytes received, 0 at the end of a stream, PSOCKET_WANT_READ, or an error. from: NULL if the peer is fixed. */
static ptrdiff_t psi_os_recvfrom(psocket_fd fd, void *p, size_t n, psi_addr *from, int *os)
{
    psi_os_sockaddr sa;
    int tries, r;
    for (tries = 0; tries < 16; tries++) {
        socklen_t size = sizeof sa;
        ptrdiff_t got;
        sa.sa.sa_family = 0;
        got = psi_os_raw_recvfrom((psi_os_int)fd, (char *)p, psi_os_clip(n), from ? &sa.sa : NULL, from ? &size : NULL);
        if (got >= 0 && from) psi_os_from_sockaddr(from, &sa);
        if (got >= 0) return got;
        r = psi_os_failed(PSOCKET_WANT_READ, os);
        if (r) return r;
    }
    return PSOCKET_WANT_READ;
}

static ptrdiff_t psi_os_recv(psocket_fd fd, void *p, size_t n, int *os)
{
    return psi_os_recvfrom(fd, p, n, NULL, os);
}

static ptrdiff_t psi_os_put(psocket_fd fd, const void *p, psi_os_len n, const struct sockaddr *sa, socklen_t size, int *os)
{
    for (;;) {
        ptrdiff_t put = PSI_SYS(sendto)((psi_os_int)fd, (const char *)p, n, PSI_OS_SEND_FLAGS, sa, size);
        if (put >= 0 || (put = psi_os_failed(PSOCKET_WANT_WRITE, os)) < 0) return put;
    }
}

static ptrdiff_t psi_os_send(psocket_fd fd, const void *p, size_t n, int *os)
{
    return psi_os_put(fd, p, psi_os_clip(n), NULL, 0, os);
}

static ptrdiff_t psi_os_sendto(psocket_fd fd, const void *p, size_t n, const psi_addr *to, int *os)
{
    psi_os_sockaddr sa;
    int size = psi_os_to_sockaddr(&sa, to, NULL);
    if (size < 0) return size;
    if (n > 65535) return PSOCKET_MESSAGE_SIZE; /* the length field of UDP */
    return psi_os_put(fd, p, (psi_os_len)n, &sa.sa, (socklen_t)size, os);
}

/* Ends the sending direction. */
static int psi_os_shutdown(psocket_fd fd, int *os)
{
    return PSI_SYS(shutdown)((psi_os_int)fd, PSI_OS_SHUT) ? psi_os_why(os) : 0;
}

/*--- options */

/* A silent peer is probed after so many seconds, and given up after as many again. */
static int psi_os_keepalive(psocket_fd fd, int seconds)
{
    int s = seconds < 32767 ? seconds : 32767; /* Linux takes no more */
#if defined(_WIN32)
    struct { ULONG on, time, interval; } vals; /* SIO_KEEPALIVE_VALS, in milliseconds; ten probes */
    DWORD bytes;
    vals.on = 1;
    vals.time = (ULONG)s * 1000;
    vals.interval = (ULONG)s * 100;
    return WSAIoctl((SOCKET)fd, IOC_IN | IOC_VENDOR | 4, &vals, sizeof vals, NULL, 0, &bytes, NULL, NULL);
#else
    if (psi_os_setint(fd, SOL_SOCKET, SO_KEEPALIVE, 1)) return -1;
#if defined(TCP_KEEPIDLE)
    if (psi_os_setint(fd, IPPROTO_TCP, TCP_KEEPIDLE, s)) return -1;
#elif defined(TCP_KEEPALIVE)
    if (psi_os_setint(fd, IPPROTO_TCP, TCP_KEEPALIVE, s)) return -1; /* macOS */
#endif
#if defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
    if (psi_os_setint(fd, IPPROTO_TCP, TCP_KEEPINTVL, (s + 2) / 3) || psi_os_setint(fd, IPPROTO_TCP, TCP_KEEPCNT, 3)) return -1;
#endif
    return s ? 0 : -1;
#endif
}

/* An interface's index, by its name or its digits; 0 if there is none. */
static PSI_UNUSED uint32_t psi_os_interface(const char *name)
{
    uint32_t n = 0;
    const char *p = name;
    while (*p >= '0' && *p <= '9' && n < 1000000) n = n * 10 + (uint32_t)(*p++ - '0');
    return *p ? (uint32_t)psi_os_raw_nametoindex(name) : n;
}

/* Where multicasts leave, how far they go (0: as the system has it) and whether this machine hears them. 0 or -1. */
#ifdef PSI_OS_MREQ_IF
static int psi_os_multicast4(psocket_fd fd, unsigned index, int ttl, int loop)
{
    psi_os_octet hops = (psi_os_octet)ttl, off = 0;
    psi_os_mreq m;
    memset(&m, 0, sizeof m);
    if (ttl && PSI_SYS(setsockopt)((psi_os_int)fd, IPPROTO_IP, IP_MULTICAST_TTL, (const char *)&hops, sizeof hops)) return -1;
    if (!loop && PSI_SYS(setsockopt)((psi_os_int)fd, IPPROTO_IP, IP_MULTICAST_LOOP, (const char *)&off, sizeof off)) return -1;
    if (!index) return 0;
    return psi_os_mreq_at(&m, index) || PSI_SYS(setsockopt)((psi_os_int)fd, IPPROTO_IP, IP_MULTICAST_IF,
                                                            (const char *)&PSI_OS_MREQ_IF(&m), sizeof PSI_OS_MREQ_IF(&m)) ? -1 : 0;
}
#else
#define psi_os_multicast4(fd, index, ttl, loop) ((void)(fd), errno = EOPNOTSUPP, (index) || (ttl) || !(loop) ? -1 : 0)
#endif

#ifdef IPV6_MULTICAST_HOPS
static int psi_os_multicast6(psocket_fd fd, unsigned index, int ttl, int loop)
{
    if (ttl && psi_os_setint(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, ttl)) return -1;
    if (!loop && psi_os_setint(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0)) return -1;
    return index && psi_os_setint(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)index) ? -1 : 0;
}
#else
#define psi_os_multicast6(fd, index, ttl, loop) ((void)(fd), errno = EOPNOTSUPP, (index) || (ttl) || !(loop) ? -1 : 0)
#endif

/* Gives a fresh descriptor its settings, but those that psi_os_bind and psi_os_join take. */
static PSI_UNUSED int psi_os_set(psocket_fd fd, int family, int udp, const psi_os_settings *set, int *os)
{
    int r;
    if (family == PSI_UNIX) return 0;
    if (!udp) return set->keepalive > 0 && psi_os_keepalive(fd, set->keepalive) ? psi_os_why(os) : 0;
    if (set->ttl < 0 || set->ttl > 255) return PSOCKET_INVALID;
    if (set->broadcast && psi_os_setint(fd, SOL_SOCKET, SO_BROADCAST, 1)) return psi_os_why(os);
    r = psi_os_multicast4(fd, set->interface_index, set->ttl, !set->noloop); /* an IPv6 socket may reach IPv4 groups, too, but need not */
    if (family == PSI_IP6) r = psi_os_multicast6(fd, set->interface_index, set->ttl, !set->noloop);
    return r ? psi_os_why(os) : 0;
}

#ifdef PSI_OS_MREQ_IF
static int psi_os_join4(psocket_fd fd, const psi_addr *group, unsigned index)
{
    psi_os_mreq m;
    memset(&m, 0, sizeof m);
    memcpy(&m.imr_multiaddr, group->ip, 4);
    if (index && psi_os_mreq_at(&m, index)) return -1;
    return PSI_SYS(setsockopt)((psi_os_int)fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, (const char *)&m, sizeof m);
}
#else
#define psi_os_join4(fd, group, index) ((void)(fd), errno = EOPNOTSUPP, -1)
#endif

#ifdef IPV6_JOIN_GROUP
static int psi_os_join6(psocket_fd fd, const psi_addr *group, unsigned index)
{
    struct ipv6_mreq m;
    memset(&m, 0, sizeof m);
    memcpy(&m.ipv6mr_multiaddr, group->ip, 16);
    m.ipv6mr_interface = index;
    return PSI_SYS(setsockopt)((psi_os_int)fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, (const char *)&m, sizeof m);
}
#else
#define psi_os_join6(fd, group, index) ((void)(fd), errno = EOPNOTSUPP, -1)
#endif

/* Joins the group of the settings, if they have one. */
static PSI_UNUSED int psi_os_join(psocket_fd fd, const psi_os_settings *set, int *os)
{
    const psi_addr *group = &set->group;
    int r = 0;
    if (group->family == PSI_IP4) r = psi_os_join4(fd, group, set->interface_index);
    if (group->family == PSI_IP6) r = psi_os_join6(fd, group, set->interface_index ? set->interface_index : group->scope);
    return r ? psi_os_why(os) : 0;
}

/*--- two connected descriptors */

#if PSI_OS_UNIX
static PSI_UNUSED int psi_os_pair(psocket_fd fds[2], int *os)
{
    int two[2], r;
    fds[0] = fds[1] = -1;
    if (psi_os_raw_pair(two)) return psi_os_why(os);
    r = psi_os_setup(&fds[0], two[0], 0, os);
    if (r) psi_os_raw_close(two[1]);
    else if ((r = psi_os_setup(&fds[1], two[1], 0, os)) != 0) psi_os_close(fds[0]);
    return r;
}
#else
/* Over the loopback interface. Somebody else may connect first: only who comes from the other end's address is taken. */
static PSI_UNUSED int psi_os_pair(psocket_fd fds[2], int *os)
{
    psi_addr a = psi_os_loopback(), here, peer;
    psocket_pollfd wait;
    int r, tries;
    fds[0] = fds[1] = wait.fd = -1;
    wait.events = PSOCKET_READ;
    r = psi_os_socket(&wait.fd, a.family, 0, os);
    if (!r) r = psi_os_bind(wait.fd, &a, NULL, 0, 1, os);
    if (!r) r = psi_os_getname(wait.fd, 0, &a, NULL, 0);
    if (!r) r = psi_os_socket(&fds[0], a.family, 0, os);
    if (!r) r = psi_os_connect(fds[0], &a, NULL, os);
    if (r == PSOCKET_WANT_WRITE) r = 0;
    if (!r) r = psi_os_getname(fds[0], 0, &here, NULL, 0);
    for (tries = 0; !r && fds[1] == -1 && tries < 16; tries++) {
        if (psi_os_poll(&wait, 1, 1000, os) == 0) r = PSOCKET_TIMEOUT;
        else r = psi_os_accept(wait.fd, &fds[1], &peer, os);
        if (r == PSOCKET_WANT_READ) r = 0;
        else if (!r && (peer.port != here.port || memcmp(peer.ip, here.ip, sizeof here.ip))) {
            psi_os_close(fds[1]);
            fds[1] = -1;
        }
    }
    psi_os_close(wait.fd);
    if (!r && fds[1] == -1) r = PSOCKET_OS;
    if (!r) return 0;
    psi_os_close(fds[0]);
    psi_os_close(fds[1]);
    fds[0] = fds[1] = -1;
    return r;
}
#endif

/*--- announcing something from another thread through a descriptor */

#ifdef PSOCKET_LWIP
static int psi_os_bell_new(psi_os_bell *b, int *os)
{
    int r = psi_os_socket(&b->rd, psi_os_loopback().family, LWIP_UDP, os);
    b->wr = b->rd;
    return r;
}
#else
typedef struct psi_os_bell {
    psocket_fd rd, wr;
} psi_os_bell;

#ifdef _WIN32
/* A datagram socket connected to itself: nobody else's datagrams come in. */
static int psi_os_bell_new(psi_os_bell *b, int *os)
{
    psi_addr a = psi_os_loopback();
    int r = psi_os_socket(&b->rd, a.family, 1, os);
    b->wr = b->rd;
    if (!r) r = psi_os_bind(b->rd, &a, NULL, 0, 0, os);
    if (!r) r = psi_os_getname(b->rd, 0, &a, NULL, 0);
    if (!r) r = psi_os_connect(b->rd, &a, NULL, os);
    if (r) psi_os_close(b->rd);
    if (r) b->rd = b->wr = -1;
    return r;
}
#elif !defined(PSI_OS_EPOLL)
static int psi_os_bell_new(psi_os_bell *b, int *os)
{
    psocket_fd fds[2];
    int r = psi_os_pair(fds, os);
    b->rd = fds[0];
    b->wr = fds[1];
    return r;
}
#endif

#ifdef PSI_OS_EPOLL
/* Ringing an eventfd takes no memory, so it cannot fail. */
static int psi_os_bell_new(psi_os_bell *b, int *os)
{
    b->rd = b->wr = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return b->rd < 0 ? psi_os_why(os) : 0;
}

static void psi_os_bell_ring(psi_os_bell *b)
{
    eventfd_write((int)b->wr, 1); /* it would have to wait: it is ringing already */
}

static void psi_os_bell_clear(psi_os_bell *b)
{
    eventfd_t count;
    eventfd_read((int)b->rd, &count);
}
#else
static void psi_os_bell_ring(psi_os_bell *b)
{
    int os;
    psi_os_send(b->wr, "", 1, &os); /* it would have to wait: it is ringing already */
}

static void psi_os_bell_clear(psi_os_bell *b)
{
    char c[64];
    int i, os;
    for (i = 0; i < 64 && psi_os_recv(b->rd, c, sizeof c, &os) >= 0; i++) {}
}
#endif
#endif

static void psi_os_bell_free(psi_os_bell *b)
{
    psi_os_close(b->rd);
    if (b->wr != b->rd) psi_os_close(b->wr);
    b->rd = b->wr = -1;
}

/*--- names */

#ifndef PSOCKET_NO_DNS
/* Blocks. Hands over addresses in the system's order (RFC 6724). */
static int psi_os_resolve(const char *host, void (*each)(void *ctx, const psi_addr *a), void *ctx, int *os)
{
    struct addrinfo hints, *list = NULL, *i;
    int e, found = 0;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_family = AF_UNSPEC;
    e = PSI_SYS(getaddrinfo)(host, NULL, &hints, &list);
    if (e) {
        *os = PSI_OS_RESOLVE_ERRNO(e);
#ifdef EAI_AGAIN
        if (e == EAI_AGAIN) return PSOCKET_DNS_TEMPORARY;
#endif
#ifdef EAI_NODATA
        if (e == EAI_NODATA) return PSOCKET_DNS_NOT_FOUND;
#endif
        return e == EAI_MEMORY ? PSOCKET_NOMEM : e == EAI_NONAME ? PSOCKET_DNS_NOT_FOUND : PSOCKET_DNS;
    }
    for (i = list; i; i = i->ai_next) {
        psi_os_sockaddr sa;
        psi_addr a;
        memset(&sa, 0, sizeof sa);
        memcpy(&sa, i->ai_addr, (size_t)i->ai_addrlen < sizeof sa ? (size_t)i->ai_addrlen : sizeof sa);
        psi_os_from_sockaddr(&a, &sa);
        if (a.family != PSI_IP4 && a.family != PSI_IP6) continue;
        found = 1;
        each(ctx, &a);
    }
    PSI_SYS(freeaddrinfo)(list);
    return found ? 0 : PSOCKET_DNS_NOT_FOUND;
}
#endif

/*--- the poller: epoll, kqueue, or an array */

#define PSI_OS_BATCH 64 /* events fetched per system call */

typedef struct psi_os_poller {
    psi_os_bell bell;
    psi_os_watch ear; /* on the bell */
    int rang; /* the bell did, since the caller last looked */
    psocket_fd fd; /* -1: the system has no such thing */
#if !defined(PSI_OS_EPOLL) && !defined(PSI_OS_KQUEUE)
    struct pollfd *fds;
    psi_os_watch **watches;
    int count, cap, next;
#endif
} psi_os_poller;

/* For each kind: psi_os_set_new, a descriptor or -1 with the reason; psi_os_poller_ctl, which watches w->fd for events from
   now on (0 forgets it); psi_os_set_wait. */
#if defined(PSI_OS_EPOLL)

#define psi_os_set_new() epoll_create1(EPOLL_CLOEXEC)

/* With 0 events epoll would go on reporting a hang-up. */
static int psi_os_poller_ctl(psi_os_poller *p, psi_os_watch *w, int events, int *os)
{
    struct epoll_event ev;
    int r, before = w->events, op = !events ? EPOLL_CTL_DEL : before ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (events == before) return 0;
    memset(&ev, 0, sizeof ev);
    if (events & PSOCKET_READ) ev.events |= EPOLLIN;
    if (events & PSOCKET_WRITE) ev.events |= EPOLLOUT;
    ev.data.ptr = w;
    w->events = events;
    r = epoll_ctl((int)p->fd, op, (int)w->fd, &ev);
    if (r && op == EPOLL_CTL_MOD && errno == ENOENT) { /* the descriptor was closed and its number given to another */
        before = 0;
        r = epoll_ctl((int)p->fd, EPOLL_CTL_ADD, (int)w->fd, &ev);
    }
    if (!r || !events) return 0;
    w->events = before; /* a failed change leaves the system's set as it was */
    r = psi_os_why(os);
    return *os == EPERM ? PSOCKET_UNSUPPORTED : r; /* a file or folder: epoll takes none */
}

static int psi_os_set_wait(psi_os_poller *p, psi_os_ready *out, int cap, int ms, int *os)
{
    struct epoll_event ev[PSI_OS_BATCH];
    int i, n = epoll_wait((int)p->fd, ev, cap < PSI_OS_BATCH ? cap : PSI_OS_BATCH, ms);
    if (n < 0) return psi_os_failed(0, os);
    for (i = 0; i < n; i++) {
        unsigned e = ev[i].events;
        out[i].watch = (psi_os_watch *)ev[i].data.ptr;
        out[i].events = ((e & (EPOLLIN | EPOLLERR | EPOLLHUP)) ? PSOCKET_READ : 0) |
                        ((e & (EPOLLOUT | EPOLLERR | EPOLLHUP)) ? PSOCKET_WRITE : 0);
    }
    return n;
}

#elif defined(PSI_OS_KQUEUE)

typedef __typeof__(((struct kevent *)0)->udata) psi_os_udata; /* intptr_t up to NetBSD 9 */

static int psi_os_set_new(void)
{
    int fd = kqueue();
    if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static int psi_os_poller_ctl(psi_os_poller *p, psi_os_watch *w, int events, int *os)
{
    static const int bits[2] = { PSOCKET_READ, PSOCKET_WRITE };
    static const short filters[2] = { EVFILT_READ, EVFILT_WRITE };
    int i;
    if (events == w->events) return 0;
    for (i = 0; i < 2; i++) {
        struct kevent ev;
        int on = events & bits[i]; /* added even if it is there: the number may be another descriptor's now */
        if (!on && !(w->events & bits[i])) continue;
        EV_SET(&ev, (uintptr_t)w->fd, filters[i], on ? EV_ADD : EV_DELETE, 0, 0, (psi_os_udata)w);
        if (kevent((int)p->fd, &ev, 1, NULL, 0, NULL) && on) return psi_os_why(os);
        w->events = on ? w->events | bits[i] : w->events & ~bits[i];
    }
    return 0;
}

static int psi_os_set_wait(psi_os_poller *p, psi_os_ready *out, int cap, int ms, int *os)
{
    struct kevent ev[PSI_OS_BATCH];
    struct timespec t;
    int i, n;
    t.tv_sec = ms / 1000;
    t.tv_nsec = (long)(ms % 1000) * 1000000;
    n = kevent((int)p->fd, NULL, 0, ev, cap < PSI_OS_BATCH ? cap : PSI_OS_BATCH, ms < 0 ? NULL : &t);
    if (n < 0) return psi_os_failed(0, os);
    for (i = 0; i < n; i++) {
        out[i].watch = (psi_os_watch *)ev[i].udata;
        out[i].events = ev[i].filter == EVFILT_READ ? PSOCKET_READ : PSOCKET_WRITE;
    }
    return n;
}

#else

#define PSI_OS_ARRAY
#define psi_os_set_new() (-1)

static int psi_os_set_grow(psi_os_poller *p)
{
    int cap = p->cap ? p->cap * 2 : 8;
    struct pollfd *fds = (struct pollfd *)psi_realloc(p->fds, (size_t)p->count * sizeof *fds, (size_t)cap * sizeof *fds);
    psi_os_watch **watches;
    if (!fds) return PSOCKET_NOMEM;
    p->fds = fds;
    watches = (psi_os_watch **)psi_realloc(p->watches, (size_t)p->count * sizeof *watches, (size_t)cap * sizeof *watches);
    if (!watches) return PSOCKET_NOMEM;
    p->watches = watches;
    p->cap = cap;
    return 0;
}

static int psi_os_poller_ctl(psi_os_poller *p, psi_os_watch *w, int events, int *os)
{
    (void)os;
    if (events && !w->events) {
        if (p->count == p->cap && psi_os_set_grow(p)) return PSOCKET_NOMEM;
        w->slot = p->count++;
        p->fds[w->slot].fd = (psi_os_int)w->fd;
        p->fds[w->slot].revents = 0;
        p->watches[w->slot] = w;
    }
    if (events) {
        p->fds[w->slot].events = psi_os_poll_events(events);
    } else if (w->events) {
        int last = --p->count;
        p->fds[w->slot] = p->fds[last];
        p->watches[w->slot] = p->watches[last];
        p->watches[w->slot]->slot = w->slot;
    }
    w->events = events;
    return 0;
}

static int psi_os_set_wait(psi_os_poller *p, psi_os_ready *out, int cap, int ms, int *os)
{
    int k, count = 0, n = psi_os_wait(p->fds, p->count, ms, os);
    if (n <= 0) return n;
    /* Start behind the last one served, so that a full batch starves nobody. */
    for (k = 0; k < p->count && count < cap; k++) {
        int i = (p->next + k) % p->count, re = p->fds[i].revents;
        if (!re) continue;
        out[count].watch = p->watches[i];
        out[count++].events = ((re & ~POLLOUT) ? PSOCKET_READ : 0) | ((re & ~POLLIN) ? PSOCKET_WRITE : 0);
    }
    p->next = (p->next + k) % p->count;
    return count;
}

#endif

static psocket_fd psi_os_poller_fd(psi_os_poller *p)
{
    return p->fd;
}

static void psi_os_poller_free(psi_os_poller *p)
{
    psi_os_close(p->fd);
#ifdef PSI_OS_ARRAY
    psi_free(p->fds);
    psi_free(p->watches);
#endif
    psi_os_bell_free(&p->bell);
}

static int psi_os_poller_new(psi_os_poller *p, int *os)
{
    int r;
    memset(p, 0, sizeof *p);
    if ((r = psi_os_bell_new(&p->bell, os)) != 0) return r;
    p->ear.fd = p->bell.rd;
    p->fd = psi_os_set_new();
#ifndef PSI_OS_ARRAY
    if (p->fd < 0) r = psi_os_why(os);
#endif
    if (!r) r = psi_os_poller_ctl(p, &p->ear, PSOCKET_READ, os);
    if (r) psi_os_poller_free(p);
    return r;
}

/* While on, the poller's descriptor is readable although nothing that it watches is ready: the bell can always be rung. Not
   to be on in psi_os_poller_wait. */
static PSI_UNUSED void psi_os_poller_busy(psi_os_poller *p, int on)
{
    int os;
    if (psi_os_poller_fd(p) != -1) psi_os_poller_ctl(p, &p->ear, PSOCKET_READ | (on ? PSOCKET_WRITE : 0), &os);
}

/* Waits up to ms (-1: for ever) and stores what is ready: how many, 0 also after a signal (then *os is not 0) or the bell,
   or an error. */
static int psi_os_poller_wait(psi_os_poller *p, psi_os_ready *out, int cap, int ms, int *os)
{
    int i, n;
    *os = 0;
    n = psi_os_set_wait(p, out, cap, ms, os);
    for (i = 0; i < n; i++) {
        if (out[i].watch != &p->ear) continue;
        if (out[i].events & PSOCKET_READ) psi_os_bell_clear(&p->bell);
        if (out[i].events & PSOCKET_READ) p->rang = 1;
        out[i] = out[--n];
        break;
    }
    return n;
}

/*==================================================================================================
 * >>ring
 * The ring of received chunks: one growing buffer of chunks in order, then bytes received and not yet decoded.
 *
 *     buf | free | [header] skip [payload][header] skip [payload] | hole | raw bytes | free | cap
 *                  ^head                                          ^end     ^raw        ^tail
 *
 * A chunk's header (PSI_RING_HEAD bytes) holds the payload's length and how far behind the header it begins, so that
 * records decrypted in place become chunks where they lie. The hole has room for one header at least. head == end means
 * no chunk. What was taken lies before head and stays readable until the next change. A ring that is empty owns no memory
 * once psi_ring_relax has run.
 *================================================================================================*/

#define PSI_RING_HEAD 8u
#define PSI_RING_MAX 0x7fff0000u
#define PSI_RING_SLACK 192u /* a header on each side, and the most that alignment takes */

typedef struct psi_ring {
    uint8_t *buf;
    uint32_t cap, head, end, raw, tail;
    uint32_t bytes; /* sum of the chunks' payloads */
    uint32_t seen;  /* how many of them hold no beginning of the delimiter that psi_ring_find last looked for, */
    uint32_t key;   /* of which this is the hash */
} psi_ring;

static uint32_t psi_ring_get(const psi_ring *r, uint32_t at)
{
    uint32_t v;
    memcpy(&v, r->buf + at, 4);
    return v;
}

/* Writes the header at `at` of the n bytes whose payload begins at `payload`. */
static void psi_ring_header(psi_ring *r, uint32_t at, uint32_t n, uint32_t payload)
{
    uint32_t skip = payload - at - PSI_RING_HEAD;
    memcpy(r->buf + at, &n, 4);
    memcpy(r->buf + at + 4, &skip, 4);
}

/* Where the payload of the chunk whose header is at `at` begins. */
static uint32_t psi_ring_payload(const psi_ring *r, uint32_t at)
{
    return at + PSI_RING_HEAD + psi_ring_get(r, at + 4);
}

static int psi_ring_empty(const psi_ring *r)
{
    return r->head == r->end;
}

static void psi_ring_free(psi_ring *r)
{
    psi_free(r->buf);
    memset(r, 0, sizeof *r);
}

/* Is there nothing in it? */
static int psi_ring_idle(const psi_ring *r)
{
    return r->head == r->end && r->raw == r->tail;
}

/* Gives the memory back if nothing is in it. */
static void psi_ring_relax(psi_ring *r)
{
    if (r->buf && psi_ring_idle(r)) psi_ring_free(r);
}

/* Moves what is live to `buf`, which may be the ring's own, so that head is at `at` and the hole is as small as can be. */
static void psi_ring_move(psi_ring *r, uint8_t *buf, uint32_t cap, uint32_t at)
{
    uint32_t chunks = r->end - r->head, raws = r->tail - r->raw, raw = at + chunks + PSI_RING_HEAD;
    int up = at > r->head; /* within one buffer the one that is in the way of the other moves first */
    if (up && raws) memmove(buf + raw, r->buf + r->raw, raws);
    if (chunks) memmove(buf + at, r->buf + r->head, chunks);
    if (!up && raws) memmove(buf + raw, r->buf + r->raw, raws);
    if (buf != r->buf) psi_free(r->buf);
    r->buf = buf;
    r->cap = cap;
    r->head = at;
    r->end = at + chunks;
    r->raw = raw;
    r->tail = raw + raws;
}

/* Where head is to be so that tail, `live` bytes behind it, is at the start of 64 bytes, but not of a page: there the
   kernel's copy overtakes itself. Small buffers are not worth it. */
static uint32_t psi_ring_place(const uint8_t *buf, uint32_t live, size_t n)
{
    uintptr_t tail = (uintptr_t)buf + live, at = (64 - tail % 64) % 64;
    if (n < 4096) return 0;
    return (uint32_t)((tail + at) % 4096 ? at : at + 64);
}

/* Makes room for n bytes at tail. 0, PSOCKET_NOMEM or PSOCKET_LIMIT. */
static int psi_ring_reserve(psi_ring *r, size_t n)
{
    uint32_t chunks = r->end - r->head, live = chunks + PSI_RING_HEAD + (r->tail - r->raw), need;
    if (live > PSI_RING_MAX || n > PSI_RING_MAX - live) return PSOCKET_LIMIT;
    if (!psi_ring_idle(r) && r->cap - r->tail >= n + PSI_RING_HEAD) return 0;
    need = live + (uint32_t)n + PSI_RING_SLACK;
    if (chunks) need += live / 2; /* growing by parts would copy all each time */
    if (need > r->cap) {
        uint8_t *buf = (uint8_t *)PSOCKET_MALLOC(need);
        if (!buf) return PSOCKET_NOMEM;
        psi_ring_move(r, buf, need, psi_ring_place(buf, live, n));
    } else {
        psi_ring_move(r, r->buf, r->cap, psi_ring_place(r->buf, live, n));
    }
    return 0;
}

/* The n bytes at `at` become the newest chunk; everything up to `next` counts as decoded. */
static void psi_ring_chunk(psi_ring *r, uint32_t at, uint32_t n, uint32_t next)
{
    if (psi_ring_empty(r)) {
        r->head = r->end = at - PSI_RING_HEAD;
    } else if (at - r->end > 64 + n / 4) { /* what a peer can put between chunks at will, such as empty records */
        memmove(r->buf + r->end + PSI_RING_HEAD, r->buf + at, n);
        at = r->end + PSI_RING_HEAD;
    }
    psi_ring_header(r, r->end, n, at);
    r->end = at + n;
    r->raw = next;
    r->bytes += n;
}

/* n bytes that were stored at tail become a chunk. There must be no raw bytes. */
static void psi_ring_append(psi_ring *r, uint32_t n)
{
    uint32_t at = r->tail;
    r->tail = at + n + PSI_RING_HEAD;
    psi_ring_chunk(r, at, n, r->tail);
}

/* The oldest chunk's length and place. There must be one. */
static uint32_t psi_ring_front(const psi_ring *r, const void **data)
{
    *data = r->buf + psi_ring_payload(r, r->head);
    return psi_ring_get(r, r->head);
}

/* Takes the first n bytes, perhaps all, of the oldest chunk. If some stay, those taken move down so that the rest can have
   a header of its own without being touched. */
static void psi_ring_take(psi_ring *r, uint32_t n, const void **data)
{
    uint32_t at = psi_ring_payload(r, r->head), left = psi_ring_get(r, r->head) - n;
    *data = r->buf + at;
    r->head = at + n;
    if (left) {
        memmove(r->buf + at - PSI_RING_HEAD, r->buf + at, n);
        *data = r->buf + at - PSI_RING_HEAD;
        r->head -= PSI_RING_HEAD;
        psi_ring_header(r, r->head, left, at + n);
    }
    r->bytes -= n;
    r->seen = 0;
}

/* Joins the oldest chunks until the first has at least n bytes or is alone. */
static void psi_ring_join(psi_ring *r, uint32_t n)
{
    uint32_t at, len, next;
    if (psi_ring_empty(r)) return;
    at = psi_ring_payload(r, r->head);
    len = psi_ring_get(r, r->head);
    if (len >= n || at + len == r->end) return;
    for (next = at + len; len < n && next != r->end;) {
        uint32_t add = psi_ring_get(r, next), from = psi_ring_payload(r, next);
        memmove(r->buf + at + len, r->buf + from, add);
        len += add;
        next = from + add;
    }
    psi_ring_header(r, r->head, len, at);
    if (next == r->end) r->end = at + len;
    else psi_ring_header(r, at + len, psi_ring_get(r, next), psi_ring_payload(r, next));
}

/* Puts a copy of n bytes in front of all chunks. They may be the ones taken last. 0, PSOCKET_NOMEM or PSOCKET_LIMIT. */
static int psi_ring_unshift(psi_ring *r, const void *data, size_t n)
{
    uint32_t live = r->tail - r->head, len = (uint32_t)n, room = len + PSI_RING_HEAD, at;
    if (n > PSI_RING_MAX - PSI_RING_SLACK || live > PSI_RING_MAX - PSI_RING_SLACK - n) return PSOCKET_LIMIT;
    if (r->buf && r->head >= room) {
        at = r->head - room;
        if (n) memmove(r->buf + at + PSI_RING_HEAD, data, n);
    } else {
        uint32_t cap = room + live + live / 2 + PSI_RING_SLACK; /* with room for more of the kind */
        uint8_t *buf = (uint8_t *)PSOCKET_MALLOC(cap);
        if (!buf) return PSOCKET_NOMEM;
        at = live / 2;
        if (n) memcpy(buf + at + PSI_RING_HEAD, data, n);
        psi_ring_move(r, buf, cap, at + room);
    }
    psi_ring_header(r, at, len, at + PSI_RING_HEAD);
    r->head = at;
    r->bytes += len;
    r->seen = 0;
    return 0;
}

/* All chunks become raw bytes again: they are the start of a TLS stream. */
static PSI_UNUSED void psi_ring_undecode(psi_ring *r)
{
    if (psi_ring_empty(r)) return;
    psi_ring_join(r, UINT32_MAX);
    r->raw = psi_ring_payload(r, r->head);
    r->tail = r->end;
    r->head = r->end = r->raw - PSI_RING_HEAD;
    r->bytes = r->seen = 0;
}

/* Searches the chunks' bytes for a delimiter of m bytes within the first max: where it ends, 0 if it is not there. The
   oldest chunks are joined as needed. What a search has been through in vain the next one for the same delimiter leaves
   out, so that a peer who sends byte by byte costs no more than one who sends all at once. */
static uint32_t psi_ring_find(psi_ring *r, const void *delimiter, uint32_t m, uint32_t max)
{
    const uint8_t *d = (const uint8_t *)delimiter, *p, *hit;
    const void *data;
    uint32_t n, i, key = 2166136261u; /* FNV-1a */
    for (i = 0; i < m; i++) key = (key ^ d[i]) * 16777619u;
    if (psi_ring_empty(r)) return 0;
    psi_ring_join(r, max);
    n = psi_ring_front(r, &data);
    p = (const uint8_t *)data;
    if (n > max) n = max;
    i = r->key == key ? r->seen : 0;
    while (n >= m && i <= n - m) {
        hit = (const uint8_t *)memchr(p + i, d[0], n - m - i + 1);
        i = hit ? (uint32_t)(hit - p) : n - m + 1;
        if (hit && memcmp(hit, d, m) == 0) return i + m;
        if (hit) i++;
    }
    r->key = key;
    r->seen = i;
    return 0;
}

/*==================================================================================================
 * >>addr
 * Numeric addresses: parsing and printing without the system, the same everywhere. RFC 4291 2.2, RFC 5952, RFC 4007 11.
 *================================================================================================*/

/* Reads up to `most` digits from n characters into *v: how many there were. */
static size_t psi_addr_digits(const char *s, size_t n, unsigned base, size_t most, uint32_t *v)
{
    size_t i;
    *v = 0;
    for (i = 0; i < n && i < most; i++) {
        unsigned c = (unsigned)psi_lower((unsigned char)s[i]), digit = c - '0' < 10 ? c - '0' : c - 'a' < 6 ? c - 'a' + 10 : 99;
        if (digit >= base) break;
        *v = *v * base + digit;
    }
    return i;
}

/* n characters at s as a dotted quad: 1 or 0. No leading zeros, which some systems take for octal. */
static int psi_addr_parse4(const char *s, size_t n, uint8_t out[4])
{
    size_t i = 0, digits;
    uint32_t v;
    int part;
    for (part = 0; part < 4; part++, i += digits) {
        if (part && (i >= n || s[i++] != '.')) return 0;
        digits = psi_addr_digits(s + i, n - i, 10, 3, &v);
        if (!digits || v > 255 || (digits > 1 && s[i] == '0')) return 0;
        out[part] = (uint8_t)v;
    }
    return i == n;
}

/* Groups with colons between, of which the last may be a dotted quad if `quad`: how many bytes, or -1. */
static int psi_addr_groups(const char *s, size_t n, int quad, uint8_t out[16])
{
    size_t i = 0, digits;
    int used = 0;
    uint32_t v;
    if (!n) return 0;
    for (;;) {
        digits = psi_addr_digits(s + i, n - i, 16, 4, &v);
        if (quad && i + digits < n && s[i + digits] == '.')
            return used <= 12 && psi_addr_parse4(s + i, n - i, out + used) ? used + 4 : -1;
        if (!digits || used > 14) return -1;
        out[used++] = (uint8_t)(v >> 8);
        out[used++] = (uint8_t)(v & 255);
        i += digits;
        if (i == n) return used;
        if (s[i++] != ':') return -1;
    }
}

static int psi_addr_parse6(const char *s, size_t n, uint8_t out[16])
{
    uint8_t end[16];
    size_t gap = 0; /* where "::" is */
    int head, tail;
    while (gap + 1 < n && (s[gap] != ':' || s[gap + 1] != ':')) gap++;
    memset(out, 0, 16);
    if (gap + 1 >= n) return psi_addr_groups(s, n, 1, out) == 16;
    head = psi_addr_groups(s, gap, 0, out);
    tail = psi_addr_groups(s + gap + 2, n - gap - 2, 1, end);
    if (head < 0 || tail < 0 || head + tail > 14) return 0;
    memcpy(out + 16 - tail, end, (size_t)tail);
    return 1;
}

/* IPv4-mapped IPv6 (::ffff:a.b.c.d) becomes plain IPv4. */
static void psi_addr_normalise(psi_addr *a)
{
    static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
    if (a->family == PSI_IP6 && memcmp(a->ip, mapped, 12) == 0) {
        memmove(a->ip, a->ip + 12, 4);
        memset(a->ip + 4, 0, 12);
        a->family = PSI_IP4;
        a->scope = 0;
    }
}

/* The same address, whatever the port? */
static int psi_addr_same(const psi_addr *a, const psi_addr *b)
{
    return a->family == b->family && a->scope == b->scope && !memcmp(a->ip, b->ip, sizeof a->ip);
}

/* Reads a numeric address of n characters, without or with [brackets], with an optional numeric %scope. 1 or 0. */
static int psi_addr_parse(psi_addr *a, const char *s, size_t n)
{
    size_t i, digits;
    memset(a, 0, sizeof *a);
    if (psi_addr_parse4(s, n, a->ip)) {
        a->family = PSI_IP4;
        return 1;
    }
    if (n >= 2 && s[0] == '[' && s[n - 1] == ']') {
        s++;
        n -= 2;
    }
    for (i = 0; i < n && s[i] != '%'; i++) {}
    if (i < n) {
        digits = psi_addr_digits(s + i + 1, n - i - 1, 10, 9, &a->scope);
        if (!digits || i + 1 + digits < n) return 0;
    }
    if (!psi_addr_parse6(s, i, a->ip)) return 0;
    a->family = PSI_IP6;
    return 1;
}

/* Prints without port or brackets: dotted quad, or RFC 5952. out holds at least 64 bytes. */
static void psi_addr_print(const psi_addr *a, char *out)
{
    char *p = out;
    int i, best = -1, best_len = 1;
    if (a->family == PSI_IP4) {
        snprintf(out, 64, "%d.%d.%d.%d", a->ip[0], a->ip[1], a->ip[2], a->ip[3]);
        return;
    }
    if (a->family != PSI_IP6) {
        *out = 0;
        return;
    }
    for (i = 0; i < 8; i++) { /* the longest run of two or more zero groups, the first of equals */
        int k = i;
        while (k < 8 && !a->ip[2 * k] && !a->ip[2 * k + 1]) k++;
        if (k - i > best_len) {
            best = i;
            best_len = k - i;
        }
    }
    for (i = 0; i < 8; i++) {
        if (i == best) {
            p += snprintf(p, 3, "::");
            i += best_len - 1;
            continue;
        }
        p += snprintf(p, 6, i && i != best + best_len ? ":%x" : "%x", (unsigned)(a->ip[2 * i] << 8 | a->ip[2 * i + 1]));
    }
    if (a->scope) snprintf(p, 16, "%%%lu", (unsigned long)a->scope);
}

/* "ADDRESS:PORT" or "[V6]:PORT", for messages. out holds at least 80 bytes. */
static void psi_addr_print_port(const psi_addr *a, char *out)
{
    char ip[64];
    psi_addr_print(a, ip);
    snprintf(out, 80, a->family == PSI_IP6 ? "[%s]:%d" : "%s:%d", ip, (int)a->port);
}

/* The path in "unix:PATH", NULL in any other string. */
static const char *psi_addr_path(const char *s)
{
    return strncmp(s, "unix:", 5) ? NULL : s + 5;
}

/* Splits "ADDRESS:PORT", "[V6]:PORT" or "ADDRESS": *a is set; *port only if the text has one. 0 or PSOCKET_INVALID. */
static int psi_addr_parse_port(psi_addr *a, const char *s, int *port)
{
    const char *colon = strrchr(s, ':');
    size_t digits;
    uint32_t v;
    if (psi_addr_parse(a, s, strlen(s))) return 0;
    if (!colon) return PSOCKET_INVALID;
    digits = psi_addr_digits(colon + 1, strlen(colon + 1), 10, 5, &v);
    if (!digits || colon[1 + digits] || v > 65535 || !psi_addr_parse(a, s, (size_t)(colon - s)) ||
        (a->family == PSI_IP6 && s[0] != '['))
        return PSOCKET_INVALID;
    *port = (int)v;
    return 0;
}

/*==================================================================================================
 * >>dns
 * Names to addresses. A psocket_resolve has two owners, the socket that asked and whoever answers; both may be first to
 * go. Everything shared between them is guarded by psi_dns_lock. The end of a lookup rings the bell, whose descriptor the
 * socket waits for. Lookups by the system have a helper thread each. At most PSOCKET_RESOLVER_THREADS of them count: one
 * that nobody waits for any more, or that has waited PSI_DNS_PATIENCE for its name server, makes room for another.
 *================================================================================================*/

#define PSI_DNS_HOST 256     /* longest name, RFC 1035 2.3.4, or path, with its NUL */
#define PSI_DNS_PATIENCE 250 /* milliseconds */
#define PSI_DNS_THREADS (8 * PSOCKET_RESOLVER_THREADS) /* all of them, those that do not count included */

struct psocket_resolve {
    psocket_resolve *next; /* in psi_dns_list */
    psi_os_bell bell;      /* the socket's; rd is -1 if the answer was there at once, or nobody waits for it */
    int64_t since;         /* when its thread began */
    int owners, queued, done, code, os, count;
    psi_addr addrs[PSOCKET_ADDRESSES];
    char host[PSI_DNS_HOST];
};

static psi_os_mutex psi_dns_lock = PSI_OS_MUTEX_INIT;

/* Adds an address that is not there yet: 0 or PSOCKET_LIMIT. Where one family has taken more than its half, the other
   one takes it back. */
static int psi_dns_add(psocket_resolve *r, const psi_addr *address)
{
    psi_addr a = *address;
    int i, same = 0, last = -1; /* of the other family */
    psi_addr_normalise(&a);
    for (i = 0; i < r->count; i++) {
        if (psi_addr_same(&r->addrs[i], &a)) return 0;
        if (r->addrs[i].family == a.family) same++;
        else last = i;
    }
    if (r->count == PSOCKET_ADDRESSES) {
        if (same >= PSOCKET_ADDRESSES / 2) return PSOCKET_LIMIT;
        memmove(&r->addrs[last], &r->addrs[last + 1], (size_t)(r->count - last - 1) * sizeof a);
        r->count--;
    }
    r->addrs[r->count++] = a;
    return 0;
}

/* Stores the answer and rings. The lock is held. */
static void psi_dns_answer(psocket_resolve *r, int code)
{
    r->code = !code && !r->count ? PSOCKET_DNS_NOT_FOUND : code;
    r->done = 1;
    if (r->bell.wr != -1) psi_os_bell_ring(&r->bell);
}

PSOCKET_API void psocket_resolve_done(psocket_resolve *r, int code)
{
    int left;
    if (!r) return;
    if (code && code != PSOCKET_DNS_NOT_FOUND && code != PSOCKET_DNS_TEMPORARY && code != PSOCKET_NOMEM && code != PSOCKET_CLOSED_HERE)
        code = PSOCKET_DNS; /* not one of ours: getaddrinfo's, perhaps */
    psi_os_lock(&psi_dns_lock);
    psi_dns_answer(r, code);
    left = --r->owners;
    psi_os_unlock(&psi_dns_lock);
    if (!left) psi_free(r);
}

PSOCKET_API int psocket_resolve_add(psocket_resolve *r, const char *ip)
{
    psi_addr a;
    int result;
    if (!r || !ip || !psi_addr_parse(&a, ip, strlen(ip))) return PSOCKET_INVALID;
    psi_os_lock(&psi_dns_lock);
    result = psi_dns_add(r, &a);
    psi_os_unlock(&psi_dns_lock);
    return result;
}

#ifndef PSOCKET_NO_DNS
static void psi_dns_found(void *r, const psi_addr *a)
{
    psi_dns_add((psocket_resolve *)r, a);
}
#endif

#ifdef PSI_OS_THREADS
#define PSI_DNS_THREADED 1

static psocket_resolve *psi_dns_list; /* those that run, then those that wait for it, in the order asked */
static int psi_dns_threads;
static long psi_dns_process; /* whose threads they are: they do not survive fork */

/* Takes r out of the list. */
static void psi_dns_unlist(psocket_resolve *r)
{
    psocket_resolve **at = &psi_dns_list;
    while (*at && *at != r) at = &(*at)->next;
    if (*at) *at = r->next;
}

/* The next lookup that may begin, which then has; NULL if there is none. The lock is held. */
static psocket_resolve *psi_dns_next(void)
{
    psocket_resolve *r;
    int64_t now = psi_os_now();
    int count = 0;
    for (r = psi_dns_list; r && !r->queued; r = r->next) count += r->owners == 2 && now - r->since < PSI_DNS_PATIENCE;
    if (!r || count >= PSOCKET_RESOLVER_THREADS) return NULL;
    r->queued = 0;
    r->since = now;
    return r;
}

PSI_OS_THREAD(psi_dns_worker, first)
{
    psocket_resolve *r = (psocket_resolve *)first, *next;
    int left, code;
    for (; r; r = next) {
        code = psi_os_resolve(r->host, psi_dns_found, r, &r->os); /* the socket looks only once done is set */
        psi_os_lock(&psi_dns_lock);
        psi_dns_unlist(r);
        psi_dns_answer(r, code);
        left = --r->owners;
        next = psi_dns_next();
        if (!next) psi_dns_threads--;
        psi_os_unlock(&psi_dns_lock);
        if (!left) psi_free(r);
    }
    return 0;
}

/* Begins what may begin. If r is to wait for a thread and there is none and can be none, that is its answer. The lock is
   held. */
static void psi_dns_push(psocket_resolve *r)
{
    psocket_resolve *next;
    int code = 0, os = 0;
    if (psi_dns_process != psi_os_process()) {
        psi_dns_process = psi_os_process();
        psi_dns_threads = 0;
        psi_dns_list = r->queued ? r : NULL;
        r->next = NULL;
    }
    while (!code && psi_dns_threads < PSI_DNS_THREADS && (next = psi_dns_next()) != NULL) {
        code = psi_os_thread(psi_dns_worker, next, &os);
        if (code) next->queued = 1;
        else psi_dns_threads++;
    }
    if (!code || psi_dns_threads || !r->queued) return;
    psi_dns_unlist(r);
    r->queued = 0;
    r->os = os;
    r->owners--;
    psi_dns_answer(r, code);
}

static void psi_dns_system(psocket_resolve *r)
{
    psocket_resolve **end = &psi_dns_list;
    psi_os_lock(&psi_dns_lock);
    while (*end) end = &(*end)->next;
    *end = r;
    r->queued = 1;
    psi_dns_push(r);
    psi_os_unlock(&psi_dns_lock);
}

/* The socket lets go of a lookup. Which nobody has begun is over. The lock is held. */
static void psi_dns_abandon(psocket_resolve *r)
{
    if (r->queued) {
        psi_dns_unlist(r);
        r->queued = 0;
        r->owners--;
    }
    psi_dns_push(r);
}

#else
#define PSI_DNS_THREADED 0

/* Without threads the answer is there at once, after as long as it takes. */
#ifdef PSOCKET_NO_DNS
static void psi_dns_system(psocket_resolve *r)
{
    psocket_resolve_done(r, PSOCKET_DNS);
}
#else
static void psi_dns_system(psocket_resolve *r)
{
    psocket_resolve_done(r, psi_os_resolve(r->host, psi_dns_found, r, &r->os));
}
#endif

static void psi_dns_push(psocket_resolve *r) { (void)r; }
static void psi_dns_abandon(psocket_resolve *r) { (void)r; }

#endif

static void psi_dns_release(psocket_resolve *r)
{
    int left;
    psi_os_lock(&psi_dns_lock);
    psi_os_bell_free(&r->bell); /* nobody listens any more */
    r->owners--;
    psi_dns_abandon(r);
    left = r->owners;
    psi_os_unlock(&psi_dns_lock);
    if (!left) psi_free(r);
}

static int psi_dns_is_done(psocket_resolve *r)
{
    int done;
    psi_os_lock(&psi_dns_lock);
    if (r->queued) psi_dns_push(r);
    done = r->done;
    psi_os_unlock(&psi_dns_lock);
    return done;
}

/* After how many milliseconds to ask psi_dns_is_done again: 0 now, -1 when the bell rings. */
static int psi_dns_ms(psocket_resolve *r)
{
    int ms;
    psi_os_lock(&psi_dns_lock);
    ms = r->done ? 0 : r->bell.rd == -1 ? 10 : r->queued ? PSI_DNS_PATIENCE : -1;
    psi_os_unlock(&psi_dns_lock);
    return ms;
}

/* Is it this machine's own name, "localhost", or below it? RFC 6761 6.3 */
static int psi_dns_is_localhost(const char *host, size_t n)
{
    static const char name[] = "localhost";
    size_t len = sizeof name - 1;
    if (n && host[n - 1] == '.') n--;
    return n >= len && psi_same_nocase(host + n - len, name, len) && (n == len || host[n - len - 1] == '.');
}

/* What is known without asking anybody: numeric addresses, paths, and, unless the application resolves, this machine. */
static int psi_dns_known(psocket_resolve *r, const char *path, size_t n, int own)
{
    psi_addr a = PSI_ZERO;
    if (path) a.family = PSI_UNIX;
    else if (!psi_addr_parse(&a, r->host, n)) {
        if (own || !psi_dns_is_localhost(r->host, n)) return 0;
        psi_addr_parse(&a, "::1", 3);
        psi_dns_add(r, &a);
        psi_addr_parse(&a, "127.0.0.1", 9);
    }
    psi_dns_add(r, &a);
    return 1;
}

/* Starts to resolve host: what is known at once, others through fn or the system. The caller owns *out and ends it with
   psi_dns_release. */
static int psi_dns_start(psocket_resolve **out, const char *host, psocket_resolve_fn fn, void *user)
{
    const char *path = psi_addr_path(host);
    size_t n;
    int os;
    psocket_resolve *r;
    *out = NULL;
    if (path) host = path;
    n = strlen(host);
    if (!n || n >= PSI_DNS_HOST) return PSOCKET_INVALID;
    r = (psocket_resolve *)psi_alloc(sizeof *r);
    if (!r) return PSOCKET_NOMEM;
    memcpy(r->host, host, n + 1);
    r->owners = 1;
    r->bell.rd = r->bell.wr = -1;
    *out = r;
    r->done = psi_dns_known(r, path, n, fn != NULL);
    if (r->done) return 0;
    if (fn || PSI_DNS_THREADED) psi_os_bell_new(&r->bell, &os); /* if there can be none, psi_dns_ms makes do without */
    r->owners = 2;
    if (fn) fn(user, r, r->host);
    else psi_dns_system(r);
    return 0;
}

/* Brings the addresses of a finished lookup into the order in which to try them: families alternate, beginning with the
   system's first choice (RFC 8305 section 4). */
static void psi_dns_interleave(psocket_resolve *r)
{
    psi_addr sorted[PSOCKET_ADDRESSES];
    int taken[PSOCKET_ADDRESSES] = { 0 }, i, k, family = r->count ? r->addrs[0].family : 0;
    for (i = 0; i < r->count; i++) {
        for (k = 0; k < r->count && (taken[k] || r->addrs[k].family != family); k++) {}
        if (k == r->count) for (k = 0; taken[k]; k++) {} /* that family is used up */
        taken[k] = 1;
        sorted[i] = r->addrs[k];
        family = sorted[i].family == PSI_IP4 ? PSI_IP6 : PSI_IP4;
    }
    memcpy(r->addrs, sorted, (size_t)r->count * sizeof *sorted);
}
#ifndef PSOCKET_NO_TLS
/*==================================================================================================
 * >>x509
 * PEM, private keys, trust anchors, and the validation of certificate paths (RFC 5280 section 6, names by RFC 9525)
 * over BearSSL's primitives. Invariants: a certificate is parsed once, when it joins its chain, and only points into its
 * DER, which the chain owns; trust is immutable once loaded; a search answers with a rule and a certificate, of which
 * psi_x509_explain alone makes a sentence; the work that a peer's chain can cause is capped.
 * A chain, a key and a trust own what they hold; whoever loaded one frees it.
 *================================================================================================*/

#include <bearssl.h>

/* What one verification may cost. An honest path has at most PSOCKET_CHAIN_DEPTH signatures, of P-384 at worst (4 checks
   of P-256 each): 40; the rest is for wrong turns. A comparison of two names takes some 0.05 us for each 64 bytes, and a
   certificate may need 50 among 200 anchors: 100000 are enough for 2000 certificates, in 5 ms. */
#define PSI_X509_SIGNATURES 64
#define PSI_X509_WORK 100000
#define PSI_X509_EXTENSIONS 64 /* of one certificate: they are compared in pairs; public ones have about ten */
#define PSI_X509_SIGNATURE 512 /* bytes of the longest signature that is made: RSA 4096 */

/* --- DER: definite minimal lengths, tag numbers below 31 ---------------------------------------------------------- */

/* Bytes in somebody else's memory. Readers take from the front. */
typedef struct psi_x509_span {
    const uint8_t *p;
    size_t n;
} psi_x509_span;

static psi_x509_span psi_x509_span_of(const void *p, size_t n)
{
    psi_x509_span s;
    s.p = (const uint8_t *)p;
    s.n = n;
    return s;
}

/* The span without its first n bytes. */
static psi_x509_span psi_x509_after(psi_x509_span s, size_t n)
{
    return psi_x509_span_of(s.p + n, s.n - n);
}

static int psi_x509_same(psi_x509_span a, psi_x509_span b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* Where in s a string of n characters first is; s.n if nowhere. */
static size_t psi_x509_find(psi_x509_span s, const char *what, size_t n)
{
    size_t i;
    for (i = 0; i + n <= s.n; i++)
        if (s.p[i] == (uint8_t)what[0] && memcmp(s.p + i, what, n) == 0) return i;
    return s.n;
}

/* Compares with the bytes of a string literal. */
#define PSI_X509_IS(span, literal) psi_x509_same(span, psi_x509_span_of(literal, sizeof(literal) - 1))

/* Takes the next element whatever its tag. *body is its content, *whole (may be NULL) the element with its header. */
static int psi_x509_any(psi_x509_span *in, int *tag, psi_x509_span *body, psi_x509_span *whole)
{
    size_t len, head = 2, more;
    if (in->n < 2 || (in->p[0] & 0x1F) == 0x1F) return 0;
    len = in->p[1];
    if (len >= 0x80) {
        more = len & 0x7F;
        if (more < 1 || more > 3 || in->n < 2 + more) return 0;
        for (len = 0; head < 2 + more; head++) len = len << 8 | in->p[head];
        if (len < 0x80 || len >> 8 * (more - 1) == 0) return 0;
    }
    if (len > in->n - head) return 0;
    *tag = in->p[0];
    *body = psi_x509_span_of(in->p + head, len);
    if (whole) *whole = psi_x509_span_of(in->p, head + len);
    *in = psi_x509_after(*in, head + len);
    return 1;
}

/* Takes the next element if it has this tag; otherwise takes nothing. */
static int psi_x509_take(psi_x509_span *in, int tag, psi_x509_span *body)
{
    int got;
    return in->n && in->p[0] == tag && psi_x509_any(in, &got, body, NULL);
}

static int psi_x509_seq(psi_x509_span *in, psi_x509_span *body)
{
    return psi_x509_take(in, 0x30, body);
}

/* Is it one SEQUENCE and nothing else? *body is its content. */
static int psi_x509_only_seq(psi_x509_span in, psi_x509_span *body)
{
    return psi_x509_seq(&in, body) && in.n == 0;
}

/* Is a NULL, or nothing at all, the rest of an AlgorithmIdentifier? */
static int psi_x509_no_params(psi_x509_span in)
{
    return in.n == 0 || PSI_X509_IS(in, "\x05\x00");
}

/* The object identifiers that are looked for, each after its length. */
#define PSI_X509_OIDS(X) \
    X(RSA, "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x01") \
    X(RSA_MD5, "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x04") \
    X(RSA_SHA1, "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x05") \
    X(MGF1, "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x08") \
    X(PSS, "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x0A") \
    X(RSA_SHA256, "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x0B") \
    X(RSA_SHA384, "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x0C") \
    X(RSA_SHA512, "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x0D") \
    X(EC, "\x07\x2A\x86\x48\xCE\x3D\x02\x01") \
    X(P256, "\x08\x2A\x86\x48\xCE\x3D\x03\x01\x07") \
    X(P384, "\x05\x2B\x81\x04\x00\x22") \
    X(P521, "\x05\x2B\x81\x04\x00\x23") \
    X(ECDSA_SHA1, "\x07\x2A\x86\x48\xCE\x3D\x04\x01") \
    X(ECDSA_SHA256, "\x08\x2A\x86\x48\xCE\x3D\x04\x03\x02") \
    X(ECDSA_SHA384, "\x08\x2A\x86\x48\xCE\x3D\x04\x03\x03") \
    X(ECDSA_SHA512, "\x08\x2A\x86\x48\xCE\x3D\x04\x03\x04") \
    X(SHA256, "\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01") \
    X(SHA384, "\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02") \
    X(SHA512, "\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03") \
    X(CPS, "\x08\x2B\x06\x01\x05\x05\x07\x02\x01") \
    X(NOTICE, "\x08\x2B\x06\x01\x05\x05\x07\x02\x02") \
    X(SERVER_AUTH, "\x08\x2B\x06\x01\x05\x05\x07\x03\x01") \
    X(CLIENT_AUTH, "\x08\x2B\x06\x01\x05\x05\x07\x03\x02") \
    X(ANY_EKU, "\x04\x55\x1D\x25\x00")

#define PSI_X(name, bytes) bytes
static const char psi_x509_oids[] = PSI_X509_OIDS(PSI_X);
#undef PSI_X
#define PSI_X(name, bytes) PSI_OID_##name,
enum { PSI_OID_OTHER, PSI_X509_OIDS(PSI_X) PSI_OID_COUNT };
#undef PSI_X

/* Takes an OBJECT IDENTIFIER: every number in the fewest bytes (X.690 8.19.2), so that there is one way to write it. */
static int psi_x509_take_oid(psi_x509_span *in, psi_x509_span *oid)
{
    size_t i;
    int starts = 1;
    if (!psi_x509_take(in, 0x06, oid)) return 0;
    for (i = 0; i < oid->n; i++) {
        if (starts && oid->p[i] == 0x80) return 0;
        starts = oid->p[i] < 0x80;
    }
    return oid->n && starts;
}

/* The same by number: PSI_OID_*, or -1 if there is none. */
static int psi_x509_oid(psi_x509_span *in)
{
    psi_x509_span oid;
    const char *p = psi_x509_oids;
    int id = 1;
    if (!psi_x509_take_oid(in, &oid)) return -1;
    for (; *p; p += 1 + *p, id++)
        if (psi_x509_same(oid, psi_x509_span_of(p + 1, (size_t)*p))) return id;
    return PSI_OID_OTHER;
}

/* Takes an INTEGER in its canonical form; sign and leading zero are left in *body. */
static int psi_x509_int(psi_x509_span *in, psi_x509_span *body)
{
    if (!psi_x509_take(in, 0x02, body) || body->n == 0) return 0;
    return body->n == 1 || (body->p[0] != 0 && body->p[0] != 0xFF) || (body->p[0] ^ body->p[1]) >= 0x80;
}

/* Takes an INTEGER above zero, without the leading zero. */
static int psi_x509_uint(psi_x509_span *in, psi_x509_span *body)
{
    if (!psi_x509_int(in, body) || body->p[0] >= 0x80) return 0;
    if (body->p[0] == 0) *body = psi_x509_after(*body, 1);
    return body->n != 0;
}

/* Takes an INTEGER of 0 to 32767. */
static int psi_x509_small(psi_x509_span *in, int *value)
{
    psi_x509_span v;
    if (!psi_x509_int(in, &v) || v.n > 2 || v.p[0] >= 0x80) return 0;
    *value = v.n == 1 ? v.p[0] : v.p[0] << 8 | v.p[1];
    return 1;
}

/* Takes a BOOLEAN DEFAULT FALSE. */
static int psi_x509_bool(psi_x509_span *in, int *value)
{
    psi_x509_span v;
    *value = 0;
    if (in->n == 0 || in->p[0] != 0x01) return 1;
    if (!psi_x509_take(in, 0x01, &v) || v.n != 1) return 0;
    *value = v.p[0] != 0;
    return v.p[0] == 0 || v.p[0] == 0xFF;
}

/* Takes a BIT STRING of whole bytes. */
static int psi_x509_bits(psi_x509_span *in, psi_x509_span *body)
{
    if (!psi_x509_take(in, 0x03, body) || body->n < 1 || body->p[0] != 0) return 0;
    *body = psi_x509_after(*body, 1);
    return 1;
}

/* Days from 1970-01-01 to a date of the Gregorian calendar. */
static int64_t psi_x509_days(int y, int m, int d)
{
    int64_t year = y + 400 - (m <= 2), month = (m + 9) % 12; /* years that start in March end with the leap day */
    return year * 365 + year / 4 - year / 100 + year / 400 - 146097 + (month * 153 + 2) / 5 + d - 1 - 719468;
}

/* Takes UTCTime or GeneralizedTime as RFC 5280 4.1.2.5 wants them: with seconds, in UTC, without fractions. */
static int psi_x509_time(psi_x509_span *in, int64_t *seconds)
{
    static const int most[7] = {99, 99, 12, 31, 23, 59, 59};
    psi_x509_span t;
    int f[7] = {0}, tag, year, i, d; /* century, year, month, day, hour, minute, second */
    if (!psi_x509_any(in, &tag, &t, NULL)) return 0;
    if (!(tag == 0x17 && t.n == 13) && !(tag == 0x18 && t.n == 15)) return 0;
    for (i = tag == 0x17 ? 2 : 0; i < 14; i++, t.p++) {
        d = *t.p - '0';
        f[i / 2] = f[i / 2] * 10 + d;
        if (d < 0 || d > 9 || f[i / 2] > most[i / 2]) return 0;
    }
    if (tag == 0x17) f[0] = f[1] < 50 ? 20 : 19;
    year = f[0] * 100 + f[1];
    d = (int)(psi_x509_days(year + (f[2] == 12), f[2] % 12 + 1, 1) - psi_x509_days(year, f[2], 1)); /* of the month */
    if (*t.p != 'Z' || !f[2] || !f[3] || f[3] > d) return 0;
    *seconds = psi_x509_days(year, f[2], f[3]) * 86400 + f[4] * 3600 + f[5] * 60 + f[6];
    return 1;
}

/* --- distinguished names ------------------------------------------------------------------------------------------ */

/* Takes the next attribute of a relative name. */
static int psi_x509_attribute(psi_x509_span *rdn, psi_x509_span *oid, int *tag, psi_x509_span *value)
{
    psi_x509_span a;
    return psi_x509_seq(rdn, &a) && psi_x509_take_oid(&a, oid) && psi_x509_any(&a, tag, value, NULL) && a.n == 0;
}

/* Checks the form of a Name, header included, and hashes what psi_x509_same_name compares. */
static int psi_x509_check_name(psi_x509_span name, uint32_t *hash)
{
    psi_x509_span rdn, oid, value;
    int tag;
    *hash = 2166136261u;
    if (!psi_x509_only_seq(name, &name)) return 0;
    while (name.n) {
        if (!psi_x509_take(&name, 0x31, &rdn) || rdn.n == 0) return 0;
        while (rdn.n) {
            if (!psi_x509_attribute(&rdn, &oid, &tag, &value)) return 0;
            for (; value.n; value = psi_x509_after(value, 1))
                if (*value.p != ' ') *hash = (*hash ^ (uint32_t)psi_lower(*value.p)) * 16777619u;
        }
    }
    return 1;
}

/* Is it text that every string type writes alike, printable ASCII? Of all else, as accents in T61String or in the two
   ways that Unicode has for them, only the same bytes are surely the same. */
static int psi_x509_is_plain(int tag, psi_x509_span s)
{
    if (tag != 0x0C && (tag < 0x12 || tag > 0x16 || tag == 0x15) && tag != 0x1A) return 0;
    while (s.n && *s.p >= ' ' && *s.p <= '~') s = psi_x509_after(s, 1);
    return s.n == 0;
}

/* The next character of a string as RFC 5280 7.1 compares it: lower case, runs of spaces as one, none at the ends. */
static int psi_x509_folded(psi_x509_span *s, int first)
{
    int space = 0;
    for (; s->n && *s->p == ' '; *s = psi_x509_after(*s, 1)) space = !first;
    if (s->n == 0) return -1;
    if (space) return ' ';
    *s = psi_x509_after(*s, 1);
    return psi_lower(s->p[-1]);
}

/* Are two relative names the same? 1, 0, or -1: it depends on who reads them. Real chains need more than the bytes: an
   authority whose tools changed writes PrintableString in its old certificate, UTF8String in its new one (RFC 5280
   4.1.2.4), and what it issued before names it in the old way; and who writes a constraint has other tools again. */
static int psi_x509_same_rdn(psi_x509_span a, psi_x509_span b)
{
    psi_x509_span oa, ob, va, vb;
    int ta, tb, ca, cb, first = 1;
    if (psi_x509_same(a, b)) return 1;
    if (!psi_x509_attribute(&a, &oa, &ta, &va) || !psi_x509_attribute(&b, &ob, &tb, &vb)) return -1;
    if (a.n || b.n) return a.n && b.n ? -1 : 0; /* several attributes are in the order of their encodings */
    if (!psi_x509_same(oa, ob)) return 0;
    if (!psi_x509_is_plain(ta, va) || !psi_x509_is_plain(tb, vb)) return -1;
    do {
        ca = psi_x509_folded(&va, first);
        cb = psi_x509_folded(&vb, first);
        first = 0;
    } while (ca == cb && ca >= 0);
    return ca == cb;
}

/* Does a Name start with all relative names of base? 1, 0, or -1: base is malformed, or it depends. */
static int psi_x509_name_within(psi_x509_span base, psi_x509_span name)
{
    psi_x509_span part, other;
    uint32_t hash;
    int r = 1, same;
    if (!psi_x509_check_name(base, &hash) || !psi_x509_only_seq(base, &base) || !psi_x509_only_seq(name, &name)) return -1;
    while (psi_x509_take(&base, 0x31, &part)) {
        same = psi_x509_take(&name, 0x31, &other) ? psi_x509_same_rdn(part, other) : 0;
        if (same == 0) return 0;
        if (same < 0) r = -1;
    }
    return r;
}

static int psi_x509_same_name(psi_x509_span a, psi_x509_span b)
{
    return psi_x509_same(a, b) || (psi_x509_name_within(a, b) > 0 && psi_x509_name_within(b, a) > 0);
}

/* --- names for people --------------------------------------------------------------------------------------------- */

/* A string that grows in somebody else's memory; what does not fit is left out. It stays terminated. */
typedef struct psi_x509_text {
    char *p;
    size_t size, used;
} psi_x509_text;

PSI_PRINTF(2, 3)
static void psi_x509_put(psi_x509_text *t, const char *format, ...)
{
    va_list ap;
    size_t room = t->size - t->used, n;
    va_start(ap, format);
    n = (size_t)vsnprintf(t->p + t->used, room, format, ap);
    va_end(ap);
    t->used += n < room ? n : room - 1;
}

/* Bytes of the UTF-8 character at s, 0 if it is malformed or a control character that a terminal might obey. */
static size_t psi_x509_utf8(psi_x509_span s)
{
    size_t i, n = s.p[0] < 0x80 ? 1 : s.p[0] < 0xC2 ? 0 : s.p[0] < 0xE0 ? 2 : s.p[0] < 0xF0 ? 3 : s.p[0] < 0xF5 ? 4 : 0;
    if (n > s.n || s.p[0] < 0x20 || s.p[0] == 0x7F || (n == 2 && s.p[0] == 0xC2 && s.p[1] < 0xA0)) return 0;
    for (i = 1; i < n; i++)
        if ((s.p[i] & 0xC0) != 0x80) return 0;
    return n;
}

/* Writes a peer's text: control characters and malformed UTF-8 as a backslash and hex, special ones after one. */
static void psi_x509_put_safe(psi_x509_text *t, psi_x509_span s, const char *special)
{
    size_t n;
    for (; s.n; s = psi_x509_after(s, n ? n : 1)) {
        n = psi_x509_utf8(s);
        if (n) psi_x509_put(t, "%s%.*s", n == 1 && strchr(special, *s.p) ? "\\" : "", (int)n, (const char *)s.p);
        else psi_x509_put(t, "\\%02X", *s.p);
    }
}

/* Writes an attribute type: a short name (RFC 4514 3), or the dotted form, whose first number holds two. */
static void psi_x509_put_type(psi_x509_text *t, psi_x509_span oid)
{
    static const char names[9][13] = {"CN", "SN", "serialNumber", "C", "L", "ST", "STREET", "O", "OU"};
    unsigned long v = 0, top = 0;
    size_t i;
    if (oid.n == 3 && oid.p[0] == 0x55 && oid.p[1] == 4 && oid.p[2] >= 3 && oid.p[2] <= 11) {
        psi_x509_put(t, "%s", names[oid.p[2] - 3]);
    } else if (PSI_X509_IS(oid, "\x09\x92\x26\x89\x93\xF2\x2C\x64\x01\x19")) {
        psi_x509_put(t, "DC");
    } else {
        for (i = 0; i < oid.n; i++) {
            v = v << 7 | (oid.p[i] & 0x7Fu);
            if (oid.p[i] & 0x80) continue;
            if (top == 0) {
                top = v < 80 ? v / 40 : 2;
                psi_x509_put(t, "%lu", top);
                v -= 40 * top++;
            }
            psi_x509_put(t, ".%lu", v);
            v = 0;
        }
    }
}

/* Writes a Name as RFC 4514 does, the most specific part first: "CN=example.org,O=Example". */
static void psi_x509_put_name(psi_x509_text *t, psi_x509_span name)
{
    psi_x509_span rdns[16], rdn, oid, value; /* the last ones, if there are more */
    size_t total = 0, count;
    int tag;
    if (!psi_x509_only_seq(name, &name)) return;
    while (psi_x509_take(&name, 0x31, &rdn)) rdns[total++ % 16] = rdn;
    for (count = total < 16 ? total : 16; count; count--) {
        rdn = rdns[--total % 16];
        while (psi_x509_attribute(&rdn, &oid, &tag, &value)) {
            psi_x509_put_type(t, oid);
            psi_x509_put(t, "=");
            psi_x509_put_safe(t, value, ",+\"\\<>;");
            if (rdn.n) psi_x509_put(t, "+");
        }
        if (count > 1) psi_x509_put(t, ",");
    }
}

/* --- host names (RFC 9525) ---------------------------------------------------------------------------------------- */

/* Is it a host name? Labels of letters, digits, hyphens and (not in DNS, but in real life) underscores; a last label of
   digits would be an IP address to others. *.name is one only if wildcard. */
static int psi_x509_is_dns(psi_x509_span s, int wildcard)
{
    size_t i, label = 0;
    int c, digit, last = '-', letters = 0;
    if (wildcard && s.n > 2 && s.p[0] == '*' && s.p[1] == '.') s = psi_x509_after(s, 2);
    if (s.n > 253) return 0;
    for (i = 0; i <= s.n; i++, last = c) {
        c = i < s.n ? psi_lower(s.p[i]) : '.';
        digit = c >= '0' && c <= '9';
        if (c == '.') {
            if (label == 0 || label > 63 || last == '-') return 0;
            letters = letters && i == s.n;
            label = 0;
        } else {
            if (!digit && (c < 'a' || c > 'z') && c != '_' && (c != '-' || label == 0)) return 0;
            letters |= !digit;
            label++;
        }
    }
    return letters;
}

/* The name that a peer must prove, ready for comparing. An address that IPv6 maps from IPv4 counts in both forms. */
typedef struct psi_x509_host {
    psi_x509_span dns; /* without the trailing dot; empty: an address */
    psi_addr written, plain;
} psi_x509_host;

/* 1, or 0 if nothing could be issued for such a name. h points into name. */
static int psi_x509_host_parse(psi_x509_host *h, const char *name)
{
    size_t n = strlen(name);
    const char *zone = (const char *)memchr(name, '%', n);
    memset(h, 0, sizeof *h);
    if (psi_addr_parse(&h->written, name, zone ? (size_t)(zone - name) : n)) {
        h->plain = h->written;
        psi_addr_normalise(&h->plain);
        return 1;
    }
    if (n && name[n - 1] == '.') n--;
    h->dns = psi_x509_span_of(name, n);
    return psi_x509_is_dns(h->dns, 0);
}

/* Is it this address, as an iPAddress writes it? */
static int psi_x509_is_address(const psi_addr *a, psi_x509_span ip)
{
    return psi_x509_same(ip, psi_x509_span_of(a->ip, a->family == PSI_IP4 ? 4 : 16));
}

/* Does s end like this, whatever the case? */
static int psi_x509_ends_with(psi_x509_span s, psi_x509_span end)
{
    return s.n >= end.n && psi_same_nocase((const char *)s.p + s.n - end.n, (const char *)end.p, end.n);
}

/* Does one subjectAltName entry name this host? 2 exactly, 1 by a wildcard (RFC 9525 6.3), 0 not. */
static int psi_x509_host_is(const psi_x509_host *h, int tag, psi_x509_span name)
{
    psi_x509_span rest = h->dns;
    if (rest.n == 0)
        return tag == 0x87 && (psi_x509_is_address(&h->written, name) || psi_x509_is_address(&h->plain, name)) ? 2 : 0;
    if (tag != 0x82 || !psi_x509_is_dns(name, 1)) return 0;
    if (name.p[0] != '*') return name.n == rest.n && psi_x509_ends_with(name, rest) ? 2 : 0;
    if (!memchr(name.p + 2, '.', name.n - 2)) return 0; /* *.org */
    rest = psi_x509_after(rest, psi_x509_find(rest, ".", 1));
    return rest.n == name.n - 1 && psi_x509_ends_with(name, rest);
}

/* --- certificates ------------------------------------------------------------------------------------------------- */

enum { PSI_X509_PKCS1 = 1, PSI_X509_PSS, PSI_X509_ECDSA };
enum { PSI_X509_SERVER_AUTH = 1, PSI_X509_CLIENT_AUTH = 2, PSI_X509_ANY_EKU = 4 };
enum { PSI_X509_KU_SIGN = 0x80, PSI_X509_KU_CERT_SIGN = 0x04 }; /* bits of the extension's first byte */

/* When a flaw matters: if a signature by its issuer counts, unless the certificate is trusted itself, whenever its key is
   used, always. Of several the last one in this order is kept, of its kind the first. */
enum { PSI_X509_SIGNED = 1, PSI_X509_UNTRUSTED, PSI_X509_USED, PSI_X509_ALWAYS };

typedef struct psi_x509_alg {
    int kind, hash, salt; /* PSI_X509_*, a BearSSL hash number, PSS salt length */
} psi_x509_alg;

/* One certificate, read once. Everything points into der. */
typedef struct psi_x509_cert {
    psi_x509_span der, tbs, sig, issuer, subject, spki; /* all but sig with their headers */
    psi_x509_span ski, aki, san, constraints;
    int64_t not_before, not_after;
    uint32_t issuer_hash, subject_hash;
    br_x509_pkey key; /* key_type 0: none that can be used */
    int pss_key;      /* the key may only make PSS signatures, of key_alg if that has a kind */
    psi_x509_alg alg, key_alg;
    int version, self_issued, ca, path_len; /* path_len -1: no limit */
    int usage, extended; /* key usage and extended key usage bits, -1 if the extension is absent */
    int san_critical, constraints_critical;
    int readable;         /* its subject and its key, at least */
    int when, code;       /* its flaw: PSI_X509_*, 0 none */
    const char *why;
} psi_x509_cert;

/* How many certificates were parsed, for the tests. */
#ifdef PSOCKET_CHECK
static unsigned long psi_x509_parses;
#define PSI_X509_PARSES() ((void)psi_x509_parses++)
#else
#define PSI_X509_PARSES() ((void)0)
#endif

static void psi_x509_flaw(psi_x509_cert *c, int when, int code, const char *why)
{
    if (when <= c->when) return;
    c->when = when;
    c->code = code;
    c->why = why;
}

static unsigned char *psi_x509_slice(psi_x509_span s, size_t *n)
{
    *n = s.n;
    return (unsigned char *)(uintptr_t)s.p;
}

/* The hash that an AlgorithmIdentifier names, 0 if it is not SHA-256, SHA-384 or SHA-512. */
static int psi_x509_hash_alg(psi_x509_span alg)
{
    int oid = psi_x509_oid(&alg);
    if (oid < PSI_OID_SHA256 || oid > PSI_OID_SHA512 || !psi_x509_no_params(alg)) return 0;
    return br_sha256_ID + oid - PSI_OID_SHA256;
}

/* RSASSA-PSS-params (RFC 4055 3.1): 1, or 0 if they are malformed or of another hash. Absent fields mean SHA-1. */
static int psi_x509_pss_params(psi_x509_span in, psi_x509_alg *alg)
{
    psi_x509_span p, field, hash, mgf, mgf_hash;
    int value;
    alg->kind = PSI_X509_PSS;
    alg->salt = 20;
    if (!psi_x509_only_seq(in, &p)) return 0;
    if (!psi_x509_take(&p, 0xA0, &field) || !psi_x509_only_seq(field, &hash)) return 0;
    if (!psi_x509_take(&p, 0xA1, &field) || !psi_x509_only_seq(field, &mgf)) return 0;
    if (psi_x509_oid(&mgf) != PSI_OID_MGF1 || !psi_x509_only_seq(mgf, &mgf_hash)) return 0;
    alg->hash = psi_x509_hash_alg(hash);
    if (!alg->hash || alg->hash != psi_x509_hash_alg(mgf_hash)) return 0;
    if (psi_x509_take(&p, 0xA2, &field) && (!psi_x509_small(&field, &alg->salt) || field.n)) return 0;
    if (psi_x509_take(&p, 0xA3, &field) && (!psi_x509_small(&field, &value) || field.n || value != 1)) return 0;
    return p.n == 0;
}

/* Reads the signature algorithm from an AlgorithmIdentifier. */
static void psi_x509_read_alg(psi_x509_cert *c, psi_x509_span in)
{
    psi_x509_span params;
    int oid = psi_x509_only_seq(in, &params) ? psi_x509_oid(&params) : -1, ok = oid >= 0;
    if (oid == PSI_OID_PSS) {
        if (!psi_x509_pss_params(params, &c->alg))
            psi_x509_flaw(c, PSI_X509_SIGNED, PSOCKET_CERT_ALGORITHM, "is signed with RSA-PSS of an unsupported kind");
    } else if (oid == PSI_OID_RSA_MD5 || oid == PSI_OID_RSA_SHA1 || oid == PSI_OID_ECDSA_SHA1) {
        psi_x509_flaw(c, PSI_X509_SIGNED, PSOCKET_CERT_WEAK, "is signed with SHA-1 or MD5, which are broken");
    } else if (oid >= PSI_OID_RSA_SHA256 && oid <= PSI_OID_RSA_SHA512) {
        c->alg.kind = PSI_X509_PKCS1;
        c->alg.hash = br_sha256_ID + oid - PSI_OID_RSA_SHA256;
        ok = psi_x509_no_params(params);
    } else if (oid >= PSI_OID_ECDSA_SHA256 && oid <= PSI_OID_ECDSA_SHA512) {
        c->alg.kind = PSI_X509_ECDSA;
        c->alg.hash = br_sha256_ID + oid - PSI_OID_ECDSA_SHA256;
        ok = params.n == 0;
    } else {
        psi_x509_flaw(c, PSI_X509_SIGNED, PSOCKET_CERT_ALGORITHM, "is signed with an unsupported algorithm");
    }
    if (!ok) psi_x509_flaw(c, PSI_X509_UNTRUSTED, PSOCKET_CERT_MALFORMED, "has a malformed signature algorithm");
}

/* Takes the identifier of a curve: 0 if it is not one of ours. */
static int psi_x509_curve(psi_x509_span *in)
{
    int oid = psi_x509_oid(in);
    return oid >= PSI_OID_P256 && oid <= PSI_OID_P521 && in->n == 0 ? BR_EC_secp256r1 + oid - PSI_OID_P256 : 0;
}

/* Bytes of a coordinate, or of the order. */
static size_t psi_x509_curve_bytes(int curve)
{
    return curve == BR_EC_secp256r1 ? 32 : curve == BR_EC_secp384r1 ? 48 : 66;
}

static size_t psi_x509_bit_length(psi_x509_span v)
{
    size_t bits = (v.n - 1) * 8;
    int top;
    for (top = v.p[0]; top; top >>= 1) bits++;
    return bits;
}

/* RSAPublicKey (RFC 8017 A.1.1): 0 if it is malformed. */
static int psi_x509_read_rsa(psi_x509_cert *c, psi_x509_span in)
{
    psi_x509_span rsa, n, e;
    const char *why = NULL;
    size_t bits;
    if (!psi_x509_only_seq(in, &rsa) || !psi_x509_uint(&rsa, &n) || !psi_x509_uint(&rsa, &e) || rsa.n) return 0;
    bits = psi_x509_bit_length(n);
    if (bits < 2048)
        psi_x509_flaw(c, PSI_X509_USED, PSOCKET_CERT_WEAK, "has an RSA key of less than 2048 bits");
    else if (bits > 4096) why = "has an RSA key of more than 4096 bits";
    else if (bits % 8 || e.n > 4 || (e.n == 1 && e.p[0] < 3) || !(n.p[n.n - 1] & e.p[e.n - 1] & 1))
        why = "has an unusual RSA key";
    if (why) psi_x509_flaw(c, PSI_X509_USED, PSOCKET_CERT_ALGORITHM, why);
    if (why || bits < 2048) return 1;
    c->key.key_type = BR_KEYTYPE_RSA;
    c->key.key.rsa.n = psi_x509_slice(n, &c->key.key.rsa.nlen);
    c->key.key.rsa.e = psi_x509_slice(e, &c->key.key.rsa.elen);
    return 1;
}

/* Reads SubjectPublicKeyInfo: 0 if it is malformed. What is well-formed and cannot be used is a flaw. */
static int psi_x509_read_key(psi_x509_cert *c)
{
    psi_x509_span in, alg, bits;
    int oid, curve;
    if (!psi_x509_only_seq(c->spki, &in) || !psi_x509_seq(&in, &alg)) return 0;
    oid = psi_x509_oid(&alg);
    if (oid < 0 || !psi_x509_bits(&in, &bits) || in.n) return 0;
    if (oid == PSI_OID_RSA) return alg.n && psi_x509_no_params(alg) && psi_x509_read_rsa(c, bits);
    if (oid == PSI_OID_PSS) {
        c->pss_key = 1;
        if (alg.n && !psi_x509_pss_params(alg, &c->key_alg))
            psi_x509_flaw(c, PSI_X509_USED, PSOCKET_CERT_ALGORITHM, "has an RSA-PSS key of an unsupported kind");
        return psi_x509_read_rsa(c, bits);
    }
    curve = oid == PSI_OID_EC ? psi_x509_curve(&alg) : 0;
    if (!curve) {
        psi_x509_flaw(c, PSI_X509_USED, PSOCKET_CERT_ALGORITHM, "has a key that is neither RSA nor on P-256, P-384 or P-521");
        return 1;
    }
    c->key.key_type = BR_KEYTYPE_EC;
    c->key.key.ec.curve = curve;
    c->key.key.ec.q = psi_x509_slice(bits, &c->key.key.ec.qlen);
    return bits.n == 1 + 2 * psi_x509_curve_bytes(curve) && bits.p[0] == 4; /* RFC 5480 2.2, uncompressed */
}

/* The tags of a GeneralName, [0] to [8]. */
static const uint8_t psi_x509_general[9] = {0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88};

/* Is a GeneralName well-formed? Text is ASCII without NUL, an address has 4 or 16 bytes. */
static int psi_x509_check_general(int tag, psi_x509_span name)
{
    uint32_t hash;
    if (tag == 0x87) return name.n == 4 || name.n == 16;
    if (tag == 0xA4) return psi_x509_check_name(name, &hash);
    if (tag != 0x81 && tag != 0x82 && tag != 0x86) return memchr(psi_x509_general, tag, sizeof psi_x509_general) != NULL;
    if (name.n == 0) return 0;
    while (name.n && *name.p && *name.p <= '~') name = psi_x509_after(name, 1);
    return name.n == 0;
}

static int psi_x509_check_san(psi_x509_span names)
{
    psi_x509_span name;
    int tag, ok = names.n != 0;
    while (ok && names.n) ok = psi_x509_any(&names, &tag, &name, NULL) && psi_x509_check_general(tag, name);
    return ok;
}

/* authorityInfoAccess is not used, but checked. */
static int psi_x509_check_access(psi_x509_span list)
{
    psi_x509_span one, v;
    int ok = list.n != 0;
    while (ok && list.n) ok = psi_x509_seq(&list, &one) && psi_x509_take_oid(&one, &v) && psi_x509_check_san(one);
    return ok;
}

/* The qualifiers of a critical policy must be understood (RFC 5280 4.2.1.4): a pointer to a text, or a text. */
static int psi_x509_check_qualifiers(psi_x509_cert *c, psi_x509_span in)
{
    psi_x509_span list, one, v;
    int tag, oid, ok = psi_x509_only_seq(in, &list) && list.n;
    while (ok && list.n) {
        oid = psi_x509_seq(&list, &one) ? psi_x509_oid(&one) : -1;
        ok = oid >= 0 && psi_x509_any(&one, &tag, &v, NULL) && one.n == 0;
        if (ok && oid == PSI_OID_CPS) ok = tag == 0x16;
        else if (ok && oid == PSI_OID_NOTICE) ok = tag == 0x30;
        else if (ok) psi_x509_flaw(c, PSI_X509_ALWAYS, PSOCKET_CERT_CRITICAL, "has a critical policy of an unknown kind");
    }
    return ok;
}

static int psi_x509_check_policies(psi_x509_cert *c, psi_x509_span list)
{
    psi_x509_span one, v;
    int ok = list.n != 0;
    while (ok && list.n)
        ok = psi_x509_seq(&list, &one) && psi_x509_take_oid(&one, &v) && (!one.n || psi_x509_check_qualifiers(c, one));
    return ok;
}

/* PolicyConstraints: two numbers with tags of their own, of which the first would need the policies of the path. */
static int psi_x509_check_explicit(psi_x509_cert *c, psi_x509_span seq)
{
    psi_x509_span v;
    int i, ok = seq.n != 0;
    for (i = 0; i < 2; i++) {
        if (!psi_x509_take(&seq, 0x80 + i, &v)) continue;
        ok = ok && v.n && v.p[0] < 0x80;
        if (i == 0)
            psi_x509_flaw(c, PSI_X509_ALWAYS, PSOCKET_CERT_CRITICAL, "requires explicit policies, which are not supported");
    }
    return ok && seq.n == 0;
}

/* The purposes that ExtKeyUsageSyntax lists: PSI_X509_*_AUTH and PSI_X509_ANY_EKU, -1 if it is malformed. */
static int psi_x509_purposes(psi_x509_span list)
{
    int set = list.n ? 0 : -1, oid;
    while (list.n) {
        oid = psi_x509_oid(&list);
        if (oid < 0) return -1;
        if (oid >= PSI_OID_SERVER_AUTH) set |= 1 << (oid - PSI_OID_SERVER_AUTH);
    }
    return set;
}

/* What an authority may issue, and a key be used for, by the last byte of the extension's identifier: NULL if it is another
   extension, *ok 0 if it is malformed. */
static const char *psi_x509_read_powers(psi_x509_cert *c, int id, psi_x509_span in, int critical, int *ok)
{
    psi_x509_span seq = {NULL, 0}, v;
    int is_seq = psi_x509_only_seq(in, &seq);
    switch (id) {
    case 0x0F:
        *ok = psi_x509_take(&in, 0x03, &v) && in.n == 0 && (v.n == 2 || v.n == 3) && v.p[0] < 8 &&
              !(v.p[v.n - 1] & ((1 << v.p[0]) - 1));
        if (*ok) c->usage = v.p[1];
        return "has a malformed keyUsage";
    case 0x13:
        *ok = is_seq && psi_x509_bool(&seq, &c->ca);
        if (*ok && seq.n) {
            *ok = psi_x509_int(&seq, &v) && seq.n == 0 && v.p[0] < 0x80;
            if (*ok) c->path_len = v.n == 1 ? v.p[0] : 32767;
        }
        return "has a malformed basicConstraints";
    case 0x1E:
        c->constraints = seq;
        c->constraints_critical = critical;
        *ok = is_seq && seq.n;
        if (psi_x509_take(&seq, 0xA0, &v) && !v.n) *ok = 0;
        if ((psi_x509_take(&seq, 0xA1, &v) && !v.n) || seq.n) *ok = 0;
        return "has malformed nameConstraints";
    case 0x24: *ok = is_seq && psi_x509_check_explicit(c, seq); return "has malformed policyConstraints";
    case 0x25: *ok = is_seq && (c->extended = psi_x509_purposes(seq)) >= 0; return "has a malformed extKeyUsage";
    default: return NULL;
    }
}

/* The same for all others. Nobody here asks for policies, so any will do, and nothing comes of how they map nor of what
   anyPolicy no longer means; but what is critical has to be understood. */
static const char *psi_x509_read_others(psi_x509_cert *c, int id, psi_x509_span in, int critical, int *ok)
{
    psi_x509_span seq = {NULL, 0}, v;
    int is_seq = psi_x509_only_seq(in, &seq);
    switch (id) {
    case 0x0E: *ok = !critical && psi_x509_take(&in, 0x04, &c->ski) && in.n == 0; return "has a malformed subjectKeyIdentifier";
    case 0x11:
        c->san = seq;
        c->san_critical = critical;
        *ok = is_seq && psi_x509_check_san(seq);
        return "has a malformed subjectAltName";
    case 0x20: *ok = is_seq && seq.n && (!critical || psi_x509_check_policies(c, seq)); return "has malformed certificatePolicies";
    case 0x21: *ok = !critical || (is_seq && seq.n); return "has malformed policyMappings";
    case 0x23:
        *ok = !critical && is_seq;
        psi_x509_take(&seq, 0x80, &c->aki);
        return "has a malformed authorityKeyIdentifier";
    case 0x36: *ok = !critical || (psi_x509_int(&in, &v) && in.n == 0); return "has a malformed inhibitAnyPolicy";
    case 0x101: *ok = is_seq && psi_x509_check_access(seq); return "has a malformed authorityInfoAccess";
    default: return NULL;
    }
}

static void psi_x509_read_extension(psi_x509_cert *c, psi_x509_span oid, psi_x509_span value, int critical)
{
    int id = 0, ok = 1, when = PSI_X509_ALWAYS;
    const char *why;
    if (oid.n == 3 && oid.p[0] == 0x55 && oid.p[1] == 0x1D) id = oid.p[2];
    if (!critical && PSI_X509_IS(oid, "\x2B\x06\x01\x05\x05\x07\x01\x01")) id = 0x101;
    why = psi_x509_read_powers(c, id, value, critical, &ok);
    if (!why) {
        why = psi_x509_read_others(c, id, value, critical, &ok);
        if (!critical) when = PSI_X509_UNTRUSTED;
    }
    if (!ok) psi_x509_flaw(c, when, PSOCKET_CERT_MALFORMED, why);
    if (!why && critical) psi_x509_flaw(c, PSI_X509_ALWAYS, PSOCKET_CERT_CRITICAL, "has an unknown critical extension");
}

/* Reads all extensions: 0 if their list is malformed. */
static int psi_x509_read_extensions(psi_x509_cert *c, psi_x509_span in)
{
    psi_x509_span seen[PSI_X509_EXTENSIONS], list, ext, value;
    int count, i, critical;
    if (!psi_x509_only_seq(in, &list) || list.n == 0) return 0;
    for (count = 0; list.n; count++) {
        if (count == PSI_X509_EXTENSIONS || !psi_x509_seq(&list, &ext) || !psi_x509_take_oid(&ext, &seen[count]) ||
            !psi_x509_bool(&ext, &critical) || !psi_x509_take(&ext, 0x04, &value) || ext.n)
            return 0;
        for (i = 0; i < count; i++)
            if (psi_x509_same(seen[i], seen[count])) return 0;
        psi_x509_read_extension(c, seen[count], value, critical);
    }
    return 1;
}

/* What follows the key: unique identifiers and extensions. NULL, or what is wrong. */
static const char *psi_x509_read_tail(psi_x509_cert *c, psi_x509_span in)
{
    psi_x509_span v;
    int i;
    for (i = 0; c->version && i < 2; i++)
        if (psi_x509_take(&in, 0x81 + i, &v) && v.n == 0) return "has a malformed unique identifier";
    if (c->version == 2 && psi_x509_take(&in, 0xA3, &v) && !psi_x509_read_extensions(c, v))
        psi_x509_flaw(c, PSI_X509_ALWAYS, PSOCKET_CERT_MALFORMED, "has a malformed or repeated extension");
    return in.n ? "has bytes after its body" : NULL;
}

/* What RFC 5280 demands of every certificate that it covers, though one that is trusted need not keep to it. */
static const char *psi_x509_check_profile(const psi_x509_cert *c, psi_x509_span serial)
{
    if (c->version < 2) return "is not of version 3";
    if (serial.p[0] >= 0x80 || (serial.n == 1 && serial.p[0] == 0) || serial.n - (serial.p[0] == 0) > 20)
        return "has a serial number below 1 or over 20 bytes";
    if (c->issuer.n <= 2 || (c->subject.n <= 2 && (c->ca || !c->san_critical))) return "lacks an issuer or a subject";
    if (!c->ca && (c->path_len >= 0 || c->constraints.n)) return "limits authorities below it without being one";
    return NULL;
}

/* Reads the parts of a certificate's body: NULL, or what is wrong. alg: the algorithm beside the signature. */
static const char *psi_x509_read_body(psi_x509_cert *c, psi_x509_span tbs, psi_x509_span alg)
{
    enum { SERIAL, ALG, ISSUER, DATES, SUBJECT, SPKI, FIELDS };
    psi_x509_span v, serial, field[FIELDS];
    int tag, i, version, issuer, subject, key;
    const char *tail;
    version = !psi_x509_take(&tbs, 0xA0, &v) ||
              (psi_x509_small(&v, &c->version) && v.n == 0 && (c->version == 1 || c->version == 2));
    for (i = 0; i < FIELDS; i++)
        if (!psi_x509_any(&tbs, &tag, &v, &field[i])) return "has a malformed body";
    c->issuer = field[ISSUER];
    c->subject = field[SUBJECT];
    c->spki = field[SPKI];
    issuer = psi_x509_check_name(c->issuer, &c->issuer_hash);
    subject = psi_x509_check_name(c->subject, &c->subject_hash);
    c->self_issued = c->subject_hash == c->issuer_hash && psi_x509_same_name(c->subject, c->issuer);
    key = psi_x509_read_key(c);
    c->readable = subject && key;
    psi_x509_read_alg(c, field[ALG]);
    tail = psi_x509_read_tail(c, tbs);
    if (!version) return "has an unknown version";
    if (!psi_x509_int(&field[SERIAL], &serial)) return "has a malformed serial number";
    if (!psi_x509_same(alg, field[ALG])) return "has two signature algorithms that differ";
    if (!issuer || !subject) return "has a malformed issuer or subject";
    if (!psi_x509_only_seq(field[DATES], &v) || !psi_x509_time(&v, &c->not_before) || !psi_x509_time(&v, &c->not_after) ||
        v.n)
        return "has malformed dates";
    return !key ? "has a malformed public key" : tail ? tail : psi_x509_check_profile(c, serial);
}

/* Reads a certificate. Whatever is wrong with it becomes its flaw. */
static void psi_x509_parse(psi_x509_cert *c, const uint8_t *der, size_t len)
{
    psi_x509_span in, cert, tbs, alg, v;
    const char *why = "is not DER, or bytes follow it", *body;
    int tag;
    PSI_X509_PARSES();
    memset(c, 0, sizeof *c);
    c->der = in = psi_x509_span_of(der, len);
    c->path_len = c->usage = c->extended = -1;
    if (psi_x509_seq(&in, &cert) && psi_x509_any(&cert, &tag, &tbs, &c->tbs) && tag == 0x30 &&
        psi_x509_any(&cert, &tag, &v, &alg)) {
        body = psi_x509_read_body(c, tbs, alg);
        if (in.n == 0) why = psi_x509_bits(&cert, &c->sig) && cert.n == 0 ? body : "has a malformed signature";
    }
    if (why) psi_x509_flaw(c, c->readable ? PSI_X509_UNTRUSTED : PSI_X509_ALWAYS, PSOCKET_CERT_MALFORMED, why);
    if (!c->ca && c->usage >= 0 && (c->usage & PSI_X509_KU_CERT_SIGN))
        psi_x509_flaw(c, PSI_X509_UNTRUSTED, PSOCKET_CERT_USAGE, "may sign certificates but is not an authority");
}

/* 2 if an alternative name of c is exactly h, 1 if a wildcard covers it, 0 if it is for others. */
static int psi_x509_names(const psi_x509_cert *c, const psi_x509_host *h)
{
    psi_x509_span san = c->san, name;
    int tag, r, best = 0;
    while (psi_x509_any(&san, &tag, &name, NULL)) {
        r = psi_x509_host_is(h, tag, name);
        if (r > best) best = r;
    }
    return best;
}

/* Writes what people call a certificate: its subject, else its first alternative name. */
static void psi_x509_put_label(psi_x509_text *t, const psi_x509_cert *c)
{
    psi_x509_span san = c->san, name;
    size_t before = t->used;
    int tag;
    psi_x509_put_name(t, c->subject);
    if (t->used == before && psi_x509_any(&san, &tag, &name, NULL) && tag == 0x82) psi_x509_put_safe(t, name, "");
    if (t->used == before) psi_x509_put(t, "a certificate without a subject");
}

static void psi_x509_sha256(psi_x509_span s, uint8_t out[32])
{
    br_sha256_context h;
    br_sha256_init(&h);
    br_sha256_update(&h, s.p, s.n);
    br_sha256_out(&h, out);
}

/* Tells what a certificate says, with its strings in buf (of at least 2 bytes), cut off where that ends. */
static PSI_UNUSED void psi_x509_info(const psi_x509_cert *c, psocket_certinfo *info, char *buf, size_t buf_size)
{
    psi_x509_text subject = {NULL, 0, 0}, issuer;
    subject.p = buf;
    subject.size = buf_size / 2;
    issuer = subject;
    issuer.p += subject.size;
    *subject.p = *issuer.p = 0;
    psi_x509_put_name(&subject, c->subject);
    psi_x509_put_name(&issuer, c->issuer);
    info->subject = subject.p;
    info->issuer = issuer.p;
    info->not_before = c->not_before;
    info->not_after = c->not_after;
    psi_x509_sha256(c->der, info->sha256);
    psi_x509_sha256(c->spki, info->spki_sha256);
}

/* --- signatures --------------------------------------------------------------------------------------------------- */

static const br_hash_class *psi_x509_hash_class(int hash)
{
    return hash == br_sha256_ID ? &br_sha256_vtable : hash == br_sha384_ID ? &br_sha384_vtable : &br_sha512_vtable;
}

static size_t psi_x509_hash_len(int hash)
{
    return hash == br_sha256_ID ? 32 : hash == br_sha384_ID ? 48 : 64;
}

static const unsigned char *psi_x509_hash_oid(int hash)
{
    return hash == br_sha256_ID ? BR_HASH_OID_SHA256 : hash == br_sha384_ID ? BR_HASH_OID_SHA384 : BR_HASH_OID_SHA512;
}

/* MGF1 (RFC 8017 B.2.1): xors the mask that grows from seed onto data. */
static void psi_x509_mgf1(int hash, const uint8_t *seed, uint8_t *data, size_t n)
{
    const br_hash_class *hc = psi_x509_hash_class(hash);
    br_hash_compat_context h;
    uint8_t mask[64], counter[4] = {0, 0, 0, 0};
    size_t i, len = psi_x509_hash_len(hash);
    for (; n; counter[3]++) {
        hc->init(&h.vtable);
        hc->update(&h.vtable, seed, len);
        hc->update(&h.vtable, counter, 4);
        hc->out(&h.vtable, mask);
        for (i = 0; i < len && n; i++, n--) *data++ ^= mask[i];
    }
}

/* EMSA-PSS-ENCODE (RFC 8017 9.1.1) into em of n bytes, for keys of 8 n bits. */
static int psi_x509_pss_encode(const psi_x509_alg *alg, const uint8_t *digest, const uint8_t *salt, uint8_t *em, size_t n)
{
    static const uint8_t zero[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    const br_hash_class *hc = psi_x509_hash_class(alg->hash);
    br_hash_compat_context h;
    size_t len = psi_x509_hash_len(alg->hash), room = (size_t)alg->salt, db = n - len - 1;
    if (n < len + room + 2) return 0;
    hc->init(&h.vtable);
    hc->update(&h.vtable, zero, sizeof zero);
    hc->update(&h.vtable, digest, len);
    hc->update(&h.vtable, salt, room);
    hc->out(&h.vtable, em + db);
    memset(em, 0, db);
    em[db - room - 1] = 1;
    memcpy(em + db - room, salt, room);
    psi_x509_mgf1(alg->hash, em + db, em, db);
    em[0] &= 0x7F;
    em[n - 1] = 0xBC;
    return 1;
}

/* Verifies by encoding the same with the salt that is found: all that is not as it should be differs. */
static int psi_x509_check_pss(const br_rsa_public_key *key, const psi_x509_alg *alg, const uint8_t *digest,
                              psi_x509_span sig)
{
    uint8_t em[PSI_X509_SIGNATURE], block[PSI_X509_SIGNATURE], want[PSI_X509_SIGNATURE];
    size_t n = key->nlen, len = psi_x509_hash_len(alg->hash), room = (size_t)alg->salt, db = n - len - 1;
    if (sig.n != n || n > sizeof em || n < len + room + 2) return 0;
    memcpy(em, sig.p, n);
    if (!br_rsa_public_get_default()(em, n, key)) return 0;
    memcpy(block, em, db);
    psi_x509_mgf1(alg->hash, em + db, block, db);
    return psi_x509_pss_encode(alg, digest, block + db - room, want, n) && memcmp(em, want, n) == 0;
}

/* Ecdsa-Sig-Value (RFC 3279 2.2.3): BearSSL's own reader takes more than DER. */
static int psi_x509_check_ecdsa(const br_ec_public_key *key, const psi_x509_alg *alg, const uint8_t *digest,
                                psi_x509_span sig)
{
    size_t n = psi_x509_curve_bytes(key->curve), len = psi_x509_hash_len(alg->hash);
    psi_x509_span seq, r, s;
    uint8_t raw[132] = {0};
    if (!psi_x509_only_seq(sig, &seq) || !psi_x509_uint(&seq, &r) || !psi_x509_uint(&seq, &s)) return 0;
    if (seq.n || r.n > n || s.n > n) return 0;
    memcpy(raw + n - r.n, r.p, r.n);
    memcpy(raw + 2 * n - s.n, s.p, s.n);
    return br_ecdsa_vrfy_raw_get_default()(br_ec_get_default(), digest, len, key, raw, 2 * n) == 1;
}

/* Do a key and an algorithm fit? key_alg is what an RSA-PSS key is limited to (RFC 4055 3.3). */
static int psi_x509_fits(int key_type, int pss_key, const psi_x509_alg *key_alg, const psi_x509_alg *alg)
{
    if (!alg->kind || key_type != (alg->kind == PSI_X509_ECDSA ? BR_KEYTYPE_EC : BR_KEYTYPE_RSA)) return 0;
    if (alg->kind == PSI_X509_PKCS1) return !pss_key;
    return alg->kind != PSI_X509_PSS || !key_alg->kind || (key_alg->hash == alg->hash && key_alg->salt <= alg->salt);
}

/* Did the key of c make this signature over a digest of alg->hash? Of PSS alg->salt must be the salt's length. */
static int psi_x509_signed(const psi_x509_cert *c, const psi_x509_alg *alg, const uint8_t *digest, psi_x509_span sig)
{
    size_t len = psi_x509_hash_len(alg->hash);
    uint8_t got[64];
    if (!psi_x509_fits(c->key.key_type, c->pss_key, &c->key_alg, alg)) return 0;
    if (alg->kind == PSI_X509_ECDSA) return psi_x509_check_ecdsa(&c->key.key.ec, alg, digest, sig);
    if (alg->kind == PSI_X509_PSS) return psi_x509_check_pss(&c->key.key.rsa, alg, digest, sig);
    return br_rsa_pkcs1_vrfy_get_default()(sig.p, sig.n, psi_x509_hash_oid(alg->hash), len, &c->key.key.rsa, got) == 1 &&
           memcmp(digest, got, len) == 0;
}

/* Is child signed with issuer's key? */
static int psi_x509_check_signature(const psi_x509_cert *issuer, const psi_x509_cert *child)
{
    const br_hash_class *hc = psi_x509_hash_class(child->alg.hash);
    br_hash_compat_context h;
    uint8_t digest[64];
    hc->init(&h.vtable);
    hc->update(&h.vtable, child->tbs.p, child->tbs.n);
    hc->out(&h.vtable, digest);
    return psi_x509_signed(issuer, &child->alg, digest, child->sig);
}

/* --- PEM ---------------------------------------------------------------------------------------------------------- */

/* Does a BEGIN at p[at] start its line? Blanks, a byte order mark and the dashes of a glued file may stand before it. */
static int psi_x509_starts_line(const uint8_t *p, size_t at)
{
    while (at && (p[at - 1] == ' ' || p[at - 1] == '\t' || p[at - 1] == '-' || p[at - 1] >= 0xBB)) at--;
    return at == 0 || p[at - 1] == '\n' || p[at - 1] == '\r';
}

/* Takes the next block of a text: 1 and its label and body, 0 at the end, -1 if a block is cut off or its END does not
   match. */
static int psi_x509_pem_next(psi_x509_span *in, psi_x509_span *label, psi_x509_span *body)
{
    const uint8_t *text = in->p;
    psi_x509_span rest = *in;
    size_t at, n;
    do {
        at = psi_x509_find(rest, "-----BEGIN ", 11);
        if (at == rest.n) return 0;
        rest = psi_x509_after(rest, at + 11);
    } while (!psi_x509_starts_line(text, (size_t)(rest.p - text) - 11));
    *in = rest;
    n = psi_x509_find(rest, "-----", 5);
    if (n > 64 || n == rest.n) return -1;
    *label = psi_x509_span_of(rest.p, n);
    rest = psi_x509_after(rest, n + 5);
    *body = psi_x509_span_of(rest.p, psi_x509_find(rest, "-----", 5));
    *in = rest = psi_x509_after(rest, body->n);
    if (rest.n < 14 + n || memcmp(rest.p, "-----END ", 9) != 0 || memcmp(rest.p + 9, label->p, n) != 0 ||
        memcmp(rest.p + 9 + n, "-----", 5) != 0)
        return -1;
    *in = psi_x509_after(rest, 14 + n);
    return 1;
}

/* The value of a base64 digit, -1 if it is none. */
static int psi_x509_digit(int c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes a block's body, without its headers (RFC 1421), into out of 3/4 its size: the length, 0 if malformed. */
static size_t psi_x509_base64(psi_x509_span in, uint8_t *out)
{
    size_t n = 0, i, start = 0;
    unsigned held = 0;
    int bits = 0, pad = 0;
    for (i = 0; i < in.n; i++)
        if (in.p[i] == ':') start = i;
    while (start && start < in.n && in.p[start] != '\n' && in.p[start] != '\r') start++;
    for (i = start; i < in.n; i++) {
        int c = in.p[i], d = psi_x509_digit(c);
        if (c == ' ' || c == '\t' || c == '\n' || c == '\r') continue;
        if (c == '=' && ++pad <= 2) continue;
        if (d < 0 || pad) return 0;
        held = held << 6 | (unsigned)d;
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        out[n++] = (uint8_t)(held >> bits);
        held &= (1u << bits) - 1;
    }
    return held == 0 && bits == 2 * pad ? n : 0; /* a last byte leaves 4 bits and two pads, two bytes 2 bits and one */
}

/* DER starts with a SEQUENCE: one in the long form, which no text does, or one that is all there is (an EC key). */
static int psi_x509_is_der(psi_x509_span s)
{
    psi_x509_span body;
    return (s.n >= 2 && s.p[0] == 0x30 && s.p[1] >= 0x80) || psi_x509_only_seq(s, &body);
}

/* A text of certificates that is being read: PEM, or DER back to back. */
typedef struct psi_x509_reader {
    psi_x509_span in;
    int is_der;
    uint8_t *buf;         /* what the last one of PEM decodes to */
    unsigned long number; /* of the certificate that was read last */
} psi_x509_reader;

static psi_x509_reader psi_x509_read(const void *text, size_t len)
{
    psi_x509_reader r = PSI_ZERO;
    r.in = psi_x509_span_of(text, len);
    r.is_der = psi_x509_is_der(r.in);
    return r;
}

/* Takes the next certificate: 1, 0 at the end, PSOCKET_TLS_PEM if it is malformed, PSOCKET_NOMEM. Call it to the end, or
   free buf. OpenSSL's TRUSTED CERTIFICATE is left out: what it says beside the certificate would be ignored. */
static int psi_x509_next(psi_x509_reader *r, psi_x509_span *der)
{
    psi_x509_span label, body;
    int tag, found;
    psi_free(r->buf);
    r->buf = NULL;
    if (r->is_der) {
        if (r->in.n == 0) return 0;
        r->number++;
        if (psi_x509_any(&r->in, &tag, &body, der) && tag == 0x30) return 1;
        r->in.n = 0;
        return PSOCKET_TLS_PEM;
    }
    do {
        found = psi_x509_pem_next(&r->in, &label, &body);
    } while (found > 0 && !PSI_X509_IS(label, "CERTIFICATE") && !PSI_X509_IS(label, "X509 CERTIFICATE"));
    if (found == 0) return 0;
    r->number++;
    if (found < 0) return PSOCKET_TLS_PEM;
    r->buf = (uint8_t *)psi_alloc(body.n + 4);
    if (!r->buf) return PSOCKET_NOMEM;
    *der = psi_x509_span_of(r->buf, psi_x509_base64(body, r->buf));
    return der->n ? 1 : (int)PSOCKET_TLS_PEM;
}

/* --- chains ------------------------------------------------------------------------------------------------------- */

/* A list of certificates, which owns the DER of each. Zero-initialise it. */
typedef struct psi_x509_chain {
    psi_x509_cert *certs;
    size_t count, room, bytes;
} psi_x509_chain;

/* Takes the last certificate away. */
static void psi_x509_chain_drop(psi_x509_chain *c)
{
    psi_free((void *)(uintptr_t)c->certs[--c->count].der.p);
}

static void psi_x509_chain_free(psi_x509_chain *c)
{
    while (c->count) psi_x509_chain_drop(c);
    psi_free(c->certs);
    memset(c, 0, sizeof *c);
}

/* Appends a copy of a certificate, parsed: 0, PSOCKET_NOMEM. What cannot be read is kept too, for psi_x509_verify to name. */
static int psi_x509_chain_append(psi_x509_chain *c, psi_x509_span der)
{
    size_t room = c->count < c->room ? c->room : c->room * 2 + 4, size = sizeof *c->certs;
    uint8_t *copy = (uint8_t *)psi_alloc(der.n + 1);
    void *certs = c->certs;
    if (copy && room > c->room) certs = psi_realloc(certs, c->count * size, room * size);
    if (!copy || !certs) {
        psi_free(copy);
        return PSOCKET_NOMEM;
    }
    c->certs = (psi_x509_cert *)certs;
    c->room = room;
    if (der.n) memcpy(copy, der.p, der.n);
    psi_x509_parse(&c->certs[c->count++], copy, der.n);
    return 0;
}

/* The same for a peer's or one's own, of which there are no more than PSOCKET_CHAIN_BYTES: also PSOCKET_CERT_LIMIT. */
static int psi_x509_chain_add(psi_x509_chain *c, const uint8_t *der, size_t len)
{
    size_t charge = len < 256 ? 256 : len; /* no usual one is smaller, and each costs memory beside its bytes */
    if (charge > PSOCKET_CHAIN_BYTES - c->bytes) return PSOCKET_CERT_LIMIT;
    c->bytes += charge;
    return psi_x509_chain_append(c, psi_x509_span_of(der, len));
}

/* What went wrong with a text that people know as name. */
static int psi_x509_text_error(psocket_error *e, int code, const char *name, unsigned long number)
{
    if (code == PSOCKET_TLS_PEM)
        return psi_err(e, code, "%s: certificate %lu is malformed, cut off or not base64", name, number);
    if (code == PSOCKET_CERT_LIMIT)
        return psi_err(e, code, "%s is larger than %lu bytes", name, (unsigned long)PSOCKET_CHAIN_BYTES);
    if (code) return psi_err_code(e, code);
    return number ? 0 : psi_err(e, PSOCKET_TLS_PEM, "%s: no certificate found: expected PEM text or DER (\"openssl x509\" "
                                "makes a plain one of a TRUSTED CERTIFICATE)", name);
}

/* Appends the certificates of a text: 0, PSOCKET_TLS_PEM, PSOCKET_NOMEM, PSOCKET_CERT_LIMIT. */
static int psi_x509_chain_load(psi_x509_chain *c, const void *text, size_t len, psocket_error *e)
{
    psi_x509_reader reader = psi_x509_read(text, len);
    psi_x509_span der;
    int r;
    while ((r = psi_x509_next(&reader, &der)) > 0 && (r = psi_x509_chain_add(c, der.p, der.n)) == 0) {}
    psi_free(reader.buf);
    return psi_x509_text_error(e, r, "the certificate chain", reader.number);
}

/* --- private keys ------------------------------------------------------------------------------------------------- */

/* A private key. Its numbers are slices of storage, which is wiped when it is freed. */
typedef struct psi_x509_key {
    int type;    /* BR_KEYTYPE_RSA or BR_KEYTYPE_EC */
    int pss_key; /* PSS signatures only, of key_alg if that has a kind */
    psi_x509_alg key_alg;
    br_rsa_private_key rsa;
    br_ec_private_key ec;
    psi_x509_span n, e;  /* RSA: the public half */
    psi_x509_span point; /* EC: the same, empty if the file lacks it */
    uint8_t *storage;
    size_t storage_size;
} psi_x509_key;

static void psi_x509_key_free(psi_x509_key *k)
{
    if (k->storage) psi_wipe(k->storage, k->storage_size);
    psi_free(k->storage);
    psi_wipe(k, sizeof *k);
}

/* PKCS#1 RSAPrivateKey (RFC 8017 A.1.2): NULL, or what is wrong. */
static const char *psi_x509_key_rsa(psi_x509_key *k, psi_x509_span in)
{
    enum { N, E, D, P, Q, DP, DQ, IQ, NUMBERS };
    psi_x509_span seq, v[NUMBERS];
    int version, i;
    if (!psi_x509_only_seq(in, &seq) || !psi_x509_small(&seq, &version)) return "malformed RSA private key";
    if (version) return "RSA private keys with more than two primes are not supported";
    for (i = 0; i < NUMBERS; i++)
        if (!psi_x509_uint(&seq, &v[i])) return "malformed RSA private key";
    if (v[N].n > 512) return "RSA private keys over 4096 bits are not supported";
    if (psi_x509_bit_length(v[N]) < 2048) return "RSA private keys under 2048 bits are too weak";
    if (seq.n || !(v[P].p[v[P].n - 1] & v[Q].p[v[Q].n - 1] & 1) || v[P].n > 290 || v[Q].n > 290 || v[DP].n > v[P].n ||
        v[DQ].n > v[Q].n || v[IQ].n > v[P].n)
        return "malformed RSA private key";
    k->type = BR_KEYTYPE_RSA;
    k->n = v[N];
    k->e = v[E];
    k->rsa.n_bitlen = (uint32_t)psi_x509_bit_length(v[N]);
    k->rsa.p = psi_x509_slice(v[P], &k->rsa.plen);
    k->rsa.q = psi_x509_slice(v[Q], &k->rsa.qlen);
    k->rsa.dp = psi_x509_slice(v[DP], &k->rsa.dplen);
    k->rsa.dq = psi_x509_slice(v[DQ], &k->rsa.dqlen);
    k->rsa.iq = psi_x509_slice(v[IQ], &k->rsa.iqlen);
    return NULL;
}

/* SEC 1 ECPrivateKey (RFC 5915); the curve may be given outside, by PKCS#8. */
static const char *psi_x509_key_ec(psi_x509_key *k, psi_x509_span in, int curve)
{
    psi_x509_span seq, d, part;
    int version, named = curve, ok;
    ok = psi_x509_only_seq(in, &seq) && psi_x509_small(&seq, &version) && version == 1 && psi_x509_take(&seq, 0x04, &d);
    if (ok && psi_x509_take(&seq, 0xA0, &part)) named = psi_x509_curve(&part);
    if (ok && psi_x509_take(&seq, 0xA1, &part)) ok = psi_x509_bits(&part, &k->point) && part.n == 0;
    if (!ok || seq.n || (curve && named != curve)) return "malformed EC private key";
    if (!named) return "EC private keys must be on P-256, P-384 or P-521, by name";
    while (d.n && *d.p == 0) d = psi_x509_after(d, 1);
    if (d.n == 0 || d.n > psi_x509_curve_bytes(named)) return "malformed EC private key";
    k->type = BR_KEYTYPE_EC;
    k->ec.curve = named;
    k->ec.x = psi_x509_slice(d, &k->ec.xlen);
    return NULL;
}

#define PSI_X509_ENCRYPTED "the private key is encrypted: decrypt it first (openssl pkey -in KEY -out PLAIN)"

/* Any of PKCS#8 (RFC 5958), PKCS#1 and SEC 1, told apart by what follows the version. */
static const char *psi_x509_key_der(psi_x509_key *k, psi_x509_span der)
{
    psi_x509_span seq, alg, key;
    int version, oid, curve;
    if (!psi_x509_only_seq(der, &seq)) return "malformed private key";
    if (seq.n && seq.p[0] == 0x30) return PSI_X509_ENCRYPTED;
    if (!psi_x509_small(&seq, &version) || seq.n == 0) return "malformed private key";
    if (seq.p[0] == 0x02) return psi_x509_key_rsa(k, der);
    if (seq.p[0] == 0x04) return psi_x509_key_ec(k, der, 0);
    oid = version <= 1 && psi_x509_seq(&seq, &alg) ? psi_x509_oid(&alg) : -1;
    if (oid < 0 || !psi_x509_take(&seq, 0x04, &key)) return "malformed private key";
    if (oid == PSI_OID_EC) {
        curve = psi_x509_curve(&alg);
        return curve ? psi_x509_key_ec(k, key, curve) : "EC private keys must be on P-256, P-384 or P-521, by name";
    }
    k->pss_key = oid == PSI_OID_PSS;
    if (k->pss_key && alg.n && !psi_x509_pss_params(alg, &k->key_alg)) return "unsupported RSA-PSS private key";
    if (k->pss_key || oid == PSI_OID_RSA) return psi_x509_key_rsa(k, key);
    return "private keys must be RSA or EC; others, as Ed25519, are not supported";
}

/* The first private key of a text: *body is its base64. 0, PSOCKET_TLS_PEM, PSOCKET_TLS_KEY. */
static int psi_x509_key_find(psi_x509_span in, psi_x509_span *body, psocket_error *e)
{
    psi_x509_span label;
    int r;
    do {
        r = psi_x509_pem_next(&in, &label, body);
        if (r < 0) return psi_err(e, PSOCKET_TLS_PEM, "malformed PEM in the private key");
        if (r == 0) return psi_err(e, PSOCKET_TLS_PEM, "no private key found: expected PEM text or DER");
    } while (label.n < 11 || memcmp(label.p + label.n - 11, "PRIVATE KEY", 11) != 0);
    if (PSI_X509_IS(label, "ENCRYPTED PRIVATE KEY") || psi_x509_find(*body, "ENCRYPTED", 9) < body->n)
        return psi_err(e, PSOCKET_TLS_KEY, PSI_X509_ENCRYPTED);
    return 0;
}

/* Loads the first private key of a text (PEM, or DER): 0, PSOCKET_TLS_KEY, PSOCKET_TLS_PEM, PSOCKET_NOMEM. */
static int psi_x509_key_load(psi_x509_key *k, const void *text, size_t len, psocket_error *e)
{
    psi_x509_span body = psi_x509_span_of(text, len);
    const char *why;
    int is_der = psi_x509_is_der(body), r = is_der ? 0 : psi_x509_key_find(body, &body, e);
    memset(k, 0, sizeof *k);
    if (r) return r;
    k->storage_size = body.n + 4;
    k->storage = (uint8_t *)psi_alloc(k->storage_size);
    if (!k->storage) return psi_err_code(e, PSOCKET_NOMEM);
    if (is_der) memcpy(k->storage, body.p, body.n);
    else body.n = psi_x509_base64(body, k->storage);
    why = body.n ? psi_x509_key_der(k, psi_x509_span_of(k->storage, body.n)) : "malformed base64 in the private key";
    if (!why) return 0;
    psi_x509_key_free(k);
    return psi_err(e, body.n ? PSOCKET_TLS_KEY : PSOCKET_TLS_PEM, "%s", why);
}

/* Adds x, or nothing, to r modulo m, all of n bytes, r below m: in the same steps whatever the numbers, which are secrets. */
static void psi_x509_add_mod(uint8_t *r, const uint8_t *x, unsigned take, const uint8_t *m, size_t n)
{
    uint8_t t[290];
    unsigned carry = 0, borrow = 0, keep;
    size_t i;
    for (i = n; i-- > 0;) {
        carry += r[i] + (x[i] & (0u - take));
        r[i] = (uint8_t)(carry & 255);
        borrow = r[i] - m[i] - borrow;
        t[i] = (uint8_t)(borrow & 255);
        carry >>= 8;
        borrow = borrow >> 8 & 1;
    }
    keep = 0u - (borrow & (carry ^ 1));
    for (i = 0; i < n; i++) r[i] = (uint8_t)((r[i] & keep) | (t[i] & ~keep & 255));
    psi_wipe(t, sizeof t);
}

/* Is a b 1 modulo m - less? m has n bytes, at most 290, b no more. */
static int psi_x509_is_inverse(psi_x509_span a, psi_x509_span b, psi_x509_span m, unsigned less)
{
    uint8_t r[290] = {0}, x[290] = {0}, mod[290];
    unsigned wrong = 0;
    size_t i;
    memcpy(mod, m.p, m.n);
    memcpy(x + m.n - b.n, b.p, b.n);
    mod[m.n - 1] = (uint8_t)(mod[m.n - 1] - less);
    for (i = 0; i < 8 * a.n; i++) {
        psi_x509_add_mod(r, r, 1, mod, m.n);
        psi_x509_add_mod(r, x, (unsigned)a.p[i / 8] >> (7 - i % 8) & 1u, mod, m.n);
    }
    r[m.n - 1] ^= 1;
    for (i = 0; i < m.n; i++) wrong |= r[i];
    psi_wipe(r, sizeof r);
    psi_wipe(x, sizeof x);
    psi_wipe(mod, sizeof mod);
    return !wrong;
}

/* Do the numbers of an RSA key belong together (RFC 8017 3.2)? One that is damaged would make faulty signatures, which
   give the key away. This costs a small part of a signature. */
static int psi_x509_is_whole(const psi_x509_key *k)
{
    const br_rsa_private_key *r = &k->rsa;
    psi_x509_span p = psi_x509_span_of(r->p, r->plen), q = psi_x509_span_of(r->q, r->qlen);
    uint8_t n[PSI_X509_SIGNATURE];
    return br_rsa_compute_modulus_get_default()(NULL, r) == k->n.n && br_rsa_compute_modulus_get_default()(n, r) &&
           memcmp(n, k->n.p, k->n.n) == 0 && psi_x509_is_inverse(q, psi_x509_span_of(r->iq, r->iqlen), p, 0) &&
           psi_x509_is_inverse(k->e, psi_x509_span_of(r->dp, r->dplen), p, 1) &&
           psi_x509_is_inverse(k->e, psi_x509_span_of(r->dq, r->dqlen), q, 1);
}

/* Does the key belong to the certificate? The public halves are compared. */
static int psi_x509_key_matches(const psi_x509_key *k, const psi_x509_cert *c)
{
    const br_rsa_public_key *rsa = &c->key.key.rsa;
    const br_ec_public_key *ec = &c->key.key.ec;
    uint8_t buf[BR_EC_KBUF_PUB_MAX_SIZE];
    psi_x509_span point = k->point;
    if (c->key.key_type != k->type) return 0;
    if (k->type == BR_KEYTYPE_RSA)
        return psi_x509_same(k->n, psi_x509_span_of(rsa->n, rsa->nlen)) &&
               psi_x509_same(k->e, psi_x509_span_of(rsa->e, rsa->elen)) && psi_x509_is_whole(k);
    if (k->ec.curve != ec->curve) return 0;
    if (!point.n) point = psi_x509_span_of(buf, br_ec_compute_pub(br_ec_get_default(), NULL, buf, &k->ec));
    return psi_x509_same(point, psi_x509_span_of(ec->q, ec->qlen));
}

/* Signs a digest of alg->hash into out of PSI_X509_SIGNATURE bytes; PSS with alg->salt random bytes at salt. The length,
   0 if the key cannot. */
static PSI_UNUSED size_t psi_x509_sign(const psi_x509_key *k, const psi_x509_alg *alg, const uint8_t *digest,
                                       const uint8_t *salt, uint8_t *out)
{
    size_t n = k->n.n, len = psi_x509_hash_len(alg->hash);
    int ok;
    if (!psi_x509_fits(k->type, k->pss_key, &k->key_alg, alg)) return 0;
    if (alg->kind == PSI_X509_ECDSA)
        return br_ecdsa_sign_asn1_get_default()(br_ec_get_default(), psi_x509_hash_class(alg->hash), digest, &k->ec, out);
    if (alg->kind == PSI_X509_PSS)
        ok = psi_x509_pss_encode(alg, digest, salt, out, n) && br_rsa_private_get_default()(out, &k->rsa);
    else ok = (int)br_rsa_pkcs1_sign_get_default()(psi_x509_hash_oid(alg->hash), digest, len, &k->rsa, out);
    return ok ? n : 0;
}

/* --- trust -------------------------------------------------------------------------------------------------------- */

/* Trust anchors, and where they come from. */
typedef struct psi_trust {
    psi_x509_chain anchors;
    size_t seen; /* with those that came twice */
    int lenient; /* leave malformed ones out */
    int system;  /* use psi_x509_system instead */
} psi_trust;

/* The system's anchors, loaded at first use and shared by all. */
static psi_trust psi_x509_system;
static psi_os_mutex psi_x509_system_lock = PSI_OS_MUTEX_INIT;

/* Adds an anchor, unless it is there already. */
static int psi_trust_add(psi_trust *t, psi_x509_span der)
{
    psi_x509_chain *c = &t->anchors;
    size_t i;
    for (i = 0; i < c->count && !psi_x509_same(c->certs[i].der, der); i++) {}
    if (i == c->count) {
        if (psi_x509_chain_append(c, der)) return PSOCKET_NOMEM;
        if (!c->certs[i].readable) {
            psi_x509_chain_drop(c);
            return t->lenient ? 0 : (int)PSOCKET_TLS_PEM;
        }
    }
    t->seen++;
    return 0;
}

/* Adds the anchors of a text that people know as name. */
static int psi_trust_text(psi_trust *t, const void *text, size_t len, const char *name, psocket_error *e)
{
    psi_x509_reader reader = psi_x509_read(text, len);
    psi_x509_span der;
    int r;
    do {
        r = psi_x509_next(&reader, &der);
        if (r > 0 && (r = psi_trust_add(t, der)) == 0) r = 1;
        if (r == PSOCKET_TLS_PEM && t->lenient) r = 1;
    } while (r > 0);
    psi_free(reader.buf);
    return psi_x509_text_error(e, r, name, reader.number);
}

/* A text of a folder or of the system's: what is no certificate in it is passed over. */
static int psi_trust_any(void *ctx, const void *text, size_t len)
{
    int r = psi_trust_text((psi_trust *)ctx, text, len, "", NULL);
    return r == PSOCKET_TLS_PEM ? 0 : r;
}

static void psi_trust_free(psi_trust *t)
{
    if (!t) return;
    psi_x509_chain_free(&t->anchors);
    psi_free(t);
}

/* Loads the anchors that the settings name; if they name none, the system's will be loaded at first use. */
static int psi_trust_load(psi_trust *t, const psocket_tls_options *topt, psocket_error *e)
{
    char *data;
    size_t len;
    int os, r;
    if (topt->ca) {
        len = topt->ca_len ? topt->ca_len : strlen((const char *)topt->ca);
        r = psi_trust_text(t, topt->ca, len, "ca", e);
        if (r) return r;
    }
    if (topt->ca_file) {
        r = psi_os_readfile(topt->ca_file, &data, &len, &os);
        if (r) return psi_err_os(e, r, os, "cannot read the trust anchors in %s", topt->ca_file);
        r = psi_trust_text(t, data, len, topt->ca_file, e);
        psi_free(data);
        if (r) return r;
    }
    if (!topt->ca_dir) return 0;
    t->lenient = 1;
    t->seen = 0;
    r = psi_os_readdir(topt->ca_dir, psi_trust_any, t, &os);
    if (r) return psi_err_os(e, r, os, "cannot read the trust anchors in %s", topt->ca_dir);
    return t->seen ? 0 : psi_err(e, PSOCKET_TLS_NO_TRUST, "the folder %s holds no certificate", topt->ca_dir);
}

static int psi_trust_new(psi_trust **out, const psocket_tls_options *topt, psocket_error *e)
{
    psi_trust *t = (psi_trust *)psi_alloc(sizeof *t);
    int r = t ? psi_trust_load(t, topt, e) : psi_err_code(e, PSOCKET_NOMEM);
    if (t) t->system = !topt->ca && !topt->ca_file && !topt->ca_dir;
    if (r) psi_trust_free(t);
    *out = r ? NULL : t;
    return r;
}

/* The trust to use: 0, PSOCKET_TLS_NO_TRUST, PSOCKET_NOMEM. A system without any anchor is looked at again next time. */
static int psi_x509_trust(const psi_trust *t, const psi_trust **out, psocket_error *e)
{
    int r = 0;
    *out = t;
    if (!t->system) return 0;
    *out = &psi_x509_system;
    psi_os_lock(&psi_x509_system_lock);
    if (!psi_x509_system.anchors.count) {
        psi_x509_system.lenient = 1;
        r = psi_os_systrust(psi_trust_any, &psi_x509_system, e);
        if (r) psi_x509_chain_free(&psi_x509_system.anchors);
        else if (!psi_x509_system.anchors.count)
            r = psi_err(e, PSOCKET_TLS_NO_TRUST, "the system's trust store holds no certificate that can be used");
    }
    psi_os_unlock(&psi_x509_system_lock);
    return r;
}

/* Frees the system's anchors; for psocket_cleanup, when nobody uses them. */
static PSI_UNUSED void psi_x509_cleanup(void)
{
    psi_os_lock(&psi_x509_system_lock);
    psi_x509_chain_free(&psi_x509_system.anchors);
    psi_os_unlock(&psi_x509_system_lock);
}

/* --- the search for a path ---------------------------------------------------------------------------------------- */

/* The rules of a path: how much it tells that one was broken, the code, and what that says of the certificate which broke
   it. A path that failed in its dates or pins only tells more than one that failed at an issuer, and that more than one
   that ended. FLAW stands for what a certificate says of itself. */
enum { PSI_X509_ENDED = 1, PSI_X509_BROKEN, PSI_X509_EXHAUSTED, PSI_X509_COMPLETE };
#define PSI_X509_RULES(X) \
    X(FLAW, BROKEN, MALFORMED, "") \
    X(SELF_SIGNED, ENDED, SELF_SIGNED, "is self-signed and not among the trusted ones") \
    X(NO_ROOT, ENDED, UNTRUSTED, "of the chain's root is not trusted") \
    X(NO_ISSUER, ENDED, UNTRUSTED, "has an issuer that is neither trusted nor among those sent") \
    X(OTHER_KEY, BROKEN, UNTRUSTED, "was signed by another key of its issuer's name, which is not trusted") \
    X(SIGNATURE, BROKEN, SIGNATURE, "has a wrong signature") \
    X(NOT_CA, BROKEN, NOT_CA, "issued another one but is not an authority") \
    X(PATH_LENGTH, BROKEN, PATH_LENGTH, "does not allow so many authorities below it") \
    X(CA_NOT_SERVER, BROKEN, USAGE, "of an authority is not for TLS servers") \
    X(CA_NOT_CLIENT, BROKEN, USAGE, "of an authority is not for TLS clients") \
    X(FORBIDDEN, BROKEN, CONSTRAINTS, "has a name that its issuer may not issue for") \
    X(TOO_FAR, BROKEN, LIMIT, "is too far from its trust anchor") \
    X(TOO_MUCH, EXHAUSTED, LIMIT, "has too many possible issuers or names to verify") \
    X(PIN, COMPLETE, PIN, "leads to none of the pinned keys") \
    X(EXPIRED, COMPLETE, EXPIRED, "") \
    X(NOT_YET, COMPLETE, NOT_YET_VALID, "") \
    X(NOT_SIGNING, COMPLETE, USAGE, "has a key that is not meant for signing") \
    X(NOT_SERVER, COMPLETE, USAGE, "is not meant for TLS servers") \
    X(NOT_CLIENT, COMPLETE, USAGE, "is not meant for TLS clients") \
    X(AUTHORITY, COMPLETE, USAGE, "is an authority's, not a host's") \
    X(NO_POINT, COMPLETE, MALFORMED, "has a public key that is not on its curve") \
    X(NAME, COMPLETE, NAME, "")

#define PSI_X(name, rank, code, text) PSI_RULE_##name,
enum { PSI_X509_RULES(PSI_X) PSI_RULE_NONE };
#undef PSI_X
#define PSI_X(name, rank, code, text) {PSI_X509_##rank, PSOCKET_CERT_##code, text},
static const struct {
    short rank, code;
    const char *text;
} psi_x509_rules[] = {PSI_X509_RULES(PSI_X){0, 0, ""}};
#undef PSI_X

typedef struct psi_x509_query {
    psi_trust *trust;
    const char *name;    /* DNS name or IP address the peer must have; NULL: any */
    int64_t now;         /* seconds since 1970 UTC */
    int client;          /* 1: the peer is a TLS client, 0: a server */
    const uint8_t *pins; /* SHA-256 of public keys, one of which must be on the path */
    size_t pin_count;
} psi_x509_query;

typedef struct psi_x509_walk {
    const psi_x509_query *q;
    const psi_x509_chain *anchors, *sent;
    const psi_x509_cert *path[PSOCKET_CHAIN_DEPTH + 1]; /* from the peer's own up */
    long work, signatures;                              /* what may still be spent */
    struct {
        const psi_x509_cert *issuer, *child;
        int good;
    } edges[PSI_X509_SIGNATURES]; /* the signatures that were checked */
    int edge_count;
    int rule; /* the failure that tells most so far, and who failed */
    const psi_x509_cert *culprit;
} psi_x509_walk;

/* Records a failure if it tells more than those before. Answers 0, as the search does when it fails. */
static int psi_x509_fail(psi_x509_walk *w, int rule, const psi_x509_cert *c)
{
    if (psi_x509_rules[rule].rank <= psi_x509_rules[w->rule].rank) return 0;
    w->rule = rule;
    w->culprit = c;
    return 0;
}

/* Is a dNSName in the subtree base? -1: malformed. A wildcard is in an excluded subtree if any name it covers is. A
   base with a leading dot (not in RFC 5280, but common) permits the names below it only, and excludes that name too. */
static int psi_x509_dns_within(psi_x509_span base, psi_x509_span name, int excluded)
{
    psi_x509_span rest;
    int dot = base.n && base.p[0] == '.';
    if (dot) base = psi_x509_after(base, 1);
    if (!psi_x509_is_dns(name, 1) || ((base.n || dot) && !psi_x509_is_dns(base, 0))) return -1;
    if (base.n == 0) return 1;
    if (psi_x509_ends_with(name, base) && (name.n == base.n ? !dot || excluded : name.p[name.n - base.n - 1] == '.'))
        return 1;
    if (!excluded || name.p[0] != '*') return 0;
    rest = psi_x509_after(name, 1);
    return psi_x509_ends_with(base, rest) && !memchr(base.p, '.', base.n - rest.n);
}

/* Is an address in the subtree of an address and a mask? -1: malformed. What excludes an IPv4 address excludes its IPv6
   form too. */
static int psi_x509_ip_within(psi_x509_span base, psi_x509_span ip, int excluded)
{
    psi_x509_span mapped = psi_x509_span_of("\0\0\0\0\0\0\0\0\0\0\xFF\xFF", 12);
    size_t i, n = base.n / 2;
    int mask, low, end = 0, match;
    if (base.n != 8 && base.n != 32) return -1;
    if (excluded && n == 4 && ip.n == 16 && memcmp(ip.p, mapped.p, mapped.n) == 0) ip = psi_x509_after(ip, 12);
    for (i = 0, match = n == ip.n; i < n; i++) {
        mask = base.p[n + i];
        low = ~mask & 0xFF;
        if ((low & (low + 1)) || (end && mask)) return -1; /* ones, then zeros */
        if (low) end = 1;
        if (match && (base.p[i] & mask) != (ip.p[i] & mask)) match = 0;
    }
    return match;
}

/* Is a name in a subtree of its own kind? 1, 0, -1: it cannot be told. */
static int psi_x509_within(int tag, psi_x509_span base, psi_x509_span name, int excluded)
{
    int r;
    if (tag == 0x82) return psi_x509_dns_within(base, name, excluded);
    if (tag == 0x87) return psi_x509_ip_within(base, name, excluded);
    r = psi_x509_name_within(base, name);
    return excluded || r > 0 ? r : 0;
}

/* Does a name break one of the lists of a certificate's constraints (RFC 5280 4.2.1.10)? So does what cannot be told, and a
   name of a kind that is not evaluated if the constraints are critical. */
static int psi_x509_name_breaks(psi_x509_walk *w, const psi_x509_cert *ca, int excluded, int tag, psi_x509_span name)
{
    psi_x509_span lists = ca->constraints, list = {NULL, 0}, subtree, base;
    int type, r, known = tag == 0x82 || tag == 0x87 || tag == 0xA4, seen = 0, hit = 0;
    psi_x509_take(&lists, 0xA0, &list);
    if (excluded && !psi_x509_take(&lists, 0xA1, &list)) return 0;
    while (list.n) {
        if (!psi_x509_seq(&list, &subtree) || !psi_x509_any(&subtree, &type, &base, NULL) || subtree.n) return 1;
        if (!memchr(psi_x509_general, type, sizeof psi_x509_general)) return 1;
        w->work -= 1 + (long)(name.n + base.n) / 64;
        if (w->work < 0) return 1;
        if (type != tag) continue;
        if (!known && ca->constraints_critical) return 1;
        r = known ? psi_x509_within(tag, base, name, excluded) : 0;
        if (r < 0) return 1;
        seen |= known;
        hit |= r;
    }
    return excluded ? hit : seen && !hit;
}

static int psi_x509_name_breaks_any(psi_x509_walk *w, const psi_x509_cert *ca, int tag, psi_x509_span name)
{
    return psi_x509_name_breaks(w, ca, 0, tag, name) || psi_x509_name_breaks(w, ca, 1, tag, name);
}

/* Does any name of c break the constraints of ca? Its subject may hold a mailbox too (RFC 5280 4.1.2.6). */
static int psi_x509_breaks(psi_x509_walk *w, const psi_x509_cert *ca, const psi_x509_cert *c)
{
    psi_x509_span rest = c->san, name, none = {NULL, 0};
    int tag;
    while (psi_x509_any(&rest, &tag, &name, NULL))
        if (psi_x509_name_breaks_any(w, ca, tag, name)) return 1;
    if (c->subject.n > 2 && psi_x509_name_breaks_any(w, ca, 0xA4, c->subject)) return 1;
    return psi_x509_find(c->subject, "\x06\x09\x2A\x86\x48\x86\xF7\x0D\x01\x09\x01", 11) < c->subject.n &&
           psi_x509_name_breaks_any(w, ca, 0x81, none);
}

/* Was child found to be signed by issuer? 1, 0, or -1 if not known yet. */
static int psi_x509_edge(const psi_x509_walk *w, const psi_x509_cert *issuer, const psi_x509_cert *child)
{
    int i;
    for (i = 0; i < w->edge_count; i++)
        if (w->edges[i].issuer == issuer && w->edges[i].child == child) return w->edges[i].good;
    return -1;
}

/* Is child signed by issuer? Each pair is checked once; when too much was checked, no more is. */
static int psi_x509_check_edge(psi_x509_walk *w, const psi_x509_cert *issuer, const psi_x509_cert *child)
{
    int curve = issuer->key.key_type == BR_KEYTYPE_EC ? issuer->key.key.ec.curve : 0;
    int good = psi_x509_edge(w, issuer, child), cost = curve == BR_EC_secp521r1 ? 8 : curve == BR_EC_secp384r1 ? 4 : 1;
    if (good < 0) {
        w->signatures -= cost + (long)(child->tbs.n / 16384);
        if (w->signatures < 0) w->work = -1;
        if (w->work < 0) return 0;
        good = psi_x509_check_signature(issuer, child);
        if (!good) w->signatures -= cost; /* honest chains hardly ever have wrong ones */
        w->edges[w->edge_count].issuer = issuer;
        w->edges[w->edge_count].child = child;
        w->edges[w->edge_count++].good = good;
    }
    if (good) return 1;
    if (!child->aki.n || !issuer->ski.n || psi_x509_same(child->aki, issuer->ski))
        return psi_x509_fail(w, PSI_RULE_SIGNATURE, child);
    return psi_x509_fail(w, PSI_RULE_OTHER_KEY, child);
}

/* Is one of the pinned keys on the path? */
static int psi_x509_has_pin(psi_x509_walk *w, int depth)
{
    uint8_t digest[32];
    size_t k;
    int i;
    for (i = 0; i <= depth && w->q->pin_count; i++) {
        w->work -= 16 + (long)(w->path[i]->spki.n / 16 + w->q->pin_count / 8);
        psi_x509_sha256(w->path[i]->spki, digest);
        for (k = 0; k < w->q->pin_count; k++)
            if (memcmp(w->q->pins + 32 * k, digest, 32) == 0) return 1;
    }
    return w->q->pin_count == 0;
}

/* path[0..depth] leads to an anchor, path[depth]: checks signatures from the anchor down, so that no key is used before
   it is certified, then pins and dates. 1 if all is well. */
static int psi_x509_complete(psi_x509_walk *w, int depth)
{
    int i;
    for (i = depth; i > 0; i--)
        if (!psi_x509_check_edge(w, w->path[i], w->path[i - 1])) return 0;
    if (!psi_x509_has_pin(w, depth)) return psi_x509_fail(w, PSI_RULE_PIN, w->path[0]);
    for (i = 0; i <= depth; i++) {
        if (w->q->now > w->path[i]->not_after) return psi_x509_fail(w, PSI_RULE_EXPIRED, w->path[i]);
        if (w->q->now < w->path[i]->not_before) return psi_x509_fail(w, PSI_RULE_NOT_YET, w->path[i]);
    }
    return 1;
}

/* The rule that c breaks as an authority above path[0..depth-1] (RFC 5280 6.1.4 (k) to (n)). An anchor of version 1 could
   not say that it is an authority. */
static int psi_x509_authority_rule(const psi_x509_walk *w, const psi_x509_cert *c, int anchor, int depth)
{
    int i, below = 0, purpose = w->q->client ? PSI_X509_CLIENT_AUTH : PSI_X509_SERVER_AUTH;
    if (c->subject.n <= 2 || (c->usage >= 0 && !(c->usage & PSI_X509_KU_CERT_SIGN)) ||
        !(c->ca || (anchor && c->version < 2 && c->self_issued)))
        return PSI_RULE_NOT_CA;
    for (i = 1; i < depth; i++) below += !w->path[i]->self_issued;
    if (c->path_len >= 0 && below > c->path_len) return PSI_RULE_PATH_LENGTH;
    if (c->extended < 0 || (c->extended & (purpose | PSI_X509_ANY_EKU))) return PSI_RULE_NONE;
    return w->q->client ? PSI_RULE_CA_NOT_CLIENT : PSI_RULE_CA_NOT_SERVER;
}

/* May c stand above path[0..depth-1] as an issuer? If not, the reason is recorded. */
static int psi_x509_may_issue(psi_x509_walk *w, const psi_x509_cert *c, int anchor, int depth)
{
    const psi_x509_cert *child = w->path[depth - 1];
    int i, rule = psi_x509_authority_rule(w, c, anchor, depth);
    if (psi_x509_edge(w, c, child) == 0) return 0;
    if (c->when >= (anchor ? PSI_X509_USED : PSI_X509_UNTRUSTED)) return psi_x509_fail(w, PSI_RULE_FLAW, c);
    if (child->when == PSI_X509_SIGNED) return psi_x509_fail(w, PSI_RULE_FLAW, child);
    if (rule != PSI_RULE_NONE) return psi_x509_fail(w, rule, c);
    for (i = 0; c->constraints.n && i < depth; i++) {
        if ((i && w->path[i]->self_issued) || !psi_x509_breaks(w, c, w->path[i])) continue;
        return w->work < 0 ? 0 : psi_x509_fail(w, PSI_RULE_FORBIDDEN, w->path[i]);
    }
    return w->work >= 0;
}

/* Could c have issued path[depth-1], by its name, and be none of them? The same authority twice helps nobody (RFC 4158
   2.4.2). */
static int psi_x509_is_candidate(psi_x509_walk *w, const psi_x509_cert *c, int depth)
{
    const psi_x509_cert *child = w->path[depth - 1];
    w->work -= 1 + (long)(c->subject.n + child->issuer.n) / 64;
    if (!psi_x509_same_name(c->subject, child->issuer)) return 0;
    while (depth-- > 0) {
        const psi_x509_cert *below = w->path[depth];
        if (c == below || (psi_x509_same(c->spki, below->spki) && psi_x509_same(c->subject, below->subject))) return 0;
    }
    return 1;
}

/* Looks for a way from path[depth-1] to an anchor: anchors first, then the peer's certificates, of each first those
   whose key identifier fits. 1 when there is one. */
static int psi_x509_search(psi_x509_walk *w, int depth)
{
    const psi_x509_cert *child = w->path[depth - 1], *c;
    const psi_x509_chain *from;
    int pass, anchor, fits, issuers = 0;
    size_t i;
    for (pass = 0; pass < 4; pass++) {
        anchor = pass < 2;
        from = anchor ? w->anchors : w->sent;
        w->work -= 1 + (long)from->count / 16;
        for (i = 0; i < from->count && w->work >= 0; i++) {
            c = &from->certs[i];
            fits = !child->aki.n || !c->ski.n || psi_x509_same(child->aki, c->ski);
            if (c->subject_hash != child->issuer_hash || fits == (pass & 1) || !psi_x509_is_candidate(w, c, depth)) continue;
            issuers = 1;
            if (!psi_x509_may_issue(w, c, anchor, depth)) continue;
            w->path[depth] = c;
            if (!anchor && depth == PSOCKET_CHAIN_DEPTH) psi_x509_fail(w, PSI_RULE_TOO_FAR, c);
            else if (anchor ? psi_x509_complete(w, depth) : psi_x509_search(w, depth + 1)) return 1;
        }
    }
    if (w->work < 0) return psi_x509_fail(w, PSI_RULE_TOO_MUCH, w->path[0]);
    if (issuers) return 0;
    if (!child->self_issued) return psi_x509_fail(w, PSI_RULE_NO_ISSUER, child);
    return psi_x509_fail(w, depth == 1 ? PSI_RULE_SELF_SIGNED : PSI_RULE_NO_ROOT, child);
}

/* Why the key of a peer's own certificate cannot be used. BearSSL looks whether it is a point when it multiplies. */
static int psi_x509_key_rule(const psi_x509_cert *c)
{
    static const unsigned char one[] = {1};
    const br_ec_public_key *ec = &c->key.key.ec;
    uint8_t point[BR_EC_KBUF_PUB_MAX_SIZE];
    if (c->when == PSI_X509_USED || !c->key.key_type) return PSI_RULE_FLAW;
    if (c->key.key_type != BR_KEYTYPE_EC) return PSI_RULE_NONE;
    memcpy(point, ec->q, ec->qlen);
    return br_ec_get_default()->mul(point, ec->qlen, one, sizeof one, ec->curve) == 1 ? PSI_RULE_NONE : PSI_RULE_NO_POINT;
}

/* The rule that the peer's own certificate breaks as such. */
static int psi_x509_leaf_rule(const psi_x509_walk *w, const psi_x509_cert *c, int pinned)
{
    psi_x509_host host;
    int rule = psi_x509_key_rule(c), purpose = w->q->client ? PSI_X509_CLIENT_AUTH : PSI_X509_SERVER_AUTH;
    if (rule != PSI_RULE_NONE) return rule;
    if (c->usage >= 0 && !(c->usage & PSI_X509_KU_SIGN)) return PSI_RULE_NOT_SIGNING;
    if (c->extended >= 0 && !(c->extended & purpose)) return w->q->client ? PSI_RULE_NOT_CLIENT : PSI_RULE_NOT_SERVER;
    if (c->ca && !pinned) return PSI_RULE_AUTHORITY;
    if (w->q->name && (!psi_x509_host_parse(&host, w->q->name) || !psi_x509_names(c, &host))) return PSI_RULE_NAME;
    return PSI_RULE_NONE;
}

/* The verdict: w->rule and w->culprit. A failure of the name or a date is reported only when the path is otherwise good. */
static void psi_x509_judge(psi_x509_walk *w)
{
    const psi_x509_cert *leaf = &w->sent->certs[0];
    int rule, pinned = 0, found;
    size_t i;
    w->path[0] = leaf;
    for (i = 0; i < w->anchors->count; i++) pinned |= psi_x509_same(w->anchors->certs[i].der, leaf->der);
    if (leaf->when == PSI_X509_ALWAYS || (leaf->when == PSI_X509_UNTRUSTED && !pinned)) {
        psi_x509_fail(w, PSI_RULE_FLAW, leaf);
        return;
    }
    found = pinned ? psi_x509_complete(w, 0) : psi_x509_search(w, 1);
    if (!found && w->rule != PSI_RULE_EXPIRED && w->rule != PSI_RULE_NOT_YET) return;
    rule = psi_x509_leaf_rule(w, leaf, pinned);
    if (rule != PSI_RULE_NONE) w->culprit = leaf;
    if (rule != PSI_RULE_NONE || found) w->rule = rule;
}

/* --- sentences ---------------------------------------------------------------------------------------------------- */

/* The alert for a refused certificate (RFC 5246 7.2.2). */
static int psi_x509_alert(int code)
{
    switch (code) {
    case PSOCKET_NOMEM: return 80;                  /* internal_error */
    case PSOCKET_TLS_NO_TRUST:
    case PSOCKET_CERT_UNTRUSTED:
    case PSOCKET_CERT_SELF_SIGNED:
    case PSOCKET_CERT_NOT_CA: return 48;            /* unknown_ca */
    case PSOCKET_CERT_EXPIRED:
    case PSOCKET_CERT_NOT_YET_VALID: return 45;     /* certificate_expired */
    case PSOCKET_CERT_USAGE:
    case PSOCKET_CERT_ALGORITHM:
    case PSOCKET_CERT_CRITICAL: return 43;          /* unsupported_certificate */
    case PSOCKET_CERT_REJECTED: return 46;          /* certificate_unknown */
    default: return 42;                             /* bad_certificate */
    }
}

/* Since when, or for how long, a date fails. */
static void psi_x509_put_date(psi_x509_text *t, const psi_x509_cert *c, int64_t now)
{
    int late = now > c->not_after;
    uint64_t s = late ? (uint64_t)now - (uint64_t)c->not_after : (uint64_t)c->not_before - (uint64_t)now;
    const char *unit = s >= 172800 ? "days" : s >= 7200 ? "hours" : s >= 120 ? "minutes" : "seconds";
    s /= s >= 172800 ? 86400 : s >= 7200 ? 3600 : s >= 120 ? 60 : 1;
    psi_x509_put(t, late ? "expired %lu %s ago" : "is not valid for another %lu %s (is the clock right?)", (unsigned long)s, unit);
}

/* Whom the certificate is for, and what of the name that was asked for is not as it should be. */
static void psi_x509_put_names(psi_x509_text *t, const psi_x509_cert *c, const char *asked)
{
    psi_x509_span san = c->san, name, host = psi_x509_span_of(asked, strlen(asked));
    int tag, count = 0, same = 0;
    psi_addr a = PSI_ZERO;
    char ip[64];
    psi_x509_put(t, "is for ");
    while (psi_x509_any(&san, &tag, &name, NULL)) {
        same |= tag == 0x82 && psi_x509_same(name, host);
        if (tag != 0x82 && (tag != 0x87 || (name.n != 4 && name.n != 16))) continue;
        if (++count > 3) continue;
        if (tag == 0x87) {
            a.family = name.n == 4 ? PSI_IP4 : PSI_IP6;
            memcpy(a.ip, name.p, name.n);
            psi_addr_print(&a, ip);
            name = psi_x509_span_of(ip, strlen(ip));
        }
        if (name.n > 64) name.n = 64;
        if (count > 1) psi_x509_put(t, ", ");
        psi_x509_put_safe(t, name, "");
    }
    if (!count) psi_x509_put(t, "no host (it has no alternative names)");
    psi_x509_put(t, "%s, not for ", count > 3 ? " and others" : "");
    psi_x509_put_safe(t, host, "");
    if (same) psi_x509_put(t, " (which stands there as a DNS name; an address needs an iPAddress)");
    while (host.n && *host.p < 0x80) host = psi_x509_after(host, 1);
    if (host.n) psi_x509_put(t, " (write it in ASCII, as xn--...)");
}

/* Fills *e with the sentence for the rule that a certificate broke, index of the peer's. Returns its code. */
static int psi_x509_explain(const psi_x509_walk *w, int index, psocket_error *e)
{
    const psi_x509_cert *c = w->culprit;
    int rule = w->rule, flaw = rule == PSI_RULE_FLAW, code = flaw ? c->code : psi_x509_rules[rule].code;
    char what[sizeof e->text] = "", whose[200] = "";
    psi_x509_text t = {what, sizeof what, 0}, label = {whose, sizeof whose, 0};
    if (rule == PSI_RULE_NAME) psi_x509_put_names(&t, c, w->q->name);
    else if (rule == PSI_RULE_EXPIRED || rule == PSI_RULE_NOT_YET) psi_x509_put_date(&t, c, w->q->now);
    else psi_x509_put(&t, "%s", flaw ? c->why : psi_x509_rules[rule].text);
    if (rule == PSI_RULE_NO_ISSUER) psi_x509_put_name(&label, c->issuer);
    else if (rule != PSI_RULE_NAME) psi_x509_put_label(&label, c);
    psi_err_alert(e, code, psi_x509_alert(code), "certificate %s%s%s%s", what, *whose ? ": " : "", whose,
                  psi_x509_rules[rule].rank == PSI_X509_ENDED ? " (to trust it, give it in ca_file or SSL_CERT_FILE)" : "");
    if (e) e->cert_index = index;
    return code;
}

/* Judges a chain, certificate 0 being the peer's own, the rest in any order: 0, or the reason with *e filled. */
static int psi_x509_verify(const psi_x509_query *q, const psi_x509_chain *chain, psocket_error *e)
{
    psi_x509_walk *w;
    const psi_trust *trust;
    int r = 0, index;
    if (!chain->count) return psi_err_alert(e, PSOCKET_CERT_MISSING, 42, NULL);
    w = (psi_x509_walk *)psi_alloc(sizeof *w);
    if (!w) return psi_err_alert(e, PSOCKET_NOMEM, 80, NULL);
    r = psi_x509_trust(q->trust, &trust, e);
    if (r && e) e->tls_alert = psi_x509_alert(r);
    if (!r) {
        w->q = q;
        w->anchors = &trust->anchors;
        w->sent = chain;
        w->work = PSI_X509_WORK;
        w->signatures = PSI_X509_SIGNATURES;
        w->rule = PSI_RULE_NONE;
        psi_x509_judge(w);
        for (index = (int)chain->count - 1; index >= 0 && w->culprit != &chain->certs[index]; index--) {}
        if (w->rule != PSI_RULE_NONE) r = psi_x509_explain(w, index, e);
    }
    psi_free(w);
    return r;
}

/* Can the key of the peer's own certificate be used, whatever was decided about it? 0, or the reason with *e filled. */
static int psi_x509_usable(const psi_x509_cert *leaf, psocket_error *e)
{
    psi_x509_walk w = PSI_ZERO;
    w.culprit = leaf;
    w.rule = psi_x509_key_rule(leaf);
    return w.rule == PSI_RULE_NONE ? 0 : psi_x509_explain(&w, 0, e);
}

#endif /* PSOCKET_NO_TLS */
#ifndef PSOCKET_NO_TLS

/*==================================================================================================
 * >>record
 * The TLS 1.2 record layer after the handshake: decrypts and encrypts in place through BearSSL's record vtables.
 * A psi_rec is one allocation: this header, the context of the incoming and that of the outgoing direction, each as
 * large as its cipher needs. Whoever got it from psi_hs_finish owns it and ends it with psi_rec_free.
 *================================================================================================*/

#define PSI_REC_HEAD 13     /* room a payload needs before it to be sealed in place: header and explicit nonce */
#define PSI_REC_TAIL 16     /* and behind it: the tag */
#define PSI_REC_PLAIN 16384 /* most plaintext in a record, RFC 5246 6.2.1 */
#define PSI_REC_QUIET 32    /* most records in a row that carry no data */

enum { PSI_REC_CCS = 20, PSI_REC_ALERT = 21, PSI_REC_HANDSHAKE = 22, PSI_REC_APPDATA = 23 };
enum { PSI_REC_MORE, PSI_REC_DATA, PSI_REC_SKIP, PSI_REC_END };

/* Result of psi_rec_open. */
typedef struct psi_rec_in {
    uint8_t *data; /* plaintext, inside the bytes given */
    size_t len;
    size_t used;                /* bytes consumed; PSI_REC_MORE: bytes needed in all */
    int alert_level, alert;     /* an alert to send if alert_level is not 0 */
} psi_rec_in;

typedef struct psi_rec {
    uint16_t max_send; /* most plaintext bytes in a record that is sent */
    uint8_t server;
    uint8_t quiet;     /* records without data in a row */
    uint32_t skip;     /* bytes of a refused ClientHello still to come */
    uint32_t out_at;   /* offset of the outgoing context */
    uint32_t size;     /* of all */
} psi_rec;

#define PSI_REC_CONTEXTS ((sizeof(psi_rec) + 15) & ~(size_t)15)

static const br_sslrec_in_class **psi_rec_incoming(psi_rec *r)
{
    return (const br_sslrec_in_class **)(void *)((uint8_t *)r + PSI_REC_CONTEXTS);
}

static const br_sslrec_out_class **psi_rec_outgoing(psi_rec *r)
{
    return (const br_sslrec_out_class **)(void *)((uint8_t *)r + r->out_at);
}

static void psi_rec_free(psi_rec *r)
{
    if (!r) return;
    psi_wipe(r, r->size);
    psi_free(r);
}

/* Copies BearSSL's contexts of both directions (the unions br_ssl_engine_context.in and .out). NULL: out of memory. */
static psi_rec *psi_rec_new(const void *in, const void *out, int server, size_t max_send)
{
    size_t in_size = (*(const br_sslrec_in_class *const *)in)->context_size;
    size_t out_size = (*(const br_sslrec_out_class *const *)out)->context_size;
    size_t out_at = PSI_REC_CONTEXTS + ((in_size + 15) & ~(size_t)15);
    psi_rec *r = (psi_rec *)psi_alloc(out_at + out_size);
    if (!r) return NULL;
    r->max_send = (uint16_t)max_send;
    r->server = (uint8_t)(server != 0);
    r->out_at = (uint32_t)out_at;
    r->size = (uint32_t)(out_at + out_size);
    memcpy((uint8_t *)r + PSI_REC_CONTEXTS, in, in_size);
    memcpy((uint8_t *)r + out_at, out, out_size);
    return r;
}

/* Most plaintext bytes in one record: 16384, or what the client asked for with max_fragment_length (RFC 6066 4). */
static PSI_UNUSED size_t psi_rec_max_send(const psi_rec *r)
{
    return r->max_send;
}

/* The alerts of RFC 5246 7.2, RFC 6066 9, RFC 7301 3.2 and RFC 8446 6. */
#define PSI_REC_ALERTS(X) \
    X(0, "close_notify") \
    X(10, "unexpected_message") \
    X(20, "bad_record_mac") \
    X(21, "decryption_failed") \
    X(22, "record_overflow") \
    X(30, "decompression_failure") \
    X(40, "handshake_failure") \
    X(41, "no_certificate") \
    X(42, "bad_certificate") \
    X(43, "unsupported_certificate") \
    X(44, "certificate_revoked") \
    X(45, "certificate_expired") \
    X(46, "certificate_unknown") \
    X(47, "illegal_parameter") \
    X(48, "unknown_ca") \
    X(49, "access_denied") \
    X(50, "decode_error") \
    X(51, "decrypt_error") \
    X(60, "export_restriction") \
    X(70, "protocol_version") \
    X(71, "insufficient_security") \
    X(80, "internal_error") \
    X(86, "inappropriate_fallback") \
    X(90, "user_canceled") \
    X(100, "no_renegotiation") \
    X(109, "missing_extension") \
    X(110, "unsupported_extension") \
    X(111, "certificate_unobtainable") \
    X(112, "unrecognized_name") \
    X(113, "bad_certificate_status_response") \
    X(115, "unknown_psk_identity") \
    X(116, "certificate_required") \
    X(120, "no_application_protocol")

static const char *psi_rec_alert_name(int alert)
{
#define PSI_X(number, name) number,
    static const short numbers[] = { PSI_REC_ALERTS(PSI_X) };
#undef PSI_X
#define PSI_X(number, name) name "\0"
    static const char names[] = PSI_REC_ALERTS(PSI_X);
#undef PSI_X
    const char *name = psi_string_of(alert, numbers, names);
    return *name ? name : "unknown alert";
}

/* Fills *e and asks for a fatal alert. Returns code. */
static int psi_rec_fail(psi_rec_in *in, psocket_error *e, int code, int alert, const char *text)
{
    in->alert_level = 2;
    in->alert = alert;
    psi_err(e, code, "%s", text);
    if (e) e->tls_alert = alert;
    return code;
}

/* Handshake messages after the handshake: a wish to renegotiate, which is refused with a warning (RFC 5246 7.4.1.1).
   A ClientHello may span records. Returns 0 if it is anything else. */
static int psi_rec_refuse(psi_rec *r, const uint8_t *p, size_t n, psi_rec_in *in)
{
    while (n) {
        size_t take = n < r->skip ? n : r->skip;
        p += take;
        n -= take;
        r->skip -= (uint32_t)take;
        if (!n) break;
        if (n < 4 || p[0] != (r->server ? 1 : 0)) return 0; /* ClientHello to a server, HelloRequest to a client */
        r->skip = (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        if (r->skip > (r->server ? PSI_REC_PLAIN : 0)) return 0;
        p += 4;
        n -= 4;
        in->alert_level = 1;
        in->alert = 100;
    }
    return 1;
}

/* Looks at n received bytes at p and decrypts the first record in place: one of PSI_REC_*, or an error, filling *e. */
static int psi_rec_open(psi_rec *r, uint8_t *p, size_t n, psi_rec_in *in, psocket_error *e)
{
    const br_sslrec_in_class **ctx = psi_rec_incoming(r);
    size_t len;
    memset(in, 0, sizeof *in);
    in->used = 5;
    if (n < 5) return PSI_REC_MORE;
    if (p[0] < PSI_REC_CCS || p[0] > PSI_REC_APPDATA)
        return psi_rec_fail(in, e, PSOCKET_TLS_PROTOCOL, 10, "the peer sent a record of unknown type");
    if (p[1] != 3 || p[2] != 3)
        return psi_rec_fail(in, e, PSOCKET_TLS_PROTOCOL, 70, "the peer sent a record of another TLS version");
    len = (size_t)p[3] << 8 | p[4];
    if (!(*ctx)->check_length(ctx, len))
        return len > PSI_REC_PLAIN
            ? psi_rec_fail(in, e, PSOCKET_TLS_PROTOCOL, 22, "the peer sent a record that is too long")
            : psi_rec_fail(in, e, PSOCKET_TLS_RECORD, 20, "the peer sent a record that is too short to be genuine");
    in->used += len;
    if (n < in->used) return PSI_REC_MORE;
    in->len = len;
    in->data = (*ctx)->decrypt(ctx, p[0], 0x0303, p + 5, &in->len);
    if (!in->data) return psi_rec_fail(in, e, PSOCKET_TLS_RECORD, 20, psocket_strerror(PSOCKET_TLS_RECORD));
    if (p[0] == PSI_REC_APPDATA && in->len) {
        r->quiet = 0;
        return PSI_REC_DATA;
    }
    if (p[0] == PSI_REC_ALERT) {
        if (in->len != 2) return psi_rec_fail(in, e, PSOCKET_TLS_PROTOCOL, 50, "the peer sent a malformed alert");
        if (in->data[1] == 0) return PSI_REC_END;
        if (in->data[0] != 1) {
            psi_err(e, PSOCKET_TLS_ALERT, "the peer ended the connection with the TLS alert %s (%d)",
                    psi_rec_alert_name(in->data[1]), in->data[1]);
            if (e) e->tls_alert = in->data[1];
            return PSOCKET_TLS_ALERT;
        }
    } else if (p[0] == PSI_REC_CCS || (p[0] == PSI_REC_HANDSHAKE && !psi_rec_refuse(r, in->data, in->len, in))) {
        return psi_rec_fail(in, e, PSOCKET_TLS_PROTOCOL, 10, "the peer sent a handshake message out of order");
    }
    if (++r->quiet > PSI_REC_QUIET)
        return psi_rec_fail(in, e, PSOCKET_TLS_PROTOCOL, 10, "the peer keeps sending records without data");
    in->len = 0;
    return PSI_REC_SKIP;
}

/* Encrypts *len bytes at payload in place, at most psi_rec_max_send of them, with PSI_REC_HEAD bytes of room before and
   PSI_REC_TAIL behind. Returns the start of the record and its whole length in *len. */
static PSI_UNUSED uint8_t *psi_rec_seal(psi_rec *r, int type, uint8_t *payload, size_t *len)
{
    const br_sslrec_out_class **ctx = psi_rec_outgoing(r);
    return (*ctx)->encrypt(ctx, type, 0x0303, payload, len);
}

#endif /* PSOCKET_NO_TLS */
#ifndef PSOCKET_NO_TLS

/*==================================================================================================
 * >>tls12
 * TLS settings (psocket_tls) and the TLS 1.2 handshake on BearSSL's engine, which nothing outside this section knows.
 * A psi_hs is one handshake: psi_hs_new, then psi_hs_feed and psi_hs_output until psi_hs_status says 0 or an error,
 * then psi_hs_finish and psi_hs_free. Records enter the engine whole and one at a time, after their headers, the peer's
 * hello and the lengths of its messages have been checked here; a client's hello does not, for psi_hs_give_hello puts one
 * of our own in its place. Whatever goes wrong leaves an alert in the output.
 * psocket_tls is immutable but for its two session caches, which its lock guards. Every handshake holds a reference.
 *================================================================================================*/

#define PSI_TLS_SUITES 6
#define PSI_TLS_CLIENT_SESSIONS 16  /* sessions a client remembers, one per server name and port */
#define PSI_TLS_SERVER_SESSIONS 256 /* sessions a server remembers */
#define PSI_TLS_SESSION_TIME 86400  /* seconds, RFC 5246 F.1.4 */
#define PSI_TLS_IDENTITIES 1024
/* Curves for the key exchange. A client's list also tells which certificates it takes (RFC 8422 5.1), hence P-521. */
#define PSI_TLS_SERVER_CURVES \
    ((uint32_t)1 << BR_EC_curve25519 | (uint32_t)1 << BR_EC_secp256r1 | (uint32_t)1 << BR_EC_secp384r1)
#define PSI_TLS_CLIENT_CURVES (PSI_TLS_SERVER_CURVES | (uint32_t)1 << BR_EC_secp521r1)

/* --- what a connection agreed on --------------------------------------------------------------------------------- */

typedef struct psi_tlsinfo {
    int64_t not_before, not_after;
    uint8_t sha256[32], spki[32];
    uint16_t suite;
    uint16_t name_at, subject_at; /* offsets of two strings; ALPN is the first */
    uint8_t resumed, has_peer;
} psi_tlsinfo; /* the strings follow */

static const char *psi_tlsinfo_text(const psi_tlsinfo *i, size_t at)
{
    return (const char *)(i + 1) + at;
}

/* With what peer (may be NULL) knows of the other side's certificate. NULL: out of memory. */
static psi_tlsinfo *psi_tlsinfo_new(const char *alpn, const char *name, const char *subject, const psi_tlsinfo *peer)
{
    size_t a = strlen(alpn) + 1, n = strlen(name) + 1, s = strlen(subject) + 1;
    psi_tlsinfo *i = (psi_tlsinfo *)psi_alloc(sizeof *i + a + n + s);
    char *text;
    if (!i) return NULL;
    if (peer) *i = *peer;
    text = (char *)(i + 1);
    i->name_at = (uint16_t)a;
    i->subject_at = (uint16_t)(a + n);
    memcpy(text, alpn, a);
    memcpy(text + a, name, n);
    memcpy(text + a + n, subject, s);
    return i;
}

static void psi_tlsinfo_free(psi_tlsinfo *i)
{
    psi_free(i);
}

static const char *psi_tls_suite_name(int suite)
{
    switch (suite) {
    case BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: return "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    case BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: return "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    case BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: return "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    case BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: return "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";
    case BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: return "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    case BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: return "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";
    default: return "";
    }
}

static PSI_UNUSED void psi_tlsinfo_get(const psi_tlsinfo *i, psocket_tlsinfo *out)
{
    memset(out, 0, sizeof *out);
    out->version = BR_TLS12;
    out->suite = i->suite;
    out->resumed = i->resumed;
    snprintf(out->version_name, sizeof out->version_name, "TLSv1.2");
    snprintf(out->suite_name, sizeof out->suite_name, "%s", psi_tls_suite_name(i->suite));
    snprintf(out->alpn, sizeof out->alpn, "%s", psi_tlsinfo_text(i, 0));
    snprintf(out->server_name, sizeof out->server_name, "%s", psi_tlsinfo_text(i, i->name_at));
    if (!i->has_peer) return;
    snprintf(out->peer_subject, sizeof out->peer_subject, "%s", psi_tlsinfo_text(i, i->subject_at));
    memcpy(out->peer_sha256, i->sha256, sizeof out->peer_sha256);
    memcpy(out->peer_spki_sha256, i->spki, sizeof out->peer_spki_sha256);
    out->peer_not_before = i->not_before;
    out->peer_not_after = i->not_after;
}

/* --- sessions ---------------------------------------------------------------------------------------------------- */

typedef struct psi_tls_session {
    br_ssl_session_parameters par;
    uint8_t name[32];  /* SHA-256 of the server name asked for and, on clients, the port */
    int64_t from, until; /* usable between these, by the settings' clock */
    uint64_t used;     /* when it was last used, for eviction */
    psi_tlsinfo *peer; /* clients: whom the certificate of the first handshake named */
} psi_tls_session;

/* A few remembered sessions. Grows to max, then the least recently used one is replaced. */
typedef struct psi_tls_sessions {
    psi_tls_session *list;
    size_t count, cap, max;
    uint64_t clock;
} psi_tls_sessions;

static void psi_tls_session_drop(psi_tls_session *s)
{
    psi_tlsinfo_free(s->peer);
    psi_wipe(s, sizeof *s);
}

static void psi_tls_sessions_free(psi_tls_sessions *c)
{
    size_t i;
    for (i = 0; i < c->count; i++) psi_tls_session_drop(&c->list[i]);
    psi_free(c->list);
}

/* The session with this name and, if id is not NULL, this ID. NULL if there is none. */
static psi_tls_session *psi_tls_sessions_find(psi_tls_sessions *c, const uint8_t name[32], const uint8_t *id)
{
    size_t i;
    for (i = 0; i < c->count; i++) {
        psi_tls_session *s = &c->list[i];
        if ((!id || !memcmp(s->par.session_id, id, 32)) && !memcmp(s->name, name, 32)) return s;
    }
    return NULL;
}

/* A cleared place for a new session, NULL if memory is out. */
static psi_tls_session *psi_tls_sessions_place(psi_tls_sessions *c)
{
    size_t i, oldest = 0;
    if (c->count == c->cap && c->cap < c->max) {
        size_t cap = c->cap ? c->cap * 2 : 4;
        psi_tls_session *list = (psi_tls_session *)psi_alloc(cap * sizeof *list);
        if (list) {
            if (c->count) memcpy(list, c->list, c->count * sizeof *list);
            if (c->list) psi_wipe(c->list, c->count * sizeof *list);
            psi_free(c->list);
            c->list = list;
            c->cap = cap;
        }
    }
    if (c->count < c->cap) return &c->list[c->count++];
    if (!c->count) return NULL;
    for (i = 1; i < c->count; i++)
        if (c->list[i].used < c->list[oldest].used) oldest = i;
    psi_tls_session_drop(&c->list[oldest]);
    return &c->list[oldest];
}

/* --- settings ---------------------------------------------------------------------------------------------------- */

typedef struct psi_tls_identity {
    psi_x509_chain chain;
    br_x509_certificate *sent; /* the same for BearSSL */
    psi_x509_key key;
} psi_tls_identity;

/* The primitives this CPU is best at, found once: the search takes CPUID instructions, which trap on virtual machines. */
typedef struct psi_tls_primitives {
    const br_block_ctr_class *aes;
    br_ghash ghash;
    br_chacha20_run chacha;
    br_poly1305_run poly;
    br_ec_impl client_ec, server_ec; /* for key exchange: our curves, and an all-zero X25519 secret is a failure */
    uint16_t suites[PSI_TLS_SUITES]; /* most wanted first: those of the settings */
    size_t suite_count;
} psi_tls_primitives;

struct psocket_tls {
    int refs;
    psi_os_mutex lock; /* guards the session caches */
    psi_tls_sessions client_sessions, server_sessions;
    psi_tls_primitives prim;
    psi_trust *trust;
    psi_tls_identity *identities;
    size_t identity_count;
    const char **alpn; /* one allocation, strings behind the pointers */
    size_t alpn_count;
    uint8_t *pins;
    size_t pin_count;
    br_x500_name *ca_names; /* for certificate requests; they point into trust */
    size_t ca_name_count;
    int client_auth, insecure_no_verify, insecure_no_name;
    int (*decide)(void *user, const psocket_certinfo *peer, const psocket_error *verdict);
    void *decide_user;
    int64_t (*clock)(void *user);
    void *clock_user;
};

/* RFC 7748 6.1, RFC 8422 5.11: a peer's point of small order makes the shared secret zero, which must be refused. */
static uint32_t psi_tls_ec_mul(unsigned char *point, size_t point_len, const unsigned char *x, size_t x_len, int curve)
{
    uint32_t ok = br_ec_get_default()->mul(point, point_len, x, x_len, curve);
    unsigned any = 0;
    size_t i;
    if (curve != BR_EC_curve25519) return ok;
    for (i = 0; i < point_len; i++) any |= point[i];
    return ok & (any ? 1u : 0u);
}

/* The key exchange is limited to some curves, signatures may use every curve a certificate may have. */
static uint32_t psi_tls_ecdsa_verify(const br_ec_impl *ec, const void *hash, size_t hash_len,
                                     const br_ec_public_key *pk, const void *sig, size_t sig_len)
{
    (void)ec;
    return br_ecdsa_vrfy_asn1_get_default()(br_ec_get_default(), hash, hash_len, pk, sig, sig_len);
}

static int psi_tls_find_primitives(psi_tls_primitives *p)
{
    static const uint16_t suites[PSI_TLS_SUITES] = {
        BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256};
    int aes = (br_aes_x86ni_ctr_get_vtable() && br_ghash_pclmul_get()) ||
              (br_aes_pwr8_ctr_get_vtable() && br_ghash_pwr8_get());
    size_t i;
    br_ssl_engine_context *eng = (br_ssl_engine_context *)psi_alloc(sizeof *eng);
    if (!eng) return PSOCKET_NOMEM;
    br_ssl_engine_set_default_aes_gcm(eng);
    br_ssl_engine_set_default_chapol(eng);
    p->aes = eng->iaes_ctr;
    p->ghash = eng->ighash;
    p->chacha = eng->ichacha;
    p->poly = eng->ipoly;
    psi_free(eng);
    p->client_ec = *br_ec_get_default();
    p->client_ec.mul = psi_tls_ec_mul;
    p->server_ec = p->client_ec;
    p->client_ec.supported_curves &= PSI_TLS_CLIENT_CURVES;
    p->server_ec.supported_curves &= PSI_TLS_SERVER_CURVES;
    /* AES without the CPU's help is slower than ChaCha20. */
    for (i = 0; i < PSI_TLS_SUITES; i++) p->suites[i] = suites[aes ? i : (i + 4) % PSI_TLS_SUITES];
    p->suite_count = PSI_TLS_SUITES;
    return 0;
}

static int psi_tls_has_suite(const psocket_tls *tls, unsigned suite)
{
    size_t i;
    for (i = 0; i < tls->prim.suite_count; i++)
        if (tls->prim.suites[i] == suite) return 1;
    return 0;
}

/* Is the key exchange signed with RSA? Otherwise it is with ECDSA. */
static int psi_tls_is_rsa(unsigned suite)
{
    return suite == BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 || suite == BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 ||
           suite == BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256;
}

/* Replaces the suites by those that a list names. */
static int psi_tls_choose_suites(psi_tls_primitives *p, const char *list, psocket_error *e)
{
    uint16_t chosen[PSI_TLS_SUITES];
    size_t count = 0, i, k;
    for (;;) {
        size_t n = strcspn(list, ":");
        for (i = 0; i < PSI_TLS_SUITES; i++) {
            const char *name = psi_tls_suite_name(p->suites[i]);
            if (strlen(name) == n && !memcmp(name, list, n)) break;
        }
        if (i == PSI_TLS_SUITES)
            return psi_err(e, PSOCKET_INVALID, "suites: \"%.*s\" is not a cipher suite of this library",
                           n < 100 ? (int)n : 100, list);
        for (k = 0; k < count && chosen[k] != p->suites[i]; k++) {}
        if (k == count) chosen[count++] = p->suites[i];
        if (!list[n]) break;
        list += n + 1;
    }
    memcpy(p->suites, chosen, count * sizeof *chosen);
    p->suite_count = count;
    return 0;
}

/* The time that certificates are checked against. A system calendar before the program was built is not set. */
static int64_t psi_tls_now(const psocket_tls *tls)
{
    int64_t now;
    if (tls->clock) return tls->clock(tls->clock_user);
    now = psi_os_wallclock();
    return now < (int64_t)PSOCKET_BUILD_TIME ? (int64_t)PSOCKET_BUILD_TIME : now;
}

PSOCKET_API psocket_tls *psocket_tls_retain(psocket_tls *tls)
{
    if (tls) psi_os_ref(&tls->refs, 1);
    return tls;
}

PSOCKET_API void psocket_tls_free(psocket_tls *tls)
{
    size_t i;
    if (!tls || psi_os_ref(&tls->refs, -1) > 0) return;
    for (i = 0; i < tls->identity_count; i++) {
        psi_free(tls->identities[i].sent);
        psi_x509_chain_free(&tls->identities[i].chain);
        psi_x509_key_free(&tls->identities[i].key);
    }
    psi_tls_sessions_free(&tls->client_sessions);
    psi_tls_sessions_free(&tls->server_sessions);
    psi_trust_free(tls->trust);
    psi_free(tls->identities);
    psi_free(tls->alpn);
    psi_free(tls->pins);
    psi_free(tls->ca_names);
    psi_os_mutex_free(&tls->lock);
    psi_wipe(tls, sizeof *tls);
    psi_free(tls);
}

/* Copies the protocol names: BearSSL wants an array of strings. */
static int psi_tls_copy_alpn(psocket_tls *tls, const psocket_tls_options *t, psocket_error *e)
{
    size_t i, total = 0;
    char *text;
    for (i = 0; i < t->alpn_count; i++) {
        size_t n = t->alpn && t->alpn[i] ? strlen(t->alpn[i]) : 0;
        total += n + 1;
        if (n < 1 || n > 255 || total > 4096)
            return psi_err(e, PSOCKET_INVALID,
                           "ALPN protocol %lu: a name has 1 to 255 bytes, all together at most 4096", (unsigned long)i);
    }
    if (!total) return 0;
    tls->alpn = (const char **)psi_alloc(t->alpn_count * sizeof *tls->alpn + total);
    if (!tls->alpn) return psi_err_code(e, PSOCKET_NOMEM);
    tls->alpn_count = t->alpn_count;
    text = (char *)(tls->alpn + t->alpn_count);
    for (i = 0; i < t->alpn_count; i++) {
        size_t n = strlen(t->alpn[i]) + 1;
        memcpy(text, t->alpn[i], n);
        tls->alpn[i] = text;
        text += n;
    }
    return 0;
}

static int psi_tls_list_chain(psi_tls_identity *id)
{
    size_t i;
    id->sent = (br_x509_certificate *)psi_alloc(id->chain.count * sizeof *id->sent);
    for (i = 0; id->sent && i < id->chain.count; i++) {
        id->sent[i].data = (unsigned char *)(uintptr_t)id->chain.certs[i].der.p;
        id->sent[i].data_len = id->chain.certs[i].der.n;
    }
    return id->sent != NULL;
}

static int psi_tls_copy_identities(psocket_tls *tls, const psocket_tls_options *t, psocket_error *e)
{
    psocket_error why = PSI_ZERO;
    size_t i;
    if (!t->identity_count) return 0;
    if (!t->identities || t->identity_count > PSI_TLS_IDENTITIES)
        return psi_err(e, PSOCKET_INVALID, "identities: at most %d, and not NULL", PSI_TLS_IDENTITIES);
    tls->identities = (psi_tls_identity *)psi_alloc(t->identity_count * sizeof *tls->identities);
    if (!tls->identities) return psi_err_code(e, PSOCKET_NOMEM);
    for (i = 0; i < t->identity_count; i++) {
        const psocket_identity *from = &t->identities[i];
        psi_tls_identity *to = &tls->identities[i];
        int code;
        tls->identity_count = i + 1;
        if (!from->chain || !from->key) {
            code = psi_err(&why, PSOCKET_INVALID, "%s is missing", from->chain ? "the private key" : "the certificate");
        } else {
            size_t chain_len = from->chain_len ? from->chain_len : strlen((const char *)from->chain);
            size_t key_len = from->key_len ? from->key_len : strlen((const char *)from->key);
            code = psi_x509_chain_load(&to->chain, from->chain, chain_len, &why);
            if (!code && !to->chain.count) code = psi_err_code(&why, PSOCKET_TLS_PEM);
            if (!code) code = psi_x509_key_load(&to->key, from->key, key_len, &why);
            if (!code && !psi_x509_key_matches(&to->key, &to->chain.certs[0])) {
                size_t n = 1;
                while (n < to->chain.count && !psi_x509_key_matches(&to->key, &to->chain.certs[n])) n++;
                code = psi_err(&why, PSOCKET_TLS_KEY_MISMATCH, "%s%s", psocket_strerror(PSOCKET_TLS_KEY_MISMATCH),
                               n < to->chain.count ? ", which must come first in its chain" : "");
            }
            if (!code && to->key.pss_key)
                code = psi_err(&why, PSOCKET_TLS_KEY, "RSA-PSS keys are not supported");
            if (!code && !psi_tls_list_chain(to)) code = psi_err_code(&why, PSOCKET_NOMEM);
        }
        if (code) {
            psi_err(e, code, "identity %lu: %s", (unsigned long)i, why.text);
            if (e) e->cert_index = why.cert_index;
            return code;
        }
    }
    return 0;
}

/* The names for certificate requests: those of the trust anchors, as many as a message holds. BearSSL asks for a
   certificate only if there is at least one, so where anything is accepted an empty one stands in. */
static int psi_tls_name_authorities(psocket_tls *tls, psocket_error *e)
{
    static unsigned char nobody[] = {0x30, 0x00};
    const psi_trust *trust;
    psocket_error why = PSI_ZERO;
    size_t i, count, total = 0;
    int code = psi_x509_trust(tls->trust, &trust, &why);
    if (code == PSOCKET_NOMEM || (code && !tls->decide && !tls->insecure_no_verify))
        return psi_err(e, code, "client certificates cannot be verified: %s", why.text);
    count = code ? 0 : trust->anchors.count;
    tls->ca_names = (br_x500_name *)psi_alloc((count + 1) * sizeof *tls->ca_names);
    if (!tls->ca_names) return psi_err_code(e, PSOCKET_NOMEM);
    for (i = 0; i < count; i++) {
        psi_x509_span name = trust->anchors.certs[i].subject;
        total += name.n + 2;
        if (total > 60000) break;
        tls->ca_names[i].data = (unsigned char *)(uintptr_t)name.p;
        tls->ca_names[i].len = name.n;
        tls->ca_name_count = i + 1;
    }
    if (!tls->ca_name_count) {
        tls->ca_names[0].data = nobody;
        tls->ca_names[0].len = sizeof nobody;
        tls->ca_name_count = 1;
    }
    return 0;
}

/* The checks and copies of psocket_tls_new. What is allocated hangs on tls. */
static int psi_tls_fill(psocket_tls *tls, const psocket_tls_options *t, psocket_error *e)
{
    int code;
    if (t->client_auth < PSOCKET_CLIENT_AUTH_NONE || t->client_auth > PSOCKET_CLIENT_AUTH_REQUIRED)
        return psi_err(e, PSOCKET_INVALID, "client_auth is not one of PSOCKET_CLIENT_AUTH_*");
    if (t->spki_pin_count && (!t->spki_pins || t->spki_pin_count > 4096))
        return psi_err(e, PSOCKET_INVALID, "spki_pins: at most 4096, and not NULL");
    if (t->spki_pin_count && t->insecure_no_verify)
        return psi_err(e, PSOCKET_INVALID, "spki_pins and insecure_no_verify contradict each other");
    if (t->min_version && t->min_version < BR_TLS12)
        return psi_err(e, PSOCKET_UNSUPPORTED, "min_version: versions before TLS 1.2 are never spoken");
    if (t->min_version > BR_TLS12)
        return psi_err(e, PSOCKET_UNSUPPORTED, "min_version: TLS 1.2 is the newest version of this library");
    tls->client_auth = t->client_auth;
    tls->insecure_no_verify = t->insecure_no_verify;
    tls->insecure_no_name = t->insecure_no_name;
    tls->decide = t->decide;
    tls->decide_user = t->decide_user;
    tls->clock = t->clock;
    tls->clock_user = t->clock_user;
    if (t->spki_pin_count) {
        tls->pins = (uint8_t *)psi_alloc(t->spki_pin_count * 32);
        if (!tls->pins) return psi_err_code(e, PSOCKET_NOMEM);
        memcpy(tls->pins, t->spki_pins, t->spki_pin_count * 32);
        tls->pin_count = t->spki_pin_count;
    }
    if (psi_tls_find_primitives(&tls->prim)) return psi_err_code(e, PSOCKET_NOMEM);
    code = t->suites ? psi_tls_choose_suites(&tls->prim, t->suites, e) : 0;
    if (!code) code = psi_tls_copy_alpn(tls, t, e);
    if (!code) code = psi_tls_copy_identities(tls, t, e);
    if (!code) code = psi_trust_new(&tls->trust, t, e);
    if (!code && tls->client_auth != PSOCKET_CLIENT_AUTH_NONE) code = psi_tls_name_authorities(tls, e);
    return code;
}

PSOCKET_API int psocket_tls_new(psocket_tls **out, const psocket_tls_options *topt)
{
    psocket_tls_options zero = PSI_ZERO;
    const psocket_tls_options *t = topt ? topt : &zero;
    psocket_tls *tls;
    int code;
    if (!out) return psi_err_code(t->error, PSOCKET_INVALID);
    *out = NULL;
    tls = (psocket_tls *)psi_alloc(sizeof *tls);
    if (!tls) return psi_err_code(t->error, PSOCKET_NOMEM);
    tls->refs = 1;
    psi_os_mutex_init(&tls->lock);
    tls->client_sessions.max = PSI_TLS_CLIENT_SESSIONS;
    tls->server_sessions.max = PSI_TLS_SERVER_SESSIONS;
    code = psi_tls_fill(tls, t, t->error);
    if (code) {
        psocket_tls_free(tls);
        return code;
    }
    *out = tls;
    return 0;
}

/* The process's default client settings, made at first use. The only state of this section that outlives a socket. */
static psi_os_mutex psi_tls_default_lock = PSI_OS_MUTEX_INIT;
static psocket_tls *psi_tls_default_settings;

/* *out is a reference of the caller's. */
static PSI_UNUSED int psi_tls_default(psocket_tls **out, psocket_error *e)
{
    int code = 0;
    psi_os_lock(&psi_tls_default_lock);
    if (!psi_tls_default_settings) {
        psocket_tls_options t = PSI_ZERO;
        t.error = e;
        code = psocket_tls_new(&psi_tls_default_settings, &t);
    }
    *out = psocket_tls_retain(psi_tls_default_settings);
    psi_os_unlock(&psi_tls_default_lock);
    return code;
}

PSOCKET_API void psocket_cleanup(void)
{
    psocket_tls *tls;
    psi_os_lock(&psi_tls_default_lock);
    tls = psi_tls_default_settings;
    psi_tls_default_settings = NULL;
    psi_os_unlock(&psi_tls_default_lock);
    psocket_tls_free(tls);
    psi_x509_cleanup();
}

/* Copies name without a trailing dot: 1 a DNS name, 2 an IP address, 0 neither (empty, too long, or with characters
   that are not printable ASCII: international names must be given in their "xn--" form). */
static int psi_tls_name(const char *name, char out[256])
{
    psi_addr address;
    size_t i, n = strlen(name);
    if (n && name[n - 1] == '.') n--;
    if (!n || n > 253 || name[n - 1] == '.') return 0;
    for (i = 0; i < n; i++)
        if (name[i] <= ' ' || name[i] > '~') return 0;
    memcpy(out, name, n);
    out[n] = 0;
    return psi_addr_parse(&address, out, n) ? 2 : 1;
}

/* The verdict on a peer's chain: the validator's, unless it is switched off, then the application's. */
static int psi_tls_judge(psocket_tls *tls, const psi_x509_chain *chain, const char *name, int client, psocket_error *e)
{
    psi_x509_query q = PSI_ZERO;
    psocket_certinfo info;
    char text[1024];
    int code = 0;
    memset(e, 0, sizeof *e);
    e->tls_alert = e->cert_index = -1;
    if (!chain->count) return psi_err_code(e, PSOCKET_CERT_MISSING);
    if (!tls->insecure_no_verify || tls->decide) {
        q.trust = tls->trust;
        q.name = client || tls->insecure_no_name ? NULL : name;
        q.now = psi_tls_now(tls);
        q.client = client;
        q.pins = tls->pins;
        q.pin_count = tls->pin_count;
        code = psi_x509_verify(&q, chain, e);
    }
    if (!tls->decide || code == PSOCKET_NOMEM) return code;
    psi_x509_info(&chain->certs[0], &info, text, sizeof text);
    if (!tls->decide(tls->decide_user, &info, e)) return 0;
    if (code) return code;
    psi_err(e, PSOCKET_CERT_REJECTED, "%s: %s", psocket_strerror(PSOCKET_CERT_REJECTED), info.subject);
    e->tls_alert = 46;
    e->cert_index = 0;
    return PSOCKET_CERT_REJECTED;
}

PSOCKET_API int psocket_tls_verify(psocket_tls *tls, const void *chain, size_t len, const char *name, psocket_error *e)
{
    psocket_error verdict = PSI_ZERO;
    psi_x509_chain certs = PSI_ZERO;
    char host[256];
    int code;
    if (!chain) return psi_err_code(e, PSOCKET_INVALID);
    if (tls) psocket_tls_retain(tls);
    else if ((code = psi_tls_default(&tls, e)) != 0) return code;
    if (name && !psi_tls_name(name, host)) {
        code = psi_err(&verdict, PSOCKET_INVALID, "not a host name or IP address: %.200s", name);
    } else if (!name && !tls->insecure_no_name && !tls->insecure_no_verify) {
        code = psi_err(&verdict, PSOCKET_INVALID, "a certificate can be verified only for a name");
    } else {
        code = psi_x509_chain_load(&certs, chain, len ? len : strlen((const char *)chain), &verdict);
        if (!code) code = psi_tls_judge(tls, &certs, name ? host : NULL, 0, &verdict);
    }
    psi_x509_chain_free(&certs);
    psocket_tls_free(tls);
    if (e && code) *e = verdict;
    else if (e) memset(e, 0, sizeof *e);
    return code;
}

static uint8_t *psi_tls_write(uint8_t *to, const void *from, size_t n)
{
    memcpy(to, from, n);
    return to + n;
}

static uint8_t *psi_tls_write_number(uint8_t *to, uint64_t value, size_t bytes)
{
    while (bytes--) *to++ = (uint8_t)(value >> 8 * bytes & 0xFF);
    return to;
}

/* What a session is kept under. */
static void psi_tls_name_hash(const char *name, int port, uint8_t out[32])
{
    uint8_t end[3] = {0, (uint8_t)(port >> 8 & 0xFF), (uint8_t)(port & 0xFF)};
    br_sha256_context sha;
    br_sha256_init(&sha);
    for (; *name; name++) {
        char c = (char)psi_lower((unsigned char)*name);
        br_sha256_update(&sha, &c, 1);
    }
    br_sha256_update(&sha, end, sizeof end);
    br_sha256_out(&sha, out);
}

/* --- the handshake: state ---------------------------------------------------------------------------------------- */

#define PSI_HS_IN BR_SSL_BUFSIZE_INPUT /* a whole record */
#define PSI_HS_OUT (4096 + 85)         /* the engine writes records of up to 4096 bytes */
#define PSI_HS_MESSAGE 16384           /* longest message, but for certificates and certificate requests */
#define PSI_HS_REQUEST 66560           /* longest certificate request: its list of names has a 16-bit length */
#define PSI_HS_TOTAL (PSOCKET_CHAIN_BYTES + 3 * PSI_HS_REQUEST) /* most bytes of a whole handshake */
#define PSI_HS_EXTENSIONS 256          /* most extensions of a hello */

enum { PSI_HS_HELLO, PSI_HS_RUNNING, PSI_HS_DONE, PSI_HS_FAILED };

/* BearSSL's callbacks get the address of one of these. */
typedef struct psi_hs psi_hs;
typedef struct psi_hs_x509 { const br_x509_class *vtable; psi_hs *hs; } psi_hs_x509;
typedef struct psi_hs_policy { const br_ssl_server_policy_class *vtable; psi_hs *hs; } psi_hs_policy;
typedef struct psi_hs_cache { const br_ssl_session_cache_class *vtable; psi_hs *hs; } psi_hs_cache;
typedef struct psi_hs_auth { const br_ssl_client_certificate_class *vtable; psi_hs *hs; } psi_hs_auth;

struct psi_hs {
    union {
        br_ssl_engine_context eng; /* the first member of both others */
        br_ssl_client_context client;
        br_ssl_server_context server;
    } u;
    psocket_tls *tls;
    int server, state;
    psocket_error err;
    char name[256];             /* client: the name to verify; server: the name asked for */
    uint8_t name_hash[32];
    const psi_tls_identity *identity; /* what we prove to be; NULL none */
    const char *alpn[1];        /* server: the protocol chosen */
    uint16_t suite;             /* server: the cipher suite chosen */
    int sign_hash;              /* server: the hash of its signature */
    /* input */
    uint8_t header[5];
    size_t header_len;
    size_t body_len, body_got;  /* of the current record */
    size_t held;                /* bytes of the peer's hello that wait for the rest of it */
    uint8_t message[4];         /* header of the current plaintext handshake message */
    size_t message_len, message_left;
    size_t total;
    size_t encrypted;           /* bytes of encrypted handshake messages: there is one, Finished */
    int dull;                   /* empty records and warnings */
    /* output */
    uint8_t *out;
    size_t out_at, out_len, out_cap;
    /* the peer's certificates */
    psi_hs_x509 x509;
    psi_x509_chain chain;
    uint8_t *cert;              /* the one being received */
    size_t cert_len, cert_got;
    psocket_error verdict;      /* code 0 once accepted */
    int key_usages;             /* 0: no key */
    /* sessions and hooks */
    psi_hs_policy policy;
    psi_hs_cache cache;
    psi_hs_auth auth;
    br_ssl_session_parameters offered; /* what the client wants to resume; session_id_len 0 nothing */
    psi_tlsinfo *peer;          /* the peer of the session that is resumed */
    int resumed;
    /* what the engine reads and writes */
    uint8_t ibuf[PSI_HS_IN];
    uint8_t obuf[PSI_HS_OUT];
};

static int psi_hs_append(psi_hs *h, const uint8_t *p, size_t n)
{
    if (n > h->out_cap - h->out_len) {
        size_t cap = h->out_len + n + 1024;
        uint8_t *more = (uint8_t *)psi_realloc(h->out, h->out_len, cap);
        if (!more) return PSOCKET_NOMEM;
        h->out = more;
        h->out_cap = cap;
    }
    memcpy(h->out + h->out_len, p, n);
    h->out_len += n;
    return 0;
}

/* Puts an alert into the output, encrypted if the engine has begun to encrypt. Without memory it is left out. */
static void psi_hs_alert(psi_hs *h, int level, int alert)
{
    br_ssl_engine_context *eng = &h->u.eng;
    uint8_t buf[64];
    uint8_t *p = buf + PSI_REC_HEAD + 5;
    size_t n = 2;
    p[0] = (uint8_t)level;
    p[1] = (uint8_t)alert;
    if (!eng->out.vtable || eng->out.vtable == &br_sslrec_out_clear_vtable) {
        unsigned version = eng->version_out ? eng->version_out : BR_TLS12;
        p -= 5;
        p[0] = PSI_REC_ALERT;
        p[1] = (uint8_t)(version >> 8);
        p[2] = (uint8_t)version;
        p[3] = 0;
        p[4] = 2;
        n = 7;
    } else {
        p = eng->out.vtable->encrypt(&eng->out.vtable, PSI_REC_ALERT, BR_TLS12, p, &n);
    }
    psi_hs_append(h, p, n);
}

/* Ends the handshake with an error and, unless alert is negative, tells the peer. */
PSI_PRINTF(4, 5)
static void psi_hs_fail(psi_hs *h, int code, int alert, const char *format, ...)
{
    va_list ap;
    char text[sizeof h->err.text];
    if (h->state == PSI_HS_FAILED) return;
    h->state = PSI_HS_FAILED;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    psi_err(&h->err, code, "%s", text);
    h->err.bearssl_error = h->u.eng.err;
    if (alert < 0) return;
    h->err.tls_alert = alert;
    psi_hs_alert(h, 2, alert);
}

/* --- the handshake: the peer's certificates ---------------------------------------------------------------------- */

static psi_hs *psi_hs_of_x509(const br_x509_class **ctx)
{
    return ((psi_hs_x509 *)(void *)ctx)->hs;
}

static void psi_hs_x509_refuse(psi_hs *h, int code, int alert)
{
    if (h->verdict.code) return;
    psi_err_code(&h->verdict, code);
    h->verdict.tls_alert = alert;
}

static void psi_hs_x509_start_chain(const br_x509_class **ctx, const char *name)
{
    (void)ctx;
    (void)name; /* the name we were given counts, it may be an IP address */
}

static void psi_hs_x509_start_cert(const br_x509_class **ctx, uint32_t length)
{
    psi_hs *h = psi_hs_of_x509(ctx);
    h->cert_got = h->cert_len = 0;
    if (h->verdict.code) return;
    if (!length) {
        psi_hs_x509_refuse(h, PSOCKET_CERT_MALFORMED, 42);
    } else if (length > PSOCKET_CHAIN_BYTES) {
        psi_hs_x509_refuse(h, PSOCKET_CERT_LIMIT, 42);
    } else {
        h->cert = (uint8_t *)psi_alloc(length);
        if (h->cert) h->cert_len = length;
        else psi_hs_x509_refuse(h, PSOCKET_NOMEM, 80);
    }
}

static void psi_hs_x509_append(const br_x509_class **ctx, const unsigned char *p, size_t n)
{
    psi_hs *h = psi_hs_of_x509(ctx);
    if (!h->cert || n > h->cert_len - h->cert_got) return;
    memcpy(h->cert + h->cert_got, p, n);
    h->cert_got += n;
}

static void psi_hs_x509_end_cert(const br_x509_class **ctx)
{
    psi_hs *h = psi_hs_of_x509(ctx);
    if (h->cert) {
        int code = psi_x509_chain_add(&h->chain, h->cert, h->cert_len);
        if (code) psi_hs_x509_refuse(h, code, code == PSOCKET_NOMEM ? 80 : 42);
    }
    psi_free(h->cert);
    h->cert = NULL;
}

static unsigned psi_hs_x509_end_chain(const br_x509_class **ctx)
{
    psi_hs *h = psi_hs_of_x509(ctx);
    int code;
    if (h->verdict.code) return BR_ERR_X509_NOT_TRUSTED;
    code = psi_tls_judge(h->tls, &h->chain, h->name, h->server, &h->verdict);
    if (!code) {
        memset(&h->verdict, 0, sizeof h->verdict);
        code = psi_x509_usable(&h->chain.certs[0], &h->verdict);
        if (!code && h->chain.certs[0].pss_key) {
            code = psi_err(&h->verdict, PSOCKET_CERT_ALGORITHM, "certificate has an RSA-PSS key, which is not supported");
            h->verdict.tls_alert = psi_x509_alert(code);
            h->verdict.cert_index = 0;
        }
        if (!code) {
            h->key_usages = BR_KEYTYPE_SIGN;
            return 0;
        }
    } else if (!h->verdict.code) {
        psi_err_code(&h->verdict, code);
    }
    return BR_ERR_X509_NOT_TRUSTED;
}

static const br_x509_pkey *psi_hs_x509_get_pkey(const br_x509_class *const *ctx, unsigned *usages)
{
    const psi_hs *h = ((const psi_hs_x509 *)(const void *)ctx)->hs;
    if (usages) *usages = (unsigned)h->key_usages;
    return h->key_usages ? &h->chain.certs[0].key : NULL;
}

static const br_x509_class psi_hs_x509_class = {
    sizeof(psi_hs_x509), psi_hs_x509_start_chain, psi_hs_x509_start_cert, psi_hs_x509_append, psi_hs_x509_end_cert,
    psi_hs_x509_end_chain, psi_hs_x509_get_pkey};

/* --- the handshake: our own certificate -------------------------------------------------------------------------- */

/* The best hash among a set of them, 0 if none will do. SHA-1 and MD5 will not. */
static int psi_hs_pick_hash(unsigned set)
{
    if (set >> br_sha256_ID & 1) return br_sha256_ID;
    if (set >> br_sha384_ID & 1) return br_sha384_ID;
    if (set >> br_sha512_ID & 1) return br_sha512_ID;
    return 0;
}

/* Signs a hash value, which may stand where the signature will. Returns the signature's length, 0 on failure. */
static size_t psi_hs_sign(const psi_x509_key *k, int hash, unsigned char *data, size_t hash_len, size_t room)
{
    const br_hash_class *hc = hash == br_sha256_ID ? &br_sha256_vtable
                            : hash == br_sha384_ID ? &br_sha384_vtable : &br_sha512_vtable;
    static const unsigned char oid256[] = {0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01};
    unsigned char value[64], oid[sizeof oid256];
    size_t n;
    if (hash < br_sha256_ID || hash > br_sha512_ID || hash_len > sizeof value) return 0;
    memcpy(value, data, hash_len);
    if (k->type == BR_KEYTYPE_EC)
        return room < 139 ? 0
                          : br_ecdsa_sign_asn1_get_default()(br_ec_get_default(), hc, value, &k->ec, data);
    memcpy(oid, oid256, sizeof oid);
    oid[sizeof oid - 1] = (unsigned char)(hash - br_sha256_ID + 1);
    n = (k->rsa.n_bitlen + 7) / 8;
    return n <= room && br_rsa_pkcs1_sign_get_default()(oid, value, hash_len, &k->rsa, data) ? n : 0;
}

static int psi_hs_policy_choose(const br_ssl_server_policy_class **ctx, const br_ssl_server_context *sc,
                                br_ssl_server_choices *choice)
{
    psi_hs *h = ((psi_hs_policy *)(void *)ctx)->hs;
    (void)sc;
    choice->cipher_suite = h->suite;
    choice->algo_id = 0xFF00u + (unsigned)h->sign_hash;
    choice->chain = h->identity->sent;
    choice->chain_len = h->identity->chain.count;
    return 1;
}

static uint32_t psi_hs_policy_keyx(const br_ssl_server_policy_class **ctx, unsigned char *data, size_t *len)
{
    (void)ctx;
    (void)data;
    (void)len;
    return 0; /* static RSA and ECDH: none of our suites */
}

static size_t psi_hs_policy_sign(const br_ssl_server_policy_class **ctx, unsigned algo, unsigned char *data,
                                 size_t hash_len, size_t room)
{
    psi_hs *h = ((psi_hs_policy *)(void *)ctx)->hs;
    return psi_hs_sign(&h->identity->key, (int)(algo & 0xFF), data, hash_len, room);
}

static const br_ssl_server_policy_class psi_hs_policy_class = {
    sizeof(psi_hs_policy), psi_hs_policy_choose, psi_hs_policy_keyx, psi_hs_policy_sign};

static void psi_hs_auth_nothing(const br_ssl_client_certificate_class **ctx)
{
    (void)ctx;
}

static void psi_hs_auth_name(const br_ssl_client_certificate_class **ctx, size_t len)
{
    (void)ctx;
    (void)len;
}

static void psi_hs_auth_name_part(const br_ssl_client_certificate_class **ctx, const unsigned char *p, size_t n)
{
    (void)ctx;
    (void)p;
    (void)n;
}

/* Bits 0 to 7 of types are hashes allowed with RSA, bits 8 to 15 those with ECDSA. Without a common one no certificate
   is sent and the server decides. */
static void psi_hs_auth_choose(const br_ssl_client_certificate_class **ctx, const br_ssl_client_context *cc,
                               uint32_t types, br_ssl_client_certificate *choice)
{
    psi_hs *h = ((psi_hs_auth *)(void *)ctx)->hs;
    int rsa = h->identity->key.type == BR_KEYTYPE_RSA;
    int hash = psi_hs_pick_hash((unsigned)(rsa ? types : types >> 8));
    (void)cc;
    memset(choice, 0, sizeof *choice);
    if (!hash) return;
    choice->auth_type = rsa ? BR_AUTH_RSA : BR_AUTH_ECDSA;
    choice->hash_id = hash;
    choice->chain = h->identity->sent;
    choice->chain_len = h->identity->chain.count;
}

static size_t psi_hs_auth_sign(const br_ssl_client_certificate_class **ctx, int hash, size_t hash_len,
                               unsigned char *data, size_t room)
{
    psi_hs *h = ((psi_hs_auth *)(void *)ctx)->hs;
    return psi_hs_sign(&h->identity->key, hash, data, hash_len, room);
}

static const br_ssl_client_certificate_class psi_hs_auth_class = {
    sizeof(psi_hs_auth), psi_hs_auth_nothing, psi_hs_auth_name, psi_hs_auth_name_part, psi_hs_auth_nothing,
    psi_hs_auth_nothing, psi_hs_auth_choose, NULL, psi_hs_auth_sign};

/* --- the handshake: sessions ------------------------------------------------------------------------------------- */

static void psi_hs_cache_save(const br_ssl_session_cache_class **ctx, br_ssl_server_context *sc,
                              const br_ssl_session_parameters *par)
{
    psi_hs *h = ((psi_hs_cache *)(void *)ctx)->hs;
    psocket_tls *tls = h->tls;
    int64_t now = psi_tls_now(tls);
    psi_tls_session *s;
    (void)sc;
    psi_os_lock(&tls->lock);
    s = psi_tls_sessions_place(&tls->server_sessions);
    if (s) {
        s->par = *par;
        memcpy(s->name, h->name_hash, sizeof s->name);
        s->from = now;
        s->until = now + PSI_TLS_SESSION_TIME;
        s->used = ++tls->server_sessions.clock;
    }
    psi_os_unlock(&tls->lock);
}

static int psi_hs_cache_load(const br_ssl_session_cache_class **ctx, br_ssl_server_context *sc,
                             br_ssl_session_parameters *par)
{
    psi_hs *h = ((psi_hs_cache *)(void *)ctx)->hs;
    (void)sc;
    if (h->resumed) *par = h->offered;
    return h->resumed;
}

static const br_ssl_session_cache_class psi_hs_cache_class = {sizeof(psi_hs_cache), psi_hs_cache_save,
                                                              psi_hs_cache_load};

/* Clients remember one session per name and port. Not when the application judges each certificate itself. */
static int psi_hs_remembers(const psi_hs *h)
{
    return !h->server && h->name[0] && !h->tls->decide;
}

/* Looks up a session to resume. */
static void psi_hs_recall(psi_hs *h)
{
    psocket_tls *tls = h->tls;
    int64_t now;
    psi_tls_session *s;
    if (!psi_hs_remembers(h)) return;
    now = psi_tls_now(tls);
    psi_os_lock(&tls->lock);
    s = psi_tls_sessions_find(&tls->client_sessions, h->name_hash, NULL);
    if (s && now >= s->from && now < s->until) {
        h->peer = psi_tlsinfo_new("", "", psi_tlsinfo_text(s->peer, s->peer->subject_at), s->peer);
        if (h->peer) {
            h->offered = s->par;
            s->used = ++tls->client_sessions.clock;
        }
    }
    psi_os_unlock(&tls->lock);
}

/* Remembers (info) the session with this server, or forgets (NULL) the one that was offered. */
static void psi_hs_remember(psi_hs *h, const psi_tlsinfo *info)
{
    psocket_tls *tls = h->tls;
    psi_tlsinfo *peer = NULL;
    psi_tls_session *s;
    int64_t now = psi_tls_now(tls);
    if (!psi_hs_remembers(h)) return;
    if (info && h->u.eng.session.session_id_len && info->has_peer && now < info->not_after)
        peer = psi_tlsinfo_new("", "", psi_tlsinfo_text(info, info->subject_at), info);
    psi_os_lock(&tls->lock);
    s = psi_tls_sessions_find(&tls->client_sessions, h->name_hash, info ? NULL : h->offered.session_id);
    if (s) {
        psi_tls_session_drop(s);
        if (!peer) {
            *s = tls->client_sessions.list[--tls->client_sessions.count];
            psi_wipe(&tls->client_sessions.list[tls->client_sessions.count], sizeof *s);
        }
    } else if (peer) {
        s = psi_tls_sessions_place(&tls->client_sessions);
    }
    if (s && peer) {
        s->par = h->u.eng.session;
        memcpy(s->name, h->name_hash, sizeof s->name);
        s->from = now;
        s->until = now + PSI_TLS_SESSION_TIME < peer->not_after ? now + PSI_TLS_SESSION_TIME : peer->not_after;
        s->used = ++tls->client_sessions.clock;
        s->peer = peer;
        peer = NULL;
    }
    psi_os_unlock(&tls->lock);
    psi_tlsinfo_free(peer);
}

/* --- the handshake: reading the peer's hello --------------------------------------------------------------------- */

/* Bytes still to be read; bad once something did not fit. */
typedef struct psi_hs_bytes {
    const uint8_t *p;
    size_t n;
    int bad;
} psi_hs_bytes;

/* The next n bytes, NULL if there are fewer. */
static const uint8_t *psi_hs_take(psi_hs_bytes *b, size_t n)
{
    const uint8_t *p = b->p;
    if (b->n < n) {
        b->bad = 1;
        b->n = 0;
        return NULL;
    }
    b->p += n;
    b->n -= n;
    return p;
}

static unsigned psi_hs_number(psi_hs_bytes *b, size_t size)
{
    const uint8_t *p = psi_hs_take(b, size);
    unsigned v = 0;
    while (p && size--) v = v << 8 | *p++;
    return v;
}

/* A vector of at least min bytes, in front of which its length stands in size bytes. */
static psi_hs_bytes psi_hs_vector(psi_hs_bytes *b, size_t size, size_t min)
{
    psi_hs_bytes v = PSI_ZERO;
    v.n = psi_hs_number(b, size);
    v.p = psi_hs_take(b, v.n);
    if (v.n < min) b->bad = 1;
    if (b->bad) b->n = v.n = 0;
    v.bad = b->bad;
    return v;
}

/* What a client offers, as far as a choice hangs on it. */
typedef struct psi_hs_offer {
    const uint8_t *random;
    psi_hs_bytes id, alpn;
    unsigned suites[2]; /* bits: which of the settings' suites; [0] signed with ECDSA, [1] with RSA */
    unsigned hashes[2]; /* bits: hashes to sign, likewise */
    uint32_t curves;
    int secure;         /* knows RFC 5746 */
    uint8_t fragment;   /* max_fragment_length, 0 none */
} psi_hs_offer;

/* One extension of a hello: 0, or the alert that answers a malformed one. o is what a server fills; clients have NULL. */
static int psi_hs_extension(psi_hs *h, psi_hs_offer *o, unsigned type, psi_hs_bytes body)
{
    psi_hs_bytes list, name = PSI_ZERO;
    size_t i;
    if (type == 0xFF01) { /* renegotiation_info, RFC 5746 3.6: empty in a first handshake */
        if (o) o->secure = 1;
        return body.n == 1 && body.p[0] == 0 ? 0 : 40;
    }
    if (o && type == 1) { /* max_fragment_length, RFC 6066 4 */
        if (body.n != 1) return 50;
        o->fragment = body.p[0];
        return o->fragment < 1 || o->fragment > 4 ? 47 : 0;
    }
    if (type != 16 && (!o || (type != 0 && type != 10 && type != 11 && type != 13 && type != 43))) return 0;
    list = psi_hs_vector(&body, type == 11 || type == 43 ? 1 : 2, 1);
    if (list.bad || body.n) return 50;
    if (type == 16 && o) o->alpn = list;
    if (type == 11) return memchr(list.p, 0, list.n) ? 0 : 47; /* ec_point_formats, RFC 8422 5.1.2: uncompressed is a must */
    if (type == 10) o->curves = 0;
    while (list.n) {
        unsigned kind = 0, number = 0;
        if (type == 0) kind = psi_hs_number(&list, 1);
        if (type == 0 || type == 16) name = psi_hs_vector(&list, type == 0 ? 2 : 1, 1);
        else number = psi_hs_number(&list, 2);
        if (list.bad) return 50;
        switch (type) {
        case 0: /* server_name, RFC 6066 3 */
            if (kind) break;
            if (h->name[0]) return 47; /* a second host name */
            if (name.n > 255) return 50;
            for (i = 0; i < name.n; i++)
                if (name.p[i] <= ' ' || name.p[i] > '~') return 50;
            memcpy(h->name, name.p, name.n);
            if (name.n > 1 && h->name[name.n - 1] == '.') h->name[name.n - 1] = 0;
            break;
        case 10: /* supported_groups, RFC 8422 5.1.1 */
            if (number < 32) o->curves |= (uint32_t)1 << number;
            break;
        case 13: /* signature_algorithms, RFC 5246 7.4.1.4.1: hash and signature, 1 RSA or 3 ECDSA */
            if (number >> 8 >= br_sha256_ID && number >> 8 <= br_sha512_ID && ((number & 255) == 1 || (number & 255) == 3))
                o->hashes[(number & 255) == 1] |= 1u << (number >> 8);
            break;
        case 16: /* ALPN, RFC 7301: from a server exactly one name, one of ours */
            if (o) break;
            if (list.n) return 50;
            for (i = 0; i < h->tls->alpn_count; i++)
                if (strlen(h->tls->alpn[i]) == name.n && !memcmp(h->tls->alpn[i], name.p, name.n)) return 0;
            if (!i) return 0; /* BearSSL refuses extensions that were not offered */
            psi_hs_fail(h, PSOCKET_TLS_ALPN, 47, "the server chose an application protocol that was not offered");
            return 47;
        default: /* 43, supported_versions, RFC 8446 4.2.1 */
            if (number == BR_TLS12) return 0;
        }
    }
    return type == 43 ? 70 : 0;
}

/* All extensions of a hello, which end it: 0, or the alert that answers a malformed list. */
static int psi_hs_extensions(psi_hs *h, psi_hs_offer *o, psi_hs_bytes *hello)
{
    uint16_t seen[PSI_HS_EXTENSIONS];
    size_t i, count = 0;
    psi_hs_bytes list;
    if (!hello->n) return 0;
    list = psi_hs_vector(hello, 2, 0);
    if (list.bad || hello->n) return 50;
    while (list.n) {
        unsigned type = psi_hs_number(&list, 2);
        psi_hs_bytes body = psi_hs_vector(&list, 2, 0);
        int alert;
        if (body.bad || count == PSI_HS_EXTENSIONS) return 50;
        for (i = 0; i < count; i++)
            if (seen[i] == type) return 47; /* RFC 5246 7.4.1.4: at most one of a type */
        seen[count++] = (uint16_t)type;
        alert = psi_hs_extension(h, o, type, body);
        if (alert) return alert;
    }
    return 0;
}

/* Can the client work with this identity? */
static int psi_hs_suits(const psi_hs *h, const psi_hs_offer *o, const psi_tls_identity *id)
{
    int rsa = id->key.type == BR_KEYTYPE_RSA;
    return o->suites[rsa] && o->hashes[rsa] && (o->curves & h->tls->prim.server_ec.supported_curves) &&
           (rsa || (id->key.ec.curve < 32 && (o->curves >> id->key.ec.curve & 1)));
}

/* The identity for a client: by name (exact, wildcard, then the first), and EC for those who can. NULL: none suits. */
static const psi_tls_identity *psi_hs_choose_identity(const psi_hs *h, const psi_hs_offer *o)
{
    const psi_tls_identity *best = NULL;
    psi_x509_host host;
    int best_score = 0, named = h->name[0] && psi_x509_host_parse(&host, h->name);
    size_t i;
    for (i = 0; i < h->tls->identity_count; i++) {
        const psi_tls_identity *id = &h->tls->identities[i];
        int score = 1;
        if (!psi_hs_suits(h, o, id)) continue;
        if (named) score += 2 * psi_x509_names(&id->chain.certs[0], &host);
        if (score > 1 && id->key.type == BR_KEYTYPE_EC) score++;
        if (score > best_score) {
            best = id;
            best_score = score;
        }
    }
    return best;
}

/* The application protocol, by the server's preference: 0, or -1 when nothing is in common. */
static int psi_hs_choose_alpn(psi_hs *h, const psi_hs_offer *o)
{
    size_t i;
    if (!o->alpn.n || !h->tls->alpn_count) return 0;
    for (i = 0; i < h->tls->alpn_count; i++) {
        psi_hs_bytes list = o->alpn;
        while (list.n) {
            psi_hs_bytes name = psi_hs_vector(&list, 1, 1);
            if (name.n == strlen(h->tls->alpn[i]) && !memcmp(name.p, h->tls->alpn[i], name.n)) {
                h->alpn[0] = h->tls->alpn[i];
                return 0;
            }
        }
    }
    return -1;
}

/* The session to resume: one for this name whose cipher suite the client still offers. */
static void psi_hs_choose_session(psi_hs *h, const psi_hs_offer *o)
{
    psocket_tls *tls = h->tls;
    int64_t now = psi_tls_now(tls);
    psi_tls_session *s;
    size_t i;
    if (o->id.n != 32 || tls->client_auth != PSOCKET_CLIENT_AUTH_NONE) return;
    psi_os_lock(&tls->lock);
    s = psi_tls_sessions_find(&tls->server_sessions, h->name_hash, o->id.p);
    for (i = 0; s && i < tls->prim.suite_count; i++)
        if (tls->prim.suites[i] == s->par.cipher_suite && ((o->suites[0] | o->suites[1]) >> i & 1) && s->par.version == BR_TLS12 &&
            now >= s->from && now < s->until) {
            s->used = ++tls->server_sessions.clock;
            h->offered = s->par;
            h->suite = s->par.cipher_suite;
            h->resumed = 1;
        }
    psi_os_unlock(&tls->lock);
}

/* Reads a whole ClientHello and makes all choices. */
static void psi_hs_read_client_hello(psi_hs *h, psi_hs_offer *o, psi_hs_bytes b)
{
    const psi_tls_primitives *prim = &h->tls->prim;
    psi_hs_bytes suites, compression;
    unsigned version = psi_hs_number(&b, 2);
    size_t i;
    int alert, rsa, fallback = 0;
    o->curves = (uint32_t)1 << BR_EC_secp256r1; /* RFC 8422 4: without the extension the server may choose */
    o->random = psi_hs_take(&b, 32);
    o->id = psi_hs_vector(&b, 1, 0);
    suites = psi_hs_vector(&b, 2, 2);
    compression = psi_hs_vector(&b, 1, 1);
    alert = b.bad || o->id.n > 32 || suites.n % 2 ? 50 : 0;
    while (suites.n) {
        unsigned suite = psi_hs_number(&suites, 2);
        if (suite == 0x5600) fallback = 1;
        if (suite == 0x00FF) o->secure = 1;
        for (i = 0; i < prim->suite_count; i++)
            if (prim->suites[i] == suite) o->suites[psi_tls_is_rsa(suite)] |= 1u << i;
    }
    if (!alert && version < BR_TLS12) { /* RFC 5246 E.1; RFC 7507 3: this client tried a higher version before */
        h->u.eng.version_out = (uint16_t)(version >> 8 == 3 ? version : BR_TLS12);
        psi_hs_fail(h, PSOCKET_TLS_VERSION, fallback ? 86 : 70, "the client accepts no TLS version above 1.%d",
                    version == BR_TLS11);
        return;
    }
    if (!alert) alert = memchr(compression.p, 0, compression.n) ? psi_hs_extensions(h, o, &b) : 47;
    if (alert == 70) {
        psi_hs_fail(h, PSOCKET_TLS_VERSION, 70, "the client does not accept TLS 1.2");
        return;
    }
    if (alert) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, alert, "the client's hello is malformed (%s)", psi_rec_alert_name(alert));
        return;
    }
    psi_tls_name_hash(h->name, 0, h->name_hash);
    if (psi_hs_choose_alpn(h, o)) {
        psi_hs_fail(h, PSOCKET_TLS_ALPN, 120, "the client offers none of this server's application protocols");
        return;
    }
    h->identity = psi_hs_choose_identity(h, o);
    if (!h->identity) {
        psi_hs_fail(h, PSOCKET_TLS_HANDSHAKE, 40, "the client offers %s that this server can use",
                    !(o->suites[0] | o->suites[1]) ? "no cipher suite"
                    : !(o->curves & prim->server_ec.supported_curves) ? "no elliptic curve"
                    : "no signature algorithm and key type");
        return;
    }
    rsa = h->identity->key.type == BR_KEYTYPE_RSA;
    h->sign_hash = psi_hs_pick_hash(o->hashes[rsa]);
    for (i = 0; !(o->suites[rsa] >> i & 1); i++) {}
    h->suite = prim->suites[i];
    psi_hs_choose_session(h, o);
}

/* Reads a whole ServerHello: what BearSSL would not notice, and what deserves a clearer message. */
static void psi_hs_read_server_hello(psi_hs *h, psi_hs_bytes b)
{
    unsigned version = psi_hs_number(&b, 2), suite, compression;
    psi_hs_bytes id;
    int alert;
    psi_hs_take(&b, 32);
    id = psi_hs_vector(&b, 1, 0);
    suite = psi_hs_number(&b, 2);
    compression = psi_hs_number(&b, 1);
    alert = b.bad || id.n > 32 ? 50 : 0;
    if (!alert && version != BR_TLS12) {
        psi_hs_fail(h, PSOCKET_TLS_VERSION, 70, "the server chose another version than TLS 1.2 (%04x)", version);
        return;
    }
    if (!alert && (!psi_tls_has_suite(h->tls, suite) || compression)) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 47, "the server chose a %s that was not offered",
                    compression ? "compression method" : "cipher suite");
        return;
    }
    if (!alert) alert = psi_hs_extensions(h, NULL, &b);
    if (alert) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, alert, "the server's hello is malformed (%s)", psi_rec_alert_name(alert));
        return;
    }
    h->resumed = h->offered.session_id_len && id.n == h->offered.session_id_len &&
                 !memcmp(id.p, h->offered.session_id, id.n);
}

/* --- the handshake: running the engine --------------------------------------------------------------------------- */

typedef struct psi_hs_reason {
    uint8_t error, alert;
    int16_t code;
    const char *text;
} psi_hs_reason;

/* What BearSSL's errors mean. It sends next to no alerts of its own. */
static const psi_hs_reason psi_hs_reasons[] = {
    {BR_ERR_BAD_PARAM, 50, PSOCKET_TLS_PROTOCOL, "a handshake message is malformed"},
    {BR_ERR_UNSUPPORTED_VERSION, 70, PSOCKET_TLS_VERSION, "no TLS version in common"},
    {BR_ERR_BAD_VERSION, 70, PSOCKET_TLS_PROTOCOL, "a record has another TLS version than agreed"},
    {BR_ERR_BAD_LENGTH, 22, PSOCKET_TLS_PROTOCOL, "a record has an impossible length"},
    {BR_ERR_TOO_LARGE, 22, PSOCKET_TLS_PROTOCOL, "a record is too long"},
    {BR_ERR_BAD_MAC, 20, PSOCKET_TLS_RECORD, "the first encrypted record does not decrypt"},
    {BR_ERR_UNEXPECTED, 10, PSOCKET_TLS_PROTOCOL, "a message came out of order"},
    {BR_ERR_BAD_CCS, 10, PSOCKET_TLS_PROTOCOL, "a ChangeCipherSpec message is malformed"},
    {BR_ERR_BAD_ALERT, 50, PSOCKET_TLS_PROTOCOL, "an alert is malformed"},
    {BR_ERR_BAD_HANDSHAKE, 50, PSOCKET_TLS_PROTOCOL, "a handshake message is malformed"},
    {BR_ERR_OVERSIZED_ID, 50, PSOCKET_TLS_PROTOCOL, "a session ID is too long"},
    {BR_ERR_BAD_CIPHER_SUITE, 47, PSOCKET_TLS_PROTOCOL, "the cipher suite was not offered"},
    {BR_ERR_BAD_COMPRESSION, 47, PSOCKET_TLS_PROTOCOL, "the compression method was not offered"},
    {BR_ERR_BAD_FRAGLEN, 47, PSOCKET_TLS_PROTOCOL, "max_fragment_length is wrong"},
    {BR_ERR_BAD_SECRENEG, 40, PSOCKET_TLS_PROTOCOL, "renegotiation_info is wrong"},
    {BR_ERR_EXTRA_EXTENSION, 110, PSOCKET_TLS_PROTOCOL, "the server answered an extension that was not offered"},
    {BR_ERR_BAD_SNI, 50, PSOCKET_TLS_PROTOCOL, "the server_name extension is malformed"},
    {BR_ERR_BAD_HELLO_DONE, 50, PSOCKET_TLS_PROTOCOL, "ServerHelloDone is not empty"},
    {BR_ERR_LIMIT_EXCEEDED, 47, PSOCKET_TLS_PROTOCOL, "a key or signature is longer than 4096 bits"},
    {BR_ERR_BAD_FINISHED, 51, PSOCKET_TLS_PROTOCOL, "the Finished messages differ: the handshake was tampered with"},
    {BR_ERR_RESUME_MISMATCH, 47, PSOCKET_TLS_PROTOCOL, "the resumed session has other parameters"},
    {BR_ERR_INVALID_ALGORITHM, 47, PSOCKET_TLS_PROTOCOL, "the key exchange uses a curve, point or hash not offered"},
    {BR_ERR_BAD_SIGNATURE, 51, PSOCKET_TLS_PROTOCOL, "the signature on the key exchange is wrong"},
    {BR_ERR_WRONG_KEY_USAGE, 43, PSOCKET_CERT_USAGE, "the certificate's key does not fit the cipher suite"},
    {BR_ERR_NO_CLIENT_AUTH, 40, PSOCKET_CERT_MISSING, "the client sent no certificate"}};

/* The peer refused. */
static void psi_hs_refused(psi_hs *h, int alert)
{
    const char *hint = "";
    int code = PSOCKET_TLS_ALERT;
    if (alert == 70) {
        code = PSOCKET_TLS_VERSION;
        hint = h->server ? ": it does not accept TLS 1.2" : ": the server probably accepts TLS 1.3 only";
    } else if (alert == 120) {
        code = PSOCKET_TLS_ALPN;
        hint = ": it knows none of the application protocols offered";
    } else if (alert == 40 && !h->server) {
        hint = ": it probably found no TLS version (it may accept TLS 1.3 only) or no cipher suite in common, or wants a client certificate";
    } else if (alert == 112) {
        hint = ": it does not know this server name";
    } else if (alert == 116) {
        hint = ": it wants a client certificate";
    } else if (alert >= 42 && alert <= 48 && alert != 47) {
        hint = ": it does not accept our certificate";
    }
    psi_hs_fail(h, code, -1, "the %s refused with the TLS alert %s (%d)%s", h->server ? "client" : "server",
                psi_rec_alert_name(alert), alert, hint);
    h->err.tls_alert = alert;
}

static void psi_hs_closed(psi_hs *h)
{
    psi_hs_fail(h, PSOCKET_TLS_ALERT, -1, "the %s closed the connection during the handshake",
                h->server ? "client" : "server");
    h->err.tls_alert = 0;
    psi_hs_alert(h, 1, 0);
}

/* The engine has failed. */
static void psi_hs_engine_failed(psi_hs *h)
{
    int error = br_ssl_engine_last_error(&h->u.eng);
    size_t i;
    if (error == BR_ERR_OK) {
        psi_hs_closed(h);
    } else if (error >= BR_ERR_SEND_FATAL_ALERT) { /* it has sent the alert itself */
        int alert = error - BR_ERR_SEND_FATAL_ALERT;
        int code = alert == 70 || alert == 86 ? PSOCKET_TLS_VERSION : PSOCKET_TLS_HANDSHAKE;
        psi_hs_fail(h, code, -1, "the client's hello was refused (%s)", psi_rec_alert_name(alert));
        h->err.tls_alert = alert;
    } else if (error >= BR_ERR_RECV_FATAL_ALERT) {
        psi_hs_refused(h, error - BR_ERR_RECV_FATAL_ALERT);
    } else {
        for (i = 0; i < sizeof psi_hs_reasons / sizeof psi_hs_reasons[0]; i++)
            if (psi_hs_reasons[i].error == error) {
                psi_hs_fail(h, psi_hs_reasons[i].code, psi_hs_reasons[i].alert, "%s", psi_hs_reasons[i].text);
                return;
            }
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 80, "the TLS engine failed (error %d)", error);
    }
}

#ifdef PSOCKET_KEYLOG
/* The line that lets Wireshark decrypt this connection. */
static void psi_hs_keylog(const br_ssl_engine_context *eng)
{
    static const char hex[] = "0123456789abcdef";
    char line[14 + 64 + 1 + 96 + 1] = "CLIENT_RANDOM ";
    char *p = line + 14;
    size_t i;
    for (i = 0; i < 32 + 48; i++) {
        unsigned b = i < 32 ? eng->client_random[i] : eng->session.master_secret[i - 32];
        if (i == 32) *p++ = ' ';
        *p++ = hex[b >> 4];
        *p++ = hex[b & 15];
    }
    *p = 0;
    PSOCKET_KEYLOG(line);
    psi_wipe(line, sizeof line);
}
#endif

/* Moves what the engine wants to send into the output, then sees where it stands. */
static void psi_hs_turn(psi_hs *h)
{
    br_ssl_engine_context *eng = &h->u.eng;
    unsigned char *p;
    size_t n;
    while ((p = br_ssl_engine_sendrec_buf(eng, &n)) != NULL) {
        if (psi_hs_append(h, p, n)) {
            psi_hs_fail(h, PSOCKET_NOMEM, 80, "%s", psocket_strerror(PSOCKET_NOMEM));
            return;
        }
        br_ssl_engine_sendrec_ack(eng, n);
    }
    if (h->verdict.code) {
        psocket_error verdict = h->verdict;
        psi_hs_fail(h, verdict.code, verdict.tls_alert > 0 ? verdict.tls_alert : 80, "%s", verdict.text);
        h->err.cert_index = verdict.cert_index;
        h->err.bearssl_error = verdict.bearssl_error;
    } else if (br_ssl_engine_current_state(eng) & BR_SSL_CLOSED) {
        psi_hs_engine_failed(h);
    } else if (!br_ssl_engine_recvrec_buf(eng, &n) || n != 5) {
        /* Bytes that the engine does not take, as behind Finished: waiting for it would last for ever. */
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 10, "a record holds more than the handshake allows");
    } else if (br_ssl_engine_current_state(eng) & BR_SSL_SENDAPP) {
        /* No way leads here without the certificate that was demanded; it is checked all the same. */
        if (!h->key_usages && (h->server ? h->tls->client_auth == PSOCKET_CLIENT_AUTH_REQUIRED : !h->resumed)) {
            psi_hs_fail(h, PSOCKET_CERT_MISSING, 40, "%s", psocket_strerror(PSOCKET_CERT_MISSING));
            return;
        }
        h->state = PSI_HS_DONE;
#ifdef PSOCKET_KEYLOG
        psi_hs_keylog(eng);
#endif
    }
}

/* Watches the messages in plaintext handshake records: types and lengths. */
static void psi_hs_watch(psi_hs *h, const uint8_t *p, size_t n)
{
    while (n && h->state != PSI_HS_FAILED) {
        size_t take, len;
        if (h->message_len < 4) {
            h->message[h->message_len++] = *p++;
            n--;
            if (h->message_len < 4) continue;
            len = (size_t)h->message[1] << 16 | (size_t)h->message[2] << 8 | h->message[3];
            h->message_left = len;
            if (!h->message[0])
                psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 10, "the peer sent a HelloRequest within a handshake");
            else if (h->message[0] == 11 && len > PSOCKET_CHAIN_BYTES + 4096)
                psi_hs_fail(h, PSOCKET_CERT_LIMIT, 42, "%s", psocket_strerror(PSOCKET_CERT_LIMIT));
            else if (h->message[0] == 11 && len <= 3 && !h->server)
                psi_hs_fail(h, PSOCKET_CERT_MISSING, 50, "the server sent no certificate");
            else if (h->message[0] != 11 && len > (h->message[0] == 13 ? PSI_HS_REQUEST : PSI_HS_MESSAGE))
                psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 47, "a handshake message is too long");
        }
        take = n < h->message_left ? n : h->message_left;
        p += take;
        n -= take;
        h->message_left -= take;
        if (!h->message_left && h->message_len == 4) h->message_len = 0;
    }
}

/* A plaintext alert. */
static void psi_hs_read_alert(psi_hs *h, const uint8_t *p, size_t n)
{
    if (n != 2 || p[0] < 1 || p[0] > 2)
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 50, "an alert is malformed");
    else if (p[1] == 0)
        psi_hs_closed(h);
    else if (p[0] == 2)
        psi_hs_refused(h, p[1]);
}

/* Hands the engine the n bytes in ibuf, which lie where it would have them, as a record. */
static void psi_hs_give(psi_hs *h, size_t n)
{
    br_ssl_engine_context *eng = &h->u.eng;
    size_t room;
    if (!br_ssl_engine_recvrec_buf(eng, &room) || room != 5) return; /* failed, or stuck: psi_hs_turn tells */
    memcpy(h->ibuf, h->header, 3);
    h->ibuf[3] = (uint8_t)(n >> 8);
    h->ibuf[4] = (uint8_t)n;
    br_ssl_engine_recvrec_ack(eng, 5);
    if (br_ssl_engine_recvrec_buf(eng, &room) && room == n) br_ssl_engine_recvrec_ack(eng, n);
}

/* Lets the engine answer a client's hello of n bytes, header included, at ibuf + 5. It reads one in its place that leaves
   it no choice, so that nothing a stranger wrote is parsed twice and no hello costs more than another; what it hashes is
   the client's. It answers as soon as it has the last byte: up to there the hash is exchanged, and that byte is the same
   in both. */
static void psi_hs_give_hello(psi_hs *h, const psi_hs_offer *o, size_t n)
{
    static const uint8_t choices[26] = {0, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 10, 0, 4, 0, 2, 0, 0, 0, 13, 0, 4, 0, 2, 0, 0};
    br_ssl_server_context *sc = &h->u.server;
    br_multihash_context hash;
    uint8_t hello[4 + 2 + 32 + 33 + sizeof choices + 5 + 7 + 255 + 5] = {1, 0}, last = h->ibuf[4 + n];
    uint8_t *p = psi_tls_write_number(hello + 4, BR_TLS12, 2), *at;
    size_t i, alpn = h->alpn[0] ? strlen(h->alpn[0]) : 0;
    int id, prf = h->suite == BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 ||
                  h->suite == BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 ? br_sha384_ID : br_sha256_ID;
    p = psi_tls_write(p, o->random, 32);
    *p++ = h->offered.session_id_len;
    at = psi_tls_write(p, h->offered.session_id, h->offered.session_id_len);
    p = psi_tls_write(at, choices, sizeof choices);
    psi_tls_write_number(at + 2, h->suite, 2);
    if (o->secure) at[5] = 0xFF; /* TLS_EMPTY_RENEGOTIATION_INFO_SCSV */
    at[17] = o->curves >> BR_EC_curve25519 & 1 ? BR_EC_curve25519
           : o->curves >> BR_EC_secp256r1 & 1 ? BR_EC_secp256r1 : BR_EC_secp384r1;
    at[24] = (uint8_t)h->sign_hash;
    at[25] = psi_tls_is_rsa(h->suite) ? 1 : 3;
    if (o->fragment) {
        p = psi_tls_write_number(p, 0x00010001, 4);
        *p++ = o->fragment;
    }
    if (alpn) {
        br_ssl_engine_set_protocol_names(&sc->eng, h->alpn, 1);
        p = psi_tls_write_number(p, 16, 2);
        p = psi_tls_write_number(p, alpn + 3, 2);
        p = psi_tls_write_number(p, alpn + 1, 2);
        *p++ = (uint8_t)alpn;
        p = psi_tls_write(p, h->alpn[0], alpn);
    }
    p = psi_tls_write_number(p, 0x00150001, 4); /* padding: the last byte */
    n--;
    psi_tls_write_number(at + 8, (size_t)(p - at) - 9, 2);
    psi_tls_write_number(hello + 2, (size_t)(p - hello) - 3, 2);
    if (h->tls->client_auth == PSOCKET_CLIENT_AUTH_NONE) /* no other hash will be asked for */
        for (id = br_sha256_ID; id <= br_sha512_ID; id++)
            if (id != prf && id != h->sign_hash) br_ssl_engine_set_hash(&sc->eng, id, NULL);
    hash = sc->eng.mhash;
    br_multihash_init(&hash);
    br_multihash_update(&hash, h->ibuf + 5, n);
    n = (size_t)(p - hello);
    memcpy(h->ibuf + 5, hello, n);
    psi_hs_give(h, n);
    sc->eng.mhash = hash;
    /* Of the 48 suites that BearSSL has room for it looks up the empty ones too, each by a search to the end of its table:
       a fifth of a P-256 handshake. The table's first suite in their places is found at once, and never chosen. */
    for (i = 0; i < BR_MAX_CIPHER_SUITES; i++)
        if (!sc->client_suites[i][0]) sc->client_suites[i][0] = BR_TLS_RSA_WITH_3DES_EDE_CBC_SHA;
    h->ibuf[5] = last;
    psi_hs_give(h, 1);
    psi_hs_turn(h);
}

/* The peer's hello is collected in front, across records, until it is whole: 1 once it has been read and, on a client,
   may be fed. */
static int psi_hs_collect_hello(psi_hs *h, int type)
{
    const uint8_t *p = h->ibuf + 5;
    psi_hs_offer offer = PSI_ZERO;
    psi_hs_bytes b = PSI_ZERO;
    size_t len;
    h->held += h->body_len;
    if (type != PSI_REC_HANDSHAKE || p[0] != (h->server ? 1 : 2)) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 10, "the peer does not begin with a hello");
        return 0;
    }
    if (h->held < 4) return 0;
    len = (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
    if (len > PSI_REC_PLAIN - 4) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 47, "the peer's hello is too long");
        return 0;
    }
    if (h->held - 4 < len) return 0;
    b.p = p + 4;
    b.n = len;
    h->body_len = h->held;
    h->held = 0;
    if (!h->server) {
        psi_hs_read_server_hello(h, b);
        if (h->state != PSI_HS_FAILED) h->state = PSI_HS_RUNNING;
        return h->state == PSI_HS_RUNNING;
    }
    if (h->body_len - 4 > len)
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 10, "a message follows the client's hello too early");
    else
        psi_hs_read_client_hello(h, &offer, b);
    if (h->state == PSI_HS_FAILED) return 0;
    h->state = PSI_HS_RUNNING;
    psi_hs_give_hello(h, &offer, h->body_len);
    return 0;
}

/* A whole record is in ibuf. */
static void psi_hs_record(psi_hs *h)
{
    br_ssl_engine_context *eng = &h->u.eng;
    int type = h->header[0];
    if (type == PSI_REC_ALERT || h->body_len == 0 || (eng->incrypt && h->body_len <= 24)) {
        if (++h->dull > PSI_REC_QUIET) {
            psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 10, "the peer keeps sending empty records or warnings");
            return;
        }
    }
    if (!eng->incrypt) {
        if (type == PSI_REC_ALERT) {
            psi_hs_read_alert(h, h->ibuf + 5 + h->held, h->body_len);
            return;
        }
        if (!h->body_len) return;
        if (h->state == PSI_HS_HELLO && !psi_hs_collect_hello(h, type)) return;
        if (type == PSI_REC_HANDSHAKE) psi_hs_watch(h, h->ibuf + 5, h->body_len);
    } else if (type == PSI_REC_HANDSHAKE) {
        int chacha = eng->session.cipher_suite == BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 ||
                     eng->session.cipher_suite == BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
        size_t overhead = chacha ? 16 : 24;
        if (h->body_len > overhead) h->encrypted += h->body_len - overhead;
        if (h->encrypted > 16)
            psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 10, "a record holds more than the handshake allows");
    }
    if (h->state == PSI_HS_FAILED) return;
    psi_hs_give(h, h->body_len);
    psi_hs_turn(h);
}

/* Checks a record's header; the body goes to ibuf. */
static void psi_hs_header(psi_hs *h)
{
    const uint8_t *p = h->header;
    h->body_len = (size_t)p[3] << 8 | p[4];
    h->body_got = 0;
    h->total += 5 + h->body_len;
    if (p[0] < PSI_REC_CCS || p[0] > PSI_REC_APPDATA || p[1] != 3) {
        int first = h->state == PSI_HS_HELLO && !h->held;
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, p[1] != 3 && p[0] == PSI_REC_HANDSHAKE ? 70 : 10,
                    first ? "the peer does not speak TLS on this port"
                          : "the peer sent a record of unknown type or version");
    } else if (p[0] == PSI_REC_APPDATA) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 10, "the peer sent data before the handshake was over");
    } else if (h->body_len > PSI_REC_PLAIN + (h->u.eng.incrypt ? 256u : 0u) || h->held + h->body_len > PSI_HS_IN - 5) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 22, "the peer sent a record that is too long");
    } else if (h->held && h->held + h->body_len > PSI_REC_PLAIN) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 47, "the peer's hello is too long");
    } else if (h->total > PSI_HS_TOTAL) {
        psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, 47, "the handshake is too long");
    }
}

/* --- the handshake: interface ------------------------------------------------------------------------------------ */

static PSI_UNUSED void psi_hs_free(psi_hs *h)
{
    if (!h) return;
    if (h->state != PSI_HS_DONE && h->offered.session_id_len) psi_hs_remember(h, NULL); /* perhaps it was the cause */
    psi_x509_chain_free(&h->chain);
    psi_tlsinfo_free(h->peer);
    psi_free(h->cert);
    psi_free(h->out);
    psocket_tls_free(h->tls);
    psi_wipe(&h->u, sizeof h->u); /* the buffers and the rest hold no secret */
    psi_wipe(&h->offered, sizeof h->offered);
    psi_free(h);
}

/* The generator's whole state (SP 800-90A 10.1.2.1) comes from the platform: hashing a seed into it would cost a tenth
   of a resumed handshake. */
static int psi_hs_seed(br_hmac_drbg_context *rng)
{
    int code = psi_os_entropy(rng->K, sizeof rng->K);
    if (!code) code = psi_os_entropy(rng->V, sizeof rng->V);
    rng->vtable = &br_hmac_drbg_vtable;
    rng->digest_class = &br_sha256_vtable;
    return code;
}

/* What both sides have in common. */
static int psi_hs_setup(psi_hs *h)
{
    br_ssl_engine_context *eng = &h->u.eng;
    const psi_tls_primitives *prim = &h->tls->prim;
    int code = psi_hs_seed(&eng->rng);
    if (code) return code;
    eng->rng_init_done = 2; /* seeded, and not again by BearSSL */
    eng->rng_os_rand_done = 1;
    br_ssl_engine_set_versions(eng, BR_TLS12, BR_TLS12);
    br_ssl_engine_set_suites(eng, prim->suites, prim->suite_count);
    br_ssl_engine_add_flags(eng, BR_OPT_ENFORCE_SERVER_PREFERENCES | BR_OPT_NO_RENEGOTIATION);
    br_ssl_engine_add_flags(eng, BR_OPT_FAIL_ON_ALPN_MISMATCH);
    br_ssl_engine_set_hash(eng, br_sha256_ID, &br_sha256_vtable);
    br_ssl_engine_set_hash(eng, br_sha384_ID, &br_sha384_vtable);
    br_ssl_engine_set_hash(eng, br_sha512_ID, &br_sha512_vtable);
    br_ssl_engine_set_prf_sha256(eng, &br_tls12_sha256_prf);
    br_ssl_engine_set_prf_sha384(eng, &br_tls12_sha384_prf);
    br_ssl_engine_set_gcm(eng, &br_sslrec_in_gcm_vtable, &br_sslrec_out_gcm_vtable);
    br_ssl_engine_set_aes_ctr(eng, prim->aes);
    br_ssl_engine_set_ghash(eng, prim->ghash);
    br_ssl_engine_set_chapol(eng, &br_sslrec_in_chapol_vtable, &br_sslrec_out_chapol_vtable);
    br_ssl_engine_set_chacha20(eng, prim->chacha);
    br_ssl_engine_set_poly1305(eng, prim->poly);
    br_ssl_engine_set_ec(eng, h->server ? &prim->server_ec : &prim->client_ec);
    br_ssl_engine_set_ecdsa(eng, psi_tls_ecdsa_verify);
    br_ssl_engine_set_rsavrfy(eng, br_rsa_pkcs1_vrfy_get_default());
    br_ssl_engine_set_buffers_bidi(eng, h->ibuf, sizeof h->ibuf, h->obuf, sizeof h->obuf);
    eng->log_max_frag_len = 14; /* records of any size may come, whatever the size of obuf */
    h->x509.vtable = &psi_hs_x509_class;
    h->x509.hs = h;
    h->policy.vtable = &psi_hs_policy_class;
    h->policy.hs = h;
    h->cache.vtable = &psi_hs_cache_class;
    h->cache.hs = h;
    h->auth.vtable = &psi_hs_auth_class;
    h->auth.hs = h;
    return 0;
}

static int psi_hs_start_server(psi_hs *h, psocket_error *e)
{
    br_ssl_server_context *sc = &h->u.server;
    psocket_tls *tls = h->tls;
    if (!tls->identity_count) return psi_err_code(e, PSOCKET_TLS_NO_IDENTITY);
    br_ssl_server_set_policy(sc, &h->policy.vtable);
    if (tls->client_auth == PSOCKET_CLIENT_AUTH_NONE) {
        br_ssl_server_set_cache(sc, &h->cache.vtable);
    } else { /* no sessions: a resumed one would have to bring the client's identity with it */
        br_ssl_engine_set_x509(&sc->eng, &h->x509.vtable);
        br_ssl_server_set_trust_anchor_names(sc, tls->ca_names, tls->ca_name_count);
        if (tls->client_auth == PSOCKET_CLIENT_AUTH_OPTIONAL)
            br_ssl_engine_add_flags(&sc->eng, BR_OPT_TOLERATE_NO_CLIENT_AUTH);
    }
    if (!br_ssl_server_reset(sc)) return psi_err(e, PSOCKET_TLS_PROTOCOL, "the TLS engine does not start");
    return 0;
}

static int psi_hs_start_client(psi_hs *h, const char *name, int port, psocket_error *e)
{
    br_ssl_client_context *cc = &h->u.client;
    psocket_tls *tls = h->tls;
    int kind = name ? psi_tls_name(name, h->name) : 0;
    if (!name && !tls->insecure_no_name && !tls->insecure_no_verify)
        return psi_err(e, PSOCKET_INVALID, "starttls needs the server's name: nothing can be verified without it");
    if (name && !kind) return psi_err(e, PSOCKET_INVALID, "not a host name or IP address: %.200s", name);
    psi_tls_name_hash(h->name, port, h->name_hash);
    psi_hs_recall(h);
    if (h->offered.session_id_len) br_ssl_engine_set_session_parameters(&cc->eng, &h->offered);
    br_ssl_engine_set_x509(&cc->eng, &h->x509.vtable);
    if (tls->alpn_count) br_ssl_engine_set_protocol_names(&cc->eng, tls->alpn, tls->alpn_count);
    if (tls->identity_count) {
        h->identity = &tls->identities[0];
        br_ssl_client_set_client_certificate(cc, &h->auth.vtable);
    }
    if (!br_ssl_client_reset(cc, kind == 1 ? h->name : NULL, h->offered.session_id_len != 0))
        return psi_err(e, PSOCKET_TLS_PROTOCOL, "the TLS engine does not start");
    return 0;
}

/* Starts a handshake; a client's first message waits in the output. Retains tls, copies name. port is the peer's, 0 if
   that is not known; servers ignore it. */
static PSI_UNUSED int psi_hs_new(psi_hs **out, psocket_tls *tls, int server, const char *name, int port,
                                 psocket_error *e)
{
    psi_hs *h = (psi_hs *)PSOCKET_MALLOC(sizeof *h);
    int code;
    *out = NULL;
    if (!h) return psi_err_code(e, PSOCKET_NOMEM);
    memset(h, 0, offsetof(psi_hs, ibuf)); /* the buffers need no clearing */
    h->server = server;
    h->tls = psocket_tls_retain(tls);
    code = psi_hs_setup(h);
    if (code) psi_err_code(e, code);
    else code = server ? psi_hs_start_server(h, e) : psi_hs_start_client(h, name, port, e);
    if (!code) {
        psi_hs_turn(h);
        if (h->state == PSI_HS_FAILED) {
            code = h->err.code;
            if (e) *e = h->err;
        }
    }
    if (code) {
        psi_hs_free(h);
        return code;
    }
    *out = h;
    return 0;
}

/* Bytes from the peer: how many were consumed. Fewer than n only when the handshake is over; the rest are records of
   what follows, or of no interest if it failed. */
static PSI_UNUSED ptrdiff_t psi_hs_feed(psi_hs *h, const uint8_t *p, size_t n)
{
    size_t used = 0;
    while (used < n && h->state < PSI_HS_DONE) {
        size_t take;
        if (h->header_len < 5) {
            h->header[h->header_len++] = p[used++];
            if (h->header_len < 5) continue;
            psi_hs_header(h);
            if (h->state == PSI_HS_FAILED) break;
        }
        take = h->body_len - h->body_got;
        if (take > n - used) take = n - used;
        memcpy(h->ibuf + 5 + h->held + h->body_got, p + used, take);
        used += take;
        h->body_got += take;
        if (h->body_got == h->body_len) {
            h->header_len = 0;
            psi_hs_record(h);
        }
    }
    return (ptrdiff_t)used;
}

/* Bytes to send now, 0 if there are none. */
static PSI_UNUSED size_t psi_hs_output(psi_hs *h, const uint8_t **p)
{
    *p = h->out ? h->out + h->out_at : NULL;
    return h->out_len - h->out_at;
}

/* That many of them were sent. */
static PSI_UNUSED void psi_hs_sent(psi_hs *h, size_t n)
{
    h->out_at += n;
    if (h->out_at >= h->out_len) h->out_at = h->out_len = 0;
}

/* PSOCKET_WANT_READ: running, or there is output to send first. 0: done. Else the error, also in *e. */
static PSI_UNUSED int psi_hs_status(const psi_hs *h, psocket_error *e)
{
    if (h->state == PSI_HS_FAILED) {
        if (e) *e = h->err;
        return h->err.code;
    }
    return h->state == PSI_HS_DONE && h->out_at == h->out_len ? 0 : PSOCKET_WANT_READ;
}

/* What is known about the peer and the connection. NULL: out of memory. */
static psi_tlsinfo *psi_hs_info(psi_hs *h)
{
    const char *alpn = br_ssl_engine_get_selected_protocol(&h->u.eng);
    const char *subject = "";
    psi_tlsinfo peer = PSI_ZERO;
    psocket_certinfo cert;
    psi_tlsinfo *i;
    char text[2 * sizeof ((psocket_tlsinfo *)0)->peer_subject];
    if (h->resumed && h->peer) {
        peer = *h->peer;
        subject = psi_tlsinfo_text(h->peer, h->peer->subject_at);
    } else if (h->chain.count) {
        psi_x509_info(&h->chain.certs[0], &cert, text, sizeof text);
        peer.has_peer = 1;
        peer.not_before = cert.not_before;
        peer.not_after = cert.not_after;
        memcpy(peer.sha256, cert.sha256, sizeof peer.sha256);
        memcpy(peer.spki, cert.spki_sha256, sizeof peer.spki);
        subject = cert.subject;
    }
    i = psi_tlsinfo_new(alpn ? alpn : "", h->name, subject, &peer);
    if (!i) return NULL;
    i->suite = h->u.eng.session.cipher_suite;
    i->resumed = (uint8_t)(h->resumed != 0);
    return i;
}

/* Once the status is 0: hands over the record layer and the facts. The caller owns both, and frees h. 0 or NOMEM. */
static PSI_UNUSED int psi_hs_finish(psi_hs *h, psi_rec **rec, psi_tlsinfo **info)
{
    br_ssl_engine_context *eng = &h->u.eng;
    size_t max_send = eng->peer_log_max_frag_len ? (size_t)1 << eng->peer_log_max_frag_len : PSI_REC_PLAIN;
    *info = psi_hs_info(h);
    *rec = psi_rec_new(&eng->in, &eng->out, h->server, max_send);
    if (!*info || !*rec) {
        psi_tlsinfo_free(*info);
        psi_rec_free(*rec);
        *info = NULL;
        *rec = NULL;
        return PSOCKET_NOMEM;
    }
    if (!h->resumed) psi_hs_remember(h, *info);
    return 0;
}

/* --- sessions as bytes ------------------------------------------------------------------------------------------- */

/* Numbers are big-endian. Format, policy; for each session suite, ID with its length, master secret, name, from, until
   and the peer: validity, digests, subject with its length; then the SHA-256 of all that, against damage. */
static const uint8_t psi_tls_format[8] = {'p', 's', 'o', 'c', 'k', 'e', 't', 1};

#define PSI_TLS_SAVED_HEAD (sizeof psi_tls_format + 32)
#define PSI_TLS_SAVED_SUBJECT 511

/* A digest of what the sessions' certificates were judged by, and of whom the servers took us for. */
static int psi_tls_policy(psocket_tls *tls, uint8_t out[32])
{
    uint8_t flags = (uint8_t)((tls->insecure_no_verify ? 1 : 0) | (tls->insecure_no_name ? 2 : 0) |
                              (tls->decide ? 4 : 0) | (tls->identity_count ? 8 : 0));
    const psi_trust *trust;
    br_sha256_context all, one;
    uint8_t digest[32];
    size_t i;
    int code = psi_x509_trust(tls->trust, &trust, NULL);
    if (code == PSOCKET_NOMEM || code == PSOCKET_DESCRIPTORS) return code; /* else there is no store */
    br_sha256_init(&all);
    br_sha256_update(&all, &flags, 1);
    if (tls->identity_count) {
        const psi_x509_cert *leaf = &tls->identities[0].chain.certs[0];
        br_sha256_init(&one);
        br_sha256_update(&one, leaf->der.p, leaf->der.n);
        br_sha256_out(&one, digest);
        br_sha256_update(&all, digest, sizeof digest);
    }
    for (i = 0; !code && i < trust->anchors.count; i++) {
        const psi_x509_cert *anchor = &trust->anchors.certs[i];
        br_sha256_init(&one);
        br_sha256_update(&one, anchor->der.p, anchor->der.n);
        br_sha256_out(&one, digest);
        br_sha256_update(&all, digest, sizeof digest);
    }
    br_sha256_update(&all, "pins", 4);
    br_sha256_update(&all, tls->pins, tls->pin_count * 32);
    br_sha256_out(&all, out);
    return 0;
}

static size_t psi_tls_saved_size(const psi_tls_session *s)
{
    const size_t fixed = 2 + 1 + 48 + 32 + 4 * 8 + 64 + 2;
    return fixed + s->par.session_id_len + strlen(psi_tlsinfo_text(s->peer, s->peer->subject_at));
}

static uint8_t *psi_tls_write_session(uint8_t *p, const psi_tls_session *s)
{
    const char *subject = psi_tlsinfo_text(s->peer, s->peer->subject_at);
    p = psi_tls_write_number(p, s->par.cipher_suite, 2);
    p = psi_tls_write_number(p, s->par.session_id_len, 1);
    p = psi_tls_write(p, s->par.session_id, s->par.session_id_len);
    p = psi_tls_write(p, s->par.master_secret, 48);
    p = psi_tls_write(p, s->name, 32);
    p = psi_tls_write_number(p, (uint64_t)s->from, 8);
    p = psi_tls_write_number(p, (uint64_t)s->until, 8);
    p = psi_tls_write_number(p, (uint64_t)s->peer->not_before, 8);
    p = psi_tls_write_number(p, (uint64_t)s->peer->not_after, 8);
    p = psi_tls_write(p, s->peer->sha256, 32);
    p = psi_tls_write(p, s->peer->spki, 32);
    p = psi_tls_write_number(p, strlen(subject), 2);
    return psi_tls_write(p, subject, strlen(subject));
}

static void psi_tls_digest(const uint8_t *p, size_t n, uint8_t out[32])
{
    br_sha256_context sha;
    br_sha256_init(&sha);
    br_sha256_update(&sha, p, n);
    br_sha256_out(&sha, out);
}

PSOCKET_API ptrdiff_t psocket_tls_savesessions(psocket_tls *tls, void *buf, size_t size)
{
    uint8_t policy[32];
    size_t i, need = PSI_TLS_SAVED_HEAD + 32;
    int code;
    if (!buf && size) return PSOCKET_INVALID;
    if (tls) psocket_tls_retain(tls);
    else if ((code = psi_tls_default(&tls, NULL)) != 0) return code;
    code = psi_tls_policy(tls, policy);
    if (!code) {
        const psi_tls_sessions *c = &tls->client_sessions;
        psi_os_lock(&tls->lock);
        for (i = 0; i < c->count; i++) need += psi_tls_saved_size(&c->list[i]);
        if (size >= need) {
            uint8_t *p = psi_tls_write((uint8_t *)buf, psi_tls_format, sizeof psi_tls_format);
            p = psi_tls_write(p, policy, sizeof policy);
            for (i = 0; i < c->count; i++) p = psi_tls_write_session(p, &c->list[i]);
            psi_tls_digest((const uint8_t *)buf, need - 32, p);
        }
        psi_os_unlock(&tls->lock);
    }
    psocket_tls_free(tls);
    return code ? code : (ptrdiff_t)need;
}

static int64_t psi_tls_read_time(psi_hs_bytes *b)
{
    uint64_t high = psi_hs_number(b, 4), low = psi_hs_number(b, 4);
    return (int64_t)(high << 32 | low);
}

static void psi_tls_read_bytes(psi_hs_bytes *b, void *to, size_t n)
{
    const uint8_t *p = psi_hs_take(b, n);
    if (p) memcpy(to, p, n);
}

/* Reads one session: s, and in *peer and subject what its peer is made of. 0 if a field is impossible. */
static int psi_tls_read_session(psi_hs_bytes *b, psi_tls_session *s, psi_tlsinfo *peer,
                                char subject[PSI_TLS_SAVED_SUBJECT + 1])
{
    psi_hs_bytes id, text;
    memset(s, 0, sizeof *s);
    memset(peer, 0, sizeof *peer);
    s->par.version = BR_TLS12;
    s->par.cipher_suite = (uint16_t)psi_hs_number(b, 2);
    id = psi_hs_vector(b, 1, 1);
    if (id.bad || id.n > sizeof s->par.session_id) return 0;
    memcpy(s->par.session_id, id.p, id.n);
    s->par.session_id_len = (unsigned char)id.n;
    psi_tls_read_bytes(b, s->par.master_secret, 48);
    psi_tls_read_bytes(b, s->name, 32);
    s->from = psi_tls_read_time(b);
    s->until = psi_tls_read_time(b);
    peer->has_peer = 1;
    peer->not_before = psi_tls_read_time(b);
    peer->not_after = psi_tls_read_time(b);
    psi_tls_read_bytes(b, peer->sha256, 32);
    psi_tls_read_bytes(b, peer->spki, 32);
    text = psi_hs_vector(b, 2, 0);
    if (text.bad || text.n > PSI_TLS_SAVED_SUBJECT || (text.n && memchr(text.p, 0, text.n))) return 0;
    if (text.n) memcpy(subject, text.p, text.n);
    subject[text.n] = 0;
    return psi_tls_suite_name(s->par.cipher_suite)[0] && s->from >= 0 && s->from < s->until &&
           s->until - s->from <= PSI_TLS_SESSION_TIME && s->until <= peer->not_after;
}

/* Adds one session, unless there is one for its name: 0 or PSOCKET_NOMEM. */
static int psi_tls_add_session(psocket_tls *tls, const psi_tls_session *from, const char *subject,
                               const psi_tlsinfo *peer)
{
    psi_tls_sessions *c = &tls->client_sessions;
    psi_tls_session *s;
    psi_tlsinfo *copy = psi_tlsinfo_new("", "", subject, peer);
    int code = 0;
    if (!copy) return PSOCKET_NOMEM;
    psi_os_lock(&tls->lock);
    if (!psi_tls_sessions_find(c, from->name, NULL)) {
        s = psi_tls_sessions_place(c);
        if (s) {
            *s = *from;
            s->used = ++c->clock;
            s->peer = copy;
            copy = NULL;
        } else {
            code = PSOCKET_NOMEM;
        }
    }
    psi_os_unlock(&tls->lock);
    psi_tlsinfo_free(copy);
    return code;
}

/* Reads all sessions twice: first to see that they are sound, then to add them. */
static int psi_tls_load(psocket_tls *tls, psi_hs_bytes all)
{
    char subject[PSI_TLS_SAVED_SUBJECT + 1];
    psi_tls_session s = PSI_ZERO;
    psi_tlsinfo peer;
    int64_t now = psi_tls_now(tls);
    int adding, count, code = 0;
    for (adding = 0; adding < 2 && !code; adding++) {
        psi_hs_bytes b = all;
        for (count = 0; b.n && !code; count++) {
            if (!psi_tls_read_session(&b, &s, &peer, subject) || count == PSI_TLS_CLIENT_SESSIONS) {
                code = PSOCKET_INVALID;
            } else if (adding && now >= s.from && now < s.until && psi_tls_has_suite(tls, s.par.cipher_suite)) {
                code = psi_tls_add_session(tls, &s, subject, &peer);
            }
        }
    }
    psi_wipe(&s, sizeof s);
    return code;
}

PSOCKET_API int psocket_tls_loadsessions(psocket_tls *tls, const void *data, size_t len)
{
    const uint8_t *p = (const uint8_t *)data;
    uint8_t digest[32];
    psi_hs_bytes b = PSI_ZERO;
    int code;
    if (!p || len < PSI_TLS_SAVED_HEAD + 32 || memcmp(p, psi_tls_format, sizeof psi_tls_format)) return PSOCKET_INVALID;
    psi_tls_digest(p, len - 32, digest);
    if (memcmp(p + len - 32, digest, 32)) return PSOCKET_INVALID;
    if (tls) psocket_tls_retain(tls);
    else if ((code = psi_tls_default(&tls, NULL)) != 0) return code;
    code = psi_tls_policy(tls, digest);
    if (!code && memcmp(p + sizeof psi_tls_format, digest, 32)) code = PSOCKET_INVALID;
    b.p = p + PSI_TLS_SAVED_HEAD;
    b.n = len - PSI_TLS_SAVED_HEAD - 32;
    if (!code) code = psi_tls_load(tls, b);
    psocket_tls_free(tls);
    return code;
}

/*==================================================================================================
 * >>tls13
 * Comes later and sits here. A TLS 1.3 handshake offers what psi_hs does: start (psi_hs_new), feed, output and sent,
 * status, finish; it ends in the same psi_rec, whose contexts only have to follow BearSSL's br_sslrec classes, and the
 * same psi_tlsinfo. Both sides choose the version in psi_hs_collect_hello, before the engine sees the peer's hello.
 *================================================================================================*/

#define PSI_TLS 1

#endif /* PSOCKET_NO_TLS */

#ifdef PSOCKET_NO_TLS
/*--- in place of the four sections above: nothing here is ever reached but psi_tls_default and the settings, which refuse */

#define PSI_TLS 0 /* what asks for it first is left out by the compiler */
#define PSI_REC_HEAD 0
#define PSI_REC_TAIL 0
enum { PSI_REC_MORE, PSI_REC_DATA, PSI_REC_SKIP, PSI_REC_END };
typedef struct psi_rec_in { uint8_t *data; size_t len, used; int alert_level, alert; } psi_rec_in;
typedef struct psi_rec psi_rec;
typedef struct psi_hs psi_hs;
typedef struct psi_tlsinfo psi_tlsinfo;

static int psi_rec_open(psi_rec *r, uint8_t *p, size_t n, psi_rec_in *in, psocket_error *e)
{
    (void)r; (void)p; (void)n;
    memset(in, 0, sizeof *in);
    return psi_err_code(e, PSOCKET_UNSUPPORTED);
}

static uint8_t *psi_rec_seal(psi_rec *r, int type, uint8_t *payload, size_t *len) { (void)r; (void)type; (void)len; return payload; }
static size_t psi_rec_max_send(const psi_rec *r) { (void)r; return 1; }
static void psi_rec_free(psi_rec *r) { (void)r; }
static int psi_hs_new(psi_hs **out, psocket_tls *tls, int server, const char *name, int port, psocket_error *e)
{
    (void)tls; (void)server; (void)name; (void)port;
    *out = NULL;
    return psi_err_code(e, PSOCKET_UNSUPPORTED);
}
static void psi_hs_free(psi_hs *h) { (void)h; }
static ptrdiff_t psi_hs_feed(psi_hs *h, const uint8_t *p, size_t n) { (void)h; (void)p; (void)n; return 0; }
static size_t psi_hs_output(psi_hs *h, const uint8_t **p) { (void)h; *p = NULL; return 0; }
static void psi_hs_sent(psi_hs *h, size_t n) { (void)h; (void)n; }
static int psi_hs_status(const psi_hs *h, psocket_error *e) { (void)h; return psi_err_code(e, PSOCKET_UNSUPPORTED); }
static int psi_hs_finish(psi_hs *h, psi_rec **rec, psi_tlsinfo **info) { (void)h; *rec = NULL; *info = NULL; return PSOCKET_UNSUPPORTED; }
static void psi_tlsinfo_get(const psi_tlsinfo *i, psocket_tlsinfo *out) { (void)i; (void)out; }
static void psi_tlsinfo_free(psi_tlsinfo *i) { (void)i; }
static int psi_tls_default(psocket_tls **out, psocket_error *e) { *out = NULL; return psi_err_code(e, PSOCKET_UNSUPPORTED); }

PSOCKET_API int psocket_tls_new(psocket_tls **out, const psocket_tls_options *topt)
{
    if (out) *out = NULL;
    return psi_err_code(topt ? topt->error : NULL, out ? PSOCKET_UNSUPPORTED : PSOCKET_INVALID);
}

PSOCKET_API psocket_tls *psocket_tls_retain(psocket_tls *tls) { return tls; }
PSOCKET_API void psocket_tls_free(psocket_tls *tls) { (void)tls; }
PSOCKET_API void psocket_cleanup(void) {}

PSOCKET_API int psocket_tls_verify(psocket_tls *tls, const void *chain, size_t len, const char *name, psocket_error *e)
{
    (void)tls; (void)chain; (void)len; (void)name;
    return psi_err_code(e, PSOCKET_UNSUPPORTED);
}

PSOCKET_API ptrdiff_t psocket_tls_savesessions(psocket_tls *tls, void *buf, size_t size)
{
    (void)tls; (void)buf; (void)size;
    return PSOCKET_UNSUPPORTED;
}

PSOCKET_API int psocket_tls_loadsessions(psocket_tls *tls, const void *data, size_t len)
{
    (void)tls; (void)data; (void)len;
    return PSOCKET_UNSUPPORTED;
}

#endif /* PSOCKET_NO_TLS */

/*==================================================================================================
 * >>watch
 * What a poller is made of: a watch for each socket, foreign descriptor and timer in it, a heap of all watches by the time
 * when they want to be looked at, and the hot ring of those to be looked at without being told by the system. It knows
 * nothing of sockets, so that a socket can take its descriptors out before it closes them; >>poll does the looking.
 * A socket owns its watch; those of foreign descriptors and timers are the application's.
 *================================================================================================*/

#define PSI_EVENTS 64 /* most events a poller hands out at once */

/* A place in the hot ring; next is NULL outside of it. */
typedef struct psi_link {
    struct psi_link *next, *prev;
} psi_link;

struct psocket_watch {
    psi_link link;           /* first, so that a link is its watch */
    psocket_poller *poller;  /* NULL once that was freed */
    psocket *sock;           /* NULL: a foreign descriptor or a timer */
    void *user;
    psi_os_watch one;        /* the one descriptor of what has just one; fd -1: none */
    psi_os_watch *more;      /* PSOCKET_POLLSET_MAX of them, for a socket that needs several; else NULL */
    int64_t due, wake;       /* when the user's time is over, and when to look again; INT64_MAX: never */
    int heap;                /* index in the heap */
    unsigned turn;           /* the poller's turn that `did` is of */
    short given;             /* 1 + index in the array handed out last; 0 none */
    unsigned events : 3;     /* what the user wants */
    unsigned dead : 1;       /* its owner is done with it */
    uint8_t did;             /* PSI_DID_*: what the socket did in that turn */
};

#define PSI_DID_SEND 1
#define PSI_DID_DRAIN 2 /* a read took all there was, */
#define PSI_DID_FILL 4  /* a send filled the transport: neither need be tried again in this turn */

struct psocket_poller {
    psi_os_poller os;
    psi_link hot;
    psocket_watch **heap;    /* all watches, the one with the earliest time first */
    int count, cap;          /* of the heap */
    int given_count;
    psocket_watch *given[PSI_EVENTS]; /* whose events are in the array handed out last; NULL: taken out meanwhile */
    psocket_event events[PSI_EVENTS];
    unsigned turn;           /* counts waits, from 1 */
    uint32_t spare_cap;
    uint8_t *spare;          /* a buffer for the socket that reads next */
    uint8_t nested;          /* a foreign loop watches the poller's own descriptor, and none waits in it */
    uint8_t announced;       /* that descriptor is readable, since there is something hot */
};

/* There is something to look at of which the system does not know: tells a foreign loop. */
static void psi_watch_announce(psocket_poller *p)
{
    if (!p->nested || p->announced) return;
    p->announced = 1;
    psi_os_poller_busy(&p->os, 1);
}

/* A wait begins. */
static void psi_watch_rest(psocket_poller *p)
{
    if (p->announced) psi_os_poller_busy(&p->os, 0);
    p->announced = 0;
}

/* Has the poller look at w in its next wait. */
static void psi_watch_heat(psocket_watch *w)
{
    psi_link *head = &w->poller->hot;
    if (w->link.next) return;
    w->link.prev = head->prev;
    w->link.next = head;
    head->prev->next = &w->link;
    head->prev = &w->link;
    psi_watch_announce(w->poller);
}

static void psi_watch_cool(psocket_watch *w)
{
    if (!w->link.next) return;
    w->link.prev->next = w->link.next;
    w->link.next->prev = w->link.prev;
    w->link.next = NULL;
}

/* Has the socket of w (NULL: none) done this in the poller's turn? */
static int psi_watch_did(const psocket_watch *w, int what)
{
    return w && w->turn == w->poller->turn && (w->did & what);
}

static void psi_watch_note(psocket_watch *w, int what)
{
    if (!w) return;
    w->did = (uint8_t)((w->turn == w->poller->turn ? w->did : 0) | what);
    w->turn = w->poller->turn;
}

/*--- the heap of times */

static int64_t psi_watch_key(const psocket_watch *w)
{
    return w->due < w->wake ? w->due : w->wake;
}

static void psi_watch_place(psocket_poller *p, int i, psocket_watch *w)
{
    p->heap[i] = w;
    w->heap = i;
}

/* Moves w, which counts as being at index i, to where it belongs. */
static void psi_watch_settle(psocket_poller *p, int i, psocket_watch *w)
{
    int64_t key = psi_watch_key(w);
    int child;
    while (i > 0 && psi_watch_key(p->heap[(i - 1) / 2]) > key) {
        psi_watch_place(p, i, p->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (; (child = 2 * i + 1) < p->count; i = child) {
        if (child + 1 < p->count && psi_watch_key(p->heap[child + 1]) < psi_watch_key(p->heap[child])) child++;
        if (psi_watch_key(p->heap[child]) >= key) break;
        psi_watch_place(p, i, p->heap[child]);
    }
    psi_watch_place(p, i, w);
}

/* Sets the two times of w. */
static void psi_watch_times(psocket_watch *w, int64_t due, int64_t wake)
{
    if (w->due == due && w->wake == wake) return;
    w->due = due;
    w->wake = wake;
    psi_watch_settle(w->poller, w->heap, w);
}

/*--- descriptors */

/* Has the system watch exactly these descriptors for w, which may have several. */
static int psi_watch_many(psocket_watch *w, const psocket_pollfd *fds, int n)
{
    psi_os_poller *os = &w->poller->os;
    int i, r = 0, e;
    psi_os_poller_ctl(os, &w->one, 0, &e);
    if (!w->more) {
        if (!n) return 0;
        w->more = (psi_os_watch *)psi_alloc(PSOCKET_POLLSET_MAX * sizeof *w->more);
        if (!w->more) return PSOCKET_NOMEM;
    }
    for (i = 0; i < PSOCKET_POLLSET_MAX; i++) {
        psi_os_watch *one = &w->more[i];
        psocket_fd fd = i < n ? fds[i].fd : -1;
        if (one->events && one->fd != fd) psi_os_poller_ctl(os, one, 0, &e);
        one->fd = fd;
        one->owner = w;
        if (i < n && !r) r = psi_os_poller_ctl(os, one, fds[i].events, &e);
    }
    return r;
}

/* The same for one descriptor. */
static int psi_watch_one(psocket_watch *w, psocket_fd fd, int events)
{
    psi_os_poller *os = &w->poller->os;
    int e = 0;
    if (w->more) {
        psi_watch_many(w, NULL, 0);
        psi_free(w->more);
        w->more = NULL;
    }
    if (w->one.events && w->one.fd != fd) psi_os_poller_ctl(os, &w->one, 0, &e);
    w->one.fd = fd;
    return fd == -1 ? 0 : psi_os_poller_ctl(os, &w->one, events, &e);
}

/* Takes all of its descriptors out of the system's set, before one of them is closed. */
static void psi_watch_unwatch(psocket_watch *w)
{
    int i, e;
    psi_os_poller_ctl(&w->poller->os, &w->one, 0, &e);
    for (i = 0; w->more && i < PSOCKET_POLLSET_MAX; i++) psi_os_poller_ctl(&w->poller->os, &w->more[i], 0, &e);
    psi_watch_heat(w);
}

/*--- making and ending one */

static psocket_watch *psi_watch_new(psocket_poller *p, psocket *s)
{
    psocket_watch *w;
    if (p->count == p->cap) {
        int cap = p->cap * 2 + 16;
        psocket_watch **heap = (psocket_watch **)psi_realloc(p->heap, (size_t)p->count * sizeof *heap, (size_t)cap * sizeof *heap);
        if (!heap) return NULL;
        p->heap = heap;
        p->cap = cap;
    }
    w = (psocket_watch *)psi_alloc(sizeof *w);
    if (!w) return NULL;
    w->poller = p;
    w->sock = s;
    w->due = w->wake = INT64_MAX;
    w->one.owner = w;
    w->one.fd = -1;
    psi_watch_place(p, p->count++, w);
    psi_watch_heat(w);
    return w;
}

/* Takes w out of its poller. */
static void psi_watch_leave(psocket_watch *w)
{
    psocket_poller *p = w->poller;
    psocket_watch *last = p->heap[--p->count];
    if (last != w) psi_watch_settle(p, w->heap, last);
    psi_watch_cool(w);
    psi_free(w->more);
    w->more = NULL;
    w->poller = NULL;
}

/* Its owner is done with w (NULL is fine): the system and the user hear no more of it at once; the poller frees it in its next
   wait, which spares those who only close sockets the heap. */
static void psi_watch_end(psocket_watch *w)
{
    psocket_poller *p = w ? w->poller : NULL;
    if (!w) return;
    if (!p) { /* that was freed before */
        psi_free(w);
        return;
    }
    psi_watch_unwatch(w);
    w->sock = NULL;
    w->events = 0;
    w->dead = 1;
    if (!w->given) return;
    p->given[w->given - 1] = NULL;
    p->events[w->given - 1].user = NULL;
    p->events[w->given - 1].events = 0;
    w->given = 0;
}

/*==================================================================================================
 * >>sock
 * The socket. psi_state says what it is doing, end_in and end_out how each direction of an open one fares. Nothing in this
 * section waits; the blocking calls of >>public wait between its steps. Every function leaves the socket usable or ended.
 *================================================================================================*/

#define PSI_SOCK_READ_LOG 12 /* the smallest read is 4 KB, unless PSOCKET_READ_SIZE is less */
#define PSI_SOCK_AROUND 64u /* more than what a TLS record has around its payload */
#define PSI_SOCK_OUT_MAX 65536u /* most plaintext encrypted for one send */
#define PSI_SOCK_OUT_MIN 512u /* and least, when memory is short */
#define PSI_SOCK_CORK 16384u /* most bytes of small records that wait for each other */
#define PSI_SOCK_SPARE (PSOCKET_READ_SIZE + 2 * PSI_RING_SLACK) /* the largest buffer that a poller keeps */

enum psi_state {
    PSI_RESOLVING,   /* dial is set: its host is being looked up */
    PSI_CONNECTING,  /* dial is set: attempts are under way */
    PSI_HANDSHAKING, /* hs is set: the transport carries the TLS handshake */
    PSI_OPEN,        /* bytes or datagrams move, and each direction ends by itself */
    PSI_LISTENING,   /* listen is set: connections come */
    PSI_ENDED,       /* a failure ended both directions, the transport is gone; chunks stay readable */
    PSI_CLOSED       /* psocket_close ended them, likewise */
};

/* How the sending direction fares; the receiving one is open or ended. Negative: the code that it ended with. */
enum psi_end {
    PSI_FLOWS,       /* open */
    PSI_ENDING,      /* shut down: close_notify is to follow what was sent, */
    PSI_FINISHING    /* and then the transport's own end */
};

/* What whoever waits knows of the chunks that nobody has taken. */
enum psi_news {
    PSI_NEWS,        /* something has come: to be told */
    PSI_TOLD,        /* told; still ready, unless a call looks and wants more */
    PSI_QUIET        /* one did: not ready before more comes */
};

#define PSI_DIAL_TRIES (PSOCKET_POLLSET_MAX - 2)

/* A connection being made. */
typedef struct psi_dial {
    psocket_resolve *names; /* the addresses, or the lookup that will bring them */
    int next, live, port, code, os;
    struct { psocket_fd fd; int index; } tries[PSI_DIAL_TRIES];
    int64_t next_at;
    int delay;              /* between attempts, in milliseconds */
    psi_os_settings set;    /* for its descriptors; set.local: an address (family 0: any) and a port (0: any) to come from */
    size_t said;
    char why[400];          /* each address that failed, and its reason */
} psi_dial;

/* What a listener has besides. */
typedef struct psi_listen {
    psocket_fd next;        /* a connection already accepted for psocket_hasconnection, or -1 */
    psi_addr next_peer;
    psocket_options opt;    /* for accepted sockets */
    psi_os_settings set;
    long process;           /* who made it: a forked copy leaves the path alone */
    char *path;             /* of a Unix-domain socket: removed on close */
} psi_listen;

struct psocket {
    const psocket_transport *io; /* NULL: none yet, or no more */
    void *user;          /* its first argument: the socket itself if fd is the transport */
    psocket_fd fd;       /* -1: none of its own */
    psocket *above;      /* the socket that this one carries, if any */
    psi_ring ring;
    uint8_t *out;        /* sealed bytes that the transport has not taken: out + out_at .. out_len. NULL: none, all 0 */
    psi_dial *dial;
    psi_listen *listen;  /* kept when it is closed: it stays a listener */
    psi_hs *hs;
    psi_rec *rec;
    psi_tlsinfo *info;
    psocket_watch *watch;
    psocket_error *error; /* details of what code says; NULL: there are none */
    int64_t due[2];      /* [0] receiving, connecting, handshaking, [1] sending: when the time of the operation that waits
                            is over; 0: none waits, or for ever */
    size_t sent;
    psi_addr peer;
    int timeout;
    uint32_t out_at, out_len, limit;
    uint32_t need;       /* what the largest psocket_read that waits needs, if that is more than limit */
    short code, end_in, end_out;
    unsigned state : 3, news : 2, side : 1, nonblocking : 1, udp : 1, family : 4;
    unsigned broken : 1; /* end_out came from the transport, whose error the receiving direction shares */
    unsigned read_log : 5; /* the next read asks for 1 << read_log bytes */
    unsigned out_log : 5;  /* out has 1 << out_log bytes of room; 0: none to spare */
};

/* Does r say that a call has to wait for the transport? */
static int psi_is_wait(ptrdiff_t r)
{
    return r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE;
}

/* Or for anything at all? */
static int psi_is_want(ptrdiff_t r)
{
    return psi_is_wait(r) || r == PSOCKET_WANT_DECISION || r == PSOCKET_WANT_SIGNATURE;
}

static void psi_lower_ms(int *ms, int64_t left)
{
    if (left < 0) left = 0;
    if (*ms < 0 || left < *ms) *ms = left > INT_MAX ? INT_MAX : (int)left;
}

/* Before a descriptor of s is closed: it may be watched for s or for a socket that s carries. */
static void psi_sock_unwatch(psocket *s)
{
    for (; s; s = s->above)
        if (s->watch) psi_watch_unwatch(s->watch);
}

/*--- the clock of what waits */

/* Begins the time of an operation, unless it has begun. */
static void psi_sock_clock(psocket *s, int way)
{
    if (s->timeout && !s->due[way]) s->due[way] = psi_os_now() + s->timeout;
}

static int psi_sock_late(const psocket *s, int way)
{
    return s->due[way] && psi_os_now() >= s->due[way];
}

/* Bytes have left, which gives a send its time anew, also that of a carried socket; but once it is over it is over. */
static void psi_sock_left(psocket *s)
{
    for (; s; s = s->above)
        if (!psi_sock_late(s, 1)) s->due[1] = 0;
}

/*--- errors */

/* Notes what happened to s: code, the system's number, and a sentence (NULL: the code's own text). Returns code. */
PSI_PRINTF(4, 5)
static int psi_sock_note(psocket *s, int code, int os, const char *format, ...)
{
    va_list ap;
    if (s->code == code && !format && (!s->error || s->error->os_error == os)) return code; /* as before: leave it */
    s->code = (short)code;
    if (!s->error && !format && !os) return code; /* the code says it all */
    if (!s->error) s->error = (psocket_error *)psi_alloc(sizeof *s->error);
    if (!s->error) return code;
    if (format) {
        va_start(ap, format);
        psi_err_v(s->error, code, format, ap);
        va_end(ap);
    } else if (code == PSOCKET_OS) {
        psi_err_os(s->error, code, os, "%s", psocket_strerror(code));
    } else {
        psi_err_code(s->error, code);
    }
    s->error->os_error = os;
    return code;
}

static int psi_sock_note_error(psocket *s, const psocket_error *e)
{
    s->code = (short)e->code;
    if (!s->error) s->error = (psocket_error *)psi_alloc(sizeof *s->error);
    if (s->error) *s->error = *e;
    return e->code;
}

/*--- the transport: a descriptor */

static ptrdiff_t psi_fd_get(void *user, void *p, size_t n, int *os)
{
    return psi_os_recv(((psocket *)user)->fd, p, n, os);
}

static ptrdiff_t psi_fd_put(void *user, const void *p, size_t n, int *os)
{
    return n || ((psocket *)user)->udp ? psi_os_send(((psocket *)user)->fd, p, n, os) : 0;
}

static int psi_fd_finish(void *user, int *os)
{
    return ((psocket *)user)->udp ? 0 : psi_os_shutdown(((psocket *)user)->fd, os);
}

/* Closing a descriptor with unread data makes the system send a reset, which can destroy what was sent last: read it
   away first, within reason. */
static void psi_fd_close(void *user)
{
    psocket *s = (psocket *)user;
    char sink[1024];
    int os, i;
    if (!s->udp && (!s->end_in || s->info) && s->family != PSI_UNIX)
        for (i = 0; i < 64 && psi_os_recv(s->fd, sink, sizeof sink, &os) > 0; i++) {}
    psi_os_close(s->fd);
    s->fd = -1;
}

static int psi_fd_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    (void)ms;
    if (!events || cap < 1) return 0;
    fds[0].fd = ((psocket *)user)->fd;
    fds[0].events = events;
    return 1;
}

static const psocket_transport psi_transport_fd = { psi_fd_get, psi_fd_put, psi_fd_finish, psi_fd_close, psi_fd_wants };

/*--- the transport: a UDP socket that anybody may send to */

static ptrdiff_t psi_udp_get(void *user, void *p, size_t n, int *os)
{
    psi_addr from;
    ptrdiff_t got = psi_os_recvfrom(((psocket *)user)->fd, p, n, &from, os);
    if (got < 0) return got;
    psi_addr_normalise(&from);
    ((psocket *)user)->peer = from;
    return got;
}

static ptrdiff_t psi_udp_put(void *user, const void *p, size_t n, int *os)
{
    psocket *s = (psocket *)user;
    psi_addr to = s->peer;
    if (to.family == PSI_IP4 && s->family == PSI_IP6) { /* an IPv6 socket reaches IPv4 through mapped addresses */
        memmove(to.ip + 12, to.ip, 4);
        memset(to.ip, 0, 10);
        to.ip[10] = to.ip[11] = 0xff;
        to.family = PSI_IP6;
    }
    return psi_os_sendto(s->fd, p, n, &to, os);
}

static const psocket_transport psi_transport_udp = { psi_udp_get, psi_udp_put, psi_fd_finish, psi_fd_close, psi_fd_wants };

/* Has fd, whose other end s->peer is, carry s from now on. */
static void psi_sock_on_fd(psocket *s, psocket_fd fd, const psocket_transport *io)
{
    s->fd = fd;
    s->io = io;
    s->user = s;
    s->family = s->peer.family & 15u;
    s->state = PSI_OPEN;
    psi_addr_normalise(&s->peer);
}

/*--- ending */

static void psi_sock_out_free(psocket *s)
{
    psi_free(s->out);
    s->out = NULL;
    s->out_at = s->out_len = 0;
    s->out_log = 0;
}

static void psi_dial_free(psi_dial *d)
{
    int i;
    if (!d) return;
    for (i = 0; i < d->live; i++) psi_os_close(d->tries[i].fd);
    if (d->names) psi_dns_release(d->names);
    psi_free(d);
}

/* Lets go of the transport and all secrets. What was received stays. */
static void psi_sock_drop(psocket *s, int state)
{
    const psocket_transport *io = s->io;
    psi_sock_unwatch(s);
    psi_dial_free(s->dial);
    s->dial = NULL;
    psi_hs_free(s->hs);
    s->hs = NULL;
    if (s->rec) psi_rec_free(s->rec);
    s->rec = NULL;
    psi_sock_out_free(s);
    s->ring.tail = s->ring.raw; /* bytes that never became a chunk */
    s->due[0] = s->due[1] = 0;
    s->state = (unsigned)state & 7u;
    s->io = NULL;
    if (io) (io->close)(s->user); /* lwIP may have a macro of the name */
}

/* Ends both directions with an error and lets go. Returns code. */
static int psi_sock_end(psocket *s, int code)
{
    psi_sock_drop(s, PSI_ENDED);
    if (!s->end_in) s->end_in = (short)code;
    if (s->end_out >= 0) s->end_out = (short)code;
    return code;
}

/*--- what goes out */

/* The transport has failed to send. A peer that ended its direction first is told from one that broke off: in that case
   what it sent still ends as it would have. Returns what is to be answered. */
static int psi_sock_cannot_put(psocket *s, int code, int os)
{
    s->broken = code != PSOCKET_CLOSED;
    if (code == PSOCKET_CLOSED) code = PSOCKET_RESET;
    psi_sock_out_free(s);
    s->end_out = (short)code;
    return psi_sock_note(s, code, os, NULL);
}

/* Hands sealed bytes to the transport, and has it hand on what it holds: 0 when all is out, PSOCKET_WANT_WRITE, or an error. */
static int psi_sock_flush(psocket *s)
{
    int os = 0;
    ptrdiff_t n = 0;
    if (s->state != PSI_OPEN) return 0;
    while (s->out) {
        n = s->io->put(s->user, s->out + s->out_at, s->out_len - s->out_at, &os);
        if (n < 0) break;
        psi_sock_left(s);
        s->out_at += (uint32_t)n;
        if (s->out_at < s->out_len) continue;
        psi_sock_out_free(s);
        s->due[1] = 0;
    }
    if (n >= 0 && s->fd == -1) n = s->io->put(s->user, "", 0, &os);
    if (psi_is_wait(n)) {
        psi_watch_note(s->watch, PSI_DID_FILL);
        return PSOCKET_WANT_WRITE;
    }
    if (n >= 0) return 0;
    if (n == PSOCKET_NOMEM) return psi_sock_note(s, PSOCKET_NOMEM, os, NULL); /* nothing is lost: try again */
    return psi_sock_cannot_put(s, (int)n, os);
}

/* Seals n bytes as records of this type behind what waits in out. more: others will follow before it is flushed. */
static int psi_sock_seal(psocket *s, int type, const void *data, size_t n, int more)
{
    size_t most = psi_rec_max_send(s->rec), records = n ? (n + most - 1) / most : 1, done = 0;
    size_t room = s->out_len + n + records * (PSI_REC_HEAD + PSI_REC_TAIL);
    if (room > (size_t)1 << s->out_log) {
        unsigned log = 0;
        uint8_t *out;
        while (more && room > (size_t)1 << log) log++;
        out = (uint8_t *)psi_realloc(s->out, s->out_len, more ? (size_t)1 << log : room);
        if (!out) return PSOCKET_NOMEM;
        s->out = out;
        s->out_log = log & 31u;
    }
    do {
        size_t len = n - done < most ? n - done : most, sealed = len;
        uint8_t *end = s->out + s->out_len, *payload = end + PSI_REC_HEAD, *start;
        if (len) memcpy(payload, (const uint8_t *)data + done, len);
        start = psi_rec_seal(s->rec, type, payload, &sealed);
        if (start != end) memmove(end, start, sealed); /* a cipher with a shorter header */
        s->out_len += (uint32_t)sealed;
        done += len;
    } while (done < n);
    return 0;
}

/* Sends an alert if it can be sent at once. */
static void psi_sock_alert(psocket *s, int level, int alert)
{
    uint8_t b[2];
    b[0] = (uint8_t)level;
    b[1] = (uint8_t)alert;
    if (!PSI_TLS || !s->rec || s->end_out || psi_sock_flush(s) || psi_sock_seal(s, 21, b, 2, 0)) return;
    psi_sock_flush(s);
}

/*--- receiving */

/* Gives up the buffer if nothing is in it. The poller keeps one for the socket that reads next. */
static void psi_sock_relax(psocket *s)
{
    psocket_poller *p = s->watch ? s->watch->poller : NULL;
    psi_ring *r = &s->ring;
    if (p && r->buf && psi_ring_idle(r) && r->cap <= PSI_SOCK_SPARE) {
        psi_free(p->spare); /* the last one is of the size that is likely to be wanted */
        p->spare = r->buf;
        p->spare_cap = r->cap;
        r->buf = NULL;
        psi_ring_free(r);
    }
    psi_ring_relax(r);
}

/* Makes room for n bytes in the ring, which may keep a little for long: no buffer much larger than asked for. 0,
   PSOCKET_NOMEM or PSOCKET_LIMIT. */
static int psi_sock_reserve(psocket *s, size_t n)
{
    psocket_poller *p = s->watch ? s->watch->poller : NULL;
    if (p && p->spare && !s->ring.buf && p->spare_cap / 4 <= n) {
        s->ring.buf = p->spare;
        s->ring.cap = p->spare_cap;
        p->spare = NULL;
    }
    return psi_ring_reserve(&s->ring, n);
}

/* Is as much unread as may be? */
static int psi_sock_full(const psocket *s)
{
    return s->ring.bytes >= s->limit && s->ring.bytes >= s->need;
}

/* Decrypts every whole record in the raw bytes, in place. */
static void psi_sock_decode(psocket *s)
{
    psi_ring *r = &s->ring;
    while (!s->end_in) {
        psi_rec_in in;
        psocket_error e; /* filled on error */
        int kind = psi_rec_open(s->rec, r->buf + r->raw, r->tail - r->raw, &in, &e);
        if (kind == PSI_REC_MORE) return;
        if (kind < 0) {
            if (in.alert_level) psi_sock_alert(s, in.alert_level, in.alert);
            psi_sock_note_error(s, &e); /* whatever became of the alert */
            psi_sock_end(s, kind);
            return;
        }
        if (kind == PSI_REC_DATA) psi_ring_chunk(r, (uint32_t)(in.data - r->buf), (uint32_t)in.len, r->raw + (uint32_t)in.used);
        else r->raw += (uint32_t)in.used;
        if (kind == PSI_REC_DATA) s->news = PSI_NEWS;
        if (kind == PSI_REC_SKIP && in.alert_level) psi_sock_alert(s, in.alert_level, in.alert);
        if (kind == PSI_REC_END) {
            s->end_in = PSOCKET_CLOSED;
            r->tail = r->raw; /* RFC 5246 7.2.1, RFC 8446 6.1: whatever follows close_notify is ignored */
        }
    }
}

/* How much to ask the transport for when `have` bytes of a record are there, whose header tells how many are missing (RFC 5246
   6.2.1, RFC 8446 5.1): these, and as much more as needs no larger buffer. n: what is asked for otherwise. */
static uint32_t psi_sock_rest(const psi_ring *r, uint32_t have, uint32_t n)
{
    const uint8_t *p = r->buf + r->raw;
    uint32_t all = have < 5 ? 0 : 5u + ((uint32_t)p[3] << 8 | p[4]), rest = all > have ? all - have : 0;
    uint32_t fits = r->cap > have + PSI_RING_SLACK && psi_ring_empty(r) ? r->cap - have - PSI_RING_SLACK : 0;
    if (!rest || (n > rest && have < n / 4)) return n;
    if (n > fits) n = fits;
    return n > rest ? n : rest;
}

/* How much to ask the transport for, and *room: how much has to fit, which is more if that is larger than the largest read. */
static uint32_t psi_sock_read_size(const psocket *s, uint32_t *room)
{
    uint32_t n = (uint32_t)1 << s->read_log;
    if (s->udp) return *room = PSOCKET_DATAGRAM + 1u; /* one more tells that a datagram is too large */
    if (PSI_TLS && (s->rec || s->hs)) n = psi_sock_rest(&s->ring, s->ring.tail - s->ring.raw, n + PSI_SOCK_AROUND);
    *room = n;
    return n > PSOCKET_READ_SIZE ? PSOCKET_READ_SIZE : n;
}

/* got of `want` bytes have come, and lie behind the ring's tail. */
static void psi_sock_arrived(psocket *s, uint32_t got, uint32_t want)
{
    int raw = PSI_TLS && (s->rec || s->hs), fresh = s->ring.raw == s->ring.tail;
    uint32_t size = (uint32_t)1 << s->read_log;
    if (got < want) psi_watch_note(s->watch, PSI_DID_DRAIN);
    if (got == want && want == size + (raw ? PSI_SOCK_AROUND : 0) && 2 * size <= PSOCKET_READ_SIZE) s->read_log++;
    if (fresh && got < size / 4 && s->read_log > PSI_SOCK_READ_LOG) s->read_log--; /* the rest of a record is no sign */
    if (!raw) {
        psi_ring_append(&s->ring, got);
        s->news = PSI_NEWS;
        return;
    }
    s->ring.tail += got;
    if (s->rec) psi_sock_decode(s);
}

/* The stream has ended (code 0) or broken. If sending found it broken first, the system has told its error already. */
static void psi_sock_input_ends(psocket *s, int code, int os)
{
    s->ring.tail = s->ring.raw;
    if (s->broken) code = s->end_out;
    else if (code == 0 && (s->rec || s->hs)) code = PSOCKET_TRUNCATED;
    else if (code == 0) code = PSOCKET_CLOSED;
    else if (s->end_out >= 0) s->end_out = (short)code;
    s->end_in = (short)code;
    if (!s->broken) psi_sock_note(s, code, os, NULL);
}

/* Reads once from the transport. 1: something came (perhaps the end); PSOCKET_WANT_READ; PSOCKET_LIMIT: the ring is full;
   or an error, of which only PSOCKET_NOMEM and those of UDP end nothing. */
static int psi_sock_fill(psocket *s)
{
    int os = 0, r;
    uint32_t want, room;
    ptrdiff_t got;
    if (s->end_in) return s->end_in;
    if (psi_sock_full(s)) return PSOCKET_LIMIT;
    want = psi_sock_read_size(s, &room);
    if ((r = psi_sock_reserve(s, room)) != 0) return psi_sock_note(s, r, 0, NULL);
    got = s->io->get(s->user, s->ring.buf + s->ring.tail, want, &os);
    if (s->udp && got > PSOCKET_DATAGRAM) got = PSOCKET_MESSAGE_SIZE;
    if (got > 0 || (got == 0 && s->udp)) {
        psi_sock_arrived(s, (uint32_t)got, want);
        return 1;
    }
    psi_sock_relax(s);
    if (psi_is_wait(got)) return PSOCKET_WANT_READ;
    if (got == PSOCKET_NOMEM || s->udp) return psi_sock_note(s, (int)got, os, NULL); /* e.g. refused: the next datagram may do better */
    psi_sock_input_ends(s, (int)got, os);
    return 1;
}

/* Copies up to n received bytes out of the ring of s, reading if it is empty. For a socket carried by s. */
static ptrdiff_t psi_sock_take(psocket *s, void *p, size_t n)
{
    const void *data;
    int r = 1;
    uint32_t len;
    while (psi_ring_empty(&s->ring) && r == 1) r = psi_sock_fill(s);
    if (psi_ring_empty(&s->ring)) return r;
    len = psi_ring_front(&s->ring, &data);
    if (len > n) len = (uint32_t)n;
    psi_ring_take(&s->ring, len, &data);
    memcpy(p, data, len);
    return (ptrdiff_t)len;
}

/*--- sending */

/* Is this not the first that s sends in its poller's turn? Then it may wait for more: the poller flushes before it waits. */
static int psi_sock_corked(psocket *s)
{
    int sent = psi_watch_did(s->watch, PSI_DID_SEND);
    if (!sent) psi_watch_note(s->watch, PSI_DID_SEND);
    return sent && s->nonblocking;
}

/* Encrypts some of the data, and less of it where there is no memory for more: how many bytes, or what keeps it from that. */
static ptrdiff_t psi_sock_send_sealed(psocket *s, const void *data, size_t n)
{
    int cork = psi_sock_corked(s) && n < PSI_SOCK_CORK, r = 0;
    if (n > PSI_SOCK_OUT_MAX) n = PSI_SOCK_OUT_MAX;
    if (!cork || psi_watch_did(s->watch, PSI_DID_FILL) || s->out_len + n > PSI_SOCK_CORK) r = psi_sock_flush(s);
    if (r) return r;
    while ((r = psi_sock_seal(s, 23, data, n, cork)) == PSOCKET_NOMEM && n > PSI_SOCK_OUT_MIN) n /= 2;
    if (r) return psi_sock_note(s, r, 0, NULL);
    if (!cork) r = psi_sock_flush(s); /* once sealed the bytes are taken: they wait if they must */
    return r && r != PSOCKET_WANT_WRITE && r != PSOCKET_NOMEM ? r : (ptrdiff_t)n;
}

/* May n bytes be sent at all? 0, or what is to be answered. */
static int psi_sock_may_send(psocket *s, size_t n)
{
    if (s->end_out < 0 && s->end_out != PSOCKET_CLOSED_HERE) return s->end_out;
    if (s->state == PSI_CLOSED) return PSOCKET_CLOSED_HERE;
    if (s->end_out) return psi_sock_note(s, PSOCKET_CLOSED_HERE, 0, "the sending direction was shut down");
    if (s->udp && !s->peer.family) return psi_sock_note(s, PSOCKET_INVALID, 0, "nobody to send to yet: psocket_setpeer");
    return n > PTRDIFF_MAX ? psi_sock_note(s, PSOCKET_INVALID, 0, "too many bytes") : 0;
}

/* Takes some of the data: how many bytes, WANT_*, or an error. */
static ptrdiff_t psi_sock_send(psocket *s, const void *data, size_t n)
{
    int os = 0;
    ptrdiff_t r = psi_sock_may_send(s, n);
    if (r || (!n && !s->udp)) return r;
    if (PSI_TLS && s->rec) return psi_sock_send_sealed(s, data, n);
    if (s->nonblocking && psi_watch_did(s->watch, PSI_DID_FILL)) return PSOCKET_WANT_WRITE; /* the poller will report that there is room */
    if (PSI_OS_SEND_DROPS_INPUT && !s->udp) psi_sock_fill(s); /* a reset would take what has come and was not read */
    r = s->io->put(s->user, n ? data : "", n, &os);
    if (psi_is_wait(r)) return PSOCKET_WANT_WRITE;
    if (r < 0) return s->udp || r == PSOCKET_NOMEM ? psi_sock_note(s, (int)r, os, NULL) : psi_sock_cannot_put(s, (int)r, os);
    psi_sock_left(s);
    if ((size_t)r < n) psi_watch_note(s->watch, PSI_DID_FILL);
    return r;
}

/* Carries a half-close on: 0 when done. */
static int psi_sock_finish(psocket *s)
{
    static const uint8_t close_notify[2] = { 1, 0 };
    int os = 0, r;
    if (s->end_out == PSI_ENDING) {
        if (PSI_TLS && s->rec && (r = psi_sock_seal(s, 21, close_notify, 2, 0)) != 0) return psi_sock_note(s, r, 0, NULL);
        s->end_out = PSI_FINISHING;
    }
    if (s->end_out == PSI_FINISHING) {
        if ((r = psi_sock_flush(s)) != 0) return r;
        r = s->io->finish(s->user, &os);
        if (psi_is_wait(r)) return PSOCKET_WANT_WRITE;
        if (r && r != PSOCKET_RESET && r != PSOCKET_CLOSED) return psi_sock_note(s, r, os, NULL);
        s->end_out = PSOCKET_CLOSED_HERE;
    }
    return s->end_out == PSOCKET_CLOSED_HERE && s->state == PSI_OPEN ? 0 : s->end_out;
}

/*--- dialling: RFC 8305 section 5 */

/* The address of this index, with its port. */
static psi_addr psi_dial_address(const psi_dial *d, int index)
{
    psi_addr a = d->names->addrs[index];
    a.port = (uint16_t)d->port;
    return a;
}

/* This address has failed: adds it and its reason to the sentence. */
static void psi_dial_failed(psi_dial *d, int index, int code, int os)
{
    char where[80] = "", text[128];
    psi_addr a = psi_dial_address(d, index);
    int n;
    d->code = code;
    d->os = os;
    if (a.family != PSI_UNIX) psi_addr_print_port(&a, where);
    n = snprintf(d->why + d->said, sizeof d->why - d->said, "%s%s%s%s", d->said ? "; " : "", where, where[0] ? " " : "",
                 os ? psi_os_text(os, text, sizeof text) : psocket_strerror(code));
    if (n > 0) d->said += (size_t)n;
    if (d->said >= sizeof d->why) d->said = sizeof d->why - 1;
}

static void psi_dial_won(psocket *s, psocket_fd fd, int index)
{
    psi_dial *d = s->dial;
    int i;
    for (i = 0; i < d->live; i++)
        if (d->tries[i].fd == fd) d->tries[i].fd = -1;
    s->peer = psi_dial_address(d, index);
    psi_sock_on_fd(s, fd, &psi_transport_fd);
    psi_dial_free(d);
    s->dial = NULL;
    s->due[0] = 0;
    if (!s->hs) return;
    s->state = PSI_HANDSHAKING;
    psi_sock_clock(s, 0);
}

/* Begins an attempt. 0: connected; 1: under way; negative: failed. */
static int psi_dial_try(psocket *s, int index, int64_t now)
{
    psi_dial *d = s->dial;
    psi_addr a = psi_dial_address(d, index), local = d->set.local;
    psocket_fd fd;
    int os = 0, r = psi_os_socket(&fd, a.family, s->udp, &os);
    if (!r) r = psi_os_set(fd, a.family, s->udp, &d->set, &os);
    if (!r && (local.family || local.port) && a.family != PSI_UNIX) {
        if (!local.family) local.family = a.family;
        r = local.family == a.family ? psi_os_bind(fd, &local, NULL, 0, 0, &os) : PSOCKET_ADDRESS_NOT_AVAILABLE;
    }
    if (!r) r = psi_os_connect(fd, &a, d->names->host, &os);
    if (r == 0) {
        psi_dial_won(s, fd, index);
        return 0;
    }
    if (r == PSOCKET_WANT_WRITE) {
        d->tries[d->live].fd = fd;
        d->tries[d->live++].index = index;
        d->next_at = now + d->delay;
        return 1;
    }
    psi_os_close(fd);
    if (r == PSOCKET_WANT_READ) { /* a path whose queue is full: no descriptor tells when there is room */
        d->next = index;
        d->next_at = now + 20;
        return 1;
    }
    psi_dial_failed(d, index, r, os);
    return r;
}

/* Asks the attempts that are under way: 1 if one of them has won. */
static int psi_dial_results(psocket *s, int64_t now)
{
    psi_dial *d = s->dial;
    int i;
    for (i = 0; i < d->live;) {
        int os = 0, index = d->tries[i].index, r = psi_os_connect_result(d->tries[i].fd, &os);
        if (r == 0) {
            psi_dial_won(s, d->tries[i].fd, index);
            return 1;
        }
        if (r == PSOCKET_WANT_WRITE) {
            i++;
            continue;
        }
        psi_os_close(d->tries[i].fd);
        psi_dial_failed(d, index, r, os);
        d->tries[i] = d->tries[--d->live];
        d->next_at = now; /* a failure starts the next attempt at once */
    }
    return 0;
}

/* Nothing is left to try. */
static int psi_dial_lost(psocket *s)
{
    psi_dial *d = s->dial;
    int code = d->code;
    if (d->names->addrs[0].family == PSI_UNIX)
        psi_sock_note(s, code, d->os, "cannot connect to unix:%.255s: %s", d->names->host, d->why);
    else
        psi_sock_note(s, code, d->os, "cannot connect to \"%.255s\" port %d: %s", d->names->host, d->port, d->why);
    return psi_sock_end(s, code);
}

static int psi_dial_step(psocket *s)
{
    psi_dial *d = s->dial;
    int64_t now;
    if (s->state == PSI_RESOLVING) {
        int code;
        if (!psi_dns_is_done(d->names)) return PSOCKET_WANT_READ;
        if ((code = d->names->code) != 0) {
            psi_sock_note(s, code, d->names->os, "cannot resolve \"%.255s\": %s", d->names->host, psocket_strerror(code));
            return psi_sock_end(s, code);
        }
        psi_dns_interleave(d->names);
        s->state = PSI_CONNECTING;
    }
    psi_sock_unwatch(s); /* descriptors may be closed and new ones made below */
    now = psi_os_now();
    if (psi_dial_results(s, now)) return 0;
    while (d->next < d->names->count && d->live < PSI_DIAL_TRIES && now >= d->next_at) {
        int index = d->next++;
        if (psi_dial_try(s, index, now) == 0) return 0;
    }
    return d->live || d->next < d->names->count ? PSOCKET_WANT_WRITE : psi_dial_lost(s);
}

/* What it waits for, as psocket_pollset has it. */
static int psi_dial_wants(const psi_dial *d, int state, psocket_pollfd *fds, int cap, int *ms)
{
    int i, n = 0;
    if (state == PSI_RESOLVING) {
        int wait = psi_dns_ms(d->names);
        if (wait >= 0) psi_lower_ms(ms, wait);
        if (d->names->bell.rd == -1 || cap < 1) return 0;
        fds[0].fd = d->names->bell.rd;
        fds[0].events = PSOCKET_READ;
        return 1;
    }
    for (i = 0; i < d->live && n < cap; i++) {
        fds[n].fd = d->tries[i].fd;
        fds[n++].events = PSOCKET_WRITE;
    }
    if (d->next < d->names->count && d->live < PSI_DIAL_TRIES) psi_lower_ms(ms, d->next_at - psi_os_now());
    return n;
}

/* The time for resolving, connecting or handshaking is over. */
static int psi_sock_too_late(psocket *s)
{
    psi_dial *d = s->dial;
    if (s->state == PSI_RESOLVING) {
        psi_sock_note(s, PSOCKET_TIMEOUT, 0, "timed out while resolving \"%.255s\"", d->names->host);
    } else if (s->state == PSI_HANDSHAKING) {
        psi_sock_note(s, PSOCKET_TIMEOUT, 0, "timed out during the TLS handshake");
    } else if (d->names->addrs[0].family == PSI_UNIX) {
        psi_sock_note(s, PSOCKET_TIMEOUT, 0, "timed out while connecting to unix:%.255s: its queue is full", d->names->host);
    } else {
        char where[80] = "";
        psi_addr a = psi_dial_address(d, d->live ? d->tries[0].index : 0);
        psi_addr_print_port(&a, where);
        psi_sock_note(s, PSOCKET_TIMEOUT, 0, "timed out while connecting to \"%.200s\": %s%s%s does not answer",
                      d->names->host, d->why, d->said ? "; " : "", where);
    }
    return psi_sock_end(s, PSOCKET_TIMEOUT);
}

/*--- handshaking */

/* The transport failed in the midst of a handshake. */
static int psi_sock_hangs_up(psocket *s, int code, int os)
{
    return psi_sock_note(s, code, os, "the connection broke during the TLS handshake: %s", psocket_strerror(code));
}

/* Sends what the handshake has to say: 0 when all is out, PSOCKET_WANT_WRITE, or an error. A peer that refused us and has
   closed already hears nothing more, but its alert is still to be read. */
static int psi_sock_speak(psocket *s)
{
    const uint8_t *p;
    size_t n;
    int os = 0;
    while ((n = psi_hs_output(s->hs, &p)) != 0) {
        ptrdiff_t put = s->end_out ? (ptrdiff_t)n : s->io->put(s->user, p, n, &os);
        if (psi_is_wait(put)) return PSOCKET_WANT_WRITE;
        if (put < 0) {
            int code = psi_sock_cannot_put(s, (int)put, os);
            psi_sock_hangs_up(s, code, os);
            if (code != PSOCKET_RESET) return code;
            put = (ptrdiff_t)n;
        }
        psi_hs_sent(s->hs, (size_t)put);
    }
    return 0;
}

/* Reads for the handshake: 1, PSOCKET_WANT_READ, or an error. */
static int psi_sock_hear(psocket *s)
{
    int r = psi_sock_fill(s);
    if (!s->end_in || s->broken) return s->end_in ? s->end_in : r;
    if (s->end_in == PSOCKET_TRUNCATED)
        return psi_sock_note(s, PSOCKET_TRUNCATED, 0, "the peer closed the connection during the TLS handshake");
    return psi_sock_hangs_up(s, s->end_in, s->error ? s->error->os_error : 0);
}

/* The handshake is over: 0, or why it is not. */
static int psi_sock_secured(psocket *s)
{
    int r = psi_hs_finish(s->hs, &s->rec, &s->info);
    if (r) return psi_sock_note(s, r, 0, NULL);
    psi_hs_free(s->hs);
    s->hs = NULL;
    s->due[0] = 0;
    s->state = PSI_OPEN;
    psi_sock_decode(s);
    psi_sock_relax(s);
    return 0;
}

/* Carries the handshake on: 0 when it is done, what it waits for (also the application), or an error. */
static int psi_sock_handshake(psocket *s)
{
    psi_ring *r = &s->ring;
    for (;;) {
        psocket_error e = PSI_ZERO;
        uint32_t fed = 0;
        int status = psi_sock_speak(s);
        if (!status) {
            status = psi_hs_status(s->hs, &e);
            if (status == 0 && (status = psi_sock_secured(s)) == 0) return 0;
            if (e.code && !psi_is_want(status)) psi_sock_note_error(s, &e);
        }
        if (status == PSOCKET_WANT_READ) {
            if (r->raw < r->tail) fed = (uint32_t)psi_hs_feed(s->hs, r->buf + r->raw, r->tail - r->raw);
            r->raw += fed;
            if (fed || (status = psi_sock_hear(s)) == 1) continue;
        }
        return psi_is_want(status) ? status : psi_sock_end(s, status);
    }
}

/* Begins a handshake on an open socket, or on one that dials, to follow that. */
static int psi_sock_starttls(psocket *s, psocket_tls *tls, const char *name)
{
    psocket_error e = PSI_ZERO;
    int r;
    if (s->side == PSOCKET_CLIENT && !psi_ring_empty(&s->ring)) return psi_sock_note(s, PSOCKET_PLAINTEXT, 0, NULL);
    r = psi_hs_new(&s->hs, tls, s->side == PSOCKET_SERVER, name, s->dial ? s->dial->port : s->peer.port, &e);
    if (r) { /* ended, lest a caller who does not look sends in the clear */
        psi_sock_note_error(s, &e);
        return psi_sock_end(s, r);
    }
    psi_ring_undecode(&s->ring);
    if (s->state != PSI_OPEN) return 0;
    s->state = PSI_HANDSHAKING;
    s->due[0] = s->due[1] = 0;
    psi_sock_clock(s, 0);
    return 0;
}

/*--- listening */

/* Accepts into next: 1 if a connection is there, 0 if none, or an error. */
static int psi_listen_ready(psocket *s)
{
    psi_listen *l = s->listen;
    int os = 0, r;
    if (s->state == PSI_CLOSED) return PSOCKET_CLOSED_HERE;
    if (l->next != -1) return 1;
    r = psi_os_accept(s->fd, &l->next, &l->next_peer, &os);
    if (r == 0) {
        if (s->watch) psi_watch_heat(s->watch); /* the system says nothing of it any more */
        return 1;
    }
    l->next = -1;
    return r == PSOCKET_WANT_READ ? 0 : psi_sock_note(s, r, os, "cannot accept: %s", psocket_strerror(r));
}

/*--- everything together */

/* Carries on whatever is pending: 0 when nothing is, what it waits for, or an error. */
static int psi_sock_step(psocket *s)
{
    int r = 0;
    if (s->state == PSI_OPEN) {
        if (s->end_in && s->end_in == s->end_out) return s->end_in;
        return s->end_out > 0 ? psi_sock_finish(s) : psi_sock_flush(s);
    }
    if (s->state > PSI_OPEN) return s->state == PSI_LISTENING ? 0 : s->end_in;
    if (s->dial) r = psi_dial_step(s);
    if (PSI_TLS && s->state == PSI_HANDSHAKING) r = psi_sock_handshake(s);
    return psi_is_want(r) && psi_sock_late(s, 0) ? psi_sock_too_late(s) : r;
}

/* Does a handshake wait for the application? */
static int psi_sock_asks(const psocket *s)
{
    const uint8_t *p;
    return PSI_TLS && psi_hs_output(s->hs, &p) == 0 && psi_hs_status(s->hs, NULL) != PSOCKET_WANT_READ;
}

/* Which of events a call of that kind would answer without PSOCKET_WANT_*, for all that is known here: not what the
   transport has to say. psocket_wait, psocket_pollset and the poller ask this. */
static int psi_sock_ready(const psocket *s, int events)
{
    int ready = 0;
    switch (s->state) {
    case PSI_RESOLVING:
    case PSI_CONNECTING:
        return 0;
    case PSI_HANDSHAKING:
        return psi_sock_asks(s) ? events : 0;
    case PSI_LISTENING:
        if (s->listen->next != -1 || psi_sock_late(s, 0)) ready = PSOCKET_READ;
        return events & ready;
    case PSI_OPEN:
        if (!psi_ring_empty(&s->ring) && (s->news != PSI_QUIET || psi_sock_full(s))) ready |= PSOCKET_READ;
        if (s->end_in || psi_sock_late(s, 0)) ready |= PSOCKET_READ;
        if (s->end_out < 0 || psi_sock_late(s, 1)) ready |= PSOCKET_WRITE;
        return events & ready;
    default:
        return events;
    }
}

/* Whoever waits has been told that these are ready. Returns them. */
static int psi_sock_told(psocket *s, int events)
{
    if ((events & PSOCKET_READ) && s->news == PSI_NEWS) s->news = PSI_TOLD;
    return events;
}

/* The descriptors to wait for and the time until which to, for s to get on with events. */
static int psi_sock_wants(psocket *s, int events, psocket_pollfd *fds, int cap, int *ms)
{
    const uint8_t *p;
    if (s->due[0] && (s->state < PSI_OPEN || (events & PSOCKET_READ))) psi_lower_ms(ms, s->due[0] - psi_os_now());
    if (s->due[1] && (events & PSOCKET_WRITE)) psi_lower_ms(ms, s->due[1] - psi_os_now());
    switch (s->state) {
    case PSI_RESOLVING:
    case PSI_CONNECTING:
        return psi_dial_wants(s->dial, s->state, fds, cap, ms);
    case PSI_LISTENING:
        return psi_fd_wants(s, events & PSOCKET_READ, fds, cap, ms);
    case PSI_HANDSHAKING:
        events = PSI_TLS && psi_hs_output(s->hs, &p) ? PSOCKET_WRITE : PSOCKET_READ;
        break;
    case PSI_OPEN:
        if (psi_sock_full(s) || s->end_in) events &= ~PSOCKET_READ;
        if (s->out || s->end_out > 0) events |= PSOCKET_WRITE;
        break;
    default:
        return 0;
    }
    return s->io->wants(s->user, events, fds, cap, ms);
}

/* Would a call that receives not wait? Reads if that must be known. */
static int psi_sock_readable(psocket *s)
{
    int os, r = 1;
    if (s->udp && s->state == PSI_OPEN && !psi_sock_ready(s, PSOCKET_READ)) {
        psocket_pollfd fd; /* reading would change the peer, or take an error that is for recv to tell */
        fd.fd = s->fd;
        fd.events = PSOCKET_READ;
        return psi_os_poll(&fd, 1, 0, &os) != 0;
    }
    while (s->state == PSI_OPEN && !psi_sock_ready(s, PSOCKET_READ) && r == 1) r = psi_sock_fill(s);
    return s->state < PSI_OPEN ? 0 : s->state == PSI_LISTENING ? psi_listen_ready(s) != 0 : r != PSOCKET_WANT_READ;
}

/* Would one that sends not wait? step: what psi_sock_step has just answered. */
static int psi_sock_writable(psocket *s, int step)
{
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    int ms = -1, n, os;
    if (psi_sock_ready(s, PSOCKET_WRITE)) return 1;
    if (s->state != PSI_OPEN || psi_is_wait(step)) return 0;
    if (step < 0) return 1; /* out of memory: the call tells */
    n = s->io->wants(s->user, PSOCKET_WRITE, fds, PSOCKET_POLLSET_MAX, &ms);
    return ms == 0 || (n > 0 && psi_os_poll(fds, n, 0, &os) != 0);
}

/*--- closing */

/* Closes without waiting. What was received and handed out stays. */
static void psi_sock_close(psocket *s)
{
    psi_listen *l = s->listen;
    if (s->state == PSI_CLOSED) return;
    if (s->state == PSI_OPEN && s->end_out >= 0) {
        if (PSI_TLS && s->rec && s->end_out == PSI_FLOWS) psi_sock_alert(s, 1, 0); /* close_notify */
        psi_sock_step(s);
    }
    psi_watch_end(s->watch);
    s->watch = NULL;
    psi_sock_drop(s, PSI_CLOSED);
    s->end_in = s->end_out = PSOCKET_CLOSED_HERE;
    if (!l) return;
    psi_os_close(l->next);
    psi_os_close(s->fd);
    l->next = s->fd = -1;
    if (l->path && l->process == psi_os_process()) psi_os_unlink(l->path);
}

static void psi_sock_free(psocket *s)
{
    if (!s) return;
    psi_sock_close(s);
    psi_ring_free(&s->ring);
    if (s->info) psi_tlsinfo_free(s->info);
    if (s->listen) psi_free(s->listen->path);
    psi_free(s->listen);
    psi_free(s->error);
    psi_free(s);
}

/*--- the transport: another socket */

static ptrdiff_t psi_wrap_get(void *user, void *p, size_t n, int *os)
{
    psocket *c = (psocket *)user;
    ptrdiff_t r;
    *os = 0;
    psi_sock_flush(c);
    r = psi_sock_take(c, p, n);
    return r == PSOCKET_CLOSED ? 0 : r;
}

static ptrdiff_t psi_wrap_put(void *user, const void *p, size_t n, int *os)
{
    psocket *c = (psocket *)user;
    int r = psi_sock_flush(c);
    *os = 0;
    return r || !n ? r : psi_sock_send(c, p, n);
}

static int psi_wrap_finish(void *user, int *os)
{
    psocket *c = (psocket *)user;
    *os = 0;
    if (!c->end_out) c->end_out = PSI_ENDING;
    return psi_sock_finish(c);
}

static void psi_wrap_close(void *user)
{
    ((psocket *)user)->above = NULL;
    psi_sock_free((psocket *)user);
}

static int psi_wrap_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    if (psi_sock_ready((psocket *)user, events)) *ms = 0;
    return psi_sock_wants((psocket *)user, events, fds, cap, ms);
}

static const psocket_transport psi_transport_wrap = { psi_wrap_get, psi_wrap_put, psi_wrap_finish, psi_wrap_close, psi_wrap_wants };

/*--- making one */

static psocket *psi_sock_new(const psocket_options *opt, int side)
{
    psocket *s = (psocket *)psi_alloc(sizeof *s);
    if (!s) return NULL;
    s->fd = -1;
    s->side = side != PSOCKET_CLIENT;
    s->state = PSI_ENDED; /* until it has a transport */
    s->read_log = PSI_SOCK_READ_LOG;
    s->limit = PSOCKET_RECV_LIMIT;
    if (!opt) return s;
    s->nonblocking = opt->nonblocking != 0;
    s->timeout = opt->timeout_ms > 0 ? opt->timeout_ms : 0;
    if (opt->recv_limit) s->limit = opt->recv_limit > PSI_RING_MAX / 2 ? PSI_RING_MAX / 2 : (uint32_t)opt->recv_limit;
    return s;
}

#ifdef PSOCKET_CHECK
/*--- what must hold of every socket between calls */

static void psi_check_ring(const psi_ring *r)
{
    uint32_t at = r->head, bytes = 0;
    if (!r->buf) {
        PSI_SURE(!r->cap && !r->head && !r->end && !r->raw && !r->tail && !r->bytes);
        return;
    }
    PSI_SURE(r->head <= r->end && r->end + PSI_RING_HEAD <= r->raw && r->raw <= r->tail && r->tail <= r->cap);
    for (; at != r->end; at = psi_ring_payload(r, at) + psi_ring_get(r, at)) {
        PSI_SURE(at < r->end && psi_ring_payload(r, at) + psi_ring_get(r, at) <= r->end);
        bytes += psi_ring_get(r, at);
    }
    PSI_SURE(bytes == r->bytes && r->seen <= r->bytes);
}

/* Has it what its state asks for, and nothing else? */
static void psi_check_state(const psocket *s)
{
    int dials = s->state == PSI_RESOLVING || s->state == PSI_CONNECTING;
    int moves = s->state == PSI_HANDSHAKING || s->state == PSI_OPEN, over = s->state >= PSI_ENDED;
    PSI_SURE((s->dial != NULL) == dials && (s->io != NULL) == moves);
    PSI_SURE(s->hs ? s->state < PSI_OPEN : s->state != PSI_HANDSHAKING);
    PSI_SURE(!s->rec || s->state == PSI_OPEN);
    PSI_SURE(s->state != PSI_LISTENING || (s->listen && s->fd != -1));
    if (over) PSI_SURE(s->end_in < 0 && s->end_out < 0 && !s->out && s->fd == -1);
}

static void psi_check_sock(const psocket *s)
{
    psi_check_ring(&s->ring);
    psi_check_state(s);
    PSI_SURE(s->end_in <= 0 && s->end_out <= PSI_FINISHING && s->code <= 0);
    if (s->out) PSI_SURE(s->rec && s->out_at < s->out_len);
    else PSI_SURE(!s->out_at && !s->out_len);
    PSI_SURE(s->timeout || (!s->due[0] && !s->due[1]));
    if (s->watch) PSI_SURE(s->watch->sock == s && s->watch->poller && s->state != PSI_CLOSED);
    if (s->above) PSI_SURE(s->above->user == s);
}
#else
#define psi_check_sock(s) ((void)(s))
#endif

/*==================================================================================================
 * >>poll
 * The poller. A watch is looked at when it is hot: after it was set, after its events were handed out (there may be more),
 * or when the socket has done what the system cannot know. A look reports what is known and has the system watch for the
 * rest. Everything else sleeps in the system's own set, so a wait costs what is ready, plus the logarithm of the number
 * of watches for each time that is set. The system's interest is changed only when it has to be.
 *================================================================================================*/

static void psi_poll_report(psocket_watch *w, int events)
{
    psocket_poller *p = w->poller;
    if (w->given) { /* a timeout is reported alone; events come again */
        int *told = &p->events[w->given - 1].events;
        if (!events) *told = 0;
        else if (*told) *told |= events;
        if (!*told) psi_watch_heat(w);
    } else {
        p->given[p->given_count] = w;
        p->events[p->given_count].user = w->user;
        p->events[p->given_count].events = events;
        w->given = (short)++p->given_count;
    }
    if (w->sock) psi_sock_told(w->sock, p->events[w->given - 1].events);
}

/* Which of the events that w wants are ready, given that the system has just said `fired` of it, and what a step of its
   socket, which was in the state `before`, has answered. */
static int psi_poll_ready(psocket_watch *w, int fired, int before, int step)
{
    psocket *s = w->sock;
    int ready, open = s->state == PSI_OPEN;
    if (before < PSI_OPEN && open) return w->events; /* whoever waited for this goes on */
    if ((w->events & PSOCKET_READ) && open && (s->fd == -1 || (s->rec && (fired & PSOCKET_READ))))
        fired = (fired & ~PSOCKET_READ) | (psi_sock_readable(s) ? PSOCKET_READ : 0); /* the system cannot tell */
    if ((w->events & PSOCKET_WRITE) && open && (s->fd == -1 || step))
        fired = (fired & ~PSOCKET_WRITE) | (psi_sock_writable(s, step) ? PSOCKET_WRITE : 0);
    ready = psi_sock_ready(s, w->events);
    if (s->state == PSI_OPEN || s->state == PSI_LISTENING) ready |= fired;
    return ready & w->events;
}

/* Looks at a socket: reports what is ready, watches for the rest. */
static int psi_poll_look_socket(psocket_watch *w, int fired)
{
    psocket *s = w->sock;
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    int before = s->state, ready, n, ms = -1;
    ready = psi_poll_ready(w, fired, before, psi_sock_step(s));
    psi_watch_cool(w);
    if (ready) psi_poll_report(w, ready);
    n = psi_sock_wants(s, w->events, fds, PSOCKET_POLLSET_MAX, &ms);
    if (ms == 0 && !ready) psi_watch_heat(w);
    psi_watch_times(w, w->due, ms <= 0 ? INT64_MAX : psi_os_now() + ms);
    if (n > 1) return psi_watch_many(w, fds, n);
    return n ? psi_watch_one(w, fds[0].fd, fds[0].events) : psi_watch_one(w, -1, 0);
}

static void psi_poll_bury(psocket_watch *w)
{
    psi_watch_leave(w);
    psi_free(w);
}

/* Looks at a watch. One that could not be dealt with stays hot. */
static int psi_poll_look(psocket_watch *w, int fired)
{
    int r;
    if (w->dead) {
        psi_poll_bury(w);
        return 0;
    }
    if (w->sock) {
        r = psi_poll_look_socket(w, fired);
    } else {
        psi_watch_cool(w);
        if (fired & w->events) psi_poll_report(w, fired & w->events);
        r = psi_watch_one(w, w->one.fd, w->events);
    }
    if (r) psi_watch_heat(w);
    return r;
}

/* Looks at every watch that is hot now, as long as the array has room. */
static int psi_poll_look_hot(psocket_poller *p, int cap)
{
    psi_link *last = p->hot.prev, *at = p->hot.next;
    int r = 0;
    while (at != &p->hot && p->given_count < cap && !r) {
        psi_link *next = at->next;
        int done = at == last;
        r = psi_poll_look((psocket_watch *)at, 0);
        if (done) break;
        at = next;
    }
    return r;
}

/* Times that have passed: the user's are reported once, others make their watch hot. */
static void psi_poll_times(psocket_poller *p, int64_t now)
{
    while (p->count && psi_watch_key(p->heap[0]) <= now && p->given_count < PSI_EVENTS) {
        psocket_watch *w = p->heap[0];
        if (w->dead) {
            psi_poll_bury(w);
        } else if (w->due <= now) {
            psi_poll_report(w, 0);
            psi_watch_times(w, INT64_MAX, w->wake);
        } else {
            psi_watch_times(w, w->due, INT64_MAX);
            psi_watch_heat(w);
        }
    }
}

/* A signal has interrupted the wait. */
static void psi_poll_signal(psocket_poller *p)
{
    int i;
    for (i = 0; i < p->count && p->given_count < PSI_EVENTS; i++)
        if (p->heap[i]->events & PSOCKET_SIGNAL) psi_poll_report(p->heap[i], PSOCKET_SIGNAL);
}

/* Forgets the array handed out last. What was in it may have more to say; what was read out needs no buffer. */
static void psi_poll_recycle(psocket_poller *p)
{
    int i;
    for (i = 0; i < p->given_count; i++) {
        psocket_watch *w = p->given[i];
        psocket *s = w ? w->sock : NULL;
        if (!w) continue;
        w->given = 0;
        if (!s) continue;
        psi_sock_relax(s);
        if (s->fd == -1 || s->out || s->due[0] || s->due[1] || psi_sock_ready(s, w->events) ||
            (w->events & ~w->one.events)) /* a full ring had reading switched off */
            psi_watch_heat(w);
    }
    p->given_count = 0;
}

/* One round of waiting: looks, waits until `end` or what comes before it, looks at what came. 0 or an error. */
static int psi_poll_round(psocket_poller *p, int64_t *now, int64_t end)
{
    psi_os_ready ready[PSI_EVENTS];
    psocket_watch *owners[PSI_EVENTS];
    int i, n, os = 0, wait = -1, r = psi_poll_look_hot(p, PSI_EVENTS / 2); /* leave room for what the system reports */
    if (r) return r;
    psi_poll_times(p, *now);
    if (p->count && psi_watch_key(p->heap[0]) < end) end = psi_watch_key(p->heap[0]);
    if (p->given_count || p->hot.next != &p->hot) wait = 0;
    else if (end != INT64_MAX) psi_lower_ms(&wait, end - *now);
    n = p->given_count < PSI_EVENTS ? psi_os_poller_wait(&p->os, ready, PSI_EVENTS - p->given_count, wait, &os) : 0;
    if (n < 0) return n;
    if (n == 0 && os) psi_poll_signal(p);
    for (i = 0; i < n; i++) owners[i] = (psocket_watch *)ready[i].watch->owner; /* a look may free what is ready, never its owner */
    for (i = 0; i < n && !r; i++) r = psi_poll_look(owners[i], ready[i].events);
    if (p->given_count) return r;
    *now = psi_os_now();
    psi_poll_times(p, *now);
    return r;
}

/* Sets what the user wants of a watch. */
static void psi_poll_want(psocket_watch *w, int events, int timeout_ms, void *user)
{
    psocket *s = w->sock;
    w->user = user;
    if (w->given) w->poller->events[w->given - 1].user = user;
    if (w->events != events || !s || s->fd == -1 || psi_sock_ready(s, events)) psi_watch_heat(w);
    w->events = (unsigned)events & 7u;
    psi_watch_times(w, timeout_ms < 0 ? INT64_MAX : psi_os_now() + timeout_ms, w->wake);
}

#ifdef PSOCKET_CHECK
/* What must hold of every poller between calls. */
static void psi_check_poller(const psocket_poller *p)
{
    const psi_link *at;
    int i, hot = 0;
    for (i = 0; i < p->count; i++) {
        const psocket_watch *w = p->heap[i];
        PSI_SURE(w->heap == i && w->poller == p && psi_watch_key(p->heap[i ? (i - 1) / 2 : 0]) <= psi_watch_key(w));
        PSI_SURE(!w->dead || (!w->sock && !w->given && w->link.next));
        PSI_SURE(!w->sock || w->sock->watch == w);
        PSI_SURE(!w->given || p->given[w->given - 1] == w);
        PSI_SURE(w->sock || !w->more);
        hot += w->link.next != NULL;
    }
    for (at = p->hot.next; at != &p->hot; at = at->next, hot--) PSI_SURE(at->next->prev == at);
    PSI_SURE(!hot && p->given_count >= 0 && p->given_count <= PSI_EVENTS);
    for (i = 0; i < p->given_count; i++) PSI_SURE(!p->given[i] || p->given[i]->given == i + 1);
}
#else
#define psi_check_poller(p) ((void)(p))
#endif

/*--- public */

PSOCKET_API int psocket_poller_new(psocket_poller **out)
{
    psocket_poller *p;
    int os = 0, r;
    if (!out) return PSOCKET_INVALID;
    *out = NULL;
    if ((r = psi_os_start()) != 0) return r;
    p = (psocket_poller *)psi_alloc(sizeof *p);
    if (!p) return PSOCKET_NOMEM;
    if ((r = psi_os_poller_new(&p->os, &os)) != 0) {
        psi_free(p);
        return r;
    }
    p->hot.next = p->hot.prev = &p->hot;
    p->turn = 1;
    *out = p;
    return 0;
}

/* Takes a socket out. */
static void psi_poll_remove(psocket *s)
{
    if (!s->watch) return;
    psi_sock_flush(s); /* nobody will do it later */
    psi_watch_end(s->watch);
    s->watch = NULL;
}

PSOCKET_API int psocket_poller_set(psocket_poller *p, psocket *s, int events, int timeout_ms, void *user)
{
    int other = s && s->watch && s->watch->poller != p;
    if (!s) return PSOCKET_INVALID;
    if (!p || (events & ~(PSOCKET_READ | PSOCKET_WRITE))) return psi_sock_note(s, PSOCKET_INVALID, 0, "no poller, or unknown events");
    if (!events && timeout_ms < 0) {
        if (!other) psi_poll_remove(s);
        return 0;
    }
    if (other || s->above) return psi_sock_note(s, PSOCKET_BUSY, 0, "the socket is in another poller, or carries a socket");
    if (s->state == PSI_CLOSED) return psi_sock_note(s, PSOCKET_CLOSED_HERE, 0, NULL);
    if (!s->watch) s->watch = psi_watch_new(p, s);
    if (!s->watch) return psi_sock_note(s, PSOCKET_NOMEM, 0, NULL);
    psi_poll_want(s->watch, events, timeout_ms, user);
    psi_check_poller(p);
    return 0;
}

PSOCKET_API int psocket_poller_watch(psocket_poller *p, psocket_watch **w, psocket_fd fd, int events, int timeout_ms, void *user)
{
    psocket_watch *made = NULL;
    int r, os;
    if (!p || !w || (events & ~(fd == -1 ? PSOCKET_SIGNAL : PSOCKET_READ | PSOCKET_WRITE))) return PSOCKET_INVALID;
    if (*w && ((*w)->poller != p || (*w)->sock)) return PSOCKET_INVALID;
    if (!*w) *w = made = psi_watch_new(p, NULL);
    if (!*w) return PSOCKET_NOMEM;
    if ((*w)->one.events == events) psi_os_poller_ctl(&p->os, &(*w)->one, 0, &os); /* its number may have come back: ask anew */
    r = psi_watch_one(*w, fd == -1 ? -1 : fd, events);
    if (r) {
        psi_watch_end(made);
        if (made) *w = NULL;
        return r;
    }
    psi_poll_want(*w, events, timeout_ms, user);
    psi_check_poller(p);
    return 0;
}

PSOCKET_API void psocket_watch_free(psocket_watch *w)
{
    psi_watch_end(w);
}

PSOCKET_API int psocket_poller_wait(psocket_poller *p, const psocket_event **events, int ms)
{
    int64_t now, end;
    int r, nested;
    if (!p || !events) return PSOCKET_INVALID;
    *events = p->events;
    nested = p->nested;
    psi_watch_rest(p);
    p->nested = 0;
    p->turn++;
    psi_poll_recycle(p);
    p->os.rang = 0;
    now = psi_os_now();
    end = ms < 0 ? INT64_MAX : now + ms;
    do r = psi_poll_round(p, &now, end); while (!r && !p->given_count && !p->os.rang && now < end);
    p->nested = nested != 0;
    if (p->given_count || p->hot.next != &p->hot) psi_watch_announce(p);
    psi_check_poller(p);
    return p->given_count ? p->given_count : r; /* what is known is not lost; a failure comes again */
}

PSOCKET_API void psocket_poller_wake(psocket_poller *p)
{
    if (p) psi_os_bell_ring(&p->os.bell);
}

PSOCKET_API psocket_fd psocket_poller_getfd(psocket_poller *p, int *ms)
{
    int busy;
    if (!p) return -1;
    busy = p->given_count || p->hot.next != &p->hot; /* what was handed out last may have more */
    p->nested = 1;
    if (busy) psi_watch_announce(p);
    if (ms && busy) *ms = 0;
    if (ms && p->count && psi_watch_key(p->heap[0]) != INT64_MAX) psi_lower_ms(ms, psi_watch_key(p->heap[0]) - psi_os_now());
    return psi_os_poller_fd(&p->os);
}

PSOCKET_API void psocket_poller_free(psocket_poller *p)
{
    if (!p) return;
    while (p->count) {
        psocket_watch *w = p->heap[p->count - 1];
        if (w->sock) psi_poll_remove(w->sock);
        else psi_watch_unwatch(w);
        if (w->dead) psi_poll_bury(w);
        else psi_watch_leave(w);
    }
    psi_free(p->spare);
    psi_os_poller_free(&p->os);
    psi_free(p->heap);
    psi_free(p);
}

/*==================================================================================================
 * >>public
 * The public functions: argument checks, and the waiting that makes blocking calls of the steps of >>sock.
 *================================================================================================*/

/* Waits until s may get on with events, or its time or `end` (INT64_MAX: never) is over: 0; a signal may end it earlier:
   PSOCKET_SIGNAL; or an error. */
static int psi_public_sleep(psocket *s, int events, int64_t end)
{
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    int ms = -1, os = 0, n = psi_sock_wants(s, events, fds, PSOCKET_POLLSET_MAX, &ms);
    if (end != INT64_MAX) psi_lower_ms(&ms, end - psi_os_now());
    n = psi_os_poll(fds, n, ms, &os);
    if (n < 0) return psi_sock_note(s, n, os, NULL);
    return n == 0 && os ? PSOCKET_SIGNAL : 0;
}

/* What was done here the poller's system may say nothing of, such as bytes read or kept. (What the poller has just handed
   out it looks at again anyway.) */
static void psi_public_tell(psocket *s)
{
    if (s->watch && !s->watch->given) psi_watch_heat(s->watch);
}

/* What a call answers: psocket_geterror is to say the same. */
static ptrdiff_t psi_public_answer(psocket *s, ptrdiff_t r)
{
    if (r < 0 && !psi_is_want(r) && r != s->code) psi_sock_note(s, (int)r, 0, NULL);
    psi_check_sock(s);
    return r;
}

static int psi_public_wrong(psocket *s, const char *why)
{
    return psi_sock_note(s, PSOCKET_INVALID, 0, "%s", why);
}

/* Carries on what an earlier send or shutdown left, as far as that goes without waiting. */
static void psi_public_push(psocket *s)
{
    if (s->state == PSI_OPEN && (s->out || s->end_out > 0 || s->fd == -1)) psi_sock_step(s);
}

/* Before data is moved: 0, or why it cannot be. ok: the arguments are good. */
static int psi_public_begin(psocket *s, int ok)
{
    if (!s) return PSOCKET_INVALID;
    if (s->listen) return psi_public_wrong(s, "a listener moves no data");
    if (!ok) return psi_public_wrong(s, "a NULL pointer, or nothing asked for");
    psi_public_tell(s);
    psi_public_push(s);
    return 0;
}

/* The one loop of waiting: a call that moves data (way: 0 in, 1 out) has answered *r. 1: try again, after waiting; 0: that
   is the answer. The time of an operation begins with the first try that has to wait. */
static int psi_public_again(psocket *s, ptrdiff_t *r, int way)
{
    if (s->state < PSI_OPEN) return 0;
    if (!psi_is_wait(*r)) {
        s->due[way] = 0;
        return 0;
    }
    if (way == 0 && s->news == PSI_TOLD) s->news = PSI_QUIET;
    psi_sock_clock(s, way);
    if (psi_sock_late(s, way)) {
        s->due[way] = 0;
        *r = psi_sock_note(s, PSOCKET_TIMEOUT, 0, NULL);
        return 0;
    }
    if (s->nonblocking) return 0;
    if (way == 0) psi_public_push(s);
    *r = psi_public_sleep(s, way ? PSOCKET_WRITE : PSOCKET_READ, INT64_MAX);
    return *r >= 0;
}

/* Gets s out of dialling and handshaking: 0, or what the caller is to answer. */
static int psi_public_settle(psocket *s)
{
    while (s->state < PSI_OPEN) {
        int r = psi_sock_step(s);
        if (s->state >= PSI_OPEN) return r == PSOCKET_CLOSED ? 0 : r; /* an end after the handshake is for recv to tell */
        if (s->nonblocking || !psi_is_wait(r)) return r;
        if ((r = psi_public_sleep(s, 0, INT64_MAX)) < 0) return psi_sock_end(s, r);
    }
    return s->state == PSI_CLOSED ? PSOCKET_CLOSED_HERE : 0;
}

/*--- making sockets */

/* What these answer when there is no socket to ask. */
static int psi_public_fail(const psocket_options *opt, int code, int os, const char *what)
{
    return psi_err_os(opt ? opt->error : NULL, code, os, "%s", what);
}

/* Reads what opt says of descriptors: NULL, or what is wrong with it. */
static const char *psi_public_settings(psi_os_settings *set, const psocket_options *opt)
{
    memset(set, 0, sizeof *set);
    if (!opt) return NULL;
    if (opt->local_port < 0 || opt->local_port > 65535) return "local_port out of range 0 to 65535";
    if (opt->local && !psi_addr_parse(&set->local, opt->local, strlen(opt->local))) return "local is no numeric address";
    set->local.port = (uint16_t)opt->local_port;
    set->keepalive = opt->keepalive;
    set->reuse_port = opt->reuse_port != 0;
    set->v6only = opt->v6only != 0;
    if (!opt->udp) return NULL;
    set->broadcast = opt->broadcast != 0;
    set->ttl = opt->multicast_ttl;
    set->noloop = opt->multicast_noloop != 0;
    if (opt->multicast_interface && !(set->interface_index = psi_os_interface(opt->multicast_interface)))
        return "multicast_interface is no interface";
    if (opt->multicast_group && !psi_addr_parse(&set->group, opt->multicast_group, strlen(opt->multicast_group)))
        return "multicast_group is no numeric address";
    return NULL;
}

/* Begins to dial: NULL, or what is wrong (*r is the code). */
static const char *psi_public_dial(psocket *s, const char *host, int port, const psocket_options *opt, int *r)
{
    psi_dial *d = s->dial = (psi_dial *)psi_alloc(sizeof *s->dial);
    const char *wrong;
    *r = PSOCKET_NOMEM;
    if (!d) return "";
    d->port = port;
    d->delay = opt && opt->attempt_delay_ms > 0 ? opt->attempt_delay_ms : 250;
    *r = PSOCKET_INVALID;
    if ((wrong = psi_public_settings(&d->set, opt)) != NULL) return wrong;
    *r = psi_dns_start(&d->names, host, opt ? opt->resolve : NULL, opt ? opt->resolve_user : NULL);
    s->state = PSI_RESOLVING;
    return *r ? "bad host" : NULL;
}

/* NULL, or what is wrong with the host and port to connect to (*r is the code). */
static const char *psi_public_target(const char *host, int port, int udp, int *r)
{
    const char *path = host ? psi_addr_path(host) : NULL;
    *r = PSOCKET_INVALID;
    if (!host || !*host) return "no host given";
    if (path && port) return "a path has no port";
    if (!path && (port < 1 || port > 65535)) return "port out of range 1 to 65535";
    if (path && udp) *r = PSOCKET_UNSUPPORTED;
    return path && udp ? "datagrams on a path" : NULL;
}

PSOCKET_API int psocket_connect(psocket **out, const char *host, int port, const psocket_options *opt)
{
    psocket *s;
    int r, udp = opt && opt->udp;
    const char *wrong = psi_public_target(host, port, udp, &r);
    if (out) *out = NULL;
    if (!out || wrong) return psi_public_fail(opt, r, 0, wrong ? wrong : "no place for the socket");
    if ((r = psi_os_start()) != 0) return psi_public_fail(opt, r, 0, "");
    s = psi_sock_new(opt, PSOCKET_CLIENT);
    if (!s) return psi_public_fail(opt, PSOCKET_NOMEM, 0, "");
    s->udp = udp != 0;
    psi_sock_clock(s, 0);
    wrong = psi_public_dial(s, host, port, opt, &r);
    if (wrong) {
        psi_sock_free(s);
        return psi_public_fail(opt, r, 0, wrong);
    }
    r = psi_public_settle(s);
    if (!r || psi_is_want(r)) {
        *out = s;
        return 0;
    }
    if (opt && opt->error) psocket_geterror(s, opt->error);
    psi_sock_free(s);
    return r;
}

/* Reads what to listen on into *a and *path, which (Unix-domain) points into address. NULL, or what is wrong with it. */
static const char *psi_public_place(psi_addr *a, const char **path, const char *address, int port, int udp)
{
    int there = port;
    memset(a, 0, sizeof *a);
    *path = NULL;
    if (port < 0 || port > 65535) return "port out of range 0 to 65535";
    if (!address || !*address) {
        a->family = PSI_IP6;
    } else if (!udp && (*path = psi_addr_path(address)) != NULL) {
        a->family = PSI_UNIX;
        if (!**path || port) return "bad path";
    } else {
        if (psi_addr_parse_port(a, address, &there)) return "listen takes a numeric address, \"address:port\" or \"[address]:port\"";
        if (port && port != there) return "two different ports given";
    }
    a->port = (uint16_t)there;
    return NULL;
}

/* Makes a bound descriptor, which listens if there is a backlog; without one it is for datagrams. */
static int psi_public_bound(psocket_fd *fd, const psi_addr *a, const char *path, int dual, int backlog, const psi_os_settings *set, int *os)
{
    int r = psi_os_socket(fd, a->family, !backlog, os);
    if (!r && !backlog) r = psi_os_set(*fd, a->family, 1, set, os);
    if (!r) r = psi_os_bind(*fd, a, path, (dual ? PSI_OS_DUAL : 0) | (set->reuse_port ? PSI_OS_REUSE_PORT : 0), backlog, os);
    if (!r) return 0;
    psi_os_close(*fd);
    *fd = -1;
    return r;
}

/* Removes a path that nobody answers on: it was left behind by a process that is gone. Asking with a datagram socket tells
   without a connection: refused if nobody has it, the wrong type otherwise. */
static int psi_public_orphan(const psi_addr *a, const char *path)
{
    psocket_fd fd;
    int os, r = psi_os_socket(&fd, a->family, 1, &os);
    if (!r) r = psi_os_connect(fd, a, path, &os);
    psi_os_close(fd);
    return r == PSOCKET_REFUSED && psi_os_unlink(path) == 0;
}

/* Gives s a descriptor bound to *a, or to something like it. 0 or an error. */
static int psi_public_bind(psocket *s, psi_addr *a, const char *path, int any, int backlog, const psi_os_settings *set, int *os)
{
    int dual = any && !set->v6only, r = psi_public_bound(&s->fd, a, path, dual, backlog, set, os);
    if (r && dual && r != PSOCKET_ADDRESS_IN_USE && r != PSOCKET_ACCESS && r != PSOCKET_DESCRIPTORS) {
        a->family = PSI_IP4; /* a system without IPv6, or without dual-stack sockets */
        r = psi_public_bound(&s->fd, a, NULL, 0, backlog, set, os);
    }
    if (path && r == PSOCKET_ADDRESS_IN_USE && psi_public_orphan(a, path)) r = psi_public_bound(&s->fd, a, path, 0, backlog, set, os);
    s->family = a->family & 15u;
    return path && r == PSOCKET_REFUSED ? PSOCKET_ADDRESS_NOT_AVAILABLE : r; /* no such folder */
}

/* Makes s, which has a bound descriptor, a UDP endpoint. 0, or what opt->error tells. */
static int psi_public_endpoint(psocket *s, const psi_os_settings *set, const psocket_options *opt)
{
    unsigned family = s->family;
    int os = 0, r;
    psi_sock_on_fd(s, s->fd, &psi_transport_udp);
    s->family = family & 15u;
    r = psi_os_join(s->fd, set, &os);
    return r ? psi_public_fail(opt, r, os, "cannot join the group") : 0;
}

/* Makes s, whose descriptor listens, a listener. 0, or what opt->error tells. */
static int psi_public_listener(psocket *s, const char *path, const psi_os_settings *set, const psocket_options *opt)
{
    psi_listen *l = s->listen = (psi_listen *)psi_alloc(sizeof *l);
    if (l) l->next = -1;
    if (l && path) l->path = psi_strdup(path);
    if (!l || (path && !l->path)) {
        psi_free(l);
        s->listen = NULL;
        return psi_public_fail(opt, PSOCKET_NOMEM, 0, "");
    }
    if (opt) l->opt = *opt;
    l->set = *set;
    l->process = psi_os_process();
    s->state = PSI_LISTENING;
    return 0;
}

/* Makes s listen, or (udp) wait for datagrams. 0, or what opt->error tells. */
static int psi_public_listen(psocket *s, const char *address, int port, const psi_os_settings *set, const psocket_options *opt)
{
    psi_addr a;
    char what[160];
    const char *path, *wrong = psi_public_place(&a, &path, address, port, s->udp);
    int r, os = 0, any = !address || !*address, backlog = opt && opt->backlog > 0 ? opt->backlog : INT_MAX; /* the system knows its most */
    if (wrong) return psi_public_fail(opt, PSOCKET_INVALID, 0, wrong);
    if ((r = psi_os_start()) != 0) return psi_public_fail(opt, r, 0, "");
    if ((r = psi_public_bind(s, &a, path, any, s->udp ? 0 : backlog, set, &os)) != 0) {
        if (path) snprintf(what, sizeof what, "cannot listen on %.140s", address);
        else snprintf(what, sizeof what, "cannot listen on %.100s port %d", any ? "all addresses" : address, a.port);
        return psi_public_fail(opt, r, os, what);
    }
    if (s->udp) return psi_public_endpoint(s, set, opt);
    if ((r = psi_public_listener(s, path, set, opt)) == 0) return 0;
    if (path) psi_os_unlink(path);
    psi_os_close(s->fd);
    return r;
}

PSOCKET_API int psocket_listen(psocket **out, const char *address, int port, const psocket_options *opt)
{
    psocket *s;
    psi_os_settings set;
    const char *wrong = psi_public_settings(&set, opt);
    int r;
    if (out) *out = NULL;
    if (!out || wrong) return psi_public_fail(opt, PSOCKET_INVALID, 0, wrong ? wrong : "no place for the socket");
    s = psi_sock_new(opt, PSOCKET_SERVER);
    if (!s) return psi_public_fail(opt, PSOCKET_NOMEM, 0, "");
    s->udp = opt && opt->udp;
    r = psi_public_listen(s, address, port, &set, opt);
    if (r) psi_sock_free(s);
    else *out = s;
    return r;
}

/* Is there a place for what is made, and something to make it of? */
static int psi_public_can(psocket **out, int ok, int side)
{
    if (out) *out = NULL;
    return out && ok && (side == PSOCKET_CLIENT || side == PSOCKET_SERVER);
}

PSOCKET_API int psocket_open(psocket **out, const psocket_transport *t, void *user, int side, const psocket_options *opt)
{
    psocket *s;
    if (!psi_public_can(out, t != NULL, side)) return psi_public_fail(opt, PSOCKET_INVALID, 0, "no place for the socket, no transport, or no such side");
    s = *out = psi_sock_new(opt, side);
    if (!s) return psi_public_fail(opt, PSOCKET_NOMEM, 0, "");
    s->io = t;
    s->user = user;
    s->state = PSI_OPEN;
    return 0;
}

PSOCKET_API int psocket_adopt(psocket **out, psocket_fd fd, int side, const psocket_options *opt)
{
    psocket *s;
    psi_addr local = PSI_ZERO;
    psi_os_settings set;
    const char *wrong = psi_public_settings(&set, opt);
    int r, os = 0, kind = 0, known;
    if (!psi_public_can(out, fd != -1, side)) wrong = "no place for the socket, no descriptor, or no such side";
    if (wrong) return psi_public_fail(opt, PSOCKET_INVALID, 0, wrong);
    if ((r = psi_os_start()) != 0 || (r = psi_os_adopt(fd, &kind, &os)) != 0)
        return psi_public_fail(opt, r, os, "cannot adopt the descriptor");
    s = psi_sock_new(opt, side);
    if (!s) return psi_public_fail(opt, PSOCKET_NOMEM, 0, "");
    psi_os_getname(fd, 0, &local, NULL, 0);
    if (kind == PSI_OS_LISTENER) {
        s->fd = fd;
        if ((r = psi_public_listener(s, NULL, &set, opt)) != 0) {
            psi_sock_free(s);
            return r;
        }
    } else {
        known = psi_os_getname(fd, 1, &s->peer, NULL, 0) == 0;
        s->udp = kind == PSI_OS_DATAGRAM;
        psi_sock_on_fd(s, fd, s->udp && !known ? &psi_transport_udp : &psi_transport_fd);
    }
    s->family = local.family & 15u;
    *out = s;
    return 0;
}

PSOCKET_API int psocket_pair(psocket **a, psocket **b, const psocket_options *opt)
{
    psocket_fd fd[2];
    int r, os = 0;
    if (a) *a = NULL;
    if (b) *b = NULL;
    if (!a || !b) return psi_public_fail(opt, PSOCKET_INVALID, 0, "no place for the sockets");
    if ((r = psi_os_start()) != 0 || (r = psi_os_pair(fd, &os)) != 0) return psi_public_fail(opt, r, os, "cannot make a pair");
    r = psocket_adopt(a, fd[0], PSOCKET_CLIENT, opt);
    if (r) psi_os_close(fd[0]);
    else r = psocket_adopt(b, fd[1], PSOCKET_SERVER, opt);
    if (!r) return 0;
    psi_os_close(fd[1]);
    psi_sock_free(*a);
    *a = NULL;
    return r;
}

PSOCKET_API int psocket_wrap(psocket **out, psocket *carrier, const psocket_options *opt)
{
    psocket *c = carrier;
    int r;
    if (!psi_public_can(out, c && !c->udp && !c->above && !c->listen && c->state != PSI_CLOSED, PSOCKET_CLIENT))
        return psi_public_fail(opt, PSOCKET_INVALID, 0, "no place for the socket, or nothing that could carry it");
    if (c->state < PSI_OPEN) return psi_public_fail(opt, PSOCKET_BUSY, 0, "the carrier is not connected yet");
    if (c->watch) return psi_public_fail(opt, PSOCKET_BUSY, 0, "take the carrier out of its poller first");
    r = psocket_open(out, &psi_transport_wrap, c, c->side ? PSOCKET_SERVER : PSOCKET_CLIENT, opt);
    if (r) return r;
    (*out)->peer = c->peer;
    c->above = *out;
    c->nonblocking = 1;
    c->due[0] = c->due[1] = 0;
    return 0;
}

/* Takes a connection if one is there. */
static int psi_public_accept(psocket *s, psocket **out)
{
    psi_listen *l = s->listen;
    psocket *c;
    int os = 0, r = psi_listen_ready(s);
    if (r <= 0) return r ? r : PSOCKET_WANT_READ;
    c = psi_sock_new(&l->opt, PSOCKET_SERVER);
    if (!c) return PSOCKET_NOMEM; /* the connection waits for the next call */
    c->peer = l->next_peer;
    psi_sock_on_fd(c, l->next, &psi_transport_fd);
    l->next = -1;
    r = psi_os_set(c->fd, (int)c->family, 0, &l->set, &os);
    if (r) {
        psi_sock_free(c);
        return psi_sock_note(s, r, os, NULL);
    }
    *out = c;
    return 0;
}

PSOCKET_API int psocket_accept(psocket *s, psocket **out)
{
    ptrdiff_t r;
    if (out) *out = NULL;
    if (!s) return PSOCKET_INVALID;
    if (!s->listen || !out) return psi_public_wrong(s, s->listen ? "no place for the socket" : "only a listener accepts");
    psi_public_tell(s);
    do r = psi_public_accept(s, out); while (psi_public_again(s, &r, 0));
    psi_public_answer(s, r);
    if (r < 0 && !psi_is_want(r) && s->listen->opt.error) psocket_geterror(s, s->listen->opt.error);
    return (int)r;
}

PSOCKET_API int psocket_hasconnection(psocket *s)
{
    if (!s) return PSOCKET_INVALID;
    if (!s->listen) return psi_public_wrong(s, "only a listener has connections");
    return (int)psi_public_answer(s, psi_listen_ready(s));
}

/*--- data */

/* Hands out what is left of a send; the first time also what is empty. How many bytes in all, or what is to be answered. */
static ptrdiff_t psi_public_send(psocket *s, const char *data, size_t len)
{
    int r;
    if (psi_sock_late(s, 1)) return psi_sock_note(s, PSOCKET_TIMEOUT, 0, NULL); /* whatever would still go */
    while (s->sent < len || !len) {
        ptrdiff_t n = psi_sock_send(s, len ? data + s->sent : data, len - s->sent);
        if (n < 0 || s->nonblocking || s->udp) return n;
        s->sent += (size_t)n;
        if (!len) break;
    }
    r = psi_sock_flush(s);
    return r ? r : (ptrdiff_t)len;
}

PSOCKET_API ptrdiff_t psocket_send(psocket *s, const void *data, size_t len)
{
    ptrdiff_t r = psi_public_begin(s, data || !len);
    if (r) return r;
    s->sent = 0;
    if ((r = psi_public_settle(s)) == 0)
        do r = psi_public_send(s, (const char *)data, len); while (psi_public_again(s, &r, 1));
    return psi_public_answer(s, r);
}

/* Repeats psi_sock_flush or psi_sock_finish while it has to wait, if s is to wait for it. */
static int psi_public_finish(psocket *s, int (*step)(psocket *s))
{
    ptrdiff_t r;
    do r = psi_sock_late(s, 1) ? psi_sock_note(s, PSOCKET_TIMEOUT, 0, NULL) : step(s); while (psi_public_again(s, &r, 1));
    return (int)psi_public_answer(s, r);
}

/* Before what was sent is dealt with: 0, or what the caller is to answer. *done: there is nothing to deal with. */
static int psi_public_sending(psocket *s, int *done)
{
    int r = (int)psi_public_begin(s, 1);
    if (r) return r;
    r = psi_public_settle(s);
    *done = s->end_out < 0;
    if (!r && *done && !(s->end_out == PSOCKET_CLOSED_HERE && s->state == PSI_OPEN)) r = s->end_out;
    return (int)psi_public_answer(s, r);
}

PSOCKET_API int psocket_flush(psocket *s)
{
    int done, r = psi_public_sending(s, &done);
    return r || done ? r : psi_public_finish(s, psi_sock_flush);
}

PSOCKET_API int psocket_shutdown(psocket *s)
{
    int done, r = psi_public_sending(s, &done);
    if (r || done) return r;
    if (!s->end_out) s->end_out = PSI_ENDING;
    return psi_public_finish(s, psi_sock_finish);
}

/* Has a chunk, and n bytes in all, in the ring: 1, or what the caller is to answer. Chunks that are there can be taken
   whatever has become of the socket. */
static ptrdiff_t psi_public_gather(psocket *s, uint32_t n)
{
    if (n > s->limit && n > s->need) s->need = n;
    while (psi_ring_empty(&s->ring) || s->ring.bytes < n) {
        int r = psi_public_settle(s);
        if (r) return r;
        if (s->nonblocking && !s->end_in && psi_watch_did(s->watch, PSI_DID_DRAIN)) {
            psi_sock_relax(s); /* the poller will report if there is more */
            return PSOCKET_WANT_READ;
        }
        if ((r = psi_sock_fill(s)) != 1) return r;
    }
    return 1;
}

/* Takes n bytes of the first chunk. */
static ptrdiff_t psi_public_take(psocket *s, uint32_t n, const void **data)
{
    psi_ring_take(&s->ring, n, data);
    s->news = PSI_NEWS;
    s->need = 0;
    return (ptrdiff_t)n;
}

PSOCKET_API ptrdiff_t psocket_recv(psocket *s, const void **data)
{
    ptrdiff_t r;
    if (data) *data = NULL;
    if ((r = psi_public_begin(s, data != NULL)) != 0) return r;
    do r = psi_public_gather(s, 0); while (psi_public_again(s, &r, 0));
    if (r == 1) r = psi_public_take(s, psi_ring_front(&s->ring, data), data);
    return psi_public_answer(s, r);
}

PSOCKET_API ptrdiff_t psocket_peek(psocket *s, const void **data)
{
    ptrdiff_t r;
    if (data) *data = NULL;
    if ((r = psi_public_begin(s, data != NULL)) != 0) return r;
    for (r = 1; psi_ring_empty(&s->ring) && r == 1;) {
        if (s->state < PSI_OPEN) r = psi_sock_step(s);
        if (s->state >= PSI_OPEN) r = psi_sock_fill(s);
    }
    if (!psi_ring_empty(&s->ring)) {
        if (s->news == PSI_QUIET) s->news = PSI_TOLD; /* here is one who is content with any chunk */
        return (ptrdiff_t)psi_ring_front(&s->ring, data);
    }
    if (psi_is_wait(r)) return PSOCKET_WANT_READ;
    return psi_public_answer(s, r);
}

PSOCKET_API int psocket_unrecv(psocket *s, const void *data, size_t len)
{
    int r = psi_public_begin(s, data || !len);
    if (r) return r;
    if (s->state == PSI_CLOSED) return psi_sock_note(s, PSOCKET_CLOSED_HERE, 0, NULL);
    if (s->hs) return psi_sock_note(s, PSOCKET_BUSY, 0, "a TLS handshake is under way");
    if (!len && !s->udp) return 0; /* an empty chunk would look like nothing */
    r = psi_ring_unshift(&s->ring, data, len);
    s->news = PSI_NEWS;
    return (int)psi_public_answer(s, r);
}

PSOCKET_API ptrdiff_t psocket_read(psocket *s, size_t n, const void **data)
{
    ptrdiff_t r;
    if (data) *data = NULL;
    if ((r = psi_public_begin(s, data && n)) != 0) return r;
    if (n > PSI_RING_MAX / 2) return psi_sock_note(s, PSOCKET_LIMIT, 0, "read of more than 1 GB");
    do r = psi_public_gather(s, (uint32_t)n); while (psi_public_again(s, &r, 0));
    if (r == 1) {
        psi_ring_join(&s->ring, (uint32_t)n);
        r = psi_public_take(s, (uint32_t)n, data);
    }
    return psi_public_answer(s, r);
}

/* Finds the delimiter, reading as need be: where it ends, or what the caller is to answer. */
static ptrdiff_t psi_public_seek(psocket *s, const char *delimiter, uint32_t max)
{
    uint32_t m = (uint32_t)strlen(delimiter), end;
    while ((end = psi_ring_find(&s->ring, delimiter, m, max)) == 0) {
        ptrdiff_t r;
        if (s->ring.bytes >= max) return psi_sock_note(s, PSOCKET_LIMIT, 0, "no delimiter within the limit");
        if ((r = psi_public_gather(s, s->ring.bytes + 1)) != 1) return r;
    }
    return (ptrdiff_t)end;
}

PSOCKET_API ptrdiff_t psocket_read_until(psocket *s, const char *delimiter, size_t max, const void **data)
{
    ptrdiff_t r;
    if (data) *data = NULL;
    if ((r = psi_public_begin(s, data && delimiter && *delimiter && max)) != 0) return r;
    if (max > s->limit) max = s->limit;
    if (strlen(delimiter) > max) return psi_sock_note(s, PSOCKET_LIMIT, 0, "the delimiter is longer than the limit");
    do r = psi_public_seek(s, delimiter, (uint32_t)max); while (psi_public_again(s, &r, 0));
    if (r > 0) r = psi_public_take(s, (uint32_t)r, data);
    return psi_public_answer(s, r);
}

PSOCKET_API size_t psocket_pending(const psocket *s)
{
    return s ? s->ring.bytes : 0;
}

PSOCKET_API void psocket_close(psocket *s)
{
    if (!s) return;
    psi_sock_close(s);
    psi_check_sock(s);
}

PSOCKET_API void psocket_free(psocket *s)
{
    psi_sock_free(s);
}

/*--- TLS */

PSOCKET_API int psocket_starttls(psocket *s, psocket_tls *tls, const char *server_name)
{
    psocket_error e = PSI_ZERO;
    int r;
    if (!s) return PSOCKET_INVALID;
    if (s->listen) return psi_public_wrong(s, "a listener speaks no TLS");
    if (s->info && s->state != PSI_CLOSED) return psi_sock_note(s, PSOCKET_ALREADY_TLS, 0, NULL);
    if (s->udp) return psi_sock_note(s, PSOCKET_UNSUPPORTED, 0, "TLS is for stream sockets only");
    psi_public_tell(s);
    if (!s->hs) {
        r = psi_public_settle(s);
        if (r && !(s->dial && psi_is_wait(r))) return (int)psi_public_answer(s, r);
        if (s->end_out) return (int)psi_public_answer(s, s->end_out > 0 ? (int)PSOCKET_CLOSED_HERE : (int)s->end_out);
        if (tls) psocket_tls_retain(tls);
        else if (s->side == PSOCKET_SERVER) return psi_sock_end(s, psi_sock_note(s, PSOCKET_TLS_NO_IDENTITY, 0, NULL));
        else if ((r = psi_tls_default(&tls, &e)) != 0) return psi_sock_end(s, psi_sock_note_error(s, &e));
        r = psi_sock_starttls(s, tls, server_name);
        psocket_tls_free(tls);
        if (r) return r;
    }
    return (int)psi_public_answer(s, psi_public_settle(s));
}

PSOCKET_API int psocket_gettlsinfo(const psocket *s, psocket_tlsinfo *info)
{
    if (info) memset(info, 0, sizeof *info);
    if (!s || !info || !s->info) return PSOCKET_INVALID;
    psi_tlsinfo_get(s->info, info);
    return 0;
}

PSOCKET_API int psocket_istls(const psocket *s)
{
    return s && s->info;
}

/*--- state */

/* Copies an address out. */
static int psi_public_address(const psi_addr *a, const char *path, char *ip, size_t ip_size, int *port)
{
    char text[64];
    size_t n;
    psi_addr_print(a, text);
    if (a->family != PSI_UNIX) path = text;
    n = strlen(path) + 1;
    if (port) *port = a->port;
    if (!ip || !ip_size) return 0;
    if (n > ip_size) return PSOCKET_LIMIT;
    memcpy(ip, path, n);
    return 0;
}

PSOCKET_API int psocket_getpeer(const psocket *s, char *ip, size_t ip_size, int *port)
{
    char path[PSI_DNS_HOST] = "";
    psi_addr a;
    if (ip && ip_size) *ip = 0;
    if (port) *port = 0;
    if (!s || !s->peer.family) return PSOCKET_INVALID;
    if (s->peer.family == PSI_UNIX && s->fd != -1) psi_os_getname(s->fd, 1, &a, path, sizeof path);
    return psi_public_address(&s->peer, path, ip, ip_size, port);
}

PSOCKET_API int psocket_getlocal(const psocket *s, char *ip, size_t ip_size, int *port)
{
    char path[PSI_DNS_HOST] = "";
    psi_addr a = PSI_ZERO;
    int r;
    if (ip && ip_size) *ip = 0;
    if (port) *port = 0;
    if (!s) return PSOCKET_INVALID;
    while (s->io == &psi_transport_wrap) s = (const psocket *)s->user;
    if (s->fd == -1) return s->state == PSI_CLOSED ? PSOCKET_CLOSED_HERE : PSOCKET_INVALID;
    if ((r = psi_os_getname(s->fd, 0, &a, path, sizeof path)) != 0) return r;
    psi_addr_normalise(&a);
    return psi_public_address(&a, path, ip, ip_size, port);
}

/* A UDP socket that is still looking for its peer is given another one. */
static int psi_public_redirect(psocket *s, const char *ip, int port)
{
    psocket_resolve *names;
    int r = psi_dns_start(&names, ip, NULL, NULL);
    if (r) return r;
    psi_sock_unwatch(s);
    psi_dns_release(s->dial->names);
    s->dial->names = names;
    s->dial->port = port;
    s->dial->next = 0;
    s->state = PSI_RESOLVING;
    r = psi_sock_step(s);
    return psi_is_wait(r) ? 0 : r;
}

PSOCKET_API int psocket_setpeer(psocket *s, const char *ip, int port)
{
    psi_addr a;
    int os = 0, r;
    if (!s) return PSOCKET_INVALID;
    if (s->state == PSI_CLOSED) return psi_sock_note(s, PSOCKET_CLOSED_HERE, 0, NULL);
    if (!s->udp) return psi_sock_note(s, PSOCKET_UNSUPPORTED, 0, "setpeer is for UDP sockets");
    if (!ip || port < 1 || port > 65535 || !psi_addr_parse(&a, ip, strlen(ip))) return psi_public_wrong(s, "not an address and port");
    if (s->dial) return (int)psi_public_answer(s, psi_public_redirect(s, ip, port));
    a.port = (uint16_t)port;
    psi_addr_normalise(&a);
    if (s->io == &psi_transport_fd) {
        if (a.family != s->family) return psi_public_wrong(s, "the address family cannot change");
        r = psi_os_connect(s->fd, &a, NULL, &os);
        if (r) return psi_sock_note(s, r, os, NULL);
    }
    s->peer = a;
    return 0;
}

PSOCKET_API int psocket_getside(const psocket *s)
{
    return s ? (int)s->side : (int)PSOCKET_INVALID;
}

PSOCKET_API int psocket_isopen(psocket *s)
{
    if (!s) return 0;
    psi_public_tell(s);
    if (s->state < PSI_OPEN) psi_sock_step(s);
    while (s->state == PSI_OPEN && !s->udp && psi_sock_fill(s) == 1) {}
    psi_check_sock(s);
    return s->state <= PSI_LISTENING && !s->end_in && !s->end_out;
}

PSOCKET_API int psocket_isudp(const psocket *s)
{
    return s && s->udp;
}

PSOCKET_API void psocket_settimeout(psocket *s, int timeout_ms)
{
    int way;
    if (!s) return;
    s->timeout = timeout_ms > 0 ? timeout_ms : 0;
    for (way = 0; way < 2; way++) {
        int runs = s->due[way] || (!way && s->state < PSI_OPEN);
        s->due[way] = 0;
        if (runs) psi_sock_clock(s, way);
    }
    psi_public_tell(s);
}

PSOCKET_API void psocket_setnonblocking(psocket *s, int on)
{
    if (s) s->nonblocking = on != 0;
}

PSOCKET_API psocket_fd psocket_getfd(const psocket *s)
{
    return s ? s->fd : -1;
}

PSOCKET_API int psocket_geterror(const psocket *s, psocket_error *e)
{
    if (e) memset(e, 0, sizeof *e);
    if (!s) return PSOCKET_INVALID;
    if (e && s->error && s->error->code == s->code) *e = *s->error;
    else if (e && s->code) psi_err_code(e, s->code);
    if (e) e->sent = s->sent;
    return s->code;
}

/*--- waiting */

PSOCKET_API int psocket_step(psocket *s)
{
    if (!s) return PSOCKET_INVALID;
    psi_public_tell(s);
    return (int)psi_public_answer(s, psi_sock_step(s));
}

/* Which of events are ready now, after a step of s, which was in the state `before`, has answered r. */
static int psi_public_ready(psocket *s, int events, int before, int r)
{
    int ready = 0;
    if (before < PSI_OPEN && s->state == PSI_OPEN) return events; /* what was to be waited for is done */
    if ((events & PSOCKET_READ) && psi_sock_readable(s)) ready |= PSOCKET_READ;
    if ((events & PSOCKET_WRITE) && psi_sock_writable(s, r)) ready |= PSOCKET_WRITE;
    return ready | psi_sock_ready(s, events);
}

PSOCKET_API int psocket_wait(psocket *s, int events, int ms)
{
    int64_t end = ms < 0 ? INT64_MAX : psi_os_now() + ms;
    int r, ready, before, calls = events & (PSOCKET_READ | PSOCKET_WRITE);
    if (!s) return PSOCKET_INVALID;
    if (!calls || (events & ~(calls | PSOCKET_SIGNAL))) return psi_public_wrong(s, "no events, or unknown ones");
    psi_public_tell(s);
    for (before = (int)s->state;;) {
        ready = psi_public_ready(s, calls, before, psi_sock_step(s));
        if (ready) return (int)psi_public_answer(s, psi_sock_told(s, ready));
        if (ms >= 0 && (ms == 0 || psi_os_now() >= end)) return 0;
        if ((r = psi_public_sleep(s, calls, end)) < 0 || (r & events)) return (int)psi_public_answer(s, r);
    }
}

PSOCKET_API int psocket_pollset(psocket *s, int events, psocket_pollfd *fds, int cap, int *ms)
{
    int n;
    if (!s) return PSOCKET_INVALID;
    if (!fds || cap < 0 || !ms || (events & ~(PSOCKET_READ | PSOCKET_WRITE))) return psi_public_wrong(s, "no place for the answer, or unknown events");
    n = psi_sock_wants(s, events, fds, cap, ms);
    if (psi_sock_told(s, psi_sock_ready(s, events))) *ms = 0;
    return n;
}

PSOCKET_API int64_t psocket_now(void)
{
    return psi_os_now();
}

/*==================================================================================================
 * >>lua
 * The Lua module: Lua 5.1 to 5.5 and LuaJIT from one source, on the public functions only.
 *
 * Sockets are nonblocking in C; the waiting is done here. An operation is a function that tries, and answers
 * PSI_LUA_AGAIN when it has to wait in a coroutine: the coroutine then yields no values, and whoever resumes it makes
 * the operation try again. What it has to remember meanwhile (PSI_LUA_DONE ...) stays on the coroutine's stack. Outside a
 * coroutine the operation blocks.
 *
 * Who waits for what is kept beside: each socket has a slot per direction that names the operation (its ticket, so that
 * a second one is refused) and, if it runs in a task of one of our schedulers, the task. The scheduler sleeps in its
 * poller and resumes whom an event is for. Interest in events is dropped when an event comes that nobody waits for, so
 * a socket that is read in a loop costs no call to change it.
 *
 * Nothing here is allocated but by Lua, and userdata is made before what it owns, so an error that Lua raises leaks
 * nothing. No lua_State is kept but those of tasks, which their scheduler's table keeps alive.
 *
 * What a user of the module should know:
 *   Failures are nil, a message and a name (one of PSOCKET_CODES); send adds how many bytes had gone. starttls answers
 *   false instead of nil, and the socket is closed. Wrong types of arguments raise; a port out of range is "INVALID".
 *   Times are in seconds. timeout given to connect, listen, udpserver and pair holds for every later
 *   operation (accepted sockets inherit the listener's) until settimeout; given to one operation, for that. 0: none.
 *   bind closes a client's socket when its callback's coroutine ends, also by an error. Whoever wants to keep the
 *   socket keeps the coroutine, or uses accept.
 *   A table of certificates (or of client options) is parsed once and known again by identity: a change to it later
 *   goes unnoticed; make a new table. psocket.tls makes settings that report errors at once.
 *   A task that yields by itself is resumed in the next turn; when all do, a turn comes about every millisecond.
 *================================================================================================*/

#ifdef PSOCKET_LUA

#include <luaconf.h>
#if defined(__cplusplus) && !defined(lua_h) && !defined(PLUTO_API)
extern "C" { /* as lua.hpp does; a Lua whose headers were included before, or Pluto's, declare their own linkage */
#include <lua.h>
#include <lauxlib.h>
}
#else
#include <lua.h>
#include <lauxlib.h>
#endif

/*--- what differs between the versions */

#ifdef LUA_LJDIR
#include <luajit.h> /* for its version */
#endif

#if LUA_VERSION_NUM >= 504
#define PSI_LUA_USERDATA(L, n) lua_newuserdatauv(L, n, 0)
#define PSI_LUA_USERDATA_1(L, n) lua_newuserdatauv(L, n, 1)
#define PSI_LUA_GETVALUE(L, i) ((void)lua_getiuservalue(L, i, 1))
#define PSI_LUA_SETVALUE(L, i) ((void)lua_setiuservalue(L, i, 1))
#elif LUA_VERSION_NUM >= 502
#define PSI_LUA_USERDATA(L, n) lua_newuserdata(L, n)
#define PSI_LUA_USERDATA_1(L, n) lua_newuserdata(L, n)
#define PSI_LUA_GETVALUE(L, i) ((void)lua_getuservalue(L, i))
#define PSI_LUA_SETVALUE(L, i) ((void)lua_setuservalue(L, i))
#else
#define PSI_LUA_USERDATA(L, n) lua_newuserdata(L, n)
#define PSI_LUA_USERDATA_1(L, n) lua_newuserdata(L, n)
#define PSI_LUA_GETVALUE(L, i) lua_getfenv(L, i)
#define PSI_LUA_SETVALUE(L, i) ((void)lua_setfenv(L, i))
#endif

#if LUA_VERSION_NUM >= 502
#define PSI_LUA_LENGTH(L, i) ((size_t)lua_rawlen(L, i))
#else
#define PSI_LUA_LENGTH(L, i) lua_objlen(L, i)
#endif

#if LUA_VERSION_NUM < 503 && !defined(LUA_LJDIR)
#define PSI_LUA_MARKS 1 /* no telling whether a yield will succeed: see psi_lua_mark */
#else
#define PSI_LUA_MARKS 0
#endif

#define PSI_LUA_DEPTH 150 /* not every version keeps coroutines that resume each other from using up the C stack */

/* Resumes co and drops what it yields or returns: a coroutine that has ended leaves nothing on its stack. *marked: the
   yield was one of ours (see psi_lua_mark). */
static int psi_lua_switch(lua_State *co, lua_State *L, int nargs, const void *mark, int *marked)
{
    int status;
#if LUA_VERSION_NUM >= 504
    int results = 0;
    status = lua_resume(co, L, nargs, &results);
    if ((status == LUA_YIELD || status == 0) && results) lua_pop(co, results);
#elif LUA_VERSION_NUM >= 502
    status = lua_resume(co, L, nargs);
#else
    (void)L;
    status = lua_resume(co, nargs);
#endif
    *marked = !PSI_LUA_MARKS || (lua_gettop(co) && lua_touserdata(co, 1) == mark);
#if LUA_VERSION_NUM < 504
    if (status == LUA_YIELD || status == 0) lua_settop(co, 0);
#endif
    return status;
}

/* Closes the to-be-closed variables of a coroutine that has failed. */
static void psi_lua_unwind(lua_State *co, lua_State *L)
{
#if LUA_VERSION_NUM >= 505 || (LUA_VERSION_NUM == 504 && LUA_VERSION_RELEASE_NUM >= 50406)
    lua_closethread(co, L);
#elif LUA_VERSION_NUM == 504
    (void)L;
    lua_resetthread(co);
#else
    (void)co;
    (void)L;
#endif
}

/* trace(message, coroutine): the message, if it is a string, with the coroutine's stack behind it. */
static int psi_lua_trace(lua_State *L)
{
    lua_State *co = lua_tothread(L, 2);
    const char *message = lua_type(L, 1) == LUA_TSTRING ? lua_tostring(L, 1) : NULL;
#if LUA_VERSION_NUM >= 502 || defined(LUA_LJDIR)
    luaL_traceback(L, co, message, 0);
#else
    (void)co;
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "debug");
    if (lua_istable(L, -1)) lua_getfield(L, -1, "traceback");
    else lua_pushnil(L);
    if (lua_isfunction(L, -1)) {
        lua_pushvalue(L, 2);
        lua_pushstring(L, message ? message : "");
        lua_call(L, 2, 1);
    } else {
        lua_pushstring(L, message ? message : "");
    }
#endif
    return 1;
}

enum { PSI_LUA_DEAD, PSI_LUA_SUSPENDED, PSI_LUA_RUNNING };

static int psi_lua_state(lua_State *co)
{
    lua_Debug frame;
    int status = lua_status(co);
    if (status == LUA_YIELD) return PSI_LUA_SUSPENDED;
    if (status) return PSI_LUA_DEAD;
    if (lua_getstack(co, 0, &frame)) return PSI_LUA_RUNNING; /* or it has resumed another one */
    return lua_gettop(co) ? PSI_LUA_SUSPENDED : PSI_LUA_DEAD;
}

/*--- objects */

#define PSI_LUA_SOCKET "psocket.socket" /* metatables in the registry */
#define PSI_LUA_LISTENER "psocket.listener"
#define PSI_LUA_SETTINGS "psocket.tls"
#define PSI_LUA_CLASS "psocket.scheduler" /* the class of schedulers, which are tables */
#define PSI_LUA_CORE "psocket.core"       /* what is in such a table */
#define PSI_LUA_MODULE "psocket"
#define PSI_LUA_WAITERS "psocket.waiters" /* per direction: socket -> coroutine, both weak */
#define PSI_LUA_PARSED "psocket.parsed"   /* table with certificates -> settings made of it, weak keys */
#define PSI_LUA_ASKING "psocket.asking"   /* settings with functions by number, weak values */
#define PSI_LUA_ANCHOR "psocket.anchor"   /* socket in a handshake -> its settings with functions, weak keys */

typedef struct psi_lua_sched psi_lua_sched;

/* One per Lua. Upvalue 1 of every function. */
typedef struct psi_lua_vm {
    psi_lua_sched *scheds; /* all that live */
    psi_lua_sched *at;     /* the scheduler whose task is being resumed, its coroutine (to compare with), and its id */
    lua_State *co;
    uint32_t task;
    uint32_t tickets, ids; /* the last ones given */
    uint32_t ops;          /* sends and receipts of that task since it was resumed */
    int held;              /* how many sockets are PSI_LUA_HELD */
    const void *bytes;     /* what psi_lua_copy is to copy */
    size_t len;
    int copy;              /* psi_lua_copy in the registry */
    struct psi_lua_sock *driven; /* the PSI_LUA_APART socket that an operation was begun on last */
    lua_State *asker;      /* where functions are called that a handshake asks; made with the first settings that do */
    const struct psi_lua_question *question; /* while one is */
    int numbers;           /* of settings, the last one given */
    int depth;             /* how many tasks are being resumed, one from within the other */
} psi_lua_vm;

/* An operation that waits. */
typedef struct psi_lua_slot {
    uint32_t ticket; /* 0: none */
    uint32_t task;   /* the task to wake, in the scheduler `home`; 0: the coroutine is no task of ours */
} psi_lua_slot;

enum { PSI_LUA_IS_SOCKET, PSI_LUA_IS_LISTENER, PSI_LUA_IS_CORE };

/* What can be waited for; begins every object that can. */
typedef struct psi_lua_io {
    psi_lua_slot slot[2]; /* [0] for PSOCKET_READ, [1] for PSOCKET_WRITE */
    psocket_watch *watch; /* of what is no socket, or not to be driven by the poller */
    uint32_t home;        /* the scheduler whose poller it is in; that may be gone */
    uint8_t kind;
    uint8_t interest;     /* events that the poller watches for */
    uint8_t armed;        /* events that wake the slot's task */
    uint8_t noted;        /* events whose waiting coroutine is in PSI_LUA_WAITERS; and PSI_LUA_HELD ... */
} psi_lua_io;

#define PSI_LUA_HELD 16    /* bytes in the socket's buffer are being copied: it must not be touched */
#define PSI_LUA_CLOSING 32 /* and is to be closed afterwards */
#define PSI_LUA_APART 64   /* it is in a handshake that may ask a Lua function: no poller may drive it, only its watch fd */
#define PSI_LUA_SEEN 128   /* nothing was done with it since psi_lua_push_chunk began */

typedef struct psi_lua_limits {
    int timeout; /* milliseconds; 0 none */
} psi_lua_limits;

typedef struct psi_lua_sock psi_lua_sock;
struct psi_lua_sock {
    psi_lua_io io;
    psi_lua_limits limits;
    psocket *s;
};

typedef struct psi_lua_listener {
    psi_lua_io io;
    psi_lua_limits limits;
    psocket *l;
    psocket_error error; /* of accept */
    int burst; /* connections taken since it last waited */
} psi_lua_listener;

/* Their uservalue is a table of the functions they ask: [1] decide, [2] clock. */
typedef struct psi_lua_settings {
    psocket_tls *tls;
    psi_lua_vm *vm;
    int number; /* in PSI_LUA_ASKING; 0 if there is nothing to ask */
} psi_lua_settings;

enum { PSI_LUA_IDLE, PSI_LUA_YIELDED, PSI_LUA_WOKEN };
enum { PSI_LUA_INNER = 1, PSI_LUA_DIRECT }; /* a coroutine inside the task waits, or the task itself */

typedef struct psi_lua_task {
    lua_State *co;    /* kept alive by the scheduler's table; NULL: unused */
    int64_t deadline; /* to be resumed no later; INT64_MAX none */
    psocket_watch *watch; /* its timer */
    int64_t timer;    /* when the poller's timer for it goes off; INT64_MAX none */
    uint32_t next;    /* in the queue of the ready, or of the unused */
    uint16_t age;     /* how often this place was used: part of the task's id */
    uint8_t queued;   /* PSI_LUA_IDLE, PSI_LUA_YIELDED by itself, or PSI_LUA_WOKEN */
    uint8_t waits;    /* since it was last resumed it has said what it waits for: PSI_LUA_INNER or PSI_LUA_DIRECT */
} psi_lua_task;

/* A scheduler. Its uservalue is a table: [0] the memory of tasks and map, [2i - 1] the coroutine of task i, [2i] the
   socket to close with it, or false. */
struct psi_lua_sched {
    psi_lua_io io; /* for waiting for it in another scheduler */
    psi_lua_vm *vm;
    psi_lua_sched *next;
    psocket_poller *poller; /* NULL once closed */
    psi_lua_task *tasks;    /* [1] to [count] */
    uint32_t *map;          /* hash table from coroutines to tasks, twice as many entries */
    uint32_t count, live, unused;
    uint32_t first, last;   /* the queue */
    uint32_t ready, woken;  /* its length, and how many in it are PSI_LUA_WOKEN */
    uint32_t id;
    uint32_t inside;        /* how many of its tasks are being resumed */
    uint32_t ran;           /* how many were, and turns begun, since psi_lua_bury */
    uint8_t told;           /* yieldfunc is being called */
};

static psi_lua_vm *psi_lua_here(lua_State *L)
{
    return (psi_lua_vm *)lua_touserdata(L, lua_upvalueindex(1));
}

static int psi_lua_yieldable(lua_State *L)
{
#if LUA_VERSION_NUM >= 503 || (defined(LUAJIT_VERSION_NUM) && LUAJIT_VERSION_NUM >= 20100)
    return lua_isyieldable(L);
#else
    int first = lua_pushthread(L);
    lua_pop(L, 1);
    return !first && psi_lua_here(L)->asker != L; /* the first thread of all is no coroutine */
#endif
}

/* The socket at 1, even if it must not be touched. Upvalue 2 is its metatable. */
static psi_lua_sock *psi_lua_any_self(lua_State *L)
{
    psi_lua_sock *k = (psi_lua_sock *)lua_touserdata(L, 1);
    if (k && lua_getmetatable(L, 1)) {
        int same = lua_rawequal(L, -1, lua_upvalueindex(2));
        lua_pop(L, 1);
        if (same) return k;
    }
    return (psi_lua_sock *)luaL_checkudata(L, 1, PSI_LUA_SOCKET);
}

static psi_lua_listener *psi_lua_listening(lua_State *L)
{
    return (psi_lua_listener *)luaL_checkudata(L, 1, PSI_LUA_LISTENER);
}

static void psi_lua_setmetatable(lua_State *L, const char *name)
{
    lua_getfield(L, LUA_REGISTRYINDEX, name);
    lua_setmetatable(L, -2);
}

static psi_lua_sock *psi_lua_new_sock(lua_State *L)
{
    psi_lua_sock *k = (psi_lua_sock *)PSI_LUA_USERDATA(L, sizeof *k);
    memset(k, 0, sizeof *k);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_setmetatable(L, -2);
    return k;
}

/* A whole number, as an integer where there are some. */
static void psi_lua_push_count(lua_State *L, double n)
{
#if LUA_VERSION_NUM >= 503
    if (n >= -2147483648.0 && n <= (sizeof(lua_Integer) > 4 ? 9e15 : 2147483647.0)) lua_pushinteger(L, (lua_Integer)n);
    else lua_pushnumber(L, (lua_Number)n);
#else
    lua_pushnumber(L, (lua_Number)n);
#endif
}

/*--- fields of the table on top */

static void psi_lua_set_hex(lua_State *L, const char *name, const uint8_t *digest)
{
    char text[64];
    int i;
    for (i = 0; i < 64; i++) text[i] = "0123456789abcdef"[digest[i / 2] >> (i & 1 ? 0 : 4) & 15];
    lua_pushlstring(L, text, 64);
    lua_setfield(L, -2, name);
}

static void psi_lua_set_text(lua_State *L, const char *name, const char *text)
{
    if (!*text) return;
    lua_pushstring(L, text);
    lua_setfield(L, -2, name);
}

static void psi_lua_set_number(lua_State *L, const char *name, double value)
{
    psi_lua_push_count(L, value);
    lua_setfield(L, -2, name);
}

/*--- failures */

static int psi_lua_fail(lua_State *L, int code, const char *text)
{
    const char *name = psocket_codename(code);
    lua_pushnil(L);
    lua_pushstring(L, text && *text ? text : psocket_strerror(code));
    lua_pushstring(L, name ? name : "OS");
    return 3;
}

static int psi_lua_fail_error(lua_State *L, int code, const psocket_error *e)
{
    return psi_lua_fail(L, code, e->code == code ? e->text : NULL);
}

/* With the socket's own words, if they are about this. */
static int psi_lua_fail_sock(lua_State *L, const psi_lua_sock *k, int code)
{
    psocket_error e;
    if (code == PSOCKET_BUSY || code == PSOCKET_CLOSED || code == PSOCKET_CLOSED_HERE)
        return psi_lua_fail(L, code, NULL);
    psocket_geterror(k->s, &e);
    return psi_lua_fail_error(L, code, &e);
}

static int psi_lua_fail_listener(lua_State *L, const psi_lua_listener *l, int code)
{
    psocket_error e;
    if (code == PSOCKET_BUSY || code == PSOCKET_TIMEOUT) return psi_lua_fail(L, code, NULL);
    psocket_geterror(l->l, &e);
    return psi_lua_fail_error(L, code, &e);
}

/*--- arguments */

/* The number on top of the stack, seconds, as milliseconds rounded up; 0 for none. Pops it. */
static int psi_lua_pop_ms(lua_State *L, int arg, const char *name)
{
    double ms = (double)lua_tonumber(L, -1) * 1000;
    int whole = 0;
    if (!lua_isnil(L, -1) && (!lua_isnumber(L, -1) || !(ms >= 0)))
        luaL_argerror(L, arg, lua_pushfstring(L, "%s is not a time in seconds", name));
    if (ms < INT_MAX) { /* more is for ever */
        whole = (int)ms;
        if (whole < ms) whole++;
    }
    lua_pop(L, 1);
    return whole;
}

static int psi_lua_field_ms(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    return psi_lua_pop_ms(L, table, name);
}

/* A whole number from 0 to most; 0 if it is not there. */
static size_t psi_lua_field_count(lua_State *L, int table, const char *name, size_t most)
{
    double n;
    lua_getfield(L, table, name);
    n = (double)lua_tonumber(L, -1);
    if (!lua_isnil(L, -1) && (!lua_isnumber(L, -1) || !(n >= 0) || n > (double)most || n != (double)(size_t)n))
        luaL_argerror(L, table, lua_pushfstring(L, "%s is not a whole number in range", name));
    lua_pop(L, 1);
    return (size_t)n;
}

static int psi_lua_field_true(lua_State *L, int table, const char *name)
{
    int yes;
    lua_getfield(L, table, name);
    yes = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return yes;
}

/* The options table at index, if there is one: 1 or 0. */
static int psi_lua_has_options(lua_State *L, int index)
{
    if (lua_isnoneornil(L, index)) return 0;
    luaL_checktype(L, index, LUA_TTABLE);
    return 1;
}

/* The time limits of one operation: the object's, unless the options at index name others. */
static psi_lua_limits psi_lua_get_limits(lua_State *L, int index, const psi_lua_limits *own)
{
    psi_lua_limits l = *own;
    if (!psi_lua_has_options(L, index)) return l;
    lua_getfield(L, index, "timeout");
    if (lua_isnil(L, -1)) lua_pop(L, 1);
    else l.timeout = psi_lua_pop_ms(L, index, "timeout");
    return l;
}

/* Options of a new socket or listener from the table (or the word "udp") at index. */
static void psi_lua_get_options(lua_State *L, int index, psocket_options *o, psocket_error *e)
{
    memset(o, 0, sizeof *o);
    memset(e, 0, sizeof *e);
    o->nonblocking = 1;
    o->error = e;
    if (lua_type(L, index) == LUA_TSTRING) {
        const char *word = lua_tostring(L, index);
        luaL_argcheck(L, strcmp(word, "udp") == 0 || strcmp(word, "tcp") == 0, index,
                      "\"udp\", \"tcp\" or a table expected");
        o->udp = word[0] == 'u';
        return;
    }
    if (!psi_lua_has_options(L, index)) return;
    o->udp = psi_lua_field_true(L, index, "udp");
    o->timeout_ms = psi_lua_field_ms(L, index, "timeout");
    o->attempt_delay_ms = psi_lua_field_ms(L, index, "attempt_delay");
    o->backlog = (int)psi_lua_field_count(L, index, "backlog", 65535);
    o->recv_limit = psi_lua_field_count(L, index, "recv_limit", 0x3fffffff);
}

/* The string at index, which C must not take for a shorter one. */
static const char *psi_lua_get_text(lua_State *L, int index)
{
    size_t len;
    const char *text = luaL_checklstring(L, index, &len);
    luaL_argcheck(L, strlen(text) == len, index, "contains a zero byte");
    return text;
}

/* The port at index, or -1 if it is a number but no port. */
static int psi_lua_get_port(lua_State *L, int index)
{
    double port = (double)luaL_checknumber(L, index);
    return port >= 0 && port <= 65535 && port == (double)(int)port ? (int)port : -1;
}

/* Where to listen: a port, or an address with or without one. */
static const char *psi_lua_get_address(lua_State *L, int index, int *port)
{
    *port = 0;
    if (lua_isnumber(L, index)) {
        *port = psi_lua_get_port(L, index);
        return NULL;
    }
    luaL_argcheck(L, lua_type(L, index) == LUA_TSTRING, index, "port or \"address:port\" expected");
    return psi_lua_get_text(L, index);
}

/*--- tasks */

#define PSI_LUA_INDEX_BITS 22
#define PSI_LUA_MOST_TASKS ((1u << PSI_LUA_INDEX_BITS) - 1)

static uint32_t psi_lua_id(const psi_lua_sched *S, uint32_t i)
{
    return i | (uint32_t)S->tasks[i].age << PSI_LUA_INDEX_BITS;
}

/* The task with this id, or 0 if it is gone. */
static uint32_t psi_lua_lookup(const psi_lua_sched *S, uint32_t id)
{
    uint32_t i = id & PSI_LUA_MOST_TASKS;
    return i && i <= S->count && S->tasks[i].co && S->tasks[i].age == id >> PSI_LUA_INDEX_BITS ? i : 0;
}

static psi_lua_sched *psi_lua_find_sched(const psi_lua_vm *vm, uint32_t id)
{
    psi_lua_sched *S = vm->scheds;
    while (S && S->id != id) S = S->next;
    return S;
}

static uint32_t psi_lua_map_home(const psi_lua_sched *S, const lua_State *co)
{
    return (uint32_t)((uint64_t)(uintptr_t)co * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (2 * S->count - 1);
}

/* The task that runs in this coroutine, or 0. */
static uint32_t psi_lua_find_task(const psi_lua_sched *S, const lua_State *co)
{
    uint32_t at;
    if (!S->count) return 0;
    for (at = psi_lua_map_home(S, co); S->map[at]; at = (at + 1) & (2 * S->count - 1))
        if (S->tasks[S->map[at]].co == co) return S->map[at];
    return 0;
}

static void psi_lua_map_add(psi_lua_sched *S, uint32_t i)
{
    uint32_t at = psi_lua_map_home(S, S->tasks[i].co);
    while (S->map[at]) at = (at + 1) & (2 * S->count - 1);
    S->map[at] = i;
}

static void psi_lua_map_remove(psi_lua_sched *S, uint32_t i)
{
    uint32_t mask = 2 * S->count - 1, hole = psi_lua_map_home(S, S->tasks[i].co), at;
    while (S->map[hole] != i) hole = (hole + 1) & mask;
    for (at = (hole + 1) & mask; S->map[at]; at = (at + 1) & mask) {
        uint32_t home = psi_lua_map_home(S, S->tasks[S->map[at]].co);
        if (((at - home) & mask) < ((at - hole) & mask)) continue; /* it would come before its home */
        S->map[hole] = S->map[at];
        hole = at;
    }
    S->map[hole] = 0;
}

/* Room for twice as many tasks. table is the index of the scheduler's table. */
static void psi_lua_grow(lua_State *L, psi_lua_sched *S, int table)
{
    uint32_t i, count = S->count ? 2 * S->count : 16;
    size_t size = ((size_t)count + 1) * sizeof(psi_lua_task);
    psi_lua_task *tasks;
    if (count > PSI_LUA_MOST_TASKS) luaL_error(L, "too many tasks");
    tasks = (psi_lua_task *)PSI_LUA_USERDATA(L, size + 2 * (size_t)count * sizeof *S->map);
    memset((void *)tasks, 0, size + 2 * (size_t)count * sizeof *S->map);
    if (S->count) memcpy((void *)tasks, S->tasks, ((size_t)S->count + 1) * sizeof *tasks);
    lua_rawseti(L, table, 0); /* the old memory goes with the next collection, not before the lines below */
    for (i = count; i > S->count; i--) {
        tasks[i].next = S->unused;
        S->unused = i;
    }
    S->tasks = tasks;
    S->map = (uint32_t *)(void *)((char *)tasks + size);
    S->count = count;
    for (i = 1; i <= count; i++)
        if (tasks[i].co) psi_lua_map_add(S, i);
}

/* Makes the coroutine at index a task. */
static uint32_t psi_lua_new_task(lua_State *L, psi_lua_sched *S, int table, int index)
{
    psi_lua_task *t;
    uint32_t i;
    if (!S->unused) psi_lua_grow(L, S, table);
    i = S->unused;
    lua_pushboolean(L, 0);
    lua_rawseti(L, table, (int)(2 * i));
    lua_pushvalue(L, index);
    lua_rawseti(L, table, (int)(2 * i - 1));
    t = &S->tasks[i];
    S->unused = t->next;
    t->co = lua_tothread(L, index);
    t->deadline = t->timer = INT64_MAX;
    t->queued = PSI_LUA_IDLE;
    t->waits = 0;
    S->live++;
    psi_lua_map_add(S, i);
    return i;
}

static void psi_lua_enqueue(psi_lua_sched *S, uint32_t i, int how)
{
    psi_lua_task *t = &S->tasks[i];
    if (how == PSI_LUA_WOKEN && t->queued != PSI_LUA_WOKEN) S->woken++;
    if (t->queued) {
        if (how == PSI_LUA_WOKEN) t->queued = PSI_LUA_WOKEN;
        return;
    }
    t->queued = (uint8_t)how;
    t->next = 0;
    if (S->ready++) S->tasks[S->last].next = i;
    else S->first = i;
    S->last = i;
}

/* There is something new for this scheduler to do: wakes whoever waits for it in another one, and so on. */
static void psi_lua_stir(psi_lua_sched *S)
{
    while (S && S->io.armed) {
        psi_lua_sched *outer = psi_lua_find_sched(S->vm, S->io.home);
        uint32_t i = outer ? psi_lua_lookup(outer, S->io.slot[0].task) : 0;
        S->io.armed = 0;
        if (i) psi_lua_enqueue(outer, i, PSI_LUA_WOKEN);
        S = outer;
    }
}

/* Has the task resumed in the next turn. */
static void psi_lua_queue(psi_lua_sched *S, uint32_t i, int how)
{
    psi_lua_enqueue(S, i, how);
    psi_lua_stir(S);
}

static uint32_t psi_lua_unqueue(psi_lua_sched *S)
{
    uint32_t i = S->first;
    psi_lua_task *t = &S->tasks[i];
    S->first = t->next;
    S->ready--;
    if (t->queued == PSI_LUA_WOKEN) S->woken--;
    t->queued = PSI_LUA_IDLE;
    if (t->co) return i;
    t->next = S->unused; /* it ended while it was in the queue */
    S->unused = i;
    return 0;
}

static void *psi_lua_timer_key(uint32_t i)
{
    return (void *)((uintptr_t)i * 2 + 1); /* odd: no object's address */
}

/* The task is to be resumed by then. The timer is left alone if it goes off earlier: it is set anew when it does. */
static int psi_lua_set_deadline(psi_lua_sched *S, uint32_t i, int64_t due)
{
    psi_lua_task *t = &S->tasks[i];
    int64_t left;
    int r;
    if (due < t->deadline) t->deadline = due;
    if (t->deadline >= t->timer) return 0;
    left = t->deadline - psocket_now();
    r = psocket_poller_watch(S->poller, &t->watch, -1, 0, left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left, psi_lua_timer_key(i));
    if (!r) t->timer = t->deadline;
    psi_lua_stir(S);
    return r;
}

/* The scheduler and task that L runs for: its own; or, for a coroutine inside a task, that task's (*inner is 1). */
static psi_lua_sched *psi_lua_whose(const psi_lua_vm *vm, const lua_State *L, uint32_t *task, int *inner)
{
    psi_lua_sched *S;
    *inner = 0;
    if (vm->co != L) {
        for (S = vm->scheds; S; S = S->next)
            if ((*task = psi_lua_find_task(S, L)) != 0) return S;
        *inner = 1;
    }
    *task = vm->at ? psi_lua_lookup(vm->at, vm->task) : 0;
    return *task ? vm->at : NULL;
}

/*--- waiting */

/* The stack of an operation: its arguments, then what it has to remember, if there is anything. */
enum {
    PSI_LUA_ARGS = 4,
    PSI_LUA_TICKET, /* used without lua_yieldk only */
    PSI_LUA_OBJECT, /* the socket being made, or settings */
    PSI_LUA_DUE,    /* when its time is over, */
    PSI_LUA_STALL,  /* or sooner if nothing moves, */
    PSI_LUA_DONE,   /* that is, while this stays as it is */
    PSI_LUA_TOP = PSI_LUA_DONE
};

#define PSI_LUA_AGAIN (-1)
#define PSI_LUA_OP_BITS 4 /* psi_lua_again's context, an int in Lua 5.2: the operation, and its ticket */
#define PSI_LUA_MOST_TICKETS 0x7ffffffu

/* An operation, each time it is tried. */
typedef struct psi_lua_op {
    psi_lua_vm *vm;
    psi_lua_io *io;  /* what it waits for, */
    int index;       /* where on the stack that is, */
    int claims;      /* and in which of its slots no other may wait meanwhile */
    uint32_t ticket; /* of the slots it waits in; 0: it has not waited yet */
    psi_lua_limits limits;
} psi_lua_op;

static void psi_lua_remember(lua_State *L, int index, double value)
{
    if (lua_gettop(L) < index) lua_settop(L, index);
    lua_pushnumber(L, (lua_Number)value);
    lua_replace(L, index);
}

/* Has the scheduler's poller watch for events on io, and nothing else. */
static int psi_lua_watch(psi_lua_sched *S, psi_lua_io *io, int events)
{
    int r = 0;
    void *user = io;
    psocket_watch_free(io->watch);
    io->watch = NULL;
    if (io->noted & PSI_LUA_APART) {
        psocket_pollfd fds[PSOCKET_POLLSET_MAX];
        int ms = -1, n = psocket_pollset(((psi_lua_sock *)user)->s, events ? events : PSOCKET_READ, fds, 1, &ms);
        if (n < 1) r = PSOCKET_UNSUPPORTED; /* it is tried in every turn */
        else if (events) r = psocket_poller_watch(S->poller, &io->watch, fds[0].fd, fds[0].events, ms, user);
    } else if (io->kind == PSI_LUA_IS_SOCKET) {
        r = psocket_poller_set(S->poller, ((psi_lua_sock *)user)->s, events, -1, user);
    } else if (io->kind == PSI_LUA_IS_LISTENER) {
        r = psocket_poller_set(S->poller, ((psi_lua_listener *)user)->l, events, -1, user);
    } else {
        psocket_fd fd = psocket_poller_getfd(((psi_lua_sched *)user)->poller, NULL);
        if (events) r = psocket_poller_watch(S->poller, &io->watch, fd, events, -1, user);
    }
    if (r >= 0) io->interest = (uint8_t)events;
    return r;
}

/* Takes io out of the poller it is in. */
static void psi_lua_forget(psi_lua_vm *vm, psi_lua_io *io)
{
    psi_lua_sched *S = psi_lua_find_sched(vm, io->home);
    if (S && S->poller && io->interest) psi_lua_watch(S, io, 0);
    psocket_watch_free(io->watch);
    io->watch = NULL;
    io->interest = io->armed = 0;
}

/* Wakes whoever waits for io. */
static void psi_lua_wake(psi_lua_vm *vm, psi_lua_io *io)
{
    psi_lua_sched *S = psi_lua_find_sched(vm, io->home);
    int way;
    for (way = 0; S && way < 2; way++) {
        uint32_t i = io->slot[way].ticket ? psi_lua_lookup(S, io->slot[way].task) : 0;
        if (i) psi_lua_queue(S, i, PSI_LUA_WOKEN);
    }
    io->armed = 0;
}

static void psi_lua_shut(psi_lua_vm *vm, psi_lua_sock *k)
{
    if ((k->io.noted & PSI_LUA_HELD) || (vm->question && vm->driven == k)) {
        k->io.noted |= PSI_LUA_CLOSING;
        return;
    }
    psi_lua_wake(vm, &k->io);
    psi_lua_forget(vm, &k->io);
    psocket_close(k->s);
}

/* Before anything is done with a PSI_LUA_APART socket. It is taken out of the poller while its descriptor is still open;
   whoever waits for it puts it back. */
static void psi_lua_drive(lua_State *L, psi_lua_sock *k)
{
    psi_lua_vm *vm = psi_lua_here(L);
    if (vm->question) luaL_error(L, "decide and clock must not use a socket that is in a handshake");
    if (k->io.noted & PSI_LUA_CLOSING) {
        k->io.noted = (uint8_t)(k->io.noted & ~PSI_LUA_CLOSING);
        psi_lua_shut(vm, k);
    }
    vm->driven = k;
    if (!vm->at || vm->at->id != k->io.home || (vm->task != k->io.slot[0].task && vm->task != k->io.slot[1].task))
        psi_lua_wake(vm, &k->io);
    psi_lua_forget(vm, &k->io);
}

static psi_lua_sock *psi_lua_self(lua_State *L)
{
    psi_lua_sock *k = psi_lua_any_self(L);
    if (k->io.noted & PSI_LUA_HELD) luaL_error(L, "the socket is being read: this finalizer came in between");
    if (k->io.noted & PSI_LUA_APART) psi_lua_drive(L, k);
    k->io.noted = (uint8_t)(k->io.noted & ~PSI_LUA_SEEN);
    return k;
}

/* Does an operation still wait in this slot? Its task may be gone, its coroutine dead or collected. io is at index. */
static int psi_lua_occupied(lua_State *L, psi_lua_vm *vm, const psi_lua_io *io, int index, int event)
{
    const psi_lua_slot *slot = &io->slot[event >> 1];
    lua_State *co;
    int yes;
    if (!slot->ticket) return 0;
    if (slot->task) {
        const psi_lua_sched *S = psi_lua_find_sched(vm, io->home);
        uint32_t i = S ? psi_lua_lookup(S, slot->task) : 0;
        if (!i) return 0;
        if (!(io->noted & event)) return S->tasks[i].waits && psi_lua_state(S->tasks[i].co) == PSI_LUA_SUSPENDED;
    }
    if (!(io->noted & event)) return 0;
    lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_WAITERS);
    lua_rawgeti(L, -1, event);
    lua_pushvalue(L, index);
    lua_rawget(L, -2);
    co = lua_tothread(L, -1);
    yes = co && psi_lua_state(co) == PSI_LUA_SUSPENDED;
    lua_pop(L, 3);
    return yes;
}

/* Notes that L itself waits for io, for psi_lua_occupied. */
static void psi_lua_note(lua_State *L, psi_lua_io *io, int index, int event)
{
    lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_WAITERS);
    lua_rawgeti(L, -1, event);
    lua_pushvalue(L, index);
    lua_pushthread(L);
    lua_rawset(L, -3);
    lua_pop(L, 2);
    io->noted = (uint8_t)(io->noted | event);
}

/* Sees to it that S hears of event on io: 0, or an error if that cannot be. */
static int psi_lua_adopt(lua_State *L, psi_lua_vm *vm, psi_lua_sched *S, psi_lua_io *io, int index, int event)
{
    if (io->home != S->id) {
        int other = PSOCKET_READ + PSOCKET_WRITE - event;
        if (io->slot[other >> 1].task) {
            if (psi_lua_occupied(L, vm, io, index, other)) return PSOCKET_BUSY; /* it is in that task's poller */
            io->slot[other >> 1].ticket = io->slot[other >> 1].task = 0;
        }
        psi_lua_forget(vm, io);
        io->home = S->id;
    }
    if ((io->interest & event) && !(io->noted & PSI_LUA_APART)) return 0;
    psi_lua_stir(S);
    return psi_lua_watch(S, io, io->interest | event);
}

/* Notes that L waits until io (at index) is ready for event, or until due. One of our schedulers then resumes it in
   time; any other just has it try again. fresh: a new ticket. */
static void psi_lua_park(lua_State *L, psi_lua_vm *vm, psi_lua_io *io, int index, int event, int64_t due, int fresh)
{
    psi_lua_slot *slot = &io->slot[event >> 1];
    int inner;
    uint32_t i;
    psi_lua_sched *S = psi_lua_whose(vm, L, &i, &inner);
    if (S && psi_lua_adopt(L, vm, S, io, index, event)) S = NULL;
    if (S && due != INT64_MAX && psi_lua_set_deadline(S, i, due)) S = NULL;
    if ((!S || inner) && (fresh || !(io->noted & event))) psi_lua_note(L, io, index, event);
    slot->task = S ? psi_lua_id(S, i) : 0;
    if (!S) return;
    io->armed = (uint8_t)(io->armed | event);
    S->tasks[i].waits = inner ? PSI_LUA_INNER : PSI_LUA_DIRECT;
}

/* Before an operation tries: PSOCKET_BUSY if another one waits there already. */
static int psi_lua_claim(lua_State *L, const psi_lua_op *op)
{
    const psi_lua_io *io = op->io;
    int event;
    if (!io->slot[0].ticket && !io->slot[1].ticket) return 0;
    for (event = PSOCKET_READ; event <= PSOCKET_WRITE; event++)
        if ((op->claims & event) && io->slot[event >> 1].ticket && io->slot[event >> 1].ticket != op->ticket &&
            psi_lua_occupied(L, op->vm, io, op->index, event)) return PSOCKET_BUSY;
    return 0;
}

/* After an operation, however it ended. */
static void psi_lua_release(const psi_lua_op *op)
{
    psi_lua_vm *vm = op->vm;
    psi_lua_io *io = op->io;
    int event;
    if (!op->ticket) return; /* it never waited */
    for (event = PSOCKET_READ; event <= PSOCKET_WRITE; event++) {
        psi_lua_slot *slot = &io->slot[event >> 1];
        if (!(op->claims & event) || slot->ticket != op->ticket) continue;
        if (slot->task && !(vm->at && vm->at->id == io->home && vm->task == slot->task)) {
            /* Somebody else has resumed the task: its scheduler has to find out what it does now. */
            psi_lua_sched *S = psi_lua_find_sched(vm, io->home);
            uint32_t i = S ? psi_lua_lookup(S, slot->task) : 0;
            if (i) psi_lua_queue(S, i, PSI_LUA_WOKEN);
        }
        slot->ticket = slot->task = 0;
        io->armed = (uint8_t)(io->armed & ~event);
        io->noted = (uint8_t)(io->noted & ~event);
    }
}

/* When the operation's time is over, INT64_MAX: never. done tells progress. */
static int64_t psi_lua_due(lua_State *L, const psi_lua_limits *limits, int64_t now, double done)
{
    int64_t due = INT64_MAX;
    if (limits->timeout) {
        if (lua_isnoneornil(L, PSI_LUA_DUE)) psi_lua_remember(L, PSI_LUA_DUE, (double)(now + limits->timeout));
        due = (int64_t)lua_tonumber(L, PSI_LUA_DUE);
    }
    (void)done;
    return due;
}

/* The operation has to wait until io is ready for event: 1 after waiting, 0 if it is to yield, or PSOCKET_TIMEOUT or
   another error. done tells progress. */
static int psi_lua_wait(lua_State *L, psi_lua_op *op, int event, double done)
{
    psi_lua_vm *vm = op->vm;
    psi_lua_io *io = op->io;
    int64_t due = INT64_MAX, now = 0;
    int fresh = !op->ticket, way, ms = -1, r;
    if (op->limits.timeout) {
        now = psocket_now();
        due = psi_lua_due(L, &op->limits, now, done);
        if (now >= due) return PSOCKET_TIMEOUT;
        ms = due - now > INT_MAX ? INT_MAX : (int)(due - now);
    }
    if ((double)lua_tonumber(L, PSI_LUA_DONE) != done) psi_lua_remember(L, PSI_LUA_DONE, done);
    if (!psi_lua_yieldable(L)) {
        if (io->kind == PSI_LUA_IS_LISTENER) {
            psocket_wait(((psi_lua_listener *)(void *)io)->l, PSOCKET_READ, ms);
            return 1; /* accept tells what came of it */
        }
        r = psocket_wait(((psi_lua_sock *)(void *)io)->s, event, ms);
        if (r == 0 && ms < 0) return PSOCKET_TIMEOUT; /* one end of a pair: nothing would ever come */
        return r < 0 ? r : 1;
    }
    if (fresh) op->ticket = vm->tickets = vm->tickets % PSI_LUA_MOST_TICKETS + 1;
    for (way = 0; way < 2; way++) {
        if (!(op->claims & (way + 1)) || io->slot[way].ticket == op->ticket) continue;
        io->slot[way].ticket = op->ticket;
        io->slot[way].task = 0;
        io->armed = (uint8_t)(io->armed & ~(way + 1));
        io->noted = (uint8_t)(io->noted & ~(way + 1));
    }
    psi_lua_park(L, vm, io, op->index, event, due, fresh);
    if (op->claims != event) { /* a handshake holds both directions; events for one are enough */
        io->slot[!(event >> 1)].task = io->slot[event >> 1].task;
        if (io->noted & event) psi_lua_note(L, io, op->index, op->claims & ~event);
    }
    return 0;
}

/*--- operations that wait: each tries, from the start or where it left off, and answers how many results, or AGAIN */

/* Begins to try an operation on the socket at 1, with options at index options (0: it has none). */
static psi_lua_sock *psi_lua_begin(lua_State *L, psi_lua_op *op, int claims, int options)
{
    psi_lua_sock *k = op->ticket ? (psi_lua_sock *)lua_touserdata(L, 1) : NULL; /* checked before */
    if (!k || (k->io.noted & (PSI_LUA_APART | PSI_LUA_HELD | PSI_LUA_SEEN))) k = psi_lua_self(L);
    op->io = &k->io;
    op->index = 1;
    op->claims = claims;
    op->limits = options ? psi_lua_get_limits(L, options, &k->limits) : k->limits;
    return k;
}

/* After psi_lua_wait answered r to an operation on a socket: AGAIN, or the results of its failure. */
static int psi_lua_stop(lua_State *L, psi_lua_op *op, psi_lua_sock *k, int r)
{
    if (r == 0) return PSI_LUA_AGAIN;
    psi_lua_release(op);
    return r == PSOCKET_TIMEOUT ? psi_lua_fail(L, r, NULL) : psi_lua_fail_sock(L, k, r);
}

/* Has the running task done enough for one turn? It then waits although it need not: the others come first. */
static int psi_lua_tired(psi_lua_vm *vm)
{
    if (!vm->at || vm->ops++ < 32) return 0;
    vm->ops = 0;
    return 1;
}

static int psi_lua_is_want(ptrdiff_t r)
{
    return r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE;
}

static int psi_lua_copy(lua_State *L)
{
    const psi_lua_vm *vm = (const psi_lua_vm *)lua_touserdata(L, 1);
    lua_pushlstring(L, (const char *)vm->bytes, vm->len);
    return 1;
}

/* Pushes a string of bytes that lie in k's buffer. Finalizers, which may run meanwhile, cannot touch k. If there is no
   memory the bytes, if they were taken, go back and the error is raised. */
static void psi_lua_push_bytes(lua_State *L, psi_lua_sock *k, const void *data, size_t len, int taken)
{
    psi_lua_vm *vm = psi_lua_here(L);
    const void *outer = vm->bytes; /* if this is in a finalizer that runs before another one's are copied */
    size_t outer_len = vm->len;
    int status, closing;
    vm->bytes = data;
    vm->len = len;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->copy); /* neither a new function, */
    lua_pushvalue(L, lua_upvalueindex(1)); /* nor a light userdata: they may need memory */
    k->io.noted |= PSI_LUA_HELD;
    vm->held++;
    status = lua_pcall(L, 1, 1, 0);
    vm->held--;
    vm->bytes = outer;
    vm->len = outer_len;
    closing = k->io.noted & PSI_LUA_CLOSING;
    k->io.noted = (uint8_t)(k->io.noted & ~(PSI_LUA_HELD | PSI_LUA_CLOSING));
    if (status && taken) psocket_unrecv(k->s, data, len);
    if (closing) psi_lua_shut(vm, k);
    if (status) lua_error(L);
}

/* Pushes the oldest chunk, n bytes at data, without taking it: 0 if it has to be looked for again, since a finalizer has
   taken it meanwhile. */
static int psi_lua_push_chunk(lua_State *L, psi_lua_sock *k, const void *data, size_t n)
{
#if LUA_VERSION_NUM >= 503
    k->io.noted |= PSI_LUA_SEEN;
    lua_pushlstring(L, (const char *)data, n); /* copies, then collects garbage */
    if (k->io.noted & PSI_LUA_SEEN) {
        k->io.noted = (uint8_t)(k->io.noted & ~PSI_LUA_SEEN);
        return 1;
    }
#else
    char copy[2048]; /* these collect garbage first */
    if (n > sizeof copy) {
        psi_lua_push_bytes(L, k, data, n, 0);
        return 1;
    }
    memcpy(copy, data, n);
    lua_pushlstring(L, copy, n);
#endif
    if (psocket_peek(k->s, &data) == (ptrdiff_t)n && memcmp(lua_tostring(L, -1), data, n) == 0) return 1;
    lua_pop(L, 1);
    return 0;
}

/* Receives what ends with the delimiter, within n bytes; or without one, n bytes; or if n is 0, a chunk. */
static int psi_lua_receive(lua_State *L, psi_lua_op *op, psi_lua_sock *k, const char *delimiter, size_t n)
{
    int r = psi_lua_claim(L, op);
    while (r >= 0) {
        const void *data;
        ptrdiff_t got = PSOCKET_WANT_READ;
        if (psi_lua_tired(op->vm)) { /* what an earlier read found too little is enough to be woken for */
            if (psocket_pending(k->s)) psocket_peek(k->s, &data);
        } else if (delimiter) got = psocket_read_until(k->s, delimiter, n, &data);
        else if (n) got = psocket_read(k->s, n, &data);
        else got = psocket_peek(k->s, &data);
        if (got >= 0) {
            psi_lua_release(op);
            if (n) {
                psi_lua_push_bytes(L, k, data, (size_t)got, 1);
                return 1;
            }
            if (!psi_lua_push_chunk(L, k, data, (size_t)got)) {
                r = psi_lua_claim(L, op);
                continue;
            }
            psocket_recv(k->s, &data); /* only now that there is a string of it */
            return 1;
        }
        r = psi_lua_is_want(got) ? psi_lua_wait(L, op, PSOCKET_READ, (double)psocket_pending(k->s)) : (int)got;
        if (r <= 0) break;
    }
    return psi_lua_stop(L, op, k, r);
}

static int psi_lua_try_recv(lua_State *L, psi_lua_op *op)
{
    psi_lua_sock *k = psi_lua_begin(L, op, PSOCKET_READ, 2);
    return psi_lua_receive(L, op, k, NULL, 0);
}

static int psi_lua_try_read(lua_State *L, psi_lua_op *op)
{
    psi_lua_sock *k = psi_lua_begin(L, op, PSOCKET_READ, 3);
    double n = (double)luaL_checknumber(L, 2);
    luaL_argcheck(L, n >= 0 && n <= 0x7fffffff && n == (double)(uint32_t)n, 2, "a number of bytes expected");
    if (n > 0) return psi_lua_receive(L, op, k, NULL, (size_t)n);
    lua_pushliteral(L, "");
    return 1;
}

static int psi_lua_try_read_until(lua_State *L, psi_lua_op *op)
{
    int options = lua_istable(L, 3) ? 3 : 4; /* the limit may be left out */
    psi_lua_sock *k = psi_lua_begin(L, op, PSOCKET_READ, options);
    size_t len, max = (size_t)-1;
    const char *delimiter = luaL_checklstring(L, 2, &len);
    luaL_argcheck(L, len > 0 && strlen(delimiter) == len, 2, "the delimiter must not be empty or contain a zero byte");
    if (options == 4 && !lua_isnoneornil(L, 3)) {
        double most = (double)luaL_checknumber(L, 3);
        luaL_argcheck(L, most >= 1, 3, "a number of bytes expected");
        if (most < 0x7fffffff) max = (size_t)most;
    }
    return psi_lua_receive(L, op, k, delimiter, max);
}

static int psi_lua_try_send(lua_State *L, psi_lua_op *op)
{
    psi_lua_sock *k = psi_lua_begin(L, op, PSOCKET_WRITE, 3);
    size_t len, done = op->ticket ? (size_t)lua_tonumber(L, PSI_LUA_DONE) : 0;
    const char *data = luaL_checklstring(L, 2, &len);
    int r = psi_lua_claim(L, op);
    while (r >= 0) {
        ptrdiff_t n;
        do {
            n = psi_lua_tired(op->vm) ? (ptrdiff_t)PSOCKET_WANT_WRITE
                : done < len || !len ? psocket_send(k->s, data + done, len - done) : 0;
            if (n > 0) done += (size_t)n;
        } while (n >= 0 && done < len);
        if (n >= 0) n = psocket_flush(k->s);
        if (n >= 0) {
            psi_lua_release(op);
            lua_pushboolean(L, 1);
            return 1;
        }
        r = psi_lua_is_want(n) ? psi_lua_wait(L, op, PSOCKET_WRITE, (double)done) : (int)n;
        if (r <= 0) break;
    }
    r = psi_lua_stop(L, op, k, r);
    if (r == PSI_LUA_AGAIN) return r;
    lua_pushnumber(L, (lua_Number)done); /* how much the peer may get */
    return r + 1;
}

static int psi_lua_try_shutdown(lua_State *L, psi_lua_op *op)
{
    static const char *const ways[] = { "send", NULL };
    psi_lua_sock *k = psi_lua_begin(L, op, PSOCKET_WRITE, 0);
    int r = psi_lua_claim(L, op);
    luaL_checkoption(L, 2, "send", ways);
    while (r >= 0) {
        int n = psocket_shutdown(k->s);
        if (n >= 0) {
            psi_lua_release(op);
            lua_pushboolean(L, 1);
            return 1;
        }
        r = psi_lua_is_want(n) ? psi_lua_wait(L, op, PSOCKET_WRITE, 0) : n;
        if (r <= 0) break;
    }
    return psi_lua_stop(L, op, k, r);
}

/* The addresses that options.resolve returned, each ended by a zero, the last by two. */
static void psi_lua_resolved(void *user, psocket_resolve *r, const char *host)
{
    const char *ip = (const char *)user;
    int code = PSOCKET_DNS_NOT_FOUND;
    (void)host;
    for (; *ip; ip += strlen(ip) + 1)
        if (psocket_resolve_add(r, ip) == 0) code = 0;
    psocket_resolve_done(r, code);
}

/* Makes that text of the string or list at index, in a userdata on top of the stack. */
static void *psi_lua_addresses(lua_State *L, int index)
{
    size_t i, n = lua_istable(L, index) ? PSI_LUA_LENGTH(L, index) : 1, size = 1, room = 0;
    char *text;
    for (;;) { /* once to measure, once to copy */
        text = size > 1 ? (char *)PSI_LUA_USERDATA(L, size) : NULL;
        room = size;
        size = 1;
        for (i = 1; i <= n; i++) {
            size_t len;
            const char *ip;
            if (lua_istable(L, index)) lua_rawgeti(L, index, (int)i);
            else lua_pushvalue(L, index);
            if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "options.resolve must return addresses (strings)");
            ip = lua_tostring(L, -1);
            len = strlen(ip);
            if (text && size + len + 1 > room) luaL_error(L, "the list of addresses has changed"); /* by a finalizer */
            if (text && len) memcpy(text + size - 1, ip, len + 1);
            if (len) size += len + 1;
            lua_pop(L, 1);
        }
        if (text) {
            text[size - 1] = 0;
            return text;
        }
        if (size == 1) size = 2; /* none at all */
    }
}

/* connect(host, port, options, addresses) */
static int psi_lua_try_connect(lua_State *L, psi_lua_op *op)
{
    psi_lua_sock *k = (psi_lua_sock *)lua_touserdata(L, PSI_LUA_OBJECT);
    int r;
    if (!k) {
        psocket_options o;
        psocket_error e;
        const char *host = psi_lua_get_text(L, 1);
        int port = strncmp(host, "unix:", 5) == 0 && lua_isnoneornil(L, 2) ? 0 : psi_lua_get_port(L, 2);
        psi_lua_get_options(L, 3, &o, &e);
        lua_settop(L, PSI_LUA_OBJECT);
        k = psi_lua_new_sock(L);
        lua_replace(L, PSI_LUA_OBJECT);
        if (!lua_isnil(L, 4)) {
            o.resolve_user = psi_lua_addresses(L, 4);
            lua_replace(L, 4); /* stays there until the connection is made */
            o.resolve = psi_lua_resolved;
        }
        k->limits.timeout = o.timeout_ms;
        r = psocket_connect(&k->s, host, port, &o);
        if (r < 0) return psi_lua_fail_error(L, r, &e);
    }
    op->io = &k->io; /* without limits: the C side keeps them while connecting, and says more */
    op->index = PSI_LUA_OBJECT;
    op->claims = PSOCKET_WRITE;
    while (psi_lua_is_want(r = psocket_step(k->s))) {
        r = psi_lua_wait(L, op, PSOCKET_WRITE, 0);
        if (r == 0) return PSI_LUA_AGAIN;
        if (r < 0) break;
    }
    if (r == 0) psocket_settimeout(k->s, 0); /* the limits are kept here from now on */
    psi_lua_release(op);
    psi_lua_forget(op->vm, &k->io); /* writable is the usual state: it would only be reported once more */
    if (r < 0 && r != PSOCKET_CLOSED) {
        psocket_close(k->s);
        return psi_lua_fail_sock(L, k, r);
    }
    lua_settop(L, PSI_LUA_OBJECT);
    return 1;
}

static int psi_lua_try_accept(lua_State *L, psi_lua_op *op)
{
    psi_lua_listener *l = psi_lua_listening(L);
    psi_lua_sock *k = (psi_lua_sock *)lua_touserdata(L, PSI_LUA_OBJECT);
    int r;
    op->io = &l->io;
    op->index = 1;
    op->claims = PSOCKET_READ;
    op->limits = psi_lua_get_limits(L, 2, &l->limits);
    r = psi_lua_claim(L, op);
    if (!k) {
        lua_settop(L, PSI_LUA_OBJECT);
        k = psi_lua_new_sock(L);
        k->limits = l->limits;
        lua_replace(L, PSI_LUA_OBJECT);
    }
    while (r >= 0) {
        /* A flood of connections must not starve the others: let the poller have a look now and then. */
        int n = l->burst < 16 ? psocket_accept(l->l, &k->s) : PSOCKET_WANT_READ;
        if (n == 0) {
            l->burst++;
            psi_lua_release(op);
            lua_settop(L, PSI_LUA_OBJECT);
            return 1;
        }
        l->burst = 0;
        r = psi_lua_is_want(n) ? psi_lua_wait(L, op, PSOCKET_READ, 0) : n;
        if (r == 0) return PSI_LUA_AGAIN;
        if (r < 0) break;
    }
    psi_lua_release(op);
    return psi_lua_fail_listener(L, l, r);
}

/* sleep(scheduler, seconds) */
static int psi_lua_try_sleep(lua_State *L, psi_lua_op *op)
{
    psi_lua_vm *vm = op->vm;
    int64_t now = psocket_now(), due = (int64_t)lua_tonumber(L, PSI_LUA_DUE);
    double ms;
    int inner;
    uint32_t i;
    psi_lua_sched *S;
    if (lua_isnoneornil(L, PSI_LUA_DUE)) {
        luaL_checknumber(L, 2);
        lua_pushvalue(L, 2);
        due = now + psi_lua_pop_ms(L, 2, "the argument"); /* 0 lets all others run once */
        ms = (double)lua_tonumber(L, 2) * 1000;
        if (ms >= INT_MAX) due = ms < 9e15 ? now + (int64_t)ms : (int64_t)9e15;
        psi_lua_remember(L, PSI_LUA_DUE, (double)due);
    } else if (now >= due) {
        return 0;
    }
    if (!psi_lua_yieldable(L)) {
        psocket_poller *p;
        const psocket_event *events;
        if (psocket_poller_new(&p)) return luaL_error(L, "sleep: no poller can be made");
        while ((now = psocket_now()) < due)
            psocket_poller_wait(p, &events, due - now > INT_MAX ? INT_MAX : (int)(due - now));
        psocket_poller_free(p);
        return 0;
    }
    S = psi_lua_whose(vm, L, &i, &inner);
    if (S && psi_lua_set_deadline(S, i, due) == 0) S->tasks[i].waits = inner ? PSI_LUA_INNER : PSI_LUA_DIRECT;
    op->ticket = 1; /* it waits in no slot */
    return PSI_LUA_AGAIN;
}

/*--- TLS settings */

/* The string in field name of the table at index, left on the stack; NULL if there is none. Without len it must not be
   one that C takes for a shorter one. */
static const char *psi_lua_field_string(lua_State *L, int table, const char *name, size_t *len)
{
    size_t n;
    const char *text;
    lua_getfield(L, table, name);
    if (lua_isnil(L, -1)) return NULL;
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "%s must be a string", name);
    text = lua_tolstring(L, -1, &n);
    if (len) *len = n;
    else if (strlen(text) != n) luaL_error(L, "%s contains a zero byte", name);
    return text;
}

/* What weakens the verification must be said clearly: "no" and 0 are true in Lua. */
static int psi_lua_field_flag(lua_State *L, int table, const char *name)
{
    int yes;
    lua_getfield(L, table, name);
    if (!lua_isnil(L, -1) && !lua_isboolean(L, -1)) luaL_error(L, "%s must be true or false", name);
    yes = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return yes;
}

/* The list of certificates at index; its strings and itself stay on the stack. */
static const psocket_identity *psi_lua_identities(lua_State *L, int list, size_t *count)
{
    size_t i, n = PSI_LUA_LENGTH(L, list);
    psocket_identity *all;
    luaL_checkstack(L, (int)(n < 10000 ? 3 * n : 1000000) + 8, "too many certificates");
    all = (psocket_identity *)PSI_LUA_USERDATA(L, (n + 1) * sizeof *all);
    memset(all, 0, (n + 1) * sizeof *all);
    for (i = 0; i < n; i++) {
        int one;
        lua_rawgeti(L, list, (int)(i + 1));
        if (!lua_istable(L, -1))
            luaL_error(L, "certificate %d is not a table with chain and private_key", (int)(i + 1));
        one = lua_gettop(L);
        all[i].chain = psi_lua_field_string(L, one, "chain", &all[i].chain_len);
        all[i].key = psi_lua_field_string(L, one, "private_key", &all[i].key_len);
        if (!all[i].chain || !all[i].key)
            luaL_error(L, "certificate %d has no %s", (int)(i + 1), all[i].chain ? "private_key" : "chain");
    }
    *count = n;
    return all;
}

/* A digest as 32 bytes or 64 hexadecimal digits: 1 if it is one. */
static int psi_lua_digest(const char *text, size_t len, uint8_t *out)
{
    size_t i;
    if (len == 32) {
        memcpy(out, text, 32);
        return 1;
    }
    for (i = 0; len == 64 && i < 64; i++) {
        int c = (unsigned char)text[i], v = -1;
        if (c >= '0' && c <= '9') v = c - '0';
        else if ((c | 32) >= 'a' && (c | 32) <= 'f') v = (c | 32) - 'a' + 10;
        if (v < 0) return 0;
        out[i / 2] = (uint8_t)(i & 1 ? out[i / 2] | v : v << 4);
    }
    return len == 64;
}

/* A question of a handshake. */
typedef struct psi_lua_question {
    const psi_lua_settings *settings;
    const psocket_certinfo *peer; /* of decide; NULL: of clock */
    const psocket_error *verdict;
} psi_lua_question;

/* Asks what vm->question says; runs in vm->asker, protected. */
static int psi_lua_asked(lua_State *L)
{
    psi_lua_vm *vm = psi_lua_here(L);
    const psi_lua_question *q = vm->question;
    lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_ASKING);
    lua_rawgeti(L, -1, q->settings->number);
    if (!lua_isuserdata(L, -1)) return luaL_error(L, "the settings were collected");
    PSI_LUA_GETVALUE(L, -1);
    lua_rawgeti(L, -1, q->peer ? 1 : 2);
    if (!q->peer) {
        lua_call(L, 0, 1);
        return 1;
    }
    lua_newtable(L);
    psi_lua_set_text(L, "subject", q->peer->subject);
    psi_lua_set_text(L, "issuer", q->peer->issuer);
    psi_lua_set_number(L, "not_before", (double)q->peer->not_before);
    psi_lua_set_number(L, "not_after", (double)q->peer->not_after);
    psi_lua_set_hex(L, "sha256", q->peer->sha256);
    psi_lua_set_hex(L, "spki_sha256", q->peer->spki_sha256);
    if (q->verdict->code) {
        const char *name = psocket_codename(q->verdict->code);
        lua_pushstring(L, q->verdict->text[0] ? q->verdict->text : psocket_strerror(q->verdict->code));
        lua_pushstring(L, name ? name : "OS");
        lua_call(L, 3, 1);
    } else {
        lua_call(L, 1, 1);
    }
    lua_pushboolean(L, lua_isboolean(L, -1) && lua_toboolean(L, -1));
    return 1;
}

/* The answer lies on top of vm->asker: 1, to be popped; 0 if there is none. Nothing outside the protected call needs
   memory; an error, a yield or a question within a question is no answer. */
static int psi_lua_ask(const psi_lua_settings *t, const psocket_certinfo *peer, const psocket_error *verdict)
{
    psi_lua_vm *vm = t->vm;
    psi_lua_question q;
    int status;
    if (vm->question) return 0;
    q.settings = t;
    q.peer = peer;
    q.verdict = verdict;
    vm->question = &q;
    lua_pushvalue(vm->asker, 1); /* psi_lua_asked */
    status = lua_pcall(vm->asker, 0, 1, 0);
    vm->question = NULL;
    if (status) lua_settop(vm->asker, 1);
    return !status;
}

static int psi_lua_decide(void *user, const psocket_certinfo *peer, const psocket_error *verdict)
{
    const psi_lua_settings *t = (const psi_lua_settings *)user;
    int yes;
    if (!psi_lua_ask(t, peer, verdict)) return 1;
    yes = lua_toboolean(t->vm->asker, -1);
    lua_settop(t->vm->asker, 1);
    return !yes;
}

static int64_t psi_lua_clock(void *user)
{
    const psi_lua_settings *t = (const psi_lua_settings *)user;
    double now;
    if (!psi_lua_ask(t, NULL, NULL)) return 0; /* nothing was valid then */
    now = (double)lua_tonumber(t->vm->asker, -1);
    lua_settop(t->vm->asker, 1);
    return now > 0 && now < 1e15 ? (int64_t)now : 0;
}

/* Notes the functions among options in the uservalue of the settings on top of the stack. */
static void psi_lua_set_questions(lua_State *L, psi_lua_settings *t, int options, psocket_tls_options *o)
{
    static const char *const names[] = { "decide", "clock" };
    psi_lua_vm *vm = psi_lua_here(L);
    int i, any = 0, settings = lua_gettop(L);
    lua_newtable(L);
    for (i = 0; i < 2; i++) {
        lua_getfield(L, options, names[i]);
        if (!lua_isnil(L, -1) && !lua_isfunction(L, -1)) luaL_error(L, "%s must be a function", names[i]);
        if (!lua_isnil(L, -1)) any |= 1 << i;
        lua_rawseti(L, -2, i + 1);
    }
    if (!any) {
        lua_pop(L, 1);
        return;
    }
    PSI_LUA_SETVALUE(L, settings);
    lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_ASKING);
    if (!vm->asker) {
        lua_State *co = lua_newthread(L);
        lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_ANCHOR); /* whose metatable holds it: values here are weak */
        lua_getmetatable(L, -1);
        lua_pushvalue(L, -3);
        lua_setfield(L, -2, "asker");
        lua_pop(L, 2);
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushvalue(L, lua_upvalueindex(2));
        lua_pushcclosure(L, psi_lua_asked, 2);
        lua_xmove(L, co, 1);
        lua_pop(L, 1);
        vm->asker = co;
    }
    t->vm = vm;
    t->number = ++vm->numbers;
    lua_pushvalue(L, settings);
    lua_rawseti(L, -2, t->number);
    lua_pop(L, 1);
    if (any & 1) {
        o->decide = psi_lua_decide;
        o->decide_user = t;
    }
    if (any & 2) {
        o->clock = psi_lua_clock;
        o->clock_user = t;
    }
}

/* The version of TLS in field min_version: "TLSv1.2", or its number. */
static int psi_lua_field_version(lua_State *L, int table)
{
    int version = 0;
    lua_getfield(L, table, "min_version");
    if (lua_type(L, -1) == LUA_TSTRING) {
        const char *text = lua_tostring(L, -1);
        if (strncmp(text, "TLSv1.", 6) == 0 && text[6] >= '0' && text[6] <= '3' && !text[7]) version = 0x301 + text[6] - '0';
    } else if (lua_type(L, -1) == LUA_TNUMBER && lua_tonumber(L, -1) >= 1 && lua_tonumber(L, -1) < 0x10000) {
        version = (int)lua_tonumber(L, -1);
    }
    if (!version && !lua_isnil(L, -1)) luaL_error(L, "min_version must be a version of TLS, as \"TLSv1.2\"");
    lua_pop(L, 1);
    return version;
}

/* The cipher suites in field suites, with colons between; left on the stack. */
static const char *psi_lua_field_suites(lua_State *L, int table)
{
    size_t i, n;
    int list;
    lua_getfield(L, table, "suites");
    list = lua_gettop(L);
    if (lua_isnil(L, list)) return NULL;
    if (lua_istable(L, list)) {
        n = PSI_LUA_LENGTH(L, list);
        lua_pushliteral(L, "");
        for (i = 1; i <= n && i <= 100; i++) {
            if (i > 1) lua_pushliteral(L, ":");
            lua_rawgeti(L, list, (int)i);
            if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "suites must be names of cipher suites");
            lua_concat(L, i > 1 ? 3 : 2);
        }
    }
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "suites must be names of cipher suites");
    if (strlen(lua_tostring(L, -1)) != PSI_LUA_LENGTH(L, -1)) luaL_error(L, "suites contains a zero byte");
    return lua_tostring(L, -1);
}

/* Makes settings of the options at `options` and the certificates at `certs` (0: none; then options may hold some).
   Pushes the settings and answers 1, or pushes nil, a message and a name and answers 3. */
static int psi_lua_make_settings(lua_State *L, int options, int certs)
{
    static const char *const auth[] = { "none", "optional", "required", NULL };
    psocket_tls_options o;
    psocket_error e;
    int top = lua_gettop(L), r, list;
    size_t i;
    psi_lua_settings *t = (psi_lua_settings *)PSI_LUA_USERDATA_1(L, sizeof *t);
    memset(t, 0, sizeof *t);
    psi_lua_setmetatable(L, PSI_LUA_SETTINGS);
    memset(&o, 0, sizeof o);
    memset(&e, 0, sizeof e);
    o.error = &e;
    luaL_checkstack(L, 20, NULL);
    if (options) {
        const char **names;
        uint8_t *pins;
        psi_lua_set_questions(L, t, options, &o);
        o.min_version = psi_lua_field_version(L, options);
        o.suites = psi_lua_field_suites(L, options);
        o.ca = psi_lua_field_string(L, options, "ca", &o.ca_len);
        o.ca_file = psi_lua_field_string(L, options, "ca_file", NULL);
        o.ca_dir = psi_lua_field_string(L, options, "ca_dir", NULL);
        o.insecure_no_verify = psi_lua_field_flag(L, options, "insecure_no_verify");
        o.insecure_no_name = psi_lua_field_flag(L, options, "insecure_no_name");
        lua_getfield(L, options, "client_auth");
        for (r = 0; !lua_isnil(L, -1) && !(lua_isstring(L, -1) && strcmp(lua_tostring(L, -1), auth[r]) == 0); r++)
            if (r == 2) luaL_error(L, "client_auth must be \"none\", \"optional\" or \"required\"");
        o.client_auth = r;
        lua_getfield(L, options, "alpn");
        list = lua_gettop(L);
        if (!lua_isnil(L, list)) {
            if (!lua_istable(L, list)) luaL_error(L, "alpn must be a list of names");
            o.alpn_count = PSI_LUA_LENGTH(L, list);
            luaL_checkstack(L, (int)(o.alpn_count < 10000 ? o.alpn_count : 1000000) + 8, "too many names in alpn");
            names = (const char **)PSI_LUA_USERDATA(L, (o.alpn_count + 1) * sizeof *names);
            for (i = 0; i < o.alpn_count; i++) {
                lua_rawgeti(L, list, (int)(i + 1));
                if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "alpn must be a list of names");
                names[i] = lua_tostring(L, -1);
                if (strlen(names[i]) != PSI_LUA_LENGTH(L, -1)) luaL_error(L, "a name in alpn contains a zero byte");
            }
            o.alpn = names;
        }
        lua_getfield(L, options, "pins");
        list = lua_gettop(L);
        if (!lua_isnil(L, list)) {
            if (!lua_istable(L, list)) luaL_error(L, "pins must be a list of SHA-256 digests");
            o.spki_pin_count = PSI_LUA_LENGTH(L, list);
            if (!o.spki_pin_count) luaL_error(L, "pins must be a list of SHA-256 digests: it is empty");
            pins = (uint8_t *)PSI_LUA_USERDATA(L, (o.spki_pin_count + 1) * 32);
            for (i = 0; i < o.spki_pin_count; i++) {
                size_t len = 0;
                const char *text;
                lua_rawgeti(L, list, (int)(i + 1));
                text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : "";
                if (!psi_lua_digest(text, len, pins + 32 * i))
                    luaL_error(L, "pin %d is not a SHA-256 digest (32 bytes, or 64 hexadecimal digits)", (int)(i + 1));
                lua_pop(L, 1);
            }
            o.spki_pins = pins;
        }
        if (!certs) {
            lua_getfield(L, options, "identities");
            if (!lua_isnil(L, -1) && !lua_istable(L, -1)) luaL_error(L, "identities must be a list of certificates");
            certs = lua_istable(L, -1) ? lua_gettop(L) : options; /* psocket.tls { {chain =, private_key =} } will do */
        }
    }
    if (certs) o.identities = psi_lua_identities(L, certs, &o.identity_count);
    r = psocket_tls_new(&t->tls, &o);
    lua_settop(L, top + 1);
    return r < 0 ? psi_lua_fail_error(L, r, &e) : 1;
}

/* Do these options say anything about TLS, or just about time? */
static int psi_lua_about_tls(lua_State *L, int options)
{
    static const char *const names[] = { "ca", "ca_file", "ca_dir", "alpn", "pins", "identities", "client_auth",
                                         "insecure_no_verify", "insecure_no_name", "suites", "min_version", "decide",
                                         "clock" };
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        int there;
        lua_getfield(L, options, names[i]);
        there = !lua_isnil(L, -1);
        lua_pop(L, 1);
        if (there) return 1;
    }
    return 0;
}

/* As psi_lua_make_settings, but the same tables give the settings that were made of them before. */
static int psi_lua_cached_settings(lua_State *L, int options, int certs)
{
    int first = certs ? certs : options, second, top = lua_gettop(L), r;
    if (options && certs && !psi_lua_about_tls(L, options)) options = 0;
    second = options ? options : certs;
    lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_PARSED);
    lua_pushvalue(L, first);
    lua_rawget(L, -2);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_getmetatable(L, -2); /* weak keys too */
        lua_setmetatable(L, -2);
        lua_pushvalue(L, first);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4);
    }
    lua_pushvalue(L, second);
    lua_rawget(L, -2);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        r = psi_lua_make_settings(L, options, certs);
        if (r != 1) return r;
        if (LUA_VERSION_NUM >= 502 || !((psi_lua_settings *)lua_touserdata(L, -1))->number) {
            /* Before Lua 5.2 a function that refers to the table would keep it, and itself, for ever. */
            lua_pushvalue(L, second);
            lua_pushvalue(L, -2);
            lua_rawset(L, top + 2);
        }
    }
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
    return 1;
}

/* The handshake of the socket at 1 may ask functions of the settings at index `given` (0: PSI_LUA_OBJECT): they have to
   stay as long, and no poller may call them in the midst of its work. */
static void psi_lua_set_apart(lua_State *L, psi_lua_sock *k, int given)
{
    lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_ANCHOR);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, given ? given : PSI_LUA_OBJECT);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    psi_lua_forget(psi_lua_here(L), &k->io);
    k->io.noted |= PSI_LUA_APART;
    psi_lua_here(L)->driven = k;
}

/* It is over. */
static void psi_lua_end_apart(lua_State *L, psi_lua_sock *k)
{
    psi_lua_forget(psi_lua_here(L), &k->io);
    k->io.noted = (uint8_t)(k->io.noted & ~(PSI_LUA_APART | PSI_LUA_CLOSING));
    lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_ANCHOR);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

/* starttls(socket, name | certificates | settings, options | settings, options) */
static int psi_lua_try_starttls(lua_State *L, psi_lua_op *op)
{
    psi_lua_sock *k = psi_lua_self(L);
    psocket_tlsinfo info;
    int r, made = 1, options = 0;
    lua_settop(L, PSI_LUA_TOP);
    op->io = &k->io; /* without limits: kept on the C side, as in connect */
    op->index = 1;
    op->claims = PSOCKET_READ | PSOCKET_WRITE;
    if (lua_isnil(L, PSI_LUA_DONE) && psocket_istls(k->s) &&
        psocket_starttls(k->s, NULL, NULL) == PSOCKET_ALREADY_TLS) {
        lua_pushnil(L);
        return 1;
    }
    r = psi_lua_claim(L, op);
    if (lua_isnil(L, PSI_LUA_DONE) && !r) {
        int server = psocket_getside(k->s) == PSOCKET_SERVER, given = 0;
        psi_lua_settings *t = NULL;
        psi_lua_limits limits;
        const char *name = NULL;
        if (lua_isuserdata(L, 2)) given = 2;
        else if (server) luaL_checktype(L, 2, LUA_TTABLE);
        else name = psi_lua_get_text(L, 2);
        if (!given && lua_isuserdata(L, 3)) given = 3;
        if (given) {
            t = (psi_lua_settings *)luaL_checkudata(L, given, PSI_LUA_SETTINGS);
            luaL_argcheck(L, t->tls, given, "these settings were collected");
        }
        if (psi_lua_has_options(L, given ? given + 1 : 3)) options = given ? given + 1 : 3;
        limits = psi_lua_get_limits(L, options ? options : 4, &k->limits);
        if (!given && (server || (options && psi_lua_about_tls(L, options)))) {
            made = psi_lua_cached_settings(L, options, server ? 2 : 0);
            if (made == 1) {
                t = (psi_lua_settings *)lua_touserdata(L, -1);
                lua_replace(L, PSI_LUA_OBJECT);
            }
        }
        if (t && t->number && psi_lua_here(L)->question)
            return luaL_error(L, "decide and clock must not start a handshake that asks functions itself");
        if (made == 1) {
            psi_lua_remember(L, PSI_LUA_DONE, 1);
            if (t && t->number) psi_lua_set_apart(L, k, given);
            psocket_settimeout(k->s, limits.timeout);
            r = psocket_starttls(k->s, t ? t->tls : NULL, name);
        }
    }
    if (made == 1) {
        if (k->io.noted & PSI_LUA_APART) psi_lua_here(L)->driven = k;
        while ((r == 0 || psi_lua_is_want(r)) && psi_lua_is_want(r = psocket_step(k->s))) {
            if (k->io.noted & PSI_LUA_CLOSING) { /* by decide or clock */
                r = PSOCKET_CLOSED_HERE;
                break;
            }
            r = psi_lua_wait(L, op, PSOCKET_WRITE, 0);
            if (r == 0) return PSI_LUA_AGAIN;
            if (r == 1) r = 0;
        }
        if (!lua_isnil(L, PSI_LUA_DONE)) psocket_settimeout(k->s, 0);
        if (k->io.noted & PSI_LUA_CLOSING) r = PSOCKET_CLOSED_HERE;
        if (k->io.noted & PSI_LUA_APART && r != PSOCKET_BUSY) psi_lua_end_apart(L, k);
        if (psocket_gettlsinfo(k->s, &info) == 0 && r != PSOCKET_CLOSED_HERE && r != PSOCKET_BUSY) {
            psi_lua_release(op);
            psi_lua_forget(op->vm, &k->io);
            lua_pushboolean(L, 1);
            if (!info.alpn[0]) return 1;
            lua_pushstring(L, info.alpn);
            return 2;
        }
        psi_lua_fail_sock(L, k, r);
    }
    /* nil, a message and a name are on top: here the spec says false, and that the socket is closed. */
    psi_lua_release(op);
    psi_lua_shut(op->vm, k);
    lua_pushboolean(L, 0);
    lua_replace(L, -4);
    return 3;
}

/*--- driving the operations */

/* What an operation yields: no values. But where a yield may fail, as in pcall in Lua 5.1, a task that is resumed by our
   scheduler yields a mark to it: a task that yields without one after it was to wait has failed to, and went on. */
static int psi_lua_mark(lua_State *L)
{
#if PSI_LUA_MARKS
    psi_lua_vm *vm = psi_lua_here(L);
    if (vm->co != L) return 0;
    lua_pushlightuserdata(L, vm);
    return 1;
#else
    (void)L;
    return 0;
#endif
}

static int psi_lua_yield(lua_State *L)
{
    return lua_yield(L, psi_lua_mark(L));
}

enum {
    PSI_LUA_CONNECT, PSI_LUA_ACCEPT, PSI_LUA_RECV, PSI_LUA_READ, PSI_LUA_READ_UNTIL, PSI_LUA_SEND, PSI_LUA_SHUTDOWN,
    PSI_LUA_STARTTLS, PSI_LUA_SLEEP
};

/* Tries one of them, for the ticket that it has got or for the first time (0). Answers what it answered. */
static int psi_lua_try(lua_State *L, int what, uint32_t *ticket)
{
    static int (*const ops[])(lua_State *, psi_lua_op *) = {
        psi_lua_try_connect, psi_lua_try_accept, psi_lua_try_recv, psi_lua_try_read, psi_lua_try_read_until,
        psi_lua_try_send, psi_lua_try_shutdown, psi_lua_try_starttls, psi_lua_try_sleep
    };
    psi_lua_op op;
    int n;
    op.vm = psi_lua_here(L);
    op.ticket = *ticket;
    op.limits.timeout = 0;
    n = ops[what](L, &op);
    *ticket = op.ticket;
    return n;
}

#if LUA_VERSION_NUM >= 503

static int psi_lua_again(lua_State *L, int status, lua_KContext context)
{
    uint32_t ticket = (uint32_t)context >> PSI_LUA_OP_BITS;
    int n, what = (int)context & ((1 << PSI_LUA_OP_BITS) - 1);
    (void)status;
    if (ticket) lua_settop(L, PSI_LUA_TOP); /* without what resume was given */
    n = psi_lua_try(L, what, &ticket);
    if (n != PSI_LUA_AGAIN) return n;
    lua_settop(L, PSI_LUA_TOP);
    return lua_yieldk(L, 0, (lua_KContext)(ticket << PSI_LUA_OP_BITS) | what, psi_lua_again);
}

static int psi_lua_run(lua_State *L, int what)
{
    if (lua_gettop(L) > PSI_LUA_ARGS) lua_settop(L, PSI_LUA_ARGS);
    return psi_lua_again(L, 0, what);
}

#elif LUA_VERSION_NUM == 502

static int psi_lua_again(lua_State *L)
{
    int n, context = 0, mask = (1 << PSI_LUA_OP_BITS) - 1;
    uint32_t ticket;
    lua_getctx(L, &context);
    ticket = (uint32_t)context >> PSI_LUA_OP_BITS;
    lua_settop(L, PSI_LUA_TOP);
    n = psi_lua_try(L, context & mask, &ticket);
    return n == PSI_LUA_AGAIN ? lua_yieldk(L, psi_lua_mark(L), context, psi_lua_again) : n; /* it keeps its ticket */
}

static int psi_lua_run(lua_State *L, int what)
{
    uint32_t ticket = 0;
    int n;
    if (lua_gettop(L) > PSI_LUA_ARGS) lua_settop(L, PSI_LUA_ARGS);
    n = psi_lua_try(L, what, &ticket);
    if (n != PSI_LUA_AGAIN) return n;
    lua_settop(L, PSI_LUA_TOP);
    return lua_yieldk(L, psi_lua_mark(L), (int)(ticket << PSI_LUA_OP_BITS) | what, psi_lua_again);
}

#else

/* Without lua_yieldk a Lua function (psi_lua_wrapper) yields, and calls this again with what is to be remembered. The
   first result tells it to: upvalue 1, which no operation returns. */
static int psi_lua_run(lua_State *L, int what)
{
    uint32_t ticket = (uint32_t)lua_tonumber(L, PSI_LUA_TICKET);
    int n = psi_lua_try(L, what, &ticket), i, top;
    if (n != PSI_LUA_AGAIN) return n;
    psi_lua_remember(L, PSI_LUA_TICKET, ticket);
    top = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    for (i = PSI_LUA_TICKET; i <= top; i++) lua_pushvalue(L, i);
    return 2 + top - PSI_LUA_TICKET;
}

static const char psi_lua_wrapper[] =
    "local again, yield = ...\n"
    "return function(f)\n"
    "  return function(a, b, c, d)\n"
    "    local r, x, y, z, v, w = f(a, b, c, d)\n"
    "    while r == again do\n"
    "      yield()\n"
    "      r, x, y, z, v, w = f(a, b, c, d, x, y, z, v, w)\n"
    "    end\n"
    "    if x == nil then return r end\n" /* as many results as there are */
    "    if y == nil then return r, x end\n"
    "    if z == nil then return r, x, y end\n"
    "    return r, x, y, z\n"
    "  end\n"
    "end\n";

#endif

static int psi_lua_connect(lua_State *L) { return psi_lua_run(L, PSI_LUA_CONNECT); }
static int psi_lua_accept(lua_State *L) { return psi_lua_run(L, PSI_LUA_ACCEPT); }
static int psi_lua_recv(lua_State *L) { return psi_lua_run(L, PSI_LUA_RECV); }
static int psi_lua_read(lua_State *L) { return psi_lua_run(L, PSI_LUA_READ); }
static int psi_lua_read_until(lua_State *L) { return psi_lua_run(L, PSI_LUA_READ_UNTIL); }
static int psi_lua_send(lua_State *L) { return psi_lua_run(L, PSI_LUA_SEND); }
static int psi_lua_shutdown(lua_State *L) { return psi_lua_run(L, PSI_LUA_SHUTDOWN); }
static int psi_lua_starttls(lua_State *L) { return psi_lua_run(L, PSI_LUA_STARTTLS); }
static int psi_lua_sleep(lua_State *L) { return psi_lua_run(L, PSI_LUA_SLEEP); }

/*--- the rest of sockets */

/* Another coroutine may wait for what a look at the socket has just fetched: the system will not report it again. */
static void psi_lua_looked(lua_State *L, psi_lua_sock *k, int ended)
{
    if ((k->io.armed & PSOCKET_READ) && (ended || psocket_pending(k->s))) psi_lua_wake(psi_lua_here(L), &k->io);
}

static int psi_lua_peek(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    const void *data;
    ptrdiff_t n;
    do {
        n = psocket_peek(k->s, &data);
        psi_lua_looked(L, k, n < 0 && !psi_lua_is_want(n));
        if (n < 0) return 0;
    } while (!psi_lua_push_chunk(L, k, data, (size_t)n));
    return 1;
}

static int psi_lua_unrecv(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    size_t len;
    const char *data = luaL_checklstring(L, 2, &len);
    int r = psocket_unrecv(k->s, data, len);
    if (r < 0) return psi_lua_fail_sock(L, k, r);
    psi_lua_looked(L, k, 0);
    lua_pushboolean(L, 1);
    return 1;
}

static int psi_lua_close(lua_State *L)
{
    psi_lua_shut(psi_lua_here(L), psi_lua_any_self(L));
    return 0;
}

static int psi_lua_gc(lua_State *L)
{
    psi_lua_sock *k = psi_lua_any_self(L);
    psocket *s = k->s;
    if ((k->io.noted & PSI_LUA_HELD) || (psi_lua_here(L)->question && psi_lua_here(L)->driven == k)) return psi_lua_close(L);
    if (k->io.noted & PSI_LUA_APART) psi_lua_forget(psi_lua_here(L), &k->io);
    if (s) psi_lua_wake(psi_lua_here(L), &k->io); /* nobody can wait for it, unless __gc is called by hand */
    k->s = NULL;
    psocket_free(s); /* also takes it out of its poller */
    return 0;
}

/* Pushes what an address function has found. */
static int psi_lua_address(lua_State *L, int r, const char *ip, int port)
{
    if (r < 0) return psi_lua_fail(L, r, r == PSOCKET_INVALID ? "not connected" : NULL);
    lua_pushstring(L, ip);
    lua_pushinteger(L, port);
    return 2;
}

static int psi_lua_getpeer(lua_State *L)
{
    char ip[256];
    int port = 0, r = psocket_getpeer(psi_lua_self(L)->s, ip, sizeof ip, &port);
    return psi_lua_address(L, r, ip, port);
}

static int psi_lua_getlocal(lua_State *L)
{
    char ip[256];
    int port = 0, r = psocket_getlocal(psi_lua_self(L)->s, ip, sizeof ip, &port);
    return psi_lua_address(L, r, ip, port);
}

static int psi_lua_setpeer(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    const char *ip = psi_lua_get_text(L, 2);
    int r = psocket_setpeer(k->s, ip, psi_lua_get_port(L, 3));
    if (r < 0) return psi_lua_fail_sock(L, k, r);
    lua_pushboolean(L, 1);
    return 1;
}

static int psi_lua_getside(lua_State *L)
{
    lua_pushstring(L, psocket_getside(psi_lua_self(L)->s) == PSOCKET_SERVER ? "server" : "client");
    return 1;
}

static int psi_lua_istls(lua_State *L)
{
    lua_pushboolean(L, psocket_istls(psi_lua_self(L)->s) == 1);
    return 1;
}

static int psi_lua_isudp(lua_State *L)
{
    lua_pushboolean(L, psocket_isudp(psi_lua_self(L)->s) == 1);
    return 1;
}

static int psi_lua_isopen(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    int open = psocket_isopen(k->s) == 1;
    psi_lua_looked(L, k, !open);
    lua_pushboolean(L, open);
    return 1;
}

static int psi_lua_pending(lua_State *L)
{
    psi_lua_push_count(L, (double)psocket_pending(psi_lua_self(L)->s));
    return 1;
}

/* settimeout(seconds), of a socket or a listener. */
static psi_lua_limits psi_lua_new_limits(lua_State *L)
{
    psi_lua_limits l;
    lua_settop(L, 2);
    l.timeout = psi_lua_pop_ms(L, 2, "the argument");
    return l;
}

static int psi_lua_settimeout(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    k->limits = psi_lua_new_limits(L);
    return 0;
}

/* geterror(): a message, a name, and a table with the details that there are. */
static int psi_lua_geterror(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    psocket_error e;
    int code = psocket_geterror(k->s, &e);
    if (code == 0) return 0;
    psi_lua_fail_sock(L, k, code);
    lua_newtable(L);
    if (e.code == code) {
        int tls = code <= PSOCKET_TLS_PROTOCOL; /* for others 0 is no alert and no certificate */
        if (e.os_error) psi_lua_set_number(L, "os_error", e.os_error);
        if (e.bearssl_error) psi_lua_set_number(L, "bearssl_error", e.bearssl_error);
        if (tls && e.tls_alert >= 0) psi_lua_set_number(L, "tls_alert", e.tls_alert);
        if (tls && e.cert_index >= 0) psi_lua_set_number(L, "cert_index", e.cert_index);
    }
    return 3;
}

static int psi_lua_tlsinfo(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    psocket_tlsinfo info;
    if (psocket_gettlsinfo(k->s, &info) < 0) return psi_lua_fail(L, PSOCKET_INVALID, "the socket is not using TLS");
    lua_newtable(L);
    psi_lua_set_text(L, "version", info.version_name);
    psi_lua_set_text(L, "suite", info.suite_name);
    psi_lua_set_text(L, "alpn", info.alpn);
    psi_lua_set_text(L, "server_name", info.server_name);
    lua_pushboolean(L, info.resumed);
    lua_setfield(L, -2, "resumed");
    if (info.peer_subject[0] || info.peer_not_after) {
        psi_lua_set_text(L, "peer_subject", info.peer_subject);
        psi_lua_set_hex(L, "peer_sha256", info.peer_sha256);
        psi_lua_set_hex(L, "peer_spki_sha256", info.peer_spki_sha256);
        psi_lua_set_number(L, "peer_not_before", (double)info.peer_not_before);
        psi_lua_set_number(L, "peer_not_after", (double)info.peer_not_after);
    }
    return 1;
}

static void psi_lua_push_address(lua_State *L, const char *ip, int port)
{
    if (port) lua_pushfstring(L, strchr(ip, ':') ? "[%s]:%d" : "%s:%d", ip, port);
    else lua_pushfstring(L, "unix:%s", ip);
}

static int psi_lua_tostring(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    psocket_tlsinfo info;
    char ip[256];
    int port = 0, open = psocket_isopen(k->s) == 1;
    psi_lua_looked(L, k, !open);
    if (psocket_getpeer(k->s, ip, sizeof ip, &port) < 0) lua_pushliteral(L, "no address");
    else psi_lua_push_address(L, ip, port);
    lua_pushfstring(L, "psocket: %s (%s%s%s)", lua_tostring(L, -1), open ? "open" : "closed",
                    psocket_isudp(k->s) == 1 ? ", UDP" : psocket_istls(k->s) == 1 ? ", " : "",
                    psocket_gettlsinfo(k->s, &info) == 0 ? info.version_name : "");
    return 1;
}

/*--- listeners */

static int psi_lua_listen(lua_State *L)
{
    psi_lua_listener *l;
    psocket_options o;
    psocket_error e;
    int port, r;
    const char *address = psi_lua_get_address(L, 1, &port);
    psi_lua_get_options(L, 2, &o, &e);
    luaL_argcheck(L, !o.udp, 2, "listen is for TCP; udpserver makes a UDP socket");
    l = (psi_lua_listener *)PSI_LUA_USERDATA(L, sizeof *l);
    memset(l, 0, sizeof *l);
    l->io.kind = PSI_LUA_IS_LISTENER;
    l->limits.timeout = o.timeout_ms;
    psi_lua_setmetatable(L, PSI_LUA_LISTENER);
    o.timeout_ms = 0;
    o.error = &l->error;
    r = psocket_listen(&l->l, address, port, &o);
    return r < 0 ? psi_lua_fail_error(L, r, &l->error) : 1;
}

static int psi_lua_hasconnection(lua_State *L)
{
    psi_lua_listener *l = psi_lua_listening(L);
    int r = psocket_hasconnection(l->l);
    if (r < 0) {
        psi_lua_fail_listener(L, l, r);
        lua_pushboolean(L, 0);
        lua_replace(L, -4);
        return 3;
    }
    if (r) l->burst = 0; /* accept will not wait, then */
    if (r) psi_lua_wake(psi_lua_here(L), &l->io); /* whoever waits in accept: the system will not report it again */
    lua_pushboolean(L, r);
    return 1;
}

static int psi_lua_listener_close(lua_State *L)
{
    psi_lua_listener *l = psi_lua_listening(L);
    psi_lua_wake(psi_lua_here(L), &l->io);
    psi_lua_forget(psi_lua_here(L), &l->io);
    psocket_close(l->l);
    return 0;
}

static int psi_lua_listener_gc(lua_State *L)
{
    psi_lua_listener *l = psi_lua_listening(L);
    psocket *p = l->l;
    if (p) psi_lua_wake(psi_lua_here(L), &l->io);
    l->l = NULL;
    psocket_free(p);
    return 0;
}

static int psi_lua_listener_getlocal(lua_State *L)
{
    char ip[256];
    int port = 0, r = psocket_getlocal(psi_lua_listening(L)->l, ip, sizeof ip, &port);
    return psi_lua_address(L, r, ip, port);
}

static int psi_lua_listener_settimeout(lua_State *L)
{
    psi_lua_listener *l = psi_lua_listening(L);
    l->limits = psi_lua_new_limits(L);
    return 0;
}

static int psi_lua_listener_tostring(lua_State *L)
{
    psi_lua_listener *l = psi_lua_listening(L);
    char ip[256];
    int port = 0;
    if (psocket_getlocal(l->l, ip, sizeof ip, &port) < 0) {
        lua_pushliteral(L, "psocket listener: (closed)");
        return 1;
    }
    psi_lua_push_address(L, ip, port);
    lua_pushfstring(L, "psocket listener: %s (open)", lua_tostring(L, -1));
    return 1;
}

/*--- functions of the module */

static int psi_lua_udpserver(lua_State *L)
{
    psi_lua_sock *k;
    psocket_options o;
    psocket_error e;
    int port, r;
    const char *address = psi_lua_get_address(L, 1, &port);
    psi_lua_get_options(L, 2, &o, &e);
    k = psi_lua_new_sock(L);
    k->limits.timeout = o.timeout_ms;
    o.udp = 1;
    o.timeout_ms = 0;
    r = psocket_listen(&k->s, address, port, &o);
    return r < 0 ? psi_lua_fail_error(L, r, &e) : 1;
}

/* wrap(carrier [, options]): the carrier's object is left without a socket. */
static int psi_lua_wrap(lua_State *L)
{
    psi_lua_vm *vm = psi_lua_here(L);
    psi_lua_sock *carrier = psi_lua_self(L), *k;
    psocket_options o;
    psocket_error e;
    int r;
    psi_lua_get_options(L, 2, &o, &e);
    if (psi_lua_occupied(L, vm, &carrier->io, 1, PSOCKET_READ) || psi_lua_occupied(L, vm, &carrier->io, 1, PSOCKET_WRITE))
        return psi_lua_fail(L, PSOCKET_BUSY, NULL);
    k = psi_lua_new_sock(L);
    k->limits.timeout = o.timeout_ms;
    psi_lua_forget(vm, &carrier->io);
    o.timeout_ms = 0;
    r = psocket_wrap(&k->s, carrier->s, &o);
    if (r < 0) return psi_lua_fail_error(L, r, &e);
    carrier->s = NULL;
    return 1;
}

static int psi_lua_pair(lua_State *L)
{
    psi_lua_sock *a, *b;
    psocket_options o;
    psocket_error e;
    int r;
    psi_lua_get_options(L, 1, &o, &e);
    a = psi_lua_new_sock(L);
    b = psi_lua_new_sock(L);
    a->limits.timeout = b->limits.timeout = o.timeout_ms;
    o.timeout_ms = 0;
    r = psocket_pair(&a->s, &b->s, &o);
    return r < 0 ? psi_lua_fail_error(L, r, &e) : 2;
}

static int psi_lua_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)psocket_now() / 1000);
    return 1;
}

static int psi_lua_tls(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    return psi_lua_make_settings(L, 1, 0);
}

/* The settings at 1, of which something is asked. */
static psi_lua_settings *psi_lua_settled(lua_State *L)
{
    psi_lua_settings *t = (psi_lua_settings *)luaL_checkudata(L, 1, PSI_LUA_SETTINGS);
    luaL_argcheck(L, t->tls, 1, "these settings were collected");
    return t;
}

static int psi_lua_savesessions(lua_State *L)
{
    psi_lua_settings *t = psi_lua_settled(L);
    ptrdiff_t n = psocket_tls_savesessions(t->tls, NULL, 0), room = -1;
    void *buf = NULL;
    while (n > room && n >= 0) { /* there may be more by now */
        room = n;
        buf = PSI_LUA_USERDATA(L, (size_t)n + 1);
        n = psocket_tls_savesessions(t->tls, buf, (size_t)room);
    }
    if (n < 0) return psi_lua_fail(L, (int)n, NULL);
    lua_pushlstring(L, (const char *)buf, (size_t)n);
    memset(buf, 0, (size_t)n); /* they hold secrets, though the string does, too */
    return 1;
}

static int psi_lua_loadsessions(lua_State *L)
{
    psi_lua_settings *t = psi_lua_settled(L);
    size_t len;
    const char *data = luaL_checklstring(L, 2, &len);
    int r = psocket_tls_loadsessions(t->tls, data, len);
    if (r < 0) return psi_lua_fail(L, r, r == PSOCKET_INVALID ? "damaged, or of settings that verify otherwise" : NULL);
    lua_pushboolean(L, 1);
    return 1;
}

static int psi_lua_tls_gc(lua_State *L)
{
    psi_lua_settings *t = (psi_lua_settings *)luaL_checkudata(L, 1, PSI_LUA_SETTINGS);
    psocket_tls_free(t->tls);
    t->tls = NULL;
    return 0;
}

/* options.resolve, if connect(host, port, options) has to ask it: not for addresses and paths. */
static int psi_lua_resolver(lua_State *L)
{
    const char *host = psi_lua_get_text(L, 1);
    if (!lua_istable(L, 3) || strchr(host, ':') || host[strspn(host, "0123456789.")] == 0) return 0;
    lua_getfield(L, 3, "resolve");
    if (!lua_isnil(L, -1) && !lua_isfunction(L, -1)) luaL_error(L, "options.resolve must be a function");
    return 1;
}

static int psi_lua_raise(lua_State *L)
{
    lua_settop(L, 1);
    return lua_error(L);
}

/* Checks the arguments of addloop. */
static int psi_lua_looping(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isfunction(L, 2)) luaL_argcheck(L, luaL_getmetafield(L, 2, "__call"), 2, "function expected");
    return 0;
}

/*--- the scheduler */

/* The scheduler in the table at 1, made when first used, so that a class derived from it needs no constructor. Pushes
   it and its own table. */
static psi_lua_sched *psi_lua_scheduling(lua_State *L)
{
    psi_lua_sched *S;
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_pushliteral(L, "_core");
    lua_rawget(L, 1);
    if (!lua_isnil(L, -1)) {
        S = (psi_lua_sched *)luaL_checkudata(L, -1, PSI_LUA_CORE);
        if (!S->poller) luaL_error(L, "the scheduler is closed");
        PSI_LUA_GETVALUE(L, -1);
        return S;
    }
    lua_pop(L, 1);
    S = (psi_lua_sched *)PSI_LUA_USERDATA_1(L, sizeof *S);
    memset((void *)S, 0, sizeof *S);
    S->io.kind = PSI_LUA_IS_CORE;
    S->vm = psi_lua_here(L);
    psi_lua_setmetatable(L, PSI_LUA_CORE);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    PSI_LUA_SETVALUE(L, -3);
    if (psocket_poller_new(&S->poller)) luaL_error(L, "no poller can be made: too many open files, or out of memory");
    lua_pushliteral(L, "_core");
    lua_pushvalue(L, -3);
    lua_rawset(L, 1);
    S->id = ++S->vm->ids;
    S->next = S->vm->scheds;
    S->vm->scheds = S;
    return S;
}

static void psi_lua_end_sched(psi_lua_sched *S)
{
    psi_lua_sched **at = &S->vm->scheds;
    if (!S->poller) return;
    psi_lua_wake(S->vm, &S->io); /* whoever runs it inside another one finds it closed */
    psi_lua_forget(S->vm, &S->io);
    while (*at && *at != S) at = &(*at)->next;
    if (*at) *at = S->next;
    for (; S->count; S->count--) psocket_watch_free(S->tasks[S->count].watch);
    psocket_poller_free(S->poller);
    S->poller = NULL;
    S->count = S->live = S->ready = S->woken = S->unused = 0;
}

static int psi_lua_core_gc(lua_State *L)
{
    psi_lua_end_sched((psi_lua_sched *)luaL_checkudata(L, 1, PSI_LUA_CORE));
    return 0;
}

static int psi_lua_sched_close(lua_State *L)
{
    psi_lua_sched *S;
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_pushliteral(L, "_core");
    lua_rawget(L, 1);
    if (lua_isnil(L, -1)) return 0;
    S = (psi_lua_sched *)luaL_checkudata(L, -1, PSI_LUA_CORE);
    if (S->inside) return luaL_error(L, "a task cannot close its scheduler");
    psi_lua_end_sched(S);
    lua_newtable(L);
    PSI_LUA_SETVALUE(L, -2); /* lets go of the coroutines */
    return 0;
}

/* The task is over. table is the index of the scheduler's table; close: with the socket that it owns. */
static void psi_lua_end_task(lua_State *L, psi_lua_sched *S, int table, uint32_t i, int close)
{
    psi_lua_task *t = &S->tasks[i];
    psi_lua_map_remove(S, i);
    psocket_watch_free(t->watch);
    t->watch = NULL;
    t->timer = INT64_MAX;
    t->co = NULL;
    t->age = (uint16_t)((t->age + 1) & ((1u << (32 - PSI_LUA_INDEX_BITS)) - 1));
    S->live--;
    if (!t->queued) {
        t->next = S->unused;
        S->unused = i;
    }
    lua_rawgeti(L, table, (int)(2 * i));
    if (close && lua_touserdata(L, -1)) psi_lua_shut(S->vm, (psi_lua_sock *)lua_touserdata(L, -1));
    lua_pop(L, 1);
    lua_pushboolean(L, 0);
    lua_rawseti(L, table, (int)(2 * i));
    lua_pushboolean(L, 0);
    lua_rawseti(L, table, (int)(2 * i - 1));
}

/* A task has failed with the error on top of its stack: tells errorfunc, or raises it. The scheduler is at 1, the task's
   coroutine on top. Whatever fails in here, the task is over. */
static void psi_lua_failed(lua_State *L, psi_lua_sched *S, int table, uint32_t i, lua_State *co)
{
    int thread = lua_gettop(L), error = thread + 2;
    psi_lua_sock *own;
    if (i) lua_rawgeti(L, table, (int)(2 * i));
    else lua_pushnil(L);
    own = (psi_lua_sock *)lua_touserdata(L, -1);
    if (i) psi_lua_end_task(L, S, table, i, 0);
#if LUA_VERSION_NUM >= 504
    if (lua_checkstack(co, 1)) lua_pushvalue(co, -1); /* to-be-closed variables get it too */
#endif
    lua_xmove(co, L, 1);
    lua_pushcfunction(L, psi_lua_trace);
    lua_pushvalue(L, error);
    lua_pushvalue(L, thread);
    if (lua_pcall(L, 2, 1, 0)) { /* out of memory, or what stands in for debug.traceback */
        lua_pushvalue(L, error);
        lua_replace(L, -2);
    }
    psi_lua_unwind(co, L);
    if (own) psi_lua_shut(S->vm, own);
    lua_getfield(L, 1, "errorfunc");
    if (lua_isnil(L, -1)) {
        lua_pushvalue(L, lua_type(L, error) == LUA_TSTRING ? error + 1 : error);
        lua_error(L);
    }
    lua_insert(L, error);
    lua_call(L, 2, 0);
    lua_settop(L, thread);
}

/* Resumes task i until it waits, yields or ends. keep: if it ends it still counts until the next turn. */
static void psi_lua_resume(lua_State *L, psi_lua_sched *S, int table, uint32_t i, int keep)
{
    psi_lua_vm *vm = S->vm;
    psi_lua_sched *at = vm->at;
    lua_State *co = S->tasks[i].co, *outer = vm->co;
    uint32_t task = vm->task;
    int status, marked, state = psi_lua_state(co);
    if (state == PSI_LUA_RUNNING) { /* by somebody else, for now */
        psi_lua_queue(S, i, PSI_LUA_YIELDED);
        return;
    }
    if (state == PSI_LUA_DEAD) {
        psi_lua_end_task(L, S, table, i, 1);
        return;
    }
    lua_rawgeti(L, table, (int)(2 * i - 1)); /* keeps it alive meanwhile, even if it is removed */
    S->tasks[i].waits = 0;
    S->tasks[i].deadline = INT64_MAX;
    vm->at = S;
    vm->co = co;
    vm->task = psi_lua_id(S, i);
    vm->ops = 0;
    vm->depth++;
    S->inside++;
    S->ran++;
    status = psi_lua_switch(co, L, lua_status(co) == LUA_YIELD ? 0 : lua_gettop(co) - 1, vm, &marked);
    S->inside--;
    vm->depth--;
    vm->at = at;
    vm->co = outer;
    vm->task = task;
    if (!S->tasks[i].co || S->tasks[i].co != co) i = 0; /* it was removed */
    if (status == LUA_YIELD) {
        if (i && !marked && S->tasks[i].waits == PSI_LUA_DIRECT) S->tasks[i].waits = 0; /* it could not yield then */
        if (i && !S->tasks[i].waits) psi_lua_queue(S, i, PSI_LUA_YIELDED);
    } else if (status) {
        psi_lua_failed(L, S, table, i, co);
    } else if (i && keep) {
        psi_lua_queue(S, i, PSI_LUA_WOKEN);
    } else if (i) {
        psi_lua_end_task(L, S, table, i, 1);
    }
    lua_pop(L, 1);
}

/* add(function or coroutine, arguments ...): starts it at once. spawn: starts it in the next turn, and closes the
   socket that is its first argument when it ends. */
static int psi_lua_start(lua_State *L, int spawn)
{
    int n = lua_gettop(L), table, i;
    psi_lua_sched *S;
    lua_State *co = lua_tothread(L, 2);
    uint32_t task;
    if (!co) luaL_checktype(L, 2, LUA_TFUNCTION);
    luaL_checkstack(L, n + 20, "too many arguments");
    S = psi_lua_scheduling(L);
    table = lua_gettop(L);
    if (S->vm->depth >= PSI_LUA_DEPTH) return luaL_error(L, "too many tasks inside each other");
    if (co) {
        int first = lua_pushthread(co);
        lua_pop(co, 1);
        luaL_argcheck(L, !first && psi_lua_state(co) != PSI_LUA_DEAD, 2,
                      "a function or a coroutine that has not ended expected");
        task = psi_lua_find_task(S, co);
        lua_pushvalue(L, 2);
        if (!task) task = psi_lua_new_task(L, S, table, table + 1);
    } else {
        co = lua_newthread(L);
        if (!lua_checkstack(co, n + 1)) return luaL_error(L, "too many arguments");
        for (i = 2; i <= n; i++) lua_pushvalue(L, i);
        lua_xmove(L, co, n - 1);
        task = psi_lua_new_task(L, S, table, table + 1);
    }
    if (spawn) {
        lua_pushvalue(L, 3);
        lua_rawseti(L, table, (int)(2 * task));
        psi_lua_queue(S, task, PSI_LUA_WOKEN);
    } else {
        psi_lua_resume(L, S, table, task, 1);
    }
    return 1;
}

static int psi_lua_add(lua_State *L)
{
    return psi_lua_start(L, 0);
}

static int psi_lua_spawn(lua_State *L)
{
    return psi_lua_start(L, 1);
}

/* getfd(scheduler): the descriptor that becomes readable when step has work, and in how many seconds it will have some
   without that (nil: not before). For a foreign event loop. */
static int psi_lua_getfd(lua_State *L)
{
    psi_lua_sched *S = psi_lua_scheduling(L);
    int ms = S->ready ? 0 : -1;
    psocket_fd fd = psocket_poller_getfd(S->poller, &ms);
    if (fd < 0) lua_pushnil(L); /* the system has none */
    else psi_lua_push_count(L, (double)fd);
    if (ms < 0) lua_pushnil(L);
    else lua_pushnumber(L, (lua_Number)ms / 1000);
    return 2;
}

static int psi_lua_contains(lua_State *L)
{
    psi_lua_sched *S = psi_lua_scheduling(L);
    lua_State *co = lua_tothread(L, 2);
    lua_pushboolean(L, co && psi_lua_find_task(S, co));
    return 1;
}

static int psi_lua_remove(lua_State *L)
{
    psi_lua_sched *S = psi_lua_scheduling(L);
    lua_State *co = lua_tothread(L, 2);
    uint32_t i = co ? psi_lua_find_task(S, co) : 0;
    if (i) psi_lua_end_task(L, S, lua_gettop(L), i, 0);
    lua_pushboolean(L, i != 0);
    return 1;
}

/* Something has happened: wakes the task it is for. */
static void psi_lua_event(psi_lua_sched *S, const psocket_event *e)
{
    uintptr_t key = (uintptr_t)e->user;
    psi_lua_io *io = (psi_lua_io *)e->user;
    int event, unwanted = 0, events = e->events;
    uint32_t i;
    if (!key) return; /* it was taken out meanwhile */
    if (key & 1) {
        psi_lua_task *t;
        i = (uint32_t)(key / 2);
        if (i > S->count || !S->tasks[i].co) return;
        t = &S->tasks[i];
        t->timer = INT64_MAX;
        if (!t->waits || t->deadline == INT64_MAX) return;
        if (t->deadline <= psocket_now() || psi_lua_set_deadline(S, i, t->deadline)) psi_lua_queue(S, i, PSI_LUA_WOKEN);
        return;
    }
    if (io->noted & PSI_LUA_APART) { /* whatever its descriptor has to say, the handshake goes on */
        if (!io->armed) psi_lua_watch(S, io, 0);
        events = io->armed;
    }
    for (event = PSOCKET_READ; event <= PSOCKET_WRITE; event++) {
        if (!(events & event)) continue;
        i = io->armed & event ? psi_lua_lookup(S, io->slot[event >> 1].task) : 0;
        io->armed = (uint8_t)(io->armed & ~event);
        if (i) psi_lua_queue(S, i, PSI_LUA_WOKEN);
        else unwanted |= event;
    }
    if (unwanted & io->interest) psi_lua_watch(S, io, io->interest & ~unwanted);
}

/* Has the task that L runs for, if it has one, wait for a scheduler (at index) that is run inside it: for its poller's
   descriptor fd, and no longer than until. Any other caller just tries again. */
static void psi_lua_await_core(lua_State *L, psi_lua_sched *S, int index, psocket_fd fd, int64_t until)
{
    psi_lua_slot *slot = &S->io.slot[0];
    int inner;
    uint32_t i;
    psi_lua_sched *outer = psi_lua_whose(S->vm, L, &i, &inner);
    if (!outer) return;
    if (fd >= 0) {
        uint32_t id = psi_lua_id(outer, i);
        if (slot->task != id && psi_lua_occupied(L, S->vm, &S->io, index, PSOCKET_READ)) return;
        if (psi_lua_adopt(L, S->vm, outer, &S->io, index, PSOCKET_READ)) return;
        slot->ticket = 1;
        slot->task = id;
        S->io.armed = PSOCKET_READ;
    } else if (until == INT64_MAX || until > psocket_now() + 1) {
        until = psocket_now() + 1; /* a system whose pollers cannot be nested */
    }
    if (until == INT64_MAX || psi_lua_set_deadline(outer, i, until) == 0)
        outer->tasks[i].waits = inner ? PSI_LUA_INNER : PSI_LUA_DIRECT;
}

/* coroutine.close tells nobody: looks for tasks that are dead. */
static void psi_lua_bury(psi_lua_sched *S)
{
    uint32_t i;
    S->ran = 0;
    for (i = 1; i <= S->count; i++)
        if (S->tasks[i].co && !S->tasks[i].queued && psi_lua_state(S->tasks[i].co) == PSI_LUA_DEAD)
            psi_lua_enqueue(S, i, PSI_LUA_WOKEN);
}

/* What turn answers. */
enum { PSI_LUA_FINISHED, PSI_LUA_TURNED, PSI_LUA_YIELD, PSI_LUA_YIELDFUNC };

/* turn(scheduler, seconds, due). Without seconds it goes on until no task is left, else it is one turn that waits at
   most that long. Answers PSI_LUA_FINISHED: no task is left; PSI_LUA_TURNED: the turn is over (without seconds: call
   again; this lets the caller's debug hooks run, an interrupt's too); PSI_LUA_YIELD and due: yield, then call again
   with due; PSI_LUA_YIELDFUNC: call yieldfunc, then call again. */
static int psi_lua_turn(lua_State *L)
{
    int endless, yieldable = psi_lua_yieldable(L), table, turns;
    int64_t due = INT64_MAX;
    psi_lua_sched *S;
    lua_settop(L, 3);
    endless = lua_isnil(L, 2);
    S = psi_lua_scheduling(L);
    table = lua_gettop(L);
    if (S->inside) return luaL_error(L, "a scheduler cannot be run by one of its own tasks");
    if (S->vm->held) return luaL_error(L, "a finalizer cannot run a scheduler while a socket is being read");
    if (S->vm->depth >= PSI_LUA_DEPTH) return luaL_error(L, "too many schedulers inside each other");
    if (S->vm->at && S->vm->at->id == S->io.home && S->vm->task == S->io.slot[0].task) S->io.armed = 0;
    psi_lua_stir(S); /* if somebody else waits for it */
    S->ran++;
    if (!endless && lua_isnil(L, 3)) {
        int ms;
        lua_pushvalue(L, 2);
        ms = psi_lua_pop_ms(L, 2, "the argument");
        if (ms) due = psocket_now() + ms;
        else if ((double)lua_tonumber(L, 2) == 0) due = 0;
    } else if (!endless) {
        due = (int64_t)lua_tonumber(L, 3);
    }
    for (turns = 0; turns < 32; turns++) {
        const psocket_event *events;
        int ms = -1, n, i;
        uint32_t ran;
        if (!S->live && !S->ready) {
            lua_pushinteger(L, PSI_LUA_FINISHED);
            return 1;
        }
        if (due == 0) {
            ms = 0;
        } else if (due != INT64_MAX) {
            int64_t left = due - psocket_now();
            ms = left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
        }
        if (LUA_VERSION_NUM >= 504 && !S->woken && S->ran) { /* at a cost that what ran is worth, or after a second */
            if ((uint64_t)S->ran * 8 >= S->live) psi_lua_bury(S);
            else if (ms < 0 || ms > 1000) ms = 1000;
        }
        if (S->woken || yieldable) {
            ms = 0;
        } else if (S->ready) { /* only such as yielded by themselves: they are in no hurry */
            if (ms) ms = 1;
            if (endless && S->told) {
                ms = S->told = 0;
            } else if (endless) {
                lua_getfield(L, 1, "yieldfunc");
                if (!lua_isnil(L, -1)) {
                    S->told = 1;
                    lua_pushinteger(L, PSI_LUA_YIELDFUNC);
                    return 1;
                }
                lua_pop(L, 1);
            }
        }
        n = psocket_poller_wait(S->poller, &events, ms);
        if (n < 0) return luaL_error(L, "cannot wait for sockets: %s", psocket_strerror(n));
        for (i = 0; i < n; i++) psi_lua_event(S, &events[i]);
        if (n == 0 && ms >= 1000 && S->ran) S->ran = S->live;
        for (ran = S->ready; ran && S->ready; ran--) {
            uint32_t task = psi_lua_unqueue(S);
            if (task) psi_lua_resume(L, S, table, task, 0);
        }
        if (!S->live) continue;
        if (yieldable && (endless || (n == 0 && due && psocket_now() < due))) {
            if (!S->ready) { /* the other scheduler can sleep until this one has something to do */
                int wait = -1;
                psocket_fd fd = psocket_poller_getfd(S->poller, &wait);
                int64_t until = wait < 0 ? INT64_MAX : psocket_now() + wait;
                if (due < until) until = due;
                psi_lua_await_core(L, S, table - 1, fd, until);
            }
            lua_pushinteger(L, PSI_LUA_YIELD);
            lua_pushnumber(L, (lua_Number)(due == INT64_MAX ? 9e15 : (double)due));
            return 2;
        }
        if (!endless || n == 0) break;
    }
    lua_pushinteger(L, S->live ? PSI_LUA_TURNED : PSI_LUA_FINISHED);
    return 1;
}

static int psi_lua_new_scheduler(lua_State *L)
{
    lua_newtable(L);
    psi_lua_setmetatable(L, PSI_LUA_CLASS);
    return 1;
}

/* Everything is made on first use: for constructors of derived classes that call it. */
static int psi_lua_construct(lua_State *L)
{
    (void)L;
    return 0;
}

static int psi_lua_sched_tostring(lua_State *L)
{
    psi_lua_sched *S = NULL;
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_pushliteral(L, "_core");
    lua_rawget(L, 1);
    if (!lua_isnil(L, -1)) S = (psi_lua_sched *)luaL_checkudata(L, -1, PSI_LUA_CORE);
    if (S && !S->poller) lua_pushliteral(L, "psocket scheduler: (closed)");
    else lua_pushfstring(L, "psocket scheduler: (%d tasks)", S ? (int)S->live : 0);
    return 1;
}

/* Checks the arguments of bind; is the scheduler one of ours, and the callback a function? */
static int psi_lua_binding(lua_State *L)
{
    luaL_checkany(L, 1);
    luaL_argcheck(L, lua_istable(L, 1) || lua_isuserdata(L, 1), 1, "scheduler expected");
    lua_getfield(L, 1, "add");
    luaL_argcheck(L, !lua_isnil(L, -1), 1, "scheduler expected");
    if (!lua_isfunction(L, 3)) {
        luaL_argcheck(L, luaL_getmetafield(L, 3, "__call"), 3, "function expected");
        lua_pop(L, 1);
    }
    lua_pushboolean(L, lua_tocfunction(L, -1) == psi_lua_add);
    lua_pushboolean(L, lua_isfunction(L, 3));
    return 2;
}

/* What is plainer in Lua: whatever calls a function that may yield. */
static const char psi_lua_script[] =
    "local M, S, C = ...\n"
    "local accept, binding, dial, looping, resolver, sleep, spawn, turn, yield =\n"
    "  C.accept, C.binding, C.dial, C.looping, C.resolver, C.sleep, C.spawn, C.turn, C.yield\n"
    "local listen, close, pcall, raise = M.listen, M.close, C.pcall, C.raise\n"
    "local forever = { timeout = 0 }\n"
    "function M.connect(host, port, options)\n"
    "  local resolve = resolver(host, port, options)\n"
    "  if not resolve then return dial(host, port, options) end\n"
    "  local list, message, name = resolve(host)\n"
    "  if list then return dial(host, port, options, list) end\n"
    "  return nil, message or 'cannot resolve \"' .. host .. '\"', name or 'DNS'\n"
    "end\n"
    "function M.bind(sched, port, callback, options)\n"
    "  local own, plain, f = binding(sched, port, callback)\n"
    "  if not plain then f, callback = callback, function(s) return f(s) end end\n"
    "  local listener, message, name = listen(port, options)\n"
    "  if not listener then return nil, message, name end\n"
    "  sched:add(function()\n"
    "    while true do\n"
    "      local s, _, why = accept(listener, forever)\n"
    "      if not s then\n"
    "        if why == 'CLOSED_HERE' then return end\n"
    "        sleep(sched, 0.05)\n" /* too many open files, mostly: until some are closed */
    "      elseif own then spawn(sched, callback, s)\n"
    "      else\n"
    "        sched:add(function()\n"
    "          if not pcall then callback(s) return close(s) end\n" /* it could not yield there */
    "          local ok, message = pcall(callback, s)\n"
    "          close(s)\n"
    "          if not ok then raise(message) end\n"
    "        end)\n"
    "      end\n"
    "    end\n"
    "  end)\n"
    "  return listener\n"
    "end\n"
    "function S.addloop(self, f)\n"
    "  looping(self, f)\n"
    "  return self:add(function() while f() ~= false do yield() end end)\n"
    "end\n"
    "function S.run(self)\n"
    "  local what\n"
    "  repeat\n"
    "    what = turn(self)\n"
    "    if what == 2 then yield() elseif what == 3 then self.yieldfunc() end\n"
    "  until what == 0\n"
    "end\n"
    "function S.step(self, seconds)\n"
    "  local what, due = turn(self, seconds or 0)\n"
    "  while what == 2 do\n"
    "    yield()\n"
    "    what, due = turn(self, 0, due)\n"
    "  end\n"
    "  return what ~= 0\n"
    "end\n";

/*--- the module */

/* Puts functions into the table on top, each passed through the Lua function at index wrapper (0: none). */
static void psi_lua_register(lua_State *L, const luaL_Reg *f, int vm, int sock, int wrapper)
{
    for (; f->name; f++) {
        if (wrapper) lua_pushvalue(L, wrapper);
        lua_pushvalue(L, vm);
        lua_pushvalue(L, sock);
        lua_pushcclosure(L, f->func, 2);
        if (wrapper) lua_call(L, 1, 1);
        lua_setfield(L, -2, f->name);
    }
}

static void psi_lua_load(lua_State *L, const char *script, size_t len)
{
    if (luaL_loadbuffer(L, script, len, "=psocket")) lua_error(L);
}

static void psi_lua_new_weak(lua_State *L, const char *mode)
{
    lua_newtable(L);
    lua_newtable(L);
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

PSOCKET_API int luaopen_psocket(lua_State *L)
{
    static const luaL_Reg waiting[] = {
        { "recv", psi_lua_recv }, { "read", psi_lua_read }, { "read_until", psi_lua_read_until },
        { "send", psi_lua_send }, { "shutdown", psi_lua_shutdown }, { "starttls", psi_lua_starttls }, { NULL, NULL }
    };
    static const luaL_Reg hidden_waiting[] = {
        { "accept", psi_lua_accept }, { "dial", psi_lua_connect }, { "sleep", psi_lua_sleep }, { NULL, NULL }
    };
    static const luaL_Reg hidden[] = {
        { "binding", psi_lua_binding }, { "looping", psi_lua_looping }, { "raise", psi_lua_raise },
        { "resolver", psi_lua_resolver }, { "spawn", psi_lua_spawn }, { "turn", psi_lua_turn },
        { "yield", psi_lua_yield }, { NULL, NULL }
    };
    static const luaL_Reg module[] = {
        { "close", psi_lua_close }, { "geterror", psi_lua_geterror }, { "getlocal", psi_lua_getlocal },
        { "getpeer", psi_lua_getpeer }, { "getside", psi_lua_getside }, { "isopen", psi_lua_isopen },
        { "istls", psi_lua_istls }, { "isudp", psi_lua_isudp }, { "listen", psi_lua_listen }, { "now", psi_lua_now },
        { "pair", psi_lua_pair }, { "peek", psi_lua_peek }, { "pending", psi_lua_pending },
        { "setpeer", psi_lua_setpeer }, { "settimeout", psi_lua_settimeout }, { "tls", psi_lua_tls },
        { "tlsinfo", psi_lua_tlsinfo },
        { "udpserver", psi_lua_udpserver }, { "unrecv", psi_lua_unrecv }, { "wrap", psi_lua_wrap }, { NULL, NULL }
    };
    static const luaL_Reg socket_meta[] = {
        { "__gc", psi_lua_gc }, { "__close", psi_lua_close }, { "__tostring", psi_lua_tostring }, { NULL, NULL }
    };
    static const luaL_Reg listener[] = {
        { "close", psi_lua_listener_close }, { "getlocal", psi_lua_listener_getlocal },
        { "hasconnection", psi_lua_hasconnection }, { "settimeout", psi_lua_listener_settimeout },
        { "__gc", psi_lua_listener_gc }, { "__close", psi_lua_listener_close },
        { "__tostring", psi_lua_listener_tostring }, { NULL, NULL }
    };
    static const luaL_Reg settings_meta[] = {
        { "loadsessions", psi_lua_loadsessions }, { "savesessions", psi_lua_savesessions }, { "__gc", psi_lua_tls_gc },
        { NULL, NULL }
    };
    static const luaL_Reg core_meta[] = { { "__gc", psi_lua_core_gc }, { NULL, NULL } };
    static const luaL_Reg scheduler[] = {
        { "add", psi_lua_add }, { "close", psi_lua_sched_close }, { "contains", psi_lua_contains },
        { "getfd", psi_lua_getfd },
        { "new", psi_lua_new_scheduler }, { "remove", psi_lua_remove }, { "__close", psi_lua_sched_close },
        { "__construct", psi_lua_construct }, { "__tostring", psi_lua_sched_tostring }, { NULL, NULL }
    };
    enum { VM = 1, SOCKET, LISTENER, CLASS, MODULE, HIDDEN, WRAPPER };
    int wrapper = 0, event;
    psi_lua_vm *vm;
    lua_settop(L, 0);
    lua_getfield(L, LUA_REGISTRYINDEX, PSI_LUA_MODULE);
    if (!lua_isnil(L, -1)) return 1; /* it was opened before */
    lua_settop(L, 0);

    vm = (psi_lua_vm *)PSI_LUA_USERDATA(L, sizeof *vm);
    memset((void *)vm, 0, sizeof *vm);
    lua_pushcfunction(L, psi_lua_copy);
    vm->copy = luaL_ref(L, LUA_REGISTRYINDEX);
    luaL_newmetatable(L, PSI_LUA_SOCKET);
    luaL_newmetatable(L, PSI_LUA_LISTENER);
    luaL_newmetatable(L, PSI_LUA_CLASS);
    lua_newtable(L); /* the module */
    lua_newtable(L); /* what its script needs besides */
#if LUA_VERSION_NUM < 502
    psi_lua_load(L, psi_lua_wrapper, sizeof psi_lua_wrapper - 1);
    lua_pushvalue(L, VM);
    lua_pushvalue(L, VM);
    lua_pushcclosure(L, psi_lua_yield, 1);
    lua_call(L, 2, 1);
    wrapper = WRAPPER;
    lua_pushvalue(L, HIDDEN);
#endif
    psi_lua_register(L, hidden, VM, SOCKET, 0);
    psi_lua_register(L, hidden_waiting, VM, SOCKET, wrapper);
#if LUA_VERSION_NUM >= 502 || defined(LUA_LJDIR)
    lua_getglobal(L, "pcall"); /* one that can be yielded through */
    lua_setfield(L, -2, "pcall");
#endif
    lua_pushvalue(L, MODULE);
    psi_lua_register(L, module, VM, SOCKET, 0);
    psi_lua_register(L, waiting, VM, SOCKET, wrapper);
    lua_pushliteral(L, PSOCKET_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushvalue(L, CLASS);
    lua_setfield(L, -2, "scheduler");

    lua_pushvalue(L, SOCKET);
    psi_lua_register(L, socket_meta, VM, SOCKET, 0);
    lua_pushvalue(L, MODULE); /* so that module.send(s, ...) and s:send(...) are the same */
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, LISTENER);
    psi_lua_register(L, listener, VM, SOCKET, 0);
    lua_getfield(L, HIDDEN, "accept");
    lua_setfield(L, -2, "accept");
    lua_pushvalue(L, LISTENER);
    lua_setfield(L, -2, "__index");
    luaL_newmetatable(L, PSI_LUA_SETTINGS);
    psi_lua_register(L, settings_meta, VM, SOCKET, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    luaL_newmetatable(L, PSI_LUA_CORE);
    psi_lua_register(L, core_meta, VM, SOCKET, 0);
    lua_pushvalue(L, CLASS);
    psi_lua_register(L, scheduler, VM, SOCKET, 0);
    lua_pushvalue(L, CLASS);
    lua_setfield(L, -2, "__index");
    lua_getfield(L, HIDDEN, "sleep");
    lua_setfield(L, -2, "sleep");
    lua_newtable(L);
    lua_pushcfunction(L, psi_lua_new_scheduler);
    lua_setfield(L, -2, "__call");
    lua_setmetatable(L, CLASS);

    lua_newtable(L); /* its own metatable, and that of what is in it */
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_pushvalue(L, -1);
    lua_setmetatable(L, -2);
    lua_setfield(L, LUA_REGISTRYINDEX, PSI_LUA_PARSED);
    psi_lua_new_weak(L, "v");
    lua_setfield(L, LUA_REGISTRYINDEX, PSI_LUA_ASKING);
    psi_lua_new_weak(L, "k");
    lua_setfield(L, LUA_REGISTRYINDEX, PSI_LUA_ANCHOR);
    lua_newtable(L);
    for (event = PSOCKET_READ; event <= PSOCKET_WRITE; event++) {
        lua_newtable(L);
        lua_newtable(L);
        lua_pushliteral(L, "kv");
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
        lua_rawseti(L, -2, event);
    }
    lua_setfield(L, LUA_REGISTRYINDEX, PSI_LUA_WAITERS);

    psi_lua_load(L, psi_lua_script, sizeof psi_lua_script - 1);
    lua_pushvalue(L, MODULE);
    lua_pushvalue(L, CLASS);
    lua_pushvalue(L, HIDDEN);
    lua_call(L, 3, 0);
    lua_pushvalue(L, MODULE);
    lua_setfield(L, LUA_REGISTRYINDEX, PSI_LUA_MODULE);
    lua_settop(L, MODULE);
    return 1;
}

#endif /* PSOCKET_LUA */

#endif /* PSOCKET_IMPLEMENTATION */

/*
 * MIT License
 *
 * Copyright (c) 2026 psocket contributors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
 * documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
 * rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
 * persons to whom the Software is furnished to do so, subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
 * Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
 * WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
 * COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
 * OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 */
