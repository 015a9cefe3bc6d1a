.DEFAULT_GOAL := help
.PHONY: help demo demo-setup test next-level test-slow test-ansible sim fuzz setup images build check fix bench soak

CARGO ?= cargo
NEXTEST_PROFILE := $(if $(CI),ci,default)

# Recipes are in the binary: a host needs no checkout to make its images.
images = if docker version >/dev/null 2>&1; then $(1) images build; \
	else echo "SKIPPED images: the Docker engine does not answer"; fi

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Without Docker nothing is built in a container: then the example that needs no build is deployed.
demo: demo-setup build ## start a whole cluster in one process, deploy examples/guestbook; Ctrl-C ends it
	@$(call images,target/release/pontoon)
	@if docker version >/dev/null 2>&1; then app=guestbook; else app=procfile-hello; fi; \
	exec target/release/pontoon dev --deploy examples/$$app

demo-setup:
	@hack/setup.sh

test: setup next-level ## set up what is missing and run every test
	$(CARGO) build --locked -p pontoon-cli --bin pontoon
	@$(call images,target/debug/pontoon)
	@if docker version >/dev/null 2>&1; then images/test.sh; else echo "SKIPPED images/test.sh and every test that needs Docker: the engine does not answer"; fi
	hack/test-ansible.sh
	$(CARGO) nextest run --locked --workspace --profile $(NEXTEST_PROFILE)

# Before the binary itself, which cargo puts in the same place.
next-level: setup ## the binary as a later version would be, for the test of upgrades
	$(CARGO) build --locked -p pontoon-cli --bin pontoon --features next-level
	cp target/debug/pontoon target/debug/pontoon-next-level

test-slow: setup ## many more power cuts, cases of damage and faults of controllers; mounting needs root
	$(CARGO) build --locked -p pontoon-cli --bin pontoon
	PONTOON_SLOW=1 $(CARGO) nextest run --locked --workspace --profile slow --success-output final --no-fail-fast -E 'test(power_cut) | test(damage) | test(growth) | binary(faults)'

test-ansible: setup ## the Ansible role on six containers with systemd: three controllers in three sites, two agents, a balancer
	$(CARGO) build --locked -p pontoon-cli --bin pontoon
	hack/test-ansible.sh --all

sim: ## thousands of simulated clusters: PONTOON_SIM_SEEDS=how many, or PONTOON_SIM_SEED=which one to replay
	PONTOON_SIM_SEEDS=$${PONTOON_SIM_SEEDS:-5000} $(CARGO) test --locked --profile sim -p pontoon-controller --lib \
		simulation:: -- --nocapture --test-threads=1

fuzz: ## feed the balancer's parsers with whatever the fuzzer makes up, FUZZ_SECONDS each
	hack/fuzz.sh

setup: ## install what building and testing need, if it is missing
	@hack/setup.sh --tests

images: build ## make the images that apps are built and run in, if their recipes changed
	@$(call images,target/release/pontoon)

build: ## the release binary, target/release/pontoon
	$(CARGO) build --release --locked -p pontoon-cli --bin pontoon

check: ## formatting, clippy, docs, dependencies, ansible; writes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	hack/check-dependencies.sh
	hack/check-ansible.sh

fix: ## format, and apply what clippy suggests
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: build ## every figure of benches/README.md
	PONTOON_BIN=$(CURDIR)/target/release/pontoon $(CARGO) run --release --locked -p pontoon-benches

soak: build ## an hour of everything at the same time through a balancer (PONTOON_SOAK_SECONDS): flat memory, no failed request
	PONTOON_BIN=$(CURDIR)/target/release/pontoon $(CARGO) run --release --locked -p pontoon-benches -- soak
