#!/bin/sh
# Once: what is compared here is bytes on a wire; the tests in C run optimised too.
# Other people's TLS clients (openssl s_client, gnutls-cli, curl) against a server of psocket's public functions that speaks
# TLS 1.2 alone; tls13.sh has both versions.
. tests/interop/common

serve() { start "$peer" serve --max 1.2 "$@"; }
# s_client, which says ping and prints what the server says, all else too; fails unless the server's certificate is good
# and "welcome" has come.
s_client() {
    mark
    echo ping | timeout 20 openssl s_client -connect "127.0.0.1:$port" -CAfile "$ca" -verify_return_error -ign_eof "$@" \
        >"$tmp/s" 2>&1
    cat "$tmp/s"
    grep -q '^welcome' "$tmp/s" && seen '^line ping'
}
gnutls() { # PRIORITY OPTION...
    mark
    priority=$1
    shift
    echo ping | timeout 20 gnutls-cli --priority "$priority" --x509cafile "$ca" --port "$port" "$@" localhost >"$tmp/s" 2>&1
    cat "$tmp/s"
    grep -q '^welcome' "$tmp/s" && seen '^line ping'
}
hello='--say welcome
--lines 1'

# --- suites, curves, identities -----------------------------------------------------------------------------------------
# shellcheck disable=SC2086
serve $rsa $ec $hello
agrees() { # SUITE CURVE KEY-EXCHANGE-AS-OPENSSL-SAYS : and the server says the same
    s_client -tls1_2 -cipher "$1" -groups "$2" -servername localhost -verify_hostname localhost &&
        grep -q "Server Temp Key: $3" "$tmp/s" && grep -q "Cipher is $1" "$tmp/s" &&
        seen "^handshake OK TLSv1.2 TLS_$(echo "$1" | sed 's/-/_/; s/-/_WITH_/; s/AES/AES_/; s/-/_/g; s/POLY1305/POLY1305_SHA256/') alpn= name=localhost"
}
for kind in RSA ECDSA; do
    for suite in AES128-GCM-SHA256 AES256-GCM-SHA384 CHACHA20-POLY1305; do
        # a client that cannot use P-256 cannot verify a certificate with it (RFC 8422 section 5.1)
        check "s_client, ECDHE-$kind-$suite, X25519" agrees ECDHE-$kind-$suite X25519:P-256 X25519
        check "s_client, ECDHE-$kind-$suite, P-256" agrees ECDHE-$kind-$suite P-256 "ECDH, prime256v1"
        check "s_client, ECDHE-$kind-$suite, P-384" agrees ECDHE-$kind-$suite P-384:P-256 "ECDH, "
    done
