#!/usr/bin/env bash
# run.sh [URL]: the Autobahn WebSocket suite, unmodified, against the gateway's echo route (or against URL).
#
# Groups 1 to 7, 9 and 10 must be clean and strict; the compression groups 12 and 13 must answer "unimplemented", which
# takes no time. CASES=9.1.*,6.* runs only those.
# AB_SHARDS is the number of suite processes (default: one per core). Reports: target/autobahn/<n>/index.html.
# `make conformance` installs the suite and builds the gateway before it calls this.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
out=$target/autobahn
suite=$root/.tools/autobahn/bin
shards=${AB_SHARDS:-$(nproc)}
cases=${CASES:-*}
readonly READY_SECONDS=30 STOP_SECONDS=30 SUITE_SECONDS=1500

give_up() {
  echo "conformance: $*" >&2
  exit 1
}

# Starts the gateway and sets `pid` and `url`; its output goes to $out/gateway.log.
start_gateway() {
  local binary=$target/release/gateway deadline=$((SECONDS + READY_SECONDS))
  [ -x "$binary" ] || give_up "no $binary; run: make conformance"
  : >"$out/gateway.log"
  "$binary" --config "$here/gateway.toml" >>"$out/gateway.log" 2>&1 &
  pid=$!
  started+=("$pid")
  until url=$(sed -n 's/^listening ws=\([^ ]*\).*/ws:\/\/\1\/echo/p' "$out/gateway.log") && [ -n "$url" ]; do
    kill -0 "$pid" 2>/dev/null || give_up "the gateway did not start: $(tail -n 1 "$out/gateway.log")"
    [ "$SECONDS" -lt "$deadline" ] || give_up "the gateway announced no address within $READY_SECONDS s"
    sleep 0.1
  done
}

# A server that survived the whole suite must also stop when asked, and say so by status 0.
stop_gateway() {
  local deadline=$((SECONDS + STOP_SECONDS)) status=0
  kill -TERM "$pid" 2>/dev/null || give_up "the gateway died during the suite; see $out/gateway.log"
  while kill -0 "$pid" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || give_up "the gateway was still there $STOP_SECONDS s after SIGTERM"
    sleep 0.1
  done
  wait "$pid" || status=$?
  [ "$status" = 0 ] || give_up "the gateway ended with status $status; see $out/gateway.log"
}

run_suite() {
  local suites=() shard failed=0
  "$suite/python" "$here/deal.py" "$url" "$out" "$shards" "$cases"
  for shard in "$out"/*/spec.json; do
    (cd "${shard%/*}" && exec timeout "$SUITE_SECONDS" \
      "$suite/python" "$suite/wstest" -m fuzzingclient -s spec.json >wstest.log 2>&1) &
    suites+=($!)
    started+=($!)
  done
  for shard in "${!suites[@]}"; do
    wait "${suites[$shard]}" || {
      failed=$?
      echo "conformance: suite process $shard ended with $failed (124: out of time); see $out/$shard/wstest.log" >&2
    }
  done
  return "$failed"
}

# However this ends, nothing it started outlives it.
started=()
trap 'kill "${started[@]}" 2>/dev/null || true' EXIT

[ -x "$suite/wstest" ] || give_up "the suite is not installed; run: make conformance"
rm -rf "$out"
mkdir -p "$out"
url=${1:-}
verdict=0
[ -n "$url" ] && own=0 || own=1
[ "$own" = 0 ] || start_gateway
echo "conformance: $url, $shards suite processes, cases $cases"
run_suite || verdict=1
python3 "$here/verdict.py" "$out" || verdict=1
[ "$own" = 0 ] || stop_gateway
exit "$verdict"
