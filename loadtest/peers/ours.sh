#!/bin/sh
# The gateway from its release build, one shard. Usage: ours.sh PORT SCENARIO, or ours.sh about
# GATEWAY names another binary, SHARDS another number of shards.
here=$(dirname "$0")
gateway=${GATEWAY:-${CARGO_TARGET_DIR:-$here/../../target}/release/gateway}
if [ "$1" = about ]; then
  "$gateway" --version
  echo echo fanout handshake
  exit
fi
export GATEWAY__LISTEN__ADDRESS="\"127.0.0.1:$1\""
export GATEWAY__HTTP__ADDRESS='"127.0.0.1:0"'
export GATEWAY__SHARDS__COUNT="${SHARDS:-1}"
unset GATEWAY SHARDS
exec "$gateway" --config "$here/ours.toml"
