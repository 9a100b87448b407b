"""The audit browser's table: one column takes all the room that the others leave."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import DataTable

_NARROWEST = 16


class TurnTable(DataTable[Text]):
    """A table of rows whose column `text` is as wide as there is room for."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=1)

    def set_columns(self, names: dict[str, str]) -> None:
        """Begin anew with columns of these keys and titles."""
        self.clear(columns=True)
        for key, title in names.items():
            self.add_column(Text(title), key=key, width=_NARROWEST if key == "text" else None)

    def fit(self) -> None:
        """Divide the room, once the other columns know how wide they are."""
        columns = {key.value: column for key, column in self.columns.items()}
        if "text" not in columns:
            return
        taken = sum(column.get_render_width(self) for name, column in columns.items() if name != "text")
        room = max(_NARROWEST, self.scrollable_content_region.width - taken - 2 * self.cell_padding)
        if columns["text"].width != room:
            columns["text"].width = room
            self._clear_caches()
            self._require_update_dimensions = True
            self.refresh(layout=True)

    def on_resize(self) -> None:
        self.call_after_refresh(self.fit)
