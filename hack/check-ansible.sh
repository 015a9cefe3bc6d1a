#!/usr/bin/env bash
# The playbook parses (ansible-playbook --syntax-check), and the binary understands every configuration file it writes.
# hack/test-ansible.sh runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
playbook=$(hack/ansible.sh)
cargo build --quiet --locked -p pontoon-cli --bin pontoon
pontoon=$PWD/${CARGO_TARGET_DIR:-target}/debug/pontoon
out=$PWD/target/ansible-rendered
rm -rf "$out"

cd ansible
"$playbook" --syntax-check -i inventory.example.yml site.yml
ANSIBLE_ROLES_PATH=roles "$playbook" -i inventory.example.yml tests/render.yml -e "rendered=$out pontoon_runtime=process" >"$out.log" ||
    { cat "$out.log" && exit 1; }

count=0
for file in "$out"/*/*.toml; do
    # It goes on to the certificate, which no machine has got here, only when it can use everything in the file itself.
    said=$("$pontoon" "$(basename "$file" .toml)" --check --config "$file" 2>&1) ||
        [[ $said == *'key and certificate (its `tls_dir`) cannot be used'* ]] || { echo "$file: $said" && exit 1; }
    count=$((count + 1))
done
# Its REST port shows the cluster's certificate, and it joins.
for line in 'rest_tls = "cluster"' 'join = true'; do
    grep -qF "$line" "$out/nyc-1/controller.toml" || { echo "no $line in the controller's configuration" && exit 1; }
done
echo "ansible: the binary reads all $count configuration files"
[ "$count" -eq 8 ]
