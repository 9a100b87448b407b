"""The colours.

Two calm themes of our own and two of high contrast; Textual's, with the ANSI ones, are there as well.
"""

from __future__ import annotations

from textual.theme import Theme

THEMES = (
    Theme(
        name="pellucid-dark",
        dark=True,
        primary="#7fb4ca",
        secondary="#938aa9",
        accent="#8ac6b8",
        foreground="#d5d9e0",
        background="#12161c",
        surface="#181d25",
        panel="#202733",
        success="#8fbf7f",
        warning="#dcb36b",
        error="#e0787d",
        variables={"border": "#2f3947", "border-blurred": "#2a323e", "footer-background": "#12161c"},
    ),
    Theme(
        name="pellucid-light",
        dark=False,
        primary="#2f6f8f",
        secondary="#6b5f94",
        accent="#23776a",
        foreground="#252a31",
        background="#fbfaf7",
        surface="#f3f1ec",
        panel="#e9e6df",
        success="#3c7a35",
        warning="#8f6206",
        error="#b4343b",
        variables={"border": "#cfcabf", "border-blurred": "#d9d5cc"},
    ),
    Theme(
        name="pellucid-contrast-dark",
        dark=True,
        primary="#ffff00",
        secondary="#00ffff",
        accent="#00ffff",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#1a1a1a",
        success="#00ff5f",
        warning="#ffd700",
        error="#ff6f6f",
        variables={"border": "#ffffff", "border-blurred": "#bbbbbb"},
    ),
    Theme(
        name="pellucid-contrast-light",
        dark=False,
        primary="#00007f",
        secondary="#5f0087",
        accent="#005f5f",
        foreground="#000000",
        background="#ffffff",
        surface="#ffffff",
        panel="#eeeeee",
        success="#004f00",
        warning="#5f3f00",
        error="#9f0000",
        variables={"border": "#000000", "border-blurred": "#444444"},
    ),
)

DEFAULT = "pellucid-dark"
