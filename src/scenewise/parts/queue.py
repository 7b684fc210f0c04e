"""The dictionary of past keys: a ring of rows that is read before it is written (law 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scenewise.errors import UserError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The queue as it was when it was read; a later push does not change it.

    rows: column name -> (Q, width) L2-normalised rows, the same row of every column from the same crop.
    valid: (Q,) rows that have been written. image: (Q,) source index, -1 unknown. box: (Q, 4) where the crop was cut.
    step: (Q,) the step that wrote the row, -1 for a random one.
    """

    rows: Mapping[str, Tensor]
    valid: Bool[Tensor, " queue"]
    image: Int[Tensor, " queue"]
    box: Float[Tensor, "queue 4"]
    step: Int[Tensor, " queue"]

    def usable(self, index: Int[Tensor, " batch"], *, mask_own: bool) -> Bool[Tensor, "..."]:
        """Return the rows that count: (Q,), or (B, Q) without each query's own image when `mask_own`."""
        if not mask_own:
            return self.valid
        return self.valid[None, :] & (self.image[None, :] != index[:, None])


@dataclass(frozen=True, slots=True)
class Joined:
    """The queue as it will be once a joined batch is pushed.

    rows: column name -> (Q, width) L2-normalised rows. valid: (Q,) rows that will have been written. fresh: (Q,) those
    of the batch.
    """

    rows: Mapping[str, Tensor]
    valid: Bool[Tensor, " queue"]
    fresh: Bool[Tensor, " queue"]


