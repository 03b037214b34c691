/* http.h - what the examples that speak HTTP/1.1 share: header lines, lists of tokens, hexadecimal digits. */
#ifndef EXAMPLES_HTTP_H
#define EXAMPLES_HTTP_H

#include <stddef.h>
#include <string.h>

/* If line is the header field name (in small letters), its value without the blanks around it; else NULL. */
static inline const char *http_field(char *line, const char *name)
{
    size_t i, n = strlen(name), end = strlen(line);
    for (i = 0; i < n; i++)
        if ((line[i] >= 'A' && line[i] <= 'Z' ? line[i] + 32 : line[i]) != name[i]) return NULL;
    if (line[n] != ':') return NULL;
    for (i = n + 1; line[i] == ' ' || line[i] == '\t'; i++) continue;
    while (end > i && (line[end - 1] == ' ' || line[end - 1] == '\t')) line[--end] = 0;
    return line + i;
}

/* Whether a comma-separated list has the token (in small letters), in any case. */
static inline int http_has_token(const char *list, const char *token)
{
    size_t n = strlen(token), i;
    while (*list) {
        while (*list == ' ' || *list == '\t' || *list == ',') list++;
        for (i = 0; i < n && list[i] && (list[i] | 32) == token[i]; i++) continue;
        if (i == n && strchr(" \t,", list[n])) return 1; /* strchr finds the final NUL, too */
        while (*list && *list != ',') list++;
    }
    return 0;
}

/* A hexadecimal digit's value, -1 for anything else. */
static inline int http_hex(int c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

#endif
