#!/bin/sh
# Once: what is compared here is bytes on a wire; the tests in C run optimised too.
# A client of psocket's public functions that speaks TLS 1.2 alone, against other people's TLS servers; tls13.sh has both
# versions.
. tests/interop/common
mkdir "$tmp/site"
cp "$tmp/big" "$tmp/site/big"
cp "$tmp/small" "$tmp/site/small"
get_big='GET /big HTTP/1.0

'

# s_server KEYS OPTION... : KEYS are rsa, ec, p384, or two of them with a comma
s_server() {
    keys=
    n=
    for k in $(echo "$1" | tr , ' '); do
        file=$certs/$k
        [ $k = p384 ] && file=$more/p384
        keys="$keys -${n}cert $file.pem -${n}key $file.key -${n}cert_chain $certs/inter.pem"
        n=d
    done
    shift
    # shellcheck disable=SC2086
    start sh -c 'cd "$0" && exec openssl s_server -accept 127.0.0.1:0 "$@"' "$tmp/site" \
        $keys "$@"
}
# client OPTION... : prints what it saw, also to $tmp/c. Whatever that is, its own status must be 0 (sanitizers).
broken=
client() {
    timeout 60 "$peer" connect 127.0.0.1 "$port" --max 1.2 --ca "$ca" "$@" >"$tmp/c" 2>&1
    status=$?
    cat "$tmp/c"
    [ $status = 0 ] && return
    cat "$tmp/c" >>"$tmp/broken"
    broken="$broken $status:$name"
}
# says TEXT OPTION... : the client's output has it
says() {
    text=$1
    shift
    client "$@"
    grep -q -- "$text" "$tmp/c"
}
# down OPTION... : 10 MB come from s_server -HTTP
down() {
    client --say "$get_big" --out "$tmp/got" "$@"
    [ "$(sha "$tmp/got")" = "$big" ] && grep -q '^end CLOSED received 10485760' "$tmp/c"
}
iana() { echo "TLS_$1" | sed 's/-/_/; s/-/_WITH_/; s/AES/AES_/; s/-/_/g; s/POLY1305/POLY1305_SHA256/'; }

# --- suites, curves, identities, bulk -----------------------------------------------------------------------------------
for id in rsa ec; do
    kind=$([ $id = rsa ] && echo RSA || echo ECDSA)
    for suite in AES128-GCM-SHA256 AES256-GCM-SHA384 CHACHA20-POLY1305; do
        s_server $id -cipher ECDHE-$kind-$suite -HTTP
        bulk() { down && grep -q "^handshake OK TLSv1.2 $(iana ECDHE-$kind-$suite) .* peer=CN=localhost" "$tmp/c"; }
        check "s_server, ECDHE-$kind-$suite, 10 MB" bulk
        end
    done
done
for id in rsa ec p384; do
    for curve in X25519 P-256 P-384 P-521; do
        # an EC server of OpenSSL uses a certificate only if its curve is among -groups, too
        groups=$curve
        [ $id = ec ] && [ $curve != P-256 ] && groups=$curve:P-256
        [ $id = p384 ] && [ $curve != P-384 ] && groups=$curve:P-384
        s_server $id -groups "$groups" -serverpref
        check "s_server, $id, $curve" says "^handshake OK" --close
        end
    done
done
s_server rsa,ec -HTTP
check "s_server, RSA and EC" says "^handshake OK .*ECDHE_ECDSA" --close
resumed() {
    client --times 3 --close
    [ "$(grep -c 'resumed=0' "$tmp/c")" = 1 ] && [ "$(grep -c 'resumed=1 peer=CN=localhost' "$tmp/c")" = 2 ]
}
check "s_server: sessions are resumed" resumed
check "s_server: the name is checked" says "^handshake CERT_NAME alert=[0-9]* cert=0" --name elsewhere.test
check "s_server: a wildcard" says "^handshake OK .*name=a.wild.test" --name a.wild.test --close
check "s_server: a wildcard is for one label" says "^handshake CERT_NAME" --name a.b.wild.test
end
s_server rsa -no_ticket -no_cache -HTTP
notresumed() { client --times 2 --close; [ "$(grep -c 'handshake OK .*resumed=0' "$tmp/c")" = 2 ]; }
check "s_server without a cache: full handshakes" notresumed
end
for hash in RSA+SHA384 RSA+SHA512 RSA+SHA256; do
    s_server rsa -sigalgs $hash
    check "s_server signs with $hash" says "^handshake OK" --close
    end
