"""What a build came to, read from buildx's machine-readable progress. Starting builds is not here.

`--progress=plain` would do for a reader, but it loses the word CACHED of a step whose layers start
to download before it is printed, so that a test of it would fail now and then.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A build's exit code, its log as text, its steps, and which of these a cache provided.

    `steps` are the RUN and COPY steps as BuildKit names them, `[compile 2/4] RUN …`; `seconds` is
    the time that the command took.
    """

    returncode: int
    log: str
    seconds: float
    steps: frozenset[str]
    cached_steps: frozenset[str]

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def fully_cached(self) -> bool:
        """Whether the build went well and took every step from a cache, local or imported."""
        return self.ok and bool(self.steps) and self.steps == self.cached_steps

    @property
    def manifest(self) -> str | None:
        """The digest of the image's manifest: builds of equal layers and configuration share it."""
        for line in self.log.splitlines():
            if line.startswith("exporting manifest sha256:"):
                return line.split()[2]
        return None

    @classmethod
    def from_rawjson(cls, *, returncode: int, output: str, seconds: float) -> Self:
        """Reads what `docker buildx build --progress=rawjson` printed."""
        lines: list[str] = []
        steps: set[str] = set()
        cached: set[str] = set()
        for event in split(output):
            if isinstance(event, str):
                lines.append(event)
                continue
            for vertex in event.get("vertexes") or ():
                name = vertex["name"]
                if _is_step(name):
                    steps.add(name)
                if vertex.get("cached"):
                    cached.add(name)
                if vertex.get("error"):
                    lines.append(f"ERROR {name}: {vertex['error']}")
                elif vertex.get("completed"):
                    lines.append(f"{'CACHED' if vertex.get('cached') else 'DONE'} {name}")
            for status in event.get("statuses") or ():
                if status.get("completed"):
                    lines.append(str(status["id"]))
            for entry in event.get("logs") or ():
                lines.append(base64.b64decode(entry["data"]).decode(errors="replace").rstrip())
        return cls(
            returncode=returncode,
            # A vertex is reported again whenever it changes: each line once, in order, is enough.
            log="\n".join(dict.fromkeys(lines)),
            seconds=seconds,
            steps=frozenset(steps),
            cached_steps=frozenset(steps & cached),
        )


def _is_step(name: str) -> bool:
    """Whether it is a Dockerfile's step; `[internal] load …` and `exporting to image` are not."""
    stage, _, words = name.partition("] ")
    return stage.startswith("[") and words.startswith(("RUN ", "COPY "))


def split(output: str) -> Iterator[dict[str, Any] | str]:
    """The JSON documents in the output, and the lines between them, which are for people."""
    decoder = json.JSONDecoder()
    position = 0
    while position < len(output):
        if output[position] == "{":
            document, position = decoder.raw_decode(output, position)
            yield document
            continue
        line, _, _ = output[position:].partition("\n")
        position += len(line) + 1
        if line.strip():
            yield line
