#!/usr/bin/env bash
# All checks and tests. The last line is `N passed, N failed, N skipped`; any failure is a non-zero exit.
# On a fresh Debian 12 it installs what it needs (as root). Everything else stays below this directory.

set -u
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/common.sh"
# shellcheck source=scripts/guest.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/guest.sh"
# shellcheck source=scripts/databases.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/databases.sh"
cd "$root" || exit 1

passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'databases_stop; rm -rf "$work"; libvirt_stop' EXIT
# an interrupted run still ends what it started
trap 'exit 130' INT
trap 'exit 143' TERM

# check NAME COMMAND...: one check, counted
check() {
    local name=$1
    shift
    say "== $name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        say "FAILED: $name"
    fi
}

skip() {
    skipped=$((skipped + 1))
    say "!! SKIPPED: $1"
}

# The clients that nobody here wrote: oVirt's SDK and imageio's own client library.
venv() {
    local wanted='ovirt-engine-sdk-python==4.6.3 ovirt-imageio==2.5.1 lxml'
    [[ -x .venv/bin/python && $(cat .venv/wanted 2>/dev/null) == "$wanted" ]] && return 0
    say "== making .venv with $wanted"
    # Debian's own interpreter: the -dev package installed above belongs to it
    local python=/usr/bin/python3
    [[ -x $python ]] || python=python3
    rm -rf .venv
    # shellcheck disable=SC2086 # a list of words
    "$python" -m venv .venv &&
        .venv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check setuptools wheel &&
        .venv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check $wanted &&
        printf '%s' "$wanted" >.venv/wanted
}

# cargo-deny, into target/: half a minute to a few minutes, once
deny_tool() {
    deny=$(command -v cargo-deny) && return 0
    deny="$root/target/tools/bin/cargo-deny"
    [[ -x $deny ]] && return 0
    say "== building cargo-deny"
    cargo install --quiet --locked --debug --root target/tools --target-dir target/tools/build cargo-deny --version 0.20.2 &&
        rm -rf target/tools/build
}

# cargo_tests TITLE ARGUMENT...: runs tests and takes their counts over
cargo_tests() {
    say "== $1"
    shift
    : >"$work/skipped"
    cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$work/tests"
    local status=${PIPESTATUS[0]} ok bad ignored
    read -r ok bad ignored < <(awk '
        /^test result:/ { gsub(/[;.]/, ""); for (i = 2; i <= NF; i++) {
            if ($i == "passed") ok += $(i-1); if ($i == "failed") bad += $(i-1); if ($i == "ignored") skip += $(i-1) } }
        END { print ok+0, bad+0, skip+0 }' "$work/tests")
    # a test that lacks its peer says so in this file and passes: it counts as skipped
    local loud=0
    [[ -r $work/skipped ]] && loud=$(wc -l <"$work/skipped") && sed 's/^/!! SKIPPED: /' "$work/skipped" >&2
    passed=$((passed + ok - loud)) failed=$((failed + bad)) skipped=$((skipped + ignored + loud))
    # what did not even compile has no counts
    if ((status && !bad)); then failed=$((failed + 1)); fi
}

packages "${build_packages[@]}" "${demo_packages[@]}" "${test_packages[@]}"
optional "${optional_packages[@]}"
cargo_here
libvirt
venv || skip "no .venv: the tests with the Python SDK cannot run (is the package index reachable?)"

linux_guest target/guest || say "!! no Linux for guests: the tests that freeze one are skipped"
# the servers run as users of their own
chmod 0755 "$work"
databases "$work/db" || say "!! the tests on a missing database are skipped"

check "cargo fmt" cargo fmt --check
check "cargo clippy" cargo clippy --quiet --locked --all-targets -- -D warnings
if deny_tool; then
    check "cargo deny" "$deny" --log-level error check licenses bans sources
else
    skip "no cargo-deny: licences, bans and sources were not checked (is the registry reachable?)"
fi
export OVIRT_GATEWAY_SKIPPED="$work/skipped"
cargo_tests "cargo test"
# a dozen of the points at which something may die; all of them: see docs/crash-points.md
cargo_tests "crash points" --features crash-points --test crash

say ""
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
exit $((failed > 0))
