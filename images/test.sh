#!/usr/bin/env bash
# Checks the images as the agent uses them: not as root, without capabilities, without new privileges.
# Makes them first. Needs Docker and, for pip, the network; installs nothing.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
examples=$here/../examples
readonly docker=${DOCKER:-docker}
readonly user=10001
ca=$(readlink -f /etc/ssl/certs/ca-certificates.crt)
work=$(mktemp -d)
readonly here examples ca work
declare -a containers=()
passed=0

finish() {
    [ ${#containers[@]} -eq 0 ] || "$docker" rm --force --volumes "${containers[@]}" >/dev/null
    rm -rf "$work"
}
trap finish EXIT

fail() { printf 'FAILED %s\n' "$*" >&2; exit 1; }
pass() { passed=$((passed + 1)); printf 'ok     %s\n' "$*"; }

# What every container of ours gets.
confined=(--user "$user:$user" --cap-drop ALL --security-opt no-new-privileges --pids-limit 256 --memory 512m)

# Runs /pontoon/build over a source directory; its result is in $tree, its output in $output.
try_build() { # RUNTIME SOURCE
    tree=$work/tree
    rm -rf "$tree"
    cp -R "$2" "$tree"
    chown -R "$user:$user" "$tree"
    mkdir -p "$work/cache"
    chown "$user:$user" "$work/cache"
    output=$("$docker" run --rm "${confined[@]}" -v "$tree:/app" -v "$work/cache:/cache" \
        -v "$ca:/etc/ssl/certs/ca-certificates.crt:ro" \
        -e SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt -e PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        -e REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt -e NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \
        "pontoon/build-$1:1" /pontoon/build 2>&1)
}

build() { try_build "$@" || fail "$1: the build of $2: $output"; }

build_fails() { # RUNTIME SOURCE LAST_LINE
    if try_build "$1" "$2"; then fail "the build of $2 should have failed: $output"; fi
    [[ $(tail -n 1 <<<"$output") == *"$3"* ]] || fail "the last line should say '$3': $output"
    pass "$1: a failing build ends with: $(tail -n 1 <<<"$output")"
}

output_has() { [[ $output == *"$1"* ]] || fail "'$1' is missing in: $output"; }

# Starts a command over $tree; $base is its address when it answers.
serve() { # RUNTIME COMMAND
    container=$("$docker" run --detach "${confined[@]}" -v "$tree:/app" -p 127.0.0.1:0:8080 -e PONTOON_RELEASE=v7 \
        "pontoon/run-$1:1" /bin/sh -c "exec $2")
    containers+=("$container")
    base=http://$("$docker" port "$container" 8080/tcp | head -n 1)
    local deadline=$((SECONDS + 30))
    until curl -s -o /dev/null "$base/"; do
        [ $SECONDS -lt $deadline ] || fail "'$2' does not answer: $("$docker" logs "$container" 2>&1 | tail -n 20)"
        sleep 0.05
    done
}

stops_well() {
    "$docker" stop --time 20 "$container" >/dev/null
    local code
    code=$("$docker" inspect --format '{{.State.ExitCode}}' "$container")
    [ "$code" = 0 ] || fail "SIGTERM should have ended it with 0, not $code: $("$docker" logs "$container" 2>&1 | tail)"
}

names_in() { find "$1" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort; }

status() { curl -s -o /dev/null -w '%{http_code}' --path-as-is "$base$1"; }
expect_status() { # PATH STATUS
    local got
    got=$(status "$1")
    [ "$got" = "$2" ] || fail "$1 should answer $2, not $got"
}

# The contents of files, given as PATH CONTENT pairs, in a new directory named by $source.
source_with() {
    source=$work/source
    rm -rf "$source"
    mkdir "$source"
    while [ $# -gt 0 ]; do
        mkdir -p "$(dirname "$source/$1")"
        printf '%s\n' "$2" >"$source/$1"
        shift 2
    done
}

test_build_script() {
    local lines
    lines=$("$here/build.sh")
    [ "$lines" = "images are ready: base python node static" ] || fail "nothing should be made twice: $lines"
    if "$here/build.sh" --runtime cobol 2>"$work/err"; then fail "an unknown runtime should be refused"; fi
    grep -q "unknown runtime 'cobol'" "$work/err" || fail "$(cat "$work/err")"
    pass "build.sh makes nothing twice and refuses an unknown runtime"
}

test_users() {
    local image
    for image in {run,build}-{base,python,node,static}; do
        # shellcheck disable=SC2016 # $HOME is the container's
        [ "$("$docker" run --rm "pontoon/$image:1" sh -c 'id -u; id -g; echo $HOME; pwd; stat -c %u /app')" = \
            "$(printf '%s\n' 10001 10001 /app /app 10001)" ] || fail "$image: wrong user or directory"
    done
    pass "every image: user 10001, home and working directory /app"
}

test_python() {
    build python "$examples/guestbook"
    output_has "Installing requirements with pip"
    output_has "Flask=="
    diff <(names_in "$tree") <({ names_in "$examples/guestbook"; echo .venv; } | sort) >"$work/diff" ||
        fail "the build should add .venv and nothing else: $(cat "$work/diff")"
    pass "python: a cold build installs requirements"
    local start=$SECONDS
    build python "$examples/guestbook"
    output_has "restored from the build cache"
    pass "python: a warm build restores them ($((SECONDS - start)) s)"
    serve python 'gunicorn app:app'
    expect_status /up 200
    expect_status /nothing 404
    curl -s -d name=Ada -d 'message=<b>hello</b>' "$base/" >/dev/null
    curl -s "$base/" >"$work/page"
    local words
    for words in '&lt;b&gt;hello' 'Release <b>v7</b>'; do
        grep -q "$words" "$work/page" || fail "'$words' is missing in: $(cat "$work/page")"
    done
    curl -sv "$base/slow?seconds=2" >"$work/slow" 2>"$work/slow.log" &
    local slow=$!
    until grep -q '^> GET' "$work/slow.log"; do kill -0 "$slow" || fail "$(cat "$work/slow.log")"; done
    stops_well
    wait "$slow" || fail "a request in flight was cut off by SIGTERM"
    grep -q 'v7 answered' "$work/slow" || fail "a request in flight got: $(cat "$work/slow")"
    pass "python: guestbook serves, and lets a request in flight end on SIGTERM"

    source_with requirements.txt 'no-such-package-of-pontoon==9.9.9'
    build_fails python "$source" 'pip could not install requirements.txt'
    source_with requirements.txt '# nothing' app.py ''
    build python "$source"
    output_has 'no packages to install'
    [ ! -e "$tree/.venv" ] || fail "no requirements should make no .venv"
    pass "python: nothing to install makes no .venv"
}

test_cache_keeps_three() {
    local package
    for package in itsdangerous blinker MarkupSafe colorama; do
        source_with requirements.txt "$package"
        build python "$source"
    done
    [ "$(find "$work/cache" -name '.venv-*.tar' | wc -l)" = 3 ] || fail "the cache should keep three: $(ls -A "$work/cache")"
    pass "python: the cache keeps the three newest"
}

test_node() {
    build node "$examples/node-hello"
    output_has 'no packages to install'
    serve node 'node server.js'
    expect_status /up 200
    expect_status /nothing 404
    curl -s "$base/" | grep -q 'release v7' || fail "node-hello does not say its release"
    stops_well
    pass "node: node-hello builds, serves and stops"

    # No registry is needed for a package that comes with the source.
    source_with package.json '{"dependencies": {"greet": "file:greet"}, "scripts": {"build": "node make.js"}}' \
        greet/package.json '{"name": "greet", "version": "1.0.0"}' greet/index.js 'module.exports = "good day"' \
        make.js 'require("fs").writeFileSync("made", require("greet"))'
    build node "$source"
    output_has 'Installing packages with npm install'
    output_has 'Running npm run build'
    [ "$(cat "$tree/made")" = 'good day' ] || fail "the build script did not run: $output"
    pass "node: dependencies and the build script"

    source_with package.json '{"scripts": {"build": "echo broken; exit 3"}}'
    build_fails node "$source" 'the build script of package.json ended with an error'
    source_with package.json '{"dependencies": '
    build_fails node "$source" 'package.json is not valid JSON'
}

test_static() {
    build static "$examples/static-site"
    printf secret >"$tree/public/.env"
    mkdir -p "$tree/public/.well-known" "$tree/public/empty"
    printf yes >"$tree/public/.well-known/security.txt"
    printf '<svg xmlns="http://www.w3.org/2000/svg"/>' >"$tree/public/a.svg"
    printf 'export {}' >"$tree/public/a.mjs"
    serve static '/pontoon/serve-static public'
    expect_status / 200
    expect_status /index.html 200
    curl -s "$base/missing" | grep -q 'Not found' || fail "404.html is not served"
    local path
    for path in /missing /.env /%2eenv /.git/config /empty/ /../pontoon.toml /%2e%2e/pontoon.toml; do
        [[ $(status "$path") =~ ^40[034]$ ]] || fail "$path should not be served"
    done
    expect_status /.well-known/security.txt 200
    local -A types=([/]=text/html [/style.css]=text/css [/a.svg]=image/svg+xml [/a.mjs]=text/javascript)
    for path in "${!types[@]}"; do
        [[ $(curl -s -o /dev/null -w '%{content_type}' "$base$path") == "${types[$path]}"* ]] ||
            fail "$path has the type $(curl -s -o /dev/null -w '%{content_type}' "$base$path")"
    done
    stops_well
    pass "static: index, types, 404.html; no dot files, no listings, nothing outside the root"

    source_with pontoon.toml 'name = "x"' dist/index.html dist
    build static "$source"
    serve static /pontoon/serve-static
    [ "$(curl -s "$base/")" = dist ] || fail "dist/ is not found by itself"
    source_with pontoon.toml 'name = "x"' Procfile 'web: x' index.html top
    build static "$source"
    serve static /pontoon/serve-static
    [ "$(curl -s "$base/")" = top ] || fail "the source itself is not served"
    [[ $(status /pontoon.toml)$(status /Procfile) =~ ^40[34]40[34]$ ]] || fail "the deployment's own files are served"
    pass "static: finds its root, hides pontoon.toml and Procfile"
}

test_procfile() {
    build base "$examples/procfile-hello"
    output_has 'Nothing to build'
    serve base 'perl server.pl'
    expect_status /up 200
    expect_status /nothing 404
    curl -s "$base/" | grep -q 'release v7' || fail "procfile-hello does not say its release"
    stops_well
    pass "procfile: procfile-hello serves and stops"

    source_with bin/build '#!/bin/sh
echo making; echo made > made'
    build_fails base "$source" 'bin/build is not executable'
    chmod +x "$source/bin/build"
    build base "$source"
    output_has '       making'
    [ "$(cat "$tree/made")" = made ] || fail "bin/build did not run"
    printf 'exit 3\n' >>"$source/bin/build"
    build_fails base "$source" 'bin/build ended with an error'
}

"$here/build.sh"
test_build_script
test_users
test_python
test_cache_keeps_three
test_node
test_static
test_procfile
printf '%s checks passed\n' "$passed"
