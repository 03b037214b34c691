#!/bin/sh
# Once: what is compared here is bytes on a wire; the tests in C run optimised too.
# Protocol scanners against examples/https_server with an RSA and an EC identity: nmap's ssl-enum-ciphers, sslscan and
# testssl.sh find nothing. Nothing leaves this machine: no name is resolved. PSOCKET_FULL_SCAN=1 lets testssl.sh do all
# that it can (some minutes).
. tests/interop/common
mkdir "$tmp/site"
echo hello >"$tmp/site/index.html"
# shellcheck disable=SC2086
start "$BUILD/https_server" --address 127.0.0.1 --port 0 --root "$tmp/site" $rsa $ec
out=$tmp/scan
has_line() { cat "$out"; grep -q -- "$1" "$out"; }
has_none() { cat "$out"; ! grep -- "$1" "$out"; }
suites='AES128-GCM-SHA256 AES256-GCM-SHA384 CHACHA20-POLY1305'

if has nmap; then
    nmap_run() { timeout 100 nmap -n -Pn -p "$port" --script ssl-enum-ciphers 127.0.0.1 >"$out" && grep -q ssl-enum-ciphers "$out"; }
    check "nmap ssl-enum-ciphers runs" nmap_run
    check "nmap: grade A" has_line 'least strength: A$'
    # a server that orders its suites is told so, with a warning for whatever is weak
    check "nmap: the server's preference" has_line 'cipher preference: server$'
    check "nmap: no warnings" has_none warning
    versions() { # some nmap know nothing of TLS 1.3
        [ "$(grep 'TLSv1\.[0-9]:\|SSLv[0-9]:' "$out" | grep -vc 'TLSv1.3:')" = 1 ] && grep -q 'TLSv1.2:' "$out"
    }
    check "nmap: TLS 1.2, and 1.3 if it knows that" versions
    six() { cat "$out"; [ "$(grep -c 'TLS_ECDHE_[A-Z]*_WITH_\(AES_[0-9]*_GCM\|CHACHA20_POLY1305\)_SHA[0-9]* .* - A$' "$out")" = 6 ] && ! grep ' - [B-F]$' "$out"; }
    check "nmap: six suites of 1.2, each ECDHE with AEAD, all A" six
    compressors() { sed -n '/compressors:/{n;p}' "$out" >"$tmp/compressors"; cat "$out"; [ "$(tr -d '| \n' <"$tmp/compressors")" = NULL ]; }
    check "nmap: no compression" compressors
else skip nmap "not installed"; fi

if has sslscan; then
    sslscan_run() { timeout 100 sslscan --no-colour --timeout=1 --show-sigs --sni-name=localhost "127.0.0.1:$port" >"$out" && grep -q 'Supported Server Cipher' "$out"; }
    check "sslscan runs" sslscan_run
    for v in SSLv2 SSLv3 TLSv1.0 TLSv1.1; do check "sslscan: no $v" has_line "^$v *disabled"; done
    for v in TLSv1.2 TLSv1.3; do check "sslscan: $v" has_line "^$v *enabled"; done
    check "sslscan: no renegotiation" has_line 'Session renegotiation not supported'
    check "sslscan: fallback SCSV" has_line 'Server supports TLS Fallback SCSV'
    check "sslscan: no compression" has_none 'Compression enabled'
    check "sslscan: no heartbleed" has_none '[^t] vulnerable to heartbleed'
    six() {
        cat "$out"
        [ "$(grep -c '^\(Accepted\|Preferred\)' "$out")" = 9 ] && [ "$(grep -c '^Preferred' "$out")" = 2 ] || return 1
        [ "$(grep -c '^\(Accepted\|Preferred\) *TLSv1.3 ' "$out")" = 3 ] || return 1
        for kind in RSA ECDSA; do
            for suite in $suites; do grep -q "^\(Accepted\|Preferred\) *TLSv1.2 .*ECDHE-$kind-$suite " "$out" || return 1; done
        done
    }
    check "sslscan: the nine suites" six
    signatures() { cat "$out"; ! sed -n '/Signature Algorithm(s)/,/^$/p' "$out" | grep -i 'sha1\|sha224\|md5\|dsa_sha\|any'; }
    check "sslscan: no weak signature algorithm" signatures
