#!/usr/bin/env bash
# Prints facts of this machine, as NAME=VALUE. start.sh sends it to both Sparks and compares what they print.
#
# TOWARDS     the other Spark's address
# INTERFACES  names with commas; empty: those of the port that leads to it
# IMAGE, CONTAINER, BUNDLE, PORTS
set -uo pipefail
: "${TOWARDS:?}" "${INTERFACES?}" "${IMAGE:?}" "${CONTAINER:?}" "${BUNDLE:?}" "${PORTS:?}"

fact() { printf '%s=%s\n' "$1" "$2"; }
word_after() { # WORD TEXT
  awk -v word="$1" '{ for (i = 1; i < NF; i++) if ($i == word) { print $(i + 1); exit } }' <<<"$2"
}
value_of() { # LABEL TEXT: the rest of the line after "LABEL   : "
  awk -v label="$1" -F ' *: ' '{ gsub(/^ +/, "", $1) } $1 == label { print $2; exit }' <<<"$2"
}

programs() {
  local program missing=()
  for program in docker ip ss ping tar sha256sum df dd stat awk nvidia-smi; do
    command -v "${program}" >/dev/null || missing+=("${program}")
  done
  fact missing "${missing[*]-}"
}

machine() {
  fact architecture "$(uname -m)"
  fact clock "$(date +%s)"
  fact arrived "${SSH_CONNECTION-}"
  # CUDA counts the page cache as used, so MemFree decides; MemAvailable tells how much of the rest is page cache.
  fact free "$(($(word_after MemFree: "$(cat /proc/meminfo)") * 1024))"
  fact available "$(($(word_after MemAvailable: "$(cat /proc/meminfo)") * 1024))"
}

gpu() {
  local said
  said=$(timeout 4 nvidia-smi -q 2>/dev/null) || said=""
  fact gpu "$(value_of "Product Name" "${said}")"
  fact driver "$(value_of "Driver Version" "${said}")"
  fact cuda "$(value_of "CUDA Version" "${said}")"
}

containers() {
  local layers
  if ! timeout 3 docker compose version >/dev/null 2>&1 || ! timeout 3 docker version >/dev/null 2>&1; then return; fi
  fact docker yes
  fact container "$(timeout 3 docker inspect --format '{{.State.Status}}' "${CONTAINER}" 2>/dev/null)"
  # The layers name an image by its content in every Docker; its id depends on how Docker keeps images.
  layers=$(timeout 3 docker image inspect --format '{{json .RootFS}}' "${IMAGE}" 2>/dev/null) || return 0
  fact image "$(sha256sum <<<"${layers}" | cut -c 1-12)"
  fact image_bytes "$(timeout 3 docker image inspect --format '{{.Size}}' "${IMAGE}" 2>/dev/null)"
}

disks() {
  local folder=${BUNDLE} root
  while [[ ! -d ${folder} ]]; do folder=$(dirname "${folder}"); done
  [[ -w ${folder} ]] || fact unwritable "${folder}"
  fact bundle_free "$(df --output=avail --block-size=1 "${folder}" | tail -n 1 | tr -d ' ')"
  root=$(timeout 3 docker info --format '{{.DockerRootDir}}' 2>/dev/null)
  [[ -d ${root} ]] || root=${folder} # ours may not enter it
  fact docker_free "$(df --output=avail --block-size=1 "${root}" | tail -n 1 | tr -d ' ')"
  fact disks "$(stat --format %d "${folder}" "${root}" | sort -u | wc -l)"
  [[ ! -f ${BUNDLE}/SHA256SUMS ]] || fact bundle "$(sha256sum <"${BUNDLE}/SHA256SUMS" | cut -c 1-12)"
}

ports() {
  local port used=()
  for port in ${PORTS}; do
    [[ -z $(ss --no-header --listening --numeric --tcp "sport = :${port}") ]] || used+=("${port}")
  done
  fact used_ports "${used[*]-}"
}

# A ConnectX-7 port has two interfaces, such as enp1s0f1np1 and enP2p1s0f1np1.
interfaces_of_port() { # LINK: it, and the other one
  local port=${1##*s0} path
  printf '%s\n' "$1"
  [[ ${port} =~ ^f[0-9]+np[0-9]+$ ]] || return 0
  for path in /sys/class/net/en*s0"${port}"; do
    [[ ${path##*/} == "$1" || ! -e ${path} ]] || printf '%s\n' "${path##*/}"
  done
}

roce_of() { # LINK: its RoCE device and that one's state
  local path
  for path in /sys/class/infiniband/*; do
    [[ -e ${path}/device/net/$1 ]] || continue
    printf '%s %s' "${path##*/}" "$(cut -d ' ' -f 2 "${path}/ports/1/state" 2>/dev/null || echo unknown)"
    return
  done
  printf -- '- -'
}

links() {
  local route link names address path
  route=$(ip -o route get "${TOWARDS}" 2>/dev/null) || return 0
  link=$(word_after dev "${route}")
  fact link "${link}"
  fact address "$(word_after src "${route}")"
  names=${INTERFACES//,/ }
  names=${names:-$(interfaces_of_port "${link}" | paste -sd ' ')}
  fact links "${names}"
  for link in ${names}; do
    path=/sys/class/net/${link}
    [[ -e ${path} ]] || continue
    address=$(ip -o -4 address show dev "${link}" 2>/dev/null | awk '{ sub("/.*", "", $4); print $4; exit }')
    fact "link.${link}" "$(cat "${path}/operstate" 2>/dev/null || echo unknown) $(cat "${path}/speed" 2>/dev/null || echo 0) $(
      cat "${path}/mtu" 2>/dev/null || echo 0
    ) ${address:--} $(roce_of "${link}")"
  done
}

for part in programs machine gpu containers disks ports links; do "${part}" & done
wait
fact complete yes
