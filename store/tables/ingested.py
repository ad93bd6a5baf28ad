"""Whether anything was ingested into a home yet. If not, there is nothing to do, which is no failure."""

from store.errors import NothingIngested
from store.home import Home
from store.tables.handles import open_tables


def check_ingested(home: Home) -> None:
    """Raises NothingIngested before the first commit of a batch, StateDamaged, StorageUnavailable."""
    if not open_tables(home).committed_to_any:
        raise nothing_ingested(home)


def nothing_ingested(home: Home) -> NothingIngested:
    """What to raise then."""
    return NothingIngested(
        f"Nothing was ingested into {home.root.uri} yet; drop photos below {home.landing.uri} and run `fruits stream`."
    )
