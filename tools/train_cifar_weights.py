"""Train one of timm's CNNs on CIFAR-100, for machines without access to ImageNet weights.

The DenseNet121 weights that depthsearch ships for its demo were made by this, and those of some studies. The
architecture is timm's, unchanged. The image size grows: early epochs see small images, which are cheap, late
ones the size that a study uses. A checkpoint is written after each epoch, so that the same command continues
a stopped run.

    python tools/train_cifar_weights.py cifar100/ --out runs/densenet121 --schedule 32x8,48x4,64x6
    python tools/train_cifar_weights.py cifar100/ --out runs/densenet121 --schedule 64x40 --device cuda
    python tools/train_cifar_weights.py cifar100/ --architecture mobilenetv1_100 --out runs/mobilenetv1_100

``cifar100/`` holds ``{train,test}/<class>/<image>`` at 32 px (50,000 and 10,000 images). The result is
``ARCHITECTURE_cifar100.safetensors`` (half precision, for ``--weights``) and ``log.json`` (one record an
epoch).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from depthsearch.devices import Device, choose_device, use_all_cores
from depthsearch.training.gradients import quick_gradients

PAD = 4


def read_split(folder: Path, cache: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode ``folder/<class>/<image>`` to uint8 ``(n, 3, 32, 32)`` and labels ``(n,)``, once."""
    if not cache.exists():
        classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
        files = [(f, i) for i, c in enumerate(classes) for f in sorted((folder / c).iterdir())]
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(lambda f: np.asarray(Image.open(f[0]).convert("RGB")), files))
        labels = np.array([i for _, i in files])
        np.savez(cache, images=np.stack(images).transpose(0, 3, 1, 2), labels=labels)
    with np.load(cache) as data:
        return torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])


