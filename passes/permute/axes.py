"""What operators do to labelled axes, whatever they compute: broadcast, reduce, reshape, reorder, take, join."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from prox24_export.passes.permute.labels import Group, Labels, Value

LARGEST = 1 << 24  # labels of one group; where a reshape would make more of them, its channels are kept in place


def combine(labels: Labels, values: Sequence[Value], why: str) -> Value:
    """Labels the result of an elementwise operator with broadcasting, as of `a + b` or `where(c, a, b)`."""
    rank = max(len(value.shape) for value in values)
    aligned = [_align(value, rank) for value in values]
    result = aligned[0]
    for value in aligned[1:]:
        result = _combine_pair(labels, result, value, why)
    return result


def reduce(labels: Labels, value: Value, axes: Iterable[int], why: str, *, keep: bool = False) -> Value:
    """Labels the result of a symmetric reduction, such as a sum or a maximum, over some axes.

    Args:
        labels: All labels.
        value: What is reduced.
        axes: The axes, of which none is negative.
        why: Names the operator.
        keep: Whether a reduced axis stays, with one entry.
    """
    gone = set(axes)
    stay_within(labels, value, gone, why)
    left = [group for group in value.groups if gone.isdisjoint(group.axes)]
    if keep:
        shape = tuple(1 if axis in gone else size for axis, size in enumerate(value.shape))
        return replace(value, shape=shape, groups=tuple(left), uniform=value.uniform - gone)
    remaining = [axis for axis in range(len(value.shape)) if axis not in gone]
    return _pick_axes(replace(value, groups=tuple(left)), remaining)


def stay_within(labels: Labels, value: Value, axes: Iterable[int], why: str) -> None:
    """Lets channels move only along `axes`, as in a softmax: what lies at another place elsewhere is apart."""
    inside = set(axes)
    for group in value.groups:
        others = [axis for axis in group.axes if axis not in inside]
        if others and len(others) < len(group.axes):
            labels.keep_apart(group, others, why)


def fix(labels: Labels, value: Value, axes: Iterable[int], why: str) -> None:
    """Keeps every channel in its place along some axes."""
    for group in value.groups:
        labels.keep_apart(group, tuple(axes), why)


def fix_all(labels: Labels, value: Value, why: str) -> None:
    """Keeps every channel of a value in its place."""
    fix(labels, value, range(len(value.shape)), why)


def unlabel(labels: Labels, value: Value, axes: Iterable[int], why: str) -> Value:
    """Keeps channels in their place along some axes, and takes the labels of those axes away."""
    gone = set(axes)
    fix(labels, value, gone, why)
    left = tuple(group for group in value.groups if gone.isdisjoint(group.axes))
    origin = value.origin if len(left) == len(value.groups) else why
    return replace(value, groups=left, uniform=value.uniform - gone, origin=origin)


def transpose(value: Value, order: Sequence[int]) -> Value:
    """Labels a value whose axes are reordered as `numpy.transpose` does."""
    return _pick_axes(value, order)


def insert_axes(value: Value, places: Sequence[int]) -> Value:
    """Labels a value with new axes of one entry, at these places of the result."""
    rank = len(value.shape) + len(places)
    old = [axis for axis in range(rank) if axis not in places]
    shape = [1] * rank
    for axis, size in zip(old, value.shape, strict=True):
        shape[axis] = size
    return _rename_axes(replace(value, shape=tuple(shape)), old.__getitem__)


def remove_axes(value: Value, axes: Iterable[int]) -> Value:
    """Labels a value without some axes of one entry."""
    gone = {axis for axis in axes if value.shape[axis] == 1}
    return _pick_axes(value, [axis for axis in range(len(value.shape)) if axis not in gone])


def expand(value: Value, shape: Sequence[int]) -> Value:
    """Labels a value that is repeated along axes of one entry, and along new ones in front."""
    aligned = _align(value, len(shape))
    sizes = tuple(old if new == -1 else new for old, new in zip(aligned.shape, shape, strict=True))
    repeated = {axis for axis, (old, new) in enumerate(zip(aligned.shape, sizes, strict=True)) if old == 1 < new}
    return replace(aligned, shape=sizes, uniform=aligned.uniform | repeated)


def take(value: Value, axis: int, index: slice) -> Value:
    """Labels a slice along one axis."""
    size = len(range(*index.indices(value.shape[axis])))
    groups = []
    for group in value.groups:
        if axis not in group.axes:
            groups.append(group)
            continue
        ids = group.ids[tuple(index if place == axis else slice(None) for place in group.axes)]
        if size == 1:  # an axis of one entry has no labels of its own
            ids = ids.squeeze(group.axes.index(axis))
        left = tuple(place for place in group.axes if place != axis or size > 1)
        groups.extend([Group(left, ids)] if left and size else [])
    shape = tuple(size if place == axis else old for place, old in enumerate(value.shape))
    return replace(value, shape=shape, groups=tuple(groups), uniform=value.uniform - ({axis} if size <= 1 else set()))


def select(value: Value, axis: int, index: int) -> Value:
    """Labels one entry along an axis, which then disappears."""
    place = index % value.shape[axis]
    return remove_axes(take(value, axis, slice(place, place + 1)), [axis])


def concatenate(labels: Labels, values: Sequence[Value], axis: int, why: str) -> Value:
    """Labels values that are joined along an axis: along it the channels of each form a block, across it they meet."""
    across = [_without(value, axis) for value in values]
    met = combine(labels, across, why)
    sizes = [value.shape[axis] for value in values]
    shape = tuple(sum(sizes) if place == axis else size for place, size in enumerate(met.shape))
    along = [[group for group in value.groups if axis in group.axes] for value in values]
    axes = {group.axes for groups in along for group in groups}
    result = replace(met, shape=shape, uniform=frozenset(met.uniform - {axis}))
    if not axes:
        return result
    if len(axes) > 1 or any(len(groups) > 1 for groups in along):
        for groups in along:
            for group in groups:
                labels.keep_apart(group, group.axes, why)
        return result
    (shared,) = axes
    blocks = []
    for value, groups in zip(values, along, strict=True):
        if groups:
            blocks.append(groups[0].ids)
            continue
        wanted = [value.shape[place] for place in shared]
        new = Group(shared, labels.allocate(int(np.prod(wanted))).reshape(wanted))
        if axis not in value.uniform and value.shape[axis] > 1:
            labels.keep_apart(new, shared, value.origin or why)
        blocks.append(new.ids)
    joined = Group(shared, np.concatenate(blocks, shared.index(axis)))
    return replace(result, groups=(*result.groups, joined))


def pad(labels: Labels, value: Value, widths: Mapping[int, tuple[int, int]], why: str) -> Value:
    """Labels a value with so many constant entries before and behind its own along some axes."""
    for axis, (before, behind) in widths.items():
        if min(before, behind) < 0 or not any(axis in group.axes for group in value.groups):
            value = unlabel(labels, value, [axis], why)
            shape = tuple(size + (before + behind) * (place == axis) for place, size in enumerate(value.shape))
            value = replace(value, shape=shape)
            continue
        around = [
            Value(tuple(width if place == axis else size for place, size in enumerate(value.shape)), (), every)
            for width in (before, behind)
            for every in [frozenset(range(len(value.shape)))]
        ]
        value = concatenate(labels, [around[0], value, around[1]], axis, why)
    return value


def reshape(labels: Labels, value: Value, shape: Sequence[int], why: str) -> Value:
    """Labels a value with its entries in row-major order in another shape."""
    chunks = _match_axes(value.shape, shape)
    groups: list[Group] = []
    uniform: set[int] = set()
    for old, new in chunks:
        if all(value.shape[axis] == 1 or axis in value.uniform for axis in old):
            uniform.update(axis for axis in new if shape[axis] > 1)
    for group in value.groups:
        moved = _reshape_group(value, group, chunks, shape)
        if moved is None:
            labels.keep_apart(group, group.axes, why)
        elif moved.axes:
            groups.append(moved)
    kept: list[Group] = []
    for group in sorted(groups, key=lambda group: -group.ids.size):  # where axes become one, the longest stays free
        if any(set(other.axes) & set(group.axes) for other in kept):
            labels.keep_apart(group, group.axes, why)
        else:
            kept.append(group)
    return Value(tuple(shape), tuple(kept), frozenset(uniform), value.origin or why)


def _combine_pair(labels: Labels, left: Value, right: Value, why: str) -> Value:
    shape = tuple(np.broadcast_shapes(left.shape, right.shape))
    for one, other in ((left, right), (right, left)):
        plain = [axis for axis in range(len(shape)) if other.is_plain(axis)]
        for group in one.groups:
            labels.keep_apart(group, plain, other.origin or why)
    rights = list(right.groups)
    groups = [group for group in left.groups if not _meet(labels, group, rights, why)]
    uniform = frozenset(
        axis
        for axis, size in enumerate(shape)
        if size > 1 and all(value.shape[axis] == 1 or axis in value.uniform for value in (left, right))
    )
    return Value(shape, (*groups, *rights), uniform, left.origin or right.origin)


def _meet(labels: Labels, group: Group, others: list[Group], why: str) -> bool:
    """Lets a group of one value meet those of another one, and takes from these what it says already.

    Groups along the same axes are joined; so is one along the last axes of the other, which then says the same at every
    place along the first. Where axes meet otherwise, both are kept in place along them.

    Returns:
        Whether one of the others says all that the group says.
    """
    is_covered = False
    for other in list(others):
        common = set(group.axes) & set(other.axes)
        if not common:
            continue
        if group.axes[-len(other.axes) :] == other.axes:
            labels.join(group.ids, np.broadcast_to(other.ids, group.ids.shape))
            others.remove(other)
        elif other.axes[-len(group.axes) :] == group.axes:
            labels.join(other.ids, np.broadcast_to(group.ids, other.ids.shape))
            is_covered = True
        else:
            for meeting in (group, other):
                labels.keep_apart(meeting, tuple(common), why)
            if common == set(other.axes):
                others.remove(other)
            elif common == set(group.axes):
                is_covered = True
    return is_covered


def _align(value: Value, rank: int) -> Value:
    return insert_axes(value, range(rank - len(value.shape)))


def _without(value: Value, axis: int) -> Value:
    """The value with one entry along an axis, and without the groups that lie along it."""
    shape = tuple(1 if place == axis else size for place, size in enumerate(value.shape))
    groups = tuple(group for group in value.groups if axis not in group.axes)
    return replace(value, shape=shape, groups=groups, uniform=value.uniform - {axis})


def _pick_axes(value: Value, axes: Sequence[int]) -> Value:
    """The value with only these axes, in this order; no group lies along another one."""
    shape = tuple(value.shape[axis] for axis in axes)
    return _rename_axes(replace(value, shape=shape, uniform=value.uniform & set(axes)), list(axes).index)


def _rename_axes(value: Value, rename: Callable[[int], int]) -> Value:
    groups = []
    for group in value.groups:
        renamed = [rename(axis) for axis in group.axes]
        if renamed == sorted(renamed):
            groups.append(Group(tuple(renamed), group.ids))
        else:
            groups.append(Group(tuple(sorted(renamed)), group.ids.transpose(np.argsort(renamed))))
    return replace(value, groups=tuple(groups), uniform=frozenset(map(rename, value.uniform)))


Chunk = tuple[tuple[int, ...], tuple[int, ...]]


def _match_axes(before: Sequence[int], after: Sequence[int]) -> list[Chunk]:
    """Divides old and new axes into the smallest runs that hold the same entries."""
    chunks: list[Chunk] = []
    old: list[int] = []
    new: list[int] = []
    left, right = 1, 1
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and (left <= right or j == len(after)):
            left *= before[i]
            old.append(i)
            i += 1
        else:
            right *= after[j]
            new.append(j)
            j += 1
        if left == right and old and new:
            chunks.append((tuple(old), tuple(new)))
            old, new, left, right = [], [], 1, 1
    if (old or new) and chunks:  # axes of one entry at the end
        chunks[-1] = (chunks[-1][0] + tuple(old), chunks[-1][1] + tuple(new))
    return chunks


def _reshape_group(value: Value, group: Group, chunks: Sequence[Chunk], shape: Sequence[int]) -> Group | None:
    """The group along the new axes, without those along which labels are the same; None where it grows too large."""
    touched = [chunk for chunk in chunks if set(chunk[0]) & set(group.axes)]
    old = [axis for chunk in touched for axis in chunk[0]]
    new = [axis for chunk in touched for axis in chunk[1]]
    sizes = [value.shape[axis] for axis in old]
    if not touched or np.prod(sizes) > LARGEST:
        return None
    spread = group.ids.reshape([value.shape[axis] if axis in group.axes else 1 for axis in old])
    ids = np.broadcast_to(spread, sizes).reshape([shape[axis] for axis in new])
    for place in reversed(range(len(new))):
        first = ids.take([0], place)
        if ids.shape[place] == 1 or np.array_equal(np.broadcast_to(first, ids.shape), ids):
            ids = first.squeeze(place)
            new.pop(place)
    return Group(tuple(new), np.ascontiguousarray(ids))