done
only384() { s_client -tls1_2 -groups P-384 -cipher ECDHE-RSA-AES128-GCM-SHA256 && grep -q 'Server Temp Key: ECDH, secp384r1' "$tmp/s"; }
check "s_client, RSA, P-384 alone" only384
refuse "s_client, X448 alone: handshake_failure" "alert handshake failure" s_client -tls1_2 -groups X448
check "the server says why" seen "^handshake TLS_HANDSHAKE alert=40 .*curve"
defaults() { s_client -servername localhost && seen "handshake OK TLSv1.2 TLS_ECDHE_ECDSA_WITH_"; }
check "s_client's defaults: TLS 1.2 with the EC identity" defaults
nameless() { s_client -noservername && seen "handshake OK TLSv1.2 TLS_ECDHE_RSA_WITH_"; }
check "s_client without a name: the first identity" nameless
rsa_only() { s_client -servername localhost -sigalgs RSA+SHA256 && seen "handshake OK TLSv1.2 TLS_ECDHE_RSA_WITH_"; }
check "s_client that cannot verify ECDSA: the RSA identity" rsa_only
pss_too() { s_client -sigalgs rsa_pss_rsae_sha256:RSA+SHA384 -cipher ECDHE-RSA-AES128-GCM-SHA256; }
check "s_client, PSS and RSA with SHA-384 only" pss_too
ecdsa384() { s_client -sigalgs ECDSA+SHA384:RSA+SHA256 -cipher ECDHE-ECDSA-AES128-GCM-SHA256; }
check "s_client, ECDSA with SHA-384 only" ecdsa384
refuse "s_client, SHA-1 signatures only: refused" "alert handshake failure" s_client -tls1_2 -sigalgs RSA+SHA1:ECDSA+SHA1 -cipher DEFAULT:@SECLEVEL=0
if has gnutls-cli; then
    for kind in ECDHE-RSA ECDHE-ECDSA; do
        other=ECDHE-ECDSA
        [ $kind = ECDHE-ECDSA ] && other=ECDHE-RSA
        for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305; do
            for group in X25519 SECP256R1; do
                g() {
                    gnutls "NORMAL:-VERS-ALL:+VERS-TLS1.2:-$other:-CIPHER-ALL:+$cipher:-GROUP-ALL:+GROUP-$group:+GROUP-SECP256R1" &&
                        grep -q "(TLS1.2[^)]*)-(ECDHE-$group)-(${kind#ECDHE-}-[A-Z0-9-]*SHA[0-9]*)-($cipher)" "$tmp/s"
                }
                check "gnutls-cli, $kind, $cipher, $group" g
            done
        done
    done
    check "gnutls-cli's defaults" gnutls NORMAL
    check "gnutls-cli, SECURE192 with TLS 1.2" gnutls SECURE192:+VERS-TLS1.2:+SECURE128:-VERS-TLS1.3
