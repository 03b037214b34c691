#!/bin/sh
# The header alone and the implementation compile without a warning in every language version under gcc and clang; two
# translation units of one program; no symbol leaves the object but psocket_* and luaopen_psocket.
. tests/check.sh
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
bear=${BEARSSL_DIR:+-isystem $BEARSSL_DIR/inc -isystem $BEARSSL_DIR/include}
printf '#include "psocket.h"\n' >"$tmp/bare.c"
printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/impl.c"
printf '#include "psocket.h"\n#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n#include "psocket.h"\n' >"$tmp/late.c"
printf '#define PSOCKET_STATIC\n#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/static.c"
cat tests/build/smoke.c >>"$tmp/static.c"

for entry in gcc:c99:c gcc:c11:c gcc:c++11:c++ gcc:c++17:c++ clang:c99:c clang:c11:c clang:c++11:c++ clang:c++17:c++; do
    cc=${entry%%:*} std=${entry#*:}
    std=${std%:*} lang=${entry##*:}
    has $cc || { skip "$cc $std" "$cc is not installed"; continue; }
    [ $lang = c ] && strict='-Wstrict-prototypes -Wmissing-prototypes' || strict=
    [ $cc.$lang = gcc.c++ ] && { has g++ || { skip "$cc $std" "g++ is not installed"; continue; }; }
    # shellcheck disable=SC2086
    {
        check "header, $cc $std" $cc -std=$std $warn $strict -x $lang -I. -fsyntax-only "$tmp/bare.c"
        check "implementation, $cc $std" $cc -std=$std -O1 $warn $strict $bear -x $lang -I. -c -o "$tmp/$cc-$std.o" "$tmp/impl.c"
    }
done
# shellcheck disable=SC2086
{
    check "implementation after the bare header" gcc -D_GNU_SOURCE $warn $bear -I. -fsyntax-only "$tmp/late.c"
    check "static, gcc" gcc -std=c99 $warn -Wno-unused-function $bear -I. -o "$tmp/static" "$tmp/static.c" -lbearssl -pthread
    check "static: runs" "$tmp/static"
    for f in smoke other; do gcc -std=c99 -I. -c -o "$tmp/$f.o" tests/build/$f.c; done
    check "two translation units, C" gcc -o "$tmp/two" "$tmp/gcc-c99.o" "$tmp/smoke.o" "$tmp/other.o" -lbearssl -pthread
    check "two translation units, C: runs" "$tmp/two"
    if [ -f "$tmp/gcc-c++11.o" ]; then
        check "implementation as C++, user in C" g++ -o "$tmp/mixed" "$tmp/gcc-c++11.o" "$tmp/smoke.o" "$tmp/other.o" -lbearssl -pthread
        check "implementation as C++, user in C: runs" "$tmp/mixed"
    fi
}

# Where the sockets' functions are macros (lwIP), a member of that name is called as (x->close)(...).
{
    printf '#include <dirent.h>\n#include <fcntl.h>\n#include <poll.h>\n#include <sys/socket.h>\n#include <unistd.h>\n'
    for f in accept bind close connect fcntl listen poll read recv recvfrom send sendto shutdown socket write; do
        echo "#define $f(...) ($f)(__VA_ARGS__)"
    done
    printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n'
} >"$tmp/macros.c"
# shellcheck disable=SC2086
check "functions that are macros" gcc -std=c99 -D_GNU_SOURCE $bear -I. -fsyntax-only "$tmp/macros.c"

# The declarations include <stddef.h> and <stdint.h>, nothing else.
gcc -std=c99 -I. -H -fsyntax-only "$tmp/bare.c" 2>&1 | sed -n 's/^\.\. //p' | sed 's|.*/||' | sort -u >"$tmp/includes"
printf 'stddef.h\nstdint.h\n' >"$tmp/want"
check "the declarations include stddef.h and stdint.h only" diff "$tmp/want" "$tmp/includes"

symbols() { # OBJECT PATTERN : external defined symbols that do not match
    nm -g --defined-only "$1" | awk '{ print $3 }' | grep -vE "$2" >"$tmp/leaked"
    cat "$tmp/leaked"
    [ ! -s "$tmp/leaked" ] && nm -g --defined-only "$1" | grep -q ' psocket_connect$'
}
for o in "$tmp"/*-c99.o "$tmp"/*-c++11.o; do
    [ -f "$o" ] && check "symbols of $(basename "$o")" symbols "$o" '^psocket_'
done
check "no writable data without a psocket name" sh -c "! nm '$tmp/gcc-c99.o' | grep -E ' [BDbd] ' | grep -vE ' (psi|psocket)_|\.[0-9]+$'"
for v in 5.1 5.2 5.3 5.4 jit; do
    inc=/usr/include/lua$v
    [ $v = jit ] && inc=/usr/include/luajit-2.1
    [ -f $inc/lua.h ] || { skip "Lua $v" "no headers"; continue; }
    # shellcheck disable=SC2086
    {
        check "Lua $v, C" gcc -std=c99 $warn $bear -I. -I$inc -DPSOCKET_LUA -c -o "$tmp/lua$v.o" "$tmp/impl.c"
        check "Lua $v: symbols" symbols "$tmp/lua$v.o" '^(psocket_|luaopen_psocket$)'
        has clang && check "Lua $v, clang" clang -std=c99 $warn $bear -I. -I$inc -DPSOCKET_LUA -fsyntax-only "$tmp/impl.c"
        has g++ && check "Lua $v, C++" g++ -std=c++11 $warn $bear -I. -I$inc -DPSOCKET_LUA -x c++ -fsyntax-only "$tmp/impl.c"
    }
    module=$BUILD/opt/lua/$v/psocket.so
    check "Lua $v: exports of the module" sh -c "[ \"\$(nm -D --defined-only '$module' | awk '{ print \$3 }')\" = luaopen_psocket ]"
done
finish
