#!/usr/bin/env bash
#
# check.sh - rules about the repository itself, as TAP: schedules and expected files complete, exported symbols ours,
# version checks in one file, rooms in order, nothing left unfinished.  Needs a built gpuagent.so.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$GA_ROOT"

count=0
failed=0

# One test: it passes when the text is empty, else the text says what is wrong: verdict NAME TEXT.
verdict() {
	count=$((count + 1))
	if [ -z "$2" ]; then
		echo "ok $count - $1"
	else
		failed=$((failed + 1))
		echo "not ok $count - $1"
		printf '%s\n' "$2" | sed 's/^/# /'
	fi
}

# Names of the files of a pattern, without folder and ending: names FOLDER ENDING.
names() { find "$1" -maxdepth 1 -name "*$2" 2>/dev/null | sed "s,.*/,,; s,$2\$,," | sort; }

scheduled() { sed -n 's/^test: *//p' "$1" 2>/dev/null | tr -s ' ' '\n' | sed '/^$/d' | sort; }

# The text files below some folders or of some names, without what a build leaves.
ours() {
	local path
	for path in "$@"; do
		if [ -e "$path" ]; then
			find "$path" -type f ! -name '*.o' ! -name '*.d' ! -name '*.bc' ! -name '*.pyc' ! -name 'gpuagent--*.sql'
		fi
	done
}

check_schedule() {
	local folder=$1 ending=$2 schedule=$3
	verdict "each of $folder is in $schedule once" "$(
		diff <(names "$folder" "$ending") <(scheduled "$schedule") | sed -n 's/^</not scheduled:/p; s/^>/scheduled, but absent or twice:/p')"
	verdict "each of $folder has an expected file" "$(
		comm -23 <(names "$folder" "$ending") <(names expected .out) | sed 's/^/no expected file: /')"
}

check_tests() {
	check_schedule test/sql .sql test/schedule
	check_schedule test/specs .spec test/isolation_schedule
	verdict "each expected file has its test" "$(
		comm -13 <({ names test/sql .sql; names test/specs .spec; } | sort) \
			<(names expected .out | sed -E 's/_[0-9]$//' | sort -u))"
	verdict "no test has the name of another or of a script in sql/" "$(
		{ names test/sql .sql; names test/specs .spec; names sql .sql; } | sort | uniq -d)"
}

check_symbols() {
	local library=gpuagent.so
	if [ ! -f "$library" ]; then
		verdict "exported symbols are ours" "$library is not built"
		return
	fi
	verdict "exported symbols are ours" "$(nm -D --defined-only "$library" | awk '{print $3}' |
		grep -Ev '^(ga_|pg_finfo_|embedding_|agent_state_|swarm_tensor_|gpuknn)|^(Pg_magic_func|_PG_init|_init|_fini)$' || true)"
}

check_source() {
	verdict "PG_VERSION_NUM is used in src/base/compat.h only" "$(
		ours src cuda | grep -v '^src/base/compat.h$' | xargs -r grep -n PG_VERSION_NUM /dev/null || true)"
	verdict "every C file is built" "$(ours src | grep '\.c$' | while read -r f; do
		[ -f "${f%.c}.o" ] || echo "$f is not built"
	done)"
	verdict "no source file has 800 lines or more" "$(
		ours src cuda python sql/part sql/setup | grep -E '\.(c|h|cu|py|sql)$' | xargs -r wc -l | awk '$2 != "total" && $1 >= 800')"
	verdict "nothing is left unfinished" "$(
		ours src sql cuda python demo test doc README.md Makefile | grep -Ev '^test/harness/(check|run).sh$|^test/data/|\.out$' |
			xargs -r grep -nIwE 'TODO|FIXME|XXX|HACK|TBD|WIP|[Pp]laceholder|[Uu]nimplemented|[Nn]ot (yet )?implemented|[Ff]or now' || true)"
	verdict "scripts parse" "$(ours sql test demo .ci | grep -E '\.sh$|/run$' | while read -r f; do bash -n "$f" 2>&1 || true; done)"
}

# A file of a room uses only rooms that come before its own.
check_rooms() {
	local rooms=(base math tensor type device store cache live index checkpoint sync worker) i
	verdict "rooms use only those before them" "$(
		for i in "${!rooms[@]}"; do
			later=$(IFS='|'; echo "${rooms[*]:i+1}")
			[ -n "$later" ] || continue
			ours "src/${rooms[i]}" | xargs -r grep -nE "#include \"($later)/" /dev/null || true
		done)"
}

# Each row of test/DEFECTS.md names a file and, in quotes, text of it.
check_defects() {
	verdict "each defect of test/DEFECTS.md has its test" "$(python3 - <<-'EOF' 2>&1
		import pathlib, re
		rows = [line for line in open("test/DEFECTS.md", encoding="utf-8") if line.startswith("|") and not line.startswith(("|---", "| defect |"))]
		for row in rows:
		    test = re.search(r'\| `([^`]+)` "([^|]+)" \|$', row.rstrip())
		    if not test:
		        print(f"no test: {row.rstrip()}")
		    elif not pathlib.Path(test[1]).is_file() or test[2] not in pathlib.Path(test[1]).read_text(encoding="utf-8"):
		        print(f"{test[1]} has no {test[2]!r}")
		if len(rows) < 50:
		    print(f"{len(rows)} rows")
	EOF
	)"
}

check_metadata() {
	verdict "META.json is JSON and has the version of gpuagent.control" "$(python3 - <<-'EOF' 2>&1
		import json, re
		control = re.search(r"default_version *= *'(.*)'", open("gpuagent.control").read()).group(1)
		meta = json.load(open("META.json"))
		for version in (meta["version"], meta["provides"]["gpuagent"]["version"]):
		    if version != control:
		        print(f"META.json has {version}, gpuagent.control {control}")
		EOF
	)"
}

check_tests
check_symbols
check_source
check_rooms
check_defects
check_metadata
echo "1..$count"
[ "$failed" = 0 ]
