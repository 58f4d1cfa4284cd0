"""Score the planner's speeds on published measurements of a DGX Spark, no model helping to predict itself.

`python -m evaluation.planner [FOLDER]` prints the table; `--write` puts the constants that all rows give into the
planner's data file. The measurements are not part of this repository: without a folder it looks in ../shared/data, and
where there are none it says so and ends well.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from evaluation.measurements import Excluded, Measurements, Row
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.catalog.target import Target
from orchestrator.planner.calibration import Observation, fit_costs
from orchestrator.planner.constants import COSTS, Constants, Cost, Runtime, default_constants, to_document
from orchestrator.planner.speed import speed
from orchestrator.planner.step_time import load_of, step_terms, total

_HERE = Path(__file__).parent
_CONSTANTS = _HERE.parent / "orchestrator" / "planner" / "constants.json"
_SHARED = _HERE.parent.parent / "shared" / "data"
_LARGE = 8.0e9
"""Parameters from which a dense model counts as large."""
_MOST = 32
"""Streams up to which batches are scored."""

PRIOR: Mapping[Cost, float] = {
    "weights": 1.25,  # 80 % of the peak, as direct reads of the memory reach
    "four_bit": 0.1,
    "cache": 1.5,
    "launch": 10.0,
    "recurrent": 50.0,
    "compute": 4.0,
    "exchange": 100.0,
    "host": 0.0,  # in `launch`, as it has to be told apart by faster GPUs
    "prefill_16": 2.5,
    "prefill_8": 1.5,
    "prefill_4": 0.75,  # half of eight bits, as the tensor cores are twice as fast
    "prefill_block": 3.0,
    "prefill_experts": 0.5,
}
"""What one would say before any measurement; it matters where few measurements tell a cost."""


@dataclass(frozen=True)
class Score:
    """A row and what was predicted without its model."""

    row: Row
    low: float
    expected: float
    high: float

    @property
    def error(self) -> float:
        """Relative: positive where the prediction is too fast."""
        return self.expected / self.row.measured - 1

    @property
    def held(self) -> bool:
        """Whether the measurement lies in the band."""
        return self.low <= self.row.measured <= self.high


def main() -> None:
    """Print the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=_SHARED, help="with spark_measurements.csv and model_configs/"
    )
    parser.add_argument("--write", action="store_true", help=f"write {_CONSTANTS.name}")
    parser.add_argument("--worst", type=float, default=0.0, metavar="ERROR", help="list rows that are further off")
    options = parser.parse_args()
    if not (options.folder / "spark_measurements.csv").is_file():
        click.echo(f"{options.folder}: no spark_measurements.csv here; nothing to score, which is no failure")
        return
    targets = Catalog(Project.find(_HERE.parent)).targets
    rows, excluded = Measurements(options.folder, _HERE / "models.yaml", targets["dgx-spark"]).sorted_out
    if options.write:
        write(rows, targets)
    click.echo("\n".join(_report(rows, excluded, targets, options.worst)))


def write(rows: Sequence[Row], targets: Mapping[str, Target]) -> None:
    """Fit to all rows and write the planner's data file."""
    document = json.loads(_CONSTANTS.read_bytes())
    document |= to_document(fitted(rows, targets, default_constants()))
    _CONSTANTS.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def fitted(rows: Iterable[Row], targets: Mapping[str, Target], constants: Constants) -> Constants:
    """Fit every runtime's costs to rows: first what runtimes share, then each near it."""
    seen: dict[Runtime, list[Observation]] = defaultdict(list)
    names: dict[Runtime, list[str]] = defaultdict(list)
    for row in rows:
        group = (row.known.backbone, row.runtime, row.format, row.prefill)
        seen[row.runtime].append(Observation(row.terms(targets, constants), row.seconds, group))
        names[row.runtime].append(row.known.backbone)
    shared = fit_costs([one for some in seen.values() for one in some], PRIOR, trust=0.15)
    known = constants
    for runtime, before in constants.runtimes.items():
        models = len(set(names[runtime]))
        near = {cost: max(shared[cost], 0.05 * PRIOR[cost]) for cost in COSTS}
        costs = fit_costs(seen[runtime], near)
        basis = f"{len(seen[runtime])} published measurements of {models} models on a DGX Spark, and what engines share"
        known = known.with_runtime(runtime, replace(before, costs=costs, basis=basis))
    return known


