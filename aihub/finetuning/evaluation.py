"""How an adapter was measured against its base and the version in use, and whether it may take that one's place."""

from dataclasses import dataclass

LOSS_TOLERANCE = 1e-3
"""Nats a token; less is rounding of the precision that the model computes in."""


@dataclass(frozen=True, slots=True)
class Score:
    """How one model did.

    Attributes:
        loss: Mean over the trained tokens of the rows, in nats; None when it was not measured.
        exact: Share of the asked rows that were answered word for word; None when none could be asked.
    """

    loss: float | None
    exact: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All models on the same rows.

    Attributes:
        rows: Rows the loss is taken over.
        asked_rows: Rows whose last answer was asked of the serving engine.
        is_held_out: The adapter was not trained on them.
        current_id: Versioned id of the adapter that was promoted at that time; None when there was none.
    """

    rows: int
    asked_rows: int
    is_held_out: bool
    base: Score
    candidate: Score
    current_id: str | None = None
    current: Score | None = None

    def find_objection(self, base_model: str) -> str | None:
        """Say why the candidate should not be promoted; None when it is no worse than what it was compared with.

        Args:
            base_model: What messages call the base.
        """
        others = [(base_model, self.base)]
        if self.current is not None and self.current_id is not None:
            others.append((self.current_id, self.current))
        for name, score in others:
            if (difference := _worse_by(self.candidate, score)) is not None:
                return f"It is worse than {name} on {self.rows} rows: {difference}."
        return None


def _worse_by(candidate: Score, other: Score) -> str | None:
    """Word for word answers decide where somebody gave one; the loss decides otherwise, and between equals."""
    if candidate.exact is not None and other.exact is not None and max(candidate.exact, other.exact) > 0:
        if candidate.exact < other.exact:
            return f"{candidate.exact:.1%} of the answers are right word for word, against {other.exact:.1%}"
        if candidate.exact > other.exact:
            return None
    if candidate.loss is None or other.loss is None or candidate.loss <= other.loss + LOSS_TOLERANCE:
        return None
    return f"its loss is {candidate.loss:.3f}, against {other.loss:.3f}"
