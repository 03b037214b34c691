#!/bin/sh
# certs.sh DIR: makes the certificates that tests and the demo use, once. Needs openssl.
#
#   ca.pem ca.key               root, RSA-2048             other_ca.pem other_ca.key   another root
#   inter.pem inter.key         intermediate, by ca
#   rsa.pem rsa.key             RSA-2048, by inter         names: localhost 127.0.0.1 ::1 example.test *.wild.test
#   ec.pem ec.key               P-256, by inter            the same names
#   ec384 ec521 pss             P-384, P-521, RSASSA-PSS   the same names (each .pem and .key)
#   expired.pem expired.key     by inter, expired in 2021  the same names
#   wrong.pem wrong.key         by inter                   name: wrong.test
#   untrusted.pem untrusted.key by other_ca                the same names as rsa.pem
#   self.pem self.key           signed by itself           the same names
#   client.pem client.key       clientAuth, by ca          client_ec.pem client_ec.key    the same with a P-256 key
#
# rsa, ec, ec384, ec521, pss, expired and wrong are chains: the certificate, then inter.
set -eu

dir=${1:?usage: certs.sh DIR}
[ -f "$dir/complete" ] && [ -f "$dir/mute.pem" ] && exit 0
command -v openssl >/dev/null || { echo "certs.sh: openssl is not installed" >&2; exit 1; }

case $dir in /*) ;; *) dir=$(pwd)/$dir ;; esac
tmp=$dir.tmp.$$
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"
cd "$tmp"

names='DNS:localhost,IP:127.0.0.1,IP:::1,DNS:example.test,DNS:*.wild.test'
from=$(date -u -d '-1 day' +%y%m%d%H%M%SZ 2>/dev/null || date -u -v-1d +%y%m%d%H%M%SZ)
until=$(date -u -d '+3650 days' +%y%m%d%H%M%SZ 2>/dev/null || date -u -v+3650d +%y%m%d%H%M%SZ)

cat > ca.cnf <<CNF
[ca]
default_ca = d
[d]
database = ./index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = p
unique_subject = no
[p]
commonName = supplied
[req]
distinguished_name = dn
[dn]
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[inter]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $names
[mute]
basicConstraints = critical,CA:FALSE
keyUsage = critical,keyAgreement
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $names
[wrong]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:wrong.test
[client]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[self]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
subjectAltName = $names
CNF
: > index

key() { # NAME RSA|RSA-PSS|P-256|P-384|P-521
    case $2 in
    P-*) openssl genpkey -algorithm EC -pkeyopt "ec_paramgen_curve:$2" -out "$1.key" 2>>log ;;
    *) openssl genpkey -algorithm "$2" -pkeyopt rsa_keygen_bits:2048 -out "$1.key" 2>>log ;;
    esac
}

sign() { # NAME SECTION SUBJECT ISSUER; an issuer equal to the name means self-signed
    openssl req -new -config ca.cnf -key "$1.key" -subj "/CN=$3" -out "$1.csr" 2>>log
    by="-cert $4.pem"
    [ "$4" = "$1" ] && by=-selfsign
    # shellcheck disable=SC2086
    openssl ca -batch -notext -config ca.cnf -extensions "$2" -in "$1.csr" -out "$1.pem" \
        -keyfile "$4.key" $by -startdate "${start:-$from}" -enddate "${end:-$until}" 2>>log
    rm "$1.csr"
}

make_all() {
    start='' end=''
    for n in ca other_ca inter rsa expired wrong untrusted self client; do key $n RSA; done
    key ec P-256
    key ec384 P-384
    key ec521 P-521
    key pss RSA-PSS
    key client_ec P-256
    key mute P-256
    sign ca root "psocket test root" ca
    sign other_ca root "another root" other_ca
    sign inter inter "psocket test intermediate" ca
    sign rsa server localhost inter
    for n in ec ec384 ec521 pss; do sign $n server localhost inter; done
    start=200101000000Z end=210101000000Z
    sign expired server localhost inter
    start='' end=''
    sign wrong wrong wrong.test inter
    sign mute mute localhost ca
    sign untrusted server localhost other_ca
    sign self self localhost self
    sign client client "psocket test client" ca
    sign client_ec client "psocket test client" ca
    for n in rsa ec ec384 ec521 pss expired wrong; do cat inter.pem >> $n.pem; done
}

make_all || { cat log >&2; exit 1; }
rm -f index* log ca.cnf [0-9A-F][0-9A-F]*.pem
: > complete
cd /
[ -f "$dir/complete" ] && [ -f "$dir/mute.pem" ] && exit 0 # another certs.sh was faster
rm -rf "$dir"
mv "$tmp" "$dir"
