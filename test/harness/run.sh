#!/usr/bin/env bash
#
# run.sh - set up, build, install into a private copy of PostgreSQL, and run test suites.
#
#	test/harness/run.sh [--long] [SUITE...]		default: every suite
#
# Suites: check unit device regress isolation regress-cuda isolation-cuda pgtap tap python doc, and long with --long.  The last line printed is
# "N passed, M failed", summed over the suites; the exit status is non-zero unless M is 0.  A suite that cannot run,
# or a test that skips itself, is a failure.  Logs of the last run are kept in build/test-logs.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SUITES=(check unit device regress isolation regress-cuda isolation-cuda pgtap tap python doc)
LOGS=$GA_ROOT/build/test-logs
total_passed=0
total_failed=0
summary=()
failures=()

# Enter a suite's counts: add_result SUITE PASSED FAILED [NOTE].
add_result() {
	total_passed=$((total_passed + $2))
	total_failed=$((total_failed + $3))
	summary+=("$(printf '%-10s %6d passed %6d failed  %s' "$1" "$2" "$3" "${4:-}")")
}

# Remember what of a log tells a failure, for the end of the report, which is all that some see of it: add_failures NAME LOG
add_failures() {
	local lines
	lines=$(grep -E '^not ok\b|^ok\b.*# *(skip|SKIP|todo|TODO)\b|\.\.\. FAILED|^(FAIL|ERROR): |^# +(got|expected):' "$2" | head -n 6 || true)
	if [ -z "$lines" ]; then
		lines=$(grep -Ev '^ok\b|^ *$|^(Files=|Result:|Test Summary|---|Failed|Dubious|  )' "$2" | tail -n 8 || true)
	fi
	failures+=("$(printf '%s\n' "$lines" | cut -c 1-200 | sed "s|^|$1: |")")
}

# Set count_passed and count_failed from lines of TAP; a skipped or unfinished test counts as failed, and so does a
# program that ended badly without saying why: count_tap LOG STATUS.
count_tap() {
	local bad
	bad=$(grep -Eci '^ok\b.*# *(skip|todo)\b|^1\.\.0\b' "$1" || true)
	count_passed=$(($(grep -Ec '^ok\b' "$1" || true) - $(grep -Eci '^ok\b.*# *(skip|todo)\b' "$1" || true)))
	count_failed=$(($(grep -Ec '^not ok\b' "$1" || true) + bad))
	if [ "$2" != 0 ] && [ "$count_failed" = 0 ]; then count_failed=1; fi
	if [ $((count_passed + count_failed)) = 0 ]; then count_failed=1; fi
}

# Run a command on a file, which has its log; say how it went: run_tap_file SUITE FILE COMMAND...
run_tap_file() {
	local file=$2 log status=0 began=$SECONDS
	log=$LOGS/$1-$(basename "$file").log
	shift 2
	"$@" "$file" >"$log" 2>&1 || status=$?
	echo "$status" >"$log.status"
	count_tap "$log" "$status"
	printf '   %-32s %4d passed %4d failed %4d s\n' "$(basename "$file")" "$count_passed" "$count_failed" $((SECONDS - began))
	if [ "$count_failed" != 0 ]; then grep -Ev '^ok\b' "$log" | tail -n 60 || true; fi
}

# Run a command once per file, so many at once as tap_jobs says, counting its TAP: run_tap_files SUITE FILE... -- COMMAND...
run_tap_files() {
	local suite=$1 files=() file passed=0 failed=0 log
	shift
	while [ "$1" != -- ]; do
		files+=("$1")
		shift
	done
	shift
	for file in "${files[@]}"; do
		while [ "$(jobs -rp | wc -l)" -ge "${tap_jobs:-1}" ]; do wait -n || true; done
		run_tap_file "$suite" "$file" "$@" &
	done
	wait
	for file in "${files[@]}"; do
		log=$LOGS/$suite-$(basename "$file").log
		count_tap "$log" "$(cat "$log.status" || echo 1)"
		passed=$((passed + count_passed))
		failed=$((failed + count_failed))
		if [ "$count_failed" != 0 ]; then add_failures "$suite $(basename "$file")" "$log"; fi
	done
	add_result "$suite" "$passed" "$failed"
}

