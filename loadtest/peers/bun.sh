#!/bin/sh
# A one-threaded Bun server. Usage: bun.sh PORT SCENARIO
here=$(dirname "$0")
bun="$here/node_modules/bun/bin/bun.exe"
if [ ! -x "$bun" ]; then
  echo "bun is not installed: run npm install in $here" >&2
  exit 1
fi
exec "$bun" "$here/bun.js" "$1"
