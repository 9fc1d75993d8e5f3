# shellcheck shell=bash
#
# lib.sh - functions that the set-up, the tests and the demo share; to be sourced.
#
# A run works below one temporary folder, $GA_WORK, which every user can read: a private copy of the PostgreSQL tree
# (so that nothing is written to the system and clones do not disturb each other), the files that tests need, and
# the clusters.  Servers run as an unprivileged user and listen on unix sockets only.  Everything goes on exit.

GA_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034
GA_VENV=$GA_ROOT/build/venv
GA_CLUSTERS=()

say() { printf '%s\n' "== $*"; }
warn() { printf '%s\n' "$*" >&2; }
die() { warn "error: $*"; exit 1; }

# Print the major version that a Debian path such as /usr/lib/postgresql/15/bin/x names; nothing for other paths.
ga_debian_major() {
	[[ $1 =~ ^/usr/lib/postgresql/([0-9]+)/ ]] && printf '%s\n' "${BASH_REMATCH[1]}"
}

# Print the pg_config to build with: the caller's PG_CONFIG, else the newest Debian server tree of a supported major,
# else the one in PATH.  Prints nothing when there is none.
ga_find_pg_config() {
	local found
	if [ -n "${PG_CONFIG:-}" ] && [ "$PG_CONFIG" != pg_config ]; then
		found=$(command -v "$PG_CONFIG") || die "PG_CONFIG=$PG_CONFIG cannot be run"
		case $found in
			/*) printf '%s\n' "$found" ;;
			*) printf '%s\n' "$PWD/$found" ;;
		esac
		return
	fi
	found=$(printf '%s\n' /usr/lib/postgresql/1[5-8]/bin/pg_config | sort -V | while read -r p; do
		if [ -x "$p" ]; then printf '%s\n' "$p"; fi
	done | tail -n 1)
	if [ -z "$found" ] && found=$(command -v pg_config); then
		# Debian's wrapper without a server package names a tree that does not exist.
		[ -x "$("$found" --bindir 2>/dev/null)/initdb" ] || found=
	fi
	if [ -n "$found" ]; then printf '%s\n' "$found"; fi
}

# Choose the unprivileged user that servers run as, make $GA_WORK and go there (that user may not read the caller's
# folder).  Sets the trap that removes everything.
ga_begin() {
	if [ "$(id -u)" = 0 ]; then
		GA_OS_USER=postgres
		if ! id "$GA_OS_USER" >/dev/null 2>&1; then
			say "adding the system user $GA_OS_USER, which servers run as"
			useradd --system --no-create-home --shell /usr/sbin/nologin "$GA_OS_USER"
		fi
	else
		GA_OS_USER=$(id -un)
	fi
	GA_WORK=$(mktemp -d "${TMPDIR:-/tmp}/gpuagent.XXXXXX")
	chmod 755 "$GA_WORK"
	mkdir "$GA_WORK/home" "$GA_WORK/out" "$GA_WORK/stage"
	chown "$GA_OS_USER" "$GA_WORK/home" "$GA_WORK/out"
	cd "$GA_WORK" || exit
	trap 'ga_end' EXIT
	trap 'exit 130' INT TERM HUP
}

# Stop the clusters of this run, remove its folder (or say where it is kept, when GA_KEEP is set), and exit:
# ga_end [STATUS].
ga_end() {
	local status=${1:-$?} c
	trap - EXIT
	if [ -n "${GA_KEEP:-}" ] && [ -n "${GA_WORK:-}" ]; then
		say "kept: $GA_WORK"
		exit "$status"
	fi
	for c in "${GA_CLUSTERS[@]}"; do
		ga_cluster_stop "$c" immediate || true
	done
	rm -rf "${GA_WORK:-}"
	exit "$status"
}

# Run a command as the servers' user, with our tree first in PATH and nothing of the caller's PG* settings.
ga_as() {
	local cmd=(env -i "PATH=$GA_BIN:/usr/local/bin:/usr/bin:/bin" "HOME=$GA_WORK/home" LANG=C.UTF-8 TZ=UTC
		"GA_TEST_LONG=${GA_TEST_LONG:-}" "GA_CHAOS_ROUNDS=${GA_CHAOS_ROUNDS:-}" "GA_CHAOS_SEED=${GA_CHAOS_SEED:-}" "TMPDIR=/tmp")
	if [ "$(id -un)" = "$GA_OS_USER" ]; then
		"${cmd[@]}" "$@"
	else
		runuser -u "$GA_OS_USER" -- "${cmd[@]}" "$@"
	fi
}

# Print what a person types before a program to run it as the servers' user; nothing when they are that user.
ga_as_command() {
	if [ "$(id -un)" != "$GA_OS_USER" ]; then printf 'runuser -u %s --' "$GA_OS_USER"; fi
}

# Make a folder that only the servers' user can enter.
ga_private_folder() {
	mkdir -m 700 "$1"
	chown "$GA_OS_USER" "$1"
}

# Copy the server tree of a pg_config below $GA_WORK/pg: PostgreSQL finds its files relative to its programs, so the
# copy is complete in itself and an extension can be installed into it without rights on the system.
# Sets GA_PG_CONFIG and GA_BIN.
ga_private_postgres() {
	local config=$1 tree=$GA_WORK/pg dir
	for dir in "$("$config" --bindir)" "$("$config" --pkglibdir)" "$("$config" --sharedir)"; do
		[ -d "$tree$dir" ] && continue
		mkdir -p "$tree$dir"
		cp -a "$dir/." "$tree$dir/"
	done
	for dir in "$("$config" --includedir-server)" "$("$config" --pkgincludedir)" "$("$config" --includedir)"; do
		[ -e "$tree$dir" ] && continue
		mkdir -p "$(dirname "$tree$dir")"
		ln -s "$dir" "$tree$dir"
	done
	GA_BIN=$tree$("$config" --bindir)
	GA_PG_CONFIG=$GA_BIN/pg_config
	[ -x "$GA_PG_CONFIG" ] || die "the copy of PostgreSQL in $tree is not complete"
	[ "$("$GA_PG_CONFIG" --sharedir)" = "$tree$("$config" --sharedir)" ] ||
		die "PostgreSQL of $config cannot be relocated: its copy still uses $("$GA_PG_CONFIG" --sharedir)"
}

# Build the extension for a pg_config with warnings as errors and install it into the private copy.  The copy is not
# built against: its headers go with it, and the next run would build everything again.
ga_build_and_install() {
	local config=$1 stamp=$GA_ROOT/build/built-for
	local make=(env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -C "$GA_ROOT" WERROR=1)
	mkdir -p "$GA_ROOT/build"
	if [ "$("$config" --version)" != "$(cat "$stamp" 2>/dev/null)" ]; then
		"${make[@]}" "PG_CONFIG=$config" clean
		"$config" --version >"$stamp"
	fi
	"${make[@]}" "PG_CONFIG=$config" "-j$(nproc)" all
	"${make[@]}" "PG_CONFIG=$GA_PG_CONFIG" install
}

# Copy what servers and tests read to a place that the servers' user can read, with the device process that needs no GPU.
ga_stage() {
	local dir
	for dir in test expected python demo doc; do
		[ -d "$GA_ROOT/$dir" ] || continue
		mkdir -p "$GA_WORK/stage/$dir"
		cp -R "$GA_ROOT/$dir/." "$GA_WORK/stage/$dir/"
	done
	cp "$GA_ROOT/README.md" "$GA_WORK/stage/"	# its tour is a test
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -C "$GA_ROOT/test/device"
	cp "$GA_ROOT/build/device/gpuagent_device_emulated" "$GA_WORK/stage/"
	"${CC:-gcc}" -std=gnu11 -O1 -Wall -Wextra -Werror -shared -fPIC -o "$GA_WORK/stage/fault.so" "$GA_ROOT/test/fault/shim.c" -ldl
	chmod -R a+rX "$GA_WORK/stage"
}

# Make and start a cluster: ga_cluster_start NAME [CONFIGURATION LINE...].  Its data and its socket are in
# $GA_WORK/NAME; its superuser is postgres, without password.
ga_cluster_start() {
	local name=$1 dir=$GA_WORK/$1
	shift
	mkdir "$dir"
	chown "$GA_OS_USER" "$dir"
	ga_as initdb -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$dir.initdb.log" 2>&1 ||
		{ cat "$dir.initdb.log" >&2; die "initdb failed"; }
	{
		printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$dir'" "fsync = off" \
			"gpuagent.auto_save_interval = 0" \
			"max_prepared_transactions = 4" "log_min_messages = warning" "log_line_prefix = '%m [%p] %q%a '" "$@"
	} >>"$dir/data/postgresql.conf"
	GA_CLUSTERS+=("$name")
	ga_as pg_ctl -s -w -t 60 -D "$dir/data" -l "$dir/server.log" start ||
		{ cat "$dir/server.log" >&2; die "the server of cluster \"$name\" did not start"; }
}

# Stop a cluster: ga_cluster_stop NAME [MODE]; no error when it is not running.
ga_cluster_stop() {
	local dir=$GA_WORK/$1
	[ -f "$dir/data/postmaster.pid" ] || return 0
	ga_as pg_ctl -s -w -D "$dir/data" -m "${2:-fast}" stop
}

# Run psql on a cluster: ga_psql NAME ARGUMENT...
ga_psql() {
	local dir=$GA_WORK/$1
	shift
	ga_as psql -X -q -v ON_ERROR_STOP=1 -h "$dir" -U postgres "$@"
}