done
for hash in ECDSA+SHA384 ECDSA+SHA512; do
    s_server ec -sigalgs $hash
    check "s_server signs with $hash" says "^handshake OK" --close
    end
done

# --- record sizes and streams -------------------------------------------------------------------------------------------
s_server ec,rsa -max_send_frag 512 -HTTP
check "s_server -max_send_frag 512, 10 MB" down
end
s_server ec,rsa -split_send_frag 1000 -HTTP
check "s_server -split_send_frag 1000, 10 MB" down
check "s_server, 10 MB, to a slow start" down --pause 500
end
up() { # SUITE OPTION... : 10 MB go to s_server, which prints them
    suite=$1
    shift
    s_server "$(case $suite in *RSA*) echo rsa ;; *) echo ec ;; esac)" -cipher "$suite" -quiet -naccept 1
    client --in "$tmp/big" "$@"
    grep -q '^end' "$tmp/c" && wait "$pid"
    [ "$(sha "$log")" = "$big" ]
}
check "10 MB to s_server, AES-128-GCM" up ECDHE-RSA-AES128-GCM-SHA256
check "10 MB to s_server, AES-256-GCM" up ECDHE-ECDSA-AES256-GCM-SHA384
check "10 MB to s_server, ChaCha20" up ECDHE-ECDSA-CHACHA20-POLY1305
check "10 MB to s_server, in pieces of 100" up ECDHE-ECDSA-AES128-GCM-SHA256 --piece 100
check "10 MB to s_server, in pieces of 16385" up ECDHE-RSA-CHACHA20-POLY1305 --piece 16385

# --- ALPN ---------------------------------------------------------------------------------------------------------------
s_server ec,rsa -alpn h2,http/1.1 -HTTP
check "ALPN: the server's first choice" says "alpn=h2 " --alpn http/1.1 --alpn h2 --close
check "ALPN: the only one in common" says "alpn=http/1.1 " --alpn spdy/3 --alpn http/1.1 --close
check "ALPN: none offered" says "^handshake OK .*alpn= " --close
check "ALPN: none in common" says "^handshake TLS_ALPN alert=120" --alpn spdy/3
end
s_server ec,rsa -HTTP
check "ALPN: the server has none" says "^handshake OK .*alpn= " --alpn http/1.1 --close
end

# --- client certificates ------------------------------------------------------------------------------------------------
mine() { # NAME
    case $1 in
        client | rsa) echo "--cert $certs/$1.pem --key $certs/$1.key" ;;
        *) echo "--cert $more/$1.pem --key $more/$1.key" ;;
    esac
}
for mode in verify Verify; do
    s_server ec,rsa -$mode 3 -CAfile "$ca" -verify_return_error -HTTP
    for cert in client ecclient p384client brief; do
        # shellcheck disable=SC2046
        check "s_server -$mode: $cert" down $(mine $cert)
    done
    # shellcheck disable=SC2046
    check "s_server -$mode: a client certificate of another authority" says "^handshake \(TLS_ALERT\|CERT_[A-Z]*\) alert=48" $(mine otherclient)
    # shellcheck disable=SC2046
    check "s_server -$mode: a server's certificate" says "^handshake \(TLS_ALERT\|CERT_[A-Z]*\) alert=4[236]" $(mine rsa)
    if [ $mode = verify ]; then check "s_server -verify: no client certificate" down
    else check "s_server -Verify: no client certificate" says "^handshake TLS_[A-Z]* alert=\(40\|116\)"; fi
    # shellcheck disable=SC2046
    check "s_server -$mode: resumed with a client certificate" says "resumed=1" $(mine client) --times 2 --close
    end
