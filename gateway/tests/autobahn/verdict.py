"""Reads what the wstest processes reported and says whether the server conforms.

Strict on purpose: a case has to have run, has to be OK (or merely informational), and has to end in a clean close.
Only the compression groups may answer UNIMPLEMENTED, and as long as the server offers no compression they must.
Called by run.sh: verdict.py DIR. The exit status is 0 when everything asked for conforms.
"""
import collections
import json
import pathlib
import sys

COMPRESSION = {"12", "13"}
GOOD = {"OK", "INFORMATIONAL"}


def group(case):
    return case.split(".")[0]


def order(case):
    return [int(part) for part in case.split(".")]


def complaint(case, result):
    """Why this result does not conform, or None."""
    if result is None:
        return "did not run"
    expected = {"UNIMPLEMENTED"} if group(case) in COMPRESSION else GOOD
    if result["behavior"] not in expected:
        return f"is {result['behavior']}, expected {' or '.join(sorted(expected))}"
    if result["behaviorClose"] not in GOOD:
        return f"closed {result['behaviorClose']} (code {result.get('remoteCloseCode')})"
    return None


def read(directory):
    """Every case asked for, with its result or None."""
    results = {}
    for spec in directory.glob("*/spec.json"):
        asked = json.loads(spec.read_text())["cases"]
        index = spec.with_name("index.json")
        answered = json.loads(index.read_text()).get("gateway", {}) if index.exists() else {}
        results.update((case, answered.get(case)) for case in asked)
    return results


def main():
    results = read(pathlib.Path(sys.argv[1]))
    tally = collections.defaultdict(collections.Counter)
    for case, result in results.items():
        tally[group(case)][result["behavior"] if result else "NOT RUN"] += 1
    for name in sorted(tally, key=int):
        print(f"group {name:>2}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(tally[name].items())))
    complaints = [(case, why) for case in sorted(results, key=order) if (why := complaint(case, results[case]))]
    for case, why in complaints:
        print(f"case {case} {why}")
    closes = collections.Counter(result["behaviorClose"] for result in results.values() if result)
    print("closes: " + ", ".join(f"{n} {kind}" for kind, n in sorted(closes.items())))
    print(f"conformance: {len(results)} cases, {len(complaints)} complaints")
    return 0 if results and not complaints else 1


if __name__ == "__main__":
    sys.exit(main())
