#!/usr/bin/env bash
# Puts the model into a volume of the cluster: ./load-model.sh [OPTIONS OF KUBECTL, such as --namespace NAME]
# TRUSTED_KEY=FILE demands that the bundle is signed with this public key (PEM); then nothing else is loaded.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
volume=llama3-70b-nvfp4-8e159722
job=llama3-70b-nvfp4-loader-63240521dc66
options=("$@")

kube() { kubectl ${options[@]+"${options[@]}"} "$@"; }

check_signature() { # reads every file
  local bundle="${here%/*}"
  if command -v orchestrator >/dev/null; then
    orchestrator verify-bundle "${bundle}" --key "${TRUSTED_KEY}" >&2
  elif command -v model_signing >/dev/null; then
    model_signing verify key "${bundle}" --signature "${bundle}/model.sig" --public_key "${TRUSTED_KEY}" >&2
  else
    echo "the signature cannot be checked: neither orchestrator nor model_signing is installed here" >&2
    exit 6
  fi
}
if [[ -n "${TRUSTED_KEY-}" ]]; then check_signature; fi

loaded="$(kube get persistentvolumeclaim "${volume}" --ignore-not-found --output 'jsonpath={.metadata.annotations.loaded}')"
if [[ "${loaded}" == complete ]]; then
  echo "the volume ${volume} has the model already"
  exit 0
fi
kube apply --kustomize "${here}"
echo "waiting until ${job} runs; where its image is new that takes minutes" >&2
for ((waited = 0; waited < 300; waited += 2)); do
  [[ -z "$(kube get pod --selector "job-name=${job}" --output name)" ]] || break
  sleep 2
done
kube wait --for=condition=Ready pod --selector "job-name=${job}" --timeout=30m >/dev/null
echo "copying 0.0 GB" >&2
cut --characters=67- "${here}/SHA256SUMS" \
  | tar --create --directory "${here}/../model" --no-recursion --verbatim-files-from --files-from - \
  | kube exec --stdin "job/${job}" -- tar --extract --directory /model --touch --no-same-owner --no-same-permissions
echo "checking the sum of every file" >&2
if ! kube exec "job/${job}" -- bash -ec 'cd /model && sha256sum --check /etc/model/SHA256SUMS && touch .complete' >&2; then
  echo "the model did not arrive whole; run this once more" >&2
  exit 1
fi
kube annotate --overwrite persistentvolumeclaim "${volume}" loaded=complete >/dev/null
kube wait --for=condition=Complete "job/${job}" --timeout=5m >/dev/null
echo "the volume ${volume} has the model"
