# A small image of the tool: dry-runs every recipe without network, Docker, GPU or token.
#
#     docker build --file docker/ci.Dockerfile --tag orchestrator-ci .
#     docker run --rm --network none orchestrator-ci                       # all recipes
#     docker run --rm --network none orchestrator-ci plan llama3-70b-nvfp4
#     docker run --rm --network none --volume "$PWD:/project" orchestrator-ci   # recipes of your own
#
# BASE needs Python 3.11 or newer with pip.
ARG BASE=python:3.13-slim
FROM ${BASE}

COPY . /opt/orchestrator
# WHEELS: a folder of the build context with wheels, where the build has no network.
ARG WHEELS=""
ENV PIP_NO_CACHE_DIR=1 PIP_QUIET=1 PIP_ROOT_USER_ACTION=ignore
RUN cd /opt/orchestrator \
    && pip="python3 -m pip install --no-deps --no-build-isolation ${WHEELS:+--no-index --find-links $WHEELS}" \
    && $pip --require-hashes --requirement requirements/build.txt \
    && $pip --require-hashes --requirement requirements/runtime.txt \
    && $pip . \
    && rm -rf /opt/orchestrator

LABEL org.opencontainers.image.title="orchestrator" \
      org.opencontainers.image.description="Dry-runs recipes for TensorRT-LLM deployments" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /project
USER 65534:65534
ENV ORCHESTRATOR_STORE=/tmp/store
ENTRYPOINT ["python3", "-m", "orchestrator.cli.main"]
CMD ["build", "--dry-run", "--all"]
