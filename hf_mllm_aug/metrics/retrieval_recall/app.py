"""The metric as a Space: paste embeddings as JSON, read the recall.

evaluate's own widget (`evaluate.utils.launch_gradio_widget`) calls what Gradio removed in its version 4, and Gradio 3
does not work with today's huggingface_hub; so this page is built here, from the same module card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import evaluate
from evaluate.utils.gradio import parse_readme

HERE = Path(__file__).resolve().parent
EXAMPLE = ["[[1.0, 0.0], [0.0, 1.0]]", "[[[0.8, 0.6], [1.0, 0.0]], [[0.6, 0.8]]]", "[1, 2]"]


def score(predictions: str, references: str, ks: str) -> dict[str, float]:
    """Compute the metric from JSON text.

    Args:
        predictions: (n, dim) image embeddings.
        references: The embeddings of each image's captions, n lists.
        ks: Cut-offs.

    Returns:
        What the metric returns.

    Raises:
        ValueError: An input is no JSON, no list, or not what the metric takes.

    >>> score(*EXAMPLE)["text_retrieval_recall@1"]
    1.0
    """
    inputs = {}
    for name, text in (("predictions", predictions), ("references", references), ("ks", ks)):
        try:
            inputs[name] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is no JSON: {error}") from None
        if not isinstance(inputs[name], list):
            raise ValueError(f"{name} is no list: give one such as {EXAMPLE[len(inputs) - 1]}")
    metric = evaluate.load(str(HERE / "retrieval_recall.py"))
    scores: dict[str, float] = metric.compute(**inputs)
    return scores


def page() -> Any:
    """The Gradio interface; what is wrong with an input is shown beside it."""
    import gradio as gr  # type: ignore[import-not-found]  # a Space brings it

    def shown(predictions: str, references: str, ks: str) -> dict[str, float]:
        try:
            return score(predictions, references, ks)
        except ValueError as error:  # embeddings that do not fit, and text that is no JSON
            raise gr.Error(str(error)) from None

    return gr.Interface(
        fn=shown,
        inputs=[
            gr.Textbox(label="predictions: image embeddings, JSON (n x dim)", lines=3),
            gr.Textbox(label="references: caption embeddings of each image, JSON (n x captions x dim)", lines=3),
            gr.Textbox(label="ks", value="[1, 5, 10]"),
        ],
        outputs=gr.JSON(label="recall"),
        examples=[EXAMPLE],
        title="Retrieval Recall@K",
        article=parse_readme(HERE / "README.md"),
    )


if __name__ == "__main__":
    page().launch()
