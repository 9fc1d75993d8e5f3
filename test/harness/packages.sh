#!/usr/bin/env bash
#
# packages.sh - install what building and testing need and is missing; silent and fast when nothing is.
#
# Debian/Ubuntu packages come by name from apt-get (as root or through sudo), Python packages from PyPI into the
# private environment build/venv.  PG_CONFIG names another PostgreSQL than the system's; its packages are then the
# caller's business.  Whatever cannot be had is an error: nothing is skipped.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

missing=()

# need PACKAGE COMMAND...: PACKAGE is missing unless COMMAND succeeds.
need() {
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}

has_header() { printf '#include <%s>\n' "$1" | "${CC:-cc}" -E -x c - ; }
has_extension() { [ -f "$("$1" --sharedir)/extension/$2.control" ]; }
has_test_tools() {
	local pgxs
	pgxs=$("$1" --pgxs) && [ -f "$pgxs" ] && [ -x "${pgxs%/makefiles/pgxs.mk}/test/isolation/pg_isolation_regress" ] &&
		[ -f "${pgxs%/makefiles/pgxs.mk}/test/perl/PostgreSQL/Test/Cluster.pm" ]
}

# True when build/venv has what the list says.  test/gpu/run.sh puts a borrowed Python there, whose modules suites look for.
venv_is_ready() {
	[ -x "$GA_VENV/bin/python" ] && cmp -s "$GA_ROOT/test/python/requirements.txt" "$GA_VENV/installed" &&
		{ [ -f "$GA_VENV/borrowed" ] || "$GA_VENV/bin/python" -c 'import numpy, safetensors, psycopg, networkx' 2>/dev/null; }
}

# Print the major version to install: that of a server already here, else what the distribution calls "postgresql".
choose_major() {
	local config
	config=$(ga_find_pg_config)
	if [ -n "$config" ]; then
		ga_debian_major "$(readlink -f "$("$config" --bindir)")/" || true
		return
	fi
	LC_ALL=C apt-cache depends postgresql 2>/dev/null | sed -n 's/^ *Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "missing packages: ${missing[*]}; run this as root, or install them with: apt-get install ${missing[*]}"
	fi
}

apt_install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }

# Install a server without the cluster that Debian would make and start with it.
apt_install_quiet_server() {
	local conf=/etc/postgresql-common/createcluster.conf
	apt_install postgresql-common
	as_root cp -p "$conf" "$conf.gpuagent-saved"
	as_root sed -i "s/^#* *create_main_cluster.*/create_main_cluster = false/" "$conf"
	grep -q '^create_main_cluster = false' "$conf" ||
		printf 'create_main_cluster = false\n' | as_root tee -a "$conf" >/dev/null
	local status=0
	apt_install "$@" || status=$?
	as_root mv "$conf.gpuagent-saved" "$conf"
	return "$status"
}

system_packages() {
	local config major=
	config=$(ga_find_pg_config)
	need gcc command -v "${CC:-gcc}"
	need make command -v make
	need perl command -v prove
	need libipc-run-perl perl -MIPC::Run -e 1
	need libtap-parser-sourcehandler-pgtap-perl command -v pg_prove
	need python3 command -v python3
	venv_is_ready || need python3-venv python3 -c 'import ensurepip, venv'
	need libc6-dev has_header stdlib.h
	need libzstd-dev has_header zstd.h
	[ -z "${GA_TEST_LONG:-}" ] || need clang command -v clang

	if [ -z "$config" ] || [ -n "$(ga_debian_major "$config" || true)" ]; then
		if command -v apt-get >/dev/null; then major=$(choose_major); fi
		if [ -z "$major" ]; then
			as_root apt-get update -q >/dev/null
			major=$(choose_major)
		fi
		[ -n "$major" ] || die "no PostgreSQL server was found and this system offers no package \"postgresql\"; set PG_CONFIG"
		config=/usr/lib/postgresql/$major/bin/pg_config
		need "postgresql-$major" test -x "/usr/lib/postgresql/$major/bin/initdb"
		need "postgresql-client-$major" test -x "/usr/lib/postgresql/$major/bin/psql"
		need "postgresql-server-dev-$major" test -f "/usr/include/postgresql/$major/server/postgres.h"
		need "postgresql-$major-pgtap" has_extension "$config" pgtap
	else
		has_extension "$config" pgtap || die "pgTAP is not installed in $("$config" --sharedir)/extension"
	fi

	if [ ${#missing[@]} -gt 0 ]; then
		command -v apt-get >/dev/null ||
			die "this system has no apt-get; install by hand what these Debian packages carry: ${missing[*]}"
		say "installing: ${missing[*]}"
		as_root apt-get update -q
		case " ${missing[*]} " in
			*" postgresql-$major "*) apt_install_quiet_server "${missing[@]}" ;;
			*) apt_install "${missing[@]}" ;;
		esac
	fi
	has_test_tools "$config" || die "PostgreSQL of $config lacks pg_isolation_regress or PostgreSQL::Test::Cluster"
}

python_packages() {
	local wanted=$GA_ROOT/test/python/requirements.txt stamp=$GA_VENV/installed
	if venv_is_ready; then return; fi
	say "installing into build/venv: $(tr '\n' ' ' <"$wanted")"
	python3 -m venv --clear "$GA_VENV"
	"$GA_VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted" ||
		die "the Python packages of test/python/requirements.txt cannot be installed"
	"$GA_VENV/bin/python" -c 'import numpy, safetensors, psycopg, networkx'
	cp "$wanted" "$stamp"
}

system_packages
python_packages