done
s_server ec,rsa -Verify 3 -CAfile "$ca" -verify_return_error -attime "$future" -HTTP
# shellcheck disable=SC2046
check "s_server -Verify: an expired client certificate" says "^handshake \(TLS_ALERT\|CERT_[A-Z]*\) alert=45" $(mine brief)
end
for hash in RSA+SHA256 RSA+SHA384 RSA+SHA512; do
    s_server ec -Verify 3 -CAfile "$ca" -verify_return_error -client_sigalgs $hash -HTTP
    # shellcheck disable=SC2046
    check "s_server -client_sigalgs $hash" says "^handshake OK" $(mine client) --close
    end
done

# --- names --------------------------------------------------------------------------------------------------------------
s_server rsa -servername one.test -cert2 "$more/one.pem" -key2 "$more/one.key" -HTTP
# s_server sends cert2 without its chain; the intermediate is trusted here in its place
cat "$ca" "$certs/inter.pem" >"$tmp/both.pem"
check "SNI: the name reaches the server" says "^handshake OK .*peer=CN=one" --ca "$tmp/both.pem" --name one.test --close
check "SNI: another name gets the other" says "^handshake OK .*peer=CN=localhost" --name localhost --close
check "SNI: an address is not sent, and checked" says "^handshake OK .*name=127.0.0.1 .*peer=CN=localhost" --close
end

# --- the end ------------------------------------------------------------------------------------------------------------
s_server ec -quiet -naccept 1
killed() { # a server that dies: no close_notify
    { timeout 60 "$peer" connect 127.0.0.1 "$port" --max 1.2 --ca "$ca" --say hello >"$tmp/c" 2>&1 & } 
    mark
    seen '^hello' || return 1
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null
    m=0
    until grep -q '^end' "$tmp/c" || [ $m -gt 50 ]; do sleep 0.1; m=$((m + 1)); done
    cat "$tmp/c"
    grep -q '^end TRUNCATED received 0' "$tmp/c"
}
check "a server that is killed: TRUNCATED" killed

