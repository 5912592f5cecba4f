"""Results as a Markdown text and a picture. Ratios are taken round by round; median and range of them are shown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scenarios import CANDIDATES, SCENARIOS, Phase

_MIB = 2**20
_BESIDE_MIB = 192  # what a process takes beside memory_bytes, as the reader's docstring says


class Epochs:
    """Look-ups in the measured epochs.

    Args:
        epochs: Dicts of `driver.Results`.
    """

    def __init__(self, epochs: Iterable[dict[str, Any]]) -> None:
        self._of: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
        for epoch in map(_whole, epochs):
            key = (epoch["scenario"], epoch["candidate"], epoch["phase"])
            self._of.setdefault(key, {})[epoch["round"]] = epoch

    def get(self, scenario: str, candidate: str, phase: str) -> list[dict[str, Any]]:
        """The rounds of a candidate."""
        return list(self._of.get((scenario, candidate, phase), {}).values())

    def values(self, scenario: str, candidate: str, phase: str, name: str) -> list[float]:
        """One number of each round, where there is one."""
        return [epoch[name] for epoch in self.get(scenario, candidate, phase) if epoch.get(name) is not None]

    def speeds(self, scenario: str, candidate: str, phase: str) -> dict[int, float]:
        """Rows a second in each round."""
        rounds = self._of.get((scenario, candidate, phase), {})
        return {number: epoch["rows"] / epoch["wall_s"] for number, epoch in rounds.items()}

    def ratios(self, scenario: str, candidate: tuple[str, str], base: tuple[str, str]) -> list[float]:
        """Speed of a candidate over that of another, (key, phase) each, in every round that both took part in."""
        speeds, bases = self.speeds(scenario, *candidate), self.speeds(scenario, *base)
        return [speeds[number] / bases[number] for number in sorted(speeds.keys() & bases.keys())]

    def cpu_ratios(self, scenario: str, candidate: tuple[str, str], base: tuple[str, str]) -> list[float]:
        """Likewise by rows a second of processor time."""
        ours, theirs = (
            [epoch["rows"] / epoch["cpu_s"] for epoch in self.get(scenario, *key)] for key in (candidate, base)
        )
        return [a / b for a, b in zip(ours, theirs, strict=False)]


def _whole(epoch: dict[str, Any]) -> dict[str, Any]:
    """An epoch that was cut short as it would have been: the time until its first batch counts once."""
    if epoch["complete"]:
        return epoch
    done, left = epoch["rows"] - epoch["first_rows"], epoch["data_rows"] - epoch["first_rows"]
    wall_s = epoch["first_s"] + (epoch["wall_s"] - epoch["first_s"]) * left / done
    cpu_s = epoch["cpu_s"] * wall_s / epoch["wall_s"]
    return epoch | {"rows": epoch["data_rows"], "wall_s": wall_s, "cpu_s": cpu_s}


def lasting(key: str) -> Phase:
    """A candidate's phase in epochs after the first: one that keeps nothing begins each anew."""
    return "later" if "later" in CANDIDATES[key].phases else "first"


