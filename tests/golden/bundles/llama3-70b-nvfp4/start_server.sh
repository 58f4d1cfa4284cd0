#!/usr/bin/env bash
# Starts the server of this bundle: ./start_server.sh [nim-serve [--dry-run] | list-model-profiles | …] [-- OPTIONS]
# Lies beside the folder gateway/: in a bundle's folder, and as /opt/nim/start_server.sh in its image.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
export PYTHONPATH="${here}${PYTHONPATH:+:${PYTHONPATH}}"
exec "${PYTHON:-python3}" -P -m gateway "$@"
