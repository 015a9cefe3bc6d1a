#!/bin/sh
# Adds Debian packages to an image and leaves nothing behind that a container does not need.
# usage: add-packages PACKAGE...
set -eu

# A half-made image is thrown away whole, so dpkg need not sync every file: many times quicker on slow storage drivers.
cat >/etc/dpkg/dpkg.cfg.d/pontoon <<'CFG'
force-unsafe-io
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
CFG

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends "$@"
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt/* /var/cache/debconf/*-old
