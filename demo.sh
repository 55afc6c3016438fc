#!/bin/bash
# Shows the whole path in one go, on loopback, in a temporary directory: simulated trucks publish
# over MQTT, the gateway keeps their readings in the log, they are read and queried here, and a
# bridge forwards them to an upstream that goes away and comes back.
#   ./demo.sh          installs what is missing, builds, shows, cleans up
#   ./demo.sh --keep   leaves it running and says how to look around
set -euo pipefail
cd "$(dirname "$0")"
keep=no
case "${1:-}" in
  "") ;;
  --keep) keep=yes ;;
  *) echo "usage: ./demo.sh [--keep]" >&2; exit 2 ;;
esac

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() {
  local word line='$'
  for word in "$@"; do
    case "$word" in *[\ \;]*) line+=" \"$word\"" ;; *) line+=" $word" ;; esac
  done
  printf '\033[2m%s\033[0m\n' "$line"
  "$@"
}

say "Installing what is missing, and building"
cmake/packages.sh build
cmake --preset release -DWAYSIDE_BENCH=OFF >/dev/null
cmake --build --preset release --target wayside

dir=$(mktemp -d /tmp/wayside-demo.XXXXXX)
gateway=""
upstream=""
clean() {
  [ -z "$gateway" ] || kill "$gateway" 2>/dev/null || true
  [ -z "$upstream" ] || kill "$upstream" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

# Waits until a command succeeds; gives up after 20 seconds.
await() {
  local what=$1 i
  shift
  for i in $(seq 200); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  echo "demo: not within 20 s: $what" >&2
  tail -5 "$dir"/*.log >&2
  exit 1
}

start_upstream() {
  python3 tests/e2e/receiver.py --port "$1" --store "$dir/upstream.ndjson" >"$dir/upstream.log" &
  upstream=$!
  await "the upstream listens" grep -q '^port' "$dir/upstream.log"
}
start_upstream 0
port=$(awk '/^port/ {print $2}' "$dir/upstream.log")

cat >"$dir/wayside.toml" <<EOF
data_dir = "$dir/data"
[mqtt]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[[topic]]
name = "truck_gps"
partitions = 12
[[route]]
mqtt = "fleet/{truck}/gps"
topic = "truck_gps"
key = "{truck}"
time = "/ts"
[[bridge]]
name = "cloud"
topics = ["truck_gps"]
to = "http://127.0.0.1:$port/ingest"
linger = "200ms"
EOF
# `wayside VERB …` as a technician would type it, with this demo's configuration.
bin=$PWD/build/release/wayside
export PATH=$dir/bin:$PATH
mkdir "$dir/bin"
cat >"$dir/bin/wayside" <<EOF
#!/bin/sh
verb=\$1; shift
case \$verb in topics|groups|bridge|quarantine) verb="\$verb \$1"; shift ;; esac
exec $bin \$verb -c $dir/wayside.toml "\$@"
EOF
chmod +x "$dir/bin/wayside"

unsent_is() { [ "$(wayside status --json | sed 's/.*"unsent":\([0-9]*\).*/\1/')" "$1" "$2" ]; }

say "The gateway starts on an empty log"
"$bin" run -c "$dir/wayside.toml" 2>"$dir/gateway.log" &
gateway=$!
await "the gateway listens" grep -q 'mqtt listens' "$dir/gateway.log"
sed 's/^<.>//' "$dir/gateway.log"

say "Twenty trucks publish where they are, QoS 1: each reading is synced before it is acknowledged"
show wayside simulate --trucks 20 --count 15 --rate 5 --connections 4 --seed 7

say "Topics and partitions"
show wayside topics list
show wayside topics describe truck_gps

say "The last record of three partitions"
for p in 0 4 9; do show wayside read truck_gps -p $p -o -1; done

say "SQL, while it runs: the last position of some trucks"
show wayside query "SELECT key AS truck, max(time) AS at, lat, lon, speed FROM truck_gps GROUP BY key LIMIT 5"
echo "(plain sqlite3 shows the same)"
show sqlite3 -header -column "$dir/data/wayside.db" "SELECT count(*) AS readings, round(avg(speed),1) AS avg_speed FROM truck_gps"

say "A consumer group reads each record once, and its position is kept"
wayside read truck_gps --group dashboard -n 250 --json | tail -1
wayside read truck_gps --group dashboard --json | wc -l
show wayside groups list

say "Which truck spoke last, and when"
wayside latest truck_gps | head -4

say "The bridge has forwarded everything"
await "the bridge drains" unsent_is -eq 0
show wayside status

say "The upstream goes away; the trucks go on"
kill "$upstream"
wait "$upstream" 2>/dev/null || true
show wayside simulate --trucks 20 --count 10 --rate 5 --connections 4 --seed 8
wayside status | grep bridge

say "The upstream is back: the bridge drains at once"
start_upstream "$port"
await "the bridge drains" unsent_is -eq 0
wayside status | grep bridge
stored=$(sqlite3 "$dir/data/wayside.db" "SELECT count(*) FROM truck_gps")
forwarded=$(python3 -c "import json,sys; print(sum(len(json.loads(l)['records']) for l in open(sys.argv[1])))" "$dir/upstream.ndjson")
echo "stored: $stored, forwarded: $forwarded"
[ "$stored" = "$forwarded" ]

say "Every reading is accounted for, and every record is what was written"
show wayside ledger
show wayside verify

if [ $keep = yes ]; then
  say "It is left running (end it with Ctrl-C)"
  echo "Look around in another terminal:"
  echo "  export PATH=$dir/bin:\$PATH"
  echo "  wayside status;  wayside read truck_gps -o end --follow;  wayside simulate"
  echo "  sqlite3 $dir/data/wayside.db 'SELECT key, speed, lat FROM truck_gps LIMIT 5'"
  wait "$gateway"
fi

say "Stopping: what was taken is committed and acknowledged first"
kill "$gateway"
wait "$gateway"
gateway=""
sed 's/^<.>//' "$dir/gateway.log" | tail -2
show wayside status
