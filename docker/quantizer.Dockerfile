# Quantizes checkpoints with ModelOpt's hf_ptq.py; serves nothing. Installing ModelOpt may change the transformers of
# the base, which is why the image that serves is left as it is.
#
# Nothing secret enters: the sources are public, and models are mounted when it runs.
ARG BASE
FROM ${BASE}

ARG MODELOPT_VERSION=0.46.0
# The folder is readable by everyone and the packages are compiled now: the step runs as a user the image does not know.
RUN git clone --quiet --depth 1 --branch "${MODELOPT_VERSION}" \
      https://github.com/NVIDIA/Model-Optimizer.git /opt/model-optimizer \
    && rm -rf /opt/model-optimizer/.git \
    && SETUPTOOLS_SCM_PRETEND_VERSION="${MODELOPT_VERSION}" \
       python3 -m pip install --no-cache-dir "/opt/model-optimizer[hf]" pyarrow requests \
    && chmod -R a+rX /opt/model-optimizer \
    && python3 -m compileall -q /opt/model-optimizer/examples \
    && python3 -c "import modelopt, pyarrow; assert modelopt.__version__ == '${MODELOPT_VERSION}', modelopt.__version__"

ENV HF_HUB_OFFLINE=1
WORKDIR /out
