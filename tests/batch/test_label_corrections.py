"""Corrections of sums: whatever is corrected, and in however many parts, the sums are those of the right labels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from batch.label_corrections import (
    FEW_ROWS,
    Corrections,
    CorrectionSummer,
    corrected_sums,
    merge_corrections,
    no_corrections,
    pack_corrections,
    unpack_corrections,
)
from features.label_sums import MOST_LABELS, RowSummer, RowSums

WIDTH = 6
Labels = list[str | None]


def _rows(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).uniform(0, 6, (number, WIDTH)).astype(np.float32)


def _sums(rows: NDArray[np.float32], labels: Labels, subjects: Labels | None = None) -> RowSums:
    summer = RowSummer(WIDTH)
    summer.add(rows, labels, subjects or [None] * len(rows))
    return summer.result()


def _corrections(rows: NDArray[np.float32], folders: Labels, counting: Labels, parts: int = 1) -> Corrections:
    differ = np.array([place for place in range(len(rows)) if folders[place] != counting[place]], np.int64)
    summers = [CorrectionSummer(WIDTH) for _ in range(parts)]
    for summer, places in zip(summers, np.array_split(differ, parts), strict=True):
        for some in np.array_split(places, 2):
            summer.add(
                rows[some],
                [folders[place] for place in some],
                [counting[place] for place in some],
                [f"u{place % 7}" for place in some],
            )
    return merge_corrections((summer.result() for summer in summers), WIDTH)


def assert_near(one: RowSums, other: RowSums) -> None:
    """The same sums up to rounding, but for the people of labels."""
    for ours, theirs in ((one.labelled, other.labelled), (one.unlabelled, other.unlabelled)):
        assert ours.rows == theirs.rows
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(
            ours.scatter, theirs.scatter, rtol=0, atol=1e-11 * (1 + np.abs(theirs.scatter).max())
        )
    assert one.labels.labels == other.labels.labels
    assert (one.labels.counts == other.labels.counts).all() and one.labels.other_rows == other.labels.other_rows
    np.testing.assert_allclose(one.labels.sums, other.labels.sums, rtol=1e-11)


@pytest.mark.parametrize("number", [7, 40, 2 * FEW_ROWS, 5 * FEW_ROWS])
@pytest.mark.parametrize("parts", [1, 3])
def test_sums_by_folder_and_corrections_are_the_sums_of_the_right_labels(number: int, parts: int) -> None:
    rows = _rows(number)
    kinds: Labels = ["kiwi", "lime", "plum", None]
    folders = [kinds[place % 4] for place in range(number)]
    # Of twelve rows: one gets its first label, one loses its label, two change it.
    changed: dict[int, str | None] = {3: "plum", 4: None, 5: "fig", 6: "kiwi"}
    counting = [changed.get(place % 12, folders[place]) for place in range(number)]
    corrections = _corrections(rows, folders, counting, parts)
    assert corrections.rows == sum(one != other for one, other in zip(folders, counting, strict=True))
    assert_near(corrected_sums(_sums(rows, folders), corrections), _sums(rows, counting))
    assert len(corrections.gain.few) <= FEW_ROWS


def test_all_rows_can_get_or_lose_their_labels_and_a_label_can_vanish() -> None:
    rows, kiwis, nothing = _rows(50), ["kiwi"] * 50, [None] * 50
    for folders, counting in ((nothing, kiwis), (kiwis, nothing), (kiwis, ["lime"] * 50)):
        corrections = _corrections(rows, [*folders], [*counting])
        assert_near(corrected_sums(_sums(rows, [*folders]), corrections), _sums(rows, [*counting]))


def test_without_corrections_the_sums_are_the_very_same() -> None:
    sums = _sums(_rows(9), ["kiwi"] * 9)
    assert corrected_sums(sums, no_corrections(WIDTH)) is sums
    assert merge_corrections((), WIDTH).rows == 0


def test_who_took_corrected_photos_counts_for_the_new_label_and_still_for_the_folder() -> None:
    rows = _rows(4)
    summer = CorrectionSummer(WIDTH)
    summer.add(rows[:2], ["kiwi"] * 2, ["lime"] * 2, ["anna", "ben"])
    sums = _sums(rows, ["kiwi"] * 4, ["anna", "ben", "cleo", "dora"])
    kiwi, lime = (corrected_sums(sums, summer.result()).labels.subjects >= 0).sum(axis=1).tolist()
    assert (kiwi, lime) == (3, 2)


def test_a_correction_among_more_labels_than_are_kept_apart_reaches_the_others() -> None:
    rows = _rows(MOST_LABELS + 50)
    folders: Labels = [f"{place:04d}" for place in range(len(rows))]
    counting: Labels = ["0000" if place >= MOST_LABELS + 40 else label for place, label in enumerate(folders)]
    found = corrected_sums(_sums(rows, folders), _corrections(rows, folders, counting)).labels
    assert (found.counts[found.labels.index("0000")], found.other_rows, found.rows) == (11, 40, len(rows))
    np.testing.assert_allclose(found.sums.sum(axis=0) + found.other_sum, rows.astype(np.float64).sum(axis=0))


def test_few_corrections_are_small_and_come_back_to_the_last_bit() -> None:
    rows = _rows(3 * FEW_ROWS)
    corrections = _corrections(rows, [None] * len(rows), ["kiwi"] * len(rows))
    body = pack_corrections(corrections)
    assert pack_corrections(unpack_corrections(body)) == body
    assert_near(
        corrected_sums(_sums(rows, [None] * len(rows)), unpack_corrections(body)), _sums(rows, ["kiwi"] * len(rows))
    )
    with pytest.raises(ValueError, match="no packed corrections"):
        unpack_corrections(body[:-9])
    wide = CorrectionSummer(1280)
    wide.add(np.ones((2, 1280), np.float32), ["kiwi", None], ["lime", "lime"], [None, None])
    assert len(pack_corrections(wide.result())) < 100_000
