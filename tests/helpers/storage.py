"""An S3 on the loopback interface: moto's server, spoken to by the real client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests


@contextmanager
def s3(bucket: str = "corpora") -> Iterator[Any]:
    """Start it, point this process and those it starts to it, make a bucket; yields an s3fs file system."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=30)  # it keeps its buckets in this process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()  # of a store that another test of this process spoke to
        system = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        system.mkdir(bucket)
        try:
            yield system
        finally:
            server.stop()
