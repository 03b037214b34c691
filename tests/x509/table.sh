# table.sh - every case that make-cases makes, through build/verify.
. tests/check.sh
cases=$(dirname "$certs")/x509
sh tests/x509/make-cases "$cases" || { fail make-cases; echo "$passed passed, $failed failed"; exit 1; }

while IFS='	' read -r name chain key host time expected roots; do
    "$BUILD/verify" "$cases/$roots" "$cases/$chain" "$host" "$time" >"$tmp/out" 2>&1 </dev/null
    status=$?
    got=$(sed -n '1s/^\([A-Z0-9_]*\): ..*/\1/p' "$tmp/out")
    case $status in 0) got=OK ;; 1) ;; *) got="exit status $status" ;; esac
    if [ "$got" = "$expected" ]; then ok "$name"; else fail "$name" "expected $expected, got $got"; fi
done <"$cases/cases.tsv"

refuse "usage" "^usage" "$BUILD/verify"
refuse "a time that is none" "not a time" "$BUILD/verify" "$cases/root.pem" "$cases/good.chain" example.org soon
refuse "no such roots" "cannot read" "$BUILD/verify" "$cases/nowhere.pem" "$cases/good.chain" example.org 1
refuse "no such chain" "cannot read" "$BUILD/verify" "$cases/root.pem" "$cases/nowhere.pem" example.org 1
"$BUILD/verify" >/dev/null 2>&1
if [ $? = 2 ]; then ok "a wrong call exits with 2"; else fail "a wrong call exits with 2"; fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
