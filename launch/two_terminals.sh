#!/bin/sh
# One training of two workers, each in a terminal of its own, on one machine or on two that share the folder of the run:
#   launch/two_terminals.sh 0 CONFIG [ARGUMENTS OF tfssl.fit...]
#   launch/two_terminals.sh 1 CONFIG [THE SAME ARGUMENTS...]
# HOSTS: the addresses of all workers, the same in both terminals; the first is the chief, who writes the run's folder.
# Status 138 says that the other worker is gone: give both commands again, they go on from the last checkpoint.
set -eu
cd "$(dirname "$0")/.."
HOSTS=${HOSTS:-127.0.0.1:12345 127.0.0.1:23456}
PYTHON=${PYTHON:-.venv/bin/python}
[ $# -ge 2 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
index=$1
shift

list=""
for host in $HOSTS; do list="$list${list:+, }\"$host\""; done
TF_CONFIG="{\"cluster\": {\"worker\": [$list]}, \"task\": {\"type\": \"worker\", \"index\": $index}}"
export TF_CONFIG
exec "$PYTHON" -m tfssl.fit "$@" --set training.strategy=multi_worker
