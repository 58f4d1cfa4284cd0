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
