"""What people's statements change in sums of rows: small sums of their own, so that the sums by folder stay."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.label_sums import (
    LabelSummer,
    LabelSums,
    RowSums,
    label_arrays,
    labels_in,
    merge_labels,
    merge_sums,
    no_labels,
    subtract_sums,
)
from features.pca import Moments, merge_moments, moments_of, pack_moments, unpack_moments

# So many rows are smaller than their moments: 3 MB.
FEW_ROWS = 600


@dataclass(frozen=True, eq=False)
class MovedRows:
    """Rows that gain or lose their label: `few` as they are, (n, d) float32 with n at most 600, others as moments."""

    few: NDArray[np.float32]
    others: Moments

    @property
    def moments(self) -> Moments:
        """The moments of all of them."""
        columns = self.few.shape[1]
        return merge_moments((self.others, moments_of([self.few], columns)), columns)


@dataclass(frozen=True, eq=False)
class Corrections:
    """What changes if the labels that count take the place of the folders' labels; those of disjoint rows add up.

    `rows` is how many rows have another label. `gone` sums them by their folders' labels, `come` by those that count.
    `gain` are those that had none, `lose` those that have none now.
    """

    rows: int
    gone: LabelSums
    come: LabelSums
    gain: MovedRows
    lose: MovedRows


class CorrectionSummer:
    """Sums up corrected rows chunk by chunk, in one pass."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._rows = 0
        self._gone, self._come = LabelSummer(columns), LabelSummer(columns)
        self._gain = self._lose = _none_moved(columns)

    def add(
        self,
        rows: NDArray[np.float32],
        folders: Sequence[str | None],
        counting: Sequence[str | None],
        subjects: Sequence[str | None],
    ) -> None:
        """Add rows (n, d), each with two labels that differ: its folder's, and the one that counts."""
        self._rows += len(rows)
        had, has = (np.array([label is not None for label in labels], bool) for labels in (folders, counting))
        self._gone.add(rows[had], [(label, None) for label in folders if label is not None])
        of_come = [(label, who) for label, who in zip(counting, subjects, strict=True) if label is not None]
        self._come.add(rows[has], of_come)
        self._gain = _merge_moved((self._gain, _moved(rows[has & ~had])), self._columns)
        self._lose = _merge_moved((self._lose, _moved(rows[had & ~has])), self._columns)

    def result(self) -> Corrections:
        """The corrections of all rows so far."""
        return Corrections(self._rows, self._gone.result(), self._come.result(), self._gain, self._lose)


def corrected_sums(sums: RowSums, corrections: Corrections) -> RowSums:
    """The sums of the same rows under the labels that count, up to rounding.

    A label keeps the people of its folder: which of them took only photos that have another label now, no sum tells.
    """
    if not corrections.rows:
        return sums
    gain, lose = corrections.gain.moments, corrections.lose.moments
    rest = subtract_sums(sums, RowSums(lose, gain, corrections.gone))
    return merge_sums((rest, RowSums(gain, lose, corrections.come)), len(gain.mean))


def no_corrections(columns: int) -> Corrections:
    """What changes where every folder is right."""
    return Corrections(0, no_labels(columns), no_labels(columns), _none_moved(columns), _none_moved(columns))


def merge_corrections(parts: Iterable[Corrections], columns: int) -> Corrections:
    """The corrections of the rows of all parts, up to rounding. The parts may come one by one."""
    merged = no_corrections(columns)
    for part in parts:
        if not merged.rows:
            merged = part
        elif part.rows:
            merged = Corrections(
                merged.rows + part.rows,
                merge_labels((merged.gone, part.gone), columns),
                merge_labels((merged.come, part.come), columns),
                _merge_moved((merged.gain, part.gain), columns),
                _merge_moved((merged.lose, part.lose), columns),
            )
    return merged


def pack_corrections(corrections: Corrections) -> bytes:
    """Corrections as bytes of an npz file. The same corrections give the same bytes."""
    body = io.BytesIO()
    arrays = label_arrays(corrections.gone, "gone_") | label_arrays(corrections.come, "come_")
    for name, moved in (("gain", corrections.gain), ("lose", corrections.lose)):
        arrays[f"{name}_few"] = moved.few
        arrays[f"{name}_others"] = np.frombuffer(pack_moments(moved.others), np.uint8)
    np.savez(body, rows=np.int64(corrections.rows), **arrays)
    return body.getvalue()


def unpack_corrections(body: bytes) -> Corrections:
    """The corrections that `pack_corrections` was given, to the last bit. Raises ValueError for other bytes."""
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            gain, lose = (
                MovedRows(archive[f"{name}_few"], unpack_moments(archive[f"{name}_others"].tobytes()))
                for name in ("gain", "lose")
            )
            gone, come = (labels_in(archive, prefix, gain.few.shape[1]) for prefix in ("gone_", "come_"))
            return Corrections(int(archive["rows"]), gone, come, gain, lose)
    # NumPy and zipfile raise a dozen unrelated kinds of errors for damaged bytes.
    except Exception as error:
        raise ValueError(f"these {len(body)} bytes are no packed corrections: {error}") from error


def _none_moved(columns: int) -> MovedRows:
    return MovedRows(np.zeros((0, columns), np.float32), merge_moments((), columns))


def _moved(rows: NDArray[np.float32]) -> MovedRows:
    return MovedRows(rows, merge_moments((), rows.shape[1]))


def _merge_moved(parts: Sequence[MovedRows], columns: int) -> MovedRows:
    few = np.concatenate([part.few for part in parts])
    others = merge_moments((part.others for part in parts), columns)
    if len(few) > FEW_ROWS:
        few, others = few[:0], merge_moments((others, moments_of([few], columns)), columns)
    return MovedRows(few, others)
