#!/bin/bash
# Builds a Node app: package.json's dependencies, from the cache when nothing changed, then its build script.
set -euo pipefail
# shellcheck source=../build-lib.sh source-path=SCRIPTDIR
. /pontoon/build-lib.sh

export NPM_CONFIG_UPDATE_NOTIFIER=false NPM_CONFIG_FUND=false NPM_CONFIG_AUDIT=false
NPM_CONFIG_CACHE=$HOME/npm
! has_cache || NPM_CONFIG_CACHE=$cache/npm
export NPM_CONFIG_CACHE

# Prints yes when package.json has something under one of the dotted names.
package_has() { # NAME...
    node -e '
        const top = JSON.parse(require("fs").readFileSync("package.json", "utf8"));
        const at = (path) => path.split(".").reduce((value, key) => (value ?? {})[key], top);
        const full = (value) => typeof value === "object" ? Object.keys(value ?? {}).length > 0 : Boolean(value);
        if (process.argv.slice(1).some((path) => full(at(path)))) console.log("yes");
    ' "$@"
}

# True when the lock file alone does not say what is installed (it names files of the source).
names_local_files() { grep -qE '"(file|link):|"link": true' package.json package-lock.json 2>/dev/null; }

install_packages() {
    local -a command=(npm install --no-save)
    [ ! -f package-lock.json ] || command=(npm ci)
    step "Installing packages with ${command[*]:0:2}"
    # What a build script needs is often among the development packages; they are pruned after it.
    if [ "$has_build_script" = yes ]; then command+=(--include=dev); else command+=(--omit=dev); fi
    "${command[@]}" 2>&1 | indent || fail "npm could not install the packages; its message is above"
}

step "Node app, Node.js $(node --version)"
[ -f package.json ] || fail "there is no package.json"
wants_packages=$(package_has dependencies optionalDependencies) || fail "package.json is not valid JSON"
has_build_script=$(package_has scripts.build)
[ "$has_build_script" != yes ] || wants_packages=${wants_packages:-$(package_has devDependencies)}

if [ "$wants_packages" != yes ]; then
    note "package.json has no dependencies: no packages to install"
else
    # A node_modules that came with the source is another machine's.
    rm -rf node_modules
    key=$({ node --version; npm --version; cat package.json; cat package-lock.json .npmrc 2>/dev/null || true; } | cache_key)
    if names_local_files; then
        install_packages
    elif cache_restore node_modules "$key"; then
        step "Packages unchanged, restored from the build cache"
    else
        install_packages
        [ ! -d node_modules ] || cache_save node_modules "$key"
    fi
fi
if [ "$has_build_script" = yes ]; then
    step "Running npm run build"
    npm run build 2>&1 | indent || fail "the build script of package.json ended with an error; its output is above"
    [ ! -d node_modules ] || npm prune --omit=dev 2>&1 | indent || fail "npm could not remove the development packages"
fi
step "Build done"
