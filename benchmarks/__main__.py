"""Ours against peers, side by side, as ratios of speed.

    make bench                                  # everything, the peers' environments included: some ten minutes
    make bench ARGS=--quick                     # a small part on small data, without those environments
    make bench ARGS="--only epochs memory"      # by name

Candidates run in processes of their own and take turns; what counts is the ratio within a round, for the machine may
be shared. Results go to .cache/bench/results: results.json, results.md and results.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.driver import Driver
from benchmarks.report import draw, render
from benchmarks.scenarios import PROMISES, SCENARIOS, environments
from benchmarks.workers import ROOT

_QUICK = ("epochs", "random", "first-batch", "plan", "memory", "profile")
_QUICK_SCALE, _QUICK_REPEATS, _QUICK_SECONDS = 0.1, 3, 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    names = [*(scenario.key for scenario in SCENARIOS), *PROMISES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small part, on a tenth of the data, without peers")
    parser.add_argument("--scale", type=float, help="multiplies the rows of every file (default 1)")
    parser.add_argument("--repeats", type=int, help="rounds (default 5)")
    parser.add_argument("--seconds", type=float, help="cuts an epoch off after so long (default 3)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of: {', '.join(names)}")
    parser.add_argument("--no-peers", action="store_true", help="leave out peers with environments of their own")
    parser.add_argument("--prepare", action="store_true", help="make environments and data, measure nothing")
    parser.add_argument("--render", type=Path, metavar="JSON", help="write tables and picture of an earlier run")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache/bench/results", help="folder for results")
    args = parser.parse_args(arguments)
    if args.render:
        _write(json.loads(args.render.read_text()), args.output)
        return
    quick = args.quick
    driver = Driver(
        ROOT / ".cache/bench",
        scale=args.scale or (_QUICK_SCALE if quick else 1.0),
        repeats=args.repeats or (_QUICK_REPEATS if quick else 5),
        seconds=args.seconds or (_QUICK_SECONDS if quick else 3.0),
        with_peers=not (quick or args.no_peers),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    chosen = args.only or (_QUICK if quick else names)
    scenarios = [scenario for scenario in SCENARIOS if scenario.key in chosen]
    promises = [name for name in PROMISES if name in chosen]
    data = {scenario.data for scenario in scenarios} | {PROMISES[name][1] for name in promises}
    driver.prepare(environments([key for scenario in scenarios for key in scenario.candidates]), sorted(data))
    if args.prepare:
        return
    try:
        for name in promises:
            driver.promise(name)
        for scenario in scenarios:
            driver.measure(scenario)
    except KeyboardInterrupt:
        print("Interrupted: writing what there is.", file=sys.stderr)
    _write(asdict(driver.finish()), args.output)


def _write(results: dict[str, object], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    text = render(results)
    (folder / "results.md").write_text(text)
    draw(results, folder / "results.png")
    print(text)
    print(f"Written to {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
