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
{% raw %}
label_of() { # IMAGE
  docker image inspect --format "{{index .Config.Labels \"${label}\"}}" "$1" 2>/dev/null || true
}
{% endraw %}

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
