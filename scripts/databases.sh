# shellcheck shell=bash
# A MariaDB and a PostgreSQL of our own for the tests: Debian's servers, on sockets in a directory that goes
# afterwards. Sourced, never run.

database_pids=()

# as_user USER COMMAND...: neither server runs as root. Replaces the shell, so that a pid is the server's own
as_user() {
    local user=$1
    shift
    if [[ $(id -u) == 0 ]]; then exec setpriv --reuid "$user" --regid "$(id -gn "$user")" --clear-groups "$@"; else exec "$@"; fi
}

# databases DIR: starts both, and exports where they are
databases() {
    local dir=$1 ok=0
    mkdir -p "$dir" && chmod 0755 "$dir"
    mariadb_here "$dir/mariadb" || { say "MariaDB did not start, see $dir/mariadb.log"; ok=1; }
    postgresql_here "$dir/postgresql" || { say "PostgreSQL did not start, see $dir/postgresql.log"; ok=1; }
    return "$ok"
}

mariadb_here() {
    local dir=$1 user
    user=$([[ $(id -u) == 0 ]] && echo nobody || id -un)
    mkdir -p "$dir/data" && { [[ $(id -u) != 0 ]] || chown -R nobody: "$dir"; } || return 1
    mariadb-install-db --no-defaults --user="$user" --datadir="$dir/data" --auth-root-authentication-method=normal \
        --skip-test-db >"$dir.log" 2>&1 || return 1
    as_user "$user" "$(command -v mariadbd || echo /usr/sbin/mariadbd)" --no-defaults --datadir="$dir/data" \
        --socket="$dir/sock" --skip-networking --pid-file="$dir/pid" --innodb-buffer-pool-size=64M \
        --max-connections=500 >>"$dir.log" 2>&1 &
    database_pids+=($!)
    for _ in {1..100}; do [[ -S $dir/sock ]] && break; sleep 0.2; done
    [[ -S $dir/sock ]] && export OVIRT_GATEWAY_TEST_MARIADB="mysql://root@localhost/mysql?socket=$dir/sock"
}

postgresql_here() {
    local dir=$1 programs user
    programs=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -1)
    user=$([[ $(id -u) == 0 ]] && echo postgres || id -un)
    mkdir -p "$dir" && { [[ $(id -u) != 0 ]] || chown -R postgres:postgres "$dir"; } || return 1
    (as_user "$user" "$programs/initdb" -D "$dir/data" -U postgres --auth=trust --no-sync) >"$dir.log" 2>&1 || return 1
    as_user "$user" "$programs/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c max_connections=500 \
        >>"$dir.log" 2>&1 &
    database_pids+=($!)
    for _ in {1..100}; do [[ -S $dir/.s.PGSQL.5432 ]] && break; sleep 0.2; done
    [[ -S $dir/.s.PGSQL.5432 ]] &&
        export OVIRT_GATEWAY_TEST_POSTGRESQL="postgres://postgres@localhost/postgres?host=$dir"
}

databases_stop() {
    local pid
    # both take SIGINT or SIGTERM for an orderly end
    for pid in "${database_pids[@]}"; do kill -INT "$pid" 2>/dev/null || kill "$pid" 2>/dev/null; done
    for pid in "${database_pids[@]}"; do kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
    database_pids=()
}
