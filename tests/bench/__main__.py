"""`python -m tests.bench`: the command line of the measurements."""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import gettempdir

import click

from tests.bench.measure import MB
from tests.bench.scenarios import SCENARIOS, Bench


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--quick", is_flag=True, help="Fewer rounds, smaller blobs: under a minute.")
@click.option("--rounds", type=int, help="[default: 3, with --quick 2]")
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=gettempdir(),
    help="Where to keep some GB meanwhile. [default: the system's temporary directory]",
)
def main(scenarios: tuple[str, ...], quick: bool, rounds: int | None, folder: Path) -> None:
    """Measure the proxy beside other servers; all scenarios unless some are named."""
    bench = Bench(
        folder,
        rounds=rounds or (2 if quick else 3),
        seconds=0.5 if quick else 1.0,
        blob=(96 if quick else 256) * MB,
        large=160 * MB if quick else 1024**3,
        quick=quick,
    )
    begin = time.monotonic()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.1f} before the start")
    for name in scenarios or SCENARIOS:
        SCENARIOS[name](bench)
    print(f"\n{time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
