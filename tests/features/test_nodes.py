"""Where features are kept on a disk that several machines may see."""

import socket
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from depthsearch.features import local_folder
from depthsearch.features.tiers.nodes import folders_in

Mount = namedtuple("Mount", ["mountpoint", "fstype"])


@pytest.mark.parametrize(
    ("mounts", "shared"),
    [
        ([("/", "ext4")], False),
        ([("/", "nfs4")], True),
        # The disk that is nearest, also one that has a name that begins in the same way.
        ([("/", "ext4"), ("{parent}", "nfs")], True),
        ([("/", "nfs"), ("{parent}", "ext4")], False),
        ([("/", "ext4"), ("{folder}-of-another", "nfs")], False),
        # Mounted when it is asked for: the second is the one that is seen.
        ([("{parent}", "autofs"), ("{parent}", "lustre")], True),
        ([], False),
    ],
)
def test_on_a_disk_of_the_network_a_machine_has_a_folder_of_its_own(
    mounts, shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home" / "features"
    there = {"parent": tmp_path / "home", "folder": folder}
    found = [Mount(where.format(**there), kind) for where, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    own = local_folder(folder)
    assert own == (folder / f"node-{socket.gethostname()}" if shared else folder)
    own.mkdir(parents=True)
    assert own in folders_in(folder)


def test_a_link_leads_to_the_disk_it_points_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "scratch")
    mounts = [Mount("/", "ext4"), Mount(str(tmp_path / "scratch"), "beegfs")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert local_folder(tmp_path / "cache").name == f"node-{socket.gethostname()}"