def to_input(images: torch.Tensor, size: int, model: torch.nn.Module, device: Device) -> torch.Tensor:
    """Normalise uint8 images ``(n, 3, h, w)`` as timm does for the model; enlarge them to ``size`` pixels."""
    x = images.to(device.torch_device, non_blocking=True).float().div_(255)
    mean, std = (x.new_tensor(vars(model)["pretrained_cfg"][name]).view(3, 1, 1) for name in ("mean", "std"))
    x = (x - mean) / std
    if size != x.shape[-1]:
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to ``PAD`` pixels (reflected border) and mirror half of them."""
    n, _, h, w = images.shape
    padded = F.pad(images.float(), (PAD,) * 4, mode="reflect").to(torch.uint8)
    top, left = torch.randint(0, 2 * PAD + 1, (2, n), generator=generator)
    rows = (top[:, None] + torch.arange(h))[:, :, None]
    columns = left[:, None] + torch.arange(w)
    mirrored = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)[:, None, :]
    return padded[torch.arange(n)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Group the parameters: only matrices and kernels decay, not biases and normalisation."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def one_cycle(step: int, n_steps: int, *, peak: float, warm_up: float = 0.2) -> float:
    """Compute the learning rate: linear to ``peak`` over the first share of steps, then cosine to zero."""
    turn = warm_up * n_steps
    if step < turn:
        return peak * (0.04 + 0.96 * step / turn)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - turn) / (n_steps - turn)))


@torch.no_grad()
def accuracy(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, size: int, device: Device
) -> float:
    """Measure the share of correct predictions."""
    model.eval()
    correct = 0
    for x, y in zip(images.split(250), labels.split(250), strict=True):
        with device.autocast():
            predicted = model(to_input(x, size, model, device)).argmax(1)
        correct += int((predicted.cpu() == y).sum())
    return correct / len(labels)


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--architecture", default="densenet121", help="timm's name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--schedule", default="32x8,48x4,64x6", help="SIZExEPOCHS, comma-separated")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--peak-learning-rate", type=float, default=0.2)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or float32")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training, resumable after each epoch.

    Attributes:
        arguments: Of the command line.
        train: Images and labels.
        model: In training.
        optimizer: Of its parameters.
        device: What to compute on.
        sizes: Image size of each epoch.
    """

    arguments: argparse.Namespace
    train: tuple[torch.Tensor, torch.Tensor]
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    device: Device
    sizes: list[int]

    def train_epoch(self, epoch: int) -> float:
        """Train an epoch; return the mean loss."""
        started, batch_size = time.perf_counter(), self.arguments.batch_size
        images, labels = self.train
        n_steps: int = len(labels) // batch_size
        generator = torch.Generator().manual_seed(self.arguments.seed * 1000 + epoch)
        order = torch.randperm(len(labels), generator=generator)
        self.model.train()
        losses: list[float] = []
        for step in range(n_steps):
            for group in self.optimizer.param_groups:
                group["lr"] = one_cycle(
                    epoch * n_steps + step,
                    len(self.sizes) * n_steps,
                    peak=self.arguments.peak_learning_rate,
                )
            index = order[step * batch_size : (step + 1) * batch_size]
            x = to_input(augment(images[index], generator), self.sizes[epoch], self.model, self.device)
            with self.device.autocast(), quick_gradients(self.device):
                logits = self.model(x)
            loss = F.cross_entropy(logits.float(), self.device.move(labels[index]), label_smoothing=0.1)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            if step % 50 == 0:
                rate = (step + 1) * batch_size / (time.perf_counter() - started)
                print(f"epoch {epoch} step {step} loss {losses[-1]:.3f} {rate:.0f}/s", flush=True)
        return sum(losses) / n_steps

    def load(self, checkpoint: Path) -> list[dict[str, float]]:
        """Load a checkpoint, if there is one; return the records of its epochs."""
        if not checkpoint.exists():
            return []
        state = torch.load(checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        log: list[dict[str, float]] = state["log"]
        return log

    def save(self, checkpoint: Path, log: list[dict[str, float]]) -> None:
        """Write a checkpoint."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "log": log}
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)


def prepared(arguments: argparse.Namespace) -> Run:
    """Prepare a run: images, model and optimizer."""
    train = read_split(arguments.data / "train", arguments.out / "train.npz")
    stages = [tuple(map(int, stage.split("x"))) for stage in arguments.schedule.split(",")]
    torch.manual_seed(arguments.seed)
    device = choose_device(arguments.device, arguments.precision)
    use_all_cores()
    model = timm.create_model(arguments.architecture, num_classes=100)
    model = model.to(device.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        parameter_groups(model, arguments.weight_decay), lr=0.1, momentum=0.9, nesterov=True
    )
    return Run(
        arguments=arguments,
        train=train,
        model=model,
        optimizer=optimizer,
        device=device,
        sizes=[size for size, epochs in stages for _ in range(epochs)],
    )


def main() -> None:
    """Train, or go on with a stopped run."""
    arguments = parsed()
    arguments.out.mkdir(parents=True, exist_ok=True)
    test = read_split(arguments.data / "test", arguments.out / "test.npz")
    run, checkpoint = prepared(arguments), arguments.out / "checkpoint.pt"
    log = run.load(checkpoint)
    for epoch in range(len(log), len(run.sizes)):
        started, size = time.perf_counter(), run.sizes[epoch]
        record = {
            "epoch": epoch + 1,
            "image_size": size,
            "train_loss": run.train_epoch(epoch),
            "test_accuracy": accuracy(run.model, *test, max(size, 32), run.device),
            "seconds": time.perf_counter() - started,
        }
        log.append(record)
        print(record, flush=True)
        run.save(checkpoint, log)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in run.model.state_dict().items()}
    weights = {k: v.contiguous().cpu() for k, v in weights.items()}
    save_file(weights, arguments.out / f"{arguments.architecture}_cifar100.safetensors", {"format": "pt"})
    (arguments.out / "log.json").write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main()
