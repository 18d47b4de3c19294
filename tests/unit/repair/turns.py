"""Several actors in threads of their own, of which exactly one runs at a time: the next is drawn at each pause.

So what happens at once happens in one order, and the same order for the same random source.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence


class _Actor:
    def __init__(self) -> None:
        self.turn = threading.Semaphore(0)
        self.ended = False


class Turns:
    """Runs actors to their end. They call `pause` wherever another may come in between.

    How readily one goes on at its own pauses is drawn once: both fine weaving and long absences occur.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._staying = rng.choice((0.0, 0.5, 0.9))
        self._back = threading.Semaphore(0)
        self._actors: dict[int, _Actor] = {}
        self._errors: list[BaseException] = []

    def pause(self) -> None:
        """Let somebody else, or nobody, go on first. Does nothing outside of an actor."""
        actor = self._actors.get(threading.get_ident())
        if actor is not None:
            self._back.release()
            actor.turn.acquire()

    def run(self, plays: Sequence[Callable[[], None]]) -> None:
        """Until all have ended; raises what the first that failed has raised."""
        actors = [_Actor() for _ in plays]
        threads = [
            threading.Thread(target=self._play, args=each, daemon=True) for each in zip(plays, actors, strict=True)
        ]
        for thread in threads:
            thread.start()
        now = actors[0]
        while playing := [actor for actor in actors if not actor.ended]:
            if now not in playing or self._rng.random() >= self._staying:
                now = self._rng.choice(playing)
            now.turn.release()
            self._back.acquire()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _play(self, play: Callable[[], None], actor: _Actor) -> None:
        actor.turn.acquire()
        self._actors[threading.get_ident()] = actor
        try:
            play()
        except BaseException as error:
            self._errors.append(error)
        finally:
            del self._actors[threading.get_ident()]
            actor.ended = True
            self._back.release()
