#!/usr/bin/env bash
# Stops this Spark's container. Called by start.sh on both.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
export ROLE=- ADDRESS=- PEER_ADDRESS=- INTERFACES=- ROCE=- RUN_AS=0:0 # compose.yaml wants them, and `down` has no use for them
docker compose --file compose.yaml down
rm -rf keys
