#!/usr/bin/env bash
#
# full_disk.sh - the tree on a file system of 3 MB that is really full: an export that does not fit fails with 53100 and
# leaves nothing, latest and what was exported stay, smaller exports go on, and with room the large one does. Run by
# "make test-long", as root, who may mount; t/115_faults.pl has a full disk at every single call.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/lib.sh"

tree=$GA_WORK/full_disk_tree
count=0
trap 'ga_cluster_stop full_disk immediate || true; umount "$tree" 2>/dev/null || true' EXIT

verdict() {
	count=$((count + 1))
	if [ "$2" = "$3" ]; then echo "ok $count - $1"; else echo "not ok $count - $1"; printf '# got %s instead of %s\n' "$3" "$2"; fi
}

sql() { ga_psql full_disk -d postgres -At "$@" 2>&1 || true; }
state() { sql -v VERBOSITY=sqlstate -c "SELECT state FROM gpuagent.export_checkpoint()" | sed 's/^ERROR: *//' | tail -n 1; }
latest() { cat "$tree/nvme_storage/latest"; }
hidden() { find "$tree" -name '.tmp-*' | wc -l; }

mkdir -p "$tree"
mount -t tmpfs -o "size=3m,mode=700,uid=$(id -u "$GA_OS_USER")" tmpfs "$tree"
ga_cluster_start full_disk "shared_preload_libraries = 'gpuagent'" "gpuagent.storage_path = '$tree'" "gpuagent.discard_grace = 0"
sql -c 'CREATE EXTENSION gpuagent' -c 'SELECT gpuagent.setup()' >/dev/null
sql -c "SELECT gpuagent.store_agent('a', '[1,2,3]'), gpuagent.create_checkpoint('small')" >/dev/null
verdict "a small checkpoint fits" "done" "$(state)"
first=$(latest)

sql -c "SELECT gpuagent.store_swarm('s', (SELECT gpuagent.stack((ARRAY(SELECT random()::real FROM generate_series(1, 1024) j))::gpuagent.agent_state)
	FROM generate_series(1, 1500) i)), gpuagent.create_checkpoint('large')" >/dev/null
verdict "one of 6 MB does not" 53100 "$(state)"
verdict "latest stays" "$first" "$(latest)"
verdict "nothing is left of it" 0 "$(hidden)"
verdict "what was exported is whole" ok "$(sql -c "SELECT status FROM gpuagent.verify_integrity('full') WHERE object = 'total'")"

sql -c "SELECT gpuagent.delete_swarm('s'), gpuagent.create_checkpoint('small again')" >/dev/null
dd if=/dev/zero of="$tree/filler" bs=64k 2>/dev/null || true
verdict "with no byte free nothing is exported" 53100 "$(state)"
verdict "latest stays again" "$first" "$(latest)"
verdict "and nothing is left" 0 "$(hidden)"
verdict "the journal has nothing open" 0 "$(sql -c 'SELECT count(*) FROM gpuagent_store.journal_intents()')"
rm "$tree/filler"
verdict "with room the same checkpoint is exported" "done" "$(state)"
verdict "and is the latest" 1 "$([ "$(latest)" != "$first" ] && echo 1)"

# Deletions make room on a full disk; the one that latest names goes last.
dd if=/dev/zero of="$tree/filler" bs=64k 2>/dev/null || true
sql -c "SELECT gpuagent.delete_checkpoint(gpuagent.resolve_checkpoint('small'))" >/dev/null
for _ in $(seq 100); do
	if [ ! -e "$tree/nvme_storage/$first" ]; then break; fi
	sleep 0.1
done
verdict "an export is removed from a full disk" absent "$([ -e "$tree/nvme_storage/$first" ] || echo absent)"
rm "$tree/filler"

mount -o remount,size=64m "$tree"
verdict "on a larger disk the large one is exported" "done" \
	"$(sql -c "SELECT state FROM gpuagent.export_checkpoint(gpuagent.resolve_checkpoint('large'))")"
verdict "all of it is whole" ok "$(sql -c "SELECT status FROM gpuagent.verify_integrity('full') WHERE object = 'total'")"
echo "1..$count"
