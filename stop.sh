#!/usr/bin/env bash
# Stops the service that ./run.sh started: by its pid, gracefully, and only if it is ours.

set -u
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/common.sh"

if ! pid=$(service_pid); then
    rm -f "$pid_file"
    say "not running"
    exit 0
fi
kill -TERM "$pid" || die "cannot stop process $pid; whose is it?"
for _ in {1..150}; do
    if ! ours "$pid"; then
        rm -f "$pid_file"
        say "stopped"
        exit 0
    fi
    sleep 0.2
done
die "process $pid is still finishing after 30 s; see ${log_file#"$root"/}"
