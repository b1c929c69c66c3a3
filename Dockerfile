# The environment of `make`, as an image with CUDA. Without it, at a fraction of the size:
#   docker build --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu -t dmf .
# This CUDA needs a driver of the 580 series on the host and GPUs of compute capability 7.5 or more;
# docs/cluster.md says what else there is. `docker run --gpus all dmf` shows the GPUs to it.
# The project and its results stay outside, and are the user's who runs it:
#   docker run --user "$(id -u):$(id -g)" --volume "$PWD:/work" --workdir /work dmf snakemake --cores all
# For clusters with Apptainer (docs/cluster.md):
#   docker build -t dmf . && apptainer build build/dmf.sif docker-daemon://dmf:latest
#   snakemake --profile profiles/slurm --software-deployment-method apptainer --apptainer-args=--nv
# The digest is that of python:3.11-slim (3.11.16, Debian trixie) for all architectures.
FROM python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /dmf
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY requirements requirements
COPY src src
# torch and what it needs by their versions, from one index; all else by the hashes of PyPI.
ARG TORCH_INDEX_URL=https://pypi.org/simple
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX_URL" --constraint constraints.txt torch
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement requirements/study.txt
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .
# Nothing needs root. HOME and the caches are where any user may write.
RUN useradd --create-home dmf
ENV DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=1 \
    XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/cache/matplotlib
USER dmf
