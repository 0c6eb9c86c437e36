# The image of the worker and of `bkm`. Built and installed in the first stage; the second gets the installed files only:
# no compiler, no pip, no package cache, no sources, no root.
ARG PYTHON_IMAGE=python:3.12.7-slim-bookworm
FROM ${PYTHON_IMAGE} AS build
WORKDIR /project
# Dependencies first: they are the slow part, and change less often than the sources.
COPY ops/constraints.txt ops/constraints.txt
COPY pyproject.toml README.md LICENSE ./
# A name of pyproject.toml's optional dependencies, or nothing.
ARG EXTRA=
RUN python3 -m venv --without-pip /opt/bkm \
    && python3 -c "import sys, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *(project['optional-dependencies'][sys.argv[1]] if sys.argv[1] else []), sep='\n')" "$EXTRA" > needed \
    && python3 -m pip --python /opt/bkm/bin/python install --no-cache-dir --constraint ops/constraints.txt --requirement needed
COPY src src
COPY worker worker
RUN python3 -m pip --python /opt/bkm/bin/python install --no-cache-dir --no-deps . && mkdir /data

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/bkm /opt/bkm
# Where a strategy writes its log and dumps; a volume over it gets its owner.
COPY --from=build --chown=65534:65534 /data /data
ENV PATH=/opt/bkm/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
ENTRYPOINT ["backtest-kit-worker"]
