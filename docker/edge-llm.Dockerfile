# Builds TensorRT engines with TensorRT Edge-LLM and serves them, on a DGX Spark. Experimental: it was never run there.
# Torch, transformers and pyarrow are for our own quantizer, aiohttp for the gateway; builder and server need none of them.
#
# Nothing secret enters: the packages are public, and models are mounted when it runs.
ARG BASE
FROM ${BASE}

ARG EDGE_LLM_VERSION=0.11.0
ARG TENSORRT_VERSION=10.16.1.11
# PyPI has tensorrt-cu13-libs as a source package only, which fetches the libraries (2 GB and more) from NVIDIA's own
# index while it installs. Where that is out of reach, name a mirror that has its wheel.
ARG NVIDIA_INDEX=https://pypi.nvidia.com

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/edge-llm

# The environment is readable by everyone and compiled now: steps and servers run as users the image does not know.
RUN /opt/edge-llm/bin/python -m pip install --no-cache-dir --extra-index-url "${NVIDIA_INDEX}" \
      "tensorrt-cu13==${TENSORRT_VERSION}" "tensorrt-edgellm[server,export]==${EDGE_LLM_VERSION}" \
      aiohttp PyYAML pyarrow "ml_dtypes>=0.5.1" \
    && chmod -R a+rX /opt/edge-llm \
    && /opt/edge-llm/bin/python -m compileall -q /opt/edge-llm/lib/python3.12/site-packages/experimental \
    && /opt/edge-llm/bin/python -c "from importlib.metadata import version; assert version('tensorrt-edgellm') == '${EDGE_LLM_VERSION}'"

# nvcc is looked for on the path, and a GPU's platform is found when a server starts: there is none while this is built.
ENV PATH=/opt/edge-llm/bin:/usr/local/cuda/bin:${PATH} \
    HF_HUB_OFFLINE=1
WORKDIR /out
