# ecr-cache-proxy in a container that needs no root and no writable file system but its cache.
#
#   docker build --tag ecr-cache-proxy .
#   docker run --network host --volume ecr-cache:/var/cache/ecr-cache-proxy \
#     --read-only --cap-drop ALL --security-opt no-new-privileges \
#     --env ECR_CACHE_PROXY_REGISTRY=123456789012.dkr.ecr.eu-west-1.amazonaws.com ecr-cache-proxy
#
# BASE is any image with Python 3.11 or newer and its venv module.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
RUN ["python3", "-m", "venv", "/opt/ecr-cache-proxy"]
COPY requirements.txt ./
RUN ["/opt/ecr-cache-proxy/bin/python", "-m", "pip", "--no-cache-dir", "--disable-pip-version-check", \
     "install", "--require-hashes", "--requirement", "requirements.txt"]
COPY pyproject.toml README.md ./
COPY proxy proxy
RUN ["/opt/ecr-cache-proxy/bin/python", "-m", "pip", "--no-cache-dir", "--disable-pip-version-check", \
     "install", "--no-deps", "--no-build-isolation", "."]
# Nothing that installs packages stays in the image.
RUN ["/opt/ecr-cache-proxy/bin/python", "-m", "pip", "uninstall", "--yes", "setuptools", "pip"]
RUN ["mkdir", "--parents", "/rootless/cache", "/rootless/home"]

FROM ${BASE}
COPY --from=build /opt/ecr-cache-proxy /opt/ecr-cache-proxy
# A number, which Kubernetes can check against runAsNonRoot. The home is where ~/.aws is mounted.
COPY --from=build --chown=65532:65532 /rootless/cache /var/cache/ecr-cache-proxy
COPY --from=build --chown=65532:65532 /rootless/home /home/proxy
ENV HOME=/home/proxy \
    ECR_CACHE_PROXY_CACHE_DIR=/var/cache/ecr-cache-proxy \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /home/proxy
VOLUME ["/var/cache/ecr-cache-proxy"]
EXPOSE 5000
# It is not well while a registry has no usable credentials. It is found by the same variables as the proxy has
# them: give another address, and a certificate, by ECR_CACHE_PROXY_LISTEN and ECR_CACHE_PROXY_TLS_CERT_FILE (or all
# of it by ECR_CACHE_PROXY_CONFIG), so that this check knows them too.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s CMD ["/opt/ecr-cache-proxy/bin/ecr-cache-proxy", "health"]
ENTRYPOINT ["/opt/ecr-cache-proxy/bin/ecr-cache-proxy"]
CMD ["serve"]
