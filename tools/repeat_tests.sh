#!/usr/bin/env bash
# Runs the tests that start processes, terminals or browsers COUNT times beside two busy loops, and
# once more with SIGINT ignored, as a shell's background jobs inherit it. Exit code: failed runs.
#
# tools/repeat_tests.sh COUNT [PYTEST OPTIONS]
if [ -z "${1:-}" ]; then
  sed -n "2,6s/^# \{0,1\}//p" "$0" >&2
  exit 2
fi
count=$1
shift
cd "$(dirname "$0")/.." || exit 2
loops=()
for _ in 1 2; do
  (while :; do :; done) &
  loops+=($!)
done
trap 'kill "${loops[@]}"' EXIT

failed=0
run() {
  "${PYTHON:-python}" -m pytest -m process "$@" || failed=$((failed + 1))
}
for number in $(seq "$count"); do
  echo "== run $number of $count"
  run "$@"
done
echo "== once more, SIGINT ignored"
trap '' INT
run "$@"
echo "$failed of $((count + 1)) runs failed"
exit "$failed"