# --- renegotiation ------------------------------------------------------------------------------------------------------
for key in r R; do
    s_server ec -naccept 1 -msg -CAfile "$ca" # R asks for a client certificate, too
    reneg() {
        mark
        { timeout 60 "$peer" connect 127.0.0.1 "$port" --max 1.2 --ca "$ca" --say "hello
" >"$tmp/c" 2>&1 & }
        seen '^hello' || return 1
        echo $key >&9
        m=0
        until grep -q '^end' "$tmp/c" || [ $m -gt 50 ]; do sleep 0.1; m=$((m + 1)); done
        seen 'warning no_renegotiation' && cat "$tmp/c" && grep -q '^end \(TLS_ALERT\|CLOSED\|TRUNCATED\|RESET\)' "$tmp/c"
    }
    check "s_server $key: refused with no_renegotiation, OpenSSL ends it" reneg
    end
done

# --- versions and other protocols ---------------------------------------------------------------------------------------
s_server ec -tls1_3
check "TLS 1.3 only" says "^handshake TLS_VERSION alert=70 .*version"
end
for v in tls1 tls1_1; do
    s_server rsa -$v -cipher ALL:@SECLEVEL=0 # OpenSSL looks at the suites first: ours need TLS 1.2
    check "s_server -$v" says "^handshake \(TLS_VERSION alert=70\|TLS_ALERT alert=40\)"
    end
done
s_server rsa -cipher AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA
check "s_server with static RSA and CBC" says "^handshake TLS_ALERT alert=40 .*cipher suite in common"
end
s_server rsa -cipher DHE-RSA-AES128-GCM-SHA256
check "s_server with DHE" says "^handshake TLS_ALERT alert=40 .*cipher suite in common"
end
s_server rsa -no_comp -legacy_renegotiation -bugs -HTTP
check "s_server -bugs" down
end
# Servers of something else: examples/echo returns our own hello.
start "$BUILD/echo" --serve
check "an echo of our own hello" says "^handshake TLS_PROTOCOL alert=10"
end
start "$peer" serve --plain --say "HTTP/1.1 400 Bad Request
"
check "a plain HTTP server" says "^handshake TLS_PROTOCOL alert=10 .*does not speak TLS"
end

# --- GnuTLS -------------------------------------------------------------------------------------------------------------
if has gnutls-serv; then
    gnutls() { # PRIORITY OPTION... : with both identities
        priority=$1
        shift
        start gnutls-serv --port=0 --priority "$priority" --x509certfile="$certs/rsa.pem" --x509keyfile="$certs/rsa.key" \
            --x509certfile="$certs/ec.pem" --x509keyfile="$certs/ec.key" "$@"
    }
    tls12=NORMAL:-VERS-ALL:+VERS-TLS1.2
    for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305; do
        for group in X25519 SECP256R1; do
            gnutls $tls12:-CIPHER-ALL:+$cipher:-GROUP-ALL:+GROUP-$group:+GROUP-SECP256R1 --echo
            check "gnutls-serv, $cipher, $group" says "$(echo $cipher | tr - _)" --name localhost --say "hello
" --lines 1
            check "gnutls-serv, $cipher, $group: the line came back" grep -q '^line hello' "$tmp/c"
            end
        done
    done
    gnutls $tls12:-ECDHE-ECDSA --echo
    check "gnutls-serv, RSA" says "^handshake OK TLSv1.2 TLS_ECDHE_RSA" --close
    check "gnutls-serv: sessions" says "^handshake OK" --times 3 --close
    check "gnutls-serv: sessions are resumed" test "$(grep -c resumed=1 "$tmp/c")" = 2
    end
    gnutls $tls12 --echo --alpn=h2 --alpn=http/1.1 --alpn-fatal
    check "gnutls-serv, ALPN" says "alpn=http/1.1 " --alpn http/1.1 --close
    check "gnutls-serv, ALPN: none in common" says "^handshake TLS_ALPN alert=120" --alpn x
    end
    gnutls $tls12 --echo --require-client-cert --verify-client-cert --x509cafile "$ca"
    for cert in client ecclient; do
        # shellcheck disable=SC2046
        check "gnutls-serv --require-client-cert: $cert" says "^handshake OK" $(mine $cert) --say "hello
" --lines 1
    done
    # GnuTLS' tool checks the certificate after the handshake
    # shellcheck disable=SC2046
    check "gnutls-serv --verify-client-cert: another authority's" says "^\(end\|handshake\) \(CERT_[A-Z]*\|TLS_ALERT\|CLOSED\|TRUNCATED\|RESET\)" $(mine otherclient)
    check "gnutls-serv --require-client-cert: none" says "^\(end\|handshake\) \(CERT_[A-Z]*\|TLS_[A-Z]*\|CLOSED\|TRUNCATED\|RESET\)"
    end
    gnutls $tls12 --echo
    rehandshake() { # a HelloRequest: we answer no_renegotiation
        client --name localhost --say "**REHANDSHAKE**
"
        grep -q '^end \(TLS_ALERT\|CLOSED\|TRUNCATED\|RESET\|TIMEOUT\)' "$tmp/c"
    }
    check "gnutls-serv asks for renegotiation: refused" rehandshake
    check "gnutls-serv: and the next connection" says "^handshake OK" --name localhost --close
    end
    gnutls NORMAL:-VERS-ALL:+VERS-TLS1.3 --echo
    # GnuTLS does not answer protocol_version but handshake_failure
    check "gnutls-serv, TLS 1.3 only" says "^handshake \(TLS_VERSION alert=70\|TLS_ALERT alert=40\)"
    end
    gnutls NORMAL:-VERS-ALL:+VERS-TLS1.1:%COMPAT --echo
    check "gnutls-serv, TLS 1.1 only" says "^handshake \(TLS_VERSION alert=70\|TLS_ALERT alert=40\)"
    end
    gnutls $tls12:%NO_EXTENSIONS --echo
    check "gnutls-serv without extensions: refused or served, typed" says "^handshake"
    end
else skip gnutls-serv "not installed"; fi
[ -z "$broken" ] || cp "$tmp/broken" "$tmp/out"
if [ -z "$broken" ]; then ok "every client ended with status 0"; else fail "every client ended with status 0" "$broken"; fi
check "no sanitizer report" clean
finish
