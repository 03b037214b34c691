#!/bin/sh
# Once: what is compared here is bytes on a wire; the tests in C run optimised too.
# Chromium and Firefox, headless, against examples/https_server: a page with a script that fetches 10 MB. The browsers run
# in a network namespace of their own, with the loopback only, so that they cannot call anybody else.
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -z "$browser" ] || ! command -v certutil >/dev/null; then
    echo "skip Chromium: it, or certutil, is not installed"
    echo "0 passed, 0 failed"
    exit 0
fi
if [ -z "${PSOCKET_ALONE:-}" ]; then
    if ! unshare -n ip link set lo up 2>/dev/null; then
        echo "skip Chromium: network namespaces are not allowed here"
        echo "0 passed, 0 failed"
        exit 0
    fi
    PSOCKET_ALONE=1 exec unshare -n sh -c 'ip link set lo up && exec sh "$0"' "$0"
fi
. tests/interop/common
mkdir "$tmp/site" "$tmp/home"
cp "$tmp/big" "$tmp/site/big"
cat >"$tmp/site/index.html" <<'PAGE'
<!DOCTYPE html><title>psocket</title><p id="p">nothing yet</p><script>
fetch('/big').then(r => r.arrayBuffer()).then(b => crypto.subtle.digest('SHA-256', b)).then(d => {
    const hex = Array.from(new Uint8Array(d)).map(x => x.toString(16).padStart(2, '0')).join('');
    document.getElementById('p').textContent = 'digest ' + hex;
}).catch(e => { document.getElementById('p').textContent = 'error ' + e; });
</script>
PAGE
HOME=$tmp/home
export HOME
trust() { # in the browser's own store, which is this folder's
    mkdir -p "$HOME/.pki/nssdb"
    certutil -d "sql:$HOME/.pki/nssdb" -N --empty-password && certutil -d "sql:$HOME/.pki/nssdb" -A -t C,, -n test -i "$ca"
}
check "the browser's trust store" trust
browse() { # URL
    timeout -k 2 60 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-extensions --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync --user-data-dir="$tmp/home/profile" \
        --virtual-time-budget=20000 --dump-dom "$1" >"$tmp/dom" 2>"$tmp/browser.err"
    tail -n 5 "$tmp/browser.err"
    cat "$tmp/dom"
}
shows() { browse "$1" && grep -q "digest $big" "$tmp/dom"; }
refuses() { browse "$1"; ! grep -q '<p id="p">' "$tmp/dom"; }
for ids in rsa ec both; do
    case $ids in rsa) keys=$rsa ;; ec) keys=$ec ;; both) keys="$rsa $ec" ;; esac
    # shellcheck disable=SC2086
    start "$BUILD/https_server" --address 127.0.0.1 --port 0 --root "$tmp/site" $keys
    check "Chromium, $ids: a page and 10 MB" shows "https://localhost:$port/"
    [ $ids != both ] || check "Chromium, by address" shows "https://127.0.0.1:$port/"
    end
done
# shellcheck disable=SC2086
start "$BUILD/https_server" --address 127.0.0.1 --port 0 --root "$tmp/site" --cert "$certs/wrong.pem" --key "$certs/wrong.key"
check "Chromium refuses another name's certificate" refuses "https://localhost:$port/"
check "and the server sees why" seen "TLS alert\|closed the connection"
end
check "no sanitizer report" clean

# Firefox has no --dump-dom: the page turns green once all has come, and its screenshot shows that. The script holds the page
# back until then. Its TLS may end at 1.2 (3) or 1.3 (4).
firefox=$(command -v firefox-esr || command -v firefox) || { echo "skip Firefox: not installed"; finish; }
cat >"$tmp/site/index.html" <<PAGE
<!DOCTYPE html><title>psocket</title><body style="background:#f00"><script>
const x = new XMLHttpRequest();
x.open('GET', '/big', false);
x.overrideMimeType('text/plain; charset=x-user-defined');
x.send();
let sum = 0;
for (let i = 0; i < x.responseText.length; i++) sum = (sum * 31 + (x.responseText.charCodeAt(i) & 255)) % 4294967291;
if (sum == $(python3 -c "import functools, sys
print(functools.reduce(lambda s, b: (s * 31 + b) % 4294967291, open(sys.argv[1], 'rb').read(), 0))" "$tmp/big")) document.body.style.background = '#0c3';
</script>
PAGE
mkdir "$tmp/home/firefox"
check "Firefox's trust store" sh -c 'certutil -d "sql:$1" -N --empty-password && certutil -d "sql:$1" -A -t C,, -n test -i "$2"' \
    trust "$tmp/home/firefox" "$ca"
green() { # URL VERSION [SECONDS]
    printf 'user_pref("%s", %s);\n' security.tls.version.max "$2" toolkit.telemetry.enabled false >"$tmp/home/firefox/user.js"
    rm -f "$tmp/shot.png"
    timeout -k 2 "${3:-60}" "$firefox" --headless --no-remote --profile "$tmp/home/firefox" --window-size=64,64 --screenshot "$tmp/shot.png" "$1"
    python3 -c "import re, sys, zlib
png = open(sys.argv[1], 'rb').read()
first = zlib.decompress(png[png.index(b'IDAT') + 4:])[1:4] if png.count(b'IDAT') == 1 else b''
print('the first pixel is', first.hex())
sys.exit(first != bytes.fromhex('00cc33'))" "$tmp/shot.png"
}
grey() { ! green "$@"; }
# shellcheck disable=SC2086
start "$BUILD/https_server" --address 127.0.0.1 --port 0 --root "$tmp/site" $rsa $ec
check "Firefox: a page and 10 MB" green "https://localhost:$port/" 4
check "Firefox, TLS 1.2" green "https://localhost:$port/" 3
end
start "$BUILD/https_server" --address 127.0.0.1 --port 0 --root "$tmp/site" --cert "$certs/wrong.pem" --key "$certs/wrong.key"
check "Firefox refuses another name's certificate" grey "https://localhost:$port/" 4 12
check "and the server sees why" seen "TLS alert\|closed the connection"
end
check "no sanitizer report" clean
finish
