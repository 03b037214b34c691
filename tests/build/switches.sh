#!/bin/sh
# Every combination of the NO_ switches compiles without a warning, links with all public functions, carries a few bytes,
# and leaves out what it says.
. tests/check.sh
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
bear=${BEARSSL_DIR:+-isystem $BEARSSL_DIR/inc -isystem $BEARSSL_DIR/include}
lib=$(ls "${BEARSSL_DIR:-/nowhere}"/build/libbearssl.a "${BEARSSL_DIR:-/nowhere}"/lib/libbearssl.a 2>/dev/null | head -n 1)
lib=${lib:--lbearssl}
printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/impl.c"

# Every function that the header declares.
gcc -E -I. tests/build/other.c | tr '\n' ' ' | tr ';' '\n' | sed -n 's/.*extern .*[ *]\(psocket_[a-z0-9_]*\)(.*/SMOKE(\1)/p' | sort -u >"$tmp/smoke_list.h"
check "the header declares functions" test "$(wc -l <"$tmp/smoke_list.h")" -gt 40

build() { # SWITCHES : object, program with all functions, and a run
    tls=-DPSOCKET_NO_TLS
    # shellcheck disable=SC2086
    gcc -std=c99 $warn $bear -I. "$@" -c -o "$tmp/impl.o" "$tmp/impl.c" || return 1
    libs="$lib -pthread"
    case " $* " in *" $tls "*) libs=-pthread ;; esac
    case " $* " in *" -DPSOCKET_NO_THREADS "*) libs=${libs%-pthread} ;; esac
    # shellcheck disable=SC2086
    gcc -std=c99 -DSMOKE_LIST -I. -I"$tmp" "$@" -o "$tmp/smoke" tests/build/smoke.c "$tmp/impl.o" $libs || return 1
    timeout 20 "$tmp/smoke" || return 1
    for pair in "NO_TLS br_" "NO_THREADS pthread_create" "NO_DNS getaddrinfo" "NO_FILES fopen|opendir"; do
        case " $* " in *" -DPSOCKET_${pair% *} "*)
            ! nm -u "$tmp/impl.o" | grep -E " (${pair#* })" || return 1 ;;
        esac
    done
}
for t in '' -DPSOCKET_NO_TLS; do for h in '' -DPSOCKET_NO_THREADS; do for d in '' -DPSOCKET_NO_DNS; do for f in '' -DPSOCKET_NO_FILES; do
    # shellcheck disable=SC2086
    check "switches:$(echo " $t $h $d $f" | sed 's/-DPSOCKET_//g; s/  */ /g; s/^ $/ none/')" build $t $h $d $f
done; done; done; done

printf '#define PSOCKET_STATIC\n#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/static.c"
cat tests/build/smoke.c >>"$tmp/static.c"
# shellcheck disable=SC2086
check "static without anything" gcc -std=c99 $warn -Wno-unused-function -I. -DPSOCKET_NO_TLS -DPSOCKET_NO_THREADS -DPSOCKET_NO_DNS \
    -DPSOCKET_NO_FILES -o "$tmp/static" "$tmp/static.c"
check "static without anything: runs" "$tmp/static"
finish
