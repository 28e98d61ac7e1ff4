#!/usr/bin/env bash
# Build the image of Containerfile, and run the smallest study in it to its end. This is no part of .ci/run, as some GB of packages
# are fetched. It needs root, buildah and 20 GB of disk, and leaves the image apfl-bench to buildah and podman. Where the base
# cannot be fetched from its registry, Debian's Python takes its place, by debootstrap. Arguments are options of `buildah bud`:
# a pip that knows a mirror by its settings is given them by --volume /etc/pip.conf:/etc/pip.conf:ro.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
container=
finish() {
    if [[ -n $container ]]; then buildah rm "$container" >/dev/null; fi
    rm -rf "$work"
}
trap finish EXIT

buildah --version
base=$(sed -n 's/^ARG BASE=//p' Containerfile)
if ! buildah pull --quiet "$base"; then
    base=localhost/debian-python
    echo "==> the base is made by debootstrap: $base"
    debootstrap --variant=minbase --include=ca-certificates,python3-venv bookworm "$work/base"
    # As in the base of the registry, `python` is in /usr/local, where pip may install.
    chroot "$work/base" python3 -m venv /usr/local
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/base" /
    buildah commit --quiet --rm "$container" "$base"
    container=
fi

version=0+g$(git rev-parse --short HEAD)
buildah bud --isolation chroot --build-arg "BASE=$base" --build-arg "VERSION=$version" --tag apfl-bench "$@" .
container=$(buildah from apfl-bench)
buildah run --isolation chroot "$container" -- python -m pip show apfl-bench | grep --fixed-strings "Version: $version"
read -ra start <<<"$(buildah inspect --type image --format '{{range .OCIv1.Config.Entrypoint}}{{.}} {{end}}' apfl-bench)"
install -d -o 1000 "$work/results"

# By the user of the image, as it starts, with a volume at /results: buildah knows no entry point.
run() {
    echo "==> $*"
    buildah run --isolation chroot --volume "$work/results:/results" "$container" -- "${start[@]}" "$@"
}
run --configfile=/opt/apfl-bench/config/demo.yaml --dry-run
run --configfile=/opt/apfl-bench/config/config.yaml
[[ -s $work/results/results/first/report.html ]]
