#!/usr/bin/env bash
# Puts the model into a volume of the cluster: ./load-model.sh [OPTIONS OF KUBECTL, such as --namespace NAME]
# TRUSTED_KEY=FILE demands that the bundle is signed with this public key (PEM); then nothing else is loaded.
# TRUSTED_IDENTITY=WHO and TRUSTED_ISSUER=URL demand a signature by this identity; TRUST_CONFIG=FILE names its trusted root.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
volume=llama3-70b-nvfp4-8e159722
job=llama3-70b-nvfp4-loader-63240521dc66
options=("$@")

kube() { kubectl ${options[@]+"${options[@]}"} "$@"; }

check_signature() { # reads every file; openssl cannot check an identity, so one of these programs must
  local bundle="${here%/*}" ours=() theirs=()
  if [[ -n "${TRUSTED_KEY-}" && -z "${TRUSTED_IDENTITY-}${TRUSTED_ISSUER-}" ]]; then
    ours=(--key "${TRUSTED_KEY}") theirs=(key --public_key "${TRUSTED_KEY}")
  elif [[ -z "${TRUSTED_KEY-}" && -n "${TRUSTED_IDENTITY-}" && -n "${TRUSTED_ISSUER-}" ]]; then
    ours=(--identity "${TRUSTED_IDENTITY}" --issuer "${TRUSTED_ISSUER}" ${TRUST_CONFIG:+--trust-config "${TRUST_CONFIG}"})
    theirs=(sigstore --identity "${TRUSTED_IDENTITY}" --identity_provider "${TRUSTED_ISSUER}"
      ${TRUST_CONFIG:+--trust_config "${TRUST_CONFIG}"})
  else
    echo "set TRUSTED_KEY, or TRUSTED_IDENTITY and TRUSTED_ISSUER, and not both" >&2
    exit 3
  fi
  if command -v orchestrator >/dev/null; then
    orchestrator verify-bundle "${bundle}" "${ours[@]}" >&2
  elif command -v model_signing >/dev/null; then
    model_signing verify "${theirs[@]}" --signature "${bundle}/model.sig" "${bundle}" >&2
  else
    echo "the signature cannot be checked: neither orchestrator nor model_signing is installed here" >&2
    exit 6
  fi
}
if [[ -n "${TRUSTED_KEY-}${TRUSTED_IDENTITY-}${TRUSTED_ISSUER-}" ]]; then check_signature; fi

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
