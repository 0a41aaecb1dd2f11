#!/bin/bash
# public_ca.sh start NAME | stop: pebble, a CA that speaks ACME, on this host; NAME leads here.
set -eu
folder=/var/lib/public-ca

say_where() { # LINES: what /etc/hosts says of our own; it may be a mount, so it is written, not replaced
  { grep -v '# public-ca$' /etc/hosts || test $? = 1; printf '%s' "$1"; } >$folder/hosts
  cat $folder/hosts >/etc/hosts
}

start() {
  apt-get install -qqy --no-install-recommends pebble wrk >/dev/null
  mkdir -p $folder && cd $folder
  ec=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
  openssl req -x509 "${ec[@]}" -days 30 -subj '/CN=CA of the ACME server' \
    -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.crt
  openssl req "${ec[@]}" -subj /CN=localhost -keyout server.key -out server.csr
  openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out server.crt \
    -extfile <(printf '%s\n' subjectAltName=DNS:localhost,IP:127.0.0.1 authorityKeyIdentifier=keyid)
  cat >pebble.json <<JSON
{"pebble": {"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
  "certificate": "$folder/server.crt", "privateKey": "$folder/server.key", "httpPort": 80, "tlsPort": 443,
  "ocspResponderURL": "", "externalAccountBindingRequired": false, "certificateValidityPeriod": 7776000}}
JSON
  say_where "127.0.0.1 $1 # public-ca
"
  cp ca.crt /usr/local/share/ca-certificates/public-ca.crt
  update-ca-certificates >/dev/null
  systemd-run --quiet --collect --unit=public-ca --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 \
    pebble -config $folder/pebble.json
  for _ in {1..60}; do # what does not answer by then, the next line says
    python3 -c 'import urllib.request as r; r.urlopen("https://localhost:14000/dir")' 2>/dev/null && break
    sleep 0.2
  done
  python3 -c 'import urllib.request as r; print(r.urlopen("https://localhost:15000/roots/0").read().decode())'
}

stop() {
  systemctl stop public-ca.service public-ca-load.service 2>/dev/null || true # whatever still runs
  [ ! -d $folder ] || say_where ""
  rm -f /usr/local/share/ca-certificates/public-ca.crt
  update-ca-certificates --fresh >/dev/null
  rm -rf $folder /etc/letsencrypt
}

"$@"
