"""A process of a group that computes its part of the contrastive losses of `examples/gathered_loss.py`.

python pretrain_loss.py EXAMPLES RANK PROCESSES STORE IN OUT
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file


def main(examples: str, rank: int, processes: int, store: str, given: str, out: str) -> None:
    """Write both losses of the process's own rows, and their gradients with respect to all rows, before scaling."""
    sys.path.insert(0, examples)
    from gathered_loss import contrastive_loss  # type: ignore[import-not-found]

    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=processes)
    rows = load_file(given)
    share = len(rows["images"]) // processes
    own = slice(share * rank, share * (rank + 1))
    for name in ("images", "texts", "scale", "bias"):
        rows[name].requires_grad_()
    unit = [torch.nn.functional.normalize(rows[name][own], dim=1) for name in ("images", "texts")]
    answer: dict[str, torch.Tensor] = {}
    for kind, logits in {"softmax": ["scale"], "sigmoid": ["scale", "bias"]}.items():
        loss = contrastive_loss(*unit, rows["valid"][own].bool(), *(rows[name] for name in logits))
        names = ["images", "texts", *logits]
        gradients = torch.autograd.grad(loss, [rows[name] for name in names], retain_graph=True)
        answer |= {f"{kind} {name}": gradient for name, gradient in zip(names, gradients, strict=True)}
        answer[kind] = loss.detach()
    save_file(answer, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
