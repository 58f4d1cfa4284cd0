#!/usr/bin/env bash
# Serves qwen3-235b-a22b-nvfp4-published on two DGX Sparks, half of each layer on either. Run it on the first one.
#
#   ./start.sh [--dry-run] [--no-sums] [ACTION]
#
#   start    check, then start both and wait until they serve (what happens without ACTION)
#   check    look at both machines and the link between them; change nothing
#   copy     bring bundle and image to the second Spark, over the link
#   status   say how the two containers are
#   logs     show what the first Spark wrote last
#   stop     stop both
#
#   --dry-run  print what would be done to either machine, and do none of it
#   --no-sums  do not read the weights to check them; their list is compared all the same
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

name=qwen3-235b-a22b-nvfp4-published
image=qwen3-235b-a22b-nvfp4-published-two-sparks:79389331d66f
base_image=qwen3-235b-a22b-nvfp4-published:79389331d66f
container=qwen3-235b-a22b-nvfp4-published-node
weight_bytes=625 # over both
startup_seconds=1800

dry_run=false sums=true action=start
problems=0
work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT
bundle=$(cd .. && pwd)

say() { printf '%s\n' "$*"; }
fail() { # STATUS MESSAGE NEXT
  printf 'error: %s\n  → %s\n' "$2" "$3" >&2
  exit "$1"
}
problem() { # MESSAGE NEXT
  printf '✗ %s\n  → %s\n' "$1" "$2" >&2
  problems=$((problems + 1))
}
fine() { say "✓ $*"; }

# Everything that changes a machine goes through these two.
here() {
  if ${dry_run}; then say "here:  $*"; else "$@"; fi
}
there() { # one line for the other Spark's shell
  if ${dry_run}; then say "there: $1"; else on_peer "$1"; fi
}
on_peer() {
  peer_with_input "$1" </dev/null
}
peer_with_input() {
  # shellcheck disable=SC2086,SC2029 # several options of ssh; the line is for the other side
  ssh -o BatchMode=yes -o ConnectTimeout=10 ${SSH_OPTIONS:-} "${PEER}" "$1"
}

read_settings() {
  [[ -f .env ]] || fail 3 "there is no ${PWD}/.env" "cp .env.example .env, and write the second Spark's address into it"
  set -a
  # shellcheck source=/dev/null
  source ./.env
  set +a
  [[ -n ${PEER_ADDRESS-} ]] || fail 3 ".env names no PEER_ADDRESS" "write the second Spark's address on the link into it"
  PEER=${PEER:-${PEER_ADDRESS}}
  PEER_BUNDLE=${PEER_BUNDLE:-${bundle}}
  local route
  route=$(ip -o route get "${PEER_ADDRESS}" 2>/dev/null) ||
    fail 6 "there is no way to ${PEER_ADDRESS}" "give both ends of the ConnectX-7 link addresses: sudo nmtui, or netplan"
  link=$(field dev "${route}")
  ADDRESS=${ADDRESS:-$(field src "${route}")}
  [[ ${link} != lo ]] || fail 3 "PEER_ADDRESS=${PEER_ADDRESS} is this machine" "write the second Spark's address into .env"
}
field() { # NAME TEXT: the word after NAME
  awk -v name="$1" '{ for (i = 1; i < NF; i++) if ($i == name) { print $(i + 1); exit } }' <<<"$2"
}

check_programs() {
  local program
  for program in docker ssh ssh-keygen sha256sum ip ping awk; do
    command -v "${program}" >/dev/null || fail 6 "the command ${program} is not installed" "install it, then try again"
  done
  docker compose version >/dev/null 2>&1 ||
    fail 6 "Docker has no Compose plugin here" "sudo apt-get install -y docker-compose-plugin"
}

check_peer() {
  local said
  said=$(on_peer true 2>&1) ||
    fail 6 "ssh ${PEER} does not work without a password: ${said##*$'\n'}" "ssh-copy-id ${PEER}; options for ssh go into SSH_OPTIONS in .env"
  on_peer "docker compose version >/dev/null 2>&1" ||
    fail 6 "${PEER} has no Docker with Compose for this user" "there: sudo apt-get install -y docker-compose-plugin; sudo usermod -aG docker \$USER"
  fine "ssh to ${PEER}, and Docker there"
}

