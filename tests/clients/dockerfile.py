"""A build that needs no network and no base image, yet has what makes a build cache interesting."""

import shutil
from pathlib import Path

from .command import find_static_busybox

# Two stages never reach the image: only a cache exported with mode=max holds their steps. The seed
# makes the steps of one test differ from those of every other, so that they share no cache by
# accident. What the stages have in common is a stage too, since BuildKit names an equal step of
# several stages after any one of them.
_DOCKERFILE = """\
FROM scratch AS base
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]

FROM base AS compile
RUN /bin/busybox mkdir -p /out && echo "{seed}" > /out/seed
RUN /bin/busybox head -c 300000 /dev/urandom > /out/random
RUN /bin/busybox sha256sum /out/random /out/seed > /out/sums

FROM base AS check
COPY source.txt /source.txt
RUN /bin/busybox wc -c /source.txt > /counted && echo "{seed}" >> /counted

FROM base AS result
COPY --from=compile /out/sums /sums
COPY --from=check /counted /counted
RUN /bin/busybox cat /sums /counted > /result
CMD ["/bin/busybox", "cat", "/result"]
"""

RUN_STEPS = 5
STEPS = 9


def write_context(folder: Path, *, seed: str) -> Path:
    """Writes a build context of four stages, and returns it.

    BuildKit counts STEPS steps in it, RUN_STEPS of which are RUN. One step is random, so a build
    that was not served from a cache has another result.
    """
    busybox = find_static_busybox()
    assert busybox is not None, "asked for only where the engine can run"
    folder.mkdir(parents=True)
    shutil.copy(busybox, folder / "busybox")
    (folder / "source.txt").write_text("one source file\n" * 1000)
    (folder / "Dockerfile").write_text(_DOCKERFILE.format(seed=seed))
    return folder
