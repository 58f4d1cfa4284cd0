#!/usr/bin/env bash
# Serves qwen3-235b-a22b-nvfp4-published on two DGX Sparks, half of each layer on either. Run it on the first one.
#
#   ./start.sh [--dry-run] [--no-sums] [ACTION]
#
#   start    check, then start both and wait until they serve (what happens without ACTION)
#   check    look at both machines and the link between them; change nothing
#   copy     check, then bring image and bundle to the second Spark over the link; run it again if it was cut
#   status   say how the two containers are
#   logs     show what the first Spark wrote last
#   stop     stop both; on the second Spark: its own container
#
#   --dry-run  print what would be done to either machine, and do none of it
#   --no-sums  do not read the weights; their names and sizes are compared all the same
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

name=qwen3-235b-a22b-nvfp4-published
image=qwen3-235b-a22b-nvfp4-published-two-sparks:79389331d66f
base_image=qwen3-235b-a22b-nvfp4-published:79389331d66f
container=qwen3-235b-a22b-nvfp4-published-node
label=dev.orchestrator.bundle # of an image: the digest of the files of the bundle that it was built from
build_bytes=2000000000 # of Docker's disk, besides the runtime's image
memory=48000000000 # bytes on each Spark, as the plan says
startup_seconds=1800
port=8355 health_port=8002 ssh_port=2233
private=(.env secrets two-sparks/.env two-sparks/keys edited) # what never leaves this machine

dry_run=false sums=true action=start half_started=false
seconds="" # after which a command over ssh is given up; a check sets it, because a cable may be pulled at any moment
answer_seconds=7 ssh_seconds=8 # for all that a machine is asked; pings take one more
work=$(mktemp -d)
bundle=$(cd .. && pwd)

say() { printf '%s\n' "$*"; }
fine() { say "✓ $*"; }
fail() { # STATUS CODE MESSAGE NEXT: the codes are in docs/how-to/two-sparks.md
  printf 'error[%s]: %s\n  → %s\n' "$2" "$3" "$4" >&2
  exit "$1"
}

ended() {
  if ${half_started}; then
    say "taking the second Spark's container down as well"
    peer_stops || say "it ends by itself within five minutes, without the first one"
  fi
  rm -rf "${work}"
}
trap ended EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

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
  ${seconds:+timeout "${seconds}"} ssh -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=5 -o ServerAliveCountMax=2 ${SSH_OPTIONS:-} "${PEER}" "$1"
}
script() { # FILE NAME=VALUE …: the text of a script that has these variables
  local file=$1 assignment
  shift
  for assignment; do printf '%s=%q\n' "${assignment%%=*}" "${assignment#*=}"; done
  cat "${file}"
}

read_settings() {
  [[ -f .env ]] || fail 3 SETTINGS_MISSING "there is no ${PWD}/.env" "cp .env.example .env, and write the second Spark's address into it"
  local plain="[^[:space:]'\"#]*" wrong
  wrong=$(grep -navE "^\s*(#.*)?\$|^(export )?[A-Za-z_][A-Za-z0-9_]*=('[^']*'|\"[^\"]*\"|${plain})(\s+#.*)?\s*\$" .env | head -n 1) || true
  [[ -z ${wrong} ]] || fail 3 SETTINGS_MISSING ".env, line ${wrong%%:*}: expected NAME=value, in quotes if it has spaces" "mend this line of ${PWD}/.env"
  set -a
  # shellcheck source=/dev/null
  source <(sed 's/\r$//' .env) # an editor of Windows may have written it
  set +a
  [[ -n ${PEER_ADDRESS-} ]] || fail 3 SETTINGS_MISSING ".env names no PEER_ADDRESS" "write the second Spark's address on the link into it"
  PEER=${PEER:-${PEER_ADDRESS}}
  PEER_BUNDLE=${PEER_BUNDLE:-${bundle}}
  port=${PORT:-${port}}
  named_interfaces=${INTERFACES-}
}

declare -A ours=() theirs=()
lists=()
problems=()
codes=()

