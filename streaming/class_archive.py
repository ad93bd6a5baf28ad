"""Keeps the classes that Spark loads at a start in the form Java runs them in; sessions then open in half the time.

Run as `JAVA_HOME=... python -m streaming.class_archive` once after an installation; without the archive all works, too.
"""

import os
import tempfile
import threading
from pathlib import Path

from store.settings import load_settings
from streaming.local_machine import make_spark_home
from streaming.service import StreamListener, stream_in
from streaming.session import class_archive, close_session, open_session

END_S = 120


def make_class_archive() -> Path:
    """Make the archive for this Spark and this Java, unless it is there, and return its path.

    A session starts as a stream does; at its end Java writes the classes that it loaded. Replay changes nothing; of
    two at once the last one stays. Raises SparkUnavailable.
    Source: JEP 350, Dynamic CDS Archives.
    """
    archive = class_archive()
    if archive.exists():
        return archive
    make_spark_home()
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        fresh, scratch = Path(folder, archive.name), Path(folder, "scratch")
        scratch.mkdir()
        session = open_session("local[1]", scratch, java_options=f'"-XX:ArchiveClassesAtExit={fresh}"')
        gateway = session.sparkContext._gateway
        assert gateway is not None
        session.range(1).count()
        session.sparkContext.parallelize([0], 1).map(abs).collect()
        nothing_landed = load_settings(home=f"{folder}/home", trigger="100ms")
        stream_in(
            session, nothing_landed, True, threading.Event(), StreamListener(lambda _: None, lambda _: None), scratch
        )
        close_session(session)
        gateway.proc.stdin.close()
        gateway.proc.wait(END_S)
        fresh.replace(archive)
    return archive


if __name__ == "__main__":
    # The stream here is nobody's: no setting of a user may send it to a real landing.
    os.chdir(tempfile.gettempdir())
    for name in [name for name in os.environ if name.startswith("FRUITS_")]:
        del os.environ[name]
    print(make_class_archive())