def scores(
    rows: Sequence[Row],
    targets: Mapping[str, Target],
    constants: Constants,
    kin: Callable[[Row], str] = lambda row: row.known.backbone,
) -> list[Score]:
    """Predict each row from constants that none of its kin had a part in: no row of its model, or of its runtime."""
    found = []
    for name in sorted({kin(row) for row in rows}):
        known = fitted([row for row in rows if kin(row) != name], targets, constants)
        found += [_score(row, targets, known) for row in rows if kin(row) == name]
    return sorted(found, key=lambda score: score.row.line)


def _score(row: Row, targets: Mapping[str, Target], constants: Constants) -> Score:
    said = speed(row.serving(targets), constants)  # what `orchestrator estimate` prints
    band = said.prefill if row.prefill else said.decode
    return Score(row, band.low, band.expected, band.high)


def _report(
    rows: Sequence[Row], excluded: Sequence[Excluded], targets: Mapping[str, Target], worst: float
) -> Iterable[str]:
    scored = scores(rows, targets, default_constants())
    decode = [score for score in scored if not score.row.prefill]
    yield f"{len(decode)} usable rows for decode, {len(scored) - len(decode)} for prefill"
    yield f"{len(excluded)} figures are not used:"
    for reason, count in Counter(_general(one.reason) for one in excluded).most_common():
        yield f"  {count:4d}  {reason}"
    yield "\nrows that physics forbids:"
    yield from (f"  line {one.line}: {one.what}: {one.reason}" for one in excluded if "physics forbids " in one.reason)
    yield "\nunknown models: " + ", ".join(
        sorted({one.what.split()[0] for one in excluded if "dimensions" in one.reason})
    )
    yield "\nerrors with the row's model left out of the fit"
    yield f"{'runtime':10} {'format':24} {'kind':11} {'n':>4} {'median':>7} {'p90':>7} {'in band':>8}"
    groups = defaultdict(list)
    for score in scored:
        groups[score.row.runtime, score.row.format, score.row.kind].append(score)
    for (runtime, format_name, kind), some in sorted(groups.items()):
        yield f"{runtime:10} {format_name:24} {kind:11} {_figures(some)}"
    yield "\nall"
    for kind in ("dense one", "dense many", "moe one", "moe many", "prefill"):
        some = [score for score in scored if score.row.kind == kind]
        yield f"{'':10} {'':24} {kind:11} {_figures(some)}" if some else f"{kind}: none"
    yield "\nerrors with all rows of the row's runtime left out: what the constants of the other runtimes say of it"
    strangers = scores(rows, targets, default_constants(), lambda row: row.runtime)
    by_runtime = defaultdict(list)
    for score in strangers:
        by_runtime[score.row.runtime, score.row.kind].append(score)
    for (runtime, kind), some in sorted(by_runtime.items()):
        yield f"{runtime:10} {'':24} {kind:11} {_figures(some)}"
    yield "\nbatches, by how they were measured; `alone`: what an estimate says, no prompts in between"
    yield f"{'measured':10} {'prompt/answer':24} {'':11} {'n':>4} {'median':>7} {'p90':>7} {'in band':>8} {'alone':>7}"
    yield from _by_method(decode, targets)
    yield "\ngoals"
    yield from _goals(scored)
    if worst:
        yield "\nrows that are further off"
        yield from (_line(score) for score in scored if abs(score.error) > worst)


