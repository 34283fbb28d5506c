#!/bin/sh
# flare.sh OUT.tar: the root file system of siteward-test/flare, Debian's essential packages, python3 and what wheels
# link to. NVIDIA FLARE itself is added by the tests that use it.
set -eu
without='path-exclude=/usr/share'
mmdebstrap --quiet --variant=essential --format=tar \
    --include=python3,libstdc++6 --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt="$without/doc/*" --dpkgopt="$without/info/*" --dpkgopt="$without/locale/*" --dpkgopt="$without/man/*" \
    bookworm "$1"
