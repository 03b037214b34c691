/* psocket.h - TCP, UDP and TLS sockets in one file, for C, C++, Lua and firmware. MIT licence, at the end. */

/*==================================================================================================
 * >>doc
 *
 * DO THIS FIRST
 *
 *     #define PSOCKET_IMPLEMENTATION      // in exactly one C or C++ file
 *     #include "psocket.h"
 *
 * and link with -lbearssl (but with PSOCKET_NO_TLS), on POSIX with -pthread (but with PSOCKET_NO_THREADS), on
 * Windows with ws2_32, crypt32, bcrypt and, for BearSSL, advapi32. Other files include it bare.
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
 *     >>api       the declarations, each with its contract      >>hello      both hellos and their extensions
 *     >>config    defaults and detection                        >>auth       certificates and who signs
 *     >>base      memory, errors, helpers                       >>session    what resumes: IDs and tickets
 *     >>os        lwIP, Windows, POSIX: hooks, then one body    >>handshake  states and messages of TLS 1.2 and 1.3
 *     >>ring      the ring of received chunks                   >>tls        TLS settings
 *     >>addr      numeric addresses                             >>watch      what a poller is made of
 *     >>dns       names to addresses                            >>sock       the socket: dial, handshake, send, receive, end
 *     >>x509      PEM, keys, trust, paths, names                >>poll       the poller
 *     >>record    TLS records: encrypt, decrypt, alerts         >>public     argument checks and blocking
 *     >>keys      key schedules of TLS                          >>lua        the Lua module and its scheduler
 *
 * Public names are psocket_* and PSOCKET_*, internal ones psi_* and PSI_*.
 *
 * BLOCKING AND NONBLOCKING are the same functions. With options.nonblocking a call that would wait answers
 * PSOCKET_WANT_READ or PSOCKET_WANT_WRITE: call it again once psocket_wait, a poller or psocket_pollset says
 * so. A blocking call waits no longer than its timeout.
 *
 * THREADS: one socket, one thread at a time; different sockets need no lock and may share a psocket_tls. A TLS
 * socket belongs to one process. Names are resolved on short-lived threads.
 *
 * MACROS                     scope           meaning
 * PSOCKET_IMPLEMENTATION     one file        compile the implementation here
 * PSOCKET_LUA                implementation  add luaopen_psocket (needs lua.h and lauxlib.h)
 * PSOCKET_STATIC             every include   declare everything static
 * PSOCKET_NO_TLS             implementation  no TLS, no BearSSL: TLS calls answer PSOCKET_UNSUPPORTED
 * PSOCKET_NO_TLS12           implementation  TLS 1.3 only
 * PSOCKET_NO_TLS13           implementation  TLS 1.2 only
 * PSOCKET_NO_CLIENT          implementation  no TLS clients
 * PSOCKET_NO_SERVER          implementation  no TLS servers
 * PSOCKET_NO_TEXT            implementation  errors have their code's text only: smaller firmware
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
 * PSOCKET_DATAGRAM           implementation  largest datagram that is received, in bytes (65536)
 * PSOCKET_ADDRESSES          implementation  most addresses of one name that are tried (16)
 * PSOCKET_RESOLVER_THREADS   implementation  names resolved at once; more queue (96)
 * PSOCKET_CHAIN_BYTES        implementation  most bytes of certificates taken from a peer (102400)
 * PSOCKET_CHAIN_DEPTH        implementation  most certificates on a verified path, without its anchor (10)
 * PSOCKET_CHECK              implementation  for tests: a file that says what must hold after each call
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
#elif defined(__cplusplus)
#define PSOCKET_API extern "C"
#else
#define PSOCKET_API extern
#endif

#define PSOCKET_VERSION "0.2.0"

/* Every result code: X(NAME, value, text). Negative, so that byte counts and codes share one return value. */
#define PSOCKET_CODES(X) PSOCKET_SOCKET_CODES(X) PSOCKET_TLS_CODES(X)

/* Those that any socket may meet, */
#define PSOCKET_SOCKET_CODES(X) \
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
    X(UNSUPPORTED,      -12,   "not supported here") \
    X(LIMIT,            -13,   "a limit was reached") \
    /* operating system */ \
    X(OS,               -20,   "operating system error") \
    X(REFUSED,          -21,   "connection refused") \
    X(UNREACHABLE,      -22,   "host or network unreachable") \
    X(ADDRESS_IN_USE,   -23,   "address already in use") \
    X(ADDRESS_NOT_AVAILABLE, -24, "address not available on this machine") \
    X(ACCESS,           -25,   "permission denied") \
    X(DESCRIPTORS,      -26,   "too many open files") \
    X(MESSAGE_SIZE,     -27,   "datagram too large") \
    /* names */ \
    X(DNS_NOT_FOUND,    -40,   "no such host name") \
    X(DNS_TEMPORARY,    -41,   "the name server does not answer for now") \
    X(DNS,              -42,   "name resolution failed")

/* and those of TLS alone. */
#define PSOCKET_TLS_CODES(X) \
    X(ALREADY_TLS,      -11,   "the socket is using TLS already") \
    X(PLAINTEXT,        -14,   "plaintext is waiting in the receive buffer: read it before starting TLS") \
    X(WANT_DECISION,    -15,   "waits for psocket_decide") \
    X(WANT_SIGNATURE,   -16,   "waits for psocket_signed") \
    X(FILE,             -28,   "cannot read the file") \
    X(NO_ENTROPY,       -29,   "no source of random numbers") \
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

/* Resolves a host name in place of getaddrinfo, once per connect: call psocket_resolve_add and
   psocket_resolve_done on r, at once or later, from any thread. host is valid until done. */
typedef void (*psocket_resolve_fn)(void *user, psocket_resolve *r, const char *host);

/* Options of a socket. All zero: blocking TCP without a time limit. No negative numbers. Strings are copied. */
typedef struct psocket_options {
    int nonblocking;          /* answer PSOCKET_WANT_* instead of waiting */
    int udp;                  /* connect, listen: a UDP socket, where one datagram is one chunk */
    int timeout_ms;           /* limit of each operation, of a send since bytes last left; 0 none. A
                                 nonblocking operation lasts from its first WANT_* to its last: send until
                                 it answers one */
    int attempt_delay_ms;     /* time between connection attempts, RFC 8305 section 5; 0 means 250 */
    int backlog;              /* listen: queue length; 0 means the system's most */
    int keepalive;            /* seconds of silence after which a stream's peer is probed, to be given up
                                 after as many again; 0 never */
    const char *local;        /* connect: the numeric address to come from; NULL: any */
    int local_port;           /* connect: the local port; 0 any */
    int reuse_port;           /* listen: sockets may share address and port (SO_REUSEPORT); streams on Windows
                                 and lwIP: PSOCKET_UNSUPPORTED */
    int v6only;               /* listen: no IPv4, which "::" and no address take, too, where the system can */
    int broadcast;            /* UDP: broadcast addresses may be sent to */
    const char *multicast_group; /* UDP, listen: the group to join, an IPv4 or IPv6 address */
    const char *multicast_interface; /* UDP: its name or number (Windows: number); NULL: the system's choice */
    int multicast_ttl;        /* UDP: hops that what is sent to a group may take; 0: the system's 1 */
    int multicast_noloop;     /* UDP: what is sent to a group does not come back to this machine */
    size_t recv_limit;        /* stop reading when this many bytes are unread; 0 means PSOCKET_RECV_LIMIT */
    psocket_resolve_fn resolve; /* NULL: the system's resolver on a helper thread */
    void *resolve_user;       /* first argument of resolve */
    psocket_error *error;     /* filled when no socket can be made, also by psocket_accept: it has to live as
                                 long as a listener; may be NULL */
} psocket_options;

/* A certificate chain (leaf first) and its private key: PEM text, or DER. Length 0: NUL-terminated PEM. */
typedef struct psocket_identity {
    const void *chain;
    size_t chain_len;
    const void *key; /* PKCS#8, PKCS#1 or SEC 1; RSA up to 4096 bits or EC P-256, P-384, P-521; not encrypted */
    size_t key_len;
    const char *cert_file; /* read by psocket_tls_new if chain is NULL */
    const char *key_file;  /* read if key is NULL */
    int ask;         /* 1: there is no key to be read; the application makes each signature, PSOCKET_WANT_SIGNATURE */
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
    const void *ca;              /* trust anchors: PEM text or DER certificates back to back; any of ca, ca_file
                                    and ca_dir replaces the system's store */
    size_t ca_len;               /* 0: ca is NUL-terminated PEM */
    const char *ca_file;         /* PEM bundle */
    const char *ca_dir;          /* folder of PEM files */
    const psocket_identity *identities; /* servers: at least one; clients: the first that fits a request is shown */
    size_t identity_count;
    const char *const *alpn;     /* application protocols, most wanted first (RFC 7301) */
    size_t alpn_count;
    int client_auth;             /* servers: PSOCKET_CLIENT_AUTH_*; verified against ca */
    const uint8_t *spki_pins;    /* SHA-256 digests, 32 bytes each: one certificate of the verified path must match one */
    size_t spki_pin_count;
    int decide;                  /* 1: the application has the last word on each peer's certificate,
                                    PSOCKET_WANT_DECISION; it is not asked again when a session is resumed
                                    (session_cache -1 and tickets -1: none is) */
    const char *suites;          /* of TLS 1.3 and 1.2, by IANA's names, most wanted first, with colons between; NULL: all */
    const char *groups;          /* the same for the key exchange: "x25519:secp256r1:secp384r1:secp521r1" */
    const char *sigalgs;         /* the same for the signatures of handshakes: "ecdsa_secp256r1_sha256" ... */
    int min_version, max_version; /* 0x0303 TLS 1.2, 0x0304 TLS 1.3; 0: all that this build has */
    size_t max_fragment;         /* largest encrypted record taken, 64 to 16384 (RFC 8449; 512, 1024, 2048, 4096:
                                    RFC 6066 4, too): a larger one is an error; 0: 16384 */
    const uint8_t *ticket_keys;  /* servers: 32 random bytes each; the first makes tickets, all are accepted, so that
                                    a fleet can share them. NULL: keys of the process, renewed every 12 hours and
                                    accepted for 12 more */
    size_t ticket_key_count;     /* at most 16 */
    int tickets;                 /* servers: tickets per TLS 1.3 connection; 0 means 2, -1 none, of TLS 1.2 neither */
    int session_cache;           /* sessions remembered; 0: servers 256 (TLS 1.2 session IDs), clients 32; -1 none */
    int64_t (*clock)(void *user); /* seconds since 1970 UTC, asked by calls on tls and in handshakes; NULL: the system's */
    void *clock_user;
    int insecure_no_verify;      /* accept any certificate: encrypts to whoever answers */
    int insecure_no_name;        /* verify the chain but not for whom it was issued */
    psocket_error *error;        /* filled when psocket_tls_new fails; may be NULL */
} psocket_tls_options;

/* What a TLS connection agreed on. Strings are empty when there is nothing to tell. */
typedef struct psocket_tlsinfo {
    int version;                 /* 0x0303 for TLS 1.2, 0x0304 for TLS 1.3 */
    int suite;                   /* IANA cipher suite number */
    int resumed;                 /* 1 if an earlier session was resumed */
    int extended_master_secret;  /* 1 with RFC 7627, which TLS 1.3 does not need */
    int group, sigalg;           /* IANA numbers: the key exchange's group, the server's signature; 0 when resumed without */
    char group_name[16];         /* "x25519" */
    char sigalg_name[32];        /* "ecdsa_secp256r1_sha256" */
    char version_name[8];        /* "TLSv1.3" */
    char suite_name[48];         /* IANA name */
    char alpn[256];              /* agreed application protocol */
    char server_name[256];       /* the name asked for (RFC 6066 SNI on a server) */
    char peer_subject[256];      /* peer's certificate: empty if it sent none */
    uint8_t peer_sha256[32];
    uint8_t peer_spki_sha256[32];
    int64_t peer_not_before, peer_not_after;
} psocket_tlsinfo;

/* What a handshake asks while calls answer PSOCKET_WANT_DECISION or PSOCKET_WANT_SIGNATURE. Pointers are valid
   until the next call on the socket. */
typedef struct psocket_question {
    int kind;                    /* PSOCKET_WANT_DECISION or PSOCKET_WANT_SIGNATURE */
    psocket_certinfo peer;       /* decision: the peer's certificate, */
    const uint8_t *certificate;  /* its DER, */
    size_t certificate_len;
    psocket_error verdict;       /* and what verification says: code 0, or the first fault. CERT_EXPIRED means that
                                    all else was good, CERT_NAME says nothing of dates */
    size_t identity;             /* signature: which of the settings' identities is to sign, */
    int scheme;                  /* how (RFC 8446 4.2.3, in TLS 1.2, too), */
    const char *scheme_name;     /* "ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256" (salt as long as the digest) ... */
    const char *hash_name;       /* "sha256", "sha384", "sha512" */
    const uint8_t *digest;       /* and what: the hash of the content */
    size_t digest_len;
} psocket_question;

/* A descriptor to wait for in a foreign event loop. */
typedef struct psocket_pollfd {
    psocket_fd fd;
    int events; /* PSOCKET_READ | PSOCKET_WRITE */
} psocket_pollfd;

/* A transport: what carries a stream in place of a descriptor. user is what psocket_open was given. No function
   may be NULL, wait, or call psocket for the socket that it carries. *os: a system's error number, if any. */
typedef struct psocket_transport {
    /* Stores up to n bytes that have come: how many, 0 at the stream's end, PSOCKET_WANT_READ, or an error. */
    ptrdiff_t (*get)(void *user, void *p, size_t n, int *os);
    /* Takes up to n bytes: how many, PSOCKET_WANT_WRITE, or an error. n 0: hands on what it holds, 0: out. */
    ptrdiff_t (*put)(void *user, const void *p, size_t n, int *os);
    /* No more will be put: 0, PSOCKET_WANT_WRITE, or an error. */
    int (*finish)(void *user, int *os);
    /* The socket lets go of the transport; called once, last. */
    void (*close)(void *user);
    /* As psocket_pollset: what to wait for until a get (PSOCKET_READ) or put (PSOCKET_WRITE) would not wait,
       *ms 0 if one would not now. Something has to tell: a descriptor or a time. */
    int (*wants)(void *user, int events, psocket_pollfd *fds, int cap, int *ms);
} psocket_transport;

/* What a poller reports. */
typedef struct psocket_event {
    void *user;   /* as given to psocket_poller_set or psocket_poller_watch */
    int events;   /* PSOCKET_READ | PSOCKET_WRITE: that call will not answer WANT; 0: the time given has passed */
} psocket_event;

/* --- sockets ---------------------------------------------------------------------------------------------------- */

/* Connects to host (an IPv4 or IPv6 address, a name, or "unix:/path") and port (1 to 65535; 0 with a path).
   Blocks until connected; nonblocking: *out is set at once and psocket_step, psocket_wait or a data call
   carries on. Names are resolved off this thread and addresses raced (RFC 8305); localhost is answered here.
   Paths: POSIX, else PSOCKET_UNSUPPORTED; "unix:@name" is an abstract name on Linux. With options.udp nothing
   is sent, and nobody but the peer is heard: members of a group answer who sends from psocket_listen's socket
   with psocket_setpeer. On error *out is NULL and opt->error tells; else psocket_free it. opt may be NULL. */
PSOCKET_API int psocket_connect(psocket **out, const char *host, int port, const psocket_options *opt);

/* Listens on port (0: any free one) of address: NULL for all, an IP address, "address:port", "[v6]:port" or
   "unix:/path". With options.udp: a UDP socket, whose peer is the sender of the datagram last received. Does
   not block. Accepted sockets inherit opt. */
PSOCKET_API int psocket_listen(psocket **out, const char *address, int port, const psocket_options *opt);

/* Takes a listener's next connection. Blocks, or answers PSOCKET_WANT_READ. *out is the caller's.
   PSOCKET_INVALID if s is no listener. An error is also told in the listener's options.error. */
PSOCKET_API int psocket_accept(psocket *s, psocket **out);

/* 1 if psocket_accept would not wait, 0 if it would, or an error (no listener: INVALID). Never blocks. */
PSOCKET_API int psocket_hasconnection(psocket *s);

/* Makes a socket of a descriptor that exists: a connected stream (from inetd, socketpair, another library), a
   listener or a UDP socket. side: PSOCKET_CLIENT or _SERVER, for TLS. Owns fd on success only, and makes it
   nonblocking for the system. Does not block. */
PSOCKET_API int psocket_adopt(psocket **out, psocket_fd fd, int side, const psocket_options *opt);

/* Makes a stream socket on a transport of your own. *t must outlive it, user goes to each of its functions; it
   is closed with the socket, on success only. */
PSOCKET_API int psocket_open(psocket **out, const psocket_transport *t, void *user, int side, const psocket_options *opt);

/* A stream socket carried by another one (TLS within TLS, for proxies). Owns carrier, on success only. */
PSOCKET_API int psocket_wrap(psocket **out, psocket *carrier, const psocket_options *opt);

/* Two connected stream sockets of this process; the first counts as client. Free each. */
PSOCKET_API int psocket_pair(psocket **a, psocket **b, const psocket_options *opt);

/* --- data ------------------------------------------------------------------------------------------------------- */

/* Sends. Blocking: all of it (returns len) or an error. Nonblocking: how many bytes were taken, at least 1, or
   WANT_*; under TLS they may wait in the socket until psocket_flush, psocket_poller_wait or the next call: what
   is sent first in a poller's turn leaves at once, the rest together. UDP: one datagram, which may be empty; a
   stream takes len 0 for nothing. After an error psocket_geterror tells how many bytes had been taken. */
PSOCKET_API ptrdiff_t psocket_send(psocket *s, const void *data, size_t len);

/* Hands what psocket_send took to the system: 0 when all is out, or PSOCKET_WANT_WRITE. Blocking: waits. */
PSOCKET_API int psocket_flush(psocket *s);

/* Takes the oldest chunk: one transport read, TLS record or datagram. *data points into the socket's buffer,
   until the next call on s or the next psocket_poller_wait of its poller. Returns its length (0: an empty
   datagram), WANT_*, or, once all chunks are taken, how the stream ended: PSOCKET_CLOSED (cleanly), TRUNCATED,
   RESET, TIMEOUT (retry), CLOSED_HERE. A clean end stays one, also when a later psocket_send meets the reset of
   a peer that is gone. With many busy sockets receive until WANT_READ: the next one gets the buffer at once. */
PSOCKET_API ptrdiff_t psocket_recv(psocket *s, const void **data);

/* Like psocket_recv but leaves the chunk and never waits: PSOCKET_WANT_READ if there is none. */
PSOCKET_API ptrdiff_t psocket_peek(psocket *s, const void **data);

/* Puts a copy in front of all chunks. data may be what psocket_recv just returned. 0 or an error. */
PSOCKET_API int psocket_unrecv(psocket *s, const void *data, size_t len);

/* Takes exactly n bytes, across chunks, also more than recv_limit. If the stream ends or the time passes first
   nothing is taken: retry, or fetch the rest with psocket_recv. Data as in psocket_recv. */
PSOCKET_API ptrdiff_t psocket_read(psocket *s, size_t n, const void **data);

/* Takes all up to and including delimiter (NUL-terminated, not empty), at most max bytes, which may be more
   than recv_limit: PSOCKET_LIMIT, and nothing is taken, if it is not within them. Otherwise as psocket_read. */
PSOCKET_API ptrdiff_t psocket_read_until(psocket *s, const char *delimiter, size_t max, const void **data);

/* Bytes received and not yet taken. Never blocks, does not read. */
PSOCKET_API size_t psocket_pending(const psocket *s);

/* Half-close: ends the sending direction (TLS: close_notify first) after all sent data; receiving goes on. */
PSOCKET_API int psocket_shutdown(psocket *s);

/* Closes without waiting (TLS: close_notify if it can leave at once). Keys are wiped. Chunks received stay
   readable, then every call answers PSOCKET_CLOSED_HERE. Safe to call again. A peer that still sends hears a
   reset, which can take from it what was sent last: who has answered before all was read ends in stages:
   psocket_shutdown, psocket_recv until it answers neither data nor WANT_*, within a time limit, then this. */
PSOCKET_API void psocket_close(psocket *s);

/* Closes and frees. NULL is fine. */
PSOCKET_API void psocket_free(psocket *s);

/* --- TLS -------------------------------------------------------------------------------------------------------- */

/* Parses settings once, for any number of sockets. Copies all it needs; files are read here. Free with
   psocket_tls_free. PSOCKET_UNSUPPORTED: on x86-64 with a BearSSL built without SSE2 or 128-bit integers. */
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

/* What a handshake asks. 0, or PSOCKET_INVALID if it asks nothing. Never blocks. A poller reports the socket
   until that is answered: take it out meanwhile, with psocket_poller_set(p, s, 0, -1, NULL). */
PSOCKET_API int psocket_getquestion(psocket *s, psocket_question *q);

/* Answers PSOCKET_WANT_DECISION: 0 accepts the peer's certificate, a PSOCKET_ code refuses it and becomes the error, with its
   alert. Call psocket_starttls again (its other arguments do not count), or psocket_step, to carry on. 0 or PSOCKET_INVALID.
   The handshake's timeout runs on meanwhile, and ends it when it has to wait again. */
PSOCKET_API int psocket_decide(psocket *s, int code);

/* Answers PSOCKET_WANT_SIGNATURE: ECDSA in DER, RSA as long as the modulus; len 0 refuses. Then as psocket_decide. What the
   certificate's key does not verify is never sent: the handshake fails with PSOCKET_TLS_KEY. */
PSOCKET_API int psocket_signed(psocket *s, const void *sig, size_t len);

/* Fills out with n bytes that only the two ends know (RFC 5705, RFC 8446 7.5), for label and context (NULL: none). The labels
   "tls-exporter" (32 bytes, RFC 9266) and "tls-server-end-point" (32 to 64, RFC 5929) are channel bindings. Returns the bytes
   written, PSOCKET_INVALID (also for labels that RFC 5705 4 reserves), or PSOCKET_UNSUPPORTED for tls-unique and if TLS 1.2 was
   spoken without extended master secret. */
PSOCKET_API ptrdiff_t psocket_tls_export(psocket *s, const char *label, const void *context, size_t context_len,
                                         void *out, size_t n);

/* 1 once a handshake has completed, 0 before. */
PSOCKET_API int psocket_istls(const psocket *s);

/* Fills *info; PSOCKET_INVALID if the socket is not using TLS. */
PSOCKET_API int psocket_gettlsinfo(const psocket *s, psocket_tlsinfo *info);

/* Would a client with these settings (NULL: default) accept this chain (PEM, leaf first; len 0: NUL-terminated) for
   name (NULL only with insecure_no_name) now, by the settings' clock? 0 if so, else the reason, with details in *e (may
   be NULL). Does not block. */
PSOCKET_API int psocket_tls_verify(psocket_tls *tls, const void *chain, size_t len, const char *name, psocket_error *e);

/* Stores what resumes a client's sessions (per server name, port and settings; tls NULL: the default settings) as bytes:
   returns how many they are, or an error, and writes them only if size suffices (ask with NULL, 0 first). They hold
   master secrets: keep them as safe as private keys. Thread-safe. */
PSOCKET_API ptrdiff_t psocket_tls_savesessions(psocket_tls *tls, void *buf, size_t size);

/* Adds sessions that psocket_tls_savesessions stored, leaving out those that have expired, that are here already or,
   with TLS 1.2, whose server has one here. PSOCKET_INVALID, and nothing is added, if the bytes are damaged, or if these
   settings verify otherwise (trust anchors, pins, decide, insecure_*) or prove other identities than those that stored
   them. Thread-safe. */
PSOCKET_API int psocket_tls_loadsessions(psocket_tls *tls, const void *data, size_t len);

/* --- state ------------------------------------------------------------------------------------------------------ */

/* The peer's (UDP: last sender's) port and address without brackets, IPv4-mapped as IPv4. ip may be NULL; 64
   bytes hold any IP address, 128 a path. PSOCKET_INVALID while not connected. */
PSOCKET_API int psocket_getpeer(const psocket *s, char *ip, size_t ip_size, int *port);

/* The same of the local end; valid while open. */
PSOCKET_API int psocket_getlocal(const psocket *s, char *ip, size_t ip_size, int *port);

/* UDP: sends to this numeric address from now on. */
PSOCKET_API int psocket_setpeer(psocket *s, const char *ip, int port);

/* PSOCKET_CLIENT or PSOCKET_SERVER. */
PSOCKET_API int psocket_getside(const psocket *s);

/* 1 while open in both directions; notices the peer's close without taking data; never blocks. */
PSOCKET_API int psocket_isopen(psocket *s);

/* 1 for a UDP socket. */
PSOCKET_API int psocket_isudp(const psocket *s);

/* Changes options.timeout_ms (below 0: none); what is under way begins its time anew. */
PSOCKET_API void psocket_settimeout(psocket *s, int timeout_ms);

/* Switches between blocking and nonblocking. */
PSOCKET_API void psocket_setnonblocking(psocket *s, int on);

/* The descriptor, for options of the system and foreign loops (a listener's is readable when a connection
   waits); -1 if s has none, or not yet. It stays s's own. */
PSOCKET_API psocket_fd psocket_getfd(const psocket *s);

/* Copies the last error that a call answered for s, other than WANT_*, into *e (may be NULL) and returns its
   code, 0 if none. Functions of a const psocket only ask, and leave it. */
PSOCKET_API int psocket_geterror(const psocket *s, psocket_error *e);

/* A constant text for a code; "unknown code" for others, as those of TLS are with PSOCKET_NO_TLS. */
PSOCKET_API const char *psocket_strerror(int code);

/* A code's name without the prefix, "TIMEOUT"; NULL for others. */
PSOCKET_API const char *psocket_codename(int code);

/* --- waiting ---------------------------------------------------------------------------------------------------- */

/* Carries on whatever is pending: resolving, connecting, handshaking, flushing. 0 when nothing is, WANT_*, or
   an error. Never blocks. */
PSOCKET_API int psocket_step(psocket *s);

/* Waits up to ms milliseconds (-1: for ever) until a call of the kind events (PSOCKET_READ | PSOCKET_WRITE)
   would not answer WANT. Returns the events that are ready (an ended socket is, and one whose time is over), 0
   when the time has passed, or an error. Drives connecting and handshaking, and returns events when that is
   done. Too little for the psocket_read that wanted more is told once. With PSOCKET_SIGNAL in events a signal
   ends the wait: PSOCKET_SIGNAL. */
PSOCKET_API int psocket_wait(psocket *s, int events, int ms);

/* For foreign loops: stores up to cap descriptors to wait for if the caller wants events, and lowers *ms (in:
   the longest wait, -1 for ever) to the next deadline, or 0 when a call would not wait. Then call psocket_step
   or the data call again. Returns how many there are, at most PSOCKET_POLLSET_MAX, or an error. */
#define PSOCKET_POLLSET_MAX 10
PSOCKET_API int psocket_pollset(psocket *s, int events, psocket_pollfd *fds, int cap, int *ms);

/* A set of sockets, foreign descriptors and timers: epoll, kqueue, poll, or select on Windows. Level-triggered.
   One thread at a time, but for psocket_poller_wake. After fork the child can only free it. */
PSOCKET_API int psocket_poller_new(psocket_poller **out);

/* Frees the set; sockets and watches stay as they are. NULL is fine. */
PSOCKET_API void psocket_poller_free(psocket_poller *p);

/* Watches s for events (0: stop watching), or for timeout_ms (-1: none) to pass, in place of what was set
   before. Closing or freeing s removes it. A socket is in one poller at a time, and a descriptor once in a
   poller: PSOCKET_BUSY (with kqueue and poll the latter is not told). What the system refuses is taken out.
   psocket_poller_wait drives connecting and handshaking. Cheap when nothing changes. */
PSOCKET_API int psocket_poller_set(psocket_poller *p, psocket *s, int events, int timeout_ms, void *user);

/* The same for a descriptor that is not psocket's, or (fd -1) for the time alone: reported with events 0 once
   timeout_ms have passed. *w is NULL at first, then the handle for what is set later (events 0, timeout_ms -1:
   nothing for now). Take a descriptor out before you close it. With fd -1 events may be PSOCKET_SIGNAL: a
   signal has interrupted the wait. Files that the system cannot wait for: PSOCKET_UNSUPPORTED. On an error *w,
   if it was set, waits for nothing. */
PSOCKET_API int psocket_poller_watch(psocket_poller *p, psocket_watch **w, psocket_fd fd, int events, int timeout_ms, void *user);

/* Stops and frees a watch, before or after its poller. NULL is fine. */
PSOCKET_API void psocket_watch_free(psocket_watch *w);

/* Waits up to ms (-1: for ever). *events is the poller's own array, valid until the next psocket_poller_wait.
   Returns how many there are, 0 when the time has passed or the poller was woken, or an error. A set timeout is
   reported once. What is removed from the poller leaves an entry of user NULL, events 0. */
PSOCKET_API int psocket_poller_wait(psocket_poller *p, const psocket_event **events, int ms);

/* Makes a psocket_poller_wait, now or the next one, return. From any thread. */
PSOCKET_API void psocket_poller_wake(psocket_poller *p);

/* The poller's own descriptor, readable when psocket_poller_wait(p, ..., 0) has work, for nesting in a foreign
   loop; -1 if the system has none. *ms (may be NULL) is lowered to the next deadline as in psocket_pollset. */
PSOCKET_API psocket_fd psocket_poller_getfd(psocket_poller *p, int *ms);

/* --- the application's own resolver ------------------------------------------------------------------------------ */

/* Adds one numeric address to the answer. Any thread. 0 or PSOCKET_INVALID / PSOCKET_LIMIT. */
PSOCKET_API int psocket_resolve_add(psocket_resolve *r, const char *ip);

/* Ends the lookup: code 0, or PSOCKET_DNS*. r is gone afterwards. Exactly once, from any thread. */
PSOCKET_API void psocket_resolve_done(psocket_resolve *r, int code);

/* Milliseconds of the monotonic clock that timeouts are measured with. */
PSOCKET_API int64_t psocket_now(void);

/* Frees what the process shares (default TLS settings). Only when no socket is left; not needed before exit. */
PSOCKET_API void psocket_cleanup(void);

#ifdef PSOCKET_LUA
struct lua_State;
#if defined(_WIN32) && !defined(PSOCKET_STATIC)
#define PSOCKET_LUA_API PSOCKET_API __declspec(dllexport)
#elif defined(__GNUC__) && !defined(PSOCKET_STATIC)
#define PSOCKET_LUA_API PSOCKET_API __attribute__((visibility("default")))
#else
#define PSOCKET_LUA_API PSOCKET_API
#endif
/* The Lua module's loader, for package.preload or require. A library exports it, whatever else it hides. */
PSOCKET_LUA_API int luaopen_psocket(struct lua_State *L);
#endif

#endif /* PSOCKET_H */

#if defined(PSOCKET_IMPLEMENTATION) && !defined(PSOCKET_IMPLEMENTED)
#define PSOCKET_IMPLEMENTED

/*==================================================================================================
 * >>config
 * Defaults and detection, once. Below this section conditionals stand around whole functions only, but in >>os
 * and >>lua.
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
#define PSOCKET_RESOLVER_THREADS 96 /* names resolved at once; more queue */
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

#ifdef __cplusplus
#define PSI_ZERO {}
#else
#define PSI_ZERO {0}
#endif

#if defined(__GNUC__) || defined(__clang__)
#define PSI_UNUSED __attribute__((unused))
#define PSI_APART __attribute__((noinline)) /* its frame is not to be a part of its caller's, whose stack must stay small */
#define PSI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define PSI_UNUSED
#define PSI_APART
#define PSI_PRINTF(f, a)
#endif

/*==================================================================================================
 * >>base
 * Memory, texts of codes and little helpers. Whoever calls psi_alloc owns the result and ends it with psi_free.
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

/* A block of n bytes in place of p (may be NULL), whose first `used` bytes are kept. NULL leaves p as it is. */
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

/* Zeroes memory that held secrets; a call through a volatile pointer may not be left out by the compiler. */
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

/* All from s to end as a decimal number of up to `most` digits: 1 or 0. */
static int psi_number(uint32_t *v, const char *s, const char *end, int most)
{
    *v = 0;
    if (s == end || end - s > most) return 0;
    for (; s < end && *s >= '0' && *s <= '9'; s++) *v = *v * 10 + (uint32_t)(*s - '0');
    return s == end;
}

/* The string that belongs to a code, of strings that follow each other as the codes do; "" if there is none. (A
   third of the size of a switch or of an array of pointers.) */
static const char *psi_string_of(int code, const short *codes, const char *strings)
{
    for (; *strings && *codes != code; codes++) strings += strlen(strings) + 1;
    return strings;
}

#ifdef PSOCKET_NO_TLS
#define PSI_CODES PSOCKET_SOCKET_CODES /* a build without TLS never answers the others */
#else
#define PSI_CODES PSOCKET_CODES
#endif

#define PSOCKET_X(name, value, text) value,
static const short psi_codes[] = { PSI_CODES(PSOCKET_X) };
#undef PSOCKET_X

PSOCKET_API const char *psocket_strerror(int code)
{
#define PSOCKET_X(name, value, text) text "\0"
    static const char texts[] = PSI_CODES(PSOCKET_X);
#undef PSOCKET_X
    const char *text = psi_string_of(code, psi_codes, texts);
    return *text ? text : "unknown code";
}

PSOCKET_API const char *psocket_codename(int code)
{
#define PSOCKET_X(name, value, text) #name "\0"
    static const char names[] = PSI_CODES(PSOCKET_X);
#undef PSOCKET_X
    const char *name = psi_string_of(code, psi_codes, names);
    return *name ? name : NULL;
}

/*==================================================================================================
 * >>os
 * The operating system behind one small interface: a block of hooks for each of lwIP, Windows and POSIX, then
 * one body on the sockets that all three have. Nothing below this section makes a system call. A result is 0
 * or more, or a PSOCKET_ code; *os receives the system's own error number. Every descriptor made here is
 * nonblocking and not inherited by child processes, and never raises SIGPIPE.
 *================================================================================================*/

enum { PSI_UNIX = 1, PSI_IP4 = 4, PSI_IP6 = 6 };

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

/* Options of a descriptor; all zero leaves it as it is. The texts in opt have been read, and may be gone. */
typedef struct psi_os_settings {
    psi_addr local, group;    /* to connect from; to join */
    uint32_t interface_index; /* where multicasts leave and groups are joined; 0: the system's choice */
    psocket_options opt;
} psi_os_settings;

#if !defined(PSOCKET_NO_FILES) && !defined(PSOCKET_NO_TLS) && !defined(PSOCKET_LWIP)
#define PSI_OS_FILES
#define PSI_OS_PATH 1024 /* longest path */
#endif

enum { PSI_OS_STREAM = 1, PSI_OS_DATAGRAM, PSI_OS_LISTENER }; /* what psi_os_adopt tells */

/* What a block defines:
 *     PSI_SYS, PSI_E           a function of the sockets, and an error number, by their POSIX names
 *     PSI_OS_ERRNO             why the last call failed
 *     PSI_OS_CODES             rows of the table in psi_os_code that it alone has
 *     PSI_OS_IP6, PSI_OS_IP4, PSI_OS_UNIX   which families there are
 *     psi_os_int, psi_os_len, psi_os_octet  types: of a descriptor, of a length, of a small option of IPv4
 *     PSI_OS_PORT, PSI_OS_SHARE  options of what is bound, 0 for none: always; to share its port, 0 if that cannot be
 *     psi_os_raw_*, psi_os_make_ready       calls that differ by more than their names, with the results of POSIX
 *     and the clock, randomness, threads, and files if it has any */
#if defined(PSOCKET_LWIP)
/*--- lwIP 2.1 and later ---------------------------------------------------------------------------------*/

#include "lwip/api.h"
#include "lwip/errno.h"
#include "lwip/if_api.h"
#include "lwip/netdb.h"
#include "lwip/priv/sockets_priv.h"
#include "lwip/sockets.h"
#include "lwip/sys.h"
#include "lwip/tcpip.h"

#if !LWIP_SOCKET || !LWIP_SOCKET_POLL
#error "psocket: lwIP needs LWIP_SOCKET and LWIP_SOCKET_POLL"
#endif
#if !LWIP_DNS && !defined(PSOCKET_NO_DNS)
#define PSOCKET_NO_DNS
#endif
#ifndef TCP_NODELAY
#define TCP_NODELAY 1 /* lwIP without TCP */
#endif
#ifndef AF_UNIX
#define AF_UNIX AF_UNSPEC
#endif
#ifndef IP_ADD_MEMBERSHIP
#define IP_ADD_MEMBERSHIP 0 /* refused, and so are the others */
#endif
#ifndef IP_MULTICAST_TTL
#define IP_MULTICAST_TTL 0
#define IP_MULTICAST_LOOP 0
#define IP_MULTICAST_IF 0
#endif
#ifndef IPV6_MULTICAST_HOPS
#define IPV6_MULTICAST_HOPS 0
#define IPV6_MULTICAST_LOOP 0
#define IPV6_MULTICAST_IF 0
#endif

#define PSI_SYS(name) lwip_##name
#define PSI_OS_CODES { -1, PSOCKET_UNREACHABLE }, /* ERR_IF: the network interface refused the packet */ \
                     { ENOMEM, PSOCKET_NOMEM }, { ENFILE, PSOCKET_DESCRIPTORS },
#define PSI_OS_IP4 LWIP_IPV4
#define PSI_OS_IP6 LWIP_IPV6
#define PSI_OS_UNIX 0
#define PSI_OS_RESOLVE_ERRNO(e) 0
#define EAI_AGAIN (-1) /* it does not tell */


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

#define PSI_OS_PORT(stream, share) ((stream) && !(share) ? SO_REUSEADDR : 0) /* takes SO_REUSE in lwIP */
#define PSI_OS_SHARE(stream) ((stream) ? 0 : SO_REUSEADDR)

#define PSI_OS_MREQ_IF(m) (m)->imr_interface
#if LWIP_IGMP && LWIP_MULTICAST_TX_OPTIONS
/* lwIP names an interface by its address. */
typedef struct ip_mreq psi_os_mreq;
static int psi_os_mreq_at(psi_os_mreq *m, unsigned index)
{
    struct netif *netif;
    LOCK_TCPIP_CORE();
    netif = index < 256 ? netif_get_by_index((u8_t)index) : NULL;
    if (netif) inet_addr_from_ip4addr(&m->imr_interface, netif_ip4_addr(netif));
    UNLOCK_TCPIP_CORE();
    if (!netif && index) errno = EADDRNOTAVAIL;
    return netif || !index ? 0 : -1;
}
#else
typedef struct psi_os_mreq {
    struct in_addr imr_multiaddr, imr_interface;
} psi_os_mreq;
#define psi_os_mreq_at(m, index) ((void)(index), errno = EOPNOTSUPP, -1)
#endif

/* lwIP's words for a reset that answers SYN, and for SYNs that nobody answers. */
static int psi_os_connect_errno(int e)
{
    return e == ECONNRESET ? ECONNREFUSED : e == ECONNABORTED ? ETIMEDOUT : e;
}

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

/* Its own takes much else: "1", which is the name of a host, "12345::", "1::2::3", "::1 and more". */
static int psi_os_raw_pton(int domain, const char *text, void *ip)
{
    const char *gap = strstr(text, "::"), *tail = strrchr(text, ':'), *s = text;
    char again[48] = "";
    size_t n;
    if (lwip_inet_pton(domain, text, ip) != 1) return 0;
    if (!tail) return lwip_inet_ntop(AF_INET, ip, again, sizeof again) && !strcmp(again, text);
    if (text[strspn(text, "0123456789abcdefABCDEF:.")] || (gap && strstr(gap + 1, "::"))) return 0;
    if ((*s == ':' && s[1] != ':') || (!*++tail && tail[-2] != ':')) return 0;
    for (; *s; s += n + (s[n] == ':')) {
        n = strcspn(s, ":");
        if (memchr(s, '.', n) ? s != tail || !psi_os_raw_pton(AF_INET, s, again) : n > 4) return 0;
    }
    return 1;
}

/*--- lwIP: a bell is a socket that nobody can reach, to which arrivals are counted as lwIP itself counts them: it needs
 * neither a loopback interface nor its queue. */

static void psi_os_bell_count(psocket_fd bell, int rung)
{
    struct lwip_sock *s = lwip_socket_dbg_get_socket((int)bell);
    if (!s) return;
    LOCK_TCPIP_CORE();
    if (rung && s->rcvevent < 1) s->conn->callback(s->conn, NETCONN_EVT_RCVPLUS, 0);
    while (!rung && s->rcvevent > 0) s->conn->callback(s->conn, NETCONN_EVT_RCVMINUS, 0);
    UNLOCK_TCPIP_CORE();
}

static void psi_os_bell_ring(const psocket_fd bell[2]) { psi_os_bell_count(bell[1], 1); }
static void psi_os_bell_clear(const psocket_fd bell[2]) { psi_os_bell_count(bell[0], 0); }

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

/* lwIP may have error numbers of its own, of which the C library's strerror knows nothing. */
#define psi_os_text(e, buf, size) ((void)(buf), psocket_strerror(psi_os_code(e)))
#define psi_os_process() 1L /* there is but one */
#define psi_os_calendar() 0
#define psi_os_random(p, n) ((void)(p), (void)(n), -1) /* LWIP_RAND is often rand(): PSOCKET_ENTROPY it is */
#define psi_os_pin() ((void)0) /* nothing is ever unloaded */

/*--- lwIP: threads. psocket starts none here, but an application's tasks may use it side by side. */

#ifndef PSOCKET_NO_THREADS
/* Whether it is taken. sys_mutex cannot be initialised statically and may fail to be made; who finds this one
   taken sleeps a tick, so that the holder can run even if it has the lower priority. */
typedef volatile int psi_os_mutex;
#define PSI_OS_MUTEX_INIT 0
static int psi_os_swap(psi_os_mutex *m, int value)
{
    int before;
    SYS_ARCH_DECL_PROTECT(level);
    SYS_ARCH_PROTECT(level);
    before = *m;
    *m = value;
    SYS_ARCH_UNPROTECT(level);
    return before;
}
static PSI_UNUSED void psi_os_lock(psi_os_mutex *m)
{
    while (psi_os_swap(m, 1)) sys_msleep(1);
}
static PSI_UNUSED void psi_os_unlock(psi_os_mutex *m) { psi_os_swap(m, 0); }
static PSI_UNUSED void psi_os_mutex_free(psi_os_mutex *m) { (void)m; }
#endif

#elif defined(_WIN32)
/*--- Windows 7 SP1 and later. Unix-domain sockets are left out: what a path belongs to cannot be told there without a real
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
#define PSI_OS_CODES { WSAENETRESET, PSOCKET_RESET }, { WSAESHUTDOWN, PSOCKET_CLOSED }, \
                     { WSA_NOT_ENOUGH_MEMORY, PSOCKET_NOMEM }, { ERROR_TOO_MANY_OPEN_FILES, PSOCKET_DESCRIPTORS },
#define PSI_OS_IP4 1
#define PSI_OS_IP6 1
#define PSI_OS_UNIX 0
#define PSI_OS_SEND_DROPS_INPUT 1 /* what has arrived and not been read is lost once a send meets a reset */
#define SHUT_WR SD_SEND
#define PSI_OS_RESOLVE_ERRNO(e) (e)
typedef SOCKET psi_os_int;
typedef int psi_os_len;
typedef DWORD psi_os_octet;

#define psi_os_raw_close(fd) closesocket(fd)
#define psi_os_raw_pton(domain, text, ip) inet_pton(domain, text, ip)
#define psi_os_connect_errno(e) (e)

static int psi_os_is_udp(SOCKET fd)
{
    int type = 0, n = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, (char *)&type, &n) == 0 && type == SOCK_DGRAM;
}

/* Whether an ICMP error that answers a datagram fails a later call: SIO_UDP_CONNRESET, and SIO_UDP_NETRESET,
   which stays off. As with POSIX, only a socket with a fixed peer is told, and its next call goes on. */
static void psi_os_udp_errors(SOCKET fd, int connected)
{
    BOOL reset = connected, off = FALSE;
    DWORD bytes;
    WSAIoctl(fd, IOC_IN | IOC_VENDOR | 12, &reset, sizeof reset, NULL, 0, &bytes, NULL, NULL);
    WSAIoctl(fd, IOC_IN | IOC_VENDOR | 15, &off, sizeof off, NULL, 0, &bytes, NULL, NULL);
}

static SOCKET psi_os_raw_socket(int domain, int type)
{
    SOCKET fd = WSASocketW(domain, type, 0, NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (fd != INVALID_SOCKET && type == SOCK_DGRAM) {
        DWORD off = 0;
        psi_os_udp_errors(fd, 0);
        /* As on Linux, IPv6 reaches IPv4 through mapped addresses. psi_os_bind decides for what is bound. */
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

/* A refused connection to this machine is tried again for two seconds unless it is told not to:
   SIO_TCP_INITIAL_RTO, Windows 10 1709 and later. */
static int psi_os_raw_connect(SOCKET fd, const struct sockaddr *sa, socklen_t n)
{
    struct { USHORT rtt; UCHAR retries; } at_once = { 0xFFFF, 0xFE }; /* the usual, none */
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)sa;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
    int udp = psi_os_is_udp(fd);
    int here = sa->sa_family == AF_INET ? (ntohl(in4->sin_addr.s_addr) >> 24) == 127
                                        : IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
    DWORD bytes;
    if (!udp && here)
        WSAIoctl(fd, IOC_IN | IOC_VENDOR | 17, &at_once, sizeof at_once, NULL, 0, &bytes, NULL, NULL);
    if (connect(fd, sa, n) == 0) {
        if (udp) psi_os_udp_errors(fd, 1);
        return 0;
    }
    if (WSAGetLastError() == WSAEWOULDBLOCK) WSASetLastError(WSAEINPROGRESS);
    return -1;
}

/* Nobody else may take over a port, as SO_REUSEADDR would let them; only datagrams may be shared. It can be
   bound again once the listener and the connections that it accepted are closed. */
#define PSI_OS_PORT(stream, share) ((share) ? 0 : SO_EXCLUSIVEADDRUSE)
#define PSI_OS_SHARE(stream) ((stream) ? 0 : SO_REUSEADDR)

#define PSI_OS_MREQ /* an interface's index reads as the address 0.0.0.index */

/* SIO_KEEPALIVE_VALS, in milliseconds; there are ten probes. */
static int psi_os_keepalive(psocket_fd fd, int seconds)
{
    struct { ULONG on, time, interval; } vals = { 1, (ULONG)seconds * 1000, (ULONG)seconds * 100 };
    DWORD bytes;
    return WSAIoctl((SOCKET)fd, IOC_IN | IOC_VENDOR | 4, &vals, sizeof vals, NULL, 0, &bytes, NULL, NULL);
}

/* if_nametoindex is in another library, iphlpapi: an interface's index is its name here. */
#define psi_os_raw_nametoindex(name) ((void)(name), 0u)

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
    if ((e == WSAECONNRESET || e == WSAENETRESET) && psi_os_is_udp(fd))
        WSASetLastError(sa ? WSAEINTR : WSAECONNREFUSED);
    return got;
}

/* Notes which descriptors are in a set. Winsock keeps the order, so each search begins behind the last find. */
static void psi_os_mark(struct pollfd *p, int n, const SOCKET *set, int events)
{
    int at = 0, tries, found;
    u_int i, count = *(const u_int *)set;
    for (i = 1; i <= count; i++) {
        for (tries = found = 0; tries < n && !found; tries++, at = at + 1 < n ? at + 1 : 0) {
            found = p[at].fd == set[i];
            if (found) p[at].revents = (short)(p[at].revents | events);
        }
    }
}

#define PSI_OS_FEW 16 /* sets of so many are on the stack */

/* poll by select. WSAPoll does not report a failed connect before Windows 10 2004, and in every version it
   reports POLLHUP when the peer has merely ended its direction, wanted or not: who waits to send to such a peer
   would never sleep. select has neither fault; a failed connect is in the third set. An fd_set is a u_int count
   and the sockets, aligned as such: with room for any number of them, select takes any number. */
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
    if (count[0] || count[1])
        r = select(0, (fd_set *)set[0], (fd_set *)set[1], (fd_set *)set[2], ms < 0 ? NULL : &t);
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
    if (!started)
        started = WSAStartup(MAKEWORD(2, 2), &data) == 0; /* by two threads at once: no harm is done */
    return started ? 0 : PSOCKET_OS;
}

#define psi_os_process() 1L /* processes do not fork here */

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

#ifdef PSOCKET_NO_TLS
#define psi_os_random(p, n) ((void)(p), (void)(n), -1) /* only TLS wants any, and another library with it */
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

/* Keeps the DLL that this code is in loaded: threads and finalizers may come after FreeLibrary. */
static PSI_UNUSED void psi_os_pin(void)
{
    static const char anchor = 0;
    HMODULE module;
    GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                       (LPCWSTR)(const void *)&anchor, &module);
}

#ifndef PSOCKET_NO_THREADS
typedef SRWLOCK psi_os_mutex;
#define PSI_OS_MUTEX_INIT SRWLOCK_INIT
static PSI_UNUSED void psi_os_lock(psi_os_mutex *m) { AcquireSRWLockExclusive(m); }
static PSI_UNUSED void psi_os_unlock(psi_os_mutex *m) { ReleaseSRWLockExclusive(m); }
static PSI_UNUSED void psi_os_mutex_free(psi_os_mutex *m) { (void)m; }

#ifndef PSOCKET_NO_DNS
#define PSI_OS_THREADS
#define PSI_OS_THREAD(name, arg) static unsigned __stdcall name(void *arg) /* ends with return 0 */
#define psi_os_atfork(before, after) ((void)(before), (void)(after))

/* Runs run(arg), a PSI_OS_THREAD, on a new thread that nobody joins. */
static int psi_os_thread(unsigned(__stdcall *run)(void *), void *arg, int *os)
{
    uintptr_t thread = _beginthreadex(NULL, 0, run, arg, 0, NULL); /* not CreateThread: run uses libc */
    *os = thread ? 0 : (int)GetLastError();
    if (thread) CloseHandle((HANDLE)thread);
    return thread ? 0 : PSOCKET_OS;
}
#endif
#endif

/*--- Windows: files. Paths are UTF-8. */

#ifdef PSI_OS_FILES
#define PSI_OS_LIST ";"

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
    return (intptr_t)CreateFileW(w, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                                 OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL); /* INVALID_HANDLE_VALUE is -1 */
}

static ptrdiff_t psi_os_file_read(intptr_t file, void *p, size_t n)
{
    DWORD got = 0;
    return ReadFile((HANDLE)file, p, (DWORD)n, &got, NULL) ? (ptrdiff_t)got : -1;
}

#define psi_os_file_close(file) CloseHandle((HANDLE)(file))

/* Calls each for every file of a folder until it answers other than 0. PSOCKET_FILE: that cannot be read. */
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

/* An environment variable as UTF-8, NULL if it is not set. One that is too long names no file that exists. */
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
/*--- POSIX ----------------------------------------------------------------------------------------------*/

#if defined(__GLIBC__) && !defined(__USE_XOPEN2K)
#error "psocket: include psocket.h with PSOCKET_IMPLEMENTATION before any system header, or use -D_GNU_SOURCE"
#endif

#include <arpa/inet.h>
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
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__PIC__) && !defined(__PIE__) /* this may be part of a shared library */
#include <dlfcn.h>
#define PSI_OS_PLUGGABLE
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

/* glibc on 32 bits: the plain ones fail on inode numbers and sizes that do not fit. */
#if defined(__USE_LARGEFILE64) && !defined(__LP64__)
#define PSI_OS_64(name) name##64
#else
#define PSI_OS_64(name) name
#endif

#define PSI_SYS(name) name
#define PSI_OS_CODES { ENOENT, PSOCKET_REFUSED }, /* Unix-domain: nobody listens on this path */ \
                     { EPIPE, PSOCKET_CLOSED }, { EPROTO, PSOCKET_RESET }, { EPERM, PSOCKET_ACCESS }, \
                     { ENOMEM, PSOCKET_NOMEM }, { ENFILE, PSOCKET_DESCRIPTORS },
#define PSI_OS_IP4 1
#define PSI_OS_IP6 1
#define PSI_OS_UNIX 1
#define PSI_OS_RESOLVE_ERRNO(e) ((e) == EAI_SYSTEM ? errno : 0)

#define psi_os_raw_poll(p, n, ms) poll(p, (nfds_t)(n), ms)
#define psi_os_raw_pton(domain, text, ip) inet_pton(domain, text, ip)
#define psi_os_connect_errno(e) (e)

#if defined(TCP_KEEPALIVE) && !defined(TCP_KEEPIDLE)
#define TCP_KEEPIDLE TCP_KEEPALIVE /* macOS */
#endif

/* A port can be had again while old connections linger. Datagrams that share a port need both. */
#define PSI_OS_PORT(stream, share) ((stream) || (share) ? SO_REUSEADDR : 0)
#define PSI_OS_SHARE(stream) SO_REUSEPORT

#ifdef __NetBSD__
#define PSI_OS_MREQ
#else
typedef struct ip_mreqn psi_os_mreq;
#define PSI_OS_MREQ_IF(m) *(m)
#define psi_os_mreq_at(m, index) ((m)->imr_ifindex = (int)(index), 0)
#endif

#ifdef SOCK_NONBLOCK
#if defined(__linux__) && defined(__GLIBC__) && !defined(__USE_GNU)
extern int accept4(int, struct sockaddr *, socklen_t *, int); /* hidden if system headers came before */
#endif
#define psi_os_raw_socket(domain, type) socket(domain, (type) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
#define psi_os_raw_pair(fds) socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds)
#define psi_os_raw_accept(fd, sa, n) accept4(fd, sa, n, SOCK_NONBLOCK | SOCK_CLOEXEC)
#define psi_os_fresh(fd) 0
#else
#define psi_os_raw_socket(domain, type) socket(domain, type, 0)
#define psi_os_raw_pair(fds) socketpair(AF_UNIX, SOCK_STREAM, 0, fds)
#endif

static int psi_os_make_ready(int fd)
{
#ifdef SO_NOSIGPIPE
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof one);
#endif
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC) ? -1 : 0;
}

/* The system's text for one of its error numbers. strerror_r comes in two shapes: glibc's with _GNU_SOURCE
   answers the text, everybody else's a status. */
static const char *psi_os_text(int e, char *buf, size_t size)
{
#if defined(__GLIBC__) && defined(__USE_GNU)
    return strerror_r(e, buf, size);
#else
    return strerror_r(e, buf, size) == 0 ? buf : "unknown error";
#endif
}

#define psi_os_process() ((long)getpid()) /* tells a process from one forked from it */
#define psi_os_calendar() time(NULL)

static PSI_UNUSED int64_t psi_os_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

#ifdef __linux__
#define psi_os_random(p, n) getentropy(p, n)
#else
#define psi_os_random(p, n) (arc4random_buf(p, n), 0)
#endif

/*--- POSIX: threads */

/* Keeps the shared library that this code is in loaded: a thread may outlive dlclose. RTLD_NOLOAD since a
   program's own name is whatever it was started by. */
static PSI_UNUSED void psi_os_pin(void)
{
#if defined(PSI_OS_PLUGGABLE) && defined(RTLD_NODELETE) && defined(RTLD_NOLOAD) && \
    (defined(__USE_GNU) || !defined(__GLIBC__))
    static const char anchor = 0;
    Dl_info info;
    if (dladdr((const void *)&anchor, &info) && info.dli_fname)
        dlopen(info.dli_fname, RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);
#endif
}

#ifndef PSOCKET_NO_THREADS
typedef pthread_mutex_t psi_os_mutex;
#define PSI_OS_MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
static PSI_UNUSED void psi_os_lock(psi_os_mutex *m) { pthread_mutex_lock(m); }
static PSI_UNUSED void psi_os_unlock(psi_os_mutex *m) { pthread_mutex_unlock(m); }
static PSI_UNUSED void psi_os_mutex_free(psi_os_mutex *m) { pthread_mutex_destroy(m); }

#ifndef PSOCKET_NO_DNS
#define PSI_OS_THREADS
#define PSI_OS_THREAD(name, arg) static void *name(void *arg) /* ends with return 0 */
#define psi_os_atfork(before, after) pthread_atfork(before, after, after)

/* Runs run(arg), a PSI_OS_THREAD, on a new thread that nobody joins. Signals go to the application's. */
static int psi_os_thread(void *(*run)(void *), void *arg, int *os)
{
    pthread_t thread;
    sigset_t all, before;
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

#ifdef PSI_OS_FILES
#define PSI_OS_LIST ":"

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

#define psi_os_file_close(file) close((int)(file))

/* Calls each for every file of a folder until it answers other than 0. PSOCKET_FILE: that cannot be read. */
static int psi_os_files(const char *path, int (*each)(void *ctx, const char *file), void *ctx)
{
    char full[PSI_OS_PATH];
    int n, result = 0;
    struct PSI_OS_64(dirent) *entry;
    struct PSI_OS_64(stat) st;
    DIR *dir = opendir(path);
    if (!dir) return PSOCKET_FILE;
    for (errno = 0; !result && (entry = PSI_OS_64(readdir)(dir)) != NULL; errno = 0) {
        n = snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        if (n < 0 || (size_t)n >= sizeof full || PSI_OS_64(stat)(full, &st) || !S_ISREG(st.st_mode)) continue;
        result = each(ctx, full);
    }
    if (!result && errno) result = PSOCKET_FILE;
    closedir(dir);
    return result;
}

/* An environment variable, NULL if it is not set, or if whoever started this program has fewer rights than it:
   setuid, setgid, file capabilities. */
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

#ifndef _WIN32 /* what lwIP and POSIX have in common */
#define PSI_E(name) name
#define PSI_OS_ERRNO errno
#ifndef PSI_OS_SEND_DROPS_INPUT /* tests set it, to try here what Windows does */
#define PSI_OS_SEND_DROPS_INPUT 0
#endif
typedef int psi_os_int;
typedef size_t psi_os_len;
typedef uint8_t psi_os_octet;
#define psi_os_start() 0 /* lwIP: tcpip_init is the application's */
#define psi_os_raw_close(fd) PSI_SYS(close)(fd) /* EINTR leaves the descriptor closed on Linux: never retry */
#define psi_os_raw_nametoindex(name) PSI_SYS(if_nametoindex)(name)
#define psi_os_raw_connect(fd, sa, n) PSI_SYS(connect)(fd, sa, n)
#define psi_os_raw_bind(fd, sa, n) PSI_SYS(bind)(fd, sa, n)
#define psi_os_raw_recvfrom(fd, p, n, sa, size) PSI_SYS(recvfrom)(fd, p, n, 0, sa, size)
#endif

#ifndef psi_os_fresh
#define psi_os_fresh(fd) psi_os_make_ready(fd)
#define psi_os_raw_accept(fd, sa, n) PSI_SYS(accept)(fd, sa, n)
#endif

/*--- one body for all: time, randomness */

#ifndef PSOCKET_NOW
#define PSOCKET_NOW() psi_os_clock()
#endif
#ifndef PSOCKET_WALLCLOCK
#define PSOCKET_WALLCLOCK() psi_os_calendar()
#endif
#ifndef PSOCKET_ENTROPY
#define PSOCKET_ENTROPY(p, n) psi_os_random(p, n)
#endif

static int64_t psi_os_now(void) { return PSOCKET_NOW(); }
static PSI_UNUSED int64_t psi_os_wallclock(void) { return PSOCKET_WALLCLOCK(); }
/* Up to 256 bytes. */
static PSI_UNUSED int psi_os_entropy(void *p, size_t n) { return PSOCKET_ENTROPY(p, n) ? PSOCKET_NO_ENTROPY : 0; }

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

/* The same where only a lack of descriptors or memory, which may pass, is told from `other`. */
static PSI_UNUSED int psi_os_lack(int e, int other)
{
    int code = psi_os_code(e);
    return code == PSOCKET_DESCRIPTORS || code == PSOCKET_NOMEM ? code : other;
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

/* Fills *e with a code, the system's number (0: none) and a text, clearing the rest. */
static void psi_err_set(psocket_error *e, int code, int os, const char *text)
{
    memset(e, 0, sizeof *e);
    e->code = code;
    e->os_error = os;
    e->tls_alert = e->cert_index = -1;
    snprintf(e->text, sizeof e->text, "%s", text);
}

/* Adds the reason to the sentence in *e (may be empty): the system's text for its error, or the code's own. */
static void psi_err_why(psocket_error *e)
{
    char why[128];
    size_t n = strlen(e->text);
    snprintf(e->text + n, sizeof e->text - n, "%s%s", n ? ": " : "",
             e->os_error ? psi_os_text(e->os_error, why, sizeof why) : psocket_strerror(e->code));
}

/* Fills *e (may be NULL) with a code and its own text. Returns the code. */
static PSI_UNUSED int psi_err_code(psocket_error *e, int code)
{
    if (e) psi_err_set(e, code, 0, psocket_strerror(code));
    return code;
}

/* The same with a sentence in place of the text (NULL: none): with the TLS alert that was sent or received (-1:
   none), or with the system's number and the reason behind the sentence. */
#define psi_err_alert(e, code, alert, ...) psi_err_say(e, code, -1, alert, __VA_ARGS__)
#define psi_err_os(e, code, os, ...) psi_err_say(e, code, os, -1, __VA_ARGS__)
PSI_PRINTF(5, 6)
static PSI_UNUSED int psi_err_say(psocket_error *e, int code, int os, int alert, const char *format, ...)
{
    va_list ap;
    if (!e) return code;
    psi_err_set(e, code, os < 0 ? 0 : os, psocket_strerror(code));
    e->tls_alert = alert;
    va_start(ap, format);
    if (format) vsnprintf(e->text, sizeof e->text, format, ap);
    va_end(ap);
    if (os >= 0) psi_err_why(e);
    return code;
}

#ifdef PSOCKET_NO_TEXT
/* Firmware has no room for sentences: the compiler checks them and leaves them out. Never defined. */
int psi_err_unsaid(const char *format, ...);
#define psi_err(e, code, ...) ((void)sizeof(psi_err_unsaid(__VA_ARGS__)), psi_err_code(e, code))
#else
#define psi_err(e, code, ...) psi_err_alert(e, code, -1, __VA_ARGS__)
#endif

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
    *m = fresh;
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
    ptrdiff_t got = 1;
    int r = 0;
    intptr_t file = psi_os_file_open(path);
    *data = NULL;
    *len = 0;
    *os = 0;
    if (file == -1) {
        *os = PSI_OS_ERRNO;
        return psi_os_lack(*os, PSOCKET_FILE);
    }
    for (cap = 16384; !r && got > 0; cap *= 2) {
        char *bigger = cap > PSI_OS_FILE_MAX ? NULL : (char *)psi_realloc(*data, n, cap);
        if (bigger) *data = bigger;
        else r = cap > PSI_OS_FILE_MAX ? PSOCKET_LIMIT : PSOCKET_NOMEM;
        while (!r && n + 1 < cap && (got = psi_os_file_read(file, *data + n, cap - n - 1)) > 0) n += (size_t)got;
    }
    if (got < 0) {
        psi_os_why(os);
        r = PSOCKET_FILE;
    }
    psi_os_file_close(file);
    if (!r) {
        (*data)[n] = 0;
        *len = n;
        return 0;
    }
    psi_free(*data);
    *data = NULL;
    return r;
}

/* Files are handed over one after the other, until each answers less than 0; more: there was a certificate. */
typedef struct psi_os_walk {
    int (*each)(void *ctx, const void *data, size_t len);
    void *ctx;
    int found; /* how many held one */
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
    r = w->each(w->ctx, data, len);
    psi_free(data);
    w->found += r > 0;
    return r < 0 ? r : 0;
}

/* Hands each the contents of every file of a folder: how many held a certificate, or an error. */
static int psi_os_readdir(const char *path, int (*each)(void *, const void *, size_t), void *ctx, int *os)
{
    psi_os_walk w = { each, ctx, 0, 0 };
    int r = psi_os_files(path, psi_os_walk_file, &w);
    *os = r == PSOCKET_FILE ? PSI_OS_ERRNO : 0;
    return r == PSOCKET_FILE ? psi_os_lack(*os, r) : r ? r : w.found;
}

/*--- the system's trust store */

#ifdef _WIN32
/* Whether the store's own settings let a root vouch for TLS servers: some are for signed code or mail only. */
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

/* Windows' own store. Windows adds a root to it when one of its own programs first meets it: a public root that
   none has met on this machine is not there. */
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
        r = w->each(w->ctx, cert->pbCertEncoded, cert->cbCertEncoded);
        w->found += r > 0;
        if (r > 0) r = 0;
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
    for (i = 0; !r && !w->found && i < sizeof bundles / sizeof *bundles; i++)
        r = psi_os_walk_file(w, bundles[i]);
    if (!r && !w->found) r = psi_os_files("/system/etc/security/cacerts", psi_os_walk_file, w); /* Android */
    return r == PSOCKET_FILE ? 0 : r;
}
#endif

/* Every folder of a list. */
static int psi_os_walk_list(void *ctx, const char *list)
{
    psi_os_walk *w = (psi_os_walk *)ctx;
    char path[PSI_OS_PATH];
    size_t n;
    int r = 0;
    for (; *list && !r; list += n + (list[n] != 0)) {
        n = strcspn(list, PSI_OS_LIST);
        snprintf(path, sizeof path, "%.*s", (int)n, list);
        r = n && n < sizeof path ? psi_os_files(path, psi_os_walk_file, w) : 0;
        if (r != PSOCKET_FILE) continue;
        w->os = PSI_OS_ERRNO;
        r = psi_os_lack(w->os, 0);
    }
    return r;
}

/* What an environment variable names, if it is set: then it must bring something. */
static int psi_os_walk_env(psi_os_walk *w, const char *name, int (*walk)(void *, const char *), psocket_error *e)
{
    char buf[PSI_OS_PATH];
    const char *value = psi_os_getenv(name, buf);
    int r, before = w->found;
    if (!value) return 0;
    r = walk(w, value);
    if (!r && w->found == before) r = PSOCKET_TLS_NO_TRUST;
    if (r == PSOCKET_TLS_NO_TRUST && !w->os)
        return psi_err(e, r, "%s=%.200s holds no certificate", name, value);
    return r ? psi_err_os(e, r, w->os, "%s=%.200s brings no trust anchors", name, value) : 0;
}

/* Hands each the contents of every file, or every DER certificate, of the system's trust store: SSL_CERT_FILE
   and SSL_CERT_DIR (a list) if set, as with OpenSSL, else where the system has it. A variable that is set and
   brings nothing is an error. *e (may be NULL) tells the reason of every error: PSOCKET_TLS_NO_TRUST if there
   is none, PSOCKET_NOMEM, PSOCKET_DESCRIPTORS, or what each answered. */
static int psi_os_systrust(int (*each)(void *, const void *, size_t), void *ctx, psocket_error *e)
{
    psi_os_walk w = { each, ctx, 0, 0 };
    int r = psi_os_walk_env(&w, "SSL_CERT_FILE", psi_os_walk_file, e);
    if (!r) r = psi_os_walk_env(&w, "SSL_CERT_DIR", psi_os_walk_list, e);
    if (r || w.found) return r;
    r = psi_os_trust_store(&w);
    if (r) return psi_err_os(e, r, w.os, "cannot read the system's trust anchors");
    return w.found ? 0 : psi_err(e, PSOCKET_TLS_NO_TRUST, NULL);
}

#elif !defined(PSOCKET_NO_TLS)
#define psi_os_readfile(path, data, len, os) \
    ((void)(path), *(data) = NULL, *(len) = 0, *(os) = 0, (int)PSOCKET_UNSUPPORTED)
#define psi_os_readdir(path, each, ctx, os) \
    ((void)(path), (void)(each), (void)(ctx), *(os) = 0, (int)PSOCKET_UNSUPPORTED)
#define psi_os_systrust(each, ctx, e) ((void)(each), (void)(ctx), psi_err(e, PSOCKET_TLS_NO_TRUST, NULL))
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
#define psi_os_to_sun(sa, path) ((void)(path), (int)PSOCKET_UNSUPPORTED)
#define psi_os_from_sun(sa, n, path, path_size) ((void)(*(path) = 0))
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

static int psi_os_domain(int family)
{
    return family == PSI_IP4 ? AF_INET : family == PSI_IP6 ? AF_INET6 : AF_UNIX;
}

/* An address as digits, RFC 5952, into at least 47 bytes; "" for a path. */
static void psi_os_to_text(const psi_addr *a, char *out)
{
    *out = 0;
    PSI_SYS(inet_ntop)(psi_os_domain(a->family), (void *)a->ip, out, 47); /* not const everywhere */
    for (; *out; out++) *out = (char)psi_lower(*out); /* lwIP writes A to F */
}

/* Reads such digits: 1, or 0 if they are none. */
static int psi_os_from_text(psi_addr *a, int family, const char *text)
{
    int ok = psi_os_raw_pton(psi_os_domain(family), text, a->ip) == 1;
    a->family = (uint8_t)(ok ? family : 0);
    return ok;
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

/* The name of an end of a socket, with zeros behind it: its length, or an error. */
static int psi_os_name(psocket_fd fd, int remote, psi_os_sockaddr *sa)
{
    int os, r;
    socklen_t n = sizeof *sa;
    memset(sa, 0, sizeof *sa);
    if (remote) r = PSI_SYS(getpeername)((psi_os_int)fd, &sa->sa, &n);
    else r = PSI_SYS(getsockname)((psi_os_int)fd, &sa->sa, &n);
    return r ? psi_os_why(&os) : (int)n;
}

static PSI_UNUSED int psi_os_getname(psocket_fd fd, int remote, psi_addr *a, char *path, size_t path_size)
{
    psi_os_sockaddr sa;
    int n = psi_os_name(fd, remote, &sa);
    if (n < 0) return n;
    psi_os_from_sockaddr(a, &sa);
    if (path_size) psi_os_from_sun(&sa, (size_t)n, path, path_size);
    return 0;
}

/*--- sockets */

static void psi_os_close(psocket_fd fd)
{
    if (fd != -1) psi_os_raw_close((psi_os_int)fd);
}

/* Sets an option: 0 or -1. */
static int psi_os_setopt(psocket_fd fd, int level, int name, const void *p, size_t n)
{
    return PSI_SYS(setsockopt)((psi_os_int)fd, level, name, (const char *)p, (socklen_t)n);
}

#ifdef PSI_OS_MREQ
typedef struct ip_mreq psi_os_mreq;
#define PSI_OS_MREQ_IF(m) (m)->imr_interface
#define psi_os_mreq_at(m, index) ((m)->imr_interface.s_addr = htonl(index), 0)
#endif

/* Joins a group over IPv4 at an interface; NULL: multicasts leave there. */
static int psi_os_group4(psocket_fd fd, const uint8_t *group, uint32_t index)
{
    psi_os_mreq m;
    memset(&m, 0, sizeof m);
    if (psi_os_mreq_at(&m, index)) return -1;
    if (!group)
        return psi_os_setopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &PSI_OS_MREQ_IF(&m), sizeof PSI_OS_MREQ_IF(&m));
    memcpy(&m.imr_multiaddr, group, 4);
    return psi_os_setopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof m);
}

/* Sets one that is a number, in the shape that the system has for it. */
static int psi_os_setint(psocket_fd fd, int level, int name, int value)
{
    psi_os_octet octet = (psi_os_octet)value;
#ifdef _WIN32
    if (level == SOL_SOCKET && name == SO_KEEPALIVE) return psi_os_keepalive(fd, value);
#endif
    if (level != IPPROTO_IP) return psi_os_setopt(fd, level, name, &value, sizeof value);
    if (name == IP_MULTICAST_IF) return psi_os_group4(fd, NULL, (uint32_t)value);
    return psi_os_setopt(fd, level, name, &octet, sizeof octet);
}

/* Reads one of the socket's own options, of level SOL_SOCKET. */
static int psi_os_getint(psocket_fd fd, int name, int *value, int *os)
{
    socklen_t n = sizeof *value;
    *os = 0;
    return PSI_SYS(getsockopt)((psi_os_int)fd, SOL_SOCKET, name, (char *)value, &n) ? psi_os_why(os) : 0;
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
    psi_os_int fd;
    *out = -1;
    if (family == PSI_UNIX && !PSI_OS_UNIX) return PSOCKET_UNSUPPORTED;
    fd = psi_os_raw_socket(psi_os_domain(family), udp ? SOCK_DGRAM : SOCK_STREAM);
    if (fd == (psi_os_int)-1) return psi_os_why(os);
    return psi_os_setup(out, fd, !udp && family != PSI_UNIX, os);
}

/* Makes a descriptor that exists already like those made here: *kind tells what it is. INVALID for what is no
   stream, datagram socket or listener. */
static PSI_UNUSED int psi_os_adopt(psocket_fd fd, int *kind, int *os)
{
    int type = 0, listens = 0, r = psi_os_getint(fd, SO_TYPE, &type, os);
    if (r && r != PSOCKET_OS) return r;
    if (type != SOCK_STREAM && type != SOCK_DGRAM) return PSOCKET_INVALID; /* or no socket at all */
    r = psi_os_getint(fd, SO_ACCEPTCONN, &listens, os);
    if (r && r != PSOCKET_UNSUPPORTED) return r; /* a system that does not tell has no listeners to adopt */
    *kind = type == SOCK_DGRAM ? PSI_OS_DATAGRAM : listens ? PSI_OS_LISTENER : PSI_OS_STREAM;
    if (psi_os_make_ready((psi_os_int)fd)) return psi_os_why(os);
    if (type == SOCK_STREAM) psi_os_setint(fd, IPPROTO_TCP, TCP_NODELAY, 1); /* Unix-domain sockets refuse it */
    return 0;
}

/* Whether the peer of `to` is `from`: 1, 0 or an error. */
static int psi_os_meets(psocket_fd from, psocket_fd to)
{
    psi_os_sockaddr here, there;
    int r = psi_os_name(from, 0, &here);
    if (r >= 0) r = psi_os_name(to, 1, &there);
    return r < 0 ? r : memcmp(&here, &there, sizeof here) == 0;
}

/* 0: connected; PSOCKET_WANT_WRITE: under way; PSOCKET_WANT_READ: to be tried again after a while. */
static int psi_os_connect(psocket_fd fd, const psi_addr *a, const char *path, int *os)
{
    psi_os_sockaddr sa;
    int r, n = psi_os_to_sockaddr(&sa, a, path);
    if (n < 0) return n;
    if (psi_os_raw_connect((psi_os_int)fd, &sa.sa, (socklen_t)n) == 0) return 0;
    r = psi_os_why(os);
    if (*os == PSI_E(EWOULDBLOCK) && a->family == PSI_UNIX)
        return PSOCKET_WANT_READ; /* Linux: the listener's queue is full */
    /* EINTR: the attempt goes on by itself (POSIX). */
    return *os == PSI_E(EINPROGRESS) || *os == PSI_E(EINTR) ? PSOCKET_WANT_WRITE : r;
}

/* poll: above 0 if any has revents, 0 also after a signal (*os is not 0 then). No descriptor: POLLNVAL. */
static int psi_os_wait(struct pollfd *p, int n, int ms, int *os)
{
    int i, type, bad = 0, ignored, r = psi_os_raw_poll(p, n, ms);
    *os = 0;
    if (r >= 0) return r;
    r = psi_os_failed(0, os);
    for (i = 0; r && !PSI_OS_UNIX && i < n; i++) { /* one that is none fails the call: its owner must hear */
        p[i].revents = psi_os_getint((psocket_fd)p[i].fd, SO_TYPE, &type, &ignored) ? POLLNVAL : 0;
        bad += p[i].revents != 0;
    }
    return bad ? bad : r;
}

static short psi_os_poll_events(int events)
{
    return (short)(((events & PSOCKET_READ) ? POLLIN : 0) | ((events & PSOCKET_WRITE) ? POLLOUT : 0));
}

static void psi_os_pollfd(struct pollfd *p, psocket_fd fd, int events)
{
    p->fd = (psi_os_int)fd;
    p->events = psi_os_poll_events(events);
    p->revents = 0;
}

/* And back: errors and ends are for who reads and who writes. */
static PSI_UNUSED int psi_os_events(int revents)
{
    return ((revents & ~POLLOUT) ? PSOCKET_READ : 0) | ((revents & ~POLLIN) ? PSOCKET_WRITE : 0);
}

/* Waits for any of up to PSOCKET_POLLSET_MAX descriptors: 1, or 0, also after a signal (*os is not 0 then). */
static int psi_os_poll(const psocket_pollfd *fds, int n, int ms, int *os)
{
    struct pollfd p[PSOCKET_POLLSET_MAX];
    int i, r;
    for (i = 0; i < n; i++) psi_os_pollfd(&p[i], fds[i].fd, fds[i].events);
    r = psi_os_wait(p, n, ms, os);
    return r > 0 ? 1 : r;
}

/* How an attempt under way has fared, once its descriptor is ready: 0 or an error. */
static int psi_os_connect_result(psocket_fd fd, int *os)
{
    int e = 0, r;
    socklen_t n = sizeof e;
    psocket_pollfd p;
    p.fd = fd;
    p.events = PSOCKET_WRITE;
    r = psi_os_poll(&p, 1, 0, os);
    if (r <= 0) return r < 0 ? r : PSOCKET_WANT_WRITE;
    if (PSI_SYS(getsockopt)((psi_os_int)fd, SOL_SOCKET, SO_ERROR, (char *)&e, &n)) e = PSI_OS_ERRNO;
    r = e ? 0 : psi_os_meets(fd, fd);
    if (r > 0) e = PSI_E(ECONNREFUSED); /* where nobody listens, a connect can meet itself */
    *os = e = psi_os_connect_errno(e);
    return e ? psi_os_code(e) : r;
}

#if PSI_OS_UNIX
/* What tells the file at a path from others that come after it; 0: none. */
static PSI_UNUSED uint64_t psi_os_inode(const char *path)
{
    struct PSI_OS_64(stat) st;
    return PSI_OS_64(lstat)(path, &st) ? 0 : (uint64_t)st.st_ino;
}

/* 0 if the path is gone. Only a socket is removed, and only this one if inode is not 0. */
static PSI_UNUSED int psi_os_unlink(const char *path, uint64_t inode)
{
    struct PSI_OS_64(stat) st;
    int os;
    if (*path == '@') return PSOCKET_ADDRESS_IN_USE; /* no file */
    if (PSI_OS_64(lstat)(path, &st)) return errno == ENOENT ? 0 : psi_os_why(&os);
    if (!S_ISSOCK(st.st_mode) || (inode && st.st_ino != inode))
        return PSOCKET_ADDRESS_IN_USE; /* connecting to any other file is refused as well */
    return unlink(path) && errno != ENOENT ? psi_os_why(&os) : 0;
}
#else
#define psi_os_inode(path) ((void)(path), (uint64_t)0)
static PSI_UNUSED int psi_os_unlink(const char *path, uint64_t i) { return path || i ? PSOCKET_UNSUPPORTED : 0; }
#endif

/* An IPv6 wildcard that takes IPv4 as well; others may bind to the same address; no stream. */
enum { PSI_OS_DUAL = 1, PSI_OS_REUSE_PORT = 2, PSI_OS_DATAGRAMS = 4 };

static int psi_os_bind(psocket_fd fd, const psi_addr *a, const char *path, int flags, int *os)
{
    psi_os_sockaddr sa;
    int dual = flags & PSI_OS_DUAL, stream = !(flags & PSI_OS_DATAGRAMS), ip = a->family != PSI_UNIX;
    int share = ip && (flags & PSI_OS_REUSE_PORT), port = ip ? PSI_OS_PORT(stream, share) : 0;
    int n = psi_os_to_sockaddr(&sa, a, path);
    if (n < 0) return n;
#if PSI_OS_IP6
    if (a->family == PSI_IP6 && psi_os_setint(fd, IPPROTO_IPV6, IPV6_V6ONLY, !dual) && dual)
        return psi_os_why(os); /* OpenBSD has no dual-stack sockets */
#else
    (void)dual;
#endif
    (void)stream;
    if (share && !PSI_OS_SHARE(stream)) return PSOCKET_UNSUPPORTED;
    if (port) psi_os_setint(fd, SOL_SOCKET, port, 1);
    if (share && psi_os_setint(fd, SOL_SOCKET, PSI_OS_SHARE(stream), 1)) return psi_os_why(os);
    return psi_os_raw_bind((psi_os_int)fd, &sa.sa, (socklen_t)n) ? psi_os_why(os) : 0;
}

/* The system cuts the backlog to its most. path: of a Unix-domain socket, which is made by bind. */
static int psi_os_listen(psocket_fd fd, const char *path, int backlog, int *os)
{
    int r = PSI_SYS(listen)((psi_os_int)fd, backlog) ? psi_os_why(os) : 0;
    if (r && path) psi_os_unlink(path, 0);
    return r;
}

/* PSOCKET_WANT_READ when nobody waits. Connections that died in the queue are skipped, as POSIX allows. */
static int psi_os_accept(psocket_fd listener, psocket_fd *out, psi_addr *peer, int *os)
{
    int tries, r;
    for (tries = 0; tries < 16; tries++) {
        psi_os_sockaddr sa;
        socklen_t n = sizeof sa;
        psi_os_int fd;
        memset(&sa, 0, sizeof sa);
        fd = psi_os_raw_accept((psi_os_int)listener, &sa.sa, &n);
        if (fd == (psi_os_int)-1) {
            r = psi_os_failed(PSOCKET_WANT_READ, os);
            /* Linux hands over errors that belong to the dead connection (accept(2)). */
            if (r && r != PSOCKET_RESET && r != PSOCKET_UNREACHABLE) return r;
        } else if (n) {
            psi_os_from_sockaddr(peer, &sa);
            return psi_os_setup(out, fd, peer->family != PSI_UNIX, os);
        } else {
            psi_os_raw_close(fd); /* macOS: it died in the queue */
        }
    }
    return PSOCKET_WANT_READ;
}

/* A count that a system call takes: on Windows a nonblocking send takes all into kernel memory, or fails. */
#define psi_os_clip(n) ((psi_os_len)((n) < (1 << 20) ? (n) : (1 << 20)))
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: SO_NOSIGPIPE is set on the socket instead; elsewhere there is no such signal */
#endif

/* Bytes received, 0 at the end of a stream, PSOCKET_WANT_READ, or an error. from: a datagram's sender. */
static ptrdiff_t psi_os_get(psocket_fd fd, void *p, size_t n, psi_os_sockaddr *from, int *os)
{
    struct sockaddr *sa = from ? &from->sa : NULL;
    socklen_t size = sizeof *from;
    int tries, r = 0;
    if (from) from->sa.sa_family = 0;
    for (tries = 0; tries < 16 && !r; tries++) {
        ptrdiff_t got = psi_os_raw_recvfrom((psi_os_int)fd, (char *)p, psi_os_clip(n), sa, sa ? &size : NULL);
        if (got >= 0) return got;
        r = psi_os_failed(PSOCKET_WANT_READ, os);
    }
    return r ? r : PSOCKET_WANT_READ;
}

/* Bytes sent, PSOCKET_WANT_WRITE, or an error. to: where a datagram goes, or NULL if that is settled. */
static ptrdiff_t psi_os_put(psocket_fd fd, const void *p, size_t n, const psi_addr *to, int *os)
{
    psi_os_sockaddr sa;
    int size = to ? psi_os_to_sockaddr(&sa, to, NULL) : 0;
    if (size < 0) return size;
    if (to && n > 65535) return PSOCKET_MESSAGE_SIZE; /* the length field of UDP */
    for (;;) {
        ptrdiff_t put = PSI_SYS(sendto)((psi_os_int)fd, (const char *)p, psi_os_clip(n), MSG_NOSIGNAL,
                                        to ? &sa.sa : NULL, (socklen_t)size);
        if (put >= 0 || (put = psi_os_failed(PSOCKET_WANT_WRITE, os)) < 0) return put;
    }
}

/* Ends the sending direction. */
static int psi_os_shutdown(psocket_fd fd, int *os)
{
    return PSI_SYS(shutdown)((psi_os_int)fd, SHUT_WR) ? psi_os_why(os) : 0;
}

/*--- options */

/* An interface's index, by its name or its digits; 0 if there is none. */
static PSI_UNUSED uint32_t psi_os_interface(const char *name)
{
    uint32_t n;
    return psi_number(&n, name, name + strlen(name), 7) ? n : (uint32_t)psi_os_raw_nametoindex(name);
}

/* Gives a fresh descriptor its settings, but those that psi_os_bind and psi_os_join take. A silent peer is
   probed after `keepalive` seconds, and given up after as many again. */
static PSI_UNUSED int psi_os_set(psocket_fd fd, int family, int udp, const psi_os_settings *set, int *os)
{
    enum { ALIVE, PROBE, PROBES, CAST, HOPS, NOLOOP, LEAVE }; /* streams', then datagrams' */
    static const struct { uint16_t is, level, name; } table[] = {
        { ALIVE, SOL_SOCKET, SO_KEEPALIVE },
#if defined(TCP_KEEPIDLE) && !defined(_WIN32)
        { ALIVE, IPPROTO_TCP, TCP_KEEPIDLE }, { PROBE, IPPROTO_TCP, TCP_KEEPINTVL },
        { PROBES, IPPROTO_TCP, TCP_KEEPCNT },
#endif
        { CAST, SOL_SOCKET, SO_BROADCAST }, { HOPS, IPPROTO_IP, IP_MULTICAST_TTL },
        { NOLOOP, IPPROTO_IP, IP_MULTICAST_LOOP }, { LEAVE, IPPROTO_IP, IP_MULTICAST_IF },
#if PSI_OS_IP6
        { HOPS, IPPROTO_IPV6, IPV6_MULTICAST_HOPS }, { NOLOOP, IPPROTO_IPV6, IPV6_MULTICAST_LOOP },
        { LEAVE, IPPROTO_IPV6, IPV6_MULTICAST_IF }
#endif
    };
    const psocket_options *o = &set->opt;
    int alive = o->keepalive < 32767 ? o->keepalive : 32767; /* Linux takes no more */
    const int values[] = { alive, (alive + 2) / 3, 3 * !!alive, o->broadcast, o->multicast_ttl,
                           o->multicast_noloop, (int)set->interface_index };
    size_t i;
    if (family == PSI_UNIX) return 0;
    if ((unsigned)o->multicast_ttl > 255) return PSOCKET_INVALID;
    for (i = 0; i < sizeof table / sizeof *table; i++) {
        int is = table[i].is, level = table[i].level; /* 0: IPv4 */
        if (!values[is] || (is < CAST) == (udp != 0) || (is > CAST && level && family != PSI_IP6)) continue;
        if (!psi_os_setint(fd, level, table[i].name, is == NOLOOP ? 0 : values[is])) continue;
        if (level || family != PSI_IP6) return psi_os_why(os); /* IPv6 may reach IPv4 groups, but need not */
    }
    return 0;
}

/* Joins the group of the settings, if they have one. */
static PSI_UNUSED int psi_os_join(psocket_fd fd, const psi_os_settings *set, int *os)
{
    const psi_addr *group = &set->group;
    int r = group->family == PSI_IP4 ? psi_os_group4(fd, group->ip, set->interface_index) : 0;
    if (group->family == PSI_IP6) {
#ifdef IPV6_JOIN_GROUP
        struct ipv6_mreq m;
        memset(&m, 0, sizeof m);
        memcpy(&m.ipv6mr_multiaddr, group->ip, 16);
        m.ipv6mr_interface = set->interface_index ? set->interface_index : group->scope;
        r = psi_os_setopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &m, sizeof m);
#else
        return PSOCKET_UNSUPPORTED;
#endif
    }
    return r ? psi_os_why(os) : 0;
}

/*--- two connected descriptors */

static void psi_os_close_pair(psocket_fd fds[2])
{
    psi_os_close(fds[0]);
    if (fds[1] != fds[0]) psi_os_close(fds[1]);
    fds[0] = fds[1] = -1;
}

#if PSI_OS_UNIX
static PSI_UNUSED int psi_os_pair(psocket_fd fds[2], int *os)
{
    int two[2] = { -1, -1 }, r = 0;
    if (psi_os_raw_pair(two) || psi_os_fresh(two[0]) || psi_os_fresh(two[1])) r = psi_os_why(os);
    fds[0] = two[0];
    fds[1] = two[1];
    if (r) psi_os_close_pair(fds);
    return r;
}
#else
/* Over the loopback interface. Who else connects meanwhile is turned away. */
static PSI_UNUSED int psi_os_pair(psocket_fd fds[2], int *os)
{
    psi_addr a = psi_os_loopback();
    psocket_pollfd wait = { -1, PSOCKET_READ };
    int r, tries;
    fds[0] = fds[1] = -1;
    r = psi_os_socket(&wait.fd, a.family, 0, os);
    if (!r) r = psi_os_bind(wait.fd, &a, NULL, 0, os);
    if (!r) r = psi_os_listen(wait.fd, NULL, 16, os);
    if (!r) r = psi_os_getname(wait.fd, 0, &a, NULL, 0);
    if (!r) r = psi_os_socket(&fds[0], a.family, 0, os);
    if (!r) r = psi_os_connect(fds[0], &a, NULL, os);
    if (r == PSOCKET_WANT_WRITE) r = 0;
    for (tries = 0; !r; tries++) {
        if (tries == 32 || !psi_os_poll(&wait, 1, 1000, os)) r = PSOCKET_TIMEOUT;
        if (!r) r = psi_os_accept(wait.fd, &fds[1], &a, os);
        if (!r) r = psi_os_meets(fds[0], fds[1]);
        if (r > 0) break;
        if (r == PSOCKET_WANT_READ) r = 0;
        psi_os_close(fds[1]);
        fds[1] = -1;
    }
    psi_os_close(wait.fd);
    if (r > 0) return 0;
    psi_os_close_pair(fds);
    return r;
}
#endif

/*--- bells: to announce something from another thread through a descriptor. bell[0] is listened to, bell[1] is rung; both
 * may be the same. */

#if defined(PSOCKET_LWIP)
static int psi_os_bell_new(psocket_fd bell[2], int *os)
{
    int r = psi_os_socket(&bell[0], psi_os_loopback().family, LWIP_UDP, os);
    bell[1] = bell[0];
    return r;
}
#elif defined(PSI_OS_EPOLL)
/* Ringing an eventfd takes no memory, so it cannot fail. */
static int psi_os_bell_new(psocket_fd bell[2], int *os)
{
    bell[0] = bell[1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return bell[0] < 0 ? psi_os_why(os) : 0;
}

static void psi_os_bell_ring(const psocket_fd bell[2])
{
    eventfd_write((int)bell[1], 1); /* it would have to wait: it is ringing already */
}

static void psi_os_bell_clear(const psocket_fd bell[2])
{
    eventfd_t count;
    eventfd_read((int)bell[0], &count);
}
#else
#ifdef _WIN32
/* A datagram socket connected to itself: nobody else's datagrams come in. */
static int psi_os_bell_new(psocket_fd bell[2], int *os)
{
    psi_addr a = psi_os_loopback();
    int r = psi_os_socket(&bell[0], a.family, 1, os);
    bell[1] = bell[0];
    if (!r) r = psi_os_bind(bell[0], &a, NULL, PSI_OS_DATAGRAMS, os);
    if (!r) r = psi_os_getname(bell[0], 0, &a, NULL, 0);
    if (!r) r = psi_os_connect(bell[0], &a, NULL, os);
    if (r) psi_os_close_pair(bell);
    return r;
}
#else
#define psi_os_bell_new(bell, os) psi_os_pair(bell, os)
#endif

static void psi_os_bell_ring(const psocket_fd bell[2])
{
    int os;
    psi_os_put(bell[1], "", 1, NULL, &os); /* it would have to wait: it is ringing already */
}

static void psi_os_bell_clear(const psocket_fd bell[2])
{
    char c[64];
    int i, os;
    for (i = 0; i < 64 && psi_os_get(bell[0], c, sizeof c, NULL, &os) >= 0; i++) {}
}
#endif

/*--- names */

#ifndef PSOCKET_NO_DNS
#ifndef EAI_NODATA
#define EAI_NODATA EAI_NONAME
#endif

/* Blocks. Hands over addresses in the system's order (RFC 6724). */
static int psi_os_resolve(const char *host, int (*each)(void *ctx, const psi_addr *a), void *ctx, int *os)
{
    struct addrinfo hints, *list = NULL, *i;
    int e, found = 0;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_family = AF_UNSPEC;
    e = PSI_SYS(getaddrinfo)(host, NULL, &hints, &list);
    if (e) *os = PSI_OS_RESOLVE_ERRNO(e);
    if (e == EAI_NONAME || e == EAI_NODATA) return PSOCKET_DNS_NOT_FOUND;
    if (e == EAI_AGAIN) return PSOCKET_DNS_TEMPORARY;
    if (e) return e == EAI_MEMORY ? (int)PSOCKET_NOMEM : psi_os_lack(*os, PSOCKET_DNS);
    for (i = list; i; i = i->ai_next) {
        psi_addr a;
        psi_os_from_sockaddr(&a, (const psi_os_sockaddr *)(const void *)i->ai_addr);
        if (a.family != PSI_IP4 && a.family != PSI_IP6) continue;
        found = 1;
        each(ctx, &a);
    }
    PSI_SYS(freeaddrinfo)(list);
    return found ? 0 : PSOCKET_DNS_NOT_FOUND;
}
#else
#define psi_os_resolve(host, each, ctx, os) ((void)(each), (void)(os), (int)PSOCKET_DNS)
#endif

/*--- the poller: epoll, kqueue, or an array */

#define PSI_OS_BATCH 64 /* events fetched per system call */

typedef struct psi_os_poller {
    psocket_fd bell[2];
    psi_os_watch ear; /* on the bell */
    int rang; /* the bell did, since the caller last looked */
    psocket_fd fd; /* -1: the system has no such thing */
    long process;  /* that made it: after fork an epoll set is shared */
#if !defined(PSI_OS_EPOLL) && !defined(PSI_OS_KQUEUE)
    struct pollfd *fds;
    psi_os_watch **watches;
    int count, cap, next;
#endif
} psi_os_poller;

/* For each kind: psi_os_set_new, a descriptor or -1 with the reason; psi_os_set_change, which watches w->fd for
   other events than before, or forgets it; psi_os_set_wait; psi_os_set_free. */
#if defined(PSI_OS_EPOLL)

#define psi_os_set_new() epoll_create1(EPOLL_CLOEXEC)
#define psi_os_set_free(p) psi_os_close((p)->fd)

/* With 0 events epoll would go on reporting a hang-up. */
static int psi_os_set_change(psi_os_poller *p, psi_os_watch *w, int events, int *os)
{
    struct epoll_event ev;
    int r, before = w->events, op = !events ? EPOLL_CTL_DEL : before ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    memset(&ev, 0, sizeof ev);
    ev.events = (uint32_t)psi_os_poll_events(events); /* EPOLLIN is POLLIN, and so on */
    ev.data.ptr = w;
    w->events = events;
    r = epoll_ctl((int)p->fd, op, (int)w->fd, &ev);
    if (r && op == EPOLL_CTL_MOD && errno == ENOENT) { /* it was closed and its number given to another */
        before = 0;
        r = epoll_ctl((int)p->fd, EPOLL_CTL_ADD, (int)w->fd, &ev);
    }
    if (!r || !events) return 0;
    w->events = before; /* a failed change leaves the system's set as it was */
    r = psi_os_why(os);
    if (*os == EEXIST) return PSOCKET_BUSY;
    return *os == EPERM ? PSOCKET_UNSUPPORTED : r; /* a file or folder: epoll takes none */
}

static int psi_os_set_wait(psi_os_poller *p, psi_os_ready *out, int cap, int ms, int *os)
{
    struct epoll_event ev[PSI_OS_BATCH];
    int i, n = epoll_wait((int)p->fd, ev, cap < PSI_OS_BATCH ? cap : PSI_OS_BATCH, ms);
    if (n < 0) return psi_os_failed(0, os);
    for (i = 0; i < n; i++) {
        out[i].watch = (psi_os_watch *)ev[i].data.ptr;
        out[i].events = psi_os_events((int)ev[i].events);
    }
    return n;
}

#elif defined(PSI_OS_KQUEUE)

typedef __typeof__(((struct kevent *)0)->udata) psi_os_udata; /* intptr_t up to NetBSD 9 */

/* A child has no kqueue of its parent's: the number may be another descriptor's. */
static void psi_os_set_free(psi_os_poller *p)
{
    if (p->process == psi_os_process()) psi_os_close(p->fd);
}

static int psi_os_set_new(void)
{
    int fd = kqueue();
    if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static int psi_os_set_change(psi_os_poller *p, psi_os_watch *w, int events, int *os)
{
    static const int bits[2] = { PSOCKET_READ, PSOCKET_WRITE };
    static const short filters[2] = { EVFILT_READ, EVFILT_WRITE };
    int i;
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

static void psi_os_set_free(psi_os_poller *p)
{
    psi_free(p->fds);
    psi_free(p->watches);
}

static int psi_os_set_grow(psi_os_poller *p)
{
    int cap = p->cap * 2 + 8;
    size_t used = (size_t)p->count, n = (size_t)cap;
    struct pollfd *fds = (struct pollfd *)psi_realloc(p->fds, 0, n * sizeof *fds);
    psi_os_watch **watches = p->watches;
    watches = (psi_os_watch **)psi_realloc(watches, used * sizeof *watches, n * sizeof *watches);
    if (fds) p->fds = fds;
    if (watches) p->watches = watches;
    if (!fds || !watches) return PSOCKET_NOMEM;
    p->cap = cap;
    return 0;
}

static int psi_os_set_change(psi_os_poller *p, psi_os_watch *w, int events, int *os)
{
    (void)os;
    if (events && !w->events) {
        if (p->count == p->cap && psi_os_set_grow(p)) return PSOCKET_NOMEM;
        w->slot = p->count++;
        p->watches[w->slot] = w;
    } else if (w->events && !events) {
        psi_os_watch *last = p->watches[--p->count];
        last->slot = w->slot;
        p->watches[w->slot] = last;
    }
    w->events = events;
    return 0;
}

static int psi_os_set_wait(psi_os_poller *p, psi_os_ready *out, int cap, int ms, int *os)
{
    int i, k, n, count = 0;
    for (i = 0; i < p->count; i++) psi_os_pollfd(&p->fds[i], p->watches[i]->fd, p->watches[i]->events);
    n = psi_os_wait(p->fds, p->count, ms, os);
    if (n <= 0) return n;
    /* Start behind the last one served, so that a full batch starves nobody. */
    for (k = 0; k < p->count && count < cap; k++) {
        i = (p->next + k) % p->count;
        if (!p->fds[i].revents) continue;
        out[count].watch = p->watches[i];
        out[count++].events = psi_os_events(p->fds[i].revents);
    }
    p->next = (p->next + k) % p->count;
    return count;
}

#endif

/* Has w->fd watched for events from now on; 0 forgets it. The system's set is its maker's alone: what a child did to
   it, its parent would see. */
static int psi_os_poller_ctl(psi_os_poller *p, psi_os_watch *w, int events, int *os)
{
    if (events == w->events) return 0;
    if (p->fd == -1 || p->process == psi_os_process()) return psi_os_set_change(p, w, events, os);
    w->events = 0;
    return events ? PSOCKET_INVALID : 0;
}

static void psi_os_poller_free(psi_os_poller *p)
{
    psi_os_set_free(p);
    psi_os_close_pair(p->bell);
}

static int psi_os_poller_new(psi_os_poller *p, int *os)
{
    int r;
    memset(p, 0, sizeof *p);
    if ((r = psi_os_bell_new(p->bell, os)) != 0) return r;
    p->ear.fd = p->bell[0];
    p->process = psi_os_process();
    p->fd = psi_os_set_new();
#ifndef PSI_OS_ARRAY
    if (p->fd < 0) r = psi_os_why(os);
#endif
    if (!r) r = psi_os_poller_ctl(p, &p->ear, PSOCKET_READ, os);
    if (r) psi_os_poller_free(p);
    return r;
}

/* While on, the poller's descriptor is readable although nothing that it watches is ready: the bell can always
   be rung. Not to be on in psi_os_poller_wait. */
static PSI_UNUSED void psi_os_poller_busy(psi_os_poller *p, int on)
{
    int os;
    if (p->fd != -1) psi_os_poller_ctl(p, &p->ear, PSOCKET_READ | (on ? PSOCKET_WRITE : 0), &os);
}

/* Waits up to ms (-1: for ever) and stores what is ready: how many, 0 also after a signal (then *os is not 0)
   or the bell, or an error. */
static int psi_os_poller_wait(psi_os_poller *p, psi_os_ready *out, int cap, int ms, int *os)
{
    int i, n;
    *os = 0;
    n = psi_os_set_wait(p, out, cap, ms, os);
    for (i = 0; i < n; i++) {
        if (out[i].watch != &p->ear) continue;
        if (out[i].events & PSOCKET_READ) psi_os_bell_clear(p->bell);
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
 * A chunk's header (PSI_RING_HEAD bytes) holds the payload's length and how far behind the header it begins, so
 * that records decrypted in place become chunks where they lie. The hole has room for one header at least. head
 * == end means no chunk. What was taken lies before head and stays readable until the next change. A ring that
 * is empty owns no memory once psi_sock_relax has run.
 *================================================================================================*/

#define PSI_RING_HEAD 8u
#define PSI_RING_MAX 0x7fff0000u
#define PSI_RING_SLACK 192u /* a header on each side, and the most that alignment takes */

/* How many of the chunks' bytes hold no beginning of the delimiter whose hash this is. */
typedef struct psi_ring_seen {
    uint32_t key, bytes;
} psi_ring_seen;

typedef struct psi_ring {
    uint8_t *buf;
    uint32_t cap, head, end, raw, tail;
    uint32_t bytes; /* sum of the chunks' payloads */
    psi_ring_seen seen[2]; /* of the delimiter that psi_ring_find last looked for, and of the one before */
} psi_ring;

/* Is this in the ring's buffer, handed out before? */
static int psi_ring_holds(const psi_ring *r, const void *p)
{
    uintptr_t at = (uintptr_t)p, buf = (uintptr_t)r->buf;
    return r->buf && at >= buf && at < buf + r->cap;
}

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

/* Moves what is live to `buf`, perhaps the ring's own, so that head is at `at`, with the smallest hole. */
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

/* Makes room for n bytes at tail, which is to be at the start of 64 bytes if n is worth it, but not of a page:
   there the kernel's copy overtakes itself. 0, PSOCKET_NOMEM or PSOCKET_LIMIT. */
static int psi_ring_reserve(psi_ring *r, size_t n)
{
    uint32_t chunks = r->end - r->head, live = chunks + PSI_RING_HEAD + (r->tail - r->raw), need, cap = r->cap;
    uint8_t *buf = r->buf;
    uintptr_t at;
    if (live > PSI_RING_MAX || n > PSI_RING_MAX - live) return PSOCKET_LIMIT;
    if (!psi_ring_idle(r) && r->cap - r->tail >= n + PSI_RING_HEAD) return 0;
    need = live + (uint32_t)n + (n < 4096 ? PSI_RING_HEAD : PSI_RING_SLACK);
    if (chunks) need += live / 2; /* growing by parts would copy all each time */
    if (need > cap) {
        cap = need;
        buf = (uint8_t *)PSOCKET_MALLOC(cap);
        if (!buf) return PSOCKET_NOMEM;
    }
    at = n < 4096 ? 0 : (64 - ((uintptr_t)buf + live) % 64) % 64;
    if (n >= 4096 && ((uintptr_t)buf + live + at) % 4096 == 0) at += 64;
    psi_ring_move(r, buf, cap, (uint32_t)at);
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

/* Takes the first n bytes, perhaps all, of the oldest chunk. If some stay, those taken move down so that the
   rest can have a header of its own without being touched. */
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
    memset(r->seen, 0, sizeof r->seen);
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

/* Puts a copy of n bytes, perhaps those just taken, in front of all. 0, PSOCKET_NOMEM or PSOCKET_LIMIT. */
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
    memset(r->seen, 0, sizeof r->seen);
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
    r->bytes = 0;
    memset(r->seen, 0, sizeof r->seen);
}

/* Searches the chunks' bytes for a delimiter of m bytes within the first max: where it ends, 0 if it is not
   there. The oldest chunks are joined as needed. What a search has been through in vain the next one for the
   same delimiter, or the one after that, leaves out, so that byte by byte costs no more than all at once. */
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
    if (r->seen[0].key != key) {
        psi_ring_seen before = r->seen[0];
        r->seen[0] = r->seen[1];
        r->seen[1] = before;
    }
    i = r->seen[0].key == key ? r->seen[0].bytes : 0;
    while (n >= m && i <= n - m) {
        hit = (const uint8_t *)memchr(p + i, d[0], n - m - i + 1);
        i = hit ? (uint32_t)(hit - p) : n - m + 1;
        if (hit && memcmp(hit, d, m) == 0) return i + m;
        if (hit) i++;
    }
    r->seen[0].key = key;
    r->seen[0].bytes = i;
    return 0;
}

/*==================================================================================================
 * >>addr
 * Numeric addresses with their ports, scopes and brackets. RFC 4291 2.2, RFC 5952, RFC 4007 11.
 *================================================================================================*/

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

/* Reads a numeric address of n characters, if IPv6 perhaps with [brackets] and a numeric %scope. 1 or 0. */
static int psi_addr_parse(psi_addr *a, const char *s, size_t n)
{
    const char *end = s + n, *zone;
    char text[48] = "";
    int six = n && memchr(s, ':', n);
    memset(a, 0, sizeof *a);
    if (six && *s == '[' && end[-1] == ']') {
        s++;
        end--;
    }
    zone = six ? (const char *)memchr(s, '%', (size_t)(end - s)) : NULL;
    if (zone && !psi_number(&a->scope, zone + 1, end, 9)) return 0;
    if (zone) end = zone;
    n = (size_t)(end - s);
    if (n < sizeof text) memcpy(text, s, n);
    return strlen(text) == n && psi_os_from_text(a, six ? PSI_IP6 : PSI_IP4, text);
}

/* Prints without port or brackets. out holds at least 64 bytes. */
static void psi_addr_print(const psi_addr *a, char *out)
{
    psi_os_to_text(a, out);
    if (a->scope) snprintf(out + strlen(out), 16, "%%%lu", (unsigned long)a->scope);
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

/* Splits "ADDRESS:PORT", "[V6]:PORT" or "ADDRESS"; *port is set only if there is one. 0 or PSOCKET_INVALID. */
static int psi_addr_parse_port(psi_addr *a, const char *s, int *port)
{
    const char *colon = strrchr(s, ':');
    uint32_t v;
    if (psi_addr_parse(a, s, strlen(s))) return 0;
    if (!colon || !psi_number(&v, colon + 1, s + strlen(s), 5) || v > 65535) return PSOCKET_INVALID;
    if (!psi_addr_parse(a, s, (size_t)(colon - s))) return PSOCKET_INVALID;
    *port = (int)v;
    return a->family == PSI_IP6 && *s != '[' ? PSOCKET_INVALID : 0;
}

/*==================================================================================================
 * >>dns
 * Names to addresses. A psocket_resolve has two owners, the socket that asked and whoever answers; both may
 * be first to go. Everything shared between them is guarded by psi_dns_lock. The end of a lookup rings the
 * bell, whose descriptor the socket waits for. Lookups by the system have a helper thread each, up to
 * PSOCKET_RESOLVER_THREADS; more of them queue. A socket that lets go of its lookup gives the thread's place
 * to the next; the thread itself ends when the system answers.
 *================================================================================================*/

#define PSI_DNS_HOST 256 /* longest name, RFC 1035 2.3.4, or path, with its NUL */
/* Most threads whose answer nobody waits for any more. With 32 bits their stacks fill the memory. */
#define PSI_DNS_LOST ((sizeof(void *) < 8 ? 1 : 4) * PSOCKET_RESOLVER_THREADS)

struct psocket_resolve {
    psocket_resolve *next; /* in psi_dns_queue */
    psocket_fd bell[2];    /* the socket's; -1 if the answer was there at once, or nobody waits for it */
    long thread;           /* the process whose thread has it; 0: none, or its place is the next one's already */
    int owners, os, count;
    int code; /* PSOCKET_WANT_READ: there is no answer yet */
    psi_addr addrs[PSOCKET_ADDRESSES];
    char host[PSI_DNS_HOST];
};

static psi_os_mutex psi_dns_lock = PSI_OS_MUTEX_INIT;

/* Lookups that wait for a thread, in the order asked; threads that somebody waits for, and that nobody does any
   more; and whose they are: they do not survive fork. */
static psocket_resolve *psi_dns_queue;
static int psi_dns_threads, psi_dns_lost;
static PSI_UNUSED long psi_dns_process;

/* Adds an address that is not there yet: 0 or PSOCKET_LIMIT. They are kept in the order in which to try them:
   families alternate, beginning with the first that came, the system's choice (RFC 8305 section 4). Where one
   family has taken more than its half of the room, the other one takes it back. */
static int psi_dns_add(void *resolve, const psi_addr *address)
{
    psocket_resolve *r = (psocket_resolve *)resolve;
    psi_addr a = *address;
    int i, same = 0, at;
    psi_addr_normalise(&a);
    for (i = 0; i < r->count; i++) {
        const psi_addr *b = &r->addrs[i];
        if (b->family == a.family && b->scope == a.scope && !memcmp(b->ip, a.ip, sizeof a.ip)) return 0;
        same += b->family == a.family;
    }
    if (r->count == PSOCKET_ADDRESSES) {
        if (same >= PSOCKET_ADDRESSES / 2) return PSOCKET_LIMIT;
        r->count--;
    }
    at = 2 * same + (r->count && r->addrs[0].family != a.family);
    if (at > r->count) at = r->count;
    memmove(&r->addrs[at + 1], &r->addrs[at], (size_t)(r->count - at) * sizeof a);
    r->addrs[at] = a;
    r->count++;
    return 0;
}

/* Under the lock: stores the answer, rings, and lets go for whoever answers. */
static void psi_dns_answer(psocket_resolve *r, int code)
{
    r->code = !code && !r->count ? PSOCKET_DNS_NOT_FOUND : code;
    if (r->bell[1] != -1) psi_os_bell_ring(r->bell);
    if (!--r->owners) psi_free(r);
}

PSOCKET_API void psocket_resolve_done(psocket_resolve *r, int code)
{
    if (code && code != PSOCKET_DNS_NOT_FOUND && code != PSOCKET_DNS_TEMPORARY && code != PSOCKET_NOMEM &&
        code != PSOCKET_CLOSED_HERE) code = PSOCKET_DNS; /* not one of ours: getaddrinfo's, perhaps */
    psi_os_lock(&psi_dns_lock);
    if (r) psi_dns_answer(r, code);
    psi_os_unlock(&psi_dns_lock);
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

#ifdef PSI_OS_THREADS
#define PSI_DNS_THREADED 1

/* Resolves what is in the queue, until that is empty, or nobody has waited for the last one any more. */
PSI_OS_THREAD(psi_dns_worker, unused)
{
    psocket_resolve *r;
    int code, lost = 0;
    psi_os_lock(&psi_dns_lock);
    while (!lost && (r = psi_dns_queue) != NULL) {
        psi_dns_queue = r->next;
        r->thread = psi_os_process();
        psi_os_unlock(&psi_dns_lock);
        code = psi_os_resolve(r->host, psi_dns_add, r, &r->os); /* the socket looks once that is over */
        psi_os_lock(&psi_dns_lock);
        lost = !r->thread;
        psi_dns_answer(r, code);
    }
    --*(lost ? &psi_dns_lost : &psi_dns_threads);
    psi_os_unlock(&psi_dns_lock);
    (void)unused;
    return 0;
}

/* Under the lock: gives the queue one more thread, if it may have one. If there is none, that is their answer. */
static void psi_dns_serve(void)
{
    psocket_resolve *r;
    int os, code;
    if (!psi_dns_queue || psi_dns_threads >= PSOCKET_RESOLVER_THREADS) return;
    code = psi_os_thread(psi_dns_worker, NULL, &os);
    psi_dns_threads += !code;
    while (!psi_dns_threads && (r = psi_dns_queue) != NULL) {
        psi_dns_queue = r->next;
        r->os = os;
        psi_dns_answer(r, code);
    }
}

/* Around fork: a child must not find the lock taken by a thread that it has not. */
static void psi_dns_hold(void) { psi_os_lock(&psi_dns_lock); }
static void psi_dns_let(void) { psi_os_unlock(&psi_dns_lock); }

static void psi_dns_system(psocket_resolve *r)
{
    psocket_resolve **end = &psi_dns_queue;
    psi_os_pin(); /* not under the lock: it takes the loader's */
    psi_os_lock(&psi_dns_lock);
    if (psi_dns_process != psi_os_process()) {
        if (!psi_dns_process) psi_os_atfork(psi_dns_hold, psi_dns_let);
        psi_dns_process = psi_os_process();
        psi_dns_threads = psi_dns_lost = 0;
        for (; *end; *end = (*end)->next) (*end)->owners--; /* nobody will answer those */
    }
    while (*end) end = &(*end)->next;
    *end = r;
    psi_dns_serve();
    psi_os_unlock(&psi_dns_lock);
}

#else
#define PSI_DNS_THREADED 0
#define psi_dns_serve() ((void)0)

/* Without threads the answer is there at once, after as long as it takes. */
static void psi_dns_system(psocket_resolve *r)
{
    psocket_resolve_done(r, psi_os_resolve(r->host, psi_dns_add, r, &r->os));
}
#endif

/* The socket lets go of a lookup. Which nobody has begun is over. */
static void psi_dns_release(psocket_resolve *r)
{
    psocket_resolve **at = &psi_dns_queue;
    psi_os_lock(&psi_dns_lock);
    psi_os_close_pair(r->bell); /* nobody listens any more */
    while (r->code == PSOCKET_WANT_READ && *at && *at != r) at = &(*at)->next;
    if (*at == r) {
        *at = r->next;
        r->owners--;
    }
    if (r->code == PSOCKET_WANT_READ && r->thread == psi_os_process() && psi_dns_lost < PSI_DNS_LOST) {
        r->thread = 0;
        psi_dns_threads--;
        psi_dns_lost++;
        psi_dns_serve();
    }
    if (!--r->owners) psi_free(r);
    psi_os_unlock(&psi_dns_lock);
}

/* After how many milliseconds to ask again: 0 if the answer is there, -1 when the bell rings. */
static int psi_dns_ms(psocket_resolve *r)
{
    int ms;
    psi_os_lock(&psi_dns_lock);
    ms = r->code != PSOCKET_WANT_READ ? 0 : r->bell[0] == -1 ? 10 : -1;
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

/* Starts to resolve host. What is known without asking anybody is there at once: a path, a numeric address,
   and, unless the application resolves, this machine. Others go through fn or the system. The caller owns *out
   and ends it with psi_dns_release. */
static int psi_dns_start(psocket_resolve **out, const char *host, psocket_resolve_fn fn, void *user)
{
    const char *path = psi_addr_path(host);
    psi_addr a = PSI_ZERO;
    size_t n = strlen(host);
    int os;
    psocket_resolve *r;
    if (!n || n >= PSI_DNS_HOST || (path && !*path)) return PSOCKET_INVALID;
    *out = r = (psocket_resolve *)psi_alloc(sizeof *r);
    if (!r) return PSOCKET_NOMEM;
    memcpy(r->host, host, n + 1);
    r->owners = 1;
    r->bell[0] = r->bell[1] = -1;
    if (path) a.family = PSI_UNIX;
    else if (!psi_addr_parse(&a, host, n) && !fn && psi_dns_is_localhost(host, n)) {
        psi_addr_parse(&a, "::1", 3);
        psi_dns_add(r, &a);
        psi_addr_parse(&a, "127.0.0.1", 9);
    }
    if (a.family) {
        psi_dns_add(r, &a); /* there may be room for but one of localhost's */
        return 0;
    }
    r->code = PSOCKET_WANT_READ;
    if (fn || PSI_DNS_THREADED)
        psi_os_bell_new(r->bell, &os); /* if there can be none, psi_dns_ms makes do without */
    r->owners = 2;
    if (fn) fn(user, r, r->host);
    else psi_dns_system(r);
    return 0;
}
#ifndef PSOCKET_NO_TLS
/*==================================================================================================
 * >>x509
 * PEM, private keys, trust anchors, and the validation of certificate paths (RFC 5280 section 6, names by RFC
 * 9525) over BearSSL's primitives. Invariants: a certificate is parsed once, when it joins its chain, and only
 * points into its DER, which the chain owns; trust is immutable once loaded; a search answers with a rule and a
 * certificate, of which psi_x509_explain alone makes a sentence; the work that a peer can cause is capped.
 * A chain, a key and a trust own what they hold; whoever loaded one frees it.
 *================================================================================================*/

#include <bearssl.h>

/* What one verification may cost. An honest path has at most PSOCKET_CHAIN_DEPTH signatures, of P-384 at worst
   (4 checks of P-256 each): 40; the rest is for wrong turns. Comparing two names takes 0.05 us for each 64
   bytes, and a certificate may need 50 among 200 anchors: 100000 are enough for 2000 certificates, in 5 ms. */
#define PSI_X509_SIGNATURES 64
#define PSI_X509_WORK 100000
#define PSI_X509_LIST 64       /* elements of a list that has none twice; of extensions, there are about ten */
#define PSI_X509_SIGNATURE 512 /* bytes of the longest signature that is made: RSA 4096 */

/* --- DER: definite minimal lengths, tag numbers below 31 ------------------ */

/* Bytes in somebody else's memory. Readers take from the front; what is malformed leaves nothing and a p of
   NULL there, and so does what is read from that: it is enough to look at the end. */
typedef struct psi_x509_span {
    const uint8_t *p;
    size_t n;
} psi_x509_span;

static const psi_x509_span psi_x509_none = {NULL, 0};

static psi_x509_span psi_x509_span_of(const void *p, size_t n)
{
    psi_x509_span s;
    s.p = (const uint8_t *)p;
    s.n = n;
    return s;
}

static psi_x509_span psi_x509_after(psi_x509_span s, size_t n)
{
    return psi_x509_span_of(s.p + n, s.n - n);
}

static int psi_x509_same(psi_x509_span a, psi_x509_span b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

#define PSI_X509_IS(span, literal) psi_x509_same(span, psi_x509_span_of(literal, sizeof(literal) - 1))

/* Where in s a string of n characters first is; s.n if nowhere. */
static size_t psi_x509_find(psi_x509_span s, const char *what, size_t n)
{
    size_t i;
    for (i = 0; i + n <= s.n; i++)
        if (s.p[i] == (uint8_t)what[0] && memcmp(s.p + i, what, n) == 0) return i;
    return s.n;
}

/* Was all of it read, and well-formed? */
static int psi_x509_end(psi_x509_span in)
{
    return in.p && !in.n;
}

static psi_x509_span psi_x509_spoil(psi_x509_span *in)
{
    *in = psi_x509_none;
    return *in;
}

/* The tag of the next element; 0 at the end. */
static int psi_x509_tag(psi_x509_span in)
{
    return in.n ? in.p[0] : 0;
}

/* Takes the next element, whatever its tag: its content. */
static psi_x509_span psi_x509_any(psi_x509_span *in)
{
    psi_x509_span all = *in;
    size_t len, head = 2, more;
    psi_x509_spoil(in);
    if (all.n < 2 || (all.p[0] & 0x1F) == 0x1F) return *in;
    len = all.p[1];
    if (len >= 0x80) {
        more = len & 0x7F;
        if (more < 1 || more > 3 || all.n < 2 + more) return *in;
        for (len = 0; head < 2 + more; head++) len = len << 8 | all.p[head];
        if (len < 0x80 || len >> 8 * (more - 1) == 0) return *in;
    }
    if (len > all.n - head) return *in;
    *in = psi_x509_after(all, head + len);
    return psi_x509_span_of(all.p + head, len);
}

/* The same with its header. */
static psi_x509_span psi_x509_element(psi_x509_span *in)
{
    psi_x509_span all = *in;
    psi_x509_any(in);
    if (in->p) all.n -= in->n;
    return in->p ? all : *in;
}

/* Is a BOOLEAN, INTEGER, BIT STRING or OBJECT IDENTIFIER in its only form (X.690 8.3.2, 8.19.2, 11)? */
static int psi_x509_proper(int tag, psi_x509_span v)
{
    int starts = 1;
    if (tag != 0x01 && tag != 0x02 && tag != 0x03 && tag != 0x06) return 1;
    if (!v.n) return 0;
    if (tag == 0x01) return v.n == 1 && (v.p[0] == 0 || v.p[0] == 0xFF);
    if (tag == 0x02) return v.n == 1 || (v.p[0] ^ (v.p[1] & 0x80 ? 0xFF : 0)) != 0;
    if (tag == 0x03) return v.p[0] < (v.n > 1 ? 8 : 1) && !(v.p[v.n - 1] & ((1 << v.p[0]) - 1));
    for (; v.n && !(starts && *v.p == 0x80); v = psi_x509_after(v, 1)) starts = *v.p < 0x80;
    return starts && !v.n;
}

/* Takes the next element, which has to have this tag: its content. */
static psi_x509_span psi_x509_take(psi_x509_span *in, int tag)
{
    int fits = psi_x509_tag(*in) == tag;
    psi_x509_span v = psi_x509_any(in);
    return fits && psi_x509_proper(tag, v) ? v : psi_x509_spoil(in);
}

/* The content of what is one SEQUENCE and nothing else. */
static psi_x509_span psi_x509_seq(psi_x509_span in)
{
    psi_x509_span v = psi_x509_take(&in, 0x30);
    return in.n ? psi_x509_none : v;
}

/* Days from 1970-01-01 to the first of a month of the Gregorian calendar, 1 to 13. */
static int psi_x509_days(int y, int m)
{
    int year = y + 400 - (m <= 2), month = (m + 9) % 12; /* years from March on end with the leap day */
    return year * 365 + year / 4 - year / 100 + year / 400 - 146097 + (month * 153 + 2) / 5 - 719468;
}

/* Takes UTCTime or GeneralizedTime as RFC 5280 4.1.2.5 wants them: with seconds, in UTC, without fractions. */
static int64_t psi_x509_time(psi_x509_span *in)
{
    static const int most[7] = {99, 99, 12, 31, 23, 59, 59};
    int f[7] = {0}; /* century, year, month, day, hour, minute, second */
    int tag = psi_x509_tag(*in), utc = tag == 0x17, year, first, i, d, ok;
    psi_x509_span t = psi_x509_any(in);
    ok = utc ? t.n == 13 : tag == 0x18 && t.n == 15;
    for (i = utc ? 2 : 0; ok && i < 14; i++, t.p++) {
        d = *t.p - '0';
        f[i / 2] = f[i / 2] * 10 + d;
        ok = d >= 0 && d <= 9 && f[i / 2] <= most[i / 2];
    }
    if (utc) f[0] = f[1] < 50 ? 20 : 19;
    year = f[0] * 100 + f[1];
    first = psi_x509_days(year, f[2]);
    ok = ok && *t.p == 'Z' && f[2] && f[3] && first + f[3] <= psi_x509_days(year, f[2] + 1);
    if (!ok) *in = psi_x509_none;
    return (int64_t)(first + f[3] - 1) * 86400 + f[4] * 3600 + f[5] * 60 + f[6];
}

/* --- object identifiers --------------------------------------------------- */

#define PSI_OID_PKCS1 "\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01"
#define PSI_OID_ANSI "\x2A\x86\x48\xCE\x3D"
#define PSI_OID_NIST "\x09\x60\x86\x48\x01\x65\x03\x04\x02"
#define PSI_OID_PKIX "\x08\x2B\x06\x01\x05\x05\x07"
#define PSI_OID_CE "\x03\x55\x1D"
#define PSI_OID_AT "\x03\x55\x04"

/* Those that are looked for, each after its length, with what people call them. Those of three hashes or curves
   are in BearSSL's order. Extensions stand together, those that say what a key may do first. */
#define PSI_X509_OIDS(X) \
    X(RSA, PSI_OID_PKCS1 "\x01", "") X(RSA_MD5, PSI_OID_PKCS1 "\x04", "") \
    X(RSA_SHA1, PSI_OID_PKCS1 "\x05", "") X(MGF1, PSI_OID_PKCS1 "\x08", "") X(PSS, PSI_OID_PKCS1 "\x0A", "") \
    X(RSA_SHA256, PSI_OID_PKCS1 "\x0B", "") X(RSA_SHA384, PSI_OID_PKCS1 "\x0C", "") \
    X(RSA_SHA512, PSI_OID_PKCS1 "\x0D", "") \
    X(EC, "\x07" PSI_OID_ANSI "\x02\x01", "") X(P256, "\x08" PSI_OID_ANSI "\x03\x01\x07", "") \
    X(P384, "\x05\x2B\x81\x04\x00\x22", "") X(P521, "\x05\x2B\x81\x04\x00\x23", "") \
    X(ECDSA_SHA1, "\x07" PSI_OID_ANSI "\x04\x01", "") X(ECDSA_SHA256, "\x08" PSI_OID_ANSI "\x04\x03\x02", "") \
    X(ECDSA_SHA384, "\x08" PSI_OID_ANSI "\x04\x03\x03", "") \
    X(ECDSA_SHA512, "\x08" PSI_OID_ANSI "\x04\x03\x04", "") \
    X(SHA256, PSI_OID_NIST "\x01", "") X(SHA384, PSI_OID_NIST "\x02", "") X(SHA512, PSI_OID_NIST "\x03", "") \
    X(CPS, PSI_OID_PKIX "\x02\x01", "") X(NOTICE, PSI_OID_PKIX "\x02\x02", "") \
    X(SERVER_AUTH, PSI_OID_PKIX "\x03\x01", "") X(CLIENT_AUTH, PSI_OID_PKIX "\x03\x02", "") \
    X(ANY_EKU, "\x04\x55\x1D\x25\x00", "") X(ANY_POLICY, "\x04\x55\x1D\x20\x00", "") \
    X(KEY_USAGE, PSI_OID_CE "\x0F", "keyUsage ") X(BASIC, PSI_OID_CE "\x13", "basicConstraints ") \
    X(CONSTRAINTS, PSI_OID_CE "\x1E", "nameConstraints ") X(EXT_USAGE, PSI_OID_CE "\x25", "extKeyUsage ") \
    X(POLICY_LIMITS, PSI_OID_CE "\x24", "policyConstraints ") X(SAN, PSI_OID_CE "\x11", "subjectAltName ") \
    X(SKI, PSI_OID_CE "\x0E", "subjectKeyIdentifier ") X(POLICIES, PSI_OID_CE "\x20", "certificatePolicies ") \
    X(MAPPINGS, PSI_OID_CE "\x21", "policyMappings ") X(AKI, PSI_OID_CE "\x23", "authorityKeyIdentifier ") \
    X(ANY_LIMIT, PSI_OID_CE "\x36", "inhibitAnyPolicy ") \
    X(AIA, PSI_OID_PKIX "\x01\x01", "authorityInfoAccess ") \
    X(CN, PSI_OID_AT "\x03", "CN") X(SN, PSI_OID_AT "\x04", "SN") X(SERIAL, PSI_OID_AT "\x05", "serialNumber") \
    X(C, PSI_OID_AT "\x06", "C") X(L, PSI_OID_AT "\x07", "L") X(ST, PSI_OID_AT "\x08", "ST") \
    X(STREET, PSI_OID_AT "\x09", "STREET") X(O, PSI_OID_AT "\x0A", "O") X(OU, PSI_OID_AT "\x0B", "OU") \
    X(DC, "\x0A\x09\x92\x26\x89\x93\xF2\x2C\x64\x01\x19", "DC")

#define PSI_X(name, bytes, text) bytes text "\0"
static const char psi_x509_oids[] = PSI_X509_OIDS(PSI_X);
#undef PSI_X
#define PSI_X(name, bytes, text) PSI_OID_##name,
enum { PSI_OID_OTHER, PSI_X509_OIDS(PSI_X) PSI_OID_COUNT };
#undef PSI_X

/* Which of them it is, and what people call it, or "". */
static int psi_x509_known(psi_x509_span oid, const char **text)
{
    const char *p = psi_x509_oids;
    int id;
    for (id = 1; *p; id++, p += strlen(p) + 1) {
        size_t n = (size_t)*p++;
        *text = p + n;
        if (psi_x509_same(oid, psi_x509_span_of(p, n))) return id;
        p += n;
    }
    *text = p;
    return PSI_OID_OTHER;
}

static int psi_x509_id(psi_x509_span oid)
{
    const char *text;
    return psi_x509_known(oid, &text);
}

/* Of three identifiers in BearSSL's order, from the first on, what its number is; 0 if it is none of them. */
static int psi_x509_one_of(psi_x509_span oid, int first, int number)
{
    int id = psi_x509_id(oid);
    return id >= first && id < first + 3 ? number + id - first : 0;
}

/* --- shapes of ASN.1 ------------------------------------------------------ */

/* Are all its characters printable ASCII, or at least this one? */
static int psi_x509_is_text(psi_x509_span s, int least)
{
    while (s.n && *s.p >= least && *s.p <= '~') s = psi_x509_after(s, 1);
    return !s.n;
}

/* Bytes of the UTF-8 character at s, 0 if it is malformed or a control character that a terminal might obey. */
static size_t psi_x509_utf8(psi_x509_span s)
{
    int c = s.p[0];
    size_t i, n = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    if (n > s.n || c < 0x20 || c == 0x7F || (c == 0xC2 && s.p[1] < 0xA0)) return 0;
    for (i = 1; i < n; i++)
        if ((s.p[i] & 0xC0) != 0x80) return 0;
    return n;
}

/* Is there another element of this identifier in the list, or are there too many to tell? */
static int psi_x509_repeats(psi_x509_span list, psi_x509_span oid)
{
    psi_x509_span one;
    int i;
    for (i = 0; list.n; i++) {
        one = psi_x509_take(&list, 0x30);
        if (i == PSI_X509_LIST || psi_x509_same(psi_x509_take(&one, 0x06), oid)) return 1;
    }
    return 0;
}

/* The shape of what is in an element if the shape around does not tell it; NULL if it has none. */
static PSI_APART const char *psi_x509_inner(int kind, int tag, psi_x509_span body)
{
    int id;
    if (kind == 'n') return "?+{+(oe)))";
    if (kind == 'g') return tag == 0xA4 ? "n)" : tag == 0xA0 ? "o.)" : NULL;
    if (kind != 'q') return NULL;
    id = psi_x509_id(psi_x509_take(&body, 0x06));
    return id == PSI_OID_CPS ? "oa)" : id == PSI_OID_NOTICE ? "o(?(t(?+i))?t))" : "=oe)";
}

/* Is the content of an element what the shape says? Of numbers and bits it becomes the value. */
static PSI_APART int psi_x509_holds(int kind, int tag, psi_x509_span *v)
{
    psi_x509_span s = *v;
    size_t n = 1;
    switch (kind) {
    case 'u':
    case 'w':
        if (!psi_x509_proper(0x02, s) || *s.p >= 0x80) return 0;
        if (*s.p == 0) *v = psi_x509_after(s, 1);
        return 1;
    case 'b':
        if (!s.n || *s.p) return 0;
        *v = psi_x509_after(s, 1);
        return 1;
    case 't':
        if (tag == 0x1E) return s.n && s.n % 2 == 0; /* BMPString */
        for (; s.n && n; s = psi_x509_after(s, n)) n = psi_x509_utf8(s);
        return n && memchr("\x0C\x16\x1A", tag, 3);
    case 'g':
        if (tag == 0x87) return s.n == 4 || s.n == 16;
        if (memchr("\xA0\xA3\xA4\xA5\x88", tag, 5)) return 1;
        return s.n && memchr("\x81\x82\x86", tag, 3) && psi_x509_is_text(s, 1);
    case 'a': return s.n && psi_x509_is_text(s, 1);
    case 'p': return psi_x509_id(s) != PSI_OID_ANY_POLICY;
    case 'r': return tag != 0x87 || s.n == 8 || s.n == 32;
    default: return 1;
    }
}

/* Such a value as a number: 65535 at most, and larger ones as more than 255. */
static int psi_x509_number(psi_x509_span v)
{
    int x = 0;
    for (; v.n && x < 256; v = psi_x509_after(v, 1)) x = x << 8 | *v.p;
    return x;
}

/* The tag of what a letter of a shape stands for, 0 if it has several. */
static int psi_x509_letter_tag(int letter)
{
    static const char letters[] = "({0123nqfiukbsopaxywz";
    static const char tags[] = "\x30\x31\xA0\xA1\xA2\xA3\x30\x30\x01\x02\x02\x03\x03\x04\x06\x06\x16\x80\x81\x81\x82";
    const char *at = strchr(letters, letter);
    return at ? (uint8_t)tags[at - letters] : 0;
}

/* Takes what a letter stands for. */
static PSI_APART psi_x509_span psi_x509_take_letter(psi_x509_span *in, int letter)
{
    int tag = psi_x509_letter_tag(letter);
    psi_x509_span all = *in;
    if (tag) return psi_x509_take(in, tag);
    if (letter == 'e') return psi_x509_element(in);
    if (letter != '.') return psi_x509_any(in);
    if (all.n) *in = psi_x509_after(all, all.n);
    return all;
}

/* Takes what has this shape, up to a ) of its own. ( { 0 1 2 3 begin a SEQUENCE, a SET, [0] to [3], which )
   ends. ? is before what may be missing, + before what is there once or more, up to the end, = before what goes
   to the next place of *out, malformed or not: its content, a p of NULL if it is missing. f is a BOOLEAN, i an
   INTEGER, u one of 0 or more without leading zeros (0 is empty), w the same as [1], k a BIT STRING, b one of
   whole bytes, s an OCTET STRING, o an OBJECT IDENTIFIER, p one that is not anyPolicy, a ASCII, t a DisplayText
   (RFC 5280 4.2.1.4), n a Name, g a GeneralName, r what bounds such names, q a policy's qualifier, whose
   identifier is stored if unknown, x y z [0] to [2] of whatever type, e any element, with its header, . all
   that follows. */
static const char *psi_x509_shape(psi_x509_span *in, const char *shape, psi_x509_span **out)
{
    while (*shape && *shape != ')') {
        psi_x509_span missing = psi_x509_none, unused, body, *keep = &unused, *first = *out, *from = in;
        int optional = *shape == '?', many = shape[optional] == '+', tag = psi_x509_tag(*in), letter, want, ok;
        const char *again = shape + optional, *sub;
        shape = again + many;
        if (*shape == '=') {
            keep = (*out)++;
            shape++;
        }
        letter = *shape++;
        want = psi_x509_letter_tag(letter);
        if (optional && (!tag || (want && want != tag))) from = &missing;
        *keep = body = psi_x509_take_letter(from, letter);
        ok = psi_x509_holds(letter, tag, keep);
        sub = strchr("({0123", letter) ? shape : psi_x509_inner(letter, tag, body);
        if (sub) {
            int own = sub == shape;
            sub = psi_x509_shape(&body, sub, out);
            ok &= psi_x509_end(body);
            if (own) shape = sub + 1;
        }
        if (!ok) psi_x509_spoil(from);
        if (many && in->n && from == in) {
            shape = again;
            *out = first;
        }
    }
    return shape;
}

/* Is in of this shape, all of it? */
static int psi_x509_read(psi_x509_span in, const char *shape, psi_x509_span *out)
{
    psi_x509_shape(&in, shape, &out);
    return psi_x509_end(in);
}

/* --- distinguished names -------------------------------------------------- */

/* A hash of what psi_x509_same_name compares of a Name, header included; 0 if it is malformed. */
static uint32_t psi_x509_name_hash(psi_x509_span name)
{
    psi_x509_span parts = psi_x509_seq(name), part, v[2];
    uint32_t hash = 2166136261u;
    if (!psi_x509_read(name, "n", NULL)) return 0;
    while (parts.n) {
        for (part = psi_x509_any(&parts); part.n;) {
            psi_x509_read(psi_x509_element(&part), "(=o=e)", v);
            for (v[1] = psi_x509_any(&v[1]); v[1].n; v[1] = psi_x509_after(v[1], 1))
                if (*v[1].p != ' ') hash = (hash ^ (uint32_t)psi_lower(*v[1].p)) * 16777619u;
        }
    }
    return hash | 1;
}

/* Is it text that every string type writes alike, printable ASCII? Of all else, as accents in T61String or in
   the two ways of Unicode, only the same bytes are surely the same. *value becomes its content, trimmed. */
static int psi_x509_is_plain(psi_x509_span *value)
{
    int tag = psi_x509_tag(*value);
    psi_x509_span s = psi_x509_any(value);
    while (s.n && *s.p == ' ') s = psi_x509_after(s, 1);
    while (s.n && s.p[s.n - 1] == ' ') s.n--;
    *value = s;
    return s.p && psi_x509_is_text(s, ' ') && memchr("\x0C\x12\x13\x14\x16\x1A", tag, 6);
}

/* Takes a character as RFC 5280 7.1 compares it, lower case and runs of spaces as one: -1 at the end. */
static int psi_x509_folded(psi_x509_span *s)
{
    int c = s->n ? psi_lower(*s->p) : -1;
    do {
        if (s->n) *s = psi_x509_after(*s, 1);
    } while (c == ' ' && s->n && *s->p == ' ');
    return c;
}

/* Are two relative names the same? unsure if it depends on who reads them. Real chains need more than the
   bytes: an authority whose tools changed writes PrintableString in its old certificate, UTF8String in its new
   one (RFC 5280 4.1.2.4), and what it issued before names it in the old way; others write the constraints. */
static int psi_x509_same_rdn(psi_x509_span a, psi_x509_span b, int unsure)
{
    psi_x509_span va[3], vb[3]; /* type, value, other attributes, in the order of their encodings */
    int ca, cb;
    if (psi_x509_same(a, b)) return 1;
    if (!psi_x509_read(a, "(=o=e)=.", va) || !psi_x509_read(b, "(=o=e)=.", vb)) return unsure;
    if (va[2].n || vb[2].n) return va[2].n && vb[2].n && unsure;
    if (!psi_x509_same(va[0], vb[0])) return 0;
    if (!psi_x509_is_plain(&va[1]) || !psi_x509_is_plain(&vb[1])) return unsure;
    do {
        ca = psi_x509_folded(&va[1]);
        cb = psi_x509_folded(&vb[1]);
    } while (ca == cb && ca >= 0);
    return ca == cb;
}

/* Does a Name start with all relative names of base? -1: one of them is malformed. */
static int psi_x509_name_within(psi_x509_span base, psi_x509_span name, int unsure)
{
    psi_x509_span parts = psi_x509_seq(base), others = psi_x509_seq(name), part;
    if (!psi_x509_read(base, "n", NULL) || !others.p) return -1;
    while (parts.n) {
        part = psi_x509_any(&parts);
        if (!others.n || !psi_x509_same_rdn(part, psi_x509_take(&others, 0x31), unsure)) return 0;
    }
    return 1;
}

static int psi_x509_same_name(psi_x509_span a, psi_x509_span b)
{
    return psi_x509_same(a, b) || (psi_x509_name_within(a, b, 0) > 0 && psi_x509_name_within(b, a, 0) > 0);
}

/* --- names for people ----------------------------------------------------- */

/* A string that grows in somebody else's memory until a piece does not fit: all from there on is left out. */
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
    if (n >= room) {
        t->p[t->used] = 0;
        t->size = t->used + 1;
        n = 0;
    }
    t->used += n;
}

/* Writes a peer's text: control characters and malformed UTF-8 as \XX, special ones after a backslash. */
static void psi_x509_put_safe(psi_x509_text *t, psi_x509_span s, const char *special)
{
    size_t n;
    for (; s.n; s = psi_x509_after(s, n ? n : 1)) {
        n = psi_x509_utf8(s);
        if (n) psi_x509_put(t, "%s%.*s", n == 1 && strchr(special, *s.p) ? "\\" : "", (int)n, (const char *)s.p);
        else psi_x509_put(t, "\\%02X", *s.p);
    }
}

/* Writes what people call an object identifier; if that is nothing, or ends with a space, the dotted form,
   whose first number holds two. */
static void psi_x509_put_oid(psi_x509_text *t, psi_x509_span oid)
{
    unsigned long v = 0, top;
    const char *known;
    int first = 1;
    psi_x509_known(oid, &known);
    psi_x509_put(t, "%s", known);
    if (*known && !strchr(known, ' ')) return;
    for (; oid.n; oid = psi_x509_after(oid, 1)) {
        v = v << 7 | (*oid.p & 0x7Fu);
        if (*oid.p & 0x80) continue;
        top = v < 80 ? v / 40 : 2;
        if (first) psi_x509_put(t, "%lu", top);
        psi_x509_put(t, ".%lu", first ? v - 40 * top : v);
        first = 0;
        v = 0;
    }
}

/* Writes a Name as RFC 4514 does, the most specific part first: "CN=example.org,O=Example". */
static void psi_x509_put_name(psi_x509_text *t, psi_x509_span name)
{
    psi_x509_span parts[16], rest = psi_x509_seq(name), v[2]; /* the last ones, if there are more */
    size_t total = 0, count;
    const char *before = "";
    while (rest.n) parts[total++ % 16] = psi_x509_take(&rest, 0x31);
    for (count = total < 16 ? total : 16; count; count--, before = ",") {
        for (rest = parts[--total % 16]; rest.n; before = "+") {
            if (!psi_x509_read(psi_x509_element(&rest), "(=o=e)", v)) return;
            psi_x509_put(t, "%s", before);
            psi_x509_put_oid(t, v[0]);
            psi_x509_put(t, "=");
            psi_x509_put_safe(t, psi_x509_any(&v[1]), ",+\"\\<>;");
        }
    }
}

/* --- host names (RFC 9525) ------------------------------------------------ */

/* Is it a host name? Labels of letters, digits, hyphens and (not in DNS, but in real life) underscores; a last
   label of digits would be an IP address to others. *.name is one only if wildcard. */
static int psi_x509_is_dns(psi_x509_span s, int wildcard)
{
    size_t n, i;
    int letters, more;
    if (wildcard && s.n > 2 && s.p[0] == '*' && s.p[1] == '.') s = psi_x509_after(s, 2);
    if (s.n > 253) return 0;
    do {
        n = psi_x509_find(s, ".", 1);
        if (n == 0 || n > 63 || s.p[0] == '-' || s.p[n - 1] == '-') return 0;
        for (letters = 0, i = 0; i < n; i++) {
            int c = psi_lower(s.p[i]), letter = (c >= 'a' && c <= 'z') || c == '_' || c == '-';
            if (!letter && (c < '0' || c > '9')) return 0;
            letters |= letter;
        }
        more = n < s.n;
        s = psi_x509_after(s, n + (size_t)more);
    } while (more);
    return letters;
}

/* The name that a peer must prove, ready for comparing. */
typedef struct psi_x509_host {
    psi_x509_span dns; /* without the trailing dot; empty: an address */
    psi_addr address;
} psi_x509_host;

/* 1, or 0 if nothing could be issued for such a name. h points into name. */
static int psi_x509_host_parse(psi_x509_host *h, const char *name)
{
    size_t n = strlen(name), zone = psi_x509_find(psi_x509_span_of(name, n), "%", 1);
    memset(h, 0, sizeof *h);
    if (psi_addr_parse(&h->address, name, zone)) return 1;
    if (n && name[n - 1] == '.') n--;
    h->dns = psi_x509_span_of(name, n);
    return psi_x509_is_dns(h->dns, 0);
}

/* The IPv4 address in an IPv6 one that is mapped from it; any other as it is. */
static psi_x509_span psi_x509_plain_ip(psi_x509_span ip)
{
    int mapped = ip.n == 16 && memcmp(ip.p, "\0\0\0\0\0\0\0\0\0\0\xFF\xFF", 12) == 0;
    return mapped ? psi_x509_after(ip, 12) : ip;
}

/* Does s end like this, whatever the case? */
static int psi_x509_ends_with(psi_x509_span s, psi_x509_span end)
{
    return s.n >= end.n && psi_same_nocase((const char *)s.p + s.n - end.n, (const char *)end.p, end.n);
}

/* Does one subjectAltName entry name this host? 2 exactly, 1 by a wildcard (RFC 9525 6.3), 0 not. A mapped
   address is named in both forms. */
static int psi_x509_host_is(const psi_x509_host *h, int tag, psi_x509_span name)
{
    psi_x509_span rest = h->dns, ip = psi_x509_span_of(h->address.ip, h->address.family == PSI_IP4 ? 4 : 16);
    if (!rest.n && tag == 0x87)
        return name.n <= ip.n && psi_x509_same(psi_x509_plain_ip(name), psi_x509_plain_ip(ip)) ? 2 : 0;
    if (!rest.n || tag != 0x82 || !psi_x509_is_dns(name, 1)) return 0;
    if (name.p[0] != '*') return name.n == rest.n && psi_x509_ends_with(name, rest) ? 2 : 0;
    if (!memchr(name.p + 2, '.', name.n - 2)) return 0; /* *.org */
    rest = psi_x509_after(rest, psi_x509_find(rest, ".", 1));
    return rest.n == name.n - 1 && psi_x509_ends_with(name, rest);
}

/* --- digests -------------------------------------------------------------- */

static const br_hash_class *psi_x509_hash_class(int hash)
{
    return hash == br_sha256_ID ? &br_sha256_vtable
        : hash == br_sha384_ID ? &br_sha384_vtable : &br_sha512_vtable;
}

static size_t psi_x509_hash_len(int hash)
{
    return hash == br_sha256_ID ? 32 : hash == br_sha384_ID ? 48 : 64;
}

static const unsigned char *psi_x509_hash_oid(int hash)
{
    return hash == br_sha256_ID ? BR_HASH_OID_SHA256
        : hash == br_sha384_ID ? BR_HASH_OID_SHA384 : BR_HASH_OID_SHA512;
}

/* The digest of strings behind each other. */
static void psi_x509_digest(int hash, const psi_x509_span *parts, int count, uint8_t *out)
{
    const br_hash_class *hc = psi_x509_hash_class(hash);
    br_hash_compat_context h;
    hc->init(&h.vtable);
    for (; count; count--, parts++) hc->update(&h.vtable, parts->p, parts->n);
    hc->out(&h.vtable, out);
}

/* --- certificates --------------------------------------------------------- */

enum { PSI_X509_PKCS1 = 1, PSI_X509_PSS, PSI_X509_ECDSA };
enum { PSI_X509_SERVER_AUTH = 2, PSI_X509_CLIENT_AUTH = 4, PSI_X509_ANY_EKU = 8 };
enum { PSI_X509_KU_SIGN = 0x80, PSI_X509_KU_CERT_SIGN = 0x04 }; /* bits of the extension's first byte */

/* How grave it is that a rule was broken. Of paths, the low digit counts: one that failed in its dates or pins
   only tells more than one that failed at an issuer, and that more than one that ended. Of flaws, a
   certificate's own, the gravest is kept, of its kind the first: they matter if a signature by its issuer
   counts; unless it is trusted itself; whenever its key is used; always; and of the last not even subject or
   key could be read. */
enum {
    PSI_X509_ENDED = 1, PSI_X509_BROKEN, PSI_X509_EXHAUSTED, PSI_X509_COMPLETE,
    PSI_X509_SIGNED = 0x12, PSI_X509_UNTRUSTED = 0x22, PSI_X509_USED = 0x32, PSI_X509_ALWAYS = 0x42,
    PSI_X509_UNREADABLE = 0x52
};

/* The rules: gravity, code, and what that says of the certificate which broke it. */
#define PSI_X509_RULES(X) \
    X(HASH, SIGNED, WEAK, "is signed with SHA-1 or MD5, which are broken") \
    X(ALGORITHM, SIGNED, ALGORITHM, "is signed with an unsupported algorithm") \
    X(ALG, UNTRUSTED, MALFORMED, "has a malformed signature algorithm") \
    X(ALGS, UNTRUSTED, MALFORMED, "has two signature algorithms that differ") \
    X(SIG, UNTRUSTED, MALFORMED, "has a malformed signature") \
    X(ISSUER, UNTRUSTED, MALFORMED, "has a malformed issuer") \
    X(DATES, UNTRUSTED, MALFORMED, "has malformed dates") \
    X(VERSION, UNTRUSTED, MALFORMED, "is not of version 3") \
    X(REST, UNTRUSTED, MALFORMED, "has bytes after its body, or malformed identifiers") \
    X(SERIAL, UNTRUSTED, MALFORMED, "has a serial number below 1 or over 20 bytes") \
    X(NAMES, UNTRUSTED, MALFORMED, "lacks an issuer or a subject") \
    X(LIMITS, UNTRUSTED, MALFORMED, "limits authorities below it without being one") \
    X(NO_CA, UNTRUSTED, USAGE, "may sign certificates but is not an authority") \
    X(EXTENSION, UNTRUSTED, MALFORMED, "has a malformed extension") \
    X(SMALL_KEY, USED, WEAK, "has an RSA key of less than 2048 bits") \
    X(LARGE_KEY, USED, ALGORITHM, "has an RSA key of more than 4096 bits, or an unusual one") \
    X(PSS_KEY, USED, ALGORITHM, "has an RSA-PSS key of an unsupported kind") \
    X(OTHER_KIND, USED, ALGORITHM, "has a key that is neither RSA nor on P-256, P-384 or P-521") \
    X(KEY_EXTENSION, ALWAYS, MALFORMED, "has a malformed extension") \
    X(EXTENSIONS, ALWAYS, MALFORMED, "has malformed extensions") \
    X(REPEATED, ALWAYS, MALFORMED, "repeats an extension") \
    X(CRITICAL, ALWAYS, CRITICAL, "has an unknown critical extension") \
    X(EXPLICIT, ALWAYS, CRITICAL, "requires explicit policies, which are not supported") \
    X(POLICY, ALWAYS, CRITICAL, "has a critical policy of an unknown kind") \
    X(DER, UNREADABLE, MALFORMED, "is not DER, or bytes follow it") \
    X(SUBJECT, UNREADABLE, MALFORMED, "has a malformed subject") \
    X(KEY, UNREADABLE, MALFORMED, "has a malformed public key") \
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

#define PSI_X(name, grave, code, text) PSI_RULE_##name,
enum { PSI_RULE_NONE, PSI_X509_RULES(PSI_X) PSI_RULE_COUNT };
#undef PSI_X
#define PSI_X(name, grave, code, text) {PSI_X509_##grave, PSOCKET_CERT_##code, text},
static const struct {
    short grave, code;
    const char *text;
} psi_x509_rules[] = {{0, 0, ""}, PSI_X509_RULES(PSI_X)};
#undef PSI_X

typedef struct psi_x509_alg {
    int kind, hash, salt; /* PSI_X509_*, a BearSSL hash number, PSS salt length */
} psi_x509_alg;

/* One certificate, read once. Everything points into der. */
typedef struct psi_x509_cert {
    psi_x509_span der, tbs, sig, issuer, subject, spki; /* all but sig with their headers */
    psi_x509_span ski, aki, san, bounds[2];             /* what names are permitted, what excluded */
    int64_t not_before, not_after;
    uint32_t issuer_hash, subject_hash;
    br_x509_pkey key; /* key_type 0: none that can be used */
    psi_x509_alg alg;
    psi_x509_alg only; /* what the key may sign with; kind 0: anything, hash 0: any hash */
    int version, self_issued, ca, path_len; /* path_len -1: no limit */
    int usage, extended; /* key usage and extended key usage bits; -1, all, if the extension is absent */
    int san_critical, constrains;  /* constrains: 0 no names, 1 those of known kinds, 2 others too */
    int flaw;                      /* PSI_RULE_* */
    psi_x509_span flawed;          /* the extension that it is about */
} psi_x509_cert;

/* For tests, which count how many certificates are parsed. */
#ifndef PSI_X509_PARSED
#define PSI_X509_PARSED() ((void)0)
#endif

static int psi_x509_gravity(const psi_x509_cert *c)
{
    return psi_x509_rules[c->flaw].grave;
}

static PSI_APART void psi_x509_demand(psi_x509_cert *c, int rule, int ok)
{
    if (ok || psi_x509_rules[rule].grave <= psi_x509_gravity(c)) return;
    c->flaw = rule;
    c->flawed.n = 0;
}

static unsigned char *psi_x509_slice(psi_x509_span s, size_t *n)
{
    *n = s.n;
    return (unsigned char *)(uintptr_t)s.p;
}

/* Is a NULL, or nothing at all, the rest of an AlgorithmIdentifier? */
static int psi_x509_no_params(psi_x509_span in)
{
    return psi_x509_end(in) || PSI_X509_IS(in, "\x05\x00");
}

/* RSASSA-PSS-params (RFC 4055 3.1): 1, or 0 if malformed or of another hash. Absent fields mean SHA-1. */
static int psi_x509_pss_params(psi_x509_span in, psi_x509_alg *alg)
{
    enum { HASH, PARAMS, MGF, MGF_HASH, MGF_PARAMS, SALT, TRAILER, FIELDS };
    psi_x509_span v[FIELDS];
    int ok = psi_x509_read(in, "(0(=o=.))1(=o(=o=.)))?2=u)?3=u))", v);
    alg->kind = PSI_X509_PSS;
    alg->hash = psi_x509_one_of(v[HASH], PSI_OID_SHA256, br_sha256_ID);
    alg->salt = v[SALT].p ? psi_x509_number(v[SALT]) : 20;
    ok = ok && alg->hash && psi_x509_no_params(v[PARAMS]) && psi_x509_same(v[MGF_HASH], v[HASH]) &&
         psi_x509_id(v[MGF]) == PSI_OID_MGF1 && psi_x509_no_params(v[MGF_PARAMS]) &&
         v[SALT].n <= 2 && (!v[TRAILER].p || PSI_X509_IS(v[TRAILER], "\1"));
    if (!ok) alg->hash = -1; /* which is no signature's */
    return ok;
}

static void psi_x509_read_alg(psi_x509_cert *c, psi_x509_span in)
{
    psi_x509_span v[2]; /* identifier, parameters */
    int ok = psi_x509_read(in, "(=o=.)", v), id = psi_x509_id(v[0]);
    int rsa = psi_x509_one_of(v[0], PSI_OID_RSA_SHA256, br_sha256_ID);
    int ecdsa = psi_x509_one_of(v[0], PSI_OID_ECDSA_SHA256, br_sha256_ID);
    c->alg.kind = rsa ? PSI_X509_PKCS1 : ecdsa ? PSI_X509_ECDSA : 0;
    c->alg.hash = rsa | ecdsa;
    if (rsa || ecdsa) {
        ok = rsa ? psi_x509_no_params(v[1]) : psi_x509_end(v[1]);
    } else if (id == PSI_OID_RSA_MD5 || id == PSI_OID_RSA_SHA1 || id == PSI_OID_ECDSA_SHA1) {
        psi_x509_demand(c, PSI_RULE_HASH, 0);
    } else if (id != PSI_OID_PSS || !psi_x509_pss_params(v[1], &c->alg)) {
        c->alg.kind = 0;
        psi_x509_demand(c, PSI_RULE_ALGORITHM, 0);
    }
    psi_x509_demand(c, PSI_RULE_ALG, ok);
}

/* The curve that the rest of an AlgorithmIdentifier names: 0 if it is not one of ours. */
static int psi_x509_curve(psi_x509_span in)
{
    psi_x509_span oid;
    return psi_x509_read(in, "=o", &oid) ? psi_x509_one_of(oid, PSI_OID_P256, BR_EC_secp256r1) : 0;
}

/* Bytes of a coordinate, or of the order. */
static size_t psi_x509_curve_bytes(int curve)
{
    return curve == BR_EC_secp256r1 ? 32 : curve == BR_EC_secp384r1 ? 48 : 66;
}

static size_t psi_x509_bit_length(psi_x509_span v)
{
    size_t bits = v.n * 8;
    int top;
    for (top = v.p[0]; top < 0x80; top *= 2) bits--;
    return bits;
}

/* RSAPublicKey (RFC 8017 A.1.1): 0 if it is malformed. */
static int psi_x509_read_rsa(psi_x509_cert *c, psi_x509_span in)
{
    psi_x509_span v[2], n, e;
    size_t bits;
    if (!psi_x509_read(in, "(=u=u)", v) || !v[0].n || !v[1].n) return 0;
    n = v[0];
    e = v[1];
    bits = psi_x509_bit_length(n);
    if (bits < 2048) {
        psi_x509_demand(c, PSI_RULE_SMALL_KEY, 0);
    } else if (bits > 4096 || bits % 8 || e.n > 4 || (e.n == 1 && e.p[0] < 3) ||
               !(n.p[n.n - 1] & e.p[e.n - 1] & 1)) {
        psi_x509_demand(c, PSI_RULE_LARGE_KEY, 0);
    } else {
        c->key.key_type = BR_KEYTYPE_RSA;
        c->key.key.rsa.n = psi_x509_slice(n, &c->key.key.rsa.nlen);
        c->key.key.rsa.e = psi_x509_slice(e, &c->key.key.rsa.elen);
    }
    return 1;
}

/* Reads SubjectPublicKeyInfo: 0 if it is malformed. What is well-formed and cannot be used is a flaw. */
static int psi_x509_read_key(psi_x509_cert *c)
{
    psi_x509_span v[3]; /* identifier, parameters, key */
    int ok = psi_x509_read(c->spki, "((=o=.)=b)", v), id = psi_x509_id(v[0]), curve;
    if (!ok) return 0;
    if (id == PSI_OID_RSA) return v[1].n && psi_x509_no_params(v[1]) && psi_x509_read_rsa(c, v[2]);
    if (id == PSI_OID_PSS) {
        c->only.kind = PSI_X509_PSS;
        psi_x509_demand(c, PSI_RULE_PSS_KEY, !v[1].n || psi_x509_pss_params(v[1], &c->only));
        return psi_x509_read_rsa(c, v[2]);
    }
    curve = id == PSI_OID_EC ? psi_x509_curve(v[1]) : 0;
    psi_x509_demand(c, PSI_RULE_OTHER_KIND, curve);
    if (!curve) return 1;
    if (v[2].n != 1 + 2 * psi_x509_curve_bytes(curve) || v[2].p[0] != 4) return 0; /* uncompressed only */
    c->key.key_type = BR_KEYTYPE_EC;
    c->key.key.ec.curve = curve;
    c->key.key.ec.q = psi_x509_slice(v[2], &c->key.key.ec.qlen);
    return 1;
}

/* Reads one extension that is known: 0 if it is malformed. Nobody asks for policies: any will do, and how they
   map or what anyPolicy means changes nothing; but what is critical has to be understood. */
static int psi_x509_read_extension(psi_x509_cert *c, int id, psi_x509_span in, int critical)
{
    static const char *const shapes[] = { /* in the order of PSI_X509_OIDS */
        "=k", "(?=f?=u)", "(?=0+(r))?=1+(r)))", "=(+o)", "=(?x?w)", "=(+g)", "=s", "=(+(o?(+q)))", "(+(pp))",
        "=(.)", "u", "(+(og))"
    };
    psi_x509_span v[2] = {psi_x509_none, psi_x509_none}, one;
    int ok = psi_x509_read(in, shapes[id - PSI_OID_KEY_USAGE], v);
    switch (id) {
    case PSI_OID_KEY_USAGE:
        c->usage = v[0].n == 2 || v[0].n == 3 ? v[0].p[1] : -1;
        return ok && c->usage >= 0;
    case PSI_OID_EXT_USAGE:
        for (c->extended = 0; v[0].n;)
            c->extended |= 1 << psi_x509_one_of(psi_x509_take(&v[0], 0x06), PSI_OID_SERVER_AUTH, 1);
        break;
    case PSI_OID_BASIC:
        c->ca = v[0].n && *v[0].p;
        c->path_len = v[1].p ? psi_x509_number(v[1]) : -1;
        break;
    case PSI_OID_SKI:
        c->ski = v[0];
        return ok && !critical;
    case PSI_OID_AKI:
        psi_x509_read(v[0], "?=x.", &c->aki);
        return ok && !critical;
    case PSI_OID_SAN:
        c->san = v[0];
        c->san_critical = critical;
        break;
    case PSI_OID_CONSTRAINTS:
        c->bounds[0] = v[0];
        c->bounds[1] = v[1];
        c->constrains = 1 + critical;
        return ok && (v[0].n || v[1].n);
    case PSI_OID_POLICY_LIMITS: /* the first needs the policies of the path, the second asks nothing of us */
        psi_x509_demand(c, PSI_RULE_EXPLICIT, psi_x509_tag(v[0]) != 0x80);
        return ok && v[0].n;
    case PSI_OID_POLICIES:
        if (!critical) return psi_x509_seq(in).n != 0;
        psi_x509_demand(c, PSI_RULE_POLICY, !v[1].p);
        while (ok && v[0].n) {
            one = psi_x509_any(&v[0]);
            ok = !psi_x509_repeats(v[0], psi_x509_take(&one, 0x06));
        }
        break;
    }
    return ok;
}

/* Reads the list of them. A flaw of one that says what a key may do matters always. */
static void psi_x509_read_extensions(psi_x509_cert *c, psi_x509_span list)
{
    psi_x509_span v[3]; /* identifier, critical, value */
    int left = PSI_X509_LIST, critical, id, known, rule, before;
    if (!list.n) list = psi_x509_none;
    while (list.n) {
        if (!psi_x509_read(psi_x509_element(&list), "(=o?=f=s)", v) || !left--) list = psi_x509_none;
        critical = v[1].n && *v[1].p;
        id = psi_x509_id(v[0]);
        before = c->flaw;
        psi_x509_demand(c, PSI_RULE_REPEATED, !psi_x509_repeats(list, v[0]));
        known = id >= PSI_OID_KEY_USAGE && id < PSI_OID_AIA + !critical;
        psi_x509_demand(c, PSI_RULE_CRITICAL, known || !critical);
        rule = critical || id <= PSI_OID_POLICY_LIMITS ? PSI_RULE_KEY_EXTENSION : PSI_RULE_EXTENSION;
        psi_x509_demand(c, rule, !known || psi_x509_read_extension(c, id, v[2], critical));
        if (c->flaw != before) c->flawed = v[0];
    }
    psi_x509_demand(c, PSI_RULE_EXTENSIONS, list.p != NULL);
}

/* Reads a certificate. Whatever is wrong with it becomes its flaw. */
static void psi_x509_parse(psi_x509_cert *c, const uint8_t *der, size_t len)
{
    enum { TBS, ALG, SIG, VERSION, SERIAL, SIGNED, ISSUER, DATES, SUBJECT, SPKI, ID, ID2, REST, FIELDS };
    psi_x509_span v[FIELDS], dates, number;
    PSI_X509_PARSED();
    memset(c, 0, sizeof *c);
    c->der = psi_x509_span_of(der, len);
    c->path_len = c->usage = c->extended = -1;
    psi_x509_demand(c, PSI_RULE_DER, psi_x509_read(c->der, "(=e=e=.)", v));
    psi_x509_demand(c, PSI_RULE_SIG, psi_x509_read(v[SIG], "=b", &c->sig));
    psi_x509_read(v[TBS], "(?0=.)=e=e=e=e=e=e?=y?=z=.)", v + VERSION);
    c->tbs = v[TBS];
    c->issuer = v[ISSUER];
    c->subject = v[SUBJECT];
    c->spki = v[SPKI];
    c->issuer_hash = psi_x509_name_hash(c->issuer);
    c->subject_hash = psi_x509_name_hash(c->subject);
    c->self_issued = c->subject_hash == c->issuer_hash && psi_x509_same_name(c->subject, c->issuer);
    psi_x509_demand(c, PSI_RULE_SUBJECT, c->subject_hash != 0);
    psi_x509_demand(c, PSI_RULE_KEY, psi_x509_read_key(c));
    psi_x509_read_alg(c, v[SIGNED]);
    psi_x509_demand(c, PSI_RULE_ALGS, psi_x509_same(v[ALG], v[SIGNED]));
    psi_x509_demand(c, PSI_RULE_ISSUER, c->issuer_hash != 0);
    dates = psi_x509_seq(v[DATES]);
    c->not_before = psi_x509_time(&dates);
    c->not_after = psi_x509_time(&dates);
    psi_x509_demand(c, PSI_RULE_DATES, psi_x509_end(dates));
    if (v[VERSION].p) c->version = psi_x509_read(v[VERSION], "=u.", &number) ? psi_x509_number(number) : 3;
    psi_x509_demand(c, PSI_RULE_VERSION, PSI_X509_IS(v[VERSION], "\2\1\2"));
    if (c->version == 2 && psi_x509_tag(v[REST]) == 0xA3)
        psi_x509_read_extensions(c, psi_x509_seq(psi_x509_any(&v[REST])));
    psi_x509_demand(c, PSI_RULE_REST, psi_x509_end(v[REST]) && !v[ID].p == !v[ID].n && !v[ID2].p == !v[ID2].n);
    psi_x509_demand(c, PSI_RULE_SERIAL, psi_x509_read(v[SERIAL], "=u", &number) && number.n && number.n <= 20);
    psi_x509_demand(c, PSI_RULE_NAMES, c->issuer.n > 2 && (c->subject.n > 2 || (!c->ca && c->san_critical)));
    psi_x509_demand(c, PSI_RULE_LIMITS, c->ca || (c->path_len < 0 && !c->constrains));
    psi_x509_demand(c, PSI_RULE_NO_CA, c->ca || c->usage < 0 || !(c->usage & PSI_X509_KU_CERT_SIGN));
}

/* 2 if an alternative name of c is exactly h, 1 if a wildcard covers it, 0 if it is for others. */
static int psi_x509_names(const psi_x509_cert *c, const psi_x509_host *h)
{
    psi_x509_span san = c->san;
    int tag, r, best = 0;
    while (san.n) {
        tag = psi_x509_tag(san);
        r = psi_x509_host_is(h, tag, psi_x509_any(&san));
        if (r > best) best = r;
    }
    return best;
}

/* Tells what a certificate says, with its strings in buf (of at least 2 bytes), cut off where that ends. */
static PSI_UNUSED void psi_x509_info(const psi_x509_cert *c, psocket_certinfo *info, char *buf, size_t buf_size)
{
    size_t half = buf_size / 2;
    psi_x509_text subject = {buf, half, 0}, issuer = {buf + half, half, 0};
    *subject.p = *issuer.p = 0;
    psi_x509_put_name(&subject, c->subject);
    psi_x509_put_name(&issuer, c->issuer);
    info->subject = subject.p;
    info->issuer = issuer.p;
    info->not_before = c->not_before;
    info->not_after = c->not_after;
    psi_x509_digest(br_sha256_ID, &c->der, 1, info->sha256);
    psi_x509_digest(br_sha256_ID, &c->spki, 1, info->spki_sha256);
}

/* --- signatures ----------------------------------------------------------- */

/* MGF1 (RFC 8017 B.2.1): xors the mask that grows from seed onto data. */
static void psi_x509_mgf1(int hash, psi_x509_span seed, uint8_t *data, size_t n)
{
    uint8_t mask[64], counter[4] = {0, 0, 0, 0};
    psi_x509_span parts[2] = {seed, psi_x509_span_of(counter, 4)};
    size_t i;
    for (; n; counter[3]++) {
        psi_x509_digest(hash, parts, 2, mask);
        for (i = 0; i < seed.n && n; i++, n--) *data++ ^= mask[i];
    }
}

/* EMSA-PSS-ENCODE (RFC 8017 9.1.1) into em of n bytes, for keys of 8 n bits. */
static int psi_x509_pss_encode(const psi_x509_alg *alg, const uint8_t *digest, const uint8_t *salt, uint8_t *em,
                               size_t n)
{
    size_t len = psi_x509_hash_len(alg->hash), room = (size_t)alg->salt, db = n - len - 1;
    psi_x509_span parts[3] = {psi_x509_span_of("\0\0\0\0\0\0\0", 8), psi_x509_span_of(digest, len),
                              psi_x509_span_of(salt, room)};
    if (n < len + room + 2) return 0;
    psi_x509_digest(alg->hash, parts, 3, em + db);
    memset(em, 0, db);
    em[db - room - 1] = 1;
    memcpy(em + db - room, salt, room);
    psi_x509_mgf1(alg->hash, psi_x509_span_of(em + db, len), em, db);
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
    psi_x509_mgf1(alg->hash, psi_x509_span_of(em + db, len), block, db);
    return psi_x509_pss_encode(alg, digest, block + db - room, want, n) && memcmp(em, want, n) == 0;
}

/* Do a key and an algorithm fit? An RSA-PSS key is limited to `only` (RFC 4055 3.3). */
static int psi_x509_fits(int key_type, const psi_x509_alg *only, const psi_x509_alg *alg)
{
    if (!alg->kind || key_type != (alg->kind == PSI_X509_ECDSA ? BR_KEYTYPE_EC : BR_KEYTYPE_RSA)) return 0;
    if (alg->kind == PSI_X509_PKCS1) return !only->kind;
    return alg->kind == PSI_X509_ECDSA || !only->hash || (only->hash == alg->hash && only->salt <= alg->salt);
}

/* Did the key of c make this signature over a digest of alg->hash? Of PSS alg->salt must be the salt's length.
   Of ECDSA it has to be an Ecdsa-Sig-Value in DER (RFC 3279 2.2.3): BearSSL's own reader takes more. */
static int psi_x509_signed(const psi_x509_cert *c, const psi_x509_alg *alg, const uint8_t *digest,
                           psi_x509_span sig)
{
    size_t len = psi_x509_hash_len(alg->hash), n;
    psi_x509_span v[2]; /* r, s */
    uint8_t raw[132] = {0};
    if (!psi_x509_fits(c->key.key_type, &c->only, alg)) return 0;
    if (alg->kind == PSI_X509_PSS) return psi_x509_check_pss(&c->key.key.rsa, alg, digest, sig);
    if (alg->kind == PSI_X509_PKCS1)
        return br_rsa_pkcs1_vrfy_get_default()(sig.p, sig.n, psi_x509_hash_oid(alg->hash), len, &c->key.key.rsa,
                                               raw) == 1 && memcmp(digest, raw, len) == 0;
    n = psi_x509_curve_bytes(c->key.key.ec.curve);
    if (!psi_x509_read(sig, "(=u=u)", v) || !v[0].n || !v[1].n || v[0].n > n || v[1].n > n) return 0;
    memcpy(raw + n - v[0].n, v[0].p, v[0].n);
    memcpy(raw + 2 * n - v[1].n, v[1].p, v[1].n);
    return br_ecdsa_vrfy_raw_get_default()(br_ec_get_default(), digest, len, &c->key.key.ec, raw, 2 * n) == 1;
}

/* --- PEM ------------------------------------------------------------------ */

/* Takes the next block of a text: 1 and its label and body, 0 at the end, -1 if a block is cut off or its END
   does not match. BEGIN starts a line, but for blanks, a byte order mark and the dashes of a glued file. */
static int psi_x509_pem_next(psi_x509_span *in, psi_x509_span *label, psi_x509_span *body)
{
    const uint8_t *p, *text = in->p;
    size_t n;
    do {
        n = psi_x509_find(*in, "-----BEGIN ", 11);
        if (n == in->n) return 0;
        p = in->p + n;
        *in = psi_x509_after(*in, n + 11);
        while (p > text && (p[-1] == ' ' || p[-1] == '\t' || p[-1] == '-' || p[-1] >= 0xBB)) p--;
    } while (p > text && p[-1] != '\n' && p[-1] != '\r');
    n = psi_x509_find(*in, "-----", 5);
    if (n > 64 || n == in->n) return -1;
    *label = psi_x509_span_of(in->p, n);
    *in = psi_x509_after(*in, n + 5);
    *body = psi_x509_span_of(in->p, psi_x509_find(*in, "-----", 5));
    *in = psi_x509_after(*in, body->n);
    if (in->n < n + 14 || memcmp(in->p, "-----END ", 9) != 0 || memcmp(in->p + 9, label->p, n + 5) != 0)
        return -1;
    *in = psi_x509_after(*in, n + 14);
    return 1;
}

/* Decodes a block's body, without its headers (RFC 1421), into out of 3/4 its size: the length, or 0. */
static size_t psi_x509_base64(psi_x509_span in, uint8_t *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    unsigned held = 0, bits = 0, pad = 0;
    for (; in.n; in = psi_x509_after(in, 1)) {
        int c = *in.p;
        const char *digit = (const char *)memchr(digits, c, 64);
        if (digit && !pad) {
            held = held << 6 | (unsigned)(digit - digits);
            bits += 6;
            if (bits < 8) continue;
            bits -= 8;
            out[n++] = (uint8_t)(held >> bits);
        } else if (c == '=' && pad < 2) {
            pad++;
        } else if (!memchr(" \t\r\n", c, 4)) { /* of a header: begins again behind it */
            in = psi_x509_after(in, psi_x509_find(in, ":", 1));
            while (in.n && *in.p != '\n' && *in.p != '\r') in = psi_x509_after(in, 1);
            if (!in.n) return 0;
            n = held = bits = pad = 0;
        }
    }
    held &= (1u << bits) - 1;
    return held == 0 && bits == 2 * pad ? n : 0; /* a last byte leaves 4 bits, two pads; two bytes half of it */
}

/* DER starts with a SEQUENCE: in the long form, as no text does, or one that is all there is (an EC key). */
static int psi_x509_is_der(psi_x509_span s)
{
    return (s.n >= 2 && s.p[0] == 0x30 && s.p[1] >= 0x80) || psi_x509_seq(s).p;
}

/* --- chains and trust anchors --------------------------------------------- */

/* A list of certificates, which owns the DER of each. Zero-initialise it. */
typedef struct psi_x509_chain {
    psi_x509_cert *certs; /* room for a multiple of four */
    size_t count, bytes;
} psi_x509_chain;

static void psi_x509_chain_free(psi_x509_chain *c)
{
    while (c->count) psi_free((void *)(uintptr_t)c->certs[--c->count].der.p);
    psi_free(c->certs);
    memset(c, 0, sizeof *c);
}

/* What a text is read as: a peer's or one's own certificates; anchors; anchors, passing over what is none. */
enum { PSI_X509_CHAIN, PSI_X509_ANCHORS, PSI_X509_ANYTHING };

/* Appends a copy of a certificate, parsed: 0, PSOCKET_NOMEM. Of a peer's and one's own there are no more than
   PSOCKET_CHAIN_BYTES: PSOCKET_CERT_LIMIT; an anchor that is known is not appended again, and has to be one
   that can be read: PSOCKET_TLS_PEM. */
static int psi_x509_chain_add(psi_x509_chain *c, int kind, const uint8_t *der, size_t len)
{
    size_t size = c->count * sizeof *c->certs, i;
    size_t charge = kind != PSI_X509_CHAIN ? 0 : len < 256 ? 256 : len; /* each costs memory beside its bytes */
    void *certs = c->certs;
    uint8_t *copy;
    if (charge > PSOCKET_CHAIN_BYTES - c->bytes) return PSOCKET_CERT_LIMIT;
    for (i = 0; kind != PSI_X509_CHAIN && i < c->count; i++)
        if (psi_x509_same(c->certs[i].der, psi_x509_span_of(der, len))) return 0;
    copy = (uint8_t *)psi_alloc(len + 1);
    if (copy && c->count % 4 == 0) certs = psi_realloc(certs, size, size + 4 * sizeof *c->certs);
    if (!copy || !certs) {
        psi_free(copy);
        return PSOCKET_NOMEM;
    }
    c->certs = (psi_x509_cert *)certs;
    c->bytes += charge;
    if (len) memcpy(copy, der, len);
    psi_x509_parse(&c->certs[c->count++], copy, len);
    if (kind == PSI_X509_CHAIN || psi_x509_gravity(&c->certs[c->count - 1]) < PSI_X509_UNREADABLE) return 0;
    psi_free(copy);
    c->count--;
    return PSOCKET_TLS_PEM;
}

/* Appends the certificates of a text, PEM or DER back to back, which people know as name: 0, PSOCKET_TLS_PEM,
   PSOCKET_NOMEM, PSOCKET_CERT_LIMIT. OpenSSL's TRUSTED CERTIFICATE is left out: what it says beside the
   certificate would be ignored. */
static int psi_x509_load(psi_x509_chain *c, int kind, const void *text, size_t len, const char *name,
                         psocket_error *e)
{
    psi_x509_span in = psi_x509_span_of(text, len), label, der;
    int is_der = psi_x509_is_der(in), found, r = 0;
    unsigned long good = 0;
    uint8_t *buf = (uint8_t *)psi_alloc(len + 1);
    if (!buf) return psi_err_code(e, PSOCKET_NOMEM);
    while (!r && (found = is_der ? in.n != 0 : psi_x509_pem_next(&in, &label, &der)) != 0) {
        if (is_der) {
            der = psi_x509_element(&in);
            found = psi_x509_tag(der) == 0x30;
        } else if (found > 0) {
            if (!PSI_X509_IS(label, "CERTIFICATE") && !PSI_X509_IS(label, "X509 CERTIFICATE")) continue;
            der = psi_x509_span_of(buf, psi_x509_base64(der, buf));
        }
        r = found > 0 && der.n ? psi_x509_chain_add(c, kind, der.p, der.n) : (int)PSOCKET_TLS_PEM;
        good += !r;
        if (r == PSOCKET_TLS_PEM && kind == PSI_X509_ANYTHING) r = 0;
    }
    psi_free(buf);
    if (r == PSOCKET_TLS_PEM)
        return psi_err(e, r, "%s: certificate %lu is malformed, cut off or not base64", name, good + 1);
    if (r == PSOCKET_CERT_LIMIT)
        return psi_err(e, r, "%s is larger than %lu bytes", name, (unsigned long)PSOCKET_CHAIN_BYTES);
    if (r) return psi_err_code(e, r);
    return good ? 0
        : psi_err(e, PSOCKET_TLS_PEM, "%s: no certificate found: expected PEM text or DER (\"openssl x509\" makes "
                  "a plain one of a TRUSTED CERTIFICATE)", name);
}

/* --- private keys --------------------------------------------------------- */

/* A private key. Its numbers are slices of storage, which is wiped when it is freed. */
typedef struct psi_x509_key {
    int type;          /* BR_KEYTYPE_RSA or BR_KEYTYPE_EC */
    psi_x509_alg only; /* as a certificate's */
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
    enum { VERSION, N, E, D, P, Q, DP, DQ, IQ, REST, FIELDS };
    psi_x509_span v[FIELDS];
    int ok = psi_x509_read(in, "(=u=u=u=u=u=u=u=u=u=.)", v), i;
    if (v[VERSION].n) return "RSA private keys with more than two primes are not supported";
    for (i = N; i < REST; i++)
        ok = ok && v[i].n && v[i].n <= (i < P ? v[N].n : i < DP ? 290 : v[i == DQ ? Q : P].n);
    if (v[N].n > 512) return "RSA private keys over 4096 bits are not supported";
    if (!ok || v[REST].n || !(v[P].p[v[P].n - 1] & v[Q].p[v[Q].n - 1] & 1)) return "malformed RSA private key";
    k->rsa.n_bitlen = (uint32_t)psi_x509_bit_length(v[N]);
    if (k->rsa.n_bitlen < 2048) return "RSA private keys under 2048 bits are too weak";
    k->type = BR_KEYTYPE_RSA;
    k->n = v[N];
    k->e = v[E];
    k->rsa.p = psi_x509_slice(v[P], &k->rsa.plen);
    k->rsa.q = psi_x509_slice(v[Q], &k->rsa.qlen);
    k->rsa.dp = psi_x509_slice(v[DP], &k->rsa.dplen);
    k->rsa.dq = psi_x509_slice(v[DQ], &k->rsa.dqlen);
    k->rsa.iq = psi_x509_slice(v[IQ], &k->rsa.iqlen);
    return NULL;
}

#define PSI_X509_CURVES "EC private keys must be on P-256, P-384 or P-521, by name"

/* SEC 1 ECPrivateKey (RFC 5915); the curve may be given outside, by PKCS#8. */
static const char *psi_x509_key_ec(psi_x509_key *k, psi_x509_span in, int curve)
{
    enum { VERSION, NUMBER, CURVE, PUBLIC, FIELDS };
    psi_x509_span v[FIELDS], *d = &v[NUMBER];
    int ok = psi_x509_read(in, "(=u=s?0=.)?1=b))", v), named = v[CURVE].p ? psi_x509_curve(v[CURVE]) : curve;
    while (d->n && *d->p == 0) *d = psi_x509_after(*d, 1);
    ok = ok && PSI_X509_IS(v[VERSION], "\1") && d->n && (!curve || named == curve);
    if (ok && !named) return PSI_X509_CURVES;
    if (!ok || d->n > psi_x509_curve_bytes(named)) return "malformed EC private key";
    k->type = BR_KEYTYPE_EC;
    k->point = v[PUBLIC];
    k->ec.curve = named;
    k->ec.x = psi_x509_slice(*d, &k->ec.xlen);
    return NULL;
}

#define PSI_X509_ENCRYPTED "the private key is encrypted: decrypt it first (openssl pkey -in KEY -out PLAIN)"

/* Any of PKCS#8 (RFC 5958; attributes may follow), PKCS#1 and SEC 1, told apart by what follows the version. */
static const char *psi_x509_key_der(psi_x509_key *k, psi_x509_span der)
{
    enum { VERSION, ALG, PARAMS, KEY, FIELDS };
    psi_x509_span v[FIELDS], seq = psi_x509_seq(der);
    int ok = psi_x509_read(der, "(=u(=o=.)=s.)", v), id = psi_x509_id(v[ALG]), curve;
    if (psi_x509_tag(seq) == 0x30) return PSI_X509_ENCRYPTED;
    psi_x509_any(&seq);
    if (psi_x509_tag(seq) == 0x02) return psi_x509_key_rsa(k, der);
    if (psi_x509_tag(seq) == 0x04) return psi_x509_key_ec(k, der, 0);
    if (!ok || (v[VERSION].n && !PSI_X509_IS(v[VERSION], "\1"))) return "malformed private key";
    if (id == PSI_OID_EC) {
        curve = psi_x509_curve(v[PARAMS]);
        return curve ? psi_x509_key_ec(k, v[KEY], curve) : PSI_X509_CURVES;
    }
    if (id == PSI_OID_PSS) {
        k->only.kind = PSI_X509_PSS;
        if (v[PARAMS].n && !psi_x509_pss_params(v[PARAMS], &k->only)) return "unsupported RSA-PSS private key";
    } else if (id != PSI_OID_RSA) {
        return "private keys must be RSA or EC; others, as Ed25519, are not supported";
    }
    return psi_x509_key_rsa(k, v[KEY]);
}

/* Loads the first private key of a text (PEM, or DER): 0, PSOCKET_TLS_KEY, PSOCKET_TLS_PEM, PSOCKET_NOMEM. */
static int psi_x509_key_load(psi_x509_key *k, const void *text, size_t len, psocket_error *e)
{
    psi_x509_span in = psi_x509_span_of(text, len), label = {NULL, 0}, body = in;
    const char *why = "malformed base64 in the private key";
    int r = 1, is_der = psi_x509_is_der(in);
    memset(k, 0, sizeof *k);
    while (!is_der && r > 0 && psi_x509_find(label, "PRIVATE KEY", 11) == label.n)
        r = psi_x509_pem_next(&in, &label, &body);
    if (r < 0) return psi_err(e, PSOCKET_TLS_PEM, "malformed PEM in the private key");
    if (r == 0) return psi_err(e, PSOCKET_TLS_PEM, "no private key found: expected PEM text or DER");
    if (psi_x509_find(label, "ENCRYPTED", 9) < label.n ||
        (!is_der && psi_x509_find(body, "ENCRYPTED", 9) < body.n))
        return psi_err(e, PSOCKET_TLS_KEY, PSI_X509_ENCRYPTED);
    k->storage_size = body.n + 4;
    k->storage = (uint8_t *)psi_alloc(k->storage_size);
    if (!k->storage) return psi_err_code(e, PSOCKET_NOMEM);
    if (is_der) memcpy(k->storage, body.p, body.n);
    else body.n = psi_x509_base64(body, k->storage);
    if (body.n) why = psi_x509_key_der(k, psi_x509_span_of(k->storage, body.n));
    if (!why) return 0;
    psi_x509_key_free(k);
    return psi_err(e, body.n ? PSOCKET_TLS_KEY : PSOCKET_TLS_PEM, "%s", why);
}

/* Is a b 1 modulo m - less? m has n bytes, at most 290, b no more. Takes the same steps whatever the numbers,
   which are secrets: for each bit of a, r is doubled, then b or nothing is added, each modulo m. */
static int psi_x509_is_inverse(psi_x509_span a, psi_x509_span b, psi_x509_span m, unsigned less)
{
    uint8_t all[4][290] = {{0}}, *r = all[0], *x = all[1], *mod = all[2], *t = all[3];
    unsigned carry, borrow, add, take, keep, wrong = 0;
    size_t step, i;
    memcpy(mod, m.p, m.n);
    memcpy(x + m.n - b.n, b.p, b.n);
    mod[m.n - 1] = (uint8_t)(mod[m.n - 1] - less);
    for (step = 0; step < 16 * a.n; step++) {
        take = 0u - ((unsigned)a.p[step / 16] >> (7 - step / 2 % 8) & 1u);
        carry = borrow = 0;
        for (i = m.n; i-- > 0;) {
            add = step & 1 ? x[i] & take : r[i];
            carry += r[i] + add;
            r[i] = (uint8_t)(carry & 255);
            borrow = r[i] - mod[i] - borrow;
            t[i] = (uint8_t)(borrow & 255);
            carry >>= 8;
            borrow = borrow >> 8 & 1;
        }
        keep = 0u - (borrow & (carry ^ 1)); /* r is below m already */
        for (i = 0; i < m.n; i++) r[i] = (uint8_t)((r[i] & keep) | (t[i] & ~keep & 255));
    }
    r[m.n - 1] ^= 1;
    for (i = 0; i < m.n; i++) wrong |= r[i];
    psi_wipe(all, sizeof all);
    return !wrong;
}

/* Does the key belong to the certificate? The public halves are compared; of RSA, all numbers have to belong
   together too (RFC 8017 3.2): a damaged key would make faulty signatures, which give it away. */
static int psi_x509_key_matches(const psi_x509_key *k, const psi_x509_cert *c)
{
    const br_rsa_public_key *rsa = &c->key.key.rsa;
    const br_ec_public_key *ec = &c->key.key.ec;
    const br_rsa_private_key *r = &k->rsa;
    psi_x509_span p = psi_x509_span_of(r->p, r->plen), q = psi_x509_span_of(r->q, r->qlen), point = k->point;
    uint8_t buf[PSI_X509_SIGNATURE];
    if (c->key.key_type != k->type) return 0;
    if (k->type == BR_KEYTYPE_EC) {
        if (k->ec.curve != ec->curve) return 0;
        if (!point.n) point = psi_x509_span_of(buf, br_ec_compute_pub(br_ec_get_default(), NULL, buf, &k->ec));
        return psi_x509_same(point, psi_x509_span_of(ec->q, ec->qlen));
    }
    return psi_x509_same(k->n, psi_x509_span_of(rsa->n, rsa->nlen)) &&
           psi_x509_same(k->e, psi_x509_span_of(rsa->e, rsa->elen)) &&
           br_rsa_compute_modulus_get_default()(buf, r) == k->n.n && memcmp(buf, k->n.p, k->n.n) == 0 &&
           psi_x509_is_inverse(q, psi_x509_span_of(r->iq, r->iqlen), p, 0) &&
           psi_x509_is_inverse(k->e, psi_x509_span_of(r->dp, r->dplen), p, 1) &&
           psi_x509_is_inverse(k->e, psi_x509_span_of(r->dq, r->dqlen), q, 1);
}

/* --- trust ---------------------------------------------------------------- */

/* The system's anchors, loaded at first use and shared by all. */
static psi_x509_chain psi_x509_system;
static psi_os_mutex psi_x509_system_lock = PSI_OS_MUTEX_INIT;

/* A text of a folder or of the system's: does it hold a certificate? */
static int psi_x509_load_any(void *chain, const void *text, size_t len)
{
    int r = psi_x509_load((psi_x509_chain *)chain, PSI_X509_ANYTHING, text, len, "", NULL);
    return r == PSOCKET_TLS_PEM ? 0 : r ? r : 1;
}

/* Loads the anchors that the settings name, at least one; none if they name no source. */
static int psi_x509_load_anchors(psi_x509_chain *c, const psocket_tls_options *topt, psocket_error *e)
{
    const char *file = topt->ca_file, *dir = topt->ca_dir;
    size_t len = topt->ca_len || !topt->ca ? topt->ca_len : strlen((const char *)topt->ca);
    char *data;
    int os, r = 0;
    if (topt->ca) r = psi_x509_load(c, PSI_X509_ANCHORS, topt->ca, len, "ca", e);
    if (!r && file) {
        r = psi_os_readfile(file, &data, &len, &os);
        if (r) psi_err_os(e, r, os, "cannot read the trust anchors in %s", file);
        else r = psi_x509_load(c, PSI_X509_ANCHORS, data, len, file, e);
        psi_free(data);
    }
    if (r || !dir) return r;
    r = psi_os_readdir(dir, psi_x509_load_any, c, &os);
    if (r < 0) return psi_err_os(e, r, os, "cannot read the trust anchors in %s", dir);
    return r ? 0 : psi_err(e, PSOCKET_TLS_NO_TRUST, "the folder %s holds no certificate", dir);
}

/* Puts the system's anchors in place of none: 0, PSOCKET_TLS_NO_TRUST, NOMEM, DESCRIPTORS. */
static int psi_x509_trust(const psi_x509_chain **anchors, psocket_error *e)
{
    int r = 0;
    if ((*anchors)->count) return 0;
    *anchors = &psi_x509_system;
    psi_os_lock(&psi_x509_system_lock);
    if (!psi_x509_system.count) {
        r = psi_os_systrust(psi_x509_load_any, &psi_x509_system, e);
        if (r == PSOCKET_NOMEM) psi_err_code(e, r);
        if (r) psi_x509_chain_free(&psi_x509_system);
    }
    psi_os_unlock(&psi_x509_system_lock);
    return r;
}

/* Frees the system's anchors; for psocket_cleanup, when nobody uses them. */
static PSI_UNUSED void psi_x509_cleanup(void)
{
    psi_os_lock(&psi_x509_system_lock);
    psi_x509_chain_free(&psi_x509_system);
    psi_os_unlock(&psi_x509_system_lock);
}

/* --- the search for a path ------------------------------------------------ */

typedef struct psi_x509_query {
    const psi_x509_chain *anchors; /* none: the system's */
    const char *name;    /* DNS name or IP address the peer must have; NULL: any */
    int64_t now;         /* seconds since 1970 UTC */
    int client;          /* 1: the peer is a TLS client, 0: a server */
    const uint8_t *pins; /* SHA-256 of public keys, one of which must be on the path */
    size_t pin_count;
    int64_t until;       /* is lowered to the first end of the path's certificates, or the peer's own */
} psi_x509_query;

typedef struct psi_x509_walk {
    psi_x509_query *q;
    const psi_x509_chain *anchors, *sent;
    const psi_x509_cert *path[PSOCKET_CHAIN_DEPTH + 1]; /* from the peer's own up */
    long work, signatures;                              /* what may still be spent */
    struct {
        const psi_x509_cert *issuer, *child;
        int good;
    } edges[PSI_X509_SIGNATURES + 1]; /* the signatures that were checked, each of which costs one at least */
    int rule; /* the failure that tells most so far, and who failed */
    const psi_x509_cert *culprit;
} psi_x509_walk;

/* Records a failure if it tells more than those before. Answers 0, as the search does when it fails. */
static int psi_x509_fail(psi_x509_walk *w, int rule, const psi_x509_cert *c)
{
    if ((psi_x509_rules[rule].grave & 15) <= (psi_x509_rules[w->rule].grave & 15)) return 0;
    w->rule = rule;
    w->culprit = c;
    return 0;
}

/* Is a dNSName in the subtree base? -1: malformed. A wildcard is in an excluded one if any name it covers is. A
   leading dot (not in RFC 5280, but common) permits the names below it only, and excludes that name too. */
static int psi_x509_dns_within(psi_x509_span base, psi_x509_span name, int excluded)
{
    psi_x509_span rest;
    int dot = base.n && base.p[0] == '.';
    if (dot) base = psi_x509_after(base, 1);
    if (!psi_x509_is_dns(name, 1) || ((base.n || dot) && !psi_x509_is_dns(base, 0))) return -1;
    if (base.n == 0) return 1;
    if (psi_x509_ends_with(name, base) &&
        (name.n == base.n ? !dot || excluded : name.p[name.n - base.n - 1] == '.'))
        return 1;
    if (!excluded || name.p[0] != '*') return 0;
    rest = psi_x509_after(name, 1);
    return psi_x509_ends_with(base, rest) && !memchr(base.p, '.', base.n - rest.n);
}

/* Is an address in the subtree of an address and a mask? -1: malformed. What excludes an IPv4 address excludes
   its IPv6 form too, in whichever of them it is written. */
static int psi_x509_ip_within(psi_x509_span base, psi_x509_span ip, int excluded)
{
    size_t i, n = base.n / 2;
    psi_x509_span from = psi_x509_span_of(base.p, n);
    const uint8_t *mask = base.p + n;
    int low, end = 0;
    if (base.n != 8 && base.n != 32) return -1;
    for (i = 0; i < n; i++) {
        low = ~mask[i] & 0xFF;
        if ((low & (low + 1)) || (end && mask[i])) return -1; /* ones, then zeros */
        end |= low;
    }
    if (excluded && (n == 4 || mask[11] == 0xFF)) {
        from = psi_x509_plain_ip(from);
        ip = psi_x509_plain_ip(ip);
        mask += n - from.n;
    }
    for (i = 0; i < from.n && i < ip.n && !((from.p[i] ^ ip.p[i]) & mask[i]); i++) {}
    return i == from.n && i == ip.n;
}

/* Does a name break the constraints of ca, the permitted or the excluded ones (RFC 5280 4.2.1.10)? So does what
   cannot be told, and a name of a kind that is not evaluated if the constraints are critical. */
static int psi_x509_name_breaks(psi_x509_walk *w, const psi_x509_cert *ca, int tag, psi_x509_span name)
{
    psi_x509_span list, base;
    int excluded, type, r, seen, hit;
    for (excluded = 0; excluded < 2; excluded++) {
        list = ca->bounds[excluded];
        for (seen = hit = 0; list.n; hit |= r) {
            base = psi_x509_any(&list);
            type = psi_x509_tag(base);
            base = psi_x509_any(&base);
            w->work -= 1 + (long)(name.n + base.n) / 64;
            if (w->work < 0 || !memchr("\xA0\x81\x82\xA3\xA4\xA5\x86\x87\x88", type, 9)) return 1;
            r = 0;
            if (type != tag) continue;
            seen = 1;
            if (tag == 0x82) r = psi_x509_dns_within(base, name, excluded);
            else if (tag == 0x87) r = psi_x509_ip_within(base, name, excluded);
            else if (tag == 0xA4) r = psi_x509_name_within(base, name, excluded);
            else r = ca->constrains > 1 ? -1 : !excluded;
            if (r < 0) return 1;
        }
        if (excluded ? hit : seen && !hit) return 1;
    }
    return 0;
}

/* Does any name of c? Its subject may hold a mailbox too (RFC 5280 4.1.2.6). */
static int psi_x509_breaks(psi_x509_walk *w, const psi_x509_cert *ca, const psi_x509_cert *c)
{
    psi_x509_span rest = c->san;
    int tag;
    while (rest.n) {
        tag = psi_x509_tag(rest);
        if (psi_x509_name_breaks(w, ca, tag, psi_x509_any(&rest))) return 1;
    }
    return (c->subject.n > 2 && psi_x509_name_breaks(w, ca, 0xA4, c->subject)) ||
           (psi_x509_find(c->subject, "\x2A\x86\x48\x86\xF7\x0D\x01\x09\x01", 9) < c->subject.n &&
            psi_x509_name_breaks(w, ca, 0x81, psi_x509_none));
}

static int psi_x509_fits_id(const psi_x509_cert *issuer, const psi_x509_cert *child)
{
    return !child->aki.n || !issuer->ski.n || psi_x509_same(child->aki, issuer->ski);
}

/* Is child signed by issuer? Each pair is looked at once. -1: it was not, and is not to be, or can no more. */
static int psi_x509_edge(psi_x509_walk *w, const psi_x509_cert *issuer, const psi_x509_cert *child, int look)
{
    int curve = issuer->key.key_type == BR_KEYTYPE_EC ? issuer->key.key.ec.curve : 0, good, i;
    int cost = curve == BR_EC_secp521r1 ? 8 : curve == BR_EC_secp384r1 ? 4 : 1;
    uint8_t digest[64];
    for (i = 0; w->edges[i].issuer; i++)
        if (w->edges[i].issuer == issuer && w->edges[i].child == child) return w->edges[i].good;
    if (!look) return -1;
    w->signatures -= cost + (long)(child->tbs.n / 16384);
    if (w->signatures < 0) w->work = -1;
    if (w->work < 0) return -1;
    psi_x509_digest(child->alg.hash, &child->tbs, 1, digest);
    good = psi_x509_signed(issuer, &child->alg, digest, child->sig);
    if (!good) w->signatures -= cost; /* honest chains hardly ever have wrong ones */
    w->edges[i].issuer = issuer;
    w->edges[i].child = child;
    return w->edges[i].good = good;
}

/* path[0..depth] leads to an anchor, path[depth]: checks signatures from the anchor down, so that no key is
   used before it is certified, then whether one of the pinned keys is there, then dates. 1 if all is well. */
static int psi_x509_complete(psi_x509_walk *w, int depth)
{
    size_t k, pins = w->q->pin_count;
    uint8_t digest[32];
    int i, good, rule, pinned = pins == 0;
    for (i = depth; i > 0; i--) {
        const psi_x509_cert *issuer = w->path[i], *child = w->path[i - 1];
        good = psi_x509_edge(w, issuer, child, 1);
        if (good < 0) return 0;
        rule = psi_x509_fits_id(issuer, child) ? PSI_RULE_SIGNATURE : PSI_RULE_OTHER_KEY;
        if (!good) return psi_x509_fail(w, rule, child);
    }
    for (i = 0; i <= depth && !pinned; i++) {
        w->work -= 16 + (long)(w->path[i]->spki.n / 16 + pins / 8);
        psi_x509_digest(br_sha256_ID, &w->path[i]->spki, 1, digest);
        for (k = 0; k < pins; k++) pinned |= memcmp(w->q->pins + 32 * k, digest, 32) == 0;
    }
    if (!pinned) return psi_x509_fail(w, PSI_RULE_PIN, w->path[0]);
    for (i = 0; i <= depth; i++) {
        if (w->q->now > w->path[i]->not_after) return psi_x509_fail(w, PSI_RULE_EXPIRED, w->path[i]);
        if (w->q->now < w->path[i]->not_before) return psi_x509_fail(w, PSI_RULE_NOT_YET, w->path[i]);
    }
    for (i = 1; i <= depth; i++)
        if (w->path[i]->not_after < w->q->until) w->q->until = w->path[i]->not_after;
    return 1;
}

/* The rule that c breaks as an authority above path[0..depth-1] (RFC 5280 6.1.4). Anchors of version 1 cannot
   tell. */
static int psi_x509_authority_rule(const psi_x509_walk *w, const psi_x509_cert *c, int anchor, int depth)
{
    int i, below = 0;
    if (c->subject.n <= 2 || !(c->usage & PSI_X509_KU_CERT_SIGN) ||
        !(c->ca || (anchor && c->version < 2 && c->self_issued)))
        return PSI_RULE_NOT_CA;
    for (i = 1; i < depth; i++) below += !w->path[i]->self_issued;
    if (c->path_len >= 0 && below > c->path_len) return PSI_RULE_PATH_LENGTH;
    if (c->extended & (PSI_X509_SERVER_AUTH << w->q->client | PSI_X509_ANY_EKU)) return PSI_RULE_NONE;
    return PSI_RULE_CA_NOT_SERVER + w->q->client;
}

/* May c stand above path[0..depth-1] as an issuer? If not, the reason is recorded. */
static int psi_x509_may_issue(psi_x509_walk *w, const psi_x509_cert *c, int anchor, int depth)
{
    const psi_x509_cert *child = w->path[depth - 1];
    int i, rule = psi_x509_authority_rule(w, c, anchor, depth);
    if (psi_x509_edge(w, c, child, 0) == 0) return 0;
    if (psi_x509_gravity(c) >= (anchor ? PSI_X509_USED : PSI_X509_UNTRUSTED))
        return psi_x509_fail(w, c->flaw, c);
    if (psi_x509_gravity(child) == PSI_X509_SIGNED) return psi_x509_fail(w, child->flaw, child);
    if (rule) return psi_x509_fail(w, rule, c);
    for (i = 0; c->constrains && i < depth; i++) {
        if ((i && w->path[i]->self_issued) || !psi_x509_breaks(w, c, w->path[i])) continue;
        return w->work < 0 ? 0 : psi_x509_fail(w, PSI_RULE_FORBIDDEN, w->path[i]);
    }
    return w->work >= 0;
}

/* Could c have issued path[depth-1], by its name? The same authority twice helps nobody (RFC 4158 2.4.2). */
static int psi_x509_is_candidate(psi_x509_walk *w, const psi_x509_cert *c, int depth)
{
    const psi_x509_cert *child = w->path[depth - 1], *below;
    if (c->subject_hash != child->issuer_hash) return 0;
    w->work -= 1 + (long)(c->subject.n + child->issuer.n) / 64;
    if (!psi_x509_same_name(c->subject, child->issuer)) return 0;
    while (depth-- > 0) {
        below = w->path[depth];
        if (psi_x509_same(c->spki, below->spki) && psi_x509_same(c->subject, below->subject)) return 0;
    }
    return 1;
}

/* Looks for a way from path[depth-1] to an anchor: anchors first, then what was sent, of each first what fits
   by its key identifier. 1 when there is one. */
static int psi_x509_search(psi_x509_walk *w, int depth)
{
    const psi_x509_cert *child = w->path[depth - 1], *c;
    const psi_x509_chain *from;
    int pass, anchor, issuers = 0;
    size_t i;
    for (pass = 0; pass < 4; pass++) {
        anchor = pass < 2;
        from = anchor ? w->anchors : w->sent;
        w->work -= 1 + (long)from->count / 16;
        for (i = 0; i < from->count && w->work >= 0; i++) {
            c = &from->certs[i];
            if (psi_x509_fits_id(c, child) == (pass & 1) || !psi_x509_is_candidate(w, c, depth)) continue;
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

/* Why the key of a peer's own certificate cannot be used. BearSSL looks at a point when it multiplies. */
static int psi_x509_key_rule(const psi_x509_cert *c)
{
    const br_ec_public_key *ec = &c->key.key.ec;
    uint8_t point[BR_EC_KBUF_PUB_MAX_SIZE];
    if (psi_x509_gravity(c) == PSI_X509_USED || !c->key.key_type) return c->flaw;
    if (c->key.key_type == BR_KEYTYPE_EC) {
        memcpy(point, ec->q, ec->qlen);
        if (br_ec_get_default()->mul(point, ec->qlen, (const uint8_t *)"\1", 1, ec->curve) != 1)
            return PSI_RULE_NO_POINT;
    }
    return c->usage & PSI_X509_KU_SIGN ? PSI_RULE_NONE : PSI_RULE_NOT_SIGNING;
}

/* The rule that the peer's own certificate breaks as such. */
static int psi_x509_leaf_rule(const psi_x509_walk *w, const psi_x509_cert *c, int pinned)
{
    psi_x509_host host;
    int rule = psi_x509_key_rule(c);
    if (rule) return rule;
    if (!(c->extended & PSI_X509_SERVER_AUTH << w->q->client)) return PSI_RULE_NOT_SERVER + w->q->client;
    if (c->ca && !pinned) return PSI_RULE_AUTHORITY;
    if (!w->q->name || (psi_x509_host_parse(&host, w->q->name) && psi_x509_names(c, &host))) return PSI_RULE_NONE;
    return PSI_RULE_NAME;
}

/* The verdict: w->rule and w->culprit. The name and dates are reported only if the path is otherwise good. */
static void psi_x509_judge(psi_x509_walk *w)
{
    const psi_x509_cert *leaf = &w->sent->certs[0];
    int rule, pinned = 0, found, gravity = psi_x509_gravity(leaf);
    size_t i;
    w->path[0] = leaf;
    for (i = 0; i < w->anchors->count; i++) pinned |= psi_x509_same(w->anchors->certs[i].der, leaf->der);
    if (gravity >= PSI_X509_ALWAYS || (gravity == PSI_X509_UNTRUSTED && !pinned)) {
        psi_x509_fail(w, leaf->flaw, leaf);
        return;
    }
    found = pinned ? psi_x509_complete(w, 0) : psi_x509_search(w, 1);
    if (!found && w->rule != PSI_RULE_EXPIRED && w->rule != PSI_RULE_NOT_YET) return;
    rule = psi_x509_leaf_rule(w, leaf, pinned);
    if (rule) w->culprit = leaf;
    if (rule || found) w->rule = rule;
}

/* --- sentences ------------------------------------------------------------ */

/* The alert for a refused certificate (RFC 5246 7.2.2). */
static int psi_x509_alert(int code)
{
    static const short alerts[][2] = { /* internal_error, unknown_ca, certificate_expired, _unknown, no support */
        {PSOCKET_NOMEM, 80}, {PSOCKET_DESCRIPTORS, 80}, {PSOCKET_TLS_NO_TRUST, 48},
        {PSOCKET_CERT_UNTRUSTED, 48}, {PSOCKET_CERT_SELF_SIGNED, 48},
        {PSOCKET_CERT_NOT_CA, 48}, {PSOCKET_CERT_EXPIRED, 45}, {PSOCKET_CERT_NOT_YET_VALID, 45},
        {PSOCKET_CERT_REJECTED, 46}, {PSOCKET_CERT_USAGE, 43}, {PSOCKET_CERT_ALGORITHM, 43},
        {PSOCKET_CERT_CRITICAL, 43}
    };
    size_t i;
    for (i = 0; i < sizeof alerts / sizeof *alerts; i++)
        if (alerts[i][0] == code) return alerts[i][1];
    return 42; /* bad_certificate */
}

static void psi_x509_put_date(psi_x509_text *t, const psi_x509_cert *c, int64_t now)
{
    static const char *const names[] = {"seconds", "minutes", "hours", "days"};
    static const uint32_t seconds[] = {1, 60, 3600, 86400};
    int late = now > c->not_after, unit = 3;
    uint64_t s = (uint64_t)now - (uint64_t)(late ? c->not_after : c->not_before);
    if (!late) s = 0 - s;
    while (unit && s < 2 * seconds[unit]) unit--;
    psi_x509_put(t, late ? "expired %lu %s ago" : "is not valid for another %lu %s (is the clock right?)",
                 (unsigned long)(s / seconds[unit]), names[unit]);
}

/* Whom the certificate is for, and what of the name that was asked for is not as it should be. */
static void psi_x509_put_names(psi_x509_text *t, const psi_x509_cert *c, const char *asked)
{
    psi_x509_span san = c->san, name, host = psi_x509_span_of(asked, strlen(asked));
    int tag, count = 0, same = 0, is_host;
    psi_x509_host parsed;
    psi_addr a = PSI_ZERO;
    char ip[64];
    psi_x509_put(t, "is for ");
    while (san.n) {
        tag = psi_x509_tag(san);
        name = psi_x509_any(&san);
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
    psi_x509_put(t, "%s, not for ", count > 3 ? " and others"
                 : count ? "" : "no host (it has no alternative names)");
    psi_x509_put_safe(t, host, "");
    is_host = psi_x509_host_parse(&parsed, asked);
    psi_x509_put(t, "%s", !is_host ? " (which is no host name)" : !same || parsed.dns.n ? ""
                 : " (which stands there as a DNS name; an address needs an iPAddress)");
}

/* Fills *e with the sentence for the rule that a certificate broke, index of the peer's. Returns its code. */
static int psi_x509_explain(const psi_x509_query *q, int rule, const psi_x509_cert *c, int index,
                            psocket_error *e)
{
    int code = psi_x509_rules[rule].code;
    char what[sizeof e->text], whose[200];
    psi_x509_text t = {what, sizeof what, 0}, label = {whose, sizeof whose, 0};
    psi_x509_span san = c->san;
    *whose = 0;
    if (rule == PSI_RULE_NAME) {
        psi_x509_put_names(&t, c, q->name);
    } else {
        psi_x509_put_name(&label, rule == PSI_RULE_NO_ISSUER ? c->issuer : c->subject);
        if (!label.used && psi_x509_tag(san) == 0x82) psi_x509_put_safe(&label, psi_x509_any(&san), "");
    }
    if (rule == PSI_RULE_EXPIRED || rule == PSI_RULE_NOT_YET) psi_x509_put_date(&t, c, q->now);
    psi_x509_put(&t, "%s", psi_x509_rules[rule].text);
    if (rule == c->flaw && c->flawed.n) {
        psi_x509_put(&t, ", ");
        psi_x509_put_oid(&t, c->flawed);
    }
    psi_err_alert(e, code, psi_x509_alert(code), "certificate %s%s%s%s", what, label.used ? ": " : "", whose,
                  psi_x509_rules[rule].grave != PSI_X509_ENDED ? ""
                  : " (to trust it, give it in ca_file or SSL_CERT_FILE)");
    if (e) e->cert_index = index;
    return code;
}

/* Judges a chain, certificate 0 being the peer's own, others in any order: 0, or the reason with *e filled. */
static int psi_x509_verify(psi_x509_query *q, const psi_x509_chain *chain, psocket_error *e)
{
    psi_x509_walk *w;
    int r, index;
    if (!chain->count) return psi_err_alert(e, PSOCKET_CERT_MISSING, 42, NULL);
    if (chain->certs[0].not_after < q->until) q->until = chain->certs[0].not_after;
    w = (psi_x509_walk *)psi_alloc(sizeof *w);
    if (!w) return psi_err_alert(e, PSOCKET_NOMEM, 80, NULL);
    w->anchors = q->anchors;
    r = psi_x509_trust(&w->anchors, e);
    if (r && e) e->tls_alert = psi_x509_alert(r);
    if (!r) {
        w->q = q;
        w->sent = chain;
        w->work = PSI_X509_WORK;
        w->signatures = PSI_X509_SIGNATURES;
        psi_x509_judge(w);
        for (index = (int)chain->count - 1; index >= 0 && w->culprit != &chain->certs[index]; index--) {}
        if (w->rule) r = psi_x509_explain(q, w->rule, w->culprit, index, e);
    }
    psi_free(w);
    return r;
}

/* Can the key of the peer's own certificate be used, whatever was decided? 0, or the reason with *e filled. */
static int psi_x509_usable(const psi_x509_cert *leaf, psocket_error *e)
{
    int rule = psi_x509_key_rule(leaf);
    return rule ? psi_x509_explain(NULL, rule, leaf, 0, e) : 0;
}

#endif /* PSOCKET_NO_TLS */
#ifndef PSOCKET_NO_TLS

/*==================================================================================================
 * >>record
 * Bytes read and written, the names of what TLS numbers, and records of both versions, during and after the handshake.
 * A psi_rec is all that a handshake leaves: a psi_key for each direction (without a suite: in the clear) and what the
 * messages after the handshake need. Records are opened where they lie and sealed where they will be sent from.
 * Expanded AES keys live only while records are being worked on: psi_rec_relax drops them.
 *================================================================================================*/

#define PSI_REC_PLAIN 16384 /* most plaintext in a record, RFC 8446 5.1 */
#define PSI_REC_QUIET 32    /* most records in a row that carry no data; */
#define PSI_REC_WARNINGS 8  /* an alert counts for so many of them */
#define PSI_REC_TAG 16
#define PSI_REC_SECRET 48   /* the longest secret: SHA-384's, and TLS 1.2's master secret */
#ifndef PSI_REC_KEY_LIFE    /* records under one key of TLS 1.3, well below AES-GCM's 2^24.5 (RFC 8446 5.5) */
#define PSI_REC_KEY_LIFE ((uint64_t)1 << 23)
#endif

enum { PSI_SSL30 = 0x0300, PSI_TLS10 = 0x0301, PSI_TLS12 = 0x0303, PSI_TLS13 = 0x0304 };
enum { PSI_REC_CCS = 20, PSI_REC_ALERT = 21, PSI_REC_HANDSHAKE = 22, PSI_REC_APPDATA = 23 };
enum { PSI_REC_MORE, PSI_REC_DATA, PSI_REC_SKIP, PSI_REC_END, PSI_REC_WHOLE };
enum { PSI_REC_WARNING = 1, PSI_REC_FATAL = 2 };

/* The alerts of RFC 5246 7.2, RFC 6066 9, RFC 7301 3.2 and RFC 8446 6. */
#define PSI_ALERTS(X) \
    X(CLOSE_NOTIFY, 0, "close_notify") \
    X(UNEXPECTED_MESSAGE, 10, "unexpected_message") \
    X(BAD_RECORD_MAC, 20, "bad_record_mac") \
    X(DECRYPTION_FAILED, 21, "decryption_failed") \
    X(RECORD_OVERFLOW, 22, "record_overflow") \
    X(DECOMPRESSION_FAILURE, 30, "decompression_failure") \
    X(HANDSHAKE_FAILURE, 40, "handshake_failure") \
    X(NO_CERTIFICATE, 41, "no_certificate") \
    X(BAD_CERTIFICATE, 42, "bad_certificate") \
    X(UNSUPPORTED_CERTIFICATE, 43, "unsupported_certificate") \
    X(CERTIFICATE_REVOKED, 44, "certificate_revoked") \
    X(CERTIFICATE_EXPIRED, 45, "certificate_expired") \
    X(CERTIFICATE_UNKNOWN, 46, "certificate_unknown") \
    X(ILLEGAL_PARAMETER, 47, "illegal_parameter") \
    X(UNKNOWN_CA, 48, "unknown_ca") \
    X(ACCESS_DENIED, 49, "access_denied") \
    X(DECODE_ERROR, 50, "decode_error") \
    X(DECRYPT_ERROR, 51, "decrypt_error") \
    X(EXPORT_RESTRICTION, 60, "export_restriction") \
    X(PROTOCOL_VERSION, 70, "protocol_version") \
    X(INSUFFICIENT_SECURITY, 71, "insufficient_security") \
    X(INTERNAL_ERROR, 80, "internal_error") \
    X(INAPPROPRIATE_FALLBACK, 86, "inappropriate_fallback") \
    X(USER_CANCELED, 90, "user_canceled") \
    X(NO_RENEGOTIATION, 100, "no_renegotiation") \
    X(MISSING_EXTENSION, 109, "missing_extension") \
    X(UNSUPPORTED_EXTENSION, 110, "unsupported_extension") \
    X(CERTIFICATE_UNOBTAINABLE, 111, "certificate_unobtainable") \
    X(UNRECOGNIZED_NAME, 112, "unrecognized_name") \
    X(BAD_STATUS_RESPONSE, 113, "bad_certificate_status_response") \
    X(UNKNOWN_PSK_IDENTITY, 115, "unknown_psk_identity") \
    X(CERTIFICATE_REQUIRED, 116, "certificate_required") \
    X(NO_APPLICATION_PROTOCOL, 120, "no_application_protocol")

#define PSI_X(name, number, text) PSI_ALERT_##name = number,
enum { PSI_ALERTS(PSI_X) PSI_ALERT_NONE = -1 };
#undef PSI_X

#define PSI_X_NUMBER(name, number, text) number,
#define PSI_X_TEXT(name, number, text) text "\0"

static PSI_UNUSED const char *psi_rec_alert_name(int alert)
{
    static const short numbers[] = { PSI_ALERTS(PSI_X_NUMBER) };
    static const char names[] = PSI_ALERTS(PSI_X_TEXT);
    const char *name = psi_string_of(alert, numbers, names);
    return *name ? name : "unknown alert";
}

/* --- reading and writing bytes -------------------------------------------- */

/* Bytes still to be read. What does not fit spoils it, and what is read from it then is spoilt or 0. */
typedef psi_x509_span psi_reader;

#define psi_read_of psi_x509_span_of

static const psi_reader psi_none = {(const uint8_t *)"", 0};

/* The next n bytes, NULL if there are fewer. */
static const uint8_t *psi_read_take(psi_reader *r, size_t n)
{
    const uint8_t *p = r->p;
    if (!p || r->n < n) return psi_x509_spoil(r).p;
    *r = psi_x509_after(*r, n);
    return p;
}

/* Copies the next n bytes; zeros if there are fewer. */
static void psi_read_copy(psi_reader *r, void *to, size_t n)
{
    const uint8_t *p = psi_read_take(r, n);
    if (p) memcpy(to, p, n);
    else memset(to, 0, n);
}

static uint32_t psi_read_number(psi_reader *r, size_t size)
{
    const uint8_t *p = psi_read_take(r, size);
    uint32_t v = 0;
    while (p && size--) v = v << 8 | *p++;
    return v;
}

/* A vector of min to max bytes, in front of which its length stands in size bytes. */
static psi_reader psi_read_vector(psi_reader *r, size_t size, size_t min, size_t max)
{
    size_t n = psi_read_number(r, size);
    const uint8_t *p = psi_read_take(r, n);
    return p && n >= min && n <= max ? psi_read_of(p, n) : psi_x509_spoil(r);
}

/* Is number in a list of 16-bit numbers? */
static int psi_read_has(psi_reader list, unsigned number)
{
    size_t i = 0;
    while (i + 1 < list.n && ((unsigned)list.p[i] << 8 | list.p[i + 1]) != number) i += 2;
    return i + 1 < list.n;
}

/* What a list consists of: behind its length of `size` bytes elements, at least `min` bytes of them, each of
   `before` bytes, a vector of `least` bytes or more, its length in `len` bytes (0: none), and `after` bytes. */
typedef struct psi_shape {
    uint8_t size, min, before, len, least, after;
} psi_shape;

#define PSI_SHAPE(size, min, before, len, least, after) { size, min, before, len, least, after }
#define PSI_NUMBERS(size) PSI_SHAPE(size, 2, 2, 0, 0, 0) /* of 16 bits */

static psi_reader psi_read_list(psi_reader *r, const psi_shape *s)
{
    psi_reader list = psi_read_vector(r, s->size, s->min, 65535), rest = list;
    while (rest.n) {
        psi_read_take(&rest, s->before);
        if (s->len) psi_read_vector(&rest, s->len, s->least, 65535);
        psi_read_take(&rest, s->after);
    }
    return rest.p ? list : psi_x509_spoil(r);
}

/* A growing buffer. failed once memory was short: then it is empty and stays so. All zero is empty. */
typedef struct psi_writer {
    uint8_t *p;
    uint32_t n, room;
    int failed;
} psi_writer;

/* Wipes and frees; usable again. */
static void psi_write_free(psi_writer *w)
{
    if (w->p) psi_wipe(w->p, w->room);
    psi_free(w->p);
    memset(w, 0, sizeof *w);
}

/* Room for n more bytes, at w->p + w->n: NULL if there is none. When it moves what was there is wiped. */
static uint8_t *psi_write_room(psi_writer *w, size_t n)
{
    psi_writer more = PSI_ZERO;
    if (w->failed || n > 0x1000000) {
        w->failed = 1;
        return NULL;
    }
    if (w->p && w->room - w->n >= n) return w->p + w->n;
    more.room = w->n + (uint32_t)n + w->n / 2;
    more.p = (uint8_t *)PSOCKET_MALLOC(more.room + !more.room);
    if (!more.p) {
        psi_write_free(w);
        w->failed = 1;
        return NULL;
    }
    more.n = w->n;
    if (w->n) memcpy(more.p, w->p, w->n);
    psi_write_free(w);
    *w = more;
    return w->p + w->n;
}

static void psi_rec_put(uint8_t *to, uint64_t value, size_t size)
{
    while (size--) *to++ = (uint8_t)(value >> 8 * size & 0xFF);
}

static void psi_write(psi_writer *w, const void *p, size_t n)
{
    uint8_t *to = n ? psi_write_room(w, n) : NULL;
    if (!to) return;
    memcpy(to, p, n);
    w->n += (uint32_t)n;
}

static void psi_write_number(psi_writer *w, uint64_t value, size_t size)
{
    uint8_t *to = psi_write_room(w, size);
    if (!to) return;
    w->n += (uint32_t)size;
    psi_rec_put(to, value, size);
}

/* Begins a vector whose length will stand in size bytes; the result is for psi_write_close. */
static uint32_t psi_write_open(psi_writer *w, size_t size)
{
    psi_write_number(w, 0, size);
    return w->n;
}

/* What does not fit its length fails as if memory were short. */
static void psi_write_close(psi_writer *w, uint32_t at, size_t size)
{
    uint32_t n = w->n - at, i;
    if (!w->failed && (uint64_t)n >> 8 * size) {
        psi_write_free(w);
        w->failed = 1;
    }
    if (w->failed) return;
    for (i = 1; i <= size; i++, n >>= 8) w->p[at - i] = (uint8_t)(n & 0xFF);
}

static void psi_write_vector(psi_writer *w, const void *p, size_t n, size_t size)
{
    psi_write_number(w, n, size);
    psi_write(w, p, n);
}

/* Takes the first n bytes out. */
static void psi_write_drop(psi_writer *w, uint32_t n)
{
    if (n == w->n) {
        psi_write_free(w);
    } else if (n) {
        w->n -= n;
        memmove(w->p, w->p + n, w->n);
    }
}

/* --- suites, groups, schemes ---------------------------------------------- */

enum { PSI_SUITE = 1, PSI_GROUP, PSI_SCHEME };
enum { PSI_AES128 = 16, PSI_AES256 = 32, PSI_CHACHA = 33 };

/* What a handshake chooses. */
typedef struct psi_named {
    const char *name; /* IANA's */
    uint16_t number;
    uint16_t version;          /* suites: of TLS */
    uint8_t what;              /* PSI_SUITE ... */
    uint8_t hash;              /* suites, schemes */
    uint8_t kind;              /* suites: the certificate's key, 0 any; schemes: PSI_X509_* */
    uint8_t curve;             /* groups; schemes: the one that TLS 1.3 binds */
    uint8_t len;               /* suites: bytes of a digest; groups: bytes of a secret key */
    uint8_t aead, head, tail;  /* suites: head and tail are what a record has before and behind its data */
    uint8_t pss_key;           /* schemes: of RSASSA-PSS keys */
} psi_named;

typedef psi_named psi_suite, psi_group, psi_scheme;

/* RFC 5288 3: TLS 1.2's AES-GCM sends 8 bytes of its nonce. RFC 8446 5.2: TLS 1.3 encrypts the content type. */
#define PSI_SUITE12(name, number, key, bits, aead) \
    { #name, number, PSI_TLS12, PSI_SUITE, br_sha##bits##_ID, BR_KEYTYPE_##key, 0, (bits) / 8, PSI_##aead, \
      PSI_##aead == PSI_CHACHA ? 5 : 13, PSI_REC_TAG, 0 }
#define PSI_SUITE13(name, number, bits, aead) \
    { #name, number, PSI_TLS13, PSI_SUITE, br_sha##bits##_ID, 0, 0, (bits) / 8, PSI_##aead, \
      5, PSI_REC_TAG + 1, 0 }
#define PSI_CURVE(name, number, curve, len) { #name, number, 0, PSI_GROUP, 0, 0, curve, len, 0, 0, 0, 0 }
#define PSI_SIGN(name, number, kind, bits, curve, pss) \
    { #name, number, 0, PSI_SCHEME, br_sha##bits##_ID, PSI_X509_##kind, curve, 0, 0, 0, 0, pss }

/* Of each kind the most wanted first; of suites, where the CPU has AES. Schemes: RFC 8446 4.2.3. */
static const psi_named psi_names[] = {
    PSI_SUITE13(TLS_AES_128_GCM_SHA256, 0x1301, 256, AES128),
    PSI_SUITE13(TLS_AES_256_GCM_SHA384, 0x1302, 384, AES256),
    PSI_SUITE13(TLS_CHACHA20_POLY1305_SHA256, 0x1303, 256, CHACHA),
    PSI_SUITE12(TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, 0xC02B, EC, 256, AES128),
    PSI_SUITE12(TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, 0xC02F, RSA, 256, AES128),
    PSI_SUITE12(TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, 0xC02C, EC, 384, AES256),
    PSI_SUITE12(TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, 0xC030, RSA, 384, AES256),
    PSI_SUITE12(TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, 0xCCA9, EC, 256, CHACHA),
    PSI_SUITE12(TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, 0xCCA8, RSA, 256, CHACHA),
    PSI_CURVE(x25519, 29, BR_EC_curve25519, 32),
    PSI_CURVE(secp256r1, 23, BR_EC_secp256r1, 32),
    PSI_CURVE(secp384r1, 24, BR_EC_secp384r1, 48),
    PSI_CURVE(secp521r1, 25, BR_EC_secp521r1, 66),
    PSI_SIGN(ecdsa_secp256r1_sha256, 0x0403, ECDSA, 256, BR_EC_secp256r1, 0),
    PSI_SIGN(rsa_pss_rsae_sha256, 0x0804, PSS, 256, 0, 0),
    PSI_SIGN(rsa_pss_pss_sha256, 0x0809, PSS, 256, 0, 1),
    PSI_SIGN(rsa_pkcs1_sha256, 0x0401, PKCS1, 256, 0, 0),
    PSI_SIGN(ecdsa_secp384r1_sha384, 0x0503, ECDSA, 384, BR_EC_secp384r1, 0),
    PSI_SIGN(rsa_pss_rsae_sha384, 0x0805, PSS, 384, 0, 0),
    PSI_SIGN(rsa_pss_pss_sha384, 0x080A, PSS, 384, 0, 1),
    PSI_SIGN(rsa_pkcs1_sha384, 0x0501, PKCS1, 384, 0, 0),
    PSI_SIGN(ecdsa_secp521r1_sha512, 0x0603, ECDSA, 512, BR_EC_secp521r1, 0),
    PSI_SIGN(rsa_pss_rsae_sha512, 0x0806, PSS, 512, 0, 0),
    PSI_SIGN(rsa_pss_pss_sha512, 0x080B, PSS, 512, 0, 1),
    PSI_SIGN(rsa_pkcs1_sha512, 0x0601, PKCS1, 512, 0, 0)
};

enum { PSI_NAMES = sizeof psi_names / sizeof psi_names[0] };

/* NULL: there is none. */
static const psi_named *psi_named_of(int what, unsigned number)
{
    size_t i;
    for (i = 0; i < PSI_NAMES; i++)
        if (psi_names[i].what == what && psi_names[i].number == number) return &psi_names[i];
    return NULL;
}

/* A choice among those of a kind, most wanted first. */
typedef struct psi_list {
    const psi_named *items[12];
    size_t count;
} psi_list;

/* NULL: not in the list. */
static const psi_named *psi_list_find(const psi_list *l, unsigned number)
{
    size_t i;
    for (i = 0; i < l->count; i++)
        if (l->items[i]->number == number) return l->items[i];
    return NULL;
}

/* Writes the numbers as a vector, behind `first` if that is not 0. */
static void psi_list_write(psi_writer *w, const psi_list *l, unsigned first)
{
    uint32_t at = psi_write_open(w, 2);
    size_t i;
    if (first) psi_write_number(w, first, 2);
    for (i = 0; i < l->count; i++) psi_write_number(w, l->items[i]->number, 2);
    psi_write_close(w, at, 2);
}

/* The primitives this CPU is best at, found once: CPUID instructions trap on virtual machines. */
typedef struct psi_primitives {
    const br_block_ctr_class *aes;
    br_ghash ghash;
    br_chacha20_run chacha;
    br_poly1305_run poly;
    int fast_aes; /* the CPU has instructions for AES-GCM */
} psi_primitives;

/* The same for all settings; filled by the first of them. */
static psi_primitives psi_prim;
static psi_os_mutex psi_prim_lock = PSI_OS_MUTEX_INIT;

/* There BearSSL always has both of these, and no substitutes are linked. */
#if defined(__x86_64__) && defined(__SIZEOF_INT128__)
#define PSI_HAS_FAST_CHACHA 1
#else
#define PSI_HAS_FAST_CHACHA 0
#endif
#define PSI_WIDE(of_64, of_32) (sizeof(void *) >= 8 ? (of_64) : (of_32))

/* 0, or PSOCKET_UNSUPPORTED: a BearSSL that was built for something else. */
static int psi_rec_prepare(void)
{
    psi_primitives *p = &psi_prim;
    const br_block_ctr_class *aes;
    int code;
    psi_os_lock(&psi_prim_lock);
    if (!p->aes) {
        aes = br_aes_x86ni_ctr_get_vtable();
        if (!aes) aes = br_aes_pwr8_ctr_get_vtable();
        p->ghash = br_ghash_pclmul_get();
        if (!p->ghash) p->ghash = br_ghash_pwr8_get();
        p->fast_aes = aes && p->ghash;
        if (!p->ghash) p->ghash = PSI_WIDE(br_ghash_ctmul64, br_ghash_ctmul32);
        p->chacha = br_chacha20_sse2_get();
        if (!p->chacha && !PSI_HAS_FAST_CHACHA) p->chacha = br_chacha20_ct_run;
        p->poly = br_poly1305_ctmulq_get();
        if (!p->poly && !PSI_HAS_FAST_CHACHA) p->poly = PSI_WIDE(br_poly1305_ctmul_run, br_poly1305_ctmul32_run);
        p->aes = aes ? aes : PSI_WIDE(&br_aes_ct64_ctr_vtable, &br_aes_ct_ctr_vtable);
    }
    code = p->chacha && p->poly ? 0 : (int)PSOCKET_UNSUPPORTED;
    psi_os_unlock(&psi_prim_lock);
    return code;
}

/* --- keys of one direction ------------------------------------------------ */

typedef struct psi_gcm {
    br_aes_gen_ctr_keys aes;
    uint8_t h[16];
} psi_gcm;

typedef struct psi_key {
    const psi_suite *suite; /* NULL: in the clear */
    uint64_t seq;
    psi_gcm *gcm;           /* the key made ready for AES-GCM; NULL: not now */
    uint8_t key[32], iv[12];
    uint8_t secret[PSI_REC_SECRET]; /* TLS 1.3: what they come from, for the next */
} psi_key;

static void psi_key_relax(psi_key *k)
{
    if (!k->gcm) return;
    psi_wipe(k->gcm, sizeof *k->gcm);
    psi_free(k->gcm);
    k->gcm = NULL;
}

static void psi_key_clear(psi_key *k)
{
    psi_key_relax(k);
    psi_wipe(k, sizeof *k);
}

/* `from` in place of `to`; `from` is wiped. */
static void psi_key_move(psi_key *to, psi_key *from)
{
    psi_key_clear(to);
    *to = *from;
    psi_wipe(from, sizeof *from);
}

/* Overwrites what BearSSL's AES leaves on the stack: round keys, 120 words where it has no instructions for them. */
static PSI_APART void psi_key_scrub(void)
{
    uint8_t left[160 * sizeof(void *)];
    psi_wipe(left, sizeof left);
}

/* AES-GCM, RFC 5116. The key that is made ready for it is kept, if there is memory. */
static void psi_key_gcm(psi_key *k, const uint8_t nonce[12], psi_reader aad, uint8_t *p, size_t n, int encrypt,
                        uint8_t tag[PSI_REC_TAG])
{
    psi_gcm spare, *g = k->gcm;
    uint8_t lengths[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    if (!g) {
        k->gcm = (psi_gcm *)psi_alloc(sizeof *g);
        g = k->gcm ? k->gcm : &spare;
        psi_prim.aes->init(&g->aes.vtable, k->key, k->suite->aead);
        memset(g->h, 0, sizeof g->h);
        psi_prim.aes->run(&g->aes.vtable, lengths, 0, g->h, sizeof g->h);
    }
    if (encrypt) psi_prim.aes->run(&g->aes.vtable, nonce, 2, p, n);
    lengths[7] = (uint8_t)(aad.n * 8);
    psi_rec_put(lengths + 12, n * 8, 4);
    memset(tag, 0, PSI_REC_TAG);
    psi_prim.ghash(tag, g->h, aad.p, aad.n);
    psi_prim.ghash(tag, g->h, p, n);
    psi_prim.ghash(tag, g->h, lengths, sizeof lengths);
    if (!encrypt) psi_prim.aes->run(&g->aes.vtable, nonce, 2, p, n);
    psi_prim.aes->run(&g->aes.vtable, nonce, 1, tag, PSI_REC_TAG);
    psi_key_scrub();
    if (g == &spare) psi_wipe(&spare, sizeof spare);
}

/* Encrypts, or decrypts, in place the n bytes behind the head of a record, whose header is there. Makes the tag
   of what is sent. RFC 8446 5.2 and 5.3; RFC 5246 6.2.3.3; RFC 5288 3: the nonce's end is sent; RFC 7905 2. */
static void psi_key_run(psi_key *k, uint8_t *record, size_t n, int encrypt, uint8_t tag[PSI_REC_TAG])
{
    uint8_t nonce[12], aad[13], *p = record + k->suite->head;
    const uint8_t *number = k->suite->head > 5 ? record + 5 : aad;
    size_t len = k->suite->version == PSI_TLS13 ? 5 : 13, i;
    psi_rec_put(aad, k->seq, 8);
    memcpy(nonce, k->iv, 12);
    for (i = 0; i < 8; i++) nonce[4 + i] = (uint8_t)(nonce[4 + i] ^ number[i]);
    memcpy(aad + len - 5, record, 5);
    if (len > 5) psi_rec_put(aad + 11, n, 2);
    if (k->suite->aead != PSI_CHACHA) psi_key_gcm(k, nonce, psi_read_of(aad, len), p, n, encrypt, tag);
    else psi_prim.poly(k->key, nonce, p, n, aad, len, tag, psi_prim.chacha, encrypt);
}

/* Are they the same? In constant time. */
static int psi_rec_equal(const uint8_t *a, const uint8_t *b, size_t n)
{
    volatile uint8_t differ = 0;
    while (n--) differ = (uint8_t)(differ | (a[n] ^ b[n]));
    return differ == 0;
}

/* --- records -------------------------------------------------------------- */

/* Result of psi_rec_open. */
typedef struct psi_rec_in {
    uint8_t *data; /* plaintext, inside the bytes given */
    size_t len;
    size_t used;            /* bytes consumed; PSI_REC_MORE: bytes needed in all */
    int type;               /* PSI_REC_WHOLE: the content's */
    int alert_level, alert; /* an alert to send if alert_level is not 0; after an error perhaps one that came */
    const char *why;        /* after an error: a sentence; NULL: the alert came */
} psi_rec_in;

typedef struct psi_tlsinfo psi_tlsinfo;

typedef struct psi_rec {
    psi_key in, out;
    psi_writer part;       /* handshake messages that are not whole, or wait for an answer */
    psi_writer first;      /* tickets that go ahead of the first data */
    psocket_tls *tls;      /* for tickets: retained; NULL: none will come or go */
    const psi_tlsinfo *info; /* the socket's, which outlives this */
    void (*ahead)(struct psi_rec *r, psi_writer *w); /* servers: writes them */
    int64_t from;          /* the handshake's time: no clock is asked later */
    uint32_t skip;         /* bytes of early data that may still have to be ignored */
    uint16_t version;      /* 0 until it is agreed */
    uint16_t max_in, max_out; /* most plaintext bytes in a record */
    uint8_t server;
    uint8_t quiet, tickets; /* records without data, and tickets, since there was data */
    uint8_t open;          /* the handshake is over */
    uint8_t update;        /* a KeyUpdate has to go ahead of the next data */
    uint8_t exports;       /* exporters may be used */
    uint8_t secret[PSI_REC_SECRET]; /* of exporters: TLS 1.2's master secret, or TLS 1.3's exporter secret */
    uint8_t seed[64];      /* TLS 1.2: both randoms; TLS 1.3: the resumption secret */
} psi_rec;

static void psi_rec_free(psi_rec *r)
{
    if (!r) return;
    psi_key_clear(&r->in);
    psi_key_clear(&r->out);
    psi_write_free(&r->part);
    psi_write_free(&r->first);
    psocket_tls_free(r->tls);
    psi_wipe(r, sizeof *r);
    psi_free(r);
}

/* Gives up what is needed only while records come and go. */
static PSI_UNUSED void psi_rec_relax(psi_rec *r)
{
    psi_key_relax(&r->in);
    psi_key_relax(&r->out);
}

/* Asks for a fatal alert and says why. Returns the code that belongs to that. */
static int psi_rec_refuse(psi_rec_in *in, int alert, const char *why)
{
    int code = alert == PSI_ALERT_BAD_RECORD_MAC ? PSOCKET_TLS_RECORD
               : alert == PSI_ALERT_INTERNAL_ERROR ? PSOCKET_NOMEM : PSOCKET_TLS_PROTOCOL;
    in->alert_level = PSI_REC_FATAL;
    in->alert = alert;
    in->why = code == PSOCKET_TLS_PROTOCOL ? why : psocket_strerror(code);
    return code;
}

#ifdef PSOCKET_NO_TEXT
#define psi_rec_refuse(in, alert, why) \
    ((void)sizeof(psi_err_unsaid(why)), (psi_rec_refuse)(in, alert, psocket_strerror(PSOCKET_TLS_PROTOCOL)))
#endif

/* Fills *e with what came to this code. */
static void psi_rec_explain(const psi_rec_in *in, int code, psocket_error *e)
{
    if (in->why) psi_err_alert(e, code, in->alert, "%s", in->why);
    else psi_err_alert(e, code, in->alert, "the peer ended the connection with the TLS alert %s (%d)",
                       psi_rec_alert_name(in->alert), in->alert);
}

/* What is wrong with an alert (RFC 8446 6): our alert, or 0. */
static int psi_rec_alert_fault(const psi_rec *r, const psi_rec_in *in)
{
    if (in->len != 2) return PSI_ALERT_DECODE_ERROR;
    if (in->data[0] == PSI_REC_FATAL) return 0;
    if (in->data[0] != PSI_REC_WARNING) return PSI_ALERT_ILLEGAL_PARAMETER;
    if (in->data[1] == PSI_ALERT_CLOSE_NOTIFY || in->data[1] == PSI_ALERT_USER_CANCELED) return 0;
    return r->version == PSI_TLS13 ? PSI_ALERT_DECODE_ERROR : 0;
}

/* Does the peer keep sending records that bring nothing? */
static int psi_rec_idles(psi_rec *r, const psi_rec_in *in)
{
    int warning = in->type == PSI_REC_ALERT && in->len == 2 && in->data[0] == PSI_REC_WARNING;
    if (warning && in->data[1] != PSI_ALERT_CLOSE_NOTIFY) r->quiet = (uint8_t)(r->quiet + PSI_REC_WARNINGS);
    else if (!in->len || (in->type == PSI_REC_CCS && r->version != PSI_TLS12)) r->quiet++;
    else if (in->type == PSI_REC_APPDATA) r->quiet = r->tickets = 0;
    return r->quiet > PSI_REC_QUIET;
}

/* Decrypts the record at p, whose body has len bytes: 1, or 0 if it is not genuine. */
static int psi_rec_decrypt(psi_key *k, uint8_t *p, size_t len, psi_rec_in *in)
{
    uint8_t tag[PSI_REC_TAG];
    size_t more = (size_t)k->suite->head - 5 + PSI_REC_TAG;
    if (len < more) return 0;
    in->data = p + k->suite->head;
    in->len = len - more;
    psi_key_run(k, p, in->len, 0, tag);
    if (!psi_rec_equal(tag, in->data + in->len, PSI_REC_TAG)) return 0;
    k->seq++;
    return 1;
}

/* What is wrong with the content of a record, which may be hidden before padding: an alert, or 0. Limits are
   for sealed ones only (RFC 8449 4); in TLS 1.3 only data may be empty (RFC 8446 5.1 and 5.4). */
static int psi_rec_content(const psi_rec *r, psi_rec_in *in, int sealed)
{
    size_t hidden = sealed && r->version == PSI_TLS13;
    if (in->len > (sealed ? r->max_in + hidden : PSI_REC_PLAIN)) return PSI_ALERT_RECORD_OVERFLOW;
    if (hidden) {
        while (in->len && !in->data[in->len - 1]) in->len--;
        in->type = in->len ? in->data[--in->len] : 0;
        if (in->type <= PSI_REC_CCS || in->type > PSI_REC_APPDATA) return PSI_ALERT_UNEXPECTED_MESSAGE;
    }
    return in->len || in->type == PSI_REC_APPDATA || r->version != PSI_TLS13 ? 0 : PSI_ALERT_UNEXPECTED_MESSAGE;
}

/* Is TLS 1.3's record sealed in this state? RFC 8446 D.4: ChangeCipherSpec means nothing; an alert in the
   clear, that the peer has no keys yet. */
static int psi_rec_is_sealed(const psi_rec *r, int type)
{
    if (!r->in.suite) return 0;
    return r->version != PSI_TLS13 || r->open || (type != PSI_REC_CCS && (type != PSI_REC_ALERT || r->in.seq));
}

/* What is wrong with a header, as soon as that can be known: an alert, or 0. */
static int psi_rec_header(const psi_rec *r, const uint8_t *p, size_t len, int sealed)
{
    int type = p[0];
    if (type < PSI_REC_CCS || type > PSI_REC_APPDATA) return PSI_ALERT_UNEXPECTED_MESSAGE;
    if (p[1] != PSI_TLS12 >> 8 || (r->version && p[2] != (PSI_TLS12 & 0xFF))) return PSI_ALERT_PROTOCOL_VERSION;
    if (type == PSI_REC_APPDATA ? !sealed && !r->skip : sealed && r->version == PSI_TLS13)
        return PSI_ALERT_UNEXPECTED_MESSAGE;
    if (len > PSI_REC_PLAIN + (sealed ? 256u : 0u)) return PSI_ALERT_RECORD_OVERFLOW;
    if (sealed && !r->skip && len < r->in.suite->head - 5u + PSI_REC_TAG) return PSI_ALERT_BAD_RECORD_MAC;
    return 0;
}

static PSI_UNUSED const char *psi_rec_fault(int alert)
{
    return alert == PSI_ALERT_RECORD_OVERFLOW ? "the peer sent a record that is too long"
           : alert == PSI_ALERT_PROTOCOL_VERSION ? "the peer sent a record of another TLS version"
           : "the peer sent a record of a type that does not belong there";
}

/* Looks at n received bytes at p and decrypts the first record in place: PSI_REC_WHOLE, _MORE, _SKIP, or an
   error, for psi_rec_explain. What is not meant for us may be early data that we declined (RFC 8446 4.2.10). */
static int psi_rec_open(psi_rec *r, uint8_t *p, size_t n, psi_rec_in *in)
{
    size_t len;
    int sealed, ours, alert;
    memset(in, 0, sizeof *in);
    in->used = 5;
    if (n < 5) return PSI_REC_MORE;
    in->type = p[0];
    len = (size_t)p[3] << 8 | p[4];
    sealed = psi_rec_is_sealed(r, in->type);
    alert = psi_rec_header(r, p, len, sealed);
    if (alert) return psi_rec_refuse(in, alert, psi_rec_fault(alert));
    in->used += len;
    if (n < in->used) return PSI_REC_MORE;
    in->data = p + 5;
    in->len = len;
    ours = sealed ? psi_rec_decrypt(&r->in, p, len, in) : in->type != PSI_REC_APPDATA;
    if (!ours && len && r->skip >= len) { /* an empty one would cost nothing */
        r->skip -= (uint32_t)len;
        return PSI_REC_SKIP;
    }
    if (sealed && ours) r->skip = 0;
    alert = sealed ? PSI_ALERT_BAD_RECORD_MAC : PSI_ALERT_UNEXPECTED_MESSAGE;
    if (ours) alert = psi_rec_content(r, in, sealed);
    if (alert) return psi_rec_refuse(in, alert, psi_rec_fault(alert));
    if (!psi_rec_idles(r, in)) return PSI_REC_WHOLE;
    return psi_rec_refuse(in, PSI_ALERT_UNEXPECTED_MESSAGE,
                          "the peer keeps sending records that bring nothing");
}

/* Bytes of a record that are not data. */
static size_t psi_rec_extra(const psi_rec *r)
{
    return r->out.suite ? (size_t)r->out.suite->head + r->out.suite->tail : 5;
}

/* Bytes that n bytes of data take as records. */
static size_t psi_rec_room(const psi_rec *r, size_t n)
{
    return n + psi_rec_extra(r) * (n ? (n + r->max_out - 1) / r->max_out : 1);
}

/* Writes n bytes as records to `to`, which has psi_rec_room bytes. Returns how many were needed. */
static size_t psi_rec_seal(psi_rec *r, int type, const void *data, size_t n, uint8_t *to)
{
    psi_key *k = &r->out;
    const uint8_t *from = (const uint8_t *)data;
    size_t head = k->suite ? k->suite->head : 5, extra = psi_rec_extra(r), done = 0, len;
    do {
        uint8_t *p = to + head;
        len = n - done < r->max_out ? n - done : r->max_out;
        if (len) memcpy(p, from + done, len);
        p += len;
        to[0] = (uint8_t)type;
        psi_rec_put(to + 1, r->version ? PSI_TLS12 : PSI_TLS10, 2);
        psi_rec_put(to + 3, len + extra - 5, 2);
        if (head > 5) psi_rec_put(to + 5, k->seq, 8);
        if (k->suite && k->suite->tail > PSI_REC_TAG) {
            *p++ = (uint8_t)type;
            to[0] = PSI_REC_APPDATA;
        }
        if (k->suite) psi_key_run(k, to, (size_t)(p - to) - head, 1, p);
        k->seq++;
        to += len + extra;
        done += len;
    } while (done < n);
    return psi_rec_room(r, n);
}

/*==================================================================================================
 * >>keys
 * From secrets to keys: HKDF and the schedule of TLS 1.3 (RFC 8446 7.1), TLS 1.2's PRF, the transcript, the log
 * of keys, and the key exchange. Secrets live in the structures of their owners, who wipe them.
 *================================================================================================*/

#define PSI_HASH_MAX 64

/* The digest of two strings behind each other. Returns its length. */
static size_t psi_keys_digest(int hash, psi_reader a, psi_reader b, uint8_t *out)
{
    psi_reader parts[2] = {a, b};
    psi_x509_digest(hash, parts, 2, out);
    return psi_x509_hash_len(hash);
}

/* A secret is made ready once for all that comes from it. Who holds one wipes it. */
typedef br_hmac_key_context psi_secret;

static void psi_keys_ready(psi_secret *k, int hash, const uint8_t *secret, size_t n)
{
    br_hmac_key_init(k, psi_x509_hash_class(hash), secret, n);
}

/* HMAC of strings behind each other. Returns its length. */
static size_t psi_keys_mac(const psi_secret *k, const psi_reader *parts, size_t count, uint8_t *out)
{
    br_hmac_context h;
    br_hmac_init(&h, k, 0);
    for (; count; count--, parts++) br_hmac_update(&h, parts->p, parts->n);
    count = br_hmac_out(&h, out);
    psi_wipe(&h, sizeof h);
    return count;
}

/* HKDF-Extract (RFC 5869 2.2): from the salt to the secret; an ikm of NULL is zeros as long as the hash. */
static void psi_keys_extract(psi_secret *k, int hash, const uint8_t *ikm, size_t n)
{
    static const uint8_t zero[PSI_HASH_MAX] = {0};
    uint8_t secret[PSI_HASH_MAX];
    psi_reader part = ikm ? psi_read_of(ikm, n) : psi_read_of(zero, psi_x509_hash_len(hash));
    psi_keys_ready(k, hash, secret, psi_keys_mac(k, &part, 1, secret));
    psi_wipe(secret, sizeof secret);
}

/* HKDF-Expand-Label (RFC 8446 7.1): up to 255 blocks, each the HMAC of the last, the info, and a counter. */
static void psi_keys_expand(const psi_secret *k, const char *label, psi_reader context, uint8_t *out, size_t n)
{
    uint8_t head[3] = {(uint8_t)(n >> 8), (uint8_t)(n & 0xFF), (uint8_t)(6 + strlen(label))};
    uint8_t block[PSI_HASH_MAX], end = (uint8_t)context.n, number = 1;
    psi_reader parts[7] = {psi_none, psi_read_of(head, 3), psi_read_of("tls13 ", 6),
                           psi_read_of(label, strlen(label)), psi_read_of(&end, 1), context,
                           psi_read_of(&number, 1)};
    size_t len;
    for (; n; number++) {
        len = psi_keys_mac(k, parts, 7, block);
        parts[0] = psi_read_of(block, len);
        len = len < n ? len : n;
        memcpy(out, block, len);
        out += len;
        n -= len;
    }
    psi_wipe(block, sizeof block);
}

/* Derive-Secret (RFC 8446 7.1) over the digest of some messages; NULL: of none. */
static void psi_keys_derive(const psi_secret *k, int hash, const char *label, const uint8_t *digest, uint8_t *out)
{
    uint8_t none[PSI_HASH_MAX];
    size_t n = psi_x509_hash_len(hash);
    if (!digest) psi_keys_digest(hash, psi_none, psi_none, none);
    psi_keys_expand(k, label, psi_read_of(digest ? digest : none, n), out, n);
}

/* On to the secret of the next stage (RFC 8446 7.1). */
static void psi_keys_next(psi_secret *k, int hash, const uint8_t *ikm, size_t n)
{
    uint8_t salt[PSI_HASH_MAX];
    psi_keys_derive(k, hash, "derived", NULL, salt);
    psi_keys_ready(k, hash, salt, psi_x509_hash_len(hash));
    psi_keys_extract(k, hash, ikm, n);
    psi_wipe(salt, sizeof salt);
}

/* The content of Finished, and of a binder (RFC 8446 4.4.4). */
static void psi_keys_finished(int hash, const uint8_t *secret, const uint8_t *digest, uint8_t *out)
{
    psi_secret k;
    uint8_t key[PSI_HASH_MAX];
    size_t n = psi_x509_hash_len(hash);
    psi_reader part = psi_read_of(digest, n);
    psi_keys_ready(&k, hash, secret, n);
    psi_keys_expand(&k, "finished", psi_none, key, n);
    psi_keys_ready(&k, hash, key, n);
    psi_keys_mac(&k, &part, 1, out);
    psi_wipe(key, sizeof key);
    psi_wipe(&k, sizeof k);
}

/* The binder of a resumption PSK over the digest of a hello without its binders (RFC 8446 4.2.11.2). */
static void psi_keys_binder(int hash, const uint8_t *psk, const uint8_t *digest, uint8_t *out)
{
    psi_secret k;
    uint8_t key[PSI_HASH_MAX];
    psi_keys_ready(&k, hash, NULL, 0);
    psi_keys_extract(&k, hash, psk, psi_x509_hash_len(hash));
    psi_keys_derive(&k, hash, "res binder", NULL, key);
    psi_keys_finished(hash, key, digest, out);
    psi_wipe(key, sizeof key);
    psi_wipe(&k, sizeof k);
}

/* TLS 1.2's PRF (RFC 5246 5). */
static void psi_keys_prf(const psi_secret *k, const char *label, psi_reader seed, uint8_t *out, size_t n)
{
    uint8_t a[PSI_HASH_MAX], block[PSI_HASH_MAX];
    psi_reader parts[3] = {psi_none, psi_read_of(label, strlen(label)), seed};
    size_t len;
    parts[0] = psi_read_of(a, psi_keys_mac(k, parts + 1, 2, a));
    while (n) {
        len = psi_keys_mac(k, parts, 3, block);
        len = len < n ? len : n;
        memcpy(out, block, len);
        out += len;
        n -= len;
        if (n) psi_keys_mac(k, parts, 1, a);
    }
    psi_wipe(a, sizeof a);
    psi_wipe(block, sizeof block);
}

/* --- keys of records ------------------------------------------------------ */

static size_t psi_suite_key_len(const psi_suite *s)
{
    return s->aead == PSI_AES128 ? 16 : 32;
}

/* RFC 8446 7.3: key and nonce from a traffic secret, which may lie in *k. */
static void psi_key_from_secret(psi_key *k, const psi_suite *suite, const uint8_t *secret)
{
    psi_secret ready;
    psi_keys_ready(&ready, suite->hash, secret, suite->len);
    psi_key_relax(k);
    k->suite = suite;
    k->seq = 0;
    memmove(k->secret, secret, suite->len);
    psi_keys_expand(&ready, "key", psi_none, k->key, psi_suite_key_len(suite));
    psi_keys_expand(&ready, "iv", psi_none, k->iv, sizeof k->iv);
    psi_wipe(&ready, sizeof ready);
}

/* RFC 8446 7.2: the next traffic secret. */
static void psi_key_update(psi_key *k)
{
    psi_secret ready;
    psi_keys_ready(&ready, k->suite->hash, k->secret, k->suite->len);
    psi_keys_expand(&ready, "traffic upd", psi_none, k->secret, k->suite->len);
    psi_wipe(&ready, sizeof ready);
    psi_key_from_secret(k, k->suite, k->secret);
}

/* --- transcript ----------------------------------------------------------- */

/* The hash of all messages so far. The messages themselves are kept until the hash is known and, if keep is
   set, for a signature of TLS 1.2 over them, which may take another hash. */
typedef struct psi_transcript {
    br_hash_compat_context hash; /* vtable NULL: not known yet */
    psi_writer bytes;
    int keep;
} psi_transcript;

static void psi_transcript_add(psi_transcript *t, const uint8_t *p, size_t n)
{
    if (t->hash.vtable) t->hash.vtable->update(&t->hash.vtable, p, n);
    if (!t->hash.vtable || t->keep) psi_write(&t->bytes, p, n);
}

static void psi_transcript_start(psi_transcript *t, int hash)
{
    psi_x509_hash_class(hash)->init(&t->hash.vtable);
    t->hash.vtable->update(&t->hash.vtable, t->bytes.p, t->bytes.n);
    if (!t->keep && !t->bytes.failed) psi_write_free(&t->bytes);
}

static void psi_transcript_forget(psi_transcript *t)
{
    t->keep = 0;
    if (!t->bytes.failed) psi_write_free(&t->bytes);
}

static void psi_transcript_digest(const psi_transcript *t, uint8_t *out)
{
    t->hash.vtable->out(&t->hash.vtable, out);
}

/* RFC 8446 4.4.1: a digest takes the first hello's place when there is a second. */
static void psi_transcript_retry(psi_transcript *t, int hash)
{
    uint8_t message[4 + PSI_HASH_MAX] = {254, 0, 0, 0}; /* message_hash */
    size_t n = psi_x509_hash_len(hash);
    psi_transcript_digest(t, message + 4);
    message[3] = (uint8_t)n;
    t->hash.vtable->init(&t->hash.vtable);
    psi_transcript_add(t, message, 4 + n);
}

/* --- the log of keys ------------------------------------------------------ */

#ifdef PSOCKET_KEYLOG
/* A line of NSS's key log format, which lets Wireshark decrypt a connection. */
static void psi_keys_log(const char *label, const uint8_t random[32], const uint8_t *secret, size_t n)
{
    char line[40 + 64 + 1 + 2 * PSI_REC_SECRET + 1];
    int at = snprintf(line, 40, "%s ", label);
    size_t i;
    for (i = 0; i < 32 + n; i++)
        at += snprintf(line + at, sizeof line - (size_t)at, i == 32 ? " %02x" : "%02x",
                       i < 32 ? random[i] : secret[i - 32]);
    PSOCKET_KEYLOG(line);
    psi_wipe(line, sizeof line);
}
#else
#define psi_keys_log(label, random, secret, n) ((void)(n))
#endif

/* --- the key exchange ----------------------------------------------------- */

#define PSI_GROUP_P256 23 /* what a client without a list takes */
#define PSI_KEX_POINT 133 /* the longest public value */
#define PSI_KEX_SECRET 66 /* the longest secret */

static size_t psi_kex_point_len(const psi_group *g)
{
    return g->curve == BR_EC_curve25519 ? 32 : 1 + 2 * (size_t)g->len;
}

/* Our half of a key exchange. */
typedef struct psi_kex {
    const psi_group *group; /* NULL: none */
    uint8_t scalar[PSI_KEX_SECRET], point[PSI_KEX_POINT];
} psi_kex;

/* A uniform secret key, which for the NIST curves is 1 to their order - 1 (FIPS 186-5 A.2.2), and its point. 0
   or PSOCKET_NO_ENTROPY: also of a source that keeps answering what is no key. */
static int psi_kex_make(psi_kex *x, const psi_group *group)
{
    const br_ec_impl *ec = br_ec_get_default();
    size_t n, i;
    const uint8_t *order = ec->order(group->curve, &n);
    int tries;
    x->group = group;
    for (tries = 0; tries < 64; tries++) {
        unsigned less = 0, any = 0;
        int code = psi_os_entropy(x->scalar, n);
        if (code) return code;
        if (order[0] == 1) x->scalar[0] &= 1; /* P-521 */
        for (i = n; i--;) {
            less = ((unsigned)x->scalar[i] - order[i] - less) >> 8 & 1;
            any |= x->scalar[i];
        }
        if ((!less || !any) && group->curve != BR_EC_curve25519) continue;
        ec->mulgen(x->point, x->scalar, n, group->curve);
        return 0;
    }
    return PSOCKET_NO_ENTROPY;
}

/* The shared secret of PSI_KEX_SECRET bytes or less, from the peer's public value; the key is wiped. Returns its
   length; 0 if that is no point of the curve, or of so small an order that it would be zero (RFC 7748 6.1). */
static size_t psi_kex_finish(psi_kex *x, psi_reader peer, uint8_t *secret)
{
    const br_ec_impl *ec = br_ec_get_default();
    uint8_t point[PSI_KEX_POINT], any = 0;
    size_t n = psi_kex_point_len(x->group), at, len, i;
    uint32_t ok;
    if (peer.n != n || (x->group->curve != BR_EC_curve25519 && peer.p[0] != 4)) return 0;
    memcpy(point, peer.p, n);
    ok = ec->mul(point, n, x->scalar, x->group->len, x->group->curve);
    at = ec->xoff(x->group->curve, &len);
    for (i = 0; i < len; i++) any |= point[at + i];
    memcpy(secret, point + at, len);
    psi_wipe(point, sizeof point);
    psi_wipe(x->scalar, sizeof x->scalar);
    return ok && any ? len : 0;
}

/*==================================================================================================
 * >>hello
 * What a handshake and its settings are, the writing of messages, and both hellos from one table of extensions.
 * A handshake owns its psi_rec until psi_hs_finish; its offer points into the message being handled. A step answers 0, or
 * something else when the handshake has failed, which psi_hs_fail has noted.
 *================================================================================================*/

#define PSI_HS_RECORD 4096  /* longest record of ours in a handshake: Go refuses a first one of 12 KB */
#define PSI_HELLO_MAX 69632 /* longest hello: 64 KB of suites or extensions, and the rest */

#ifdef PSOCKET_NO_TLS12
#define PSI_HAS_TLS12 0
#else
#define PSI_HAS_TLS12 1
#endif
#ifdef PSOCKET_NO_TLS13
#define PSI_HAS_TLS13 0
#else
#define PSI_HAS_TLS13 1
#endif

/* Handshake messages: X(NAME, number). What is none stands beyond what a byte can hold. */
#define PSI_MESSAGES(X) \
    X(HELLO_REQUEST, 0, "HelloRequest") \
    X(CLIENT_HELLO, 1, "ClientHello") \
    X(SERVER_HELLO, 2, "ServerHello") \
    X(NEW_SESSION_TICKET, 4, "NewSessionTicket") \
    X(ENCRYPTED_EXTENSIONS, 8, "EncryptedExtensions") \
    X(CERTIFICATE, 11, "Certificate") \
    X(SERVER_KEY_EXCHANGE, 12, "ServerKeyExchange") \
    X(CERTIFICATE_REQUEST, 13, "CertificateRequest") \
    X(SERVER_HELLO_DONE, 14, "ServerHelloDone") \
    X(CERTIFICATE_VERIFY, 15, "CertificateVerify") \
    X(CLIENT_KEY_EXCHANGE, 16, "ClientKeyExchange") \
    X(FINISHED, 20, "Finished") \
    X(KEY_UPDATE, 24, "KeyUpdate") \
    X(CCS, 0x114, "ChangeCipherSpec")

#define PSI_X(name, number, text) PSI_MSG_##name = number,
enum { PSI_MESSAGES(PSI_X) PSI_MSG_KEYS, PSI_MSG_END };
#undef PSI_X

static PSI_UNUSED const char *psi_msg_name(int message)
{
    static const short numbers[] = { PSI_MESSAGES(PSI_X_NUMBER) };
    static const char names[] = PSI_MESSAGES(PSI_X_TEXT);
    const char *name = psi_string_of(message, numbers, names);
    return *name ? name : "unknown";
}

/* Bytes of the message at p, with its header. */
static uint32_t psi_msg_size(const uint8_t *p)
{
    return 4 + ((uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);
}

/* --- settings and sessions, as >>session and >>tls fill them -------------- */

typedef struct psi_tls_identity {
    psi_x509_chain chain;
    psi_x509_key key;
    int ask;                     /* the application signs: there is no key */
    uint8_t endpoint[PSI_HASH_MAX]; /* tls-server-end-point, RFC 5929 4 */
    size_t endpoint_len;
} psi_tls_identity;

/* Sessions as flat bytes. What they are found by says which PSI_SESSION_WAYS slots one may be in. */
typedef struct psi_session_slot {
    uint8_t *flat;
    uint32_t len;
    uint64_t used; /* when it was last used, for eviction */
} psi_session_slot;

typedef struct psi_sessions {
    psi_session_slot *slots;
    size_t max;
    uint64_t clock;
} psi_sessions;

#define PSI_TICKET_KEY 32
#define PSI_TICKET_KEYS 16

struct psocket_tls {
    int refs;
    psi_os_mutex lock; /* guards the sessions, the ticket keys and the policy */
    psi_sessions client_sessions, server_sessions;
    psi_writer ticket_given; /* the application's keys; none: ours, made when they are needed, and renewed */
    psi_writer ticket_keys;  /* each as psi_ticket_add writes it, once it is needed; the first makes tickets */
    int64_t ticket_keys_made;
    uint8_t policy[32];
    int has_policy;
    int tickets; /* servers: how many with TLS 1.3; 0: none at all */
    psi_list suites, groups, schemes;
    uint16_t min_version, max_version, max_fragment; /* max_fragment 0: not limited */
    psi_x509_chain anchors; /* its own; none: the system's */
    psi_tls_identity *identities;
    size_t identity_count;
    psi_writer alpn; /* as it stands in a hello */
    psi_writer pins;
    int client_auth, insecure_no_verify, insecure_no_name, decide;
    int64_t (*clock)(void *user);
    void *clock_user;
};

enum { PSI_SESSION_RESUMED = 1, PSI_SESSION_EMS = 2, PSI_SESSION_PEER = 4, PSI_SESSION_TICKET = 8 };

/* What a connection agreed on, and what resumes it. The spans point into its flat form, or to where its maker has them. */
typedef struct psi_session {
    const psi_suite *suite;
    uint64_t group, scheme, port, flags;
    psi_reader name, alpn;      /* the server name asked for, and the protocol */
    psi_reader subject;         /* the peer's certificate: for people; */
    int64_t not_before, not_after;
    uint8_t sha256[32], spki[32];
    psi_reader endpoint;        /* tls-server-end-point; empty: a server's is sha256 */
    /* what resumes it */
    uint8_t policy[32];
    uint8_t secret[PSI_REC_SECRET]; /* TLS 1.2: the master secret; TLS 1.3: the PSK */
    int64_t proven;             /* when a full handshake is due: seven days after the last, or when its path has ended */
    int64_t from, until;
    uint64_t age_add;
    psi_reader ticket;          /* clients: what to send */
    size_t size;                /* with what the spans point into */
} psi_session;

/* --- the handshake -------------------------------------------------------- */

/* What a client's hello offers, or a request of a server's. Points into it. */
typedef struct psi_offer {
    psi_reader id, suites, groups, points, schemes, certs, shares, alpn, ticket, versions, modes;
    psi_reader identities, binders, authorities;
    const uint8_t *bound; /* where the part of the hello ends that binders bind */
    uint32_t known;       /* which rows of psi_names are in suites, groups and schemes: psi_offer_know's */
    uint8_t speaks;       /* 1 TLS 1.2, 2 TLS 1.3 */
    uint8_t fallback, compressed;
} psi_offer;

typedef struct psi_hs psi_hs;

/* A row of a program, which is the handshake from one side: a message of the peer's of at most limit bytes and what reads
   it; a message of ours and what writes its body; or a change of keys between them. NULL: there is nothing to do. */
typedef struct psi_hs_row {
    uint16_t message, when; /* PSI_MSG_*, PSI_ROW_* */
    uint32_t limit;
    int (*read)(psi_hs *h, psi_reader m);
    int (*write)(psi_hs *h);
} psi_hs_row;

#define PSI_THEIRS(message, when, limit, read) { PSI_MSG_##message, when, limit, read, NULL }
#define PSI_OURS(message, when, write) { PSI_MSG_##message, (when) | PSI_ROW_OURS, 0, NULL, write }

/* When there is such a row: if all of these hold. */
enum {
    PSI_ROW_12 = 1,
    PSI_ROW_13 = 2,
    PSI_ROW_FULL = 4,     /* no session is resumed */
    PSI_ROW_AGAIN = 8,    /* one is */
    PSI_ROW_FIRST = 16,   /* the server finishes first */
    PSI_ROW_RETRY = 32,   /* the server asks for another hello */
    PSI_ROW_ASKED = 64,   /* the server asks for a certificate, */
    PSI_ROW_PROOF = 128,  /* and the client shows one */
    PSI_ROW_TICKET = 256, /* a ticket was promised */
    PSI_ROW_MAY = 512,    /* always; the peer may leave it out */
    PSI_ROW_TURN = 1024,  /* always; nothing may follow it in its record */
    PSI_ROW_OURS = 2048   /* always */
};

/* What a client or a server is. Whoever makes a socket stores its address there: thus programs link only what they use. */
typedef struct psi_role {
    int server;
    const psi_hs_row *program;
    int (*begin)(psi_hs *h, const char *name, int port); /* NULL: nothing has to be made ready */
    void (*finish)(psi_hs *h); /* remembers the session */
} psi_role;

/* What is asked; made when it is. */
typedef struct psi_hs_question {
    psocket_question public_form;
    char text[1024];
    uint8_t digest[PSI_HASH_MAX];
} psi_hs_question;

enum { PSI_HS_RUNNING, PSI_HS_DONE, PSI_HS_FAILED };

typedef struct psi_hs_secrets {
    psi_kex kex;
    uint8_t secret[PSI_KEX_SECRET]; /* what was exchanged; then TLS 1.2's master secret */
    size_t secret_len;
    psi_secret ready;            /* TLS 1.2's master secret, TLS 1.3's secret of the stage */
    psi_key next_in, next_out;   /* in force once ChangeCipherSpec, or the end of a flight, has passed */
} psi_hs_secrets;

struct psi_hs {
    const psi_role *role;
    const psi_hs_row *next;      /* the row of its program where it is */
    int state;                   /* PSI_HS_* */
    psi_rec *rec;
    psocket_tls *tls;
    psocket_error *err;          /* what went wrong; NULL: nothing, or there was no memory to tell */
    int64_t now;                 /* when it began, or the message at hand came: certificates and sessions are judged by that */
    int64_t proven;              /* how long what it proves may be resumed */
    const psi_suite *suite;      /* NULL: not chosen yet */
    char *name;                  /* client: the name to verify; server: the name asked for; NULL: none */
    uint16_t port, version;
    psi_transcript transcript;
    const uint8_t *message;      /* the message being handled, with its header */
    uint32_t rest;               /* bytes that follow it */
    psi_writer flight;           /* messages that are not yet in records */
    psi_writer out;              /* records to send */
    /* hellos */
    uint8_t randoms[64];         /* the client's, the server's */
    uint8_t id[32], id_len;      /* session ID: the client's own, or what a server echoes */
    unsigned where;              /* the message whose extensions are being read or written */
    uint32_t offered;            /* which rows of the table the client's hello had */
    uint16_t limit;              /* record_size_limit, 0 none */
    uint8_t fragment;            /* max_fragment_length, 0 none */
    psi_offer *offer;            /* valid while a hello or a request is handled */
    psi_writer opaque;           /* client: the server's cookie, or its new ticket of TLS 1.2 */
    uint32_t lifetime;           /* of that ticket, in seconds */
    psi_reader alpn;             /* the protocol agreed on, in tls->alpn */
    psi_reader share;            /* the peer's public value, while its message is handled */
    psi_reader params;           /* what ServerKeyExchange says of the server's, while it is handled */
    uint8_t grease;
    uint8_t retried;             /* this is about a second hello; 2: which has to offer its sessions again */
    uint8_t resumed;             /* a session is: 1 and the PSK's place among those offered */
    uint8_t regrouped;           /* HelloRetryRequest asks for another group */
    uint8_t ccs_sent, named, ems, will_ticket, is_address;
    /* authentication */
    const psi_tls_identity *identity; /* what we prove to be; NULL none */
    const psi_scheme *scheme;    /* how we sign */
    const psi_scheme *server_scheme; /* how the server signed; NULL: it did not */
    psi_x509_chain chain;        /* the peer's certificates */
    uint8_t asked;               /* the server asks for a certificate */
    uint8_t proved;              /* the peer has proved to own its certificate's key */
    psi_reader signature;        /* the application's, until it is written; empty: none */
    psi_hs_question *question;   /* NULL: nothing is asked */
    /* secrets */
    psi_session *session;        /* offered (client) or resumed; NULL none */
    psi_tlsinfo *info;           /* made when the handshake is over, or for a ticket */
    psi_hs_secrets *k;           /* clients: from the beginning; servers: once the client's hello is there */
};

#define PSI_HAS(version) ((version) == PSI_TLS13 ? PSI_HAS_TLS13 : PSI_HAS_TLS12)

/* Looks once which suites, groups and schemes are offered: there may be many, and many identities to choose from. */
static void psi_offer_know(psi_offer *o)
{
    size_t i;
    for (i = 0; i < PSI_NAMES; i++) {
        int what = psi_names[i].what;
        psi_reader list = what == PSI_SUITE ? o->suites : what == PSI_GROUP ? o->groups : o->schemes;
        if (psi_read_has(list, psi_names[i].number)) o->known |= (uint32_t)1 << i;
    }
}

static int psi_offers(const psi_offer *o, const psi_named *s)
{
    return s && o->known >> (s - psi_names) & 1;
}

/* Once the version is known. A build of one version needs no code that asks. */
#define PSI_IS13(h) (PSI_HAS_TLS13 && (!PSI_HAS_TLS12 || (h)->version == PSI_TLS13))

/* The time that certificates are checked against. A system calendar before the program was built is not set. */
static int64_t psi_tls_now(const psocket_tls *tls)
{
    int64_t low = tls->clock ? 0 : (int64_t)PSOCKET_BUILD_TIME, high = 253402300799; /* year 9999 */
    int64_t now = tls->clock ? tls->clock(tls->clock_user) : psi_os_wallclock();
    return now < low ? low : now < high ? now : high;
}

static int psi_tls_speaks(const psocket_tls *tls, unsigned version)
{
    return tls->min_version <= version && version <= tls->max_version;
}

/* The session to offer, if it is one of this version. */
static const psi_session *psi_hs_session(const psi_hs *h, unsigned version)
{
    return h->session && h->session->suite->version == version ? h->session : NULL;
}

/* --- writing messages ----------------------------------------------------- */

/* Ahead of what is encrypted first, and in TLS 1.3 of a second hello. There it is for middleboxes only (RFC 8446 D.4). */
static void psi_hs_change_cipher_spec(psi_hs *h)
{
    static const uint8_t ccs[6] = {PSI_REC_CCS, PSI_TLS12 >> 8, PSI_TLS12 & 0xFF, 0, 1, 1};
    if (h->ccs_sent || (PSI_IS13(h) && !h->id_len && !h->role->server)) return;
    h->ccs_sent = 1;
    psi_write(&h->out, ccs, sizeof ccs);
}

/* Puts n bytes into the output as records; out.failed tells when memory is short. */
static void psi_hs_seal(psi_hs *h, int type, const void *p, size_t n)
{
    uint8_t *to;
    if (h->rec->out.suite) psi_hs_change_cipher_spec(h);
    to = psi_write_room(&h->out, psi_rec_room(h->rec, n));
    if (to) h->out.n += (uint32_t)psi_rec_seal(h->rec, type, p, n, to);
}

/* Ends the handshake with an error (format NULL: the code's own text) and, unless alert is PSI_ALERT_NONE, tells the peer.
   The first error counts. Returns the code. */
PSI_PRINTF(4, 5)
static int psi_hs_fail(psi_hs *h, int code, int alert, const char *format, ...)
{
    uint8_t p[2];
    va_list ap;
    if (h->state == PSI_HS_FAILED) return code;
    h->state = PSI_HS_FAILED;
    psi_write_free(&h->flight);
    h->err = (psocket_error *)psi_alloc(sizeof *h->err);
    psi_err_code(h->err, code);
    va_start(ap, format);
    if (h->err && format) vsnprintf(h->err->text, sizeof h->err->text, format, ap);
    va_end(ap);
    if (h->err) h->err->tls_alert = alert;
    p[0] = alert == PSI_ALERT_CLOSE_NOTIFY ? PSI_REC_WARNING : PSI_REC_FATAL;
    p[1] = (uint8_t)alert;
    if (alert != PSI_ALERT_NONE) psi_hs_seal(h, PSI_REC_ALERT, p, sizeof p);
    return code;
}

/* Something may be wrong here, as memory: code tells. */
static int psi_hs_broken(psi_hs *h, int code)
{
    return code ? psi_hs_fail(h, code, PSI_ALERT_INTERNAL_ERROR, NULL) : 0;
}

static PSI_UNUSED const char *psi_hs_peer(const psi_hs *h)
{
    return h->role->server ? "client" : "server";
}

/* The peer's message is not as it must be. */
static int psi_hs_bad(psi_hs *h, int alert, const char *what)
{
    return psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, alert, "the %s's %s (%s)", psi_hs_peer(h), what,
                       psi_rec_alert_name(alert));
}

/* It is one of those that RFCs do not allow. */
static int psi_hs_illegal(psi_hs *h, const char *what)
{
    return psi_hs_bad(h, PSI_ALERT_ILLEGAL_PARAMETER, what);
}

#ifdef PSOCKET_NO_TEXT
#define psi_hs_fail(h, code, alert, ...) \
    ((void)sizeof(psi_err_unsaid(__VA_ARGS__)), (psi_hs_fail)(h, code, alert, NULL))
#define psi_hs_bad(h, alert, what) ((void)sizeof(psi_err_unsaid(what)), (psi_hs_bad)(h, alert, ""))
#define psi_hs_illegal(h, what) ((void)sizeof(psi_err_unsaid(what)), (psi_hs_illegal)(h, ""))
#endif

/* Is m wrong, or anything left of it? Then the handshake fails. */
static int psi_hs_left(psi_hs *h, const psi_reader *m)
{
    if (psi_x509_end(*m)) return 0;
    return psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, PSI_ALERT_DECODE_ERROR, "the %s's %s message is malformed",
                       psi_hs_peer(h), psi_msg_name(h->message[0]));
}

/* Makes records of the flight. */
static int psi_hs_flush(psi_hs *h)
{
    uint32_t at, n;
    if (h->state == PSI_HS_FAILED) return -1;
    for (at = 0; at < h->flight.n; at += n) {
        n = h->flight.n - at < PSI_HS_RECORD ? h->flight.n - at : PSI_HS_RECORD;
        psi_hs_seal(h, PSI_REC_HANDSHAKE, h->flight.p + at, n);
    }
    if (h->flight.failed || h->transcript.bytes.failed || h->out.failed) psi_hs_broken(h, PSOCKET_NOMEM);
    psi_write_free(&h->flight);
    return h->state == PSI_HS_FAILED;
}

/* The peer has said all that it may say for now (RFC 8446 5.1). */
static int psi_hs_turn(psi_hs *h)
{
    if (!h->rest) return 0;
    return psi_hs_bad(h, PSI_ALERT_UNEXPECTED_MESSAGE, "record holds more than the handshake allows");
}

/* Takes new keys into use, for what comes in; and for what goes out. */
static int psi_hs_new_in(psi_hs *h)
{
    if (psi_hs_turn(h)) return -1;
    psi_key_move(&h->rec->in, &h->k->next_in);
    return 0;
}

static int psi_hs_new_out(psi_hs *h)
{
    if (psi_hs_flush(h)) return -1;
    psi_key_move(&h->rec->out, &h->k->next_out);
    return 0;
}

/* Both halves: the secret. */
static int psi_hs_exchange(psi_hs *h, psi_reader peer)
{
    h->k->secret_len = psi_kex_finish(&h->k->kex, peer, h->k->secret);
    if (h->k->secret_len) return 0;
    return psi_hs_illegal(h, "key exchange has an impossible point");
}

/* --- extensions ----------------------------------------------------------- */

/* The messages that carry extensions, as bits. */
enum {
    PSI_IN_CH = 1,   /* ClientHello */
    PSI_IN_SH12 = 2, /* ServerHello of TLS 1.2 */
    PSI_IN_SH13 = 4, /* ServerHello of TLS 1.3 */
    PSI_IN_HRR = 8,  /* HelloRetryRequest */
    PSI_IN_EE = 16,  /* EncryptedExtensions */
    PSI_IN_CR = 32,  /* CertificateRequest, which has some of them as fields in TLS 1.2 */
    PSI_IN_OFFER = PSI_IN_CH | PSI_IN_CR, /* in which anything may come */
    PSI_IN_ALL = PSI_IN_CH | PSI_IN_SH12 | PSI_IN_EE,
    PSI_NEEDS_12 = 64, /* clients say it if they speak TLS 1.2, */
    PSI_NEEDS_13 = 128, /* or TLS 1.3, */
    PSI_NEEDS_SESSIONS = 256, /* or remember sessions */
    PSI_IN_12 = PSI_IN_CH | PSI_IN_SH12 | PSI_NEEDS_12,
    PSI_IN_13 = PSI_IN_CH | PSI_IN_SH13 | PSI_IN_HRR | PSI_NEEDS_13
};

/* An extension. A list of this shape in a hello or request goes into the offer, at an offset. For all else there is a
   function (NULL: it is never ours, and is empty). With w it writes the body, answering 0 if there is nothing to say; else it
   reads r, answering 0 or an alert; what it leaves is a decode_error. h->where tells which message it is. A server is called
   only for what the client's hello had, and a client for what its own had. */
typedef struct psi_ext {
    uint16_t number, where;
    int (*run)(psi_hs *h, psi_writer *w, psi_reader *r);
    psi_shape shape; /* size 0: none */
    size_t at;
} psi_ext;

/* extended_master_secret, RFC 7627. */
static int psi_ext_ems(psi_hs *h, psi_writer *w, psi_reader *r)
{
    (void)r;
    if (!w) h->ems = 1;
    return w != NULL;
}

/* server_name, RFC 6066 3: no literal addresses. */
static int psi_ext_name(psi_hs *h, psi_writer *w, psi_reader *r)
{
    static const psi_shape shape = {2, 1, 1, 2, 1, 0};
    size_t n = h->name && !h->is_address ? strlen(h->name) : 0, i;
    psi_reader list, name;
    if (h->where != PSI_IN_CH) return w && h->named && !h->resumed;
    if (w) {
        psi_write_number(w, n + 3, 2);
        psi_write_number(w, 0, 1); /* host_name */
        psi_write_vector(w, h->name, n, 2);
        return n != 0;
    }
    list = psi_read_list(r, &shape);
    if (psi_read_number(&list, 1)) return PSI_ALERT_DECODE_ERROR;
    name = psi_read_vector(&list, 2, 1, 255);
    for (i = 0; i < name.n; i++)
        if (name.p[i] <= ' ' || name.p[i] > '~') return PSI_ALERT_DECODE_ERROR;
    if (!psi_x509_end(list)) return PSI_ALERT_DECODE_ERROR;
    if (name.n > 1 && name.p[name.n - 1] == '.') name.n--;
    h->name = (char *)psi_alloc(name.n + 1);
    if (!h->name) return PSI_ALERT_INTERNAL_ERROR;
    memcpy(h->name, name.p, name.n);
    return 0;
}

/* max_fragment_length, RFC 6066 4: 2^9 to 2^12 bytes. An answer has this or record_size_limit (RFC 8449 5). */
static int psi_ext_fragment(psi_hs *h, psi_writer *w, psi_reader *r)
{
    unsigned n = h->fragment, most = h->tls->max_fragment;
    if (!w) {
        n = psi_read_number(r, 1);
        if (!r->p) return 0;
        if (n < 1 || n > 4 || (h->where != PSI_IN_CH && (256u << n != most || h->limit)))
            return PSI_ALERT_ILLEGAL_PARAMETER;
        h->fragment = (uint8_t)n;
        return 0;
    }
    if (h->where == PSI_IN_CH)
        for (n = 4; n && 256u << n != most;) n--;
    psi_write_number(w, n, 1);
    return n && !h->limit;
}

/* record_size_limit, RFC 8449: of TLS 1.3 it counts the content type, too. */
static int psi_ext_limit(psi_hs *h, psi_writer *w, psi_reader *r)
{
    unsigned most = h->tls->max_fragment ? h->tls->max_fragment : PSI_REC_PLAIN;
    if (w) {
        psi_write_number(w, most + (h->where == PSI_IN_EE), 2);
        return h->where != PSI_IN_CH || h->tls->max_fragment;
    }
    h->limit = (uint16_t)psi_read_number(r, 2);
    return r->p && (h->limit < 64 || (h->where != PSI_IN_CH && h->fragment)) ? PSI_ALERT_ILLEGAL_PARAMETER : 0;
}

/* Applies what the peer wants of these two, once the version is known. */
static void psi_ext_limits(psi_hs *h)
{
    unsigned limit = h->limit ? h->limit - (PSI_IS13(h) ? 1u : 0u)
                     : h->fragment ? 256u << h->fragment : PSI_REC_PLAIN;
    h->rec->max_out = (uint16_t)(limit < PSI_REC_PLAIN ? limit : PSI_REC_PLAIN);
    if (h->limit && h->tls->max_fragment) h->rec->max_in = h->tls->max_fragment;
}

/* supported_groups, RFC 8446 4.2.7. A server's say nothing. */
static int psi_ext_groups(psi_hs *h, psi_writer *w, psi_reader *r)
{
    if (!w) *r = psi_none;
    else if (h->where == PSI_IN_CH) psi_list_write(w, &h->tls->groups, h->grease * 0x0101u ^ 0x1010u);
    return w && h->where == PSI_IN_CH;
}

/* ec_point_formats, RFC 8422 5.1.2: uncompressed is a must where TLS 1.2 is spoken. */
static int psi_ext_points(psi_hs *h, psi_writer *w, psi_reader *r)
{
    psi_reader list;
    (void)h;
    if (w) psi_write_number(w, 0x0100, 2);
    if (w) return 1;
    list = psi_read_vector(r, 1, 1, 255);
    return list.n && !memchr(list.p, 0, list.n) ? PSI_ALERT_ILLEGAL_PARAMETER : 0;
}

/* signature_algorithms, RFC 8446 4.2.3; of clients and in requests. */
static int psi_ext_schemes(psi_hs *h, psi_writer *w, psi_reader *r)
{
    (void)r;
    if (w) psi_list_write(w, &h->tls->schemes, 0);
    return w != NULL;
}

/* certificate_authorities, RFC 8446 4.2.4: of the trust anchors that are ours, as many as a message holds. */
static int psi_ext_authorities(psi_hs *h, psi_writer *w, psi_reader *r)
{
    const psi_x509_chain *all = &h->tls->anchors;
    uint32_t list;
    size_t i;
    (void)r;
    if (!w || h->where == PSI_IN_CH) return 0;
    list = psi_write_open(w, 2);
    for (i = 0; i < all->count && w->n - list + all->certs[i].subject.n < 60000; i++)
        psi_write_vector(w, all->certs[i].subject.p, all->certs[i].subject.n, 2);
    psi_write_close(w, list, 2);
    return w->n > list;
}

/* The protocol that we want most of those in a list goes to h->alpn. Does one? */
static int psi_ext_choose_alpn(psi_hs *h, psi_reader all)
{
    psi_reader own = psi_read_of(h->tls->alpn.p, h->tls->alpn.n);
    while (own.n && !h->alpn.n) {
        psi_reader one = psi_read_vector(&own, 1, 1, 255), list = all;
        while (list.n) {
            psi_reader name = psi_read_vector(&list, 1, 1, 255);
            if (psi_x509_same(name, one)) h->alpn = one;
        }
    }
    return h->alpn.n != 0;
}

/* application_layer_protocol_negotiation, RFC 7301. */
static int psi_ext_alpn(psi_hs *h, psi_writer *w, psi_reader *r)
{
    psi_reader all = psi_read_of(h->tls->alpn.p, h->tls->alpn.n), list;
    if (h->where != PSI_IN_CH) all = h->alpn.n ? psi_read_of(h->alpn.p - 1, h->alpn.n + 1) : psi_none; /* with its length */
    if (w) psi_write_vector(w, all.p, all.n, 2);
    if (w) return all.n != 0;
    list = all = psi_read_vector(r, 2, 2, 65535);
    psi_read_vector(&list, 1, 1, 255);
    if (!psi_x509_end(list)) return PSI_ALERT_DECODE_ERROR;
    if (psi_ext_choose_alpn(h, all)) return 0;
    psi_hs_fail(h, PSOCKET_TLS_ALPN, PSI_ALERT_ILLEGAL_PARAMETER,
                "the server chose an application protocol that was not offered");
    return PSI_ALERT_ILLEGAL_PARAMETER;
}

/* session_ticket, RFC 5077. */
static int psi_ext_ticket(psi_hs *h, psi_writer *w, psi_reader *r)
{
    const psi_session *s = psi_hs_session(h, PSI_TLS12);
    int hello = h->where == PSI_IN_CH;
    if (!w && hello) {
        h->offer->ticket = *r;
        *r = psi_none;
    } else if (!w) {
        h->will_ticket = 1;
    } else if (hello && s && s->flags & PSI_SESSION_TICKET) {
        psi_write(w, s->ticket.p, s->ticket.n);
    }
    return w && (hello || h->will_ticket);
}

/* supported_versions, RFC 8446 4.2.1. psi_hello_version has acted upon a server's already. */
static int psi_ext_versions(psi_hs *h, psi_writer *w, psi_reader *r)
{
    int both = h->where == PSI_IN_CH && psi_tls_speaks(h->tls, PSI_TLS12);
    if (!w) *r = psi_none;
    if (w && h->where == PSI_IN_CH) {
        psi_write_number(w, both ? 6 : 4, 1);
        psi_write_number(w, h->grease * 0x0101u, 2);
    }
    if (w) psi_write_number(w, PSI_TLS13, 2);
    if (w && both) psi_write_number(w, PSI_TLS12, 2);
    return w != NULL;
}

/* cookie, RFC 8446 4.2.2. */
static int psi_ext_cookie(psi_hs *h, psi_writer *w, psi_reader *r)
{
    psi_reader cookie;
    if (w) {
        psi_write_vector(w, h->opaque.p, h->opaque.n, 2);
        return h->where == PSI_IN_CH && h->opaque.n;
    }
    cookie = psi_read_vector(r, 2, 1, 65535);
    if (h->where == PSI_IN_CH) return 0; /* we never sent one */
    if (cookie.n > PSI_HELLO_MAX / 2) return PSI_ALERT_ILLEGAL_PARAMETER; /* there would be no room to repeat it */
    psi_write(&h->opaque, cookie.p, cookie.n);
    return h->opaque.failed ? PSI_ALERT_INTERNAL_ERROR : 0;
}

/* psk_key_exchange_modes, RFC 8446 4.2.9: with a key exchange only. */
static int psi_ext_modes(psi_hs *h, psi_writer *w, psi_reader *r)
{
    (void)h;
    (void)r;
    if (w) psi_write_number(w, 0x0101, 2);
    return w != NULL;
}

/* key_share, RFC 8446 4.2.8. In a HelloRetryRequest a group only. */
static int psi_ext_share(psi_hs *h, psi_writer *w, psi_reader *r)
{
    psi_kex *kex = &h->k->kex;
    int hello = h->where == PSI_IN_CH;
    if (w) {
        uint32_t list = hello ? psi_write_open(w, 2) : 0;
        if (hello && !h->regrouped) { /* RFC 8446 4.1.2: else the one that was asked for */
            psi_write_number(w, h->grease * 0x0101u ^ 0x1010u, 2);
            psi_write_number(w, 0x000100, 3); /* one byte */
        }
        psi_write_number(w, kex->group->number, 2);
        if (h->where != PSI_IN_HRR) psi_write_vector(w, kex->point, psi_kex_point_len(kex->group), 2);
        if (hello) psi_write_close(w, list, 2);
    } else {
        const psi_group *group = psi_list_find(&h->tls->groups, psi_read_number(r, 2));
        if (h->where == PSI_IN_SH13) h->share = psi_read_vector(r, 2, 1, 65535);
        if (!r->p) return 0;
        if (!group || (kex->group == group) != (h->where == PSI_IN_SH13)) return PSI_ALERT_ILLEGAL_PARAMETER;
        kex->group = group;
    }
    return w != NULL;
}

/* pre_shared_key, RFC 8446 4.2.11. A client's ends its hello; its binder is filled in by psi_hello_bind. */
static int psi_ext_psk(psi_hs *h, psi_writer *w, psi_reader *r)
{
    static const psi_shape tickets = {2, 7, 0, 2, 1, 4}, secrets = {2, 2, 0, 1, 1, 0};
    static const uint8_t zero[PSI_HASH_MAX] = {0};
    const psi_session *s = psi_hs_session(h, PSI_TLS13);
    psi_reader list, binders;
    if (w && h->where == PSI_IN_CH) {
        if (!s) return 0;
        psi_write_number(w, s->ticket.n + 6, 2);
        psi_write_vector(w, s->ticket.p, s->ticket.n, 2);
        psi_write_number(w, ((uint64_t)(h->now - s->from) * 1000 + s->age_add) & 0xFFFFFFFFu, 4);
        psi_write_number(w, s->suite->len + 1u, 2);
        psi_write_vector(w, zero, s->suite->len, 1);
        return 1;
    }
    if (w) psi_write_number(w, h->resumed - 1u, 2);
    if (w) return h->resumed;
    if (h->where != PSI_IN_CH) {
        h->resumed = 1;
        return psi_read_number(r, 2) ? PSI_ALERT_ILLEGAL_PARAMETER : 0;
    }
    list = h->offer->identities = psi_read_list(r, &tickets);
    h->offer->bound = r->p;
    binders = h->offer->binders = psi_read_list(r, &secrets);
    while (list.n && binders.n) {
        psi_read_vector(&list, 2, 1, 65535);
        psi_read_number(&list, 4);
        psi_read_vector(&binders, 1, 1, 255);
    }
    return r->p && (list.n || binders.n) ? PSI_ALERT_ILLEGAL_PARAMETER : 0;
}

/* renegotiation_info, RFC 5746: empty in a first handshake, and there is no second. */
static int psi_ext_secure(psi_hs *h, psi_writer *w, psi_reader *r)
{
    (void)h;
    if (!w) return psi_read_vector(r, 1, 0, 255).n ? PSI_ALERT_HANDSHAKE_FAILURE : 0;
    psi_write_number(w, 0, 1);
    return 1;
}

/* Every extension: X(NAME, number, the messages that may carry it, function, shape and place in an offer). Clients send them
   in this order; pre_shared_key has to be the last. */
#define PSI_NO_SHAPE PSI_SHAPE(0, 0, 0, 0, 0, 0)
#define PSI_EXTENSIONS(X) \
    X(SERVER_NAME, 0, PSI_IN_ALL, psi_ext_name, PSI_NO_SHAPE, id) \
    X(EXTENDED_MASTER_SECRET, 23, PSI_IN_12, psi_ext_ems, PSI_NO_SHAPE, id) \
    X(RENEGOTIATION_INFO, 0xFF01, PSI_IN_12, psi_ext_secure, PSI_NO_SHAPE, id) \
    X(SUPPORTED_GROUPS, 10, PSI_IN_ALL, psi_ext_groups, PSI_NUMBERS(2), groups) \
    X(EC_POINT_FORMATS, 11, PSI_IN_12, psi_ext_points, PSI_SHAPE(1, 1, 1, 0, 0, 0), points) \
    X(SESSION_TICKET, 35, PSI_IN_12 | PSI_NEEDS_SESSIONS, psi_ext_ticket, PSI_NO_SHAPE, id) \
    X(ALPN, 16, PSI_IN_ALL, psi_ext_alpn, PSI_SHAPE(2, 2, 0, 1, 1, 0), alpn) \
    X(SIGNATURE_ALGORITHMS, 13, PSI_IN_OFFER, psi_ext_schemes, PSI_NUMBERS(2), schemes) \
    X(SIGNATURE_ALGORITHMS_CERT, 50, PSI_IN_OFFER, NULL, PSI_NUMBERS(2), certs) \
    X(CERTIFICATE_AUTHORITIES, 47, PSI_IN_OFFER, psi_ext_authorities, PSI_SHAPE(2, 3, 0, 2, 1, 0), authorities) \
    X(KEY_SHARE, 51, PSI_IN_13, psi_ext_share, PSI_SHAPE(2, 0, 2, 2, 1, 0), shares) \
    X(PSK_KEY_EXCHANGE_MODES, 45, PSI_IN_CH | PSI_NEEDS_13 | PSI_NEEDS_SESSIONS, psi_ext_modes, \
      PSI_SHAPE(1, 1, 1, 0, 0, 0), modes) \
    X(SUPPORTED_VERSIONS, 43, PSI_IN_13, psi_ext_versions, PSI_NUMBERS(1), versions) \
    X(COOKIE, 44, PSI_IN_CH | PSI_IN_HRR, psi_ext_cookie, PSI_NO_SHAPE, id) \
    X(RECORD_SIZE_LIMIT, 28, PSI_IN_ALL, psi_ext_limit, PSI_NO_SHAPE, id) \
    X(MAX_FRAGMENT_LENGTH, 1, PSI_IN_ALL, psi_ext_fragment, PSI_NO_SHAPE, id) \
    X(EARLY_DATA, 42, PSI_IN_CH, NULL, PSI_NO_SHAPE, id) \
    X(PRE_SHARED_KEY, 41, PSI_IN_CH | PSI_IN_SH13, psi_ext_psk, PSI_NO_SHAPE, id)

#define PSI_X(name, number, where, run, shape, field) PSI_EXT_##name = number,
enum { PSI_EXTENSIONS(PSI_X) PSI_EXT_PADDING = 21 };
#undef PSI_X

#define PSI_X(name, number, where, run, shape, field) PSI_EXT_AT_##name,
enum { PSI_EXTENSIONS(PSI_X) PSI_EXT_COUNT };
#undef PSI_X

#define PSI_X(name, number, where, run, shape, field) { number, where, run, shape, offsetof(psi_offer, field) },
static const psi_ext psi_extensions[] = { PSI_EXTENSIONS(PSI_X) };
#undef PSI_X

static const psi_shape psi_ext_list = PSI_SHAPE(2, 0, 2, 2, 0, 0);

/* Writes the extension of a row if there is something to say. */
static void psi_ext_put(psi_hs *h, psi_writer *w, size_t row)
{
    const psi_ext *x = &psi_extensions[row];
    uint32_t start = w->n, bit = (uint32_t)1 << row, body;
    unsigned lacks = h->tls->client_sessions.max ? 0 : PSI_NEEDS_SESSIONS;
    if (!psi_tls_speaks(h->tls, PSI_TLS12)) lacks |= PSI_NEEDS_12;
    if (!psi_tls_speaks(h->tls, PSI_TLS13)) lacks |= PSI_NEEDS_13;
    if (!x->run || !(x->where & h->where) || (h->where == PSI_IN_CH && x->where & lacks)) return;
    if (!(h->where & PSI_IN_OFFER) && !(h->offered & bit)) return;
    psi_write_number(w, x->number, 2);
    body = psi_write_open(w, 2);
    if ((x->run)(h, w, NULL)) {
        psi_write_close(w, body, 2);
        if (h->where == PSI_IN_CH) h->offered |= bit;
    } else if (!w->failed) {
        w->n = start;
    }
}

/* All that a server has to say in this message; empty lists of TLS 1.2 are left out. */
static void psi_ext_put_all(psi_hs *h, psi_writer *w, unsigned where)
{
    uint32_t start = w->n, list = psi_write_open(w, 2);
    size_t i;
    h->where = where;
    for (i = 0; i < PSI_EXT_COUNT; i++) psi_ext_put(h, w, i);
    if (w->n == list && where == PSI_IN_SH12 && !w->failed) w->n = start;
    else psi_write_close(w, list, 2);
}

/* One extension: 0, or an alert. A client gets only what it asked for, but a cookie; in a request what is unknown is ignored,
   and what is known but not for it is not (RFC 8446 4.2). */
static int psi_ext_get(psi_hs *h, unsigned type, psi_reader body)
{
    const psi_ext *x = psi_extensions;
    int alert = 0, offer = (h->where & PSI_IN_OFFER) != 0;
    size_t i = 0;
    while (i < PSI_EXT_COUNT && x[i].number != type) i++;
    x += i;
    if (i == PSI_EXT_COUNT || !(x->where & h->where) || (!offer && !(h->offered >> i & 1) && type != PSI_EXT_COOKIE))
        return !offer ? PSI_ALERT_UNSUPPORTED_EXTENSION : i < PSI_EXT_COUNT ? PSI_ALERT_ILLEGAL_PARAMETER : 0;
    if (h->where == PSI_IN_CH) h->offered |= (uint32_t)1 << i;
    if (offer && x->shape.size)
        *(psi_reader *)(void *)((char *)h->offer + x->at) = psi_read_list(&body, &x->shape);
    else if (x->run) alert = (x->run)(h, NULL, &body);
    return alert ? alert : psi_x509_end(body) ? 0 : PSI_ALERT_DECODE_ERROR;
}

/* Does a list have an extension twice? A sixteenth of all types at a time, those that occur, so that the cost is linear. */
static int psi_ext_twice(psi_reader all)
{
    unsigned part, parts = 1;
    int twice = 0;
    for (part = 0; parts >> part && !twice; part++) {
        uint8_t seen[4096 / 8] = {0};
        psi_reader list = all;
        while (list.n && parts >> part & 1) {
            unsigned type = psi_read_number(&list, 2), bit = 1u << (type & 7);
            psi_read_vector(&list, 2, 0, 65535);
            parts |= 1u << (type >> 12);
            if (type >> 12 != part) continue;
            twice |= (seen[type % 4096 / 8] & bit) != 0;
            seen[type % 4096 / 8] |= (uint8_t)bit;
        }
    }
    return twice;
}

/* Reads the list of extensions that ends m. */
static int psi_ext_get_all(psi_hs *h, psi_reader *m, unsigned where)
{
    psi_reader list = psi_read_list(m, &psi_ext_list);
    int alert = 0;
    unsigned type = 0;
    h->where = where;
    if (!psi_x509_end(*m)) alert = PSI_ALERT_DECODE_ERROR;
    else if (psi_ext_twice(list))
        alert = where & (PSI_IN_HRR | PSI_IN_SH13) ? PSI_ALERT_ILLEGAL_PARAMETER : PSI_ALERT_DECODE_ERROR;
    while (list.n && !alert) {
        type = psi_read_number(&list, 2);
        alert = psi_ext_get(h, type, psi_read_vector(&list, 2, 0, 65535));
        if (where == PSI_IN_CH && type == PSI_EXT_PRE_SHARED_KEY && list.n && !alert)
            alert = PSI_ALERT_ILLEGAL_PARAMETER; /* it has to be the last */
    }
    if (!alert && where & (PSI_IN_SH12 | PSI_IN_EE)) psi_ext_limits(h);
    if (!alert) return 0;
    if (alert == PSI_ALERT_INTERNAL_ERROR) return psi_hs_broken(h, PSOCKET_NOMEM);
    return psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, alert,
                       "the %s's %s message has a malformed or misplaced extension (number %u: %s)",
                       psi_hs_peer(h), psi_msg_name(h->message[0]), type, psi_rec_alert_name(alert));
}

/* --- the client's hello --------------------------------------------------- */

#define PSI_SUITE_SECURE 0x00FF   /* TLS_EMPTY_RENEGOTIATION_INFO_SCSV, RFC 5746 3.3 */
#define PSI_SUITE_FALLBACK 0x5600 /* TLS_FALLBACK_SCSV, RFC 7507 */

/* Fills in the binder of the hello that is n bytes at p and ends with it (RFC 8446 4.2.11.2). */
static void psi_hello_bind(psi_hs *h, const psi_session *s, uint8_t *p, size_t n)
{
    size_t len = s->suite->len;
    psi_transcript t = h->transcript;
    uint8_t digest[PSI_HASH_MAX];
    if (!t.hash.vtable) psi_x509_hash_class(s->suite->hash)->init(&t.hash.vtable);
    t.hash.vtable->update(&t.hash.vtable, p, n - len - 3);
    t.hash.vtable->out(&t.hash.vtable, digest);
    psi_keys_binder(s->suite->hash, s->secret, digest, p + n - len);
}

/* ClientHello: GREASE (RFC 8701) around what counts, and no length from 256 to 511 (RFC 7685). */
static int psi_client_write_hello(psi_hs *h)
{
    psi_writer *w = &h->flight;
    const psi_session *s = psi_hs_session(h, PSI_TLS13);
    uint32_t at = w->n, start = at - 4, list, n;
    size_t i;
    h->where = PSI_IN_CH;
    h->offered = 0;
    psi_write_number(w, PSI_TLS12, 2);
    psi_write(w, h->randoms, 32);
    psi_write_vector(w, h->id, h->id_len, 1);
    psi_list_write(w, &h->tls->suites, h->grease * 0x0101u);
    psi_write_number(w, 0x0100, 2); /* one method: no compression */
    list = psi_write_open(w, 2);
    psi_write_number(w, (uint64_t)(h->grease * 0x0101u) << 16, 4);
    for (i = 0; i < PSI_EXT_AT_PRE_SHARED_KEY; i++) psi_ext_put(h, w, i);
    psi_write_number(w, (uint64_t)(h->grease * 0x0101u ^ 0x2020u) << 16 | 1, 4);
    psi_write_number(w, 0, 1);
    n = w->n - start + (s ? (uint32_t)(s->ticket.n + 15 + s->suite->len) : 0);
    if (n >= 256 && n < 512) {
        uint32_t pad;
        psi_write_number(w, PSI_EXT_PADDING, 2);
        pad = psi_write_open(w, 2);
        for (n += 4; n < 512; n++) psi_write_number(w, 0, 1);
        psi_write_close(w, pad, 2);
    }
    psi_ext_put(h, w, PSI_EXT_AT_PRE_SHARED_KEY);
    psi_write_close(w, list, 2);
    psi_write_close(w, at, 3);
    if (s && !w->failed) psi_hello_bind(h, s, w->p + start, w->n - start);
    return 0;
}

/* --- the server's hello --------------------------------------------------- */

/* SHA-256 of "HelloRetryRequest": the random of a ServerHello that is one (RFC 8446 4.1.3). */
static const uint8_t psi_hello_retry[32] = {
    0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91,
    0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C
};

/* The end of a server's random that could have spoken a higher version (RFC 8446 4.1.3): its last byte is 1 for TLS 1.2. */
static const uint8_t psi_hello_downgrade[8] = {'D', 'O', 'W', 'N', 'G', 'R', 'D', 1};

/* What OpenJDK 11 sends in its place (JDK-8211806). */
static const uint8_t psi_hello_jdk11[8] = {0xED, 0xBF, 0xB4, 0xA8, 0xC2, 0x47, 0x10, 0xFF};

/* ServerHello, or HelloRetryRequest, for which a digest takes the first hello's place. */
static int psi_server_write_hello(psi_hs *h)
{
    psi_writer *w = &h->flight;
    if (h->regrouped) psi_transcript_retry(&h->transcript, h->suite->hash);
    psi_write_number(w, PSI_TLS12, 2);
    psi_write(w, h->regrouped ? psi_hello_retry : h->randoms + 32, 32);
    psi_write_vector(w, h->id, h->id_len, 1);
    psi_write_number(w, h->suite->number, 2);
    psi_write_number(w, 0, 1);
    psi_ext_put_all(h, w, h->regrouped ? PSI_IN_HRR : PSI_IS13(h) ? PSI_IN_SH13 : PSI_IN_SH12);
    return 0;
}

/* The version that a ServerHello's extensions name, 0 if none (RFC 8446 4.2.1). 0: they are malformed. */
static int psi_hello_version(psi_reader m, unsigned *version)
{
    psi_reader list = m;
    *version = 0;
    if (m.n) list = psi_read_list(&m, &psi_ext_list);
    while (list.n) {
        unsigned type = psi_read_number(&list, 2);
        psi_reader body = psi_read_vector(&list, 2, 0, 65535);
        if (type != PSI_EXT_SUPPORTED_VERSIONS) continue;
        *version = psi_read_number(&body, 2);
        if (!psi_x509_end(body)) psi_x509_spoil(&m);
    }
    return psi_x509_end(m);
}

/* Reads a client's hello into the offer, m being its body. */
static PSI_UNUSED int psi_hello_read(psi_hs *h, psi_reader m)
{
    psi_offer *o = h->offer;
    psi_reader compression;
    unsigned legacy = psi_read_number(&m, 2);
    psi_read_copy(&m, h->randoms, 32);
    o->id = psi_read_vector(&m, 1, 0, 32);
    o->suites = psi_read_vector(&m, 2, 2, 65534);
    compression = psi_read_vector(&m, 1, 1, 255);
    if (!m.p || o->suites.n % 2) return psi_hs_bad(h, PSI_ALERT_DECODE_ERROR, "hello is malformed");
    psi_free(h->name); /* what a first hello said counts no more */
    h->name = NULL;
    h->alpn = psi_none;
    h->offered = h->limit = h->fragment = 0;
    if (m.n && psi_ext_get_all(h, &m, PSI_IN_CH)) return -1;
    if (psi_read_has(o->versions, PSI_TLS12) || (!o->versions.n && legacy >= PSI_TLS12)) o->speaks = 1;
    if (psi_read_has(o->versions, PSI_TLS13)) o->speaks |= 2;
    if (legacy < PSI_SSL30) o->speaks = 0;
    if (!memchr(compression.p, 0, compression.n))
        return psi_hs_illegal(h, "hello lacks the null compression method");
    o->compressed = compression.n > 1;
    o->fallback = (uint8_t)psi_read_has(o->suites, PSI_SUITE_FALLBACK);
    if (psi_read_has(o->suites, PSI_SUITE_SECURE)) h->offered |= (uint32_t)1 << PSI_EXT_AT_RENEGOTIATION_INFO;
    psi_offer_know(o);
    memcpy(h->id, o->id.p, o->id.n);
    h->id_len = (uint8_t)o->id.n;
    return 0;
}

/*==================================================================================================
 * >>auth
 * Who the peer is and who we are: certificates and requests of both versions, signatures over handshakes, and the
 * questions that a handshake puts to the application. A question stops a handshake until it is answered.
 *================================================================================================*/

static psi_x509_alg psi_auth_alg(const psi_scheme *s)
{
    psi_x509_alg alg;
    alg.kind = s->kind;
    alg.hash = s->hash;
    alg.salt = (int)psi_x509_hash_len(s->hash);
    return alg;
}

/* May a key of this certificate sign so? RFC 8446 4.2.3: TLS 1.3 binds ECDSA to a curve and has no PKCS#1. */
static int psi_auth_fits(const psi_scheme *s, const psi_x509_cert *leaf, unsigned version)
{
    psi_x509_alg alg = psi_auth_alg(s);
    if ((leaf->only.kind != 0) != s->pss_key) return 0;
    if (!psi_x509_fits(leaf->key.key_type, &leaf->only, &alg)) return 0;
    if (version < PSI_TLS13) return 1;
    return s->kind == PSI_X509_ECDSA ? leaf->key.key.ec.curve == s->curve : s->kind != PSI_X509_PKCS1;
}

/* The scheme that we want most of those the peer takes; NULL: none. */
static const psi_scheme *psi_auth_scheme(const psocket_tls *tls, const psi_x509_cert *leaf, const psi_offer *o,
                                         unsigned version)
{
    size_t i;
    for (i = 0; i < tls->schemes.count; i++)
        if (psi_offers(o, tls->schemes.items[i]) && psi_auth_fits(tls->schemes.items[i], leaf, version))
            return tls->schemes.items[i];
    return NULL;
}

/* The digest of what a side's signature covers, and its length: TLS 1.2's of a server its key exchange, of a
   client all messages so far (RFC 5246 7.4.3 and 7.4.8); TLS 1.3's a digest of these (RFC 8446 4.4.3). */
static size_t psi_auth_digest(const psi_hs *h, int server, int hash, uint8_t *out)
{
    uint8_t text[98 + PSI_HASH_MAX];
    if (PSI_IS13(h)) {
        memset(text, ' ', 64);
        memcpy(text + 64, server ? "TLS 1.3, server CertificateVerify" : "TLS 1.3, client CertificateVerify", 34);
        psi_transcript_digest(&h->transcript, text + 98);
        return psi_keys_digest(hash, psi_read_of(text, 98 + h->suite->len), psi_none, out);
    }
    if (server) return psi_keys_digest(hash, psi_read_of(h->randoms, 64), h->params, out);
    return psi_keys_digest(hash, psi_read_of(h->transcript.bytes.p, h->transcript.bytes.n), psi_none, out);
}

/* tls-server-end-point, RFC 5929 4.1: SHA-256 in place of older hashes. Returns its length. */
static size_t psi_auth_endpoint(const psi_x509_cert *leaf, uint8_t *out)
{
    int hash = leaf->alg.hash > br_sha256_ID ? leaf->alg.hash : br_sha256_ID;
    return psi_keys_digest(hash, leaf->der, psi_none, out);
}

/* --- questions and signatures --------------------------------------------- */

/* NULL: out of memory, and the handshake has failed. */
static psocket_question *psi_auth_ask(psi_hs *h, int kind)
{
    h->question = (psi_hs_question *)psi_alloc(sizeof *h->question);
    if (h->question) h->question->public_form.kind = kind;
    else psi_hs_broken(h, PSOCKET_NOMEM);
    return h->question ? &h->question->public_form : NULL;
}

/* Asks for a signature of a digest. */
static int psi_auth_ask_signature(psi_hs *h, const uint8_t *digest, size_t n)
{
    psocket_question *q = psi_auth_ask(h, PSOCKET_WANT_SIGNATURE);
    if (!q) return -1;
    memcpy(h->question->digest, digest, n);
    q->identity = (size_t)(h->identity - h->tls->identities);
    q->scheme = h->scheme->number;
    q->scheme_name = h->scheme->name;
    q->hash_name = n == 32 ? "sha256" : n == 48 ? "sha384" : "sha512";
    q->digest = h->question->digest;
    q->digest_len = n;
    return 0;
}

/* Signs a digest of alg->hash into out of PSI_X509_SIGNATURE bytes; PSS with alg->salt random bytes at salt.
   The length, 0 if the key cannot. */
static size_t psi_auth_make(const psi_x509_key *k, const psi_x509_alg *alg, const uint8_t *digest,
                            const uint8_t *salt, uint8_t *out)
{
    size_t n = (k->rsa.n_bitlen + 7) / 8, len = psi_x509_hash_len(alg->hash);
    int ok;
    if (!psi_x509_fits(k->type, &k->only, alg)) return 0;
    if (alg->kind == PSI_X509_ECDSA)
        return br_ecdsa_sign_asn1_get_default()(br_ec_get_default(), psi_x509_hash_class(alg->hash), digest,
                                                &k->ec, out);
    if (alg->kind == PSI_X509_PSS)
        ok = psi_x509_pss_encode(alg, digest, salt, out, n) && br_rsa_private_get_default()(out, &k->rsa);
    else ok = (int)br_rsa_pkcs1_sign_get_default()(psi_x509_hash_oid(alg->hash), digest, len, &k->rsa, out);
    return ok ? n : 0;
}

/* The scheme and the signature that end a message, and are all of CertificateVerify. If the application has to
   make it, it is asked, and the message is written again with its answer, once that has been verified. */
static int psi_auth_write_signature(psi_hs *h)
{
    uint8_t digest[PSI_HASH_MAX], salt[PSI_HASH_MAX], made[PSI_X509_SIGNATURE];
    psi_x509_alg alg = psi_auth_alg(h->scheme);
    size_t n;
    if (h->transcript.bytes.failed) return psi_hs_broken(h, PSOCKET_NOMEM);
    n = psi_auth_digest(h, h->role->server, alg.hash, digest);
    if (h->signature.n) {
        if (!psi_x509_signed(h->identity->chain.certs, &alg, digest, h->signature))
            return psi_hs_fail(h, PSOCKET_TLS_KEY, PSI_ALERT_INTERNAL_ERROR,
                               "the application's signature does not verify with the certificate's key");
    } else {
        if (h->identity->ask) return psi_auth_ask_signature(h, digest, n);
        if (alg.kind == PSI_X509_PSS && psi_hs_broken(h, psi_os_entropy(salt, n))) return -1;
        h->signature = psi_read_of(made, psi_auth_make(&h->identity->key, &alg, digest, salt, made));
    }
    if (!h->signature.n)
        return psi_hs_fail(h, PSOCKET_TLS_KEY, PSI_ALERT_INTERNAL_ERROR, "the private key cannot sign");
    psi_write_number(&h->flight, h->scheme->number, 2);
    psi_write_vector(&h->flight, h->signature.p, h->signature.n, 2);
    h->signature = psi_none;
    if (h->role->server) h->server_scheme = h->scheme;
    return 0;
}

/* Checks the scheme and the signature that end a message, and are all of CertificateVerify. */
static int psi_auth_check(psi_hs *h, psi_reader m)
{
    const psi_x509_cert *leaf = h->chain.certs;
    const psi_scheme *s = psi_list_find(&h->tls->schemes, psi_read_number(&m, 2));
    psi_reader sig = psi_read_vector(&m, 2, 0, 65535);
    uint8_t digest[PSI_HASH_MAX];
    psi_x509_alg alg;
    if (h->transcript.bytes.failed) return psi_hs_broken(h, PSOCKET_NOMEM);
    if (psi_hs_left(h, &m)) return -1;
    if (leaf->usage >= 0 && !(leaf->usage & PSI_X509_KU_SIGN)) /* RFC 5246 7.4.2, whoever accepted it */
        return psi_hs_fail(h, PSOCKET_CERT_USAGE, PSI_ALERT_UNSUPPORTED_CERTIFICATE,
                           "the %s's certificate has a key that is not meant for signing", psi_hs_peer(h));
    if (!s || !psi_auth_fits(s, leaf, h->version))
        return psi_hs_illegal(h, "signature scheme was not offered or does not fit its certificate");
    psi_auth_digest(h, !h->role->server, s->hash, digest);
    alg = psi_auth_alg(s);
    if (!psi_x509_signed(leaf, &alg, digest, sig))
        return psi_hs_bad(h, PSI_ALERT_DECRYPT_ERROR, "signature is wrong");
    h->proved = 1;
    if (!h->role->server) h->server_scheme = s;
    else psi_transcript_forget(&h->transcript);
    return 0;
}

/* --- certificates --------------------------------------------------------- */

/* Certificate: our chain, or an empty one. */
static int psi_auth_write_chain(psi_hs *h)
{
    psi_writer *w = &h->flight;
    uint32_t list;
    size_t i;
    if (PSI_IS13(h)) psi_write_number(w, 0, 1); /* the context of the request: empty in a handshake */
    list = psi_write_open(w, 3);
    for (i = 0; h->identity && i < h->identity->chain.count; i++) {
        psi_write_vector(w, h->identity->chain.certs[i].der.p, h->identity->chain.certs[i].der.n, 3);
        if (PSI_IS13(h)) psi_write_number(w, 0, 2); /* no extensions */
    }
    psi_write_close(w, list, 3);
    return 0;
}

/* The verdict on a peer's chain; *until becomes the moment when it ends, if that is earlier. */
static int psi_auth_judge(psocket_tls *tls, const psi_x509_chain *chain, const char *name, int client, int64_t now,
                          int64_t *until, psocket_error *e)
{
    psi_x509_query q = PSI_ZERO;
    int code;
    if (tls->insecure_no_verify && !tls->decide) return 0;
    q.anchors = &tls->anchors;
    q.name = client || tls->insecure_no_name ? NULL : name;
    q.now = now;
    q.client = client;
    q.pins = tls->pins.p;
    q.pin_count = tls->pins.n / 32;
    q.until = *until;
    code = psi_x509_verify(&q, chain, e);
    if (!tls->insecure_no_verify) *until = q.until;
    return code;
}

static int psi_auth_refuse(psi_hs *h, const psocket_error *e)
{
    psi_hs_fail(h, e->code, e->tls_alert >= 0 ? e->tls_alert : PSI_ALERT_INTERNAL_ERROR, "%s", e->text);
    if (h->err) h->err->cert_index = e->cert_index;
    return e->code;
}

/* Judges the peer's chain, or has the application do it. */
static int psi_auth_accept(psi_hs *h)
{
    psocket_error verdict = PSI_ZERO, unusable = PSI_ZERO;
    psocket_question *q;
    int code;
    verdict.tls_alert = unusable.tls_alert = verdict.cert_index = -1;
    code = psi_auth_judge(h->tls, &h->chain, h->name, h->role->server, h->now, &h->proven, &verdict);
    if ((code || h->tls->insecure_no_verify) && psi_x509_usable(h->chain.certs, &unusable)) { /* else it was looked at */
        if (unusable.code == PSOCKET_CERT_MALFORMED) verdict.tls_alert = unusable.tls_alert = PSI_ALERT_DECODE_ERROR;
        return psi_auth_refuse(h, verdict.code ? &verdict : &unusable);
    }
    if (!h->tls->decide || verdict.code == PSOCKET_NOMEM) return verdict.code ? psi_auth_refuse(h, &verdict) : 0;
    q = psi_auth_ask(h, PSOCKET_WANT_DECISION);
    if (!q) return -1;
    psi_x509_info(h->chain.certs, &q->peer, h->question->text, sizeof h->question->text);
    q->certificate = h->chain.certs[0].der.p;
    q->certificate_len = h->chain.certs[0].der.n;
    q->verdict = verdict;
    return 0;
}

/* Reads the peer's Certificate into the chain. */
static int psi_auth_read_chain(psi_hs *h, psi_reader m)
{
    psi_reader list, extensions = psi_none;
    int code = 0;
    if (PSI_IS13(h) && psi_read_vector(&m, 1, 0, 255).n) psi_x509_spoil(&m);
    list = psi_read_vector(&m, 3, 0, PSOCKET_CHAIN_BYTES + 4096);
    while (list.n && !code && m.p) {
        psi_reader der = psi_read_vector(&list, 3, 1, 0xFFFFFF);
        if (PSI_IS13(h)) extensions = psi_read_vector(&list, 2, 0, 65535);
        if (!list.p || (extensions.n > 0 && extensions.n < 4)) psi_x509_spoil(&m);
        if (m.p && extensions.n)
            return psi_hs_bad(h, PSI_ALERT_UNSUPPORTED_EXTENSION,
                              "Certificate has extensions that were not asked for");
        if (m.p) code = psi_x509_chain_add(&h->chain, PSI_X509_CHAIN, der.p, der.n);
    }
    if (!code) return psi_hs_left(h, &m);
    return psi_hs_fail(h, code, code == PSOCKET_NOMEM ? PSI_ALERT_INTERNAL_ERROR : PSI_ALERT_BAD_CERTIFICATE, "%s",
                       psocket_strerror(code));
}

/* Certificate of the peer. The key of a server's fits TLS 1.2's suite, and its curve is one that we offered
   (RFC 8422 5.1); one that cannot be used is told later. */
static int psi_auth_certificate(psi_hs *h, psi_reader m)
{
    int server = h->role->server, new_one = PSI_IS13(h);
    const br_x509_pkey *key;
    if (psi_auth_read_chain(h, m)) return -1;
    if (!h->chain.count && server && h->tls->client_auth != PSOCKET_CLIENT_AUTH_REQUIRED) {
        psi_transcript_forget(&h->transcript);
        return 0;
    }
    if (!h->chain.count)
        return psi_hs_fail(h, PSOCKET_CERT_MISSING, !server ? PSI_ALERT_DECODE_ERROR : new_one
                           ? PSI_ALERT_CERTIFICATE_REQUIRED : PSI_ALERT_HANDSHAKE_FAILURE,
                           "the %s sent no certificate", psi_hs_peer(h));
    key = &h->chain.certs[0].key;
    if (!server && !new_one && key->key_type &&
        (key->key_type != h->suite->kind ||
         (key->key_type == BR_KEYTYPE_EC && !psi_list_find(&h->tls->groups, (unsigned)key->key.ec.curve))))
        return psi_hs_fail(h, PSOCKET_CERT_USAGE, PSI_ALERT_ILLEGAL_PARAMETER,
                           "the server's certificate has a key that does not fit what was offered");
    return psi_auth_accept(h);
}

/* --- requests ------------------------------------------------------------- */

enum { PSI_AUTH_RSA_SIGN = 1, PSI_AUTH_ECDSA_SIGN = 64 }; /* ClientCertificateType, RFC 5246 7.4.4, RFC 8422 5.5 */

/* CertificateRequest. */
static PSI_UNUSED int psi_auth_write_request(psi_hs *h)
{
    psi_writer *w = &h->flight;
    h->where = PSI_IN_CR;
    if (PSI_IS13(h)) {
        psi_write_number(w, 0, 1); /* context */
        psi_ext_put_all(h, w, PSI_IN_CR);
    } else {
        psi_write_number(w, 2, 1);
        psi_write_number(w, PSI_AUTH_RSA_SIGN, 1);
        psi_write_number(w, PSI_AUTH_ECDSA_SIGN, 1);
        psi_ext_schemes(h, w, NULL);
        psi_ext_authorities(h, w, NULL);
    }
    return 0;
}

/* Chooses what a client proves to be, if possible issued by an authority that the server names. Certificate
   types are TLS 1.2's; none: any. */
static int psi_auth_choose(psi_hs *h, psi_reader types, const psi_offer *o)
{
    size_t i, k;
    int best = 0;
    h->asked = 1;
    for (i = 0; i < h->tls->identity_count; i++) {
        const psi_tls_identity *id = &h->tls->identities[i];
        const psi_scheme *s = psi_auth_scheme(h->tls, id->chain.certs, o, h->version);
        int type = id->chain.certs[0].key.key_type == BR_KEYTYPE_EC ? PSI_AUTH_ECDSA_SIGN : PSI_AUTH_RSA_SIGN;
        int score = o->authorities.n ? 1 : 2;
        psi_reader names = o->authorities;
        if (!s || (types.n && !memchr(types.p, type, types.n))) continue;
        while (names.n && score < 2) {
            psi_reader name = psi_read_vector(&names, 2, 1, 65535);
            for (k = 0; k < id->chain.count; k++)
                if (psi_x509_same(name, id->chain.certs[k].issuer)) score = 2;
        }
        if (score <= best) continue;
        best = score;
        h->identity = id;
        h->scheme = s;
    }
    if (!h->tls->identity_count || h->identity) return 0;
    return psi_hs_fail(h, PSOCKET_TLS_HANDSHAKE, PSI_ALERT_HANDSHAKE_FAILURE,
                       "the server takes no signature that a client certificate of ours can make");
}

/* CertificateRequest of the server. */
static int psi_auth_request(psi_hs *h, psi_reader m)
{
    static const psi_shape schemes = PSI_NUMBERS(2), authorities = PSI_SHAPE(2, 0, 0, 2, 1, 0);
    psi_offer o = PSI_ZERO;
    psi_reader types = psi_none;
    int failed;
    h->offer = &o;
    if (!PSI_IS13(h)) {
        types = psi_read_vector(&m, 1, 1, 255);
        o.schemes = psi_read_list(&m, &schemes);
        o.authorities = psi_read_list(&m, &authorities);
        failed = psi_hs_left(h, &m);
    } else {
        if (psi_read_vector(&m, 1, 0, 255).n) psi_x509_spoil(&m); /* a context is for requests after the handshake */
        failed = !m.p ? psi_hs_left(h, &m) : psi_ext_get_all(h, &m, PSI_IN_CR);
        if (!failed && !o.schemes.n)
            failed = psi_hs_bad(h, PSI_ALERT_MISSING_EXTENSION, "CertificateRequest has no signature_algorithms");
    }
    h->offer = NULL;
    psi_offer_know(&o);
    return failed ? failed : psi_auth_choose(h, types, &o);
}

/*==================================================================================================
 * >>session
 * What a connection agreed on, and sessions to resume: one flat form for the connection's own, for the caches
 * of clients and servers, for tickets and for what psocket_tls_savesessions stores. The settings own the
 * caches; their lock guards them.
 *================================================================================================*/

#define PSI_SESSION_TIME 86400       /* seconds that a session of ours lasts */
#define PSI_SESSION_MOST 604800      /* most seconds of a peer's: seven days, RFC 8446 4.6.1 */
#define PSI_SESSION_WAYS 32
#define PSI_SESSION_SERVER 256       /* how many are remembered */
#define PSI_SESSION_CLIENT 32
#define PSI_SESSION_EACH 4           /* most tickets of one server */
#define PSI_SESSION_LONGEST 4096     /* longest ticket that is kept or read: usual ones have 200 to 3,000 bytes */
#define PSI_TICKET_RENEWAL 43200     /* seconds after which ticket keys of ours are renewed */

/* --- the flat form -------------------------------------------------------- */

enum { PSI_FIELD_PEER = 1, PSI_FIELD_SECRET = 2 };

/* What stands behind the suite. Of up to 8 bytes are numbers, 64-bit ones in a psi_session; of none, vectors.
   PEER: only with a certificate; SECRET: what resumes a session. */
#define PSI_FIELD(name, bytes, when) { offsetof(psi_session, name), bytes, when }
static const struct { uint16_t at; uint8_t bytes, when; } psi_session_fields[] = {
    PSI_FIELD(group, 2, 0), PSI_FIELD(scheme, 2, 0), PSI_FIELD(port, 2, 0), PSI_FIELD(flags, 1, 0),
    PSI_FIELD(name, 0, 0), PSI_FIELD(alpn, 0, 0), PSI_FIELD(endpoint, 0, 0),
    PSI_FIELD(subject, 0, PSI_FIELD_PEER),
    PSI_FIELD(not_before, 8, PSI_FIELD_PEER), PSI_FIELD(not_after, 8, PSI_FIELD_PEER),
    PSI_FIELD(sha256, 32, PSI_FIELD_PEER), PSI_FIELD(spki, 32, PSI_FIELD_PEER), PSI_FIELD(proven, 8, 0),
    PSI_FIELD(policy, 32, PSI_FIELD_SECRET), PSI_FIELD(secret, PSI_REC_SECRET, PSI_FIELD_SECRET),
    PSI_FIELD(from, 8, PSI_FIELD_SECRET), PSI_FIELD(until, 8, PSI_FIELD_SECRET),
    PSI_FIELD(age_add, 4, PSI_FIELD_SECRET), PSI_FIELD(ticket, 0, PSI_FIELD_SECRET)
};

/* Writes s to w, or reads it from r if w is NULL; what resumes it only with `all`. */
static void psi_session_walk(psi_session *s, psi_writer *w, psi_reader *r, int all)
{
    size_t i, n, high;
    if (w) psi_write_number(w, s->suite->number, 2);
    else s->suite = psi_named_of(PSI_SUITE, psi_read_number(r, 2));
    for (i = 0; i < sizeof psi_session_fields / sizeof psi_session_fields[0]; i++) {
        void *p = (char *)s + psi_session_fields[i].at;
        uint64_t *number = (uint64_t *)p;
        psi_reader *v = (psi_reader *)p;
        if (psi_session_fields[i].when & (all ? 0 : PSI_FIELD_SECRET)) break;
        if (psi_session_fields[i].when & (s->flags & PSI_SESSION_PEER ? 0 : PSI_FIELD_PEER)) continue;
        n = psi_session_fields[i].bytes;
        high = n > 4 ? n - 4 : 0;
        if (!n && w) psi_write_vector(w, v->p, v->n, 2);
        else if (!n) *v = psi_read_vector(r, 2, 0, 65535);
        else if (n > 8 && w) psi_write(w, p, n);
        else if (n > 8) psi_read_copy(r, p, n);
        else if (w) psi_write_number(w, *number, n);
        else {
            *number = (uint64_t)psi_read_number(r, high) << 32;
            *number |= psi_read_number(r, n - high);
        }
    }
}

/* Is it a session, and nothing else? */
static int psi_session_read(psi_reader r, psi_session *s)
{
    memset(s, 0, sizeof *s);
    psi_session_walk(s, NULL, &r, 1);
    return psi_x509_end(r) && s->suite && s->from >= 0 && s->from < s->until &&
           s->until <= s->proven && s->proven - s->from <= PSI_SESSION_MOST && s->endpoint.n <= PSI_HASH_MAX &&
           !(s->subject.n && memchr(s->subject.p, 0, s->subject.n));
}

/* A copy that owns what its spans point into. NULL: out of memory, or impossible. */
static psi_session *psi_session_new(psi_reader flat)
{
    psi_session *s = (psi_session *)psi_alloc(sizeof *s + flat.n);
    if (!s) return NULL;
    memcpy(s + 1, flat.p, flat.n);
    if (psi_session_read(psi_read_of(s + 1, flat.n), s)) {
        s->size = sizeof *s + flat.n;
        return s;
    }
    psi_wipe(s, sizeof *s + flat.n);
    psi_free(s);
    return NULL;
}

static void psi_session_free(psi_session *s)
{
    if (!s) return;
    psi_wipe(s, s->size);
    psi_free(s);
}

/* --- what a connection agreed on ------------------------------------------ */

struct psi_tlsinfo {
    size_t len;
}; /* that many bytes of the flat form follow */

/* NULL: out of memory. */
static psi_tlsinfo *psi_tlsinfo_new(psi_session *s)
{
    psi_writer w = PSI_ZERO;
    psi_tlsinfo *i = NULL;
    psi_session_walk(s, &w, NULL, 0);
    if (!w.failed) i = (psi_tlsinfo *)psi_alloc(sizeof *i + w.n);
    if (i) {
        i->len = w.n;
        memcpy(i + 1, w.p, w.n);
    }
    psi_write_free(&w);
    return i;
}

/* The spans of *s point into *i. */
static void psi_tlsinfo_read(const psi_tlsinfo *i, psi_session *s)
{
    psi_reader r = psi_read_of(i + 1, i->len);
    memset(s, 0, sizeof *s);
    psi_session_walk(s, NULL, &r, 0);
}

static void psi_tlsinfo_text(char *to, size_t size, psi_reader text)
{
    snprintf(to, size, "%.*s", (int)text.n, (const char *)text.p);
}

/* The name of a suite, group or scheme; none: there was none. */
static void psi_tlsinfo_name(char *to, size_t size, int what, int number)
{
    const psi_named *named = psi_named_of(what, (unsigned)number);
    snprintf(to, size, "%s", named ? named->name : "");
}

static PSI_UNUSED void psi_tlsinfo_get(const psi_tlsinfo *i, psocket_tlsinfo *out)
{
    psi_session s;
    psi_tlsinfo_read(i, &s);
    memset(out, 0, sizeof *out);
    out->version = s.suite->version;
    out->suite = s.suite->number;
    out->group = (int)s.group;
    out->sigalg = (int)s.scheme;
    out->resumed = (s.flags & PSI_SESSION_RESUMED) != 0;
    out->extended_master_secret = (s.flags & PSI_SESSION_EMS) != 0;
    memcpy(out->version_name, out->version == PSI_TLS13 ? "TLSv1.3" : "TLSv1.2", sizeof out->version_name);
    psi_tlsinfo_name(out->suite_name, sizeof out->suite_name, PSI_SUITE, out->suite);
    psi_tlsinfo_name(out->group_name, sizeof out->group_name, PSI_GROUP, out->group);
    psi_tlsinfo_name(out->sigalg_name, sizeof out->sigalg_name, PSI_SCHEME, out->sigalg);
    psi_tlsinfo_text(out->alpn, sizeof out->alpn, s.alpn);
    psi_tlsinfo_text(out->server_name, sizeof out->server_name, s.name);
    psi_tlsinfo_text(out->peer_subject, sizeof out->peer_subject, s.subject);
    memcpy(out->peer_sha256, s.sha256, sizeof out->peer_sha256);
    memcpy(out->peer_spki_sha256, s.spki, sizeof out->peer_spki_sha256);
    out->peer_not_before = s.not_before;
    out->peer_not_after = s.not_after;
}

/* A digest of what certificates are judged by, and of whom servers take us for. 0 or an error. */
static int psi_session_policy(psocket_tls *tls, uint8_t out[32])
{
    uint8_t flags = (uint8_t)((tls->insecure_no_verify ? 1 : 0) | (tls->insecure_no_name ? 2 : 0) |
                              (tls->decide ? 4 : 0));
    const psi_x509_chain *anchors = &tls->anchors;
    const psi_x509_cert *cert;
    br_sha256_context all;
    size_t i;
    int code = 0;
    psi_os_lock(&tls->lock);
    if (!tls->has_policy) code = psi_x509_trust(&anchors, NULL);
    if (!tls->has_policy && code != PSOCKET_NOMEM && code != PSOCKET_DESCRIPTORS) { /* else there is no store */
        br_sha256_init(&all);
        br_sha256_update(&all, &flags, 1);
        for (i = 0; i < tls->identity_count; i++) {
            cert = tls->identities[i].chain.certs;
            br_sha256_update(&all, cert->der.p, cert->der.n);
        }
        br_sha256_update(&all, "trust", 5);
        for (i = 0; !code && i < anchors->count; i++) {
            cert = &anchors->certs[i];
            br_sha256_update(&all, cert->der.p, cert->der.n);
        }
        br_sha256_update(&all, "pins", 4);
        br_sha256_update(&all, tls->pins.p, tls->pins.n);
        br_sha256_out(&all, tls->policy);
        tls->has_policy = !code; /* a store that is not there may come */
        code = 0;
    }
    memcpy(out, tls->policy, 32);
    psi_os_unlock(&tls->lock);
    return code;
}

/* --- remembered sessions -------------------------------------------------- */

/* What a client's session is kept under. */
static void psi_session_key(psi_reader name, uint64_t port, uint8_t out[32])
{
    uint8_t c = 0;
    br_sha256_context sha;
    br_sha256_init(&sha);
    for (; name.n--; name.p++) {
        c = (uint8_t)psi_lower(*name.p);
        br_sha256_update(&sha, &c, 1);
    }
    psi_rec_put(out, port, 3);
    br_sha256_update(&sha, out, 3);
    br_sha256_out(&sha, out);
}

/* A slot's bytes are the 32 that it is found by, then the session. Callers hold the settings' lock. */
static void psi_sessions_drop(psi_session_slot *slot)
{
    if (slot->flat) psi_wipe(slot->flat, slot->len);
    psi_free(slot->flat);
    memset(slot, 0, sizeof *slot);
}

static void psi_sessions_free(psi_sessions *c)
{
    size_t i;
    for (i = 0; c->slots && i < c->max; i++) psi_sessions_drop(&c->slots[i]);
    psi_free(c->slots);
    c->slots = NULL;
}

/* The newest session with this key, NULL: none; or the place for another, of which at most `each`
   have it, NULL: out of memory. */
static psi_session_slot *psi_sessions_find(psi_sessions *c, const uint8_t key[32],
                                           const psi_writer *flat, size_t each)
{
    psi_session_slot *slot, *newest = NULL, *oldest = NULL, *place;
    size_t ways = c->max < PSI_SESSION_WAYS ? c->max : PSI_SESSION_WAYS, count = 0;
    psi_reader first = psi_read_of(key, 4);
    if (!c->slots && flat) c->slots = (psi_session_slot *)psi_alloc(c->max * sizeof *c->slots);
    if (!c->slots) return NULL;
    place = c->slots + psi_read_number(&first, 4) % (c->max - ways + 1);
    for (slot = place; ways--; slot++) {
        if (flat && slot->len == flat->n && !memcmp(slot->flat, flat->p, flat->n)) return slot;
        if (slot->used < place->used) place = slot; /* free ones have never been used */
        if (!slot->flat || memcmp(slot->flat, key, 32)) continue;
        count++;
        if (!newest || slot->used > newest->used) newest = slot;
        if (!oldest || slot->used < oldest->used) oldest = slot;
    }
    return !flat ? newest : count >= each ? oldest : place;
}

/* Adds a session to a cache of tls: 0 or PSOCKET_NOMEM. */
static int psi_sessions_add(psocket_tls *tls, psi_sessions *c, const uint8_t key[32], psi_session *s)
{
    psi_session_slot *place = NULL;
    psi_writer w = PSI_ZERO;
    if (!c->max) return 0;
    psi_write(&w, key, 32);
    psi_session_walk(s, &w, NULL, 1);
    if (w.failed) return PSOCKET_NOMEM;
    psi_os_lock(&tls->lock);
    place = psi_sessions_find(c, key, &w, s->suite->version == PSI_TLS13 ? PSI_SESSION_EACH : 1);
    if (place) {
        psi_sessions_drop(place);
        place->flat = w.p;
        place->len = w.n;
        place->used = ++c->clock;
    }
    psi_os_unlock(&tls->lock);
    if (!place) psi_write_free(&w);
    return place ? 0 : PSOCKET_NOMEM;
}

static psi_reader psi_sessions_flat(const psi_session_slot *slot)
{
    return psi_read_of(slot->flat + 32, slot->len - 32);
}

/* --- tickets -------------------------------------------------------------- */

/* A ticket (RFC 5077 4): 8 bytes that tell its key, 24 random ones, from which with that key comes a key for
   this ticket alone, the session, encrypted, and the tag. */
enum { PSI_TICKET_ID = 8, PSI_TICKET_HEAD = PSI_TICKET_ID + 24 };

typedef struct psi_ticket_key {
    uint8_t id[PSI_TICKET_ID];
    psi_secret secret;
} psi_ticket_key;

/* The session is of n bytes. */
static void psi_ticket_crypt(const psi_ticket_key *k, uint8_t *ticket, size_t n, int encrypt, uint8_t *tag)
{
    static const uint8_t nonce[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    uint8_t once[32];
    psi_reader part = psi_read_of(ticket, PSI_TICKET_HEAD);
    psi_keys_mac(&k->secret, &part, 1, once);
    psi_prim.poly(once, nonce, ticket + PSI_TICKET_HEAD, n, ticket, PSI_TICKET_HEAD, tag, psi_prim.chacha,
                  encrypt);
    psi_wipe(once, sizeof once);
}

static void psi_ticket_add(psi_writer *keys, const uint8_t *key)
{
    psi_ticket_key k = PSI_ZERO;
    uint8_t id[32];
    psi_reader part = psi_read_of("session 4", 9); /* the number of the flat form */
    psi_keys_ready(&k.secret, br_sha256_ID, key, PSI_TICKET_KEY);
    psi_keys_mac(&k.secret, &part, 1, id);
    memcpy(k.id, id, PSI_TICKET_ID);
    psi_write(keys, &k, sizeof k);
    psi_wipe(&k, sizeof k);
}

/* Sees to it that there are keys, and that ours are not old: 0 or an error. Who began before they were made has
   an earlier time, which is no reason. Under the settings' lock. */
static int psi_ticket_renew(psocket_tls *tls, int64_t now)
{
    const psi_writer *given = &tls->ticket_given;
    psi_writer *keys = &tls->ticket_keys, fresh = PSI_ZERO;
    int64_t age = now - tls->ticket_keys_made;
    uint8_t key[PSI_TICKET_KEY] = {0};
    uint32_t i;
    int code = 0;
    if (keys->n && (given->n || (age > -PSI_SESSION_MOST && age < PSI_TICKET_RENEWAL))) return 0;
    for (i = 0; i < given->n; i += PSI_TICKET_KEY) psi_ticket_add(&fresh, given->p + i);
    if (!given->n) {
        code = psi_os_entropy(key, sizeof key);
        psi_ticket_add(&fresh, key);
        psi_wipe(key, sizeof key);
        psi_write(&fresh, keys->p, keys->n ? sizeof(psi_ticket_key) : 0);
    }
    if (fresh.failed) code = PSOCKET_NOMEM;
    psi_write_free(code ? &fresh : keys);
    if (code) return code;
    *keys = fresh;
    tls->ticket_keys_made = now;
    return 0;
}

/* Appends a ticket, a vector whose length takes two bytes: an empty one, and 0, if none can be made. */
static int psi_ticket_write(psocket_tls *tls, int64_t now, psi_session *s, psi_writer *w)
{
    uint8_t random[PSI_TICKET_HEAD - PSI_TICKET_ID], tag[PSI_REC_TAG];
    uint32_t at = psi_write_open(w, 2);
    const psi_ticket_key *key;
    int code = psi_os_entropy(random, sizeof random);
    psi_os_lock(&tls->lock);
    if (!code) code = psi_ticket_renew(tls, now);
    if (!code) {
        key = (const psi_ticket_key *)(const void *)tls->ticket_keys.p;
        psi_write(w, key->id, sizeof key->id);
        psi_write(w, random, sizeof random);
        psi_session_walk(s, w, NULL, 1);
        if (!w->failed) psi_ticket_crypt(key, w->p + at, w->n - at - PSI_TICKET_HEAD, 1, tag);
        psi_write(w, tag, sizeof tag);
        psi_write_close(w, at, 2);
    }
    psi_os_unlock(&tls->lock);
    return !code && !w->failed;
}

/* The session in a ticket; NULL: it is not one of ours. */
static psi_session *psi_ticket_read(psocket_tls *tls, int64_t now, psi_reader ticket)
{
    const psi_writer *keys = &tls->ticket_keys;
    const psi_ticket_key *key;
    uint8_t tag[PSI_REC_TAG];
    psi_session *s = NULL;
    psi_writer w = PSI_ZERO;
    size_t n = ticket.n - PSI_TICKET_HEAD - PSI_REC_TAG;
    uint32_t at;
    if (!tls->tickets || ticket.n <= PSI_TICKET_HEAD + PSI_REC_TAG || ticket.n > PSI_SESSION_LONGEST) return NULL;
    psi_os_lock(&tls->lock);
    psi_ticket_renew(tls, now); /* if that fails, those that there are will do */
    for (at = 0; at < keys->n && !w.n; at += (uint32_t)sizeof *key) {
        key = (const psi_ticket_key *)(const void *)(keys->p + at);
        if (memcmp(key->id, ticket.p, PSI_TICKET_ID)) continue;
        psi_write(&w, ticket.p, ticket.n);
        if (!w.n) break;
        psi_ticket_crypt(key, w.p, n, 0, tag);
        if (psi_rec_equal(tag, w.p + PSI_TICKET_HEAD + n, PSI_REC_TAG))
            s = psi_session_new(psi_read_of(w.p + PSI_TICKET_HEAD, n));
    }
    psi_os_unlock(&tls->lock);
    psi_write_free(&w);
    return s;
}

/* --- clients -------------------------------------------------------------- */

/* Finds a session to offer; of TLS 1.3 but once, lest two connections be linked by it (RFC 8446 C.4). */
static void psi_session_recall(psi_hs *h)
{
    psocket_tls *tls = h->tls;
    uint8_t key[32];
    psi_session_slot *slot;
    psi_session *s = NULL;
    if (!h->name) return;
    psi_session_key(psi_read_of(h->name, strlen(h->name)), h->port, key);
    psi_os_lock(&tls->lock);
    while (!s && (slot = psi_sessions_find(&tls->client_sessions, key, NULL, 0)) != NULL) {
        s = psi_session_new(psi_sessions_flat(slot));
        if (s && (h->now < s->from || h->now >= s->until || !psi_tls_speaks(tls, s->suite->version))) {
            psi_session_free(s);
            s = NULL;
        }
        if (!s || s->suite->version == PSI_TLS13) psi_sessions_drop(slot);
        else slot->used = ++tls->client_sessions.clock;
    }
    psi_os_unlock(&tls->lock);
    h->session = s;
}

/* Forgets the session that was offered, which may have caused a failure. One of TLS 1.3 is gone already. */
static void psi_session_forget(psi_hs *h)
{
    psi_session *s = h->session;
    psi_session_slot *slot;
    uint8_t key[32];
    psi_session_key(s->name, s->port, key);
    psi_os_lock(&h->tls->lock);
    slot = psi_sessions_find(&h->tls->client_sessions, key, NULL, 0);
    if (slot && psi_x509_same(psi_sessions_flat(slot), psi_read_of(s + 1, s->size - sizeof *s)))
        psi_sessions_drop(slot);
    psi_os_unlock(&h->tls->lock);
}

/* It may be resumed from now on, for lifetime seconds at most. 0, or it may not. */
static int psi_session_time(psi_session *s, int64_t now, int64_t lifetime)
{
    s->from = now;
    s->until = lifetime < s->proven - now ? now + lifetime : s->proven;
    return s->from < s->until ? 0 : PSOCKET_INVALID;
}

/* Is there something to offer, for a peer that proved who it is? */
static int psi_session_usable(const psi_session *s)
{
    return s->flags & PSI_SESSION_PEER && s->ticket.n && s->ticket.n <= PSI_SESSION_LONGEST;
}

/* Remembers a session whose secret and ticket are filled, for lifetime seconds. */
static void psi_session_keep(psocket_tls *tls, psi_session *s, int64_t now, int64_t lifetime)
{
    uint8_t key[32];
    if (!psi_session_usable(s) || psi_session_time(s, now, lifetime)) return;
    psi_session_key(s->name, s->port, key);
    psi_sessions_add(tls, &tls->client_sessions, key, s);
}

/*==================================================================================================
 * >>handshake
 * The programs: the messages that a client and a server exchange, in the order in which RFC 5246 7.3 and RFC 8446 A draw
 * them, what reads or writes each, and when keys change; and what comes after the handshake. psi_hs_new, then psi_hs_feed and
 * psi_hs_output until psi_hs_status says 0 or an error, then psi_hs_finish and psi_hs_free. A message is handled only when
 * whole, and joins the transcript then; what is not the program's next is refused.
 *================================================================================================*/

/* What one version needs only. */
#define PSI_IF12(function) (PSI_HAS_TLS12 ? (function) : NULL)
#define PSI_IF13(function) (PSI_HAS_TLS13 ? (function) : NULL)

#define PSI_NAMED_CURVE 3 /* ECCurveType, RFC 8422 5.4 */
#define PSI_HS_SHORT 16384                         /* longest message of the kinds that are short */
#define PSI_HS_CHAIN (PSOCKET_CHAIN_BYTES + 4096u) /* longest Certificate */
#define PSI_HS_REQUEST 135000u                     /* longest CertificateRequest: two lists of up to 64 KB */

/* --- shared steps --------------------------------------------------------- */

/* What was agreed on and is known about the peer goes to h->info. */
static int psi_hs_tell(psi_hs *h)
{
    psi_session s = PSI_ZERO;
    psocket_certinfo cert;
    char text[2 * sizeof ((psocket_tlsinfo *)0)->peer_subject];
    uint8_t digest[PSI_HASH_MAX];
    const psi_x509_cert *leaf = h->chain.certs;
    if (h->info) return 0;
    s.proven = h->proven;
    if (h->resumed) {
        s = *h->session;
        psi_wipe(s.secret, sizeof s.secret);
    } else if (h->chain.count) {
        psi_x509_info(leaf, &cert, text, sizeof text);
        s.flags = PSI_SESSION_PEER;
        s.not_before = cert.not_before;
        s.not_after = cert.not_after;
        memcpy(s.sha256, cert.sha256, 32);
        memcpy(s.spki, cert.spki_sha256, 32);
        s.subject = psi_read_of(cert.subject, strlen(cert.subject));
        if (!h->role->server && leaf->alg.hash > br_sha256_ID) /* else it is sha256 itself */
            s.endpoint = psi_read_of(digest, psi_auth_endpoint(leaf, digest));
    }
    if (h->role->server && h->identity && !h->resumed) s.endpoint = psi_read_of(h->identity->endpoint, h->identity->endpoint_len);
    s.suite = h->suite;
    s.group = h->k->kex.group ? h->k->kex.group->number : 0;
    s.scheme = h->server_scheme ? h->server_scheme->number : 0;
    s.port = h->port;
    s.name = psi_read_of(h->name, h->name ? strlen(h->name) : 0);
    s.alpn = h->alpn;
    s.flags &= PSI_SESSION_PEER;
    if (h->resumed) s.flags |= PSI_SESSION_RESUMED;
    if (h->ems || PSI_IS13(h)) s.flags |= PSI_SESSION_EMS;
    h->info = psi_tlsinfo_new(&s);
    return h->info ? 0 : psi_hs_broken(h, PSOCKET_NOMEM);
}

/* The handshake is over. No way leads here without the proofs that were demanded; they are checked all the same. */
static void psi_hs_done(psi_hs *h)
{
    int needs = !h->role->server || h->chain.count || h->tls->client_auth == PSOCKET_CLIENT_AUTH_REQUIRED;
    if (psi_hs_flush(h) || psi_hs_tell(h)) return;
    if (needs && !h->proved && !h->resumed) psi_hs_broken(h, PSOCKET_CERT_MISSING);
    else h->state = PSI_HS_DONE;
}

/* The content of one side's Finished (RFC 5246 7.4.9, RFC 8446 4.4.4). Returns its length. */
static size_t psi_hs_finished(const psi_hs *h, int server, uint8_t *out)
{
    uint8_t digest[PSI_HASH_MAX];
    size_t n = h->suite->len;
    psi_transcript_digest(&h->transcript, digest);
    if (PSI_IS13(h)) {
        psi_keys_finished(h->suite->hash, server == h->role->server ? h->rec->out.secret : h->rec->in.secret, digest, out);
        return n;
    }
    psi_keys_prf(&h->k->ready, server ? "server finished" : "client finished", psi_read_of(digest, n), out, 12);
    return 12;
}

static int psi_hs_write_finished(psi_hs *h)
{
    uint8_t data[PSI_HASH_MAX];
    psi_write(&h->flight, data, psi_hs_finished(h, h->role->server, data));
    return 0;
}

/* The peer's, which ends its flight. */
static int psi_hs_read_finished(psi_hs *h, psi_reader m)
{
    uint8_t data[PSI_HASH_MAX];
    size_t n = psi_hs_finished(h, !h->role->server, data);
    const uint8_t *p = psi_read_take(&m, n);
    if (psi_hs_left(h, &m)) return -1;
    if (!psi_rec_equal(p, data, n))
        return psi_hs_bad(h, PSI_ALERT_DECRYPT_ERROR, "Finished differs: the handshake was tampered with");
    return psi_hs_turn(h);
}

/* --- shared steps of TLS 1.2 ---------------------------------------------- */

/* The master secret: that of the session that is resumed, or from what was exchanged (RFC 5246 8.1, RFC 7627 4), all messages
   so far being in the transcript; and from it the keys that come into force with ChangeCipherSpec (RFC 5246 6.3). */
static int psi_hs12_keys(psi_hs *h)
{
    psi_secret *ready = &h->k->ready;
    psi_key *client = h->role->server ? &h->k->next_in : &h->k->next_out;
    psi_key *server = h->role->server ? &h->k->next_out : &h->k->next_in;
    uint8_t block[2 * (32 + 12)], digest[PSI_HASH_MAX], server_first[64];
    size_t n = psi_suite_key_len(h->suite), iv = h->suite->aead == PSI_CHACHA ? 12 : 4;
    if (h->resumed) {
        memcpy(h->k->secret, h->session->secret, 48);
    } else {
        psi_transcript_digest(&h->transcript, digest);
        psi_keys_ready(ready, h->suite->hash, h->k->secret, h->k->secret_len);
        psi_wipe(h->k->secret, sizeof h->k->secret);
        psi_keys_prf(ready, h->ems ? "extended master secret" : "master secret",
                     h->ems ? psi_read_of(digest, h->suite->len) : psi_read_of(h->randoms, 64), h->k->secret, 48);
    }
    memcpy(server_first, h->randoms + 32, 32);
    memcpy(server_first + 32, h->randoms, 32);
    psi_keys_ready(ready, h->suite->hash, h->k->secret, 48);
    psi_keys_prf(ready, "key expansion", psi_read_of(server_first, 64), block, 2 * (n + iv));
    client->suite = server->suite = h->suite;
    memcpy(client->key, block, n);
    memcpy(server->key, block + n, n);
    memcpy(client->iv, block + 2 * n, iv);
    memcpy(server->iv, block + 2 * n + iv, iv);
    psi_wipe(block, sizeof block);
    psi_keys_log("CLIENT_RANDOM", h->randoms, h->k->secret, 48);
    if (!h->ems) return 0;
    h->rec->exports = 1;
    memcpy(h->rec->secret, h->k->secret, 48);
    memcpy(h->rec->seed, h->randoms, 64);
    return 0;
}

/* Our half of the key exchange: ServerKeyExchange, which is signed, and ClientKeyExchange (RFC 8422 5.4 and 5.7). */
static int psi_hs12_write_key(psi_hs *h)
{
    const psi_kex *kex = &h->k->kex;
    psi_writer *w = &h->flight;
    uint32_t at = w->n;
    if (h->role->server) psi_write_number(w, PSI_NAMED_CURVE, 1);
    if (h->role->server) psi_write_number(w, kex->group->number, 2);
    psi_write_vector(w, kex->point, psi_kex_point_len(kex->group), 1);
    if (!h->role->server) return 0;
    if (w->failed) return psi_hs_broken(h, PSOCKET_NOMEM);
    h->params = psi_read_of(w->p + at, w->n - at);
    return psi_auth_write_signature(h);
}

/* --- shared steps of TLS 1.3 (RFC 8446 7.1) ------------------------------- */

/* The traffic secrets of a stage, client's and server's, which are logged, and the keys from them, which will be next. */
static void psi_hs13_traffic(psi_hs *h, const char *const labels[4])
{
    uint8_t digest[PSI_HASH_MAX], client[PSI_HASH_MAX], server[PSI_HASH_MAX];
    psi_transcript_digest(&h->transcript, digest);
    psi_keys_derive(&h->k->ready, h->suite->hash, labels[0], digest, client);
    psi_keys_derive(&h->k->ready, h->suite->hash, labels[1], digest, server);
    psi_keys_log(labels[2], h->randoms, client, h->suite->len);
    psi_keys_log(labels[3], h->randoms, server, h->suite->len);
    psi_key_from_secret(&h->k->next_in, h->suite, h->role->server ? client : server);
    psi_key_from_secret(&h->k->next_out, h->suite, h->role->server ? server : client);
    psi_wipe(client, sizeof client);
    psi_wipe(server, sizeof server);
}

/* From the exchanged secret, and the PSK, to the keys of the handshake, which are taken into use, and on to the master
   secret; both hellos are in the transcript. */
static int psi_hs13_keys(psi_hs *h)
{
    static const char *const labels[4] = {"c hs traffic", "s hs traffic", "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
                                          "SERVER_HANDSHAKE_TRAFFIC_SECRET"};
    psi_secret *ready = &h->k->ready;
    int hash = h->suite->hash;
    psi_keys_ready(ready, hash, NULL, 0);
    psi_keys_extract(ready, hash, h->resumed ? h->session->secret : NULL, h->suite->len);
    psi_keys_next(ready, hash, h->k->secret, h->k->secret_len);
    psi_wipe(h->k->secret, sizeof h->k->secret);
    psi_hs13_traffic(h, labels);
    psi_keys_next(ready, hash, NULL, 0);
    return psi_hs_new_in(h) || psi_hs_new_out(h);
}

/* The keys of what follows the handshake; the server's Finished is the last in the transcript. */
static int psi_hs13_application(psi_hs *h)
{
    static const char *const labels[4] = {"c ap traffic", "s ap traffic", "CLIENT_TRAFFIC_SECRET_0",
                                          "SERVER_TRAFFIC_SECRET_0"};
    uint8_t digest[PSI_HASH_MAX];
    psi_hs13_traffic(h, labels);
    psi_transcript_digest(&h->transcript, digest);
    psi_keys_derive(&h->k->ready, h->suite->hash, "exp master", digest, h->rec->secret);
    psi_keys_log("EXPORTER_SECRET", h->randoms, h->rec->secret, h->suite->len);
    h->rec->exports = 1;
    return 0;
}

/* The secret of PSKs to come; the client's Finished is the last in the transcript. */
static int psi_hs13_resumption(psi_hs *h)
{
    uint8_t digest[PSI_HASH_MAX];
    psi_transcript_digest(&h->transcript, digest);
    psi_keys_derive(&h->k->ready, h->suite->hash, "res master", digest, h->rec->seed);
    psi_wipe(&h->k->ready, sizeof h->k->ready);
    return 0;
}

/* The PSK of a ticket (RFC 8446 4.6.1). */
static void psi_hs13_psk(const psi_rec *r, psi_reader nonce, uint8_t *out)
{
    const psi_suite *suite = r->in.suite;
    psi_secret k;
    psi_keys_ready(&k, suite->hash, r->seed, suite->len);
    psi_keys_expand(&k, "resumption", nonce, out, suite->len);
    psi_wipe(&k, sizeof k);
}

/* --- the client ----------------------------------------------------------- */

/* ServerKeyExchange, RFC 8422 5.4. */
static int psi_client12_read_key(psi_hs *h, psi_reader m)
{
    const uint8_t *params = m.p;
    unsigned type = psi_read_number(&m, 1), number = psi_read_number(&m, 2);
    psi_reader point = psi_read_vector(&m, 1, 1, 255);
    const psi_group *group = psi_list_find(&h->tls->groups, number);
    if (!m.p) return psi_hs_left(h, &m);
    if (type != PSI_NAMED_CURVE || !group)
        return psi_hs_illegal(h, "key exchange uses a group that was not offered");
    h->params = psi_read_of(params, (size_t)(m.p - params));
    if (psi_auth_check(h, m) || psi_hs_broken(h, psi_kex_make(&h->k->kex, group))) return -1;
    return psi_hs_exchange(h, point);
}

static int psi_client12_read_ticket(psi_hs *h, psi_reader m)
{
    psi_reader ticket;
    h->lifetime = psi_read_number(&m, 4);
    ticket = psi_read_vector(&m, 2, 0, 65535);
    psi_write_free(&h->opaque);
    psi_write(&h->opaque, ticket.p, ticket.n);
    return psi_hs_left(h, &m);
}

/* ServerHello of TLS 1.2. */
static int psi_client12_hello(psi_hs *h, psi_reader m, psi_reader id)
{
    const psi_session *s = psi_hs_session(h, PSI_TLS12);
    const uint8_t *end = h->randoms + 56;
    int downgraded = (!memcmp(end, psi_hello_downgrade, 7) && end[7] <= 1) || !memcmp(end, psi_hello_jdk11, 8);
    int same = id.n && psi_x509_same(id, psi_read_of(h->id, h->id_len));
    if (downgraded && psi_tls_speaks(h->tls, PSI_TLS13)) /* RFC 8446 4.1.3 */
        return psi_hs_illegal(h, "hello shows that someone keeps it from speaking TLS 1.3");
    if (same && !s)
        return psi_hs_illegal(h, "hello resumes a session that there never was");
    if (m.n && psi_ext_get_all(h, &m, PSI_IN_SH12)) return -1;
    psi_transcript_start(&h->transcript, h->suite->hash);
    memcpy(h->id, id.p, id.n);
    h->id_len = (uint8_t)id.n;
    memset(&h->k->kex, 0, sizeof h->k->kex);
    h->resumed = (uint8_t)same;
    if (same && s->suite != h->suite)
        return psi_hs_illegal(h, "hello resumes a session with another cipher suite");
    if (same && !(s->flags & PSI_SESSION_EMS) != !h->ems) /* RFC 7627 5.3 */
        return psi_hs_bad(h, PSI_ALERT_HANDSHAKE_FAILURE,
                          "hello resumes a session without the extended master secret it had, or with one it had not");
    return 0;
}

static int psi_client13_read_extensions(psi_hs *h, psi_reader m)
{
    return psi_ext_get_all(h, &m, PSI_IN_EE);
}

/* HelloRetryRequest, RFC 8446 4.1.4: the second hello. */
static int psi_client13_retry(psi_hs *h, psi_reader m)
{
    const psi_group *group = h->k->kex.group;
    if (h->retried) return psi_hs_bad(h, PSI_ALERT_UNEXPECTED_MESSAGE, "hello asks for another hello again");
    if (psi_hs_turn(h) || psi_ext_get_all(h, &m, PSI_IN_HRR)) return -1;
    h->regrouped = h->k->kex.group != group;
    if (!h->regrouped && !h->opaque.n)
        return psi_hs_illegal(h, "hello asks for another hello without a reason");
    psi_transcript_retry(&h->transcript, h->suite->hash);
    if (h->regrouped && psi_hs_broken(h, psi_kex_make(&h->k->kex, h->k->kex.group))) return -1;
    h->retried = 1;
    if (h->session && h->session->suite->hash != h->suite->hash) {
        psi_session_free(h->session);
        h->session = NULL;
    }
    psi_hs_change_cipher_spec(h);
    h->next = h->role->program;
    return 0;
}

/* ServerHello of TLS 1.3. */
static int psi_client13_hello(psi_hs *h, psi_reader m, psi_reader id)
{
    if (!psi_x509_same(id, psi_read_of(h->id, h->id_len)))
        return psi_hs_illegal(h, "hello does not repeat our session ID");
    if (!h->transcript.hash.vtable) psi_transcript_start(&h->transcript, h->suite->hash);
    psi_transcript_forget(&h->transcript);
    if (!memcmp(h->randoms + 32, psi_hello_retry, 32)) return psi_client13_retry(h, m);
    if (psi_ext_get_all(h, &m, PSI_IN_SH13)) return -1;
    if (!h->share.n) return psi_hs_bad(h, PSI_ALERT_MISSING_EXTENSION, "hello has no key_share");
    if (h->resumed && h->session->suite->hash != h->suite->hash)
        return psi_hs_illegal(h, "hello resumes a session with another hash");
    return psi_hs_exchange(h, h->share);
}

/* Is this a version to speak? extension: supported_versions named it. */
static int psi_client_version(psi_hs *h, unsigned version, int extension)
{
    const psocket_tls *tls = h->tls;
    if (psi_tls_speaks(tls, version) && extension == (version == PSI_TLS13) && (!h->retried || extension)) return 0;
    if (extension)
        return psi_hs_illegal(h, "hello names a TLS version that was not offered");
    return psi_hs_fail(h, PSOCKET_TLS_VERSION, PSI_ALERT_PROTOCOL_VERSION, "the server chose %s (%04x)",
                       version < PSI_TLS12 ? "a TLS version before 1.2, which is never spoken"
                       : version == PSI_TLS12 && tls->min_version > PSI_TLS12 ? "TLS 1.2 and min_version is 1.3"
                       : "a TLS version that was not offered", version);
}

static int psi_client_hello(psi_hs *h, psi_reader m)
{
    unsigned legacy = psi_read_number(&m, 2), compression, version = 0;
    const psi_suite *suite;
    psi_reader id;
    int extension;
    psi_read_copy(&m, h->randoms + 32, 32);
    id = psi_read_vector(&m, 1, 0, 32);
    suite = psi_list_find(&h->tls->suites, psi_read_number(&m, 2));
    compression = psi_read_number(&m, 1);
    if (!m.p || (compression && !memcmp(h->randoms + 32, psi_hello_retry, 32)) || !psi_hello_version(m, &version))
        return psi_hs_bad(h, PSI_ALERT_DECODE_ERROR, "hello is malformed");
    extension = version != 0;
    if (!extension) version = legacy;
    else if (legacy != PSI_TLS12) version = 0;
    if (psi_client_version(h, version, extension)) return -1;
    if (!suite || suite->version != version || compression || (h->retried && suite != h->suite))
        return psi_hs_illegal(h, compression ? "compression method was not offered"
                          : "cipher suite was not offered");
    h->suite = suite;
    h->version = h->rec->version = (uint16_t)version;
    return PSI_IS13(h) ? psi_client13_hello(h, m, id) : psi_client12_hello(h, m, id);
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
    if (!memchr(out, ':', n) && !psi_addr_parse(&address, out, n)) return 1;
    return name[n] ? 0 : 2; /* no address ends with a dot */
}

/* Notes whom a client wants to speak to. */
static int psi_client_name(psi_hs *h, const char *name)
{
    char host[256];
    int kind = name ? psi_tls_name(name, host) : 0;
    if (!name && (h->tls->insecure_no_name || h->tls->insecure_no_verify)) return 0;
    if (!name)
        return psi_hs_fail(h, PSOCKET_INVALID, PSI_ALERT_NONE,
                           "starttls needs the server's name: nothing can be verified without it");
    if (!kind)
        return psi_hs_fail(h, PSOCKET_INVALID, PSI_ALERT_NONE, "not a host name or IP address: %.200s", name);
    h->is_address = kind == 2;
    h->name = psi_strdup(host);
    return h->name ? 0 : psi_hs_fail(h, PSOCKET_NOMEM, PSI_ALERT_NONE, NULL);
}

/* Makes ready what a client's first message needs. Its session ID is that of a session, or random bytes for middleboxes (RFC
   8446 D.4) and by which a ticket is known to have been accepted (RFC 5077 3.4). */
static int psi_client_begin(psi_hs *h, const char *name, int port)
{
    const psi_session *s;
    int code;
    if (psi_client_name(h, name)) return -1;
    h->port = (uint16_t)port;
    h->k = (psi_hs_secrets *)psi_alloc(sizeof *h->k);
    if (!h->k) return psi_hs_fail(h, PSOCKET_NOMEM, PSI_ALERT_NONE, NULL);
    psi_session_recall(h);
    s = psi_hs_session(h, PSI_TLS12);
    code = psi_os_entropy(h->randoms, 32);
    if (!code) code = psi_os_entropy(h->id, 32);
    if (!code && psi_tls_speaks(h->tls, PSI_TLS13)) code = psi_kex_make(&h->k->kex, h->tls->groups.items[0]);
    if (s || psi_tls_speaks(h->tls, PSI_TLS13)) h->id_len = 32;
    if (s && !(s->flags & PSI_SESSION_TICKET)) {
        h->id_len = (uint8_t)(s->ticket.n < 32 ? s->ticket.n : 32);
        memcpy(h->id, s->ticket.p, h->id_len);
    }
    h->grease = (uint8_t)((h->randoms[0] & 0xF0) | 0x0A);
    h->transcript.keep = h->tls->identity_count != 0;
    if (h->tls->max_fragment) h->rec->max_in = h->tls->max_fragment;
    return code ? psi_hs_fail(h, code, PSI_ALERT_NONE, NULL) : 0;
}

/* Remembers a session of TLS 1.2; the tickets of TLS 1.3 are still to come. */
static void psi_client_finish(psi_hs *h)
{
    psi_session s;
    if (h->tls->client_sessions.max) h->rec->tls = psocket_tls_retain(h->tls);
    if (PSI_IS13(h) || !h->name || (h->resumed && !h->opaque.n)) return;
    psi_tlsinfo_read(h->info, &s);
    memcpy(s.secret, h->k->secret, 48);
    if (h->opaque.n) s.flags |= PSI_SESSION_TICKET;
    s.ticket = h->opaque.n ? psi_read_of(h->opaque.p, h->opaque.n) : psi_read_of(h->id, h->id_len);
    psi_session_keep(h->tls, &s, h->now, h->opaque.n && h->lifetime ? h->lifetime : PSI_SESSION_TIME);
    psi_wipe(&s, sizeof s);
}

/* The handshake as a client sees it, of TLS 1.2 (RFC 5246 7.3) and 1.3 (RFC 8446 A.1). */
static const psi_hs_row psi_client_program[] = {
    PSI_OURS(CLIENT_HELLO, 0, psi_client_write_hello),
    PSI_THEIRS(SERVER_HELLO, 0, PSI_HELLO_MAX, psi_client_hello),
    PSI_OURS(KEYS, PSI_ROW_13, PSI_IF13(psi_hs13_keys)),
    PSI_OURS(KEYS, PSI_ROW_12 | PSI_ROW_AGAIN, PSI_IF12(psi_hs12_keys)),
    PSI_THEIRS(ENCRYPTED_EXTENSIONS, PSI_ROW_13, PSI_HELLO_MAX, PSI_IF13(psi_client13_read_extensions)),
    PSI_THEIRS(CERTIFICATE_REQUEST, PSI_ROW_13 | PSI_ROW_FULL | PSI_ROW_MAY, PSI_HS_REQUEST, psi_auth_request),
    PSI_THEIRS(CERTIFICATE, PSI_ROW_FULL, PSI_HS_CHAIN, psi_auth_certificate),
    PSI_THEIRS(SERVER_KEY_EXCHANGE, PSI_ROW_12 | PSI_ROW_FULL, PSI_HS_SHORT, PSI_IF12(psi_client12_read_key)),
    PSI_THEIRS(CERTIFICATE_VERIFY, PSI_ROW_13 | PSI_ROW_FULL, PSI_HS_SHORT, psi_auth_check),
    PSI_THEIRS(CERTIFICATE_REQUEST, PSI_ROW_12 | PSI_ROW_FULL | PSI_ROW_MAY, PSI_HS_REQUEST, psi_auth_request),
    PSI_THEIRS(SERVER_HELLO_DONE, PSI_ROW_12 | PSI_ROW_FULL | PSI_ROW_TURN, 0, NULL),
    PSI_THEIRS(NEW_SESSION_TICKET, PSI_ROW_12 | PSI_ROW_AGAIN | PSI_ROW_TICKET, PSI_HELLO_MAX,
               PSI_IF12(psi_client12_read_ticket)),
    PSI_THEIRS(CCS, PSI_ROW_12 | PSI_ROW_AGAIN, 1, NULL),
    PSI_THEIRS(FINISHED, PSI_ROW_FIRST, PSI_HS_SHORT, psi_hs_read_finished),
    PSI_OURS(KEYS, PSI_ROW_13, PSI_IF13(psi_hs13_application)),
    PSI_OURS(KEYS, PSI_ROW_13, psi_hs_new_in),
    PSI_OURS(CERTIFICATE, PSI_ROW_ASKED, psi_auth_write_chain),
    PSI_OURS(CLIENT_KEY_EXCHANGE, PSI_ROW_12 | PSI_ROW_FULL, PSI_IF12(psi_hs12_write_key)),
    PSI_OURS(KEYS, PSI_ROW_12 | PSI_ROW_FULL, PSI_IF12(psi_hs12_keys)),
    PSI_OURS(CERTIFICATE_VERIFY, PSI_ROW_PROOF, psi_auth_write_signature),
    PSI_OURS(KEYS, PSI_ROW_12, psi_hs_new_out),
    PSI_OURS(FINISHED, 0, psi_hs_write_finished),
    PSI_OURS(KEYS, PSI_ROW_13, PSI_IF13(psi_hs13_resumption)),
    PSI_OURS(KEYS, PSI_ROW_13, psi_hs_new_out),
    PSI_THEIRS(NEW_SESSION_TICKET, PSI_ROW_12 | PSI_ROW_FULL | PSI_ROW_TICKET, PSI_HELLO_MAX,
               PSI_IF12(psi_client12_read_ticket)),
    PSI_THEIRS(CCS, PSI_ROW_12 | PSI_ROW_FULL, 1, NULL),
    PSI_THEIRS(FINISHED, PSI_ROW_12 | PSI_ROW_FULL, PSI_HS_SHORT, psi_hs_read_finished),
    PSI_OURS(END, 0, NULL)
};

static PSI_UNUSED const psi_role psi_client = {0, psi_client_program, psi_client_begin, psi_client_finish};
#ifdef PSOCKET_NO_CLIENT
#define PSI_CLIENT ((const psi_role *)NULL)
#else
#define PSI_CLIENT (&psi_client)
#endif

/* --- the server ----------------------------------------------------------- */

/* May a session be resumed by this client? Its own identity, if it proved one, must still be good enough. */
static int psi_server_accepts(psi_hs *h, const psi_session *s)
{
    uint8_t policy[32];
    size_t n = h->name ? strlen(h->name) : 0;
    if (s->suite->version != h->version || h->now < s->from || h->now >= s->until) return 0;
    if (PSI_IS13(h) ? s->suite->hash != h->suite->hash : h->ems && !(s->flags & PSI_SESSION_EMS)) return 0;
    if (s->name.n != n || !psi_same_nocase((const char *)s->name.p, h->name, n)) return 0;
    if (!psi_list_find(&h->tls->suites, s->suite->number) || !psi_offers(h->offer, s->suite)) return 0;
    if (!(s->flags & PSI_SESSION_PEER)) return h->tls->client_auth != PSOCKET_CLIENT_AUTH_REQUIRED;
    if (h->tls->client_auth == PSOCKET_CLIENT_AUTH_NONE || psi_session_policy(h->tls, policy)) return 0;
    return memcmp(policy, s->policy, 32) == 0;
}

/* The session to resume by a ticket or, if there is none, an ID. NULL: there is none that may be. */
static psi_session *psi_server_recall(psi_hs *h, psi_reader ticket, psi_reader id)
{
    psi_sessions *all = &h->tls->server_sessions;
    psi_session_slot *slot;
    psi_session *s = ticket.n ? psi_ticket_read(h->tls, h->now, ticket) : NULL;
    if (!ticket.n && id.n == 32) {
        psi_os_lock(&h->tls->lock);
        slot = psi_sessions_find(all, id.p, NULL, 0);
        if (slot) slot->used = ++all->clock;
        if (slot) s = psi_session_new(psi_sessions_flat(slot));
        psi_os_unlock(&h->tls->lock);
    }
    if (s && psi_server_accepts(h, s)) return s;
    psi_session_free(s);
    return NULL;
}

/* A session of this connection, but for its secret. 0, or it cannot be made. */
static int psi_server_session(psocket_tls *tls, const psi_tlsinfo *info, int64_t now, psi_session *s)
{
    psi_tlsinfo_read(info, s);
    if (psi_session_time(s, now, PSI_SESSION_TIME)) return PSOCKET_INVALID;
    return s->flags & PSI_SESSION_PEER ? psi_session_policy(tls, s->policy) : 0;
}

/* What we want most of those a client offers, if it is of this version and for this kind of key (0: any). NULL: none. */
static const psi_named *psi_server_pick(const psi_list *own, const psi_offer *o, unsigned version, int kind)
{
    size_t i;
    for (i = 0; i < own->count; i++) {
        const psi_named *s = own->items[i];
        if (s->version == version && (!kind || s->kind == kind) && psi_offers(o, s)) return s;
    }
    return NULL;
}

/* Chooses the identity by name (exact, wildcard, then the first), and EC for those who can, with its scheme and, in TLS
   1.2, the suite. 0: there is none. */
static int psi_server_identity(psi_hs *h, const psi_offer *o)
{
    psi_x509_host host;
    int named = h->name && psi_x509_host_parse(&host, h->name), best = 0, score, ec;
    size_t i;
    for (i = 0; i < h->tls->identity_count; i++) {
        const psi_tls_identity *id = &h->tls->identities[i];
        const psi_x509_cert *leaf = id->chain.certs;
        const psi_scheme *scheme = psi_auth_scheme(h->tls, leaf, o, h->version);
        const psi_suite *suite = h->suite;
        ec = leaf->key.key_type == BR_KEYTYPE_EC;
        if (!PSI_IS13(h)) suite = psi_server_pick(&h->tls->suites, o, PSI_TLS12, leaf->key.key_type);
        if (!PSI_IS13(h) && ec && o->groups.n && !psi_offers(o, psi_named_of(PSI_GROUP, (unsigned)leaf->key.key.ec.curve)))
            continue; /* RFC 8422 5.1 */
        if (!scheme || !suite) continue;
        score = 1 + (named ? 2 * psi_x509_names(leaf, &host) : 0);
        if (score > 1 && ec) score++;
        if (score <= best) continue;
        best = score;
        h->identity = id;
        h->scheme = scheme;
        h->suite = suite;
        h->named = score > 1;
    }
    return best;
}

static int psi_server_nothing(psi_hs *h, const char *what)
{
    return psi_hs_fail(h, PSOCKET_TLS_HANDSHAKE, PSI_ALERT_HANDSHAKE_FAILURE,
                       "the client offers %s that this server can use", what);
}

/* --- the server: TLS 1.2 */

/* ClientKeyExchange. */
static int psi_server12_read_key(psi_hs *h, psi_reader m)
{
    psi_reader point = psi_read_vector(&m, 1, 1, 255);
    return psi_hs_left(h, &m) ? -1 : psi_hs_exchange(h, point);
}

/* NewSessionTicket, RFC 5077 3.3; an empty one if none can be made. */
static int psi_server12_write_ticket(psi_hs *h)
{
    psi_session s;
    if (psi_hs_tell(h)) return -1;
    psi_write_number(&h->flight, PSI_SESSION_TIME, 4);
    if (psi_server_session(h->tls, h->info, h->now, &s)) {
        psi_write_number(&h->flight, 0, 2);
    } else {
        memcpy(s.secret, h->k->secret, 48);
        psi_ticket_write(h->tls, h->now, &s, &h->flight);
    }
    psi_wipe(&s, sizeof s);
    return 0;
}

/* ClientHello of TLS 1.2. */
static int psi_server12_hello(psi_hs *h, const psi_offer *o)
{
    const psi_group *group = o->groups.n ? psi_server_pick(&h->tls->groups, o, 0, 0)
                             : psi_list_find(&h->tls->groups, PSI_GROUP_P256); /* RFC 8422 4 leaves the choice to us */
    h->session = psi_server_recall(h, o->ticket, o->id);
    h->resumed = h->session != NULL;
    if (h->resumed && h->session->flags & PSI_SESSION_EMS && !h->ems) /* RFC 7627 5.3 */
        return psi_hs_bad(h, PSI_ALERT_HANDSHAKE_FAILURE,
                          "hello resumes a session without its extended master secret");
    if (!psi_server_identity(h, o) && !h->resumed)
        return psi_server_nothing(h, psi_server_pick(&h->tls->suites, o, PSI_TLS12, 0)
                                  ? "no signature algorithm and key type" : "no cipher suite");
    if (h->resumed) h->suite = h->session->suite;
    else if (!group) return psi_server_nothing(h, "no elliptic curve");
    psi_transcript_start(&h->transcript, h->suite->hash);
    h->transcript.keep = h->asked;
    if (h->resumed) return 0;
    h->will_ticket = o->ticket.p && h->tls->tickets;
    h->id_len = !h->will_ticket && h->tls->server_sessions.max ? 32 : 0;
    return psi_hs_broken(h, psi_os_entropy(h->id, 32)) || psi_hs_broken(h, psi_kex_make(&h->k->kex, group));
}

/* --- the server: TLS 1.3 */

/* Tickets, to go ahead of the first data (RFC 8446 4.6.1). What cannot be made is left out. */
static void psi_server13_tickets(psi_rec *r, psi_writer *w)
{
    psi_session s;
    uint8_t nonce;
    int made = !psi_server_session(r->tls, r->info, r->from, &s);
    for (nonce = 0; made && nonce < r->tls->tickets; nonce++) {
        uint32_t start = w->n, random = 0, at;
        made = !psi_os_entropy(&random, sizeof random);
        s.age_add = random;
        psi_hs13_psk(r, psi_read_of(&nonce, 1), s.secret);
        psi_write_number(w, PSI_MSG_NEW_SESSION_TICKET, 1);
        at = psi_write_open(w, 3);
        psi_write_number(w, PSI_SESSION_TIME, 4);
        psi_write_number(w, s.age_add, 4);
        psi_write_vector(w, &nonce, 1, 1);
        made = made && psi_ticket_write(r->tls, r->from, &s, w);
        psi_write_number(w, 4, 2); /* GREASE, RFC 8701 4.1 */
        psi_write_number(w, (uint64_t)(((random & 0xF0u) | 0x0Au) * 0x0101u) << 16, 4);
        psi_write_close(w, at, 3);
        if (!made && !w->failed) w->n = start;
    }
    psi_wipe(&s, sizeof s);
}

static int psi_server13_write_extensions(psi_hs *h)
{
    psi_ext_put_all(h, &h->flight, PSI_IN_EE);
    return 0;
}

/* The ticket to resume by, if there is one: its binder must be right (RFC 8446 4.2.11). */
static int psi_server13_recall(psi_hs *h, const psi_offer *o)
{
    psi_reader identities = o->identities, binders = o->binders;
    psi_transcript t = h->transcript;
    uint8_t digest[PSI_HASH_MAX], binder[PSI_HASH_MAX];
    int i;
    t.hash.vtable->update(&t.hash.vtable, h->message, (size_t)(o->bound - h->message));
    t.hash.vtable->out(&t.hash.vtable, digest);
    for (i = 1; identities.n && i <= 8 && !h->resumed; i++) {
        psi_reader ticket = psi_read_vector(&identities, 2, 1, 65535), theirs = psi_read_vector(&binders, 1, 1, 255);
        psi_read_number(&identities, 4); /* the ticket's age matters to early data only */
        h->session = psi_server_recall(h, ticket, psi_none);
        if (!h->session) continue;
        psi_keys_binder(h->suite->hash, h->session->secret, digest, binder);
        if (theirs.n != h->suite->len || !psi_rec_equal(theirs.p, binder, theirs.n))
            return psi_hs_bad(h, PSI_ALERT_DECRYPT_ERROR, "hello resumes a session without knowing its secret");
        h->resumed = (uint8_t)i;
    }
    return 0;
}

/* HelloRetryRequest has been written: everything begins again. */
static int psi_server13_again(psi_hs *h)
{
    if (psi_hs_flush(h)) return -1;
    psi_hs_change_cipher_spec(h);
    h->next = h->role->program;
    return 0;
}

/* Chooses suite and group: that which we want most of those with a share, which goes to h->share, or of all that are offered. */
static int psi_server13_choose(psi_hs *h, const psi_offer *o)
{
    const psi_list *own = &h->tls->groups;
    const psi_suite *suite = psi_server_pick(&h->tls->suites, o, PSI_TLS13, 0);
    const psi_group *wanted = psi_server_pick(own, o, 0, 0), *best = NULL;
    int twice = 0;
    size_t i;
    for (i = own->count; i--;) {
        psi_reader list = o->shares;
        int seen = 0, may = psi_offers(o, own->items[i]);
        while (list.n) {
            unsigned number = psi_read_number(&list, 2);
            psi_reader share = psi_read_vector(&list, 2, 0, 65535);
            if (number != own->items[i]->number) continue;
            twice |= seen++;
            if (may) best = own->items[i];
            if (may) h->share = share;
        }
    }
    if (!suite) return psi_server_nothing(h, "no cipher suite");
    if (!wanted) return psi_server_nothing(h, "no group for the key exchange");
    if (twice) return psi_hs_illegal(h, "hello has two shares of one group");
    if (!h->retried) psi_transcript_start(&h->transcript, suite->hash);
    else if (suite != h->suite || best != h->k->kex.group || (h->retried > 1 && !o->identities.n))
        return psi_hs_illegal(h, "second hello is not what was asked for");
    h->suite = suite;
    h->k->kex.group = best ? best : wanted;
    h->regrouped = !best;
    return 0;
}

/* ClientHello of TLS 1.3. */
static int psi_server13_hello(psi_hs *h, const psi_offer *o)
{
    int dhe = o->modes.n && memchr(o->modes.p, 1, o->modes.n);
    if (psi_server13_choose(h, o)) return -1;
    if (o->identities.n && dhe && psi_server13_recall(h, o)) return -1;
    if (!psi_server_identity(h, o) && !h->resumed)
        return o->schemes.n ? psi_server_nothing(h, "no signature algorithm")
               : psi_hs_bad(h, PSI_ALERT_MISSING_EXTENSION, "hello lacks signature_algorithms"); /* RFC 8446 4.2.3 */
    h->will_ticket = dhe && h->tls->tickets;
    h->rec->skip = h->offered >> PSI_EXT_AT_EARLY_DATA & 1 && !h->retried ? PSI_REC_PLAIN : 0; /* RFC 8446 4.1.2 */
    if (!h->regrouped)
        return psi_hs_broken(h, psi_kex_make(&h->k->kex, h->k->kex.group)) || psi_hs_exchange(h, h->share);
    h->retried = h->resumed ? 2 : 1;
    psi_session_free(h->session);
    h->session = NULL;
    h->resumed = 0;
    return 0;
}

/* --- the server: hello */

/* The version to speak. */
static int psi_server_version(psi_hs *h, const psi_offer *o)
{
    unsigned version = o->speaks & 2 && psi_tls_speaks(h->tls, PSI_TLS13) ? PSI_TLS13
                       : o->speaks & 1 && psi_tls_speaks(h->tls, PSI_TLS12) ? PSI_TLS12 : 0;
    if (h->retried && version != PSI_TLS13)
        return psi_hs_illegal(h, "second hello is not what was asked for");
    if (o->fallback && version < h->tls->max_version && !(o->speaks & 2)) /* RFC 7507 3 */
        return psi_hs_fail(h, PSOCKET_TLS_VERSION, PSI_ALERT_INAPPROPRIATE_FALLBACK,
                           "the client fell back to an older TLS version than it could speak");
    if (!version)
        return psi_hs_fail(h, PSOCKET_TLS_VERSION, PSI_ALERT_PROTOCOL_VERSION, "the client does not accept %s",
                           o->speaks & 2 ? "TLS 1.2 and max_version is 1.2"
                           : o->speaks & 1 ? "TLS 1.3 and min_version is 1.3" : "TLS 1.2 or 1.3");
    h->version = h->rec->version = (uint16_t)version;
    psi_ext_limits(h);
    return 0;
}

/* What a hello must have: of TLS 1.2 uncompressed points (RFC 8422 5.1.2), of TLS 1.3 more (RFC 8446 9.2). */
static int psi_server_complete(psi_hs *h, const psi_offer *o)
{
    const char *lacks = NULL;
    int pointless = o->points.n && !memchr(o->points.p, 0, o->points.n);
    if (!PSI_IS13(h)) return pointless ? psi_hs_illegal(h, "hello lacks uncompressed points") : 0;
    if (!o->groups.n) lacks = "hello lacks supported_groups";
    else if (!o->shares.p) lacks = "hello lacks key_share";
    else if (o->identities.n && !o->modes.n) lacks = "hello lacks psk_key_exchange_modes";
    if (lacks) return psi_hs_bad(h, PSI_ALERT_MISSING_EXTENSION, lacks);
    return o->compressed ? psi_hs_illegal(h, "hello offers compression") : 0;
}

static int psi_server_hello(psi_hs *h, psi_reader m)
{
    psi_offer o = PSI_ZERO;
    int failed;
    if (!h->k) h->k = (psi_hs_secrets *)psi_alloc(sizeof *h->k);
    if (!h->k) return psi_hs_broken(h, PSOCKET_NOMEM);
    h->asked = h->tls->client_auth != PSOCKET_CLIENT_AUTH_NONE;
    h->proven = h->now + PSI_SESSION_MOST;
    h->offer = &o;
    failed = psi_hello_read(h, m) || psi_server_version(h, &o);
    if (!failed && o.alpn.n && h->tls->alpn.n && !psi_ext_choose_alpn(h, o.alpn))
        failed = psi_hs_fail(h, PSOCKET_TLS_ALPN, PSI_ALERT_NO_APPLICATION_PROTOCOL,
                             "the client offers none of this server's application protocols");
    if (!failed) failed = psi_server_complete(h, &o) || psi_hs_broken(h, psi_os_entropy(h->randoms + 32, 32));
    if (!PSI_IS13(h) && psi_tls_speaks(h->tls, PSI_TLS13)) memcpy(h->randoms + 56, psi_hello_downgrade, 8);
    if (!failed) failed = PSI_IS13(h) ? psi_server13_hello(h, &o) : psi_server12_hello(h, &o);
    h->offer = NULL;
    return failed;
}

/* Remembers a session of TLS 1.2 that has an ID; the tickets of TLS 1.3 go out with the first data. */
static void psi_server_finish(psi_hs *h)
{
    psi_session s;
    if (PSI_IS13(h) && h->will_ticket) {
        h->rec->tls = psocket_tls_retain(h->tls);
        h->rec->ahead = psi_server13_tickets;
    }
    if (PSI_IS13(h) || h->resumed || h->will_ticket || !h->id_len) return;
    if (psi_server_session(h->tls, h->info, h->now, &s)) return;
    memcpy(s.secret, h->k->secret, 48);
    psi_sessions_add(h->tls, &h->tls->server_sessions, h->id, &s);
    psi_wipe(&s, sizeof s);
}

/* The handshake as a server sees it, of TLS 1.2 (RFC 5246 7.3) and 1.3 (RFC 8446 A.2). */
static const psi_hs_row psi_server_program[] = {
    PSI_THEIRS(CLIENT_HELLO, PSI_ROW_TURN, PSI_HELLO_MAX, psi_server_hello),
    PSI_OURS(SERVER_HELLO, 0, psi_server_write_hello),
    PSI_OURS(KEYS, PSI_ROW_13 | PSI_ROW_RETRY, PSI_IF13(psi_server13_again)),
    PSI_OURS(KEYS, PSI_ROW_13, PSI_IF13(psi_hs13_keys)),
    PSI_OURS(KEYS, PSI_ROW_12 | PSI_ROW_AGAIN, PSI_IF12(psi_hs12_keys)),
    PSI_OURS(ENCRYPTED_EXTENSIONS, PSI_ROW_13, PSI_IF13(psi_server13_write_extensions)),
    PSI_OURS(CERTIFICATE_REQUEST, PSI_ROW_13 | PSI_ROW_FULL | PSI_ROW_ASKED, psi_auth_write_request),
    PSI_OURS(CERTIFICATE, PSI_ROW_FULL, psi_auth_write_chain),
    PSI_OURS(SERVER_KEY_EXCHANGE, PSI_ROW_12 | PSI_ROW_FULL, PSI_IF12(psi_hs12_write_key)),
    PSI_OURS(CERTIFICATE_VERIFY, PSI_ROW_13 | PSI_ROW_FULL, psi_auth_write_signature),
    PSI_OURS(CERTIFICATE_REQUEST, PSI_ROW_12 | PSI_ROW_FULL | PSI_ROW_ASKED, psi_auth_write_request),
    PSI_OURS(SERVER_HELLO_DONE, PSI_ROW_12 | PSI_ROW_FULL, NULL),
    PSI_OURS(KEYS, PSI_ROW_12 | PSI_ROW_AGAIN, psi_hs_new_out),
    PSI_OURS(FINISHED, PSI_ROW_FIRST, psi_hs_write_finished),
    PSI_OURS(KEYS, PSI_ROW_13, PSI_IF13(psi_hs13_application)),
    PSI_OURS(KEYS, PSI_ROW_13, psi_hs_new_out),
    PSI_THEIRS(CERTIFICATE, PSI_ROW_FULL | PSI_ROW_ASKED, PSI_HS_CHAIN, psi_auth_certificate),
    PSI_THEIRS(CLIENT_KEY_EXCHANGE, PSI_ROW_12 | PSI_ROW_FULL, PSI_HS_SHORT, PSI_IF12(psi_server12_read_key)),
    PSI_OURS(KEYS, PSI_ROW_12 | PSI_ROW_FULL, PSI_IF12(psi_hs12_keys)),
    PSI_THEIRS(CERTIFICATE_VERIFY, PSI_ROW_PROOF, PSI_HS_SHORT, psi_auth_check),
    PSI_THEIRS(CCS, PSI_ROW_12, 1, NULL),
    PSI_THEIRS(FINISHED, 0, PSI_HS_SHORT, psi_hs_read_finished),
    PSI_OURS(KEYS, PSI_ROW_13, psi_hs_new_in),
    PSI_OURS(KEYS, PSI_ROW_13, PSI_IF13(psi_hs13_resumption)),
    PSI_OURS(NEW_SESSION_TICKET, PSI_ROW_12 | PSI_ROW_FULL | PSI_ROW_TICKET, PSI_IF12(psi_server12_write_ticket)),
    PSI_OURS(KEYS, PSI_ROW_12 | PSI_ROW_FULL, psi_hs_new_out),
    PSI_OURS(FINISHED, PSI_ROW_12 | PSI_ROW_FULL, psi_hs_write_finished),
    PSI_OURS(END, 0, NULL)
};

static PSI_UNUSED const psi_role psi_server = {1, psi_server_program, NULL, psi_server_finish};
#ifdef PSOCKET_NO_SERVER
#define PSI_SERVER ((const psi_role *)NULL)
#else
#define PSI_SERVER (&psi_server)
#endif

/* --- what both run on ----------------------------------------------------- */

/* What a person may make of an alert that refuses us; *code is what it comes to. */
static const char *psi_hs_hint(const psi_hs *h, int alert, int *code)
{
    const psocket_tls *tls = h->tls;
    int server = h->role->server;
    switch (alert) {
    case PSI_ALERT_PROTOCOL_VERSION:
        *code = PSOCKET_TLS_VERSION;
        return server ? ": it does not accept the TLS version chosen"
               : tls->max_version == PSI_TLS12 ? ": the server probably accepts TLS 1.3 only"
               : tls->min_version == PSI_TLS13 ? ": the server probably accepts TLS 1.2 only"
               : ": the server accepts neither TLS 1.3 nor TLS 1.2";
    case PSI_ALERT_NO_APPLICATION_PROTOCOL:
        *code = PSOCKET_TLS_ALPN;
        return ": it knows none of the application protocols offered";
    case PSI_ALERT_HANDSHAKE_FAILURE:
        return server ? "" : ": it probably found no cipher suite in common, or wants a client certificate";
    case PSI_ALERT_UNRECOGNIZED_NAME: return ": it does not know this server name";
    case PSI_ALERT_CERTIFICATE_REQUIRED: return ": it wants a client certificate";
    case PSI_ALERT_BAD_CERTIFICATE: case PSI_ALERT_UNSUPPORTED_CERTIFICATE: case PSI_ALERT_CERTIFICATE_REVOKED:
    case PSI_ALERT_CERTIFICATE_EXPIRED: case PSI_ALERT_CERTIFICATE_UNKNOWN: case PSI_ALERT_UNKNOWN_CA:
        return ": it does not accept our certificate";
    default: return "";
    }
}

static int psi_hs_read_alert(psi_hs *h, const psi_rec_in *in)
{
    int fault = psi_rec_alert_fault(h->rec, in), code = PSOCKET_TLS_ALERT, alert = in->len == 2 ? in->data[1] : 0;
    const char *hint;
    if (fault) return psi_hs_bad(h, fault, "alert is malformed");
    if (alert == PSI_ALERT_CLOSE_NOTIFY)
        return psi_hs_fail(h, code, alert, "the %s closed the connection during the handshake", psi_hs_peer(h));
    if (in->data[0] == PSI_REC_WARNING) return 0;
    hint = psi_hs_hint(h, alert, &code);
    psi_hs_fail(h, code, PSI_ALERT_NONE, "the %s refused with the TLS alert %s (%d)%s", psi_hs_peer(h),
                psi_rec_alert_name(alert), alert, hint);
    if (h->err) h->err->tls_alert = alert;
    return code;
}

/* The row that comes next if the peer sends this message. */
static const psi_hs_row *psi_hs_find(const psi_hs *h, int message)
{
    const psi_hs_row *row = h->next;
    unsigned facts = PSI_ROW_MAY | PSI_ROW_TURN | PSI_ROW_OURS;
    facts |= PSI_IS13(h) ? PSI_ROW_13 | PSI_ROW_FIRST : PSI_ROW_12;
    facts |= h->resumed ? PSI_ROW_AGAIN | PSI_ROW_FIRST : PSI_ROW_FULL;
    if (h->regrouped) facts |= PSI_ROW_RETRY;
    if (h->asked) facts |= PSI_ROW_ASKED;
    if (h->role->server ? h->chain.count != 0 : h->identity != NULL) facts |= PSI_ROW_PROOF;
    if (h->will_ticket) facts |= PSI_ROW_TICKET;
    while (row->when & ~facts || (row->when & PSI_ROW_MAY && row->message != message)) row++;
    return row;
}

static int psi_hs_unexpected(psi_hs *h, int message)
{
    return psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, PSI_ALERT_UNEXPECTED_MESSAGE,
                       "the %s sent a message out of order (%s)", psi_hs_peer(h), psi_msg_name(message));
}

/* A row of ours. A message that leaves a question is taken back. */
static void psi_hs_write(psi_hs *h, const psi_hs_row *row)
{
    int is_message = row->message <= 0xFF;
    uint32_t start = h->flight.n, at = 0;
    if (is_message) psi_write_number(&h->flight, row->message, 1);
    if (is_message) at = psi_write_open(&h->flight, 3);
    h->next = row + 1;
    if (row->write) (row->write)(h); /* lwIP has a macro of that name */
    if (h->question) {
        h->next = row;
        if (!h->flight.failed) h->flight.n = start;
    } else if (is_message && h->state == PSI_HS_RUNNING) {
        psi_write_close(&h->flight, at, 3);
        if (!h->flight.failed) psi_transcript_add(&h->transcript, h->flight.p + start, h->flight.n - start);
    }
}

/* A row of the peer's: its message behind the first `at` bytes of what has come. Returns its size; 0: it is not whole, or must
   not come. */
static uint32_t psi_hs_read(psi_hs *h, const psi_hs_row *row, uint32_t at)
{
    const uint8_t *p = h->rec->part.p + at;
    uint32_t left = h->rec->part.n - at, size = psi_msg_size(p);
    int chain = *p == PSI_MSG_CERTIFICATE;
    if (row->message != *p) {
        psi_hs_unexpected(h, *p);
    } else if (size - 4 > row->limit) {
        psi_hs_fail(h, chain ? PSOCKET_CERT_LIMIT : PSOCKET_TLS_PROTOCOL,
                    chain ? PSI_ALERT_BAD_CERTIFICATE : PSI_ALERT_DECODE_ERROR, "the %s's %s message is too long",
                    psi_hs_peer(h), psi_msg_name(*p));
    } else if (size <= left) {
        h->message = p;
        h->rest = left - size;
        h->next = row + 1;
        h->now = psi_tls_now(h->tls); /* the peer may have taken its time */
        if (row->when & PSI_ROW_TURN && psi_hs_turn(h)) return size;
        if (row->read) (row->read)(h, psi_read_of(p + 4, size - 4));
        psi_transcript_add(&h->transcript, p, size);
        return size;
    }
    return 0;
}

/* Runs the program until a message of the peer's is missing, or there is a question. */
static void psi_hs_run(psi_hs *h)
{
    psi_writer *part = &h->rec->part;
    uint32_t at = 0, size;
    while (h->state == PSI_HS_RUNNING && !h->question) {
        const psi_hs_row *row = psi_hs_find(h, at < part->n ? part->p[at] : -1);
        if (row->message == PSI_MSG_END) {
            psi_hs_done(h);
        } else if (row->when & PSI_ROW_OURS) {
            psi_hs_write(h, row);
        } else {
            size = psi_hs_flush(h) || part->n - at < 4 ? 0 : psi_hs_read(h, row, at);
            if (!size) break;
            at += size;
        }
    }
    h->rest = 0;
    if (h->transcript.bytes.failed) psi_hs_broken(h, PSOCKET_NOMEM);
    psi_write_drop(part, at);
}

/* ChangeCipherSpec: a message of TLS 1.2 that means nothing in TLS 1.3. */
static int psi_hs_read_ccs(psi_hs *h, psi_reader m)
{
    const psi_hs_row *row = psi_hs_find(h, PSI_MSG_CCS);
    int due = row->message == PSI_MSG_CCS;
    int idle = h->version == PSI_TLS13 || (!h->version && !h->role->server && psi_tls_speaks(h->tls, PSI_TLS13));
    if ((!due && !idle) || m.n != 1 || m.p[0] != 1) return psi_hs_unexpected(h, PSI_MSG_CCS);
    if (!due) return 0;
    h->next = row + 1;
    return psi_hs_new_in(h);
}

/* A whole record has come. */
static int psi_hs_record(psi_hs *h, const psi_rec_in *in)
{
    if (in->type == PSI_REC_ALERT) return psi_hs_read_alert(h, in);
    if (h->rec->part.n && in->type != PSI_REC_HANDSHAKE)
        return psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, PSI_ALERT_UNEXPECTED_MESSAGE,
                           "the %s sent another record within a message", psi_hs_peer(h));
    if (in->type == PSI_REC_CCS) return psi_hs_read_ccs(h, psi_read_of(in->data, in->len));
    if (in->type != PSI_REC_HANDSHAKE)
        return psi_hs_fail(h, PSOCKET_TLS_PROTOCOL, PSI_ALERT_UNEXPECTED_MESSAGE,
                           "the peer sent data before the handshake was over");
    psi_write(&h->rec->part, in->data, in->len);
    if (h->rec->part.failed) return psi_hs_broken(h, PSOCKET_NOMEM);
    psi_hs_run(h);
    return 0;
}

/* --- interface ------------------------------------------------------------ */

static PSI_UNUSED void psi_hs_free(psi_hs *h)
{
    if (!h) return;
    if (h->state != PSI_HS_DONE && h->session && !h->role->server) psi_session_forget(h);
    psi_rec_free(h->rec);
    psi_write_free(&h->transcript.bytes);
    psi_write_free(&h->flight);
    psi_write_free(&h->out);
    psi_write_free(&h->opaque);
    psi_x509_chain_free(&h->chain);
    psi_session_free(h->session);
    psi_free(h->info);
    psi_free(h->question);
    psi_free(h->err);
    psi_free(h->name);
    psocket_tls_free(h->tls);
    if (h->k) psi_wipe(h->k, sizeof *h->k);
    psi_free(h->k);
    psi_wipe(h, sizeof *h);
    psi_free(h);
}

/* Why it has failed. */
static int psi_hs_error(const psi_hs *h, psocket_error *e)
{
    if (!h->err) return psi_err_code(e, PSOCKET_NOMEM);
    if (e) *e = *h->err;
    return h->err->code;
}

/* Starts a handshake; a client's first message waits in the output. Retains tls, copies name. port is the peer's, 0 if
   that is not known; servers ignore it. role NULL: this build has no such side. */
static PSI_UNUSED int psi_hs_new(psi_hs **out, const psi_role *role, psocket_tls *tls, const char *name, int port,
                                 psocket_error *e)
{
    psi_hs *h = NULL;
    int code;
    *out = NULL;
    if (!role) return psi_err_code(e, PSOCKET_UNSUPPORTED);
    if (role->server && !tls->identity_count) return psi_err_code(e, PSOCKET_TLS_NO_IDENTITY);
    h = (psi_hs *)psi_alloc(sizeof *h);
    if (!h) return psi_err_code(e, PSOCKET_NOMEM);
    h->role = role;
    h->next = role->program;
    h->tls = psocket_tls_retain(tls);
    h->now = psi_tls_now(tls);
    h->proven = h->now + PSI_SESSION_MOST;
    h->rec = (psi_rec *)psi_alloc(sizeof *h->rec);
    if (h->rec) {
        h->rec->server = (uint8_t)role->server;
        h->rec->max_in = h->rec->max_out = PSI_REC_PLAIN;
        if (!role->begin || !role->begin(h, name, port)) psi_hs_run(h);
    }
    code = !h->rec ? psi_err_code(e, PSOCKET_NOMEM) : h->state == PSI_HS_FAILED ? psi_hs_error(h, e) : 0;
    if (code) psi_hs_free(h);
    else *out = h;
    return code;
}

/* Bytes from the peer, which are decrypted in place: how many were consumed, 0 if there is no whole record among them.
   Once the handshake is over the rest are records of what follows, or of no interest if it failed. */
static PSI_UNUSED ptrdiff_t psi_hs_feed(psi_hs *h, uint8_t *p, size_t n)
{
    size_t used = 0;
    while (used < n && h->state == PSI_HS_RUNNING && !h->question) {
        psi_rec_in in;
        int first = !h->version && !h->rec->part.n, kind = psi_rec_open(h->rec, p + used, n - used, &in);
        if (kind == PSI_REC_MORE) break;
        if (kind < 0) {
            first = first && !in.data &&
                    (in.alert == PSI_ALERT_PROTOCOL_VERSION || in.alert == PSI_ALERT_UNEXPECTED_MESSAGE);
            psi_hs_fail(h, kind, in.alert, "%s", first ? "the peer does not speak TLS on this port" : in.why);
            break;
        }
        used += in.used;
        if (kind == PSI_REC_WHOLE) psi_hs_record(h, &in);
    }
    return (ptrdiff_t)(h->state == PSI_HS_FAILED ? n : used);
}

/* Bytes to send now, 0 if there are none. */
static PSI_UNUSED size_t psi_hs_output(psi_hs *h, const uint8_t **p)
{
    *p = h->out.p;
    return h->out.n;
}

/* That many of them were sent. */
static PSI_UNUSED void psi_hs_sent(psi_hs *h, size_t n)
{
    psi_write_drop(&h->out, (uint32_t)n);
}

/* PSOCKET_WANT_READ: running, or there is output to send first. PSOCKET_WANT_DECISION, PSOCKET_WANT_SIGNATURE: there is a
   question. 0: done. Else the error, also in *e. */
static PSI_UNUSED int psi_hs_status(const psi_hs *h, psocket_error *e)
{
    if (h->state == PSI_HS_FAILED) return psi_hs_error(h, e);
    if (h->out.n) return PSOCKET_WANT_READ;
    if (h->question) return h->question->public_form.kind;
    return h->state == PSI_HS_DONE ? 0 : PSOCKET_WANT_READ;
}

/* What is asked; NULL: nothing. */
static PSI_UNUSED const psocket_question *psi_hs_asks(const psi_hs *h)
{
    return h->question && h->state != PSI_HS_FAILED ? &h->question->public_form : NULL;
}

/* Ends a question of this kind. 0: it was not asked. */
static int psi_hs_answered(psi_hs *h, int kind)
{
    if (!psi_hs_asks(h) || h->question->public_form.kind != kind) return 0;
    psi_free(h->question);
    h->question = NULL;
    return 1;
}

/* The application's decision about the peer's certificate: 0 accepts it, a PSOCKET_ code refuses it. */
static PSI_UNUSED int psi_hs_decide(psi_hs *h, int code)
{
    psocket_error verdict = PSI_ZERO;
    int is_wait = code == PSOCKET_WANT_READ || code == PSOCKET_WANT_WRITE || code == PSOCKET_WANT_DECISION ||
                  code == PSOCKET_WANT_SIGNATURE;
    if (is_wait || (code && !psocket_codename(code))) return PSOCKET_INVALID;
    if (psi_hs_asks(h)) verdict = h->question->public_form.verdict;
    if (!psi_hs_answered(h, PSOCKET_WANT_DECISION)) return PSOCKET_INVALID;
    if (code && code != verdict.code) {
        psi_err_code(&verdict, code);
        verdict.tls_alert = code == PSOCKET_TLS_HANDSHAKE ? PSI_ALERT_HANDSHAKE_FAILURE : psi_x509_alert(code);
        verdict.cert_index = 0;
    }
    if (code) psi_auth_refuse(h, &verdict);
    else psi_hs_run(h);
    return 0;
}

/* The signature that was asked for; n 0: there will be none. */
static PSI_UNUSED int psi_hs_signed(psi_hs *h, const void *p, size_t n)
{
    if (!psi_hs_answered(h, PSOCKET_WANT_SIGNATURE)) return PSOCKET_INVALID;
    h->signature = psi_read_of(p, n);
    if (!n) psi_hs_fail(h, PSOCKET_TLS_KEY, PSI_ALERT_INTERNAL_ERROR, "the application did not sign");
    else psi_hs_run(h);
    return 0;
}

/* Once the status is 0: hands over the record layer and the facts, which must outlive it. The caller owns both, and frees h. */
static PSI_UNUSED void psi_hs_finish(psi_hs *h, psi_rec **rec, psi_tlsinfo **info)
{
    h->rec->from = h->now;
    h->role->finish(h);
    *rec = h->rec;
    *info = h->info;
    h->rec->info = h->info;
    h->rec->open = 1;
    h->rec->quiet = 0;
    h->rec->skip = 0;
    h->rec = NULL;
    h->info = NULL;
}

/* --- after the handshake -------------------------------------------------- */

/* NewSessionTicket of TLS 1.3: 0, or an alert. Without memory, which is spared the stack, it is not kept. */
static PSI_APART int psi_late_ticket(psi_rec *r, psi_reader m)
{
    psi_session *s;
    uint32_t lifetime = psi_read_number(&m, 4), age_add = psi_read_number(&m, 4);
    psi_reader nonce = psi_read_vector(&m, 1, 0, 255), ticket = psi_read_vector(&m, 2, 1, 65535);
    psi_reader extensions = psi_read_list(&m, &psi_ext_list);
    if (!psi_x509_end(m)) return PSI_ALERT_DECODE_ERROR;
    if (psi_ext_twice(extensions)) return PSI_ALERT_ILLEGAL_PARAMETER;
    s = r->tls && lifetime ? (psi_session *)psi_alloc(sizeof *s) : NULL;
    if (!s) return 0;
    psi_tlsinfo_read(r->info, s);
    psi_hs13_psk(r, nonce, s->secret);
    s->size = sizeof *s;
    s->flags |= PSI_SESSION_TICKET;
    s->ticket = ticket;
    s->age_add = age_add;
    if (s->name.n) psi_session_keep(r->tls, s, r->from, lifetime);
    psi_session_free(s);
    return 0;
}

/* KeyUpdate, RFC 8446 4.6.3: 0, or an alert. Ours goes ahead of the next data. */
static int psi_late_update(psi_rec *r, psi_reader m, int last)
{
    unsigned request = psi_read_number(&m, 1);
    if (!psi_x509_end(m)) return PSI_ALERT_DECODE_ERROR;
    if (request > 1) return PSI_ALERT_ILLEGAL_PARAMETER;
    if (!last) return PSI_ALERT_UNEXPECTED_MESSAGE;
    psi_key_update(&r->in);
    if (request) r->update = 1;
    return 0;
}

/* The longest message of a kind after the handshake, -1: there is none. In TLS 1.2 it is a wish to renegotiate. */
static int64_t psi_late_limit(const psi_rec *r, int message)
{
    int wish = r->server ? PSI_MSG_CLIENT_HELLO : PSI_MSG_HELLO_REQUEST;
    if (!PSI_IS13(r)) return message != wish ? -1 : r->server ? PSI_HELLO_MAX : 0;
    if (message == PSI_MSG_NEW_SESSION_TICKET && !r->server) return 2 * PSI_HELLO_MAX;
    return message == PSI_MSG_KEY_UPDATE ? 1 : -1;
}

/* A record of handshake messages: handles those that are whole. 0, or an alert. */
static int psi_late_messages(psi_rec *r, psi_rec_in *in)
{
    uint32_t at = 0;
    uint8_t *count;
    int alert = 0;
    psi_write(&r->part, in->data, in->len);
    if (r->part.failed) return PSI_ALERT_INTERNAL_ERROR;
    while (r->part.n - at >= 4 && !alert) {
        const uint8_t *p = r->part.p + at;
        uint32_t size = psi_msg_size(p);
        psi_reader m = psi_read_of(p + 4, size - 4);
        int64_t limit = psi_late_limit(r, p[0]);
        if (limit < 0) return PSI_ALERT_UNEXPECTED_MESSAGE;
        if (size - 4 > limit) return PSI_ALERT_DECODE_ERROR;
        if (r->part.n - at < size) break;
        at += size;
        if (!PSI_IS13(r)) {
            in->alert_level = PSI_REC_WARNING; /* RFC 5246 7.4.1.1: declined */
            in->alert = PSI_ALERT_NO_RENEGOTIATION;
        } else {
            alert = *p == PSI_MSG_KEY_UPDATE ? psi_late_update(r, m, r->part.n == at) : psi_late_ticket(r, m);
        }
        count = *p == PSI_MSG_NEW_SESSION_TICKET ? &r->tickets : &r->quiet;
        if (!alert && ++*count > PSI_REC_QUIET) alert = PSI_ALERT_UNEXPECTED_MESSAGE;
    }
    psi_write_drop(&r->part, at);
    return alert;
}

/* Looks at n received bytes at p and decrypts the first record in place: PSI_REC_MORE, PSI_REC_DATA, PSI_REC_SKIP (perhaps
   with an alert to send), PSI_REC_END, or an error, for psi_rec_explain. */
static PSI_UNUSED int psi_hs_open(psi_rec *r, uint8_t *p, size_t n, psi_rec_in *in)
{
    int kind = psi_rec_open(r, p, n, in), alert = 0;
    const char *why = "the peer sent a record out of order";
    if (kind != PSI_REC_WHOLE) return kind;
    kind = PSI_REC_SKIP;
    if (in->type == PSI_REC_ALERT) {
        alert = psi_rec_alert_fault(r, in);
        why = "the peer sent a malformed alert";
        if (!alert && in->data[1] == PSI_ALERT_CLOSE_NOTIFY) kind = PSI_REC_END;
        else if (!alert && in->data[0] == PSI_REC_FATAL) kind = PSOCKET_TLS_ALERT;
        if (kind < 0) in->alert = in->data[1];
    } else if (in->type == PSI_REC_HANDSHAKE) {
        alert = psi_late_messages(r, in);
        why = "the peer sent a handshake message that is malformed or out of order";
    } else if (in->type == PSI_REC_CCS || r->part.n) {
        alert = PSI_ALERT_UNEXPECTED_MESSAGE;
    } else if (in->len) {
        return PSI_REC_DATA;
    }
    if (alert) kind = psi_rec_refuse(in, alert, why);
    in->len = 0;
    return kind;
}

/* Bytes that n bytes of data take as records, with what has to go ahead of them, which is made now. */
static PSI_UNUSED size_t psi_hs_room(psi_rec *r, int type, size_t n)
{
    size_t room = psi_rec_room(r, n);
    if (type != PSI_REC_APPDATA || !PSI_IS13(r)) return room;
    if (r->ahead) {
        r->ahead(r, &r->first);
        r->ahead = NULL;
        psocket_tls_free(r->tls);
        r->tls = NULL;
        if (r->first.failed) psi_write_free(&r->first);
    }
    if (r->out.seq >= PSI_REC_KEY_LIFE) r->update = 1;
    return room + (r->first.n ? psi_rec_room(r, r->first.n) : 0) + (r->update ? psi_rec_room(r, 5) : 0);
}

/* Writes n bytes as records to `to`, which has the room that psi_hs_room told. Returns how many were needed. */
static PSI_UNUSED size_t psi_hs_put(psi_rec *r, int type, const void *data, size_t n, uint8_t *to)
{
    static const uint8_t update[5] = {PSI_MSG_KEY_UPDATE, 0, 0, 1, 0}; /* update_not_requested */
    size_t used = 0;
    if (type == PSI_REC_APPDATA && r->first.n) {
        used = psi_rec_seal(r, PSI_REC_HANDSHAKE, r->first.p, r->first.n, to);
        psi_write_free(&r->first);
    }
    if (type == PSI_REC_APPDATA && r->update) {
        used += psi_rec_seal(r, PSI_REC_HANDSHAKE, update, sizeof update, to + used);
        psi_key_update(&r->out);
        r->update = 0;
    }
    return used + psi_rec_seal(r, type, data, n, to + used);
}

/*==================================================================================================
 * >>tls
 * Settings (psocket_tls): made once, shared by any number of sockets and threads, immutable but for what their lock
 * guards. Every handshake holds a reference, and so does every connection that tickets may still come or go on.
 *================================================================================================*/

#define PSI_TLS_IDENTITIES 1024

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
        psi_x509_chain_free(&tls->identities[i].chain);
        psi_x509_key_free(&tls->identities[i].key);
    }
    psi_sessions_free(&tls->client_sessions);
    psi_sessions_free(&tls->server_sessions);
    psi_x509_chain_free(&tls->anchors);
    psi_free(tls->identities);
    psi_write_free(&tls->alpn);
    psi_write_free(&tls->pins);
    psi_write_free(&tls->ticket_given);
    psi_write_free(&tls->ticket_keys);
    psi_os_mutex_free(&tls->lock);
    psi_wipe(tls, sizeof *tls);
    psi_free(tls);
}

/* --- making them ---------------------------------------------------------- */

/* Is a list of so many elements longer than may be, or none at all? */
static int psi_tls_odd(const void *list, size_t n, size_t most)
{
    return n > most || (n && !list);
}

/* Fills l with those of a kind that an option names, in its order; NULL: with all. 0 or PSOCKET_INVALID. */
static int psi_tls_pick(psi_list *l, int what, const char *option, const char *text, psocket_error *e)
{
    size_t i, n;
    for (i = 0; !text && i < 2 * PSI_NAMES; i++) { /* without the CPU's help AES is slower than ChaCha20 */
        const psi_named *one = &psi_names[i % PSI_NAMES];
        int first = one->aead == PSI_CHACHA && !psi_prim.fast_aes;
        if (one->what == what && first == (i < PSI_NAMES)) l->items[l->count++] = one;
    }
    for (; text; text = text[n] ? text + n + 1 : NULL) {
        n = strcspn(text, ":");
        for (i = 0; i < PSI_NAMES; i++) {
            const psi_named *one = &psi_names[i];
            if (one->what == what && strlen(one->name) == n && !memcmp(one->name, text, n)) break;
        }
        if (i == PSI_NAMES)
            return psi_err(e, PSOCKET_INVALID, "%s: \"%.*s\" is not known to this library", option,
                           n < 100 ? (int)n : 100, text);
        if (!psi_list_find(l, psi_names[i].number)) l->items[l->count++] = &psi_names[i];
    }
    return 0;
}

/* The versions that are asked for, that this build has, and for which there is a cipher suite;
   the other suites go. */
static int psi_tls_versions(psocket_tls *tls, const psocket_tls_options *t, psocket_error *e)
{
    int low = t->min_version ? t->min_version : PSI_TLS12;
    int high = t->max_version ? t->max_version : PSI_TLS13, found = 0;
    size_t i, n = 0;
    if (low < PSI_TLS12)
        return psi_err(e, PSOCKET_UNSUPPORTED, "min_version: versions before TLS 1.2 are never spoken");
    if (low > PSI_TLS13 || (high != PSI_TLS12 && high != PSI_TLS13))
        return psi_err(e, PSOCKET_UNSUPPORTED, "min_version and max_version: 0x0303 is TLS 1.2, "
                       "0x0304 is TLS 1.3, the newest version of this library");
    if (low > high) return psi_err(e, PSOCKET_INVALID, "min_version is above max_version");
    tls->min_version = (uint16_t)low;
    tls->max_version = (uint16_t)high;
    for (i = 0; i < tls->suites.count; i++) {
        const psi_suite *s = tls->suites.items[i];
        if (!PSI_HAS(s->version) || !psi_tls_speaks(tls, s->version)) continue;
        tls->suites.items[n++] = s;
        found |= s->version == PSI_TLS13 ? 2 : 1;
    }
    tls->suites.count = n;
    tls->min_version = found & 1 ? PSI_TLS12 : PSI_TLS13;
    tls->max_version = found & 2 ? PSI_TLS13 : PSI_TLS12;
    return n ? 0 : psi_err(e, PSOCKET_INVALID, "min_version, max_version, suites and this build leave "
                           "no TLS version to speak");
}

/* Copies what options list, protocol names as they stand in a hello. */
static int psi_tls_copy_lists(psocket_tls *tls, const psocket_tls_options *t, psocket_error *e)
{
    size_t i;
    psi_write(&tls->pins, t->spki_pins, t->spki_pin_count * 32);
    psi_write(&tls->ticket_given, t->ticket_keys, t->ticket_key_count * PSI_TICKET_KEY);
    for (i = 0; i < t->alpn_count; i++) {
        size_t n = t->alpn && t->alpn[i] ? strlen(t->alpn[i]) : 0;
        if (n < 1 || n > 255 || tls->alpn.n + n + 1 > 4096)
            return psi_err(e, PSOCKET_INVALID,
                           "ALPN protocol %lu: a name has 1 to 255 bytes, all together at most 4096", (unsigned long)i);
        psi_write_vector(&tls->alpn, t->alpn[i], n, 1);
    }
    if (!tls->pins.failed && !tls->ticket_given.failed && !tls->alpn.failed) return 0;
    return psi_err_code(e, PSOCKET_NOMEM);
}

/* One text of an identity: given, or in a file, whose copy *file then is. */
static int psi_tls_text(const void *text, size_t len, const char *path, const char *what, psi_reader *out, char **file,
                        psocket_error *e)
{
    size_t n = 0;
    int r, os = 0;
    *file = NULL;
    *out = psi_none;
    if (text) *out = psi_read_of(text, len ? len : strlen((const char *)text));
    if (text) return 0;
    if (!path) return psi_err(e, PSOCKET_INVALID, "%s is missing", what);
    r = psi_os_readfile(path, file, &n, &os);
    *out = psi_read_of(*file, n);
    return r ? psi_err_os(e, r, os, "cannot read %s in %s", what, path) : 0;
}

/* Loads the chain and the private key, and compares them. */
static int psi_tls_load_identity(psi_tls_identity *to, const psocket_identity *from, psocket_error *e)
{
    const psi_x509_cert *leaf;
    psi_reader text;
    char *file;
    size_t n = 1;
    int code = psi_tls_text(from->chain, from->chain_len, from->cert_file, "the certificate", &text, &file, e);
    if (!code) code = psi_x509_load(&to->chain, PSI_X509_CHAIN, text.p, text.n, "the certificate chain", e);
    psi_free(file);
    if (code) return code;
    leaf = to->chain.certs;
    to->ask = from->ask;
    to->endpoint_len = psi_auth_endpoint(leaf, to->endpoint);
    if (from->ask || !leaf->key.key_type) return psi_x509_usable(leaf, e);
    code = psi_tls_text(from->key, from->key_len, from->key_file, "the private key", &text, &file, e);
    if (!code) code = psi_x509_key_load(&to->key, text.p, text.n, e);
    if (file) psi_wipe(file, text.n);
    psi_free(file);
    if (code || psi_x509_key_matches(&to->key, leaf)) return code;
    while (n < to->chain.count && !psi_x509_key_matches(&to->key, &to->chain.certs[n])) n++;
    return psi_err(e, PSOCKET_TLS_KEY_MISMATCH, "%s%s", psocket_strerror(PSOCKET_TLS_KEY_MISMATCH),
                   n < to->chain.count ? ", which must come first in its chain" : "");
}

static PSI_APART int psi_tls_copy_identities(psocket_tls *tls, const psocket_tls_options *t, psocket_error *e)
{
    psocket_error why = PSI_ZERO;
    size_t i;
    if (!t->identity_count) return 0;
    if (psi_tls_odd(t->identities, t->identity_count, PSI_TLS_IDENTITIES))
        return psi_err(e, PSOCKET_INVALID, "identities: at most %d, and not NULL", PSI_TLS_IDENTITIES);
    tls->identities = (psi_tls_identity *)psi_alloc(t->identity_count * sizeof *tls->identities);
    if (!tls->identities) return psi_err_code(e, PSOCKET_NOMEM);
    for (i = 0; i < t->identity_count; i++) {
        int code;
        tls->identity_count = i + 1;
        code = psi_tls_load_identity(&tls->identities[i], &t->identities[i], &why);
        if (!code) continue;
        psi_err(e, code, "identity %lu: %s", (unsigned long)i, why.text);
        if (e) e->cert_index = why.cert_index;
        return code;
    }
    return 0;
}

/* What is wrong with the options by themselves. */
static int psi_tls_check(const psocket_tls_options *t, psocket_error *e)
{
    if (t->client_auth < PSOCKET_CLIENT_AUTH_NONE || t->client_auth > PSOCKET_CLIENT_AUTH_REQUIRED)
        return psi_err(e, PSOCKET_INVALID, "client_auth is not one of PSOCKET_CLIENT_AUTH_*");
    if (psi_tls_odd(t->spki_pins, t->spki_pin_count, 4096))
        return psi_err(e, PSOCKET_INVALID, "spki_pins: at most 4096, and not NULL");
    if (t->spki_pin_count && t->insecure_no_verify)
        return psi_err(e, PSOCKET_INVALID, "spki_pins and insecure_no_verify contradict each other");
    if (t->max_fragment && (t->max_fragment < 64 || t->max_fragment > PSI_REC_PLAIN))
        return psi_err(e, PSOCKET_INVALID, "max_fragment is 64 to 16384, or 0");
    if (psi_tls_odd(t->ticket_keys, t->ticket_key_count, PSI_TICKET_KEYS))
        return psi_err(e, PSOCKET_INVALID, "ticket_keys: at most %d, and not NULL", PSI_TICKET_KEYS);
    if (t->tickets < -1 || t->tickets > 16 || t->session_cache < -1 || t->session_cache > 1000000)
        return psi_err(e, PSOCKET_INVALID, "tickets is -1 to 16, session_cache -1 to 1000000");
    return 0;
}

/* Servers that ask for certificates need something to verify them with. */
static PSI_APART int psi_tls_can_verify(const psocket_tls *tls, psocket_error *e)
{
    const psi_x509_chain *anchors = &tls->anchors;
    psocket_error why = PSI_ZERO;
    int code = psi_x509_trust(&anchors, &why);
    if (!code || (code != PSOCKET_NOMEM && (tls->decide || tls->insecure_no_verify))) return 0;
    return psi_err(e, code, "client certificates cannot be verified: %s", why.text);
}

/* The checks and copies of psocket_tls_new. What is allocated hangs on tls. */
static int psi_tls_fill(psocket_tls *tls, const psocket_tls_options *t, psocket_error *e)
{
    int code = psi_tls_check(t, e);
    size_t cache = t->session_cache < 0 ? 0 : (size_t)t->session_cache;
    tls->client_auth = t->client_auth;
    tls->insecure_no_verify = t->insecure_no_verify;
    tls->insecure_no_name = t->insecure_no_name;
    tls->decide = t->decide;
    tls->clock = t->clock;
    tls->clock_user = t->clock_user;
    tls->max_fragment = (uint16_t)t->max_fragment;
    tls->tickets = t->tickets < 0 ? 0 : t->tickets ? t->tickets : 2;
    tls->client_sessions.max = t->session_cache ? cache : PSI_SESSION_CLIENT;
    tls->server_sessions.max = t->session_cache ? cache : PSI_SESSION_SERVER;
    if (!code) code = psi_tls_pick(&tls->suites, PSI_SUITE, "suites", t->suites, e);
    if (!code) code = psi_tls_pick(&tls->groups, PSI_GROUP, "groups", t->groups, e);
    if (!code) code = psi_tls_pick(&tls->schemes, PSI_SCHEME, "sigalgs", t->sigalgs, e);
    if (!code) code = psi_tls_versions(tls, t, e);
    if (!code) code = psi_tls_copy_lists(tls, t, e);
    if (!code) code = psi_tls_copy_identities(tls, t, e);
    if (!code) code = psi_x509_load_anchors(&tls->anchors, t, e);
    return code || tls->client_auth == PSOCKET_CLIENT_AUTH_NONE ? code : psi_tls_can_verify(tls, e);
}

static psi_os_mutex psi_tls_default_lock = PSI_OS_MUTEX_INIT;

PSOCKET_API int psocket_tls_new(psocket_tls **out, const psocket_tls_options *topt)
{
    psocket_tls_options zero = PSI_ZERO;
    const psocket_tls_options *t = topt ? topt : &zero;
    psocket_tls *tls;
    int code;
    if (!out) return psi_err_code(t->error, PSOCKET_INVALID);
    *out = NULL;
    code = psi_rec_prepare();
    if (code) return psi_err_code(t->error, code);
    tls = (psocket_tls *)psi_alloc(sizeof *tls);
    if (!tls) return psi_err_code(t->error, PSOCKET_NOMEM);
    tls->refs = 1;
    psi_os_mutex_init(&tls->lock);
    code = psi_tls_fill(tls, t, t->error);
    if (code) psocket_tls_free(tls);
    else *out = tls;
    return code;
}

/* The process's default client settings, made at first use: all of this section that outlives a socket. */
static psocket_tls *psi_tls_default_settings;

/* The settings that a caller means, NULL the default ones: *tls becomes a reference. */
static int psi_tls_meant(psocket_tls **tls, psocket_error *e)
{
    psocket_tls_options t = PSI_ZERO;
    int code = 0;
    t.error = e;
    psi_os_lock(&psi_tls_default_lock);
    if (!*tls && !psi_tls_default_settings) code = psocket_tls_new(&psi_tls_default_settings, &t);
    *tls = psocket_tls_retain(*tls ? *tls : psi_tls_default_settings);
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

/* --- what can be asked of them -------------------------------------------- */

PSOCKET_API int psocket_tls_verify(psocket_tls *tls, const void *chain, size_t len, const char *name, psocket_error *e)
{
    psocket_error verdict = PSI_ZERO;
    psi_x509_chain certs = PSI_ZERO;
    char host[256];
    int64_t until = 0;
    int code;
    if (!chain) return psi_err_code(e, PSOCKET_INVALID);
    code = psi_tls_meant(&tls, e);
    if (code) return code;
    verdict.tls_alert = verdict.cert_index = -1;
    if (name && !psi_tls_name(name, host)) {
        code = psi_err(&verdict, PSOCKET_INVALID, "not a host name or IP address: %.200s", name);
    } else if (!name && !tls->insecure_no_name && !tls->insecure_no_verify) {
        code = psi_err(&verdict, PSOCKET_INVALID, "a certificate can be verified only for a name");
    } else {
        code = psi_x509_load(&certs, PSI_X509_CHAIN, chain, len ? len : strlen((const char *)chain),
                             "the certificate chain", &verdict);
        if (!code) code = psi_auth_judge(tls, &certs, name ? host : NULL, 0, psi_tls_now(tls), &until, &verdict);
    }
    psi_x509_chain_free(&certs);
    psocket_tls_free(tls);
    if (!code) memset(&verdict, 0, sizeof verdict);
    if (e) *e = verdict;
    return code;
}

/* Format, policy; each session with its length in front; then the SHA-256 of all that, against damage. */
static const uint8_t psi_tls_format[8] = {'p', 's', 'o', 'c', 'k', 'e', 't', 4};

#define PSI_TLS_SAVED_HEAD (sizeof psi_tls_format + 32)

PSOCKET_API ptrdiff_t psocket_tls_savesessions(psocket_tls *tls, void *buf, size_t size)
{
    uint8_t policy[32];
    psi_writer w = PSI_ZERO;
    ptrdiff_t need;
    size_t i;
    int code;
    if (!buf && size) return PSOCKET_INVALID;
    code = psi_tls_meant(&tls, NULL);
    if (code) return code;
    code = psi_session_policy(tls, policy);
    psi_write(&w, psi_tls_format, sizeof psi_tls_format);
    psi_write(&w, policy, sizeof policy);
    psi_os_lock(&tls->lock);
    for (i = 0; tls->client_sessions.slots && i < tls->client_sessions.max; i++) {
        psi_session_slot *slot = &tls->client_sessions.slots[i];
        if (slot->flat) psi_write_vector(&w, slot->flat + 32, slot->len - 32, 4);
    }
    psi_os_unlock(&tls->lock);
    psi_keys_digest(br_sha256_ID, psi_read_of(w.p, w.n), psi_none, policy);
    psi_write(&w, policy, 32);
    if (!code && w.failed) code = PSOCKET_NOMEM;
    need = code ? code : (ptrdiff_t)w.n;
    if (!code && size >= w.n) memcpy(buf, w.p, w.n);
    psi_write_free(&w);
    psocket_tls_free(tls);
    return need;
}

/* Reads all sessions twice: first to see that they are sound, then to add them, but not old ones, nor one of a
   server whose newer one we have. Of TLS 1.3 a server may have several, each to be used once. */
static int psi_tls_load(psocket_tls *tls, psi_reader all)
{
    psi_session s = PSI_ZERO;
    int64_t now = psi_tls_now(tls);
    uint8_t key[32];
    int adding, has, code = 0;
    for (adding = 0; adding < 2 && !code; adding++) {
        psi_reader r = all;
        while (r.n && !code) {
            psi_reader one = psi_read_vector(&r, 4, 1, 0x100000);
            if (!r.p || !psi_session_read(one, &s) || !psi_session_usable(&s)) code = PSOCKET_INVALID;
            if (code || !adding || now < s.from || now >= s.until) continue;
            psi_session_key(s.name, s.port, key);
            psi_os_lock(&tls->lock);
            has = s.suite->version == PSI_TLS12 && psi_sessions_find(&tls->client_sessions, key, NULL, 0);
            psi_os_unlock(&tls->lock);
            if (!has) code = psi_sessions_add(tls, &tls->client_sessions, key, &s);
        }
    }
    psi_wipe(&s, sizeof s);
    return code;
}

PSOCKET_API int psocket_tls_loadsessions(psocket_tls *tls, const void *data, size_t len)
{
    const uint8_t *p = (const uint8_t *)data;
    uint8_t digest[32];
    int code;
    if (!p || len < PSI_TLS_SAVED_HEAD + 32 || memcmp(p, psi_tls_format, 8)) return PSOCKET_INVALID;
    psi_keys_digest(br_sha256_ID, psi_read_of(p, len - 32), psi_none, digest);
    if (memcmp(p + len - 32, digest, 32)) return PSOCKET_INVALID;
    code = psi_tls_meant(&tls, NULL);
    if (code) return code;
    code = psi_session_policy(tls, digest);
    if (!code && memcmp(p + sizeof psi_tls_format, digest, 32)) code = PSOCKET_INVALID;
    if (!code) code = psi_tls_load(tls, psi_read_of(p + PSI_TLS_SAVED_HEAD, len - PSI_TLS_SAVED_HEAD - 32));
    psocket_tls_free(tls);
    return code;
}

/* Is this a label to export by? RFC 5705 4: those of the PRF itself are not. */
static int psi_tls_exports(const char *label)
{
    static const char *const taken[] = {"client finished", "server finished", "master secret", "key expansion",
                                        "extended master secret"};
    size_t i;
    for (i = 0; i < sizeof taken / sizeof taken[0]; i++)
        if (!strcmp(label, taken[i])) return 0;
    return strlen(label) <= 249;
}

/* The channel binding tls-server-end-point (RFC 5929 4). */
static ptrdiff_t psi_tls_endpoint(const psi_rec *r, void *out, size_t n)
{
    psi_session s;
    psi_tlsinfo_read(r->info, &s);
    if (!s.endpoint.n && s.flags & PSI_SESSION_PEER && !r->server) s.endpoint = psi_read_of(s.sha256, 32);
    if (!s.endpoint.n || n < s.endpoint.n) return PSOCKET_INVALID;
    memcpy(out, s.endpoint.p, s.endpoint.n);
    return (ptrdiff_t)s.endpoint.n;
}

/* psocket_tls_export of a connection. */
static PSI_UNUSED ptrdiff_t psi_tls_export(const psi_rec *r, const char *label, const void *context,
                                           size_t context_len, void *out, size_t n)
{
    int hash = r->out.suite->hash;
    uint8_t digest[PSI_HASH_MAX], secret[PSI_HASH_MAX];
    psi_secret k;
    psi_writer w = PSI_ZERO;
    if (!strcmp(label, "tls-server-end-point")) return psi_tls_endpoint(r, out, n);
    if (!r->exports || !strcmp(label, "tls-unique")) return PSOCKET_UNSUPPORTED; /* TLS 1.3 has none of that name */
    if (!psi_tls_exports(label) || context_len > (context ? 65535u : 0u)) return PSOCKET_INVALID;
    if (!strcmp(label, "tls-exporter")) { /* RFC 9266 */
        if (n < 32) return PSOCKET_INVALID;
        label = "EXPORTER-Channel-Binding";
        context = "";
        context_len = 0;
        n = 32;
    }
    if (r->version == PSI_TLS13) {
        if (n > 255 * psi_x509_hash_len(hash)) return PSOCKET_INVALID;
        psi_keys_ready(&k, hash, r->secret, r->out.suite->len);
        psi_keys_derive(&k, hash, label, NULL, secret);
        psi_keys_ready(&k, hash, secret, r->out.suite->len);
        psi_keys_digest(hash, psi_read_of(context, context_len), psi_none, digest);
        psi_keys_expand(&k, "exporter", psi_read_of(digest, r->out.suite->len), (uint8_t *)out, n);
        psi_wipe(secret, sizeof secret);
        psi_wipe(&k, sizeof k);
        return (ptrdiff_t)n;
    }
    psi_write(&w, r->seed, 64);
    if (context) psi_write_vector(&w, context, context_len, 2);
    if (w.failed) return PSOCKET_NOMEM;
    psi_keys_ready(&k, hash, r->secret, 48);
    psi_keys_prf(&k, label, psi_read_of(w.p, w.n), (uint8_t *)out, n);
    psi_wipe(&k, sizeof k);
    psi_write_free(&w);
    return (ptrdiff_t)n;
}

#define PSI_TLS 1

#endif /* PSOCKET_NO_TLS */

#ifdef PSOCKET_NO_TLS
/*--- in place of the sections above: only psi_tls_meant and the settings are ever reached, and refuse */

#define PSI_TLS 0 /* what asks for it first is left out by the compiler */
#define PSI_CLIENT ((const psi_role *)NULL)
#define PSI_SERVER ((const psi_role *)NULL)
enum { PSI_REC_ALERT = 21, PSI_REC_APPDATA = 23, PSI_REC_WARNING = 1, PSI_ALERT_CLOSE_NOTIFY = 0 };
enum { PSI_REC_MORE, PSI_REC_DATA, PSI_REC_SKIP, PSI_REC_END };
typedef struct psi_rec_in { uint8_t *data; size_t len, used; int alert_level, alert; } psi_rec_in;
typedef struct psi_rec psi_rec;
typedef struct psi_hs psi_hs;
typedef struct psi_role psi_role;
typedef struct psi_tlsinfo psi_tlsinfo;

#define psi_hs_open(r, p, n, in) \
    ((void)(r), (void)(p), (void)(n), memset(in, 0, sizeof *(in)), (int)PSOCKET_UNSUPPORTED)
#define psi_hs_new(out, role, tls, name, port, e) \
    ((void)(role), (void)(tls), (void)(name), (void)(port), *(out) = NULL, psi_err_code(e, PSOCKET_UNSUPPORTED))
#define psi_tls_meant(tls, e) ((void)(tls), psi_err_code(e, PSOCKET_UNSUPPORTED))
#define psi_rec_explain(in, code, e) ((void)(in), psi_err_code(e, code))
#define psi_hs_room(r, type, n) ((void)(r), (void)(type), n)
#define psi_hs_put(r, type, p, n, to) ((void)(r), (void)(type), (void)(p), (void)(n), (void)(to), 0)
#define psi_rec_free(r) ((void)(r))
#define psi_rec_relax(r) ((void)(r))
#define psi_hs_free(h) ((void)(h))
#define psi_hs_feed(h, p, n) ((void)(h), (void)(p), (void)(n), 0)
#define psi_hs_output(h, p) ((void)(h), *(p) = NULL, (size_t)0)
#define psi_hs_sent(h, n) ((void)(h), (void)(n))
#define psi_hs_status(h, e) ((void)(h), psi_err_code(e, PSOCKET_UNSUPPORTED))
#define psi_hs_asks(h) ((void)(h), (const psocket_question *)NULL)
#define psi_hs_decide(h, code) ((void)(h), (void)(code), psi_err_code(NULL, PSOCKET_INVALID))
#define psi_hs_signed(h, p, n) ((void)(h), (void)(p), (void)(n), psi_err_code(NULL, PSOCKET_INVALID))
#define psi_hs_finish(h, rec, info) ((void)(h), *(rec) = NULL, *(info) = NULL)
#define psi_tlsinfo_get(i, out) ((void)(i), (void)(out))
#define psi_tls_export(r, label, context, len, out, n) \
    ((void)(r), (void)(label), (void)(context), (void)(len), (void)(out), (void)(n), PSOCKET_UNSUPPORTED)

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
 * What a poller is made of: a watch for each socket, foreign descriptor and timer in it, a heap of all
 * watches by the time when they want to be looked at, and the hot ring of those to be looked at. It knows
 * nothing of sockets, so that one can take its descriptors out before it closes them; >>poll does the
 * looking. A socket's watch is part of it, those of foreign descriptors and timers are the application's.
 * Sockets call what is here through the poller, so that a program that makes no poller links none.
 *================================================================================================*/

#define PSI_EVENTS 64 /* most events a poller hands out at once */

/* A place in the hot ring; next is NULL outside of it. */
typedef struct psi_link {
    struct psi_link *next, *prev;
} psi_link;

/* Puts it last into a ring. */
static void psi_link_in(psi_link *ring, psi_link *link)
{
    link->prev = ring->prev;
    link->next = ring;
    ring->prev->next = link;
    ring->prev = link;
}

/* Takes it out, if it is in one. */
static void psi_link_out(psi_link *link)
{
    if (!link->next) return;
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->next = NULL;
}

struct psocket_watch {
    psi_link link;           /* first, so that a link is its watch */
    psocket_poller *poller;  /* NULL: in none */
    void *user;
    psi_os_watch one;        /* the first descriptor; fd -1: none */
    psi_os_watch *more;      /* the others, for a socket that needs several; else NULL */
    int64_t due, wake;       /* when the user's time is over, and when to look again; INT64_MAX: never */
    int heap;                /* index in the heap */
    unsigned turn;           /* the poller's turn that `did` is of */
    short given;             /* 1 + index in the array handed out last; 0 none */
    uint8_t did;             /* PSI_DID_*: what the socket did in that turn */
    uint8_t events;          /* what the user wants */
    uint8_t fired;           /* what the system has said, until the next look */
    uint8_t is_sock;         /* it is part of a psocket */
};

#define PSI_DID_SEND 1
#define PSI_DID_DRAIN 2 /* a read took all there was, */
#define PSI_DID_FILL 4  /* a send filled the transport: neither need be tried again in this turn */

struct psocket_poller {
    psi_os_poller os;
    psi_link hot, end;       /* end: of what is looked at now */
    psocket_watch **heap;    /* all watches, the one with the earliest time first */
    int count, cap;          /* of the heap */
    int given_count;
    unsigned turn;           /* counts waits, from 1 */
    uint32_t spare_cap;
    uint8_t *spare;          /* a buffer for the socket that reads next */
    uint8_t nested;          /* a foreign loop watches the poller's own descriptor, and none waits in it */
    uint8_t announced;       /* that descriptor is readable, since there is something hot */
    void (*unwatch)(psocket_watch *w); /* what a socket in it calls: psi_watch_unwatch, */
    void (*leave)(psocket_watch *w);   /* psi_watch_leave, */
    void (*tell)(psocket_watch *w);    /* psi_poll_tell */
    psocket_watch *given[PSI_EVENTS]; /* whose events were handed out last; NULL: taken out meanwhile */
    psocket_event events[PSI_EVENTS];
};

/* There is something to look at of which the system does not know: tells a foreign loop. */
static void psi_watch_announce(psocket_poller *p)
{
    if (!p->nested || p->announced) return;
    p->announced = 1;
    psi_os_poller_busy(&p->os, 1);
}

/* Has the poller look at w in its next wait. */
static void psi_watch_heat(psocket_watch *w)
{
    if (w->link.next) return;
    psi_link_in(&w->poller->hot, &w->link);
    psi_watch_announce(w->poller);
}

/* Has the socket of w done this in its poller's turn? */
static int psi_watch_did(const psocket_watch *w, int what)
{
    return w->poller && w->turn == w->poller->turn && (w->did & what);
}

static void psi_watch_note(psocket_watch *w, int what)
{
    if (!w->poller) return;
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
        if (child + 1 < p->count && psi_watch_key(p->heap[child + 1]) < psi_watch_key(p->heap[child]))
            child++;
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

/* Has the system watch this descriptor, NULL: none, in one of the places of w. First what was there has to go. */
static int psi_watch_put(psocket_watch *w, psi_os_watch *at, const psocket_pollfd *want, int first)
{
    psocket_fd fd = want ? want->fd : -1;
    int os;
    if (first) {
        if (at->events && at->fd != fd) psi_os_poller_ctl(&w->poller->os, at, 0, &os);
        return 0;
    }
    at->fd = fd;
    at->owner = w;
    if (fd == -1 || at->events == want->events) return 0;
    return psi_os_poller_ctl(&w->poller->os, at, want->events, &os);
}

/* Has the system watch exactly these n descriptors for w. They may change places, so that none is added before
   all others are gone. */
static int psi_watch_set(psocket_watch *w, const psocket_pollfd *fds, int n)
{
    int i, first, e, r = 0, more = PSOCKET_POLLSET_MAX - 1;
    if (n > 1 && !w->more && !(w->more = (psi_os_watch *)psi_alloc((size_t)more * sizeof *w->more)))
        return PSOCKET_NOMEM;
    for (first = 1; first >= 0; first--) {
        for (i = 0; i <= (w->more ? more : 0); i++) {
            e = psi_watch_put(w, i ? &w->more[i - 1] : &w->one, i < n ? &fds[i] : NULL, first);
            if (!r) r = e;
        }
    }
    if (n > 1) return r;
    psi_free(w->more);
    w->more = NULL;
    return r;
}

/* Takes all of its descriptors out of the system's set, before one of them is closed. */
static void psi_watch_unwatch(psocket_watch *w)
{
    psi_watch_set(w, NULL, 0);
    psi_watch_heat(w);
}

/*--- joining and leaving */

/* 0, or PSOCKET_NOMEM. */
static int psi_watch_join(psocket_poller *p, psocket_watch *w)
{
    if (p->count == p->cap) {
        int cap = p->cap * 2 + 16;
        size_t used = (size_t)p->count * sizeof *p->heap, size = (size_t)cap * sizeof *p->heap;
        psocket_watch **heap = (psocket_watch **)psi_realloc(p->heap, used, size);
        if (!heap) return PSOCKET_NOMEM;
        p->heap = heap;
        p->cap = cap;
    }
    w->poller = p;
    w->turn = 0; /* of no turn of this one */
    w->due = w->wake = INT64_MAX;
    w->one.fd = -1;
    psi_watch_place(p, p->count++, w);
    psi_watch_heat(w);
    return 0;
}

/* Takes w out of its poller: neither the system nor the user hears more of it. */
static void psi_watch_leave(psocket_watch *w)
{
    psocket_poller *p = w->poller;
    psocket_watch *last;
    psi_watch_set(w, NULL, 0);
    last = p->heap[--p->count];
    if (last != w) psi_watch_settle(p, w->heap, last);
    psi_link_out(&w->link);
    w->poller = NULL;
    w->events = w->fired = 0;
    if (!w->given) return;
    p->given[w->given - 1] = NULL;
    p->events[w->given - 1].user = NULL;
    p->events[w->given - 1].events = 0;
    w->given = 0;
}

/*==================================================================================================
 * >>sock
 * The socket. psi_state says what it is doing, end_in and end_out how each direction of an open one fares.
 * Nothing in this section waits; the blocking calls of >>public wait between its steps. Every function leaves
 * the socket usable or ended.
 *================================================================================================*/

#define PSI_SOCK_READ_LOG 12 /* the smallest read is 4 KB, unless PSOCKET_READ_SIZE is less */
#define PSI_SOCK_HELLO 768u /* what a handshake asks for before it knows how long a record is: many may be under way */
#define PSI_SOCK_AROUND 64u /* more than what a TLS record has around its payload */
#define PSI_SOCK_OUT_MAX 65536u /* most plaintext encrypted for one send */
#define PSI_SOCK_OUT_MIN 512u /* and least, when memory is short */
#define PSI_SOCK_CORK 16384u /* most bytes of small records that wait for each other */
#define PSI_SOCK_SPARE (PSOCKET_READ_SIZE + 2 * PSI_RING_SLACK) /* the largest buffer that a poller keeps */

enum psi_state {
    PSI_DIALLING,    /* dial is set: its host is being looked up, or attempts are under way */
    PSI_HANDSHAKING, /* hs is set: the transport carries the TLS handshake */
    PSI_OPEN,        /* bytes or datagrams move, and each direction ends by itself */
    PSI_LISTENING,   /* listen is set: connections come */
    PSI_ENDED,       /* a failure ended both directions, the transport is gone; chunks stay readable */
    PSI_CLOSED       /* psocket_close ended them, likewise */
};

/* How the sending direction fares; the receiving one is open or ended. Negative: the code of its end. */
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
    int next, live, port;
    int64_t next_at;
    psi_hs *hs;             /* a TLS handshake that is to follow; NULL: none */
    const psi_role *role;   /* of one; NULL: there can be none */
    struct { psocket_fd fd; const psi_addr *to; } tries[PSI_DIAL_TRIES];
    psi_os_settings set;    /* for its descriptors; set.local: an address (family 0: any) and a port (0: any) to come from */
    psocket_error why;      /* each address that failed, and its reason */
} psi_dial;

/* What a listener has besides. */
typedef struct psi_listen {
    psocket_fd next;        /* a connection already accepted for psocket_hasconnection, or -1 */
    psi_addr next_peer;
    void (*end)(psocket *s); /* psi_listen_end: a program that never listens does not link it */
    long process;           /* who made it: a forked copy leaves the path alone */
    char *path;             /* of a Unix-domain socket: removed on close, */
    uint64_t inode;         /* if it is still the one that was made */
    psi_os_settings set;    /* of accepted sockets */
} psi_listen;

/* What a socket has besides once TLS has begun. */
typedef struct psi_secure {
    psi_rec *rec;        /* until the socket ends */
    psi_tlsinfo *info;   /* what was agreed on */
    uint8_t *out;        /* sealed bytes that the transport has not taken: out + at .. out + len. NULL: none, all 0 */
    uint32_t at, len, cap;
} psi_secure;

/* What is used most comes first: short offsets are short code. */
struct psocket {
    uint8_t state, family;
    uint8_t read_log;    /* the next read asks for 1 << read_log bytes */
    unsigned news : 2, side : 1, nonblocking : 1, udp : 1, listens : 1, secured : 1;
    unsigned carries : 1; /* another one, which stands in watch.user: a carrier is in no poller */
    unsigned polled : 1; /* who calls waits in the poller then: no need to ask the system twice in a turn */
    unsigned broken : 1; /* end_out came from the transport, whose error the receiving direction shares */
    short code, end_in, end_out;
    int timeout;
    const psocket_transport *io; /* NULL: none yet, or no more */
    void *user;          /* its first argument: the socket itself if fd is the transport */
    psocket_fd fd;       /* -1: none of its own */
    union {
        psi_dial *dial;     /* in PSI_DIALLING */
        psi_hs *hs;         /* in PSI_HANDSHAKING */
        psi_listen *listen; /* with `listens`, closed or not */
        psi_secure *tls;    /* with `secured`, likewise */
        const psi_role *role; /* in all others: of a TLS handshake; NULL: there can be none */
    } of;
    psi_ring ring;
    uint32_t limit;
    uint32_t need;       /* what the largest psocket_read that waits needs, if that is more than limit */
    int64_t due[2];      /* [0] receiving, connecting, handshaking, [1] sending: when the time of the operation that waits
                            is over; 0: none waits, or for ever */
    psocket_error *error; /* details of what code says; NULL: there are none */
    size_t sent;
    psi_addr peer;
    psocket_watch watch;
};

/* What there is of these, NULL if there is none. */
static psi_dial *psi_sock_dial(const psocket *s)
{
    return s->state < PSI_HANDSHAKING ? s->of.dial : NULL;
}

static psi_hs *psi_sock_hs(const psocket *s)
{
    if (!PSI_TLS || s->state > PSI_HANDSHAKING) return NULL;
    return s->state == PSI_HANDSHAKING ? s->of.hs : s->of.dial->hs;
}

static psi_secure *psi_sock_tls(const psocket *s)
{
    return PSI_TLS && s->secured ? s->of.tls : NULL;
}

static psocket *psi_sock_above(const psocket *s)
{
    return s->carries ? (psocket *)s->watch.user : NULL;
}

static psi_rec *psi_sock_rec(const psocket *s) { return psi_sock_tls(s) ? s->of.tls->rec : NULL; }
static psi_tlsinfo *psi_sock_info(const psocket *s) { return psi_sock_tls(s) ? s->of.tls->info : NULL; }

/* Are there sealed bytes that the transport has not taken? */
static int psi_sock_unsent(const psocket *s) { return psi_sock_tls(s) && s->of.tls->out; }

/* Does r say that a call has to wait for the transport? */
static int psi_is_wait(ptrdiff_t r)
{
    return r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE;
}

/* Or for anything at all? */
static int psi_is_want(ptrdiff_t r)
{
    return psi_is_wait(r) || (PSI_TLS && (r == PSOCKET_WANT_DECISION || r == PSOCKET_WANT_SIGNATURE));
}

static void psi_lower_ms(int *ms, int64_t left)
{
    if (left < 0) left = 0;
    if (*ms < 0 || left < *ms) *ms = left > INT_MAX ? INT_MAX : (int)left;
}

static void psi_until(int *ms, int64_t due) { psi_lower_ms(ms, due - psi_os_now()); }

/* Before a descriptor of s is closed: it may be watched for s or for a socket that s carries. */
static void psi_sock_unwatch(psocket *s)
{
    for (; s; s = psi_sock_above(s))
        if (s->watch.poller) s->watch.poller->unwatch(&s->watch);
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

/* Bytes have left: a send begins its time anew, also that of a carried socket; what is over is over. */
static void psi_sock_left(psocket *s)
{
    for (; s; s = psi_sock_above(s)) {
        if (!s->due[1] || psi_sock_late(s, 1)) continue;
        s->due[1] = 0;
        psi_sock_clock(s, 1);
    }
}

/*--- errors */

/* Where more is to be said of what happened to s: code. NULL if there is no memory. */
static psocket_error *psi_sock_error(psocket *s, int code)
{
    s->code = (short)code;
    if (!s->error) s->error = (psocket_error *)psi_alloc(sizeof *s->error);
    return s->error;
}

/* Notes what happened to s: a code with a sentence, */
static int psi_sock_say(psocket *s, int code, const char *why)
{
    return psi_err_alert(psi_sock_error(s, code), code, -1, "%s", why);
}

/* or with the system's number (0: none; what was said of it stays). Return code. */
static int psi_sock_note(psocket *s, int code, int os)
{
    if (s->code == code && !os) return code;
    s->code = (short)code;
    if (s->error) s->error->code = s->error->os_error = 0; /* of something else */
    if (!os || !psi_sock_error(s, code)) return code;
    psi_err_set(s->error, code, os, psocket_strerror(code));
    if (code == PSOCKET_OS) psi_err_why(s->error);
    return code;
}

static void psi_sock_note_error(psocket *s, const psocket_error *e)
{
    if (psi_sock_error(s, e->code)) *s->error = *e;
}

/*--- the transport: a descriptor */

static ptrdiff_t psi_fd_get(void *user, void *p, size_t n, int *os)
{
    return psi_os_get(((psocket *)user)->fd, p, n, NULL, os);
}

static ptrdiff_t psi_fd_put(void *user, const void *p, size_t n, int *os)
{
    return psi_os_put(((psocket *)user)->fd, p, n, NULL, os);
}

static int psi_fd_finish(void *user, int *os)
{
    return ((psocket *)user)->udp ? 0 : psi_os_shutdown(((psocket *)user)->fd, os);
}

/* Closing a descriptor with unread data makes the system send a reset, which can destroy what was sent last:
   read it away first, within reason. */
static void psi_fd_close(void *user)
{
    psocket *s = (psocket *)user;
    char sink[1024];
    int os, i;
    if (!s->udp && (!s->end_in || psi_sock_info(s)) && s->family != PSI_UNIX)
        for (i = 0; i < 64 && psi_os_get(s->fd, sink, sizeof sink, NULL, &os) > 0; i++) {}
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

static const psocket_transport psi_transport_fd = {
    psi_fd_get, psi_fd_put, psi_fd_finish, psi_fd_close, psi_fd_wants
};

/*--- the transport: a UDP socket that anybody may send to */

static ptrdiff_t psi_udp_get(void *user, void *p, size_t n, int *os)
{
    psocket *s = (psocket *)user;
    psi_os_sockaddr from;
    ptrdiff_t got = psi_os_get(s->fd, p, n, &from, os);
    if (got < 0) return got;
    psi_os_from_sockaddr(&s->peer, &from);
    psi_addr_normalise(&s->peer);
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
    return psi_os_put(s->fd, p, n, &to, os);
}

static const psocket_transport psi_transport_udp = {
    psi_udp_get, psi_udp_put, psi_fd_finish, psi_fd_close, psi_fd_wants
};

/* Has fd, of this family, whose other end s->peer is, carry s from now on. */
static void psi_sock_on_fd(psocket *s, psocket_fd fd, int family, const psocket_transport *io)
{
    s->fd = fd;
    s->io = io;
    s->user = s;
    s->family = (uint8_t)family;
    s->state = PSI_OPEN;
    psi_addr_normalise(&s->peer);
}

/*--- ending */

static void psi_sock_out_free(psocket *s)
{
    if (!psi_sock_unsent(s)) return;
    psi_free(s->of.tls->out);
    s->of.tls->out = NULL;
    s->of.tls->at = s->of.tls->len = s->of.tls->cap = 0;
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
    psi_sock_out_free(s);
    if (psi_sock_hs(s)) psi_hs_free(psi_sock_hs(s));
    psi_dial_free(psi_sock_dial(s));
    if (psi_sock_rec(s)) {
        psi_rec_free(s->of.tls->rec);
        s->of.tls->rec = NULL;
    }
    s->ring.tail = s->ring.raw; /* bytes that never became a chunk */
    s->due[0] = s->due[1] = 0;
    s->state = (uint8_t)state;
    s->io = NULL;
    if (io) (io->close)(s->user); /* lwIP may have a macro of the name */
}

/* Ends both directions with an error, which may have been told with more words, and lets go. Returns code. */
static int psi_sock_end(psocket *s, int code)
{
    psi_sock_note(s, code, 0);
    psi_sock_drop(s, PSI_ENDED);
    if (!s->end_in) s->end_in = (short)code;
    if (s->end_out >= 0) s->end_out = (short)code;
    return code;
}

/*--- asking the transport, which may be an application's: what it answers is not taken on trust */

static ptrdiff_t psi_sock_answered(ptrdiff_t r, size_t most)
{
    if (r >= 0 && (size_t)r > most) return PSOCKET_INVALID;
    return r <= PSOCKET_CODE_END || (psi_is_want(r) && !psi_is_wait(r)) ? (ptrdiff_t)PSOCKET_OS : r;
}

static ptrdiff_t psi_sock_put(psocket *s, const void *p, size_t n, int *os)
{
    ptrdiff_t r = psi_sock_answered(s->io->put(s->user, p, n, os), n);
    return r || !n ? r : (ptrdiff_t)PSOCKET_WANT_WRITE;
}

/*--- what goes out */

/* The transport has failed to send. A peer that ended its direction first is told from one that broke off: in
   that case what it sent still ends as it would have. Returns what is to be answered. */
static int psi_sock_cannot_put(psocket *s, int code, int os)
{
    s->broken = code != PSOCKET_CLOSED;
    if (code == PSOCKET_CLOSED) code = PSOCKET_RESET;
    psi_sock_out_free(s);
    s->end_out = (short)code;
    return psi_sock_note(s, code, os);
}

/* Has sealed bytes, and what the transport holds, leave: 0 when all is out, PSOCKET_WANT_WRITE, or an error. */
static int psi_sock_flush(psocket *s)
{
    int os = 0;
    ptrdiff_t n = 0;
    if (s->state != PSI_OPEN) return 0;
    while (psi_sock_unsent(s)) {
        psi_secure *t = s->of.tls;
        n = psi_sock_put(s, t->out + t->at, t->len - t->at, &os);
        if (n < 0) break;
        psi_sock_left(s);
        t->at += (uint32_t)n;
        if (t->at < t->len) continue;
        psi_sock_out_free(s);
        s->due[1] = 0;
    }
    if (n >= 0 && s->fd == -1) n = psi_sock_put(s, "", 0, &os);
    if (psi_is_wait(n)) {
        psi_watch_note(&s->watch, PSI_DID_FILL);
        return PSOCKET_WANT_WRITE;
    }
    if (n >= 0) return 0;
    if (n == PSOCKET_NOMEM) return psi_sock_note(s, PSOCKET_NOMEM, os); /* nothing is lost: try again */
    return psi_sock_cannot_put(s, (int)n, os);
}

/* Seals n bytes as records of this type behind what waits in out. more: others follow before the flush. */
static int psi_sock_seal(psocket *s, int type, const void *data, size_t n, int more)
{
    psi_secure *t = s->of.tls;
    size_t room = t->len + psi_hs_room(t->rec, type, n);
    if (room > t->cap) {
        size_t cap = more ? 2 * room : room;
        uint8_t *out = (uint8_t *)psi_realloc(t->out, t->len, cap);
        if (!out) return PSOCKET_NOMEM;
        t->out = out;
        t->cap = (uint32_t)cap;
    }
    t->len += (uint32_t)psi_hs_put(t->rec, type, data, n, t->out + t->len);
    return 0;
}

/* Sends an alert if it can be sent at once. */
static void psi_sock_alert(psocket *s, int level, int alert)
{
    uint8_t b[2];
    b[0] = (uint8_t)level;
    b[1] = (uint8_t)alert;
    if (!psi_sock_rec(s) || s->end_out || psi_sock_flush(s) || psi_sock_seal(s, PSI_REC_ALERT, b, 2, 0))
        return;
    psi_sock_flush(s);
}

/*--- receiving */

/* Gives up the buffer if nothing is in it. The poller keeps one for the socket that reads next. */
static void psi_sock_relax(psocket *s)
{
    psocket_poller *p = s->watch.poller;
    psi_ring *r = &s->ring;
    if (psi_sock_rec(s)) psi_rec_relax(s->of.tls->rec);
    if (!r->buf || !psi_ring_idle(r)) return;
    if (p && r->cap <= PSI_SOCK_SPARE) {
        psi_free(p->spare); /* the last one is of the size that is likely to be wanted */
        p->spare = r->buf;
        p->spare_cap = r->cap;
        r->buf = NULL;
    }
    psi_ring_free(r);
}

/* Makes room for n bytes in the ring, which may keep a little for long: no buffer much larger than asked for.
   0, PSOCKET_NOMEM or PSOCKET_LIMIT. */
static int psi_sock_reserve(psocket *s, size_t n)
{
    psocket_poller *p = s->watch.poller;
    int r;
    if (p && p->spare && !s->ring.buf && p->spare_cap / 4 <= n) {
        s->ring.buf = p->spare;
        s->ring.cap = p->spare_cap;
        p->spare = NULL;
    }
    r = psi_ring_reserve(&s->ring, n);
    if (r) psi_sock_relax(s);
    return r;
}

/* Is as much unread as may be? */
static int psi_sock_full(const psocket *s)
{
    uint32_t most = s->limit > s->need ? s->limit : s->need;
    if (s->udp && (s->ring.end - s->ring.head) / 16 >= most) return 1; /* empty datagrams take room, too */
    return s->ring.bytes >= most;
}

/* What came ends in an error. */
static PSI_APART void psi_sock_undecodable(psocket *s, int code, const psi_rec_in *in)
{
    psocket_error e;
    if (in->alert_level) psi_sock_alert(s, in->alert_level, in->alert);
    psi_rec_explain(in, code, &e);
    psi_sock_note_error(s, &e); /* whatever became of the alert */
    psi_sock_end(s, code);
}

/* Decrypts every whole record in the raw bytes, in place. */
static void psi_sock_decode(psocket *s)
{
    psi_ring *r = &s->ring;
    while (!s->end_in && r->raw < r->tail) {
        psi_rec_in in;
        int kind = psi_hs_open(s->of.tls->rec, r->buf + r->raw, r->tail - r->raw, &in);
        if (kind == PSI_REC_MORE) return;
        if (kind < 0) {
            psi_sock_undecodable(s, kind, &in);
            return;
        }
        if (kind == PSI_REC_DATA)
            psi_ring_chunk(r, (uint32_t)(in.data - r->buf), (uint32_t)in.len, r->raw + (uint32_t)in.used);
        else r->raw += (uint32_t)in.used;
        if (kind == PSI_REC_DATA) s->news = PSI_NEWS;
        if (kind == PSI_REC_SKIP && in.alert_level) psi_sock_alert(s, in.alert_level, in.alert);
        if (kind == PSI_REC_END) {
            s->end_in = PSOCKET_CLOSED;
            r->tail = r->raw; /* RFC 5246 7.2.1, RFC 8446 6.1: whatever follows close_notify is ignored */
        }
    }
}

/* How much to read when `have` bytes of a record are there, whose header tells how many are missing (RFC 5246
   6.2.1, RFC 8446 5.1): these, and as much more as needs no larger buffer. n: otherwise. */
static uint32_t psi_sock_rest(const psi_ring *r, uint32_t have, uint32_t n)
{
    const uint8_t *p = have < 5 ? NULL : r->buf + r->raw;
    uint32_t all = p ? 5u + ((uint32_t)p[3] << 8 | p[4]) : 0, rest = all > have ? all - have : 0;
    uint32_t fits = r->cap > have + PSI_RING_SLACK && psi_ring_empty(r) ? r->cap - have - PSI_RING_SLACK : 0;
    if (!rest || (n > rest && have < n / 4)) return n;
    if (n > fits) n = fits;
    return n > rest ? n : rest;
}

/* How much to ask the transport for, and *room: how much has to fit, which is more if a record is longer than
   the largest read. */
static uint32_t psi_sock_read_size(const psocket *s, uint32_t *room)
{
    const psi_ring *r = &s->ring;
    uint32_t n = (uint32_t)1 << s->read_log;
    if (s->udp) return *room = PSOCKET_DATAGRAM + 1u; /* one more tells that a datagram is too large */
    if (psi_sock_hs(s)) n = PSI_SOCK_HELLO;
    if (psi_sock_rec(s)) n += PSI_SOCK_AROUND;
    if (n > PSOCKET_READ_SIZE) n = PSOCKET_READ_SIZE;
    *room = psi_sock_rec(s) || psi_sock_hs(s) ? psi_sock_rest(r, r->tail - r->raw, n) : n;
    return *room > PSOCKET_READ_SIZE ? PSOCKET_READ_SIZE : *room;
}

/* got of `want` bytes have come, and lie behind the ring's tail. */
static void psi_sock_arrived(psocket *s, uint32_t got, uint32_t want)
{
    int raw = psi_sock_rec(s) || psi_sock_hs(s), fresh = s->ring.raw == s->ring.tail;
    uint32_t size = (uint32_t)1 << s->read_log;
    if (got < want) psi_watch_note(&s->watch, PSI_DID_DRAIN);
    if (got == want && want == size + (raw ? PSI_SOCK_AROUND : 0) && 2 * size <= PSOCKET_READ_SIZE)
        s->read_log++;
    if (fresh && got < size / 8 && s->read_log > PSI_SOCK_READ_LOG)
        s->read_log--; /* the rest of a record is no sign */
    if (!raw) {
        psi_ring_append(&s->ring, got);
        s->news = PSI_NEWS;
        return;
    }
    s->ring.tail += got;
    if (psi_sock_rec(s)) psi_sock_decode(s);
}

/* The stream has ended (code 0 or CLOSED) or broken. If sending found it so first, its error has been told. */
static void psi_sock_input_ends(psocket *s, int code, int os)
{
    s->ring.tail = s->ring.raw;
    if (s->broken) code = s->end_out;
    else if (code == 0 || code == PSOCKET_CLOSED)
        code = psi_sock_rec(s) || psi_sock_hs(s) ? PSOCKET_TRUNCATED : PSOCKET_CLOSED;
    else if (s->end_out >= 0) s->end_out = (short)code;
    s->end_in = (short)code;
    if (!s->broken) psi_sock_note(s, code, os);
}

/* Reads once from the transport. 1: something came (perhaps the end); PSOCKET_WANT_READ; PSOCKET_LIMIT: the
   ring is full; or an error, of which only PSOCKET_NOMEM and those of UDP end nothing. */
static int psi_sock_fill(psocket *s)
{
    int os = 0, r;
    uint32_t want, room;
    ptrdiff_t got;
    if (s->end_in) return s->end_in;
    if (psi_sock_full(s)) return PSOCKET_LIMIT;
    want = psi_sock_read_size(s, &room);
    if ((r = psi_sock_reserve(s, room)) != 0) return r;
    got = psi_sock_answered(s->io->get(s->user, s->ring.buf + s->ring.tail, want, &os), want);
    if (s->udp && got > PSOCKET_DATAGRAM) got = PSOCKET_MESSAGE_SIZE;
    if (got > 0 || (got == 0 && s->udp)) {
        psi_sock_arrived(s, (uint32_t)got, want);
        return 1;
    }
    psi_sock_relax(s);
    if (psi_is_wait(got)) return PSOCKET_WANT_READ;
    if (got == PSOCKET_NOMEM || s->udp)
        return psi_sock_note(s, (int)got, os); /* e.g. refused: the next datagram may do better */
    psi_sock_input_ends(s, (int)got, os);
    return 1;
}

/*--- sending */

/* Encrypts some of the data, less where memory is short: how many bytes, or what keeps it from that. What
   is not the first in its poller's turn may wait for more: the poller flushes before it waits. */
static ptrdiff_t psi_sock_send_sealed(psocket *s, const void *data, size_t n)
{
    int sent = psi_watch_did(&s->watch, PSI_DID_SEND), cork = sent && s->nonblocking && n < PSI_SOCK_CORK;
    int r = 0;
    if (!sent) psi_watch_note(&s->watch, PSI_DID_SEND);
    if (n > PSI_SOCK_OUT_MAX) n = PSI_SOCK_OUT_MAX;
    if (!cork || psi_watch_did(&s->watch, PSI_DID_FILL) || s->of.tls->len + n > PSI_SOCK_CORK)
        r = psi_sock_flush(s);
    if (r) return r;
    while ((r = psi_sock_seal(s, PSI_REC_APPDATA, data, n, cork)) == PSOCKET_NOMEM && n > PSI_SOCK_OUT_MIN)
        n /= 2;
    if (r) return r;
    if (!cork) r = psi_sock_flush(s); /* once sealed the bytes are taken: they wait if they must */
    return r && r != PSOCKET_WANT_WRITE && r != PSOCKET_NOMEM ? r : (ptrdiff_t)n;
}

/* May n bytes be sent at all? 0, or what is to be answered. */
static int psi_sock_may_send(psocket *s, size_t n)
{
    if (s->end_out < 0 && s->end_out != PSOCKET_CLOSED_HERE) return s->end_out;
    if (s->state == PSI_CLOSED) return PSOCKET_CLOSED_HERE;
    if (s->end_out) return psi_sock_say(s, PSOCKET_CLOSED_HERE, "the sending direction was shut down");
    if (s->udp && !s->peer.family) return psi_sock_say(s, PSOCKET_INVALID, "nobody to send to yet: call setpeer");
    return n > PTRDIFF_MAX ? psi_sock_say(s, PSOCKET_INVALID, "too many bytes") : 0;
}

/* Takes some of the data: how many bytes, WANT_*, or an error. */
static ptrdiff_t psi_sock_send(psocket *s, const void *data, size_t n)
{
    int os = 0;
    ptrdiff_t r = psi_sock_may_send(s, n);
    if (r || (!n && !s->udp)) return r;
    if (psi_sock_rec(s)) return psi_sock_send_sealed(s, data, n);
    if (s->polled && psi_watch_did(&s->watch, PSI_DID_FILL))
        return PSOCKET_WANT_WRITE; /* the poller will tell of room */
    if (PSI_OS_SEND_DROPS_INPUT && !s->udp && !psi_ring_holds(&s->ring, data))
        psi_sock_fill(s); /* a reset would take what has come and was not read */
    r = psi_sock_put(s, data, n, &os);
    if (psi_is_wait(r)) return PSOCKET_WANT_WRITE;
    if (r < 0)
        return s->udp || r == PSOCKET_NOMEM ? psi_sock_note(s, (int)r, os) : psi_sock_cannot_put(s, (int)r, os);
    psi_sock_left(s);
    if ((size_t)r < n) psi_watch_note(&s->watch, PSI_DID_FILL);
    return r;
}

/* Carries on what goes out, and its end if there is to be one: 0 when all is out. */
static int psi_sock_finish(psocket *s)
{
    static const uint8_t close_notify[2] = { PSI_REC_WARNING, PSI_ALERT_CLOSE_NOTIFY };
    int os = 0, r;
    if (!s->end_out && !psi_sock_unsent(s) && s->fd != -1) return 0; /* nearly always */
    if (s->end_out < 0) return s->end_out == PSOCKET_CLOSED_HERE && s->state == PSI_OPEN ? 0 : s->end_out;
    if (s->end_out == PSI_ENDING) {
        if (psi_sock_rec(s) && (r = psi_sock_seal(s, PSI_REC_ALERT, close_notify, 2, 0)) != 0)
            return r;
        s->end_out = PSI_FINISHING;
    }
    if ((r = psi_sock_flush(s)) != 0 || !s->end_out) return r;
    r = (int)psi_sock_answered(s->io->finish(s->user, &os), 0);
    if (psi_is_wait(r)) return PSOCKET_WANT_WRITE;
    if (r && r != PSOCKET_RESET && r != PSOCKET_CLOSED) return psi_sock_note(s, r, os);
    s->end_out = PSOCKET_CLOSED_HERE;
    return 0;
}

/*--- dialling: RFC 8305 section 5 */

/* This address has failed: adds it and its reason to the sentence. */
static void psi_dial_failed(psi_dial *d, const psi_addr *a, int code, int os)
{
    psocket_error *e = &d->why;
    const char *by = e->code ? "; " : ": ";
    char where[80] = "";
    size_t n;
    if (!e->code) psi_err_alert(e, code, -1, "cannot connect to \"%.255s\"", d->names->host);
    e->code = code;
    e->os_error = os;
    if (a->family != PSI_UNIX) psi_addr_print_port(a, where);
    n = strlen(e->text);
    snprintf(e->text + n, sizeof e->text - n, "%s%s", *where ? by : "", where);
    psi_err_why(e);
}

/* Attempt i has reached the peer. */
static int psi_dial_won(psocket *s, int i)
{
    psi_dial *d = s->of.dial;
    s->peer = *d->tries[i].to;
    psi_sock_on_fd(s, d->tries[i].fd, s->peer.family, &psi_transport_fd);
    d->tries[i].fd = -1;
    s->of.role = d->role;
    s->due[0] = 0;
    if (PSI_TLS && d->hs) {
        s->of.hs = d->hs;
        s->state = PSI_HANDSHAKING;
        psi_sock_clock(s, 0);
    }
    psi_dial_free(d);
    return 0;
}

/* Begins the attempt at the next address. 1: it is under way; 0: it has been made, or has failed. */
static int psi_dial_try(psocket *s, int64_t now)
{
    psi_dial *d = s->of.dial;
    const psi_addr *a = &d->names->addrs[d->next];
    psi_addr local = d->set.local;
    psocket_fd fd;
    int os = 0, r = psi_os_socket(&fd, a->family, s->udp, &os);
    if (!r) r = psi_os_set(fd, a->family, s->udp, &d->set, &os);
    if (!r && (local.family || local.port)) {
        if (!local.family) local.family = a->family;
        r = PSOCKET_ADDRESS_NOT_AVAILABLE;
        if (local.family == a->family) r = psi_os_bind(fd, &local, NULL, s->udp ? PSI_OS_DATAGRAMS : 0, &os);
    }
    if (!r) r = psi_os_connect(fd, a, psi_addr_path(d->names->host), &os);
    if (!r || r == PSOCKET_WANT_WRITE) {
        d->tries[d->live].fd = fd;
        d->tries[d->live++].to = a;
        d->next++;
        d->next_at = now + (d->set.opt.attempt_delay_ms ? d->set.opt.attempt_delay_ms : 250);
        return r != 0;
    }
    psi_os_close(fd);
    if (r == PSOCKET_WANT_READ) { /* a path whose queue is full: no descriptor tells of room */
        d->next_at = now + 20;
        return 0;
    }
    psi_dial_failed(d, a, r, os);
    d->next++;
    return 0;
}

/* Nothing is left to try, or no time. */
static int psi_dial_lost(psocket *s)
{
    psi_sock_note_error(s, &s->of.dial->why);
    return psi_sock_end(s, s->code);
}

static int psi_dial_unresolved(psocket *s, int code, int os)
{
    psi_err_os(psi_sock_error(s, code), code, os, "cannot resolve \"%.255s\"", s->of.dial->names->host);
    return psi_sock_end(s, code);
}

/* Is there an address to try, and room for the attempt? */
static int psi_dial_more(const psi_dial *d)
{
    return d->next < d->names->count && d->live < PSI_DIAL_TRIES;
}

static int psi_dial_step(psocket *s)
{
    psi_dial *d = s->of.dial;
    int64_t now;
    int i, os = 0, code;
    if (psi_dns_ms(d->names)) return PSOCKET_WANT_READ;
    if (d->names->code) return psi_dial_unresolved(s, d->names->code, d->names->os);
    for (i = 0; i < d->names->count; i++) d->names->addrs[i].port = (uint16_t)d->port;
    psi_sock_unwatch(s); /* descriptors may be closed and new ones made below */
    now = psi_os_now();
    for (i = 0; i < d->live || (psi_dial_more(d) && now >= d->next_at);) {
        if (i == d->live) {
            i += psi_dial_try(s, now);
            continue;
        }
        code = s->udp ? 0 : psi_os_connect_result(d->tries[i].fd, &os);
        if (!code) return psi_dial_won(s, i);
        if (code == PSOCKET_WANT_WRITE) {
            i++;
            continue;
        }
        psi_os_close(d->tries[i].fd);
        psi_dial_failed(d, d->tries[i].to, code, os);
        d->tries[i] = d->tries[--d->live];
        d->next_at = now; /* a failure starts the next attempt at once */
    }
    return d->live || d->next < d->names->count ? PSOCKET_WANT_WRITE : psi_dial_lost(s);
}

/* What it waits for, as psocket_pollset has it. */
static int psi_dial_wants(const psi_dial *d, psocket_pollfd *fds, int cap, int *ms)
{
    int n = 0, wait = psi_dns_ms(d->names);
    if (wait > 0) psi_lower_ms(ms, wait);
    if (wait && d->names->bell[0] != -1 && cap > 0) {
        fds[0].fd = d->names->bell[0];
        fds[n++].events = PSOCKET_READ;
    }
    if (wait) return n;
    for (; n < d->live && n < cap; n++) {
        fds[n].fd = d->tries[n].fd;
        fds[n].events = PSOCKET_WRITE;
    }
    if (psi_dial_more(d)) psi_until(ms, d->next_at);
    else if (!d->live) psi_lower_ms(ms, 0); /* an error is there, which the next step tells */
    return n;
}

/* The time for resolving, connecting or handshaking is over. */
static int psi_sock_too_late(psocket *s)
{
    psi_dial *d = psi_sock_dial(s);
    int i;
    if (PSI_TLS && !d) {
        psi_sock_say(s, PSOCKET_TIMEOUT, "timed out during the TLS handshake");
        return psi_sock_end(s, PSOCKET_TIMEOUT);
    }
    if (psi_dns_ms(d->names) || d->names->code) return psi_dial_unresolved(s, PSOCKET_TIMEOUT, 0);
    if (!d->live) psi_dial_failed(d, &d->names->addrs[d->next], PSOCKET_TIMEOUT, 0);
    for (i = 0; i < d->live; i++) psi_dial_failed(d, d->tries[i].to, PSOCKET_TIMEOUT, 0);
    return psi_dial_lost(s);
}

/*--- handshaking */

/* Sends what the handshake has to say: 0 when all is out, PSOCKET_WANT_WRITE, or an error. A peer that refused
   us and has closed already hears nothing more, but its alert is still to be read. */
static int psi_sock_speak(psocket *s)
{
    const uint8_t *p;
    size_t n;
    int os = 0;
    while ((n = psi_hs_output(s->of.hs, &p)) != 0) {
        ptrdiff_t put = s->end_out ? (ptrdiff_t)n : psi_sock_put(s, p, n, &os);
        if (psi_is_wait(put)) return PSOCKET_WANT_WRITE;
        if (put < 0) {
            int code = psi_sock_cannot_put(s, (int)put, os);
            if (code != PSOCKET_RESET) return code;
            put = (ptrdiff_t)n;
        }
        psi_hs_sent(s->of.hs, (size_t)put);
    }
    return 0;
}

/* The handshake is over. 0, or PSOCKET_NOMEM, which ends s. */
static int psi_sock_secured(psocket *s)
{
    psi_secure *t = (psi_secure *)psi_alloc(sizeof *t);
    if (!t) return psi_sock_end(s, PSOCKET_NOMEM);
    psi_hs_finish(s->of.hs, &t->rec, &t->info);
    psi_hs_free(s->of.hs);
    s->of.tls = t;
    s->secured = 1;
    s->due[0] = 0;
    s->state = PSI_OPEN;
    psi_sock_decode(s);
    psi_sock_relax(s);
    return 0;
}

/* The handshake has failed, by the transport's fault if that has ended. Returns code. */
static int psi_sock_unsecured(psocket *s, int code)
{
    int os = s->error ? s->error->os_error : 0;
    if (code == s->end_in && code == PSOCKET_TRUNCATED)
        psi_sock_say(s, code, "the peer closed the connection during the TLS handshake");
    else if (code == s->end_in || code == s->end_out)
        psi_err_os(psi_sock_error(s, code), code, os, "the connection broke during the TLS handshake");
    return psi_sock_end(s, code);
}

/* Carries the handshake on: 0 when it is done, what it waits for (also the application), or an error. */
static int psi_sock_handshake(psocket *s)
{
    psi_ring *r = &s->ring;
    for (;;) {
        psocket_error e = PSI_ZERO;
        uint32_t fed = 0;
        int status = psi_sock_speak(s);
        if (!status && (status = psi_hs_status(s->of.hs, &e)) == 0) return psi_sock_secured(s);
        if (status == PSOCKET_WANT_READ) {
            if (r->raw < r->tail) fed = (uint32_t)psi_hs_feed(s->of.hs, r->buf + r->raw, r->tail - r->raw);
            r->raw += fed;
            if (fed || (status = psi_sock_fill(s)) == 1) continue;
        }
        if (psi_is_want(status)) return status;
        if (!e.code) return psi_sock_unsecured(s, status);
        psi_sock_note_error(s, &e);
        return psi_sock_end(s, status);
    }
}

/* Begins a handshake on an open socket, or on one that dials, to follow that. */
static int psi_sock_starttls(psocket *s, psocket_tls *tls, const char *name)
{
    psocket_error e = PSI_ZERO;
    psi_dial *d = psi_sock_dial(s);
    psi_hs *hs = NULL;
    int r;
    if (s->side == PSOCKET_CLIENT && !psi_ring_empty(&s->ring))
        return PSOCKET_PLAINTEXT;
    if (!tls && s->side == PSOCKET_SERVER) {
        r = psi_err_code(&e, PSOCKET_TLS_NO_IDENTITY);
    } else if ((r = psi_tls_meant(&tls, &e)) == 0) {
        r = psi_hs_new(&hs, d ? d->role : s->of.role, tls, name, d ? d->port : s->peer.port, &e);
        psocket_tls_free(tls);
    }
    if (r) { /* ended, lest a caller who does not look sends in the clear */
        psi_sock_note_error(s, &e);
        return psi_sock_end(s, r);
    }
    psi_ring_undecode(&s->ring);
    if (d) {
        d->hs = hs;
        return 0;
    }
    s->of.hs = hs;
    s->state = PSI_HANDSHAKING;
    s->due[0] = s->due[1] = 0;
    psi_sock_clock(s, 0);
    return 0;
}

/*--- listening */

/* Accepts into next: 1 if a connection is there, 0 if none, or an error. */
static int psi_listen_ready(psocket *s)
{
    psi_listen *l = s->of.listen;
    int os = 0, r;
    if (s->state == PSI_CLOSED) return PSOCKET_CLOSED_HERE;
    if (l->next != -1) return 1;
    r = psi_os_accept(s->fd, &l->next, &l->next_peer, &os);
    if (r == 0) {
        if (s->watch.poller) s->watch.poller->tell(&s->watch); /* the system says nothing of it any more */
        return 1;
    }
    l->next = -1;
    return r == PSOCKET_WANT_READ ? 0 : psi_err_os(psi_sock_error(s, r), r, os, "cannot accept");
}

/* The listener s is closed. */
static void psi_listen_end(psocket *s)
{
    psi_listen *l = s->of.listen;
    if (l->path && l->process == psi_os_process())
        psi_os_unlink(l->path, l->inode); /* which is not used again before close */
    psi_os_close(l->next);
    psi_os_close(s->fd);
    l->next = s->fd = -1;
}

/*--- everything together */

/* Carries on whatever is pending: 0 when nothing is, what it waits for, or an error. */
static int psi_sock_step(psocket *s)
{
    int r = 0;
    if (s->state == PSI_OPEN) return s->end_in && s->end_in == s->end_out ? s->end_in : psi_sock_finish(s);
    if (s->state > PSI_OPEN) return s->state == PSI_LISTENING ? 0 : s->end_in;
    if (s->state < PSI_HANDSHAKING) r = psi_dial_step(s);
    if (PSI_TLS && s->state == PSI_HANDSHAKING) r = psi_sock_handshake(s);
    return psi_is_want(r) && psi_sock_late(s, 0) ? psi_sock_too_late(s) : r;
}

/* Which of events a call of that kind would answer without PSOCKET_WANT_*, for all that is known here: not what
   the transport has to say. psocket_wait, psocket_pollset and the poller ask this. */
static int psi_sock_ready(const psocket *s, int events)
{
    const uint8_t *p;
    int ready = 0;
    switch (s->state) {
    case PSI_DIALLING:
        return 0;
    case PSI_HANDSHAKING: /* does it wait for the application? */
        if (!PSI_TLS || psi_hs_output(s->of.hs, &p)) return 0;
        return psi_hs_status(s->of.hs, NULL) != PSOCKET_WANT_READ ? events : 0;
    case PSI_LISTENING:
        if (s->of.listen->next != -1 || psi_sock_late(s, 0)) ready = PSOCKET_READ;
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

/* The descriptors to wait for and the time until which to, for s to get on with events. PSOCKET_OS if the
   transport does not say. */
static int psi_sock_wants(psocket *s, int events, psocket_pollfd *fds, int cap, int *ms)
{
    const uint8_t *p;
    int n, left = -1;
    if (s->due[0] && (s->state < PSI_OPEN || (events & PSOCKET_READ))) psi_until(ms, s->due[0]);
    if (s->due[1] && (events & PSOCKET_WRITE)) psi_until(ms, s->due[1]);
    switch (s->state) {
    case PSI_DIALLING:
        return psi_dial_wants(s->of.dial, fds, cap, ms);
    case PSI_LISTENING:
        return psi_fd_wants(s, events & PSOCKET_READ, fds, cap, ms);
    case PSI_HANDSHAKING:
        events = PSI_TLS && psi_hs_output(s->of.hs, &p) ? PSOCKET_WRITE : PSOCKET_READ;
        break;
    case PSI_OPEN:
        if (psi_sock_full(s) || s->end_in) events &= ~PSOCKET_READ;
        if (psi_sock_unsent(s) || s->end_out > 0) events |= PSOCKET_WRITE;
        break;
    default:
        return 0;
    }
    n = s->io->wants(s->user, events, fds, cap, &left);
    if (left >= 0) psi_lower_ms(ms, left);
    return n < 0 ? (int)PSOCKET_OS : n < cap ? n : cap;
}

/* Does the transport say that it is ready for this event? */
static int psi_sock_polled(psocket *s, int event)
{
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    int ms = -1, os, n = psi_sock_wants(s, event, fds, PSOCKET_POLLSET_MAX, &ms);
    return ms == 0 || (n > 0 && psi_os_poll(fds, n, 0, &os) != 0);
}

/* Would a call that receives not wait? Reads if that must be known, but for datagrams: that would change the
   peer, or take an error that is for recv to tell. */
static int psi_sock_readable(psocket *s)
{
    int r = 1;
    if (s->state == PSI_LISTENING) return psi_listen_ready(s) != 0;
    while (s->state == PSI_OPEN && !psi_sock_ready(s, PSOCKET_READ) && r == 1)
        r = !s->udp ? psi_sock_fill(s) : psi_sock_polled(s, PSOCKET_READ) ? 0 : (int)PSOCKET_WANT_READ;
    return s->state >= PSI_OPEN && r != PSOCKET_WANT_READ;
}

/* Would one that sends not wait? step: what psi_sock_step answered; out of memory is for the call to tell. */
static int psi_sock_writable(psocket *s, int step)
{
    if (psi_sock_ready(s, PSOCKET_WRITE)) return 1;
    return s->state == PSI_OPEN && !psi_is_wait(step) && (step < 0 || psi_sock_polled(s, PSOCKET_WRITE));
}

/* Carries on what is pending, and says which of events are ready then. known: those that the system would have
   told of the descriptor, fired: those that it did. */
static int psi_sock_look(psocket *s, int events, int known, int fired)
{
    int before = s->state, step = psi_sock_step(s), ask;
    if (before < PSI_OPEN && s->state == PSI_OPEN) return events; /* whoever waited for this goes on */
    if (s->fd == -1 || (psi_sock_rec(s) && (fired & PSOCKET_READ)))
        known &= ~PSOCKET_READ; /* there may be no whole record */
    if (s->fd == -1 || step) known &= ~PSOCKET_WRITE;
    ask = events & ~known;
    fired = s->state < PSI_OPEN ? 0 : fired & events & known;
    if ((ask & PSOCKET_READ) && psi_sock_readable(s)) fired |= PSOCKET_READ;
    if ((ask & PSOCKET_WRITE) && psi_sock_writable(s, step)) fired |= PSOCKET_WRITE;
    return fired | psi_sock_ready(s, events);
}

/*--- closing */

/* Closes without waiting. What was received and handed out stays. */
static void psi_sock_close(psocket *s)
{
    if (s->state == PSI_CLOSED) return;
    if (s->state == PSI_OPEN && s->end_out >= 0) {
        if (s->end_out == PSI_FLOWS) psi_sock_alert(s, PSI_REC_WARNING, PSI_ALERT_CLOSE_NOTIFY);
        psi_sock_step(s);
    }
    if (s->watch.poller) s->watch.poller->leave(&s->watch);
    psi_sock_drop(s, PSI_CLOSED);
    s->end_in = s->end_out = PSOCKET_CLOSED_HERE;
    if (s->listens) s->of.listen->end(s);
}

static void psi_sock_free(psocket *s)
{
    if (!s) return;
    psi_sock_close(s);
    psi_ring_free(&s->ring);
    if (psi_sock_info(s)) psi_free(s->of.tls->info);
    if (s->listens) psi_free(s->of.listen->path);
    if (s->listens || s->secured) psi_free(s->of.tls); /* or of.listen */
    psi_free(s->error);
    psi_free(s);
}

/*--- the transport: another socket */

static ptrdiff_t psi_wrap_get(void *user, void *p, size_t n, int *os)
{
    psocket *c = (psocket *)user;
    const void *data;
    int r = 1;
    uint32_t len;
    *os = 0;
    psi_sock_flush(c);
    while (psi_ring_empty(&c->ring) && r == 1) r = psi_sock_fill(c);
    if (psi_ring_empty(&c->ring)) return r;
    len = psi_ring_front(&c->ring, &data);
    if (len > n) len = (uint32_t)n;
    psi_ring_take(&c->ring, len, &data);
    memcpy(p, data, len);
    return (ptrdiff_t)len;
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
    ((psocket *)user)->carries = 0;
    psi_sock_free((psocket *)user);
}

static int psi_wrap_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    if (psi_sock_ready((psocket *)user, events)) *ms = 0;
    return psi_sock_wants((psocket *)user, events, fds, cap, ms);
}

static const psocket_transport psi_transport_wrap = {
    psi_wrap_get, psi_wrap_put, psi_wrap_finish, psi_wrap_close, psi_wrap_wants
};

/*--- making one */

/* role: of a TLS handshake, if there can be one. */
static psocket *psi_sock_new(const psocket_options *opt, int side, const psi_role *role)
{
    psocket *s = (psocket *)psi_alloc(sizeof *s);
    if (!s) return NULL;
    s->watch.is_sock = 1;
    s->fd = -1;
    s->side = side != PSOCKET_CLIENT;
    s->of.role = role;
    s->state = PSI_ENDED; /* until it has a transport */
    s->read_log = PSI_SOCK_READ_LOG;
    s->limit = PSOCKET_RECV_LIMIT;
    s->udp = opt->udp != 0;
    s->nonblocking = opt->nonblocking != 0;
    s->timeout = opt->timeout_ms > 0 ? opt->timeout_ms : 0;
    if (opt->recv_limit)
        s->limit = opt->recv_limit > PSI_RING_MAX / 2 ? PSI_RING_MAX / 2 : (uint32_t)opt->recv_limit;
    return s;
}

#ifdef PSOCKET_CHECK
#include PSOCKET_CHECK
#else
#define psi_check_sock(s) ((void)(s))
#define psi_check_poller(p) ((void)(p))
#endif

/*==================================================================================================
 * >>poll
 * The poller. A watch is looked at when it is hot: after it was set, after its events were handed out (there
 * may be more), when the system has said something of it, or when the socket has done what the system cannot
 * know. A look reports what is known and has the system watch for the rest. Everything else sleeps in the
 * system's own set, so a wait costs what is ready, plus the logarithm of the number of watches for each time
 * that is set. The system's interest is changed only when it has to be.
 *================================================================================================*/

/* The socket that w is part of, NULL for what is foreign. */
static psocket *psi_poll_sock(psocket_watch *w)
{
    return w->is_sock ? (psocket *)(void *)((char *)w - offsetof(psocket, watch)) : NULL;
}

/* Is there something to look at that the system may not tell of: hot, or a socket handed out last? */
static int psi_poll_busy(const psocket_poller *p)
{
    int i = 0;
    while (i < p->given_count && !(p->given[i] && p->given[i]->is_sock)) i++;
    return i < p->given_count || p->hot.next != &p->hot;
}

static void psi_poll_report(psocket_watch *w, int events)
{
    psocket_poller *p = w->poller;
    psocket *s = psi_poll_sock(w);
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
    if (s) psi_sock_told(s, p->events[w->given - 1].events);
}

/* Has the system watch for what w waits for, and the heap tell when to look again. Hot if it need not wait. */
static int psi_poll_arm(psocket_watch *w, int ready)
{
    psocket *s = psi_poll_sock(w);
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    int i, k, r, n = 1, ms = -1;
    fds[0].fd = w->one.fd;
    fds[0].events = w->events;
    if (s) n = psi_sock_wants(s, w->events, fds, PSOCKET_POLLSET_MAX, &ms);
    psi_watch_times(w, w->due, ms <= 0 ? INT64_MAX : psi_os_now() + ms);
    for (i = 1; i < n; i++) { /* a descriptor can be watched once */
        for (k = 0; fds[k].fd != fds[i].fd;) k++;
        if (k == i) continue;
        fds[k].events |= fds[i].events;
        fds[i--] = fds[--n];
    }
    r = psi_watch_set(w, fds, n < 0 ? 0 : n); /* one who does not say hears of its time alone */
    if (!r && ms == 0 && !ready) psi_watch_heat(w);
    return r;
}

/* Looks at a watch: reports what is ready, has the system watch for the rest. What it cannot watch for now is
   tried again in a while, and told as ready then: an event too many, and nobody else waits for it. */
static void psi_poll_look(psocket_watch *w)
{
    psocket *s = psi_poll_sock(w);
    psocket_pollfd none = { -1, 0 };
    int64_t wake = w->wake;
    int fired = w->fired, ready = fired & w->events;
    w->fired = 0;
    if (s) ready = psi_sock_look(s, w->events, PSOCKET_READ | PSOCKET_WRITE, fired);
    psi_link_out(&w->link);
    if (ready) psi_poll_report(w, ready);
    if (ready && s && s->fd != -1 && w->one.events == w->events)
        return; /* the system watches for it already: short, since most looks end here */
    if (!psi_poll_arm(w, ready)) return;
    none.fd = w->one.fd;
    psi_watch_set(w, &none, 1); /* nor what it watched for until now */
    if (wake > psi_os_now() + 50) wake = psi_os_now() + 50;
    psi_watch_times(w, w->due, wake);
}

/* Looks at every watch that is hot now, as long as the array has room. A look may free others (an application's
   transport may), so none is held on to: each is first moved behind `end`, where it may stay. */
static void psi_poll_look_hot(psocket_poller *p, int room)
{
    psi_link_in(&p->hot, &p->end);
    while (p->hot.next != &p->end && p->given_count < room) {
        psi_link *first = p->hot.next;
        psi_link_out(first);
        psi_link_in(&p->hot, first);
        psi_poll_look((psocket_watch *)(void *)first);
    }
    psi_link_out(&p->end);
}

/* Times that have passed: the user's are reported once, others make their watch hot. */
static void psi_poll_times(psocket_poller *p, int64_t now)
{
    while (p->count && psi_watch_key(p->heap[0]) <= now && p->given_count < PSI_EVENTS) {
        psocket_watch *w = p->heap[0];
        if (w->due <= now) {
            psi_poll_report(w, 0);
            psi_watch_times(w, INT64_MAX, w->wake);
        } else {
            psi_watch_times(w, w->due, INT64_MAX);
            w->fired = (uint8_t)(w->fired | (w->events & ~w->one.events)); /* if the system could not watch for it */
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

/* A call has been made for the socket of w: looks at what the system cannot know. Something is ready, is to be
   watched that was not (output, a ring that was full), or has a time. (What was just handed out is looked at
   anyway.) */
static void psi_poll_tell(psocket_watch *w)
{
    const psocket *s = psi_poll_sock(w);
    int events, way, late = 0;
    if (w->given || w->link.next) return;
    events = w->events | (psi_sock_unsent(s) || s->end_out > 0 ? PSOCKET_WRITE : 0);
    for (way = 0; way < 2; way++) late |= s->due[way] && s->due[way] < w->wake;
    if (s->state < PSI_OPEN || s->fd == -1 || late || psi_sock_ready(s, events) ||
        (s->state == PSI_OPEN && (events & ~w->one.events)))
        psi_watch_heat(w);
}

/* Forgets the array handed out last. What was in it may have more to say; what was read out needs no buffer. */
static void psi_poll_recycle(psocket_poller *p)
{
    int i;
    for (i = 0; i < p->given_count; i++) {
        psocket_watch *w = p->given[i];
        if (!w) continue;
        w->given = 0;
        if (!w->is_sock) continue; /* the system tells */
        psi_sock_relax(psi_poll_sock(w));
        psi_poll_tell(w);
    }
    p->given_count = 0;
}

/* One round of waiting: looks, waits until `end` or what comes before it, looks at what came. 0 or an error. */
static int psi_poll_round(psocket_poller *p, int64_t *now, int64_t end)
{
    psi_os_ready ready[PSI_EVENTS];
    int i, n, os = 0, wait = -1;
    psi_poll_look_hot(p, PSI_EVENTS / 2); /* leave room for what the system reports */
    psi_poll_times(p, *now);
    if (p->count && psi_watch_key(p->heap[0]) < end) end = psi_watch_key(p->heap[0]);
    if (p->given_count || psi_poll_busy(p)) wait = 0;
    else if (end != INT64_MAX) psi_lower_ms(&wait, end - *now);
    n = PSI_EVENTS - p->given_count;
    if (n) n = psi_os_poller_wait(&p->os, ready, n, wait, &os);
    if (n < 0) return n;
    if (n == 0 && os) psi_poll_signal(p);
    for (i = 0; i < n; i++) {
        psocket_watch *w = (psocket_watch *)ready[i].watch->owner;
        w->fired = (uint8_t)(w->fired | ready[i].events);
        psi_watch_heat(w);
    }
    if (n) psi_poll_look_hot(p, PSI_EVENTS);
    if (p->given_count) return 0;
    *now = psi_os_now();
    psi_poll_times(p, *now);
    return 0;
}

/* Sets what the user wants of a watch. */
static void psi_poll_want(psocket_watch *w, int events, int timeout_ms, void *user)
{
    psocket *s = psi_poll_sock(w);
    w->user = user;
    if (w->given) w->poller->events[w->given - 1].user = user;
    if (w->events != events || !s || s->fd == -1 || psi_sock_ready(s, events)) psi_watch_heat(w);
    w->events = (uint8_t)events;
    psi_watch_times(w, timeout_ms < 0 ? INT64_MAX : psi_os_now() + timeout_ms, w->wake);
}

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
    p->unwatch = psi_watch_unwatch;
    p->leave = psi_watch_leave;
    p->tell = psi_poll_tell;
    *out = p;
    return 0;
}

PSOCKET_API int psocket_poller_set(psocket_poller *p, psocket *s, int events, int timeout_ms, void *user)
{
    int r, other = s && s->watch.poller && s->watch.poller != p;
    if (!s) return PSOCKET_INVALID;
    if (!p || (events & ~(PSOCKET_READ | PSOCKET_WRITE)))
        return psi_sock_say(s, PSOCKET_INVALID, "no poller, or unknown events");
    if (!events && timeout_ms < 0) {
        if (other || !s->watch.poller) return 0;
        psi_sock_flush(s); /* nobody will do it later */
        if (s->watch.poller) psi_watch_leave(&s->watch);
        return 0;
    }
    if (other || s->carries)
        return psi_sock_say(s, PSOCKET_BUSY, "the socket is in another poller, or carries a socket");
    if (s->state == PSI_CLOSED) return psi_sock_note(s, PSOCKET_CLOSED_HERE, 0);
    if (!s->watch.poller && psi_watch_join(p, &s->watch)) return psi_sock_note(s, PSOCKET_NOMEM, 0);
    psi_poll_want(&s->watch, events, timeout_ms, user);
    if (!s->watch.one.events && !s->watch.more && (r = psi_poll_arm(&s->watch, 0)) != 0) {
        psi_watch_leave(&s->watch);
        return psi_sock_note(s, r, 0);
    }
    psi_check_poller(p);
    return 0;
}

PSOCKET_API int psocket_poller_watch(psocket_poller *p, psocket_watch **out, psocket_fd fd, int events, int timeout_ms,
                                     void *user)
{
    psocket_watch *w = out ? *out : NULL;
    int r, os, fresh = !w;
    if (!p || !out || (events & ~(fd == -1 ? PSOCKET_SIGNAL : PSOCKET_READ | PSOCKET_WRITE)))
        return PSOCKET_INVALID;
    if (w && (w->poller != p || w->is_sock)) return PSOCKET_INVALID;
    if (fresh) w = (psocket_watch *)psi_alloc(sizeof *w);
    if (!w || (fresh && psi_watch_join(p, w))) {
        psi_free(w);
        return PSOCKET_NOMEM;
    }
    if (w->one.fd != fd || w->one.events == events)
        psi_os_poller_ctl(&p->os, &w->one, 0, &os); /* its number may have come back: ask anew */
    w->one.fd = fd;
    psi_poll_want(w, events, timeout_ms, user);
    r = psi_poll_arm(w, 0);
    if (!r) *out = w;
    else if (fresh) psocket_watch_free(w);
    else psi_poll_want(w, 0, -1, user);
    psi_check_poller(p);
    return r;
}

PSOCKET_API void psocket_watch_free(psocket_watch *w)
{
    if (w && w->poller) psi_watch_leave(w);
    psi_free(w);
}

PSOCKET_API int psocket_poller_wait(psocket_poller *p, const psocket_event **events, int ms)
{
    int64_t now, end;
    int r, nested;
    if (!p || !events) return PSOCKET_INVALID;
    *events = p->events;
    nested = p->nested;
    if (p->announced) psi_os_poller_busy(&p->os, 0);
    p->nested = p->announced = 0;
    p->turn++;
    psi_poll_recycle(p);
    p->os.rang = 0;
    now = psi_os_now();
    end = ms < 0 ? INT64_MAX : now + ms;
    do r = psi_poll_round(p, &now, end); while (!r && !p->given_count && !p->os.rang && now < end);
    p->nested = nested != 0;
    if (psi_poll_busy(p)) psi_watch_announce(p);
    psi_check_poller(p);
    return p->given_count ? p->given_count : r; /* what is known is not lost; a failure comes again */
}

PSOCKET_API void psocket_poller_wake(psocket_poller *p)
{
    if (p) psi_os_bell_ring(p->os.bell);
}

PSOCKET_API psocket_fd psocket_poller_getfd(psocket_poller *p, int *ms)
{
    if (!p) return -1;
    p->nested = 1;
    if (psi_poll_busy(p)) psi_watch_announce(p);
    if (ms && psi_poll_busy(p)) *ms = 0;
    if (ms && p->count && psi_watch_key(p->heap[0]) != INT64_MAX)
        psi_until(ms, psi_watch_key(p->heap[0]));
    return p->os.fd;
}

PSOCKET_API void psocket_poller_free(psocket_poller *p)
{
    if (!p) return;
    while (p->count) {
        psocket_watch *w = p->heap[p->count - 1];
        if (w->is_sock) psi_sock_flush(psi_poll_sock(w)); /* nobody will do it later */
        psi_watch_leave(w);
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

/* Waits until s may get on with events, or its time or `end` (INT64_MAX: never) is over: 0; a signal may end it
   earlier: PSOCKET_SIGNAL; or an error. */
static int psi_public_sleep(psocket *s, int events, int64_t end)
{
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    int ms = -1, os = 0, n = psi_sock_wants(s, events, fds, PSOCKET_POLLSET_MAX, &ms);
    if (end != INT64_MAX) psi_until(&ms, end);
    if (n >= 0) n = psi_os_poll(fds, n, ms, &os);
    if (n < 0) return psi_sock_note(s, n, os);
    return n == 0 && os ? PSOCKET_SIGNAL : 0;
}

/* What a call answers: psocket_geterror is to say the same. */
static ptrdiff_t psi_public_answer(psocket *s, ptrdiff_t r)
{
    if (r < 0 && !psi_is_want(r) && r != s->code) psi_sock_note(s, (int)r, 0);
    if (s->watch.poller) s->watch.poller->tell(&s->watch);
    psi_check_sock(s);
    return r;
}

/* Before data is moved: 0, or why it cannot be. ok: the arguments are good. */
static int psi_public_begin(psocket *s, int ok)
{
    if (!s) return PSOCKET_INVALID;
    if (s->listens) return psi_sock_say(s, PSOCKET_INVALID, "a listener moves no data");
    if (!ok) return psi_sock_say(s, PSOCKET_INVALID, "a NULL pointer, or nothing asked for");
    return 0;
}

/* The one loop of waiting: a call that connects or moves data (way: 0 in, 1 out) has answered *r. 1: try again,
   after waiting; 0: that is the answer. The time of an operation begins with the first try that has to wait. */
static int psi_public_again(psocket *s, ptrdiff_t *r, int way)
{
    int open = s->state >= PSI_OPEN; /* else psi_sock_step looks after the time */
    if (open && psi_is_wait(*r)) {
        if (way == 0 && s->news == PSI_TOLD) s->news = PSI_QUIET;
        psi_sock_clock(s, way);
        if (psi_sock_late(s, way)) *r = PSOCKET_TIMEOUT;
    }
    if (!psi_is_wait(*r)) {
        if (open) s->due[way] = 0;
        return 0;
    }
    if (s->nonblocking) return 0;
    if (way == 0) psi_sock_finish(s);
    *r = psi_public_sleep(s, way ? PSOCKET_WRITE : PSOCKET_READ, INT64_MAX);
    if (*r < 0 && !open) psi_sock_end(s, (int)*r);
    return *r >= 0;
}

/* Is s out of dialling and handshaking? 0, or what the caller is to answer. */
static int psi_public_settle(psocket *s)
{
    int r = s->state < PSI_OPEN ? psi_sock_step(s) : 0;
    if (s->state == PSI_OPEN && r == PSOCKET_CLOSED) return 0; /* an end after the handshake is for recv to tell */
    return s->state == PSI_CLOSED ? (int)PSOCKET_CLOSED_HERE : r;
}

/* Gets it there. */
static int psi_public_open(psocket *s)
{
    ptrdiff_t r;
    do r = psi_public_settle(s); while (psi_public_again(s, &r, 0));
    return (int)r;
}

/*--- making sockets */

/* Reads what has to be read of the options: NULL, or what is wrong with them. */
static const char *psi_public_options(psi_os_settings *set)
{
    const psocket_options *o = &set->opt;
    if ((o->timeout_ms | o->attempt_delay_ms | o->backlog | o->keepalive | o->multicast_ttl) < 0)
        return "timeout_ms, attempt_delay_ms, backlog, keepalive or multicast_ttl is negative";
    if (o->local_port < 0 || o->local_port > 65535) return "local_port is out of range";
    if (o->local && !psi_addr_parse(&set->local, o->local, strlen(o->local)))
        return "local is no numeric address";
    set->local.port = (uint16_t)o->local_port;
    if (!o->udp && (o->broadcast || o->multicast_group || o->multicast_interface || o->multicast_ttl ||
                    o->multicast_noloop))
        return "broadcast and multicast are for UDP";
    if (o->multicast_interface && !(set->interface_index = psi_os_interface(o->multicast_interface)))
        return "no such multicast_interface";
    if (o->multicast_group && !psi_addr_parse(&set->group, o->multicast_group, strlen(o->multicast_group)))
        return "multicast_group is no numeric address";
    return NULL;
}

/* Begins to make a socket: clears its place, reads opt. 0, or an error, which has been told. */
static int psi_public_settings(psi_os_settings *set, psocket **out, int side, const psocket_options *opt)
{
    const char *wrong = side != PSOCKET_CLIENT && side != PSOCKET_SERVER ? "no such side" : NULL;
    int r = psi_os_start();
    memset(set, 0, sizeof *set);
    if (opt) set->opt = *opt;
    if (out) *out = NULL;
    else wrong = "no place for the socket";
    if (r) return psi_err_code(set->opt.error, r);
    if (!wrong) wrong = psi_public_options(set);
    return wrong ? psi_err_os(set->opt.error, PSOCKET_INVALID, 0, "%s", wrong) : 0;
}

/* NULL, or what is wrong with the host and port to connect to. */
static const char *psi_public_target(const psi_os_settings *set, const char *host, int port)
{
    const char *path = host ? psi_addr_path(host) : NULL;
    if (!host || !*host || strlen(host) >= PSI_DNS_HOST || (path && !*path))
        return "no host, or one that is too long";
    if (!path) return port < 1 || port > 65535 ? "port out of range 1 to 65535" : NULL;
    return port || set->local.family || set->local.port ? "a path has no port and no local address" : NULL;
}

/* INVALID: these are not what to connect to or to listen on. */
static PSI_APART int psi_public_refuse(const psi_os_settings *set, const char *wrong, const char *place, int port)
{
    return psi_err_os(set->opt.error, PSOCKET_INVALID, 0, "%s; given \"%.80s\", %d", wrong, place ? place : "", port);
}

PSOCKET_API int psocket_connect(psocket **out, const char *host, int port, const psocket_options *opt)
{
    psi_os_settings set;
    const char *wrong;
    psocket *s;
    psi_dial *d;
    int r = psi_public_settings(&set, out, PSOCKET_CLIENT, opt);
    if (r) return r;
    wrong = psi_public_target(&set, host, port);
    if (wrong) return psi_public_refuse(&set, wrong, host, port);
    if (set.opt.udp && psi_addr_path(host))
        return psi_err_os(set.opt.error, PSOCKET_UNSUPPORTED, 0, "datagrams on a path");
    s = psi_sock_new(&set.opt, PSOCKET_CLIENT, NULL);
    d = s ? (psi_dial *)psi_alloc(sizeof *d) : NULL;
    if (!d) {
        psi_free(s);
        return psi_err_code(set.opt.error, PSOCKET_NOMEM);
    }
    d->port = port;
    d->role = PSI_CLIENT;
    d->set = set;
    s->of.dial = d;
    s->state = PSI_DIALLING;
    psi_sock_clock(s, 0);
    r = psi_dns_start(&d->names, host, set.opt.resolve, set.opt.resolve_user);
    r = r ? psi_sock_note(s, r, 0) : psi_public_open(s);
    if (!r || psi_is_want(r)) {
        *out = s;
        return 0;
    }
    if (set.opt.error) psocket_geterror(s, set.opt.error);
    psi_sock_free(s);
    return r;
}

/* Reads what to listen on into *a and (Unix-domain) *path, a part of address. NULL, or what is wrong. */
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
        if (psi_addr_parse_port(a, address, &there))
            return "listen takes a numeric address, \"address:port\" or \"[address]:port\"";
        if (port && port != there) return "two different ports given";
    }
    a->port = (uint16_t)there;
    return NULL;
}

/* Makes a bound descriptor for s, which listens unless it is for datagrams. */
static int psi_public_bound(psocket *s, const psi_addr *a, const char *path, int dual, const psi_os_settings *set,
                            int *os)
{
    int backlog = set->opt.backlog > 0 ? set->opt.backlog : INT_MAX; /* the system knows its most */
    int flags = (dual ? PSI_OS_DUAL : 0) | (set->opt.reuse_port ? PSI_OS_REUSE_PORT : 0) |
                (s->udp ? PSI_OS_DATAGRAMS : 0);
    int r = psi_os_socket(&s->fd, a->family, s->udp, os);
    s->family = a->family;
    if (!r) r = psi_os_set(s->fd, a->family, s->udp, set, os);
    if (!r) r = psi_os_bind(s->fd, a, path, flags, os);
    if (!r && !s->udp) r = psi_os_listen(s->fd, path, backlog, os);
    if (!r) return 0;
    psi_os_close(s->fd);
    s->fd = -1;
    return r;
}

/* Removes a path that nobody answers on: it was left behind by a process that is gone. Asking with a datagram
   socket tells without a connection: refused if nobody has it, the wrong type otherwise. */
static int psi_public_orphan(const psi_addr *a, const char *path)
{
    psocket_fd fd;
    int os, r = psi_os_socket(&fd, a->family, 1, &os);
    if (!r) r = psi_os_connect(fd, a, path, &os);
    psi_os_close(fd);
    return r == PSOCKET_REFUSED && psi_os_unlink(path, 0) == 0;
}

/* Gives s a descriptor bound to *a, or to something like it. 0 or an error. */
static int psi_public_bind(psocket *s, psi_addr *a, const char *path, int any, const psi_os_settings *set, int *os)
{
    int dual = a->family == PSI_IP6 && !set->opt.v6only, r = psi_public_bound(s, a, path, dual, set, os);
    if (r && dual && r != PSOCKET_ADDRESS_IN_USE && r != PSOCKET_ACCESS && r != PSOCKET_DESCRIPTORS) {
        if (any) a->family = PSI_IP4; /* a system without IPv6, or without dual-stack sockets */
        r = psi_public_bound(s, a, path, 0, set, os);
    }
    if (path && r == PSOCKET_ADDRESS_IN_USE && psi_public_orphan(a, path))
        r = psi_public_bound(s, a, path, 0, set, os);
    return path && r == PSOCKET_REFUSED ? PSOCKET_ADDRESS_NOT_AVAILABLE : r; /* no such folder */
}

/* Makes s, whose descriptor listens, a listener. 0 or PSOCKET_NOMEM. */
static int psi_public_listener(psocket *s, const char *path, const psi_os_settings *set)
{
    psi_listen *l = (psi_listen *)psi_alloc(sizeof *l);
    if (!l || (path && (l->path = psi_strdup(path)) == NULL)) {
        psi_free(l);
        return PSOCKET_NOMEM;
    }
    l->next = -1;
    l->set = *set;
    l->end = psi_listen_end;
    l->process = psi_os_process();
    if (path) l->inode = psi_os_inode(path);
    s->listens = 1;
    s->of.listen = l;
    s->state = PSI_LISTENING;
    return 0;
}

PSOCKET_API int psocket_listen(psocket **out, const char *address, int port, const psocket_options *opt)
{
    psi_os_settings set;
    psi_addr a;
    char where[80];
    const char *path, *wrong;
    int os = 0, any = !address || !*address, r = psi_public_settings(&set, out, PSOCKET_SERVER, opt);
    psocket *s;
    if (r) return r;
    wrong = psi_public_place(&a, &path, address, port, set.opt.udp);
    if (wrong) return psi_public_refuse(&set, wrong, address, port);
    s = psi_sock_new(&set.opt, PSOCKET_SERVER, NULL);
    if (!s) return psi_err_code(set.opt.error, PSOCKET_NOMEM);
    if ((r = psi_public_bind(s, &a, path, any, &set, &os)) != 0) {
        psi_addr_print_port(&a, where);
        psi_err_os(set.opt.error, r, os, "cannot listen on %s%.120s", any ? "all addresses, " : "",
                   path ? address : where);
    } else if (s->udp) {
        psi_sock_on_fd(s, s->fd, s->family, &psi_transport_udp);
        r = psi_os_join(s->fd, &set, &os);
        if (r) psi_err_os(set.opt.error, r, os, "cannot join the group %.100s", opt->multicast_group);
    } else if ((r = psi_public_listener(s, path, &set)) != 0) {
        if (path) psi_os_unlink(path, 0);
        psi_os_close(s->fd);
        psi_err_code(set.opt.error, r);
    }
    if (!r) *out = s;
    else psi_sock_free(s);
    return r;
}

PSOCKET_API int psocket_open(psocket **out, const psocket_transport *t, void *user, int side,
                             const psocket_options *opt)
{
    psi_os_settings set;
    psocket *s;
    int r = psi_public_settings(&set, out, side, opt);
    if (r) return r;
    if (!t || !t->get || !t->put || !t->finish || !t->close || !t->wants)
        return psi_err_os(set.opt.error, PSOCKET_INVALID, 0, "no whole transport");
    s = psi_sock_new(&set.opt, side, side == PSOCKET_SERVER ? PSI_SERVER : PSI_CLIENT);
    if (!s) return psi_err_code(set.opt.error, PSOCKET_NOMEM);
    s->io = t;
    s->user = user;
    s->udp = 0;
    s->state = PSI_OPEN;
    *out = s;
    return 0;
}

PSOCKET_API int psocket_adopt(psocket **out, psocket_fd fd, int side, const psocket_options *opt)
{
    psocket *s;
    psi_addr local = PSI_ZERO;
    psi_os_settings set;
    int os = 0, kind = 0, known, r = psi_public_settings(&set, out, side, opt);
    if (r) return r;
    r = fd == -1 ? (int)PSOCKET_INVALID : psi_os_adopt(fd, &kind, &os);
    if (r) return psi_err_os(set.opt.error, r, os, "cannot adopt the descriptor");
    s = psi_sock_new(&set.opt, side, side == PSOCKET_SERVER ? PSI_SERVER : PSI_CLIENT);
    if (!s || (kind == PSI_OS_LISTENER && psi_public_listener(s, NULL, &set))) {
        psi_sock_free(s);
        return psi_err_code(set.opt.error, PSOCKET_NOMEM);
    }
    psi_os_getname(fd, 0, &local, NULL, 0);
    known = psi_os_getname(fd, 1, &s->peer, NULL, 0) == 0;
    s->udp = kind == PSI_OS_DATAGRAM;
    s->fd = fd;
    s->family = local.family;
    if (!s->listens) psi_sock_on_fd(s, fd, local.family, s->udp && !known ? &psi_transport_udp : &psi_transport_fd);
    *out = s;
    return 0;
}

PSOCKET_API int psocket_pair(psocket **a, psocket **b, const psocket_options *opt)
{
    psocket_fd fd[2];
    psi_os_settings set;
    int os = 0, r = psi_public_settings(&set, a, PSOCKET_CLIENT, opt);
    if (b) *b = NULL;
    if (!r) r = psi_public_settings(&set, b, PSOCKET_SERVER, opt);
    if (r) return r;
    if ((r = psi_os_pair(fd, &os)) != 0) return psi_err_os(set.opt.error, r, os, "cannot make a pair");
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
    psocket_error *e = opt ? opt->error : NULL;
    int r;
    if (out) *out = NULL;
    if (!c || c->udp || c->carries || c->listens || c->state == PSI_CLOSED)
        return psi_err_os(e, PSOCKET_INVALID, 0, "nothing that could carry it");
    if (c->state < PSI_OPEN || c->watch.poller)
        return psi_err_os(e, PSOCKET_BUSY, 0, "the carrier is not connected yet, or in a poller");
    r = psocket_open(out, &psi_transport_wrap, c, c->side ? PSOCKET_SERVER : PSOCKET_CLIENT, opt);
    if (r) return r;
    (*out)->peer = c->peer;
    c->carries = 1;
    c->watch.user = *out;
    c->nonblocking = 1;
    c->due[0] = c->due[1] = 0;
    return 0;
}

/* Takes a connection if one is there. */
static int psi_public_accept(psocket *s, psocket **out)
{
    psi_listen *l = s->of.listen;
    psocket *c;
    int os = 0, r = psi_listen_ready(s);
    if (r <= 0) return r ? r : PSOCKET_WANT_READ;
    c = psi_sock_new(&l->set.opt, PSOCKET_SERVER, PSI_SERVER);
    if (!c) return PSOCKET_NOMEM; /* the connection waits for the next call */
    c->peer = l->next_peer;
    psi_sock_on_fd(c, l->next, c->peer.family, &psi_transport_fd);
    l->next = -1;
    r = psi_os_set(c->fd, c->family, 0, &l->set, &os);
    if (r) {
        psi_sock_free(c);
        return psi_sock_note(s, r, os);
    }
    *out = c;
    return 0;
}

PSOCKET_API int psocket_accept(psocket *s, psocket **out)
{
    ptrdiff_t r;
    if (out) *out = NULL;
    if (!s) return PSOCKET_INVALID;
    if (!s->listens || !out)
        return psi_sock_say(s, PSOCKET_INVALID, s->listens ? "no place for the socket" : "only a listener accepts");
    do r = psi_public_accept(s, out); while (psi_public_again(s, &r, 0));
    psi_public_answer(s, r);
    if (r < 0 && !psi_is_want(r) && s->of.listen->set.opt.error)
        psocket_geterror(s, s->of.listen->set.opt.error);
    return (int)r;
}

PSOCKET_API int psocket_hasconnection(psocket *s)
{
    if (!s) return PSOCKET_INVALID;
    if (!s->listens) return psi_sock_say(s, PSOCKET_INVALID, "only a listener has connections");
    return (int)psi_public_answer(s, psi_listen_ready(s));
}

/*--- data */

/* Hands out what is left of a send, at first also what is empty: how many bytes in all, or what to answer. */
static ptrdiff_t psi_public_send(psocket *s, const char *data, size_t len)
{
    int r = psi_public_settle(s);
    if (r) return r;
    if (psi_sock_late(s, 1)) return PSOCKET_TIMEOUT; /* whatever would still go */
    while (s->sent < len || !len) {
        ptrdiff_t n = psi_sock_send(s, len ? data + s->sent : "", len - s->sent);
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
    do r = psi_public_send(s, (const char *)data, len); while (psi_public_again(s, &r, 1));
    return psi_public_answer(s, r);
}

/* Has what was sent leave, and ends the sending direction if `shut`. */
static int psi_public_finish(psocket *s, int shut)
{
    ptrdiff_t r = psi_public_begin(s, 1);
    if (r) return (int)r;
    do {
        r = psi_public_settle(s);
        if (!r && shut && !s->end_out) s->end_out = PSI_ENDING;
        if (!r) r = s->end_out >= 0 && psi_sock_late(s, 1) ? (int)PSOCKET_TIMEOUT : psi_sock_finish(s);
    } while (psi_public_again(s, &r, 1));
    return (int)psi_public_answer(s, r);
}

PSOCKET_API int psocket_flush(psocket *s) { return psi_public_finish(s, 0); }
PSOCKET_API int psocket_shutdown(psocket *s) { return psi_public_finish(s, 1); }

/* Has a chunk, and n bytes in all, in the ring: 1, or what the caller is to answer. Chunks that are there can
   be taken whatever has become of the socket. */
static ptrdiff_t psi_public_gather(psocket *s, uint32_t n)
{
    if (n > s->limit && n > s->need) s->need = n;
    psi_sock_finish(s); /* what an earlier send or shutdown left, as far as it goes */
    while (psi_ring_empty(&s->ring) || s->ring.bytes < n) {
        int r = psi_public_settle(s);
        if (r) return r;
        if (s->polled && !s->end_in && psi_watch_did(&s->watch, PSI_DID_DRAIN)) {
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
    for (r = 1; psi_ring_empty(&s->ring) && r == 1;) { /* not as psi_public_gather, which believes the poller */
        r = psi_public_settle(s);
        if (!r) r = psi_sock_fill(s);
    }
    if (!psi_ring_empty(&s->ring)) {
        if (s->news == PSI_QUIET) s->news = PSI_TOLD; /* here is one who is content with any chunk */
        r = (ptrdiff_t)psi_ring_front(&s->ring, data);
    }
    return psi_public_answer(s, psi_is_wait(r) ? (ptrdiff_t)PSOCKET_WANT_READ : r);
}

PSOCKET_API int psocket_unrecv(psocket *s, const void *data, size_t len)
{
    int r = psi_public_begin(s, data || !len);
    if (r) return r;
    if (s->state == PSI_CLOSED) return psi_sock_note(s, PSOCKET_CLOSED_HERE, 0);
    if (psi_sock_hs(s)) return psi_sock_say(s, PSOCKET_BUSY, "a TLS handshake is under way");
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
    if (n > PSI_RING_MAX / 2) return psi_sock_say(s, PSOCKET_LIMIT, "read of more than 1 GB");
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
        if (s->ring.bytes >= max) return psi_sock_say(s, PSOCKET_LIMIT, "no delimiter within the limit");
        if ((r = psi_public_gather(s, s->ring.bytes + 1)) != 1) return r;
    }
    return (ptrdiff_t)end;
}

PSOCKET_API ptrdiff_t psocket_read_until(psocket *s, const char *delimiter, size_t max, const void **data)
{
    ptrdiff_t r;
    if (data) *data = NULL;
    if ((r = psi_public_begin(s, data && delimiter && *delimiter && max)) != 0) return r;
    if (max > PSI_RING_MAX / 2) max = PSI_RING_MAX / 2;
    if (strlen(delimiter) > max)
        return psi_sock_say(s, PSOCKET_LIMIT, "the delimiter is longer than the limit");
    do r = psi_public_seek(s, delimiter, (uint32_t)max); while (psi_public_again(s, &r, 0));
    if (r > 0) r = psi_public_take(s, (uint32_t)r, data);
    return psi_public_answer(s, r);
}

PSOCKET_API size_t psocket_pending(const psocket *s) { return s ? s->ring.bytes : 0; }

PSOCKET_API void psocket_close(psocket *s)
{
    if (!s) return;
    psi_sock_close(s);
    psi_check_sock(s);
}

PSOCKET_API void psocket_free(psocket *s) { psi_sock_free(s); }

/*--- TLS */

PSOCKET_API int psocket_starttls(psocket *s, psocket_tls *tls, const char *server_name)
{
    int r;
    if (!s) return PSOCKET_INVALID;
    if (s->listens) return psi_sock_say(s, PSOCKET_INVALID, "a listener speaks no TLS");
    if (psi_sock_info(s) && s->state != PSI_CLOSED) return psi_sock_note(s, PSOCKET_ALREADY_TLS, 0);
    if (s->udp) return psi_sock_say(s, PSOCKET_UNSUPPORTED, "TLS is for stream sockets only");
    if (!psi_sock_hs(s)) {
        r = psi_public_settle(s);
        if (r && !(psi_sock_dial(s) && psi_is_wait(r))) return (int)psi_public_answer(s, r);
        if (s->end_out)
            return (int)psi_public_answer(s, s->end_out > 0 ? (int)PSOCKET_CLOSED_HERE : (int)s->end_out);
        if (!PSI_TLS) return (int)psi_public_answer(s, psi_sock_end(s, PSOCKET_UNSUPPORTED));
        if ((r = psi_sock_starttls(s, tls, server_name)) != 0) return (int)psi_public_answer(s, r);
    }
    return (int)psi_public_answer(s, psi_public_open(s));
}

PSOCKET_API int psocket_getquestion(psocket *s, psocket_question *q)
{
    const psocket_question *asked = s && psi_sock_hs(s) ? psi_hs_asks(psi_sock_hs(s)) : NULL;
    if (q) memset(q, 0, sizeof *q);
    if (!s) return PSOCKET_INVALID;
    if (!asked || !q) return psi_sock_say(s, PSOCKET_INVALID, "no place for the question, or none is asked");
    *q = *asked;
    return 0;
}

PSOCKET_API int psocket_decide(psocket *s, int code)
{
    if (!s) return PSOCKET_INVALID;
    if (!psi_sock_hs(s) || code > 0 || psi_hs_decide(psi_sock_hs(s), code))
        return psi_sock_say(s, PSOCKET_INVALID, "no decision is asked for");
    return 0;
}

PSOCKET_API int psocket_signed(psocket *s, const void *sig, size_t len)
{
    if (!s) return PSOCKET_INVALID;
    if (!psi_sock_hs(s) || (!sig && len) || psi_hs_signed(psi_sock_hs(s), sig, len))
        return psi_sock_say(s, PSOCKET_INVALID, "no signature is asked for");
    return 0;
}

PSOCKET_API ptrdiff_t psocket_tls_export(psocket *s, const char *label, const void *context, size_t context_len,
                                         void *out, size_t n)
{
    ptrdiff_t r;
    if (!s) return PSOCKET_INVALID;
    if (!psi_sock_rec(s) || !label || !out || !n)
        return psi_sock_say(s, PSOCKET_INVALID, "nothing to export, or no TLS");
    r = psi_tls_export(s->of.tls->rec, label, context, context_len, out, n);
    if (r == PSOCKET_UNSUPPORTED)
        return psi_sock_say(s, PSOCKET_UNSUPPORTED, "exporting needs TLS 1.3 or the extended master secret");
    return r < 0 ? psi_sock_say(s, PSOCKET_INVALID, "this label, context and length cannot be exported") : r;
}

PSOCKET_API int psocket_gettlsinfo(const psocket *s, psocket_tlsinfo *info)
{
    if (info) memset(info, 0, sizeof *info);
    if (!s || !info || !psi_sock_info(s)) return PSOCKET_INVALID;
    psi_tlsinfo_get(s->of.tls->info, info);
    return 0;
}

PSOCKET_API int psocket_istls(const psocket *s) { return s && psi_sock_info(s); }

/*--- state */

/* The address of the peer, or of the local end, and the path if it has one. */
static int psi_public_end(const psocket *s, int remote, psi_addr *a, char *path, size_t path_size)
{
    if (!s || (remote && !s->peer.family)) return PSOCKET_INVALID;
    if (remote) {
        if (s->fd != -1) psi_os_getname(s->fd, 1, a, path, path_size);
        *a = s->peer;
        return 0;
    }
    while (s->io == &psi_transport_wrap) s = (const psocket *)s->user;
    if (s->fd == -1) return s->state == PSI_CLOSED ? PSOCKET_CLOSED_HERE : PSOCKET_INVALID;
    return psi_os_getname(s->fd, 0, a, path, path_size);
}

static int psi_public_name(const psocket *s, int remote, char *ip, size_t ip_size, int *port)
{
    char text[PSI_DNS_HOST] = "";
    psi_addr a = PSI_ZERO;
    size_t n;
    int r = psi_public_end(s, remote, &a, text, sizeof text);
    if (r) memset(&a, 0, sizeof a);
    psi_addr_normalise(&a);
    if (a.family != PSI_UNIX) psi_addr_print(&a, text);
    n = strlen(text) + 1;
    if (port) *port = a.port;
    if (ip && ip_size) *ip = 0;
    if (ip && ip_size && n > ip_size) return PSOCKET_LIMIT;
    if (ip && ip_size) memcpy(ip, text, n);
    return r;
}

PSOCKET_API int psocket_getpeer(const psocket *s, char *ip, size_t ip_size, int *port)
{
    return psi_public_name(s, 1, ip, ip_size, port);
}

PSOCKET_API int psocket_getlocal(const psocket *s, char *ip, size_t ip_size, int *port)
{
    return psi_public_name(s, 0, ip, ip_size, port);
}

/* A UDP socket that is still looking for its peer is given another one. */
static int psi_public_redirect(psocket *s, const char *ip, int port)
{
    psocket_resolve *names;
    int r = psi_dns_start(&names, ip, NULL, NULL);
    if (r) return r;
    psi_sock_unwatch(s);
    psi_dns_release(s->of.dial->names);
    s->of.dial->names = names;
    s->of.dial->port = port;
    s->of.dial->next = 0;
    r = psi_sock_step(s);
    return psi_is_wait(r) ? 0 : r;
}

PSOCKET_API int psocket_setpeer(psocket *s, const char *ip, int port)
{
    psi_addr a;
    int os = 0, r;
    if (!s) return PSOCKET_INVALID;
    if (s->state == PSI_CLOSED) return psi_sock_note(s, PSOCKET_CLOSED_HERE, 0);
    if (!s->udp) return psi_sock_say(s, PSOCKET_UNSUPPORTED, "setpeer is for UDP sockets");
    if (!ip || port < 1 || port > 65535 || !psi_addr_parse(&a, ip, strlen(ip)))
        return psi_err_alert(psi_sock_error(s, PSOCKET_INVALID), PSOCKET_INVALID, -1, "not an address and port: \"%.80s\", %d",
                             ip ? ip : "", port);
    if (psi_sock_dial(s)) return (int)psi_public_answer(s, psi_public_redirect(s, ip, port));
    a.port = (uint16_t)port;
    psi_addr_normalise(&a);
    if (s->io == &psi_transport_fd) {
        if (a.family != s->family) return psi_sock_say(s, PSOCKET_INVALID, "the address family cannot change");
        r = psi_os_connect(s->fd, &a, NULL, &os);
        if (r) return psi_sock_note(s, r, os);
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
    if (s->state < PSI_OPEN) psi_sock_step(s);
    while (s->state == PSI_OPEN && !s->udp && psi_sock_fill(s) == 1) {}
    psi_public_answer(s, 0);
    return s->state <= PSI_LISTENING && !s->end_in && !s->end_out;
}

PSOCKET_API int psocket_isudp(const psocket *s) { return s && s->udp; }

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
    psi_public_answer(s, 0);
}

PSOCKET_API void psocket_setnonblocking(psocket *s, int on) { if (s) s->nonblocking = on != 0; }

PSOCKET_API psocket_fd psocket_getfd(const psocket *s) { return s ? s->fd : -1; }

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
    return (int)psi_public_answer(s, psi_sock_step(s));
}

PSOCKET_API int psocket_wait(psocket *s, int events, int ms)
{
    int64_t end = ms < 0 ? INT64_MAX : psi_os_now() + ms;
    int r, ready, calls = events & (PSOCKET_READ | PSOCKET_WRITE);
    if (!s) return PSOCKET_INVALID;
    if (!calls || (events & ~(calls | PSOCKET_SIGNAL)))
        return psi_sock_say(s, PSOCKET_INVALID, "no events, or unknown ones");
    for (;;) {
        ready = psi_sock_look(s, calls, 0, 0);
        if (ready) return (int)psi_public_answer(s, psi_sock_told(s, ready));
        if (ms >= 0 && (ms == 0 || psi_os_now() >= end)) return (int)psi_public_answer(s, 0);
        if ((r = psi_public_sleep(s, calls, end)) < 0 || (r & events)) return (int)psi_public_answer(s, r);
    }
}

PSOCKET_API int psocket_pollset(psocket *s, int events, psocket_pollfd *fds, int cap, int *ms)
{
    int n;
    if (!s) return PSOCKET_INVALID;
    if (!fds || cap < 0 || !ms || (events & ~(PSOCKET_READ | PSOCKET_WRITE)))
        return psi_sock_say(s, PSOCKET_INVALID, "no place for the answer, or unknown events");
    n = psi_sock_wants(s, events, fds, cap, ms);
    if (n < 0) return (int)psi_public_answer(s, n);
    if (psi_sock_told(s, psi_sock_ready(s, events))) *ms = 0;
    return n;
}

PSOCKET_API int64_t psocket_now(void) { return psi_os_now(); }

/*==================================================================================================
 * >>lua
 * The Lua module: Lua 5.1 to 5.5 and LuaJIT from one source, on the public functions, some fields of the socket (`limit`,
 * `timeout`, `polled`, which poller it is in, and a listener's place for errors), and psi_os_poll for a sleep.
 *
 * Sockets are nonblocking in C; the waiting is done here. An operation is a function that tries. When it has to wait in a
 * coroutine, the coroutine yields no values, and whoever resumes it makes the operation try again. Outside it blocks.
 *
 * A task is a coroutine that a scheduler of ours resumes. Before it yields, its psi_lua_task says what it waits for
 * (object, direction) and the object says who waits; both are undone before it is resumed. What any other coroutine
 * waits for is noted at the object alone, so that a second one is refused: who resumes it is not our concern, and a task
 * that such a coroutine runs inside is resumed in every turn.
 *
 * Memory is taken before an object is changed, and what was looked at before is looked at again: taking memory may run
 * finalizers. Objects are made before what they own, so an error that Lua raises leaks nothing.
 *
 * The reference for users is examples/annotations/psocket.lua.
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

#if LUA_VERSION_NUM >= 504
#define PSI_LUA_USERDATA(L, n, values) lua_newuserdatauv(L, n, values)
#define PSI_LUA_GETVALUE(L, i) ((void)lua_getiuservalue(L, i, 1))
#define PSI_LUA_SETVALUE(L, i) ((void)lua_setiuservalue(L, i, 1))
#elif LUA_VERSION_NUM >= 502
#define PSI_LUA_USERDATA(L, n, values) lua_newuserdata(L, n)
#define PSI_LUA_GETVALUE(L, i) ((void)lua_getuservalue(L, i))
#define PSI_LUA_SETVALUE(L, i) ((void)lua_setuservalue(L, i))
#else
#define PSI_LUA_USERDATA(L, n, values) lua_newuserdata(L, n)
#define PSI_LUA_GETVALUE(L, i) lua_getfenv(L, i)
#define PSI_LUA_SETVALUE(L, i) ((void)lua_setfenv(L, i))
#endif

#if LUA_VERSION_NUM >= 502
#define PSI_LUA_COUNT(L, i) luaL_len(L, i)
#define PSI_LUA_LENGTH(L, i) ((size_t)lua_rawlen(L, i))
#else
#define PSI_LUA_COUNT(L, i) lua_objlen(L, i)
#define PSI_LUA_LENGTH(L, i) lua_objlen(L, i)
#endif

#if LUA_VERSION_NUM == 501 && defined(LUA_OK)
#define PSI_LUA_JIT 1 /* LuaJIT: Lua 5.1 has no LUA_OK */
#else
#define PSI_LUA_JIT 0
#endif

#define PSI_LUA_CONTINUES (LUA_VERSION_NUM >= 503) /* C functions yield and go on; else Lua's do it for them */
#define PSI_LUA_COPIES (LUA_VERSION_NUM >= 504) /* a string is there before finalizers run for it */
#define PSI_LUA_TELLS (LUA_VERSION_NUM >= 503 || PSI_LUA_JIT) /* whether a yield will succeed */

#if LUA_VERSION_NUM >= 503
#define PSI_LUA_PUSH_WHOLE(L, n) lua_pushinteger(L, (lua_Integer)(n))
#else
#define PSI_LUA_PUSH_WHOLE(L, n) lua_pushnumber(L, n)
#endif

#ifdef PSOCKET_NO_TLS
#define PSI_LUA_SET_TIME(tls, now) ((void)(tls))
#else
#define PSI_LUA_SET_TIME(tls, now) ((tls)->clock_user = (void *)(uintptr_t)(now))
#endif

#ifdef _WIN32
#define PSI_LUA_SLICE 500 /* longest wait, in milliseconds: nothing tells of an interrupt there */
#else
#define PSI_LUA_SLICE (-1)
#endif

#define PSI_LUA_CHUNK "=psocket" /* what the functions of our scripts have for a source */
#define PSI_LUA_DEPTH 150 /* not every version bounds how deep coroutines resume each other */

#if LUA_VERSION_NUM >= 504
#define PSI_LUA_RESUME(co, L, n, results) lua_resume(co, L, n, results)
#elif LUA_VERSION_NUM >= 502
#define PSI_LUA_RESUME(co, L, n, results) (*(results) = -1, lua_resume(co, L, n))
#else
#define PSI_LUA_RESUME(co, L, n, results) ((void)(L), *(results) = -1, lua_resume(co, n))
#endif

/* Closes the to-be-closed variables of a coroutine that has failed. */
#if LUA_VERSION_NUM >= 505 || (LUA_VERSION_NUM == 504 && LUA_VERSION_RELEASE_NUM >= 50406)
#define PSI_LUA_UNWIND(co, L) ((void)lua_closethread(co, L))
#elif LUA_VERSION_NUM == 504
#define PSI_LUA_UNWIND(co, L) ((void)lua_resetthread(co))
#else
#define PSI_LUA_UNWIND(co, L) ((void)0)
#endif

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

/* Does a coroutine that noted what it waits for wait for it? Before Lua 5.3 nothing tells whether a yield will
   fail (as in pcall in 5.1): if it did, the coroutine went on without our function on its stack. */
static int psi_lua_waits(lua_State *co)
{
    lua_Debug frame;
    if (psi_lua_state(co) != PSI_LUA_SUSPENDED) return 0;
    return PSI_LUA_TELLS || (lua_getstack(co, 1, &frame) && lua_getinfo(co, "S", &frame) &&
                             strcmp(frame.source, PSI_LUA_CHUNK) == 0);
}

#if LUA_VERSION_NUM >= 503 || PSI_LUA_JIT
#define PSI_LUA_YIELDABLE(L) lua_isyieldable(L)
#else
#define PSI_LUA_YIELDABLE(L) psi_lua_in_coroutine(L)
static int psi_lua_in_coroutine(lua_State *L)
{
    int first = lua_pushthread(L);
    lua_pop(L, 1);
    return !first;
}
#endif

/*--- objects */

/* Indices of luaopen_psocket's stack: tables, and metatables that are in the registry, too. */
enum {
    PSI_LUA_VM = 1, PSI_LUA_MODULE, PSI_LUA_SOCKET, PSI_LUA_LISTENER, PSI_LUA_SETTINGS, PSI_LUA_QUEUE,
    PSI_LUA_CORE,  /* of what is in the table that a scheduler is, */
    PSI_LUA_CLASS, /* whose metatable this is */
    PSI_LUA_HIDDEN /* for the script */
};

static const char *const psi_lua_names[] = { NULL, NULL, NULL, "psocket.socket", "psocket.listener", "psocket.tls",
                                             "psocket.queue", "psocket.core", "psocket.scheduler" };

/* What the script returns, and psi_lua_copy, in the registry. */
enum {
    PSI_LUA_NAMES,     /* public function -> name */
    PSI_LUA_NOTE, PSI_LUA_FINISH, PSI_LUA_HEED, PSI_LUA_TRACE,
    PSI_LUA_STRANGERS, /* address of a waiter -> coroutine that is no task -> its object; weak */
    PSI_LUA_COPY, PSI_LUA_REFS
};

typedef struct psi_lua_sock psi_lua_sock;

enum { PSI_LUA_YIELDED, PSI_LUA_WOKEN }; /* why a task is ready: by itself, or what it waits for has come */

typedef struct psi_lua_task {
    psi_link link;   /* among the ready ones, among those that somebody is to wake, or among the unused */
    lua_State *co;       /* kept alive by the scheduler's table; NULL: unused */
    psi_link joiners; /* who waits for its end */
    psi_lua_sock *on;    /* what it waits for, if it is a socket */
    psi_lua_sock *own;   /* to be closed when it ends */
    psocket_watch *watch; /* its timer */
    struct psi_lua_sched *sched; /* NULL: none, or no more */
    uint8_t waits;       /* it has said what it waits for, and is left alone until then, */
    uint8_t timed;       /* or until its timer goes off */
    uint8_t queued;      /* it is ready */
    uint8_t bound;       /* made by bind: its socket is at the bottom of its stack; 2: and is being finished */
} psi_lua_task;

static psi_lua_task psi_lua_stranger; /* stands for a coroutine in PSI_LUA_STRANGERS, and is never changed */

/* A scheduler. Its uservalue is a table: coroutine -> psi_lua_task, and by number the blocks that these lie
   in. */
typedef struct psi_lua_sched {
    psi_link ready, now; /* to be resumed in the next turn, and in this one (or one within it) */
    psi_link unused;
    struct psi_lua_vm *vm;
    psocket_poller *poller;  /* NULL once closed */
    psocket_watch *signals;
    uint32_t live;
    uint32_t inside;         /* how many of its tasks are being resumed, one from within the other */
    uint32_t ran;            /* how many were, and turns begun, since psi_lua_bury */
    uint8_t urgent;          /* one of the ready ones was woken */
    uint8_t interrupted;     /* a signal came: the hook of an interrupt may be to be run */
} psi_lua_sched;

/* Bytes in the buffer of a socket. */
typedef struct psi_lua_loan {
    psi_lua_sock *k;
    const void *bytes;
    size_t len;
} psi_lua_loan;

/* One per Lua. */
typedef struct psi_lua_vm {
    psi_lua_task *at;      /* the task that its scheduler resumes now */
    const void *meta[PSI_LUA_HIDDEN]; /* addresses of the metatables */
    uint32_t ops;          /* what the task at hand has done since it was resumed or had to wait */
    int depth;             /* how many tasks are being resumed, one from within the other */
    int ref[PSI_LUA_REFS];
} psi_lua_vm;

/* A socket, or a listener. */
struct psi_lua_sock {
    psocket *s;              /* NULL: collected, or carried by another one */
    psi_lua_task *waiter[2]; /* who waits for PSOCKET_READ and for PSOCKET_WRITE */
    psi_lua_task *owner;     /* closes it when it ends */
    int timeout;             /* of each operation, in milliseconds; 0 none */
    unsigned blocks : 1;     /* it does not yield */
    unsigned lent : 1;       /* bytes in its buffer are being copied: it must not be touched, */
    unsigned closing : 1;    /* and is to be closed afterwards */
    unsigned asks : 1;       /* its handshake has asked a question */
    unsigned promised : 1;   /* hasconnection has said that accept will not yield */
};

/* A queue. Its uservalue is a table of what is in it: count items from index first on, which begin anew behind
   INT_MAX. */
typedef struct psi_lua_fifo {
    psi_link ring; /* of tasks that wait for an item; without prev: collected */
    uint32_t first, count;
    int closed;
} psi_lua_fifo;

/* Made by tls and starttls. */
typedef struct psi_lua_settings {
    psocket_tls *tls; /* NULL: collected */
    int timeout;      /* of handshakes, in milliseconds; -1: the socket's */
} psi_lua_settings;

typedef struct psi_lua_op psi_lua_op;

/* A function of the module. Upvalue 1 is the psi_lua_vm, behind which all of these are, 2 this. */
typedef struct psi_lua_function {
    const char *key; /* where it lies in a table */
    lua_CFunction f;
    int (*try_it)(lua_State *, psi_lua_op *); /* of those that wait */
    uint8_t in, of;  /* that table, and the metatable of its objects */
    psi_lua_vm *vm;
} psi_lua_function;

static const psi_lua_function *psi_lua_this(lua_State *L)
{
    return (const psi_lua_function *)lua_touserdata(L, lua_upvalueindex(2));
}

static psi_lua_vm *psi_lua_here(lua_State *L)
{
    return psi_lua_this(L)->vm;
}

static void psi_lua_setmetatable(lua_State *L, int class_of)
{
    lua_getfield(L, LUA_REGISTRYINDEX, psi_lua_names[class_of]);
    lua_setmetatable(L, -2);
}

/* Pushes what lies in the registry. */
static void psi_lua_get(lua_State *L, int ref)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, psi_lua_here(L)->ref[ref]);
}

static psi_lua_sock *psi_lua_new_sock(lua_State *L, int class_of, int timeout, int blocks)
{
    psi_lua_sock *k = (psi_lua_sock *)PSI_LUA_USERDATA(L, sizeof *k, 0);
    memset((void *)k, 0, sizeof *k);
    k->timeout = timeout;
    k->blocks = blocks != 0;
    psi_lua_setmetatable(L, class_of);
    return k;
}

/* Makes an empty ring. */
static void psi_lua_ring(psi_link *ring) { ring->next = ring->prev = ring; }

static int psi_lua_empty(const psi_link *ring) { return ring->next == ring; }

/*--- errors and failures */

/* The level of the user's function that called this module; *callee says how it called. */
static int psi_lua_caller(lua_State *L, lua_Debug *callee)
{
    lua_Debug frame;
    int level = 0;
    memset(callee, 0, sizeof *callee);
    while (lua_getstack(L, level + 1, &frame) && lua_getinfo(L, "S", &frame) &&
           (strcmp(frame.source, PSI_LUA_CHUNK) == 0 || strcmp(frame.what, "tail") == 0)) level++;
    if (lua_getstack(L, level, callee)) lua_getinfo(L, "n", callee);
    return level + 1;
}

/* Raises an error that points to the user's line. */
static int psi_lua_raise(lua_State *L, const char *format, ...)
{
    lua_Debug callee;
    va_list args;
    luaL_where(L, psi_lua_caller(L, &callee));
    va_start(args, format);
    lua_pushvfstring(L, format, args);
    va_end(args);
    lua_concat(L, 2);
    return lua_error(L);
}

/* The same about an argument of the public function that the user has called. */
static int psi_lua_argument(lua_State *L, int arg, const char *problem)
{
    lua_Debug callee;
    const char *name;
    psi_lua_caller(L, &callee);
    psi_lua_get(L, PSI_LUA_NAMES);
    lua_getinfo(L, "f", &callee);
    lua_rawget(L, -2);
    name = lua_isstring(L, -1) ? lua_tostring(L, -1) : psi_lua_this(L)->key;
    if (callee.namewhat && strcmp(callee.namewhat, "method") == 0) arg--;
    if (arg == 0) return psi_lua_raise(L, "calling '%s' on a bad self (%s)", name, problem);
    return psi_lua_raise(L, "bad argument #%d to '%s' (%s)", arg, name, problem);
}

static int psi_lua_expected(lua_State *L, int arg, const char *what)
{
    return psi_lua_argument(L, arg, lua_pushfstring(L, "%s expected, got %s", what, luaL_typename(L, arg)));
}

static int psi_lua_fail(lua_State *L, int code, const char *text)
{
    const char *name = psocket_codename(code);
    lua_pushnil(L);
    lua_pushstring(L, text && *text ? text : psocket_strerror(code));
    lua_pushstring(L, name ? name : "OS");
    return 3;
}

/* With the socket's own words, if they are about this. */
static int psi_lua_fail_sock(lua_State *L, const psi_lua_sock *k, int code)
{
    psocket_error e;
    if (psi_is_want(code)) code = PSOCKET_BUSY; /* in the midst of a handshake that asks */
    if (code == PSOCKET_BUSY || code == PSOCKET_TIMEOUT || code == PSOCKET_CLOSED || code == PSOCKET_CLOSED_HERE) {
        if (k && k->s) psi_sock_note(k->s, code, 0); /* it may be ours, and geterror is to agree */
        return psi_lua_fail(L, code, NULL);
    }
    return psi_lua_fail(L, code, psocket_geterror(k->s, &e) == code ? e.text : NULL);
}

/*--- arguments */

/* Is the function at hand known by this name? */
static int psi_lua_named(lua_State *L, const char *name)
{
    return strcmp(psi_lua_this(L)->key, name) == 0;
}

/* The userdata at index, if it is of this class of vm. */
static void *psi_lua_is(lua_State *L, int index, const psi_lua_vm *vm, int class_of)
{
    void *p = lua_touserdata(L, index);
    if (!p || !lua_getmetatable(L, index)) return NULL;
    if (lua_topointer(L, -1) != vm->meta[class_of]) p = NULL;
    lua_pop(L, 1);
    return p;
}

/* The object at 1, of the class that the function at hand is for. */
static void *psi_lua_object(lua_State *L)
{
    const psi_lua_function *f = psi_lua_this(L);
    void *p = psi_lua_is(L, 1, f->vm, f->of);
    if (p) return p;
    lua_settop(L, 1);
    psi_lua_expected(L, 1, psi_lua_names[f->of]);
    return NULL;
}

/* The socket or listener at 1, which must not be lent. */
static psi_lua_sock *psi_lua_self(lua_State *L)
{
    psi_lua_sock *k = (psi_lua_sock *)psi_lua_object(L);
    if (k->lent) psi_lua_raise(L, "the socket is being read: this finalizer came in between");
    return k;
}

static const char *psi_lua_check_string(lua_State *L, int arg, size_t *len)
{
    if (!lua_isstring(L, arg)) psi_lua_expected(L, arg, "string");
    return lua_tolstring(L, arg, len);
}

/* A string that C must not take for a shorter one. */
static const char *psi_lua_check_text(lua_State *L, int arg)
{
    size_t len;
    const char *text = psi_lua_check_string(L, arg, &len);
    if (strlen(text) != len) psi_lua_argument(L, arg, "contains a zero byte");
    return text;
}

static double psi_lua_check_number(lua_State *L, int arg)
{
    if (!lua_isnumber(L, arg)) psi_lua_expected(L, arg, "number");
    return (double)lua_tonumber(L, arg);
}

/* The port at arg, or -1 if it is a number but no port. */
static int psi_lua_check_port(lua_State *L, int arg)
{
    double port = psi_lua_check_number(L, arg);
    return port >= 0 && port <= INT_MAX && port == (double)(int)port ? (int)port : -1;
}

/* Seconds at index, as milliseconds rounded up. */
static int psi_lua_milliseconds(lua_State *L, int index)
{
    double ms = (double)lua_tonumber(L, index) * 1000;
    int whole = ms < INT_MAX ? (int)ms : INT_MAX; /* more is for ever */
    return whole < ms && whole < INT_MAX ? whole + 1 : whole;
}

/* The time in seconds at arg, in milliseconds. */
static int psi_lua_check_time(lua_State *L, int arg)
{
    if (!(lua_isnumber(L, arg) && lua_tonumber(L, arg) >= 0)) psi_lua_argument(L, arg, "not a time in seconds");
    return psi_lua_milliseconds(L, arg);
}

/*--- options: tables whose fields have known names */

typedef struct psi_lua_options {
    psocket_options o;
    psocket_tls_options t;
    psocket_error e;
    int yield;          /* in coroutines */
    int resolve, clock; /* there is such a function */
    int identities;     /* the stack's index of their list, 0 none */
} psi_lua_options;

typedef struct psi_lua_option {
    const char *name;
    const char *takers; /* who takes it: c one call, s a new socket, t TLS, i an identity */
    char kind;          /* t time, i int, j int or -1, z size, b boolean, s text, x bytes, f function, c names with colons
                           between, n names, p pins, k keys, l list for later, a client_auth, v version */
    size_t at;          /* where it goes, */
    size_t more;        /* and its length or number; or the most it may be */
} psi_lua_option;

#define PSI_LUA_O(field) offsetof(psi_lua_options, o.field)
#define PSI_LUA_T(field) offsetof(psi_lua_options, t.field)
#define PSI_LUA_I(field) offsetof(psocket_identity, field)
#define PSI_LUA_OPTION(name, kind, most) { #name, "s", kind, PSI_LUA_O(name), most }
#define PSI_LUA_SETTING(name, kind, most) { #name, "t", kind, PSI_LUA_T(name), most }

static const psi_lua_option psi_lua_known[] = {
    { "timeout", "cst", 't', PSI_LUA_O(timeout_ms), 0 },
    { "attempt_delay", "s", 't', PSI_LUA_O(attempt_delay_ms), 0 },
    { "local_address", "s", 's', PSI_LUA_O(local), 0 },
    { "resolve", "s", 'f', offsetof(psi_lua_options, resolve), 0 },
    { "yield", "s", 'b', offsetof(psi_lua_options, yield), 0 },
    PSI_LUA_OPTION(backlog, 'i', 65535), PSI_LUA_OPTION(broadcast, 'b', 0),
    PSI_LUA_OPTION(keepalive, 'i', 32767), PSI_LUA_OPTION(local_port, 'i', 65535),
    PSI_LUA_OPTION(multicast_group, 's', 0), PSI_LUA_OPTION(multicast_interface, 's', 0),
    PSI_LUA_OPTION(multicast_noloop, 'b', 0), PSI_LUA_OPTION(multicast_ttl, 'i', 255),
    PSI_LUA_OPTION(recv_limit, 'z', 0x3fffffff), PSI_LUA_OPTION(reuse_port, 'b', 0),
    PSI_LUA_OPTION(udp, 'b', 0), PSI_LUA_OPTION(v6only, 'b', 0),
    { "alpn", "t", 'n', PSI_LUA_T(alpn), PSI_LUA_T(alpn_count) },
    { "ca", "t", 'x', PSI_LUA_T(ca), PSI_LUA_T(ca_len) },
    { "clock", "t", 'f', offsetof(psi_lua_options, clock), 0 },
    { "identities", "t", 'l', offsetof(psi_lua_options, identities), 0 },
    { "pins", "t", 'p', PSI_LUA_T(spki_pins), PSI_LUA_T(spki_pin_count) },
    { "ticket_keys", "t", 'k', PSI_LUA_T(ticket_keys), PSI_LUA_T(ticket_key_count) },
    PSI_LUA_SETTING(ca_dir, 's', 0), PSI_LUA_SETTING(ca_file, 's', 0),
    PSI_LUA_SETTING(client_auth, 'a', 0), PSI_LUA_SETTING(decide, 'f', 0),
    PSI_LUA_SETTING(groups, 'c', 0), PSI_LUA_SETTING(insecure_no_name, 'b', 0),
    PSI_LUA_SETTING(insecure_no_verify, 'b', 0), PSI_LUA_SETTING(max_fragment, 'z', 16384),
    PSI_LUA_SETTING(max_version, 'v', 0), PSI_LUA_SETTING(min_version, 'v', 0),
    PSI_LUA_SETTING(session_cache, 'j', 0x3fffffff), PSI_LUA_SETTING(sigalgs, 'c', 0),
    PSI_LUA_SETTING(suites, 'c', 0), PSI_LUA_SETTING(tickets, 'j', 255),
    { "cert_file", "i", 's', PSI_LUA_I(cert_file), 0 },
    { "chain", "i", 'x', PSI_LUA_I(chain), PSI_LUA_I(chain_len) },
    { "key_file", "i", 's', PSI_LUA_I(key_file), 0 },
    { "private_key", "i", 'x', PSI_LUA_I(key), PSI_LUA_I(key_len) },
    { "sign", "i", 'f', PSI_LUA_I(ask), 0 },
    { NULL, NULL, 0, 0, 0 }
};

/* Options that are being read. */
typedef struct psi_lua_source {
    int arg;    /* which argument they are, */
    int item;   /* or in which certificate of its list, from 1 */
    int asks;   /* the stack's index of a table for what is a function; 0: that is left */
    char taker;
} psi_lua_source;

/* Raises an error about an option, or (name "") about all. */
static int psi_lua_wrong(lua_State *L, const psi_lua_source *from, const char *name, const char *problem)
{
    problem = lua_pushfstring(L, "%s%s", name, problem);
    if (from->item) problem = lua_pushfstring(L, "certificate %d: %s", from->item, problem);
    return psi_lua_argument(L, from->arg, problem);
}

/* How many letters have to be changed, put in or left out to make b, an option's name, of a. */
static int psi_lua_distance(const char *a, const char *b)
{
    int row[40], n = (int)strlen(b), i, j;
    for (j = 0; j <= n; j++) row[j] = j;
    for (i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (j = 1; j <= n; j++) {
            int changed = diagonal + (a[i - 1] != b[j - 1]), other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = changed < other ? changed : other;
        }
    }
    return row[n];
}

/* The name of an option, at index, must be known. */
static void psi_lua_check_name(lua_State *L, const psi_lua_source *from, int index)
{
    const psi_lua_option *o, *nearest = NULL;
    const char *name;
    char shown[56];
    size_t len;
    int best = INT_MAX;
    if (lua_type(L, index) == LUA_TNUMBER && from->taker == 't') return; /* a certificate */
    if (lua_type(L, index) != LUA_TSTRING)
        psi_lua_wrong(L, from, "", lua_pushfstring(L, "the name of an option is a %s", luaL_typename(L, index)));
    name = lua_tolstring(L, index, &len);
    snprintf(shown, sizeof shown, "%.50s%s", name, len > 50 ? "..." : "");
    for (o = psi_lua_known; o->name; o++) {
        int d = strchr(o->takers, from->taker) ? psi_lua_distance(shown, o->name) : INT_MAX;
        if (d == 0 && len == strlen(o->name)) return;
        if (d < best) nearest = o;
        if (d < best) best = d;
    }
    psi_lua_wrong(L, from, "", lua_pushfstring(L, "unknown option \"%s\"; the nearest is \"%s\"", shown, nearest->name));
}

/* Puts 32 bytes in place of the 64 hexadecimal digits on top, if it is that. */
static void psi_lua_unhex(lua_State *L)
{
    size_t n = 0, i;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : "";
    char out[32];
    if (n != 64 || strspn(text, "0123456789ABCDEFabcdef") != n) return;
    for (i = 0; i < n; i++) {
        int digit = text[i] <= '9' ? text[i] - '0' : (text[i] | 32) - 'a' + 10;
        out[i / 2] = (char)(i & 1 ? out[i / 2] | digit : digit << 4);
    }
    lua_pushlstring(L, out, sizeof out);
    lua_replace(L, -2);
}

/* The length of the list at index. What is longer than any may be still is when it is cut. */
static int psi_lua_length(lua_State *L, int index)
{
    double n = (double)PSI_LUA_COUNT(L, index);
    return n < 0 ? 0 : n < 5000 ? (int)n : 5000;
}

/* Pushes what is in the list on top, joined: names, or pins and keys of 32 bytes. How many they are. */
static int psi_lua_join(lua_State *L, const psi_lua_source *from, const psi_lua_option *o)
{
    const char *what = o->kind == 'p' ? "pin" : o->kind == 'k' ? "key" : "name";
    int list = lua_gettop(L), binary = *what != 'n', i, n;
    if (!lua_istable(L, list)) psi_lua_wrong(L, from, o->name, lua_pushfstring(L, " must be a list of %ss", what));
    n = psi_lua_length(L, list);
    if (binary && !n) psi_lua_wrong(L, from, o->name, lua_pushfstring(L, " must be a list of %ss: it is empty", what));
    lua_pushliteral(L, "");
    for (i = 1; i <= n; i++) {
        lua_pushlstring(L, o->kind == 'c' ? ":" : "", i > 1 && !binary);
        lua_pushinteger(L, i);
        lua_gettable(L, list);
        if (binary) psi_lua_unhex(L);
        if (lua_type(L, -1) != LUA_TSTRING || PSI_LUA_LENGTH(L, -1) != (binary ? 32 : strlen(lua_tostring(L, -1))))
            psi_lua_wrong(L, from, o->name, lua_pushfstring(L, ": %s %d is not %s", what, i, binary ?
                          "32 bytes, or 64 hexadecimal digits" : "a string without a zero byte"));
        lua_concat(L, 3);
    }
    return n;
}

/* These store the value on top, and answer what is wrong with it, or NULL. */

static const char *psi_lua_store_number(lua_State *L, const psi_lua_option *o, void *at)
{
    double n = lua_isnumber(L, -1) ? (double)lua_tonumber(L, -1) : -2;
    if (o->kind == 't') {
        if (!(n >= 0)) return " is not a time in seconds";
        n = psi_lua_milliseconds(L, -1);
    } else if (!(n >= (o->kind == 'j' ? -1 : 0) && n <= (double)o->more && n == (double)(int)n)) {
        return lua_pushfstring(L, " must be a whole number up to %d", (int)o->more);
    }
    if (o->kind == 'z') *(size_t *)at = (size_t)n;
    else *(int *)at = (int)n;
    return NULL;
}

static const char *psi_lua_store_word(lua_State *L, char kind, int *at)
{
    static const char *const auth[] = { "none", "optional", "required", NULL }; /* PSOCKET_CLIENT_AUTH_* */
    static const char *const versions[] = { "TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3", NULL };
    const char *const *words = kind == 'a' ? auth : versions;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    double n = lua_type(L, -1) == LUA_TNUMBER ? (double)lua_tonumber(L, -1) : 0;
    int i;
    for (i = 0; words[i] && strcmp(words[i], text); i++) {}
    if (kind == 'a' && !words[i]) return " must be \"none\", \"optional\" or \"required\"";
    if (words[i]) n = kind == 'a' ? i : 0x0301 + i;
    else if (!(n >= 0x0300 && n < 0x0400 && n == (double)(int)n)) return " must be a version of TLS, as \"TLSv1.2\"";
    *at = (int)n;
    return NULL;
}

static const char *psi_lua_store_text(lua_State *L, const psi_lua_source *from, const psi_lua_option *o, char *base)
{
    int joined = strchr("npk", o->kind) || (o->kind == 'c' && lua_istable(L, -1)), i;
    int n = joined ? psi_lua_join(L, from, o) : 0;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL, **names;
    size_t len = PSI_LUA_LENGTH(L, -1);
    if (!text) return o->kind == 'c' ? " must be a string or a list of names" : " must be a string";
    if (strchr("sc", o->kind) && strlen(text) != len) return " contains a zero byte";
    if (o->kind == 'n') {
        names = (const char **)PSI_LUA_USERDATA(L, ((size_t)n + 1) * sizeof *names, 0);
        for (i = 0; i < n; i++, text += strlen(text) + 1) names[i] = text;
        text = (const char *)names;
    }
    memcpy(base + o->at, &text, sizeof text);
    if (joined && o->kind != 'c') *(size_t *)(void *)(base + o->more) = (size_t)n;
    if (o->kind == 'x') *(size_t *)(void *)(base + o->more) = len;
    return NULL;
}

static const char *psi_lua_store_other(lua_State *L, char kind, int *at)
{
    int type = kind == 'b' ? LUA_TBOOLEAN : kind == 'f' ? LUA_TFUNCTION : LUA_TTABLE;
    if (kind == 'a' || kind == 'v') return psi_lua_store_word(L, kind, at);
    *at = kind == 'l' ? lua_gettop(L) : lua_toboolean(L, -1);
    if (lua_type(L, -1) == type) return NULL;
    if (kind == 'b') return " must be true or false"; /* it must be said clearly: "no" and 0 are true in Lua */
    return kind == 'f' ? " must be a function" : " must be a list of certificates";
}

/* Reads the options in the table at index, if there is one, into what lies at base, where they are valid as
   long as what is pushed. How many they are. */
static int psi_lua_read(lua_State *L, int index, const psi_lua_source *from, void *base)
{
    const psi_lua_option *o;
    int n = 0;
    if (lua_isnoneornil(L, index)) return 0;
    if (!lua_istable(L, index))
        psi_lua_wrong(L, from, "", lua_pushfstring(L, "table expected, got %s", luaL_typename(L, index)));
    if (from->taker != 'c' && !lua_checkstack(L, 80)) psi_lua_raise(L, "not enough memory");
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) psi_lua_check_name(L, from, lua_gettop(L) - 1);
    for (o = psi_lua_known; o->name; o++) {
        void *at = (char *)base + o->at;
        const char *problem;
        if (!strchr(o->takers, from->taker)) continue;
        lua_getfield(L, index, o->name); /* it may be inherited */
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            continue;
        }
        n++;
        if (strchr("tijz", o->kind)) problem = psi_lua_store_number(L, o, at);
        else if (strchr("abflv", o->kind)) problem = psi_lua_store_other(L, o->kind, (int *)at);
        else problem = psi_lua_store_text(L, from, o, (char *)base);
        if (problem) psi_lua_wrong(L, from, o->name, problem);
        if (o->kind != 'f' || !from->asks) continue;
        if (from->item) lua_rawseti(L, from->asks, from->item);
        else lua_setfield(L, from->asks, o->name);
    }
    return n;
}

/* Reads the identities in the list at index. */
static void psi_lua_read_identities(lua_State *L, int index, psi_lua_source from, psocket_tls_options *t)
{
    int n = psi_lua_length(L, index), kept;
    psocket_identity *all = (psocket_identity *)PSI_LUA_USERDATA(L, ((size_t)n + 1) * sizeof *all, 0);
    memset(all, 0, ((size_t)n + 1) * sizeof *all);
    lua_newtable(L); /* keeps their texts */
    kept = lua_gettop(L);
    t->identities = all;
    t->identity_count = (size_t)n;
    from.taker = 'i';
    for (from.item = 1; from.item <= n; from.item++, all++) {
        lua_pushinteger(L, from.item);
        lua_gettable(L, index);
        if (!lua_istable(L, -1)) psi_lua_wrong(L, &from, "", "not a table with chain and private_key");
        psi_lua_read(L, lua_gettop(L), &from, all);
        if (!all->chain && !all->cert_file) psi_lua_wrong(L, &from, "", "it has no chain or cert_file");
        if (!all->key && !all->key_file && !all->ask) psi_lua_wrong(L, &from, "", "it has no private_key or key_file");
        while (lua_gettop(L) > kept) luaL_ref(L, kept);
    }
}

/* The time limit of one operation: what it has, unless the options at arg name another. */
static int psi_lua_time_limit(lua_State *L, int arg, int timeout)
{
    int top = lua_gettop(L);
    psi_lua_source from = { arg, 0, 0, 'c' };
    psi_lua_options all;
    if (top < arg) return timeout;
    all.o.timeout_ms = timeout;
    psi_lua_read(L, arg, &from, &all);
    lua_settop(L, top);
    return all.o.timeout_ms;
}

/* Options of a new socket or listener from the table (or the word "udp") at arg. */
static void psi_lua_socket_options(lua_State *L, int arg, psi_lua_options *all)
{
    psi_lua_source from = { arg, 0, 0, 's' };
    memset(all, 0, sizeof *all);
    all->o.nonblocking = all->yield = 1;
    all->o.error = &all->e;
    if (lua_type(L, arg) != LUA_TSTRING) psi_lua_read(L, arg, &from, all);
    else if (strcmp(lua_tostring(L, arg), "udp") == 0) all->o.udp = 1;
    else if (strcmp(lua_tostring(L, arg), "tcp")) psi_lua_argument(L, arg, "\"udp\", \"tcp\" or a table expected");
}

/*--- waiting */

/* Has the task resumed in the next turn. */
static void psi_lua_queue(psi_lua_task *t, int how)
{
    if (how == PSI_LUA_WOKEN) t->sched->urgent = 1;
    if (t->queued) return;
    t->queued = 1;
    psi_link_out(&t->link);
    psi_link_in(&t->sched->ready, &t->link);
}

/* Wakes those that wait in a ring. */
static void psi_lua_wake_ring(psi_link *ring)
{
    while (!psi_lua_empty(ring)) {
        psi_lua_task *t = (psi_lua_task *)(void *)ring->next;
        psi_link_out(&t->link);
        psi_lua_queue(t, PSI_LUA_WOKEN);
    }
}

/* Wakes whoever waits for k. */
static void psi_lua_wake_all(const psi_lua_sock *k)
{
    int way;
    for (way = 0; way < 2; way++)
        if (k->waiter[way] && k->waiter[way]->sched) psi_lua_queue(k->waiter[way], PSI_LUA_WOKEN);
}

/* Undoes what the task has said about its waiting. */
static void psi_lua_release(psi_lua_task *t)
{
    int way;
    for (way = 0; t->on && way < 2; way++)
        if (t->on->waiter[way] == t) t->on->waiter[way] = NULL;
    if (!t->queued) psi_link_out(&t->link); /* from a ring */
    t->on = NULL;
    t->waits = t->timed = 0;
}

/* The poller that k is in, if any. */
static psocket_poller *psi_lua_poller(const psi_lua_sock *k)
{
    return k->s ? k->s->watch.poller : NULL;
}

/* Takes k out of it. */
static void psi_lua_forget(const psi_lua_sock *k)
{
    if (psi_lua_poller(k)) psocket_poller_set(psi_lua_poller(k), k->s, 0, -1, NULL);
}

/* Sees to it that S hears of event on k: 0, or an error if that cannot be. */
static int psi_lua_listen_for(const psi_lua_sched *S, psi_lua_sock *k, int event)
{
    const psi_lua_task *other = k->waiter[!(event >> 1)];
    psocket_poller *p = psi_lua_poller(k);
    if (p != S->poller) {
        if (p && other && other->sched && other->sched->poller == p) return PSOCKET_BUSY;
        psi_lua_forget(k);
    }
    if (k->s->watch.events & event) return 0;
    k->s->polled = 1;
    return psocket_poller_set(S->poller, k->s, k->s->watch.events | event, -1, k);
}

/* The core in the table at 1, or NULL. Pushes it, or nil. */
static psi_lua_sched *psi_lua_find_core(lua_State *L)
{
    psi_lua_sched *S;
    if (!lua_istable(L, 1)) psi_lua_expected(L, 1, "table");
    lua_pushliteral(L, "_core");
    lua_rawget(L, 1);
    S = (psi_lua_sched *)psi_lua_is(L, lua_gettop(L), psi_lua_here(L), PSI_LUA_CORE);
    if (!S && !lua_isnil(L, -1)) psi_lua_argument(L, 1, "its field _core is not a scheduler's");
    return S;
}

/* The task that runs in the coroutine at index co, or NULL. table is the index of the scheduler's table. */
static psi_lua_task *psi_lua_find_task(lua_State *L, int table, int co)
{
    psi_lua_task *t;
    lua_pushvalue(L, co);
    lua_rawget(L, table);
    t = (psi_lua_task *)lua_touserdata(L, -1);
    lua_pop(L, 1);
    return t;
}

#define PSI_LUA_AGAIN (-1)

/* An operation, while it is tried. */
struct psi_lua_op {
    psi_lua_vm *vm;
    psi_lua_sock *k;    /* what it waits for, if it is a socket or listener, */
    int event;          /* for what of it, */
    int claims;         /* and in which directions no other may wait meanwhile */
    psi_link *ring; /* or where somebody finds and wakes it, */
    int64_t due;        /* or how long */
    int again;          /* it has waited before */
    int soon;           /* it need not wait, but has done its share of this turn */
    double state;       /* what it remembers: when its time is over, 0 never; send: the bytes sent */
};

/* Before an operation tries: 0, or PSOCKET_BUSY if another coroutine waits in one of these directions. */
static int psi_lua_claim(lua_State *L, psi_lua_sock *k, int claims)
{
    int way;
    for (way = 0; (k->waiter[0] || k->waiter[1]) && way < 2; way++) {
        psi_lua_task *t = k->waiter[way];
        lua_State *co;
        if (!t || !(claims & (way + 1))) continue;
        co = t->co;
        if (t == &psi_lua_stranger) {
            psi_lua_get(L, PSI_LUA_STRANGERS);
            lua_pushlightuserdata(L, &k->waiter[way]);
            lua_rawget(L, -2);
            co = lua_tothread(L, -1);
            if (co) lua_rawget(L, -2);
            if (lua_touserdata(L, -1) != k) co = NULL; /* it has gone on to wait for something else */
            lua_pop(L, 2);
        }
        if (co && co != L && psi_lua_waits(co)) return PSOCKET_BUSY;
        if (t->sched) { /* somebody else has resumed it: its scheduler is to find out what it does now */
            psi_lua_queue(t, PSI_LUA_WOKEN);
            psi_lua_release(t);
        }
        k->waiter[way] = NULL;
    }
    return 0;
}

/* Notes that L, which is no task, or one whose scheduler cannot help, waits in these directions of k, or for
   none. */
static void psi_lua_note_stranger(lua_State *L, psi_lua_sock *k, int claims)
{
    int way;
    psi_lua_get(L, PSI_LUA_STRANGERS);
    lua_pushthread(L);
    lua_pushlightuserdata(L, k);
    lua_rawset(L, -3);
    for (way = 0; way < 2; way++) {
        if (!(claims & (way + 1))) continue;
        lua_pushlightuserdata(L, &k->waiter[way]);
        lua_pushthread(L);
        lua_rawset(L, -3);
        k->waiter[way] = &psi_lua_stranger;
    }
    lua_pop(L, 1);
}

/* How long may be waited, in milliseconds, given when it must be over; -1 for ever. */
static int psi_lua_patience(int64_t due)
{
    int ms = PSI_LUA_SLICE;
    if (due != INT64_MAX) psi_until(&ms, due);
    return ms;
}

/* Before L yields: notes what it waits for. The scheduler of a task then resumes it in time; any other just has
   it try again. */
static void psi_lua_park(lua_State *L, const psi_lua_op *op)
{
    psi_lua_task *t = op->vm->at && op->vm->at->co == L ? op->vm->at : NULL;
    int timed = op->due != INT64_MAX, ms = -1, way;
    if (t && t->waits) psi_lua_release(t); /* it has waited before and could not yield then */
    if (timed) psi_until(&ms, op->due);
    if (!t || (op->event && !op->soon && psi_lua_listen_for(t->sched, op->k, op->event)) ||
        (timed && psocket_poller_watch(t->sched->poller, &t->watch, -1, 0, ms, (char *)t + 1))) {
        psi_lua_note_stranger(L, op->k, op->claims);
        return;
    }
    for (way = 0; way < 2; way++)
        if (op->claims & (way + 1)) op->k->waiter[way] = t;
    t->waits = 1;
    t->timed = timed != 0;
    t->on = op->claims ? op->k : NULL;
    if (op->soon) psi_lua_queue(t, PSI_LUA_WOKEN);
    else if (op->ring && !t->queued) psi_link_in(op->ring, &t->link);
}

/* Waits where nothing can yield, for a signal, too. */
static void psi_lua_block(lua_State *L, const psi_lua_op *op)
{
    int ms = psi_lua_patience(op->due), os;
    if (op->soon) return;
    if (op->ring && op->due == INT64_MAX) psi_lua_raise(L, "it would wait for ever: only tasks can wait for each other");
    if (op->event) psocket_wait(op->k->s, op->event | PSOCKET_SIGNAL, ms);
    else psi_os_poll(NULL, 0, ms, &os);
    psi_lua_get(L, PSI_LUA_HEED); /* what is to run between instructions: the hook of an interrupt */
    lua_call(L, 0, 0);
}

/* Has C keep this time limit. */
static void psi_lua_set_limit(const psi_lua_sock *k, int ms)
{
    if (k->s && k->s->timeout != ms) psocket_settimeout(k->s, ms);
}

/*--- operations that wait: each tries, from the start or again, and answers how many results, or AGAIN */

/* Does what waits for k, which may be none, yield? Else it blocks. */
static int psi_lua_yields(lua_State *L, const psi_lua_sock *k)
{
    return PSI_LUA_YIELDABLE(L) && !(k && k->blocks);
}

/* The operation has so many milliseconds from now; INT_MAX: for ever. */
static void psi_lua_limit(psi_lua_op *op, int ms)
{
    op->state = ms < INT_MAX ? (double)(psocket_now() + ms) : 0;
}

/* Begins to try an operation on the socket at 1, with options at arg `options`. 0, or PSOCKET_BUSY. C keeps the
   time of what is sent, since it alone sees bytes leave; that of receipts, which each may name for itself, is
   kept here. */
static int psi_lua_begin(lua_State *L, psi_lua_op *op, int event, int options)
{
    const psi_lua_task *t = op->vm->at;
    psi_lua_sock *k = psi_lua_self(L);
    const psocket_poller *p = psi_lua_poller(k);
    int ms = op->again ? 0 : psi_lua_time_limit(L, options, k->timeout), r = psi_lua_claim(L, k, event);
    op->k = k;
    op->event = op->claims = event;
    if (!r && p && !(t && t->co == L && t->sched->poller == p && psi_lua_yields(L, k))) {
        /* its poller may have no turn before this is over, and until it has C does not look again */
        psi_lua_wake_all(k);
        psi_lua_forget(k);
    }
    if (r || op->again) return r;
    if (event == PSOCKET_READ) psi_lua_limit(op, ms ? ms : INT_MAX);
    else psi_lua_set_limit(k, ms);
    return 0;
}

/* After an operation's call answered r, a WANT or an error: AGAIN, or the results of its failure. */
static int psi_lua_stop(lua_State *L, psi_lua_op *op, ptrdiff_t r)
{
    if (psi_is_wait(r)) {
        if (op->event == PSOCKET_WRITE || op->state == 0) return PSI_LUA_AGAIN;
        op->due = (int64_t)op->state;
        if (psocket_now() < op->due) return PSI_LUA_AGAIN;
        r = PSOCKET_TIMEOUT;
    }
    return psi_lua_fail_sock(L, op->k, (int)r);
}

/* Has the running task done enough for one turn? It then yields although it need not: the others come first. */
static int psi_lua_tired(psi_lua_op *op)
{
    if (!op->vm->at || op->vm->ops++ < 32) return 0;
    op->vm->ops = 0;
    op->soon = 1;
    return 1;
}

static void psi_lua_shut(psi_lua_sock *k)
{
    k->closing = k->lent;
    if (k->lent) return;
    psi_lua_wake_all(k);
    psi_lua_forget(k);
    psocket_close(k->s);
}

/* Calls the function on the stack, with one argument, with k lent: finalizers cannot touch it meanwhile. */
static int psi_lua_lend(lua_State *L, psi_lua_sock *k, int nresults)
{
    int status;
    k->lent = 1;
    status = lua_pcall(L, 1, nresults, 0);
    k->lent = 0;
    if (k->closing) psi_lua_shut(k);
    return status;
}

static int psi_lua_copy(lua_State *L)
{
    const psi_lua_loan *loan = (const psi_lua_loan *)lua_touserdata(L, 1);
    loan->k->lent = !PSI_LUA_COPIES;
    lua_pushlstring(L, (const char *)loan->bytes, loan->len);
    return 1;
}

/* Pushes psi_lua_copy and its argument: before bytes are taken, since this may need memory. */
static void psi_lua_push_copy(lua_State *L, psi_lua_loan *loan, psi_lua_sock *k)
{
    loan->k = k;
    psi_lua_get(L, PSI_LUA_COPY);
    lua_pushlightuserdata(L, loan);
}

/* Receives what ends with the delimiter, within n bytes; or without one, n bytes; or if n is 0, a chunk. */
static int psi_lua_receive(lua_State *L, psi_lua_op *op, const char *delimiter, size_t n)
{
    psi_lua_sock *k = op->k;
    psi_lua_loan loan;
    ptrdiff_t got;
    int tries = 0;
    if (psi_lua_tired(op)) return PSI_LUA_AGAIN;
    psi_lua_push_copy(L, &loan, k);
    do { /* TIMEOUT is of C's clock, which is then off */
        if (delimiter) got = psocket_read_until(k->s, delimiter, n, &loan.bytes);
        else if (n) got = psocket_read(k->s, n, &loan.bytes);
        else got = psocket_recv(k->s, &loan.bytes);
    } while (got == PSOCKET_TIMEOUT && !tries++);
    if (got < 0) return psi_lua_stop(L, op, got);
    loan.len = (size_t)got;
    if (psi_lua_lend(L, k, 1) == 0) return 1;
    psocket_unrecv(k->s, loan.bytes, loan.len); /* there was no memory: nothing is lost */
    return lua_error(L);
}

static int psi_lua_try_recv(lua_State *L, psi_lua_op *op)
{
    int r = psi_lua_begin(L, op, PSOCKET_READ, 2);
    return r ? psi_lua_stop(L, op, r) : psi_lua_receive(L, op, NULL, 0);
}

static int psi_lua_try_read(lua_State *L, psi_lua_op *op)
{
    int r = psi_lua_begin(L, op, PSOCKET_READ, 3);
    double n = psi_lua_check_number(L, 2);
    if (!(n >= 0 && n <= 0x7fffffff && n == (double)(uint32_t)n)) psi_lua_argument(L, 2, "a number of bytes expected");
    if (r) return psi_lua_stop(L, op, r);
    if (n > 0) return psi_lua_receive(L, op, NULL, (size_t)n);
    lua_pushliteral(L, "");
    return 1;
}

/* What read_until and lines look for. */
static const char *psi_lua_check_delimiter(lua_State *L)
{
    size_t len;
    const char *delimiter = psi_lua_check_string(L, 2, &len);
    if (!len || strlen(delimiter) != len)
        psi_lua_argument(L, 2, "the delimiter must not be empty or contain a zero byte");
    return delimiter;
}

static int psi_lua_try_read_until(lua_State *L, psi_lua_op *op)
{
    int options = lua_istable(L, 3) ? 3 : 4; /* the limit may be left out */
    int r = psi_lua_begin(L, op, PSOCKET_READ, options);
    size_t max = op->k->s ? op->k->s->limit : 1;
    const char *delimiter = psi_lua_check_delimiter(L);
    if (options == 4 && !lua_isnoneornil(L, 3)) {
        double most = psi_lua_check_number(L, 3);
        if (!(most >= 1)) psi_lua_argument(L, 3, "a number of bytes expected");
        max = most < 0x7fffffff ? (size_t)most : 0x7fffffff;
    }
    return r ? psi_lua_stop(L, op, r) : psi_lua_receive(L, op, delimiter, max);
}

/* What send is to send: the strings at 2 and behind it, or those in the list at 2. */
typedef struct psi_lua_pieces {
    int list, count, i; /* the one at hand, from 0 */
    const char *text;
    size_t len, gone;   /* and how much of it is gone */
} psi_lua_pieces;

/* Has the i-th at hand, if there is one. */
static void psi_lua_piece(lua_State *L, psi_lua_pieces *p, int i)
{
    p->i = i;
    p->gone = 0;
    if (i >= p->count) return;
    if (!p->list) {
        p->text = psi_lua_check_string(L, 2 + i, &p->len);
        return;
    }
    lua_rawgeti(L, 2, i + 1);
    if (lua_type(L, -1) != LUA_TSTRING)
        psi_lua_argument(L, 2, lua_pushfstring(L, "item %d is no string but a %s", i + 1, luaL_typename(L, -1)));
    p->text = lua_tolstring(L, -1, &p->len);
    lua_pop(L, 1); /* the list keeps it */
}

/* These bytes are gone. */
static void psi_lua_advance(lua_State *L, psi_lua_pieces *p, double bytes)
{
    bytes += (double)p->gone;
    while (p->i < p->count && bytes >= (double)p->len) {
        bytes -= (double)p->len;
        psi_lua_piece(L, p, p->i + 1);
    }
    p->gone = (size_t)bytes;
}

/* The next bytes: those of one piece, or of several small ones, joined in buf. */
static const char *psi_lua_gather(lua_State *L, psi_lua_pieces p, char *buf, size_t size, size_t *used)
{
    *used = p.len - p.gone;
    if (*used >= size || p.i + 1 >= p.count) return p.text + p.gone;
    for (*used = 0; p.i < p.count && *used < size; psi_lua_piece(L, &p, p.i + 1)) {
        size_t n = p.len - p.gone < size - *used ? p.len - p.gone : size - *used;
        memcpy(buf + *used, p.text + p.gone, n);
        *used += n;
    }
    return buf;
}

/* send(socket, strings ... or a list of them [, options]) */
static int psi_lua_try_send(lua_State *L, psi_lua_op *op)
{
    char buf[4096];
    psi_lua_pieces p = { 0, 0, 0, "", 0, 0 };
    psi_lua_sock *k;
    int top = lua_gettop(L), options = top + 1, i;
    ptrdiff_t n;
    p.list = lua_istable(L, 2);
    if (p.list) options = 3;
    else if (top > 2 && (lua_istable(L, top) || lua_isnil(L, top))) options = top;
    n = psi_lua_begin(L, op, PSOCKET_WRITE, options);
    k = op->k;
    p.count = p.list ? (int)PSI_LUA_LENGTH(L, 2) : options - 2;
    if (!p.count && !p.list) psi_lua_expected(L, 2, "string");
    for (i = p.count; i-- > 0;) psi_lua_piece(L, &p, i); /* all are checked before any is sent */
    if (p.count > 1 && psocket_isudp(k->s) == 1) psi_lua_argument(L, 2, "a datagram is one string");
    psi_lua_advance(L, &p, op->state);
    while (n >= 0 && (p.i < p.count || op->state == 0)) {
        size_t len;
        const char *data = psi_lua_gather(L, p, buf, sizeof buf, &len);
        if (psi_lua_tired(op)) return PSI_LUA_AGAIN;
        n = psocket_send(k->s, data, len);
        if (n <= 0) break;
        psi_lua_advance(L, &p, (double)n);
        op->state += (double)n;
    }
    if (n >= 0) n = psocket_flush(k->s);
    if (n >= 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    i = psi_lua_stop(L, op, n);
    if (i == PSI_LUA_AGAIN) return i;
    PSI_LUA_PUSH_WHOLE(L, op->state); /* how much the peer may get */
    return i + 1;
}

/* shutdown(socket [, "send"] [, options]): ends the direction out, after all that was sent. */
static int psi_lua_try_shutdown(lua_State *L, psi_lua_op *op)
{
    int r = psi_lua_begin(L, op, PSOCKET_WRITE, 3);
    if (!lua_isnoneornil(L, 2) && strcmp(psi_lua_check_text(L, 2), "send"))
        psi_lua_argument(L, 2, lua_pushfstring(L, "invalid option '%s': only \"send\" can be shut down", lua_tostring(L, 2)));
    if (!r) r = psocket_shutdown(op->k->s);
    if (r < 0) return psi_lua_stop(L, op, r);
    lua_pushboolean(L, 1);
    return 1;
}

/* step(socket): connects, and returns the socket. C keeps the time. */
static int psi_lua_try_step(lua_State *L, psi_lua_op *op)
{
    psi_lua_sock *k = psi_lua_self(L);
    int r = psi_lua_claim(L, k, PSOCKET_WRITE);
    psocket_error e;
    if (!r) r = psocket_step(k->s);
    op->k = k;
    op->event = op->claims = PSOCKET_WRITE;
    if (psi_is_wait(r)) return PSI_LUA_AGAIN;
    psi_lua_forget(k); /* writable is the usual state: it would only be reported once more */
    lua_settop(L, 1);
    if (r >= 0 || r == PSOCKET_CLOSED) return 1;
    psocket_geterror(k->s, &e);
    psocket_close(k->s);
    return psi_lua_fail(L, r, e.text);
}

/* Fields of the table on top. */
static void psi_lua_set_whole(lua_State *L, const char *name, double value)
{
    PSI_LUA_PUSH_WHOLE(L, value);
    lua_setfield(L, -2, name);
}

static void psi_lua_set_text(lua_State *L, const char *name, const char *text)
{
    if (!*text) return;
    lua_pushstring(L, text);
    lua_setfield(L, -2, name);
}

static void psi_lua_set_hex(lua_State *L, const char *name, const uint8_t *digest)
{
    char text[64];
    int i;
    for (i = 0; i < 64; i++) text[i] = "0123456789abcdef"[digest[i / 2] >> (i & 1 ? 0 : 4) & 15];
    lua_pushlstring(L, text, 64);
    lua_setfield(L, -2, name);
}

/* Pushes what a handshake asks, by its name in the settings' table, and the arguments: "decide", the peer and
   what verification says of it; or the number of an identity whose key is to sign, the scheme, the hash and the
   digest. */
static int psi_lua_push_question(lua_State *L)
{
    const psi_lua_sock *k = (const psi_lua_sock *)lua_touserdata(L, 1);
    psocket_question q;
    if (psocket_getquestion(k->s, &q) < 0) return psi_lua_fail(L, PSOCKET_INVALID, NULL);
    if (q.kind == PSOCKET_WANT_SIGNATURE) {
        lua_pushinteger(L, (lua_Integer)q.identity + 1);
        lua_pushstring(L, q.scheme_name);
        lua_pushstring(L, q.hash_name);
        lua_pushlstring(L, (const char *)q.digest, q.digest_len);
        return 4;
    }
    lua_pushliteral(L, "decide");
    lua_newtable(L);
    psi_lua_set_text(L, "subject", q.peer.subject);
    psi_lua_set_text(L, "issuer", q.peer.issuer);
    psi_lua_set_whole(L, "not_before", (double)q.peer.not_before);
    psi_lua_set_whole(L, "not_after", (double)q.peer.not_after);
    psi_lua_set_hex(L, "sha256", q.peer.sha256);
    psi_lua_set_hex(L, "spki_sha256", q.peer.spki_sha256);
    lua_pushlstring(L, (const char *)q.certificate, q.certificate_len);
    lua_setfield(L, -2, "certificate");
    if (!q.verdict.code) return 2;
    psi_lua_fail(L, q.verdict.code, q.verdict.text);
    lua_remove(L, -3);
    return 4;
}

/* The same, in secure. */
static int psi_lua_ask(lua_State *L, psi_lua_sock *k)
{
    int top = lua_gettop(L);
    lua_pushcfunction(L, psi_lua_push_question);
    lua_pushlightuserdata(L, k);
    if (psi_lua_lend(L, k, LUA_MULTRET)) return lua_error(L);
    k->asks = 1;
    return lua_gettop(L) - top;
}

/* Begins the handshake that the arguments of secure describe. */
static int psi_lua_begin_tls(lua_State *L, psi_lua_sock *k)
{
    const psi_lua_settings *t = (const psi_lua_settings *)lua_touserdata(L, 2);
    int ms = t && t->timeout >= 0 ? t->timeout : k->timeout;
    if (k->asks) return PSOCKET_BUSY; /* decide calls starttls */
    psi_lua_set_limit(k, lua_isnoneornil(L, 4) ? ms : psi_lua_milliseconds(L, 4));
    return psocket_starttls(k->s, t ? t->tls : NULL, lua_isnoneornil(L, 3) ? NULL : lua_tostring(L, 3));
}

/* secure(socket [, settings or nil, name or nil, seconds or nil]): the handshake: what starttls returns, or
   what is asked; then secure(socket) goes on. If it fails the socket is closed. C keeps the time. */
static int psi_lua_try_secure(lua_State *L, psi_lua_op *op)
{
    psi_lua_sock *k = psi_lua_self(L);
    int begins = !op->again && lua_gettop(L) > 1, r;
    psocket_tlsinfo info;
    if (begins && psocket_istls(k->s) == 1 && psocket_starttls(k->s, NULL, NULL) == PSOCKET_ALREADY_TLS) {
        lua_pushnil(L);
        return 1;
    }
    r = psi_lua_claim(L, k, PSOCKET_READ | PSOCKET_WRITE);
    if (!r && begins) r = psi_lua_begin_tls(L, k);
    if (r == 0 || psi_is_wait(r)) r = psocket_step(k->s);
    op->k = k;
    op->event = PSOCKET_WRITE;
    op->claims = PSOCKET_READ | PSOCKET_WRITE;
    if (psi_is_wait(r)) return PSI_LUA_AGAIN;
    if (r == PSOCKET_BUSY) return psi_lua_fail(L, r, NULL); /* what is under way must not suffer */
    psi_lua_forget(k);
    if (r == PSOCKET_WANT_DECISION || r == PSOCKET_WANT_SIGNATURE) return psi_lua_ask(L, k);
    if (r < 0) {
        psi_lua_fail_sock(L, k, r);
        psi_lua_shut(k);
        lua_pushboolean(L, 0); /* here the spec says false */
        lua_replace(L, -4);
        return 3;
    }
    psi_lua_set_limit(k, k->timeout);
    lua_pushboolean(L, 1);
    if (psocket_gettlsinfo(k->s, &info) < 0 || !info.alpn[0]) return 1;
    lua_pushstring(L, info.alpn);
    return 2;
}

/* accept(listener [, options]). In a task it also waits for descriptors and memory, which others may give
   back. */
static int psi_lua_try_accept(lua_State *L, psi_lua_op *op)
{
    int r = psi_lua_begin(L, op, PSOCKET_READ, 2);
    psi_lua_sock *l = op->k;
    if (!r && !l->promised && psi_lua_tired(op)) return PSI_LUA_AGAIN; /* a flood must not starve the others */
    l->promised = 0;
    if (!r) r = psocket_hasconnection(l->s);
    if (r == 1) {
        psi_lua_sock *k = psi_lua_new_sock(L, PSI_LUA_SOCKET, l->timeout, l->blocks);
        r = psocket_accept(l->s, &k->s);
        if (!r) return 1;
    }
    if ((r != PSOCKET_DESCRIPTORS && r != PSOCKET_NOMEM) || !psi_lua_yields(L, l))
        return psi_lua_stop(L, op, r ? r : PSOCKET_WANT_READ);
    r = psi_lua_stop(L, op, PSOCKET_WANT_READ);
    op->event = op->claims = 0; /* a client that stays must not wake it */
    if (op->due > psocket_now() + 50) op->due = psocket_now() + 50;
    return r;
}

/* sleep(scheduler, seconds) */
static int psi_lua_try_sleep(lua_State *L, psi_lua_op *op)
{
    if (!op->again && lua_isnoneornil(L, 2)) psi_lua_argument(L, 2, "number expected, got no value");
    if (!op->again) psi_lua_limit(op, psi_lua_check_time(L, 2));
    if (op->state > 0) op->due = (int64_t)op->state;
    return op->again && psocket_now() >= op->due ? 0 : PSI_LUA_AGAIN;
}

/* pop(queue [, options]) */
static int psi_lua_try_pop(lua_State *L, psi_lua_op *op)
{
    psi_lua_fifo *q = (psi_lua_fifo *)psi_lua_object(L);
    int ms = op->again ? 0 : psi_lua_time_limit(L, 2, 0);
    if (!op->again) psi_lua_limit(op, ms ? ms : INT_MAX);
    if (q->count) {
        PSI_LUA_GETVALUE(L, 1);
        lua_rawgeti(L, -1, (int)q->first);
        lua_pushnil(L);
        lua_rawseti(L, -3, (int)q->first);
        q->first = (q->first + 1) & INT_MAX;
        q->count--;
        return 1;
    }
    if (q->closed) return psi_lua_fail(L, PSOCKET_CLOSED_HERE, NULL);
    if (!q->ring.prev) psi_lua_raise(L, "the queue has been collected");
    op->ring = &q->ring;
    return psi_lua_stop(L, op, PSOCKET_WANT_READ);
}

/*--- driving the operations */

/* Tries the operation at hand until it is done or has to yield; *state is what it remembers. */
static int psi_lua_try(lua_State *L, int again, double *state)
{
    const psi_lua_function *f = psi_lua_this(L);
    int top = lua_gettop(L), n;
    for (;; again = 1) {
        psi_lua_op op;
        memset((void *)&op, 0, sizeof op);
        op.vm = f->vm;
        op.due = INT64_MAX;
        op.again = again;
        op.state = *state;
        n = f->try_it(L, &op);
        *state = op.state;
        if (n != PSI_LUA_AGAIN) return n;
        lua_settop(L, top);
        if (psi_lua_yields(L, op.k)) {
            op.vm->ops = 0;
            psi_lua_park(L, &op);
            return n;
        }
        psi_lua_block(L, &op);
    }
}

/* A function of the script yields, and calls this again, with `again` and what is to be remembered in front of
   the arguments. The same first result, upvalue 1, which no operation returns, tells it to. */
static int psi_lua_once(lua_State *L)
{
    int again = lua_rawequal(L, 1, lua_upvalueindex(1)), n;
    double state = again ? (double)lua_tonumber(L, 2) : 0;
    if (again) {
        lua_remove(L, 1);
        lua_remove(L, 1);
    }
    n = psi_lua_try(L, again, &state);
    if (n != PSI_LUA_AGAIN) return n;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushnumber(L, (lua_Number)state);
    return 2;
}

#if PSI_LUA_CONTINUES

/* Begins (LUA_OK), or goes on where it yielded, with so many arguments. */
static int psi_lua_continue(lua_State *L, int status, lua_KContext arguments)
{
    double state = 0;
    int n;
    if (status == LUA_YIELD) {
        lua_settop(L, (int)arguments + 1); /* without what resume was given */
        state = (double)lua_tonumber(L, -1);
        lua_pop(L, 1);
    }
    n = psi_lua_try(L, status == LUA_YIELD, &state);
    if (n != PSI_LUA_AGAIN) return n;
    lua_pushnumber(L, (lua_Number)state);
    return lua_yieldk(L, 0, arguments, psi_lua_continue);
}

static int psi_lua_run(lua_State *L)
{
    return psi_lua_continue(L, LUA_OK, lua_gettop(L));
}

static const char psi_lua_wrapping[] = "";

#else

#define psi_lua_run psi_lua_once

static const char psi_lua_wrapping[] = /* a part of the script */
    "local function wrap(class, name)\n"
    "  local f = class[name]\n"
    "  class[name] = function(...)\n"
    "    local r, x, y, z, v = f(...)\n"
    "    while r == again do\n"
    "      yield()\n"
    "      r, x, y, z, v = f(again, x, ...)\n"
    "    end\n"
    "    if x == nil then return r end\n" /* as many results as there are */
    "    if y == nil then return r, x end\n"
    "    if z == nil then return r, x, y end\n"
    "    if v == nil then return r, x, y, z end\n"
    "    return r, x, y, z, v\n"
    "  end\n"
    "end\n"
    "for class, names in next, { [M] = 'recv read read_until send shutdown', [N] = 'accept', [Q] = 'pop', [S] = 'sleep',\n"
    "                            [C] = 'join secure step' } do\n"
    "  for name in names:gmatch('[%a_]+') do wrap(class, name) end\n"
    "end\n";

#endif

/*--- what is done at once */

/* Pushes true, or why not. */
static int psi_lua_answer(lua_State *L, const psi_lua_sock *k, int r)
{
    if (r < 0) return psi_lua_fail_sock(L, k, r);
    lua_pushboolean(L, 1);
    return 1;
}

/* answer(socket, yes or signature): anything else refuses. */
static int psi_lua_answer_question(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    psocket_question q;
    size_t len = 0;
    const char *sig = lua_type(L, 2) == LUA_TSTRING ? lua_tolstring(L, 2, &len) : NULL;
    int yes = lua_isboolean(L, 2) && lua_toboolean(L, 2);
    k->asks = 0;
    if (psocket_getquestion(k->s, &q) < 0) return 0; /* it was closed meanwhile */
    if (q.kind != PSOCKET_WANT_SIGNATURE)
        psocket_decide(k->s, yes ? 0 : q.verdict.code ? q.verdict.code : PSOCKET_CERT_REJECTED);
    else psocket_signed(k->s, sig, len);
    return 0;
}

/*--- TLS settings */

/* What options.clock has said is in the pointer: the psocket_tls may outlive all that is Lua's. */
static int64_t psi_lua_clock(void *now) { return (int64_t)(uintptr_t)now; }

/* settings(options or nil, which argument that is, certificates or nil) */
static int psi_lua_make_settings(lua_State *L)
{
    enum { OPTIONS = 1, ARG, CERTS, SETTINGS, ASKS };
    psi_lua_options all;
    psi_lua_source from = { 0, 0, ASKS, 't' };
    psi_lua_settings *t;
    int r, certs = CERTS;
    lua_settop(L, CERTS);
    t = (psi_lua_settings *)PSI_LUA_USERDATA(L, sizeof *t, 1);
    memset(t, 0, sizeof *t);
    psi_lua_setmetatable(L, PSI_LUA_SETTINGS);
    lua_newtable(L);
    lua_pushvalue(L, ASKS);
    PSI_LUA_SETVALUE(L, SETTINGS);
    memset(&all, 0, sizeof all);
    all.o.timeout_ms = -1;
    from.arg = (int)lua_tointeger(L, ARG);
    if (lua_isnil(L, CERTS) && lua_isnil(L, OPTIONS)) psi_lua_expected(L, OPTIONS, "table");
    psi_lua_read(L, OPTIONS, &from, &all);
    if (lua_isnil(L, CERTS)) certs = all.identities ? all.identities : psi_lua_length(L, OPTIONS) ? OPTIONS : 0;
    else from.arg = 2;
    if (certs) psi_lua_read_identities(L, certs, from, &all.t);
    t->timeout = all.o.timeout_ms;
    all.t.error = &all.e;
    if (all.clock) all.t.clock = psi_lua_clock;
    r = psocket_tls_new(&t->tls, &all.t);
    lua_settop(L, SETTINGS);
    return r < 0 ? psi_lua_fail(L, r, all.e.text) : 1;
}

/* The settings at arg, or NULL if something else is there. */
static psi_lua_settings *psi_lua_settings_at(lua_State *L, int arg)
{
    psi_lua_settings *t = (psi_lua_settings *)psi_lua_is(L, arg, psi_lua_here(L), PSI_LUA_SETTINGS);
    if (t && !t->tls) psi_lua_argument(L, arg, "these settings were collected");
    return t;
}

static psi_lua_settings *psi_lua_settings_self(lua_State *L)
{
    psi_lua_object(L);
    return psi_lua_settings_at(L, 1);
}

/* asks(settings [, what clock has said]): the functions that they ask. */
static int psi_lua_asks(lua_State *L)
{
    psi_lua_settings *t = psi_lua_settings_self(L);
    double now = (double)lua_tonumber(L, 2);
    if (lua_gettop(L) > 1 && !(now > 0 && now < 1e15 && now < (double)UINTPTR_MAX))
        psi_lua_raise(L, "clock must return seconds since 1970");
    if (lua_gettop(L) > 1) PSI_LUA_SET_TIME(t->tls, now);
    PSI_LUA_GETVALUE(L, 1);
    return 1;
}

/* Pushes milliseconds as seconds, fewer than 0 as nil. */
static void psi_lua_push_seconds(lua_State *L, int ms)
{
    if (ms < 0) lua_pushnil(L);
    else lua_pushnumber(L, (lua_Number)ms / 1000);
}

/* plan(socket, ...), with the arguments of starttls: false if it uses TLS already; a failure if it is busy;
   else true; the settings, unless they are to be made; a timeout in seconds; the options, if they say more than
   that; and which argument they are. */
static int psi_lua_plan(lua_State *L)
{
    enum { TARGET = 2, NONE = 5 };
    psi_lua_sock *k = psi_lua_self(L);
    int server = psocket_getside(k->s) == PSOCKET_SERVER, type = server ? LUA_TTABLE : LUA_TSTRING, at = TARGET, n = 0;
    psi_lua_source from = { 3, 0, 0, 't' };
    psi_lua_options all;
    lua_settop(L, NONE);
    if (psocket_istls(k->s) == 1 && psocket_starttls(k->s, NULL, NULL) == PSOCKET_ALREADY_TLS) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (!psi_lua_settings_at(L, TARGET)) {
        if (lua_type(L, TARGET) != type)
            psi_lua_expected(L, TARGET, lua_isuserdata(L, TARGET) ? psi_lua_names[PSI_LUA_SETTINGS] : lua_typename(L, type));
        if (!server) psi_lua_check_text(L, TARGET);
        at = psi_lua_settings_at(L, 3) ? 3 : NONE;
        if (at == NONE && lua_isuserdata(L, 3)) psi_lua_expected(L, 3, psi_lua_names[PSI_LUA_SETTINGS]);
    }
    if (at != NONE) { /* what such settings do not say would be ignored */
        from.arg = at + 1;
        from.taker = 'c';
    }
    all.o.timeout_ms = -1;
    if (!lua_isnil(L, from.arg)) n = psi_lua_read(L, from.arg, &from, &all) + psi_lua_length(L, from.arg);
    if (k->asks || psi_lua_claim(L, k, PSOCKET_READ | PSOCKET_WRITE))
        return psi_lua_fail(L, PSOCKET_BUSY, NULL);
    n -= all.o.timeout_ms >= 0;
    lua_pushboolean(L, 1);
    lua_pushvalue(L, at);
    psi_lua_push_seconds(L, all.o.timeout_ms);
    lua_pushvalue(L, n ? from.arg : NONE);
    lua_pushinteger(L, from.arg);
    return 5;
}

static int psi_lua_savesessions(lua_State *L)
{
    psi_lua_settings *t = psi_lua_settings_self(L);
    ptrdiff_t n = psocket_tls_savesessions(t->tls, NULL, 0), room = -1;
    void *buf = NULL;
    while (n > room && n >= 0) { /* there may be more by now */
        room = n;
        buf = PSI_LUA_USERDATA(L, (size_t)n + 1, 0);
        n = psocket_tls_savesessions(t->tls, buf, (size_t)room);
    }
    if (n < 0) return psi_lua_fail(L, (int)n, NULL);
    lua_pushlstring(L, (const char *)buf, (size_t)n);
    memset(buf, 0, (size_t)n); /* they hold secrets, though the string does, too */
    return 1;
}

static int psi_lua_loadsessions(lua_State *L)
{
    psi_lua_settings *t = psi_lua_settings_self(L);
    size_t len;
    const char *data = psi_lua_check_string(L, 2, &len);
    int r = psocket_tls_loadsessions(t->tls, data, len);
    if (r < 0) return psi_lua_fail(L, r, r == PSOCKET_INVALID ? "damaged, or of settings that verify otherwise" : NULL);
    lua_pushboolean(L, 1);
    return 1;
}

static int psi_lua_settings_gc(lua_State *L)
{
    psi_lua_settings *t = (psi_lua_settings *)psi_lua_object(L);
    psocket_tls_free(t->tls);
    t->tls = NULL;
    return 0;
}

/*--- the rest of sockets and listeners */

/* Another coroutine may wait for what a look at the socket has just fetched: the system will not report it
   again. */
static void psi_lua_looked(const psi_lua_sock *k, int ended)
{
    if (k->waiter[0] && (ended || psocket_pending(k->s))) psi_lua_wake_all(k);
}

static int psi_lua_peek(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    psi_lua_loan loan;
    ptrdiff_t n;
    psi_lua_push_copy(L, &loan, k);
    n = psocket_peek(k->s, &loan.bytes);
    psi_lua_looked(k, n < 0 && !psi_is_wait(n));
    if (n < 0) return 0;
    loan.len = (size_t)n;
    return psi_lua_lend(L, k, 1) ? lua_error(L) : 1;
}

static int psi_lua_unrecv(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    size_t len;
    const char *data = psi_lua_check_string(L, 2, &len);
    int r = psocket_unrecv(k->s, data, len);
    psi_lua_looked(k, 0);
    return psi_lua_answer(L, k, r);
}

static int psi_lua_close(lua_State *L)
{
    psi_lua_shut((psi_lua_sock *)psi_lua_object(L));
    return 0;
}

/* A task waits for what is collected if others have closed its coroutine, or this is called by hand. */
static int psi_lua_gc(lua_State *L)
{
    psi_lua_sock *k = (psi_lua_sock *)psi_lua_object(L);
    psocket *s = k->s;
    int way;
    psi_lua_shut(k);
    if (k->lent) return 0;
    for (way = 0; way < 2; way++)
        if (k->waiter[way] && k->waiter[way]->sched) psi_lua_release(k->waiter[way]);
    if (k->owner) k->owner->own = NULL;
    k->owner = NULL;
    k->s = NULL;
    psocket_free(s);
    return 0;
}

/* getpeer and getlocal. */
static int psi_lua_address(lua_State *L)
{
    const psi_lua_sock *k = psi_lua_self(L);
    char ip[256];
    int port = 0, r = (psi_lua_named(L, "getpeer") ? psocket_getpeer : psocket_getlocal)(k->s, ip, sizeof ip, &port);
    if (r < 0) return psi_lua_fail(L, r, r == PSOCKET_INVALID ? "not connected" : NULL);
    lua_pushstring(L, ip);
    lua_pushinteger(L, port);
    return 2;
}

static int psi_lua_setpeer(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    const char *ip = psi_lua_check_text(L, 2);
    return psi_lua_answer(L, k, psocket_setpeer(k->s, ip, psi_lua_check_port(L, 3)));
}

static int psi_lua_push_fd(lua_State *L, psocket_fd fd)
{
    if (fd < 0) lua_pushnil(L); /* there is none */
    else PSI_LUA_PUSH_WHOLE(L, (double)fd);
    return 1;
}

#define PSI_LUA_GETTER(name, push) \
    static int psi_lua_##name(lua_State *L) \
    { \
        const psi_lua_sock *k = psi_lua_self(L); \
        push; \
        return 1; \
    }
PSI_LUA_GETTER(getside, lua_pushstring(L, psocket_getside(k->s) == PSOCKET_SERVER ? "server" : "client"))
PSI_LUA_GETTER(istls, lua_pushboolean(L, psocket_istls(k->s) == 1))
PSI_LUA_GETTER(isudp, lua_pushboolean(L, psocket_isudp(k->s) == 1))
PSI_LUA_GETTER(pending, PSI_LUA_PUSH_WHOLE(L, (double)psocket_pending(k->s)))
PSI_LUA_GETTER(getfd, psi_lua_push_fd(L, psocket_getfd(k->s)))

static int psi_lua_isopen(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    int open = psocket_isopen(k->s) == 1;
    psi_lua_looked(k, !open);
    lua_pushboolean(L, open);
    return 1;
}

static int psi_lua_settimeout(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    k->timeout = lua_isnoneornil(L, 2) ? 0 : psi_lua_check_time(L, 2);
    psi_lua_set_limit(k, k->timeout);
    return 0;
}

/* setyield(yes): whether calls on it yield in a coroutine. They do not where the coroutines are somebody's
   own. */
static int psi_lua_setyield(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    if (!lua_isboolean(L, 2)) psi_lua_expected(L, 2, "boolean");
    k->blocks = !lua_toboolean(L, 2);
    return 0;
}

static int psi_lua_hasconnection(lua_State *L)
{
    psi_lua_sock *l = psi_lua_self(L);
    int r = psocket_hasconnection(l->s);
    if (r > 0) {
        l->promised = 1;
        psi_lua_wake_all(l); /* whoever waits in accept: the system will not report it again */
    }
    if (r < 0) psi_lua_fail_sock(L, l, r);
    lua_pushboolean(L, r > 0);
    if (r < 0) lua_replace(L, -4);
    return r < 0 ? 3 : 1;
}

/* geterror(): a message, a name, and a table with the details that there are. */
static int psi_lua_geterror(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    psocket_error e;
    int code = psocket_geterror(k->s, &e), tls = code <= PSOCKET_TLS_PROTOCOL; /* else 0 is no alert */
    if (code == 0) return 0;
    psi_lua_fail(L, code, e.text);
    lua_newtable(L);
    if (e.os_error) psi_lua_set_whole(L, "os_error", e.os_error);
    if (e.bearssl_error) psi_lua_set_whole(L, "bearssl_error", e.bearssl_error);
    if (tls && e.tls_alert >= 0) psi_lua_set_whole(L, "tls_alert", e.tls_alert);
    if (tls && e.cert_index >= 0) psi_lua_set_whole(L, "cert_index", e.cert_index);
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
    psi_lua_set_text(L, "group", info.group_name);
    psi_lua_set_text(L, "sigalg", info.sigalg_name);
    lua_pushboolean(L, info.resumed);
    lua_setfield(L, -2, "resumed");
    lua_pushboolean(L, info.extended_master_secret);
    lua_setfield(L, -2, "extended_master_secret");
    if (!info.peer_subject[0] && !info.peer_not_after) return 1;
    psi_lua_set_text(L, "peer_subject", info.peer_subject);
    psi_lua_set_hex(L, "peer_sha256", info.peer_sha256);
    psi_lua_set_hex(L, "peer_spki_sha256", info.peer_spki_sha256);
    psi_lua_set_whole(L, "peer_not_before", (double)info.peer_not_before);
    psi_lua_set_whole(L, "peer_not_after", (double)info.peer_not_after);
    return 1;
}

/* export(label, length [, context]): keying material (RFC 5705) or a channel binding. */
static int psi_lua_export(lua_State *L)
{
    psi_lua_sock *k = psi_lua_self(L);
    const char *label = psi_lua_check_text(L, 2);
    double n = psi_lua_check_number(L, 3);
    size_t len = 0;
    const char *context = lua_isnoneornil(L, 4) ? NULL : psi_lua_check_string(L, 4, &len);
    char out[1024];
    ptrdiff_t r;
    if (!(n >= 1 && n <= (double)sizeof out)) psi_lua_argument(L, 3, "a number of bytes up to 1024 expected");
    r = psocket_tls_export(k->s, label, context, len, out, (size_t)n);
    if (r < 0) return psi_lua_fail_sock(L, k, (int)r);
    lua_pushlstring(L, out, (size_t)r);
    return 1;
}

/*--- functions of the module that make sockets */

static int psi_lua_has_port(const char *address)
{
    const char *colon = strrchr(address, ':');
    return strncmp(address, "unix:", 5) == 0 || (colon && (strchr(address, ':') == colon || colon[-1] == ']'));
}

/* listen(address [, options]), udpserver, and bind(scheduler, address, callback [, options]). */
static int psi_lua_listen(lua_State *L)
{
    int udp = psi_lua_named(L, "udpserver"), bind = psi_lua_named(L, "bind");
    int at = bind ? 2 : 1, options = bind ? 4 : 2, port = 0, r;
    const char *address = NULL;
    psi_lua_sock *k;
    psi_lua_options all;
    if (lua_isnumber(L, at)) port = psi_lua_check_port(L, at);
    else if (lua_type(L, at) == LUA_TSTRING) address = psi_lua_check_text(L, at);
    else psi_lua_expected(L, at, "port or \"address:port\"");
    psi_lua_socket_options(L, options, &all);
    if (bind && !all.yield)
        psi_lua_argument(L, options, "yield = false would stop the scheduler: setyield is for its callback");
    if (all.o.udp && !udp) psi_lua_argument(L, options, "listen is for TCP; udpserver makes a UDP socket");
    all.o.udp = udp;
    if (address && !psi_lua_has_port(address)) {
        lua_pushfstring(L, "no port in \"%s\": write \"address:port\"; port 0 takes any free one", address);
        return psi_lua_fail(L, PSOCKET_INVALID, lua_tostring(L, -1));
    }
    k = psi_lua_new_sock(L, udp ? PSI_LUA_SOCKET : PSI_LUA_LISTENER, all.o.timeout_ms, !all.yield);
    r = psocket_listen(&k->s, address, port, &all.o);
    if (r < 0) return psi_lua_fail(L, r, all.e.text);
    if (!udp) k->s->of.listen->set.opt.error = NULL; /* accept would write to all.e */
    return 1;
}

/* wrap(carrier [, options]): the carrier's object is left without a socket. */
static int psi_lua_wrap(lua_State *L)
{
    psi_lua_sock *carrier = psi_lua_self(L), *k;
    psi_lua_options all;
    int r;
    psi_lua_socket_options(L, 2, &all);
    if (all.o.udp) psi_lua_argument(L, 2, "what is carried is a stream");
    k = psi_lua_new_sock(L, PSI_LUA_SOCKET, all.o.timeout_ms, !all.yield);
    if (psi_lua_claim(L, carrier, PSOCKET_READ | PSOCKET_WRITE)) return psi_lua_fail(L, PSOCKET_BUSY, NULL);
    psi_lua_forget(carrier);
    r = psocket_wrap(&k->s, carrier->s, &all.o);
    if (r < 0) return psi_lua_fail(L, r, all.e.text);
    carrier->s = NULL;
    k->owner = carrier->owner; /* closes what carries it, too */
    carrier->owner = NULL;
    if (k->owner) k->owner->own = k;
    return 1;
}

static int psi_lua_pair(lua_State *L)
{
    psi_lua_sock *a, *b;
    psi_lua_options all;
    int r;
    psi_lua_socket_options(L, 1, &all);
    if (all.o.udp) psi_lua_argument(L, 1, "a pair is of streams");
    a = psi_lua_new_sock(L, PSI_LUA_SOCKET, all.o.timeout_ms, !all.yield);
    b = psi_lua_new_sock(L, PSI_LUA_SOCKET, all.o.timeout_ms, !all.yield);
    r = psocket_pair(&a->s, &b->s, &all.o);
    return r < 0 ? psi_lua_fail(L, r, all.e.text) : 2;
}

static int psi_lua_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)psocket_now() / 1000);
    return 1;
}

/* Answers with the list at 4, which options.resolve has returned. Puts true there if it is to be asked
   first. */
static void psi_lua_resolved(void *user, psocket_resolve *r, const char *host)
{
    lua_State *L = (lua_State *)user;
    int i, n = lua_istable(L, 4) ? (int)PSI_LUA_LENGTH(L, 4) : 0, code = PSOCKET_DNS_NOT_FOUND;
    (void)host;
    if (lua_isnil(L, 4)) {
        lua_pushboolean(L, 1);
        lua_replace(L, 4);
    }
    for (i = 1; i <= n; i++) {
        lua_rawgeti(L, 4, i);
        if (lua_type(L, -1) == LUA_TSTRING && psocket_resolve_add(r, lua_tostring(L, -1)) == 0) code = 0;
        lua_pop(L, 1);
    }
    psocket_resolve_done(r, code);
}

/* dial(host, port, options [, addresses]): begins to connect. false and options.resolve if that is to be asked
   first. */
static int psi_lua_dial(lua_State *L)
{
    psi_lua_sock *k;
    psi_lua_options all;
    const char *host = psi_lua_check_text(L, 1);
    int r, port = strncmp(host, "unix:", 5) == 0 && lua_isnoneornil(L, 2) ? 0 : psi_lua_check_port(L, 2);
    lua_settop(L, 4);
    psi_lua_socket_options(L, 3, &all);
    if (all.resolve) all.o.resolve = psi_lua_resolved;
    all.o.resolve_user = L;
    k = psi_lua_new_sock(L, PSI_LUA_SOCKET, all.o.timeout_ms, !all.yield);
    r = psocket_connect(&k->s, host, port, &all.o);
    if (!lua_isboolean(L, 4)) return r < 0 ? psi_lua_fail(L, r, all.e.text) : 1;
    psocket_free(k->s);
    k->s = NULL;
    lua_pushboolean(L, 0);
    lua_getfield(L, 3, "resolve");
    return 2;
}

/*--- the scheduler */

/* Makes the core of the scheduler at 1 when it is first used, so that a class derived from it needs no
   constructor. */
static void psi_lua_make_core(lua_State *L)
{
    psi_lua_sched *S = (psi_lua_sched *)PSI_LUA_USERDATA(L, sizeof *S, 1);
    memset((void *)S, 0, sizeof *S);
    S->vm = psi_lua_here(L);
    psi_lua_ring(&S->ready);
    psi_lua_ring(&S->now);
    psi_lua_ring(&S->unused);
    psi_lua_setmetatable(L, PSI_LUA_CORE);
    lua_newtable(L);
    PSI_LUA_SETVALUE(L, -2);
    if (psocket_poller_new(&S->poller))
        psi_lua_raise(L, "no poller can be made: too many open files, or out of memory");
    if (psi_lua_find_core(L)) { /* a finalizer has used the scheduler first */
        lua_pop(L, 2);
        return;
    }
    lua_pop(L, 1);
    lua_pushliteral(L, "_core");
    lua_insert(L, -2);
    lua_rawset(L, 1);
}

/* The scheduler in the table at 1. Pushes it and its own table. */
static psi_lua_sched *psi_lua_scheduling(lua_State *L)
{
    psi_lua_sched *S = psi_lua_find_core(L);
    if (!S) {
        lua_pop(L, 1);
        psi_lua_make_core(L);
        S = psi_lua_find_core(L);
    }
    if (!S || !S->poller) psi_lua_raise(L, "the scheduler is closed"); /* or a finalizer has taken it out */
    PSI_LUA_GETVALUE(L, -1);
    return S;
}

/* Makes the coroutine at index co a task, if it is none. Memory for it is taken first. */
static psi_lua_task *psi_lua_new_task(lua_State *L, psi_lua_sched *S, int table, int co)
{
    uint32_t n = S->live < 4 ? 4 : S->live > 64 ? 64 : S->live, i;
    psi_lua_task *t;
    if (psi_lua_empty(&S->unused)) {
        t = (psi_lua_task *)PSI_LUA_USERDATA(L, n * sizeof *t, 0);
        memset((void *)t, 0, n * sizeof *t);
        lua_rawseti(L, table, (int)PSI_LUA_LENGTH(L, table) + 1);
        for (i = 0; i < n; i++) {
            psi_lua_ring(&t[i].joiners);
            psi_link_in(&S->unused, &t[i].link);
        }
    }
    if (!S->poller) psi_lua_raise(L, "the scheduler is closed"); /* by a finalizer */
    t = psi_lua_find_task(L, table, co);
    if (t) return t;
    t = (psi_lua_task *)(void *)S->unused.next;
    lua_pushvalue(L, co);
    lua_pushlightuserdata(L, t);
    lua_rawset(L, table);
    psi_link_out(&t->link);
    t->co = lua_tothread(L, co);
    t->sched = S;
    S->live++;
    return t;
}

/* Leaves nothing of a task, but for its place in the table. */
static void psi_lua_clear_task(psi_lua_sched *S, psi_lua_task *t)
{
    if (S->vm->at == t) S->vm->at = NULL; /* without memory Lua may have jumped over psi_lua_let_run */
    psi_lua_wake_ring(&t->joiners);
    psi_lua_release(t);
    psi_link_out(&t->link);
    psocket_watch_free(t->watch);
    if (t->own) t->own->owner = NULL;
    memset((void *)t, 0, sizeof *t);
    psi_lua_ring(&t->joiners);
    S->live--;
}

/* Pushes the coroutine of a task. */
static void psi_lua_push_coroutine(lua_State *L, lua_State *co)
{
    lua_pushthread(co);
    lua_xmove(co, L, 1);
}

/* The task is over; close: with the socket that it owns. */
static void psi_lua_end_task(lua_State *L, psi_lua_sched *S, int table, psi_lua_task *t, int close)
{
    psi_lua_sock *own = t->own;
    psi_lua_push_coroutine(L, t->co);
    lua_pushnil(L);
    lua_rawset(L, table);
    psi_lua_clear_task(S, t);
    psi_link_in(&S->unused, &t->link);
    if (close && own) psi_lua_shut(own);
}

/* Ends a scheduler, at any time. It is at index. */
static void psi_lua_end_core(lua_State *L, psi_lua_sched *S, int index)
{
    if (!S->poller) return;
    PSI_LUA_GETVALUE(L, index);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        if (lua_isthread(L, -2)) psi_lua_clear_task(S, (psi_lua_task *)lua_touserdata(L, -1));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    psocket_watch_free(S->signals);
    psocket_poller_free(S->poller);
    S->poller = NULL;
}

static int psi_lua_core_gc(lua_State *L)
{
    psi_lua_end_core(L, (psi_lua_sched *)psi_lua_object(L), 1);
    return 0;
}

static int psi_lua_sched_close(lua_State *L)
{
    psi_lua_sched *S = psi_lua_find_core(L);
    if (!S) return 0;
    if (S->inside) return psi_lua_raise(L, "a task cannot close its scheduler");
    psi_lua_end_core(L, S, lua_gettop(L));
    lua_newtable(L);
    PSI_LUA_SETVALUE(L, -2); /* lets go of the coroutines */
    return 0;
}

/* Begins to note what the coroutine at index thread has returned (ok) or failed with, for join: these are to be
   pushed, and lua_pcall has two arguments more. */
static void psi_lua_push_note(lua_State *L, int thread, int ok)
{
    psi_lua_get(L, PSI_LUA_NOTE);
    lua_pushvalue(L, thread);
    lua_pushboolean(L, ok);
}

/* A task has failed with the error on top of its stack: hands it to who joins it, tells errorfunc, or raises
   it. The scheduler is at 1, the coroutine on top. Whatever fails in here, the task is over with the next
   turn. */
static void psi_lua_failed(lua_State *L, psi_lua_sched *S, int table, psi_lua_task *t, lua_State *co)
{
    int thread = lua_gettop(L), error = thread + 1, joined = t && !psi_lua_empty(&t->joiners);
    if (LUA_VERSION_NUM >= 504) lua_pushvalue(co, -1); /* to-be-closed variables get it too */
    lua_xmove(co, L, 1);
    if (joined) psi_lua_wake_ring(&t->joiners);
    if (t) psi_lua_queue(t, PSI_LUA_WOKEN);
    psi_lua_get(L, PSI_LUA_TRACE);
    lua_pushvalue(L, thread);
    if (lua_type(L, error) == LUA_TSTRING) lua_pushvalue(L, error);
    else lua_pushliteral(L, "");
    if (lua_pcall(L, 2, 1, 0)) { /* out of memory, or there is no debug.traceback */
        lua_pushvalue(L, error);
        lua_replace(L, -2);
    }
    PSI_LUA_UNWIND(co, L);
    if (LUA_VERSION_NUM >= 504) lua_settop(co, 0); /* else it would look like one that has not begun */
    if (t && t->co == co) psi_lua_end_task(L, S, table, t, 1);
    psi_lua_push_note(L, thread, 0);
    lua_pushvalue(L, error);
    if (lua_pcall(L, 3, 0, 0)) joined = 0; /* there is no memory for telling join */
    lua_settop(L, error + 1);
    lua_getfield(L, 1, "errorfunc");
    if (!joined && lua_isnil(L, -1)) {
        lua_pushvalue(L, lua_type(L, error) == LUA_TSTRING ? error + 1 : error);
        lua_error(L);
    }
    lua_insert(L, error);
    if (!joined) lua_call(L, 2, 0);
    lua_settop(L, thread);
}

/* A task's coroutine, on top, has returned n values, on its own stack. keep: it counts until the next turn. */
static void psi_lua_returned(lua_State *L, psi_lua_sched *S, int table, psi_lua_task *t, lua_State *co, int keep)
{
    int n = t ? lua_gettop(co) - (t->bound != 0) : 0, thread = lua_gettop(L), lost;
    if (n >= 10 && !lua_checkstack(L, n + 20)) n = 0;
    psi_lua_push_note(L, thread, 1);
    if (n > 0) lua_xmove(co, L, n);
    lua_settop(co, 0);
    lost = n > 0 && lua_pcall(L, n + 2, 0, 0);
    if (t && t->co != co) t = NULL; /* removed by a finalizer */
    if (lost) lua_xmove(L, co, 1); /* there is no memory for telling join: the task's failure */
    lua_settop(L, thread);
    if (lost) psi_lua_failed(L, S, table, t, co);
    else if (t && keep) psi_lua_queue(t, PSI_LUA_WOKEN);
    else if (t) psi_lua_end_task(L, S, table, t, 1);
}

/* Lets a task's coroutine run until it yields or ends; *t is NULL if it was removed meanwhile. Answers
   lua_resume's. */
static int psi_lua_let_run(lua_State *L, psi_lua_sched *S, psi_lua_task **t, lua_State *co, int nargs)
{
    psi_lua_vm *vm = S->vm;
    psi_lua_task *outer = vm->at;
    int status, results;
    vm->at = *t;
    vm->ops = 0;
    vm->depth++;
    S->inside++;
    S->ran++;
    status = PSI_LUA_RESUME(co, L, nargs, &results);
    S->inside--;
    vm->depth--;
    vm->at = outer;
    if ((*t)->co != co) *t = NULL;
    if (status == LUA_YIELD && results) lua_settop(co, results < 0 ? 0 : lua_gettop(co) - results);
    return status;
}

/* Resumes a task. keep: if it ends it still counts until the next turn. */
static void psi_lua_resume(lua_State *L, psi_lua_sched *S, int table, psi_lua_task *t, int keep)
{
    lua_State *co = t->co;
    int status, state = psi_lua_state(co);
    if (state == PSI_LUA_RUNNING) psi_lua_queue(t, PSI_LUA_YIELDED); /* by somebody else, for now */
    if (state == PSI_LUA_DEAD) psi_lua_end_task(L, S, table, t, 1);
    if (state != PSI_LUA_SUSPENDED) return;
    psi_lua_release(t);
    psi_lua_push_coroutine(L, co); /* keeps it alive meanwhile, even if it is removed */
    status = psi_lua_let_run(L, S, &t, co, lua_status(co) == LUA_YIELD ? 0 : lua_gettop(co) - 1 - (t->bound != 0));
    if (!status && t && t->bound == 1 && t->own && t->own == lua_touserdata(co, 1) && psocket_isopen(t->own->s) == 1) {
        t->bound = 2; /* what bind called has returned: its coroutine goes on with finish(socket) */
        lua_settop(co, 1);
        psi_lua_get(L, PSI_LUA_FINISH);
        lua_xmove(L, co, 1);
        lua_pushvalue(co, 1);
        status = psi_lua_let_run(L, S, &t, co, 1);
    }
    if (status == 0) psi_lua_returned(L, S, table, t, co, keep);
    else if (status != LUA_YIELD) psi_lua_failed(L, S, table, t, co);
    if (status == LUA_YIELD && t) {
        if (t->waits && !psi_lua_waits(co)) psi_lua_release(t); /* it could not yield then */
        if (!t->waits) psi_lua_queue(t, PSI_LUA_YIELDED);
    }
    lua_pop(L, 1);
}

/* add(function or coroutine, arguments ...): starts it at once. spawn(function, socket): starts it in the next
   turn, and finishes the socket when it ends. */
static int psi_lua_start(lua_State *L)
{
    int n = lua_gettop(L), spawn = psi_lua_named(L, "spawn"), table, thread, i;
    psi_lua_sched *S;
    psi_lua_sock *own = spawn ? (psi_lua_sock *)psi_lua_is(L, 3, psi_lua_here(L), PSI_LUA_SOCKET) : NULL;
    lua_State *co = lua_tothread(L, 2);
    psi_lua_task *t;
    if (!co && !lua_isfunction(L, 2)) psi_lua_expected(L, 2, "function");
    if (n > 8) luaL_checkstack(L, n + 20, "too many arguments");
    S = psi_lua_scheduling(L);
    table = lua_gettop(L);
    if (S->vm->depth >= PSI_LUA_DEPTH) return psi_lua_raise(L, "too many tasks inside each other");
    if (co) {
        int first = lua_pushthread(co);
        lua_pop(co, 1);
        if (first || psi_lua_state(co) == PSI_LUA_DEAD)
            return psi_lua_argument(L, 2, "a function or a coroutine that has not ended expected");
        lua_pushvalue(L, 2);
    } else {
        co = lua_newthread(L);
        if (n > 8 && !lua_checkstack(co, n + 2)) return psi_lua_raise(L, "too many arguments");
        if (spawn) lua_pushvalue(L, 3);
        for (i = 2; i <= n; i++) lua_pushvalue(L, i);
        lua_xmove(L, co, n - 1 + spawn);
    }
    thread = table + 1;
    t = psi_lua_new_task(L, S, table, thread);
    if (own && own->owner) own->owner->own = NULL;
    if (own) own->owner = t;
    t->own = own;
    t->bound = (uint8_t)spawn;
    if (spawn) psi_lua_queue(t, PSI_LUA_WOKEN);
    else psi_lua_resume(L, S, table, t, 1);
    return 1;
}

/* getfd(scheduler): the descriptor that becomes readable when step has work, and in how many seconds it will
   have some without that (nil: not before). For a foreign event loop. */
static int psi_lua_sched_getfd(lua_State *L)
{
    psi_lua_sched *S = psi_lua_scheduling(L);
    int ms = psi_lua_empty(&S->ready) && psi_lua_empty(&S->now) ? -1 : 0;
    psi_lua_push_fd(L, psocket_poller_getfd(S->poller, &ms));
    psi_lua_push_seconds(L, ms);
    return 2;
}

/* The scheduler at 1 and the task in the coroutine at 2, or NULL; pushes the scheduler and its table. */
static psi_lua_task *psi_lua_named_task(lua_State *L, psi_lua_sched **S)
{
    if (!lua_isthread(L, 2)) psi_lua_expected(L, 2, "coroutine");
    *S = psi_lua_scheduling(L);
    return psi_lua_find_task(L, lua_gettop(L), 2);
}

/* contains and remove. */
static int psi_lua_contains(lua_State *L)
{
    psi_lua_sched *S;
    psi_lua_task *t = psi_lua_named_task(L, &S);
    if (t && psi_lua_named(L, "remove")) psi_lua_end_task(L, S, lua_gettop(L), t, 0);
    lua_pushboolean(L, t != NULL);
    return 1;
}

/* Something has happened: wakes the task it is for. */
static void psi_lua_event(psi_lua_sched *S, const psocket_event *e)
{
    psi_lua_sock *k = (psi_lua_sock *)e->user;
    psi_lua_task *t;
    int way, wanted;
    if (!k) return; /* it was taken out meanwhile */
    if (e->user == &S->signals) {
        S->interrupted = 1;
    } else if ((uintptr_t)e->user & 1) { /* no object's address */
        t = (psi_lua_task *)(void *)((char *)e->user - 1);
        if (t->timed) psi_lua_queue(t, PSI_LUA_WOKEN); /* else it waits for something else by now */
    } else {
        wanted = k->s->watch.events;
        for (way = 0; way < 2; way++) {
            t = k->waiter[way];
            if (!(e->events & (way + 1))) continue;
            if (t && t->sched == S) psi_lua_queue(t, PSI_LUA_WOKEN);
            else wanted &= ~(way + 1);
        }
        if (wanted != k->s->watch.events) psocket_poller_set(S->poller, k->s, wanted, -1, k);
    }
}

/* coroutine.close tells nobody: looks for tasks that are dead. */
static void psi_lua_bury(lua_State *L, psi_lua_sched *S, int table)
{
    S->ran = 0;
    lua_pushnil(L);
    while (lua_next(L, table)) {
        if (lua_isthread(L, -2) && psi_lua_state(lua_tothread(L, -2)) == PSI_LUA_DEAD)
            psi_lua_queue((psi_lua_task *)lua_touserdata(L, -1), PSI_LUA_WOKEN);
        lua_pop(L, 1);
    }
}

/* Waits for events, and wakes those that they are for. How many there were. */
static int psi_lua_wait(lua_State *L, psi_lua_sched *S, int ms)
{
    const psocket_event *events;
    int i, n = psocket_poller_wait(S->poller, &events, ms);
    if (n == PSOCKET_NOMEM) { /* others may give some back */
        psi_os_poll(NULL, 0, ms < 0 || ms > 50 ? 50 : ms, &i);
        return 0;
    }
    if (n < 0) psi_lua_raise(L, "cannot wait for sockets: %s", psocket_strerror(n));
    for (i = 0; i < n; i++) psi_lua_event(S, &events[i]);
    return n;
}

/* One turn: waits for events, and resumes who is ready. How many events there were. */
static int psi_lua_one_turn(lua_State *L, psi_lua_sched *S, int table, int64_t due)
{
    int n, ms;
    if (LUA_VERSION_NUM >= 504 && !S->urgent && S->ran / 4 >= S->live) psi_lua_bury(L, S, table);
    ms = psi_lua_patience(due);
    if (S->urgent || !psi_lua_empty(&S->now)) ms = 0;
    else if (!psi_lua_empty(&S->ready)) ms = ms != 0; /* those that yielded by themselves are in no hurry */
    else if (LUA_VERSION_NUM >= 504 && S->ran && (ms < 0 || ms > 1000)) ms = 1000; /* then look for dead ones */
    if (ms && !S->signals) psocket_poller_watch(S->poller, &S->signals, -1, PSOCKET_SIGNAL, -1, &S->signals);
    n = psi_lua_wait(L, S, ms);
    if (n == 0 && ms == 1000) S->ran = 4 * S->live;
    while (!psi_lua_empty(&S->ready)) { /* what an error had left over comes first */
        psi_link *first = S->ready.next;
        psi_link_out(first);
        psi_link_in(&S->now, first);
    }
    S->urgent = 0;
    while (!psi_lua_empty(&S->now)) {
        psi_lua_task *t = (psi_lua_task *)(void *)S->now.next;
        psi_link_out(&t->link);
        t->queued = 0;
        psi_lua_resume(L, S, table, t, 0);
        n++;
    }
    return n;
}

/* turn(scheduler, due): turns, until something has happened or due; without due several. Are there tasks left,
   has something happened, and do those that are ready only yield by themselves? */
static int psi_lua_turn(lua_State *L)
{
    int table, turns, n = 0, endless = lua_isnoneornil(L, 2), lazy = 0;
    double ms = (double)lua_tonumber(L, 2) * 1000 + 0.9999; /* rounded up: the clock knows no parts of one */
    int64_t due = endless || ms > 9e15 ? INT64_MAX : (int64_t)ms;
    psi_lua_sched *S;
    lua_settop(L, 2);
    S = psi_lua_scheduling(L);
    table = lua_gettop(L);
    lua_pushthread(L); /* a task that others have resumed, or whose __close handlers are run */
    if (S->inside || (!PSI_LUA_YIELDABLE(L) && psi_lua_find_task(L, table, table + 1)))
        return psi_lua_raise(L, "a scheduler cannot be run by one of its own tasks");
    if (S->vm->depth >= PSI_LUA_DEPTH) return psi_lua_raise(L, "too many schedulers inside each other");
    S->ran++;
    for (turns = 0; turns < 32 && S->live && !lazy && !S->interrupted; turns++) {
        n = psi_lua_one_turn(L, S, table, due);
        if (!S->poller) break; /* closed by a task, or a finalizer */
        lazy = !psi_lua_empty(&S->ready) && !S->urgent;
        if (!endless || !n) break;
    }
    S->interrupted = 0;
    lua_pushboolean(L, S->live != 0);
    lua_pushboolean(L, n != 0);
    lua_pushboolean(L, lazy);
    return 3;
}

static int psi_lua_sched_tostring(lua_State *L)
{
    const psi_lua_sched *S = psi_lua_find_core(L);
    if (S && !S->poller) lua_pushliteral(L, "psocket scheduler: (closed)");
    else lua_pushfstring(L, "psocket scheduler: (%d tasks)", S ? (int)S->live : 0);
    return 1;
}

/* join(scheduler, coroutine): until that task has ended. */
static int psi_lua_try_join(lua_State *L, psi_lua_op *op)
{
    psi_lua_sched *S;
    psi_lua_task *t = psi_lua_named_task(L, &S);
    lua_State *co = lua_tothread(L, 2);
    if (!t && psi_lua_state(co) != PSI_LUA_DEAD) psi_lua_argument(L, 2, "a task of this scheduler expected");
    if (co == L) psi_lua_argument(L, 2, "a task cannot wait for itself");
    if (!t) return 0;
    op->ring = &t->joiners;
    return PSI_LUA_AGAIN;
}

/*--- queues */

static int psi_lua_new_queue(lua_State *L)
{
    psi_lua_fifo *q = (psi_lua_fifo *)PSI_LUA_USERDATA(L, sizeof *q, 1);
    memset((void *)q, 0, sizeof *q);
    psi_lua_ring(&q->ring);
    psi_lua_setmetatable(L, PSI_LUA_QUEUE);
    lua_newtable(L);
    PSI_LUA_SETVALUE(L, -2);
    return 1;
}

static int psi_lua_push(lua_State *L)
{
    psi_lua_fifo *q = (psi_lua_fifo *)psi_lua_object(L);
    if (lua_isnoneornil(L, 2)) psi_lua_argument(L, 2, "nil cannot be queued");
    if (q->closed) return psi_lua_fail(L, PSOCKET_CLOSED_HERE, NULL);
    if (!q->count) q->first = 1;
    PSI_LUA_GETVALUE(L, 1);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, (int)((q->first + q->count) & INT_MAX));
    q->count++;
    psi_lua_wake_ring(&q->ring);
    lua_pushboolean(L, 1);
    return 1;
}

/* close and __gc: a task waits for a queue that is gone once its coroutine was resumed by others, or closed. If
   a finalizer brings the queue back none can wait for it, since __gc does not come again. */
static int psi_lua_queue_close(lua_State *L)
{
    psi_lua_fifo *q = (psi_lua_fifo *)psi_lua_object(L);
    psi_lua_wake_ring(&q->ring);
    if (psi_lua_named(L, "__gc")) q->ring.prev = NULL;
    else q->closed = 1;
    return 0;
}

static int psi_lua_queue_len(lua_State *L)
{
    const psi_lua_fifo *q = (const psi_lua_fifo *)psi_lua_object(L);
    lua_pushinteger(L, (lua_Integer)q->count);
    return 1;
}

/*--- what else the script asks */

/* lines(socket [, delimiter] [, options]): both, checked. */
static int psi_lua_check_lines(lua_State *L)
{
    psi_lua_self(L);
    lua_settop(L, lua_istable(L, 2) ? 2 : 3);
    psi_lua_time_limit(L, lua_gettop(L), 0);
    if (lua_istable(L, 2)) {
        lua_pushnil(L);
        lua_insert(L, 2);
    }
    if (!lua_isnil(L, 2)) psi_lua_check_delimiter(L);
    return 2;
}

/* bad(problem [, argument]): an error at the user's line. */
static int psi_lua_blame(lua_State *L)
{
    if (lua_isnoneornil(L, 2)) return psi_lua_raise(L, "%s", lua_tostring(L, 1));
    return psi_lua_argument(L, (int)lua_tointeger(L, 2), lua_tostring(L, 1));
}

/*--- what is plainer in Lua: whatever calls a function that may yield */

static const char *const psi_lua_script[] = { /* in parts, since C99 promises 4,095 bytes in one string */
    /* the psi_lua_vm, the module, the classes, what is hidden; do yields pass pcall; may a weak key's value refer to it? */
    "local again, M, K, N, T, Q, O, S, C, passes, ephemeral = ...\n"
    "local error, getmetatable, next, pcall, setmetatable, tonumber, type, yield =\n"
    "  error, getmetatable, next, pcall, setmetatable, tonumber, type, coroutine.yield\n"
    "local select, unpack = select, table.unpack or unpack\n", psi_lua_wrapping,

    "local bad, now, turn = C.bad, M.now, C.turn\n"
    "local running = coroutine.running\n"
    "local yieldable = coroutine.isyieldable or function()\n"
    "  local co, first = running()\n"
    "  return co and not first\n"
    "end\n"
    "local function asked(t)\n" /* the functions of these settings, once they were told the time */
    "  local asks = t and C.asks(t) or {}\n"
    "  if asks.clock then C.asks(t, (asks.clock())) end\n"
    "  return asks\n"
    "end\n"
    "function M.tls(options)\n"
    "  local t, message, name = C.settings(options, 1)\n"
    "  if not t then return nil, message, name end\n"
    "  asked(t)\n"
    "  return t\n"
    "end\n"
    /* The same tables give the settings that were made of them before. */
    "local parsed = setmetatable({}, { __mode = 'k' })\n"
    "local function cached(options, arg, certs)\n"
    "  local first, second = certs or options, options or certs\n"
    "  local of = parsed[first] or setmetatable({}, { __mode = 'k' })\n"
    "  if of[second] then return of[second] end\n"
    "  local t, message, name = C.settings(options, arg, certs)\n"
    /* Before Lua 5.2 a function that refers to the table would keep it, and itself, for ever. */
    "  if t and (ephemeral or next(C.asks(t)) == nil) then parsed[first], of[second] = of, t end\n"
    "  return t, message, name\n"
    "end\n"
    "local function unguarded(f, ...) return true, f(...) end\n" /* where nothing could yield through pcall */
    "local call = passes and pcall or unguarded\n"
    /* What a handshake has answered, once it asks nothing more. An error in what is asked refuses, and is told. */
    "local function ask(s, asks, problem, key, ...)\n"
    "  local f = asks[key]\n"
    "  if f then\n"
    "    local ok, v = call(f, ...)\n"
    "    C.answer(s, ok and v)\n"
    "    return ask(s, asks, not ok and v, C.secure(s))\n"
    "  end\n"
    "  local message, name = ...\n"
    "  if name and type(problem) == 'string' then return key, message .. ': ' .. problem, name end\n"
    "  return key, ...\n"
    "end\n"
    "local quick = setmetatable({}, { __mode = 'k' })\n" /* certificates -> settings that ask nothing */
    "local function starttls(s, a, b, c)\n"
    "  local plain, t, seconds, options, arg = C.plan(s, a, b, c)\n"
    "  if plain == false then return nil end\n"
    "  if not plain then return nil, t, seconds end\n"
    "  local certs, message, why = type(a) == 'table' and a or nil, nil, nil\n"
    "  if not t and (certs or options) then\n"
    "    t, message, why = cached(options, arg, certs)\n"
    "    if not t then M.close(s) return false, message, why end\n"
    "  end\n"
    "  local asks = asked(t)\n"
    "  if certs and b == nil and next(asks) == nil then quick[certs] = t end\n"
    "  return ask(s, asks, nil, C.secure(s, t, type(a) == 'string' and a or nil, seconds))\n"
    "end\n"
    "local function same(...) return ... end\n"
    /* starttls(socket, name | certificates | settings, options | settings, options). What was parsed before
       goes a short way: a coroutine's stack keeps the size that it once had. No tail call: errors look for how
       this was called. */
    "function M.starttls(s, a, b, c)\n"
    "  local t = b == nil and quick[a]\n"
    "  if t and M.getside(s) == 'server' then return same(C.secure(s, t)) end\n"
    "  return same(starttls(s, a, b, c))\n"
    "end\n",

    "function M.connect(host, port, options)\n"
    "  local s, message, why = C.dial(host, port, options)\n"
    "  if s == false then\n"
    "    local addresses\n"
    "    addresses, message, why = message(host)\n" /* options.resolve */
    "    if not addresses then return nil, message or 'cannot resolve \"' .. host .. '\"', why or 'DNS' end\n"
    "    if type(addresses) ~= 'table' then addresses = { addresses } end\n"
    "    for i = 1, #addresses do\n"
    "      if type(addresses[i]) ~= 'string' then bad('options.resolve must return addresses (strings)') end\n"
    "    end\n"
    "    s, message, why = C.dial(host, port, options, addresses)\n"
    "  end\n"
    "  if s then return C.step(s) end\n"
    "  return nil, message, why\n"
    "end\n"
    "local function time(seconds)\n"
    "  seconds = tonumber(seconds)\n"
    "  if not (seconds and seconds >= 0) then bad('not a time in seconds', 2) end\n"
    "  return seconds\n"
    "end\n"
    /* Closes in stages (RFC 9112 9.6): an answer must not be lost to the reset that unread input would cause. */
    "function M.finish(s, seconds)\n"
    "  local due, room = now() + time(seconds or 10), 8388608\n"
    "  local left, data, message, why = { timeout = 2 }, M.shutdown(s, 'send', { timeout = 10 })\n"
    "  while data do\n"
    "    local rest = due - now()\n"
    "    left.timeout = rest < 2 and rest or 2\n"
    "    if rest <= 0 then data, message, why = nil, 'timed out', 'TIMEOUT'\n"
    "    elseif room < 0 then data, message, why = nil, 'the peer goes on sending', 'LIMIT'\n"
    "    else data, message, why = M.recv(s, left) end\n"
    "    room = room - #(data or '')\n"
    "  end\n"
    "  M.close(s)\n"
    "  if why == 'CLOSED' then return true end\n"
    "  return nil, message, why\n"
    "end\n"
    "function M.lines(s, delimiter, options)\n"
    "  delimiter, options = C.lines(s, delimiter, options)\n"
    "  local newline = delimiter == nil\n"
    "  delimiter = delimiter or '\\n'\n"
    "  return function()\n"
    "    local line, message, why = M.read_until(s, delimiter, options)\n"
    "    if line then return line:sub(1, -1 - #(newline and line:match('\\r?\\n$') or delimiter)) end\n"
    "    if why ~= 'CLOSED' then bad(message) end\n"
    "    local n = M.pending(s)\n"
    "    return n > 0 and M.read(s, n) or nil\n" /* the last one, without an end */
    "  end\n"
    "end\n",

    "local function place(ip, port)\n"
    "  if not ip then return 'no address' end\n"
    "  if port == 0 then return 'unix:' .. ip end\n"
    "  return (ip:find(':', 1, true) and '[' .. ip .. ']:' or ip .. ':') .. port\n"
    "end\n"
    "function K.__tostring(s)\n"
    "  local open, info = M.isopen(s), M.tlsinfo(s)\n"
    "  return 'psocket: ' .. place(M.getpeer(s)) .. ' (' .. (open and 'open' or 'closed') ..\n"
    "    (M.isudp(s) and ', UDP' or info and ', ' .. info.version or '') .. ')'\n"
    "end\n"
    "function N.__tostring(l)\n"
    "  local ip, port, why = N.getlocal(l)\n"
    "  if why then return 'psocket listener: (closed)' end\n"
    "  return 'psocket listener: ' .. place(ip, port) .. ' (open)'\n"
    "end\n"
    "local function callable(f)\n"
    "  local meta = type(f) ~= 'function' and getmetatable(f)\n"
    "  return type(f) == 'function' or (type(meta) == 'table' and meta.__call ~= nil)\n"
    "end\n"
    "function M.bind(sched, port, callback, options)\n"
    "  local kind, f = type(sched), callback\n"
    "  if sched == S then bad('scheduler expected, got their class: write scheduler()', 1) end\n"
    "  if (kind ~= 'table' and kind ~= 'userdata') or not sched.add then\n"
    "    bad('scheduler expected, got ' .. kind, 1)\n"
    "  end\n"
    "  if not callable(f) then bad('function expected, got ' .. type(f), 3) end\n"
    "  local listener, message = C.bind(sched, port, f, options)\n"
    "  if not listener then bad(message) end\n"
    "  if type(f) ~= 'function' then callback = function(s) return f(s) end end\n"
    "  local begun\n"
    "  local function begin(s)\n"
    "    begun = false\n"
    "    if sched.add == S.add then return C.spawn(sched, callback, s) end\n"
    "    return sched:add(function()\n"
    "      begun = true\n"
    "      local ok, why = call(callback, s)\n"
    "      if ok then M.finish(s) else M.close(s) error(why, 0) end\n"
    "    end)\n"
    "  end\n"
    "  local function serve(s)\n"
    "    local ok, why = pcall(begin, s)\n"
    /* A failure of the callback is told as any other task's; it is no lack of memory. */
    "    if not ok and begun then M.close(s) pcall(sched.add, sched, function() yield() error(why, 0) end) end\n"
    "    return ok or begun\n"
    "  end\n"
    /* The task outlives all errors of accept: those of one client, and a lack of memory or descriptors. */
    /* Nothing yields within pcall: an error there would shrink the stack, and then there must be memory for any call. */
    "  local state, always = nil, { timeout = 0 }\n"
    "  local function rest()\n"
    "    pcall(C.sleep, sched, 0.05)\n"
    "    yield()\n"
    "  end\n"
    "  sched:add(function()\n"
    "    while true do\n"
    "      local fine, s, why\n"
    "      if state then fine, s, state, why = pcall(C.accept, again, state, listener, always)\n"
    "      else fine, s, state, why = pcall(C.accept, listener, always) end\n"
    "      if s == again then yield()\n"
    "      else\n"
    "        state = nil\n"
    "        if not fine or s == nil and why ~= 'CLOSED_HERE' then rest()\n"
    "        elseif s == nil then return\n"
    "        else while not serve(s) do rest() end end\n"
    "      end\n"
    "    end\n"
    "  end)\n"
    "  return listener\n"
    "end\n",

    "function S.new() return setmetatable({}, S) end\n"
    "function S.__construct() end\n" /* for constructors of derived classes */
    "function S.addloop(self, f)\n"
    "  if type(self) ~= 'table' then bad('table expected, got ' .. type(self), 1) end\n"
    "  if not callable(f) then bad('function expected, got ' .. type(f), 2) end\n"
    "  return self:add(function() while f() ~= false do yield() end end)\n"
    "end\n"
    "function S.run(self)\n"
    "  local nested, told, live, lazy, _ = yieldable(), false, nil, nil, nil\n"
    "  repeat\n"
    "    live, _, lazy = turn(self, (nested or told) and 0 or nil)\n"
    "    local f = lazy and not nested and self.yieldfunc\n"
    "    told = f and true\n"
    "    if f then f() elseif live and nested then yield() end\n"
    "  until not live\n"
    "end\n"
    "function S.step(self, seconds)\n"
    "  local due, nested = now() + time(seconds or 0), yieldable()\n"
    "  while true do\n"
    "    local live, happened = turn(self, nested and 0 or due)\n"
    "    if not live or happened or now() + 1e-7 >= due then return live end\n"
    "    if nested then yield() end\n"
    "  end\n"
    "end\n"
    "local results = setmetatable({}, { __mode = 'k' })\n" /* of tasks that have ended */
    "local rawget, put, get = rawget, rawset, rawget\n"
    "local setfenv, getfenv = debug and debug.setfenv, debug and debug.getfenv\n"
    "if setfenv and not ephemeral then\n" /* then they lie in the coroutine itself */
    "  function put(_, co, r) r[results] = true setfenv(co, r) end\n"
    "  function get(_, co) local r = getfenv(co) return rawget(r, results) and r end\n"
    "end\n"
    "local function note(co, ok, ...)\n"
    "  put(results, co, { ok = ok, n = select('#', ...), ... })\n"
    "end\n"
    "function S.join(self, co)\n"
    "  local fine, why = true, nil\n"
    "  while fine and not yieldable() and S.contains(self, co) do fine, why = pcall(S.step, self, 1) end\n"
    "  if fine then C.join(self, co) end\n"
    "  local r = get(results, co)\n"
    "  if not fine and (not r or r.ok) then error(why, 0) end\n" /* it is another task's */
    "  if not r then return end\n"
    "  if not r.ok then error(r[1], 0) end\n"
    "  return unpack(r, 1, r.n)\n"
    "end\n"
    "M.scheduler = setmetatable(S, { __call = S.new })\n"
    "local names = {}\n" /* of what is public */
    "for _, class in next, { M, K, N, T, Q, S } do\n"
    "  for name, f in next, class do names[f] = type(f) == 'function' and name or nil end\n"
    "end\n"
    "return names, note, M.finish, function() end, debug and debug.traceback, setmetatable({}, { __mode = 'kv' })\n",
    NULL
};

/*--- the module */

#define PSI_LUA_F(in, of, key, f) { #key, psi_lua_##f, NULL, PSI_LUA_##in, PSI_LUA_##of, NULL }
#define PSI_LUA_M(name) PSI_LUA_F(MODULE, SOCKET, name, name)
#define PSI_LUA_OF(class_of, key, f) PSI_LUA_F(class_of, class_of, key, f)
#define PSI_LUA_W(in, of, key) { #key, psi_lua_run, psi_lua_try_##key, PSI_LUA_##in, PSI_LUA_##of, NULL }
#define PSI_LUA_ONCE(of, key) { #key, psi_lua_once, psi_lua_try_##key, PSI_LUA_HIDDEN, PSI_LUA_##of, NULL }

static const psi_lua_function psi_lua_functions[] = { /* those of ONCE leave the yield to the script */
    PSI_LUA_M(close), PSI_LUA_M(export), PSI_LUA_M(geterror), PSI_LUA_M(getfd), PSI_LUA_M(getside),
    PSI_LUA_M(isopen), PSI_LUA_M(istls), PSI_LUA_M(isudp), PSI_LUA_M(listen), PSI_LUA_M(now), PSI_LUA_M(pair),
    PSI_LUA_M(peek), PSI_LUA_M(pending), PSI_LUA_M(setpeer), PSI_LUA_M(settimeout), PSI_LUA_M(setyield),
    PSI_LUA_M(tlsinfo), PSI_LUA_M(unrecv), PSI_LUA_M(wrap), PSI_LUA_F(MODULE, SOCKET, getlocal, address),
    PSI_LUA_F(MODULE, SOCKET, getpeer, address), PSI_LUA_F(MODULE, SOCKET, udpserver, listen),
    PSI_LUA_F(MODULE, CLASS, queue, new_queue), PSI_LUA_W(MODULE, SOCKET, read),
    PSI_LUA_W(MODULE, SOCKET, read_until), PSI_LUA_W(MODULE, SOCKET, recv), PSI_LUA_W(MODULE, SOCKET, send),
    PSI_LUA_W(MODULE, SOCKET, shutdown), PSI_LUA_OF(SOCKET, __close, close), PSI_LUA_OF(SOCKET, __gc, gc),
    PSI_LUA_OF(LISTENER, close, close), PSI_LUA_OF(LISTENER, getfd, getfd),
    PSI_LUA_OF(LISTENER, getlocal, address), PSI_LUA_OF(LISTENER, hasconnection, hasconnection),
    PSI_LUA_OF(LISTENER, settimeout, settimeout), PSI_LUA_OF(LISTENER, __close, close),
    PSI_LUA_OF(LISTENER, __gc, gc), PSI_LUA_W(LISTENER, LISTENER, accept),
    PSI_LUA_OF(SETTINGS, loadsessions, loadsessions), PSI_LUA_OF(SETTINGS, savesessions, savesessions),
    PSI_LUA_OF(SETTINGS, __gc, settings_gc), PSI_LUA_OF(CORE, __gc, core_gc),
    PSI_LUA_OF(QUEUE, __gc, queue_close), PSI_LUA_OF(QUEUE, __len, queue_len),
    PSI_LUA_OF(QUEUE, close, queue_close), PSI_LUA_OF(QUEUE, push, push), PSI_LUA_W(QUEUE, QUEUE, pop),
    PSI_LUA_OF(CLASS, add, start), PSI_LUA_OF(CLASS, close, sched_close), PSI_LUA_OF(CLASS, contains, contains),
    PSI_LUA_OF(CLASS, getfd, sched_getfd), PSI_LUA_OF(CLASS, remove, contains),
    PSI_LUA_OF(CLASS, __close, sched_close), PSI_LUA_OF(CLASS, __tostring, sched_tostring),
    PSI_LUA_W(CLASS, CLASS, sleep), PSI_LUA_ONCE(LISTENER, accept), PSI_LUA_ONCE(CLASS, sleep),
    PSI_LUA_F(HIDDEN, CLASS, bad, blame), PSI_LUA_F(HIDDEN, CLASS, bind, listen),
    PSI_LUA_F(HIDDEN, CLASS, dial, dial), PSI_LUA_F(HIDDEN, CLASS, settings, make_settings),
    PSI_LUA_F(HIDDEN, CLASS, spawn, start), PSI_LUA_F(HIDDEN, CLASS, turn, turn),
    PSI_LUA_F(HIDDEN, SOCKET, answer, answer_question), PSI_LUA_F(HIDDEN, SOCKET, lines, check_lines),
    PSI_LUA_F(HIDDEN, SOCKET, plan, plan), PSI_LUA_F(HIDDEN, SETTINGS, asks, asks),
    PSI_LUA_W(HIDDEN, CLASS, join), PSI_LUA_W(HIDDEN, SOCKET, secure), PSI_LUA_W(HIDDEN, SOCKET, step),
    { NULL, NULL, NULL, 0, 0, NULL }
};

PSOCKET_LUA_API int luaopen_psocket(lua_State *L)
{
    psi_lua_function *f;
    psi_lua_vm *vm;
    int n;
    lua_settop(L, 0);
    lua_getfield(L, LUA_REGISTRYINDEX, "psocket");
    if (!lua_isnil(L, -1)) return 1; /* it was opened before */
    psi_os_pin(); /* LuaJIT unloads modules before it calls the last finalizers */
    lua_settop(L, 0);
    if (!lua_checkstack(L, 40)) return luaL_error(L, "not enough memory");
    vm = (psi_lua_vm *)PSI_LUA_USERDATA(L, sizeof *vm + sizeof psi_lua_functions, 0);
    memset((void *)vm, 0, sizeof *vm);
    f = (psi_lua_function *)(void *)(vm + 1);
    memcpy((void *)f, psi_lua_functions, sizeof psi_lua_functions);
    lua_newtable(L);
    for (n = PSI_LUA_SOCKET; n < PSI_LUA_HIDDEN; n++) {
        luaL_newmetatable(L, psi_lua_names[n]);
        vm->meta[n] = lua_topointer(L, n);
        lua_pushstring(L, psi_lua_names[n]);
        lua_setfield(L, n, "__name");
        lua_pushvalue(L, n == PSI_LUA_SOCKET ? PSI_LUA_MODULE : n); /* module.send(s) is s:send() */
        lua_setfield(L, n, "__index");
    }
    lua_newtable(L);
    for (; f->key; f++) {
        f->vm = vm;
        lua_pushvalue(L, PSI_LUA_VM);
        lua_pushlightuserdata(L, f);
        lua_pushcclosure(L, f->f, 2);
        lua_setfield(L, f->in, f->key);
    }
    lua_pushliteral(L, PSOCKET_VERSION);
    lua_setfield(L, PSI_LUA_MODULE, "version");
    for (n = 0; psi_lua_script[n]; n++) lua_pushstring(L, psi_lua_script[n]);
    lua_concat(L, n);
    if (luaL_loadbuffer(L, lua_tostring(L, -1), PSI_LUA_LENGTH(L, -1), PSI_LUA_CHUNK)) lua_error(L);
    for (n = PSI_LUA_VM; n <= PSI_LUA_HIDDEN; n++) lua_pushvalue(L, n);
    lua_pushboolean(L, LUA_VERSION_NUM >= 502 || PSI_LUA_JIT);
    lua_pushboolean(L, LUA_VERSION_NUM >= 502);
    lua_call(L, PSI_LUA_HIDDEN + 2, PSI_LUA_COPY);
    lua_pushcfunction(L, psi_lua_copy);
    for (n = PSI_LUA_REFS; n > 0; n--) vm->ref[n - 1] = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushvalue(L, PSI_LUA_MODULE);
    lua_setfield(L, LUA_REGISTRYINDEX, "psocket");
    lua_pushvalue(L, PSI_LUA_MODULE);
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
