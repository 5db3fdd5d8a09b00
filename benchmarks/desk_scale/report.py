"""The study's report: its tables and plots from the results file, around what people made of them.

Run as ``python -m benchmarks.desk_scale.report``, it writes REPORT.md and two plots beside this file; so does `study`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPORT = HERE / "REPORT.md"
RESULT = HERE.parent / "results" / "desk_scale.json"
SETS = {"vendor": "emoji of an unseen vendor", "stamps": "unseen stamps"}
STAGES = {"zero_shot": "Zero-shot", "fine_tuned": "After fine-tuning on other stamps"}
COUNT_ARMS = ("two", "three", "four")
LENGTH_ARMS = {"four-raw-length": "raw length", "four": "sheared", "four-unsheared": "not sheared"}
_KS = (1, 5, 10)
_WAYS = {"text_retrieval_recall": "image to text", "image_retrieval_recall": "text to image"}


def overview(result: Mapping[str, Any], stage: str) -> str:
    """A stage's table: means of both directions and of the seeds, and the gain in Recall@1 over the raw captions."""
    heads = [f"{name} R@{k}" for name in SETS.values() for k in _KS]
    gains = [f"{name}: R@1 over raw" for name in SETS.values()]
    lines = ["| trained on | " + " | ".join([*heads, *gains]) + " |", "|---|" + "---:|" * len([*heads, *gains])]
    for arm, entry in result["arms"].items():
        cells = [_spread(entry[f"{stage}.{name}"][f"mean_recall@{k}"]) for name in SETS for k in _KS]
        cells += ["" if arm == "raw" else _gain(entry[f"{stage}.{name}"]["mean_recall@1"]) for name in SETS]
        lines.append(f"| {entry['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def both_ways(result: Mapping[str, Any], stage: str) -> str:
    """A stage's table of each direction, with the interval of the first seed over the test pictures."""
    heads = [f"{name}, {way}, R@{k}" for name in SETS.values() for way in _WAYS.values() for k in _KS]
    lines = ["| trained on | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for entry in result["arms"].values():
        cells = []
        for name in SETS:
            for way in _WAYS:
                for k in _KS:
                    scores = entry[f"{stage}.{name}"][f"{way}@{k}"]
                    bounds = zip(*scores["interval_of_each_seed"], strict=True)
                    low, high = (sum(of_seeds) / len(of_seeds) for of_seeds in bounds)
                    cells.append(f"{scores['mean']:.1f} ({low:.1f} to {high:.1f})")
        lines.append(f"| {entry['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(scores: Mapping[str, Any]) -> str:
    return f"{scores['mean']:.1f} ± {scores['deviation']:.1f}"


def _gain(scores: Mapping[str, Any]) -> str:
    gained, low, high = scores["gain_over_raw"]
    return f"{gained:+.1f} ({low:+.1f} to {high:+.1f})"


def recall_at_1(result: Mapping[str, Any], arm: str, name: str, stage: str = "zero_shot") -> Mapping[str, Any]:
    """An arm's Recall@1 on a set, mean of both directions: percentages by seed, their mean and deviation, the gain."""
    scores: Mapping[str, Any] = result["arms"][arm][f"{stage}.{name}"]["mean_recall@1"]
    return scores


def plot(result: Mapping[str, Any], folder: Path) -> None:
    """Draw ``mllms.png``, Recall@1 against the number of MLLMs, and ``length.png``, against the captions' length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arms = result["arms"]
    singles = [arm for arm, entry in arms.items() if entry["captioners"] == 1]
    panels: list[tuple[str, Sequence[tuple[float, str, str]], str]] = [
        (
            "mllms.png",
            [
                (0, "raw", ""),
                *((0.82 + 0.12 * n, a, _letter(a)) for n, a in enumerate(singles)),
                *((n, a, "") for n, a in enumerate(COUNT_ARMS, 2)),
            ],
            "MLLMs whose captions are drawn beside the raw one",
        ),
        (
            "length.png",
            [(arms[arm]["words"], arm, label) for arm, label in LENGTH_ARMS.items()],
            "mean words of a new caption",
        ),
    ]
    for file, points, axis in panels:
        figure, axes = plt.subplots(1, len(SETS), figsize=(9, 3.6), layout="constrained")
        for axes_of_set, (name, title) in zip(axes, SETS.items(), strict=True):
            found = [(x, recall_at_1(result, arm, name), label) for x, arm, label in points]
            axes_of_set.errorbar(
                [x for x, _, _ in found],
                [scores["mean"] for _, scores, _ in found],
                yerr=[scores["deviation"] for _, scores, _ in found],
                fmt="o",
                capsize=3,
                color="#1f77b4",
            )
            alone = [scores["mean"] for x, scores, label in found if x < 1.5 and len(label) == 1]
            if alone:
                axes_of_set.plot([1], [sum(alone) / len(alone)], marker="_", markersize=18, color="#d62728")
            for x, scores, label in found:
                axes_of_set.annotate(label, (x, scores["mean"]), xytext=(6, 6), textcoords="offset points", fontsize=8)
            if file == "length.png":
                raw = recall_at_1(result, "raw", name)["mean"]
                axes_of_set.axhline(raw, color="grey", linestyle="--", linewidth=1)
                axes_of_set.margins(x=0.3)
                axes_of_set.annotate(
                    "raw captions only",
                    (axes_of_set.get_xlim()[1], raw),
                    fontsize=8,
                    xytext=(-4, -10),
                    textcoords="offset points",
                    horizontalalignment="right",
                )
            else:
                axes_of_set.set_xticks(range(5))
            axes_of_set.set(title=title, xlabel=axis, ylabel="R@1, % (both ways)")
            axes_of_set.set_ylim(bottom=0)
            axes_of_set.grid(alpha=0.3)
        figure.savefig(folder / file, dpi=120)
        plt.close(figure)


def _letter(arm: str) -> str:
    """The first letter of a miniature's MLLM, which is its own.

    >>> _letter("tiny-otter")
    'O'
    """
    return arm.removeprefix("tiny-")[0].upper()


def render(result: Mapping[str, Any]) -> str:
    """The report's text."""
    template = (HERE / "report_template.md").read_text("utf-8")
    settings = result["settings"]
    values = {
        "zero_shot": overview(result, "zero_shot"),
        "fine_tuned": overview(result, "fine_tuned"),
        "zero_shot_ways": both_ways(result, "zero_shot"),
        "fine_tuned_ways": both_ways(result, "fine_tuned"),
        "pairs": f"{result['pairs']:,}",
        "unseen": result["pairs_left_out"],
        "vendor": f"{result['test_pictures']['vendor']:,}",
        "stamps": f"{result['test_pictures']['stamps']:,}",
        "epochs": settings["epochs"],
        "tuning_epochs": settings["tuning_epochs"],
        "seeds": result["seeds"],
    }
    shown = {"raw": "raw", "four": "four", "llava": "tiny-llava", "unsheared": "four-unsheared"}
    shown |= {"rawlength": "four-raw-length", "noraw": "four-no-raw"}
    for name in SETS:
        for k, sign in ((1, ""), (10, "10")):
            metric = f"mean_recall@{k}"
            values[f"gain{sign}_{name}"] = _gain(result["arms"]["four"][f"zero_shot.{name}"][metric])
            for short, arm in shown.items():
                values[f"{short}{sign}_{name}"] = f"{result['arms'][arm][f'zero_shot.{name}'][metric]['mean']:.1f}"
    for name, value in values.items():
        template = template.replace("{{ " + name + " }}", str(value))
    return template


def write(result: Mapping[str, Any]) -> None:
    """Write the report and its plots."""
    REPORT.write_text(render(result), "utf-8")
    plot(result, HERE)


if __name__ == "__main__":
    write(json.loads(RESULT.read_text("utf-8")))
