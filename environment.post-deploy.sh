#!/usr/bin/env bash
# Snakemake runs this in the conda environment that it has just made from environment.yml. With APFL_LOCK=locks/core.txt or full.txt the
# packages are then those of the lock. A pin file (environment.linux-64.pin.txt) takes the place of environment.yml, packages of pip
# included, so that with one APFL_LOCK has to be set.
set -euo pipefail
if [[ -n ${APFL_LOCK:-} ]]; then
    python -m pip install --no-input --require-hashes --requirement "$APFL_LOCK"
elif ! python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
    echo "environment.post-deploy.sh: no packages of pip are installed; set APFL_LOCK=FOLDER/locks/core.txt" >&2
    exit 1
fi
