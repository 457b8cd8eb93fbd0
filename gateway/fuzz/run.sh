#!/usr/bin/env bash
# Builds every fuzz target and runs each for SECONDS (default 20): gateway/fuzz/run.sh [SECONDS] [TARGET...]
# Needs the stable toolchain and g++ (libFuzzer is C++); neither nightly nor cargo-fuzz.
# Exits with 1 when a target crashed, hung or ran out of memory, after all have run, and says where the input is.
# What was found interesting is kept in corpus/TARGET and is the start of the next run.
set -euo pipefail
cd "$(dirname "$0")"

seconds="${1:-20}"
shift || true
if ! [[ "$seconds" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 [SECONDS] [TARGET...]" >&2
    exit 2
fi
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    targets=(frame head assembly proxied envelope)
fi

command -v g++ >/dev/null || {
    echo "g++ is missing: it compiles libFuzzer (Debian: apt-get install g++)" >&2
    exit 2
}

# With an explicit target, build scripts and procedural macros are left uninstrumented.
triple="$(rustc -vV | sed -n 's/^host: //p')"
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cdebug-assertions=yes -Coverflow-checks=yes \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
bins=()
for target in "${targets[@]}"; do
    bins+=(--bin "$target")
done
cargo build --release --quiet --target "$triple" "${bins[@]}"
built="${CARGO_TARGET_DIR:-target}/$triple/release"

failed=()
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    seeds=()
    if [ -d "seeds/$target" ]; then
        seeds=("seeds/$target")
    fi
    echo "== $target, $seconds s"
    log="artifacts/$target/log"
    status=0
    "$built/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target/" "corpus/$target" "${seeds[@]}" >"$log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        grep -E 'number_of_executed_units|average_exec_per_sec' "$log" || true
        grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -1 || true
        continue
    fi
    failed+=("$target")
    tail -40 "$log"
    reproducer="$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)"
    echo "== $target FAILED; reproducer: $PWD/${reproducer:-$log (no input was written)}"
    echo "   again: $built/$target ${reproducer:-}"
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
