"""moto's server without what takes half of its time: looks at its own folders, a log, and a packet for each header.

Run as `python -m tests.support.moto_server PORT`. The services are moto's own.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from moto import backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


def serve(port: int, application: Callable[..., Any]) -> None:
    """Serve an application of moto's until SIGTERM."""
    os.environ["MOTO_PORT"] = str(port)
    # For each request moto asks the file system for the names of its services.
    services = frozenset(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: services
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run_simple("127.0.0.1", port, application, threaded=True, request_handler=_Handler)


class _Handler(MotoRequestHandler):
    wbufsize = 64 << 10

    def handle_expect_100(self) -> bool:
        goes_on: bool = super().handle_expect_100()
        self.wfile.flush()
        return goes_on


if __name__ == "__main__":
    serve(int(sys.argv[1]), DomainDispatcherApplication(create_backend_app))
