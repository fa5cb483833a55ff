"""Finds TRex's own client library and connects with it.

The library of the TRex release counts if PYTHONPATH has it; else the same code as packaged on PyPI (`pip install
lbr-trex-client`, also below target/trex/). It brings its own scapy and yaml, so it is imported first.
"""
import sys
import warnings
from pathlib import Path

PACKAGE = "lbr-trex-client==3.4.0"
SITE = Path(__file__).resolve().parents[2] / "target" / "trex" / "site"


class Missing(Exception):
    """The library or the server is not there; the text says what to do."""


def library():
    """Makes `trex.stl.api` and `trex.astf.api` importable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import trex.stl.api  # noqa: F401
            return
        except ImportError:
            pass
        if SITE.exists():
            sys.path.append(str(SITE))
        try:
            import lbr_trex_client  # noqa: F401  (puts the library on the path)
            import trex.stl.api  # noqa: F401
        except ImportError:
            raise Missing("no TRex client: set PYTHONPATH to automation/trex_control_plane/interactive of the TRex release, "
                          f"or pip install {PACKAGE}") from None


def connect(server, astf=False):
    """A connected client of a TRex server in stateless mode, or in ASTF mode."""
    library()
    from trex.common.trex_exceptions import TRexError
    if astf:
        from trex.astf.api import ASTFClient as Client
    else:
        from trex.stl.api import STLClient as Client
    mode = "--astf" if astf else "stateless (without --astf)"
    client = Client(server=server, verbose_level="none")
    try:
        client.connect()
    except (TRexError, OSError) as error:
        said = " ".join(str(error).replace("***", "").split())
        raise Missing(f"no TRex server in mode {mode} answers at {server}, port 4501: {said}") from None
    return client
