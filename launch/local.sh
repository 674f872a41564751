#!/usr/bin/env bash
# Set up once, then run a recipe on this machine: ./launch/local.sh [CONFIG] [stage.field=value ...]
set -euo pipefail
here=$(pwd)
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [ $# -eq 0 ]; then set -- configs/quickstart.py; fi
if [ ! -f "$1" ] && [ -f "$here/$1" ]; then set -- "$here/$1" "${@:2}"; fi
exec .venv/bin/python -m jaxmini run "$@"
