#!/usr/bin/env bash
# Starts this Spark's container. Called by start.sh on both: up.sh head|worker ADDRESS PEER_ADDRESS INTERFACES ROCE <keys.tar
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
export ROLE=$1 ADDRESS=$2 PEER_ADDRESS=$3 INTERFACES=$4 ROCE=$5

umask 077
mkdir -p keys
tar --extract --directory keys
printf '%s\n' "${ROLE}" >keys/role # start.sh reads it here on the second Spark, which has no .env
uid=$(id -u) gid=$(id -g)
if ((uid == 0)); then # root without any capability could not let ssh in
  uid=1000 gid=1000
  chown -R "${uid}:${gid}" keys
fi
printf 'root:x:0:0:root:/root:/bin/bash\nnim:x:%s:%s::/tmp:/bin/bash\n' "${uid}" "${gid}" >keys/passwd
chmod 0644 keys/passwd
RUN_AS=${uid}:${gid} docker compose --file compose.yaml up --detach --no-build
