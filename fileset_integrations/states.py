"""The state of a reader: where an epoch stands, as flat JSON, and which saved states are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fileset_integrations.errors import StateMismatchError
from fileset_integrations.plan import ORDER, Plan

_FORMAT = 1


def state_of(plan: Plan, snapshot_id: str, dropped: list[str], epoch: int, batches: int) -> dict[str, Any]:
    """Where an epoch stands after `batches` batches: under 1 KB, the same on every rank.

    Args:
        plan: The plan of the batches.
        snapshot_id: Identity of the rows.
        dropped: Columns whose nulls drop rows, which is part of the order (`Decoder.dropped`).
        epoch: The epoch.
        batches: How many of its batches were read.
    """
    return {
        "format": _FORMAT,
        "snapshot_id": snapshot_id,
        "seed": plan.shuffle.seed,
        "epoch": epoch,
        "batches": batches,
        "global_batch_size": plan.global_batch_size,
        "streams": plan.streams,
        "shuffle": plan.shuffle.shuffle,
        "drop_last_batch": plan.batch.drop_last_batch,
        "order": f"{ORDER}, dropping nulls of {dropped}" if dropped else ORDER,
    }


def check_state(
    state: Mapping[str, Any], here: Mapping[str, Any], num_batches: int, takes_streams: Callable[[Any], bool]
) -> None:
    """Refuse a saved state whose batches are others, or which is none.

    Args:
        state: The saved state.
        here: The state of the reader that is to go on from it.
        num_batches: Batches of an epoch.
        takes_streams: Whether the reader takes over such streams, if they differ from its own.

    Raises:
        StateMismatchError: It belongs to another snapshot, seed, batch size or order; names both values.
    """
    for name, value in here.items():
        if name not in state:
            raise StateMismatchError(f"The reader's state lacks {name!r}. Pass what state_dict() gave.")
        if name == "streams" and takes_streams(state[name]):
            continue
        if name not in ("epoch", "batches") and state[name] != value:
            raise StateMismatchError(
                f"The state was saved with {name}={state[name]!r}, this reader has {name}={value!r}: its batches "
                "are others. Make the reader as it was, or start the epoch anew."
            )
    epoch, batches = state["epoch"], state["batches"]
    if type(epoch) is not int or epoch < 0 or type(batches) is not int or not 0 <= batches <= num_batches:
        raise StateMismatchError(
            f"The state says epoch {epoch!r}, {batches!r} batches read; epochs count from 0, one has {num_batches} "
            "batches. Pass what state_dict() gave."
        )
