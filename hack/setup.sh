#!/usr/bin/env bash
# Puts in place what `make demo` and `make test` need on a Debian with Rust and Docker. Installs only what is missing,
# says what it does, starts nothing.
#
# usage: hack/setup.sh [--tests]     --tests also installs what only the tests need
set -euo pipefail

# How each package is recognized: a command of it, so that one installed in another way counts too.
readonly -a packages=(
    "gcc cc"                  # crates with C in them (ring, zstd), and linking
    "libc6-dev -file=/usr/include/stdio.h" # also the static libc of agent/init
    "curl curl"
    "debootstrap debootstrap" # the base image where no registry can be reached
    "ca-certificates -file=/etc/ssl/certs/ca-certificates.crt"
)

# What only tests need.
readonly -a packages_of_tests=(
    "faketime faketime" # a controller whose clock is wrong
    "chromium chromium" # what a real browser makes of the balancer
    "pebble pebble"     # an ACME authority, and a DNS for it
    "openssh-client ssh" # for Ansible
    "python3-venv -module=ensurepip" # for ansible-core
)

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

is_there() { # COMMAND | -file=PATH | -module=NAME (of Python)
    case $1 in
        -file=*) [ -e "${1#-file=}" ] ;;
        -module=*) python3 -c "import ${1#-module=}" 2>/dev/null ;;
        # Some commands are in sbin, which Debian leaves out of a user's PATH.
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo; as root, run: $*"
    fi
}

install_packages() { # "NAME MARK"…
    local package name mark
    local -a missing=()
    for package in "$@"; do
        read -r name mark <<<"$package"
        is_there "$mark" || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "this system has no apt-get; install these by its own means, then run this again: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
}

need_rust() {
    command -v cargo >/dev/null || die "cargo is missing; install Rust from https://rustup.rs, then run this again"
}

install_nextest() {
    command -v cargo-nextest >/dev/null && return
    say "installing cargo-nextest (some minutes, once)"
    cargo install cargo-nextest --locked
}

mention_docker() {
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1 && return
    say "the Docker engine does not answer: 'pontoon dev' will run apps as processes, and only those without a build step"
}

main() {
    local tests=false
    case ${1:-} in
        '') ;;
        --tests) tests=true ;;
        *) die "unknown argument: $1 (usage: hack/setup.sh [--tests])" ;;
    esac
    install_packages "${packages[@]}"
    ! $tests || install_packages "${packages_of_tests[@]}"
    need_rust
    ! $tests || install_nextest
    mention_docker
    say "everything is in place"
}

main "$@"
