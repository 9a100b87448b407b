"""The terminal application. Start at `app.py`; every text passes `sanitize.py` on its way to the screen."""

import os

from assistant.tui.terminal import guard_input_method

os.environ.setdefault("TEXTUAL_FPS", "120")  # how soon a key shows; what grows is drawn seven times a second all the same
guard_input_method(os.environ)  # Textual reads this variable once, when it is imported
