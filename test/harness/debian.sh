# shellcheck shell=bash
#
# debian.sh - a folder with another release of Debian, for tests that need its packages; to be sourced after lib.sh.
#
# It is made once a run, with debootstrap from the mirror that apt has, and lives below $GA_WORK.  GA_DEBIAN_ROOT names
# a folder to be used instead, which stays.  Needs root.

GA_DEBIAN_RELEASE=trixie
# shellcheck disable=SC2034
GA_DEBIAN_MAJOR=17

# Where apt gets the distribution from: ga_debian_sites SUFFIX OF THE RELEASE.
ga_debian_sites() {
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(SITE)' 'Created-By: Packages' |
		awk -v suffix="$1" '$1 == "Debian" && $2 ~ "^[a-z]+" suffix "$" {print $3}' | sort -u
}

ga_debian_bootstrap() {
	local root=$1 mirror security
	command -v debootstrap >/dev/null || apt-get install -qq -y debootstrap >/dev/null || die "debootstrap cannot be installed"
	# The minor release of the same day or a later one is needed: older ones do not know what newer dumps say.
	mirror=$(ga_debian_sites '' | head -n 1)
	security=$(ga_debian_sites -security | head -n 1)
	[ -n "$mirror" ] && [ -n "$security" ] || die "apt has no mirror of Debian and of its security updates"
	debootstrap --variant=minbase "$GA_DEBIAN_RELEASE" "$root" "$mirror" >"$GA_WORK/out/debootstrap.log" 2>&1 ||
		{ tail -20 "$GA_WORK/out/debootstrap.log"; die "debootstrap failed"; }
	printf 'deb %s %s main\n' "$mirror" "$GA_DEBIAN_RELEASE" "$security" "$GA_DEBIAN_RELEASE-security" >"$root/etc/apt/sources.list"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	cp /etc/resolv.conf "$root/etc/resolv.conf"
	chroot "$root" apt-get update -qq >>"$GA_WORK/out/debootstrap.log" 2>&1 || die "apt has no lists of $GA_DEBIAN_RELEASE"
}

# Makes the folder, puts packages there (what is installed stays as it is), builds the extension for its server and
# installs it; sets GA_DEBIAN: ga_debian_root PACKAGE...
ga_debian_root() {
	local missing=() package
	[ "$(id -u)" = 0 ] || die "this test needs root: it uses debootstrap and chroot"
	GA_DEBIAN=${GA_DEBIAN_ROOT:-$GA_WORK/debian}
	[ -x "$GA_DEBIAN/usr/bin/apt-get" ] || ga_debian_bootstrap "$GA_DEBIAN"
	for package in "postgresql-$GA_DEBIAN_MAJOR" "postgresql-server-dev-$GA_DEBIAN_MAJOR" gcc make libc6-dev libzstd-dev "$@"; do
		chroot "$GA_DEBIAN" dpkg-query -W "$package" >/dev/null 2>&1 || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] || chroot "$GA_DEBIAN" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
		"${missing[@]}" >"$GA_WORK/out/packages.log" 2>&1 || { tail -20 "$GA_WORK/out/packages.log"; die "${missing[*]} cannot be installed"; }
	chmod 1777 "$GA_DEBIAN/dev/shm"

	rm -rf "$GA_DEBIAN/opt/gpuagent"
	mkdir -p "$GA_DEBIAN/opt/gpuagent"
	tar -C "$GA_ROOT" -c --exclude='*.o' --exclude='*.d' --exclude='*.so' Makefile gpuagent.control gpuagent_pgvector.control META.json src sql cuda |
		tar -C "$GA_DEBIAN/opt/gpuagent" -x
	chroot "$GA_DEBIAN" make -s -C /opt/gpuagent NVCC= WERROR=1 "PG_CONFIG=/usr/lib/postgresql/$GA_DEBIAN_MAJOR/bin/pg_config" "-j$(nproc)" install \
		>"$GA_WORK/out/build-debian.log" 2>&1 || { tail -20 "$GA_WORK/out/build-debian.log"; die "the extension does not build for $GA_DEBIAN_MAJOR"; }
}
