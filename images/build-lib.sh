# shellcheck shell=bash
# What the build scripts of the runtimes share. Sourced by /pontoon/build inside a build container.

cd /app || { echo "build failed: /app is missing"; exit 1; }

# HOME is /app in these images: tools must not leave their dot files in the bundle.
HOME=$(mktemp -d)
export HOME

readonly cache=/cache
# How many restored trees stay in the cache for each app: this deploy's, the last one's, and a branch's.
readonly cache_kept=3

step() { printf -- '-----> %s\n' "$*"; }
note() { printf '       %s\n' "$*"; }
fail() { printf ' !     build failed: %s\n' "$*"; exit 1; }
# Sets a tool's output off from the build's own lines.
indent() { sed -u 's/^/       /'; }

has_cache() { [ -d "$cache" ] && [ -w "$cache" ]; }
[ ! -d "$cache" ] || has_cache || note "the build cache $cache is not writable, building without it"

# A hash over standard input and this build image's own scripts.
cache_key() { { cat /pontoon/build /pontoon/build-lib.sh; cat; } | sha256sum | cut -c1-32; }

# Puts the tree saved as NAME under KEY back into /app; false when there is none.
cache_restore() { # NAME KEY
    local saved=$cache/$1-$2.tar
    has_cache && [ -f "$saved" ] || return 1
    if ! tar -C /app -xf "$saved"; then
        rm -rf "$saved" "${1:?}"
        return 1
    fi
    # Newest by use, not by age, is what stays.
    touch "$saved" 2>/dev/null || true
}

# Saves the tree at /app/NAME; a cache that is full or read-only never fails a build.
cache_save() { # NAME KEY
    has_cache || return 0
    local saved=$cache/$1-$2.tar part
    part=$(mktemp "$cache/$1-part.XXXXXX") || return 0
    # A rename, so that a build beside this one never reads half a file.
    if tar -C /app -cf "$part" "$1" && mv "$part" "$saved"; then
        cache_prune "$1"
    else
        rm -f "$part"
        note "could not save $1 in the build cache"
    fi
}

cache_prune() { # NAME
    find "$cache" -maxdepth 1 -name "$1-*.tar" -printf '%T@ %p\n' | sort -rn | tail -n +$((cache_kept + 1)) |
        cut -d' ' -f2- | while IFS= read -r old; do rm -f "$old"; done
    # Left by builds that were killed while saving.
    find "$cache" -maxdepth 1 -name "$1-part.*" -mmin +60 -delete
}