check_link() {
  local state speed peer_link
  state=$(cat "/sys/class/net/${link}/operstate" 2>/dev/null || echo unknown)
  [[ ${state} == up ]] || problem "${link} is ${state}" "look at the cable: ip link show ${link}"
  ping -c 1 -W 2 -I "${link}" "${PEER_ADDRESS}" >/dev/null 2>&1 ||
    problem "${PEER_ADDRESS} does not answer over ${link}" "look at both ends: ip address show"
  peer_link=$(field dev "$(on_peer "ip -o route get ${ADDRESS}")")
  INTERFACES=${INTERFACES:-$(printf '%s\n' "${link}" "${peer_link}" | sort -u | paste -sd,)}
  [[ ${peer_link} != lo ]] || problem "${PEER} is this machine" "write the second Spark's name into .env"
  speed=$(cat "/sys/class/net/${link}/speed" 2>/dev/null || echo 0)
  if ((speed < ${LINK_SPEED:-100000})); then
    problem "${link} runs at ${speed} Mb/s, a ConnectX-7 link at 100000 or more" \
      "is it the QSFP cable? If it must be this link: LINK_SPEED=${speed} in .env"
  fi
  fine "link ${ADDRESS} (${link}) to ${PEER_ADDRESS} (${peer_link})"
}

same() { # WHAT COMMAND NEXT: the two machines must answer alike
  local ours theirs
  ours=$(bash -c "$2" 2>/dev/null) || ours="nothing"
  theirs=$(on_peer "$2" 2>/dev/null) || theirs="nothing"
  if [[ ${ours} == "${theirs}" && ${ours} != nothing ]]; then
    fine "$1: ${ours##*$'\n'}"
  else
    problem "$1 differs: here ${ours##*$'\n'}, there ${theirs##*$'\n'}" "$3"
  fi
}

check_versions() {
  same architecture "uname -m" "two machines of the same kind are needed"
  same "NVIDIA driver" "nvidia-smi --query-gpu=driver_version --format=csv,noheader" "bring both to the same: sudo apt-get dist-upgrade"
  same "image" "docker image inspect --format '{{.Id}}' ${image}" "build it, and bring it there: ./start.sh copy"
}

check_memory() {
  local need=$((weight_bytes / 2))
  enough here "$(cat /proc/meminfo)" "${need}"
  enough there "$(on_peer "cat /proc/meminfo")" "${need}"
}
enough() { # WHERE MEMINFO BYTES
  local available
  available=$(($(field MemAvailable: "$2") * 1024))
  if ((available < $3)); then
    problem "$1: $((available / 1000000000)) GB of memory are available, half of the weights alone take $(($3 / 1000000000)) GB" \
      "end what else runs $1, then: sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'"
  fi
}

check_weights() {
  local check="grep '  model/' SHA256SUMS | sha256sum --check --quiet --strict -" theirs
  theirs=$(on_peer "cat '${PEER_BUNDLE}/SHA256SUMS'" 2>/dev/null | sha256sum) || true
  if [[ ${theirs} != "$(sha256sum <"${bundle}/SHA256SUMS")" ]]; then
    problem "${PEER} has another bundle in ${PEER_BUNDLE}, or none" "bring it there: ./start.sh copy"
    return
  fi
  ${sums} || { fine "the same bundle on both; its files were not read"; return; }
  say "checking $((weight_bytes / 1000000)) MB on both; this reads all of them …"
  local said=0
  on_peer "cd '${PEER_BUNDLE}' && ${check}" >"${work}/there.log" 2>&1 &
  (cd "${bundle}" && bash -c "${check}") || problem "the files named above are not what was built" "orchestrator build ${name}"
  wait $! || said=$?
  if ((said)); then
    cat "${work}/there.log" >&2
    problem "${PEER}: the files named above are not what was built" "bring them there again: ./start.sh copy"
  else
    fine "the same weights on both"
  fi
}

check() {
  check_programs
  check_peer
  check_link
  check_versions
  check_memory
  check_weights
  ((problems == 0)) || fail 7 "${problems} of these must be mended first" "then again: ./start.sh"
}

