#!/bin/sh
# A one-threaded Bun server. Usage: bun.sh PORT SCENARIO, or bun.sh about
here=$(dirname "$0")
bun="$here/node_modules/bun/bin/bun.exe"
if [ ! -x "$bun" ]; then
  echo "bun is not installed: run npm install in $here" >&2
  exit 1
fi
if [ "$1" = about ]; then
  echo "Bun $("$bun" --version)"
  echo echo fanout handshake
  exit
fi
exec "$bun" "$here/bun.js" "$1"
