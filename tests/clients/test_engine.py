"""The engine itself, without a registry: what the other tests take for granted about it."""

from pathlib import Path

from .build import BuildResult
from .dockerfile import RUN_STEPS, STEPS
from .engine import Engine


def test_a_pruned_engine_remembers_no_step(engine: Engine, context: Path) -> None:
    first = engine.build(context)
    assert first.ok, first.log
    assert len(first.steps) == STEPS
    assert len([step for step in first.steps if "] RUN " in step]) == RUN_STEPS
    assert not first.cached_steps
    again = engine.build(context)
    assert again.fully_cached, again.log
    assert again.manifest == first.manifest

    engine.prune()
    after_prune = engine.build(context)
    assert after_prune.ok, after_prune.log
    assert not after_prune.cached_steps
    assert after_prune.manifest != first.manifest


def test_a_failed_build_is_not_fully_cached(engine: Engine, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /absent\n")
    result = engine.build(context)
    assert not result.ok
    assert not result.fully_cached
    assert "absent" in result.log


def test_a_step_is_cached_if_any_of_its_events_says_so() -> None:
    output = """\
{"vertexes": [{"digest": "sha256:1", "name": "[a 1/2] COPY x /x", "cached": true}]}
{"vertexes": [{"digest": "sha256:2", "name": "[a 2/2] RUN y", "started": "t", "completed": "t"}]}
{"vertexes": [{"digest": "sha256:1", "name": "[a 1/2] COPY x /x", "completed": "t"}]}
{"vertexes": [{"digest": "sha256:3", "name": "[internal] load build context", "cached": true}]}
{"statuses": [{"id": "exporting manifest sha256:4", "vertex": "sha256:5", "completed": "t"}]}
ERROR: words for people
"""
    result = BuildResult.from_rawjson(returncode=0, output=output, seconds=1.0)
    assert result.steps == {"[a 1/2] COPY x /x", "[a 2/2] RUN y"}
    assert result.cached_steps == {"[a 1/2] COPY x /x"}
    assert not result.fully_cached
    assert result.manifest == "sha256:4"
    assert "ERROR: words for people" in result.log.splitlines()
