# Prunes models in a container. Two targets; the model, the data and the result are in the folder mounted at /work:
#
#   docker build --target cpu -t prox24-export .
#   docker run --rm -v "$PWD:/work" prox24-export model.onnx --calibration calibration.npz
#
#   docker build --target cuda -t prox24-export:cuda .
#   docker run --rm --gpus all -v "$PWD:/work" prox24-export:cuda model.onnx --calibration calibration.npz
#
# TORCH_OPTIONS is handed to pip before torch is installed, such as the options of PyTorch's install page for its CPU build,
# which is far smaller than the default one.
ARG BASE=python:3.12-slim

FROM ${BASE} AS source
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY prox24_export prox24_export
COPY passes passes

FROM source AS cpu
ARG TORCH_OPTIONS=""
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_OPTIONS} torch
RUN pip install --no-cache-dir -c constraints.txt ".[transformers]"
WORKDIR /work
ENV XDG_CACHE_HOME=/tmp/cache
ENTRYPOINT ["prox24-export"]
CMD ["--help"]

FROM source AS cuda
# Triton compiles a launcher with the C compiler when a kernel runs for the first time.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir -c constraints.txt ".[transformers,cuda,tensorrt]"
WORKDIR /work
ENV XDG_CACHE_HOME=/tmp/cache NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["prox24-export"]
CMD ["--help"]
