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