problem() { # CODE MESSAGE NEXT
  codes+=("$1")
  problems+=("$2"$'\n'"  → $3")
}
fail_with_problems() { # one error, with all that was found
  ((${#problems[@]})) || return 0
  if ((${#problems[@]} == 1)); then
    printf 'error[%s]: %s\n' "${codes[0]}" "${problems[0]}" >&2
  else
    local index
    printf 'error[CHECK_FAILED]: %d checks failed, and nothing was changed:\n' "${#problems[@]}" >&2
    for index in "${!problems[@]}"; do printf '  %s: %s\n' "${codes[index]}" "${problems[index]/$'\n'/$'\n'  }" >&2; done
  fi
  exit 7
}

ask_both() { # reads the facts of both machines and the names of their weights, at the same time and in one call over ssh
  local address asked said=0
  command -v ip >/dev/null || fail 6 DEPENDENCY_MISSING "the command ip is not installed here" "sudo apt-get install -y iproute2"
  address=$(ip -o route get "${PEER_ADDRESS}" 2>/dev/null | sed -n 's/.* src \([^ ]*\).*/\1/p') || true
  [[ -n ${address} ]] || fail 6 LINK_DOWN "there is no way to ${PEER_ADDRESS}" "give both ends of the ConnectX-7 link addresses: sudo netplan apply"
  ADDRESS=${ADDRESS:-${address}}
  lists=("SIZES=$(cat sizes)" "DIGESTS=$(grep '  model/' "${bundle}/SHA256SUMS")") # what the weights have to be
  questions "TOWARDS=${ADDRESS}" "BUNDLE=${PEER_BUNDLE}" "PORTS=${ssh_port}" |
    seconds=${ssh_seconds} peer_with_input "timeout ${answer_seconds} bash -s" >"${work}/there" 2>"${work}/there.log" &
  asked=$!
  questions "TOWARDS=${PEER_ADDRESS}" "BUNDLE=${bundle}" "PORTS=${ssh_port} ${port} ${health_port}" |
    timeout "${answer_seconds}" bash -s >"${work}/here" 2>"${work}/here.log" || said=$?
  read_answer here ours
  ((said != 124)) || fail 6 CHECK_FAILED "this machine did not answer within ${answer_seconds} s" "look at it: docker info; nvidia-smi; ls ${bundle}/model"
  answered here "${said}" "${ours[complete]-} ${ours[clock]-}"
  said=0
  wait "${asked}" || said=$?
  read_answer there theirs
  ((said == 0)) || [[ ${theirs[complete]-} == yes && ${said} != 124 && ${said} != 255 ]] || not_reached "${said}"
  answered there "${said}" "${theirs[complete]-} ${theirs[clock]-}"
}
questions() { # NAME=VALUE …: the scripts that a machine answers with, first its facts, then the differences of its weights
  script facts.sh "INTERFACES=${named_interfaces}" "IMAGE=${image}" "CONTAINER=${container}" "$@"
  script weights.sh ACTION=names "${lists[@]}"
}
read_answer() { # here|there NAME of the array; without what .bashrc may print, and without what bash's arithmetic would run
  local -n facts=$2
  local key value
  facts=()
  while IFS='=' read -r key value; do
    case ${key} in clock | free | available | disks | *_free | *_bytes) [[ ${value} =~ ^[0-9]+$ ]] || continue ;; *) ;; esac
    # shellcheck disable=SC2034 # it is the array of that name
    facts["${key}"]=${value//[^[:alnum:] .\/:_,()+@-]/?}
  done < <(grep -aE '^[[:alnum:]_.@-]+=' "${work}/$1")
  only_differences <"${work}/$1" >"${work}/$1.weights"
}
only_differences() { sed -nE '/^(missing|size|other|sum|leftover|unlisted)\t/{s/[\x01-\x08\x0b-\x1f\x7f]/?/g;p}'; }
answered() { # here|there STATUS "COMPLETE CLOCK"
  [[ $3 == "yes "?* ]] || fail 6 CHECK_FAILED "$1: the facts are not complete: $(tail -n 1 "${work}/$1.log")" "again: ./start.sh check"
  (($2 == 0)) || weights_not_compared "$1"
}
weights_not_compared() { # here|there
  fail 6 ARTIFACT_CORRUPT "$1: the weights cannot be compared: $(tail -n 1 "${work}/$1.log")" "may this user read the bundle's model/ $1?"
}
not_reached() { # STATUS of ssh
  local said
  said=$(tail -n 1 "${work}/there.log")
  if grep -q 'IDENTIFICATION HAS CHANGED' "${work}/there.log"; then
    fail 6 HOST_KEY "${PEER} has another host key than before" \
      "if it was installed again: ssh-keygen -R ${PEER#*@}, then ssh ${PEER} once and compare the key"
  elif grep -q 'Host key verification failed' "${work}/there.log"; then
    fail 6 HOST_KEY "ssh does not know the host key of ${PEER}" "ssh ${PEER} once, compare the key it shows and accept it"
  elif (($1 == 124)); then
    fail 6 PEER_UNREACHABLE "${PEER} did not answer within ${ssh_seconds} s" "look at it: ssh ${PEER} docker info; ssh ${PEER} nvidia-smi"
  elif grep -q 'Connection refused' "${work}/there.log"; then
    fail 6 PEER_UNREACHABLE "no ssh server listens on ${PEER}: ${said}" \
      "there: sudo apt-get install -y openssh-server; another port goes into SSH_OPTIONS in .env"
  fi
  fail 6 PEER_UNREACHABLE "ssh ${PEER} does not work without a password: ${said:-it ended with status $1}" \
    "ssh-copy-id ${PEER}; options for ssh go into SSH_OPTIONS in .env"
}

check_programs() {
  local where missing
  for where in here there; do
    missing=$(fact_of "${where}" missing)
    [[ -z ${missing} ]] || problem DEPENDENCY_MISSING "${where}: not installed: ${missing}" "install them ${where} with apt-get"
    [[ $(fact_of "${where}" docker) == yes ]] || problem DOCKER_UNAVAILABLE "${where}: no Docker with Compose for this user" \
      "${where}: sudo apt-get install -y docker-compose-plugin; sudo usermod -aG docker \$USER"
  done
}
fact_of() { # here|there FACT
  if [[ $1 == here ]]; then printf '%s' "${ours[$2]-}"; else printf '%s' "${theirs[$2]-}"; fi
}

same() { # WHAT FACT CODE NEXT
  if [[ -n ${ours[$2]-} && ${ours[$2]} == "${theirs[$2]-}" ]]; then
    fine "$1: ${ours[$2]}"
  else
    problem "$3" "$1 differs: here ${ours[$2]:-none}, there ${theirs[$2]:-none}" "$4"
  fi
}
check_alike() {
  local upgrade="bring both to the same: sudo apt-get dist-upgrade, then restart"
  same architecture architecture MACHINES_DIFFER "two machines of the same kind are needed"
  same GPU gpu MACHINES_DIFFER "see what nvidia-smi says on both"
  same "NVIDIA driver" driver MACHINES_DIFFER "${upgrade}"
  same CUDA cuda MACHINES_DIFFER "${upgrade}"
  local apart=$((ours[clock] - theirs[clock]))
  apart=${apart#-}
  ((apart <= ${CLOCK_SECONDS:-30})) ||
    problem CLOCKS_DIFFER "the clocks are ${apart} s apart" "on both: sudo timedatectl set-ntp true"
}

check_link() {
  local name index mine=() other=() arrived
  [[ ${ours[link]-} != lo && ${theirs[link]-} != lo ]] ||
    problem SETTINGS_MISSING "PEER_ADDRESS=${PEER_ADDRESS} or PEER=${PEER} is this machine" "write the second Spark's address into .env"
  if [[ -z ${theirs[link]-} ]]; then
    problem LINK_DOWN "there: no way to ${ADDRESS}" "give both ends of the ConnectX-7 link addresses: sudo netplan apply"
    return
  fi
  read -r -a arrived <<<"${theirs[arrived]-}"
  [[ ${arrived[2]-} == "${PEER_ADDRESS}" ]] ||
    problem OTHER_LINK "ssh ${PEER} arrives at ${arrived[2]:-another address}, not over the link" "PEER=USER@${PEER_ADDRESS} in .env"
  for name in ${named_interfaces//,/ }; do
    [[ -n ${ours[link.${name}]-}${theirs[link.${name}]-} ]] ||
      problem INTERFACE_MISSING "neither machine has an interface ${name}" "see their names: ip -br link; INTERFACES=… in .env"
  done
  for name in ${ours[links]-}; do
    [[ -z ${ours[link.${name}]-} ]] || { mine+=("${name}") && check_interface here "${name}" "${ours[link.${name}]}"; }
  done
  for name in ${theirs[links]-}; do
    [[ -z ${theirs[link.${name}]-} ]] || { other+=("${name}") && check_interface there "${name}" "${theirs[link.${name}]}"; }
  done
  ((${#mine[@]} == ${#other[@]} && ${#mine[@]})) || problem INTERFACE_MISSING \
    "the interfaces do not pair: here ${mine[*]-none}, there ${other[*]-none}" "name those of the cable: INTERFACES=… in .env"
  for index in "${!mine[@]}"; do ping_way "${mine[index]}" "${other[index]-}"; done
  wait
  for index in "${!mine[@]}"; do check_way "${mine[index]}" "${other[index]-}"; done
  INTERFACES=$(printf '%s\n' "${mine[@]}" "${other[@]}" | sort -u | paste -sd ,)
  ROCE=$(roce_devices | sort -u | paste -sd ,)
}
check_interface() { # here|there NAME FACTS
  local state speed address device active
  read -r state speed _ address device active <<<"$3"
  [[ ${state} == up ]] || problem LINK_DOWN "$1: $2 is ${state}" "look at the cable: ip link show $2"
  [[ ${address} != - ]] ||
    problem LINK_DOWN "$1: $2 has no address, and carries half of the port's 200 Gb/s" \
      "give it one with netplan, in a network of its own; or use the other one only: INTERFACES=… in .env"
  { [[ ${speed} =~ ^[0-9]+$ ]] && ((speed >= ${LINK_SPEED:-100000})); } || problem LINK_SLOW "$1: $2 runs at ${speed} Mb/s, a ConnectX-7 link at 100000 or more" \
    "is it the QSFP cable? If it must be this link: LINK_SPEED=${speed} in .env"
  [[ ${active} == ACTIVE ]] || problem ROCE_MISSING "$1: $2 has no active RoCE device (${device})" \
    "$1: ibdev2netdev lists them; without one, NCCL would use TCP"
}
ping_way() { # OUR-INTERFACE THEIR-INTERFACE: one small packet and one as large as they may be, in the background
  local mtu address
  read -r _ _ mtu _ <<<"${ours[link.$1]-}"
  read -r _ _ _ address _ <<<"${theirs[link.$2]-}"
  [[ -n ${mtu} && -n ${address} && ${address} != - ]] || return 0
  ping -c 1 -W 1 -I "$1" "${address}" >/dev/null 2>&1 && touch "${work}/small.$1" &
  ping -c 1 -W 1 -M "do" -s $((mtu - 28)) -I "$1" "${address}" >/dev/null 2>&1 && touch "${work}/large.$1" &
}
check_way() { # OUR-INTERFACE THEIR-INTERFACE
  local mtu their_mtu address
  read -r _ _ mtu _ <<<"${ours[link.$1]-}"
  read -r _ _ their_mtu address _ <<<"${theirs[link.$2]-}"
  [[ -n ${mtu} && -n ${their_mtu} && ${address} != - ]] || return 0
  if [[ ${mtu} != "${their_mtu}" ]]; then
    problem MTU_DIFFERS "the MTU differs: $1 here has ${mtu}, $2 there ${their_mtu}" "on both: sudo ip link set NAME mtu 9000, and in netplan"
  elif [[ ! -e ${work}/small.$1 ]]; then
    problem LINK_DOWN "${address} does not answer over $1" "look at both ends: ip address show"
  elif [[ ! -e ${work}/large.$1 ]]; then
    problem MTU_DIFFERS "packets of ${mtu} bytes do not reach ${address} over $1" "does a switch lie between them? Its MTU must be ${mtu}"
  else
    fine "link $1 to ${address} ($2), MTU ${mtu}"
  fi
}
roce_devices() {
  local key device
  for key in "${!ours[@]}" "${!theirs[@]}"; do
    [[ ${key} == link.* ]] || continue
    for device in "${ours[${key}]-}" "${theirs[${key}]-}"; do
      read -r _ _ _ _ device _ <<<"${device}"
      [[ ${device:--} == - ]] || printf '%s\n' "${device}"
    done
  done
}

check_free_ports() { # of a pair that does not run
  local where used
  for where in here there; do
    used=$(fact_of "${where}" used_ports)
    [[ -z ${used} ]] || problem PORT_IN_USE "${where}: another program listens on port ${used// /, }" \
      "${where}: sudo ss -ltnp shows it; PORT=… in .env moves the server's"
  done
}

check_memory() {
  local where free available
  for where in here there; do
    free=$(fact_of "${where}" free) available=$(fact_of "${where}" available)
    ((free < memory)) || continue
    if ((available >= memory)); then
      problem MEMORY_BUDGET "${where}: CUDA finds $(gb "${free}") of memory, serving takes $(gb "${memory}"); the page cache holds the rest" \
        "${where}: sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'"
    else
      problem MEMORY_BUDGET "${where}: $(gb "${available}") of memory are available, serving takes $(gb "${memory}")" \
        "end what else runs ${where}: docker ps; ps aux --sort=-rss | head"
    fi
  done
}
gb() { awk -v bytes="$1" 'BEGIN { printf "%.1f GB", bytes / 1e9 }'; }

compare_weights() { # here|there ACTION: prints the differences, one a line
  if [[ $1 == here ]]; then
    script weights.sh "BUNDLE=${bundle}" "ACTION=$2" "${lists[@]}" | bash -s
  else
    script weights.sh "BUNDLE=${PEER_BUNDLE}" "ACTION=$2" "${lists[@]}" | peer_with_input "bash -s" | only_differences
  fi
}
compare_sums() { # at the same time, into files; takes minutes
  local failed=""
  compare_weights there sums >"${work}/there.weights" 2>"${work}/there.log" &
  compare_weights here sums >"${work}/here.weights" 2>"${work}/here.log" || failed=here
  wait $! || failed=there
  [[ -z ${failed} ]] || weights_not_compared "${failed}"
}
weights_problem() { # here|there NEXT
  local found count
  found=$(tr '\t' ' ' <"${work}/$1.weights")
  [[ -n ${found} ]] || return 0
  count=$(wc -l <<<"${found}")
  problem ARTIFACT_CORRUPT "$1: ${count} files of the weights differ: $(head -n 3 <<<"${found}" | paste -sd ,)" "$2"
}
our_weights_problem() {
  weights_problem here "remove what is unlisted; this brings back the rest: orchestrator build ${name}"
}
weights_problems() {
  our_weights_problem
  weights_problem there "remove what is unlisted there; this brings the rest again: ./start.sh copy"
}

check_machines() { # what a copy needs as well
  check_programs
  check_alike
  check_link
}
check() {
  ask_both
  check_answers
}
check_answers() {
  check_machines
  if [[ ${ours[container]-} != running && ${theirs[container]-} != running ]]; then
    check_free_ports
    check_memory
  fi
  same image image IMAGE_UNAVAILABLE "build it, and bring it there: ./start.sh copy"
  if [[ ${theirs[bundle]-} == "${ours[bundle]-none}" ]]; then
    weights_problems
  else
    problem NOT_BUILT "${PEER} has another bundle in ${PEER_BUNDLE}, or none" "bring it there: ./start.sh copy"
  fi
  fail_with_problems # before the sums, which take minutes
  if ! ${sums}; then
    fine "the same names and sizes of the weights on both; their content was not read"
    return
  fi
  say "reading the weights on both …"
  compare_sums
  weights_problems
  fail_with_problems
  fine "the same weights on both"
}

may_leave() { # FILE of the bundle
  local one
  [[ $1 != secrets/README ]] || return 0
  for one in "${private[@]}"; do
    [[ $1 != "${one}" && $1 != "${one}"/* ]] || return 1
  done
}
small_files() { # what the build lists, besides the weights and an archive's own files
  local path
  while read -r _ path; do
    case ${path} in
    model/* | images/* | install.sh | model.sig) ;;
    *) ! may_leave "${path}" || printf '%s\n' "${path}" ;;
    esac
  done <"${bundle}/SHA256SUMS"
}
files_to_copy() { # nothing else leaves, whatever it is
  small_files
  printf 'SHA256SUMS\n'
  [[ ! -f ${bundle}/model.sig ]] || printf 'model.sig\n' # the second Spark can be asked whose bundle it is, too
}

check_disk() { # BYTES of weights to send
  local weights=$(($1 + $1 / 100)) images=0
  [[ -z ${theirs[unwritable]-} ]] || problem NO_PERMISSION "there: ${theirs[unwritable]} cannot be written" \
    "create ${PEER_BUNDLE} for this user, or name another folder: PEER_BUNDLE=… in .env"
  # `docker load` unpacks beside what it received.
  [[ ${ours[image]-none} == "${theirs[image]-}" ]] || images=$((2 * ${ours[image_bytes]:-0}))
  if [[ ${theirs[disks]-1} == 1 ]]; then weights=$((weights + images)) images=0; fi
  ((${theirs[bundle_free]:-0} >= weights)) || problem DISK_FULL \
    "there: the disk of ${PEER_BUNDLE} has $(gb "${theirs[bundle_free]:-0}") free, the copy takes $(gb "${weights}")" \
    "free some space there, or name another disk: PEER_BUNDLE=… in .env"
  ((${theirs[docker_free]:-0} >= images)) || problem DISK_FULL \
    "there: Docker's disk has $(gb "${theirs[docker_free]:-0}") free, the image takes $(gb "${images}")" "there: docker system df; docker image prune"
}

bytes_of() { # reads FILEs of the weights, one a line
  awk 'NR == FNR { size[substr($0, length($1) + 2)] = $1; next } { sum += size[$0] } END { printf "%.0f", sum }' sizes -
}

transfer() { # WHAT LINE COMMAND…: the command's output goes into LINE of the second Spark; each failure is one error of ours
  local what=$1 line=$2 status=0 said
  shift 2
  "$@" 2>"${work}/sent.log" | peer_with_input "${line}" >"${work}/received.log" 2>&1 || status=$?
  ((status)) || return 0
  said=$(cat "${work}/sent.log" "${work}/received.log" | grep -v '^Loaded image' | tail -n 1) || true
  if grep -qi 'no space left' "${work}/received.log"; then
    fail 6 DISK_FULL "the second Spark's disk became full while ${what} came" "free some space there, then again: ./start.sh copy continues"
  fi
  fail 6 COPY_CUT "the copy of ${what} was cut: ${said:-the connection ended}" "again: ./start.sh copy continues"
}
send_files() { # WHAT: reads FILEs, one a line
  cat >"${work}/list"
  [[ -s ${work}/list ]] || return 0
  transfer "$1" "mkdir -p '${PEER_BUNDLE}' && tar --extract --no-same-owner --directory '${PEER_BUNDLE}'" \
    tar --create --directory "${bundle}" --no-recursion --hard-dereference --verbatim-files-from --files-from "${work}/list"
}

are_built() { # from these files, here or by the machine that wrote an archive; sets digest, empty if a file is missing
  local one built=""
  digest=$(small_files | (cd "${bundle}" && xargs --delimiter='\n' sha256sum --) 2>"${work}/files.log" | sha256sum | cut -c -64) || digest=""
  for one in "${base_image}" "${image}"; do built+=$(label_of "${one}"); done
  [[ -n ${digest} && ${built} == "${digest}${digest}" ]]
}
check_own_disk() { # what is to be built; Docker knows the size of the runtime's image only after it was pulled
  ((${ours[docker_free]:-0} >= build_bytes)) || problem DISK_FULL \
    "here: Docker's disk has $(gb "${ours[docker_free]:-0}") free, building the image takes $(gb "${build_bytes}") besides its base" \
    "free some space here: docker system df; docker image prune"
}
build_images() {
  if are_built; then
    fine "the image ${image} was built from these files"
    return
  fi
  [[ -n ${digest} ]] || fail 7 ARTIFACT_CORRUPT "the bundle lacks a file: $(tail -n 1 "${work}/files.log")" "bring it back: orchestrator build ${name}"
  if ! here docker build --tag "${base_image}" --label "${label}=${digest}" "${bundle}" 2>&1 | tee "${work}/build.log" ||
    ! here docker build --tag "${image}" --label "${label}=${digest}" . 2>&1 | tee --append "${work}/build.log"; then
    ! grep -qi 'no space left' "${work}/build.log" ||
      fail 6 DISK_FULL "Docker's disk here became full while the image was built" "docker system df; docker image prune; then again: ./start.sh copy"
    fail 6 IMAGE_UNAVAILABLE "the image ${image} cannot be built; Docker's words are above" "its base needs a network once; then again: ./start.sh copy"
  fi
}

label_of() { # IMAGE
  docker image inspect --format "{{index .Config.Labels \"${label}\"}}" "$1" 2>/dev/null || true
}

copy() {
  local kept=names cleaning=clean found missing bytes digest=""
  if ${sums}; then kept=sums cleaning=clean-sums; fi
  exec {lock}<.
  flock --nonblock "${lock}" || fail 6 BUSY "another start.sh is at work here" "wait for it"
  ask_both
  check_machines
  our_weights_problem
  found=$(cat "${work}/there.weights")
  ! grep -q '^unlisted' <<<"${found}" || problem ARTIFACT_CORRUPT \
    "there: ${PEER_BUNDLE} has files that no list names: $(sed -n 's/^unlisted\t//p' <<<"${found}" | head -n 3 | paste -sd ' ')" "remove them there; a runtime would load them"
  check_disk "$(grep -E '^(missing|size|other)' <<<"${found}" | cut -f 2 | bytes_of)"
  are_built || check_own_disk
  fail_with_problems
  build_images
  if ${dry_run}; then
    say "here:  docker save ${image} | ssh ${PEER} docker load"
    say "here:  $(files_to_copy | wc -l) small files, and what is missing of $(wc -l <sizes) weights | ssh ${PEER} tar --extract --directory ${PEER_BUNDLE}"
    say "here:  nothing of ${private[*]}, and no file that SHA256SUMS does not list"
    return
  fi
  say "comparing the weights there (${kept}) …"
  found=$(compare_weights there "${cleaning}") || fail 6 COPY_CUT "the second Spark's weights could not be compared" "again: ./start.sh copy continues"
  missing=$(grep -Ev '^(leftover|unlisted)' <<<"${found}" | cut -f 2) || true
  bytes=$(bytes_of <<<"${missing}")
  ask_both
  check_disk "${bytes}" # now that the image has a size
  fail_with_problems
  if [[ ${ours[image]-none} != "${theirs[image]-}" ]]; then
    say "copying the image, $(gb "${ours[image_bytes]:-0}") …"
    transfer "the image" "docker load" docker save "${image}"
  fi
  files_to_copy | send_files "the bundle"
  say "copying $(gb "${bytes}") of weights to ${PEER}:${PEER_BUNDLE} …"
  [[ -z ${missing} ]] || send_files "the weights" <<<"${missing}"
  found=$(compare_weights there names)
  [[ -z ${found} ]] || fail 7 ARTIFACT_CORRUPT "there: after the copy: ${found//$'\t'/ }" "again: ./start.sh copy"
  compare_weights here forget && compare_weights there forget
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
  exec {lock}<.
  flock --nonblock "${lock}" || fail 6 BUSY "another start.sh is at work here" "wait for it, or see: ./start.sh status"
  ask_both
  local running="${ours[container]:-gone} ${theirs[container]:-gone}"
  if [[ ${running} == "running running" ]]; then
    say "both run already"
    ${dry_run} || wait_until_ready
    return
  elif [[ ${running} == *running* ]]; then
    say "half a pair runs (here ${running% *}, there ${running#* }): it is stopped first"
    stop
    ask_both
  fi
  check_answers
  local peer_folder="${PEER_BUNDLE}/two-sparks" names="${INTERFACES} ${ROCE}"
  if ${dry_run}; then
    say "here:  make keys for ssh between the two containers"
    say "there: ${peer_folder}/up.sh worker ${PEER_ADDRESS} ${ADDRESS} ${names}"
    say "here:  ${PWD}/up.sh head ${ADDRESS} ${PEER_ADDRESS} ${names}"
    say "here:  wait for the gateway, at most ${startup_seconds} s"
    return
  fi
  make_keys
  half_started=true
  peer_with_input "'${peer_folder}/up.sh' worker '${PEER_ADDRESS}' '${ADDRESS}' '${INTERFACES}' '${ROCE}'" <"${work}/keys.tar" >"${work}/up.log" 2>&1 ||
    fail 5 SERVER_ENDED "the second Spark's container did not start: $(tail -n 1 "${work}/up.log")" "see there: docker logs ${container}"
  ./up.sh head "${ADDRESS}" "${PEER_ADDRESS}" "${INTERFACES}" "${ROCE}" <"${work}/keys.tar" >"${work}/up.log" 2>&1 || {
    ./down.sh >/dev/null 2>&1 || true
    fail 5 SERVER_ENDED "the first Spark's container did not start: $(tail -n 1 "${work}/up.log")" "mend what it says, then again: ./start.sh"
  }
  half_started=false
  wait_until_ready
}


state_of() { docker inspect --format '{{.State.Status}}' "${container}" 2>/dev/null || echo "not there"; }
state_there() {
  on_peer "docker inspect --format '{{.State.Status}}' ${container} 2>/dev/null || echo 'not there'" 2>/dev/null || echo "not reached"
}

ready() { # asks the gateway's port for health, which never speaks TLS; no curl is needed
  local address=${BIND_ADDRESS:-127.0.0.1} answer
  [[ ${address} != 0.0.0.0 ]] || address=127.0.0.1
  answer=$(
    exec 2>/dev/null
    exec 3<>"/dev/tcp/${address}/${health_port}" && printf 'GET /v1/health/ready HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3
  ) || return 1
  [[ ${answer} == *" 200 "* ]]
}

wait_until_ready() {
  local began=${SECONDS}
  while ! ready; do
    [[ $(state_of) == running && $(state_there) == running ]] || died
    if ((SECONDS - began > startup_seconds)); then
      fail 5 SERVER_NOT_READY "not ready after ${startup_seconds} s; both go on starting" "./start.sh logs"
    fi
    printf '… loading for %d s: %s\n' "$((SECONDS - began))" "$(docker logs --tail 1 "${container}" 2>&1 | cut -c 1-100)"
    sleep "${POLL_SECONDS:-10}"
  done
  fine "${name} is served on http://${BIND_ADDRESS:-127.0.0.1}:${port}/v1 after $((SECONDS - began)) s"
}
died() {
  say "here, $(state_of):"
  docker logs --tail 20 "${container}" 2>&1 || true
  say "there, $(state_there):"
  on_peer "docker logs --tail 20 ${container}" 2>&1 || true
  (stop) >/dev/null 2>&1 || true
  fail 5 SERVER_ENDED "it ended before it was ready; its last lines are above" "mend what they say, then again: ./start.sh"
}

peer_stops() { there "'${PEER_BUNDLE}/two-sparks/down.sh'" >"${work}/down.log" 2>&1; }
stop() {
  local here_failed="" there_failed=""
  here ./down.sh || here_failed="this Spark's container was not stopped"
  if ${dry_run}; then
    there "'${PEER_BUNDLE}/two-sparks/down.sh'"
  else
    peer_stops || there_failed="${PEER} was not reached or did not stop: $(tail -n 1 "${work}/down.log")"
  fi
  [[ -z ${here_failed} ]] || fail 6 DOCKER_UNAVAILABLE "${here_failed}${there_failed:+; ${there_failed}}" "docker ps, then again: ./start.sh stop"
  [[ -z ${there_failed} ]] || fail 6 PEER_UNREACHABLE "this Spark's container is stopped; ${there_failed}" \
    "its container ends by itself when it misses this one; else there: ${PEER_BUNDLE}/two-sparks/down.sh"
}

status() {
  say "here:  $(state_of)"
  say "there: $(state_there)"
  if ready; then say "ready"; else say "not ready"; fi
}
logs() { docker logs --tail 50 "${container}"; }

on_the_second_spark() {
  case "${action}" in
  stop)
    here ./down.sh
    say "this Spark's container is stopped; the first one's ends when it misses it"
    ;;
  status) say "here (the second Spark): $(state_of)" ;;
  logs) logs ;;
  *) fail 3 SETTINGS_MISSING "this is the second Spark of the pair" "run it on the first one; here it knows stop, status and logs" ;;
  esac
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
  *) fail 2 USAGE "unknown argument: $1" "./start.sh --help" ;;
  esac
  shift
done
if [[ ! -f .env && $(cat keys/role 2>/dev/null) == worker ]]; then
  on_the_second_spark
else
  read_settings
  "${action}"
fi
