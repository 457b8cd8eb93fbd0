#!/bin/sh
# tokio-tungstenite, one thread: a package of its own beside this file. Usage: tungstenite.sh PORT SCENARIO, or
# tungstenite.sh about
here=$(dirname "$0")/tungstenite
server=${CARGO_TARGET_DIR:-$here/target}/release/peer-tungstenite
if [ ! -x "$server" ]; then
  echo "tungstenite is not built: cargo build --release --manifest-path $here/Cargo.toml" >&2
  exit 1
fi
if [ "$1" = about ]; then
  version() { sed -n "/^name = \"$1\"\$/{n;s/version = \"\(.*\)\"/$1 \1/p}" "$here/Cargo.lock"; }
  echo "$(version tokio-tungstenite), $(version tokio)"
  echo echo fanout handshake
  exit
fi
ulimit -n "$(ulimit -Hn)"
exec "$server" "$1"
