#!/usr/bin/env bash
# Starts trtllm-serve over both Sparks: launch.sh trtllm-serve …  (the gateway's NIM_GATEWAY_LAUNCHER)
set -euo pipefail
: "${INTERFACES:?}"

ssh_folder=${TMPDIR:-/tmp}/ssh

# A session of ssh has none of the container's variables: all of them go along, but for those of this machine or of MPI.
forwarded=()
while read -r name; do
  case "${name}" in
  ADDRESS | PEER_ADDRESS | HOSTNAME | OLDPWD | PWD | SHLVL | _ | SSH_* | OMPI_* | PMIX_* | PRTE_*) ;;
  *) forwarded+=(-x "${name}") ;;
  esac
done < <(compgen -e)

mpirun=$(command -v mpirun)
exec "${mpirun}" \
  --prefix "$(dirname "$(dirname "$(readlink -f "${mpirun}")")")" \
  --hostfile "${ssh_folder}/hosts" -np 2 --map-by ppr:1:node \
  --mca plm_rsh_agent "ssh -F ${ssh_folder}/config" \
  --mca btl_tcp_if_include "${INTERFACES}" --mca oob_tcp_if_include "${INTERFACES}" \
  "${forwarded[@]}" \
  trtllm-llmapi-launch "$@"
