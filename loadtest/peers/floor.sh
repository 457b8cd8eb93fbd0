#!/bin/sh
# The bare loop of system calls that the harness brings along. Usage: floor.sh PORT SCENARIO
exec "${LOADTEST:?set by loadtest compare}" floor --mode "$2" --listen "127.0.0.1:$1"
