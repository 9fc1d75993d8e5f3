#!/usr/bin/env bash
# Prints the install script: the sections of sql/part in order. Where a section holds the line
# "--@setup-steps", the files of sql/setup are embedded as rows (step, ddl), dollar-quoted.
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
	while IFS= read -r line || [ -n "$line" ]; do
		if [ "$line" = "--@setup-steps" ]; then setup_steps; else printf '%s\n' "$line"; fi
	done < "$part"
done
