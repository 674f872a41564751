#!/usr/bin/env bash
# Set up once, then run the tests: ./launch/test.sh [--slow] [pytest arguments]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
select="not slow and not accelerator"
if [ "${1:-}" = "--slow" ]; then select="not accelerator"; shift; fi
exec .venv/bin/python -m pytest -m "$select" "$@"
