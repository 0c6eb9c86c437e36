# The worker's image: built in one stage, installed into a clean second one. No compiler, no package cache, no root.
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE} AS build
WORKDIR /project
COPY pyproject.toml README.md LICENSE ./
COPY ops/constraints.txt ops/constraints.txt
COPY src src
COPY worker worker
RUN python3 -m venv /opt/bkm && /opt/bkm/bin/pip install --no-cache-dir --constraint ops/constraints.txt .

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/bkm /opt/bkm
ENV PATH=/opt/bkm/bin:$PATH PYTHONUNBUFFERED=1
USER 65534:65534
ENTRYPOINT ["backtest-kit-worker"]
