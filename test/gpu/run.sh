#!/usr/bin/env bash
#
# run.sh - everything that needs an NVIDIA GPU: kernels, the real device process, the suites with gpuagent.device = cuda.
#
#	test/gpu/run.sh [PART...]		default: build kernels nearest sanitizer device regress tap python bench
#
# Needs nvcc, a GPU and what test/harness/packages.sh asks for; nothing is fetched.  On a bare machine as root, unpack the
# Debian packages of PostgreSQL first.  Python: build/venv where it is; else the python3 in PATH, with the wheels of the
# folder $GA_WHEELS (default .whl) beside it; the parts that lack a module are said to be left out.  Ends with one table
# and "N passed, M failed"; the logs, and the numbers of the benchmarks, are in build/gpu.

set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
OUT=$ROOT/build/gpu
WHEELS=${GA_WHEELS:-$ROOT/.whl}
PARTS=(build kernels nearest sanitizer device regress tap python bench)
GIB=${GA_GPU_BENCH_GIB:-10}
table=()
passed=0
failed=0

say() { printf '== %s (%d s)\n' "$*" "$SECONDS"; }

# Enter a line of the table: add PART PASSED FAILED NOTE.
add() {
	passed=$((passed + $2))
	failed=$((failed + $3))
	table+=("$(printf '%-18s %5d passed %5d failed  %s' "$1" "$2" "$3" "$4")")
}

# Run a command whose output is TAP: run_tap PART COMMAND...
run_tap() {
	local part=$1 log=$OUT/$1.log status=0 good bad start=$SECONDS
	shift
	timeout 240 "$@" >"$log" 2>&1 || status=$?
	good=$(grep -c '^ok\b' "$log")
	bad=$(grep -c '^not ok\b' "$log")
	if [ "$status" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
	grep '^# ' "$log" | head -n 80
	if [ "$bad" != 0 ]; then grep -v '^ok\b' "$log" | tail -n 40; fi
	add "$part" "$good" "$bad" "$((SECONDS - start)) s, status $status"
}

# Run suites of the harness: run_suites PART SUITE...
run_suites() {
	local part=$1 log=$OUT/$1.log status=0 start=$SECONDS line
	shift
	GA_DEVICE_PROGRAM=$BIN/gpuagent_device timeout 420 bash "$ROOT/test/harness/run.sh" "$@" >"$log" 2>&1 || status=$?
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1)
	if [ -z "$line" ]; then
		tail -n 30 "$log"
		add "$part" 0 1 "$((SECONDS - start)) s, status $status, broke off"
		return
	fi
	# shellcheck disable=SC2086
	set -- $line
	if [ "$3" != 0 ]; then grep -v '\.\.\. ok' "$log" | tail -n 80; fi
	add "$part" "$1" "$3" "$((SECONDS - start)) s"
}

# build/venv stands for any Python that has the modules: here, the machine's own with the wheels.
set_up_python() {
	local venv=$ROOT/build/venv site=$OUT/site
	if [ -x "$venv/bin/python" ] && [ ! -f "$venv/borrowed" ]; then return; fi
	mkdir -p "$venv/bin" "$site"
	if compgen -G "$WHEELS/*.whl" >/dev/null; then
		python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$WHEELS"/*.whl ||
			return 1
	fi
	chmod -R a+rX "$site"
	printf '#!/bin/sh\nPYTHONPATH=%s${PYTHONPATH:+:$PYTHONPATH} exec %s "$@"\n' "$site" "$(command -v python3)" >"$venv/bin/python"
	chmod 755 "$venv/bin/python"
	cp "$ROOT/test/python/requirements.txt" "$venv/installed"
	touch "$venv/borrowed"
}

has_modules() { "$ROOT/build/venv/bin/python" -c "import $1" 2>/dev/null; }

# Debian's libzstd-dev names a release of the library that an Ubuntu machine does not have.
set_up_zstd() {
	local real
	if [ -e /usr/lib/x86_64-linux-gnu/libzstd.so ]; then return; fi
	real=$(ldconfig -p | sed -n 's/.*libzstd\.so\.1 .*=> //p' | head -n 1)
	if [ -n "$real" ]; then
		mkdir -p "$OUT/lib"
		ln -sf "$real" "$OUT/lib/libzstd.so"
		export LIBRARY_PATH=$OUT/lib${LIBRARY_PATH:+:$LIBRARY_PATH}
	fi
}

