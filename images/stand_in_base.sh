#!/bin/sh
# Make a stand-in for the base image, localhost/python:3.11-slim, where no image registry is reachable:
# Debian 12 with its Python 3.11, from Debian's package mirror. Needs root, debootstrap and buildah.
set -eu
NAME=${1:-localhost/python:3.11-slim}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$WORK/rootfs" >&2
rm -rf "$WORK"/rootfs/var/cache/apt/* "$WORK"/rootfs/var/lib/apt/lists/* "$WORK"/rootfs/var/log/*
tar -C "$WORK/rootfs" -cf "$WORK/base.tar" .
CONTAINER=$(buildah from scratch)
buildah add --quiet "$CONTAINER" "$WORK/base.tar" / > /dev/null
buildah commit --quiet --rm "$CONTAINER" "$NAME" > /dev/null
echo "$NAME"
