#!/bin/sh
# pause.sh OUT.tar: the root file system of registry.local/pause: one static program that sleeps, and reaps what is left to it.
set -eu
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
cat >"$root/pause.c" <<'C'
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0); }

int main(void) {
    signal(SIGINT, leave);
    signal(SIGTERM, leave);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
C
cc -Os -static -s -o "$root/pause" "$root/pause.c"
rm "$root/pause.c"
tar --create --file "$1" --directory "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
