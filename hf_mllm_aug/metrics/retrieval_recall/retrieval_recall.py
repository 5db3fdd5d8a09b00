"""Recall@K of image-text retrieval, as a module of Hugging Face evaluate.

Imports stand one a line, for evaluate reads them with a pattern; all arithmetic is in `hf_mllm_aug.retrieval`.
"""

from typing import Any

import datasets
import evaluate

from hf_mllm_aug.retrieval import retrieval_recall

_DESCRIPTION = """
Recall@K of image-text retrieval, both ways, from the embeddings of a dual encoder such as CLIP.
text_retrieval_recall@K is the share of pictures with any of their captions among the K best-scored ones;
image_retrieval_recall@K the share of captions with their picture among the K best-scored ones. A wrong item that
scores the same as the right one counts as ranked before it.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of n image embeddings, each a list of dim numbers.
    references: list of n lists: the embeddings of each picture's captions, one or more a picture.
    ks: cut-offs, default [1, 5, 10]. A K beyond the number of candidates is fine.
    normalize: True scores by cosine, False by dot product; None (the default) as False, with a logged warning where
        embeddings have different lengths.
Returns:
    text_retrieval_recall@K: fraction of pictures, for each K.
    image_retrieval_recall@K: fraction of captions, for each K.
Examples:
    >>> import evaluate
    >>> from hf_mllm_aug import metric_path
    >>> recall = evaluate.load(metric_path("retrieval_recall"))
    >>> scores = recall.compute(
    ...     predictions=[[1.0, 0.0], [0.0, 1.0]],
    ...     references=[[[0.8, 0.6], [1.0, 0.0]], [[1.0, 0.0]]],
    ...     ks=[1, 2],
    ... )
    >>> scores["text_retrieval_recall@1"], scores["image_retrieval_recall@2"]
    (0.0, 1.0)
"""

_CITATION = """
@inproceedings{radford2021learning,
  title     = {Learning Transferable Visual Models From Natural Language Supervision},
  author    = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and
               Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and
               Krueger, Gretchen and Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RetrievalRecall(evaluate.Metric):  # type: ignore[misc]  # noqa: D101  # the decorator writes the docstring
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
                }
            ),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        ks: tuple[int, ...] = (1, 5, 10),
        normalize: bool | None = None,
    ) -> dict[str, float]:
        owner = [row for row, captions in enumerate(references) for _ in captions]
        texts = [caption for captions in references for caption in captions]
        return retrieval_recall(predictions, texts, owner, ks=ks, normalize=normalize)
