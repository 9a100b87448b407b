"""All settings with what they mean; changed here they hold at once, saved they hold the next time too."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import ClassVar

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from assistant import paths
from assistant.errors import UsageError
from assistant.settings import Settings, convert, field_help
from assistant.tui import config_file
from assistant.tui.chat_state import NOT_HERE
from assistant.tui.sanitize import one_line
from assistant.tui.screens.dialogs import InputDialog
from assistant.tui.screens.once import LeftOnce
from assistant.tui.text import say
from assistant.tui.told import told


class SettingsScreen(LeftOnce, ModalScreen[Settings]):
    """Answers the settings as they were left."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,f2", "leave", ""), ("s", "save", "")]

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._before = self._settings = settings
        self._names = [f.name for f in fields(Settings) if f.name not in NOT_HERE]
        self._help = field_help()

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog page") as box:
            box.border_title = Content(say("settings.title"))
            yield OptionList(*self._options(), markup=False, compact=True)
            yield Static("", id="about", classes="dialog-note", markup=False)
            yield Static(Content.styled(say("settings.line"), "$foreground 62%"), markup=False)

    def _options(self) -> list[Option]:
        width = max(map(len, self._names)) + 2
        return [Option(self._row(name, width)) for name in self._names]

    def _row(self, name: str, width: int) -> Content:
        value = getattr(self._settings, name)
        changed = value != getattr(self._before, name)
        mark = Content.styled(f"  {say('settings.changed')}", "$text-warning") if changed else Content("")
        shown = one_line(str(value), 60) or "—"
        return Content.assemble(name + " " * (width - cell_len(name)), Content.styled(shown, "$text-accent"), mark)

    def _about_setting(self, name: str) -> str:
        """What a setting means: the sentence of the catalogue, in English that of the settings' own documentation."""
        return say.get(f"setting.{name}", self._help.get(name, ""))

    @on(OptionList.OptionHighlighted)
    def _about(self, event: OptionList.OptionHighlighted) -> None:
        self.query_one("#about", Static).update(Content(self._about_setting(self._names[event.option_index])))

    @on(OptionList.OptionSelected)
    def _change(self, event: OptionList.OptionSelected) -> None:
        name = self._names[event.option_index]

        def take(value: str | None) -> None:
            if value is None:
                return
            try:
                self._settings = replace(self._settings, **{name: convert(name, value, name)})
            except UsageError as error:
                self.notify(one_line(told(error)), severity="warning", markup=False)
                return
            options = self.query_one(OptionList)
            at = options.highlighted
            options.clear_options()
            options.add_options(self._options())
            options.highlighted = at

        about = self._about_setting(name)
        self.app.push_screen(InputDialog(name, str(getattr(self._settings, name)), about), take)

    def action_save(self) -> None:
        """Write what was changed to the configuration file."""
        values = {name: getattr(self._settings, name) for name in self._names}
        changed = {name: value for name, value in values.items() if value != getattr(self._before, name)}
        path = paths.config_file()
        try:
            if changed:
                config_file.save(path, changed)
        except UsageError as error:
            self.notify(one_line(told(error)), severity="warning", markup=False)
            return
        self.notify(say("settings.saved", path=one_line(str(path))), markup=False)

    def action_leave(self) -> None:
        """Go on with the settings as they are."""
        self.dismiss(self._settings)
