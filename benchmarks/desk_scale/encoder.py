"""A small CLIP (arXiv 2103.00020) to be trained from nothing: a convolutional picture tower and a bag of tokens.

Small enough that three dozen of them train on two cores within the hour. A transformer in place of the bag took more
time and scored less on the development sets: seven thousand pairs teach it little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

DIM = 256
LENGTH = 40  # tokens; a caption before shearing has about thirty
VOCABULARY = 4000
_PAD, _START = "<pad>", "<s>"


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE tokenizer without case, padded with 0 to the longest caption of a batch, cut at `LENGTH`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[_PAD, _START], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(LENGTH - 1)
    tokenizer.enable_padding(length=LENGTH - 1, pad_id=0, pad_token=_PAD)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids, (n, LENGTH), each row begun by a start token, so that none is empty."""
    ids = [[1, *encoding.ids] for encoding in tokenizer.encode_batch(list(texts))]
    return torch.tensor(ids, dtype=torch.int64).reshape(len(texts), LENGTH)


class _Block(nn.Module):
    """Two convolutions beside a shortcut (ResNet, arXiv 1512.03385), at half the resolution."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, states: Tensor) -> Tensor:
        return F.relu(self.shortcut(states) + self.second(self.first(states)))


class SmallClip(nn.Module):
    """Both towers and the scale of their cosines.

    Args:
        vocabulary: Number of tokens.
        width: Channels after the first layer of the picture tower; doubled by each of three blocks.
        text_width: Of the caption tower.
    """

    def __init__(self, vocabulary: int, width: int = 48, text_width: int = 128) -> None:
        super().__init__()
        self.pictures = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(_Block(width * 2**stage, width * 2 ** (stage + 1)) for stage in range(3)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(8 * width, DIM),
        )
        self.tokens = nn.Embedding(vocabulary, text_width)
        self.captions = nn.ModuleList([nn.LayerNorm(text_width), nn.Linear(text_width, DIM)])
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.tokens.weight, std=0.02)

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """Pictures (n, 3, side, side), normalised, to unit vectors (n, DIM), float32."""
        with torch.autocast(pixels.device.type, torch.bfloat16):
            states = self.pictures(pixels)
        return F.normalize(states.float(), dim=1)

    def embed_captions(self, ids: Tensor) -> Tensor:
        """Token ids (n, LENGTH) to unit vectors (n, DIM), float32: of the mean over a caption's tokens."""
        ids = ids[:, : int((ids > 0).sum(1).max())]
        present = (ids > 0).float()[..., None]
        states = self.captions[0](self.tokens(ids)) * present
        return F.normalize(self.captions[1](states.sum(1) / present.sum(1)), dim=1)


def contrastive_loss(scores: Tensor, groups: Tensor, smoothing: float = 0.0) -> Tensor:
    """CLIP's loss for a batch in which pairs of one group (the very same caption) are all right for one another.

    Args:
        scores: (n, n), pictures by captions.
        groups: (n,) the group of each pair.
        smoothing: The part of the target that is spread over all pairs of the batch.

    >>> contrastive_loss(torch.eye(2) * 100, torch.tensor([0, 1])).item() < 1e-6
    True
    """
    right = (groups[:, None] == groups[None]).float()
    right = right / right.sum(1, keepdim=True)
    ways = (F.cross_entropy(way, right, label_smoothing=smoothing) for way in (scores, scores.T))
    return sum(ways, scores.new_zeros(())) / 2
