#!/bin/sh
# Serves the files below ROOT on $PORT: index.html for directories, 404.html (if there is one) for what is missing,
# no directory listings, no dot files but /.well-known/.
#
# usage: serve-static [ROOT]
# ROOT is absolute or relative to /app. Without it: /app if it has an index.html, else its public/, dist/ or build/ that has one.
set -eu

find_root() {
    for root in /app /app/public /app/dist /app/build; do
        if [ -f "$root/index.html" ]; then
            echo "$root"
            return
        fi
    done
    echo /app
}

case ${1:-} in
    '') STATIC_ROOT=$(find_root) ;;
    /*) STATIC_ROOT=$1 ;;
    *) STATIC_ROOT=/app/$1 ;;
esac
if ! [ -d "$STATIC_ROOT" ]; then
    echo "serve-static: the directory $STATIC_ROOT does not exist: set [static] root in pontoon.toml to a directory of the source" >&2
    exit 1
fi
STATIC_ROOT=$(cd "$STATIC_ROOT" && pwd -P)
PORT=${PORT:-8080}
export STATIC_ROOT PORT
echo "serving $STATIC_ROOT on port $PORT"
exec lighttpd -D -f /pontoon/lighttpd.conf
