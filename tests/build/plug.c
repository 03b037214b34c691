/* plug.c - a library with psocket in it that is unloaded while a name is being resolved: its code must stay, since the
 * resolver's thread is in it. plug.sh and windows.sh build it twice:
 *
 *     -DPLUG        the library: go() starts a lookup that takes half a second, and lets go of it
 *     without       plug LIBRARY: loads it, calls go, unloads it, several times, and is there after the lookups
 *
 * and once more for a program (-DPROGRAM) that starts itself under the name of a library, which nobody must load for it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifdef _WIN32
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#define nap(ms) Sleep(ms)
#else
#include <dlfcn.h>
#include <netdb.h>
#include <time.h>
static __attribute__((unused)) void nap(long ms)
{
    struct timespec t;
    t.tv_sec = ms / 1000;
    t.tv_nsec = ms % 1000 * 1000000;
    nanosleep(&t, NULL);
}
#endif

#if defined(TRAP)
#include <unistd.h>
__attribute__((constructor)) static void trap(void)
{
    static const char text[] = "trapped\n";
    if (write(1, text, sizeof text - 1)) {}
}
#elif defined(PLUG) || defined(PROGRAM)
static int slow_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    (void)host;
    nap(500);
    return getaddrinfo("127.0.0.1", service, hints, out);
}
#define getaddrinfo slow_getaddrinfo
#define PSOCKET_IMPLEMENTATION
#define PSOCKET_NO_TLS
#include "psocket.h"

#ifdef _WIN32
__declspec(dllexport)
#endif
int go(void)
{
    psocket_options o = { 0 };
    psocket *s;
    int r;
    o.nonblocking = 1;
    r = psocket_connect(&s, "slow.test", 80, &o);
    nap(50); /* the thread has begun */
    psocket_free(s);
    return r;
}
#ifdef PROGRAM
int main(int argc, char **argv)
{
    if (argc > 1) {
        char *args[2] = { NULL, NULL };
        args[0] = argv[1];
        return execv("/proc/self/exe", args);
    }
    go();
    nap(600);
    return puts("done") < 0;
}
#endif
#else
#include <stdio.h>

int main(int argc, char **argv)
{
    int i, r = 0;
    for (i = 0; i < 4; i++) {
#ifdef _WIN32
        HMODULE lib = LoadLibraryA(argc > 1 ? argv[1] : "plug.dll");
        int (*go)(void) = lib ? (int (*)(void))(void *)GetProcAddress(lib, "go") : NULL;
        if (!go) return puts("cannot load"), 1;
        r |= go();
        FreeLibrary(lib);
#else
        void *lib = dlopen(argc > 1 ? argv[1] : "./plug.so", RTLD_NOW);
        int (*go)(void) = NULL;
        if (lib) *(void **)&go = dlsym(lib, "go");
        if (!go) return puts("cannot load"), 1;
        r |= go();
        dlclose(lib);
#endif
    }
    nap(800);
    puts(r ? "connect failed" : "survived");
    return r != 0;
}
#endif
