#!/usr/bin/env bash
# Make .venv from the pinned, hashed versions in requirements.lock (uv when it is there, pip otherwise).
# Sourced by the other scripts; does nothing when .venv already matches the lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=.venv/.installed
wanted=$(cat requirements.lock pyproject.toml | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
        echo "jaxmini needs Python 3.11, 3.12 or 3.13; $("$python" --version) was found. Set PYTHON=/path/to/python3.x" >&2
        exit 2
    }
    echo "Setting up .venv from requirements.lock (once)"
    if command -v uv >/dev/null; then
        uv venv --quiet --seed --allow-existing --python "$python" .venv
        uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
        uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
    else
        "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --require-hashes -r requirements.lock
        .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
    fi
    echo "$wanted" > "$stamp"
fi
