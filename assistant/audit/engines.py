"""The models and guards that logged turns need, for whoever replays them. Loads torch only when a model is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assistant.errors import ModelError, PellucidError
from assistant.turn import SERVED

if TYPE_CHECKING:
    from assistant.audit.replay import Judge, Replayable
    from assistant.turn import ModelInfo


class Engines:
    """The models and guards that the turns need, each loaded once; why one cannot be loaded is kept."""

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._engines: dict[tuple[str, str], Replayable | None] = {}
        self._guards: dict[str, Judge | None] = {}
        self.troubles: list[str] = []

    def engine(self, info: ModelInfo) -> Replayable | None:
        """The engine for turns of this model in its number format."""
        key = (info.sha256 or f"{info.name} {info.device}", info.dtype)
        if key not in self._engines:
            for other in [k for k, engine in self._engines.items() if engine is not None]:
                del self._engines[other]  # one model in memory at a time
            self._engines[key] = self._attempt(lambda: self._load_engine(info))
        return self._engines[key]

    def guard(self, policy: str) -> Judge | None:
        """The guard of a policy by its logged name; the stamp after the @ is compared later."""
        name = policy.partition("@")[0]
        if name not in self._guards:
            self._guards[name] = self._attempt(lambda: self._load_guard(name))
        return self._guards[name]

    def _load_engine(self, info: ModelInfo) -> Replayable:
        from assistant import settings

        if info.dtype == SERVED:
            return self._server(info)
        from assistant.audit.rescore import EngineReplay
        from assistant.lm import catalog, hub
        from assistant.loading import load_engine

        name = self._model or info.name
        if not self._model:
            name = next((full for full, place in hub.fetched() if place.name == name), name)
        if not hub.is_name(name) and not catalog.looks_like_path(name):
            try:
                entry = catalog.find(name)
            except ModelError:
                name = settings.load().model  # the file's own name was logged; its hash is compared later
            else:
                if not entry.path.exists():
                    raise ModelError(f"the model {name} is not here: run `pellucid models pull {name}` to replay its turns")
        wanted = settings.load({"model": name, "dtype": info.dtype, "device": info.device})
        return EngineReplay(load_engine(wanted, lambda what, fraction: None))

    def _server(self, info: ModelInfo) -> Replayable:
        """The server that is in the settings; never one that only the log names, for it would be sent the conversation and the key."""
        from assistant import settings

        asked = settings.load()
        if asked.base_url.rstrip("/") != info.device:
            raise ModelError(f"turns of {info.name} were written by the server {info.device}: set base_url to it to have them scored again")
        from assistant.served.explaining import ServerReplay, connected

        return ServerReplay(connected(asked, info), asked.chat_format)

    def _load_guard(self, name: str) -> Judge:
        from assistant import settings
        from assistant.loading import load_guard

        return load_guard(settings.load({"policy": name or None}), lambda what, fraction: None)

    def _attempt(self, load: Any) -> Any:
        try:
            return load()
        except ModelError as error:
            self.troubles.append(str(error))
        except PellucidError as error:
            self.troubles.append(f"verdicts were not replayed: {error}")
        return None
