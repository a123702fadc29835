"""A short campaign over all parsers: with a seed that stays, and with one that is new each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import parsers
from tests.fuzz.mutation import Mutator
from tests.fuzz.outcome import table
from tests.fuzz.targets import Target, Wrong, run

_INPUTS = 500
_NEW = random.SystemRandom().randrange(2**32)


@pytest.mark.parametrize("seed", [1, pytest.param(_NEW, id="new")])
def test_parsers_let_out_only_the_errors_that_they_name(seed: int, tmp_path: Path) -> None:
    """Which seed was new is told in the table: `python -m tests.fuzz --seed` has it again."""
    print(f"seed {seed}")
    outcomes = [
        run(target, int(_INPUTS * target.share), seed) for target in parsers.targets(tmp_path)
    ]
    print(table(outcomes))
    findings = [str(finding) for outcome in outcomes for finding in outcome.findings]
    assert not findings, "\n".join((f"seed {seed}", *findings))
    # All have seen inputs that were good, and some that were not, if they have seen many.
    assert all(len(outcome.replies) > 1 for outcome in outcomes if outcome.inputs >= _INPUTS)


def test_an_error_that_is_not_named_is_a_finding() -> None:
    def check(text: str) -> str:
        if "%" in text:
            raise Wrong("a percent sign")
        return str(text.encode())

    outcome = run(Target("all", lambda mutator: mutator.text(("a",)), check), 3000, 1)
    assert {finding.what.partition(":")[0] for finding in outcome.findings} == {
        "Wrong",
        "UnicodeEncodeError",
    }
    assert all(finding.shown_by for finding in outcome.findings)


def test_the_same_seed_draws_the_same_inputs() -> None:
    one, other = Mutator("1/x"), Mutator("1/x")
    assert [one.text(("abc", "x/y")) for _ in range(500)] == [
        other.text(("abc", "x/y")) for _ in range(500)
    ]
