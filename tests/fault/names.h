/* A name that the system's resolver is asked for, which it is not for "localhost". Include before psocket.h. */
#ifndef FAULT_NAMES_H
#define FAULT_NAMES_H
#include <netdb.h>
#include <string.h>

#define SCENE_NAME "named.test"

static int names_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    return getaddrinfo(strcmp(host, SCENE_NAME) ? host : "localhost", service, hints, out);
}
#define getaddrinfo names_getaddrinfo
#endif
