#!/bin/sh
# Once: what is compared here is bytes on a wire; the tests in C run optimised too.
# Both versions, both roles, with OpenSSL, GnuTLS, curl, Go, NSS, Python and Node: all suites and groups, full and resumed,
# HelloRetryRequest, client certificates, KeyUpdate, 10 MB each way. One line of "ok" for each.
. tests/interop/common
others=tests/interop/others
sum() { sha "$1"; }
small_sum=$(sum "$tmp/small")
identity() { # NAME
    case $1 in
    ec) echo "$ec" ;;
    *) echo "--cert $certs/$1.pem --key $certs/$1.key" ;;
    esac
}
# client OPTION... : ours; what it saw is in $tmp/c
client() {
    timeout 60 "$peer" connect 127.0.0.1 "$port" --ca "$ca" --name localhost "$@" >"$tmp/c" 2>&1 || { cat "$tmp/c"; return 1; }
    cat "$tmp/c"
}
client_says() { # TEXT OPTION...
    text=$1
    shift
    client "$@"
    grep -q -- "$text" "$tmp/c"
}
client_resumes() { # OPTION... : the first full, the second resumed; a line is awaited, for the tickets
    client --times 2 "$@"
    [ "$(grep -c 'handshake OK .*resumed=0' "$tmp/c")" = 1 ] && [ "$(grep -c 'handshake OK .*resumed=1' "$tmp/c")" = 1 ]
}

# --- our client, OpenSSL's server --------------------------------------------------------------------------------------
site=$tmp/site
mkdir "$site"
cp "$tmp/big" "$site/big"
get='GET /big HTTP/1.0

'
s_server() { # IDENTITY OPTION...
    id=$1
    shift
    start sh -c 'cd "$0" && exec openssl s_server -accept 127.0.0.1:0 "$@"' "$site" -cert "$certs/$id.pem" -key "$certs/$id.key" \
        -cert_chain "$certs/inter.pem" "$@"
}
down() {
    client --say "$get" --out "$tmp/got" "$@"
    [ "$(sum "$tmp/got")" = "$big" ] && grep -q '^end CLOSED received 10485760' "$tmp/c"
}
for suite in TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256; do
    s_server ec -tls1_3 -ciphersuites $suite -HTTP
    bulk() { down && grep -q "^handshake OK TLSv1.3 $suite " "$tmp/c"; }
    check "s_server 1.3, $suite, 10 MB down" bulk
    check "s_server 1.3, $suite, resumed" client_resumes --say "GET /none HTTP/1.0

" --lines 1
    end
    s_server ec -tls1_3 -ciphersuites $suite -quiet -naccept 1
    up() { client --in "$tmp/big"; wait "$pid"; [ "$(sum "$log")" = "$big" ]; }
    check "s_server 1.3, $suite, 10 MB up" up
done
for id in ec rsa ec384 ec521 pss; do
    s_server $id -tls1_3 -HTTP
    check "s_server 1.3, identity $id" client_says '^handshake OK TLSv1.3' --close
    end
    s_server $id -tls1_2 -HTTP
    check "s_server 1.2, identity $id" client_says '^handshake OK TLSv1.2 .*ems=1' --close
    end
done
for pair in X25519:x25519 P-256:secp256r1 P-384:secp384r1 P-521:secp521r1; do
    s_server rsa -groups ${pair%:*} -HTTP
    check "s_server 1.3, ${pair%:*}" client_says "^handshake OK TLSv1.3 .*group=${pair#*:} " --close
    check "s_server 1.2, ${pair%:*}" client_says "^handshake OK TLSv1.2 .*group=${pair#*:} " --close --max 1.2
    end
done
s_server ec -tls1_3 -Verify 3 -CAfile "$ca" -verify_return_error -HTTP
for id in client client_ec; do
    # shellcheck disable=SC2046
    check "s_server 1.3 -Verify, $id" down $(identity $id)
    # shellcheck disable=SC2046
    check "s_server 1.3 -Verify, $id, resumed" client_resumes --say "GET /none HTTP/1.0

