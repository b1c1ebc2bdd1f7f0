"""A worker's actor as the coordinator sees it: what it was asked, and whether it computes."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from depthsearch.workers.places import HARDLY_SECONDS, Place
from depthsearch.workers.ray.remote import Ready, Trainer
from depthsearch.workers.ray.slots import Slots

# An actor has a thread for its calls, and one that answers how much the first has computed.
SIGNS = "signs"
# How often to ask an actor for a sign in the time after which it counts as hung.
LOOKS = 10


@dataclass(slots=True, kw_only=True)
class ActorPlace(Place):
    """A place for an actor.

    Attributes:
        ray: The package.
        number: From 1.
        hung_seconds: An actor that computes nothing for so long is taken for dead.
        actor: None: it is to be started.
        ready: What the actor has reported once it could work; None: it cannot yet.
        doing: What its last call is for; empty: it waits.
        answers: What that call will return; the last of them comes last.
        sign: The answer to come of how much it has computed; None: it is not asked now.
        next_look: When to ask.
        computed: Processor seconds that it had used when it was last seen to use some, and when that was;
            None: as far as is known it has nothing to compute.
        shares: Whether its node has the coordinator's folder for checkpoints, as far as is known.
    """

    ray: Any
    number: int
    hung_seconds: float
    actor: Any = None
    ready: Ready | None = None
    doing: Literal["", "setup", "begin", "step"] = ""
    answers: list[Any] = field(default_factory=list)
    sign: Any = None
    next_look: float = 0.0
    computed: tuple[float, float] | None = None
    shares: bool = False

    @property
    def name(self) -> str:
        """The worker's name, with its place."""
        return f"worker {self.number}" + (f" on {self.ready.place}" if self.ready else "")

    def set_up(self, tasks: Any, terms: Any) -> None:
        """Ask the actor to get ready."""
        self._note_call("setup", self.actor.setup.remote(tasks, terms))

    def begin(self, *arguments: Any) -> None:
        """Ask the actor to begin its job; see `Trainer.begin`."""
        self._note_call("begin", self.actor.begin.remote(self.job, *arguments))

    def step(self) -> None:
        """Ask the actor for an epoch."""
        self._note_call("step", *self.actor.step.options(num_returns=2).remote())

    def stop(self) -> None:
        """Ask the actor to stop its job."""
        self.actor.stop.remote()

    def note_answered(self) -> None:
        """Note that the last call has been answered."""
        self._note_call("")

    def end(self) -> None:
        """End the actor, if there is one."""
        if self.actor is not None:
            with contextlib.suppress(self.ray.exceptions.RayError, RuntimeError):
                self.ray.kill(self.actor)
        self.actor = self.ready = None
        self.shares = False
        self.note_answered()

    def look(self, now: float, *, was_away: bool) -> bool:
        """Ask for a sign if it is time; return whether the actor hangs.

        It does not if nobody has looked for so long that it may have been idle meanwhile.
        """
        if self.doing and self.sign is None and now >= self.next_look:
            self.sign = self.actor.computed.options(concurrency_group=SIGNS).remote()
            self.next_look = now + self.hung_seconds / LOOKS
        if self.computed is None:
            return False
        used, since = self.computed
        if was_away:
            self.computed = used, now
            return False
        if now - since <= self.hung_seconds:
            return False
        # An answer may wait to be fetched, or be on its way here.
        answered, _ = self.ray.wait(self.answers[:1], timeout=0, fetch_local=False)
        return not answered

    def take_sign(self, now: float) -> None:
        """Read the sign that has come: how much the actor has computed."""
        sign, self.sign = self.sign, None
        # Its death is noticed by the answer that it owes.
        with contextlib.suppress(self.ray.exceptions.RayError):
            used = self.ray.get(sign)
            if used is None:
                # What it needs is on its way there, or what it has done on its way here.
                self.computed = None
            elif self.computed is None or used - self.computed[0] > HARDLY_SECONDS:
                self.computed = used, now

    def _note_call(self, doing: Literal["", "setup", "begin", "step"], *answers: Any) -> None:
        now = time.monotonic()
        self.doing, self.answers = doing, list(answers)
        self.sign, self.next_look = None, now + self.hung_seconds / LOOKS
        # Other calls wait for room, or for what they need.
        self.computed = (0.0, now) if doing == "step" else None


def actor_class(ray: Any, slots: Slots) -> Any:
    """Make a class of actors, spread over the nodes: a node's memory and disk are for its own workers."""
    return ray.remote(
        num_cpus=slots.num_cpus,
        num_gpus=slots.num_gpus,
        scheduling_strategy="SPREAD",
        concurrency_groups={SIGNS: 1},
    )(Trainer)
