#!/usr/bin/env bash
# Makes Pontoon's build and run images on this machine's Docker engine. See README.md beside it.
#
# An image whose label says it was made from the same recipe is left alone, so running this again is quick.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: build.sh [--runtime NAME]... [--force]

  --runtime NAME   only the images of this runtime: base (also called procfile), python, node or static
  --force          make them again even if their recipe has not changed (takes in Debian's security updates)

Environment:
  PONTOON_DEBIAN_MIRROR   where debootstrap takes Debian from (where this machine's apt does, if it is a Debian)
  DOCKER                  the docker command (docker)
USAGE
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly docker=${DOCKER:-docker}
readonly suite=bookworm
# The mirror that this machine trusts already, and reaches; that of another release of Debian has this one, too.
own_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '/\/debian\/?$/ { sub(/\/$/, ""); print; exit }'
}
mirror=${PONTOON_DEBIAN_MIRROR:-$(own_mirror || true)}
readonly upstream_image=debian:$suite-slim
readonly debian_image=pontoon/base:$suite
# The contract between these images and the agent; raise it when an agent could not use an older image.
readonly contract=1
# Raise it when debootstrap_import changes what it makes.
readonly debian_recipe=1
readonly label=pontoon.recipe
# A registry that does not answer must not hold up a machine that can do without it.
readonly pull_seconds=60
readonly -a all_runtimes=(base python node static)

force=false
# Everything temporary; the debootstrap tree in it belongs to root.
work=$(mktemp -d "${TMPDIR:-/tmp}/pontoon-images.XXXXXX")
readonly work
trap 'as_root rm -rf --one-file-system "$work" 2>/dev/null || rm -rf "$work"' EXIT

say() { printf '%s\n' "$*"; }
die() { printf 'images: %s\n' "$*" >&2; exit 1; }

# ---- recipes -------------------------------------------------------------------------------------

# One hash of the named files (paths below this directory) and words.
recipe_hash() { # FILES... -- WORDS...
    local -a files=()
    while [ "$1" != -- ]; do files+=("$1"); shift; done
    shift
    { printf '%s\n' "$@"; (cd "$here" && cat /dev/null ${files[@]+"${files[@]}"}); } | sha256sum | cut -c1-32
}

recipe_of_debian() { recipe_hash -- debian "$debian_recipe" "$suite" "$mirror"; }

recipe_of() { # run|build RUNTIME
    local kind=$1 runtime=$2 parent
    case $kind-$runtime in
        run-base) parent=$(recipe_of_debian) ;;
        run-*) parent=$(recipe_of run base) ;;
        build-*) parent=$(recipe_of run "$runtime") ;;
    esac
    local -a files=()
    case $kind in
        # A change of the build script leaves the run image alone.
        run) mapfile -t files < <(cd "$here" && find "$runtime" -type f ! -name build.sh ! -name Dockerfile.build | LC_ALL=C sort) ;;
        build) files=(build-lib.sh "$runtime/Dockerfile.build" "$runtime/build.sh") ;;
    esac
    recipe_hash "${files[@]}" -- "$kind" "$parent"
}

is_current() { # IMAGE RECIPE
    ! $force &&
        [ "$("$docker" image inspect --format "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null)" = "$2" ]
}

# ---- the Debian below everything -----------------------------------------------------------------

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# A machine that is new has never asked its mirror, and apt names none before that.
if [ -z "$mirror" ] && command -v apt-get >/dev/null && as_root apt-get update >/dev/null 2>&1 </dev/null; then
    mirror=$(own_mirror || true)
fi
readonly mirror

need_debootstrap() {
    if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
        die "$upstream_image could not be pulled, and making a base image with debootstrap needs root:" \
            "run 'sudo pontoon images build', or 'docker pull $upstream_image' where a registry can be reached"
    fi
    # Not on a user's PATH in Debian.
    PATH=$PATH:/usr/sbin:/sbin
    command -v debootstrap >/dev/null && return
    command -v apt-get >/dev/null ||
        die "$upstream_image could not be pulled and debootstrap is missing: install debootstrap, then run this again"
    say "installing debootstrap"
    quietly as_root sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap'
}

# Shows a command's output only if it fails.
quietly() {
    if ! "$@" >"$work/log" 2>&1 </dev/null; then
        tail -n 40 "$work/log" >&2
        die "failed: $*"
    fi
}

debootstrap_import() { # RECIPE
    need_debootstrap
    [ -n "$mirror" ] || die "set PONTOON_DEBIAN_MIRROR to a Debian mirror, as in http://MIRROR/debian: this machine's apt names none"
    local root=$work/root
    say "making $debian_image with debootstrap from $mirror (about a minute)"
    quietly as_root debootstrap --variant=minbase "$suite" "$root" "$mirror"
    printf 'deb %s %s main\n' \
        "$mirror" "$suite" "$mirror" "$suite-updates" "${mirror%/debian}/debian-security" "$suite-security" |
        as_root tee "$root/etc/apt/sources.list" >/dev/null
    quietly as_root chroot "$root" sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get -y upgrade && apt-get clean'
    trim "$root"
    as_root tar -C "$root" --numeric-owner --one-file-system -c . |
        "$docker" import --change "LABEL $label=$1" --change 'CMD ["bash"]' - "$debian_image" >/dev/null
    as_root rm -rf --one-file-system "$root"
}

