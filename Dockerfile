# The environment of `make`, as an image with CUDA. Without it, at a fraction of the size:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu -t dmf .
# This CUDA needs a driver of the 580 series on the host and GPUs of compute capability 7.5 or more;
# docs/cluster.md says what else there is. `docker run --gpus all dmf` shows the GPUs to it.
# For clusters with Apptainer (docs/cluster.md):
#   docker build -t dmf . && apptainer build build/dmf.sif docker-daemon://dmf:latest
#   snakemake --profile profiles/slurm --software-deployment-method apptainer --apptainer-args --nv
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /dmf
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[study]'
ENV DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=1
