#!/usr/bin/env bash
#
# fuzz.sh - libFuzzer on the parsers of hostile bytes, ten minutes in all (GA_FUZZ_SECONDS), under the address and
# undefined sanitizers: TAP.  What it finds is in build/fuzz/NAME-crash-*.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
log=$root/build/fuzz.log
status=0
targets=$(sed -n 's/^TARGETS = //p' "$root/test/fuzz/Makefile" | wc -w)

mkdir -p "$root/build"
env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -C "$root/test/fuzz" "PG_CONFIG=${GA_PG_CONFIG:-pg_config}" \
	"SECONDS=$((${GA_FUZZ_SECONDS:-600} / targets))" fuzz >"$log" 2>&1 || status=$?
count=0
while read -r name; do
	count=$((count + 1))
	echo "ok $count - $name finds nothing"
done < <(sed -n 's/^ok - //p' "$log")
if [ "$status" != 0 ] || [ "$count" != "$targets" ]; then
	echo "not ok $((count + 1)) - libFuzzer runs all $targets targets"
	tail -n 40 "$log" | sed 's/^/# /'
	exit 1
fi
grep -h 'stat::number_of_executed_units' "$log" | sed 's/^/# /'
echo "1..$count"
