#!/usr/bin/env bash
# loadtest/scale/run.sh CONNECTIONS [HOLD_SECONDS [WHAT...]]: very many connections on this machine. WHAT is
#   floor  a scale run against the floor, which is the reference of
#   ours   a scale run against the gateway; without WHAT it is these two, in this order
#   storm  all cut at once, and all back, against a gateway that lets in 4,000 handshakes at a time
# Needs root, for network namespaces of its own: their kernel settings and their sockets go with them, and nothing outside
# of them is changed. Reports go to OUT (target/scale-CONNECTIONS). Both ends hold their sockets in descriptor tables of at
# most 20,000 entries, however high the limit here is. BARS=off only measures. RESULTS, a folder, gets a section in its
# RESULTS.md. Status 1: a bar is broken; 2: it could not be run.
set -euo pipefail

readonly TABLE=20000          # hard limit of descriptors in one table
readonly PER_SHARD=18600      # of these, connections: the kernel spreads them unevenly
readonly FLOOR_SECONDS=100    # four heartbeats of each connection
readonly BYTES_EACH=8700      # both ends in the kernel and in both programs
readonly BYTES_BESIDE=1500000000

give_up() {
  echo "scale: $*" >&2
  exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/release
loadtest=$target/loadtest
gateway=${GATEWAY:-$target/gateway}

# Looks whether it can be done, then does one thing after the other.
main() {
  local connections=${1:-} hold=${2:-600}
  [[ $connections =~ ^[0-9]+$ && $hold =~ ^[0-9]+$ ]] || give_up "usage: run.sh CONNECTIONS [HOLD_SECONDS [WHAT...]]"
  shift $(($# < 2 ? $# : 2))
  [ $# -gt 0 ] || set -- floor ours
  [ "$(id -u)" = 0 ] || give_up "needs root: a network namespace of its own"
  [ -x "$loadtest" ] && [ -x "$gateway" ] || give_up "first: cargo build --release -p gateway -p loadtest"
  command -v ip >/dev/null || give_up "needs ip (Debian: iproute2), to bring up loopback in the namespace"
  local needed=$((connections * BYTES_EACH + BYTES_BESIDE)) free
  free=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) * 1024))
  [ "$free" -ge "$needed" ] ||
    give_up "$connections connections need about $((needed >> 20)) MiB of memory, $((free >> 20)) MiB are available"
  OUT=${OUT:-$root/target/scale-$connections}
  mkdir -p "$OUT"
  export OUT
  local shards=$(((connections + PER_SHARD - 1) / PER_SHARD))
  [ "$shards" -ge 4 ] || shards=4
  [ "$shards" -le 128 ] || give_up "$connections connections need $shards shards, and 128 are the most"
  echo "scale: $connections connections, $shards shards, reports in $OUT"
  local what seconds status=0
  for what in "$@"; do
    seconds=$hold
    [ "$what" != floor ] || [ "$hold" -lt "$FLOOR_SECONDS" ] || seconds=$FLOOR_SECONDS
    unshare --net "$here/run.sh" --size-hash "$connections" "$shards" "$seconds" "$what" || status=$?
    [ "$status" -le 1 ] || return "$status"
  done
  if [ -n "${RESULTS:-}" ]; then
    record "$connections" "$hold" "$@"
  fi
  return "$status"
}

# record CONNECTIONS HOLD_SECONDS WHAT...: what the runs measured, for readers.
record() {
  local connections=$1 hold=$2 title section
  shift 2
  local reports=("${@/#/$OUT/}")
  local many
  many=$(sed -e :a -e 's/\B[0-9]\{3\}\>/,&/;ta' <<<"$connections")
  title="$many connections, held for $hold s"
  section=scale-$connections
  if [ "$*" = storm ]; then
    title="$many connections cut and back, twice"
    section=storm-$connections
  fi
  "$loadtest" record "$section" --title "$title" --results "$RESULTS" \
    --command "loadtest/scale/run.sh $connections $hold $*" "${reports[@]/%/.json}"
}

# The kernel's table of sockets is sized when a namespace is made, by a setting of the one it is made from. So this one
# is only there to hold the setting; the machine's own is left alone.
size_hash() {
  local connections=$1 entries=1
  # A bucket for each socket: two to a connection.
  while [ "$entries" -lt $((2 * connections)) ]; do entries=$((entries * 2)); done
  sysctl -qw net.ipv4.tcp_child_ehash_entries="$entries" 2>/dev/null ||
    echo "scale: this kernel has no hash table for each namespace: the machine's is used, and connecting gets slower"
  exec unshare --net "$here/run.sh" --inside "$@"
}

server=

stop_server() {
  [ -n "$server" ] || return 0
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}

# start NAME COMMAND...: a server in the background, whose log is NAME.log; comes back when it listens.
start() {
  local log=$OUT/$1.log tries=0
  shift
  "$@" >"$log" 2>&1 &
  server=$!
  until grep -qs '^listening ' "$log"; do
    kill -0 "$server" 2>/dev/null && [ $((tries += 1)) -lt 150 ] || give_up "it does not start: see $log"
    sleep 0.1
  done
}

# inside CONNECTIONS SHARDS HOLD_SECONDS WHAT: one server and its load, in a namespace that ends with them.
inside() {
  local connections=$1 shards=$2 hold=$3 what=$4 setting
  trap stop_server EXIT
  trap 'exit 2' INT TERM
  ip link set lo up
  for setting in net.core.somaxconn=16384 net.ipv4.tcp_max_syn_backlog=16384 net.ipv4.tcp_syncookies=1 \
    net.ipv4.ip_local_port_range="1024 65535"; do
    sysctl -qw "$setting" 2>/dev/null || echo "scale: $setting cannot be set here"
  done
  echo "scale: $what, table of sockets: $(cat /proc/sys/net/ipv4/tcp_ehash_entries) buckets (negative: the machine's)"
  ulimit -n "$TABLE"
  export GATEWAY__SHARDS__COUNT=$shards GATEWAY__LIMITS__CONNECTIONS=$((connections + 300))
  local load=(scale --seconds "$hold" --max-errors 0) bars=()
  case $what in
  floor) start floor "$loadtest" floor --mode paths --threads "$shards" --ping-every 25s --listen 127.0.0.1:8080 ;;
  ours)
    start ours "$gateway" --config "$here/gateway.toml"
    if [ -f "$OUT/floor.json" ]; then
      load+=(--reference "$OUT/floor.json")
      bars=(--max-extra-objects 0.05 --max-heartbeat-cpu-ratio 1.2 --max-delivery-cpu-ratio 1.05)
    elif [ "${BARS:-on}" != off ]; then
      give_up "no $OUT/floor.json, which the bars are relative to: run the floor first, or set BARS=off"
    fi
    bars+=(--max-bytes-per-connection 96)
    # Beyond a million the heartbeats of both ends alone keep these processors busy.
    [ "$connections" -gt 1000000 ] || bars+=(--min-rate-ratio 0.9 --max-bystander-p99-us 250000)
    ;;
  storm)
    GATEWAY__LIMITS__HANDSHAKES=4000 start storm "$gateway" --config "$here/gateway.toml"
    load=(storm --rate 20000 --rounds 2 --max-errors 0 --metrics http://127.0.0.1:8081)
    # The 4,000 of the limit, and the 256 at most who are just being told that they are not let in.
    bars=(--max-handshakes 4256 --max-memory-ratio 1.2 --max-time-to-all-back 60 --max-bystander-p99-us 250000)
    ;;
  *) give_up "$what: expected floor, ours or storm" ;;
  esac
  [ "${BARS:-on}" != off ] || bars=()
  local status=0
  timeout $((hold + 600 + connections / 1000)) "$loadtest" "${load[@]}" "${bars[@]}" --connections "$connections" \
    --server-pid "$server" --url ws://127.0.0.1:8080/echo --patience 60s --json "$OUT/$what.json" \
    --html "$OUT/$what.html" || status=$?
  stop_server
  [ "$status" -le 2 ] || give_up "$what took too long"
  return "$status"
}

# Read whole before it runs, so that a script that is edited meanwhile does not go on somewhere else.
{
  case ${1:-} in
  --size-hash) shift && size_hash "$@" ;;
  --inside) shift && inside "$@" ;;
  *) main "$@" ;;
  esac
  exit
}
