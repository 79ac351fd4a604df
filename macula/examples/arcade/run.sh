#!/bin/sh
# Three hosts and two crowds of players as processes of their own; the coordinator is killed with -9 three times. In the end the
# ledger is checked. Give the program as an argument, or have it built.
set -eu
if [ $# -gt 0 ]; then
    program=$(realpath "$1")
else
    cd "$(dirname "$0")"
    cargo build -q -p macula --example arcade
    program=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/examples/arcade
fi
dir=$(mktemp -d)
trap 'kill $(cat "$dir"/*.pid) 2>/dev/null || true; rm -rf "$dir"' EXIT

start() { # start NAME ARGS…: runs the program in the background, its output in NAME.log
    name=$1; shift
    : > "$dir/$name.log"
    "$program" "$@" --listen 127.0.0.1:0 >> "$dir/$name.log" 2>&1 &
    echo $! > "$dir/$name.pid"
}
address() { # address NAME: what to join it by
    tries=0
    until grep -q '^listening on port' "$dir/$1.log"; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { cat "$dir/$1.log" >&2; exit 1; }
        sleep 0.1
    done
    echo "127.0.0.1:$(sed -n 's/^listening on port //p' "$dir/$1.log" | tail -n 1)"
}
coordinator() { # the host that said last that it coordinates, and did not say that it does no more; waits for one
    tries=0
    while [ $tries -lt 300 ]; do
        for host in a b c; do
            case $(grep '^coordinates' "$dir/$host.log" | tail -n 1) in 'coordinates with'*) echo $host; return;; esac
        done
        tries=$((tries + 1))
        sleep 0.1
    done
    echo "nobody coordinates" >&2
    exit 1
}

start a host --data "$dir/a"
join=$(address a)
start b host --data "$dir/b" --join "$join"
start c host --data "$dir/c" --join "$join"
start anna play --name anna --players 100 --join "$join"
start bert play --name bert --players 100 --join "$join"
join=$(address anna)
for kill in 1 2 3; do
    sleep 2
    host=$(coordinator)
    echo "kill -9 $host: $(grep '^coordinates' "$dir/$host.log" | tail -n 1)"
    kill -9 "$(cat "$dir/$host.pid")"
    sleep 1
    start "$host" host --data "$dir/$host" --join "$join"
done
wait "$(cat "$dir/anna.pid")" "$(cat "$dir/bert.pid")"
echo "all players have a game:"
for crowd in anna bert; do tail -n 1 "$dir/$crowd.log"; done
"$program" check --listen 127.0.0.1:0 --join "$(address "$(coordinator)")" | tail -n 1
