#!/bin/sh
# The gateway from its release build, one shard. Usage: ours.sh PORT SCENARIO, or ours.sh about
# GATEWAY names another binary, SHARDS another number of shards; BACKENDS are the app servers of the scenario backend.
here=$(dirname "$0")
gateway=${GATEWAY:-${CARGO_TARGET_DIR:-$here/../../target}/release/gateway}
if [ "$1" = about ]; then
  "$gateway" --version
  echo echo fanout handshake backend
  exit
fi
export GATEWAY__LISTEN__ADDRESS="\"127.0.0.1:$1\""
export GATEWAY__HTTP__ADDRESS='"127.0.0.1:0"'
export GATEWAY__SHARDS__COUNT="${SHARDS:-1}"
config=$here/ours.toml
if [ "$2" = backend ]; then
  config=${TMPDIR:?a folder for the configuration}/gateway.toml
  sed "s|ENDPOINTS|${BACKENDS:?such as \"http://127.0.0.1:50051\"}|" "$here/ours-backend.toml" > "$config"
fi
unset GATEWAY SHARDS BACKENDS
exec "$gateway" --config "$config"
