#!/usr/bin/env bash
# Starts trtllm-serve over both Sparks: launch.sh trtllm-serve …  (the gateway's NIM_GATEWAY_LAUNCHER)
# Ends when one of the two is lost: then the gateway is not ready any more, and ends with its code.
set -euo pipefail
: "${INTERFACES:?}" "${PEER_ADDRESS:?}"

ssh_folder=${TMPDIR:-/tmp}/ssh

# A session of ssh has none of the container's variables: all of them go along, but for those of this machine, of MPI, and of
# the gateway, which name its keys.
forwarded=()
while read -r name; do
  case "${name}" in
  ADDRESS | PEER_ADDRESS | HOSTNAME | OLDPWD | PWD | SHLVL | _ | SSH_* | OMPI_* | PMIX_* | PRTE_* | NIM_*) ;;
  *) forwarded+=(-x "${name}") ;;
  esac
done < <(compgen -e)

# While this connection lives, each side knows that the other one is there.
exec {open}<> <(:) # a pipe that never ends
ssh -F "${ssh_folder}/config" "${PEER_ADDRESS}" /opt/nim/two-sparks/node.sh bond <&"${open}" &
bond=$!

mpirun=$(command -v mpirun)
"${mpirun}" \
  --prefix "$(dirname "$(dirname "$(readlink -f "${mpirun}")")")" \
  --hostfile "${ssh_folder}/hosts" -np 2 --map-by ppr:1:node \
  --mca plm_rsh_agent "ssh -F ${ssh_folder}/config" \
  --mca btl_tcp_if_include "${INTERFACES}" --mca oob_tcp_if_include "${INTERFACES}" \
  "${forwarded[@]}" \
  trtllm-llmapi-launch "$@" &
ranks=$!
stopping=false
trap 'stopping=true' TERM INT # the gateway ends the whole process group

status=0
wait -n "${bond}" "${ranks}" || status=$?
if kill -0 "${ranks}" 2>/dev/null; then
  ${stopping} || echo "error[PEER_UNREACHABLE]: the second Spark is lost" >&2
  kill -TERM "${ranks}"
  wait "${ranks}" || status=$?
fi
kill "${bond}" 2>/dev/null || true
exit "${status}"
