"""`python -m tests.fuzz`: the whole campaign, over all targets, with the figures."""

from __future__ import annotations

import random
import sys
import time

import click

from tests.fuzz.campaign import GROUPS, run
from tests.fuzz.outcome import table


@click.command()
@click.option("--inputs", default=1_000_000, show_default=True, help="About so many in all.")
@click.option("--seed", type=int, help="Of a run that is to be had again. [default: a random one]")
@click.option(
    "--only",
    metavar="TARGET",
    help=f"All inputs for one of {', '.join(GROUPS)}, or for parsers with this in their names.",
)
def main(inputs: int, seed: int | None, only: str | None) -> None:
    """Try inputs that are almost right; exit with 1 when something is found.

    With a seed the same inputs are drawn; over sockets they meet one another in another order.
    """
    seed = random.randrange(2**32) if seed is None else seed
    begin = time.monotonic()
    print(f"seed {seed}", flush=True)
    outcomes = run(inputs, seed, only, tell=lambda name: print(f"{name} ...", flush=True))
    if not outcomes:
        raise click.UsageError(f"there is no target {only!r}")
    print(table(outcomes))
    tried = sum(outcome.inputs for outcome in outcomes)
    print(f"\n{tried:,} inputs in {time.monotonic() - begin:.0f} s, seed {seed}")
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    for finding in findings:
        print(f"\n{finding}")
    print(f"{len(findings)} findings")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
