#!/usr/bin/env bash
# Builds if needed and runs the gateway.
#
#   ./run.sh demo [--keep] [--dir DIR]   the whole line on loopback: back up, restore, compare every byte
#   ./run.sh                             the gateway as a background service, with config.ini if there is one
#   ./run.sh -f                          the same in the foreground
#   ./run.sh ROLE ...                    any other role; see ./run.sh --help

set -u
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/common.sh"

config_arguments() {
    arguments=(serve)
    # one arena: what ended gives its memory back to what begins, on whatever thread
    export MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-1}
    [[ -r $root/config.ini ]] && arguments+=(--config "$root/config.ini")
    # a service that was not told where to keep its state keeps it here, not in /var/lib
    [[ -r $root/config.ini ]] || export OVIRT_GATEWAY__STATE__DIR="${OVIRT_GATEWAY__STATE__DIR:-$root/state}"
}

service() {
    local pid
    if pid=$(service_pid); then
        say "already running (pid $pid); ./stop.sh stops it"
        exit 1
    fi
    packages "${build_packages[@]}"
    build
    config_arguments
    mkdir -p "$root/run" "$root/log"
    local before
    before=$(stat -c %s "$log_file" 2>/dev/null || echo 0)
    cd "$root" || die "cannot enter $root"
    setsid "$binary" "${arguments[@]}" >>"$log_file" 2>&1 </dev/null &
    pid=$!
    printf '%s\n' "$pid" >"$pid_file"
    for _ in {1..150}; do
        local ready
        ready=$(tail -c "+$((before + 1))" "$log_file" | grep -m1 '^ready serve ')
        if [[ -n $ready ]]; then
            say "${ready#ready } (pid $pid, log ${log_file#"$root"/})"
            exit 0
        fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
    done
    if kill -0 "$pid" 2>/dev/null; then
        say "not ready after 30 s; stopping it"
        kill "$pid"
    fi
    wait "$pid"
    local status=$?
    rm -f "$pid_file"
    say "it did not start:"
    tail -c "+$((before + 1))" "$log_file" | tail -n 15 >&2
    exit $((status ? status : 1))
}

demo() {
    packages "${build_packages[@]}" "${demo_packages[@]}"
    build
    trap libvirt_stop EXIT
    libvirt
    "$binary" demo "$@" &
    demo_pid=$!
    # a background process of a script ignores Ctrl-C: it is told to stop, and cleans up
    trap 'kill -TERM "$demo_pid" 2>/dev/null' INT TERM
    local status
    while :; do
        wait "$demo_pid"
        status=$?
        kill -0 "$demo_pid" 2>/dev/null || break
    done
    # a demo that is kept needs its libvirt after this script has ended
    if [[ $status == 0 && " $* " == *' --keep '* ]]; then started_pids=(); fi
    exit "$status"
}

case ${1-} in
'') service ;;
-f)
    shift
    packages "${build_packages[@]}"
    build
    config_arguments
    cd "$root" || die "cannot enter $root"
    exec "$binary" "${arguments[@]}" "$@"
    ;;
demo)
    shift
    demo "$@"
    ;;
*)
    packages "${build_packages[@]}"
    build
    exec "$binary" "$@"
    ;;
esac
