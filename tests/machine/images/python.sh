#!/bin/sh
# python.sh OUT.tar: the root file system of siteward-test/python, Debian's essential packages, python3 and python3-numpy.
set -eu
without='path-exclude=/usr/share'
mmdebstrap --quiet --variant=essential --format=tar \
    --include=python3,python3-numpy --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt="$without/doc/*" --dpkgopt="$without/info/*" --dpkgopt="$without/locale/*" --dpkgopt="$without/man/*" \
    bookworm "$1"
