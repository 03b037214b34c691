#!/bin/sh
# Once: what is compared here is bytes on a wire; the tests in C run optimised too.
# Headless Chromium against examples/https_server: a page with a script that fetches 10 MB. The browser runs in a network
# namespace of its own, with the loopback only, so that it cannot call anybody else.
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
finish
