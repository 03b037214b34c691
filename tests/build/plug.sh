#!/bin/sh
# A library with psocket in it that is unloaded while a name is being resolved.
. tests/check.sh
cc=${CC:-gcc}
check "library" "$cc" -O1 -Wall -Wextra -fPIC -shared -DPLUG -I. -o "$tmp/plug.so" tests/build/plug.c -pthread
check "host" "$cc" -O1 -Wall -Wextra -I. -o "$tmp/plug" tests/build/plug.c -ldl
check "unloaded while a name is being resolved" timeout 20 "$tmp/plug" "$tmp/plug.so"
check "trap" "$cc" -fPIC -shared -DTRAP -o "$tmp/trap.so" tests/build/plug.c
for pic in -fPIC -fPIE; do
    check "program, $pic" "$cc" -O1 -Wall -Wextra $pic -DPROGRAM -I. -o "$tmp/program" tests/build/plug.c -pthread -ldl
    check "program, $pic: its name is no library to load" sh -c "timeout 20 '$tmp/program' '$tmp/trap.so' | grep -vz trapped"
done
finish
