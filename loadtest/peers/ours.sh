#!/bin/sh
# The gateway from its release build, one shard. Usage: ours.sh PORT SCENARIO
# GATEWAY names another binary, SHARDS another number of shards.
here=$(dirname "$0")
export GATEWAY__LISTEN__ADDRESS="\"127.0.0.1:$1\""
export GATEWAY__HTTP__ADDRESS='"127.0.0.1:0"'
export GATEWAY__SHARDS__COUNT="${SHARDS:-1}"
gateway=${GATEWAY:-$here/../../target/release/gateway}
unset GATEWAY SHARDS
exec "$gateway" --config "$here/ours.toml"
