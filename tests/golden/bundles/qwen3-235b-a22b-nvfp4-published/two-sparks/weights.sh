#!/usr/bin/env bash
# Compares the weights in this machine's bundle with a list, and prints each difference as KIND<tab>FILE.
#
# BUNDLE  the bundle
# SIZES   lines of "BYTES FILE"
# DIGESTS lines of "SHA256  FILE"
# ACTION  names: compare names and sizes; sums: read the files as well; clean, clean-sums: also remove what a copy must replace;
#         forget: drop the files from the page cache, which CUDA counts as used
#
# Kinds: missing; size; other: of the bundle that was here before; sum: other content; leftover: of the bundle that was here
# before, but not of this one; unlisted: nobody's. Runtimes load every *.safetensors in the folder.
set -euo pipefail
: "${BUNDLE:?}" "${SIZES:?}" "${DIGESTS:?}" "${ACTION:?}"

declare -A size=() digest=() before=()
read_lists() {
  local bytes path sum
  while read -r bytes path; do size["${path}"]=${bytes}; done <<<"${SIZES}"
  while read -r sum path; do digest["${path}"]=${sum}; done <<<"${DIGESTS}"
  [[ -f SHA256SUMS ]] || return 0
  while read -r sum path; do before["${path}"]=${sum}; done <SHA256SUMS
}

sum_of() { # FILE: reads around the page cache
  dd if="$1" iflag=nocache bs=16M status=none | sha256sum | cut -d ' ' -f 1
}

differs() { # KIND FILE
  printf '%s\t%s\n' "$1" "$2"
  if [[ ${ACTION} == clean* && $1 != unlisted && $1 != missing ]]; then rm -f -- "$2"; fi
}

compare() {
  local path
  for path in "${!size[@]}"; do
    if [[ ! -f ${path} ]]; then
      differs missing "${path}"
    elif [[ $(stat --dereference --format %s "${path}") != "${size["${path}"]}" ]]; then
      differs size "${path}"
    elif [[ -n ${before["${path}"]-} && ${before["${path}"]} != "${digest["${path}"]}" ]]; then
      differs other "${path}"
    elif [[ ${ACTION} == *sums && $(sum_of "${path}") != "${digest["${path}"]}" ]]; then
      differs sum "${path}"
    fi
  done
}

look_for_others() {
  local path
  [[ -d model ]] || return 0
  while IFS= read -r path; do
    [[ -z ${size["${path}"]-} ]] || continue
    if [[ -n ${before["${path}"]-} ]]; then differs leftover "${path}"; else differs unlisted "${path}"; fi
  done < <(find model ! -type d)
}

forget() {
  local path
  for path in "${!size[@]}"; do
    sync --data "${path}"
    dd if="${path}" iflag=nocache count=0 status=none
  done
}

cd "${BUNDLE}" 2>/dev/null || cd "$(mktemp --directory)" # nothing is there
read_lists
if [[ ${ACTION} == forget ]]; then
  forget
else
  compare
  look_for_others
fi