copy() {
  check_programs
  check_peer
  here docker build --tag "${base_image}" "${bundle}"
  here docker build --tag "${image}" .
  there "mkdir -p '${PEER_BUNDLE}'"
  if ${dry_run}; then
    say "here:  tar of ${bundle} without .env, keys and secrets | ssh ${PEER} tar --extract; docker save ${image} | ssh ${PEER} docker load"
    return
  fi
  say "copying $((weight_bytes / 1000000)) MB to ${PEER}:${PEER_BUNDLE} …"
  tar --create --directory "${bundle}" --exclude ./.env --exclude ./two-sparks/.env --exclude ./two-sparks/keys . |
    peer_with_input "tar --extract --directory '${PEER_BUNDLE}'"
  say "copying the image ${image} …"
  docker save "${image}" | peer_with_input "docker load"
  fine "${PEER} has the bundle and the image"
}

make_keys() { # for the two containers alone, and new for each start
  local key
  for key in host user; do
    ssh-keygen -q -t ed25519 -N '' -C "${name}" -f "${work}/${key}"
  done
  tar --create --file "${work}/keys.tar" --directory "${work}" host host.pub user user.pub
}

start() {
  check
  local peer_folder="${PEER_BUNDLE}/two-sparks"
  if ${dry_run}; then
    say "here:  make keys for ssh between the two containers"
    say "there: ${peer_folder}/up.sh worker ${PEER_ADDRESS} ${ADDRESS} ${INTERFACES}"
    say "here:  ${PWD}/up.sh head ${ADDRESS} ${PEER_ADDRESS} ${INTERFACES}"
    say "here:  wait for the gateway, at most ${startup_seconds} s"
    return
  fi
  make_keys
  peer_with_input "'${peer_folder}/up.sh' worker '${PEER_ADDRESS}' '${ADDRESS}' '${INTERFACES}'" <"${work}/keys.tar"
  ./up.sh head "${ADDRESS}" "${PEER_ADDRESS}" "${INTERFACES}" <"${work}/keys.tar"
  wait_until_ready
}

state_of() { docker inspect --format '{{.State.Status}}' "${container}" 2>/dev/null || echo "not there"; }
state_there() { on_peer "docker inspect --format '{{.State.Status}}' ${container}" 2>/dev/null || echo "not there"; }

ready() { # asks the gateway's port for health, which never speaks TLS; no curl is needed
  local address=${BIND_ADDRESS:-127.0.0.1} answer
  [[ ${address} != 0.0.0.0 ]] || address=127.0.0.1
  answer=$(exec 3<>"/dev/tcp/${address}/8002" && printf 'GET /v1/health/ready HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3) 2>/dev/null ||
    return 1
  [[ ${answer} == *" 200 "* ]]
}

wait_until_ready() {
  local began=${SECONDS}
  while ! ready; do
    [[ $(state_of) == running && $(state_there) == running ]] || died
    if ((SECONDS - began > startup_seconds)); then
      fail 5 "not ready after ${startup_seconds} s; both go on starting" "./start.sh logs"
    fi
    printf '… loading for %d s: %s\n' "$((SECONDS - began))" "$(docker logs --tail 1 "${container}" 2>&1 | cut -c 1-100)"
    sleep "${POLL_SECONDS:-10}"
  done
  fine "${name} is served on http://${BIND_ADDRESS:-127.0.0.1}:${PORT:-8355}/v1 after $((SECONDS - began)) s"
}
died() {
  say "here, $(state_of):"
  docker logs --tail 20 "${container}" 2>&1 || true
  say "there, $(state_there):"
  on_peer "docker logs --tail 20 ${container}" 2>&1 || true
  stop >/dev/null 2>&1 || true
  fail 5 "it ended before it was ready; its last lines are above" "mend what they say, then again: ./start.sh"
}

stop() {
  here ./down.sh
  there "'${PEER_BUNDLE}/two-sparks/down.sh'"
}

status() {
  say "here:  $(state_of)"
  say "there: $(state_there)"
  if ready; then say "ready"; else say "not ready"; fi
}

while (($#)); do
  case "$1" in
  --dry-run) dry_run=true ;;
  --no-sums) sums=false ;;
  start | check | copy | status | logs | stop) action=$1 ;;
  -h | --help)
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
  *) fail 2 "unknown argument: $1" "./start.sh --help" ;;
  esac
  shift
done
read_settings
case "${action}" in
logs) docker logs --tail 50 "${container}" ;;
*) "${action}" ;;
esac
