"""The screens: chat, inspector, audit, settings, help, and the dialogs over them."""
