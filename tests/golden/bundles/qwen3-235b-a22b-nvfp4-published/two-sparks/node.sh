#!/usr/bin/env bash
# Runs in the container of each Spark. node.sh worker: let mpirun in, until the head is lost. node.sh head: wait for the worker,
# then serve. node.sh bond: what the head runs in the worker for as long as it serves.
set -euo pipefail
if [[ ${1-} == bond ]]; then # ssh gives no variables
  touch "${TMPDIR:-/tmp}/ssh/joined"
  cat >/dev/null
  touch "${TMPDIR:-/tmp}/ssh/left" # the head may come and go within a second, so nothing that was there is taken away
  exit
fi
: "${ADDRESS:?}" "${PEER_ADDRESS:?}" "${SSH_PORT:?}"

ssh_folder=${TMPDIR:-/tmp}/ssh
wait_seconds=120

prepare_ssh() {
  mkdir -p "${ssh_folder}"
  local name
  for name in host user; do
    install -m 0600 "/run/keys/${name}" "${ssh_folder}/${name}" # ssh wants them to be ours alone
  done
  printf '[%s]:%s %s\n' "${PEER_ADDRESS}" "${SSH_PORT}" "$(cat /run/keys/host.pub)" >"${ssh_folder}/known_hosts"
  cat >"${ssh_folder}/config" <<CONFIG
Host *
  Port ${SSH_PORT}
  IdentityFile ${ssh_folder}/user
  IdentitiesOnly yes
  BatchMode yes
  StrictHostKeyChecking yes
  UserKnownHostsFile ${ssh_folder}/known_hosts
  ServerAliveInterval 5
CONFIG
  cat >"${ssh_folder}/sshd_config" <<CONFIG
Port ${SSH_PORT}
ListenAddress ${ADDRESS}
HostKey ${ssh_folder}/host
AuthorizedKeysFile /run/keys/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding no
X11Forwarding no
PermitTunnel no
ClientAliveInterval 3
ClientAliveCountMax 3
SetEnv TMPDIR=${TMPDIR:-/tmp}
CONFIG
}

be_worker() {
  local waited=0
  rm -f "${ssh_folder}/joined" "${ssh_folder}/left"
  /usr/sbin/sshd -D -e -f "${ssh_folder}/sshd_config" &
  sshd=$!
  trap 'kill "${sshd}"; exit 143' TERM INT
  until [[ -e ${ssh_folder}/joined ]]; do
    ((++waited <= 2 * wait_seconds)) || leave PEER_UNREACHABLE "the head on ${PEER_ADDRESS} did not come"
    wait_a_second
  done
  until [[ -e ${ssh_folder}/left ]]; do wait_a_second; done
  leave PEER_UNREACHABLE "the head on ${PEER_ADDRESS} is gone"
}
wait_a_second() {
  kill -0 "${sshd}" 2>/dev/null || leave SERVER_ENDED "sshd ended"
  sleep 1 &
  wait $! # a signal ends it at once
}
leave() { # CODE MESSAGE
  echo "error[$1]: $2" >&2
  kill "${sshd}" 2>/dev/null || true
  exit 6
}

be_head() {
  printf '%s slots=1\n' "${ADDRESS}" "${PEER_ADDRESS}" >"${ssh_folder}/hosts"
  local waited=0
  until ssh -F "${ssh_folder}/config" "${PEER_ADDRESS}" true 2>"${ssh_folder}/error"; do
    if ((++waited > wait_seconds)); then
      echo "error[PEER_UNREACHABLE]: the worker on ${PEER_ADDRESS} does not answer on port ${SSH_PORT}: $(tail -n 1 "${ssh_folder}/error")" >&2
      exit 6
    fi
    sleep 1
  done
  export NIM_GATEWAY_LAUNCHER="/opt/nim/two-sparks/launch.sh"
  exec /opt/nim/start_server.sh nim-serve
}

prepare_ssh
case "${1-}" in
worker) be_worker ;;
head) be_head ;;
*)
  echo "usage: node.sh worker | head" >&2
  exit 2
  ;;
esac
