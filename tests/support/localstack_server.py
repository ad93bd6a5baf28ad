"""LocalStack on this machine's own address, without a word to the internet.

Run as a file, `python -I localstack_server.py PORT FOLDER`, in an environment of its own. The services are
LocalStack's own; what they write goes below the folder, which is new.
"""

import os
import runpy
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any


def serve(port: int, folder: str) -> None:
    """Serve until SIGTERM."""
    address = f"127.0.0.1:{port}"
    os.environ |= {
        "GATEWAY_LISTEN": address,
        # The host in the URLs of queues.
        "LOCALSTACK_HOST": address,
        "USE_SSL": "0",
        # Neither a certificate from the internet, nor news to it, nor a DNS server of its own.
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DISABLE_EVENTS": "1",
        "DNS_ADDRESS": "0",
        # Of Athena, Budgets and Glue its CloudFormation makes nothing, and goes on.
        "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "1",
        "LS_LOG": "warning",
        "HOME": folder,
        "TMPDIR": folder,
        # In a container it would write to the directories of its image.
        "OVERRIDE_IN_DOCKER": "0",
        "FILESYSTEM_ROOT": folder,
    }
    _keep_the_catalogue(Path(folder))
    # It passes over the host that it is to listen on, so it would serve the whole network. Its packages are not
    # installed where tests are checked.
    endpoints: Any = import_module("twisted.internet.endpoints")
    endpoints.TCP4ServerEndpoint = partial(endpoints.TCP4ServerEndpoint, interface="127.0.0.1")
    runpy.run_module("localstack.runtime.main", run_name="__main__", alter_sys=True)


def _keep_the_catalogue(folder: Path) -> None:
    # Made of botocore's descriptions of all services at the first start, which takes seconds.
    kept, cache = Path(sys.prefix) / "cache", folder / "var/lib/localstack/cache"
    kept.mkdir(exist_ok=True)
    cache.parent.mkdir(parents=True)
    cache.symlink_to(kept)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
