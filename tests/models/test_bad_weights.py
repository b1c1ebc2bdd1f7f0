"""Weights files that are damaged, hostile, or of something else."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from bad_input import STEADY, STUDY, contents, refusal
from hypothesis import given, strategies as st
from privileges import make_pipe
from safetensors.torch import save

from depthsearch.errors import WeightsError
from depthsearch.models.backbones import load_backbone, state_digest
from depthsearch.models.backbones.weightsfile import read_state

Make = Callable[[Path], object]
State = dict[str, torch.Tensor]


def state() -> State:
    torch.manual_seed(5)
    return timm.create_model("test_resnet", pretrained=False).state_dict()


def torch_bytes(held: object, **options: bool) -> bytes:
    written = io.BytesIO()
    torch.save(held, written, **options)
    return written.getvalue()


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    tensors = state()
    tensors[key] = change(tensors[key])
    return tensors


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    return changed("conv1.0.weight", change)


def poisoned(value: float, dtype: torch.dtype = torch.float32) -> State:
    def poison(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(dtype, copy=True)
        tensor.view(-1)[3] = value
        return tensor

    return first(poison)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.trace}",)


def zipped(n_bytes: int) -> bytes:
    """Write a torch file in which one tensor is deflated to next to nothing."""
    held = zipfile.ZipFile(io.BytesIO(torch_bytes({"conv1.0.weight": torch.zeros(8)})))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in held.infolist():
            is_data = entry.filename.endswith("/data/0")
            archive.writestr(entry.filename, bytes(n_bytes) if is_data else held.read(entry))
    return written.getvalue()


def fewer() -> State:
    tensors = state()
    del tensors["bn1.weight"]
    return tensors


def all_nan() -> State:
    return {key: t * float("nan") for key, t in state().items() if t.is_floating_point()}


def quantised() -> State:
    return first(lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8))


def numpy_archive() -> bytes:
    written = io.BytesIO()
    np.savez(written, a=np.zeros(3))
    return written.getvalue()


def header(described: object, length: int | None = None) -> bytes:
    """Write the header of a safetensors file, and nothing behind it."""
    text = json.dumps(described).encode()
    return struct.pack("<Q", length or len(text)) + text


def renamed(archive: bytes, old: bytes, new: bytes) -> bytes:
    """Write another name of the same length into an archive, there only where its files are listed."""
    head, tail = archive[: archive.index(b"PK\x01\x02")], archive[archive.index(b"PK\x01\x02") :]
    return head + tail.replace(old, new * len(old))


# The locator of a zip's directory: signature, number of the disk, where it is there, number of disks.
SEVERAL_DISKS = (b"PK\x06\x07" + bytes(4), b"PK\x06\x07" + b"\x01" + bytes(3))

SAFE, TORCH = "w.safetensors", "w.pt"
NEITHER = "is neither a safetensors file nor a state dict that loads without running code"
FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": (SAFE, lambda: b"", NEITHER),
    "empty, torch's": (TORCH, lambda: b"", NEITHER),
    "text": (SAFE, lambda: b"no weights\n" * 50, NEITHER),
    "text, torch's": (TORCH, lambda: b"no weights\n" * 50, NEITHER),
    "zeros": (SAFE, lambda: bytes(1000), NEITHER),
    "zeros, torch's": (TORCH, lambda: bytes(1000), NEITHER),
    "a header of 2 ** 63": (SAFE, lambda: header({}, 2**63), NEITHER),
    "a header of 2 ** 40": (SAFE, lambda: header({}, 2**40), NEITHER),
    "a header that is no JSON": (SAFE, lambda: struct.pack("<Q", 8) + b"{{{{{{{{", NEITHER),
    "a header nested too deeply": (SAFE, lambda: struct.pack("<Q", 90_000) + b"[" * 90_000, NEITHER),
    "offsets beyond the end": (
        SAFE,
        lambda: header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        NEITHER,
    ),
    "no tensors": (SAFE, lambda: header({}), "75 keys missing"),
    "cut short": (SAFE, lambda: save(state())[:-100], NEITHER),
    "cut in its header": (SAFE, lambda: save(state())[:100], NEITHER),
    "cut short, torch's": (TORCH, lambda: torch_bytes(state())[:-100], NEITHER),
    "cut in the middle, torch's": (TORCH, lambda: torch_bytes(state())[:50_000], NEITHER),
    "of the other kind by its name": (SAFE, lambda: torch_bytes(state()), NEITHER),
    "of the other kind by its name, torch's": (TORCH, lambda: save(state()), NEITHER),
    "a whole model": (TORCH, lambda: torch_bytes(torch.nn.Linear(2, 2)), NEITHER),
    "a list": (TORCH, lambda: torch_bytes([torch.zeros(2)]), NEITHER),
    "a tensor": (TORCH, lambda: torch_bytes(torch.zeros(2)), NEITHER),
    "no state dict": (TORCH, lambda: torch_bytes({"epoch": 3}), "holds no state dict of tensors"),
    "an empty state dict": (TORCH, lambda: torch_bytes({}), "75 keys missing"),
    "numbers for names": (TORCH, lambda: torch_bytes({1: torch.zeros(2)}), "holds no state dict of tensors"),
    "an optimizer": (
        TORCH,
        lambda: torch_bytes(torch.optim.SGD([torch.zeros(2)], lr=1).state_dict()),
        "holds no state dict",
    ),
    "a NumPy archive": (TORCH, numpy_archive, NEITHER),
    "a zip of text": ("w.pth", lambda: zipped(0)[:60], NEITHER),
    "a zip whose names are no text": (TORCH, lambda: renamed(torch_bytes({}), b"data.pkl", b"\xff"), NEITHER),
    "a zip of several disks": (TORCH, lambda: torch_bytes({}).replace(*SEVERAL_DISKS), "75 keys missing"),
    "a zip that inflates to 200 MB": (TORCH, lambda: zipped(200_000_000), "would grow to 0.2 GiB in memory"),
    "another backbone's": (
        SAFE,
        lambda: save(timm.create_model("test_vit", pretrained=False).state_dict()),
        "does not fit test_resnet: ",
    ),
    "a key too few": (SAFE, lambda: save(fewer()), "1 key missing (bn1.weight)"),
    "a key too many": (SAFE, lambda: save({**state(), "more": torch.zeros(2)}), "1 key unexpected (more)"),
    "a key of escapes": (SAFE, lambda: save({**state(), "\x1b[2J": torch.zeros(2)}), r"unexpected (\x1b[2J)"),
    "another shape": (
        SAFE,
        lambda: save(first(lambda t: t[:, :1].contiguous())),
        "1 key of another shape (conv1.0.weight)",
    ),
    "a scalar": (SAFE, lambda: save(changed("bn1.weight", lambda t: t.mean())), "1 key of another shape"),
    "transposed": (SAFE, lambda: save(first(lambda t: t.mT[..., :2].contiguous())), "another shape"),
    "NaN": (SAFE, lambda: save(poisoned(float("nan"))), "1 key with NaN or infinite values (conv1."),
    "infinite": (SAFE, lambda: save(poisoned(float("inf"))), "1 key with NaN or infinite values"),
    "infinite, torch's": (TORCH, lambda: torch_bytes(poisoned(float("-inf"))), "with NaN or infinite"),
    "infinite in 16 bits": (SAFE, lambda: save(poisoned(1e9, torch.float16)), "with NaN or infinite"),
    "infinite in 32 bits": (SAFE, lambda: save(poisoned(1e300, torch.float64)), "with NaN or infinite"),
    "all NaN": (SAFE, lambda: save(all_nan()), "75 keys with NaN or infinite values ("),
    "whole numbers": (
        SAFE,
        lambda: save(first(lambda t: t.to(torch.int8))),
        "1 key without floating-point numbers (conv1.0.weight)",
    ),
    "truth values": (SAFE, lambda: save(first(lambda t: t > 0)), "without floating-point"),
    "complex numbers": (TORCH, lambda: torch_bytes(first(lambda t: t + 1j)), "without floating-point"),
    "sparse": (TORCH, lambda: torch_bytes(first(lambda t: t.to_sparse())), "without floating-point"),
    "without memory": (TORCH, lambda: torch_bytes(first(lambda t: t.to("meta"))), "without floating"),
    "quantised": (TORCH, lambda: torch_bytes(quantised()), "without floating-point"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", FILES)
def test_weights_that_cannot_be_used_are_one_line(tmp_path, monkeypatch, capsys, name: str) -> None:
    file, make, expected = FILES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / file).write_bytes(make())
    before = contents(tmp_path)
    told = refusal([*STUDY, "--data=digits", f"--weights={file}"], capsys)
    assert expected in told
    assert f"{file} " in told
    assert contents(tmp_path) == before


PLACES: dict[str, tuple[Make, str]] = {
    "nothing": (lambda path: None, "No weights file 'w.pt'. Give auto, random, or a safetensors"),
    "a folder": (lambda path: path.mkdir(), "No weights file 'w.pt' (it is a folder)"),
    "a pipe": (make_pipe, "No weights file 'w.pt' (it is a pipe or device)"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "(it is a pipe or device)"),
    "a loop": (lambda path: path.symlink_to("w.pt"), "(Too many levels of symbolic links)"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "No weights file 'w.pt'. Give"),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_weights_file_is_one_line_and_nobody_waits_for_it(
    tmp_path, monkeypatch, capsys, name: str
) -> None:
    make, expected = PLACES[name]
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "w.pt")
    assert expected in refusal([*STUDY, "--data=digits", "--weights=w.pt"], capsys)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--weights=AUTO", "No weights file 'AUTO'"),
        ("--weights=" + "a" * 300, "(File name too long)"),
        ("--weights=~nonesuch/w.pt", "No weights file '~nonesuch/w.pt'"),
        ("--weights=test_resnet=", "No weights file"),
        ("--weights=test_resnet=random,test_resnet=auto", "test_resnet is given twice. Keep one of them"),
        ("--weights=nonesuch=random", "No weights file 'nonesuch=random'"),
        ("--weights=\x1b[2J", r"No weights file '\x1b[2J'"),
    ],
)
def test_weights_that_are_no_place_are_one_line(tmp_path, monkeypatch, capsys, option, expected) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refusal([*STUDY, "--data=digits", option], capsys)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("file", ["w.pt", "w.pth", "w.bin", "w.safetensors", "w"])
def test_a_pickle_is_refused_and_what_it_would_do_is_not_done(tmp_path, file: str, protocol: int) -> None:
    trace, path = tmp_path / "it-ran", tmp_path / file
    path.write_bytes(pickle.dumps({"conv1.0.weight": Bomb(trace)}, protocol=protocol))
    with pytest.raises(WeightsError, match="loads without running code"):
        load_backbone("test_resnet", str(path))
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the file would not have done harm to anybody"


@pytest.mark.parametrize("protocol", [2, 3])
def test_weights_of_the_protocols_that_torch_reads_are_taken_without_a_word(tmp_path, protocol: int) -> None:
    torch.save(state(), tmp_path / "w.pt", pickle_protocol=protocol)
    assert read_state(tmp_path / "w.pt").tensors.keys() == state().keys()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors},
        lambda tensors: {"model": tensors, "epoch": 3, "optimizer": {}},
        lambda tensors: {f"module.{key}": tensor for key, tensor in tensors.items()},
        lambda tensors: {"state_dict": {f"module.{key}": tensor for key, tensor in tensors.items()}},
        lambda tensors: {f"_orig_mod.{key}": tensor for key, tensor in tensors.items()},
        lambda tensors: {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()},
        lambda tensors: {k: t.double() if t.is_floating_point() else t for k, t in tensors.items()},
        lambda tensors: {k: t for k, t in tensors.items() if not k.endswith("num_batches_tracked")},
        lambda tensors: {k: torch.nn.Parameter(t, t.is_floating_point()) for k, t in tensors.items()},
    ],
)
def test_weights_as_programs_commonly_save_them_are_taken(tmp_path, wrap) -> None:
    torch.save(wrap(state()), tmp_path / "w.pt")
    loaded = load_backbone("test_resnet", str(tmp_path / "w.pt"))
    assert torch.allclose(loaded.model.state_dict()["conv1.0.weight"], state()["conv1.0.weight"], atol=1e-3)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_no_bytes_of_a_weights_file_are_a_traceback(tmp_path, suffix: str) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2, 2)}
    whole = save(tensors) if suffix == "safetensors" else torch_bytes(tensors)
    path = tmp_path / f"w.{suffix}"

    @STEADY
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=5))
    def check(changes: list[tuple[int, int]]) -> None:
        spoilt = bytearray(whole)
        for place, value in changes:
            spoilt[place] = value
        path.write_bytes(spoilt)
        try:
            read_state(path)
        except WeightsError as error:
            refused_for = str(error)
        else:
            return
        assert str(path) in refused_for

    check()


# --- which of several, and what stands before the names ----------------------------------------


PREFIXES = ["model.", "backbone.", "net.model.", "module.", "_orig_mod.", "student.", "module.encoder."]


@pytest.mark.parametrize("begin", PREFIXES)
def test_what_stands_before_every_key_is_taken_off(tmp_path, begin: str) -> None:
    tensors = {f"{begin}{key}": tensor for key, tensor in state().items()}
    # These two are taken off by themselves, so that what is beside them would be in the way.
    by_itself = begin in ("module.", "_orig_mod.")
    torch.save(tensors if by_itself else {**tensors, "projector.weight": torch.zeros(2)}, tmp_path / "w.pt")
    loaded = load_backbone("test_resnet", str(tmp_path / "w.pt"))
    assert loaded.digest == digest_of(state())
    told = [note for note in loaded.notes if "before the keys" in note]
    assert bool(told) != by_itself
    if told:
        assert f"the {begin.removeprefix('module.')!r} before the keys of" in told[0]
        assert "left out beside them: 1 tensor" in told[0]


def digest_of(tensors: State) -> str:
    model = timm.create_model("test_resnet", pretrained=False)
    model.load_state_dict(tensors)
    return state_digest(model, leave_out="fc")


def test_weights_that_do_not_fit_behind_what_stands_before_them_name_it(tmp_path) -> None:
    torch.save({f"model.{key}": tensor for key, tensor in fewer().items()}, tmp_path / "w.pt")
    expected = (
        r"w\.pt does not fit test_resnet without the 'model\.' before its keys: 1 key missing \(bn1\.wei"
    )
    with pytest.raises(WeightsError, match=expected):
        load_backbone("test_resnet", str(tmp_path / "w.pt"))


def test_of_two_models_in_one_state_dict_one_has_to_be_named(tmp_path) -> None:
    path, teacher = tmp_path / "w.pt", {key: tensor + 1 for key, tensor in state().items()}
    both = [("student", state()), ("teacher", teacher)]
    torch.save({f"{who}.{key}": tensor for who, tensors in both for key, tensor in tensors.items()}, path)
    with pytest.raises(
        WeightsError, match=r"w\.pt holds these weights 2 times, under student, teacher\. Give"
    ):
        load_backbone("test_resnet", str(path))
    assert load_backbone("test_resnet", f"{path}:teacher").digest == digest_of(teacher)


@pytest.mark.parametrize(
    ("usual", "averaged"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("state_dict", "ema_state")],
)
def test_of_weights_and_their_average_the_weights_are_taken_and_it_is_told(
    tmp_path, usual: str, averaged: str
) -> None:
    path, average = tmp_path / "w.pt", {key: tensor + 1 for key, tensor in state().items()}
    torch.save({"epoch": 3, averaged: average, usual: state(), "optimizer": {"state": {}}}, path)
    loaded = load_backbone("test_resnet", str(path))
    assert loaded.digest == digest_of(state())
    assert str(loaded.weights).startswith(f"file w.pt:{usual} (")
    (note,) = loaded.notes
    assert f"{usual} of {path}, which also holds {averaged}. Another: --weights {path}:{averaged}." in note
    other = load_backbone("test_resnet", f"{path}:{averaged}")
    assert other.digest == digest_of(average)
    assert str(other.weights).startswith(f"file w.pt:{averaged} (")


def test_an_average_alone_is_taken(tmp_path) -> None:
    torch.save({"model_ema": state(), "epoch": 3}, tmp_path / "w.pt")
    assert load_backbone("test_resnet", str(tmp_path / "w.pt")).digest == digest_of(state())


@pytest.mark.parametrize(
    ("held", "entry", "expected"),
    [
        ("ab", "", r"w\.pt holds several state dicts: a, b\. Give .*w\.pt:a, or another"),
        ("ab", ":c", r"w\.pt holds no 'c', but a, b\. Give .*w\.pt:a, or another"),
        ("", ":c", r"holds one state dict, with no keys that begin with 'c\.'\. Give .*w\.pt\."),
    ],
)
def test_which_weights_of_a_file_is_said_or_asked(tmp_path, held: str, entry: str, expected: str) -> None:
    torch.save({name: state() for name in held} or state(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=expected):
        load_backbone("test_resnet", f"{tmp_path}/w.pt{entry}")


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path) -> None:
    torch.save(state(), tmp_path / "w.pt:best")
    assert str(load_backbone("test_resnet", f"{tmp_path}/w.pt:best").weights).startswith("file w.pt:best (")


@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_classifier_that_is_missing_or_of_other_classes_is_told(tmp_path, num_classes: int) -> None:
    tensors = timm.create_model("test_resnet", pretrained=False, num_classes=num_classes).state_dict()
    torch.save(tensors, tmp_path / "w.pt")
    (note,) = load_backbone("test_resnet", str(tmp_path / "w.pt")).notes
    assert ("tells 7 classes; it is left out" if num_classes else "comes without a classifier (fc)") in note


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")],
)
def test_too_little_memory_is_no_unreadable_file(tmp_path, monkeypatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    torch.save(state(), tmp_path / "w.pt")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(
        WeightsError, match=r"^The memory does not suffice to read .*w\.pt \(2 MiB\)\. Free some"
    ):
        load_backbone("test_resnet", str(tmp_path / "w.pt"))
