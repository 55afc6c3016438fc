#!/bin/sh
# Installs the Debian packages that are missing: packages.sh build | test | cross | clang
# With sudo only when not root. "packages.sh list libraries" (or another list) prints it.
set -eu

libraries="libsqlite3-dev libasio-dev libtomlplusplus-dev nlohmann-json3-dev libspdlog-dev
  libcli11-dev libexpected-dev libcurl4-openssl-dev libpaho-mqttpp-dev libpaho-mqtt-dev libssl-dev
  libmicrohttpd-dev zlib1g-dev libhowardhinnant-date-dev"
build="g++ cmake ninja-build pkg-config ca-certificates $libraries tzdata sqlite3 python3"
libraries="$libraries libgtest-dev"
test="$build libgtest-dev ccache mosquitto mosquitto-clients python3-paho-mqtt nodejs node-mqtt
  strace mmdebstrap systemd-container faketime"
# The libraries of the other architectures are not installed here: cmake/root.sh.
cross="g++-aarch64-linux-gnu g++-arm-linux-gnueabihf qemu-user-static"
clang="clang-14 libclang-rt-14-dev"

list=${1:-}
[ "$list" != list ] || list=${2:-}
case "$list" in
  libraries) wanted=$libraries ;;
  build) wanted=$build ;;
  test) wanted=$test ;;
  cross) wanted=$cross ;;
  clang) wanted=$clang ;;
  *) echo "usage: $0 [list] libraries|build|test|cross|clang" >&2; exit 2 ;;
esac
if [ "$1" = list ]; then
  echo $wanted
  exit 0
fi

missing=""
for package in $wanted; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
if ! command -v apt-get >/dev/null; then
  echo "this needs the Debian packages:$missing" >&2
  exit 1
fi
echo "installing:$missing"
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
  -o Acquire::Retries=5 --no-install-recommends $missing >/dev/null
