#!/usr/bin/env bash
# Run a recipe on every host of a Cloud TPU slice; each finds the others through the TPU's metadata.
#
#   TPU=my-slice ZONE=us-central2-b ./launch/tpu_pod.sh configs/cifar10.py [stage.field=value ...]
#
# The checkout must lie in ~/jaxmini on every host, and the run's folder on storage that all of them see:
# give --workdir for that. The first call sets up .venv with jax[tpu].
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?its zone}"
setup='cd ~/jaxmini && source launch/setup.sh && .venv/bin/python -m pip install --quiet "jax[tpu]==0.10.2"'
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "bash -c '$setup'"
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all \
    --command "cd ~/jaxmini && JAXMINI_NUM_PROCESSES=auto .venv/bin/python -m jaxmini run $(printf '%q ' "$@")"