def render(results: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    epochs = Epochs(results["epochs"])
    parts = [_setting(results), _promises(epochs, results["promises"])]
    for scenario in SCENARIOS:
        rows = _scenario(epochs, scenario.key, scenario.candidates)
        if rows:
            parts.append(f"### {scenario.title}\n\n{rows}")
    profiles = [results["promises"].get(name) for name in ("profile", "profile-b")]
    if any(profiles):
        parts.append(_profile(profiles))
    if results["failures"]:
        failed = "\n".join(f"- {what}: {why}" for what, why in results["failures"].items())
        parts.append(f"### Not measured\n\n{failed}")
    return "\n\n".join(parts) + "\n"


def _setting(results: dict[str, Any]) -> str:
    setting = results["setting"]
    others = [epoch["others"] for epoch in results["epochs"] if epoch.get("others") is not None]
    busy = f"; other processes kept {_spread(others, 'cores')} busy meanwhile" if others else ""
    versions = sorted(set(setting["versions"].values()))
    packages = [f"{name} {version}" for name, version in setting["packages"].items()]
    lines = [
        f"{setting['processor']}, {setting['cores']} cores, {setting['system']}, Python {setting['python']}.",
        f"{', '.join([*packages, *versions])}.",
        f"Scale {setting['scale']:g}, rounds: {setting['repeats']}; epochs cut off {setting['seconds']:g} s after "
        "their first batch. "
        f"Load {setting['load_at_start']:.1f} at the start, {setting['load_at_end']:.1f} at the end{busy}.",
    ]
    return "\n".join(lines)


def _promises(epochs: Epochs, promises: dict[str, Any]) -> str:
    rows = [*_speed_promises(epochs), *_own_promises(promises)]
    return _table(("what", "wanted", "measured (median, range)", ""), rows) if rows else ""


def _speed_promises(epochs: Epochs) -> list[tuple[str, str, str, str]]:
    rows = []
    for base in ("sf-dense", "sf"):
        title = CANDIDATES[base].title
        for what, key, least in (("first", "stream", 4), ("later", "memory", 8), ("later", "disk", 8)):
            phase: Phase = "first" if what == "first" else "later"
            ratios = epochs.ratios("epochs", (key, phase), (base, "first"))
            if ratios:
                cpu = statistics.median(epochs.cpu_ratios("epochs", (key, phase), (base, "first")))
                name = f"{what} epoch, {CANDIDATES[key].title}, against {title}"
                measured = f"{_spread(ratios, 'x')}; by processor time {cpu:.1f} x"
                rows.append((name, f">= {least} x", measured, _met(statistics.median(ratios) >= least)))
    limits = [epochs.ratios(scenario, ("stream", "first"), ("read", "first")) for scenario in ("epochs", "b")]
    if all(limits):
        on_a, on_b = (statistics.median(each) for each in limits)
        name = "speed of the streamed reader, of that of `pq.read_table`: on data B, against data A"
        rows.append((name, f">= {on_a:.2f} x (A)", _spread(limits[1], "x (B)"), _met(on_b >= on_a)))
    return rows


def _own_promises(promises: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for key, where in (("random", "in memory"), ("random-disk", "mapped from disk")):
        if found := promises.get(key):
            pairs = zip(found["random_s"], found["iterated_s"], strict=True)
            ratios = [random / iterated for random, iterated in pairs]
            times = ", ".join(
                f"{what} {statistics.median(found[name]) * 1e6:.0f} us"
                for what, name in (("random", "random_s"), ("in order", "in_order_s"), ("iterated", "iterated_s"))
            )
            name = f"`batch(i)` at random i, blocks {where}, against iterating"
            measured = f"{_spread(ratios, 'x')}; {times}"
            rows.append((name, "<= 3 x", measured, _met(statistics.median(ratios) <= 3)))
    if found := promises.get("first-batch"):
        cold = statistics.median(found["cold_s"])
        ratios = [resumed / cold for cold, resumed in zip(found["cold_s"], found["resumed_s"], strict=True)]
        measured = f"{_spread(found['cold_s'], 's')}; opening alone {_spread(found['open_s'], 's')}"
        rows.append(("first batch after open, 32 files", "< 0.3 s", measured, _met(cold < 0.3)))
        measured = _spread(ratios, "x")
        rows.append(("first batch resumed at 99 %, against cold", "<= 1.2 x", measured, _met(_middle(ratios) <= 1.2)))
    if found := promises.get("plan"):
        measured = f"{_spread([1e3 * value for value in found['epoch_s']], 'ms')}"
        measured += f"; a batch {_middle(found['batch_s']) * 1e6:.0f} us"
        name = f"plan of an epoch of {found['files']:,} files, with its first batch"
        rows.append((name, "< 100 ms", measured, _met(_middle(found["epoch_s"]) < 0.1)))
    if found := promises.get("memory"):
        highest, bound = max(found["highest"]), found["memory_bytes"]
        rest = (highest - found["before"] - bound) / _MIB
        name = f"anonymous memory, streamed, {len(found['highest'])} epochs, memory_bytes = {bound / _MIB:.0f} MiB"
        measured = f"{(highest - found['before']) / _MIB:.0f} MiB above what was there before ({rest:+.0f} MiB)"
        rows.append((name, f"memory_bytes and {_BESIDE_MIB} MiB", measured, _met(rest <= _BESIDE_MIB)))
        half = len(found["highest"]) // 2
        early, late = _middle(found["highest"][:half]), _middle(found["highest"][half:])
        measured = f"median peak {early / _MIB:.0f} MiB in the first half, {late / _MIB:.0f} MiB in the second"
        rows.append(("... flat over the epochs", "<= 1.05 x", measured, _met(late <= 1.05 * early)))
    if found := promises.get("convert"):
        ratios = [theirs / ours for theirs, ours in zip(found["theirs_s"], found["ours_s"], strict=True)]
        name = (
            "20 floats, 5 categories, 1 list of 16 floats: read and made tensors, against `pq.read_table` (processor)"
        )
        rows.append((name, ">= 0.5 x", _spread(ratios, "x"), _met(_middle(ratios) >= 0.5)))
    if found := promises.get("fit"):
        measured = _spread(found["fit_s"], "s")
        rows.append(("fitting the vocabularies of data B (once, kept; not part of epochs)", "", measured, ""))
    return rows


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _scenario(epochs: Epochs, scenario: str, keys: Sequence[str]) -> str:
    rows = []
    for key in keys:
        candidate = CANDIDATES[key]
        phase = candidate.phases[0]
        if not epochs.get(scenario, key, phase):
            continue
        first = epochs.speeds(scenario, key, "first").values()
        later = epochs.speeds(scenario, key, "later").values()
        cpu = [
            epoch["cpu_s"] / epoch["rows"] * 4e8
            for epoch in epochs.get(scenario, key, lasting(key) if key == "memory" else phase)
        ]
        peak = epochs.values(scenario, key, phase, "anon") + epochs.values(scenario, key, "later", "anon")
        rows.append(
            (
                candidate.title,
                candidate.order,
                _millions(first),
                _ratio(epochs.ratios(scenario, ("stream", "first"), (key, "first")), key == "stream"),
                _millions(later),
                _ratio(epochs.ratios(scenario, ("memory", "later"), (key, lasting(key))), key == "memory"),
                f"{_middle(cpu):,.0f}",
                _milliseconds(epochs.values(scenario, key, "first", "first_s")),
                f"{max(peak) / _MIB:,.0f}" if peak else "",
            )
        )
    head = (
        "",
        "shuffled",
        "first epoch, M rows/s",
        "streamed reader is",
        "later epochs, M rows/s",
        "kept reader is",
        "CPU ms per 400,000 rows",
        "first batch, ms",
        "anonymous memory, MiB",
    )
    return _table(head, rows) if rows else ""


def _profile(profiles: Sequence[dict[str, Any] | None]) -> str:
    steps = {
        "read": "decode the Parquet file (Arrow)",
        "decode": "columns to tensors",
        "row_order": "draw the rows' order",
        "kept_epoch": "an epoch of kept blocks: order, gathering, handing out, consumer",
        "streamed_epoch": "a streamed epoch, all together",
    }
    rows = [(title, *(f"{found[name]:.0f}" if found else "" for found in profiles)) for name, title in steps.items()]
    head = ("CPU ms per 400,000 rows", "data A", "data B")
    return "### Where the processor's time goes\n\n" + _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def _spread(values: Sequence[float], unit: str) -> str:
    digits = 3 if unit == "s" else 2 if max(values) < 10 else 1
    low, high = min(values), max(values)
    return f"{_middle(values):.{digits}f} {unit} ({low:.{digits}f} to {high:.{digits}f})"


def _millions(speeds: Iterable[float]) -> str:
    found = [speed / 1e6 for speed in speeds]
    return f"{_middle(found):.3g} ({min(found):.3g} to {max(found):.3g})" if found else ""


def _ratio(ratios: Sequence[float], itself: bool) -> str:
    if itself or not ratios:
        return ""
    return f"{_three(_middle(ratios))} x ({_three(min(ratios))} to {_three(max(ratios))})"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{_middle(seconds) * 1e3:,.0f}" if seconds else ""


def draw(results: dict[str, Any], path: Path) -> None:
    """Speeds on data A as bars, and memory over the epochs as a line, into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    bars, line = figure.subplots(1, 2, width_ratios=(2, 1))
    epochs = Epochs(results["epochs"])
    found = {
        key: scenario
        for scenario in ("slow", "epochs")
        for key in CANDIDATES
        if epochs.get(scenario, key, CANDIDATES[key].phases[0])
    }
    keys = [key for key in reversed(CANDIDATES) if key in found]
    colours = {"limit": "tab:gray", "ours": "tab:blue", "peer": "tab:orange"}
    for place, key in enumerate(keys):
        for phase, offset, alpha in (("first", 0.2, 1.0), ("later", -0.2, 0.5)):
            speeds = [speed / 1e6 for speed in epochs.speeds(found[key], key, phase).values()]
            if speeds:
                middle = _middle(speeds)
                ranges = [[middle - min(speeds)], [max(speeds) - middle]]
                colour = colours[CANDIDATES[key].kind]
                bars.barh(place + offset, middle, 0.4, xerr=ranges, color=colour, alpha=alpha, error_kw={"lw": 1})
    bars.set_yticks(range(len(keys)), [CANDIDATES[key].title.replace("`", "") for key in keys])
    bars.set_xscale("log")
    bars.set(xlabel="million rows a second (median and range)", title="Data A, batch 1,024: first epoch (later: pale)")
    if memory := results["promises"].get("memory"):
        highest = [(value - memory["before"]) / _MIB for value in memory["highest"]]
        line.plot(range(1, len(highest) + 1), highest, marker="o", label="highest in the epoch")
        line.axhline(memory["memory_bytes"] / _MIB, color="black", linestyle="--", label="memory_bytes")
        line.set_ylim(bottom=0)
        line.set(xlabel="epoch", ylabel="MiB of anonymous memory", title="Streamed reader, 32 files")
        line.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")
