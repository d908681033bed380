# DenseUp in a container. For a CPU:   docker build -t denseup .
# For NVIDIA GPUs, with PyTorch's build for CUDA 12.6:   docker build -t denseup --build-arg TORCH=cu126 .
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# A C++ compiler, for the code that DySample compiles at first use on a CPU.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /denseup
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
# Before the sources, so that a change of these does not install everything again.
COPY Makefile requirements.txt ./
ARG TORCH=cpu
RUN make install TORCH="${TORCH}"
COPY . .

# Any user may run it (`docker run --user`), also one without a home.
ENV PATH=/denseup/.venv/bin:${PATH} HOME=/tmp USER=denseup
CMD ["python", "train.py", "--help"]
