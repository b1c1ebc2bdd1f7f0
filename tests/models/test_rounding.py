"""Each image comes out of a CPU as it does in any other batch, to the bit."""

from collections.abc import Iterator

import pytest
import timm
import torch
from torch import fx, nn

from depthsearch.devices import choose_device
from depthsearch.models.rounding import LEAST_BATCH, MOST_GATES, filled_up, gates_of, rows_at_once
from depthsearch.models.tracing.trace import trace

THREADS = (1, 2, 4)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_rows", "elements", "n_threads", "expected"),
    [
        (1, (), 1, LEAST_BATCH),
        (17, (), 1, 17),
        (17, (96,), 1, 17),
        (17, (10,), 1, 32),
        (17, (24,), 1, 20),
        (17, (24, 10), 1, 32),
        (33, (7,), 1, 64),
        # 20 x 2,016 are divided among two threads: 20,160 elements for each are 630 steps.
        (20, (2016,), 2, 20),
        # 21 x 2,016: 21,168 for each are no whole number of steps.
        (21, (2016,), 1, 21),
        (21, (2016,), 2, 22),
        # Fewer elements than one part has at least are not divided.
        (16, (2016,), 2, 16),
        # Five parts are equal where the rows are divided by five.
        (64, (75264,), 5, 65),
        # Nearby, no rows are: the next whole number of steps.
        (65, (75264,), 53, 96),
    ],
)
def test_the_least_number_of_rows_leaves_nothing_over(n_rows, elements, n_threads, expected) -> None:
    assert rows_at_once(n_rows, elements, n_threads=n_threads) == expected


def test_gates_are_found_as_modules_functions_and_methods() -> None:
    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.silu, self.hard = (
                nn.Conv2d(3, 3, 1),
                nn.ReLU(),
                nn.SiLU(),
                nn.Hardswish(),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.hard(self.silu(self.relu(self.conv(x))))
            x = nn.functional.gelu(x) + torch.sigmoid(x) * x.sigmoid()
            return x.relu().sigmoid_()

    traced = fx.symbolic_trace(Gates())
    assert [node.name for node in gates_of(traced, traced.graph.nodes)] == [
        "silu", "gelu", "sigmoid", "sigmoid_1", "sigmoid_",
    ]  # fmt: skip


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_mambaout"])
def test_a_row_of_a_filled_batch_is_that_of_any_other(threads, name: str, n_threads: int) -> None:
    torch.set_num_threads(n_threads)
    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False).eval()
    graph = trace(model, image_size=40)
    elements = {graph.bytes_per_image[node] // 4 for node in gates_of(graph.traced, graph.nodes)}
    device = choose_device("cpu", "float32")
    images = torch.randn(128, 3, 40, 40)
    with torch.no_grad():
        whole = model.forward_features(images)
        for n_rows in (1, 16, 17, 23, 33, 40):
            for start in (0, 64):
                few = images[start : start + n_rows]
                filled = filled_up(few, device, elements)
                assert torch.equal(filled[:n_rows], few)
                assert len(filled) <= max(n_rows, LEAST_BATCH) + 32
                found = model.forward_features(filled)[:n_rows]
                assert torch.equal(found, whole[start : start + n_rows]), (n_rows, start)


def test_an_accelerator_s_batches_stay_as_they_are() -> None:
    cuda = choose_device("cpu", "float32").__class__(kind="cuda", bf16=False, channels_last=True)
    rows = torch.zeros(3, 2)
    assert filled_up(rows, cuda, MOST_GATES) is rows
