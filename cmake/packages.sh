#!/bin/sh
# Installs the Debian packages that are missing: packages.sh build | test | arm64
# With sudo only when not root.
set -eu

build="g++ cmake ninja-build pkg-config ca-certificates libsqlite3-dev libasio-dev
  libtomlplusplus-dev nlohmann-json3-dev libspdlog-dev libcli11-dev libexpected-dev
  libcurl4-openssl-dev libpaho-mqttpp-dev libpaho-mqtt-dev libssl-dev libmicrohttpd-dev
  zlib1g-dev libhowardhinnant-date-dev tzdata sqlite3 python3"
test="$build libgtest-dev ccache mosquitto mosquitto-clients python3-paho-mqtt nodejs node-mqtt strace
  mmdebstrap systemd-container faketime"
arm64="g++-aarch64-linux-gnu qemu-user-static libsqlite3-dev:arm64 libspdlog-dev:arm64
  libtomlplusplus-dev:arm64 libcurl4-openssl-dev:arm64 libpaho-mqttpp-dev:arm64
  libpaho-mqtt-dev:arm64 libssl-dev:arm64 libmicrohttpd-dev:arm64 zlib1g-dev:arm64 libgtest-dev:arm64
  libhowardhinnant-date-dev:arm64"

case "${1:-}" in
  build) wanted=$build ;;
  test) wanted=$test ;;
  arm64) wanted=$arm64 ;;
  *) echo "usage: $0 build|test|arm64" >&2; exit 2 ;;
esac

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
if [ "$1" = arm64 ] && ! dpkg --print-foreign-architectures | grep -qx arm64; then
  $as_root dpkg --add-architecture arm64
fi
echo "installing:$missing"
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