" --lines 1 $(identity $id)
done
check "s_server 1.3 -Verify: no certificate" client_says '^\(handshake\|end\) TLS_ALERT' --say "$get"
end
s_server ec -tls1_2
check "s_server of 1.2 alone, a client of 1.3 alone" client_says '^handshake TLS_VERSION alert=70 ' --min 1.3
end
s_server ec -tls1_3 -keymatexport EXPORTER-psocket -keymatexportlen 32 -msg
exported() {
    mark
    client --export EXPORTER-psocket --say "hi
" --close
    seen 'Keying material: ' || return 1
    grep -q "Keying material: $(sed -n 's/^export //p' "$tmp/c")" "$tmp/seen"
}
check "s_server 1.3: the exporter is the same" exported
end
# KeyUpdate from s_server: k without, K with a request to us. It drops what it reads together with the key, so the test
# waits until it has sent its message.
for key in k K; do
    s_server ec -tls1_3 -naccept 1 -msg
    update() {
        mark
        { timeout 30 "$peer" connect 127.0.0.1 "$port" --ca "$ca" --name localhost --say "hello
" --lines 2 >"$tmp/c" 2>&1 & }
        client_pid=$!
        seen '^hello' || return 1
        echo $key >&9
        seen '>>> .*KeyUpdate' || return 1
        printf 'first\nsecond\n' >&9
        wait $client_pid
        cat "$tmp/c"
        grep -q '^line .*first' "$tmp/c" && grep -q '^line second' "$tmp/c"
    }
    check "s_server 1.3, KeyUpdate $key" update
    end
done

# --- OpenSSL's client, our server --------------------------------------------------------------------------------------
s_client() {
    mark
    echo ping | timeout 20 openssl s_client -connect "127.0.0.1:$port" -CAfile "$ca" -verify_return_error -servername localhost -ign_eof "$@" >"$tmp/s" 2>&1
    cat "$tmp/s"
    grep -q welcome "$tmp/s" && seen '^line ping' # it comes in the midst of what s_client says of tickets
}
hello='--say welcome
--lines 1'
# shellcheck disable=SC2086
start "$peer" serve $(identity rsa) $(identity ec) --ca "$ca" --export EXPORTER-psocket $hello
for suite in TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256; do
    check "s_client 1.3, $suite" s_client -tls1_3 -ciphersuites $suite
    check "the server says so" seen "^handshake OK TLSv1.3 $suite "
done
for group in X25519 P-256 P-384 P-521; do
    check "s_client 1.3, $group" s_client -tls1_3 -groups $group
done
retry() { s_client -tls1_3 -groups ffdhe2048:P-384 -msg && grep -q 'HelloRetryRequest\|ClientHello' "$tmp/s" && [ "$(grep -c '>>>.*ClientHello' "$tmp/s")" = 2 ]; }
check "s_client 1.3, HelloRetryRequest" retry
ems() { s_client -tls1_2 && grep -q 'Extended master secret: yes' "$tmp/s"; }
check "s_client 1.2: extended master secret" ems
sess() { # VERSION
    s_client "$1" -sess_out "$tmp/sess" && s_client "$1" -sess_in "$tmp/sess" && grep -q '^Reused' "$tmp/s" && seen 'resumed=1'
}
check "s_client 1.3: resumed by ticket" sess -tls1_3
check "s_client 1.2: resumed by ticket" sess -tls1_2
ids() { s_client -tls1_2 -no_ticket -sess_out "$tmp/sess" && s_client -tls1_2 -no_ticket -sess_in "$tmp/sess" && grep -q '^Reused' "$tmp/s"; }
check "s_client 1.2: resumed by session ID" ids
export_13() { # VERSION
    s_client "$1" -keymatexport EXPORTER-psocket -keymatexportlen 32
    grep -q "Keying material: $(sed -n 's/^export //p' "$tmp/seen" | tail -n 1)\$" "$tmp/s"
}
check "s_client 1.3: the exporter is the same" export_13 -tls1_3
check "s_client 1.2: the exporter is the same" export_13 -tls1_2
end
# shellcheck disable=SC2046
start "$peer" serve $(identity ec) --ca "$ca" --auth required --say welcome --lines 1
for id in client client_ec; do
    for v in 1_2 1_3; do
        with() { s_client -tls$v -cert "$certs/$id.pem" -key "$certs/$id.key" "$@" && seen 'peer=CN=psocket test client'; }
        check "s_client $v, client certificate $id" with -sess_out "$tmp/sess"
        again() { with -sess_in "$tmp/sess" && grep -q '^Reused' "$tmp/s" && seen 'resumed=1 peer=CN=psocket test client'; }
        check "s_client $v, client certificate $id, resumed" again
    done
done
refuse "s_client 1.3, no client certificate" 'alert certificate required' s_client -tls1_3
end
# shellcheck disable=SC2046
start "$peer" serve $(identity pss) --say welcome --lines 1
check "a server with an RSASSA-PSS key, 1.3" s_client -tls1_3
check "a server with an RSASSA-PSS key, 1.2" s_client -tls1_2
end

# KeyUpdate from s_client
# shellcheck disable=SC2046
start "$peer" serve $(identity ec) --echo
client_update() { # KEY
    { (printf 'one\n'; sleep 1; printf '%s\n' "$1"; sleep 1; printf 'two\n'; sleep 1) | timeout 20 openssl s_client -connect "127.0.0.1:$port" -CAfile "$ca" -tls1_3 -servername localhost >"$tmp/s" 2>&1; }
    cat "$tmp/s"
    grep -q KEYUPDATE "$tmp/s" && grep -q '^one' "$tmp/s" && grep -q '^two' "$tmp/s"
}
check "s_client 1.3, KeyUpdate k" client_update k
check "s_client 1.3, KeyUpdate K" client_update K
end

# --- programs of others that know GET and PUT, and echo what we echo -----------------------------------------------------
pair() { # NAME COMMAND...
    what=$1
    shift
    for v in 1.3 1.2 any; do
        [ $v = any ] && want=1.3 || want=$v
        start "$@" serve "$tmp/big" $v "$certs/ec.pem" "$certs/ec.key"
        get_all() { client --say "GET
" --out "$tmp/got" && grep -q "^handshake OK TLSv$want" "$tmp/c" && [ "$(sum "$tmp/got")" = "$big" ]; }
        check "$what serves, $v, 10 MB down" get_all
        check "$what serves, $v, 10 MB up" client_says "^line $big" --say "PUT 10485760
" --in "$tmp/big" --lines 1
        check "$what serves, $v, resumed" client_resumes --say "PUT 0
" --lines 1
        end
        start "$@" serve "$tmp/big" $v "$certs/rsa.pem" "$certs/rsa.key" "$ca"
        # shellcheck disable=SC2046
        check "$what serves, $v, client certificate" client_says "^line $small_sum" --say "PUT 100000
" --in "$tmp/small" --lines 1 $(identity client_ec)
        end
        # shellcheck disable=SC2046
        start "$peer" serve $(identity rsa) $(identity ec) --ca "$ca" --auth optional --echo
        echoes() {
            timeout 60 "$@" >"$tmp/s" 2>&1
            cat "$tmp/s"
            [ "$(grep -c 'full$' "$tmp/s")" = 1 ] && [ "$(grep -c 'resumed$' "$tmp/s")" = 1 ]
        }
        check "$what connects, $v, 10 MB, resumed" echoes "$@" connect "$tmp/big" $v "$ca" "$port" "$tmp/big"
        check "$what connects, $v, client certificate, resumed" echoes "$@" connect "$tmp/big" $v "$ca" "$port" "$tmp/small" "$certs/client.pem" "$certs/client.key"
        end
    done
}
if has python3 && python3 -c 'import ssl, sys; sys.exit(not ssl.HAS_TLSv1_3)' 2>/dev/null; then pair Python python3 $others/peer.py
else skip "Python's ssl" "no python3 with TLS 1.3"; fi
if has node; then pair Node node $others/peer.js
else skip Node "not installed"; fi
if has go && GOCACHE="$tmp/gocache" GOFLAGS=-mod=mod go build -o "$tmp/gopeer" $others/peer.go >"$tmp/out" 2>&1; then
    pair Go "$tmp/gopeer"
    # shellcheck disable=SC2046
    start "$peer" serve $(identity rsa) --echo
    check "Go connects, HelloRetryRequest" echoes "$tmp/gopeer" connect "$tmp/big" 1.3,P521,P384 "$ca" "$port" "$tmp/small"
    end
    start "$tmp/gopeer" serve "$tmp/big" 1.3,P384 "$certs/rsa.pem" "$certs/rsa.key"
    check "Go serves, HelloRetryRequest" client_says '^handshake OK TLSv1.3 .*group=secp384r1' --close
    end
else skip "Go's crypto/tls" "no go"; fi

# --- GnuTLS ------------------------------------------------------------------------------------------------------------
if has gnutls-serv; then
    for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305; do
        for group in X25519 SECP256R1 SECP384R1 SECP521R1; do
            start gnutls-serv --port=0 --priority "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+$cipher:-GROUP-ALL:+GROUP-$group" --x509certfile="$certs/ec.pem" \
                --x509keyfile="$certs/ec.key" --echo
            check "gnutls-serv 1.3, $cipher, $group" client_says '^line hello' --say "hello
" --lines 1
            end
        done
    done
    start gnutls-serv --port=0 --priority NORMAL --x509certfile="$certs/rsa.pem" --x509keyfile="$certs/rsa.key" --echo
    check "gnutls-serv 1.3, resumed" client_resumes --say "hello
" --lines 1
    check "gnutls-serv 1.2, resumed" client_resumes --say "hello
" --lines 1 --max 1.2
    check "gnutls-serv, records of 512 bytes" client_says '^line hello' --say "hello
" --lines 1 --fragment 512
    end
    # shellcheck disable=SC2046
    start "$peer" serve $(identity rsa) $(identity ec) --ca "$ca" --auth optional --say welcome --lines 1
    gnutls() { # PRIORITY OPTION...
        mark
        priority=$1
        shift
        echo ping | timeout 20 gnutls-cli --priority "$priority" --x509cafile "$ca" --port "$port" "$@" localhost >"$tmp/s" 2>&1
        cat "$tmp/s"
        grep -q '^welcome' "$tmp/s" && seen '^line ping'
    }
    for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305; do
        check "gnutls-cli 1.3, $cipher" gnutls "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+$cipher"
    done
    for group in X25519 SECP256R1 SECP384R1 SECP521R1; do
        check "gnutls-cli 1.3, $group" gnutls "NORMAL:-VERS-ALL:+VERS-TLS1.3:-GROUP-ALL:+GROUP-$group"
    done
    check "gnutls-cli 1.3, client certificate" gnutls NORMAL --x509certfile "$certs/client.pem" --x509keyfile "$certs/client.key"
    check "the server saw it" seen 'peer=CN=psocket test client'
    greuse() { # VERSION
        mark
        echo ping | timeout 20 gnutls-cli --resume --waitresumption --priority "NORMAL:-VERS-ALL:+VERS-TLS$1" --x509cafile "$ca" --port "$port" localhost >"$tmp/s" 2>&1
        cat "$tmp/s"
        seen 'resumed=1'
    }
    check "gnutls-cli 1.3, resumed" greuse 1.3
    check "gnutls-cli 1.2, resumed" greuse 1.2
    end
else skip GnuTLS "not installed"; fi

# --- curl --------------------------------------------------------------------------------------------------------------
if has curl; then
    # shellcheck disable=SC2046
    start "$peer" serve $(identity ec) --say welcome --lines 1
    c() { [ "$(curl -sS -m 20 --http0.9 --cacert "$ca" "$@" "https://localhost:$port/")" = welcome ]; }
    check "curl, 1.3" c --tlsv1.3
    check "curl, 1.2" c --tls-max 1.2
    end
else skip curl "not installed"; fi

# --- NSS ---------------------------------------------------------------------------------------------------------------
if has tstclnt && has selfserv && has certutil && has pk12util; then
    db=$tmp/nss
    mkdir "$db"
    make_db() {
        certutil -N -d "sql:$db" --empty-password && certutil -A -d "sql:$db" -t C,, -n ca -i "$ca" &&
            certutil -A -d "sql:$db" -t ,, -n inter -i "$certs/inter.pem" &&
            openssl pkcs12 -export -in "$certs/ec.pem" -inkey "$certs/ec.key" -passout pass: -name server -out "$tmp/ec.p12" &&
            pk12util -i "$tmp/ec.p12" -d "sql:$db" -W ''
    }
    check "NSS: a database" make_db
    # shellcheck disable=SC2046
    start "$peer" serve $(identity ec) --say welcome --lines 1
    for v in tls1.2 tls1.3; do
        nss() {
            mark
            (echo ping; sleep 0.5) | timeout 20 tstclnt -4 -h localhost -p "$port" -d "sql:$db" -V $v:$v -b >"$tmp/s" 2>&1
            cat "$tmp/s"
            seen "^handshake OK TLSv${v#tls}" && seen '^line ping'
        }
        check "tstclnt, $v" nss
    done
    end
    free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
    if has python3; then
        for v in tls1.2 tls1.3; do
            program=selfserv
            port=$(free_port)
            selfserv -d "sql:$db" -n server -p "$port" -V $v:$v -H 1 >"$log" 2>&1 <&9 &
            pid=$!
            pids="$pids $pid"
            nss_serves() {
                m=0
                until client_says "^handshake OK TLSv${v#tls}" --say "GET / HTTP/1.0

" --lines 1; do
                    m=$((m + 1))
                    [ $m -lt 200 ] && grep -q '^connect' "$tmp/c" || return 1
                    sleep 0.1
                done
            }
            check "selfserv, $v" nss_serves
            kill -9 "$pid" 2>/dev/null
            wait "$pid" 2>/dev/null
            pids=
        done
    fi
else skip NSS "tstclnt, selfserv, certutil and pk12util are not all installed"; fi
check "no sanitizer report" clean
finish
