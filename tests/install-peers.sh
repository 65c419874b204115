#!/bin/sh
# Installs the Debian packages that the tests use as peers and tools, where that is possible and needed.
set -eu
need=""
command -v storescu >/dev/null 2>&1 || need="$need dcmtk"
command -v Orthanc >/dev/null 2>&1 || need="$need orthanc"
[ -z "$need" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "tests: these peers are missing and cannot be installed here:$need (tests that need them will say so)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $need >/dev/null
