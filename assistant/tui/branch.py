"""The conversation on the screen: one path through the tree of its turns, and the ways to leave that path.

Pure data about logged turns. A turn that is being written belongs to the screen, not to the branch, until it is
finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from assistant.turn import Turn


@dataclass
class Branch:
    """The turns from the first one to the one shown last."""

    conversation: str | None = None
    title: str = ""
    path: list[Turn] = field(default_factory=list)
    others: dict[str | None, list[str]] = field(default_factory=dict)
    """Per parent, the ids of all turns that answer after it, oldest first."""

    @classmethod
    def through(cls, turns: Iterable[Turn], turn: str | None = None, title: str = "") -> Branch:
        """The path through `turn` to its newest descendant; without `turn` through the newest turn of all."""
        known = {t.id: t for t in turns}
        branch = cls(title=title)
        for t in known.values():
            branch.others.setdefault(t.parent, []).append(t.id)
        if not known:
            return branch
        here = known[turn] if turn in known else list(known.values())[-1]
        branch.conversation = here.conversation
        up = here
        while up.parent in known and len(branch.path) <= len(known):  # a damaged log must not loop
            up = known[up.parent]
            branch.path.insert(0, up)
        branch.path.append(here)
        while (children := branch.others.get(branch.path[-1].id)) and len(branch.path) <= len(known):
            branch.path.append(known[children[-1]])
        return branch

    @property
    def tip(self) -> Turn | None:
        """The last turn shown."""
        return self.path[-1] if self.path else None

    def add(self, turn: Turn) -> None:
        """Show the finished `turn` as the last; what stood after its parent belongs to another branch now."""
        self.conversation = turn.conversation
        self.path = [*self.up_to(turn.parent), turn]
        siblings = self.others.setdefault(turn.parent, [])
        if turn.id not in siblings:
            siblings.append(turn.id)

    def forget_tokens(self, keep: int) -> None:
        """Keep the tokens and prompt ids of the last `keep` turns only: the log has them, and they are much more than the texts."""
        for index in range(len(self.path) - keep - 1, -1, -1):
            turn = self.path[index]
            if not turn.tokens and not turn.prompt_ids:
                return
            self.path[index] = replace(turn, tokens=(), prompt_ids=())

    def up_to(self, turn: str | None) -> list[Turn]:
        """The path from the start to `turn`; empty for None."""
        ids = [t.id for t in self.path]
        return self.path[: ids.index(turn) + 1] if turn in ids else []

    def siblings(self, turn: Turn) -> Sequence[str]:
        """All turns that answer after the same turn, `turn` among them."""
        return self.others.get(turn.parent, [turn.id])

    def position(self, turn: Turn) -> tuple[int, int]:
        """`turn` is the n-th of m siblings, counted from 1."""
        siblings = self.siblings(turn)
        return (siblings.index(turn.id) + 1 if turn.id in siblings else 1), max(1, len(siblings))

    def neighbour(self, turn: Turn, step: int) -> str | None:
        """The sibling `step` places away; None at the end."""
        siblings = self.siblings(turn)
        at = siblings.index(turn.id) + step if turn.id in siblings else -1
        return siblings[at] if 0 <= at < len(siblings) else None
