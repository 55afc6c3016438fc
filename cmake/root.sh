#!/bin/bash
# What a build for another machine needs and this one has not, made once and kept outside the tree.
#   root.sh arm64|armhf          prints the sysroot of an architecture: its libraries and headers,
#                                for this machine's cross compiler and for qemu
#   root.sh trixie COMMAND...    runs a command in this source tree, in a Debian 13 of its own
# They are in ${XDG_CACHE_HOME:-~/.cache}/wayside/roots: a sysroot is 0.2 GB and made in 10 s,
# trixie 1 GB and 1 min. Another list of packages makes another root; what was not used for 30 days
# is removed. Only root can make a root and change into it: with sudo when not root.
# Debian's multi-arch on this machine is not used: apt would have to hold the same version of each
# library for both architectures, and a mirror has them at different times.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}
roots=$cache/wayside/roots
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"

name=${1:-}
shift || true
libraries=$(cmake/packages.sh list libraries)
case "$name" in
  arm64 | armhf)
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    packages="$libraries libstdc++-$(g++ -dumpversion)-dev"
    ;;
  trixie)
    suite=trixie
    packages="$libraries g++ ccache cmake ninja-build pkg-config python3 tzdata"
    ;;
  *)
    echo "usage: $0 arm64|armhf | trixie COMMAND..." >&2
    exit 2
    ;;
esac
key=$(cat cmake/root.sh - <<<"$suite $packages" | sha256sum | cut -c1-12)
root=$roots/$name-$key

# The mirror that this machine uses, and of it the release alone: one suite is never out of step
# with itself, as it can be with its updates.
mirror() {
  local uri
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' \
    "Codename: $(. /etc/os-release && echo "$VERSION_CODENAME")" 2>/dev/null | head -1)
  echo "${uri:-http://deb.debian.org/debian}"
}

# bootstrap TARGET OPTIONS...; a mirror may fail once.
bootstrap() {
  local target=$1 try
  shift
  for try in 1 2 3; do
    $as_root rm -rf --one-file-system "$target"
    $as_root mmdebstrap --quiet --aptopt='APT::Install-Recommends "false"' \
      --aptopt='Acquire::Retries "5"' --include="$(tr -s ' \n' , <<<"$packages")" "$@" \
      "$suite" "$target" "$(mirror)" >&2 && return
  done
  return 1
}

# Only unpacked: nothing of the other architecture runs here, so that neither the kernel nor apt
# needs to know it. Links to absolute places would leave the sysroot.
make_sysroot() {
  local link to
  bootstrap "$1.tar" --variant=extract --architectures="$name"
  mkdir "$1"
  tar -C "$1" -xf "$1.tar" ./usr ./lib
  find "$1" -type l -lname '/*' -printf '%p %l\n' | while read -r link to; do
    ln -sfrn "$1$to" "$link"
  done
}

make_root() {
  bootstrap "$1" --variant=minbase --architectures="$(dpkg --print-architecture)"
  $as_root mkdir "$1/src" "$1/ccache"
}

# A root has its name only when it is whole: one that was interrupted is removed by the next.
mkdir -p "$roots"
exec 9>"$roots/lock"
flock 9
if [ ! -d "$root" ]; then
  find "$roots" -mindepth 1 -maxdepth 1 \( -name 'new.*' -o -name '*-*' -mtime +30 \) \
    -exec $as_root rm -rf --one-file-system {} +
  echo "making $root ($suite)" >&2
  if [ "$name" = trixie ]; then make_root "$roots/new.$name"; else make_sysroot "$roots/new.$name"; fi
  rm -f "$roots/new.$name.tar"
  $as_root mv -T "$roots/new.$name" "$root"
fi
$as_root touch "$root"
exec 9>&-

if [ "$name" != trixie ]; then
  echo "$root"
  exit 0
fi
# The mounts end with the command, whatever ends it.
ccache=$cache/ccache
mkdir -p "$ccache"
exec $as_root unshare --mount --pid --fork --kill-child sh -eu -c '
  root=$1 ccache=$2 user=$3
  shift 3
  mount --bind "$PWD" "$root/src"
  mount --bind "$ccache" "$root/ccache"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/tmp"
  exec chroot --userspec="$user" "$root" env HOME=/tmp CCACHE_DIR=/ccache TMPDIR=/tmp \
    PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c "cd /src && exec \"\$@\"" - "$@"
' - "$root" "$ccache" "$(id -u):$(id -g)" "$@"