class Queue(nn.Module):
    """First in, first out, `size` rows, one or several columns of equal order (MoCo's queue; MLS's paired dictionary).

    Everything is a buffer, so the checkpoint holds content, pointer, fill, image and crop box of each row. `push`
    replaces the buffers instead of writing into them: what `read` returned stays as it was, which autograd needs and
    law 3 asks for. No value is copied to the host.
    """

    image: Tensor
    box: Tensor
    step: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: int, widths: Mapping[str, int], *, random_rows: bool = False, seed: int = 0) -> None:
        super().__init__()
        assert size > 0, "a queue has at least one row"
        self.size, self.columns = size, tuple(widths)
        generator = torch.Generator().manual_seed(seed)
        for name, width in widths.items():
            # MoCo starts with random unit rows; an empty row is zero and never valid
            rows = torch.randn(size, width, generator=generator) if random_rows else torch.zeros(size, width)
            self.register_buffer(f"rows_{name}", F.normalize(rows, dim=1))
        self.register_buffer("image", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("box", torch.zeros(size, 4))
        self.register_buffer("step", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.tensor(size if random_rows else 0))

    def read(self) -> Snapshot:
        """Return the rows as they are now; never writes."""
        positions = torch.arange(self.size, device=self.image.device)
        return Snapshot(
            rows={name: self.get_buffer(f"rows_{name}") for name in self.columns},
            valid=positions < self.filled,
            image=self.image,
            box=self.box,
            step=self.step,
        )

    @torch.no_grad()
    def after(self, rows: Mapping[str, Tensor]) -> Joined:
        """Return the queue as it will be once this joined batch is pushed; nothing is written.

        For methods that search the current keys together with the past ones (MSF).
        """
        target, keep = self._target(next(iter(rows.values())).shape[0])
        columns = {}
        for name in self.columns:
            column = self.get_buffer(f"rows_{name}")
            fresh = F.normalize(rows[name].detach().to(column.dtype), dim=1)
            columns[name] = column.index_copy(0, target, fresh[-keep:])
        positions = torch.arange(self.size, device=self.image.device)
        fresh = torch.zeros_like(positions, dtype=torch.bool).index_fill(0, target, True)
        return Joined(columns, positions < (self.filled + keep).clamp(max=self.size), fresh)

    def _target(self, count: int) -> tuple[Int[Tensor, " kept"], int]:
        """Return where a batch of `count` rows goes, and how many of its last rows are kept."""
        keep = min(self.size, count)
        return (self.pointer + torch.arange(keep, device=self.image.device)) % self.size, keep

    @torch.no_grad()
    def push(
        self,
        rows: Mapping[str, Tensor],
        *,
        image: Int[Tensor, " batch"],
        box: Float[Tensor, "batch 4"],
        step: int,
    ) -> None:
        """Write a joined batch (B rows a column, normalised here) over the oldest rows.

        Of a batch larger than the queue its last rows are kept.
        """
        self.become(self.after(rows), image=image, box=box, step=step)

    @torch.no_grad()
    def become(self, joined: Joined, *, image: Int[Tensor, " batch"], box: Float[Tensor, "batch 4"], step: int) -> None:
        """Push the batch that `joined` came of (`after`), which then need not be joined again."""
        for name, column in joined.rows.items():
            self.register_buffer(f"rows_{name}", column)
        target, keep = self._target(image.shape[0])
        self.image = self.image.index_copy(0, target, image[-keep:])
        self.box = self.box.index_copy(0, target, box[-keep:].to(self.box.dtype))
        self.step = self.step.index_fill(0, target, step)
        self.pointer = (self.pointer + keep) % self.size
        self.filled = (self.filled + keep).clamp(max=self.size)

    @torch.no_grad()
    def push_some(
        self,
        rows: Mapping[str, Tensor],
        among: Bool[Tensor, " batch"],
        *,
        image: Int[Tensor, " batch"],
        box: Float[Tensor, "batch 4"],
        step: int,
    ) -> None:
        """Push those rows of a joined batch that are `among`, as `push` would; how many they are is not asked.

        The host would have to wait for the device to know. The others go to a row behind the last, which is dropped.
        """
        number = among.cumsum(0)  # of each row among those to be pushed, from 1
        total = number[-1]
        keep, first = total.clamp(max=self.size), (total - self.size).clamp(min=0)
        target = torch.where(among & (number > first), (self.pointer + number - 1 - first) % self.size, self.size)

        def written(buffer: Tensor, values: Tensor) -> Tensor:
            return torch.cat([buffer, buffer[:1]]).index_copy(0, target, values.to(buffer.dtype))[: self.size]

        for name in self.columns:
            column = self.get_buffer(f"rows_{name}")
            fresh = F.normalize(rows[name].detach().to(column.dtype), dim=1)
            self.register_buffer(f"rows_{name}", written(column, fresh))
        self.image, self.box = written(self.image, image), written(self.box, box)
        self.step = written(self.step, torch.full_like(image, step))
        self.pointer = (self.pointer + keep) % self.size
        self.filled = (self.filled + keep).clamp(max=self.size)


def dictionary_figures(snapshot: Snapshot, step: int) -> dict[str, Tensor]:
    """Return `queue/fill` (share of rows written) and `queue/age_steps` (mean steps since a row was written)."""
    known = snapshot.valid & (snapshot.step >= 0)
    age = ((step - snapshot.step) * known).sum() / known.sum().clamp(min=1)
    return {"queue/fill": snapshot.valid.float().mean(), "queue/age_steps": age.float()}


def uniform_share(cross_entropy: Float[Tensor, ""], choices: Int[Tensor, ""] | int) -> Float[Tensor, ""]:
    """Return a cross-entropy of soft labels over `choices` as a share of ln(choices), which a collapsed encoder shows.

    When all embeddings are one, every distribution over the choices is uniform and the loss is exactly their logarithm
    (MSVQ's code; SwAV's README for the prototypes).
    """
    if isinstance(choices, int):
        return cross_entropy.detach() / math.log(max(2, choices))
    return cross_entropy.detach() / torch.log(choices.clamp(min=2).float())


def resolve_dictionary_size(
    asked: int | None, *, paper: int, images: int, written: int, may_be_none: bool = False
) -> tuple[int, list[str]]:
    """Return the rows of a dictionary and what to say about it.

    Without a wish: the paper's value, at most a tenth of the images (a longer one holds many crops
    of the query's own image), at least two batches (it must be longer than what one step writes). A wish is kept.
    Either comes with a warning when it is longer than the data. Raises UserError for one that is no longer than a
    batch; 0 rows are allowed where there `may_be_none`.
    """
    notes = []
    if asked is not None:
        size = asked
    elif paper > written:
        size = min(paper, max(images // 10, 2 * written))
    else:  # the paper's batch is smaller than this one
        size = 0 if may_be_none else 2 * written
        instead = "there is no queue" if may_be_none else f"method.dictionary_size is {size}"
        notes.append(f"{instead}: the paper's {paper} rows are no more than the {written} keys that a step writes")
    if size <= written and not (may_be_none and size == 0):
        alternative = ", or 0" if may_be_none else ""
        raise UserError(
            f"method.dictionary_size: {size} must be larger than the {written} keys that a step writes{alternative}"
        )
    if asked is None and paper > written and size < paper:
        notes.append(
            f"method.dictionary_size is {size} instead of the paper's {paper}: a tenth of the {images} images, "
            f"at least twice the {written} keys that a step writes"
        )
    if size > images:
        notes.append(
            f"method.dictionary_size {size} is longer than the data ({images} images): it holds several crops of "
            "every image; at most a tenth of the data is recommended"
        )
    return size, notes