def _by_method(decode: Sequence[Score], targets: Mapping[str, Target]) -> Iterable[str]:
    """Score batches by who measured them: the runtime itself, or clients whose prompts it read in between."""
    groups = defaultdict(list)
    for score in decode:
        row = score.row
        if row.batch > 1:
            lengths = f"{row.prompt}/{row.answer}" if row.prompt else "not given"
            groups["clients" if row.clients else "runtime", lengths].append(score)
    known = default_constants()
    for (method, lengths), some in sorted(groups.items()):
        alone = []
        for score in some:
            load = load_of(score.row.serving(targets), known)
            alone.append(abs(score.row.batch / total(step_terms(load), load.runtime) / score.row.measured - 1))
        yield f"{method:10} {lengths:24} {'':11} {_figures(some)} {float(np.median(alone)):7.1%}"


def _goals(scored: Sequence[Score]) -> Iterable[str]:
    decode = [score for score in scored if not score.row.prefill]
    large = [score for score in decode if _is_large(score.row)]
    moe = [score for score in decode if score.row.kind == "moe one"]
    many = [score for score in decode if 1 < score.row.batch <= _MOST]
    dense = [score for score in decode if score.row.kind.startswith("dense")]
    one = [score for score in decode if score.row.batch == 1]
    users = [score for score in decode if score.row.batch > 1 and score.row.asked]
    prefill = [score for score in scored if score.row.prefill]
    yield _goal("one stream, dense of 8 billion or more: median", large, _median, 0.08)
    yield _goal("one stream, dense of 8 billion or more: p90", large, _p90, 0.20)
    yield _goal("one stream, experts: median", moe, _median, 0.12)
    yield _goal("one stream, experts: p90", moe, _p90, 0.30)
    yield _goal(f"batches up to {_MOST}: median", many, _median, 0.15)
    yield _goal("outside of the band, all decode", decode, _outside, 0.10)
    yield _goal("outside of the band, one stream", one, _outside, 0.10)
    yield _goal("several users, prompts and answers of known length: median", users, _median, 0.15)
    yield _goal("several users: p90", users, _p90, 0.45)
    yield _goal("several users: outside of the band", users, _outside, 0.10)
    yield _goal("prefill: median", prefill, _median, 0.13)
    yield _goal("prefill: outside of the band", prefill, _outside, 0.10)
    yield _goal("half width of any band, at most", scored, _widest, 0.35)
    yield _goal("half width of the band, dense, at most", dense, _widest, 0.25)


def _is_large(row: Row) -> bool:
    return row.kind == "dense one" and row.known.shape.parameters >= _LARGE


def _goal(name: str, some: Sequence[Score], measure: Callable[[Sequence[Score]], float], limit: float) -> str:
    if not some:
        return f"  no rows  {name}"
    found = measure(some)
    met = "met    " if found <= limit + 1e-9 else "NOT MET"
    return f"  {met}  {name}: {found:.1%}, wanted at most {limit:.0%} (n = {len(some)})"


def _median(some: Sequence[Score]) -> float:
    return float(np.median([abs(score.error) for score in some]))


def _p90(some: Sequence[Score]) -> float:
    return float(np.percentile([abs(score.error) for score in some], 90))


def _outside(some: Sequence[Score]) -> float:
    return sum(not score.held for score in some) / len(some)


def _widest(some: Sequence[Score]) -> float:
    return max(score.high / score.expected - 1 for score in some)


def _figures(some: Sequence[Score]) -> str:
    return f"{len(some):4d} {_median(some):7.1%} {_p90(some):7.1%} {1 - _outside(some):8.0%}"


def _general(reason: str) -> str:
    return reason.partition(":")[0] if "physics forbids " not in reason else "physics forbids it"


def _line(score: Score) -> str:
    row = score.row
    return (
        f"  line {row.line:3d}: {row.model} {row.format} {row.server_name} batch {row.batch} {row.prompt}/{row.answer}"
        f"{' prefill' if row.prefill else ''}: measured {row.measured:g}, expected {score.expected:.4g}"
        f" ({score.error:+.0%})"
    )


if __name__ == "__main__":
    main()
