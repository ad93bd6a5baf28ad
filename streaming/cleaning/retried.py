"""Archived originals of rejects that were tried again with success: under `reduce` they go, as they would have."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from store.home import Home
from store.objects.landing import delete_archived
from store.state.plans import Plan, Result
from streaming.cleaning.cleaner import has_copies

_DELETED_AT_ONCE = 16


def delete_archived_originals(home: Home, plan: Plan, result: Result) -> None:
    """Delete from the archive what a batch tried again with success, once its copies are committed.

    No listing looks for them later, so this comes before the batch's last commit: killed anywhere, a replay of the
    batch comes here again. Raises StorageRefused, StorageUnavailable.
    """
    retried = {row.key for row in plan.retried} - set(result.rejected_keys)
    objects = [landed for landed in plan.objects if landed.key in retried]
    if objects and has_copies(result):
        with ThreadPoolExecutor(_DELETED_AT_ONCE, thread_name_prefix="delete") as pool:
            list(pool.map(partial(delete_archived, home.archive), objects))
