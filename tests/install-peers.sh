#!/bin/sh
# Installs the Debian packages that the tests use as peers and tools, where that is possible and needed.
set -eu
need=""
want() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || need="$need $2"
}
want storescu dcmtk
want Orthanc orthanc
want strace strace
want mkfs.ext4 e2fsprogs
want mkfs.xfs xfsprogs
want faketime faketime
want openssl openssl
want rsyslogd "rsyslog rsyslog-gnutls"
want systemd-analyze systemd
want nft nftables
want ip iproute2
want gcc gcc
[ -e /usr/include/fuse3/fuse.h ] || need="$need fuse3 libfuse3-dev pkg-config"
ls /usr/lib/*/libeatmydata.so* >/dev/null 2>&1 || need="$need libeatmydata1"
[ -z "$need" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "tests: these are missing and cannot be installed here:$need (tests that need them will say so)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $need >/dev/null
