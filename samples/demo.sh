#!/bin/sh
# Builds samples/nodejs-express, runs the image, and prints what it answers. Usage: demo.sh PACKHORSE
set -eu
packhorse=$1
here=$(dirname "$0")
port=${PORT:-8080}
log=$(mktemp)
trap 'kill "$app" 2>/dev/null; wait "$app" 2>/dev/null || true; rm -f "$log"' EXIT
app=

"$packhorse" build demo --path "$here/nodejs-express"
"$packhorse" run demo -p "$port:8080" >"$log" 2>&1 &
app=$!
for _ in $(seq 100); do
    if answer=$("$(dirname "$packhorse")/python" "$here/get.py" "http://127.0.0.1:$port/" 2>/dev/null); then
        echo "http://127.0.0.1:$port/ answers: $answer"
        exit 0
    fi
    kill -0 "$app" 2>/dev/null || break
    sleep 0.1
done
echo "the image did not answer; it said:" >&2
cat "$log" >&2
exit 1
