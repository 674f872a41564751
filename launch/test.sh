#!/usr/bin/env bash
# Set up once, then run the tests: ./launch/test.sh [--slow] [pytest arguments]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
select="not slow and not accelerator"
if [ "${1:-}" = "--slow" ]; then select="not accelerator"; shift; fi
# A worker a core, at most eight; a file stays with one worker, whose fixtures its tests share.
exec .venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m "$select" "$@"
