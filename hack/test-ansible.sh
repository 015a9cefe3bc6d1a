#!/usr/bin/env bash
# The Ansible role on real machines: containers with systemd, an SSH server and Docker, made from nothing, on this machine's
# Docker engine. A cluster from nothing; a second run that changes nothing; a host that joins; what is refused.
#
# usage: hack/test-ansible.sh [--all]     three controllers in three sites, another binary on every machine while requests come
#                                         in, none of which may fail, and more runs that must change nothing
#
# PONTOON_KEEP_HOSTS=1 leaves the machines for a look; `docker rm -fv $(docker ps -qf label=pontoon.test=ansible)` ends them.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly image=pontoon-test/host:1
readonly label=pontoon.test=ansible
readonly network=pontoon-test-$$
work=$(mktemp -d)
readonly work
all=false
begun=$SECONDS

say() { printf 'ansible hosts (%3d s): %s\n' $((SECONDS - begun)) "$*"; }
fail() {
    printf 'FAILED ansible hosts: %s\n' "$*" >&2
    [ ! -s "$work/last.log" ] || tail -n 60 "$work/last.log" >&2
    exit 1
}

cleanup() {
    [ -z "${PONTOON_KEEP_HOSTS:-}" ] || { say "the machines are kept; their inventory is in $work" && return; }
    local -a ours
    mapfile -t ours < <(docker ps -aq --filter "label=$label" --filter "network=$network")
    [ ${#ours[@]} -eq 0 ] || docker rm --force --volumes "${ours[@]}" >/dev/null
    docker network rm "$network" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

# ---- the machines ------------------------------------------------------------------------------------------------

# Below what a container of this engine may have; everything else that systemd and a Docker inside need.
readonly -a as_host=(--cap-add ALL --cap-drop SYS_RESOURCE --security-opt seccomp=unconfined --security-opt apparmor=unconfined
    --tmpfs /run --tmpfs /tmp --tmpfs /run/lock --volume /sys/fs/cgroup:/sys/fs/cgroup --volume /var/lib/docker)

make_host() { # NAME
    docker run --detach --quiet --name "pontoon-test-$1-$$" --hostname "$1" --label "$label" --network "$network" \
        --publish 127.0.0.1::22 "${as_host[@]}" "$image" >/dev/null
}

on() { # NAME COMMAND…
    local name=$1
    shift
    docker exec "pontoon-test-$name-$$" "$@"
}

until_up() { # NAME
    local deadline=$((SECONDS + 60))
    # sshd refuses everybody but root until this file is gone.
    until on "$1" sh -c 'systemctl is-active --quiet ssh && [ ! -e /run/nologin ]' 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || fail "$1 is not up after 60 s: $(on "$1" systemctl list-jobs 2>&1 | tail -n 5)"
        sleep 0.2
    done
    docker cp -q "$work/key.pub" "pontoon-test-$1-$$:/home/op/.ssh/authorized_keys" 2>/dev/null ||
        docker cp "$work/key.pub" "pontoon-test-$1-$$:/home/op/.ssh/authorized_keys" >/dev/null
    on "$1" chown op:op /home/op/.ssh/authorized_keys
}

address_of() { docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "pontoon-test-$1-$$"; }
ssh_port_of() { docker port "pontoon-test-$1-$$" 22/tcp | sed -n 's/^127.0.0.1://p'; }

# A line of the inventory.
line() { # NAME SITE [MORE]
    printf '        %s: { ansible_port: %s, pontoon_site: %s, pontoon_address: %s%s }\n' \
        "$1" "$(ssh_port_of "$1")" "$2" "$(address_of "$1")" "${3:+, $3}"
}

# ---- the playbook ------------------------------------------------------------------------------------------------

# Into $work/last.log.
play() { # ARGUMENTS…
    (cd ansible && ANSIBLE_CONFIG=$PWD/ansible.cfg "$playbook" -i "${inventory:-$work/inventory.yml}" site.yml "$@") >"$work/last.log" 2>&1
}

must_play() { # WHAT ARGUMENTS…
    local what=$1 from=$SECONDS
    shift
    play "$@" || fail "$what"
    say "$what: $((SECONDS - from)) s"
}

must_change_nothing() { # WHAT
    must_play "$1"
    if grep -E 'changed=[1-9]' "$work/last.log" >"$work/changed"; then
        fail "$1, but it changed something: $(grep -B1 '^changed:' "$work/last.log" | head -n 20; cat "$work/changed")"
    fi
}

must_refuse() { # SENTENCE ARGUMENTS…
    local sentence=$1
    shift
    if play "$@"; then fail "this should have been refused: $*"; fi
    # Ansible folds and escapes what it prints. Not `grep -q`: it may end before it was told all, and with pipefail that is no success.
    tr -s ' \n\\' ' ' <"$work/last.log" | grep -F "$sentence" >/dev/null || fail "the refusal of '$*' should say '$sentence'"
    say "refused: $sentence"
}

# The inventory with a machine put before the controllers that are there.
first_is() { # NAME
    awk -v line="$(line "$1" home.attic "pontoon_controller_id: 99")" '{ print } /^    controllers:/ { getline; print; print line }' "$work/inventory.yml"
}

# A command of the client, where a controller is.
pontoon() { # ARGUMENTS…
    on nyc-1 env PONTOON_URL="https://$(address_of nyc-1):7700" PONTOON_TOKEN="$(cat "$work/token")" \
        PONTOON_CA=/var/lib/pontoon/controller/tls/ca.pem /usr/local/bin/pontoon "$@"
}

# The process of each controller.
processes() { # NAME…
    local name
    for name in "$@"; do on "$name" systemctl show --property MainPID --value pontoon-controller; done
}

# Requests, one after the other, on the balancer's machine, until the file /tmp/stop is there; a line for each that failed.
begin_requests() {
    on door-1 rm -f /tmp/stop /tmp/count
    on door-1 sh -c 'n=0; while [ ! -e /tmp/stop ] && [ $n -lt 100000 ]; do
        code=$(curl -s -o /dev/null -m 10 -w "%{http_code}" -H "Host: procfile-hello.localhost" http://127.0.0.1/)
        [ "$code" = 200 ] || echo "request $n: $code"
        n=$((n + 1)); done; echo $n >/tmp/count' >"$work/failed-requests" 2>&1 &
    requests=$!
}

end_requests() { # WHAT
    on door-1 touch /tmp/stop
    wait "$requests"
    [ ! -s "$work/failed-requests" ] || fail "$1: $(wc -l <"$work/failed-requests") requests failed: $(head -n 5 "$work/failed-requests")"
    say "$1: $(on door-1 cat /tmp/count) requests, none failed"
}

until_serves() { # URL [CURL ARGUMENTS…]
    local deadline=$((SECONDS + 60)) url=$1 got
    shift
    until got=$(on door-1 curl -sS -m 5 "$@" "$url" 2>&1) && [[ $got == *Hello* ]]; do
        [ $SECONDS -lt $deadline ] || fail "$url does not answer as it should: $got"
        sleep 0.3
    done
}

main() {
    case ${1:-} in
        '') ;;
        --all) all=true ;;
        *) fail "unknown argument: $1" ;;
    esac
    if ! docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then
        [ "${PONTOON_REQUIRE_DOCKER:-}" != 1 ] || fail "must run here (PONTOON_REQUIRE_DOCKER=1), but the Docker engine does not answer"
        echo "SKIPPED ansible hosts: the Docker engine does not answer"
        return
    fi
    playbook=$(hack/ansible.sh)
    local binary=${PONTOON_BIN:-${CARGO_TARGET_DIR:-target}/debug/pontoon}
    # Without what a debugger needs it is a tenth, and so is what each machine is sent.
    strip -o "$work/pontoon" "$binary"
    docker image inspect pontoon/build-base:1 >/dev/null 2>&1 || "$binary" images build --runtime base
    docker build --quiet --tag "$image" ansible/tests/hosts >"$work/last.log" 2>&1 || fail "the image of the machines"
    ssh-keygen -q -t ed25519 -N '' -f "$work/key"
    docker network create --label "$label" "$network" >/dev/null
    run
}

run() {
    local -a controllers=(nyc-1) hosts
    ! $all || controllers+=(virginia-1 attic-1)
    hosts=("${controllers[@]}" worker-1 worker-2 door-1)
    local host
    for host in "${hosts[@]}"; do make_host "$host"; done
    for host in "${hosts[@]}"; do until_up "$host"; done
    # As `pontoon images build` would make them there, in less time.
    docker save -o "$work/images.tar" pontoon/base:bookworm pontoon/run-base:1 pontoon/build-base:1
    for host in worker-1 worker-2; do docker exec -i "pontoon-test-$host-$$" docker load --quiet <"$work/images.tar" >/dev/null; done
    rm "$work/images.tar"
    say "${#hosts[@]} machines are up"

    local -A sites=([nyc-1]=do.nyc3 [virginia-1]=aws.us-east-1a [attic-1]=home.attic)
    {
        cat <<YAML
all:
  vars:
    ansible_host: 127.0.0.1
    ansible_user: op
    ansible_ssh_private_key_file: $work/key
    ansible_ssh_common_args: -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
    ansible_python_interpreter: /usr/bin/python3
    pontoon_binary: $work/pontoon
    pontoon_cluster: test
    pontoon_images: [base]
    pontoon_https_listen: 0.0.0.0:443
  children:
    controllers:
      hosts:
YAML
        local id=0
        for host in "${controllers[@]}"; do line "$host" "${sites[$host]}" "pontoon_controller_id: $((id += 1))"; done
        printf '    balancers:\n      hosts:\n' && line door-1 do.nyc3
        printf '    agents:\n      hosts:\n' && line worker-1 do.nyc3
    } >"$work/inventory.yml"

    must_play "from nothing to a cluster of ${#controllers[@]} controllers, an agent and a balancer"
    [ "$(stat -c %a "$work/token")" = 600 ] || fail "the API token can be read by others"
    local voters
    voters=$(pontoon controllers -o json | grep -cE '"role": "(leader|voter)"')
    [ "$voters" = ${#controllers[@]} ] || fail "$voters controllers vote"
    if on nyc-1 ls /var/lib/pontoon/controller/ca >/dev/null 2>&1; then fail "the authority's key is still on nyc-1's disk"; fi

    docker cp examples/procfile-hello "pontoon-test-nyc-1-$$:/srv/" >/dev/null
    pontoon deploy /srv/procfile-hello >"$work/last.log" 2>&1 || fail "a deploy"
    until_serves http://procfile-hello.localhost/
    say "an app answers"

    on door-1 sh -c 'openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout /tmp/key.pem -out /tmp/cert.pem \
        -days 30 -subj /CN=test -addext subjectAltName=DNS:procfile-hello.localhost' >"$work/last.log" 2>&1 || fail "a certificate"
    for file in cert key; do on door-1 cat /tmp/$file.pem | docker exec -i "pontoon-test-nyc-1-$$" sh -c "cat >/srv/$file.pem"; done
    pontoon cert add /srv/cert.pem /srv/key.pem >"$work/last.log" 2>&1 || fail "cert add"
    until_serves https://procfile-hello.localhost/ --cacert /tmp/cert.pem
    say "and by HTTPS"

    must_change_nothing "a second run changes nothing"

    line worker-2 home.attic >>"$work/inventory.yml"
    must_play "another host joins" --limit worker-2
    pontoon hosts -o json | grep '"name": "worker-2"' >/dev/null || fail "worker-2 is not among the hosts"

    if $all; then
        # Another binary for the role: its checksum is what it looks at.
        printf 'another' >>"$work/pontoon"
        begin_requests
        must_play "another binary on every machine"
        end_requests "while every machine got another binary"
        must_change_nothing "after it a run changes nothing"

        make_host cellar-1
        until_up cellar-1
        local before
        before=$(processes "${controllers[@]}")
        awk -v line="$(line cellar-1 home.cellar "pontoon_controller_id: 4")" '{ print } /^        attic-1:/ { print line }' \
            "$work/inventory.yml" >"$work/four.yml"
        mv "$work/four.yml" "$work/inventory.yml"
        must_play "another controller joins"
        [ "$(processes "${controllers[@]}")" = "$before" ] || fail "another controller joined, and those that were there were restarted"
        pontoon controllers -o json | grep '"name": "cellar-1"' >/dev/null || fail "cellar-1 is not among the controllers"
    fi

    must_refuse "pontoon_rest_tls is cluster, files or none" --limit nyc-1 -e pontoon_rest_tls=tls
    must_refuse "needs pontoon_binary (a path on this machine), pontoon_site" --limit worker-1 -e pontoon_address=worker-1
    must_refuse "memory = " --limit worker-1 -e pontoon_memory=much
    first_is worker-2 >"$work/other.yml"
    inventory=$work/other.yml must_refuse "would begin a new cluster, but" --limit worker-2
    ! $all || must_change_nothing "and nothing was changed by what was refused"
    say "all is well"
}

[ "${BASH_SOURCE[0]}" != "$0" ] || main "$@"
