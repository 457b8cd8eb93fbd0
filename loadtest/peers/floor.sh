#!/bin/sh
# The bare loop of system calls that the harness brings along. Usage: floor.sh PORT SCENARIO, or floor.sh about
if [ "$1" = about ]; then
  "${LOADTEST:?set by loadtest compare}" --version | sed 's/^loadtest/bare epoll loop of loadtest/'
  echo echo fanout handshake
  exit
fi
exec "${LOADTEST:?set by loadtest compare}" floor --mode "$2" --listen "127.0.0.1:$1"