# Removes what a container never needs; licences (copyright files) stay.
trim() { # ROOT
    as_root find "$1/usr/share/doc" ! -type d ! -name copyright -delete
    as_root find "$1/usr/share/doc" -type d -empty -delete
    # shellcheck disable=SC2016 # expands in the inner shell
    as_root sh -c 'cd "$1" && rm -rf var/lib/apt/lists/* var/cache/apt/*.bin var/cache/debconf/*-old \
        var/log/*.log var/log/apt/* usr/share/man/* usr/share/info/* usr/share/locale/* usr/share/lintian \
        etc/hostname etc/resolv.conf && find dev -mindepth 1 -delete' sh "$1"
}

make_debian() {
    local recipe
    recipe=$(recipe_of_debian)
    is_current "$debian_image" "$recipe" && return
    if has_upstream; then
        say "making $debian_image from $upstream_image"
        printf 'FROM %s\n' "$upstream_image" |
            quietly_build "$debian_image" --label "$label=$recipe" -
    else
        debootstrap_import "$recipe"
    fi
}

has_upstream() {
    if ! $force && "$docker" image inspect "$upstream_image" >/dev/null 2>&1; then return 0; fi
    say "looking for $upstream_image"
    timeout "$pull_seconds" "$docker" pull --quiet "$upstream_image" >/dev/null 2>&1 ||
        "$docker" image inspect "$upstream_image" >/dev/null 2>&1
}

# ---- images --------------------------------------------------------------------------------------

quietly_build() { # IMAGE DOCKER_BUILD_ARGS...
    local image=$1 name
    local log=$work/${image//\//-}.log
    shift
    local -a proxies=()
    for name in http_proxy https_proxy no_proxy; do
        [ -z "${!name:-}" ] || proxies+=(--build-arg "$name=${!name}")
    done
    if ! "$docker" build --tag "$image" ${proxies[@]+"${proxies[@]}"} "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "could not make $image; the last lines of its build are above"
    fi
}

make_image() { # run|build RUNTIME
    local image=pontoon/$1-$2:$contract recipe
    recipe=$(recipe_of "$1" "$2")
    is_current "$image" "$recipe" && return
    say "making $image"
    local -a fresh=()
    ! $force || fresh=(--no-cache)
    local context=$work/$1-$2
    put_context "$1" "$2" "$context"
    local replaced
    replaced=$("$docker" image inspect --format '{{.Id}}' "$image" 2>/dev/null) || true
    quietly_build "$image" ${fresh[@]+"${fresh[@]}"} --label "$label=$recipe" --file "$context/Dockerfile" "$context"
    # Docker refuses while a container or an image still uses it, and that is as it should be.
    [ -z "$replaced" ] || "$docker" image rm "$replaced" >/dev/null 2>&1 || true
}

# Lays out what goes to /pontoon in the image, with the modes it needs there, whatever modes these files have here.
put_context() { # run|build RUNTIME DIRECTORY
    local file name
    mkdir -p "$3/pontoon"
    cp "$here/$2/Dockerfile.$1" "$3/Dockerfile"
    if [ "$1" = build ]; then
        install -m 0755 "$here/$2/build.sh" "$3/pontoon/build"
        install -m 0644 "$here/build-lib.sh" "$3/pontoon/"
        return
    fi
    for file in "$here/$2"/*; do
        name=${file##*/}
        case $name in
            Dockerfile.* | build.sh) ;;
            *.sh) install -m 0755 "$file" "$3/pontoon/${name%.sh}" ;;
            *) install -m 0644 "$file" "$3/pontoon/" ;;
        esac
    done
}

make_runtime() { # RUNTIME
    [ "$1" = base ] || make_image run "$1"
    make_image build "$1"
}

main() {
    local -a runtimes=()
    while [ $# -gt 0 ]; do
        case $1 in
            --runtime) [ $# -ge 2 ] || die "--runtime wants a name: ${all_runtimes[*]}"; runtimes+=("$2"); shift ;;
            --runtime=*) runtimes+=("${1#*=}") ;;
            --force) force=true ;;
            -h | --help) usage; exit 0 ;;
            *) usage >&2; die "unknown argument: $1" ;;
        esac
        shift
    done
    [ ${#runtimes[@]} -gt 0 ] || runtimes=("${all_runtimes[@]}")
    local i
    for i in "${!runtimes[@]}"; do
        [ "${runtimes[i]}" != procfile ] || runtimes[i]=base
        [[ " ${all_runtimes[*]} " == *" ${runtimes[i]} "* ]] ||
            die "unknown runtime '${runtimes[i]}': there are ${all_runtimes[*]}"
    done

    "$docker" version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
        die "the Docker engine does not answer: start it, and make sure this user may use it ('docker version' shows why)"

    make_debian
    make_image run base
    # The rest share nothing but run-base, and each waits mostly for the network and the disk.
    local runtime failed=
    local -A makers=()
    for runtime in "${runtimes[@]}"; do
        make_runtime "$runtime" &
        makers[$runtime]=$!
    done
    for runtime in "${!makers[@]}"; do
        wait "${makers[$runtime]}" || failed+=" $runtime"
    done
    [ -z "$failed" ] || die "not all images could be made, these runtimes are missing:$failed"
    say "images are ready: ${runtimes[*]}"
}

main "$@"
