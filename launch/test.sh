#!/usr/bin/env bash
# Set up once, then run the tests: ./launch/test.sh [--slow] [pytest arguments]
# The slow ones run as users' programs do, optimized by XLA; the others where JAXMINI_TEST_OPTIMIZED=1 asks for it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
select="not slow and not accelerator"
if [ "${1:-}" = "--slow" ]; then
    select="not accelerator"
    export JAXMINI_TEST_OPTIMIZED=1
    shift
fi
# A worker a core, at most eight. Each begins with a run of neighbours, which share fixtures; one that is done
# takes half of what the busiest has left, so that all end at once.
exec .venv/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "$select" "$@"
