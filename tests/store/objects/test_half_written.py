"""What a killed write leaves on disk is found and deleted, and nothing else."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from store.objects.half_written import delete_half_written
from store.objects.location import StorageLocation
from store.objects.operations import keys_below, overwrite

WRITER = """
import sys, obstore
from obstore.store import LocalStore
store = LocalStore(sys.argv[1], mkdir=True)
while True:
    obstore.put(store, "kiwi/a.json", bytes(4_000_000))
"""


def test_what_a_killed_write_left_goes_and_what_is_written_now_stays(tmp_path: Path) -> None:
    place = StorageLocation.at(str(tmp_path))
    for key in ("kiwi/a.json", "kiwi/x#1.json", "y#"):
        overwrite(place, key, b"whole")
    (tmp_path / "kiwi" / "a.json#1").write_bytes(b"half")
    (tmp_path / "kiwi" / "b.json#12").write_bytes(b"half of another")
    before = datetime.now(UTC)
    for path in tmp_path.rglob("*"):
        os.utime(path, (before.timestamp() - 60, before.timestamp() - 60))
    (tmp_path / "kiwi" / "c.json#1").write_bytes(b"a write of this moment")
    assert delete_half_written(place, before) == 2
    assert sorted(keys_below(place)) == ["kiwi/a.json", "kiwi/x#1.json", "y#"]
    assert (tmp_path / "kiwi" / "c.json#1").exists()
    assert delete_half_written(place, before) == 0
    assert delete_half_written(StorageLocation.at(str(tmp_path / "nothing")), before) == 0


def test_a_killed_write_has_the_name_that_is_looked_for(tmp_path: Path) -> None:
    left: list[Path] = []
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) as writer:
        while not left and writer.poll() is None:
            os.kill(writer.pid, signal.SIGSTOP)
            left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a.json"]
            if not left:
                os.kill(writer.pid, signal.SIGCONT)
        writer.kill()
    assert left and not list(keys_below(StorageLocation.at(str(tmp_path))))[1:]
    assert delete_half_written(StorageLocation.at(str(tmp_path)), datetime.now(UTC) + timedelta(minutes=1)) == 1
