"""Deals the suite's cases over at most SHARDS wstest processes: writes DIR/<n>/spec.json for each.

Runs in the Python 2.7 of the suite, because only the suite knows its cases. Called by run.sh:
    deal.py URL DIR SHARDS PATTERN,PATTERN,...
"""
import json
import os
import sys

from autobahntestsuite.case import CaseBasename, CaseCategories, CaseSetname, CaseSubCategories, Cases
from autobahntestsuite.caseset import CaseSet

url, directory, shards, patterns = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].split(",")
suite = CaseSet(CaseSetname, CaseBasename, Cases, CaseCategories, CaseSubCategories)
cases = suite.parseSpecCases({"cases": patterns, "exclude-cases": []})

# A process without cases would wait for ever: fewer cases, fewer processes.
shards = min(shards, len(cases))
for shard in range(shards):
    own = os.path.join(directory, str(shard))
    os.makedirs(own)
    spec = {
        "outdir": own,
        "servers": [{"agent": "gateway", "url": url}],
        # Every n-th case, so that the slow neighbours of group 9 land on different processes.
        "cases": cases[shard::shards],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    with open(os.path.join(own, "spec.json"), "w") as out:
        json.dump(spec, out, indent=1)