else skip sslscan "not installed"; fi

testssl=$(command -v testssl || command -v testssl.sh)
if [ -n "$testssl" ]; then
    if [ -n "${PSOCKET_FULL_SCAN:-}" ]; then what='-9 -E' limit=900
    else what='-p -P -f -R -C -Z -H -I' limit=200; fi
    testssl_run() { # shellcheck disable=SC2086
        timeout "$limit" "$testssl" --nodns none --ip 127.0.0.1 --warnings off --color 0 --quiet --connect-timeout 5 --openssl-timeout 10 \
            --add-ca "$ca" $what --jsonfile "$tmp/testssl.json" "https://localhost:$port" >"$out" 2>&1
        # one line for each finding: id severity text
        sed -n 's/^ *"\(id\|severity\|finding\)" *: *"\(.*\)",*$/\1 \2/p' "$tmp/testssl.json" |
            awk '$1 == "id" { id = $2 } $1 == "severity" { severity = $2 } $1 == "finding" { sub(/finding /, ""); print id, severity, $0 }' \
            >"$tmp/findings"
        grep -q '^scanTime' "$tmp/findings" || tail -n 30 "$out"
        cp "$tmp/findings" "$out"
        grep -q '^scanTime' "$out"
    }
    check "testssl.sh runs" testssl_run
    # What is said of the test's own site and authority is not about TLS: HSTS and other headers, no OCSP, CAA, CT.
    about='cert_\|OCSP\|DNS_CAArecord\|certificate_transparency\|HSTS\|HTTP_\|banner\|security_headers\|engine_problem\|overall_grade\|intermediate_cert'
    bad() {
        grep ' \(LOW\|MEDIUM\|HIGH\|CRITICAL\|WARN\|FATAL\) ' "$out" | grep -v "^\($about\)"
        ! grep ' \(LOW\|MEDIUM\|HIGH\|CRITICAL\|WARN\|FATAL\) ' "$out" | grep -qv "^\($about\)"
    }
    check "testssl.sh: no finding of low severity or more" bad
    for v in SSLv2 SSLv3; do check "testssl.sh: no $v" has_line "^$v OK not offered"; done
    for v in TLS1 TLS1_1; do check "testssl.sh: no $v" has_line "^$v [A-Z]* not offered"; done
    check "testssl.sh: TLS 1.2" has_line '^TLS1_2 OK offered'
    check "testssl.sh: TLS 1.3" has_line '^TLS1_3 OK offered'
    check "testssl.sh: the server's cipher order" has_line '^cipher_order OK server'
    check "testssl.sh: forward secrecy" has_line '^P\?FS OK offered'
    check "testssl.sh: curves" has_line '^P\?FS_ECDHE_curves OK prime256v1 secp384r1 secp521r1 X25519'
    check "testssl.sh: secure renegotiation is signalled" has_line '^secure_renego OK '
    check "testssl.sh: none is allowed" has_line '^secure_client_renego OK not vulnerable'
    check "testssl.sh: no compression" has_line '^CRIME_TLS OK not vulnerable'
    check "testssl.sh: no fallback" has_line '^fallback_SCSV OK '
    check "testssl.sh: heartbleed" has_line '^heartbleed OK not vulnerable'
    check "testssl.sh: CCS injection" has_line '^CCS OK not vulnerable'
else skip testssl.sh "not installed"; fi

# After all that it still serves, and has left nothing behind.
check "the server is well" timeout 20 "$BUILD/https_get" --cacert "$ca" -o "$tmp/got" "https://127.0.0.1:$port/"
check "and has no connection left" sh -c "sleep 0.3; [ \$(ls -l /proc/$pid/fd | grep -c socket:) -le 1 ]"
kill "$pid"
wait "$pid"
status=$?
pids=
if [ $status = 0 ]; then ok "the server ends cleanly"; else fail "the server ends cleanly" "status $status"; fi
check "no sanitizer report" clean
finish
