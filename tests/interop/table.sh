#!/bin/sh
# Once: what is compared here is bytes on a wire; the tests in C run optimised too.
# The certificate cases of tests/x509 through real handshakes: see table.c.
. tests/check.sh
cases=$(dirname "$certs")/x509
sh tests/x509/make-cases "$cases" || { fail make-cases; finish; }
"$BUILD/tests/interop/table" "$cases"
