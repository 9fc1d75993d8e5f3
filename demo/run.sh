#!/usr/bin/env bash
#
# run.sh - the main job on a private throw-away cluster: store a real model, a graph, an evolving swarm and its agents;
# checkpoint and export them; drop everything; import and restore; compare every value bit for bit.
#
# KEEP=1 keeps the cluster running and prints how to connect.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../test/harness/lib.sh"

DATABASE=gpuagent_demo

step() {
	local bold='' plain=''
	if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
	printf '\n%s[%3d s] %s%s\n' "$bold" "$SECONDS" "$*" "$plain"
}

sql_file() {
	(cd "$GA_WORK/stage/test" && ga_psql demo -d "$DATABASE" -f "$GA_WORK/stage/demo/$1") 2>&1 | sed 's/^psql:[^ ]* NOTICE: */  /'
}

new_database() {
	ga_psql demo -d postgres -c "CREATE DATABASE $DATABASE" -c "ALTER DATABASE $DATABASE SET search_path = public, gpuagent"
	ga_psql demo -d "$DATABASE" -c 'CREATE EXTENSION gpuagent'
	ga_psql demo -d "$DATABASE" -c 'SELECT gpuagent.setup()' >/dev/null
}

main() {
	local config storage checkpoint lines
	step "Setting up"
	"$GA_ROOT/test/harness/packages.sh"
	config=$(ga_find_pg_config)
	ga_begin
	echo "$("$config" --version); building, installing into a private copy below $GA_WORK"
	ga_private_postgres "$config"
	ga_build_and_install "$config"
	ga_stage
	storage=$GA_WORK/storage
	ga_private_folder "$storage"
	ga_cluster_start demo "shared_preload_libraries = 'gpuagent'" "gpuagent.storage_path = '$storage'" "max_wal_size = '2GB'"
	new_database
	ga_psql demo -d "$DATABASE" -c 'SELECT gpuagent.version()' -At

	step "1. A real model: an extract of all-MiniLM-L6-v2 becomes the expert \"minilm\", one layer per tensor"
	ga_as mkdir "$storage/incoming"
	ga_as cp "$GA_WORK/stage/test/data/minilm-extract.safetensors" "$storage/incoming/"
	sql_file 1_weights.sql

	step "2. A graph: its 4,000 words as nodes, similar ones joined (16 million distances in SQL)"
	sql_file 2_graph.sql

	step "3. A swarm: 10,000 agents x 256 F32 evolve, the agents' table follows the best 100"
	sql_file 3_swarm.sql

	step "4. Checkpoint, export, verification"
	ga_psql demo -d "$DATABASE" -f "$GA_WORK/stage/demo/fingerprint.sql" >"$GA_WORK/before"
	sql_file 4_checkpoint.sql

	step "5. The exported files in two independent readers"
	checkpoint=$(cat "$storage/nvme_storage/latest")
	find "$storage/nvme_storage/$checkpoint" -type f -printf '  %P %s bytes\n' | sort
	PYTHONPATH=$GA_ROOT/demo PYTHONDONTWRITEBYTECODE=1 \
		"$GA_VENV/bin/python" "$GA_ROOT/demo/check_files.py" "$storage/nvme_storage/$checkpoint" "$GA_WORK/before"

	step "6. Everything is dropped; import and restore into an empty database"
	ga_psql demo -d postgres -c "DROP DATABASE $DATABASE"
	new_database
	sql_file 5_restore.sql

	step "7. Comparison"
	ga_psql demo -d "$DATABASE" -f "$GA_WORK/stage/demo/fingerprint.sql" >"$GA_WORK/after"
	lines=$(wc -l <"$GA_WORK/before")
	[ "$lines" -gt 4000 ] || die "the fingerprint has $lines lines only"
	if ! cmp -s "$GA_WORK/before" "$GA_WORK/after"; then
		diff "$GA_WORK/before" "$GA_WORK/after" | head -n 20 >&2 || true
		die "the restored database differs"
	fi
	cut -d' ' -f1 "$GA_WORK/before" | sort | uniq -c | awk '{printf "  %6d x %s\n", $1, $2}'
	step "Done: all $lines things are equal bit for bit after export, drop, import and restore"

	if [ -n "${KEEP:-}" ]; then
		GA_KEEP=1
		cat <<-EOF

			The cluster keeps running. Connect:
			    $(ga_as_command) $GA_BIN/psql -h $GA_WORK/demo -U postgres $DATABASE
			Stop and remove it:
			    $(ga_as_command) $GA_BIN/pg_ctl -D $GA_WORK/demo/data stop && rm -rf $GA_WORK
		EOF
	fi
}

main "$@"