# Set "files" to the files of a pattern; with none there, enter an empty result and return false.
find_files() {
	local suite=$1
	shift
	files=()
	while IFS= read -r -d '' f; do files+=("$f"); done < <(find "$@" -print0 2>/dev/null | sort -z)
	if [ ${#files[@]} = 0 ]; then
		add_result "$suite" 0 0 "(the repository has no such tests)"
		return 1
	fi
}

suite_check() { run_tap_files check "$GA_ROOT/test/harness/check.sh" -- env "GA_PG_CONFIG=$GA_PG_CONFIG" bash; }

suite_unit() {
	local tap_jobs=2
	find_files unit "$GA_ROOT/test/unit" -name '*.c' || return 0
	# shellcheck disable=SC2317
	unit_check() { env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -C "$1" "PG_CONFIG=$GA_PG_CONFIG" WERROR=1 check; }
	run_tap_files unit "$GA_ROOT/test/unit" "$GA_ROOT/test/fuzz" "$GA_ROOT/test/simt" -- unit_check
}

# The device process without PostgreSQL: an emulated device, or the program that GA_DEVICE_PROGRAM names.
suite_device() {
	find_files device "$GA_ROOT/test/device" -name 'test_*.c' || return 0
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -j2 -C "$GA_ROOT/test/device" tests
	# shellcheck disable=SC2317
	device_run() { "$GA_ROOT/build/device/$(basename "$1" .c)"; }
	run_tap_files device "${files[@]}" -- device_run
}

# Count the verdicts of pg_regress, in the words of 15 or as the TAP of 16 and later.
count_regress() {
	count_passed=$(grep -Ec '^(test +|     )?[A-Za-z0-9_-]+ +\.\.\. ok\b|^ok [0-9]+' "$1" || true)
	count_failed=$(grep -Ec '\.\.\. FAILED\b|^not ok [0-9]+' "$1" || true)
	if [ "$2" != 0 ] && [ "$count_failed" = 0 ]; then count_failed=1; fi
	if [ $((count_passed + count_failed)) = 0 ]; then count_failed=1; fi
}

# Run pg_regress or its isolation sister on a cluster of its own: run_regress SUITE PROGRAM SCHEDULE [CONFIGURATION LINE...].
run_regress() {
	local suite=$1 program=$2 schedule=$3 stage=$GA_WORK/stage/test out=$GA_WORK/out/$1 log=$LOGS/$1.log status=0 expected=()
	shift 3
	if [ ! -d "$stage/expected" ]; then cp -R "$GA_WORK/stage/expected" "$stage/expected"; fi
	ga_as mkdir -p "$out"
	ga_cluster_start "$suite" "include = '$stage/conf/gpuagent.conf'" "$@"
	if [ "$("$GA_PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')" -ge 16 ]; then
		expected=("--expecteddir=$stage")
	fi
	(
		cd "$out"
		ga_as "$program" "--inputdir=$stage" "--outputdir=$out" "${expected[@]}" "--bindir=$GA_BIN" \
			"--host=$GA_WORK/$suite" --user=postgres "--dbname=gpuagent_${suite//-/_}" --load-extension=gpuagent \
			--max-concurrent-tests=4 "--schedule=$stage/$schedule"
	) >"$log" 2>&1 || status=$?
	ga_cluster_stop "$suite"
	count_regress "$log" "$status"
	add_result "$suite" "$count_passed" "$count_failed"
	sed -n '/^test \|\.\.\. \|^ok\|^not ok\|^# \|^=/!d; s/^/   /p' "$log" | grep -E 'ok|FAILED' || true
	if [ "$status" != 0 ]; then
		tail -n 20 "$log"
		add_failures "$suite" "$log"
		if [ -f "$out/regression.diffs" ]; then head -n 200 "$out/regression.diffs"; fi
	fi
	cp -R "$out" "$LOGS/" 2>/dev/null || true
}

suite_regress() {
	find_files regress "$GA_ROOT/test/sql" -name '*.sql' || return 0
	run_regress regress "$GA_PGXS/test/regress/pg_regress" schedule
}

suite_isolation() {
	find_files isolation "$GA_ROOT/test/specs" -name '*.spec' || return 0
	run_regress isolation "$GA_PGXS/test/isolation/pg_isolation_regress" isolation_schedule
}

# The same with a device process, the emulated one or that of GA_DEVICE_PROGRAM: the same expected files.
device_lines() {
	device_conf=("gpuagent.device = 'cuda'" "gpuagent.device_program = '${GA_DEVICE_PROGRAM:-$GA_WORK/stage/gpuagent_device_emulated}'")
}

suite_regress-cuda() {
	local device_conf
	device_lines
	run_regress regress-cuda "$GA_PGXS/test/regress/pg_regress" schedule "${device_conf[@]}"
}

suite_isolation-cuda() {
	local device_conf
	device_lines
	run_regress isolation-cuda "$GA_PGXS/test/isolation/pg_isolation_regress" isolation_schedule "${device_conf[@]}"
}

suite_pgtap() {
	find_files pgtap "$GA_WORK/stage/test/pgtap" -name '*.sql' || return 0
	ga_cluster_start pgtap "include = '$GA_WORK/stage/test/conf/gpuagent.conf'"
	ga_psql pgtap -d postgres -c 'CREATE DATABASE gpuagent_pgtap'
	ga_psql pgtap -d gpuagent_pgtap -c 'CREATE EXTENSION pgtap' -c 'CREATE EXTENSION gpuagent' \
		-c 'ALTER DATABASE gpuagent_pgtap SET search_path = public, gpuagent' >/dev/null
	ga_psql pgtap -d gpuagent_pgtap -c 'SELECT gpuagent.setup()' >/dev/null
	run_tap_files pgtap "${files[@]}" -- \
		ga_as pg_prove --verbose -h "$GA_WORK/pgtap" -U postgres -d gpuagent_pgtap
	ga_cluster_stop pgtap
}

suite_tap() {
	# GA_TAP, a regular expression, picks some. They wait for servers most of the time; a GPU they do not share.
	local tap_jobs=2
	if [ -n "${GA_DEVICE_PROGRAM:-}" ]; then tap_jobs=1; fi
	find_files tap "$GA_WORK/stage/test/t" -regextype posix-extended -regex ".*/${GA_TAP:-.*}\.pl" || return 0
	local out=$GA_WORK/out/tap
	ga_as mkdir -p "$out"
	# shellcheck disable=SC2317
	tap_prove() {
		cd "$out" && ga_as env "TESTDIR=$out" "TESTDATADIR=$out/data" "TESTLOGDIR=$out/log" \
			"PG_REGRESS=$GA_PGXS/test/regress/pg_regress" PGPORT=65432 "GA_TEST_DATA=$GA_WORK/stage/test/data" \
			"GA_DEVICE_PROGRAM=${GA_DEVICE_PROGRAM:-$GA_WORK/stage/gpuagent_device_emulated}" \
			"GA_DEVICE_EMULATED=$GA_WORK/stage/gpuagent_device_emulated" "GA_FAULT_SHIM=$GA_WORK/stage/fault.so" \
			prove --verbose --merge -I "$GA_WORK/stage/test/perl" -I "$GA_PGXS/test/perl" "$1" && return
		tail -n 15 "$out"/{tmp_check/log,log}/"regress_log_$(basename "$1" .pl)" 2>/dev/null |
			grep -v '^\(ok\|not ok\)' || true
		return 1
	}
	run_tap_files tap "${files[@]}" -- tap_prove
	cp -R "$out/tmp_check/log" "$LOGS/tap-servers" 2>/dev/null || cp -R "$out/log" "$LOGS/tap-servers" 2>/dev/null || true
}

# Make a cluster with a database that has the extension: python_cluster NAME [CONFIGURATION LINE...]
python_cluster() {
	local name=$1
	shift
	ga_cluster_start "$name" "include = '$GA_WORK/stage/test/conf/gpuagent.conf'" "$@"
	ga_psql "$name" -d postgres -c 'CREATE DATABASE gpuagent_python' >/dev/null
	ga_psql "$name" -d gpuagent_python -c 'CREATE EXTENSION gpuagent' -c 'SELECT gpuagent.setup()' >/dev/null
}

# Run the unittests of a folder of test/ on a cluster and enter the result: run_unittest SUITE FOLDER CLUSTER [NAME=VALUE...]
run_unittest() {
	local suite=$1 folder=$2 cluster=$3 log=$LOGS/$1.log status=0 ran bad names
	shift 3
	# GA_PYTHON, names as unittest takes them, picks some.
	read -ra names <<<"${GA_PYTHON:-}"
	(
		cd "$GA_WORK/stage/test/$folder"
		env -u PYTHONHOME "PYTHONPATH=$GA_WORK/stage/python:$GA_WORK/stage/demo" PYTHONDONTWRITEBYTECODE=1 \
			"PGHOST=$GA_WORK/$cluster" PGUSER=postgres PGDATABASE=gpuagent_python PGPORT=5432 \
			"GA_TEST_DATA=$GA_WORK/stage/test/data" "GA_TEST_LONG=${GA_TEST_LONG:-}" "$@" \
			"$GA_VENV/bin/python" -m unittest -v "${names[@]}"
	) >"$log" 2>&1 || status=$?
	ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in.*/\1/p' "$log" | tail -n 1)
	# "OK", or "FAILED (failures=1, errors=2, skipped=3)": each of these counts as failed.
	bad=$(tail -n 1 "$log" | tr -c '0-9\n' ' ' | awk '{for (i = 1; i <= NF; i++) n += $i} END {print n + 0}')
	count_failed=$bad
	if { [ "$status" != 0 ] || [ "${ran:-0}" = 0 ]; } && [ "$count_failed" = 0 ]; then count_failed=1; fi
	count_passed=$((${ran:-0} > count_failed ? ${ran:-0} - count_failed : 0))
	add_result "$suite" "$count_passed" "$count_failed"
	if [ "$count_failed" != 0 ]; then
		tail -n 80 "$log"
		add_failures "$suite" "$log"
	fi
}

# Two servers: one of the host, one whose memory comes from a device process, always the emulated one.
suite_python() {
	find_files python "$GA_ROOT/test/python" -name 'test*.py' || return 0
	python_cluster python "gpuagent.device = 'host'"
	python_cluster python_device "gpuagent.device = 'cuda'" \
		"gpuagent.device_program = '$GA_WORK/stage/gpuagent_device_emulated'"
	run_unittest python python python "GA_DEVICE_PGHOST=$GA_WORK/python_device"
	ga_cluster_stop python
	ga_cluster_stop python_device
}

# For test/gpu/run.sh: mapped memory of a real GPU, with CuPy and PyTorch.
suite_python-cuda() {
	find_files python-cuda "$GA_ROOT/test/gpu" -name 'test*.py' || return 0
	python_cluster python_cuda "gpuagent.device = 'cuda'" "gpuagent.device_program = '${GA_DEVICE_PROGRAM:?}'"
	run_unittest python-cuda gpu python_cuda
	ga_cluster_stop python_cuda
}

# The SQL of README.md and of each page below doc/examples runs as it stands, page by page in a fresh database.
suite_doc() {
	local pages database
	# shellcheck disable=SC2317
	run_page() {
		database=doc_$(basename "$1" .md)
		ga_psql doc -d postgres -c "CREATE DATABASE \"$database\""
		if awk '/^```sql$/ {sql = 1; next} /^```/ {sql = 0} sql' "$1" | ga_psql doc -d "$database" -f - >/dev/null; then
			echo "ok 1 - $(basename "$1") runs"
		else
			echo "not ok 1 - $(basename "$1") runs"
		fi
	}
	mapfile -t pages < <(grep -l '^```sql$' "$GA_ROOT"/README.md "$GA_ROOT"/doc/examples/*.md 2>/dev/null)
	if [ ${#pages[@]} = 0 ]; then
		add_result doc 0 0 "(no page has SQL)"
		return 0
	fi
	ga_cluster_start doc "include = '$GA_WORK/stage/test/conf/gpuagent.conf'"
	run_tap_files doc "${pages[@]}" -- run_page
	ga_cluster_stop doc
}

suite_long() {
	# GA_LONG, a regular expression, picks some.
	find_files long "$GA_ROOT/test/long" -regextype posix-extended -regex ".*/${GA_LONG:-.*}\.sh" || return 0
	export GA_BIN GA_PG_CONFIG GA_WORK GA_OS_USER
	run_tap_files long "${files[@]}" -- bash
}

# On exit: whatever broke off counts as a failure, and the summary comes in any case.
finish() {
	local status=$?
	if [ -z "${finished:-}" ]; then
		add_result "${suite:-set-up}" 0 1 "(broke off)"
		report
	fi
	ga_end "$status"
}

report() {
	finished=1
	say "results (logs in build/test-logs, $SECONDS s in all)"
	printf '   %s\n' "${summary[@]}"
	if [ ${#failures[@]} != 0 ]; then
		say "failures"
		printf '%s\n' "${failures[@]}" | sed 's/^/   /'
	fi
	printf '%d passed, %d failed\n' "$total_passed" "$total_failed" | tee "$LOGS/summary"
}

main() {
	local suites=() before config
	while [ $# -gt 0 ]; do
		case $1 in
			--long) export GA_TEST_LONG=1 ;;
			*) declare -F "suite_$1" >/dev/null || die "there is no suite \"$1\""; suites+=("$1") ;;
		esac
		shift
	done
	if [ ${#suites[@]} = 0 ]; then
		suites=("${SUITES[@]}")
		if [ -n "${GA_TEST_LONG:-}" ]; then suites+=(long); fi
	fi

	rm -rf "$LOGS"
	mkdir -p "$LOGS"
	trap finish EXIT
	"$GA_ROOT/test/harness/packages.sh"
	config=$(ga_find_pg_config)
	ga_begin
	trap finish EXIT
	say "$("$config" --version) from $config"
	ga_private_postgres "$config"
	GA_PGXS=$(dirname "$("$GA_PG_CONFIG" --pgxs)")
	GA_PGXS=$(cd "$GA_PGXS/.." && pwd)
	ga_build_and_install "$config"
	ga_stage

	for suite in "${suites[@]}"; do
		say "$suite"
		before=$SECONDS
		"suite_$suite"
		summary[-1]+=" $((SECONDS - before)) s"
	done

	report
	[ "$total_failed" = 0 ] && [ "$total_passed" -gt 0 ]
}

main "$@"