else skip gnutls-cli "not installed"; fi
if has curl; then
    # --http0.9 takes the server's bare "welcome" for the answer
    c() { [ "$(curl -sS -m 20 --http0.9 --cacert "$ca" "$@" "https://localhost:$port/")" = welcome ]; }
    check "curl's defaults" c
    for curve in X25519 P-256 P-384; do check "curl, $curve" c --curves $curve; done
else skip curl "not installed"; fi

# --- versions and other protocols ---------------------------------------------------------------------------------------
for v in tls1 tls1_1 tls1_3; do
    refuse "s_client -$v: protocol_version" "alert protocol version" s_client -$v -cipher ALL:@SECLEVEL=0
    check "s_client -$v: the server says so" seen "^handshake TLS_VERSION alert=70"
done
refuse "s_client, static RSA: handshake_failure" "alert handshake failure" s_client -tls1_2 -cipher AES128-GCM-SHA256
refuse "s_client, CBC: handshake_failure" "alert handshake failure" s_client -tls1_2 -cipher ECDHE-RSA-AES128-SHA256
refuse "s_client, DHE: handshake_failure" "alert handshake failure" s_client -tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256
fallback() { s_client -tls1_2 -fallback_scsv; } # TLS 1.2 is this server's best: no downgrade
check "s_client -fallback_scsv with TLS 1.2" fallback
refuse "s_client -fallback_scsv with TLS 1.1" "alert" s_client -tls1_1 -fallback_scsv -cipher ALL:@SECLEVEL=0
if has gnutls-cli; then
    for v in 1.0 1.1 1.3; do
        refuse "gnutls-cli, TLS $v: refused" "alert.*[Pp]rotocol version" gnutls "NORMAL:-VERS-ALL:+VERS-TLS$v"
    done
fi
if has curl; then
    plain() {
        mark
        curl -sS -m 20 "http://127.0.0.1:$port/"
        seen "^handshake TLS_PROTOCOL alert="
    }
    check "plain HTTP: the handshake fails" plain
fi
check "and the next client is served" s_client
end

# shellcheck disable=SC2086
serve $rsa $hello
refuse "an RSA identity only, a client of ECDSA only" "alert handshake failure" s_client -tls1_2 -cipher ECDSA
check "an RSA identity only" s_client
end
# shellcheck disable=SC2086
serve $ec $hello
refuse "a P-256 identity only, a client of RSA only" "alert handshake failure" s_client -tls1_2 -cipher aRSA
check "a P-256 identity only" s_client
end
# shellcheck disable=SC2086
serve $p384 $hello
for group in X25519 P-256 P-384; do
    # the certificate's curve has to be offered, too (RFC 8422 section 5.1)
    check "a P-384 identity, $group first" s_client -tls1_2 -groups "$(echo "$group:P-384" | sed 's/P-384:P-384/P-384/')"
done
end

# --- ALPN ---------------------------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
serve $rsa $ec --alpn h2 --alpn http/1.1 $hello
alpn() { # OFFER AGREED
    s_client -alpn "$1" && grep -q "ALPN protocol: $2\$" "$tmp/s" && seen "alpn=$2 "
}
check "ALPN: the server's first choice" alpn http/1.1,h2 h2
check "ALPN: the only one in common" alpn spdy/3,http/1.1 http/1.1
without() { s_client && grep -q 'No ALPN negotiated' "$tmp/s" && seen "alpn= "; }
check "ALPN: none offered" without
refuse "ALPN: none in common: no_application_protocol" "alert no application protocol" s_client -alpn spdy/3,http/1.0
check "the server says so" seen "^handshake TLS_ALPN alert=120"
if has gnutls-cli; then
    galpn() { gnutls NORMAL --alpn http/1.1 && seen "alpn=http/1.1 "; }
    check "ALPN with gnutls-cli" galpn
fi
if has curl; then
    calpn() { mark; c "$1" && seen "alpn=$2 "; }
    check "ALPN with curl --http1.1" calpn --http1.1 http/1.1
fi

# --- resumption (of that server: with ALPN) -----------------------------------------------------------------------------
resumed() { # NAME
    s_client -tls1_2 -sess_out "$tmp/session" -alpn h2 -servername localhost && grep -q '^New, TLSv1.2' "$tmp/s" && seen "resumed=0" &&
        s_client -tls1_2 -sess_in "$tmp/session" -alpn h2 -servername localhost && grep -q '^Reused, TLSv1.2' "$tmp/s" && seen "alpn=h2 name=localhost resumed=1"
}
check "s_client -sess_in" resumed
other() { # OFFER AGREED : the session with another list
    s_client -tls1_2 -sess_in "$tmp/session" -servername localhost -alpn "$1" && seen "alpn=$2 "
}
check "the session with another ALPN list" other http/1.1 http/1.1
refuse "the session with an ALPN list that has nothing in common" "alert no application protocol" \
    s_client -tls1_2 -sess_in "$tmp/session" -servername localhost -alpn x,y
no_alpn() { s_client -tls1_2 -sess_in "$tmp/session" -servername localhost && seen "alpn= "; }
check "the session without ALPN" no_alpn
sni() { s_client -tls1_2 -sess_in "$tmp/session" -servername example.test -alpn h2 && seen "name=example.test resumed=0"; }
check "the session for another name is not resumed (RFC 6066 section 3)" sni
suite() { # the session's suite is not offered: a full handshake (RFC 5246 7.4.1.2)
    s_client -tls1_2 -cipher ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES256-GCM-SHA384 -sess_in "$tmp/session" -servername localhost && seen "resumed=0"
}
check "the session without its suite is not resumed" suite
tampered() { # an unknown session
    s_client -tls1_2 -sess_out "$tmp/session2" -servername localhost || return 1
    id=$(sed -n 's/ *Session-ID: *\([0-9A-F]*\)$/\1/p' "$tmp/s" | head -n 1)
    [ ${#id} = 64 ]
}
check "session identifiers have 32 bytes" tampered
reconnect() {
    mark
    echo ping | timeout 20 openssl s_client -connect "127.0.0.1:$port" -CAfile "$ca" -tls1_2 -reconnect -ign_eof >"$tmp/s" 2>&1
    cat "$tmp/s"
    [ "$(grep -c '^Reused' "$tmp/s")" -ge 5 ] && seen '^line ping' && [ "$(count resumed=1)" = 5 ]
}
check "s_client -reconnect resumes five times" reconnect
if has gnutls-cli; then
    gresume() { gnutls NORMAL:-VERS-TLS1.3 --resume; grep -q 'This is a resumed session' "$tmp/s" && seen resumed=1; }
    check "gnutls-cli --resume" gresume
fi
if has curl; then
    cresume() {
        mark
        curl -sS -m 20 --http1.1 --http0.9 --cacert "$ca" "https://localhost:$port/" "https://localhost:$port/" && seen resumed=1
    }
    check "curl resumes" cresume
fi
end
check "no sanitizer report, so far" clean

# --- client certificates ------------------------------------------------------------------------------------------------
with() { # NAME : s_client's options for this client certificate
    case $1 in
        client) echo "-cert $certs/client.pem -key $certs/client.key" ;;
        rsa) echo "-cert $certs/rsa.pem -key $certs/rsa.key -cert_chain $certs/inter.pem" ;;
        *) echo "-cert $more/$1.pem -key $more/$1.key" ;;
    esac
}
for mode in optional required; do
    # shellcheck disable=SC2086
    serve $rsa $ec --ca "$ca" --auth $mode $hello
    for cert in client ecclient p384client brief; do
        good() { # shellcheck disable=SC2046
            s_client -tls1_2 $(with $cert) && seen "handshake OK .*peer=CN="
        }
        check "$mode client certificate: $cert" good
    done
    for name in rsa:CERT_USAGE:4[23] otherclient:CERT_UNTRUSTED:48; do
        cert=${name%%:*} code=${name#*:} alert=${name##*:} code=${code%:*}
        # shellcheck disable=SC2046
        refuse "$mode client certificate: $cert refused" "alert" s_client -tls1_2 $(with $cert)
        check "$mode client certificate: $code" seen "^handshake $code alert=$alert cert=0"
    done
    signatures() { # shellcheck disable=SC2046
        for how in RSA+SHA256 RSA+SHA384 RSA+SHA512 RSA-PSS+SHA256:RSA+SHA256; do
            s_client -tls1_2 $(with client) -client_sigalgs $how || return 1
        done
    }
    check "$mode client certificate: signatures with each hash" signatures
    if [ $mode = optional ]; then
        none() { s_client -tls1_2 && seen 'handshake OK .*peer= '; }
        check "optional client certificate: none" none
    else
        refuse "required client certificate: none" "alert handshake failure" s_client -tls1_2
        check "required client certificate: the server says so" seen "^handshake CERT_MISSING alert=40"
    fi
    kept() { # a resumed session still knows its peer, or it is not resumed
        # shellcheck disable=SC2046
        s_client -tls1_2 $(with client) -sess_out "$tmp/session" -servername localhost && s_client -tls1_2 -sess_in "$tmp/session" $(with client) -servername localhost &&
            seen "peer=CN=psocket test client"
    }
    check "$mode client certificate: resumption keeps the name" kept
    if has gnutls-cli; then
        ggood() { gnutls NORMAL --x509certfile "$more/ecclient.pem" --x509keyfile "$more/ecclient.key" && seen "peer=CN=ecclient"; }
        check "$mode client certificate: gnutls-cli, EC" ggood
        ggood() { gnutls NORMAL --x509certfile "$certs/client.pem" --x509keyfile "$certs/client.key" && seen "peer=CN=psocket test client"; }
        check "$mode client certificate: gnutls-cli, RSA" ggood
    fi
    if has curl; then
        cgood() { mark; c --cert "$certs/client.pem" --key "$certs/client.key" && seen "peer=CN=psocket test client"; }
        check "$mode client certificate: curl" cgood
    fi
    cert=client
    check "$mode client certificate: and the next one is served" good
    end
done
# shellcheck disable=SC2086
serve $rsa --ca "$ca" --auth required --time "$future" $hello
# shellcheck disable=SC2046
refuse "an expired client certificate" "alert certificate expired" s_client -tls1_2 $(with brief)
check "the server says so" seen "^handshake CERT_EXPIRED alert=45 cert=0"
end

# --- names --------------------------------------------------------------------------------------------------------------
id() { echo "--cert $more/$1.pem --key $more/$1.key"; }
# shellcheck disable=SC2046,SC2086
serve $rsa $(id one) $(id wild) $(id two.wild) $(id two) $ec $hello
shows() { # SERVER-NAME CN
    s_client -tls1_2 -servername "$1" && grep -q "^subject=CN = $2\$" "$tmp/s" && seen "name=$1 "
}
check "SNI: an exact name" shows one.test one
check "SNI: another" shows two.test two
check "SNI: case does not matter" s_client -tls1_2 -servername ONE.Test
check "SNI: ... and chose the same" grep -q '^subject=CN = one$' "$tmp/s"
check "SNI: a wildcard" shows any.sni.test wild
check "SNI: an exact name before a wildcard" shows two.sni.test two.wild
check "SNI: two labels are no wildcard's" shows a.b.sni.test localhost
check "SNI: an unknown name gets the first" shows unknown.test localhost
nosni() { s_client -tls1_2 -noservername -cipher aRSA && grep -q '^subject=CN = localhost' "$tmp/s" && seen "name= "; }
check "SNI: none" nosni
end

# --- record sizes -------------------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
serve $rsa $ec --in "$tmp/small"
longest() { # OPTION... : gets the small file; prints the longest application record's length
    timeout 20 openssl s_client -connect "127.0.0.1:$port" -CAfile "$ca" -tls1_2 -quiet -msg -msgfile "$tmp/msg" "$@" \
        </dev/null >"$tmp/body" 2>"$tmp/s"
    cmp "$tmp/body" "$tmp/small" || return 1
    sed -n '/<<<.*RecordHeader/{n;s/^ *17 03 03 \(..\) \(..\).*/0x\1\2/p}' "$tmp/msg" | while read -r n; do echo $((n)); done | sort -n | tail -n 1
}
for n in 512 1024 2048 4096; do
    fragment() {
        got=$(longest -maxfraglen $n)
        echo "the longest record has $got bytes"
        [ "${got:-0}" -gt $((n / 2)) ] && [ "$got" -le $((n + 24)) ]
    }
    check "s_client -maxfraglen $n" fragment
    if has gnutls-cli; then
        gfragment() {
            timeout 20 gnutls-cli --logfile "$tmp/gnutls.log" --priority NORMAL:-VERS-TLS1.3 --recordsize $n --x509cafile "$ca" \
                --port "$port" localhost </dev/null >"$tmp/body" && cmp "$tmp/body" "$tmp/small"
        }
        check "gnutls-cli --recordsize $n" gfragment
    fi
done
whole() { [ "$(longest)" -gt 16000 ]; }
check "without it records are full" whole
end

# --- bulk, both ways, and each way of ending ----------------------------------------------------------------------------
# shellcheck disable=SC2086
serve $rsa $ec --out "$tmp/got"
for suite in ECDHE-RSA-AES128-GCM-SHA256 ECDHE-ECDSA-AES256-GCM-SHA384 ECDHE-ECDSA-CHACHA20-POLY1305; do
    up() {
        mark
        timeout 60 openssl s_client -connect "127.0.0.1:$port" -tls1_2 -cipher $suite -nocommands "$@" <"$tmp/big" >"$tmp/s" 2>&1
        seen "^end CLOSED received 10485760" && [ "$(sha "$tmp/got")" = "$big" ]
    }
    check "s_client sends 10 MB, $suite" up
done
if has gnutls-cli; then
    for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305; do
        gup() {
            mark
            timeout 60 gnutls-cli --logfile "$tmp/gnutls.log" --priority "NORMAL:-VERS-TLS1.3:-CIPHER-ALL:+$cipher" \
                --x509cafile "$ca" --port "$port" localhost <"$tmp/big" >"$tmp/s"
            seen "^end CLOSED received 10485760" && [ "$(sha "$tmp/got")" = "$big" ]
        }
        check "gnutls-cli sends 10 MB, $cipher" gup
    done
fi
check "s_client sends 10 MB in records of 512" up -max_send_frag 512
check "s_client sends 10 MB, pipelined in pieces of 1000" up -split_send_frag 1000
check "s_client sends 10 MB with max_fragment_length 512" up -maxfraglen 512
killed() { # no close_notify
    mark
    timeout -s KILL 20 openssl s_client -connect "127.0.0.1:$port" -tls1_2 -quiet <&9 >"$tmp/s" 2>&1 &
    client=$!
    seen "^handshake OK" || return 1
    pkill -KILL -P $client 2>/dev/null || kill -KILL $client
    wait $client 2>/dev/null
    seen "^end TRUNCATED received 0"
}
check "a client that is killed: TRUNCATED" killed
end
# shellcheck disable=SC2086
serve $rsa $ec --in "$tmp/big"
for suite in ECDHE-ECDSA-AES128-GCM-SHA256 ECDHE-RSA-AES256-GCM-SHA384 ECDHE-RSA-CHACHA20-POLY1305; do
    down() {
        mark
        timeout 60 openssl s_client -connect "127.0.0.1:$port" -tls1_2 -cipher $suite -quiet </dev/null >"$tmp/got" 2>"$tmp/s"
        [ "$(sha "$tmp/got")" = "$big" ] && seen "^end CLOSED"
    }
    check "s_client receives 10 MB, $suite" down
done
end
# shellcheck disable=SC2086
serve $rsa $ec --echo
if has gnutls-cli; then
    both() { # the end of the input is a half-close: close_notify, and the rest still comes back
        mark
        timeout 60 gnutls-cli --logfile "$tmp/gnutls.log" --priority NORMAL:-VERS-TLS1.3 --x509cafile "$ca" --port "$port" localhost \
            <"$tmp/million" >"$tmp/got" # it prints byte by byte
        cmp "$tmp/got" "$tmp/million" && seen "^end CLOSED received 1000000"
    }
    check "gnutls-cli, 1 MB there and back, half-close" both
fi
end

# --- renegotiation ------------------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
serve $rsa $ec --say welcome --echo
reneg() {
    mark
    timeout 20 openssl s_client -connect "127.0.0.1:$port" -tls1_2 -msg <&9 >"$tmp/s" 2>&1 &
    client=$!
    seen "^handshake OK" && sleep 0.3 && echo R >&9
    seen "^end " # OpenSSL ends with handshake_failure when it is refused
    kill $client 2>/dev/null
    wait $client 2>/dev/null
    cat "$tmp/s"
    grep -q RENEGOTIATING "$tmp/s" && grep -q 'warning no_renegotiation' "$tmp/s" && ! grep -q 'Finished.*Finished.*Finished' "$tmp/s" &&
        seen "^end \(TLS_ALERT\|CLOSED\|TRUNCATED\)"
}
check "s_client renegotiates: refused with no_renegotiation" reneg
if has gnutls-cli; then
    grehandshake() {
        mark
        echo ping | timeout 20 gnutls-cli --priority NORMAL:-VERS-TLS1.3 --x509cafile "$ca" --port "$port" --rehandshake localhost >"$tmp/s" 2>&1
        cat "$tmp/s"
        ! grep -q 'ReHandshake was completed' "$tmp/s" && seen "^end "
    }
    check "gnutls-cli --rehandshake: refused" grehandshake
fi
alive() { mark; echo again | timeout 20 openssl s_client -connect "127.0.0.1:$port" -nocommands >"$tmp/s" 2>&1; seen "^end CLOSED received 6"; }
check "and the next client is served" alive
end
check "no sanitizer report" clean
finish