part_build() {
	local start=$SECONDS config status=0
	config=$(for c in /usr/lib/postgresql/1[5-8]/bin/pg_config; do [ -x "$c" ] && echo "$c"; done | tail -n 1)
	make -s -C "$ROOT" -j"$(nproc)" WERROR=1 "PG_CONFIG=${PG_CONFIG:-$config}" all >"$OUT/build.log" 2>&1 &&
		make -s -C "$ROOT/test/gpu" >>"$OUT/build.log" 2>&1 || status=$?
	if [ "$status" = 0 ] && [ -x "$ROOT/build/device/gpuagent_device" ]; then
		cp "$ROOT/build/device/gpuagent_device" "$BIN/"
		add build 1 0 "$((SECONDS - start)) s"
	else
		tail -n 30 "$OUT/build.log"
		add build 0 1 "status $status"
	fi
}

part_kernels() { run_tap kernels "$ROOT/build/device/kernels" --bench "$GIB"; }

part_nearest() { run_tap nearest "$ROOT/build/device/nearest" --bench "${GA_GPU_BENCH_ROWS:-1000000}"; }

part_sanitizer() {
	local tool program
	if ! command -v compute-sanitizer >/dev/null; then
		add sanitizer 0 1 "compute-sanitizer is not in PATH"
		return
	fi
	for program in kernels nearest; do
		for tool in memcheck racecheck; do
			run_tap "$tool-$program" compute-sanitizer --tool "$tool" --error-exitcode 9 "$ROOT/build/device/$program" --small
		done
	done
}

part_device() {
	run_suites device device
	cp "$ROOT"/build/test-logs/device-*.log "$OUT/" 2>/dev/null
	grep -h '^# .*p50' "$OUT"/device-test_wakeups.c.log 2>/dev/null
}

part_regress() { run_suites regress regress-cuda isolation-cuda; }

part_tap() { GA_TAP='(07|08|09|10)[0-9].*' run_suites tap tap; }

part_python() {
	if has_modules "numpy, safetensors, psycopg, networkx"; then
		run_suites python python
		if has_modules "cupy, torch"; then run_suites python-cuda python-cuda; else add python-cuda 0 0 "left out: no cupy or torch"; fi
	else
		add python 0 0 "left out: no $(for m in numpy safetensors psycopg networkx; do has_modules $m || printf '%s ' "$m"; done)"
	fi
}

# The server's benchmarks with the GPU, as gpuagent.device = auto finds it.
part_bench() {
	local start=$SECONDS status=0
	if ! has_modules "psycopg, numpy, zstandard"; then
		add bench 0 0 "left out: no psycopg, numpy or zstandard"
		return
	fi
	# shellcheck disable=SC2086
	timeout 300 bash "$ROOT/test/bench/run.sh" --quick ${GA_GPU_BENCH_PARTS:-map} >"$OUT/bench.log" 2>&1 || status=$?
	tail -n 60 "$OUT/bench.log"
	cp "$ROOT"/build/bench/* "$OUT/" 2>/dev/null
	add bench "$((status == 0))" "$((status != 0))" "$((SECONDS - start)) s"
}

main() {
	local part
	if [ $# = 0 ]; then set -- "${PARTS[@]}"; fi
	if [ "$1" != build ]; then set -- build "$@"; fi
	mkdir -p "$OUT"
	BIN=$(mktemp -d "${TMPDIR:-/tmp}/gpuagent-gpu.XXXXXX")
	chmod 755 "$BIN"
	trap 'rm -rf "$BIN"' EXIT
	if [ -d /usr/local/cuda/bin ]; then PATH=$PATH:/usr/local/cuda/bin; fi
	nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used --format=csv,noheader 2>/dev/null
	set_up_zstd
	set_up_python || warn="the wheels in $WHEELS could not be installed"
	for part in "$@"; do
		say "$part"
		"part_$part"
		if [ "$part" = build ] && [ "$failed" != 0 ]; then break; fi
	done
	say "results"
	if [ -n "${warn:-}" ]; then printf '%s\n' "$warn"; fi
	printf '   %s\n' "${table[@]}" | tee "$OUT/table"
	printf '%d passed, %d failed\n' "$passed" "$failed"
	[ "$failed" = 0 ]
}

main "$@"
