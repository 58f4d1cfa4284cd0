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

{% raw %}
state_of() { docker inspect --format '{{.State.Status}}' "${container}" 2>/dev/null || echo "not there"; }
state_there() {
  on_peer "docker inspect --format '{{.State.Status}}' ${container} 2>/dev/null || echo 'not there'" 2>/dev/null || echo "not reached"
}
{% endraw %}

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
