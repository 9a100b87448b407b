"""The terminal application. Start at `app.py`; every text passes `sanitize.py` on its way to the screen."""

import os

from assistant.tui.terminal import guard_input_method

guard_input_method(os.environ)  # Textual reads this variable once, when it is imported
