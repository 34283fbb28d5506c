#!/bin/sh
# busybox.sh OUT.tar: the root file system of siteward-test/busybox, Debian's busybox-static with a link for each applet.
set -eu
busybox=$(command -v busybox)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root/bin" "$root/etc" "$root/tmp"
chmod 1777 "$root/tmp"
for applet in $("$busybox" --list); do ln -s busybox "$root/bin/$applet"; done
rm -f "$root/bin/busybox"
cp "$busybox" "$root/bin/busybox"
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
tar --create --file "$1" --directory "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
