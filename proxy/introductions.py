"""What the demo and the stand-in tell people at the start: where they are, and what to paste."""

from __future__ import annotations

from typing import Final

from proxy.standin import StandIn

_REPOSITORY: Final = "demo/app"


def introduce_demo(address: str, standin: StandIn) -> str:
    """What the demo is, and commands to paste. They need neither a base image nor the network."""
    ref = f"{address}/{_REPOSITORY}"
    return f"""\
A stand-in for Amazon ECR, {standin.host}, runs at {standin.url},
and in front of it the proxy at http://{address}. Paste into another terminal:

# Something to build.
cd "$(mktemp -d)" && head -c 20000000 /dev/urandom > data
printf '%s\\n' 'FROM scratch' 'COPY data /data' 'WORKDIR /empty' > Dockerfile

# docker buildx. First, unless your Docker keeps its images in containerd, a builder that can export
# caches; it is a container, and network=host is how it reaches {address}.
docker buildx create --name ecr-demo --driver-opt network=host &&
  export BUILDX_BUILDER=ecr-demo
# The cache in the legacy form, which is BuildKit's default before 0.21, and which ECR refuses.
docker buildx build . --tag {ref}:1 --push \\
  --cache-to type=registry,ref={ref}:cache,mode=max,image-manifest=false
# As on another machine: forget this builder's own cache, and build from the one in ECR.
docker buildx prune --all --force
docker buildx build . --cache-from type=registry,ref={ref}:cache \\
  --output type=tar,dest=image.tar

# buildctl: the same two steps.
buildctl build --frontend dockerfile.v0 --local context=. --local dockerfile=. \\
  --output type=image,name={ref}:1,push=true \\
  --export-cache type=registry,ref={ref}:cache,mode=max,image-manifest=false
buildctl prune --all
buildctl build --frontend dockerfile.v0 --local context=. --local dockerfile=. \\
  --import-cache type=registry,ref={ref}:cache \\
  --output type=tar,dest=image.tar

# skopeo: what ECR holds after an export, and the image that was pushed.
skopeo inspect --raw --tls-verify=false docker://{ref}:cache
skopeo copy --all --src-tls-verify=false docker://{ref}:1 dir:image

Ctrl-C ends the demo and deletes what it stored. What the proxy does:
"""


def introduce_standin(standin: StandIn) -> str:
    """Where the stand-in is, how to log in to it, and how to put the proxy in front of it."""
    address = standin.url.removeprefix("http://")
    return f"""\
url: {standin.url}
host: {standin.host}
login: curl -s {standin.url}/_standin/credentials |
  sed 's/.*"password": *"//; s/".*//' |
  docker login --username {standin.username} --password-stdin {address}

To put the proxy in front of it, paste into another terminal:
cat > standin.toml <<'END'
[[registry]]
host = "{standin.host}"
endpoint = "{standin.url}"
api-endpoint = "{standin.url}"
END
export AWS_ACCESS_KEY_ID={standin.access_key_id}
export AWS_SECRET_ACCESS_KEY={standin.secret_access_key}
ecr-cache-proxy serve --config standin.toml"""
