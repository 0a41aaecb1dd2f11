"""Find the smallest crate for an order: real work for a processor core, about a second of it."""

import math
import random
from dataclasses import dataclass

CRATES_CM = (20, 25, 30, 35, 40, 50, 60, 80, 100, 120)
# What one search may cost, counted in looks at a root or a pair; about a second of pure Python.
_BUDGET = 12_000_000


@dataclass
class Root:
    """One root in the crate, as a circle; centimetres from the crate's upper left corner."""

    slug: str
    colour: str
    radius: float
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Packed:
    side_cm: int
    roots: tuple[Root, ...]


def pack(roots: list[Root], seed: int, effort: float = 1.0) -> Packed:
    """The smallest crate of CRATES_CM in which a search finds room for all roots, shaken down.

    The same seed gives the same crate. `effort` scales the time; 0 takes the first crate that is
    surely large enough. Raises ValueError when even the largest crate is too small.
    """
    best = _row_by_row(roots)
    budget = int(_BUDGET * effort)
    rng = random.Random(seed)  # noqa: S311  # a shaken crate, not a secret
    area = sum(math.pi * root.radius**2 for root in roots)
    widest = max(2 * root.radius for root in roots)
    for side in CRATES_CM:
        if side >= best.side_cm or side < widest or area > 0.8 * side**2:
            continue
        found, budget = _search(roots, side, rng, budget, keep=int(_BUDGET * effort) // 2)
        if found:
            best = Packed(side, tuple(found))
    return _shake(best, rng, budget)


def _row_by_row(roots: list[Root]) -> Packed:
    """Largest first, in rows: never clever, always right."""
    ordered = sorted(roots, key=lambda root: -root.radius)
    for side in CRATES_CM:
        placed, x, y, height = [], 0.0, 0.0, 0.0
        for root in ordered:
            size = 2 * root.radius
            if x + size > side:
                x, y, height = 0.0, y + height, 0.0
            if x + size > side or y + size > side:
                break
            placed.append(
                Root(root.slug, root.colour, root.radius, x + root.radius, y + root.radius)
            )
            x, height = x + size, max(height, size)
        else:
            return Packed(side, tuple(placed))
    raise ValueError(f"{len(roots)} roots do not fit into the largest crate")


def _search(
    roots: list[Root], side: int, rng: random.Random, budget: int, keep: int
) -> tuple[list[Root] | None, int]:
    """Throw the roots in and push them apart, again and again. Spends the budget down to `keep`."""
    cost = len(roots) * (len(roots) - 1) + 5 * len(roots)
    while budget - 60 * cost > keep:
        placed = [
            Root(
                root.slug,
                root.colour,
                root.radius,
                rng.uniform(root.radius, side - root.radius),
                rng.uniform(root.radius, side - root.radius),
            )
            for root in roots
        ]
        for _ in range(60):
            budget -= cost
            if not _push_apart(placed, side):
                return placed, budget
        budget -= 10 * len(roots)
    return None, budget


def _push_apart(placed: list[Root], side: int) -> bool:
    """Move overlapping roots away from each other, once. False when none overlap any more."""
    overlapping = False
    for index, one in enumerate(placed):
        for other in placed[:index]:
            dx, dy = one.x - other.x, one.y - other.y
            need = one.radius + other.radius
            distance = math.hypot(dx, dy) or 1e-6
            if distance < need - 0.01:
                overlapping = True
                push = (need - distance) / distance / 2
                one.x, one.y = one.x + dx * push, one.y + dy * push
                other.x, other.y = other.x - dx * push, other.y - dy * push
    for root in placed:
        root.x = min(max(root.x, root.radius), side - root.radius)
        root.y = min(max(root.y, root.radius), side - root.radius)
    return overlapping


def _shake(packed: Packed, rng: random.Random, budget: int) -> Packed:
    """Let the roots settle towards the bottom of the crate, by small moves that hit nobody."""
    side, roots = packed.side_cm, [Root(**vars(root)) for root in packed.roots]
    for _ in range(budget // (len(roots) + 12)):
        root = rng.choice(roots)
        x = root.x + rng.gauss(0, 1)
        y = root.y + abs(rng.gauss(0, 0.6)) - 0.1
        if not (root.radius <= x <= side - root.radius and root.radius <= y <= side - root.radius):
            continue
        for other in roots:
            need = root.radius + other.radius - 0.01
            if other is not root and (x - other.x) ** 2 + (y - other.y) ** 2 < need * need:
                break
        else:
            root.x, root.y = x, y
    return Packed(side, tuple(roots))
