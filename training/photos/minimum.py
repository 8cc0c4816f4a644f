"""How many photos training needs: known from counts and options alone, before anything is computed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from oodguard.core.calibration import MIN_CALIBRATION
from oodguard.core.errors import InputError
from oodguard.core.text import visible
from oodguard.training.options import TrainOptions
from oodguard.training.photos.split import parts_for

# Photos of each class: so many that some train, some calibrate and some test.
MIN_PER_CLASS = 4
LISTED = 6
PARTS = 5


@dataclass(frozen=True)
class Minimum:
    """What options ask of the number of photos. tested: whether there are test photos; held: whether photos are given
    that calibrate and do nothing else, as for a wrapped classifier.
    """

    options: TrainOptions
    tested: bool
    held: bool = False

    @property
    def photos(self) -> int:
        """The fewest photos, of those that calibrate alone where there are such, else of all but the test folder's.

        Of n photos in k parts, the largest part has at least n / k, rounded up, and the smallest at most n / k, rounded
        down. `MIN_CALIBRATION` photos calibrate: the largest part of what the smallest part of the test leaves.
        """
        calibrate = MIN_CALIBRATION
        if self.held or self.options.cross_fit:
            tests = self.held and not self.tested
        else:
            calibrate = self.left
            tests = not self.tested
        if not tests:
            return calibrate
        parts = parts_for(self.options.test_fraction)
        return next(n for n in range(calibrate, 3 * calibrate) if n - n // parts >= calibrate)

    @property
    def left(self) -> int:
        """The fewest photos of which the share that calibrates has `MIN_CALIBRATION`."""
        return (MIN_CALIBRATION - 1) * parts_for(self.options.calibration_fraction) + 1

    def require(self, there: int, *, wrapped: bool = False) -> None:
        """Raise `InputError` with what to do where `there` photos, counted as `photos` counts them, are too few.

        wrapped: whether a classifier is wrapped, which nothing cross-fits.
        """
        if shortage := self.shortage(there, wrapped=wrapped):
            raise InputError(shortage)

    def shortage(self, there: int, *, wrapped: bool = False) -> str:
        """Why `there` photos are too few and what to do, in a sentence; empty where they are not."""
        if there >= self.photos:
            return ""
        return f"{self._sentence(there)}; {', or '.join(self._ways(there, wrapped=wrapped))}"

    def _sentence(self, there: int) -> str:
        if self.held or self.options.cross_fit:
            return f"{there} photos are too few to calibrate thresholds, and {self.photos} are needed"
        share = f"--calibration-fraction {self.options.calibration_fraction:g} of them"
        after = share if self.tested else f"{share}, after --test-fraction {self.options.test_fraction:g},"
        return (
            f"{there} photos are too few: {after} must be {MIN_CALIBRATION} to calibrate thresholds, which takes "
            f"{self.photos} photos"
        )

    def _ways(self, there: int, *, wrapped: bool) -> list[str]:
        """What to do, the most usual first."""
        ways = [f"add {self.photos - there}{' to val/ or --unseen' if self.held else ''}"]
        if self.held or self.options.cross_fit:
            return ways
        for parts in range(parts_for(self.options.calibration_fraction) - 1, 1, -1):
            fraction = math.floor(100 / parts) / 100
            changed = self.options.model_copy(update={"calibration_fraction": fraction})
            if Minimum(changed, self.tested).photos <= there:
                ways.append(f"give --calibration-fraction {fraction:g}")
                break
        if not wrapped and there >= MIN_CALIBRATION:
            ways.append(f"give --cross-fit {PARTS}, which calibrates on all of them")
        elif not wrapped:
            ways.append(f"add {MIN_CALIBRATION - there} and give --cross-fit {PARTS}")
        return ways


def require_enough(counts: Counter[str]) -> None:
    """Raise `InputError` naming the classes with fewer than `MIN_PER_CLASS` images."""
    few = sorted(label for label, count in counts.items() if count < MIN_PER_CLASS)
    if few:
        more = f" and {len(few) - LISTED} more" if len(few) > LISTED else ""
        raise InputError(
            f"too few images in {', '.join(f'{visible(label)} ({counts[label]})' for label in few[:LISTED])}{more}; "
            f"every class needs at least {MIN_PER_CLASS}"
        )
