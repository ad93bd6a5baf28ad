"""Whether anything was ingested into a home yet: where nothing was, there is nothing to do, and that is no failure."""

from store.errors import NothingIngested
from store.home import Home
from store.tables.handles import committed_batch, open_table
from store.tables.schemas import TABLES


def check_ingested(home: Home) -> None:
    """Raises NothingIngested before the first commit of a batch, StateDamaged, StorageUnavailable."""
    if not any(committed_batch(open_table(home, table)) for table in TABLES):
        raise nothing_ingested(home)


def nothing_ingested(home: Home) -> NothingIngested:
    """What to raise then."""
    return NothingIngested(
        f"Nothing was ingested into {home.root.uri} yet; drop photos below {home.landing.uri} and run `fruits stream`."
    )
