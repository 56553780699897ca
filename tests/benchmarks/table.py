"""Measured ratios as a Markdown table."""

import dataclasses


@dataclasses.dataclass
class Table:
    """Ratios, by case and column; some have a goal, which they should not exceed."""

    title: str
    case: str
    columns: list[str]
    rows: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    goals: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)

    def add(self, case: str, ratios: dict[str, float]) -> None:
        self.rows[case] = self.rows.get(case, {}) | ratios
        cells = ", ".join(f"{column} {_short(value)}" for column, value in ratios.items())
        print(f"{self.title}: {case}: {cells}", flush=True)

    def markdown(self) -> str:
        head = [f"| {self.case} | {' | '.join(self.columns)} |", f"|---|{'---|' * len(self.columns)}"]
        lines = [
            f"| {case} | {' | '.join(_short(ratios[c]) if c in ratios else '' for c in self.columns)} |"
            for case, ratios in self.rows.items()
        ]
        return "\n".join([f"**{self.title}**", "", *head, *lines])

    def missed(self) -> list[str]:
        return [
            f"{self.title}: {case}, {column}: {_short(self.rows[case][column])}, goal {_short(goal)}"
            for (case, column), goal in self.goals.items()
            if case in self.rows and self.rows[case].get(column, 0) > goal
        ]


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"
