#!/usr/bin/env bash
# The playbook parses (ansible-playbook --syntax-check), and the binary understands every configuration file it writes.
# ansible-core goes into a virtual environment below target/ where it is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
playbook=$(command -v ansible-playbook || true)
if [ -z "$playbook" ]; then
    venv=target/ansible
    playbook=$PWD/$venv/bin/ansible-playbook
    if [ ! -x "$playbook" ]; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check ansible-core
    fi
fi
cargo build --quiet --locked -p pontoon-cli --bin pontoon
pontoon=$PWD/${CARGO_TARGET_DIR:-target}/debug/pontoon
out=$PWD/target/ansible-rendered
rm -rf "$out"

cd ansible
"$playbook" --syntax-check -i inventory.example.yml site.yml
ANSIBLE_ROLES_PATH=roles "$playbook" -i inventory.example.yml tests/render.yml \
    -e "rendered=$out pontoon_config_dir=$out/none pontoon_data_dir=$out/data pontoon_runtime=process" >"$out.log" ||
    { cat "$out.log" && exit 1; }

# Without certificates a role ends right after it has read its configuration, and says that it misses them.
count=0
for file in "$out"/*/*.toml; do
    role=$(basename "$file" .toml)
    said=$(timeout 20 "$pontoon" "$role" --config "$file" 2>&1 || true)
    if ! grep -q "$out/data/$role/tls/ca.pem" <<<"$said"; then
        printf 'pontoon %s does not take the configuration of %s:\n%s\n' "$role" "$file" "$said"
        exit 1
    fi
    count=$((count + 1))
done
# What the first one has: it begins the cluster with an authority, and its REST port shows the cluster's certificate.
for line in 'rest_tls = "cluster"' '[founding]'; do
    grep -qF "$line" "$out/nyc-1/controller.toml" || { echo "no $line in the controller's configuration" && exit 1; }
done
echo "ansible: the binary reads all $count configuration files"
[ "$count" -eq 8 ]
