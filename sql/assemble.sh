#!/usr/bin/env bash
# Prints the install script: the sections of sql/part in order. Where a section holds the line
# "--@setup-steps", the files of sql/setup are embedded as rows (step, ddl), dollar-quoted. A section named
# NN_name.each.sql is printed once per tensor type, with @T@ standing for the type's name.
set -euo pipefail
cd "$(dirname "$0")"

setup_steps() {
	local sep="" file step
	for file in setup/*.sql; do
		step=$(basename "$file" .sql)
		# shellcheck disable=SC2016
		printf '%s(%d, $ga_step$%s$ga_step$)' "$sep" "$((10#${step%%_*}))" "$(cat "$file")"
		sep=$',\n'
	done
	printf '\n'
}

printf '%s\n' '\echo Use "CREATE EXTENSION gpuagent" to load this file. \quit'
for part in part/*.sql; do
	case $part in
	*.each.sql)
		for type in embedding agent_state swarm_tensor; do sed "s/@T@/$type/g" "$part"; done
		;;
	*)
		while IFS= read -r line || [ -n "$line" ]; do
			if [ "$line" = "--@setup-steps" ]; then setup_steps; else printf '%s\n' "$line"; fi
		done < "$part"
		;;
	esac
done
