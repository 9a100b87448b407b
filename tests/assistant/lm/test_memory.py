"""A model larger than memory is refused before it is loaded, in a sentence that helps."""

import pytest

from assistant.errors import ModelError
from assistant.lm import memory
from assistant.lm.engine import Engine


@pytest.fixture
def free(tmp_path, monkeypatch):
    def set_to(text):
        (tmp_path / "meminfo").write_text(text)
        monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")

    return set_to


def test_what_the_system_says(free, tmp_path, monkeypatch):
    free("MemTotal: 9 kB\nMemAvailable:   1000 kB\n")
    assert memory.available() == 1_024_000
    for text in ("", "MemAvailable:\n", "MemAvailable: many kB\n"):
        free(text)
        assert memory.available() is None
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.available() is None
    memory.check("m", 10**15, "float32")  # where nothing is known, loading is tried


def test_a_smaller_dtype_is_named_only_where_it_helps(free):
    free("MemAvailable: 3000000 kB\n")
    memory.check("m", 500_000_000, "float32")
    with pytest.raises(ModelError, match=r"needs 4\.0 GB of memory as float32, 3\.1 GB are free.*--dtype bfloat16"):
        memory.check("m", 1_000_000_000, "float32")
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(ModelError, match="--dtype int8"):
            memory.check("m", 2_000_000_000, dtype)
        with pytest.raises(ModelError, match="free: try a smaller model"):
            memory.check("m", 3_000_000_000, dtype)
    with pytest.raises(ModelError, match="free: try a smaller model"):
        memory.check("m", 3_000_000_000, "int8")


def test_the_engine_asks_first(free, tiny_model):
    free("MemAvailable: 1 kB\n")
    with pytest.raises(ModelError, match="GB are free"):
        Engine.load(tiny_model, dtype="float32")
