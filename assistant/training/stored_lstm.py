"""The recurrent baseline in a folder: config.json, model.safetensors, tokenizer.json, under our own names (no library has this model)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tokenizers import Tokenizer

from assistant.errors import ModelError
from assistant.lm import safetensors
from assistant.lm.bpe import wrap
from assistant.lm.lstm import LSTM, LSTMConfig
from assistant.lm.tokenizer import ByteTokenizer
from assistant.loading import LSTM as LSTM_KIND


def save_lstm(model: LSTM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model. Raises ModelError when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.write(folder / "model.safetensors", {name: p.detach() for name, p in model.named_parameters()})
        (folder / "tokenizer.json").write_text(tokenizer.to_str(), "utf-8")
        (folder / "config.json").write_text(json.dumps({"model_type": LSTM_KIND, **asdict(model.config)}, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise ModelError(f"cannot write the model into {folder} ({error.strerror}): make room and give the same command again") from error


def load_lstm(folder: Path) -> tuple[LSTM, ByteTokenizer]:
    """Read what `save_lstm` wrote. Raises ModelError for a damaged folder."""
    try:
        described = json.loads((folder / "config.json").read_text("utf-8"))
        described.pop("model_type")
        model = LSTM(LSTMConfig(**described))
        file = safetensors.SafetensorsFile(folder / "model.safetensors")
        model.load_state_dict({name: file.tensor(name) for name, _ in model.named_parameters()}, strict=False)
        tokenizer = wrap(Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8")))
    except ModelError:
        raise
    except Exception as error:  # the tokenizer library raises bare exceptions; a wrong shape is a RuntimeError
        raise ModelError(f"{folder} holds no whole LSTM ({error}): train it again") from error
    return model.eval(), tokenizer
